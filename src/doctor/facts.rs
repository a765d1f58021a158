//! What is known before it is judged.

use std::collections::BTreeMap;

use crate::repository::error::Fault;
use crate::store::inspect::{Facts, Told};

/// Kind of provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Amazon S3, or a server that speaks its language.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A local directory.
    Directory,
}

/// What the identity in use is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes backups: reads, lists and creates, and removes nothing.
    Writer,
    /// Prunes: what a writer may, and removes.
    Pruner,
    /// Restores: reads and lists.
    Reader,
}

/// One store.
#[derive(Clone, Debug)]
pub struct StoreFacts {
    /// Its configured name.
    pub name: String,
    /// Where it lies, for people.
    pub url: String,
    /// Kind of provider.
    pub provider: Provider,
    /// Provider, server and bucket: two stores for which it is the same share one bucket.
    pub bucket: String,
    /// What all its names in the bucket begin with.
    pub prefix: String,
    /// Storage classes that the settings ask for, by the first segment of names.
    pub classes: BTreeMap<String, String>,
    /// What was seen there, or why nothing could be seen.
    pub seen: Result<Seen, (Fault, String)>,
}

/// What was seen at a store that answers.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the identity in use may do.
    pub rights: Rights,
    /// What the provider says.
    pub told: Facts,
}

/// What came of trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It works.
    Works,
    /// This identity may not.
    Refused(String),
    /// It does something else than it must.
    Wrong(String),
    /// It failed for another reason.
    Failed(String),
    /// It was not tried, and why.
    Untried(String),
}

/// What the identity in use may do, and whether the store does it right.
#[derive(Clone, Debug)]
pub struct Rights {
    /// Whether a descriptor lies there: no repository without.
    pub repository: bool,
    /// Reading, in whole and in part.
    pub read: Tried,
    /// Listing.
    pub list: Tried,
    /// Creating, tried on a name that is taken.
    pub create: Tried,
    /// Removing, tried on a name that no object has.
    pub remove: Tried,
}

/// What concerns all stores together.
#[derive(Clone, Debug)]
pub struct Together {
    /// Configured stores.
    pub stores: usize,
    /// How many of them must commit.
    pub quorum: usize,
    /// Where the secret is, and the permission bits of its file; `None`: not in a file.
    pub secret: Option<(String, u32)>,
    /// Whether rules of retention are configured.
    pub retention: bool,
    /// What the logs say; `Failed` with its class apart in [`Together::fault`].
    pub logs: Told<Logs>,
    /// The class of the failure to open the repository.
    pub fault: Option<Fault>,
    /// Days within which every replica should have been verified once.
    pub verify_days: u32,
}

/// What the logs of the replicas say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// How many days ago each replica was last verified; `None`: never.
    pub verified: Vec<(String, Option<u32>)>,
    /// Replicas at which snapshots are not whole, as far as damage is known, each with how many.
    pub damaged: Vec<(String, u64)>,
    /// Whether anything was ever forgotten, pruned or verified in rotation.
    pub lifecycle: bool,
    /// Snapshots.
    pub snapshots: u64,
}
