//! Checkpoints: the folded state of a log as of a slot, so that readers need not read it from its beginning.

use bytes::Bytes;
use prost::Message;

use crate::format::record::{ClassList, Configure, Head, Hold, Note, ObjectClass};
use crate::format::{Envelope, FormatError, Hash, ROOT_MAX, ensure, hash_field, invalid, message, wire};
use crate::seal::Kind;
use crate::seal::key::Secret;

const CHECKPOINT: Envelope = Envelope { what: "a checkpoint", magic: b"HFCP", kind: Kind::Checkpoint, max: ROOT_MAX };

/// The folded state of a log.
#[derive(Clone, PartialEq, Message)]
pub struct Checkpoint {
    /// The log's epoch.
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    /// The last slot that is folded in.
    #[prost(uint64, tag = "2")]
    pub slot: u64,
    /// Hash of that slot's stored bytes, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub slot_hash: Bytes,
    /// The replica, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub replica_id: Bytes,
    /// The epoch that follows, where the log is closed; else 0.
    #[prost(uint32, tag = "5")]
    pub next_epoch: u32,
    /// The live snapshots.
    #[prost(message, repeated, tag = "6")]
    pub snapshots: Vec<LiveSnapshot>,
    /// Sets of names.
    #[prost(message, repeated, tag = "7")]
    pub sets: Vec<SetRuns>,
    /// The newest head of each other replica that the log has seen.
    #[prost(message, repeated, tag = "8")]
    pub heads: Vec<Head>,
    /// Features in force.
    #[prost(message, repeated, tag = "9")]
    pub features: Vec<Configure>,
    /// Holds in force.
    #[prost(message, repeated, tag = "10")]
    pub holds: Vec<Hold>,
    /// The last slot of the epoch before, where there was one.
    #[prost(message, optional, tag = "11")]
    pub previous_epoch_head: Option<Head>,
    /// Lists that records condemned by and whose names are in the sets: their own names, so that nobody takes them for
    /// orphans.
    #[prost(message, repeated, tag = "12")]
    pub named_lists: Vec<ClassList>,
    /// The newest note of each kind: one that is older than the checkpoint is found nowhere else without reading the log.
    #[prost(message, repeated, tag = "13")]
    pub notes: Vec<NewestNote>,
}

/// The newest note of a kind.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct NewestNote {
    /// When its record was written: seconds since the Unix epoch, by the writer's clock.
    #[prost(sint64, tag = "1")]
    pub time: i64,
    /// The note.
    #[prost(message, optional, tag = "2")]
    pub note: Option<Note>,
}

/// Notes that a checkpoint keeps: as many kinds.
pub const NOTES_MAX: usize = 64;
/// The longest kind and text that a checkpoint keeps, together, in bytes.
pub const NOTE_MAX: usize = 16 << 10;

/// A snapshot that is a root.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LiveSnapshot {
    /// Its id, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Its object's name, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub object: Bytes,
    /// The slot that committed it.
    #[prost(uint64, tag = "3")]
    pub slot: u64,
    /// Whether its run had not finished.
    #[prost(bool, tag = "4")]
    pub partial: bool,
}

/// Which set of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SetKind {
    /// Never written.
    Unknown = 0,
    /// Index segments in force.
    Segments = 1,
    /// Condemned objects of the class that stands beside.
    Condemned = 2,
    /// Packs that are distrusted.
    Distrusted = 3,
    /// Ids of forgotten snapshots.
    Forgotten = 4,
    /// Key slots withdrawn.
    Revoked = 5,
}

/// A set: the union of its runs and what was added, without what was removed.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SetRuns {
    /// Which set.
    #[prost(enumeration = "SetKind", tag = "1")]
    pub kind: i32,
    /// Of condemned objects, their class; else unknown.
    #[prost(enumeration = "ObjectClass", tag = "2")]
    pub class: i32,
    /// Lists that hold most of it; the next checkpoint names them again.
    #[prost(message, repeated, tag = "3")]
    pub runs: Vec<Run>,
    /// Names that are in no run, 32 bytes each, joined.
    #[prost(bytes = "bytes", tag = "4")]
    pub added: Bytes,
    /// Names in a run that are no longer in the set, 32 bytes each, joined.
    #[prost(bytes = "bytes", tag = "5")]
    pub removed: Bytes,
}

/// A list object that is part of a set.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Run {
    /// Its name, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub list: Bytes,
    /// How many names it holds.
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

impl SetRuns {
    /// What was added.
    pub fn added(&self) -> &[Hash] {
        self.added.as_chunks().0
    }

    /// What was removed.
    pub fn removed(&self) -> &[Hash] {
        self.removed.as_chunks().0
    }

    fn verify(&self, what: &'static str) -> Result<(), FormatError> {
        let kind = SetKind::try_from(self.kind).map_err(|_| invalid(what, "a set of unknown kind"))?;
        let class = ObjectClass::try_from(self.class).map_err(|_| invalid(what, "a set of unknown class"))?;
        ensure(kind != SetKind::Unknown, what, "a set without a kind")?;
        let classed = (kind == SetKind::Condemned) == (class != ObjectClass::Unknown);
        ensure(classed, what, "a set's class does not fit its kind")?;
        self.runs.iter().try_for_each(|run| hash_field(what, &run.list).map(drop))?;
        for joined in [&self.added, &self.removed] {
            ensure(joined.len() % 32 == 0, what, "a name of 32 bytes has another length")?;
            ensure(joined.as_chunks::<32>().0.is_sorted_by(|a, b| a < b), what, "a set's names are not in order")?;
        }
        Ok(())
    }
}

impl Checkpoint {
    /// The bytes to store.
    pub fn encode(&self, log_key: &Secret, repository: &Hash, entropy: [u8; 32]) -> Result<Bytes, FormatError> {
        self.verify().map_err(FormatError::on_writing)?;
        CHECKPOINT.seal(&clear(self.epoch, self.slot), &self.encode_to_vec(), log_key, repository, entropy)
    }

    /// Reads the stored bytes of the checkpoint that is named after `epoch` and `slot`.
    pub fn decode(stored: &[u8], log_key: &Secret, repository: &Hash, epoch: u32, slot: u64) -> Result<Checkpoint, FormatError> {
        let what = CHECKPOINT.what;
        if let Ok((head, _)) = CHECKPOINT.split(stored, 12) {
            ensure(head[8..] == clear(epoch, slot), what, "it is of another slot")?;
        }
        let plain = CHECKPOINT.open(stored, 12, log_key, repository)?;
        for (number, max, least) in [
            (6, usize::MAX, 68),
            (7, 256, 0),
            (8, 4096, 0),
            (9, 4096, 0),
            (10, usize::MAX, 34),
            (12, usize::MAX, 34),
            (13, NOTES_MAX, 0),
        ] {
            wire::verify_repeated(what, &plain, number, max, least)?;
        }
        let checkpoint: Checkpoint = message(what, plain)?;
        checkpoint.verify()?;
        ensure((checkpoint.epoch, checkpoint.slot) == (epoch, slot), what, "it is of another slot")?;
        Ok(checkpoint)
    }

    fn verify(&self) -> Result<(), FormatError> {
        let what = CHECKPOINT.what;
        ensure(self.epoch > 0 && self.slot > 0, what, "its epoch or slot is 0")?;
        hash_field(what, &self.slot_hash)?;
        hash_field(what, &self.replica_id)?;
        for snapshot in &self.snapshots {
            hash_field(what, &snapshot.id)?;
            hash_field(what, &snapshot.object)?;
            ensure((1..=self.slot).contains(&snapshot.slot), what, "a snapshot of a later slot")?;
        }
        self.sets.iter().try_for_each(|set| set.verify(what))?;
        let mut kinds: Vec<(i32, i32)> = self.sets.iter().map(|set| (set.kind, set.class)).collect();
        kinds.sort_unstable();
        ensure(kinds.is_sorted_by(|a, b| a < b), what, "a set stands in it twice")?;
        self.heads.iter().chain(&self.previous_epoch_head).try_for_each(|head| {
            hash_field(what, &head.replica_id)?;
            hash_field(what, &head.hash).map(drop)
        })?;
        self.holds.iter().try_for_each(|hold| hash_field(what, &hold.id).map(drop))?;
        self.named_lists.iter().try_for_each(|named| hash_field(what, &named.list).map(drop))?;
        for newest in &self.notes {
            let note = newest.note.as_ref().ok_or_else(|| invalid(what, "a note is missing"))?;
            ensure(note.kind.len() + note.text.len() <= NOTE_MAX, what, "a note is too long")?;
            ensure(note.list.is_empty() || note.list.len() == 32, what, "a name of 32 bytes has another length")?;
        }
        let kinds = self.notes.iter().filter_map(|newest| newest.note.as_ref()).map(|note| &note.kind);
        ensure(kinds.is_sorted_by(|a, b| a < b), what, "notes are not in the order of their kinds")
    }
}

fn clear(epoch: u32, slot: u64) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&epoch.to_le_bytes());
    out[4..].copy_from_slice(&slot.to_le_bytes());
    out
}
