//! What goes over the wire to Azure beyond what the SDK sends by itself: one request per call, a sum that the server compares,
//! a signature by the account's key, and nothing secret in any message.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::Headers;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Context, HttpClient, Method, Request, StatusCode, Url};
use azure_core::time::{OffsetDateTime, to_rfc7231};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::stream::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::Env;
use crate::store::OBJECT_MAX;

/// How long it may take to reach a server.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Longest refusal that is read, in bytes.
const REFUSAL_MAX: usize = 1 << 20;

/// Sum of the body that the server compares, and of the body it keeps: CRC-64/NVME, little-endian, base64.
pub(super) const SUM: &str = "x-ms-content-crc64";

/// Where the sum is kept with the object: Azure gives none of its own back but an MD5.
pub(super) const KEPT_SUM: &str = "x-ms-meta-crc64nvme";

/// The place of a range in the whole, as answered: see [`OneRequest`].
pub(super) const RANGE: &str = "x-answered-range";

/// Said of a call: it reads a whole object.
pub(super) struct Whole;

/// Said of a call: its body has this sum.
pub(super) struct Sum(pub String);

/// Makes each call of the SDK one request, with what the SDK has no words for.
///
/// The SDK reads a whole object as a range of unknown end, asks twice for an empty one, and asks for more where an answer falls
/// short of the range; it looks at `Content-Range` for that. Without that header it takes what comes, and judging it is ours.
#[derive(Debug)]
pub(super) struct OneRequest;

#[async_trait::async_trait]
impl Policy for OneRequest {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        if context.value::<Whole>().is_some() {
            request.headers_mut().remove("range");
        }
        if let Some(Sum(sum)) = context.value::<Sum>() {
            request.insert_header(SUM, sum.clone());
            request.insert_header(KEPT_SUM, sum.clone());
        }
        let (status, mut headers, body) = next[0].send(context, request, &next[1..]).await?.deconstruct();
        if let Some(range) = headers.remove("content-range") {
            headers.insert(RANGE, range);
        }
        // A refused range would be asked for again without one. The code in the answer still says what it was.
        let status = if status == StatusCode::RequestedRangeNotSatisfiable { StatusCode::BadRequest } else { status };
        Ok(AsyncRawResponse::new(status, headers, Box::pin(body)))
    }
}

/// Signs every request with the account's key.
pub(super) struct SharedKey {
    pub env: Env,
    pub account: String,
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Policy for SharedKey {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let now = OffsetDateTime::from_unix_timestamp(self.env.now().seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        request.insert_header("x-ms-date", to_rfc7231(&now));
        let length = request.body().len().unwrap_or(0);
        let text = signed_text(request.method().as_ref(), request.url(), request.headers(), length, &self.account);
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).map_err(|e| Error::with_message(ErrorKind::Other, e.to_string()))?;
        mac.update(text.as_bytes());
        let signature = BASE64.encode(mac.finalize().into_bytes());
        request.insert_header("authorization", format!("SharedKey {}:{signature}", self.account));
        next[0].send(context, request, &next[1..]).await
    }
}

/// What is signed of a request (Azure: "Authorize with Shared Key", the form for Blob since 2015-02-21).
fn signed_text(method: &str, url: &Url, headers: &Headers, length: u64, account: &str) -> String {
    let mut text = format!("{method}\n");
    for name in [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ] {
        match name {
            "content-length" if length > 0 => text.push_str(&length.to_string()),
            // Nothing is written as nothing. The time stands in `x-ms-date`.
            "content-length" | "date" => {}
            _ => text.push_str(headers.get_optional_str(&name.into()).unwrap_or_default()),
        }
        text.push('\n');
    }
    let mut own: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str().trim())).collect();
    own.retain(|(name, _)| name.starts_with("x-ms-"));
    own.sort_unstable();
    for (name, value) in own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", url.path()));
    let mut asked: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned())).collect();
    asked.sort_unstable();
    for (name, value) in asked {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

/// The connections to the storage account. A signature that belongs into the URL is put there last, where no message and no
/// policy gets to see it.
pub(super) struct Line {
    reading: reqwest::Client,
    writing: reqwest::Client,
    signature: Option<Zeroizing<String>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    /// Connections that trust the issuers in `pem` (the system's without it), and give up a read that does not move for `idle`.
    pub(super) fn new(pem: Option<&[u8]>, idle: Duration, signature: Option<Zeroizing<String>>) -> Result<Line, String> {
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|e| format!("preparing connections: {e}"));
        Ok(Line {
            reading: build(client(pem, false)?.read_timeout(idle))?,
            // An answer comes only after the whole body went out: how long that may take is for `retry`, who knows its size.
            writing: build(client(pem, false)?)?,
            signature,
        })
    }
}

/// A client that trusts the issuers in `pem`, and, with `also_system`, those of the system. It follows nobody, and sends
/// everything once.
pub(super) fn client(pem: Option<&[u8]>, also_system: bool) -> Result<reqwest::ClientBuilder, String> {
    let plain = reqwest::Client::builder()
        .connect_timeout(CONNECT_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never());
    let Some(pem) = pem else { return Ok(plain) };
    let issuers = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| format!("the certificates in ca_file: {e}"))?;
    Ok(if also_system { plain.tls_certs_merge(issuers) } else { plain.tls_certs_only(issuers) })
}

#[async_trait::async_trait]
impl HttpClient for Line {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let client = if request.method() == Method::Put { &self.writing } else { &self.reading };
        let answer = match &self.signature {
            None => client.execute_request(request).await,
            Some(signature) => {
                let mut signed = request.clone();
                let query = match request.url().query() {
                    Some(query) if !query.is_empty() => format!("{query}&{}", signature.as_str()),
                    _ => signature.to_string(),
                };
                signed.url_mut().set_query(Some(&query));
                client.execute_request(&signed).await
            }
        };
        let (status, headers, body) = answer.map_err(without_url)?.deconstruct();
        let most = if status.is_success() { OBJECT_MAX } else { REFUSAL_MAX };
        let mut came = 0;
        let body = body.map(move |piece| {
            let piece = piece.map_err(without_url)?;
            came += piece.len();
            match came > most {
                true => Err(Error::with_message(ErrorKind::DataConversion, format!("an answer of more than {most} bytes"))),
                false => Ok(piece),
            }
        });
        Ok(AsyncRawResponse::new(status, headers, Box::pin(body)))
    }
}

/// The same error without the URL, whose query may hold a signature.
fn without_url(error: Error) -> Error {
    let kind = error.kind().clone();
    match error.into_downcast::<reqwest::Error>() {
        Ok(inner) => Error::new(kind, inner.without_url()),
        Err(other) => other,
    }
}

/// Whether a time ran out, wherever in the chain of causes.
pub(super) fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use azure_core::http::Url;
    use azure_core::http::headers::Headers;

    use crate::store::azure::wire::signed_text;

    #[test]
    fn the_signed_text_is_in_canonical_form() {
        let mut headers = Headers::new();
        for (name, value) in [
            ("x-ms-version", "2026-04-06"),
            ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"),
            ("content-type", "application/octet-stream"),
            ("if-none-match", "*"),
            ("accept", "not signed"),
            ("date", "not signed"),
        ] {
            headers.insert(name, value);
        }
        let url = Url::parse("https://ours.blob.core.windows.net/box/a%2Fb?restype=container&COMP=list&marker=a%2Fb").unwrap();
        assert_eq!(
            signed_text("PUT", &url, &headers, 11, "ours"),
            "PUT\n\n\n11\n\napplication/octet-stream\n\n\n\n*\n\n\n\
             x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2026-04-06\n\
             /ours/box/a%2Fb\ncomp:list\nmarker:a/b\nrestype:container"
        );
        let url = Url::parse("http://127.0.0.1:1/ours/box/x").unwrap();
        let mut headers = Headers::new();
        headers.insert("range", "bytes=0-9");
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\nbytes=0-9\n/ours/ours/box/x";
        assert_eq!(signed_text("GET", &url, &headers, 0, "ours"), expected);
    }
}
