//! Prune beside heal, and beside a log that goes on in a new epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use holdfast::lifecycle::heal::{HealSettings, run as heal};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::layout;
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::pruning::{History, backup, change, count, prune, pruned, settings};
use crate::support::recording_store::RecordingStore;
use crate::support::stage::{Stage, files_below};

const HOUR: Duration = Duration::from_secs(3600);

fn patient() -> ReplicaSettings {
    ReplicaSettings { stall: 1000 * HOUR, ..ReplicaSettings::default() }
}

/// All members as they are, but the one at `at`, which does as `plan` says.
fn members(stage: &Stage, at: usize, plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> Vec<Member> {
    let mut plan = Some(plan);
    let member = |(i, (name, store)): (usize, (&&'static str, &holdfast::store::memory::MemoryStore))| {
        let plain: Arc<dyn Store> = Arc::new(store.clone());
        match plan.take_if(|_| i == at) {
            Some(plan) => stage.member(name, Arc::new(FaultyStore::new(&stage.env, plain, plan))),
            None => stage.member(name, plain),
        }
    };
    stage.names.iter().zip(&stage.stores).enumerate().map(member).collect()
}

/// What a heal brings looks like orphans until it is published, and like waste until it is committed: a prune at any moment
/// costs it another round, and nothing else.
#[tokio::test(start_paused = true)]
async fn beside_a_heal() {
    for at in 0..12 {
        let mut history = History::of(90, &["a", "b"], 2).await;
        for day in 2..5 {
            change(history.source.path(), 90, day);
            let away = history.stage.members_but(1, |_| Fault::FailBefore(StoreErrorKind::Unavailable));
            let id = backup(&history.stage, away, history.source.path(), day).await;
            history.all.push((id, files_below(history.source.path())));
        }
        let stage = &history.stage;
        let writes = AtomicU64::new(0);
        let pausing = members(stage, 1, move |call| {
            let write = call.operation == Operation::Put && call.name != "descriptor";
            if write && writes.fetch_add(1, SeqCst) == at { Fault::Delay(HOUR) } else { Fault::Pass }
        });
        let repository = stage.open_at(pausing, patient()).await.expect("it opens");
        let sets = HealSettings { memory: 16 << 20, data_pack: 256 << 10, meta_pack: 64 << 10, ..HealSettings::default() };
        let (progress, stop) = Default::default();
        let healing = heal(&repository, &sets, &progress, &stop);
        let meanwhile = async {
            stage.env.sleep(HOUR / 6).await;
            pruned(stage, &settings()).await
        };
        let (report, _) = futures::join!(healing, meanwhile);
        report.unwrap_or_else(|e| panic!("held up at {at}: {e}"));
        drop(repository);
        // What it could not bring it brings now.
        let report = heal(&stage.open().await, &sets, &progress, &stop).await.expect("a heal");
        assert!(report.replicas.iter().all(|r| r.behind.is_none()), "held up at {at}: {report:?}");
        history.sound().await;
        pruned(&history.stage, &settings()).await;
        history.sound().await;
    }
}

/// Once a newer epoch of the log has begun, nothing is deleted by what the old one says.
#[tokio::test(start_paused = true)]
async fn beside_a_newer_epoch() {
    for held_up in 0..4 {
        let mut history = History::of(91, &["a"], 3).await;
        history.forget(|i| i < 2).await;
        let stage = &history.stage;
        let slots = AtomicU64::new(0);
        let notes = RecordingStore::new(Arc::new(stage.stores[0].clone()));
        // Before one of its records, or (last) before its first DELETE is looked after.
        let plan = move |call: &Call| {
            let slot = call.operation == Operation::Put && call.name.starts_with("log/");
            let newer = call.operation == Operation::Stat && call.name.starts_with("log/00000002/");
            let now = if held_up < 3 {
                slot && slots.fetch_add(1, SeqCst) == held_up
            } else {
                newer && slots.fetch_add(1, SeqCst) == 6
            };
            if now { Fault::Delay(HOUR) } else { Fault::Pass }
        };
        let faulty = FaultyStore::new(&stage.env, Arc::new(notes.clone()), plan);
        let repository = stage.open_at(vec![stage.member("a", Arc::new(faulty))], patient()).await.expect("it opens");
        let repaired = async {
            stage.env.sleep(HOUR / 6).await;
            let begins = Bytes::from_static(b"somebody repairs this log");
            stage.stores[0].put(&layout::slot(2, 1), begins).await.expect("stored");
        };
        let set = settings();
        let (report, ()) = futures::join!(prune(&repository, &set), repaired);
        let one = report.expect("a report").replicas.remove(0);
        let deletes = count(&notes.take(), Operation::Delete, "");
        if one.behind.is_some() {
            assert_eq!((deletes, one.deleted.objects), (0, 0), "held up at {held_up}: {one:?}");
        }
        assert!(one.behind.is_some() || stage.env.elapsed() < HOUR, "held up at {held_up}, it went on all the same: {one:?}");
    }
}

/// The last look before a DELETE is the one that counts: a newer epoch that begins while it is on its way is seen by it.
#[tokio::test(start_paused = true)]
async fn the_last_look_before_a_delete() {
    let mut last = None;
    for round in 0..2 {
        let mut history = History::of(92, &["a"], 3).await;
        history.forget(|i| i < 2).await;
        let stage = &history.stage;
        let notes = RecordingStore::new(Arc::new(stage.stores[0].clone()));
        let (looks, first_delete) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counting, noting, pause) = (looks.clone(), first_delete.clone(), last);
        let plan = move |call: &Call| {
            if call.operation == Operation::Delete {
                // Which look it followed; later ones change nothing about that.
                let _ = noting.compare_exchange(0, counting.load(SeqCst), SeqCst, SeqCst);
            }
            let look = call.operation == Operation::Stat && call.name.starts_with("log/00000002/");
            if look && Some(counting.fetch_add(1, SeqCst) + 1) == pause { Fault::Delay(HOUR) } else { Fault::Pass }
        };
        let faulty = FaultyStore::new(&stage.env, Arc::new(notes.clone()), plan);
        let repository = stage.open_at(vec![stage.member("a", Arc::new(faulty))], patient()).await.expect("it opens");
        let repaired = async {
            stage.env.sleep(HOUR / 6).await;
            if pause.is_some() {
                let begins = Bytes::from_static(b"somebody repairs this log");
                stage.stores[0].put(&layout::slot(2, 1), begins).await.expect("stored");
            }
        };
        let set = settings();
        let (report, ()) = futures::join!(prune(&repository, &set), repaired);
        let one = report.expect("a report").replicas.remove(0);
        let deletes = count(&notes.take(), Operation::Delete, "");
        if round == 0 {
            assert!(deletes > 0 && one.behind.is_none(), "{one:?}");
            last = Some(first_delete.load(SeqCst)).filter(|nth| *nth > 0);
            assert!(last.is_some(), "somebody looks before a DELETE");
        } else {
            assert_eq!((deletes, one.deleted.objects), (0, 0), "{one:?}");
            assert!(one.condemned > 0 && one.behind.as_ref().is_some_and(|why| why.contains("new epoch")), "{one:?}");
        }
    }
}
