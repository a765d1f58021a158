//! Content of files and targets of links, read by handle, with what is needed to tell that a file changed meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::source::attributes::{Attributes, read_open_xattrs};
use crate::source::directory::Found;
use crate::source::error::SourceError;
use crate::source::metadata::{Kind, Meta};

/// Most bytes read from a file that says it is empty and is not, as those in /proc.
pub const PSEUDO_LIMIT: u64 = 64 << 20;

/// A regular file open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The handle.
    pub file: File,
    /// Metadata as of opening.
    pub meta: Meta,
    position: u64,
    found: Found,
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
    let (file, meta) = open_same(found)?;
    Ok(OpenFile { file, meta, position: 0, found: found.clone() })
}

fn open_same(found: &Found) -> Result<(File, Meta), SourceError> {
    // A pipe that took the file's place must not hold us up: no blocking.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = match open_quietly(&found.parent.fd, found.name.as_bytes(), flags, found.meta.uid) {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Err(SourceError::Replaced { path: found.path() }),
        Err(e) => return Err(SourceError::io("opening", &found.path(), e)),
    };
    let file = File::from(fd);
    let meta = stat_open(&file, found)?;
    if meta.kind != Kind::File || !meta.same_item(&found.meta) {
        return Err(SourceError::Replaced { path: found.path() });
    }
    Ok((file, meta))
}

fn stat_open(file: &File, found: &Found) -> Result<Meta, SourceError> {
    let stat = rustix::fs::fstat(file);
    stat.map(|s| Meta::from_stat(&s)).map_err(|e| SourceError::io("reading the metadata of", &found.path(), e))
}

fn read_open(file: &File, found: &Found, offset: u64, buffer: &mut [u8]) -> Result<usize, SourceError> {
    loop {
        match file.read_at(buffer, offset) {
            Ok(n) => return Ok(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(SourceError::Io { doing: "reading", path: found.path(), source }),
        }
    }
}

/// Reads a file of at most `max` bytes whole into `buffer` (cleared first): five system calls.
pub fn read_small(found: &Found, max: usize, buffer: &mut Vec<u8>) -> Result<Small, SourceError> {
    buffer.clear();
    let (file, meta) = open_same(found)?;
    let large = |file| Small::Large(OpenFile { file, meta, position: 0, found: found.clone() });
    let size = usize::try_from(meta.size).unwrap_or(usize::MAX);
    if size > max || Segments::new(&file, &meta).any(|s| matches!(s, Segment::Hole(_))) {
        return Ok(large(file));
    }
    // One byte more than it says: a read that does not fill the buffer is the end of it. No size says nothing.
    buffer.resize(if size == 0 { max.min(4 << 10) } else { size } + 1, 0);
    let mut filled = 0;
    loop {
        match read_open(&file, found, filled as u64, &mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
        if filled == size {
            break;
        }
        if filled > max {
            buffer.clear();
            return Ok(large(file));
        }
        if filled == buffer.len() {
            buffer.resize((2 * filled).min(max + 1), 0);
        }
    }
    buffer.truncate(filled);
    let after = stat_open(&file, found)?;
    let stood_still = after.same_content(&meta) && (filled == size || size == 0);
    let attributes = read_open_xattrs(&file, &|| found.path())?;
    Ok(if stood_still { Small::Whole(meta, attributes) } else { Small::Changed(after, attributes) })
}

/// Where a symbolic link points, raw.
pub fn read_link(found: &Found) -> Result<Vec<u8>, SourceError> {
    match rustix::fs::readlinkat(&found.parent.fd, found.name.as_bytes(), Vec::new()) {
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
        read_open(&self.file, &self.found, offset, buffer)
    }

    /// The runs of the file up to its size as of opening, in order and without gaps. Asks the file system only when
    /// there are fewer bytes allocated than the file is long.
    pub fn segments(&self) -> Segments<'_> {
        Segments::new(&self.file, &self.meta)
    }

    /// Metadata as of now.
    pub fn stat_again(&self) -> Result<Meta, SourceError> {
        stat_open(&self.file, &self.found)
    }

    /// Its extended attributes.
    pub fn xattrs(&self) -> Result<Attributes, SourceError> {
        read_open_xattrs(&self.file, &|| self.path())
    }

    /// Its path, for messages.
    pub fn path(&self) -> PathBuf {
        self.found.path()
    }
}

/// The runs of a file. What the file system cannot say is data.
#[derive(Debug)]
pub struct Segments<'a> {
    file: &'a File,
    offset: u64,
    size: u64,
    known_data: bool,
}

impl<'a> Segments<'a> {
    fn new(file: &'a File, meta: &Meta) -> Segments<'a> {
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
        if self.known_data {
            return Some(Segment::Data(start, self.size - start));
        }
        match rustix::fs::seek(self.file, SeekFrom::Data(start)) {
            Ok(data) if data > start => {
                self.offset = data.min(self.size);
                Some(Segment::Hole(self.offset - start))
            }
            Ok(_) => {
                if let Ok(hole) = rustix::fs::seek(self.file, SeekFrom::Hole(start))
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
