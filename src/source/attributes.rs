//! Extended attributes, POSIX ACLs and capabilities among them, of any kind of item. Linux; elsewhere there are none.

use std::path::PathBuf;

use crate::source::Origin;
use crate::source::directory::Found;
use crate::source::error::SourceError;

/// Longest value of one attribute in bytes; Linux itself has no longer ones.
pub const LONGEST_VALUE: usize = 64 << 10;

/// One extended attribute: full name with its namespace, and value, both raw.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// The attributes of one item.
#[derive(Debug, Default)]
pub struct Attributes {
    /// Sorted by name.
    pub list: Vec<Attribute>,
    /// Those that are there and could not be read.
    pub problems: Vec<SourceError>,
}

/// Reads the attributes of an item by its name in its parent, without following a link and without opening it: needs no
/// right to read the item itself. A file system without attributes has none.
pub fn read_xattrs(found: &Found) -> Result<Attributes, SourceError> {
    match &found.origin {
        Origin::Directory(parent) => {
            let read = read_xattrs_at(&proc_path(&parent.fd, found.name.as_encoded_bytes()), true, &|| found.path());
            match read {
                // Where /proc is not mounted nothing can be reached through it: the item is there all the same.
                Err(e) if e.is_vanished() && rustix::fs::stat(proc_path(&parent.fd, b"")).is_err() => {
                    let source = std::io::Error::other("/proc is not mounted, and they cannot be reached without it");
                    let problem = SourceError::Io { doing: "listing the extended attributes of", path: found.path(), source };
                    Ok(Attributes { list: Vec::new(), problems: vec![problem] })
                }
                read => read,
            }
        }
        Origin::Given(_) | Origin::Stream(_) => Ok(Attributes::default()),
    }
}

/// Reads the attributes of what a path leads to, of a link itself if `on_link`; `path` is asked for messages only.
pub fn read_xattrs_at(target: &[u8], on_link: bool, path: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
    linux::of_path(target, on_link, path)
}

/// Reads the attributes of an open file or directory; `path` is asked for messages only.
pub fn read_open_xattrs(fd: &impl std::os::fd::AsFd, path: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
    linux::of_open(fd.as_fd(), path)
}

/// A name in an open directory as a path for the calls that take nothing else. Not longer than PATH_MAX, whatever
/// the depth, and no component of it but the last can be exchanged.
pub fn proc_path(directory: &impl std::os::fd::AsRawFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", directory.as_raw_fd()).into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

#[cfg(target_os = "linux")]
mod linux {
    use crate::source::attributes::{Attributes, LONGEST_VALUE};
    use crate::source::error::SourceError;
    use rustix::io::Errno;
    use std::os::fd::BorrowedFd;
    use std::path::{Path, PathBuf};

    /// Longest list of names Linux gives.
    const LONGEST_LIST: usize = 64 << 10;
    /// What nearly every list and value fits in.
    const USUAL: usize = 1 << 10;

    pub fn of_path(target: &[u8], on_link: bool, path: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
        if on_link {
            read(&|buf| rustix::fs::llistxattr(target, buf), &|name, buf| rustix::fs::lgetxattr(target, name, buf), path)
        } else {
            read(&|buf| rustix::fs::listxattr(target, buf), &|name, buf| rustix::fs::getxattr(target, name, buf), path)
        }
    }

    pub fn of_open(fd: BorrowedFd<'_>, path: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
        read(&|buf| rustix::fs::flistxattr(fd, buf), &|name, buf| rustix::fs::fgetxattr(fd, name, buf), path)
    }

    type List<'a> = &'a dyn Fn(&mut [u8]) -> rustix::io::Result<usize>;
    type Get<'a> = &'a dyn Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>;

    fn read(list: List<'_>, get: Get<'_>, path: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
        let failed = |e: Errno, path: &Path| SourceError::io("listing the extended attributes of", path, e);
        let names = match grow(LONGEST_LIST, list) {
            Ok(names) => names,
            Err(Errno::NOTSUP) => return Ok(Attributes::default()),
            Err(e) => return Err(failed(e, &path())),
        };
        let mut found = Attributes::default();
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            match grow(LONGEST_VALUE, &|buf| get(name, buf)) {
                Ok(value) => found.list.push((name.to_vec(), value)),
                // Removed since it was listed, or listed by a layer that does not have it.
                Err(Errno::NODATA | Errno::NOTSUP) => {}
                Err(Errno::RANGE | Errno::TOOBIG) => found.problems.push(SourceError::LongAttribute {
                    path: path(),
                    name: String::from_utf8_lossy(name).into_owned(),
                    limit: LONGEST_VALUE,
                }),
                Err(e) => found.problems.push(SourceError::io("reading an extended attribute of", &path(), e)),
            }
        }
        found.list.sort_unstable();
        Ok(found)
    }

    /// Asks with a small buffer first and once more with the largest.
    fn grow(most: usize, ask: List<'_>) -> rustix::io::Result<Vec<u8>> {
        let mut small = [0; USUAL];
        match ask(&mut small) {
            Ok(length) => return Ok(small[..length].to_vec()),
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
        let mut large = vec![0; most];
        let length = ask(&mut large)?;
        large.truncate(length);
        Ok(large)
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use crate::source::attributes::Attributes;
    use crate::source::error::SourceError;
    use std::path::PathBuf;

    pub fn of_path(_: &[u8], _: bool, _: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
        Ok(Attributes::default())
    }

    pub fn of_open<T>(_: T, _: &dyn Fn() -> PathBuf) -> Result<Attributes, SourceError> {
        Ok(Attributes::default())
    }
}
