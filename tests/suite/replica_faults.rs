//! Replicas that die, stall, fill up, lie, roll back or are not what they seem: the others go on, and the one at fault is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use holdfast::backup::{BackupError, BackupReport};
use holdfast::format::record::{Action, Note};
use holdfast::format::tree::TreeKind;
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::error::Fault as Class;
use holdfast::repository::layout;
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::store::{ObjectInfo, Store};

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::stage::{Scale, Stage, Weighed, backing_up, contents, copy_of, files_below, grow, run, tree};

const DEAD: Fault = Fault::FailBefore(StoreErrorKind::Unavailable);

/// Asserts that all committed but the one named, and gives what is said of that one.
fn only_behind<'r>(report: &'r BackupReport, name: &str) -> (&'r str, Option<Class>) {
    for replica in &report.replicas {
        assert_eq!(replica.committed, replica.name != name, "{replica:?}");
        assert_eq!(replica.behind.is_some(), replica.name == name, "{replica:?}");
    }
    let one = report.replicas.iter().find(|r| r.name == name).expect("every replica is reported");
    (one.behind.as_deref().expect("just seen"), one.fault)
}

fn all_committed(report: &BackupReport) {
    assert!(report.replicas.iter().all(|r| r.committed && r.behind.is_none()), "{:?}", report.replicas);
}

fn id(report: &BackupReport) -> [u8; 32] {
    report.snapshot.expect("something was committed")
}

fn data_or_meta(call: &Call) -> bool {
    call.name.starts_with("data/") || call.name.starts_with("meta/")
}

/// A backup while replica c misbehaves, then one while all is well: complete on all three, each alone.
async fn c_misbehaves_and_comes_back(plan: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> (String, Option<Class>) {
    let stage = Stage::new(1);
    stage.init().await;
    let source = tree(1, 40, 30_000);
    let first = stage.backup(stage.members(), source.path()).await.expect("all is well at first");
    all_committed(&first);
    grow(source.path(), 2, 40..80, 30_000);
    let second = stage.backup(stage.members_but(2, plan), source.path()).await.expect("two of three are enough");
    let (why, class) = only_behind(&second, "c");
    let (why, before) = (why.to_owned(), stage.env.elapsed());
    stage.holds(&[0, 1], id(&second), source.path()).await;
    assert!(stage.env.elapsed() - before < Duration::from_secs(1), "reading back is quick");

    grow(source.path(), 3, 80..90, 30_000);
    let third = stage.backup(stage.members(), source.path()).await.expect("all is well again");
    all_committed(&third);
    stage.holds(&[0, 1, 2], id(&third), source.path()).await;
    (why, class)
}

#[tokio::test(start_paused = true)]
async fn dead_from_the_start() {
    let (why, class) = c_misbehaves_and_comes_back(|_| DEAD).await;
    assert_eq!(class, Some(Class::Failed));
    assert!(why.contains("store c"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn dies_in_the_middle_of_the_packs() {
    let (why, _) = c_misbehaves_and_comes_back(|call| {
        static DYING: AtomicBool = AtomicBool::new(false);
        if call.operation == Operation::Put && call.name.starts_with("data/") && call.nth > 2 {
            DYING.store(true, SeqCst);
        }
        if DYING.load(SeqCst) { DEAD } else { Fault::Pass }
    })
    .await;
    assert!(why.contains("unavailable"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn dies_at_its_log() {
    let (why, _) = c_misbehaves_and_comes_back(|call| {
        if call.operation == Operation::Put && call.name.starts_with("log/") { DEAD } else { Fault::Pass }
    })
    .await;
    assert!(why.contains("writing its log"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn full() {
    let full = |call: &Call| match call.operation {
        Operation::Put if data_or_meta(call) && call.nth > 4 => Fault::FailBefore(StoreErrorKind::Full),
        _ => Fault::Pass,
    };
    let (why, _) = c_misbehaves_and_comes_back(full).await;
    assert!(why.contains("no space left"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn full_even_for_its_log() {
    let full = |call: &Call| if call.operation == Operation::Put { Fault::FailBefore(StoreErrorKind::Full) } else { Fault::Pass };
    let (why, _) = c_misbehaves_and_comes_back(full).await;
    assert!(why.contains("no space left"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn denied() {
    let denied =
        |call: &Call| if call.operation == Operation::Put { Fault::FailBefore(StoreErrorKind::Denied) } else { Fault::Pass };
    let (_, class) = c_misbehaves_and_comes_back(denied).await;
    assert_eq!(class, Some(Class::Denied));
}

#[tokio::test(start_paused = true)]
async fn acknowledges_and_drops_packs() {
    let drops = |call: &Call| if call.operation == Operation::Put && data_or_meta(call) { Fault::Drop } else { Fault::Pass };
    let (why, _) = c_misbehaves_and_comes_back(drops).await;
    assert!(why.contains("does not have them"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn acknowledges_and_drops_index_segments() {
    let drops =
        |call: &Call| if call.operation == Operation::Put && call.name.starts_with("index/") { Fault::Drop } else { Fault::Pass };
    let (why, _) = c_misbehaves_and_comes_back(drops).await;
    assert!(why.contains("does not have them"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn acknowledges_and_drops_snapshots() {
    let drops = |call: &Call| {
        if call.operation == Operation::Put && call.name.starts_with("snapshots/") { Fault::Drop } else { Fault::Pass }
    };
    let (why, _) = c_misbehaves_and_comes_back(drops).await;
    assert!(why.contains("does not have them"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn stalls_before_anything_was_read() {
    let began = tokio::time::Instant::now();
    c_misbehaves_and_comes_back(|_| Fault::Stall).await;
    assert!(began.elapsed() < Duration::from_secs(300), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stalls_at_packs() {
    let began = tokio::time::Instant::now();
    let stalls = |call: &Call| if call.operation == Operation::Put && data_or_meta(call) { Fault::Stall } else { Fault::Pass };
    let (why, _) = c_misbehaves_and_comes_back(stalls).await;
    assert!(why.contains("no request finished for"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(100), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stalls_at_its_index() {
    let began = tokio::time::Instant::now();
    let stalls = |call: &Call| {
        if call.operation == Operation::Put && call.name.starts_with("index/") { Fault::Stall } else { Fault::Pass }
    };
    c_misbehaves_and_comes_back(stalls).await;
    assert!(began.elapsed() < Duration::from_secs(300), "took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stalls_at_its_log() {
    let began = tokio::time::Instant::now();
    let stalls =
        |call: &Call| if call.operation == Operation::Put && call.name.starts_with("log/") { Fault::Stall } else { Fault::Pass };
    c_misbehaves_and_comes_back(stalls).await;
    assert!(began.elapsed() < Duration::from_secs(300), "took {:?}", began.elapsed());
}

/// A record whose writing was carried out and never acknowledged is in the log all the same, and does no harm.
#[tokio::test(start_paused = true)]
async fn stalls_after_its_log_was_written() {
    let began = tokio::time::Instant::now();
    let stage = Stage::new(2);
    stage.init().await;
    let source = tree(2, 20, 30_000);
    let stalls = |call: &Call| match call.operation {
        Operation::Put if call.name.starts_with("log/") => Fault::StallAfter,
        _ => Fault::Pass,
    };
    let report = stage.backup(stage.members_but(2, stalls), source.path()).await.expect("two of three are enough");
    assert!(began.elapsed() < Duration::from_secs(600), "took {:?}", began.elapsed());
    stage.holds(&[0, 1], id(&report), source.path()).await;
    let again = stage.backup(stage.members(), source.path()).await.expect("all is well again");
    all_committed(&again);
    stage.holds(&[0, 1, 2], id(&again), source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn slow_by_two_seconds_a_call_is_not_behind() {
    let stage = Stage::new(3);
    stage.init().await;
    let source = tree(3, 60, 30_000);
    let slow = |_: &Call| Fault::Delay(Duration::from_secs(2));
    let began = tokio::time::Instant::now();
    let report = stage.backup(stage.members_but(2, slow), source.path()).await.expect("slow is not broken");
    all_committed(&report);
    assert!(began.elapsed() > Duration::from_secs(10), "the slow one was waited for");
    assert!(began.elapsed() < Duration::from_secs(120), "took {:?}", began.elapsed());
    stage.holds(&[0, 1, 2], id(&report), source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn throttled_now_and_then_is_not_behind() {
    let stage = Stage::new(4);
    stage.init().await;
    let source = tree(4, 60, 30_000);
    let throttled = |call: &Call| match blake3::hash(&call.index.to_le_bytes()).as_bytes()[0] % 3 {
        0 => Fault::FailBefore(StoreErrorKind::Throttled(Some(Duration::from_secs(1)))),
        _ => Fault::Pass,
    };
    let report = stage.backup(stage.members_but(2, throttled), source.path()).await.expect("throttled is not broken");
    all_committed(&report);
    stage.holds(&[0, 1, 2], id(&report), source.path()).await;
}

/// Every call fails once, after it was carried out: nothing is lost, doubled or misjudged.
#[tokio::test(start_paused = true)]
async fn every_call_unacknowledged_once_is_not_behind() {
    let stage = Stage::new(5);
    stage.init().await;
    let source = tree(5, 60, 30_000);
    for kind in [StoreErrorKind::TimedOut, StoreErrorKind::Unavailable] {
        let met = std::sync::Mutex::new(std::collections::BTreeSet::new());
        let flaky = move |call: &Call| {
            let first = met.lock().expect("no panic while noting").insert((call.operation, call.name.clone()));
            if first { Fault::FailAfter(kind) } else { Fault::Pass }
        };
        let report = stage.backup(stage.members_but(2, flaky), source.path()).await.expect("one failure each is made good");
        all_committed(&report);
        stage.holds(&[0, 1, 2], id(&report), source.path()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_size_is_no_receipt() {
    struct Short(Arc<dyn Store>);
    impl Store for Short {
        fn label(&self) -> &str {
            self.0.label()
        }
        fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> futures::future::BoxFuture<'a, Result<(), StoreError>> {
            let kept = if name.first() == "data" { bytes.slice(..bytes.len() - 1) } else { bytes };
            self.0.put(name, kept)
        }
        fn get<'a>(
            &'a self,
            name: &'a ObjectName,
            range: Option<std::ops::Range<u64>>,
        ) -> futures::future::BoxFuture<'a, Result<Bytes, StoreError>> {
            self.0.get(name, range)
        }
        fn stat<'a>(&'a self, name: &'a ObjectName) -> futures::future::BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
            self.0.stat(name)
        }
        fn list<'a>(&'a self, prefix: &'a str) -> futures::stream::BoxStream<'a, Result<ObjectInfo, StoreError>> {
            self.0.list(prefix)
        }
        fn delete<'a>(&'a self, names: &'a [ObjectName]) -> futures::future::BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
            self.0.delete(names)
        }
    }
    let stage = Stage::new(6);
    stage.init().await;
    let source = tree(6, 20, 30_000);
    let mut members = stage.members();
    members[2] = stage.wrapped("c", Arc::new(Short(Arc::new(stage.stores[2].clone()))));
    let report = stage.backup(members, source.path()).await.expect("two of three are enough");
    let (why, _) = only_behind(&report, "c");
    assert!(why.contains("acknowledged") && why.contains("holds"), "{why}");
    let again = stage.backup(stage.members(), source.path()).await.expect("all is well again");
    all_committed(&again);
    stage.holds(&[2], id(&again), source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn below_quorum_names_who_holds_what() {
    let stage = Stage::new(7);
    stage.init().await;
    let source = tree(7, 20, 30_000);
    // Both die at the very end: the commit.
    let mut members = stage.members();
    for at in [1, 2] {
        let dies =
            |call: &Call| if call.operation == Operation::Put && call.name.starts_with("log/") { DEAD } else { Fault::Pass };
        let faulty = FaultyStore::new(&stage.env, Arc::new(stage.stores[at].clone()), dies);
        members[at] = stage.wrapped(stage.names[at], Arc::new(faulty));
    }
    let Err(BackupError::BelowQuorum { message, fault, report }) = stage.backup(members, source.path()).await else {
        panic!("one of three is below the quorum of two");
    };
    assert_eq!(fault, Class::Failed);
    assert!(message.contains("1 replicas committed, 2 are needed: a holds the snapshot; b: "), "{message}");
    assert!(message.contains("may or may not"), "an unknown outcome is said to be unknown: {message}");
    stage.holds(&[0], id(&report), source.path()).await;

    let after = stage.backup(stage.members(), source.path()).await.expect("all is well again");
    all_committed(&after);
    stage.holds(&[0, 1, 2], id(&after), source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn two_dead_from_the_start_is_below_quorum_and_nothing_is_sent() {
    let stage = Stage::new(8);
    stage.init().await;
    let source = tree(8, 20, 30_000);
    let before = stage.names_at(0, "").await;
    let mut members = stage.members();
    for at in [1, 2] {
        let dead = FaultyStore::new(&stage.env, Arc::new(stage.stores[at].clone()), |_| DEAD);
        members[at] = stage.wrapped(stage.names[at], Arc::new(dead));
    }
    let Err(BackupError::BelowQuorum { message, .. }) = stage.backup(members, source.path()).await else {
        panic!("one of three is below the quorum of two");
    };
    assert!(message.contains("no replica holds the snapshot; a: did not commit; b: ") && message.contains("; c: "), "{message}");
    assert_eq!(stage.names_at(0, "").await, before, "what cannot reach the quorum is not begun");
}

#[tokio::test(start_paused = true)]
async fn all_dead_is_an_error_of_opening() {
    let stage = Stage::new(9);
    stage.init().await;
    let members = (0..3)
        .map(|at| {
            let dead = FaultyStore::new(&stage.env, Arc::new(stage.stores[at].clone()), |_| DEAD);
            stage.wrapped(stage.names[at], Arc::new(dead))
        })
        .collect();
    let error = stage.open_at(members, ReplicaSettings::default()).await.err().expect("nobody answers");
    assert_eq!(error.fault, Class::Failed, "dead is not the same as empty: {error}");
}

/// Packs at replica a whose bytes come back turned: once, or always.
async fn flipped(always: bool) -> (Stage, [u8; 32], tempfile::TempDir, Vec<String>) {
    let stage = Stage::new(10);
    stage.init().await;
    let source = tree(10, 40, 30_000);
    let report = stage.backup(stage.members(), source.path()).await.expect("all is well at first");
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let flips = move |call: &Call| {
        let first = seen.lock().expect("no panic while noting").insert(call.name.clone());
        if call.operation == Operation::Get && data_or_meta(call) && (always || first) {
            Fault::FlipBit(4321)
        } else {
            Fault::Pass
        }
    };
    let set = ReplicaSettings { prefer: vec!["a".into()], ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members_but(0, flips), set).await.expect("the logs are fine");
    let found = contents(&repository, id(&report)).await.expect("the others have it");
    assert!(found == files_below(source.path()));
    let notes = repository.record_distrust(None).await;
    (stage, id(&report), source, notes)
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_once_is_read_again_and_no_story() {
    let (stage, _, _, notes) = flipped(false).await;
    assert_eq!(notes, Vec::<String>::new());
    let repository = stage.open().await;
    assert!(repository.log(0).await.expect("readable").state.distrusted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bits_flipped_always_are_read_elsewhere_noted_and_distrusted() {
    let (stage, old, source, notes) = flipped(true).await;
    assert!(notes.iter().any(|n| n.contains("store a") && n.contains("is damaged")), "{notes:?}");
    assert!(notes.iter().any(|n| n.contains("distrusted from now on")), "{notes:?}");
    let repository = stage.open().await;
    let distrusted = repository.log(0).await.expect("readable").state.distrusted.clone();
    assert!(!distrusted.is_empty());
    assert!(repository.log(1).await.expect("readable").state.distrusted.is_empty(), "each log speaks for its own replica");
    drop(repository);

    // The next backup relies on none of them: what they held is sent there again.
    let report = stage.backup(stage.members(), source.path()).await.expect("all is well again");
    all_committed(&report);
    for pack in &distrusted {
        for class in [layout::Class::DataPack, layout::Class::MetaPack] {
            stage.stores[0].delete(&[layout::hashed(class, pack)]).await;
        }
    }
    let alone = stage.open_alone(0).await;
    let found = contents(&alone, id(&report)).await.expect("nothing of the new snapshot needs a distrusted pack");
    assert!(found == files_below(source.path()));
    assert_ne!(id(&report), old);
}

/// Bytes that come back turned while the repository is opened: the log is read again before anything is called damage.
#[tokio::test(start_paused = true)]
async fn a_slot_flipped_once_is_read_again() {
    let stage = Stage::new(11);
    stage.init().await;
    let source = tree(11, 5, 10_000);
    let once = AtomicU64::new(0);
    let flips = move |call: &Call| {
        let turn = call.operation == Operation::Get && call.name.starts_with("log/") && once.fetch_add(1, SeqCst) == 0;
        if turn { Fault::FlipBit(2000) } else { Fault::Pass }
    };
    let report = stage.backup(stage.members_but(2, flips), source.path()).await.expect("once is nothing");
    all_committed(&report);
}

/// Three snapshots at all replicas, and replica c as it was after the first of them.
async fn rolled_back() -> (Stage, tempfile::TempDir, MemoryStore) {
    let stage = Stage::new(12);
    stage.init().await;
    let source = tree(12, 10, 30_000);
    stage.backup(stage.members(), source.path()).await.expect("all is well");
    let old = stage.copy(2).await;
    for round in 0..2 {
        grow(source.path(), 13 + round, 10..13, 30_000);
        stage.backup(stage.members(), source.path()).await.expect("all is well");
    }
    (stage, source, old)
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_rolled_back_is_found_by_what_the_others_saw() {
    let (stage, source, old) = rolled_back().await;
    let before = copy_of(&stage.env, &old).await;
    for _ in 0..2 {
        let mut members = stage.members();
        members[2] = stage.wrapped("c", Arc::new(old.clone()));
        grow(source.path(), 20, 20..22, 30_000);
        let report = stage.backup(members, source.path()).await.expect("two of three are enough");
        let (why, class) = only_behind(&report, "c");
        assert_eq!(class, Some(Class::Rollback));
        assert!(why.contains("rolled back"), "{why}");
        stage.holds(&[0, 1], id(&report), source.path()).await;
    }
    assert_same_objects(&before, &old).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_rolled_back_is_found_by_what_this_machine_saw() {
    let stage = Stage::of(14, &["a"]);
    stage.init().await;
    let source = tree(14, 10, 30_000);
    let memory = tempfile::tempdir().expect("a temporary directory");
    let open = async |store: MemoryStore| {
        let mut settings = crate::support::stage::opening(ReplicaSettings::default());
        settings.state_dir = Some(memory.path().to_path_buf());
        let members = vec![stage.wrapped("a", Arc::new(store))];
        let unlock = crate::support::stage::unlock();
        holdfast::repository::Repository::open(&stage.env, members, settings, &unlock, holdfast::repository::Access::Write).await
    };
    let old = stage.copy(0).await;
    let repository = open(stage.stores[0].clone()).await.expect("all is well");
    run(&repository, &backing_up(source.path())).await.expect("all is well");
    let repository = open(old).await.expect("it can be read");
    let Err(BackupError::BelowQuorum { fault, .. }) = run(&repository, &backing_up(source.path())).await else {
        panic!("the only replica was rolled back");
    };
    assert_eq!(fault, Class::Rollback);
}

/// A fork grown longer than the log it replaced is still a fork, however often it is looked at.
#[tokio::test(start_paused = true)]
async fn a_forked_log_stays_refused() {
    let (stage, source, old) = rolled_back().await;
    let lone = stage.wrapped("c", Arc::new(old.clone()));
    let repository = stage.open_at(vec![lone], ReplicaSettings::default()).await.expect("alone it looks well");
    for i in 0..20 {
        let note = Action::Note(Note { kind: "fork".into(), text: String::new(), list: Bytes::new() });
        let mut log = repository.log(0).await.expect("readable");
        log.append(note, false, &[], |_| Ok(())).await.unwrap_or_else(|e| panic!("record {i}: {e}"));
    }
    drop(repository);
    let before = copy_of(&stage.env, &old).await;
    for round in 0..3 {
        let mut members = stage.members();
        members[2] = stage.wrapped("c", Arc::new(old.clone()));
        grow(source.path(), 30 + round, 20..22, 30_000);
        let report = stage.backup(members, source.path()).await.expect("two of three are enough");
        assert_eq!(only_behind(&report, "c").1, Some(Class::Rollback), "run {round}");
    }
    assert_same_objects(&before, &old).await;
}

async fn assert_same_objects(before: &MemoryStore, after: &MemoryStore) {
    use futures::StreamExt;
    let names = async |store: &MemoryStore| store.list("").map(|i| i.expect("memory lists").name).collect::<Vec<_>>().await;
    assert_eq!(names(before).await, names(after).await, "nothing is written to a replica at fault");
}

/// A store that fails to answer about an old slot is not thereby one that was rolled back.
#[tokio::test(start_paused = true)]
async fn an_unreachable_slot_is_no_rollback() {
    let stage = Stage::new(15);
    stage.init().await;
    let source = tree(15, 4, 10_000);
    // So many records that old slots are asked for one by one, behind a checkpoint.
    for round in 0.. {
        grow(source.path(), 16 + round, 0..2, 10_000);
        stage.backup(stage.members(), source.path()).await.expect("all is well");
        if !stage.names_at(2, "checkpoints/").await.is_empty() {
            break;
        }
    }
    // The others last saw the slot before the checkpoint: it is asked for by itself.
    let fails = |call: &Call| {
        let old = call.name.starts_with("log/") && call.name.ends_with(|c: char| c.is_ascii_digit());
        let slot: u64 = call.name.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
        if call.operation == Operation::Get && old && slot < 64 { DEAD } else { Fault::Pass }
    };
    let report = stage.backup(stage.members_but(2, fails), source.path()).await.expect("at least two are fine");
    for replica in &report.replicas {
        assert_ne!(replica.fault, Some(Class::Rollback), "{replica:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_slot_stops_writing_there_and_reading_goes_on() {
    let stage = Stage::new(17);
    stage.init().await;
    let source = tree(17, 10, 30_000);
    let first = stage.backup(stage.members(), source.path()).await.expect("all is well");
    grow(source.path(), 18, 10..12, 30_000);
    let second = stage.backup(stage.members(), source.path()).await.expect("all is well");
    let slots = stage.names_at(2, "log/").await;
    stage
        .tamper(2, &slots[slots.len() - 1], &|mut bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            Some(bytes)
        })
        .await;
    let before = stage.copy(2).await;
    grow(source.path(), 19, 12..14, 30_000);
    for _ in 0..2 {
        let report = stage.backup(stage.members(), source.path()).await.expect("two of three are enough");
        let (why, class) = only_behind(&report, "c");
        assert_eq!(class, Some(Class::Integrity));
        assert!(why.contains(slots[slots.len() - 1].as_str()), "{why}");
    }
    assert_same_objects(&before, &stage.stores[2]).await;
    let alone = stage.open_alone(2).await;
    contents(&alone, id(&first)).await.expect("what stands before the damage can be read");
    assert!(contents(&alone, id(&second)).await.is_err(), "what stands in the damaged slot is not there");
}

#[tokio::test(start_paused = true)]
async fn one_store_configured_twice_is_refused() {
    let stage = Stage::new(20);
    stage.init().await;
    let mut members = stage.members();
    members[1] = stage.wrapped("b", Arc::new(stage.stores[0].clone()));
    let error = stage.open_at(members, ReplicaSettings::default()).await.err().expect("a and b are one");
    assert_eq!(error.fault, Class::Usage);
    assert!(error.message.contains("stores a and b are one and the same replica"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_replica_is_refused_beside_it() {
    let stage = Stage::new(21);
    stage.init().await;
    let source = tree(21, 4, 10_000);
    let copy = stage.copy(0).await;
    stage.backup(stage.members(), source.path()).await.expect("all is well");
    let mut members = stage.members();
    members[1] = stage.wrapped("b", Arc::new(copy));
    assert_eq!(stage.open_at(members, ReplicaSettings::default()).await.err().map(|e| e.fault), Some(Class::Usage));
}

/// Overwrites whatever is there.
pub struct Careless(pub MemoryStore);

impl Store for Careless {
    fn label(&self) -> &str {
        self.0.label()
    }
    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> futures::future::BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.0.delete(std::slice::from_ref(name)).await;
            self.0.put(name, bytes).await
        })
    }
    fn get<'a>(
        &'a self,
        name: &'a ObjectName,
        range: Option<std::ops::Range<u64>>,
    ) -> futures::future::BoxFuture<'a, Result<Bytes, StoreError>> {
        self.0.get(name, range)
    }
    fn stat<'a>(&'a self, name: &'a ObjectName) -> futures::future::BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        self.0.stat(name)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> futures::stream::BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.0.list(prefix)
    }
    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> futures::future::BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        self.0.delete(names)
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_overwrites_is_refused() {
    let stage = Stage::new(22);
    let careless = |stage: &Stage| {
        let mut members = stage.members();
        members[2] = stage.wrapped("c", Arc::new(Careless(stage.stores[2].clone())));
        members
    };
    let report = stage.init_at(careless(&stage)).await.expect("the others are made");
    assert!(matches!(&report.failed[..], [(name, Class::Unsupported, _)] if name == "c"), "{:?}", report.failed);

    let stage = Stage::new(23);
    stage.init().await;
    let source = tree(23, 4, 10_000);
    let report = stage.backup(careless(&stage), source.path()).await.expect("two of three are enough");
    let (why, class) = only_behind(&report, "c");
    assert_eq!(class, Some(Class::Unsupported));
    assert!(why.contains("ignores create-if-absent"), "{why}");
}

/// The probe's own request may fail once, and be found to have been carried out: that is no proof of overwriting.
#[tokio::test(start_paused = true)]
async fn a_hiccup_during_the_probe_is_no_proof() {
    for hiccup in [Fault::FailBefore(StoreErrorKind::TimedOut), Fault::FailAfter(StoreErrorKind::Unavailable)] {
        let stage = Stage::new(24);
        let plan = {
            let hiccup = hiccup.clone();
            move || {
                let (hiccup, nth) = (hiccup.clone(), AtomicU64::new(0));
                move |call: &Call| {
                    let probe = call.operation == Operation::Put && call.name == "descriptor";
                    if probe && [0, 2].contains(&nth.fetch_add(1, SeqCst)) { hiccup.clone() } else { Fault::Pass }
                }
            }
        };
        let report = stage.init_at(stage.members_but(2, plan())).await.expect("a hiccup is nothing");
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let source = tree(24, 4, 10_000);
        let report = stage.backup(stage.members_but(2, plan()), source.path()).await.expect("a hiccup is nothing");
        all_committed(&report);
    }
}

#[tokio::test(start_paused = true)]
async fn stores_of_different_repositories_do_not_mix() {
    let (one, other) = (Stage::new(25), Stage::new(26));
    one.init().await;
    other.init().await;
    let mut members = one.members();
    members[1] = one.wrapped("b", Arc::new(other.stores[1].clone()));
    let error = one.open_at(members, ReplicaSettings::default()).await.err().expect("two repositories");
    assert_eq!(error.fault, Class::Usage);
    assert!(error.message.contains("stores a and b hold different repositories"), "{error}");
    let mut members = one.members();
    members[1] = one.wrapped("b", Arc::new(other.stores[1].clone()));
    assert_eq!(one.init_at(members).await.err().map(|e| e.fault), Some(Class::Usage));
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_beside_a_repository_is_named_completed_and_filled() {
    let stage = Stage::new(27);
    let two: Vec<Member> = stage.members().into_iter().take(2).collect();
    stage.init_at(two).await.expect("two are enough to begin");
    let source = tree(27, 20, 30_000);
    let report = stage.backup(stage.members(), source.path()).await.expect("two of three are enough");
    let (why, class) = only_behind(&report, "c");
    assert_eq!(class, Some(Class::NoRepository));
    assert!(why.contains("run `holdfast heal`"), "{why}");
    assert!(stage.names_at(2, "").await.is_empty(), "a backup makes no repository");

    let made = stage.init().await;
    assert!(!made.created && made.failed.is_empty(), "{made:?}");
    assert!(made.replicas.contains(&("c".into(), "created".into())), "{made:?}");
    let report = stage.backup(stage.members(), source.path()).await.expect("all is well");
    all_committed(&report);
    stage.holds(&[0, 1, 2], id(&report), source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lacks_too_much_is_left_out_and_named() {
    let stage = Stage::new(28);
    stage.init().await;
    let source = tree(28, 40, 30_000);
    stage.backup(stage.members_but(2, |_| DEAD), source.path()).await.expect("two of three are enough");
    let set = ReplicaSettings { behind_limit: 500_000, ..ReplicaSettings::default() };
    let repository = stage.open_at(stage.members(), set).await.expect("all answer");
    let report = run(&repository, &backing_up(source.path())).await.expect("two of three are enough");
    let (why, _) = only_behind(&report, "c");
    assert!(why.contains("lacks 1 MiB"), "{why}");
    assert!(stage.names_at(2, "data/").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn below_the_set_rate_is_left_behind() {
    for (min_rate, behind) in [(Some(1 << 20), true), (Some(1 << 10), false), (None, false)] {
        let stage = Stage::new(29);
        stage.init().await;
        let source = tree(29, 60, 200_000);
        let slow = |call: &Call| if data_or_meta(call) { Fault::Delay(Duration::from_secs(10)) } else { Fault::Pass };
        let set = ReplicaSettings { min_rate, ..ReplicaSettings::default() };
        let repository = stage.open_at(stage.members_but(2, slow), set).await.expect("all answer");
        let report = run(&repository, &backing_up(source.path())).await.expect("two of three are enough");
        match behind {
            true => assert!(only_behind(&report, "c").0.contains("below the set minimum")),
            false => all_committed(&report),
        }
    }
}

/// A slow replica holds the run back; it does not pile up what it cannot take.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_stays_within_the_budget() {
    let stage = Stage::new(30);
    stage.init().await;
    let source = tree(30, 40, 1 << 20);
    let scale = Scale::default();
    let members = (0..3)
        .map(|at| {
            let weighed = Weighed { inner: Arc::new(stage.stores[at].clone()), scale: scale.clone() };
            let delay = if at == 2 { Duration::from_secs(5) } else { Duration::ZERO };
            let slow = FaultyStore::new(&stage.env, Arc::new(weighed), move |_| Fault::Delay(delay));
            // Weighed from the outside, too: what waits for the slow one counts.
            let member = stage.wrapped(stage.names[at], Arc::new(slow));
            let Ok(open) = member.store else { panic!("it was just opened") };
            let mut member = stage.member(stage.names[at], Arc::new(Weighed { inner: open.store, scale: scale.clone() }));
            // The inner meter: by it a slow replica is told from a silent one.
            if let Ok(store) = &mut member.store {
                store.meter = open.meter;
            }
            member
        })
        .collect();
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("all answer");
    let settings = holdfast::backup::BackupSettings { memory: 10 << 20, ..backing_up(source.path()) };
    let report = run(&repository, &settings).await.expect("slow is not broken");
    all_committed(&report);
    assert!(scale.most() > 4 << 20, "the budget is made use of: {}", scale.most());
    // Headers and trailers of packs stand outside it.
    assert!(scale.most() < (10 << 20) + (1 << 20), "{} bytes were in flight", scale.most());
    stage.holds(&[0, 1, 2], id(&report), source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn the_preferred_replica_is_read_first() {
    let stage = Stage::new(31);
    stage.init().await;
    let source = tree(31, 10, 30_000);
    let report = stage.backup(stage.members(), source.path()).await.expect("all is well");
    for prefer in 0..3 {
        let members: Vec<Member> = stage.members();
        let meters: Vec<_> =
            members.iter().map(|m| m.store.as_ref().map(|s| s.meter.clone()).unwrap_or_else(|e| panic!("{e}"))).collect();
        let set = ReplicaSettings { prefer: vec![stage.names[prefer].into()], ..ReplicaSettings::default() };
        let repository = stage.open_at(members, set).await.expect("all answer");
        contents(&repository, id(&report)).await.expect("all is well");
        for (at, meter) in meters.iter().enumerate() {
            let figures = meter.snapshot();
            let gets = figures.of("data", Operation::Get).calls + figures.of("meta", Operation::Get).calls;
            assert_eq!(gets > 0, at == prefer, "replica {at} was asked {gets} times");
        }
        let views = repository.snapshots().await.expect("all is well");
        let root = views[0].snapshot.roots[0].catalog.clone().expect("a root has a catalog");
        assert!(repository.cursor(TreeKind::Catalog, &root).is_ok());
    }
}

/// The first answers about a descriptor come from before it was written.
fn early(stage: &Stage, at: &[usize]) -> Vec<Member> {
    let mut members = stage.members();
    for at in at {
        let once = AtomicBool::new(true);
        let plan = move |call: &Call| {
            let asks = call.operation == Operation::Get && call.name == "descriptor";
            if asks && once.swap(false, SeqCst) { Fault::FailBefore(StoreErrorKind::NotFound) } else { Fault::Pass }
        };
        let faulty = FaultyStore::new(&stage.env, Arc::new(stage.stores[*at].clone()), plan);
        members[*at] = stage.wrapped(stage.names[*at], Arc::new(faulty));
    }
    members
}

/// Who looked before another `init` had written, and writes after, joins what the other made.
#[tokio::test(start_paused = true)]
async fn an_init_overtaken_by_another_joins_it() {
    for (done, looked_early) in [(3, vec![0, 1, 2]), (3, vec![0]), (3, vec![1, 2]), (1, vec![0]), (2, vec![0, 1])] {
        let stage = Stage::new(60);
        let some: Vec<Member> = stage.members().into_iter().take(done).collect();
        let first = stage.init_at(some).await.expect("all is well");
        assert!(first.created);
        let second = stage.init_at(early(&stage, &looked_early)).await.unwrap_or_else(|e| panic!("{done} {looked_early:?}: {e}"));
        assert_eq!((second.created, second.repository_id), (false, first.repository_id), "{done} {looked_early:?}");
        assert!(second.failed.is_empty(), "{done} {looked_early:?}: {:?}", second.failed);
        let source = tree(60, 4, 10_000);
        all_committed(&stage.backup(stage.members(), source.path()).await.expect("one repository"));
    }
}

/// A log that grew after it was read, as another log tells, was not rolled back.
#[tokio::test(start_paused = true)]
async fn a_record_written_while_opening_is_no_rollback() {
    let stage = Stage::new(61);
    stage.init().await;
    let source = tree(61, 4, 10_000);
    for round in 0..3 {
        grow(source.path(), 62 + round, 0..2, 10_000);
        all_committed(&stage.backup(stage.members(), source.path()).await.expect("all is well"));
    }
    // Of replica a, nothing after its second slot was written yet when it was read for the first time.
    let (asked, shown) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let plan = move |call: &Call| {
        if call.operation == Operation::Stat && call.name.starts_with("log/00000002/") && asked.fetch_add(1, SeqCst) > 0 {
            shown.store(true, SeqCst);
        }
        let slot: u64 = call.name.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let late = call.operation == Operation::Get && call.name.starts_with("log/") && slot > 2;
        if late && !shown.load(SeqCst) { Fault::FailBefore(StoreErrorKind::NotFound) } else { Fault::Pass }
    };
    grow(source.path(), 70, 0..2, 10_000);
    all_committed(&stage.backup(stage.members_but(0, plan), source.path()).await.expect("all is well"));
}

/// What was looked up in one epoch of a log is not written into the next.
#[tokio::test(start_paused = true)]
async fn a_log_that_was_repaired_meanwhile_takes_nothing_prepared_before() {
    use holdfast::format::record::{Body, Genesis, SlotHeader, encode_slot};
    let stage = Stage::of(63, &["a"]);
    stage.init().await;
    let repository = stage.open().await;
    let (replica, id) = ([9; 32], repository.id());
    let genesis = Genesis {
        repository_id: Bytes::copy_from_slice(&id),
        replica_id: Bytes::copy_from_slice(&replica),
        previous_epoch_head: None,
    };
    let body = Body {
        prev: vec![0; 32].into(),
        nonce: vec![1; 32].into(),
        run_id: vec![2; 32].into(),
        critical: true,
        action: Some(Action::Genesis(genesis)),
        ..Body::default()
    };
    let header = SlotHeader::new(replica, 2, 1);
    let stored = encode_slot(&header, &body, &repository.keyring.keys.log, &id, [3; 32]).expect("a slot");
    stage.stores[0].put(&layout::slot(2, 1), stored).await.expect("a new epoch");
    let before = stage.names_at(0, "").await;
    let note = Action::Note(Note { kind: "late".into(), text: String::new(), list: Bytes::new() });
    let refused = repository.log(0).await.expect("a log").append(note.clone(), false, &[], |_| Ok(())).await;
    assert!(refused.as_ref().is_err_and(|e| e.message.contains("new epoch")), "{refused:?}");
    assert_eq!(stage.names_at(0, "").await, before);
    // Who opens it now goes on there.
    let repository = stage.open().await;
    let mut log = repository.log(0).await.expect("a log");
    assert_eq!(log.state.epoch, 2);
    log.append(note, false, &[], |_| Ok(())).await.expect("the new epoch takes records");
}

/// A refusal after an answer that left the outcome open does not close it.
#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_unclear_answer_is_unclear() {
    let stage = Stage::new(64);
    stage.init().await;
    let source = tree(64, 4, 10_000);
    let puts = AtomicU64::new(0);
    let plan = move |call: &Call| match (call.operation, call.name.starts_with("log/")) {
        (Operation::Put, true) if puts.fetch_add(1, SeqCst) == 0 => Fault::FailBefore(StoreErrorKind::TimedOut),
        (Operation::Put, true) => Fault::FailBefore(StoreErrorKind::Denied),
        _ => Fault::Pass,
    };
    // Without the wrapper that tries again: the log itself sends a second time.
    let mut members = stage.members();
    members[2] = stage.member("c", Arc::new(FaultyStore::new(&stage.env, Arc::new(stage.stores[2].clone()), plan)));
    let report = stage.backup(members, source.path()).await.expect("two of three are enough");
    let (why, class) = only_behind(&report, "c");
    assert!(why.contains("may or may not"), "{why}");
    assert_eq!(class, Some(Class::Denied));
}

/// Who loses the race for a slot judges its record against the winner's before it tries again, and writes nothing if it fails.
#[tokio::test(start_paused = true)]
async fn a_lost_race_is_judged_again() {
    let stage = Stage::of(70, &["a"]);
    stage.init().await;
    let (one, other) = (stage.open().await, stage.open().await);
    let note = |kind: &str| Action::Note(Note { kind: kind.into(), text: String::new(), list: Bytes::new() });
    let append = async |to: &holdfast::repository::Repository, kind: &str| {
        to.log(0).await.expect("a log").append(note(kind), false, &[], |_| Ok(())).await.expect("appended");
    };
    append(&other, "first").await;
    let mut judged = Vec::new();
    let mut log = one.log(0).await.expect("a log");
    let judge = |state: &holdfast::repository::state::State| {
        judged.push(state.slot);
        Ok(())
    };
    log.append(note("second"), false, &[], judge).await.expect("the next slot is free");
    assert_eq!(judged, [1, 2], "judged as of the slot before, each time");
    assert_eq!(log.state.slot, 3);
    drop(log);

    append(&other, "third").await;
    let before = stage.names_at(0, "log/").await;
    let changed_its_mind = |state: &holdfast::repository::state::State| match state.slot {
        3 => Ok(()),
        _ => Err(holdfast::repository::error::RepositoryError::new(Class::Refused, "not any more")),
    };
    let refused = one.log(0).await.expect("a log").append(note("fourth"), false, &[], changed_its_mind).await;
    assert_eq!(refused.err().map(|e| e.fault), Some(Class::Refused));
    assert_eq!(stage.names_at(0, "log/").await, before);
}

/// What a commit stands on is judged at the very slot that commits, also when another record took the slot before it.
#[tokio::test(start_paused = true)]
async fn what_a_commit_stands_on_must_hold_at_its_own_slot() {
    use holdfast::format::pack::PackKind;
    use holdfast::format::record::{Condemn, Distrust, Forget, ObjectClass, ObjectRef};
    use holdfast::repository::writer::{Reliance, WriteFault};
    let (pack, object) = ([5; 32], [6; 32]);
    let condemned = |class: ObjectClass, hash: [u8; 32]| {
        let object = ObjectRef { class: class.into(), hash: hash.to_vec().into() };
        Action::Condemn(Condemn { objects: vec![object], lists: Vec::new() })
    };
    let none = Reliance::default();
    let hits = Reliance { hits: vec![(PackKind::Data, pack)], ..none.clone() };
    let own = Reliance { own: vec![(PackKind::Meta, pack)], ..none.clone() };
    let distrust = |add| Action::Distrust(Distrust { add: vec![Bytes::from(Vec::from(add))], lift: Vec::new() });
    for (what, reliance, record) in [
        ("a hit condemned", Some(hits.clone()), Some(condemned(ObjectClass::Data, pack))),
        ("a pack of its own condemned", Some(own.clone()), Some(condemned(ObjectClass::Meta, pack))),
        ("a hit distrusted", Some(hits.clone()), Some(distrust(pack))),
        ("a pack of its own distrusted", Some(own), Some(distrust(pack))),
        ("the parent forgotten", None, None),
        ("something distrusted beside a parent", None, Some(distrust([8; 32]))),
        ("the snapshot's object condemned", Some(none), Some(condemned(ObjectClass::Snapshot, object))),
        ("nothing", Some(hits), Some(distrust([8; 32]))),
    ] {
        let stage = Stage::of(71, &["a"]);
        stage.init().await;
        let source = tree(71, 2, 1_000);
        let parent = id(&stage.backup(stage.members(), source.path()).await.expect("all is well"));
        let (one, other) = (stage.open().await, stage.open().await);
        let reliance = reliance.unwrap_or(Reliance { parents: vec![parent], ..Reliance::default() });
        let record = record.unwrap_or(Action::Forget(Forget { ids: vec![parent.to_vec().into()] }));
        other.log(0).await.expect("a log").append(record, true, &[], |_| Ok(())).await.expect("appended");
        let before = stage.names_at(0, "log/").await;
        let committed = one.commit(0, [7; 32], object, false, &[], &[], &reliance).await;
        if what == "nothing" {
            committed.expect("nothing it stands on is gone");
            continue;
        }
        assert!(matches!(committed, Err(WriteFault::LostCover(_))), "{what}: {committed:?}");
        assert_eq!(stage.names_at(0, "log/").await, before, "{what}");
    }
}
