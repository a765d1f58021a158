//! Compaction of the index of one log: segments that are void for the greater part, and many small ones, are replaced by others
//! that hold every row which is not.

use std::collections::BTreeSet;

use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::lifecycle::prune::PruneError;
use crate::progress::Stop;
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::condemned::CondemnFault;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::writer::SentSegment;

/// Chunks below which a segment is small.
const SMALL: u64 = 5_000;
/// Small segments that are left alone.
const SMALL_MAX: usize = 16;
/// Chunks that are collected before new segments are written: rows of about 50 bytes.
const COLLECTED: u64 = 200_000;

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that are no longer in force.
    pub old: BTreeSet<Hash>,
    /// How many are instead.
    pub new: u64,
}

/// Which segments are replaced: of each its name, how many chunks it names, and how many that are not void.
pub fn choose(loads: &[(Hash, u64, u64)]) -> BTreeSet<Hash> {
    let void = |(_, all, in_force): &&(Hash, u64, u64)| in_force * 2 < *all || *in_force == 0;
    let small: Vec<Hash> = loads.iter().filter(|(_, _, in_force)| *in_force < SMALL).map(|(hash, ..)| *hash).collect();
    let mut chosen: BTreeSet<Hash> = loads.iter().filter(void).map(|(hash, ..)| *hash).collect();
    if small.len() > SMALL_MAX {
        chosen.extend(small);
    }
    chosen
}

/// Compacts, where it is worth it. Segments that were written for a record that others overtook are left as orphans.
pub async fn run(repository: &Repository, replica: usize, stop: &Stop) -> Result<Compacted, PruneError> {
    let (footing, _) = repository.stand(replica).await?;
    let loads = repository.segment_loads(replica, &footing).await?;
    let old = choose(&loads);
    if old.is_empty() {
        return Ok(Compacted::default());
    }
    let at = Mask::one(replica);
    let (mut new, mut named) = (Vec::new(), BTreeSet::new());
    let mut collected: (Vec<(PackEntry, Mask)>, u64) = (Vec::new(), 0);
    for hash in &old {
        if stop.requested() {
            return Err(PruneError::Interrupted);
        }
        let (segment, met) = repository.segment(hash, repository.readable()).await;
        let Some(segment) = segment else {
            let why = met.iter().map(|(_, fault)| fault.to_string()).collect::<Vec<_>>().join("; ");
            let why = format!("index segment {} can be read nowhere: {why}", hex::encode(hash));
            return Err(RepositoryError::new(Fault::Integrity, why).into());
        };
        let index = repository.index().await?;
        for entry in segment.packs {
            let name = entry.name().map_err(|e| RepositoryError::caused(Fault::Integrity, "reading an index segment", e))?;
            let in_force = {
                let chunks = index.read().expect("no panic while the index is locked");
                chunks.pack_number(&name).is_some_and(|number| chunks.pack(number).published.has(replica))
            };
            // A pack that stands in several of them is named once from now on.
            if in_force && named.insert(name) {
                collected.1 += entry.frames.iter().map(|frame| frame.lengths.len() as u64).sum::<u64>();
                collected.0.push((entry, at));
            }
        }
        if collected.1 >= COLLECTED {
            new.extend(send(repository, std::mem::take(&mut collected).0).await?);
        }
    }
    new.extend(send(repository, collected.0).await?);
    match repository.compact(replica, &old, &new).await {
        Ok(()) => Ok(Compacted { old, new: new.len() as u64 }),
        Err(CondemnFault::Overtaken(_)) => Ok(Compacted::default()),
        Err(CondemnFault::Repository(e)) => Err(e.into()),
    }
}

/// Writes segments for packs.
async fn send(repository: &Repository, packs: Vec<(PackEntry, Mask)>) -> Result<Vec<SentSegment>, PruneError> {
    if packs.is_empty() {
        return Ok(Vec::new());
    }
    let (sent, failed) = repository.send_segments(packs).await;
    match failed.into_iter().next() {
        Some((_, e)) => Err(e.into()),
        None => Ok(sent),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::lifecycle::compact::{SMALL, SMALL_MAX, choose};

    #[test]
    fn mostly_void_segments_are_replaced_and_small_ones_when_they_are_many() {
        let segment = |n: u8, all: u64, in_force: u64| ([n; 32], all, in_force);
        let large = 10 * SMALL;
        let loads = [segment(1, large, large), segment(2, large, large / 2), segment(3, large, large / 2 - 1), segment(4, 9, 0)];
        assert_eq!(choose(&loads), BTreeSet::from([[3; 32], [4; 32]]));
        let small = |n: usize| (0..n).map(|n| segment(n as u8, 10, 10)).collect::<Vec<_>>();
        assert!(choose(&small(SMALL_MAX)).is_empty());
        assert_eq!(choose(&small(SMALL_MAX + 1)).len(), SMALL_MAX + 1);
        assert!(choose(&[]).is_empty());
    }
}
