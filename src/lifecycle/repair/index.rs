//! The index of a replica, made again from the trailers of its packs.
//!
//! Packs that lie there and that no whole segment names get rows in new segments, which are published. What a log condemned
//! stays void; what it distrusts is read back in full first, and trusted only when every byte is right. Once everything that
//! the snapshots stand on has a place again, segments that are lost are replaced by the new ones.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};

use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::format::pack::PackKind;
use crate::lifecycle::closure::Closure;
use crate::lifecycle::heal::{HealError, told};
use crate::lifecycle::repair::RepairSettings;
use crate::lifecycle::repair::adopt::{Adoption, Sorted};
use crate::lifecycle::repair::rows::Rows;
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::replica::read::ReadFault;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::trailers::StoredPack;
use crate::repository::writer::{Reliance, WriteFault};

/// Trailers that are read at once.
const AT_ONCE: usize = 16;
/// Whole packs that are read at once.
const WHOLE_AT_ONCE: usize = 2;
/// Stories that are told in full.
const TOLD_MAX: usize = 100;

/// What became of the index of one replica.
#[derive(Clone, Debug, Default)]
pub struct IndexRepaired {
    /// Its configured name.
    pub name: String,
    /// Segments that its log names and that are damaged or missing there: object and story (bounded).
    pub lost: Vec<(String, String)>,
    /// How many those are.
    pub lost_count: u64,
    /// Packs that lie there.
    pub packs: u64,
    /// Packs that no whole segment named and that are relied on now (of a dry run: would be).
    pub added: u64,
    /// Those of them that were distrusted, and were read back in full.
    pub proven: u64,
    /// Segments written.
    pub segments: u64,
    /// Packs that cannot be described or proven: object and story (bounded).
    pub unreadable: Vec<(String, String)>,
    /// How many those are.
    pub unreadable_count: u64,
    /// Whether the log names no lost segment any more.
    pub replaced: bool,
    /// Why it still does, or why nothing could be done.
    pub behind: Option<String>,
    /// The class of that reason.
    pub fault: Option<Fault>,
}

/// Makes the index again at the replicas that `settings` name, or at all.
pub async fn run(
    repository: &Repository,
    settings: &RepairSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<Vec<IndexRepaired>, HealError> {
    // Everything that any log relies on, so that catalogs can be read wherever they lie.
    repository.index().await?;
    repository.take_met();
    let mut out = Vec::new();
    for replica in repository.set.replicas.iter().filter(|r| settings.wants(&r.name)) {
        let mut report = IndexRepaired { name: replica.name.clone(), ..IndexRepaired::default() };
        let possible = if settings.dry_run { repository.readable() } else { repository.writable() };
        let result = match possible.has(replica.index) {
            true => one(repository, replica.index, settings, progress, stop, &mut report).await,
            false => {
                let (fault, why) = repository.fault(replica.index).unwrap_or((Fault::Failed, "its log was never read".into()));
                Err(HealError::Repository(RepositoryError::new(fault, why)))
            }
        };
        match result {
            Ok(()) => {}
            Err(HealError::Repository(e)) => (report.fault, report.behind) = (Some(e.fault), Some(told(&e))),
            Err(e) => return Err(e),
        }
        out.push(report);
    }
    for (name, _, e) in repository.set.closed.iter().filter(|(name, ..)| settings.wants(name)) {
        let (fault, behind) = (Some(RepositoryError::from_kind(e.kind)), Some(told(e)));
        out.push(IndexRepaired { name: name.clone(), fault, behind, ..IndexRepaired::default() });
    }
    repository.save_heads().unwrap_or_default();
    Ok(out)
}

async fn one(
    repository: &Repository,
    index: usize,
    settings: &RepairSettings,
    progress: &Progress,
    stop: &Stop,
    report: &mut IndexRepaired,
) -> Result<(), HealError> {
    let state = match repository.log(index).await {
        Some(log) => log.state.clone(),
        None => return Err(RepositoryError::new(Fault::Failed, "its log was never read").into()),
    };
    let (mut indexed, mut lost): (BTreeSet<Hash>, Vec<Hash>) = (BTreeSet::new(), Vec::new());
    for hash in &state.segments {
        going_on(stop)?;
        match repository.segment_at(index, hash).await {
            Ok(segment) => indexed.extend(segment.packs.iter().filter_map(|pack| pack.name().ok())),
            Err(fault) if fault.is_damage() => {
                lost.push(*hash);
                report.lost_count += 1;
                note(&mut report.lost, layout::hashed(Class::Segment, hash).to_string(), fault.to_string());
            }
            Err(fault) => return Err(refused(repository, index, fault).into()),
        }
    }
    let listed = repository.listed_packs(index).await?;
    report.packs = listed.len() as u64;
    let missing = listed.into_iter().filter(|pack| !indexed.contains(&pack.hash));
    let missing: Vec<StoredPack> = missing.filter(|pack| !state.is_condemned(pack.kind.into(), &pack.hash)).collect();
    let (doubted, sound): (Vec<_>, Vec<_>) = missing.into_iter().partition(|pack| state.distrusted.contains(&pack.hash));
    progress.items_total.add((doubted.len() + sound.len()) as u64);
    if settings.dry_run {
        // What is distrusted would be read in full, and added if it is right: a dry run does not pay for that.
        (report.added, report.proven) = ((sound.len() + doubted.len()) as u64, doubted.len() as u64);
        return Ok(());
    }
    if !state.takes_names() {
        // Which of their names are void nobody knows: their frames go into packs of other names.
        let copy = [sound, doubted].concat();
        let mut adoption = Adoption::new(repository, index, settings, progress, stop);
        adoption.run(Sorted { copy, ..Sorted::default() }).await?;
        for object in &adoption.done.damaged {
            note(&mut report.unreadable, object.clone(), "not all of it can be had".to_owned());
        }
        report.unreadable_count += adoption.done.damaged_count;
        let rows = adoption.into_rows();
        (report.added, report.segments) = (rows.packs.len() as u64, rows.segments.len() as u64);
        if !lost.is_empty() {
            replace(repository, index, lost, &rows, stop, report).await?;
        }
        return Ok(());
    }
    let mut rows = Rows::new(repository, index, settings.publish_chunks);
    let mut reads =
        stream::iter(sound).map(|pack| async move { (pack, repository.row_by_trailer(index, &pack).await) }).buffered(AT_ONCE);
    while let Some((pack, read)) = reads.next().await {
        going_on(stop)?;
        progress.items.add(1);
        if let Some(entry) = row(repository, index, &pack, read, report)? {
            rows.add(entry).await?;
        }
    }
    let mut reads = stream::iter(doubted)
        .map(|pack| async move { (pack, repository.proven_pack_at(index, &pack).await.map(|(entry, _)| entry)) })
        .buffered(WHOLE_AT_ONCE);
    while let Some((pack, read)) = reads.next().await {
        going_on(stop)?;
        progress.items.add(1);
        progress.bytes.add(pack.size);
        if let Some(entry) = row(repository, index, &pack, read, report)? {
            // Only what is trusted may be published.
            report.proven += repository.lift_distrust(index, vec![pack.hash]).await? as u64;
            rows.add(entry).await?;
        }
    }
    rows.publish().await?;
    (report.added, report.segments) = (rows.packs.len() as u64, rows.segments.len() as u64);
    if !lost.is_empty() {
        replace(repository, index, lost, &rows, stop, report).await?;
    }
    Ok(())
}

/// The row of a pack, or what is wrong with it written down.
fn row(
    repository: &Repository,
    index: usize,
    pack: &StoredPack,
    read: Result<PackEntry, ReadFault>,
    report: &mut IndexRepaired,
) -> Result<Option<PackEntry>, RepositoryError> {
    match read {
        Ok(entry) => Ok(Some(entry)),
        Err(fault) if fault.is_damage() => {
            report.unreadable_count += 1;
            note(&mut report.unreadable, pack.object().to_string(), fault.to_string());
            Ok(None)
        }
        Err(fault) => Err(refused(repository, index, fault)),
    }
}

/// Takes lost segments out of the log, when everything that its snapshots stand on has a place without them.
async fn replace(
    repository: &Repository,
    index: usize,
    lost: Vec<Hash>,
    rows: &Rows<'_>,
    stop: &Stop,
    report: &mut IndexRepaired,
) -> Result<(), HealError> {
    let mut walk = Closure::new(repository, repository.index().await?, stop);
    let (mut whole, mut why) = (true, String::new());
    for live in repository.live().await.iter().filter(|live| live.mask.has(index)) {
        let Some(object) = repository.snapshot_object(live).await else {
            (whole, why) = (false, format!("snapshot {} cannot be read", hex::encode(live.id)));
            break;
        };
        if let Some(story) = walk.snapshot(&object.snapshot, Mask::one(index)).await?.remove(&index) {
            (whole, why) = (false, story);
            break;
        }
    }
    if whole && walk.needs.lacking().has(index) {
        (whole, why) = (false, "not all that its snapshots stand on lies there".into());
    }
    if !whole {
        report.fault = Some(Fault::Integrity);
        report.behind = Some(format!("its log goes on naming what is lost, since {why}: run `holdfast heal`, then this again"));
        return Ok(());
    }
    let hits: Vec<(PackKind, Hash)> = {
        let index_of_chunks = repository.index().await?;
        let chunks = index_of_chunks.read().expect("no panic while the index is locked");
        walk.hits[index].iter().map(|number| chunks.pack(*number)).map(|pack| (pack.kind, pack.hash)).collect()
    };
    let reliance = Reliance { hits, ..Reliance::default() };
    match repository.replace_segments(index, &lost, &rows.segments, &reliance).await {
        Ok(()) => report.replaced = true,
        Err(WriteFault::LostCover(why)) => {
            report.fault = Some(Fault::Contention);
            report.behind = Some(format!("its log goes on naming what is lost, since meanwhile {why}: run the command again"));
        }
        Err(WriteFault::Repository(e)) => return Err(e.into()),
    }
    Ok(())
}

fn going_on(stop: &Stop) -> Result<(), HealError> {
    if stop.requested() { Err(HealError::Interrupted) } else { Ok(()) }
}

fn refused(repository: &Repository, index: usize, fault: ReadFault) -> RepositoryError {
    match fault {
        ReadFault::Store(e) => e.into(),
        ReadFault::Damaged(why) => {
            RepositoryError::new(Fault::Integrity, format!("store {}: {why}", repository.set.replicas[index].name))
        }
    }
}

fn note(stories: &mut Vec<(String, String)>, object: String, story: String) {
    if stories.len() < TOLD_MAX {
        stories.push((object, story));
    }
}
