//! Prune: what no snapshot needs any more is taken out of each replica, each by its own log.
//!
//! At one replica: read the log to its end, mark what is live (`live`), list what is there (`inventory`), plan (`prune_plan`),
//! move what is to stay (`repack`), prove the plan (`prune_proof`), condemn; then compact the index (`compact`) and remove what
//! was condemned long enough ago (`delete`). A run that is cut off leaves new packs that nobody names, or copies that are
//! published: the next one finds both.
//!
//! Never pruned: keys (a key slot in use is in no record), checkpoints (old ones help to repair a log), the log itself, and in
//! an epoch that a repair began, lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::format::Hash;
use crate::lifecycle::delete::Deleted;
use crate::lifecycle::heal::told;
use crate::lifecycle::prune_plan::{Limits, MaxUnused};
use crate::lifecycle::prune_site::Site;
use crate::lifecycle::retention::group::GroupBy;
use crate::progress::{Progress, Stop};
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::store::meter::{MeterFigures, Operation};

/// How a prune goes about it.
#[derive(Clone, Debug)]
pub struct PruneSettings {
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Snapshots that count as forgotten already; for a dry run alone, else nothing that a log does not say counts.
    pub forgotten: BTreeSet<Hash>,
    /// What of the waste may stay, and how much is moved at most.
    pub limits: Limits,
    /// How long what was written, or condemned, is spared, by the store's clock.
    pub mercy: Duration,
    /// Bytes in flight.
    pub memory: u64,
    /// Target size of new data packs in bytes.
    pub data_pack: u32,
    /// Target size of new meta packs in bytes.
    pub meta_pack: u32,
    /// Plaintext bytes that groups of small chunks are filled to.
    pub group: u32,
    /// Publish at least this often, in bytes.
    pub publish_bytes: u64,
    /// What snapshots of one source have in common: while the last one of a source is disputed, nothing is condemned.
    pub group_by: GroupBy,
}

/// Default for [`PruneSettings::mercy`].
pub const MERCY: Duration = Duration::from_secs(14 * 86_400);

impl Default for PruneSettings {
    fn default() -> PruneSettings {
        PruneSettings {
            dry_run: false,
            forgotten: BTreeSet::new(),
            limits: Limits { max_unused: MaxUnused::Percent(5.0), max_repack: None },
            mercy: MERCY,
            memory: 128 << 20,
            data_pack: 16 << 20,
            meta_pack: 4 << 20,
            group: 128 << 10,
            publish_bytes: 1 << 30,
            group_by: GroupBy::default(),
        }
    }
}

/// How many, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// Requests of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Objects created.
    pub put: u64,
    /// Objects, or parts of them, read.
    pub get: u64,
    /// Objects asked for their size.
    pub stat: u64,
    /// Listings.
    pub list: u64,
    /// Calls that remove up to a thousand objects each.
    pub delete: u64,
}

impl Requests {
    fn plus(self, more: Requests) -> Requests {
        Requests {
            put: self.put + more.put,
            get: self.get + more.get,
            stat: self.stat + more.stat,
            list: self.list + more.list,
            delete: self.delete + more.delete,
        }
    }

    fn between(before: &MeterFigures, after: &MeterFigures) -> Requests {
        let calls = |operation| after.total(operation).calls.saturating_sub(before.total(operation).calls);
        Requests {
            put: calls(Operation::Put),
            get: calls(Operation::Get),
            stat: calls(Operation::Stat),
            list: calls(Operation::List),
            delete: calls(Operation::Delete),
        }
    }
}

/// How one replica came out. In a dry run: what would be.
#[derive(Clone, Debug, Default)]
pub struct ReplicaPruned {
    /// Its configured name.
    pub name: String,
    /// Packs that its log relied on before.
    pub before: Tally,
    /// Those of them that go because nothing live has its place there.
    pub dropped: Tally,
    /// Those of them that go because what was live has moved.
    pub repacked: Tally,
    /// New packs that it moved to (in a dry run: about).
    pub made: Tally,
    /// Packs that stay although they hold waste: too young.
    pub young: Tally,
    /// The same: damaged, and something live has no other place.
    pub damaged: Tally,
    /// The same: within `max_unused`.
    pub tolerated: Tally,
    /// The same: beyond `max_repack_size`.
    pub later: Tally,
    /// Objects that go because nothing ever named them or nothing needs them any more: packs, segments, snapshots.
    pub orphans: Tally,
    /// Such objects that are too young to go.
    pub orphans_young: u64,
    /// Index segments that others replace.
    pub segments_replaced: u64,
    /// Names that records of this run condemn.
    pub condemned: u64,
    /// What was removed from the store, and what waits for that.
    pub deleted: Deleted,
    /// What was asked of the store (in a dry run: what would be, about).
    pub requests: Requests,
    /// Why nothing, or not all, was done there.
    pub behind: Option<String>,
    /// The class of that reason.
    pub fault: Option<Fault>,
}

/// What a prune did.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// Each configured replica.
    pub replicas: Vec<ReplicaPruned>,
    /// Damage that was met on the way, and what else is worth saying.
    pub notes: Vec<String>,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
    /// Replicas that have to come out well.
    pub quorum: usize,
    /// How long it took.
    pub duration: Duration,
}

/// Why a prune ended early, at one replica or altogether.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Others changed what the plan stood on: it is made again.
    #[error("others changed the repository each time a plan was made ({0}): try again when fewer run at once")]
    Overtaken(String),
    /// Stopped on request. Nothing that is needed was touched.
    #[error("interrupted: run it again to go on")]
    Interrupted,
}

impl PruneError {
    /// The same, with what it is about before it.
    pub(super) fn about(self, what: impl FnOnce() -> String) -> PruneError {
        match self {
            PruneError::Repository(e) => {
                RepositoryError { fault: e.fault, message: format!("{}: {}", what(), e.message), source: e.source }.into()
            }
            other => other,
        }
    }

    /// Its class.
    pub fn fault(&self) -> Fault {
        match self {
            PruneError::Repository(e) => e.fault,
            PruneError::Overtaken(_) => Fault::Contention,
            PruneError::Interrupted => Fault::Interrupted,
        }
    }
}

/// Prunes every replica that can be written to, one after the other. What is wrong with one of them is told in the report.
pub async fn run(
    repository: &Repository,
    settings: &PruneSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<PruneReport, PruneError> {
    let began = repository.env.elapsed();
    let mut report = PruneReport { dry_run: settings.dry_run, quorum: repository.set.write_quorum(), ..PruneReport::default() };
    let mut pruned: BTreeMap<usize, ReplicaPruned> = BTreeMap::new();
    for replica in repository.writable().indices() {
        let meter = &repository.set.replicas[replica].meter;
        let before = meter.snapshot();
        let mut site = Site::new(repository, settings, replica, progress, stop);
        let done = site.run().await;
        report.notes.append(&mut site.notes);
        let mut one = site.report;
        // A dry run has read what a run would read first; to that comes what it foretells.
        let asked = Requests::between(&before, &meter.snapshot());
        one.requests = if settings.dry_run { one.requests.plus(asked) } else { asked };
        match done {
            Ok(()) => {}
            Err(PruneError::Interrupted) => {
                // What was seen and written so far is remembered all the same; failing to is no worse than not having tried.
                let _ = repository.save_heads();
                return Err(PruneError::Interrupted);
            }
            Err(e) => (one.behind, one.fault) = (Some(told(&e)), Some(e.fault())),
        }
        pruned.insert(replica, one);
    }
    for replica in &repository.set.replicas {
        let mut one = pruned.remove(&replica.index).unwrap_or_default();
        one.name.clone_from(&replica.name);
        if let (None, Some((fault, why))) = (&one.behind, repository.fault(replica.index)) {
            (one.behind, one.fault) = (Some(why), Some(fault));
        }
        report.replicas.push(one);
    }
    for (name, _, e) in &repository.set.closed {
        let (behind, fault) = (Some(told(e)), Some(RepositoryError::from_kind(e.kind)));
        report.replicas.push(ReplicaPruned { name: name.clone(), behind, fault, ..ReplicaPruned::default() });
    }
    match settings.dry_run {
        true => report.notes.extend(repository.take_met().into_iter().map(|met| met.what).take(100)),
        false => {
            report.notes.extend(repository.record_distrust(None).await);
            report.notes.extend(repository.save_heads().err());
        }
    }
    report.duration = repository.env.elapsed().saturating_sub(began);
    Ok(report)
}
