//! Prune while others are at work: a backup that relied on what goes, another prune, an undelete at the last moment, a crash at
//! every store operation. Mercy is zero throughout: it is no part of any of these arguments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use holdfast::clock::Env;
use holdfast::lifecycle::prune::{PruneError, PruneReport};
use holdfast::lifecycle::undelete::run as undelete;
use holdfast::progress::Stop;
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::error::Fault as Class;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore, How};
use crate::support::pruning::{History, change, count, dated, deletes_are_condemned, prune, pruned, recorded, settings};
use crate::support::recording_store::RecordingStore;
use crate::support::rig;
use crate::support::stage::{Stage, contents, copy_of, files_below, run};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Stores that are waited for however long they take.
fn patient() -> ReplicaSettings {
    ReplicaSettings { stall: 1000 * HOUR, ..ReplicaSettings::default() }
}

/// All members, every store as `plan` says; no wrapper that would lose patience. Which call of all stores it is counts `plan`.
fn planned(stage: &Stage, plan: impl Fn(&Call) -> Fault + Send + Sync + Clone + 'static) -> Vec<Member> {
    let member = |(name, store): (&&'static str, &holdfast::store::memory::MemoryStore)| {
        stage.member(name, Arc::new(FaultyStore::new(&stage.env, Arc::new(store.clone()), plan.clone())))
    };
    stage.names.iter().zip(&stage.stores).map(member).collect()
}

/// Delays the call of number `at` of those that `which` admits by an hour, once.
fn pausing(
    at: u64,
    which: impl Fn(&Call) -> bool + Send + Sync + Clone + 'static,
) -> impl Fn(&Call) -> Fault + Send + Sync + Clone {
    let calls = Arc::new(AtomicU64::new(0));
    move |call| if which(call) && calls.fetch_add(1, SeqCst) == at { Fault::Delay(HOUR) } else { Fault::Pass }
}

fn is_slot(call: &Call) -> bool {
    call.operation == Operation::Put && call.name.starts_with("log/")
}

fn came_out(result: &Result<PruneReport, PruneError>) {
    let report = result.as_ref().expect("a report");
    for one in &report.replicas {
        assert!(one.behind.is_none() || one.fault == Some(Class::Contention), "{one:?}");
    }
}

/// What a backup relies on goes between its upload and its commit: it notices, and sends it again.
#[tokio::test(start_paused = true)]
async fn a_backup_that_relied_on_what_goes_sends_it_again() {
    let mut history = History::of(20, &["a", "b"], 3).await;
    let old = history.all[0].1.clone();
    history.forget(|i| i < 2).await;
    // The tree is again what it was on a day that is forgotten by now: all of it is known, and nothing of it is needed.
    let source = tempfile::tempdir().expect("a folder");
    for (key, bytes) in &old {
        let path = source.path().join(String::from_utf8(key.clone()).expect("UTF-8").replace('\0', "/"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    let stage = &history.stage;
    // At both replicas, before the first of them commits.
    let calls = Arc::new(AtomicU64::new(0));
    let commits = move |call: &Call| match call.operation == Operation::Put && call.name.starts_with("snapshots/") {
        true if calls.fetch_add(1, SeqCst) < 2 => Fault::Delay(HOUR),
        _ => Fault::Pass,
    };
    let repository = stage.open_at(planned(stage, commits), patient()).await.expect("it opens");
    let sets = dated(source.path(), 50);
    let backup = async { run(&repository, &sets).await };
    let meanwhile = async {
        stage.env.sleep(10 * MINUTE).await;
        pruned(stage, &settings()).await
    };
    let (report, replicas) = futures::join!(backup, meanwhile);
    assert!(replicas.iter().all(|one| one.dropped.objects > 0 && one.deleted.objects > 0), "{replicas:?}");
    let report = report.expect("a backup");
    assert!(report.replicas.iter().all(|r| r.committed), "{report:?}");
    history.all.push((report.snapshot.expect("committed"), files_below(source.path())));
    drop(repository);
    history.sound().await;
    pruned(&history.stage, &settings()).await;
    history.sound().await;
}

/// A prune at every point at which a backup writes.
#[tokio::test(start_paused = true)]
async fn a_prune_at_every_write_of_a_backup() {
    let mut start = History::of(21, &["a"], 4).await;
    start.forget(|i| i < 3).await;
    change(start.source.path(), 21, 4);
    let (mut points, mut again) = (0, 0);
    for at in 0.. {
        let stage = Stage {
            env: Env::inline(at, start.stage.env.now()),
            stores: vec![copy_of(&start.stage.env, &start.stage.stores[0]).await],
            names: start.stage.names.clone(),
            chunker: start.stage.chunker,
        };
        let paused = Arc::new(AtomicU64::new(0));
        let seen = paused.clone();
        let writes = pausing(at, move |call| {
            let write = call.operation == Operation::Put && call.name != "descriptor";
            seen.fetch_add(u64::from(write), SeqCst);
            write
        });
        let repository = stage.open_at(planned(&stage, writes), patient()).await.expect("it opens");
        let sets = dated(start.source.path(), 4);
        let backup = async { run(&repository, &sets).await };
        let meanwhile = async {
            stage.env.sleep(10 * MINUTE).await;
            pruned(&stage, &settings()).await
        };
        let (report, _) = futures::join!(backup, meanwhile);
        let id = report.expect("a backup").snapshot.expect("committed");
        again += u64::from(paused.load(SeqCst) > 20);
        drop(repository);
        let alone = stage.open_alone(0).await;
        assert!(contents(&alone, id).await.expect("all of it is there") == files_below(start.source.path()), "point {at}");
        assert!(contents(&alone, start.all[0].0).await.expect("kept") == start.all[0].1, "point {at}");
        rig::verify_all(&stage.open().await).await.unwrap_or_else(|e| panic!("point {at}: {e}"));
        points += 1;
        if paused.load(SeqCst) <= at {
            break;
        }
    }
    println!("figure: prune between two requests of a backup: {points} ({again} times much was sent again)");
    assert!(points > 5);
}

/// Two prunes, from the same moment: whatever either did, nothing that is needed is gone.
#[tokio::test(start_paused = true)]
async fn two_at_once() {
    for seed in 0..4 {
        let mut history = History::of(30 + seed, &["a", "b"], 6).await;
        history.forget(|i| i % 2 == 0).await;
        let stage = &history.stage;
        // One of them is held up before one of its records, or not at all.
        let one = stage.open_at(planned(stage, pausing(seed, is_slot)), patient()).await.expect("it opens");
        let two = stage.open_at(planned(stage, |_| Fault::Pass), patient()).await.expect("it opens");
        let (mine, its) = (settings(), settings());
        let second = async {
            stage.env.sleep(10 * MINUTE).await;
            prune(&two, &its).await
        };
        let (first, second) = futures::join!(prune(&one, &mine), second);
        came_out(&first);
        came_out(&second);
        drop((one, two));
        history.sound().await;
        pruned(stage, &settings()).await;
        history.sound().await;
    }
}

/// A forgotten snapshot comes back after the plan was proven, before its record is written: the record is not.
#[tokio::test(start_paused = true)]
async fn what_comes_back_at_the_last_moment_is_not_taken() {
    // Slots of a prune: publish, then condemn; what is forgotten entirely needs no publish.
    for held_up in 0..2 {
        let mut history = History::of(40 + held_up, &["a"], 4).await;
        let gone = history.forget(|i| i == 1).await.remove(0);
        let stage = &history.stage;
        let repository = stage.open_at(planned(stage, pausing(held_up, is_slot)), patient()).await.expect("it opens");
        let back = async {
            stage.env.sleep(10 * MINUTE).await;
            let other = stage.open().await;
            let (forgotten, _) = other.forgotten().await;
            let view = forgotten.iter().find(|view| view.id == gone.0).expect("it is still there");
            undelete(&other, view, &Stop::default()).await.expect("it comes back").new
        };
        let set = settings();
        let (report, id) = futures::join!(prune(&repository, &set), back);
        came_out(&report);
        drop(repository);
        history.all.push((id, gone.1));
        history.sound().await;
        pruned(&history.stage, &settings()).await;
        history.sound().await;
    }
}

/// What is an orphan when it is planned is published before the record: it is taken off the list.
#[tokio::test(start_paused = true)]
async fn an_orphan_that_is_published_at_the_last_moment_stays() {
    let mut history = History::of(50, &["a"], 2).await;
    history.forget(|i| i == 0).await;
    let stage = &history.stage;
    // Before each record of the prune in turn: the copy of what moves, the list.
    for held_up in [1, 0] {
        let other = stage.open().await;
        let plain = bytes::Bytes::from(crate::support::source_tree::noise(9_000 + held_up, 20_000));
        let id = crate::support::hostile_writer::id_of(&other, &plain);
        let at = holdfast::replica::Mask::one(0);
        let kind = holdfast::format::pack::PackKind::Data;
        let entry = crate::support::hostile_writer::send(&other, kind, &[(id, plain.clone())], at).await;
        let repository = stage.open_at(planned(stage, pausing(held_up, is_slot)), patient()).await.expect("it opens");
        let publish = async {
            stage.env.sleep(10 * MINUTE).await;
            let (segments, failed) = other.send_segments(vec![(entry, at)]).await;
            assert!(failed.is_empty());
            other.publish(0, &segments).await
        };
        let set = settings();
        let (report, published) = futures::join!(prune(&repository, &set), publish);
        came_out(&report);
        // Condemned before it was published it must not be; published before, it must be there.
        if published.is_ok() {
            assert!(stage.open_alone(0).await.chunk(&id).await.expect("it is published") == plain, "held up {held_up}");
        }
        drop(repository);
        history.sound().await;
    }
}

/// What the plan counts on is condemned, or found damaged, after it was proven and before its record is written: it is made again.
#[tokio::test(start_paused = true)]
async fn a_cover_that_goes_at_the_last_moment_covers_nothing() {
    for condemned in [true, false] {
        let stage = Stage::of(51, &["a"]);
        stage.init().await;
        let other = stage.open().await;
        let plain = bytes::Bytes::from(crate::support::source_tree::noise(51, 20_000));
        let (id, at) = (crate::support::hostile_writer::id_of(&other, &plain), holdfast::replica::Mask::one(0));
        let kind = holdfast::format::pack::PackKind::Data;
        let twins = [
            crate::support::hostile_writer::send(&other, kind, &[(id, plain.clone())], at).await,
            crate::support::hostile_writer::send(&other, kind, &[(id, plain.clone())], at).await,
        ];
        let names = twins.clone().map(|pack| pack.name().expect("a name"));
        let node = crate::support::hostile_writer::leaf(&[(b"file", crate::support::hostile_writer::file(&[(id, 20_000)]))]);
        let meta = holdfast::format::pack::PackKind::Meta;
        let node_id = crate::support::hostile_writer::id_of(&other, &node);
        let node_pack = crate::support::hostile_writer::send(&other, meta, &[(node_id, node.clone())], at).await;
        let root = crate::support::hostile_writer::named(&other, &node, 0, 1, 20_000);
        let packs = [&twins[..], &[node_pack]].concat();
        crate::support::hostile_writer::commit(&other, packs, root, at, 1_700_000_000).await;
        // Which of the twins stays, a dry run tells.
        let set = settings();
        let repository = stage.open_at(planned(&stage, pausing(0, is_slot)), patient()).await.expect("it opens");
        let (footing, _) = other.stand(0).await.expect("it stands");
        let stays = {
            let first = { repository.index().await.expect("an index").read().expect("no panic").pack_number(&names[0]) };
            names[usize::from(first != Some(0))]
        };
        let meanwhile = async {
            stage.env.sleep(10 * MINUTE).await;
            match condemned {
                true => {
                    let class = holdfast::format::record::ObjectClass::Data;
                    let names = [(class, [stays].into())].into();
                    other.condemn(0, &footing, &names).await.expect("sound by itself: the twin is still there");
                }
                false => drop(other.distrust(0, vec![stays]).await.expect("noted")),
            }
        };
        let (report, ()) = futures::join!(prune(&repository, &set), meanwhile);
        came_out(&report);
        drop((repository, other));
        let alone = stage.open_alone(0).await;
        let twin = names[usize::from(stays == names[0])];
        let log = alone.log(0).await.expect("readable");
        let class = holdfast::format::record::ObjectClass::Data;
        assert!(!log.state.is_condemned(class, &twin), "condemned {condemned}: the last good place was taken");
        drop(log);
        assert_eq!(alone.chunk(&id).await.expect("it has a place"), plain, "condemned {condemned}");
    }
}

/// A crash at every operation of a prune, in every way that it can leave an operation.
#[tokio::test(start_paused = true)]
async fn a_crash_at_every_operation() {
    let mut start = History::of(60, &["a"], 6).await;
    start.forget(|i| i % 2 == 0).await;
    let (mut points, mut cut_deletes) = (0, 0);
    'all: for at in 0.. {
        let mut ways = vec![How::Before];
        while let Some(how) = ways.pop() {
            let env = Env::inline(at, start.stage.env.now());
            let store = copy_of(&env, &start.stage.stores[0]).await;
            let (names, chunker) = (start.stage.names.clone(), start.stage.chunker);
            let stage = Stage { env: env.clone(), stores: vec![store.clone()], names, chunker };
            let slots = stage.names_at(0, "log/").await.len() as u64;
            let notes = RecordingStore::new(Arc::new(store));
            let cut = Arc::new(std::sync::Mutex::new(None));
            let note = cut.clone();
            let plan = move |call: &Call| match call.index == at {
                true => {
                    *note.lock().expect("no panic") = Some(call.operation);
                    Fault::Crash(how)
                }
                false => Fault::Pass,
            };
            let faulty = FaultyStore::new(&env, Arc::new(notes.clone()), plan);
            let opened = stage.open_at(vec![stage.member("a", Arc::new(faulty))], patient()).await;
            if let Ok(repository) = opened {
                let report = prune(&repository, &settings()).await;
                let whole = report.is_ok_and(|report| report.replicas[0].behind.is_none());
                if whole && cut.lock().expect("no panic").is_none() {
                    break 'all;
                }
            }
            let operation = *cut.lock().expect("no panic");
            if how == How::Before && matches!(operation, Some(Operation::Put | Operation::Delete)) {
                ways.extend([How::Applied, How::Torn]);
            }
            points += 1;
            cut_deletes += u64::from(operation == Some(Operation::Delete));
            let story = format!("{how:?} at {at} ({operation:?})");
            deletes_are_condemned(&stage.open().await, 0, slots, &notes.take()).await;
            let history = History { stage, source: tempfile::tempdir().expect("a folder"), all: start.all.clone() };
            history.sound().await;
            let (second, members) = recorded(&history.stage);
            let repository = history.stage.open_at(members, patient()).await.expect("it opens");
            let report = prune(&repository, &settings()).await.unwrap_or_else(|e| panic!("{story}: {e}"));
            assert!(report.replicas[0].behind.is_none(), "{story}: {report:?}");
            let records = second[0].take();
            let slots = history.stage.names_at(0, "log/").await.len() as u64 - count(&records, Operation::Put, "log/");
            deletes_are_condemned(&repository, 0, slots, &records).await;
            drop(repository);
            history.sound().await;
            // What the first one left is finished: a third finds nothing.
            let third = pruned(&history.stage, &settings()).await.remove(0);
            assert_eq!(
                (third.dropped.objects, third.repacked.objects, third.orphans.objects, third.deleted.objects),
                (0, 0, 0, 0),
                "{story}: {third:?}"
            );
        }
    }
    println!("figure: crash points, prune: {points} ({cut_deletes} of them in a DELETE)");
    assert!(points > 40 && cut_deletes > 1);
}

/// A store whose DELETE fails: the next prune tries again, and nothing is worse for it.
#[tokio::test(start_paused = true)]
async fn a_delete_that_fails_is_sent_again() {
    let mut history = History::of(61, &["a"], 4).await;
    history.forget(|i| i < 2).await;
    let stage = &history.stage;
    let members = stage.members_but(0, |call| match call.operation {
        Operation::Delete => Fault::FailBefore(StoreErrorKind::Denied),
        _ => Fault::Pass,
    });
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let one = prune(&repository, &settings()).await.expect("a report").replicas.remove(0);
    drop(repository);
    assert!(one.condemned > 0 && one.fault == Some(Class::Denied) && one.deleted.objects == 0, "{one:?}");
    history.sound().await;
    let again = pruned(stage, &settings()).await.remove(0);
    assert_eq!((again.condemned, again.deleted.objects), (0, one.condemned), "{again:?}");
    history.sound().await;
}

/// Stopped between steps, it leaves all as it should be.
#[tokio::test(start_paused = true)]
async fn stopped_on_request() {
    let mut history = History::of(62, &["a"], 4).await;
    history.forget(|i| i < 2).await;
    for at in 0..30 {
        let stop = Stop::default();
        let (request, calls) = (stop.clone(), AtomicU64::new(0));
        let members = history.stage.members_but(0, move |_| {
            if calls.fetch_add(1, SeqCst) == 20 + 3 * at {
                request.request();
            }
            Fault::Pass
        });
        let repository = history.stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
        let done = holdfast::lifecycle::prune::run(&repository, &settings(), &Default::default(), &stop).await;
        assert!(matches!(done, Err(PruneError::Interrupted) | Ok(_)), "{done:?}");
        drop(repository);
    }
    history.sound().await;
}
