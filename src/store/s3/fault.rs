//! What S3 said, as an error of ours: its class, and a text that names the fix. Pure but for the SDK's types.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;

use crate::clock::Time;
use crate::store::error::StoreErrorKind;
use crate::store::fault::{Asked, Fault, Verb, chain, retry_after, words};

/// An answer that refuses, as the server gave it.
#[derive(Clone, Copy, Default)]
pub struct Answer<'a> {
    /// HTTP status; 0 if the refusal stood inside another answer.
    pub status: u16,
    /// S3's error code. HEAD answers have none.
    pub code: Option<&'a str>,
    /// S3's words.
    pub message: Option<&'a str>,
    /// The id that the provider's support asks for.
    pub request_id: Option<&'a str>,
    /// The header of that name.
    pub retry_after: Option<&'a str>,
    /// The server's clock, as a header.
    pub date: Option<&'a str>,
    /// The bucket's region, if the server says that it is another one.
    pub region: Option<&'a str>,
}

/// Classes what a call to the SDK came to. `now` is this machine's time.
pub fn failed<E>(error: &SdkError<E>, asked: Asked<'_>, now: Time) -> Fault
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refused) => {
            let (raw, meta) = (refused.raw(), refused.err().meta());
            let header = |name: &'static str| raw.headers().get(name);
            // The SDK's own name for a 404 that came without a body.
            let code = meta.code().filter(|code| *code != "NotFound");
            let answer = Answer {
                status: raw.status().as_u16(),
                code,
                message: meta.message(),
                request_id: meta.request_id().or_else(|| header("x-amz-request-id")),
                retry_after: header("retry-after"),
                date: header("date"),
                region: header("x-amz-bucket-region"),
            };
            classify(answer, asked, now)
        }
        SdkError::ResponseError(unread) => {
            let raw = unread.raw();
            let body = raw.body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
            let header = |name: &'static str| raw.headers().get(name);
            let answer = Answer {
                status: raw.status().as_u16(),
                code: element(&body, "Code"),
                message: element(&body, "Message"),
                request_id: header("x-amz-request-id"),
                retry_after: header("retry-after"),
                ..Answer::default()
            };
            if answer.code.is_none() && raw.status().is_success() {
                return Fault::new(StoreErrorKind::Corrupt, format!("an answer that makes no sense: {}", chain(error)));
            }
            classify(answer, asked, now)
        }
        SdkError::TimeoutError(_) => Fault::new(StoreErrorKind::TimedOut, chain(error)),
        SdkError::DispatchFailure(unsent) => {
            let text = chain(error);
            match () {
                () if unsent.is_timeout() => Fault::new(StoreErrorKind::TimedOut, text),
                () if text.contains("invalid peer certificate") => {
                    let fix = "the server's certificate is not trusted; if it is your own, name its issuer with ca_file";
                    Fault::new(StoreErrorKind::Invalid, format!("{text}; {fix}"))
                }
                () if unsent.is_other() && text.contains("credential") => lost_credentials(&text),
                () if unsent.is_user() => Fault::new(StoreErrorKind::Invalid, text),
                () => Fault::new(StoreErrorKind::Unavailable, text),
            }
        }
        _ => Fault::new(StoreErrorKind::Invalid, chain(error)),
    }
}

/// There is nobody to ask as, or the one who knows did not answer.
fn lost_credentials(text: &str) -> Fault {
    if text.contains("timed out") {
        return Fault::new(StoreErrorKind::Unavailable, text);
    }
    let fix = "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile (AWS_PROFILE; for SSO run \
               `aws sso login` first), or run where a role is given; a public bucket needs `anonymous`";
    Fault::new(StoreErrorKind::Denied, format!("{text}; {fix}"))
}

/// The class of a refusal, and its text.
pub fn classify(answer: Answer<'_>, asked: Asked<'_>, now: Time) -> Fault {
    let kind = kind(answer, asked.verb, now);
    let mut cause = match (answer.code, answer.status) {
        (Some(code), 0) => words(code),
        (Some(code), status) => format!("{} (HTTP {status})", words(code)),
        (None, status) => format!("HTTP {status}"),
    };
    if let Some(message) = answer.message.filter(|m| !m.is_empty()) {
        cause.push_str(&format!(": {}", words(message)));
    }
    if let Some(id) = answer.request_id {
        cause.push_str(&format!(", request {}", words(id)));
    }
    if let Some(fix) = fix(answer, asked, kind) {
        cause.push_str(&format!("; {fix}"));
    }
    Fault { kind, cause }
}

fn kind(answer: Answer<'_>, verb: Verb, now: Time) -> StoreErrorKind {
    let throttled = || StoreErrorKind::Throttled(answer.retry_after.and_then(|text| retry_after(text, now)));
    match answer.code.unwrap_or_default() {
        "NoSuchKey" | "NoSuchBucket" | "NoSuchVersion" => StoreErrorKind::NotFound,
        "PreconditionFailed" if verb == Verb::Put => StoreErrorKind::AlreadyExists,
        // Another create is under way: nobody knows yet which of them comes first.
        "ConditionalRequestConflict" | "OperationAborted" => StoreErrorKind::Unavailable,
        "AccessDenied"
        | "AccountProblem"
        | "AllAccessDisabled"
        | "AuthorizationQueryParametersError"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidSecurity"
        | "InvalidToken"
        | "NotSignedUp"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch"
        | "TokenRefreshRequired"
        | "UnrecognizedClientException" => StoreErrorKind::Denied,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "RequestThrottled"
        | "ServerBusy"
        | "XMinioServerBusy" => throttled(),
        "InternalError" | "ServiceUnavailable" | "IncompleteBody" | "Busy" => match answer.status {
            429 => throttled(),
            503 if answer.retry_after.is_some() => throttled(),
            _ => StoreErrorKind::Unavailable,
        },
        "RequestTimeout" => StoreErrorKind::TimedOut,
        // Archived: forbidden by its state, not to somebody.
        "InvalidObjectState" => StoreErrorKind::Invalid,
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => StoreErrorKind::Corrupt,
        "QuotaExceeded"
        | "InsufficientCapacity"
        | "InsufficientStorage"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded" => StoreErrorKind::Full,
        code if code.starts_with("KMS.") && code.contains("Throttling") => throttled(),
        code if code.starts_with("KMS.") && code.contains("AccessDenied") => StoreErrorKind::Denied,
        _ => match answer.status {
            401 | 403 => StoreErrorKind::Denied,
            404 | 410 => StoreErrorKind::NotFound,
            408 => StoreErrorKind::TimedOut,
            409 => StoreErrorKind::Unavailable,
            412 if verb == Verb::Put => StoreErrorKind::AlreadyExists,
            429 => throttled(),
            503 if answer.retry_after.is_some() => throttled(),
            507 => StoreErrorKind::Full,
            501 => StoreErrorKind::Invalid,
            500..=599 | 307 => StoreErrorKind::Unavailable,
            300..=499 => StoreErrorKind::Invalid,
            _ => StoreErrorKind::Other,
        },
    }
}

/// What to do about it, where that can be said.
fn fix(answer: Answer<'_>, asked: Asked<'_>, kind: StoreErrorKind) -> Option<String> {
    let Asked { bucket, key, .. } = asked;
    let code = answer.code.unwrap_or_default();
    Some(match code {
        "NoSuchBucket" => format!("there is no bucket {bucket}: buckets are never made here, make it first or mend the URL"),
        "RequestTimeTooSkewed" | "RequestExpired" => {
            let theirs = answer.date.map(|date| format!(" (the server's says {})", words(date))).unwrap_or_default();
            format!("set this machine's clock{theirs}")
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" => {
            "the temporary credentials have run out or were never valid: renew them (SSO: `aws sso login`), or let a role or a \
             credential_process renew them by itself"
                .into()
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidClientTokenId" | "UnrecognizedClientException" => {
            "the access key or its secret is not one of this server: look at where the credentials come from".into()
        }
        "InvalidObjectState" => "the object is archived: restore it from its storage class at the provider first".into(),
        "NotImplemented" => "this server does not know a request that is needed here".into(),
        _ if matches!(answer.status, 301 | 400) && answer.region.is_some() => {
            let region = words(answer.region.unwrap_or_default());
            format!("the bucket {bucket} lies in {region}: write ?region={region} in the store's URL")
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            format!("the bucket {bucket} lies in another region: name it with ?region= in the store's URL")
        }
        _ if code.starts_with("KMS.") => "look at the key named by kms_key, and at who may use it".into(),
        _ if kind == StoreErrorKind::Denied => {
            let (action, resource) = match asked.verb {
                Verb::Put => ("s3:PutObject", format!("arn:aws:s3:::{bucket}/{key}")),
                // Without the right to list, S3 calls absent objects forbidden.
                Verb::Get | Verb::Stat => ("s3:GetObject", format!("arn:aws:s3:::{bucket}/{key}")),
                Verb::List => ("s3:ListBucket", format!("arn:aws:s3:::{bucket}")),
                Verb::Delete => ("s3:DeleteObject", format!("arn:aws:s3:::{bucket}/{key}")),
                Verb::Settings => (key, format!("arn:aws:s3:::{bucket}")),
            };
            let more = match asked.verb {
                Verb::Get | Verb::Stat => {
                    format!(", and s3:ListBucket on arn:aws:s3:::{bucket} (else absent objects look forbidden)")
                }
                Verb::Put if asked.kms => ", and kms:GenerateDataKey on the key named by kms_key".into(),
                _ => String::new(),
            };
            format!(
                "needed: {action} on {resource}{more}; an explicit deny, an object lock or a policy of the bucket can stand against it"
            )
        }
        _ => return None,
    })
}

/// The text of the first XML element `name`.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}
