//! Forget and undelete: what the logs say afterwards, who wins when several change the same, that no replica is stripped of its
//! last good copy, that heal brings forgets and no forgotten snapshot, and that what comes back is what went.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use holdfast::backup::BackupSettings;
use holdfast::clock::Time;
use holdfast::format::Hash;
use holdfast::format::record::{Action, Condemn, Hold, ObjectClass, ObjectRef};
use holdfast::lifecycle::forget::{ForgetReport, What, run as forget};
use holdfast::lifecycle::heal::{HealSettings, run as heal};
use holdfast::lifecycle::heal_report::HealReport;
use holdfast::lifecycle::retention::decide::Rules;
use holdfast::lifecycle::retention::group::GroupBy;
use holdfast::lifecycle::retention::policy::{Count, Policy, TagList};
use holdfast::lifecycle::undelete::run as undelete;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::error::{Fault as Class, RepositoryError};
use holdfast::repository::snapshots::SnapshotView;
use holdfast::repository::{Repository, layout};
use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::support::desk::Desk;
use crate::support::faulty_store::{Fault, FaultyStore};
use crate::support::recording_store::RecordingStore;
use crate::support::rig;
use crate::support::stage::{Stage, backing_up, contents, files_below, grow, run, tree};

const DEAD: Fault = Fault::FailBefore(StoreErrorKind::Unavailable);
const DAY: i64 = 86_400_000_000_000;

fn keeping(policy: Policy) -> Rules {
    let (group_by, now) = (GroupBy::default(), (4_000_000_000, 0));
    Rules { policy, group_by, remove_all: false, now, partial_mercy: 0, floor: 0, limit_percent: None, source_by: group_by }
}

fn rules(policy: Policy) -> What {
    What::ByRules(keeping(policy))
}

fn newest(n: u32) -> Policy {
    let mut policy = Policy::default();
    policy.counts[0] = Count::Number(n);
    policy
}

fn last(n: u32) -> What {
    rules(newest(n))
}

fn tagged(tag: &str) -> What {
    rules(Policy { tags: vec![TagList::parse(tag)], ..Policy::default() })
}

async fn forgotten(repository: &Repository, what: &What) -> Result<ForgetReport, RepositoryError> {
    forget(repository, what, &|_: &SnapshotView| true, false).await
}

/// Backs up at `members`, dated `day`.
async fn backup(stage: &Stage, members: Vec<Member>, path: &Path, day: i64, tag: &str) -> Hash {
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let time = Some(Time(1_700_000_000_000_000_000 + day * DAY));
    let settings = BackupSettings { time, tags: vec![tag.into()], ..backing_up(path) };
    run(&repository, &settings).await.expect("a backup").snapshot.expect("committed")
}

/// `days` snapshots at all replicas, one a day, oldest first, each with what it has to hold.
async fn history(stage: &Stage, days: usize) -> (tempfile::TempDir, Vec<(Hash, BTreeMap<Vec<u8>, Vec<u8>>)>) {
    stage.init().await;
    let source = tree(7, 12, 20_000);
    let mut all = Vec::new();
    for day in 0..days {
        grow(source.path(), 70 + day as u64, 12 + day..14 + day, 20_000);
        let id = backup(stage, stage.members(), source.path(), day as i64, ["a", "b"][day % 2]).await;
        all.push((id, files_below(source.path())));
    }
    (source, all)
}

async fn live(repository: &Repository) -> BTreeSet<Hash> {
    repository.live().await.into_iter().map(|one| one.id).collect()
}

/// What the log of each replica says by itself.
async fn roots(stage: &Stage, at: usize) -> (BTreeSet<Hash>, BTreeSet<Hash>) {
    let alone = stage.open_alone(at).await;
    let log = alone.log(0).await.expect("readable");
    (log.state.snapshots.keys().copied().collect(), log.state.forgotten.clone())
}

async fn healed(stage: &Stage) -> HealReport {
    let repository = stage.open().await;
    let settings = HealSettings { memory: 16 << 20, data_pack: 256 << 10, meta_pack: 64 << 10, ..HealSettings::default() };
    heal(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("a heal")
}

/// All members but `at`, which is dead.
fn without(stage: &Stage, at: usize) -> Vec<Member> {
    stage.members_but(at, |_| DEAD)
}

#[tokio::test(start_paused = true)]
async fn more_than_the_limit_allows_is_refused_and_writes_nothing() {
    let stage = Stage::new(2);
    let (_source, _) = history(&stage, 4).await;
    let names = rig::names(&stage.stores[0], "log/").await;
    let limited = |percent| What::ByRules(Rules { limit_percent: Some(percent), ..keeping(newest(1)) });
    let repository = stage.open().await;
    let e = forgotten(&repository, &limited(74)).await.expect_err("three of four are more than 74 %");
    assert!(e.fault == Class::Refused && e.to_string().contains("3 of 4 snapshots"), "{e}");
    let planned = forget(&repository, &limited(74), &|_: &SnapshotView| true, true).await.expect("a dry run tells");
    assert!(planned.over_limit.is_some() && planned.forgotten.len() == 3, "{planned:?}");
    assert_eq!(rig::names(&stage.stores[0], "log/").await, names, "nothing was written");
    let report = forgotten(&repository, &limited(75)).await.expect("three of four are 75 %");
    assert_eq!(report.forgotten.len(), 3);
    // What was forgotten before does not count again, and is not counted among what there is.
    assert!(forgotten(&stage.open().await, &limited(1)).await.expect("nothing to do").forgotten.is_empty());
}

#[tokio::test(start_paused = true)]
async fn rules_are_carried_out_in_every_log() {
    let stage = Stage::new(1);
    let (_source, all) = history(&stage, 4).await;
    let ids: Vec<Hash> = all.iter().map(|one| one.0).collect();
    let report = forgotten(&stage.open().await, &last(2)).await.expect("forgotten");
    assert_eq!(report.forgotten, BTreeSet::from([ids[0], ids[1]]));
    assert!(report.short.is_empty() && report.replicas.iter().all(|r| r.behind.is_none() && r.recorded == 2), "{report:?}");
    for at in 0..3 {
        let (roots, gone) = roots(&stage, at).await;
        assert_eq!((roots, gone), (BTreeSet::from([ids[2], ids[3]]), BTreeSet::from([ids[0], ids[1]])));
    }
    // Once more, there is nothing to do, and nothing is written.
    let names = rig::names(&stage.stores[0], "log/").await;
    let report = forgotten(&stage.open().await, &last(2)).await.expect("nothing to do");
    assert!(report.forgotten.is_empty());
    assert_eq!(rig::names(&stage.stores[0], "log/").await, names);
    // What was forgotten is not found, and the refusal says what can be done.
    let repository = stage.open().await;
    let views = repository.snapshots().await.expect("a list");
    let e = repository.meant(views, |_| true, &hex::encode(ids[0])).await.expect_err("it is no root");
    assert!(e.fault == Class::Usage && e.to_string().contains("holdfast undelete"), "{e}");
    // Its content is still there for the others.
    for (id, tree) in &all[2..] {
        assert!(contents(&repository, *id).await.expect("kept") == *tree);
    }
    rig::verify_all(&repository).await.expect("all is well");
}

#[tokio::test(start_paused = true)]
async fn by_name_the_last_one_goes_too_by_rules_it_does_not() {
    let stage = Stage::new(2);
    let (_source, all) = history(&stage, 2).await;
    let e = forgotten(&stage.open().await, &tagged("nobody")).await.expect_err("it would empty the group");
    assert_eq!(e.fault, Class::Refused, "{e}");
    assert_eq!(live(&stage.open().await).await.len(), 2);
    let named = What::Named(all.iter().map(|one| one.0).collect());
    let report = forgotten(&stage.open().await, &named).await.expect("they are named");
    assert_eq!(report.forgotten.len(), 2);
    assert!(live(&stage.open().await).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing() {
    let stage = Stage::new(3);
    history(&stage, 3).await;
    let notes: Vec<_> = stage.stores.iter().map(|store| RecordingStore::new(Arc::new(store.clone()))).collect();
    let members = stage.names.iter().zip(&notes).map(|(name, store)| stage.wrapped(name, Arc::new(store.clone()))).collect();
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    notes.iter().for_each(|store| drop(store.take()));
    let report = forget(&repository, &last(1), &|_: &SnapshotView| true, true).await.expect("a dry run");
    assert_eq!((report.forgotten.len(), report.replicas.len()), (2, 0));
    let requests: Vec<_> = notes.iter().flat_map(|store| store.take()).collect();
    assert!(requests.iter().all(|r| r.operation == Operation::Get && r.name.starts_with("snapshots/")), "{requests:?}");
    assert_eq!(requests.len(), 3, "each snapshot is read once");
    assert_eq!(live(&stage.open().await).await.len(), 3);
}

/// Two runs, each of which keeps what the other one wants gone: one wins, the other finds out at its slot.
#[tokio::test(start_paused = true)]
async fn two_at_once_do_not_empty_a_group_between_them() {
    for seed in 0..6 {
        let stage = Stage::new(40 + seed);
        history(&stage, 2).await;
        // Their stores stand in another order.
        let mut turned = stage.members();
        turned.reverse();
        let one = stage.open().await;
        let two = stage.open_at(turned, ReplicaSettings::default()).await.expect("it opens");
        let (a, b) = (tagged("a"), tagged("b"));
        let (first, second) = if seed % 2 == 0 {
            futures::join!(forgotten(&one, &a), forgotten(&two, &b))
        } else {
            // Both have planned on what they read: the other one is done before it writes.
            (forgotten(&one, &a).await, forgotten(&two, &b).await)
        };
        let refused = [&first, &second].iter().filter(|r| matches!(r, Err(e) if e.fault == Class::Refused)).count();
        assert_eq!(refused, 1, "{first:?} {second:?}");
        let repository = stage.open().await;
        assert_eq!(live(&repository).await.len(), 1, "seed {seed}");
        for at in 0..3 {
            assert_eq!(roots(&stage, at).await.0.len(), 1);
        }
    }
}

/// The parent is forgotten while a backup that carries its entries over is under way.
#[tokio::test(start_paused = true)]
async fn a_backup_whose_parent_is_forgotten_meanwhile() {
    let stage = Stage::new(5);
    let (source, all) = history(&stage, 2).await;
    grow(source.path(), 500, 40..44, 20_000);
    let repository = stage.open().await;
    assert!(live(&repository).await.contains(&all[1].0), "it knows the parent as a root");
    let named = What::Named(all.iter().map(|one| one.0).collect());
    forgotten(&stage.open().await, &named).await.expect("forgotten");
    let report = run(&repository, &backing_up(source.path())).await.expect("a backup");
    let id = report.snapshot.expect("committed");
    assert!(report.replicas.iter().all(|r| r.committed), "{report:?}");
    drop(repository);
    stage.holds(&[0, 1, 2], id, source.path()).await;
    assert_eq!(live(&stage.open().await).await, BTreeSet::from([id]));
}

/// A replica that is away keeps its roots; heal takes the forget to it and brings nothing back from it.
#[tokio::test(start_paused = true)]
async fn heal_brings_forgets_and_nothing_that_was_forgotten() {
    let stage = Stage::new(6);
    let (_source, all) = history(&stage, 3).await;
    let ids: Vec<Hash> = all.iter().map(|one| one.0).collect();
    let repository = stage.open_at(without(&stage, 2), ReplicaSettings::default()).await.expect("two answer");
    let report = forgotten(&repository, &last(1)).await.expect("two are enough");
    assert!(report.short.is_empty() && report.replicas.iter().any(|r| r.name == "c" && r.behind.is_some()), "{report:?}");
    drop(repository);
    assert_eq!(roots(&stage, 2).await.0.len(), 3, "it knows nothing of it");
    assert_eq!(live(&stage.open().await).await, BTreeSet::from([ids[2]]), "forgotten anywhere");
    let report = healed(&stage).await;
    assert!(report.replicas.iter().all(|r| r.behind.is_none() && r.snapshots == 0), "{report:?}");
    for at in 0..3 {
        assert_eq!(roots(&stage, at).await, (BTreeSet::from([ids[2]]), BTreeSet::from([ids[0], ids[1]])));
    }
    let names = rig::names(&stage.stores[2], "log/").await;
    healed(&stage).await;
    assert_eq!(rig::names(&stage.stores[2], "log/").await, names, "once is enough");
}

/// A replica without the newest that stays is stripped of nothing until it has it.
#[tokio::test(start_paused = true)]
async fn who_lacks_what_stays_gives_up_nothing() {
    let stage = Stage::new(7);
    let (source, all) = history(&stage, 2).await;
    grow(source.path(), 700, 50..54, 20_000);
    let newest = backup(&stage, without(&stage, 2), source.path(), 5, "c").await;
    let report = forgotten(&stage.open().await, &last(1)).await.expect("two are enough");
    let c = report.replicas.iter().find(|r| r.name == "c").expect("there");
    assert!(c.withheld == 2 && c.behind.as_ref().is_some_and(|why| why.contains("holdfast heal")), "{report:?}");
    assert!(report.short.is_empty());
    let (roots_of_c, gone) = roots(&stage, 2).await;
    assert_eq!((roots_of_c.len(), gone.len()), (2, 0), "its only good copies");
    let alone = stage.open_alone(2).await;
    assert!(contents(&alone, all[1].0).await.expect("restorable from c alone") == all[1].1);
    drop(alone);
    healed(&stage).await;
    for at in 0..3 {
        assert_eq!(roots(&stage, at).await.0, BTreeSet::from([newest]));
    }
    stage.holds(&[0, 1, 2], newest, source.path()).await;
}

/// What too few replicas hold does not count, and what is held stays.
#[tokio::test(start_paused = true)]
async fn below_the_quorum_and_held() {
    let stage = Stage::new(8);
    let (source, all) = history(&stage, 3).await;
    let ids: Vec<Hash> = all.iter().map(|one| one.0).collect();
    let alone = vec![stage.wrapped("a", Arc::new(stage.stores[0].clone()))];
    let lonely = backup(&stage, alone, source.path(), 9, "a").await;
    let hold = Action::Hold(Hold { id: Bytes::copy_from_slice(&ids[0]), until: 0, reason: "audit".into() });
    let repository = stage.open().await;
    repository.log(1).await.expect("readable").append(hold, true, &[], |_| Ok(())).await.expect("written");
    drop(repository);
    let report = forgotten(&stage.open().await, &last(1)).await.expect("forgotten");
    assert_eq!(report.forgotten, BTreeSet::from([ids[1]]), "the newest that counts is the third");
    assert_eq!(live(&stage.open().await).await, BTreeSet::from([ids[0], ids[2], lonely]));
    let e = forgotten(&stage.open().await, &What::Named(vec![ids[0]])).await.expect_err("it is held");
    assert!(e.fault == Class::Refused && e.to_string().contains("audit"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nothing_is_written() {
    let stage = Stage::new(9);
    let (_source, all) = history(&stage, 2).await;
    let mut members = without(&stage, 1);
    let dead = FaultyStore::new(&stage.env, Arc::new(stage.stores[2].clone()), |_| DEAD);
    members[2] = stage.wrapped("c", Arc::new(dead));
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("one answers");
    let e = forgotten(&repository, &What::Named(vec![all[0].0])).await.expect_err("one is too few");
    assert!(e.fault == Class::Failed && e.to_string().contains("nothing was forgotten"), "{e}");
    drop(repository);
    assert_eq!(live(&stage.open().await).await.len(), 2);
}

/// Voids every pack of one kind at a replica, as a prune does.
async fn condemn(stage: &Stage, at: usize) {
    let objects = stage.names_at(at, "data/").await.into_iter().map(|name| {
        let (_, hash) = layout::parse_hashed(&name).expect("a pack");
        ObjectRef { class: ObjectClass::Data as i32, hash: Bytes::copy_from_slice(&hash) }
    });
    let condemn = Action::Condemn(Condemn { objects: objects.collect(), lists: Vec::new() });
    let repository = stage.open().await;
    repository.log(at).await.expect("readable").append(condemn, true, &[], |_| Ok(())).await.expect("written");
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_comes_back_under_a_new_id() {
    let stage = Stage::new(10);
    let (_source, all) = history(&stage, 3).await;
    let (old, tree) = &all[0];
    forgotten(&stage.open().await, &last(1)).await.expect("forgotten");
    let repository = stage.open().await;
    let (views, problems) = repository.forgotten().await;
    assert_eq!(views.iter().map(|v| v.id).collect::<Vec<_>>(), [all[0].0, all[1].0], "oldest first");
    assert!(problems.is_empty() && views.iter().all(|v| v.replicas == ["a", "b", "c"]));
    let report = undelete(&repository, &views[0], &Stop::default()).await.expect("all of it is there");
    assert!(report.new != *old && report.replicas.iter().all(|r| r.committed), "{report:?}");
    let again = undelete(&repository, &views[0], &Stop::default()).await.expect("nothing to do");
    assert!(again.already && again.new == report.new);
    drop(repository);
    for at in 0..3 {
        let alone = stage.open_alone(at).await;
        assert_eq!(live(&alone).await, BTreeSet::from([all[2].0, report.new]));
        assert!(contents(&alone, report.new).await.expect("it is whole") == *tree);
        let views = alone.snapshots().await.expect("a list");
        assert_eq!(views[0].id, report.new, "it has its old date");
        assert!(alone.log(0).await.expect("readable").state.forgotten.contains(old), "the old id stays forgotten");
    }
    rig::verify_all(&stage.open().await).await.expect("all is well");
}

/// Where something that it stands on was condemned it cannot come back; where it can, heal takes it from there.
#[tokio::test(start_paused = true)]
async fn what_was_pruned_does_not_come_back() {
    let stage = Stage::new(11);
    let (_source, all) = history(&stage, 1).await;
    forgotten(&stage.open().await, &What::Named(vec![all[0].0])).await.expect("forgotten");
    condemn(&stage, 2).await;
    let repository = stage.open().await;
    let (views, _) = repository.forgotten().await;
    let report = undelete(&repository, &views[0], &Stop::default()).await.expect("two have it");
    let committed: Vec<_> = report.replicas.iter().filter(|r| r.committed).map(|r| r.name.as_str()).collect();
    assert_eq!(committed, ["a", "b"], "{report:?}");
    drop(repository);
    assert!(roots(&stage, 2).await.0.is_empty());
    let done = healed(&stage).await;
    assert_eq!(done.replicas[2].snapshots, 1, "{done:?}");
    assert!(contents(&stage.open_alone(2).await, report.new).await.expect("healed") == all[0].1);
    // Forgotten again, and condemned everywhere.
    forgotten(&stage.open().await, &What::Named(vec![report.new])).await.expect("forgotten");
    for at in 0..3 {
        condemn(&stage, at).await;
    }
    let repository = stage.open().await;
    let (views, _) = repository.forgotten().await;
    let e = undelete(&repository, &views[0], &Stop::default()).await.expect_err("nobody has it");
    assert!(e.to_string().contains("cannot come back"), "{e}");
    assert!(live(&repository).await.is_empty());
}

/// The real binary: codes, words and JSON.
#[test]
fn the_commands() {
    let desk = tempfile::tempdir().expect("a folder");
    let at = |path: &str| desk.path().join(path);
    let config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nwrite_quorum = 1\n\
                  [[store]]\nname = \"one\"\nurl = \"file:stores/one\"\n[[store]]\nname = \"two\"\nurl = \"file:stores/two\"\n";
    std::fs::write(at("holdfast.toml"), config).expect("written");
    let in_zone = |zone: &str, code: i32, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(words).current_dir(desk.path()).stdin(Stdio::null()).env("HOME", at("home")).env("TZ", zone);
        std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("HOLDFAST_")).for_each(|(n, _)| {
            command.env_remove(n);
        });
        let output = command.output().expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{words:?}\n{out}\n{err}");
        (out, err)
    };
    let run = |code: i32, words: &[&str]| in_zone("UTC", code, words);
    let listed = |words: &[&str]| -> Vec<serde_json::Value> {
        let (out, _) = run(0, &[&["snapshots", "--json"], words].concat());
        serde_json::from_str::<serde_json::Value>(&out).expect("JSON").as_array().expect("an array").clone()
    };
    std::fs::create_dir(at("src")).expect("made");
    for (n, hour) in ["01 22", "02 01", "02 23", "05 10"].iter().enumerate() {
        std::fs::write(at("src/file"), format!("content {n}\n").repeat(5_000)).expect("written");
        run(0, &["backup", "--init", "--time", &format!("2026-01-{hour}:00:00"), "--host", "h", "--tag", "t", "src"]);
    }
    // Wrong words change nothing.
    for words in [
        &["forget"][..],
        &["forget", "--keep-last", "0"],
        &["forget", "--keep-last", "-1"],
        &["forget", "--keep-daily", "many"],
        &["forget", "--keep-within", "5w"],
        &["forget", "--keep-within", "-5d"],
        &["forget", "--keep-last", "1", "--group-by", "planet"],
        &["forget", "--unsafe-allow-remove-all"],
        &["forget", "nothing"],
        &["forget", "0123456789abcdef0123456789"],
        &["undelete"],
        &["undelete", "0123456789abcdef0123456789"],
    ] {
        run(2, words);
    }
    let (_, err) = run(17, &["forget", "--keep-tag", "none"]);
    assert!(err.contains("host h") && err.contains("nothing was forgotten"), "{err}");
    run(17, &["forget", "--keep-tag", "none", "--unsafe-allow-remove-all", "--host", "h"]);
    assert_eq!(listed(&[]).len(), 4);
    // A dry run says it in restic's shape, the same in every zone.
    let dry = ["forget", "--keep-daily", "2", "--dry-run", "--json"];
    let (out, _) = run(0, &dry);
    for zone in ["America/New_York", "Pacific/Auckland"] {
        assert_eq!(in_zone(zone, 0, &dry).0, out, "{zone}");
    }
    let told: serde_json::Value = serde_json::from_str(&out).expect("one document");
    let group = &told[0];
    assert_eq!((&group["host"], &group["tags"], group["keep"].as_array().map(Vec::len)), (&"h".into(), &().into(), Some(2)));
    assert_eq!(group["paths"][0], at("src").canonicalize().expect("there").to_str().expect("UTF-8"));
    assert_eq!(group["reasons"][0]["matches"][0], "daily snapshot");
    assert_eq!(group["reasons"][0]["snapshot"]["id"], group["keep"][0]["id"]);
    assert_eq!(group["keep"][1]["time"], "2026-01-02T23:00:00Z");
    assert_eq!(
        (group["remove"].as_array().map(Vec::len), &group["remove_reasons"][0]["matches"][0]),
        (Some(2), &"no rule keeps it".into())
    );
    assert_eq!(listed(&[]).len(), 4);
    let (out, _) = run(0, &["forget", "--keep-last", "9", "--host", "other", "--json"]);
    assert_eq!(out.trim(), "[]");
    // And then it does it.
    let gone = listed(&[])[0]["id"].as_str().expect("an id").to_owned();
    let (out, err) = run(0, &["forget", "--keep-daily", "2"]);
    assert!(
        out.contains("daily snapshot") && out.contains("no rule keeps it") && out.contains("2 snapshots forgotten, 2 stay"),
        "{out}"
    );
    assert!(err.contains("keep 2 daily") && err.contains("holdfast undelete"), "{err}");
    assert_eq!((listed(&[]).len(), listed(&["--forgotten"]).len()), (2, 2));
    let (_, err) = run(2, &["restore", &gone, "--target", "back"]);
    assert!(err.contains("holdfast undelete"), "{err}");
    run(0, &["forget", &gone[..20]]);
    // It comes back.
    let (out, _) = run(0, &["undelete", &gone[..20], "--json"]);
    let told: serde_json::Value = serde_json::from_str(out.trim()).expect("one line");
    let new = told["snapshot_id"].as_str().expect("an id");
    assert_eq!((&told["forgotten_id"], new == gone), (&gone.as_str().into(), false));
    assert_eq!((listed(&[]).len(), listed(&["--forgotten"]).len()), (3, 1));
    run(0, &["restore", new, "--target", "back"]);
    let file = at("back").join(at("src").canonicalize().expect("there").strip_prefix("/").expect("absolute")).join("file");
    assert_eq!(std::fs::read_to_string(file).expect("restored"), "content 0\n".repeat(5_000));
    // The configuration's rules, with a store away: it is named, and heal takes it there.
    std::fs::write(at("holdfast.toml"), format!("{config}[retention]\nkeep_last = 1\nkeep_tag = [\"pinned\"]\n"))
        .expect("written");
    std::fs::rename(at("stores/two"), at("stores/away")).expect("renamed");
    let (out, err) = run(4, &["forget"]);
    assert!(out.contains("2 snapshots forgotten, 1 stays") && err.contains("two"), "{out}{err}");
    std::fs::rename(at("stores/away"), at("stores/two")).expect("renamed");
    assert_eq!(listed(&["--store", "two=file:stores/two"]).len(), 3);
    run(0, &["heal"]);
    assert_eq!(listed(&["--store", "two=file:stores/two"]).len(), 1);
    // All that a filter chooses, and the last one by its name.
    run(0, &["backup", "--host", "other", "--time", "2026-02-01 00:00:00", "src"]);
    run(0, &["forget", "--unsafe-allow-remove-all", "--host", "other"]);
    run(0, &["forget", "latest"]);
    assert_eq!(listed(&[]).len(), 0);
    run(0, &["verify", "--read-data"]);
    std::fs::write(at("holdfast.toml"), format!("{config}[retention]\nkeep_within = \"1w\"\n")).expect("written");
    let (_, err) = run(2, &["forget"]);
    assert!(err.contains("holdfast.toml:12:15"), "{err}");
}

/// Of one kind any filter must match, of paths all, of different kinds each; the rules judge nothing else.
#[test]
fn filters_choose_what_the_rules_judge() {
    let desk = Desk::new(&["one"], "");
    desk.write("src/one", "1");
    std::fs::create_dir(desk.at("other")).expect("made");
    desk.write("other/two", "2");
    let backups: [(&[&str], &[&str]); 6] = [
        (&["src"], &["--tag", "a"]),
        (&["src"], &["--tag", "a", "--tag", "b"]),
        (&["src"], &["--tag", "b", "--host", "there"]),
        (&["src", "other"], &["--tag", "a"]),
        (&["other"], &[]),
        (&["src"], &["--tag", "c,d"]),
    ];
    let mut ids = Vec::new();
    for (paths, more) in backups {
        let told = desk.expect(0, &[&["--json", "backup", "--init"], more, paths].concat());
        ids.push(told.summary()["snapshot_id"].as_str().expect("an id").to_owned());
    }
    let chosen = |words: &[&str]| -> Vec<usize> {
        let told = desk.expect(0, &[&["--json", "snapshots"], words].concat()).summary();
        let place = |one: &serde_json::Value| ids.iter().position(|id| one["id"] == id.as_str()).expect("one of them");
        let mut all: Vec<usize> = told.as_array().expect("an array").iter().map(place).collect();
        all.sort_unstable();
        all
    };
    let (src, url) = (desk.at("src"), "s3://bucket/src");
    for (words, expected) in [
        (&[][..], &[0, 1, 2, 3, 4, 5][..]),
        (&["--tag", "a"], &[0, 1, 3]),
        (&["--tag", "a,b"], &[1]),
        (&["--tag", "a", "--tag", "b"], &[0, 1, 2, 3]),
        (&["--tag", ""], &[4]),
        (&["--tag", "none"], &[]),
        (&["--host", "there"], &[2]),
        (&["--host", "there", "--host", "here"], &[0, 1, 2, 3, 4, 5]),
        (&["--host", "there", "--tag", "a"], &[]),
        (&["--label", "job"], &[]),
        (&["--path", src.to_str().expect("UTF-8")], &[0, 1, 2, 3, 5]),
        (&["--path", "src"], &[0, 1, 2, 3, 5]),
        (&["--path", "./src/"], &[0, 1, 2, 3, 5]),
        (&["--path", "src", "--path", "other"], &[3]),
        (&["--path", "sr"], &[]),
        (&["--path", url], &[]),
    ] {
        assert_eq!(chosen(words), expected, "{words:?}");
    }
    desk.expect(2, &["snapshots", "--path", ""]);
    let kept = |words: &[&str]| {
        let dry = desk.expect(0, &[&["--json", "forget", "--group-by", "", "--keep-last", "1", "--dry-run"], words].concat());
        let groups = dry.summary();
        let of = |word: &str| groups[0][word].as_array().map_or(0, Vec::len);
        (of("keep"), of("remove"))
    };
    for (words, expected) in [
        (&["--tag", "a"][..], (1, 2)),
        (&["--path", "other"], (1, 1)),
        (&["--host", "there"], (1, 0)),
        (&["--path", "other", "--path", "src"], (1, 0)),
        (&["--tag", "none"], (0, 0)),
    ] {
        assert_eq!(kept(words), expected, "{words:?}");
    }
    desk.expect(0, &["forget", "--group-by", "", "--keep-last", "1", "--tag", "a"]);
    assert_eq!(chosen(&[]), [2, 3, 4, 5]);
    desk.expect(0, &["forget", "--unsafe-allow-remove-all", "--path", "src", "--host", "there"]);
    assert_eq!(chosen(&[]), [3, 4, 5]);
}
