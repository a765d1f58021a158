//! One file being restored: written at offsets, in any order, from many threads; what is there already is left alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::restore::target::{Outcome, Target, TargetError, stat};
use crate::source::metadata::{Kind, Meta};

/// How much is compared or written as zeros at once.
const PIECE: usize = 64 << 10;
/// What a file that is being written may be used for by others: nothing.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What to do with a regular file that stands in the place already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Open it, so that only what differs is rewritten. A file with several names is replaced, as the others are not ours.
    Compare,
    /// Replace it.
    Replace,
}

/// A file being restored.
#[derive(Debug)]
pub struct FileWriter {
    file: File,
    path: PathBuf,
    size: u64,
    /// Bytes that were there before; 0 for a new file.
    old_size: u64,
    sparse: bool,
    changed: AtomicBool,
}

impl Target {
    /// Opens the file at `key` for `size` bytes. What else stands there is replaced, a directory only if it is empty.
    /// A new file is private until its metadata is set, and so is an old one from the first byte that changes.
    pub fn open_for_write(&self, key: &[u8], size: u64, existing: Existing) -> Result<FileWriter, TargetError> {
        let (parent, name) = self.named_place(key)?;
        let path = self.path_of(key);
        let sparse = self.settings.sparse;
        let writer =
            |file, old_size, changed| FileWriter { file, path, size, old_size, sparse, changed: AtomicBool::new(changed) };
        if existing == Existing::Compare {
            // A pipe must not hold us up, and a terminal not become ours.
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            // Devices are not even opened: that alone can do something.
            let is_ours = |m: &Meta| m.kind == Kind::File && m.nlink == 1;
            if stat(&parent, name).is_ok_and(|m| is_ours(&m)) {
                match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
                    Ok(fd) => {
                        let meta = rustix::fs::fstat(&fd).map_err(|e| self.failed("looking at", key, e))?;
                        let meta = Meta::from_stat(&meta);
                        if is_ours(&meta) {
                            return Ok(writer(File::from(fd), meta.size, false));
                        }
                    }
                    // Not ours to write, a program that is running, or replaced since: a new file takes its place.
                    Err(Errno::ACCESS | Errno::TXTBSY | Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => {}
                    Err(e) => return Err(self.failed("opening", key, e)),
                }
            }
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.put(&parent, name, key, "making the file", || rustix::fs::openat(&parent, name, flags, PRIVATE))?;
        let file = File::from(fd);
        file.set_len(size).map_err(|e| self.failed("setting the length of", key, e))?;
        Ok(writer(file, 0, true))
    }

    /// Opens the regular file at `key` to compare it with `size` bytes that are wanted, and not to write it; `None` when
    /// there is none, or none that may be read.
    pub fn open_to_compare(&self, key: &[u8], size: u64) -> Result<Option<FileWriter>, TargetError> {
        if self.look(key)?.is_none_or(|m| m.kind != Kind::File) {
            return Ok(None);
        }
        let (parent, name) = self.named_place(key)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat(&parent, name, flags, Mode::empty()) else { return Ok(None) };
        let meta = Meta::from_stat(&rustix::fs::fstat(&fd).map_err(|e| self.failed("looking at", key, e))?);
        if meta.kind != Kind::File {
            return Ok(None);
        }
        let (path, sparse) = (self.path_of(key), self.settings.sparse);
        Ok(Some(FileWriter { file: File::from(fd), path, size, old_size: meta.size, sparse, changed: AtomicBool::new(false) }))
    }
}

impl FileWriter {
    /// Whether nothing was there before, so that there is nothing to compare with.
    pub fn is_new(&self) -> bool {
        self.old_size == 0
    }

    /// How long the file was before.
    pub fn old_size(&self) -> u64 {
        self.old_size
    }

    /// Whether a run of the old file reads as zeros; what lies beyond its end will.
    pub fn reads_as_zeros(&self, offset: u64, length: u64) -> Result<bool, TargetError> {
        let end = end_of(offset, length).ok_or_else(|| self.failed("reading", io::ErrorKind::InvalidInput.into()))?;
        Ok(self.first_data(offset, end.min(self.old_size))?.is_none())
    }

    /// Whether exactly these bytes stand at `offset` already.
    pub fn matches(&self, offset: u64, bytes: &[u8]) -> Result<bool, TargetError> {
        if self.is_new() || end_of(offset, bytes.len() as u64).is_none_or(|end| end > self.old_size) {
            return Ok(false);
        }
        let mut buffer = vec![0; bytes.len().min(PIECE)];
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            let there = &mut buffer[..piece.len()];
            match self.file.read_exact_at(there, at) {
                Ok(()) if there == piece => {}
                Ok(()) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(e) => return Err(self.failed("reading", e)),
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }

    /// Bytes that stand at `offset` already, up to the length of `buffer`; fewer at the end of the old file.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed("reading", e)),
            }
        }
        Ok(filled)
    }

    /// Writes at an offset; nothing beyond the size the file was opened for.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        if end_of(offset, bytes.len() as u64).is_none_or(|end| end > self.size) {
            return Err(self.failed("writing", io::ErrorKind::InvalidInput.into()));
        }
        if bytes.is_empty() || (self.sparse && self.is_new() && bytes.iter().all(|b| *b == 0)) {
            return Ok(());
        }
        self.before_change()?;
        self.file.write_all_at(bytes, offset).map_err(|e| self.failed("writing", e))
    }

    /// Makes a run read as zeros, without storing them where the file system can.
    pub fn hole(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        let Some(end) = end_of(offset, length).filter(|end| *end <= self.size) else {
            return Err(self.failed("writing", io::ErrorKind::InvalidInput.into()));
        };
        let old_end = end.min(self.old_size);
        if let Some(at) = self.first_data(offset, old_end)? {
            self.before_change()?;
            self.punch(at, old_end - at)?;
        }
        Ok(())
    }

    /// About where the first byte that is not zero stands before `old_end`.
    fn first_data(&self, offset: u64, old_end: u64) -> Result<Option<u64>, TargetError> {
        let mut at = offset;
        let mut buffer = vec![0; if at < old_end { PIECE } else { 0 }];
        while at < old_end {
            // What is a hole already needs no look, however long.
            match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) if data >= old_end => break,
                Ok(data) => at = at.max(data),
                Err(Errno::NXIO) => break,
                Err(_) => {}
            }
            let piece = usize::try_from(old_end - at).unwrap_or(PIECE).min(PIECE);
            let n = self.read_at(at, &mut buffer[..piece])?;
            if n == 0 {
                break;
            }
            if buffer[..n].iter().any(|b| *b != 0) {
                return Ok(Some(at));
            }
            at += n as u64;
        }
        Ok(None)
    }

    /// Cuts or extends the file to its size; what came of it all.
    pub fn finish(self) -> Result<Outcome, TargetError> {
        let length = self.file.metadata().map_err(|e| self.failed("reading the metadata of", e))?.len();
        if length != self.size {
            self.before_change()?;
            self.file.set_len(self.size).map_err(|e| self.failed("setting the length of", e))?;
        }
        Ok(if self.changed.load(Ordering::Acquire) { Outcome::Written } else { Outcome::Unchanged })
    }

    /// Before the first change to an old file: whoever could read the old content may not be one who can read the new,
    /// and what was set-user-id code is no longer that code.
    fn before_change(&self) -> Result<(), TargetError> {
        if !self.changed.load(Ordering::Acquire) {
            rustix::fs::fchmod(&self.file, PRIVATE).map_err(|e| self.failed("setting the mode of", e.into()))?;
            self.changed.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), TargetError> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::FallocateFlags;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(&self.file, flags, offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => {}
                Err(e) => return Err(self.failed("making a hole in", e.into())),
            }
        }
        let zeros = vec![0; PIECE];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let n = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            self.file.write_all_at(&zeros[..n], at).map_err(|e| self.failed("writing", e))?;
            at += n as u64;
        }
        Ok(())
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> TargetError {
        TargetError::Io { doing, path: self.path.clone(), source }
    }
}

/// Where a run ends, if that can be.
fn end_of(offset: u64, length: u64) -> Option<u64> {
    offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok())
}
