//! The lifecycle command by its own door, with a clock that the test sets: what it does and in which order, what it refuses,
//! what it leaves alone, and that every pack is read in time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use holdfast::cli::context::Context;
use holdfast::cli::lifecycle::{self, LifecycleArguments};
use holdfast::cli::output::Output;
use holdfast::clock::{Env, Time};
use holdfast::config::{Environment, Overrides};
use holdfast::lifecycle::rotation::{self, NOTE_ROTATION};
use holdfast::progress::Stop;
use holdfast::repository::Access;
use holdfast::verify::share::Share;
use serde_json::Value;

use crate::support::stage::files_below;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");
const DAY: i64 = 86_400;
/// A day that begins a rotation of any length up to 7.
const FIRST: i64 = 20_580;

/// A folder with a configuration, a source and two stores.
struct Desk {
    folder: tempfile::TempDir,
    more: String,
}

/// Collects what a command prints.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("one writer").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Desk {
    /// With these sections besides the stores'.
    fn new(more: &str) -> Desk {
        let desk = Desk { folder: tempfile::tempdir().expect("a folder"), more: more.to_owned() };
        std::fs::create_dir(desk.at("src")).expect("made");
        desk.configure(&["one", "two"]);
        desk
    }

    /// Lets the stores' clocks have shown this day when they wrote what was recorded last.
    fn recorded(&self, day: i64) {
        let time = |day: i64| std::time::UNIX_EPOCH + std::time::Duration::from_secs((day * DAY + 7200) as u64);
        for name in files_below(&self.at("stores")).into_keys() {
            let name = String::from_utf8(name).expect("plain").replace('\0', "/");
            let path = self.at("stores").join(&name);
            // What is of today was not given a day yet.
            if name.contains("/log/") && std::fs::metadata(&path).and_then(|m| m.modified()).expect("there") > time(FIRST + 100) {
                std::fs::File::open(&path).and_then(|file| file.set_modified(time(day))).expect("set");
            }
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        std::fs::canonicalize(self.folder.path()).expect("there").join(path)
    }

    fn configure(&self, stores: &[&str]) {
        let mut text = "[repository]\nkey_file = \"key\"\nstate_dir = \"state\"\nwrite_quorum = 1\n".to_owned();
        for store in stores {
            text += &format!("[[store]]\nname = \"{store}\"\nurl = \"file:stores/{store}\"\n");
        }
        // Small packs: there is something to take turns with.
        text += "[backup]\ndata_pack = \"1 MiB\"\nmeta_pack = \"1 MiB\"\n";
        text += &self.more;
        std::fs::write(self.at("holdfast.toml"), text).expect("written");
    }

    /// A file of random bytes.
    fn grow(&self, name: &str, kib: usize) {
        let mut bytes = vec![0; kib << 10];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        std::fs::write(self.at("src").join(name), bytes).expect("written");
    }

    /// Backs up as of a day.
    fn backup(&self, day: i64) {
        let time = Time(day * DAY * 1_000_000_000);
        let time = jiff::Timestamp::from_second(time.seconds()).expect("a time").to_string();
        self.program(0, &["backup", "--init", "--no-heal", "--time", &time, "src"]);
    }

    fn program(&self, code: i32, words: &[&str]) -> String {
        let out = Command::new(PROGRAM)
            .args(words)
            .current_dir(self.at(""))
            .env("HOME", self.at("home"))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(out.status.code(), Some(code), "{words:?}\n{}\n{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout)
    }

    fn snapshots(&self) -> usize {
        let all: Value = serde_json::from_str(&self.program(0, &["snapshots", "--json"])).expect("JSON");
        all.as_array().map_or(0, Vec::len)
    }

    fn context(&self, day: i64, printed: &Printed) -> Context {
        Context {
            env: Env::inline(day as u64, Time((day * DAY + 7_200) * 1_000_000_000)),
            output: Arc::new(Output::to(Box::new(printed.clone()), true, false, false)),
            stop: Stop::default(),
            signal: Arc::default(),
            overrides: Overrides { config: Some(self.at("holdfast.toml")), ..Overrides::default() },
            environment: Environment::of([("HOME".into(), self.at("home").into())]),
            current: self.at(""),
            program: "holdfast".into(),
            meters: Arc::default(),
        }
    }

    /// Runs the command on a day; gives its exit code and its summary.
    fn lifecycle(&self, day: i64, dry_run: bool, confirm: bool) -> (u8, Value) {
        let printed = Printed::default();
        let code = runtime().block_on(async {
            let context = self.context(day, &printed);
            let done = lifecycle::run(&context, LifecycleArguments { confirm, dry_run }).await;
            context.output.finish().expect("printed");
            done.unwrap_or_else(|e| panic!("on day {day}: {}", e.message)).code()
        });
        let text = String::from_utf8(printed.0.lock().expect("printed").clone()).expect("UTF-8");
        let last = text.lines().last().expect("a summary");
        (code, serde_json::from_str(last).expect("JSON"))
    }

    /// Packs of a store, and where they lie.
    fn packs(&self, store: &str) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for class in ["data", "meta"] {
            for folder in std::fs::read_dir(self.at("stores").join(store).join(class)).expect("packs") {
                for pack in std::fs::read_dir(folder.expect("a folder").path()).expect("packs") {
                    all.push(pack.expect("a pack").path());
                }
            }
        }
        all.sort();
        all
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

fn read(summary: &Value, store: usize) -> u64 {
    summary["verify"]["replicas"][store]["packs_read"].as_u64().unwrap_or_else(|| panic!("{summary:#}"))
}

#[test]
fn every_pack_is_read_once_within_the_days_and_missed_days_are_made_up_for() {
    let desk = Desk::new("[lifecycle]\nverify_within = \"5 d\"\n");
    desk.grow("a", 24 << 10);
    desk.backup(FIRST);
    let all = desk.packs("one").len() as u64;
    assert!(all >= 20, "{all} packs are too few to take turns with");
    let (code, first) = desk.lifecycle(FIRST, false, false);
    assert_eq!(code, 0, "{first:#}");
    assert!(read(&first, 0) < all, "one day's slice");
    assert_eq!(first["forget"]["skipped"].as_str().map(|why| why.contains("[retention]")), Some(true), "{first:#}");
    let (_, again) = desk.lifecycle(FIRST, false, false);
    assert_eq!((read(&again, 0), read(&again, 1)), (0, 0), "today's was read");
    // Two days are missed.
    let (_, second) = desk.lifecycle(FIRST + 3, false, false);
    assert_eq!(second["slices"][0]["count"], 3, "{second:#}");
    let (_, third) = desk.lifecycle(FIRST + 4, false, false);
    assert_eq!(third["slices"][1]["count"], 1);
    for store in 0..2 {
        let sum: u64 = [&first, &second, &third].map(|summary| read(summary, store)).iter().sum();
        assert_eq!(sum, desk.packs(["one", "two"][store]).len() as u64, "each once");
    }
    // A clock that runs years ahead reads everything once, and its note does not stop the next.
    let (_, ahead) = desk.lifecycle(FIRST + 2_000, false, false);
    assert_eq!(ahead["slices"][0]["count"], 5);
    let (_, back) = desk.lifecycle(FIRST + 5, false, false);
    assert_eq!(back["slices"][0]["count"], 1);
}

/// What a slice left unread is read with the next one, and then no more.
#[test]
fn what_was_left_unread_is_read_on_the_next_day() {
    let desk = Desk::new("[lifecycle]\nverify_within = \"5 d\"\n");
    desk.grow("a", 12 << 10);
    desk.backup(FIRST);
    let name = |path: &PathBuf| {
        let mut hash = [0; 32];
        hex::decode_to_slice(path.file_name().expect("a name").as_encoded_bytes(), &mut hash).expect("hex");
        (hash, 1)
    };
    let all: Vec<([u8; 32], u64)> = desk.packs("one").iter().map(name).collect();
    let slice = |day: i64| {
        let nth = u32::try_from(day.rem_euclid(5)).expect("small") + 1;
        Share::Slice { nth, of: 5, count: 1 }.choose(all.clone(), &[0; 32])
    };
    let (first, second) = (slice(FIRST + 1), slice(FIRST + 2));
    let others = all.iter().map(|(pack, _)| *pack).filter(|pack| !first.contains(pack) && !second.contains(pack));
    let unread: BTreeSet<[u8; 32]> = others.take(3).collect();
    assert_eq!(unread.len(), 3);
    runtime().block_on(async {
        let context = desk.context(FIRST, &Printed::default());
        let settings = context.settings().unwrap_or_else(|e| panic!("{}", e.message));
        let unlock = context.unlock(&settings, false).await.unwrap_or_else(|e| panic!("{}", e.message));
        let open = context.open(&settings, &unlock, Access::Write).await;
        let repository = open.unwrap_or_else(|e| panic!("{}", e.message));
        repository.note(0, NOTE_ROTATION, rotation::text(FIRST, 5, &unread)).await.expect("noted");
    });
    let (_, one) = desk.lifecycle(FIRST + 1, false, false);
    let (_, two) = desk.lifecycle(FIRST + 2, false, false);
    assert_eq!((read(&one, 0), read(&two, 0)), (first.len() as u64 + 3, second.len() as u64), "{one:#}");
}

#[test]
fn rot_is_found_within_the_days() {
    let desk = Desk::new("[lifecycle]\nverify_within = \"5 d\"\n");
    desk.grow("a", 12 << 10);
    desk.backup(FIRST);
    let pack = desk.packs("two")[3].clone();
    let mut bytes = std::fs::read(&pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = std::fs::metadata(&pack).expect("there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&pack, permissions).expect("set");
    std::fs::write(&pack, bytes).expect("damaged");
    let codes: Vec<u8> = (0..5).map(|day| desk.lifecycle(FIRST + day, false, false).0).collect();
    assert_eq!(codes.iter().filter(|code| **code == 14).count(), 1, "found on one day: {codes:?}");
    // Known damage is healed by the next run from the other store, and then all is well.
    let (code, summary) = desk.lifecycle(FIRST + 5, false, false);
    assert_eq!(code, 0, "{summary:#}");
    desk.program(0, &["restore", "latest", "--target", "back", "--from", "two"]);
    let below = desk.at("back").join(desk.at("src").strip_prefix("/").expect("absolute"));
    assert_eq!(files_below(&below), files_below(&desk.at("src")));
}

#[test]
fn more_than_the_limit_stops_before_it_forgets_or_prunes_until_confirmed() {
    let desk = Desk::new(
        "[retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"0 d\"\n[prune]\nmercy = \"0 s\"\nmax_unused = \"0 B\"\n",
    );
    for day in 0..4 {
        desk.grow("a", 3 << 10);
        desk.grow(&format!("only on day {day}"), 3 << 10);
        desk.backup(FIRST + day);
        std::fs::remove_file(desk.at("src").join(format!("only on day {day}"))).expect("removed");
    }
    let before = files_below(&desk.at("stores").join("one").join("data"));
    let (code, planned) = desk.lifecycle(FIRST + 10, true, false);
    assert_eq!(code, 17, "{planned:#}");
    let (code, refused) = desk.lifecycle(FIRST + 10, false, false);
    assert_eq!(code, 17, "{refused:#}");
    assert!(
        refused["forget"]["failed"].as_str().is_some_and(|why| why.contains("3 of 4") && why.contains("--confirm")),
        "{refused:#}"
    );
    assert!(refused["prune"]["skipped"].is_string(), "{refused:#}");
    assert!(refused["verify"]["replicas"].is_array(), "the rest goes on: {refused:#}");
    assert_eq!((desk.snapshots(), files_below(&desk.at("stores").join("one").join("data"))), (4, before.clone()));
    let (code, done) = desk.lifecycle(FIRST + 10, false, true);
    assert_eq!(code, 0, "{done:#}");
    assert_eq!(desk.snapshots(), 1);
    let bytes = |files: &BTreeMap<Vec<u8>, Vec<u8>>| files.values().map(Vec::len).sum::<usize>();
    let after = files_below(&desk.at("stores").join("one").join("data"));
    assert!(bytes(&after) * 10 < bytes(&before) * 6, "two files of five are left: {} of {}", bytes(&after), bytes(&before));
    // The next day there is nothing to confirm.
    let (code, quiet) = desk.lifecycle(FIRST + 11, false, false);
    assert_eq!(code, 0, "{quiet:#}");
    desk.program(0, &["verify", "--read-data"]);
}

#[test]
fn what_is_young_stays_whatever_the_rules_say() {
    let desk = Desk::new("[retention]\nkeep_last = 1\n[lifecycle]\nforget_floor = \"3 d\"\n");
    for day in 0..4 {
        desk.grow("a", 100 + day as usize);
        desk.backup(FIRST + day);
        desk.recorded(FIRST + day);
    }
    // Two hours into the day of the newest: those of the last two days are younger than three.
    let (code, summary) = desk.lifecycle(FIRST + 3, false, false);
    assert_eq!((code, desk.snapshots()), (0, 3), "{summary:#}");
    desk.recorded(FIRST + 4);
    let (code, _) = desk.lifecycle(FIRST + 4, false, false);
    assert_eq!((code, desk.snapshots()), (0, 2));
}

#[test]
fn an_empty_store_becomes_a_replica_and_one_that_is_away_costs_only_itself() {
    let desk = Desk::new("");
    desk.grow("a", 3 << 10);
    desk.backup(FIRST);
    desk.configure(&["one", "two", "three"]);
    std::fs::create_dir(desk.at("stores/three")).expect("made");
    let (code, summary) = desk.lifecycle(FIRST + 1, false, false);
    assert_eq!((code, summary["heal"]["replicas"][2]["snapshots_healed"].as_u64()), (0, Some(1)), "{summary:#}");
    desk.program(0, &["restore", "latest", "--target", "back", "--from", "three"]);
    std::fs::rename(desk.at("stores/two"), desk.at("stores/away")).expect("moved");
    let (code, summary) = desk.lifecycle(FIRST + 2, false, false);
    assert_eq!(code, 4, "{summary:#}");
    assert_eq!(summary["verify"]["num_errors"], 0, "{summary:#}");
    std::fs::rename(desk.at("stores/away"), desk.at("stores/two")).expect("moved");
    assert_eq!(desk.lifecycle(FIRST + 3, false, false).0, 0);
}

#[test]
fn a_dry_run_writes_nothing() {
    let desk = Desk::new(
        "[retention]\nkeep_last = 1\n[lifecycle]\nforget_limit = \"100%\"\nforget_floor = \"0 s\"\n[prune]\nmercy = \"0 s\"\nmax_unused = \"0 B\"\n",
    );
    for day in 0..3 {
        desk.grow("a", 1000 + day as usize);
        desk.backup(FIRST + day);
    }
    desk.configure(&["one", "two", "three"]);
    std::fs::create_dir(desk.at("stores/three")).expect("made");
    let before = files_below(&desk.at("stores"));
    let (code, summary) = desk.lifecycle(FIRST + 20, true, false);
    // The empty store is no replica yet, and is named.
    assert_eq!((code, &summary["dry_run"]), (4, &true.into()), "{summary:#}");
    assert_eq!(summary["forget"][0]["remove"].as_array().map(Vec::len), Some(2), "{summary:#}");
    // What it would forget counts as forgotten when it looks at what would be pruned.
    let dropped = |n: usize| summary["prune"]["replicas"][n]["packs_dropped"]["objects"].as_u64();
    assert!(dropped(0) >= Some(2) && dropped(1) >= Some(2), "{summary:#}");
    assert_eq!(summary["slices"][0]["count"], 1);
    assert_eq!(files_below(&desk.at("stores")), before);
    assert!(Path::new(&desk.at("stores/three")).is_dir());
}
