//! The HTTP face of the GCS server: uploads (at once, and in parts) and downloads of the JSON API.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response};

use crate::support::door::{Body, lock, whole};
use crate::support::gcs_bucket::{Draft, Object, Refusal, heard, told as told_sum};
use crate::support::gcs_server::{Upload, World};

type Answer = Result<Response<Body>, Refusal>;

const JSON: &str = "application/json; charset=UTF-8";

/// A refusal's body.
pub fn told(status: u16, reason: &str, message: &str) -> String {
    let error = serde_json::json!({ "message": message, "domain": "global", "reason": reason });
    serde_json::json!({ "error": { "code": status, "message": message, "errors": [error] } }).to_string()
}

/// Answers one request.
pub async fn answer(world: &World, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let done = world.admit(&head.headers).and_then(|()| match (&head.method, path.as_slice()) {
        (&Method::POST, ["upload", "storage", "v1", "b", bucket, "o"]) => match query.get("uploadType").map(String::as_str) {
            Some("multipart") => at_once(world, bucket, &query, &head.headers, &body),
            Some("resumable") => start(world, bucket, &query, &head.headers, &body),
            other => Err(Refusal::invalid(format!("Unknown upload type {other:?}"))),
        },
        (&Method::PUT, ["upload", "storage", "v1", "b", bucket, "o"]) => send(world, bucket, &query, &head.headers, &body),
        (&Method::GET, ["storage", "v1", "b", bucket, "o", name]) => match query.get("alt").map(String::as_str) {
            Some("media") => media(world, bucket, &decoded(name)?, &query, &head.headers),
            _ => Err(Refusal::unknown("metadata by the JSON API")),
        },
        _ => Err(Refusal { status: 404, reason: "notFound", code: 5, message: "Not Found".into() }),
    });
    Ok(done.unwrap_or_else(|refusal| {
        let body = told(refusal.status, refusal.reason, &refusal.message);
        Response::builder().status(refusal.status).header("content-type", JSON).body(whole(body)).unwrap()
    }))
}

fn decoded(segment: &str) -> Result<String, Refusal> {
    // A plus sign in a path is a plus sign.
    let text = format!("x={}", segment.replace('+', "%2B"));
    let (_, name) = url::form_urlencoded::parse(text.as_bytes()).next().expect("a pair");
    if name.contains('\u{fffd}') { Err(Refusal::invalid("The name is not UTF-8.")) } else { Ok(name.into_owned()) }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What an upload says about its object: in the query, and in the JSON of its first part.
fn draft(query: &BTreeMap<String, String>, json: &[u8]) -> Result<(String, Option<i64>, Draft), Refusal> {
    for parameter in query.keys() {
        if !["uploadType", "name", "ifGenerationMatch", "kmsKeyName"].contains(&parameter.as_str()) {
            return Err(Refusal::unknown(parameter));
        }
    }
    let condition = query.get("ifGenerationMatch").map(|text| text.parse());
    let condition = condition.transpose().map_err(|_| Refusal::invalid("Invalid ifGenerationMatch."))?;
    let fields: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|e| Refusal::invalid(format!("Parse Error: {e}")))?;
    let mut draft = Draft { kms_key: query.get("kmsKeyName").cloned(), ..Draft::default() };
    let mut name = query.get("name").cloned();
    for (field, value) in fields {
        let text = value.as_str().map(str::to_owned).ok_or_else(|| Refusal::invalid(format!("Invalid value of {field}")))?;
        match field.as_str() {
            "crc32c" => draft.crc32c = Some(heard(&text)?),
            "storageClass" => draft.class = Some(text),
            "contentType" => draft.content_type = Some(text),
            "name" if name.as_ref().is_none_or(|n| *n == text) => name = Some(text),
            _ => return Err(Refusal::invalid(format!("Unknown field {field}"))),
        }
    }
    let name = name.ok_or_else(|| Refusal { reason: "required", ..Refusal::invalid("Required parameter: name") })?;
    Ok((name, condition, draft))
}

fn stored(world: &World, bucket: &str, name: &str, draft: Draft, condition: Option<i64>) -> Answer {
    world.may("storage.objects.create", bucket, Some(name))?;
    let mut buckets = world.buckets();
    let found = buckets.get_mut(bucket).ok_or_else(Refusal::no_bucket)?;
    // Replacing an object is removing the one before. That the condition would forbid it, too, is said to those alone who may:
    // of the two orders that a provider may have, the harder one.
    if found.objects.contains_key(name) {
        world.may("storage.objects.delete", bucket, Some(name))?;
    }
    let object = found.put(name, draft, condition)?;
    let mut answer = serde_json::json!({
        "kind": "storage#object",
        "id": format!("{bucket}/{name}/{}", object.generation),
        "name": name,
        "bucket": bucket,
        "generation": object.generation.to_string(),
        "metageneration": "1",
        "storageClass": object.class,
        "size": object.bytes.len().to_string(),
        "crc32c": told_sum(object.crc32c),
        "etag": etag(&object),
        "timeCreated": object.created.to_string(),
        "updated": object.created.to_string(),
    });
    for (field, value) in [("contentType", &object.content_type), ("kmsKeyName", &object.kms_key)] {
        if let Some(value) = value {
            answer[field] = value.clone().into();
        }
    }
    Ok(Response::builder().header("content-type", JSON).body(whole(answer.to_string())).unwrap())
}

fn etag(object: &Object) -> String {
    format!("\"{:x}\"", object.generation)
}

/// An upload in one request: the object's fields, its bytes and, perhaps, the sum of what was sent.
fn at_once(world: &World, bucket: &str, query: &BTreeMap<String, String>, headers: &HeaderMap, body: &Bytes) -> Answer {
    let boundary = header(headers, "content-type").strip_prefix("multipart/related; boundary=");
    let boundary = boundary.filter(|b| !b.is_empty()).ok_or_else(|| Refusal::invalid("Invalid Content-Type of an upload."))?;
    let parts = parts(body, boundary)?;
    let [(kind, json), (_, bytes), rest @ ..] = parts.as_slice() else {
        return Err(Refusal::invalid("An upload has a part for the fields and one for the bytes."));
    };
    if !kind.starts_with("application/json") {
        return Err(Refusal::invalid("The fields of an upload are JSON, and say so."));
    }
    let (name, condition, mut draft) = draft(query, json)?;
    match rest {
        [] => {}
        [(kind, json)] if kind.starts_with("application/json") => {
            let sums: BTreeMap<String, String> =
                serde_json::from_slice(json).map_err(|e| Refusal::invalid(format!("Parse Error: {e}")))?;
            let sum = sums.get("crc32c").map(|text| heard(text)).transpose()?;
            draft.crc32c = draft.crc32c.or(sum);
        }
        _ => return Err(Refusal::invalid("An upload ends with its bytes, or with their sums.")),
    }
    draft.bytes = bytes.clone();
    stored(world, bucket, &name, draft, condition)
}

/// The parts of a multipart body: content type and content.
fn parts(body: &Bytes, boundary: &str) -> Result<Vec<(String, Bytes)>, Refusal> {
    let wrong = || Refusal::invalid("Malformed multipart body.");
    let (first, between) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}"));
    let mut rest = body.strip_prefix(first.as_bytes()).map(|rest| body.slice_ref(rest)).ok_or_else(wrong)?;
    let mut parts = Vec::new();
    loop {
        let mut head = String::new();
        if rest.starts_with(b"\r\n") {
            rest = rest.slice(2..);
        } else {
            let end = find(&rest, b"\r\n\r\n").ok_or_else(wrong)?;
            head = String::from_utf8(rest.split_to(end).to_vec()).map_err(|_| wrong())?;
            rest = rest.slice(4..);
        }
        let kind = head.split("\r\n").filter_map(|line| line.split_once(": "));
        let kind = kind.filter(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, v)| v.to_owned()).next();
        let end = find(&rest, between.as_bytes()).ok_or_else(wrong)?;
        parts.push((kind.unwrap_or_default(), rest.split_to(end)));
        rest = rest.slice(between.len()..);
        match &rest[..] {
            b"--" | b"--\r\n" => return Ok(parts),
            more if more.starts_with(b"\r\n") => rest = rest.slice(2..),
            _ => return Err(wrong()),
        }
    }
}

/// Where `what`, which begins with a carriage return, stands in `text`.
fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|b| *b == b'\r') {
        if text[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Begins an upload in parts. The place to send them to is made of the server's own address: the SDK's `Host` has no port.
fn start(world: &World, bucket: &str, query: &BTreeMap<String, String>, headers: &HeaderMap, body: &Bytes) -> Answer {
    if !header(headers, "content-type").starts_with("application/json") {
        return Err(Refusal::invalid("The fields of an upload are JSON, and say so."));
    }
    let (name, condition, draft) = draft(query, body)?;
    if !world.buckets().contains_key(bucket) {
        return Err(Refusal::no_bucket());
    }
    let mut uploads = lock(&world.uploads);
    let id = format!("upload-{}", uploads.len());
    uploads.insert(id.clone(), Upload { bucket: bucket.to_owned(), name, condition, draft, came: Vec::new() });
    let place = format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}", world.endpoint);
    Ok(Response::builder().header("location", place).body(whole("")).unwrap())
}

/// Takes in a part of an upload: `bytes 0-9/10`, `bytes 0-9/*` where more follows, `bytes */10` or `*/*` to ask how far it came.
fn send(world: &World, bucket: &str, query: &BTreeMap<String, String>, headers: &HeaderMap, body: &Bytes) -> Answer {
    let wrong = || Refusal::invalid("Invalid Content-Range of an upload.");
    let mut uploads = lock(&world.uploads);
    let gone = || Refusal { status: 410, reason: "notFound", code: 5, message: "No such upload.".into() };
    let id = query.get("upload_id").cloned().unwrap_or_default();
    let upload = uploads.get_mut(&id).filter(|u| u.bucket == bucket).ok_or_else(gone)?;
    let (range, total) =
        header(headers, "content-range").strip_prefix("bytes ").and_then(|r| r.split_once('/')).ok_or_else(wrong)?;
    let total = if total == "*" { None } else { Some(total.parse::<usize>().map_err(|_| wrong())?) };
    if range == "*" {
        if !body.is_empty() {
            return Err(wrong());
        }
    } else {
        let (first, last) = range.split_once('-').ok_or_else(wrong)?;
        let (first, last): (usize, usize) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if first != upload.came.len() || last + 1 != first + body.len() || total.is_some_and(|t| last >= t) {
            return Err(wrong());
        }
        upload.came.extend_from_slice(body);
    }
    if total != Some(upload.came.len()) {
        let answer = Response::builder().status(308);
        let answer =
            if upload.came.is_empty() { answer } else { answer.header("range", format!("bytes=0-{}", upload.came.len() - 1)) };
        return Ok(answer.body(whole("")).unwrap());
    }
    let Upload { bucket, name, condition, mut draft, came } = uploads.remove(&id).expect("it was there");
    draft.bytes = came.into();
    stored(world, &bucket, &name, draft, condition)
}

/// A download, of the whole or a range.
fn media(world: &World, bucket: &str, name: &str, query: &BTreeMap<String, String>, headers: &HeaderMap) -> Answer {
    world.may("storage.objects.get", bucket, Some(name))?;
    let buckets = world.buckets();
    let object = buckets.get(bucket).ok_or_else(Refusal::no_bucket)?.objects.get(name);
    let wanted = |o: &&Object| query.get("generation").is_none_or(|g| *g == o.generation.to_string());
    let object = object.filter(wanted).ok_or_else(|| Refusal::no_object(bucket, name))?;
    let size = object.bytes.len();
    let answer = Response::builder()
        .header("x-goog-generation", object.generation)
        .header("x-goog-metageneration", 1)
        .header("x-goog-stored-content-length", size)
        .header("x-goog-stored-content-encoding", "identity")
        .header("x-goog-storage-class", &object.class)
        .header("x-goog-hash", format!("crc32c={}", told_sum(object.crc32c)))
        .header("etag", etag(object))
        .header("content-type", object.content_type.as_deref().unwrap_or("application/octet-stream"));
    let Some(range) = headers.get("range") else { return Ok(answer.body(whole(object.bytes.clone())).unwrap()) };
    let past = || {
        let message = "The requested range cannot be satisfied.".into();
        Refusal { status: 416, reason: "requestedRangeNotSatisfiable", code: 11, message }
    };
    let range = range.to_str().ok().and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let (first, end) = match range {
        Some(("", last)) => (size.saturating_sub(last.parse().map_err(|_| past())?), size),
        Some((first, "")) => (first.parse().map_err(|_| past())?, size),
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().map_err(|_| past())?, last.parse().map_err(|_| past())?);
            (first, last.saturating_add(1).min(size))
        }
        None => return Err(Refusal::invalid("Invalid range.")),
    };
    if first >= end {
        return Err(past());
    }
    let answer = answer.status(206).header("content-range", format!("bytes {first}-{}/{size}", end - 1));
    Ok(answer.body(whole(object.bytes.slice(first..end))).unwrap())
}
