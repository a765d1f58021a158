//! S3 beyond the contract: what goes over the wire, what becomes of every fault, who may ask, and that secrets stay secret.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use holdfast::clock::Env;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::s3::S3Store;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::{Place, StoreUrl};
use holdfast::store::{Store, wrap};

use crate::support::name;
use crate::support::s3_server::{ACCESS_KEY, Act, BUCKET, Fault, REGION, S3Server, SECRET_KEY};

async fn opened(url: &StoreUrl, settings: &StoreSettings) -> Result<S3Store, StoreError> {
    let Place::S3(bucket) = url.place() else { panic!("{url}") };
    S3Store::open(&Env::real(), "paris", bucket, settings).await
}

async fn store(server: &S3Server) -> S3Store {
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
    let server = S3Server::start();
    let mut settings = server.settings();
    settings.provider.storage_classes.insert("data".into(), "STANDARD_IA".into());
    settings.provider.kms_key = Some("alias/ours".into());
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    for (object, class) in [("data/ab/cd", "STANDARD_IA"), ("meta/ab/cd", ""), ("descriptor", "")] {
        store.put(&name(object), body(100_000)).await.unwrap();
        let seen = server.take_seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let put = &seen[0];
        assert_eq!((put.operation, put.path.as_str()), ("PutObject", format!("/{BUCKET}/repo/{object}").as_str()));
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &body(100_000)).to_be_bytes();
        let sum = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sum);
        assert_eq!(put.header("x-amz-checksum-crc64nvme"), sum);
        assert_eq!(put.header("if-none-match"), "*");
        assert_eq!(put.header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
        assert_eq!(put.header("content-length"), "100000");
        assert_eq!(put.header("x-amz-storage-class"), class, "{object}");
        assert_eq!(put.header("x-amz-server-side-encryption"), "aws:kms");
        assert_eq!(put.header("x-amz-server-side-encryption-aws-kms-key-id"), "alias/ours");
        assert!(put.header("authorization").contains(&format!("{ACCESS_KEY}/")), "{put:?}");
        assert!(put.header("authorization").contains(&format!("/{REGION}/s3/")), "{put:?}");
        for none in ["content-md5", "transfer-encoding", "expect", "x-amz-trailer", "content-encoding"] {
            assert_eq!(put.header(none), "", "{none}");
        }
        let class_kept = server.bucket(|b| b.current(&format!("repo/{object}")).unwrap().class.clone());
        assert_eq!(class_kept.unwrap_or_default(), class);
    }
}

#[tokio::test]
async fn requests_are_counted() {
    let server = S3Server::start();
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
    let expected = [("DeleteObjects", 1), ("GetObject", 2), ("HeadObject", 2), ("ListObjectsV2", 1), ("PutObject", 3)];
    assert_eq!(server.counts().into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn pages_and_batches_are_of_a_thousand() {
    let server = S3Server::start();
    let store = store(&server).await;
    let names: Vec<_> = (0..2001).map(|i| name(&format!("data/{i:05}"))).collect();
    let puts = futures::stream::iter(&names).map(|n| store.put(n, Bytes::from_static(b"x"))).buffer_unordered(8);
    puts.try_collect::<()>().await.unwrap();
    let listed: Vec<_> = store.list("data/").map(|i| i.unwrap().name).collect().await;
    assert_eq!(listed, names);
    assert_eq!(server.count("ListObjectsV2"), 3);
    assert!(store.delete(&names).await.is_empty());
    assert_eq!(server.count("DeleteObjects"), 3);
    assert_eq!(store.list("").count().await, 0);
}

#[tokio::test]
async fn strangers_in_the_bucket_are_not_ours() {
    let server = S3Server::start();
    let (store, other) = (store(&server).await, opened(&server.url("repo2"), &server.settings()).await.unwrap());
    let root = opened(&server.url(""), &server.settings()).await.unwrap();
    store.put(&name("descriptor"), body(1)).await.unwrap();
    other.put(&name("descriptor"), body(2)).await.unwrap();
    root.put(&name("repo/.hidden".trim_start_matches("repo/.")), body(3)).await.unwrap();
    server.bucket(|b| {
        let like = b.current("repo/descriptor").unwrap().clone();
        for key in ["repo/UPPER", "repo/a b", "repo//x", "repo/tmp/x", "repo"] {
            b.put(key, true, like.clone()).unwrap();
        }
    });
    let listed: Vec<_> = store.list("").map(|i| i.unwrap().name.to_string()).collect().await;
    assert_eq!(listed, ["descriptor"]);
}

/// What a request comes to: status, code, headers of the refusal; the class; what the message must say.
struct Case {
    fault: Fault,
    kind: StoreErrorKind,
    says: &'static [&'static str],
}

fn case(fault: Fault, kind: StoreErrorKind, says: &'static [&'static str]) -> Case {
    Case { fault, kind, says }
}

async fn kind_of(store: &S3Store, operation: &str) -> StoreError {
    let object = name("data/there");
    match operation {
        "PutObject" => store.put(&name("data/new"), body(1000)).await.unwrap_err(),
        "GetObject" => store.get(&object, None).await.unwrap_err(),
        "HeadObject" => store.stat(&object).await.unwrap_err(),
        "ListObjectsV2" => store.list("data/").next().await.unwrap().unwrap_err(),
        "DeleteObjects" => store.delete(std::slice::from_ref(&object)).await.pop().unwrap().1,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn refusals_have_their_class_at_one_attempt() {
    use StoreErrorKind::{AlreadyExists, Corrupt, Denied, Full, Invalid, NotFound, Throttled, TimedOut, Unavailable};
    let refusal = Fault::refusal;
    let server = S3Server::start();
    let store = store(&server).await;
    store.put(&name("data/there"), body(1000)).await.unwrap();
    let on_all = || {
        vec![
            case(refusal(403, "AccessDenied"), Denied, &["AccessDenied", "HTTP 403", "REQUEST7", "needed: s3:"]),
            case(refusal(403, "InvalidAccessKeyId"), Denied, &["access key"]),
            case(refusal(403, "SignatureDoesNotMatch"), Denied, &["secret"]),
            case(refusal(400, "ExpiredToken"), Denied, &["renew"]),
            case(refusal(400, "InvalidToken"), Denied, &["renew"]),
            case(refusal(403, "RequestTimeTooSkewed"), Denied, &["set this machine's clock"]),
            case(refusal(401, "Whatever"), Denied, &[]),
            case(refusal(404, "NoSuchBucket"), NotFound, &["there is no bucket bucket"]),
            case(refusal(503, "SlowDown"), Throttled(None), &[]),
            case(refusal(503, "SlowDown").header("retry-after", "7"), Throttled(Some(Duration::from_secs(7))), &[]),
            case(refusal(429, "TooManyRequests"), Throttled(None), &[]),
            case(refusal(429, "").header("retry-after", "1"), Throttled(Some(Duration::from_secs(1))), &["HTTP 429"]),
            case(refusal(503, "ServiceUnavailable"), Unavailable, &[]),
            case(refusal(500, "InternalError"), Unavailable, &["InternalError"]),
            case(refusal(502, ""), Unavailable, &["HTTP 502"]),
            case(refusal(504, ""), Unavailable, &["HTTP 504"]),
            case(refusal(400, "RequestTimeout"), TimedOut, &[]),
            case(refusal(507, "InsufficientStorage"), Full, &[]),
            case(refusal(403, "QuotaExceeded"), Full, &[]),
            case(refusal(400, "InvalidArgument"), Invalid, &["InvalidArgument"]),
            case(refusal(501, "NotImplemented"), Invalid, &["does not know"]),
            case(refusal(400, "KMS.NotFoundException"), Invalid, &["kms_key"]),
            case(refusal(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-west-3"), Invalid, &["?region=eu-west-3"]),
            case(Fault::new(Act::Reset), Unavailable, &[]),
        ]
    };
    let mut cases: Vec<(&str, Case)> = Vec::new();
    for operation in ["PutObject", "GetObject", "ListObjectsV2", "DeleteObjects"] {
        cases.extend(on_all().into_iter().map(|c| (operation, c)));
    }
    // A HEAD has no words: the status alone decides.
    cases.extend([
        ("HeadObject", case(refusal(403, ""), Denied, &["s3:GetObject", "arn:aws:s3:::bucket/repo/data/there"])),
        ("HeadObject", case(refusal(429, ""), Throttled(None), &[])),
        ("HeadObject", case(refusal(500, ""), Unavailable, &["HTTP 500"])),
        ("HeadObject", case(refusal(400, "").header("x-amz-bucket-region", "eu-west-3"), Invalid, &["?region=eu-west-3"])),
        ("PutObject", case(refusal(412, "PreconditionFailed"), AlreadyExists, &[])),
        ("PutObject", case(refusal(409, "ConditionalRequestConflict"), Unavailable, &[])),
        ("PutObject", case(refusal(400, "BadDigest"), Corrupt, &[])),
        ("PutObject", case(refusal(200, ""), Unavailable, &["no ETag"])),
        ("PutObject", case(refusal(200, "InternalError"), Unavailable, &[])),
        ("PutObject", case(refusal(403, "AccessDenied"), Denied, &["s3:PutObject on arn:aws:s3:::bucket/repo/data/new"])),
        ("ListObjectsV2", case(refusal(200, "InternalError"), Unavailable, &[])),
        ("ListObjectsV2", case(refusal(200, "SlowDown"), Throttled(None), &[])),
        ("ListObjectsV2", case(refusal(403, "AccessDenied"), Denied, &["s3:ListBucket on arn:aws:s3:::bucket;"])),
        ("DeleteObjects", case(refusal(200, "InternalError"), Unavailable, &[])),
        ("GetObject", case(refusal(404, "NoSuchKey"), NotFound, &[])),
        ("GetObject", case(refusal(416, "InvalidRange"), Invalid, &[])),
        ("GetObject", case(refusal(403, "InvalidObjectState"), Invalid, &["archived"])),
        ("GetObject", case(Fault::new(Act::CutBody(100)), Unavailable, &["of 1000 bytes"])),
        ("GetObject", case(Fault::new(Act::CutBody(0)), Unavailable, &["after 0 of 1000 bytes"])),
        ("GetObject", case(Fault::new(Act::FlipBit(777)), Corrupt, &["CRC-64"])),
    ]);
    for (operation, Case { fault, kind, says }) in cases {
        let what = format!("{operation} {fault:?}");
        let before = server.count(operation);
        server.fault(fault.on(operation));
        let error = kind_of(&store, operation).await;
        assert_eq!(error.kind, kind, "{what}: {}", told(&error));
        assert_eq!(server.count(operation), before + 1, "{what}: attempts");
        assert!(server.faults_are_over(), "{what}");
        let text = told(&error);
        assert!(text.starts_with("store paris: "), "{text}");
        for said in says {
            assert!(text.contains(said), "{what}: {text:?} does not say {said:?}");
        }
        assert!(!text.contains(SECRET_KEY), "{text}");
    }
}

#[tokio::test]
async fn what_was_carried_out_and_not_answered_is_settled_by_retry() {
    let server = S3Server::start();
    let (env, mut settings) = (Env::real(), server.settings());
    settings.retries = 3;
    let store = wrap(&env, std::sync::Arc::new(store(&server).await), &settings).store;
    for (i, fault) in [
        Fault::new(Act::Reset).carried_out(),
        Fault::new(Act::Reset),
        Fault::refusal(500, "InternalError").carried_out(),
        Fault::refusal(503, "SlowDown"),
        Fault::refusal(409, "ConditionalRequestConflict"),
        Fault::refusal(200, "").carried_out(),
    ]
    .into_iter()
    .enumerate()
    {
        let (object, bytes) = (name(&format!("log/{i}")), body(500 + i));
        server.fault(fault.on("PutObject"));
        let before = server.count("PutObject");
        store.put(&object, bytes.clone()).await.unwrap_or_else(|e| panic!("{i}: {}", told(&e)));
        assert_eq!(server.count("PutObject"), before + 2, "{i}");
        assert_eq!(store.get(&object, None).await.unwrap(), bytes);
    }
    // And reads that broke off come whole at the second attempt.
    for fault in [Fault::new(Act::CutBody(3)), Fault::new(Act::FlipBit(3)), Fault::refusal(503, "SlowDown")] {
        server.fault(fault.on("GetObject"));
        assert_eq!(store.get(&name("log/0"), None).await.unwrap(), body(500));
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let server = S3Server::start();
    let mut settings = server.settings();
    settings.timeout = Duration::from_secs(1);
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    store.put(&name("data/there"), body(1000)).await.unwrap();
    server.fault(Fault::new(Act::StallBody(10)).on("GetObject"));
    let given_up = tokio::time::timeout(Duration::from_secs(60), store.get(&name("data/there"), None)).await;
    let error = given_up.expect("the store gives up by itself").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::TimedOut, "{}", told(&error));
}

/// A put with one header, as no SDK would send it; the whole answer. The servers run on threads of their own.
fn put_by_hand(endpoint: &str, path: &str, header: &str, value: &str) -> String {
    use std::io::{Read, Write};
    let host = endpoint.trim_start_matches("http://");
    let mut line = std::net::TcpStream::connect(host).unwrap();
    let head =
        format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 12\r\n{header}: {value}\r\n\r\n");
    line.write_all((head + "another body").as_bytes()).unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_nothing_stored() {
    // The store sends the sum of what it was given: a body that changes on its way is for the server to find.
    let server = S3Server::start();
    store(&server).await.put(&name("data/right"), body(100)).await.unwrap();
    let right = server.take_seen().remove(0);
    let path = right.path.replace("right", "wrong");
    let answer = put_by_hand(&server.endpoint(), &path, "x-amz-checksum-crc64nvme", right.header("x-amz-checksum-crc64nvme"));
    assert!(answer.starts_with("HTTP/1.1 403"), "unsigned requests are refused: {answer}");
    let open = S3Server::open_to_all();
    for (header, sum) in [
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let answer = put_by_hand(&open.endpoint(), &format!("/{BUCKET}/repo/x"), header, sum);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("BadDigest"), "{header}: {answer}");
        assert!(open.bucket(|b| b.current("repo/x").is_none()), "{header}");
    }
}

#[tokio::test]
async fn damage_in_the_bucket_is_found_on_full_reads() {
    let server = S3Server::start();
    let store = store(&server).await;
    let object = name("data/x");
    store.put(&object, body(5000)).await.unwrap();
    let mut rotten = body(5000).to_vec();
    rotten[4321] ^= 0x40;
    server.bucket(|b| b.damage("repo/data/x", rotten.into()));
    assert_eq!(store.get(&object, None).await.unwrap_err().kind, StoreErrorKind::Corrupt);
    store.get(&object, Some(0..100)).await.expect("ranges are verified by who reads them");
    server.bucket(|b| b.damage("repo/data/x", body(64)));
    let error = store.get(&object, Some(0..100)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{}", told(&error));
}

#[tokio::test]
async fn an_absent_bucket_is_an_error_and_not_an_absent_object() {
    let server = S3Server::start();
    let url = server.url_of("no-such-bucket", "repo");
    let store = opened(&url, &server.settings()).await.unwrap();
    for operation in ["PutObject", "GetObject", "HeadObject", "ListObjectsV2", "DeleteObjects"] {
        let error = kind_of(&store, operation).await;
        assert_eq!(error.kind, StoreErrorKind::NotFound, "{operation}: {}", told(&error));
        assert!(told(&error).contains("there is no bucket no-such-bucket"), "{}", told(&error));
    }
    // In a bucket that is there, an absent object costs a second request only once.
    let store = opened(&server.url("repo"), &server.settings()).await.unwrap();
    server.take_seen();
    for _ in 0..3 {
        assert_eq!(store.stat(&name("absent")).await.unwrap(), None);
    }
    assert_eq!((server.count("HeadObject"), server.count("GetObject")), (3, 1));
}

#[tokio::test]
async fn locked_objects_stay_and_are_named() {
    let server = S3Server::start();
    let store = store(&server).await;
    for i in 0..4 {
        store.put(&name(&format!("data/{i}")), body(10)).await.unwrap();
    }
    server.bucket(|b| {
        let later = std::time::SystemTime::now() + Duration::from_secs(3600);
        b.relock("repo/data/1", None, std::time::SystemTime::now(), |l| l.retention = Some(("COMPLIANCE".into(), later)))
            .unwrap();
        b.relock("repo/data/2", None, std::time::SystemTime::now(), |l| l.legal_hold = true).unwrap();
    });
    let names: Vec<_> = (0..4).map(|i| name(&format!("data/{i}"))).collect();
    let failed = store.delete(&names).await;
    let left: Vec<_> = failed.iter().map(|(n, e)| (n.to_string(), e.kind)).collect();
    let denied = StoreErrorKind::Denied;
    assert_eq!(left, [("data/1".to_owned(), denied), ("data/2".to_owned(), denied)]);
    assert!(told(&failed[0].1).contains("object lock"), "{}", told(&failed[0].1));
    let listed: Vec<_> = store.list("").map(|i| i.unwrap().name.to_string()).collect().await;
    assert_eq!(listed, ["data/1", "data/2"]);
}

#[tokio::test]
async fn a_bucket_with_versions_keeps_what_is_deleted() {
    let server = S3Server::start();
    server.bucket(|b| b.versioned = true);
    let (store, object) = (store(&server).await, name("data/x"));
    for round in 0..2 {
        store.put(&object, body(10 + round)).await.unwrap();
        assert_eq!(store.put(&object, body(10)).await.unwrap_err().kind, StoreErrorKind::AlreadyExists);
        assert!(store.delete(std::slice::from_ref(&object)).await.is_empty());
        assert_eq!(store.stat(&object).await.unwrap(), None);
        assert_eq!(store.list("").count().await, 0);
    }
    let kept =
        server.bucket(|b| b.versions("repo/").iter().map(|(_, v, latest)| (v.body.is_some(), *latest)).collect::<Vec<_>>());
    assert_eq!(kept, [(false, true), (true, false), (false, false), (true, false)]);
}

#[tokio::test]
async fn who_may_ask() {
    let server = S3Server::start();
    let with = |credentials: Credentials| {
        let mut settings = server.settings();
        settings.provider.credentials = credentials;
        settings
    };
    let secret = |text: &str| SecretSource::Value(text.to_owned().into());
    let key = |id: &str, text: &str| Credentials::AccessKey { id: id.into(), secret: secret(text), session_token: None };
    let printed = format!("{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\"}}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{SECRET_KEY}\n")).unwrap();
    let by_file = Credentials::AccessKey {
        id: ACCESS_KEY.into(),
        secret: SecretSource::File(file.path().into()),
        session_token: Some(SecretSource::Command("echo token-7".into())),
    };
    for (i, credentials) in [key(ACCESS_KEY, SECRET_KEY), by_file, Credentials::CredentialProcess(format!("echo '{printed}'"))]
        .into_iter()
        .enumerate()
    {
        let store = opened(&server.url("repo"), &with(credentials)).await.unwrap();
        store.put(&name(&format!("data/{i}")), body(1)).await.unwrap_or_else(|e| panic!("{i}: {}", told(&e)));
    }
    assert!(server.take_seen().iter().any(|s| s.header("x-amz-security-token") == "token-7"));
    for credentials in [
        key(ACCESS_KEY, "another secret"),
        key("AKIDSTRANGER", SECRET_KEY),
        Credentials::Anonymous,
        Credentials::CredentialProcess("exit 3".into()),
        Credentials::Profile("no such profile".into()),
    ] {
        let what = format!("{credentials:?}");
        let store = opened(&server.url("repo"), &with(credentials)).await.unwrap();
        let error = store.get(&name("data/0"), None).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{what}: {}", told(&error));
        for text in [told(&error), format!("{store:?}"), what] {
            assert!(!text.contains(SECRET_KEY) && !text.contains("another secret"), "{text}");
        }
    }
    let open = S3Server::open_to_all();
    let store = opened(&open.url("repo"), &with(Credentials::Anonymous)).await.unwrap();
    store.put(&name("data/0"), body(1)).await.unwrap();
    assert_eq!(store.get(&name("data/0"), None).await.unwrap(), body(1));
    let seen = open.take_seen();
    assert!(seen.iter().all(|s| s.header("authorization").is_empty()), "{seen:?}");
    for strange in [Credentials::Cli, Credentials::MetadataServer, Credentials::AccountKey(secret(SECRET_KEY))] {
        let error = opened(&server.url("repo"), &with(strange)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid);
        assert!(told(&error).contains("is not a way to log in to S3"), "{}", told(&error));
        assert!(!told(&error).contains(SECRET_KEY));
    }
}
