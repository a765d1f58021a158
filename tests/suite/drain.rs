//! Asked to stop, every command ends within 30 seconds, whatever its stores and its source do: by the real binary against a server
//! that hangs, trickles or refuses. What is durable is kept, and nothing else is believed.
#![allow(clippy::disallowed_methods, reason = "the processes' time is the machine's")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use holdfast::backup::{BackupSettings, Given};
use holdfast::clock::Env;
use holdfast::progress::{Progress, Stop};
use holdfast::repository::Access;
use holdfast::source::directory::{Found, Walked};
use holdfast::source::metadata::{FileTime, Kind, Meta};
use holdfast::source::{Content, Origin, Source};
use holdfast::store::memory::MemoryStore;
use rustix::process::Signal;

use crate::processes::send;
use crate::support::desk::{Desk, KEY, Told, end, until};
use crate::support::proxy::{Answer, Fault, Proxy, Rule};
use crate::support::rig;
use crate::support::s3_server::{REGION, S3Server};
use crate::support::source_tree::noise;

/// What a scheduler gives.
const GIVEN: Duration = Duration::from_secs(30);
/// Set where a test need not wait as long as an operator: everything after it takes what it always takes.
const SHORT: &str = "drain = \"2s\"\n";
/// Of which this is the end.
const SHORT_END: Duration = Duration::from_secs(2 + 7 + 3);

/// A desk with a store `slow` on a server behind a proxy, and a store `fast` in a directory unless it is to be alone.
struct Far {
    desk: Desk,
    server: S3Server,
    proxy: Proxy,
}

impl Far {
    async fn new(fast: bool, more: &str) -> Far {
        let server = S3Server::start();
        let address = server.endpoint().trim_start_matches("http://").parse().expect("an address");
        let proxy = Proxy::start(address, None).await;
        let far = Far { desk: Desk::new(&[], ""), server, proxy };
        far.configure(fast, more);
        far
    }

    /// Writes the configuration.
    fn configure(&self, fast: bool, more: &str) {
        let url = format!("s3://bucket/far?endpoint={}&region={REGION}", self.proxy.url());
        let mut stores = format!("write_quorum = 1\n[[store]]\nname = \"slow\"\nurl = \"{url}\"\n");
        if fast {
            stores += "[[store]]\nname = \"fast\"\nurl = \"file:stores/fast\"\n";
        }
        self.desk.configure(&stores, more);
    }

    /// Files of one mebibyte each that nothing can shrink.
    fn plant(&self, files: u64) {
        for i in 0..files {
            std::fs::write(self.desk.at(&format!("src/file-{i:02}")), noise(i, 1 << 20)).expect("written");
        }
    }

    fn start(&self, words: &[&str]) -> Child {
        let mut command = self.desk.command(words);
        command.envs(self.server.environment()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }

    fn expect(&self, code: i32, words: &[&str]) -> Told {
        let told = end(self.start(words));
        assert_eq!(told.code, Some(code), "{words:?}\n{}\n{}", told.out, told.err);
        told
    }

    /// Nothing is answered any more, on no connection.
    fn hang(&self) {
        self.proxy.inject(Rule::new(Fault::StallBefore));
    }

    fn packs_at_fast(&self) -> usize {
        let folders = std::fs::read_dir(self.desk.at("stores/fast/data")).into_iter().flatten().flatten();
        folders.map(|folder| std::fs::read_dir(folder.path()).map_or(0, Iterator::count)).sum()
    }

    /// Restores the newest snapshot from a store, and gives its files.
    fn restored(&self, from: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let target = tempfile::tempdir_in(self.desk.at("")).expect("a folder");
        let list = self.expect(0, &["snapshots", "--json"]).out;
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let newest = list.as_array().and_then(|all| all.last()?["id"].as_str()).unwrap_or_else(|| panic!("{list}"));
        let what = format!("{newest}:{}", self.desk.at("src").display());
        let below = target.path().join("back");
        self.expect(0, &["restore", &what, "--from", from, "--target", below.to_str().expect("UTF-8")]);
        files(&below)
    }

    /// A complete backup succeeds, and comes back whole from everywhere.
    fn goes_on(&self, stores: &[&str]) {
        self.proxy.behave();
        self.proxy.bandwidth(None);
        self.expect(0, &["backup", "src"]);
        for store in stores {
            assert!(self.restored(store) == files(&self.desk.at("src")), "{store}");
        }
        self.expect(0, &["verify", "--read-data"]);
    }
}

fn files(below: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let items = std::fs::read_dir(below).expect("a folder").flatten();
    items.map(|item| (item.file_name().into(), std::fs::read(item.path()).expect("read"))).collect()
}

/// Asks a process to stop; it does with `code`, in time.
fn stop(child: Child, code: i32, time: Duration) -> Told {
    let began = Instant::now();
    send(&child, Signal::TERM);
    let told = end(child);
    let took = began.elapsed();
    assert_eq!(told.code, Some(code), "after {took:?}\n{}\n{}", told.out, told.err);
    assert!(took < time, "it took {took:?} to stop\n{}\n{}", told.out, told.err);
    println!("figure: SIGTERM took {:.1} s of {:.0} s", took.as_secs_f64(), time.as_secs_f64());
    told
}

/// One store hangs in the middle of its packs, so that the run waits for room: the other one keeps a partial snapshot, in the time
/// that is given without any setting.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_hangs() {
    let far = Far::new(true, "").await;
    far.plant(60);
    far.expect(0, &["init"]);
    far.proxy.inject(Rule::new(Fault::StallBefore).skip(40));
    let child = far.start(&["--json", "backup", "src"]);
    until("packs at the fast store", || far.packs_at_fast() >= 10);
    // By now the budget is full of what the other one does not take.
    std::thread::sleep(Duration::from_secs(3));
    let told = stop(child, 143, GIVEN);
    assert!(told.out.lines().last().is_some_and(|line| line.contains("summary")), "{}", told.err);
    let summary = told.summary();
    assert_eq!(summary["partial"], true, "{summary}");
    let replica = |name: &str| summary["replicas"].as_array().and_then(|all| all.iter().find(|r| r["name"] == name)).cloned();
    let (fast, slow) = (replica("fast").expect("there"), replica("slow").expect("there"));
    assert_eq!((&fast["committed"], &slow["committed"]), (&true.into(), &false.into()), "{summary}");
    assert!(slow["behind"].as_str().is_some_and(|why| why.contains("given up")), "{summary}");
    far.proxy.behave();
    let (partial, whole) = (far.restored("fast"), files(&far.desk.at("src")));
    assert!(!partial.is_empty() && partial.len() < whole.len(), "{} of {}", partial.len(), whole.len());
    assert!(partial.iter().all(|(name, bytes)| whole[name] == *bytes));
    far.goes_on(&["slow", "fast"]);
}

/// One store hangs, and the other one is not fast: it takes what was read by then in the time that is given, since that is sent at
/// once, and not when the first one is given up.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_hangs_beside_a_slow_one() {
    let far = Far::new(false, "").await;
    let address = far.server.endpoint().trim_start_matches("http://").parse().expect("an address");
    let near = Proxy::start(address, None).await;
    let config = far.desk.read("holdfast.toml");
    let url = format!("s3://bucket/near?endpoint={}&region={REGION}", near.url());
    let second = format!("[[store]]\nname = \"near\"\nurl = \"{url}\"\n[[store]]\nname = \"slow\"");
    far.desk.write("holdfast.toml", &config.replacen("[[store]]\nname = \"slow\"", &second, 1));
    far.plant(80);
    far.expect(0, &["init"]);
    near.take();
    far.proxy.inject(Rule::new(Fault::StallBefore).skip(40));
    let child = far.start(&["--json", "backup", "src"]);
    until("packs at the store near by", || near.count("HEAD", "/data/") >= 5);
    // By now the budget is full of what the other one does not take.
    std::thread::sleep(Duration::from_secs(3));
    near.bandwidth(Some(2 << 20));
    let summary = stop(child, 143, GIVEN).summary();
    assert_eq!(summary["partial"], true, "{summary}");
    let at = |name: &str| summary["replicas"].as_array().and_then(|all| all.iter().find(|r| r["name"] == name)).cloned();
    assert_eq!(at("near").expect("there")["committed"], true, "{summary}");
    near.bandwidth(None);
    far.proxy.behave();
    let (partial, whole) = (far.restored("near"), files(&far.desk.at("src")));
    assert!(!partial.is_empty() && partial.iter().all(|(name, bytes)| whole[name] == *bytes));
    far.goes_on(&["slow", "near"]);
}

/// The only store hangs: nothing can be committed, it is said, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_store_hangs() {
    let far = Far::new(false, SHORT).await;
    far.plant(30);
    far.expect(0, &["init"]);
    far.proxy.take();
    let child = far.start(&["backup", "src"]);
    until("packs", || far.proxy.count("PUT", "/data/") >= 3);
    far.hang();
    let told = stop(child, 143, SHORT_END);
    assert!(told.err.contains("interrupted") && told.err.contains("given up"), "{}", told.err);
    assert!(told.err.contains("no replica holds the snapshot"), "{}", told.err);
    far.proxy.behave();
    assert_eq!(far.expect(0, &["snapshots", "--json"]).out.trim(), "[]");
    far.goes_on(&["slow"]);
}

/// The only store trickles: nothing can be committed, it is said, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_store_trickles() {
    let far = Far::new(false, SHORT).await;
    far.plant(40);
    far.expect(0, &["init"]);
    far.proxy.take();
    let child = far.start(&["backup", "src"]);
    until("packs", || far.proxy.count("HEAD", "/data/") >= 10);
    far.proxy.bandwidth(Some(1 << 20));
    // By now the budget is full of what takes far longer than two seconds.
    std::thread::sleep(Duration::from_secs(4));
    let told = stop(child, 143, SHORT_END);
    assert!(told.err.contains("interrupted") && told.err.contains("KiB were still on their way"), "{}", told.err);
    far.proxy.bandwidth(None);
    let summary = far.expect(0, &["--json", "backup", "src"]).summary();
    // What had arrived is published as far as the store answered in time: a figure, no promise, on a line that is full.
    println!("figure: {} of 40 MiB were sent again", summary["data_added"].as_u64().expect("bytes") >> 20);
    far.goes_on(&["slow"]);
}

/// A store that trickles beside one that is fast.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_trickles() {
    let far = Far::new(true, SHORT).await;
    far.plant(40);
    far.expect(0, &["init"]);
    far.proxy.bandwidth(Some(200_000));
    let child = far.start(&["backup", "src"]);
    until("packs at the fast store", || far.packs_at_fast() >= 10);
    let told = stop(child, 143, SHORT_END);
    assert!(told.out.contains("partial snapshot") && told.out.contains("given up"), "{}\n{}", told.out, told.err);
    far.proxy.bandwidth(None);
    let (partial, whole) = (far.restored("fast"), files(&far.desk.at("src")));
    assert!(!partial.is_empty() && partial.iter().all(|(name, bytes)| whole[name] == *bytes));
    far.goes_on(&["slow", "fast"]);
}

/// It hangs where its index segment, its snapshot or its record is written, or just after the record was: what came of it is not
/// known, the other one holds the snapshot, and the next run sorts it out.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_hangs_at_the_commit() {
    for (fault, path) in [
        (Fault::StallBefore, "/index/"),
        (Fault::StallBefore, "/snapshots/"),
        (Fault::StallBefore, "/log/"),
        (Fault::StallAfter, "/log/"),
    ] {
        let far = Far::new(true, SHORT).await;
        far.plant(2);
        far.expect(0, &["init"]);
        far.proxy.take();
        far.proxy.inject(Rule::new(fault.clone()).method("PUT").path(path));
        let child = far.start(&["--json", "backup", "src"]);
        until("the commit", || far.proxy.count("PUT", path) >= 1);
        // It had read everything when it was asked: the snapshot is whole, and one replica is behind.
        let summary = stop(child, 4, SHORT_END).summary();
        assert_eq!(summary["partial"], false, "{summary}");
        let slow = summary["replicas"].as_array().and_then(|all| all.iter().find(|r| r["name"] == "slow")).cloned();
        let slow = slow.expect("there");
        assert_eq!(slow["committed"], false, "{summary}");
        assert!(slow["behind"].as_str().is_some_and(|why| why.contains("what came of it is not known")), "{summary}");
        far.proxy.behave();
        assert!(far.restored("fast") == files(&far.desk.at("src")));
        far.goes_on(&["slow", "fast"]);
    }
}

/// It hangs where a segment is published now and then, in the middle of a run.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_hangs_at_a_publication() {
    // More packs than may wait for the publication: the run waits, too, on whatever machine.
    let eager = format!("{SHORT}publish_bytes = \"4 MiB\"\n");
    let far = Far::new(true, &eager).await;
    far.plant(120);
    far.expect(0, &["init"]);
    far.proxy.take();
    far.proxy.inject(Rule::new(Fault::StallBefore).method("PUT").path("/log/"));
    let child = far.start(&["backup", "src"]);
    until("a publication", || far.proxy.count("PUT", "/log/") >= 1);
    let told = stop(child, 143, SHORT_END);
    assert!(told.out.contains("partial snapshot"), "{}\n{}", told.out, told.err);
    assert!(!far.restored("fast").is_empty());
    far.goes_on(&["slow", "fast"]);
}

/// Between attempts at a store that refuses for the time being.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_pause_before_another_attempt() {
    let far = Far::new(false, SHORT).await;
    far.plant(4);
    far.expect(0, &["init"]);
    far.proxy.take();
    let busy = Answer::xml(503, "<Error><Code>SlowDown</Code><Message>slow</Message></Error>").with("retry-after", "200");
    far.proxy.inject(Rule::new(Fault::Answer(busy)).method("PUT").path("/data/"));
    let child = far.start(&["backup", "src"]);
    until("a refusal", || far.proxy.count("PUT", "/data/") >= 1);
    std::thread::sleep(Duration::from_millis(500));
    stop(child, 143, SHORT_END);
    far.goes_on(&["slow"]);
}

/// While the repository is opened, or its index loaded, a plain and early end is right.
#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_opened() {
    for path in ["far/descriptor", "/log/", "/index/", "/snapshots/"] {
        let far = Far::new(false, "").await;
        far.expect(0, &["backup", "--init", "src"]);
        far.proxy.take();
        far.proxy.inject(Rule::new(Fault::StallBefore).method("GET").path(path));
        let child = far.start(&["backup", "src"]);
        until(path, || far.proxy.count("GET", path) >= 1);
        stop(child, 143, Duration::from_secs(5));
        far.goes_on(&["slow"]);
    }
}

/// Every other command, with a store that answers nothing from some request on.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_ends_in_time() {
    let far = Far::new(false, "").await;
    far.plant(3);
    far.desk.write("other", &KEY.replace("07", "08"));
    far.expect(0, &["backup", "--init", "src"]);
    far.desk.write("src/a.txt", "hello again");
    far.expect(0, &["backup", "src"]);
    far.desk.write("src/a.txt", "and again");
    far.expect(0, &["backup", "src"]);
    far.configure(false, "[retention]\nkeep_last = 2\n[lifecycle]\nforget_floor = \"0 s\"\n");
    // Each through a proxy of its own: words, and the requests that are not answered.
    let cases: [(&[&str], &'static str, &str); 9] = [
        (&["restore", "latest", "--target", "back"], "GET", "/data/"),
        (&["verify", "--read-data"], "GET", "/data/"),
        (&["verify"], "GET", "list-type"),
        (&["prune"], "GET", "list-type"),
        (&["forget", "--keep-last", "1"], "PUT", "/log/"),
        (&["lifecycle"], "PUT", "/log/"),
        (&["ls", "latest"], "GET", "/meta/"),
        (&["repair", "index", "slow"], "GET", "list-type"),
        (&["key", "add", "--new-key-file", "other"], "PUT", "/keys/"),
    ];
    let config = far.desk.read("holdfast.toml");
    let mut running = Vec::new();
    for (i, (words, method, path)) in cases.iter().enumerate() {
        let address = far.server.endpoint().trim_start_matches("http://").parse().expect("an address");
        let proxy = Proxy::start(address, None).await;
        let own = format!("own-{i}.toml");
        far.desk.write(&own, &config.replace(&far.proxy.url(), &proxy.url()).replace("\"state\"", &format!("\"state-{i}\"")));
        proxy.inject(Rule::new(Fault::StallBefore).method(method).path(path));
        let mut child = far.start(&[&["--config", &own], *words].concat());
        let began = Instant::now();
        while proxy.count(method, path) == 0 {
            if child.try_wait().expect("asked").is_some() || began.elapsed() > Duration::from_secs(60) {
                panic!("{words:?} never asked: {:?}", end(child));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running.push((words, child, proxy));
    }
    let began = Instant::now();
    running.iter().for_each(|(_, child, _)| send(child, Signal::TERM));
    for (words, child, _proxy) in running {
        let told = end(child);
        let took = began.elapsed();
        assert_eq!(told.code, Some(143), "{words:?} after {took:?}\n{}\n{}", told.out, told.err);
        assert!(told.err.contains("interrupted"), "{words:?}: {}", told.err);
        assert!(took < GIVEN, "{words:?} took {took:?}");
        println!("figure: SIGTERM to {words:?} with a store that hangs took at most {:.1} s", took.as_secs_f64());
    }
    far.goes_on(&["slow"]);
}

/// A heal whose target hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_heal_ends_in_time() {
    let far = Far::new(true, "").await;
    far.plant(6);
    let both = far.desk.read("holdfast.toml");
    let (head, stores) = both.split_once("[[store]]").expect("stores");
    let (_, fast) = stores.split_once("[[store]]").expect("two");
    far.desk.write("fast.toml", &format!("{head}[[store]]{fast}"));
    far.expect(0, &["--config", "fast.toml", "backup", "--init", "src"]);
    far.proxy.inject(Rule::new(Fault::StallBefore).method("PUT").path("/data/").skip(2));
    let child = far.start(&["heal"]);
    until("copies", || far.proxy.count("PUT", "/data/") >= 3);
    let told = stop(child, 143, GIVEN);
    assert!(told.err.contains("interrupted"), "{}", told.err);
    far.proxy.behave();
    far.expect(0, &["heal"]);
    far.goes_on(&["slow", "fast"]);
}

/// A run that is asked to stop cleans up and tells all the same; what it calls then has its own few seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_cleans_up_and_tells() {
    let jobs = "[[job]]\nname = \"files\"\npaths = [\"src\"]\n[job.hooks]\nfailed = [[\"sh\", \"-c\", \"echo failed $HOLDFAST_EXIT_CODE >>notes\"]]\n\
                finally = [[\"sh\", \"-c\", \"echo finally >>notes\"], [\"sleep\", \"1000\"]]\n[metrics]\nfile = \"figures.prom\"\n";
    let far = Far::new(false, &format!("{SHORT}{jobs}")).await;
    far.plant(30);
    far.expect(0, &["init"]);
    far.proxy.take();
    let child = far.start(&["run"]);
    until("packs", || far.proxy.count("PUT", "/data/") >= 3);
    far.hang();
    // The hook that sleeps is asked to end after ten seconds.
    let told = stop(child, 143, SHORT_END + Duration::from_secs(10));
    assert_eq!(far.desk.read("notes"), "failed 143\nfinally\n", "{}", told.err);
    let figures = far.desk.read("figures.prom");
    let line = |line: &&str| line.starts_with("holdfast_last_run_exit_code{") && line.contains("job=\"files\"");
    assert!(figures.lines().find(line).is_some_and(|line| line.ends_with(" 143.0")), "{figures}");
    assert!(told.err.contains("was ended, since the run was asked to stop"), "{}", told.err);
}

/// Where a source waits for ever until it is let go.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let open = self.0.0.lock().expect("no panic");
        drop(self.0.1.wait_while(open, |open| !*open).expect("no panic"));
    }
}

/// Lets everybody go in the end, also when the test failed: the runtime waits for them.
struct Opens(Gate);

impl Drop for Opens {
    fn drop(&mut self) {
        *self.0.0.0.lock().expect("no panic") = true;
        self.0.0.1.notify_all();
    }
}

/// A source that gives its items, and then hangs.
struct Hanging {
    items: std::vec::IntoIter<Walked>,
    then: Option<Gate>,
}

impl Source for Hanging {
    fn next(&mut self) -> Option<Walked> {
        let next = self.items.next();
        if let (None, Some(gate)) = (&next, &self.then) {
            gate.pass();
        }
        next
    }
    fn vanished(&self) -> u64 {
        0
    }
}

/// Content that is there, or hangs.
struct Bytes {
    size: u64,
    gate: Option<Gate>,
}

impl Content for Bytes {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.gate.iter().for_each(Gate::pass);
        let length = buffer.len().min(self.size.saturating_sub(offset) as usize);
        buffer[..length].fill(7);
        Ok(length)
    }
}

fn item(key: &str, kind: Kind, size: u64, gate: Option<Gate>) -> Walked {
    let time = FileTime { seconds: 1, nanos: 0 };
    let (uid, gid, device_id, nlink, rdev, mode) = (0, 0, 1, 1, (0, 0), 0o755);
    let inode = u64::from(key.bytes().next().unwrap_or_default());
    let meta = Meta { kind, size, allocated: size, mode, uid, gid, mtime: time, ctime: time, inode, device_id, nlink, rdev };
    Walked::Item(Found { key: key.into(), meta, origin: Origin::Given(Arc::new(Bytes { size, gate })), name: OsString::new() })
}

/// A file that cannot be read to its end, and a folder that cannot: what came before is committed, and not waited for is the rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_hangs() {
    let gate = Gate::default();
    let _opens = Opens(gate.clone());
    let root = || item("", Kind::Directory, 0, None);
    let (small, large) = (|key| item(key, Kind::File, 1000, None), |key, gate| item(key, Kind::File, 64 << 10, gate));
    let sources: [(&str, Vec<Walked>, Option<Gate>, bool); 4] = [
        ("a large file", vec![root(), small("a"), large("b", None), large("c", Some(gate.clone())), small("d")], None, true),
        ("a small file", vec![root(), small("a"), large("b", None), item("c", Kind::File, 9, Some(gate.clone()))], None, true),
        ("a folder", vec![root(), small("a"), large("b", None)], Some(gate.clone()), false),
        ("all of it", Vec::new(), Some(gate.clone()), false),
    ];
    for (what, items, then, commits) in sources {
        let env = Env::real();
        let stores = [MemoryStore::new(&env, "one"), MemoryStore::new(&env, "two")];
        rig::make(&env, rig::all(&stores)).await.expect("made");
        let repository = rig::open(&env, rig::all(&stores), Access::Write).await.expect("opened");
        let paths = Vec::new();
        let drain = Duration::from_secs(1);
        let settings = BackupSettings { paths, drain, ..rig::settings(Path::new("/"), "stopped") };
        let settings = BackupSettings { partial_every: Duration::from_secs(600), ..settings };
        let given = Given { path: b"/made up".to_vec(), source: Box::new(Hanging { items: items.into_iter(), then }) };
        let stop = Stop::default();
        let request = stop.clone();
        let asking = env.spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            request.request();
        });
        let began = Instant::now();
        let done = holdfast::backup::run_sources(&repository, &settings, vec![given], &Progress::default(), &stop).await;
        asking.await;
        assert!(began.elapsed() < Duration::from_secs(3 + 1 + 7 + 2), "{what}: it took {:?}", began.elapsed());
        let after = rig::open(&env, rig::all(&stores), Access::Read).await.expect("opened");
        let snapshots = after.snapshots().await.expect("listed");
        assert_eq!(snapshots.len(), usize::from(commits), "{what}: {:?}", done.map(|report| report.partial));
        if let Some(view) = snapshots.first() {
            let tree = rig::tree_of(&after, &view.snapshot).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let names: Vec<&[u8]> = tree.keys().map(Vec::as_slice).collect();
            assert_eq!(names, [&b""[..], b"a", b"b"], "{what}");
            assert_eq!(view.replicas.len(), 2, "{what}");
        }
    }
}
