//! Heal of what a log stands on besides packs: index segments and snapshots' objects that are damaged or missing at one replica.
//! They come again from another, nothing is overwritten or deleted, no pack is sent for it, and verify is content afterwards.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast::cli::verify as verify_command;
use holdfast::format::Hash;
use holdfast::format::pack::PackKind;
use holdfast::format::record::{Action, ObjectClass};
use holdfast::lifecycle::heal::{HealSettings, run as run_heal};
use holdfast::lifecycle::heal_report::HealReport;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Mask, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::repository::error::Fault as Class;
use holdfast::repository::layout;
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::verify::share::Share;
use holdfast::verify::{VerifyReport, VerifySettings};

use crate::commands::{Desk, files, lines};
use crate::crash_lifecycle::{every, opens};
use crate::support::faulty_store::Fault;
use crate::support::hostile_writer;
use crate::support::pruning::{Files, History, backup, change, count, pruned, recorded, records, settings};
use crate::support::stage::{Stage, files_below};

async fn healed(repository: &Repository) -> HealReport {
    let settings = HealSettings { memory: 16 << 20, data_pack: 256 << 10, meta_pack: 64 << 10, ..HealSettings::default() };
    run_heal(repository, &settings, &Progress::default(), &Stop::default()).await.expect("a report")
}

/// Heals at all members, and expects nothing to be left.
async fn heal(stage: &Stage) -> HealReport {
    let report = healed(&stage.open().await).await;
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    report
}

async fn verify(stage: &Stage, share: Option<Share>) -> VerifyReport {
    let settings = VerifySettings { read_data: share, memory: 32 << 20, ..VerifySettings::default() };
    holdfast::verify::run(&stage.open().await, &settings, &Progress::default(), &Stop::default()).await.expect("carried out")
}

async fn clean(stage: &Stage) {
    let report = verify(stage, Some(Share::All)).await;
    assert_eq!((verify_command::outcome(&report).code(), report.damage_count), (0, 0), "{report:?}");
}

async fn objects(stage: &Stage, at: usize) -> BTreeMap<ObjectName, Bytes> {
    let mut all = BTreeMap::new();
    for name in stage.names_at(at, "").await {
        let bytes = stage.stores[at].get(&name, None).await.expect("it is listed");
        all.insert(name, bytes);
    }
    all
}

/// Of several objects the first is gone, the second turned in one bit, the third cut short, and so on.
async fn spoil(stage: &Stage, at: usize, names: &[ObjectName]) {
    for (nth, name) in names.iter().enumerate() {
        let harm = |mut bytes: Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            match nth % 3 {
                0 => None,
                1 => Some(bytes),
                _ => Some(bytes[..middle].to_vec()),
            }
        };
        stage.tamper(at, name, &harm).await;
    }
}

/// What lay there lies there still, whatever it is.
async fn untouched(stage: &Stage, at: usize, before: &BTreeMap<ObjectName, Bytes>) {
    let now = objects(stage, at).await;
    for (name, bytes) in before {
        assert!(now.get(name) == Some(bytes), "replica {at}: {name} is not what it was");
    }
}

#[tokio::test(start_paused = true)]
async fn segments_of_one_replica() {
    let history = History::of(760, &["a", "b", "c"], 4).await;
    let stage = &history.stage;
    let segments = stage.names_at(2, "index/").await;
    assert!(segments.len() >= 4);
    spoil(stage, 2, &segments[..3]).await;
    // Nothing is known of it before somebody looks: a heal finds nothing to do, and asks for no segment.
    heal(stage).await;
    let report = verify(stage, None).await;
    assert_eq!((verify_command::outcome(&report).code(), report.damage_count), (14, 3), "{report:?}");
    let distrusted = report.replicas[2].distrusted;
    assert!(distrusted > 3, "what they named is not named any more: {report:?}");
    let mut before = Vec::new();
    for at in 0..3 {
        before.push(objects(stage, at).await);
    }
    let dry = HealSettings { dry_run: true, ..HealSettings::default() };
    let planned = run_heal(&stage.open().await, &dry, &Progress::default(), &Stop::default()).await.expect("a plan");
    assert_eq!(planned.replicas[2].replaced, 3, "{planned:?}");
    assert!(objects(stage, 2).await == before[2], "a dry run writes nothing");
    let (notes, members) = recorded(stage);
    let report = healed(&stage.open_at(members, ReplicaSettings::default()).await.expect("it opens")).await;
    let c = &report.replicas[2];
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    assert_eq!((c.replaced, c.bytes_sent, c.packs_made, report.replicas[0].replaced), (3, 0, 0, 0), "{report:?}");
    assert!(report.notes.iter().any(|n| n.contains("store c") && n.contains("3 index segments")), "{:?}", report.notes);
    let bill = notes[2].take();
    let puts = |class| count(&bill, Operation::Put, class);
    assert_eq!((puts("index/"), puts("data/"), puts("meta/"), puts("snapshots/")), (3, 0, 0, 0), "{bill:?}");
    assert_eq!(count(&bill, Operation::Delete, ""), 0);
    assert!(notes[..2].iter().all(|store| count(&store.take(), Operation::Get, "data/") == 0), "no pack is read elsewhere");
    for (at, before) in before.iter().enumerate() {
        untouched(stage, at, before).await;
    }
    assert!(stage.open().await.log(2).await.expect("readable").state.distrusted.is_empty(), "they are trusted again");
    clean(stage).await;
    history.sound().await;
    assert_eq!(heal(stage).await.replicas[2].replaced, 0);
    // What is damaged is nobody's any more, and goes.
    let one = pruned(stage, &settings()).await.remove(2);
    assert_eq!(one.orphans.objects, 2, "{one:?}");
    for name in &segments[..3] {
        assert!(stage.stores[2].stat(name).await.expect("memory answers").is_none());
    }
    history.sound().await;
}

/// Of the packs that a lost segment named some are really damaged: those come from elsewhere, the others are read back.
#[tokio::test(start_paused = true)]
async fn segments_and_packs_at_once() {
    let history = History::of(761, &["a", "b"], 3).await;
    let stage = &history.stage;
    let packs = stage.names_at(1, "data/").await;
    spoil(stage, 1, &stage.names_at(1, "index/").await).await;
    spoil(stage, 1, &packs[..2]).await;
    verify(stage, Some(Share::All)).await;
    let report = heal(stage).await;
    let b = &report.replicas[1];
    assert!(b.replaced >= 3 && b.packs_made > 0, "{report:?}");
    assert_eq!(stage.open().await.log(1).await.expect("readable").state.distrusted.len(), 2, "{report:?}");
    pruned(stage, &settings()).await;
    clean(stage).await;
    history.sound().await;
}

/// A lost segment names packs that were condemned since: those are not named again.
#[tokio::test(start_paused = true)]
async fn segments_that_name_what_is_void() {
    let history = History::of(767, &["a", "b"], 2).await;
    let stage = &history.stage;
    let repository = stage.open().await;
    let mut packs = Vec::new();
    for seed in 0..3 {
        let plain = Bytes::from(crate::support::source_tree::noise(767_000 + seed, 20_000));
        let id = hostile_writer::id_of(&repository, &plain);
        packs.push((hostile_writer::send(&repository, PackKind::Data, &[(id, plain)], Mask(0b11)).await, Mask(0b11)));
    }
    let void = packs[0].0.name().expect("a name");
    let (sent, failed) = repository.send_segments(packs).await;
    assert!(failed.is_empty());
    for at in 0..2 {
        repository.publish(at, &sent).await.expect("published");
    }
    let (footing, _) = repository.stand(1).await.expect("it stands");
    repository.condemn(1, &footing, &[(ObjectClass::Data, BTreeSet::from([void]))].into()).await.expect("nobody needs it");
    drop(repository);
    let lost = [layout::hashed(layout::Class::Segment, &sent[0].hash)];
    spoil(stage, 1, &lost).await;
    verify(stage, None).await;
    let report = heal(stage).await;
    assert_eq!((report.replicas[1].replaced, report.replicas[1].bytes_sent), (lost.len() as u64, 0), "{report:?}");
    let alone = stage.open_alone(1).await;
    let now = alone.log(0).await.expect("readable").state.segments.clone();
    let mut named = BTreeSet::new();
    for hash in &now {
        named.extend(alone.segment_at(0, hash).await.expect("whole").packs.iter().map(|pack| pack.name().expect("a name")));
    }
    assert!(!now.contains(&sent[0].hash) && !named.contains(&void), "{now:?}");
    let left: BTreeSet<Hash> = sent[0].packs.iter().map(|(_, pack)| *pack).filter(|pack| *pack != void).collect();
    assert!(left.is_subset(&named) && left.len() == 2);
    clean(stage).await;
    history.sound().await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_one_replica() {
    let history = History::of(762, &["a", "b"], 5).await;
    let stage = &history.stage;
    let names = stage.names_at(1, "snapshots/").await;
    spoil(stage, 1, &names[..3]).await;
    let swapped = [stage.stores[1].get(&names[3], None).await, stage.stores[1].get(&names[4], None).await];
    let [one, other] = swapped.map(|bytes| bytes.expect("there").to_vec());
    stage.tamper(1, &names[3], &|_| Some(other.clone())).await;
    stage.tamper(1, &names[4], &|_| Some(one.clone())).await;
    let report = verify(stage, None).await;
    assert_eq!((verify_command::outcome(&report).code(), report.damage_count), (14, 5), "{report:?}");
    let before = objects(stage, 1).await;
    let report = heal(stage).await;
    assert_eq!((report.replicas[1].replaced, report.replicas[1].bytes_sent), (5, 0), "{report:?}");
    untouched(stage, 1, &before).await;
    // What was gone is back under its name; what was changed has another, by a record of its own.
    assert!(stage.stores[1].stat(&names[0]).await.expect("memory answers").is_some());
    let commits = records(&stage.open().await, 1).await.into_iter().filter(|a| matches!(a, Some(Action::Commit(_)))).count();
    assert_eq!(commits, 5 + 4, "one for each backup, and one for each new name");
    clean(stage).await;
    history.sound().await;
    let again = heal(stage).await;
    assert_eq!(again.replicas[1].replaced, 0, "{again:?}");
    let one = pruned(stage, &settings()).await.remove(1);
    assert_eq!(one.orphans.objects, 4, "{one:?}");
    history.sound().await;
    // Forgotten under its old id it stays forgotten, whatever its object is called.
    let mut history = history;
    history.forget(|i| i < 2).await;
    pruned(&history.stage, &settings()).await;
    history.sound().await;
}

/// Something else lies at the target under the name that a snapshot is to have: it gets another.
#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_name_is_taken() {
    let mut history = History::of(763, &["a", "b"], 2).await;
    change(history.source.path(), 763, 2);
    let away = history.stage.members_but(1, |_| Fault::FailBefore(StoreErrorKind::Unavailable));
    let id = backup(&history.stage, away, history.source.path(), 2).await;
    history.all.push((id, files_below(history.source.path())));
    let stage = &history.stage;
    let had: BTreeSet<ObjectName> = stage.names_at(1, "snapshots/").await.into_iter().collect();
    let name = stage.names_at(0, "snapshots/").await.into_iter().find(|name| !had.contains(name)).expect("a new one");
    stage.stores[1].put(&name, Bytes::from_static(b"half a snapshot")).await.expect("free");
    let report = heal(stage).await;
    assert_eq!(report.replicas[1].snapshots, 1, "{report:?}");
    history.sound().await;
}

/// What is whole nowhere is named with what to do, and holds nothing else up.
#[tokio::test(start_paused = true)]
async fn what_is_whole_nowhere() {
    let history = History::of(764, &["a", "b"], 3).await;
    let stage = &history.stage;
    let (segments, snapshots) = (stage.names_at(0, "index/").await, stage.names_at(0, "snapshots/").await);
    for at in 0..2 {
        spoil(stage, at, &segments[..1]).await;
    }
    spoil(stage, 1, &snapshots[1..3]).await;
    verify(stage, None).await;
    let report = healed(&stage.open().await).await;
    for replica in &report.replicas {
        assert_eq!(replica.fault, Some(Class::Integrity), "{report:?}");
        let why = replica.behind.clone().unwrap_or_default();
        assert!(why.contains(&format!("holdfast repair index {}", replica.name)), "{why}");
    }
    assert_eq!(report.replicas[1].replaced, 2, "{report:?}");
    let repair = holdfast::lifecycle::repair::RepairSettings::default();
    let repository = stage.open().await;
    let done = holdfast::lifecycle::repair::index::run(&repository, &repair, &Progress::default(), &Stop::default()).await;
    assert_eq!(holdfast::cli::repair::index_outcome(&done.expect("repaired")).code(), 0);
    drop(repository);
    clean(stage).await;
    history.sound().await;
    // A snapshot's object, damaged everywhere.
    for at in 0..2 {
        for name in stage.names_at(at, "snapshots/").await {
            spoil(stage, at, &[name]).await;
        }
    }
    verify(stage, None).await;
    let report = healed(&stage.open().await).await;
    for replica in &report.replicas {
        let why = replica.behind.clone().unwrap_or_default();
        assert!(why.contains("wherever it lies") && replica.fault == Some(Class::Integrity), "{report:?}");
    }
}

/// Cut off at every operation of a heal that replaces both.
#[tokio::test(start_paused = true)]
async fn a_crash_at_every_operation() {
    let History { stage, source, all } = History::of(765, &["a", "b"], 3).await;
    spoil(&stage, 1, &stage.names_at(1, "index/").await[..2]).await;
    spoil(&stage, 1, &stage.names_at(1, "snapshots/").await[..2]).await;
    verify(&stage, None).await;
    let settings = HealSettings { memory: 16 << 20, ..HealSettings::default() };
    let whole =
        async |repository: &Repository| match run_heal(repository, &settings, &Progress::default(), &Stop::default()).await {
            Ok(report) => report.replicas.iter().all(|r| r.behind.is_none()),
            Err(_) => false,
        };
    every("heal of segments and snapshots", &stage, whole, async |stage, story| {
        let repository = opens(&stage, story).await;
        let held: BTreeSet<Hash> = repository.live().await.iter().map(|live| live.id).collect();
        assert_eq!(held, all.iter().map(|(id, _): &(Hash, Files)| *id).collect(), "{story}");
        let report = healed(&repository).await;
        // Cut off between the record that names packs again and the one that trusts them, it costs their bytes.
        assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{story}: {report:?}");
        drop(repository);
        History { stage, source: tempfile::tempdir().expect("a folder"), all: all.clone() }.sound().await;
    })
    .await;
    drop(source);
}

/// The real binary: verify finds it, heal brings it, verify is content.
#[test]
fn the_commands() {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    std::fs::write(desk.at("src/more"), crate::support::source_tree::noise(766, 50_000)).expect("written");
    desk.expect(0, &["backup"]);
    for class in ["index", "snapshots"] {
        let path = files(&desk.at("stores/two").join(class)).remove(0);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[40] ^= 1;
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, bytes).expect("written");
    }
    desk.expect(14, &["verify"]);
    let (out, _) = desk.expect(0, &["--json", "heal"]);
    let summary = lines(&out).pop().expect("a summary");
    assert_eq!(
        (&summary["replicas"][0]["objects_replaced"], &summary["replicas"][1]["objects_replaced"]),
        (&0.into(), &2.into())
    );
    desk.expect(0, &["verify", "--read-data"]);
    desk.expect(0, &["restore", "latest", "--from", "two", "--target", "to"]);
    desk.expect(0, &["restore", "latest~1", "--from", "two", "--target", "earlier"]);
}
