//! Repair of a log: whatever happened to its slots, a new epoch takes over what is sound, what is void stays void, and being cut
//! off anywhere costs nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use holdfast::cli::repair::log_outcome;
use holdfast::format::Hash;
use holdfast::format::record::{Action, Condemn, Configure, Forget, Hold, ObjectClass, ObjectRef, Revoke};
use holdfast::lifecycle::heal::{self, HealSettings};
use holdfast::lifecycle::repair::RepairSettings;
use holdfast::lifecycle::repair::log::{self, LogRepaired};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::epochs::LogNeeds;
use holdfast::repository::error::Fault as Class;
use holdfast::repository::{Access, Repository, layout};
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::verify::VerifySettings;
use holdfast::verify::share::Share;

use crate::support::faulty_store::{Fault as Outage, FaultyStore, How};
use crate::support::stage::{Stage, backing_up, copy_of, grow, opening, run, tree, unlock};

/// A repository with two snapshots and a few records more.
struct Ground {
    stage: Stage,
    source: tempfile::TempDir,
    first: Hash,
    second: Hash,
    /// A snapshot that was forgotten.
    forgotten: Hash,
}

impl Ground {
    async fn new(seed: u64, names: &[&'static str]) -> Ground {
        let stage = Stage::of(seed, names);
        stage.init().await;
        let source = tree(seed, 12, 20_000);
        let mut ids = Vec::new();
        for round in 0..3 {
            grow(source.path(), seed + round, 100 * (round as usize + 1)..100 * (round as usize + 1) + 4, 20_000);
            let settings =
                holdfast::backup::BackupSettings { data_pack: 48 << 10, meta_pack: 4 << 10, ..backing_up(source.path()) };
            stage.env.sleep(Duration::from_secs(1)).await;
            let report = run(&stage.open().await, &settings).await.expect("a backup");
            assert!(report.replicas.iter().all(|r| r.committed));
            ids.push(report.snapshot.expect("a snapshot"));
        }
        let repository = stage.open().await;
        for at in 0..names.len() {
            repository.forget(at, &ids[..1], |_| Ok(())).await.expect("forgotten");
            repository.note(at, "test", "nothing".into()).await.expect("noted");
        }
        Ground { stage, source, forgotten: ids[0], first: ids[1], second: ids[2] }
    }

    /// The same objects in stores of their own.
    async fn again(&self) -> Stage {
        let mut stores = Vec::new();
        for at in 0..self.stage.stores.len() {
            stores.push(self.stage.copy(at).await);
        }
        Stage { env: self.stage.env.clone(), stores, names: self.stage.names.clone(), chunker: self.stage.chunker }
    }
}

/// A repository in which one log is damaged opens, for whatever can still be done with it.
async fn open(stage: &Stage, members: Vec<Member>) -> Repository {
    stage.open_at(members, ReplicaSettings::default()).await.expect("a damaged log can be read up to the damage")
}

async fn repair(stage: &Stage, at: usize) -> LogRepaired {
    let repository = open(stage, stage.members()).await;
    repair_with(&repository, at, &small()).await.expect("repaired")
}

async fn repair_with(
    repository: &Repository,
    at: usize,
    settings: &RepairSettings,
) -> Result<LogRepaired, holdfast::lifecycle::heal::HealError> {
    log::run(repository, at, settings, &Progress::default(), &Stop::default()).await
}

fn small() -> RepairSettings {
    RepairSettings { publish_chunks: 20, data_pack: 48 << 10, meta_pack: 4 << 10, ..RepairSettings::default() }
}

fn slot(n: u64) -> ObjectName {
    layout::slot(1, n)
}

async fn spoil(stage: &Stage, at: usize, name: &ObjectName) {
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Some(bytes)
    };
    stage.tamper(at, name, &flip).await;
}

/// The replica is one like any other: whole by itself, verified, written to.
async fn well(stage: &Stage, ground: &Ground, at: usize, row: &str) {
    let repository = stage.open().await;
    for i in 0..stage.stores.len() {
        assert_eq!(repository.fault(i), None, "{row}");
    }
    assert_eq!(repository.log(at).await.expect("readable").state.epoch, 2, "{row}");
    assert_eq!(repository.log_needs(at).await.expect("known"), LogNeeds::Nothing, "{row}");
    let settings = VerifySettings { read_data: Some(Share::All), ..VerifySettings::default() };
    let report = holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("done");
    assert_eq!(holdfast::cli::verify::outcome(&report).code(), 0, "{row}: {report:?}");
    stage.holds(&[at], ground.second, ground.source.path()).await;
    let alone = stage.open_alone(at).await;
    let ids: BTreeSet<Hash> = alone.snapshots().await.expect("listed").into_iter().map(|view| view.id).collect();
    assert_eq!(ids, BTreeSet::from([ground.first, ground.second]), "{row}: what was forgotten stays so");
    assert!(alone.forgotten_ids().await.contains(&ground.forgotten) || stage.stores.len() == 1, "{row}");
    let backup = run(&repository, &backing_up(ground.source.path())).await.expect("a backup");
    assert!(backup.replicas.iter().all(|r| r.committed), "{row}: {backup:?}");
}

/// Slots in the log of replica 0.
async fn slots(stage: &Stage) -> u64 {
    stage.names_at(0, "log/00000001/").await.len() as u64
}

#[tokio::test(start_paused = true)]
async fn any_slot_damaged_or_gone_at_one_replica_of_three() {
    let ground = Ground::new(330, &["a", "b", "c"]).await;
    let last = slots(&ground.stage).await;
    assert!(last >= 6, "{last}");
    for n in 1..=last {
        for how in ["damaged", "gone", "of a version that nobody wrote"].into_iter().take(if n % 3 == 0 { 3 } else { 2 }) {
            let (row, gone) = (format!("slot {n} of {last} {how}"), how == "gone");
            let stage = ground.again().await;
            let changed = |mut bytes: Vec<u8>| {
                assert_eq!(bytes[8..10], [8, 1], "where the version lies");
                bytes[9] = 64;
                Some(bytes)
            };
            match how {
                "gone" => stage.tamper(0, &slot(n), &|_| None).await,
                "damaged" => spoil(&stage, 0, &slot(n)).await,
                _ => stage.tamper(0, &slot(n), &changed).await,
            }
            let before = stage.names_at(0, "").await;
            let report = repair(&stage, 0).await;
            assert!(report.why.is_some() && report.epoch == 2 && report.not_whole.is_empty(), "{row}: {report:?}");
            assert_eq!((log_outcome(&report).code(), report.snapshots), (0, 2), "{row}: {report:?}");
            for name in &before {
                assert!(stage.stores[0].stat(name).await.expect("answers").is_some(), "{row}: {name} was deleted");
            }
            assert!(
                stage.stores[0].stat(&slot(last + 1)).await.expect("answers").is_some() || gone && n == last,
                "{row}: a fence"
            );
            well(&stage, &ground, 0, &row).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_log_there_is() {
    let ground = Ground::new(331, &["only"]).await;
    let last = slots(&ground.stage).await;
    // Those that commit what is live: what they held is found by its objects. Then some, and all of them.
    let mut rows: Vec<Vec<u64>> = (1..last - 1).map(|n| vec![n]).collect();
    rows.extend([vec![2, 4], vec![1, 2, 3]]);
    for row in rows {
        let stage = ground.again().await;
        for n in &row {
            spoil(&stage, 0, &slot(*n)).await;
        }
        let report = repair(&stage, 0).await;
        assert_eq!(report.snapshots, 2, "{row:?}: {report:?}");
        assert!(!report.complete, "{row:?}");
        well(&stage, &ground, 0, &format!("{row:?}")).await;
    }
    // All of them lost: what was forgotten is not known any more, and nothing is lost.
    let stage = ground.again().await;
    for n in 1..=last {
        spoil(&stage, 0, &slot(n)).await;
    }
    let report = repair(&stage, 0).await;
    assert_eq!((report.snapshots, report.wounds_count), (3, last), "{report:?}");
    stage.holds(&[0], ground.second, ground.source.path()).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_covers_the_damage_says_all() {
    let ground = Ground::new(332, &["a", "b", "c"]).await;
    let last = slots(&ground.stage).await;
    for gone in [false, true] {
        let stage = ground.again().await;
        let repository = stage.open().await;
        repository.log(0).await.expect("there").write_checkpoint().await.expect("written");
        repository.note(0, "test", "one more".into()).await.expect("noted");
        drop(repository);
        match gone {
            true => stage.tamper(0, &slot(last - 1), &|_| None).await,
            false => spoil(&stage, 0, &slot(last)).await,
        }
        // The log is read on from the checkpoint, and nobody notices; verify does, and so does who has no checkpoint.
        let checkpoints = stage.names_at(0, "checkpoints/").await;
        let repository = stage.open().await;
        assert_eq!(repository.log_needs(0).await.expect("known"), LogNeeds::Nothing);
        // A slot behind the checkpoint is lost as well.
        spoil(&stage, 0, &slot(last + 1)).await;
        let report = repair(&stage, 0).await;
        assert!(!report.complete, "{report:?}");
        assert!(!checkpoints.is_empty());
        well(&stage, &ground, 0, "behind the checkpoint").await;
    }
    // The very slot that the checkpoint stands for: the next ones follow it, and nothing is unknown.
    let stage = ground.again().await;
    let repository = stage.open().await;
    repository.log(0).await.expect("there").write_checkpoint().await.expect("written");
    drop(repository);
    spoil(&stage, 0, &slot(2)).await;
    let past = {
        let repository = stage.open().await;
        repository.past(0, 1).await.expect("read")
    };
    assert!(past.complete, "{:?}", past.wounds);
    assert_eq!((past.wounds_count, past.state.snapshots.len()), (1, 2));
    // Nobody misses it but a verify; and nothing has to be copied to be rid of it.
    assert_eq!(stage.open().await.log_needs(0).await.expect("known"), LogNeeds::Nothing);
    let packs = stage.names_at(0, "data/").await.len() + stage.names_at(0, "meta/").await.len();
    let report = repair(&stage, 0).await;
    assert_eq!((report.complete, report.kept, report.copied, report.snapshots), (true, packs as u64, 0, 2), "{report:?}");
    well(&stage, &ground, 0, "covered").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_void_stays_void_and_what_may_be_gets_another_name() {
    let ground = Ground::new(333, &["a", "b", "c"]).await;
    let stage = ground.again().await;
    let last = slots(&stage).await;
    let data = stage.names_at(0, "data/").await;
    let of = |name: &ObjectName| layout::parse_hashed(name).expect("hashed").1;
    // The last but one record condemns in plain sight, the last one is lost, and may have condemned anything.
    let void = *blake3::hash(b"void").as_bytes();
    let condemn = |hash: &Hash| {
        let object = ObjectRef { class: ObjectClass::Data as i32, hash: Bytes::copy_from_slice(hash) };
        Action::Condemn(Condemn { objects: vec![object], lists: Vec::new() })
    };
    let repository = stage.open().await;
    {
        let mut log = repository.log(0).await.expect("there");
        log.append(condemn(&void), true, &[], |_| Ok(())).await.expect("appended");
        let revoke = Action::Revoke(Revoke { key_slots: vec![Bytes::copy_from_slice(&[9; 32])] });
        log.append(revoke, true, &[], |_| Ok(())).await.expect("appended");
        let hold = Hold { id: Bytes::copy_from_slice(&ground.first), until: 0, reason: "kept".into() };
        log.append(Action::Hold(hold), true, &[], |_| Ok(())).await.expect("appended");
        let feature = Configure { feature: "flavour".into(), value: "plum".into(), critical: false };
        log.append(Action::Configure(feature), false, &[], |_| Ok(())).await.expect("appended");
        log.append(condemn(&of(&data[0])), true, &[], |_| Ok(())).await.expect("appended");
    }
    drop(repository);
    spoil(&stage, 0, &slot(last + 5)).await;
    let report = repair(&stage, 0).await;
    assert!(report.kept == 0 && report.copied > 0, "{report:?}");
    let repository = stage.open().await;
    let log = repository.log(0).await.expect("readable");
    let state = &log.state;
    assert!(state.is_condemned(ObjectClass::Data, &void));
    assert!(state.revoked.contains(&[9; 32]) && state.holds.contains_key(&ground.first));
    assert_eq!(state.features["flavour"].value, "plum");
    // Whatever lay there has another name now, and its old one is void.
    for name in &data {
        assert!(state.is_condemned(ObjectClass::Data, &of(name)), "{name}");
    }
    drop(log);
    well(&stage, &ground, 0, "void").await;
    // Heal does not bring a void name back.
    let index = repository.index().await.expect("an index");
    let chunks = index.read().expect("read");
    assert!(data.iter().filter_map(|name| chunks.pack_number(&of(name))).all(|n| !chunks.pack(n).published.has(0)));
}

/// A log is repaired while the store that holds more is away: which of the names there are void here nobody knows, so nothing comes
/// from there under its own name, neither now nor after another repair.
#[tokio::test(start_paused = true)]
async fn what_comes_later_takes_names_of_its_own() {
    let ground = Ground::new(337, &["a", "b"]).await;
    for damaged in [true, false] {
        let stage = ground.again().await;
        let last = slots(&stage).await;
        grow(ground.source.path(), 700 + u64::from(damaged), 500..504, 20_000);
        let members = || stage.members();
        let repository = open(&stage, vec![members().remove(1)]).await;
        let settings =
            holdfast::backup::BackupSettings { data_pack: 48 << 10, meta_pack: 4 << 10, ..backing_up(ground.source.path()) };
        let third = run(&repository, &settings).await.expect("a backup").snapshot.expect("a snapshot");
        drop(repository);
        if damaged {
            spoil(&stage, 0, &slot(last)).await;
            let alone = open(&stage, vec![members().remove(0)]).await;
            repair_with(&alone, 0, &small()).await.expect("repaired");
        }
        let names = async |at: usize| -> BTreeSet<ObjectName> {
            let mut all = BTreeSet::new();
            for kind in ["data/", "meta/", "snapshots/"] {
                all.extend(stage.names_at(at, kind).await);
            }
            all
        };
        let (before, there) = (names(0).await, names(1).await);
        let repository = stage.open().await;
        let settings = HealSettings::default();
        heal::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("healed");
        let came: BTreeSet<ObjectName> = names(0).await.difference(&before).cloned().collect();
        assert!(came.len() >= 3, "{came:?}");
        assert_eq!(came.is_disjoint(&there), damaged, "{came:?}");
        assert_eq!(came.is_subset(&there), !damaged, "{came:?}");
        stage.holds(&[0], third, ground.source.path()).await;
        if damaged {
            // The next epoch knows it still.
            drop(repository);
            let end = stage.names_at(0, "log/00000002/").await.len() as u64;
            spoil(&stage, 0, &layout::slot(2, end)).await;
            assert_eq!(repair(&stage, 0).await.epoch, 3);
            assert!(!stage.open().await.log(0).await.expect("readable").state.takes_names());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn records_behind_the_damage_prove_their_packs() {
    let ground = Ground::new(334, &["a", "b"]).await;
    let stage = ground.again().await;
    let last = slots(&stage).await;
    // The publication and commit of the last backup stand behind the lost slot: its packs keep their names.
    let repository = stage.open().await;
    grow(ground.source.path(), 999, 900..904, 20_000);
    run(&repository, &backing_up(ground.source.path())).await.expect("a backup");
    drop(repository);
    spoil(&stage, 0, &slot(last)).await;
    let report = repair(&stage, 0).await;
    assert!(report.kept > 0 && report.copied > 0 && report.snapshots == 3, "{report:?}");
    let (kept, copied) = (report.kept, report.copied);
    let dry = {
        let stage = ground.again().await;
        let repository = stage.open().await;
        run(&repository, &backing_up(ground.source.path())).await.expect("a backup");
        drop(repository);
        spoil(&stage, 0, &slot(last)).await;
        let before = stage.names_at(0, "").await;
        let repository = open(&stage, stage.members()).await;
        let dry = repair_with(&repository, 0, &RepairSettings { dry_run: true, ..small() }).await.expect("foreseen");
        assert_eq!(stage.names_at(0, "").await, before, "a dry run writes nothing");
        dry
    };
    assert_eq!((dry.kept, dry.copied, dry.snapshots), (kept, copied, 3));
}

#[tokio::test(start_paused = true)]
async fn nobody_who_knew_the_old_log_writes_to_it() {
    let ground = Ground::new(335, &["a", "b", "c"]).await;
    let stage = ground.again().await;
    let last = slots(&stage).await;
    // They read the whole log, and are about to write.
    let sleeper = stage.open().await;
    let second = stage.open().await;
    spoil(&stage, 0, &slot(last - 1)).await;
    let report = repair(&stage, 0).await;
    assert_eq!(report.epoch, 2);
    let refused = sleeper.note(0, "test", "late".into()).await.expect_err("the epoch is over");
    assert!(refused.message.contains("new epoch"), "{refused}");
    let forget = || Action::Forget(Forget { ids: vec![Bytes::copy_from_slice(&ground.first)] });
    let mut log = second.log(0).await.expect("there");
    assert!(log.append(forget(), true, &[], |_| Ok(())).await.is_err());
    drop(log);
    well(&stage, &ground, 0, "after the sleepers").await;
    // The fence alone stops them, wherever they were: the new epoch has not begun when they look for it.
    for gap in [false, true] {
        let stage = ground.again().await;
        let early = stage.open().await;
        stage.open().await.note(0, "test", "one more".into()).await.expect("noted");
        let late = stage.open().await;
        match gap {
            // The very slot that the first of them would take next.
            true => stage.tamper(0, &slot(last + 1), &|_| None).await,
            false => spoil(&stage, 0, &slot(last + 1)).await,
        }
        let mut members = stage.members();
        let fails = |call: &crate::support::faulty_store::Call| match call.name.starts_with("log/00000002") {
            true if call.operation == Operation::Put => Outage::FailBefore(StoreErrorKind::Denied),
            _ => Outage::Pass,
        };
        members[0] = stage.member("a", Arc::new(FaultyStore::new(&stage.env, Arc::new(stage.stores[0].clone()), fails)));
        // With the gap, only who saw what was there knows that something is missing.
        let repository = open(&stage, members).await;
        if repository.log_needs(0).await.expect("known") == LogNeeds::Nothing {
            assert!(gap);
            continue;
        }
        assert!(repair_with(&repository, 0, &small()).await.is_err(), "the new epoch cannot begin");
        for sleeper in [&early, &late] {
            let mut log = sleeper.log(0).await.expect("there");
            assert!(log.append(forget(), true, &[], |_| Ok(())).await.is_err());
        }
        let report = repair(&stage, 0).await;
        assert_eq!((report.epoch, report.finished), (2, false));
        well(&stage, &ground, 0, &format!("fenced, gap: {gap}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_and_is_no_rollback_afterwards() {
    let ground = Ground::new(336, &["a", "b", "c"]).await;
    let memory = tempfile::tempdir().expect("a folder");
    let stage = ground.again().await;
    let remembering = || holdfast::repository::open::OpenSettings {
        state_dir: Some(memory.path().to_owned()),
        ..opening(ReplicaSettings::default())
    };
    let open =
        async |access| Repository::open(&stage.env, stage.members(), remembering(), &unlock(), access).await.expect("opened");
    let last = slots(&stage).await;
    // This machine, and the other logs, saw it at its end.
    open(Access::Write).await.save_heads().expect("remembered");
    stage.tamper(0, &slot(last), &|_| None).await;
    stage.tamper(0, &slot(last - 1), &|_| None).await;
    let old = stage.copy(0).await;
    let repository = open(Access::Write).await;
    assert_eq!(repository.fault(0).expect("seen").0, Class::Rollback);
    let report = repair_with(&repository, 0, &small()).await.expect("repaired");
    assert!(report.kept == 0 && report.snapshots == 2 && !report.complete, "nothing is proven: {report:?}");
    let repository = open(Access::Write).await;
    assert_eq!(repository.fault(0), None, "the new log is no rollback of the old one");
    repository.save_heads().expect("remembered");
    well(&stage, &ground, 0, "shortened").await;
    // The store shows the old log again: that is a rollback.
    let back = Stage { stores: vec![old, stage.stores[1].clone(), stage.stores[2].clone()], ..again(&stage) };
    let repository =
        Repository::open(&back.env, back.members(), remembering(), &unlock(), Access::Write).await.expect("the others are fine");
    assert_eq!(repository.fault(0).expect("seen").0, Class::Rollback);
}

fn again(stage: &Stage) -> Stage {
    Stage { env: stage.env.clone(), stores: Vec::new(), names: stage.names.clone(), chunker: stage.chunker }
}

#[tokio::test(start_paused = true)]
async fn slots_of_others_and_packs_that_are_damaged_too() {
    let ground = Ground::new(337, &["a", "b", "c"]).await;
    // The second slot of another replica in the place of this one's, and a record of this one in the wrong slot.
    for (from, to) in [((1, 2), 2), ((0, 3), 4)] {
        let stage = ground.again().await;
        let foreign = stage.stores[from.0].get(&slot(from.1), None).await.expect("there");
        stage.tamper(0, &slot(to), &|_| Some(foreign.to_vec())).await;
        let report = repair(&stage, 0).await;
        assert_eq!((report.wounds_count, report.snapshots), (1, 2), "{report:?}");
        well(&stage, &ground, 0, &format!("{from:?} in {to}")).await;
    }
    // Two packs of the only replica are damaged: what is right of them is taken over, what is not is said, and the snapshots
    // that need it are not in the log.
    let ground = Ground::new(338, &["only"]).await;
    let stage = ground.again().await;
    let last = slots(&stage).await;
    spoil(&stage, 0, &slot(last)).await;
    let victim = stage.names_at(0, "data/").await[0].clone();
    spoil(&stage, 0, &victim).await;
    let report = repair(&stage, 0).await;
    assert_eq!((report.damaged_count, report.damaged.clone()), (1, vec![victim.to_string()]));
    assert!(!report.not_whole.is_empty() && report.not_whole.iter().all(|(_, _, elsewhere)| !elsewhere));
    assert!(report.waits && log_outcome(&report).code() == 14);
    // Nobody writes, and so nobody prunes, before what is left of them was had.
    let between = open(&stage, stage.members()).await;
    assert_eq!((between.writable().count(), between.log_needs(0).await.expect("known")), (0, LogNeeds::Finish));
    let (left, _, _) = report.not_whole[0];
    assert!(between.unrooted(&hex::encode(left)).await.expect("looked for").is_some(), "it can be restored from");
    drop(between);
    let repository = open(&stage, stage.members()).await;
    let given_up = repair_with(&repository, 0, &RepairSettings { give_up: true, ..small() }).await.expect("finished");
    assert!(given_up.finished && !given_up.waits, "{given_up:?}");
    let repository = stage.open().await;
    let log = repository.log(0).await.expect("readable");
    let name = layout::parse_hashed(&victim).expect("hashed").1;
    assert!(
        log.state.distrusted.contains(&name) && !log.state.is_condemned(ObjectClass::Data, &name),
        "never a reason to delete"
    );
}

/// What the damaged log alone had forgotten stays so, although another replica holds it still.
#[tokio::test(start_paused = true)]
async fn what_one_log_alone_had_forgotten() {
    let ground = Ground::new(343, &["a", "b"]).await;
    let stage = ground.again().await;
    let repository = stage.open().await;
    repository.forget(0, &[ground.first], |_| Ok(())).await.expect("forgotten in one log");
    repository.note(0, "test", "nothing".into()).await.expect("noted");
    drop(repository);
    spoil(&stage, 0, &slot(slots(&stage).await)).await;
    let report = repair(&stage, 0).await;
    assert_eq!((report.epoch, report.snapshots), (2, 1), "{report:?}");
    for _ in 0..2 {
        let alone = stage.open_alone(0).await;
        assert!(alone.forgotten_ids().await.contains(&ground.first), "the new log says so, too");
        drop(alone);
        let repository = stage.open().await;
        assert_eq!(repository.live().await.iter().map(|live| live.id).collect::<Vec<_>>(), [ground.second]);
        let settings = holdfast::lifecycle::heal::HealSettings { memory: 16 << 20, ..Default::default() };
        holdfast::lifecycle::heal::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("a heal");
        assert!(!repository.log(0).await.expect("readable").state.snapshots.contains_key(&ground.first), "it does not come back");
    }
    stage.holds(&[0, 1], ground.second, ground.source.path()).await;
}

/// Cut off at every store operation, in every way; then once more, and all is well.
#[tokio::test(start_paused = true)]
async fn cut_off_anywhere() {
    for (seed, names, lost) in [(340, &["a", "b"][..], 3), (341, &["only"][..], 2)] {
        let ground = Ground::new(seed, names).await;
        let mut cuts = 0;
        for how in [How::Before, How::Applied, How::Torn] {
            let mut k = 0;
            loop {
                let stage = ground.again().await;
                spoil(&stage, 0, &slot(lost)).await;
                let crashing = |store: &MemoryStore, counter: Arc<AtomicU64>| {
                    Arc::new(FaultyStore::crash_at(&stage.env, Arc::new(store.clone()), k, how, counter))
                };
                let counter = Arc::new(AtomicU64::new(0));
                let faulty = crashing(&stage.stores[0], counter);
                let mut members: Vec<Member> =
                    stage.stores.iter().zip(names).map(|(store, name)| stage.member(name, Arc::new(store.clone()))).collect();
                members[0] = stage.member(names[0], faulty.clone());
                let done = match stage.open_at(members, ReplicaSettings::default()).await {
                    Ok(repository) => repair_with(&repository, 0, &small()).await.is_ok_and(|report| report.why.is_some()),
                    Err(_) => false,
                };
                let over = faulty.calls() <= k;
                assert!(!over || done, "nothing was in the way");
                let row = format!("{how:?} at {k} of {names:?}");
                // In between nobody else writes there.
                let between = open(&stage, stage.members()).await;
                let needs = between.log_needs(0).await.expect("known");
                if needs != LogNeeds::Nothing {
                    assert!(!between.writable().has(0), "{row}");
                    let report = repair(&stage, 0).await;
                    assert_eq!(report.finished, needs == LogNeeds::Finish, "{row}");
                }
                well(&stage, &ground, 0, &row).await;
                if over {
                    break;
                }
                cuts += 1;
                // The first operations are those of opening; then every one counts, and behind them every third.
                k += if k < 60 { 1 } else { 3 };
            }
        }
        println!("figure: crash points, repair of a log, replicas {names:?}: {cuts}");
        assert!(cuts > 150, "{cuts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_whole_is_left_alone() {
    let ground = Ground::new(342, &["a", "b"]).await;
    let before = ground.stage.names_at(0, "").await;
    let report = repair(&ground.stage, 0).await;
    assert_eq!((report.why, report.epoch), (None, 1));
    assert_eq!(ground.stage.names_at(0, "").await, before);
    // Damaged a second time, in the new epoch, it gets a third.
    let stage = ground.again().await;
    spoil(&stage, 0, &slot(3)).await;
    repair(&stage, 0).await;
    let copy = copy_of(&stage.env, &stage.stores[0]).await;
    drop(copy);
    spoil(&stage, 0, &layout::slot(2, 4)).await;
    for checkpoint in stage.names_at(0, "checkpoints/").await {
        stage.tamper(0, &checkpoint, &|_| None).await;
    }
    let report = repair(&stage, 0).await;
    assert_eq!((report.epoch, report.snapshots), (3, 2), "{report:?}");
    stage.holds(&[0, 1], ground.second, ground.source.path()).await;
}
