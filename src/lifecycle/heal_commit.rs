//! A snapshot into the log of a replica that has everything it stands on by now.

use std::collections::BTreeSet;

use crate::format::pack::PackKind;
use crate::format::record::ObjectClass;
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::patience::{allowance, while_it_answers};
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::snapshots::SnapshotObject;
use crate::repository::writer::{Reliance, WriteFault};
use crate::store::error::StoreErrorKind;

/// A snapshot on its way into logs.
pub struct Pending {
    /// Its id.
    pub id: Hash,
    /// Its object.
    pub object: SnapshotObject,
    /// The targets that lack it.
    pub at: Mask,
}

/// Brings a snapshot's object to one target: under its own name, unless that is or may be void there, or other bytes lie under it;
/// else under a fresh one. Gives the name.
pub async fn place(repository: &Repository, target: usize, object: &SnapshotObject) -> Result<Hash, RepositoryError> {
    let replica = &repository.set.replicas[target];
    let void = match repository.log(target).await {
        Some(log) => log.state.is_condemned(ObjectClass::Snapshot, &object.name) || !log.state.takes_names(),
        None => false,
    };
    if !void {
        match put_proven(replica, &layout::hashed(Class::Snapshot, &object.name), &object.stored).await {
            Ok(_) => return Ok(object.name),
            Err(e) if e.kind == StoreErrorKind::Corrupt => {}
            Err(e) => return Err(e.into()),
        }
    }
    let (key, entropy) = (&repository.keyring.keys.log, repository.env.random());
    let stored = object
        .snapshot
        .encode(key, &repository.id(), entropy)
        .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write a snapshot under a new name", e))?;
    let name = object_hash(&stored);
    put_proven(replica, &layout::hashed(Class::Snapshot, &name), &stored).await?;
    Ok(name)
}

/// Everything that a commit at a target stands on: the packs that heal published there, and those that were there (by number).
pub async fn reliance(repository: &Repository, own: BTreeSet<(PackKind, Hash)>, hits: &BTreeSet<u32>) -> Reliance {
    let mut packs: Vec<(PackKind, Hash)> = own.into_iter().collect();
    if let Ok(index) = repository.index().await {
        let chunks = index.read().expect("no panic while the index is locked");
        packs.extend(hits.iter().map(|n| chunks.pack(*n)).map(|p| (p.kind, p.hash)));
    }
    Reliance { hits: packs, ..Reliance::default() }
}

/// Brings a snapshot's object to one target and commits it in its log.
pub async fn commit(repository: &Repository, target: usize, one: &Pending, reliance: &Reliance) -> Result<(), WriteFault> {
    let replica = &repository.set.replicas[target];
    let patience = allowance(repository.set.settings.stall, one.object.stored.len() as u64);
    // While a race for the slot was lost, another log may have told that it is forgotten.
    let reliance = &Reliance { theirs: Some(one.id), ..reliance.clone() };
    let work = async {
        let name = place(repository, target, &one.object).await?;
        repository.commit(target, one.id, name, one.object.snapshot.partial, &[], &[], reliance).await
    };
    while_it_answers(&repository.env, replica, patience, "committing in its log", work)
        .await
        .map_err(|e| WriteFault::Repository(e.into()))?
}
