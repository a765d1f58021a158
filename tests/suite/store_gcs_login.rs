//! How Google Cloud Storage is logged in to: over TLS, as the real one is reached, and a process of its own for each way that the
//! surroundings give, since the environment belongs to a process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;
use holdfast::store::{Store, open};

use crate::support::authority::Authority;
use crate::support::door::{Act, Fault};
use crate::support::gcs_server::{GcsServer, TOKEN};
use crate::support::gcs_tokens::{SUBJECT, TokenServer};
use crate::support::name;

/// The login that a child uses, by the name that its parent gives it.
fn login(text: &str) -> Credentials {
    match text.split_once('|') {
        None if text == "found" => Credentials::Found,
        None if text == "metadata-server" => Credentials::MetadataServer,
        Some(("file", path)) => Credentials::File(path.into()),
        Some(("impersonated", account)) => Credentials::Impersonated(account.into()),
        Some(("access-token", path)) => Credentials::AccessToken(SecretSource::File(path.into())),
        other => panic!("{other:?}"),
    }
}

fn told(error: &StoreError) -> String {
    format!("{:?} {error}: {}", error.kind, error.source.as_ref().map(ToString::to_string).unwrap_or_default())
}

/// Uses both of the SDK's clients.
async fn put_and_look(store: &dyn Store, object: &str) -> Result<(), StoreError> {
    store.put(&name(object), Bytes::from_static(b"x")).await?;
    store.stat(&name(object)).await.map(|info| assert_eq!(info.unwrap().size, 1))
}

#[test]
#[ignore = "the child process of the tests below"]
fn as_a_child() {
    if std::env::var_os("CHILD_LOGIN").is_none() {
        return;
    }
    let var = |name: &str| std::env::var(name).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let url = StoreUrl::parse(&var("CHILD_URL"), Path::new("/")).unwrap();
        let timeout = Duration::from_secs(var("CHILD_TIMEOUT").parse().unwrap());
        let mut settings = StoreSettings { retries: 0, timeout, ..StoreSettings::default() };
        settings.provider.credentials = login(&var("CHILD_LOGIN"));
        let done = match open(&Env::real(), "child", &url, &settings, false).await {
            Ok(opened) => put_and_look(&*opened.store, &var("CHILD_OBJECT")).await,
            Err(e) => Err(e),
        };
        println!("CHILD {}", done.err().map_or("stored".to_owned(), |e| told(&e)));
    });
}

/// What a process with this login and nothing else but `environment` comes to.
fn child(url: &StoreUrl, login: &str, object: &str, timeout: u32, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store_gcs_login::as_a_child", "--ignored", "--nocapture"]).env_clear();
    // Nothing of this machine: neither its files nor its metadata server.
    command.envs([("HOME", "/nonexistent"), ("GCE_METADATA_HOST", "127.0.0.1:1")]);
    command.envs([("CHILD_LOGIN", login), ("CHILD_OBJECT", object)]);
    command.envs([("CHILD_URL", url.to_string()), ("CHILD_TIMEOUT", timeout.to_string())]);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{login}: {text}");
    assert!(!text.contains("may-hold"), "{login}: {text}");
    let line = text.lines().find_map(|line| line.split_once("CHILD ")).unwrap_or_else(|| panic!("{text}"));
    line.1.to_owned()
}

const ACCOUNT: &str = "backup@project.iam.gserviceaccount.com";

/// A name, the login, the environment, and the token that must arrive (of a signed one, its first letters).
type Way<'a> = (&'a str, String, Vec<(&'a str, &'a str)>, &'a str);

#[test]
fn every_way_to_log_in() {
    let (authority, tokens, home) = (Authority::new(), TokenServer::start(), tempfile::tempdir().unwrap());
    let server = GcsServer::start_tls(&authority);
    let trust = authority.file(home.path());
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let subject = file("subject", SUBJECT);
    let external = file("external.json", &tokens.external_account(&subject, false));
    let impersonating = file("impersonating.json", &tokens.external_account(&subject, true));
    let person = tokens.authorized_user();
    file(".config/gcloud/application_default_credentials.json", &person.to_string());
    let impersonated = serde_json::json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": tokens.impersonation(),
        "source_credentials": person,
    });
    let impersonated = file("impersonated.json", &impersonated.to_string());
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let account = serde_json::json!({
        "type": "service_account",
        "client_email": ACCOUNT,
        "private_key_id": "1",
        "private_key": key.serialize_pem(),
        "project_id": "project",
    });
    let account = file("account.json", &account.to_string());
    let token = file("token", TOKEN);
    server.admit_account(ACCOUNT);
    ["exchange", "metadata", "refresh", "impersonation"].iter().for_each(|way| server.admit(&format!("by-{way}")));

    let metadata = tokens.endpoint().replace("http://", "");
    let metadata = ("GCE_METADATA_HOST", metadata.as_str());
    let named = ("GOOGLE_APPLICATION_CREDENTIALS", external.as_str());
    let at_home = ("HOME", home.path().to_str().unwrap());
    let ways: Vec<Way> = vec![
        ("found-file", "found".into(), vec![named, at_home, metadata], "by-exchange"),
        ("found-at-home", "found".into(), vec![at_home, metadata], "by-refresh"),
        ("found-metadata", "found".into(), vec![metadata], "by-metadata"),
        ("metadata", "metadata-server".into(), vec![named, at_home, metadata], "by-metadata"),
        ("external", format!("file|{external}"), vec![at_home], "by-exchange"),
        ("external-impersonating", format!("file|{impersonating}"), vec![], "by-impersonation"),
        ("impersonated", format!("file|{impersonated}"), vec![], "by-impersonation"),
        ("account", format!("file|{account}"), vec![], "eyJ"),
        ("token", format!("access-token|{token}"), vec![named], TOKEN),
    ];
    for (way, login, environment, token) in ways {
        server.take_seen();
        let environment = [&environment[..], &[("SSL_CERT_FILE", trust.to_str().unwrap())]].concat();
        let told = child(&server.url("repo"), &login, &format!("data/{way}"), 40, &environment);
        assert_eq!(told, "stored", "{way}: asked {:?}", tokens.take_asked());
        let seen = server.take_seen();
        assert_eq!(seen.iter().map(|s| s.operation).collect::<Vec<_>>(), ["put", "stat"], "{way}");
        for request in seen {
            let bearer = request.header("authorization");
            assert!(bearer.starts_with(&format!("Bearer {token}")), "{way}: {bearer}");
        }
    }
    // Whom nobody vouches for is not spoken to.
    let told = child(&server.url("repo"), &format!("access-token|{token}"), "data/x", 40, &[]);
    assert!(told.contains("SSL_CERT_FILE"), "{told}");
    assert!(server.take_seen().is_empty());
}

#[test]
fn nobody_to_ask_as_is_said_with_what_to_do() {
    let (authority, home) = (Authority::new(), tempfile::tempdir().unwrap());
    let server = GcsServer::start_tls(&authority);
    let trust = authority.file(home.path());
    let told = child(&server.url("repo"), "found", "data/x", 4, &[("SSL_CERT_FILE", trust.to_str().unwrap())]);
    assert!(told.starts_with("Denied store child: put data/x: permission denied"), "{told}");
    assert!(told.contains("gcloud auth application-default login"), "{told}");
    assert!(server.take_seen().is_empty());
}

#[test]
fn an_account_is_impersonated_at_google() {
    // Where that is cannot be set, so this looks no further than the way there.
    let (authority, tokens, home) = (Authority::new(), TokenServer::start(), tempfile::tempdir().unwrap());
    let server = GcsServer::start_tls(&authority);
    let (trust, subject, external) = (authority.file(home.path()), home.path().join("subject"), home.path().join("external"));
    std::fs::write(&subject, SUBJECT).unwrap();
    std::fs::write(&external, tokens.external_account(subject.to_str().unwrap(), false)).unwrap();
    let proxy = tokens.endpoint();
    let environment = [
        ("SSL_CERT_FILE", trust.to_str().unwrap()),
        ("GOOGLE_APPLICATION_CREDENTIALS", external.to_str().unwrap()),
        ("HTTPS_PROXY", &proxy),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let told = child(&server.url("repo"), &format!("impersonated|{ACCOUNT}"), "data/x", 4, &environment);
    assert!(told.starts_with("Denied store child: put data/x"), "{told}");
    let asked = tokens.take_asked();
    assert!(asked[0].starts_with("POST /exchange"), "{asked:?}");
    assert!(asked.iter().any(|a| a.starts_with("CONNECT iamcredentials.googleapis.com:443")), "{asked:?}");
    assert!(server.take_seen().is_empty());
}

/// A workload's store, its server, who gives it tokens, and its files. The tokens last so many seconds, if that is said.
struct Workload {
    server: GcsServer,
    tokens: TokenServer,
    store: std::sync::Arc<dyn Store>,
    _home: tempfile::TempDir,
}

/// What the workload has as a token of its own, how long an attempt may take, and what its token server does first.
async fn workload(subject: &str, timeout: u64, lifetime: Option<u64>, fault: Option<Fault>) -> Workload {
    let (server, tokens, home) = (GcsServer::start(), TokenServer::start(), tempfile::tempdir().unwrap());
    let (subject_file, external) = (home.path().join("subject"), home.path().join("external"));
    std::fs::write(&subject_file, subject).unwrap();
    let mut file: serde_json::Value =
        serde_json::from_str(&tokens.external_account(subject_file.to_str().unwrap(), false)).unwrap();
    if subject.starts_with('{') {
        file["credential_source"]["format"] = serde_json::json!({ "type": "json", "subject_token_field_name": "token" });
    }
    std::fs::write(&external, file.to_string()).unwrap();
    ["", "-1", "-2", "-3"].iter().for_each(|number| server.admit(&format!("by-exchange{number}")));
    lifetime.into_iter().for_each(|seconds| tokens.lifetime(seconds));
    fault.into_iter().for_each(|fault| tokens.fault(fault));
    let mut settings = StoreSettings { retries: 0, timeout: Duration::from_secs(timeout), ..StoreSettings::default() };
    settings.provider.credentials = Credentials::File(external);
    let store = open(&Env::real(), "paris", &server.url("repo"), &settings, false).await.unwrap().store;
    Workload { server, tokens, store, _home: home }
}

#[tokio::test]
async fn credentials_are_renewed_in_mid_run() {
    let at = workload(SUBJECT, 60, Some(1), None).await;
    put_and_look(&*at.store, "data/0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    put_and_look(&*at.store, "data/1").await.unwrap_or_else(|e| panic!("{}", told(&e)));
    let seen = at.server.take_seen();
    let bearers: Vec<_> = seen.iter().map(|s| s.header("authorization")).collect();
    assert_eq!((bearers[0], bearers[2]), ("Bearer by-exchange-1", "Bearer by-exchange-2"), "{bearers:?}");
}

#[tokio::test]
async fn who_gives_tokens_may_need_a_moment() {
    let not_yet = Fault::new(Act::Answer { status: 503, headers: vec![], body: "not yet".into() });
    let at = workload(SUBJECT, 60, None, Some(not_yet)).await;
    put_and_look(&*at.store, "data/0").await.unwrap_or_else(|e| panic!("{}", told(&e)));
    assert_eq!((at.tokens.count("token"), at.server.count("put")), (2, 1));
}

#[tokio::test]
async fn a_login_that_worked_and_does_not_answer_will_pass() {
    let at = workload(SUBJECT, 4, Some(1), None).await;
    put_and_look(&*at.store, "data/0").await.unwrap();
    at.tokens.down(true);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let error = put_and_look(&*at.store, "data/1").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{}", told(&error));
}

#[tokio::test]
async fn a_login_that_is_refused_is_denied_and_quotes_no_secret() {
    let wrong_file = format!("{{\"other\":\"{SUBJECT}\"}}");
    for (subject, asked) in [("another-that-no-message-may-hold", 1), (&wrong_file, 0)] {
        let at = workload(subject, 20, None, None).await;
        let error = put_and_look(&*at.store, "data/0").await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{}", told(&error));
        let text = told(&error);
        assert!(text.contains("no usable credentials") && !text.contains("may-hold"), "{text}");
        assert_eq!((at.tokens.count("token"), at.server.counts().len()), (asked, 0));
    }
}
