//! A damaged log, made again: a new epoch that takes over what is sound.
//!
//! The order is what makes it safe to be cut off anywhere: nobody else writes to the replica until the last record; nothing is
//! condemned before all of it that can be had lies elsewhere and is published.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::format::Hash;
use crate::format::record::ObjectClass;
use crate::lifecycle::forget::carry;
use crate::lifecycle::heal::HealError;
use crate::lifecycle::repair::RepairSettings;
use crate::lifecycle::repair::adopt::{self, Adoption};
use crate::lifecycle::repair::roots;
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::epochs::LogNeeds;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::Class;
use crate::repository::past::Past;
use crate::repository::state::State;

/// What became of a log.
#[derive(Clone, Debug, Default)]
pub struct LogRepaired {
    /// The replica's configured name.
    pub name: String,
    /// What was wrong; none: nothing, and nothing was done.
    pub why: Option<String>,
    /// Whether an interrupted repair was finished.
    pub finished: bool,
    /// The epoch that the log is in now (of a dry run: would be).
    pub epoch: u32,
    /// Slots of the old epoch that are lost: slot and story (bounded).
    pub wounds: Vec<(u64, String)>,
    /// How many those are.
    pub wounds_count: u64,
    /// Whether all that was condemned is known all the same.
    pub complete: bool,
    /// Packs that keep their names (of a dry run: would).
    pub kept: u64,
    /// Packs that were copied under new names (of a dry run: at most so many would be).
    pub copied: u64,
    /// Bytes of the copies (of a dry run: at most).
    pub bytes_copied: u64,
    /// Packs of which something could not be had: objects (bounded).
    pub damaged: Vec<String>,
    /// How many those are.
    pub damaged_count: u64,
    /// Snapshots committed in the new log (of a dry run: that would be looked at).
    pub snapshots: u64,
    /// Snapshots that are not: id, why, and whether another replica holds it.
    pub not_whole: Vec<(Hash, String, bool)>,
    /// Whether the repair is left unfinished for those that no other replica holds: nothing is pruned before they are given up.
    pub waits: bool,
    /// Snapshots forgotten, as far as known.
    pub forgotten: u64,
    /// Names that are void from now on.
    pub void: u64,
    /// Things worth saying.
    pub notes: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

/// Repairs the log of replica `index`. The repository must have been opened for it, and nothing else done with it before.
pub async fn run(
    repository: &Repository,
    index: usize,
    settings: &RepairSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<LogRepaired, HealError> {
    let began = repository.env.elapsed();
    let mut report = LogRepaired { name: repository.set.replicas[index].name.clone(), ..LogRepaired::default() };
    let mut needs = repository.log_needs(index).await?;
    let epoch = match repository.log(index).await {
        Some(log) => log.state.epoch,
        None => return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read").into()),
    };
    report.epoch = epoch;
    if needs == LogNeeds::Nothing {
        // Reading began at a checkpoint: what was lost before that nobody has missed yet.
        let past = repository.past(index, epoch).await?;
        if let Some((slot, story)) = past.wounds.first() {
            needs = LogNeeds::NewEpoch(format!("store {}: slot {slot} of its log is lost: {story}", report.name));
        }
    }
    match needs {
        LogNeeds::Nothing => return Ok(report),
        LogNeeds::NewEpoch(why) => {
            report.why = Some(why);
            report.epoch = epoch + 1;
            if settings.dry_run {
                return foresee(repository, index, epoch, report).await;
            }
            repository.begin_epoch(index).await?;
        }
        LogNeeds::Finish => {
            report.why = Some(format!("store {}: the repair of its log was interrupted", report.name));
            report.finished = true;
            if settings.dry_run {
                return foresee(repository, index, epoch - 1, report).await;
            }
            repository.admit(index).await?;
        }
    }
    let past = repository.past(index, report.epoch - 1).await?;
    tell(&mut report, &past);
    repository.carry_past(index, &past).await?;
    repository.index().await?;
    let sorted = adopt::sort(repository, index, &past).await?;
    let mut adoption = Adoption::new(repository, index, settings, progress, stop);
    adoption.run(sorted).await?;
    let adopted = adoption.done;
    let found = roots::commit(repository, index, &past, settings.group_by, progress, stop).await?;
    going_on(stop)?;
    // What is left of a snapshot that is nowhere whole must not look like something that nobody needs.
    report.waits = !settings.give_up && found.not_whole.iter().any(|(_, _, elsewhere)| !elsewhere);
    if !report.waits {
        // What is disputed stays a root here, too: the next heal tells of it.
        for (_, carried) in carry(repository, settings.group_by, Mask::one(index)).await {
            carried?;
        }
        report.void = condemn(repository, index, &past, &adopted, &found.void).await?;
        repository.finish_repair(index, &past).await?;
    }
    (report.kept, report.copied, report.bytes_copied) = (adopted.kept, adopted.copied, adopted.bytes_copied);
    (report.damaged, report.damaged_count) = (adopted.damaged, adopted.damaged_count);
    (report.snapshots, report.not_whole) = (found.committed, found.not_whole);
    report.notes.extend(repository.save_heads().err());
    report.duration = repository.env.elapsed().saturating_sub(began);
    Ok(report)
}

fn tell(report: &mut LogRepaired, past: &Past) {
    (report.wounds, report.wounds_count, report.complete) = (past.wounds.clone(), past.wounds_count, past.knows_names());
    report.forgotten = past.state.forgotten.len() as u64;
}

/// What a repair would do, as far as that can be said without writing.
async fn foresee(repository: &Repository, index: usize, old: u32, mut report: LogRepaired) -> Result<LogRepaired, HealError> {
    let past = repository.past(index, old).await?;
    tell(&mut report, &past);
    let sorted = adopt::sort(repository, index, &past).await?;
    (report.kept, report.copied) = (sorted.keep.len() as u64, sorted.copy.len() as u64);
    report.bytes_copied = sorted.copy.iter().map(|pack| pack.size).sum();
    report.void = sorted.void;
    report.snapshots = roots::count(repository, index, &past).await?;
    Ok(report)
}

/// Voids what must never be relied on by its old name, now that all of it which can be had lies under another. Gives how many
/// names that is.
async fn condemn(
    repository: &Repository,
    index: usize,
    past: &Past,
    adopted: &adopt::Adopted,
    snapshots: &BTreeSet<Hash>,
) -> Result<u64, HealError> {
    let now = match repository.log(index).await {
        Some(log) => log.state.clone(),
        None => State::default(),
    };
    repository.distrust_repairing(index, &adopted.doubted.difference(&now.distrusted).copied().collect::<Vec<_>>()).await?;
    let mut void: BTreeSet<(ObjectClass, Hash)> = adopted.void.iter().map(|(kind, hash)| ((*kind).into(), *hash)).collect();
    void.extend(snapshots.iter().map(|hash| (ObjectClass::Snapshot, *hash)));
    // The old log's segments say nothing any more.
    let segments = repository.listed(index, Class::Segment).await?;
    let segments = segments.iter().chain(&past.state.segments).filter(|segment| !now.segments.contains(*segment));
    void.extend(segments.map(|segment| (ObjectClass::Index, *segment)));
    void.retain(|(class, hash)| !now.is_condemned(*class, hash));
    let mine = now.segments.clone();
    let mut count = 0;
    for of in [ObjectClass::Data, ObjectClass::Meta, ObjectClass::Index, ObjectClass::Snapshot] {
        let names: Vec<Hash> = void.iter().filter(|(class, _)| *class == of).map(|(_, hash)| *hash).collect();
        let verify = |state: &State| {
            let relied = state.segments.iter().any(|segment| !mine.contains(segment))
                || state.snapshots.values().any(|live| of == ObjectClass::Snapshot && snapshots.contains(&live.object));
            match relied {
                true => {
                    Err(RepositoryError::new(Fault::Contention, "another repair of this log is under way: run the command again"))
                }
                false => Ok(()),
            }
        };
        repository.condemn_repairing(index, of, &names, verify).await?;
        count += names.len() as u64;
    }
    Ok(count)
}

fn going_on(stop: &Stop) -> Result<(), HealError> {
    if stop.requested() { Err(HealError::Interrupted) } else { Ok(()) }
}
