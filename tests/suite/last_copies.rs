//! The last good copy of something, in every order in which damage, outages and rules may come: none gives it up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::desk::Desk;
use crate::support::source_tree::noise;
use crate::support::stage::files_below;

pub const RULES: &str = "[retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"0 s\"\nforget_limit = \"100%\"\n[prune]\nmercy = \"0 s\"\nmax_unused = \"0 B\"\n";

/// What `src` was, by the day it was backed up.
pub struct Days {
    pub desk: Desk,
    was: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Days {
    pub fn new(stores: &[&str], more: &str) -> Days {
        let mut days = Days { desk: Desk::new(stores, more), was: Vec::new() };
        days.next(0, &[]);
        days
    }

    /// A backup of new content, with these words.
    pub fn next(&mut self, code: i32, words: &[&str]) -> String {
        let day = self.was.len() as u64;
        std::fs::write(self.desk.at("src/file"), noise(day, 700_000)).expect("written");
        self.was.push(files_below(&self.desk.at("src")));
        let time = format!("2026-01-0{} 10:00:00", day + 1);
        let init: &[&str] = if day == 0 { &["--init"] } else { &[] };
        let first = ["--json", "backup", "--no-heal", "--time", &time, "src"];
        let told = self.desk.expect(code, &[&first, init, words].concat());
        told.summary()["snapshot_id"].as_str().expect("an id").to_owned()
    }

    pub fn objects(&self, store: &str, kind: &str) -> Vec<PathBuf> {
        let below = self.desk.at(&format!("stores/{store}/{kind}"));
        let name = |name: Vec<u8>| below.join(String::from_utf8(name).expect("plain").replace('\0', "/"));
        files_below(&below).into_keys().map(name).collect()
    }

    /// Spoils the objects of a kind at a store that came with the last backup, by a bit or by being lost.
    pub fn spoil(&self, store: &str, kind: &str, before: &[PathBuf], lose: bool) {
        for path in self.objects(store, kind).into_iter().filter(|path| !before.contains(path)) {
            let mut bytes = std::fs::read(&path).expect("there");
            std::fs::remove_file(&path).expect("removed");
            if !lose {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&path, bytes).expect("written");
            }
        }
    }

    pub fn without<T>(&self, store: &str, work: impl FnOnce(&Desk) -> T) -> T {
        self.takes_away(store);
        let done = work(&self.desk);
        self.brings_back(store);
        done
    }

    pub fn takes_away(&self, store: &str) {
        std::fs::rename(self.desk.at(&format!("stores/{store}")), self.desk.at(&format!("away-{store}"))).expect("moved");
    }

    pub fn brings_back(&self, store: &str) {
        std::fs::rename(self.desk.at(&format!("away-{store}")), self.desk.at(&format!("stores/{store}"))).expect("moved back");
    }

    /// The snapshot of a day comes back from a store.
    pub fn comes_back(&self, id: &str, day: usize, from: &str) {
        let target = tempfile::tempdir_in(self.desk.at("")).expect("a folder");
        let below = target.path().join("back");
        let what = format!("{id}:{}", self.desk.at("src").display());
        self.desk.expect(0, &["restore", &what, "--from", from, "--target", below.to_str().expect("UTF-8")]);
        assert!(files_below(&below) == self.was[day], "{id} from {from}");
    }
}

pub fn id_of(days: &Days, n: usize) -> String {
    let all = days.desk.expect(0, &["--json", "snapshots"]).summary();
    all[n]["id"].as_str().expect("an id").to_owned()
}

/// What stays is damaged, and the first to meet that is the prune that would remove what went for it.
#[test]
fn what_prune_is_the_first_to_find() {
    for by_hand in [true, false] {
        let mut days = Days::new(&["one"], RULES);
        let first = id_of(&days, 0);
        let before = days.objects("one", "data");
        days.next(0, &[]);
        days.spoil("one", "data", &before, true);
        if by_hand {
            days.desk.expect(0, &["forget", "--keep-last", "1"]);
            for _ in 0..2 {
                let told = days.desk.expect(14, &["prune"]);
                assert!(told.err.contains("nothing was condemned"), "{}", told.err);
            }
        } else {
            for _ in 0..2 {
                days.desk.expect(14, &["lifecycle"]);
            }
        }
        days.desk.expect(0, &["undelete", &first]);
        let id = id_of(&days, 0);
        days.comes_back(&id, 0, "one");
        // What is lost for good goes by its name, and then all is well.
        let lost = id_of(&days, 1);
        days.desk.expect(0, &["forget", &lost]);
        days.desk.expect(0, &["prune"]);
        days.desk.expect(0, &["verify", "--read-data"]);
        days.comes_back(&id, 0, "one");
    }
}

/// Two runs with other rules, each where the other was not: neither is carried on until somebody settles it.
#[test]
fn what_two_runs_kept_of_what_the_other_forgot() {
    for settle in ["undelete", "forget"] {
        let mut days = Days::new(&["one", "two"], RULES);
        let first = id_of(&days, 0);
        let second = days.next(0, &[]);
        days.without("one", |desk| desk.expect(4, &["forget", &second]));
        days.without("two", |desk| desk.expect(4, &["forget", "--keep-last", "1"]));
        for words in [&["heal"][..], &["lifecycle"], &["prune"], &["forget", "--keep-last", "1"], &["lifecycle"]] {
            let told = days.desk.expect(17, words);
            assert!(told.err.contains("nothing else of that source is left"), "{}", told.err);
        }
        if settle == "undelete" {
            days.without("two", |desk| desk.expect(4, &["undelete", &first]));
            // Said once more, it is no less behind.
            let told = days.desk.expect(4, &["undelete", &first]);
            assert!(told.out.contains("is there already") && told.err.contains("run `holdfast heal`"), "{told:?}");
            days.desk.expect(0, &["heal"]);
            days.desk.expect(0, &["undelete", &first]);
            days.desk.expect(0, &["lifecycle"]);
            let id = id_of(&days, 0);
            days.comes_back(&id, 0, "one");
            days.comes_back(&id, 0, "two");
        } else {
            days.desk.expect(0, &["forget", &first, &second]);
            days.desk.expect(0, &["lifecycle"]);
            assert_eq!(days.objects("one", "data").len() + days.objects("two", "data").len(), 0);
        }
    }
}

/// A copy that is known to be damaged stands in for nothing at its store; elsewhere the rules go on.
#[test]
fn a_damaged_copy_strips_its_store_of_nothing() {
    for kind in ["data", "snapshots"] {
        let mut days = Days::new(&["one", "two"], RULES);
        let first = id_of(&days, 0);
        let before = days.objects("one", kind);
        let second = days.next(0, &[]);
        days.spoil("one", kind, &before, kind == "snapshots");
        days.desk.expect(14, &["verify", "--read-data"]);
        // Nor is the only whole copy given up with its store.
        let told = days.desk.expect(17, &["retire", "two"]);
        assert!(told.err.contains("whole at no other store than two"), "{}", told.err);
        let told = days.desk.expect(4, &["forget", "--keep-last", "1"]);
        assert!(told.err.contains("one: it lacks a snapshot that stays") && !told.err.contains("two: "), "{}", told.err);
        days.desk.run(&["prune"]);
        days.without("two", |desk| {
            desk.run(&["prune"]);
            let all = desk.run(&["snapshots"]);
            assert!(all.out.contains(&first[..8]), "{all:?}");
        });
        days.without("two", |_| days.comes_back(&first, 0, "one"));
        days.desk.expect(0, &["lifecycle"]);
        for store in ["one", "two"] {
            days.comes_back(&second, 1, store);
        }
        assert_eq!(days.objects("one", "data").len(), days.objects("two", "data").len());
    }
}

/// While a store is away nobody knows what is whole there, and nobody says that it may go.
#[test]
fn what_only_an_absent_store_has_whole() {
    let mut days = Days::new(&["one", "two"], RULES);
    let before = days.objects("two", "data");
    let second = days.next(0, &[]);
    days.spoil("two", "data", &before, false);
    days.without("one", |desk| {
        desk.run(&["verify", "--read-data"]);
        let told = desk.expect(14, &["lifecycle"]);
        assert!(told.err.contains("at the stores that answer") && !told.err.contains("gives it up"), "{}", told.err);
    });
    days.desk.expect(0, &["lifecycle"]);
    days.comes_back(&second, 1, "one");
    days.comes_back(&second, 1, "two");
}

/// A heal that meets damage at another store on its way heals that, too, before it calls it complete.
#[test]
fn damage_that_heal_itself_is_the_first_to_find() {
    let mut days = Days::new(&["one", "two", "three"], "");
    std::fs::rename(days.desk.at("stores/three"), days.desk.at("away")).expect("moved");
    let before = days.objects("one", "data");
    let second = days.next(4, &[]);
    std::fs::rename(days.desk.at("away"), days.desk.at("stores/three")).expect("moved back");
    let stores = ["one", "two", "three"].map(|name| format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n"));
    days.desk.configure(&format!("prefer = [\"one\"]\n{}", stores.concat()), "");
    days.spoil("one", "data", &before, false);
    let told = days.desk.expect(0, &["heal"]);
    assert!(told.err.contains("store one: 1 damaged packs are distrusted from now on"), "{}", told.err);
    days.desk.expect(0, &["prune", "--mercy", "0s"]);
    days.desk.expect(0, &["verify", "--read-data"]);
    for store in ["one", "two", "three"] {
        days.comes_back(&second, 1, store);
    }
}

/// A store that lost its descriptor gets it from another, and one whose descriptor is damaged once that is taken away.
#[test]
fn a_lost_descriptor_comes_back() {
    for lose in [true, false] {
        let days = Days::new(&["one", "two"], "");
        let path = days.desk.at("stores/one/descriptor");
        let whole = std::fs::read(&path).expect("there");
        std::fs::remove_file(&path).expect("removed");
        if !lose {
            std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
            let told = days.desk.expect(4, &["heal"]);
            assert!(told.err.contains("take this one away"), "{}", told.err);
            std::fs::remove_file(&path).expect("removed");
        }
        let told = days.desk.expect(4, &["backup", "src"]);
        assert!(format!("{}{}", told.out, told.err).contains("`holdfast heal` brings it"), "{told:?}");
        days.desk.expect(0, &["heal"]);
        assert_eq!(std::fs::read(&path).expect("there"), whole);
        days.desk.expect(0, &["verify"]);
        days.comes_back(&id_of(&days, 0), 0, "one");
    }
}

/// Where no store has it any more, the keys say all that it said.
#[test]
fn a_descriptor_that_every_store_lost_is_made_again() {
    let mut days = Days::new(&["one", "two"], "");
    days.next(0, &[]);
    let path = |store: &str| days.desk.at(&format!("stores/{store}/descriptor"));
    let whole = std::fs::read(path("one")).expect("there");
    // As long as somebody has it, or may have it, nothing is made up.
    let told = days.desk.expect(17, &["repair", "descriptor", "one"]);
    assert!(told.err.contains("is there and whole"), "{}", told.err);
    std::fs::remove_file(path("one")).expect("removed");
    let told = days.desk.expect(17, &["repair", "descriptor", "one"]);
    assert!(told.err.contains("store two has the descriptor: `holdfast heal`"), "{}", told.err);
    let told = days.without("two", |desk| desk.expect(1, &["repair", "descriptor", "one"]));
    assert!(told.err.contains("store two cannot be asked"), "{}", told.err);
    // Damage is taken away by its owner, not by us.
    std::fs::remove_file(path("two")).expect("removed");
    std::fs::write(path("two"), &whole[..40]).expect("written");
    let told = days.desk.expect(17, &["repair", "descriptor", "two"]);
    assert!(told.err.contains("nothing is overwritten"), "{}", told.err);
    std::fs::remove_file(path("two")).expect("removed");
    let told = days.desk.expect(14, &["snapshots"]);
    assert!(told.err.contains("`holdfast repair descriptor one` makes it again"), "{}", told.err);
    days.desk.expect(2, &["repair", "descriptor", "nowhere"]);
    days.desk.expect(0, &["repair", "descriptor", "one", "--dry-run"]);
    assert!(!path("one").exists());
    // Keys of somebody who lost the race to make a repository here are no reason to mistake whose it is.
    let other = Days::new(&["one"], "");
    for from in other.objects("one", "keys") {
        let to = days.desk.at("stores/one/keys").join(from.file_name().expect("a name"));
        std::fs::copy(from, to).expect("copied");
    }
    let told = days.desk.expect(0, &["repair", "descriptor", "one"]);
    assert!(told.out.contains("the descriptor of repository"), "{}", told.out);
    assert_eq!(std::fs::read(path("one")).expect("there"), whole);
    days.desk.expect(0, &["heal"]);
    assert_eq!(std::fs::read(path("two")).expect("there"), whole);
    days.desk.expect(0, &["verify", "--read-data"]);
    days.next(0, &[]);
    for day in 0..3 {
        days.comes_back(&id_of(&days, day), day, "two");
    }
}
