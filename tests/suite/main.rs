//! The suite: one binary, one module per subject. `tests/architecture.rs` fails when a file here is not listed.
mod commands;
mod configuration;
mod example_config;
mod seal_props;
