//! One bucket at one provider.
//!
//! What is here: the trait [`Store`], its contract, the providers, and the wrappers that every store is opened in.
//! What comes in: object names and whole bytes. What goes out: whole bytes, sizes, listings, classed errors.
//! What never happens here: a word of the domain (packs, snapshots, keys), an overwrite, a retry outside `retry`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::clock::{Env, Time};
use crate::store::azure::AzureStore;
use crate::store::directory::DirectoryStore;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::gcs::GcsStore;
use crate::store::inspect::Inspect;
use crate::store::limit::{LimitSettings, Limited};
use crate::store::meter::{Meter, Metered};
use crate::store::name::ObjectName;
use crate::store::retry::{RetrySettings, Retrying};
use crate::store::s3::S3Store;
use crate::store::settings::StoreSettings;
use crate::store::url::{Place, StoreUrl};

pub mod azure;
pub mod buffers;
pub mod credentials;
pub mod directory;
pub mod error;
pub mod fault;
pub mod gcs;
pub mod inspect;
pub mod limit;
pub mod memory;
mod metadata_server;
pub mod meter;
pub mod name;
mod pages;
pub mod retry;
pub mod s3;
pub mod settings;
pub mod url;

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
/// 7. No object's name is a folder of another's (`a` and `a/b`): where a provider cannot hold both it says `Invalid`.
/// 8. A dropped future, a timeout or `Unavailable` means *unknown*: names belong to one writer, so the caller can read and see.
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

/// Refuses an object that is too large for one request, before a byte of it is sent.
pub(crate) fn admit(label: &str, name: &ObjectName, size: usize) -> Result<(), StoreError> {
    if size <= OBJECT_MAX {
        return Ok(());
    }
    let cause = format!("{size} bytes, and an object has at most {OBJECT_MAX}");
    Err(StoreError::new(StoreErrorKind::Invalid, label, format!("put {name}")).because(cause))
}

/// The part of an object of `size` bytes that a `get` asks for: start and length in bytes.
/// `Invalid` when the range is empty, reversed, past the end or longer than any object.
pub(crate) fn within(label: &str, name: &ObjectName, range: Option<&Range<u64>>, size: u64) -> Result<(u64, usize), StoreError> {
    let refuse = |kind, cause: String| Err(StoreError::new(kind, label, format!("get {name}")).because(cause));
    let (start, end) = match range {
        Some(r) if r.start >= r.end || r.end > size => {
            let cause = format!("bytes {} to {} of an object of {size}", r.start, r.end);
            return refuse(StoreErrorKind::Invalid, cause);
        }
        Some(r) => (r.start, r.end),
        None => (0, size),
    };
    match usize::try_from(end - start) {
        Ok(length) if length <= OBJECT_MAX => Ok((start, length)),
        // Nobody puts such an object: it is foreign or damaged, and memory is not spent on it.
        _ => refuse(StoreErrorKind::Corrupt, format!("{size} bytes, and an object has at most {OBJECT_MAX}")),
    }
}

/// A store in all its wrappers, and its figures.
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Counts what is asked of it.
    pub meter: Meter,
}

/// Opens the store at `url` under the name `label`; with `create`, makes its directory where it is missing (buckets are
/// never made: they belong to whoever provisions them).
pub async fn open(
    env: &Env,
    label: &str,
    url: &StoreUrl,
    settings: &StoreSettings,
    create: bool,
) -> Result<OpenStore, StoreError> {
    let (provider, _) = provider(env, label, url, settings, create).await?;
    Ok(wrap(env, provider, settings))
}

/// A store that is open, and what its provider can tell about it.
pub struct Inspected {
    /// The store in all its wrappers.
    pub open: OpenStore,
    /// Asks with the same patience.
    pub asking: Retrying,
    /// Who can tell.
    pub inspect: Arc<dyn Inspect>,
}

/// Opens the store at `url`, as [`open`] does without making anything, to look at it itself rather than at what it holds.
pub async fn open_to_inspect(env: &Env, label: &str, url: &StoreUrl, settings: &StoreSettings) -> Result<Inspected, StoreError> {
    let (provider, inspect) = provider(env, label, url, settings, false).await?;
    let asking = Retrying::new(env, provider.clone(), retries(settings));
    Ok(Inspected { open: wrap(env, provider, settings), asking, inspect })
}

/// The provider's own store, without any wrapper, in both its roles.
async fn provider(
    env: &Env,
    label: &str,
    url: &StoreUrl,
    settings: &StoreSettings,
    create: bool,
) -> Result<(Arc<dyn Store>, Arc<dyn Inspect>), StoreError> {
    fn both<S: Store + Inspect + 'static>(store: S) -> (Arc<dyn Store>, Arc<dyn Inspect>) {
        let store = Arc::new(store);
        (store.clone(), store)
    }
    Ok(match url.place() {
        Place::Directory(path) => {
            let (opening, label, path) = (env.clone(), label.to_owned(), path.clone());
            both(env.blocking(move || DirectoryStore::open(&opening, &label, path, create)).await?)
        }
        Place::S3(bucket) => both(S3Store::open(env, label, bucket, settings).await?),
        Place::Gcs(bucket) => both(GcsStore::open(env, label, bucket, settings).await?),
        Place::Azure { account, container } => both(AzureStore::open(env, label, account, container, settings).await?),
    })
}

fn retries(settings: &StoreSettings) -> RetrySettings {
    RetrySettings { attempts: settings.retries.saturating_add(1), attempt_timeout: settings.timeout, ..RetrySettings::default() }
}

/// Puts a provider's store into its wrappers: meter around limit around retry around the provider.
///
/// Retry is innermost, so that the time one attempt may take never counts waiting for a turn, and a request that
/// waits before its next attempt keeps its turn: a store in trouble gets fewer requests, not more. Limit would see
/// only the throttling that outlasts all attempts: retry tells it of each. The meter is outermost and counts what
/// was asked for once, however often it was sent.
pub fn wrap(env: &Env, provider: Arc<dyn Store>, settings: &StoreSettings) -> OpenStore {
    let limits = LimitSettings {
        connections: settings.connections,
        upload: settings.upload_limit,
        download: settings.download_limit,
        requests: settings.request_limit,
    };
    let pressure = limits.pressure();
    let meter = Meter::new();
    let retrying = Retrying::new(env, provider, retries(settings)).reporting_to(pressure.clone()).counting(meter.clone());
    let limited = Limited::new(env, Arc::new(retrying), &limits, pressure);
    OpenStore { store: Arc::new(Metered::new(env, Arc::new(limited), meter.clone())), meter }
}
