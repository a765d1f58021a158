//! Secrets and their derivation. Signatures only so far.

use zeroize::{Zeroize, ZeroizeOnDrop};

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
