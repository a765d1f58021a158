//! Deleting what a record condemns. The only file of this program that removes objects of a repository from a store.
//!
//! A DELETE is sent for a name only when the log, read anew, condemns it by a record that is durable; when the record is older
//! than the mercy period by the store's own clock; and as long as no newer epoch of the log has begun. It may be sent by anyone,
//! any number of times: nothing has to be remembered of it.

use crate::format::Hash;
use crate::format::record::ObjectClass;
use crate::lifecycle::inventory::{Inventory, object_name};
use crate::lifecycle::prune::PruneError;
use crate::progress::Stop;
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout;
use crate::store::name::ObjectName;

/// Names in one request.
const BATCH: usize = 1000;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Objects.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Condemned objects that the mercy period keeps for now.
    pub waiting: u64,
    /// Bytes of them.
    pub waiting_bytes: u64,
}

/// An object that may be removed.
type Due = (ObjectName, u64);

/// What of an inventory the log condemns: what may be removed now, and what has to wait.
pub async fn due(repository: &Repository, replica: usize, inventory: &Inventory) -> Result<(Vec<Due>, Deleted), PruneError> {
    let Some(log) = repository.log(replica).await else { return Ok((Vec::new(), Deleted::default())) };
    let live: std::collections::BTreeSet<Hash> = log.state.snapshots.values().map(|live| live.object).collect();
    let lists: std::collections::BTreeSet<Hash> = log.state.named_lists.iter().map(|(_, list)| *list).collect();
    let condemned = |class: ObjectClass, hash: &Hash| {
        // Whatever a record says, what the log itself stands on is left alone.
        let needed = class == ObjectClass::Index && log.state.segments.contains(hash)
            || class == ObjectClass::Snapshot && live.contains(hash)
            || class == ObjectClass::List && lists.contains(hash);
        log.state.is_condemned(class, hash) && !needed
    };
    let present: Vec<_> = inventory.objects.iter().filter(|((class, hash), _)| condemned(*class, hash)).collect();
    let young = match inventory.spared_since {
        Some(since) if !present.is_empty() => log.condemned_since(since, &inventory.slots).await?,
        _ => Default::default(),
    };
    let (mut due, mut told) = (Vec::new(), Deleted::default());
    for ((class, hash), seen) in present {
        if young.get(class).is_some_and(|names| names.contains(hash)) {
            told.waiting += 1;
            told.waiting_bytes += seen.size;
        } else if let Some(name) = object_name(*class, hash) {
            due.push((name, seen.size));
        }
    }
    Ok((due, told))
}

/// Removes from one replica what its log condemns, as far as the mercy period is over.
pub async fn run(repository: &Repository, replica: usize, inventory: &Inventory, stop: &Stop) -> Result<Deleted, PruneError> {
    let (site, patience) = (&repository.set.replicas[replica], repository.set.settings.stall);
    // The log first: what it says now counts, not what this process remembers of it.
    repository.stand(replica).await?;
    let (due, mut deleted) = due(repository, replica, inventory).await?;
    let epoch = match repository.log(replica).await {
        Some(log) => log.state.epoch,
        None => return Ok(deleted),
    };
    for batch in due.chunks(BATCH) {
        if stop.requested() {
            return Err(PruneError::Interrupted);
        }
        let next = layout::slot(epoch + 1, 1);
        let newer = site.store.stat(&next);
        let newer = while_it_answers(&repository.env, site, patience, "looking for a newer log", newer).await;
        if newer.and_then(|newer| newer).map_err(RepositoryError::from)?.is_some() {
            let why = "its log was repaired meanwhile and goes on in a new epoch: nothing more is deleted by this run";
            return Err(RepositoryError::new(Fault::Failed, format!("store {}: {why}", site.name)).into());
        }
        let names: Vec<ObjectName> = batch.iter().map(|(name, _)| name.clone()).collect();
        let removed = site.store.delete(&names);
        let failed = while_it_answers(&repository.env, site, patience, "deleting what is condemned", removed).await;
        let failed = failed.map_err(RepositoryError::from)?;
        for (_, size) in batch.iter().filter(|(name, _)| !failed.iter().any(|(other, _)| other == name)) {
            deleted.objects += 1;
            deleted.bytes += size;
        }
        if let Some((name, e)) = failed.into_iter().next() {
            let fault = RepositoryError::from_kind(e.kind);
            let why =
                format!("store {}: {name}, which is condemned, could not be deleted: the next prune tries again", site.name);
            return Err(RepositoryError::caused(fault, why, e).into());
        }
    }
    Ok(deleted)
}
