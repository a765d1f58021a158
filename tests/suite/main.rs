//! The suite: one binary, one module per subject. `tests/architecture.rs` fails when a file here is not listed.

mod commands;
mod configuration;
mod cost;
mod example_config;
mod format_golden;
mod format_hostile;
mod format_props;
mod format_samples;
mod fuzz_parsers;
mod replica_faults;
mod restore_target;
mod seal_props;
mod source_tree;
mod store_contract;
mod store_directory;
mod store_wrappers;
mod support;
