//! The roles of `terraform/`, enforced by the providers' servers while the real program runs: each role suffices for its
//! commands, a writer never asks for a removal and gets none, and nobody overwrites. The policies are rendered from the modules'
//! own templates and decided by `support/rights.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::settings::StoreSettings;
use serde_json::{Value, json};

use crate::support::clouds::{Cloud, Provider, Request, THREE};
use crate::support::name;
use crate::support::rights::{AwsRights, AzureRights, GcpRights, aws_admits, policies, rendered};
use crate::support::source_tree::noise;

const KEY: &str = "holdfast-key-1 0707070707070707070707070707070707070707070707070707070707070707\n";
const PREFIX: &str = "a/prefix";

/// One provider with a folder beside it as a second store, and a source.
struct Desk {
    folder: tempfile::TempDir,
    cloud: Cloud,
}

impl Desk {
    async fn new(provider: Provider) -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        let cloud = Cloud::start(provider, "cloud", None).await;
        let head = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\n";
        let tail = "[backup]\nhost = \"here\"\ndata_pack = \"1 MiB\"\nmeta_pack = \"1 MiB\"\n[prune]\nmercy = \"0 s\"\nmax_unused = \"0\"\n\
                    [retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"0 s\"\nforget_limit = \"100%\"\n";
        let (section, spare) = (cloud.section(PREFIX), "[[store]]\nname = \"spare\"\nurl = \"file:spare\"\n");
        let desk = Desk { folder, cloud };
        fs::write(desk.at("both.toml"), format!("{head}{section}{spare}{tail}")).expect("written");
        fs::write(desk.at("cloud.toml"), format!("{head}{section}{tail}")).expect("written");
        fs::write(desk.at("spare.toml"), format!("{head}{spare}{tail}")).expect("written");
        fs::write(desk.at("key"), KEY).expect("written");
        fs::set_permissions(desk.at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        fs::create_dir(desk.at("source")).expect("made");
        desk
    }

    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.folder.path()).expect("there").join(path)
    }

    /// New files in place of those of the round before.
    fn change(&self, round: u64) {
        for number in 0..4 {
            fs::write(self.at(&format!("source/noise-{number}")), noise(round * 10 + number, 1 << 20)).expect("written");
        }
    }

    /// Runs the program with one of the configurations; gives its exit code and all that it said.
    async fn run(&self, config: &str, words: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["--config", config]).args(words).current_dir(self.at("")).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.at("home")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.cloud.environment());
        let out = tokio::task::spawn_blocking(move || command.output().expect("the program starts")).await.expect("it ran");
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code().expect("an exit code"), said)
    }

    async fn expect(&self, code: i32, config: &str, words: &[&str]) -> String {
        let (ended, said) = self.run(config, words).await;
        assert_eq!(ended, code, "{:?}: {config} {words:?}\n{said}", self.cloud.provider);
        said
    }

    /// Restores the newest snapshot from the cloud, and compares it with the source.
    async fn restored(&self, target: &str) {
        let folder = self.at(target);
        let words = ["restore", "latest", "--target", folder.to_str().expect("plain"), "--from", "cloud"];
        self.expect(0, "cloud.toml", &words).await;
        for number in 0..4 {
            let file = self.at(&format!("source/noise-{number}"));
            let copy = folder.join(file.strip_prefix("/").expect("absolute"));
            assert!(fs::read(&copy).expect("restored") == fs::read(&file).expect("there"), "{} differs", file.display());
        }
    }

    /// Removals that the provider was asked for so far.
    fn removals(&self) -> usize {
        let counts = self.cloud.counts();
        ["DeleteObject", "DeleteObjects", "delete", "DeleteBlob"].iter().filter_map(|name| counts.get(name)).sum()
    }

    /// Names in the store, as somebody with all rights sees them.
    async fn names(&self) -> Vec<String> {
        let [_, past] = self.cloud.stores(&Env::real(), PREFIX, &StoreSettings::default()).await;
        use futures::StreamExt;
        past.store.list("").map(|info| info.expect("listed").name.to_string()).collect().await
    }
}

async fn each_role_suffices(provider: Provider) {
    let desk = Desk::new(provider).await;
    let source = desk.at("source");
    let source = source.to_str().expect("plain");
    desk.cloud.act_as(Some("writer"), PREFIX);
    desk.expect(0, "both.toml", &["init"]).await;
    desk.change(1);
    desk.expect(0, "both.toml", &["backup", source]).await;
    desk.change(2);
    desk.expect(0, "both.toml", &["backup", source]).await;
    desk.expect(0, "both.toml", &["verify", "--read-data"]).await;
    desk.restored("as-writer").await;
    // What the cloud has missed, a writer brings there.
    desk.change(3);
    desk.expect(0, "spare.toml", &["backup", source]).await;
    desk.expect(0, "both.toml", &["heal"]).await;
    desk.restored("healed-by-writer").await;
    desk.expect(0, "both.toml", &["forget"]).await;
    desk.expect(0, "both.toml", &["status"]).await;
    desk.expect(0, "both.toml", &["snapshots"]).await;
    assert_eq!(desk.removals(), 0, "no command of a writer asks for a removal");

    // A writer who asks all the same is refused, and all is still there.
    desk.cloud.act_as(None, PREFIX);
    let before = desk.names().await;
    desk.cloud.act_as(Some("writer"), PREFIX);
    let said = desk.expect(13, "cloud.toml", &["prune"]).await;
    assert!(desk.removals() > 0, "prune did ask: {said}");
    desk.cloud.act_as(None, PREFIX);
    let after = desk.names().await;
    assert!(before.iter().all(|name| after.contains(name)), "{before:?} {after:?}");

    // The pruner finishes what the log condemns by now.
    desk.cloud.act_as(Some("pruner"), PREFIX);
    desk.expect(0, "both.toml", &["prune"]).await;
    desk.expect(0, "both.toml", &["lifecycle"]).await;
    desk.cloud.act_as(None, PREFIX);
    let pruned = desk.names().await;
    let gone: Vec<_> = after.iter().filter(|name| !pruned.contains(name)).collect();
    assert!(gone.iter().any(|name| name.starts_with("data/")), "{gone:?}");
    let folders = ["data/", "meta/", "index/", "snapshots/"];
    assert!(gone.iter().all(|name| folders.iter().any(|folder| name.starts_with(folder))), "{gone:?}");

    // The reader has what it needs, and no more.
    desk.cloud.act_as(Some("reader"), PREFIX);
    desk.restored("as-reader").await;
    desk.expect(0, "cloud.toml", &["verify", "--read-data"]).await;
    desk.expect(0, "cloud.toml", &["snapshots"]).await;
    desk.change(4);
    desk.expect(13, "cloud.toml", &["backup", source]).await;
    desk.cloud.act_as(Some("writer"), "another/prefix");
    desk.expect(13, "cloud.toml", &["snapshots"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_suffices_at_s3() {
    each_role_suffices(Provider::S3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_suffices_at_gcs() {
    each_role_suffices(Provider::Gcs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_suffices_at_azure() {
    each_role_suffices(Provider::Azure).await;
}

/// The class of a refusal; `None` if there was none.
async fn put(store: &dyn Store, object: &str, text: &'static str) -> Option<StoreErrorKind> {
    store.put(&name(object), Bytes::from_static(text.as_bytes())).await.err().map(|e| e.kind)
}

async fn deleted(store: &dyn Store, object: &str) -> Option<StoreErrorKind> {
    store.delete(&[name(object)]).await.into_iter().next().map(|(_, e)| e.kind)
}

/// One request at a time, by way of a line that loses the condition of every create: what is not refused overwrites.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_overwrites_and_only_the_pruner_deletes() {
    for provider in THREE {
        let cloud = Cloud::careless(provider, "cloud", None).await;
        let settings = StoreSettings { retries: 0, ..StoreSettings::default() };
        let [through, past] = cloud.stores(&Env::real(), PREFIX, &settings).await.map(|open| open.store);
        let (through, past) = (&*through, &*past);
        let denied = Some(StoreErrorKind::Denied);
        let kept =
            async |object: &str| String::from_utf8(past.get(&name(object), None).await.expect("there").to_vec()).expect("text");
        for role in ["writer", "pruner"] {
            cloud.act_as(Some(role), PREFIX);
            for folder in ["data/00", "log/00000001", "keys"] {
                let object = format!("{folder}/{role}");
                assert_eq!(put(past, &object, "first").await, None, "{provider:?}: {role} creates {object}");
                assert_eq!(put(past, &object, "other").await, Some(StoreErrorKind::AlreadyExists), "{provider:?}: {role}");
                let may = role == "pruner" && folder == "data/00";
                // At Google whoever may delete may replace; the bucket keeps the old version.
                let (answer, stays) = match provider {
                    Provider::Gcs if may => (None, "other"),
                    Provider::S3 => (denied, "first"),
                    Provider::Gcs | Provider::Azure => (Some(StoreErrorKind::AlreadyExists), "first"),
                };
                assert_eq!(put(through, &object, "other").await, answer, "{provider:?}: {role} overwrites {object}");
                assert_eq!(kept(&object).await, stays, "{provider:?}");
                assert_eq!(
                    deleted(past, &object).await,
                    if may { None } else { denied },
                    "{provider:?}: {role} deletes {object}"
                );
            }
        }
        // A read-only role, and nobody's business elsewhere.
        cloud.act_as(Some("reader"), PREFIX);
        assert_eq!(kept("log/00000001/writer").await, "first");
        assert_eq!(put(past, "data/00/reader", "first").await, denied, "{provider:?}");
        assert_eq!(deleted(past, "data/00/writer").await, denied, "{provider:?}");
        cloud.act_as(Some("pruner"), "another/prefix");
        assert_eq!(past.get(&name("log/00000001/writer"), None).await.err().map(|e| e.kind), denied, "{provider:?}");
        assert_eq!(put(past, "data/00/elsewhere", "first").await, denied, "{provider:?}");
        assert_eq!(deleted(past, "data/00/writer").await, denied, "{provider:?}");
        // Without rules all of that goes well: it is they who refuse.
        cloud.act_as(None, PREFIX);
        assert_eq!(put(through, "data/00/writer", "other").await, None, "{provider:?}");
        assert_eq!(kept("data/00/writer").await, "other", "{provider:?}");
        assert_eq!(deleted(past, "log/00000001/writer").await, None, "{provider:?}");
        assert!(cloud.sent(Request::Put) > 0, "the line was used");
    }
}

fn aws(role: &str) -> AwsRights {
    let principal = format!("arn:aws:iam::111122223333:role/holdfast-{role}");
    let policy = |name: &str, variables: Value| rendered(&policies("aws").join(format!("{name}.json.tftpl")), &variables);
    AwsRights {
        identity: policy(role, json!({ "bucket_arn": "arn:aws:s3:::b", "prefix": "p/", "kms_arn": "arn:aws:kms:r:1:key/k" })),
        bucket: policy("bucket", json!({ "bucket_arn": "arn:aws:s3:::b", "prefix": "p/", "role_arns": [principal] })),
        principal,
    }
}

/// What no command asks for, and nobody may.
#[test]
fn at_aws_nobody_removes_versions_or_changes_rules() {
    const SAFE: [(&str, &str); 2] = [("aws:SecureTransport", "true"), ("s3:TlsVersion", "1.3")];
    let object = "arn:aws:s3:::b/p/data/00/x";
    for role in ["writer", "pruner", "reader"] {
        let mut rights = aws(role);
        // Whatever else somebody attaches to the role, the bucket refuses.
        let wide = json!({ "Sid": "Wide", "Effect": "Allow", "Action": "*", "Resource": "*" });
        for widened in [false, true] {
            for action in [
                "s3:DeleteObjectVersion",
                "s3:BypassGovernanceRetention",
                "s3:PutObjectRetention",
                "s3:PutObjectLegalHold",
                "s3:PutObjectAcl",
                "s3:GetObjectVersion",
                "s3:RestoreObject",
            ] {
                assert!(!rights.allow(action, object, &SAFE), "{role}, {widened}: {action}");
            }
            for action in ["s3:PutBucketPolicy", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:DeleteBucket"] {
                assert!(!rights.allow(action, "arn:aws:s3:::b", &SAFE), "{role}, {widened}: {action}");
            }
            // An old TLS, or none, opens nothing.
            for facts in [[("aws:SecureTransport", "false"), SAFE[1]], [SAFE[0], ("s3:TlsVersion", "1.1")]] {
                assert!(!rights.allow("s3:GetObject", object, &facts), "{role}, {widened}: {facts:?}");
            }
            assert!(rights.allow("s3:GetObject", object, &SAFE), "{role}");
            let creation = [&SAFE[..], &[("s3:ObjectCreationOperation", "true")]].concat();
            assert!(!rights.allow("s3:PutObject", object, &creation), "{role}, {widened}: an overwrite");
            rights.identity["Statement"].as_array_mut().expect("statements").push(wide.clone());
        }
        let encrypts = aws(role).allow("kms:GenerateDataKey", "arn:aws:kms:r:1:key/k", &[]);
        assert_eq!(encrypts, role != "reader", "{role}");
    }
}

#[test]
fn at_azure_and_google_nobody_has_more() {
    let render =
        |module: &str, role: &str, variables: Value| rendered(&policies(module).join(format!("{role}.json.tftpl")), &variables);
    for role in ["writer", "pruner", "reader"] {
        for prefix in ["", "p/"] {
            let azure = AzureRights { role: render("azure", role, json!({ "prefix": prefix })) };
            for action in
                ["write", "deleteBlobVersion/action", "permanentDelete/action", "immutableStorage/runAsSuperUser/action"]
            {
                assert!(!azure.allow(action, "", &format!("{prefix}data/00/x")), "{role}: {action}");
            }
            assert!(azure.allow("read", "Blob.List", "") && azure.allow("read", "", &format!("{prefix}log/1")), "{role}");
            assert_eq!(azure.allow("read", "", "q/log/1"), prefix.is_empty(), "{role}");
            let deletes = |path: &str| azure.allow("delete", "", &format!("{prefix}{path}"));
            assert_eq!((deletes("snapshots/x"), deletes("lists/x")), (role == "pruner", false), "{role}");
            let google = GcpRights { bindings: render("gcp", role, json!({ "bucket": "b", "prefix": prefix })) };
            for permission in
                ["storage.objects.update", "storage.objects.setRetention", "storage.objects.overrideUnlockedRetention"]
            {
                assert!(
                    !google.allow(permission, &format!("projects/_/buckets/b/objects/{prefix}data/00/x")),
                    "{role}: {permission}"
                );
            }
            for permission in ["storage.buckets.update", "storage.buckets.delete", "storage.buckets.setIamPolicy"] {
                assert!(!google.allow(permission, "projects/_/buckets/b"), "{role}: {permission}");
            }
            let deletes =
                |path: &str| google.allow("storage.objects.delete", &format!("projects/_/buckets/b/objects/{prefix}{path}"));
            assert_eq!((deletes("meta/00/x"), deletes("checkpoints/x")), (role == "pruner", false), "{role}");
        }
    }
}

/// In a bucket whose own policy says nothing, the role's policy is enough against an overwrite.
#[test]
fn at_aws_an_existing_bucket_is_safe_from_overwrites() {
    for role in ["writer", "pruner"] {
        let rights = AwsRights { bucket: json!({ "Statement": [] }), ..aws(role) };
        let object = "arn:aws:s3:::b/p/log/00000001/x";
        assert!(!rights.allow("s3:PutObject", object, &[("s3:ObjectCreationOperation", "true")]), "{role}");
        assert!(rights.allow("s3:PutObject", object, &[("s3:if-none-match", "*")]), "{role}");
        assert!(!rights.allow("s3:PutObject", "arn:aws:s3:::b/q/x", &[("s3:if-none-match", "*")]), "{role}");
        assert!(!rights.allow("s3:DeleteObject", object, &[]), "{role}");
    }
}

/// Names below the prefix are listed and no others. That a key is absent is told to whoever may list the bucket: the right must not hang
/// on a prefix that a request for one key does not have.
#[test]
fn at_aws_a_role_lists_below_its_prefix_and_learns_what_is_absent() {
    for role in ["writer", "pruner", "reader"] {
        let mut rights = aws(role);
        let list = |rights: &AwsRights, facts: &[(&str, &str)]| {
            rights.allow("s3:ListBucket", "arn:aws:s3:::b", &[facts, &[("aws:SecureTransport", "true")]].concat())
        };
        for (facts, may) in [
            (&[("s3:prefix", "p/")][..], true),
            (&[("s3:prefix", "p/log/")], true),
            (&[("s3:prefix", "")], false),
            (&[("s3:prefix", "q/")], false),
            (&[], true),
        ] {
            assert_eq!(list(&rights, facts), may, "{role} {facts:?}");
        }
        rights.identity["Statement"][1]["Condition"] = json!({ "StringLike": { "s3:prefix": "p/*" } });
        assert_eq!(rights.identity["Statement"][1]["Sid"], "List");
        assert!(!list(&rights, &[]), "a right to list by prefix alone does not tell what is absent");
    }
}

/// Whom a role lets in: the job's own service account at Google, by a token made out to AWS, and nobody who has only a part of that.
#[test]
fn at_aws_a_job_at_google_takes_its_own_role_alone() {
    let trust = |subjects: &[&str]| {
        let account = json!({ "provider": "accounts.google.com", "host": "accounts.google.com", "google": true,
            "subjects": subjects, "audience": "sts.amazonaws.com" });
        rendered(
            &policies("aws").join("trust.json.tftpl"),
            &json!({ "account_id": "111122223333", "trusted": [account], "principals": [], "pods": [] }),
        )
    };
    let claims = |issuer: &str, azp: &str, sub: &str, aud: &str| json!({ "iss": issuer, "azp": azp, "sub": sub, "aud": aud });
    const GOOGLE: &str = "https://accounts.google.com";
    let writer = claims(GOOGLE, "1001", "1001", "sts.amazonaws.com");
    assert!(aws_admits(&trust(&["1001"]), &writer));
    for (trust, claims, what) in [
        (trust(&["1002"]), writer.clone(), "the pruner's role, to the writer"),
        (trust(&[]), writer.clone(), "a role that trusts nobody at Google"),
        (trust(&["1001"]), claims(GOOGLE, "1001", "1001", "api://AzureADTokenExchange"), "a token for Azure"),
        (trust(&["1001"]), claims(GOOGLE, "1001", "1001", "1001"), "a token for somebody else"),
        (trust(&["1001"]), claims(GOOGLE, "1001", "1003", "sts.amazonaws.com"), "another's token, got by this account"),
        (trust(&["1001"]), claims(GOOGLE, "1003", "1001", "sts.amazonaws.com"), "this account's token, got by another"),
        (
            trust(&["1001"]),
            json!({ "iss": GOOGLE, "sub": "1001", "aud": "sts.amazonaws.com" }),
            "a token that was given to nobody",
        ),
        (trust(&["1001"]), claims("https://issuer.example", "1001", "1001", "sts.amazonaws.com"), "another issuer"),
    ] {
        assert!(!aws_admits(&trust, &claims), "{what}");
    }
    // Who comes by another way is not mistaken for it: a task of ECS in this account, and no other.
    let task = |account: &str, source: &str| {
        let facts = [("aws:SourceAccount", account), ("aws:SourceArn", source)];
        let nothing = json!({ "Statement": [] });
        AwsRights { principal: "ecs-tasks.amazonaws.com".into(), identity: nothing, bucket: trust(&["1001"]) }.allow(
            "sts:AssumeRole",
            "",
            &facts,
        )
    };
    assert!(task("111122223333", "arn:aws:ecs:eu-west-3:111122223333:cluster/c"));
    assert!(!task("999999999999", "arn:aws:ecs:eu-west-3:999999999999:cluster/c"));
}

/// What decides is itself able to refuse, and what it does not understand is no permission.
#[test]
fn those_who_decide_know_what_they_read() {
    let policy = |resource: &str, condition: Value| AwsRights {
        principal: "p".into(),
        identity: json!({ "Statement": [{ "Effect": "Allow", "Action": "s3:Get*", "Resource": resource, "Condition": condition }] }),
        bucket: json!({ "Statement": [] }),
    };
    let get = |resource: &str, asked: &str| policy(resource, json!({})).allow("s3:GetObject", asked, &[]);
    for (pattern, text, fits) in [
        ("a/*", "a/", true),
        ("a/*", "a/b/c", true),
        ("a/*", "a", false),
        ("*/x", "a/b/x", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
    ] {
        assert_eq!(get(pattern, text), fits, "{pattern} {text}");
    }
    assert!(!policy("*", json!({})).allow("s3:PutObject", "x", &[]), "only what begins with Get");
    let unknown: [Box<dyn Fn() -> bool + std::panic::UnwindSafe>; 4] = [
        Box::new(move || policy("*", json!({ "DateLessThan": { "aws:CurrentTime": "x" } })).allow("s3:GetObject", "x", &[])),
        Box::new(|| {
            let bindings = json!({ "bindings": [{ "permissions": ["a"], "condition": "request.time < x" }] });
            GcpRights { bindings }.allow("a", "x")
        }),
        Box::new(|| {
            let role = json!({ "data_actions": [], "not_data_actions": [], "condition": "@Request[x] StringEquals 'y'" });
            AzureRights { role }.allow("read", "", "x")
        }),
        Box::new(|| {
            let role = json!({ "data_actions": [], "not_data_actions": [], "condition": "(ActionMatches{'x'}) XOR (y)" });
            AzureRights { role }.allow("read", "", "x")
        }),
    ];
    for (number, decide) in unknown.into_iter().enumerate() {
        assert!(std::panic::catch_unwind(decide).is_err(), "{number} was decided");
    }
}

/// The folder of the policies is read: a path that is none fails.
#[test]
#[should_panic(expected = "nobody.json.tftpl")]
fn a_missing_policy_is_no_policy() {
    rendered(Path::new("nobody.json.tftpl"), &json!({}));
}
