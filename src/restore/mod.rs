//! Activity: snapshot to target.
//!
//! What is here: the target of a restore (`target`), the files written in it (`writer`), the metadata put back
//! (`metadata`). What comes in: a snapshot and a folder. What goes out: the tree as it was, and what could not be put
//! back. What never happens here: a step out of the target, a link followed, an unverified byte written.

pub mod metadata;
pub mod target;
pub mod writer;
