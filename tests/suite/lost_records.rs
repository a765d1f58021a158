//! Records that are lost, and what looks like nothing then: nothing is removed that they told of, and nothing comes back to use that they
//! took out of it.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::desk::Desk;
use crate::support::source_tree::noise;
use crate::support::stage::files_below;

fn objects(desk: &Desk, place: &str) -> Vec<PathBuf> {
    let below = desk.at(&format!("stores/{place}"));
    let name = |name: Vec<u8>| below.join(String::from_utf8(name).expect("plain").replace('\0', "/"));
    files_below(&below).into_keys().map(name).collect()
}

fn flip(path: &PathBuf) {
    let mut bytes = std::fs::read(path).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).expect("removed");
    std::fs::write(path, bytes).expect("written");
}

fn slot(store: &str, n: u64) -> String {
    format!("stores/{store}/log/00000001/{n:020}")
}

/// A machine that remembers nothing.
fn forget_state(desk: &Desk) {
    let _ = std::fs::remove_dir_all(desk.at("state"));
}

fn backup(desk: &Desk, n: u64, more: &[&str]) {
    std::fs::write(desk.at(&format!("src/file-{n}")), noise(n, 300_000)).expect("written");
    desk.expect(0, &[&["backup", "src"], more].concat());
}

fn comes_back(desk: &Desk, from: &[&str]) {
    let target = tempfile::tempdir_in(desk.at("")).expect("a folder");
    let (what, below) = (format!("latest:{}", desk.at("src").display()), target.path().join("back"));
    desk.expect(0, &[&["restore", &what, "--target", below.to_str().expect("UTF-8")], from].concat());
    assert!(files_below(&below) == files_below(&desk.at("src")));
}

/// Half of the newest snapshot is whole at one store only, half at the other, and the log of one of them is made again.
#[test]
fn what_two_stores_have_between_them() {
    for repair in [true, false] {
        let desk = Desk::new(&["a", "b"], "");
        backup(&desk, 1, &["--init"]);
        let first = objects(&desk, "a/data");
        backup(&desk, 2, &[]);
        let second: Vec<PathBuf> = objects(&desk, "b/data")
            .into_iter()
            .filter(|p| !first.iter().any(|f| f.ends_with(p.strip_prefix(desk.at("stores/b")).expect("below"))))
            .collect();
        second.iter().for_each(flip);
        desk.expect(14, &["verify", "--read-data", "--from", "b"]);
        first.iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
        if repair {
            flip(&desk.at(&slot("a", 3)));
            let told = desk.run(&["repair", "log", "a"]);
            assert_ne!(told.code, Some(0), "{told:?}");
        } else {
            desk.expect(14, &["verify"]);
        }
        comes_back(&desk, &[]);
        for _ in 0..2 {
            let told = desk.run(&["prune", "--mercy", "0s"]);
            assert!(!repair || told.code != Some(0), "{told:?}");
        }
        comes_back(&desk, &[]);
        desk.run(&["heal"]);
        desk.run(&["repair", "log", "a"]);
        desk.expect(0, &["heal"]);
        desk.expect(0, &["prune", "--mercy", "0s"]);
        desk.expect(0, &["verify", "--read-data"]);
        comes_back(&desk, &["--from", "a"]);
        comes_back(&desk, &["--from", "b"]);
    }
}

/// A list that a record names is lost: the log can be read up to that record, and is made again from the rest.
#[test]
fn a_list_is_lost() {
    for stores in [&["a"][..], &["a", "b"]] {
        let desk = Desk::new(stores, "");
        backup(&desk, 1, &["--init"]);
        let folder = desk.at("stores/a/data/00");
        std::fs::create_dir_all(&folder).expect("made");
        for n in 0..4_200 {
            std::fs::write(folder.join(format!("00{n:062x}")), "junk").expect("written");
        }
        desk.expect(0, &["prune", "--mercy", "0s"]);
        backup(&desk, 2, &[]);
        let lists = objects(&desk, "a/lists");
        assert!(!lists.is_empty());
        lists.iter().for_each(flip);
        let told = desk.run(&["snapshots"]);
        assert!(told.err.contains("names a list that cannot be read"), "{told:?}");
        desk.expect(0, &["repair", "log", "a"]);
        desk.expect(0, &["heal"]);
        desk.expect(0, &["verify", "--read-data"]);
        comes_back(&desk, &["--from", "a"]);
    }
}

/// A slot is taken away, and nobody knows how far the log went: whichever it is, nothing behind it is taken for never written.
#[test]
fn a_slot_in_the_middle_is_missing() {
    let desk = Desk::new(&["a"], "");
    backup(&desk, 0, &["--init"]);
    for n in 1..6 {
        backup(&desk, n, &[]);
    }
    let slots = objects(&desk, "a/log").len() as u64;
    for (from, to) in (2..slots).map(|n| (n, n)).chain([(3, 5), (4, slots - 1)]) {
        let gone: Vec<(PathBuf, Vec<u8>)> = (from..=to)
            .map(|n| desk.at(&slot("a", n)))
            .map(|path| (path.clone(), std::fs::read(&path).expect("there")))
            .collect();
        gone.iter().for_each(|(path, _)| std::fs::remove_file(path).expect("removed"));
        let before = objects(&desk, "a");
        for words in [&["verify"][..], &["prune", "--mercy", "0s"]] {
            forget_state(&desk);
            let told = desk.run(words);
            assert_eq!(told.code, Some(15), "{from}-{to} {words:?}: {told:?}");
            assert_eq!(objects(&desk, "a"), before, "{from}-{to} {words:?}");
        }
        gone.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("written"));
    }
    forget_state(&desk);
    std::fs::remove_file(desk.at(&slot("a", 6))).expect("removed");
    desk.expect(0, &["repair", "log", "a"]);
    comes_back(&desk, &[]);
}

/// A key that other stores hold is missing at one: who has that store alone could not open it.
#[test]
fn a_key_is_missing_at_one_store() {
    let desk = Desk::new(&["a", "b"], "");
    backup(&desk, 1, &["--init"]);
    let before = objects(&desk, "b/keys");
    desk.expect(0, &["key", "generate", "second"]);
    desk.expect(0, &["key", "add", "--new-key-file", "second"]);
    for path in objects(&desk, "b/keys").iter().filter(|path| !before.contains(path)) {
        std::fs::remove_file(path).expect("removed");
    }
    let told = desk.expect(4, &["verify"]);
    assert!(told.out.contains("b: key ") && told.out.contains("`holdfast heal` brings it"), "{}", told.out);
    desk.expect(0, &["heal"]);
    desk.expect(0, &["verify"]);
}

/// What a lost record condemned comes back to a store whose log was made again: not under its name.
#[test]
fn a_void_object_turns_up_again() {
    let desk = Desk::new(&["a"], "");
    backup(&desk, 1, &["--init"]);
    let first = objects(&desk, "a/data");
    std::fs::remove_file(desk.at("src/file-1")).expect("removed");
    backup(&desk, 2, &[]);
    let kept: Vec<(PathBuf, Vec<u8>)> = first.iter().map(|path| (path.clone(), std::fs::read(path).expect("there"))).collect();
    desk.expect(0, &["forget", "--keep-last", "1"]);
    let known = objects(&desk, "a/log/00000001").len() as u64;
    desk.expect(0, &["prune", "--mercy", "0s", "--max-unused", "0"]);
    let last = objects(&desk, "a/log/00000001").len() as u64;
    let condemned = kept.iter().filter(|(path, _)| !path.exists()).count();
    assert!(condemned > 0);
    (known + 1..=last).map(|n| desk.at(&slot("a", n))).for_each(|path| flip(&path));
    desk.expect(0, &["repair", "log", "a"]);
    for (path, bytes) in &kept {
        std::fs::write(path, bytes).expect("written");
    }
    let before = objects(&desk, "a/data");
    desk.expect(0, &["repair", "index", "a"]);
    let named =
        |text: &str| kept.iter().any(|(path, _)| text.contains(path.file_name().and_then(|name| name.to_str()).expect("a name")));
    assert!(!named(&desk.run(&["verify", "--read-data"]).out));
    assert!(objects(&desk, "a/data").len() > before.len(), "whatever was of use in them lies in packs of other names");
    // Nothing relies on them: whoever deletes them late does no harm.
    kept.iter().for_each(|(path, _)| std::fs::remove_file(path).expect("removed"));
    desk.expect(0, &["verify", "--read-data"]);
    comes_back(&desk, &[]);
}

/// A key that was withdrawn opens no store by itself: not one whose record of that was lost, nor one that was away.
#[test]
fn a_withdrawn_key_stays_withdrawn() {
    for lost in [true, false] {
        let desk = Desk::new(&["a", "b"], "");
        backup(&desk, 1, &["--init"]);
        desk.expect(0, &["key", "generate", "second"]);
        desk.expect(0, &["key", "add", "--new-key-file", "second", "--label", "spare"]);
        let keys: Value = serde_json::from_str(&desk.expect(0, &["key", "list", "--json"]).out).expect("JSON");
        let spare = keys.as_array().and_then(|all| all.iter().find(|key| key["label"] == "spare")).expect("listed");
        let spare = spare["id"].as_str().expect("an id");
        if lost {
            desk.expect(0, &["key", "remove", spare]);
            let last = objects(&desk, "a/log/00000001").len() as u64;
            flip(&desk.at(&slot("a", last)));
            desk.expect(0, &["repair", "log", "a"]);
        } else {
            std::fs::rename(desk.at("stores/a"), desk.at("away")).expect("moved");
            desk.run(&["key", "remove", spare]);
            std::fs::rename(desk.at("away"), desk.at("stores/a")).expect("moved back");
            desk.expect(0, &["heal"]);
        }
        desk.configure("[[store]]\nname = \"a\"\nurl = \"file:stores/a\"\n", "");
        desk.expect(0, &["snapshots"]);
        desk.expect(12, &["--key-file", "second", "snapshots"]);
    }
}

/// The first slot of an epoch that a repair began is lost: what its other records say counts all the same.
#[test]
fn the_first_slot_of_a_later_epoch_is_lost() {
    let desk = Desk::new(&["a"], "");
    backup(&desk, 1, &["--init"]);
    backup(&desk, 2, &[]);
    flip(&desk.at(&slot("a", 3)));
    desk.expect(0, &["repair", "log", "a"]);
    backup(&desk, 3, &[]);
    backup(&desk, 4, &[]);
    let listed = |desk: &Desk| -> Vec<String> {
        let all = desk.expect(0, &["--json", "snapshots"]).summary();
        all.as_array().expect("an array").iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
    };
    let before = listed(&desk);
    desk.expect(0, &["forget", &before[0], &before[1]]);
    let stays = listed(&desk);
    std::fs::remove_file(desk.at(&slot("a", 1).replace("00000001/", "00000002/"))).expect("removed");
    let _ = std::fs::remove_dir_all(desk.at("stores/a/checkpoints/00000002"));
    forget_state(&desk);
    // The first attempt has to begin the epoch anew before it can be ended.
    for _ in 0..3 {
        if desk.run(&["repair", "log", "a"]).code == Some(0) {
            break;
        }
    }
    assert_eq!(listed(&desk), stays);
    desk.expect(0, &["verify", "--read-data"]);
    comes_back(&desk, &[]);
}

/// Something that is named like a record, but far behind the last: nobody reads up to it.
#[test]
fn a_far_slot_is_no_record() {
    let desk = Desk::new(&["one"], "");
    backup(&desk, 0, &["--init"]);
    backup(&desk, 1, &[]);
    let far = slot("one", 3 << 20);
    desk.write(&far, "not ours");
    for words in [&["prune"][..], &["verify"]] {
        let told = desk.expect(15, words);
        assert!(told.err.contains("00000000000003145728"), "{}", told.err);
    }
    let told = desk.expect(14, &["repair", "log", "one"]);
    assert!(told.err.contains("no record of this log: take it away"), "{}", told.err);
    comes_back(&desk, &[]);
    std::fs::remove_file(desk.at(&far)).expect("taken away");
    desk.expect(0, &["prune"]);
    desk.expect(0, &["verify", "--read-data"]);
}
