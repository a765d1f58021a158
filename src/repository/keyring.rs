//! The keys of an opened repository, and how a passphrase or key file opens it.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::chunk::id::IdKey;
use crate::clock::Env;
use crate::format::descriptor::Descriptor;
use crate::format::key_slot::{self, Generation, KeySlot, SlotInfo};
use crate::format::{FormatError, Hash, object_hash};
use crate::repository::error::{Fault, RepositoryError};
use crate::seal::FrameSealer;
use crate::seal::key::{KdfFloor, KdfParams, RepositoryKeys, Secret, stretch};

/// What the operator opens a repository with.
pub enum Unlock {
    /// A passphrase, never empty.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The secret in a key file.
    KeyFile(Secret),
}

/// How many key slots are tried before giving up: each costs a key derivation.
pub const SLOTS_MAX: usize = 32;

/// The keys of one repository.
pub struct Keyring {
    /// The repository's id.
    pub repository_id: Hash,
    /// Keys derived from the root secret.
    pub keys: RepositoryKeys,
    /// Names chunks.
    pub id_key: IdKey,
    /// Seals and opens frames.
    pub sealer: Arc<FrameSealer>,
    /// The key slot that opened.
    pub slot: Hash,
    root: Secret,
}

/// The zstd level of new frames unless set.
pub const LEVEL: i32 = 3;

impl Keyring {
    /// From the root secret and the first generation.
    pub fn new(repository_id: Hash, root: Secret, generation: &Generation, slot: Hash, level: i32) -> Keyring {
        let keys = RepositoryKeys::from_root(&root);
        let sealer = FrameSealer::new(repository_id, generation.number, generation.secret.clone(), keys.salt.clone(), level);
        let id_key = IdKey::new(*keys.chunk_id.expose());
        Keyring { repository_id, keys, id_key, sealer: Arc::new(sealer), slot, root }
    }

    /// The root secret, for wrapping it in another slot.
    pub fn root(&self) -> &Secret {
        &self.root
    }
}

/// Makes a key slot for `root` and gives its stored bytes.
pub async fn make_slot(
    env: &Env,
    repository_id: Hash,
    root: &Secret,
    unlock: &Unlock,
    params: KdfParams,
    floor: KdfFloor,
    label: &str,
) -> Result<Bytes, RepositoryError> {
    let kind = match unlock {
        Unlock::Passphrase(_) => key_slot::Unlock::Passphrase { salt: env.random(), params },
        Unlock::KeyFile(_) => key_slot::Unlock::KeyFile,
    };
    let kek = kek(env, unlock, &kind, floor)
        .await?
        .ok_or_else(|| RepositoryError::new(Fault::Usage, "the key does not fit the kind of slot"))?;
    let info = SlotInfo { unlock: kind, repository_id, label: label.to_owned(), created: env.now().seconds() };
    key_slot::wrap(&info, root, &kek, env.random())
        .map_err(|e| RepositoryError::caused(Fault::Usage, "could not make a key slot", e))
}

/// The key that wraps a slot of this kind; `None` when the operator's key is of the other kind.
async fn kek(env: &Env, unlock: &Unlock, kind: &key_slot::Unlock, floor: KdfFloor) -> Result<Option<Secret>, RepositoryError> {
    match (unlock, kind) {
        (Unlock::Passphrase(text), key_slot::Unlock::Passphrase { salt, params }) => {
            let (text, salt, params) = (text.clone(), *salt, *params);
            let stretched = env.cpu(move || stretch(&text, &salt, &params, floor)).await;
            stretched
                .map(Some)
                .map_err(|e| RepositoryError::caused(Fault::Integrity, "a key slot asks for a key derivation that is refused", e))
        }
        (Unlock::KeyFile(secret), key_slot::Unlock::KeyFile) => Ok(Some(secret.clone())),
        _ => Ok(None),
    }
}

/// Tries to open one slot. `None`: it is not for this key (or damaged, which looks the same).
pub async fn try_slot(
    env: &Env,
    stored: &Bytes,
    repository_id: &Hash,
    unlock: &Unlock,
    floor: KdfFloor,
) -> Result<Option<Secret>, RepositoryError> {
    let slot = match KeySlot::decode(stored) {
        Ok(slot) => slot,
        Err(e) if e.is_unsupported() => return Ok(None),
        Err(e) => return Err(RepositoryError::caused(Fault::Integrity, "a key slot is damaged", e)),
    };
    if slot.info.repository_id != *repository_id {
        return Ok(None);
    }
    let Some(kek) = kek(env, unlock, &slot.info.unlock, floor).await? else { return Ok(None) };
    Ok(slot.unwrap(&kek, repository_id).ok())
}

/// The keyring from a root secret: opens the generation secret that the descriptor names.
pub fn open_with_root(
    descriptor: &Descriptor,
    root: Secret,
    slot: Hash,
    generation: &Bytes,
    level: i32,
) -> Result<Keyring, RepositoryError> {
    let integrity =
        |e: FormatError| RepositoryError::caused(Fault::Integrity, "the repository's generation secret is damaged", e);
    let repository_id = descriptor.repository().map_err(integrity)?;
    if object_hash(generation)[..] != descriptor.generation[..] {
        return Err(RepositoryError::new(
            Fault::Integrity,
            "the repository's generation secret is not the one its descriptor names",
        ));
    }
    let wrap = RepositoryKeys::from_root(&root).wrap.clone();
    let generation = Generation::decode(generation, &wrap, &repository_id).map_err(integrity)?;
    Ok(Keyring::new(repository_id, root, &generation, slot, level))
}
