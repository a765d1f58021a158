//! Holdfast: the map.
//!
//! ```text
//! main -> cli -> config -> (backup | restore | lifecycle | verify | doctor) -> repository -> (format | replica) -> (chunk | seal | source | store)
//! ```
//!
//! Imports only point to the right; `tests/architecture.rs` says so. Bytes travel `source` -> `chunk` -> `seal` ->
//! `format` (packs) -> `replica` -> `store` on a backup, and back the same way on a restore.
//!
//! | room | one sentence |
//! |---|---|
//! | [`cli`] | what the operator says and sees |
//! | [`config`] | from file, environment and flags to validated settings |
//! | [`backup`] | activity: source to snapshot |
//! | [`restore`] | activity: snapshot to target |
//! | [`lifecycle`] | activity: what becomes of a repository over time |
//! | [`verify`] | activity: is it all there, is it all right |
//! | [`doctor`] | activity: are the places that hold it as they should be |
//! | [`metrics`] | what a scheduled run tells those who watch it |
//! | [`repository`] | typed objects kept safely: log, keys, index |
//! | [`replica`] | the same repository at several stores |
//! | [`format`] | structures to bytes and back, pure |
//! | [`chunk`] | bytes to named chunks, pure |
//! | [`seal`] | chunk to sealed frame and back, pure |
//! | [`source`] | where bytes come from |
//! | [`store`] | one bucket at one provider |
//! | [`command`] | other programs: started without our secrets, ended with all they started |
//! | [`clock`] | time, chance and work, handed in |
//! | [`progress`] | counters that a run writes and the terminal reads |
//!
//! [`format`]: mod@crate::format

pub mod backup;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod doctor;
pub mod format;
pub mod lifecycle;
pub mod metrics;
pub mod progress;
pub mod replica;
pub mod repository;
pub mod restore;
pub mod seal;
pub mod source;
pub mod store;
pub mod verify;
