//! Keeps a store from being asked for too much at once: connections that adapt, and bytes per second.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Env;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;
use crate::store::{ObjectInfo, Store};

/// Listed objects taken in one turn, when the store has them at hand.
const LIST_TURN: usize = 1000;

/// How much may be asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Most requests under way; taken as 1 when 0.
    pub connections: usize,
    /// Bytes per second sent, no limit if `None`.
    pub upload: Option<u64>,
    /// Bytes per second received, no limit if `None`.
    pub download: Option<u64>,
    /// Requests per second, no limit if `None`. A listing counts once for each turn it takes.
    pub requests: Option<u64>,
}

impl LimitSettings {
    /// The adapting limit on connections for these settings.
    pub fn pressure(&self) -> Pressure {
        let most = self.connections.clamp(1, Semaphore::MAX_PERMITS);
        let state = State { allowed: most, owed: 0, successes: 0, halved: None };
        Pressure(Arc::new(Gate { most, turns: Turns::new(most), state: Mutex::new(state) }))
    }
}

/// Objects of this size or more can wait, in bytes: others wait for what is smaller (a record, what is to be published).
const PATIENT: usize = 1 << 20;

/// Waits shorter than this are owed and not slept: timers are not finer.
const TICK: Duration = Duration::from_millis(1);

/// Turns of two classes. Who cannot wait stands in the queue itself; of those who can, only the first does, and all others
/// behind it. So at most one of them is before whoever comes, and it is never passed over where it stands: none starves.
struct Turns {
    queue: Semaphore,
    patient: Semaphore,
}

impl Turns {
    fn new(turns: usize) -> Turns {
        Turns { queue: Semaphore::new(turns), patient: Semaphore::new(1) }
    }

    /// Waits for a turn, first come, first served within a class.
    async fn take(&self, can_wait: bool) -> SemaphorePermit<'_> {
        let _first = match can_wait {
            true => Some(self.patient.acquire().await.expect("the gate is never closed")),
            false => None,
        };
        self.queue.acquire().await.expect("the gate is never closed")
    }
}

/// How many requests may be under way: halved when the store throttles, one more after as many successes in a row
/// as are allowed at once. A handle, cheap to clone.
#[derive(Clone)]
pub struct Pressure(Arc<Gate>);

struct Gate {
    most: usize,
    turns: Turns,
    state: Mutex<State>,
}

struct State {
    allowed: usize,
    // Turns to take away as they come back: they were out when the limit fell.
    owed: usize,
    successes: usize,
    halved: Option<Duration>,
}

struct Turn<'a> {
    gate: &'a Gate,
    permit: Option<SemaphorePermit<'a>>,
}

impl Pressure {
    /// Requests allowed at once now.
    pub fn allowed(&self) -> usize {
        self.state().allowed
    }

    /// The store throttled a request that began at `began`; it is `now` (both times since the start of the `Env`).
    pub fn throttled(&self, began: Duration, now: Duration) {
        let mut state = self.state();
        state.successes = 0;
        // One overload throttles all requests that were under way: it halves once, not once for each.
        if state.halved.is_some_and(|at| began <= at) {
            return;
        }
        state.halved = Some(now);
        let fewer = (state.allowed / 2).max(1);
        state.owed += state.allowed - fewer;
        state.allowed = fewer;
        state.owed -= self.0.turns.queue.forget_permits(state.owed);
    }

    fn succeeded(&self) {
        let mut state = self.state();
        state.successes += 1;
        if state.successes >= state.allowed && state.allowed < self.0.most {
            state.successes = 0;
            state.allowed += 1;
            if state.owed > 0 {
                state.owed -= 1;
            } else {
                self.0.turns.queue.add_permits(1);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, can_wait: bool) -> Turn<'_> {
        Turn { gate: &self.0, permit: Some(self.0.turns.take(can_wait).await) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

/// So much per second (bytes, requests), by booking: each is given the moment the ones before it are paid for. Who waits
/// for that moment holds the only turn, so that the next one is not booked before it is known who that is.
struct Rate {
    per_second: u64,
    free_at: Mutex<Duration>,
    turns: Turns,
}

impl Rate {
    fn new(limit: Option<u64>) -> Option<Rate> {
        limit.map(|rate| Rate { per_second: rate.max(1), free_at: Mutex::new(Duration::ZERO), turns: Turns::new(1) })
    }

    /// Books `much` and gives the time to wait before it may go.
    fn book(&self, now: Duration, much: u64) -> Duration {
        let cost = u128::from(much) * 1_000_000_000 / u128::from(self.per_second);
        let cost = Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free_at).max(now);
        *free_at = start.saturating_add(cost);
        start - now
    }
}

/// A store that is asked for only so much at once.
pub struct Limited {
    env: Env,
    inner: Arc<dyn Store>,
    pressure: Pressure,
    upload: Option<Rate>,
    download: Option<Rate>,
    requests: Option<Rate>,
}

impl Limited {
    /// `inner`, limited by `settings`; `pressure` is `settings.pressure()`, shared with whoever sees throttling first.
    pub fn new(env: &Env, inner: Arc<dyn Store>, settings: &LimitSettings, pressure: Pressure) -> Limited {
        let (upload, download, requests) =
            (Rate::new(settings.upload), Rate::new(settings.download), Rate::new(settings.requests));
        Limited { env: env.clone(), inner, pressure, upload, download, requests }
    }

    /// Waits until `much` may go. Before the turn is taken: who waits for bytes holds up nobody's stat.
    async fn paced(&self, rate: Option<&Rate>, much: u64, can_wait: bool) {
        if let Some(rate) = rate {
            let _turn = rate.turns.take(can_wait).await;
            let wait = rate.book(self.env.elapsed(), much);
            if wait >= TICK {
                self.env.sleep(wait).await;
            }
        }
    }

    fn learn(&self, began: Duration, error: Option<&StoreError>) {
        match error {
            None => self.pressure.succeeded(),
            Some(e) if matches!(e.kind, StoreErrorKind::Throttled(_)) => {
                self.pressure.throttled(began, self.env.elapsed());
            }
            Some(_) => {}
        }
    }

    async fn limited<T>(&self, can_wait: bool, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.paced(self.requests.as_ref(), 1, can_wait).await;
        let _turn = self.pressure.turn(can_wait).await;
        let began = self.env.elapsed();
        let result = work.await;
        self.learn(began, result.as_ref().err());
        result
    }
}

impl Store for Limited {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let can_wait = bytes.len() >= PATIENT;
            self.paced(self.upload.as_ref(), bytes.len() as u64, can_wait).await;
            self.limited(can_wait, self.inner.put(name, bytes)).await
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let known = range.as_ref().map_or(0, |r| r.end.saturating_sub(r.start)).min(crate::store::OBJECT_MAX as u64);
            self.paced(self.download.as_ref(), known, false).await;
            let result = self.limited(false, self.inner.get(name, range)).await;
            // How much a whole object is shows only now: those that come after wait for it.
            if let (Some(rate), Ok(bytes)) = (&self.download, &result) {
                rate.book(self.env.elapsed(), (bytes.len() as u64).saturating_sub(known));
            }
            result
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(self.limited(false, self.inner.stat(name)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        // A turn for each wait, never while the caller holds the stream: it may need turns itself to go on.
        stream::unfold(Some(self.inner.list(prefix)), move |pages| async move {
            let mut pages = pages?;
            self.paced(self.requests.as_ref(), 1, false).await;
            let turn = self.pressure.turn(false).await;
            let began = self.env.elapsed();
            let mut batch = Vec::new();
            let mut next = Some(pages.next().await);
            let mut more = true;
            while let Some(item) = next {
                more = matches!(item, Some(Ok(_)));
                batch.extend(item);
                next = if more && batch.len() < LIST_TURN { pages.next().now_or_never() } else { None };
            }
            self.learn(began, batch.iter().find_map(|item| item.as_ref().err()));
            drop(turn);
            Some((stream::iter(batch), more.then_some(pages)))
        })
        .flatten()
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            self.paced(self.requests.as_ref(), 1, false).await;
            let _turn = self.pressure.turn(false).await;
            let began = self.env.elapsed();
            let left = self.inner.delete(names).await;
            let throttled = left.iter().find(|(_, e)| matches!(e.kind, StoreErrorKind::Throttled(_)));
            self.learn(began, throttled.or(left.first()).map(|(_, e)| e));
            left
        })
    }
}
