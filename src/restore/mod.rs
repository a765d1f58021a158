//! Snapshot to target.
//!
//! What is here: what is restored and where to (`select`), the walk over it in windows (`walk`, `content`), the plan of
//! reads (`plan`, pure), the stages of a window (`place`, `fetch`, `settle`), the target (`target`, `writer`, `metadata`),
//! and [`run`]. What comes in: an opened repository, a snapshot, settings. What goes out: files with their metadata, every
//! byte verified, and a report of what could not be had. What never happens here: a byte outside the target, a byte that
//! was not verified, a deletion of what the snapshot does not name.

pub mod content;
pub mod fetch;
pub mod item;
pub mod metadata;
pub mod place;
pub mod plan;
pub mod select;
pub mod settle;
pub mod tally;
pub mod target;
pub mod walk;
pub mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::format::snapshot::Snapshot;
use crate::format::tree::TreeKind;
use crate::progress::{Progress, Stop};
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::restore::fetch::Work;
use crate::restore::place::Placer;
use crate::restore::select::{Choice, Part};
use crate::restore::settle::Ready;
use crate::restore::tally::{Tally, told};
use crate::restore::target::{Target, TargetSettings};
use crate::restore::walk::Walk;
use crate::source::firsts::Firsts;
use crate::source::metadata::raise_open_files;

/// What one restore is to do.
#[derive(Clone, Debug, Default)]
pub struct RestoreSettings {
    /// Where to restore to.
    pub target: PathBuf,
    /// Recorded absolute path whose contents go straight into the target, which gets its metadata (what is no directory
    /// goes into the target under its own name); none: everything, below its recorded path.
    pub path: Option<Vec<u8>>,
    /// Glob patterns: only what matches is restored (with the directories that lead there).
    pub includes: Vec<String>,
    /// Glob patterns: what matches is left out.
    pub excludes: Vec<String>,
    /// Restore from this replica alone.
    pub from: Option<String>,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Do not set owners.
    pub no_owners: bool,
    /// Map owners by name where the name exists here.
    pub owners_by_name: bool,
    /// Do not set extended attributes and ACLs.
    pub no_xattrs: bool,
    /// Do not make devices nor set special permission bits.
    pub no_special: bool,
    /// Bytes in flight; 0: 128 MiB.
    pub memory: u64,
    /// Who is told of everything that could not be had; none: only the report counts it.
    pub losses: Option<Losses>,
}

/// Something that is in no replica any more, or in none that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Recorded path.
    pub path: Vec<u8>,
    /// Offset and length in bytes; none: not a part of its content.
    pub part: Option<(u64, u64)>,
    /// What could not be had.
    pub why: String,
}

/// Told of each loss when it is met, in no order, from any thread.
#[derive(Clone)]
pub struct Losses(pub Arc<dyn Fn(&Lost) + Send + Sync>);

impl std::fmt::Debug for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Losses")
    }
}

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// The snapshot restored.
    pub snapshot: [u8; 32],
    /// Entries in the selection.
    pub entries: u64,
    /// Files written, wholly or in part.
    pub files_written: u64,
    /// Files that were there already as they should be.
    pub files_unchanged: u64,
    /// Content bytes in the selection.
    pub bytes_total: u64,
    /// Content bytes written.
    pub bytes_written: u64,
    /// Entries that could not be had or written: path and reason (bounded).
    pub failed: Vec<(String, String)>,
    /// How many those are.
    pub failed_count: u64,
    /// Parts that no replica gave, of content and otherwise; exact where they were asked for, else at least.
    pub lost_parts: u64,
    /// Content bytes in them.
    pub lost_bytes: u64,
    /// Metadata that could not be set: path and reason (bounded).
    pub warnings: Vec<(String, String)>,
    /// How many those are.
    pub warnings_count: u64,
    /// What was met on the way at replicas (damage, absence, failure), already worked around.
    pub notes: Vec<String>,
    /// How long it took.
    pub duration: std::time::Duration,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
}

/// Why a restore could not be carried out at all.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting that cannot be carried out (exit 2).
    #[error("{0}")]
    Settings(String),
    /// The target cannot be used (exit 1).
    #[error("{0}")]
    Target(String),
    /// Stopped on request.
    #[error("interrupted: the target is incomplete; run the same command again to finish it")]
    Interrupted,
}

/// Bytes in flight unless set.
const MEMORY: u64 = 128 << 20;
/// Most files that one window opens; two windows can be open at once.
const FILES_MAX: u64 = 1024;

/// Restores, once. What stands in the target already is compared by content, and only what differs is written.
pub async fn run(
    repository: &Repository,
    snapshot: &Snapshot,
    settings: &RestoreSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<RestoreReport, RestoreError> {
    let began = repository.env.elapsed();
    if let Some(from) = &settings.from {
        read_only_from(repository, snapshot, from).await?;
    }
    let choice = Choice::new(settings).map_err(RestoreError::Settings)?;
    let parts = select::parts(snapshot, settings.path.as_deref()).map_err(RestoreError::Settings)?;
    for part in parts.iter().filter(|part| !part.from.is_empty()) {
        find(repository, part).await?;
    }
    let whole = |part: &&Part| part.from.is_empty() && choice.is_all();
    if parts.iter().filter(whole).count() == parts.len() {
        progress.items_total.set(parts.iter().map(|part| part.catalog.entries).sum());
        progress.bytes_total.set(parts.iter().map(|part| part.catalog.bytes).sum());
    }
    let target = open(repository, settings).await?;
    let report = RestoreReport {
        snapshot: snapshot.id.as_ref().try_into().unwrap_or_default(),
        dry_run: settings.dry_run,
        ..RestoreReport::default()
    };
    let tally = Arc::new(Tally::new(progress, report, settings.losses.clone()));
    let memory = if settings.memory == 0 { MEMORY } else { settings.memory };
    let links_memory = usize::try_from(memory / 8).unwrap_or(usize::MAX);
    let broken = Arc::new(Mutex::new(Some(Firsts::new(links_memory, std::env::temp_dir()))));
    let placer = Placer { target, tally: tally.clone(), dry_run: settings.dry_run, broken };
    let work = Work::new(repository, placer, stop, memory);
    let files = FILES_MAX.min(raise_open_files() / 4).max(16) as usize;
    let done = windows(&work, Walk::new(repository, &choice, tally.clone(), stop, (files, links_memory), parts)).await;
    // What was met is recorded however it ended.
    let notes = if settings.dry_run { met(repository) } else { repository.record_distrust(None).await };
    done?;
    let mut report = tally.finish();
    report.notes = notes;
    report.duration = repository.env.elapsed().saturating_sub(began);
    Ok(report)
}

/// One window is brought to its end while the next is read and placed.
async fn windows(work: &Work<'_>, mut walk: Walk<'_>) -> Result<(), RestoreError> {
    let mut ready: Option<Ready> = None;
    loop {
        let next = async {
            match walk.window().await? {
                Some(window) => work.place(window).await.map(Some),
                None => Ok(None),
            }
        };
        let finishing = async {
            match ready.take() {
                Some(ready) => work.finish(ready).await,
                None => Ok(()),
            }
        };
        let (next, finished) = futures::join!(next, finishing);
        finished?;
        match next? {
            None => return Ok(()),
            Some(last) if last.ends_part => work.finish(last).await?,
            Some(window) => ready = Some(window),
        }
    }
}

async fn read_only_from(repository: &Repository, snapshot: &Snapshot, from: &str) -> Result<(), RestoreError> {
    repository.read_only_from(from)?;
    for index in repository.readable().indices() {
        let holds = match repository.log(index).await {
            Some(log) => snapshot.snapshot_id().is_ok_and(|id| log.state.snapshots.contains_key(&id)),
            None => false,
        };
        if !holds {
            let id = hex::encode(&snapshot.id);
            return Err(RepositoryError::new(Fault::Usage, format!("store {from} does not hold snapshot {id}")).into());
        }
    }
    Ok(())
}

/// Refuses a path that the snapshot does not have, before the target is touched.
async fn find(repository: &Repository, part: &Part) -> Result<(), RestoreError> {
    let mut cursor = repository.cursor(TreeKind::Catalog, &part.catalog)?;
    cursor.seek(&part.from);
    match cursor.next().await {
        Ok(Some((key, _))) if part.has(&key) => Ok(()),
        Ok(_) => {
            let path = String::from_utf8_lossy(&part.path).into_owned();
            Err(RestoreError::Settings(format!("the snapshot has nothing recorded at {path}")))
        }
        // Damage is told with what is restored in spite of it.
        Err(_) => Ok(()),
    }
}

async fn open(repository: &Repository, settings: &RestoreSettings) -> Result<Option<Arc<Target>>, RestoreError> {
    let (dir, dry_run) = (settings.target.clone(), settings.dry_run);
    let how = TargetSettings {
        owners: !settings.no_owners,
        xattrs: !settings.no_xattrs,
        special: !settings.no_special,
        numeric_ids: !settings.owners_by_name,
        sparse: false,
    };
    let opened = repository
        .env
        .blocking(move || match dry_run && !dir.exists() {
            true => Ok(None),
            false => Target::open(&dir, !dry_run, how).map(|target| Some(Arc::new(target))),
        })
        .await;
    opened.map_err(|e| RestoreError::Target(told(&e)))
}

/// What was met, without writing it anywhere.
fn met(repository: &Repository) -> Vec<String> {
    let mut notes: Vec<String> = repository.take_met().into_iter().map(|met| met.what).collect();
    notes.dedup();
    notes.truncate(100);
    notes
}
