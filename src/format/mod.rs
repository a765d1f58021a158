//! Structures to bytes, and back.
//!
//! What is here: every structure a repository is made of, with its limits; `FORMAT.md` is the specification.
//! What comes in: values, or bytes from a store, which are not trusted. What goes out: bytes, or values whose every
//! length and order was tested. What never happens here: I/O, async, time, randomness, object names.

pub mod entry;
pub mod tree;
