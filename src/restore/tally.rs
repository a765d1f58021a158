//! What a restore came to so far, noted by all that work on it.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::progress::Progress;
use crate::restore::target::TargetError;
use crate::restore::{Losses, Lost, RestoreReport};

/// How many failures, and how many warnings, are kept by name; the counts go on.
const NAMED_MAX: usize = 1000;

/// The report in the making.
pub struct Tally {
    /// Counters for the terminal.
    pub progress: Progress,
    report: Mutex<RestoreReport>,
    fatal: OnceLock<String>,
    losses: Option<Losses>,
}

/// An error with its causes, in one line.
pub fn told(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn named(list: &mut Vec<(String, String)>, path: &[u8], why: String) {
    if list.len() < NAMED_MAX {
        list.push((String::from_utf8_lossy(path).into_owned(), why));
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new(progress: &Progress, report: RestoreReport, losses: Option<Losses>) -> Tally {
        Tally { progress: progress.clone(), report: Mutex::new(report), fatal: OnceLock::new(), losses }
    }

    /// Whether somebody wants to hear of everything that could not be had.
    pub fn lists_losses(&self) -> bool {
        self.losses.is_some()
    }

    /// Tells of something that is in no replica any more.
    pub fn lost(&self, path: &[u8], part: Option<(u64, u64)>, why: &str) {
        self.with(|report| {
            report.lost_parts += 1;
            report.lost_bytes += part.map_or(0, |(_, length)| length);
        });
        if let Some(losses) = &self.losses {
            (losses.0)(&Lost { path: path.to_vec(), part, why: why.to_owned() });
        }
    }

    /// Notes an item of which nothing is in any replica any more.
    pub fn gone(&self, path: &[u8], why: String) {
        self.lost(path, None, &why);
        self.failed(path, why);
    }

    /// Changes the report.
    pub fn with(&self, change: impl FnOnce(&mut RestoreReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes an item that could not be restored as it was.
    pub fn failed(&self, path: &[u8], why: String) {
        self.progress.errors.add(1);
        self.with(|report| {
            report.failed_count += 1;
            named(&mut report.failed, path, why);
        });
    }

    /// Notes metadata that could not be put back.
    pub fn warned(&self, path: &[u8], why: String) {
        self.with(|report| {
            report.warnings_count += 1;
            named(&mut report.warnings, path, why);
        });
    }

    /// Notes an item that the target refused. A target that takes nothing any more ends the run.
    pub fn refused(&self, path: &[u8], e: &TargetError) {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        if let TargetError::Io { source, .. } = e
            && matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        {
            let _ = self.fatal.set(told(e));
        }
        self.failed(path, told(e));
    }

    /// Why the target takes nothing any more.
    pub fn fatal(&self) -> Option<String> {
        self.fatal.get().cloned()
    }

    /// The report, taken out.
    pub fn finish(&self) -> RestoreReport {
        std::mem::take(&mut *self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
