//! Damage where the provider's own sum tells of it, before anybody looks at the bytes: found, healed, repaired and made good like any
//! other. A store that is the only one: what it lost comes back from the source. And the way back from a prune by old versions.

use std::collections::BTreeMap;

use crate::support::desk::{Desk, Told, end};
use crate::support::s3_server::{REGION, S3Server};
use crate::support::source_tree::noise;
use crate::support::stage::files_below;

/// A desk with a store `far` in a bucket, and a store `near` in a directory unless it is to be alone.
struct Bucket {
    desk: Desk,
    server: S3Server,
}

impl Bucket {
    fn new(near: bool) -> Bucket {
        let server = S3Server::start();
        let url = format!("s3://bucket/far?endpoint={}&region={REGION}", server.endpoint());
        let mut stores = format!("write_quorum = 1\n[[store]]\nname = \"far\"\nurl = \"{url}\"\nretries = 1\n");
        if near {
            stores += "[[store]]\nname = \"near\"\nurl = \"file:stores/near\"\n";
        }
        let desk = Desk::new(&[], "");
        desk.configure(&stores, "");
        for i in 0..6 {
            std::fs::write(desk.at(&format!("src/file-{i}")), noise(i, 700_000)).expect("written");
        }
        let bucket = Bucket { desk, server };
        bucket.expect(0, &["backup", "--init", "src"]);
        bucket
    }

    fn expect(&self, code: i32, words: &[&str]) -> Told {
        let mut command = self.desk.command(words);
        command.envs(self.server.environment()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let told = end(command.spawn().expect("the program starts"));
        assert_eq!(told.code, Some(code), "{words:?}\n{}\n{}", told.out, told.err);
        told
    }

    /// Turns one bit in the longest object of a kind. Gives its key.
    fn rot(&self, kind: &str) -> String {
        self.server.bucket(|bucket| {
            let prefix = format!("far/{kind}/");
            let all = bucket
                .versions(&prefix)
                .into_iter()
                .filter_map(|(key, version, _)| Some((version.body.clone()?, key.to_owned())));
            let (body, key) = all.max_by_key(|(body, _)| body.len()).expect("there is one");
            let mut bytes = body.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bucket.damage(&key, bytes.into());
            key
        })
    }

    /// The newest snapshot comes back from a store as the source is.
    fn comes_back(&self, from: &str) {
        let target = tempfile::tempdir_in(self.desk.at("")).expect("a folder");
        let (what, below) = (format!("latest:{}", self.desk.at("src").display()), target.path().join("back"));
        self.expect(0, &["restore", &what, "--from", from, "--target", below.to_str().expect("UTF-8")]);
        assert!(files_below(&below) == files_below(&self.desk.at("src")), "{from}");
    }
}

#[test]
fn one_rotten_object_of_each_kind_is_found_and_healed() {
    for kind in ["index", "snapshots", "data", "meta"] {
        let bucket = Bucket::new(true);
        let key = bucket.rot(kind);
        let found = bucket.expect(14, &["verify", "--read-data"]);
        let name = key.trim_start_matches("far/");
        assert!(found.err.contains(name) || found.out.contains(name), "{kind}: {}\n{}", found.out, found.err);
        let planned = bucket.expect(0, &["--json", "heal", "--dry-run"]).summary();
        let far = planned["replicas"].as_array().and_then(|all| all.iter().find(|r| r["name"] == "far")).expect("there").clone();
        assert!(far["objects_replaced"].as_u64() > Some(0) || far["sources"]["near"].as_u64() > Some(0), "{kind}: {planned:#}");
        bucket.expect(0, &["heal"]);
        bucket.expect(0, &["prune", "--mercy", "0s"]);
        bucket.expect(0, &["verify", "--read-data"]);
        bucket.comes_back("far");
        bucket.comes_back("near");
    }
}

/// The index is made again from the packs, with one store and nobody to heal from.
#[test]
fn the_index_of_the_only_store_is_repaired() {
    let bucket = Bucket::new(false);
    bucket.rot("index");
    bucket.expect(14, &["verify"]);
    bucket.expect(0, &["repair", "index", "far"]);
    bucket.expect(0, &["verify", "--read-data"]);
    bucket.comes_back("far");
}

/// A rotten pack of the only store: the next backup sends again what it held, as far as the source has it still.
#[test]
fn what_the_only_store_lost_comes_back_from_the_source() {
    for kind in ["data", "meta"] {
        let bucket = Bucket::new(false);
        bucket.rot(kind);
        bucket.expect(14, &["verify", "--read-data"]);
        let before = bucket.desk.run(&["--json", "heal"]);
        assert_ne!(before.code, Some(0), "nobody else has it");
        let summary = bucket.expect(0, &["--json", "backup", "src"]).summary();
        assert!(summary["data_added"].as_u64() > Some(0), "{kind}: {summary:#}");
        bucket.comes_back("far");
        // With it the first snapshot is whole again, too.
        bucket.expect(0, &["heal"]);
        bucket.expect(0, &["prune", "--mercy", "0s"]);
        bucket.expect(0, &["verify", "--read-data"]);
    }
}

/// The way back from a prune: what was current at a time, copied from old versions elsewhere, is the repository as of then.
#[test]
fn the_state_of_an_earlier_time_is_a_repository() {
    let bucket = Bucket::new(false);
    bucket.server.bucket(|bucket| bucket.versioned = true);
    // Something is gone before that time already.
    bucket.desk.write("src/gone.txt", "soon gone");
    bucket.expect(0, &["backup", "src"]);
    std::fs::remove_file(bucket.desk.at("src/gone.txt")).expect("removed");
    bucket.expect(0, &["backup", "src"]);
    bucket.expect(0, &["forget", "--keep-last", "1"]);
    bucket.expect(0, &["prune", "--mercy", "0s", "--max-unused", "0"]);
    bucket.desk.write("src/a.txt", "not seen before");
    bucket.expect(0, &["backup", "src"]);
    let then = files_below(&bucket.desk.at("src"));
    let json = bucket.expect(0, &["snapshots", "--json"]).out;
    let all: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let lost = all.as_array().and_then(|all| all.last()?["id"].as_str()).expect("an id").to_owned();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let time = std::time::SystemTime::now();
    // The server's times are whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    for i in 0..6 {
        std::fs::write(bucket.desk.at(&format!("src/file-{i}")), noise(100 + i, 700_000)).expect("written");
    }
    bucket.expect(0, &["backup", "src"]);
    bucket.expect(0, &["forget", "--keep-last", "1"]);
    bucket.expect(0, &["prune", "--mercy", "0s", "--max-unused", "0"]);
    bucket.expect(2, &["restore", &lost, "--target", "back"]);
    bucket.server.bucket(|bucket| {
        let mut states: BTreeMap<String, crate::support::s3_bucket::Version> = BTreeMap::new();
        // Newest first within a key.
        for (key, version, _) in bucket.versions("far/") {
            if version.modified <= time {
                states.entry(key.to_owned()).or_insert_with(|| version.clone());
            }
        }
        assert!(bucket.versions("far/data/").iter().any(|(_, version, _)| version.body.is_none()), "prune has deleted something");
        for (key, version) in states.into_iter().filter(|(_, version)| version.body.is_some()) {
            bucket.put(&key.replacen("far/", "earlier/", 1), true, version).expect("nothing lies there");
        }
        // Where nobody knows when something was deleted, all that was made by then comes back.
        let made: Vec<_> =
            bucket.versions("far/").into_iter().map(|(key, version, _)| (key.to_owned(), version.clone())).collect();
        for (key, version) in made.into_iter().filter(|(_, version)| version.body.is_some() && version.modified <= time) {
            bucket.put(&key.replacen("far/", "more/", 1), true, version).expect("nothing lies there");
        }
        assert!(bucket.versions("more/").len() > bucket.versions("earlier/").len(), "too much comes back");
    });
    for place in ["earlier", "more"] {
        let config = bucket.desk.read("holdfast.toml").replace("bucket/far?", &format!("bucket/{place}?"));
        let name = format!("{place}.toml");
        bucket.desk.write(&name, &config.replace("\"state\"", &format!("\"state-{place}\"")));
        let (what, below) = (format!("{lost}:{}", bucket.desk.at("src").display()), bucket.desk.at(&format!("back-{place}")));
        bucket.expect(0, &["--config", &name, "restore", &what, "--target", below.to_str().expect("UTF-8")]);
        assert!(files_below(&below) == then, "{place}");
        bucket.expect(0, &["--config", &name, "verify", "--read-data"]);
    }
}

/// Where the newest snapshot can be had whole nowhere, the rules count the one before it, and the lifecycle leaves that alone.
#[test]
fn a_lost_snapshot_stands_in_for_no_whole_one() {
    let rules =
        "[retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"0 s\"\n[prune]\nmercy = \"0 s\"\nmax_unused = \"0 B\"\n";
    let desk = Desk::new(&["one", "two"], rules);
    std::fs::write(desk.at("src/file"), noise(1, 700_000)).expect("written");
    desk.expect(0, &["backup", "--init", "src"]);
    let old = files_below(&desk.at("src"));
    let packs = |store: &str| files_below(&desk.at(&format!("stores/{store}/data")));
    let before = packs("one");
    std::fs::write(desk.at("src/file"), noise(2, 700_000)).expect("written");
    desk.expect(0, &["backup", "src"]);
    for store in ["one", "two"] {
        for (name, mut bytes) in packs(store).into_iter().filter(|(name, _)| !before.contains_key(name)) {
            let name = String::from_utf8(name).expect("plain").replace('\0', "/");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            let path = desk.at(&format!("stores/{store}/data/{name}"));
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(path, bytes).expect("written");
        }
    }
    desk.expect(14, &["verify", "--read-data"]);
    // A dry run reads nothing, so it knows of a doubt alone.
    let told = desk.expect(0, &["heal", "--dry-run"]);
    assert!(told.out.contains("that only damaged packs may still have"), "{}", told.out);
    // Nor do the rules by themselves count what nobody can vouch for.
    for words in [&["forget", "--keep-last", "1", "--dry-run"][..], &["forget", "--keep-last", "1"]] {
        let told = desk.expect(14, words);
        assert!(told.err.contains("no rule counts it and none forgets it"), "{}\n{}", told.out, told.err);
        assert!(told.out.contains("0 snapshots"), "{}", told.out);
    }
    for words in [&["lifecycle", "--confirm"]; 2] {
        let told = desk.expect(14, words);
        assert!(told.err.contains("no rule counts it and none forgets it"), "{}\n{}", told.out, told.err);
    }
    let (what, below) = (format!("latest~1:{}", desk.at("src").display()), desk.at("back"));
    desk.expect(0, &["restore", &what, "--target", below.to_str().expect("UTF-8")]);
    assert!(files_below(&below) == old);
    // Forgotten by name it is gone, and all is well again.
    desk.expect(0, &["forget", "latest"]);
    desk.expect(0, &["lifecycle"]);
    desk.expect(0, &["verify", "--read-data"]);
}
