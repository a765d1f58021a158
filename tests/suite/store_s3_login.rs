//! How S3 is logged in to from the surroundings: a process of its own for each way, since the environment belongs to a process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::store::credentials::{Credentials, TokenSource};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;
use holdfast::store::{Store, open};
use serde_json::json;

use crate::support::aws_tokens::TokenServer;
use crate::support::azure_login::pairs;
use crate::support::desk::Desk;
use crate::support::door::{Act, Fault};
use crate::support::gcs_tokens::{self, UNIQUE_ID, claims};
use crate::support::name;
use crate::support::rights::{policies, rendered};
use crate::support::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};

/// The login that a child uses, by the name that its parent gives it.
fn login(text: &str) -> Credentials {
    let mut parts = text.split('|');
    match (parts.next().unwrap(), parts.next(), parts.next()) {
        ("found", None, None) => Credentials::Found,
        ("profile", Some(profile), None) => Credentials::Profile(profile.into()),
        ("role", Some(arn), Some(id)) => Credentials::Role { arn: arn.into(), external_id: Some(id.into()), profile: None },
        ("web", Some(arn), Some(file)) => Credentials::WebIdentity { arn: arn.into(), token: TokenSource::File(file.into()) },
        ("google", Some(audience), Some(host)) => {
            let token = TokenSource::MetadataServer { host: Some(host.into()), audience: audience.into() };
            Credentials::WebIdentity { arn: ROLE.into(), token }
        }
        other => panic!("{other:?}"),
    }
}

/// Puts an object, or several if that is asked for.
async fn puts(store: &dyn Store, object: &str) -> Result<(), StoreError> {
    let Ok(many) = std::env::var("CHILD_PUTS") else { return store.put(&name(object), Bytes::from_static(b"x")).await };
    for number in 0..many.parse::<u32>().unwrap() {
        store.put(&name(&format!("{object}-{number}")), Bytes::from_static(b"x")).await?;
    }
    Ok(())
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
        let seconds = std::env::var("CHILD_TIMEOUT").map_or(60, |text| text.parse().unwrap());
        let timeout = Duration::from_secs(seconds);
        let mut settings = StoreSettings { retries: 0, timeout, ..StoreSettings::default() };
        settings.provider.credentials = login(&var("CHILD_LOGIN"));
        let opened = open(&Env::real(), "child", &url, &settings, false).await;
        let told = match opened {
            Ok(opened) => match puts(&*opened.store, &var("CHILD_OBJECT")).await {
                Ok(()) => "stored".to_owned(),
                Err(e) => format!("{:?} {e}: {}", e.kind, e.source.as_ref().unwrap()),
            },
            Err(e) => format!("{:?} {e}: {}", e.kind, e.source.as_ref().unwrap()),
        };
        println!("CHILD {told}");
    });
}

/// What a process with this login and nothing else but `environment` comes to.
fn child(url: &StoreUrl, login: &str, object: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "store_s3_login::as_a_child", "--ignored", "--nocapture"]).env_clear();
    // Nothing of this machine: neither its files nor its metadata server.
    command.envs([("HOME", "/nonexistent"), ("AWS_EC2_METADATA_DISABLED", "true")]);
    command.envs([("CHILD_LOGIN", login), ("CHILD_OBJECT", object), ("CHILD_URL", &url.to_string())]);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{login}: {text}");
    assert!(!text.contains(SECRET_KEY) && !text.contains("may-hold"), "{login}: {text}");
    let line = text.lines().find_map(|line| line.split_once("CHILD ")).unwrap_or_else(|| panic!("{text}"));
    line.1.to_owned()
}

/// A name, the login, the environment, and the session token that must arrive.
type Way<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a str);

const ROLE: &str = "arn:aws:iam::123456789012:role/backup";

#[test]
fn every_way_to_log_in_from_the_surroundings() {
    let (server, tokens, home) = (S3Server::start(), TokenServer::start(), tempfile::tempdir().unwrap());
    let tokens_at = tokens.endpoint();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let token_file = file("token", "a web identity token");
    let printed = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\"SessionToken\":\"by-process\"}}"
    );
    let process = file("process", &format!("echo '{printed}'\n"));
    let config = file(
        "config",
        &format!(
            "[default]\nregion = eu-test-1\n\
             [profile keys]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\naws_session_token = by-keys\n\
             [profile assumed]\nrole_arn = {ROLE}\nsource_profile = keys\nexternal_id = outside\n\
             [profile process]\ncredential_process = sh {process}\n\
             [profile sso]\nsso_start_url = https://sso.test/start\nsso_region = eu-test-1\nsso_account_id = 123456789012\n\
             sso_role_name = backup\n"
        ),
    );
    // The name of a cached SSO token is the SHA-1 of its start URL.
    file(
        ".aws/sso/cache/c2e09b4fac288e7a35fb1a0f7b55446a509137e5.json",
        "{\"accessToken\":\"sso-secret\",\"expiresAt\":\"2099-01-01T00:00:00Z\",\"region\":\"eu-test-1\",\"startUrl\":\"https://sso.test/start\"}",
    );
    let keys = server.environment();
    let sts = ("AWS_ENDPOINT_URL_STS", tokens_at.as_str());
    let files = [("AWS_CONFIG_FILE", config.as_str()), ("HOME", home.path().to_str().unwrap())];
    let container = format!("{tokens_at}/container");
    let role = format!("role|{ROLE}|outside");
    let web = format!("web|{ROLE}|{token_file}");
    let ways: Vec<Way> = vec![
        ("environment", "found", keys.to_vec(), ""),
        ("environment-token", "found", [&keys[..], &[("AWS_SESSION_TOKEN", "by-environment")]].concat(), "by-environment"),
        ("profile-found", "found", [&files[..], &[("AWS_PROFILE", "keys")]].concat(), "by-keys"),
        (
            "profile-named",
            "profile|keys",
            [&files[..], &[("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")]].concat(),
            "by-keys",
        ),
        ("profile-role", "profile|assumed", [&files[..], &[sts]].concat(), "by-AssumeRole"),
        ("profile-process", "profile|process", [&files[..], &[("PATH", "/usr/bin:/bin")]].concat(), "by-process"),
        ("profile-sso", "profile|sso", [&files[..], &[("AWS_ENDPOINT_URL_SSO", &tokens_at)]].concat(), "by-sso"),
        ("role", &role, [&keys[..], &[sts]].concat(), "by-AssumeRole"),
        ("web", &web, vec![sts], "by-AssumeRoleWithWebIdentity"),
        (
            "web-found",
            "found",
            vec![sts, ("AWS_WEB_IDENTITY_TOKEN_FILE", &token_file), ("AWS_ROLE_ARN", ROLE)],
            "by-AssumeRoleWithWebIdentity",
        ),
        (
            "container",
            "found",
            vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-secret")],
            "by-container",
        ),
        (
            "instance",
            "found",
            vec![("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &tokens_at)],
            "by-instance",
        ),
    ];
    for (way, login, environment, token) in ways {
        server.take_seen();
        tokens.take_asked();
        let told = child(&server.url("repo"), login, &format!("data/{way}"), &environment);
        let asked = tokens.take_asked();
        assert_eq!(told, "stored", "{way}: asked {asked:?}");
        let seen = server.take_seen();
        assert_eq!(seen.len(), 1, "{way}: {seen:?}");
        assert_eq!(seen[0].header("x-amz-security-token"), token, "{way}");
        if way == "role" || way == "profile-role" {
            assert!(asked.iter().any(|a| a.contains("ExternalId=outside")), "{way}: {asked:?}");
        }
    }
}

#[test]
fn nobody_to_ask_as_is_said_with_what_to_do() {
    let server = S3Server::start();
    let told = child(&server.url("repo"), "found", "data/x", &[]);
    assert!(told.starts_with("Denied store child: put data/x: permission denied"), "{told}");
    assert!(told.contains("AWS_ACCESS_KEY_ID") && told.contains("aws sso login"), "{told}");
    assert_eq!(server.counts().len(), 0);
}

#[test]
fn the_region_is_found_or_asked_for() {
    let (server, home) = (S3Server::start(), tempfile::tempdir().unwrap());
    let aws = StoreUrl::parse("s3://bucket/repo", Path::new("/")).unwrap();
    let told = child(&aws, "found", "data/x", &server.environment());
    assert!(told.starts_with(&format!("{:?} store child: opening the bucket bucket", StoreErrorKind::Invalid)), "{told}");
    assert!(told.contains("?region=") && told.contains("AWS_REGION"), "{told}");
    // Elsewhere the region is only a word of the signature: one is made up, unless the surroundings know better.
    let here = StoreUrl::parse(&format!("s3://bucket/repo?endpoint={}", server.endpoint()), Path::new("/")).unwrap();
    let config = home.path().join("config");
    std::fs::write(&config, "[default]\nregion = profile-1\n").unwrap();
    let cases = [
        (vec![], "us-east-1"),
        (vec![("AWS_REGION", "environment-1")], "environment-1"),
        (vec![("AWS_CONFIG_FILE", config.to_str().unwrap())], "profile-1"),
    ];
    for (more, region) in cases {
        let told = child(&here, "found", &format!("data/{region}"), &[&server.environment()[..], &more].concat());
        assert_eq!(told, "stored", "{region}");
        let seen = server.take_seen();
        assert!(seen[0].header("authorization").contains(&format!("/{region}/s3/")), "{seen:?}");
    }
}

#[tokio::test]
async fn credentials_are_renewed_in_mid_run() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let times = folder.path().join("times");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let printed = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\"Expiration\":\"{}\"}}",
        soon.strftime("%Y-%m-%dT%H:%M:%SZ")
    );
    let mut settings = server.settings();
    settings.provider.credentials = Credentials::CredentialProcess(format!("echo once >> {}; echo '{printed}'", times.display()));
    let store = open(&Env::real(), "paris", &server.url("repo"), &settings, false).await.unwrap().store;
    for i in 0..3 {
        store.put(&name(&format!("data/{i}")), Bytes::from_static(b"x")).await.unwrap();
    }
    let asked = std::fs::read_to_string(&times).unwrap().lines().count();
    assert!(asked >= 2, "credentials about to expire were asked for {asked} times");
}

/// A machine at Google: who gives it tokens, AWS's own, and a bucket.
struct Machine {
    server: S3Server,
    google: gcs_tokens::TokenServer,
    tokens: TokenServer,
}

impl Machine {
    /// The role lets the machine's service account in, as `terraform/modules/aws` writes that down.
    fn new() -> Machine {
        let at = Machine { server: S3Server::start(), google: gcs_tokens::TokenServer::start(), tokens: TokenServer::start() };
        let account = json!({ "provider": "accounts.google.com", "host": "accounts.google.com", "google": true,
            "subjects": [UNIQUE_ID], "audience": "sts.amazonaws.com" });
        let trust = json!({ "account_id": "123456789012", "trusted": [account], "principals": [], "pods": [] });
        at.tokens.trust(ROLE, rendered(&policies("aws").join("trust.json.tftpl"), &trust));
        at
    }

    fn host(&self) -> String {
        self.google.endpoint().replace("http://", "")
    }

    /// What a process on the machine comes to.
    fn child(&self, object: &str, audience: &str, more: &[(&str, &str)]) -> String {
        let sts = self.tokens.endpoint();
        let environment = [&[("AWS_ENDPOINT_URL_STS", sts.as_str())], more].concat();
        child(&self.server.url("repo"), &format!("google|{audience}|{}", self.host()), object, &environment)
    }

    /// The numbers of the tokens that AWS was shown, and the roles that they were shown for.
    fn shown(&self) -> Vec<(u64, String)> {
        let forms = self.tokens.take_asked().into_iter().map(|asked| pairs(asked.split_once(' ').unwrap().1));
        forms
            .map(|form| (claims(&form["WebIdentityToken"]).unwrap()["number"].as_u64().unwrap(), form["RoleArn"].clone()))
            .collect()
    }
}

#[test]
fn a_machine_at_google_takes_a_role_by_a_token_that_is_in_no_file() {
    let at = Machine::new();
    assert_eq!(at.child("data/x", "sts.amazonaws.com", &[("CHILD_PUTS", "3")]), "stored");
    // One token and one key for all three.
    assert_eq!(at.shown(), [(1, ROLE.to_owned())]);
    let seen = at.server.take_seen();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.iter().all(|s| s.header("x-amz-security-token") == "by-AssumeRoleWithWebIdentity"), "{seen:?}");
    let asked = at.google.take_asked();
    let path = "GET /computeMetadata/v1/instance/service-accounts/default/identity?audience=sts.amazonaws.com&format=full ";
    assert_eq!(asked, [path]);
}

#[test]
fn the_role_is_renewed_by_a_fresh_token_before_it_ends() {
    let at = Machine::new();
    at.tokens.lifetime(30);
    assert_eq!(at.child("data/x", "sts.amazonaws.com", &[("CHILD_PUTS", "3")]), "stored");
    let shown: Vec<u64> = at.shown().into_iter().map(|(number, _)| number).collect();
    assert_eq!(shown, [1, 2, 3], "a key that is about to end, and a token of its own for each");
    // One that lasts is kept.
    at.tokens.lifetime(3600);
    assert_eq!(at.child("data/y", "sts.amazonaws.com", &[("CHILD_PUTS", "3")]), "stored");
    assert_eq!(at.shown().len(), 1);
}

#[test]
fn a_token_leaves_nothing_behind() {
    let (at, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    let place = ("TMPDIR", folder.path().to_str().unwrap());
    assert_eq!(at.child("data/x", "sts.amazonaws.com", &[place]), "stored");
    assert!(at.child("data/x", "another", &[place]).starts_with("Denied"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    // Where it cannot lie for a moment, that is said.
    let told = at.child("data/x", "sts.amazonaws.com", &[("TMPDIR", "/nonexistent")]);
    assert!(told.starts_with("Invalid store child: put data/x") && told.contains("TMPDIR"), "{told}");
}

#[test]
fn a_metadata_server_that_gives_no_token_is_told_apart() {
    let answer = |status: u16, body: &str| Act::Answer { status, headers: vec![], body: body.into() };
    // A moment's trouble is waited for.
    let at = Machine::new();
    at.google.fault(Fault::new(answer(503, "not yet")));
    assert_eq!(at.child("data/x", "sts.amazonaws.com", &[]), "stored");
    assert_eq!(at.google.count("token"), 2);
    let long = "a".repeat(20_000);
    let cases = [
        (answer(500, "oops"), "Unavailable", "HTTP 500"),
        (Act::Silence, "Unavailable", "no answer in time"),
        (Act::Reset, "Unavailable", "for a token: "),
        (answer(404, "no service account"), "Denied", "HTTP 404"),
        (answer(302, ""), "Denied", "HTTP 302"),
        (answer(200, "<html>a.page.of</html>"), "Denied", "an answer that is no token"),
        (answer(200, ""), "Denied", "an answer that is no token"),
        (answer(200, &format!("{long}.{long}.{long}")), "Denied", "more than 16384 bytes"),
    ];
    for (act, kind, words) in cases {
        let at = Machine::new();
        at.google.fault(Fault::new(act.clone()).times(99));
        let told = at.child("data/x", "sts.amazonaws.com", &[("CHILD_TIMEOUT", "4")]);
        let begin = format!("{kind} store child: put data/x");
        assert!(told.starts_with(&begin) && told.contains(words), "{act:?}: {told}");
        assert!(told.contains(&format!("asking Google's metadata server {}", at.host())), "{told}");
        assert_eq!(told.contains("no usable credentials"), kind == "Denied", "{told}");
        assert_eq!((at.shown().len(), at.server.take_seen().len()), (0, 0), "{act:?}");
    }
    // Elsewhere there is none.
    let told = child(&at.server.url("repo"), "google|sts.amazonaws.com|127.0.0.1:1", "data/x", &[("CHILD_TIMEOUT", "3")]);
    assert!(told.starts_with("Denied") && told.contains("Cloud Run") && told.contains("token_file"), "{told}");
}

#[test]
fn what_aws_says_to_a_token_is_told() {
    let at = Machine::new();
    let told = at.child("data/x", "another", &[]);
    assert!(told.starts_with("Denied") && told.contains("AccessDenied") && told.contains("accounts.google.com"), "{told}");
    assert!(told.contains(ROLE), "{told}");
    let told =
        at.child("data/x", "sts.amazonaws.com", &[("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1"), ("CHILD_TIMEOUT", "50")]);
    assert!(told.starts_with("Unavailable") && told.contains(ROLE), "{told}");
    assert_eq!(at.server.take_seen().len(), 0);
}

/// The real program, with the login in its configuration.
#[test]
fn the_exit_code_says_whether_it_is_worth_another_try() {
    let at = Machine::new();
    let desk = Desk::new(&[], "");
    let login = format!("{{ kind = \"web-identity\", role = \"{ROLE}\", token_from = \"google-metadata-server\" }}");
    let url = at.server.url("repo");
    let store = format!("[[store]]\nname = \"a\"\nurl = \"{url}\"\nretries = 0\ntimeout = \"4s\"\ncredentials = {login}\n");
    desk.configure(&store, "");
    let run = |words: &[&str], google: &gcs_tokens::TokenServer| {
        let mut command = desk.command(words);
        command
            .env("GCE_METADATA_HOST", google.endpoint().replace("http://", ""))
            .env("AWS_ENDPOINT_URL_STS", at.tokens.endpoint());
        let output = command.output().expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let source = desk.at("src");
    let backup = ["backup", source.to_str().unwrap()];
    let (ended, said) = run(&["init"], &at.google);
    assert_eq!(ended, Some(0), "{said}");
    let (ended, said) = run(&backup, &at.google);
    assert_eq!(ended, Some(0), "{said}");
    for (status, body, code) in [(200, "no token", 13), (404, "", 13), (500, "", 1)] {
        let google = gcs_tokens::TokenServer::start();
        google.fault(Fault::new(Act::Answer { status, headers: vec![], body: body.into() }).times(999));
        let (ended, said) = run(&backup, &google);
        assert_eq!(ended, Some(code), "{status}: {said}");
        assert!(said.contains("Google's metadata server") && !said.contains("may-hold"), "{said}");
    }
}
