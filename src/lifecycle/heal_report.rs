//! What a heal says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::format::Hash;
use crate::repository::Repository;
use crate::repository::error::Fault;

/// How one replica came out.
#[derive(Clone, Debug, Default)]
pub struct ReplicaHealed {
    /// Its configured name.
    pub name: String,
    /// Snapshots that it lacked.
    pub lacked: u64,
    /// Snapshots committed in its log.
    pub snapshots: u64,
    /// Stored bytes of the frames that it lacked (as first planned).
    pub needed: u64,
    /// Packs copied as they are.
    pub packs_copied: u64,
    /// Packs made of frames.
    pub packs_made: u64,
    /// Bytes of both.
    pub bytes_sent: u64,
    /// Where they would be read: bytes by replica. A dry run says it; else what is read first depends on who answers.
    pub sources: BTreeMap<String, u64>,
    /// What a dry run does not know to lie anywhere sound: damaged packs may still have it. In bytes.
    pub in_doubt: u64,
    /// Key objects it got.
    pub keys: u64,
    /// Index segments and snapshots' objects that were damaged or missing there, and that others stand for now.
    pub replaced: u64,
    /// Why it still lacks something, if it does.
    pub behind: Option<String>,
    /// The class of that reason.
    pub fault: Option<Fault>,
}

/// What a heal did.
#[derive(Clone, Debug, Default)]
pub struct HealReport {
    /// Each configured replica.
    pub replicas: Vec<ReplicaHealed>,
    /// Snapshots that cannot be whole at a replica, since something that they need can be had nowhere: id, replica, why.
    pub lost: Vec<(Hash, String, String)>,
    /// Damage that was met on the way, and what else is worth saying.
    pub notes: Vec<String>,
    /// Whether nothing was written on purpose.
    pub dry_run: bool,
    /// Replicas that have to hold a snapshot.
    pub quorum: usize,
    /// How long it took.
    pub duration: Duration,
}

/// How many live snapshots each replica lacks, by index.
pub async fn lacking(repository: &Repository) -> BTreeMap<usize, u64> {
    let mut lacked = BTreeMap::new();
    for live in repository.live().await {
        for i in repository.set.all().without(live.mask).indices() {
            *lacked.entry(i).or_default() += 1;
        }
    }
    lacked
}
