//! Lists: sorted hashes that a record or checkpoint refers to because they are too many to carry.

use bytes::Bytes;
use prost::Message;

use crate::format::{Envelope, FormatError, Hash, TABLE_MAX, ensure, message};
use crate::seal::Kind;
use crate::seal::key::Secret;

const LIST: Envelope = Envelope { what: "a list", magic: b"HFLS", kind: Kind::List, max: TABLE_MAX };
/// How many hashes one list object can hold.
pub const LIST_MAX: usize = (TABLE_MAX - 128) / 32;

#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct Fields {
    #[prost(bytes = "bytes", tag = "1")]
    hashes: Bytes,
}

/// Hashes in ascending order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashList(Vec<Hash>);

impl HashList {
    /// Sorts, and keeps one of each.
    pub fn new(mut hashes: Vec<Hash>) -> HashList {
        hashes.sort_unstable();
        hashes.dedup();
        HashList(hashes)
    }

    /// The hashes.
    pub fn hashes(&self) -> &[Hash] {
        &self.0
    }

    /// The hashes, given away.
    pub fn into_hashes(self) -> Vec<Hash> {
        self.0
    }

    /// Whether `hash` is among them.
    pub fn contains(&self, hash: &Hash) -> bool {
        self.0.binary_search(hash).is_ok()
    }

    /// The bytes to store. Fails beyond [`LIST_MAX`] hashes.
    pub fn encode(&self, log_key: &Secret, repository: &Hash, entropy: [u8; 32]) -> Result<Bytes, FormatError> {
        let plain = Fields { hashes: Bytes::from(self.0.concat()) }.encode_to_vec();
        LIST.seal(&[], &plain, log_key, repository, entropy)
    }

    /// Reads stored bytes.
    pub fn decode(stored: &[u8], log_key: &Secret, repository: &Hash) -> Result<HashList, FormatError> {
        let fields: Fields = message(LIST.what, LIST.open(stored, 0, log_key, repository)?)?;
        let (hashes, rest) = fields.hashes.as_chunks::<32>();
        ensure(rest.is_empty(), LIST.what, "a hash is cut short")?;
        ensure(hashes.is_sorted_by(|a, b| a < b), LIST.what, "its hashes are not in order")?;
        Ok(HashList(hashes.to_vec()))
    }
}
