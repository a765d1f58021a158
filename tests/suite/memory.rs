//! Memory is bounded by the budget, whatever the source: each case runs in a process of its own, which looks at the most
//! it ever held. `HOLDFAST_SUITE=full` takes the full sizes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use holdfast::backup::{self, BackupReport, BackupSettings, Given};
use holdfast::clock::Env;
use holdfast::lifecycle::prune::{self, PruneSettings};
use holdfast::lifecycle::prune_plan::{Limits, MaxUnused};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::init::{InitSettings, init};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository};
use holdfast::restore::{self, RestoreSettings};
use holdfast::seal::key::{KdfParams, Secret};
use holdfast::store::directory::DirectoryStore;
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::Operation;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{Store, wrap};

use crate::support::faulty_store::{Call, Fault, FaultyStore};
use crate::support::generated::{Generated, Grain};

const MIB: u64 = 1 << 20;
/// What a process may hold besides budget and index.
const SLACK: u64 = 64 * MIB;

/// Names the case in the process that measures it.
const CASE: &str = "HOLDFAST_TEST_MEMORY";
const FOLDER: &str = "HOLDFAST_TEST_MEMORY_FOLDER";

fn full() -> bool {
    std::env::var_os("HOLDFAST_SUITE").is_some_and(|v| v == "full")
}

/// Quick or full size.
fn sized(quick: u64, full_size: u64) -> u64 {
    if full() { full_size } else { quick }
}

/// The most memory this process ever held, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Fifty GiB, or two, in sizes from nothing to a tenth of everything; bytes left are one last file.
fn many_sizes() -> Generated {
    let total = sized(2 << 30, 50 << 30);
    let sizes = [0, 1, 100, 5 << 10, 70 << 10, 128 << 10, (128 << 10) + 1, 700 << 10, 3 << 20, 16 << 20, 60 << 20];
    let size_of = move |number: u64| match number {
        1 => total / 8,
        n => sizes[n as usize % sizes.len()],
    };
    let round: u64 = sizes.iter().sum();
    Generated::new((total - total / 8) / round * sizes.len() as u64, Grain::Mixed, size_of)
}

/// That many small files in one directory.
fn fill(folder: &Path, count: u64) {
    std::fs::create_dir(folder).unwrap();
    for number in 0..count {
        std::fs::write(folder.join(format!("file-{number:08}")), format!("{number} in all its glory")).unwrap();
    }
}

/// What a case measures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// A backup into stores that keep nothing.
    Backup,
    /// A backup into a directory.
    Keep,
    /// A restore of what was kept.
    Restore,
    /// Two backups into a directory, of which the first is forgotten.
    Churn,
    /// A prune of what they left.
    Prune,
}

struct Case {
    name: &'static str,
    doing: Doing,
    folder: PathBuf,
    stores: usize,
    delay: Duration,
    /// The last store takes a few packs and then nothing.
    stalls: bool,
    settings: BackupSettings,
    sources: Vec<Given>,
    /// What is backed up after that.
    later: Vec<Given>,
}

fn case(name: &'static str, folder: &Path) -> Case {
    let given = |source: Generated| vec![Given { path: b"/generated".to_vec(), source: Box::new(source) }];
    let plain = Case {
        name,
        doing: Doing::Backup,
        folder: folder.to_owned(),
        stores: 1,
        delay: Duration::ZERO,
        stalls: false,
        settings: BackupSettings::default(),
        sources: Vec::new(),
        later: Vec::new(),
    };
    match name {
        "one_store" => Case { sources: given(many_sizes()), ..plain },
        "three_stores" => Case { stores: 3, sources: given(many_sizes()), ..plain },
        "many_readers" => {
            let (count, size) = (sized(4, 16), sized(100 * MIB, 500 * MIB));
            let settings = BackupSettings { read_concurrency: 16, ..plain.settings };
            Case { stores: 3, settings, sources: given(Generated::new(count, Grain::Mixed, move |_| size)), ..plain }
        }
        "small_budget" => {
            let settings = BackupSettings { read_concurrency: 16, memory: 48 * MIB, ..plain.settings };
            Case { settings, sources: given(Generated::new(4, Grain::Mixed, |_| 100 * MIB)), ..plain }
        }
        "slow_stores" => {
            let size = sized(512 * MIB, 4 << 30);
            let delay = Duration::from_millis(200);
            Case { stores: 3, delay, sources: given(Generated::new(3, Grain::Random, move |_| size / 3)), ..plain }
        }
        "stalled_store" => {
            let (size, delay) = (sized(512 * MIB, 4 << 30), Duration::from_millis(200));
            // Small packs: patience with a store grows with what it has to take.
            let settings = BackupSettings { data_pack: 2 << 20, ..plain.settings };
            let sources = given(Generated::new(3, Grain::Random, move |_| size / 3));
            Case { stores: 3, delay, stalls: true, settings, sources, ..plain }
        }
        "million_names" => Case { sources: given(Generated::new(1_000_000, Grain::Mixed, |_| 0)), ..plain },
        "million_files" => {
            let count = sized(200_000, 1_000_000);
            Case { sources: given(Generated::new(count, Grain::Mixed, |n| 20 + n % 50)), ..plain }
        }
        "directory" => {
            let settings = BackupSettings { paths: vec![folder.join("tree")], ..plain.settings };
            Case { settings, ..plain }
        }
        "keep_large" => {
            let (count, size) = (sized(4, 16), sized(128 * MIB, 500 * MIB));
            Case { doing: Doing::Keep, sources: given(Generated::new(count, Grain::Mixed, move |_| size)), ..plain }
        }
        "keep_small" => {
            let count = sized(30_000, 1_000_000);
            Case { doing: Doing::Keep, sources: given(Generated::new(count, Grain::Mixed, |n| 20 + n % 5000)), ..plain }
        }
        "restore" => Case { doing: Doing::Restore, ..plain },
        "restore_small_budget" => {
            let settings = BackupSettings { memory: 32 * MIB, ..plain.settings };
            Case { doing: Doing::Restore, settings, ..plain }
        }
        // Every file is one chunk. Of each pack a third stays live, and two thirds are not.
        "churn" => {
            let count = sized(60_000, 6_000_000);
            let sources = given(Generated::new(count, Grain::Mixed, |n| 20 + n % 50));
            let later = given(Generated::new(count, Grain::Mixed, |n| 20 + n % 50 + 100 * u64::from(n % 3 != 0)));
            Case { doing: Doing::Churn, sources, later, ..plain }
        }
        "prune" => Case { doing: Doing::Prune, ..plain },
        other => panic!("no such case: {other}"),
    }
}

async fn repository(env: &Env, case: &Case) -> Repository {
    let stores: Vec<Arc<dyn Store>> = (0..case.stores)
        .map(|i| {
            let label = format!("store-{i}");
            if case.doing != Doing::Backup {
                let store = DirectoryStore::open(env, &label, case.folder.join("store"), true).unwrap();
                return Arc::new(store) as Arc<dyn Store>;
            }
            let store = Arc::new(MemoryStore::discarding(env, &label));
            let (delay, stalls) = (case.delay, case.stalls && i + 1 == case.stores);
            if delay.is_zero() {
                store as Arc<dyn Store>
            } else {
                let stalled = move |c: &Call| stalls && c.operation == Operation::Put && c.nth > 20;
                Arc::new(FaultyStore::new(env, store, move |c| if stalled(c) { Fault::Stall } else { Fault::Delay(delay) }))
            }
        })
        .collect();
    let members = || -> Vec<Member> {
        let member = |(i, store): (usize, &Arc<dyn Store>)| Member {
            name: format!("store-{i}"),
            url: format!("memory:{i}"),
            store: Ok(wrap(env, store.clone(), &StoreSettings::default())),
        };
        stores.iter().enumerate().map(member).collect()
    };
    let unlock = Unlock::KeyFile(Secret::new([7; 32]));
    let settings = InitSettings { kdf: KdfParams::floor_for_tests(), lowered_kdf: true, ..InitSettings::default() };
    if !matches!(case.doing, Doing::Restore | Doing::Prune) {
        init(env, members(), &settings, &unlock).await.unwrap();
    }
    let (quorum, stall) = (case.stores - usize::from(case.stalls), Duration::from_secs(if case.stalls { 5 } else { 60 }));
    let replicas = ReplicaSettings { write_quorum: Some(quorum), stall, ..ReplicaSettings::default() };
    let settings = OpenSettings { replicas, lowered_kdf: true, ..OpenSettings::default() };
    Repository::open(env, members(), settings, &unlock, Access::Write).await.unwrap()
}

async fn measure(mut case: Case) {
    let env = Env::real();
    let repository = repository(&env, &case).await;
    let began = env.elapsed();
    let (entries, bytes) = match case.doing {
        Doing::Restore => restored(&repository, &case).await,
        Doing::Backup | Doing::Keep => backed_up(&repository, &mut case).await,
        Doing::Churn => churned(&repository, &mut case).await,
        Doing::Prune => pruned(&repository, &case).await,
    };
    let took = env.elapsed().saturating_sub(began);
    let index = repository.index().await.unwrap().read().unwrap().memory();
    let (peak, allowed) = (peak(), case.settings.memory + index + SLACK);
    println!(
        "memory {}: peak {} MiB of {} MiB (budget {}, index {}); {entries} entries, {} MiB in {:.1} s",
        case.name,
        peak / MIB,
        allowed / MIB,
        case.settings.memory / MIB,
        index / MIB,
        bytes / MIB,
        took.as_secs_f64(),
    );
    assert!(peak <= allowed, "{} MiB are more than {} MiB", peak / MIB, allowed / MIB);
}

async fn backed_up(repository: &Repository, case: &mut Case) -> (u64, u64) {
    let sources = std::mem::take(&mut case.sources);
    let report: BackupReport =
        backup::run_sources(repository, &case.settings, sources, &Progress::default(), &Stop::default()).await.unwrap();
    assert_eq!((report.errors, report.partial), (0, false), "{:?}", report.problems);
    let committed = report.replicas.iter().filter(|r| r.committed).count();
    assert_eq!(committed, case.stores - usize::from(case.stalls), "{:?}", report.replicas);
    let s = &report.statistics;
    (s.files + s.directories, s.bytes_read)
}

async fn churned(repository: &Repository, case: &mut Case) -> (u64, u64) {
    let first = backed_up(repository, case).await;
    let old = repository.live().await[0].id;
    case.sources = std::mem::take(&mut case.later);
    let second = backed_up(repository, case).await;
    repository.forget(0, &[old], |_| Ok(())).await.unwrap();
    (first.0 + second.0, first.1 + second.1)
}

/// Gives chunks that are known when it begins, and bytes that it moves.
async fn pruned(repository: &Repository, case: &Case) -> (u64, u64) {
    let chunks = {
        let index = repository.index().await.unwrap();
        let chunks = index.read().unwrap();
        chunks.packs().iter().map(|pack| u64::from(pack.chunks)).sum()
    };
    assert!(chunks > sized(95_000, 9_900_000), "{chunks} chunks");
    let limits = Limits { max_unused: MaxUnused::Bytes(0), max_repack: None };
    let settings = PruneSettings { limits, mercy: Duration::ZERO, memory: case.settings.memory, ..PruneSettings::default() };
    let report = prune::run(repository, &settings, &Progress::default(), &Stop::default()).await.unwrap();
    let one = &report.replicas[0];
    assert!(one.behind.is_none() && one.repacked.objects > 0 && one.deleted.objects > 0, "{one:?}");
    (chunks, one.made.bytes)
}

async fn restored(repository: &Repository, case: &Case) -> (u64, u64) {
    let views = repository.snapshots().await.unwrap();
    let target = case.folder.join(format!("target-{}", case.settings.memory));
    let settings = RestoreSettings { target, memory: case.settings.memory, ..RestoreSettings::default() };
    let snapshot = &views.first().unwrap().snapshot;
    let report = restore::run(repository, snapshot, &settings, &Progress::default(), &Stop::default()).await.unwrap();
    assert_eq!(report.failed_count, 0, "{:?}", report.failed);
    assert_eq!((report.entries, report.bytes_written), (report.files_written + 1, report.bytes_total));
    (report.entries, report.bytes_written)
}

#[test]
#[ignore = "one process of the cases below, which start it"]
fn measured() {
    let Some(name) = std::env::var(CASE).ok() else { return };
    let folder = std::env::var_os(FOLDER).unwrap();
    let case = case(name.leak(), Path::new(&folder));
    holdfast::clock::runtime().unwrap().block_on(measure(case));
}

/// Runs a case in a process of its own.
fn hold(name: &str, folder: &Path) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::measured", "--ignored", "--nocapture"])
        .env(CASE, name)
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    let figures = out.lines().find_map(|l| l.find("memory ").map(|at| &l[at..]));
    assert!(child.status.success(), "{name}: {}\n{err}", figures.unwrap_or("no figures"));
    println!("{}", figures.expect("the case measured itself"));
}

macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            hold(stringify!($name), Path::new("/"));
        }
    )*};
}

cases! {
    one_store
    three_stores
    many_readers
    small_budget
    slow_stores
    stalled_store
    million_names
    million_files
}

#[test]
fn directory() {
    let folder = tempfile::tempdir().unwrap();
    fill(&folder.path().join("tree"), sized(100_000, 1_000_000));
    hold("directory", folder.path());
}

#[test]
fn restore_of_large_files() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["keep_large", "restore", "restore_small_budget"] {
        hold(case, folder.path());
    }
}

#[test]
fn restore_of_small_files() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["keep_small", "restore", "restore_small_budget"] {
        hold(case, folder.path());
    }
}

/// Ten million chunks, of which four million go.
#[test]
fn prune_of_many_chunks() {
    let folder = tempfile::tempdir().unwrap();
    for case in ["churn", "prune"] {
        hold(case, folder.path());
    }
    if !full() {
        hold("restore", folder.path());
    }
}
