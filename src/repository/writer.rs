//! The way in: packs that are proven to lie somewhere are published, and snapshots are committed, in each replica's log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use futures::future::join_all;

use crate::clock::Planted;
use crate::format::index::{PackEntry, Segment};
use crate::format::pack::PackKind;
use crate::format::record::{Action, Commit, ObjectClass, Publish};
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::patience::{Limit, allowance, while_it_may};
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::state::State;

/// Chunks in one index segment, about: segments stay a few MiB.
const SEGMENT_CHUNKS: usize = 50_000;

/// What a run stands on at one replica. All of it must hold at the very slot that commits.
#[derive(Clone, Debug, Default)]
pub struct Reliance {
    /// Packs that this run sent.
    pub own: Vec<(PackKind, Hash)>,
    /// Packs that were there and are relied on instead of sending.
    pub hits: Vec<(PackKind, Hash)>,
    /// The snapshots whose entries were carried over unseen: they must still be live. None: everything was looked up.
    pub parents: Vec<Hash>,
    /// The packs that were distrusted when entries were carried over unseen.
    pub distrusted: BTreeSet<Hash>,
    /// A snapshot that others made: no log that this process has read may have forgotten it.
    pub theirs: Option<Hash>,
}

/// Why a record could not be written at a replica.
#[derive(Debug)]
pub enum WriteFault {
    /// Something the run stands on is not there any more: what it covered must be sent again.
    LostCover(String),
    /// The replica, or its log.
    Repository(RepositoryError),
}

impl From<RepositoryError> for WriteFault {
    fn from(e: RepositoryError) -> WriteFault {
        WriteFault::Repository(e)
    }
}

impl Reliance {
    /// Judges the reliance against the whole fold, and what any log has forgotten: what is gone, if anything.
    fn broken(&self, state: &State, gone: &Mutex<BTreeSet<Hash>>, published: &BTreeSet<Hash>) -> Option<String> {
        if let Some(id) = &self.theirs
            && gone.lock().expect("no panic while forgotten ids are noted").contains(id)
        {
            return Some(format!("snapshot {} was forgotten", hex::encode(id)));
        }
        for (kind, pack) in self.own.iter().chain(&self.hits) {
            if state.is_condemned((*kind).into(), pack) {
                return Some(format!("pack {} was condemned", hex::encode(pack)));
            }
        }
        if let Some((_, pack)) = self.own.iter().chain(&self.hits).find(|(_, pack)| state.distrusted.contains(pack)) {
            return Some(format!("pack {} was found damaged", hex::encode(pack)));
        }
        if let Some(gone) = self.parents.iter().find(|parent| !state.snapshots.contains_key(*parent)) {
            return Some(format!("the parent {} was forgotten", hex::encode(gone)));
        }
        if !self.parents.is_empty() && !state.distrusted.is_subset(&self.distrusted) {
            return Some("packs were found damaged".into());
        }
        let segment = published.iter().find(|s| state.is_condemned(ObjectClass::Index, s));
        segment.map(|s| format!("index segment {} was condemned", hex::encode(s)))
    }
}

/// A segment that lies at some replicas, ready to be named by their logs.
#[derive(Clone, Debug)]
pub struct SentSegment {
    /// Its name.
    pub hash: Hash,
    /// The packs in it.
    pub packs: Vec<(PackKind, Hash)>,
    /// The replicas that hold it.
    pub at: Mask,
}

impl Repository {
    /// Writes the index segments of packs to the replicas that hold those packs. Replicas that fail are given back with
    /// their error; they hold no segment of the result.
    pub async fn send_segments(&self, packs: Vec<(PackEntry, Mask)>) -> (Vec<SentSegment>, Vec<(usize, RepositoryError)>) {
        self.send_segments_until(packs, None).await
    }

    /// The same, and no longer than to `limit`: a replica that is not done by then has failed.
    pub async fn send_segments_until(
        &self,
        packs: Vec<(PackEntry, Mask)>,
        limit: Option<&Limit>,
    ) -> (Vec<SentSegment>, Vec<(usize, RepositoryError)>) {
        let mut by_mask: BTreeMap<Mask, Vec<PackEntry>> = BTreeMap::new();
        for (entry, mask) in packs {
            if !mask.is_empty() {
                by_mask.entry(mask).or_default().push(entry);
            }
        }
        let mut batches: Vec<(Mask, Vec<PackEntry>)> = Vec::new();
        for (mask, entries) in by_mask {
            let mut chunks = usize::MAX;
            for entry in entries {
                let more: usize = entry.frames.iter().map(|f| f.lengths.len()).sum();
                if chunks.saturating_add(more) > SEGMENT_CHUNKS {
                    batches.push((mask, Vec::new()));
                    chunks = 0;
                }
                chunks += more;
                batches.last_mut().expect("the first entry opens a batch").1.push(entry);
            }
        }
        let (mut sent, mut failed): (Vec<SentSegment>, Vec<(usize, RepositoryError)>) = (Vec::new(), Vec::new());
        for (mask, entries) in batches {
            let packs = entries.iter().filter_map(|e| Some((e.kind(), e.name().ok()?))).collect();
            let segment = Segment { packs: entries };
            let stored = match segment.encode(&self.keyring.keys.index, &self.id(), self.env.random()) {
                Ok(stored) => stored,
                Err(e) => {
                    let why = format!("could not write an index segment: {e}");
                    failed.extend(mask.indices().map(|i| (i, RepositoryError::new(Fault::Failed, why.clone()))));
                    continue;
                }
            };
            let hash = object_hash(&stored);
            let name = layout::hashed(Class::Segment, &hash);
            let puts = mask.indices().map(|i| (i, &self.set.replicas[i])).map(|(i, replica)| {
                let (name, stored) = (&name, &stored);
                let patience = allowance(self.set.settings.stall, stored.len() as u64);
                let put = async move { put_proven(replica, name, stored).await };
                let put = while_it_may(&self.env, replica, patience, limit, "writing its index", put);
                async move { (i, put.await.and_then(|receipt| receipt)) }
            });
            let mut at = Mask::default();
            for (index, put) in join_all(puts).await {
                match put {
                    Ok(_) => at = at.or(Mask::one(index)),
                    Err(e) => failed.push((index, e.into())),
                }
            }
            if let Ok(mut chunks) = self.index.write()
                && let Err(e) = chunks.insert(&segment, Mask::default())
            {
                failed.extend(mask.indices().map(|i| (i, RepositoryError::new(e.fault, e.message.clone()))));
            }
            sent.push(SentSegment { hash, packs, at });
        }
        (sent, failed)
    }

    /// Publishes segments in one log, and writes a checkpoint if one is due: from now on their packs may be relied on there.
    pub async fn publish(&self, index: usize, segments: &[SentSegment]) -> Result<(), WriteFault> {
        self.publish_alone(index, segments).await?;
        self.checkpoint(index).await;
        Ok(())
    }

    /// Publishes, and leaves the checkpoint to the caller.
    pub async fn publish_alone(&self, index: usize, segments: &[SentSegment]) -> Result<(), WriteFault> {
        let mine: Vec<_> = segments.iter().filter(|s| s.at.has(index)).collect();
        if mine.is_empty() {
            return Ok(());
        }
        let own = mine.iter().filter(|_| !self.env.makes(Planted::UnverifiedPublish)).flat_map(|s| s.packs.clone());
        let reliance = Reliance { own: own.collect(), ..Reliance::default() };
        let names: BTreeSet<Hash> = mine.iter().map(|s| s.hash).collect();
        let action = Action::Publish(Publish { segments: names.iter().map(|h| Bytes::copy_from_slice(h)).collect() });
        self.write(index, action, &reliance, &names, None).await?;
        self.published(index, &mine);
        Ok(())
    }

    /// Commits a snapshot in one log, together with the segments of its last packs, and writes a checkpoint if one is due.
    #[allow(clippy::too_many_arguments)]
    pub async fn commit(
        &self,
        index: usize,
        snapshot_id: Hash,
        object: Hash,
        partial: bool,
        replaces: &[Hash],
        segments: &[SentSegment],
        reliance: &Reliance,
    ) -> Result<(), WriteFault> {
        self.commit_alone(index, (snapshot_id, object), partial, replaces, segments, reliance).await?;
        self.checkpoint(index).await;
        Ok(())
    }

    /// Commits the snapshot of this id and object, and leaves the checkpoint to the caller.
    pub async fn commit_alone(
        &self,
        index: usize,
        (snapshot_id, object): (Hash, Hash),
        partial: bool,
        replaces: &[Hash],
        segments: &[SentSegment],
        reliance: &Reliance,
    ) -> Result<(), WriteFault> {
        let mine: Vec<_> = segments.iter().filter(|s| s.at.has(index)).collect();
        let mut reliance = reliance.clone();
        reliance.own.extend(mine.iter().flat_map(|s| s.packs.clone()));
        let names: BTreeSet<Hash> = mine.iter().map(|s| s.hash).collect();
        let action = Action::Commit(Commit {
            snapshot_id: Bytes::copy_from_slice(&snapshot_id),
            object: Bytes::copy_from_slice(&object),
            segments: names.iter().map(|h| Bytes::copy_from_slice(h)).collect(),
            replaces: replaces.iter().map(|h| Bytes::copy_from_slice(h)).collect(),
            partial,
        });
        self.write(index, action, &reliance, &names, Some((snapshot_id, object))).await?;
        self.published(index, &mine);
        Ok(())
    }

    pub(super) async fn write(
        &self,
        index: usize,
        action: Action,
        reliance: &Reliance,
        segments: &BTreeSet<Hash>,
        snapshot: Option<(Hash, Hash)>,
    ) -> Result<(), WriteFault> {
        if let Some((fault, why)) = self.fault(index) {
            return Err(RepositoryError::new(fault, why).into());
        }
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else {
            return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read").into());
        };
        let (mut lost, gone) = (None, log.gone.clone());
        let appended = log
            .append(action, true, &heads, |state| {
                lost = reliance.broken(state, &gone, segments);
                if let Some((id, object)) = &snapshot {
                    if state.forgotten.contains(id) {
                        lost = Some("this run's snapshot was forgotten already".into());
                    }
                    if state.is_condemned(ObjectClass::Snapshot, object) {
                        lost = Some("this run's snapshot object was condemned".into());
                    }
                }
                match &lost {
                    Some(why) => Err(RepositoryError::new(Fault::Failed, why.clone())),
                    None => Ok(()),
                }
            })
            .await;
        self.mark(index, &log.state);
        match appended {
            Ok(()) => {
                self.remember(&log);
                Ok(())
            }
            Err(e) => Err(match lost {
                Some(why) => WriteFault::LostCover(why),
                None => WriteFault::Repository(e),
            }),
        }
    }

    /// Writes a checkpoint of one log where one is due. Nothing depends on it: what it spares is reading slots one by one.
    pub async fn checkpoint(&self, index: usize) {
        if let Some(mut log) = self.log(index).await {
            log.checkpoint_if_due().await;
            self.remember(&log);
        }
    }

    /// Tells the index that packs may be relied on at a replica.
    pub(super) fn published(&self, index: usize, segments: &[&SentSegment]) {
        {
            let mut chunks = self.index.write().expect("no panic while the index is locked");
            for (_, pack) in segments.iter().flat_map(|s| &s.packs) {
                chunks.publish(index, pack);
            }
        }
        for segment in segments {
            self.loaded(segment.hash, Mask::one(index), segment.packs.iter().map(|(_, pack)| *pack));
        }
    }
}
