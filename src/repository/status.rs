//! How each replica stands, side by side.

use std::collections::BTreeSet;

use crate::clock::Time;
use crate::format::Hash;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::state::NOTE_VERIFY;

/// How one replica stands.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Its configured name.
    pub name: String,
    /// Where it lies.
    pub url: String,
    /// Why it cannot be read or written, if so.
    pub error: Option<(Fault, String)>,
    /// Epoch of its log.
    pub epoch: u32,
    /// Last slot of its log.
    pub slot: u64,
    /// Hash of that slot.
    pub head: Hash,
    /// Snapshots in its log.
    pub snapshots: u64,
    /// Snapshots that others hold and it does not.
    pub missing: u64,
    /// Bytes that others can rely on and it cannot, as they are stored there.
    pub missing_bytes: u64,
    /// Packs that its log relies on.
    pub packs: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Packs that it distrusts.
    pub distrusted: u64,
    /// When it was last verified, as noted in its log.
    pub last_verify: Option<Time>,
}

impl Repository {
    /// How each configured replica stands.
    pub async fn status(&self) -> Result<Vec<ReplicaStatus>, RepositoryError> {
        let index = self.index().await?;
        let (mut all, mut forgotten) = (BTreeSet::new(), BTreeSet::new());
        for i in self.readable().indices() {
            if let Some(log) = self.log(i).await {
                all.extend(log.state.snapshots.keys().copied());
                forgotten.extend(log.state.forgotten.iter().copied());
            }
        }
        let wanted: BTreeSet<Hash> = all.difference(&forgotten).copied().collect();
        let (lacking, held) = {
            let chunks = index.read().expect("no panic while the index is locked");
            let held: u64 = chunks.packs().iter().filter(|p| !p.usable().is_empty()).map(|p| p.size).sum();
            (chunks.lacking(self.readable()), held)
        };
        let mut out = Vec::new();
        for replica in &self.set.replicas {
            let mut status = ReplicaStatus {
                name: replica.name.clone(),
                url: replica.url.clone(),
                error: self.fault(replica.index),
                epoch: 0,
                slot: 0,
                head: [0; 32],
                snapshots: 0,
                missing: wanted.len() as u64,
                missing_bytes: held,
                packs: 0,
                bytes: 0,
                distrusted: 0,
                last_verify: None,
            };
            if let Some(log) = self.log(replica.index).await {
                let state = &log.state;
                (status.epoch, status.slot, status.head) = (state.epoch, state.slot, state.hash);
                let held = wanted.iter().filter(|id| state.snapshots.contains_key(*id)).count();
                status.snapshots = held as u64;
                status.missing = (wanted.len() - held) as u64;
                status.distrusted = state.distrusted.len() as u64;
                // Who has all that is live lacks at most what nobody needs.
                status.missing_bytes = if status.missing + status.distrusted > 0 { lacking[replica.index] } else { 0 };
                status.last_verify = state.noted(NOTE_VERIFY).map(|s| Time(s.saturating_mul(1_000_000_000)));
                let chunks = index.read().expect("no panic while the index is locked");
                for pack in chunks.packs().iter().filter(|p| p.published.has(replica.index)) {
                    status.packs += 1;
                    status.bytes += pack.size;
                }
            }
            out.push(status);
        }
        for (name, url, e) in &self.set.closed {
            out.push(ReplicaStatus {
                name: name.clone(),
                url: url.clone(),
                error: Some((RepositoryError::from_kind(e.kind), e.story())),
                epoch: 0,
                slot: 0,
                head: [0; 32],
                snapshots: 0,
                missing: wanted.len() as u64,
                missing_bytes: held,
                packs: 0,
                bytes: 0,
                distrusted: 0,
                last_verify: None,
            });
        }
        Ok(out)
    }
}
