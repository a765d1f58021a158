//! What each actor may do next: one store operation a step. A pause is a step not taken, and so is a crash: whatever a
//! crash leads to is reached while its actor stands still, and who starts again is an actor of its own.

use std::fmt;

use crate::model::protocol::{Backup, Broken, Flaw, Plans, Role, Scenario};
use crate::model::records::{Lost, last_of};
use crate::model::words::{chunks, names, store};
use crate::model::world::{Actor, Set, World, bits, stage};

/// Takes each step: the world after it, in words, and what it broke.
pub type Sink<'s> = dyn FnMut(&World, fmt::Arguments<'_>, Option<Broken>) + 's;

impl Scenario {
    /// Every step that may be taken in `world`.
    pub fn steps(&self, world: &World, out: &mut Sink<'_>) {
        for (a, role) in self.roles.iter().enumerate() {
            match *role {
                Role::Backup(_) => (0..self.replicas).for_each(|r| self.backup(world, a, r, out)),
                Role::Pruner { at, .. } => self.pruner(world, a, at, role, out),
                Role::Compactor { at, segment } => self.compactor(world, a, at, segment, out),
                Role::Forgetter { at, .. } | Role::Verifier { at } => self.write(world, a, at, out),
                Role::Healer { from, to, snapshot, packs } => self.healer(world, a, [from, to], snapshot, packs, out),
            }
        }
        self.late(world, out);
        for r in 0..self.replicas {
            for name in bits(world.present[r] & self.whole(world, r).doomed) {
                let mut next = *world;
                next.present[r] &= !(1 << name);
                let broken = self.deletable(world, r, 1 << name);
                out(&next, format_args!("a DELETE of {} arrives at {}", names(1 << name), store(r)), broken);
            }
            for (at, pack) in self.damage.iter().filter(|(at, _)| *at == r) {
                if world.present[r] & pack & !world.damaged[r] != 0 {
                    let mut next = *world;
                    next.damaged[*at] |= pack;
                    out(&next, format_args!("{} is damaged at {}", names(*pack), store(r)), None);
                }
            }
        }
    }

    fn open(&self, world: &World, a: usize, r: usize, out: &mut Sink<'_>, then: impl Fn(&mut World)) {
        let len = world.logs[r].len;
        let least = if self.weak { self.start.logs[r].len } else { len };
        for view in least..=len {
            let mut next = *world;
            next.actors[a].view[r] = view;
            then(&mut next);
            out(&next, format_args!("{} reads the log of {} to slot {view}", self.who(a), store(r)), None);
        }
    }

    /// An object is put: under a name of its own, so whatever is there already is the same.
    fn put(&self, world: &World, a: usize, r: usize, object: Set, out: &mut Sink<'_>, then: impl Fn(&mut World, &mut Actor)) {
        let mut next = *world;
        next.present[r] |= object;
        let mut actor = next.actors[a];
        then(&mut next, &mut actor);
        next.actors[a] = actor;
        let (who, held) = (self.who(a), next.chunks(object));
        match held {
            0 => out(&next, format_args!("{who} puts {} at {}", names(object), store(r)), None),
            _ => out(&next, format_args!("{who} puts {} ({}) at {}", names(object), chunks(held), store(r)), None),
        }
    }

    fn backup(&self, world: &World, a: usize, r: usize, out: &mut Sink<'_>) {
        let Role::Backup(Backup { publishes, objects, segments, .. }) = self.roles[a] else { return };
        let actor = &world.actors[a];
        let (object, segment) = (objects[usize::from(actor.again)], segments[usize::from(actor.again)]);
        match actor.stage[r] {
            stage::OPEN if actor.stage[..r].iter().all(|s| *s == stage::OPENED) => self.open(world, a, r, out, |next| {
                next.actors[a].stage[r] = stage::OPENED;
                if r + 1 == self.replicas {
                    self.plan_backup(next, a);
                }
            }),
            stage::PUT => self.put(world, a, r, actor.pack, out, |_, actor| {
                actor.own[r] = actor.pack;
                actor.stage[r] = match (publishes, segment) {
                    (true, 0) => stage::PUBLISH,
                    (true, _) => stage::SEGMENT,
                    (false, _) => last_of(object),
                };
            }),
            stage::SEGMENT => self.put(world, a, r, segment, out, |_, actor| actor.stage[r] = stage::PUBLISH),
            stage::OBJECT => self.put(world, a, r, object, out, |_, actor| actor.stage[r] = stage::WRITE),
            stage::PUBLISH | stage::WRITE => self.write(world, a, r, out),
            _ => {}
        }
    }

    /// Whether a backup that is in its first pass commits when nobody else does anything any more.
    pub fn ends_well(&self, world: &World, a: usize) -> bool {
        if !matches!(self.roles[a], Role::Backup(_)) || world.actors[a].again != 0 {
            return true;
        }
        let mut world = *world;
        loop {
            let mut next = None;
            (0..self.replicas).for_each(|r| {
                self.backup(&world, a, r, &mut |step, _, _| {
                    next.get_or_insert(*step);
                });
            });
            match next {
                Some(step) => world = step,
                None => return world.actors[a].acked != 0,
            }
        }
    }

    /// Decides what is carried over from the parent, relied on, and sent.
    pub fn plan_backup(&self, world: &mut World, a: usize) {
        let Role::Backup(Backup { snapshot, parent, packs, objects, .. }) = self.roles[a] else { return };
        let actor = world.actors[a];
        let object = objects[usize::from(actor.again)];
        let source = self.snapshots[snapshot];
        let folds: Vec<_> = (0..self.replicas).map(|r| self.fold(world, r, actor.view[r])).collect();
        let forgotten = folds.iter().fold(0, |set, fold| set | fold.forgotten);
        let chosen = parent.filter(|p| folds.iter().any(|fold| fold.live & 1 << p != 0) && forgotten & 1 << p == 0);
        // Nothing is carried over unseen in a second pass, while something is distrusted, or where a log lacks the parent.
        let sure = actor.again == 0 && folds.iter().all(|fold| fold.distrusted == 0);
        let carried = chosen.filter(|p| sure && folds.iter().all(|fold| fold.live & 1 << p != 0));
        let rest = source & !carried.map_or(0, |p| self.snapshots[p]);
        let lacking: Vec<Set> = folds.iter().map(|fold| rest & !world.chunks(fold.usable())).collect();
        let lack = lacking.iter().fold(0, |set, chunks| set | chunks);
        let pack = self.named(packs[usize::from(actor.again)], lack);
        if lack != 0 {
            world.contents[pack.trailing_zeros() as usize] = lack;
        }
        let mut next = Actor { view: actor.view, again: actor.again, ..Actor::default() };
        next.pack = if lack != 0 { pack } else { 0 };
        next.parent = carried.map_or(0, |p| p as u16 + 1);
        for r in 0..self.replicas {
            next.hits[r] = world.covers(folds[r].usable(), rest & !lacking[r]);
            next.stage[r] = if lacking[r] != 0 { stage::PUT } else { last_of(object) };
        }
        world.actors[a] = next;
    }

    /// The name of a pack: drawn at random, or made of what is in it where the scenario has that flaw.
    pub fn named(&self, fresh: Set, held: Set) -> Set {
        if self.has(Flaw::NamesFromPlaintext) { 1 << (8 + held) } else { fresh }
    }

    fn pruner(&self, world: &World, a: usize, r: usize, role: &Role, out: &mut Sink<'_>) {
        let Role::Pruner { lists, .. } = *role else { return };
        let actor = &world.actors[a];
        let list = lists[usize::from(actor.again)];
        match actor.stage[r] {
            stage::OPEN => self.open(world, a, r, out, |next| next.actors[a].stage[r] = stage::PLAN),
            stage::PLAN => self.plan_prune(world, a, r, role, out),
            stage::PUT => {
                // The frames are read from where they were when it planned; what is gone by now ends the round.
                let from = self.fold(world, r, actor.plan[r]).published(Set::MAX) & world.present[r] & !world.damaged[r];
                let wanted = world.chunks(actor.pack);
                if wanted & !world.chunks(from) != 0 {
                    let mut next = *world;
                    self.give_up(&mut next, a, r);
                    return out(&next, format_args!("{} finds a pack gone that it wanted to move", self.who(a)), None);
                }
                self.put(world, a, r, actor.pack, out, |_, actor| {
                    actor.own[r] = actor.pack;
                    actor.stage[r] = stage::PUBLISH;
                });
            }
            stage::OBJECT => self.put(world, a, r, list, out, |_, actor| actor.stage[r] = stage::WRITE),
            stage::PUBLISH | stage::WRITE => {
                if actor.stage[r] == stage::WRITE && self.has(Flaw::DeleteBeforeRecord) {
                    for name in bits(actor.drop & world.present[r]) {
                        let mut next = *world;
                        next.present[r] &= !(1 << name);
                        let broken = self.deletable(world, r, 1 << name).filter(|_| !self.loss_only);
                        out(&next, format_args!("{} sends the DELETE of {} early", self.who(a), names(1 << name)), broken);
                    }
                }
                self.write(world, a, r, out);
            }
            _ => {}
        }
    }

    /// LIST, and a plan: any sound one. The listing may lack what is there: it only adds what may be condemned.
    fn plan_prune(&self, world: &World, a: usize, r: usize, role: &Role, out: &mut Sink<'_>) {
        let Role::Pruner { packs, lists, plans, .. } = *role else { return };
        let actor = &world.actors[a];
        let list = lists[usize::from(actor.again)];
        let fold = self.fold(world, r, actor.view[r]);
        let live = bits(fold.live).fold(0, |chunks, snapshot| chunks | self.snapshots[snapshot]);
        let published = fold.published(Set::MAX);
        let orphans = world.present[r] & !fold.named;
        let useless = (published & !world.holders(published, live) | orphans | fold.retired()) & !fold.condemned;
        let may = published | useless;
        let every = |most: Set| {
            let mut set: Set = 0;
            std::iter::from_fn(move || {
                set = set.wrapping_sub(most) & most;
                (set != 0).then_some(set)
            })
        };
        let sets: Vec<Set> = match plans {
            Plans::All => every(may).collect(),
            Plans::Sensible => {
                let partly = world.holders(published, live) & world.holders(published, !live);
                let mut sets = vec![useless, useless | partly, may];
                sets.dedup();
                sets.into_iter().filter(|set| *set != 0).collect()
            }
        };
        let readable = published & world.present[r] & !world.damaged[r];
        for drop in sets {
            let kept = fold.usable() & !drop;
            let in_danger = live & world.chunks(drop & published);
            let need = in_danger & !world.chunks(kept);
            if need & !world.chunks(readable) != 0 {
                continue;
            }
            let mut next = *world;
            let mine = &mut next.actors[a];
            mine.plan[r] = actor.view[r];
            mine.drop = drop;
            mine.cover = world.covers(kept, in_danger & !need);
            mine.stage[r] = if list != 0 { stage::OBJECT } else { stage::WRITE };
            if need != 0 {
                mine.pack = self.named(packs[usize::from(actor.again)], need);
                mine.cover |= mine.pack;
                mine.stage[r] = stage::PUT;
                next.contents[next.actors[a].pack.trailing_zeros() as usize] = need;
            }
            let cover = next.actors[a].cover;
            let who = self.who(a);
            out(&next, format_args!("{who} plans to condemn {} with {} as cover", names(drop), names(cover)), None);
        }
    }

    fn compactor(&self, world: &World, a: usize, r: usize, segment: Set, out: &mut Sink<'_>) {
        match world.actors[a].stage[r] {
            stage::OPEN => self.open(world, a, r, out, |next| {
                let fold = self.fold(next, r, next.actors[a].view[r]);
                let actor = &mut next.actors[a];
                let old = fold.segments & !fold.condemned;
                (actor.drop, actor.stage[r]) = (old, if old.count_ones() > 1 { stage::PUT } else { stage::OUT });
                actor.cover = bits(old).fold(0, |rows, s| rows | fold.rows[s]) & !fold.condemned;
            }),
            stage::PUT => self.put(world, a, r, segment, out, |_, actor| actor.stage[r] = stage::WRITE),
            stage::WRITE => self.write(world, a, r, out),
            _ => {}
        }
    }

    fn healer(&self, world: &World, a: usize, [from, to]: [usize; 2], snapshot: usize, packs: [Set; 2], out: &mut Sink<'_>) {
        let actor = &world.actors[a];
        let done = |actor: &mut Actor| *actor = Actor { stage: [stage::OUT; 2], ..Actor::default() };
        match (actor.stage[from], actor.stage[to]) {
            (stage::OPEN, _) => self.open(world, a, from, out, |next| next.actors[a].stage[from] = stage::OPENED),
            (_, stage::OPEN) => self.open(world, a, to, out, |next| {
                self.plan_heal(next, a, [from, to], snapshot, packs);
            }),
            (_, stage::PUT) => {
                // What is copied is read now, whatever became of it since.
                let there = self.fold(world, from, actor.view[from]).published(Set::MAX) & world.present[from];
                let wanted = world.chunks(actor.pack);
                if wanted & !world.chunks(there & !world.damaged[from]) != 0 {
                    let mut next = *world;
                    done(&mut next.actors[a]);
                    return out(&next, format_args!("{} finds a pack gone that it wanted to copy", self.who(a)), None);
                }
                self.put(world, a, to, actor.pack, out, |_, actor| {
                    actor.own[to] = actor.pack;
                    actor.stage[to] = stage::PUBLISH;
                });
            }
            // What was appended to both logs meanwhile is read before the commit, one after the other.
            (stage::OPENED, stage::LOOK) => self.open(world, a, from, out, |next| next.actors[a].stage[from] = stage::LOOK),
            (_, stage::LOOK) => self.open(world, a, to, out, |next| {
                let gone = self.forgotten(next, a);
                let actor = &mut next.actors[a];
                (actor.stage[from], actor.stage[to]) = (stage::OPENED, stage::WRITE);
                if gone & 1 << snapshot != 0 && !self.has(Flaw::HealIgnoresForgets) {
                    done(actor);
                }
            }),
            (_, stage::PUBLISH | stage::WRITE) => self.write(world, a, to, out),
            _ => {}
        }
    }

    /// What any log forgot, as far as an actor has read.
    pub fn forgotten(&self, world: &World, a: usize) -> Set {
        (0..self.replicas).fold(0, |set, r| set | self.fold(world, r, world.actors[a].view[r]).forgotten)
    }

    /// Decides what is relied on at the target, and what is copied: the very pack where its name is good, else its frames.
    pub fn plan_heal(&self, world: &mut World, a: usize, [from, to]: [usize; 2], snapshot: usize, packs: [Set; 2]) {
        let forgotten = self.forgotten(world, a) & 1 << snapshot != 0 && !self.has(Flaw::HealIgnoresForgets);
        let actor = world.actors[a];
        let (source, target) = (self.fold(world, from, actor.view[from]), self.fold(world, to, actor.view[to]));
        let needed = self.snapshots[snapshot];
        let have = target.usable();
        let need = needed & !world.chunks(have);
        let places = source.usable();
        // Held there already, it is of interest only while something of it is in doubt.
        let idle = target.live & 1 << snapshot != 0 && need == 0;
        if source.live & 1 << snapshot == 0 || forgotten || idle || need & !world.chunks(places) != 0 {
            world.actors[a] = Actor { stage: [stage::OUT; 2], ..Actor::default() };
            return;
        }
        world.actors[a].hits[to] = world.covers(have, needed & !need);
        world.actors[a].stage[to] = if need == 0 { stage::LOOK } else { stage::PUT };
        if need != 0 {
            let whole = bits(places).find(|pack| need & !world.contents[*pack] == 0).map_or(0, |pack| 1 << pack);
            let void = target.condemned | target.distrusted | target.published(Set::MAX);
            let pack = if whole & !void != 0 { whole } else { packs[usize::from(actor.again)] };
            world.actors[a].pack = pack;
            if pack != whole {
                world.contents[pack.trailing_zeros() as usize] = need;
            }
        }
    }

    /// One step towards the record that an actor wants to write next.
    fn write(&self, world: &World, a: usize, r: usize, out: &mut Sink<'_>) {
        let (actor, log) = (&world.actors[a], &world.logs[r]);
        let (who, at) = (self.who(a), store(r));
        let mut next = *world;
        if actor.unsure[r] != 0 {
            // GET the slot: mine, another's, or absent: the same bytes are sent again.
            let slot = actor.unsure[r];
            let Ok(mine) = self.wish(world, a, r, actor.view[r]) else { return };
            next.actors[a].unsure[r] = 0;
            let (mut broken, lost) = match log.len >= slot {
                true => (None, log.records[usize::from(slot) - 1] != mine),
                false => (self.append(&mut next, r, actor.view[r], mine), false),
            };
            next.actors[a].view[r] = if lost { log.len } else { slot };
            if !lost {
                broken = broken.or(self.after(&mut next, a, r));
            }
            return out(&next, format_args!("{who} reads slot {slot} at {at} and learns what became of its record"), broken);
        }
        // What stands on nothing is not planned on a view either.
        let stands = !matches!(self.roles[a], Role::Forgetter { .. } | Role::Verifier { .. });
        let view = if stands { actor.view[r] } else { log.len };
        if log.len > view && !self.has(Flaw::CreateOverwrites) {
            next.actors[a].view[r] = log.len;
            return out(&next, format_args!("{who} loses slot {} at {at} and reads on", view + 1), None);
        }
        let record = match self.wish(world, a, r, view) {
            Ok(record) => record,
            Err(Lost::Wait) => return,
            Err(Lost::Cover(why)) => {
                self.give_up(&mut next, a, r);
                return out(&next, format_args!("{who} does not write at {at}: {why}"), None);
            }
        };
        if self.ambiguous {
            (next.actors[a].view[r], next.actors[a].unsure[r]) = (view, view + 1);
            if self.has(Flaw::UnknownIsDone) {
                let mut done = *world;
                self.after(&mut done, a, r);
                out(&done, format_args!("{who} gets no answer for its record at {at} and takes it for written"), None);
            }
            out(&next, format_args!("{who} sends slot {} at {at} and gets no answer", view + 1), None);
        }
        next.actors[a].unsure[r] = 0;
        let broken = self.append(&mut next, r, view, record);
        let mut known = next;
        known.actors[a].view[r] = view + 1;
        let after = self.after(&mut known, a, r);
        out(&known, format_args!("{who} writes slot {} at {at}: {}", view + 1, Scenario::told(record)), broken.or(after));
    }

    /// A create that was sent and not answered is carried out now, late.
    fn late(&self, world: &World, out: &mut Sink<'_>) {
        for a in 0..self.roles.len() {
            for r in 0..self.replicas {
                let (view, slot) = (world.actors[a].view[r], world.actors[a].unsure[r]);
                if slot != 0
                    && world.logs[r].len + 1 == slot
                    && let Ok(record) = self.wish(world, a, r, view)
                {
                    let mut next = *world;
                    let broken = self.append(&mut next, r, view, record);
                    let (who, what) = (self.who(a), Scenario::told(record));
                    out(&next, format_args!("what {who} sent arrives at {} as slot {slot}: {what}", store(r)), broken);
                }
            }
        }
    }
}
