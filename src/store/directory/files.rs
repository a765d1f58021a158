//! The files of a directory store: every call to the system, all of them waiting for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, RenameFlags, Stat};
use rustix::io::Errno;

use crate::clock::Time;
use crate::store::buffers::body;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::{ObjectName, RESERVED};
use crate::store::{ObjectInfo, within};

/// Unfinished objects older than this are what a crash left, in nanoseconds: 7 days.
const LEFT_BEHIND: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// An open root and what is known about it.
pub(super) struct Files {
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
        Errno::IO
        | Errno::STALE
        | Errno::NODEV
        | Errno::NXIO
        | Errno::NOTCONN
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM
        | Errno::BUSY
        | Errno::AGAIN
        | Errno::INTR => StoreErrorKind::Unavailable,
        Errno::ISDIR | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL | Errno::XDEV | Errno::OPNOTSUPP => {
            StoreErrorKind::Invalid
        }
        _ => StoreErrorKind::Other,
    }
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

pub(super) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

// The fields' widths differ between systems.
#[allow(clippy::unnecessary_cast)]
fn modified(stat: &Stat) -> Time {
    Time((stat.st_mtime as i64).saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64))
}

/// Makes `root` and what is missing above it, each new name synced into its parent.
fn make_root(root: &Path) -> Result<(), Errno> {
    let make = || rustix::fs::mkdir(root, Mode::from_raw_mode(0o700));
    let mut made = make();
    if made == Err(Errno::NOENT) {
        make_root(root.parent().ok_or(Errno::NOENT)?)?;
        // Once: below a symbolic link that leads nowhere nothing can be made, however often it is tried.
        made = make();
    }
    match made {
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_folder(rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Files {
    /// The store's configured name.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The open root.
    pub(super) fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Opens `root`, after making it if `create` says so.
    pub(super) fn open(label: &str, root: PathBuf, create: bool) -> Result<Files, StoreError> {
        let fault = |e: Errno| {
            let error = StoreError::new(classed(e), label, format!("open {}", root.display()));
            let missing = "the store's directory is missing: is it mounted, and is its path right? (`holdfast init` makes it)";
            if e == Errno::NOENT { error.because(missing) } else { error.because(e) }
        };
        if create {
            make_root(&root).map_err(fault)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&root, flags, Mode::empty()).map_err(fault)?;
        let group = rustix::fs::fstat(&handle).map_err(fault)?.st_mode & 0o070;
        Ok(Files {
            label: label.to_owned(),
            root,
            handle,
            group,
            folders: Mutex::default(),
            cleaned: AtomicBool::new(false),
            no_links: AtomicBool::new(false),
        })
    }

    pub(super) fn fault(&self, verb: &str, name: &str, e: Errno) -> StoreError {
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
        rustix::fs::openat(&self.handle, path, flags, Mode::from_raw_mode(0o600 | self.group & 0o060))
    }

    pub(super) fn stat_at(&self, path: &str) -> Result<Stat, Errno> {
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

    pub(super) fn put(&self, name: &ObjectName, bytes: &[u8], temporary: &str) -> Result<(), StoreError> {
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
        let done = done.and_then(|()| {
            self.publish(temporary, name, &file).map_err(|e| match e {
                Errno::NOSYS => self.fault("put", name.as_str(), Errno::INVAL).because("cannot create exclusively"),
                e => fault(e),
            })
        });
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

    pub(super) fn get(&self, name: &ObjectName, range: Option<&Range<u64>>) -> Result<Bytes, StoreError> {
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
        file.seek(SeekFrom::Start(start)).map_err(|e| fault(errno(&e)))?;
        let mut body = body(length);
        let came = file.take(length as u64).read_to_end(body.bytes()).map_err(|e| fault(errno(&e)))?;
        if came != length {
            let cause = format!("{came} bytes came and {length} were to come");
            return Err(StoreError::new(StoreErrorKind::Corrupt, &self.label, format!("get {name}")).because(cause));
        }
        Ok(body.freeze())
    }

    pub(super) fn stat(&self, name: &ObjectName) -> Result<Option<ObjectInfo>, StoreError> {
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

    pub(super) fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.handle, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOTDIR) => Ok(()),
            Err(Errno::NOENT) if !self.is_gone() => Ok(()),
            Err(e) => Err(self.fault("delete", name.as_str(), e)),
        }
    }

    /// The names in `folder` (empty, or closed by `/`) that lead to objects under `prefix`, a folder's closed by `/`.
    pub(super) fn entries(&self, folder: &str, prefix: &str) -> Result<Vec<String>, Errno> {
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

/// What a listing shows of an object.
pub(super) fn info(name: ObjectName, stat: &Stat) -> ObjectInfo {
    ObjectInfo { name, size: u64::try_from(stat.st_size).unwrap_or(0), modified: modified(stat) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use bytes::Bytes;
    use rustix::io::Errno;

    use super::classed;
    use crate::clock::{Env, Time};
    use crate::store::Store;
    use crate::store::directory::DirectoryStore;
    use crate::store::error::StoreErrorKind;
    use crate::store::name::ObjectName;

    #[test]
    fn errors_are_classed_by_what_to_do_next() {
        let table = [
            (StoreErrorKind::Full, vec![Errno::NOSPC, Errno::DQUOT]),
            (StoreErrorKind::Denied, vec![Errno::ACCESS, Errno::PERM, Errno::ROFS]),
            (StoreErrorKind::Unavailable, vec![Errno::IO, Errno::STALE, Errno::MFILE]),
            (StoreErrorKind::NotFound, vec![Errno::NOENT]),
            (StoreErrorKind::AlreadyExists, vec![Errno::EXIST]),
            (StoreErrorKind::Invalid, vec![Errno::ISDIR, Errno::NOTDIR, Errno::LOOP]),
        ];
        for (kind, errors) in table {
            for e in errors {
                assert_eq!(classed(e), kind, "{e}");
            }
        }
    }

    /// File systems without hard links cannot be had in a test: the other way is taken by force.
    #[tokio::test]
    async fn without_links_a_rename_creates_exclusively() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::inline(1, Time(0));
        let store = DirectoryStore::open(&env, "here", folder.path().join("store"), true).unwrap();
        store.files.no_links.store(true, Relaxed);
        let name = ObjectName::new("log/1").unwrap();
        store.put(&name, Bytes::from_static(b"first")).await.unwrap();
        let again = store.put(&name, Bytes::from_static(b"second")).await.unwrap_err();
        assert_eq!(again.kind, StoreErrorKind::AlreadyExists);
        assert_eq!(store.get(&name, None).await.unwrap(), "first");
        assert_eq!(std::fs::read_dir(folder.path().join("store/tmp")).unwrap().count(), 0);
    }
}
