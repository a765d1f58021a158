//! `holdfast doctor` by the real binary against each provider's server: as it should be, with each setting wrong once, with
//! settings that may not be read, and at stores that do not let anybody in.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::azure_server::{self, AzureServer};
use crate::support::door::{Act, Fault};
use crate::support::gcs_server::{self, GcsServer};
use crate::support::gcs_settings::{self, Condition, RetentionPolicy, Seconds, SoftDelete, Switch};
use crate::support::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::support::s3_settings::{Settings, deadly, moving};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");

/// Secrets by the names of their variables; no output may hold one.
const SECRETS: [(&str, &str); 3] =
    [("SUITE_S3_SECRET", SECRET_KEY), ("SUITE_GCS_TOKEN", gcs_server::TOKEN), ("SUITE_AZURE_KEY", azure_server::KEY)];

/// A folder with a configuration.
struct Desk(tempfile::TempDir);

/// What a run came to: exit code, findings by store (empty: all together) and matter, the summary, everything printed.
struct Told {
    code: Option<i32>,
    findings: BTreeMap<(String, String), Value>,
    summary: Value,
    text: String,
}

impl Told {
    fn of(&self, store: &str, matter: &str) -> &Value {
        self.findings.get(&(store.to_owned(), matter.to_owned())).unwrap_or_else(|| panic!("no {matter}: {}", self.text))
    }
    fn level(&self, store: &str, matter: &str) -> &str {
        self.of(store, matter)["level"].as_str().expect("a word")
    }
    /// The findings about a store that are not ok: matter and level.
    fn amiss(&self, store: &str) -> Vec<(&str, &str)> {
        let level = |finding: &Value| ["error", "warning", "unknown", "ok"].into_iter().find(|word| finding["level"] == *word);
        let all = self.findings.iter().filter(|((name, _), finding)| name == store && finding["level"] != "ok");
        all.map(|((_, matter), finding)| (matter.as_str(), level(finding).expect("a known word"))).collect()
    }
}

impl Desk {
    fn new(stores: &str) -> Desk {
        let desk = Desk(tempfile::tempdir().expect("a folder"));
        let config = format!("[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\n{stores}");
        std::fs::write(desk.at("holdfast.toml"), config).expect("written");
        desk
    }
    /// A desk whose repository is made.
    fn begun(stores: &str) -> Desk {
        let desk = Desk::new(stores);
        let run = desk.command(&["init"]).output().expect("the program starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        desk
    }
    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words).current_dir(self.0.path()).stdin(Stdio::null()).env("HOME", self.at("home"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        command.envs(SECRETS);
        command
    }
    fn doctor(&self, words: &[&str]) -> Told {
        let words: Vec<&str> = ["doctor", "--json"].iter().chain(words).copied().collect();
        let run = self.command(&words).output().expect("the program starts");
        let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        for (_, secret) in SECRETS {
            assert!(!text.contains(secret), "a secret was printed: {text}");
        }
        let mut told = Told { code: run.status.code(), findings: BTreeMap::new(), summary: Value::Null, text: text.clone() };
        for line in String::from_utf8_lossy(&run.stdout).lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {text}"));
            if line["message_type"] == "summary" {
                told.summary = line;
                continue;
            }
            assert_eq!(line["message_type"], "finding", "{text}");
            let word = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            assert!(told.findings.insert((word("store"), word("matter")), line.clone()).is_none(), "twice: {line}");
        }
        assert!(told.summary["ok"].is_u64(), "the summary comes last: {text}");
        told
    }
}

fn s3(server: &S3Server) -> String {
    format!(
        "[[store]]\nname = \"paris\"\nurl = \"{}\"\nretries = 0\n\
         credentials = {{ kind = \"access-key\", access_key_id = \"{ACCESS_KEY}\", secret_env = \"SUITE_S3_SECRET\" }}\n",
        server.url("repo")
    )
}

fn gcs(server: &GcsServer) -> String {
    format!(
        "[[store]]\nname = \"iowa\"\nurl = \"{}\"\nretries = 0\n\
         credentials = {{ kind = \"access-token\", secret_env = \"SUITE_GCS_TOKEN\" }}\n",
        server.url("repo")
    )
}

fn azure(server: &AzureServer) -> String {
    format!(
        "[[store]]\nname = \"dublin\"\nurl = \"{}\"\nretries = 0\n\
         credentials = {{ kind = \"account-key\", secret_env = \"SUITE_AZURE_KEY\" }}\n",
        server.url("repo")
    )
}

/// A server of S3 with a bucket as it should be.
fn good_s3() -> S3Server {
    let server = S3Server::start();
    server.bucket(|b| (b.versioned, b.settings) = (true, Settings::locked_down()));
    server
}

/// Nobody may remove: neither objects nor versions.
fn as_writer(server: &S3Server) {
    server.fault(Fault::refusal(403, "AccessDenied").on("DeleteObjects").times(100));
    server.fault(Fault::refusal(403, "AccessDenied").on("DeleteObject").times(100));
}

#[test]
fn a_locked_down_bucket_of_s3_is_well_and_each_wrong_setting_is_found() {
    let server = good_s3();
    let desk = Desk::begun(&s3(&server));
    as_writer(&server);
    let objects =
        || server.bucket(|b| b.versions("").iter().map(|(key, v, _)| (key.to_string(), v.id.clone())).collect::<Vec<_>>());
    let before = objects();
    let told = desk.doctor(&["--as", "writer", "paris"]);
    assert_eq!((told.code, told.amiss("paris")), (Some(0), vec![]), "{}", told.text);
    assert_eq!(told.summary["errors"], 0);
    assert_eq!(objects(), before, "something was left behind");
    for (matter, says) in [
        ("identity", ACCESS_KEY),
        ("lock", "GOVERNANCE for 30 days"),
        ("encryption", "aws:kms, key key-1"),
        ("old-versions", "after 30 days"),
        ("clock", "machine's"),
        ("remove", "refused"),
        ("create-if-absent", "refused"),
    ] {
        assert!(told.of("paris", matter)["found"].as_str().expect("a text").contains(says), "{matter}: {}", told.text);
    }

    type Wrong = fn(&mut Settings);
    /// Matter, level, what is said, and what makes it so.
    type Row = (&'static str, &'static str, &'static str, Box<dyn Fn(&mut Settings)>);
    let without = |policy: &mut Settings, at: usize| {
        let statements = policy.policy.as_mut().expect("a policy")["Statement"].as_array_mut().expect("statements");
        statements.remove(at);
    };
    let open = |s: &mut Settings| {
        let statement = serde_json::json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "*"});
        s.policy.as_mut().expect("a policy")["Statement"].as_array_mut().expect("statements").push(statement);
    };
    let table: Vec<Row> = vec![
        ("expiry", "error", "\"thirty\"", Box::new(|s| s.rules.push(deadly("thirty", "")))),
        ("expiry", "error", "takes out", Box::new(|s| s.rules.push(deadly("ours", "repo/snapshots/")))),
        ("archive", "error", "GLACIER", Box::new(|s| s.rules.push(moving("cold", "repo/", "GLACIER")))),
        ("archive", "warning", "before a restore", Box::new(|s| s.rules.push(moving("cold", "repo/data/", "DEEP_ARCHIVE")))),
        ("uploads", "warning", "there is none", Box::new(|s| s.rules[0].abort_incomplete_multipart_upload = None)),
        ("old-versions", "warning", "there is none", Box::new(|s| s.rules[0].noncurrent_version_expiration = None)),
        ("public-block", "warning", "BlockPublicAcls not set", {
            let wrong: Wrong = |s| s.block.as_mut().expect("a block").block_public_acls = Some(false);
            Box::new(wrong)
        }),
        ("public-block", "warning", "no block", Box::new(|s| s.block = None)),
        ("public-block", "warning", "access lists", Box::new(|s| s.ownership = None)),
        ("public", "error", "everybody", Box::new(open)),
        ("tls-only", "warning", "not refused", Box::new(move |s| without(s, 0))),
        ("create-only", "warning", "put over", Box::new(move |s| without(s, 1))),
        ("encryption", "warning", "none", Box::new(|s| s.encryption = None)),
    ];
    for (matter, level, says, change) in &table {
        server.bucket(|b| {
            b.settings = Settings::locked_down();
            change(&mut b.settings);
        });
        let told = desk.doctor(&["--as", "writer", "paris"]);
        assert_eq!(told.amiss("paris"), [(*matter, *level)], "{}", told.text);
        let finding = told.of("paris", matter);
        assert!(finding["found"].as_str().expect("a text").contains(says), "{finding}");
        assert!(finding["fix"].as_str().is_some_and(|fix| fix.contains("bucket") || fix.contains("aws_s3")), "{finding}");
        assert_eq!(told.code, Some(i32::from(*level == "error")), "{}", told.text);
    }
    // Rules that reach other names only, or that are switched off, do no harm.
    server.bucket(|b| {
        b.settings = Settings::locked_down();
        b.settings.rules.push(deadly("theirs", "others/"));
        let status = s3s::dto::ExpirationStatus::from_static(s3s::dto::ExpirationStatus::DISABLED);
        b.settings.rules.push(s3s::dto::LifecycleRule { status, ..deadly("off", "") });
    });
    assert_eq!(desk.doctor(&["--as", "writer", "paris"]).amiss("paris"), []);
    // A bucket as it comes.
    server.bucket(|b| (b.versioned, b.settings) = (false, Settings::default()));
    let told = desk.doctor(&["paris"]);
    let bare = ["create-only", "encryption", "public-block", "tls-only", "uploads", "versioning"];
    assert_eq!(told.amiss("paris"), bare.map(|matter| (matter, "warning")), "{}", told.text);
    server.bucket(|b| b.settings = Settings { suspended: true, ..Settings::locked_down() });
    assert_eq!(desk.doctor(&["paris"]).amiss("paris"), [("versioning", "warning")]);
}

#[test]
fn what_s3_does_not_tell_is_unknown_with_the_right_that_it_takes() {
    let server = good_s3();
    let desk = Desk::begun(&s3(&server));
    as_writer(&server);
    let table = [
        ("GetBucketVersioning", "s3:GetBucketVersioning", vec!["versioning"]),
        ("GetObjectLockConfiguration", "s3:GetBucketObjectLockConfiguration", vec!["lock"]),
        ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration", vec!["lifecycle"]),
        ("GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock", vec!["public-block"]),
        ("GetBucketOwnershipControls", "s3:GetBucketOwnershipControls", vec!["public-block"]),
        ("GetBucketPolicy", "s3:GetBucketPolicy", vec!["create-only", "tls-only"]),
        ("GetBucketPolicyStatus", "s3:GetBucketPolicyStatus", vec!["public"]),
        ("GetBucketEncryption", "s3:GetEncryptionConfiguration", vec!["encryption"]),
    ];
    for (operation, right, matters) in &table {
        server.fault(Fault::refusal(403, "AccessDenied").on(operation));
        let told = desk.doctor(&["paris"]);
        assert_eq!(told.code, Some(0), "{}", told.text);
        assert_eq!(told.amiss("paris"), matters.iter().map(|m| (*m, "unknown")).collect::<Vec<_>>(), "{}", told.text);
        let fix = told.of("paris", matters[0])["fix"].as_str().expect("a fix");
        assert!(fix.contains(right), "{fix}");
        // A server that does not know the question says so; one in trouble is asked again later.
        server.fault(Fault::refusal(501, "NotImplemented").on(operation));
        let told = desk.doctor(&["paris"]);
        assert!(told.code == Some(0) && told.level("paris", matters[0]) == "unknown", "{}", told.text);
        assert!(told.of("paris", matters[0])["found"].as_str().expect("a text").contains("NotImplemented"), "{}", told.text);
        server.fault(Fault::refusal(500, "InternalError").on(operation));
        let told = desk.doctor(&["paris"]);
        assert!(told.code == Some(0) && told.of("paris", matters[0])["fix"] == "ask again", "{}", told.text);
    }
    assert!(table.iter().all(|(operation, ..)| server.count(operation) > 0));
}

#[test]
fn rights_clocks_and_stores_that_do_it_wrong() {
    let server = good_s3();
    let desk = Desk::new(&s3(&server));
    let told = desk.doctor(&[]);
    assert_eq!((told.code, told.level("paris", "repository")), (Some(10), "error"), "{}", told.text);
    assert_eq!((told.level("", "open"), told.level("paris", "create")), ("unknown", "unknown"), "{}", told.text);
    assert!(desk.command(&["init"]).output().expect("the program starts").status.success());

    // Who may do everything: fine for a pruner but for the versions; too much for a writer.
    let told = desk.doctor(&["--as", "pruner", "paris"]);
    assert_eq!((told.code, told.amiss("paris")), (Some(0), vec![("destroy", "warning")]), "{}", told.text);
    let markers = server.bucket(|b| b.versions("repo/data/00/").iter().filter(|(_, v, _)| v.body.is_none()).count());
    assert_eq!(markers, 2, "each trial leaves a marker, under a name that no object has");
    let told = desk.doctor(&["--as", "writer", "paris"]);
    assert_eq!(told.amiss("paris"), [("destroy", "warning"), ("remove", "warning")], "{}", told.text);
    server.take_seen();
    let told = desk.doctor(&["--no-probe", "paris"]);
    assert_eq!(told.amiss("paris"), [("create", "unknown"), ("remove", "unknown")], "{}", told.text);
    let counts = server.counts();
    assert!(["PutObject", "DeleteObject", "DeleteObjects"].iter().all(|one| !counts.contains_key(one)), "{counts:?}");

    server.fault(Fault::refusal(403, "AccessDenied").on("PutObject").times(1));
    let told = desk.doctor(&["--as", "writer", "paris"]);
    assert!(told.code == Some(1) && told.level("paris", "create") == "error", "{}", told.text);
    server.fault(Fault::refusal(403, "AccessDenied").on("ListObjectsV2").times(2));
    let told = desk.doctor(&["paris"]);
    assert!(told.code == Some(1) && told.level("paris", "list") == "error" && told.level("paris", "read") == "ok");

    // Each create of what is there succeeds.
    let careless = Act::Answer { status: 200, headers: vec![("etag", "\"x\"".into())], body: String::new() };
    server.fault(Fault::new(careless).on("PutObject").times(5));
    let told = desk.doctor(&["paris"]);
    assert_eq!((told.code, told.level("paris", "create-if-absent")), (Some(16), "error"), "{}", told.text);

    // Three reads of the descriptor come first; then what is not there is asked for, and the answer's date is read.
    server.fault(Fault::new(Act::Serve).on("GetObject").times(3));
    server.fault(Fault::refusal(404, "NoSuchKey").header("date", "Thu, 01 Jan 2015 00:00:00 GMT").on("GetObject"));
    let told = desk.doctor(&["paris"]);
    assert_eq!(told.level("paris", "clock"), "warning", "{}", told.text);
    assert!(told.of("paris", "clock")["found"].as_str().expect("a text").contains("behind"), "{}", told.text);

    let unknown = desk.command(&["doctor", "lyon"]).output().expect("the program starts");
    assert_eq!(unknown.status.code(), Some(2));
    let wrong = std::fs::read_to_string(desk.at("holdfast.toml")).expect("read").replace("SUITE_S3_SECRET", "SUITE_GCS_TOKEN");
    std::fs::write(desk.at("holdfast.toml"), wrong).expect("written");
    let told = desk.doctor(&["paris"]);
    assert_eq!((told.code, told.amiss("paris")), (Some(13), vec![("reach", "error")]), "{}", told.text);
    server.down(true);
    let told = desk.doctor(&["paris"]);
    assert_eq!((told.code, told.amiss("paris")), (Some(1), vec![("reach", "error")]), "{}", told.text);
}

#[test]
fn a_locked_down_bucket_of_gcs_is_well_and_each_wrong_setting_is_found() {
    let server = GcsServer::start();
    let good = gcs_settings::Settings::locked_down();
    server.bucket(|b| b.settings = good.clone());
    let desk = Desk::begun(&gcs(&server));
    let names = || server.bucket(|b| b.objects.keys().cloned().collect::<Vec<_>>());
    let before = names();
    let told = desk.doctor(&["--as", "pruner", "iowa"]);
    assert_eq!((told.code, told.amiss("iowa")), (Some(0), vec![]), "{}", told.text);
    assert_eq!(names(), before, "something was left behind");
    assert!(told.of("iowa", "encryption")["found"].as_str().expect("a text").contains("cryptoKeys/k"), "{}", told.text);

    type Wrong = fn(&mut gcs_settings::Settings);
    fn rules(s: &mut gcs_settings::Settings) -> &mut Vec<gcs_settings::Rule> {
        &mut s.lifecycle.as_mut().expect("rules").rule
    }
    fn condition(prefixes: &[&str]) -> Condition {
        let matches_prefix = prefixes.iter().map(|text| text.to_string()).collect();
        Condition { age_days: Some(30), matches_prefix, ..Condition::default() }
    }
    let table: [(&str, &str, Wrong); 12] = [
        ("versioning", "warning", |s| {
            s.versioning = None;
            s.soft_delete_policy = Some(SoftDelete { retention_duration: Some(Seconds { seconds: 6 * 86_400 }) });
        }),
        ("expiry", "error", |s| rules(s).push(gcs_settings::rule("Delete", "", condition(&[])))),
        ("expiry", "error", |s| rules(s).push(gcs_settings::rule("Delete", "", condition(&["x/", "repo/index/"])))),
        ("archive", "warning", |s| rules(s).push(gcs_settings::rule("SetStorageClass", "ARCHIVE", condition(&["repo/"])))),
        ("uploads", "warning", |s| drop(rules(s).pop())),
        ("old-versions", "warning", |s| drop(rules(s).remove(0))),
        ("public-block", "warning", |s| s.iam_config.as_mut().expect("it").public_access_prevention = "inherited".into()),
        ("public-block", "warning", |s| {
            s.iam_config.as_mut().expect("it").uniform_bucket_level_access = Some(Switch { enabled: false });
        }),
        ("public-block", "warning", |s| s.iam_config = None),
        ("storage-class", "warning", |s| s.storage_class = "COLDLINE".into()),
        ("", "", |s| rules(s).push(gcs_settings::rule("Delete", "", condition(&["others/"])))),
        ("", "", |s| {
            s.retention_policy =
                Some(RetentionPolicy { is_locked: true, retention_duration: Some(Seconds { seconds: 864_000 }) });
        }),
    ];
    for (at, (matter, level, change)) in table.into_iter().enumerate() {
        let mut settings = good.clone();
        change(&mut settings);
        server.bucket(|b| b.settings = settings);
        let told = desk.doctor(&["--as", "pruner", "iowa"]);
        let mut expected = vec![(matter, level)];
        expected.retain(|(matter, _)| !matter.is_empty());
        assert_eq!(told.amiss("iowa"), expected, "row {at}: {}", told.text);
        assert_eq!(told.code, Some(i32::from(level == "error")));
    }
    assert!(desk.doctor(&["iowa"]).of("iowa", "lock")["found"].as_str().expect("a text").contains("10 days, locked"));

    server.fault(gcs_server::status(7, "no").on("settings"));
    let told = desk.doctor(&["iowa"]);
    assert!(told.code == Some(0) && told.amiss("iowa").iter().all(|(_, level)| *level == "unknown"), "{}", told.text);
    assert!(told.amiss("iowa").len() >= 6, "{}", told.text);
    assert!(told.of("iowa", "versioning")["fix"].as_str().expect("a fix").contains("storage.buckets.get"), "{}", told.text);
    // A writer.
    server.fault(gcs_server::status(7, "no").on("delete"));
    let told = desk.doctor(&["--as", "writer", "iowa"]);
    assert_eq!((told.code, told.level("iowa", "remove")), (Some(0), "ok"), "{}", told.text);
}

#[test]
fn a_container_of_azure_tells_what_it_can_and_the_rest_is_named() {
    let server = AzureServer::start();
    let good = crate::support::azure_container::Settings { versions: true, soft_delete: Some(14), ..Default::default() };
    server.container(|c| c.settings = good.clone());
    let desk = Desk::begun(&azure(&server));
    // Over this interface nobody tells these.
    let untold = ["lifecycle", "public-block", "tls-only"].map(|matter| (matter, "unknown"));
    let told = desk.doctor(&["--as", "pruner", "dublin"]);
    assert_eq!((told.code, told.amiss("dublin")), (Some(0), untold.to_vec()), "{}", told.text);
    for (matter, _) in untold {
        assert!(told.of("dublin", matter)["found"].as_str().expect("a text").contains("management plane"), "{}", told.text);
        assert!(told.of("dublin", matter)["fix"].as_str().expect("a fix").contains("azurerm_storage"), "{}", told.text);
    }
    assert_eq!(told.of("dublin", "soft-delete")["found"].as_str().map(|text| text.starts_with("14 days")), Some(true));
    type Wrong = fn(&mut crate::support::azure_container::Settings);
    let table: [(&str, &str, Wrong); 4] = [
        ("public", "error", |s| s.public = Some("blob")),
        ("soft-delete", "warning", |s| (s.soft_delete, s.versions) = (Some(2), false)),
        ("lock", "ok", |s| s.legal_hold = true),
        ("encryption", "ok", |s| s.scope = Some("vault")),
    ];
    for (matter, level, change) in table {
        server.container(|c| {
            c.settings = good.clone();
            change(&mut c.settings);
        });
        let told = desk.doctor(&["dublin"]);
        assert_eq!(told.level("dublin", matter), level, "{}", told.text);
        assert_eq!(told.code, Some(i32::from(level == "error")), "{}", told.text);
        // Without a version nobody knows whether there are any.
        assert_eq!(told.level("dublin", "versioning"), if matter == "soft-delete" { "unknown" } else { "ok" }, "{}", told.text);
    }
    server.container(|c| c.settings = good.clone());
    for (operation, right, matter) in
        [("GetContainerProperties", "containers/read", "public"), ("GetServiceProperties", "blobServices/read", "soft-delete")]
    {
        server.fault(azure_server::refusal(403, "AuthorizationPermissionMismatch").on(operation));
        let told = desk.doctor(&["dublin"]);
        assert!(told.code == Some(0) && told.level("dublin", matter) == "unknown", "{}", told.text);
        assert!(told.of("dublin", matter)["fix"].as_str().expect("a fix").contains(right), "{}", told.text);
    }
    // A signature for the container: it reads and writes, tells no settings, and is itself told to nobody.
    let signature = server.signature("rlc", "2099-01-01T00:00:00Z");
    let config = azure(&server).replace("\"account-key\", secret_env = \"SUITE_AZURE_KEY\"", "\"sas\", secret_file = \"sas\"");
    std::fs::write(desk.at("sas"), &signature).expect("written");
    std::fs::write(desk.at("holdfast.toml"), format!("[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\n{config}"))
        .expect("written");
    let told = desk.doctor(&["--as", "writer", "dublin"]);
    assert_eq!((told.code, told.level("dublin", "remove")), (Some(0), "ok"), "{}", told.text);
    assert_eq!(told.level("dublin", "public"), "unknown", "{}", told.text);
    assert!(
        !told.text.contains("sig=") && told.of("dublin", "identity")["found"] == "a shared access signature",
        "{}",
        told.text
    );
}

#[test]
fn directories_are_looked_at_alone_and_together() {
    let desk = Desk::begun("[[store]]\nname = \"one\"\nurl = \"file:one\"\n[[store]]\nname = \"two\"\nurl = \"file:two\"\n");
    let tree = |store: &str| {
        let run = Command::new("find").arg(desk.at(store)).output().expect("find runs");
        let mut lines: Vec<String> = String::from_utf8_lossy(&run.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = tree("one");
    let told = desk.doctor(&[]);
    for store in ["one", "two"] {
        // How much room there is, is up to the machine of the tests.
        let amiss: Vec<_> = told.amiss(store).into_iter().filter(|(matter, _)| *matter != "room").collect();
        assert_eq!((told.code, amiss), (Some(0), vec![]), "{}", told.text);
    }
    assert_eq!(told.amiss(""), [("places", "warning")], "{}", told.text);
    assert!(told.of("", "places")["found"].as_str().expect("a text").contains("one and two lie on one file system"));
    assert_eq!(told.level("one", "links"), "ok", "{}", told.text);
    assert_eq!(tree("one"), before, "something was left behind");

    let chmod = |path: &str, mode| {
        std::fs::set_permissions(desk.at(path), PermissionsExt::from_mode(mode)).expect("changed");
    };
    for (mode, level, code) in [(0o755, "warning", 0), (0o777, "error", 1), (0o750, "ok", 0)] {
        chmod("one", mode);
        let told = desk.doctor(&["one"]);
        assert_eq!((told.code, told.level("one", "modes")), (Some(code), level), "{}", told.text);
    }
    chmod("one", 0o700);
    chmod("key", 0o644);
    assert_eq!(desk.doctor(&[]).level("", "secret"), "warning");
    chmod("key", 0o600);
    // Nothing is asked of the repository where single stores are named.
    assert!(!desk.doctor(&["two"]).findings.contains_key(&(String::new(), "open".into())));

    // Rules of retention, a snapshot, and nobody who keeps house.
    let config = std::fs::read_to_string(desk.at("holdfast.toml")).expect("read") + "[retention]\nkeep_last = 2\n";
    std::fs::write(desk.at("holdfast.toml"), config).expect("written");
    std::fs::create_dir(desk.at("src")).expect("made");
    std::fs::write(desk.at("src/a"), "hello").expect("written");
    let run = |words: &[&str]| assert!(desk.command(words).output().expect("it starts").status.success(), "{words:?}");
    run(&["backup", "--quiet", "src"]);
    let told = desk.doctor(&[]);
    assert_eq!(told.amiss(""), [("places", "warning"), ("retention", "warning"), ("verified", "warning")], "{}", told.text);
    run(&["lifecycle", "--quiet"]);
    run(&["verify", "--quiet"]);
    let told = desk.doctor(&[]);
    assert_eq!(told.amiss(""), [("places", "warning")], "{}", told.text);

    // A wrong key: the stores are looked at all the same.
    std::fs::rename(desk.at("key"), desk.at("key.away")).expect("renamed");
    run(&["key", "generate", "key"]);
    let told = desk.doctor(&[]);
    assert_eq!((told.code, told.level("", "open"), told.level("one", "read")), (Some(12), "error", "ok"), "{}", told.text);
    std::fs::rename(desk.at("two"), desk.at("two.away")).expect("renamed");
    let told = desk.doctor(&["two"]);
    assert_eq!((told.code, told.amiss("two")), (Some(1), vec![("reach", "error")]), "{}", told.text);
    assert!(told.of("two", "reach")["found"].as_str().expect("a text").contains("mounted"), "{}", told.text);
}

#[test]
fn people_get_lines_with_what_to_do() {
    let server = good_s3();
    server.bucket(|b| b.settings.rules.push(deadly("thirty", "")));
    let desk = Desk::begun(&s3(&server));
    as_writer(&server);
    let run = desk.command(&["doctor"]).output().expect("the program starts");
    let (out, err) = (String::from_utf8_lossy(&run.stdout).into_owned(), String::from_utf8_lossy(&run.stderr).into_owned());
    assert_eq!(run.status.code(), Some(1), "{out}{err}");
    for line in
        ["store paris (s3://bucket/repo", "all together", "  error    expiry", "fix: aws_s3_bucket_lifecycle_configuration"]
    {
        assert!(out.contains(line), "no {line:?}: {out}");
    }
    assert!(out.contains("errors: 1, warnings: 1, unknown: 0, ok: "), "{out}");
    let run = desk.command(&["doctor", "--quiet"]).output().expect("the program starts");
    let quiet = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(quiet.contains("  error    expiry") && !quiet.contains("  ok "), "{quiet}");
}
