//! Where bytes come from.
//!
//! What is here: the walk of a directory tree (`directory`, its sorted `names`), what the file system says about an
//! item (`metadata`, `attributes`), its content (`reading`), and what is left out (`filter`).
//! What comes in: a path and settings. What goes out: items in catalog order, bytes, problems named one by one.
//! What never happens here: async, a path resolved twice, a name turned into text, a decision about what to store,
//! a problem that is swallowed.

pub mod attributes;
pub mod directory;
pub mod error;
pub mod filter;
pub mod metadata;
pub mod names;
pub mod reading;
