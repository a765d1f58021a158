//! What can go wrong with a repository, classed by what the operator does next.

use crate::store::error::{StoreError, StoreErrorKind};

/// The class of a failure; `cli/exit.rs` gives each its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Failed, and nothing else is known to say about it (exit 1).
    Failed,
    /// What the operator asked for cannot be (exit 2).
    Usage,
    /// There is no repository (exit 10).
    NoRepository,
    /// Others were faster too many times (exit 11).
    Contention,
    /// No key slot opens with this key (exit 12).
    WrongKey,
    /// The provider refuses this identity or this clock (exit 13).
    Denied,
    /// Bytes are damaged or missing (exit 14).
    Integrity,
    /// A log is shorter than, or differs from, what was seen before (exit 15).
    Rollback,
    /// A format, feature or store that this version does not support (exit 16).
    Unsupported,
    /// A safety limit refuses (exit 17).
    Refused,
    /// Stopped on request (exit 130 or 143).
    Interrupted,
}

/// A failure with its story.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RepositoryError {
    /// Its class.
    pub fault: Fault,
    /// What was being done to what, where, and what to do next.
    pub message: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl RepositoryError {
    /// A failure without a deeper cause.
    pub fn new(fault: Fault, message: impl Into<String>) -> RepositoryError {
        RepositoryError { fault, message: message.into(), source: None }
    }
    /// A failure with its cause.
    pub fn caused(
        fault: Fault,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> RepositoryError {
        RepositoryError { fault, message: message.into(), source: Some(source.into()) }
    }
}

impl RepositoryError {
    /// The class of a store's error.
    pub fn from_kind(kind: StoreErrorKind) -> Fault {
        match kind {
            StoreErrorKind::Denied => Fault::Denied,
            StoreErrorKind::Corrupt => Fault::Integrity,
            _ => Fault::Failed,
        }
    }
}

impl From<StoreError> for RepositoryError {
    fn from(e: StoreError) -> RepositoryError {
        RepositoryError::caused(RepositoryError::from_kind(e.kind), format!("store {} failed", e.store), e)
    }
}
