//! What to move, and how: whole packs where most of them is missing, else frames for new packs. Pure.

use std::collections::BTreeMap;

use crate::replica::{Mask, REPLICAS_MAX};
use crate::repository::chunk_index::Place;
use crate::repository::packs::Spot;

/// Frames of source packs with chunks that targets lack. About 40 bytes each.
#[derive(Default)]
pub struct Needs {
    /// By number of the pack and offset in it: stored length, and who lacks something in it.
    frames: BTreeMap<(u32, u32), (u32, Mask)>,
    bytes: [u64; REPLICAS_MAX],
}

impl Needs {
    /// The frame at `place` holds a chunk that the targets `to` lack.
    pub fn add(&mut self, place: &Place, to: Mask) {
        let (stored, mask) = self.frames.entry((place.pack, place.frame_offset)).or_insert((place.frame_stored, Mask::default()));
        for i in to.without(*mask).indices() {
            self.bytes[i] += u64::from(*stored);
        }
        *mask = mask.or(to);
    }

    /// The one of several equally good places that costs least: its frame is moved anyway, else its pack is touched anyway.
    pub fn choose<'p>(&self, places: &'p [Place]) -> Option<&'p Place> {
        let frame = |p: &&Place| self.frames.contains_key(&(p.pack, p.frame_offset));
        let pack = |p: &&Place| self.frames.range((p.pack, 0)..=(p.pack, u32::MAX)).next().is_some();
        places.iter().find(frame).or_else(|| places.iter().find(pack)).or(places.first())
    }

    /// Stored bytes of the frames that the neediest target lacks.
    pub fn most(&self) -> u64 {
        self.bytes.iter().copied().max().unwrap_or(0)
    }

    /// The targets that lack something.
    pub fn lacking(&self) -> Mask {
        self.frames.values().fold(Mask::default(), |all, (_, mask)| all.or(*mask))
    }

    /// The packs that something is needed of, by number.
    pub fn packs(&self) -> impl Iterator<Item = u32> {
        let mut packs: Vec<u32> = self.frames.keys().map(|(pack, _)| *pack).collect();
        packs.dedup();
        packs.into_iter()
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// What the plan must know of a pack.
#[derive(Clone, Copy, Debug)]
pub struct PackFacts {
    /// Its size in bytes.
    pub size: u64,
    /// The targets at which an object of this very name may be relied on: it is known that it was never condemned or distrusted
    /// there.
    pub nameable: Mask,
    /// Whether some replica trusts its copy.
    pub trusted: bool,
}

/// A frame that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it lies.
    pub spot: Spot,
    /// Who lacks something in it.
    pub to: Mask,
}

/// What to do with one source pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its number.
    pub pack: u32,
    /// The targets that get it as it is.
    pub whole: Mask,
    /// All that is needed of it, by whom, ascending by offset; what `whole` does not cover goes into new packs.
    pub frames: Vec<Wanted>,
}

impl Move {
    /// Everyone who gets something.
    pub fn to(&self) -> Mask {
        self.frames.iter().fold(Mask::default(), |m, frame| m.or(frame.to))
    }
    /// Stored bytes of the needed frames.
    pub fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.spot.1)).sum()
    }
}

/// How many bytes each target would get from where, by its index; `source` names who is read first for a pack, if anybody is trusted.
pub fn sources(moves: &[Move], source: impl Fn(u32) -> Option<String>) -> BTreeMap<usize, BTreeMap<Option<String>, u64>> {
    let mut all: BTreeMap<usize, BTreeMap<Option<String>, u64>> = BTreeMap::new();
    for one in moves {
        let source = source(one.pack);
        for wanted in &one.frames {
            for target in wanted.to.indices() {
                *all.entry(target).or_default().entry(source.clone()).or_default() += u64::from(wanted.spot.1);
            }
        }
    }
    all
}

/// A pack goes as it is to a target that lacks at least half of its bytes, where its name is good and its bytes are trusted;
/// everything else goes frame by frame.
pub fn plan(needs: Needs, facts: impl Fn(u32) -> PackFacts) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    for ((pack, offset), (stored, to)) in needs.frames {
        let wanted = Wanted { spot: (offset, stored), to };
        match moves.last_mut() {
            Some(last) if last.pack == pack => last.frames.push(wanted),
            _ => moves.push(Move { pack, whole: Mask::default(), frames: vec![wanted] }),
        }
    }
    for one in &mut moves {
        let facts = facts(one.pack);
        for i in one.to().and(facts.nameable).indices() {
            let bytes: u64 = one.frames.iter().filter(|f| f.to.has(i)).map(|f| u64::from(f.spot.1)).sum();
            if facts.trusted && bytes.saturating_mul(2) >= facts.size {
                one.whole = one.whole.or(Mask::one(i));
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use crate::lifecycle::heal_plan::{Move, Needs, PackFacts, Wanted, plan};
    use crate::replica::Mask;
    use crate::repository::chunk_index::Place;
    use crate::seal::{Compression, FrameShape};

    fn place(pack: u32, frame_offset: u32, frame_stored: u32) -> Place {
        let shape = FrameShape { generation: 1, plain_len: 9, compression: Compression::Stored };
        Place { pack, frame: 0, frame_offset, frame_stored, shape, offset: 0, length: 9 }
    }

    const ONE: Mask = Mask(0b10);
    const TWO: Mask = Mask(0b100);
    const BOTH: Mask = Mask(0b110);

    #[test]
    fn a_pack_goes_whole_to_who_lacks_half_of_it() {
        let mut needs = Needs::default();
        needs.add(&place(7, 25, 40), ONE);
        needs.add(&place(7, 25, 40), TWO);
        needs.add(&place(7, 65, 20), ONE);
        needs.add(&place(7, 65, 20), ONE);
        assert_eq!((needs.most(), needs.is_empty()), (60, false));
        let frames = vec![Wanted { spot: (25, 40), to: BOTH }, Wanted { spot: (65, 20), to: ONE }];
        let planned = plan(needs, |_| PackFacts { size: 120, nameable: BOTH, trusted: true });
        assert_eq!(planned, [Move { pack: 7, whole: ONE, frames }]);
        assert_eq!((planned[0].bytes(), planned[0].to()), (60, BOTH));
    }

    #[test]
    fn never_under_a_void_name_and_never_unread() {
        for (nameable, trusted) in [(TWO, true), (BOTH, false)] {
            let mut needs = Needs::default();
            needs.add(&place(7, 25, 100), ONE);
            let planned = plan(needs, |_| PackFacts { size: 120, nameable, trusted });
            assert_eq!(planned[0].whole, Mask::default());
        }
    }

    #[test]
    fn what_is_moved_anyway_is_chosen() {
        let mut needs = Needs::default();
        let places = [place(1, 25, 5), place(2, 25, 5), place(2, 90, 5)];
        assert_eq!(needs.choose(&places), Some(&places[0]));
        needs.add(&place(2, 60, 5), ONE);
        assert_eq!(needs.choose(&places), Some(&places[1]), "its pack is read anyway");
        needs.add(&places[2], TWO);
        assert_eq!(needs.choose(&places), Some(&places[2]), "its frame is moved anyway");
        assert_eq!(needs.choose(&[]), None);
    }
}
