//! The services that say who someone is at AWS, in the test process: STS, the container's, the instance's, SSO. Each answers
//! with the key that `s3_server` knows and a session token that tells which way was taken. Tokens of Google's are admitted as the
//! role's trust policy says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::support::azure_login::pairs;
use crate::support::gcs_tokens::claims;
use crate::support::rights::aws_admits;
use crate::support::s3_server::{ACCESS_KEY, SECRET_KEY};

#[derive(Default)]
struct Desk {
    asked: Mutex<Vec<String>>,
    trust: Mutex<BTreeMap<String, Value>>,
    lifetime: Mutex<Option<i64>>,
}

/// A running server; it ends when it is dropped.
pub struct TokenServer {
    address: SocketAddr,
    desk: Arc<Desk>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.runtime.take().expect("it is taken once").shutdown_background();
    }
}

impl TokenServer {
    pub fn start() -> TokenServer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk::default());
        let at = desk.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let at = at.clone();
                let serve = hyper::service::service_fn(move |request| answer(at.clone(), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
            }
        });
        TokenServer { address, desk, runtime: Some(runtime) }
    }
    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
    /// What was asked so far: path and, for STS, the form. Forgets it.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.desk.asked.lock().unwrap())
    }
    /// Whoever shows a token of Google's may take this role if its trust policy says so.
    pub fn trust(&self, role: &str, policy: Value) {
        self.desk.trust.lock().unwrap().insert(role.to_owned(), policy);
    }
    /// Keys of STS last so many seconds from now on.
    pub fn lifetime(&self, seconds: i64) {
        *self.desk.lifetime.lock().unwrap() = Some(seconds);
    }
}

const UNTIL: &str = "2099-01-01T00:00:00Z";

async fn answer(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let form = String::from_utf8(body.collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default()).unwrap_or_default();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    desk.asked.lock().unwrap().push(format!("{path} {form}"));
    let fields = pairs(&form);
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let google = claims(field("WebIdentityToken"));
    let role = desk.trust.lock().unwrap().get(field("RoleArn")).cloned();
    if google.is_some_and(|claims| !role.is_some_and(|policy| aws_admits(&policy, &claims))) {
        let refusal = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>\
                       AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>\
                       <RequestId>1</RequestId></ErrorResponse>";
        return Ok(Response::builder().status(StatusCode::FORBIDDEN).body(Full::new(Bytes::from(refusal))).unwrap());
    }
    let until = match *desk.lifetime.lock().unwrap() {
        Some(seconds) => {
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        }
        None => UNTIL.to_owned(),
    };
    let header = |name: &str| head.headers.get(name).map_or("", |v| v.to_str().unwrap());
    let json = |token: &str| {
        format!(
            "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"LastUpdated\":\"2026-01-01T00:00:00Z\",\"AccessKeyId\":\"{ACCESS_KEY}\",\
             \"SecretAccessKey\":\"{SECRET_KEY}\",\"Token\":\"{token}\",\"Expiration\":\"{UNTIL}\"}}"
        )
    };
    let sts = |action: &str| {
        format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials><AccessKeyId>\
             {ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>by-{action}</SessionToken>\
             <Expiration>{until}</Expiration></Credentials></{action}Result></{action}Response>"
        )
    };
    let route = head.uri.path();
    let said = match (head.method, route) {
        (Method::POST, "/") if form.contains("Action=AssumeRoleWithWebIdentity&") => Some(sts("AssumeRoleWithWebIdentity")),
        (Method::POST, "/") if form.contains("Action=AssumeRole&") => Some(sts("AssumeRole")),
        (Method::GET, "/container") if header("authorization") == "container-secret" => Some(json("by-container")),
        (Method::PUT, "/latest/api/token") => Some("instance-secret".into()),
        (Method::GET, "/latest/meta-data/iam/security-credentials/") => Some("instance-role".into()),
        (Method::GET, "/latest/meta-data/iam/security-credentials/instance-role")
            if header("x-aws-ec2-metadata-token") == "instance-secret" =>
        {
            Some(json("by-instance"))
        }
        (Method::GET, "/federation/credentials") if header("x-amz-sso_bearer_token") == "sso-secret" => Some(format!(
            "{{\"roleCredentials\":{{\"accessKeyId\":\"{ACCESS_KEY}\",\"secretAccessKey\":\"{SECRET_KEY}\",\
             \"sessionToken\":\"by-sso\",\"expiration\":4070908800000}}}}"
        )),
        _ => None,
    };
    let status = if said.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let answer = Response::builder().status(status).header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
    Ok(answer.body(Full::new(Bytes::from(said.unwrap_or_default()))).unwrap())
}
