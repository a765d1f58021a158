//! Where one log stands, and an index that knows all of it: what a plan to condemn is made on.
//!
//! A plan is good as long as nothing came to the log that it did not see. What came is told apart: more of the same (segments,
//! snapshots), which can be looked at by itself, and changes that a plan does not outlive.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Hash;
use crate::format::snapshot::Snapshot;
use crate::replica::Mask;
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::state::{Live, State};

/// A segment that is in the index.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The replicas for whose logs it was taken in.
    pub at: Mask,
    /// The numbers of its packs.
    pub packs: Vec<u32>,
}

/// A log's state, as far as a plan stands on it.
#[derive(Clone, Debug)]
pub struct Footing {
    /// Its epoch.
    pub epoch: u32,
    /// The last slot.
    pub slot: u64,
    /// The snapshots that are roots, by id.
    pub snapshots: BTreeMap<Hash, Live>,
    /// The segments in force.
    pub segments: BTreeSet<Hash>,
    /// The packs found damaged.
    pub distrusted: BTreeSet<Hash>,
    /// How many names are void: they only ever become more.
    condemned: usize,
}

fn condemned(state: &State) -> usize {
    state.condemned.values().map(BTreeSet::len).sum()
}

impl Footing {
    /// Where a log stands now.
    pub fn of(state: &State) -> Footing {
        Footing {
            epoch: state.epoch,
            slot: state.slot,
            snapshots: state.snapshots.clone(),
            segments: state.segments.clone(),
            distrusted: state.distrusted.clone(),
            condemned: condemned(state),
        }
    }

    /// What came to the log that a plan made here does not know, if anything. That snapshots were forgotten, segments
    /// replaced or packs trusted again takes nothing from a plan.
    pub fn overtaken_by(&self, later: &Footing) -> Option<&'static str> {
        self.upset_by(later).or_else(|| {
            if !later.segments.is_subset(&self.segments) {
                return Some("packs were published");
            }
            let known = |(id, live): (&Hash, &Live)| self.snapshots.get(id).is_some_and(|known| known.object == live.object);
            (!later.snapshots.iter().all(known)).then_some("a snapshot was committed")
        })
    }

    /// What a plan made here does not outlive, if that happened.
    pub fn upset_by(&self, later: &Footing) -> Option<&'static str> {
        if later.epoch != self.epoch {
            Some("the log was repaired")
        } else if later.condemned != self.condemned {
            Some("objects were condemned")
        } else if !later.distrusted.is_subset(&self.distrusted) {
            Some("packs were found damaged")
        } else {
            None
        }
    }
}

impl Repository {
    /// Reads the log of one replica to its end and takes all that it published into the index. Gives where it stands, and the
    /// numbers of packs that it had not named when the index was last brought up to date. [`Fault::Integrity`] when a segment
    /// in force can be read nowhere: what it names would look like something that nobody needs.
    pub async fn stand(&self, index: usize) -> Result<(Footing, BTreeSet<u32>), RepositoryError> {
        if let Some((fault, why)) = self.fault(index) {
            return Err(RepositoryError::new(fault, why));
        }
        self.index().await?;
        let (replica, patience) = (&self.set.replicas[index], self.set.settings.stall);
        let (footing, missing) = {
            let Some(mut log) = self.log(index).await else {
                return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read"));
            };
            let epoch = log.state.epoch;
            while_it_answers(&self.env, replica, patience, "reading its log", log.catch_up()).await??;
            if let Some(damage) = &log.damaged {
                return Err(RepositoryError::new(damage.fault, damage.why.clone()));
            }
            if log.state.epoch != epoch || log.state.closed.is_some() {
                let why = "its log was repaired meanwhile, or its repair is under way: run the command again";
                return Err(RepositoryError::new(Fault::Failed, format!("store {}: {why}", replica.name)));
            }
            let loaded = self.segments.lock().expect("no panic while segments are noted");
            let is_loaded = |hash: &Hash| loaded.get(hash).is_some_and(|one| one.at.has(index));
            let missing: Vec<Hash> = log.state.segments.iter().filter(|hash| !is_loaded(hash)).copied().collect();
            (Footing::of(&log.state), missing)
        };
        let mut wanted: BTreeMap<Hash, Mask> = BTreeMap::new();
        for other in self.readable().indices() {
            if let Some(log) = self.log(other).await {
                for hash in missing.iter().filter(|hash| log.state.segments.contains(*hash)) {
                    let at = wanted.entry(*hash).or_default();
                    *at = at.or(Mask::one(other));
                }
            }
        }
        self.load_segments(wanted).await?;
        // Taking in a segment counts its packs as published, the void ones, too.
        for other in self.readable().indices() {
            if let Some(log) = self.log(other).await {
                self.mark(other, &log.state);
            }
        }
        let loaded = self.segments.lock().expect("no panic while segments are noted");
        let mut fresh = BTreeSet::new();
        for hash in &missing {
            match loaded.get(hash).filter(|one| one.at.has(index)) {
                Some(one) => fresh.extend(&one.packs),
                None => {
                    let (name, hash) = (&replica.name, hex::encode(hash));
                    let why = format!("store {name}: index segment {hash} can be read nowhere: what it names is not known");
                    return Err(RepositoryError::new(Fault::Integrity, why));
                }
            }
        }
        Ok((footing, fresh))
    }

    /// Takes into the index what the logs, as far as they are read, published since it was loaded. Asks nothing where there is
    /// nothing new.
    pub async fn take_in(&self) -> Result<(), RepositoryError> {
        self.index().await?;
        let mut wanted: BTreeMap<Hash, Mask> = BTreeMap::new();
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                let loaded = self.segments.lock().expect("no panic while segments are noted");
                let is_loaded = |hash: &Hash| loaded.get(hash).is_some_and(|one| one.at.has(index));
                for hash in log.state.segments.iter().filter(|hash| !is_loaded(hash)) {
                    let at = wanted.entry(*hash).or_default();
                    *at = at.or(Mask::one(index));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.load_segments(wanted).await?;
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                self.mark(index, &log.state);
            }
        }
        Ok(())
    }

    /// Notes that a segment is in the index for the replicas `at`.
    pub(super) fn loaded(&self, hash: Hash, at: Mask, packs: impl Iterator<Item = Hash>) {
        let numbers: Vec<u32> = {
            let chunks = self.index.read().expect("no panic while the index is locked");
            packs.filter_map(|pack| chunks.pack_number(&pack)).collect()
        };
        let mut segments = self.segments.lock().expect("no panic while segments are noted");
        let one = segments.entry(hash).or_default();
        (one.at, one.packs) = (one.at.or(at), numbers);
    }

    /// Of each segment in `footing`: how many chunks it names, and how many of them in packs that the log of `index` relies on.
    pub async fn segment_loads(&self, index: usize, footing: &Footing) -> Result<Vec<(Hash, u64, u64)>, RepositoryError> {
        let chunks = self.index().await?;
        let chunks = chunks.read().expect("no panic while the index is locked");
        let loaded = self.segments.lock().expect("no panic while segments are noted");
        let load = |hash: &Hash| {
            let packs = loaded.get(hash).into_iter().flat_map(|one| &one.packs).map(|number| chunks.pack(*number));
            let count = |sum: (u64, u64), pack: &crate::repository::chunk_index::PackRow| {
                let here = if pack.published.has(index) { u64::from(pack.chunks) } else { 0 };
                (sum.0 + u64::from(pack.chunks), sum.1 + here)
            };
            let (all, in_force) = packs.fold((0, 0), count);
            (*hash, all, in_force)
        };
        Ok(footing.segments.iter().map(load).collect())
    }

    /// The snapshot `id`, from the object that a log names for it, at any readable replica. [`Fault::Integrity`] when none has
    /// it whole.
    pub async fn root(&self, id: &Hash, live: &Live) -> Result<Snapshot, RepositoryError> {
        let why = match self.stored_snapshot(&live.object, self.readable()).await.0 {
            Ok(snapshot) if snapshot.id[..] == id[..] => return Ok(snapshot),
            Ok(_) => "its object is of another snapshot".to_owned(),
            Err(why) => why,
        };
        Err(RepositoryError::new(Fault::Integrity, format!("snapshot {} cannot be read: {why}", hex::encode(id))))
    }
}
