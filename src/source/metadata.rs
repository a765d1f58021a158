//! What the file system says about one item, and the names of its owners.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use rustix::fs::{FileType, Stat};

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// A point in time as the file system keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FileTime {
    /// Seconds since the Unix epoch; negative before.
    pub seconds: i64,
    /// Nanoseconds within that second, 0 to 999,999,999.
    pub nanos: u32,
}

/// Metadata of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Length of a file in bytes, holes included.
    pub size: u64,
    /// Bytes the file system says it has allocated; less than `size` means holes (or compression).
    pub allocated: u64,
    /// Permission and special bits, `07777`.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: FileTime,
    /// Time of last status change.
    pub ctime: FileTime,
    /// Inode number.
    pub inode: u64,
    /// Number of the device it lies on.
    pub device_id: u64,
    /// How many names it has.
    pub nlink: u64,
    /// Of a device: major and minor number; else zeros.
    pub rdev: (u32, u32),
}

impl Meta {
    /// Reads a `stat` answer. An unknown type (none is left on Linux and macOS) counts as a socket: kept, never opened.
    // The fields' widths differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    pub fn from_stat(stat: &Stat) -> Meta {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => Kind::Socket,
        };
        let rdev = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                (rustix::fs::major(stat.st_rdev as rustix::fs::Dev), rustix::fs::minor(stat.st_rdev as rustix::fs::Dev))
            }
            _ => (0, 0),
        };
        Meta {
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mode: u32::from(stat.st_mode) & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: FileTime { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: FileTime { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            inode: stat.st_ino as u64,
            device_id: stat.st_dev as u64,
            nlink: stat.st_nlink as u64,
            rdev,
        }
    }

    /// Whether both say the same item with the same content, as far as a file system can tell.
    pub fn same_content(&self, other: &Meta) -> bool {
        self.same_item(other) && self.size == other.size && self.mtime == other.mtime && self.ctime == other.ctime
    }

    /// Whether both are the same object of the same kind.
    pub fn same_item(&self, other: &Meta) -> bool {
        self.kind == other.kind && self.inode == other.inode && self.device_id == other.device_id
    }
}

/// Names of users and groups, each asked for once.
#[derive(Debug, Default)]
pub struct OwnerNames {
    users: BTreeMap<u32, Bytes>,
    groups: BTreeMap<u32, Bytes>,
}

impl OwnerNames {
    /// Knows nobody yet.
    pub fn new() -> OwnerNames {
        OwnerNames::default()
    }

    /// The user's name, empty if the number has none.
    pub fn user(&mut self, uid: u32) -> Bytes {
        let name = || uzers::get_user_by_uid(uid).map_or(Bytes::new(), |u| Bytes::copy_from_slice(u.name().as_bytes()));
        self.users.entry(uid).or_insert_with(name).clone()
    }

    /// The group's name, empty if the number has none.
    pub fn group(&mut self, gid: u32) -> Bytes {
        let name = || uzers::get_group_by_gid(gid).map_or(Bytes::new(), |g| Bytes::copy_from_slice(g.name().as_bytes()));
        self.groups.entry(gid).or_insert_with(name).clone()
    }
}

/// Raises the soft limit of open files to the hard one, as far as the system allows; what it is afterwards.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// What macOS takes at most whatever its hard limit says.
    const MACOS_MOST: u64 = 10_240;
    let limit = getrlimit(Resource::Nofile);
    let mut wanted = limit.maximum.unwrap_or(1 << 20);
    if cfg!(target_os = "macos") {
        wanted = wanted.min(MACOS_MOST);
    }
    let soft = limit.current.unwrap_or(u64::MAX);
    if soft < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok() {
        return wanted;
    }
    soft
}
