//! Structures to bytes, and back.
//!
//! What is here: every structure a repository is made of, with its limits; `FORMAT.md` is the specification.
//! What comes in: values, or bytes from a store, which are not trusted. What goes out: bytes, or values whose every
//! length and order was tested. What never happens here: I/O, async, time, randomness, object names.
#![doc = ""]
#![doc = include_str!("FORMAT.md")]

pub mod catalog;
pub mod checkpoint;
pub mod descent;
pub mod descriptor;
pub mod entry;
pub mod index;
pub mod key_slot;
pub mod list;
pub mod node;
pub mod pack;
pub mod record;
pub mod snapshot;
pub mod tree;
mod wire;

use std::borrow::Cow;

use bytes::Bytes;

use crate::seal::key::Secret;
use crate::seal::{Kind, STRUCTURE_OVERHEAD, SealError};

/// The format that this version writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Largest chunk, in bytes of plaintext.
pub const CHUNK_MAX: usize = 16 << 20;
/// Largest pack, in stored bytes.
pub const PACK_MAX: usize = 128 << 20;
/// Largest log record, in stored bytes.
pub const RECORD_MAX: usize = 4 << 20;
/// Largest node of a catalog or content list, in bytes of plaintext.
pub const NODE_MAX: usize = 1 << 20;
/// Longest catalog key, in bytes.
pub const KEY_MAX: usize = 65_535;
/// Longest component of a catalog key, in bytes.
pub const COMPONENT_MAX: usize = 255;
/// Largest descriptor, key slot or generation, in stored bytes.
pub const SMALL_MAX: usize = 64 << 10;
/// Largest snapshot or checkpoint, in stored bytes.
pub const ROOT_MAX: usize = 16 << 20;
/// Largest index segment or list, in stored bytes.
pub const TABLE_MAX: usize = 64 << 20;

/// A plain BLAKE3-256 hash, or another name of 32 bytes.
pub type Hash = [u8; 32];

/// The name of an object: BLAKE3 of its stored bytes.
pub fn object_hash(stored: &[u8]) -> Hash {
    *blake3::hash(stored).as_bytes()
}

/// Why a structure could not be read or written. Each names the structure; the object's name is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes are not what the format allows: damage, or a hostile writer.
    #[error("reading {what}: {why}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// The rule that was broken.
        why: Cow<'static, str>,
    },
    /// The bytes are not protobuf of that structure.
    #[error("reading {what}: malformed fields")]
    Fields {
        /// The structure.
        what: &'static str,
        /// What the decoder met.
        #[source]
        source: prost::DecodeError,
    },
    /// The sealed part does not open: damage, substitution, or another key.
    #[error("opening {what}")]
    Sealed {
        /// The structure.
        what: &'static str,
        /// What the seal said.
        #[source]
        source: SealError,
    },
    /// Well-formed, but of a version or with a feature that this program does not know.
    #[error("reading {what}: {why} is not supported by this version of holdfast")]
    Unsupported {
        /// The structure.
        what: &'static str,
        /// The version or feature.
        why: Cow<'static, str>,
    },
    /// More than the reader is willing to read.
    #[error("reading {what}: more than the limit of {limit}")]
    OverLimit {
        /// The structure, and what was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The value is outside what the format can hold; nothing was written.
    #[error("writing {what}: {why}")]
    Unwritable {
        /// The structure.
        what: &'static str,
        /// The rule it would break.
        why: Cow<'static, str>,
    },
}

impl FormatError {
    /// Whether this program is too old for the bytes (exit 16), rather than the bytes damaged (exit 14).
    pub fn is_unsupported(&self) -> bool {
        matches!(self, FormatError::Unsupported { .. })
    }

    /// The same finding about a value that was to be written.
    fn on_writing(self) -> FormatError {
        match self {
            FormatError::Invalid { what, why } => FormatError::Unwritable { what, why },
            other => other,
        }
    }
}

/// A 32-byte field as an array.
pub fn hash_field(what: &'static str, field: &[u8]) -> Result<Hash, FormatError> {
    field.try_into().map_err(|_| invalid(what, "a name of 32 bytes has another length"))
}

fn invalid(what: &'static str, why: impl Into<Cow<'static, str>>) -> FormatError {
    FormatError::Invalid { what, why: why.into() }
}

fn unwritable(what: &'static str, why: impl Into<Cow<'static, str>>) -> FormatError {
    FormatError::Unwritable { what, why: why.into() }
}

fn unsupported(what: &'static str, why: impl Into<Cow<'static, str>>) -> FormatError {
    FormatError::Unsupported { what, why: why.into() }
}

fn ensure(ok: bool, what: &'static str, why: &'static str) -> Result<(), FormatError> {
    if ok { Ok(()) } else { Err(invalid(what, why)) }
}

fn message<M: prost::Message + Default>(what: &'static str, fields: Bytes) -> Result<M, FormatError> {
    M::decode(fields).map_err(|source| FormatError::Fields { what, source })
}

/// How one kind of sealed object is stored: clear bytes (magic, version, more), then the sealed fields.
struct Envelope {
    what: &'static str,
    magic: &'static [u8; 4],
    kind: Kind,
    max: usize,
}

impl Envelope {
    /// Seals `plain` behind magic, version and `clear`, which are authenticated with it.
    fn seal(
        &self,
        clear: &[u8],
        plain: &[u8],
        secret: &Secret,
        repository: &Hash,
        entropy: [u8; 32],
    ) -> Result<Bytes, FormatError> {
        let mut stored = Vec::with_capacity(8 + clear.len() + plain.len() + STRUCTURE_OVERHEAD);
        stored.extend_from_slice(self.magic);
        stored.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        stored.extend_from_slice(clear);
        if stored.len() + plain.len() + STRUCTURE_OVERHEAD > self.max {
            return Err(unwritable(self.what, format!("more than {} bytes", self.max)));
        }
        let sealed = crate::seal::seal_structure(secret, repository, self.kind, &stored, plain, entropy);
        stored.extend_from_slice(&sealed);
        Ok(Bytes::from(stored))
    }

    /// Splits stored bytes into the first 8 + `clear` bytes and the sealed rest, after magic, version and length.
    fn split<'a>(&self, stored: &'a [u8], clear: usize) -> Result<(&'a [u8], &'a [u8]), FormatError> {
        ensure(stored.len() <= self.max, self.what, "longer than the format allows")?;
        let (head, sealed) = stored.split_at_checked(8 + clear).ok_or_else(|| invalid(self.what, "truncated"))?;
        ensure(&head[..4] == self.magic, self.what, "wrong magic")?;
        version(self.what, u32::from_le_bytes([head[4], head[5], head[6], head[7]]))?;
        Ok((head, sealed))
    }

    /// Opens what [`Envelope::seal`] made.
    fn open(&self, stored: &[u8], clear: usize, secret: &Secret, repository: &Hash) -> Result<Bytes, FormatError> {
        let (head, sealed) = match self.split(stored, clear) {
            Err(e) if e.is_unsupported() => {
                let (head, sealed) = stored.split_at(8 + clear);
                let meant = [self.magic, &FORMAT_VERSION.to_le_bytes()[..], &head[8..]].concat();
                return Err(newer_or_damaged(self.what, e, self.kind, (&meant, sealed), secret, repository));
            }
            split => split?,
        };
        crate::seal::open_structure(secret, repository, self.kind, head, sealed)
            .map(Bytes::from)
            .map_err(|source| FormatError::Sealed { what: self.what, source })
    }
}

/// What to say of an object with a version that is not known. The version is sealed with the rest: where it opens as of this
/// version (`meant`: its clear bytes with that), nobody newer wrote it, but some byte of its version was changed. It matters, because
/// damage has ways out, and a newer program's object must be left alone.
fn newer_or_damaged(
    what: &'static str,
    newer: FormatError,
    kind: Kind,
    (meant, sealed): (&[u8], &[u8]),
    secret: &Secret,
    repository: &Hash,
) -> FormatError {
    match crate::seal::open_structure(secret, repository, kind, meant, sealed) {
        Ok(_) => invalid(what, "its version was changed"),
        Err(_) => newer,
    }
}

fn version(what: &'static str, found: u32) -> Result<(), FormatError> {
    if found == FORMAT_VERSION { Ok(()) } else { Err(unsupported(what, format!("format version {found}"))) }
}
