//! Index segments: where the chunks of one publication lie.

use bytes::Bytes;
use prost::Message;

use crate::format::pack::{Frame, PackKind, verify_frame_fields, verify_frames};
use crate::format::wire::{Fields, Value};
use crate::format::{Envelope, FormatError, Hash, TABLE_MAX, ensure, hash_field, invalid, message};
use crate::seal::Kind;
use crate::seal::key::Secret;

const SEGMENT: Envelope = Envelope { what: "an index segment", magic: b"HFIX", kind: Kind::Segment, max: TABLE_MAX };
/// A pack's row in the fewest bytes that a true one can have (its hash and that field).
const PACK_FIELDS_MIN: usize = 34;

/// A pack and what it holds.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PackEntry {
    /// The pack's name, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub hash: Bytes,
    /// Its length in bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// What it holds.
    #[prost(enumeration = "PackKind", tag = "3")]
    pub kind: i32,
    /// Its frames in order of their place.
    #[prost(message, repeated, tag = "4")]
    pub frames: Vec<Frame>,
}

/// The packs of one publication.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Segment {
    /// The packs, each once.
    #[prost(message, repeated, tag = "1")]
    pub packs: Vec<PackEntry>,
}

impl PackEntry {
    /// The pack's name.
    pub fn name(&self) -> Result<Hash, FormatError> {
        hash_field(SEGMENT.what, &self.hash)
    }

    fn verify(&self) -> Result<(), FormatError> {
        self.name()?;
        match PackKind::try_from(self.kind) {
            Ok(PackKind::Data | PackKind::Meta) => verify_frames(SEGMENT.what, &self.frames, self.size),
            Ok(PackKind::Unknown) | Err(_) => Err(invalid(SEGMENT.what, "a pack of unknown kind")),
        }
    }
}

impl Segment {
    /// The bytes to store.
    pub fn encode(&self, index_key: &Secret, repository: &Hash, entropy: [u8; 32]) -> Result<Bytes, FormatError> {
        self.verify().map_err(FormatError::on_writing)?;
        SEGMENT.seal(&[], &self.encode_to_vec(), index_key, repository, entropy)
    }

    /// Reads stored bytes.
    pub fn decode(stored: &[u8], index_key: &Secret, repository: &Hash) -> Result<Segment, FormatError> {
        let plain = SEGMENT.open(stored, 0, index_key, repository)?;
        let mut fields = Fields::new(SEGMENT.what, &plain);
        while let Some((number, value)) = fields.next()? {
            let Value::Span(span) = value else { continue };
            if number == 1 {
                ensure(span.len() >= PACK_FIELDS_MIN, SEGMENT.what, "more items than its length can hold")?;
                verify_frame_fields(SEGMENT.what, &plain[span], 4)?;
            }
        }
        let segment: Segment = message(SEGMENT.what, plain)?;
        segment.verify()?;
        Ok(segment)
    }

    fn verify(&self) -> Result<(), FormatError> {
        self.packs.iter().try_for_each(PackEntry::verify)?;
        let mut names: Vec<&[u8]> = self.packs.iter().map(|pack| &pack.hash[..]).collect();
        names.sort_unstable();
        ensure(names.is_sorted_by(|a, b| a < b), SEGMENT.what, "a pack stands in it twice")
    }
}
