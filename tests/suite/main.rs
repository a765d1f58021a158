//! The suite: one binary, one module per subject. `tests/architecture.rs` fails when a file here is not listed.

mod restore_target;
mod seal_props;
mod source_tree;
mod support;
