//! The proxy's way with HTTP/2: request by request, as with HTTP/1.1, each on a stream of its own.
//!
//! A reset or a cut breaks the whole connection, with all that is under way on it; a stall concerns its own stream only.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Request, Response, Uri, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::door::{Body, whole};
use crate::support::proxy::{Answer, Fault, Shared};
use crate::support::wire::{Pace, Wire};

/// Serves a connection to its end. An error: it is to be reset.
pub async fn streams(shared: &Arc<Shared>, client: &mut Wire) -> io::Result<()> {
    let (broken, shared) = (Arc::new(Notify::new()), shared.clone());
    let breaks = broken.clone();
    let serve = hyper::service::service_fn(move |request| {
        let (shared, broken) = (shared.clone(), broken.clone());
        async move {
            let answered = answer(&shared, &broken, request).await;
            match answered {
                Ok(answer) => Ok::<_, io::Error>(answer),
                // Whatever broke on the way breaks for the client, too.
                Err(_) => {
                    broken.notify_one();
                    pending().await
                }
            }
        }
    });
    let served = server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(client.rest()), serve);
    tokio::select! {
        ended = served => ended.map_err(io::Error::other),
        () = breaks.notified() => Err(io::Error::other("reset")),
    }
}

async fn answer(shared: &Shared, broken: &Arc<Notify>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    let fault = shared.note(request.method().as_str(), target);
    match &fault {
        Some(Fault::ResetBefore) => return Err(io::Error::other("reset")),
        Some(Fault::Down) => {
            shared.go_down();
            return pending().await;
        }
        Some(Fault::StallBefore) => return pending().await,
        Some(Fault::Answer(answer)) => {
            all(request.into_body(), shared.pace()).await?;
            return Ok(made_up(answer));
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    let (mut head, body) = request.into_parts();
    let (mut body, _) = all(body, shared.pace()).await?;
    match &fault {
        Some(Fault::FlipSent(at)) => flip(&mut body, *at),
        Some(Fault::Without(name)) => {
            head.headers.remove(*name);
            head.uri = without(head.uri, name);
        }
        _ => {}
    }
    // One connection to the server for each request: what a fault breaks here concerns no other.
    let io = TokioIo::new(TcpStream::connect(shared.server()).await?);
    let (mut sender, line) = client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
    let line = tokio::spawn(line);
    let request = Request::from_parts(head, Full::new(body.freeze()));
    let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let (mut body, trailers) = all(body, shared.pace()).await?;
    line.abort();
    match fault {
        Some(Fault::ResetAfter) => return Err(io::Error::other("reset")),
        Some(Fault::StallAfter) => return pending().await,
        Some(Fault::AnswerAfter(answer)) => return Ok(made_up(&answer)),
        Some(Fault::Flip(at)) => flip(&mut body, at),
        Some(Fault::StallInBody(bytes)) if bytes < body.len() as u64 => {
            let first = stream::iter([Ok(Frame::data(body.split_to(bytes as usize).freeze()))]);
            return Ok(Response::from_parts(head, StreamBody::new(first.chain(stream::pending())).boxed_unsync()));
        }
        Some(Fault::Cut(bytes)) if bytes < body.len() as u64 => {
            let first = stream::iter([Ok(Frame::data(body.split_to(bytes as usize).freeze()))]);
            let broken = broken.clone();
            let end = stream::once(async move {
                // What was sent before gets its way first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                broken.notify_one();
                pending().await
            });
            return Ok(Response::from_parts(head, StreamBody::new(first.chain(end)).boxed_unsync()));
        }
        _ => {}
    }
    let body = match trailers {
        None => whole(body.freeze()),
        Some(trailers) => {
            let frames = [Ok(Frame::data(body.freeze())), Ok(Frame::trailers(trailers))];
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
    };
    Ok(Response::from_parts(head, body))
}

/// All of a body and its trailers, as fast as the line allows.
async fn all(mut body: Incoming, pace: &Pace) -> io::Result<(BytesMut, Option<HeaderMap>)> {
    let (mut bytes, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(io::Error::other)?.into_data() {
            Ok(data) => {
                pace.wait(data.len()).await;
                bytes.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes, trailers))
}

fn flip(body: &mut BytesMut, at: u64) {
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| body.get_mut(at)) {
        *byte ^= 1;
    }
}

fn made_up(answer: &Answer) -> Response<Body> {
    let mut made = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        made = made.header(name, value);
    }
    made.body(whole(Bytes::from(answer.body.clone()))).expect("a test's own answer")
}

/// The address without this parameter of its query.
fn without(uri: Uri, name: &str) -> Uri {
    let mut parts = uri.into_parts();
    parts.path_and_query = parts.path_and_query.map(|whole| {
        let left = whole.query().unwrap_or_default().split('&').filter(|p| p.split('=').next() != Some(name));
        let left = left.collect::<Vec<_>>().join("&");
        PathAndQuery::try_from(format!("{}?{left}", whole.path())).expect("a part of what was one")
    });
    Uri::from_parts(parts).expect("it was one")
}
