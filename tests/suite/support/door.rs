//! What stands in front of every provider's server in the test process: it counts requests by operation, keeps their headers,
//! and does something else with the next ones when told so. It listens on a loopback port of its own and runs on threads of its
//! own, so any test can use it, whatever its runtime; all ends when it is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::authority::Authority;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What answers a request: the provider behind the door.
pub type Service = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>, std::io::Error>> + Send + Sync>;

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
    pub query: String,
    pub headers: HeaderMap,
}

impl Seen {
    /// The header's text, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

#[derive(Default)]
struct Notes {
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<VecDeque<Fault>>,
    down: AtomicBool,
}

/// A listening door.
pub struct Door {
    endpoint: String,
    notes: Arc<Notes>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.runtime.take().expect("it is taken once").shutdown_background();
    }
}

impl Door {
    /// Opens a door, over TLS if somebody vouches for it. `service` is made once the endpoint is known; `operation` names what a
    /// request asks for.
    pub fn open(
        authority: Option<&Authority>,
        operation: fn(&Request<Incoming>) -> &'static str,
        service: impl FnOnce(&str) -> Service,
    ) -> Door {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (notes, service, tls) = (Arc::new(Notes::default()), service(&endpoint), authority.map(|a| a.acceptor(true)));
        let at_the_door = notes.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (service, notes, tls) = (service.clone(), at_the_door.clone(), tls.clone());
                if notes.down.load(Ordering::SeqCst) {
                    continue;
                }
                let serve = hyper::service::service_fn(move |request| pass(notes.clone(), service.clone(), operation, request));
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), serve).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let _ = builder.serve_connection(TokioIo::new(stream), serve).await;
                            }
                        }
                    }
                });
            }
        });
        Door { endpoint, notes, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:port`, or `https:`.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }
    /// Plans a fault. Faults are used up in the order of planning.
    pub fn fault(&self, fault: Fault) {
        lock(&self.notes.faults).push_back(fault);
    }
    /// Whether all planned faults were used up.
    pub fn faults_are_over(&self) -> bool {
        lock(&self.notes.faults).is_empty()
    }
    /// Nothing is answered any more, and every connection breaks; or all is well again.
    pub fn down(&self, down: bool) {
        self.notes.down.store(down, Ordering::SeqCst);
    }
    /// How many requests of the operation came so far.
    pub fn count(&self, operation: &str) -> usize {
        lock(&self.notes.seen).iter().filter(|s| s.operation == operation).count()
    }
    /// Requests so far, by operation.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        lock(&self.notes.seen).iter().for_each(|s| *counts.entry(s.operation).or_default() += 1);
        counts
    }
    /// All requests so far; forgets them.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.notes.seen))
    }
}

/// What a mutex holds, even after a test that panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's end.
pub fn broken(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, why.to_owned())
}

/// A body of which all is known.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e: Infallible| match e {}).boxed_unsync()
}

async fn pass(
    notes: Arc<Notes>,
    service: Service,
    operation: fn(&Request<Incoming>) -> &'static str,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let operation = operation(&request);
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    lock(&notes.seen).push(Seen { operation, path, query, headers: request.headers().clone() });
    if notes.down.load(Ordering::SeqCst) {
        return Err(broken("down"));
    }
    let Some(fault) = next_fault(&notes, operation) else { return service(request).await };
    tokio::time::sleep(fault.delay).await;
    match fault.act {
        Act::Serve => service(request).await,
        Act::Silence => std::future::pending().await,
        Act::Reset => {
            if fault.carried_out {
                service(request).await?;
            }
            Err(broken("reset"))
        }
        Act::Answer { status, headers, body } => {
            // A body that nobody reads would be a reset, in whose way the answer gets lost.
            match fault.carried_out {
                true => drop(service(request).await?),
                false => drop(request.into_body().collect().await),
            }
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            Ok(answer.body(whole(body)).unwrap())
        }
        Act::CutBody(at) => altered(service(request), |body| (body.slice(..at.min(body.len())), Some(true))).await,
        Act::StallBody(at) => altered(service(request), |body| (body.slice(..at.min(body.len())), Some(false))).await,
        Act::FlipBit(at) => {
            altered(service(request), |body| {
                let mut bytes = BytesMut::from(&body[..]);
                let at = at % bytes.len();
                bytes[at] ^= 1;
                (bytes.freeze(), None)
            })
            .await
        }
    }
}

fn next_fault(notes: &Notes, operation: &str) -> Option<Fault> {
    let mut faults = lock(&notes.faults);
    let at = faults.iter().position(|f| f.operation.is_none_or(|o| o == operation))?;
    let fault = faults[at].clone();
    faults[at].times -= 1;
    if faults[at].times == 0 {
        faults.remove(at);
    }
    Some(fault)
}

/// Serves, but sends another body under the same headers; what follows it is a break (`true`) or nothing at all.
async fn altered(
    served: impl Future<Output = Result<Response<Body>, std::io::Error>>,
    change: impl FnOnce(Bytes) -> (Bytes, Option<bool>),
) -> Result<Response<Body>, std::io::Error> {
    let (mut head, body) = served.await?.into_parts();
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
