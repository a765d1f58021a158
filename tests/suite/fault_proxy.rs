//! The proxy of the fault tests does what it is told, and only that.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, client};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::support::authority::Authority;
use crate::support::proxy::{Answer, Fault, Proxy, Rule};
use crate::support::wire::{Body, Io, Wire};

/// A server that answers every request with its body, twice over, and counts.
async fn echo() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let count = served.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                let count = count.clone();
                async move {
                    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from([&body[..], &body[..]].concat()))))
                }
            });
            tokio::spawn(
                async move { auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await },
            );
        }
    });
    (address, served)
}

/// One request on a connection of its own: status and digest of the body; or whether it took too long.
async fn ask(proxy: &Proxy, tls: Option<&Authority>, http2: bool, sent: &[u8]) -> Result<(u16, blake3::Hash), bool> {
    let work = async {
        let stream = TcpStream::connect(proxy.address()).await?;
        let stream: Box<dyn Io> = match tls {
            None => Box::new(stream),
            Some(authority) => {
                let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
                Box::new(authority.connector().connect(name, stream).await?)
            }
        };
        if http2 {
            let shaken = client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut sender, line) = shaken.map_err(io::Error::other)?;
            tokio::spawn(line);
            let request = Request::put("http://here/a?b").body(Full::new(Bytes::copy_from_slice(sent)));
            let answer = sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
            return Ok((status, blake3::hash(&body)));
        }
        let mut wire = Wire::new(stream);
        let head = format!("PUT /a?b HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n", sent.len());
        wire.send(&[head.as_bytes(), sent].concat()).await?;
        let head = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let Body::Length(length) = head.answer_body() else { return Err(io::Error::other("no length")) };
        let body = wire.exactly(length as usize).await?;
        Ok((head.second.parse().map_err(io::Error::other)?, blake3::hash(&body)))
    };
    tokio::time::timeout(Duration::from_secs(3), work).await.map_err(|_| true)?.map_err(|_: io::Error| false)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_does_what_it_is_told() {
    let authority = Authority::new();
    for (tls, http2) in [(None, false), (Some(&authority), false), (None, true), (Some(&authority), true)] {
        let (server, served) = echo().await;
        let proxy = Proxy::start(server, tls.map(|authority| authority.acceptor(http2))).await;
        let sent = vec![7; 50_000];
        let ask = async || ask(&proxy, tls, http2, &sent).await;
        let whole = Ok((200, blake3::hash(&[7; 100_000])));
        assert_eq!(ask().await, whole);
        let made_up = Answer::xml(429, "<slow/>").with("retry-after", "1");
        let flipped = |at: &[usize]| {
            let mut bytes = vec![7; 100_000];
            at.iter().for_each(|at| bytes[*at] ^= 1);
            Ok((200, blake3::hash(&bytes)))
        };
        let table = [
            (Fault::ResetBefore, 0, Err(false)),
            (Fault::ResetAfter, 1, Err(false)),
            (Fault::StallBefore, 0, Err(true)),
            (Fault::StallAfter, 1, Err(true)),
            (Fault::StallInBody(60_000), 1, Err(true)),
            (Fault::Cut(60_000), 1, Err(false)),
            (Fault::Flip(99_999), 1, flipped(&[99_999])),
            (Fault::FlipSent(40_000), 1, flipped(&[40_000, 90_000])),
            (Fault::Answer(made_up.clone()), 0, Ok((429, blake3::hash(b"<slow/>")))),
            (Fault::AnswerAfter(made_up), 1, Ok((429, blake3::hash(b"<slow/>")))),
            (Fault::Delay(Duration::from_millis(300)), 1, whole),
        ];
        for (fault, reached, ends) in table {
            let before = served.load(Ordering::SeqCst);
            proxy.inject(Rule::new(fault.clone()).method("PUT").path("/a?b").times(1));
            proxy.inject(Rule::new(Fault::Down).method("GET"));
            assert_eq!(ask().await, ends, "{fault:?} http2={http2}");
            assert_eq!(served.load(Ordering::SeqCst) - before, reached, "{fault:?}");
            assert_eq!(ask().await, whole, "after {fault:?}");
            proxy.behave();
        }
        assert_eq!(proxy.count("PUT", "/a?b"), 23);
        assert_eq!(proxy.take().len(), 23);

        proxy.inject(Rule::new(Fault::Down).skip(1));
        assert_eq!([ask().await, ask().await, ask().await], [whole, Err(false), Err(false)]);
        assert!(proxy.is_down());
        proxy.behave();
        proxy.up();
        assert_eq!(ask().await, whole);

        proxy.bandwidth(Some(300_000));
        let began = Instant::now();
        assert_eq!(ask().await, whole);
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
        proxy.bandwidth(None);

        proxy.inject(Rule::new(Fault::ResetBefore).percent(1, 30));
        let mut lost = 0;
        for _ in 0..40 {
            lost += usize::from(ask().await.is_err());
        }
        assert!((4..25).contains(&lost), "{lost} of 40");
    }
}
