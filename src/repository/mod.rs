//! Typed objects, kept safely.
//!
//! What is here: where each kind of object lies (`layout`), the keys (`keyring`), the commit log of each replica and its
//! folded state (`log`, `state`, `checkpoints`), where chunks are (`chunk_index`), and the doors through which the
//! activities read and write (`reader`, `writer`). What comes in: plaintext chunks, snapshots, secrets. What goes out:
//! the same, verified, and receipts. What never happens here: a source, a target, a policy, a provider.

pub mod checkpoints;
pub mod chunk_index;
pub mod error;
pub mod heads;
pub mod keyring;
pub mod layout;
pub mod log;
pub mod state;
