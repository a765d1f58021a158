//! Snapshots that nobody can vouch for: something of them lies, as far as the logs at hand say, only in packs that were found
//! damaged. Retention must not count them in the place of whole ones.

use std::collections::BTreeSet;

use crate::format::Hash;
use crate::lifecycle::closure::Closure;
use crate::lifecycle::heal::HealError;
use crate::progress::Stop;
use crate::replica::Mask;
use crate::repository::Repository;

/// The ids of those snapshots. Reads nothing where some log that holds a snapshot distrusts no pack, else the catalogs of the
/// snapshots in question. One whose object is damaged everywhere is not among them: it is known as unreadable.
pub async fn doubtful(repository: &Repository, stop: &Stop) -> Result<BTreeSet<Hash>, HealError> {
    let mut doubting = Mask::default();
    for i in repository.readable().indices() {
        if let Some(log) = repository.log(i).await
            && !log.state.distrusted.is_empty()
        {
            doubting = doubting.or(Mask::one(i));
        }
    }
    let mut found = BTreeSet::new();
    let mut suspects = repository.live().await;
    suspects.retain(|live| doubting.covers(live.mask));
    if suspects.is_empty() {
        return Ok(found);
    }
    let index = repository.index().await?;
    let mut walk = Closure::new(repository, index.clone(), stop);
    for live in suspects {
        let Some(object) = repository.snapshot_object(&live).await else { continue };
        let lost = walk.snapshot(&object.snapshot, live.mask).await?;
        let needs = std::mem::take(&mut walk.needs);
        let untrusted = {
            let chunks = index.read().expect("no panic while the index is locked");
            needs.packs().any(|pack| chunks.pack(pack).usable().and(repository.readable()).is_empty())
        };
        if untrusted || !lost.is_empty() {
            found.insert(live.id);
            // What is in doubt was passed over once: the next snapshot that needs it must find that out, too.
            walk = Closure::new(repository, index.clone(), stop);
        }
    }
    Ok(found)
}
