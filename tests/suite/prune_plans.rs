//! The planner alone, over random worlds: it never takes a chunk's last place, keeps its limits, and comes to rest.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::lifecycle::prune_plan::{Fate, FrameFacts, Limits, MaxUnused, PackFacts, Plan, Why, plan};
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::strategy::Just;
use proptest::{collection, prop_assert, prop_assert_eq, proptest};

/// Packs, the frames in each (the lengths of the chunks in it, by number of the chunk), and which chunks are live.
#[derive(Clone, Debug)]
struct World {
    packs: Vec<PackFacts>,
    /// Pack, and its chunks.
    frames: Vec<(u32, Vec<u32>)>,
    live: BTreeSet<u32>,
}

/// The length of a chunk.
fn length(chunk: u32) -> u32 {
    // Some are so small that their share of a frame rounds to nothing.
    if chunk.is_multiple_of(5) { 1 } else { 100 + 37 * (chunk % 50) }
}

impl World {
    fn frame(&self, number: u32) -> FrameFacts {
        let (pack, chunks) = &self.frames[number as usize];
        let plain: u32 = chunks.iter().map(|chunk| length(*chunk)).sum();
        FrameFacts { pack: *pack, stored: plain / 3 + 1, plain }
    }

    /// Of each live chunk the frames that hold it where the log relies on the pack.
    fn places(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut places: BTreeMap<u32, Vec<u32>> = self.live.iter().map(|chunk| (*chunk, Vec::new())).collect();
        for (number, (_, chunks)) in self.frames.iter().enumerate().filter(|(_, (pack, _))| self.packs[*pack as usize].here) {
            for chunk in chunks {
                if let Some(places) = places.get_mut(chunk)
                    && !places.contains(&(number as u32))
                {
                    places.push(number as u32);
                }
            }
        }
        places
    }

    fn plan(&self, limits: &Limits) -> Plan {
        let places = self.places();
        let visit = |visit: &mut dyn FnMut(u32, &[u32])| places.iter().for_each(|(chunk, places)| visit(length(*chunk), places));
        plan(&self.packs, self.frames.len(), &|number| self.frame(number), &visit, limits)
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let pack = (any::<[bool; 3]>(), 0..4_u8, collection::vec(collection::vec(0..60_u32, 1..6), 0..5));
    (collection::vec(pack, 1..12), collection::btree_set(0..60_u32, 0..40)).prop_map(|(made, live)| {
        let (mut packs, mut frames) = (Vec::new(), Vec::new());
        for (number, ([here, distrusted, young], rare, inside)) in made.into_iter().enumerate() {
            frames.extend(inside.into_iter().map(|chunks| (number as u32, chunks)));
            packs.push(PackFacts {
                size: 0,
                here: here || rare > 0,
                distrusted: distrusted && rare == 0,
                young: young && rare == 1,
            });
        }
        let mut world = World { packs, frames, live };
        for number in 0..world.frames.len() as u32 {
            let frame = world.frame(number);
            world.packs[frame.pack as usize].size += u64::from(frame.stored);
        }
        world.packs.iter_mut().for_each(|pack| pack.size += 100);
        world
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let unused = prop_oneof![
        Just(MaxUnused::Bytes(0)),
        Just(MaxUnused::Unlimited),
        (0..3_000_u64).prop_map(MaxUnused::Bytes),
        (0.0..100.0_f64).prop_map(MaxUnused::Percent),
    ];
    (unused, proptest::option::of(0..5_000_u64)).prop_map(|(max_unused, max_repack)| Limits { max_unused, max_repack })
}

/// The frames that move, and whether they are opened.
fn moving(plan: &Plan) -> BTreeMap<u32, bool> {
    plan.moves.iter().flat_map(|(_, all)| all.iter().map(|one| (one.frame, one.opened))).collect()
}

proptest! {
    #[test]
    fn no_chunk_loses_its_last_place(world in worlds(), limits in limits()) {
        let plan = world.plan(&limits);
        let going: BTreeSet<u32> = plan.going().collect();
        let moved = moving(&plan);
        prop_assert_eq!(plan.fates.len(), world.packs.len());
        for (facts, fate) in world.packs.iter().zip(&plan.fates) {
            prop_assert_eq!(facts.here, fate.is_some());
            if facts.young && !facts.distrusted {
                prop_assert!(!matches!(fate, Some(Fate::Drop | Fate::Repack)));
            }
            if facts.distrusted {
                prop_assert!(*fate != Some(Fate::Repack), "what is damaged is never moved");
            }
        }
        for (pack, all) in &plan.moves {
            prop_assert_eq!(plan.fates[*pack as usize], Some(Fate::Repack));
            prop_assert!(all.iter().all(|one| world.frames[one.frame as usize].0 == *pack));
        }
        let mut lost = 0;
        for (chunk, places) in world.places() {
            let pack = |place: &u32| world.frames[*place as usize].0;
            let trusted: Vec<u32> = places.iter().copied().filter(|place| !world.packs[pack(place) as usize].distrusted).collect();
            if trusted.is_empty() {
                lost += u64::from(places.is_empty());
                for place in &places {
                    prop_assert_eq!(plan.fates[pack(place) as usize], Some(Fate::Keep(Why::Damaged)), "chunk {}", chunk);
                }
                continue;
            }
            let stays = trusted.iter().any(|place| !going.contains(&pack(place)) || moved.contains_key(place));
            prop_assert!(stays, "chunk {} loses its last place", chunk);
        }
        prop_assert_eq!(plan.lost, lost);
    }

    #[test]
    fn limits_are_kept(world in worlds(), limits in limits()) {
        let plan = world.plan(&limits);
        let all = world.plan(&Limits { max_unused: MaxUnused::Bytes(0), max_repack: None });
        let repacked = |plan: &Plan| -> Vec<usize> {
            plan.fates.iter().enumerate().filter(|(_, fate)| **fate == Some(Fate::Repack)).map(|(number, _)| number).collect()
        };
        let bytes: u64 = repacked(&plan).iter().map(|number| world.packs[*number].size).sum();
        if let Some(most) = limits.max_repack {
            prop_assert!(bytes <= most);
        }
        if limits.max_unused == MaxUnused::Unlimited {
            prop_assert!(repacked(&plan).is_empty());
        }
        // What some limits take apart, none would, too; and what is dropped is no matter of limits.
        prop_assert!(repacked(&plan).iter().all(|number| repacked(&all).contains(number)));
        let dropped = |plan: &Plan| plan.fates.iter().map(|fate| *fate == Some(Fate::Drop)).collect::<Vec<_>>();
        prop_assert_eq!(dropped(&plan), dropped(&all));
        prop_assert!(!all.fates.iter().any(|fate| matches!(fate, Some(Fate::Keep(Why::Tolerated | Why::Later)))));
    }

    /// Carried out and planned again, there is nothing left to do: no pack is moved over and over.
    #[test]
    fn it_comes_to_rest(world in worlds()) {
        let limits = Limits { max_unused: MaxUnused::Bytes(0), max_repack: None };
        let mut world = world;
        for round in 0..4 {
            let (plan, places) = (world.plan(&limits), world.places());
            let going: BTreeSet<u32> = plan.going().collect();
            if going.is_empty() {
                return Ok(());
            }
            prop_assert!(round < 3, "it goes on and on");
            let fresh = world.packs.len() as u32;
            let mut made = Vec::new();
            for (frame, opened) in moving(&plan) {
                let chunks = world.frames[frame as usize].1.clone();
                let placed = |chunk: &u32| {
                    let places = places.get(chunk).into_iter().flatten();
                    plan.place(places.map(|place| (*place, world.frames[*place as usize].0))) == Some(frame)
                };
                let mut kept: Vec<u32> = chunks.into_iter().filter(|chunk| !opened || placed(chunk)).collect();
                kept.dedup();
                made.push((fresh, kept));
            }
            going.iter().for_each(|number| world.packs[*number as usize].here = false);
            world.packs.push(PackFacts { size: 100, here: !made.is_empty(), distrusted: false, young: false });
            world.frames.extend(made);
            for number in 0..world.frames.len() as u32 {
                let frame = world.frame(number);
                if frame.pack == fresh {
                    world.packs[fresh as usize].size += u64::from(frame.stored);
                }
            }
        }
    }
}

#[test]
fn what_is_half_live_moves_as_it_is_and_the_rest_is_opened() {
    let facts = PackFacts { size: 1_000, here: true, ..PackFacts::default() };
    // Chunks 1 and 2 of one frame, 11 and 12 of another, 21 alone: each pair as long as the other.
    let frames = vec![(0, vec![1, 51]), (0, vec![3, 4, 53]), (0, vec![21])];
    let world = World { packs: vec![facts], frames, live: BTreeSet::from([1, 3]) };
    let plan = world.plan(&Limits { max_unused: MaxUnused::Bytes(0), max_repack: None });
    assert_eq!(plan.fates, [Some(Fate::Repack)]);
    assert_eq!(moving(&plan), BTreeMap::from([(0, false), (1, true)]));
}
