//! Small trees that live in memory only: what clients back up, how that changes, and what a restore has to bring back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use holdfast::source::directory::{Found, Walked};
use holdfast::source::metadata::{FileTime, Kind, Meta};
use holdfast::source::{Content, Origin, Source};

use crate::simulation::dice::Dice;
use crate::support::rig;
use crate::support::source_tree::noise;

/// The first of these seconds lies long before any client's clock.
const EPOCH: i64 = 500_000_000;
/// Pieces of content that all clients draw from: what one stores, another may rely on.
const PIECES: u64 = 24;

#[derive(Clone)]
struct Item {
    /// None: a directory.
    content: Option<Arc<Vec<u8>>>,
    /// Counts changes; modification and change times follow from it.
    changed: i64,
    inode: u64,
}

/// A tree in memory, by catalog key; the root at the empty key.
#[derive(Clone)]
pub struct Model {
    items: BTreeMap<Vec<u8>, Item>,
    changes: i64,
}

impl Model {
    /// A tree of a few files in two folders.
    pub fn new(dice: &mut Dice) -> Model {
        let mut model = Model { items: BTreeMap::new(), changes: 0 };
        for folder in [&b""[..], b"a", b"b"] {
            model.set(folder, None);
        }
        for _ in 0..2 + dice.below(5) {
            model.write(dice);
        }
        model
    }

    fn set(&mut self, key: &[u8], content: Option<Arc<Vec<u8>>>) {
        self.changes += 1;
        let inode = self.items.get(key).map_or(self.changes as u64, |item| item.inode);
        self.items.insert(key.to_vec(), Item { content, changed: self.changes, inode });
    }

    /// Writes one of a few files: empty, small, or of several chunks.
    fn write(&mut self, dice: &mut Dice) {
        let key = [&b""[..], b"a\0", b"b\0"][dice.place(3)].iter().copied().chain(*b"file-").chain([b'0' + dice.below(8) as u8]);
        let key: Vec<u8> = key.collect();
        let small = |dice: &mut Dice| {
            let piece = dice.below(PIECES);
            noise(piece, 40 + 37 * piece as usize)
        };
        let content = match dice.below(12) {
            0 => Vec::new(),
            1 | 2 => (0..4 + dice.below(4)).flat_map(|_| noise(100 + dice.below(PIECES), 900)).collect(),
            _ => small(dice),
        };
        self.set(&key, Some(Arc::new(content)));
    }

    /// Some files change, come and go.
    pub fn change(&mut self, dice: &mut Dice) {
        for _ in 0..dice.below(4) {
            self.write(dice);
        }
        let files: Vec<Vec<u8>> = self.items.iter().filter(|(_, i)| i.content.is_some()).map(|(key, _)| key.clone()).collect();
        if files.len() > 2 && dice.below(3) == 0 {
            self.items.remove(&files[dice.place(files.len())]);
        }
    }

    /// What a restore has to bring back.
    pub fn tree(&self) -> rig::Tree {
        let item = |(key, item): (&Vec<u8>, &Item)| {
            let meta = item.meta();
            let bytes = item.content.as_deref().map(Vec::as_slice).unwrap_or_default();
            let kind = if item.content.is_some() { 0o100_000 } else { 0o040_000 };
            let mtime = (meta.mtime.seconds, meta.mtime.nanos);
            let content = *blake3::hash(bytes).as_bytes();
            (key.clone(), rig::Item { mode: kind | meta.mode, size: meta.size, mtime, content })
        };
        self.items.iter().map(item).collect()
    }

    /// The tree as a source, at its start.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(Walk { items: self.items.clone().into_iter() })
    }
}

impl Item {
    fn meta(&self) -> Meta {
        let time = FileTime { seconds: EPOCH + self.changed, nanos: 7 };
        let size = self.content.as_ref().map_or(0, |content| content.len() as u64);
        Meta {
            kind: if self.content.is_some() { Kind::File } else { Kind::Directory },
            size,
            allocated: size,
            mode: if self.content.is_some() { 0o644 } else { 0o755 },
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            inode: self.inode,
            device_id: 1,
            nlink: 1,
            rdev: (0, 0),
        }
    }
}

struct Walk {
    items: std::collections::btree_map::IntoIter<Vec<u8>, Item>,
}

impl Source for Walk {
    fn next(&mut self) -> Option<Walked> {
        let (key, item) = self.items.next()?;
        let content = Arc::new(Bytes(item.content.clone().unwrap_or_default()));
        Some(Walked::Item(Found { key, meta: item.meta(), origin: Origin::Given(content), name: OsString::new() }))
    }

    fn vanished(&self) -> u64 {
        0
    }
}

struct Bytes(Arc<Vec<u8>>);

impl Content for Bytes {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
