//! Counters that a run writes and the terminal reads, and the request to stop that travels the other way.
//!
//! What is here: [`Progress`] (relaxed atomics, cheap to share) and [`Stop`]. What comes in: counts from the stages.
//! What goes out: figures for whoever looks. What never happens here: a decision about data.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Env;

/// One count.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Sets.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one run has done so far.
#[derive(Default)]
pub struct Figures {
    /// Items to do; 0 until known.
    pub items_total: Counter,
    /// Content bytes to do; 0 until known.
    pub bytes_total: Counter,
    /// Items done.
    pub items: Counter,
    /// Content bytes done.
    pub bytes: Counter,
    /// Bytes newly sealed (before fan-out).
    pub stored: Counter,
    /// Source items (or objects) with errors.
    pub errors: Counter,
    current: Mutex<String>,
    replicas: Mutex<Vec<ReplicaFigures>>,
}

/// How far one replica is.
#[derive(Clone, Default)]
pub struct ReplicaFigures {
    /// Its configured name.
    pub name: String,
    /// Bytes it acknowledged in this run.
    pub sent: u64,
    /// Bytes waiting for it.
    pub waiting: u64,
    /// Why it was left behind, if it was.
    pub behind: Option<String>,
}

/// A shared handle on the figures of one run.
#[derive(Clone, Default)]
pub struct Progress(Arc<Figures>);

impl std::ops::Deref for Progress {
    type Target = Figures;
    fn deref(&self) -> &Figures {
        &self.0
    }
}

impl Figures {
    /// Says which item is being worked on.
    pub fn set_current(&self, text: impl FnOnce() -> String) {
        if let Ok(mut current) = self.current.try_lock() {
            *current = text();
        }
    }
    /// The item worked on last.
    pub fn current(&self) -> String {
        self.current.lock().map(|c| c.clone()).unwrap_or_default()
    }
    /// Changes the figures of replica `index`.
    pub fn update_replica(&self, index: usize, change: impl FnOnce(&mut ReplicaFigures)) {
        if let Ok(mut all) = self.replicas.lock() {
            if all.len() <= index {
                all.resize(index + 1, ReplicaFigures::default());
            }
            change(&mut all[index]);
        }
    }
    /// How far each replica is.
    pub fn replicas(&self) -> Vec<ReplicaFigures> {
        self.replicas.lock().map(|r| r.clone()).unwrap_or_default()
    }
}

/// A request to stop: intake ends, what is in flight is finished, for a while. Set once, seen by all clones.
#[derive(Clone)]
pub struct Stop(Arc<Request>);

struct Request {
    made: AtomicBool,
    told: watch::Sender<bool>,
    /// When it was first noticed, by the clock of whoever noticed it.
    noticed: OnceLock<Duration>,
}

impl Default for Stop {
    fn default() -> Stop {
        Stop(Arc::new(Request { made: AtomicBool::new(false), told: watch::channel(false).0, noticed: OnceLock::new() }))
    }
}

impl Stop {
    /// Asks the run to stop.
    pub fn request(&self) {
        self.0.made.store(true, Ordering::SeqCst);
        self.0.told.send_replace(true);
    }
    /// Whether stopping was asked for.
    pub fn requested(&self) -> bool {
        self.0.made.load(Ordering::SeqCst)
    }
    /// How long ago stopping was asked for; none if it was not. It counts from the first call after the request.
    pub fn age(&self, env: &Env) -> Option<Duration> {
        self.requested().then(|| env.elapsed().saturating_sub(*self.0.noticed.get_or_init(|| env.elapsed())))
    }
    /// Waits until stopping was asked for, and `after` is over since.
    pub async fn over(&self, env: &Env, after: Duration) {
        self.wait().await;
        let age = self.age(env).unwrap_or_default();
        env.sleep(after.saturating_sub(age)).await;
    }
    /// What `work` comes to, if it does before stopping is asked for: for work that may be dropped at any point. Work that is ready
    /// wins.
    pub async fn unless_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.wait() => None,
        }
    }
    /// Waits until stopping is asked for.
    pub async fn wait(&self) {
        let mut seen = self.0.told.subscribe();
        // The sender lives in `self`, so this cannot fail before the value is true.
        let _ = seen.wait_for(|stop| *stop).await;
    }
}
