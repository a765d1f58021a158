//! What Azure said, as an error of ours: its class, and a text that names the fix. Pure but for the SDK's types.

use std::time::Duration;

use azure_core::error::{Error, ErrorKind};
use azure_core::http::RawResponse;

use crate::clock::Time;
use crate::store::azure::wire::timed_out;
use crate::store::error::StoreErrorKind;
use crate::store::fault::{Asked, Fault, Verb, chain, retry_after, words};

/// How far this machine's clock may differ from the server's: what Azure bears with.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// An answer that refuses, as the server gave it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Azure's error code.
    pub code: Option<String>,
    /// Azure's words.
    pub message: Option<String>,
    /// Why nobody was recognised.
    pub detail: Option<String>,
    /// The id that the provider's support asks for.
    pub request_id: Option<String>,
    /// The header of that name.
    pub retry_after: Option<String>,
    /// The server's clock, as a header.
    pub date: Option<String>,
}

impl Answer {
    /// The refusal in `error`, if it is one.
    pub fn of(error: &Error) -> Option<Answer> {
        let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind() else { return None };
        let status = u16::from(*status);
        Some(match raw_response {
            Some(raw) => Answer::read(status, raw),
            None => Answer { status, ..Answer::default() },
        })
    }

    fn read(status: u16, raw: &RawResponse) -> Answer {
        let header = |name: &'static str| raw.headers().get_optional_str(&name.into()).map(str::to_owned);
        let said = Answer::said(status, raw.body());
        let code = header("x-ms-error-code").or(said.code);
        Answer {
            // See `OneRequest`.
            status: if code.as_deref() == Some("InvalidRange") { 416 } else { status },
            code,
            request_id: header("x-ms-request-id"),
            retry_after: header("retry-after"),
            date: header("date"),
            ..said
        }
    }

    /// What stands in the body alone.
    fn said(status: u16, body: &[u8]) -> Answer {
        let body = String::from_utf8_lossy(body);
        Answer {
            status,
            code: element(&body, "Code"),
            // Azure writes the request and the time on further lines.
            message: element(&body, "Message").map(|text| text.lines().next().unwrap_or_default().to_owned()),
            detail: element(&body, "AuthenticationErrorDetail"),
            ..Answer::default()
        }
    }

    /// Whether it says that the object, and only the object, is not there. `None` if it does not say of what.
    pub fn object_is_absent(&self) -> Option<bool> {
        match (self.status, self.code.as_deref()) {
            (404, Some("BlobNotFound" | "ResourceNotFound")) => Some(true),
            (404, None) => None,
            _ => Some(false),
        }
    }
}

/// What an answer to a listing is, which says of itself that all went well.
pub enum Listed {
    /// A page.
    Page,
    /// A page with folders in it, which are no objects.
    Folders,
    /// Something else.
    Refusal(Answer),
}

impl Listed {
    /// Looks at the body.
    pub fn of(body: &[u8]) -> Listed {
        let has = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
        match () {
            () if !has("<EnumerationResults") || !body.trim_ascii_end().ends_with(b"</EnumerationResults>") => {
                Listed::Refusal(Answer::said(200, body))
            }
            () if has("<ResourceType>directory</ResourceType>") => Listed::Folders,
            () => Listed::Page,
        }
    }
}

/// Classes what a call to the SDK came to. `now` is this machine's time.
pub fn failed(error: &Error, asked: Asked<'_>, now: Time) -> Fault {
    if let Some(answer) = Answer::of(error) {
        return classify(&answer, asked, now);
    }
    let text = chain(error);
    match error.kind() {
        ErrorKind::Credential => login_failed(error, text),
        _ if timed_out(error) => Fault::new(StoreErrorKind::TimedOut, text),
        _ if text.contains("invalid peer certificate") => {
            let fix = "the server's certificate is not trusted; if it is your own, name its issuer with ca_file";
            Fault::new(StoreErrorKind::Invalid, format!("{text}; {fix}"))
        }
        ErrorKind::Connection => {
            let fix = "is the storage account named rightly, and does it admit this network?";
            Fault::new(StoreErrorKind::Unavailable, format!("{text}; {fix}"))
        }
        ErrorKind::Io => Fault::new(StoreErrorKind::Unavailable, text),
        ErrorKind::DataConversion => Fault::new(StoreErrorKind::Corrupt, format!("an answer that makes no sense: {text}")),
        _ => Fault::new(StoreErrorKind::Invalid, text),
    }
}

/// Whether a login failed for a reason that may pass: whoever gives out tokens was out of reach or out of order.
pub fn may_pass(error: &Error) -> Option<StoreErrorKind> {
    if timed_out(error) {
        return Some(StoreErrorKind::TimedOut);
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<Error>().map(Error::kind) {
            Some(ErrorKind::HttpResponse { status, .. }) => match u16::from(*status) {
                429 => return Some(StoreErrorKind::Throttled(None)),
                408 | 410 | 500..=599 => return Some(StoreErrorKind::Unavailable),
                _ => {}
            },
            Some(ErrorKind::Connection) => return Some(StoreErrorKind::Unavailable),
            // A file or a program that is not there is an error of the system, too; it does not pass.
            Some(ErrorKind::Io) if error.source().is_some_and(|e| e.is::<reqwest::Error>()) => {
                return Some(StoreErrorKind::Unavailable);
            }
            _ => {}
        }
        next = error.source();
    }
    None
}

fn login_failed(error: &Error, text: String) -> Fault {
    match may_pass(error) {
        Some(kind) => Fault::new(kind, text),
        // Whoever was asked has said what to do.
        None if text.contains("no usable credentials") => Fault::new(StoreErrorKind::Denied, text),
        None => {
            let fix = "no usable credentials: set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or a client secret \
                       (AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET), run `az login`, or run where an identity is given";
            Fault::new(StoreErrorKind::Denied, format!("{text}; {fix}"))
        }
    }
}

/// The class of a refusal, and its text.
pub fn classify(answer: &Answer, asked: Asked<'_>, now: Time) -> Fault {
    let kind = kind(answer, asked.verb, now);
    let mut cause = match &answer.code {
        Some(code) => format!("{} (HTTP {})", words(code), answer.status),
        None => format!("HTTP {}", answer.status),
    };
    if let Some(message) = answer.message.as_deref().filter(|m| !m.is_empty()) {
        cause.push_str(&format!(": {}", words(message)));
    }
    if let Some(id) = &answer.request_id {
        cause.push_str(&format!(", request {}", words(id)));
    }
    if let Some(fix) = fix(answer, asked, kind, now) {
        cause.push_str(&format!("; {fix}"));
    }
    Fault { kind, cause }
}

fn kind(answer: &Answer, verb: Verb, now: Time) -> StoreErrorKind {
    use StoreErrorKind::{AlreadyExists, Corrupt, Denied, Full, Invalid, NotFound, Throttled, TimedOut, Unavailable};
    let throttled = || Throttled(answer.retry_after.as_deref().and_then(|text| retry_after(text, now)));
    match answer.code.as_deref().unwrap_or_default() {
        "BlobNotFound" | "ContainerNotFound" | "ResourceNotFound" | "ContainerBeingDeleted" => NotFound,
        "BlobAlreadyExists" | "ResourceAlreadyExists" => AlreadyExists,
        // Each of them is said of an object that is there.
        "ConditionNotMet" | "BlobImmutableDueToPolicy" | "LeaseIdMissing" | "InvalidBlobType" | "UnauthorizedBlobOverwrite"
            if verb == Verb::Put =>
        {
            AlreadyExists
        }
        "AccountIsDisabled"
        | "AuthenticationFailed"
        | "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "AuthorizationProtocolMismatch"
        | "AuthorizationResourceTypeMismatch"
        | "AuthorizationServiceMismatch"
        | "AuthorizationSourceIPMismatch"
        | "BlobImmutableDueToPolicy"
        | "InsufficientAccountPermissions"
        | "InvalidAuthenticationInfo"
        | "KeyBasedAuthenticationNotPermitted"
        | "LeaseIdMissing"
        | "NoAuthenticationInformation"
        | "PublicAccessNotPermitted" => Denied,
        "ServerBusy" | "TooManyRequests" | "IngressLimitExceeded" | "EgressLimitExceeded" => throttled(),
        "OperationTimedOut" => TimedOut,
        "InternalError" | "AccountBeingCreated" => Unavailable,
        "Crc64Mismatch" | "Md5Mismatch" => Corrupt,
        // Archived: forbidden by its state, not to somebody.
        "BlobArchived" | "BlobBeingRehydrated" | "SnapshotsPresent" => Invalid,
        "AccountLimitExceeded" | "CapacityLimitExceeded" | "InsufficientStorage" => Full,
        _ => match answer.status {
            401 | 403 => Denied,
            404 | 410 => NotFound,
            408 => TimedOut,
            // Something else is under way with this name: what becomes of ours is unknown.
            409 => Unavailable,
            412 if verb == Verb::Put => AlreadyExists,
            429 => throttled(),
            503 if answer.retry_after.is_some() => throttled(),
            507 => Full,
            501 | 505 => Invalid,
            // An answer of success that is none: whether anything was done is unknown.
            200..=299 | 307 | 500..=599 => Unavailable,
            300..=499 => Invalid,
            _ => StoreErrorKind::Other,
        },
    }
}

/// What to do about it, where that can be said.
fn fix(answer: &Answer, asked: Asked<'_>, kind: StoreErrorKind, now: Time) -> Option<String> {
    let Asked { bucket, key, .. } = asked;
    let detail = answer.detail.as_deref().unwrap_or_default();
    let wrong_clock = answer.date.as_deref().is_some_and(|date| skewed(date, now)) || detail.contains("date header");
    Some(match answer.code.as_deref().unwrap_or_default() {
        "ContainerNotFound" => {
            format!("there is no container {bucket}: containers are never made here, make it first or mend the URL")
        }
        "ContainerBeingDeleted" => format!("the container {bucket} is being deleted"),
        "AuthenticationFailed" | "InvalidAuthenticationInfo" if wrong_clock => {
            let theirs = answer.date.as_deref().map(|date| format!(" (the server's says {})", words(date))).unwrap_or_default();
            format!("set this machine's clock{theirs}")
        }
        "AuthenticationFailed" | "InvalidAuthenticationInfo" if detail.contains("time frame") || detail.contains("ifetime") => {
            "the shared access signature or the token has run out, or is not valid yet: renew it, or let an identity renew it by \
             itself"
                .into()
        }
        "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
            "the account key, the shared access signature or the token is not one of this account: look at where the credentials \
             come from, and whether they have run out"
                .into()
        }
        "KeyBasedAuthenticationNotPermitted" => {
            "this account admits neither keys nor shared access signatures: log in with an identity (managed-identity, \
             workload-identity, client-secret, cli)"
                .into()
        }
        "AuthorizationSourceIPMismatch" | "AuthorizationProtocolMismatch" => {
            "the shared access signature admits other addresses or protocols only".into()
        }
        "BlobImmutableDueToPolicy" => "an immutability policy or a legal hold stands against it".into(),
        "LeaseIdMissing" => "somebody holds a lease on the object: break the lease first".into(),
        "SnapshotsPresent" => "the object has snapshots that were made by others: remove them first".into(),
        "BlobArchived" | "BlobBeingRehydrated" => "the object is archived: bring it back to an online tier first".into(),
        _ if asked.kms && answer.message.as_deref().is_some_and(|m| m.contains("ncryption scope")) => {
            "look at the encryption scope named by kms_key".into()
        }
        _ if kind == StoreErrorKind::Denied => {
            let (action, letter, resource) = match asked.verb {
                Verb::Put => ("write", "c", format!("az://{bucket}/{key}")),
                Verb::Get | Verb::Stat => ("read", "r", format!("az://{bucket}/{key}")),
                Verb::List => ("read", "l", format!("az://{bucket}")),
                Verb::Delete => ("delete", "d", format!("az://{bucket}/{key}")),
                Verb::Settings => return Some(format!("needed: {key}")),
            };
            format!(
                "needed: Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{action} on {resource} (the role Storage Blob \
                 Data Contributor; the owner of an account does not have it by itself), or `{letter}` in a shared access signature; \
                 the account's firewall can stand against it"
            )
        }
        _ => return None,
    })
}

fn skewed(date: &str, now: Time) -> bool {
    let Ok(theirs) = jiff::fmt::rfc2822::parse(date.trim()) else { return false };
    let Ok(theirs) = i64::try_from(theirs.timestamp().as_nanosecond()) else { return false };
    now.since(Time(theirs)).max(Time(theirs).since(now)) > SKEW_MAX
}

/// The text of the first XML element `name`.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&"))
}
