//! Checkpoints of a log: written now and then, so that a reader need not begin at slot 1.
//!
//! A checkpoint is a convenience with proof: it is sealed, names the slot it stands for and that slot's hash, and the
//! listing that finds it only proposes candidates; one that is damaged, or stale, costs reading more slots.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt;

use crate::format::checkpoint::{Checkpoint, LiveSnapshot, NewestNote, Run, SetKind, SetRuns};
use crate::format::list::HashList;
use crate::format::record::{ClassList, Head as RecordHead, ObjectClass};
use crate::format::{Hash, object_hash};
use crate::replica::write::put_proven;
use crate::repository::error::RepositoryError;
use crate::repository::heads::Head;
use crate::repository::layout::{self, Class};
use crate::repository::log::Log;
use crate::repository::state::{Live, State};

/// A checkpoint is due after this many slots.
pub const EVERY: u64 = 64;
/// Candidates that are tried before the log is read from its beginning.
const CANDIDATES: usize = 3;
/// Names that a checkpoint carries itself, before a run is made of them.
const INLINE: usize = 256;

type SetKey = (SetKind, ObjectClass);

/// The runs that hold most of each set, and what is in them.
#[derive(Default)]
pub struct Runs(BTreeMap<SetKey, RunSet>);

#[derive(Default, Clone)]
struct RunSet {
    lists: Vec<(Hash, u64)>,
    names: BTreeSet<Hash>,
}

fn named(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash)
}

fn array(bytes: &Bytes) -> Hash {
    bytes.as_ref().try_into().unwrap_or_default()
}

fn record_head((replica, head): (&Hash, &Head)) -> RecordHead {
    RecordHead { replica_id: named(replica), epoch: head.epoch, slot: head.slot, hash: named(&head.hash) }
}

fn head((id, h): (&Bytes, &RecordHead)) -> (Hash, Head) {
    (array(id), Head { epoch: h.epoch, slot: h.slot, hash: array(&h.hash) })
}

fn sets(state: &State) -> Vec<(SetKey, &BTreeSet<Hash>)> {
    let plain = ObjectClass::Unknown;
    let mut out = vec![
        ((SetKind::Segments, plain), &state.segments),
        ((SetKind::Distrusted, plain), &state.distrusted),
        ((SetKind::Forgotten, plain), &state.forgotten),
        ((SetKind::Revoked, plain), &state.revoked),
    ];
    out.extend(state.condemned.iter().map(|(class, names)| ((SetKind::Condemned, *class), names)));
    out
}

impl Log {
    /// Takes the state from the newest checkpoint that can be read, if there is one.
    pub(super) async fn load_checkpoint(&mut self) -> Result<(), RepositoryError> {
        let prefix = layout::checkpoint_prefix(self.state.epoch);
        let mut slots = Vec::new();
        let store = self.replica.store.clone();
        let mut listing = store.list(&prefix);
        while let Some(info) = listing.next().await {
            slots.extend(layout::parse_checkpoint(&info?.name));
            if slots.len() >= CANDIDATES {
                break;
            }
        }
        drop(listing);
        for slot in slots {
            if let Ok((state, runs)) = self.read_checkpoint(slot).await {
                self.checkpointed = state.slot;
                (self.state, self.runs) = (state, runs);
                return Ok(());
            }
        }
        Ok(())
    }

    async fn stored_checkpoint(&self, slot: u64) -> Result<Checkpoint, String> {
        let epoch = self.state.epoch;
        let name = layout::checkpoint(epoch, slot);
        let stored = self.replica.store.get(&name, None).await.map_err(|e| e.to_string())?;
        let keyring = &self.keyring;
        Checkpoint::decode(&stored, &keyring.keys.log, &keyring.repository_id, epoch, slot).map_err(|e| e.to_string())
    }

    /// The lists that the checkpoint of a slot names, without reading them.
    pub async fn lists_of_checkpoint(&self, slot: u64) -> Result<Vec<Hash>, String> {
        let checkpoint = self.stored_checkpoint(slot).await?;
        Ok(checkpoint.sets.iter().flat_map(|set| &set.runs).map(|run| array(&run.list)).collect())
    }

    /// The lists that records name, and those of the last checkpoint that was read or written here.
    pub fn named_lists(&self) -> BTreeSet<Hash> {
        let runs = self.runs.0.values().flat_map(|set| &set.lists).map(|(list, _)| *list);
        self.state.named_lists.iter().map(|(_, list)| *list).chain(runs).collect()
    }

    pub(super) async fn read_checkpoint(&self, slot: u64) -> Result<(State, Runs), String> {
        let (epoch, checkpoint) = (self.state.epoch, self.stored_checkpoint(slot).await?);
        let (mut state, mut runs) = (State { epoch, slot, ..State::default() }, Runs::default());
        state.hash = array(&checkpoint.slot_hash);
        state.replica_id = Some(array(&checkpoint.replica_id));
        state.closed = (checkpoint.next_epoch != 0).then_some(checkpoint.next_epoch);
        for s in &checkpoint.snapshots {
            state.snapshots.insert(array(&s.id), Live { object: array(&s.object), slot: s.slot, partial: s.partial });
        }
        for set in &checkpoint.sets {
            let mut run_set = RunSet::default();
            for run in &set.runs {
                let names = self.load_list(&array(&run.list)).await.map_err(|e| e.to_string())?;
                run_set.lists.push((array(&run.list), run.count));
                run_set.names.extend(names);
            }
            let mut all = run_set.names.clone();
            all.extend(set.added());
            for gone in set.removed() {
                all.remove(gone);
            }
            match set.kind() {
                SetKind::Segments => state.segments = all,
                SetKind::Distrusted => state.distrusted = all,
                SetKind::Forgotten => state.forgotten = all,
                SetKind::Revoked => state.revoked = all,
                SetKind::Condemned => state.condemn(set.class(), all),
                SetKind::Unknown => {}
            }
            runs.0.insert((set.kind(), set.class()), run_set);
        }
        state.heads = checkpoint.heads.iter().map(|h| head((&h.replica_id, h))).collect();
        state.features = checkpoint.features.iter().map(|f| (f.feature.clone(), f.clone())).collect();
        state.holds = checkpoint.holds.iter().map(|h| (array(&h.id), h.clone())).collect();
        state.previous_epoch_head = checkpoint.previous_epoch_head.as_ref().map(|h| head((&h.replica_id, h)).1);
        state.named_lists = checkpoint.named_lists.iter().map(|l| (l.class(), array(&l.list))).collect();
        let notes = checkpoint.notes.into_iter().filter_map(|newest| Some((newest.time, newest.note?)));
        state.notes = notes.map(|(time, note)| (note.kind.clone(), (time, note))).collect();
        Ok((state, runs))
    }

    /// Writes a checkpoint if one is due. Failing to is no failure of the run: the log says everything.
    pub async fn checkpoint_if_due(&mut self) {
        if self.damaged.is_none() && self.state.slot >= self.checkpointed + EVERY {
            let _ = self.write_checkpoint().await;
        }
    }

    /// Writes a checkpoint as of the last slot read.
    pub async fn write_checkpoint(&mut self) -> Result<(), RepositoryError> {
        let state = &self.state;
        let Some(replica_id) = state.replica_id else { return Ok(()) };
        let mut runs = Runs::default();
        let mut stored_sets = Vec::new();
        for ((kind, class), names) in sets(state) {
            let mut run = self.runs.0.get(&(kind, class)).cloned().unwrap_or_default();
            // A list that was written for a checkpoint which came late was an orphan by then.
            if run.lists.iter().any(|(list, _)| state.is_condemned(ObjectClass::List, list)) {
                run = RunSet::default();
            }
            let mut removed: Vec<Hash> = run.names.difference(names).copied().collect();
            if removed.len() > INLINE {
                (run, removed) = (RunSet::default(), Vec::new());
            }
            let mut added: Vec<Hash> = names.difference(&run.names).copied().collect();
            if added.len() > INLINE {
                // Few runs: what is new joins every run that is not much larger.
                while let Some((_, count)) = run.lists.last()
                    && *count < 4 * added.len() as u64
                {
                    let (list, _) = run.lists.pop().unwrap_or_default();
                    added.extend(self.load_list(&list).await?);
                }
                let list = HashList::new(std::mem::take(&mut added));
                let keyring = &self.keyring;
                let stored = list
                    .encode(&keyring.keys.log, &keyring.repository_id, self.env.random())
                    .map_err(|e| RepositoryError::caused(crate::repository::error::Fault::Failed, "could not write a list", e))?;
                let hash = object_hash(&stored);
                put_proven(&self.replica, &layout::hashed(Class::List, &hash), &stored).await?;
                run.lists.push((hash, list.hashes().len() as u64));
                run.names.extend(list.hashes());
            }
            stored_sets.push(SetRuns {
                kind: kind as i32,
                class: class as i32,
                runs: run.lists.iter().map(|(list, count)| Run { list: named(list), count: *count }).collect(),
                added: Bytes::from(added.concat()),
                removed: Bytes::from(removed.concat()),
            });
            runs.0.insert((kind, class), run);
        }
        let checkpoint = Checkpoint {
            epoch: state.epoch,
            slot: state.slot,
            slot_hash: named(&state.hash),
            replica_id: named(&replica_id),
            next_epoch: state.closed.unwrap_or(0),
            snapshots: state
                .snapshots
                .iter()
                .map(|(id, s)| LiveSnapshot { id: named(id), object: named(&s.object), slot: s.slot, partial: s.partial })
                .collect(),
            sets: stored_sets,
            heads: state.heads.iter().map(record_head).collect(),
            features: state.features.values().cloned().collect(),
            holds: state.holds.values().cloned().collect(),
            previous_epoch_head: state.previous_epoch_head.as_ref().map(|h| record_head((&replica_id, h))),
            named_lists: state
                .named_lists
                .iter()
                .map(|(class, list)| ClassList { class: *class as i32, list: named(list) })
                .collect(),
            notes: state.notes.values().map(|(time, note)| NewestNote { time: *time, note: Some(note.clone()) }).collect(),
        };
        let keyring = &self.keyring;
        let stored = checkpoint
            .encode(&keyring.keys.log, &keyring.repository_id, self.env.random())
            .map_err(|e| RepositoryError::caused(crate::repository::error::Fault::Failed, "could not write a checkpoint", e))?;
        match self.replica.store.put(&layout::checkpoint(state.epoch, state.slot), stored).await {
            // Someone else's checkpoint of this slot says the same, perhaps with other runs.
            Err(e) if e.kind == crate::store::error::StoreErrorKind::AlreadyExists => {}
            Err(e) => return Err(e.into()),
            Ok(()) => self.runs = runs,
        }
        self.checkpointed = self.state.slot;
        Ok(())
    }
}
