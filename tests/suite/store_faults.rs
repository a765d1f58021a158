//! What each provider's store makes of a network and a server that fail: one table, over the wire, through the proxy.
//!
//! For every case: how often the request was sent, how long it took at most, the class and the words of what came out of it,
//! and what lies at the server afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast::clock::Env;
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{ObjectInfo, Store};

use crate::support::answers::{LONG_AGO, broken, busy, denied, error_inside, expired, gcs_grpc, gcs_json, refusal, throttled};
use crate::support::authority::Authority;
use crate::support::azure_server::KEY;
use crate::support::clouds::{Cloud, Provider, Request};
use crate::support::gcs_server::TOKEN;
use crate::support::name;
use crate::support::proxy::{Answer, Fault, Rule};
use crate::support::s3_server::SECRET_KEY;
use crate::support::source_tree::noise;

/// Retries after the first attempt.
const RETRIES: u32 = 2;
/// All attempts.
const ATTEMPTS: usize = 1 + RETRIES as usize;
/// Of one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What this machine may add to any time: others work on it, too.
const SLACK: Duration = Duration::from_secs(30);
/// Size of each object.
const SIZE: usize = 100_000;
const ALWAYS: u64 = u64::MAX;

/// What lies at the server afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Absent,
    Ours,
}

/// One line of the table.
struct Case {
    fault: Fault,
    times: u64,
    attempts: usize,
    /// Classes that it may end in; none: it must succeed.
    ends: &'static [&'static str],
    /// What the story of the error must say.
    says: &'static [&'static str],
    left: Left,
    at_least: Duration,
}

fn case(fault: Fault, times: u64, attempts: usize, ends: &'static [&'static str], left: Left) -> Case {
    Case { fault, times, attempts, ends, says: &[], left, at_least: Duration::ZERO }
}

/// Struck once, and well on the second attempt.
fn once(fault: Fault, left: Left) -> Case {
    case(fault, 1, 2, &[], left)
}

/// Struck whenever it is tried, until all attempts are used up.
fn always(fault: Fault, ends: &'static [&'static str], left: Left) -> Case {
    case(fault, ALWAYS, ATTEMPTS, ends, left)
}

/// Refused for good at the first attempt.
fn refused(answer: Answer, ends: &'static [&'static str], left: Left) -> Case {
    case(Fault::Answer(answer), ALWAYS, 1, ends, left)
}

impl Case {
    fn saying(self, says: &'static [&'static str]) -> Case {
        Case { says, ..self }
    }
    fn lasting(self, at_least: Duration) -> Case {
        Case { at_least, ..self }
    }
}

fn class(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::NotFound => "not found",
        StoreErrorKind::AlreadyExists => "exists",
        StoreErrorKind::Denied => "denied",
        StoreErrorKind::Throttled(_) => "throttled",
        StoreErrorKind::TimedOut => "timed out",
        StoreErrorKind::Unavailable => "unavailable",
        StoreErrorKind::Full => "full",
        StoreErrorKind::Corrupt => "corrupt",
        StoreErrorKind::Invalid => "invalid",
        StoreErrorKind::Other => "other",
    }
}

/// The error with all its causes, as a person reads it.
fn story(e: &dyn std::error::Error) -> String {
    std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A network that breaks: the same for every kind of request that HTTP/1.1 carries.
fn network(untouched: Left, applied: Left) -> Vec<Case> {
    let second = Duration::from_secs(1);
    vec![
        once(Fault::ResetBefore, applied),
        always(Fault::ResetBefore, &["unavailable"], untouched),
        once(Fault::ResetAfter, applied),
        always(Fault::ResetAfter, &["unavailable"], applied),
        once(Fault::StallBefore, applied).lasting(TIMEOUT),
        always(Fault::StallBefore, &["timed out"], untouched).lasting(TIMEOUT * RETRIES + second).saying(&["timed out"]),
        once(Fault::StallAfter, applied).lasting(TIMEOUT),
        case(Fault::Delay(Duration::from_millis(300)), ALWAYS, 1, &[], applied).lasting(Duration::from_millis(300)),
    ]
}

/// A server that answers with errors, in the way of its kind.
fn server(provider: Provider, request: Request, untouched: Left, applied: Left) -> Vec<Case> {
    let second = Duration::from_secs(1);
    vec![
        once(Fault::Answer(throttled(provider, request)), applied).lasting(second),
        always(Fault::Answer(throttled(provider, request)), &["throttled"], untouched)
            .lasting(second * RETRIES)
            .saying(&["throttled"]),
        once(Fault::Answer(busy(provider, request)), applied),
        always(Fault::Answer(busy(provider, request)), &["throttled", "unavailable"], untouched),
        once(Fault::Answer(broken(provider, request)), applied),
        always(Fault::Answer(broken(provider, request)), &["unavailable"], untouched),
        once(Fault::AnswerAfter(broken(provider, request)), applied),
        once(Fault::AnswerAfter(throttled(provider, request)), applied),
        refused(denied(provider, request), &["denied"], untouched).saying(&["permission denied"]),
        refused(expired(provider, request), &["denied"], untouched).saying(&["permission denied"]),
    ]
}

fn cases(provider: Provider, request: Request) -> Vec<Case> {
    use Left::{Absent, Ours};
    // Somewhere in the one page of a listing, which is shorter in binary.
    let within = if provider.by_grpc(request) { 20 } else { 200 };
    let mut cases = match request {
        Request::Put => [network(Absent, Ours), server(provider, request, Absent, Ours)].concat_all(),
        Request::Delete => [network(Ours, Absent), server(provider, request, Ours, Absent)].concat_all(),
        _ => [network(Ours, Ours), server(provider, request, Ours, Ours)].concat_all(),
    };
    match request {
        Request::Put => cases.extend([
            once(Fault::FlipSent(SIZE as u64 / 2), Ours),
            always(Fault::FlipSent(SIZE as u64 / 2), &["corrupt"], Absent),
            // What is not there must not be said to be.
            once(Fault::Answer(error_inside(provider, request)), Ours),
            always(Fault::Answer(error_inside(provider, request)), &["unavailable", "corrupt"], Absent),
        ]),
        Request::Get => cases.extend([
            once(Fault::Cut(1000), Ours),
            always(Fault::Cut(1000), &["unavailable", "corrupt"], Ours),
            once(Fault::StallInBody(1000), Ours).lasting(TIMEOUT),
            always(Fault::StallInBody(1000), &["timed out"], Ours).lasting(TIMEOUT * RETRIES),
        ]),
        Request::List => cases.extend([
            once(Fault::Cut(within), Ours),
            once(Fault::StallInBody(within), Ours).lasting(TIMEOUT),
            always(Fault::Answer(error_inside(provider, request)), &["unavailable", "corrupt"], Ours),
        ]),
        Request::Stat | Request::Delete => {}
    }
    match (provider, request) {
        (Provider::S3, Request::Put) => cases.extend([
            // Another create is under way: nobody knows how it ends.
            once(Fault::Answer(refusal(provider, 409, "ConditionalRequestConflict")), Ours),
            // It was there before, or it is what this very request left there behind a stranger's back.
            case(Fault::AnswerAfter(refusal(provider, 412, "PreconditionFailed")), 1, 1, &["exists"], Ours),
            refused(refusal(provider, 403, "RequestTimeTooSkewed"), &["denied"], Absent).saying(&["clock"]),
            refused(refusal(provider, 403, "AccessDenied"), &["denied"], Absent).saying(&["s3:PutObject", "bucket", "REQUEST-7"]),
            refused(refusal(provider, 403, "SignatureDoesNotMatch"), &["denied"], Absent),
        ]),
        (Provider::S3, Request::Get) => cases.extend([
            once(Fault::Flip(5000), Ours),
            always(Fault::Flip(5000), &["corrupt"], Ours),
            refused(refusal(provider, 404, "NoSuchKey"), &["not found"], Ours),
            refused(refusal(provider, 403, "AccessDenied"), &["denied"], Ours).saying(&["s3:GetObject", "bucket"]),
        ]),
        (Provider::S3, Request::Stat) => cases.extend([
            refused(refusal(provider, 403, "RequestTimeTooSkewed"), &["denied"], Ours).saying(&["clock"]),
            refused(refusal(provider, 403, "AccessDenied"), &["denied"], Ours).saying(&["s3:GetObject", "bucket"]),
        ]),
        (Provider::S3, Request::Delete) => {
            let inside = |code| {
                let body =
                    format!("<DeleteResult><Error><Key>KEY</Key><Code>{code}</Code><Message>m</Message></Error></DeleteResult>");
                Fault::Answer(Answer::xml(200, body))
            };
            cases.extend([
                once(inside("SlowDown"), Absent),
                always(inside("InternalError"), &["unavailable"], Ours),
                case(inside("AccessDenied"), ALWAYS, 1, &["denied"], Ours),
            ]);
        }
        (Provider::Gcs, Request::Put) => cases.extend([
            // Another change of the name is under way: nobody knows how it ends.
            once(Fault::Answer(refusal(provider, 409, "conflict")), Ours),
            // It was there before, or it is what this very request left there behind a stranger's back.
            case(Fault::AnswerAfter(refusal(provider, 412, "conditionNotMet")), 1, 1, &["exists"], Ours),
            refused(expired(provider, request).with("date", LONG_AGO), &["denied"], Absent).saying(&["clock"]),
            refused(denied(provider, request), &["denied"], Absent).saying(&[
                "storage.objects.create",
                "buckets/bucket",
                "deep/prefix/data",
                "Storage Object User",
                "REQUEST-7",
            ]),
            refused(gcs_json(404, "notFound", "The specified bucket does not exist."), &["not found"], Absent)
                .saying(&["there is no bucket"]),
        ]),
        (Provider::Gcs, Request::Get) => cases.extend([
            once(Fault::Flip(5000), Ours),
            always(Fault::Flip(5000), &["corrupt"], Ours),
            refused(gcs_json(404, "notFound", "No such object: bucket/x"), &["not found"], Ours),
            refused(expired(provider, request).with("date", LONG_AGO), &["denied"], Ours).saying(&["clock"]),
            refused(denied(provider, request), &["denied"], Ours).saying(&[
                "storage.objects.get",
                "storage.objects.list",
                "buckets/bucket",
                "REQUEST-7",
            ]),
        ]),
        (Provider::Gcs, Request::Stat) => cases.extend([
            refused(denied(provider, request), &["denied"], Ours).saying(&["storage.objects.get", "buckets/bucket"]),
            refused(expired(provider, request), &["denied"], Ours).saying(&["gcloud auth"]),
            refused(expired(provider, request).with("date", LONG_AGO), &["denied"], Ours).saying(&["clock"]),
            always(Fault::Answer(error_inside(provider, request)), &["unavailable"], Ours),
            once(Fault::Cut(20), Ours),
            once(Fault::StallInBody(20), Ours).lasting(TIMEOUT),
            // A load balancer's own answer, in the way of HTTP.
            once(Fault::Answer(Answer::xml(502, "a load balancer's page")), Ours),
        ]),
        (Provider::Gcs, Request::List) => cases.extend([
            refused(denied(provider, request), &["denied"], Ours).saying(&["storage.objects.list", "buckets/bucket"]),
            refused(gcs_grpc(5, "The specified bucket does not exist."), &["not found"], Ours).saying(&["there is no bucket"]),
            once(Fault::Answer(Answer::xml(502, "a load balancer's page")), Ours),
        ]),
        (Provider::Gcs, Request::Delete) => cases.extend([
            // Gone is gone, whoever did it.
            case(Fault::AnswerAfter(gcs_grpc(5, "No such object: bucket/x")), 1, 1, &[], Absent),
            refused(denied(provider, request), &["denied"], Ours).saying(&["storage.objects.delete", "buckets/bucket"]),
            once(Fault::Answer(error_inside(provider, request)), Absent),
        ]),
        (Provider::Azure, Request::Put) => cases.extend([
            // It was there before, or it is what this very request left there behind a stranger's back.
            case(Fault::AnswerAfter(refusal(provider, 409, "BlobAlreadyExists")), 1, 1, &["exists"], Ours),
            refused(refusal(provider, 403, "AuthenticationFailed").with("date", LONG_AGO), &["denied"], Absent)
                .saying(&["clock"]),
            refused(denied(provider, request), &["denied"], Absent).saying(&[
                "blobs/write",
                "testaccount/container",
                "REQUEST-7",
            ]),
            once(Fault::Answer(refusal(provider, 500, "OperationTimedOut")), Ours),
        ]),
        (Provider::Azure, Request::Get) => cases.extend([
            once(Fault::Flip(5000), Ours),
            always(Fault::Flip(5000), &["corrupt"], Ours),
            refused(refusal(provider, 404, "BlobNotFound"), &["not found"], Ours),
            refused(denied(provider, request), &["denied"], Ours).saying(&["blobs/read", "testaccount/container", "REQUEST-7"]),
        ]),
        (Provider::Azure, Request::Stat) => cases.extend([
            refused(denied(provider, request), &["denied"], Ours).saying(&["blobs/read", "testaccount/container", "REQUEST-7"]),
            refused(refusal(provider, 404, "ContainerNotFound"), &["not found"], Ours).saying(&["there is no container"]),
        ]),
        (Provider::Azure, Request::Delete) => cases.extend([
            // Gone is gone, whoever did it.
            case(Fault::AnswerAfter(refusal(provider, 404, "BlobNotFound")), 1, 1, &[], Absent),
            refused(refusal(provider, 409, "BlobImmutableDueToPolicy"), &["denied"], Ours).saying(&["immutability policy"]),
        ]),
        _ => {}
    }
    cases
}

/// Rows that one provider has and another has not, with the reason. Printed with the provider's table.
const NOT_MADE: [(Provider, &[Request], &str); 5] = [
    (Provider::Gcs, &[Request::Stat, Request::List, Request::Delete], "flipped bytes: a gRPC message has no sum but that of TLS"),
    (Provider::Gcs, &[Request::Stat, Request::List, Request::Delete], "the request's id in the text: gRPC answers have none"),
    (Provider::S3, &[Request::List], "flipped bytes: a listing has no sum but that of TLS"),
    (Provider::Azure, &[Request::List], "flipped bytes: a listing has no sum but that of TLS"),
    (Provider::Azure, &[Request::Delete], "errors inside a success: removals are one by one"),
];

trait Concat {
    fn concat_all(self) -> Vec<Case>;
}

impl<const N: usize> Concat for [Vec<Case>; N] {
    fn concat_all(self) -> Vec<Case> {
        self.into_iter().flatten().collect()
    }
}

async fn carry_out(store: &dyn Store, request: Request, name: &ObjectName, body: &Bytes) -> Result<(), StoreError> {
    match request {
        Request::Put => store.put(name, body.clone()).await,
        Request::Get => store.get(name, None).await.map(|got| assert!(got == *body, "other bytes came back")),
        Request::Stat => store.stat(name).await.map(|info| assert_eq!(info.map(|i| i.size), Some(SIZE as u64))),
        Request::List => {
            let listed: Vec<ObjectInfo> = store.list(name.as_str()).try_collect().await?;
            assert!(matches!(&listed[..], [only] if only.name == *name), "{listed:?}");
            Ok(())
        }
        Request::Delete => match store.delete(std::slice::from_ref(name)).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        },
    }
}

/// One column of the table: a provider, a kind of request, every fault.
async fn column(provider: Provider, request: Request, tls: bool, this: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut trusted = folder.path().to_owned();
    if provider == Provider::Gcs && tls {
        // Whom its SDK trusts is said by the environment alone, and that of this process is everybody's.
        let Some(named) = std::env::var_os(TRUSTED) else { return in_a_child(this, folder.path()).await };
        trusted = named.into();
    }
    let authority = Authority::new();
    let cloud = Cloud::start(provider, "a-store", tls.then_some((&authority, &*trusted))).await;
    let settings = StoreSettings { retries: RETRIES, timeout: TIMEOUT, ..StoreSettings::default() };
    let [through, past] = cloud.stores(&Env::real(), "deep/prefix", &settings).await.map(|open| open.store);
    let body = Bytes::from(noise(1, SIZE));
    for (_, _, why) in NOT_MADE.iter().filter(|(who, what, _)| *who == provider && what.contains(&request)) {
        println!("{provider:?} {request:?} has no row for {why}");
    }
    for (number, case) in cases(provider, request).into_iter().enumerate() {
        let what = format!("{provider:?} {request:?} {:?} x{}", case.fault, case.times);
        let object = name(&format!("data/{number:02}"));
        if request != Request::Put {
            past.put(&object, body.clone()).await.unwrap_or_else(|e| panic!("{}", story(&e)));
        }
        // Connections are there, and other faults are over.
        through.stat(&name("missing")).await.unwrap_or_else(|e| panic!("before {what}: {}", story(&e)));
        cloud.proxy.take();
        let fault = addressed(case.fault, &format!("deep/prefix/{object}"));
        if let (Provider::S3, Request::Stat, Fault::Answer(answer)) = (provider, request, &fault)
            && [400, 403].contains(&answer.status)
        {
            // HEAD answers have no words: they are asked for by a GET, which is refused as well.
            cloud.on(Request::Get, Rule::new(fault.clone()));
        }
        cloud.on(request, Rule::new(fault).times(case.times));
        let began = Instant::now();
        let result = carry_out(&*through, request, &object, &body).await;
        let took = began.elapsed();
        let attempts = cloud.sent(request);
        cloud.proxy.behave();
        let told = result.as_ref().err().map(|e| story(e)).unwrap_or_default();
        println!("{what}: {attempts} attempts, {:.1} s: {told}", took.as_secs_f64());
        match &result {
            Ok(()) => assert!(case.ends.is_empty(), "{what} was said to be well"),
            Err(e) => assert!(case.ends.contains(&class(e.kind)), "{what}: {}: {told}", class(e.kind)),
        }
        assert_eq!(attempts, case.attempts, "{what}: attempts: {told}");
        let most = (TIMEOUT + Duration::from_secs(2)) * attempts as u32 + SLACK;
        assert!((case.at_least..most).contains(&took), "{what}: {took:?}");
        for word in case.says {
            assert!(told.contains(word), "{what}: {word:?} is missing: {told}");
        }
        if result.is_err() {
            assert!(told.contains("store a-store"), "{what}: which store? {told}");
            let which = if request == Request::List { "list" } else { object.as_str() };
            assert!(told.contains(which), "{what}: which object? {told}");
        }
        assert!(![SECRET_KEY, KEY, TOKEN].iter().any(|secret| told.contains(secret)), "{what}: {told}");
        let left = match past.get(&object, None).await {
            Ok(bytes) if bytes == body => Left::Ours,
            Ok(_) => panic!("{what}: other bytes lie there"),
            Err(e) if e.kind == StoreErrorKind::NotFound => Left::Absent,
            Err(e) => panic!("{what}: {}", story(&e)),
        };
        assert_eq!(left, case.left, "{what}");
    }
}

/// Names the folder with the authority's certificate, in a child.
const TRUSTED: &str = "HOLDFAST_SUITE_TRUSTED";

/// The same test again, in a process that trusts the authority whose certificate will be written into `folder`.
async fn in_a_child(this: &str, folder: &Path) {
    let (_, this) = this.split_once("::").expect("the suite's name stands first");
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", this, "--nocapture"]).env(TRUSTED, folder).env("SSL_CERT_FILE", folder.join("authority.pem"));
    let out = child.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    println!("{said}");
    assert!(out.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

/// A fault whose answer names the object.
fn addressed(fault: Fault, key: &str) -> Fault {
    match fault {
        Fault::Answer(answer) => Fault::Answer(Answer { body: answer.body.replace("KEY", key), ..answer }),
        other => other,
    }
}

macro_rules! table {
    ($($provider:ident, $module:ident, $tls:expr => $($request:ident $test:ident),*;)*) => {$(
        mod $module {
            use crate::support::clouds::{Provider, Request};
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    let this = concat!(module_path!(), "::", stringify!($test));
                    super::column(Provider::$provider, Request::$request, $tls, this).await;
                }
            )*
        }
    )*};
}

table! {
    S3, s3, false => Put puts, Get gets, Stat stats, List lists, Delete deletes;
    S3, s3_over_tls, true => Put puts, Get gets;
    Gcs, gcs, false => Put puts, Get gets, Stat stats, List lists, Delete deletes;
    Gcs, gcs_over_tls, true => Put puts, Get gets, Stat stats, List lists, Delete deletes;
    Azure, azure, false => Put puts, Get gets, Stat stats, List lists, Delete deletes;
    Azure, azure_over_tls, true => Put puts, Get gets;
}
