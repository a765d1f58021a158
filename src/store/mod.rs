//! One bucket at one provider.
//!
//! What is here: the trait [`Store`], its contract, the providers, and the wrappers that every store is opened in.
//! What comes in: object names and whole bytes. What goes out: whole bytes, sizes, listings, classed errors.
//! What never happens here: a word of the domain (packs, snapshots, keys), an overwrite, a retry outside `retry`.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::clock::{Env, Time};
use crate::store::directory::DirectoryStore;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::limit::{LimitSettings, Limited};
use crate::store::meter::{Meter, Metered};
use crate::store::name::ObjectName;
use crate::store::retry::{RetrySettings, Retrying};

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

/// Where a store lies. Ordered by its canonical text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreUrl {
    text: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Directory(PathBuf),
}

/// A text that is no URL of a store.
#[derive(Debug, thiserror::Error)]
#[error("store url {text:?}: {reason}")]
pub struct StoreUrlError {
    text: String,
    reason: String,
}

impl StoreUrl {
    /// Reads `file:///absolute` and `file:relative`, the latter from `folder` on (the configuration file's, or the
    /// current one on the command line). `%20` and its like are decoded. Touches no file.
    pub fn parse(text: &str, folder: &Path) -> Result<StoreUrl, StoreUrlError> {
        let refuse = |reason: String| Err(StoreUrlError { text: text.chars().take(200).collect(), reason });
        let Some((scheme, rest)) = text.split_once(':') else {
            return refuse("has no scheme; a local directory is written file:///srv/backup or file:folder".into());
        };
        match scheme {
            "file" => {}
            "s3" | "gs" | "az" => return refuse(format!("{scheme} is not built into this version yet")),
            _ => return refuse(format!("unknown scheme {:?}", scheme.chars().take(20).collect::<String>())),
        }
        let path = match rest.strip_prefix("//") {
            Some(absolute) if absolute.starts_with('/') => absolute,
            Some(_) => return refuse("two slashes name a host; write file:///absolute or file:relative".into()),
            None => rest,
        };
        if path.contains(['?', '#']) {
            return refuse("a local directory takes no parameters; write ? as %3F and # as %23".into());
        }
        let Some(bytes) = decoded(path) else {
            return refuse("a % begins two hexadecimal digits; write % itself as %25".into());
        };
        if bytes.is_empty() || bytes.contains(&0) {
            return refuse("names no directory".into());
        }
        let path = PathBuf::from(OsString::from_vec(bytes));
        // Two spellings of one place must compare alike: `.`, doubled and closing slashes go.
        let path: PathBuf = folder.join(path).components().filter(|c| *c != Component::CurDir).collect();
        let text = format!("file://{}", encoded(path.as_os_str().as_bytes()));
        Ok(StoreUrl { text, place: Place::Directory(path) })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b => b,
        });
    }
    Some(out)
}

fn encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' | b'+' | b'@' | b':' => out.push(b.into()),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// How one store is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Most requests under way at once.
    pub connections: usize,
    /// Bytes per second sent, no limit if `None`.
    pub upload_limit: Option<u64>,
    /// Bytes per second received, no limit if `None`.
    pub download_limit: Option<u64>,
    /// How long one attempt may take, besides the time its bytes need on the slowest connection worth having.
    pub timeout: Duration,
    /// How many times a request is sent again after its first attempt.
    pub retries: u32,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings { connections: 8, upload_limit: None, download_limit: None, timeout: Duration::from_secs(60), retries: 5 }
    }
}

/// A store in all its wrappers, and its figures.
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Counts what is asked of it.
    pub meter: Meter,
}

/// Opens the store at `url` under the name `label`; with `create`, makes its directory where it is missing.
pub fn open(env: &Env, label: &str, url: &StoreUrl, settings: &StoreSettings, create: bool) -> Result<OpenStore, StoreError> {
    let provider: Arc<dyn Store> = match &url.place {
        Place::Directory(path) => Arc::new(DirectoryStore::open(env, label, path.clone(), create)?),
    };
    Ok(wrap(env, provider, settings))
}

/// Puts a provider's store into its wrappers: meter around limit around retry around the provider.
///
/// Retry is innermost, so that the time one attempt may take never counts waiting for a turn, and a request that
/// waits before its next attempt keeps its turn: a store in trouble gets fewer requests, not more. Limit would see
/// only the throttling that outlasts all attempts: retry tells it of each. The meter is outermost and counts what
/// was asked for once, however often it was sent.
pub fn wrap(env: &Env, provider: Arc<dyn Store>, settings: &StoreSettings) -> OpenStore {
    let limits =
        LimitSettings { connections: settings.connections, upload: settings.upload_limit, download: settings.download_limit };
    let retries = RetrySettings {
        attempts: settings.retries.saturating_add(1),
        attempt_timeout: settings.timeout,
        ..RetrySettings::default()
    };
    let pressure = limits.pressure();
    let retrying = Retrying::new(env, provider, retries).reporting_to(pressure.clone());
    let limited = Limited::new(env, Arc::new(retrying), &limits, pressure);
    let meter = Meter::new();
    OpenStore { store: Arc::new(Metered::new(env, Arc::new(limited), meter.clone())), meter }
}
