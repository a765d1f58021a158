//! The fan-out: one buffer to several replicas, each at its own pace, none able to break the others.
//!
//! Each upload is one task per replica; the store's own limit decides how many of them run. A lane that fails after the
//! store's retries, or finishes nothing for `stall` (and the time that its bytes need) while it has work, is left behind: its tasks are dropped, and it
//! receives nothing more from this run, so that its log can never claim what it lacks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::clock::{Env, Task};
use crate::progress::Progress;
use crate::replica::patience::allowance;
use crate::replica::{Mask, Replica, ReplicaSettings};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;

/// Proof that a replica holds an object: the put was acknowledged, and a stat afterwards showed its size.
#[derive(Debug)]
pub struct Receipt(());

/// Puts one object at one replica and proves it. The name must belong to these bytes alone (the hash of them): an
/// object of that name that is there already is read and compared.
pub async fn put_proven(replica: &Replica, name: &ObjectName, bytes: &Bytes) -> Result<Receipt, StoreError> {
    put(replica, name, bytes).await?;
    prove(replica, name, bytes.len() as u64).await
}

async fn put(replica: &Replica, name: &ObjectName, bytes: &Bytes) -> Result<(), StoreError> {
    match replica.store.put(name, bytes.clone()).await {
        Ok(()) => {}
        Err(e) if e.kind == StoreErrorKind::AlreadyExists => {
            if replica.store.get(name, None).await? != *bytes {
                let action = format!("put {name}: an object of this name holds other bytes");
                return Err(StoreError::new(StoreErrorKind::Corrupt, &replica.name, action));
            }
        }
        Err(e) => return Err(e),
    }
    Ok(())
}

async fn prove(replica: &Replica, name: &ObjectName, size: u64) -> Result<Receipt, StoreError> {
    let lost = |what: &str| {
        let action = format!("put {name}: the store acknowledged {size} bytes but {what}");
        StoreError::new(StoreErrorKind::Other, &replica.name, action)
    };
    match replica.store.stat(name).await? {
        Some(info) if info.size == size => Ok(Receipt(())),
        Some(info) => Err(lost(&format!("holds {}", info.size))),
        None => Err(lost("does not have them")),
    }
}

struct Lane {
    replica: Replica,
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    behind: Option<Arc<StoreError>>,
    /// Whether it is behind only because nobody waited for its uploads any longer.
    given_up: bool,
    running: BTreeMap<u64, Task<()>>,
    waiting_bytes: u64,
    /// The largest object sent since there was last nothing to do.
    largest: u64,
    sent: u64,
    /// Bytes whose puts were acknowledged; those that are proven, too, count as sent.
    accepted: u64,
    /// Bytes whose puts are not.
    unaccepted: u64,
    last_finished: Duration,
    rate_mark: (Duration, u64),
}

struct Shared {
    env: Env,
    lanes: Vec<Arc<Lane>>,
    progress: Progress,
    settings: ReplicaSettings,
    changed: Notify,
}

/// The uploads of one run.
pub struct Fanout {
    shared: Arc<Shared>,
    next: Mutex<u64>,
    _watch: Task<()>,
}

impl Fanout {
    /// Lanes to the given replicas. Indices in masks are the replicas' own.
    pub fn start(env: &Env, replicas: &[Replica], settings: &ReplicaSettings, progress: &Progress) -> Fanout {
        let lanes: Vec<_> = replicas
            .iter()
            .map(|r| {
                progress.update_replica(r.index, |p| p.name.clone_from(&r.name));
                Arc::new(Lane { replica: r.clone(), state: Mutex::default() })
            })
            .collect();
        let shared = Arc::new(Shared {
            env: env.clone(),
            lanes,
            progress: progress.clone(),
            settings: settings.clone(),
            changed: Notify::new(),
        });
        let watch = env.spawn(watch(shared.clone()));
        Fanout { shared, next: Mutex::new(0), _watch: watch }
    }

    /// The replicas that are still part of the run.
    pub fn alive(&self) -> Mask {
        let alive = |lane: &&Arc<Lane>| lane.lock().behind.is_none();
        Mask(self.shared.lanes.iter().filter(alive).fold(0, |m, l| m | 1 << l.replica.index))
    }

    /// Why a replica was left behind, if it was.
    pub fn behind(&self, index: usize) -> Option<Arc<StoreError>> {
        self.lane(index)?.lock().behind.clone()
    }

    /// Bytes that a replica acknowledged.
    pub fn sent(&self, index: usize) -> u64 {
        self.lane(index).map_or(0, |lane| lane.lock().sent)
    }

    /// The largest object among those that a replica was last busy with.
    pub fn largest(&self, index: usize) -> u64 {
        self.lane(index).map_or(0, |lane| lane.lock().largest)
    }

    /// Takes a replica out of the run.
    pub fn leave_behind(&self, index: usize, why: StoreError) {
        if let Some(lane) = self.lane(index) {
            lane.leave(&self.shared, why);
        }
    }

    /// Gives up all uploads that are on their way, `after` the run was asked to stop: their replicas are left behind. Whether
    /// an object arrived all the same is not known, and nothing relies on it.
    pub fn give_up(&self, after: Duration) {
        for lane in &self.shared.lanes {
            let bytes = {
                let mut state = lane.lock();
                if state.behind.is_some() || state.running.is_empty() {
                    continue;
                }
                state.given_up = true;
                state.waiting_bytes
            };
            let action = format!(
                "upload: {} KiB were still on their way {} s after the run was asked to stop, and were given up",
                bytes.div_ceil(1 << 10),
                after.as_secs()
            );
            lane.leave(&self.shared, StoreError::new(StoreErrorKind::TimedOut, &lane.replica.name, action));
        }
    }

    /// The replicas whose uploads were given up: what they proved to hold before, they hold.
    pub fn given_up(&self) -> Mask {
        let given_up = |lane: &&Arc<Lane>| lane.lock().given_up;
        Mask(self.shared.lanes.iter().filter(given_up).fold(0, |m, l| m | 1 << l.replica.index))
    }

    fn lane(&self, index: usize) -> Option<&Arc<Lane>> {
        self.shared.lanes.iter().find(|l| l.replica.index == index)
    }

    /// Starts the upload of `bytes` under `name` to the replicas of `mask` that are still part of the run. The answer comes
    /// when every one of them is done or left behind: the replicas that proved to hold the object. The bytes are let go when
    /// the last of them was put, failed or was given up: what they own (a share of a budget) can go with them.
    pub fn send(&self, name: &ObjectName, bytes: &Bytes, mask: Mask) -> oneshot::Receiver<Mask> {
        let (done, answer) = oneshot::channel();
        // Dropped by the last lane's task, whether it finished, failed or was aborted.
        let ticket = Arc::new(Ticket { have: Mutex::new((Mask::default(), Some(done))) });
        for lane in self.shared.lanes.iter().filter(|l| mask.has(l.replica.index)) {
            let id = {
                let mut next = self.next.lock().expect("no panic while counting");
                *next += 1;
                *next
            };
            let size = bytes.len() as u64;
            let mut state = lane.lock();
            if state.behind.is_some() {
                continue;
            }
            if state.running.is_empty() {
                state.last_finished = self.shared.env.elapsed();
                state.largest = 0;
            }
            if state.unaccepted == 0 {
                // Who has nothing to accept is not slow: the rate is that of one busy time.
                state.rate_mark = (self.shared.env.elapsed(), state.accepted);
            }
            state.unaccepted += size;
            state.largest = state.largest.max(size);
            state.waiting_bytes += size;
            let (shared, lane_, name, bytes, ticket) =
                (self.shared.clone(), lane.clone(), name.clone(), bytes.clone(), ticket.clone());
            let task = self.shared.env.spawn(async move {
                let accepted = put(&lane_.replica, &name, &bytes).await;
                drop(bytes);
                let outcome = match accepted {
                    Ok(()) => {
                        lane_.accepted(&shared, size);
                        prove(&lane_.replica, &name, size).await
                    }
                    Err(e) => Err(e),
                };
                match outcome {
                    Ok(Receipt(())) => {
                        ticket.have.lock().expect("no panic while noting").0.0 |= 1 << lane_.replica.index;
                        lane_.finished(&shared, id, size);
                    }
                    Err(e) => lane_.leave(&shared, e),
                }
                drop(ticket);
            });
            state.running.insert(id, task);
            drop(state);
            lane.show(&self.shared);
        }
        answer
    }
}

struct Ticket {
    have: Mutex<(Mask, Option<oneshot::Sender<Mask>>)>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Ok((mask, done)) = self.have.get_mut()
            && let Some(done) = done.take()
        {
            // Nobody listens any more when the run was given up.
            let _ = done.send(*mask);
        }
    }
}

impl Lane {
    fn lock(&self) -> std::sync::MutexGuard<'_, LaneState> {
        self.state.lock().expect("no panic while a lane is locked")
    }

    fn accepted(&self, shared: &Shared, size: u64) {
        let mut state = self.lock();
        state.accepted += size;
        state.unaccepted = state.unaccepted.saturating_sub(size);
        state.last_finished = shared.env.elapsed();
    }

    fn finished(&self, shared: &Shared, id: u64, size: u64) {
        let mut state = self.lock();
        // The task removes itself: dropping its own handle aborts it at its next await, of which there is none.
        let own = state.running.remove(&id);
        state.waiting_bytes = state.waiting_bytes.saturating_sub(size);
        state.sent += size;
        state.last_finished = shared.env.elapsed();
        drop(state);
        drop(own);
        self.show(shared);
        shared.changed.notify_waiters();
    }

    fn leave(&self, shared: &Shared, why: StoreError) {
        let mut state = self.lock();
        if state.behind.is_none() {
            state.behind = Some(Arc::new(why));
        }
        let running = std::mem::take(&mut state.running);
        state.waiting_bytes = 0;
        drop(state);
        drop(running);
        self.show(shared);
        shared.changed.notify_waiters();
    }

    fn show(&self, shared: &Shared) {
        let state = self.lock();
        shared.progress.update_replica(self.replica.index, |p| {
            p.sent = state.sent;
            p.waiting = state.waiting_bytes;
            p.behind = state.behind.as_ref().map(|e| e.to_string());
        });
    }
}

/// Looks after lanes that finish nothing, or too little.
async fn watch(shared: Arc<Shared>) {
    let stall = shared.settings.stall;
    loop {
        shared.env.sleep((stall / 8).max(Duration::from_millis(10))).await;
        let now = shared.env.elapsed();
        for lane in &shared.lanes {
            let why = {
                let mut state = lane.lock();
                if state.behind.is_some() || state.running.is_empty() {
                    None
                } else if now.saturating_sub(state.last_finished) >= allowance(stall, state.largest) {
                    Some(format!("upload: no request finished for {} s", now.saturating_sub(state.last_finished).as_secs()))
                } else if state.unaccepted > 0 && now.saturating_sub(state.rate_mark.0) >= stall {
                    let bytes = state.accepted - state.rate_mark.1;
                    let floor = shared.settings.min_rate.unwrap_or(0).saturating_mul(stall.as_secs());
                    state.rate_mark = (now, state.accepted);
                    (bytes < floor).then(|| format!("upload: {bytes} bytes in {} s are below the set minimum", stall.as_secs()))
                } else {
                    None
                }
            };
            if let Some(action) = why {
                lane.leave(&shared, StoreError::new(StoreErrorKind::TimedOut, &lane.replica.name, action));
            }
        }
    }
}
