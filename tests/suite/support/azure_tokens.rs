//! The services that say who someone is at Azure, in the test process: the directory (Entra) for secrets and federated tokens,
//! and the machine's own for managed identities. Each gives out the token that `azure_server` knows. The directory admits one
//! service account of Google's, as a federated credential says.

use std::sync::{Arc, Mutex};

use futures::future::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use crate::support::authority::Authority;
use crate::support::azure_login::pairs;
use crate::support::azure_server::TOKEN;
use crate::support::door::{Body, Door, lock, whole};
use crate::support::gcs_tokens::{UNIQUE_ID, claims};

pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";
pub const CLIENT: &str = "66666666-7777-8888-9999-000000000000";
pub const CLIENT_SECRET: &str = "a-client-secret-that-no-message-may-hold";
pub const FEDERATED: &str = "a-federated-token-that-no-message-may-hold";
pub const IDENTITY_HEADER: &str = "a-header-that-no-message-may-hold";

/// A running server.
pub struct TokenServer {
    asked: Arc<Mutex<Vec<String>>>,
    door: Door,
}

impl TokenServer {
    /// Over TLS for the directory, without it for the machine's own. Tokens are good for so many seconds.
    pub fn start(authority: Option<&Authority>, seconds: i64) -> TokenServer {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = asked.clone();
        let service = move |request| answer(noted.clone(), seconds, request).boxed();
        TokenServer { asked, door: Door::open(authority, |_| "token", |_| Arc::new(service)) }
    }
    /// By which way a token was asked for, each time. Forgets it.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.asked))
    }
}

impl std::ops::Deref for TokenServer {
    type Target = Door;
    fn deref(&self) -> &Door {
        &self.door
    }
}

async fn answer(
    asked: Arc<Mutex<Vec<String>>>,
    seconds: i64,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let json = |status: u16, value: serde_json::Value| {
        Response::builder().status(status).header("content-type", "application/json").body(whole(value.to_string())).unwrap()
    };
    let refused = |code: u32, description: &str| {
        let value = serde_json::json!({"error": "invalid_client", "error_description": description, "error_codes": [code]});
        Ok(json(401, value))
    };
    if head.method == Method::POST && head.uri.path() == format!("/{TENANT}/oauth2/v2.0/token") {
        let form = pairs(std::str::from_utf8(&body).unwrap_or_default());
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        if field("client_id") != CLIENT || field("scope") != "https://storage.azure.com/.default" {
            return refused(700_016, "AADSTS700016: there is no such application");
        }
        let way = match (field("client_secret"), field("client_assertion")) {
            (CLIENT_SECRET, "") => "secret",
            ("", FEDERATED) if field("client_assertion_type").ends_with("jwt-bearer") => "assertion",
            // The credential's issuer, subject and audience, exactly.
            ("", token) if claims(token).is_some() => {
                let claims = claims(token).unwrap_or_default();
                let known = [("iss", "https://accounts.google.com"), ("sub", UNIQUE_ID), ("aud", "api://AzureADTokenExchange")];
                if known.iter().any(|(name, value)| claims[*name] != *value) {
                    return refused(700_213, "AADSTS700213: No matching federated identity record found.");
                }
                "google"
            }
            _ => return refused(7_000_215, "AADSTS7000215: Invalid client secret provided."),
        };
        lock(&asked).push(way.into());
        let value =
            serde_json::json!({"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": TOKEN});
        return Ok(json(200, value));
    }
    let query = pairs(head.uri.query().unwrap_or_default());
    let given = head.headers.get("x-identity-header").map_or("", |v| v.to_str().unwrap_or_default());
    let fits = head.uri.path() == "/msi/token" && given == IDENTITY_HEADER;
    if fits && query.get("resource").is_some_and(|r| r.trim_end_matches('/') == "https://storage.azure.com") {
        lock(&asked).push(format!("managed {}", query.get("client_id").map_or("", String::as_str)).trim().into());
        let until = jiff::Timestamp::now().as_second() + seconds;
        let value = serde_json::json!({"token_type": "Bearer", "expires_on": until.to_string(), "access_token": TOKEN,
            "resource": "https://storage.azure.com", "client_id": CLIENT});
        return Ok(json(200, value));
    }
    Ok(json(400, serde_json::json!({"statusCode": 400, "message": "no such identity"})))
}
