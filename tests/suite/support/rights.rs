//! Whether a policy allows a request, as the three providers decide it, as far as the policies of `terraform/` go. A word of a
//! policy that is not known here is a panic: what is not understood must not count as harmless.

use std::path::Path;
use std::str::FromStr;

use hcl::eval::{Context, Evaluate, FuncArgs, FuncDef, ParamType};
use serde_json::Value;

/// The templates' folder of a module.
pub fn policies(module: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform/modules").join(module).join("policies")
}

/// A template of a policy as Terraform renders it, read as JSON.
pub fn rendered(path: &Path, variables: &Value) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = render(&text, variables).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", path.display()))
}

/// A template's text with these variables.
pub fn render(text: &str, variables: &Value) -> Result<String, String> {
    fn jsonencode(arguments: FuncArgs) -> Result<hcl::Value, String> {
        let [value] = arguments.into_values().try_into().map_err(|_| "jsonencode takes one value")?;
        Ok(serde_json::to_string(&value).map_err(|e| e.to_string())?.into())
    }
    fn join(arguments: FuncArgs) -> Result<hcl::Value, String> {
        let [between, all] = arguments.into_values().try_into().map_err(|_| "join takes a text and a list")?;
        let all: Vec<String> = hcl::from_value(all).map_err(|e| e.to_string())?;
        Ok(all.join(between.as_str().unwrap_or_default()).into())
    }
    let template = hcl::Template::from_str(text).map_err(|e| e.to_string())?;
    let mut context = Context::new();
    context.declare_func("jsonencode", FuncDef::new(jsonencode, [ParamType::Any]));
    context.declare_func("join", FuncDef::new(join, [ParamType::String, ParamType::array_of(ParamType::String)]));
    for (name, value) in variables.as_object().expect("variables by name") {
        context.declare_var(name.as_str(), hcl::to_value(value).map_err(|e| e.to_string())?);
    }
    template.evaluate(&context).map_err(|e| e.to_string())
}

/// One text or several.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(all) => all.iter().map(|one| one.as_str().expect("a text")).collect(),
        other => panic!("neither a text nor a list of them: {other}"),
    }
}

/// Whether `text` is what a pattern with `*` and `?` describes.
fn like(pattern: &str, text: &str) -> bool {
    let mut ends = vec![true];
    ends.resize(text.len() + 1, false);
    for sign in pattern.bytes() {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match sign {
                b'*' => ends[at] || at > 0 && next[at - 1],
                b'?' => at > 0 && ends[at - 1],
                _ => at > 0 && ends[at - 1] && text.as_bytes()[at - 1] == sign,
            };
        }
        ends = next;
    }
    ends[text.len()]
}

/// What one role may do in a bucket of S3: its own policy and the bucket's together.
#[derive(Clone, Debug)]
pub struct AwsRights {
    /// The role's ARN.
    pub principal: String,
    /// Its policy.
    pub identity: Value,
    /// The bucket's policy.
    pub bucket: Value,
}

impl AwsRights {
    /// Whether a request is carried out: something allows it, and nothing denies it. `facts` are what condition keys stand for.
    pub fn allow(&self, action: &str, resource: &str, facts: &[(&str, &str)]) -> bool {
        let statements = |policy: &'_ Value| policy["Statement"].as_array().expect("statements").clone();
        let all: Vec<Value> = statements(&self.identity).into_iter().chain(statements(&self.bucket)).collect();
        let applying: Vec<&Value> = all.iter().filter(|one| self.applies(one, action, resource, facts)).collect();
        let any = |effect: &str| applying.iter().any(|one| one["Effect"] == effect);
        any("Allow") && !any("Deny")
    }

    fn applies(&self, statement: &Value, action: &str, resource: &str, facts: &[(&str, &str)]) -> bool {
        let fits = |patterns: &Value, text: &str| texts(patterns).iter().any(|pattern| like(pattern, text));
        let mut applies = true;
        for (part, value) in statement.as_object().expect("a statement") {
            applies &= match part.as_str() {
                "Sid" | "Effect" => true,
                "Action" => fits(value, action),
                "NotAction" => !fits(value, action),
                "Resource" => fits(value, resource),
                // An ARN, a service or an issuer of tokens: no name is one of two kinds.
                "Principal" => {
                    let named = |who: &Value| texts(who).contains(&self.principal.as_str());
                    value == "*" || value.as_object().expect("principals").values().any(named)
                }
                "Condition" => value.as_object().expect("conditions").iter().all(|(how, keys)| {
                    keys.as_object().expect("keys").iter().all(|(key, values)| condition(how, key, &texts(values), facts))
                }),
                other => panic!("{other} in a statement is not known here"),
            };
        }
        applies
    }
}

fn condition(how: &str, key: &str, values: &[&str], facts: &[(&str, &str)]) -> bool {
    let fact = facts.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let number = |text: &str| text.parse::<f64>().expect("a number");
    match how {
        "Null" => values.contains(&if fact.is_none() { "true" } else { "false" }),
        "StringEquals" | "Bool" => fact.is_some_and(|fact| values.contains(&fact)),
        "StringLike" | "ArnLike" => fact.is_some_and(|fact| values.iter().any(|value| like(value, fact))),
        // What is absent is unlike everything.
        "StringNotLike" => fact.is_none_or(|fact| !values.iter().any(|value| like(value, fact))),
        "NumericLessThan" => fact.is_some_and(|fact| values.iter().any(|value| number(fact) < number(value))),
        other => panic!("the condition {other} is not known here"),
    }
}

/// Whether a role's trust policy lets whoever shows a token of Google's with these claims take the role. AWS knows the claims by
/// names of its own: `aud` is whom the token was given to (`azp`), and `oaud` whom it is made out to (`aud`).
pub fn aws_admits(trust: &Value, claims: &Value) -> bool {
    if claims["iss"] != "https://accounts.google.com" {
        return false;
    }
    let claim = |name: &str| claims[name].as_str();
    let facts = [
        ("accounts.google.com:aud", claim("azp").or(claim("aud"))),
        ("accounts.google.com:oaud", claim("azp").and(claim("aud"))),
        ("accounts.google.com:sub", claim("sub")),
    ];
    let facts: Vec<(&str, &str)> = facts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let nothing = serde_json::json!({ "Statement": [] });
    AwsRights { principal: "accounts.google.com".into(), identity: nothing, bucket: trust.clone() }.allow(
        "sts:AssumeRoleWithWebIdentity",
        "",
        &facts,
    )
}

/// What one account may do in a bucket of Google Cloud Storage.
#[derive(Clone, Debug)]
pub struct GcpRights {
    /// Permissions with their conditions, as the module binds them.
    pub bindings: Value,
}

impl GcpRights {
    /// Whether some binding gives the permission on the resource, `projects/_/buckets/NAME` or `.../objects/NAME` behind it.
    pub fn allow(&self, permission: &str, resource: &str) -> bool {
        let begins = |clause: &str| {
            let start = clause.strip_prefix("resource.name.startsWith(\"").and_then(|rest| rest.strip_suffix("\")"));
            resource.starts_with(start.unwrap_or_else(|| panic!("the condition {clause} is not known here")))
        };
        self.bindings["bindings"].as_array().expect("bindings").iter().any(|binding| {
            let clauses = binding["condition"].as_str().expect("a condition");
            texts(&binding["permissions"]).contains(&permission) && (clauses.is_empty() || clauses.split(" || ").any(begins))
        })
    }
}

/// What one identity may do in a container of Azure.
#[derive(Clone, Debug)]
pub struct AzureRights {
    /// The role's data actions, and the condition of its assignment.
    pub role: Value,
}

/// What all data actions on blobs begin with.
pub const BLOBS: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/";

impl AzureRights {
    /// Whether the role has the data action (`read`, `add/action`), with its part where it has parts (`Blob.List`), on a path.
    pub fn allow(&self, action: &str, part: &str, path: &str) -> bool {
        let action = format!("{BLOBS}{action}");
        let names = |list: &str| texts(&self.role[list]).contains(&action.as_str());
        let text = self.role["condition"].as_str().expect("a condition");
        let mut reading = Reading { rest: text, action: &action, part, path };
        let holds = text.is_empty() || reading.either();
        assert!(reading.rest.is_empty() || text.is_empty(), "what follows in a condition is not known here: {}", reading.rest);
        names("data_actions") && !names("not_data_actions") && holds
    }
}

/// A condition of Azure, read from left to right; each step reads all of its part, whatever came of the one before.
struct Reading<'a> {
    rest: &'a str,
    action: &'a str,
    part: &'a str,
    path: &'a str,
}

impl<'a> Reading<'a> {
    fn sees(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start();
        let seen = rest.strip_prefix(word);
        self.rest = seen.unwrap_or(rest);
        seen.is_some()
    }

    fn until(&mut self, end: &str) -> &'a str {
        let (text, rest) = self.rest.split_once(end).unwrap_or_else(|| panic!("{end} is missing in {}", self.rest));
        self.rest = rest;
        text
    }

    fn either(&mut self) -> bool {
        let mut holds = self.both();
        while self.sees("OR ") {
            holds |= self.both();
        }
        holds
    }

    fn both(&mut self) -> bool {
        let mut holds = self.one();
        while self.sees("AND ") {
            holds &= self.one();
        }
        holds
    }

    fn one(&mut self) -> bool {
        if self.sees("NOT ") || self.sees("!") {
            !self.one()
        } else if self.sees("(") {
            let holds = self.either();
            assert!(self.sees(")"), "a bracket is not closed before {}", self.rest);
            holds
        } else if self.sees("SubOperationMatches{'") {
            self.until("'}") == self.part
        } else if self.sees("ActionMatches{'") {
            self.until("'}") == self.action
        } else if self.sees("@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringStartsWith '")
        {
            let start = self.until("'");
            self.path.starts_with(start)
        } else {
            panic!("{} in a condition is not known here", self.rest)
        }
    }
}
