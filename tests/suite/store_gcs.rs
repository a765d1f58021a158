//! Google Cloud Storage beyond the contract: what goes over the wire, what becomes of every fault, who may ask, and that secrets
//! stay secret.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use holdfast::clock::Env;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::gcs::GcsStore;
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::{Place, StoreUrl};
use holdfast::store::{Store, wrap};

use crate::support::door::{Act, Fault};
use crate::support::gcs_bucket::crc32c;
use crate::support::gcs_server::{BUCKET, GcsServer, TOKEN, refusal, status};
use crate::support::name;

async fn opened(url: &StoreUrl, settings: &StoreSettings) -> Result<GcsStore, StoreError> {
    let Place::Gcs(bucket) = url.place() else { panic!("{url}") };
    GcsStore::open(&Env::real(), "oslo", bucket, settings).await
}

async fn store(server: &GcsServer) -> GcsStore {
    opened(&server.url("repo"), &server.settings()).await.unwrap()
}

/// The whole of an error, as a person gets to see it.
fn told(error: &StoreError) -> String {
    format!("{error}: {}", error.source.as_ref().map(ToString::to_string).unwrap_or_default())
}

fn body(length: usize) -> Bytes {
    let mut out = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out.into()
}

#[tokio::test]
async fn a_put_is_one_conditional_request_with_a_sum() {
    let server = GcsServer::start();
    let mut settings = server.settings();
    settings.provider.storage_classes.insert("data".into(), "NEARLINE".into());
    settings.provider.kms_key = Some("projects/p/locations/l/keyRings/r/cryptoKeys/k".into());
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    for (object, class, size) in
        [("data/ab/cd", "NEARLINE", 100_000), ("meta/ab/cd", "STANDARD", 10), ("data/xl", "NEARLINE", 40 << 20)]
    {
        store.put(&name(object), body(size)).await.unwrap();
        let seen = server.take_seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let put = &seen[0];
        assert_eq!((put.operation, put.path.as_str()), ("put", format!("/upload/storage/v1/b/{BUCKET}/o").as_str()));
        for part in ["uploadType=multipart", "ifGenerationMatch=0", "kmsKeyName=projects%2Fp%2F"] {
            assert!(put.query.contains(part), "{}", put.query);
        }
        assert_eq!(put.header("authorization"), format!("Bearer {TOKEN}"));
        let kept = server.bucket(|b| b.objects[&format!("repo/{object}")].clone());
        assert!(kept.summed, "the sum goes along, and the server compares it");
        assert_eq!((kept.class.as_str(), kept.bytes.len(), kept.crc32c), (class, size, crc32c(&body(size))));
        assert_eq!(kept.kms_key, settings.provider.kms_key);
    }
}

#[tokio::test]
async fn requests_are_counted() {
    let server = GcsServer::start();
    let store = store(&server).await;
    assert!(server.counts().is_empty(), "opening asks nobody");
    for i in 0..3 {
        store.put(&name(&format!("data/{i}")), body(10)).await.unwrap();
    }
    store.get(&name("data/0"), None).await.unwrap();
    store.get(&name("data/0"), Some(2..4)).await.unwrap();
    store.stat(&name("data/0")).await.unwrap();
    store.stat(&name("data/absent")).await.unwrap();
    store.list("").map(|i| i.unwrap()).collect::<Vec<_>>().await;
    store.delete(&[name("data/0"), name("data/1"), name("data/absent")]).await;
    let expected = [("delete", 3), ("get", 2), ("list", 1), ("put", 3), ("stat", 2)];
    assert_eq!(server.counts().into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn pages_are_of_a_thousand() {
    let server = GcsServer::start();
    let store = store(&server).await;
    let names: Vec<_> = (0..2001).map(|i| name(&format!("data/{i:05}"))).collect();
    let puts = futures::stream::iter(&names).map(|n| store.put(n, Bytes::from_static(b"x"))).buffer_unordered(8);
    puts.try_collect::<()>().await.unwrap();
    let listed: Vec<_> = store.list("data/").map(|i| i.unwrap().name).collect().await;
    assert_eq!(listed, names);
    assert_eq!(server.count("list"), 3);
    assert!(store.delete(&names).await.is_empty());
    assert_eq!(store.list("").count().await, 0);
}

#[tokio::test]
async fn strangers_in_the_bucket_are_not_ours() {
    let server = GcsServer::start();
    let (store, other) = (store(&server).await, opened(&server.url("repo2"), &server.settings()).await.unwrap());
    store.put(&name("descriptor"), body(1)).await.unwrap();
    other.put(&name("descriptor"), body(2)).await.unwrap();
    server.bucket(|b| {
        let like = b.objects["repo/descriptor"].clone();
        for key in ["repo/UPPER", "repo/a b", "repo//x", "repo/tmp/x", "repo"] {
            b.objects.insert(key.to_owned(), like.clone());
        }
    });
    let listed: Vec<_> = store.list("").map(|i| i.unwrap().name.to_string()).collect().await;
    assert_eq!(listed, ["descriptor"]);
}

#[tokio::test]
async fn names_as_long_as_they_may_be() {
    let server = GcsServer::start();
    // With "repo/" before them, 1024 and 1025 bytes.
    let segment = "s".repeat(126);
    let text = [segment.as_str(); 8].join("/") + "/0123";
    assert_eq!("repo/".len() + text.len() - 1, 1024);
    let (fits, longer) = (name(&text[..text.len() - 1]), name(&text));
    let store = store(&server).await;
    store.put(&fits, body(7)).await.unwrap();
    assert_eq!(store.get(&fits, None).await.unwrap(), body(7));
    assert_eq!(store.stat(&fits).await.unwrap().unwrap().size, 7);
    assert_eq!(store.list(fits.as_str()).map(|i| i.unwrap().name).collect::<Vec<_>>().await, std::slice::from_ref(&fits));
    for error in [store.put(&longer, body(7)).await.unwrap_err(), store.get(&longer, None).await.unwrap_err()] {
        assert_eq!(error.kind, StoreErrorKind::Invalid, "{}", told(&error));
    }
    assert!(store.delete(&[fits, longer]).await.is_empty());
}

/// What a request comes to: the class, and what the message must say.
struct Case {
    fault: Fault,
    kind: StoreErrorKind,
    says: &'static [&'static str],
}

fn case(fault: Fault, kind: StoreErrorKind, says: &'static [&'static str]) -> Case {
    Case { fault, kind, says }
}

async fn error_of(store: &GcsStore, operation: &str, object: &ObjectName) -> StoreError {
    match operation {
        "put" => store.put(&name("data/new"), body(1000)).await.unwrap_err(),
        "get" => store.get(object, None).await.unwrap_err(),
        "stat" => store.stat(object).await.unwrap_err(),
        "list" => store.list("data/").next().await.unwrap().unwrap_err(),
        "delete" => store.delete(std::slice::from_ref(object)).await.pop().unwrap().1,
        other => panic!("{other}"),
    }
}

/// Faults of the JSON API, which puts and gets see.
fn by_json() -> Vec<Case> {
    use StoreErrorKind::{Denied, Full, Invalid, NotFound, Throttled, TimedOut, Unavailable};
    let past = "Mon, 01 Jan 2024 00:00:00 GMT";
    vec![
        case(
            refusal(403, "forbidden", "no"),
            Denied,
            &["forbidden (HTTP 403): no", "request REQUEST7", "needed: storage.objects."],
        ),
        case(refusal(403, "retentionPolicyNotMet", ""), Denied, &["retention policy"]),
        case(refusal(401, "authError", "Invalid Credentials"), Denied, &["Invalid Credentials", "gcloud auth"]),
        case(refusal(401, "authError", "").header("date", past), Denied, &["set this machine's clock", "Jan 2024"]),
        case(refusal(404, "notFound", "The specified bucket does not exist."), NotFound, &["there is no bucket bucket"]),
        case(refusal(429, "rateLimitExceeded", ""), Throttled(None), &[]),
        case(refusal(429, "", "").header("retry-after", "7"), Throttled(Some(Duration::from_secs(7))), &["HTTP 429"]),
        case(refusal(403, "userRateLimitExceeded", ""), Throttled(None), &[]),
        case(refusal(503, "", "").header("retry-after", "1"), Throttled(Some(Duration::from_secs(1))), &[]),
        case(refusal(503, "backendError", "busy"), Unavailable, &["backendError (HTTP 503): busy"]),
        case(refusal(500, "backendError", ""), Unavailable, &[]),
        case(refusal(502, "", ""), Unavailable, &["HTTP 502"]),
        case(refusal(504, "", ""), Unavailable, &[]),
        case(refusal(409, "conflict", ""), Unavailable, &[]),
        case(refusal(408, "", ""), TimedOut, &[]),
        case(refusal(507, "", ""), Full, &[]),
        case(refusal(501, "notImplemented", ""), Invalid, &[]),
        case(refusal(400, "invalid", "Malformed"), Invalid, &["invalid (HTTP 400): Malformed"]),
        case(refusal(400, "invalid", "The Cloud KMS key is in the wrong region"), Invalid, &["kms_key"]),
        case(answer(502, "<html>a proxy's own words</html>"), Unavailable, &["a proxy's own words"]),
        case(answer(302, ""), Invalid, &[]),
        case(Fault::new(Act::Reset), Unavailable, &[]),
    ]
}

/// Faults of gRPC, which stats, listings and removals see.
fn by_grpc() -> Vec<Case> {
    use StoreErrorKind::{Denied, Invalid, Throttled, TimedOut, Unavailable};
    vec![
        case(status(7, "no"), Denied, &["PERMISSION_DENIED: no", "needed: storage.objects."]),
        case(status(16, "who?"), Denied, &["UNAUTHENTICATED: who?", "gcloud auth"]),
        case(status(8, "slow down"), Throttled(None), &["RESOURCE_EXHAUSTED"]),
        case(status(14, "away"), Unavailable, &["UNAVAILABLE: away"]),
        case(status(13, "broken"), Unavailable, &["INTERNAL"]),
        case(status(10, ""), Unavailable, &[]),
        case(status(2, ""), Unavailable, &[]),
        case(status(4, ""), TimedOut, &[]),
        case(status(3, "what?"), Invalid, &["INVALID_ARGUMENT: what?"]),
        case(status(12, "no such method"), Invalid, &["does not speak the gRPC"]),
        case(status(9, "held"), Invalid, &["held"]),
        case(answer(503, "a load balancer's page"), Unavailable, &[]),
        case(answer(200, "not a message"), Unavailable, &[]),
        case(Fault::new(Act::Reset), Unavailable, &[]),
    ]
}

fn answer(status: u16, body: &str) -> Fault {
    let headers = vec![("content-type", "text/html".to_owned())];
    Fault::new(Act::Answer { status, headers, body: body.to_owned() })
}

#[tokio::test]
async fn refusals_have_their_class_at_one_attempt() {
    use StoreErrorKind::{AlreadyExists, Corrupt, Denied, Invalid, NotFound, Unavailable};
    let server = GcsServer::start();
    let store = store(&server).await;
    let there = name("data/there");
    store.put(&there, body(1000)).await.unwrap();
    let mut cases: Vec<(&str, Case)> = Vec::new();
    for operation in ["put", "get"] {
        cases.extend(by_json().into_iter().map(|c| (operation, c)));
    }
    for operation in ["stat", "list", "delete"] {
        cases.extend(by_grpc().into_iter().map(|c| (operation, c)));
    }
    cases.extend([
        ("put", case(refusal(412, "conditionNotMet", ""), AlreadyExists, &[])),
        (
            "put",
            case(refusal(400, "invalid", "Provided CRC32C \"a\" doesn't match calculated CRC32C \"b\"."), Corrupt, &["CRC32C"]),
        ),
        ("put", case(refusal(404, "notFound", "Not Found"), NotFound, &["there is no bucket bucket"])),
        ("put", case(answer(200, "{}"), Unavailable, &["unknown"])),
        ("put", case(answer(200, "no JSON"), Unavailable, &[])),
        (
            "put",
            case(
                answer(200, "{\"generation\":\"5\",\"size\":\"1000\",\"crc32c\":\"AAAAAA==\"}"),
                Corrupt,
                &["the server's sum is not that of what was sent"],
            ),
        ),
        ("put", case(answer(200, "{\"generation\":\"5\",\"size\":\"999\"}"), Unavailable, &["right size"])),
        (
            "put",
            case(
                refusal(403, "forbidden", ""),
                Denied,
                &["storage.objects.create on projects/_/buckets/bucket/objects/repo/data/new"],
            ),
        ),
        (
            "put",
            case(
                refusal(403, "forbidden", "who@x does not have storage.objects.delete access to the object."),
                AlreadyExists,
                &[],
            ),
        ),
        ("get", case(refusal(404, "notFound", "No such object: bucket/repo/data/there"), NotFound, &["No such object"])),
        ("get", case(refusal(403, "forbidden", ""), Denied, &["storage.objects.get on", "storage.objects.list"])),
        ("get", case(refusal(416, "requestedRangeNotSatisfiable", ""), Invalid, &[])),
        ("get", case(answer(200, "without a word about it"), Corrupt, &["x-goog-generation"])),
        ("get", case(Fault::new(Act::CutBody(100)), Unavailable, &["after 100 of 1000 bytes"])),
        ("get", case(Fault::new(Act::CutBody(0)), Unavailable, &["after 0 of 1000 bytes"])),
        ("get", case(Fault::new(Act::FlipBit(777)), Corrupt, &["CRC32C"])),
        ("list", case(status(7, ""), Denied, &["storage.objects.list on projects/_/buckets/bucket ("])),
        ("list", case(status(5, "The specified bucket does not exist."), NotFound, &["there is no bucket bucket"])),
        ("delete", case(status(7, ""), Denied, &["storage.objects.delete on projects/_/buckets/bucket/objects/repo/data/there"])),
    ]);
    for (operation, Case { fault, kind, says }) in cases {
        let what = format!("{operation} {fault:?}");
        let before = server.count(operation);
        server.fault(fault.on(operation));
        let error = error_of(&store, operation, &there).await;
        assert_eq!(error.kind, kind, "{what}: {}", told(&error));
        assert_eq!(server.count(operation), before + 1, "{what}: attempts");
        assert!(server.faults_are_over(), "{what}");
        let text = told(&error);
        assert!(text.starts_with("store oslo: "), "{text}");
        for said in says {
            assert!(text.contains(said), "{what}: {text:?} does not say {said:?}");
        }
        assert!(!text.contains(TOKEN), "{text}");
    }
    assert_eq!(store.get(&there, None).await.unwrap(), body(1000), "and all is well again");
}

#[tokio::test]
async fn an_absent_bucket_is_not_an_absent_object() {
    let server = GcsServer::start();
    let store = opened(&server.url_of("elsewhere", "repo"), &server.settings()).await.unwrap();
    for operation in ["put", "get", "stat", "list", "delete"] {
        let error = error_of(&store, operation, &name("data/x")).await;
        assert_eq!(error.kind, StoreErrorKind::NotFound, "{operation}: {}", told(&error));
        assert!(told(&error).contains("there is no bucket elsewhere"), "{operation}: {}", told(&error));
    }
    // Where the words do not tell, a listing does; once the bucket was seen, nobody asks again.
    let store = self::store(&server).await;
    server.fault(status(5, "gone").times(2).on("stat"));
    server.fault(status(5, "gone").on("delete"));
    assert_eq!(store.stat(&name("data/x")).await.unwrap(), None);
    assert_eq!(store.stat(&name("data/x")).await.unwrap(), None);
    assert!(store.delete(&[name("data/x")]).await.is_empty());
    assert_eq!(server.count("list"), 1 + 3, "one for each in the bucket that is not there, and one in the other");
}

#[tokio::test]
async fn what_was_carried_out_and_not_answered_is_settled_by_retry() {
    let server = GcsServer::start();
    let (env, mut settings) = (Env::real(), server.settings());
    settings.retries = 3;
    let store = wrap(&env, std::sync::Arc::new(store(&server).await), &settings).store;
    for (i, fault) in [
        Fault::new(Act::Reset).carried_out(),
        Fault::new(Act::Reset),
        refusal(500, "backendError", "").carried_out(),
        refusal(429, "rateLimitExceeded", ""),
        refusal(409, "conflict", ""),
        answer(200, "{}").carried_out(),
    ]
    .into_iter()
    .enumerate()
    {
        let (object, bytes) = (name(&format!("log/{i}")), body(500 + i));
        server.fault(fault.on("put"));
        let before = server.count("put");
        store.put(&object, bytes.clone()).await.unwrap_or_else(|e| panic!("{i}: {}", told(&e)));
        assert_eq!(server.count("put"), before + 2, "{i}");
        assert_eq!(store.get(&object, None).await.unwrap(), bytes);
    }
    // And reads that broke off come whole at the second attempt.
    for fault in [Fault::new(Act::CutBody(3)), Fault::new(Act::FlipBit(3)), refusal(503, "", "")] {
        let before = server.count("get");
        server.fault(fault.on("get"));
        assert_eq!(store.get(&name("log/0"), None).await.unwrap(), body(500));
        assert_eq!(server.count("get"), before + 2);
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let server = GcsServer::start();
    let mut settings = server.settings();
    settings.timeout = Duration::from_millis(500);
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    store.put(&name("data/there"), body(1000)).await.unwrap();
    server.fault(Fault::new(Act::StallBody(10)).on("get"));
    let given_up = tokio::time::timeout(Duration::from_secs(60), store.get(&name("data/there"), None)).await;
    let error = given_up.expect("the store gives up by itself").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::TimedOut, "{}", told(&error));
    assert!(told(&error).contains("after 10 of 1000 bytes"), "{}", told(&error));
    // What is not answered at all is cut off by the attempt's limit.
    let wrapped = wrap(&Env::real(), std::sync::Arc::new(store), &StoreSettings { retries: 0, ..settings }).store;
    for operation in ["put", "get", "stat"] {
        server.fault(Fault::new(Act::Silence).on(operation));
        let object = name(&format!("data/{operation}"));
        let work = async {
            match operation {
                "put" => wrapped.put(&object, body(10)).await,
                "get" => wrapped.get(&object, None).await.map(drop),
                _ => wrapped.stat(&object).await.map(drop),
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(60), work).await.expect("it is cut off").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::TimedOut, "{operation}: {}", told(&error));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let server = GcsServer::start();
    let (url, settings) = (server.url("repo"), server.settings());
    drop(server);
    let store = opened(&url, &settings).await.expect("opening asks nobody");
    for operation in ["put", "get", "stat", "list", "delete"] {
        let error = error_of(&store, operation, &name("data/x")).await;
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{operation}: {}", told(&error));
    }
}

#[tokio::test]
async fn credentials_are_told_apart_and_stay_at_home() {
    let server = GcsServer::start();
    let secret = |text: &str| SecretSource::Value(text.to_owned().into());
    let with = |credentials: Credentials| {
        let mut settings = server.settings();
        settings.provider.credentials = credentials;
        settings
    };
    let error = async |credentials: Credentials| {
        let store = opened(&server.url("repo"), &with(credentials)).await.unwrap();
        let put = store.put(&name("data/0"), body(1)).await.unwrap_err();
        let stat = store.stat(&name("data/0")).await.unwrap_err();
        assert_eq!((put.kind, stat.kind), (StoreErrorKind::Denied, StoreErrorKind::Denied), "{} {}", told(&put), told(&stat));
        assert!(!format!("{store:?}").contains("may-hold"));
        told(&put) + &told(&stat)
    };
    // A wrong token, none, and what is found: over plain http that is none.
    let text = error(Credentials::AccessToken(secret("wrong-token-may-hold"))).await;
    assert!(text.contains("Invalid Credentials") && text.contains("UNAUTHENTICATED"), "{text}");
    assert!(!text.contains("may-hold"), "{text}");
    let asked_before = server.take_seen();
    assert_eq!(asked_before.len(), 2);
    for credentials in [Credentials::Anonymous, Credentials::Found] {
        let text = error(credentials).await;
        assert!(text.contains("Anonymous caller"), "{text}");
    }
    assert!(server.take_seen().iter().all(|s| s.header("authorization").is_empty()));
    // A token from a file is read when the store is opened.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let store = opened(&server.url("repo"), &with(Credentials::AccessToken(SecretSource::File(file)))).await.unwrap();
    store.put(&name("data/0"), body(1)).await.unwrap();
    // An open server needs nobody's.
    let open = GcsServer::open_to_all();
    let store = opened(&open.url("repo"), &with(Credentials::Anonymous)).await.unwrap();
    store.put(&name("data/0"), body(1)).await.unwrap();
    assert_eq!(store.get(&name("data/0"), None).await.unwrap(), body(1));
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_opening() {
    let server = GcsServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Credentials::File(path)
    };
    let secret = || SecretSource::Value("secret-that-no-message-may-hold".to_owned().into());
    let (here, there) = (server.endpoint(), "http://gcs.test:4443");
    let cases = [
        (&here, Credentials::Cli, "is not a way to log in to Google Cloud Storage"),
        (&here, Credentials::Profile("x".into()), "an AWS profile is not a way"),
        (&here, Credentials::AccountKey(secret()), "an account key is not a way"),
        (&here, Credentials::AccessToken(SecretSource::File(folder.path().join("none"))), "reading the secret in"),
        (&here, Credentials::AccessToken(SecretSource::Value("a\nb-may-hold".to_owned().into())), "signs that no token has"),
        (&here, Credentials::File(folder.path().join("none")), "none"),
        (&here, file("text", "{secret-that-no-message-may-hold"), "no JSON (line 1)"),
        (&here, file("bare", "{}"), "there is no `type`"),
        (&here, file("kind", "{\"type\":\"spy\"}"), "their type \"spy\" is not known"),
        (&here, file("half", "{\"type\":\"service_account\"}"), "missing field"),
        (&here, Credentials::Impersonated("nobody".into()), "names no service account"),
        (&there.to_owned(), Credentials::AccessToken(secret()), "not sent over plain http to another machine"),
        (&there.to_owned(), Credentials::MetadataServer, "not sent over plain http to another machine"),
    ];
    for (endpoint, credentials, says) in cases {
        let mut settings = StoreSettings::default();
        settings.provider.credentials = credentials;
        settings.provider.endpoint = Some(endpoint.clone());
        let url = StoreUrl::parse("gs://bucket/repo", folder.path()).unwrap();
        let error = opened(&url, &settings).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid, "{says}");
        let text = told(&error);
        assert!(text.contains("opening the bucket bucket") && text.contains(says), "{text:?} does not say {says:?}");
        assert!(!text.contains("may-hold"), "{text}");
    }
    let mut settings = server.settings();
    settings.provider.ca_file = Some("/x".into());
    let error = opened(&server.url("repo"), &settings).await.unwrap_err();
    assert!(told(&error).contains("SSL_CERT_FILE"), "{}", told(&error));
    assert!(server.counts().is_empty());
}
