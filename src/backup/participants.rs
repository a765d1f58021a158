//! Which replicas take part in a run, and how each came out of it.

use crate::backup::ReplicaReport;
use crate::backup::told;
use crate::backup::upload::Outbox;
use crate::replica::Mask;
use crate::replica::write::Fanout;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};

/// The replicas that take part, and notes about those that do not.
pub async fn participants(repository: &Repository) -> Result<Mask, RepositoryError> {
    let index = repository.index().await?;
    let writable = repository.writable();
    let limit = repository.set.settings.behind_limit;
    let lacking = {
        let chunks = index.read().expect("no panic while the index is locked");
        let most = chunks.lacking_at_most(writable);
        // Every chunk is looked at only where it may matter.
        if most.iter().any(|bytes| *bytes > limit) { chunks.lacking(writable) } else { most }
    };
    let mut held = writable;
    let live = if writable.indices().any(|i| lacking[i] > limit) { repository.live().await } else { Vec::new() };
    for i in writable.indices() {
        // What it lacks of what nobody needs any more, and nobody has pruned elsewhere, makes no replica behind.
        let all = live.iter().all(|one| one.mask.has(i) || one.mask.and(writable).is_empty());
        let sound = repository.log(i).await.is_some_and(|log| log.state.distrusted.is_empty());
        held = if all && sound { held } else { held.without(Mask::one(i)) };
    }
    for i in writable.without(held).indices().filter(|i| lacking[*i] > limit) {
        let name = &repository.set.replicas[i].name;
        let why = format!(
            "store {name}: lacks {} MiB that other replicas hold, more than a backup brings up to date: run `holdfast heal`",
            lacking[i] >> 20
        );
        repository.set_fault(i, Fault::Failed, why);
    }
    Ok(repository.writable())
}

/// How each configured replica came out.
pub fn replica_reports(
    repository: &Repository,
    fanout: Option<&Fanout>,
    outbox: Option<&Outbox>,
    committed: Mask,
) -> Vec<ReplicaReport> {
    let mut out: Vec<ReplicaReport> = Vec::new();
    for replica in &repository.set.replicas {
        let i = replica.index;
        let (mut behind, mut fault) = (None, None);
        if let Some(e) = fanout.and_then(|f| f.behind(i)) {
            behind = Some(told(&*e));
            fault = Some(outbox.and_then(|o| o.fault(i)).unwrap_or_else(|| RepositoryError::from_kind(e.kind)));
        } else if let Some((class, why)) = repository.fault(i) {
            (behind, fault) = (Some(why), Some(class));
        }
        out.push(ReplicaReport {
            name: replica.name.clone(),
            committed: committed.has(i),
            behind,
            fault,
            sent: fanout.map_or(0, |f| f.sent(i)),
        });
    }
    for (name, _, e) in &repository.set.closed {
        let fault = Some(RepositoryError::from_kind(e.kind));
        out.push(ReplicaReport { name: name.clone(), committed: false, behind: Some(told(e)), fault, sent: 0 });
    }
    out
}
