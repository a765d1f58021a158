//! Shares of a verify: which packs each reads, what is written down about it, and that damage is named for every snapshot that
//! has it.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::cli::verify::outcome;
use holdfast::format::Hash;
use holdfast::format::record::{Action, Expected, decode_slot};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::ReplicaSettings;
use holdfast::repository::Repository;
use holdfast::repository::layout;
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::verify::findings::PATHS_MAX;
use holdfast::verify::share::Share;
use holdfast::verify::{VerifyReport, VerifySettings};

use crate::support::faulty_store::Fault;
use crate::support::stage::{Stage, backing_up, grow, run, tree};

async fn verify(stage: &Stage, settings: VerifySettings) -> VerifyReport {
    let repository = stage.open().await;
    holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out")
}

fn reading(share: Share) -> VerifySettings {
    VerifySettings { read_data: Some(share), ..VerifySettings::default() }
}

fn slice(nth: u32, of: u32, count: u32) -> VerifySettings {
    reading(Share::Slice { nth, of, count })
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

fn hash(name: &ObjectName) -> Hash {
    layout::parse_hashed(name).expect("named by a hash").1
}

async fn packs(stage: &Stage, at: usize) -> Vec<ObjectName> {
    [stage.names_at(at, "data/").await, stage.names_at(at, "meta/").await].concat()
}

/// Turns a bit in an object without changing its length.
async fn spoil(stage: &Stage, at: usize, name: &ObjectName) {
    let flip = |mut bytes: Vec<u8>| {
        bytes[40] ^= 1;
        Some(bytes)
    };
    stage.tamper(at, name, &flip).await;
}

/// What the last record of a log says about the verify that wrote it.
async fn noted(repository: &Repository, at: usize) -> serde_json::Value {
    let log = repository.log(at).await.expect("readable");
    let (epoch, slot) = (log.state.epoch, log.state.slot);
    let stored = log.replica.store.get(&layout::slot(epoch, slot), None).await.expect("there");
    let expected = Expected { replica_id: log.state.replica_id, epoch, slot };
    let (_, body) = decode_slot(&stored, &repository.keyring.keys.log, &repository.id(), &expected).expect("a record");
    let Some(Action::Note(note)) = body.action else { panic!("{body:?}") };
    assert_eq!(note.kind, "verify");
    serde_json::from_str(&note.text).expect("JSON")
}

#[tokio::test(start_paused = true)]
async fn slices_read_every_pack_once() {
    let (stage, _source) = backed_up(300).await;
    let all = packs(&stage, 0).await;
    let (mut count, mut bytes) = ([0; 3], [0; 3]);
    for nth in 1..=4 {
        let report = verify(&stage, slice(nth, 4, 1)).await;
        assert_eq!(outcome(&report).code(), 0, "{report:?}");
        for (at, replica) in report.replicas.iter().enumerate() {
            count[at] += replica.packs_read;
            bytes[at] += replica.bytes_read;
        }
    }
    let mut size = 0;
    for name in &all {
        size += stage.stores[0].stat(name).await.expect("answers").expect("there").size;
    }
    assert_eq!((count, bytes), ([all.len() as u64; 3], [size; 3]), "each replica in full, after all slices");
    // Damage is found by the slice that its pack is in, and by no other.
    let victim = all[3].clone();
    spoil(&stage, 1, &victim).await;
    let mut found = Vec::new();
    for nth in 1..=4 {
        let report = verify(&stage, slice(nth, 4, 1)).await;
        found.extend(report.damages.iter().filter(|d| d.object == victim.as_str()).map(|_| nth));
        if !found.is_empty() {
            break;
        }
    }
    let [at] = found[..] else { panic!("{found:?}") };
    let own = Share::Slice { nth: at, of: 4, count: 1 };
    assert_eq!(own.choose(vec![(hash(&victim), 1)], &[0; 32]).len(), 1);
    // Several at once, and around the end.
    let before = packs(&stage, 0).await.len() as u64;
    let read = async |settings| verify(&stage, settings).await.replicas[0].packs_read;
    assert_eq!(read(slice(4, 4, 2)).await, read(slice(4, 4, 1)).await + read(slice(1, 4, 1)).await);
    assert_eq!(read(slice(2, 4, 4)).await, before);
}

/// A store that fails in a way nobody knows says nothing about the pack: it is named, and read with the next slice, whichever that is.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_is_named_and_read_next_time() {
    let (stage, _source) = backed_up(303).await;
    let victim = packs(&stage, 0).await[2].clone();
    let name = victim.as_str().to_owned();
    let members = stage.members_but(1, move |call| match call.operation {
        Operation::Get if call.name == name => Fault::FailBefore(StoreErrorKind::Other),
        _ => Fault::Pass,
    });
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("opened");
    let settings = reading(Share::All);
    let report =
        holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out");
    let unread = BTreeSet::from([hash(&victim)]);
    assert_eq!((&report.replicas[1].unread, report.replicas[1].unread_count), (&unread, 1), "{report:?}");
    assert_eq!((report.replicas[0].unread_count, report.replicas[1].distrusted), (0, 0), "{report:?}");
    assert_eq!(outcome(&report).code(), 14);
    let own = |nth| !Share::Slice { nth, of: 4, count: 1 }.choose(vec![(hash(&victim), 1)], &[0; 32]).is_empty();
    let other = (1..=4).find(|nth| !own(*nth)).expect("three of four");
    let besides = BTreeMap::from([("b".to_owned(), unread)]);
    let plain = verify(&stage, slice(other, 4, 1)).await;
    let more = verify(&stage, VerifySettings { besides, ..slice(other, 4, 1) }).await;
    let read = |report: &VerifyReport| report.replicas.iter().map(|r| r.packs_read).collect::<Vec<_>>();
    let (plain, mut expected) = (read(&more), read(&plain));
    expected[1] += 1;
    assert_eq!((plain, more.replicas[1].unread_count), (expected, 0), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn across_the_stores_each_pack_is_read_once() {
    let (stage, _source) = backed_up(301).await;
    let all = packs(&stage, 0).await.len() as u64;
    let mut turns = BTreeSet::new();
    for _ in 0..4 {
        let report = verify(&stage, VerifySettings { across: true, ..reading(Share::All) }).await;
        let read: Vec<u64> = report.replicas.iter().map(|r| r.packs_read).collect();
        assert_eq!((outcome(&report).code(), read.iter().sum::<u64>()), (0, all), "{read:?}");
        assert!(read.iter().all(|n| *n > 0 && *n < all), "{read:?}");
        turns.insert(read);
    }
    assert!(turns.len() > 1, "whose turn it is differs: {turns:?}");
    let some = verify(&stage, VerifySettings { across: true, ..reading(Share::Percent(50.0)) }).await;
    assert_eq!(some.replicas.iter().map(|r| r.packs_read).sum::<u64>(), all.div_ceil(2));
    // A store that is not looked at takes no turn.
    let only = VerifySettings { across: true, only: Some("b".into()), ..reading(Share::All) };
    assert_eq!(verify(&stage, only).await.replicas[0].packs_read, all);
}

#[tokio::test(start_paused = true)]
async fn a_share_by_size_and_what_is_written_down() {
    let (stage, _source) = backed_up(302).await;
    for (bytes, share) in [(100_000, "100000 bytes"), (1, "1 bytes")] {
        let report = verify(&stage, reading(Share::Bytes(bytes))).await;
        for replica in &report.replicas {
            assert!(replica.packs_read >= 1 && (replica.bytes_read <= bytes || replica.packs_read == 1), "{replica:?}");
        }
        assert_eq!(noted(&stage.open().await, 2).await["share"], share);
    }
    let report = verify(&stage, slice(2, 3, 1)).await;
    let repository = stage.open().await;
    for (at, replica) in report.replicas.iter().enumerate() {
        let note = noted(&repository, at).await;
        let expected = serde_json::json!({
            "snapshots": 1, "packs": replica.packs, "share": "2/3", "packs_read": replica.packs_read,
            "bytes_read": replica.bytes_read, "damages": 0, "distrusted": 0, "lifted": 0,
        });
        assert_eq!(note, expected);
    }
    verify(&stage, VerifySettings::default()).await;
    assert_eq!(noted(&stage.open().await, 0).await["share"], serde_json::Value::Null, "nothing was read");
    // What is distrusted is read in whatever slice it is, and trusted again when it is whole.
    let victims: Vec<Hash> = packs(&stage, 1).await.iter().map(hash).take(6).collect();
    stage.open().await.distrust(1, victims.clone()).await.expect("written");
    let share = Share::Slice { nth: 1, of: 1000, count: 1 };
    assert!(share.choose(victims.iter().map(|hash| (*hash, 1)).collect(), &[0; 32]).is_empty());
    let report = verify(&stage, reading(share)).await;
    assert_eq!((report.replicas[1].lifted, outcome(&report).code()), (6, 0), "{report:?}");
    assert_eq!(noted(&stage.open().await, 1).await["lifted"], 6);
}

#[tokio::test(start_paused = true)]
async fn every_snapshot_that_has_the_damage_is_named() {
    let (stage, source) = backed_up(303).await;
    let first = stage.open().await.snapshots().await.expect("listed")[0].id;
    // The second snapshot shares everything with the first, and adds a folder of its own.
    grow(&source.path().join("more"), 304, 0..3, 500);
    stage.env.sleep(std::time::Duration::from_secs(1)).await;
    let old: BTreeSet<ObjectName> = stage.names_at(2, "data/").await.into_iter().collect();
    stage.backup(stage.members(), source.path()).await.expect("a second one");
    let victim = old.iter().next().expect("there").clone();
    stage.tamper(2, &victim, &|_| None).await;
    let report = verify(&stage, VerifySettings::default()).await;
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert_eq!((damage.replica.as_str(), damage.object.as_str(), damage.more), ("c", victim.as_str(), 0));
    let mut by_snapshot: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, snapshot) in &damage.affects {
        by_snapshot.entry(snapshot).or_default().insert(path);
    }
    assert_eq!(by_snapshot.len(), 2, "{damage:?}");
    assert!(by_snapshot.contains_key(&hex::encode(&first[..4])[..]));
    let counts: BTreeMap<String, u64> = by_snapshot.iter().map(|(id, paths)| (id.to_string(), paths.len() as u64)).collect();
    let sets: BTreeSet<_> = by_snapshot.into_values().collect();
    assert_eq!(sets.len(), 1, "the same paths in both: {sets:?}");
    assert_eq!(report.replicas[2].affected, counts);
    assert!(report.replicas[0].affected.is_empty() && report.replicas[1].affected.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_paths_are_bounded_and_counted() {
    let stage = Stage::new(305);
    stage.init().await;
    // Many small files in one pack.
    let source = tree(305, PATHS_MAX + 15, 300);
    stage.backup(stage.members(), source.path()).await.expect("a backup");
    let [pack] = &stage.names_at(0, "data/").await[..] else { panic!("one pack") };
    spoil(&stage, 0, pack).await;
    let report = verify(&stage, reading(Share::All)).await;
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert_eq!((damage.affects.len(), damage.more), (PATHS_MAX, 15));
    assert_eq!(report.replicas[0].affected.values().copied().collect::<Vec<_>>(), [PATHS_MAX as u64 + 15]);
}
