//! What one log has forgotten while what it was forgotten for is gone: the last snapshot of a source that is whole never goes by
//! itself, whatever else happens; it goes by its name, and comes back by undelete.

use crate::last_copies::{Days, RULES, id_of};

/// Store `one` keeps the second snapshot and has forgotten the first, store `two` the other way round.
fn disputed(rules: &str) -> (Days, String, String) {
    let mut days = Days::new(&["one", "two"], rules);
    let first = id_of(&days, 0);
    let second = days.next(0, &[]);
    days.without("one", |desk| desk.expect(4, &["forget", &second]));
    days.without("two", |desk| desk.expect(4, &["forget", "--keep-last", "1"]));
    (days, first, second)
}

fn is_told(days: &Days, words: &[&str], ids: &[&String]) {
    let told = days.desk.run(words);
    assert!(matches!(told.code, Some(4 | 17)), "{told:?}");
    let what = "nothing else of that source is left that is whole";
    assert!(told.err.contains(what) && ids.iter().all(|id| told.err.contains(&id[..8])), "{ids:?}: {}", told.err);
}

/// After a prune each of these days comes back by undelete, from one of the stores.
fn nothing_is_lost(days: &Days, all: &[(&String, usize, &str)]) {
    let told = days.desk.run(&["prune"]);
    assert_ne!(told.code, Some(0), "{told:?}");
    for (id, _, _) in all {
        // Below the quorum at first: it lies at one store alone.
        let told = days.desk.run(&["undelete", id]);
        assert!(matches!(told.code, Some(0 | 1 | 4)) && told.out.contains(" is back as "), "{told:?}");
    }
    days.desk.run(&["heal"]);
    for (_, day, store) in all {
        days.comes_back(&id_of(days, *day), *day, store);
    }
}

fn configured(days: &Days, stores: &[&str], more: &str) {
    let section = |name: &&str| format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n");
    days.desk.configure(&stores.iter().map(section).collect::<String>(), more);
}

/// A third store that hears from both is no judge of either.
#[test]
fn a_third_store_settles_nothing() {
    let (days, first, second) = disputed(RULES);
    configured(&days, &["one", "two", "three"], RULES);
    std::fs::create_dir(days.desk.at("stores/three")).expect("made");
    is_told(&days, &["heal"], &[&first, &second]);
    for away in ["one", "two"] {
        days.without(away, |desk| desk.run(&["heal"]));
    }
    is_told(&days, &["heal"], &[&first, &second]);
    nothing_is_lost(&days, &[(&first, 0, "two"), (&second, 1, "one")]);
}

#[test]
fn a_repair_of_the_log_settles_nothing() {
    let (days, first, second) = disputed(RULES);
    std::fs::remove_file(days.desk.at("stores/one/log/00000001/00000000000000000003")).expect("removed");
    std::fs::remove_dir_all(days.desk.at("state")).expect("removed");
    days.desk.expect(0, &["repair", "log", "one"]);
    is_told(&days, &["heal"], &[&first, &second]);
    nothing_is_lost(&days, &[(&first, 0, "two"), (&second, 1, "one")]);
}

/// Who names one lets go of that one.
#[test]
fn a_name_is_the_name_of_one() {
    let (days, first, second) = disputed(RULES);
    days.desk.expect(0, &["forget", &second]);
    is_told(&days, &["heal"], &[&first]);
    nothing_is_lost(&days, &[(&first, 0, "two")]);
    // Another that was made for them, and is taken back.
    let (mut days, first, second) = disputed(RULES);
    let third = days.next(0, &[]);
    days.desk.expect(0, &["forget", &third]);
    is_told(&days, &["heal"], &[&first, &second]);
    nothing_is_lost(&days, &[(&first, 0, "two"), (&second, 1, "one")]);
    // With another that stays, rules and heal go on.
    let (mut days, ..) = disputed(RULES);
    days.next(0, &[]);
    days.desk.expect(0, &["lifecycle"]);
    assert_eq!(days.desk.expect(0, &["snapshots"]).out.matches("1 snapshot").count(), 1);
    days.comes_back(&id_of(&days, 0), 2, "one");
}

/// The object that says what a snapshot is one of is damaged where it counts; the other store has it, too.
#[test]
fn a_damaged_object_settles_nothing() {
    let mut days = Days::new(&["one", "two"], RULES);
    let first = id_of(&days, 0);
    let before = days.objects("one", "snapshots");
    let second = days.next(0, &[]);
    days.without("one", |desk| desk.expect(4, &["forget", &second]));
    days.without("two", |desk| desk.expect(4, &["forget", "--keep-last", "1"]));
    days.spoil("one", "snapshots", &before, false);
    is_told(&days, &["heal"], &[&first, &second]);
    nothing_is_lost(&days, &[(&first, 0, "two"), (&second, 1, "one")]);
}

/// One store alone made the second snapshot, and forgot the first for it; then that is damaged.
fn damaged_after() -> (Days, String, String) {
    let mut days = Days::new(&["one", "two"], RULES);
    let first = id_of(&days, 0);
    let before = days.objects("one", "data");
    days.takes_away("two");
    let second = days.next(4, &[]);
    days.desk.expect(4, &["forget", "--keep-last", "1"]);
    days.brings_back("two");
    days.spoil("one", "data", &before, false);
    days.desk.run(&["verify", "--read-data"]);
    // Its source has it no more.
    std::fs::remove_file(days.desk.at("src/file")).expect("removed");
    (days, first, second)
}

/// A repair that waits has brought back what was forgotten, and not yet what it was forgotten for.
#[test]
fn a_repair_that_waits_strips_nobody() {
    let (days, first, _) = damaged_after();
    std::fs::remove_file(days.desk.at("stores/one/log/00000001/00000000000000000002")).expect("removed");
    let _ = std::fs::remove_dir_all(days.desk.at("stores/one/checkpoints"));
    std::fs::remove_dir_all(days.desk.at("state")).expect("removed");
    days.desk.expect(14, &["repair", "log", "one"]);
    let told = days.desk.run(&["lifecycle"]);
    assert!(!told.out.contains("forgotten there, too") && !told.err.contains("forgotten there, too"), "{told:?}");
    nothing_is_lost(&days, &[(&first, 0, "two")]);
}

/// To give up what is damaged is not to give up what is whole.
#[test]
fn what_is_given_up_takes_nothing_with_it() {
    let (days, first, second) = damaged_after();
    days.desk.run(&["heal"]);
    let told = days.desk.expect(14, &["forget", "--keep-last", "1"]);
    assert!(told.err.contains("`holdfast undelete`") && told.err.contains("gives it up"), "{}", told.err);
    // Nor is the store that has it whole.
    let told = days.desk.expect(17, &["retire", "two"]);
    assert!(told.err.contains("whole at no other store than two"), "{}", told.err);
    days.desk.expect(0, &["forget", &second]);
    is_told(&days, &["heal"], &[&first]);
    days.desk.expect(17, &["retire", "two"]);
    nothing_is_lost(&days, &[(&first, 0, "two")]);
}

/// What is damaged, and lies nowhere else, is still all there is; who asks how it stands is told.
#[test]
fn damage_is_told_and_is_no_reason_to_give_up() {
    let mut days = Days::new(&["one", "two"], RULES);
    let going = days.next(0, &[]);
    days.desk.expect(0, &["forget", &going]);
    let before = days.objects("one", "data");
    days.takes_away("two");
    let second = days.next(4, &[]);
    days.brings_back("two");
    days.spoil("one", "data", &before, false);
    std::fs::remove_file(days.desk.at("src/file")).expect("removed");
    days.desk.expect(17, &["retire", "one"]);
    assert_eq!(days.desk.run(&["status"]).code, Some(4));
    days.desk.expect(14, &["verify", "--read-data"]);
    let told = days.desk.expect(17, &["retire", "one"]);
    assert!(told.err.contains("1 snapshots are whole at no other store than one"), "{}", told.err);
    let told = days.desk.expect(14, &["status"]);
    assert!(told.out.contains(" damaged ") && told.err.contains("1 snapshot of those it holds, not whole"), "{told:?}");
    let told = days.desk.expect(1, &["doctor"]);
    assert!(told.out.contains("one: snapshots that are not whole: 1"), "{}", told.out);
    // Where a store is away, nobody is told to give up what it may have.
    days.without("two", |desk| {
        let told = desk.run(&["prune"]);
        assert!(told.err.contains("at no store that answers") && !told.err.contains("gives it up"), "{}", told.err);
    });
    let told = days.desk.run(&["prune"]);
    assert!(told.err.contains("whole nowhere") && told.err.contains("gives it up"), "{}", told.err);
    days.desk.expect(0, &["forget", &second]);
    days.desk.expect(0, &["status"]);
    days.comes_back(&id_of(&days, 0), 0, "one");
}

/// Another source, with so many lines in it.
fn other_source(days: &Days, words: usize) {
    std::fs::create_dir_all(days.desk.at("src2")).expect("made");
    days.desk.write("src2/x", &"some words\n".repeat(words));
    days.desk.expect(0, &["backup", "--no-heal", "src2"]);
}

fn loses_slot(days: &Days, store: &str, slot: u64) {
    std::fs::remove_file(days.desk.at(&format!("stores/{store}/log/00000001/{slot:020}"))).expect("removed");
    let _ = std::fs::remove_dir_all(days.desk.at(&format!("stores/{store}/checkpoints")));
    let _ = std::fs::remove_dir_all(days.desk.at("state"));
}

/// The log is made again of a store that alone stands on something, and has part of it damaged.
#[test]
fn a_repair_that_misses_the_last_of_a_source_waits() {
    for object in [false, true] {
        let days = Days::new(&["one", "two"], RULES);
        let first = id_of(&days, 0);
        let (packs, objects) = (days.objects("one", "data"), days.objects("one", "snapshots"));
        other_source(&days, 1);
        other_source(&days, 1);
        days.without("one", |desk| desk.expect(4, &["forget", "--group-by", "host", "--keep-last", "1"]));
        is_told(&days, &["heal"], &[&first]);
        is_told(&days, &["status"], &[&first]);
        is_told(&days, &["prune"], &[&first]);
        match object {
            true => std::fs::remove_file(&objects[0]).expect("removed"),
            false => packs.iter().for_each(|pack| {
                let bytes = std::fs::read(pack).expect("there");
                std::fs::remove_file(pack).expect("removed");
                std::fs::write(pack, &bytes[..bytes.len() / 2]).expect("written");
            }),
        }
        loses_slot(&days, "one", 3);
        if object {
            // All of it is there, and what it is the other store knows.
            days.desk.expect(0, &["repair", "log", "one"]);
            is_told(&days, &["heal"], &[&first]);
            nothing_is_lost(&days, &[(&first, 0, "one")]);
        } else {
            let told = days.desk.expect(14, &["repair", "log", "one"]);
            assert!(told.err.contains("the last of its source") && told.err.contains(&first[..8]), "{}", told.err);
            let told = days.desk.expect(4, &["undelete", &first]);
            assert!(told.out.contains(" is back as "), "{}", told.out);
            days.desk.expect(4, &["repair", "log", "one"]);
            days.desk.expect(0, &["heal"]);
            days.comes_back(&id_of(&days, 0), 0, "one");
        }
    }
}

/// Rules for wider groups than the configuration's settle nothing between narrower ones.
#[test]
fn a_wider_group_settles_nothing() {
    let (days, first, second) = disputed(RULES);
    other_source(&days, 1);
    let told = days.desk.expect(0, &["heal", "--dry-run"]);
    assert!(told.err.contains(&first[..8]) && told.err.contains(&second[..8]), "{}", told.err);
    is_told(&days, &["forget", "--group-by", "host", "--keep-last", "9", "--dry-run"], &[&first, &second]);
    is_told(&days, &["forget", "--group-by", "host", "--keep-last", "9"], &[&first, &second]);
    nothing_is_lost(&days, &[(&first, 0, "two"), (&second, 1, "one")]);
}

/// The configuration's groups are the sources: narrower ones are not settled by wider rules, and wider ones dispute nothing.
#[test]
fn sources_are_the_groups_of_the_configuration() {
    let rules = RULES.replace("keep_last = 1", "keep_last = 1\ngroup_by = \"host,paths,tags\"");
    let mut days = Days::new(&["one", "two"], &rules);
    let first = days.next(0, &["--tag", "weekly"]);
    let second = days.next(0, &["--tag", "weekly"]);
    days.next(0, &["--tag", "daily"]);
    days.without("one", |desk| desk.expect(4, &["forget", &second]));
    days.without("two", |desk| desk.expect(4, &["forget"]));
    is_told(&days, &["lifecycle"], &[&first, &second]);
    for by in ["host,paths", "host", ""] {
        is_told(&days, &["forget", "--group-by", by, "--keep-last", "9"], &[&first, &second]);
    }
    nothing_is_lost(&days, &[(&first, 1, "two"), (&second, 2, "one")]);
    // A source whose paths change, where a machine is a group.
    let rules = RULES.replace("keep_last = 1", "keep_last = 1\ngroup_by = \"host\"");
    let days = Days::new(&["one", "two"], &rules);
    other_source(&days, 1);
    days.without("two", |desk| desk.expect(4, &["forget"]));
    days.desk.expect(0, &["backup", "src2"]);
    for words in [&["forget"][..], &["status"], &["prune"], &["lifecycle"]] {
        days.desk.expect(0, words);
    }
    assert_eq!(days.objects("one", "data").len() + days.objects("two", "data").len(), 2, "of the source that is left");
}

/// A store that lags by a forget alone has it from the next backup, so that a name given later is the last of its source.
#[test]
fn a_backup_brings_what_was_forgotten() {
    let mut days = Days::new(&["one", "two"], RULES);
    let second = days.next(0, &[]);
    days.without("two", |desk| desk.expect(4, &["forget", "--keep-last", "1"]));
    days.desk.write("src2", "words");
    days.desk.expect(0, &["backup", "src2"]);
    days.desk.expect(0, &["forget", &second]);
    for words in [&["status"][..], &["lifecycle"], &["prune"]] {
        days.desk.expect(0, words);
    }
}

/// A log that was made again stands on an object of its own; where that is lost, the other's says what it is.
#[test]
fn two_objects_of_one_snapshot() {
    let days = Days::new(&["one", "two", "three"], RULES);
    let path = days.desk.at("holdfast.toml");
    let text = std::fs::read_to_string(&path).expect("there");
    std::fs::write(&path, text.replace("memory =", "write_quorum = 1\nmemory =")).expect("written");
    let first = id_of(&days, 0);
    other_source(&days, 1);
    loses_slot(&days, "one", 2);
    let before = days.objects("one", "snapshots");
    days.desk.expect(0, &["repair", "log", "one"]);
    days.takes_away("one");
    days.takes_away("two");
    days.desk.expect(4, &["forget", &first]);
    days.brings_back("one");
    days.brings_back("two");
    let own: Vec<_> = days.objects("one", "snapshots").into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(own.len(), 2, "they have names of their own there");
    own.iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
    is_told(&days, &["heal"], &[&first]);
    nothing_is_lost(&days, &[(&first, 0, "two")]);
}

/// What is named goes whatever else is wrong there.
#[test]
fn a_name_waits_for_nothing() {
    let days = Days::new(&["one", "two"], RULES);
    let first = id_of(&days, 0);
    let before = [days.objects("one", "data"), days.objects("two", "data")];
    other_source(&days, 50_000);
    days.without("two", |desk| desk.expect(4, &["forget", &first]));
    days.spoil("one", "data", &before[0], false);
    days.spoil("two", "data", &before[1], false);
    days.desk.expect(14, &["verify", "--read-data"]);
    let told = days.desk.expect(14, &["status"]);
    assert!(told.err.contains("forgotten in another log") && told.err.contains(&first[..8]), "{}", told.err);
    days.desk.expect(0, &["forget", &first]);
    let told = days.desk.expect(14, &["status"]);
    assert!(!told.err.contains("forgotten in another log"), "{}", told.err);
}

/// What is damaged, and was forgotten for what is whole elsewhere, is no reason to wait.
#[test]
fn a_repair_waits_for_nothing_that_was_forgotten_for_something_whole() {
    let mut days = Days::new(&["one", "two"], RULES);
    let packs = days.objects("one", "data");
    other_source(&days, 1);
    days.takes_away("one");
    days.next(4, &[]);
    days.desk.expect(4, &["forget", "--keep-last", "1"]);
    days.brings_back("one");
    for pack in packs {
        std::fs::write(&pack, b"nothing that was").or_else(|_| std::fs::remove_file(&pack)).expect("spoilt");
    }
    loses_slot(&days, "one", 2);
    days.desk.expect(4, &["repair", "log", "one"]);
    days.desk.expect(0, &["heal"]);
    days.comes_back(&id_of(&days, 0), 1, "one");
}

/// Who wants all of a source to go says so twice, where a store was away the first time.
#[test]
fn all_of_a_source_goes_when_it_is_said_again() {
    let mut days = Days::new(&["one", "two"], RULES);
    days.next(0, &[]);
    let path = days.desk.at("src").to_str().expect("UTF-8").to_owned();
    let all = ["forget", "--unsafe-allow-remove-all", "--path", &path];
    days.without("two", |desk| desk.expect(4, &all));
    is_told(&days, &["heal"], &[]);
    days.desk.expect(0, &all);
    days.desk.expect(0, &["heal"]);
    days.desk.expect(0, &["prune"]);
    assert_eq!(days.objects("one", "data").len() + days.objects("two", "data").len(), 0);
}
