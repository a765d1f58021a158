//! Snapshot to target.

pub mod metadata;
pub mod target;
pub mod writer;

use std::path::PathBuf;

use crate::repository::error::RepositoryError;

/// What one restore is to do.
#[derive(Clone, Debug, Default)]
pub struct RestoreSettings {
    /// Where to restore to.
    pub target: PathBuf,
    /// Recorded absolute path whose contents go straight into the target; none: everything, below its recorded path.
    pub path: Option<Vec<u8>>,
    /// Glob patterns: only what matches is restored (with the directories that lead there).
    pub includes: Vec<String>,
    /// Glob patterns: what matches is left out.
    pub excludes: Vec<String>,
    /// Restore from this replica alone.
    pub from: Option<String>,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Do not set owners.
    pub no_owners: bool,
    /// Map owners by name where the name exists here.
    pub owners_by_name: bool,
    /// Do not set extended attributes and ACLs.
    pub no_xattrs: bool,
    /// Do not make devices nor set special permission bits.
    pub no_special: bool,
    /// Bytes in flight.
    pub memory: u64,
    /// Compare contents of files that exist by reading them even when size and time agree.
    pub verify_existing: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// The snapshot restored.
    pub snapshot: [u8; 32],
    /// Entries in the selection.
    pub entries: u64,
    /// Files written, wholly or in part.
    pub files_written: u64,
    /// Files that were there already as they should be.
    pub files_unchanged: u64,
    /// Content bytes in the selection.
    pub bytes_total: u64,
    /// Content bytes written.
    pub bytes_written: u64,
    /// Entries that could not be had or written: path and reason (bounded).
    pub failed: Vec<(String, String)>,
    /// How many those are.
    pub failed_count: u64,
    /// Metadata that could not be set: path and reason (bounded).
    pub warnings: Vec<(String, String)>,
    /// How many those are.
    pub warnings_count: u64,
    /// What was met on the way at replicas (damage, absence, failure), already worked around.
    pub notes: Vec<String>,
    /// How long it took.
    pub duration: std::time::Duration,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
}

/// Why a restore could not be carried out at all.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting that cannot be carried out (exit 2).
    #[error("{0}")]
    Settings(String),
    /// The target cannot be used (exit 1).
    #[error("{0}")]
    Target(String),
    /// Stopped on request.
    #[error("interrupted: the target is incomplete; run the same command again to finish it")]
    Interrupted,
}

/// Not here yet.
pub async fn run(
    _: &crate::repository::Repository,
    _: &crate::format::snapshot::Snapshot,
    _: &RestoreSettings,
    _: &crate::progress::Progress,
    _: &crate::progress::Stop,
) -> Result<RestoreReport, RestoreError> {
    Err(RestoreError::Settings("restore is not here yet".into()))
}
