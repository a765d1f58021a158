//! Records that were judged sound, were on their way, and lost the race for their slot to one that changes what they stand on:
//! they are judged again, and what is not sound any more is not written. (Publish and commit against a condemn: `replica_faults`
//! and `prune_races`; condemn against what comes back: `prune_races`.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use holdfast::format::Hash;
use holdfast::format::pack::PackKind;
use holdfast::format::record::{Action, ObjectClass};
use holdfast::lifecycle::compact::{self, Compacted};
use holdfast::lifecycle::heal::{HealSettings, run as heal};
use holdfast::lifecycle::heal_report::HealReport;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Mask, Member, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::hostile_writer;
use crate::support::pruning::{Files, dated, pruned, records, settings};
use crate::support::rig;
use crate::support::stage::{Stage, contents, files_below, grow, run, tree};

const HOUR: Duration = Duration::from_secs(3600);

/// Stores that are waited for however long they take.
fn patient() -> ReplicaSettings {
    ReplicaSettings { stall: 1000 * HOUR, write_quorum: Some(1), ..ReplicaSettings::default() }
}

/// All members; the record of number `nth` that is sent to the one at `at` is on its way for an hour.
fn held_up(stage: &Stage, at: usize, nth: u64) -> Vec<Member> {
    let member = |(i, (name, store)): (usize, (&&'static str, &holdfast::store::memory::MemoryStore))| {
        let slots = AtomicU64::new(0);
        let plan = move |call: &Call| {
            let slot = i == at && call.operation == Operation::Put && call.name.starts_with("log/");
            if slot && slots.fetch_add(1, SeqCst) == nth { Fault::Delay(HOUR) } else { Fault::Pass }
        };
        stage.member(name, Arc::new(FaultyStore::new(&stage.env, Arc::new(store.clone()), plan)))
    };
    stage.names.iter().zip(&stage.stores).enumerate().map(member).collect()
}

/// One replica with many small segments, the last of which names a pack that no snapshot needs.
async fn many_segments(seed: u64) -> (Stage, Vec<(Hash, Files)>, Hash) {
    let stage = Stage::of(seed, &["a"]);
    stage.init().await;
    let source = tree(seed, 2, 9_000);
    let mut all = Vec::new();
    for day in 0..18 {
        grow(source.path(), seed, 2 + day..3 + day, 2_000);
        let report = run(&stage.open().await, &dated(source.path(), day as u64)).await.expect("a backup");
        all.push((report.snapshot.expect("committed"), files_below(source.path())));
    }
    let repository = stage.open().await;
    let plain = Bytes::from(crate::support::source_tree::noise(seed, 20_000));
    let (id, at) = (hostile_writer::id_of(&repository, &plain), Mask::one(0));
    let pack = hostile_writer::send(&repository, PackKind::Data, &[(id, plain)], at).await;
    let name = pack.name().expect("a name");
    let (segments, failed) = repository.send_segments(vec![(pack, at)]).await;
    assert!(failed.is_empty());
    repository.publish(0, &segments).await.expect("published");
    (stage, all, name)
}

/// What gets the slot that a compaction is on its way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faster {
    Condemn,
    Compact,
    Note,
}

/// Found by the simulation (seeds 82695 and 99797): the record of a compaction named a pack that was condemned in the slot
/// which it had been meant for.
#[tokio::test(start_paused = true)]
async fn a_compaction_against_what_gets_its_slot() {
    for faster in [Faster::Condemn, Faster::Compact, Faster::Note] {
        let (stage, all, pack) = many_segments(740).await;
        let segments = stage.names_at(0, "index/").await.len();
        let compacting = stage.open_at(held_up(&stage, 0, 0), patient()).await.expect("it opens");
        let other = stage.open().await;
        let (footing, _) = other.stand(0).await.expect("it stands");
        let meanwhile = async {
            stage.env.sleep(HOUR / 2).await;
            assert!(
                stage.names_at(0, "index/").await.len() > segments,
                "the new segments are written, their record is on its way"
            );
            match faster {
                Faster::Condemn => {
                    let names = [(ObjectClass::Data, BTreeSet::from([pack]))].into();
                    other.condemn(0, &footing, &names).await.expect("nobody needs it");
                }
                Faster::Compact => {
                    let done = compact::run(&other, 0, &Stop::default()).await.expect("compacted");
                    assert_eq!(done.old.len(), segments);
                }
                Faster::Note => other.note(0, "weather", "fine".into()).await.expect("noted"),
            }
        };
        let stop = Stop::default();
        let (compacted, ()) = futures::join!(compact::run(&compacting, 0, &stop), meanwhile);
        let compacted = compacted.unwrap_or_else(|e| panic!("{faster:?}: {e}"));
        let trusts = {
            let index = compacting.index().await.expect("an index");
            let chunks = index.read().expect("no panic");
            chunks.pack_number(&pack).is_some_and(|number| chunks.pack(number).published.has(0))
        };
        let compactions =
            records(&stage.open().await, 0).await.into_iter().filter(|action| matches!(action, Some(Action::Compact(_)))).count();
        match faster {
            Faster::Condemn => {
                assert_eq!((&compacted, compactions), (&Compacted::default(), 0), "it would name what is void");
                assert!(!trusts, "what is void is not relied on by who overlooked it");
            }
            Faster::Compact => assert_eq!((&compacted, compactions, trusts), (&Compacted::default(), 1, true)),
            Faster::Note => assert_eq!((compacted.old.len(), compacted.new, trusts), (segments, 1, true)),
        }
        drop((compacting, other));
        // The next one names every pack that is in force, and no other.
        let fresh = stage.open().await;
        compact::run(&fresh, 0, &Stop::default()).await.expect("compacted");
        let published = rig::published(&fresh, 0).await;
        assert_eq!(published.segments.len(), 1, "{faster:?}");
        let void = holdfast::repository::layout::hashed(holdfast::repository::layout::Class::DataPack, &pack);
        assert_eq!(published.packs.contains_key(void.as_str()), faster != Faster::Condemn, "{faster:?}");
        drop(fresh);
        pruned(&stage, &settings()).await;
        rig::verify_all(&stage.open().await).await.unwrap_or_else(|e| panic!("{faster:?}: {e}"));
        let alone = stage.open_alone(0).await;
        for (id, files) in &all {
            assert!(contents(&alone, *id).await.expect("all of it is there") == *files, "{faster:?}");
        }
    }
}

/// Two snapshots at `a` alone, with what they hold.
async fn two_at_one(seed: u64, names: &[&'static str]) -> (Stage, Vec<(Hash, Files)>) {
    let stage = Stage::of(seed, names);
    stage.init().await;
    let source = tree(seed, 6, 12_000);
    let mut all = Vec::new();
    for day in 0..2 {
        grow(source.path(), seed + day, 10 + 4 * day as usize..14 + 4 * day as usize, 12_000);
        let alone = vec![stage.wrapped("a", Arc::new(stage.stores[0].clone()))];
        let repository = stage.open_at(alone, patient()).await.expect("it opens");
        let report = run(&repository, &dated(source.path(), day)).await.expect("one is enough");
        all.push((report.snapshot.expect("committed"), files_below(source.path())));
    }
    (stage, all)
}

async fn healed(repository: &Repository) -> HealReport {
    let settings = HealSettings { memory: 16 << 20, data_pack: 128 << 10, meta_pack: 32 << 10, ..HealSettings::default() };
    heal(repository, &settings, &Progress::default(), &Stop::default()).await.expect("a report")
}

/// Whether some record of a log ever committed a snapshot.
async fn was_committed(stage: &Stage, at: usize, id: &Hash) -> bool {
    let commits = |action: &Option<Action>| matches!(action, Some(Action::Commit(commit)) if commit.snapshot_id[..] == id[..]);
    records(&stage.open().await, at).await.iter().any(commits)
}

/// What must hold however it went: what was forgotten is nowhere, the other one everywhere and whole.
async fn one_is_left(stage: &Stage, kept: &(Hash, Files), gone: &Hash) {
    let report = healed(&stage.open().await).await;
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    for at in 0..stage.stores.len() {
        let alone = stage.open_alone(at).await;
        let held: Vec<Hash> = alone.live().await.iter().map(|live| live.id).collect();
        assert_eq!(held, [kept.0], "replica {at}");
        assert!(contents(&alone, kept.0).await.expect("healed") == kept.1, "replica {at}");
        assert!(alone.forgotten_ids().await.contains(gone), "replica {at}: it is told");
    }
    rig::verify_all(&stage.open().await).await.expect("all is well");
}

/// Found by the simulation (seeds 21804 and 64479): of two snapshots that are healed in one go the later one is forgotten by the
/// record that gets the slot of the earlier one's commit. The news came from one target, and hold at the other.
#[tokio::test(start_paused = true)]
async fn a_heal_against_a_forget_that_it_hears_of_on_the_way() {
    let (stage, all) = two_at_one(741, &["a", "b", "c"]).await;
    // At b: a publication, the commit of the first, the commit of the second.
    let repository = stage.open_at(held_up(&stage, 1, 1), patient()).await.expect("it opens");
    let other = stage.open_at(stage.members(), patient()).await.expect("it opens");
    let meanwhile = async {
        stage.env.sleep(HOUR / 2).await;
        assert!(was_committed(&stage, 2, &all[0].0).await, "at c the first one is committed by now");
        other.forget(1, &[all[1].0], |_| Ok(())).await.expect("forgotten");
    };
    let (report, ()) = futures::join!(healed(&repository), meanwhile);
    assert_eq!((report.replicas[1].snapshots, report.replicas[2].snapshots), (1, 1), "{report:?}");
    drop((repository, other));
    for at in [1, 2] {
        assert!(was_committed(&stage, at, &all[0].0).await && !was_committed(&stage, at, &all[1].0).await, "replica {at}");
    }
    one_is_left(&stage, &all[0], &all[1].0).await;
}

/// The forget gets the very slot that the commit of the same snapshot was meant for; and the slot before, that of the
/// publication.
#[tokio::test(start_paused = true)]
async fn a_heal_against_a_forget_of_the_same_snapshot() {
    for nth in 0..3 {
        let (stage, all) = two_at_one(742 + nth, &["a", "b"]).await;
        let repository = stage.open_at(held_up(&stage, 1, nth), patient()).await.expect("it opens");
        let other = stage.open_at(stage.members(), patient()).await.expect("it opens");
        // Before the publication and the first commit: the first snapshot; before the second commit: the second one.
        let (gone, kept) = if nth < 2 { (&all[0], &all[1]) } else { (&all[1], &all[0]) };
        let meanwhile = async {
            stage.env.sleep(HOUR / 2).await;
            other.forget(1, &[gone.0], |_| Ok(())).await.expect("forgotten");
        };
        let (report, ()) = futures::join!(healed(&repository), meanwhile);
        assert_eq!(report.replicas[1].snapshots, 1, "held up at {nth}: {report:?}");
        drop((repository, other));
        assert!(!was_committed(&stage, 1, &gone.0).await, "held up at {nth}");
        one_is_left(&stage, kept, &gone.0).await;
    }
}
