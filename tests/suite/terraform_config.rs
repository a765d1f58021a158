//! What comes out of the root module is read unchanged. The files in `terraform/tests/golden` are what its tests compare
//! `config_toml` with (`terraform/tests/root.tftest.hcl`, run by `terraform_run.rs`); here they go through the real parser, and
//! through the real program to a backup and a restore at all three providers' servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::clock::Env;
use holdfast::config::resolve::resolve;
use holdfast::config::{Environment, Overrides, Settings};
use holdfast::store::credentials::{Credentials, TokenSource};
use holdfast::store::open;
use serde_json::json;

use crate::support::authority::Authority;
use crate::support::aws_tokens;
use crate::support::azure_login::pairs;
use crate::support::azure_server::{AzureServer, TOKEN};
use crate::support::azure_tokens;
use crate::support::door::Seen;
use crate::support::gcs_server::GcsServer;
use crate::support::gcs_tokens::{self, UNIQUE_ID};
use crate::support::rights::{policies, rendered};
use crate::support::s3_server::S3Server;
use crate::support::source_tree::noise;
use crate::terraform_hcl::terraform_folder;

fn golden(name: &str) -> String {
    std::fs::read_to_string(terraform_folder().join("tests/golden").join(name)).expect("a golden file")
}

fn settings(folder: &Path) -> Settings {
    let overrides = Overrides { config: Some(folder.join("holdfast.toml")), ..Overrides::default() };
    resolve(&overrides, &Environment::of([("HOLDFAST_PASSWORD".into(), "a passphrase".into())]), folder).expect("it is read")
}

/// Runs the program in a folder; gives what it printed.
fn holdfast(folder: &Path, environment: &[(&str, &str)], words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(words).current_dir(folder).stdin(Stdio::null()).env_clear().envs(environment.iter().copied());
    command.env("HOME", folder.join("home")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let out = command.output().expect("the program starts");
    let (said, told) = (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(0), "{words:?}\n{said}\n{told}");
    assert!(!said.contains("may-hold") && !told.contains("may-hold"), "{words:?}\n{said}\n{told}");
    said
}

/// What lets somebody watch a scheduled job is read as it was meant.
#[test]
fn a_watched_configuration_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("holdfast.toml"), golden("watched.toml")).expect("written");
    let settings = settings(folder.path());
    let jobs: Vec<_> =
        settings.jobs.iter().map(|job| (job.backup.label.as_str(), job.every.map(|every| every.as_secs()))).collect();
    assert_eq!(jobs, [("home", Some(86_400)), ("shop", Some(21_600))]);
    assert!(settings.jobs[1].backup.stream.is_some() && settings.jobs[0].ping.is_some());
    assert!(settings.metrics.push.is_some() && settings.ping.is_some());
}

#[test]
fn from_the_root_module_to_a_restore() {
    let (s3, gcs, azure) = (S3Server::start(), GcsServer::open_to_all(), AzureServer::start());
    let folder = tempfile::tempdir().expect("a folder");
    let home = std::fs::canonicalize(folder.path()).expect("there");
    let stores = [("s3", s3.endpoint(), ""), ("gs", gcs.endpoint(), ""), ("az", azure.endpoint(), "")];
    std::fs::write(home.join("holdfast.toml"), moved("surroundings.toml", &stores)).expect("written");
    let source = source(&home);
    // As a task in the cloud finds its password and its way into each store.
    let environment = [
        &[("HOLDFAST_PASSWORD", "a passphrase of the suite"), ("HOLDFAST_CONFIG", "holdfast.toml")][..],
        &s3.environment(),
        &azure.environment(),
    ]
    .concat();
    holdfast(&home, &environment, &["init"]);
    holdfast(&home, &environment, &["backup"]);
    holdfast(&home, &environment, &["lifecycle"]);
    each_store_restores(&home, &source, &environment);
}

/// A golden configuration in which nothing is changed but where the providers are, and with a line more for that.
fn moved(name: &str, stores: &[(&str, String, &str)]) -> String {
    let mut text = golden(name);
    for (scheme, endpoint, more) in stores {
        let (url, sign) = match *scheme {
            "s3" => ("s3://bucket/a/prefix?region=eu-test-1", '&'),
            "gs" => ("gs://bucket/a/prefix", '?'),
            _ => ("az://testaccount/container/a/prefix", '?'),
        };
        let (from, to) = (format!("url = \"{url}\"\n"), format!("url = \"{url}{sign}endpoint={endpoint}\"\n{more}"));
        assert!(text.contains(&from), "{url} is not in the configuration");
        text = text.replace(&from, &to);
    }
    text
}

/// What the job of the configuration backs up.
fn source(home: &Path) -> PathBuf {
    let source = home.join("data/home");
    std::fs::create_dir_all(source.join("deep")).expect("made");
    for (name, bytes) in
        [("small", b"a few words".to_vec()), ("deep/noise", noise(1, 3 << 20)), ("left.tmp", b"excluded".to_vec())]
    {
        std::fs::write(source.join(name), bytes).expect("written");
    }
    source
}

/// There is one snapshot, and each store by itself gives back what was backed up.
fn each_store_restores(home: &Path, source: &Path, environment: &[(&str, &str)]) {
    let shown: serde_json::Value = serde_json::from_str(&holdfast(home, environment, &["snapshots", "--json"])).expect("JSON");
    let [snapshot] = shown.as_array().expect("an array").as_slice() else { panic!("one snapshot: {shown}") };
    assert_eq!((&snapshot["hostname"], &snapshot["tags"]), (&"scheduled".into(), &serde_json::json!(["daily"])), "{shown}");
    for store in ["aws", "gcp", "azure"] {
        let target = home.join(format!("from-{store}"));
        let words = ["restore", "latest", "--target", target.to_str().expect("plain"), "--from", store];
        holdfast(home, environment, &words);
        let restored = |name: &str| std::fs::read(target.join(source.join(name).strip_prefix("/").expect("absolute")));
        for name in ["small", "deep/noise"] {
            assert_eq!(restored(name).ok(), std::fs::read(source.join(name)).ok(), "{name} from {store}");
        }
        assert!(restored("left.tmp").is_err(), "the exclusion of the job holds");
    }
}

/// Cloud Run: no token in a file, and no key anywhere. The machine's service account is all that the job has.
#[test]
fn a_job_at_google_writes_to_all_three() {
    let authority = Authority::new();
    let (s3, gcs, azure) = (S3Server::start(), GcsServer::start_tls(&authority), AzureServer::start_tls(&authority));
    let (google, sts) = (gcs_tokens::TokenServer::start(), aws_tokens::TokenServer::start());
    let directory = azure_tokens::TokenServer::start(Some(&authority), 3600);
    gcs.admit("by-metadata");
    let role = "arn:aws:iam::111122223333:role/holdfast-writer";
    // As `terraform/tests/root.tftest.hcl` finds it in the module.
    let account = json!({ "provider": "accounts.google.com", "host": "accounts.google.com", "google": true,
        "subjects": [UNIQUE_ID], "audience": "sts.amazonaws.com" });
    let trust = json!({ "account_id": "111122223333", "trusted": [account], "principals": [], "pods": [] });
    sts.trust(role, rendered(&policies("aws").join("trust.json.tftpl"), &trust));

    let folder = tempfile::tempdir().expect("a folder");
    let home = std::fs::canonicalize(folder.path()).expect("there");
    let vouched = authority.file(&home).display().to_string();
    let ca = format!("ca_file = \"{vouched}\"\n");
    let stores = [("s3", s3.endpoint(), ""), ("gs", gcs.endpoint(), ""), ("az", azure.endpoint(), ca.as_str())];
    // The ids in the file are those of the mocked providers.
    let text = moved("cloud_run.toml", &stores)
        .replace("00000000-0000-0000-0000-000000000001", azure_tokens::TENANT)
        .replace("00000000-0000-0000-0000-00000000000c", azure_tokens::CLIENT);
    std::fs::write(home.join("holdfast.toml"), text).expect("written");
    let source = source(&home);
    let (host, at_aws, at_azure) = (google.endpoint().replace("http://", ""), sts.endpoint(), directory.endpoint());
    let environment = [
        ("HOLDFAST_PASSWORD", "a passphrase of the suite"),
        ("HOLDFAST_CONFIG", "holdfast.toml"),
        ("GCE_METADATA_HOST", host.as_str()),
        ("AWS_ENDPOINT_URL_STS", at_aws.as_str()),
        ("AZURE_AUTHORITY_HOST", at_azure.as_str()),
        ("SSL_CERT_FILE", vouched.as_str()),
    ];
    // What the job runs.
    holdfast(&home, &environment, &["run", "--init", "--no-lifecycle"]);
    // To each store it came by the service account, and by nothing else.
    let asked = google.take_asked();
    let count = |word: &str| asked.iter().filter(|line| line.contains(word)).count();
    let audiences =
        [count("/identity?audience=sts.amazonaws.com&"), count("/identity?audience=api%3A%2F%2FAzureADTokenExchange&")];
    // A run opens its stores twice: to initialise, and to back up.
    assert!((1..=2).contains(&audiences[0]) && audiences[0] == audiences[1] && count("/token") >= 1, "{asked:?}");
    let taken = sts.take_asked();
    assert_eq!(taken.len(), audiences[0], "{taken:?}");
    assert!(taken.iter().all(|one| pairs(one.split_once(' ').expect("a form").1)["RoleArn"] == role), "{taken:?}");
    assert_eq!(directory.take_asked(), vec!["google"; audiences[1]]);
    let came = |seen: Vec<Seen>, header: &str, value: &str| {
        assert!(!seen.is_empty() && seen.iter().all(|one| one.header(header) == value), "{header}: {seen:?}");
    };
    came(s3.take_seen(), "x-amz-security-token", "by-AssumeRoleWithWebIdentity");
    came(gcs.take_seen(), "authorization", "Bearer by-metadata");
    came(azure.take_seen(), "authorization", &format!("Bearer {TOKEN}"));
    each_store_restores(&home, &source, &environment);
}

#[tokio::test]
async fn the_scheduled_jobs_way_into_each_cloud_is_understood() {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in [("scheduled.toml", "holdfast.toml"), ("gcp.json", "gcp.json")] {
        std::fs::write(folder.path().join(to), golden(from)).expect("written");
    }
    let settings = settings(folder.path());
    assert_eq!(settings.replicas.write_quorum, Some(2));
    let login = |name: &str| {
        let store = settings.stores.iter().find(|store| store.name == name).expect("a store");
        (store, &store.settings.provider.credentials)
    };
    assert_eq!(*login("aws").1, Credentials::Found, "at its own cloud the task's role is found");
    let (gcp, file) = login("gcp");
    assert_eq!(*file, Credentials::File(folder.path().join("gcp.json")));
    let token_file = PathBuf::from("/run/holdfast/tokens/azure");
    let (tenant, client) = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-00000000000c");
    let workload = Credentials::WorkloadIdentity {
        tenant_id: Some(tenant.into()),
        client_id: Some(client.into()),
        token: Some(TokenSource::File(token_file)),
    };
    assert_eq!(*login("azure").1, workload);
    // Google's library takes the file: it asks nobody before the first request.
    open(&Env::real(), "gcp", &gcp.url, &gcp.settings, false).await.unwrap_or_else(|e| panic!("{e:?}"));
}
