//! The server that stands in for Google Cloud Storage: it serves the official SDK as it comes, and nobody who speaks otherwise.

use std::io::{Read, Write};

use bytes::Bytes;
use google_cloud_storage::client::Storage;

use crate::support::gcs_bucket::{crc32c, told as told_sum};
use crate::support::gcs_server::{BUCKET, GcsServer, TOKEN};

fn body(length: usize) -> Bytes {
    let mut out = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out.into()
}

#[tokio::test]
async fn the_sdk_is_served_as_it_comes() {
    let server = GcsServer::open_to_all();
    let anonymous = google_cloud_auth::credentials::anonymous::Builder::new().build();
    let bucket = format!("projects/_/buckets/{BUCKET}");
    for (object, threshold) in [("at-once", 1_usize << 20), ("in-parts", 0)] {
        let client = Storage::builder().with_endpoint(server.endpoint()).with_credentials(anonymous.clone());
        let client = client.with_resumable_upload_threshold(threshold).build().await.unwrap();
        // The SDK sums by itself, and sends the sum last where it sends all at once.
        let stored = client.write_object(&bucket, object, body(300_000)).send_unbuffered().await.unwrap();
        assert_eq!(stored.size, 300_000, "{object}");
        let kept = server.bucket(|b| b.objects[object].clone());
        assert!(kept.summed && kept.bytes == body(300_000), "{object}");
        let buffered = format!("{object}-buffered");
        client.write_object(&bucket, &buffered, body(1_000_000)).send_buffered().await.unwrap();
        assert!(server.bucket(|b| b.objects[&buffered].bytes == body(1_000_000)), "{object}");
        let refused = client.write_object(&bucket, object, body(1)).set_if_generation_match(0_i64).send_unbuffered().await;
        assert_eq!(refused.unwrap_err().http_status_code(), Some(412), "{object}");
    }
    assert!(server.count("start") > 0 && server.count("send") > 0 && server.count("put") > 0, "{:?}", server.counts());
}

/// A request as no SDK would send it; the whole answer. The servers run on threads of their own.
fn by_hand(server: &GcsServer, line: &str, headers: &[(&str, &str)], body: &str) -> String {
    let endpoint = server.endpoint();
    let host = endpoint.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The status that must come, the request's line, headers and body, and what the answer must say.
type Request<'a> = (u16, String, Vec<(&'a str, &'a str)>, String, &'a str);

#[test]
fn what_is_not_right_is_refused() {
    let server = GcsServer::start();
    let bearer = format!("Bearer {TOKEN}");
    let (login, related) = (("authorization", bearer.as_str()), ("content-type", "multipart/related; boundary=B"));
    let line = format!("POST /upload/storage/v1/b/{BUCKET}/o?uploadType=multipart&name=x&ifGenerationMatch=0");
    let upload = |json: &str, more: &str| {
        format!("--B\r\nContent-Type: application/json\r\n\r\n{json}\r\n--B\r\n\r\nthe bytes{more}\r\n--B--\r\n")
    };
    let wrong = told_sum(crc32c(b"other bytes"));
    let right = told_sum(crc32c(b"the bytes"));
    let summed = |sum: &str| upload(&format!("{{\"crc32c\":\"{sum}\"}}"), "");
    let third = |sum: &str| upload("{}", &format!("\r\n--B\r\nContent-Type: application/json\r\n\r\n{{\"crc32c\":\"{sum}\"}}"));
    let untyped = "--B\r\n\r\n{}\r\n--B\r\n\r\nthe bytes\r\n--B--\r\n".to_owned();
    let cases: Vec<Request> = vec![
        (401, line.clone(), vec![related], upload("{}", ""), "Anonymous caller"),
        (401, line.clone(), vec![related, ("authorization", "Bearer x")], upload("{}", ""), "Invalid Credentials"),
        (401, line.clone(), vec![related, ("authorization", TOKEN)], upload("{}", ""), "Invalid Credentials"),
        (404, "GET /nowhere".into(), vec![login], String::new(), "Not Found"),
        (404, line.replace("/b/bucket", "/b/other"), vec![login, related], upload("{}", ""), "bucket does not exist"),
        (400, line.clone(), vec![login], upload("{}", ""), "Content-Type"),
        (400, line.clone(), vec![login, ("content-type", "multipart/related")], upload("{}", ""), "Content-Type"),
        (400, line.clone(), vec![login, related], untyped, "JSON, and say so"),
        (400, line.clone(), vec![login, related], "--B\r\n".into(), "Malformed"),
        (400, line.clone(), vec![login, related], upload("{}", "").replace("--B--", "--B"), "Malformed"),
        (400, line.clone(), vec![login, related], upload("{", ""), "Parse Error"),
        (400, line.clone(), vec![login, related], upload("{\"colour\":\"red\"}", ""), "Unknown field colour"),
        (400, line.clone(), vec![login, related], upload("{\"storageClass\":\"GLACIER\"}", ""), "storage class GLACIER"),
        (400, line.replace("&name=x", ""), vec![login, related], upload("{}", ""), "name"),
        (501, line.clone() + "&colour=red", vec![login, related], upload("{}", ""), "colour"),
        (400, line.clone(), vec![login, related], summed(&wrong), "match calculated CRC32C"),
        (400, line.clone(), vec![login, related], third(&wrong), "match calculated CRC32C"),
        (400, line.replace("multipart", "media"), vec![login, related], upload("{}", ""), "upload type"),
        (200, line.clone(), vec![login, related], summed(&right), &right),
        (412, line.clone(), vec![login, related], summed(&right), "pre-conditions"),
        (200, line.replace("name=x", "name=y"), vec![login, related], third(&right), &right),
        (404, format!("GET /storage/v1/b/{BUCKET}/o/z?alt=media"), vec![login], String::new(), "No such object: bucket/z"),
        (501, format!("GET /storage/v1/b/{BUCKET}/o/x"), vec![login], String::new(), "notImplemented"),
        (200, format!("GET /storage/v1/b/{BUCKET}/o/x?alt=media"), vec![login], String::new(), "the bytes"),
        (
            206,
            format!("GET /storage/v1/b/{BUCKET}/o/x?alt=media"),
            vec![login, ("range", "bytes=4-99")],
            String::new(),
            "bytes 4-8/9",
        ),
        (416, format!("GET /storage/v1/b/{BUCKET}/o/x?alt=media"), vec![login, ("range", "bytes=9-")], String::new(), "range"),
        (410, "PUT /upload/storage/v1/b/bucket/o?upload_id=none".into(), vec![login], String::new(), "No such upload"),
    ];
    for (status, line, headers, body, says) in cases {
        let answer = by_hand(&server, &line, &headers, &body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says), "{line} {headers:?}: {answer}");
    }
    assert_eq!(server.bucket(|b| b.objects.keys().cloned().collect::<Vec<_>>()), ["x", "y"], "nothing else was stored");
}
