//! What a store can answer besides success, classed by what the caller does next.

use std::fmt;
use std::time::Duration;

/// The class of a store error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object (or the bucket) is not there.
    NotFound,
    /// Put-if-absent found an object of that name: what it holds is unknown until it is read.
    AlreadyExists,
    /// The store refuses this identity.
    Denied,
    /// Slow down; after the given time if the store said so.
    Throttled(Option<Duration>),
    /// No answer in time: whether the request was carried out is unknown.
    TimedOut,
    /// The store cannot be reached or failed inside: whether the request was carried out is unknown.
    Unavailable,
    /// The store has no room left.
    Full,
    /// What came back is not what was asked for (length, checksum).
    Corrupt,
    /// The request can never succeed as it is (name, size, range, unsupported).
    Invalid,
    /// Anything else; not worth repeating.
    Other,
}

/// An error from one store about one object.
#[derive(Debug)]
pub struct StoreError {
    /// What to do next.
    pub kind: StoreErrorKind,
    /// Whether an earlier attempt of the same request may have been carried out all the same, however the last one ended.
    pub in_doubt: bool,
    /// Which store, by its configured name.
    pub store: String,
    /// What was being done, e.g. `put data/ab/abcd…`.
    pub action: String,
    /// What the store or the system said.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error of `kind` at the store `label` while doing `action`, without a cause.
    pub fn new(kind: StoreErrorKind, label: &str, action: impl Into<String>) -> StoreError {
        StoreError { kind, in_doubt: false, store: label.to_owned(), action: action.into(), source: None }
    }
    /// The same error with what the store or the system said.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        self.source = Some(source.into());
        self
    }
    /// The error and what the store or the system said, in one line: the fix, where there is one, stands in there.
    pub fn story(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
    /// Whether the request may have been carried out although it failed: what became of it is to be read.
    pub fn is_ambiguous(&self) -> bool {
        self.in_doubt || self.is_transient()
    }
    /// Whether the same request may succeed when sent again.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            StoreErrorKind::Throttled(_) | StoreErrorKind::TimedOut | StoreErrorKind::Unavailable | StoreErrorKind::Corrupt
        )
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StoreErrorKind::NotFound => "not found",
            StoreErrorKind::AlreadyExists => "already exists",
            StoreErrorKind::Denied => "permission denied",
            StoreErrorKind::Throttled(_) => "throttled",
            StoreErrorKind::TimedOut => "timed out",
            StoreErrorKind::Unavailable => "unavailable",
            StoreErrorKind::Full => "no space left",
            StoreErrorKind::Corrupt => "damaged answer",
            StoreErrorKind::Invalid => "invalid request",
            StoreErrorKind::Other => "failed",
        };
        let doubt = if self.in_doubt { " (whether an earlier attempt was carried out is not known)" } else { "" };
        write!(f, "store {}: {}: {what}{doubt}", self.store, self.action)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as _)
    }
}
