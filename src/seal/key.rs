//! Secrets and their derivation: HKDF-SHA-256 from secret to secret, Argon2id from a passphrase.

use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::seal::SealError;

/// 32 secret bytes: wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes ownership of secret bytes.
    pub fn new(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }
    /// The bytes, for the one call that needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The secret that `root` holds for the purpose `label`: HKDF-SHA-256 with no salt and the info `holdfast v1 ` + label.
pub fn derive(root: &Secret, label: &str) -> Secret {
    let mut out = Secret([0; 32]);
    Hkdf::<Sha256>::new(None, root.expose())
        .expand_multi_info(&[b"holdfast v1 ", label.as_bytes()], &mut out.0)
        .expect("HKDF-SHA-256 gives up to 8160 bytes");
    out
}

/// The secrets of one repository, all derived from its root secret.
#[derive(Debug)]
pub struct RepositoryKeys {
    /// Names chunks.
    pub chunk_id: Secret,
    /// Draws the chunker's constants.
    pub chunker: Secret,
    /// Seals log records, checkpoints and lists.
    pub log: Secret,
    /// Seals index segments.
    pub index: Secret,
    /// Mixes entropy and content into the salts of frames.
    pub salt: Secret,
    /// Wraps the generation secrets.
    pub wrap: Secret,
}

impl RepositoryKeys {
    /// Derives every secret from the root.
    pub fn from_root(root: &Secret) -> RepositoryKeys {
        RepositoryKeys {
            chunk_id: derive(root, "chunk-id"),
            chunker: derive(root, "chunker"),
            log: derive(root, "log"),
            index: derive(root, "index"),
            salt: derive(root, "salt"),
            wrap: derive(root, "wrap"),
        }
    }
}

/// How hard a passphrase is stretched with Argon2id (version 0x13); stands in its key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes, which may run in parallel.
    pub lanes: u32,
}

/// How weak a derivation may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KdfFloor {
    /// No weaker than 19 MiB and 2 passes, the least that the OWASP password storage cheat sheet recommends.
    #[default]
    Standard,
    /// As weak as Argon2 goes. Only ever set by tests, through settings: a store that could offer such parameters for a
    /// real passphrase would learn it.
    Lowered,
}

impl Default for KdfParams {
    /// 64 MiB, 3 passes, 4 lanes: the second recommended choice of RFC 9106, section 4.
    fn default() -> KdfParams {
        KdfParams { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl KdfParams {
    /// The cheapest parameters there are. [`stretch`] refuses them unless the floor is lowered.
    pub fn floor_for_tests() -> KdfParams {
        KdfParams { memory_kib: 8, passes: 1, lanes: 1 }
    }

    /// Refuses parameters that are too weak (a store must not talk a client into giving its passphrase away cheaply) or
    /// too expensive (4 GiB, 64 passes, 64 lanes; a store must not exhaust a client). [`SealError::KdfParams`].
    pub fn verify(&self, floor: KdfFloor) -> Result<(), SealError> {
        let (least_memory, least_passes) = match floor {
            KdfFloor::Standard => (19 << 10, 2),
            KdfFloor::Lowered => (8, 1),
        };
        let possible = (1..=64).contains(&self.lanes)
            && (least_passes..=64).contains(&self.passes)
            && (least_memory..=4 << 20).contains(&self.memory_kib)
            && self.memory_kib >= 8 * self.lanes;
        if possible { Ok(()) } else { Err(SealError::KdfParams) }
    }
}

/// The secret that a passphrase stands for: Argon2id, 32 bytes out.
///
/// An empty passphrase is the caller's to refuse. [`SealError::KdfParams`] when the parameters are outside the bounds of
/// [`KdfParams::verify`] or their memory cannot be had.
pub fn stretch(passphrase: &[u8], salt: &[u8; 32], params: &KdfParams, floor: KdfFloor) -> Result<Secret, SealError> {
    params.verify(floor)?;
    let params = Params::new(params.memory_kib, params.passes, params.lanes, Some(32)).map_err(|_| SealError::KdfParams)?;
    let mut out = Secret([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut out.0)
        .map_err(|_| SealError::KdfParams)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{KdfFloor, KdfParams, RepositoryKeys, Secret, derive, stretch};
    use crate::seal::SealError;

    #[test]
    fn parameters_are_bounded_both_ways() {
        let verify = |memory_kib, passes, lanes, floor| KdfParams { memory_kib, passes, lanes }.verify(floor).is_ok();
        assert!(KdfParams::default().verify(KdfFloor::Standard).is_ok());
        assert!(KdfParams::floor_for_tests().verify(KdfFloor::Lowered).is_ok());
        let floor = KdfFloor::Standard;
        assert!(verify(19 << 10, 2, 1, floor) && verify(4 << 20, 64, 64, floor));
        for (memory, passes, lanes) in [
            ((19 << 10) - 1, 2, 1),
            (19 << 10, 1, 1),
            (19 << 10, 2, 0),
            ((4 << 20) + 1, 2, 1),
            (19 << 10, 65, 1),
            (19 << 10, 2, 65),
        ] {
            assert!(!verify(memory, passes, lanes, floor), "{memory} {passes} {lanes}");
        }
        for (memory, passes, lanes) in [(7, 1, 1), (8, 0, 1), (8, 1, 2), (u32::MAX, 1, 1), (8, 1, u32::MAX)] {
            assert!(!verify(memory, passes, lanes, KdfFloor::Lowered), "{memory} {passes} {lanes}");
        }
        let refused = stretch(b"open sesame", &[0; 32], &KdfParams::floor_for_tests(), KdfFloor::Standard);
        assert!(matches!(refused, Err(SealError::KdfParams)));
    }

    #[test]
    fn every_label_has_its_own_secret() {
        let root = Secret::new([5; 32]);
        let keys = RepositoryKeys::from_root(&root);
        let mut all =
            [&root, &keys.chunk_id, &keys.chunker, &keys.log, &keys.index, &keys.salt, &keys.wrap].map(|key| *key.expose());
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(keys.log.expose(), derive(&root, "log").expose());
        assert!(!format!("{keys:?}").contains('5'));
    }
}
