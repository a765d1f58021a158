//! Damage of one pack in a hundred: at one replica heal replaces it from another; at all of them everything that does not lie in
//! those packs restores, and what does is listed, exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast::cli::restore::outcome;
use holdfast::format::Hash;
use holdfast::format::entry::EntryKind;
use holdfast::lifecycle::heal::HealSettings;
use holdfast::progress::{Progress, Stop};
use holdfast::repository::{Repository, layout};
use holdfast::restore::{Losses, Lost, RestoreReport, RestoreSettings};
use holdfast::store::name::ObjectName;
use holdfast::verify::VerifySettings;
use holdfast::verify::share::Share;

use crate::support::stage::{Stage, backing_up, entries, files_below, pieces, run, tree};

/// Three replicas with one snapshot in more than a hundred packs.
async fn ground(seed: u64) -> (Stage, tempfile::TempDir, Hash) {
    let stage = Stage::new(seed);
    stage.init().await;
    let source = tree(seed, 90, 40_000);
    let settings = holdfast::backup::BackupSettings { data_pack: 32 << 10, meta_pack: 2 << 10, ..backing_up(source.path()) };
    let report = run(&stage.open().await, &settings).await.expect("a backup");
    assert!(report.replicas.iter().all(|r| r.committed));
    (stage, source, report.snapshot.expect("a snapshot"))
}

/// One in a hundred of the packs below a prefix, and no fewer than one: each harmed in another way.
async fn harm(stage: &Stage, at: &[usize], prefix: &str) -> Vec<ObjectName> {
    let packs = stage.names_at(0, prefix).await;
    let count = packs.len().div_ceil(100);
    let chosen: Vec<ObjectName> = (0..count).map(|i| packs[(2 * i + 1) * packs.len() / (2 * count)].clone()).collect();
    for (i, pack) in chosen.iter().enumerate() {
        for at in at {
            let change = |mut bytes: Vec<u8>| {
                let middle = bytes.len() / 2;
                match i % 3 {
                    0 => {
                        // Its frames, from the first to the last.
                        bytes[30..middle].iter_mut().for_each(|b| *b ^= 0xff);
                        let end = bytes.len() - 1;
                        bytes[middle..end].iter_mut().for_each(|b| *b ^= 0x55);
                        Some(bytes)
                    }
                    1 => None,
                    _ => Some(bytes[..20].to_vec()),
                }
            };
            stage.tamper(*at, pack, &change).await;
        }
    }
    chosen
}

async fn verify(stage: &Stage) -> u8 {
    let settings = VerifySettings { read_data: Some(Share::All), ..VerifySettings::default() };
    let repository = stage.open().await;
    let report = holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("done");
    holdfast::cli::verify::outcome(&report).code()
}

/// Restores, and gives everything that could not be had.
async fn left(repository: &Repository, id: Hash, target: &Path) -> (RestoreReport, Vec<Lost>) {
    let views = repository.snapshots().await.expect("listed");
    let view = repository.resolve(&views, &hex::encode(id)).expect("there");
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    let losses = Losses(Arc::new(move |lost: &Lost| sink.lock().expect("telling").push(lost.clone())));
    let settings =
        RestoreSettings { target: target.to_owned(), memory: 16 << 20, losses: Some(losses), ..RestoreSettings::default() };
    let report = holdfast::restore::run(repository, &view.snapshot, &settings, &Progress::default(), &Stop::default()).await;
    let told = told.lock().expect("told").clone();
    (report.expect("a restore goes on past what is lost"), told)
}

#[tokio::test(start_paused = true)]
async fn at_one_replica_it_is_replaced_from_another() {
    let (stage, source, id) = ground(350).await;
    let harmed = harm(&stage, &[1], "data/").await;
    assert!(harmed.len() >= 2, "{harmed:?}");
    harm(&stage, &[1], "meta/").await;
    assert_eq!(verify(&stage).await, 14);
    let repository = stage.open().await;
    let report =
        holdfast::lifecycle::heal::run(&repository, &HealSettings::default(), &Progress::default(), &Stop::default()).await;
    let report = report.expect("healed");
    assert!(report.lost.is_empty() && report.replicas.iter().all(|r| r.behind.is_none()), "{report:?}");
    drop(repository);
    let alone = stage.open_alone(1).await;
    let target = tempfile::tempdir().expect("a folder");
    let (report, lost) = left(&alone, id, target.path()).await;
    assert_eq!((outcome(&report).code(), report.lost_parts), (0, 0), "{lost:?}");
    let below = target.path().join(source.path().strip_prefix("/").expect("absolute"));
    assert!(files_below(&below) == files_below(source.path()));
    stage.holds(&[0, 2], id, source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn at_all_replicas_the_rest_restores_and_the_lost_is_listed() {
    let (stage, source, id) = ground(351).await;
    // What each file has in which pack, before.
    let repository = stage.open().await;
    let mut parts: Vec<(Vec<u8>, u64, u64, BTreeSet<Hash>)> = Vec::new();
    for (key, entry) in entries(&repository, id).await.expect("entries") {
        if entry.kind() != EntryKind::File {
            continue;
        }
        let mut offset = 0;
        for piece in pieces(&repository, &entry).await.expect("pieces") {
            let chunk = piece.chunk_id().expect("noise has no holes");
            let index = repository.index().await.expect("an index");
            let index = index.read().expect("read");
            let packs = index.places(&chunk).iter().map(|place| index.pack(place.pack).hash).collect();
            parts.push((key.clone(), offset, piece.length, packs));
            offset += piece.length;
        }
    }
    drop(repository);
    let harmed = harm(&stage, &[0, 1, 2], "data/").await;
    let bad: BTreeSet<Hash> = harmed.iter().map(|name| layout::parse_hashed(name).expect("hashed").1).collect();
    let expected: BTreeSet<(Vec<u8>, u64, u64)> = parts
        .into_iter()
        .filter(|(.., packs)| packs.is_subset(&bad))
        .map(|(key, offset, length, _)| {
            let path = String::from_utf8(key).expect("plain").replace('\0', "/");
            (source.path().join(path).to_str().expect("plain").as_bytes().to_vec(), offset, length)
        })
        .collect();
    assert!(expected.len() >= 2, "{expected:?}");
    // From all of them, and from each alone.
    for from in [None, Some(0), Some(2)] {
        let repository = match from {
            None => stage.open().await,
            Some(at) => stage.open_alone(at).await,
        };
        let target = tempfile::tempdir().expect("a folder");
        let (report, lost) = left(&repository, id, target.path()).await;
        assert_eq!(outcome(&report).code(), 14);
        let told: BTreeSet<(Vec<u8>, u64, u64)> =
            lost.iter().map(|lost| (lost.path.clone(), lost.part.expect("a part").0, lost.part.expect("a part").1)).collect();
        assert_eq!((&told, lost.len()), (&expected, expected.len()), "each once, and nothing else");
        let bytes: u64 = expected.iter().map(|(.., length)| length).sum();
        assert_eq!((report.lost_parts, report.lost_bytes), (expected.len() as u64, bytes));
        let paths: BTreeSet<&[u8]> = expected.iter().map(|(path, ..)| path.as_slice()).collect();
        assert_eq!(report.failed_count, paths.len() as u64);
        // Everything else is there, also of the files that lost a part.
        let below = target.path().join(source.path().strip_prefix("/").expect("absolute"));
        let found = files_below(&below);
        for (key, mut right) in files_below(source.path()) {
            let path = source.path().join(String::from_utf8(key.clone()).expect("plain").replace('\0', "/"));
            for (_, offset, length) in expected.iter().filter(|(lost, ..)| lost == path.to_str().expect("plain").as_bytes()) {
                right[*offset as usize..(*offset + *length) as usize].fill(0);
            }
            let mut is = found.get(&key).cloned().unwrap_or_default();
            is.resize(right.len(), 0);
            assert!(is == right, "{}", path.display());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_part_of_the_catalog_names_what_was_in_it() {
    let (stage, source, id) = ground(352).await;
    let harmed = harm(&stage, &[0, 1, 2], "meta/").await;
    let repository = stage.open().await;
    let target = tempfile::tempdir().expect("a folder");
    let (report, lost) = left(&repository, id, target.path()).await;
    let below = target.path().join(source.path().strip_prefix("/").expect("absolute"));
    let found = if below.exists() { files_below(&below) } else { BTreeMap::new() };
    let all = files_below(source.path());
    for (key, bytes) in &found {
        assert!(
            all.get(key) == Some(bytes) || lost.iter().any(|l| l.path.ends_with(key.rsplit(|b| *b == 0).next().expect("a name")))
        );
    }
    match all.len() - found.len() {
        0 => assert!(report.failed_count > 0 || lost.is_empty(), "{harmed:?}"),
        missing => {
            // Each span says from where to where, and how many items are in it at most.
            let up_to: usize = lost.iter().filter(|l| l.part.is_none()).filter_map(|l| items(&l.why)).sum();
            assert!(up_to >= missing, "{missing} missing, {lost:?}");
            assert_eq!(outcome(&report).code(), 14);
        }
    }
}

fn items(why: &str) -> Option<usize> {
    why.split("up to ").filter_map(|part| part.split(" items").next()?.parse().ok()).next()
}
