//! Object names: what a store is ever asked for.

use std::fmt;

/// Longest object name, store prefix included, in bytes (the limit of S3, GCS and Azure).
pub const NAME_MAX: usize = 1024;

/// The first segment that no object name has: directory stores keep their unfinished objects there.
pub const RESERVED: &str = "tmp";

/// A validated object name inside one store: lower-case ASCII segments joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Box<str>);

impl ObjectName {
    /// Admits `text` if every segment is 1 to 128 of `a-z 0-9 . _ -`, starts with a letter or digit, the whole
    /// has at most [`NAME_MAX`] bytes, and the first segment is not [`RESERVED`].
    pub fn new(text: &str) -> Result<ObjectName, NameError> {
        let segment = |s: &str| {
            (1..=128).contains(&s.len())
                && s.as_bytes()[0].is_ascii_alphanumeric()
                && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
        };
        let reserved = text.split('/').next() == Some(RESERVED);
        if text.len() <= NAME_MAX && !reserved && text.split('/').all(segment) {
            Ok(ObjectName(text.into()))
        } else {
            Err(NameError(text.chars().take(80).collect()))
        }
    }
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The folder that holds the object, empty for one at the top.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
    /// The first segment: the kind of object, as its users arrange their names.
    pub fn first(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(first, _)| first)
    }
}

// Agrees with the derived order and hash: both are those of the text.
impl std::borrow::Borrow<str> for ObjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no object name.
#[derive(Debug, thiserror::Error)]
#[error("not an object name: {0:?}")]
pub struct NameError(String);
