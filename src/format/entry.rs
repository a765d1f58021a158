//! Entries: one item of a catalog, with its metadata and the names of its content.

use bytes::Bytes;

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
