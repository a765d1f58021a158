//! Azure beyond the contract: what goes over the wire, what becomes of every fault, who may ask, and that secrets stay secret.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use holdfast::clock::{Env, Time};
use holdfast::store::azure::AzureStore;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::{Place, StoreUrl};
use holdfast::store::{OBJECT_MAX, Store, wrap};

use crate::support::authority::Authority;
use crate::support::azure_container::Blob;
use crate::support::azure_server::{ACCOUNT, AzureServer, CONTAINER, KEY, refusal, sum};
use crate::support::door::{Act, Fault};
use crate::support::name;

async fn opened(url: &StoreUrl, settings: &StoreSettings) -> Result<AzureStore, StoreError> {
    let Place::Azure { account, container } = url.place() else { panic!("{url}") };
    AzureStore::open(&Env::real(), "paris", account, container, settings).await
}

async fn store(server: &AzureServer) -> AzureStore {
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

fn secret(text: &str) -> SecretSource {
    SecretSource::Value(text.to_owned().into())
}

#[tokio::test]
async fn a_put_is_one_conditional_request_with_a_sum() {
    let server = AzureServer::start();
    let mut settings = server.settings();
    settings.provider.storage_classes.insert("data".into(), "Cool".into());
    settings.provider.kms_key = Some("ours".into());
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    for (object, tier, size) in [("data/ab/cd", "Cool", 100_000), ("meta/ab/cd", "", 5 << 20), ("descriptor", "", 0)] {
        store.put(&name(object), body(size)).await.unwrap();
        let seen = server.take_seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let put = &seen[0];
        let path = format!("/{ACCOUNT}/{CONTAINER}/{}", format!("repo/{object}").replace('/', "%2F"));
        assert_eq!((put.operation, put.path.as_str(), put.query.as_str()), ("PutBlob", path.as_str(), ""));
        assert_eq!(put.header("x-ms-content-crc64"), sum(&body(size)));
        assert_eq!(put.header("if-none-match"), "*");
        assert_eq!(put.header("x-ms-blob-type"), "BlockBlob");
        assert_eq!(put.header("content-length"), size.to_string());
        assert_eq!(put.header("x-ms-access-tier"), tier, "{object}");
        assert_eq!(put.header("x-ms-encryption-scope"), "ours");
        assert!(put.header("authorization").starts_with(&format!("SharedKey {ACCOUNT}:")), "{put:?}");
        for none in ["content-md5", "x-ms-blob-content-md5", "transfer-encoding", "expect"] {
            assert_eq!(put.header(none), "", "{none}");
        }
        let kept = server.container(|c| c.get(&format!("repo/{object}")).unwrap().clone());
        assert_eq!(kept.tier.unwrap_or_default(), tier);
        assert_eq!(kept.scope.as_deref(), Some("ours"));
        assert_eq!(kept.metadata["crc64nvme"], sum(&body(size)));
    }
}

#[tokio::test]
async fn requests_are_counted() {
    let server = AzureServer::start();
    let store = store(&server).await;
    assert!(server.counts().is_empty(), "opening asks nobody");
    for (i, size) in [0, 10, 9 << 20].into_iter().enumerate() {
        store.put(&name(&format!("data/{i}")), body(size)).await.unwrap();
        assert_eq!(store.get(&name(&format!("data/{i}")), None).await.unwrap(), body(size));
    }
    assert_eq!(store.get(&name("data/2"), Some(1000..6 << 20)).await.unwrap(), body(9 << 20).slice(1000..6 << 20));
    store.stat(&name("data/0")).await.unwrap();
    store.stat(&name("data/absent")).await.unwrap();
    store.list("").map(|i| i.unwrap()).collect::<Vec<_>>().await;
    let three = [name("data/0"), name("data/1"), name("data/absent"), name("data/1")];
    assert!(store.delete(&three).await.is_empty());
    let expected = [("DeleteBlob", 3), ("GetBlob", 4), ("HeadBlob", 2), ("ListBlobs", 1), ("PutBlob", 3)];
    assert_eq!(server.counts().into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn whole_reads_name_no_range_and_ranges_are_exact() {
    let server = AzureServer::start();
    let store = store(&server).await;
    store.put(&name("data/x"), body(100)).await.unwrap();
    server.take_seen();
    store.get(&name("data/x"), None).await.unwrap();
    store.get(&name("data/x"), Some(10..20)).await.unwrap();
    let ranges: Vec<_> = server.take_seen().iter().map(|s| s.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "bytes=10-19"]);
}

#[tokio::test]
async fn pages_are_of_a_thousand() {
    let server = AzureServer::start();
    let store = store(&server).await;
    let names: Vec<_> = (0..2001).map(|i| name(&format!("data/{i:05}"))).collect();
    let puts = stream::iter(&names).map(|n| store.put(n, Bytes::from_static(b"x"))).buffer_unordered(8);
    puts.try_collect::<()>().await.unwrap();
    let listed: Vec<_> = store.list("data/").map(|i| i.unwrap().name).collect().await;
    assert_eq!(listed, names);
    let lists: Vec<_> = server.take_seen().into_iter().filter(|s| s.operation == "ListBlobs").collect();
    assert_eq!(lists.len(), 3);
    assert!(lists.iter().all(|s| s.query.contains("maxresults=1000") && s.query.contains("prefix=repo%2Fdata%2F")), "{lists:?}");
    assert!(store.delete(&names).await.is_empty());
    assert_eq!(store.list("").count().await, 0);
}

#[tokio::test]
async fn strangers_in_the_container_are_not_ours() {
    let server = AzureServer::start();
    let (store, other) = (store(&server).await, opened(&server.url("repo2"), &server.settings()).await.unwrap());
    store.put(&name("descriptor"), body(1)).await.unwrap();
    other.put(&name("descriptor"), body(2)).await.unwrap();
    server.container(|c| {
        for key in ["repo/UPPER", "repo/a b", "repo//x", "repo/tmp/x", "repo", "repo/a&b<c>", "repo/\u{e4}"] {
            let like = Blob::new(body(3), std::time::SystemTime::now());
            c.put(key, like, true).unwrap();
        }
    });
    let listed: Vec<_> = store.list("").map(|i| i.unwrap().name.to_string()).collect().await;
    assert_eq!(listed, ["descriptor"]);
    // A blob that is too large for any of ours is not taken into memory.
    server
        .container(|c| {
            c.put("repo/data/huge", Blob::new(vec![0; OBJECT_MAX + 1].into(), std::time::SystemTime::now()), true).map(drop)
        })
        .unwrap();
    assert_eq!(store.get(&name("data/huge"), None).await.unwrap_err().kind, StoreErrorKind::Corrupt);
    // Folders that are objects: an account that we cannot use.
    server.container(|c| c.lying("repo/UPPER").folder = true);
    let error = store.list("").next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert!(told(&error).contains("hierarchical namespace"), "{}", told(&error));
}

/// What a request comes to: the fault; the class; what the message must say.
struct Case {
    fault: Fault,
    kind: StoreErrorKind,
    says: &'static [&'static str],
}

fn case(fault: Fault, kind: StoreErrorKind, says: &'static [&'static str]) -> Case {
    Case { fault, kind, says }
}

async fn kind_of(store: &AzureStore, operation: &str) -> StoreError {
    let object = name("data/there");
    match operation {
        "PutBlob" => store.put(&name("data/new"), body(1000)).await.unwrap_err(),
        "GetBlob" => store.get(&object, None).await.unwrap_err(),
        "HeadBlob" => store.stat(&object).await.unwrap_err(),
        "ListBlobs" => store.list("data/").next().await.unwrap().unwrap_err(),
        "DeleteBlob" => store.delete(std::slice::from_ref(&object)).await.pop().unwrap().1,
        other => panic!("{other}"),
    }
}

/// An answer to a listing that says of itself that all went well.
fn listed(body: &str) -> Fault {
    Fault::new(Act::Answer { status: 200, headers: vec![("content-type", "application/xml".into())], body: body.into() })
}

const PAGE: &str = "<?xml version=\"1.0\"?><EnumerationResults ContainerName=\"container\"><Blobs>";

#[tokio::test]
async fn refusals_have_their_class_at_one_attempt() {
    use StoreErrorKind::{AlreadyExists, Corrupt, Denied, Full, Invalid, NotFound, Throttled, TimedOut, Unavailable};
    let server = AzureServer::start();
    let store = store(&server).await;
    store.put(&name("data/there"), body(1000)).await.unwrap();
    let old = "Thu, 01 Jan 2015 00:00:00 GMT";
    let on_all = || {
        vec![
            case(refusal(403, "AuthorizationPermissionMismatch"), Denied, &["HTTP 403", "REQUEST7", "needed: Microsoft.Storage"]),
            case(refusal(403, "AuthorizationFailure"), Denied, &["firewall"]),
            case(refusal(403, "AuthenticationFailed"), Denied, &["look at where the credentials come from"]),
            case(refusal(403, "AuthenticationFailed").header("date", old), Denied, &["set this machine's clock", "01 Jan 2015"]),
            case(refusal(401, "InvalidAuthenticationInfo"), Denied, &["token"]),
            case(refusal(403, "KeyBasedAuthenticationNotPermitted"), Denied, &["log in with an identity"]),
            case(refusal(409, "PublicAccessNotPermitted"), Denied, &[]),
            case(refusal(404, "ContainerNotFound"), NotFound, &["there is no container testaccount/container"]),
            case(refusal(503, "ServerBusy"), Throttled(None), &["ServerBusy (HTTP 503)"]),
            case(refusal(503, "ServerBusy").header("retry-after", "7"), Throttled(Some(Duration::from_secs(7))), &[]),
            case(refusal(429, "TooManyRequests"), Throttled(None), &[]),
            case(refusal(429, "").header("retry-after", "1"), Throttled(Some(Duration::from_secs(1))), &["HTTP 429"]),
            case(refusal(500, "InternalError"), Unavailable, &["InternalError"]),
            case(refusal(500, "OperationTimedOut"), TimedOut, &[]),
            case(refusal(502, ""), Unavailable, &["HTTP 502"]),
            case(refusal(503, ""), Unavailable, &["HTTP 503"]),
            case(refusal(504, ""), Unavailable, &["HTTP 504"]),
            case(refusal(408, ""), TimedOut, &[]),
            case(refusal(507, ""), Full, &[]),
            case(refusal(400, "InvalidHeaderValue"), Invalid, &["InvalidHeaderValue"]),
            case(refusal(501, ""), Invalid, &[]),
            case(Fault::new(Act::Reset), Unavailable, &[]),
        ]
    };
    let mut cases: Vec<(&str, Case)> = Vec::new();
    for operation in ["PutBlob", "GetBlob", "HeadBlob", "ListBlobs", "DeleteBlob"] {
        cases.extend(on_all().into_iter().map(|c| (operation, c)));
    }
    let mismatch = || refusal(403, "AuthorizationPermissionMismatch");
    cases.extend([
        ("PutBlob", case(refusal(409, "BlobAlreadyExists"), AlreadyExists, &[])),
        ("PutBlob", case(refusal(412, "ConditionNotMet"), AlreadyExists, &[])),
        ("PutBlob", case(refusal(409, "BlobImmutableDueToPolicy"), AlreadyExists, &[])),
        ("PutBlob", case(refusal(403, "UnauthorizedBlobOverwrite"), AlreadyExists, &[])),
        ("PutBlob", case(refusal(409, "SomethingElse"), Unavailable, &[])),
        ("PutBlob", case(refusal(400, "Crc64Mismatch"), Corrupt, &[])),
        ("PutBlob", case(refusal(400, "Md5Mismatch"), Corrupt, &[])),
        ("PutBlob", case(refusal(201, ""), Unavailable, &["no ETag"])),
        ("PutBlob", case(refusal(200, "InternalError"), Unavailable, &["HTTP 200"])),
        (
            "PutBlob",
            case(refusal(201, "").header("etag", "x").header("x-ms-content-crc64", "AAAAAAAAAAA="), Corrupt, &["CRC-64"]),
        ),
        ("PutBlob", case(mismatch(), Denied, &["blobs/write on az://testaccount/container/repo/data/new", "`c`"])),
        ("GetBlob", case(mismatch(), Denied, &["blobs/read on az://testaccount/container/repo/data/there", "`r`"])),
        ("ListBlobs", case(mismatch(), Denied, &["blobs/read on az://testaccount/container ", "`l`"])),
        ("DeleteBlob", case(mismatch(), Denied, &["blobs/delete on az://testaccount/container/repo/data/there", "`d`"])),
        ("DeleteBlob", case(refusal(409, "BlobImmutableDueToPolicy"), Denied, &["immutability policy"])),
        ("DeleteBlob", case(refusal(412, "LeaseIdMissing"), Denied, &["lease"])),
        ("DeleteBlob", case(refusal(409, "SnapshotsPresent"), Invalid, &["snapshots"])),
        ("GetBlob", case(refusal(404, "BlobNotFound"), NotFound, &[])),
        ("GetBlob", case(refusal(416, "InvalidRange"), Invalid, &["InvalidRange (HTTP 416)"])),
        ("GetBlob", case(refusal(409, "BlobArchived"), Invalid, &["archived"])),
        ("GetBlob", case(Fault::new(Act::CutBody(100)), Unavailable, &["of 1000 bytes"])),
        ("GetBlob", case(Fault::new(Act::CutBody(0)), Unavailable, &["after 0 of 1000 bytes"])),
        ("GetBlob", case(Fault::new(Act::FlipBit(777)), Corrupt, &["CRC-64"])),
        (
            "ListBlobs",
            case(listed("<Error><Code>InternalError</Code><Message>x</Message></Error>"), Unavailable, &["InternalError"]),
        ),
        ("ListBlobs", case(listed("<Error><Code>ServerBusy</Code></Error>"), Throttled(None), &[])),
        ("ListBlobs", case(listed("<html><p>welcome</p></html>"), Unavailable, &[])),
        ("ListBlobs", case(listed(PAGE), Corrupt, &["makes no sense"])),
        ("ListBlobs", case(listed(""), Corrupt, &["makes no sense"])),
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
        assert!(!text.contains(KEY), "{text}");
    }
    // A 404 that does not say of what is asked about once more.
    server.fault(refusal(404, "").on("HeadBlob"));
    assert_eq!(store.stat(&name("data/absent")).await.unwrap(), None);
    server.fault(refusal(404, "").on("HeadBlob"));
    server.fault(refusal(404, "ContainerNotFound").on("GetBlob"));
    assert_eq!(store.stat(&name("data/absent")).await.unwrap_err().kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn what_was_carried_out_and_not_answered_is_settled_by_retry() {
    let server = AzureServer::start();
    let (env, mut settings) = (Env::real(), server.settings());
    settings.retries = 3;
    let store = wrap(&env, Arc::new(store(&server).await), &settings).store;
    for (i, fault) in [
        Fault::new(Act::Reset).carried_out(),
        Fault::new(Act::Reset),
        refusal(500, "InternalError").carried_out(),
        refusal(503, "ServerBusy"),
        refusal(201, "").carried_out(),
    ]
    .into_iter()
    .enumerate()
    {
        let (object, bytes) = (name(&format!("log/{i}")), body(500 + i));
        server.fault(fault.on("PutBlob"));
        let before = server.count("PutBlob");
        store.put(&object, bytes.clone()).await.unwrap_or_else(|e| panic!("{i}: {}", told(&e)));
        assert_eq!(server.count("PutBlob"), before + 2, "{i}");
        assert_eq!(store.get(&object, None).await.unwrap(), bytes);
    }
    // And reads that broke off come whole at the second attempt.
    for fault in [Fault::new(Act::CutBody(3)), Fault::new(Act::FlipBit(3)), refusal(503, "ServerBusy")] {
        server.fault(fault.on("GetBlob"));
        assert_eq!(store.get(&name("log/0"), None).await.unwrap(), body(500));
    }
}

#[tokio::test]
async fn a_read_that_stalls_is_given_up() {
    let server = AzureServer::start();
    let mut settings = server.settings();
    settings.timeout = Duration::from_secs(1);
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    store.put(&name("data/there"), body(1000)).await.unwrap();
    for fault in [Fault::new(Act::StallBody(10)), Fault::new(Act::Silence)] {
        server.fault(fault.on("GetBlob"));
        let given_up = tokio::time::timeout(Duration::from_secs(60), store.get(&name("data/there"), None)).await;
        let error = given_up.expect("the store gives up by itself").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::TimedOut, "{}", told(&error));
    }
    // A put may take longer: how long is for `retry`, who knows its size.
    server.fault(Fault::new(Act::Serve).after(Duration::from_secs(3)).on("PutBlob"));
    store.put(&name("data/slow"), body(1000)).await.unwrap();
}

#[tokio::test]
async fn damage_in_the_container_is_found_on_full_reads() {
    let server = AzureServer::start();
    let store = store(&server).await;
    let object = name("data/x");
    store.put(&object, body(5000)).await.unwrap();
    let mut rotten = body(5000).to_vec();
    rotten[4321] ^= 0x40;
    server.container(|c| c.lying("repo/data/x").body = rotten.into());
    assert_eq!(store.get(&object, None).await.unwrap_err().kind, StoreErrorKind::Corrupt);
    store.get(&object, Some(0..100)).await.expect("ranges are verified by who reads them");
    server.container(|c| c.lying("repo/data/x").body = body(64));
    let error = store.get(&object, Some(0..100)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{}", told(&error));
    // What others put there without a sum is read all the same.
    server.container(|c| c.lying("repo/data/x").metadata.clear());
    assert_eq!(store.get(&object, None).await.unwrap(), body(64));
}

#[tokio::test]
async fn an_absent_container_is_an_error_and_not_an_absent_object() {
    let server = AzureServer::start();
    let url = server.url_of("no-such-container", "repo");
    let store = opened(&url, &server.settings()).await.unwrap();
    for operation in ["PutBlob", "GetBlob", "HeadBlob", "ListBlobs", "DeleteBlob"] {
        let error = kind_of(&store, operation).await;
        assert_eq!(error.kind, StoreErrorKind::NotFound, "{operation}: {}", told(&error));
        assert!(told(&error).contains("there is no container testaccount/no-such-container"), "{}", told(&error));
    }
    // Azure says in a HEAD what is absent: no second request is needed.
    let store = opened(&server.url("repo"), &server.settings()).await.unwrap();
    server.take_seen();
    assert_eq!(store.stat(&name("absent")).await.unwrap(), None);
    assert_eq!(server.counts().into_iter().collect::<Vec<_>>(), [("HeadBlob", 1)]);
}

#[tokio::test]
async fn held_and_leased_objects_stay_and_are_named() {
    let server = AzureServer::start();
    let store = store(&server).await;
    let names: Vec<_> = (0..4).map(|i| name(&format!("data/{i}"))).collect();
    for object in &names {
        store.put(object, body(10)).await.unwrap();
    }
    server.container(|c| {
        c.lying("repo/data/1").held = true;
        c.lying("repo/data/2").leased = true;
    });
    let mut left: Vec<_> = store.delete(&names).await.into_iter().map(|(n, e)| (n.to_string(), e.kind, told(&e))).collect();
    left.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        left.iter().map(|l| (l.0.as_str(), l.1)).collect::<Vec<_>>(),
        [("data/1", StoreErrorKind::Denied), ("data/2", StoreErrorKind::Denied)]
    );
    assert!(left[0].2.contains("legal hold") && left[1].2.contains("lease"), "{left:?}");
    assert_eq!(store.put(&names[1], body(10)).await.unwrap_err().kind, StoreErrorKind::AlreadyExists);
    let listed: Vec<_> = store.list("").map(|i| i.unwrap().name.to_string()).collect().await;
    assert_eq!(listed, ["data/1", "data/2"]);
}

/// A put with one header, as no SDK would send it; the whole answer. The servers run on threads of their own.
fn put_by_hand(server: &AzureServer, query: &str, sum: &str) -> String {
    use std::io::{Read, Write};
    let endpoint = server.endpoint();
    let host = endpoint.trim_start_matches("http://");
    let mut line = std::net::TcpStream::connect(host).unwrap();
    let head = format!(
        "PUT /{ACCOUNT}/{CONTAINER}/wrong{query} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 12\r\n\
         x-ms-version: 2026-04-06\r\nx-ms-blob-type: BlockBlob\r\nx-ms-content-crc64: {sum}\r\n\r\nanother body"
    );
    line.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    line.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_wrong_sum_is_refused_and_nothing_stored() {
    // The store sends the sum of what it was given: a body that changes on its way is for the server to find.
    let server = AzureServer::open_to_all();
    let answer = put_by_hand(&server, "", &sum(b"one body"));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("Crc64Mismatch"), "{answer}");
    assert!(server.container(|c| c.get("wrong").is_err()));
    let answer = put_by_hand(&server, "", &sum(b"another body"));
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let closed = AzureServer::start();
    let answer = put_by_hand(&closed, "", &sum(b"another body"));
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(closed.container(|c| c.get("wrong").is_err()));
}

/// Settings with another login.
fn logging_in(server: &AzureServer, credentials: Credentials) -> StoreSettings {
    let mut settings = server.settings();
    settings.provider.credentials = credentials;
    settings
}

const LONG: &str = "2099-01-01T00:00:00Z";

#[tokio::test]
async fn who_may_ask() {
    let server = AzureServer::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
    let all = server.signature("rcdl", LONG);
    for (i, credentials) in [
        Credentials::AccountKey(secret(KEY)),
        Credentials::AccountKey(SecretSource::File(file.path().into())),
        Credentials::AccountKey(SecretSource::Command(format!("echo {KEY}"))),
        Credentials::Sas(secret(&all)),
        Credentials::Sas(secret(&format!("?{all}"))),
    ]
    .into_iter()
    .enumerate()
    {
        let store = opened(&server.url("repo"), &logging_in(&server, credentials)).await.unwrap();
        let object = name(&format!("data/{i}"));
        store.put(&object, body(1)).await.unwrap_or_else(|e| panic!("{i}: {}", told(&e)));
        assert_eq!(store.get(&object, None).await.unwrap(), body(1));
        assert_eq!(store.get(&object, Some(0..1)).await.unwrap(), body(1));
        assert!(store.stat(&object).await.unwrap().is_some());
        assert_eq!(store.list("data/").count().await, 1);
        assert!(store.delete(&[object]).await.is_empty());
    }
    let other_key = "YW5vdGhlciBrZXk=";
    let refused = [
        (Credentials::AccountKey(secret(other_key)), "look at where the credentials come from"),
        (Credentials::Anonymous, "NoAuthenticationInformation"),
        (Credentials::Sas(secret(&server.signature("rl", LONG))), "`c` in a shared access signature"),
        (Credentials::Sas(secret(&server.signature("rcdl", "2020-01-01T00:00:00Z"))), "has run out"),
        (Credentials::Sas(secret(&all.replace("sp=rcdl", "sp=rcdlw"))), "look at where the credentials come from"),
    ];
    for (credentials, says) in refused {
        let shown = format!("{credentials:?}");
        let store = opened(&server.url("repo"), &logging_in(&server, credentials)).await.unwrap();
        let error = store.put(&name("data/0"), body(1)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{shown}: {}", told(&error));
        assert!(told(&error).contains(says), "{shown}: {}", told(&error));
        for text in [told(&error), format!("{error:?}"), format!("{store:?}"), shown] {
            assert!(!text.contains(KEY) && !text.contains(other_key) && !text.contains("sig="), "{text}");
        }
    }
    let open = AzureServer::open_to_all();
    let store = opened(&open.url("repo"), &logging_in(&open, Credentials::Anonymous)).await.unwrap();
    store.put(&name("data/0"), body(1)).await.unwrap();
    assert!(open.take_seen().iter().all(|s| s.header("authorization").is_empty() && !s.query.contains("sig=")));
    let wrong = [
        (Credentials::MetadataServer, "is not a way to log in to Azure"),
        (Credentials::Profile("p".into()), "is not a way to log in to Azure"),
        (Credentials::AccountKey(secret("no base64!")), "not base64"),
        (Credentials::Sas(secret("no signature")), "it is a query such as"),
        (Credentials::Cli, "over https only"),
        (Credentials::Found, "over https only"),
    ];
    for (credentials, says) in wrong {
        let error = opened(&server.url("repo"), &logging_in(&server, credentials)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid);
        assert!(told(&error).contains(says), "{}", told(&error));
        assert!(!told(&error).contains("no base64!") && !told(&error).contains("no signature"), "{}", told(&error));
    }
}

/// The signature stands in the URL, and HTTP libraries like to tell URLs.
#[tokio::test]
async fn signatures_are_in_no_message() {
    let server = AzureServer::start();
    let query = server.signature("rcdl", LONG);
    let parts: Vec<String> = url::form_urlencoded::parse(query.as_bytes()).map(|(_, value)| value.into_owned()).collect();
    let signature = parts.last().unwrap();
    let store = opened(&server.url("repo"), &logging_in(&server, Credentials::Sas(secret(&query)))).await.unwrap();
    let hidden = |text: String| {
        for part in [query.as_str(), signature, query.rsplit_once("sig=").unwrap().1] {
            assert!(!text.contains(part), "{text}");
        }
    };
    store.put(&name("data/there"), body(1000)).await.unwrap();
    let echo = Fault::new(Act::Answer {
        status: 400,
        headers: Vec::new(),
        body: format!("<Error><Code>InvalidUri</Code><Message>{query} {signature}</Message></Error>"),
    });
    for fault in [Fault::new(Act::Reset), Fault::new(Act::CutBody(3)), refusal(403, "AuthenticationFailed"), echo] {
        for operation in ["PutBlob", "GetBlob", "ListBlobs", "DeleteBlob"] {
            if matches!(operation, "PutBlob" | "DeleteBlob") && format!("{fault:?}").contains("CutBody") {
                continue;
            }
            server.fault(fault.clone().on(operation));
            let error = kind_of(&store, operation).await;
            hidden(told(&error));
            hidden(format!("{error:?}"));
        }
    }
    hidden(format!("{store:?}"));
    let gone = server.url("repo");
    drop(server);
    let settings = StoreSettings::default();
    let settings = StoreSettings {
        provider: holdfast::store::settings::ProviderSettings {
            credentials: Credentials::Sas(secret(&query)),
            ..settings.provider.clone()
        },
        ..settings
    };
    let error = opened(&gone, &settings).await.unwrap().get(&name("data/there"), None).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{}", told(&error));
    hidden(told(&error));
    hidden(format!("{error:?}"));
}

#[tokio::test]
async fn a_wrong_clock_is_told_as_such() {
    let server = AzureServer::start();
    let past = Env::inline(1, Time(1_500_000_000_000_000_000));
    let Place::Azure { account, container } = server.url("repo").place().clone() else { panic!() };
    let store = AzureStore::open(&past, "paris", &account, &container, &server.settings()).await.unwrap();
    let error = store.get(&name("data/x"), None).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied, "{}", told(&error));
    assert!(told(&error).contains("set this machine's clock (the server's says "), "{}", told(&error));
}

#[tokio::test]
async fn over_tls_only_those_are_trusted_who_are_named() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let server = AzureServer::start_tls(&authority);
    let mut settings = server.settings();
    let error = opened(&server.url("repo"), &settings).await.unwrap().get(&name("x"), None).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid, "{}", told(&error));
    assert!(told(&error).contains("name its issuer with ca_file"), "{}", told(&error));
    settings.provider.ca_file = Some(Authority::new().file(folder.path()));
    let error = opened(&server.url("repo"), &settings).await.unwrap().get(&name("x"), None).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid, "another authority: {}", told(&error));
    settings.provider.ca_file = Some(authority.file(folder.path()));
    let store = opened(&server.url("repo"), &settings).await.unwrap();
    store.put(&name("data/x"), body(100_000)).await.unwrap();
    assert_eq!(store.get(&name("data/x"), None).await.unwrap(), body(100_000));
    std::fs::write(folder.path().join("none.pem"), "no certificate").unwrap();
    for (file, says) in [("none.pem", "holds no certificate"), ("absent.pem", "reading ca_file")] {
        settings.provider.ca_file = Some(folder.path().join(file));
        let error = opened(&server.url("repo"), &settings).await.unwrap_err();
        assert!(told(&error).contains(says), "{}", told(&error));
    }
}
