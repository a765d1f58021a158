//! From what the file system says to an entry.

use bytes::Bytes;

use crate::chunk::id::ChunkId;
use crate::format::entry::{Entry, EntryKind, Piece, Problem, XATTR_INLINE_MAX, Xattr};
use crate::source::attributes::Attribute;
use crate::source::metadata::{Kind, Meta, OwnerNames};

/// The kind of entry for a kind of item.
pub fn kind(kind: Kind) -> EntryKind {
    match kind {
        Kind::File => EntryKind::File,
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink => EntryKind::Symlink,
        Kind::Fifo => EntryKind::Fifo,
        Kind::Socket => EntryKind::Socket,
        Kind::CharDevice => EntryKind::CharDevice,
        Kind::BlockDevice => EntryKind::BlockDevice,
    }
}

/// An entry with everything that a stat says. Directories carry no size, change time or inode: they are always walked,
/// and a renamed or remounted tree stays byte for byte what it was.
pub fn from_meta(meta: &Meta, owners: &mut OwnerNames) -> Entry {
    let directory = meta.kind == Kind::Directory;
    Entry {
        kind: kind(meta.kind) as i32,
        size: if meta.kind == Kind::File { meta.size } else { 0 },
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        user: owners.user(meta.uid),
        group: owners.group(meta.gid),
        mtime: meta.mtime.seconds,
        mtime_nanos: meta.mtime.nanos,
        ctime: if directory { 0 } else { meta.ctime.seconds },
        ctime_nanos: if directory { 0 } else { meta.ctime.nanos },
        inode: if directory { 0 } else { meta.inode },
        device: if matches!(meta.kind, Kind::CharDevice | Kind::BlockDevice) {
            u64::from(meta.rdev.0) << 32 | u64::from(meta.rdev.1)
        } else {
            0
        },
        ..Entry::default()
    }
}

/// Adds extended attributes. Long values are chunks: gives them with the place of their attribute.
pub fn add_xattrs(entry: &mut Entry, attributes: Vec<Attribute>) -> Vec<(usize, Vec<u8>)> {
    let mut long = Vec::new();
    for (name, value) in attributes {
        let mut xattr = Xattr { name: Bytes::from(name), value: Bytes::new(), chunk: None };
        if value.len() > XATTR_INLINE_MAX {
            long.push((entry.xattrs.len(), value));
        } else {
            xattr.value = Bytes::from(value);
        }
        entry.xattrs.push(xattr);
    }
    long
}

/// A piece of content.
pub fn piece(id: &ChunkId, length: u64) -> Piece {
    Piece { id: Bytes::copy_from_slice(&id.0), length }
}

/// What may differ between an entry and a stat without reading.
#[derive(Clone, Copy, Debug)]
pub struct Compare {
    /// Do not compare inode numbers.
    pub ignore_inode: bool,
    /// Do not compare change times.
    pub ignore_ctime: bool,
}

/// Whether the file system says that nothing changed since `entry` was recorded.
pub fn is_unchanged(entry: &Entry, meta: &Meta, hard_link: &[u8], compare: Compare) -> bool {
    let size = if meta.kind == Kind::File { meta.size } else { 0 };
    entry.kind() == kind(meta.kind)
        && entry.problem() == Problem::None
        && entry.size == size
        && (entry.mtime, entry.mtime_nanos) == (meta.mtime.seconds, meta.mtime.nanos)
        && (compare.ignore_ctime || (entry.ctime, entry.ctime_nanos) == (meta.ctime.seconds, meta.ctime.nanos))
        && (compare.ignore_inode || entry.inode == meta.inode)
        && (entry.mode, entry.uid, entry.gid) == (meta.mode, meta.uid, meta.gid)
        && entry.hard_link[..] == *hard_link
}
