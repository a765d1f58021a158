//! The descriptor: what a repository says about itself, readable without a key.

use bytes::Bytes;
use prost::Message;

use crate::chunk::split::ChunkerSpec;
use crate::format::{
    FORMAT_VERSION, FormatError, Hash, SMALL_MAX, ensure, hash_field, invalid, message, object_hash, unsupported, unwritable,
    version,
};

const WHAT: &str = "a descriptor";
const MAGIC: &[u8; 8] = b"HOLDFAST";
/// The chunker kind that this version knows: FastCDC, normalised, keyed gear table.
pub const CHUNKER_FASTCDC: u32 = 1;

/// What a repository says about itself. The same bytes lie at every replica.
#[derive(Clone, PartialEq, Message)]
pub struct Descriptor {
    /// Version of the format.
    #[prost(uint32, tag = "1")]
    pub format_version: u32,
    /// The repository's id, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub repository_id: Bytes,
    /// How content is cut.
    #[prost(message, optional, tag = "3")]
    pub chunker: Option<Chunker>,
    /// Name of the first key slot, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub key_slot: Bytes,
    /// Name of the first generation secret's object, 32 bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub generation: Bytes,
    /// What else a reader must or may know.
    #[prost(message, repeated, tag = "6")]
    pub features: Vec<Feature>,
}

/// How content is cut into chunks. Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Chunker {
    /// [`CHUNKER_FASTCDC`].
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Smallest chunk.
    #[prost(uint32, tag = "2")]
    pub min: u32,
    /// Size aimed at.
    #[prost(uint32, tag = "3")]
    pub average: u32,
    /// Largest chunk.
    #[prost(uint32, tag = "4")]
    pub max: u32,
}

/// Something that not every version knows.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Feature {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whether who does not know it must stop.
    #[prost(bool, tag = "2")]
    pub critical: bool,
}

/// Only the version: read first, because everything else may mean something else in another version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
struct Version {
    #[prost(uint32, tag = "1")]
    format_version: u32,
}

impl Descriptor {
    /// A descriptor of this version, without features.
    pub fn new(repository_id: Hash, chunker: ChunkerSpec, key_slot: Hash, generation: Hash) -> Descriptor {
        Descriptor {
            format_version: FORMAT_VERSION,
            repository_id: Bytes::copy_from_slice(&repository_id),
            chunker: Some(Chunker { kind: CHUNKER_FASTCDC, min: chunker.min, average: chunker.average, max: chunker.max }),
            key_slot: Bytes::copy_from_slice(&key_slot),
            generation: Bytes::copy_from_slice(&generation),
            features: Vec::new(),
        }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.verify().map_err(FormatError::on_writing)?;
        let mut stored = MAGIC.to_vec();
        stored.extend_from_slice(&self.encode_to_vec());
        let hash = object_hash(&stored);
        stored.extend_from_slice(&hash);
        if stored.len() > SMALL_MAX {
            return Err(unwritable(WHAT, "too long"));
        }
        Ok(Bytes::from(stored))
    }

    /// Reads stored bytes. An unknown version or critical feature is [`FormatError::Unsupported`].
    pub fn decode(stored: &[u8]) -> Result<Descriptor, FormatError> {
        ensure(stored.len() <= SMALL_MAX, WHAT, "longer than the format allows")?;
        ensure(stored.starts_with(MAGIC), WHAT, "wrong magic")?;
        let (hashed, hash) = stored.split_last_chunk::<32>().ok_or_else(|| invalid(WHAT, "truncated"))?;
        ensure(hashed.len() >= MAGIC.len(), WHAT, "truncated")?;
        ensure(object_hash(hashed) == *hash, WHAT, "its hash does not match")?;
        let fields = Bytes::copy_from_slice(&hashed[MAGIC.len()..]);
        version(WHAT, message::<Version>(WHAT, fields.clone())?.format_version)?;
        let descriptor: Descriptor = message(WHAT, fields)?;
        descriptor.verify()?;
        Ok(descriptor)
    }

    /// The repository's id.
    pub fn repository(&self) -> Result<Hash, FormatError> {
        hash_field(WHAT, &self.repository_id)
    }

    /// The chunker's sizes.
    pub fn chunker_spec(&self) -> Result<ChunkerSpec, FormatError> {
        let chunker = self.chunker.ok_or_else(|| invalid(WHAT, "no chunker"))?;
        if chunker.kind != CHUNKER_FASTCDC {
            return Err(unsupported(WHAT, format!("chunker kind {}", chunker.kind)));
        }
        Ok(ChunkerSpec { min: chunker.min, average: chunker.average, max: chunker.max })
    }

    fn verify(&self) -> Result<(), FormatError> {
        version(WHAT, self.format_version)?;
        if let Some(feature) = self.features.iter().find(|f| f.critical) {
            return Err(unsupported(WHAT, format!("feature {:?}", feature.name)));
        }
        for name in [&self.repository_id, &self.key_slot, &self.generation] {
            hash_field(WHAT, name)?;
        }
        crate::chunk::split::Splitter::new(self.chunker_spec()?, &[0; 32]).map(drop).map_err(|e| invalid(WHAT, e.to_string()))
    }
}
