//! The gRPC face of the GCS server: `google.storage.v2.Storage`, as far as listings, sizes and removals need it, over h2c. The
//! messages are written by hand, with the field numbers of the published interface.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Method, Request, Response, Version};
use prost::Message;

use crate::support::door::{Body, whole};
use crate::support::gcs_bucket::{Object as Stored, PAGE_MAX, Refusal};
use crate::support::gcs_server::World;
use crate::support::gcs_settings::Settings;

/// Longest request message, in bytes.
const REQUEST_MAX: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
struct GetObject {
    #[prost(string, tag = "1")]
    bucket: String,
    #[prost(string, tag = "2")]
    object: String,
    #[prost(int64, tag = "3")]
    generation: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GetBucket {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteObject {
    #[prost(string, tag = "1")]
    bucket: String,
    #[prost(string, tag = "2")]
    object: String,
    #[prost(int64, tag = "4")]
    generation: i64,
    #[prost(int64, optional, tag = "5")]
    if_generation_match: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct ListObjects {
    #[prost(string, tag = "1")]
    parent: String,
    #[prost(int32, tag = "2")]
    page_size: i32,
    #[prost(string, tag = "3")]
    page_token: String,
    #[prost(string, tag = "4")]
    delimiter: String,
    #[prost(string, tag = "6")]
    prefix: String,
    #[prost(bool, tag = "7")]
    versions: bool,
    #[prost(string, tag = "10")]
    lexicographic_start: String,
    #[prost(string, tag = "11")]
    lexicographic_end: String,
    #[prost(bool, tag = "12")]
    soft_deleted: bool,
    #[prost(string, tag = "14")]
    match_glob: String,
    #[prost(string, tag = "15")]
    filter: String,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    objects: Vec<Object>,
    #[prost(string, tag = "3")]
    next_page_token: String,
}

#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    bucket: String,
    #[prost(int64, tag = "3")]
    generation: i64,
    #[prost(int64, tag = "4")]
    metageneration: i64,
    #[prost(string, tag = "5")]
    storage_class: String,
    #[prost(int64, tag = "6")]
    size: i64,
    #[prost(string, tag = "13")]
    content_type: String,
    #[prost(message, optional, tag = "14")]
    create_time: Option<Timestamp>,
    #[prost(message, optional, tag = "16")]
    checksums: Option<Checksums>,
    #[prost(message, optional, tag = "17")]
    update_time: Option<Timestamp>,
    #[prost(string, tag = "18")]
    kms_key: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Checksums {
    #[prost(fixed32, optional, tag = "1")]
    crc32c: Option<u32>,
}

fn object(bucket: &str, name: &str, stored: &Stored) -> Object {
    let at = Timestamp { seconds: stored.created.as_second(), nanos: stored.created.subsec_nanosecond() };
    Object {
        name: name.to_owned(),
        bucket: format!("projects/_/buckets/{bucket}"),
        generation: stored.generation,
        metageneration: 1,
        storage_class: stored.class.clone(),
        size: stored.bytes.len() as i64,
        content_type: stored.content_type.clone().unwrap_or_default(),
        create_time: Some(at),
        checksums: Some(Checksums { crc32c: Some(stored.crc32c) }),
        update_time: Some(at),
        kms_key: stored.kms_key.clone().unwrap_or_default(),
    }
}

/// Answers one call.
pub async fn answer(world: &World, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    if head.version != Version::HTTP_2 || head.method != Method::POST || head.headers.get("te").is_none_or(|v| v != "trailers") {
        return Ok(Response::builder().status(415).body(whole("gRPC is POST over HTTP/2, with trailers")).unwrap());
    }
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let called = match head.uri.path().strip_prefix("/google.storage.v2.Storage/") {
        Some(method) => world.admit(&head.headers).and_then(|()| call(world, method, &head.headers, &body)),
        None => Err(Refusal::unknown(head.uri.path())),
    };
    let answer = Response::builder().header("content-type", "application/grpc");
    let message = match called {
        Ok(message) => message,
        Err(refusal) => {
            let answer = answer.header("grpc-status", refusal.code.to_string());
            return Ok(answer.header("grpc-message", escaped(&refusal.message)).body(whole("")).unwrap());
        }
    };
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a short answer"));
    framed.put_slice(&message);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Ok(Frame::data(framed.freeze())), Ok(Frame::trailers(trailers))];
    Ok(answer.body(StreamBody::new(stream::iter(frames)).boxed_unsync()).unwrap())
}

/// The one message in a body, uncompressed.
fn message<M: Message + Default>(body: &Bytes) -> Result<M, Refusal> {
    let wrong = || Refusal::invalid("not one uncompressed message");
    let (head, rest) = body.split_at_checked(5).ok_or_else(wrong)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || length != rest.len() || length > REQUEST_MAX {
        return Err(wrong());
    }
    M::decode(rest).map_err(|e| Refusal::invalid(e.to_string()))
}

/// The bucket's own name. The real service finds the bucket's place by a header, and refuses calls whose header says otherwise.
fn bucket<'a>(resource: &'a str, headers: &HeaderMap) -> Result<&'a str, Refusal> {
    let name = resource.strip_prefix("projects/_/buckets/").filter(|name| !name.is_empty() && !name.contains('/'));
    let name = name.ok_or_else(|| Refusal::invalid(format!("Invalid bucket resource name: {resource:?}")))?;
    let routed = headers.get("x-goog-request-params").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let routes: BTreeMap<_, _> = url::form_urlencoded::parse(routed.as_bytes()).into_owned().collect();
    match routes.get("bucket").is_some_and(|route| route == resource) {
        true => Ok(name),
        false => Err(Refusal::invalid(format!("The routing header {routed:?} does not name {resource}"))),
    }
}

fn call(world: &World, method: &str, headers: &HeaderMap, body: &Bytes) -> Result<Vec<u8>, Refusal> {
    let mut buckets = world.buckets();
    match method {
        "GetObject" => {
            let asked: GetObject = message(body)?;
            let name = bucket(&asked.bucket, headers)?;
            world.may("storage.objects.get", name, Some(&asked.object))?;
            let found = buckets.get(name).ok_or_else(Refusal::no_bucket)?.objects.get(&asked.object);
            let found = found.filter(|o| asked.generation == 0 || asked.generation == o.generation);
            let found = found.ok_or_else(|| Refusal::no_object(name, &asked.object))?;
            Ok(object(name, &asked.object, found).encode_to_vec())
        }
        "GetBucket" => {
            let asked: GetBucket = message(body)?;
            let name = bucket(&asked.name, headers)?;
            let found = buckets.get(name).ok_or_else(Refusal::no_bucket)?;
            let settings = found.settings.clone();
            Ok(Settings { name: asked.name.clone(), bucket_id: name.to_owned(), ..settings }.encode_to_vec())
        }
        "DeleteObject" => {
            let asked: DeleteObject = message(body)?;
            let name = bucket(&asked.bucket, headers)?;
            world.may("storage.objects.delete", name, Some(&asked.object))?;
            let condition = asked.if_generation_match.or((asked.generation != 0).then_some(asked.generation));
            match buckets.get_mut(name).ok_or_else(Refusal::no_bucket)?.remove(&asked.object, condition)? {
                true => Ok(Vec::new()),
                false => Err(Refusal::no_object(name, &asked.object)),
            }
        }
        "ListObjects" => {
            let asked: ListObjects = message(body)?;
            let name = bucket(&asked.parent, headers)?;
            world.may("storage.objects.list", name, None)?;
            let more = [&asked.delimiter, &asked.lexicographic_end, &asked.match_glob, &asked.filter];
            if asked.versions || asked.soft_deleted || more.iter().any(|text| !text.is_empty()) {
                return Err(Refusal::unknown("delimiters, ends, versions, globs and filters of a listing"));
            }
            let size = match usize::try_from(asked.page_size) {
                Ok(0) => PAGE_MAX,
                Ok(size) => size.min(PAGE_MAX),
                Err(_) => return Err(Refusal::invalid("Invalid page size.")),
            };
            let after = opened(&asked.page_token)?;
            let found = buckets.get(name).ok_or_else(Refusal::no_bucket)?;
            let page = found.page(&asked.prefix, &asked.lexicographic_start, &after, size);
            let objects = page.objects.iter().map(|(key, stored)| object(name, key, stored)).collect();
            Ok(Listed { objects, next_page_token: page.next.as_deref().map(sealed).unwrap_or_default() }.encode_to_vec())
        }
        other => Err(Refusal::unknown(other)),
    }
}

const TOKENS: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// The token behind which the page after `name` lies.
fn sealed(name: &str) -> String {
    base64::Engine::encode(&TOKENS, format!("page:{name}"))
}

fn opened(token: &str) -> Result<String, Refusal> {
    if token.is_empty() {
        return Ok(String::new());
    }
    let text = base64::Engine::decode(&TOKENS, token).ok().and_then(|b| String::from_utf8(b).ok());
    let name = text.as_deref().and_then(|t| t.strip_prefix("page:")).filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| Refusal::invalid("Invalid page token."))
}

/// A message as a header carries it.
pub fn escaped(message: &str) -> String {
    let plain = |b: u8| (0x20..0x7f).contains(&b) && b != b'%';
    message.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
