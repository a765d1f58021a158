//! The Terraform modules under the stock `terraform`, without a network: a provider that knows its schemas alone is served from
//! this process, so that `validate` and `test` find what is wrong, for the oldest and the newest versions. Ignored, and said to
//! be, where `terraform` is not on PATH.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::schema_server::SchemaServer;
use crate::terraform_hcl::{folders, schemas, terraform_folder};

/// Files of schemas that are tried together.
const OLDEST: [&str; 3] = ["aws-6.69", "google-7.38", "azurerm-4.73"];
const NEWEST: [&str; 3] = ["aws-6.69", "google-8.7", "azurerm-5.10"];

fn has_terraform() -> bool {
    let there = Command::new("terraform").arg("-version").env("CHECKPOINT_DISABLE", "1").output().is_ok();
    if !there {
        eprintln!("ignored: terraform is not on PATH");
    }
    there
}

/// A served set of schemas, and a folder for what Terraform leaves behind.
struct Desk {
    folder: tempfile::TempDir,
    server: SchemaServer,
}

impl Desk {
    fn new(versions: [&str; 3]) -> Desk {
        let (folder, all) = (tempfile::tempdir().expect("a folder"), schemas());
        let served = versions.iter().map(|version| (version.split('-').next().expect("a provider"), &all[*version]));
        let server = SchemaServer::start(folder.path(), served);
        Desk { folder, server }
    }

    /// Runs Terraform in a folder; gives whether it went well, and all that it said.
    fn run(&self, folder: &Path, words: &[&str]) -> (bool, String) {
        let mut command = Command::new("terraform");
        command.args(words).arg("-no-color").current_dir(folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.path());
        command.env("TF_REATTACH_PROVIDERS", self.server.reattach()).env("TF_DATA_DIR", self.folder.path().join("data"));
        command.env("CHECKPOINT_DISABLE", "1").env("TF_IN_AUTOMATION", "1");
        let out = command.output().expect("terraform starts");
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.success(), said)
    }

    fn expect(&self, folder: &Path, words: &[&str]) -> String {
        let (well, said) = self.run(folder, words);
        assert!(well, "{}: terraform {words:?}\n{said}", folder.display());
        said
    }
}

#[test]
fn the_files_are_formatted() {
    if !has_terraform() {
        return;
    }
    let out = Command::new("terraform")
        .args(["fmt", "-check", "-recursive", "-no-color"])
        .current_dir(terraform_folder())
        .env_remove("TF_CLI_CONFIG_FILE")
        .output()
        .expect("terraform starts");
    assert!(out.status.success(), "run `terraform fmt -recursive terraform`: {}", String::from_utf8_lossy(&out.stdout));
}

/// Validates every folder, and runs the tests.
fn holds(versions: [&str; 3]) {
    if !has_terraform() {
        return;
    }
    for folder in folders() {
        let desk = Desk::new(versions);
        desk.expect(&folder, &["init", "-backend=false"]);
        let told: Value = serde_json::from_str(&desk.expect(&folder, &["validate", "-json"])).expect("JSON");
        assert_eq!((&told["valid"], &told["warning_count"]), (&true.into(), &0.into()), "{}: {told:#}", folder.display());
        // The modules are tested by the root's tests, and the examples by their own.
        let least = match folder.strip_prefix(terraform_folder()).expect("below") {
            root if root == Path::new("") => 41,
            example if example.starts_with("examples") => 1,
            _ => continue,
        };
        let said = desk.expect(&folder, &["test"]);
        let last = said.lines().last().unwrap_or_default();
        println!("{} with {versions:?}: {last}", folder.display());
        let passed = last.strip_prefix("Success! ").and_then(|rest| rest.split_once(" passed, 0 failed."));
        assert!(passed.is_some_and(|(count, _)| count.parse::<usize>().is_ok_and(|n| n >= least)), "{said}");
    }
}

#[test]
fn the_modules_hold_with_the_oldest_providers() {
    holds(OLDEST);
}

#[test]
fn the_modules_hold_with_the_newest_providers() {
    holds(NEWEST);
}

#[test]
fn terraform_finds_every_mistake() {
    if !has_terraform() {
        return;
    }
    let (desk, wrong) = (Desk::new(NEWEST), terraform_folder().join("tests/wrong"));
    desk.expect(&wrong, &["init", "-backend=false"]);
    let (well, said) = desk.run(&wrong, &["validate"]);
    assert!(!well, "{said}");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "An argument named \"buckett\" is not expected here.",
        "At least 1 \"versioning_configuration\" blocks are required.",
        "The argument \"assume_role_policy\" is required, but no definition was found.",
        "Blocks of type \"version\" are not expected here.",
        "An argument named \"typo\" is not expected here.",
        "No more than 1 \"blob_properties\" blocks are allowed",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in {said}");
    }
}

/// A test that asserts what is not so, of a module that is right: the same server lets it fail.
#[test]
fn a_test_that_does_not_hold_fails() {
    if !has_terraform() {
        return;
    }
    let (desk, place) = (Desk::new(NEWEST), tempfile::tempdir().expect("a folder"));
    let module = place.path().join("aws");
    let copied = Command::new("cp").arg("-r").arg(terraform_folder().join("modules/aws")).arg(&module).status();
    assert!(copied.expect("cp runs").success());
    let test = |days: u32| {
        format!(
            "mock_provider \"aws\" {{}}\nrun \"days\" {{\n  variables {{\n    account_id = \"111122223333\"\n    region = \"r\"\n    \
             bucket = \"b\"\n  }}\n  assert {{\n    condition = {days} == one([for rule in \
             aws_s3_bucket_lifecycle_configuration.this[0].rule : rule.noncurrent_version_expiration[0].noncurrent_days if rule.id == \
             \"old-versions\"])\n    error_message = \"not {days}\"\n  }}\n}}\n"
        )
    };
    let file = module.join("days.tftest.hcl");
    std::fs::write(&file, test(30)).expect("written");
    desk.expect(&module, &["init", "-backend=false"]);
    desk.expect(&module, &["test"]);
    std::fs::write(&file, test(31)).expect("written");
    let (well, said) = desk.run(&module, &["test"]);
    assert!(!well && said.contains("not 31"), "{said}");
}
