//! What can go wrong with a source. Paths stand in quotes with everything unprintable escaped.

use std::io;
use std::path::{Path, PathBuf};

/// Why an item of a source could not be had. The cause, where there is one, is the error's source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refused.
    #[error("{doing} {path:?}")]
    Io {
        /// What was being done: "opening", "reading the directory", ...
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// It was there a moment ago.
    #[error("{path:?} vanished while it was being read")]
    Vanished {
        /// What is gone.
        path: PathBuf,
    },
    /// The name stands for something else than a moment ago.
    #[error("{path:?} was replaced by something else while it was being read")]
    Replaced {
        /// What was replaced.
        path: PathBuf,
    },
    /// A directory that contains itself, through a bind mount.
    #[error("{path:?} is a directory that it lies in: not entered")]
    Loop {
        /// The inner one.
        path: PathBuf,
    },
    /// A path beyond what a catalog holds.
    #[error("{path:?} is longer than {limit} bytes below the source")]
    LongPath {
        /// The item.
        path: PathBuf,
        /// Most bytes of a key.
        limit: usize,
    },
    /// A file without a size, as in /proc, that does not end.
    #[error("{path:?} says that it is empty and holds more than {limit} bytes")]
    Endless {
        /// The file.
        path: PathBuf,
        /// Bytes after which reading stopped.
        limit: u64,
    },
    /// An extended attribute over the limit.
    #[error("extended attribute {name:?} of {path:?} holds more than {limit} bytes")]
    LongAttribute {
        /// Whose.
        path: PathBuf,
        /// Its name, lossy.
        name: String,
        /// Most bytes of a value.
        limit: usize,
    },
}

impl SourceError {
    /// The file system's answer to `doing` something with `path`; an item that is gone is [`SourceError::Vanished`].
    pub fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> SourceError {
        let source = source.into();
        let path = path.to_path_buf();
        if source.kind() == io::ErrorKind::NotFound {
            return SourceError::Vanished { path };
        }
        SourceError::Io { doing, path, source }
    }

    /// Whether the item is simply gone.
    pub fn is_vanished(&self) -> bool {
        matches!(self, SourceError::Vanished { .. })
    }
}
