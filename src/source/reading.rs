//! Content of files and targets of links, read by handle, with what is needed to tell that a file changed meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::source::attributes::{Attributes, read_open_xattrs};
use crate::source::directory::Found;
use crate::source::error::SourceError;
use crate::source::metadata::{Kind, Meta};
use crate::source::{Content, Origin};

/// Most bytes read from a file that says it is empty and is not, as those in /proc.
pub const PSEUDO_LIMIT: u64 = 64 << 20;

/// A regular file open for reading.
#[derive(Debug)]
pub struct OpenFile {
    handle: Handle,
    /// Metadata as of opening.
    pub meta: Meta,
    position: u64,
    found: Found,
}

/// What the bytes are read from.
enum Handle {
    Open(File),
    Given(Arc<dyn Content>),
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Handle::Open(file) => file.fmt(f),
            Handle::Given(_) => f.write_str("given content"),
        }
    }
}

/// A run of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Bytes to read: offset and length.
    Data(u64, u64),
    /// Zeros that the file system does not store: length.
    Hole(u64),
}

/// What [`read_small`] found.
#[derive(Debug)]
pub enum Small {
    /// All of it is in the buffer, and the file stood still; its metadata and extended attributes.
    Whole(Meta, Attributes),
    /// It changed while it was read: the buffer holds what was read; metadata and attributes as of afterwards.
    Changed(Meta, Attributes),
    /// It is longer than asked for, or has holes: nothing in the buffer, read it from here.
    Large(OpenFile),
}

/// Opens a regular file that the walk found. It must still be the same file, else [`SourceError::Replaced`].
pub fn open_file(found: &Found) -> Result<OpenFile, SourceError> {
    let (handle, meta) = open_same(found)?;
    Ok(OpenFile { handle, meta, position: 0, found: found.clone() })
}

fn open_same(found: &Found) -> Result<(Handle, Meta), SourceError> {
    let parent = match &found.origin {
        Origin::Directory(parent) => parent,
        Origin::Given(content) | Origin::Stream(content) => return Ok((Handle::Given(content.clone()), found.meta)),
    };
    // A pipe that took the file's place must not hold us up: no blocking.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = match open_quietly(&parent.fd, found.name.as_bytes(), flags, found.meta.uid) {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Err(SourceError::Replaced { path: found.path() }),
        Err(e) => return Err(SourceError::io("opening", &found.path(), e)),
    };
    let file = File::from(fd);
    let handle = Handle::Open(file);
    let meta = stat_open(&handle, found)?;
    if meta.kind != Kind::File || !meta.same_item(&found.meta) {
        return Err(SourceError::Replaced { path: found.path() });
    }
    Ok((handle, meta))
}

fn stat_open(handle: &Handle, found: &Found) -> Result<Meta, SourceError> {
    let Handle::Open(file) = handle else { return Ok(found.meta) };
    let stat = rustix::fs::fstat(file);
    stat.map(|s| Meta::from_stat(&s)).map_err(|e| SourceError::io("reading the metadata of", &found.path(), e))
}

fn xattrs_open(handle: &Handle, found: &Found) -> Result<Attributes, SourceError> {
    match handle {
        Handle::Open(file) => read_open_xattrs(file, &|| found.path()),
        Handle::Given(_) => Ok(Attributes::default()),
    }
}

fn read_open(handle: &Handle, found: &Found, offset: u64, buffer: &mut [u8]) -> Result<usize, SourceError> {
    loop {
        let read = match handle {
            Handle::Open(file) => file.read_at(buffer, offset),
            Handle::Given(content) => content.read_at(offset, buffer),
        };
        match read {
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(SourceError::Io { doing: "reading", path: found.path(), source }),
        }
    }
}

/// Reads a file of at most `max` bytes whole into `buffer` (cleared first): five system calls.
pub fn read_small(found: &Found, max: usize, buffer: &mut Vec<u8>) -> Result<Small, SourceError> {
    buffer.clear();
    let (handle, meta) = open_same(found)?;
    let large = |handle| Small::Large(OpenFile { handle, meta, position: 0, found: found.clone() });
    let size = usize::try_from(meta.size).unwrap_or(usize::MAX);
    if size > max || Segments::new(&handle, &meta).any(|s| matches!(s, Segment::Hole(_))) {
        return Ok(large(handle));
    }
    // One byte more than it says: a read that does not fill the buffer is the end of it. No size says nothing.
    buffer.resize(if size == 0 { max.min(4 << 10) } else { size } + 1, 0);
    let mut filled = 0;
    loop {
        match read_open(&handle, found, filled as u64, &mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
        if filled == size {
            break;
        }
        if filled > max {
            buffer.clear();
            return Ok(large(handle));
        }
        if filled == buffer.len() {
            buffer.resize((2 * filled).min(max + 1), 0);
        }
    }
    buffer.truncate(filled);
    let after = stat_open(&handle, found)?;
    let stood_still = after.same_content(&meta) && (filled == size || size == 0);
    let attributes = xattrs_open(&handle, found)?;
    Ok(if stood_still { Small::Whole(meta, attributes) } else { Small::Changed(after, attributes) })
}

/// Where a symbolic link points, raw.
pub fn read_link(found: &Found) -> Result<Vec<u8>, SourceError> {
    let Origin::Directory(parent) = &found.origin else { return Err(SourceError::Replaced { path: found.path() }) };
    match rustix::fs::readlinkat(&parent.fd, found.name.as_bytes(), Vec::new()) {
        Ok(target) => Ok(target.into_bytes()),
        Err(Errno::INVAL) => Err(SourceError::Replaced { path: found.path() }),
        Err(e) => Err(SourceError::io("reading the link", &found.path(), e)),
    }
}

impl OpenFile {
    /// Reads on from where the last call ended; 0 is the end. Goes beyond the size as of opening when the file grew.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let n = self.read_at(self.position, buffer)?;
        self.position += n as u64;
        if self.meta.size == 0 && self.position > PSEUDO_LIMIT {
            return Err(SourceError::Endless { path: self.path(), limit: PSEUDO_LIMIT });
        }
        Ok(n)
    }

    /// Reads at an offset in bytes; 0 is the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, SourceError> {
        read_open(&self.handle, &self.found, offset, buffer)
    }

    /// The runs of the file up to its size as of opening, in order and without gaps. Asks the file system only when
    /// there are fewer bytes allocated than the file is long.
    pub fn segments(&self) -> Segments<'_> {
        Segments::new(&self.handle, &self.meta)
    }

    /// Metadata as of now.
    pub fn stat_again(&self) -> Result<Meta, SourceError> {
        stat_open(&self.handle, &self.found)
    }

    /// Its extended attributes.
    pub fn xattrs(&self) -> Result<Attributes, SourceError> {
        xattrs_open(&self.handle, &self.found)
    }

    /// Its path, for messages.
    pub fn path(&self) -> PathBuf {
        self.found.path()
    }
}

/// The runs of a file. What the file system cannot say is data.
#[derive(Debug)]
pub struct Segments<'a> {
    file: Option<&'a File>,
    offset: u64,
    size: u64,
    known_data: bool,
}

impl<'a> Segments<'a> {
    fn new(handle: &'a Handle, meta: &Meta) -> Segments<'a> {
        let file = if let Handle::Open(file) = handle { Some(file) } else { None };
        Segments { file, offset: 0, size: meta.size, known_data: meta.allocated >= meta.size }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        use rustix::fs::SeekFrom;
        let start = self.offset;
        if start >= self.size {
            return None;
        }
        self.offset = self.size;
        let Some(file) = self.file.filter(|_| !self.known_data) else {
            return Some(Segment::Data(start, self.size - start));
        };
        match rustix::fs::seek(file, SeekFrom::Data(start)) {
            Ok(data) if data > start => {
                self.offset = data.min(self.size);
                Some(Segment::Hole(self.offset - start))
            }
            Ok(_) => {
                if let Ok(hole) = rustix::fs::seek(file, SeekFrom::Hole(start))
                    && hole > start
                {
                    self.offset = hole.min(self.size);
                }
                Some(Segment::Data(start, self.offset - start))
            }
            Err(Errno::NXIO) => Some(Segment::Hole(self.size - start)),
            Err(_) => Some(Segment::Data(start, self.size - start)),
        }
    }
}

/// Opens a name in a directory, leaving its access time alone where this process may.
pub(in crate::source) fn open_quietly(
    directory: &OwnedFd,
    name: &[u8],
    flags: OFlags,
    owner: u32,
) -> rustix::io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        static WHO: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
        let who = *WHO.get_or_init(|| rustix::process::geteuid().as_raw());
        if who == 0 || who == owner {
            match rustix::fs::openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => {}
                other => return other,
            }
        }
    }
    let _ = owner;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
