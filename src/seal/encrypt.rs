//! Authenticated encryption: AES-256-GCM under a key that is derived from a salt and used once.
//!
//! Neither a key nor a nonce can be handed in. Each call derives its own key from the salt; the nonce is zero and stays
//! zero, since under such a key there is nothing else to encrypt. Layouts:
//!
//! ```text
//! frame      salt (24) | ciphertext | tag (16)                      HKDF info "holdfast v1 frame", key (32)
//! structure  salt (24) | commitment (32) | ciphertext | tag (16)    HKDF info "holdfast v1 structure", key (32), commitment (32)
//! ```

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::seal::SealError;
use crate::seal::key::Secret;

/// Length of a salt in bytes.
pub const SALT: usize = 24;
/// Length of a key commitment in bytes.
pub const COMMITMENT: usize = 32;
/// Length of a tag in bytes.
pub const TAG: usize = 16;

/// From this length on the plaintext of a structure (an index segment, a long list) gets a buffer of [`RESERVED`] bytes.
const LARGE: usize = 128 << 10;
/// Such buffers are few and live shortly. Of this length (more than 32 MiB) glibc maps them for themselves and unmaps them when
/// they are freed. Freed once, a mapped block of 128 KiB to 32 MiB makes it keep up to twice its length idle in the arena of
/// every thread from then on (`mallopt(3)`, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD): one segment of 1.6 MiB came to 46 MiB.
/// What is reserved and not filled takes no memory.
const RESERVED: usize = (32 << 20) + (64 << 10);

const FRAME_INFO: &[u8] = b"holdfast v1 frame";
const STRUCTURE_INFO: &[u8] = b"holdfast v1 structure";

/// A salt for one call: keyed BLAKE3 of `entropy`, then of everything that will be encrypted or authenticated under it.
///
/// Entropy alone would do on a machine whose randomness is sound. A cloned or restored virtual machine may draw the
/// same bytes twice; with the content mixed in, equal salts then mean equal input, and so equal output, which tells
/// no more than the first copy did. The key keeps a salt from confirming a guess of the content. Cut to 24 bytes, it
/// takes 2^96 calls until two salts are likely to meet.
///
/// The parts are hashed one after the other: all but the last must be of fixed length.
pub fn salt(key: &Secret, entropy: &[u8; 32], parts: &[&[u8]]) -> [u8; SALT] {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    hasher.update(entropy);
    for part in parts {
        hasher.update(part);
    }
    let mut salt = [0; SALT];
    hasher.finalize_xof().fill(&mut salt);
    salt
}

/// Seals a frame in place: `buffer` holds [`SALT`] bytes of room, then the plaintext; afterwards salt, ciphertext and
/// tag. Allocates nothing if the buffer has [`TAG`] bytes to spare.
pub fn seal_frame(secret: &Secret, salt: &[u8; SALT], aad: &[u8], buffer: &mut Vec<u8>) {
    let mut key = Zeroizing::new([0; 32]);
    expand(secret, salt, FRAME_INFO, &mut *key);
    buffer[..SALT].copy_from_slice(salt);
    encrypt(&key, aad, buffer, SALT);
}

/// Opens a frame into `plain`, whatever that held before; it is left empty on error.
///
/// [`SealError::Length`] when there is no room for salt and tag, [`SealError::Authentication`].
pub fn open_frame(secret: &Secret, aad: &[u8], stored: &[u8], plain: &mut Vec<u8>) -> Result<(), SealError> {
    let (salt, sealed) = stored.split_first_chunk::<SALT>().ok_or(SealError::Length)?;
    let mut key = Zeroizing::new([0; 32]);
    expand(secret, salt, FRAME_INFO, &mut *key);
    decrypt(&key, aad, sealed, plain)
}

/// Seals a structure in place: `buffer` holds [`SALT`] + [`COMMITMENT`] bytes of room, then the plaintext.
pub fn seal_structure(secret: &Secret, salt: &[u8; SALT], aad: &[u8], buffer: &mut Vec<u8>) {
    let mut okm = Zeroizing::new([0; 32 + COMMITMENT]);
    expand(secret, salt, STRUCTURE_INFO, &mut *okm);
    let (key, commitment) = okm.split_at(32);
    buffer[..SALT].copy_from_slice(salt);
    buffer[SALT..SALT + COMMITMENT].copy_from_slice(commitment);
    encrypt(key.first_chunk().expect("32 bytes"), aad, buffer, SALT + COMMITMENT);
}

/// Opens a structure. The commitment comes first: AES-GCM alone lets one ciphertext be made that opens under two keys.
///
/// [`SealError::Length`] when there is no room for salt, commitment and tag, [`SealError::Authentication`].
pub fn open_structure(secret: &Secret, aad: &[u8], stored: &[u8]) -> Result<Vec<u8>, SealError> {
    let (salt, rest) = stored.split_first_chunk::<SALT>().ok_or(SealError::Length)?;
    let (found, sealed) = rest.split_first_chunk::<COMMITMENT>().ok_or(SealError::Length)?;
    let mut okm = Zeroizing::new([0; 32 + COMMITMENT]);
    expand(secret, salt, STRUCTURE_INFO, &mut *okm);
    let (key, commitment) = okm.split_at(32);
    if !bool::from(commitment.ct_eq(found)) {
        return Err(SealError::Authentication);
    }
    let mut plain = Vec::with_capacity(if sealed.len() < LARGE { sealed.len() } else { sealed.len().max(RESERVED) });
    decrypt(key.first_chunk().expect("32 bytes"), aad, sealed, &mut plain)?;
    Ok(plain)
}

fn expand(secret: &Secret, salt: &[u8; SALT], info: &[u8], okm: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), secret.expose()).expand(info, okm).expect("HKDF-SHA-256 gives up to 8160 bytes");
}

/// Encrypts what stands in `buffer` from `start` on and appends the tag.
fn encrypt(key: &[u8; 32], aad: &[u8], buffer: &mut Vec<u8>, start: usize) {
    let tag = Aes256Gcm::new(key.into())
        .encrypt_inout_detached(&Nonce::default(), aad, (&mut buffer[start..]).into())
        .expect("AES-GCM takes up to 64 GiB");
    buffer.extend_from_slice(&tag);
}

fn decrypt(key: &[u8; 32], aad: &[u8], sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), SealError> {
    plain.clear();
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG>().ok_or(SealError::Length)?;
    plain.extend_from_slice(ciphertext);
    let opened =
        Aes256Gcm::new(key.into()).decrypt_inout_detached(&Nonce::default(), aad, plain.as_mut_slice().into(), &Tag::from(*tag));
    opened.map_err(|_| {
        plain.clear();
        SealError::Authentication
    })
}
