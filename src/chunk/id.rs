//! Chunk ids: keyed BLAKE3-256 of the plaintext.

use std::fmt;

/// The name of a piece of content: keyed BLAKE3-256 of its plaintext. Equal ids mean equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// Its first 128 bits: enough to tell chunks apart where millions are remembered.
    pub fn half(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&self.0[..16]);
        out
    }

    /// From stored bytes; `None` unless there are exactly 32.
    pub fn from_slice(bytes: &[u8]) -> Option<ChunkId> {
        Some(ChunkId(bytes.try_into().ok()?))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

/// The secret under which chunks are named. One per repository: another key is another dedupe domain.
#[derive(Clone, zeroize::ZeroizeOnDrop)]
pub struct IdKey([u8; 32]);

impl IdKey {
    /// From 32 secret bytes.
    pub fn new(secret: [u8; 32]) -> IdKey {
        IdKey(secret)
    }
    /// The id of `plaintext`.
    pub fn id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, plaintext).as_bytes())
    }
}
