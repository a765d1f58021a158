//! The services that say who someone is at AWS, in the test process: STS, the container's, the instance's, SSO. Each answers
//! with the key that `s3_server` knows and a session token that tells which way was taken.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::support::s3_server::{ACCESS_KEY, SECRET_KEY};

/// A running server; it ends when it is dropped.
pub struct TokenServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
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
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = asked.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let noted = noted.clone();
                let serve = hyper::service::service_fn(move |request| answer(noted.clone(), request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
            }
        });
        TokenServer { address, asked, runtime: Some(runtime) }
    }
    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
    /// What was asked so far: path and, for STS, the form. Forgets it.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

const UNTIL: &str = "2099-01-01T00:00:00Z";

async fn answer(asked: Arc<Mutex<Vec<String>>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let form = String::from_utf8(body.collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default()).unwrap_or_default();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    asked.lock().unwrap().push(format!("{path} {form}"));
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
             <Expiration>{UNTIL}</Expiration></Credentials></{action}Result></{action}Response>"
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
