//! What operators meet: figures that hold, refusals that say what to do, and no state that nothing leads out of.

use std::path::PathBuf;

use crate::last_copies::{Days, RULES, id_of};
use crate::support::desk::Desk;
use crate::support::source_tree::noise;

fn backup(desk: &Desk, n: u64, code: i32, more: &[&str]) {
    std::fs::write(desk.at("src/file"), noise(n, 3_000_000)).expect("written");
    desk.expect(code, &[&["backup", "src"], more].concat());
}

/// What others have not pruned yet makes nobody lag.
#[test]
fn waste_elsewhere_leaves_nobody_behind() {
    let desk = Desk::new(&["one", "two", "three"], "");
    let path = desk.at("holdfast.toml");
    let text = std::fs::read_to_string(&path).expect("there");
    std::fs::write(&path, text.replace("memory =", "behind_limit = \"1 MiB\"\nmemory =")).expect("written");
    backup(&desk, 0, 0, &["--init"]);
    backup(&desk, 1, 0, &[]);
    backup(&desk, 2, 0, &[]);
    desk.expect(0, &["forget", "--keep-last", "1"]);
    let (there, away) = (desk.at("stores/three"), desk.at("away"));
    std::fs::rename(&there, &away).expect("moved");
    desk.expect(4, &["prune", "--mercy", "0"]);
    std::fs::rename(&away, &there).expect("moved back");
    let told = desk.expect(0, &["--json", "status"]).summary();
    let missing = |r: &serde_json::Value| (r["state"] == "complete", r["bytes_missing"].as_u64());
    assert!(told["replicas"].as_array().expect("replicas").iter().all(|r| missing(r) == (true, Some(0))), "{told}");
    backup(&desk, 3, 0, &["--no-heal"]);
    // A store that begins anew is a replica like any other as soon as it is healed.
    desk.expect(0, &["retire", "two"]);
    std::fs::remove_dir_all(desk.at("stores/two")).expect("removed");
    std::fs::create_dir(desk.at("stores/two")).expect("made");
    desk.expect(0, &["heal"]);
    backup(&desk, 4, 0, &["--no-heal"]);
    desk.expect(0, &["verify", "--read-data"]);
    // But who lacks what is needed is left out.
    std::fs::rename(&there, &away).expect("moved");
    backup(&desk, 5, 4, &["--no-heal"]);
    std::fs::rename(&away, &there).expect("moved back");
    let told = desk.expect(4, &["backup", "--no-heal", "src"]);
    assert!(told.out.contains("three") && told.out.contains("run `holdfast heal`"), "{told:?}");
}

/// The floor is kept by the clocks of the stores, too: those who back up, and those who forget, may have wrong ones.
#[test]
fn a_floor_that_no_clock_gets_below() {
    let rules = "[retention]\nkeep_last = 1\n[lifecycle]\nforget_limit = \"100%\"\n";
    let mut days = Days::new(&["one", "two"], rules);
    days.next(0, &[]);
    let told = days.desk.expect(0, &["lifecycle"]);
    assert!(told.out.contains("younger than 1 d by its store's clock"), "{}", told.out);
    assert!(told.out.contains("0 snapshots forgotten, 2 stay"), "{}", told.out);
    // By hand there is no floor.
    let told = days.desk.expect(0, &["forget", "--keep-last", "1"]);
    assert!(told.out.contains("1 snapshot forgotten"), "{}", told.out);
}

/// What was damaged and then forgotten is not beyond reach as long as its bytes are there.
#[test]
fn what_was_damaged_and_forgotten() {
    let mut days = Days::new(&["one"], RULES);
    days.desk.write("src/other", &"words\n".repeat(1000));
    let before: Vec<PathBuf> = days.objects("one", "data");
    let second = days.next(0, &[]);
    days.spoil("one", "data", &before, false);
    days.desk.expect(14, &["verify", "--read-data"]);
    let told = days.desk.expect(14, &["forget", "--keep-last", "1", "--dry-run"]);
    assert!(
        told.out.contains("damaged at every store that holds it, does not count") && told.out.contains("2 would stay"),
        "{}",
        told.out
    );
    days.desk.expect(0, &["forget", &second]);
    let told = days.desk.expect(14, &["undelete", &second]);
    assert!(told.err.contains(&format!("`holdfast restore {second} --what-is-left`")), "{}", told.err);
    let told = days.desk.expect(0, &["restore", &second, "--what-is-left", "--target", "left", "--dry-run"]);
    assert!(told.out.contains("known only when it is restored"), "{}", told.out);
    let told = days.desk.expect(14, &["restore", &second, "--what-is-left", "--target", "left"]);
    assert!(told.out.contains("could not be had"), "{}", told.out);
    let below = format!("left{}", days.desk.at("src").display());
    assert!(days.desk.at(&below).join("other").exists() || days.desk.at("left").exists());
}

/// A dry run tells what a run would, of each replica.
#[test]
fn a_dry_run_of_forget_names_who_would_not_have_it() {
    let mut days = Days::new(&["one", "two", "three"], "");
    days.takes_away("three");
    days.next(4, &[]);
    for words in [&["forget", "--keep-last", "1", "--dry-run"][..], &["forget", "--keep-last", "1"]] {
        let told = days.desk.expect(4, words);
        assert!(told.out.contains("2 of 3") && told.err.contains("three"), "{told:?}");
    }
    days.brings_back("three");
    let lagging = "three: it lacks a snapshot that stays";
    let told = days.desk.expect(4, &["forget", "--keep-last", "1", "--dry-run"]);
    assert!(told.err.contains(lagging), "{}", told.err);
    assert!(days.desk.expect(4, &["forget", "--keep-last", "1"]).err.contains(lagging));
    // A lifecycle heals first.
    days.desk.expect(0, &["heal"]);
    days.desk.expect(0, &["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(days.desk.expect(0, &["snapshots"]).out.matches("2026-01-0").count(), 1);
    days.comes_back(&id_of(&days, 0), 1, "three");
}

#[test]
fn a_replica_is_retired_by_its_own_id_or_not_at_all() {
    let days = Days::new(&["one", "two"], "");
    for wrong in ["zz", "0000000000"] {
        let told = days.desk.expect(2, &["retire", "two", "--replica-id", wrong]);
        assert!(told.err.contains("the replica at store two is "), "{}", told.err);
        days.without("two", |desk| {
            for more in [&[][..], &["--give-up"]] {
                let told = desk.expect(2, &[&["retire", "two", "--replica-id", wrong][..], more].concat());
                assert!(told.err.contains("none of the missing replicas has an id that begins so"), "{}", told.err);
            }
        });
    }
    days.desk.expect(0, &["status"]);
}
