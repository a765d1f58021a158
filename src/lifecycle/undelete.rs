//! Undelete: a forgotten snapshot comes back under a new id, where everything it stands on is still there.
//!
//! The old id stays forgotten for good: forgets are a union, and a log that says otherwise cannot be believed. What a replica
//! lacks of it heal brings later, as for any other snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::format::snapshot::Snapshot;
use crate::format::{Hash, object_hash};
use crate::lifecycle::closure::Closure;
use crate::lifecycle::heal::{HealError, told};
use crate::progress::Stop;
use crate::replica::Mask;
use crate::replica::patience::{allowance, while_it_answers};
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::open::worst;
use crate::repository::snapshots::SnapshotView;
use crate::repository::writer::{Reliance, WriteFault};

/// How often what a snapshot stands on is looked at again, when it changed before the snapshot was committed.
const LOOKS: usize = 4;

/// How one replica came out.
#[derive(Clone, Debug)]
pub struct ReplicaUndeleted {
    /// Its configured name.
    pub name: String,
    /// Whether its log holds the snapshot now.
    pub committed: bool,
    /// Why not.
    pub behind: Option<String>,
    /// The class of that reason.
    pub fault: Option<Fault>,
}

/// What became of one snapshot.
#[derive(Clone, Debug)]
pub struct UndeleteReport {
    /// The id that was forgotten.
    pub old: Hash,
    /// The id that it has now.
    pub new: Hash,
    /// Whether it had come back before: nothing was written.
    pub already: bool,
    /// Each configured replica.
    pub replicas: Vec<ReplicaUndeleted>,
    /// Replicas that have to hold it.
    pub quorum: usize,
}

/// The live snapshot that holds the same as `old` does, if there is one.
pub fn back_as(old: &Snapshot, live: &[SnapshotView]) -> Option<Hash> {
    let same = |one: &Snapshot| Snapshot { id: old.id.clone(), ..one.clone() } == *old;
    live.iter().find(|view| same(&view.snapshot)).map(|view| view.id)
}

/// Brings back a forgotten snapshot, one of [`Repository::forgotten`], at every replica that has all of it. Fails with
/// the worst of their faults where none has.
pub async fn run(repository: &Repository, old: &SnapshotView, stop: &Stop) -> Result<UndeleteReport, HealError> {
    let quorum = repository.set.write_quorum();
    let views = repository.snapshots().await?;
    if let Some(new) = back_as(&old.snapshot, &views) {
        let at = views.iter().find(|view| view.id == new).map(|view| view.mask).unwrap_or_default();
        let replicas = standing(repository, at, &mut BTreeMap::new(), Fault::Failed, "it lacks it: run `holdfast heal`");
        return Ok(UndeleteReport { old: old.id, new, already: true, replicas, quorum });
    }
    let new: Hash = repository.env.random();
    let snapshot = Snapshot { id: Bytes::copy_from_slice(&new), ..old.snapshot.clone() };
    let (key, entropy) = (&repository.keyring.keys.log, repository.env.random());
    let stored = snapshot
        .encode(key, &repository.id(), entropy)
        .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write the snapshot under a new id", e))?;
    let object = object_hash(&stored);
    let (mut done, mut short) = (Mask::default(), Mask::default());
    let mut left: BTreeMap<usize, (Fault, String)> = BTreeMap::new();
    for _ in 0..LOOKS {
        let at = repository.writable().without(done).without(Mask(left.keys().fold(0, |m, i| m | 1 << i)));
        if at.is_empty() {
            break;
        }
        let mut walk = Closure::new(repository, repository.index().await?, stop);
        for (i, why) in walk.snapshot(&snapshot, at).await? {
            short = short.or(Mask::one(i));
            left.insert(i, (Fault::Failed, format!("not all of it is there any more: {why}")));
        }
        short = short.or(walk.needs.lacking());
        for i in walk.needs.lacking().indices() {
            let why = "not all of it is there: run `holdfast heal` once it is back elsewhere";
            left.entry(i).or_insert_with(|| (Fault::Failed, why.to_owned()));
        }
        for i in at.indices().filter(|i| !left.contains_key(i)).collect::<Vec<_>>() {
            let hits = {
                let index = repository.index().await?;
                let chunks = index.read().expect("no panic while the index is locked");
                walk.hits[i].iter().map(|n| chunks.pack(*n)).map(|p| (p.kind, p.hash)).collect()
            };
            let reliance = Reliance { hits, ..Reliance::default() };
            let replica = &repository.set.replicas[i];
            let patience = allowance(repository.set.settings.stall, stored.len() as u64);
            let work = async {
                put_proven(replica, &layout::hashed(Class::Snapshot, &object), &stored).await.map_err(RepositoryError::from)?;
                repository.commit(i, new, object, snapshot.partial, &[old.id], &[], &reliance).await
            };
            let committed = while_it_answers(&repository.env, replica, patience, "committing in its log", work).await;
            match committed.map_err(|e| WriteFault::Repository(e.into())).and_then(|committed| committed) {
                Ok(()) => done = done.or(Mask::one(i)),
                // Something that it stands on was condemned or found damaged meanwhile: perhaps there is another place.
                Err(WriteFault::LostCover(_)) => {}
                Err(WriteFault::Repository(e)) => drop(left.insert(i, (e.fault, told(&e)))),
            }
        }
    }
    if done.is_empty() {
        let stories = left.iter().map(|(i, (_, why))| format!("store {}: {why}", repository.set.replicas[*i].name));
        let why = stories.chain(faults(repository).map(|(_, why)| why)).collect::<Vec<_>>().join("; ");
        let id = hex::encode(old.id);
        let advice = format!("`holdfast restore {id} --what-is-left` brings what can be had of it");
        // Damage, unless somebody who might have it was not at hand.
        let fault = match left.keys().all(|i| short.has(*i)) && faults(repository).next().is_none() {
            true => Fault::Integrity,
            false => worst(left.values().map(|(fault, _)| *fault)).unwrap_or(Fault::Failed),
        };
        return Err(RepositoryError::new(fault, format!("snapshot {id} cannot come back: {why}: {advice}")).into());
    }
    let replicas = standing(repository, done, &mut left, Fault::Contention, "what it stands on kept changing");
    Ok(UndeleteReport { old: old.id, new, already: false, replicas, quorum })
}

/// Each configured replica: those of `at` have it; the others are told with what is known of them, or else with `or`.
fn standing(
    repository: &Repository,
    at: Mask,
    left: &mut BTreeMap<usize, (Fault, String)>,
    class: Fault,
    or: &str,
) -> Vec<ReplicaUndeleted> {
    let mut replicas = Vec::new();
    for replica in &repository.set.replicas {
        let committed = at.has(replica.index);
        let why = left.remove(&replica.index).or_else(|| repository.fault(replica.index));
        let why = why.or_else(|| (!committed).then(|| (class, or.to_owned())));
        let (fault, behind) = why.filter(|_| !committed).unzip();
        replicas.push(ReplicaUndeleted { name: replica.name.clone(), committed, behind, fault });
    }
    for (name, _, e) in &repository.set.closed {
        let (behind, fault) = (Some(told(e)), Some(RepositoryError::from_kind(e.kind)));
        replicas.push(ReplicaUndeleted { name: name.clone(), committed: false, behind, fault });
    }
    replicas
}

fn faults(repository: &Repository) -> impl Iterator<Item = (Fault, String)> {
    let closed = repository.set.closed.iter().map(|(_, _, e)| (RepositoryError::from_kind(e.kind), told(e)));
    repository.set.replicas.iter().filter_map(|r| repository.fault(r.index)).chain(closed)
}
