//! Typed objects, kept safely.
//!
//! What is here: where each kind of object lies (`layout`), the keys (`keyring`), the commit log of each replica and its
//! folded state (`log`, `state`, `checkpoints`; of a damaged one `past`, `epochs`), where chunks are (`chunk_index`), and the doors
//! through which the activities read and write (`open`, `snapshots`, `forgotten`, `reader`, `packs`, `trailers`, `writer`, `footing`,
//! `condemned`, `keys`, `status`, `retire`). What comes in:
//! plaintext chunks, snapshots, secrets. What goes out: the same, verified, and receipts. What never happens here: a source, a target, a
//! policy, a provider.

pub mod checkpoints;
pub mod chunk_index;
pub mod condemned;
pub mod epochs;
pub mod error;
pub mod footing;
pub mod forgotten;
pub mod frames;
pub mod heads;
pub mod id_map;
pub mod init;
pub mod keyring;
pub mod keys;
pub mod layout;
pub mod log;
pub mod lost_descriptor;
pub mod notes;
pub mod open;
pub mod packs;
pub mod past;
pub mod probe;
pub mod reader;
pub mod retire;
pub mod snapshots;
pub mod state;
pub mod status;
pub mod trailers;
pub mod unlock;
pub mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::OnceCell;

use crate::chunk::split::ChunkerSpec;
use crate::clock::Env;
use crate::format::Hash;
use crate::format::descriptor::Descriptor;
use crate::format::record::Head as RecordHead;
use crate::replica::patience::while_it_answers;
use crate::replica::{Mask, ReplicaSet};
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::heads::Head;
use crate::repository::keyring::Keyring;
use crate::repository::log::Log;

/// An opened repository: unlocked, every reachable log read to its end.
pub struct Repository {
    /// Where time, chance and work come from.
    pub env: Env,
    /// Its replicas.
    pub set: ReplicaSet,
    /// Its keys.
    pub keyring: Arc<Keyring>,
    /// How content is cut.
    pub chunker: ChunkerSpec,
    /// Drawn when it was opened; stands in every record that is written.
    pub run_id: Hash,
    descriptor: Descriptor,
    logs: Vec<Option<tokio::sync::Mutex<Log>>>,
    faults: Mutex<BTreeMap<usize, (Fault, String)>>,
    heads: Mutex<BTreeMap<Hash, Head>>,
    /// The store where each replica lies, by its id.
    lies_at: BTreeMap<Hash, String>,
    /// Stores that hold what this machine last saw at another configured store, told.
    pub exchanged: Vec<String>,
    state_dir: Option<PathBuf>,
    index: Arc<RwLock<ChunkIndex>>,
    index_loaded: OnceCell<()>,
    /// The segments that are in the index.
    segments: Mutex<BTreeMap<Hash, footing::Loaded>>,
    gaps: std::sync::atomic::AtomicBool,
    met: Mutex<Vec<Met>>,
    frames: reader::FrameCache,
    only: OnceLock<usize>,
    unanswered: Mutex<BTreeMap<usize, u32>>,
    busy: frames::Busy,
    /// Replicas whose stores were not seen to refuse to overwrite.
    unproven: Mutex<Mask>,
}

/// Something a read met at a replica.
#[derive(Clone, Debug)]
pub struct Met {
    /// The replica's index.
    pub replica: usize,
    /// The pack, when it was one and it is damaged or gone there.
    pub pack: Option<Hash>,
    /// The story.
    pub what: String,
}

/// What an opened repository is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading: replicas that refuse writes are no concern.
    Read,
    /// Writing: each store is probed for create-if-absent.
    Write,
}

impl Repository {
    /// Its id.
    pub fn id(&self) -> Hash {
        self.keyring.repository_id
    }

    /// What the repository says about itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The replicas whose logs were read and may be relied on for reading.
    pub fn readable(&self) -> Mask {
        let all = Mask(self.logs.iter().enumerate().filter(|(_, l)| l.is_some()).fold(0, |m, (i, _)| m | 1 << i));
        self.only.get().map_or(all, |i| all.and(Mask::one(*i)))
    }

    /// From now on, nothing is read from any replica but the named one. Once for all; an unknown name is the
    /// operator's mistake, a replica whose log could not be read fails as it did.
    pub fn read_only_from(&self, name: &str) -> Result<(), RepositoryError> {
        if let Some((_, _, e)) = self.set.closed.iter().find(|(closed, _, _)| closed == name) {
            let why = format!("store {name} cannot be opened: {}", e.story());
            return Err(RepositoryError::new(RepositoryError::from_kind(e.kind), why));
        }
        let Some(replica) = self.set.replicas.iter().find(|r| r.name == name) else {
            return Err(RepositoryError::new(Fault::Usage, format!("there is no store {name:?}")));
        };
        if self.logs.get(replica.index).is_none_or(Option::is_none) {
            let (fault, why) = self.fault(replica.index).unwrap_or((Fault::Failed, format!("store {name} cannot be read")));
            return Err(RepositoryError::new(fault, why));
        }
        if *self.only.get_or_init(|| replica.index) == replica.index {
            return Ok(());
        }
        Err(RepositoryError::new(Fault::Usage, "the repository is being read from another store alone"))
    }

    /// The replicas that may be written to: their log was read, is whole, agrees with what was seen of it before, and their
    /// store creates without overwriting.
    pub fn writable(&self) -> Mask {
        let faults = self.faults.lock().expect("no panic while faults are locked");
        Mask(faults.keys().fold(self.readable().0, |m, i| m & !(1 << i)))
    }

    /// Why a replica is not writable.
    pub fn fault(&self, index: usize) -> Option<(Fault, String)> {
        self.faults.lock().expect("no panic while faults are locked").get(&index).cloned()
    }

    /// Takes a replica out of writing for the rest of this process.
    pub fn set_fault(&self, index: usize, fault: Fault, why: String) {
        self.faults.lock().expect("no panic while faults are locked").entry(index).or_insert((fault, why));
    }

    /// Before a record is written through a repository that was opened to read: sees that the store does not overwrite. A
    /// record put over another's would fork the log.
    async fn prove_refusal(&self, index: usize) -> Result<(), RepositoryError> {
        if !self.unproven.lock().expect("no panic while proofs are noted").has(index) {
            return Ok(());
        }
        let (replica, name) = (&self.set.replicas[index], layout::descriptor());
        let own = replica.store.get(&name, None).await?;
        if !open::refuses(replica, &name, &own).await? {
            let (fault, why) = open::careless(replica, &name);
            self.set_fault(index, fault, why.clone());
            return Err(RepositoryError::new(fault, why));
        }
        let mut unproven = self.unproven.lock().expect("no panic while proofs are noted");
        *unproven = unproven.without(Mask::one(index));
        Ok(())
    }

    /// The log of a readable replica.
    pub async fn log(&self, index: usize) -> Option<tokio::sync::MutexGuard<'_, Log>> {
        match self.logs.get(index)? {
            Some(log) => Some(log.lock().await),
            None => None,
        }
    }

    /// What reads met so far, taken out.
    pub fn take_met(&self) -> Vec<Met> {
        std::mem::take(&mut *self.met.lock().expect("no panic while notes are locked"))
    }

    /// Reads what was appended to the readable logs since, as far as they answer, and tells the index what is void now.
    pub async fn catch_up(&self) {
        let refresh = async |index: usize| {
            let Some(mut log) = self.log(index).await else { return };
            let (replica, patience) = (&self.set.replicas[index], self.set.settings.stall);
            // A log that does not answer now is judged where it is written to.
            let _ = while_it_answers(&self.env, replica, patience, "reading its log", log.refresh()).await;
            self.mark(index, &log.state);
        };
        join_all(self.readable().indices().map(refresh)).await;
    }

    /// Notes what a read met. From now on nothing in this process relies on a pack that is damaged.
    fn meet(&self, met: Met) {
        if let Some(pack) = &met.pack {
            self.index.write().expect("no panic while the index is locked").distrust(met.replica, pack, true);
        }
        let mut all = self.met.lock().expect("no panic while notes are locked");
        if all.len() < 10_000 {
            all.push(met);
        }
    }

    /// The heads of all logs as last seen, for records.
    fn record_heads(&self) -> Vec<RecordHead> {
        let heads = self.heads.lock().expect("no panic while heads are locked");
        heads
            .iter()
            .filter(|(_, head)| head.slot > 0)
            .map(|(id, head)| RecordHead {
                replica_id: Bytes::copy_from_slice(id),
                epoch: head.epoch,
                slot: head.slot,
                hash: Bytes::copy_from_slice(&head.hash),
            })
            .collect()
    }

    /// Notes where a log stands, here and on this machine.
    fn remember(&self, log: &Log) {
        if let Some(id) = log.state.replica_id {
            let mut heads = self.heads.lock().expect("no panic while heads are locked");
            heads.insert(id, log.state.head());
        }
    }

    /// Writes the heads seen to this machine's memory. Failing to is worth a note, no more.
    pub fn save_heads(&self) -> Result<(), String> {
        let Some(dir) = &self.state_dir else { return Ok(()) };
        let heads = self.heads.lock().expect("no panic while heads are locked").clone();
        heads::save(dir, &self.id(), &heads, &self.lies_at)
            .map_err(|e| format!("could not remember the logs' heads in {}: {e}", dir.display()))
    }
}
