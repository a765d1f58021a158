//! One bucket at one provider.
//!
//! What is here: the trait [`Store`], its contract, the providers, and the wrappers that every store is opened in.
//! What comes in: object names and whole bytes. What goes out: whole bytes, sizes, listings, classed errors.
//! What never happens here: a word of the domain (packs, snapshots, keys), an overwrite, a retry outside `retry`.

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::clock::Time;
use crate::store::error::StoreError;
use crate::store::name::ObjectName;

pub mod directory;
pub mod error;
pub mod limit;
pub mod memory;
pub mod meter;
pub mod name;
pub mod retry;

/// Largest object that is ever put, in bytes: one request, no multipart.
pub const OBJECT_MAX: usize = 64 << 20;

/// An object as a listing or a stat shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The object's name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// When the store says it was written, by the store's clock.
    pub modified: Time,
}

/// One bucket (or directory) at one provider. No default methods: a wrapper must say what it does with each.
///
/// The contract, proved by `tests/suite/store_contract.rs` for every store and wrapper:
/// 1. `put` creates: it never overwrites. On an existing name it fails with `AlreadyExists`, whatever the bytes.
///    Of any number of concurrent puts on one name at most one succeeds. All or nothing to every reader.
/// 2. After `put` returned, `get`, `stat` and `list` see the object, and it survives a crash of the machine.
/// 3. `get` with a range returns exactly the range or an error, never less. `start == end` and ranges past the end are `Invalid`.
/// 4. `stat` says `None` for an absent object.
/// 5. `list(prefix)` yields objects whose names start with `prefix` (a plain string match), in lexicographic order, complete for
///    objects finished before it began.
/// 6. `delete` takes a batch; a missing name counts as deleted; the answer names those that failed.
/// 7. A dropped future, a timeout or `Unavailable` means *unknown*: names belong to one writer, so the caller can read and see.
pub trait Store: Send + Sync {
    /// The store's configured name, for messages.
    fn label(&self) -> &str;
    /// Creates `name` with `bytes`, if absent.
    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;
    /// The object's bytes, or the given range of them.
    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>>;
    /// Size and time of the object, `None` if it is absent.
    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>>;
    /// The objects whose names start with `prefix`.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>>;
    /// Removes objects. Returns those that could not be removed, each with its error.
    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>>;
}
