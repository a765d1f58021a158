//! A server of Azure Blob Storage inside the test process, on a loopback port of its own, and strict in what it accepts.
//!
//! `AzureServer::start()` gives a server with one empty container; it ends when it is dropped. `url` and `settings` open a store
//! in it (a real process can do the same with `environment`). In front stands a `Door`: counts, headers, faults.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::future::FutureExt;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::settings::{ProviderSettings, StoreSettings};
use holdfast::store::url::StoreUrl;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::http::response::Builder;
use hyper::{Method, Request, Response};

use crate::support::authority::Authority;
use crate::support::azure_container::{Blob, Container, Refusal, Settings};
use crate::support::azure_login::{Asking, Known, pairs};
use crate::support::door::{Act, Body, Door, Fault, lock, whole};
use crate::support::rights::AzureRights;

pub const ACCOUNT: &str = "testaccount";
pub const CONTAINER: &str = "container";
/// Base64 of a text that no message may hold, either.
pub const KEY: &str = "YSBrZXkgdGhhdCBubyBtZXNzYWdlIG1heSBob2xk";
pub const TOKEN: &str = "a-token-that-no-message-may-hold";

/// What is behind the door.
struct World {
    known: Known,
    secure: bool,
    container: Mutex<Container>,
    rights: Mutex<Option<AzureRights>>,
}

/// A running server.
pub struct AzureServer {
    world: Arc<World>,
    door: Door,
}

impl AzureServer {
    /// A server that admits the account's [`KEY`] and its signatures; [`TOKEN`] is admitted over TLS only.
    pub fn start() -> AzureServer {
        AzureServer::with(None, false)
    }
    /// The same over TLS.
    pub fn start_tls(authority: &Authority) -> AzureServer {
        AzureServer::with(Some(authority), false)
    }
    /// A server that asks nobody for a proof (a wrong one is still refused).
    pub fn open_to_all() -> AzureServer {
        AzureServer::with(None, true)
    }

    fn with(authority: Option<&Authority>, open: bool) -> AzureServer {
        let known = Known {
            account: ACCOUNT.into(),
            key: BASE64.decode(KEY).unwrap(),
            container: CONTAINER.into(),
            tokens: [TOKEN.to_owned()].into(),
            open,
        };
        let world = Arc::new(World { known, secure: authority.is_some(), container: Mutex::default(), rights: Mutex::default() });
        let behind = world.clone();
        let door = Door::open(authority, operation, |_| Arc::new(move |request| answer(behind.clone(), request).boxed()));
        AzureServer { world, door }
    }

    /// URL of a store in the container, below `prefix` (which may be empty).
    pub fn url(&self, prefix: &str) -> StoreUrl {
        self.url_of(CONTAINER, prefix)
    }
    /// The same in any container.
    pub fn url_of(&self, container: &str, prefix: &str) -> StoreUrl {
        let text = format!("az://{ACCOUNT}/{container}/{prefix}?endpoint={}", self.endpoint());
        StoreUrl::parse(&text, std::path::Path::new("/")).unwrap()
    }
    /// Settings with the key that the server knows.
    pub fn settings(&self) -> StoreSettings {
        let credentials = Credentials::AccountKey(SecretSource::Value(KEY.to_owned().into()));
        let provider = ProviderSettings { credentials, ..ProviderSettings::default() };
        StoreSettings { provider, ..StoreSettings::default() }
    }
    /// The same key for a process.
    pub fn environment(&self) -> [(&'static str, &'static str); 1] {
        [("AZURE_STORAGE_KEY", KEY)]
    }
    /// A shared access signature for the container that allows what the letters say, until then.
    pub fn signature(&self, letters: &str, until: &str) -> String {
        self.world.known.signature(letters, until)
    }
    /// From now on whoever comes has these rights; `None`: all.
    pub fn enforce(&self, rights: Option<AzureRights>) {
        *lock(&self.world.rights) = rights;
    }
    /// Looks at, or changes, the container behind everybody's back.
    pub fn container<T>(&self, work: impl FnOnce(&mut Container) -> T) -> T {
        work(&mut lock(&self.world.container))
    }
}

/// Counts, faults and the rest are the door's.
impl std::ops::Deref for AzureServer {
    type Target = Door;
    fn deref(&self) -> &Door {
        &self.door
    }
}

/// A refusal in Azure's form. An empty `code` gives an answer without a word.
pub fn refusal(status: u16, code: &str) -> Fault {
    let mut headers = vec![("x-ms-request-id", "REQUEST7".to_owned())];
    if !code.is_empty() {
        headers.push(("x-ms-error-code", code.to_owned()));
    }
    Fault::new(Act::Answer { status, headers, body: told(code, "scripted", "") })
}

fn told(code: &str, message: &str, detail: &str) -> String {
    if code.is_empty() {
        return String::new();
    }
    let detail = match detail {
        "" => String::new(),
        text => format!("<AuthenticationErrorDetail>{}</AuthenticationErrorDetail>", escaped(text)),
    };
    format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}\n\
         RequestId:REQUEST8\nTime:2026-01-01T00:00:00.0000000Z</Message>{detail}</Error>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

/// Container and blob of a path, the latter empty for the container itself.
fn place(path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix('/')?.strip_prefix(ACCOUNT)?.strip_prefix('/')?;
    let (container, blob) = rest.split_once('/').unwrap_or((rest, ""));
    Some((decoded(container)?, decoded(blob)?))
}

/// The operation that method, path and query stand for.
fn operation(request: &Request<Incoming>) -> &'static str {
    let of_blob = place(request.uri().path()).is_some_and(|(_, blob)| !blob.is_empty());
    let query = pairs(request.uri().query().unwrap_or_default());
    let comp = query.get("comp").map_or("", String::as_str);
    match (of_blob, request.method(), comp) {
        (true, &Method::PUT, "") => "PutBlob",
        (true, &Method::GET, "") => "GetBlob",
        (true, &Method::HEAD, "") => "HeadBlob",
        (true, &Method::DELETE, "") => "DeleteBlob",
        (false, &Method::GET, "list") => "ListBlobs",
        (false, &Method::GET, "") if query.get("restype").is_some_and(|t| t == "container") => "GetContainerProperties",
        (false, &Method::GET, "properties") if query.get("restype").is_some_and(|t| t == "service") => "GetServiceProperties",
        _ => "other",
    }
}

/// Microseconds would tell more than the headers can say.
fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn date(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn plain(status: u16) -> Builder {
    let answer = Response::builder().status(status).header("x-ms-version", "2026-04-06").header("x-ms-request-id", "REQUEST8");
    answer.header("date", date(SystemTime::now())).header("server", "Windows-Azure-Blob/1.0 of the tests")
}

fn refused(status: u16, code: &str, detail: &str, head: bool) -> Response<Body> {
    let answer = plain(status).header("x-ms-error-code", code).header("content-type", "application/xml");
    let body = if head { String::new() } else { told(code, "The server of the tests refuses this.", detail) };
    answer.body(whole(body)).unwrap()
}

async fn answer(world: Arc<World>, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let operation = operation(&request);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let needs = match operation {
        "PutBlob" => "cw",
        "DeleteBlob" => "d",
        "ListBlobs" => "l",
        // No signature for a container tells of its settings, nor of its account's.
        "GetContainerProperties" | "GetServiceProperties" => "",
        _ => "r",
    };
    let asking = Asking { method: &head.method, uri: &head.uri, headers: &head.headers, needs, secure: world.secure };
    if let Err((status, code, detail)) = world.known.admit(&asking) {
        return Ok(refused(status, code, &detail, head.method == Method::HEAD));
    }
    let carried_out = carry_out(&world, operation, &asking, body);
    Ok(carried_out.unwrap_or_else(|Refusal(status, code)| refused(status, code, "", head.method == Method::HEAD)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap_or_default())
}

fn carry_out(world: &World, operation: &str, asking: &Asking<'_>, body: Bytes) -> Result<Response<Body>, Refusal> {
    let version = text(asking.headers, "x-ms-version");
    if version.len() != 10 || !("2015-02-21"..="2026-06-06").contains(&version) {
        return Err(Refusal(400, "InvalidHeaderValue"));
    }
    if operation == "GetServiceProperties" {
        return match asking.uri.path().trim_matches('/') == ACCOUNT {
            true => Ok(service_properties(&lock(&world.container).settings)),
            false => Err(Refusal(400, "InvalidUri")),
        };
    }
    let (container, name) = place(asking.uri.path()).ok_or(Refusal(400, "InvalidUri"))?;
    if container != CONTAINER {
        return Err(Refusal(404, "ContainerNotFound"));
    }
    if name.len() > 1024 {
        return Err(Refusal(400, "InvalidResourceName"));
    }
    let mut container = lock(&world.container);
    let rights = lock(&world.rights);
    let has = |action: &str, part: &str| rights.as_ref().is_none_or(|rights| rights.allow(action, part, &name));
    let adds = operation == "PutBlob" && has("add/action", "");
    if adds && !has("write", "") && container.get(&name).is_ok() {
        // That the condition would forbid it, too, is said to those alone who may: of the two orders that a provider may have,
        // the harder one.
        return Err(Refusal(403, "UnauthorizedBlobOverwrite"));
    }
    let may = match operation {
        "PutBlob" => adds || has("write", ""),
        "GetBlob" | "HeadBlob" => has("read", ""),
        "DeleteBlob" => has("delete", ""),
        "ListBlobs" => has("read", "Blob.List"),
        _ => true,
    };
    if !may {
        return Err(Refusal(403, "AuthorizationPermissionMismatch"));
    }
    match operation {
        "PutBlob" => put(&mut container, &name, asking.headers, body),
        "GetBlob" | "HeadBlob" => get(&container, &name, asking.headers, operation == "HeadBlob"),
        "DeleteBlob" => container.delete(&name).map(|()| plain(202).body(whole("")).unwrap()),
        "GetContainerProperties" => Ok(container_properties(&container.settings)),
        "ListBlobs" => list(&container, &pairs(asking.uri.query().unwrap_or_default())),
        _ => Err(Refusal(405, "UnsupportedHttpVerb")),
    }
}

fn container_properties(settings: &Settings) -> Response<Body> {
    let mut answer = plain(200)
        .header("etag", "\"0x8D0000000000000\"")
        .header("last-modified", date(now()))
        .header("x-ms-lease-status", "unlocked")
        .header("x-ms-lease-state", "available")
        .header("x-ms-has-immutability-policy", settings.immutable.to_string())
        .header("x-ms-has-legal-hold", settings.legal_hold.to_string())
        .header("x-ms-immutable-storage-with-versioning-enabled", "false")
        .header("x-ms-default-encryption-scope", settings.scope.unwrap_or("$account-encryption-key"))
        .header("x-ms-deny-encryption-scope-override", "false");
    if let Some(access) = settings.public {
        answer = answer.header("x-ms-blob-public-access", access);
    }
    answer.body(whole("")).unwrap()
}

fn service_properties(settings: &Settings) -> Response<Body> {
    let days = settings.soft_delete.map(|days| format!("<Days>{days}</Days>")).unwrap_or_default();
    let xml = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><StorageServiceProperties><Logging><Version>1.0</Version>\
         <Read>false</Read><Write>false</Write><Delete>false</Delete><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy>\
         </Logging><Cors /><DefaultServiceVersion>2021-12-02</DefaultServiceVersion><DeleteRetentionPolicy><Enabled>{}</Enabled>\
         {days}</DeleteRetentionPolicy></StorageServiceProperties>",
        settings.soft_delete.is_some()
    );
    plain(200).header("content-type", "application/xml").body(whole(xml)).unwrap()
}

/// The sum as Azure writes it.
pub fn sum(body: &[u8]) -> String {
    BASE64.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, body).to_le_bytes())
}

fn put(container: &mut Container, name: &str, headers: &HeaderMap, body: Bytes) -> Result<Response<Body>, Refusal> {
    if text(headers, "x-ms-blob-type") != "BlockBlob" {
        return Err(Refusal(400, "MissingRequiredHeader"));
    }
    if text(headers, "content-length") != body.len().to_string() {
        return Err(Refusal(411, "MissingContentLengthHeader"));
    }
    let sent = text(headers, "x-ms-content-crc64");
    if !sent.is_empty() && sent != sum(&body) {
        return Err(Refusal(400, "Crc64Mismatch"));
    }
    let optional = |name: &str| Some(text(headers, name).to_owned()).filter(|value| !value.is_empty());
    let tier = optional("x-ms-access-tier");
    if tier.as_ref().is_some_and(|tier| !["Hot", "Cool", "Cold", "Archive", "Premium"].contains(&tier.as_str())) {
        return Err(Refusal(400, "InvalidHeaderValue"));
    }
    let metadata: BTreeMap<String, String> = headers
        .keys()
        .filter_map(|name| Some((name.as_str().strip_prefix("x-ms-meta-")?.to_owned(), text(headers, name.as_str()).to_owned())))
        .collect();
    let if_absent = match text(headers, "if-none-match") {
        "*" => true,
        "" => false,
        _ => return Err(Refusal(400, "InvalidHeaderValue")),
    };
    let answered = sum(&body);
    let blob = Blob { tier, scope: optional("x-ms-encryption-scope"), metadata, ..Blob::new(body, now()) };
    let blob = container.put(name, blob, if_absent)?;
    let answer = plain(201).header("etag", &blob.etag).header("last-modified", date(blob.modified));
    Ok(answer.header("x-ms-content-crc64", answered).header("x-ms-request-server-encrypted", "true").body(whole("")).unwrap())
}

fn get(container: &Container, name: &str, headers: &HeaderMap, head: bool) -> Result<Response<Body>, Refusal> {
    let blob = container.get(name)?;
    if blob.tier.as_deref() == Some("Archive") && !head {
        return Err(Refusal(409, "BlobArchived"));
    }
    let size = blob.body.len();
    let range = [text(headers, "x-ms-range"), text(headers, "range")].into_iter().find(|range| !range.is_empty());
    let part = match range.filter(|_| !head) {
        None => None,
        Some(range) => {
            let bounds =
                range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).ok_or(Refusal(400, "InvalidHeaderValue"))?;
            let first: usize = bounds.0.parse().map_err(|_| Refusal(400, "InvalidHeaderValue"))?;
            let last: usize = match bounds.1 {
                "" => size.saturating_sub(1),
                last => last.parse().map_err(|_| Refusal(400, "InvalidHeaderValue"))?,
            };
            if first >= size || last < first {
                return Err(Refusal(416, "InvalidRange"));
            }
            Some((first, last.min(size - 1)))
        }
    };
    let mut answer = plain(if part.is_some() { 206 } else { 200 })
        .header("etag", &blob.etag)
        .header("last-modified", date(blob.modified))
        .header("content-type", "application/octet-stream")
        .header("accept-ranges", "bytes")
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-access-tier", blob.tier.as_deref().unwrap_or("Hot"));
    if container.settings.versions {
        answer = answer.header("x-ms-version-id", "2026-01-01T00:00:00.0000000Z");
    }
    for (name, value) in &blob.metadata {
        answer = answer.header(format!("x-ms-meta-{name}"), value);
    }
    let body = match part {
        _ if head => {
            answer = answer.header("content-length", size);
            Bytes::new()
        }
        None => blob.body.clone(),
        Some((first, last)) => {
            answer = answer.header("content-range", format!("bytes {first}-{last}/{size}"));
            blob.body.slice(first..=last)
        }
    };
    Ok(answer.body(whole(body)).unwrap())
}

fn list(container: &Container, query: &BTreeMap<String, String>) -> Result<Response<Body>, Refusal> {
    let part = |name: &str| query.get(name).map_or("", String::as_str);
    if part("restype") != "container" {
        return Err(Refusal(400, "InvalidQueryParameterValue"));
    }
    let most = match part("maxresults") {
        "" => 5000,
        text => text.parse::<usize>().ok().filter(|n| *n > 0).ok_or(Refusal(400, "OutOfRangeQueryParameterValue"))?.min(5000),
    };
    let (page, next) = container.page(part("prefix"), part("marker"), most)?;
    let mut xml = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"http://tests/\" \
         ContainerName=\"{CONTAINER}\"><Prefix>{}</Prefix><Marker>{}</Marker><MaxResults>{most}</MaxResults><Blobs>",
        escaped(part("prefix")),
        escaped(part("marker")),
    );
    for (name, blob) in page {
        let kind = if blob.folder { "<ResourceType>directory</ResourceType>" } else { "" };
        let (at, tier) = (date(blob.modified), blob.tier.as_deref().unwrap_or("Hot"));
        xml.push_str(&format!(
            "<Blob><Name>{}</Name><Properties><Creation-Time>{at}</Creation-Time><Last-Modified>{at}</Last-Modified>\
             <Etag>{}</Etag>{kind}<Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
             <Content-Encoding /><Content-Language /><Content-CRC64 /><Content-MD5 /><Cache-Control /><Content-Disposition />\
             <BlobType>BlockBlob</BlobType><AccessTier>{tier}</AccessTier><AccessTierInferred>true</AccessTierInferred>\
             <LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted>\
             </Properties><OrMetadata /></Blob>",
            escaped(name),
            blob.etag.trim_matches('"'),
            blob.body.len(),
        ));
    }
    let next = if next.is_empty() { "<NextMarker />".to_owned() } else { format!("<NextMarker>{next}</NextMarker>") };
    xml.push_str(&format!("</Blobs>{next}</EnumerationResults>"));
    Ok(plain(200).header("content-type", "application/xml").body(whole(xml)).unwrap())
}
