//! What operators do to stores behind the program's back, as the real binary meets it: slots of a log that are lost, a store
//! restored from an old state, stores exchanged, copied, or mixed with those of another repository. Each is refused with its
//! code before anything is written there, the message names the way out, and the way out ends in a clean verify.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::commands::{CONFIG, Desk, files, lines};
use crate::support::stage::files_below;

/// Three backups, each with something new.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.expect(0, &["backup", "--init"]);
    for round in 0..2 {
        another(&desk, round);
        desk.expect(0, &["backup"]);
    }
    desk
}

fn another(desk: &Desk, round: u64) {
    let noise = crate::support::source_tree::noise(800 + round, 40_000);
    std::fs::write(desk.at("src").join(format!("new-{round}")), noise).expect("written");
}

/// The configuration with these stores: name, and folder below `stores/`.
fn configure(desk: &Desk, stores: &[(&str, &str)]) {
    let (head, tail) = (CONFIG.split("[[store]]").next().expect("a head"), CONFIG.find("[[job]]").expect("a job"));
    let stores: String =
        stores.iter().map(|(name, folder)| format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{folder}\"\n")).collect();
    desk.write("holdfast.toml", &format!("{head}{stores}{}", &CONFIG[tail..]));
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let place = to.join(path.strip_prefix(from).expect("below it"));
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("made");
        std::fs::copy(path, place).expect("copied");
    }
}

/// All objects of a store, with their bytes.
fn objects(desk: &Desk, store: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let at = desk.at("stores").join(store);
    files(&at).into_iter().map(|path| (path.clone(), std::fs::read(path).expect("read"))).collect()
}

/// The slots of a store's log, in order.
fn slots(desk: &Desk, store: &str) -> Vec<PathBuf> {
    files(&desk.at("stores").join(store).join("log/00000001"))
}

/// All is well: verified in full, and the newest snapshot comes back from each of the stores alone as the source is now.
fn well(desk: &Desk, stores: &[&str]) {
    desk.expect(0, &["backup"]);
    desk.expect(0, &["status"]);
    let (out, _) = desk.expect(0, &["--json", "verify", "--read-data"]);
    assert_eq!(lines(&out).pop().expect("a summary")["num_errors"], 0, "{out}");
    for store in stores {
        let target = tempfile::tempdir().expect("a folder");
        let to = target.path().join("to");
        desk.expect(0, &["restore", "latest", "--from", store, "--target", to.to_str().expect("UTF-8")]);
        let back = to.join(desk.at("src").strip_prefix("/").expect("absolute"));
        assert!(files_below(&back) == files_below(&desk.at("src")), "store {store} gives back something else");
    }
}

/// A slot of one log of two is gone: nothing more is written there, and the log's repair is the way out.
#[test]
fn a_slot_lost_at_one_of_two_stores() {
    for last in [false, true] {
        let desk = desk();
        let all = slots(&desk, "one");
        assert!(all.len() >= 4, "{all:?}");
        let lost = if last { &all[all.len() - 1] } else { &all[all.len() / 2] };
        std::fs::remove_file(lost).expect("removed");
        let before = objects(&desk, "one");
        let (out, err) = desk.expect(15, &["verify"]);
        assert!(format!("{out}{err}").contains("holdfast repair log one"), "last: {last}\n{out}{err}");
        another(&desk, 10);
        let (out, err) = desk.expect(4, &["backup"]);
        let said = format!("{out}{err}");
        let story = if last { "rolled back or replaced" } else { "is missing although later slots exist" };
        assert!(said.contains(story) && said.contains("holdfast repair log one"), "last: {last}\n{said}");
        for words in [&["forget", "latest~2"][..], &["prune"], &["heal"]] {
            desk.expect(4, words);
        }
        assert!(objects(&desk, "one") == before, "last: {last}: something was written there");
        desk.expect(0, &["restore", "latest", "--target", "meanwhile"]);
        // What was backed up meanwhile lies at the other alone.
        let (out, err) = desk.expect(4, &["--json", "repair", "log", "one"]);
        assert_eq!(lines(&out).pop().expect("a summary")["epoch"], 2, "{out}");
        assert!(err.contains("another store holds it: run `holdfast heal`"), "{err}");
        desk.expect(0, &["heal"]);
        well(&desk, &["one", "two"]);
    }
}

/// The only log there is lost a slot. This machine remembers where it was.
#[test]
fn a_slot_lost_at_the_only_store() {
    for last in [false, true] {
        let desk = Desk::new();
        configure(&desk, &[("one", "one")]);
        desk.expect(0, &["backup", "--init"]);
        for round in 0..2 {
            another(&desk, round);
            desk.expect(0, &["backup"]);
        }
        let all = slots(&desk, "one");
        let lost = if last { &all[all.len() - 1] } else { &all[all.len() / 2] };
        std::fs::remove_file(lost).expect("removed");
        let before = objects(&desk, "one");
        for words in
            [&["backup"][..], &["verify"], &["prune"], &["forget", "--keep-last", "1"], &["restore", "latest", "--target", "x"]]
        {
            let (out, err) = desk.expect(15, words);
            assert!(format!("{out}{err}").contains("holdfast repair log one"), "last: {last}, {words:?}\n{out}{err}");
        }
        assert!(objects(&desk, "one") == before, "last: {last}: something was written there");
        let (out, _) = desk.expect(0, &["--json", "repair", "log", "one"]);
        let summary = lines(&out).pop().expect("a summary");
        assert_eq!(
            (&summary["snapshots"], &summary["not_whole"]),
            (&3.into(), &serde_json::json!([])),
            "last: {last}: {summary}"
        );
        // What the lost slot committed comes back before anything is backed up anew.
        desk.expect(0, &["restore", "latest", "--target", "to"]);
        let back = desk.at("to").join(desk.at("src").strip_prefix("/").expect("absolute"));
        assert!(files_below(&back) == files_below(&desk.at("src")), "last: {last}");
        well(&desk, &["one"]);
    }
}

/// A store is restored from an old state of its own.
#[test]
fn a_store_rolled_back() {
    let desk = desk();
    std::fs::create_dir(desk.at("old")).expect("made");
    copy(&desk.at("stores/one"), &desk.at("old"));
    for round in 20..22 {
        another(&desk, round);
        desk.expect(0, &["backup"]);
    }
    std::fs::rename(desk.at("stores/one"), desk.at("newer")).expect("moved");
    std::fs::rename(desk.at("old"), desk.at("stores/one")).expect("moved");
    let before = objects(&desk, "one");
    let (out, err) = desk.expect(15, &["verify"]);
    assert!(format!("{out}{err}").contains("rolled back or replaced"), "{out}{err}");
    another(&desk, 22);
    let (out, err) = desk.expect(4, &["backup"]);
    assert!(format!("{out}{err}").contains("bring back what was there, or let `holdfast repair log one`"), "{out}{err}");
    assert!(objects(&desk, "one") == before);
    // One way out: what was there comes back, and is healed of what it missed.
    std::fs::rename(desk.at("stores/one"), desk.at("old")).expect("moved");
    std::fs::rename(desk.at("newer"), desk.at("stores/one")).expect("moved");
    desk.expect(0, &["heal"]);
    well(&desk, &["one", "two"]);
    // The other: the old state is all there is.
    std::fs::rename(desk.at("stores/one"), desk.at("newer")).expect("moved");
    std::fs::rename(desk.at("old"), desk.at("stores/one")).expect("moved");
    desk.expect(15, &["verify"]);
    let (_, err) = desk.expect(4, &["repair", "log", "one"]);
    assert!(err.contains("another store holds it: run `holdfast heal`"), "{err}");
    desk.expect(0, &["heal"]);
    well(&desk, &["one", "two"]);
    // Had it been a mistake after all: the newer state is of a log that has ended by now.
    std::fs::rename(desk.at("stores/one"), desk.at("repaired")).expect("moved");
    std::fs::rename(desk.at("newer"), desk.at("stores/one")).expect("moved");
    desk.expect(15, &["verify"]);
    std::fs::rename(desk.at("stores/one"), desk.at("newer")).expect("moved");
    std::fs::rename(desk.at("repaired"), desk.at("stores/one")).expect("moved");
    well(&desk, &["one", "two"]);
}

/// The only store is restored from an old state: what came later is lost with it, and what it holds goes on.
#[test]
fn the_only_store_rolled_back() {
    let desk = Desk::new();
    configure(&desk, &[("one", "one")]);
    desk.expect(0, &["backup", "--init"]);
    std::fs::create_dir(desk.at("old")).expect("made");
    copy(&desk.at("stores/one"), &desk.at("old"));
    another(&desk, 30);
    desk.expect(0, &["backup"]);
    std::fs::rename(desk.at("stores/one"), desk.at("newer")).expect("moved");
    std::fs::rename(desk.at("old"), desk.at("stores/one")).expect("moved");
    let before = objects(&desk, "one");
    for words in [&["backup"][..], &["verify"], &["prune"], &["restore", "latest", "--target", "x"]] {
        let (out, err) = desk.expect(15, words);
        assert!(format!("{out}{err}").contains("rolled back or replaced"), "{words:?}\n{out}{err}");
    }
    assert!(objects(&desk, "one") == before);
    let (out, _) = desk.expect(0, &["--json", "repair", "log", "one"]);
    assert_eq!(lines(&out).pop().expect("a summary")["snapshots"], 1, "{out}");
    well(&desk, &["one"]);
}

/// The folders of two stores change places: a replica is what its log says, whatever it is called.
#[test]
fn two_stores_exchanged() {
    let desk = desk();
    // They are not equal either: one of them lacks a snapshot.
    std::fs::rename(desk.at("stores/two"), desk.at("away")).expect("moved");
    another(&desk, 40);
    desk.expect(4, &["backup"]);
    std::fs::rename(desk.at("away"), desk.at("stores/two")).expect("moved");
    configure(&desk, &[("one", "two"), ("two", "one")]);
    let before = (objects(&desk, "one"), objects(&desk, "two"));
    let (out, err) = desk.expect(4, &["status", "--json"]);
    // The names are the configuration's; each folder holds what the other held.
    let told = format!("{out}{err}");
    assert!(told.contains("holds the replica that lay at store"), "{told}");
    let status = lines(&out).pop().expect("a summary");
    let missing = |name: &str| {
        let replicas = status["replicas"].as_array().expect("replicas");
        replicas.iter().find(|r| r["name"] == name).expect("there")["snapshots_missing"].clone()
    };
    assert_eq!((missing("one"), missing("two")), (1.into(), 0.into()), "{status}");
    assert!((objects(&desk, "one"), objects(&desk, "two")) == before);
    let (out, _) = desk.expect(0, &["--json", "heal"]);
    let summary = lines(&out).pop().expect("a summary");
    assert_eq!(
        (&summary["replicas"][0]["snapshots_healed"], &summary["replicas"][1]["snapshots_healed"]),
        (&1.into(), &0.into())
    );
    assert!(objects(&desk, "one") == before.0, "the folder that lacked nothing got nothing");
    well(&desk, &["one", "two"]);
    configure(&desk, &[("one", "one"), ("two", "two")]);
    well(&desk, &["one", "two"]);
}

/// A copy of a store is configured beside it, and in the place of another.
#[test]
fn a_copy_beside_its_original() {
    let desk = desk();
    copy(&desk.at("stores/one"), &desk.at("stores/three"));
    for stores in [&[("one", "one"), ("two", "two"), ("three", "three")][..], &[("one", "one"), ("three", "three")]] {
        configure(&desk, stores);
        let before = ["one", "two", "three"].map(|store| objects(&desk, store));
        for words in [&["backup"][..], &["verify"], &["heal"], &["prune"], &["restore", "latest", "--target", "x"]] {
            let (_, err) = desk.expect(2, words);
            assert!(err.contains("stores one and three are one and the same replica: configure it once"), "{words:?}\n{err}");
        }
        assert!(["one", "two", "three"].map(|store| objects(&desk, store)) == before);
    }
    // Emptied, it becomes a replica of its own.
    configure(&desk, &[("one", "one"), ("two", "two"), ("three", "three")]);
    std::fs::remove_dir_all(desk.at("stores/three")).expect("removed");
    std::fs::create_dir(desk.at("stores/three")).expect("made");
    let (out, _) = desk.expect(0, &["--json", "heal"]);
    let summary = lines(&out).pop().expect("a summary");
    assert_eq!(
        (&summary["replicas"][2]["new"], &summary["replicas"][2]["snapshots_healed"]),
        (&true.into(), &3.into()),
        "{summary}"
    );
    well(&desk, &["one", "two", "three"]);
}

/// A store moves to another place: it stays the replica that it was. Its old place, used again, is an old state of it.
#[test]
fn a_copy_in_place_of_its_original() {
    let desk = desk();
    copy(&desk.at("stores/one"), &desk.at("stores/moved"));
    configure(&desk, &[("one", "moved"), ("two", "two")]);
    another(&desk, 50);
    well(&desk, &["one", "two"]);
    configure(&desk, &[("one", "one"), ("two", "two")]);
    let before = objects(&desk, "one");
    desk.expect(15, &["verify"]);
    another(&desk, 51);
    let (out, err) = desk.expect(4, &["backup"]);
    assert!(format!("{out}{err}").contains("holdfast repair log one"), "{out}{err}");
    assert!(objects(&desk, "one") == before);
    desk.expect(4, &["repair", "log", "one"]);
    desk.expect(0, &["heal"]);
    well(&desk, &["one", "two"]);
}

/// Two machines go on with two copies of one store: each is right for itself, and neither is taken for the other.
#[test]
fn two_copies_that_parted() {
    let desk = Desk::new();
    configure(&desk, &[("one", "one")]);
    desk.expect(0, &["backup", "--init"]);
    copy(&desk.at("stores/one"), &desk.at("stores/copy"));
    let elsewhere = |folder: &str, state: &str| {
        configure(&desk, &[("one", folder)]);
        let config = std::fs::read_to_string(desk.at("holdfast.toml")).expect("written");
        desk.write("holdfast.toml", &config.replace("state_dir = \"state\"", &format!("state_dir = \"{state}\"")));
    };
    elsewhere("copy", "state-of-another");
    another(&desk, 60);
    for _ in 0..2 {
        desk.expect(0, &["backup"]);
    }
    elsewhere("one", "state");
    another(&desk, 61);
    desk.expect(0, &["backup"]);
    // The copy is longer, and no continuation of what this machine saw.
    elsewhere("copy", "state");
    let before = objects(&desk, "copy");
    for words in [&["backup"][..], &["verify"]] {
        let (out, err) = desk.expect(15, words);
        assert!(format!("{out}{err}").contains("rolled back or replaced"), "{words:?}\n{out}{err}");
    }
    assert!(objects(&desk, "copy") == before);
    elsewhere("one", "state");
    well(&desk, &["one"]);
    elsewhere("copy", "state-of-another");
    well(&desk, &["one"]);
}

/// A store of another repository among those of this one.
#[test]
fn a_store_of_another_repository() {
    let desk = desk();
    configure(&desk, &[("one", "theirs")]);
    desk.expect(0, &["backup", "--init"]);
    configure(&desk, &[("one", "one"), ("two", "theirs")]);
    let before = ["one", "two", "theirs"].map(|store| objects(&desk, store));
    for words in
        [&["backup"][..], &["backup", "--init"], &["init"], &["verify"], &["heal"], &["prune"], &["repair", "log", "two"]]
    {
        let (_, err) = desk.expect(2, words);
        assert!(err.contains("stores one and two hold different repositories"), "{words:?}\n{err}");
    }
    assert!(["one", "two", "theirs"].map(|store| objects(&desk, store)) == before);
    configure(&desk, &[("one", "one"), ("two", "two")]);
    well(&desk, &["one", "two"]);
    configure(&desk, &[("one", "theirs")]);
    well(&desk, &["one"]);
}
