//! What the system says about a directory, and what its file system can do, tried out with a file that is gone again.

use futures::future::BoxFuture;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::store::directory::DirectoryStore;
use crate::store::directory::files::Files;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::inspect::{DirectoryFacts, Facts, Inspect, Names, PlaceFacts, Site, Told, Trial};
use crate::store::name::RESERVED;
use crate::store::retry::Retrying;

impl Files {
    // The fields' widths differ between systems.
    #[allow(clippy::unnecessary_cast)]
    fn facts(&self, trial: Option<Result<Trial, String>>) -> Result<DirectoryFacts, StoreError> {
        let fault = |e: Errno| self.fault("stat", "the directory", e);
        let stat = rustix::fs::fstat(self.handle()).map_err(fault)?;
        let room = rustix::fs::fstatvfs(self.handle()).map_err(fault)?;
        Ok(DirectoryFacts {
            mode: stat.st_mode as u32 & 0o7777,
            device: stat.st_dev as u64,
            free: room.f_bavail.saturating_mul(room.f_frsize),
            total: room.f_blocks.saturating_mul(room.f_frsize),
            trial,
        })
    }

    /// Does what a put does, with a file that never becomes an object.
    fn attempt(&self, temporary: &str) -> Result<Trial, Errno> {
        let handle = self.handle();
        let folder = || rustix::fs::openat(handle, RESERVED, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        match rustix::fs::mkdirat(handle, RESERVED, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(handle, temporary, flags, Mode::from_raw_mode(0o600))?;
        let second = format!("{temporary}-2");
        let tried = || {
            rustix::io::write(&file, b"doctor")?;
            rustix::fs::fsync(&file)?;
            let links = match rustix::fs::linkat(handle, temporary, handle, &*second, AtFlags::empty()) {
                Ok(()) => true,
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => false,
                Err(e) => return Err(e),
            };
            let syncs = match rustix::fs::fsync(folder()?) {
                Ok(()) => true,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => false,
                Err(e) => return Err(e),
            };
            Ok(Trial { links, syncs })
        };
        let tried = tried();
        let _ = rustix::fs::unlinkat(handle, &*second, AtFlags::empty());
        // That it can be taken away again is part of the trial: whoever cannot, cannot prune.
        rustix::fs::unlinkat(handle, temporary, AtFlags::empty())?;
        tried
    }
}

impl Inspect for DirectoryStore {
    fn inspect<'a>(&'a self, _: &'a Retrying, names: Names<'a>) -> BoxFuture<'a, Facts> {
        Box::pin(async move {
            let temporary = format!("{RESERVED}/{}", hex::encode(self.env.random::<16>()));
            let probe = names.probe;
            let facts = self.blocking(move |files| {
                files.facts(
                    probe.then(|| files.attempt(&temporary).map_err(|e| format!("writing a file there and removing it: {e}"))),
                )
            });
            let facts = facts.await.unwrap_or_else(|e| DirectoryFacts {
                mode: 0,
                device: 0,
                free: u64::MAX,
                total: 0,
                trial: Some(Err(if e.kind == StoreErrorKind::NotFound { e.to_string() } else { e.story() })),
            });
            Facts {
                identity: Told::Known(format!("the user {}", rustix::process::geteuid().as_raw())),
                ahead: Told::Moot,
                site: Told::Known(Site { provider: "this machine".into(), ..Site::default() }),
                place: PlaceFacts::Directory(facts),
            }
        })
    }
}
