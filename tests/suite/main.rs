//! The suite: one binary, one module per subject. `tests/architecture.rs` fails when a file here is not listed.
#![allow(clippy::disallowed_methods, reason = "the suite drives real processes, clocks and file systems")]

mod commands;
mod configuration;
mod cost;
mod crash_points;
mod damage;
mod example_config;
mod format_golden;
mod format_hostile;
mod format_props;
mod format_samples;
mod fuzz_drivers;
mod fuzz_parsers;
mod golden_repository;
mod hostile_repository;
mod hostile_source;
mod memory;
mod probe;
mod processes;
mod real_trees;
mod replica_faults;
mod restore_faults;
mod restore_target;
mod round_trip;
mod seal_props;
mod source_tree;
mod store_contract;
mod store_directory;
mod store_gcs;
mod store_gcs_login;
mod store_s3;
mod store_s3_login;
mod store_wrappers;
mod support;
mod verify_repository;
