//! Prune and repair of the same replica: after a repair, beside it, and across it. Mercy is zero throughout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use holdfast::lifecycle::repair::{RepairSettings, index, log};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::layout;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::pruning::{History, deletes_are_condemned, prune, pruned, recorded, settings};
use crate::support::rig;
use crate::support::stage::{Stage, contents, copy_of};

fn small() -> RepairSettings {
    RepairSettings { publish_chunks: 20, data_pack: 128 << 10, meta_pack: 32 << 10, ..RepairSettings::default() }
}

/// A damaged log is opened for whatever can still be done with it. What it had forgotten and half pruned is given up where the
/// record of that was lost; nothing else may have to be. Whether anything was.
async fn repair_log(stage: &Stage, history: &History, at: usize) -> bool {
    let report = repair_with(stage, at, &small()).await;
    let wanted = |id| history.all.iter().any(|(kept, _)| kept == id);
    assert!(!report.not_whole.iter().any(|(id, ..)| wanted(id)), "{report:?}");
    if !report.waits {
        return false;
    }
    // Not one name may be condemned before.
    let repository = stage.open().await;
    let refused = prune(&repository, &settings()).await.expect("a report");
    assert!(refused.replicas[at].behind.is_some() && refused.replicas[at].condemned == 0, "{refused:?}");
    drop(repository);
    let report = repair_with(stage, at, &RepairSettings { give_up: true, ..small() }).await;
    assert!(!report.waits, "{report:?}");
    true
}

async fn repair_with(stage: &Stage, at: usize, settings: &RepairSettings) -> log::LogRepaired {
    let repository = stage.open().await;
    log::run(&repository, at, settings, &Progress::default(), &Stop::default()).await.expect("repaired")
}

/// The history in stores of its own.
async fn again(history: &History) -> Stage {
    let from = &history.stage;
    let mut stores = Vec::new();
    for store in &from.stores {
        stores.push(copy_of(&from.env, store).await);
    }
    Stage { env: from.env.clone(), stores, names: from.names.clone(), chunker: from.chunker }
}

/// What is kept comes back from every replica alone, and all that is there verifies.
async fn sound(stage: &Stage, history: &History, row: &str) {
    for (at, name) in stage.names.iter().enumerate() {
        let alone = stage.open_alone(at).await;
        for (id, files) in &history.all {
            let found = contents(&alone, *id).await.unwrap_or_else(|e| panic!("{row}: replica {name}: {e}"));
            assert!(found == *files, "{row}: replica {name} gives back other contents");
        }
    }
    rig::verify_all(&stage.open().await).await.unwrap_or_else(|e| panic!("{row}: {e}"));
}

/// Prunes until nothing is left to do, looking at everything each time. Gives how many objects went.
async fn pruned_to_the_end(stage: &Stage, history: &History, row: &str) -> u64 {
    let mut gone = 0;
    for round in 0..4 {
        let (notes, members) = recorded(stage);
        let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
        let mut slots = Vec::new();
        for (at, note) in notes.iter().enumerate() {
            slots.push(repository.log(at).await.expect("readable").state.slot);
            note.take();
        }
        let report = prune(&repository, &settings()).await.unwrap_or_else(|e| panic!("{row}: {e}"));
        assert!(report.replicas.iter().all(|r| r.behind.is_none()), "{row}: {report:?}");
        for (at, note) in notes.iter().enumerate() {
            deletes_are_condemned(&repository, at, slots[at], &note.records()).await;
        }
        let deleted: u64 = report.replicas.iter().map(|r| r.deleted.objects).sum();
        drop(repository);
        sound(stage, history, row).await;
        gone += deleted;
        if deleted == 0 {
            assert!(round > 0 || gone == 0);
            return gone;
        }
    }
    panic!("{row}: it never comes to an end");
}

/// Whichever slot was lost, of one log of two or of the only one: what the repair copied, moved and left behind is told apart.
#[tokio::test(start_paused = true)]
async fn whichever_slot_was_lost() {
    let (mut gone, mut given_up, mut repaired) = (0, 0, 0);
    for names in [&["a", "b"][..], &["a"]] {
        let mut history = History::of(400, names, 4).await;
        history.forget(|i| i % 2 == 0).await;
        // Half of what there is was pruned once: names that are void, copies under others.
        pruned(&history.stage, &settings()).await;
        let day = 4;
        crate::support::pruning::change(history.source.path(), 400, day);
        let id = crate::support::pruning::backup(&history.stage, history.stage.members(), history.source.path(), day).await;
        history.all.push((id, crate::support::stage::files_below(history.source.path())));
        let slots = history.stage.names_at(0, "log/00000001/").await.len() as u64;
        for slot in 2..=slots {
            let stage = again(&history).await;
            let row = format!("{} stores, slot {slot} of {slots}", names.len());
            stage.tamper(0, &layout::slot(1, slot), &|bytes| Some(bytes[..bytes.len() - 1].to_vec())).await;
            given_up += u64::from(repair_log(&stage, &history, 0).await);
            repaired += 1;
            sound(&stage, &history, &row).await;
            gone += pruned_to_the_end(&stage, &history, &row).await;
        }
    }
    println!("figure: slots lost and repaired, then pruned: {repaired} ({given_up} times something forgotten was given up)");
    assert!(gone > 100 && given_up > 0, "{gone} objects were left behind in all; given up {given_up} times");
}

/// An index that was made anew from the packs: what they hold that nobody needs goes, and what is needed stays.
#[tokio::test(start_paused = true)]
async fn an_index_made_anew() {
    let mut history = History::of(410, &["a"], 4).await;
    history.forget(|i| i % 2 == 0).await;
    for lost in 0..history.stage.names_at(0, "index/").await.len() {
        let stage = again(&history).await;
        let segments = stage.names_at(0, "index/").await;
        stage.tamper(0, &segments[lost], &|_| None).await;
        let row = format!("segment {lost} of {}", segments.len());
        let repository = stage.open().await;
        index::run(&repository, &small(), &Progress::default(), &Stop::default()).await.expect("repaired");
        drop(repository);
        sound(&stage, &history, &row).await;
        assert!(pruned_to_the_end(&stage, &history, &row).await > 0, "{row}");
    }
}

/// A prune that stands still before each of its writes and deletes in turn, while its log is repaired into a new epoch and goes
/// on there: it ends without having taken anything from the new one.
#[tokio::test(start_paused = true)]
async fn a_prune_from_before_the_repair() {
    let (mut overtaken, mut points) = (0, 0);
    for at in 0.. {
        let mut history = History::of(420, &["a", "b"], 4).await;
        history.forget(|i| i % 2 == 0).await;
        let stage = &history.stage;
        let (calls, once) = (Arc::new(std::sync::atomic::AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let stood = once.clone();
        let plan = move |call: &Call| {
            let mine = matches!(call.operation, Operation::Put | Operation::Delete) && call.name != "descriptor";
            if mine && calls.fetch_add(1, SeqCst) == at && !once.swap(true, SeqCst) {
                Fault::Delay(Duration::from_secs(3600))
            } else {
                Fault::Pass
            }
        };
        let store = Arc::new(FaultyStore::new(&stage.env, Arc::new(stage.stores[0].clone()), plan));
        let mut members: Vec<Member> = stage.members();
        members[0] = stage.member("a", store);
        let patient = ReplicaSettings { stall: Duration::from_secs(1_000_000), ..ReplicaSettings::default() };
        let repository = stage.open_at(members, patient).await.expect("it opens");
        let meanwhile = async {
            stage.env.sleep(Duration::from_secs(600)).await;
            // A slot in its middle is lost, and the log goes on in a new epoch that takes over what is there now.
            stage.tamper(0, &layout::slot(1, 3), &|_| None).await;
            repair_log(stage, &history, 0).await;
            sound(stage, &history, &format!("point {at}, repaired")).await;
        };
        let set = settings();
        let (report, ()) = futures::join!(prune(&repository, &set), meanwhile);
        let behind = report.expect("a report").replicas[0].behind.clone();
        overtaken += u64::from(behind.is_some());
        drop(repository);
        sound(stage, &history, &format!("point {at}, after the old prune: {behind:?}")).await;
        pruned_to_the_end(stage, &history, &format!("point {at}")).await;
        points += 1;
        if !stood.load(SeqCst) {
            break;
        }
    }
    println!("figure: repairs of a log between two writes of a prune: {points} ({overtaken} times the prune was refused)");
    assert!(points > 5 && overtaken > 2, "{points} {overtaken}");
}
