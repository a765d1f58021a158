//! How S3 is logged in to from the surroundings: a process of its own for each way, since the environment belongs to a process.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::store::credentials::Credentials;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::open;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;

use crate::support::aws_tokens::TokenServer;
use crate::support::name;
use crate::support::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};

/// The login that a child uses, by the name that its parent gives it.
fn login(text: &str) -> Credentials {
    let mut parts = text.split('|');
    match (parts.next().unwrap(), parts.next(), parts.next()) {
        ("found", None, None) => Credentials::Found,
        ("profile", Some(profile), None) => Credentials::Profile(profile.into()),
        ("role", Some(arn), Some(id)) => Credentials::Role { arn: arn.into(), external_id: Some(id.into()), profile: None },
        ("web", Some(arn), Some(file)) => Credentials::WebIdentity { arn: arn.into(), token_file: file.into() },
        other => panic!("{other:?}"),
    }
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
        let mut settings = StoreSettings { retries: 0, ..StoreSettings::default() };
        settings.provider.credentials = login(&var("CHILD_LOGIN"));
        let opened = open(&Env::real(), "child", &url, &settings, false).await;
        let told = match opened {
            Ok(opened) => match opened.store.put(&name(&var("CHILD_OBJECT")), Bytes::from_static(b"x")).await {
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
    assert!(!text.contains(SECRET_KEY), "{login}: {text}");
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
