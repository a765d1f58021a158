//! How Azure is logged in to: over TLS, as the real one is reached, and a process of its own for each way, since the environment
//! belongs to a process. Each way goes through the configuration, which finds some of them.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::config::resolve::resolve;
use holdfast::config::{Environment, Overrides};
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::error::StoreError;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;
use holdfast::store::{Store, open};

use crate::support::authority::Authority;
use crate::support::azure_login::Known;
use crate::support::azure_server::{AzureServer, KEY, TOKEN, refusal};
use crate::support::azure_tokens::{CLIENT, CLIENT_SECRET, FEDERATED, IDENTITY_HEADER, TENANT, TokenServer};
use crate::support::door::{Act, Fault};
use crate::support::gcs_tokens;
use crate::support::name;

fn told(error: &StoreError) -> String {
    format!("{:?} {error}: {}", error.kind, error.source.as_ref().map(ToString::to_string).unwrap_or_default())
}

async fn put_and_look(store: &dyn Store, object: &str) -> Result<(), StoreError> {
    store.put(&name(object), Bytes::from_static(b"x")).await?;
    store.stat(&name(object)).await.map(|info| assert_eq!(info.unwrap().size, 1))
}

#[test]
#[ignore = "the child process of the tests below"]
fn as_a_child() {
    let Ok(object) = std::env::var("CHILD_OBJECT") else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let current = std::env::current_dir().unwrap();
        let settings = resolve(&Overrides::default(), &Environment::of_process(), &current).unwrap();
        let store = &settings.stores[0];
        let done = match open(&Env::real(), "child", &store.url, &store.settings, false).await {
            Ok(opened) => put_and_look(&*opened.store, &object).await,
            Err(e) => Err(e),
        };
        println!("CHILD {}", done.err().map_or("stored".to_owned(), |e| told(&e)));
    });
}

/// Where a child runs: a folder with its configuration.
struct Home {
    folder: tempfile::TempDir,
    trust: String,
    /// How long an attempt may take.
    timeout: &'static str,
}

impl Home {
    fn new(authority: &Authority) -> Home {
        let folder = tempfile::tempdir().unwrap();
        let trust = authority.file(folder.path()).to_str().unwrap().to_owned();
        Home { folder, trust, timeout: "60s" }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A folder with a program `az` that prints a token, or fails.
    fn az(&self, folder: &str, script: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(&format!("{folder}/az"), &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:/usr/bin:/bin", Path::new(&path).parent().unwrap().display())
    }

    /// What a process with this login and nothing else but `environment` comes to.
    fn child(&self, url: &StoreUrl, login: &str, object: &str, environment: &[(&str, &str)]) -> String {
        let login = if login.is_empty() { String::new() } else { format!("credentials = {{ {login} }}\n") };
        let (trust, timeout) = (&self.trust, self.timeout);
        let text = format!(
            "[[store]]\nname = \"a\"\nurl = \"{url}\"\nretries = 0\ntimeout = \"{timeout}\"\nca_file = \"{trust}\"\n{login}"
        );
        self.file("holdfast.toml", &text);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "store_azure_login::as_a_child", "--ignored", "--nocapture"]).env_clear();
        command.current_dir(self.folder.path()).envs([("HOME", "/nonexistent"), ("CHILD_OBJECT", object)]);
        // Nothing of this machine: where identities are given out, nobody listens, unless the test says otherwise.
        command.envs([("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token"), ("IDENTITY_HEADER", "none")]);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{login}: {text}");
        assert!(!text.contains("may-hold") && !text.contains(KEY) && !text.contains("sig="), "{login}: {text}");
        let line = text.lines().find_map(|line| line.split_once("CHILD ")).unwrap_or_else(|| panic!("{text}"));
        line.1.to_owned()
    }
}

const PRINTS: &str = "printf '{\"accessToken\":\"%s\",\"expires_on\":4102444800,\"tokenType\":\"Bearer\"}'";

#[test]
fn every_way_to_log_in() {
    let authority = Authority::new();
    let (server, home) = (AzureServer::start_tls(&authority), Home::new(&authority));
    let (directory, machine) = (TokenServer::start(Some(&authority), 3600), TokenServer::start(None, 3600));
    let (host, door) = (directory.endpoint(), format!("{}/msi/token", machine.endpoint()));
    let token_file = home.file("federated", FEDERATED);
    let path = home.az("bin", &format!("{PRINTS} {TOKEN}"));
    let signature = server.signature("rcdl", "2099-01-01T00:00:00Z");
    let ids = [("AZURE_TENANT_ID", TENANT), ("AZURE_CLIENT_ID", CLIENT), ("AZURE_AUTHORITY_HOST", host.as_str())];
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        ids.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let key = ("AZURE_STORAGE_KEY", KEY);
    let secret = ("AZURE_CLIENT_SECRET", CLIENT_SECRET);
    let federated = ("AZURE_FEDERATED_TOKEN_FILE", token_file.as_str());
    let managed = [("IDENTITY_ENDPOINT", door.as_str()), ("IDENTITY_HEADER", IDENTITY_HEADER)];
    let az = ("PATH", path.as_str());
    let explicit = format!("kind = \"client-secret\", tenant_id = \"{TENANT}\", client_id = \"{CLIENT}\", secret_env = \"MINE\"");
    let workload =
        format!("kind = \"workload-identity\", tenant_id = \"{TENANT}\", client_id = \"{CLIENT}\", token_file = \"federated\"");
    // A name, the login, the environment besides the ids, who is asked for a token, and by what it then goes.
    type Way<'a> = (&'a str, &'a str, Vec<(&'static str, &'a str)>, &'a str);
    let ways: Vec<Way> = vec![
        ("found-key", "", vec![key, secret, federated, az], ""),
        ("found-sas", "", vec![("AZURE_STORAGE_SAS_TOKEN", signature.as_str()), secret, federated, az], ""),
        ("found-key-of-another", "", vec![key, ("AZURE_STORAGE_ACCOUNT", "another"), secret, federated, az], "secret"),
        ("found-secret", "kind = \"found\"", vec![secret, federated, managed[0], managed[1], az], "secret"),
        ("found-workload", "", vec![federated, managed[0], managed[1], az], "assertion"),
        ("found-managed", "", vec![managed[0], managed[1], az], "managed"),
        ("found-cli", "", vec![az], ""),
        ("secret", &explicit, vec![("MINE", CLIENT_SECRET), key], "secret"),
        ("workload", &workload, vec![key], "assertion"),
        ("managed", "kind = \"managed-identity\"", vec![managed[0], managed[1], key], "managed"),
        ("managed-mine", "kind = \"managed-identity\", client_id = \"mine\"", vec![managed[0], managed[1]], "managed mine"),
        ("cli", "kind = \"cli\"", vec![az, key], ""),
        ("key", "kind = \"account-key\", secret_env = \"MINE\"", vec![("MINE", KEY), secret], ""),
        ("sas", "kind = \"sas\", secret_env = \"MINE\"", vec![("MINE", signature.as_str()), secret], ""),
    ];
    for (way, login, environment, asked) in ways {
        server.take_seen();
        let environment = with(&environment);
        let pairs: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(home.child(&server.url("repo"), login, &format!("data/{way}"), &pairs), "stored", "{way}");
        // Two requests, one token.
        let tokens = [directory.take_asked(), machine.take_asked()].concat();
        assert_eq!(tokens, Some(asked.to_owned()).filter(|a| !a.is_empty()).into_iter().collect::<Vec<_>>(), "{way}");
        let scheme = match way {
            _ if way.ends_with("key") => "SharedKey ",
            _ if way.ends_with("sas") => "",
            _ => "Bearer ",
        };
        for seen in server.take_seen() {
            assert!(seen.header("authorization").starts_with(scheme), "{way}: {seen:?}");
            assert_eq!(seen.header("authorization").is_empty(), scheme.is_empty(), "{way}: {seen:?}");
        }
    }
}

#[test]
fn those_who_cannot_log_in_are_told_why() {
    let authority = Authority::new();
    let (server, home) = (AzureServer::start_tls(&authority), Home::new(&authority));
    let (directory, machine) = (TokenServer::start(Some(&authority), 3600), TokenServer::start(None, 3600));
    let (host, door) = (directory.endpoint(), format!("{}/msi/token", machine.endpoint()));
    let no_az = home.az("none", "echo 'ERROR: Please run az login to setup account.' >&2; exit 1");
    let base = [("AZURE_TENANT_ID", TENANT), ("AZURE_CLIENT_ID", CLIENT), ("AZURE_AUTHORITY_HOST", host.as_str())];
    let url = server.url("repo");
    let run = |login: &str, environment: &[(&str, &str)]| home.child(&url, login, "data/x", &[&base, environment].concat());
    let says = |text: String, words: &[&str]| {
        for word in words {
            assert!(text.contains(word), "{text:?} does not say {word:?}");
        }
    };
    let secret = ("AZURE_CLIENT_SECRET", CLIENT_SECRET);
    says(run("", &[("AZURE_CLIENT_SECRET", "wrong")]), &["Denied", "put data/x", "AADSTS7000215", "no usable credentials"]);
    says(run("", &[("PATH", &no_az)]), &["Denied", "nobody gives out managed identities", "az login", "no usable credentials"]);
    says(run("kind = \"managed-identity\"", &[("PATH", &no_az)]), &["Denied", "nobody gives out managed identities"]);
    let managed = [("IDENTITY_ENDPOINT", door.as_str()), ("IDENTITY_HEADER", "wrong")];
    says(run("kind = \"managed-identity\"", &managed), &["Denied", "no usable credentials"]);
    says(run("kind = \"cli\"", &[("PATH", &no_az)]), &["Denied", "az login"]);
    says(run("kind = \"workload-identity\"", &[]), &["Invalid", "opening az://", "token file"]);
    // What may pass is no reason to say that nobody is known.
    directory.fault(Fault::new(Act::Answer { status: 503, headers: Vec::new(), body: "{}".into() }));
    says(run("", &[secret]), &["Unavailable"]);
    directory.fault(Fault::new(Act::Reset));
    says(run("", &[secret]), &["Unavailable"]);
    // The managed identity is in trouble: nobody becomes somebody else for that.
    machine.fault(Fault::new(Act::Reset).times(9));
    let works = home.az("bin", &format!("{PRINTS} {TOKEN}"));
    let troubled = [("IDENTITY_ENDPOINT", door.as_str()), ("IDENTITY_HEADER", IDENTITY_HEADER), ("PATH", works.as_str())];
    says(run("", &troubled), &["Unavailable"]);
    // A token that the account does not take.
    says(run("kind = \"cli\"", &[("PATH", &home.az("other", &format!("{PRINTS} another-token")))]), &["Denied", "has run out"]);
    server.fault(refusal(403, "AuthorizationPermissionMismatch").on("PutBlob"));
    says(run("", &[secret]), &["Denied", "Storage Blob Data Contributor"]);
}

#[test]
fn tokens_are_renewed_before_they_run_out() {
    let authority = Authority::new();
    let (server, home) = (AzureServer::start_tls(&authority), Home::new(&authority));
    let directory = TokenServer::start(Some(&authority), 60);
    let host = directory.endpoint();
    let environment = [
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_AUTHORITY_HOST", host.as_str()),
        ("AZURE_CLIENT_SECRET", CLIENT_SECRET),
    ];
    assert_eq!(home.child(&server.url("repo"), "", "data/x", &environment), "stored");
    // Each is too close to its end for the second request.
    assert_eq!(directory.take_asked(), ["secret", "secret"]);
}

/// A machine at Google, which the directory knows by a federated credential.
struct Machine {
    server: AzureServer,
    directory: TokenServer,
    google: gcs_tokens::TokenServer,
    home: Home,
}

impl Machine {
    /// Tokens of the directory last so many seconds.
    fn new(seconds: i64) -> Machine {
        let authority = Authority::new();
        Machine {
            server: AzureServer::start_tls(&authority),
            directory: TokenServer::start(Some(&authority), seconds),
            google: gcs_tokens::TokenServer::start(),
            home: Home::new(&authority),
        }
    }

    /// What a process on the machine comes to.
    fn child(&self, login: &str, object: &str, environment: &[(&str, &str)]) -> String {
        let (host, google) = (self.directory.endpoint(), self.google.endpoint().replace("http://", ""));
        let base = [("AZURE_AUTHORITY_HOST", host.as_str()), ("GCE_METADATA_HOST", google.as_str())];
        self.home.child(&self.server.url("repo"), login, object, &[&base, environment].concat())
    }
}

const GOOGLE: &str = "kind = \"workload-identity\", token_from = \"google-metadata-server\"";

#[test]
fn a_machine_at_google_logs_in_by_a_token_that_is_in_no_file() {
    let at = Machine::new(3600);
    let named = format!("{GOOGLE}, tenant_id = \"{TENANT}\", client_id = \"{CLIENT}\"");
    // Whatever else is found: what is named is used.
    assert_eq!(at.child(&named, "data/x", &[("AZURE_STORAGE_KEY", KEY)]), "stored");
    assert_eq!(at.directory.take_asked(), ["google"], "two requests, one token");
    let path = "GET /computeMetadata/v1/instance/service-accounts/default/identity?audience=";
    assert_eq!(at.google.take_asked(), [format!("{path}api%3A%2F%2FAzureADTokenExchange&format=full ")]);
    // The environment names who it is.
    assert_eq!(at.child(GOOGLE, "data/y", &[("AZURE_TENANT_ID", TENANT), ("AZURE_CLIENT_ID", CLIENT)]), "stored");
    assert_eq!(at.directory.take_asked(), ["google"]);
    // Made out to somebody else.
    let told = at.child(&format!("{named}, audience = \"sts.amazonaws.com\""), "data/z", &[]);
    assert!(told.starts_with("Denied") && told.contains("AADSTS700213") && told.contains("no usable credentials"), "{told}");
    at.google.take_asked();
    // Each of the directory's tokens that is about to end takes a token of Google's of its own.
    let at = Machine::new(60);
    assert_eq!(at.child(&named, "data/x", &[]), "stored");
    assert_eq!((at.directory.take_asked().len(), at.google.take_asked().len()), (2, 2));
}

#[test]
fn a_metadata_server_that_gives_no_token_is_told_apart() {
    let answer = |status: u16, body: &str| Act::Answer { status, headers: vec![], body: body.into() };
    let named = format!("{GOOGLE}, tenant_id = \"{TENANT}\", client_id = \"{CLIENT}\"");
    let at = Machine::new(3600);
    at.google.fault(Fault::new(answer(503, "not yet")));
    assert_eq!(at.child(&named, "data/x", &[]), "stored");
    let cases = [
        (answer(500, "oops"), "Unavailable", "HTTP 500"),
        (Act::Silence, "Unavailable", "no answer in time"),
        (answer(404, "no service account"), "Denied", "HTTP 404"),
        (answer(200, "<html>a.page.of</html>"), "Denied", "an answer that is no token"),
        (answer(200, &"a".repeat(20_000)), "Denied", "more than 16384 bytes"),
    ];
    for (act, kind, words) in cases {
        let mut at = Machine::new(3600);
        at.home.timeout = "4s";
        at.google.fault(Fault::new(act.clone()).times(99));
        let told = at.child(&named, "data/x", &[]);
        assert!(told.starts_with(&format!("{kind} store ")) && told.contains(words), "{act:?}: {told}");
        assert!(told.contains("asking Google's metadata server 127.0.0.1:"), "{told}");
        // The fix is this login's, not a list of others.
        assert_eq!(told.matches("no usable credentials").count(), usize::from(kind == "Denied"), "{told}");
        assert!(!told.contains("az login"), "{told}");
        assert!(at.directory.take_asked().is_empty() && at.server.take_seen().is_empty(), "{act:?}");
    }
    let at = Machine { home: Home { timeout: "3s", ..at.home }, ..at };
    let told = at.child(&named, "data/x", &[("GCE_METADATA_HOST", "127.0.0.1:1")]);
    assert!(told.starts_with("Denied") && told.contains("Cloud Run") && told.contains("token_file"), "{told}");
}

/// The rules by which the server of the tests knows a shared access signature are those of a foreign server, too.
#[tokio::test]
#[ignore = "needs the server that a variable names, see tests/README.md"]
async fn in_azure_elsewhere_signatures_hold() {
    let (Ok(text), Ok(key)) = (std::env::var("HOLDFAST_TEST_AZURE_URL"), std::env::var("AZURE_STORAGE_KEY")) else {
        eprintln!("ignored: HOLDFAST_TEST_AZURE_URL or AZURE_STORAGE_KEY is not set");
        return;
    };
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let fresh = hex::encode(Env::real().random::<8>());
    let url = StoreUrl::parse(&format!("{}/sas-{fresh}?{query}", path.trim_end_matches('/')), Path::new("/")).unwrap();
    let mut parts = path.trim_start_matches("az://").split('/');
    let (account, container) = (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned());
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, key.trim()).unwrap();
    let known = Known { account, key, container, tokens: Default::default(), open: false };
    let store = |letters: &str, until: &str| {
        let mut settings = StoreSettings { retries: 0, ..StoreSettings::default() };
        let query = known.signature(letters, until);
        settings.provider.credentials = Credentials::Sas(SecretSource::Value(query.into()));
        let url = url.clone();
        async move { open(&Env::real(), "elsewhere", &url, &settings, false).await.unwrap().store }
    };
    let good = "2099-01-01T00:00:00Z";
    put_and_look(&*store("rcdl", good).await, "data/x").await.unwrap_or_else(|e| panic!("{}", told(&e)));
    for (letters, until) in [("rl", good), ("rcdl", "2020-01-01T00:00:00Z")] {
        let error = put_and_look(&*store(letters, until).await, "data/y").await.unwrap_err();
        assert!(told(&error).starts_with("Denied"), "{letters} {until}: {}", told(&error));
    }
}
