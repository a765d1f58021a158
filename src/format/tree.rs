//! The content-defined B-tree that catalogs and content lists are stored as. Its nodes are chunks.
//! Signatures only so far.

use bytes::Bytes;

use crate::chunk::id::{ChunkId, IdKey};

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
pub enum TreeKind {
    /// Keys ascend strictly; boundaries by the keyed hash of the key.
    Catalog,
    /// Keys are empty, items in file order; boundaries by the hash of the value (piece, or child).
    Content,
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

/// Builds a tree from left to right in constant memory. A clone can be finished on its own: that is how a partial snapshot is cut.
#[derive(Clone)]
pub struct TreeBuilder {
    _kind: TreeKind,
    _key: IdKey,
}
