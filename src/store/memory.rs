//! A store in memory: for tests and simulation, one shared map behind cloneable handles.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::clock::{Env, Time};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;
use crate::store::{ObjectInfo, Store, admit, within};

/// Objects shown per look at the map. A listing is not one moment, here as elsewhere.
const PAGE: usize = 1000;

/// Names whose bodies a discarding store drops: the bulk of what a backup writes.
const DISCARDED: [&str; 3] = ["data", "meta", "index"];

/// A store in memory. A clone is another handle onto the same objects.
#[derive(Clone)]
pub struct MemoryStore {
    label: Arc<str>,
    env: Env,
    discarding: bool,
    objects: Arc<Mutex<BTreeMap<ObjectName, Object>>>,
}

struct Object {
    size: u64,
    body: Option<Bytes>,
    modified: Time,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(env: &Env, label: &str) -> MemoryStore {
        MemoryStore { label: label.into(), env: env.clone(), discarding: false, objects: Arc::default() }
    }

    /// An empty store that remembers only the sizes of objects under `data/`, `meta/` and `index/`: reading one is `Corrupt`.
    pub fn discarding(env: &Env, label: &str) -> MemoryStore {
        MemoryStore { discarding: true, ..MemoryStore::new(env, label) }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Object>> {
        // Every change under the lock is a single insert or remove: a panic elsewhere leaves the map whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, kind: StoreErrorKind, verb: &str, name: &ObjectName) -> StoreError {
        StoreError::new(kind, &self.label, format!("{verb} {name}"))
    }

    fn page(&self, prefix: &str, after: Option<&ObjectName>) -> VecDeque<ObjectInfo> {
        let from = after.map_or(Bound::Included(prefix), |name| Bound::Excluded(name.as_str()));
        self.objects()
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .take(PAGE)
            .map(|(name, o)| ObjectInfo { name: name.clone(), size: o.size, modified: o.modified })
            .collect()
    }
}

impl Store for MemoryStore {
    fn label(&self) -> &str {
        &self.label
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            admit(&self.label, name, bytes.len())?;
            let mut objects = self.objects();
            if objects.contains_key(name) {
                return Err(self.fault(StoreErrorKind::AlreadyExists, "put", name));
            }
            let size = bytes.len() as u64;
            // A copy of its own: the caller's bytes may be a buffer that it waits to have back.
            let keeps = !self.discarding || !DISCARDED.contains(&name.first());
            let body = keeps.then(|| Bytes::copy_from_slice(&bytes));
            objects.insert(name.clone(), Object { size, body, modified: self.env.now() });
            Ok(())
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let objects = self.objects();
            let object = objects.get(name).ok_or_else(|| self.fault(StoreErrorKind::NotFound, "get", name))?;
            let (start, length) = within(&self.label, name, range.as_ref(), object.size)?;
            let body = object.body.as_ref().ok_or_else(|| {
                self.fault(StoreErrorKind::Corrupt, "get", name).because("this store keeps no bodies of such objects")
            })?;
            let start = usize::try_from(start).expect("a place within an object that fits in memory");
            Ok(body.slice(start..start + length))
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            Ok(self.objects().get(name).map(|o| ObjectInfo { name: name.clone(), size: o.size, modified: o.modified }))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let first: (Option<ObjectName>, VecDeque<ObjectInfo>) = (None, VecDeque::new());
        stream::unfold(first, move |(last, mut page)| async move {
            if page.is_empty() {
                page = self.page(prefix, last.as_ref());
            }
            let info = page.pop_front()?;
            let last = Some(info.name.clone());
            Some((Ok(info), (last, page)))
        })
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            let mut objects = self.objects();
            for name in names {
                objects.remove(name);
            }
            Vec::new()
        })
    }
}
