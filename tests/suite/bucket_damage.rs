//! Damage where the provider's own sum tells of it, before anybody looks at the bytes: found, healed, repaired and made good like any
//! other. A store that is the only one: what it lost comes back from the source. And the way back from a prune by old versions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::desk::{Desk, Told, end};
use crate::support::s3_server::{REGION, S3Server};
use crate::support::source_tree::noise;

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
        assert!(files(below) == files(self.desk.at("src")), "{from}");
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
    bucket.desk.write("src/a.txt", "not seen before");
    bucket.expect(0, &["backup", "src"]);
    let then = files(bucket.desk.at("src"));
    let json = bucket.expect(0, &["snapshots", "--json"]).out;
    let all: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let lost = all[1]["id"].as_str().expect("an id").to_owned();
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
    });
    let config = bucket.desk.read("holdfast.toml").replace("bucket/far?", "bucket/earlier?").replace("\"state\"", "\"fresh\"");
    bucket.desk.write("earlier.toml", &config);
    let (what, below) = (format!("{lost}:{}", bucket.desk.at("src").display()), bucket.desk.at("back"));
    bucket.expect(0, &["--config", "earlier.toml", "restore", &what, "--target", below.to_str().expect("UTF-8")]);
    assert!(files(below) == then);
    bucket.expect(0, &["--config", "earlier.toml", "verify", "--read-data"]);
}

fn files(folder: PathBuf) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    let items = std::fs::read_dir(folder).expect("a folder").flatten();
    items.map(|item| (item.file_name(), std::fs::read(item.path()).expect("read"))).collect()
}
