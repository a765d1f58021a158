//! Replicas in directories of the test's own, and the shortest way to a backup into them and a restore out of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::backup::{BackupReport, BackupSettings};
use holdfast::chunk::split::ChunkerSpec;
use holdfast::clock::Env;
use holdfast::format::snapshot::Snapshot;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::init::{InitSettings, init};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository};
use holdfast::restore::{RestoreError, RestoreReport, RestoreSettings};
use holdfast::seal::key::KdfParams;
use holdfast::store::directory::DirectoryStore;
use holdfast::store::meter::Meter;
use holdfast::store::{OpenStore, Store};

/// Replicas `a`, `b`, `c`, each in a directory of its own, of a repository that exists.
pub struct Replicas {
    /// The machine's own clock and cores.
    pub env: Env,
    /// Where everything lies; free for the test to use beside them.
    pub folder: tempfile::TempDir,
}

/// Their names.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

fn unlock() -> Unlock {
    Unlock::Passphrase(b"a horse".to_vec().into())
}

/// A store under a name.
pub fn member(name: &str, store: Arc<dyn Store>) -> Member {
    Member { name: name.into(), url: format!("file:///{name}"), store: Ok(OpenStore { store, meter: Meter::new() }) }
}

impl Replicas {
    /// A new repository that cuts small files into several chunks.
    pub async fn new() -> Replicas {
        holdfast::source::metadata::raise_open_files();
        let replicas = Replicas { env: Env::real(), folder: tempfile::tempdir().expect("a temporary folder") };
        let settings = InitSettings {
            kdf: KdfParams::floor_for_tests(),
            lowered_kdf: true,
            chunker: ChunkerSpec { min: 4 << 10, average: 16 << 10, max: 64 << 10 },
            ..InitSettings::default()
        };
        let report = init(&replicas.env, replicas.members(&NAMES), &settings, &unlock()).await.expect("a new repository");
        assert!(report.created && report.failed.is_empty(), "{report:?}");
        replicas
    }

    /// A folder of the test's own, made.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).expect("making a folder");
        path
    }

    /// Where a replica lies.
    pub fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join("stores").join(name)
    }

    /// The store of a replica.
    pub fn store(&self, name: &str) -> Arc<dyn Store> {
        Arc::new(DirectoryStore::open(&self.env, name, self.place(name), true).expect("opening a directory"))
    }

    /// Some of them as members.
    pub fn members(&self, names: &[&str]) -> Vec<Member> {
        names.iter().map(|name| member(name, self.store(name))).collect()
    }

    /// Opens the repository at these members.
    pub async fn open_at(&self, members: Vec<Member>) -> Repository {
        let settings = OpenSettings {
            lowered_kdf: true,
            replicas: ReplicaSettings { write_quorum: Some(1), ..ReplicaSettings::default() },
            ..OpenSettings::default()
        };
        Repository::open(&self.env, members, settings, &unlock(), Access::Read).await.expect("opening the repository")
    }

    /// Opens the repository at all of them.
    pub async fn open(&self) -> Repository {
        self.open_at(self.members(&NAMES)).await
    }

    /// Backs up with packs so small that a few megabytes make several.
    pub async fn backup(&self, settings: BackupSettings) -> (BackupReport, Snapshot) {
        let settings = BackupSettings { data_pack: 1 << 20, meta_pack: 256 << 10, ..settings };
        let repository = self.open().await;
        let report =
            holdfast::backup::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("a backup");
        assert!(report.replicas.iter().all(|r| r.committed), "{report:?}");
        let views = repository.snapshots().await.expect("snapshots");
        let snapshot = views.last().expect("one at least").snapshot.clone();
        (report, snapshot)
    }

    /// Backs up folders as they are.
    pub async fn backup_of(&self, paths: &[&Path]) -> Snapshot {
        let paths = paths.iter().map(|path| path.to_path_buf()).collect();
        let (report, snapshot) = self.backup(BackupSettings { paths, ..BackupSettings::default() }).await;
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        snapshot
    }

    /// All packs of content (`data`) or of nodes (`meta`) at a replica.
    pub fn packs(&self, name: &str, class: &str) -> Vec<PathBuf> {
        let mut packs = Vec::new();
        for fan in fs::read_dir(self.place(name).join(class)).expect("a class of objects") {
            let inside = fs::read_dir(fan.expect("a folder").path()).expect("a folder");
            packs.extend(inside.map(|pack| pack.expect("a pack").path()));
        }
        packs.sort();
        packs
    }
}

/// Restores without progress and without a stop.
pub async fn restore(
    repository: &Repository,
    snapshot: &Snapshot,
    settings: &RestoreSettings,
) -> Result<RestoreReport, RestoreError> {
    holdfast::restore::run(repository, snapshot, settings, &Progress::default(), &Stop::default()).await
}

/// Changes bytes of a stored object behind the store's back.
pub fn damage(object: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(object).expect("reading an object");
    change(&mut bytes);
    fs::remove_file(object).expect("removing an object");
    fs::write(object, bytes).expect("writing an object");
}
