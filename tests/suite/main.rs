//! The suite: one binary, one module per subject. `tests/architecture.rs` fails when a file here is not listed.
mod seal_props;
