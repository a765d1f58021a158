//! `holdfast-chart TEMPLATE RELEASE NAMESPACE < VALUES`: renders one template of a chart with values as JSON, all of them (defaults
//! and overrides are put together by the caller). The language of templates and the functions are those of a published crate.

use std::collections::HashMap;
use std::error::Error;
use std::io::Read;

use gtmpl_ng::helm_functions::HELM_FUNCTIONS;
use gtmpl_ng::{Context, Template, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, release, namespace] = words.as_slice() else {
        return Err("usage: holdfast-chart TEMPLATE RELEASE NAMESPACE".into());
    };
    let mut values = String::new();
    std::io::stdin().read_to_string(&mut values)?;
    let text = |text: &str| Value::String(text.to_owned());
    let release = object([("Name", text(release)), ("Namespace", text(namespace)), ("Service", text("Helm"))]);
    let context = object([("Values", value(serde_json::from_str(&values)?)), ("Release", release)]);
    let mut template = Template::default();
    template.add_funcs(&HELM_FUNCTIONS);
    template.parse(std::fs::read_to_string(path)?)?;
    print!("{}", template.render(&Context::from(context))?);
    Ok(())
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Value::from(n),
            (None, n) => Value::from(n.unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::String(text),
        serde_json::Value::Array(items) => Value::Array(items.into_iter().map(value).collect()),
        serde_json::Value::Object(fields) => {
            Value::Map(fields.into_iter().map(|(name, below)| (name, value(below))).collect::<HashMap<_, _>>())
        }
    }
}
