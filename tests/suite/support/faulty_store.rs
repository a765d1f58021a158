//! A store that fails as planned: call by call, or by a crash at one operation of many.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, pending};
use futures::stream::{self, BoxStream, StreamExt};
use holdfast::clock::Env;
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::store::{ObjectInfo, Store};

/// What happens to one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing out of order.
    Pass,
    /// Refused before anything was done.
    FailBefore(StoreErrorKind),
    /// Carried out, and then an error all the same.
    FailAfter(StoreErrorKind),
    /// Broken off in the middle. A put leaves nothing visible (in a directory: half a temporary file, see
    /// `torn_into`), a delete removes the first half, a listing ends after one object; all answer `Unavailable`.
    Torn,
    /// Carried out after a while.
    Delay(Duration),
    /// Never answers, and does nothing.
    Stall,
    /// Carried out, and never answers.
    StallAfter,
    /// A put (or a delete) that is acknowledged and not done.
    Drop,
    /// A get whose answer has this bit turned (counted modulo the answer's length).
    FlipBit(u64),
    /// A get whose answer lacks its last byte.
    Short,
    /// As `FailBefore(Unavailable)`, and so for every call after it.
    Crash(How),
}

/// How far the operation at the crash came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It never reached the store.
    Before,
    /// It was carried out and not acknowledged.
    Applied,
    /// It was broken off in the middle.
    Torn,
}

/// One call, as a plan sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counts all calls at this store (or at all that share its counter), from 0.
    pub index: u64,
    /// Counts the calls of this operation at this store, from 0.
    pub nth: u64,
    /// What is asked.
    pub operation: Operation,
    /// Of which object (a listing: prefix; a delete: the first).
    pub name: String,
}

type Plan = dyn Fn(&Call) -> Fault + Send + Sync;

/// A store that fails as planned.
pub struct FaultyStore {
    env: Env,
    inner: Arc<dyn Store>,
    plan: Box<Plan>,
    calls: Arc<AtomicU64>,
    of_operation: [AtomicU64; 5],
    // The index of the crash, u64::MAX while there is none.
    crashed: AtomicU64,
    torn_into: Option<PathBuf>,
}

impl FaultyStore {
    /// `inner`, each call treated as `plan` says.
    pub fn new(env: &Env, inner: Arc<dyn Store>, plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> FaultyStore {
        FaultyStore {
            env: env.clone(),
            inner,
            plan: Box::new(plan),
            calls: Arc::default(),
            of_operation: Default::default(),
            crashed: AtomicU64::new(u64::MAX),
            torn_into: None,
        }
    }

    /// `inner` with `faults[i]` for the call of index i, and none afterwards.
    pub fn scripted(env: &Env, inner: Arc<dyn Store>, faults: Vec<Fault>) -> FaultyStore {
        FaultyStore::new(env, inner, move |call| {
            usize::try_from(call.index).ok().and_then(|i| faults.get(i)).cloned().unwrap_or(Fault::Pass)
        })
    }

    /// `inner` until the call of index `k`, which comes as far as `how` says; every later one fails. `counter` may
    /// be shared between stores: then they crash together, as the stores of one process do.
    pub fn crash_at(env: &Env, inner: Arc<dyn Store>, k: u64, how: How, counter: Arc<AtomicU64>) -> FaultyStore {
        let plan = move |call: &Call| match call.index {
            i if i < k => Fault::Pass,
            i if i == k => Fault::Crash(how),
            _ => Fault::Crash(How::Before),
        };
        FaultyStore { calls: counter, ..FaultyStore::new(env, inner, plan) }
    }

    /// Torn puts leave half a temporary file in the directory store that has its root here.
    pub fn torn_into(self, root: PathBuf) -> FaultyStore {
        FaultyStore { torn_into: Some(root), ..self }
    }

    /// Calls so far (of all stores that share the counter).
    pub fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    /// Calls of one operation so far.
    pub fn calls_of(&self, operation: Operation) -> u64 {
        self.of_operation[operation as usize].load(SeqCst)
    }

    fn error(&self, kind: StoreErrorKind, call: &Call) -> StoreError {
        let action = format!("{:?} {}", call.operation, call.name).to_lowercase();
        StoreError::new(kind, self.inner.label(), action).because(format!("planned fault at call {}", call.index))
    }

    /// Counts the call and reduces its fault to what `carried_out` tells apart.
    async fn begin(&self, operation: Operation, name: &str) -> (Call, Fault) {
        let index = self.calls.fetch_add(1, SeqCst);
        let nth = self.of_operation[operation as usize].fetch_add(1, SeqCst);
        let call = Call { index, nth, operation, name: name.to_owned() };
        if index > self.crashed.load(SeqCst) {
            return (call, Fault::FailBefore(StoreErrorKind::Unavailable));
        }
        let fault = match (self.plan)(&call) {
            Fault::Crash(how) => {
                self.crashed.fetch_min(index, SeqCst);
                match how {
                    How::Before => Fault::FailBefore(StoreErrorKind::Unavailable),
                    How::Applied => Fault::FailAfter(StoreErrorKind::Unavailable),
                    How::Torn => Fault::Torn,
                }
            }
            Fault::Delay(time) => {
                self.env.sleep(time).await;
                Fault::Pass
            }
            Fault::Stall => pending().await,
            fault => fault,
        };
        (call, fault)
    }

    /// What becomes of a call that was carried out with `result`.
    async fn end<T>(&self, call: &Call, fault: Fault, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match fault {
            Fault::FailAfter(kind) => Err(self.error(kind, call)),
            Fault::StallAfter => pending().await,
            _ => result,
        }
    }
}

impl Store for FaultyStore {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let (call, fault) = self.begin(Operation::Put, name.as_str()).await;
            match fault {
                Fault::FailBefore(kind) => Err(self.error(kind, &call)),
                Fault::Torn => {
                    if let Some(root) = &self.torn_into {
                        std::fs::create_dir_all(root.join("tmp")).expect("the store's directory is there");
                        let half = &bytes[..bytes.len() / 2];
                        std::fs::write(root.join(format!("tmp/torn-{}", call.index)), half).expect("there is room");
                    }
                    Err(self.error(StoreErrorKind::Unavailable, &call))
                }
                Fault::Drop => Ok(()),
                fault => self.end(&call, fault, self.inner.put(name, bytes).await).await,
            }
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let (call, fault) = self.begin(Operation::Get, name.as_str()).await;
            match fault {
                Fault::FailBefore(kind) => Err(self.error(kind, &call)),
                Fault::Torn => Err(self.error(StoreErrorKind::Unavailable, &call)),
                Fault::FlipBit(bit) => {
                    let mut bytes = self.inner.get(name, range).await?.to_vec();
                    let bits = bytes.len() as u64 * 8;
                    if bits > 0 {
                        bytes[(bit % bits / 8) as usize] ^= 1 << (bit % 8);
                    }
                    Ok(bytes.into())
                }
                Fault::Short => {
                    let bytes = self.inner.get(name, range).await?;
                    Ok(bytes.slice(..bytes.len().saturating_sub(1)))
                }
                fault => self.end(&call, fault, self.inner.get(name, range).await).await,
            }
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let (call, fault) = self.begin(Operation::Stat, name.as_str()).await;
            match fault {
                Fault::FailBefore(kind) => Err(self.error(kind, &call)),
                Fault::Torn => Err(self.error(StoreErrorKind::Unavailable, &call)),
                fault => self.end(&call, fault, self.inner.stat(name).await).await,
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        stream::once(async move {
            let (call, fault) = self.begin(Operation::List, prefix).await;
            let error = |kind| stream::iter([Err(self.error(kind, &call))]);
            match fault {
                Fault::FailBefore(kind) => error(kind).boxed(),
                Fault::FailAfter(kind) => self.inner.list(prefix).chain(error(kind)).boxed(),
                Fault::Torn => self.inner.list(prefix).take(1).chain(error(StoreErrorKind::Unavailable)).boxed(),
                Fault::StallAfter => self.inner.list(prefix).chain(stream::pending()).boxed(),
                _ => self.inner.list(prefix),
            }
        })
        .flatten()
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            let (call, fault) = self.begin(Operation::Delete, names.first().map_or("", ObjectName::as_str)).await;
            let failed =
                |kind, names: &[ObjectName]| names.iter().map(|name| (name.clone(), self.error(kind, &call))).collect::<Vec<_>>();
            match fault {
                Fault::FailBefore(kind) => failed(kind, names),
                Fault::FailAfter(kind) => {
                    self.inner.delete(names).await;
                    failed(kind, names)
                }
                Fault::Torn => {
                    let (first, rest) = names.split_at(names.len() / 2);
                    let mut left = self.inner.delete(first).await;
                    left.extend(failed(StoreErrorKind::Unavailable, rest));
                    left
                }
                Fault::StallAfter => {
                    self.inner.delete(names).await;
                    pending().await
                }
                Fault::Drop => Vec::new(),
                _ => self.inner.delete(names).await,
            }
        })
    }
}
