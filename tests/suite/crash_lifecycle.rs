//! A crash at every store operation of forget, undelete, compaction and repair of an index, in every way a crash can leave an
//! operation, all stores of the process at once. Whatever happened: the repository opens, what was acknowledged before restores,
//! and the same command, given once more, ends well. (Backup and init: `crash_points`; prune: `prune_races`; heal: `heal`;
//! repair of a log: `repair_log`.)

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use holdfast::cli::repair::index_outcome;
use holdfast::clock::Env;
use holdfast::format::Hash;
use holdfast::lifecycle::compact;
use holdfast::lifecycle::forget::{What, run as forget};
use holdfast::lifecycle::heal::{HealSettings, run as heal};
use holdfast::lifecycle::repair::{RepairSettings, index};
use holdfast::lifecycle::retention::decide::Rules;
use holdfast::lifecycle::retention::group::GroupBy;
use holdfast::lifecycle::retention::policy::{Count, Policy};
use holdfast::lifecycle::undelete::run as undelete;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::repository::error::RepositoryError;
use holdfast::repository::snapshots::SnapshotView;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore, How};
use crate::support::pruning::{Files, History, dated, pruned, settings};
use crate::support::rig;
use crate::support::stage::{Stage, contents, copy_of, files_below, grow, run, tree};

/// The same objects in stores of their own, in another process.
async fn again(start: &Stage, seed: u64) -> Stage {
    let env = Env::inline(seed, start.env.now());
    let mut stores = Vec::new();
    for store in &start.stores {
        stores.push(copy_of(&env, store).await);
    }
    Stage { env, stores, names: start.names.clone(), chunker: start.chunker }
}

/// All members, cut off together at the call of number `at`; and which operation that was.
fn cut_off(stage: &Stage, at: u64, how: How) -> (Vec<Member>, Arc<Mutex<Option<Operation>>>) {
    let (calls, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
    let member = |(name, store): (&&'static str, &holdfast::store::memory::MemoryStore)| {
        let (calls, cut) = (calls.clone(), cut.clone());
        let plan = move |call: &Call| {
            let before = Fault::FailBefore(StoreErrorKind::Unavailable);
            match calls.fetch_add(1, SeqCst) {
                n if n < at => return Fault::Pass,
                n if n > at => return before,
                _ => *cut.lock().expect("no panic") = Some(call.operation),
            }
            match how {
                How::Before => before,
                How::Applied => Fault::FailAfter(StoreErrorKind::Unavailable),
                How::Torn => Fault::Torn,
            }
        };
        stage.member(name, Arc::new(FaultyStore::new(&stage.env, Arc::new(store.clone()), plan)))
    };
    (stage.names.iter().zip(&stage.stores).map(member).collect(), cut)
}

/// Cuts `work` off at every operation, in every way. `work` says whether it did all that it was to do; `after` proves that
/// nothing is lost, and that the same once more ends well.
pub async fn every(what: &str, start: &Stage, work: impl AsyncFn(&Repository) -> bool, after: impl AsyncFn(Stage, &str)) {
    let (mut points, mut writes) = (0, 0);
    for at in 0.. {
        let mut cut = None;
        for how in [How::Before, How::Applied, How::Torn] {
            let stage = again(start, 9_000 + at).await;
            let (members, seen) = cut_off(&stage, at, how);
            let whole = match stage.open_at(members, ReplicaSettings::default()).await {
                Ok(repository) => work(&repository).await,
                Err(_) => false,
            };
            cut = *seen.lock().expect("no panic");
            let story = format!("{what}, {how:?} at {at} ({cut:?})");
            assert!(cut.is_some() || whole, "{story}: nothing was in the way");
            after(stage, &story).await;
            points += u64::from(cut.is_some());
            if !matches!(cut, Some(Operation::Put | Operation::Delete)) {
                break;
            }
            writes += 1;
        }
        if cut.is_none() {
            break;
        }
    }
    println!("figure: crash points, {what}: {points}");
    assert!(writes >= 6, "{what}: few of its operations change anything: {writes}");
}

/// The repository opens for writing at every replica.
pub async fn opens(stage: &Stage, story: &str) -> Repository {
    let repository = stage.open().await;
    assert_eq!(repository.writable(), repository.set.all(), "{story}");
    repository
}

/// Each replica alone gives back whatever its log holds, which is all of `kept` and nothing that is not in `all`.
async fn restores(stage: &Stage, all: &[(Hash, Files)], kept: &[(Hash, Files)], story: &str) {
    for (at, name) in stage.names.iter().enumerate() {
        let alone = stage.open_alone(at).await;
        let held: BTreeSet<Hash> = alone.live().await.iter().map(|live| live.id).collect();
        assert!(kept.iter().all(|(id, _)| held.contains(id)), "{story}: replica {name} lost a snapshot");
        for id in &held {
            let (_, files) = all.iter().find(|(known, _)| known == id).unwrap_or_else(|| panic!("{story}: {name} made one up"));
            let found = contents(&alone, *id).await.unwrap_or_else(|e| panic!("{story}: replica {name}: {e}"));
            assert!(found == *files, "{story}: replica {name} gives back other contents");
        }
    }
}

fn last(n: u32) -> What {
    let mut policy = Policy::default();
    policy.counts[0] = Count::Number(n);
    let (group_by, now) = (GroupBy::default(), (4_000_000_000, 0));
    What::ByRules(Rules {
        policy,
        group_by,
        remove_all: false,
        now,
        partial_mercy: 0,
        floor: 0,
        limit_percent: None,
        source_by: group_by,
    })
}

async fn forgets(repository: &Repository) -> Result<bool, RepositoryError> {
    let report = forget(repository, &last(2), &|_: &SnapshotView| true, false).await?;
    Ok(report.replicas.iter().all(|r| r.behind.is_none()) && report.short.is_empty())
}

#[tokio::test(start_paused = true)]
async fn forgetting() {
    let History { stage, source, all } = History::of(730, &["a", "b"], 4).await;
    let (gone, kept) = all.split_at(2);
    every(
        "forget",
        &stage,
        async |repository| forgets(repository).await.unwrap_or(false),
        async |stage, story| {
            drop(opens(&stage, story).await);
            restores(&stage, &all, kept, story).await;
            let repository = opens(&stage, story).await;
            assert!(forgets(&repository).await.unwrap_or_else(|e| panic!("{story}: once more: {e}")), "{story}");
            for at in 0..2 {
                let state = &repository.log(at).await.expect("readable").state;
                assert!(gone.iter().all(|(id, _)| state.forgotten.contains(id)), "{story}: replica {at}");
            }
            drop(repository);
            let history = History { stage, source: tempfile::tempdir().expect("a folder"), all: kept.to_vec() };
            history.sound().await;
        },
    )
    .await;
    drop(source);
}

#[tokio::test(start_paused = true)]
async fn undeleting() {
    let mut history = History::of(731, &["a", "b"], 3).await;
    let (old, files) = history.forget(|i| i == 0).await.remove(0);
    let back = async |repository: &Repository| {
        let (views, _) = repository.forgotten().await;
        let view = views.iter().find(|view| view.id == old)?;
        undelete(repository, view, &Stop::default()).await.ok()
    };
    let whole =
        async |repository: &Repository| back(repository).await.is_some_and(|report| report.replicas.iter().all(|r| r.committed));
    let kept = &history.all;
    every("undelete", &history.stage, whole, async |stage, story| {
        let repository = opens(&stage, story).await;
        let new: Vec<Hash> =
            repository.live().await.iter().map(|live| live.id).filter(|id| kept.iter().all(|(known, _)| known != id)).collect();
        assert!(new.len() <= 1 && new != [old], "{story}: {} came back", new.len());
        drop(repository);
        let all: Vec<(Hash, Files)> = kept.iter().cloned().chain(new.iter().map(|id| (*id, files.clone()))).collect();
        restores(&stage, &all, kept, story).await;
        let repository = opens(&stage, story).await;
        let report = back(&repository).await.unwrap_or_else(|| panic!("{story}: it cannot come back"));
        assert_eq!(report.already, !new.is_empty(), "{story}: it comes back once");
        drop(repository);
        // Where it had come back at one replica only, heal brings it to the other.
        let repository = opens(&stage, story).await;
        let sets = HealSettings { memory: 16 << 20, ..HealSettings::default() };
        let healed = heal(&repository, &sets, &Progress::default(), &Stop::default()).await.expect("a heal");
        assert!(healed.replicas.iter().all(|r| r.behind.is_none() && r.bytes_sent == 0), "{story}: {healed:?}");
        drop(repository);
        let all = kept.iter().cloned().chain([(report.new, files.clone())]).collect();
        History { stage, source: tempfile::tempdir().expect("a folder"), all }.sound().await;
    })
    .await;
}

/// Many small segments, and nothing else to do.
#[tokio::test(start_paused = true)]
async fn compacting() {
    let stage = Stage::of(732, &["a"]);
    stage.init().await;
    let source = tree(732, 2, 9_000);
    let mut all = Vec::new();
    for day in 0..18 {
        grow(source.path(), 732, 2 + day..3 + day, 2_000);
        let report = run(&stage.open().await, &dated(source.path(), day as u64)).await.expect("a backup");
        all.push((report.snapshot.expect("committed"), files_below(source.path())));
    }
    let before = stage.names_at(0, "index/").await.len();
    assert!(before > 16, "{before}");
    let whole = async |repository: &Repository| match compact::run(repository, 0, &Stop::default()).await {
        Ok(compacted) => compacted.old.len() == before,
        Err(_) => false,
    };
    every("compaction", &stage, whole, async |stage, story| {
        drop(opens(&stage, story).await);
        let alone = stage.open_alone(0).await;
        for (id, files) in [&all[0], &all[9], &all[17]] {
            assert!(contents(&alone, *id).await.unwrap_or_else(|e| panic!("{story}: {e}")) == *files, "{story}");
        }
        drop(alone);
        let repository = opens(&stage, story).await;
        compact::run(&repository, 0, &Stop::default()).await.unwrap_or_else(|e| panic!("{story}: once more: {e}"));
        assert_eq!(repository.log(0).await.expect("readable").state.segments.len(), 1, "{story}");
        drop(repository);
        // What a cut left lying about is an orphan, and goes with the next prune.
        pruned(&stage, &settings()).await;
        assert_eq!(stage.names_at(0, "index/").await.len(), 1, "{story}");
        rig::verify_all(&stage.open().await).await.unwrap_or_else(|e| panic!("{story}: {e}"));
        let alone = stage.open_alone(0).await;
        for (id, files) in &all {
            assert!(contents(&alone, *id).await.unwrap_or_else(|e| panic!("{story}: {e}")) == *files, "{story}");
        }
        assert!(alone.take_met().is_empty(), "{story}");
    })
    .await;
}

/// Lost segments at one replica of two, and at the only one.
#[tokio::test(start_paused = true)]
async fn repairing_an_index() {
    for (seed, names, victim) in [(733, &["a", "b"][..], 1), (734, &["only"][..], 0)] {
        let History { stage, source, all } = History::of(seed, names, 3).await;
        for (nth, segment) in stage.names_at(victim, "index/").await.iter().enumerate() {
            let harm = |mut bytes: Vec<u8>| {
                bytes[50] ^= 1;
                (nth % 2 == 0).then_some(bytes)
            };
            stage.tamper(victim, segment, &harm).await;
        }
        let repair = async |repository: &Repository| {
            let settings = RepairSettings { publish_chunks: 20, ..RepairSettings::default() };
            index::run(repository, &settings, &Progress::default(), &Stop::default()).await
        };
        let whole = async |repository: &Repository| match repair(repository).await {
            Ok(reports) => index_outcome(&reports).code() == 0 && reports[victim].replaced,
            Err(_) => false,
        };
        every(&format!("repair of an index, replicas {names:?}"), &stage, whole, async |stage, story| {
            let repository = opens(&stage, story).await;
            if names.len() > 1 {
                for (id, files) in &all {
                    let found = contents(&repository, *id).await.unwrap_or_else(|e| panic!("{story}: {e}"));
                    assert!(found == *files, "{story}");
                }
            }
            drop(repository);
            let repository = opens(&stage, story).await;
            let reports = repair(&repository).await.unwrap_or_else(|e| panic!("{story}: once more: {e}"));
            assert_eq!(index_outcome(&reports).code(), 0, "{story}: {reports:?}");
            drop(repository);
            History { stage, source: tempfile::tempdir().expect("a folder"), all: all.clone() }.sound().await;
        })
        .await;
        drop(source);
    }
}
