//! A small repository in stores of the test's own, the shortest way to a backup, and the proof that what came out is what
//! went in: every snapshot read back chunk by chunk, and every chunk found in no more packs than it should be in.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use holdfast::backup::{BackupSettings, ReplicaReport};
use holdfast::chunk::id::ChunkId;
use holdfast::chunk::split::ChunkerSpec;
use holdfast::clock::{Env, Time};
use holdfast::format::entry::{self, Entry, EntryKind, Piece};
use holdfast::format::index::Segment;
use holdfast::format::pack::PackKind;
use holdfast::format::snapshot::Snapshot;
use holdfast::format::tree::TreeKind;
use holdfast::format::{Hash, catalog};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::Member;
use holdfast::repository::error::RepositoryError;
use holdfast::repository::init::{InitReport, InitSettings, init};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::layout::{self, Class};
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository};
use holdfast::seal::key::Secret;
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Meter;
use holdfast::store::{OpenStore, Store};
use holdfast::verify::share::Share;
use holdfast::verify::{self, VerifySettings};
use prost::Message;

/// When the tests take place: after every file they make was touched, so that a parent is trusted.
pub const WALL: Time = Time(4_000_000_000_000_000_000);
/// Names of the stores, in the order of their URLs.
pub const NAMES: [&str; 3] = ["aachen", "bremen", "cottbus"];

/// Three empty stores.
pub fn stores(env: &Env) -> Vec<MemoryStore> {
    NAMES.iter().map(|name| MemoryStore::new(env, name)).collect()
}

/// Another store with the same objects.
pub async fn copy(env: &Env, store: &MemoryStore) -> MemoryStore {
    let other = MemoryStore::new(env, store.label());
    for name in names(store, "").await {
        let name = super::name(&name);
        let bytes = store.get(&name, None).await.expect("a store in memory reads");
        other.put(&name, bytes).await.expect("an empty store takes everything");
    }
    other
}

/// Names of the objects in a store.
pub async fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).map(|info| info.expect("listing").name.to_string()).collect().await
}

/// The same stores as members of a repository, without any wrapper.
pub fn members(stores: impl IntoIterator<Item = Arc<dyn Store>>) -> Vec<Member> {
    let member = |store: Arc<dyn Store>| {
        let name = store.label().to_owned();
        Member { url: format!("memory:{name}"), name, store: Ok(OpenStore { store, meter: Meter::new() }) }
    };
    stores.into_iter().map(member).collect()
}

/// Memory stores as members.
pub fn all(stores: &[MemoryStore]) -> Vec<Member> {
    members(stores.iter().map(|store| Arc::new(store.clone()) as Arc<dyn Store>))
}

/// The key of every repository here: a key file, which costs no derivation.
pub fn unlock() -> Unlock {
    Unlock::KeyFile(Secret::new([7; 32]))
}

/// Makes (or completes) a repository that cuts small files into several chunks.
pub async fn make(env: &Env, members: Vec<Member>) -> Result<InitReport, RepositoryError> {
    let chunker = ChunkerSpec { min: 2 << 10, average: 8 << 10, max: 32 << 10 };
    init(env, members, &InitSettings { chunker, ..InitSettings::default() }, &unlock()).await
}

/// Opens it.
pub async fn open(env: &Env, members: Vec<Member>, access: Access) -> Result<Repository, RepositoryError> {
    Repository::open(env, members, OpenSettings::default(), &unlock(), access).await
}

/// A backup of `source` with packs so small and publications so frequent that a few files make a long run.
pub fn settings(source: &Path, tag: &str) -> BackupSettings {
    BackupSettings {
        paths: vec![source.to_path_buf()],
        host: "here".into(),
        tags: vec![tag.into()],
        memory: 32 << 20,
        data_pack: 48 << 10,
        meta_pack: 16 << 10,
        group: 8 << 10,
        publish_bytes: 32 << 10,
        partial_every: std::time::Duration::ZERO,
        ..BackupSettings::default()
    }
}

/// Names of the replicas that committed.
pub fn committed(replicas: &[ReplicaReport]) -> Vec<&str> {
    replicas.iter().filter(|r| r.committed).map(|r| r.name.as_str()).collect()
}

/// One item of a tree, as far as a restore brings it back.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// Kind and permission bits, as `st_mode` has them.
    pub mode: u32,
    /// Length of a file.
    pub size: u64,
    /// Modification time; of links, nothing is compared.
    pub mtime: (i64, u32),
    /// Hash of a file's content, or of a link's target.
    pub content: Hash,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:o} {} bytes of {}.. at {:?}", self.mode, self.size, hex::encode(&self.content[..4]), self.mtime)
    }
}

/// A tree by catalog key, its root at the empty key.
pub type Tree = BTreeMap<Vec<u8>, Item>;

fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// The tree in a folder.
pub fn tree_at(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open: Vec<(PathBuf, Vec<u8>)> = vec![(root.to_path_buf(), Vec::new())];
    while let Some((path, key)) = open.pop() {
        let meta = fs::symlink_metadata(&path).expect("a tree that stands still");
        let mut item = Item {
            mode: meta.mode(),
            size: 0,
            mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).expect("below a second")),
            content: hash(b""),
        };
        if meta.is_dir() {
            for child in fs::read_dir(&path).expect("a folder") {
                let child = child.expect("an item");
                open.push((child.path(), catalog::join(&key, child.file_name().as_bytes())));
            }
        } else if meta.is_symlink() {
            item.content = hash(fs::read_link(&path).expect("a link").as_os_str().as_bytes());
            item.mtime = (0, 0);
        } else {
            let bytes = fs::read(&path).expect("a file");
            (item.size, item.content) = (bytes.len() as u64, hash(&bytes));
        }
        tree.insert(key, item);
    }
    tree
}

/// The tree in the only root of a snapshot, every byte of it read from the repository.
pub async fn tree_of(repository: &Repository, snapshot: &Snapshot) -> Result<Tree, RepositoryError> {
    let mut tree = Tree::new();
    assert_eq!(snapshot.roots.len(), 1);
    let root = snapshot.roots[0].catalog.as_ref().expect("a root has a catalog");
    let mut cursor = repository.cursor(TreeKind::Catalog, root)?;
    while let Some((key, value)) = cursor.next().await? {
        let entry = entry::decode(value, &key).expect("an entry that was written is one");
        let kind = match EntryKind::try_from(entry.kind).expect("known") {
            EntryKind::File => 0o100_000,
            EntryKind::Directory => 0o040_000,
            EntryKind::Symlink => 0o120_000,
            other => panic!("{other:?} in a tree without such"),
        };
        let bytes = match kind {
            0o120_000 => entry.link_target.to_vec(),
            _ => content(repository, &entry).await?,
        };
        let mtime = if kind == 0o120_000 { (0, 0) } else { (entry.mtime, entry.mtime_nanos) };
        assert_eq!(entry.problem, 0, "{}", String::from_utf8_lossy(&key));
        tree.insert(key.to_vec(), Item { mode: kind | entry.mode, size: entry.size, mtime, content: hash(&bytes) });
    }
    Ok(tree)
}

async fn content(repository: &Repository, entry: &Entry) -> Result<Vec<u8>, RepositoryError> {
    let Some(content) = &entry.content else { return Ok(Vec::new()) };
    let mut pieces = content.pieces.clone();
    if let Some(list) = &content.list {
        let mut cursor = repository.cursor(TreeKind::Content, list)?;
        while let Some((_, value)) = cursor.next().await? {
            pieces.push(Piece::decode(value).expect("a piece that was written is one"));
        }
    }
    let mut bytes = Vec::new();
    for piece in &pieces {
        match piece.chunk_id() {
            Some(id) => bytes.extend_from_slice(&repository.chunk(&id).await?),
            None => bytes.resize(bytes.len() + piece.length as usize, 0),
        }
    }
    assert_eq!(bytes.len() as u64, entry.size);
    Ok(bytes)
}

/// Reads every snapshot, and compares each with the tree of its tag: a complete one is equal, of a partial one every item
/// is. Gives the tags of the complete ones with how many replicas hold each, oldest first.
pub async fn read_all<T: Borrow<str> + Ord>(
    repository: &Repository,
    trees: &BTreeMap<T, Tree>,
) -> Result<Vec<(String, usize)>, String> {
    let mut complete = Vec::new();
    for view in repository.snapshots().await.map_err(|e| e.to_string())? {
        let tag = view.snapshot.tags.first().cloned().unwrap_or_default();
        let expected = trees.get(tag.as_str()).ok_or_else(|| format!("nobody took snapshot {tag:?}"))?;
        let found = tree_of(repository, &view.snapshot).await.map_err(|e| format!("snapshot {tag:?}: {e}"))?;
        for (key, item) in &found {
            if expected.get(key) != Some(item) {
                let (key, right) = (String::from_utf8_lossy(key), expected.get(key));
                return Err(format!("snapshot {tag:?}: {key:?} is {item:?}, and was {right:?}"));
            }
        }
        if !view.snapshot.partial {
            if found.len() != expected.len() {
                return Err(format!("snapshot {tag:?} has {} items of {}", found.len(), expected.len()));
            }
            complete.push((tag, view.replicas.len()));
        }
    }
    let met = repository.take_met();
    if met.is_empty() { Ok(complete) } else { Err(format!("{met:?}")) }
}

/// Has the repository verified, everything read. Writes to no log when all is well but the note that says so.
pub async fn verify_all(repository: &Repository) -> Result<(), String> {
    let settings = VerifySettings { read_data: Some(Share::All), memory: 32 << 20, ..VerifySettings::default() };
    let report = verify::run(repository, &settings, &Progress::default(), &Stop::default()).await.map_err(|e| e.to_string())?;
    let well = report.damage_count == 0 && report.replicas.iter().all(|r| r.unreachable.is_none() && r.distrusted == 0);
    if well { Ok(()) } else { Err(format!("{report:?}")) }
}

/// What one log relies on.
#[derive(Debug, Default)]
pub struct Published {
    /// Index segments.
    pub segments: BTreeSet<Hash>,
    /// Packs, by object name, with the chunks in each.
    pub packs: BTreeMap<String, Vec<ChunkId>>,
}

impl Published {
    /// All chunks.
    pub fn chunks(&self) -> BTreeSet<ChunkId> {
        self.packs.values().flatten().copied().collect()
    }
}

/// What the log of replica `index` relies on.
pub async fn published(repository: &Repository, index: usize) -> Published {
    let mut published = Published::default();
    if let Some(log) = repository.log(index).await {
        published.segments.clone_from(&log.state.segments);
    }
    let store = &repository.set.replicas[index].store;
    for segment in &published.segments {
        let stored = store.get(&layout::hashed(Class::Segment, segment), None).await.expect("a published segment is there");
        let segment = Segment::decode(&stored, &repository.keyring.keys.index, &repository.id()).expect("and whole");
        for pack in segment.packs {
            let class = if pack.kind() == PackKind::Meta { Class::MetaPack } else { Class::DataPack };
            let name = layout::hashed(class, &pack.name().expect("a name"));
            let info = store.stat(&name).await.expect("a store that answers").expect("a published pack is there");
            assert_eq!(info.size, pack.size);
            let chunks = pack.frames.iter().flat_map(|frame| frame.chunks().map(|span| span.id)).collect();
            published.packs.insert(name.to_string(), chunks);
        }
    }
    published
}

/// One replica as it stood before a run: the names of its objects, and what its log relies on.
pub type Before = (Vec<String>, Published);

/// Tests what a run that succeeded sent: every pack that is new in a store is relied on there, no replica was sent a chunk in
/// two of them, and each chunk in a pack was unknown at one at least of the replicas that the pack went to (what several lack
/// goes to all of them in one pack).
pub async fn nothing_twice(stores: &[Arc<dyn Store>], before: &[Before], after: &[Published]) -> Result<(), String> {
    let known: Vec<BTreeSet<ChunkId>> = before.iter().map(|(_, published)| published.chunks()).collect();
    let mut went: BTreeMap<String, (BTreeSet<ChunkId>, Vec<usize>)> = BTreeMap::new();
    for (at, store) in stores.iter().enumerate() {
        let had: BTreeSet<&String> = before[at].0.iter().collect();
        let mut sent = BTreeSet::new();
        for name in [names(&**store, "data/").await, names(&**store, "meta/").await].concat() {
            if had.contains(&name) {
                continue;
            }
            let label = store.label();
            let chunks = after[at].packs.get(&name).ok_or_else(|| format!("{label}: {name} was sent and not published"))?;
            for chunk in chunks {
                if !sent.insert(*chunk) {
                    return Err(format!("{label}: chunk {chunk} was sent twice, once in {name}"));
                }
            }
            let pack = went.entry(name).or_default();
            pack.0.extend(chunks);
            pack.1.push(at);
        }
    }
    for (name, (chunks, at)) in &went {
        if let Some(chunk) = chunks.iter().find(|chunk| at.iter().all(|i| known[*i].contains(*chunk))) {
            return Err(format!("chunk {chunk} was sent again in {name}, to replicas {at:?}, which all had it"));
        }
    }
    Ok(())
}
