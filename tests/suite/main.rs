//! The suite: one binary, one module per subject. `tests/architecture.rs` fails when a file here is not listed.

mod store_contract;
mod store_directory;
mod store_wrappers;
mod support;
