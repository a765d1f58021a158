//! Key slots, key files and wrapped generation secrets: how the secrets of a repository lie in a store.

use bytes::Bytes;
use prost::Message;

use crate::format::{
    Envelope, FORMAT_VERSION, FormatError, Hash, SMALL_MAX, ensure, hash_field, invalid, message, unsupported, unwritable,
    version,
};
use crate::seal::key::{KdfParams, Secret};
use crate::seal::{Kind, STRUCTURE_OVERHEAD};

const WHAT: &str = "a key slot";
const WHAT_GENERATION: &str = "a generation secret";
const WHAT_FILE: &str = "a key file";
const MAGIC: &[u8; 4] = b"HFKS";
const GENERATION: Envelope = Envelope { what: WHAT_GENERATION, magic: b"HFGN", kind: Kind::Generation, max: SMALL_MAX };
const KEY_FILE_TAG: &str = "holdfast-key-1";
/// Longest label of a key slot, in bytes.
pub const LABEL_MAX: usize = 1024;

/// What opens a key slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Unlock {
    /// A passphrase, stretched with Argon2id.
    Passphrase {
        /// Random salt.
        salt: [u8; 32],
        /// Cost.
        params: KdfParams,
    },
    /// The secret in a key file, as it is.
    KeyFile,
}

/// What a key slot says in the clear. All of it is bound to the wrapped secret.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotInfo {
    /// What opens it.
    pub unlock: Unlock,
    /// The repository it belongs to.
    pub repository_id: Hash,
    /// The operator's name for it.
    pub label: String,
    /// When it was made: seconds since the Unix epoch, informational.
    pub created: i64,
}

/// A key slot as read from a store, not yet opened.
#[derive(Clone, Debug)]
pub struct KeySlot {
    /// What it says in the clear.
    pub info: SlotInfo,
    clear: Bytes,
    sealed: Bytes,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct ClearFields {
    #[prost(uint32, tag = "1")]
    format_version: u32,
    #[prost(bytes = "bytes", tag = "2")]
    repository_id: Bytes,
    #[prost(string, tag = "3")]
    label: String,
    #[prost(sint64, tag = "4")]
    created: i64,
    #[prost(message, optional, tag = "5")]
    passphrase: Option<PassphraseFields>,
    #[prost(message, optional, tag = "6")]
    key_file: Option<KeyFileFields>,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct PassphraseFields {
    #[prost(bytes = "bytes", tag = "1")]
    salt: Bytes,
    #[prost(uint32, tag = "2")]
    memory_kib: u32,
    #[prost(uint32, tag = "3")]
    passes: u32,
    #[prost(uint32, tag = "4")]
    lanes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
struct KeyFileFields {}

/// Wraps the root secret with `kek` (a stretched passphrase, or a key file's secret): the bytes to store.
pub fn wrap(info: &SlotInfo, root: &Secret, kek: &Secret, entropy: [u8; 32]) -> Result<Bytes, FormatError> {
    if info.label.len() > LABEL_MAX {
        return Err(unwritable(WHAT, "its label is too long"));
    }
    let mut fields = ClearFields {
        format_version: FORMAT_VERSION,
        repository_id: Bytes::copy_from_slice(&info.repository_id),
        label: info.label.clone(),
        created: info.created,
        passphrase: None,
        key_file: None,
    };
    match &info.unlock {
        Unlock::Passphrase { salt, params } => {
            let (memory_kib, passes, lanes) = (params.memory_kib, params.passes, params.lanes);
            fields.passphrase = Some(PassphraseFields { salt: Bytes::copy_from_slice(salt), memory_kib, passes, lanes });
        }
        Unlock::KeyFile => fields.key_file = Some(KeyFileFields {}),
    }
    let fields = fields.encode_to_vec();
    let mut stored = MAGIC.to_vec();
    stored.extend_from_slice(&(fields.len() as u32).to_le_bytes());
    stored.extend_from_slice(&fields);
    let sealed = crate::seal::seal_structure(kek, &info.repository_id, Kind::KeySlot, &stored, root.expose(), entropy);
    stored.extend_from_slice(&sealed);
    Ok(Bytes::from(stored))
}

impl KeySlot {
    /// Reads the clear part of stored bytes. Says nothing yet about whether they are authentic: [`KeySlot::unwrap`] does.
    pub fn decode(stored: &Bytes) -> Result<KeySlot, FormatError> {
        ensure(stored.len() <= SMALL_MAX, WHAT, "longer than the format allows")?;
        ensure(stored.len() >= 8, WHAT, "truncated")?;
        ensure(stored.starts_with(MAGIC), WHAT, "wrong magic")?;
        let length = u32::from_le_bytes([stored[4], stored[5], stored[6], stored[7]]) as usize;
        ensure(stored.len() - 8 >= length, WHAT, "its clear part reaches past the end")?;
        let (clear, sealed) = (stored.slice(..8 + length), stored.slice(8 + length..));
        let fields: ClearFields = message(WHAT, clear.slice(8..))?;
        version(WHAT, fields.format_version)?;
        ensure(sealed.len() == 32 + STRUCTURE_OVERHEAD, WHAT, "its sealed part has an impossible length")?;
        ensure(fields.label.len() <= LABEL_MAX, WHAT, "its label is too long")?;
        let unlock = match (fields.passphrase, fields.key_file) {
            (Some(p), None) => {
                let params = KdfParams { memory_kib: p.memory_kib, passes: p.passes, lanes: p.lanes };
                Unlock::Passphrase { salt: hash_field(WHAT, &p.salt)?, params }
            }
            (None, Some(_)) => Unlock::KeyFile,
            (None, None) => return Err(unsupported(WHAT, "its kind")),
            (Some(_), Some(_)) => return Err(invalid(WHAT, "it is of two kinds")),
        };
        let repository_id = hash_field(WHAT, &fields.repository_id)?;
        Ok(KeySlot { info: SlotInfo { unlock, repository_id, label: fields.label, created: fields.created }, clear, sealed })
    }

    /// The root secret of `repository`. A wrong key and a damaged slot look the same: [`FormatError::Sealed`].
    pub fn unwrap(&self, kek: &Secret, repository: &Hash) -> Result<Secret, FormatError> {
        ensure(self.info.repository_id == *repository, WHAT, "it belongs to another repository")?;
        let plain = crate::seal::open_structure(kek, &self.info.repository_id, Kind::KeySlot, &self.clear, &self.sealed)
            .map_err(|source| FormatError::Sealed { what: WHAT, source })?;
        secret(WHAT, plain)
    }
}

/// A key file: one line of text with 32 random bytes.
#[derive(Clone, Debug)]
pub struct KeyFile(pub Secret);

impl KeyFile {
    /// The file's text. Its holder wipes it.
    pub fn print(&self) -> zeroize::Zeroizing<String> {
        let digits = zeroize::Zeroizing::new(hex::encode(self.0.expose()));
        zeroize::Zeroizing::new(format!("{KEY_FILE_TAG} {}\n", *digits))
    }

    /// Reads a file's text: tag, one space, 64 hex digits, at most one line end.
    pub fn parse(text: &str) -> Result<KeyFile, FormatError> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (tag, digits) = line.split_once(' ').ok_or_else(|| invalid(WHAT_FILE, "not of the form `holdfast-key-1 DIGITS`"))?;
        if tag != KEY_FILE_TAG {
            let known = tag.starts_with("holdfast-key-");
            return Err(if known { unsupported(WHAT_FILE, "its version") } else { invalid(WHAT_FILE, "wrong tag") });
        }
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, &mut *bytes).map_err(|_| invalid(WHAT_FILE, "not 64 hex digits"))?;
        Ok(KeyFile(Secret::new(*bytes)))
    }
}

/// A secret that frames are sealed with.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its number, from 1.
    pub number: u32,
    /// The secret.
    pub secret: Secret,
}

impl Generation {
    /// Wraps the secret with the repository's wrap key: the bytes to store.
    pub fn encode(&self, wrap_key: &Secret, repository: &Hash, entropy: [u8; 32]) -> Result<Bytes, FormatError> {
        if self.number == 0 {
            return Err(unwritable(WHAT_GENERATION, "its number is 0"));
        }
        GENERATION.seal(&self.number.to_le_bytes(), self.secret.expose(), wrap_key, repository, entropy)
    }

    /// Whether stored bytes are a generation secret rather than a key slot: both lie in `keys/`.
    pub fn is_one(stored: &[u8]) -> bool {
        stored.starts_with(GENERATION.magic)
    }

    /// Reads stored bytes.
    pub fn decode(stored: &[u8], wrap_key: &Secret, repository: &Hash) -> Result<Generation, FormatError> {
        let plain = GENERATION.open(stored, 4, wrap_key, repository)?;
        let (head, _) = GENERATION.split(stored, 4)?;
        let number = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        ensure(number > 0, WHAT_GENERATION, "its number is 0")?;
        Ok(Generation { number, secret: secret(WHAT_GENERATION, plain.into())? })
    }
}

fn secret(what: &'static str, plain: Vec<u8>) -> Result<Secret, FormatError> {
    let plain = zeroize::Zeroizing::new(plain);
    Ok(Secret::new(hash_field(what, &plain)?))
}
