//! What each actor writes into a log, what it looks at before it does, and what it does then.

use crate::model::protocol::{Backup, Broken, Flaw, Role, Scenario};
use crate::model::scenarios::sights::{
    ACKED, AGAIN, COMPACTED, CONDEMNED, DELETED, DISTRUSTED, FORGOTTEN, HEALED, MOVED, ORPHANS, REFILLED, UNSURE,
};
use crate::model::world::{Actor, Fold, Kind, REPLICAS, Record, Set, World, bits, stage};

/// Why a record is not written.
pub enum Lost {
    /// There is nothing to write yet.
    Wait,
    /// What it stands on is gone.
    Cover(&'static str),
}

/// Passes of a backup, and rounds of a heal.
const PASSES: u16 = 2;

impl Scenario {
    /// The record that an actor would write behind the first `view` slots; or why it must not.
    pub fn wish(&self, world: &World, a: usize, r: usize, view: u16) -> Result<Record, Lost> {
        let (actor, fold) = (&world.actors[a], self.fold(world, r, view));
        let lost = |bad: bool, why| if bad { Err(Lost::Cover(why)) } else { Ok(()) };
        match self.roles[a] {
            Role::Backup(Backup { publishes, segments, .. }) if actor.stage[r] == stage::PUBLISH => {
                let extra = if publishes { segments[usize::from(actor.again)] } else { 0 };
                self.publish(a, actor.own[r], extra, &fold)
            }
            Role::Pruner { .. } if actor.stage[r] == stage::PUBLISH => self.publish(a, actor.own[r], 0, &fold),
            Role::Healer { .. } if actor.stage[r] == stage::PUBLISH => self.publish(a, actor.own[r], 0, &fold),
            Role::Backup(Backup { snapshot, parent, replaces, publishes, objects, .. }) => {
                let object = objects[usize::from(actor.again)];
                if !self.has(Flaw::CommitUnchecked) {
                    self.stands(actor, r, &fold)?;
                    let unseen = self.has(Flaw::ObjectUnchecked);
                    lost(object & fold.condemned != 0 && !unseen, "its snapshot's object was condemned")?;
                    lost(fold.forgotten & 1 << snapshot != 0, "its snapshot was forgotten")?;
                }
                let names = if publishes { 0 } else { actor.own[r] };
                let old = parent.filter(|_| replaces).map_or(0, |p| 1 << p);
                Ok(Record::new(Kind::Commit, a, names).of(snapshot).beside(object).instead_of(old))
            }
            Role::Healer { snapshot, .. } => {
                self.stands(actor, r, &fold)?;
                let forgotten = fold.forgotten & 1 << snapshot != 0 && !self.has(Flaw::HealIgnoresForgets);
                lost(forgotten, "the snapshot was forgotten")?;
                Ok(Record::new(Kind::Commit, a, 0).of(snapshot))
            }
            Role::Pruner { lists, .. } => {
                let list = lists[usize::from(actor.again)];
                lost(list & fold.condemned != 0 && !self.has(Flaw::ListUnchecked), "its list was condemned")?;
                let drop = self.still_to_drop(world, a, r, view, &fold)?;
                lost(drop == 0, "nothing is left to condemn")?;
                Ok(Record::new(Kind::Condemn, a, drop).beside(list))
            }
            Role::Compactor { segment, .. } => {
                lost(segment & fold.condemned != 0 && !self.has(Flaw::CompactUnchecked), "its segment was condemned")?;
                lost(actor.drop & !fold.segments != 0, "what it replaces was replaced")?;
                Ok(Record::new(Kind::Compact, a, actor.cover).beside(segment).instead_of(actor.drop))
            }
            Role::Forgetter { snapshot, anyway, .. } => {
                let held = fold.live & 1 << snapshot != 0 || anyway && fold.forgotten & 1 << snapshot == 0;
                if actor.stage[r] == stage::DONE || !held {
                    return Err(Lost::Wait);
                }
                Ok(Record::new(Kind::Forget, a, 0).of(snapshot))
            }
            Role::Verifier { .. } => {
                let damaged = world.damaged[r] & fold.published(Set::MAX) & !fold.distrusted;
                let first = damaged & damaged.wrapping_neg();
                if first == 0 { Err(Lost::Wait) } else { Ok(Record::new(Kind::Distrust, a, first)) }
            }
        }
    }

    fn publish(&self, a: usize, own: Set, segment: Set, fold: &Fold) -> Result<Record, Lost> {
        // Names made of plaintext can only be used again if publishing takes a condemnation back.
        let unseen = self.has(Flaw::PublishUnchecked) || self.has(Flaw::NamesFromPlaintext);
        if (own | segment) & fold.condemned != 0 && !unseen {
            return Err(Lost::Cover("what it sent was condemned"));
        }
        Ok(Record::new(Kind::Publish, a, own).beside(segment))
    }

    /// Whether what a commit stands on at a replica still stands.
    fn stands(&self, actor: &Actor, r: usize, fold: &Fold) -> Result<(), Lost> {
        let (own, hits) = (actor.own[r], actor.hits[r]);
        let parent = actor.parent != 0;
        let unseen = |flaw| if self.has(flaw) || self.has(Flaw::NamesFromPlaintext) { Set::MAX } else { 0 };
        let why = if own & fold.condemned & !unseen(Flaw::OwnUnseen) != 0 {
            "a pack that it sent was condemned"
        } else if hits & fold.condemned != 0 && !self.has(Flaw::HitUnseen) {
            "a pack that it relies on was condemned"
        } else if hits & fold.distrusted != 0 && !self.has(Flaw::HitDamageUnseen) {
            "a pack that it relies on was found damaged"
        } else if own & fold.distrusted != 0 && !self.has(Flaw::OwnDamageUnseen) {
            "a pack that it sent was found damaged"
        } else if parent && fold.live & 1 << (actor.parent - 1) == 0 && !self.has(Flaw::ParentUnseen) {
            "its parent was forgotten"
        } else if parent && fold.distrusted != 0 && !self.has(Flaw::DistrustUnseen) {
            "packs were found damaged since it chose its parent"
        } else {
            return Ok(());
        };
        Err(Lost::Cover(why))
    }

    /// What is left of a plan to condemn after all that was written since; or that it has to be planned again.
    fn still_to_drop(&self, world: &World, a: usize, r: usize, view: u16, fold: &Fold) -> Result<Set, Lost> {
        let actor = &world.actors[a];
        if self.has(Flaw::CondemnNotRechecked) {
            return Ok(actor.drop);
        }
        let lost = if actor.cover & fold.condemned != 0 && !self.has(Flaw::CoversNotRechecked) {
            Some("a cover of its plan was condemned")
        } else if actor.cover & fold.distrusted != 0 && !self.has(Flaw::CoversNotRechecked) && !self.has(Flaw::CoverDamageUnseen)
        {
            Some("a cover of its plan was found damaged")
        } else {
            None
        };
        if let Some(why) = lost {
            return Err(Lost::Cover(why));
        }
        let mut drop = actor.drop & !fold.condemned;
        for record in world.logs[r].slots(actor.plan[r], view) {
            match record.kind() {
                Kind::Publish if self.has(Flaw::PublishNotSpared) => {}
                Kind::Compact if self.has(Flaw::CompactNotSpared) => {}
                Kind::Commit if self.has(Flaw::CommitNotSpared) => {}
                Kind::Publish | Kind::Compact => drop &= !(record.names | record.extra),
                Kind::Commit => {
                    let reached = world.holders(drop, self.snapshots[record.snapshot()]);
                    drop &= !(record.names | record.extra | reached);
                }
                Kind::Condemn if self.has(Flaw::ListNotSpared) => {}
                Kind::Condemn => drop &= !record.extra,
                Kind::Forget | Kind::Distrust => {}
            }
        }
        Ok(drop)
    }

    /// What an actor does when its record is written. A heal's commit is judged here, too: it must have obeyed every forget
    /// that it read in any log.
    pub fn after(&self, world: &mut World, a: usize, r: usize) -> Option<Broken> {
        let actor = world.actors[a];
        let at = actor.stage[r];
        let mine = &mut world.actors[a];
        match self.roles[a] {
            Role::Backup(Backup { objects, .. }) if at == stage::PUBLISH => {
                mine.stage[r] = last_of(objects[usize::from(actor.again)])
            }
            Role::Backup(_) => {
                mine.stage[r] = stage::DONE;
                let done = mine.stage[..self.replicas].iter().filter(|s| **s == stage::DONE).count();
                mine.acked |= u16::from(done as u32 >= self.quorum);
                self.settle(world, a);
            }
            Role::Pruner { lists, .. } if at == stage::PUBLISH => mine.stage[r] = last_of(lists[usize::from(actor.again)]),
            Role::Pruner { rounds, .. } => {
                let more = actor.again + 1 < rounds;
                *mine = Actor { view: if more { actor.view } else { [0; REPLICAS] }, again: actor.again, ..Actor::default() };
                mine.again += u16::from(more);
                mine.stage[r] = if more { stage::OPEN } else { stage::DONE };
            }
            Role::Healer { snapshot, .. } if at == stage::PUBLISH => {
                // Where the snapshot is held already, something of it had been damaged: it has another place now.
                let held = self.fold(world, r, actor.view[r]).live & 1 << snapshot != 0;
                if held {
                    world.actors[a] = Actor { stage: [stage::DONE; REPLICAS], ..Actor::default() };
                } else {
                    world.actors[a].stage[r] = stage::LOOK;
                }
            }
            Role::Healer { snapshot, .. } => {
                let ignored = self.forgotten(world, a) & 1 << snapshot != 0;
                world.actors[a] = Actor { stage: [stage::DONE; REPLICAS], ..Actor::default() };
                if ignored && !self.loss_only {
                    return Some("S6: a heal committed what it had read to be forgotten");
                }
            }
            Role::Compactor { .. } | Role::Forgetter { .. } => {
                *mine = Actor::default();
                mine.stage[r] = stage::DONE;
            }
            Role::Verifier { .. } => *mine = Actor::default(),
        }
        None
    }

    /// What an actor does when what it stands on is gone.
    pub fn give_up(&self, world: &mut World, a: usize, r: usize) {
        let actor = world.actors[a];
        let mine = &mut world.actors[a];
        match self.roles[a] {
            Role::Backup(_) => {
                mine.stage[r] = stage::OUT;
                self.settle(world, a);
            }
            Role::Pruner { rounds, .. } => {
                let more = actor.again + 1 < rounds;
                *mine = Actor { again: actor.again + u16::from(more), ..Actor::default() };
                mine.stage[r] = if more { stage::OPEN } else { stage::OUT };
            }
            Role::Healer { from, to, snapshot, packs } if actor.again + 1 < PASSES => {
                mine.again += 1;
                (mine.own, mine.hits, mine.pack) = ([0; REPLICAS], [0; REPLICAS], 0);
                mine.stage[from] = stage::OPENED;
                self.plan_heal(world, a, [from, to], snapshot, packs);
            }
            Role::Healer { .. } => *mine = Actor { stage: [stage::OUT; REPLICAS], ..Actor::default() },
            _ => {
                *mine = Actor::default();
                mine.stage[r] = stage::OUT;
            }
        }
    }

    /// A backup that is through at every replica has succeeded, or begins its next pass.
    fn settle(&self, world: &mut World, a: usize) {
        let actor = world.actors[a];
        if actor.stage[..self.replicas].iter().any(|s| *s != stage::DONE && *s != stage::OUT) {
            return;
        }
        if actor.acked == 0 && actor.again + 1 < PASSES {
            world.actors[a].again += 1;
            return self.plan_backup(world, a);
        }
        // All that is remembered of it.
        world.actors[a] = Actor { stage: actor.stage, acked: actor.acked, again: actor.again, ..Actor::default() };
    }

    /// What was reached: the bits of [`crate::model::scenarios`].
    pub fn sights(&self, world: &World) -> u32 {
        let mut seen = 0;
        let mut see = |bit: u32, yes: bool| seen |= if yes { bit } else { 0 };
        for (role, actor) in self.roles.iter().zip(&world.actors) {
            let backup = matches!(role, Role::Backup(_));
            see(ACKED, actor.acked != 0);
            see(AGAIN, backup && actor.again != 0 && actor.acked != 0);
            see(UNSURE, actor.unsure != [0; REPLICAS]);
        }
        for r in 0..self.replicas {
            let mut named = 0;
            for record in world.logs[r].slots(0, world.logs[r].len) {
                see(CONDEMNED, record.kind() == Kind::Condemn);
                see(ORPHANS, record.kind() == Kind::Condemn && record.names & !named != 0);
                named |= record.names | record.extra;
                see(FORGOTTEN, record.kind() == Kind::Forget || record.kind() == Kind::Commit && record.old != 0);
                see(DISTRUSTED, record.kind() == Kind::Distrust);
                see(COMPACTED, record.kind() == Kind::Compact);
                let by = self.roles.get(record.who());
                let healer = matches!(by, Some(Role::Healer { .. }));
                see(HEALED, record.kind() == Kind::Commit && healer);
                see(REFILLED, record.kind() == Kind::Publish && healer);
                see(MOVED, record.kind() == Kind::Publish && matches!(by, Some(Role::Pruner { .. })));
            }
            see(DELETED, bits(self.whole(world, r).doomed & !world.present[r]).next().is_some());
        }
        seen
    }
}

/// The last stages: an object that the record names comes before the record.
pub fn last_of(object: Set) -> u16 {
    if object == 0 { stage::WRITE } else { stage::OBJECT }
}
