//! A proxy between a store and its server that misbehaves on purpose, over plain TCP or TLS.
//!
//! `Proxy::start(server, tls)`, where `tls` comes of an `Authority`, then `inject` rules: the first rule that fits a request and is due decides what
//! happens to it. HTTP/1.1 and HTTP/2 are understood request by request, bodies included.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::support::proxy_h2::streams;
use crate::support::wire::{Body, Head, Pace, Tamper, Wire, pass};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Reset: the server never sees the request.
    ResetBefore,
    /// The server answered, its answer is swallowed, the connection reset.
    ResetAfter,
    /// The server never sees the request, and the connection stays open without a byte.
    StallBefore,
    /// The server answered, and no byte of it comes through.
    StallAfter,
    /// Head and that many bytes of the body come through, then nothing.
    StallInBody(u64),
    /// Head and that many bytes of the body come through, then the connection ends.
    Cut(u64),
    /// This byte of the answer's body comes through flipped.
    Flip(u64),
    /// This byte of the request's body reaches the server flipped.
    FlipSent(u64),
    /// Answered in the server's place: it never sees the request.
    Answer(Answer),
    /// The server's answer is replaced.
    AnswerAfter(Answer),
    /// Goes on after a while.
    Delay(Duration),
    /// The server sees the request without this header, or this parameter of its query.
    Without(&'static str),
    /// The server never sees the request and is gone from now on, until [`Proxy::up`].
    Down,
}

/// An answer made up.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header lines, without length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// An answer with an XML body.
    pub fn xml(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, headers: vec![("content-type".into(), "application/xml".into())], body: body.into() }
    }
    /// An answer with a JSON body.
    pub fn json(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, headers: vec![("content-type".into(), "application/json".into())], body: body.into() }
    }
    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn bytes(&self, head_only: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} Made Up\r\ncontent-length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            out += &format!("{name}: {value}\r\n");
        }
        out += "\r\n";
        if !head_only {
            out += &self.body;
        }
        out.into_bytes()
    }
}

/// When a fault happens: to requests of a method, with a part in their path, from some on, so many times, by chance.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    methods: Vec<&'static str>,
    path: String,
    skip: u64,
    times: u64,
    chance: Option<(u64, u64)>,
    met: u64,
    done: u64,
}

impl Rule {
    /// To every request, always.
    pub fn new(fault: Fault) -> Rule {
        let (path, chance) = (String::new(), None);
        Rule { fault, methods: Vec::new(), path, skip: 0, times: u64::MAX, chance, met: 0, done: 0 }
    }
    /// Only to requests of this method, or one of those named so far.
    pub fn method(mut self, method: &'static str) -> Rule {
        self.methods.push(method);
        self
    }
    /// Only to requests that have this in their path or query, as it stands on the wire.
    pub fn path(mut self, part: &str) -> Rule {
        self.path = part.into();
        self
    }
    /// Not to the first `requests` that fit.
    pub fn skip(mut self, requests: u64) -> Rule {
        self.skip = requests;
        self
    }
    /// At most so many times.
    pub fn times(mut self, times: u64) -> Rule {
        self.times = times;
        self
    }
    /// To so many of a hundred, drawn from `seed`.
    pub fn percent(mut self, seed: u64, percent: u64) -> Rule {
        self.chance = Some((seed, percent));
        self
    }

    fn strikes(&mut self, method: &str, target: &str) -> Option<Fault> {
        if !(self.methods.is_empty() || self.methods.contains(&method)) || !target.contains(&self.path) {
            return None;
        }
        self.met += 1;
        let drawn = |seed: u64| {
            let hash = blake3::hash(&[seed.to_le_bytes(), self.met.to_le_bytes()].concat());
            u64::from(hash.as_bytes()[0]) * 100 / 256
        };
        let due = self.met > self.skip && self.done < self.times && self.chance.is_none_or(|(seed, p)| drawn(seed) < p);
        self.done += u64::from(due);
        due.then(|| self.fault.clone())
    }
}

/// A request that came by: method, and path with query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    connections: u64,
}

/// What all connections of a proxy have in common.
pub struct Shared {
    server: SocketAddr,
    tls: Option<TlsAcceptor>,
    state: Mutex<State>,
    pace: Pace,
    down: watch::Sender<bool>,
}

/// A running proxy; it ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.down.send_replace(true);
    }
}

impl Proxy {
    /// Listens on a free port of the loopback address, on the runtime of the caller.
    pub async fn start(server: SocketAddr, tls: Option<TlsAcceptor>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared =
            Arc::new(Shared { server, tls, state: Mutex::default(), pace: Pace::default(), down: watch::Sender::new(false) });
        let all = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(all.clone(), client));
            }
        });
        Proxy { address, shared, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to name as the store's endpoint.
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// One more rule; earlier ones are asked first.
    pub fn inject(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Behaves again.
    pub fn behave(&self) {
        self.shared.state().rules.clear();
    }

    /// Bytes per second, both ways and all connections together.
    pub fn bandwidth(&self, bytes: Option<u64>) {
        self.shared.pace.set(bytes);
    }

    /// Kills the server, as far as its clients can tell: connections are reset, and so is each new one.
    pub fn down(&self) {
        self.shared.down.send_replace(true);
    }

    /// The server is back.
    pub fn up(&self) {
        self.shared.down.send_replace(false);
    }

    /// Whether the server is gone.
    pub fn is_down(&self) -> bool {
        *self.shared.down.borrow()
    }

    /// The requests since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.state().seen)
    }

    /// How many requests of this method with this in their path came by since the last `take`.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.shared.state().seen.iter().filter(|s| s.method == method && s.target.contains(path)).count()
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the proxy")
    }

    /// Where the server is.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// How fast bytes may pass.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// The server is gone, for every connection.
    pub fn go_down(&self) {
        self.down.send_replace(true);
    }

    /// Notes a request and decides its fate.
    pub fn note(&self, method: &str, target: &str) -> Option<Fault> {
        let mut state = self.state();
        state.seen.push(Seen { method: method.into(), target: target.into() });
        state.rules.iter_mut().find_map(|rule| rule.strikes(method, target))
    }
}

async fn connection(shared: Arc<Shared>, client: TcpStream) {
    let mut down = shared.down.subscribe();
    shared.state().connections += 1;
    client.set_nodelay(true).ok();
    if *down.borrow() {
        client.set_zero_linger().ok();
        return;
    }
    let mut wire = match &shared.tls {
        None => Wire::new(client),
        Some(tls) => match tls.accept(client).await {
            Ok(stream) => Wire::new(stream),
            Err(_) => return,
        },
    };
    let ended = tokio::select! {
        ended = speak(&shared, &mut wire) => ended,
        _ = down.wait_for(|down| *down) => Err(io::Error::other("down")),
    };
    // Whatever broke on the way breaks for the client, too.
    if ended.is_err() {
        wire.reset();
    }
}

async fn speak(shared: &Arc<Shared>, client: &mut Wire) -> io::Result<()> {
    // What HTTP/2 opens with.
    const PREFACE: &[u8] = b"PRI";
    while client.have.len() < PREFACE.len() {
        if !client.more().await? {
            return Ok(());
        }
    }
    if client.have.starts_with(PREFACE) {
        return streams(shared, client).await;
    }
    while let Some(head) = client.head().await? {
        if !exchange(shared, client, head).await? {
            return client.end().await;
        }
    }
    Ok(())
}

fn reset<T>() -> io::Result<T> {
    Err(io::Error::other("reset"))
}

/// One request and its answer; whether the connection goes on.
async fn exchange(shared: &Shared, client: &mut Wire, head: Head) -> io::Result<bool> {
    let fault = shared.note(&head.first, &head.second);
    let pace = &shared.pace;
    let body = head.request_body();
    let head_only = head.first == "HEAD";
    match &fault {
        Some(Fault::ResetBefore) => return reset(),
        Some(Fault::Down) => {
            shared.go_down();
            return reset();
        }
        Some(Fault::StallBefore) => return client.gone().await.map(|()| false),
        Some(Fault::Answer(answer)) => {
            pass(client, None, body, Tamper::default(), pace).await?;
            client.send(&answer.bytes(head_only)).await?;
            return Ok(true);
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    // One connection to the server for each request: what a fault breaks here concerns no other.
    let mut server = Wire::new(TcpStream::connect(shared.server).await?);
    match &fault {
        Some(Fault::Without(name)) => server.send(&head.without(name)).await?,
        _ => server.send(&head.raw).await?,
    }
    if head.says("expect", "100-continue") {
        client.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let tamper = match fault {
        Some(Fault::FlipSent(at)) => Tamper { flip: Some(at), ..Tamper::default() },
        _ => Tamper::default(),
    };
    pass(client, Some(&mut server), body, tamper, pace).await?;
    let answer = loop {
        let Some(answer) = server.head().await? else { return reset() };
        if !answer.second.starts_with('1') {
            break answer;
        }
    };
    let body = if head_only { Body::None } else { answer.answer_body() };
    let tamper = match &fault {
        Some(Fault::ResetAfter) => return reset(),
        Some(Fault::StallAfter) => return client.gone().await.map(|()| false),
        Some(Fault::AnswerAfter(made)) => {
            pass(&mut server, None, body, Tamper::default(), pace).await?;
            client.send(&made.bytes(head_only)).await?;
            return Ok(true);
        }
        Some(Fault::StallInBody(bytes) | Fault::Cut(bytes)) => Tamper { stop: Some(*bytes), ..Tamper::default() },
        Some(Fault::Flip(at)) => Tamper { flip: Some(*at), ..Tamper::default() },
        _ => Tamper::default(),
    };
    client.send(&answer.raw).await?;
    let whole = pass(&mut server, Some(client), body, tamper, pace).await?;
    if !whole && matches!(fault, Some(Fault::StallInBody(_))) {
        client.gone().await?;
    }
    Ok(whole && body != Body::UntilClose && !answer.says("connection", "close") && !head.says("connection", "close"))
}
