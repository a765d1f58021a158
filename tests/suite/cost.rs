//! What it costs: requests and bytes, counted by class.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast::backup::{BackupReport, BackupSettings};
use holdfast::chunk::split::ChunkerSpec;
use holdfast::format::record::{Action, Note};
use holdfast::replica::ReplicaSettings;
use holdfast::repository::Access;
use holdfast::store::meter::Operation;

use crate::support::recording_store::RecordingStore;
use crate::support::source_tree::noise;
use crate::support::stage::{Stage, backing_up, contents, entries, opening, pieces, run, tree, unlock};

/// What one replica was asked, by operation and class: calls and bytes of puts.
#[derive(Debug, Default)]
struct Bill(BTreeMap<(Operation, String), (u64, u64)>);

impl Bill {
    fn calls(&self, operation: Operation, class: &str) -> u64 {
        self.0.get(&(operation, class.into())).map_or(0, |(calls, _)| *calls)
    }
    fn all(&self) -> u64 {
        self.0.values().map(|(calls, _)| calls).sum()
    }
    fn of(&self, operation: Operation) -> u64 {
        self.0.iter().filter(|((o, _), _)| *o == operation).map(|(_, (calls, _))| calls).sum()
    }
    /// Bytes put, without checkpoints and what belongs to them.
    fn up(&self) -> u64 {
        let counted = |(operation, class): &(Operation, String)| {
            *operation == Operation::Put && !["checkpoints", "lists"].contains(&class.as_str())
        };
        self.0.iter().filter(|(key, _)| counted(key)).map(|(_, (_, bytes))| bytes).sum()
    }
}

/// A repository whose replicas keep count.
struct Counted {
    stage: Stage,
    notes: Vec<RecordingStore>,
}

impl Counted {
    async fn new(seed: u64, names: &[&'static str]) -> Counted {
        Counted::cut(seed, names, ChunkerSpec::default()).await
    }

    async fn cut(seed: u64, names: &[&'static str], chunker: ChunkerSpec) -> Counted {
        let stage = Stage { chunker, ..Stage::of(seed, names) };
        stage.init().await;
        let notes = stage.stores.iter().map(|store| RecordingStore::new(Arc::new(store.clone()))).collect();
        Counted { stage, notes }
    }

    fn members(&self) -> Vec<holdfast::replica::Member> {
        self.stage.names.iter().zip(&self.notes).map(|(name, store)| self.stage.wrapped(name, Arc::new(store.clone()))).collect()
    }

    /// What each replica was asked since the last call.
    fn bills(&self) -> Vec<Bill> {
        let bill = |store: &RecordingStore| {
            let mut bill = Bill::default();
            for record in store.take() {
                let class = record.name.split('/').next().unwrap_or_default().to_owned();
                let sums = bill.0.entry((record.operation, class)).or_default();
                sums.0 += 1;
                sums.1 += if record.operation == Operation::Put { record.bytes } else { 0 };
            }
            bill
        };
        self.notes.iter().map(bill).collect()
    }

    /// Opens, runs and gives the report and what both cost.
    async fn backup(&self, settings: &BackupSettings) -> (BackupReport, Vec<Bill>) {
        self.bills();
        let repository = self.stage.open_at(self.members(), ReplicaSettings::default()).await.expect("all is well");
        let report = run(&repository, settings).await.expect("all is well");
        assert!(report.replicas.iter().all(|r| r.committed), "{:?}", report.replicas);
        (report, self.bills())
    }
}

/// The settings that operators have.
fn defaults(path: &Path) -> BackupSettings {
    BackupSettings {
        memory: BackupSettings::default().memory,
        data_pack: BackupSettings::default().data_pack,
        meta_pack: BackupSettings::default().meta_pack,
        ..backing_up(path)
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_backup_costs_its_packs_and_a_handful() {
    let counted = Counted::new(1, &["a", "b", "c"]).await;
    let source = tree(1, 400, 100_000);
    let (_, bills) = counted.backup(&defaults(source.path())).await;
    for bill in bills {
        // 40 MB that do not compress: packs of 16 MiB are full but for the last.
        assert_eq!(bill.calls(Operation::Put, "data"), 3, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "meta"), 1, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "index"), 1, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "snapshots"), 1, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "log"), 1, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "descriptor"), 1, "the probe: {bill:?}");
        assert_eq!(bill.of(Operation::Put), 8, "{bill:?}");
        assert_eq!(bill.calls(Operation::Stat, "data"), 3, "{bill:?}");
        assert_eq!(bill.calls(Operation::Get, "data") + bill.calls(Operation::Get, "meta"), 0, "{bill:?}");
        assert!(bill.of(Operation::Get) <= 8 && bill.of(Operation::Stat) <= 12 && bill.of(Operation::List) <= 1, "{bill:?}");
        assert_eq!(bill.of(Operation::Delete), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_backup_without_changes_costs_a_few_small_requests() {
    for files in [10, 1000, 20_000] {
        let counted = Counted::new(2, &["a", "b", "c"]).await;
        let source = tree(2, files, 300);
        counted.backup(&defaults(source.path())).await;
        let (report, bills) = counted.backup(&defaults(source.path())).await;
        assert_eq!((report.statistics.files_unmodified, report.statistics.bytes_read), (files as u64, 0));
        unchanged(&bills);

        // The same inodes elsewhere, under the old name.
        let elsewhere = tempfile::tempdir_in(source.path().parent().expect("a parent")).expect("a temporary directory");
        let moved = elsewhere.path().join("moved");
        std::fs::rename(source.path(), &moved).expect("renaming a tree");
        let settings = BackupSettings { recorded_as: Some(source.path().to_path_buf()), ..defaults(&moved) };
        let (report, bills) = counted.backup(&settings).await;
        assert_eq!((report.statistics.files_unmodified, report.statistics.bytes_read), (files as u64, 0));
        unchanged(&bills);
        std::fs::rename(&moved, source.path()).expect("renaming it back");
    }
}

fn unchanged(bills: &[Bill]) {
    for bill in bills {
        assert_eq!(bill.calls(Operation::Put, "data"), 0, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "meta"), 0, "{bill:?}");
        assert_eq!(bill.calls(Operation::Put, "index"), 0, "{bill:?}");
        assert!(bill.up() < 64 << 10, "{} bytes: {bill:?}", bill.up());
        assert!(bill.all() < 60, "{} requests: {bill:?}", bill.all());
    }
}

/// Chunks under `data/` and `meta/` that a run added, over all packs.
fn added(report: &BackupReport) -> (u64, u64) {
    (report.statistics.data_chunks, report.statistics.meta_chunks)
}

#[tokio::test(start_paused = true)]
async fn one_changed_byte_in_a_large_file_costs_few_chunks_and_nodes() {
    let full = std::env::var_os("HOLDFAST_SUITE").is_some_and(|suite| suite == "full");
    let size: u64 = if full { 1 << 30 } else { 256 << 20 };
    let counted = Counted::new(3, &["a"]).await;
    let source = tempfile::tempdir().expect("a temporary directory");
    let path = source.path().join("large");
    let file = std::fs::File::create_new(&path).expect("making a file");
    for block in 0..size >> 24 {
        file.write_all_at(&noise(block, 1 << 24), block << 24).expect("writing a block");
    }
    counted.backup(&defaults(source.path())).await;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("opening it");
    for place in [0, size / 3, size - 1] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).expect("reading a byte");
        file.write_all_at(&[!byte[0]], place).expect("changing a byte");
        let (report, bills) = counted.backup(&defaults(source.path())).await;
        let (data, meta) = added(&report);
        assert!((1..=3).contains(&data), "{data} data chunks at {place}");
        assert!((1..=6).contains(&meta), "{meta} nodes at {place}");
        assert!(bills[0].calls(Operation::Put, "data") == 1 && bills[0].calls(Operation::Put, "meta") == 1, "{:?}", bills[0]);
        assert!(bills[0].up() < 7 << 20, "{} bytes", bills[0].up());
    }
}

#[tokio::test(start_paused = true)]
async fn one_new_file_among_many_costs_few_nodes() {
    let counted = Counted::new(4, &["a"]).await;
    let source = tempfile::tempdir().expect("a temporary directory");
    for i in 0..20_000 {
        std::fs::write(source.path().join(format!("file-{i:05}")), []).expect("writing a file");
    }
    let (first, _) = counted.backup(&defaults(source.path())).await;
    assert!(first.statistics.meta_chunks > 10, "{} nodes in all: the test needs more", first.statistics.meta_chunks);
    std::fs::write(source.path().join("file-10000-and-a-half"), b"new").expect("writing a file");
    let (report, _) = counted.backup(&defaults(source.path())).await;
    let (data, meta) = added(&report);
    assert_eq!(data, 1);
    // The leaf, perhaps its neighbour, the first leaf (the directory itself changed), and their ancestors.
    assert!((2..=6).contains(&meta), "{meta} nodes");
}

#[tokio::test(start_paused = true)]
async fn opening_costs_few_requests_however_many_commits_there_were() {
    let counted = Counted::new(5, &["a"]).await;
    let source = tree(5, 3, 300);
    for _ in 0..200 {
        counted.backup(&defaults(source.path())).await;
    }
    for access in [Access::Read, Access::Write] {
        counted.bills();
        let (settings, key) = (opening(ReplicaSettings::default()), unlock());
        let open = holdfast::repository::Repository::open(&counted.stage.env, counted.members(), settings, &key, access);
        let repository = open.await.expect("all is well");
        let bill = counted.bills().remove(0);
        assert_eq!(repository.log(0).await.expect("readable").state.snapshots.len(), 200);
        // What follows the newest checkpoint is read slot by slot, some of them at once.
        assert!(bill.calls(Operation::Get, "log") <= 64 + 16, "{bill:?}");
        assert!(bill.all() - bill.calls(Operation::Get, "log") <= 12, "{bill:?}");
        assert!(bill.of(Operation::List) <= 1, "{bill:?}");
        assert!(bill.of(Operation::Put) <= u64::from(access == Access::Write), "{bill:?}");
    }
}

/// Checkpoints of a long history stay small, and share what they can.
#[tokio::test(start_paused = true)]
async fn checkpoints_do_not_cost_the_square_of_the_history() {
    let counted = Counted::new(6, &["a"]).await;
    let repository = counted.stage.open_at(counted.members(), ReplicaSettings::default()).await.expect("all is well");
    let env = counted.stage.env.clone();
    let mut log = repository.log(0).await.expect("readable");
    let mut paid = Vec::new();
    for round in 0..8 {
        for _ in 0..16 {
            let segments = (0..100).map(|_| bytes::Bytes::copy_from_slice(&env.random::<32>())).collect();
            let publish = Action::Publish(holdfast::format::record::Publish { segments });
            log.append(publish, true, &[], |_| Ok(())).await.expect("all is well");
        }
        counted.bills();
        log.write_checkpoint().await.unwrap_or_else(|e| panic!("checkpoint {round}: {e}"));
        let bill = counted.bills().remove(0);
        let bytes: u64 = ["checkpoints", "lists"]
            .iter()
            .filter_map(|class| bill.0.get(&(Operation::Put, (*class).into())))
            .map(|(_, b)| b)
            .sum();
        paid.push(bytes);
    }
    // 1600 names of 32 bytes join each time: whatever is merged, all together stays near n log n.
    let all = paid.iter().sum::<u64>();
    assert!(all < 8 * 1600 * 32 * 4, "{paid:?}");
}

#[tokio::test(start_paused = true)]
async fn a_note_costs_three_requests() {
    let counted = Counted::new(7, &["a"]).await;
    let repository = counted.stage.open_at(counted.members(), ReplicaSettings::default()).await.expect("all is well");
    counted.bills();
    let note = Action::Note(Note { kind: "weather".into(), text: "fine".into(), list: bytes::Bytes::new() });
    repository.log(0).await.expect("readable").append(note, false, &[], |_| Ok(())).await.expect("all is well");
    let bill = counted.bills().remove(0);
    assert_eq!((bill.calls(Operation::Stat, "log"), bill.calls(Operation::Put, "log"), bill.all()), (1, 1, 2), "{bill:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_publishes_every_so_many_bytes() {
    let counted = Counted::new(8, &["a"]).await;
    let source = tree(8, 100, 200_000);
    let settings = BackupSettings { publish_bytes: 2 << 20, data_pack: 1 << 20, memory: 32 << 20, ..defaults(source.path()) };
    let (report, bills) = counted.backup(&settings).await;
    // 20 MB: one publication for every three packs of not quite 1 MiB, and the commit.
    let slots = bills[0].calls(Operation::Put, "log");
    assert!((6..=8).contains(&slots), "{slots} slots");
    assert_eq!(bills[0].calls(Operation::Put, "index"), slots, "each names its own segment");
    let alone = counted.stage.open_alone(0).await;
    contents(&alone, report.snapshot.expect("committed")).await.expect("all is there");
}

#[tokio::test(start_paused = true)]
async fn a_run_publishes_every_so_often() {
    // Small chunks admit a small budget: few packs queue before the store, and a publication is not held up by them.
    let counted = Counted::cut(9, &["a"], ChunkerSpec { min: 64 << 10, average: 128 << 10, max: 256 << 10 }).await;
    let source = tree(9, 60, 200_000);
    let repository = {
        let slow =
            crate::support::faulty_store::FaultyStore::new(&counted.stage.env, Arc::new(counted.notes[0].clone()), |call| {
                if call.name.starts_with("data/") {
                    crate::support::faulty_store::Fault::Delay(Duration::from_secs(3))
                } else {
                    crate::support::faulty_store::Fault::Pass
                }
            });
        let members = vec![counted.stage.wrapped("a", Arc::new(slow))];
        counted.stage.open_at(members, ReplicaSettings::default()).await.expect("all is well")
    };
    counted.bills();
    let began = counted.stage.env.elapsed();
    let settings = BackupSettings { publish_every: Duration::from_secs(10), memory: 10 << 20, ..backing_up(source.path()) };
    run(&repository, &settings).await.expect("slow is not broken");
    let took = (counted.stage.env.elapsed() - began).as_secs();
    let slots = counted.bills()[0].calls(Operation::Put, "log");
    assert!(took > 30, "{took} s");
    assert!((took / 20..=took / 10 + 1).contains(&slots), "{slots} slots in {took} s");
}

/// Frames far smaller than what the budget counts in: a pack of very many of them must not hold all of it.
#[tokio::test(start_paused = true)]
async fn content_that_compresses_to_nothing_does_not_block_the_budget() {
    let counted = Counted::cut(10, &["a"], ChunkerSpec { min: 4 << 10, average: 8 << 10, max: 16 << 10 }).await;
    let source = tempfile::tempdir().expect("a temporary directory");
    let file = std::fs::File::create(source.path().join("pages")).expect("making a file");
    // Chunks of another number each that repeats: about a hundred bytes when sealed.
    let count = 12_000_u32;
    for i in 0..count {
        let page: Vec<u8> = i.to_le_bytes().iter().copied().cycle().take(16 << 10).collect();
        file.write_all_at(&page, u64::from(i) << 14).expect("writing a page");
    }
    let settings = BackupSettings { memory: 13 << 20, data_pack: 2 << 20, meta_pack: 64 << 10, ..defaults(source.path()) };
    let repository = counted.stage.open_at(counted.members(), ReplicaSettings::default()).await.expect("all is well");
    let done = counted.stage.env.timeout(Duration::from_secs(24 * 3600), run(&repository, &settings)).await;
    let report = done.expect("the run goes on").expect("all is well");
    assert!(report.statistics.data_chunks >= u64::from(count), "{:?}", report.statistics);
}

#[tokio::test(start_paused = true)]
async fn holes_cost_nothing() {
    let counted = Counted::new(11, &["a"]).await;
    let source = tempfile::tempdir().expect("a temporary directory");
    let file = std::fs::File::create(source.path().join("sparse")).expect("making a file");
    file.set_len(1 << 40).expect("a hole");
    file.write_all_at(&noise(1, 100_000), 1 << 39).expect("writing into it");
    let (report, bills) = counted.backup(&defaults(source.path())).await;
    assert!(report.statistics.bytes_read < 1 << 20, "{:?}", report.statistics);
    assert!(bills[0].up() < 1 << 20);
    let repository = counted.stage.open_alone(0).await;
    let entries = entries(&repository, report.snapshot.expect("committed")).await.expect("all is there");
    let pieces = pieces(&repository, &entries[&b"sparse"[..]]).await.expect("all is there");
    assert_eq!(pieces.iter().map(|p| p.length).sum::<u64>(), 1 << 40);
}
