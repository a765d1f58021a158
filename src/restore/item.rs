//! One item that is no directory, from its place in the plan to its place in the target.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use crate::format::entry::Entry;
use crate::restore::tally::Tally;
use crate::restore::target::{Outcome, TargetError};
use crate::restore::writer::FileWriter;

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing came of it yet, or its content is on the way.
    Underway,
    /// It stands, with its metadata still to be set.
    Standing(Outcome),
    /// Nothing is left to do.
    Settled,
    /// It could not be restored; that was noted.
    Failed,
}

/// One item that is no directory.
pub struct Item {
    /// Where it goes.
    pub key: Vec<u8>,
    /// Where it was: recorded absolute path.
    pub path: Vec<u8>,
    /// What it is.
    pub entry: Entry,
    /// The open file, while there is one.
    pub writer: RwLock<Option<FileWriter>>,
    /// Whether some of its content differs from what stands there (asked of dry runs).
    pub differs: AtomicBool,
    fate: Mutex<Fate>,
}

impl Item {
    /// Nothing done yet.
    pub fn new(key: Vec<u8>, path: Vec<u8>, entry: Entry) -> Item {
        let fate = Mutex::new(Fate::Underway);
        Item { key, path, entry, writer: RwLock::new(None), differs: AtomicBool::new(false), fate }
    }

    /// How far it is.
    pub fn fate(&self) -> Fate {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether content still goes into it: of a file that has lost a part, the rest is put in place all the same.
    pub fn takes_content(&self) -> bool {
        match self.fate() {
            Fate::Underway => true,
            Fate::Failed => self.with_writer(|_| ()).is_some(),
            Fate::Standing(_) | Fate::Settled => false,
        }
    }

    /// Says how far it is now.
    pub fn set(&self, fate: Fate) {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = fate;
    }

    /// Notes that it differs.
    pub fn set_differs(&self) {
        self.differs.store(true, Ordering::Release);
    }

    /// Notes its first failure; more of them say nothing new.
    pub fn fail(&self, tally: &Tally, why: impl FnOnce() -> String) {
        let before = std::mem::replace(&mut *self.fate.lock().unwrap_or_else(PoisonError::into_inner), Fate::Failed);
        if before != Fate::Failed {
            tally.failed(&self.path, why());
        }
    }

    /// Notes that a part of it (offset and length; none: what cannot be said by bytes) is in no replica any more. Who asked for
    /// what is left is told of every part.
    pub fn lose(&self, tally: &Tally, part: Option<(u64, u64)>, why: impl FnOnce() -> String) {
        let before = std::mem::replace(&mut *self.fate.lock().unwrap_or_else(PoisonError::into_inner), Fate::Failed);
        if before == Fate::Failed && !tally.lists_losses() {
            return;
        }
        let why = why();
        tally.lost(&self.path, part, &why);
        if before != Fate::Failed {
            tally.failed(&self.path, why);
        }
    }

    /// As `fail`, when it was the target that refused.
    pub fn refuse(&self, tally: &Tally, e: &TargetError) {
        let before = std::mem::replace(&mut *self.fate.lock().unwrap_or_else(PoisonError::into_inner), Fate::Failed);
        if before != Fate::Failed {
            tally.refused(&self.path, e);
        }
    }

    /// Does something with the open file; `None` when there is none.
    pub fn with_writer<T>(&self, work: impl FnOnce(&FileWriter) -> T) -> Option<T> {
        self.writer.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
    }

    /// Puts the open file in, or takes it out.
    pub fn exchange_writer(&self, writer: Option<FileWriter>) -> Option<FileWriter> {
        std::mem::replace(&mut *self.writer.write().unwrap_or_else(PoisonError::into_inner), writer)
    }
}
