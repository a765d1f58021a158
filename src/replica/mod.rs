//! The same repository at several stores.
//!
//! What is here: [`Replica`] (one store with its place in the set), [`ReplicaSet`] (all of them, quorum, order of
//! reading), the fan-out of uploads (`write`) and reads that fall over (`read`). What comes in: object names and bytes.
//! What goes out: receipts, bytes that the caller's test accepted, and who was left behind and why. What never happens
//! here: keys, formats, logs: a replica set is not a store, and it does not know what it carries.

pub mod patience;
pub mod read;
pub mod write;

use std::sync::Arc;
use std::time::Duration;

use crate::store::error::StoreError;
use crate::store::meter::Meter;
use crate::store::{OpenStore, Store};

/// How many replicas one repository can have.
pub const REPLICAS_MAX: usize = 32;

/// A set of replicas, one bit each, by their index in the [`ReplicaSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mask(pub u32);

impl Mask {
    /// Just replica `index`.
    pub fn one(index: usize) -> Mask {
        Mask(1 << index)
    }
    /// Whether replica `index` is in it.
    pub fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }
    /// Whether all of `other` is in it.
    pub fn covers(self, other: Mask) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Those in both.
    pub fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }
    /// Those in either.
    pub fn or(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }
    /// Those in this one and not in the other.
    pub fn without(self, other: Mask) -> Mask {
        Mask(self.0 & !other.0)
    }
    /// How many.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Their indices, ascending.
    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..REPLICAS_MAX).filter(move |i| self.has(*i))
    }
}

/// A configured store, opened or not.
pub struct Member {
    /// Its configured name.
    pub name: String,
    /// Where it lies, for people.
    pub url: String,
    /// The opened store, or why it could not be opened.
    pub store: Result<OpenStore, StoreError>,
}

/// One replica: a store that was opened, with its place in the set.
#[derive(Clone)]
pub struct Replica {
    /// Its index in the set, the bit in a [`Mask`].
    pub index: usize,
    /// Its configured name.
    pub name: String,
    /// Where it lies, for people.
    pub url: String,
    /// The store.
    pub store: Arc<dyn Store>,
    /// What was asked of it so far.
    pub meter: Meter,
}

/// How a set of replicas behaves.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    /// Replicas that must commit; none: all but one, at least 1.
    pub write_quorum: Option<usize>,
    /// A replica with work and without a finished request for this long is left behind.
    pub stall: Duration,
    /// A replica that accepts fewer bytes per second than this, measured over `stall`, is left behind; none: never.
    pub min_rate: Option<u64>,
    /// A replica that lacks more bytes than this is not brought up to date by a backup.
    pub behind_limit: u64,
    /// Names of the replicas to read from first, in order.
    pub prefer: Vec<String>,
}

impl Default for ReplicaSettings {
    fn default() -> ReplicaSettings {
        ReplicaSettings {
            write_quorum: None,
            stall: Duration::from_secs(60),
            min_rate: None,
            behind_limit: 1 << 30,
            prefer: Vec::new(),
        }
    }
}

/// All configured replicas of one repository.
pub struct ReplicaSet {
    /// Those whose store could be opened, in the order of the configuration.
    pub replicas: Vec<Replica>,
    /// Those whose store could not be opened: name, url, why.
    pub closed: Vec<(String, String, StoreError)>,
    /// How the set behaves.
    pub settings: ReplicaSettings,
}

impl ReplicaSet {
    /// From configured stores, at most [`REPLICAS_MAX`] (the caller refuses more).
    pub fn new(members: Vec<Member>, settings: ReplicaSettings) -> ReplicaSet {
        let (mut replicas, mut closed) = (Vec::new(), Vec::new());
        for member in members.into_iter().take(REPLICAS_MAX) {
            match member.store {
                Ok(open) => replicas.push(Replica {
                    index: replicas.len(),
                    name: member.name,
                    url: member.url,
                    store: open.store,
                    meter: open.meter,
                }),
                Err(e) => closed.push((member.name, member.url, e)),
            }
        }
        ReplicaSet { replicas, closed, settings }
    }

    /// How many replicas must commit.
    pub fn write_quorum(&self) -> usize {
        let all = self.replicas.len() + self.closed.len();
        self.settings.write_quorum.unwrap_or(all.saturating_sub(1)).clamp(1, all.max(1))
    }

    /// The replicas of `mask` in the order in which they should be asked.
    pub fn reading_order(&self, mask: Mask) -> Vec<&Replica> {
        let mut order: Vec<&Replica> = self.replicas.iter().filter(|r| mask.has(r.index)).collect();
        order.sort_by_key(|r| self.rank(r));
        order
    }

    /// A replica's place among the preferred ones; those that are not have one and the same, behind them.
    pub fn rank(&self, replica: &Replica) -> usize {
        self.settings.prefer.iter().position(|p| *p == replica.name).unwrap_or(usize::MAX)
    }

    /// Every replica that could be opened.
    pub fn all(&self) -> Mask {
        Mask(self.replicas.iter().fold(0, |m, r| m | 1 << r.index))
    }
}
