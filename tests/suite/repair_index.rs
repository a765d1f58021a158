//! Repair of an index: rows that are lost come back from the trailers of the packs, what is void or doubted does not, and nothing
//! is deleted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use holdfast::cli::repair::index_outcome;
use holdfast::format::Hash;
use holdfast::format::record::{Action, Condemn, ObjectClass, ObjectRef};
use holdfast::lifecycle::repair::RepairSettings;
use holdfast::lifecycle::repair::index::{self, IndexRepaired};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::ReplicaSettings;
use holdfast::repository::layout::{self, Class};
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::verify::share::Share;
use holdfast::verify::{VerifyReport, VerifySettings};

use crate::support::faulty_store::Fault;
use crate::support::stage::{Stage, backing_up, grow, run, tree};

/// Two backups of many small packs at some replicas, and the newest snapshot.
async fn ground(seed: u64, names: &[&'static str]) -> (Stage, tempfile::TempDir, Hash) {
    let stage = Stage::of(seed, names);
    stage.init().await;
    let source = tree(seed, 16, 20_000);
    let settings = || holdfast::backup::BackupSettings { data_pack: 48 << 10, meta_pack: 1 << 10, ..backing_up(source.path()) };
    run(&stage.open().await, &settings()).await.expect("a backup");
    grow(source.path(), seed + 1, 50..58, 20_000);
    stage.env.sleep(std::time::Duration::from_secs(1)).await;
    let report = run(&stage.open().await, &settings()).await.expect("a second one");
    assert!(report.replicas.iter().all(|r| r.committed));
    let id = report.snapshot.expect("a snapshot");
    (stage, source, id)
}

async fn repair(stage: &Stage, settings: RepairSettings) -> Vec<IndexRepaired> {
    let repository = stage.open().await;
    index::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out")
}

async fn verify(stage: &Stage, share: Option<Share>) -> VerifyReport {
    let repository = stage.open().await;
    let settings = VerifySettings { read_data: share, ..VerifySettings::default() };
    holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out")
}

fn hash(name: &ObjectName) -> Hash {
    layout::parse_hashed(name).expect("named by a hash").1
}

async fn clean(stage: &Stage) {
    let report = verify(stage, Some(Share::All)).await;
    assert_eq!(holdfast::cli::verify::outcome(&report).code(), 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn lost_segments_at_one_replica_and_nothing_distrusted() {
    for (seed, spoil) in [(310, false), (311, true)] {
        let (stage, source, id) = ground(seed, &["a", "b", "c"]).await;
        let segments = stage.names_at(1, "index/").await;
        assert!(segments.len() >= 2);
        for segment in &segments {
            let harm = |mut bytes: Vec<u8>| {
                bytes[50] ^= 1;
                spoil.then_some(bytes)
            };
            stage.tamper(1, segment, &harm).await;
        }
        let before = stage.names_at(1, "").await;
        let dry = repair(&stage, RepairSettings { dry_run: true, ..RepairSettings::default() }).await;
        assert_eq!((dry[1].lost_count, dry[0].lost_count), (segments.len() as u64, 0));
        assert_eq!(stage.names_at(1, "").await, before, "a dry run writes nothing");
        let reports = repair(&stage, RepairSettings::default()).await;
        assert_eq!(index_outcome(&reports).code(), 0, "{reports:?}");
        let packs = stage.names_at(1, "data/").await.len() + stage.names_at(1, "meta/").await.len();
        assert_eq!((reports[1].added, dry[1].added), (packs as u64, packs as u64));
        assert!(reports[1].replaced && reports[1].proven == 0, "{reports:?}");
        assert_eq!((reports[0].added, reports[0].lost_count, reports[2].added), (0, 0, 0));
        for name in &before {
            assert!(stage.stores[1].stat(name).await.expect("answers").is_some(), "{name} was deleted");
        }
        clean(&stage).await;
        stage.holds(&[0, 1, 2], id, source.path()).await;
        // A second run has nothing to do.
        assert_eq!(repair(&stage, RepairSettings::default()).await[1].added, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_index_there_was() {
    let (stage, source, id) = ground(312, &["only"]).await;
    for segment in stage.names_at(0, "index/").await {
        stage.tamper(0, &segment, &|_| None).await;
    }
    let reports = repair(&stage, RepairSettings { publish_chunks: 5, ..RepairSettings::default() }).await;
    assert_eq!(index_outcome(&reports).code(), 0, "{reports:?}");
    assert!(reports[0].replaced && reports[0].segments > 2, "published in parts: {reports:?}");
    stage.holds(&[0], id, source.path()).await;
    clean(&stage).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_verify_distrusted_is_read_back_before_it_is_trusted() {
    let (stage, source, id) = ground(313, &["a", "b", "c"]).await;
    for segment in stage.names_at(1, "index/").await {
        stage.tamper(1, &segment, &|_| None).await;
    }
    let distrusted = verify(&stage, None).await.replicas[1].distrusted;
    assert!(distrusted > 4);
    // One of them really is damaged.
    let bad = stage.names_at(1, "data/").await[0].clone();
    let flip = |mut bytes: Vec<u8>| {
        bytes[60] ^= 1;
        Some(bytes)
    };
    stage.tamper(1, &bad, &flip).await;
    let reports = repair(&stage, RepairSettings::default()).await;
    assert_eq!((reports[1].proven, reports[1].added), (distrusted - 1, distrusted - 1), "{reports:?}");
    assert_eq!(reports[1].unreadable.iter().map(|(object, _)| object.as_str()).collect::<Vec<_>>(), [bad.as_str()]);
    assert!(!reports[1].replaced && reports[1].behind.as_ref().is_some_and(|why| why.contains("heal")), "{reports:?}");
    assert_eq!(index_outcome(&reports).code(), 14);
    assert_eq!(stage.open().await.log(1).await.expect("readable").state.distrusted, BTreeSet::from([hash(&bad)]));
    // Heal brings what the damaged one held, and whole segments in the place of the lost ones: nothing lost is named any more.
    heal(&stage).await;
    let reports = repair(&stage, RepairSettings::default()).await;
    assert!(reports[1].lost_count == 0 && reports[1].behind.is_none(), "{reports:?}");
    stage.holds(&[1], id, source.path()).await;
}

async fn heal(stage: &Stage) {
    let repository = stage.open().await;
    let settings = holdfast::lifecycle::heal::HealSettings::default();
    let report = holdfast::lifecycle::heal::run(&repository, &settings, &Progress::default(), &Stop::default()).await;
    let report = report.expect("healed");
    assert!(report.replicas.iter().all(|r| r.behind.is_none()), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn packs_that_no_segment_names_and_names_that_are_void() {
    let (stage, source, id) = ground(314, &["a", "b"]).await;
    let other = Stage { names: vec!["a"], stores: vec![stage.copy(0).await], env: stage.env.clone(), chunker: stage.chunker };
    // A run that sent its packs and published nothing: what it sent lies at the first store.
    let more = tree(900, 4, 20_000);
    let had: BTreeSet<ObjectName> = stage.names_at(0, "").await.into_iter().collect();
    other.backup(other.members(), more.path()).await.expect("a backup of its own");
    let mut sent = Vec::new();
    for name in [other.names_at(0, "data/").await, other.names_at(0, "meta/").await].concat() {
        if !had.contains(&name) {
            let bytes = other.stores[0].get(&name, None).await.expect("there");
            stage.stores[0].put(&name, bytes).await.expect("stored");
            sent.push(name);
        }
    }
    assert!(sent.len() >= 2, "{sent:?}");
    // One of them was condemned since.
    let void = sent.pop().expect("one");
    let class = if void.as_str().starts_with("meta/") { ObjectClass::Meta } else { ObjectClass::Data };
    let object = ObjectRef { class: class as i32, hash: Bytes::copy_from_slice(&hash(&void)) };
    let condemn = Action::Condemn(Condemn { objects: vec![object], lists: Vec::new() });
    stage.open().await.log(0).await.expect("there").append(condemn, true, &[], |_| Ok(())).await.expect("condemned");
    // And something is there that is no pack.
    let noise = layout::hashed(Class::DataPack, blake3::hash(b"noise").as_bytes());
    stage.stores[0]
        .put(&noise, Bytes::from_static(b"no pack at all, but long enough to have a header and an end"))
        .await
        .expect("stored");
    let reports = repair(&stage, RepairSettings { stores: vec!["a".into()], ..RepairSettings::default() }).await;
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].added, reports[0].unreadable_count), (sent.len() as u64, 1), "{reports:?}");
    let repository = stage.open().await;
    let index = repository.index().await.expect("an index");
    {
        let chunks = index.read().expect("read");
        let published = |name: &ObjectName| chunks.pack_number(&hash(name)).is_some_and(|n| chunks.pack(n).published.has(0));
        assert!(sent.iter().all(published) && !published(&void) && !published(&noise));
    }
    stage.holds(&[0, 1], id, source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_pack_keeps_the_lost_segment_named_and_a_store_that_is_away_is_behind() {
    let (stage, _source, _) = ground(315, &["only"]).await;
    let gone = stage.names_at(0, "data/").await[1].clone();
    stage.tamper(0, &gone, &|_| None).await;
    for segment in stage.names_at(0, "index/").await {
        stage.tamper(0, &segment, &|_| None).await;
    }
    let reports = repair(&stage, RepairSettings::default()).await;
    assert!(!reports[0].replaced && reports[0].added > 0, "{reports:?}");
    assert_eq!(index_outcome(&reports).code(), 14);

    let (stage, _source, _) = ground(316, &["a", "b"]).await;
    let calls = Arc::new(Mutex::new(0));
    let counted = calls.clone();
    let members = stage.members_but(1, move |call| match call.operation == Operation::List {
        true => {
            *counted.lock().expect("counting") += 1;
            Fault::FailBefore(StoreErrorKind::Unavailable)
        }
        false => Fault::Pass,
    });
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("opened");
    let reports =
        index::run(&repository, &RepairSettings::default(), &Progress::default(), &Stop::default()).await.expect("done");
    assert!(reports[1].behind.is_some() && reports[0].behind.is_none(), "{reports:?}");
    assert_eq!(index_outcome(&reports).code(), 4);
}
