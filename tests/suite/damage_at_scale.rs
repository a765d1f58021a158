//! Rot at scale: of the hundreds of packs at one replica some are gone, cut short, turned in one bit, or lie under each other's
//! names. Verify finds every one of them and nothing else, heal brings back all that they held and touches nothing else, a prune
//! takes them away, and every replica then gives everything back alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast::backup::BackupSettings;
use holdfast::cli::verify as verify_command;
use holdfast::format::Hash;
use holdfast::lifecycle::heal::{HealSettings, run as heal};
use holdfast::lifecycle::prune::PruneSettings;
use holdfast::lifecycle::prune_plan::{Limits, MaxUnused};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::ReplicaSettings;
use holdfast::store::Store;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::verify::share::Share;
use holdfast::verify::{VerifyReport, VerifySettings};

use crate::support::pruning::{pruned, recorded, settings as pruning};
use crate::support::stage::{Stage, backing_up, contents, files_below, grow, run, tree};

/// Every object at a replica, with its bytes.
async fn objects(stage: &Stage, at: usize) -> BTreeMap<ObjectName, Bytes> {
    let mut all = BTreeMap::new();
    for name in stage.names_at(at, "").await {
        let bytes = stage.stores[at].get(&name, None).await.expect("it is listed");
        all.insert(name, bytes);
    }
    all
}

fn is_pack(name: &ObjectName) -> bool {
    name.as_str().starts_with("data/") || name.as_str().starts_with("meta/")
}

/// One bit of an object, somewhere.
fn flipped(mut bytes: Vec<u8>, at: usize) -> Option<Vec<u8>> {
    let place = at * 7919 % bytes.len();
    bytes[place] ^= 1 << (at % 8);
    Some(bytes)
}

/// Damages packs at a replica: of the data packs about one in a hundred in each way, and two of the others. Gives their names.
async fn rot(stage: &Stage, at: usize) -> BTreeSet<ObjectName> {
    let (data, meta) = (stage.names_at(at, "data/").await, stage.names_at(at, "meta/").await);
    assert!(data.len() >= 400 && meta.len() >= 3, "{} and {} packs: the test needs more", data.len(), meta.len());
    let mut victims: Vec<ObjectName> = data.iter().step_by(25).take(16).cloned().collect();
    for (i, eight) in victims.chunks_exact(8).enumerate() {
        for name in &eight[..2] {
            stage.tamper(at, name, &|_| None).await;
        }
        for (quarters, name) in eight[2..4].iter().enumerate() {
            stage.tamper(at, name, &|bytes| Some(bytes[..bytes.len() * (2 * i + quarters) / 4].to_vec())).await;
        }
        for (nth, name) in eight[4..6].iter().enumerate() {
            stage.tamper(at, name, &|bytes| flipped(bytes, 2 * i + nth)).await;
        }
        let mut old = Vec::new();
        for name in &eight[6..] {
            old.push(stage.stores[at].get(name, None).await.expect("it is listed").to_vec());
        }
        stage.tamper(at, &eight[6], &|_| Some(old[1].clone())).await;
        stage.tamper(at, &eight[7], &|_| Some(old[0].clone())).await;
    }
    stage.tamper(at, &meta[0], &|_| None).await;
    stage.tamper(at, &meta[1], &|bytes| flipped(bytes, 5)).await;
    victims.extend_from_slice(&meta[..2]);
    victims.into_iter().collect()
}

async fn verify(stage: &Stage) -> VerifyReport {
    let settings = VerifySettings { read_data: Some(Share::All), memory: 32 << 20, ..VerifySettings::default() };
    holdfast::verify::run(&stage.open().await, &settings, &Progress::default(), &Stop::default()).await.expect("carried out")
}

/// The objects that a verify names, by replica.
fn named(report: &VerifyReport) -> BTreeMap<&str, BTreeSet<String>> {
    let mut named: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for damage in &report.damages {
        named.entry(&damage.replica).or_default().insert(damage.object.clone());
    }
    named
}

#[tokio::test(start_paused = true)]
async fn one_percent_in_each_way() {
    let stage = Stage::new(700);
    stage.init().await;
    let source = tree(700, 400, 30_000);
    let small = || BackupSettings { data_pack: 32 << 10, meta_pack: 4 << 10, ..backing_up(source.path()) };
    let mut all: BTreeMap<Hash, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    for round in 0..3 {
        let report = run(&stage.open().await, &small()).await.expect("a backup");
        assert!(report.replicas.iter().all(|r| r.committed), "{report:?}");
        all.insert(report.snapshot.expect("committed"), files_below(source.path()));
        grow(source.path(), 701 + round, 400 + 8 * round as usize..408 + 8 * round as usize, 30_000);
        stage.env.sleep(Duration::from_secs(1)).await;
    }
    let bad = rot(&stage, 2).await;
    let packs = stage.names_at(0, "data/").await.len() + stage.names_at(0, "meta/").await.len();
    assert_eq!(bad.len(), 18);

    // Every one of them, and nothing else, here or elsewhere.
    let texts: BTreeSet<String> = bad.iter().map(ToString::to_string).collect();
    let report = verify(&stage).await;
    assert_eq!(named(&report), BTreeMap::from([("c", texts.clone())]));
    assert_eq!((report.damage_count, report.replicas[2].distrusted), (bad.len() as u64, bad.len() as u64));
    assert_eq!(verify_command::outcome(&report).code(), 14);
    assert_eq!(report.replicas[2].affected.len(), all.len(), "every snapshot needs something of it: {:?}", report.replicas[2]);
    assert!(report.replicas[..2].iter().all(|r| r.affected.is_empty() && r.distrusted == 0));

    // Heal reads those packs elsewhere, writes new ones, and touches nothing.
    let mut before = Vec::new();
    for at in 0..3 {
        before.push(objects(&stage, at).await);
    }
    let (notes, members) = recorded(&stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let settings = HealSettings { memory: 16 << 20, data_pack: 256 << 10, meta_pack: 64 << 10, ..HealSettings::default() };
    let report = heal(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("a heal");
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    let c = &report.replicas[2];
    assert_eq!((c.lacked, c.snapshots, c.packs_copied), (0, 0, 0), "{c:?}");
    drop(repository);
    let held: u64 = bad.iter().map(|name| before[0][name].len() as u64).sum();
    assert!(c.packs_made > 0 && c.bytes_sent <= held + held / 20 + 4096, "{c:?}, and the damaged packs held {held} bytes");
    for (at, store) in notes.iter().enumerate() {
        let records = store.take();
        assert!(records.iter().all(|r| r.operation != Operation::Delete), "nothing is deleted");
        let read = records.iter().filter(|r| r.operation == Operation::Get && r.name.starts_with("data/"));
        let read: Vec<&str> = read.map(|r| r.name.as_str()).collect();
        assert!(read.iter().all(|name| at < 2 && texts.contains(*name)), "replica {at}: {read:?}");
    }
    for (at, before) in before.iter().enumerate() {
        let now = objects(&stage, at).await;
        for (name, bytes) in before {
            assert!(now.get(name) == Some(bytes), "replica {at}: {name} is not what it was");
        }
        let new: Vec<&ObjectName> = now.keys().filter(|name| !before.contains_key(*name)).collect();
        if at < 2 {
            assert_eq!(new, Vec::<&ObjectName>::new(), "replica {at} lacked nothing");
        } else {
            assert_eq!(new.iter().filter(|name| is_pack(name)).count() as u64, c.packs_made, "{new:?}");
            let ours =
                |name: &&ObjectName| ["index/", "log/", "checkpoints/", "lists/"].iter().any(|p| name.as_str().starts_with(p));
            assert!(new.iter().all(|name| is_pack(name) || ours(name)), "{new:?}");
        }
    }

    // What is damaged lies there still, and nothing needs it: that is told until a prune has taken it away.
    let report = verify(&stage).await;
    assert_eq!(named(&report), BTreeMap::from([("c", texts)]));
    assert!(report.replicas.iter().all(|r| r.affected.is_empty()), "{report:?}");
    let limits = Limits { max_unused: MaxUnused::Unlimited, max_repack: None };
    let replicas = pruned(&stage, &PruneSettings { limits, ..pruning() }).await;
    assert_eq!((replicas[2].dropped.objects, replicas[2].damaged.objects, replicas[2].made.objects), (bad.len() as u64, 0, 0));
    assert!(replicas[..2].iter().all(|r| r.dropped.objects == 0 && r.condemned == 0), "{replicas:?}");
    for (at, before) in before.iter().enumerate() {
        let now = objects(&stage, at).await;
        for (name, bytes) in before.iter().filter(|(name, _)| is_pack(name) && !(at == 2 && bad.contains(*name))) {
            assert!(now.get(name) == Some(bytes), "replica {at}: {name} is not what it was");
        }
        assert!(at < 2 || bad.iter().all(|name| !now.contains_key(name)), "a damaged pack is still there");
    }
    let report = verify(&stage).await;
    assert_eq!((verify_command::outcome(&report).code(), report.damage_count), (0, 0), "{report:?}");
    for at in 0..3 {
        let alone = stage.open_alone(at).await;
        for (id, files) in &all {
            assert!(contents(&alone, *id).await.expect("all of it is there") == *files, "replica {at}");
        }
        assert!(alone.take_met().is_empty(), "replica {at} is not as it should be");
    }
    println!("figure: damaged packs of {packs} found, healed and taken away: {}", bad.len());
}

/// The same object damaged at two replicas of three, in other ways: the third gives it to both.
#[tokio::test(start_paused = true)]
async fn two_replicas_at_once() {
    let stage = Stage::new(710);
    stage.init().await;
    let source = tree(710, 40, 30_000);
    let small = BackupSettings { data_pack: 32 << 10, meta_pack: 4 << 10, ..backing_up(source.path()) };
    let id = run(&stage.open().await, &small).await.expect("a backup").snapshot.expect("committed");
    let names = [stage.names_at(0, "data/").await, stage.names_at(0, "meta/").await].concat();
    for (i, name) in names.iter().enumerate() {
        // Each at two of the three; the third one is another each time.
        for (way, at) in [(i + 1) % 3, (i + 2) % 3].into_iter().enumerate() {
            match (i + way) % 3 {
                0 => stage.tamper(at, name, &|_| None).await,
                1 => stage.tamper(at, name, &|bytes| Some(bytes[..bytes.len() - 1].to_vec())).await,
                _ => stage.tamper(at, name, &|bytes| flipped(bytes, i)).await,
            }
        }
    }
    let report = verify(&stage).await;
    assert_eq!(report.damage_count as usize, 2 * names.len());
    let settings = HealSettings { memory: 16 << 20, data_pack: 256 << 10, meta_pack: 64 << 10, ..HealSettings::default() };
    let members: Vec<_> =
        stage.names.iter().zip(&stage.stores).map(|(name, store)| stage.wrapped(name, Arc::new(store.clone()))).collect();
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let report = heal(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("a heal");
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    drop(repository);
    pruned(&stage, &pruning()).await;
    let report = verify(&stage).await;
    assert_eq!(verify_command::outcome(&report).code(), 0, "{report:?}");
    stage.holds(&[0, 1, 2], id, source.path()).await;
}
