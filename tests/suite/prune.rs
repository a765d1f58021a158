//! Prune: what nobody needs goes, what somebody needs stays, whatever is damaged, missing, young or unknown.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast::clock::{Env, Time};
use holdfast::format::pack::PackKind;
use holdfast::lifecycle::prune::PruneSettings;
use holdfast::lifecycle::prune_plan::{Limits, MaxUnused};
use holdfast::replica::ReplicaSettings;
use holdfast::repository::error::Fault as Class;
use holdfast::repository::layout;
use holdfast::repository::{Access, Repository};
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::Fault;
use crate::support::pruning::{History, bytes_at, count, deletes_are_condemned, prune, pruned, recorded, settings};
use crate::support::stage::{opening, unlock};

const DAY: Duration = Duration::from_secs(86_400);
const MERCY: Duration = Duration::from_secs(14 * 86_400);

#[tokio::test(start_paused = true)]
async fn half_of_a_history_goes_and_the_other_half_stays() {
    let mut history = History::of(1, &["a", "b", "c"], 10).await;
    history.forget(|i| i % 2 == 0).await;
    let stage = &history.stage;
    let before = bytes_at(stage, 0, "").await;
    for one in pruned(stage, &settings()).await {
        assert!(one.dropped.objects > 0 && one.repacked.objects > 0 && one.made.objects > 0, "{one:?}");
        assert!(one.made.bytes < one.repacked.bytes && one.deleted.waiting == 0, "{one:?}");
        assert_eq!((one.condemned, one.young.objects, one.tolerated.objects), (one.deleted.objects, 0, 0), "{one:?}");
    }
    let after = bytes_at(stage, 0, "").await;
    println!("{before} bytes before, {after} after");
    assert!(after * 4 < before * 3, "{before} bytes before, {after} after");
    history.sound().await;
    let (left, _) = stage.open().await.forgotten().await;
    assert!(left.is_empty(), "what was pruned cannot come back, and is not offered");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_the_store_is_told_and_no_more_than_needed() {
    let mut history = History::of(11, &["a"], 10).await;
    history.forget(|i| i % 2 == 0).await;
    let stage = &history.stage;
    let slots = stage.names_at(0, "log/").await.len() as u64;
    let (notes, members) = recorded(stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    drop(notes[0].take());
    let one = prune(&repository, &settings()).await.expect("a prune").replicas.remove(0);
    let records = notes[0].take();
    let (requests, of) = (one.requests, |operation| count(&records, operation, ""));
    println!("{requests:?} for {one:?}");
    assert_eq!((requests.put, requests.get), (of(Operation::Put), of(Operation::Get)));
    // A thousand names go in one request.
    assert_eq!((requests.stat, requests.list, requests.delete), (of(Operation::Stat), 1, 1));
    assert_eq!((of(Operation::List), of(Operation::Delete)), (1, one.deleted.objects));
    let put = |class| count(&records, Operation::Put, class);
    assert_eq!(put("data/") + put("meta/"), one.made.objects);
    // Publish and condemn; where the index was compacted, its record, and the one that condemns the old segments.
    let compacted = u64::from(one.segments_replaced > 0);
    assert_eq!((put("log/"), put("index/")), (2 + 2 * compacted, 1 + compacted), "{one:?}");
    // Every pack that is taken apart is read once, in one request or in one for its trailer, its header and each run of frames.
    assert!(count(&records, Operation::Get, "data/") <= 4 * one.repacked.objects, "{one:?}");
    assert_eq!(deletes_are_condemned(&repository, 0, slots, &records).await, one.deleted.objects);
    // Once more there is nothing to do: nothing is written.
    let one = prune(&repository, &settings()).await.expect("a prune").replicas.remove(0);
    assert_eq!((one.dropped.objects, one.repacked.objects, one.orphans.objects, one.deleted.objects), (0, 0, 0, 0), "{one:?}");
    let records = notes[0].take();
    assert_eq!((count(&records, Operation::Put, ""), count(&records, Operation::Delete, "")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_foretells_and_writes_nothing() {
    let mut history = History::of(2, &["a"], 6).await;
    history.forget(|i| i < 3).await;
    let stage = &history.stage;
    let (notes, members) = recorded(stage);
    let repository =
        Repository::open(&stage.env, members, opening(ReplicaSettings::default()), &unlock(), Access::Read).await.expect("open");
    let dry = prune(&repository, &PruneSettings { dry_run: true, ..settings() }).await.expect("a dry run").replicas.remove(0);
    let records = notes[0].take();
    assert_eq!((count(&records, Operation::Put, ""), count(&records, Operation::Delete, "")), (0, 0));
    let real = pruned(stage, &settings()).await.remove(0);
    assert_eq!((dry.before, dry.dropped, dry.repacked, dry.orphans), (real.before, real.dropped, real.repacked, real.orphans));
    assert!(dry.repacked.objects > 0 && dry.dropped.objects > 0 && dry.orphans.objects > 0, "{dry:?}");
    let near = dry.made.bytes * 3 / 4..=dry.made.bytes * 5 / 4 + 2_000;
    assert!(near.contains(&real.made.bytes), "{dry:?} {real:?}");
    // Lists and deletes to the number; of the others what compaction and the second proof ask is not foretold.
    let (told, asked) = (dry.requests, real.requests);
    println!("foretold {told:?}, asked {asked:?}");
    assert_eq!((told.list, told.delete), (asked.list, asked.delete));
    for (told, asked) in [(told.put, asked.put), (told.get, asked.get), (told.stat, asked.stat)] {
        assert!(told > 0 && told <= asked && asked <= 2 * told, "foretold {told}, asked {asked}");
    }
    history.sound().await;
}

#[tokio::test(start_paused = true)]
async fn the_young_are_spared_by_the_clock_of_the_store() {
    let mut history = History::of(3, &["a", "b"], 4).await;
    history.forget(|i| i < 2).await;
    let stage = &history.stage;
    let objects = |at| async move { stage.names_at(at, "data/").await.len() + stage.names_at(at, "meta/").await.len() };
    let first = objects(0).await;
    let merciful = PruneSettings { mercy: MERCY, ..settings() };
    // Clients whose clocks are years off in both ways.
    let years = 10 * 365 * 86_400_000_000_000_i64;
    for wrong in [-years, years] {
        let env = Env::inline(77, Time(stage.env.now().0 + wrong));
        let opened = Repository::open(&env, stage.members(), opening(ReplicaSettings::default()), &unlock(), Access::Write).await;
        for one in prune(&opened.expect("open"), &merciful).await.expect("a prune").replicas {
            assert!(one.young.objects > 0 && one.orphans_young == 2, "{one:?}");
            assert_eq!((one.condemned, one.deleted.objects, one.repacked.objects, one.made.objects), (0, 0, 0, 0), "{one:?}");
        }
    }
    assert_eq!(objects(0).await, first);
    tokio::time::advance(MERCY + DAY).await;
    // Old enough to be condemned, too lately condemned to be deleted.
    for one in pruned(stage, &merciful).await {
        assert!(one.condemned > 0 && one.deleted.waiting == one.condemned && one.deleted.objects == 0, "{one:?}");
    }
    assert!(objects(0).await > first, "copies were made, and nothing is gone");
    history.sound().await;
    tokio::time::advance(MERCY - DAY).await;
    for one in pruned(stage, &merciful).await {
        assert!(one.deleted.objects == 0 && one.deleted.waiting > 0, "{one:?}");
    }
    tokio::time::advance(2 * DAY).await;
    for one in pruned(stage, &merciful).await {
        assert!(one.deleted.objects > 0, "{one:?}");
    }
    assert!(objects(0).await < first);
    history.sound().await;
}

#[tokio::test(start_paused = true)]
async fn limits_are_kept() {
    let mut history = History::of(4, &["a"], 8).await;
    history.forget(|i| i < 5).await;
    let stage = &history.stage;
    let dry = async |limits| {
        let repository = stage.open().await;
        let settings = PruneSettings { dry_run: true, limits, ..settings() };
        prune(&repository, &settings).await.expect("a dry run").replicas.remove(0)
    };
    let all = dry(Limits { max_unused: MaxUnused::Bytes(0), max_repack: None }).await;
    assert!(all.repacked.objects > 2 && all.tolerated.objects == 0, "{all:?}");
    for max_unused in [MaxUnused::Unlimited, MaxUnused::Percent(100.0), MaxUnused::Bytes(u64::MAX)] {
        let none = dry(Limits { max_unused, max_repack: None }).await;
        assert_eq!((none.repacked.objects, none.tolerated), (0, all.repacked), "{max_unused:?}");
        assert_eq!(none.dropped, all.dropped);
    }
    let some = dry(Limits { max_unused: MaxUnused::Percent(10.0), max_repack: None }).await;
    assert!(some.repacked.objects < all.repacked.objects && some.tolerated.objects > 0, "{some:?}");
    let most = all.repacked.bytes / 2;
    let limits = Limits { max_unused: MaxUnused::Bytes(0), max_repack: Some(most) };
    let half = dry(limits).await;
    assert!(half.repacked.bytes <= most && half.repacked.objects > 0 && half.later.objects > 0, "{half:?}");
    let real = pruned(stage, &PruneSettings { limits, ..settings() }).await.remove(0);
    assert_eq!((real.repacked, real.later), (half.repacked, half.later));
    history.sound().await;
    // The rest goes with the next ones.
    pruned(stage, &settings()).await;
    let nothing = dry(Limits { max_unused: MaxUnused::Bytes(0), max_repack: None }).await;
    assert_eq!((nothing.repacked.objects, nothing.dropped.objects), (0, 0), "{nothing:?}");
    history.sound().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_log_has_not_forgotten_is_live_there() {
    let history = History::of(5, &["a", "b"], 4).await;
    let stage = &history.stage;
    let (ids, repository) = (history.all[..2].iter().map(|one| one.0).collect::<Vec<_>>(), stage.open().await);
    repository.forget(0, &ids, |_| Ok(())).await.expect("forgotten in one log alone");
    let replicas = pruned(stage, &settings()).await;
    assert!(replicas[0].dropped.objects > 0 && replicas[0].deleted.objects > 0);
    assert_eq!((replicas[1].dropped.objects, replicas[1].repacked.objects, replicas[1].condemned), (0, 0, 0));
    let other = stage.open_alone(1).await;
    for (id, files) in &history.all {
        assert!(crate::support::stage::contents(&other, *id).await.expect("its own log holds it") == *files);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_gives_keeps_everything() {
    let mut history = History::of(6, &["a", "b"], 4).await;
    history.forget(|i| i == 0).await;
    let stage = &history.stage;
    // The catalog of a kept snapshot is damaged at one replica: the other one gives it.
    let repository = stage.open().await;
    let views = repository.snapshots().await.expect("a list");
    let id = views[0].snapshot.roots[0].catalog.as_ref().and_then(holdfast::format::tree::Child::chunk_id).expect("a root");
    let place = repository.places(&[id]).await.expect("places")[0][0];
    let (pack, at) = {
        let index = repository.index().await.expect("an index");
        let chunks = index.read().expect("no panic");
        (chunks.pack(place.pack).clone(), place.frame_offset as usize + 30)
    };
    drop(repository);
    let name = layout::hashed(layout::Class::MetaPack, &pack.hash);
    let flip = |mut bytes: Vec<u8>| {
        bytes[at] ^= 1;
        Some(bytes)
    };
    stage.tamper(0, &name, &flip).await;
    let dry = PruneSettings { dry_run: true, ..settings() };
    let told = prune(&stage.open().await, &dry).await.expect("a dry run");
    // It is refused where a run would be.
    assert_eq!(told.replicas.iter().map(|r| r.fault).collect::<Vec<_>>(), [Some(Class::Integrity), None], "{told:?}");
    stage.tamper(1, &name, &flip).await;
    let (notes, members) = recorded(stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let report = prune(&repository, &settings()).await.expect("a report");
    for one in &report.replicas {
        assert_eq!(one.fault, Some(Class::Integrity), "{one:?}");
        assert!(one.behind.as_ref().is_some_and(|why| why.contains("snapshot ")), "{one:?}");
        assert_eq!((one.condemned, one.deleted.objects), (0, 0));
    }
    for store in &notes {
        let records = store.take();
        assert_eq!(count(&records, Operation::Delete, "") + count(&records, Operation::Put, "data/"), 0);
    }
    for at in 0..2 {
        assert!(stage.open().await.log(at).await.expect("readable").state.condemned.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_packs_go_when_all_that_lives_in_them_has_another_place() {
    let mut history = History::of(7, &["a", "b"], 3).await;
    history.forget(|i| i == 0).await;
    let stage = &history.stage;
    // Every data pack is distrusted at `a`: nothing live has another place there.
    let repository = stage.open().await;
    let bad: Vec<_> = {
        let index = repository.index().await.expect("an index");
        let chunks = index.read().expect("no panic");
        chunks.packs().iter().filter(|pack| pack.kind == PackKind::Data).map(|pack| pack.hash).collect()
    };
    repository.distrust(0, bad.clone()).await.expect("noted");
    drop(repository);
    // What is forgotten may be all that is left: nothing goes there before what stays is whole.
    let report = prune(&stage.open().await, &settings()).await.expect("a report");
    let [one, other] = &report.replicas[..] else { panic!("{report:?}") };
    assert!(one.damaged.objects > 0 && one.condemned == 0 && one.fault == Some(Class::Integrity), "{report:?}");
    assert!(other.condemned > 0 && other.fault.is_none(), "{report:?}");
    for (id, files) in &history.all {
        let found = crate::support::stage::contents(&stage.open_alone(0).await, *id).await.expect("the damaged are still there");
        assert!(found == *files);
    }
    let heal = holdfast::lifecycle::heal::HealSettings { memory: 16 << 20, ..Default::default() };
    let repository = stage.open().await;
    holdfast::lifecycle::heal::run(&repository, &heal, &Default::default(), &Default::default()).await.expect("a heal");
    drop(repository);
    let one = pruned(stage, &settings()).await.remove(0);
    assert_eq!(one.damaged.objects, 0, "{one:?}");
    assert!(one.dropped.objects > 0, "{one:?}");
    let left: BTreeSet<String> = stage.names_at(0, "data/").await.iter().map(ToString::to_string).collect();
    for hash in bad {
        assert!(!left.contains(&layout::hashed(layout::Class::DataPack, &hash).to_string()), "a damaged pack is still there");
    }
    for (id, files) in &history.all {
        assert!(crate::support::stage::contents(&stage.open_alone(0).await, *id).await.expect("healed") == *files);
    }
}

#[tokio::test(start_paused = true)]
async fn a_faulty_replica_is_named_and_the_others_are_pruned() {
    let mut history = History::of(8, &["a", "b", "c"], 4).await;
    history.forget(|i| i < 2).await;
    let stage = &history.stage;
    let members = stage.members_but(1, |call| match call.operation {
        Operation::List => Fault::FailBefore(StoreErrorKind::Denied),
        _ => Fault::Pass,
    });
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let report = prune(&repository, &settings()).await.expect("a report");
    drop(repository);
    assert_eq!(report.replicas[1].fault, Some(Class::Denied), "{report:?}");
    for at in [0, 2] {
        assert!(report.replicas[at].behind.is_none() && report.replicas[at].deleted.objects > 0, "{report:?}");
    }
    history.sound().await;
    let replicas = pruned(stage, &settings()).await;
    assert!(replicas[1].deleted.objects > 0 && replicas[0].condemned == 0, "{replicas:?}");
    history.sound().await;
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_nobody_gives_keeps_everything() {
    let mut history = History::of(9, &["a"], 4).await;
    history.forget(|i| i == 0).await;
    let stage = &history.stage;
    let segment = stage.names_at(0, "index/").await.remove(0);
    stage.tamper(0, &segment, &|_| None).await;
    let (notes, members) = recorded(stage);
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let one = prune(&repository, &settings()).await.expect("a report").replicas.remove(0);
    assert_eq!((one.fault, one.condemned), (Some(Class::Integrity), 0), "{one:?}");
    let records = notes[0].take();
    assert_eq!(count(&records, Operation::Delete, ""), 0);
    assert!(stage.stores[0].stat(&segment).await.expect("memory answers").is_none());
    // Not even where nothing live is known to need it: its packs must not pass for orphans.
    let mut history = History::of(10, &["a"], 1).await;
    history.forget(|_| true).await;
    let stage = &history.stage;
    let segment = stage.names_at(0, "index/").await.remove(0);
    stage.tamper(0, &segment, &|_| None).await;
    let one = prune(&stage.open().await, &settings()).await.expect("a report").replicas.remove(0);
    assert_eq!((one.fault, one.condemned, one.deleted.objects), (Some(Class::Integrity), 0, 0), "{one:?}");
    assert!(!stage.names_at(0, "data/").await.is_empty());
}
