//! A server of Google Cloud Storage inside the test process: the JSON API and gRPC on one loopback port, as the official SDK
//! speaks them, and strict in what it accepts.
//!
//! `GcsServer::start()` gives a server with one empty bucket that admits the bearer of [`TOKEN`]; it ends when it is dropped.
//! `url` and `settings` open a store in it; a real process finds its way by `url` and a credentials setting of its own (a file
//! with the token: `access-token`). In front stands a `Door`: requests by operation (`put`, `get`, `stat`, `list`, `delete`,
//! `start` and `send` of uploads in parts), headers, faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::FutureExt;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::settings::{ProviderSettings, StoreSettings};
use holdfast::store::url::StoreUrl;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response};

use crate::support::authority::Authority;
use crate::support::door::{Act, Body, Door, Fault, lock};
use crate::support::gcs_bucket::{Bucket, Draft, Refusal};
use crate::support::rights::GcpRights;
use crate::support::{gcs_grpc, gcs_json};

pub const BUCKET: &str = "bucket";
pub const TOKEN: &str = "a-token-that-no-message-may-hold";

/// An upload in parts.
#[derive(Default)]
pub struct Upload {
    pub bucket: String,
    pub name: String,
    pub condition: Option<i64>,
    pub draft: Draft,
    pub came: Vec<u8>,
}

/// What is behind the door.
pub struct World {
    /// Where it listens.
    pub endpoint: String,
    pub buckets: Mutex<BTreeMap<String, Bucket>>,
    pub uploads: Mutex<BTreeMap<String, Upload>>,
    tokens: Mutex<Option<BTreeSet<String>>>,
    accounts: Mutex<BTreeSet<String>>,
    rights: Mutex<Option<GcpRights>>,
}

impl World {
    /// Lets those pass who bear a known token, or a fresh one signed for a known service account.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let tokens = lock(&self.tokens);
        let Some(tokens) = tokens.as_ref() else { return Ok(()) };
        let Some(given) = headers.get("authorization").map(|v| v.to_str().unwrap_or_default()) else {
            return Err(Refusal::no_login(false));
        };
        let token = given.strip_prefix("Bearer ").unwrap_or_default();
        let known = tokens.contains(token) || issuer(token).is_some_and(|account| lock(&self.accounts).contains(&account));
        if known { Ok(()) } else { Err(Refusal::no_login(true)) }
    }
    /// Refuses unless the rights in force give the permission on an object, or on the bucket if there is none.
    pub fn may(&self, permission: &str, bucket: &str, object: Option<&str>) -> Result<(), Refusal> {
        let resource = format!("projects/_/buckets/{bucket}");
        let resource = object.map_or(resource.clone(), |name| format!("{resource}/objects/{name}"));
        match lock(&self.rights).as_ref().is_none_or(|rights| rights.allow(permission, &resource)) {
            true => Ok(()),
            false => Err(Refusal::forbidden(permission, &resource)),
        }
    }
    /// All buckets.
    pub fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        lock(&self.buckets)
    }
}

/// Who signed a token, if it reads as one of a service account for storage, and is not over. The signature is not looked at.
fn issuer(token: &str) -> Option<String> {
    let [head, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let json = |part: &str| {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, part).ok()?;
        serde_json::from_slice::<serde_json::Value>(&bytes).ok()
    };
    let (head, claims) = (json(head)?, json(claims)?);
    let (now, scope) = (jiff::Timestamp::now().as_second(), claims["scope"].as_str()?);
    let good = head["alg"] == "RS256"
        && head["kid"].is_string()
        && !signature.is_empty()
        && claims["iat"].as_i64()? <= now
        && (now..=now + 7200).contains(&claims["exp"].as_i64()?)
        && claims["iss"] == claims["sub"]
        && scope.contains("https://www.googleapis.com/auth/cloud-platform");
    good.then(|| claims["iss"].as_str().map(str::to_owned)).flatten()
}

/// A running server.
pub struct GcsServer {
    world: Arc<World>,
    door: Door,
}

impl GcsServer {
    /// A server that admits [`TOKEN`] only.
    pub fn start() -> GcsServer {
        GcsServer::with(None, Some([TOKEN.to_owned()].into()))
    }

    /// A server that asks nobody for a token.
    pub fn open_to_all() -> GcsServer {
        GcsServer::with(None, None)
    }

    /// A server over TLS that admits [`TOKEN`] only.
    pub fn start_tls(authority: &Authority) -> GcsServer {
        GcsServer::with(Some(authority), Some([TOKEN.to_owned()].into()))
    }

    fn with(authority: Option<&Authority>, tokens: Option<BTreeSet<String>>) -> GcsServer {
        let mut world = None;
        let door = Door::open(authority, operation, |endpoint| {
            let made = Arc::new(World {
                endpoint: endpoint.to_owned(),
                buckets: Mutex::new([(BUCKET.to_owned(), Bucket::default())].into()),
                uploads: Mutex::default(),
                tokens: Mutex::new(tokens),
                accounts: Mutex::default(),
                rights: Mutex::default(),
            });
            world = Some(made.clone());
            Arc::new(move |request| answer(made.clone(), request).boxed())
        });
        GcsServer { world: world.expect("it was made"), door }
    }

    /// Admits another token.
    pub fn admit(&self, token: &str) {
        lock(&self.world.tokens).get_or_insert_default().insert(token.to_owned());
    }
    /// Admits what a service account signs.
    pub fn admit_account(&self, account: &str) {
        lock(&self.world.accounts).insert(account.to_owned());
    }
    /// URL of a store in the bucket, below `prefix` (which may be empty).
    pub fn url(&self, prefix: &str) -> StoreUrl {
        self.url_of(BUCKET, prefix)
    }
    /// The same in any bucket.
    pub fn url_of(&self, bucket: &str, prefix: &str) -> StoreUrl {
        let text = format!("gs://{bucket}/{prefix}?endpoint={}", self.endpoint());
        StoreUrl::parse(&text, std::path::Path::new("/")).unwrap()
    }
    /// Settings with the token that the server knows.
    pub fn settings(&self) -> StoreSettings {
        let credentials = Credentials::AccessToken(SecretSource::Value(TOKEN.to_owned().into()));
        let provider = ProviderSettings { credentials, ..ProviderSettings::default() };
        StoreSettings { provider, ..StoreSettings::default() }
    }
    /// From now on whoever comes has these rights; `None`: all.
    pub fn enforce(&self, rights: Option<GcpRights>) {
        *lock(&self.world.rights) = rights;
    }
    /// Looks at, or changes, the bucket behind everybody's back.
    pub fn bucket<T>(&self, work: impl FnOnce(&mut Bucket) -> T) -> T {
        work(self.world.buckets().get_mut(BUCKET).expect("the bucket of the tests"))
    }
}

/// Counts, faults and the rest are the door's.
impl std::ops::Deref for GcsServer {
    type Target = Door;
    fn deref(&self) -> &Door {
        &self.door
    }
}

/// A refusal as the JSON API tells it.
pub fn refusal(status: u16, reason: &str, message: &str) -> Fault {
    let body = gcs_json::told(status, reason, message);
    let headers = vec![("content-type", "application/json; charset=UTF-8".into()), ("x-guploader-uploadid", "REQUEST7".into())];
    Fault::new(Act::Answer { status, headers, body })
}

/// A refusal as gRPC tells it.
pub fn status(code: u8, message: &str) -> Fault {
    let headers = vec![
        ("content-type", "application/grpc".into()),
        ("grpc-status", code.to_string()),
        ("grpc-message", gcs_grpc::escaped(message)),
    ];
    Fault::new(Act::Answer { status: 200, headers, body: String::new() })
}

/// The operation that method, path and query stand for.
fn operation(request: &Request<Incoming>) -> &'static str {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    match (request.method(), path) {
        (&Method::POST, "/google.storage.v2.Storage/GetObject") => "stat",
        (&Method::POST, "/google.storage.v2.Storage/ListObjects") => "list",
        (&Method::POST, "/google.storage.v2.Storage/DeleteObject") => "delete",
        (&Method::POST, "/google.storage.v2.Storage/GetBucket") => "settings",
        (&Method::POST, path) if path.starts_with("/upload/") && query.contains("uploadType=multipart") => "put",
        (&Method::POST, path) if path.starts_with("/upload/") && query.contains("uploadType=resumable") => "start",
        (&Method::PUT, path) if path.starts_with("/upload/") => "send",
        (&Method::GET, path) if path.starts_with("/storage/v1/b/") && query.contains("alt=media") => "get",
        _ => "other",
    }
}

async fn answer(world: Arc<World>, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let grpc = request.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    match grpc {
        true => gcs_grpc::answer(&world, request).await,
        false => gcs_json::answer(&world, request).await,
    }
}
