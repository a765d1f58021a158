//! Is it all there, is it all right.

use crate::repository::error::RepositoryError;

/// What a verify is to do.
#[derive(Clone, Debug, Default)]
pub struct VerifySettings {
    /// Share of packs to read back in full, in percent; none: presence only.
    pub read_data_percent: Option<f64>,
    /// Only this replica.
    pub only: Option<String>,
    /// Bytes in flight.
    pub memory: u64,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The replica.
    pub replica: String,
    /// The object's name.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Recorded paths of files that need it, with the snapshot's short id (bounded).
    pub affects: Vec<(String, String)>,
}

/// How one replica came out.
#[derive(Clone, Debug, Default)]
pub struct ReplicaVerified {
    /// Its configured name.
    pub name: String,
    /// Why it could not be verified, if so.
    pub unreachable: Option<String>,
    /// The class of that reason.
    pub fault: Option<crate::repository::error::Fault>,
    /// Snapshots in its log.
    pub snapshots: u64,
    /// Packs that its log relies on.
    pub packs: u64,
    /// Packs read in full.
    pub packs_read: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Packs newly distrusted.
    pub distrusted: u64,
    /// Objects in the store that nothing knows.
    pub foreign: u64,
}

/// What verify found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Each replica.
    pub replicas: Vec<ReplicaVerified>,
    /// Everything wrong, bounded.
    pub damages: Vec<Damage>,
    /// How many that is.
    pub damage_count: u64,
    /// How long it took.
    pub duration: std::time::Duration,
}

/// Why verify could not be carried out at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting that cannot be carried out (exit 2).
    #[error("{0}")]
    Settings(String),
    /// Stopped on request.
    #[error("interrupted")]
    Interrupted,
}

/// Not here yet.
pub async fn run(
    _: &crate::repository::Repository,
    _: &VerifySettings,
    _: &crate::progress::Progress,
    _: &crate::progress::Stop,
) -> Result<VerifyReport, VerifyError> {
    Err(VerifyError::Settings("verify is not here yet".into()))
}
