//! What a log stands on besides packs, at one replica: its index segments, and the objects of its snapshots. What is damaged or
//! missing there and whole elsewhere comes again.
//!
//! Nothing is overwritten. Where other bytes lie under a name the content gets a fresh one, and a record puts that in the place of
//! the old: `compact` for a segment, `commit` for a snapshot that is live there still. The old object is an orphan then, and goes
//! with a prune. Packs that were distrusted since nothing named them any more are read back, and trusted when every byte is right.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Hash;
use crate::lifecycle::heal::HealError;
use crate::lifecycle::heal_commit::place;
use crate::progress::Stop;
use crate::replica::Mask;
use crate::replica::read::ReadFault;
use crate::repository::Repository;
use crate::repository::chunk_index::PackRow;
use crate::repository::condemned::CondemnFault;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::state::State;
use crate::repository::trailers::StoredPack;
use crate::repository::writer::{Reliance, WriteFault};
use crate::verify::found_damage;

/// What became of such objects at one replica.
#[derive(Clone, Debug, Default)]
pub struct Replaced {
    /// Index segments.
    pub segments: u64,
    /// Objects of snapshots.
    pub snapshots: u64,
    /// Packs that are trusted again.
    pub lifted: u64,
    /// What is damaged still, and what to do about it.
    pub left: Option<String>,
}

impl Replaced {
    /// What was done at the store of this name, or would be, if anything.
    pub fn told(&self, name: &str, dry_run: bool) -> Option<String> {
        let (segments, snapshots, lifted) = (self.segments, self.snapshots, self.lifted);
        (segments + snapshots + lifted > 0).then(|| {
            if dry_run {
                return format!(
                    "store {name}: {segments} index segments and {snapshots} snapshots' objects, damaged or missing there, would be replaced"
                );
            }
            format!(
                "store {name}: replaced what was damaged or missing: {segments} index segments, {snapshots} snapshots' objects; \
                 {lifted} packs were read back and are trusted again"
            )
        })
    }
}

/// Looks at those of `targets` where damage was found before, by what their logs say; the others cost no request. A dry run counts
/// what would come again, and writes nothing.
pub async fn run(
    repository: &Repository,
    targets: Mask,
    dry_run: bool,
    stop: &Stop,
) -> Result<BTreeMap<usize, Result<Replaced, RepositoryError>>, HealError> {
    let mut out = BTreeMap::new();
    for target in targets.indices() {
        let state = match repository.log(target).await {
            Some(log) if !log.state.distrusted.is_empty() || found_damage(&log.state) || repository.index_has_gaps() => {
                log.state.clone()
            }
            _ => continue,
        };
        let mut done = Replaced::default();
        let result = match segments(repository, (target, dry_run), &state, stop, &mut done).await {
            Ok(()) => snapshots(repository, (target, dry_run), &state, stop, &mut done).await,
            failed => failed,
        };
        match result {
            Ok(()) => drop(out.insert(target, Ok(done))),
            Err(HealError::Repository(e)) => drop(out.insert(target, Err(e))),
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

async fn segments(
    repository: &Repository,
    (target, dry_run): (usize, bool),
    state: &State,
    stop: &Stop,
    done: &mut Replaced,
) -> Result<(), HealError> {
    let name = &repository.set.replicas[target].name;
    // Packs that nothing whole named when the index was loaded.
    let unproven: BTreeSet<Hash> = {
        let index = repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        chunks.packs().iter().filter(|pack| pack.distrusted.has(target)).map(|pack| pack.hash).collect()
    };
    for hash in &state.segments {
        going_on(stop)?;
        match repository.segment_at(target, hash).await {
            Ok(_) => continue,
            Err(fault) if fault.is_damage() => {}
            Err(fault) => return Err(refused(fault).into()),
        }
        let short = hex::encode(hash);
        let (whole, _) = repository.segment(hash, repository.readable().without(Mask::one(target))).await;
        let Some(segment) = whole else {
            let why = "is damaged or missing there, and lies nowhere else";
            done.left = Some(format!("index segment {short} {why}: run `holdfast repair index {name}`"));
            continue;
        };
        if dry_run {
            done.segments += 1;
            continue;
        }
        let mut entries = segment.packs;
        entries.retain(|pack| pack.name().is_ok_and(|pack_name| !state.is_condemned(pack.kind().into(), &pack_name)));
        let packs: Vec<StoredPack> = entries
            .iter()
            .filter_map(|pack| Some(StoredPack { kind: pack.kind(), hash: pack.name().ok()?, size: pack.size }))
            .filter(|pack| state.distrusted.contains(&pack.hash) || unproven.contains(&pack.hash))
            .collect();
        let at = Mask::one(target);
        let (new, failed) = repository.send_segments(entries.into_iter().map(|pack| (pack, at)).collect()).await;
        if let Some((_, e)) = failed.into_iter().next() {
            return Err(e.into());
        }
        match repository.compact(target, &BTreeSet::from([*hash]), &new).await {
            Ok(()) => done.segments += 1,
            Err(CondemnFault::Overtaken(why)) => {
                done.left = Some(format!("index segment {short} is damaged or missing there, and meanwhile {why}: run it again"));
                continue;
            }
            Err(CondemnFault::Repository(e)) => return Err(e.into()),
        }
        done.lifted += trusted(repository, target, packs, stop).await?;
    }
    Ok(())
}

/// Reads distrusted packs back in full, and lifts the distrust of those that are right. Gives how many those are.
async fn trusted(repository: &Repository, target: usize, packs: Vec<StoredPack>, stop: &Stop) -> Result<u64, HealError> {
    let mut right: Vec<Hash> = Vec::new();
    for pack in packs {
        going_on(stop)?;
        match repository.proven_pack_at(target, &pack).await {
            Ok(_) => right.push(pack.hash),
            Err(fault) if fault.is_damage() => {}
            Err(fault) => return Err(refused(fault).into()),
        }
    }
    Ok(repository.lift_distrust(target, right).await? as u64)
}

async fn snapshots(
    repository: &Repository,
    (target, dry_run): (usize, bool),
    state: &State,
    stop: &Stop,
    done: &mut Replaced,
) -> Result<(), HealError> {
    for live in repository.live().await {
        going_on(stop)?;
        let Some(root) = state.snapshots.get(&live.id) else { continue };
        let whole = match repository.snapshot_at(target, &root.object).await? {
            Some((snapshot, _)) => snapshot.id[..] == live.id[..],
            None => false,
        };
        if whole {
            continue;
        }
        let short = hex::encode(live.id);
        let Some(object) = repository.snapshot_object(&live).await else {
            done.left = Some(format!("the object of snapshot {short} is damaged or missing wherever it lies"));
            continue;
        };
        if dry_run {
            done.snapshots += 1;
            continue;
        }
        let name = place(repository, target, &object).await?;
        // Each record that was written since may have brought news of other logs.
        if repository.forgotten_ids().await.contains(&live.id) {
            continue;
        }
        if name != root.object {
            // Nothing new is relied on: the snapshot must only be live there still.
            let parents = vec![live.id];
            let reliance = Reliance { parents, distrusted: distrusted(repository, target).await?, ..Reliance::default() };
            match repository.commit(target, live.id, name, root.partial, &[], &[], &reliance).await {
                Ok(()) => {}
                Err(WriteFault::LostCover(why)) => {
                    done.left =
                        Some(format!("the object of snapshot {short} is damaged there, and meanwhile {why}: run it again"));
                    continue;
                }
                Err(WriteFault::Repository(e)) => return Err(e.into()),
            }
        }
        done.snapshots += 1;
    }
    Ok(())
}

/// All packs that are distrusted at a replica, be it only by what this process met.
async fn distrusted(repository: &Repository, target: usize) -> Result<BTreeSet<Hash>, RepositoryError> {
    let mut all = match repository.log(target).await {
        Some(log) => log.state.distrusted.clone(),
        None => BTreeSet::new(),
    };
    let index = repository.index().await?;
    let chunks = index.read().expect("no panic while the index is locked");
    let bad = |pack: &&PackRow| pack.distrusted.has(target);
    all.extend(chunks.packs().iter().filter(bad).map(|pack| pack.hash));
    Ok(all)
}

fn going_on(stop: &Stop) -> Result<(), HealError> {
    if stop.requested() { Err(HealError::Interrupted) } else { Ok(()) }
}

fn refused(fault: ReadFault) -> RepositoryError {
    match fault {
        ReadFault::Store(e) => e.into(),
        ReadFault::Damaged(why) => RepositoryError::new(Fault::Integrity, why),
    }
}
