//! Where bytes come from.
//!
//! What is here: [`Source`], what a backup asks of any of them; the walk of a directory tree (`directory`, its sorted
//! `names`), what the file system says about an item (`metadata`, `attributes`), its content (`reading`), and what is
//! left out (`filter`); the first names of hard links (`firsts`); what comes once and is then gone (`stream`). What comes in: a path and settings. What goes out: items in catalog order, bytes, problems named one by one.
//! What never happens here: async, a path resolved twice, a name turned into text, a decision about what to store,
//! a problem that is swallowed.

pub mod attributes;
pub mod directory;
pub mod error;
pub mod filter;
pub mod firsts;
pub mod metadata;
pub mod names;
pub mod reading;
pub mod stream;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::source::directory::{DirHandle, Walked};

/// A source on its way: its items in catalog order (keys ascend, the root's empty key first). Blocking.
pub trait Source: Send {
    /// The next item, `None` at the end.
    fn next(&mut self) -> Option<Walked>;

    /// How many items were listed and gone by the time they were looked at.
    fn vanished(&self) -> u64;
}

/// Content that is handed in instead of lying in a directory: it never changes and has no extended attributes.
pub trait Content: Send + Sync {
    /// Reads at an offset in bytes, as far as one call goes; 0 is the end. Blocking.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// Where the content of an item comes from.
#[derive(Clone)]
pub enum Origin {
    /// The directory that the item lies in (of a root directory: itself).
    Directory(Arc<DirHandle>),
    /// The content itself. Asked of regular files only.
    Given(Arc<dyn Content>),
    /// Content that comes once, from its start to its end, and says only there how long it is: it is never compared, and a
    /// failure to read it is a failure of the run. Asked of regular files only.
    Stream(Arc<dyn Content>),
}

impl Origin {
    /// Whether the content comes once only.
    pub fn is_stream(&self) -> bool {
        matches!(self, Origin::Stream(_))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Directory(handle) => handle.fmt(f),
            Origin::Given(_) => f.write_str("given content"),
            Origin::Stream(_) => f.write_str("a stream"),
        }
    }
}
