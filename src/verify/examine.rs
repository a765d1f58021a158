//! One replica, examined: what it is held against, and how a read that failed is judged.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use tokio::sync::Semaphore;

use crate::format::Hash;
use crate::format::record::ObjectClass;
use crate::progress::{Progress, Stop};
use crate::replica::Replica;
use crate::replica::read::ReadFault;
use crate::repository::Repository;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::log::Damaged;
use crate::repository::state::{Live, State};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::verify::findings::Findings;

/// Why the examination of a replica ends early.
#[derive(Debug)]
pub enum Halt {
    /// Stopped on request.
    Interrupted,
    /// The store does not answer as it should; nothing can be said about its objects.
    Unreachable(Fault, String),
}

impl From<StoreError> for Halt {
    fn from(e: StoreError) -> Halt {
        let fault = RepositoryError::from_kind(e.kind);
        Halt::Unreachable(fault, ReadFault::Store(e).to_string())
    }
}

/// What a failed read says about the object, or that it says nothing about it.
pub fn sort(fault: ReadFault) -> Result<String, Halt> {
    match fault {
        ReadFault::Damaged(what) => Ok(what),
        ReadFault::Store(e) if e.kind == StoreErrorKind::NotFound => Ok("it is missing".into()),
        ReadFault::Store(e) if matches!(e.kind, StoreErrorKind::Invalid | StoreErrorKind::Corrupt | StoreErrorKind::Other) => {
            Ok(format!("it cannot be read: {}", ReadFault::Store(e)))
        }
        ReadFault::Store(e) => Err(e.into()),
    }
}

/// What a replica's log said when the examination began.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The current epoch.
    pub epoch: u32,
    /// Its last slot.
    pub slot: u64,
    /// Hash of that slot's stored bytes.
    pub hash: Hash,
    /// The replica.
    pub replica_id: Option<Hash>,
    /// Index segments in force.
    pub segments: BTreeSet<Hash>,
    /// Live snapshots, by id.
    pub snapshots: Vec<(Hash, Live)>,
    /// How many snapshots were forgotten: their objects may still be there.
    pub forgotten: u64,
    /// Lists that records name.
    pub lists: BTreeSet<Hash>,
    /// Packs found damaged before, and not condemned since.
    pub distrusted: BTreeSet<Hash>,
    /// Key slots withdrawn.
    pub revoked: BTreeSet<Hash>,
}

/// Whether a pack is of no concern any more.
fn condemned(state: &State, pack: &Hash) -> bool {
    state.is_condemned(ObjectClass::Data, pack) || state.is_condemned(ObjectClass::Meta, pack)
}

/// One replica under examination.
pub struct Examination<'r> {
    /// The repository.
    pub repository: &'r Repository,
    /// The replica.
    pub replica: &'r Replica,
    /// What its log said.
    pub facts: Facts,
    /// Where chunks are.
    pub index: Arc<RwLock<ChunkIndex>>,
    /// What was found.
    pub findings: &'r Findings,
    /// Figures.
    pub progress: &'r Progress,
    /// The request to stop.
    pub stop: &'r Stop,
    /// Admits bytes in flight, in KiB, for all replicas together.
    pub memory: &'r Semaphore,
    /// How many KiB that is in all.
    pub memory_kib: u32,
}

impl Examination<'_> {
    /// Ends the examination when that was asked for.
    pub fn going_on(&self) -> Result<(), Halt> {
        if self.stop.requested() { Err(Halt::Interrupted) } else { Ok(()) }
    }

    /// Whether this replica's log condemned an object.
    pub async fn is_condemned(&self, class: ObjectClass, name: &Hash) -> bool {
        match self.repository.log(self.replica.index).await {
            Some(log) => log.state.is_condemned(class, name),
            None => false,
        }
    }
}

impl Facts {
    /// As the log of replica `index` stands; `None` when it was never read.
    pub async fn gather(repository: &Repository, index: usize) -> Option<(Facts, Option<Damaged>)> {
        let log = repository.log(index).await?;
        let state = &log.state;
        let facts = Facts {
            epoch: state.epoch,
            slot: state.slot,
            hash: state.hash,
            replica_id: state.replica_id,
            segments: state.segments.clone(),
            snapshots: state.snapshots.iter().map(|(id, live)| (*id, *live)).collect(),
            forgotten: state.forgotten.len() as u64,
            lists: state.named_lists.iter().map(|(_, list)| *list).collect(),
            distrusted: state.distrusted.iter().filter(|pack| !condemned(state, pack)).copied().collect(),
            revoked: state.revoked.clone(),
        };
        Some((facts, log.damaged.clone()))
    }
}
