//! A snapshot into the log of a replica that has everything it stands on by now.

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

/// A snapshot on its way into logs.
pub struct Pending {
    /// Its id.
    pub id: Hash,
    /// Its object.
    pub object: SnapshotObject,
    /// The targets that lack it.
    pub at: Mask,
}

/// Brings a snapshot's object to one target and commits it in its log.
pub async fn commit(repository: &Repository, target: usize, one: &Pending, reliance: &Reliance) -> Result<(), WriteFault> {
    let (mut name, mut stored) = (one.object.name, one.object.stored.clone());
    let void = match repository.log(target).await {
        Some(log) => log.state.is_condemned(ObjectClass::Snapshot, &name),
        None => false,
    };
    if void {
        let (key, entropy) = (&repository.keyring.keys.log, repository.env.random());
        stored = one.object.snapshot.encode(key, &repository.id(), entropy).map_err(|e| {
            WriteFault::Repository(RepositoryError::caused(Fault::Failed, "could not write a snapshot under a new name", e))
        })?;
        name = object_hash(&stored);
    }
    let replica = &repository.set.replicas[target];
    let patience = allowance(repository.set.settings.stall, stored.len() as u64);
    let work = async {
        put_proven(replica, &layout::hashed(Class::Snapshot, &name), &stored).await.map_err(RepositoryError::from)?;
        repository.commit(target, one.id, name, one.object.snapshot.partial, &[], &[], reliance).await
    };
    while_it_answers(&repository.env, replica, patience, "committing in its log", work)
        .await
        .map_err(|e| WriteFault::Repository(e.into()))?
}
