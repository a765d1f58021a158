//! What Google Cloud Storage said, as an error of ours: its class, and a text that names the fix. Pure but for the SDK's types.
//!
//! It speaks in two ways: the JSON API by HTTP statuses with a reason, gRPC by codes. Both come to the same classes.

use std::error::Error;
use std::time::Duration;

use google_cloud_gax::error::CredentialsError;
use google_cloud_gax::error::rpc::{Code, Status, StatusDetails};
use google_cloud_storage::error::{ReadError, WriteError};

use crate::clock::Time;
use crate::store::error::StoreErrorKind;
use crate::store::fault::{Asked, Fault, Verb, chain, retry_after, words};

/// How far clocks may differ before a refused login is blamed on them.
const SKEW_MAX: Duration = Duration::from_secs(300);

/// An answer that refuses, as the server gave it.
#[derive(Clone, Copy, Default)]
pub struct Answer<'a> {
    /// HTTP status of the JSON API; `None` over gRPC.
    pub http: Option<u16>,
    /// Code of gRPC; `Unknown` for most answers of the JSON API.
    pub code: Code,
    /// What the JSON API gives as its reason.
    pub reason: Option<&'a str>,
    /// The server's words.
    pub message: &'a str,
    /// The id that the provider's support asks for.
    pub request_id: Option<&'a str>,
    /// The header of that name.
    pub retry_after: Option<&'a str>,
    /// How long to wait, as gRPC says it.
    pub retry_delay: Option<Duration>,
    /// The server's clock, as a header.
    pub date: Option<&'a str>,
}

/// Classes what a call to the SDK came to. `now` is this machine's time.
pub fn failed(error: &google_cloud_storage::Error, asked: Asked<'_>, now: Time) -> Fault {
    use StoreErrorKind::{Corrupt, Invalid, Other, TimedOut, Unavailable};
    let header = |name: &str| error.http_headers().and_then(|h| h.get(name)).and_then(|v| v.to_str().ok());
    if let Some(status) = error.status() {
        let answer = Answer {
            http: error.http_status_code(),
            code: status.code,
            reason: reason(status),
            message: &status.message,
            request_id: header("x-guploader-uploadid"),
            retry_after: header("retry-after"),
            retry_delay: retry_delay(status),
            date: header("date"),
        };
        return classify(answer, asked, now);
    }
    if let Some(http) = error.http_status_code() {
        let body = error.http_payload().map(|body| String::from_utf8_lossy(body)).unwrap_or_default();
        let answer = Answer {
            http: Some(http),
            message: &body,
            request_id: header("x-guploader-uploadid"),
            retry_after: header("retry-after"),
            date: header("date"),
            ..Answer::default()
        };
        return classify(answer, asked, now);
    }
    let text = chain(error);
    if error.is_authentication() {
        return not_logged_in(error, text);
    }
    if text.contains("invalid peer certificate") {
        let fix = "the server's certificate is not trusted; if it is your own, name its issuer with SSL_CERT_FILE";
        return Fault::new(Invalid, format!("{text}; {fix}"));
    }
    let unread = behind::<ReadError>(error);
    match () {
        () if error.is_timeout() => Fault::new(TimedOut, text),
        () if error.is_connect() => Fault::new(Unavailable, text),
        () if matches!(unread, Some(ReadError::ShortRead(_))) => Fault::new(Unavailable, text),
        () if unread.is_some() => Fault::new(Corrupt, text),
        () if matches!(behind::<WriteError>(error), Some(WriteError::ChecksumMismatch { .. })) => {
            Fault::new(Corrupt, "the server's sum is not that of what was sent")
        }
        () if error.is_transport() => Fault::new(Unavailable, text),
        // A success that nobody can read: something stands between, or the server broke off. What was put may be there.
        () if error.is_deserialization() && asked.verb == Verb::Put => Fault::new(Unavailable, text),
        () if error.is_deserialization() => Fault::new(Corrupt, text),
        () if error.is_serialization() || error.is_binding() => Fault::new(Invalid, text),
        () => Fault::new(Other, text),
    }
}

/// The error of type `T` behind `error`, if there is one.
fn behind<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn reason(status: &Status) -> Option<&str> {
    status.details.iter().find_map(|detail| match detail {
        StatusDetails::ErrorInfo(info) if !info.reason.is_empty() => Some(info.reason.as_str()),
        _ => None,
    })
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status.details.iter().find_map(|detail| match detail {
        StatusDetails::RetryInfo(info) => info.retry_delay.and_then(|d| u64::try_from(d.seconds()).ok()).map(Duration::from_secs),
        _ => None,
    })
}

/// There is nobody to ask as, or the one who knows did not answer.
fn not_logged_in(error: &google_cloud_storage::Error, mut text: String) -> Fault {
    // A token that was not as expected is quoted there.
    if let Some(at) = text.find("body=<").filter(|_| text.contains("subject token")) {
        text.truncate(at);
    }
    if behind::<CredentialsError>(error).is_some_and(CredentialsError::is_transient) {
        return Fault::new(StoreErrorKind::Unavailable, text);
    }
    let fix = match text.contains("reasonable timeframe") {
        true => "set this machine's clock",
        false => {
            "no usable credentials: run `gcloud auth application-default login`, name a key file (GOOGLE_APPLICATION_CREDENTIALS, or \
             `file` in the store's credentials), or run where a service account is given; a public bucket needs `anonymous`"
        }
    };
    Fault::new(StoreErrorKind::Denied, format!("{text}; {fix}"))
}

/// The class of a refusal, and its text.
pub fn classify(answer: Answer<'_>, asked: Asked<'_>, now: Time) -> Fault {
    let kind = match answer.http {
        Some(http) => kind_of_http(http, answer, asked.verb, now),
        None => kind_of_grpc(answer, asked.verb),
    };
    let mut cause = match (answer.http, answer.reason) {
        (Some(http), Some(reason)) => format!("{} (HTTP {http})", words(reason)),
        (Some(http), None) => format!("HTTP {http}"),
        (None, _) => answer.code.name().to_owned(),
    };
    if !answer.message.is_empty() {
        cause.push_str(&format!(": {}", words(answer.message)));
    }
    if let Some(id) = answer.request_id {
        cause.push_str(&format!(", request {}", words(id)));
    }
    if let Some(fix) = fix(answer, asked, kind, now) {
        cause.push_str(&format!("; {fix}"));
    }
    Fault { kind, cause }
}

fn kind_of_http(http: u16, answer: Answer<'_>, verb: Verb, now: Time) -> StoreErrorKind {
    let throttled = || StoreErrorKind::Throttled(answer.retry_after.and_then(|text| retry_after(text, now)));
    let sums = |text: &str| ["CRC32C", "crc32c", "MD5", "checksum"].iter().any(|sum| text.contains(sum));
    match http {
        400 if verb == Verb::Put && sums(answer.message) => StoreErrorKind::Corrupt,
        403 if matches!(answer.reason, Some("rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded")) => throttled(),
        // Whoever may create and not delete is told so of an object that is there, whatever the condition of the request.
        403 if verb == Verb::Put && answer.message.contains("storage.objects.delete") => StoreErrorKind::AlreadyExists,
        401 | 403 => StoreErrorKind::Denied,
        404 | 410 => StoreErrorKind::NotFound,
        408 => StoreErrorKind::TimedOut,
        // Another change of the same name is under way: nobody knows yet which of them comes first.
        409 => StoreErrorKind::Unavailable,
        412 if verb == Verb::Put => StoreErrorKind::AlreadyExists,
        429 => throttled(),
        503 if answer.retry_after.is_some() => throttled(),
        507 => StoreErrorKind::Full,
        501 => StoreErrorKind::Invalid,
        500..=599 => StoreErrorKind::Unavailable,
        300..=499 => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Other,
    }
}

fn kind_of_grpc(answer: Answer<'_>, verb: Verb) -> StoreErrorKind {
    match answer.code {
        Code::Unauthenticated | Code::PermissionDenied => StoreErrorKind::Denied,
        Code::NotFound => StoreErrorKind::NotFound,
        Code::ResourceExhausted => StoreErrorKind::Throttled(answer.retry_delay),
        Code::DeadlineExceeded | Code::Cancelled => StoreErrorKind::TimedOut,
        Code::Unavailable | Code::Internal | Code::Aborted | Code::Unknown | Code::DataLoss => StoreErrorKind::Unavailable,
        Code::AlreadyExists | Code::FailedPrecondition if verb == Verb::Put => StoreErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::FailedPrecondition => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Other,
    }
}

/// What to do about it, where that can be said.
fn fix(answer: Answer<'_>, asked: Asked<'_>, kind: StoreErrorKind, now: Time) -> Option<String> {
    let Asked { bucket, key, .. } = asked;
    let unauthenticated = answer.http == Some(401) || answer.code == Code::Unauthenticated;
    let held = matches!(answer.reason, Some("retentionPolicyNotMet" | "objectUnderActiveHold"));
    Some(match kind {
        StoreErrorKind::NotFound if asked.verb == Verb::Put || names_bucket(answer.message) => {
            format!("there is no bucket {bucket}: buckets are never made here, make it first or mend the URL")
        }
        StoreErrorKind::Denied if unauthenticated && skewed(answer.date, now) => {
            format!("set this machine's clock (the server's says {})", words(answer.date.unwrap_or_default()))
        }
        StoreErrorKind::Denied if unauthenticated => {
            "nobody is logged in, or the token or key is not valid (any more): look at where the credentials come from (`gcloud auth \
             application-default login`, the key file, the service account); an `access-token` is not renewed"
                .into()
        }
        StoreErrorKind::Denied if held => "a retention policy or a hold of the bucket protects it until it ends".into(),
        StoreErrorKind::Denied => {
            let (action, more) = match asked.verb {
                Verb::Put if asked.kms => ("create", ", and the bucket's service agent may have to be let use the key named by kms_key"),
                Verb::Put => ("create", ""),
                // Without the right to list, absent objects look forbidden.
                Verb::Get | Verb::Stat => ("get", ", and storage.objects.list (else absent objects look forbidden)"),
                Verb::List => ("list", ""),
                Verb::Delete => ("delete", ""),
                Verb::Settings => return Some(format!("needed: {key} on projects/_/buckets/{bucket}")),
            };
            let resource = match asked.verb {
                Verb::List => format!("projects/_/buckets/{bucket}"),
                _ => format!("projects/_/buckets/{bucket}/objects/{key}"),
            };
            format!("needed: storage.objects.{action} on {resource}{more} (the role Storage Object User has all of them)")
        }
        StoreErrorKind::Invalid if answer.http.is_none() && answer.code == Code::Unimplemented => {
            "this server does not speak the gRPC (google.storage.v2) that listings, sizes and removals need".into()
        }
        StoreErrorKind::Invalid if answer.message.to_ascii_lowercase().contains("kms") => {
            "look at the key named by kms_key, and at who may use it".into()
        }
        _ => return None,
    })
}

/// Whether a message about something absent is about the bucket.
fn names_bucket(message: &str) -> bool {
    message.contains("bucket does not exist")
}

/// Whether an answer about something absent says that it is the object.
pub fn names_object(fault: &Fault) -> bool {
    fault.kind == StoreErrorKind::NotFound && fault.cause.contains("No such object")
}

fn skewed(date: Option<&str>, now: Time) -> bool {
    let Some(theirs) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return false };
    let Ok(theirs) = i64::try_from(theirs.timestamp().as_nanosecond()) else { return false };
    Time(theirs).since(now).max(now.since(Time(theirs))) > SKEW_MAX
}
