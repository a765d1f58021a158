//! Counts what is asked of a store, for reports, for cost and for seeing a stall.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::clock::Env;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;
use crate::store::{ObjectInfo, Store};

/// What a store can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Create an object.
    Put,
    /// Read an object or a part of it.
    Get,
    /// Size and time of an object.
    Stat,
    /// Names under a prefix.
    List,
    /// Remove objects.
    Delete,
}

const OPERATIONS: usize = 5;
/// Distinct first segments counted apart; any further ones share a row named `other`.
const ROWS: usize = 16;

/// Figures of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls made, those under way included. A listing is one call.
    pub calls: u64,
    /// Calls that ended in an error (a delete: objects that could not be removed).
    pub errors: u64,
    /// Objects put, read, found, listed or removed.
    pub objects: u64,
    /// Bytes of objects sent by calls that succeeded.
    pub bytes_up: u64,
    /// Bytes of objects received by calls that succeeded.
    pub bytes_down: u64,
}

impl Figures {
    fn plus(self, more: Figures) -> Figures {
        Figures {
            calls: self.calls + more.calls,
            errors: self.errors + more.errors,
            objects: self.objects + more.objects,
            bytes_up: self.bytes_up + more.bytes_up,
            bytes_down: self.bytes_down + more.bytes_down,
        }
    }
}

/// All figures of a meter at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeterFigures {
    rows: BTreeMap<String, [Figures; OPERATIONS]>,
    /// When the store last answered (data, a refusal, an absence; not a timeout or an outage), as time since the
    /// start of the `Env`; zero if it never did.
    pub last_finished: Duration,
    /// Calls under way.
    pub in_flight: u64,
}

impl MeterFigures {
    /// Figures of `operation` on objects whose name's first segment is `first`. A listing counts by its prefix's.
    pub fn of(&self, first: &str, operation: Operation) -> Figures {
        self.rows.get(first).map_or(Figures::default(), |row| row[operation as usize])
    }
    /// Figures of `operation` on all objects.
    pub fn total(&self, operation: Operation) -> Figures {
        self.rows.values().map(|row| row[operation as usize]).fold(Figures::default(), Figures::plus)
    }
    /// The first segments met so far, in order.
    pub fn firsts(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(String::as_str)
    }
    /// Calls of every operation.
    pub fn calls(&self) -> u64 {
        self.rows.values().flatten().map(|f| f.calls).sum()
    }
    /// Bytes sent.
    pub fn bytes_up(&self) -> u64 {
        self.rows.values().flatten().map(|f| f.bytes_up).sum()
    }
    /// Bytes received.
    pub fn bytes_down(&self) -> u64 {
        self.rows.values().flatten().map(|f| f.bytes_down).sum()
    }
}

/// A handle onto the counters of one store. Cheap to clone; counting takes no lock.
#[derive(Clone, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Default)]
struct Counters {
    // Filled in order of first use: a row's name, once set, never changes.
    rows: [(OnceLock<Box<str>>, Row); ROWS],
    last_finished: AtomicU64,
    in_flight: AtomicU64,
    sent_again: AtomicU64,
}

type Row = [Cell; OPERATIONS];

#[derive(Default)]
struct Cell {
    calls: AtomicU64,
    errors: AtomicU64,
    objects: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Meter {
    /// A meter at zero.
    pub fn new() -> Meter {
        Meter::default()
    }

    /// The figures now.
    pub fn snapshot(&self) -> MeterFigures {
        let mut figures = MeterFigures {
            rows: BTreeMap::new(),
            last_finished: Duration::from_nanos(self.0.last_finished.load(Relaxed)),
            in_flight: self.0.in_flight.load(Relaxed),
        };
        for (name, row) in &self.0.rows {
            let Some(name) = name.get() else { break };
            let row = std::array::from_fn(|i| Figures {
                calls: row[i].calls.load(Relaxed),
                errors: row[i].errors.load(Relaxed),
                objects: row[i].objects.load(Relaxed),
                bytes_up: row[i].bytes_up.load(Relaxed),
                bytes_down: row[i].bytes_down.load(Relaxed),
            });
            figures.rows.insert(name.to_string(), row);
        }
        figures
    }

    /// Requests that were sent again so far.
    pub fn sent_again(&self) -> u64 {
        self.0.sent_again.load(Relaxed)
    }

    /// Counts a request that is sent again.
    pub fn count_again(&self) {
        self.0.sent_again.fetch_add(1, Relaxed);
    }

    /// When the store last answered, as [`MeterFigures::last_finished`].
    pub fn last_finished(&self) -> Duration {
        Duration::from_nanos(self.0.last_finished.load(Relaxed))
    }

    fn cell(&self, first: &str, operation: Operation) -> &Cell {
        let (last, rows) = self.0.rows.split_last().expect("there are rows");
        let row = rows.iter().find(|(name, _)| &**name.get_or_init(|| first.into()) == first).unwrap_or_else(|| {
            last.0.get_or_init(|| "other".into());
            last
        });
        &row.1[operation as usize]
    }
}

/// A call under way: dropped unfinished (the caller went away), it only stops being in flight.
struct Call<'a> {
    env: &'a Env,
    meter: &'a Meter,
    cell: &'a Cell,
}

impl<'a> Call<'a> {
    fn start(store: &'a Metered, first: &str, operation: Operation) -> Call<'a> {
        let call = Call::again(store, first, operation);
        call.cell.calls.fetch_add(1, Relaxed);
        call
    }
    /// Waits on a call that was counted before.
    fn again(store: &'a Metered, first: &str, operation: Operation) -> Call<'a> {
        store.meter.0.in_flight.fetch_add(1, Relaxed);
        Call { env: &store.env, meter: &store.meter, cell: store.meter.cell(first, operation) }
    }
    fn answered(&self) {
        let now = u64::try_from(self.env.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.meter.0.last_finished.fetch_max(now, Relaxed);
    }
    fn object(&self) {
        self.cell.objects.fetch_add(1, Relaxed);
    }
    fn failed(&self, error: &StoreError) {
        self.cell.errors.fetch_add(1, Relaxed);
        if !matches!(error.kind, StoreErrorKind::TimedOut | StoreErrorKind::Unavailable) {
            self.answered();
        }
    }
    fn ended<T>(&self, result: &Result<T, StoreError>) {
        match result {
            Ok(_) => self.answered(),
            Err(e) => self.failed(e),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.meter.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A store whose calls are counted.
pub struct Metered {
    env: Env,
    inner: Arc<dyn Store>,
    meter: Meter,
}

impl Metered {
    /// `inner`, counted by `meter`.
    pub fn new(env: &Env, inner: Arc<dyn Store>, meter: Meter) -> Metered {
        Metered { env: env.clone(), inner, meter }
    }
}

impl Store for Metered {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let call = Call::start(self, name.first(), Operation::Put);
            let size = bytes.len() as u64;
            let result = self.inner.put(name, bytes).await;
            if result.is_ok() {
                call.object();
                call.cell.bytes_up.fetch_add(size, Relaxed);
            }
            call.ended(&result);
            result
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let call = Call::start(self, name.first(), Operation::Get);
            let result = self.inner.get(name, range).await;
            if let Ok(bytes) = &result {
                call.object();
                call.cell.bytes_down.fetch_add(bytes.len() as u64, Relaxed);
            }
            call.ended(&result);
            result
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let call = Call::start(self, name.first(), Operation::Stat);
            let result = self.inner.stat(name).await;
            if let Ok(Some(_)) = &result {
                call.object();
            }
            call.ended(&result);
            result
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let first = prefix.split_once('/').map_or(prefix, |(first, _)| first);
        // In flight only while it is waited on: a listing left half read is nobody's stall.
        stream::unfold((self.inner.list(prefix), false), move |(mut inner, begun)| async move {
            let call = if begun { Call::again } else { Call::start }(self, first, Operation::List);
            let next = inner.next().await;
            match &next {
                Some(Err(e)) => call.failed(e),
                Some(Ok(_)) => {
                    call.object();
                    call.answered();
                }
                None => call.answered(),
            }
            next.map(|item| (item, (inner, true)))
        })
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            let call = Call::start(self, names.first().map_or("", ObjectName::first), Operation::Delete);
            let left = self.inner.delete(names).await;
            call.cell.objects.fetch_add((names.len() - left.len().min(names.len())) as u64, Relaxed);
            left.iter().for_each(|(_, e)| call.failed(e));
            if left.is_empty() {
                call.answered();
            }
            left
        })
    }
}
