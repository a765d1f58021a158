//! A server of S3 inside the test process, on a loopback port of its own.
//!
//! `S3Server::start()` gives a server with one empty bucket; it ends when it is dropped. `url` and `settings` open a store in
//! it (a real process can do the same with `environment`). It runs on threads of its own, so any test can use it, whatever its
//! runtime. In front of the service stands a door that counts requests by operation, keeps their headers, and can be told to
//! do something else with the next ones (`S3Server::fault`).

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::settings::{ProviderSettings, StoreSettings};
use holdfast::store::url::StoreUrl;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::service::{S3Service, S3ServiceBuilder};

use crate::support::s3_bucket::Bucket;
use crate::support::s3_service::Service;

pub const BUCKET: &str = "bucket";
pub const REGION: &str = "eu-test-1";
pub const ACCESS_KEY: &str = "AKIDHOLDFASTTEST";
pub const SECRET_KEY: &str = "a-secret-that-no-message-may-hold";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What to do with a request instead of the usual.
#[derive(Clone, Debug)]
pub enum Act {
    /// Carry it out and answer as usual (after the delay).
    Serve,
    /// Answer this; carried out before if so asked.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// Close the connection without an answer.
    Reset,
    /// Send so many bytes of the body, then close.
    CutBody(usize),
    /// Send so many bytes of the body, then nothing more.
    StallBody(usize),
    /// Turn one bit of the body.
    FlipBit(usize),
    /// Do not answer at all.
    Silence,
}

/// A fault for the next requests that it fits.
#[derive(Clone, Debug)]
pub struct Fault {
    operation: Option<&'static str>,
    times: usize,
    delay: Duration,
    carried_out: bool,
    act: Act,
}

impl Fault {
    /// Does `act` with the next request.
    pub fn new(act: Act) -> Fault {
        Fault { operation: None, times: 1, delay: Duration::ZERO, carried_out: false, act }
    }
    /// A refusal in S3's form. An empty `code` gives an answer without a body.
    pub fn refusal(status: u16, code: &str) -> Fault {
        let message = "scripted";
        let body = match code {
            "" => String::new(),
            _ => format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"),
        };
        Fault::new(Act::Answer { status, headers: vec![("x-amz-request-id", "REQUEST7".into())], body })
    }
    /// Only for requests of this operation.
    pub fn on(self, operation: &'static str) -> Fault {
        Fault { operation: Some(operation), ..self }
    }
    /// For so many requests.
    pub fn times(self, times: usize) -> Fault {
        Fault { times, ..self }
    }
    /// After so long.
    pub fn after(self, delay: Duration) -> Fault {
        Fault { delay, ..self }
    }
    /// The request is carried out first: only its answer is lost.
    pub fn carried_out(self) -> Fault {
        Fault { carried_out: true, ..self }
    }
    /// One more header in a scripted answer.
    pub fn header(mut self, name: &'static str, value: &str) -> Fault {
        match &mut self.act {
            Act::Answer { headers, .. } => headers.push((name, value.to_owned())),
            other => panic!("{other:?} has no headers"),
        }
        self
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub operation: &'static str,
    pub path: String,
    pub headers: HeaderMap,
}

impl Seen {
    /// The header's text, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

#[derive(Default)]
struct Door {
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<VecDeque<Fault>>,
    down: AtomicBool,
}

/// A running server.
pub struct S3Server {
    address: SocketAddr,
    service: Service,
    door: Arc<Door>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.runtime.take().expect("it is taken once").shutdown_background();
    }
}

struct Everybody;

#[async_trait::async_trait]
impl s3s::access::S3Access for Everybody {
    async fn check(&self, _: &mut s3s::access::S3AccessContext<'_>) -> s3s::S3Result<()> {
        Ok(())
    }
}

impl S3Server {
    /// A server that admits [`ACCESS_KEY`] only.
    pub fn start() -> S3Server {
        S3Server::with(false)
    }

    /// A server that asks nobody for a signature (a wrong one is still refused).
    pub fn open_to_all() -> S3Server {
        S3Server::with(true)
    }

    fn with(open: bool) -> S3Server {
        let service = Service::default();
        service.buckets().insert(BUCKET.into(), Bucket::default());
        let mut builder = S3ServiceBuilder::new(service.clone());
        builder.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        if open {
            builder.set_access(Everybody);
        }
        let s3 = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let door = Arc::new(Door::default());
        let at_the_door = door.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (s3, door) = (s3.clone(), at_the_door.clone());
                if door.down.load(Ordering::SeqCst) {
                    continue;
                }
                let serve = hyper::service::service_fn(move |request| pass(door.clone(), s3.clone(), request));
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        S3Server { address, service, door, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
    /// URL of a store in the bucket, below `prefix` (which may be empty).
    pub fn url(&self, prefix: &str) -> StoreUrl {
        self.url_of(BUCKET, prefix)
    }
    /// The same in any bucket.
    pub fn url_of(&self, bucket: &str, prefix: &str) -> StoreUrl {
        let text = format!("s3://{bucket}/{prefix}?endpoint={}&region={REGION}", self.endpoint());
        StoreUrl::parse(&text, std::path::Path::new("/")).unwrap()
    }
    /// Settings with the key that the server knows.
    pub fn settings(&self) -> StoreSettings {
        let secret = SecretSource::Value(SECRET_KEY.to_owned().into());
        let credentials = Credentials::AccessKey { id: ACCESS_KEY.into(), secret, session_token: None };
        let provider = ProviderSettings { credentials, ..ProviderSettings::default() };
        StoreSettings { provider, ..StoreSettings::default() }
    }
    /// The same key for a process.
    pub fn environment(&self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
    }
    /// Looks at, or changes, the bucket behind everybody's back.
    pub fn bucket<T>(&self, work: impl FnOnce(&mut Bucket) -> T) -> T {
        work(self.service.buckets().get_mut(BUCKET).expect("the bucket of the tests"))
    }
    /// Plans a fault. Faults are used up in the order of planning.
    pub fn fault(&self, fault: Fault) {
        lock(&self.door.faults).push_back(fault);
    }
    /// Whether all planned faults were used up.
    pub fn faults_are_over(&self) -> bool {
        lock(&self.door.faults).is_empty()
    }
    /// Nothing is answered any more, and every connection breaks; or all is well again.
    pub fn down(&self, down: bool) {
        self.door.down.store(down, Ordering::SeqCst);
    }
    /// How many requests of the operation came so far.
    pub fn count(&self, operation: &str) -> usize {
        lock(&self.door.seen).iter().filter(|s| s.operation == operation).count()
    }
    /// Requests so far, by operation.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        lock(&self.door.seen).iter().for_each(|s| *counts.entry(s.operation).or_default() += 1);
        counts
    }
    /// All requests so far; forgets them.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.door.seen))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operation that method, path and query stand for.
fn operation<B>(request: &Request<B>) -> &'static str {
    let of_object = request.uri().path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|q| q.split('=').next() == Some(name));
    let method = request.method();
    match (of_object, method) {
        (true, &Method::PUT) if !asks("retention") && !asks("legal-hold") => "PutObject",
        (true, &Method::GET) => "GetObject",
        (true, &Method::HEAD) => "HeadObject",
        (true, &Method::DELETE) => "DeleteObject",
        (false, &Method::POST) if asks("delete") => "DeleteObjects",
        (false, &Method::GET) if asks("list-type") => "ListObjectsV2",
        (false, &Method::GET) if asks("versions") => "ListObjectVersions",
        (false, &Method::HEAD) => "HeadBucket",
        _ => "other",
    }
}

fn broken(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, why.to_owned())
}

async fn pass(door: Arc<Door>, s3: S3Service, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let operation = operation(&request);
    lock(&door.seen).push(Seen { operation, path: request.uri().path().to_owned(), headers: request.headers().clone() });
    if door.down.load(Ordering::SeqCst) {
        return Err(broken("down"));
    }
    let fault = next_fault(&door, operation);
    let Some(fault) = fault else { return serve(&s3, request).await };
    tokio::time::sleep(fault.delay).await;
    match fault.act {
        Act::Serve => serve(&s3, request).await,
        Act::Silence => std::future::pending().await,
        Act::Reset => {
            if fault.carried_out {
                serve(&s3, request).await?;
            }
            Err(broken("reset"))
        }
        Act::Answer { status, headers, body } => {
            // A body that nobody reads would be a reset, in whose way the answer gets lost.
            match fault.carried_out {
                true => drop(serve(&s3, request).await?),
                false => drop(request.into_body().collect().await),
            }
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            Ok(answer.body(Full::new(Bytes::from(body)).map_err(never).boxed_unsync()).unwrap())
        }
        Act::CutBody(at) => altered(&s3, request, |body| (body.slice(..at.min(body.len())), Some(true))).await,
        Act::StallBody(at) => altered(&s3, request, |body| (body.slice(..at.min(body.len())), Some(false))).await,
        Act::FlipBit(at) => {
            altered(&s3, request, |body| {
                let mut bytes = BytesMut::from(&body[..]);
                let at = at % bytes.len();
                bytes[at] ^= 1;
                (bytes.freeze(), None)
            })
            .await
        }
    }
}

fn never(e: Infallible) -> std::io::Error {
    match e {}
}

fn next_fault(door: &Door, operation: &str) -> Option<Fault> {
    let mut faults = lock(&door.faults);
    let at = faults.iter().position(|f| f.operation.is_none_or(|o| o == operation))?;
    let fault = faults[at].clone();
    faults[at].times -= 1;
    if faults[at].times == 0 {
        faults.remove(at);
    }
    Some(fault)
}

async fn serve(s3: &S3Service, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let answer = s3.call(request.map(s3s::Body::from)).await.map_err(|e| broken(&format!("{e:?}")))?;
    Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
}

/// Serves, but sends another body under the same headers; what follows it is a break (`true`) or nothing at all.
async fn altered(
    s3: &S3Service,
    request: Request<Incoming>,
    change: impl FnOnce(Bytes) -> (Bytes, Option<bool>),
) -> Result<Response<Body>, std::io::Error> {
    let (mut head, body) = serve(s3, request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    head.headers.insert("content-length", body.len().into());
    let (sent, end) = change(body);
    let first = stream::iter([Ok(Frame::data(sent))]);
    let body = match end {
        None => StreamBody::new(first).boxed_unsync(),
        Some(true) => {
            let cut = stream::once(async {
                // What was sent before gets its way first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(broken("cut"))
            });
            StreamBody::new(first.chain(cut)).boxed_unsync()
        }
        Some(false) => StreamBody::new(first.chain(stream::pending())).boxed_unsync(),
    };
    Ok(Response::from_parts(head, body))
}
