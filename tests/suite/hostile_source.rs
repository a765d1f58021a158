//! Sources that change, vanish, lie or fail while they are backed up: what a backup comes to, row by row, with the exit code.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use holdfast::backup::{BackupReport, BackupSettings, Given};
use holdfast::cli::backup::outcome;
use holdfast::cli::context::Failure;
use holdfast::cli::exit::Outcome;
use holdfast::format::entry::Problem;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::ReplicaSettings;
use holdfast::restore::RestoreSettings;
use holdfast::source::directory::{Found, Walked};
use holdfast::source::metadata::{FileTime, Kind, Meta};
use holdfast::source::{Content, Origin, Source};
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Call, Fault};
use crate::support::source_tree::noise;
use crate::support::stage::{Stage, backing_up, content, contents, entries, files_below};

/// More than a backup here may hold: what comes behind it is read after packs of it were sent.
const LARGE: usize = 20 << 20;

fn few() -> BackupSettings {
    BackupSettings { paths: Vec::new(), memory: 10 << 20, read_concurrency: 1, ..backing_up(Path::new("/")) }
}

/// Backs up; `during` is called with the number of each pack of content that is sent to the first replica.
async fn back_up(
    stage: &Stage,
    settings: &BackupSettings,
    given: Vec<Given>,
    during: impl Fn(u64) + Send + Sync + 'static,
) -> (u8, Result<BackupReport, String>) {
    let packs = AtomicU64::new(0);
    let members = stage.members_but(0, move |call: &Call| {
        if call.operation == Operation::Put && call.name.starts_with("data/") {
            during(packs.fetch_add(1, SeqCst));
        }
        Fault::Pass
    });
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("opened");
    match holdfast::backup::run_sources(&repository, settings, given, &Progress::default(), &Stop::default()).await {
        Ok(report) => (outcome(&report, None).code(), Ok(report)),
        Err(e) => {
            let failure = Failure::from(e);
            (Outcome::failure(failure.fault, None).code(), Err(failure.message))
        }
    }
}

async fn stage(seed: u64) -> Stage {
    let stage = Stage::of(seed, &["a", "b"]);
    stage.init().await;
    stage
}

fn of(path: &Path) -> BackupSettings {
    BackupSettings { paths: vec![path.to_owned()], ..few() }
}

#[tokio::test(start_paused = true)]
async fn files_that_change_while_they_are_read() {
    type During = fn(&Path, u64);
    let once: During = |file, nth| {
        if nth == 0 {
            fs::write(file, noise(2, LARGE + 4096)).expect("written");
        }
    };
    // Every reading of it meets new content, which is sent, which changes it again.
    let always: During = |file, nth| {
        if nth % 16 == 0 {
            fs::write(file, noise(10 + nth, LARGE + nth as usize)).expect("written");
        }
    };
    let emptied: During = |file, nth| {
        if nth == 0 {
            fs::write(file, b"").expect("written");
        }
    };
    for (row, during, code, problem) in [
        ("changed once", once, 0, Problem::None),
        ("keeps changing", always, 3, Problem::Inconsistent),
        ("emptied", emptied, 0, Problem::None),
    ] {
        let stage = stage(110).await;
        let source = tempfile::tempdir().expect("a folder");
        let file = source.path().join("large");
        fs::write(&file, noise(1, LARGE)).expect("written");
        fs::write(source.path().join("later"), b"stands still").expect("written");
        let path = file.clone();
        let (found, report) = back_up(&stage, &of(source.path()), Vec::new(), move |nth| during(&path, nth)).await;
        let report = report.unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!(found, code, "{row}: {report:?}");
        let repository = stage.open_alone(0).await;
        let entries = entries(&repository, report.snapshot.expect("a snapshot")).await.expect("entries");
        let entry = &entries[&b"large"[..]];
        assert_eq!(entry.problem(), problem, "{row}");
        // What is recorded is what was read: it always comes back.
        let bytes = content(&repository, entry).await.expect("every byte that was recorded");
        match problem {
            Problem::None => assert!(bytes == fs::read(&file).expect("read"), "{row}: a whole file"),
            _ => {
                let named: Vec<&str> = report.problems.iter().map(|(path, _)| path.as_str()).collect();
                assert_eq!(named, [file.to_str().expect("plain")], "{row}");
                assert!(!bytes.is_empty(), "{row}");
            }
        }
        assert_eq!(content(&repository, &entries[&b"later"[..]]).await.expect("whole"), b"stands still", "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_is_no_error() {
    let stage = stage(111).await;
    let source = tempfile::tempdir().expect("a folder");
    fs::write(source.path().join("a large one"), noise(1, LARGE)).expect("written");
    for name in ["kept", "vanishes"] {
        fs::write(source.path().join(name), noise(3, 100_000)).expect("written");
    }
    // The listing is taken at the beginning, and the last file is reached when the large one is through.
    let gone = source.path().join("vanishes");
    let (code, report) = back_up(&stage, &of(source.path()), Vec::new(), move |nth| {
        if nth == 0 {
            fs::remove_file(&gone).expect("removed");
        }
    })
    .await;
    let report = report.expect("a backup");
    assert_eq!((code, report.errors), (0, 0), "{report:?}");
    let repository = stage.open_alone(1).await;
    assert!(contents(&repository, report.snapshot.expect("one")).await.expect("contents") == files_below(source.path()));
}

/// A flat source whose items the test makes up.
struct MadeUp(std::vec::IntoIter<Walked>);

impl Source for MadeUp {
    fn next(&mut self) -> Option<Walked> {
        self.0.next()
    }
    fn vanished(&self) -> u64 {
        0
    }
}

/// Content that can be read up to a point.
struct Breaks {
    good: u64,
    size: u64,
}

impl Content for Breaks {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset >= self.size {
            return Ok(0);
        }
        if offset >= self.good {
            return Err(io::Error::from_raw_os_error(5));
        }
        let length = buffer.len().min((self.good - offset) as usize);
        buffer[..length].fill(7);
        Ok(length)
    }
}

fn made_up(files: &[(&str, u64, u64)]) -> Given {
    let meta = |kind, size, inode| Meta {
        kind,
        size,
        allocated: size,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: FileTime { seconds: 1, nanos: 0 },
        ctime: FileTime { seconds: 1, nanos: 0 },
        inode,
        device_id: 1,
        nlink: 1,
        rdev: (0, 0),
    };
    let item = |key: &str, meta: Meta, content: Breaks| {
        Walked::Item(Found { key: key.into(), meta, origin: Origin::Given(Arc::new(content)), name: OsString::new() })
    };
    let mut items = vec![item("", meta(Kind::Directory, 0, 1), Breaks { good: 0, size: 0 })];
    for (i, (key, good, size)) in files.iter().enumerate() {
        items.push(item(key, meta(Kind::File, *size, i as u64 + 2), Breaks { good: *good, size: *size }));
    }
    Given { path: b"/made up".to_vec(), source: Box::new(MadeUp(items.into_iter())) }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_marked_and_the_rest_is_there() {
    let stage = stage(112).await;
    let given = made_up(&[("broken large", 3 << 20, 6 << 20), ("broken small", 0, 1000), ("good", 5000, 5000)]);
    let (code, report) = back_up(&stage, &few(), vec![given], |_| {}).await;
    let report = report.expect("a backup");
    assert_eq!(code, 3, "{report:?}");
    let mut named: Vec<&str> = report.problems.iter().map(|(path, _)| path.rsplit('/').next().unwrap_or_default()).collect();
    named.sort_unstable();
    assert_eq!((report.errors, named), (2, vec!["broken large", "broken small"]), "{report:?}");
    let repository = stage.open_alone(0).await;
    let entries = entries(&repository, report.snapshot.expect("one")).await.expect("entries");
    for (key, problem) in [("broken large", Problem::Unreadable), ("broken small", Problem::Unreadable), ("good", Problem::None)]
    {
        assert_eq!(entries[key.as_bytes()].problem(), problem, "{key}");
    }
    assert_eq!(content(&repository, &entries[&b"good"[..]]).await.expect("whole"), vec![7; 5000]);
}

#[tokio::test(start_paused = true)]
async fn sources_that_are_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (full, missing) = (folder.path().join("full"), folder.path().join("missing"));
    fs::create_dir(&full).expect("made");
    fs::write(full.join("a"), b"a").expect("written");
    for (row, paths, code) in [
        ("one of two is missing", vec![&full, &missing], 3),
        ("all are missing", vec![&missing], 1),
        ("none is missing", vec![&full], 0),
    ] {
        let stage = stage(113).await;
        let settings = BackupSettings { paths: paths.into_iter().cloned().collect(), ..few() };
        let (found, report) = back_up(&stage, &settings, Vec::new(), |_| {}).await;
        assert_eq!(found, code, "{row}: {report:?}");
        assert_eq!(report.is_ok_and(|r| r.snapshot.is_some()), code != 1, "{row}");
    }
    // An empty root that was full: something is not mounted, most likely.
    let stage = stage(114).await;
    assert_eq!(back_up(&stage, &of(&full), Vec::new(), |_| {}).await.0, 0);
    fs::remove_file(full.join("a")).expect("removed");
    let (code, report) = back_up(&stage, &of(&full), Vec::new(), |_| {}).await;
    assert_eq!(code, 1, "{report:?}");
    assert!(report.is_err_and(|e| e.contains("not mounted")));
    let forced = BackupSettings { force: true, ..of(&full) };
    assert_eq!(back_up(&stage, &forced, Vec::new(), |_| {}).await.0, 0);
}

#[tokio::test(start_paused = true)]
async fn odd_things_are_no_errors() {
    let source = tempfile::tempdir().expect("a folder");
    let at = source.path();
    let made = std::process::Command::new("mkfifo").arg(at.join("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(at.join("socket")).expect("bound");
    fs::File::create(at.join("sparse")).expect("made").set_len(1 << 40).expect("set");
    fs::write(at.join("zeros"), vec![0; 3 << 20]).expect("written");
    fs::write(at.join("again"), b"ab".repeat(1 << 20)).expect("written");
    for name in ["left out", "linked"] {
        match name {
            "left out" => fs::write(at.join(name), b"one content, two names").expect("written"),
            _ => fs::hard_link(at.join("left out"), at.join(name)).expect("linked"),
        }
    }
    let odd = at.join(std::ffi::OsStr::from_bytes(b"\xff\n\x1b[2J"));
    fs::write(&odd, b"odd").expect("written");
    let stage = stage(115).await;
    let settings = BackupSettings { excludes: vec!["left out".into()], ..of(at) };
    let (code, report) = back_up(&stage, &settings, Vec::new(), |_| {}).await;
    let report = report.expect("a backup");
    assert_eq!(code, 0, "{report:?}");
    let repository = stage.open_alone(1).await;
    let id = report.snapshot.expect("one");
    let stored: u64 = report.statistics.bytes_read;
    assert!(stored < 8 << 20, "holes are not read: {stored}");
    let views = repository.snapshots().await.expect("listed");
    let target = tempfile::tempdir().expect("a folder");
    let restore = RestoreSettings { target: target.path().to_owned(), memory: 16 << 20, ..RestoreSettings::default() };
    let snapshot = &views.iter().find(|view| view.id == id).expect("there").snapshot;
    let done =
        holdfast::restore::run(&repository, snapshot, &restore, &Progress::default(), &Stop::default()).await.expect("restored");
    assert_eq!(done.failed_count, 0, "{done:?}");
    let below = target.path().join(at.strip_prefix("/").expect("absolute"));
    let sparse = fs::metadata(below.join("sparse")).expect("there");
    assert_eq!(sparse.len(), 1 << 40);
    assert!(sparse.blocks() < 1000, "{}", sparse.blocks());
    assert_eq!(fs::read(below.join("linked")).expect("there"), b"one content, two names");
    assert!(!below.join("left out").exists());
    assert_eq!(fs::read(below.join(odd.file_name().expect("a name"))).expect("there"), b"odd");
    assert_eq!(fs::read(below.join("zeros")).expect("there"), vec![0; 3 << 20]);

    // What says it is empty and is not: the kernel's own files.
    let (code, report) = back_up(&stage, &of(Path::new("/proc/version")), Vec::new(), |_| {}).await;
    let report = report.expect("a backup");
    assert_eq!(code, 0, "{report:?}");
    let repository = stage.open_alone(0).await;
    let found = contents(&repository, report.snapshot.expect("one")).await.expect("contents");
    assert_eq!(found.into_values().collect::<Vec<_>>(), [fs::read("/proc/version").expect("read")]);
}

#[tokio::test(start_paused = true)]
async fn patterns_that_mean_nothing_stop_the_run() {
    let source = tempfile::tempdir().expect("a folder");
    fs::write(source.path().join("a"), b"a").expect("written");
    let file = source.path().join("patterns");
    fs::write(&file, "fine\n[unclosed\n").expect("written");
    let absent = PathBuf::from("/nowhere/at/all");
    let stage = stage(116).await;
    for (row, settings) in [
        ("pattern", BackupSettings { excludes: vec!["[a".into()], ..of(source.path()) }),
        ("pattern without case", BackupSettings { iexcludes: vec!["[a".into()], ..of(source.path()) }),
        ("line of a file", BackupSettings { exclude_files: vec![file], ..of(source.path()) }),
        ("file of patterns", BackupSettings { exclude_files: vec![absent], ..of(source.path()) }),
        ("relative path", of(Path::new("here"))),
        ("no memory", BackupSettings { memory: 1 << 20, ..of(source.path()) }),
    ] {
        let before = stage.names_at(0, "").await;
        let (code, report) = back_up(&stage, &settings, Vec::new(), |_| {}).await;
        assert_eq!(code, 2, "{row}: {report:?}");
        assert_eq!(stage.names_at(0, "").await, before, "{row}: nothing is written");
    }
}
