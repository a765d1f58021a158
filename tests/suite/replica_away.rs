//! One replica is away while the others go on: five backups, a forget, a prune that takes packs apart. Back again it is brought
//! what it lacks and nothing else, counted; and whatever happens before that, it is never stripped of its last good copies.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::chunk::id::ChunkId;
use holdfast::format::Hash;
use holdfast::format::descent::{Descent, Step};
use holdfast::format::entry::{self, Piece};
use holdfast::format::index::{PackEntry, Segment};
use holdfast::format::tree::{Child, TreeKind};
use holdfast::lifecycle::forget::{ForgetReport, What, run as run_forget};
use holdfast::lifecycle::heal::{HealSettings, run as run_heal};
use holdfast::lifecycle::heal_report::HealReport;
use holdfast::lifecycle::prune::PruneReport;
use holdfast::lifecycle::retention::decide::Rules;
use holdfast::lifecycle::retention::group::GroupBy;
use holdfast::lifecycle::retention::policy::{Count, Policy};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::repository::layout::{self, Class};
use holdfast::repository::snapshots::SnapshotView;
use holdfast::store::Store;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;
use holdfast::verify::presence::pack_name;

use crate::support::desk::Desk;
use crate::support::faulty_store::{Call, Fault};
use crate::support::pruning::{Files, History, backup, change, count, prune, pruned, recorded, settings};
use crate::support::stage::{Stage, contents, files_below};

const DEAD: Fault = Fault::FailBefore(StoreErrorKind::Unavailable);

/// All members but c, which does not answer.
fn away(stage: &Stage) -> Vec<Member> {
    stage.members_but(2, |_| DEAD)
}

/// Three days at all replicas, then so many more without c.
async fn history(seed: u64, more: u64) -> History {
    let mut history = History::of(seed, &["a", "b", "c"], 3).await;
    for day in 3..3 + more {
        change(history.source.path(), seed, day);
        let id = backup(&history.stage, away(&history.stage), history.source.path(), day).await;
        history.all.push((id, files_below(history.source.path())));
    }
    history
}

/// Forgets all but the newest `keep`, by the rules.
async fn forget(stage: &Stage, members: Vec<Member>, keep: u32) -> ForgetReport {
    let mut policy = Policy::default();
    policy.counts[0] = Count::Number(keep);
    let (group_by, now) = (GroupBy::default(), (4_000_000_000, 0));
    let rules =
        Rules { policy, group_by, remove_all: false, now, partial_mercy: 0, floor: 0, limit_percent: None, source_by: group_by };
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    run_forget(&repository, &What::ByRules(rules), &|_: &SnapshotView| true, false).await.expect("two are enough")
}

async fn pruned_at(stage: &Stage, members: Vec<Member>) -> PruneReport {
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    prune(&repository, &settings()).await.expect("a report")
}

async fn heal(stage: &Stage, members: Vec<Member>) -> HealReport {
    let settings = HealSettings { memory: 16 << 20, data_pack: 128 << 10, meta_pack: 32 << 10, ..HealSettings::default() };
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    run_heal(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("a report")
}

/// Every chunk that a tree names; of a catalog those of its entries, too.
async fn below(repository: &Repository, kind: TreeKind, root: &Child, all: &mut BTreeSet<ChunkId>) {
    let mut descent = Descent::new(kind, root.clone(), u64::MAX).expect("a root");
    loop {
        match descent.step().expect("a tree") {
            Step::End => return,
            Step::Want(child) => {
                let id = child.chunk_id().expect("an id");
                all.insert(id);
                descent.feed(repository.chunk(&id).await.expect("a node")).expect("a node");
            }
            Step::Item(item) if kind == TreeKind::Catalog => {
                let entry = entry::decode(item.value, &item.key).expect("an entry");
                let Some(content) = entry.content else { continue };
                all.extend(content.pieces.iter().filter_map(Piece::chunk_id));
                if let Some(list) = &content.list {
                    Box::pin(below(repository, TreeKind::Content, list, all)).await;
                }
            }
            Step::Item(item) => {
                all.extend(<Piece as prost::Message>::decode(item.value).expect("a piece").chunk_id());
            }
        }
    }
}

/// Every chunk that snapshots need, by the bytes of one replica alone.
async fn needed(stage: &Stage, at: usize, ids: &BTreeSet<Hash>) -> BTreeSet<ChunkId> {
    let alone = stage.open_alone(at).await;
    let mut all = BTreeSet::new();
    for view in alone.snapshots().await.expect("a list").iter().filter(|view| ids.contains(&view.id)) {
        for root in &view.snapshot.roots {
            below(&alone, TreeKind::Catalog, root.catalog.as_ref().expect("a catalog"), &mut all).await;
        }
    }
    all
}

/// The packs that the log of a replica relies on, by object name.
async fn packs(stage: &Stage, at: usize) -> BTreeMap<String, PackEntry> {
    let alone = stage.open_alone(at).await;
    let (segments, condemned) = {
        let log = alone.log(0).await.expect("readable");
        (log.state.segments.clone(), log.state.condemned.clone())
    };
    let mut packs = BTreeMap::new();
    for segment in segments {
        let stored = stage.stores[at].get(&layout::hashed(Class::Segment, &segment), None).await.expect("there");
        for pack in Segment::decode(&stored, &alone.keyring.keys.index, &alone.id()).expect("whole").packs {
            let hash = pack.name().expect("a name");
            let void = condemned.get(&pack.kind().into()).is_some_and(|names| names.contains(&hash));
            if !void {
                packs.insert(pack_name(pack.kind(), &hash).to_string(), pack);
            }
        }
    }
    packs
}

fn chunks(pack: &PackEntry) -> impl Iterator<Item = ChunkId> {
    pack.frames.iter().flat_map(|frame| frame.chunks().map(|span| span.id))
}

/// A replica alone holds exactly these snapshots, and gives all of them back.
async fn holds(stage: &Stage, at: usize, all: &[(Hash, Files)]) {
    let alone = stage.open_alone(at).await;
    let held: BTreeSet<Hash> = alone.live().await.iter().map(|live| live.id).collect();
    assert_eq!(held, all.iter().map(|(id, _)| *id).collect(), "replica {}", stage.names[at]);
    for (id, files) in all {
        assert!(contents(&alone, *id).await.expect("all of it is there") == *files, "replica {}", stage.names[at]);
    }
    assert!(alone.take_met().is_empty());
}

#[tokio::test(start_paused = true)]
async fn five_backups_and_a_prune_later() {
    let mut history = history(720, 5).await;
    let stage = &history.stage;
    let report = forget(stage, away(stage), 3).await;
    assert_eq!(report.forgotten.len(), 5, "{report:?}");
    let report = pruned_at(stage, away(stage)).await;
    for one in &report.replicas[..2] {
        assert!(
            one.behind.is_none() && one.repacked.objects > 0 && one.dropped.objects > 0 && one.deleted.objects > 0,
            "{one:?}"
        );
    }
    assert!(report.replicas[2].behind.is_some(), "{report:?}");
    holds(stage, 2, &history.all[..3]).await;
    history.all.drain(..5);
    let kept: BTreeSet<Hash> = history.all.iter().map(|(id, _)| *id).collect();

    let (sources, had) = ([packs(stage, 0).await, packs(stage, 1).await], packs(stage, 2).await);
    let needs = needed(stage, 0, &kept).await;
    assert_eq!(needs, needed(stage, 1, &kept).await);
    let known: BTreeSet<ChunkId> = had.values().flat_map(chunks).collect();
    let missing: BTreeSet<ChunkId> = needs.difference(&known).copied().collect();
    assert!(missing.len() > 20 && missing.len() < needs.len(), "{} of {}", missing.len(), needs.len());
    let before: BTreeSet<String> = stage.names_at(2, "").await.iter().map(ToString::to_string).collect();

    let (notes, members) = recorded(stage);
    let report = heal(stage, members).await;
    assert!(report.replicas.iter().all(|r| r.behind.is_none()) && report.lost.is_empty(), "{report:?}");
    let c = &report.replicas[2];
    assert_eq!((c.lacked, c.snapshots), (3, 3), "{c:?}");
    assert!(report.replicas[..2].iter().all(|r| r.bytes_sent == 0 && r.snapshots == 0), "{report:?}");

    // Each chunk that was missing came once. A pack came as it is where half of it was missing; into new ones went only frames
    // that hold something that was.
    let new: BTreeMap<String, PackEntry> =
        packs(stage, 2).await.into_iter().filter(|(name, _)| !had.contains_key(name)).collect();
    let (mut came, mut needed, mut copied) = (BTreeSet::new(), 0, 0);
    for (name, pack) in &new {
        let (mut bytes, mut idle) = (0, 0);
        for frame in &pack.frames {
            match frame.chunks().any(|span| missing.contains(&span.id)) {
                true => bytes += u64::from(frame.stored),
                false => idle += 1,
            }
            for span in frame.chunks().filter(|span| missing.contains(&span.id)) {
                assert!(came.insert(span.id), "chunk {} came twice", span.id);
            }
        }
        match sources.iter().any(|source| source.contains_key(name)) {
            true => assert!(bytes * 2 >= pack.size, "{name}: {bytes} bytes of {} were missing", pack.size),
            false => assert_eq!(idle, 0, "{name} holds frames that nobody lacked"),
        }
        copied += u64::from(sources.iter().any(|source| source.contains_key(name)));
        needed += bytes;
    }
    assert_eq!(came, missing);
    assert_eq!((c.needed, c.packs_copied, c.packs_copied + c.packs_made), (needed, copied, new.len() as u64), "{c:?}");
    let sent: u64 = new.values().map(|pack| pack.size).sum();
    assert_eq!(c.bytes_sent, sent);

    // The bill: those packs, one segment, three snapshots, the records, and the probe; nothing is read twice.
    let bill = notes[2].take();
    let puts =
        |class: &str| bill.iter().filter(|r| r.operation == Operation::Put && r.name.starts_with(class)).collect::<Vec<_>>();
    let packs_put: BTreeMap<&str, u64> =
        puts("data/").into_iter().chain(puts("meta/")).map(|r| (r.name.as_str(), r.bytes)).collect();
    assert_eq!(packs_put, new.iter().map(|(name, pack)| (name.as_str(), pack.size)).collect());
    assert_eq!(puts("data/").len() + puts("meta/").len(), new.len());
    let (index, snapshots, log) = (puts("index/").len(), puts("snapshots/").len(), puts("log/").len());
    assert_eq!((index, snapshots, log), (1, 3, 5), "a publication, three commits, what was forgotten meanwhile");
    assert_eq!(count(&bill, Operation::Put, "") as usize, new.len() + index + snapshots + log + 1, "{bill:?}");
    assert_eq!((count(&bill, Operation::Get, "data/"), count(&bill, Operation::Delete, "")), (0, 0));
    let now: BTreeSet<String> = stage.names_at(2, "").await.iter().map(ToString::to_string).collect();
    assert!(before.is_subset(&now), "nothing that was there is gone");
    let (mut read, mut out): (BTreeSet<String>, u64) = (BTreeSet::new(), 0);
    for (source, notes) in sources.iter().zip(&notes) {
        let bill = notes.take();
        assert_eq!(count(&bill, Operation::Put, "descriptor"), count(&bill, Operation::Put, ""), "the probe, and no more");
        for get in bill.iter().filter(|r| r.operation == Operation::Get && r.name.starts_with("data/")) {
            assert!(read.insert(get.name.clone()), "{} was read twice", get.name);
            let pack = &source[&get.name];
            assert!(chunks(pack).any(|id| missing.contains(&id)), "{} holds nothing that was missing", get.name);
            out += if get.bytes == 0 { pack.size } else { get.bytes };
        }
    }
    let whole: u64 = new.keys().filter(|name| read.contains(*name)).count() as u64;
    assert!(whole > 0 && read.len() as u64 >= whole, "{read:?}");
    println!(
        "figure: away for five backups and a prune: {} of {} chunks missing, {needed} bytes; {} packs put, {sent} bytes; {} packs \
         read, {out} bytes",
        missing.len(),
        needs.len(),
        new.len(),
        read.len()
    );

    history.sound().await;
    let (notes, members) = recorded(&history.stage);
    let again = heal(&history.stage, members).await;
    assert!(again.replicas.iter().all(|r| r.bytes_sent == 0 && r.snapshots == 0), "{again:?}");
    assert!(notes.iter().all(|store| count(&store.take(), Operation::Put, "") == 1), "the probe");
    // What nobody needs any more goes there, too.
    let replicas = pruned(&history.stage, &settings()).await;
    assert!(replicas[2].deleted.objects > 0, "{replicas:?}");
    history.sound().await;
}

/// Forget and prune, again and again, while c is away and while it is behind: until it holds what stays, it keeps what it has.
#[tokio::test(start_paused = true)]
async fn who_lags_keeps_the_last_good_copies() {
    let mut history = history(721, 3).await;
    let stage = &history.stage;
    let old = history.all[..3].to_vec();
    // Away.
    forget(stage, away(stage), 1).await;
    pruned_at(stage, away(stage)).await;
    holds(stage, 2, &old).await;
    holds(stage, 0, &history.all[5..]).await;
    // Back, and behind.
    for round in 0..2 {
        let report = forget(stage, stage.members(), 1).await;
        let c = report.replicas.iter().find(|r| r.name == "c").expect("there");
        // Also that two which it never had are forgotten is not for it to say yet.
        assert_eq!((c.recorded, c.withheld), (0, 5), "round {round}: {report:?}");
        assert!(c.behind.as_ref().is_some_and(|why| why.contains("holdfast heal")), "round {round}: {report:?}");
        let (notes, members) = recorded(stage);
        let report = pruned_at(stage, members).await;
        assert!(report.replicas.iter().all(|r| r.behind.is_none()), "round {round}: {report:?}");
        // What the heal between the rounds brought in vain goes again; what c has does not.
        let (condemned, deleted) = (report.replicas[2].condemned, count(&notes[2].take(), Operation::Delete, ""));
        assert!(round == 1 || (condemned, deleted) == (0, 0), "{condemned} and {deleted}");
        holds(stage, 2, &old).await;
        if round == 1 {
            break;
        }
        // A heal that brings the packs and cannot commit changes nothing about that.
        let stops = |call: &Call| match call.operation {
            Operation::Put if call.name.starts_with("snapshots/") => DEAD,
            _ => Fault::Pass,
        };
        let report = heal(stage, stage.members_but(2, stops)).await;
        assert!(report.replicas[2].behind.is_some() && report.replicas[2].snapshots == 0, "{report:?}");
        holds(stage, 2, &old).await;
    }
    // The others are gone for good: what c has is what there is.
    let alone = Stage { env: stage.env.clone(), stores: vec![stage.copy(2).await], names: vec!["c"], chunker: stage.chunker };
    forget(&alone, alone.members(), 1).await;
    pruned_at(&alone, alone.members()).await;
    holds(&alone, 0, &old[2..]).await;
    // Healed, it lets go.
    let report = heal(stage, stage.members()).await;
    assert!(report.replicas.iter().all(|r| r.behind.is_none()), "{report:?}");
    forget(stage, stage.members(), 1).await;
    let report = pruned_at(stage, stage.members()).await;
    assert!(report.replicas[2].deleted.objects > 0, "{report:?}");
    history.all.drain(..5);
    history.sound().await;
}

/// A heal that cannot bring what stays brings no forget of what c has instead, either.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_healed_strips_nothing() {
    let history = history(722, 2).await;
    let stage = &history.stage;
    let old = history.all[..3].to_vec();
    let had: BTreeSet<String> = stage.names_at(2, "data/").await.iter().map(ToString::to_string).collect();
    forget(stage, away(stage), 1).await;
    // What the newest stands on is lost at both others.
    for at in 0..2 {
        for name in stage.names_at(at, "data/").await.into_iter().filter(|name| !had.contains(name.as_str())) {
            stage.tamper(at, &name, &|_| None).await;
        }
    }
    for _ in 0..2 {
        let report = heal(stage, stage.members()).await;
        assert!(report.replicas[2].behind.is_some() && report.replicas[2].snapshots == 0, "{report:?}");
        pruned_at(stage, stage.members()).await;
        holds(stage, 2, &old).await;
    }
}

/// A log that has neither a snapshot nor the one that stays instead says nothing of it: with the holder of that one gone, a third store
/// would give up the last good copy for nothing.
#[test]
fn who_has_nothing_strips_nobody() {
    let desk = Desk::new(&[], "");
    let sections =
        ["one", "two", "three"].map(|name| format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n")).concat();
    desk.configure(&format!("write_quorum = 1\n{sections}"), "");
    desk.expect(0, &["init"]);
    let without = |gone: &[&str], code: i32, words: &[&str]| {
        gone.iter().for_each(|name| std::fs::rename(desk.at(&format!("stores/{name}")), desk.at(name)).expect("moved"));
        let told = desk.expect(code, words);
        gone.iter().for_each(|name| std::fs::rename(desk.at(name), desk.at(&format!("stores/{name}"))).expect("moved back"));
        told
    };
    without(&["three"], 4, &["backup", "src"]);
    desk.write("src/a.txt", "newer");
    without(&["two", "three"], 4, &["backup", "--no-heal", "src"]);
    desk.expect(4, &["forget", "--keep-last", "1"]);
    // The only one that has what stays is lost.
    without(&["one"], 4, &["heal"]);
    without(&["one"], 4, &["prune", "--mercy", "0s"]);
    let back = desk.at("back");
    without(&["one"], 0, &["restore", "latest", "--target", back.to_str().expect("UTF-8"), "--from", "two"]);
    let source = desk.at("src/a.txt");
    let copy = back.join(source.strip_prefix("/").expect("absolute"));
    assert_eq!(std::fs::read_to_string(copy).expect("restored"), "hello");
}

/// A store that is no replica yet is not taken for one that is away.
#[test]
fn an_empty_store_is_not_retired_in_the_place_of_another() {
    let desk = Desk::new(&["one", "two"], "");
    desk.expect(0, &["backup", "--init", "src"]);
    let sections =
        ["one", "two", "three"].map(|name| format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n")).concat();
    desk.configure(&sections, "");
    std::fs::create_dir(desk.at("stores/three")).expect("made");
    std::fs::rename(desk.at("stores/two"), desk.at("two")).expect("moved");
    let told = desk.expect(2, &["retire", "three"]);
    assert!(told.err.contains("store three holds no replica"), "{}", told.err);
    std::fs::rename(desk.at("two"), desk.at("stores/two")).expect("moved back");
    let status = desk.run(&["status"]);
    assert!(!format!("{}{}", status.out, status.err).contains("retired"), "{status:?}");
}
