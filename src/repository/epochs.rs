//! A damaged log is ended, and another begun in its place.
//!
//! First a fence: `close` in every free slot of the old log, so that whoever still writes there loses the race. Then genesis of
//! the next epoch, under a new replica id. Until all that is sound was taken over and [`REPAIRED`] says so, nobody else writes
//! to the replica: what the old log condemned must not be relied on by chance, and what it relied on must not look forgotten.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::format::list::HashList;
use crate::format::record::{
    Action, ClassList, Close, Condemn, Configure, Distrust, Forget, Genesis, Head as RecordHead, ObjectClass, ObjectRef, Revoke,
};
use crate::format::{Hash, object_hash};
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::heads::Head;
use crate::repository::layout::{self, Class};
use crate::repository::log::Log;
use crate::repository::open::{careless, refuses};
use crate::repository::past::{Epoch, Past, Spot};
use crate::repository::state::State;

/// The feature that says that the repair which began an epoch is finished.
pub const REPAIRED: &str = "repaired";
/// The feature that says that names may be void of which no record of this epoch tells: a repair did not find all that was
/// condemned before. Whatever comes from another replica gets a name of its own here; later epochs take the feature over.
pub const NAMES_LOST: &str = "names-lost";
/// How often a log that grows while it is ended is ended again.
const FENCES_MAX: u32 = 50;
/// Names in one record.
const NAMES_MAX: usize = 10_000;
/// Names in one list.
const LIST_NAMES_MAX: usize = 1_000_000;

/// What a replica's log needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogNeeds {
    /// Nothing: it can be read to its end, and goes on from where it was last seen.
    Nothing,
    /// A new epoch, and why.
    NewEpoch(String),
    /// The end of a repair that has begun this epoch.
    Finish,
}

impl Log {
    /// Whether this epoch was begun by a repair that is not finished.
    pub fn is_unfinished(&self) -> bool {
        self.state.epoch > 1 && !self.state.features.contains_key(REPAIRED)
    }
}

fn names(hashes: &[Hash]) -> Vec<Bytes> {
    hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect()
}

impl Repository {
    /// What the log of a replica needs. Fails where its store, and not its log, is what is wrong.
    pub async fn log_needs(&self, index: usize) -> Result<LogNeeds, RepositoryError> {
        let fault = self.fault(index);
        let Some(log) = self.log(index).await else {
            let (fault, why) = fault.unwrap_or((Fault::Failed, "its log was never read".into()));
            return Err(RepositoryError::new(fault, why));
        };
        if let Some(damage) = &log.damaged {
            return Ok(LogNeeds::NewEpoch(damage.why.clone()));
        }
        if let Some(next) = log.state.closed {
            let name = &log.replica.name;
            let why =
                format!("store {name}: its log is closed for epoch {next}, which has not begun: its repair was interrupted");
            return Ok(LogNeeds::NewEpoch(why));
        }
        match fault {
            Some((Fault::Rollback, why)) => Ok(LogNeeds::NewEpoch(why)),
            _ if log.is_unfinished() => Ok(LogNeeds::Finish),
            Some((fault, why)) => Err(RepositoryError::new(fault, why)),
            None => Ok(LogNeeds::Nothing),
        }
    }

    /// Ends the epoch that a replica is in, and begins the next; gives its number. Can be repeated at any point.
    pub async fn begin_epoch(&self, index: usize) -> Result<u32, RepositoryError> {
        if self.index_loaded.initialized() {
            // What the index says of this replica would be what its old log said.
            return Err(RepositoryError::new(Fault::Failed, "a log is repaired by a repository that was just opened"));
        }
        let replica = &self.set.replicas[index];
        self.prove(index).await?;
        let Some(old) = self.log(index).await.map(|log| log.state.epoch) else {
            return Err(RepositoryError::new(Fault::Failed, format!("store {}: its log was never read", replica.name)));
        };
        let (close, replica_id) = self.fence(index, old).await?;
        let previous = replica_id.map(|id| RecordHead {
            replica_id: Bytes::copy_from_slice(&id),
            epoch: old,
            slot: close.slot,
            hash: Bytes::copy_from_slice(&close.hash),
        });
        let mut next = Log::unread(&self.env, replica, &self.keyring, self.run_id, old + 1);
        let heads = self.record_heads();
        while next.state.slot == 0 {
            next.state.hash = close.hash;
            let replica_id: Hash = self.env.random();
            let genesis = Genesis {
                repository_id: Bytes::copy_from_slice(&self.id()),
                replica_id: Bytes::copy_from_slice(&replica_id),
                previous_epoch_head: previous.clone(),
            };
            next.state.replica_id = None;
            // Whoever loses this race finds the winner's genesis.
            next.create_next(replica_id, Action::Genesis(genesis), true, &heads).await?;
            if let Some(damage) = &next.damaged {
                return Err(RepositoryError::new(damage.fault, damage.why.clone()));
            }
        }
        if let Some(mut log) = self.log(index).await {
            log.catch_up().await?;
        }
        self.admit(index).await?;
        Ok(old + 1)
    }

    /// Sees that the store does not overwrite: what could not be written to was not asked when it was opened.
    async fn prove(&self, index: usize) -> Result<(), RepositoryError> {
        let (replica, descriptor) = (&self.set.replicas[index], layout::descriptor());
        let own = replica.store.get(&descriptor, None).await?;
        if refuses(replica, &descriptor, &own).await? {
            return Ok(());
        }
        let (fault, why) = careless(replica, &descriptor);
        Err(RepositoryError::new(fault, why))
    }

    /// Lets this process, and no other, write to a replica whose repair it goes on with.
    pub async fn admit(&self, index: usize) -> Result<(), RepositoryError> {
        self.prove(index).await?;
        if let Some(log) = self.log(index).await {
            if let Some(damage) = &log.damaged {
                return Err(RepositoryError::new(damage.fault, damage.why.clone()));
            }
            self.remember(&log);
        }
        self.faults.lock().expect("no panic while faults are locked").remove(&index);
        Ok(())
    }

    /// Closes every free slot of an epoch, the first one behind its end included. Gives the head that it ends at, and whose
    /// log it was (none: not one of its slots can be read).
    async fn fence(&self, index: usize, epoch: u32) -> Result<(Head, Option<Hash>), RepositoryError> {
        for _ in 0..FENCES_MAX {
            let Epoch { replica_id, mut slots, fenced } = self.read_epoch(index, epoch, &mut Past::default()).await?;
            if fenced {
                let hash = slots.last().map(Spot::hash).unwrap_or_default();
                return Ok((Head { epoch, slot: slots.len() as u64, hash }, replica_id));
            }
            slots.push(Spot::Absent);
            for at in 0..slots.len() {
                if slots[at] != Spot::Absent {
                    continue;
                }
                let prev = at.checked_sub(1).map(|before| slots[before].hash()).unwrap_or_default();
                self.close_slot(index, epoch, replica_id, at as u64, prev).await?;
            }
            // Whoever was faster has a record there that must be read: once more from the beginning.
        }
        let name = &self.set.replicas[index].name;
        let message = format!("store {name}: its log goes on growing while it is repaired: try again when nobody writes to it");
        Err(RepositoryError::new(Fault::Contention, message))
    }

    /// Puts `close` into the slot behind `before`, if nothing lies there yet.
    async fn close_slot(
        &self,
        index: usize,
        epoch: u32,
        replica_id: Option<Hash>,
        before: u64,
        prev: Hash,
    ) -> Result<(), RepositoryError> {
        let mut log = Log::unread(&self.env, &self.set.replicas[index], &self.keyring, self.run_id, epoch);
        (log.state.slot, log.state.hash, log.state.replica_id) = (before, prev, replica_id);
        // Where not one slot can be read nobody can write to the log either: any id closes it.
        let id = match replica_id {
            Some(id) => id,
            None => self.env.random(),
        };
        let action = Action::Close(Close { next_epoch: epoch + 1 });
        log.create_next(id, action, true, &self.record_heads()).await.map(drop)
    }

    /// Appends a record to a log whose repair is under way; `verify` as for [`Log::append`].
    pub async fn append_repairing(
        &self,
        index: usize,
        action: Action,
        critical: bool,
        verify: impl FnMut(&State) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else {
            return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read"));
        };
        log.append(action, critical, &heads, verify).await?;
        log.checkpoint_if_due().await;
        self.remember(&log);
        Ok(())
    }

    /// Brings into a new epoch what stays so whatever was lost: what is void, forgotten and withdrawn, features and holds, and
    /// whether more may be void than is known. What the new log says already is not said again. (What was distrusted is not taken
    /// over under its name, or is distrusted anew.)
    pub async fn carry_past(&self, index: usize, past: &Past) -> Result<(), RepositoryError> {
        let now = match self.log(index).await {
            Some(log) => log.state.clone(),
            None => return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read")),
        };
        for (class, void) in &past.state.condemned {
            let new: Vec<Hash> = void.iter().filter(|name| !now.is_condemned(*class, name)).copied().collect();
            self.condemn_repairing(index, *class, &new, |_| Ok(())).await?;
        }
        let forgotten: Vec<Hash> = past.state.forgotten.difference(&now.forgotten).copied().collect();
        for ids in forgotten.chunks(NAMES_MAX) {
            self.append_repairing(index, Action::Forget(Forget { ids: names(ids) }), true, |_| Ok(())).await?;
        }
        // A key that was withdrawn anywhere opens nothing here either.
        let withdrawn: BTreeSet<Hash> = past.state.revoked.union(&self.revoked().await).copied().collect();
        let revoked: Vec<Hash> = withdrawn.difference(&now.revoked).copied().collect();
        for slots in revoked.chunks(NAMES_MAX) {
            self.append_repairing(index, Action::Revoke(Revoke { key_slots: names(slots) }), true, |_| Ok(())).await?;
        }
        let features = past.state.features.iter().filter(|(name, _)| *name != REPAIRED && !now.features.contains_key(*name));
        for (_, configure) in features {
            self.append_repairing(index, Action::Configure(configure.clone()), configure.critical, |_| Ok(())).await?;
        }
        if !past.complete && !now.features.contains_key(NAMES_LOST) && !past.state.features.contains_key(NAMES_LOST) {
            let value = format!("epoch {} had {} slots, {} lost", past.epoch, past.slots, past.wounds_count);
            let action = Action::Configure(Configure { feature: NAMES_LOST.into(), value, critical: false });
            self.append_repairing(index, action, false, |_| Ok(())).await?;
        }
        for (_, hold) in past.state.holds.iter().filter(|(id, _)| !now.holds.contains_key(*id)) {
            self.append_repairing(index, Action::Hold(hold.clone()), true, |_| Ok(())).await?;
        }
        Ok(())
    }

    /// Records packs that nobody may rely on, and that are no reason to delete, in a log whose repair is under way.
    pub async fn distrust_repairing(&self, index: usize, packs: &[Hash]) -> Result<(), RepositoryError> {
        for packs in packs.chunks(NAMES_MAX) {
            let action = Action::Distrust(Distrust { add: names(packs), lift: Vec::new() });
            self.append_repairing(index, action, false, |_| Ok(())).await?;
        }
        Ok(())
    }

    /// Voids names in a log whose repair is under way; many of them by a list. `verify` as for [`Log::append`].
    pub async fn condemn_repairing(
        &self,
        index: usize,
        class: ObjectClass,
        void: &[Hash],
        mut verify: impl FnMut(&State) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        for part in void.chunks(LIST_NAMES_MAX) {
            let (mut objects, mut lists) = (Vec::new(), Vec::new());
            if part.len() <= NAMES_MAX {
                objects.extend(part.iter().map(|hash| ObjectRef { class: class as i32, hash: Bytes::copy_from_slice(hash) }));
            } else {
                let keyring = &self.keyring;
                let stored = HashList::new(part.to_vec())
                    .encode(&keyring.keys.log, &keyring.repository_id, self.env.random())
                    .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write a list of void names", e))?;
                let hash = object_hash(&stored);
                put_proven(&self.set.replicas[index], &layout::hashed(Class::List, &hash), &stored).await?;
                lists.push(ClassList { class: class as i32, list: Bytes::copy_from_slice(&hash) });
            }
            self.append_repairing(index, Action::Condemn(Condemn { objects, lists }), true, &mut verify).await?;
        }
        Ok(())
    }

    /// Says that the repair is finished: from now on the replica is one like any other.
    pub async fn finish_repair(&self, index: usize, past: &Past) -> Result<(), RepositoryError> {
        let old = past.state.replica_id.map(hex::encode).unwrap_or_else(|| "nobody".into());
        let value = format!("{old} had epoch {} with {} slots, {} lost", past.epoch, past.slots, past.wounds_count);
        let action = Action::Configure(Configure { feature: REPAIRED.into(), value, critical: false });
        self.append_repairing(index, action, false, |_| Ok(())).await?;
        if let Some(mut log) = self.log(index).await {
            // The next repair, should there be one, need not read this one's records one by one. Without it nothing is lost.
            let _ = log.write_checkpoint().await;
            if let Some(old) = past.state.replica_id {
                // A store that shows the old log again is rolled back.
                let mut heads = self.heads.lock().expect("no panic while heads are locked");
                heads.insert(old, Head { epoch: log.state.epoch, ..log.state.head() });
            }
        }
        Ok(())
    }
}
