//! Snapshots that are no longer roots: how they come to be, and what is left of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::stream;
use futures::{StreamExt, TryStreamExt};

use crate::format::record::{Action, Forget, Hold, ObjectClass};
use crate::format::snapshot::Snapshot;
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::read::read_any;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::snapshots::SnapshotView;
use crate::repository::state::State;
use crate::store::error::StoreError;

/// How many snapshot objects are read at once.
const AT_ONCE: usize = 16;

impl Repository {
    /// Ids that some readable log has forgotten: a union, whatever the others say.
    pub async fn forgotten_ids(&self) -> BTreeSet<Hash> {
        let mut forgotten = BTreeSet::new();
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                forgotten.extend(&log.state.forgotten);
            }
        }
        forgotten
    }

    /// The holds that some readable log has, by snapshot; of several the one that lasts longest. Those that are over by
    /// `now`, seconds since the Unix epoch, are left out.
    pub async fn holds(&self, now: i64) -> BTreeMap<Hash, Hold> {
        let mut holds: BTreeMap<Hash, Hold> = BTreeMap::new();
        for index in self.readable().indices() {
            let Some(log) = self.log(index).await else { continue };
            for (id, hold) in log.state.holds.iter().filter(|(_, hold)| in_force(hold, now)) {
                let known = holds.entry(*id).or_insert_with(|| hold.clone());
                if known.until != 0 && (hold.until == 0 || hold.until > known.until) {
                    known.clone_from(hold);
                }
            }
        }
        holds
    }

    /// What is left of forgotten snapshots: those whose objects can still be read somewhere and are not condemned there,
    /// oldest first, each with the replicas where that is so. Also what could not be read, told.
    pub async fn forgotten(&self) -> (Vec<SnapshotView>, Vec<String>) {
        let ids = self.forgotten_ids().await;
        let mut objects: BTreeMap<Hash, Mask> = BTreeMap::new();
        let mut problems = Vec::new();
        for index in self.readable().indices() {
            let Some(log) = self.log(index).await else { continue };
            let rooted = log.state.snapshots.iter().filter(|(id, _)| !ids.contains(*id)).map(|(_, live)| live.object);
            let mut passed: BTreeSet<Hash> = rooted.collect();
            passed.extend(log.state.condemned.get(&ObjectClass::Snapshot).into_iter().flatten());
            drop(log);
            let listing = self.set.replicas[index].store.list(layout::prefix(Class::Snapshot));
            let listed: Result<Vec<_>, StoreError> = listing.try_collect().await;
            match listed {
                Ok(infos) => {
                    for (_, hash) in infos.iter().filter_map(|info| layout::parse_hashed(&info.name)) {
                        if !passed.contains(&hash) {
                            let at = objects.entry(hash).or_default();
                            *at = at.or(Mask::one(index));
                        }
                    }
                }
                Err(e) => problems.push(RepositoryError::from(e).message),
            }
        }
        let reads = stream::iter(&objects).map(|(hash, at)| self.stored_snapshot(hash, *at)).buffered(AT_ONCE);
        let mut views: BTreeMap<Hash, SnapshotView> = BTreeMap::new();
        for (read, at) in reads.collect::<Vec<_>>().await {
            match read {
                Ok(snapshot) => {
                    let id: Hash = snapshot.id[..].try_into().unwrap_or_default();
                    if ids.contains(&id) {
                        let new = SnapshotView { snapshot, id, mask: Mask::default(), replicas: Vec::new() };
                        let view = views.entry(id).or_insert(new);
                        view.mask = view.mask.or(at);
                    }
                }
                Err(told) => problems.push(told),
            }
        }
        let mut views: Vec<SnapshotView> = views.into_values().collect();
        for view in &mut views {
            view.replicas = view.mask.indices().map(|i| self.set.replicas[i].name.clone()).collect();
        }
        views.sort_by_key(|v| (v.snapshot.time_seconds, v.snapshot.time_nanos, v.id));
        (views, problems)
    }

    pub(super) async fn stored_snapshot(&self, hash: &Hash, at: Mask) -> (Result<Snapshot, String>, Mask) {
        let name = layout::hashed(Class::Snapshot, hash);
        let (found, met) = read_any(&self.set, at, &name, None, async |stored: Bytes| {
            if object_hash(&stored) != *hash {
                return Err("its bytes do not match its name".to_owned());
            }
            Snapshot::decode(&stored, &self.keyring.keys.log, &self.keyring.repository_id)
                .map_err(|e| crate::repository::log::chain(&e))
        })
        .await;
        let told = || met.iter().map(|(_, fault)| fault.to_string()).collect::<Vec<_>>().join("; ");
        (found.ok_or_else(told), at)
    }

    /// Records in one log that snapshots are no longer roots. `verify` judges the whole fold before the slot is created, and
    /// once more after each lost race; its error ends the attempt.
    pub async fn forget(
        &self,
        index: usize,
        ids: &[Hash],
        verify: impl FnMut(&State) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        if let Some((fault, why)) = self.fault(index) {
            return Err(RepositoryError::new(fault, why));
        }
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else {
            return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read"));
        };
        self.prove_refusal(index).await?;
        let action = Action::Forget(Forget { ids: ids.iter().map(|id| Bytes::copy_from_slice(id)).collect() });
        log.append(action, true, &heads, verify).await?;
        log.checkpoint_if_due().await;
        self.remember(&log);
        Ok(())
    }
}

/// Whether a hold keeps its snapshot at `now`, seconds since the Unix epoch.
pub fn in_force(hold: &Hold, now: i64) -> bool {
    hold.until == 0 || hold.until > now
}
