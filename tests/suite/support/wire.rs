//! Just enough of HTTP/1.1 to stand between two ends of it: heads and bodies.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{client, server};

/// Largest head of a message that is taken.
const HEAD_MAX: usize = 1 << 20;
/// Pieces in which bodies are passed on.
const PIECE: usize = 16 << 10;

/// So many bytes per second, over everything that asks it.
#[derive(Default)]
pub struct Pace(Mutex<(Option<u64>, Option<Instant>)>);

impl Pace {
    /// From now on this many; `None`: as fast as it goes.
    pub fn set(&self, rate: Option<u64>) {
        self.0.lock().expect("no panic while pacing").0 = rate;
    }

    /// Waits until `bytes` more may pass.
    pub async fn wait(&self, bytes: usize) {
        let until = {
            let mut state = self.0.lock().expect("no panic while pacing");
            let Some(rate) = state.0 else { return };
            let now = Instant::now();
            let until = state.1.unwrap_or(now).max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            state.1 = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

/// A connection that can be reset.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    /// From now on, closing it resets it.
    fn sharpen(&self);
}

impl Io for TcpStream {
    fn sharpen(&self) {
        self.set_zero_linger().ok();
    }
}

impl Io for Box<dyn Io> {
    fn sharpen(&self) {
        (**self).sharpen();
    }
}

impl Io for server::TlsStream<TcpStream> {
    fn sharpen(&self) {
        self.get_ref().0.sharpen();
    }
}

impl Io for client::TlsStream<TcpStream> {
    fn sharpen(&self) {
        self.get_ref().0.sharpen();
    }
}

/// One end, and what was read from it but not used.
pub struct Wire {
    io: Box<dyn Io>,
    /// Read and not used.
    pub have: BytesMut,
}

/// The head of a message, as it came, and its first line in words: method, target; or version, status.
#[derive(Debug)]
pub struct Head {
    /// As it came, the empty line included.
    pub raw: Bytes,
    /// Method of a request, version of an answer.
    pub first: String,
    /// Target of a request, status of an answer.
    pub second: String,
    headers: Vec<(String, String)>,
}

/// How the body behind a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What is done to a body on its way, by payload bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tamper {
    /// Nothing passes after so many.
    pub stop: Option<u64>,
    /// This one is flipped.
    pub flip: Option<u64>,
}

impl Head {
    fn parse(raw: Bytes) -> io::Result<Head> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(first), Some(second)) = (words.next(), words.next()) else { return Err(io::Error::other("no HTTP")) };
        let header = |line: &str| line.split_once(':').map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()));
        let headers = lines.filter_map(header).collect();
        Ok(Head { raw, first: first.into(), second: second.into(), headers })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a header has this value.
    pub fn says(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|v| v.eq_ignore_ascii_case(value))
    }

    /// The head of a request as it came, but without this header, or this parameter of the query.
    pub fn without(&self, name: &str) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.raw).into_owned();
        let named = |line: &str| line.split_once(':').is_some_and(|(n, _)| n.trim().eq_ignore_ascii_case(name));
        let mut lines: Vec<String> = text.split("\r\n").filter(|line| !named(line)).map(str::to_owned).collect();
        if let Some((path, query)) = self.second.split_once('?') {
            let left: Vec<_> = query.split('&').filter(|p| p.split('=').next() != Some(name)).collect();
            lines[0] = lines[0].replace(&self.second, &format!("{path}?{}", left.join("&")));
        }
        lines.join("\r\n").into_bytes()
    }

    fn body(&self) -> Option<Body> {
        if self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
            return Some(Body::Chunked);
        }
        self.header("content-length").and_then(|v| v.parse().ok()).map(Body::Length)
    }

    /// The body of a request with this head.
    pub fn request_body(&self) -> Body {
        self.body().unwrap_or(Body::None)
    }

    /// The body of an answer with this head, to anything but HEAD.
    pub fn answer_body(&self) -> Body {
        if ["204", "304"].contains(&self.second.as_str()) {
            return Body::None;
        }
        self.body().unwrap_or(Body::UntilClose)
    }
}

impl Wire {
    /// Around an open connection.
    pub fn new(io: impl Io + 'static) -> Wire {
        Wire { io: Box::new(io), have: BytesMut::new() }
    }

    /// Reads something; whether there was anything.
    pub async fn more(&mut self) -> io::Result<bool> {
        // A buffer that is full would grow by a few bytes each time.
        self.have.reserve(PIECE);
        Ok(self.io.read_buf(&mut self.have).await? > 0)
    }

    /// The next `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Bytes> {
        while self.have.len() < count {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.have.split_to(count).freeze())
    }

    /// Everything up to and with `end`; nothing when the connection ends first.
    async fn until(&mut self, end: &[u8]) -> io::Result<Option<Bytes>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.have[from..].windows(end.len()).position(|w| w == end) {
                return Ok(Some(self.have.split_to(from + at + end.len()).freeze()));
            }
            from = self.have.len().saturating_sub(end.len());
            if self.have.len() > HEAD_MAX {
                return Err(io::Error::other("the head is too long"));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// The next message's head; nothing when the other end has gone.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        self.until(b"\r\n\r\n").await?.map(Head::parse).transpose()
    }

    /// Sends all of it.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Waits until the other end has gone, whatever it still sends.
    pub async fn gone(&mut self) -> io::Result<()> {
        while self.more().await? {
            self.have.clear();
        }
        Ok(())
    }

    /// Ends it in good manners: what was sent arrives.
    pub async fn end(&mut self) -> io::Result<()> {
        self.io.shutdown().await?;
        self.gone().await
    }

    /// Ends it without manners.
    pub fn reset(self) {
        self.io.sharpen();
    }

    /// All that comes and goes from here on, for whoever speaks in another way.
    pub fn rest(&mut self) -> impl AsyncRead + AsyncWrite + Unpin + Send {
        let (reading, writing) = tokio::io::split(&mut self.io);
        tokio::io::join(io::Cursor::new(self.have.split()).chain(reading), writing)
    }
}

/// Passes a body on, or only reads it. Whether all of it passed.
pub async fn pass(from: &mut Wire, mut to: Option<&mut Wire>, body: Body, mut tamper: Tamper, pace: &Pace) -> io::Result<bool> {
    match body {
        Body::None => Ok(true),
        Body::Length(length) => payload(from, &mut to, Some(length), &mut tamper, pace).await,
        Body::UntilClose => payload(from, &mut to, None, &mut tamper, pace).await,
        Body::Chunked => loop {
            let Some(line) = from.until(b"\r\n").await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let text = String::from_utf8_lossy(&line).into_owned();
            let digits = text.trim_end().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if size > 0 && tamper.stop == Some(0) {
                return Ok(false);
            }
            onward(&mut to, &line).await?;
            if size > 0 && !payload(from, &mut to, Some(size), &mut tamper, pace).await? {
                return Ok(false);
            }
            // The end of a chunk; behind the last one the trailers, up to an empty line.
            loop {
                let Some(line) = from.until(b"\r\n").await? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
                onward(&mut to, &line).await?;
                if line.len() == 2 {
                    break;
                }
            }
            if size == 0 {
                return Ok(true);
            }
        },
    }
}

async fn onward(to: &mut Option<&mut Wire>, bytes: &[u8]) -> io::Result<()> {
    match to {
        Some(to) => to.send(bytes).await,
        None => Ok(()),
    }
}

async fn payload(
    from: &mut Wire,
    to: &mut Option<&mut Wire>,
    mut left: Option<u64>,
    tamper: &mut Tamper,
    pace: &Pace,
) -> io::Result<bool> {
    while left != Some(0) {
        if from.have.is_empty() && !from.more().await? {
            return if left.is_none() { Ok(true) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let most = tamper.stop.unwrap_or(u64::MAX).min(left.unwrap_or(u64::MAX)).min(PIECE as u64);
        if most == 0 {
            return Ok(false);
        }
        let count = from.have.len().min(most as usize);
        let mut piece = from.have.split_to(count);
        if let Some(at) = tamper.flip {
            if let Some(byte) = usize::try_from(at).ok().and_then(|at| piece.get_mut(at)) {
                *byte ^= 1;
                tamper.flip = None;
            } else {
                tamper.flip = Some(at - count as u64);
            }
        }
        tamper.stop = tamper.stop.map(|n| n - count as u64);
        left = left.map(|n| n - count as u64);
        pace.wait(count).await;
        onward(to, &piece).await?;
    }
    Ok(true)
}
