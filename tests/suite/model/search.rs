//! Breadth first over every order of steps; each state is held once, in a few dozen bytes. Exact: states are compared whole.

use std::fmt;
use std::time::{Duration, Instant};

use crate::model::protocol::{Broken, Scenario};
use crate::model::world::World;

/// What a search came to.
pub struct Searched {
    pub states: usize,
    pub transitions: u64,
    /// Steps to the farthest state.
    pub depth: u32,
    /// Bytes held at the end.
    pub bytes: usize,
    pub took: Duration,
    /// What was reached at all, see [`crate::model::scenarios::sights`].
    pub sights: u32,
    pub found: Option<Found>,
}

/// A violation and the shortest way to it.
pub struct Found {
    pub broken: Broken,
    pub trace: Vec<String>,
}

/// Every state seen: its bytes one behind the other, where each begins, where it came from, and a table of all by hash.
struct Seen {
    arena: Vec<u8>,
    starts: Vec<u32>,
    parents: Vec<u32>,
    table: Vec<u32>,
}

const NONE: u32 = u32::MAX;

fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ bytes.len() as u64;
    for part in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 29
}

impl Seen {
    fn new() -> Seen {
        Seen { arena: Vec::new(), starts: vec![0], parents: Vec::new(), table: vec![NONE; 1 << 12] }
    }
    fn len(&self) -> usize {
        self.parents.len()
    }
    fn get(&self, at: usize) -> &[u8] {
        &self.arena[self.starts[at] as usize..self.starts[at + 1] as usize]
    }
    fn bytes(&self) -> usize {
        self.arena.capacity() + 4 * (self.starts.capacity() + self.parents.capacity() + self.table.len())
    }
    fn slot(&self, bytes: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut at = hash(bytes) as usize & mask;
        while self.table[at] != NONE && self.get(self.table[at] as usize) != bytes {
            at = (at + 1) & mask;
        }
        at
    }
    /// Takes a state in; `false` when it was there.
    fn insert(&mut self, bytes: &[u8], parent: u32) -> bool {
        let slot = self.slot(bytes);
        if self.table[slot] != NONE {
            return false;
        }
        self.table[slot] = u32::try_from(self.len()).expect("fewer than four billion states");
        self.arena.extend_from_slice(bytes);
        self.starts.push(u32::try_from(self.arena.len()).expect("less than 4 GiB of states"));
        self.parents.push(parent);
        if self.len() * 2 > self.table.len() {
            self.table = vec![NONE; self.table.len() * 2];
            for at in 0..self.len() {
                let slot = self.slot(self.get(at));
                self.table[slot] = at as u32;
            }
        }
        true
    }
}

/// Searches a scenario to its end, or to the first violation. More than `most` states are a failure: a search that stops
/// early proves nothing.
pub fn search(scenario: &Scenario, most: usize) -> Searched {
    let began = Instant::now();
    let extent = scenario.extent();
    let (mut seen, mut bytes) = (Seen::new(), Vec::new());
    let (mut transitions, mut sights, mut depth, mut level_ends) = (0_u64, 0, 0, 1);
    scenario.start.encode(extent, &mut bytes);
    seen.insert(&bytes, NONE);
    let mut found: Option<(u32, Option<World>, Broken)> = None;
    let mut at = 0;
    while at < seen.len() && found.is_none() {
        if at == level_ends {
            (depth, level_ends) = (depth + 1, seen.len());
        }
        let world = World::decode(seen.get(at), extent);
        sights |= scenario.sights(&world);
        if let Some(broken) = scenario.broken(&world) {
            found = Some((at as u32, None, broken));
            break;
        }
        scenario.steps(&world, &mut |next, _, broken| {
            transitions += 1;
            if let Some(broken) = broken {
                found = found.take().or(Some((at as u32, Some(*next), broken)));
            }
            next.encode(extent, &mut bytes);
            if seen.insert(&bytes, at as u32) {
                assert!(World::decode(&bytes, extent) == *next, "nothing of a state is left out");
            }
        });
        assert!(seen.len() <= most, "{}: more than {most} states", scenario.name);
        at += 1;
    }
    let found = found.map(|(at, last, broken)| Found { broken, trace: trace(scenario, &seen, at, last, broken) });
    Searched { states: seen.len(), transitions, depth, bytes: seen.bytes(), took: began.elapsed(), sights, found }
}

/// The way to a state, in words: each step is looked for again among those of the state before it.
fn trace(scenario: &Scenario, seen: &Seen, end: u32, last: Option<World>, broken: Broken) -> Vec<String> {
    let extent = scenario.extent();
    let mut path = vec![end];
    while seen.parents[path[path.len() - 1] as usize] != NONE {
        path.push(seen.parents[path[path.len() - 1] as usize]);
    }
    let mut worlds: Vec<World> = path.iter().rev().map(|at| World::decode(seen.get(*at as usize), extent)).collect();
    worlds.extend(last);
    let mut lines = Vec::new();
    for pair in worlds.windows(2) {
        let mut words = None;
        scenario.steps(&pair[0], &mut |next, label: fmt::Arguments<'_>, _| {
            if *next == pair[1] {
                words.get_or_insert_with(|| label.to_string());
            }
        });
        lines.push(words.expect("a step that was taken can be taken again"));
    }
    lines.push(format!("=> {broken}"));
    lines
}
