//! A crash at every store operation of `init` and two backups, in every way a crash can leave an operation; and one store that
//! fails from any operation on, while the others go on. Whatever happened: the repository opens, what was committed reads
//! back, the next run completes every replica, and what was published is not sent again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::backup::{self, BackupReport};
use holdfast::clock::Env;
use holdfast::progress::{Progress, Stop};
use holdfast::repository::{Access, Repository};
use holdfast::store::Store;
use holdfast::store::directory::DirectoryStore;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault, FaultyStore, How};
use crate::support::rig::{self, Before, Tree, WALL};
use crate::support::source_tree::noise;

/// Longer than any run takes in the tests' own time: who needs it hangs.
const FOREVER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between one process and the next.
const HOUR: Duration = Duration::from_secs(3600);

/// Folders, files of no chunk, of one and of many, twins, and a link.
fn plant(at: &Path) {
    fs::create_dir_all(at.join("folder/deeper")).expect("made");
    fs::create_dir(at.join("empty folder")).expect("made");
    for i in 0..24_u64 {
        let folder = ["", "folder", "folder/deeper"][i as usize % 3];
        fs::write(at.join(folder).join(format!("small-{i:02}")), noise(i, 100 + 97 * i as usize)).expect("written");
    }
    fs::write(at.join("empty"), b"").expect("written");
    fs::write(at.join("folder/large"), noise(100, 90_000)).expect("written");
    fs::write(at.join("large"), noise(101, 120_000)).expect("written");
    fs::write(at.join("twin of small-00"), noise(0, 100)).expect("written");
    symlink("large", at.join("link")).expect("made");
}

/// Some of everything: new, changed, gone, longer.
fn change(at: &Path) {
    fs::write(at.join("new"), noise(200, 5_000)).expect("written");
    fs::write(at.join("folder/small-01"), noise(201, 300)).expect("written");
    fs::remove_file(at.join("folder/deeper/small-02")).expect("removed");
    fs::write(at.join("large"), [noise(101, 60_000), noise(202, 40_000), noise(101, 120_000)].concat()).expect("written");
    fs::write(at.join("zz-last"), noise(203, 40_000)).expect("written");
}

/// Where and how a process, or one store of it, is cut off.
#[derive(Clone, Copy, Debug)]
struct Cut {
    at: u64,
    how: How,
    /// The only store that fails; none: all do.
    only: Option<usize>,
}

/// Counts calls, and remembers which one was cut.
#[derive(Clone, Default)]
struct Witness {
    calls: Arc<AtomicU64>,
    cut: Arc<Mutex<Option<Operation>>>,
}

impl Witness {
    fn plan(&self, cut: Cut) -> impl Fn(&Call) -> Fault + Send + Sync + use<> {
        let witness = self.clone();
        move |call| {
            let index = witness.calls.fetch_add(1, SeqCst);
            if index < cut.at {
                return Fault::Pass;
            }
            let before = Fault::FailBefore(StoreErrorKind::Unavailable);
            if index > cut.at {
                return before;
            }
            *witness.cut.lock().expect("no panic") = Some(call.operation);
            match cut.how {
                How::Before => before,
                How::Applied => Fault::FailAfter(StoreErrorKind::Unavailable),
                How::Torn => Fault::Torn,
            }
        }
    }
}

/// What one process of the tests does: `init` where told so, then a backup.
async fn process(
    env: &Env,
    stores: &[Arc<dyn Store>],
    source: &Path,
    tag: &str,
    init: bool,
) -> Result<(Repository, BackupReport), String> {
    let work = async {
        if init {
            let made = rig::make(env, rig::members(stores.iter().cloned())).await.map_err(|e| format!("init: {e}"))?;
            if made.replicas.len() < (stores.len() - 1).max(1) {
                return Err(format!("init: {:?}", made.failed));
            }
        }
        let repository =
            rig::open(env, rig::members(stores.iter().cloned()), Access::Write).await.map_err(|e| format!("open: {e}"))?;
        let settings = rig::settings(source, tag);
        let report = backup::run(&repository, &settings, &Progress::default(), &Stop::default()).await;
        Ok((repository, report.map_err(|e| format!("backup: {e}"))?))
    };
    env.timeout(FOREVER, work).await.unwrap_or_else(|| panic!("the process hangs"))
}

fn plain(stores: &[MemoryStore]) -> Vec<Arc<dyn Store>> {
    stores.iter().map(|s| Arc::new(s.clone()) as Arc<dyn Store>).collect()
}

/// What a series of crashes starts from.
struct Scene<'s> {
    start: &'s [MemoryStore],
    source: &'s Path,
    /// What each snapshot has to hold, by tag: of those that are there, and of `cut` and `next`.
    trees: &'s BTreeMap<&'static str, Tree>,
    /// Whether the process begins with `init`.
    init: bool,
    /// How many crashes left a partial snapshot: without any, little was shown.
    resumed: AtomicU64,
}

impl Scene<'_> {
    /// One process that is cut off, and the proof that nothing is lost by it. Gives the operation that was cut; none: the
    /// process was over before.
    async fn one(&self, cut: Cut) -> Result<Option<Operation>, String> {
        let env = Env::inline(cut.at, WALL.plus(HOUR));
        let mut stores = Vec::new();
        for store in self.start {
            stores.push(rig::copy(&env, store).await);
        }
        let witness = Witness::default();
        let faulty: Vec<Arc<dyn Store>> = plain(&stores)
            .into_iter()
            .enumerate()
            .map(|(i, store)| match cut.only {
                Some(only) if only != i => store,
                _ => Arc::new(FaultyStore::new(&env, store, witness.plan(cut))),
            })
            .collect();
        let outcome = process(&env, &faulty, self.source, "cut", self.init).await;
        let operation = *witness.cut.lock().expect("no panic");
        match (&outcome, cut.only, operation) {
            (_, None, Some(_)) => {}
            (Ok((_, report)), _, None) => {
                if rig::committed(&report.replicas).len() != stores.len() || report.partial || report.errors > 0 {
                    return Err(format!("nothing was in the way, and {report:?}"));
                }
            }
            (Ok((_, report)), Some(only), Some(_)) => self.went_on(&env, &stores, only, report).await?,
            (Err(e), Some(only), Some(_)) => {
                // While it is not known what each store holds, nothing is made; later, the others do without.
                let mut made = !self.init || !e.starts_with("init:");
                for (_, store) in stores.iter().enumerate().filter(|(i, _)| *i != only) {
                    made |= !rig::names(store, "descriptor").await.is_empty();
                }
                if made {
                    return Err(format!("two stores of three were fine: {e}"));
                }
            }
            (Err(e), _, None) => return Err(format!("nothing was in the way: {e}")),
        }
        drop(outcome);
        self.next(&stores, cut).await.map(|()| operation)
    }

    /// One store failed: the snapshot is at the others, complete, and the report says so.
    async fn went_on(&self, env: &Env, stores: &[MemoryStore], only: usize, report: &BackupReport) -> Result<(), String> {
        let others: Vec<MemoryStore> = stores.iter().enumerate().filter(|(i, _)| *i != only).map(|(_, s)| s.clone()).collect();
        let good = others.iter().all(|s| report.replicas.iter().any(|r| r.name == s.label() && r.committed));
        if !good || report.partial || report.errors > 0 {
            return Err(format!("two stores of three were fine, and {report:?}"));
        }
        let repository = rig::open(env, rig::all(&others), Access::Read).await.map_err(|e| e.to_string())?;
        let complete = rig::read_all(&repository, self.trees).await?;
        match complete.last() {
            Some((tag, 2)) if tag == "cut" => Ok(()),
            _ => Err(format!("of the others, {complete:?}")),
        }
    }

    /// The next process, with nothing in its way.
    async fn next(&self, stores: &[MemoryStore], cut: Cut) -> Result<(), String> {
        let env = Env::inline(1_000_000 + cut.at, WALL.plus(2 * HOUR));
        if self.init {
            let report = rig::make(&env, rig::all(stores)).await.map_err(|e| format!("init again: {e}"))?;
            if !report.failed.is_empty() {
                return Err(format!("init again: {:?}", report.failed));
            }
        }
        let before = rig::open(&env, rig::all(stores), Access::Write).await.map_err(|e| format!("open again: {e}"))?;
        if before.writable() != before.set.all() {
            return Err(format!("{:?}", (0..stores.len()).map(|i| before.fault(i)).collect::<Vec<_>>()));
        }
        let complete = rig::read_all(&before, self.trees).await?;
        let old = self.trees.keys().filter(|tag| !["cut", "next"].contains(*tag));
        for tag in old {
            if !complete.contains(&((*tag).to_owned(), stores.len())) {
                return Err(format!("snapshot {tag:?} was there before, and now there are {complete:?}"));
            }
        }
        if before.snapshots().await.map_err(|e| e.to_string())?.iter().any(|view| view.snapshot.partial) {
            self.resumed.fetch_add(1, SeqCst);
        }
        let mut had: Vec<Before> = Vec::new();
        for (i, store) in stores.iter().enumerate() {
            had.push((rig::names(store, "").await, rig::published(&before, i).await));
        }
        drop(before);
        let (repository, report) =
            process(&env, &plain(stores), self.source, "next", false).await.map_err(|e| format!("next {e}"))?;
        if rig::committed(&report.replicas).len() != stores.len() || report.partial || report.errors > 0 {
            return Err(format!("the next run: {report:?}"));
        }
        let mut after = Vec::new();
        for i in 0..stores.len() {
            after.push(rig::published(&repository, i).await);
        }
        rig::nothing_twice(&plain(stores), &had, &after).await?;
        for (i, store) in stores.iter().enumerate() {
            let alone = rig::open(&env, rig::all(&stores[i..=i]), Access::Read).await.map_err(|e| e.to_string())?;
            let complete = rig::read_all(&alone, self.trees).await.map_err(|e| format!("{} alone: {e}", store.label()))?;
            if complete.last().map(|(tag, _)| tag.as_str()) != Some("next") {
                return Err(format!("{} alone has {complete:?}", store.label()));
            }
        }
        rig::verify_all(&repository).await
    }

    /// Every operation, in every way. Gives how many that were.
    async fn every(&self, only: Option<usize>) -> u64 {
        let mut points = 0;
        for at in 0.. {
            let mut ways = vec![How::Before];
            while let Some(how) = ways.pop() {
                let cut = Cut { at, how, only };
                match self.one(cut).await {
                    Ok(None) => {
                        assert!(
                            only.is_some() || self.resumed.load(SeqCst) * 4 > points,
                            "of {points} few left a partial snapshot"
                        );
                        return points;
                    }
                    // A read that was cut off has left nothing, however far it came.
                    Ok(Some(Operation::Put | Operation::Delete)) if how == How::Before => {
                        ways.extend([How::Applied, How::Torn]);
                    }
                    Ok(Some(_)) => {}
                    Err(e) => panic!("{cut:?}: {e}"),
                }
                points += 1;
            }
        }
        points
    }
}

/// Torn puts at a real directory, where half a file is left: it is no object, and in nobody's way.
#[tokio::test(start_paused = true)]
async fn half_files_in_a_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("one"), noise(1, 20_000)).expect("written");
    let trees = trees(None, folder.path());
    let mut points = 0;
    for at in 0.. {
        let root = tempfile::tempdir().expect("a folder");
        let env = Env::inline(at, WALL.plus(HOUR));
        let store = Arc::new(DirectoryStore::open(&env, "here", root.path().to_path_buf(), false).expect("it opens"));
        let witness = Witness::default();
        let plan = witness.plan(Cut { at, how: How::Torn, only: None });
        let faulty = FaultyStore::new(&env, store.clone(), plan).torn_into(root.path().to_path_buf());
        let outcome = process(&env, &[Arc::new(faulty)], folder.path(), "cut", true).await;
        let operation = *witness.cut.lock().expect("no panic");
        if operation.is_none() {
            outcome.expect("nothing was in the way");
            break;
        }
        if operation != Some(Operation::Put) {
            continue;
        }
        points += 1;
        let env = Env::inline(1_000_000 + at, WALL.plus(2 * HOUR));
        let objects = rig::names(&*store, "").await;
        assert!(objects.iter().all(|name| !name.contains("tmp") && !name.contains("torn")), "{objects:?}");
        #[allow(clippy::cloned_ref_to_slice_refs, reason = "the clone becomes a `dyn Store`")]
        let (repository, _) =
            process(&env, &[store.clone()], folder.path(), "next", true).await.unwrap_or_else(|e| panic!("{at}: {e}"));
        let complete = rig::read_all(&repository, &trees).await.unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!(complete.last(), Some(&("next".to_owned(), 1)), "{at}");
        rig::verify_all(&repository).await.unwrap_or_else(|e| panic!("{at}: {e}"));
    }
    println!("figure: crash points, half a file in a directory: {points}");
    assert!(points > 10);
}

/// A repository with one snapshot, tagged `first`.
async fn with_first(source: &Path) -> Vec<MemoryStore> {
    let env = Env::inline(5, WALL);
    let stores = rig::stores(&env);
    let (_, report) = process(&env, &plain(&stores), source, "first", true).await.expect("a first backup");
    assert_eq!(rig::committed(&report.replicas), rig::NAMES);
    stores
}

fn trees(old: Option<&Tree>, source: &Path) -> BTreeMap<&'static str, Tree> {
    let now = rig::tree_at(source);
    let mut trees = BTreeMap::from([("cut", now.clone()), ("next", now)]);
    trees.extend(old.map(|old| ("first", old.clone())));
    trees
}

#[tokio::test(start_paused = true)]
async fn the_first_process() {
    let folder = tempfile::tempdir().expect("a folder");
    plant(folder.path());
    let (start, trees) = (rig::stores(&Env::inline(0, WALL)), trees(None, folder.path()));
    let scene = Scene { start: &start, source: folder.path(), trees: &trees, init: true, resumed: AtomicU64::new(0) };
    println!("figure: crash points, init and first backup: {}", scene.every(None).await);
}

#[tokio::test(start_paused = true)]
async fn the_second_process() {
    let folder = tempfile::tempdir().expect("a folder");
    plant(folder.path());
    let first = rig::tree_at(folder.path());
    let start = with_first(folder.path()).await;
    change(folder.path());
    let trees = trees(Some(&first), folder.path());
    let scene = Scene { start: &start, source: folder.path(), trees: &trees, init: false, resumed: AtomicU64::new(0) };
    println!("figure: crash points, second backup: {}", scene.every(None).await);
}

#[tokio::test(start_paused = true)]
async fn one_store_of_the_first_process() {
    let folder = tempfile::tempdir().expect("a folder");
    plant(folder.path());
    let (start, trees) = (rig::stores(&Env::inline(0, WALL)), trees(None, folder.path()));
    let scene = Scene { start: &start, source: folder.path(), trees: &trees, init: true, resumed: AtomicU64::new(0) };
    for only in 0..start.len() {
        println!("figure: failing points, store {only} alone, init and first backup: {}", scene.every(Some(only)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn one_store_of_the_second_process() {
    let folder = tempfile::tempdir().expect("a folder");
    plant(folder.path());
    let first = rig::tree_at(folder.path());
    let start = with_first(folder.path()).await;
    change(folder.path());
    let trees = trees(Some(&first), folder.path());
    let scene = Scene { start: &start, source: folder.path(), trees: &trees, init: false, resumed: AtomicU64::new(0) };
    for only in 0..start.len() {
        println!("figure: failing points, store {only} alone, second backup: {}", scene.every(Some(only)).await);
    }
}

/// Two replicas lack different things: what either lacks goes to both in one pack, and nothing goes where nobody lacks it.
#[tokio::test(start_paused = true)]
async fn two_that_lack_different_chunks() {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    plant(folder.path());
    fs::write(other.path().join("theirs"), noise(300, 150_000)).expect("written");
    let env = Env::inline(6, WALL);
    let stores = with_first(other.path()).await;
    for (out, file) in [(1, "of two"), (2, "of one")] {
        fs::write(other.path().join(file), noise(400 + out as u64, 100_000)).expect("written");
        let mut some = plain(&stores);
        some[out] = Arc::new(FaultyStore::new(&env, some[out].clone(), |_| Fault::FailBefore(StoreErrorKind::Unavailable)));
        let (_, report) = process(&env, &some, other.path(), file, false).await.expect("two of three are enough");
        assert_eq!(rig::committed(&report.replicas).len(), 2);
    }
    let before = rig::open(&env, rig::all(&stores), Access::Write).await.expect("it opens");
    let mut had: Vec<Before> = Vec::new();
    for (i, store) in stores.iter().enumerate() {
        had.push((rig::names(store, "").await, rig::published(&before, i).await));
    }
    drop(before);
    let settings = holdfast::backup::BackupSettings {
        paths: vec![folder.path().to_path_buf(), other.path().to_path_buf()],
        ..rig::settings(folder.path(), "both")
    };
    let repository = rig::open(&env, rig::all(&stores), Access::Write).await.expect("it opens");
    let report = backup::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("all is well");
    assert_eq!(rig::committed(&report.replicas), rig::NAMES);
    let mut after = Vec::new();
    for i in 0..stores.len() {
        after.push(rig::published(&repository, i).await);
    }
    rig::nothing_twice(&plain(&stores), &had, &after).await.expect("nothing goes where nobody lacks it");
    let lacking = |i: usize| after[i].chunks().difference(&had[i].1.chunks()).count();
    assert!(lacking(1) > 0 && lacking(2) > 0);
    rig::verify_all(&repository).await.expect("all is there");
}
