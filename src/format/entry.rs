//! Entries: one item of a catalog, with its metadata and the names of its content.

use bytes::Bytes;

use crate::chunk::id::ChunkId;
use crate::format::tree::TreeKind;
use crate::format::{CHUNK_MAX, FormatError, catalog, ensure, invalid, message, wire};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EntryKind {
    /// Never written; what an unset field decodes to.
    Unknown = 0,
    /// Regular file.
    File = 1,
    /// Directory.
    Directory = 2,
    /// Symbolic link.
    Symlink = 3,
    /// Named pipe.
    Fifo = 4,
    /// Unix socket.
    Socket = 5,
    /// Character device.
    CharDevice = 6,
    /// Block device.
    BlockDevice = 7,
}

/// What went wrong with an entry when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Problem {
    /// Nothing: content and metadata belong together.
    None = 0,
    /// It kept changing while it was read: the content is what was read, no point in time.
    Inconsistent = 1,
    /// It could not be read: metadata only (for a directory: without its contents).
    Unreadable = 2,
}

/// One item of a catalog. Times of last access, link counts, containing devices and directory sizes are not stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// What it is.
    #[prost(enumeration = "EntryKind", tag = "1")]
    pub kind: i32,
    /// Length of a file's content in bytes, holes included.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Permission and special bits, `07777`.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Owner's number.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Group's number.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// Owner's name where it was read, empty if it has none.
    #[prost(bytes = "bytes", tag = "6")]
    pub user: Bytes,
    /// Group's name where it was read, empty if it has none.
    #[prost(bytes = "bytes", tag = "7")]
    pub group: Bytes,
    /// Time of last modification: seconds since the Unix epoch.
    #[prost(sint64, tag = "8")]
    pub mtime: i64,
    /// Nanoseconds within that second.
    #[prost(uint32, tag = "9")]
    pub mtime_nanos: u32,
    /// Time of last status change; files, links and devices only, for change detection, never restored.
    #[prost(sint64, tag = "10")]
    pub ctime: i64,
    /// Nanoseconds within that second.
    #[prost(uint32, tag = "11")]
    pub ctime_nanos: u32,
    /// Inode number; files, links and devices only, for change detection, never restored.
    #[prost(uint64, tag = "12")]
    pub inode: u64,
    /// Where a symbolic link points, raw bytes.
    #[prost(bytes = "bytes", tag = "13")]
    pub link_target: Bytes,
    /// Extended attributes sorted by name; on Linux POSIX ACLs and capabilities are among them.
    #[prost(message, repeated, tag = "14")]
    pub xattrs: Vec<Xattr>,
    /// Device number of a device: major in the upper 32 bits, minor in the lower.
    #[prost(uint64, tag = "15")]
    pub device: u64,
    /// Catalog key of the first member of this hard-link group (that member carries its own key); empty: no group.
    #[prost(bytes = "bytes", tag = "16")]
    pub hard_link: Bytes,
    /// A file's content.
    #[prost(message, optional, tag = "17")]
    pub content: Option<Content>,
    /// What went wrong reading it.
    #[prost(enumeration = "Problem", tag = "18")]
    pub problem: i32,
}

/// One extended attribute. Values over 4 KiB are chunks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Xattr {
    /// Full name with its namespace, raw bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// The value, when it is short.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The value, when it is long.
    #[prost(message, optional, tag = "3")]
    pub chunk: Option<Piece>,
}

/// A file's content: a few pieces inline, else a content list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Content {
    /// The pieces, at most [`INLINE_PIECES`]; empty when there is a list (or nothing).
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    /// Root of the content list.
    #[prost(message, optional, tag = "2")]
    pub list: Option<crate::format::tree::Child>,
}

/// How many pieces an entry names itself before a content list takes over.
pub const INLINE_PIECES: usize = 6;

/// A run of a file: a chunk, or a hole.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Piece {
    /// The chunk's id, 32 bytes; empty: a hole.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Length in bytes, never 0; of a chunk at most 16 MiB.
    #[prost(uint64, tag = "2")]
    pub length: u64,
}

const WHAT: &str = "an entry";
/// Longest link target, in bytes.
pub const LINK_TARGET_MAX: usize = 65_535;
/// Longest owner's or group's name, in bytes.
pub const OWNER_MAX: usize = 1024;
/// Longest name of an extended attribute, in bytes (the limit of Linux).
pub const XATTR_NAME_MAX: usize = 255;
/// Longest value of an extended attribute that an entry holds itself, in bytes.
pub const XATTR_INLINE_MAX: usize = 4096;
/// Longest value of an extended attribute, in bytes.
pub const XATTR_VALUE_MAX: usize = 16 << 20;
/// How many extended attributes an entry can have.
pub const XATTRS_MAX: usize = 4096;

/// Reads the entry that stands at `key`.
pub fn decode(value: Bytes, key: &[u8]) -> Result<Entry, FormatError> {
    wire::verify_repeated(WHAT, &value, 14, XATTRS_MAX, 0)?;
    let entry: Entry = message(WHAT, value)?;
    verify(&entry, key)?;
    Ok(entry)
}

/// Tests an entry and its key. A kind or problem that is not known passes: the caller skips what it does not know.
pub fn verify(entry: &Entry, key: &[u8]) -> Result<(), FormatError> {
    catalog::verify_key(key)?;
    ensure(entry.mode <= 0o7777, WHAT, "its mode has other bits than permissions")?;
    let nanos = entry.mtime_nanos < 1_000_000_000 && entry.ctime_nanos < 1_000_000_000;
    ensure(nanos, WHAT, "its nanoseconds make more than a second")?;
    ensure(entry.user.len() <= OWNER_MAX && entry.group.len() <= OWNER_MAX, WHAT, "an owner's name is too long")?;
    ensure(entry.link_target.len() <= LINK_TARGET_MAX, WHAT, "its link target is too long")?;
    ensure(!entry.link_target.contains(&0), WHAT, "its link target holds a zero byte")?;
    if !entry.hard_link.is_empty() {
        catalog::verify_key(&entry.hard_link)?;
    }
    match EntryKind::try_from(entry.kind) {
        Ok(EntryKind::Unknown) => return Err(invalid(WHAT, "no kind")),
        Ok(EntryKind::File) => {
            let whole = entry.content.is_some() || entry.size == 0 || entry.problem == Problem::Unreadable as i32;
            ensure(whole, WHAT, "a file without its content")?;
        }
        Ok(EntryKind::Symlink) => {
            let empty = entry.link_target.is_empty() && entry.problem != Problem::Unreadable as i32;
            ensure(!empty && entry.content.is_none(), WHAT, "a symbolic link without a target, or with content")?;
        }
        Ok(_) => ensure(entry.content.is_none(), WHAT, "content of something that is no file")?,
        Err(_) => {}
    }
    verify_xattrs(&entry.xattrs)?;
    entry.content.as_ref().map_or(Ok(()), |content| verify_content(content, entry.size))
}

fn verify_xattrs(xattrs: &[Xattr]) -> Result<(), FormatError> {
    ensure(xattrs.len() <= XATTRS_MAX, WHAT, "too many extended attributes")?;
    ensure(xattrs.is_sorted_by(|a, b| a.name < b.name), WHAT, "its extended attributes are not in order")?;
    for xattr in xattrs {
        let name = (1..=XATTR_NAME_MAX).contains(&xattr.name.len()) && !xattr.name.contains(&0);
        ensure(name, WHAT, "an extended attribute's name is out of bounds")?;
        ensure(xattr.value.len() <= XATTR_INLINE_MAX, WHAT, "an extended attribute's value is too long")?;
        if let Some(chunk) = &xattr.chunk {
            chunk.verify(WHAT)?;
            let alone = xattr.value.is_empty() && !chunk.id.is_empty() && chunk.length <= XATTR_VALUE_MAX as u64;
            ensure(alone, WHAT, "an extended attribute's value is neither inline nor one chunk")?;
        }
    }
    Ok(())
}

fn verify_content(content: &Content, size: u64) -> Result<(), FormatError> {
    ensure(content.pieces.len() <= INLINE_PIECES, WHAT, "too many pieces")?;
    let mut sum = Some(0_u64);
    for piece in &content.pieces {
        piece.verify(WHAT)?;
        sum = sum.and_then(|sum| sum.checked_add(piece.length));
    }
    if let Some(list) = &content.list {
        ensure(content.pieces.is_empty(), WHAT, "both pieces and a content list")?;
        list.verify(WHAT, TreeKind::Content)?;
        ensure(list.entries > 0, WHAT, "an empty content list")?;
        sum = Some(list.bytes);
    }
    ensure(sum == Some(size), WHAT, "its content does not add up to its size")
}

impl Piece {
    /// The chunk's id; `None`: a hole.
    pub fn chunk_id(&self) -> Option<ChunkId> {
        ChunkId::from_slice(&self.id)
    }

    /// Tests length and id.
    pub fn verify(&self, what: &'static str) -> Result<(), FormatError> {
        ensure(self.id.is_empty() || self.id.len() == 32, what, "a piece's id has another length than 32")?;
        let bounded = self.length > 0 && (self.id.is_empty() || self.length <= CHUNK_MAX as u64);
        ensure(bounded, what, "a piece's length is out of bounds")
    }
}
