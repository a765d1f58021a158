//! What there is in the model: logs, objects, actors, all in words of 16 bits; and the fold of a log.

/// Replicas, names of objects, slots of a log, actors, snapshots, chunks: at most so many.
pub const REPLICAS: usize = 2;
pub const NAMES: usize = 16;
pub const SLOTS: usize = 14;
pub const ACTORS: usize = 6;
pub const SNAPSHOTS: usize = 6;

/// A set of names, of chunks or of snapshots, one bit each.
pub type Set = u16;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Publish,
    Commit,
    Forget,
    Condemn,
    Distrust,
    Compact,
}

const KINDS: [Kind; 6] = [Kind::Publish, Kind::Commit, Kind::Forget, Kind::Condemn, Kind::Distrust, Kind::Compact];

/// A record: kind, author and snapshot in one word; the packs it names; the segment, snapshot object or list that it names
/// beside them; the segments (by a commit: snapshots) that it replaces.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    head: u16,
    pub names: Set,
    pub extra: Set,
    pub old: Set,
}

impl Record {
    pub fn new(kind: Kind, who: usize, names: Set) -> Record {
        Record { head: kind as u16 | (who as u16) << 4, names, ..Record::default() }
    }
    pub fn of(self, snapshot: usize) -> Record {
        Record { head: self.head | (snapshot as u16) << 8, ..self }
    }
    pub fn beside(self, extra: Set) -> Record {
        Record { extra, ..self }
    }
    pub fn instead_of(self, old: Set) -> Record {
        Record { old, ..self }
    }
    pub fn kind(self) -> Kind {
        KINDS[usize::from(self.head & 15)]
    }
    pub fn who(self) -> usize {
        usize::from(self.head >> 4 & 15)
    }
    pub fn snapshot(self) -> usize {
        usize::from(self.head >> 8)
    }
}

/// One replica's log.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Log {
    pub len: u16,
    pub records: [Record; SLOTS],
}

impl Log {
    pub fn push(&mut self, record: Record) {
        assert!(usize::from(self.len) < SLOTS, "the model's logs are too short for this scenario");
        self.records[usize::from(self.len)] = record;
        self.len += 1;
    }
    pub fn slots(&self, from: u16, to: u16) -> &[Record] {
        &self.records[usize::from(from)..usize::from(to)]
    }
}

/// Where an actor stands at a replica.
pub mod stage {
    pub const OPEN: u16 = 0;
    pub const OPENED: u16 = 1;
    pub const PLAN: u16 = 2;
    pub const PUT: u16 = 3;
    pub const SEGMENT: u16 = 4;
    pub const PUBLISH: u16 = 5;
    pub const OBJECT: u16 = 6;
    pub const LOOK: u16 = 7;
    /// About to write what it came for: commit, condemn, compact, forget, distrust.
    pub const WRITE: u16 = 8;
    pub const DONE: u16 = 9;
    pub const OUT: u16 = 10;
}

/// What an actor remembers. By replica, where it says so.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Actor {
    pub stage: [u16; REPLICAS],
    /// How far it has read each log.
    pub view: [u16; REPLICAS],
    /// How far it had read it when it planned.
    pub plan: [u16; REPLICAS],
    /// Packs that it brought there.
    pub own: [Set; REPLICAS],
    /// Packs that it relies on there instead.
    pub hits: [Set; REPLICAS],
    /// The slot that it tried to create with an unknown outcome; 0: none.
    pub unsure: [u16; REPLICAS],
    /// The pack that is on its way.
    pub pack: Set,
    /// The parent whose entries it carried over unseen, plus one.
    pub parent: u16,
    /// Which pass, round or try it is in.
    pub again: u16,
    /// What is to be condemned, and what covers the live chunks in it; or the segments to replace, and their rows.
    pub drop: Set,
    pub cover: Set,
    /// Success was reported.
    pub acked: u16,
}

/// Everything.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct World {
    pub logs: [Log; REPLICAS],
    /// Objects that lie at each replica, and those of them that are damaged.
    pub present: [Set; REPLICAS],
    pub damaged: [Set; REPLICAS],
    /// The chunks in each pack.
    pub contents: [Set; NAMES],
    pub actors: [Actor; ACTORS],
}

/// How much of the world a scenario uses.
#[derive(Clone, Copy)]
pub struct Extent {
    pub replicas: usize,
    pub actors: usize,
}

impl World {
    /// Every word that may differ from zero, in one order for writing and reading.
    fn each(&mut self, extent: Extent, f: &mut impl FnMut(&mut u16)) {
        for r in 0..extent.replicas {
            f(&mut self.logs[r].len);
            for at in 0..usize::from(self.logs[r].len) {
                let record = &mut self.logs[r].records[at];
                [&mut record.head, &mut record.names, &mut record.extra, &mut record.old].into_iter().for_each(&mut *f);
            }
            f(&mut self.present[r]);
            f(&mut self.damaged[r]);
        }
        self.contents.iter_mut().for_each(&mut *f);
        for actor in &mut self.actors[..extent.actors] {
            for r in 0..extent.replicas {
                f(&mut actor.stage[r]);
                f(&mut actor.view[r]);
                f(&mut actor.plan[r]);
                f(&mut actor.own[r]);
                f(&mut actor.hits[r]);
                f(&mut actor.unsure[r]);
            }
            let Actor { pack, parent, again, drop, cover, acked, .. } = actor;
            [pack, parent, again, drop, cover, acked].into_iter().for_each(&mut *f);
        }
    }

    /// Writes the world: two bits for each word (zero, one byte, two bytes), the bytes, and how many bytes of bits there are.
    pub fn encode(&self, extent: Extent, out: &mut Vec<u8>) {
        out.clear();
        let mut world = *self;
        let mut bytes = [0_u8; 1024];
        let (mut used, mut words, mut tags) = (0, 0_u32, 0_u8);
        world.each(extent, &mut |word| {
            let size = u8::from(*word > 0) + u8::from(*word > 255);
            let le = word.to_le_bytes();
            (bytes[used], bytes[used + 1]) = (le[0], le[1]);
            used += usize::from(size);
            tags = tags << 2 | size;
            words += 1;
            if words.is_multiple_of(4) {
                out.push(tags);
            }
        });
        if !words.is_multiple_of(4) {
            out.push(tags << (2 * (4 - words % 4)));
        }
        let count = out.len();
        out.extend_from_slice(&bytes[..used]);
        out.push(u8::try_from(count).expect("few tags"));
    }

    /// Reads what [`World::encode`] wrote.
    pub fn decode(stored: &[u8], extent: Extent) -> World {
        let count = usize::from(*stored.last().expect("a world is never empty"));
        let (tags, bytes) = stored.split_at(count);
        let (mut world, mut words, mut used) = (World::default(), 0, 0);
        world.each(extent, &mut |word| {
            let size = tags[words / 4] >> (6 - 2 * (words % 4)) & 3;
            let high = if size > 1 { bytes[used + 1] } else { 0 };
            *word = if size > 0 { u16::from_le_bytes([bytes[used], high]) } else { 0 };
            used += usize::from(size);
            words += 1;
        });
        world
    }

    /// The chunks in any of these packs.
    pub fn chunks(&self, names: Set) -> Set {
        bits(names).fold(0, |chunks, name| chunks | self.contents[name])
    }

    /// Those of `names` that hold any of these chunks.
    pub fn holders(&self, names: Set, chunks: Set) -> Set {
        bits(names).filter(|name| self.contents[*name] & chunks != 0).fold(0, |set, name| set | 1 << name)
    }

    /// For each of these chunks one pack out of `names`, as few as the first ones give.
    pub fn covers(&self, names: Set, chunks: Set) -> Set {
        let mut chosen = 0;
        for chunk in bits(chunks) {
            let holders = self.holders(names, 1 << chunk);
            if holders & chosen == 0 {
                chosen |= holders & holders.wrapping_neg();
            }
        }
        chosen
    }
}

/// The numbers of the members of a set.
pub fn bits(set: Set) -> impl Iterator<Item = usize> {
    let mut left = set;
    std::iter::from_fn(move || {
        let bit = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (bit < 16).then_some(bit)
    })
}

/// What a log says.
#[derive(Clone, Copy, Default)]
pub struct Fold {
    /// Packs named without an object of a segment (most scenarios leave segments out).
    loose: Set,
    /// Segments in force, and the packs in each.
    pub segments: Set,
    pub rows: [Set; NAMES],
    pub condemned: Set,
    /// Condemned at any time: the same, but where a flaw takes condemnations back.
    pub doomed: Set,
    pub distrusted: Set,
    /// Everything that any record named.
    pub named: Set,
    pub live: Set,
    pub forgotten: Set,
    /// The objects of snapshots, whether live or not.
    pub objects: [Set; SNAPSHOTS],
    pub lists: Set,
}

impl Fold {
    pub fn of(records: &[Record], condemned_comes_back: bool) -> Fold {
        let mut fold = Fold::default();
        for record in records {
            fold.take(*record, condemned_comes_back);
        }
        fold
    }

    pub fn take(&mut self, record: Record, condemned_comes_back: bool) {
        let snapshot = record.snapshot();
        self.named |= record.names | record.extra;
        match record.kind() {
            Kind::Publish | Kind::Commit if condemned_comes_back => self.condemned &= !record.names,
            _ => {}
        }
        match record.kind() {
            Kind::Publish if record.extra == 0 => self.loose |= record.names,
            Kind::Publish | Kind::Compact => {
                self.segments = self.segments & !record.old | record.extra;
                bits(record.extra).for_each(|segment| self.rows[segment] = record.names);
            }
            Kind::Commit => {
                self.loose |= record.names;
                self.live &= !record.old;
                self.forgotten |= record.old;
                // A forgotten id never comes back.
                self.live |= 1 << snapshot & !self.forgotten;
                self.objects[snapshot] |= record.extra;
            }
            Kind::Forget => {
                self.live &= !(1 << snapshot);
                self.forgotten |= 1 << snapshot;
            }
            Kind::Condemn => {
                self.condemned |= record.names;
                self.doomed |= record.names;
                self.lists |= record.extra;
            }
            Kind::Distrust => self.distrusted |= record.names,
        }
    }

    /// Packs that may be relied on as far as condemnation goes, known by segments out of `readable`.
    pub fn published(&self, readable: Set) -> Set {
        let segments = self.segments & !self.condemned & readable;
        bits(segments).fold(self.loose, |packs, segment| packs | self.rows[segment]) & !self.condemned
    }

    /// The same, without those that were found damaged: what dedupe, reuse and covers stand on.
    pub fn usable(&self) -> Set {
        self.published(Set::MAX) & !self.distrusted
    }

    /// The objects of live snapshots.
    pub fn live_objects(&self) -> Set {
        bits(self.live).fold(0, |set, snapshot| set | self.objects[snapshot])
    }

    /// Names that once were in force and are no more: replaced segments, objects of forgotten snapshots.
    pub fn retired(&self) -> Set {
        let rows = (0..NAMES).filter(|name| self.rows[*name] != 0).fold(0, |set, name| set | 1 << name);
        let objects = self.objects.iter().fold(0, |set, object| set | object);
        rows & !self.segments | objects & !self.live_objects()
    }
}
