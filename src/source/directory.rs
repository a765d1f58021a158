//! The walk of one tree, by directory handles, in catalog order: a directory, then its children sorted bytewise, each
//! child directory followed at once by its contents. Blocking.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::source::error::SourceError;
use crate::source::filter::{Filter, Marker, Verdict};
use crate::source::metadata::{Kind, Meta};
use crate::source::names::{Collector, SortedNames, each};
use crate::source::reading::open_quietly;
use crate::source::{Origin, Source};

/// A good value for [`WalkSettings::names_memory`]: some hundred thousand names.
pub const NAMES_MEMORY: usize = 16 << 20;
/// How many directories on the way down are kept open, the root apart.
const MOST_OPEN: usize = 64;
/// Longest key in bytes; what the format takes.
const LONGEST_KEY: usize = 64 << 10;
/// Pieces in which a longer path of a root is opened; below PATH_MAX everywhere.
const PATH_PIECE: usize = 1000;
/// How often an item is looked at again that is something else by the time it is opened.
const LOOKS: usize = 3;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What a walk does and leaves out.
#[derive(Clone, Debug)]
pub struct WalkSettings {
    /// Directories on other devices than the root are items, but not entered. (Other kinds of items are not asked: on an
    /// overlay, files of one directory may lie on several devices.)
    pub one_file_system: bool,
    /// Of a directory marked by a `CACHEDIR.TAG` only that file is an item.
    pub exclude_caches: bool,
    /// Everything else that is left out.
    pub filter: Filter,
    /// Bytes of names held at once, about; beyond it they are sorted in a temporary file.
    pub names_memory: usize,
    /// Folder for that file.
    pub temp_dir: PathBuf,
}

/// An open directory on the walk.
#[derive(Debug)]
pub struct DirHandle {
    /// The handle.
    pub fd: OwnedFd,
    root: Arc<Path>,
}

/// One item that was found. Keeps its directory open: bound how many are held.
#[derive(Clone, Debug)]
pub struct Found {
    /// Components joined by 0; empty for the root.
    pub key: Vec<u8>,
    /// Metadata: of directories as of when they were read, of others as of when they were found.
    pub meta: Meta,
    /// Where its content comes from.
    pub origin: Origin,
    /// Its name in its directory (of a root directory: `.`); empty for given content.
    pub name: OsString,
}

impl Found {
    /// Its path, for messages only: too long for system calls where the tree is deep.
    pub fn path(&self) -> PathBuf {
        match &self.origin {
            Origin::Directory(parent) => path_below(&parent.root, &self.key),
            Origin::Given(_) | Origin::Stream(_) => path_below(Path::new(""), &self.key),
        }
    }
}

/// An item, or what is left of a directory, that could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Key of the item.
    pub key: Vec<u8>,
    /// Its path, for messages only.
    pub path: PathBuf,
    /// True: `key` is in order and comes only here. False: the directory `key` was handed out earlier, and it is
    /// something in it (or the rest of it) that could not be read: no item to record.
    pub is_item: bool,
    /// Whether it is a directory, as far as is known.
    pub is_directory: bool,
    /// Its metadata, if that could be read.
    pub meta: Option<Meta>,
    /// Why.
    pub error: SourceError,
}

/// What a walk comes across.
#[derive(Debug)]
pub enum Walked {
    /// An item; a directory could be read as well.
    Item(Found),
    /// Something that could not be read. The walk goes on.
    Problem(Box<Unreadable>),
}

/// A walk on its way.
pub struct Walk {
    root: Arc<Path>,
    settings: WalkSettings,
    markers: Vec<Marker>,
    by_pattern: bool,
    device: u64,
    first: Option<(Meta, Arc<DirHandle>, OsString)>,
    stack: Vec<Frame>,
    /// The directory left last, whose `..` is the way back to one that was closed meanwhile.
    below: Option<Arc<DirHandle>>,
    key: Vec<u8>,
    path: Vec<u8>,
    name: Vec<u8>,
    names_held: usize,
    vanished: u64,
}

struct Frame {
    handle: Option<Arc<DirHandle>>,
    device: u64,
    inode: u64,
    key_length: usize,
    path_length: usize,
    names: SortedNames,
    names_held: usize,
    verdict: Verdict,
}

/// What became of entering a directory.
enum Entered {
    Yes(Meta, Arc<DirHandle>),
    NotWanted(Meta),
}

impl Walk {
    /// Starts at `root`, an absolute path. A root that is a symbolic link is stored as the link, unless the path ends in
    /// `/`, `/.` or `/..`; links on the way to it are followed. Fails when the root is not there.
    pub fn open(root: &Path, settings: WalkSettings) -> Result<Walk, SourceError> {
        let bytes = root.as_os_str().as_bytes();
        let failed = |e: Errno| SourceError::io("opening", root, e);
        let last = bytes.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let shared: Arc<Path> = Arc::from(root);
        let (parent, name) = match last {
            b"" | b"." | b".." => (open_long(bytes).map_err(failed)?, &b"."[..]),
            _ => (open_long(&bytes[..bytes.len() - last.len()]).map_err(failed)?, last),
        };
        let parent = Arc::new(DirHandle { fd: parent, root: Arc::clone(&shared) });
        let meta = stat(&parent, name).map_err(failed)?;
        let markers = settings.filter.markers().iter().cloned().chain(settings.exclude_caches.then(Marker::cache)).collect();
        let by_pattern = !settings.filter.has_no_patterns();
        let path = bytes[..bytes.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1)].to_vec();
        Ok(Walk {
            root: shared,
            settings,
            markers,
            by_pattern,
            device: meta.device_id,
            first: Some((meta, parent, OsStr::from_bytes(name).to_owned())),
            stack: Vec::new(),
            below: None,
            key: Vec::new(),
            path,
            name: Vec::new(),
            names_held: 0,
            vanished: 0,
        })
    }

    /// The path of a key, for messages only.
    pub fn path_of(&self, key: &[u8]) -> PathBuf {
        path_below(&self.root, key)
    }

    fn step(&mut self) -> Option<Walked> {
        if let Some((meta, parent, name)) = self.first.take() {
            return Some(self.start(meta, parent, name));
        }
        loop {
            let top = self.stack.last_mut()?;
            self.key.truncate(top.key_length);
            self.path.truncate(top.path_length);
            let handle = match &top.handle {
                Some(handle) => Arc::clone(handle),
                None => match self.reopen() {
                    Ok(handle) => handle,
                    Err(error) => return Some(self.give_up(error)),
                },
            };
            let top = self.stack.last_mut()?;
            match top.names.next(&mut self.name) {
                Ok(true) => {}
                Ok(false) => {
                    self.leave();
                    continue;
                }
                Err(e) => {
                    let error = SourceError::io("reading the sorted names of", &self.path_of(&self.key), e);
                    return Some(self.give_up(error));
                }
            }
            if let Some(walked) = self.look(handle) {
                return Some(walked);
            }
        }
    }

    fn start(&mut self, meta: Meta, parent: Arc<DirHandle>, name: OsString) -> Walked {
        let item = |meta, parent, name| Walked::Item(Found { key: Vec::new(), meta, origin: Origin::Directory(parent), name });
        if meta.kind != Kind::Directory {
            return item(meta, parent, name);
        }
        match self.enter(&parent, name.as_bytes(), meta, Verdict::default()) {
            Ok(Entered::Yes(meta, handle)) => {
                self.device = meta.device_id;
                item(meta, handle, OsString::from("."))
            }
            Ok(Entered::NotWanted(meta)) => item(meta, parent, name),
            Err(error) => self.problem(Some(meta), error),
        }
    }

    /// Looks at `self.name` in the directory on top; `None` when it is left out or gone.
    fn look(&mut self, handle: Arc<DirHandle>) -> Option<Walked> {
        let top = self.stack.last()?;
        let mut verdict = top.verdict;
        if top.key_length > 0 {
            self.key.push(0);
        }
        self.key.extend_from_slice(&self.name);
        if self.by_pattern {
            self.path.push(b'/');
            self.path.extend_from_slice(&self.name);
            verdict = self.settings.filter.judge(verdict, &self.path);
            if self.settings.filter.leaves_out(verdict) {
                return None;
            }
        }
        if self.key.len() > LONGEST_KEY {
            let path = self.path_of(&self.key);
            let key = self.key[..top.key_length].to_vec();
            let error = SourceError::LongPath { path: path.clone(), limit: LONGEST_KEY };
            let unreadable = Unreadable { key, path, is_item: false, is_directory: false, meta: None, error };
            return Some(Walked::Problem(Box::new(unreadable)));
        }
        let name = std::mem::take(&mut self.name);
        let walked = self.look_closely(handle, &name, verdict);
        self.name = name;
        walked
    }

    fn look_closely(&mut self, handle: Arc<DirHandle>, name: &[u8], verdict: Verdict) -> Option<Walked> {
        for _ in 0..LOOKS {
            let meta = match stat(&handle, name) {
                Ok(meta) => meta,
                Err(Errno::NOENT) => {
                    self.vanished += 1;
                    return None;
                }
                Err(e) => {
                    let error = SourceError::io("reading the metadata of", &self.path_of(&self.key), e);
                    return Some(self.problem(None, error));
                }
            };
            if meta.kind == Kind::File && self.settings.filter.leaves_out_size(meta.size) {
                return None;
            }
            let meta = if meta.kind != Kind::Directory {
                meta
            } else {
                match self.enter(&handle, name, meta, verdict) {
                    Ok(Entered::Yes(meta, _) | Entered::NotWanted(meta)) => meta,
                    Err(SourceError::Vanished { .. }) => {
                        self.vanished += 1;
                        return None;
                    }
                    Err(SourceError::Replaced { .. }) => continue,
                    Err(error) => return Some(self.problem(Some(meta), error)),
                }
            };
            let name = OsString::from_vec(name.to_vec());
            return Some(Walked::Item(Found { key: self.key.clone(), meta, origin: Origin::Directory(handle), name }));
        }
        let error = SourceError::Replaced { path: self.path_of(&self.key) };
        Some(self.problem(None, error))
    }

    /// Opens a directory, reads its names and puts it on top; `self.key` is its key.
    fn enter(&mut self, parent: &DirHandle, name: &[u8], meta: Meta, verdict: Verdict) -> Result<Entered, SourceError> {
        let elsewhere = |w: &Walk, m: &Meta| w.settings.one_file_system && m.device_id != w.device && !w.stack.is_empty();
        if elsewhere(self, &meta) {
            return Ok(Entered::NotWanted(meta));
        }
        let failed = |w: &Walk, doing, e: std::io::Error| SourceError::io(doing, &w.path_of(&w.key), e);
        let fd = match open_quietly(&parent.fd, name, DIRECTORY | OFlags::NOFOLLOW, meta.uid) {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(SourceError::Replaced { path: self.path_of(&self.key) }),
            Err(e) => return Err(failed(self, "opening the directory", e.into())),
        };
        // The open may have mounted something: what counts is what is open.
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed(self, "reading the metadata of", e.into()))?;
        let meta = Meta::from_stat(&stat);
        if elsewhere(self, &meta) {
            return Ok(Entered::NotWanted(meta));
        }
        if self.stack.iter().any(|f| f.inode == meta.inode && f.device == meta.device_id) {
            return Err(SourceError::Loop { path: self.path_of(&self.key) });
        }
        let names = match self.markers.iter().find(|m| holds(&fd, m)) {
            Some(marker) => SortedNames::one(&marker.name),
            None => self.names_in(&fd).map_err(|e| failed(self, "reading the directory", e))?,
        };
        let handle = Arc::new(DirHandle { fd, root: Arc::clone(&self.root) });
        let names_held = names.memory();
        self.names_held += names_held;
        self.stack.push(Frame {
            handle: Some(Arc::clone(&handle)),
            device: meta.device_id,
            inode: meta.inode,
            key_length: self.key.len(),
            path_length: self.path.len(),
            names,
            names_held,
            verdict,
        });
        // Only the deepest are open, and the root, from which each can be found again.
        if let Some(far) = self.stack.len().checked_sub(MOST_OPEN + 1).filter(|i| *i > 0) {
            self.stack[far].handle = None;
        }
        Ok(Entered::Yes(meta, handle))
    }

    fn names_in(&self, fd: &OwnedFd) -> std::io::Result<SortedNames> {
        // Directories above hold theirs meanwhile: they share the memory, and each gets some.
        let memory = self.settings.names_memory;
        let mut names = Collector::new(memory.saturating_sub(self.names_held).max(memory / 8), &self.settings.temp_dir);
        each(fd, &mut |name| names.add(name))?;
        names.finish()
    }

    fn leave(&mut self) {
        if let Some(frame) = self.stack.pop() {
            self.names_held -= frame.names_held;
            self.below = frame.handle;
        }
    }

    /// Opens the directory on top again: it must be the one it was.
    fn reopen(&mut self) -> Result<Arc<DirHandle>, SourceError> {
        let path = self.path_of(&self.key);
        let failed = |e| SourceError::io("opening the directory", &path, e);
        let below = self.below.take();
        let (Some(last), flags) = (self.stack.len().checked_sub(1), DIRECTORY | OFlags::NOFOLLOW) else {
            return Err(SourceError::Replaced { path });
        };
        let is = |frame: &Frame, fd: &OwnedFd| {
            rustix::fs::fstat(fd).is_ok_and(|s| {
                let meta = Meta::from_stat(&s);
                (meta.device_id, meta.inode) == (frame.device, frame.inode)
            })
        };
        let up = below.and_then(|b| rustix::fs::openat(&b.fd, "..", flags, Mode::empty()).ok());
        let fd = match up.filter(|fd| is(&self.stack[last], fd)) {
            Some(fd) => fd,
            None => {
                let start = self.stack.iter().rposition(|f| f.handle.is_some());
                let mut fd: Option<OwnedFd> = None;
                for i in start.map_or(0, |s| s + 1)..=last {
                    let name = self.key[..self.stack[i].key_length].rsplit(|b| *b == 0).next().unwrap_or_default();
                    let above = self.stack[..i].last().and_then(|f| f.handle.as_deref());
                    let next = match (&fd, above) {
                        (Some(fd), _) => rustix::fs::openat(fd, name, flags, Mode::empty()),
                        (None, Some(above)) => rustix::fs::openat(&above.fd, name, flags, Mode::empty()),
                        (None, None) => return Err(SourceError::Replaced { path }),
                    };
                    let next = next.map_err(failed)?;
                    if !is(&self.stack[i], &next) {
                        return Err(SourceError::Replaced { path });
                    }
                    fd = Some(next);
                }
                fd.ok_or(SourceError::Replaced { path })?
            }
        };
        let handle = Arc::new(DirHandle { fd, root: Arc::clone(&self.root) });
        self.stack[last].handle = Some(Arc::clone(&handle));
        Ok(handle)
    }

    /// Leaves the directory on top, `self.key`, with some of its contents unread.
    fn give_up(&mut self, error: SourceError) -> Walked {
        self.leave();
        let (key, path) = (self.key.clone(), self.path_of(&self.key));
        Walked::Problem(Box::new(Unreadable { key, path, is_item: false, is_directory: true, meta: None, error }))
    }

    fn problem(&self, meta: Option<Meta>, error: SourceError) -> Walked {
        let is_directory = meta.is_some_and(|m| m.kind == Kind::Directory);
        let (key, path) = (self.key.clone(), self.path_of(&self.key));
        Walked::Problem(Box::new(Unreadable { key, path, is_item: true, is_directory, meta, error }))
    }
}

impl Source for Walk {
    fn next(&mut self) -> Option<Walked> {
        self.step()
    }

    fn vanished(&self) -> u64 {
        self.vanished
    }
}

fn stat(handle: &DirHandle, name: &[u8]) -> rustix::io::Result<Meta> {
    #[cfg(target_os = "linux")]
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    #[cfg(not(target_os = "linux"))]
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statat(&handle.fd, name, flags).map(|s| Meta::from_stat(&s))
}

/// Whether the directory holds the marker as a regular file. One that cannot be read marks nothing.
fn holds(directory: &OwnedFd, marker: &Marker) -> bool {
    let is_file = |s: &rustix::fs::Stat| Meta::from_stat(s).kind == Kind::File;
    let found = rustix::fs::statat(directory, marker.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
    if !found.is_ok_and(|s| is_file(&s)) {
        return false;
    }
    if marker.header.is_empty() {
        return true;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(directory, marker.name.as_slice(), flags, Mode::empty()) else { return false };
    let mut start = vec![0; marker.header.len()];
    std::fs::File::from(fd).read_exact_at(&mut start, 0).is_ok() && start == marker.header
}

/// Opens a directory whose path may be longer than PATH_MAX. Links on the way are followed.
fn open_long(path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let (mut at, mut rest) = match path.first() {
        Some(b'/') => (rustix::fs::open("/", DIRECTORY, Mode::empty())?, &path[1..]),
        _ => (rustix::fs::open(".", DIRECTORY, Mode::empty())?, path),
    };
    loop {
        rest = &rest[rest.iter().position(|b| *b != b'/').unwrap_or(rest.len())..];
        if rest.is_empty() {
            return Ok(at);
        }
        let cut = if rest.len() <= PATH_PIECE { None } else { rest[..PATH_PIECE].iter().rposition(|b| *b == b'/') };
        let (piece, after) = rest.split_at(cut.unwrap_or(rest.len()));
        at = rustix::fs::openat(&at, piece, DIRECTORY, Mode::empty())?;
        rest = after;
    }
}

fn path_below(root: &Path, key: &[u8]) -> PathBuf {
    let mut path = root.as_os_str().as_bytes().to_vec();
    if !key.is_empty() && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend(key.iter().map(|b| if *b == 0 { b'/' } else { *b }));
    PathBuf::from(OsString::from_vec(path))
}
