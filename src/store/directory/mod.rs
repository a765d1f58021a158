//! A store in a local directory: objects are files that appear whole, once, and survive a crash.
//!
//! An object is written to `tmp/`, synced, then linked to its name: the link fails if the name exists, for every
//! process and machine on the file system alike. Everything is reached through a handle on the root, so that a
//! file system that goes away is an error and never an empty directory to be filled anew.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::clock::Env;
use crate::store::directory::files::Files;
use crate::store::directory::walk::Walk;
use crate::store::error::StoreError;
use crate::store::name::{ObjectName, RESERVED};
use crate::store::{ObjectInfo, Store, admit};

mod files;
mod inspect;
mod walk;

/// A store in a directory of a local or shared file system. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryStore {
    env: Env,
    files: Arc<Files>,
}

impl DirectoryStore {
    /// Opens the directory `root` as the store `label`; with `create`, makes it and what is missing above it.
    /// `NotFound` if it is missing. Waits for the file system.
    pub fn open(env: &Env, label: &str, root: PathBuf, create: bool) -> Result<DirectoryStore, StoreError> {
        let files = Files::open(label, root, create)?;
        Ok(DirectoryStore { env: env.clone(), files: Arc::new(files) })
    }

    async fn blocking<T: Send + 'static>(&self, job: impl FnOnce(&Files) -> T + Send + 'static) -> T {
        let files = Arc::clone(&self.files);
        self.env.blocking(move || job(&files)).await
    }
}

impl Store for DirectoryStore {
    fn label(&self) -> &str {
        self.files.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            admit(self.files.label(), name, bytes.len())?;
            let temporary = format!("{RESERVED}/{}", hex::encode(self.env.random::<16>()));
            let name = name.clone();
            self.blocking(move |files| files.put(&name, &bytes, &temporary)).await
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let name = name.clone();
        Box::pin(self.blocking(move |files| files.get(&name, range.as_ref())))
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        let name = name.clone();
        Box::pin(self.blocking(move |files| files.stat(&name)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let walk = Walk::new(prefix);
        stream::unfold((Some(walk), VecDeque::new()), move |(mut walk, mut page)| async move {
            if page.is_empty() {
                let mut under_way = walk.take()?;
                let (result, under_way) = self.blocking(move |files| (under_way.page(files), under_way)).await;
                match result {
                    Ok(next) => (page, walk) = (next, Some(under_way)),
                    // The walk is over: what comes after a fault would not be complete.
                    Err(e) => return Some((Err(e), (None, VecDeque::new()))),
                }
            }
            page.pop_front().map(|info| (Ok(info), (walk, page)))
        })
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        let names = names.to_vec();
        Box::pin(
            self.blocking(move |files| {
                names.into_iter().filter_map(|name| files.delete(&name).err().map(|e| (name, e))).collect()
            }),
        )
    }
}
