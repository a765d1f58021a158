//! The snapshots of a replica, committed in a new epoch of its log where everything that they stand on lies there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::format::pack::PackKind;
use crate::format::record::ObjectClass;
use crate::format::snapshot::Snapshot;
use crate::format::{Hash, object_hash};
use crate::lifecycle::closure::Closure;
use crate::lifecycle::dispute::{Left, Shown, all_answer, shown, source};
use crate::lifecycle::doubt::{self, doubtful};
use crate::lifecycle::heal::HealError;
use crate::lifecycle::retention::group::{GroupBy, GroupKey};
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::past::Past;
use crate::repository::writer::{Reliance, WriteFault};

/// A snapshot that may be a root.
struct Candidate {
    snapshot: Snapshot,
    /// Its objects at this replica that are whole: name and bytes.
    own: Vec<(Hash, Bytes)>,
}

/// What became of the snapshots.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Committed in the new log.
    pub committed: u64,
    /// Not committed: not all that they stand on lies here. Id, why, and whether another replica holds it whole, as far as is known.
    pub not_whole: Vec<(Hash, String, bool)>,
    /// Old names of objects that lie here under new ones.
    pub void: BTreeSet<Hash>,
}

/// The snapshots that are known of, by id: committed according to the old log, held by other replicas, and, where not all of the
/// old log is known, lying here.
async fn candidates(repository: &Repository, index: usize, past: &Past) -> Result<BTreeMap<Hash, Candidate>, HealError> {
    let forgotten = &past.state.forgotten;
    let mut found: BTreeMap<Hash, Candidate> = BTreeMap::new();
    let mut objects: BTreeSet<Hash> = past.state.snapshots.values().map(|live| live.object).collect();
    if !past.knows_names() {
        objects.extend(repository.listed(index, Class::Snapshot).await?);
    }
    for object in objects.into_iter().filter(|object| !past.state.is_condemned(ObjectClass::Snapshot, object)) {
        let (snapshot, own) = match repository.snapshot_at(index, &object).await? {
            Some((snapshot, stored)) => (snapshot, Some((object, stored))),
            // What another store has of it says as much.
            None => match shown(repository, &object, Mask::one(index)).await {
                Shown::By(snapshot) => (*snapshot, None),
                Shown::ByNobody | Shown::Unknown => continue,
            },
        };
        let Ok(id) = snapshot.snapshot_id() else { continue };
        found.entry(id).or_insert_with(|| Candidate { snapshot, own: Vec::new() }).own.extend(own);
    }
    for live in repository.live().await {
        if !found.contains_key(&live.id)
            && let Some(object) = repository.snapshot_object(&live).await
        {
            found.insert(live.id, Candidate { snapshot: object.snapshot, own: Vec::new() });
        }
    }
    // A partial snapshot goes when its run is done; the record that says so may be lost.
    let done: BTreeSet<Bytes> = found.values().filter(|c| !c.snapshot.partial).map(|c| c.snapshot.run_id.clone()).collect();
    let known = |id: &Hash| past.state.snapshots.contains_key(id);
    found.retain(|id, c| !forgotten.contains(id) && (known(id) || !c.snapshot.partial || !done.contains(&c.snapshot.run_id)));
    Ok(found)
}

/// How many snapshots would be looked at.
pub async fn count(repository: &Repository, index: usize, past: &Past) -> Result<u64, HealError> {
    Ok(candidates(repository, index, past).await?.len() as u64)
}

/// Commits what is whole, oldest first.
pub async fn commit(
    repository: &Repository,
    index: usize,
    past: &Past,
    group_by: GroupBy,
    progress: &Progress,
    stop: &Stop,
) -> Result<Roots, HealError> {
    let mut roots = Roots::default();
    let found = candidates(repository, index, past).await?;
    let held: BTreeSet<Hash> = match repository.log(index).await {
        Some(log) => log.state.snapshots.keys().copied().collect(),
        None => BTreeSet::new(),
    };
    let doubtful = doubtful(repository, stop).await?;
    let elsewhere: BTreeSet<Hash> = repository
        .live()
        .await
        .into_iter()
        .filter(|one| !one.mask.without(Mask::one(index)).without(doubt::of(&doubtful, &one.id)).is_empty())
        .map(|one| one.id)
        .collect();
    // What the old log named and nobody can show is gone, and is told.
    let forgotten = repository.forgotten_ids().await;
    // What was forgotten elsewhere and nobody shows could never be brought back; unless somebody was not asked.
    let all = all_answer(repository);
    let gone = |id: &&Hash| !found.contains_key(*id) && !held.contains(*id) && (!forgotten.contains(*id) || !all);
    let lost = past.state.snapshots.keys().filter(gone);
    roots.not_whole.extend(lost.map(|id| (*id, "its object is damaged or missing wherever it lies".to_owned(), false)));
    let mut order: Vec<(Hash, Candidate)> = found.into_iter().collect();
    // What only others have forgotten is given up when all that is live lies here, something of its source with it, and not
    // before: it comes last.
    order.sort_by_key(|(id, c)| (forgotten.contains(id), c.snapshot.time_seconds, c.snapshot.time_nanos, *id));
    let mut old: Vec<(Hash, Vec<(Hash, Bytes)>)> = Vec::new();
    let mut walk = Closure::new(repository, repository.index().await?, stop);
    // Sources of which something whole lies here, and anywhere.
    let by = [group_by];
    let mut left = Left::of(repository, &by, &BTreeSet::new(), &doubtful).await?;
    let mut here: BTreeSet<GroupKey> = BTreeSet::new();
    for (id, candidate) in order {
        let of = source(group_by, &candidate.snapshot);
        let stays = !forgotten.contains(&id) && !candidate.snapshot.partial;
        if held.contains(&id) {
            here.extend(stays.then_some(of));
            old.push((id, candidate.own));
            continue;
        }
        let spare = forgotten.contains(&id);
        if spare && roots.not_whole.is_empty() && (candidate.snapshot.partial || here.contains(&of)) {
            continue;
        }
        progress.set_current(|| format!("snapshot {}", hex::encode(&id[..4])));
        let lost = walk.snapshot(&candidate.snapshot, Mask::one(index)).await?.remove(&index);
        let lacks = walk.needs.lacking().has(index);
        if lost.is_some() || lacks {
            // What lacks was passed over once: the next snapshot that needs it must find that out, too.
            walk = Closure::new(repository, repository.index().await?, stop);
            // What was forgotten for something that is whole is missed by nobody.
            if spare && (candidate.snapshot.partial || left.covers(&candidate.snapshot)) {
                continue;
            }
            let mut why = lost.unwrap_or_else(|| "not all that it stands on lies here".into());
            if spare {
                let what = "it was forgotten elsewhere and is the last of its source (`holdfast undelete` first, where another \
                            store has all of it)";
                why = format!("{why}; {what}");
            }
            roots.not_whole.push((id, why, elsewhere.contains(&id)));
            continue;
        }
        let (object, stored) = match candidate.own.first() {
            Some((object, stored)) if past.knows_names() => (*object, stored.clone()),
            _ => {
                let (key, entropy) = (&repository.keyring.keys.log, repository.env.random());
                let stored = candidate
                    .snapshot
                    .encode(key, &repository.id(), entropy)
                    .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write a snapshot under a new name", e))?;
                (object_hash(&stored), stored)
            }
        };
        let replica = &repository.set.replicas[index];
        put_proven(replica, &layout::hashed(Class::Snapshot, &object), &stored).await.map_err(RepositoryError::from)?;
        let hits: Vec<(PackKind, Hash)> = {
            let index_of_chunks = repository.index().await?;
            let chunks = index_of_chunks.read().expect("no panic while the index is locked");
            walk.hits[index].iter().map(|number| chunks.pack(*number)).map(|pack| (pack.kind, pack.hash)).collect()
        };
        let reliance = Reliance { hits, ..Reliance::default() };
        match repository.commit(index, id, object, candidate.snapshot.partial, &[], &[], &reliance).await {
            Ok(()) => {
                roots.committed += 1;
                if stays {
                    left.add(&candidate.snapshot);
                    here.insert(of);
                }
                old.push((id, candidate.own));
            }
            Err(WriteFault::LostCover(why)) => {
                let message = format!("store {}: meanwhile {why}: run the command again", replica.name);
                return Err(RepositoryError::new(Fault::Contention, message).into());
            }
            Err(WriteFault::Repository(e)) => return Err(e.into()),
        }
    }
    let now = match repository.log(index).await {
        Some(log) => log.state.snapshots.clone(),
        None => BTreeMap::new(),
    };
    for (id, objects) in old {
        let relied = now.get(&id).map(|live| live.object);
        roots
            .void
            .extend(objects.into_iter().map(|(object, _)| object).filter(|object| relied.is_some_and(|now| now != *object)));
    }
    Ok(roots)
}
