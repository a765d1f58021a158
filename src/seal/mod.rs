//! Chunk to sealed frame, and back.
//!
//! What is here: compression with its proof (`compress`), authenticated encryption (`encrypt`), secrets and their
//! derivation (`key`), and the two doors that use them: frames and structures. What comes in: plaintext, secrets,
//! entropy drawn by the caller. What goes out: sealed bytes, or plaintext that was authenticated. What never happens
//! here: I/O, async, time, drawing randomness, a nonce chosen by anyone.

pub mod compress;
pub mod encrypt;
pub mod key;

use std::collections::BTreeMap;

use crate::seal::key::Secret;

/// Bytes that a frame adds to what it seals: salt and tag.
pub const FRAME_OVERHEAD: usize = 24 + 16;
/// Bytes that a structure adds to what it seals: salt, commitment and tag.
pub const STRUCTURE_OVERHEAD: usize = 24 + 32 + 16;
/// Largest plaintext of one frame, in bytes.
pub const FRAME_PLAIN_MAX: usize = 16 << 20;

/// What a sealed thing is; part of its key derivation and associated data, so that no kind can stand in for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A frame of content chunks.
    Data = 1,
    /// A frame of catalog nodes and content lists.
    Meta = 2,
    /// A pack's trailer.
    Trailer = 3,
    /// An index segment.
    Segment = 4,
    /// A snapshot.
    Snapshot = 5,
    /// The body of a log record.
    Record = 6,
    /// A checkpoint.
    Checkpoint = 7,
    /// A long list that a record or checkpoint refers to.
    List = 8,
    /// The root secret in a key slot.
    KeySlot = 9,
    /// A generation secret.
    Generation = 10,
}

/// How a frame's plaintext was packed before encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// As it is.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// What must be known to open a frame, besides its bytes; stands in trailers and index segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameShape {
    /// Number of the generation secret.
    pub generation: u32,
    /// Length of the plaintext, at most [`FRAME_PLAIN_MAX`].
    pub plain_len: u32,
    /// How it was compressed.
    pub compression: Compression,
}

/// A sealed frame: salt, ciphertext, tag.
pub struct SealedFrame {
    /// The bytes that go into a pack.
    pub bytes: Vec<u8>,
    /// How to open them.
    pub shape: FrameShape,
}

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The bytes are shorter or longer than the kind allows.
    #[error("sealed bytes have an impossible length")]
    Length,
    /// The commitment or the tag does not match: damaged, substituted, or another key.
    #[error("authentication failed")]
    Authentication,
    /// The key generation is not known here.
    #[error("unknown key generation {0}")]
    Generation(u32),
    /// The plaintext could not be compressed, or did not come back as it went in: nothing was stored.
    #[error("compression gave back other bytes than it was given: this machine or its encoder cannot be trusted")]
    Encoder,
    /// The compressed bytes are damaged or unfold to another length than declared.
    #[error("compressed bytes are damaged")]
    Decoder,
    /// Parameters of a key derivation are outside what is safe to carry out.
    #[error("key derivation parameters are out of bounds")]
    KdfParams,
}

/// Seals and opens frames with the generation secrets of one repository.
pub struct FrameSealer {
    /// The repository's id.
    pub repository: [u8; 32],
    /// Known generation secrets by number.
    pub generations: BTreeMap<u32, Secret>,
    /// The generation that new frames use.
    pub current: u32,
    /// Mixes entropy and content into salts.
    pub salt_key: Secret,
    /// zstd level, 1 to 22; 0 stores.
    pub level: i32,
}
