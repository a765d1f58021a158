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

use crate::seal::compress::Encoder;
use crate::seal::encrypt::{COMMITMENT, SALT, TAG};
use crate::seal::key::{Secret, derive};

/// Bytes that a frame adds to what it seals: salt and tag.
pub const FRAME_OVERHEAD: usize = SALT + TAG;
/// Bytes that a structure adds to what it seals: salt, commitment and tag.
pub const STRUCTURE_OVERHEAD: usize = SALT + COMMITMENT + TAG;
/// Largest plaintext of one frame, in bytes.
pub const FRAME_PLAIN_MAX: usize = 16 << 20;

/// What a sealed thing is; part of its associated data, so that no kind can stand in for another.
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

/// Plaintext in a buffer that has room for what sealing adds, so that the frame is made in place.
pub struct Roomy(Vec<u8>);

impl Roomy {
    /// A copy of `plain`.
    pub fn new(plain: &[u8]) -> Roomy {
        Roomy(compress::with_room(plain))
    }

    /// Bytes that one of `length` bytes takes.
    pub fn size(length: usize) -> usize {
        compress::room(length)
    }

    /// The plaintext.
    pub fn plain(&self) -> &[u8] {
        &self.0[SALT..]
    }
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

/// Seals and opens frames with the generation secrets of one repository. One serves any number of threads.
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

impl FrameSealer {
    /// A sealer that knows the generation `current` only; others are added to `generations`.
    pub fn new(repository: [u8; 32], current: u32, secret: Secret, salt_key: Secret, level: i32) -> FrameSealer {
        FrameSealer { repository, generations: BTreeMap::from([(current, secret)]), current, salt_key, level }
    }

    /// Compresses, proves and encrypts one frame: [`Kind::Data`] or [`Kind::Meta`].
    ///
    /// `plain_id` is the keyed id of the whole of `plain`, `entropy` fresh for each call. [`SealError::Length`] above
    /// [`FRAME_PLAIN_MAX`], [`SealError::Encoder`] when compression cannot be trusted, [`SealError::Generation`].
    pub fn seal(&self, kind: Kind, plain: &[u8], plain_id: &[u8; 32], entropy: [u8; 32]) -> Result<SealedFrame, SealError> {
        self.seal_roomy(kind, Roomy::new(plain), plain_id, entropy)
    }

    /// Like [`FrameSealer::seal`], in the buffer that holds the plaintext: it becomes the frame.
    pub fn seal_roomy(&self, kind: Kind, plain: Roomy, plain_id: &[u8; 32], entropy: [u8; 32]) -> Result<SealedFrame, SealError> {
        let mut encoder = compress::zstd_encoder(self.level);
        self.seal_in((self.level > 0).then_some(&mut encoder as &mut Encoder<'_>), kind, plain, plain_id, entropy)
    }

    /// Like [`FrameSealer::seal`], with an encoder of the caller's (none stores): the proof must hold against any.
    pub fn seal_with(
        &self,
        encoder: Option<&mut Encoder<'_>>,
        kind: Kind,
        plain: &[u8],
        plain_id: &[u8; 32],
        entropy: [u8; 32],
    ) -> Result<SealedFrame, SealError> {
        self.seal_in(encoder, kind, Roomy::new(plain), plain_id, entropy)
    }

    fn seal_in(
        &self,
        encoder: Option<&mut Encoder<'_>>,
        kind: Kind,
        plain: Roomy,
        plain_id: &[u8; 32],
        entropy: [u8; 32],
    ) -> Result<SealedFrame, SealError> {
        let plain_len = plain.plain().len();
        if plain_len > FRAME_PLAIN_MAX {
            return Err(SealError::Length);
        }
        let secret = self.generations.get(&self.current).ok_or(SealError::Generation(self.current))?;
        let Roomy(mut bytes) = plain;
        let compression = compress::compress(encoder, &mut bytes)?;
        let shape = FrameShape { generation: self.current, plain_len: plain_len as u32, compression };
        let aad = self.frame_aad(kind, shape);
        // The plaintext's id does not say everything: another level or release of zstd makes other bytes of the same
        // plaintext, and another kind another tag. Neither may ever meet the same key.
        let release = compress::release().to_le_bytes();
        let packed_len = (bytes.len() as u64).to_le_bytes();
        let parts: [&[u8]; 5] = [plain_id, &aad, &self.level.to_le_bytes(), &release, &packed_len];
        encrypt::seal_frame(secret, &encrypt::salt(&self.salt_key, &entropy, &parts), &aad, &mut bytes);
        Ok(SealedFrame { bytes, shape })
    }

    /// Opens a frame. Nothing of its content is trusted, and nothing allocated by its shape, before it is authenticated.
    ///
    /// [`SealError::Length`] when it or its plaintext cannot be that long, [`SealError::Generation`],
    /// [`SealError::Authentication`] when any byte, the kind, the shape or the repository differs from when it was sealed,
    /// [`SealError::Decoder`] when an authentic frame does not unfold to its length.
    pub fn open(&self, kind: Kind, shape: FrameShape, stored: &[u8]) -> Result<Vec<u8>, SealError> {
        let plain_len = shape.plain_len as usize;
        if plain_len > FRAME_PLAIN_MAX || !(FRAME_OVERHEAD..=FRAME_OVERHEAD + FRAME_PLAIN_MAX).contains(&stored.len()) {
            return Err(SealError::Length);
        }
        let secret = self.generations.get(&shape.generation).ok_or(SealError::Generation(shape.generation))?;
        let aad = self.frame_aad(kind, shape);
        let mut plain = Vec::new();
        match shape.compression {
            Compression::Stored => {
                encrypt::open_frame(secret, &aad, stored, &mut plain)?;
                if plain.len() != plain_len {
                    return Err(SealError::Length);
                }
            }
            Compression::Zstd => compress::lend(|packed| {
                encrypt::open_frame(secret, &aad, stored, packed)?;
                compress::decompress(packed, plain_len, &mut plain)
            })?,
        }
        Ok(plain)
    }

    /// `HFfr`, repository, kind, plaintext length, compression, dictionary id (reserved, 0).
    fn frame_aad(&self, kind: Kind, shape: FrameShape) -> [u8; 46] {
        let mut aad = [0; 46];
        aad[..4].copy_from_slice(b"HFfr");
        aad[4..36].copy_from_slice(&self.repository);
        aad[36] = kind as u8;
        aad[37..41].copy_from_slice(&shape.plain_len.to_le_bytes());
        aad[41] = shape.compression as u8;
        aad
    }
}

/// Seals everything that is not a chunk frame, with a key commitment. `context` binds it to its place (it is needed again
/// to open and is not stored), `entropy` is fresh for each call. [`STRUCTURE_OVERHEAD`] bytes longer than `plain`.
pub fn seal_structure(
    secret: &Secret,
    repository: &[u8; 32],
    kind: Kind,
    context: &[u8],
    plain: &[u8],
    entropy: [u8; 32],
) -> Vec<u8> {
    let aad = structure_aad(repository, kind, context);
    let aad_len = (aad.len() as u64).to_le_bytes();
    let salt = encrypt::salt(&derive(secret, "structure salt"), &entropy, &[&aad_len, &aad, plain]);
    let mut bytes = Vec::with_capacity(STRUCTURE_OVERHEAD + plain.len());
    bytes.resize(SALT + COMMITMENT, 0);
    bytes.extend_from_slice(plain);
    encrypt::seal_structure(secret, &salt, &aad, &mut bytes);
    bytes
}

/// Opens what [`seal_structure`] made. How long `stored` may be is the caller's to bound.
///
/// [`SealError::Length`] when it is shorter than [`STRUCTURE_OVERHEAD`], [`SealError::Authentication`] when any byte, the
/// key, the repository, the kind or the context differs from when it was sealed.
pub fn open_structure(
    secret: &Secret,
    repository: &[u8; 32],
    kind: Kind,
    context: &[u8],
    stored: &[u8],
) -> Result<Vec<u8>, SealError> {
    if stored.len() < STRUCTURE_OVERHEAD {
        return Err(SealError::Length);
    }
    encrypt::open_structure(secret, &structure_aad(repository, kind, context), stored)
}

/// `HFst`, repository, kind, context: the only part of open length, hence last.
fn structure_aad(repository: &[u8; 32], kind: Kind, context: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(4 + 32 + 1 + context.len());
    aad.extend_from_slice(b"HFst");
    aad.extend_from_slice(repository);
    aad.push(kind as u8);
    aad.extend_from_slice(context);
    aad
}
