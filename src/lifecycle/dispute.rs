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
/// Ids that are named.
const TOLD_MAX: usize = 50;

/// Complete snapshots that are roots in some log and forgotten in another, although nothing live, complete and whole somewhere is
/// left of their source, each with what it says where a store gave that. They stay roots there until somebody names them. A source
/// is what each of `group_by` groups. What `going` names counts as forgotten; `doubtful` says where live snapshots are not whole.
/// Reads nothing where no log has a root that another has forgotten.
pub async fn dispute(
    repository: &Repository,
    group_by: &[GroupBy],
    going: &BTreeSet<Hash>,
    doubtful: &BTreeMap<Hash, Mask>,
) -> Result<BTreeMap<Hash, Option<Snapshot>>, RepositoryError> {
    let forgotten = repository.forgotten_ids().await;
    // A log that was repaired may stand on another object of the same snapshot.
    let mut held: BTreeMap<Hash, BTreeMap<Hash, Mask>> = BTreeMap::new();
    for index in repository.readable().indices() {
        let Some(log) = repository.log(index).await else { continue };
        for (id, root) in log.state.snapshots.iter().filter(|(id, root)| forgotten.contains(*id) && !root.partial) {
            let at = held.entry(*id).or_default().entry(root.object).or_default();
            *at = at.or(Mask::one(index));
        }
    }
    let mut disputed = BTreeMap::new();
    if held.is_empty() {
        return Ok(disputed);
    }
    let left = Left::of(repository, group_by, going, doubtful).await?;
    let reads = stream::iter(held).map(async |(id, objects)| (id, shown_by(repository, objects).await));
    let mut reads = reads.buffered(AT_ONCE);
    while let Some((id, shown)) = reads.next().await {
        match shown {
            Shown::By(snapshot) if left.covers(&snapshot) => {}
            // Nothing of it could ever be brought back.
            Shown::ByNobody => {}
            Shown::By(snapshot) => drop(disputed.insert(id, Some(*snapshot))),
            Shown::Unknown => drop(disputed.insert(id, None)),
        }
    }
    Ok(disputed)
}

/// The sources of which something is left.
pub struct Left<'g> {
    group_by: &'g [GroupBy],
    sources: Vec<BTreeSet<GroupKey>>,
}

impl Left<'_> {
    /// Those of what is live, complete and whole somewhere, without what is `going`.
    pub async fn of<'g>(
        repository: &Repository,
        group_by: &'g [GroupBy],
        going: &BTreeSet<Hash>,
        doubtful: &BTreeMap<Hash, Mask>,
    ) -> Result<Left<'g>, RepositoryError> {
        let mut left = Left { group_by, sources: vec![BTreeSet::new(); group_by.len()] };
        for view in repository.snapshots().await? {
            let whole = view.mask.without(doubt::of(doubtful, &view.id));
            if !view.snapshot.partial && !whole.is_empty() && !going.contains(&view.id) {
                left.add(&view.snapshot);
            }
        }
        Ok(left)
    }

    /// One more that is left.
    pub fn add(&mut self, snapshot: &Snapshot) {
        for (by, sources) in self.group_by.iter().zip(&mut self.sources) {
            sources.insert(source(*by, snapshot));
        }
    }

    /// Whether something of a snapshot's source is.
    pub fn covers(&self, snapshot: &Snapshot) -> bool {
        self.group_by.iter().zip(&self.sources).all(|(by, sources)| sources.contains(&source(*by, snapshot)))
    }
}

/// What a snapshot is one of.
pub fn source(group_by: GroupBy, snapshot: &Snapshot) -> GroupKey {
    let paths: Vec<Vec<u8>> = snapshot.roots.iter().map(|root| root.path.to_vec()).collect();
    group_by.of(&snapshot.host, &paths, &snapshot.tags)
}

/// Whether all configured stores can be asked.
pub fn all_answer(repository: &Repository) -> bool {
    repository.set.closed.is_empty() && repository.readable().covers(repository.set.all())
}

/// Who gives a snapshot's object.
pub enum Shown {
    /// Some store.
    By(Box<Snapshot>),
    /// None, and all were asked.
    ByNobody,
    /// Not every store could be asked.
    Unknown,
}

/// The same of all objects that some log stands on.
async fn shown_by(repository: &Repository, objects: BTreeMap<Hash, Mask>) -> Shown {
    let mut unknown = false;
    for (object, at) in objects {
        match shown(repository, &object, at).await {
            Shown::By(snapshot) => return Shown::By(snapshot),
            Shown::ByNobody => {}
            Shown::Unknown => unknown = true,
        }
    }
    if unknown { Shown::Unknown } else { Shown::ByNobody }
}

/// Looks where the object is relied on first, then anywhere.
pub async fn shown(repository: &Repository, object: &Hash, at: Mask) -> Shown {
    let readable = repository.readable();
    let mut unknown = !all_answer(repository);
    for index in at.indices().chain(readable.without(at).indices()) {
        match repository.snapshot_at(index, object).await {
            Ok(Some((snapshot, _))) => return Shown::By(Box::new(snapshot)),
            Ok(None) => {}
            Err(_) => unknown = true,
        }
    }
    if unknown { Shown::Unknown } else { Shown::ByNobody }
}

/// Which replicas of `at` have disputed roots, told.
pub async fn disputed_at(repository: &Repository, group_by: GroupBy, at: Mask) -> Result<Vec<(usize, String)>, RepositoryError> {
    let doubtful = doubt::whole(repository).await?;
    let disputed = dispute(repository, &[group_by], &BTreeSet::new(), &doubtful).await?;
    let mut out = Vec::new();
    for i in at.indices() {
        let Some(log) = repository.log(i).await else { continue };
        let here: Vec<&Hash> = disputed.keys().filter(|id| log.state.snapshots.contains_key(*id)).collect();
        if !here.is_empty() {
            out.push((i, in_words(here, all_answer(repository))));
        }
    }
    Ok(out)
}

/// What is disputed, and how it is settled; `all`: every configured store was asked.
pub fn in_words<'i>(ids: impl IntoIterator<Item = &'i Hash>, all: bool) -> String {
    let ids: Vec<&Hash> = ids.into_iter().collect();
    let names: Vec<String> = ids.iter().take(TOLD_MAX).map(|id| hex::encode(&id[..4])).collect();
    let (names, more) = (names.join(" "), if ids.len() > TOLD_MAX { " and others" } else { "" });
    let what = format!("{names}{more} stays: forgotten in another log, but nothing else of that source is left that is whole");
    match all {
        true => format!(
            "{what}: `holdfast undelete` brings it back, `holdfast forget` with its name lets it go wherever a log can be written to \
             (all of a source: `holdfast forget --unsafe-allow-remove-all --host HOST --path PATH`)"
        ),
        false => format!(
            "{what} at the stores that answer: bring back the others first, or `holdfast forget` it by name if it was meant to go"
        ),
    }
}
