//! The folder that is restored into, by directory handles only: no link in it is followed, and nothing outside it is
//! touched, whatever was planted there and whatever a snapshot says. Blocking; used from many threads at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::format::entry::EntryKind;
use crate::source::metadata::{Kind, Meta};

/// How many directories are kept open.
const MOST_OPEN: usize = 128;
/// Longest component of a name in bytes; what every common file system takes.
const LONGEST_NAME: usize = 255;
/// Longest key in bytes.
const LONGEST_KEY: usize = 64 << 10;
/// How often a name is cleared for something new, when something else keeps taking its place.
const CLEARINGS: usize = 3;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// What is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// Owners and groups.
    pub owners: bool,
    /// Extended attributes; ACLs and capabilities among them.
    pub xattrs: bool,
    /// Devices, and the set-user-id and set-group-id bits of what is not a directory.
    pub special: bool,
    /// Owners by number only; else by name where this system knows the name.
    pub numeric_ids: bool,
    /// Runs of zeros in new files become holes, recorded as such or not. (Recorded holes always do.)
    pub sparse: bool,
}

impl Default for TargetSettings {
    fn default() -> TargetSettings {
        TargetSettings { owners: true, xattrs: true, special: true, numeric_ids: true, sparse: false }
    }
}

/// Why something could not be restored to its place. Paths stand in quotes with everything unprintable escaped.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A name that no tree has.
    #[error("{path:?} is refused: {reason}")]
    Name {
        /// The key as a path, lossy where it is none.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A symbolic link, or something else that is no directory, stands where a directory is needed.
    #[error("{path:?} is a link or a file where a directory is needed: not followed")]
    Planted {
        /// What stands there.
        path: PathBuf,
    },
    /// A directory with contents stands where something else is needed.
    #[error("{path:?} is a directory with contents where something else is needed: not removed")]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// Something of another kind took the place of what was restored.
    #[error("{path:?} is not what was restored there")]
    Exchanged {
        /// The item.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{doing} {path:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl TargetError {
    /// Whether the system refused for want of a right.
    pub fn is_denied(&self) -> bool {
        matches!(self, TargetError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What an operation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was so already: nothing was written.
    Unchanged,
    /// Made or changed.
    Written,
    /// Withheld by the settings.
    Withheld,
}

/// A folder that is restored into.
#[derive(Debug)]
pub struct Target {
    pub(in crate::restore) path: PathBuf,
    pub(in crate::restore) settings: TargetSettings,
    pub(in crate::restore) owners: Mutex<crate::restore::metadata::OwnerIds>,
    root: Arc<OwnedFd>,
    open: Mutex<OpenDirectories>,
}

/// Handles by key, and when each was asked for last.
#[derive(Debug, Default)]
struct OpenDirectories {
    handles: BTreeMap<Vec<u8>, (Arc<OwnedFd>, u64)>,
    asked: u64,
}

impl Target {
    /// Opens a folder, made (with all above it) if it is not there and `create` is set. The path to it may lead over
    /// links: it is the operator's.
    pub fn open(dir: &Path, create: bool, settings: TargetSettings) -> Result<Target, TargetError> {
        let failed = |doing| move |source: io::Error| TargetError::Io { doing, path: dir.to_owned(), source };
        if create {
            std::fs::create_dir_all(dir).map_err(failed("making the target"))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| failed("opening the target")(e.into()))?;
        Ok(Target { path: dir.to_owned(), settings, owners: Mutex::default(), root: Arc::new(root), open: Mutex::default() })
    }

    /// What stands at `key` now, not following it: `None` when nothing does, or when what leads to it is no directory.
    pub fn look(&self, key: &[u8]) -> Result<Option<Meta>, TargetError> {
        let (parent, name) = match self.place(key) {
            Ok(place) => place,
            Err(TargetError::Planted { .. }) => return Ok(None),
            Err(TargetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match stat(&parent, name) {
            Ok(meta) => Ok(Some(meta)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed("looking at", key, e)),
        }
    }

    /// Makes a directory, private until its metadata is set; its parent must be there. A directory that is there stays
    /// with its contents; a symbolic link is refused, anything else replaced.
    pub fn make_directory(&self, key: &[u8]) -> Result<Outcome, TargetError> {
        let (parent, name) = self.place(key)?;
        for _ in 0..CLEARINGS {
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) => {
                    self.forget(key);
                    return Ok(Outcome::Written);
                }
                Err(Errno::EXIST) => {}
                // The root is `.` to itself.
                Err(_) if key.is_empty() => {}
                Err(e) => return Err(self.failed("making the directory", key, e)),
            }
            match stat(&parent, name).map(|m| m.kind) {
                Ok(Kind::Directory) => {
                    self.make_passable(&parent, name);
                    return Ok(Outcome::Unchanged);
                }
                Ok(Kind::Symlink) => return Err(TargetError::Planted { path: self.path_of(key) }),
                Ok(_) => self.clear(&parent, name, key)?,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.failed("looking at", key, e)),
            }
        }
        Err(self.failed("making the directory", key, Errno::EXIST))
    }

    /// Makes a symbolic link to `target`, raw bytes that are not looked at. What else stands there is replaced.
    pub fn symlink(&self, key: &[u8], target: &[u8]) -> Result<Outcome, TargetError> {
        let (parent, name) = self.named_place(key)?;
        if rustix::fs::readlinkat(&parent, name, Vec::new()).is_ok_and(|t| t.as_bytes() == target) {
            return Ok(Outcome::Unchanged);
        }
        self.put(&parent, name, key, "making the link", || rustix::fs::symlinkat(target, &parent, name))
    }

    /// Makes `key` another name of what was restored at `first`. What else stands there is replaced. Where the file
    /// system refuses, the caller may restore a copy.
    pub fn hard_link(&self, first: &[u8], key: &[u8]) -> Result<Outcome, TargetError> {
        let (from, old) = self.named_place(first)?;
        let (parent, name) = self.named_place(key)?;
        let there = stat(&from, old).map_err(|e| self.failed("looking at", first, e))?;
        if stat(&parent, name).is_ok_and(|m| m.same_item(&there)) {
            return Ok(Outcome::Unchanged);
        }
        self.put(&parent, name, key, "making the hard link", || rustix::fs::linkat(&from, old, &parent, name, AtFlags::empty()))
    }

    /// Makes a pipe, a socket or a device (`device`: major in the upper 32 bits, minor in the lower), private until its
    /// metadata is set. What else stands there is replaced.
    pub fn special(&self, key: &[u8], kind: EntryKind, device: u64) -> Result<Outcome, TargetError> {
        let (parent, name) = self.named_place(key)?;
        let (wanted, file_type) = match kind {
            EntryKind::Fifo => (Kind::Fifo, FileType::Fifo),
            EntryKind::Socket => (Kind::Socket, FileType::Socket),
            EntryKind::CharDevice => (Kind::CharDevice, FileType::CharacterDevice),
            EntryKind::BlockDevice => (Kind::BlockDevice, FileType::BlockDevice),
            EntryKind::Unknown | EntryKind::File | EntryKind::Directory | EntryKind::Symlink => {
                return Err(self.failed("making the special file", key, Errno::INVAL));
            }
        };
        let is_device = matches!(wanted, Kind::CharDevice | Kind::BlockDevice);
        if is_device && !self.settings.special {
            return Ok(Outcome::Withheld);
        }
        let numbers = if is_device { ((device >> 32) as u32, device as u32) } else { (0, 0) };
        if stat(&parent, name).is_ok_and(|m| m.kind == wanted && m.rdev == numbers) {
            return Ok(Outcome::Unchanged);
        }
        self.put(&parent, name, key, "making the special file", || make_node(&parent, name, file_type, numbers))
    }

    /// The path of a key, for messages only.
    pub fn path_of(&self, key: &[u8]) -> PathBuf {
        let mut path = self.path.as_os_str().as_bytes().to_vec();
        if !key.is_empty() {
            path.push(b'/');
            path.extend(key.iter().map(|b| if *b == 0 { b'/' } else { *b }));
        }
        PathBuf::from(OsString::from_vec(path))
    }

    pub(in crate::restore) fn failed(&self, doing: &'static str, key: &[u8], source: impl Into<io::Error>) -> TargetError {
        TargetError::Io { doing, path: self.path_of(key), source: source.into() }
    }

    /// The open directory that `key` lies in, and its name there; the root lies in itself as `.`.
    pub(in crate::restore) fn place<'k>(&self, key: &'k [u8]) -> Result<(Arc<OwnedFd>, &'k [u8]), TargetError> {
        if key.is_empty() {
            return Ok((Arc::clone(&self.root), b"."));
        }
        self.judge_names(key)?;
        match key.iter().rposition(|b| *b == 0) {
            None => Ok((Arc::clone(&self.root), key)),
            Some(cut) => Ok((self.directory(&key[..cut])?, &key[cut + 1..])),
        }
    }

    /// As `place`, for what the root cannot be.
    pub(in crate::restore) fn named_place<'k>(&self, key: &'k [u8]) -> Result<(Arc<OwnedFd>, &'k [u8]), TargetError> {
        if key.is_empty() {
            return Err(TargetError::Name { path: self.path.clone(), reason: "the target itself is a directory" });
        }
        self.place(key)
    }

    /// Runs `make` for a name, and again after removing what it says stands there.
    pub(in crate::restore) fn put<T: Made>(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        key: &[u8],
        doing: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T::Out, TargetError> {
        for _ in 0..CLEARINGS {
            match make() {
                Ok(made) => return Ok(made.out()),
                Err(Errno::EXIST) => self.clear(parent, name, key)?,
                Err(e) => return Err(self.failed(doing, key, e)),
            }
        }
        Err(self.failed(doing, key, Errno::EXIST))
    }

    /// Removes what stands at a name; of directories only empty ones.
    pub(in crate::restore) fn clear(&self, parent: &OwnedFd, name: &[u8], key: &[u8]) -> Result<(), TargetError> {
        let is_directory = match stat(parent, name) {
            Ok(meta) => meta.kind == Kind::Directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(self.failed("looking at", key, e)),
        };
        if is_directory {
            self.forget(key);
        }
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(parent, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(TargetError::Occupied { path: self.path_of(key) }),
            Err(e) => Err(self.failed("replacing", key, e)),
        }
    }

    fn judge_names(&self, key: &[u8]) -> Result<(), TargetError> {
        let reason = if key.len() > LONGEST_KEY {
            Some("the path is too long")
        } else {
            key.split(|b| *b == 0).find_map(|name| match name {
                b"" => Some("a component is empty"),
                b"." | b".." => Some("a component is . or .."),
                _ if name.contains(&b'/') => Some("a component contains a slash"),
                _ if name.len() > LONGEST_NAME => Some("a component is too long"),
                _ => None,
            })
        };
        reason.map_or(Ok(()), |reason| Err(TargetError::Name { path: self.path_of(key), reason }))
    }

    /// An open directory below the target; every step to it was taken by handle, following nothing.
    fn directory(&self, key: &[u8]) -> Result<Arc<OwnedFd>, TargetError> {
        let (mut at, mut opened) = self.nearest_open(key);
        while opened < key.len() {
            let start = if opened == 0 { 0 } else { opened + 1 };
            let end = key[start..].iter().position(|b| *b == 0).map_or(key.len(), |i| start + i);
            at = match rustix::fs::openat(&at, &key[start..end], DIRECTORY, Mode::empty()) {
                Ok(fd) => Arc::new(fd),
                Err(Errno::LOOP | Errno::NOTDIR) => return Err(TargetError::Planted { path: self.path_of(&key[..end]) }),
                Err(e) => return Err(self.failed("opening the directory", &key[..end], e)),
            };
            opened = end;
            self.keep_open(&key[..end], &at);
        }
        Ok(at)
    }

    /// The deepest directory on the way to `key` that is open, and the length of its key.
    fn nearest_open(&self, key: &[u8]) -> (Arc<OwnedFd>, usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.asked += 1;
        let now = open.asked;
        let mut length = key.len();
        while length > 0 {
            if let Some((handle, asked)) = open.handles.get_mut(&key[..length]) {
                *asked = now;
                return (Arc::clone(handle), length);
            }
            length = key[..length].iter().rposition(|b| *b == 0).unwrap_or(0);
        }
        (Arc::clone(&self.root), 0)
    }

    /// Drops the handles of a directory and of all below: another one takes its place.
    fn forget(&self, key: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in = |k: &[u8]| k.strip_prefix(key).is_some_and(|rest| rest.first().is_none_or(|b| *b == 0));
        // All that begin with the key stand together, those of longer names among them.
        let within: Vec<_> = open
            .handles
            .range(key.to_vec()..)
            .map(|(k, _)| k)
            .take_while(|k| k.starts_with(key))
            .filter(|k| is_in(k))
            .cloned()
            .collect();
        for k in within {
            open.handles.remove(&k);
        }
    }

    fn keep_open(&self, key: &[u8], handle: &Arc<OwnedFd>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.asked += 1;
        let now = open.asked;
        open.handles.insert(key.to_vec(), (Arc::clone(handle), now));
        if open.handles.len() > MOST_OPEN {
            // Half at a time, so that a path deeper than this many directories does not search at every step.
            let mut asked: Vec<u64> = open.handles.values().map(|(_, asked)| *asked).collect();
            asked.sort_unstable();
            let middle = asked[asked.len() / 2];
            open.handles.retain(|_, (_, asked)| *asked > middle);
        }
    }

    /// Gives the owner the right to work in a directory that was there, by handle. Root needs no right; where it fails,
    /// the work in it will say so.
    fn make_passable(&self, parent: &OwnedFd, name: &[u8]) {
        if rustix::process::geteuid().is_root() {
            return;
        }
        if let Ok(fd) = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
            && let Ok(stat) = rustix::fs::fstat(&fd)
        {
            let mode = Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o7777);
            if !mode.contains(Mode::RWXU) {
                let _ = rustix::fs::fchmod(&fd, mode | Mode::RWXU);
            }
        }
    }
}

/// What a call that makes something returns.
pub(in crate::restore) trait Made {
    /// What it stands for.
    type Out;
    /// As that.
    fn out(self) -> Self::Out;
}

impl Made for () {
    type Out = Outcome;
    fn out(self) -> Outcome {
        Outcome::Written
    }
}

impl Made for OwnedFd {
    type Out = OwnedFd;
    fn out(self) -> OwnedFd {
        self
    }
}

pub(in crate::restore) fn stat(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<Meta> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| Meta::from_stat(&s))
}

#[cfg(target_os = "linux")]
fn make_node(parent: &OwnedFd, name: &[u8], file_type: FileType, (major, minor): (u32, u32)) -> rustix::io::Result<()> {
    rustix::fs::mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, rustix::fs::makedev(major, minor))
}

#[cfg(not(target_os = "linux"))]
fn make_node(_: &OwnedFd, _: &[u8], _: FileType, _: (u32, u32)) -> rustix::io::Result<()> {
    Err(Errno::NOTSUP)
}
