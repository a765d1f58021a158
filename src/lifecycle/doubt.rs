//! What nobody can vouch for: snapshots that some replica's log holds although something they need lies there, as far as is known,
//! only in packs that were found damaged. Retention must not count such a copy in the place of a whole one.

use std::collections::BTreeMap;

use crate::format::Hash;
use crate::lifecycle::closure::Closure;
use crate::lifecycle::heal::HealError;
use crate::progress::Stop;
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::chunk_index::PackRow;
use crate::repository::error::{Fault, RepositoryError};
use crate::verify::found_damage;

/// Live snapshots that are not whole everywhere, and the replicas which hold them and where they are not. Reads nothing where
/// no log tells of damage, else the catalogs of the snapshots that those logs hold.
pub async fn doubtful(repository: &Repository, stop: &Stop) -> Result<BTreeMap<Hash, Mask>, HealError> {
    let doubting = doubting(repository).await;
    let mut found: BTreeMap<Hash, Mask> = BTreeMap::new();
    let mut suspects = repository.live().await;
    suspects.retain(|live| !live.mask.and(doubting).is_empty());
    if suspects.is_empty() {
        return Ok(found);
    }
    let index = repository.index().await?;
    repository.take_in().await?;
    let mut walk = Closure::new(repository, index, stop);
    walk.strict = true;
    for live in suspects {
        let at = live.mask.and(doubting);
        let mut lacking = Mask::default();
        for i in at.indices() {
            let object = repository.log(i).await.and_then(|log| log.state.snapshots.get(&live.id).map(|root| root.object));
            let there = match object {
                Some(object) => repository.snapshot_at(i, &object).await.is_ok_and(|found| found.is_some()),
                None => false,
            };
            if !there {
                lacking = lacking.or(Mask::one(i));
            }
        }
        match repository.snapshot_object(&live).await {
            Some(object) => {
                let lost = walk.snapshot(&object.snapshot, at).await?;
                lacking = lost.keys().fold(lacking, |mask, i| mask.or(Mask::one(*i)));
            }
            None => lacking = live.mask,
        }
        if !lacking.is_empty() {
            found.insert(live.id, lacking);
        }
    }
    Ok(found)
}

/// The replicas whose logs tell of damage there.
pub async fn doubting(repository: &Repository) -> Mask {
    let mut doubting = Mask::default();
    for i in repository.readable().indices() {
        if let Some(log) = repository.log(i).await
            && (!log.state.distrusted.is_empty() || found_damage(&log.state))
        {
            doubting = doubting.or(Mask::one(i));
        }
    }
    doubting
}

/// The same as [`doubtful`] for who cannot be stopped.
pub async fn whole(repository: &Repository) -> Result<BTreeMap<Hash, Mask>, RepositoryError> {
    match doubtful(repository, &Stop::default()).await {
        Ok(found) => Ok(found),
        Err(HealError::Repository(e)) => Err(e),
        Err(e) => Err(RepositoryError::caused(Fault::Failed, "looking at what is whole", e)),
    }
}

/// Where a snapshot is not whole although it is held there.
pub fn of(doubtful: &BTreeMap<Hash, Mask>, id: &Hash) -> Mask {
    doubtful.get(id).copied().unwrap_or_default()
}

/// Which replicas of `at` have packs that are not to be relied on, be it only by what this process met, and how many those are.
pub async fn unproven(repository: &Repository, at: Mask) -> Result<(Mask, usize), RepositoryError> {
    let mut found = Mask::default();
    for i in at.indices() {
        if let Some(log) = repository.log(i).await
            && !log.state.distrusted.is_empty()
        {
            found = found.or(Mask::one(i));
        }
    }
    let index = repository.index().await?;
    let chunks = index.read().expect("no panic while the index is locked");
    let bad = |pack: &PackRow| pack.distrusted.and(pack.published).and(at);
    let count = chunks.packs().iter().map(|pack| bad(pack).count()).sum();
    Ok((chunks.packs().iter().fold(found, |m, pack| m.or(bad(pack))), count))
}
