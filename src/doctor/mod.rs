//! ACTIVITY: are the places that hold the repository as they should be.
//!
//! What is here: what can be learnt about each store (`look`), what is made of it (`judge`, pure), and the words for both
//! (`facts`, `finding`). What comes in: opened stores, or why they could not be opened. What goes out: findings, each with what
//! was found, what is expected, and the fix. What never happens here: a setting changed, an object left behind.

pub mod facts;
pub mod finding;
pub mod judge;
pub mod look;
