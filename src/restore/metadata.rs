//! Metadata put back: owner first (a change of owner clears special bits and capabilities), then extended attributes
//! and ACLs, then the mode, then the times. Only what differs is set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::PoisonError;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::format::entry::{Entry, EntryKind};
use crate::restore::target::{Outcome, Target, TargetError, stat};
use crate::source::attributes::{Attribute, proc_path, read_xattrs_at};
use crate::source::metadata::{FileTime, Kind, Meta};

/// An attribute that the target's own policy gives every file: never removed, only set.
const GIVEN_BY_POLICY: &[u8] = b"security.selinux";
const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;

/// A piece of metadata that could not be put back; everything else was.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path:?}")]
pub struct Warning {
    /// What was being set, the value included.
    pub doing: String,
    /// On what.
    pub path: PathBuf,
    /// The answer.
    pub source: io::Error,
}

/// What putting back metadata came to.
#[derive(Debug)]
pub struct Applied {
    /// Whether anything had to be set.
    pub outcome: Outcome,
    /// What could not be set.
    pub warnings: Vec<Warning>,
}

/// Numbers of users and groups by name, each asked for once; `None`: this system does not know the name.
#[derive(Debug, Default)]
pub struct OwnerIds {
    users: BTreeMap<Vec<u8>, Option<u32>>,
    groups: BTreeMap<Vec<u8>, Option<u32>>,
}

/// One item whose metadata is being set.
struct Item<'t> {
    target: &'t Target,
    key: &'t [u8],
    parent: &'t OwnedFd,
    name: &'t [u8],
    kind: Kind,
    /// A handle that opens nothing, and its path for the calls that take no handle.
    #[cfg(target_os = "linux")]
    by_handle: (OwnedFd, Vec<u8>),
    applied: Applied,
}

impl Target {
    /// Sets what differs from `entry` and `xattrs` (name, value) on what was restored at `key`; its kind must be the
    /// entry's. Of directories: after everything in them is done, else their times change again.
    pub fn metadata(&self, key: &[u8], entry: &Entry, xattrs: &[Attribute]) -> Result<Applied, TargetError> {
        let (parent, name) = self.place(key)?;
        let mut item = self.item(&parent, name, key)?;
        let now = item.meta()?;
        let wanted = match EntryKind::try_from(entry.kind) {
            Ok(EntryKind::File) => Some(Kind::File),
            Ok(EntryKind::Directory) => Some(Kind::Directory),
            Ok(EntryKind::Symlink) => Some(Kind::Symlink),
            Ok(EntryKind::Fifo) => Some(Kind::Fifo),
            Ok(EntryKind::Socket) => Some(Kind::Socket),
            Ok(EntryKind::CharDevice) => Some(Kind::CharDevice),
            Ok(EntryKind::BlockDevice) => Some(Kind::BlockDevice),
            Ok(EntryKind::Unknown) | Err(_) => None,
        };
        if wanted != Some(now.kind) {
            return Err(TargetError::Exchanged { path: self.path_of(key) });
        }
        if self.settings.owners {
            item.set_owner(entry, &now);
        }
        if self.settings.xattrs && cfg!(target_os = "linux") {
            item.set_xattrs(xattrs);
        }
        if now.kind != Kind::Symlink {
            item.set_mode(entry)?;
        }
        item.set_time(entry)?;
        Ok(item.applied)
    }

    fn item<'t>(&'t self, parent: &'t OwnedFd, name: &'t [u8], key: &'t [u8]) -> Result<Item<'t>, TargetError> {
        let applied = Applied { outcome: Outcome::Unchanged, warnings: Vec::new() };
        #[cfg(target_os = "linux")]
        {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| self.failed("opening", key, e))?;
            let kind = rustix::fs::fstat(&fd).map_err(|e| self.failed("looking at", key, e))?;
            let kind = Meta::from_stat(&kind).kind;
            // The handle of a link cannot be named: the calls would follow it. Its name in its directory can.
            let path = if kind == Kind::Symlink { proc_path(parent, name) } else { proc_path(&fd, b"") };
            Ok(Item { target: self, key, parent, name, kind, by_handle: (fd, path), applied })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let kind = stat(parent, name).map_err(|e| self.failed("looking at", key, e))?.kind;
            Ok(Item { target: self, key, parent, name, kind, applied })
        }
    }

    fn owner_of(&self, entry: &Entry) -> (u32, u32) {
        if self.settings.numeric_ids {
            return (entry.uid, entry.gid);
        }
        let mut known = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let OwnerIds { users, groups } = &mut *known;
        let user = |name: &[u8]| uzers::get_user_by_name(OsStr::from_bytes(name)).map(|u| u.uid());
        let group = |name: &[u8]| uzers::get_group_by_name(OsStr::from_bytes(name)).map(|g| g.gid());
        (by_name(users, &entry.user, user).unwrap_or(entry.uid), by_name(groups, &entry.group, group).unwrap_or(entry.gid))
    }
}

fn by_name(known: &mut BTreeMap<Vec<u8>, Option<u32>>, name: &[u8], ask: impl Fn(&[u8]) -> Option<u32>) -> Option<u32> {
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    if let Some(id) = known.get(name) {
        return *id;
    }
    let id = ask(name);
    known.insert(name.to_vec(), id);
    id
}

impl Item<'_> {
    fn meta(&self) -> Result<Meta, TargetError> {
        #[cfg(target_os = "linux")]
        let meta = rustix::fs::fstat(&self.by_handle.0).map(|s| Meta::from_stat(&s));
        #[cfg(not(target_os = "linux"))]
        let meta = stat(self.parent, self.name);
        meta.map_err(|e| self.target.failed("looking at", self.key, e))
    }

    fn done(&mut self, doing: impl FnOnce() -> String, result: rustix::io::Result<()>) {
        match result {
            Ok(()) => self.applied.outcome = Outcome::Written,
            Err(e) => self.warn(doing(), e.into()),
        }
    }

    fn warn(&mut self, doing: String, source: io::Error) {
        self.applied.warnings.push(Warning { doing, path: self.target.path_of(self.key), source });
    }

    fn set_owner(&mut self, entry: &Entry, now: &Meta) {
        let (uid, gid) = self.target.owner_of(entry);
        // All ones means "leave it" to the system.
        let user = (uid != now.uid && uid != u32::MAX).then(|| Uid::from_raw(uid));
        let group = (gid != now.gid && gid != u32::MAX).then(|| Gid::from_raw(gid));
        if user.is_none() && group.is_none() {
            return;
        }
        let chown = |item: &Self, user, group| {
            #[cfg(target_os = "linux")]
            return rustix::fs::chownat(&item.by_handle.0, "", user, group, AtFlags::EMPTY_PATH);
            #[cfg(not(target_os = "linux"))]
            rustix::fs::chownat(item.parent, item.name, user, group, AtFlags::SYMLINK_NOFOLLOW)
        };
        let mut result = chown(self, user, group);
        if result.is_err() && user.is_some() && group.is_some() && chown(self, None, group).is_ok() {
            // A user may give to the groups it is in, though to no other user.
            self.applied.outcome = Outcome::Written;
            result = chown(self, user, None);
        }
        self.done(|| format!("setting owner {uid} and group {gid} of"), result);
    }

    #[cfg(target_os = "linux")]
    fn set_xattrs(&mut self, wanted: &[Attribute]) {
        let path = self.by_handle.1.clone();
        let on_link = self.kind == Kind::Symlink;
        let there = match read_xattrs_at(&path, on_link, &|| self.target.path_of(self.key)) {
            Ok(there) => there.list,
            Err(e) if wanted.is_empty() => {
                return self.warn("comparing the extended attributes of".to_owned(), io::Error::other(e));
            }
            Err(_) => Vec::new(),
        };
        for (name, _) in there.iter().filter(|(n, _)| n != GIVEN_BY_POLICY && wanted.iter().all(|w| w.0 != *n)) {
            let removed = match on_link {
                true => rustix::fs::lremovexattr(path.as_slice(), name.as_slice()),
                false => rustix::fs::removexattr(path.as_slice(), name.as_slice()),
            };
            if removed != Err(Errno::NODATA) {
                self.done(|| format!("removing attribute {} from", name.escape_ascii()), removed);
            }
        }
        for (name, value) in wanted.iter().filter(|w| !there.contains(w)) {
            let set = match on_link {
                true => rustix::fs::lsetxattr(path.as_slice(), name.as_slice(), value, XattrFlags::empty()),
                false => rustix::fs::setxattr(path.as_slice(), name.as_slice(), value, XattrFlags::empty()),
            };
            self.done(|| format!("setting attribute {} of", name.escape_ascii()), set);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn set_xattrs(&mut self, _: &[Attribute]) {}

    fn set_mode(&mut self, entry: &Entry) -> Result<(), TargetError> {
        let now = self.meta()?;
        let mut mode = entry.mode & 0o7777;
        if now.kind != Kind::Directory {
            if !self.target.settings.special {
                mode &= !(SET_USER_ID | SET_GROUP_ID);
            }
            // Rights of an owner are not handed to another one.
            let (uid, gid) = self.target.owner_of(entry);
            let foreign = if now.uid == uid { 0 } else { SET_USER_ID } | if now.gid == gid { 0 } else { SET_GROUP_ID };
            if mode & foreign != 0 {
                self.warn(format!("setting mode {mode:o} (under another owner) of"), io::ErrorKind::PermissionDenied.into());
                mode &= !foreign;
            }
        }
        if now.mode == mode {
            return Ok(());
        }
        let raw = Mode::from_raw_mode(mode as rustix::fs::RawMode);
        #[cfg(target_os = "linux")]
        let result = rustix::fs::chmod(self.by_handle.1.as_slice(), raw);
        #[cfg(not(target_os = "linux"))]
        let result = rustix::fs::chmodat(self.parent, self.name, raw, AtFlags::SYMLINK_NOFOLLOW);
        self.done(|| format!("setting mode {mode:o} of"), result);
        // The system may drop special bits and say nothing.
        if result.is_ok() && mode & 0o7000 != 0 && self.meta()?.mode != mode {
            self.warn(format!("setting mode {mode:o} (special bits were dropped) of"), io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }

    fn set_time(&mut self, entry: &Entry) -> Result<(), TargetError> {
        let (seconds, nanos) = (entry.mtime, entry.mtime_nanos);
        if nanos > 999_999_999 {
            self.warn(format!("setting time {seconds} s {nanos} ns of"), io::ErrorKind::InvalidInput.into());
            return Ok(());
        }
        if self.meta()?.mtime == (FileTime { seconds, nanos }) {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
        };
        let result = rustix::fs::utimensat(self.parent, self.name, &times, AtFlags::SYMLINK_NOFOLLOW);
        self.done(|| format!("setting time {seconds}.{nanos:09} of"), result);
        // A file system with coarser or narrower times rounds and says nothing.
        let set = stat(self.parent, self.name).map_err(|e| self.target.failed("looking at", self.key, e))?.mtime;
        if result.is_ok() && set.seconds != seconds {
            self.warn(
                format!("setting time {seconds}.{nanos:09} (it became {}) of", set.seconds),
                io::ErrorKind::InvalidInput.into(),
            );
        }
        Ok(())
    }
}
