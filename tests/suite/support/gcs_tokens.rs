//! The services that say who someone is at Google, in the test process: metadata server, token exchange (STS), impersonation,
//! refresh of a person's login, and a proxy that lets nobody through. Each gives out tokens that tell which way was taken. The
//! metadata server also gives tokens that others than Google know the machine by.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures::future::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use crate::support::azure_login::pairs;
use crate::support::door::{Body, Door, lock, whole};

/// What a workload's token is made of.
pub const SUBJECT: &str = "a-subject-that-no-message-may-hold";

/// Unique id of the service account that the machine runs as.
pub const UNIQUE_ID: &str = "100000000000000000001";

/// In the place of a signature.
const SIGNATURE: &str = "a-signature-that-no-message-may-hold";

/// A token of the machine's for others, as the metadata server forms it.
fn identity(audience: &str, number: u32) -> String {
    let part = |json: serde_json::Value| BASE64.encode(json.to_string());
    let head = part(serde_json::json!({ "alg": "RS256", "kid": "1", "typ": "JWT" }));
    let claims = part(serde_json::json!({
        "iss": "https://accounts.google.com", "aud": audience, "azp": UNIQUE_ID, "sub": UNIQUE_ID, "number": number,
    }));
    format!("{head}.{claims}.{SIGNATURE}")
}

/// What such a token says, if it is one.
pub fn claims(token: &str) -> Option<serde_json::Value> {
    let [_, claims, SIGNATURE] = token.split('.').collect::<Vec<_>>()[..] else { return None };
    serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
}

#[derive(Default)]
struct Desk {
    asked: Mutex<Vec<String>>,
    given: Mutex<u32>,
    lifetime: Mutex<Option<u64>>,
}

/// A running server; it ends when it is dropped. Its `Door` takes faults, for all ways alike.
pub struct TokenServer {
    desk: Arc<Desk>,
    door: Door,
}

impl std::ops::Deref for TokenServer {
    type Target = Door;
    fn deref(&self) -> &Door {
        &self.door
    }
}

impl TokenServer {
    pub fn start() -> TokenServer {
        let desk = Arc::new(Desk::default());
        let at = desk.clone();
        let door = Door::open(None, |_| "token", |_| Arc::new(move |request| answer(at.clone(), request).boxed()));
        TokenServer { desk, door }
    }
    /// Tokens last so many seconds from now on, and each has a number.
    pub fn lifetime(&self, seconds: u64) {
        *lock(&self.desk.lifetime) = Some(seconds);
    }
    /// What was asked so far: method, target and body. Forgets it.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.desk.asked))
    }
    /// The file of a workload whose identity is exchanged here, its own token in `token_file`.
    pub fn external_account(&self, token_file: &str, impersonating: bool) -> String {
        let mut file = serde_json::json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/exchange", self.endpoint()),
            "credential_source": { "file": token_file },
        });
        if impersonating {
            file["service_account_impersonation_url"] = self.impersonation().into();
        }
        file.to_string()
    }
    /// Where one becomes `backup@project`.
    pub fn impersonation(&self) -> String {
        format!("{}/v1/projects/-/serviceAccounts/backup@project.iam.gserviceaccount.com:generateAccessToken", self.endpoint())
    }
    /// The file of a person's login.
    pub fn authorized_user(&self) -> serde_json::Value {
        serde_json::json!({
            "type": "authorized_user",
            "client_id": "client",
            "client_secret": "client-secret-that-no-message-may-hold",
            "refresh_token": "refresh-that-no-message-may-hold",
            "token_uri": format!("{}/refresh", self.endpoint()),
        })
    }
}

async fn answer(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    lock(&desk.asked).push(format!("{} {} {body}", head.method, head.uri));
    if head.uri.path() == "/computeMetadata/v1/instance/service-accounts/default/identity" {
        let query = pairs(head.uri.query().unwrap_or_default());
        let audience = query.get("audience").filter(|audience| !audience.is_empty());
        let flavor = head.headers.get("metadata-flavor").is_some_and(|v| v == "Google");
        let (status, said) = match audience.filter(|_| flavor && head.method == Method::GET) {
            Some(audience) => {
                let mut given = lock(&desk.given);
                *given += 1;
                (200, identity(audience, *given))
            }
            None => (403, "Missing Metadata-Flavor:Google header, or no audience.".into()),
        };
        return Ok(Response::builder().status(status).header("content-type", "text/html").body(whole(said)).unwrap());
    }
    let header = |name: &str| head.headers.get(name).map_or("", |v| v.to_str().unwrap());
    let lifetime = *lock(&desk.lifetime);
    let token = |way: &str| {
        let mut given = lock(&desk.given);
        *given += 1;
        if lifetime.is_some() { format!("by-{way}-{given}") } else { format!("by-{way}") }
    };
    let seconds = lifetime.unwrap_or(3600);
    let said = match (&head.method, head.uri.path()) {
        (&Method::GET, "/computeMetadata/v1/instance/service-accounts/default/token")
            if header("metadata-flavor") == "Google" =>
        {
            Some(serde_json::json!({ "access_token": token("metadata"), "expires_in": seconds, "token_type": "Bearer" }))
        }
        (&Method::POST, "/exchange") if body.contains(SUBJECT) => Some(serde_json::json!({
            "access_token": token("exchange"),
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": seconds,
        })),
        (&Method::POST, "/refresh") if body.contains("refresh-that-no-message-may-hold") => {
            Some(serde_json::json!({ "access_token": token("refresh"), "expires_in": seconds, "token_type": "Bearer" }))
        }
        (&Method::POST, path) if path.ends_with(":generateAccessToken") && header("authorization").starts_with("Bearer by-") => {
            let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds.try_into().unwrap());
            let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            Some(serde_json::json!({ "accessToken": token("impersonation"), "expireTime": until }))
        }
        _ => None,
    };
    let status = if said.is_some() { 200 } else { 403 };
    let body =
        said.unwrap_or_else(|| serde_json::json!({ "error": "access_denied", "error_description": "not here" })).to_string();
    Ok(Response::builder().status(status).header("content-type", "application/json").body(whole(body)).unwrap())
}
