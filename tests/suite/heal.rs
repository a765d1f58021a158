//! Heal: a replica that was away, an empty store, damage; and what must not happen on the way: a forgotten snapshot that comes
//! back, a pack sent twice, a commit of what is not there. Every replica must then, alone, give everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::format::Hash;
use holdfast::format::record::{Action, Condemn, Forget, ObjectClass, ObjectRef};
use holdfast::lifecycle::heal::{Extent, HealError, HealSettings, run as heal};
use holdfast::lifecycle::heal_report::HealReport;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::repository::error::Fault as Class;
use holdfast::repository::keyring::Unlock;
use holdfast::repository::layout;
use holdfast::seal::key::KdfParams;
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;

use crate::support::faulty_store::{Call, Fault, FaultyStore, How};
use crate::support::recording_store::{Record, RecordingStore};
use crate::support::rig;
use crate::support::stage::{Stage, backing_up, contents, copy_of, files_below, grow, run, tree};

const DEAD: Fault = Fault::FailBefore(StoreErrorKind::Unavailable);

fn settings() -> HealSettings {
    HealSettings { memory: 16 << 20, data_pack: 256 << 10, meta_pack: 64 << 10, ..HealSettings::default() }
}

async fn healed(repository: &Repository, settings: &HealSettings) -> Result<HealReport, HealError> {
    heal(repository, settings, &Progress::default(), &Stop::default()).await
}

/// Heals at these members, and expects nothing to be left.
async fn heal_all(stage: &Stage, members: Vec<Member>) -> HealReport {
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("all is well");
    let report = healed(&repository, &settings()).await.expect("a heal");
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    report
}

/// What a snapshot has to hold, by id.
type Trees = BTreeMap<Hash, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Every replica of `at` alone holds exactly these snapshots, and gives all of them back.
async fn each_holds(stage: &Stage, at: &[usize], trees: &Trees) {
    for at in at {
        let repository = stage.open_alone(*at).await;
        let held: BTreeSet<Hash> = repository.live().await.iter().map(|live| live.id).collect();
        assert_eq!(held, trees.keys().copied().collect(), "replica {}", stage.names[*at]);
        for (id, tree) in trees {
            let found = contents(&repository, *id).await.unwrap_or_else(|e| panic!("replica {}: {e}", stage.names[*at]));
            assert!(found == *tree, "replica {} gives back other contents", stage.names[*at]);
        }
        assert!(repository.take_met().is_empty());
        drop(repository);
    }
}

/// Backs up at `members`, with the tree that the snapshot has to hold.
async fn backup(stage: &Stage, members: Vec<Member>, path: &Path, trees: &mut Trees) {
    let report = stage.backup(members, path).await.expect("a backup");
    trees.insert(report.snapshot.expect("committed"), files_below(path));
}

/// All members but the last, which is away.
fn away(stage: &Stage) -> Vec<Member> {
    stage.members_but(stage.stores.len() - 1, |_| DEAD)
}

/// One backup at all, then `more` without c.
async fn c_was_away(seed: u64, more: usize) -> (Stage, Trees) {
    let stage = Stage::new(seed);
    stage.init().await;
    let source = tree(seed, 40, 30_000);
    let mut trees = Trees::new();
    backup(&stage, stage.members(), source.path(), &mut trees).await;
    for round in 0..more {
        grow(source.path(), seed + 100 + round as u64, 40 + round * 8..48 + round * 8, 30_000);
        backup(&stage, away(&stage), source.path(), &mut trees).await;
    }
    (stage, trees)
}

fn recorded(stage: &Stage) -> (Vec<RecordingStore>, Vec<Member>) {
    let notes: Vec<_> = stage.stores.iter().map(|store| RecordingStore::new(Arc::new(store.clone()))).collect();
    let members = stage.names.iter().zip(&notes).map(|(name, store)| stage.wrapped(name, Arc::new(store.clone()))).collect();
    (notes, members)
}

fn count(records: &[Record], operation: Operation, class: &str) -> usize {
    records.iter().filter(|r| r.operation == operation && r.name.starts_with(class)).count()
}

async fn sizes(store: &dyn Store, prefixes: [&str; 2]) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    for prefix in prefixes {
        for name in rig::names(store, prefix).await {
            let object = ObjectName::new(&name).expect("a name");
            sizes.insert(name, store.stat(&object).await.expect("memory answers").expect("there").size);
        }
    }
    sizes
}

#[tokio::test(start_paused = true)]
async fn five_backups_are_caught_up_with_only_what_is_missing() {
    let (stage, trees) = c_was_away(1, 5).await;
    let packs = ["data/", "meta/"];
    let (had, all) = (sizes(&stage.stores[2], packs).await, sizes(&stage.stores[0], packs).await);
    let missing: BTreeMap<_, _> = all.iter().filter(|(name, _)| !had.contains_key(*name)).collect();
    let (notes, members) = recorded(&stage);
    let report = heal_all(&stage, members).await;
    let c = &report.replicas[2];
    assert_eq!((c.lacked, c.snapshots), (5, 5), "{c:?}");
    // All packs of those runs are as good as new: each is copied as it is, once, and nothing else is.
    let bill = notes[2].records();
    let puts: BTreeMap<_, _> = bill
        .iter()
        .filter(|r| r.operation == Operation::Put && packs.iter().any(|p| r.name.starts_with(p)))
        .map(|r| (&r.name, &r.bytes))
        .collect();
    assert_eq!(puts, missing, "{report:?}");
    assert_eq!(count(&bill, Operation::Put, "data/") + count(&bill, Operation::Put, "meta/"), missing.len());
    assert_eq!(c.bytes_sent, missing.values().copied().sum::<u64>());
    assert_eq!(count(&bill, Operation::Put, "index/"), 1);
    assert_eq!(count(&bill, Operation::Put, "snapshots/"), 5);
    assert_eq!(count(&bill, Operation::Put, "log/"), 6, "one publication, five commits");
    assert_eq!(count(&bill, Operation::Get, "data/"), 0);
    for source in &notes[..2] {
        let bill = source.records();
        assert_eq!(
            bill.iter().filter(|r| r.operation == Operation::Put).map(|r| r.name.as_str()).collect::<Vec<_>>(),
            ["descriptor"],
            "the probe"
        );
        assert!(count(&bill, Operation::Get, "data/") <= missing.len(), "each pack is read once");
    }
    each_holds(&stage, &[0, 1, 2], &trees).await;
    rig::verify_all(&stage.open().await).await.expect("nothing is wrong anywhere");

    let (notes, members) = recorded(&stage);
    heal_all(&stage, members).await;
    for store in &notes {
        let bill = store.records();
        assert_eq!(bill.iter().filter(|r| r.operation == Operation::Put).count(), 1, "the probe: {bill:?}");
    }
}

/// What a backup does first: nothing where nothing is lacking, little where little is, and not at all where much is.
#[tokio::test(start_paused = true)]
async fn small_gaps_are_healed_before_a_backup() {
    let small = HealSettings { extent: Extent::SmallGaps, ..settings() };
    let (stage, trees) = c_was_away(2, 1).await;
    let set = ReplicaSettings { behind_limit: 100_000, ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members(), set).await.expect("all is well");
    let report = healed(&repository, &small).await.expect("a heal");
    assert!(report.replicas.is_empty(), "it lacks more than that: {report:?}");
    drop(repository);
    let repository = stage.open().await;
    let report = healed(&repository, &small).await.expect("a heal");
    assert_eq!(report.replicas[2].snapshots, 1, "{report:?}");
    drop(repository);
    each_holds(&stage, &[0, 1, 2], &trees).await;

    let (notes, members) = recorded(&stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("all is well");
    repository.index().await.expect("a backup needs it, too");
    notes.iter().for_each(|store| drop(store.take()));
    healed(&repository, &small).await.expect("a heal");
    notes.iter().for_each(|store| assert_eq!(store.take(), [], "nothing is lacking: nothing is asked"));
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_becomes_a_full_replica() {
    let stage = Stage::new(3);
    let two = || stage.members().into_iter().take(2).collect::<Vec<_>>();
    stage.init_at(two()).await.expect("two stores");
    let source = tree(3, 60, 30_000);
    let mut trees = Trees::new();
    for round in 0..3 {
        grow(source.path(), 30 + round, 60..66, 30_000);
        backup(&stage, two(), source.path(), &mut trees).await;
    }
    let report = stage.backup(stage.members(), source.path()).await.expect("two of three are enough");
    let c = &report.replicas[2];
    assert!(!c.committed && c.behind.as_ref().is_some_and(|why| why.contains("run `holdfast heal`")), "{c:?}");
    assert!(stage.names_at(2, "").await.is_empty(), "a backup makes no replica");
    trees.insert(report.snapshot.expect("committed"), files_below(source.path()));

    let repository = stage.open().await;
    let dry = healed(&repository, &HealSettings { dry_run: true, ..settings() }).await.expect("a dry run");
    assert!(dry.replicas[2].needed > 1_000_000 && dry.replicas[2].lacked == 4, "{dry:?}");
    assert!(stage.names_at(2, "").await.is_empty());
    assert_eq!(repository.unbegun().indices().collect::<Vec<_>>(), [2]);
    repository.begin(2).await.expect("it is empty");
    drop(repository);
    let report = heal_all(&stage, stage.members()).await;
    assert_eq!(report.replicas[2].snapshots, 4);
    each_holds(&stage, &[0, 1, 2], &trees).await;
    rig::verify_all(&stage.open().await).await.expect("nothing is wrong anywhere");
    let ids: BTreeSet<_> = {
        let repository = stage.open().await;
        let mut ids = BTreeSet::new();
        for i in 0..3 {
            ids.insert(repository.log(i).await.expect("readable").state.replica_id);
        }
        ids
    };
    assert_eq!(ids.len(), 3, "a replica of its own");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_holds_something_else_is_refused() {
    let stage = Stage::new(4);
    stage.init_at(stage.members().into_iter().take(2).collect()).await.expect("two stores");
    let name = ObjectName::new("holiday/beach.jpg").expect("a name");
    stage.stores[2].put(&name, Bytes::from_static(b"sand")).await.expect("memory");
    let repository = stage.open().await;
    let e = repository.begin(2).await.expect_err("it is not empty");
    assert_eq!(e.fault, Class::Usage, "{e}");
    assert_eq!(rig::names(&stage.stores[2], "").await, ["holiday/beach.jpg"]);
}

/// Deleted and changed packs at one replica, found by verify.
#[tokio::test(start_paused = true)]
async fn damage_is_replaced_from_another_replica() {
    let (stage, trees) = c_was_away(5, 0).await;
    let mut bad = Vec::new();
    for (nth, name) in [stage.names_at(2, "data/").await, stage.names_at(2, "meta/").await].concat().into_iter().enumerate() {
        match nth % 3 {
            0 => stage.tamper(2, &name, &|_| None).await,
            1 => {
                stage
                    .tamper(2, &name, &|mut bytes| {
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 4;
                        Some(bytes)
                    })
                    .await;
            }
            _ => continue,
        }
        bad.push(name);
    }
    assert!(bad.len() > 2);
    let repository = stage.open().await;
    rig::verify_all(&repository).await.expect_err("it is damaged");
    drop(repository);
    let before = rig::names(&stage.stores[2], "").await;
    let report = heal_all(&stage, stage.members()).await;
    assert!(report.replicas[2].packs_made > 0, "{report:?}");
    let after: BTreeSet<_> = rig::names(&stage.stores[2], "").await.into_iter().collect();
    assert!(before.iter().all(|name| after.contains(name)), "nothing is deleted");
    let repository = stage.open().await;
    assert_eq!(repository.log(2).await.expect("readable").state.distrusted.len(), bad.len(), "distrust stays");
    drop(repository);
    for name in &bad {
        stage.stores[2].delete(std::slice::from_ref(name)).await;
    }
    each_holds(&stage, &[2], &trees).await;
    let again = heal_all(&stage, stage.members()).await;
    assert_eq!(again.replicas[2].bytes_sent, 0, "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_anywhere_does_not_come_back() {
    let (stage, mut trees) = c_was_away(6, 3).await;
    let repository = stage.open().await;
    // The newest but one; one replica alone has heard of it.
    let gone = repository.live().await[1].id;
    let forget = Action::Forget(Forget { ids: vec![Bytes::copy_from_slice(&gone)] });
    repository.log(1).await.expect("readable").append(forget, true, &[], |_| Ok(())).await.expect("written");
    drop(repository);
    let report = heal_all(&stage, stage.members()).await;
    assert_eq!(report.replicas[2].snapshots, 2, "{report:?}");
    let repository = stage.open_alone(2).await;
    assert!(!repository.log(0).await.expect("readable").state.snapshots.contains_key(&gone));
    trees.remove(&gone);
    each_holds(&stage, &[1, 2], &trees).await;
}

/// A name that was condemned at the target is void there for good: the frames come under a fresh one.
#[tokio::test(start_paused = true)]
async fn a_condemned_name_is_not_used_again() {
    let (stage, trees) = c_was_away(7, 2).await;
    let had: BTreeSet<_> = rig::names(&stage.stores[2], "").await.into_iter().collect();
    let mut names =
        [stage.names_at(0, "data/").await, stage.names_at(0, "meta/").await, stage.names_at(0, "snapshots/").await].concat();
    names.retain(|name| !had.contains(name.as_str()));
    let objects = names.iter().map(|name| {
        let (class, hash) = layout::parse_hashed(name).expect("ours");
        let class = match class {
            layout::Class::DataPack => ObjectClass::Data,
            layout::Class::MetaPack => ObjectClass::Meta,
            _ => ObjectClass::Snapshot,
        };
        ObjectRef { class: class as i32, hash: Bytes::copy_from_slice(&hash) }
    });
    let condemn = Action::Condemn(Condemn { objects: objects.collect(), lists: Vec::new() });
    let repository = stage.open().await;
    repository.log(2).await.expect("readable").append(condemn, true, &[], |_| Ok(())).await.expect("written");
    drop(repository);
    let report = heal_all(&stage, stage.members()).await;
    assert_eq!((report.replicas[2].snapshots, report.replicas[2].packs_copied), (2, 0), "{report:?}");
    let now: BTreeSet<_> = rig::names(&stage.stores[2], "").await.into_iter().collect();
    assert!(names.iter().all(|name| !now.contains(name.as_str())));
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// Something else lies at the target under the name of a pack.
#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_avoided() {
    let (stage, trees) = c_was_away(8, 2).await;
    let had: BTreeSet<_> = rig::names(&stage.stores[2], "").await.into_iter().collect();
    for name in stage.names_at(0, "data/").await.into_iter().filter(|name| !had.contains(name.as_str())) {
        stage.stores[2].put(&name, Bytes::from_static(b"half a pack")).await.expect("free");
    }
    let report = heal_all(&stage, stage.members()).await;
    assert!(report.replicas[2].packs_made > 0, "{report:?}");
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// A pack of which the target lacks little is not copied whole.
#[tokio::test(start_paused = true)]
async fn few_frames_are_regrouped() {
    let stage = Stage::new(9);
    stage.init().await;
    let source = tree(9, 4, 400_000);
    let mut trees = Trees::new();
    // C has nearly everything, in packs of its own; a and b get packs that hold little that is new to it.
    let alone = vec![stage.wrapped("c", Arc::new(stage.stores[2].clone()))];
    backup(&stage, alone, source.path(), &mut trees).await;
    grow(source.path(), 90, 4..6, 100_000);
    let two = || stage.members().into_iter().take(2).collect::<Vec<_>>();
    let large = holdfast::backup::BackupSettings {
        data_pack: 8 << 20,
        memory: 64 << 20,
        ..crate::support::stage::backing_up(source.path())
    };
    let repository = stage.open_at(two(), ReplicaSettings::default()).await.expect("all is well");
    let done = run(&repository, &large).await.expect("a backup");
    drop(repository);
    trees.insert(done.snapshot.expect("committed"), files_below(source.path()));
    let (notes, members) = recorded(&stage);
    let report = heal_all(&stage, members).await;
    let c = &report.replicas[2];
    assert!(c.packs_made >= 1 && c.bytes_sent < 500_000, "{c:?}");
    let read: u64 = notes[..2].iter().flat_map(|n| n.records()).filter(|r| r.name.starts_with("data/")).map(|r| r.bytes).sum();
    let whole = notes[..2]
        .iter()
        .flat_map(|n| n.records())
        .filter(|r| r.name.starts_with("data/") && r.bytes == 0 && r.operation == Operation::Get)
        .count();
    assert!(read < 900_000 && whole == 0, "{read} bytes and {whole} whole packs were read");
    each_holds(&stage, &[0, 1, 2], &trees).await;
    rig::verify_all(&stage.open().await).await.expect("nothing is wrong anywhere");
}

/// One source gives damaged packs: the other is taken, and the damage is written down.
#[tokio::test(start_paused = true)]
async fn a_damaged_source_is_passed_over_and_distrusted() {
    let (stage, trees) = c_was_away(10, 2).await;
    let had: BTreeSet<_> = rig::names(&stage.stores[2], "").await.into_iter().collect();
    let mut bad = BTreeSet::new();
    for name in stage.names_at(0, "data/").await.into_iter().filter(|name| !had.contains(name.as_str())) {
        stage
            .tamper(0, &name, &|mut bytes| {
                bytes[100] ^= 1;
                Some(bytes)
            })
            .await;
        bad.insert(layout::parse_hashed(&name).expect("ours").1);
    }
    let set = ReplicaSettings { prefer: vec!["a".into()], ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members(), set).await.expect("all is well");
    let report = healed(&repository, &settings()).await.expect("a heal");
    assert_eq!(report.replicas[2].snapshots, 2, "{report:?}");
    assert!(report.notes.iter().any(|n| n.contains("store a") && n.contains("damaged")), "{:?}", report.notes);
    assert_eq!(repository.log(0).await.expect("readable").state.distrusted, bad);
    drop(repository);
    each_holds(&stage, &[1, 2], &trees).await;
    // And now a is healed, too.
    heal_all(&stage, stage.members()).await;
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// What is damaged wherever it lies is told, nothing that needs it is committed, and the rest is.
#[tokio::test(start_paused = true)]
async fn what_is_lost_everywhere_is_not_committed() {
    let (stage, trees) = c_was_away(11, 2).await;
    let had: BTreeSet<_> = rig::names(&stage.stores[2], "").await.into_iter().collect();
    let name = stage.names_at(0, "data/").await.into_iter().find(|name| !had.contains(name.as_str())).expect("one");
    for at in [0, 1] {
        stage.tamper(at, &name, &|_| None).await;
    }
    let repository = stage.open().await;
    let report = healed(&repository, &settings()).await.expect("a heal");
    let c = &report.replicas[2];
    assert!(c.behind.is_some() && c.snapshots < 2, "{report:?}");
    drop(repository);
    let alone = stage.open_alone(2).await;
    let held: Vec<Hash> = alone.live().await.iter().map(|live| live.id).collect();
    assert!((1..3).contains(&held.len()));
    for id in held {
        assert!(contents(&alone, id).await.expect("what is committed is there") == trees[&id]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing() {
    let (stage, _) = c_was_away(12, 2).await;
    let (notes, members) = recorded(&stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("all is well");
    notes.iter().for_each(|store| drop(store.take()));
    let report = healed(&repository, &HealSettings { dry_run: true, ..settings() }).await.expect("a dry run");
    assert!(
        report.replicas[2].needed > 400_000 && report.replicas[2].lacked == 2 && report.replicas[2].behind.is_none(),
        "{report:?}"
    );
    let sources = &report.replicas[2].sources;
    assert_eq!(sources.values().sum::<u64>(), report.replicas[2].needed, "{report:?}");
    assert!(sources.keys().all(|name| name == "a" || name == "b"), "{report:?}");
    for store in &notes {
        let bill = store.take();
        assert_eq!(bill.iter().filter(|r| matches!(r.operation, Operation::Put | Operation::Delete)).count(), 0);
        assert_eq!(count(&bill, Operation::Get, "data/"), 0, "what it would copy is known without reading it");
    }
}

#[tokio::test(start_paused = true)]
async fn two_heals_at_once_and_a_backup_beside_them() {
    let (stage, mut trees) = c_was_away(13, 3).await;
    let source = tree(1300, 30, 30_000);
    let (one, two, three) = (stage.open().await, stage.open().await, stage.open().await);
    let settings_ = settings();
    let backing = crate::support::stage::backing_up(source.path());
    let (first, second, report) = futures::join!(healed(&one, &settings_), healed(&two, &settings_), run(&three, &backing));
    let (first, second) = (first.expect("a heal"), second.expect("a heal"));
    assert!(first.replicas[2].behind.is_none() && second.replicas[2].behind.is_none(), "{first:?} {second:?}");
    let report = report.expect("a backup");
    assert!(report.replicas.iter().all(|r| r.committed), "{report:?}");
    trees.insert(report.snapshot.expect("committed"), files_below(source.path()));
    drop((one, two, three));
    each_holds(&stage, &[0, 1, 2], &trees).await;
    rig::verify_all(&stage.open().await).await.expect("nothing is wrong anywhere");
}

/// The target dies in the middle; the sources are away.
#[tokio::test(start_paused = true)]
async fn who_fails_stays_behind_and_is_named() {
    let (stage, trees) = c_was_away(14, 2).await;
    let dies = |call: &Call| {
        if call.operation == Operation::Put && call.name.starts_with("data/") && call.nth > 2 { DEAD } else { Fault::Pass }
    };
    let repository = stage.open_at(stage.members_but(2, dies), ReplicaSettings::default()).await.expect("all is well");
    let report = healed(&repository, &settings()).await.expect("the others are fine");
    assert!(report.replicas[2].behind.as_ref().is_some_and(|why| why.contains("store c")), "{report:?}");
    assert!(report.replicas[..2].iter().all(|r| r.behind.is_none()), "{report:?}");
    drop(repository);
    let mut members = stage.members_but(0, |_| DEAD);
    let dead = FaultyStore::new(&stage.env, Arc::new(stage.stores[1].clone()), |_| DEAD);
    members[1] = stage.wrapped("b", Arc::new(dead));
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("one answers");
    let report = healed(&repository, &settings()).await.expect("there is nothing to do");
    assert_eq!(report.replicas.iter().filter(|r| r.behind.is_some()).count(), 2, "{report:?}");
    drop(repository);
    heal_all(&stage, stage.members()).await;
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// A crash at every operation of a heal, at any store: what is committed is whole, the next heal completes it, and what was
/// published is not sent again.
#[tokio::test(start_paused = true)]
async fn a_crash_at_every_operation() {
    let (start, trees) = c_was_away(15, 2).await;
    let mut points = 0;
    for at in 0.. {
        let mut cut = None;
        for how in [How::Before, How::Applied, How::Torn] {
            let mut stage = Stage::new(1500 + at);
            stage.stores = copies(&stage.env, &start.stores).await;
            let (calls, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::Mutex::new(None)));
            let members = (0..3)
                .map(|i| {
                    let (calls, seen) = (calls.clone(), seen.clone());
                    let plan = move |call: &Call| match calls.fetch_add(1, SeqCst) {
                        n if n < at => Fault::Pass,
                        n if n == at => {
                            *seen.lock().expect("no panic") = Some(call.operation);
                            match how {
                                How::Before => DEAD,
                                How::Applied => Fault::FailAfter(StoreErrorKind::Unavailable),
                                How::Torn => Fault::Torn,
                            }
                        }
                        _ => DEAD,
                    };
                    let store = FaultyStore::new(&stage.env, Arc::new(stage.stores[i].clone()), plan);
                    stage.member(stage.names[i], Arc::new(store))
                })
                .collect();
            if let Ok(repository) = stage.open_at(members, ReplicaSettings::default()).await {
                // However it ends: it was cut off.
                let _ = healed(&repository, &HealSettings { publish_bytes: 200_000, ..settings() }).await;
            }
            cut = *seen.lock().expect("no panic");
            after_the_crash(&stage, &trees).await;
            points += 1;
            if !matches!(cut, Some(Operation::Put | Operation::Delete)) {
                break;
            }
        }
        if cut.is_none() {
            break;
        }
    }
    println!("figure: crash points, heal: {points}");
    assert!(points > 50, "{points}");
}

async fn after_the_crash(stage: &Stage, trees: &Trees) {
    let alone = stage.open_alone(2).await;
    for live in alone.live().await {
        assert!(contents(&alone, live.id).await.expect("what is committed is whole") == trees[&live.id]);
    }
    drop(alone);
    let repository = stage.open().await;
    let before = rig::published(&repository, 2).await;
    drop(repository);
    let had = rig::names(&stage.stores[2], "").await;
    heal_all(stage, stage.members()).await;
    each_holds(stage, &[2], trees).await;
    let repository = stage.open().await;
    let after = rig::published(&repository, 2).await;
    let store: Arc<dyn Store> = Arc::new(stage.stores[2].clone());
    rig::nothing_twice(&[store], &[(had, before)], &[after]).await.expect("nothing is sent twice");
}

async fn copies(env: &Env, stores: &[MemoryStore]) -> Vec<MemoryStore> {
    let mut out = Vec::new();
    for store in stores {
        out.push(copy_of(env, store).await);
    }
    out
}

/// The real binary: codes, words and JSON.
#[test]
fn the_command() {
    let desk = tempfile::tempdir().expect("a folder");
    let at = |path: &str| desk.path().join(path);
    let write = |stores: &[&str]| {
        let mut config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nwrite_quorum = 1\n".to_owned();
        stores.iter().for_each(|name| config += &format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n"));
        std::fs::write(at("holdfast.toml"), config).expect("written");
    };
    let run = |code: i32, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(words).current_dir(desk.path()).stdin(Stdio::null()).env("HOME", at("home"));
        std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("HOLDFAST_")).for_each(|(n, _)| {
            command.env_remove(n);
        });
        let output = command.output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}\n{out}\n{err}");
        (out, err)
    };
    std::fs::create_dir(at("src")).expect("made");
    std::fs::write(at("src/file"), "hello\n".repeat(10_000)).expect("written");
    write(&["one", "two"]);
    run(0, &["backup", "--init", "src"]);
    run(0, &["heal"]);
    run(2, &["heal", "nobody"]);
    // A new, empty store.
    write(&["one", "two", "three"]);
    std::fs::create_dir_all(at("stores/three")).expect("made");
    let (out, _) = run(4, &["backup", "src"]);
    assert!(out.contains("run `holdfast heal`"), "{out}");
    let (out, _) = run(0, &["heal", "--dry-run"]);
    assert!(out.contains("would be healed") && out.contains("nothing was written"), "{out}");
    assert_eq!(std::fs::read_dir(at("stores/three")).expect("there").count(), 0);
    run(4, &["status"]);
    let (out, _) = run(0, &["heal", "three", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    let three = summary["replicas"].as_array().expect("replicas").iter().find(|r| r["name"] == "three").expect("there").clone();
    assert_eq!(
        (three["snapshots_healed"].as_u64(), three["new"].as_bool(), three["behind"].is_null()),
        (Some(2), Some(true), true),
        "{out}"
    );
    let (out, _) = run(0, &["status"]);
    assert_eq!(out.matches(" complete ").count(), 3, "{out}");
    run(0, &["restore", "latest", "--from", "three", "--target", "back"]);
    run(0, &["verify", "--read-data"]);
    // Away for one backup, and healed by the next; not with --no-heal.
    std::fs::rename(at("stores/three"), at("stores/away")).expect("renamed");
    std::fs::write(at("src/more"), "more\n".repeat(10_000)).expect("written");
    run(4, &["backup", "src"]);
    let (_, err) = run(4, &["heal"]);
    assert!(err.contains("three"), "{err}");
    std::fs::rename(at("stores/away"), at("stores/three")).expect("renamed");
    run(0, &["backup", "--no-heal", "src"]);
    let (out, _) = run(4, &["status", "--json"]);
    assert!(out.contains("\"snapshots_missing\":1"), "{out}");
    let (_, err) = run(0, &["backup", "src"]);
    assert!(err.contains("healed store three first: 1 snapshot"), "{err}");
    run(0, &["status"]);
    // What is none of ours.
    write(&["one", "two", "three", "four"]);
    std::fs::create_dir_all(at("stores/four/photos")).expect("made");
    std::fs::write(at("stores/four/photos/beach.jpg"), "sand").expect("written");
    for words in [&["heal", "--dry-run"][..], &["heal"]] {
        let (_, err) = run(2, words);
        assert!(err.contains("choose an empty place"), "{err}");
    }
}

/// One that stops answering, and says nothing of it, in the middle.
#[tokio::test(start_paused = true)]
async fn who_stalls_midway_is_given_up() {
    // A target: it is named, and what is published stays.
    let (stage, trees) = c_was_away(20, 2).await;
    for class in ["data/", "index/", "snapshots/", "log/"] {
        let stalls = move |call: &Call| match call.operation {
            Operation::Put if call.name.starts_with(class) && (class != "data/" || call.nth > 2) => Fault::Stall,
            _ => Fault::Pass,
        };
        let repository = stage.open_at(stage.members_but(2, stalls), ReplicaSettings::default()).await.expect("all is well");
        let report = healed(&repository, &settings()).await.expect("the others are fine");
        let c = &report.replicas[2];
        assert!(c.behind.as_ref().is_some_and(|why| why.contains("store c")), "{class}: {report:?}");
        assert!(report.replicas[..2].iter().all(|r| r.behind.is_none()), "{class}: {report:?}");
        drop(repository);
        let alone = stage.open_alone(2).await;
        for live in alone.live().await {
            assert!(contents(&alone, live.id).await.expect("what is committed is whole") == trees[&live.id]);
        }
        drop(alone);
    }
    heal_all(&stage, stage.members()).await;
    each_holds(&stage, &[0, 1, 2], &trees).await;

    // One source: the other gives everything.
    let stalls = |call: &Call| match call.operation {
        Operation::Get if call.name.starts_with("data/") && call.nth > 12 => Fault::Stall,
        _ => Fault::Pass,
    };
    let (stage, trees) = c_was_away(21, 2).await;
    let set = ReplicaSettings { prefer: vec!["a".into()], ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members_but(0, stalls), set).await.expect("all is well");
    let report = healed(&repository, &settings()).await.expect("a heal");
    assert!(report.replicas[2].behind.is_none() && report.replicas[2].snapshots == 2, "{report:?}");
    drop(repository);
    each_holds(&stage, &[0, 1, 2], &trees).await;

    // All sources: it ends, nothing is committed that is not whole, and the next heal completes it.
    let (stage, trees) = c_was_away(22, 2).await;
    let mut members = stage.members_but(0, |call| if call.name.starts_with("data/") { Fault::Stall } else { Fault::Pass });
    let other = |call: &Call| if call.name.starts_with("data/") { Fault::Stall } else { Fault::Pass };
    members[1] = stage.wrapped("b", Arc::new(FaultyStore::new(&stage.env, Arc::new(stage.stores[1].clone()), other)));
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("all is well");
    let report = healed(&repository, &settings()).await.expect("it ends");
    let c = &report.replicas[2];
    assert!(c.behind.is_some() && c.snapshots == 0, "{report:?}");
    drop(repository);
    heal_all(&stage, stage.members()).await;
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// Forgotten elsewhere while it is being healed, a snapshot is not committed.
#[tokio::test(start_paused = true)]
async fn what_is_forgotten_meanwhile_is_not_committed() {
    let (stage, mut trees) = c_was_away(27, 2).await;
    let slow = |call: &Call| match call.operation {
        Operation::Put if call.name.starts_with("data/") => Fault::Delay(std::time::Duration::from_secs(10)),
        _ => Fault::Pass,
    };
    let repository = stage.open_at(stage.members_but(2, slow), ReplicaSettings::default()).await.expect("all is well");
    let other = stage.open().await;
    let gone = other.live().await[0].id;
    let forgetting = async {
        stage.env.sleep(std::time::Duration::from_secs(5)).await;
        let forget = Action::Forget(Forget { ids: vec![Bytes::copy_from_slice(&gone)] });
        other.log(1).await.expect("readable").append(forget, true, &[], |_| Ok(())).await.expect("written");
    };
    let settings_ = settings();
    let (report, ()) = futures::join!(healed(&repository, &settings_), forgetting);
    let report = report.expect("a heal");
    assert!(report.replicas[2].packs_copied > 0 && report.replicas[2].snapshots == 1, "{report:?}");
    drop((repository, other));
    trees.remove(&gone);
    each_holds(&stage, &[1, 2], &trees).await;
}

/// A withdrawn key slot is not brought anywhere; those that were not are.
#[tokio::test(start_paused = true)]
async fn withdrawn_keys_do_not_come_back() {
    let stage = Stage::new(23);
    let two = || stage.members().into_iter().take(2).collect::<Vec<_>>();
    stage.init_at(two()).await.expect("two stores");
    let source = tree(23, 10, 30_000);
    backup(&stage, two(), source.path(), &mut Trees::new()).await;
    let repository = stage.open_at(two(), ReplicaSettings::default()).await.expect("all is well");
    let mut added = Vec::new();
    for label in ["stays", "goes"] {
        let key = Unlock::Passphrase(label.as_bytes().to_vec().into());
        added.push(repository.add_key(&key, KdfParams::floor_for_tests(), true, label).await.expect("added"));
    }
    repository.remove_key(&hex::encode(added[1])).await.expect("withdrawn");
    drop(repository);
    let repository = stage.open().await;
    repository.begin(2).await.expect("it is empty");
    drop(repository);
    heal_all(&stage, stage.members()).await;
    let held = rig::names(&stage.stores[2], "keys/").await;
    let holds = |id: &Hash| held.iter().any(|name| name.ends_with(&hex::encode(id)));
    assert!(holds(&added[0]) && !holds(&added[1]) && held.len() == 3, "{held:?}");
}

/// The same pack is damaged at every replica, in another frame each, and trusted nowhere: its frames are good somewhere.
#[tokio::test(start_paused = true)]
async fn frames_are_gathered_from_packs_that_nobody_trusts() {
    let (stage, trees) = c_was_away(24, 0).await;
    let names = stage.names_at(0, "data/").await;
    for name in &names[..2] {
        let flip = |at: fn(usize) -> usize| {
            move |mut bytes: Vec<u8>| {
                let at = at(bytes.len());
                bytes[at] ^= 8;
                Some(bytes)
            }
        };
        stage.tamper(0, name, &flip(|_| 100)).await;
        stage.tamper(1, name, &flip(|length| length / 2)).await;
        stage.tamper(2, name, &|_| None).await;
    }
    let repository = stage.open().await;
    rig::verify_all(&repository).await.expect_err("it is damaged");
    drop(repository);
    let repository = stage.open().await;
    for i in 0..3 {
        assert_eq!(repository.log(i).await.expect("readable").state.distrusted.len(), 2, "replica {i}");
    }
    drop(repository);
    let report = heal_all(&stage, stage.members()).await;
    assert!(report.replicas.iter().all(|r| r.packs_made > 0 && r.packs_copied == 0), "{report:?}");
    for name in &names[..2] {
        for store in &stage.stores {
            store.delete(std::slice::from_ref(name)).await;
        }
    }
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// A key object that is damaged at one replica: its name is taken, and nothing is overwritten. That is said, the rest is healed,
/// and once the object is taken away it is brought back.
#[tokio::test(start_paused = true)]
async fn a_damaged_key_is_named_and_comes_back_when_it_is_taken_away() {
    let (stage, trees) = c_was_away(25, 1).await;
    let name = stage.names_at(2, "keys/").await.remove(0);
    let flip = |mut bytes: Vec<u8>| {
        bytes[40] ^= 1;
        Some(bytes)
    };
    stage.tamper(2, &name, &flip).await;
    let repository = stage.open().await;
    let report = healed(&repository, &settings()).await.expect("a heal");
    drop(repository);
    let c = &report.replicas[2];
    assert_eq!((c.snapshots, c.fault), (1, Some(Class::Integrity)), "{report:?}");
    let why = c.behind.clone().unwrap_or_default();
    assert!(why.contains(name.as_str()) && why.contains("damaged") && why.contains("heal"), "{why}");
    assert!(report.replicas[..2].iter().all(|r| r.behind.is_none()), "{report:?}");
    stage.stores[2].delete(std::slice::from_ref(&name)).await;
    let report = heal_all(&stage, stage.members()).await;
    assert_eq!(report.replicas[2].keys, 1, "{report:?}");
    each_holds(&stage, &[0, 1, 2], &trees).await;
}

/// SIGTERM in the middle: the process says so and ends soon, and the next heal goes on.
#[test]
fn a_signal_midway() {
    let desk = tempfile::tempdir().expect("a folder");
    let at = |path: &str| desk.path().join(path);
    let write = |stores: &[&str], limit: &str| {
        let mut config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nwrite_quorum = 1\n\
                          [backup]\ndata_pack = \"1 MiB\"\nmeta_pack = \"1 MiB\"\n"
            .to_owned();
        stores.iter().for_each(|name| {
            let limit = if *name == "three" { limit } else { "" };
            config += &format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n{limit}");
        });
        std::fs::write(at("holdfast.toml"), config).expect("written");
    };
    let command = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(words).current_dir(desk.path()).stdin(Stdio::null()).env("HOME", at("home"));
        std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("HOLDFAST_")).for_each(|(n, _)| {
            command.env_remove(n);
        });
        command
    };
    let run = |code: i32, words: &[&str]| {
        let output = command(words).output().expect("it starts");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}\n{err}");
    };
    std::fs::create_dir(at("src")).expect("made");
    grow(&at("src"), 26, 0..40, 1 << 20);
    write(&["one", "two"], "");
    run(0, &["backup", "--init", "src"]);
    std::fs::create_dir_all(at("stores/three")).expect("made");
    write(&["one", "two", "three"], "upload_limit = \"1 MiB\"\n");
    let child = command(&["heal"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let packs_of = |store: &str| {
        let folders = ["data", "meta"].map(|class| at("stores").join(store).join(class));
        folders.iter().filter(|folder| folder.exists()).map(|folder| files_below(folder).len()).sum::<usize>()
    };
    let packs = || packs_of("three");
    let began = std::time::Instant::now();
    while packs() < 2 {
        assert!(began.elapsed().as_secs() < 120, "nothing is copied");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    let output = child.wait_with_output().expect("ended");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(143), "{err}");
    assert!(err.contains("what was copied so far is not copied again"), "{err}");
    let before = packs();
    assert!((2..packs_of("one")).contains(&before), "{before} packs: it was over");
    write(&["one", "two", "three"], "");
    let output = command(&["heal", "--json"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary: serde_json::Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let three = summary["replicas"].as_array().expect("replicas").iter().find(|r| r["name"] == "three").expect("there").clone();
    let copied = three["packs_copied"].as_u64().expect("a number");
    assert!(copied > 0 && copied as usize + before <= packs_of("one"), "what was published is not copied again: {text}");
    run(0, &["restore", "latest", "--from", "three", "--target", "back"]);
    let source = std::fs::canonicalize(at("src")).expect("there");
    let back = at("back").join(source.strip_prefix("/").expect("absolute"));
    assert!(files_below(&at("src")) == files_below(&back));
    run(0, &["verify", "--read-data"]);
}

/// A snapshot that can be had nowhere any more does not hold up the others: they are healed in the same run, and it is named.
#[tokio::test(start_paused = true)]
async fn what_is_lost_does_not_hold_up_the_rest() {
    let stage = Stage::of(40, &["a", "b"]);
    stage.init().await;
    let (mine, yours) = (tree(41, 6, 20_000), tree(42, 6, 20_000));
    let set = ReplicaSettings { write_quorum: Some(1), ..ReplicaSettings::default() };
    let alone = |at: usize| vec![stage.wrapped(stage.names[at], Arc::new(stage.stores[at].clone()))];
    let mut ids = Vec::new();
    for (at, source) in [(0, &mine), (1, &yours)] {
        let repository = stage.open_at(alone(at), set.clone()).await.expect("one is enough");
        ids.push(run(&repository, &backing_up(source.path())).await.expect("a backup").snapshot.expect("committed"));
    }
    for name in stage.names_at(0, "data/").await {
        stage
            .tamper(0, &name, &|mut bytes| {
                bytes.iter_mut().skip(25).for_each(|byte| *byte ^= 1);
                Some(bytes)
            })
            .await;
    }
    let repository = stage.open_at(stage.members(), set).await.expect("all is well, as far as is known");
    let report = healed(&repository, &settings()).await.expect("a heal");
    assert!(report.lost.iter().all(|(id, ..)| *id == ids[0]) && !report.lost.is_empty(), "{report:?}");
    let (a, b) = (&report.replicas[0], &report.replicas[1]);
    assert_eq!((a.lacked, a.snapshots, b.lacked, b.snapshots), (1, 1, 1, 0), "{report:?}");
    assert!(b.behind.is_some(), "{report:?}");
    drop(repository);
    stage.holds(&[1], ids[1], yours.path()).await;
    let alone = stage.open_alone(0).await;
    assert!(contents(&alone, ids[1]).await.expect("it is healed") == files_below(yours.path()));
}
