//! Snapshots: the root of one backup.

use bytes::Bytes;
use prost::Message;

use crate::format::tree::{Child, TreeKind};
use crate::format::{Envelope, FormatError, Hash, KEY_MAX, ROOT_MAX, ensure, hash_field, message, wire};
use crate::seal::Kind;
use crate::seal::key::Secret;

const SNAPSHOT: Envelope = Envelope { what: "a snapshot", magic: b"HFSN", kind: Kind::Snapshot, max: ROOT_MAX };
/// How many roots a snapshot can have.
pub const ROOTS_MAX: usize = 4096;
/// How many tags a snapshot can have.
pub const TAGS_MAX: usize = 1024;
/// How many problems a snapshot names; the count goes on.
pub const PROBLEMS_MAX: usize = 1000;
/// Longest text field (host, user, tag, label, program version, message), in bytes.
pub const TEXT_MAX: usize = 4096;

/// The root of one backup. It names chunks, never packs.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// Its id, 32 bytes drawn by the run: the same at every replica.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// What was backed up.
    #[prost(message, repeated, tag = "2")]
    pub roots: Vec<Root>,
    /// When the run began: seconds since the Unix epoch.
    #[prost(sint64, tag = "3")]
    pub time_seconds: i64,
    /// Nanoseconds within that second.
    #[prost(uint32, tag = "4")]
    pub time_nanos: u32,
    /// The local clock's distance from UTC, in seconds, east positive.
    #[prost(sint32, tag = "5")]
    pub utc_offset_seconds: i32,
    /// The machine.
    #[prost(string, tag = "6")]
    pub host: String,
    /// Who ran it.
    #[prost(string, tag = "7")]
    pub user: String,
    /// The operator's tags, sorted, each once.
    #[prost(string, repeated, tag = "8")]
    pub tags: Vec<String>,
    /// The operator's name for it.
    #[prost(string, tag = "9")]
    pub label: String,
    /// Who wrote it.
    #[prost(string, tag = "10")]
    pub program_version: String,
    /// Id of the snapshot it was compared with, 32 bytes; empty: none.
    #[prost(bytes = "bytes", tag = "11")]
    pub parent: Bytes,
    /// Figures.
    #[prost(message, optional, tag = "12")]
    pub statistics: Option<Statistics>,
    /// How many items had a problem.
    #[prost(uint64, tag = "13")]
    pub errors_count: u64,
    /// The first of them, at most [`PROBLEMS_MAX`].
    #[prost(message, repeated, tag = "14")]
    pub errors: Vec<SourceProblem>,
    /// Whether the run had not finished: what is here is whole, but not all.
    #[prost(bool, tag = "15")]
    pub partial: bool,
    /// The run, 32 bytes.
    #[prost(bytes = "bytes", tag = "16")]
    pub run_id: Bytes,
    /// How long the run took, in milliseconds.
    #[prost(uint64, tag = "17")]
    pub duration_ms: u64,
    /// When the run really began, if the time above was given to it and not taken from the clock: seconds since the Unix epoch.
    #[prost(sint64, optional, tag = "18")]
    pub began_seconds: Option<i64>,
    /// Nanoseconds within that second.
    #[prost(uint32, tag = "19")]
    pub began_nanos: u32,
}

/// One tree that was backed up. Keys in its catalog are relative to it.
#[derive(Clone, PartialEq, Message)]
pub struct Root {
    /// Its name inside the snapshot, raw bytes, unique.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Where it was: the absolute path as recorded, raw bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub path: Bytes,
    /// Its catalog.
    #[prost(message, optional, tag = "3")]
    pub catalog: Option<Child>,
}

/// Figures of a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Statistics {
    /// Regular files.
    #[prost(uint64, tag = "1")]
    pub files: u64,
    /// Directories.
    #[prost(uint64, tag = "2")]
    pub directories: u64,
    /// Everything else.
    #[prost(uint64, tag = "3")]
    pub others: u64,
    /// Content bytes of all files.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    /// Files the parent does not have.
    #[prost(uint64, tag = "5")]
    pub files_new: u64,
    /// Files that differ from the parent's.
    #[prost(uint64, tag = "6")]
    pub files_changed: u64,
    /// Files carried over.
    #[prost(uint64, tag = "7")]
    pub files_unmodified: u64,
    /// Directories the parent does not have.
    #[prost(uint64, tag = "8")]
    pub dirs_new: u64,
    /// Directories that differ from the parent's.
    #[prost(uint64, tag = "9")]
    pub dirs_changed: u64,
    /// Directories carried over.
    #[prost(uint64, tag = "10")]
    pub dirs_unmodified: u64,
    /// Bytes of new chunks, before compression.
    #[prost(uint64, tag = "11")]
    pub data_added: u64,
    /// Bytes of new chunks as they lie in packs.
    #[prost(uint64, tag = "12")]
    pub data_added_stored: u64,
    /// New content chunks.
    #[prost(uint64, tag = "13")]
    pub data_chunks: u64,
    /// New nodes of catalogs and content lists.
    #[prost(uint64, tag = "14")]
    pub meta_chunks: u64,
    /// Bytes read from the source.
    #[prost(uint64, tag = "15")]
    pub bytes_read: u64,
}

/// An item that could not be backed up as it should.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SourceProblem {
    /// Where, raw bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub path: Bytes,
    /// What was met.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Snapshot {
    /// The bytes to store.
    pub fn encode(&self, log_key: &Secret, repository: &Hash, entropy: [u8; 32]) -> Result<Bytes, FormatError> {
        self.verify().map_err(FormatError::on_writing)?;
        SNAPSHOT.seal(&[], &self.encode_to_vec(), log_key, repository, entropy)
    }

    /// Reads stored bytes.
    pub fn decode(stored: &[u8], log_key: &Secret, repository: &Hash) -> Result<Snapshot, FormatError> {
        let plain = SNAPSHOT.open(stored, 0, log_key, repository)?;
        for (number, max) in [(2, ROOTS_MAX), (8, TAGS_MAX), (14, PROBLEMS_MAX)] {
            wire::verify_repeated(SNAPSHOT.what, &plain, number, max, 0)?;
        }
        let snapshot: Snapshot = message(SNAPSHOT.what, plain)?;
        snapshot.verify()?;
        Ok(snapshot)
    }

    /// The snapshot's id.
    pub fn snapshot_id(&self) -> Result<Hash, FormatError> {
        hash_field(SNAPSHOT.what, &self.id)
    }

    /// When the run began by the machine's clock, whatever time it bears: seconds since the Unix epoch, nanoseconds.
    pub fn began(&self) -> (i64, u32) {
        self.began_seconds.map_or((self.time_seconds, self.time_nanos), |seconds| (seconds, self.began_nanos))
    }

    /// Tests every bound. A decoded snapshot has passed.
    pub fn verify(&self) -> Result<(), FormatError> {
        let what = SNAPSHOT.what;
        hash_field(what, &self.id)?;
        hash_field(what, &self.run_id)?;
        if !self.parent.is_empty() {
            hash_field(what, &self.parent)?;
        }
        let nanos = self.time_nanos.max(self.began_nanos);
        ensure(nanos < 1_000_000_000, what, "its nanoseconds make more than a second")?;
        ensure(self.utc_offset_seconds.unsigned_abs() <= 172_800, what, "its distance from UTC is out of bounds")?;
        ensure(self.roots.len() <= ROOTS_MAX && self.tags.len() <= TAGS_MAX, what, "too many roots or tags")?;
        ensure(self.errors.len() <= PROBLEMS_MAX, what, "too many problems")?;
        ensure(self.errors.len() as u64 <= self.errors_count, what, "more problems than it counts")?;
        let mut texts = [&self.host, &self.user, &self.label, &self.program_version].into_iter().chain(&self.tags);
        ensure(texts.all(|text| text.len() <= TEXT_MAX), what, "a text is too long")?;
        let sound = self.errors.iter().all(|e| e.path.len() <= KEY_MAX && e.message.len() <= TEXT_MAX);
        ensure(sound, what, "a problem's path or message is too long")?;
        for root in &self.roots {
            ensure(root.name.len() <= KEY_MAX && root.path.len() <= KEY_MAX, what, "a root's name or path is too long")?;
            let catalog = root.catalog.as_ref();
            ensure(catalog.is_some(), what, "a root without a catalog")?;
            catalog.map_or(Ok(()), |child| child.verify(what, TreeKind::Catalog))?;
        }
        let mut names: Vec<&[u8]> = self.roots.iter().map(|root| &root.name[..]).collect();
        names.sort_unstable();
        ensure(names.is_sorted_by(|a, b| a < b), what, "two roots of one name")
    }
}
