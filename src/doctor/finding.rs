//! What is said in the end.

use crate::repository::error::Fault;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be, or a plain fact.
    Ok,
    /// It could not be learnt; that is no failure.
    Unknown,
    /// It works, and is less safe or dearer than it could be.
    Warning,
    /// It does not work, or it will lose data.
    Error,
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Unknown => "unknown",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The store; `None` for what concerns all of them together.
    pub store: Option<String>,
    /// What was looked at, in one word.
    pub matter: &'static str,
    /// How bad it is.
    pub level: Level,
    /// The class of the failure, for those that are errors.
    pub fault: Fault,
    /// What was found.
    pub found: String,
    /// What is expected.
    pub expected: &'static str,
    /// What to do about it; nothing to do if it is ok.
    pub fix: Option<String>,
}
