//! Source to snapshot.
//!
//! What is here: the stages, drawn below, and [`run`], which wires them. What comes in: paths, settings, an opened
//! repository. What goes out: a snapshot in the log of each replica that took part, and a report. What never happens
//! here: a provider, an object's name, a deletion, a retry of a request, a clock read for safety.
//!
//! ```text
//! walk, compare -16-> [batch | large: read, cut, CPU pool: hash, known?, group, compress, compare, encrypt] -> catalog
//!                                       \--16 frames-> pack -> fan-out xN -64 receipts-> upload (publish) -> commit
//! ```
//! The numbers are capacities; bytes between reading and the last replica are bounded by `budget`: a quarter at most are
//! the `block`s that large files are read into, three eighths packs being filled, the rest chunks and packs on the way.

pub mod block;
pub mod budget;
pub mod catalog;
pub mod commit;
pub mod drain;
pub mod entry;
pub mod known;
pub mod large;
pub mod pack;
pub mod parents;
pub mod participants;
pub mod pass;
pub mod read;
pub mod recorded;
pub mod seal;
pub mod stream;
pub mod upload;
pub mod walk;

use std::path::PathBuf;

use crate::backup::drain::{Drain, Phase};
use crate::backup::pass::one_pass;
use crate::backup::stream::StreamSettings;
use crate::clock::Time;
use crate::format::Hash;
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::open::worst;
use crate::source::Source;
use crate::source::filter::Filter;
use crate::source::metadata::raise_open_files;

/// What one backup run is to do.
#[derive(Clone, Debug)]
pub struct BackupSettings {
    /// What to back up: absolute paths.
    pub paths: Vec<PathBuf>,
    /// A stream to back up instead of paths.
    pub stream: Option<StreamSettings>,
    /// The path to record for the root instead of its own (only with one path).
    pub recorded_as: Option<PathBuf>,
    /// Recorded host name.
    pub host: String,
    /// Recorded user name.
    pub user: String,
    /// Recorded tags.
    pub tags: Vec<String>,
    /// Recorded label (the job's name).
    pub label: String,
    /// Recorded time; now when absent.
    pub time: Option<Time>,
    /// Recorded offset from UTC in seconds.
    pub utc_offset_seconds: i32,
    /// Glob patterns of what to leave out.
    pub excludes: Vec<String>,
    /// The same, ignoring case.
    pub iexcludes: Vec<String>,
    /// Files with such patterns.
    pub exclude_files: Vec<PathBuf>,
    /// Leave out the contents of tagged cache directories.
    pub exclude_caches: bool,
    /// Leave out directories that hold a file of one of these names.
    pub exclude_if_present: Vec<String>,
    /// Leave out files larger than this many bytes.
    pub exclude_larger_than: Option<u64>,
    /// Stay on the file system of each path.
    pub one_file_system: bool,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Trust size and mtime alone (file systems whose inode numbers or ctimes are not stable).
    pub ignore_inode: bool,
    /// Do not compare ctime.
    pub ignore_ctime: bool,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Bytes in flight.
    pub memory: u64,
    /// Target size of a data pack in bytes.
    pub data_pack: u32,
    /// Target size of a meta pack in bytes.
    pub meta_pack: u32,
    /// Plaintext bytes that small neighbours are grouped to.
    pub group: u32,
    /// Files read at once.
    pub read_concurrency: usize,
    /// Publish at least this often, in bytes sealed.
    pub publish_bytes: u64,
    /// Publish at least this often, in time.
    pub publish_every: std::time::Duration,
    /// Commit a partial snapshot at least this often.
    pub partial_every: std::time::Duration,
    /// How long what is in flight has when the run is asked to stop; it ends 7 seconds later at the latest.
    pub drain: std::time::Duration,
}

impl Default for BackupSettings {
    fn default() -> BackupSettings {
        BackupSettings {
            paths: Vec::new(),
            stream: None,
            recorded_as: None,
            host: String::new(),
            user: String::new(),
            tags: Vec::new(),
            label: String::new(),
            time: None,
            utc_offset_seconds: 0,
            excludes: Vec::new(),
            iexcludes: Vec::new(),
            exclude_files: Vec::new(),
            exclude_caches: false,
            exclude_if_present: Vec::new(),
            exclude_larger_than: None,
            one_file_system: false,
            force: false,
            ignore_inode: false,
            ignore_ctime: false,
            dry_run: false,
            memory: 128 << 20,
            data_pack: 16 << 20,
            meta_pack: 4 << 20,
            group: 128 << 10,
            read_concurrency: 2,
            publish_bytes: 1 << 30,
            publish_every: std::time::Duration::from_secs(60),
            partial_every: std::time::Duration::from_secs(600),
            drain: drain::PATIENCE,
        }
    }
}

/// How one replica came out of a run.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// Its configured name.
    pub name: String,
    /// Whether its log holds the snapshot.
    pub committed: bool,
    /// Why it was left behind, if it was.
    pub behind: Option<String>,
    /// The class of that reason.
    pub fault: Option<Fault>,
    /// Bytes it acknowledged.
    pub sent: u64,
}

/// What a backup did.
#[derive(Clone, Debug, Default)]
pub struct BackupReport {
    /// Id of the snapshot; none after a dry run or when nothing was committed.
    pub snapshot: Option<[u8; 32]>,
    /// Id of the snapshot compared with.
    pub parent: Option<[u8; 32]>,
    /// Whether the snapshot is a partial one (the run was interrupted).
    pub partial: bool,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
    /// Counts of entries and bytes; the same figures stand in the snapshot.
    pub statistics: crate::format::snapshot::Statistics,
    /// Source items that could not be read or kept changing.
    pub errors: u64,
    /// Source items that could not be read or kept changing: path and reason (bounded; `errors` is the count).
    pub problems: Vec<(String, String)>,
    /// Things worth saying that are no errors.
    pub notes: Vec<String>,
    /// Each replica.
    pub replicas: Vec<ReplicaReport>,
    /// Replicas that had to commit.
    pub quorum: usize,
    /// How long it took.
    pub duration: std::time::Duration,
}

/// Why a backup has no snapshot at quorum.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting that cannot be carried out (exit 2).
    #[error("{0}")]
    Settings(String),
    /// A stream broke off: what it was, how it ended and what it said last (exit 1). Nothing of it was recorded.
    #[error("{0}; no snapshot was made")]
    Stream(String),
    /// None of the sources could be read (exit 1).
    #[error("nothing to back up: {0}")]
    NoSource(String),
    /// Fewer replicas than the quorum have the snapshot (exit by class, else 1).
    #[error("{message}")]
    BelowQuorum {
        /// Who has it, who may have it, who not, and why.
        message: String,
        /// The worst class among the replicas that failed.
        fault: Fault,
        /// What was done until then.
        report: Box<BackupReport>,
    },
    /// Stopped on request before anything could be committed (exit 130 or 143).
    #[error("interrupted before anything was committed")]
    Interrupted,
    /// Stopped on request, and given up where it stood so many seconds later (exit 130 or 143).
    #[error(
        "interrupted, and given up {0} s later, since it did not come to its end: whether a snapshot was committed last is not \
         known (`holdfast snapshots` shows it); what was published is not sent again by the next run"
    )]
    GivenUp(u64),
}

/// An error with all its causes.
fn told(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// How often a run that lost what it stood on starts over.
const PASSES: usize = 3;

/// A source that is handed in: not a path of this machine.
pub struct Given {
    /// The path to record for its root.
    pub path: Vec<u8>,
    /// The source, at its start.
    pub source: Box<dyn Source>,
}

/// Backs up the paths of the settings, or their stream, once.
pub async fn run(
    repository: &Repository,
    settings: &BackupSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<BackupReport, BackupError> {
    let given = settings.stream.as_ref().map(|stream| stream::given(&repository.env, stream, stop));
    run_sources(repository, settings, given.into_iter().collect(), progress, stop).await
}

/// Backs up the paths of the settings (none are needed) and then `sources`, once. Sources can be read only once: with any
/// of them, a run that lost what it stood on does not start over.
pub async fn run_sources(
    repository: &Repository,
    settings: &BackupSettings,
    sources: Vec<Given>,
    progress: &Progress,
    stop: &Stop,
) -> Result<BackupReport, BackupError> {
    let drain = Drain::new(&repository.env, stop, settings.drain);
    let passes = passes(repository, settings, sources, progress, (stop, &drain));
    // Boxed, as some futures below: each holds those that it waits for, and stacks are small.
    match drain.within(Phase::End, Box::pin(passes)).await {
        Some(done) => done,
        None => Err(BackupError::GivenUp(drain.limit(Phase::End).after.as_secs())),
    }
}

async fn passes(
    repository: &Repository,
    settings: &BackupSettings,
    sources: Vec<Given>,
    progress: &Progress,
    (stop, drain): (&Stop, &Drain),
) -> Result<BackupReport, BackupError> {
    let began = repository.env.elapsed();
    let filter = filter(settings)?;
    verify_settings(settings, sources.len())?;
    let passes = if sources.is_empty() { PASSES } else { 1 };
    let mut sources = Some(sources);
    raise_open_files();
    let mut notes = Vec::new();
    let mut replaces: Vec<Hash> = Vec::new();
    for pass in 0..passes {
        let sources = sources.take().unwrap_or_default();
        let stops = (stop, &drain.anew());
        let one = one_pass(repository, settings, sources, &filter, progress, stops, &mut replaces, pass > 0);
        let passed = Box::pin(one).await?;
        let mut report = passed.report;
        report.duration = repository.env.elapsed().saturating_sub(began);
        notes.append(&mut report.notes);
        let quorum = repository.set.write_quorum();
        if !report.dry_run && passed.committed.count() < quorum {
            if !passed.lost.is_empty() && pass + 1 < passes && !stop.requested() {
                notes.push(format!(
                    "what this run relied on cannot be relied on any more ({}): starting over",
                    passed.lost.join("; ")
                ));
                replaces.extend(report.snapshot.filter(|_| !passed.committed.is_empty()));
                continue;
            }
            report.notes = notes;
            report.notes.extend(repository.save_heads().err());
            return Err(below_quorum(passed.committed, report, stop.requested(), &replaces));
        }
        notes.extend(repository.record_distrust(Some(&drain.limit(Phase::Record))).await);
        notes.extend(repository.save_heads().err());
        report.notes = notes;
        return Ok(report);
    }
    Err(RepositoryError::new(Fault::Contention, "what this run relied on was taken away again and again: try again").into())
}

fn filter(settings: &BackupSettings) -> Result<Filter, BackupError> {
    let wrong = |e: crate::source::filter::FilterError| BackupError::Settings(told(&e));
    let mut filter = Filter::new(&settings.excludes, &settings.iexcludes, &settings.exclude_files).map_err(wrong)?;
    if let Some(bytes) = settings.exclude_larger_than {
        filter = filter.larger_than(bytes);
    }
    for marker in &settings.exclude_if_present {
        filter = filter.if_present(marker).map_err(wrong)?;
    }
    Ok(filter)
}

fn verify_settings(settings: &BackupSettings, sources: usize) -> Result<(), BackupError> {
    let wrong = |message: String| Err(BackupError::Settings(message));
    if settings.paths.is_empty() && sources == 0 {
        return wrong("nothing to back up: name at least one path".into());
    }
    if settings.stream.is_some() && (!settings.paths.is_empty() || sources != 1) {
        return wrong("a stream is backed up by itself: paths beside it need a backup of their own".into());
    }
    if let Some(relative) = settings.paths.iter().find(|p| !p.is_absolute()) {
        return wrong(format!("{} is not an absolute path", relative.display()));
    }
    if settings.recorded_as.is_some() && (settings.paths.len() != 1 || sources > 0) {
        return wrong("a path to record instead (--as) goes with exactly one path".into());
    }
    if settings.recorded_as.as_ref().is_some_and(|p| !p.is_absolute()) {
        return wrong("a path to record instead (--as) must be absolute".into());
    }
    // Two packs of each kind may be filling, and one block must still fit beside them.
    let least = 2 * (u64::from(settings.data_pack) + u64::from(settings.meta_pack)) + (8 << 20);
    if settings.memory < least {
        return wrong(format!(
            "memory of {} MiB is too little for these pack sizes: set at least {} MiB",
            settings.memory >> 20,
            least.div_ceil(1 << 20)
        ));
    }
    Ok(())
}

fn below_quorum(committed: Mask, report: BackupReport, stopped: bool, earlier: &[Hash]) -> BackupError {
    let have: Vec<&str> = report.replicas.iter().filter(|r| r.committed).map(|r| r.name.as_str()).collect();
    let why: Vec<String> = report
        .replicas
        .iter()
        .filter(|r| !r.committed)
        .map(|r| format!("{}: {}", r.name, r.behind.as_deref().unwrap_or("did not commit")))
        .collect();
    let have = if have.is_empty() { "no replica".to_owned() } else { have.join(", ") };
    let message = format!(
        "{}{} replicas committed, {} are needed: {have} holds the snapshot; {}{}",
        if stopped { "interrupted: " } else { "" },
        committed.count(),
        report.quorum,
        why.join("; "),
        match earlier.last() {
            Some(id) => format!("; what this run committed before is snapshot {}", &hex::encode(id)[..8]),
            None => String::new(),
        }
    );
    let worst = || worst(report.replicas.iter().filter_map(|r| r.fault)).unwrap_or(Fault::Failed);
    let fault = if stopped { Fault::Interrupted } else { worst() };
    BackupError::BelowQuorum { message, fault, report: Box::new(report) }
}
