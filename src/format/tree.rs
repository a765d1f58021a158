//! The content-defined B-tree that catalogs and content lists are stored as. Its nodes are chunks.
//!
//! Shape: a tree depends on its items alone, never on how they came. Whether a node ends after an item is decided by
//! the item's hash against its size, so that a change moves the boundaries beside it and no others.

use bytes::Bytes;
use prost::Message;

use crate::chunk::id::{ChunkId, IdKey};
use crate::format::wire::{put_bytes, put_varint, varint_len};
use crate::format::{FormatError, KEY_MAX, NODE_MAX, catalog, ensure, hash_field, message, unwritable};

/// Weight below which a node does not end. A node's weight is its plaintext's length in bytes, plus a sixteenth of every
/// prefix that an item shares: what it takes in memory stays in proportion to what it weighs.
pub const WEIGHT_MIN: usize = 16 << 10;
/// Weight around which nodes end.
pub const WEIGHT_AVERAGE: usize = 64 << 10;
/// Weight at which a node ends whatever its items' hashes are.
pub const WEIGHT_MAX: usize = 256 << 10;
/// Highest level of a node.
pub const LEVEL_MAX: u32 = 32;
/// Longest value of an item, in bytes.
pub const VALUE_MAX: usize = 512 << 10;
/// Part of a shared prefix's length that counts as weight: one byte of this many.
pub(crate) const SHARED_SHARE: usize = 16;
/// Ends become rarer below the average and more frequent above it, by this factor.
const NORMALISATION: u64 = 4;

/// A node as its parent (or a snapshot) names it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Child {
    /// Chunk id of the node, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Length of the node's plaintext in bytes.
    #[prost(uint32, tag = "2")]
    pub length: u32,
    /// Level of the node: 0 is a leaf.
    #[prost(uint32, tag = "3")]
    pub level: u32,
    /// Items in all leaves below.
    #[prost(uint64, tag = "4")]
    pub entries: u64,
    /// Content bytes of all items below.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
}

/// Which tree: they differ in what decides a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TreeKind {
    /// Keys ascend strictly; boundaries by the keyed hash of the key.
    Catalog = 1,
    /// Keys are empty, items in file order; boundaries by the hash of the value (piece, or child).
    Content = 2,
}

/// A finished node, to be stored as a meta chunk.
#[derive(Clone, Debug)]
pub struct NodeChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its bytes.
    pub plaintext: Bytes,
}

/// An item of a decoded node.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The full key (of an inner item: the first key below it).
    pub key: Bytes,
    /// Leaf: the item's own bytes, untouched. Inner: an encoded [`Child`].
    pub value: Bytes,
}

/// A decoded node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// 0 is a leaf.
    pub level: u32,
    /// Items in order.
    pub items: Vec<Item>,
}

impl Child {
    /// Tests lengths, level and counts against each other.
    pub(crate) fn verify(&self, what: &'static str, kind: TreeKind) -> Result<(), FormatError> {
        hash_field(what, &self.id)?;
        ensure(self.length >= 2 && self.length as usize <= NODE_MAX, what, "a node's length is out of bounds")?;
        ensure(self.level <= LEVEL_MAX, what, "a tree is too deep")?;
        ensure(self.entries > 0 || self.level == 0, what, "an inner node without items")?;
        ensure(self.entries > 0 || self.bytes == 0, what, "bytes without items")?;
        ensure(kind == TreeKind::Catalog || self.bytes >= self.entries, what, "items without bytes")
    }

    /// Reads the value of an inner node's item.
    pub fn decode_value(value: Bytes, kind: TreeKind) -> Result<Child, FormatError> {
        let child: Child = message("a tree node", value)?;
        child.verify("a tree node", kind)?;
        Ok(child)
    }

    /// The node's chunk id. `None` unless it has 32 bytes, which a verified child has.
    pub fn chunk_id(&self) -> Option<ChunkId> {
        ChunkId::from_slice(&self.id)
    }
}

/// Builds a tree from left to right in constant memory. A clone can be finished on its own: that is how a partial
/// snapshot is cut.
#[derive(Clone)]
pub struct TreeBuilder {
    kind: TreeKind,
    ids: IdKey,
    boundary: [u8; 32],
    levels: Vec<Level>,
    scratch: Vec<u8>,
}

/// The node that is being filled at one level.
#[derive(Clone)]
struct Level {
    plaintext: Vec<u8>,
    weight: usize,
    items: u64,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    entries: u64,
    bytes: u64,
    closed: u64,
    decides: Vec<u8>,
    /// The node closed last.
    last: Option<Child>,
}

const WHAT: &str = "a tree";

impl TreeBuilder {
    /// An empty tree, its nodes named under `ids`.
    pub fn new(kind: TreeKind, ids: IdKey) -> TreeBuilder {
        let boundary = ids.id(b"tree boundary").0;
        TreeBuilder { kind, ids, boundary, levels: vec![Level::new(kind, 0)], scratch: Vec::new() }
    }

    /// Appends an item whose content has `bytes` bytes. Nodes that are finished by it go to `out`. After an error the
    /// builder is of no further use.
    pub fn push(&mut self, key: &[u8], value: &[u8], bytes: u64, out: &mut Vec<NodeChunk>) -> Result<(), FormatError> {
        if key.len() > KEY_MAX || value.len() > VALUE_MAX {
            return Err(unwritable(WHAT, "an item is too long"));
        }
        let level = &self.levels[0];
        let ordered = match self.kind {
            TreeKind::Catalog => level.items + level.closed == 0 || *key > level.last_key[..],
            TreeKind::Content => key.is_empty(),
        };
        if !ordered {
            return Err(unwritable(WHAT, format!("{} is out of order", catalog::display(key))));
        }
        self.append(0, key, value, 1, bytes, out)
    }

    /// Finishes all nodes and gives the root.
    pub fn finish(mut self, out: &mut Vec<NodeChunk>) -> Result<Child, FormatError> {
        let mut at = 0;
        loop {
            let level = &self.levels[at];
            if at + 1 == self.levels.len() {
                // A top that would only name one node is not needed: that node is the root.
                let only = at.checked_sub(1).filter(|_| level.items == 1).and_then(|below| self.levels[below].last.take());
                return only.map_or_else(|| self.close(at, out).map(|(_, root)| root), Ok);
            }
            if level.items > 0 {
                self.close_into_parent(at, out)?;
            }
            at += 1;
        }
    }

    fn append(
        &mut self,
        at: usize,
        key: &[u8],
        value: &[u8],
        entries: u64,
        bytes: u64,
        out: &mut Vec<NodeChunk>,
    ) -> Result<(), FormatError> {
        if at == self.levels.len() {
            if at > LEVEL_MAX as usize {
                return Err(unwritable(WHAT, "too deep"));
            }
            self.levels.push(Level::new(self.kind, at));
        }
        let level = &mut self.levels[at];
        let weight = level.append(key, value);
        level.entries = level.entries.checked_add(entries).ok_or_else(|| unwritable(WHAT, "too many items"))?;
        level.bytes = level.bytes.checked_add(bytes).ok_or_else(|| unwritable(WHAT, "too many bytes"))?;
        if level.ends(self.kind, &self.boundary, at as u8, key, value, weight) {
            self.close_into_parent(at, out)?;
        }
        Ok(())
    }

    fn close_into_parent(&mut self, at: usize, out: &mut Vec<NodeChunk>) -> Result<(), FormatError> {
        let (key, child) = self.close(at, out)?;
        let mut value = std::mem::take(&mut self.scratch);
        value.clear();
        child.encode_raw(&mut value);
        let done = self.append(at + 1, &key, &value, child.entries, child.bytes, out);
        self.scratch = value;
        done
    }

    /// Gives out the node at a level: its first key, and how its parent names it.
    fn close(&mut self, at: usize, out: &mut Vec<NodeChunk>) -> Result<(Vec<u8>, Child), FormatError> {
        let level = &mut self.levels[at];
        let plaintext = Bytes::from(std::mem::take(&mut level.plaintext));
        let id = self.ids.id(&plaintext);
        let child = Child {
            id: Bytes::copy_from_slice(&id.0),
            length: u32::try_from(plaintext.len()).map_err(|_| unwritable(WHAT, "a node is too long"))?,
            level: at as u32,
            entries: std::mem::take(&mut level.entries),
            bytes: std::mem::take(&mut level.bytes),
        };
        let key = std::mem::take(&mut level.first_key);
        level.closed += 1;
        level.last = Some(child.clone());
        level.restart(self.kind, at);
        out.push(NodeChunk { id, plaintext });
        Ok((key, child))
    }
}

impl Level {
    fn new(kind: TreeKind, at: usize) -> Level {
        let (plaintext, first_key, last_key, decides) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (weight, items, entries, bytes, closed) = (0, 0, 0, 0, 0);
        let mut level = Level { plaintext, weight, items, first_key, last_key, entries, bytes, closed, decides, last: None };
        level.restart(kind, at);
        level
    }

    fn restart(&mut self, kind: TreeKind, at: usize) {
        self.plaintext.extend_from_slice(&[1 << 3, kind as u8]);
        if at > 0 {
            self.plaintext.extend_from_slice(&[2 << 3, at as u8]);
        }
        self.weight = self.plaintext.len();
        self.items = 0;
    }

    /// Appends an item in its stored form; gives its weight.
    fn append(&mut self, key: &[u8], value: &[u8]) -> usize {
        let shared = if self.items == 0 { 0 } else { shared_prefix(&self.last_key, key) };
        let suffix = &key[shared..];
        let field = |length: usize| if length == 0 { 0 } else { 1 + varint_len(length as u64) + length };
        let fields = if shared == 0 { 0 } else { 1 + varint_len(shared as u64) } + field(suffix.len()) + field(value.len());
        let before = self.plaintext.len();
        let out = &mut self.plaintext;
        out.push(3 << 3 | 2);
        put_varint(out, fields as u64);
        if shared > 0 {
            out.push(1 << 3);
            put_varint(out, shared as u64);
        }
        put_bytes(out, 2, suffix);
        put_bytes(out, 3, value);
        if self.items == 0 {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(suffix);
        self.items += 1;
        let weight = self.plaintext.len() - before + shared / SHARED_SHARE;
        self.weight += weight;
        weight
    }

    /// Whether the node ends after the item that was just appended.
    fn ends(&mut self, kind: TreeKind, boundary: &[u8; 32], at: u8, key: &[u8], value: &[u8], weight: usize) -> bool {
        if self.weight < WEIGHT_MIN || (at > 0 && self.items < 2) {
            return false;
        }
        if self.weight >= WEIGHT_MAX {
            return true;
        }
        let decides = match (kind, value) {
            (TreeKind::Catalog, _) => key,
            (TreeKind::Content, [0x0a, 0x20, id @ ..]) if id.len() >= 32 => &id[..32],
            (TreeKind::Content, _) => value,
        };
        // One buffer and one call: a hasher of many parts costs twice as much to set up as these bytes to hash.
        self.decides.clear();
        self.decides.push(at);
        self.decides.extend_from_slice(decides);
        let hash = blake3::keyed_hash(boundary, &self.decides);
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *hash.as_bytes();
        let drawn = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        let average = WEIGHT_AVERAGE as u64;
        let spread = if self.weight < WEIGHT_AVERAGE { average * NORMALISATION } else { average / NORMALISATION };
        // Uniform in 0..spread: an item of weight w ends a node with probability w / spread.
        let place = (u128::from(drawn) * u128::from(spread)) >> 64;
        place < weight as u128
    }
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
