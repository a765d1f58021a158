//! Faults of the program that are planted on purpose: a simulation that does not find them proves nothing. Some are switches in
//! the program itself, which only an inline `Env` can turn ([`Planted`]); the others stand between it and its stores.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use holdfast::clock::{Env, Planted, Task, Time};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::name::ObjectName;
use holdfast::store::{ObjectInfo, OpenStore, Store};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Something in the program.
    Program(Planted),
    /// An upload counts as done when it begins.
    EarlyReceipts,
    /// One store's failures count as successes.
    OneIgnored,
    /// "Already exists" counts as "created".
    TakenIsDone,
    /// A request that is sent again goes on in the middle of its body.
    ResumedReader,
}

/// Whether an object is one that belongs to its writer alone: not a slot, which is fought for, nor what every opening asks for.
fn is_own(name: &ObjectName) -> bool {
    ["data", "meta", "index", "snapshots"].contains(&name.first())
}

/// What stands below the retries.
pub fn below(bug: Option<Bug>, store: Arc<dyn Store>) -> Arc<dyn Store> {
    match bug {
        Some(Bug::ResumedReader) => Arc::new(Resumed { store, sent: Mutex::default() }),
        _ => store,
    }
}

/// What stands above everything, at the store of this index.
pub fn above(env: &Env, bug: Option<Bug>, at: usize, open: OpenStore) -> OpenStore {
    match bug {
        Some(Bug::EarlyReceipts | Bug::TakenIsDone) => {}
        Some(Bug::OneIgnored) if at == 0 => {}
        _ => return open,
    }
    let bug = bug.expect("one of those");
    let store = Hasty { env: env.clone(), bug, store: open.store, told: Mutex::default(), under_way: Mutex::default() };
    OpenStore { store: Arc::new(store), meter: open.meter }
}

struct Hasty {
    env: Env,
    bug: Bug,
    store: Arc<dyn Store>,
    /// Sizes of what it says is there.
    told: Mutex<BTreeMap<ObjectName, u64>>,
    under_way: Mutex<Vec<Task<()>>>,
}

impl Store for Hasty {
    fn label(&self) -> &str {
        self.store.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let size = bytes.len() as u64;
            let tell = || {
                self.told.lock().expect("no panic while telling").insert(name.clone(), size);
            };
            match self.bug {
                Bug::EarlyReceipts if is_own(name) => {
                    tell();
                    let (store, name) = (self.store.clone(), name.clone());
                    let work = self.env.spawn(async move { drop(store.put(&name, bytes).await) });
                    self.under_way.lock().expect("no panic while starting").push(work);
                    Ok(())
                }
                Bug::OneIgnored if is_own(name) => {
                    tell();
                    drop(self.store.put(name, bytes).await);
                    Ok(())
                }
                Bug::TakenIsDone if name.as_str() != "descriptor" => match self.store.put(name, bytes).await {
                    Err(e) if e.kind == StoreErrorKind::AlreadyExists => Ok(()),
                    result => result,
                },
                _ => self.store.put(name, bytes).await,
            }
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.store.get(name, range)
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let told = self.told.lock().expect("no panic while telling").get(name).copied();
            if let Some(size) = told {
                return Ok(Some(ObjectInfo { name: name.clone(), size, modified: Time(0) }));
            }
            self.store.stat(name).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.store.list(prefix)
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        self.store.delete(names)
    }
}

struct Resumed {
    store: Arc<dyn Store>,
    sent: Mutex<BTreeMap<ObjectName, ()>>,
}

impl Store for Resumed {
    fn label(&self) -> &str {
        self.store.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let again = self.sent.lock().expect("no panic while sending").insert(name.clone(), ()).is_some();
        let rest = if again && name.as_str() != "descriptor" { bytes.slice(bytes.len() / 2..) } else { bytes };
        self.store.put(name, rest)
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.store.get(name, range)
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        self.store.stat(name)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.store.list(prefix)
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        self.store.delete(names)
    }
}
