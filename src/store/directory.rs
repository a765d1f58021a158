//! A store in a local directory: objects are files that appear whole, once, and survive a crash.
//!
//! An object is written to `tmp/`, synced, then linked to its name: the link fails if the name exists, for every
//! process and machine on the file system alike. Everything is reached through a handle on the root, so that a
//! file system that goes away is an error and never an empty directory to be filled anew.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, RenameFlags, Stat};
use rustix::io::Errno;

use crate::clock::{Env, Time};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::{ObjectName, RESERVED};
use crate::store::{ObjectInfo, Store, admit, within};

/// Unfinished objects older than this are what a crash left, in nanoseconds: 7 days.
const LEFT_BEHIND: i64 = 7 * 24 * 3600 * 1_000_000_000;
/// Objects looked at in one job of a listing.
const PAGE: usize = 256;

/// A store in a directory of a local or shared file system. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryStore {
    env: Env,
    place: Arc<Place>,
}

struct Place {
    label: String,
    root: PathBuf,
    handle: OwnedFd,
    // Permissions beyond the owner's follow the root: a store that a group shares stays shared.
    group: RawMode,
    // Folders that are there and whose own names are synced.
    folders: Mutex<BTreeSet<String>>,
    cleaned: AtomicBool,
    no_links: AtomicBool,
}

impl DirectoryStore {
    /// Opens the directory `root` as the store `label`; with `create`, makes it and what is missing above it.
    /// `NotFound` if it is missing. Waits for the file system.
    pub fn open(env: &Env, label: &str, root: PathBuf, create: bool) -> Result<DirectoryStore, StoreError> {
        let fault = |e: Errno| {
            let error = StoreError::new(classed(e), label, format!("open {}", root.display()));
            if e == Errno::NOENT { error.because("the store's directory is missing") } else { error.because(e) }
        };
        if create {
            make_root(&root).map_err(fault)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&root, flags, Mode::empty()).map_err(fault)?;
        let group = rustix::fs::fstat(&handle).map_err(fault)?.st_mode & 0o070;
        let place = Place {
            label: label.to_owned(), root, handle, group, folders: Mutex::default(), cleaned: AtomicBool::new(false),
            no_links: AtomicBool::new(false),
        };
        Ok(DirectoryStore { env: env.clone(), place: Arc::new(place) })
    }

    async fn blocking<T: Send + 'static>(&self, job: impl FnOnce(&Place) -> T + Send + 'static) -> T {
        let place = Arc::clone(&self.place);
        self.env.blocking(move || job(&place)).await
    }
}

/// Makes `root` and what is missing above it, each new name synced into its parent.
fn make_root(root: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdir(root, Mode::from_raw_mode(0o700)) {
        Err(Errno::NOENT) => {
            make_root(root.parent().ok_or(Errno::NOENT)?)?;
            return make_root(root);
        }
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_folder(rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn sync_folder(folder: OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(folder) {
        // Some network file systems cannot sync a folder: they send its changes at once.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        synced => synced,
    }
}

fn classed(e: Errno) -> StoreErrorKind {
    match e {
        Errno::NOENT => StoreErrorKind::NotFound,
        Errno::EXIST => StoreErrorKind::AlreadyExists,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StoreErrorKind::Full,
        Errno::TIMEDOUT => StoreErrorKind::TimedOut,
        // The disk, the server or this machine is in trouble, which may pass.
        Errno::IO | Errno::STALE | Errno::NODEV | Errno::NXIO | Errno::NOTCONN | Errno::MFILE | Errno::NFILE
        | Errno::NOMEM | Errno::BUSY | Errno::AGAIN | Errno::INTR => StoreErrorKind::Unavailable,
        Errno::ISDIR | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL | Errno::XDEV
        | Errno::OPNOTSUPP => StoreErrorKind::Invalid,
        _ => StoreErrorKind::Other,
    }
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

// The fields' widths differ between systems.
#[allow(clippy::unnecessary_cast)]
fn modified(stat: &Stat) -> Time {
    Time((stat.st_mtime as i64).saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64))
}

impl Place {
    fn fault(&self, verb: &str, name: &str, e: Errno) -> StoreError {
        let error = StoreError::new(classed(e), &self.label, format!("{verb} {name}"));
        match e {
            Errno::NOENT if self.is_gone() => error.because(self.missing()),
            // Said by the class.
            Errno::NOENT | Errno::EXIST => error,
            Errno::ISDIR => error.because("a folder stands in its place"),
            Errno::LOOP => error.because("a symbolic link stands in its place"),
            e => error.because(e),
        }
    }

    fn missing(&self) -> String {
        format!("the store's directory {} is missing", self.root.display())
    }

    /// Whether the root that was opened is no longer what its path leads to.
    fn is_gone(&self) -> bool {
        match (rustix::fs::stat(&self.root), rustix::fs::fstat(&self.handle)) {
            (Ok(now), Ok(then)) => (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino),
            (Err(e), _) => matches!(e, Errno::NOENT | Errno::NOTDIR),
            (_, Err(_)) => false,
        }
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.handle, path, flags, Mode::from_raw_mode((0o600 | self.group & 0o060)))
    }

    fn stat_at(&self, path: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.handle, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn make_folder(&self, path: &str) -> Result<(), Errno> {
        match rustix::fs::mkdirat(&self.handle, path, Mode::from_raw_mode(0o700 | self.group)) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    fn sync_folder(&self, path: &str) -> Result<(), Errno> {
        sync_folder(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    fn folders(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the folder `path` is there and will be after a crash.
    fn ensure_folder(&self, path: &str) -> Result<(), Errno> {
        if path.is_empty() || self.folders().contains(path) {
            return Ok(());
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.ensure_folder(parent)?;
        self.make_folder(path)?;
        // Also when it was there: whoever made it may not have synced it yet.
        self.sync_folder(parent)?;
        self.folders().insert(path.to_owned());
        Ok(())
    }

    fn put(&self, name: &ObjectName, bytes: &[u8], temporary: &str) -> Result<(), StoreError> {
        let fault = |e| self.fault("put", name.as_str(), e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let opened = self.open_at(temporary, flags).or_else(|e| {
            if e != Errno::NOENT {
                return Err(e);
            }
            self.make_folder(RESERVED)?;
            self.open_at(temporary, flags)
        });
        // A random name that is taken (a seed that comes again after a crash) says nothing about the object.
        let opened = opened.map_err(|e| fault(if e == Errno::EXIST { Errno::AGAIN } else { e }));
        let mut file = File::from(opened?);
        let done = file.write_all(bytes).and_then(|()| file.sync_data()).map_err(|e| fault(errno(&e)));
        let done = done.and_then(|()| self.publish(temporary, name, &file).map_err(|e| match e {
            Errno::NOSYS => self.fault("put", name.as_str(), Errno::INVAL).because("cannot create exclusively"),
            e => fault(e),
        }));
        // What stays behind here is removed after days: it is never an object.
        let _ = rustix::fs::unlinkat(&self.handle, temporary, AtFlags::empty());
        if !self.cleaned.swap(true, Relaxed)
            && let Ok(now) = file.metadata()
        {
            let _ = self.clean(now.mtime().saturating_mul(1_000_000_000));
        }
        done
    }

    /// Gives the finished file its name, if nothing has that name, and makes that last.
    fn publish(&self, temporary: &str, name: &ObjectName, file: &File) -> Result<(), Errno> {
        self.ensure_folder(name.folder())?;
        let mut linked = self.link(temporary, name.as_str());
        if linked == Err(Errno::NOENT) {
            // Somebody removed a folder that was there.
            self.folders().clear();
            self.ensure_folder(name.folder())?;
            linked = self.link(temporary, name.as_str());
        }
        if linked == Err(Errno::EXIST) {
            let there = self.stat_at(name.as_str())?;
            let mine = file.metadata().map_err(|e| errno(&e))?;
            // A network file system that lost its answer tells of our own link as if it were another's.
            #[allow(clippy::unnecessary_cast)]
            let same = (there.st_dev as u64, there.st_ino as u64) == (mine.dev(), mine.ino());
            if same {
                linked = Ok(());
            } else if kind_of(&there) == FileType::Directory {
                return Err(Errno::ISDIR);
            }
        }
        // Also when the name was taken: whoever reads the object and finds it to be its own relies on it.
        if matches!(linked, Ok(()) | Err(Errno::EXIST)) {
            self.sync_folder(name.folder())?;
        }
        linked
    }

    /// Moves `temporary` to `name` without overwriting. `NOSYS` if the file system has no way to do so.
    fn link(&self, temporary: &str, name: &str) -> Result<(), Errno> {
        if !self.no_links.load(Relaxed) {
            match rustix::fs::linkat(&self.handle, temporary, &self.handle, name, AtFlags::empty()) {
                // How file systems without hard links say so.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
                linked => return linked,
            }
        }
        match rustix::fs::renameat_with(&self.handle, temporary, &self.handle, name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Err(Errno::NOSYS),
            Ok(()) => {
                self.no_links.store(true, Relaxed);
                Ok(())
            }
            renamed => renamed,
        }
    }

    /// Removes unfinished objects that were left behind long before `now`, the store's own time in nanoseconds.
    fn clean(&self, now: i64) -> Result<(), Errno> {
        for entry in Dir::new(self.open_at(RESERVED, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let path = format!("{RESERVED}/{name}");
            let Ok(stat) = self.stat_at(&path) else { continue };
            if kind_of(&stat) == FileType::RegularFile && modified(&stat).0 < now.saturating_sub(LEFT_BEHIND) {
                let _ = rustix::fs::unlinkat(&self.handle, &path, AtFlags::empty());
            }
        }
        Ok(())
    }

    fn get(&self, name: &ObjectName, range: Option<&Range<u64>>) -> Result<Bytes, StoreError> {
        let fault = |e| self.fault("get", name.as_str(), e);
        let absent = |e| if e == Errno::NOTDIR { Errno::NOENT } else { e };
        // Without waiting: a FIFO planted here must not hold the reader.
        let opened = self.open_at(name.as_str(), OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| fault(absent(e)))?;
        let mut file = File::from(opened);
        let about = file.metadata().map_err(|e| fault(errno(&e)))?;
        if !about.is_file() {
            return Err(fault(if about.is_dir() { Errno::ISDIR } else { Errno::INVAL }));
        }
        let (start, length) = within(&self.label, name, range, about.len())?;
        let mut bytes = Vec::with_capacity(length);
        file.seek(SeekFrom::Start(start)).map_err(|e| fault(errno(&e)))?;
        file.take(length as u64).read_to_end(&mut bytes).map_err(|e| fault(errno(&e)))?;
        if bytes.len() != length {
            let cause = format!("{} bytes came and {length} were to come", bytes.len());
            return Err(StoreError::new(StoreErrorKind::Corrupt, &self.label, format!("get {name}")).because(cause));
        }
        Ok(bytes.into())
    }

    fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>, StoreError> {
        let fault = |e| self.fault("stat", name.as_str(), e);
        match self.stat_at(name.as_str()) {
            Ok(stat) => match kind_of(&stat) {
                FileType::RegularFile => Ok(Some(info(name.clone(), &stat))),
                FileType::Directory => Err(fault(Errno::ISDIR)),
                FileType::Symlink => Err(fault(Errno::LOOP)),
                _ => Err(fault(Errno::INVAL)),
            },
            Err(Errno::NOENT) if self.is_gone() => Err(fault(Errno::NOENT)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(fault(e)),
        }
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.handle, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOTDIR) => Ok(()),
            Err(Errno::NOENT) if !self.is_gone() => Ok(()),
            Err(e) => Err(self.fault("delete", name.as_str(), e)),
        }
    }

    /// The names in `folder` (empty, or closed by `/`) that lead to objects under `prefix`, a folder's closed by `/`.
    fn entries(&self, folder: &str, prefix: &str) -> Result<Vec<String>, Errno> {
        let opened = match self.open_at(folder.trim_end_matches('/'), OFlags::RDONLY | OFlags::DIRECTORY) {
            // Not there (any more), or no folder: nothing in it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.is_gone() => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut entries = Vec::new();
        for entry in Dir::new(opened)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let path = format!("{folder}{name}");
            if ObjectName::new(&path).is_err() {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.stat_at(&path).map_or(FileType::Unknown, |stat| kind_of(&stat)),
                kind => kind,
            };
            match kind {
                FileType::RegularFile if path.starts_with(prefix) => entries.push(name.to_owned()),
                FileType::Directory if path.starts_with(prefix) || prefix.starts_with(&format!("{path}/")) => {
                    entries.push(format!("{name}/"));
                }
                _ => {}
            }
        }
        // With the closing slash a folder sorts where the names in it do.
        entries.sort_unstable();
        Ok(entries)
    }
}

fn info(name: ObjectName, stat: &Stat) -> ObjectInfo {
    ObjectInfo { name, size: u64::try_from(stat.st_size).unwrap_or(0), modified: modified(stat) }
}

/// A listing under way: one level per open folder.
struct Walk {
    prefix: String,
    levels: Vec<(String, std::vec::IntoIter<String>)>,
    begun: bool,
}

impl Walk {
    fn fault(&self, place: &Place, e: Errno) -> StoreError {
        place.fault("list", &self.prefix, e)
    }

    fn enter(&mut self, place: &Place, folder: String) -> Result<(), StoreError> {
        let entries = place.entries(&folder, &self.prefix).map_err(|e| self.fault(place, e))?;
        self.levels.push((folder, entries.into_iter()));
        Ok(())
    }

    /// The next objects in order, none at the end.
    fn page(&mut self, place: &Place) -> Result<VecDeque<ObjectInfo>, StoreError> {
        if !self.begun {
            self.begun = true;
            let folder = self.prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            match ObjectName::new(folder) {
                Ok(folder) => self.enter(place, format!("{folder}/"))?,
                Err(_) if folder.is_empty() && !self.prefix.starts_with('/') => self.enter(place, String::new())?,
                // No object's name can begin like this.
                Err(_) => return Ok(VecDeque::new()),
            }
        }
        let mut page = VecDeque::new();
        while page.len() < PAGE
            && let Some((folder, entries)) = self.levels.last_mut()
        {
            let Some(entry) = entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = format!("{folder}{entry}");
            if path.ends_with('/') {
                self.enter(place, path)?;
                continue;
            }
            let Ok(name) = ObjectName::new(&path) else { continue };
            match place.stat_at(&path) {
                Ok(stat) if kind_of(&stat) == FileType::RegularFile => page.push_back(info(name, &stat)),
                // Removed or replaced since the folder was read.
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(self.fault(place, e)),
            }
        }
        Ok(page)
    }
}

impl Store for DirectoryStore {
    fn label(&self) -> &str {
        &self.place.label
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            admit(&self.place.label, name, bytes.len())?;
            let temporary = format!("{RESERVED}/{}", hex::encode(self.env.random::<16>()));
            let name = name.clone();
            self.blocking(move |place| place.put(&name, &bytes, &temporary)).await
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let name = name.clone();
        Box::pin(self.blocking(move |place| place.get(&name, range.as_ref())))
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        let name = name.clone();
        Box::pin(self.blocking(move |place| place.stat(&name)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let walk = Walk { prefix: prefix.to_owned(), levels: Vec::new(), begun: false };
        stream::unfold((Some(walk), VecDeque::new()), move |(mut walk, mut page)| async move {
            if page.is_empty() {
                let mut under_way = walk.take()?;
                let (result, under_way) = self.blocking(move |place| (under_way.page(place), under_way)).await;
                match result {
                    Ok(next) => (page, walk) = (next, Some(under_way)),
                    // The walk is over: what comes after a fault would not be complete.
                    Err(e) => return Some((Err(e), (None, VecDeque::new()))),
                }
            }
            page.pop_front().map(|info| (Ok(info), (walk, page)))
        })
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        let names = names.to_vec();
        Box::pin(self.blocking(move |place| {
            names.into_iter().filter_map(|name| place.delete(&name).err().map(|e| (name, e))).collect()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File systems without hard links cannot be had in a test: the other way is taken by force.
    #[tokio::test]
    async fn without_links_a_rename_creates_exclusively() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::inline(1, Time(0));
        let store = DirectoryStore::open(&env, "here", folder.path().join("store"), true).unwrap();
        store.place.no_links.store(true, Relaxed);
        let name = ObjectName::new("log/1").unwrap();
        store.put(&name, Bytes::from_static(b"first")).await.unwrap();
        let again = store.put(&name, Bytes::from_static(b"second")).await.unwrap_err();
        assert_eq!(again.kind, StoreErrorKind::AlreadyExists);
        assert_eq!(store.get(&name, None).await.unwrap(), "first");
        assert_eq!(std::fs::read_dir(folder.path().join("store/tmp")).unwrap().count(), 0);
    }
}
