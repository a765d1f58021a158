//! The records that take away: what nobody may rely on any more, and segments that others replace.
//!
//! Both are judged against the whole fold at the very slot that they get, and once more after each lost race.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::join_all;

use crate::clock::Time;
use crate::format::list::{HashList, LIST_MAX};
use crate::format::record::{self, Action, ClassList, Compact, Condemn, Expected, ObjectClass, ObjectRef};
use crate::format::{Hash, object_hash};
use crate::replica::read::read_one;
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::footing::Footing;
use crate::repository::layout::{self, Class};
use crate::repository::log::{Log, chain, read_error};
use crate::repository::state::State;
use crate::repository::writer::SentSegment;

/// Names that a condemn record carries itself; more go into lists.
const INLINE: usize = 4096;
/// Slots that are read at once.
const AT_ONCE: u64 = 16;

/// Names of objects, by class.
pub type Names = BTreeMap<ObjectClass, BTreeSet<Hash>>;

/// Why a record that takes away was not written.
#[derive(Debug)]
pub enum CondemnFault {
    /// Others wrote what it does not know: it is to be looked at again.
    Overtaken(&'static str),
    /// The replica, or its log.
    Repository(RepositoryError),
}

impl From<RepositoryError> for CondemnFault {
    fn from(e: RepositoryError) -> CondemnFault {
        CondemnFault::Repository(e)
    }
}

/// Whether a log needs one of these names whatever was planned: objects of live snapshots, segments in force, lists that its
/// records name, and every class whose names something else may need.
fn needed(state: &State, names: &Names) -> Option<&'static str> {
    for (class, hashes) in names {
        let held = match class {
            ObjectClass::Data | ObjectClass::Meta => false,
            ObjectClass::Index => hashes.iter().any(|hash| state.segments.contains(hash)),
            ObjectClass::Snapshot => state.snapshots.values().any(|live| hashes.contains(&live.object)),
            ObjectClass::List => state.named_lists.iter().any(|(_, list)| hashes.contains(list)),
            ObjectClass::Key | ObjectClass::Checkpoint | ObjectClass::Unknown => true,
        };
        if held {
            return Some("something on the list is needed by the log itself");
        }
    }
    None
}

impl Repository {
    /// Condemns names in one log: from that slot on nobody may rely on them. `footing` is what the plan stands on.
    pub async fn condemn(&self, index: usize, footing: &Footing, names: &Names) -> Result<(), CondemnFault> {
        self.void(index, Some(footing), names).await
    }

    /// Condemns index segments that are not in force any more: they need no plan.
    pub async fn condemn_segments(&self, index: usize, segments: &BTreeSet<Hash>) -> Result<(), CondemnFault> {
        self.void(index, None, &Names::from([(ObjectClass::Index, segments.clone())])).await
    }

    async fn void(&self, index: usize, footing: Option<&Footing>, names: &Names) -> Result<(), CondemnFault> {
        let mut action = Condemn::default();
        let few = names.values().map(BTreeSet::len).sum::<usize>() <= INLINE;
        for (class, hashes) in names {
            let all: Vec<Hash> = hashes.iter().copied().collect();
            if few {
                let object = |hash: &Hash| ObjectRef { class: *class as i32, hash: Bytes::copy_from_slice(hash) };
                action.objects.extend(all.iter().map(object));
                continue;
            }
            for part in all.chunks(LIST_MAX) {
                let list = self.put_list(index, part).await?;
                action.lists.push(ClassList { class: *class as i32, list: Bytes::copy_from_slice(&list) });
            }
        }
        let lists: Vec<Hash> = action.lists.iter().filter_map(|l| l.list[..].try_into().ok()).collect();
        self.take_away(index, Action::Condemn(action), |state| {
            let overtaken = footing.and_then(|footing| footing.overtaken_by(&Footing::of(state)));
            let void = lists.iter().any(|list| state.is_condemned(ObjectClass::List, list));
            overtaken.or_else(|| needed(state, names)).or(void.then_some("the list was condemned"))
        })
        .await
    }

    /// Replaces segments of one log by others, which name every pack of the old ones that is not void.
    pub async fn compact(&self, index: usize, old: &BTreeSet<Hash>, new: &[SentSegment]) -> Result<(), CondemnFault> {
        let (mine, new): (Vec<&SentSegment>, Vec<Hash>) = new.iter().map(|segment| (segment, segment.hash)).unzip();
        let old_names = old.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        let new_names = new.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        let action = Action::Compact(Compact { old: old_names, new: new_names });
        self.take_away(index, action, |state| {
            if !old.is_subset(&state.segments) {
                return Some("segments were replaced");
            }
            if new.iter().any(|hash| state.is_condemned(ObjectClass::Index, hash)) {
                return Some("the new segments were condemned");
            }
            // What was void when they were written is not in them; what became so since would be named anew.
            let void = mine.iter().flat_map(|segment| &segment.packs);
            let mut void = void.filter(|(kind, pack)| state.is_condemned((*kind).into(), pack));
            void.next().map(|_| "packs were condemned")
        })
        .await?;
        self.published(index, &mine);
        Ok(())
    }

    async fn put_list(&self, index: usize, names: &[Hash]) -> Result<Hash, RepositoryError> {
        let (keyring, replica) = (&self.keyring, &self.set.replicas[index]);
        let stored = HashList::new(names.to_vec())
            .encode(&keyring.keys.log, &keyring.repository_id, self.env.random())
            .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write a list", e))?;
        let hash = object_hash(&stored);
        put_proven(replica, &layout::hashed(Class::List, &hash), &stored).await?;
        Ok(hash)
    }

    async fn take_away(
        &self,
        index: usize,
        action: Action,
        mut judge: impl FnMut(&State) -> Option<&'static str>,
    ) -> Result<(), CondemnFault> {
        if let Some((fault, why)) = self.fault(index) {
            return Err(RepositoryError::new(fault, why).into());
        }
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else {
            return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read").into());
        };
        self.prove_refusal(index).await?;
        let mut overtaken = None;
        let judged = |state: &State| {
            overtaken = judge(state);
            match overtaken {
                Some(why) => Err(RepositoryError::new(Fault::Contention, why)),
                None => Ok(()),
            }
        };
        let appended = log.append(action, true, &heads, judged).await;
        self.mark(index, &log.state);
        match (appended, overtaken) {
            (Ok(()), _) => {
                log.checkpoint_if_due().await;
                self.remember(&log);
                Ok(())
            }
            (Err(_), Some(why)) => Err(CondemnFault::Overtaken(why)),
            (Err(e), None) => Err(e.into()),
        }
    }
}

impl Log {
    /// The names that records condemn whose slots the store wrote after `since`, by `times`, in the store's own time. A slot
    /// without a time counts as young; so do all behind the oldest young one.
    pub async fn condemned_since(&self, since: Time, times: &BTreeMap<u64, Time>) -> Result<Names, RepositoryError> {
        let mut young = Names::new();
        let mut last = self.state.slot;
        let is_young = |slot: &u64| times.get(slot).is_none_or(|time| *time > since);
        while last > 0 {
            let slots: Vec<u64> =
                (last.saturating_sub(AT_ONCE - 1).max(1)..=last).rev().take_while(|slot| is_young(slot)).collect();
            for names in join_all(slots.iter().map(|slot| self.condemned_by(*slot))).await {
                for (class, hashes) in names? {
                    young.entry(class).or_default().extend(hashes);
                }
            }
            if slots.len() < AT_ONCE.min(last) as usize {
                break;
            }
            last = last.saturating_sub(AT_ONCE);
        }
        Ok(young)
    }

    /// The names that the record in a slot condemns.
    async fn condemned_by(&self, slot: u64) -> Result<Names, RepositoryError> {
        let (keyring, state) = (self.keyring.clone(), &self.state);
        let expected = Expected { replica_id: state.replica_id, epoch: state.epoch, slot };
        let name = layout::slot(state.epoch, slot);
        let read = read_one(&self.replica, &name, None, async |bytes: Bytes| {
            let decoded = record::decode_slot(&bytes, &keyring.keys.log, &keyring.repository_id, &expected);
            decoded.map(|(_, body)| body.action).map_err(|e| chain(&e))
        });
        let mut names = Names::new();
        if let Some(Action::Condemn(condemn)) = read.await.map_err(|fault| read_error(&name, fault))? {
            for object in &condemn.objects {
                names.entry(object.class()).or_default().extend(Hash::try_from(object.hash.as_ref()));
            }
            for list in &condemn.lists {
                let hashes = self.load_list(&list.list[..].try_into().unwrap_or_default()).await?;
                names.entry(list.class()).or_default().extend(hashes);
            }
        }
        Ok(names)
    }
}
