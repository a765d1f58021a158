//! What several subjects of the suite need: awkward trees, stores that fail on purpose, stores that take notes.
#![allow(dead_code, reason = "each subject uses its part")]

use holdfast::store::name::ObjectName;

pub mod answers;
pub mod authority;
pub mod aws_tokens;
pub mod azure_container;
pub mod azure_login;
pub mod azure_server;
pub mod azure_tokens;
pub mod clouds;
pub mod desk;
pub mod door;
pub mod faulty_store;
pub mod gcs_bucket;
pub mod gcs_grpc;
pub mod gcs_json;
pub mod gcs_server;
pub mod gcs_settings;
pub mod gcs_tokens;
pub mod generated;
pub mod hostile_writer;
pub mod proxy;
pub mod proxy_h2;
pub mod pruning;
pub mod recording_store;
pub mod replicas;
pub mod rig;
pub mod rights;
pub mod running;
pub mod s3_bucket;
pub mod s3_server;
pub mod s3_service;
pub mod s3_settings;
pub mod schema_server;
pub mod seen;
pub mod source_tree;
pub mod stage;
pub mod watcher;
pub mod wire;

/// An object name from a text that is known to be one.
pub fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap_or_else(|e| panic!("{e}"))
}
