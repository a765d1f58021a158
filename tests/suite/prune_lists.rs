//! Lists: those that a record or a checkpoint names stay, whatever a prune thinks of it; those that a lost race left go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use holdfast::format::Hash;
use holdfast::format::list::HashList;
use holdfast::format::record::{Action, Forget, ObjectClass, Revoke};
use holdfast::lifecycle::prune::PruneSettings;
use holdfast::replica::ReplicaSettings;
use holdfast::repository::Repository;
use holdfast::repository::condemned::{CondemnFault, Names};
use holdfast::repository::layout::{self, Class};
use holdfast::store::Store;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::pruning::{History, count, deletes_are_condemned, prune, pruned, recorded, settings};
use crate::support::stage::{Stage, files_below};

/// Names that nothing has, more than a checkpoint or a record carries itself.
fn names(count: u64, of: u64) -> Vec<Hash> {
    (0..count).map(|n| *blake3::hash(format!("{of} {n}").as_bytes()).as_bytes()).collect()
}

fn stored(hashes: &[Hash]) -> Vec<Bytes> {
    hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect()
}

/// A list as a writer leaves it that is killed, or overtaken, before anything names it.
async fn stray(stage: &Stage, repository: &Repository, of: u64) -> ObjectName {
    let list = HashList::new(names(300, of));
    let stored = list.encode(&repository.keyring.keys.log, &repository.id(), stage.env.random()).expect("a list");
    let name = layout::hashed(Class::List, &holdfast::format::object_hash(&stored));
    stage.stores[0].put(&name, stored).await.expect("stored");
    name
}

/// Forgets as many ids as a checkpoint does not carry itself, and writes one: its list serves all later ones.
async fn checkpointed(repository: &Repository, of: u64) {
    let mut log = repository.log(0).await.expect("readable");
    let forget = Action::Forget(Forget { ids: stored(&names(300, of)) });
    log.append(forget, true, &[], |_| Ok(())).await.expect("appended");
    log.write_checkpoint().await.expect("a checkpoint");
}

async fn lists(stage: &Stage) -> BTreeSet<ObjectName> {
    stage.names_at(0, "lists/").await.into_iter().collect()
}

/// Lists of records, of old checkpoints and of the newest stay; strays go, and not before their time.
#[tokio::test(start_paused = true)]
async fn strays_go_and_nothing_else() {
    let history = History::of(90, &["a"], 2).await;
    let stage = &history.stage;
    let repository = stage.open().await;
    // The first list is merged into the second: from then on only the first checkpoint names it.
    for of in 1..3 {
        checkpointed(&repository, of).await;
    }
    let (footing, _) = repository.stand(0).await.expect("it stands");
    let many = Names::from([(ObjectClass::Data, names(5_000, 3).into_iter().collect())]);
    repository.condemn(0, &footing, &many).await.expect("condemned by a list");
    let needed = lists(stage).await;
    assert_eq!(needed.len(), 3, "of two checkpoints and of a record");
    let strays = BTreeSet::from([stray(stage, &repository, 4).await, stray(stage, &repository, 5).await]);
    drop(repository);

    let merciful = PruneSettings { mercy: Duration::from_secs(86_400), ..settings() };
    let one = pruned(stage, &merciful).await.remove(0);
    assert_eq!((one.orphans.objects, one.orphans_young, one.condemned), (0, 2, 0), "{one:?}");
    tokio::time::advance(Duration::from_secs(2 * 86_400)).await;
    let dry = pruned(stage, &PruneSettings { dry_run: true, ..settings() }).await.remove(0);
    assert_eq!((dry.orphans.objects, lists(stage).await.len()), (2, 5));
    let one = pruned(stage, &merciful).await.remove(0);
    assert_eq!((one.orphans.objects, one.condemned, one.deleted.objects, one.deleted.waiting), (2, 2, 0, 2), "{one:?}");
    let (notes, members) = recorded(stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let slots = stage.names_at(0, "log/").await.len() as u64;
    notes[0].take();
    let report = prune(&repository, &settings()).await.expect("a prune");
    assert_eq!((report.replicas[0].condemned, report.replicas[0].deleted.objects), (0, 2), "{report:?}");
    let records = notes[0].records();
    assert_eq!(deletes_are_condemned(&repository, 0, slots, &records).await, 2);
    // Where all other lists are those of records, no checkpoint is asked.
    assert!(count(&records, Operation::Get, "checkpoints/") > 0, "{records:?}");
    assert_eq!(lists(stage).await, needed);
    assert!(strays.is_disjoint(&needed));
    history.sound().await;
}

/// Which lists a damaged checkpoint named cannot be told: all stay, until it can be.
#[tokio::test(start_paused = true)]
async fn an_unreadable_checkpoint_keeps_all_lists() {
    let history = History::of(91, &["a"], 2).await;
    let stage = &history.stage;
    let repository = stage.open().await;
    for of in 1..3 {
        checkpointed(&repository, of).await;
    }
    stray(stage, &repository, 4).await;
    drop(repository);
    let (all, checkpoints) = (lists(stage).await, stage.names_at(0, "checkpoints/").await);
    let oldest = checkpoints.last().expect("two").clone();
    let sound = stage.stores[0].get(&oldest, None).await.expect("there");
    stage.tamper(0, &oldest, &|bytes| Some(bytes[..bytes.len() - 1].to_vec())).await;
    let one = pruned(stage, &settings()).await.remove(0);
    assert_eq!((one.orphans.objects, lists(stage).await), (0, all), "{one:?}");
    stage.tamper(0, &oldest, &|_| Some(sound.to_vec())).await;
    let one = pruned(stage, &settings()).await.remove(0);
    assert_eq!((one.orphans.objects, one.deleted.objects), (1, 1), "{one:?}");
    history.sound().await;
}

/// A record whose list went for an orphan before it was written is not written; a list that a record names meanwhile stays.
#[tokio::test(start_paused = true)]
async fn a_list_and_its_record_race() {
    let history = History::of(92, &["a"], 2).await;
    let stage = &history.stage;
    let (one, two) = (stage.open().await, stage.open().await);
    let (footing, _) = two.stand(0).await.expect("it stands");
    let before = lists(stage).await;
    let many = Names::from([(ObjectClass::Data, names(5_000, 1).into_iter().collect())]);
    two.condemn(0, &footing, &many).await.expect("condemned by a list");
    let list = lists(stage).await.difference(&before).next().expect("one").clone();
    let (_, hash) = layout::parse_hashed(&list).expect("a list");
    // Planned before that record: it is judged at the slot, and there the list is needed.
    let void = Names::from([(ObjectClass::List, BTreeSet::from([hash]))]);
    let (now, _) = one.stand(0).await.expect("it stands");
    match one.condemn(0, &now, &void).await {
        Err(CondemnFault::Overtaken(_)) => {}
        other => panic!("a list that a record names was condemned: {other:?}"),
    }
    pruned(stage, &settings()).await;
    assert!(lists(stage).await.contains(&list));
    drop((one, two));

    // The other way round: held up between its list and its record, which a prune takes for an orphan meanwhile.
    let held_up = Arc::new(AtomicBool::new(false));
    let once = held_up.clone();
    let plan = move |call: &Call| {
        let slot = call.operation == Operation::Put && call.name.starts_with("log/");
        if slot && !once.swap(true, SeqCst) { Fault::Delay(Duration::from_secs(3600)) } else { Fault::Pass }
    };
    let store = FaultyStore::new(&stage.env, Arc::new(stage.stores[0].clone()), plan);
    let patient = ReplicaSettings { stall: Duration::from_secs(1_000_000), ..ReplicaSettings::default() };
    let late = stage.open_at(vec![stage.member("a", Arc::new(store))], patient).await.expect("it opens");
    let (footing, _) = late.stand(0).await.expect("it stands");
    let more = Names::from([(ObjectClass::Data, names(5_000, 2).into_iter().collect())]);
    let meanwhile = async {
        stage.env.sleep(Duration::from_secs(600)).await;
        pruned(stage, &settings()).await.remove(0)
    };
    let (condemned, one) = futures::join!(late.condemn(0, &footing, &more), meanwhile);
    assert!(held_up.load(SeqCst));
    assert_eq!((one.orphans.objects, one.deleted.objects), (1, 1), "{one:?}");
    match condemned {
        Err(CondemnFault::Overtaken(_)) => {}
        other => panic!("a record names a list that is void: {other:?}"),
    }
    history.sound().await;
}

/// A checkpoint that comes after its list was taken for an orphan is of no use, and no harm either: it is read past, verify does
/// not call it damage, and no later checkpoint builds on it.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_comes_late_does_no_harm() {
    let mut history = History::of(93, &["a"], 2).await;
    let stage = &history.stage;
    let late = stage.open().await;
    checkpointed(&late, 1).await;
    // As it was before its checkpoint: the list is there, and nothing names it.
    let mut checkpoints = stage.names_at(0, "checkpoints/").await;
    let newest = checkpoints.remove(0);
    let checkpoint = stage.stores[0].get(&newest, None).await.expect("there");
    stage.tamper(0, &newest, &|_| None).await;
    let one = pruned(stage, &settings()).await.remove(0);
    assert_eq!((one.orphans.objects, one.deleted.objects), (1, 1), "{one:?}");
    stage.stores[0].put(&newest, checkpoint).await.expect("it comes late");
    history.sound().await;
    // Whoever wrote it goes on, and so do others.
    let mut log = late.log(0).await.expect("readable");
    log.catch_up().await.expect("read");
    let revoke = Action::Revoke(Revoke { key_slots: stored(&names(300, 2)) });
    log.append(revoke, true, &[], |_| Ok(())).await.expect("appended");
    log.write_checkpoint().await.expect("a checkpoint");
    let head = log.state.slot;
    drop(log);
    drop(late);
    let fresh = stage.open().await;
    {
        let log = fresh.log(0).await.expect("readable");
        assert_eq!(log.checkpointed, head, "the newest checkpoint can be read");
        assert!(names(300, 1).iter().all(|id| log.state.forgotten.contains(id)), "all of it");
    }
    drop(fresh);
    std::fs::write(history.source.path().join("one-more"), b"more").expect("written");
    let id = crate::support::pruning::backup(stage, stage.members(), history.source.path(), 9).await;
    history.all.push((id, files_below(history.source.path())));
    history.sound().await;
}
