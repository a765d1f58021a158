//! A restore in a world that is not as it should be: replicas that are slow, dead or damaged, damage in every kind of node, a
//! target that is full or not ours, items that were never read. What can be had comes back, and the rest is named.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast::backup::{BackupReport, Given, run_sources};
use holdfast::chunk::id::ChunkId;
use holdfast::chunk::split::ChunkerSpec;
use holdfast::format::entry::Entry;
use holdfast::format::snapshot::Snapshot;
use holdfast::format::tree::{Child, Node, TreeKind};
use holdfast::format::{catalog, entry};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::layout::{self, Class};
use holdfast::repository::{Access, Repository};
use holdfast::restore::{RestoreReport, RestoreSettings};
use holdfast::source::directory::{Found, Walked};
use holdfast::source::metadata::{FileTime, Kind, Meta};
use holdfast::source::{Content, Origin, Source};
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::recording_store::{Record, RecordingStore};
use crate::support::seen::seen;
use crate::support::source_tree::noise;
use crate::support::stage::{Stage, backing_up, files_below, run, tree};

const DEAD: Fault = Fault::FailBefore(StoreErrorKind::Unavailable);

async fn newest(repository: &Repository) -> Snapshot {
    repository.snapshots().await.expect("listed").pop().expect("one at least").snapshot
}

/// The recorded `path`, straight into `target`.
async fn restore(repository: &Repository, path: &Path, settings: RestoreSettings) -> RestoreReport {
    let path = Some(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec());
    let settings = RestoreSettings { path, ..settings };
    let snapshot = newest(repository).await;
    holdfast::restore::run(repository, &snapshot, &settings, &Progress::default(), &Stop::default()).await.expect("a restore")
}

fn into(target: &Path) -> RestoreSettings {
    RestoreSettings { target: target.to_path_buf(), ..RestoreSettings::default() }
}

fn folder() -> tempfile::TempDir {
    holdfast::source::metadata::raise_open_files();
    tempfile::tempdir().expect("a folder")
}

/// The members, each asked through a store that takes notes.
fn recorded(stage: &Stage) -> (Vec<RecordingStore>, Vec<Member>) {
    let stores: Vec<_> = stage.stores.iter().map(|s| RecordingStore::new(Arc::new(s.clone()))).collect();
    let members = stage.names.iter().zip(&stores).map(|(name, s)| stage.wrapped(name, Arc::new(s.clone()))).collect();
    (stores, members)
}

fn content_bytes(records: &[Record]) -> u64 {
    let content = |r: &&Record| r.operation == Operation::Get && r.name.starts_with("data/");
    records.iter().filter(content).map(|r| r.bytes).sum()
}

/// One repository of three replicas that hold 3 MB in twelve packs and more.
async fn three(seed: u64) -> (Stage, tempfile::TempDir) {
    let stage = Stage::new(seed);
    stage.init().await;
    let source = tree(seed, 100, 30_000);
    let report = stage.backup(stage.members(), source.path()).await.expect("all is well");
    assert!(report.replicas.iter().all(|r| r.committed));
    (stage, source)
}

/// What each store is asked for by one restore.
async fn asked(stage: &Stage, source: &Path, prefer: &[&str], from: Option<&str>) -> Vec<Vec<Record>> {
    let (stores, members) = recorded(stage);
    let set = ReplicaSettings { prefer: prefer.iter().map(|p| (*p).to_owned()).collect(), ..ReplicaSettings::default() };
    let repository = stage.open_at(members, set).await.expect("all answer");
    let to = folder();
    stores.iter().for_each(|s| drop(s.take()));
    let report = restore(&repository, source, RestoreSettings { from: from.map(str::to_owned), ..into(to.path()) }).await;
    assert_eq!((report.failed_count, report.notes), (0, Vec::new()));
    assert!(files_below(to.path()) == files_below(source));
    stores.iter().map(RecordingStore::take).collect()
}

/// What is read of content, in a world of its own.
fn drawn(source: &Path) -> Vec<Vec<Record>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let stage = Stage::new(40);
        stage.init().await;
        stage.backup(stage.members(), source).await.expect("all is well");
        let mut all = asked(&stage, source, &[], None).await;
        all.iter_mut().for_each(|records| records.retain(|r| r.name.starts_with("data/")));
        all
    })
}

#[test]
fn content_comes_from_all_replicas_and_in_the_same_order_every_time() {
    let source = tree(40, 100, 30_000);
    let first = drawn(source.path());
    let bytes: Vec<u64> = first.iter().map(|records| content_bytes(records)).collect();
    let all: u64 = bytes.iter().sum();
    assert!((3_000_000..3_300_000).contains(&all), "nothing is read twice: {bytes:?}");
    assert!(bytes.iter().all(|b| b * 5 > all), "one replica has most of the work: {bytes:?}");
    assert_eq!(first, drawn(source.path()), "the same restore asks the same");
}

#[tokio::test(start_paused = true)]
async fn the_preferred_and_the_only_one_are_asked_alone() {
    let (stage, source) = three(41).await;
    for (prefer, from, only) in
        [(vec!["b"], None, 1), (vec!["c", "a"], None, 2), (vec!["a"], Some("c"), 2), (vec![], Some("b"), 1)]
    {
        let asked = asked(&stage, source.path(), &prefer, from).await;
        for (at, records) in asked.iter().enumerate() {
            assert_eq!(content_bytes(records) > 0, at == only, "{prefer:?} {from:?}: replica {at}");
        }
    }
}

/// A slow one gives what it can; the others do not wait for it to give a third.
#[tokio::test(start_paused = true)]
async fn a_slow_replica_gives_less() {
    let (stage, source) = three(42).await;
    let slow = |call: &Call| if call.name.starts_with("data/") { Fault::Delay(Duration::from_secs(20)) } else { Fault::Pass };
    let quick = |call: &Call| if call.name.starts_with("data/") { Fault::Delay(Duration::from_secs(1)) } else { Fault::Pass };
    let stores: Vec<_> = (0..3)
        .map(|at| {
            let inner = Arc::new(stage.stores[at].clone());
            RecordingStore::new(Arc::new(FaultyStore::new(&stage.env, inner, if at == 0 { slow } else { quick })))
        })
        .collect();
    let members = stage.names.iter().zip(&stores).map(|(name, s)| stage.wrapped(name, Arc::new(s.clone()))).collect();
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("all answer");
    let to = folder();
    let report = restore(&repository, source.path(), RestoreSettings { memory: 1 << 20, ..into(to.path()) }).await;
    assert_eq!(report.failed_count, 0);
    let bytes: Vec<u64> = stores.iter().map(|s| content_bytes(&s.records())).collect();
    assert!(bytes[0] > 0 && bytes[0] * 2 < bytes[1] && bytes[0] * 2 < bytes[2], "{bytes:?}");
}

/// One replica answers nothing, one gives turned bits, one is whole: all comes back, and both are told of.
#[tokio::test(start_paused = true)]
async fn one_dead_and_one_corrupt() {
    let (stage, source) = three(43).await;
    let mut members = stage.members_but(0, |call| if call.name.starts_with("data/") { DEAD } else { Fault::Pass });
    let flips = |call: &Call| match call.operation {
        Operation::Get if call.name.starts_with("data/") => Fault::FlipBit(77_777),
        _ => Fault::Pass,
    };
    let corrupt = RecordingStore::new(Arc::new(FaultyStore::new(&stage.env, Arc::new(stage.stores[1].clone()), flips)));
    members[1] = stage.wrapped("b", Arc::new(corrupt.clone()));
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("the logs are fine");
    let to = folder();
    let report = restore(&repository, source.path(), into(to.path())).await;
    assert_eq!(report.failed_count, 0, "{:?}", report.failed);
    assert!(files_below(to.path()) == files_below(source.path()));
    let said = |what: [&str; 2]| report.notes.iter().any(|n| what.iter().all(|w| n.contains(w)));
    assert!(said(["store a", "unavailable"]) && said(["store b", "is damaged"]), "{:?}", report.notes);
    assert!(said(["store b", "distrusted from now on"]), "{:?}", report.notes);
    let repository = stage.open().await;
    let distrusted = async |i| repository.log(i).await.expect("a log").state.distrusted.clone();
    assert!(!distrusted(1).await.is_empty());
    assert_eq!((distrusted(0).await.len(), distrusted(2).await.len()), (0, 0), "only what was seen to be damaged");
    // Every pack that came damaged was noted, though the others gave it: nothing of one answer is passed over in silence.
    let content = |r: &Record| r.name.starts_with("data/");
    let asked: BTreeSet<String> = corrupt.records().into_iter().filter(content).map(|r| r.name).collect();
    let noted: BTreeSet<String> =
        distrusted(1).await.iter().map(|pack| layout::hashed(Class::DataPack, pack).to_string()).collect();
    assert_eq!(noted, asked);
}

/// A pack that is gone or cut short at one replica comes from the others, and that is noted there.
#[tokio::test(start_paused = true)]
async fn absence_is_met_and_noted_wherever_it_is() {
    let (stage, source) = three(44).await;
    let packs = stage.names_at(0, "data/").await;
    for (i, pack) in packs.iter().enumerate() {
        // Each pack is wrong at one replica, and the three take turns.
        let how = |bytes: Vec<u8>| (i % 2 == 0).then(|| bytes[..20].to_vec());
        stage.tamper(i % 3, pack, &how).await;
    }
    let set = ReplicaSettings { prefer: vec!["a".into(), "b".into(), "c".into()], ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members(), set).await.expect("all answer");
    let to = folder();
    let report = restore(&repository, source.path(), into(to.path())).await;
    assert_eq!(report.failed_count, 0, "{:?}", report.failed);
    assert!(files_below(to.path()) == files_below(source.path()));
    let repository = stage.open().await;
    let at_a: BTreeSet<_> = packs.iter().enumerate().filter(|(i, _)| i % 3 == 0).map(|(_, p)| p.to_string()).collect();
    let log = repository.log(0).await.expect("a log");
    let told: BTreeSet<_> = log.state.distrusted.iter().map(|p| layout::hashed(Class::DataPack, p).to_string()).collect();
    assert_eq!(told, at_a);
}

/// Damages, at every replica, the frame that a chunk lies in.
async fn spoil(stage: &Stage, id: &ChunkId) {
    let repository = stage.open().await;
    let places = repository.places(&[*id]).await.expect("places").remove(0);
    assert_eq!(places.len(), 1);
    let pack = {
        let index = repository.index().await.expect("an index");
        let index = index.read().expect("no panic");
        let pack = index.pack(places[0].pack);
        let class = if pack.kind == holdfast::format::pack::PackKind::Meta { Class::MetaPack } else { Class::DataPack };
        layout::hashed(class, &pack.hash)
    };
    for at in 0..stage.stores.len() {
        let flip = |mut bytes: Vec<u8>| {
            bytes[places[0].frame_offset as usize + 40] ^= 1;
            Some(bytes)
        };
        stage.tamper(at, &pack, &flip).await;
    }
}

async fn entry_of(repository: &Repository, path: &str) -> Entry {
    let snapshot = newest(repository).await;
    let root = snapshot.roots[0].catalog.clone().expect("a catalog");
    let mut cursor = repository.cursor(TreeKind::Catalog, &root).expect("a cursor");
    while let Some((key, value)) = cursor.next().await.expect("readable") {
        if key == path.as_bytes() {
            return entry::decode(value, &key).expect("an entry");
        }
    }
    panic!("there is no {path}");
}

/// A file of three lists' leaves and its small neighbours, in one replica; the list's root, and its nodes.
async fn long_list(seed: u64) -> (Stage, tempfile::TempDir, Child, Vec<Child>) {
    let chunker = ChunkerSpec { min: 1 << 10, average: 4 << 10, max: 16 << 10 };
    let stage = Stage { chunker, ..Stage::of(seed, &["a"]) };
    stage.init().await;
    let source = folder();
    fs::write(source.path().join("long"), noise(seed, 30 << 20)).expect("written");
    fs::write(source.path().join("before"), noise(1, 5000)).expect("written");
    fs::write(source.path().join("zz-after"), noise(2, 5000)).expect("written");
    stage.backup(stage.members(), source.path()).await.expect("all is well");
    let repository = stage.open().await;
    let list = entry_of(&repository, "long").await.content.and_then(|c| c.list).expect("a content list");
    let node = repository.chunk(&list.chunk_id().expect("an id")).await.expect("the list's root");
    let node = Node::decode(node, TreeKind::Content, Some(&list)).expect("a node");
    assert!(node.level == 1 && node.items.len() >= 3, "level {}, {} items", node.level, node.items.len());
    let child = |value: &Bytes| Child::decode_value(value.clone(), TreeKind::Content).expect("a child");
    let children = node.items.iter().map(|item| child(&item.value)).collect();
    (stage, source, list, children)
}

#[tokio::test(start_paused = true)]
async fn a_damaged_part_of_a_content_list_costs_what_it_named() {
    let (stage, source, _, leaves) = long_list(50).await;
    let ids: Vec<ChunkId> = leaves.iter().filter_map(Child::chunk_id).collect();
    let places = stage.open().await.places(&ids).await.expect("places");
    let lost: Vec<bool> = places.iter().map(|p| p[0].frame == places[1][0].frame).collect();
    assert!(lost.contains(&false), "all leaves lie in one frame");
    spoil(&stage, &ids[1]).await;
    let repository = stage.open().await;
    let to = folder();
    let report = restore(&repository, source.path(), into(to.path())).await;
    assert_eq!(report.failed_count, 1, "{:?}", report.failed);
    let (path, why) = &report.failed[0];
    assert!(path.ends_with("/long") && why.contains("could not be had"), "{path}: {why}");
    let (was, is) = (fs::read(source.path().join("long")).expect("read"), fs::read(to.path().join("long")).expect("read"));
    assert_eq!(was.len(), is.len());
    // Neighbouring leaves share a frame, and its fate.
    let mut at = 0;
    for (leaf, is_lost) in leaves.iter().zip(&lost) {
        let until = at + leaf.bytes as usize;
        match is_lost {
            true => assert!(is[at..until].iter().all(|b| *b == 0), "nothing is made up"),
            false => assert!(was[at..until] == is[at..until], "what the other leaves name is there"),
        }
        at = until;
    }
    let meta = fs::metadata(to.path().join("long")).expect("there");
    assert_eq!(meta.mode() & 0o777, 0o600, "what is not whole does not look whole");
    for whole in ["before", "zz-after"] {
        assert_eq!(fs::read(source.path().join(whole)).expect("read"), fs::read(to.path().join(whole)).expect("read"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_root_of_a_content_list_costs_that_file_alone() {
    let (stage, source, list, _) = long_list(51).await;
    spoil(&stage, &list.chunk_id().expect("an id")).await;
    let repository = stage.open().await;
    let to = folder();
    let report = restore(&repository, source.path(), into(to.path())).await;
    assert_eq!(report.failed_count, 1, "{:?}", report.failed);
    assert!(report.failed[0].0.ends_with("/long"), "{:?}", report.failed);
    assert_eq!(report.files_written, 2);
    assert!(report.notes.iter().any(|n| n.contains("store a") && n.contains("is damaged")), "{:?}", report.notes);
}

/// A folder on a file system that takes long attributes, if this machine has one.
fn with_long_attributes() -> Option<(tempfile::TempDir, Vec<u8>)> {
    let value = noise(9, 6000);
    for place in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(at) = tempfile::tempdir_in(place) else { continue };
        fs::write(at.path().join("attributed"), b"content").expect("written");
        let set = rustix::fs::lsetxattr(at.path().join("attributed"), "user.long", &value, rustix::fs::XattrFlags::empty());
        if set.is_ok() {
            return Some((at, value));
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_damaged_attribute_costs_that_attribute_and_is_named() {
    let Some((source, value)) = with_long_attributes() else {
        eprintln!("ignored: no file system here takes an attribute of 6000 bytes");
        return;
    };
    let short = rustix::fs::lsetxattr(source.path().join("attributed"), "user.short", b"short", rustix::fs::XattrFlags::empty());
    short.expect("a short attribute where a long one went");
    let stage = Stage::of(52, &["a"]);
    stage.init().await;
    // No chunk shares a frame with another.
    let settings = holdfast::backup::BackupSettings { group: 1, ..backing_up(source.path()) };
    run(&stage.open().await, &settings).await.expect("all is well");
    let repository = stage.open().await;
    let read = |at: &Path, name: &str| {
        let mut out = vec![0; 10_000];
        rustix::fs::lgetxattr(at.join("attributed"), name, &mut out[..]).map(|n| out[..n].to_vec())
    };
    let place = source.path().parent().expect("a folder");
    let whole = tempfile::tempdir_in(place).expect("a folder");
    let report = restore(&repository, source.path(), into(whole.path())).await;
    assert_eq!((report.failed_count, report.warnings_count), (0, 0), "{report:?}");
    assert_eq!(read(whole.path(), "user.long"), Ok(value));

    let entry = entry_of(&repository, "attributed").await;
    let chunk = entry.xattrs.iter().find_map(|x| x.chunk.as_ref()?.chunk_id()).expect("the long one is a chunk");
    spoil(&stage, &chunk).await;
    let repository = stage.open().await;
    let to = tempfile::tempdir_in(place).expect("a folder");
    let report = restore(&repository, source.path(), into(to.path())).await;
    assert_eq!((report.failed_count, report.warnings_count), (0, 1), "{report:?}");
    assert!(report.warnings[0].1.contains("attribute user.long"), "{:?}", report.warnings);
    assert_eq!(fs::read(to.path().join("attributed")).expect("read"), b"content");
    assert_eq!(read(to.path(), "user.short").as_deref(), Ok(&b"short"[..]), "the others are set all the same");
    assert!(read(to.path(), "user.long").is_err());
}

/// Of a file that cannot be had, every name is told.
#[tokio::test(start_paused = true)]
async fn every_name_of_a_broken_file_is_told() {
    let stage = Stage::of(53, &["a"]);
    stage.init().await;
    let source = folder();
    fs::write(source.path().join("first"), noise(1, 100_000)).expect("written");
    fs::create_dir(source.path().join("sub")).expect("made");
    for other in ["second", "sub/third"] {
        fs::hard_link(source.path().join("first"), source.path().join(other)).expect("linked");
    }
    fs::write(source.path().join("well"), noise(2, 100_000)).expect("written");
    stage.backup(stage.members(), source.path()).await.expect("all is well");
    let repository = stage.open().await;
    let lost = entry_of(&repository, "first").await.content.expect("content").pieces[0].chunk_id().expect("a chunk");
    spoil(&stage, &lost).await;
    let repository = stage.open().await;
    let to = folder();
    let report = restore(&repository, source.path(), into(to.path())).await;
    let told: BTreeSet<_> = report.failed.iter().map(|(path, _)| path.rsplit('/').next().expect("a name").to_owned()).collect();
    let names = ["first", "second", "third"].map(str::to_owned);
    assert_eq!((told, report.failed_count), (BTreeSet::from(names), 3), "{:?}", report.failed);
    assert_eq!(fs::read(to.path().join("well")).expect("read"), noise(2, 100_000));
}

/// A folder with one file that can be read, and two that cannot.
struct Unread(u64);

impl Source for Unread {
    fn next(&mut self) -> Option<Walked> {
        let (key, size) = [("", 0), ("large", 200_000), ("readable", 10), ("small", 100)].get(self.0 as usize).copied()?;
        self.0 += 1;
        let time = FileTime { seconds: 1_700_000_000, nanos: 0 };
        let kind = if key.is_empty() { Kind::Directory } else { Kind::File };
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let meta = Meta {
            kind,
            size,
            allocated: size,
            mode: if key.is_empty() { 0o755 } else { 0o644 },
            uid: owner.0,
            gid: owner.1,
            mtime: time,
            ctime: time,
            inode: self.0,
            device_id: 1,
            nlink: 1,
            rdev: (0, 0),
        };
        let origin = Origin::Given(Arc::new(Sometimes(key == "readable")));
        Some(Walked::Item(Found { key: key.into(), meta, origin, name: OsString::new() }))
    }
    fn vanished(&self) -> u64 {
        0
    }
}

struct Sometimes(bool);

impl Content for Sometimes {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.0 {
            return Err(io::Error::other("an input/output error"));
        }
        let length = buffer.len().min(10_usize.saturating_sub(offset as usize));
        buffer[..length].fill(b'r');
        Ok(length)
    }
}

/// What could not be read when it was backed up is not what stands in the target: that stays, and is told.
#[tokio::test(start_paused = true)]
async fn an_item_that_was_never_read_overwrites_nothing() {
    let stage = Stage::of(54, &["a"]);
    stage.init().await;
    let repository = stage.open().await;
    let given = Given { path: b"/given".to_vec(), source: Box::new(Unread(0)) };
    let settings = holdfast::backup::BackupSettings { paths: Vec::new(), ..backing_up(Path::new("/")) };
    let report: BackupReport =
        run_sources(&repository, &settings, vec![given], &Progress::default(), &Stop::default()).await.expect("a backup");
    assert_eq!(report.errors, 2, "{:?}", report.problems);
    for stands in [true, false] {
        let to = folder();
        if stands {
            for name in ["small", "large", "readable"] {
                fs::write(to.path().join(name), b"mine").expect("written");
                fs::set_permissions(to.path().join(name), fs::Permissions::from_mode(0o640)).expect("set");
            }
        }
        let repository = stage.open().await;
        for dry_run in [true, false] {
            let report = restore(&repository, Path::new("/given"), RestoreSettings { dry_run, ..into(to.path()) }).await;
            let told: Vec<_> = report.warnings.iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(told, ["/given/large", "/given/small"], "{:?}", report.warnings);
            assert_eq!(report.failed_count, 0);
        }
        assert_eq!(fs::read(to.path().join("readable")).expect("read"), b"rrrrrrrrrr");
        for name in ["small", "large"] {
            let at = to.path().join(name);
            let meta = fs::metadata(&at).expect("there");
            match stands {
                true => assert_eq!((fs::read(&at).expect("read"), meta.mode() & 0o777), (b"mine".to_vec(), 0o640), "{name}"),
                false => assert_eq!(meta.len(), 0, "{name}"),
            }
        }
    }
}

/// A store that overwrites is not told of damage: the record could destroy another's.
#[tokio::test(start_paused = true)]
async fn no_record_goes_to_a_store_that_overwrites() {
    let (stage, source) = three(55).await;
    let packs = stage.names_at(0, "data/").await;
    for at in 0..2 {
        stage.tamper(at, &packs[0], &|_| None).await;
    }
    let overwrites = crate::replica_faults::Careless(stage.stores[0].clone());
    let mut members = stage.members();
    members[0] = stage.wrapped("a", Arc::new(overwrites));
    let set = ReplicaSettings { prefer: vec!["a".into(), "b".into()], ..ReplicaSettings::default() };
    let opening = crate::support::stage::opening(set);
    let unlock = crate::support::stage::unlock();
    let repository = Repository::open(&stage.env, members, opening, &unlock, Access::Read).await.expect("it can be read");
    let slots = stage.names_at(0, "log/").await;
    let to = folder();
    let report = restore(&repository, source.path(), into(to.path())).await;
    assert_eq!(report.failed_count, 0, "{:?}", report.failed);
    assert!(report.notes.iter().any(|n| n.contains("store a") && n.contains("ignores create-if-absent")), "{:?}", report.notes);
    assert_eq!(stage.names_at(0, "log/").await, slots);
    assert!(report.notes.iter().any(|n| n.contains("store b: 1 damaged packs are distrusted")), "{:?}", report.notes);
}

/// What a run reads on its way and finds damaged, it does not rely on: the same bytes are sent again, there.
#[tokio::test(start_paused = true)]
async fn damage_met_by_a_backup_is_made_good_by_it() {
    let stage = Stage::new(56);
    stage.init().await;
    // So many items that their catalog has several nodes, most of which stay as they are.
    let source = tree(56, 3_000, 20);
    run(&stage.open().await, &backing_up(source.path())).await.expect("all is well");
    for pack in stage.names_at(0, "meta/").await {
        stage.tamper(0, &pack, &|bytes| Some(bytes[..20].to_vec())).await;
    }
    let set = ReplicaSettings { prefer: vec!["a".into()], ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members(), set).await.expect("all answer");
    fs::write(source.path().join("new"), b"new").expect("written");
    let report = run(&repository, &backing_up(source.path())).await.expect("two are whole");
    assert!(report.replicas.iter().all(|r| r.committed), "{:?}", report.replicas);
    stage.holds(&[0, 1, 2], report.snapshot.expect("committed"), source.path()).await;
}

/// A folder with a repository that everybody may read, the program, and a source.
struct Desk(tempfile::TempDir);

/// Someone who is not root and owns nothing.
const NOBODY: u32 = 65_534;

impl Desk {
    fn new() -> Desk {
        let desk = Desk(folder());
        fs::set_permissions(desk.at(""), fs::Permissions::from_mode(0o755)).expect("set");
        fs::copy(env!("CARGO_BIN_EXE_holdfast"), desk.at("holdfast")).expect("copied");
        fs::create_dir(desk.at("source")).expect("made");
        let config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\n[[store]]\nname = \"one\"\nurl = \"file:one\"\n";
        fs::write(desk.at("holdfast.toml"), config).expect("written");
        desk
    }
    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.0.path()).expect("there").join(path)
    }
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.at("holdfast"));
        command.args(words).current_dir(self.at("")).stdin(Stdio::null()).env("HOME", self.at("home"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        command
    }
    fn from(&self) -> String {
        format!("latest:{}", self.at("source").display())
    }
}

fn told(code: i32, output: &Output) -> String {
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

fn give_away(at: &Path) {
    for item in fs::read_dir(at).expect("a folder") {
        let item = item.expect("an item");
        if item.file_type().expect("a type").is_dir() {
            give_away(&item.path());
        }
        lchown(item.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    lchown(at, Some(NOBODY), Some(NOBODY)).expect("given away");
}

/// Who is not root gets all contents and modes; owners and devices are told of, and the exit code says: metadata only.
#[test]
fn without_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("ignored: only root can make files of others to restore as somebody else");
        return;
    }
    let desk = Desk::new();
    let source = desk.at("source");
    fs::create_dir_all(source.join("folder/locked")).expect("made");
    fs::write(source.join("plain"), noise(1, 300_000)).expect("written");
    fs::write(source.join("folder/locked/inside"), noise(2, 3_000)).expect("written");
    fs::write(source.join("set-user-id"), b"#!").expect("written");
    fs::write(source.join("secret"), b"secret").expect("written");
    fs::hard_link(source.join("plain"), source.join("folder/twin")).expect("linked");
    symlink("nowhere", source.join("link")).expect("made");
    let device = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let made = rustix::fs::mknodat(rustix::fs::CWD, source.join("device"), device, mode, rustix::fs::makedev(1, 3));
    lchown(source.join("plain"), Some(12_345), Some(54_321)).expect("given");
    for (name, mode) in [("set-user-id", 0o4755), ("secret", 0o400), ("folder/locked", 0o500), ("plain", 0o640)] {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    told(0, &desk.command(&["backup", "--init", "source"]).output().expect("it starts"));
    for name in ["one", "key", "state"] {
        match desk.at(name).is_dir() {
            true => give_away(&desk.at(name)),
            false => lchown(desk.at(name), Some(NOBODY), Some(NOBODY)).expect("given away"),
        }
    }
    fs::create_dir(desk.at("to")).expect("made");
    give_away(&desk.at("to"));
    let target = desk.at("to");
    for round in 0..2 {
        let mut command = desk.command(&["restore", &desk.from(), "--target", target.to_str().expect("text")]);
        let output = command.uid(NOBODY).gid(NOBODY).output().expect("it starts");
        let text = told(3, &output);
        assert!(text.contains("owner"), "round {round}: {text}");
        assert!(made.is_err() || text.contains("device"), "round {round}: {text}");
        let (was, is): (BTreeMap<_, _>, BTreeMap<_, _>) = (files_below(&source), files_below(&target));
        assert!(was == is, "round {round}: contents differ");
        for item in ["plain", "secret", "folder", "folder/locked", "folder/locked/inside", "set-user-id"] {
            let (was, is) = (fs::metadata(source.join(item)).expect("there"), fs::metadata(target.join(item)).expect("there"));
            assert_eq!((is.uid(), is.gid()), (NOBODY, NOBODY), "{item}");
            assert_eq!((was.mtime(), was.mtime_nsec()), (is.mtime(), is.mtime_nsec()), "{item}");
            // A set-user-id bit that was another's must not become ours.
            assert_eq!(is.mode() & 0o7777, was.mode() & 0o777, "{item}: {:o}", is.mode());
        }
        assert_eq!(fs::metadata(target.join("plain")).expect("there").nlink(), 2);
        assert_eq!(fs::read_link(target.join("link")).expect("a link"), Path::new("nowhere"));
    }
    // All of it withheld on purpose is no shortcoming.
    let quiet = ["restore", &desk.from(), "--no-owners", "--no-special", "--target", target.to_str().expect("text")];
    told(0, &desk.command(&quiet).uid(NOBODY).gid(NOBODY).output().expect("it starts"));
}

/// A file system of a few MiB that is gone with this.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(at: PathBuf, size: &str) -> Option<Tiny> {
        fs::create_dir_all(&at).expect("made");
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tiny"]).arg(&at).output();
        done.is_ok_and(|output| output.status.success()).then_some(Tiny(at))
    }
    fn resize(&self, size: &str) {
        let mut mount = Command::new("mount");
        let done = mount.args(["-o", &format!("remount,size={size}")]).arg(&self.0).output();
        assert!(done.is_ok_and(|output| output.status.success()));
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// A target that takes nothing any more ends the run, which says so; with room made, the same command finishes it.
#[test]
fn a_full_target() {
    let desk = Desk::new();
    let Some(tiny) = Tiny::mount(desk.at("tiny"), "6m") else {
        eprintln!("ignored: no small file system can be mounted here");
        return;
    };
    for i in 0..20 {
        fs::write(desk.at("source").join(format!("file-{i:02}")), noise(i, 1 << 20)).expect("written");
    }
    told(0, &desk.command(&["backup", "--init", "source"]).output().expect("it starts"));
    let target = tiny.0.join("to");
    let words = ["restore", &desk.from(), "--target", target.to_str().expect("text")];
    let text = told(1, &desk.command(&words).output().expect("it starts"));
    assert!(text.to_lowercase().contains("no space left"), "{text}");
    // What stands there is whole or does not look so.
    let sources: BTreeMap<_, _> = files_below(&desk.at("source"));
    for (key, bytes) in files_below(&target) {
        let name = String::from_utf8_lossy(&key).into_owned();
        let mode = fs::metadata(target.join(&name)).expect("there").mode() & 0o777;
        assert!(bytes == sources[&key] || mode == 0o600, "{name} looks whole: {mode:o}");
    }
    tiny.resize("40m");
    told(0, &desk.command(&words).output().expect("it starts"));
    assert!(files_below(&target) == sources);
    let catalog_root = catalog::join(b"", b"file-00");
    assert!(seen(&target).contains_key(&catalog_root));
}
