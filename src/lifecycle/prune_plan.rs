//! Which packs of one log stay, which go, and which give their live frames to new packs first. Pure.
//!
//! A chunk that lies in several packs counts in one of them only. What lies in damaged packs alone keeps all of them: unknown
//! bytes are no reason to take away the last there are.

use std::cmp::Reverse;

/// What is known of a pack.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackFacts {
    /// Its size in bytes.
    pub size: u64,
    /// Whether the log relies on it; nothing is decided about others.
    pub here: bool,
    /// Whether it was found damaged.
    pub distrusted: bool,
    /// Whether it was written so lately that the run that sent it may still be under way.
    pub young: bool,
}

/// What is known of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFacts {
    /// Number of its pack.
    pub pack: u32,
    /// Its length there in bytes.
    pub stored: u32,
    /// Length of its plaintext in bytes.
    pub plain: u32,
}

/// How much of what could be freed may stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// In percent of what is stored afterwards.
    Percent(f64),
    /// In bytes.
    Bytes(u64),
    /// All of it: nothing is moved.
    Unlimited,
}

/// What a plan obeys.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How much of what could be freed may stay.
    pub max_unused: MaxUnused,
    /// Bytes of packs that are taken apart at most, per replica; none: no limit.
    pub max_repack: Option<u64>,
}

/// Why a pack stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// All of it is needed, or cannot be freed by itself.
    Used,
    /// It was written too lately.
    Young,
    /// It was found damaged, and something live has no other place.
    Damaged,
    /// What could be freed is within [`Limits::max_unused`].
    Tolerated,
    /// It would exceed [`Limits::max_repack`].
    Later,
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep(Why),
    /// It goes: nothing live has its place there.
    Drop,
    /// It goes when its live frames have moved.
    Repack,
}

/// A frame that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Its number.
    pub frame: u32,
    /// Whether its live chunks are taken out and sealed anew; else it moves as it is.
    pub opened: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What becomes of each pack, by number; none: the log does not rely on it.
    pub fates: Vec<Option<Fate>>,
    /// How far each pack is preferred as the place of a chunk, 0 first; none: never, it was found damaged.
    ranks: Vec<Option<u32>>,
    /// What moves out of each pack that is taken apart, by its number.
    pub moves: Vec<(u32, Vec<Moving>)>,
    /// Live chunks that have no place at all.
    pub lost: u64,
    /// Stored bytes of what is live, about.
    pub live: u64,
    /// Stored bytes of what moves, about.
    pub moved: u64,
}

impl Plan {
    /// The frame that is the place of a chunk, of those that hold it (number, and number of its pack); none: it lies in damaged
    /// packs alone. What moves is what has its place where it lies: a copy beside it does not move, too.
    pub fn place(&self, frames: impl Iterator<Item = (u32, u32)>) -> Option<u32> {
        best(&self.ranks, frames)
    }

    /// Numbers of the packs that go.
    pub fn going(&self) -> impl Iterator<Item = u32> {
        let goes = |fate: &Option<Fate>| matches!(fate, Some(Fate::Drop | Fate::Repack));
        self.fates.iter().enumerate().filter(move |(_, fate)| goes(fate)).map(|(number, _)| number as u32)
    }
}

fn best(ranks: &[Option<u32>], frames: impl Iterator<Item = (u32, u32)>) -> Option<u32> {
    // Packs that came after the plan have no rank.
    let ranked = frames.filter_map(|(frame, pack)| Some((ranks.get(pack as usize).copied()??, frame)));
    ranked.min().map(|(_, frame)| frame)
}

/// Calls what it is given for every live chunk: its length in bytes, and the numbers of the frames that hold it here.
pub type Visit<'a> = &'a dyn Fn(&mut dyn FnMut(u32, &[u32]));

/// What a pack holds, by a count of live bytes in each frame.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Stored bytes of what is live.
    live: u64,
    /// Stored bytes that taking it apart frees.
    freed: u64,
    /// Whether anything is live: a share of few bytes can round to none.
    any: bool,
}

/// Stored bytes of a frame's live part.
fn share(frame: FrameFacts, live: u32) -> u64 {
    u64::from(frame.stored) * u64::from(live.min(frame.plain)) / u64::from(frame.plain.max(1))
}

/// Stored bytes of a frame that taking its pack apart frees. What is at least half live moves as it is.
fn freed(frame: FrameFacts, live: u32) -> u64 {
    if u64::from(live) * 2 < u64::from(frame.plain) { u64::from(frame.stored) - share(frame, live) } else { 0 }
}

fn tally(packs: usize, live: &[u32], frame: &dyn Fn(u32) -> FrameFacts) -> Vec<Tally> {
    let mut out = vec![Tally::default(); packs];
    for (number, live) in live.iter().enumerate() {
        let facts = frame(number as u32);
        let pack = &mut out[facts.pack as usize];
        pack.live += share(facts, *live);
        pack.freed += freed(facts, *live);
        pack.any |= *live > 0;
    }
    out
}

/// The packs in the order in which they are preferred as the place of a chunk: those that nothing would be freed of, then those
/// that are live for the greater part. What an earlier run moved is of the first kind: it is not moved again.
fn ranks(packs: &[PackFacts], tallies: &[Tally]) -> Vec<Option<u32>> {
    let mut order: Vec<u32> = (0..packs.len() as u32).collect();
    order.sort_by_cached_key(|number| {
        let (facts, tally) = (&packs[*number as usize], &tallies[*number as usize]);
        let parts = u128::from(tally.live) * 1_000_000 / u128::from(facts.size.max(1));
        (tally.freed > 0, Reverse(parts), *number)
    });
    let mut ranks = vec![None; packs.len()];
    for (rank, number) in order.into_iter().enumerate() {
        ranks[number as usize] = (!packs[number as usize].distrusted).then_some(rank as u32);
    }
    ranks
}

/// Decides about every pack that is here. `frame` knows each of `frames` frames; those of a pack have neighbouring numbers.
pub fn plan(packs: &[PackFacts], frames: usize, frame: &dyn Fn(u32) -> FrameFacts, chunks: Visit<'_>, limits: &Limits) -> Plan {
    let mut live = vec![0_u32; frames];
    chunks(&mut |length, places| {
        places.iter().for_each(|place| live[*place as usize] = live[*place as usize].saturating_add(length));
    });
    let ranks = ranks(packs, &tally(packs.len(), &live, frame));
    live.fill(0);
    let mut pinned = vec![false; packs.len()];
    let mut lost = 0;
    chunks(&mut |length, places| {
        let pack = |place: &u32| frame(*place).pack as usize;
        match best(&ranks, places.iter().map(|place| (*place, pack(place) as u32))) {
            Some(best) => live[best as usize] = live[best as usize].saturating_add(length),
            None => places.iter().for_each(|place| pinned[pack(place)] = true),
        }
        lost += u64::from(places.is_empty());
    });
    let tallies = tally(packs.len(), &live, frame);
    let mut out = Plan { ranks, lost, live: tallies.iter().map(|tally| tally.live).sum(), ..Plan::default() };
    let mut wasteful: Vec<u32> = Vec::new();
    for (number, (facts, tally)) in packs.iter().zip(&tallies).enumerate() {
        out.fates.push(facts.here.then(|| {
            if pinned[number] {
                Fate::Keep(Why::Damaged)
            } else if facts.distrusted {
                // Nobody may rely on it, and nothing live has its place there.
                Fate::Drop
            } else if tally.any && tally.freed == 0 {
                Fate::Keep(Why::Used)
            } else if facts.young {
                Fate::Keep(Why::Young)
            } else if !tally.any {
                Fate::Drop
            } else {
                wasteful.push(number as u32);
                Fate::Keep(Why::Tolerated)
            }
        }));
    }
    choose(&mut out, wasteful, packs, &tallies, limits);
    for (number, live) in live.iter().enumerate().filter(|(_, live)| **live > 0) {
        let facts = frame(number as u32);
        if out.fates[facts.pack as usize] != Some(Fate::Repack) {
            continue;
        }
        let opened = freed(facts, *live) > 0;
        out.moved += if opened { share(facts, *live) } else { u64::from(facts.stored) };
        let moving = Moving { frame: number as u32, opened };
        match out.moves.last_mut() {
            Some((pack, all)) if *pack == facts.pack => all.push(moving),
            _ => out.moves.push((facts.pack, vec![moving])),
        }
    }
    out
}

/// Which of the wasteful packs are taken apart: the most wasteful first, until little enough is left.
fn choose(out: &mut Plan, mut wasteful: Vec<u32>, packs: &[PackFacts], tallies: &[Tally], limits: &Limits) {
    let freed = |number: &u32| tallies[*number as usize].freed;
    let mut left: u64 = wasteful.iter().map(freed).sum();
    let tolerated = match limits.max_unused {
        MaxUnused::Unlimited => return,
        MaxUnused::Bytes(bytes) => bytes,
        MaxUnused::Percent(percent) if percent >= 100.0 => return,
        // Of what is stored afterwards: the live part and what stays beside it.
        MaxUnused::Percent(percent) => (out.live as f64 * percent.max(0.0) / (100.0 - percent.max(0.0))) as u64,
    };
    wasteful.sort_by_cached_key(|number| {
        let parts = u128::from(freed(number)) * 1_000_000 / u128::from(packs[*number as usize].size.max(1));
        (Reverse(parts), *number)
    });
    let mut taken = 0_u64;
    for number in wasteful {
        if left <= tolerated {
            break;
        }
        let size = packs[number as usize].size;
        if limits.max_repack.is_some_and(|most| taken.saturating_add(size) > most) {
            out.fates[number as usize] = Some(Fate::Keep(Why::Later));
            continue;
        }
        taken += size;
        left -= freed(&number);
        out.fates[number as usize] = Some(Fate::Repack);
    }
}
