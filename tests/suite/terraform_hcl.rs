//! The Terraform modules against the schemas of the providers, without Terraform: every argument and block is one that each
//! version of a provider knows, every variable says what it is and is used, every policy renders. What a `.tf` file may be wrong
//! in is shown in `terraform/tests/wrong`, and has to be found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hcl::structure::{Block, Body};
use serde_json::{Value, json};

use crate::support::rights::{policies, render, rendered};

/// The folder of the modules.
pub fn terraform_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform")
}

/// The schemas, by file name without its end.
pub fn schemas() -> BTreeMap<String, Value> {
    let read = |path: PathBuf| {
        let name = path.file_stem()?.to_str()?.to_owned();
        let json = path.extension()? == "json";
        json.then(|| (name, serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("a schema is JSON")))
    };
    let found: BTreeMap<_, _> = entries(&terraform_folder().join("schema")).into_iter().filter_map(read).collect();
    assert!(found.len() >= 5, "the schemas are missing");
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    all
}

/// Folders with `.tf` files, the fixture of mistakes left out.
pub fn folders() -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![terraform_folder()]);
    while let Some(folder) = open.pop() {
        let inside = entries(&folder);
        open.extend(inside.iter().filter(|path| path.is_dir() && !path.ends_with("tests/wrong")).cloned());
        if inside.iter().any(|path| path.extension().is_some_and(|end| end == "tf")) {
            found.push(folder);
        }
    }
    found.sort();
    found
}

fn bodies(folder: &Path) -> Vec<(String, Body)> {
    let files = entries(folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "tf"));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("readable");
        let shown = path.strip_prefix(terraform_folder()).expect("below").display().to_string();
        let body = hcl::parse(&text).unwrap_or_else(|e| panic!("{shown}: {e}"));
        (shown, body)
    };
    files.map(read).collect()
}

/// Arguments and blocks that Terraform itself gives to every resource.
const META: [&str; 9] =
    ["count", "for_each", "provider", "depends_on", "lifecycle", "provisioner", "connection", "timeouts", "alias"];

/// What is wrong with a body at one level of a schema.
fn level(schema: &Value, body: &Body, place: &str, top: bool, complaints: &mut Vec<String>) {
    let none = serde_json::Map::new();
    let table = |name: &str| schema[name].as_object().unwrap_or(&none);
    let meta = |name: &str| top && META.contains(&name);
    let mut given: BTreeMap<&str, usize> = BTreeMap::new();
    for attribute in body.attributes() {
        let name = attribute.key();
        *given.entry(name).or_default() += 1;
        match table("attributes").get(name).map(|told| told[1].as_str().unwrap_or_default()) {
            _ if meta(name) => {}
            None => complaints.push(format!("{place}: there is no argument {name}")),
            Some("c") => complaints.push(format!("{place}: {name} is set by the provider alone")),
            Some(_) => {}
        }
    }
    for block in body.blocks() {
        let made = block.identifier() == "dynamic";
        let name = if made { block.labels()[0].as_str() } else { block.identifier() };
        if meta(name) {
            continue;
        }
        // How many a dynamic block makes is seen when it is planned.
        *given.entry(name).or_default() += if made { 1000 } else { 1 };
        let inner = match made {
            true => block.body().blocks().find(|inner| inner.identifier() == "content").map(Block::body),
            false => Some(block.body()),
        };
        match (table("blocks").get(name), inner) {
            (None, _) => complaints.push(format!("{place}: there is no block {name}")),
            (_, None) => complaints.push(format!("{place}: the dynamic block {name} has no content")),
            (Some(told), Some(inner)) => level(told, inner, &format!("{place}.{name}"), false, complaints),
        }
    }
    for (name, told) in table("attributes") {
        if told[1] == "r" && !given.contains_key(name.as_str()) {
            complaints.push(format!("{place}: the argument {name} is missing"));
        }
    }
    for (name, told) in table("blocks") {
        let count = given.get(name.as_str()).copied().unwrap_or(0);
        let most = usize::try_from(told["max"].as_u64().unwrap_or(0)).expect("a small number");
        if count == 0 && told["min"] != 0 {
            complaints.push(format!("{place}: the block {name} is missing"));
        }
        if most > 0 && count > most && count < 1000 {
            complaints.push(format!("{place}: {count} blocks {name}, and there may be {most}"));
        }
    }
}

trait Named {
    fn name(&self, at: usize) -> &str;
}

impl Named for Block {
    fn name(&self, at: usize) -> &str {
        self.labels().get(at).map_or("", |label| label.as_str())
    }
}

/// What is wrong with a file at one version of a provider (`aws-6.69`).
fn against(version: &str, schema: &Value, file: &str, body: &Body) -> Vec<String> {
    let provider = version.split('-').next().expect("a provider");
    let mut complaints = Vec::new();
    for block in body.blocks() {
        let kind = block.name(0);
        let (table, named) = match block.identifier() {
            "provider" if kind == provider => (&schema["provider"], String::new()),
            "resource" if kind.starts_with(&format!("{provider}_")) => (&schema["resources"][kind], block.name(1).to_owned()),
            "data" if kind.starts_with(&format!("{provider}_")) => (&schema["data"][kind], block.name(1).to_owned()),
            _ => continue,
        };
        let place = format!("{file}: {kind} {named}");
        match table {
            Value::Null => complaints.push(format!("{place}: {version} has no such type (run terraform/schema/update.py)")),
            table => level(table, block.body(), place.trim_end(), true, &mut complaints),
        }
    }
    complaints
}

/// Variables that say nothing of themselves or that nobody uses, and outputs that say nothing, in one folder.
fn lint(folder: &str, bodies: &[(String, Body)]) -> Vec<String> {
    let blocks: Vec<&Block> = bodies.iter().flat_map(|(_, body)| body.blocks()).collect();
    let told = |block: &Block, name: &str| block.body().attributes().any(|attribute| attribute.key() == name);
    let mut complaints = Vec::new();
    for block in &blocks {
        let (kind, name) = (block.identifier(), block.name(0));
        if !matches!(kind, "variable" | "output") {
            continue;
        }
        if !told(block, "description") {
            complaints.push(format!("{folder}: the {kind} {name} has no description"));
        }
        if kind == "variable" && !told(block, "type") {
            complaints.push(format!("{folder}: the variable {name} has no type"));
        }
        let others = blocks.iter().filter(|other| other.identifier() != "variable");
        let word = format!("var.{name}");
        let used = others.map(|other| hcl::to_string(*other).expect("written")).any(|text| {
            text.match_indices(&word).any(|(at, _)| {
                let next = text[at + word.len()..].chars().next();
                !next.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-')
            })
        });
        if kind == "variable" && !used {
            complaints.push(format!("{folder}: nobody uses the variable {name}"));
        }
    }
    complaints
}

#[test]
fn every_argument_is_known_to_every_version() {
    let schemas = schemas();
    let (mut files, mut complaints) = (0, Vec::new());
    for folder in folders() {
        for (file, body) in bodies(&folder) {
            files += 1;
            for (version, schema) in &schemas {
                complaints.extend(against(version, schema, &file, &body).into_iter().map(|said| format!("{version}: {said}")));
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(files >= 25, "only {files} files were found");
}

#[test]
fn every_type_of_the_schemas_is_used() {
    let texts: String = folders()
        .iter()
        .flat_map(|folder| entries(folder))
        .filter(|path| path.is_file())
        .fold(String::new(), |all, path| all + &std::fs::read_to_string(path).unwrap_or_default());
    for (version, schema) in schemas() {
        assert!(schema["origin"].as_str().is_some_and(|origin| origin.contains("MPL-2.0")), "{version} names its origin");
        for kind in ["resources", "data"] {
            for name in schema[kind].as_object().expect("types").keys() {
                assert!(texts.contains(&format!("\"{name}\"")), "{version}: nobody uses {name}: run terraform/schema/update.py");
            }
        }
    }
}

#[test]
fn variables_and_outputs_say_what_they_are() {
    let complaints: Vec<String> =
        folders().iter().flat_map(|folder| lint(&folder.display().to_string(), &bodies(folder))).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn every_mistake_is_found() {
    let schemas = schemas();
    let wrong = bodies(&terraform_folder().join("tests/wrong"));
    let mut complaints: Vec<String> = Vec::new();
    for (version, schema) in
        schemas.iter().filter(|(name, _)| ["aws-6.69", "google-8.7", "azurerm-5.10"].contains(&name.as_str()))
    {
        complaints.extend(wrong.iter().flat_map(|(file, body)| against(version, schema, file, body)));
    }
    complaints.extend(lint("wrong", &wrong));
    let expected = [
        "aws_s3_bucket misspelt: there is no argument buckett",
        "aws_s3_bucket_versioning no_block: the block versioning_configuration is missing",
        "aws_iam_role nothing_required: arn is set by the provider alone",
        "aws_iam_role nothing_required: the argument assume_role_policy is missing",
        "azurerm_storage_account too_many: 2 blocks blob_properties, and there may be 1",
        "google_storage_bucket unknown_block.lifecycle_rule.action: there is no argument typo",
        "google_storage_bucket unknown_block.lifecycle_rule.action: the argument type is missing",
        "google_storage_bucket unknown_block: there is no block version",
        "wrong: the variable nobody has no description",
        "wrong: nobody uses the variable nobody",
    ];
    for said in expected {
        assert!(complaints.iter().any(|complaint| complaint.ends_with(said)), "{said:?} is missing in {complaints:#?}");
    }
    assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
    let body = hcl::parse("resource \"aws_no_such_thing\" \"x\" {}").expect("HCL");
    assert_eq!(against("aws-6.69", &schemas["aws-6.69"], "f", &body).len(), 1);
}

/// Variables that a template is rendered with, several times.
fn samples(module: &str, template: &str) -> Vec<Value> {
    let arn = "arn:aws:s3:::bucket";
    let role = "arn:aws:iam::111122223333:role/holdfast-writer";
    let one = json!({ "provider": "p", "host": "h", "google": false, "subjects": ["a", "b"], "audience": "x" });
    let google = json!({ "provider": "accounts.google.com", "host": "accounts.google.com", "google": true, "subjects": ["1"], "audience": "x" });
    match (module, template) {
        ("aws", "writer" | "pruner" | "reader") => vec![
            json!({ "bucket_arn": arn, "prefix": "", "kms_arn": "" }),
            json!({ "bucket_arn": arn, "prefix": "a/b/", "kms_arn": "arn:aws:kms:eu-west-3:111122223333:key/1" }),
        ],
        ("aws", "bucket") => vec![json!({ "bucket_arn": arn, "prefix": "a/", "role_arns": [role] })],
        ("aws", "key") => vec![json!({ "account_id": "111122223333" })],
        ("aws", "trust") => vec![
            json!({ "account_id": "111122223333", "trusted": [], "principals": [], "pods": [] }),
            json!({ "account_id": "111122223333", "trusted": [one, google], "principals": ["arn:aws:iam::1:role/r"],
                "pods": [{ "cluster": "c", "namespace": "n", "service_account": "s" }] }),
        ],
        ("aws", "tokens") => vec![json!({ "audiences": ["a", "b"] })],
        ("aws", "service_trust") => vec![json!({ "service": "ecs-tasks.amazonaws.com", "account_id": "111122223333" })],
        ("aws", "execution") => vec![json!({ "password_secret": "arn:s", "log_group_arn": "arn:l" })],
        ("aws", "scheduler") => {
            vec![json!({ "task_arns": ["arn:t"], "cluster_arn": "arn:c", "role_arns": [role], "queue_arn": "arn:q" })]
        }
        ("gcp", _) => vec![json!({ "bucket": "bucket", "prefix": "" }), json!({ "bucket": "bucket", "prefix": "a/b/" })],
        ("azure", _) => vec![json!({ "prefix": "" }), json!({ "prefix": "a/b/" })],
        other => panic!("what is {other:?} rendered with?"),
    }
}

#[test]
fn every_policy_renders() {
    let mut count = 0;
    for module in ["aws", "gcp", "azure"] {
        for path in entries(&policies(module)) {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").strip_suffix(".json.tftpl");
            for variables in samples(module, name.unwrap_or_else(|| panic!("{} is no template", path.display()))) {
                let policy = rendered(&path, &variables);
                if module == "aws" {
                    assert_eq!(policy["Version"], "2012-10-17", "{}", path.display());
                    assert!(policy["Statement"].as_array().is_some_and(|all| !all.is_empty()), "{}", path.display());
                }
                count += 1;
            }
        }
    }
    assert!(count >= 20, "only {count} were rendered");
    // Whatever is left out of the variables is missed.
    assert!(render("${nobody}", &json!({})).is_err());
    assert!(render("%{ if a }", &json!({ "a": true })).is_err());
}

/// The names of the fields of a variable that is an object.
fn fields(folder: &Path, variable: &str) -> std::collections::BTreeSet<String> {
    let all = bodies(folder);
    let found = all
        .iter()
        .flat_map(|(_, body)| body.blocks())
        .find(|block| block.identifier() == "variable" && block.name(0) == variable);
    let typed = found.and_then(|block| block.body().attributes().find(|one| one.key() == "type")).map(|one| one.expr());
    let Some(hcl::Expression::FuncCall(call)) = typed else { panic!("{variable} in {} is no object", folder.display()) };
    let Some(hcl::Expression::Object(object)) = call.args.first() else {
        panic!("{variable} in {} is no object", folder.display())
    };
    object.keys().map(|key| key.to_string().trim_matches('"').to_owned()).collect()
}

/// Terraform drops fields that a type does not have without a word: the root must know all that the modules know.
#[test]
fn the_root_passes_every_field_of_a_job() {
    for module in ["aws", "gcp", "azure"] {
        let (root, own) = (
            fields(&terraform_folder(), &format!("schedule_{module}")),
            fields(&terraform_folder().join("modules").join(module), "job"),
        );
        assert!(own.len() > 8, "{own:?}");
        assert_eq!(root, own, "{module}");
    }
    let (root, own) = (fields(&terraform_folder(), "watch"), fields(&terraform_folder().join("modules/config"), "watch"));
    assert_eq!(root, own);
}
