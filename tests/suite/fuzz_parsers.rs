//! Every parser of bytes from a store meets bytes that nobody wrote: random ones, and valid ones that were changed, in
//! what is stored and, sealed again, in what only a holder of the keys could have written.
//!
//! Seeds are fixed: each runs the same cases in the same order, as many as fit into `HOLDFAST_FUZZ_SECONDS` (20).

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::format_samples::{Sample, samples};
use crate::fuzz_drivers;

/// Bytes that parsers stumble over: ends of ranges, long numbers, tags and separators.
const SPICE: [&[u8]; 14] = [
    &[0],
    &[0xff],
    &[0x80],
    &[0x7f],
    &[0x0a, 0x00],
    &[0x0a, 0x20],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0x00, 0x00, 0x00, 0x80],
    b"..",
    b"/",
    &[0x08, 0xff, 0xff, 0x03],
    &[0x1a, 0x02, 0x08, 0x01],
];

fn below(rng: &mut TestRng, n: usize) -> usize {
    (rng.next_u64() % n.max(1) as u64) as usize
}

/// A few changes to `bytes`.
fn mutate(rng: &mut TestRng, bytes: &mut Vec<u8>) {
    for _ in 0..=below(rng, 4) {
        let at = below(rng, bytes.len() + 1);
        match below(rng, 8) {
            0 => bytes.truncate(at),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (rng.next_u32() % 8)),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.next_u32() as u8),
            3 => drop(bytes.splice(at..at, SPICE[below(rng, SPICE.len())].iter().copied())),
            4 => {
                let end = (at + 1 + below(rng, 40)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + 1 + below(rng, 80)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                let to = below(rng, bytes.len() + 1);
                drop(bytes.splice(to..to, again));
            }
            6 => {
                let spice = SPICE[below(rng, SPICE.len())];
                bytes.iter_mut().skip(at).zip(spice).for_each(|(byte, spice)| *byte = *spice);
            }
            _ => {
                let mut more = vec![0; below(rng, 64)];
                rng.fill_bytes(&mut more);
                bytes.extend_from_slice(&more);
            }
        }
    }
}

/// Does the work without a panic, or says on which bytes.
fn survives<T>(sample: &Sample, bytes: &[u8], work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| panic!("{} fails on {}", sample.name, hex::encode(bytes)))
}

/// Runs `round` after round until the time is up; how many there were.
#[allow(clippy::disallowed_methods)]
fn for_a_while(share: u64, mut round: impl FnMut(&mut TestRng)) -> u64 {
    let seconds = std::env::var("HOLDFAST_FUZZ_SECONDS").map_or(20, |text| text.parse().expect("a number of seconds"));
    let (start, mut rounds) = (std::time::Instant::now(), 0_u64);
    while rounds < 50 || start.elapsed().as_millis() < u128::from(seconds * 1000 * share / 10) {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&rounds.to_le_bytes());
        round(&mut TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        rounds += 1;
    }
    rounds
}

#[test]
fn changed_stored_bytes_are_refused() {
    let samples = samples();
    let rounds = for_a_while(2, |rng| {
        for sample in &samples {
            let mut stored = sample.written.to_vec();
            mutate(rng, &mut stored);
            survives(sample, &stored, || fuzz_drivers::stored(sample, &stored));
        }
    });
    println!("figure: fuzz, changed stored bytes: {}", rounds * samples.len() as u64);
}

#[test]
fn changed_fields_are_read_or_refused() {
    let samples = samples();
    let (mut accepted, mut cases) = (0_u64, 0_u64);
    for_a_while(7, |rng| {
        for sample in &samples {
            let mut plain = sample.plain.clone();
            mutate(rng, &mut plain);
            cases += 1;
            accepted += u64::from(survives(sample, &plain, || fuzz_drivers::fields(sample, &plain)));
        }
    });
    assert!(accepted * 100 > cases, "{accepted} of {cases} accepted: the changes are too coarse to reach far");
    println!("figure: fuzz, changed fields: {cases} ({accepted} accepted)");
}

#[test]
fn random_bytes_are_refused() {
    let samples = samples();
    let rounds = for_a_while(1, |rng| {
        for sample in &samples {
            let magnitude = 1 + below(rng, 14);
            let mut bytes = vec![0; below(rng, 1 << magnitude)];
            rng.fill_bytes(&mut bytes);
            let sealed = (sample.wrap)(&bytes);
            let mut headed = sample.written[..sample.written.len().min(1 + below(rng, 40))].to_vec();
            headed.extend_from_slice(&bytes);
            for bytes in [&bytes, &sealed, &headed] {
                survives(sample, bytes, || drop(fuzz_drivers::read(sample, bytes)));
            }
            survives(sample, &bytes, || fuzz_drivers::names(&bytes));
        }
    });
    println!("figure: fuzz, random bytes: {}", 3 * rounds * samples.len() as u64);
}
