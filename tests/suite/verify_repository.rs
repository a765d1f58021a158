//! Verify by itself: what it lists, what it reads, what it names, what it writes down, and what it costs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use holdfast::cli::verify::outcome;
use holdfast::format::Hash;
use holdfast::format::entry::EntryKind;
use holdfast::format::pack::PackKind;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Mask, Member, ReplicaSettings};
use holdfast::repository::error::Fault as Class;
use holdfast::repository::layout;
use holdfast::repository::state::NOTE_VERIFY;
use holdfast::repository::{Access, Repository};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{ObjectInfo, Store};
use holdfast::verify::share::Share;
use holdfast::verify::{VerifyError, VerifyReport, VerifySettings};

use crate::support::faulty_store::Fault;
use crate::support::hostile_writer::{commit, entry, file, id_of, leaf, named, send};
use crate::support::stage::{Stage, backing_up, opening, run, tree, unlock};

async fn verify_with(repository: &Repository, settings: VerifySettings) -> VerifyReport {
    holdfast::verify::run(repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out")
}

fn reading(percent: f64) -> VerifySettings {
    VerifySettings { read_data: Some(Share::Percent(percent)), ..VerifySettings::default() }
}

async fn verify(stage: &Stage, settings: VerifySettings) -> VerifyReport {
    verify_with(&stage.open().await, settings).await
}

/// A stage with one backup of many small packs.
async fn backed_up(seed: u64) -> (Stage, tempfile::TempDir) {
    let stage = Stage::new(seed);
    stage.init().await;
    let source = tree(seed, 24, 20_000);
    let settings = holdfast::backup::BackupSettings { data_pack: 48 << 10, meta_pack: 1 << 10, ..backing_up(source.path()) };
    let report = run(&stage.open().await, &settings).await.expect("a backup");
    assert!(report.replicas.iter().all(|r| r.committed));
    (stage, source)
}

/// The pack behind a name.
fn hash(name: &ObjectName) -> Hash {
    layout::parse_hashed(name).expect("named by a hash").1
}

async fn distrusted(stage: &Stage, at: usize) -> BTreeSet<Hash> {
    stage.open().await.log(at).await.expect("readable").state.distrusted.clone()
}

#[tokio::test(start_paused = true)]
async fn what_is_whole_costs_a_listing_and_no_pack_of_content() {
    let (stage, _source) = backed_up(90).await;
    let calls = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let counted = calls.clone();
    let members = stage.members_but(0, move |call| {
        if call.operation == Operation::Get && call.name.starts_with("data/") {
            *counted.lock().expect("counting").entry("content".into()).or_default() += 1;
        }
        if call.operation == Operation::List && call.name.is_empty() {
            *counted.lock().expect("counting").entry("list".into()).or_default() += 1;
        }
        if call.operation == Operation::Stat && (call.name.starts_with("data/") || call.name.starts_with("meta/")) {
            *counted.lock().expect("counting").entry("stat".into()).or_default() += 1;
        }
        Fault::Pass
    });
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("opened");
    let report = verify_with(&repository, VerifySettings::default()).await;
    assert_eq!(outcome(&report).code(), 0, "{report:?}");
    assert_eq!(*calls.lock().expect("counted"), BTreeMap::from([("list".to_owned(), 1)]));
    for replica in &report.replicas {
        let packs = stage.names_at(0, "data/").await.len() + stage.names_at(0, "meta/").await.len();
        assert_eq!((replica.snapshots, replica.packs, replica.packs_read, replica.foreign), (1, packs as u64, 0, 0));
        assert!(replica.notes.is_empty(), "{replica:?}");
    }
    let mut log = repository.log(0).await.expect("readable");
    let noted = log.state.noted(NOTE_VERIFY);
    assert!(noted.is_some(), "that it was verified stands in the log");
    log.write_checkpoint().await.expect("a checkpoint");
    drop(log);
    let again = stage.open().await;
    let log = again.log(0).await.expect("readable");
    assert!(log.checkpointed > 0, "the checkpoint is read");
    assert_eq!(log.state.noted(NOTE_VERIFY), noted, "and in a checkpoint, too");
}

#[tokio::test(start_paused = true)]
async fn a_missing_pack_is_named_with_what_needs_it_and_distrusted() {
    let (stage, source) = backed_up(91).await;
    let pack = stage.names_at(1, "data/").await[2].clone();
    stage.tamper(1, &pack, &|_| None).await;
    let report = verify(&stage, VerifySettings::default()).await;
    assert_eq!(outcome(&report).code(), 14);
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert_eq!((damage.replica.as_str(), damage.object.as_str(), damage.what.as_str()), ("b", pack.as_str(), "it is missing"));
    // Exactly the files that lie in it: the index says which.
    let repository = stage.open().await;
    let id = repository.snapshots().await.expect("listed")[0].id;
    let index = repository.index().await.expect("an index");
    let number = index.read().expect("read").pack_number(&hash(&pack)).expect("known");
    let mut expected = BTreeSet::new();
    for (key, entry) in crate::support::stage::entries(&repository, id).await.expect("entries") {
        let pieces = crate::support::stage::pieces(&repository, &entry).await.expect("pieces");
        let index = index.read().expect("read");
        if pieces.iter().filter_map(|p| p.chunk_id()).any(|id| index.places(&id).iter().any(|p| p.pack == number)) {
            let path = String::from_utf8(key).expect("plain names").replace('\0', "/");
            expected.insert((source.path().join(path).display().to_string(), hex::encode(&id[..4])));
        }
    }
    assert!(!expected.is_empty());
    assert_eq!(damage.affects.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(report.replicas[1].distrusted, 1);
    for (at, packs) in [(0, BTreeSet::new()), (1, BTreeSet::from([hash(&pack)])), (2, BTreeSet::new())] {
        assert_eq!(distrusted(&stage, at).await, packs, "each log speaks for its own replica");
    }
    // A second verify finds it again, and has nothing new to write down.
    let report = verify(&stage, VerifySettings::default()).await;
    assert_eq!((outcome(&report).code(), report.replicas[1].distrusted), (14, 0));
}

#[tokio::test(start_paused = true)]
async fn a_share_is_read_and_what_is_distrusted_always_is() {
    let (stage, _source) = backed_up(92).await;
    let packs = stage.names_at(0, "data/").await.len() + stage.names_at(0, "meta/").await.len();
    assert!(packs > 8, "{packs}");
    let mut seen = BTreeSet::new();
    for (percent, count) in [(0.001, 1), (25.0, packs.div_ceil(4)), (50.0, packs.div_ceil(2)), (100.0, packs)] {
        let report = verify(&stage, reading(percent)).await;
        assert_eq!(outcome(&report).code(), 0);
        assert!(report.replicas.iter().all(|r| r.packs_read == count as u64), "{percent}: {report:?}");
        seen.insert(report.replicas[0].bytes_read);
    }
    assert_eq!(seen.len(), 4);
    // A bit in each pack of one replica: whatever is drawn is found, and nothing that was not drawn.
    for name in stage.names_at(2, "data/").await {
        stage
            .tamper(2, &name, &|mut bytes| {
                bytes[40] ^= 1;
                Some(bytes)
            })
            .await;
    }
    let report = verify(&stage, reading(30.0)).await;
    let found = report.replicas[2].distrusted;
    assert!(found > 0 && found as usize <= packs.div_ceil(3), "{report:?}");
    assert_eq!(report.damage_count, found);
    // Next time those are read besides the ones drawn.
    let report = verify(&stage, reading(0.001)).await;
    assert!(report.damage_count >= found, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn trust_comes_back_with_every_byte_and_not_before() {
    let (stage, _source) = backed_up(93).await;
    let name = stage.names_at(0, "data/").await[0].clone();
    let repository = stage.open().await;
    repository.distrust(0, vec![hash(&name)]).await.expect("written");
    drop(repository);
    // What was found damaged stays so while nobody reads it, and a snapshot that needs it says so.
    let report = verify(&stage, VerifySettings::default()).await;
    assert_eq!(outcome(&report).code(), 14, "{report:?}");
    assert!(report.damages.iter().all(|d| d.object == name.as_str() && !d.affects.is_empty()), "{report:?}");
    assert_eq!(distrusted(&stage, 0).await, BTreeSet::from([hash(&name)]));
    let report = verify(&stage, reading(0.001)).await;
    assert_eq!((outcome(&report).code(), report.replicas[0].lifted), (0, 1), "{report:?}");
    assert_eq!(distrusted(&stage, 0).await, BTreeSet::new());
}

/// A store whose listing does not show everything.
struct Shy {
    inner: Arc<dyn Store>,
    hidden: ObjectName,
}

impl Store for Shy {
    fn label(&self) -> &str {
        self.inner.label()
    }
    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.put(name, bytes)
    }
    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.inner.get(name, range)
    }
    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        self.inner.stat(name)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let shown = move |item: &Result<ObjectInfo, StoreError>| item.as_ref().map_or(true, |info| info.name != self.hidden);
        self.inner.list(prefix).filter(move |item| std::future::ready(shown(item))).boxed()
    }
    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        self.inner.delete(names)
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_only_proposes() {
    let (stage, _source) = backed_up(94).await;
    let hidden = stage.names_at(0, "data/").await[1].clone();
    let mut members = stage.members();
    members[0] = stage.wrapped("a", Arc::new(Shy { inner: Arc::new(stage.stores[0].clone()), hidden }));
    // What nobody knows is counted and is no damage.
    stage.stores[0].put(&crate::support::name("notes.txt"), Bytes::from_static(b"hello")).await.expect("stored");
    let orphan = layout::hashed(layout::Class::DataPack, blake3::hash(b"orphan").as_bytes());
    stage.stores[0].put(&orphan, Bytes::from_static(b"orphan")).await.expect("stored");
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("opened");
    let report = verify_with(&repository, VerifySettings::default()).await;
    assert_eq!(outcome(&report).code(), 0, "{report:?}");
    assert_eq!(report.replicas.iter().map(|r| r.foreign).collect::<Vec<_>>(), [2, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_no_damage() {
    let (stage, _source) = backed_up(95).await;
    for (kind, code, fault) in [(StoreErrorKind::Unavailable, 4, Class::Failed), (StoreErrorKind::Denied, 13, Class::Denied)] {
        let away = stage.members_but(1, move |call| match call.name.starts_with("data/") || call.operation == Operation::List {
            true => Fault::FailBefore(kind),
            false => Fault::Pass,
        });
        let repository = match stage.open_at(away, ReplicaSettings::default()).await {
            Ok(repository) => repository,
            Err(e) => panic!("{e}"),
        };
        let report = verify_with(&repository, reading(100.0)).await;
        assert_eq!(outcome(&report).code(), code, "{kind:?}: {report:?}");
        assert_eq!((report.damage_count, report.replicas[1].fault), (0, Some(fault)), "{report:?}");
        assert_eq!(distrusted(&stage, 1).await, BTreeSet::new(), "nothing is held against what could not be asked for");
    }
    let member = |name: &str, store: Result<_, StoreError>| Member { name: name.into(), url: format!("memory:{name}"), store };
    let mut members = stage.members();
    members[2] = member("c", Err(StoreError::new(StoreErrorKind::Unavailable, "c", "opening")));
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("the others are there");
    let report = verify_with(&repository, VerifySettings::default()).await;
    assert_eq!((outcome(&report).code(), report.damage_count), (4, 0), "{report:?}");
    assert!(report.replicas.iter().any(|r| r.name == "c" && r.unreachable.is_some()));
}

#[tokio::test(start_paused = true)]
async fn one_store_alone_and_settings_that_cannot_be() {
    let (stage, _source) = backed_up(96).await;
    let gone = stage.names_at(1, "data/").await[0].clone();
    stage.tamper(1, &gone, &|_| None).await;
    let of = |only: &str| VerifySettings { only: Some(only.into()), ..VerifySettings::default() };
    for (only, code) in [("a", 0), ("b", 14), ("c", 0)] {
        let report = verify(&stage, of(only)).await;
        assert_eq!(outcome(&report).code(), code, "{only}: {report:?}");
        assert_eq!(report.replicas.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), [only]);
    }
    let repository = stage.open().await;
    for settings in [of("d"), reading(0.0), reading(-1.0), reading(100.1), reading(f64::NAN)] {
        let refused = holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await;
        assert!(matches!(refused, Err(VerifyError::Settings(_))), "{settings:?}");
    }
    let stop = Stop::default();
    stop.request();
    let stopped = holdfast::verify::run(&repository, &reading(100.0), &Progress::default(), &stop).await;
    assert!(matches!(stopped, Err(VerifyError::Interrupted)));
}

#[tokio::test(start_paused = true)]
async fn what_a_catalog_lacks_is_named_by_path() {
    let all = Mask(0b111);
    let stage = Stage::new(97);
    stage.init().await;
    let repository = stage.open().await;
    let (here, half, nowhere) = (b"here".as_slice(), b"half".as_slice(), b"nowhere".as_slice());
    let ids = [here, half, nowhere].map(|bytes| id_of(&repository, bytes));
    let of = |at: usize, bytes: &[u8]| file(&[(ids[at], bytes.len() as u64)]);
    let node =
        leaf(&[(b"", entry(EntryKind::Directory)), (b"half", of(1, half)), (b"here", of(0, here)), (b"nowhere", of(2, nowhere))]);
    let bytes = (here.len() + half.len() + nowhere.len()) as u64;
    let child = named(&repository, &node, 0, 4, bytes);
    let data = send(&repository, PackKind::Data, &[(ids[0], Bytes::from_static(b"here"))], all).await;
    let meta = send(&repository, PackKind::Meta, &[(id_of(&repository, &node), node.clone())], all).await;
    // One chunk only two of the replicas have.
    let two = send(&repository, PackKind::Data, &[(ids[1], Bytes::from_static(b"half"))], Mask(0b011)).await;
    let (segments, failed) = repository.send_segments(vec![(two, Mask(0b011))]).await;
    assert!(failed.is_empty());
    for at in 0..2 {
        repository.publish(at, &segments).await.expect("published");
    }
    let id = commit(&repository, vec![data, meta], child, all, 5).await;
    let short = hex::encode(&id[..4]);
    let report = verify(&stage, VerifySettings::default()).await;
    assert_eq!(outcome(&report).code(), 14);
    let mut told: Vec<(String, String, String, String)> = Vec::new();
    for damage in &report.damages {
        for (path, snapshot) in &damage.affects {
            told.push((damage.replica.clone(), damage.object.clone(), path.clone(), snapshot.clone()));
        }
    }
    told.sort();
    let row = |replica: &str, at: usize, path: &str| (replica.into(), format!("chunk {}", ids[at]), path.into(), short.clone());
    let mut expected =
        vec![row("a", 2, "/root/nowhere"), row("b", 2, "/root/nowhere"), row("c", 1, "/root/half"), row("c", 2, "/root/nowhere")];
    expected.sort();
    assert_eq!(told, expected);
    assert!(report.replicas.iter().all(|r| r.distrusted == 0));

    // A catalog that is not in order is wrong wherever the snapshot is, and costs nothing else.
    let stage = Stage::new(98);
    stage.init().await;
    let repository = stage.open().await;
    let node = leaf(&[(b"", entry(EntryKind::Directory)), (b"b", entry(EntryKind::File)), (b"a", entry(EntryKind::File))]);
    let meta = send(&repository, PackKind::Meta, &[(id_of(&repository, &node), node.clone())], all).await;
    let id = commit(&repository, vec![meta], named(&repository, &node, 0, 3, 0), all, 5).await;
    let report = verify(&stage, VerifySettings::default()).await;
    assert_eq!((outcome(&report).code(), report.damage_count), (14, 3), "{report:?}");
    let object = format!("snapshot {}", hex::encode(&id[..4]));
    assert!(report.damages.iter().all(|d| d.object == object && d.what.contains("order")), "{report:?}");
}

/// One connection, little memory, slow answers, several replicas and segments: everything waits for everything, and it ends.
#[tokio::test(start_paused = true)]
async fn narrow_stores_do_not_hold_each_other_up() {
    let (stage, source) = backed_up(99).await;
    crate::support::stage::grow(source.path(), 5, 100..120, 20_000);
    stage.backup(stage.members(), source.path()).await.expect("a second one");
    let settings = StoreSettings { connections: 1, ..StoreSettings::default() };
    let narrow = |at: usize| {
        let slow = crate::support::faulty_store::FaultyStore::new(&stage.env, Arc::new(stage.stores[at].clone()), |_| {
            Fault::Delay(std::time::Duration::from_millis(200))
        });
        let store = holdfast::store::wrap(&stage.env, Arc::new(slow), &settings);
        Member { name: stage.names[at].into(), url: format!("memory:{at}"), store: Ok(store) }
    };
    let open = async || {
        let members = (0..3).map(narrow).collect();
        Repository::open(&stage.env, members, opening(ReplicaSettings::default()), &unlock(), Access::Write)
            .await
            .expect("opened")
    };
    let day = std::time::Duration::from_secs(24 * 3600);
    let repository = open().await;
    let little = VerifySettings { memory: 64 << 10, ..reading(100.0) };
    let report = stage.env.timeout(day, verify_with(&repository, little)).await.expect("verify ends");
    assert_eq!(outcome(&report).code(), 0, "{report:?}");
    let repository = open().await;
    let backup = stage.env.timeout(day, run(&repository, &backing_up(source.path()))).await.expect("a backup ends");
    assert!(backup.expect("a backup").replicas.iter().all(|r| r.committed));
    let repository = open().await;
    let target = tempfile::tempdir().expect("a folder");
    assert_eq!(stage.env.timeout(day, restore(&repository, target.path())).await.expect("a restore ends"), 0);
}

async fn restore(repository: &Repository, target: &Path) -> u64 {
    let views = repository.snapshots().await.expect("listed");
    let settings = holdfast::restore::RestoreSettings {
        target: target.to_owned(),
        memory: 64 << 10,
        ..holdfast::restore::RestoreSettings::default()
    };
    let snapshot = &views.last().expect("one").snapshot;
    let done = holdfast::restore::run(repository, snapshot, &settings, &Progress::default(), &Stop::default()).await;
    done.expect("restored").failed_count
}
