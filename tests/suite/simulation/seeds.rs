//! Many seeds, on all cores: each on a thread of its own from beginning to end, so that it replays whatever the others do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::simulation::planted::Bug;
use crate::simulation::run::{Figures, Outcome, play};

/// What came of many seeds.
#[derive(Default)]
pub struct Played {
    /// How many were played.
    pub seeds: u64,
    /// Sums.
    pub figures: Figures,
    /// The seeds in which something happened that must not, and what.
    pub broken: Vec<(u64, Vec<String>)>,
}

/// Plays one; a panic is something that must not happen.
pub fn one(seed: u64, bug: Option<Bug>, told: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| play(seed, bug, told))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let broken = vec![format!("panic: {text}")];
        Outcome { broken, trace: [0; 32], story: Vec::new(), figures: Figures::default() }
    })
}

/// Plays `count` seeds from `first` on; with `enough`, no more than it takes to find so many in which something is broken.
pub fn many(first: u64, count: u64, bug: Option<Bug>, enough: usize) -> Played {
    let (next, over, played) = (AtomicU64::new(first), AtomicBool::new(false), Mutex::new(Played::default()));
    let work = || {
        while !over.load(SeqCst) {
            let seed = next.fetch_add(1, SeqCst);
            if seed >= first + count {
                return;
            }
            let outcome = one(seed, bug, false);
            let mut played = played.lock().expect("no panic while counting");
            played.seeds += 1;
            played.figures.add(&outcome.figures);
            if !outcome.broken.is_empty() {
                played.broken.push((seed, outcome.broken));
                over.fetch_or(played.broken.len() >= enough, SeqCst);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let builder = std::thread::Builder::new().stack_size(16 << 20);
            builder.spawn_scoped(scope, work).expect("a thread");
        }
    });
    let mut played = played.into_inner().expect("no panic while counting");
    played.broken.sort();
    played
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.calls += other.calls;
        self.promises += other.promises;
        self.required += other.required;
        self.commands += other.commands;
        self.killed += other.killed;
        self.frozen += other.frozen;
        self.stopped += other.stopped;
        self.seconds += other.seconds;
    }
}
