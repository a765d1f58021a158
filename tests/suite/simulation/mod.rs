//! Deterministic simulation: the real code on stores of the simulation's own, where every call waits for its turn and anything
//! can go wrong that a provider, a network, a machine or a clock can do. Everything follows from one seed: what the world is
//! like, who does what, which call comes next, what becomes of it. A seed that fails fails again, call by call.
//!
//! `HOLDFAST_SEEDS=N` plays so many seeds instead of [`SEEDS`]; `HOLDFAST_SEED=n` plays one and tells its story.

mod clients;
mod dice;
mod finale;
mod gate;
mod judge;
mod planted;
mod process;
mod run;
mod seeds;
mod shelf;
mod sweep;
mod tree;
mod weather;
mod world;

use holdfast::clock::Planted;

use crate::simulation::planted::Bug;

/// Seeds that are played unless told otherwise.
const SEEDS: u64 = 5_000;
/// Within so many seeds every planted bug has to be found.
const FOUND_WITHIN: u64 = 200;
/// Failing seeds that are told of.
const TOLD: usize = 5;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn story(seed: u64, bug: Option<Bug>) {
    let outcome = seeds::one(seed, bug, true);
    outcome.story.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: trace {}, {:?}", hex::encode(outcome.trace), outcome.figures);
    assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        return story(seed, None);
    }
    let played = seeds::many(number("HOLDFAST_FIRST_SEED").unwrap_or(0), number("HOLDFAST_SEEDS").unwrap_or(SEEDS), None, TOLD);
    let f = played.figures;
    println!(
        "figure: simulation, seeds: {}, failed: {} ({} calls, {} commands ({} killed, {} asked to stop, {} frozen), {} snapshots promised, {} of them to be kept, {} years)",
        played.seeds,
        played.broken.len(),
        f.calls,
        f.commands,
        f.killed,
        f.stopped,
        f.frozen,
        f.promises,
        f.required,
        f.seconds / (365 * 86_400)
    );
    for (seed, broken) in &played.broken {
        println!("seed {seed}: {broken:?}");
        println!("again: HOLDFAST_SEED={seed} cargo test --test suite simulation::every_seed -- --nocapture");
    }
    assert!(played.broken.is_empty(), "{} of {} seeds failed", played.broken.len(), played.seeds);
    assert!(f.promises > played.seeds && f.required * 3 > f.promises, "there was too little to lose: {f:?}");
}

/// Each of these found a fault once: in heal (the last one while it commits at two replicas at once), in a compaction that was
/// overtaken, in the suite's own pruner, in its processes (10480), in two runs that each forgot what the other had kept (303251).
#[test]
fn seeds_that_once_failed_end_well() {
    for seed in [1_380, 10_480, 21_804, 48_860, 82_695, 92_613, 99_713, 99_797, 115_587, 303_251] {
        let outcome = seeds::one(seed, None, false);
        assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
    }
}

#[test]
fn a_seed_plays_the_same_twice() {
    for seed in 0..24 {
        let (one, two) = (seeds::one(seed, None, false), seeds::one(seed, None, true));
        assert_eq!(hex::encode(one.trace), hex::encode(two.trace), "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let bugs = [
        Bug::Program(Planted::UnverifiedRecords),
        Bug::Program(Planted::UnverifiedPublish),
        Bug::Program(Planted::ReusedNames),
        Bug::Program(Planted::ForgottenHealed),
        Bug::Program(Planted::ListedRoots),
        Bug::Program(Planted::WrongCover),
        Bug::EarlyReceipts,
        Bug::OneIgnored,
        Bug::TakenIsDone,
        Bug::ResumedReader,
    ];
    let mut missed = Vec::new();
    println!("figure: simulation, planted bugs to be found within {FOUND_WITHIN} seeds each: {}", bugs.len());
    for bug in bugs {
        let played = seeds::many(0, FOUND_WITHIN, Some(bug), 1);
        match played.broken.first() {
            Some((seed, broken)) => println!("{bug:?}: found by seed {seed} (of {} played): {}", played.seeds, broken[0]),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {FOUND_WITHIN} seeds: {missed:?}");
}
