//! Somebody who watches scheduled jobs, in the test process: takes whatever is posted, keeps it, and answers as told.

use std::sync::{Arc, Mutex};

use futures::future::FutureExt;
use http_body_util::BodyExt;
use hyper::Response;

use crate::support::door::{Door, Service, lock, whole};

/// What was posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Path and query.
    pub target: String,
    /// The body.
    pub body: String,
}

/// A listening watcher.
pub struct Watcher {
    /// Where it listens, and what it is told to do.
    pub door: Door,
    posted: Arc<Mutex<Vec<Posted>>>,
    deleted: Arc<Mutex<Vec<Posted>>>,
}

impl Watcher {
    /// Starts to listen; everything is welcome.
    pub fn start() -> Watcher {
        let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let deleted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let (keep, taken) = (posted.clone(), deleted.clone());
        let door = Door::open(
            None,
            |request| if request.method() == "POST" { "post" } else { "other" },
            move |_| -> Service {
                Arc::new(move |request| {
                    let (keep, taken) = (keep.clone(), taken.clone());
                    async move {
                        let posts = request.method() == "POST";
                        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
                        let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
                        let body = String::from_utf8_lossy(&body).into_owned();
                        lock(if posts { &keep } else { &taken }).push(Posted { target, body });
                        Ok(Response::new(whole("OK")))
                    }
                    .boxed()
                })
            },
        );
        Watcher { door, posted, deleted }
    }

    /// An address at this watcher.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.door.endpoint())
    }

    /// Where something was to be deleted so far; forgets it.
    pub fn deleted(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.deleted)).into_iter().map(|one| one.target).collect()
    }

    /// All that was posted so far; forgets it.
    pub fn take(&self) -> Vec<Posted> {
        std::mem::take(&mut *lock(&self.posted))
    }
}
