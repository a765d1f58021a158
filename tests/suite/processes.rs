//! Real processes of the real binary against one repository: killed at random, stopped by signals, many at once, and without what
//! they need. `HOLDFAST_SUITE=full` kills more often.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::clock::Env;
use holdfast::replica::Member;
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository};
use holdfast::store::directory::DirectoryStore;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;
use holdfast::store::{Store, open};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::rig::{self, Before, NAMES, Published, Tree};
use crate::support::source_tree::noise;

/// The key of the rig, as a file: it opens without a costly derivation.
const KEY: &str = "holdfast-key-1 0707070707070707070707070707070707070707070707070707070707070707\n";

/// A folder with three stores, a key file and a configuration that publishes and commits often.
pub struct Desk(tempfile::TempDir);

impl Desk {
    /// `limit`: bytes per second and store, as the configuration spells it.
    pub fn new(limit: Option<&str>) -> Desk {
        let desk = Desk(tempfile::tempdir().expect("a folder"));
        let mut config = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nmemory = \"32 MiB\"\n".to_owned();
        for name in NAMES {
            config += &format!("[[store]]\nname = \"{name}\"\nurl = \"file:stores/{name}\"\n");
            config += &limit.map(|limit| format!("upload_limit = \"{limit}\"\n")).unwrap_or_default();
        }
        config += "[backup]\nhost = \"here\"\ndata_pack = \"1 MiB\"\nmeta_pack = \"1 MiB\"\n";
        config += "publish_bytes = \"2 MiB\"\npublish_every = \"100ms\"\npartial_every = \"150ms\"\n";
        fs::write(desk.at("holdfast.toml"), config).expect("written");
        fs::write(desk.at("key"), KEY).expect("written");
        fs::set_permissions(desk.at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        desk
    }

    pub fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.0.path()).expect("there").join(path)
    }

    fn store(&self, name: &str) -> PathBuf {
        self.at("stores").join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(words).current_dir(self.at("")).stdin(Stdio::null()).env("HOME", self.at("home"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(name);
        }
        command
    }

    pub fn start(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    /// Runs, expects `code`, gives standard output and standard error.
    pub fn expect(&self, code: i32, words: &[&str]) -> (String, String) {
        told(code, words, &self.command(words).output().expect("the program starts"))
    }

    /// The snapshots as a script sees them: tag, replicas, partial.
    fn snapshots(&self) -> Vec<(String, usize, bool)> {
        let (out, _) = self.expect(0, &["snapshots", "--json"]);
        let list: Value = serde_json::from_str(&out).expect("JSON");
        let one = |s: &Value| {
            let tag = s["tags"][0].as_str().unwrap_or_default().to_owned();
            (tag, s["replicas"].as_array().expect("replicas").len(), s["partial"] == true)
        };
        list.as_array().expect("an array").iter().map(one).collect()
    }

    pub async fn open(&self, names: &[&str]) -> Repository {
        let env = Env::real();
        let mut members = Vec::new();
        for name in names {
            let url = StoreUrl::parse(&format!("file:stores/{name}"), &self.at("")).expect("a URL");
            let store = open(&env, name, &url, &StoreSettings::default(), false).await;
            members.push(Member { name: (*name).to_owned(), url: url.to_string(), store });
        }
        Repository::open(&env, members, OpenSettings::default(), &rig::unlock(), Access::Read).await.expect("it opens")
    }

    /// What each log relies on, and what each store holds.
    async fn inventory(&self) -> Vec<Before> {
        let repository = self.open(&NAMES).await;
        let mut all = Vec::new();
        for (i, name) in NAMES.iter().enumerate() {
            let store = DirectoryStore::open(&repository.env, name, self.store(name), false).expect("it opens");
            all.push((rig::names(&store, "").await, rig::published(&repository, i).await));
        }
        all
    }

    /// Tests that a run which succeeded sent nothing that was published before it, and nothing twice.
    async fn nothing_twice(&self, before: &[Before]) {
        let repository = self.open(&NAMES).await;
        let (mut stores, mut after): (Vec<Arc<dyn Store>>, Vec<Published>) = Default::default();
        for (i, name) in NAMES.iter().enumerate() {
            stores.push(Arc::new(DirectoryStore::open(&repository.env, name, self.store(name), false).expect("it opens")));
            after.push(rig::published(&repository, i).await);
        }
        rig::nothing_twice(&stores, before, &after).await.unwrap_or_else(|e| panic!("{e}"));
    }

    /// Reads everything from each replica alone. Gives the tags of the complete snapshots that every replica has, sorted.
    pub async fn read_all<T: std::borrow::Borrow<str> + Ord>(&self, trees: &BTreeMap<T, Tree>) -> Vec<String> {
        let mut common: Option<Vec<String>> = None;
        for name in NAMES {
            let repository = self.open(&[name]).await;
            let complete = rig::read_all(&repository, trees).await.unwrap_or_else(|e| panic!("{name} alone: {e}"));
            let mut tags: Vec<String> = complete.into_iter().map(|(tag, _)| tag).collect();
            tags.sort_unstable();
            common = Some(match common {
                None => tags,
                Some(others) => others.into_iter().filter(|tag| tags.contains(tag)).collect(),
            });
        }
        common.unwrap_or_default()
    }

    /// Restores a snapshot from one store alone, and compares every item; with rsync, down to the last attribute.
    fn restores(&self, snapshot: &str, store: &str, source: &Path, tree: &Tree) {
        let target = tempfile::tempdir_in(self.0.path()).expect("a folder");
        let below = target.path().join("restored");
        let from = format!("{snapshot}:{}", source.display());
        self.expect(0, &["restore", &from, "--from", store, "--target", below.to_str().expect("text")]);
        assert_eq!(rig::tree_at(&below), *tree, "{snapshot} from {store}");
        let slash = |path: &Path| format!("{}/", path.display());
        let mut rsync = Command::new("rsync");
        rsync.args(["-aHAXn", "--delete", "--checksum", "--itemize-changes"]);
        if rig::tree_at(source) == *tree
            && let Ok(output) = rsync.args([slash(source), slash(&below)]).output()
        {
            assert_eq!(told(0, &["rsync"], &output).0, "", "{snapshot} from {store}");
        }
    }

    /// Temporary files in the stores.
    fn temporary(&self) -> Vec<PathBuf> {
        let folders = NAMES.iter().map(|name| self.store(name).join("tmp"));
        folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().map(|e| e.expect("an item").path()).collect()
    }
}

fn told(code: i32, words: &[&str], output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{out}\n{err}");
    (out, err)
}

pub fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("not 0");
    // It may have ended meanwhile.
    let _ = kill_process(pid, signal);
}

/// A number below `below`, the same for the same seed.
pub fn draw(seed: u64, below: u64) -> u64 {
    u64::from_le_bytes(noise(seed, 8).try_into().expect("8 bytes")) % below
}

/// Files that make about `mebibytes`, small and large.
pub fn plant(at: &Path, seed: u64, mebibytes: usize) {
    for folder in ["a", "b/c", "d"] {
        fs::create_dir_all(at.join(folder)).expect("made");
    }
    for i in 0..60_u64 {
        let folder = ["a", "b", "b/c", "d"][i as usize % 4];
        fs::write(at.join(folder).join(format!("small-{i}")), noise(seed * 1000 + i, 300 + 500 * i as usize)).expect("written");
    }
    for i in 0..mebibytes as u64 / 2 {
        let folder = ["a", "b/c", "d"][i as usize % 3];
        fs::write(at.join(folder).join(format!("large-{i}")), noise(seed * 1000 + 500 + i, 2 << 20)).expect("written");
    }
    std::os::unix::fs::symlink("a/large-0", at.join("link")).expect("made");
}

/// Changes some of the tree: files rewritten, removed, new, appended to.
pub fn change(at: &Path, round: u64) {
    let seed = 1_000_000 + round * 1000;
    fs::write(at.join(format!("a/small-{}", 4 * draw(seed, 15))), noise(seed, 1000)).expect("written");
    fs::write(at.join(format!("new-{round}")), noise(seed + 1, 1 << 20)).expect("written");
    fs::write(at.join("a/large-0"), noise(seed + 2, 3 << 20)).expect("written");
    fs::write(at.join("zz-last"), noise(seed + 3, 2 << 20)).expect("written");
    if round > 2 {
        let _ = fs::remove_file(at.join(format!("new-{}", round - 2)));
    }
}

/// Kill it wherever it stands: what was committed stays whole, and the next run goes on from what was published.
#[tokio::test]
async fn killed_at_random() {
    let rounds: u64 = if std::env::var_os("HOLDFAST_SUITE").is_some_and(|form| form == "full") { 50 } else { 15 };
    let desk = Desk::new(None);
    let source = desk.at("source");
    plant(&source, 1, 12);
    let mut trees = BTreeMap::from([("start".to_owned(), rig::tree_at(&source))]);
    let mut cut = 0;
    let began = Instant::now();
    desk.expect(0, &["backup", "--init", "--tag", "start", "source"]);
    // About how long a run takes: later ones have less to do than the first.
    let mut full = began.elapsed().max(Duration::from_millis(200));
    for round in 0..rounds {
        change(&source, round);
        let (killed, next) = (format!("killed-{round}"), format!("next-{round}"));
        let tree = rig::tree_at(&source);
        trees.insert(killed.clone(), tree.clone());
        trees.insert(next.clone(), tree);
        let mut child = desk.start(&["backup", "--tag", &killed, "source"]);
        let patience = draw(round, full.as_micros() as u64);
        std::thread::sleep(Duration::from_micros(patience));
        send(&child, Signal::KILL);
        let ended = child.wait().expect("ended");
        match ended.code() {
            None => cut += 1,
            Some(code) => {
                assert_eq!(code, 0);
                full = full * 3 / 4;
            }
        }
        desk.snapshots();
        let before = desk.inventory().await;
        desk.expect(0, &["backup", "--tag", &next, "source"]);
        desk.nothing_twice(&before).await;
        assert!(desk.snapshots().contains(&(next.clone(), 3, false)), "{next}");
        let newest = desk.open(&NAMES[round as usize % 3..=round as usize % 3]).await;
        let view = newest.snapshots().await.expect("listed").pop().expect("at least one");
        assert_eq!(view.snapshot.tags, [next.as_str()]);
        assert_eq!(rig::tree_of(&newest, &view.snapshot).await.expect("read"), trees[&next]);
    }
    let complete = desk.read_all(&trees).await;
    for round in 0..rounds {
        assert!(complete.contains(&format!("next-{round}")), "{complete:?}");
    }
    let newest = format!("next-{}", rounds - 1);
    NAMES.iter().for_each(|name| desk.restores("latest", name, &source, &trees[&newest]));
    let oldest = desk.open(&NAMES).await.snapshots().await.expect("listed").remove(0);
    desk.restores(&hex::encode(oldest.id), NAMES[1], &source, &trees["start"]);
    desk.expect(0, &["verify", "--read-data"]);
    println!(
        "figure: kill -9 of the real binary: {cut} of {rounds} runs were killed under way; {} complete snapshots, none lost",
        complete.len()
    );
    assert!(cut * 3 > rounds, "most runs were over before they were killed: {cut} of {rounds}");
}

/// Any number at once, of the same sources and of others: every one commits everywhere.
#[tokio::test]
async fn many_at_once() {
    for count in [2_u64, 8] {
        let desk = Desk::new(None);
        let mut trees = BTreeMap::new();
        for i in 0..count {
            let source = desk.at(&format!("source-{}", i / 2));
            if i % 2 == 0 {
                plant(&source, i, 2);
            }
            trees.insert(format!("run-{i}"), rig::tree_at(&source));
        }
        desk.expect(0, &["init"]);
        let start = |i: u64| desk.start(&["backup", "--tag", &format!("run-{i}"), &format!("source-{}", i / 2)]);
        let children: Vec<Child> = (0..count).map(start).collect();
        for child in children {
            told(0, &["backup"], &child.wait_with_output().expect("ended"));
        }
        let snapshots = desk.snapshots();
        assert_eq!(snapshots.len() as u64, count, "{snapshots:?}");
        assert!(snapshots.iter().all(|(_, replicas, partial)| *replicas == 3 && !partial), "{snapshots:?}");
        assert_eq!(desk.read_all(&trees).await, trees.keys().cloned().collect::<Vec<_>>());
        let repository = desk.open(&NAMES).await;
        for (i, view) in repository.snapshots().await.expect("listed").iter().enumerate() {
            let source = std::str::from_utf8(&view.snapshot.roots[0].path).expect("text").to_owned();
            desk.restores(&hex::encode(view.id), NAMES[i % 3], Path::new(&source), &trees[&view.snapshot.tags[0]]);
        }
        desk.expect(0, &["verify", "--read-data"]);
    }
}

/// Two that make the repository at the same moment make one.
#[tokio::test]
async fn two_inits_at_once() {
    for repetition in 0..20 {
        let desk = Desk::new(None);
        plant(&desk.at("source"), 1, 0);
        let tree = rig::tree_at(&desk.at("source"));
        let backup = repetition % 2 == 1;
        let words = |tag| if backup { vec!["backup", "--init", "--tag", tag, "source"] } else { vec!["init", "--json"] };
        let children = [desk.start(&words("one")), desk.start(&words("two"))];
        let outputs = children.map(|child| told(0, &words("it"), &child.wait_with_output().expect("ended")).0);
        let (after, _) = desk.expect(0, &["init", "--json"]);
        let after: Value = serde_json::from_str(after.lines().next().expect("a line")).expect("JSON");
        assert_eq!(after["created"], false);
        let descriptor = |name| fs::read(desk.store(name).join("descriptor")).expect("there");
        assert!(NAMES.iter().all(|name| descriptor(name) == descriptor(NAMES[0])));
        if backup {
            let trees = BTreeMap::from([("one", tree.clone()), ("two", tree)]);
            assert_eq!(desk.read_all(&trees).await, ["one", "two"]);
        } else {
            let reports: Vec<Value> =
                outputs.iter().map(|out| serde_json::from_str(out.lines().next().expect("a line")).expect("JSON")).collect();
            assert!(reports.iter().all(|r| r["id"] == after["id"]), "{reports:?} {after:?}");
            assert_eq!(reports.iter().filter(|r| r["created"] == true).count(), 1, "{reports:?}");
            desk.expect(0, &["backup", "--tag", "later", "source"]);
            assert_eq!(desk.read_all(&BTreeMap::from([("later", tree)])).await, ["later"]);
        }
    }
}

/// Waits until the first store holds `count` packs of content.
fn wait_for_packs(desk: &Desk, child: &mut Child, count: usize) {
    let began = Instant::now();
    loop {
        let folders = fs::read_dir(desk.store(NAMES[0]).join("data")).ok().into_iter().flatten();
        let packs: usize = folders.map(|f| fs::read_dir(f.expect("an item").path()).map_or(0, Iterator::count)).sum();
        if packs >= count {
            return;
        }
        assert!(child.try_wait().expect("asked").is_none(), "it ended with {packs} packs");
        assert!(began.elapsed() < Duration::from_secs(60), "{packs} packs in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first signal ends a run in order: in good time, nothing half done, and what was published is not sent again.
#[tokio::test]
async fn stopped_by_a_signal() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let desk = Desk::new(Some("16 MiB"));
        let source = desk.at("source");
        plant(&source, 2, 64);
        let tree = rig::tree_at(&source);
        let trees = BTreeMap::from([("stopped", tree.clone()), ("next", tree)]);
        desk.expect(0, &["init"]);
        let mut child = desk.start(&["backup", "--tag", "stopped", "source"]);
        wait_for_packs(&desk, &mut child, 10);
        send(&child, signal);
        let began = Instant::now();
        told(code, &["backup"], &child.wait_with_output().expect("ended"));
        assert!(began.elapsed() < Duration::from_secs(30), "it took {:?} to stop", began.elapsed());
        assert_eq!(desk.temporary(), Vec::<PathBuf>::new());
        assert_eq!(desk.snapshots(), [("stopped".to_owned(), 3, true)]);
        assert!(desk.read_all(&trees).await.is_empty());
        let before = desk.inventory().await;
        assert!(before.iter().all(|(_, published)| published.chunks().len() > 10));
        desk.expect(0, &["backup", "--tag", "next", "source"]);
        desk.nothing_twice(&before).await;
        assert_eq!(desk.read_all(&trees).await, ["next"]);
        desk.restores("latest", NAMES[0], &source, &trees["next"]);
    }
}

/// The second signal ends it where it stands.
#[tokio::test]
async fn stopped_at_once() {
    let desk = Desk::new(Some("1 MiB"));
    plant(&desk.at("source"), 3, 48);
    desk.expect(0, &["init"]);
    let mut child = desk.start(&["backup", "--tag", "stopped", "source"]);
    wait_for_packs(&desk, &mut child, 2);
    send(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("asked").is_none(), "there was more under way than that");
    send(&child, Signal::TERM);
    let began = Instant::now();
    let code = child.wait().expect("ended").code();
    assert!(matches!(code, Some(130 | 143)), "{code:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    desk.snapshots();
}

/// The codes that scripts act on.
#[tokio::test]
async fn exit_codes() {
    let desk = Desk::new(None);
    plant(&desk.at("source"), 4, 0);
    plant(&desk.at("other"), 5, 0);
    let backup = ["backup", "source"];
    desk.expect(10, &backup);
    desk.expect(10, &["snapshots"]);
    assert!(!desk.at("stores").exists(), "only init makes folders");
    desk.expect(0, &["init"]);
    desk.expect(0, &backup);

    fs::write(desk.at("wrong"), KEY.replace("07", "08")).expect("written");
    desk.expect(12, &["--key-file", "wrong", "backup", "source"]);
    desk.expect(12, &["--key-file", "wrong", "snapshots"]);
    desk.expect(12, &["--key-file", "wrong", "init"]);

    desk.expect(3, &["backup", "source", "nowhere", "other"]);
    desk.expect(1, &["backup", "nowhere", "nowhere else"]);

    desk.expect(2, &["backup", "--no-such-flag", "source"]);
    desk.expect(2, &["backup"]);
    desk.expect(2, &["--store", "one=ftp://host/", "backup", "source"]);
    desk.expect(2, &["--config", "no such file", "backup", "source"]);

    // A store that cannot take anything: its folder for temporary files is none. Then one that is not mounted besides.
    let spoil = |name: &str| {
        fs::remove_dir_all(desk.store(name).join("tmp")).expect("removed");
        fs::write(desk.store(name).join("tmp"), b"").expect("written");
    };
    let said = |(out, err): (String, String), name: &str| assert!((out.clone() + &err).contains(name), "{out}\n{err}");
    let before = desk.snapshots().len();
    spoil(NAMES[1]);
    change(&desk.at("source"), 1);
    said(desk.expect(4, &backup), NAMES[1]);
    said(desk.expect(5, &["backup", "source", "nowhere"]), NAMES[1]);
    assert_eq!(desk.snapshots().len(), before + 2);
    fs::rename(desk.store(NAMES[2]), desk.at("unmounted")).expect("moved");
    change(&desk.at("source"), 2);
    said(desk.expect(1, &backup), NAMES[2]);
    said(desk.expect(0, &["--write-quorum", "1", "snapshots"]), "snapshot");
    desk.expect(4, &["--write-quorum", "1", "backup", "source"]);

    // All there again: the next run brings both up to date.
    fs::rename(desk.at("unmounted"), desk.store(NAMES[2])).expect("moved");
    fs::remove_file(desk.store(NAMES[1]).join("tmp")).expect("removed");
    desk.expect(0, &["backup", "--tag", "healthy", "source"]);
    let tree = rig::tree_at(&desk.at("source"));
    for name in NAMES {
        let repository = desk.open(&[name]).await;
        let view = repository.snapshots().await.expect("listed").pop().expect("one");
        assert_eq!(view.snapshot.tags, ["healthy"]);
        assert_eq!(rig::tree_of(&repository, &view.snapshot).await.expect("read"), tree);
    }
}

/// What `init` says when it cannot have every store: at quorum that some are behind, below it that it failed.
#[tokio::test]
async fn init_below_quorum() {
    let desk = Desk::new(None);
    let init = ["init"];
    // While no store has a repository, each must be asked before one is made.
    fs::create_dir(desk.at("stores")).expect("made");
    fs::write(desk.store(NAMES[1]), b"no folder").expect("written");
    let (out, err) = desk.expect(1, &init);
    assert!(out.is_empty() && err.contains("nothing was created") && err.contains(NAMES[1]), "{out}\n{err}");
    assert!(!desk.store(NAMES[0]).join("descriptor").exists());
    fs::remove_file(desk.store(NAMES[1])).expect("removed");
    desk.expect(0, &init);
    desk.expect(0, &init);
    for (taken, code) in [(2, 4), (1, 1)] {
        fs::rename(desk.store(NAMES[taken]), desk.at(&format!("aside-{taken}"))).expect("moved");
        fs::write(desk.store(NAMES[taken]), b"no folder").expect("written");
        let (_, err) = desk.expect(code, &init);
        assert!(err.contains(NAMES[taken]), "{err}");
    }
    desk.expect(4, &["--write-quorum", "1", "init"]);
    for taken in [1, 2] {
        fs::remove_file(desk.store(NAMES[taken])).expect("removed");
        fs::rename(desk.at(&format!("aside-{taken}")), desk.store(NAMES[taken])).expect("moved");
    }
    desk.expect(0, &init);
}

/// Whoever is stopped while a passphrase is asked for gets a terminal back that echoes.
#[test]
fn a_terminal_echoes_again_after_a_signal_at_the_prompt() {
    let desk = Desk::new(None);
    let config = fs::read_to_string(desk.at("holdfast.toml")).expect("there").replace("key_file = \"key\"\n", "");
    fs::write(desk.at("holdfast.toml"), config).expect("written");
    // `script` lends a terminal; the signal is sent as soon as the question is on it.
    let inner = r#"holdfast=$1; stty echo; timeout --foreground -s "$2" 3 "$holdfast" snapshots; echo "ended with $?"; stty -a"#;
    for signal in ["TERM", "INT"] {
        let line = format!("sh -c '{inner}' - '{}' {signal}", env!("CARGO_BIN_EXE_holdfast"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(desk.at("")).env("HOME", desk.at("home"));
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
            script.env_remove(name);
        }
        let mut child = match script.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return println!("ignored: script is not installed"),
            Err(e) => panic!("script: {e}"),
        };
        // Its input stays open: an end of it would be an answer.
        let held = child.stdin.take();
        let output = child.wait_with_output().expect("it ends");
        drop(held);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("passphrase: "), "it was asked: {said}");
        let words: Vec<&str> = said.rsplit("ended with").next().expect("it ended").split_whitespace().collect();
        assert!(words.contains(&"echo") && !words.contains(&"-echo"), "after {signal}: {said}");
    }
}
