//! A repository on a stage: replicas in memory that can be made to misbehave, a source, and content read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use holdfast::backup::{BackupError, BackupReport, BackupSettings};
use holdfast::chunk::split::ChunkerSpec;
use holdfast::clock::{Env, Time};
use holdfast::format::entry::{self, Entry, Piece};
use holdfast::format::tree::TreeKind;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::error::RepositoryError;
use holdfast::repository::init::{InitReport, InitSettings};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository};
use holdfast::seal::key::KdfParams;
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Meter;
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{OpenStore, Store};

use crate::support::faulty_store::{Call, Fault, FaultyStore};

/// How a stored object's bytes are changed, `None`: taken away.
type Change<'a> = &'a dyn Fn(Vec<u8>) -> Option<Vec<u8>>;

/// When everything here happens: later than any file of the machine was touched, so that no change time is too fresh.
pub const WALL: Time = Time(4_000_000_000_000_000_000);

/// Three replicas, or as many as it is told.
pub struct Stage {
    /// Inline, from a seed.
    pub env: Env,
    /// What really lies at each replica.
    pub stores: Vec<MemoryStore>,
    /// Their names.
    pub names: Vec<&'static str>,
    /// How content is cut.
    pub chunker: ChunkerSpec,
}

/// What a replica does with each call.
pub type Plan = Box<dyn Fn(&Call) -> Fault + Send + Sync>;

/// One that passes every call.
pub fn well() -> Plan {
    Box::new(|_| Fault::Pass)
}

/// The key of every repository here.
pub fn unlock() -> Unlock {
    Unlock::Passphrase(b"a horse".to_vec().into())
}

/// Settings with the lowered key derivation and the given set.
pub fn opening(replicas: ReplicaSettings) -> OpenSettings {
    OpenSettings { replicas, lowered_kdf: true, ..OpenSettings::default() }
}

impl Stage {
    /// Three empty replicas `a`, `b`, `c`.
    pub fn new(seed: u64) -> Stage {
        Stage::of(seed, &["a", "b", "c"])
    }

    /// Empty replicas with these names.
    pub fn of(seed: u64, names: &[&'static str]) -> Stage {
        let env = Env::inline(seed, WALL);
        let stores = names.iter().map(|name| MemoryStore::new(&env, name)).collect();
        Stage { env, stores, names: names.to_vec(), chunker: ChunkerSpec { min: 4 << 10, average: 16 << 10, max: 64 << 10 } }
    }

    /// A member of the set: the store as it is.
    pub fn member(&self, name: &str, store: Arc<dyn Store>) -> Member {
        Member { name: name.into(), url: format!("memory:{name}"), store: Ok(OpenStore { store, meter: Meter::new() }) }
    }

    /// A member in all wrappers that stores are opened in.
    pub fn wrapped(&self, name: &str, store: Arc<dyn Store>) -> Member {
        let store = holdfast::store::wrap(&self.env, store, &StoreSettings::default());
        Member { name: name.into(), url: format!("memory:{name}"), store: Ok(store) }
    }

    /// All members, none at fault.
    pub fn members(&self) -> Vec<Member> {
        self.names.iter().zip(&self.stores).map(|(name, store)| self.wrapped(name, Arc::new(store.clone()))).collect()
    }

    /// All members, wrapped, the one at `at` with a plan.
    pub fn members_but(&self, at: usize, plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> Vec<Member> {
        let mut members = self.members();
        let faulty = FaultyStore::new(&self.env, Arc::new(self.stores[at].clone()), plan);
        members[at] = self.wrapped(self.names[at], Arc::new(faulty));
        members
    }

    /// Makes the repository.
    pub async fn init(&self) -> InitReport {
        self.init_at(self.members()).await.expect("making a repository in memory")
    }

    /// Makes or completes the repository at other members.
    pub async fn init_at(&self, members: Vec<Member>) -> Result<InitReport, RepositoryError> {
        let settings =
            InitSettings { kdf: KdfParams::floor_for_tests(), lowered_kdf: true, chunker: self.chunker, label: "first".into() };
        holdfast::repository::init::init(&self.env, members, &settings, &unlock()).await
    }

    /// Opens for writing.
    pub async fn open(&self) -> Repository {
        self.open_at(self.members(), ReplicaSettings::default()).await.expect("opening a repository in memory")
    }

    /// Opens other members for writing.
    pub async fn open_at(&self, members: Vec<Member>, replicas: ReplicaSettings) -> Result<Repository, RepositoryError> {
        Repository::open(&self.env, members, opening(replicas), &unlock(), Access::Write).await
    }

    /// Opens one replica alone, for reading.
    pub async fn open_alone(&self, at: usize) -> Repository {
        let member = self.wrapped(self.names[at], Arc::new(self.stores[at].clone()));
        let settings = opening(ReplicaSettings::default());
        Repository::open(&self.env, vec![member], settings, &unlock(), Access::Read).await.expect("one replica is enough")
    }

    /// Backs `path` up into what `members` show.
    pub async fn backup(&self, members: Vec<Member>, path: &Path) -> Result<BackupReport, BackupError> {
        let repository = self.open_at(members, ReplicaSettings::default()).await?;
        run(&repository, &backing_up(path)).await
    }

    /// Asserts that every replica of `at`, alone, holds `id` and gives all of `path` back.
    pub async fn holds(&self, at: &[usize], id: [u8; 32], path: &Path) {
        for at in at {
            let repository = self.open_alone(*at).await;
            let found = contents(&repository, id).await.unwrap_or_else(|e| panic!("replica {}: {e}", self.names[*at]));
            assert!(found == files_below(path), "replica {} gives back other contents", self.names[*at]);
            assert!(repository.take_met().is_empty(), "replica {} is not as it should be", self.names[*at]);
        }
    }

    /// A replica's objects as they are now, apart.
    pub async fn copy(&self, at: usize) -> MemoryStore {
        copy_of(&self.env, &self.stores[at]).await
    }

    /// Changes one stored object in place: `None` takes it away.
    pub async fn tamper(&self, at: usize, name: &ObjectName, change: Change<'_>) {
        let store = &self.stores[at];
        let bytes = store.get(name, None).await.expect("what is tampered with is there").to_vec();
        store.delete(std::slice::from_ref(name)).await;
        if let Some(bytes) = change(bytes) {
            store.put(name, bytes.into()).await.expect("it was just taken away");
        }
    }

    /// Names at a replica that start with `prefix`.
    pub async fn names_at(&self, at: usize, prefix: &str) -> Vec<ObjectName> {
        self.stores[at].list(prefix).map(|info| info.expect("memory lists").name).collect().await
    }
}

/// Another store with the same objects.
pub async fn copy_of(env: &Env, from: &MemoryStore) -> MemoryStore {
    let to = MemoryStore::new(env, from.label());
    let mut listing = from.list("");
    while let Some(info) = listing.next().await {
        let name = info.expect("memory lists").name;
        let bytes = from.get(&name, None).await.expect("memory reads");
        to.put(&name, bytes).await.expect("the copy is empty");
    }
    to
}

/// Settings for one path, with packs so small that there are many.
pub fn backing_up(path: &Path) -> BackupSettings {
    BackupSettings {
        paths: vec![path.to_path_buf()],
        host: "stage".into(),
        user: "player".into(),
        memory: 16 << 20,
        data_pack: 256 << 10,
        meta_pack: 64 << 10,
        ..BackupSettings::default()
    }
}

/// Runs a backup without anybody watching.
pub async fn run(repository: &Repository, settings: &BackupSettings) -> Result<BackupReport, BackupError> {
    holdfast::backup::run(repository, settings, &Progress::default(), &Stop::default()).await
}

/// A directory with `files` of noise, `length` bytes each, in a few folders.
pub fn tree(seed: u64, files: usize, length: usize) -> tempfile::TempDir {
    let at = tempfile::tempdir().expect("a temporary directory");
    grow(at.path(), seed, 0..files, length);
    at
}

/// Adds files to a tree.
pub fn grow(at: &Path, seed: u64, files: std::ops::Range<usize>, length: usize) {
    for i in files {
        let folder = at.join(format!("folder-{}", i % 7));
        std::fs::create_dir_all(&folder).expect("making a folder");
        let noise = crate::support::source_tree::noise(seed << 32 | i as u64, length);
        std::fs::write(folder.join(format!("file-{i:05}")), noise).expect("writing a file");
    }
}

/// Every regular file below a path, by its catalog key.
pub fn files_below(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut folders: Vec<(PathBuf, Vec<u8>)> = vec![(at.to_owned(), Vec::new())];
    while let Some((folder, key)) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("reading a folder") {
            let entry = entry.expect("reading a folder");
            let mut below = key.clone();
            if !below.is_empty() {
                below.push(0);
            }
            below.extend_from_slice(std::os::unix::ffi::OsStrExt::as_bytes(entry.file_name().as_os_str()));
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() {
                folders.push((entry.path(), below));
            } else if kind.is_file() {
                out.insert(below, std::fs::read(entry.path()).expect("reading a file"));
            }
        }
    }
    out
}

/// Every entry of the first root of a snapshot, by key.
pub async fn entries(repository: &Repository, id: [u8; 32]) -> Result<BTreeMap<Vec<u8>, Entry>, RepositoryError> {
    let views = repository.snapshots().await?;
    let view = repository.resolve(&views, &hex::encode(id))?;
    let mut out = BTreeMap::new();
    for root in &view.snapshot.roots {
        let mut cursor = repository.cursor(TreeKind::Catalog, root.catalog.as_ref().expect("a root has a catalog"))?;
        while let Some((key, value)) = cursor.next().await? {
            let entry = entry::decode(value, &key).expect("an entry that can be read");
            out.insert(key.to_vec(), entry);
        }
    }
    Ok(out)
}

/// The content of every regular file of a snapshot, by key; holes are zeros.
pub async fn contents(repository: &Repository, id: [u8; 32]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, RepositoryError> {
    let mut out = BTreeMap::new();
    for (key, entry) in entries(repository, id).await? {
        if entry.kind() == entry::EntryKind::File {
            let bytes = content(repository, &entry).await?;
            out.insert(key, bytes);
        }
    }
    Ok(out)
}

/// The content of one file; holes are zeros.
pub async fn content(repository: &Repository, entry: &Entry) -> Result<Vec<u8>, RepositoryError> {
    let mut out = Vec::new();
    for piece in pieces(repository, entry).await? {
        match piece.chunk_id() {
            Some(id) => out.extend_from_slice(&repository.chunk(&id).await?),
            None => out.resize(out.len() + usize::try_from(piece.length).expect("a hole that fits"), 0),
        }
    }
    assert_eq!(out.len() as u64, entry.size, "an entry says how long its content is");
    Ok(out)
}

/// The pieces of one file.
pub async fn pieces(repository: &Repository, entry: &Entry) -> Result<Vec<Piece>, RepositoryError> {
    let Some(content) = &entry.content else { return Ok(Vec::new()) };
    let mut out = content.pieces.clone();
    if let Some(list) = &content.list {
        let mut cursor = repository.cursor(TreeKind::Content, list)?;
        while let Some((_, value)) = cursor.next().await? {
            out.push(<Piece as prost::Message>::decode(value).expect("a piece that can be read"));
        }
    }
    Ok(out)
}

/// Counts the bytes of distinct objects that are being put, over all stores that share it.
#[derive(Clone, Default)]
pub struct Scale(Arc<Mutex<Weights>>);

#[derive(Default)]
struct Weights {
    now: BTreeMap<String, (usize, u64)>,
    most: u64,
}

impl Scale {
    /// The most that was under way at any moment.
    pub fn most(&self) -> u64 {
        self.0.lock().expect("no panic while weighing").most
    }

    fn lift(&self, name: &ObjectName, bytes: u64) -> Lifted {
        let mut weights = self.0.lock().expect("no panic while weighing");
        weights.now.entry(name.as_str().to_owned()).or_insert((0, bytes)).0 += 1;
        let now = weights.now.values().map(|(_, bytes)| bytes).sum();
        weights.most = weights.most.max(now);
        Lifted(self.clone(), name.as_str().to_owned())
    }
}

struct Lifted(Scale, String);

impl Drop for Lifted {
    fn drop(&mut self) {
        let mut weights = self.0.0.lock().expect("no panic while weighing");
        let left = weights.now.get_mut(&self.1).map_or(0, |(count, _)| {
            *count -= 1;
            *count
        });
        if left == 0 {
            weights.now.remove(&self.1);
        }
    }
}

/// A store whose puts are weighed.
pub struct Weighed {
    /// The store.
    pub inner: Arc<dyn Store>,
    /// The scale.
    pub scale: Scale,
}

impl Store for Weighed {
    fn label(&self) -> &str {
        self.inner.label()
    }
    fn put<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: bytes::Bytes,
    ) -> futures::future::BoxFuture<'a, Result<(), holdfast::store::error::StoreError>> {
        Box::pin(async move {
            let _lifted = self.scale.lift(name, bytes.len() as u64);
            self.inner.put(name, bytes).await
        })
    }
    fn get<'a>(
        &'a self,
        name: &'a ObjectName,
        range: Option<std::ops::Range<u64>>,
    ) -> futures::future::BoxFuture<'a, Result<bytes::Bytes, holdfast::store::error::StoreError>> {
        self.inner.get(name, range)
    }
    fn stat<'a>(
        &'a self,
        name: &'a ObjectName,
    ) -> futures::future::BoxFuture<'a, Result<Option<holdfast::store::ObjectInfo>, holdfast::store::error::StoreError>> {
        self.inner.stat(name)
    }
    fn list<'a>(
        &'a self,
        prefix: &'a str,
    ) -> futures::stream::BoxStream<'a, Result<holdfast::store::ObjectInfo, holdfast::store::error::StoreError>> {
        self.inner.list(prefix)
    }
    fn delete<'a>(
        &'a self,
        names: &'a [ObjectName],
    ) -> futures::future::BoxFuture<'a, Vec<(ObjectName, holdfast::store::error::StoreError)>> {
        self.inner.delete(names)
    }
}
