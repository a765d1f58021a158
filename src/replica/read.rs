//! Reads that fall over: the preferred replica first, the next on error, absence or damage.

use std::ops::Range;

use bytes::Bytes;

use crate::replica::{Mask, Replica, ReplicaSet};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;

/// What went wrong at one replica during a read.
#[derive(Debug)]
pub enum ReadFault {
    /// The store answered with an error.
    Store(StoreError),
    /// The bytes came, twice, and the caller's test refused them: the stored object is damaged.
    Damaged(String),
}

impl ReadFault {
    /// Whether the object itself is damaged or gone at that replica (as opposed to: not reachable now).
    pub fn is_damage(&self) -> bool {
        match self {
            ReadFault::Damaged(_) => true,
            ReadFault::Store(e) => e.kind == StoreErrorKind::NotFound || e.kind == StoreErrorKind::Invalid,
        }
    }
}

impl std::fmt::Display for ReadFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadFault::Store(e) => match &e.source {
                Some(source) => write!(f, "{e}: {source}"),
                None => write!(f, "{e}"),
            },
            ReadFault::Damaged(what) => f.write_str(what),
        }
    }
}

/// What a read met before it succeeded, or instead: replica index and fault.
pub type Met = Vec<(usize, ReadFault)>;

/// Reads an object from one replica. Bytes that `accept` refuses, or that do not have the sum that the provider keeps of them, are
/// asked for a second time (a damaged transfer is not a damaged object) before they count as damage.
pub async fn read_one<T>(
    replica: &Replica,
    name: &ObjectName,
    range: Option<Range<u64>>,
    mut accept: impl AsyncFnMut(Bytes) -> Result<T, String>,
) -> Result<T, ReadFault> {
    let mut refused = String::new();
    for _ in 0..2 {
        match replica.store.get(name, range.clone()).await {
            Ok(bytes) => match accept(bytes).await {
                Ok(value) => return Ok(value),
                Err(why) => refused = why,
            },
            Err(e) if e.kind == StoreErrorKind::Corrupt => refused = ReadFault::Store(e).to_string(),
            Err(e) => return Err(ReadFault::Store(e)),
        }
    }
    Err(ReadFault::Damaged(format!("store {}: {name} is damaged: {refused}", replica.name)))
}

/// Reads an object from the first replica of `mask` that has it as `accept` wants it; says what was met on the way.
pub async fn read_any<T>(
    set: &ReplicaSet,
    mask: Mask,
    name: &ObjectName,
    range: Option<Range<u64>>,
    mut accept: impl AsyncFnMut(Bytes) -> Result<T, String>,
) -> (Option<T>, Met) {
    let mut met = Vec::new();
    for replica in set.reading_order(mask) {
        match read_one(replica, name, range.clone(), &mut accept).await {
            Ok(value) => return (Some(value), met),
            Err(fault) => met.push((replica.index, fault)),
        }
    }
    (None, met)
}
