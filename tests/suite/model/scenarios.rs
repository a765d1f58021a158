//! The scenarios: small worlds in which every order of steps is looked at; and what each of them must reach, so that none
//! holds only because nothing happened in it.
//!
//! Every world begins with P0 (chunks a and c) and P1 (chunk b), and the snapshot S0 of a and b: c is dead, P0 half live.

use crate::model::protocol::{Backup, Plans, Role, Scenario};
use crate::model::scenarios::sights::{
    ACKED, AGAIN, COMPACTED, CONDEMNED, DELETED, DISTRUSTED, FORGOTTEN, HEALED, MOVED, ORPHANS, REFILLED, UNSURE,
};
use crate::model::world::{Kind, Log, Record, Set, World};

/// What may be reached in a scenario.
pub mod sights {
    pub const ACKED: u32 = 1;
    pub const CONDEMNED: u32 = 1 << 1;
    /// A backup that succeeded in its second pass.
    pub const AGAIN: u32 = 1 << 2;
    pub const DELETED: u32 = 1 << 3;
    /// A pruner published what it moved.
    pub const MOVED: u32 = 1 << 4;
    /// A healer committed.
    pub const HEALED: u32 = 1 << 5;
    pub const FORGOTTEN: u32 = 1 << 6;
    pub const COMPACTED: u32 = 1 << 7;
    pub const DISTRUSTED: u32 = 1 << 8;
    /// A name was condemned that no record had named.
    pub const ORPHANS: u32 = 1 << 9;
    /// A create whose outcome was unknown.
    pub const UNSURE: u32 = 1 << 10;
    /// A healer published.
    pub const REFILLED: u32 = 1 << 11;
}

const A: Set = 1;
const B: Set = 2;
pub const C: Set = 4;
const D: Set = 8;
/// The author of what is there to begin with.
pub const NOBODY: usize = 15;

pub const fn p(name: u32) -> Set {
    1 << name
}

impl Scenario {
    pub fn new(name: &'static str, replicas: usize) -> Scenario {
        let mut start = World::default();
        (start.contents[0], start.contents[1]) = (A | C, B);
        for r in 0..replicas {
            let mut log = Log::default();
            log.push(Record::new(Kind::Publish, NOBODY, p(0) | p(1)));
            log.push(Record::new(Kind::Commit, NOBODY, 0).of(0));
            (start.logs[r], start.present[r]) = (log, p(0) | p(1));
        }
        // S0 is there. S1 can carry a over from it, rely on P0 for c, and must send d. S2 carries b over and sends d. S3 is the
        // dead chunk alone. S4 is S0 under another name.
        let snapshots = vec![A | B, A | C | D, B | D, C, A | B];
        Scenario {
            name,
            roles: Vec::new(),
            replicas,
            start,
            snapshots,
            weak: false,
            ambiguous: false,
            damage: Vec::new(),
            quorum: 1,
            flaw: None,
            loss_only: false,
        }
    }
    pub fn with(mut self, role: Role) -> Scenario {
        self.roles.push(role);
        self
    }
    pub fn weak(self) -> Scenario {
        Scenario { weak: true, ..self }
    }
    pub fn ambiguous(self) -> Scenario {
        Scenario { ambiguous: true, ..self }
    }
    pub fn damage(mut self, at: usize, pack: Set) -> Scenario {
        self.damage.push((at, pack));
        self
    }
    pub fn start(mut self, change: impl Fn(&mut World)) -> Scenario {
        change(&mut self.start);
        self
    }
}

/// A backup of S1 (S2, S3, S4) whose packs are P2 and P3 (P4 and P5, P6 and P7, P6 and P7), without a parent.
pub fn backup(snapshot: usize) -> Backup {
    let first = [0, 2, 4, 6, 6][snapshot];
    Backup { snapshot, packs: [p(first), p(first + 1)], ..Backup::default() }
}

/// The same, compared with S0.
pub fn compared(snapshot: usize) -> Backup {
    Backup { parent: Some(0), ..backup(snapshot) }
}

/// It publishes first.
pub fn publishing(backup: Backup) -> Role {
    Role::Backup(Backup { publishes: true, ..backup })
}

/// A backup of S1 with an object for its snapshot, and segments where they are wanted.
pub fn with_objects(segments: bool) -> Role {
    let segments = if segments { [p(14), p(15)] } else { [0; 2] };
    publishing(Backup { objects: [p(6), p(7)], segments, ..compared(1) })
}

pub fn pruner(first: u32, rounds: u16, plans: Plans) -> Role {
    pruner_at(0, first, rounds, plans)
}

pub fn pruner_at(at: usize, first: u32, rounds: u16, plans: Plans) -> Role {
    Role::Pruner { at, packs: [p(first), p(first + 1)], rounds, lists: [0; 2], plans }
}

/// A pruner that moves what it must to P8 and names the list `list` in its record.
pub fn pruner_with_list(list: u32, plans: Plans) -> Role {
    Role::Pruner { at: 0, packs: [p(8), p(9)], rounds: 1, lists: [p(list), p(list)], plans }
}

pub fn forgetter(at: usize, snapshot: usize) -> Role {
    Role::Forgetter { at, snapshot, anyway: false }
}

pub fn healer(from: usize, snapshot: usize, first: u32) -> Role {
    Role::Healer { from, to: 1 - from, snapshot, packs: [p(first), p(first + 1)] }
}

/// The spare replica holds nothing yet: its log has begun, no more.
pub fn spare_is_empty(world: &mut World) {
    world.logs[1] = Log::default();
    world.present[1] = 0;
}

/// Segments: P10 lists P0, P11 lists P1.
pub fn in_segments(world: &mut World) {
    let log = &mut world.logs[0];
    *log = Log::default();
    log.push(Record::new(Kind::Publish, NOBODY, p(0)).beside(p(10)));
    log.push(Record::new(Kind::Publish, NOBODY, p(1)).beside(p(11)));
    log.push(Record::new(Kind::Commit, NOBODY, 0).of(0));
    world.present[0] |= p(10) | p(11);
}

/// The scenarios that must hold, each with what must be seen in it.
pub fn sound(full: bool) -> Vec<(Scenario, u32)> {
    let one = |name| Scenario::new(name, 1);
    let two = |name| Scenario::new(name, 2);
    let parts = [Plans::Sensible, Plans::All][usize::from(full)];
    let usual = ACKED | AGAIN | CONDEMNED | DELETED | MOVED;
    let (rebuilt, healed) = (usual | ORPHANS, CONDEMNED | DELETED | HEALED);
    let mut all = vec![
        (
            one("backup x pruner (2 rounds) x forgetter")
                .with(publishing(compared(1)))
                .with(pruner(8, 2, Plans::All))
                .with(forgetter(0, 0)),
            rebuilt | FORGOTTEN,
        ),
        (
            one("2 backups, one relies on the other, x pruner")
                .with(publishing(compared(1)))
                .with(publishing(compared(2)))
                .with(pruner(8, 1, Plans::All)),
            rebuilt,
        ),
        (
            one("backup x 2 pruners, a publish may pause")
                .with(Role::Backup(compared(1)))
                .with(pruner(8, 1, Plans::All))
                .with(pruner(10, 1, Plans::All)),
            rebuilt,
        ),
        (
            one("2 pruners x forgetter, 2 rounds").with(pruner(8, 2, parts)).with(pruner(10, 2, parts)).with(forgetter(0, 0)),
            CONDEMNED | DELETED | MOVED | ORPHANS | FORGOTTEN,
        ),
        (
            one("the parent is forgotten meanwhile")
                .with(publishing(compared(1)))
                .with(Role::Backup(compared(2)))
                .with(pruner(8, 1, parts))
                .with(forgetter(0, 0)),
            rebuilt | FORGOTTEN,
        ),
        (
            one("2 rewrites of one snapshot x pruner")
                .with(Role::Backup(Backup { replaces: true, ..compared(4) }))
                .with(publishing(Backup { replaces: true, ..compared(2) }))
                .with(pruner(8, 2, parts)),
            usual | FORGOTTEN,
        ),
        (
            one("weak reads: backup x 2 pruners")
                .with(publishing(compared(1)))
                .with(pruner(8, 1, parts))
                .with(pruner(10, 1, parts))
                .weak(),
            rebuilt,
        ),
        (
            one("creates without an answer: backup x pruner")
                .with(publishing(compared(1)))
                .with(pruner(8, 2, parts))
                .with(forgetter(0, 0))
                .ambiguous(),
            rebuilt | UNSURE,
        ),
        (
            one("snapshot objects and lists as orphans")
                .with(with_objects(false))
                .with(pruner_with_list(12, parts))
                .with(pruner(10, 1, parts)),
            rebuilt,
        ),
        (
            one("2 compactors x pruner")
                .with(Role::Compactor { at: 0, segment: p(12) })
                .with(Role::Compactor { at: 0, segment: p(13) })
                .with(pruner(8, 2, Plans::All))
                .start(in_segments),
            CONDEMNED | DELETED | MOVED | ORPHANS | COMPACTED,
        ),
        (
            one("compactor x pruner x backup")
                .with(with_objects(true))
                .with(Role::Compactor { at: 0, segment: p(12) })
                .with(pruner(8, 1, parts))
                .start(in_segments),
            rebuilt | COMPACTED,
        ),
        (
            one("damage to what is carried over, sent or moved")
                .with(publishing(compared(2)))
                .with(pruner(8, 1, Plans::All))
                .with(Role::Verifier { at: 0 })
                .damage(0, p(1))
                .damage(0, p(4))
                .damage(0, p(8)),
            rebuilt | DISTRUSTED,
        ),
        (
            one("damage to what is relied on: backup x 2 pruners")
                .with(Role::Backup(backup(3)))
                .with(pruner(8, 1, parts))
                .with(pruner(10, 1, parts))
                .with(Role::Verifier { at: 0 })
                .damage(0, p(0))
                .damage(0, p(6)),
            rebuilt | DISTRUSTED,
        ),
        (
            two("2 replicas: backup x pruner at each x forgetter")
                .with(publishing(compared(1)))
                .with(pruner(8, 1, parts))
                .with(pruner_at(1, 10, 1, parts))
                .with(forgetter(1, 0)),
            usual | FORGOTTEN,
        ),
        (
            two("an empty replica: 2 healers x pruner there x forgetter")
                .with(healer(0, 0, 12))
                .with(healer(0, 0, 14))
                .with(pruner_at(1, 8, 2, Plans::All))
                .with(forgetter(0, 0))
                .start(spare_is_empty),
            healed | FORGOTTEN | ORPHANS,
        ),
        (
            two("heal x backup x pruner at the source x forgetter at the target")
                .with(healer(0, 0, 12))
                .with(publishing(compared(1)))
                .with(pruner(8, 1, parts))
                .with(Role::Forgetter { at: 1, snapshot: 0, anyway: true })
                .start(spare_is_empty),
            healed | ACKED | FORGOTTEN,
        ),
        (
            two("damage at one of 2: healer x verifier x pruner x backup")
                .with(healer(1, 0, 12))
                .with(Role::Verifier { at: 0 })
                .with(pruner(8, 1, parts))
                .with(Role::Backup(compared(2)))
                .damage(0, p(1)),
            CONDEMNED | DELETED | REFILLED | ACKED | DISTRUSTED,
        ),
    ];
    if full {
        all.extend([
            (
                one("2 backups x 2 pruners")
                    .with(publishing(compared(1)))
                    .with(Role::Backup(backup(3)))
                    .with(pruner(8, 1, Plans::Sensible))
                    .with(pruner(10, 1, Plans::Sensible)),
                rebuilt,
            ),
            (
                one("weak reads, creates without an answer: backup x 2 pruners")
                    .with(Role::Backup(compared(2)))
                    .with(pruner(8, 1, Plans::Sensible))
                    .with(pruner(10, 1, Plans::Sensible))
                    .weak()
                    .ambiguous(),
                rebuilt | UNSURE,
            ),
            (
                two("2 replicas: backup x pruner at each x healer x forgetter")
                    .with(Role::Backup(compared(1)))
                    .with(pruner(8, 1, Plans::Sensible))
                    .with(pruner_at(1, 10, 1, Plans::Sensible))
                    .with(healer(0, 0, 12))
                    .with(forgetter(0, 0))
                    .start(spare_is_empty),
                ACKED | MOVED | FORGOTTEN | healed,
            ),
        ]);
    }
    all
}
