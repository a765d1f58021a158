//! What comes out of the root module is read unchanged. The files in `terraform/tests/golden` are what its tests compare
//! `config_toml` with (`terraform/tests/root.tftest.hcl`, run by `terraform_run.rs`); here they go through the real parser, and
//! through the real program to a backup and a restore at all three providers' servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::clock::Env;
use holdfast::config::resolve::resolve;
use holdfast::config::{Environment, Overrides, Settings};
use holdfast::store::credentials::Credentials;
use holdfast::store::open;

use crate::support::azure_server::AzureServer;
use crate::support::gcs_server::GcsServer;
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
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(0), "{words:?}\n{said}\n{}", String::from_utf8_lossy(&out.stderr));
    said
}

#[test]
fn from_the_root_module_to_a_restore() {
    let (s3, gcs, azure) = (S3Server::start(), GcsServer::open_to_all(), AzureServer::start());
    let folder = tempfile::tempdir().expect("a folder");
    let home = std::fs::canonicalize(folder.path()).expect("there");
    // Nothing is changed but where the providers are.
    let mut text = golden("surroundings.toml");
    for (url, sign, endpoint) in [
        ("s3://bucket/a/prefix?region=eu-test-1", '&', s3.endpoint()),
        ("gs://bucket/a/prefix", '?', gcs.endpoint()),
        ("az://testaccount/container/a/prefix", '?', azure.endpoint()),
    ] {
        let (from, to) = (format!("url = \"{url}\""), format!("url = \"{url}{sign}endpoint={endpoint}\""));
        assert!(text.contains(&from), "{url} is not in the configuration");
        text = text.replace(&from, &to);
    }
    std::fs::write(home.join("holdfast.toml"), text).expect("written");
    let source = home.join("data/home");
    std::fs::create_dir_all(source.join("deep")).expect("made");
    for (name, bytes) in
        [("small", b"a few words".to_vec()), ("deep/noise", noise(1, 3 << 20)), ("left.tmp", b"excluded".to_vec())]
    {
        std::fs::write(source.join(name), bytes).expect("written");
    }
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
    let shown: serde_json::Value = serde_json::from_str(&holdfast(&home, &environment, &["snapshots", "--json"])).expect("JSON");
    let [snapshot] = shown.as_array().expect("an array").as_slice() else { panic!("one snapshot: {shown}") };
    assert_eq!((&snapshot["hostname"], &snapshot["tags"]), (&"scheduled".into(), &serde_json::json!(["daily"])), "{shown}");
    for store in ["aws", "gcp", "azure"] {
        let target = home.join(format!("from-{store}"));
        let words = ["restore", "latest", "--target", target.to_str().expect("plain"), "--from", store];
        holdfast(&home, &environment, &words);
        let restored = |name: &str| std::fs::read(target.join(source.join(name).strip_prefix("/").expect("absolute")));
        for name in ["small", "deep/noise"] {
            assert_eq!(restored(name).ok(), std::fs::read(source.join(name)).ok(), "{name} from {store}");
        }
        assert!(restored("left.tmp").is_err(), "the exclusion of the job holds");
    }
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
        token_file: Some(token_file),
    };
    assert_eq!(*login("azure").1, workload);
    // Google's library takes the file: it asks nobody before the first request.
    open(&Env::real(), "gcp", &gcp.url, &gcp.settings, false).await.unwrap_or_else(|e| panic!("{e:?}"));
}
