//! Bytes to named chunks.
//!
//! What is here: content-defined boundaries (`split`) and keyed chunk ids (`id`). What comes in: plaintext bytes and
//! secrets already derived. What goes out: cut points and ids. What never happens here: I/O, async, time, randomness,
//! a decision about what to store.

pub mod id;
pub mod split;
