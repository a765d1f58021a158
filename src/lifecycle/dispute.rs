//! What some logs have forgotten for something that is not there any more. A run that saw only some of the logs may have kept what
//! another forgot, what was kept may have been damaged or given up since, or a repair may not have brought it back yet: as a
//! union of what the logs say, nothing of that source would be left.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};

use crate::format::Hash;
use crate::format::snapshot::Snapshot;
use crate::lifecycle::doubt;
use crate::lifecycle::retention::group::{GroupBy, GroupKey};
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::error::RepositoryError;

/// Objects that are read at once.
const AT_ONCE: usize = 16;

/// Complete snapshots that are roots in some log and forgotten in another, although nothing live, complete and whole somewhere is
/// left of their source. They stay roots there until somebody names them. A source is what `group_by` groups. What `going` names
/// counts as forgotten; `doubtful` says where live snapshots are not whole. Reads nothing where no log has a root that another has
/// forgotten.
pub async fn dispute(
    repository: &Repository,
    group_by: GroupBy,
    going: &BTreeSet<Hash>,
    doubtful: &BTreeMap<Hash, Mask>,
) -> Result<BTreeSet<Hash>, RepositoryError> {
    let forgotten = repository.forgotten_ids().await;
    let mut held: BTreeMap<Hash, (Hash, Mask)> = BTreeMap::new();
    for index in repository.readable().indices() {
        let Some(log) = repository.log(index).await else { continue };
        for (id, root) in log.state.snapshots.iter().filter(|(id, root)| forgotten.contains(*id) && !root.partial) {
            let (_, at) = held.entry(*id).or_insert((root.object, Mask::default()));
            *at = at.or(Mask::one(index));
        }
    }
    let mut disputed = BTreeSet::new();
    if held.is_empty() {
        return Ok(disputed);
    }
    let views = repository.snapshots().await?;
    let stays = views.iter().filter(|view| {
        let whole = view.mask.without(doubt::of(doubtful, &view.id));
        !view.snapshot.partial && !whole.is_empty() && !going.contains(&view.id)
    });
    let sources: BTreeSet<GroupKey> = stays.map(|view| source(group_by, &view.snapshot)).collect();
    let reads = stream::iter(held).map(async |(id, (object, at))| (id, shown(repository, &object, at).await));
    let mut reads = reads.buffered(AT_ONCE);
    while let Some((id, shown)) = reads.next().await {
        let stays = match shown {
            Shown::By(snapshot) => sources.contains(&source(group_by, &snapshot)),
            // Nothing of it could ever be brought back.
            Shown::ByNobody => true,
            Shown::Unknown => false,
        };
        if !stays {
            disputed.insert(id);
        }
    }
    Ok(disputed)
}

/// What a snapshot is one of.
pub fn source(group_by: GroupBy, snapshot: &Snapshot) -> GroupKey {
    let paths: Vec<Vec<u8>> = snapshot.roots.iter().map(|root| root.path.to_vec()).collect();
    group_by.of(&snapshot.host, &paths, &snapshot.tags)
}

/// Who gives a snapshot's object.
enum Shown {
    By(Box<Snapshot>),
    ByNobody,
    /// Not every store could be asked.
    Unknown,
}

/// Looks where the object is relied on first, then anywhere.
async fn shown(repository: &Repository, object: &Hash, at: Mask) -> Shown {
    let readable = repository.readable();
    let mut unknown = !repository.set.closed.is_empty() || !readable.covers(repository.set.all());
    for index in at.indices().chain(readable.without(at).indices()) {
        match repository.snapshot_at(index, object).await {
            Ok(Some((snapshot, _))) => return Shown::By(Box::new(snapshot)),
            Ok(None) => {}
            Err(_) => unknown = true,
        }
    }
    if unknown { Shown::Unknown } else { Shown::ByNobody }
}

/// What is disputed, and how it is settled.
pub fn in_words(ids: &BTreeSet<Hash>) -> String {
    let names: Vec<String> = ids.iter().take(5).map(|id| hex::encode(&id[..4])).collect();
    let (names, more) = (names.join(", "), if ids.len() > 5 { " and others" } else { "" });
    format!(
        "{names}{more} stays: forgotten in another log, but nothing else of that source is left that is whole: `holdfast undelete` \
         brings it back, `holdfast forget` with its name lets it go"
    )
}
