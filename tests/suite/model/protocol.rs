//! A scenario, the flaws it may be given, and what must hold.
//!
//! S1 every chunk of every live snapshot of a log is in a published, uncondemned pack that is present at that replica.
//! S2 a commit that was reported is in the logs of a quorum. S3 a DELETE is sent only for a name that a record of that log
//! condemns. S4 a name, once condemned in a log, is never relied on again there. S5, S6 condemn, publish, compact and commit
//! records are sound at their own position. L1 a backup that is left to itself commits.
//!
//! S1, S2 and L1 are judged in every state, S3 at every DELETE, the rest when a record is appended. Damage is no fault of the
//! protocol: what lies only in packs that were found damaged before counts as there, but nothing new may come to that.

use crate::model::world::{Extent, Fold, Kind, Record, Set, World, bits};

/// A switch: the protocol with one rule left out. Each must be found failing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A commit is written without looking at what it stands on.
    CommitUnchecked,
    /// A commit looks at everything but whether the packs that its run sent were condemned.
    OwnUnseen,
    /// A commit looks at everything but whether the packs that its run relied on were condemned.
    HitUnseen,
    /// A commit looks at everything but whether the packs that its run relied on were found damaged.
    HitDamageUnseen,
    /// A publish is written without looking whether its packs were condemned.
    PublishUnchecked,
    /// Creating a slot that exists replaces it.
    CreateOverwrites,
    /// Packs are named by what is in them, so that a condemned name is created and published again.
    NamesFromPlaintext,
    /// A DELETE is sent before the record that condemns.
    DeleteBeforeRecord,
    /// After a lost race a condemn is written as it was planned.
    CondemnNotRechecked,
    /// Of what a condemn needs, only new publishes and commits are looked at again, not the covers of its plan.
    CoversNotRechecked,
    /// Covers are looked at again, but only for condemnation: that one was found damaged since goes unnoticed.
    CoverDamageUnseen,
    /// That the parent was forgotten meanwhile goes unnoticed.
    ParentUnseen,
    /// That packs were found damaged since the parent was chosen goes unnoticed.
    DistrustUnseen,
    /// Packs that the run itself sent are committed although they were found damaged meanwhile.
    OwnDamageUnseen,
    /// Heal copies and commits what was forgotten.
    HealIgnoresForgets,
    /// A snapshot's object is not looked at when its commit is written.
    ObjectUnchecked,
    /// The list that a condemn names is not looked at when the record is written.
    ListUnchecked,
    /// What a publish named since the plan stays on the plan's list.
    PublishNotSpared,
    /// What a commit named or reached since the plan stays on the plan's list.
    CommitNotSpared,
    /// What a compaction named since the plan stays on the plan's list.
    CompactNotSpared,
    /// A list that another condemn named since the plan stays on the plan's list.
    ListNotSpared,
    /// A new segment is not looked at when the compaction is written.
    CompactUnchecked,
    /// A create whose outcome is unknown is taken for done.
    UnknownIsDone,
}

/// A backup of the chunks of `snapshot`. A pack (and snapshot object and segment, where the scenario has them) for each of
/// two passes; what it carries over from the parent it does not look at.
#[derive(Clone, Copy, Default)]
pub struct Backup {
    pub snapshot: usize,
    pub parent: Option<usize>,
    /// Its commit forgets the parent in the same step, as retagging and rewriting do.
    pub replaces: bool,
    /// It publishes before it commits.
    pub publishes: bool,
    pub packs: [Set; 2],
    pub objects: [Set; 2],
    pub segments: [Set; 2],
}

/// Who takes part.
#[derive(Clone, Copy)]
pub enum Role {
    /// Backs up to all replicas.
    Backup(Backup),
    /// Condemns at one replica, round by round: a pack to move chunks to, and (where the scenario has them) a list that its
    /// record names, for each.
    Pruner { at: usize, packs: [Set; 2], rounds: u16, lists: [Set; 2], plans: Plans },
    /// Replaces all segments by one.
    Compactor { at: usize, segment: Set },
    /// Forgets a snapshot at one replica; `anyway`: even where it is not held.
    Forgetter { at: usize, snapshot: usize, anyway: bool },
    /// Finds damaged packs and distrusts them.
    Verifier { at: usize },
    /// Brings a snapshot from one replica to another; a fresh pack for each of two rounds.
    Healer { from: usize, to: usize, snapshot: usize, packs: [Set; 2] },
}

/// Which plans a pruner may make, of all that are sound.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plans {
    /// Every non-empty set of what it may condemn.
    All,
    /// What is useless; the same and everything partly useless; the same and everything.
    Sensible,
}

/// A scenario: who takes part in which world, with which weaknesses.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub roles: Vec<Role>,
    pub replicas: usize,
    pub start: World,
    /// The chunks of each snapshot.
    pub snapshots: Vec<Set>,
    /// A log that is opened may be read to any earlier slot.
    pub weak: bool,
    /// A create's answer may be lost, whether it was carried out, will be later, or never.
    pub ambiguous: bool,
    /// Packs that may be damaged, once each, at a replica.
    pub damage: Vec<(usize, Set)>,
    /// Logs that must hold what was reported.
    pub quorum: u32,
    pub flaw: Option<Flaw>,
    /// Only loss counts (S1, S2): to see where a flaw leads that a record's own position gives away at once.
    pub loss_only: bool,
}

/// What was broken, and how.
pub type Broken = &'static str;

impl Scenario {
    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn extent(&self) -> Extent {
        Extent { replicas: self.replicas, actors: self.roles.len() }
    }

    /// The fold of a log's first `view` slots, as this scenario's actors see it.
    pub fn fold(&self, world: &World, replica: usize, view: u16) -> Fold {
        Fold::of(world.logs[replica].slots(0, view), self.has(Flaw::NamesFromPlaintext))
    }

    pub fn whole(&self, world: &World, replica: usize) -> Fold {
        self.fold(world, replica, world.logs[replica].len)
    }

    /// Puts a record into the first free slot (behind `view`, where creating overwrites), and judges it there: S4, S5, S6.
    pub fn append(&self, world: &mut World, replica: usize, view: u16, record: Record) -> Option<Broken> {
        if view < world.logs[replica].len {
            assert!(self.has(Flaw::CreateOverwrites), "only a flawed store overwrites");
            world.logs[replica].records[usize::from(view)] = record;
            return None;
        }
        let before = self.whole(world, replica);
        let mut after = before;
        after.take(record, self.has(Flaw::NamesFromPlaintext));
        world.logs[replica].push(record);
        if self.loss_only { None } else { self.judge(world, replica, record, &before, &after) }
    }

    fn judge(&self, world: &World, replica: usize, record: Record, before: &Fold, after: &Fold) -> Option<Broken> {
        let present = world.present[replica];
        let names = record.names | record.extra;
        let places = |fold: &Fold, names: Set| world.chunks(names & fold.published(present) & present);
        match record.kind() {
            Kind::Forget | Kind::Distrust => None,
            Kind::Publish | Kind::Commit if names & before.condemned != 0 => {
                Some("S4: a record relies on a name that was condemned before it")
            }
            Kind::Publish | Kind::Commit if names & !present != 0 => Some("S6: a record names what is not there"),
            Kind::Publish => None,
            Kind::Commit => {
                let snapshot = record.snapshot();
                if before.forgotten & 1 << snapshot != 0 {
                    return Some("S6: a snapshot was committed after this log forgot it");
                }
                let needed = self.snapshots[snapshot];
                if needed & !places(after, Set::MAX) != 0 {
                    return Some("S6: a chunk of the snapshot is in no published, uncondemned pack that is there");
                }
                let doubted = needed & !places(after, !after.distrusted) != 0;
                doubted.then_some("S6: a chunk of the snapshot is only in packs that were found damaged before its commit")
            }
            Kind::Condemn => {
                if record.extra & (before.condemned | !present) != 0 {
                    return Some("S5: a condemn names a list that is condemned or gone: nobody can read the log any more");
                }
                let needed = bits(after.live).fold(0, |chunks, snapshot| chunks | self.snapshots[snapshot]);
                if needed & !places(after, Set::MAX) != 0 || after.live_objects() & after.condemned != 0 {
                    return Some("S5: a condemn takes the last place of something live");
                }
                let lost = needed & places(before, !before.distrusted) & !places(after, !after.distrusted);
                (lost != 0).then_some("S5: a condemn leaves something live in packs only that were found damaged before it")
            }
            Kind::Compact if record.extra & (before.condemned | !present) != 0 => {
                Some("S4: a compaction relies on a segment that was condemned before it, or is gone")
            }
            Kind::Compact => {
                let lost = before.published(Set::MAX) & !after.published(Set::MAX);
                (lost != 0).then_some("S5: a compaction drops a row that is not condemned")
            }
        }
    }

    /// What must hold in every state: S1, S2, and of L1 that whoever is left to itself comes to its end.
    pub fn broken(&self, world: &World) -> Option<Broken> {
        for r in 0..self.replicas {
            let fold = self.whole(world, r);
            let present = world.present[r];
            let there = world.chunks(fold.published(present) & present);
            if bits(fold.live).any(|snapshot| self.snapshots[snapshot] & !there != 0) {
                return Some("S1: a chunk of a live snapshot is in no published, uncondemned pack that is there");
            }
            if (fold.live_objects() | fold.lists) & (fold.condemned | !present) != 0 {
                return Some("S1: the object of a live snapshot, or a list that the log names, is condemned or gone");
            }
        }
        for (role, actor) in self.roles.iter().zip(&world.actors) {
            let Role::Backup(Backup { snapshot, .. }) = role else { continue };
            let holds = |log: &crate::model::world::Log| {
                log.slots(0, log.len).iter().any(|r| r.kind() == Kind::Commit && r.snapshot() == *snapshot)
            };
            let held = world.logs[..self.replicas].iter().filter(|log| holds(log)).count();
            if actor.acked != 0 && u32::try_from(held).is_ok_and(|held| held < self.quorum) {
                return Some("S2: a commit was reported and is not in enough logs");
            }
        }
        if self.flaw.is_none() && (0..self.roles.len()).any(|a| !self.ends_well(world, a)) {
            return Some("L1: a backup in its first pass, left to itself, does not commit");
        }
        None
    }

    /// Whether a DELETE of `name` may be sent: S3.
    pub fn deletable(&self, world: &World, replica: usize, name: Set) -> Option<Broken> {
        let doomed = self.whole(world, replica).doomed;
        (name & !doomed != 0).then_some("S3: a DELETE was sent for a name that no record condemns")
    }
}
