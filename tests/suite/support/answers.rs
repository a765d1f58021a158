//! What the providers' servers say when all is not well, each in its own way: answers for the proxy to make up.

use crate::support::clouds::{Provider, Request};
use crate::support::gcs_grpc::escaped;
use crate::support::gcs_json::told;
use crate::support::proxy::Answer;

/// A refusal in the provider's form: by status and code, with the id of a request where its SDK passes one on.
pub fn refusal(provider: Provider, status: u16, code: &str) -> Answer {
    match provider {
        Provider::S3 => {
            let body = format!("<Error><Code>{code}</Code><Message>the server's words</Message></Error>");
            Answer::xml(status, body).with("x-amz-request-id", "REQUEST-7")
        }
        Provider::Gcs => gcs_json(status, code, "the server's words"),
        Provider::Azure => {
            let body = format!("<Error><Code>{code}</Code><Message>the server's words</Message></Error>");
            Answer::xml(status, body).with("x-ms-request-id", "REQUEST-7").with("x-ms-error-code", code)
        }
    }
}

/// Whoever asks is not admitted: status and code.
pub fn denied(provider: Provider, request: Request) -> Answer {
    match provider {
        Provider::S3 => refusal(provider, 403, "AccessDenied"),
        Provider::Gcs if provider.by_grpc(request) => gcs_grpc(7, "the server's words"),
        Provider::Gcs => refusal(provider, 403, "forbidden"),
        Provider::Azure => refusal(provider, 403, "AuthorizationPermissionMismatch"),
    }
}

/// Who asks was admitted until a moment ago.
pub fn expired(provider: Provider, request: Request) -> Answer {
    match provider {
        Provider::S3 => refusal(provider, 400, "ExpiredToken"),
        Provider::Gcs if provider.by_grpc(request) => gcs_grpc(16, "the server's words"),
        Provider::Gcs => refusal(provider, 401, "authError"),
        Provider::Azure => refusal(provider, 401, "InvalidAuthenticationInfo"),
    }
}

/// Slow down.
pub fn busy(provider: Provider, request: Request) -> Answer {
    match provider {
        Provider::S3 => refusal(provider, 503, "SlowDown"),
        Provider::Gcs if provider.by_grpc(request) => gcs_grpc(14, "the server's words"),
        Provider::Gcs => refusal(provider, 503, "backendError"),
        Provider::Azure => refusal(provider, 503, "ServerBusy"),
    }
}

/// Something broke inside.
pub fn broken(provider: Provider, request: Request) -> Answer {
    match provider {
        Provider::Gcs if provider.by_grpc(request) => gcs_grpc(13, "the server's words"),
        Provider::Gcs => refusal(provider, 500, "backendError"),
        Provider::S3 | Provider::Azure => refusal(provider, 500, "InternalError"),
    }
}

/// An error in the guise of a success.
pub fn error_inside(provider: Provider, request: Request) -> Answer {
    match provider {
        // That its refusals have status 200 is the way of gRPC: here the success has nothing that could be a message.
        Provider::Gcs if provider.by_grpc(request) => {
            Answer { status: 200, headers: Vec::new(), body: "the server's words".into() }
                .with("content-type", "application/grpc")
        }
        Provider::Gcs => refusal(provider, 200, "backendError"),
        Provider::S3 | Provider::Azure => refusal(provider, 200, "InternalError"),
    }
}

/// Too many requests: come again in a second.
pub fn throttled(provider: Provider, request: Request) -> Answer {
    if provider.by_grpc(request) {
        return gcs_grpc(8, "the server's words").with("grpc-status-details-bin", IN_A_SECOND);
    }
    Answer::xml(429, "").with("retry-after", "1")
}

/// A `google.rpc.Status` of code 8, whose one detail is a `google.rpc.RetryInfo` of one second.
const IN_A_SECOND: &str = "CAgSEnRoZSBzZXJ2ZXIncyB3b3JkcxowCih0eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5ycGMuUmV0cnlJbmZvEgQKAggB";

/// What a server's clock says to one whose own is wrong.
pub const LONG_AGO: &str = "Thu, 01 Jan 2015 00:00:00 GMT";

/// A refusal as the JSON API of GCS tells it.
pub fn gcs_json(status: u16, reason: &str, message: &str) -> Answer {
    Answer::json(status, told(status, reason, message)).with("x-guploader-uploadid", "REQUEST-7")
}

/// A refusal as gRPC tells it.
pub fn gcs_grpc(code: u8, message: &str) -> Answer {
    let answer = Answer { status: 200, headers: Vec::new(), body: String::new() }.with("content-type", "application/grpc");
    answer.with("grpc-status", &code.to_string()).with("grpc-message", &escaped(message))
}
