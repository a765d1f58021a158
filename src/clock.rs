//! Time, chance and work, handed in.
//!
//! What is here: [`Env`], the one door to the clock, to sleep, to randomness, to the CPU pool, to blocking
//! work and to new tasks. What comes in: nothing. What goes out: times, random bytes, results of jobs.
//! What never happens here: a decision. Everything above takes an `Env`, so that a test can own all of it:
//! the inline mode runs every job on the caller's task, draws randomness from a seed and takes its time from
//! the runtime's (pausable) clock, which makes a run on a single-threaded runtime replay exactly.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;

/// A point in wall time: nanoseconds since the Unix epoch, UTC. Covers 1677 to 2262; saturates outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// Whole seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }
    /// Nanoseconds within the second, 0 to 999,999,999.
    pub fn subsec_nanos(self) -> u32 {
        self.0.rem_euclid(1_000_000_000) as u32
    }
    /// The time `later` after this one, saturating.
    pub fn plus(self, later: Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(later.as_nanos()).unwrap_or(i64::MAX)))
    }
    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The runtime that a process runs on.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Everything a run takes from its surroundings. Cheap to clone.
#[derive(Clone)]
pub struct Env(Arc<Inner>);

enum Inner {
    Real { cpu: Arc<Semaphore>, threads: usize, started: tokio::time::Instant },
    Inline { seed: [u8; 32], drawn: Mutex<u64>, wall: Time, started: tokio::time::Instant, planted: Option<Planted> },
}

/// A mistake that the program makes on purpose, so that the simulation can show that it would find it. Only
/// [`Env::inline_with`] can turn one on: the `Env` of a real run has no place for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Records are appended to a log without being judged at their slot.
    UnverifiedRecords,
    /// Packs are published without being judged at the slot.
    UnverifiedPublish,
    /// The name of a pack says what is in it, and no more: another upload of the same has the same.
    ReusedNames,
    /// Snapshots that only other logs have forgotten count as live.
    ForgottenHealed,
    /// A prune takes the snapshots that a listing shows for all there are.
    ListedRoots,
    /// A prune overlooks some of what is live, and proves nothing.
    WrongCover,
}

impl Env {
    /// The machine's own clock, randomness and cores. Must be called inside a tokio runtime.
    pub fn real() -> Env {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Env(Arc::new(Inner::Real { cpu: Arc::new(Semaphore::new(threads)), threads, started: tokio::time::Instant::now() }))
    }

    /// Everything on the caller's task, randomness from `seed`, wall time from `wall` onwards by the runtime's clock.
    pub fn inline(seed: u64, wall: Time) -> Env {
        Env::inline_but(seed, wall, None)
    }

    /// The same with a mistake: for the simulation's own tests.
    pub fn inline_with(seed: u64, wall: Time, planted: Planted) -> Env {
        Env::inline_but(seed, wall, Some(planted))
    }

    fn inline_but(seed: u64, wall: Time, planted: Option<Planted>) -> Env {
        let seed = *blake3::hash(&seed.to_le_bytes()).as_bytes();
        Env(Arc::new(Inner::Inline { seed, drawn: Mutex::new(0), wall, started: tokio::time::Instant::now(), planted }))
    }

    /// Whether the program is to make this mistake: never outside of the simulation.
    pub fn makes(&self, mistake: Planted) -> bool {
        matches!(&*self.0, Inner::Inline { planted: Some(planted), .. } if *planted == mistake)
    }

    /// Wall time. For labels and mercy only, never for safety.
    pub fn now(&self) -> Time {
        match &*self.0 {
            #[allow(clippy::disallowed_methods)]
            Inner::Real { .. } => match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
                Ok(d) => Time(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
                Err(e) => Time(-i64::try_from(e.duration().as_nanos()).unwrap_or(i64::MAX)),
            },
            Inner::Inline { wall, started, .. } => wall.plus(started.elapsed()),
        }
    }

    /// Time since this `Env` was made, monotonic.
    pub fn elapsed(&self) -> Duration {
        match &*self.0 {
            Inner::Real { started, .. } | Inner::Inline { started, .. } => started.elapsed(),
        }
    }

    /// Waits.
    #[allow(clippy::disallowed_methods)]
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Runs `work`, but no longer than `time`; `None` when it ran out.
    #[allow(clippy::disallowed_methods)]
    pub async fn timeout<T>(&self, time: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(time, work).await.ok()
    }

    /// Fills `N` bytes with randomness fit for keys (inline: from the seed).
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        match &*self.0 {
            #[allow(clippy::disallowed_methods)]
            Inner::Real { .. } => getrandom::fill(&mut out).expect("the system's random source answers"),
            Inner::Inline { seed, drawn, .. } => {
                let mut drawn = drawn.lock().expect("no panic while drawing");
                *drawn += 1;
                blake3::Hasher::new_keyed(seed).update(&drawn.to_le_bytes()).finalize_xof().fill(&mut out);
            }
        }
        out
    }

    /// Randomness that makes an upload's names and keys its own.
    pub fn entropy<const N: usize>(&self) -> [u8; N] {
        if self.makes(Planted::ReusedNames) { [0; N] } else { self.random() }
    }

    /// How many CPU jobs can run at once.
    pub fn threads(&self) -> usize {
        match &*self.0 {
            Inner::Real { threads, .. } => *threads,
            Inner::Inline { .. } => 1,
        }
    }

    /// Runs a job that computes, on the CPU pool. Never more jobs at once than there are cores.
    pub async fn cpu<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        match &*self.0 {
            Inner::Real { cpu, .. } => {
                let cpu = cpu.clone();
                // A task of its own: a caller that is not polled for a while must not sit on a place in the pool.
                self.spawn(async move {
                    let permit = cpu.acquire_owned().await.expect("the pool is never closed");
                    #[allow(clippy::disallowed_methods)]
                    joined(
                        tokio::task::spawn_blocking(move || {
                            let out = job();
                            drop(permit);
                            out
                        })
                        .await,
                    )
                })
                .await
            }
            Inner::Inline { .. } => job(),
        }
    }

    /// Runs a job that waits for the operating system (reading files), off the async threads.
    pub async fn blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        match &*self.0 {
            #[allow(clippy::disallowed_methods)]
            Inner::Real { .. } => joined(tokio::task::spawn_blocking(job).await),
            Inner::Inline { .. } => job(),
        }
    }

    /// Starts a job that may wait for the operating system as long as it likes, on a thread of its own: nobody waits for it, and
    /// it ends with the process. Fails when the system has no thread to give.
    pub fn thread(&self, job: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        #[allow(clippy::disallowed_methods)]
        std::thread::Builder::new().name("waiting".into()).spawn(job).map(drop)
    }

    /// Starts a task. It is aborted when the returned handle is dropped; awaiting the handle gives its result.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        #[allow(clippy::disallowed_methods)]
        Task(tokio::spawn(work))
    }
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(out) => out,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => panic!("a job was cancelled: the runtime is shutting down"),
    }
}

/// A running task that dies with its handle.
pub struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx).map(joined)
    }
}
