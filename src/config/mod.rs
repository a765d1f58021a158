//! From file, environment and flags to validated settings.
//!
//! What is here: the configuration file (`file`), amounts as people write them (`amount`), where secrets come from
//! (`secret`), what a store's section means (`store`), what belongs to a scheduled run (`run`), and `resolve`, which puts flag before environment before file before default. What comes in: text and
//! what the command line overrides. What goes out: [`Settings`] that need no further validation, or one error that names
//! the place. What never happens here: a store opened, a repository touched.

pub mod amount;
pub mod file;
pub mod resolve;
pub mod run;
pub mod secret;
pub mod store;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::backup::BackupSettings;
use crate::config::amount::Size;
use crate::config::run::{Hooks, LogFormat, MetricsSettings};
use crate::config::secret::{Named, SecretSource};
use crate::lifecycle::prune::PruneSettings;
use crate::lifecycle::prune_plan::Limits;
use crate::lifecycle::retention::group::GroupBy;
use crate::lifecycle::retention::policy::Policy;
use crate::metrics::post::Address;
use crate::replica::ReplicaSettings;
use crate::store::settings::StoreSettings;
use crate::store::url::StoreUrl;

/// Something the operator has to change before anything can start (exit 2).
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    message: String,
    #[source]
    source: Option<std::io::Error>,
}

impl ConfigError {
    /// An error without a deeper cause.
    pub fn new(message: impl Into<String>) -> ConfigError {
        ConfigError { message: message.into(), source: None }
    }
    /// An error with what the system said.
    pub fn caused(message: impl Into<String>, source: std::io::Error) -> ConfigError {
        ConfigError { message: message.into(), source: Some(source) }
    }
}

/// The variables of the environment, taken once, so that a test can own them.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Environment {
        Environment(std::env::vars_os().collect())
    }
    /// Those given.
    pub fn of(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        Environment(pairs.into_iter().collect())
    }
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(std::ffi::OsStr::new(name)).cloned()
    }
    /// The value of `name`, read as a `T`; set but unreadable is an error.
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let value = value.to_str().ok_or_else(|| ConfigError::new(format!("{name} is not UTF-8")))?;
        value.parse().map(Some).map_err(|e| ConfigError::new(format!("{name}: {e}")))
    }
    /// The value of `name` as an absolute folder; relative ones are ignored, as the XDG rules say.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|p| p.is_absolute())
    }
}

/// What the command line sets; all of it stands before environment and file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Stores as `NAME=URL`; any of them replaces the file's whole list.
    pub stores: Vec<String>,
    /// Replicas that must commit.
    pub write_quorum: Option<usize>,
    /// Bytes in flight.
    pub memory: Option<Size>,
    /// Folder that remembers the heads of the logs.
    pub state_dir: Option<PathBuf>,
    /// Where the secret is.
    pub secret: Named,
    /// How machines read what is told.
    pub log: Option<LogFormat>,
}

/// One store.
#[derive(Clone, Debug)]
pub struct StoreChoice {
    /// What messages and flags call it.
    pub name: String,
    /// Where it lies.
    pub url: StoreUrl,
    /// How it is treated.
    pub settings: StoreSettings,
}

/// Everything a command needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// The stores, at least one.
    pub stores: Vec<StoreChoice>,
    /// How they are treated together.
    pub replicas: ReplicaSettings,
    /// Bytes in flight.
    pub memory: u64,
    /// Bytes that the chunk index may take.
    pub index_memory: u64,
    /// zstd level of new frames; 0 stores.
    pub compression: i32,
    /// Folder that remembers the heads of the logs; none without a home.
    pub state_dir: Option<PathBuf>,
    /// Where the secret is, if it is anywhere.
    pub secret: Option<SecretSource>,
    /// What belongs to every backup.
    pub backup: BackupSettings,
    /// Which snapshots `forget` keeps when it is not told.
    pub retention: RetentionSettings,
    /// How careful `lifecycle` is.
    pub lifecycle: LifecycleSettings,
    /// What `prune` takes out when it is not told.
    pub prune: PruneDefaults,
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Commands around a whole `run`.
    pub hooks: Hooks,
    /// Where a `run` leaves its figures.
    pub metrics: MetricsSettings,
    /// Who is told that a `run` began and ended.
    pub ping: Option<Address>,
    /// How machines read what is told while a command goes on; none: they do not.
    pub log: Option<LogFormat>,
}

/// A thing to back up, with what belongs to it in a `run`.
#[derive(Clone, Debug)]
pub struct Job {
    /// [`Settings::backup`] with the job's own words on top, its name as the label.
    pub backup: BackupSettings,
    /// How often it is meant to run.
    pub every: Option<Duration>,
    /// Commands around it.
    pub hooks: Hooks,
    /// Who is told that it began and ended.
    pub ping: Option<Address>,
}

/// What `forget` does when it is not told.
#[derive(Clone, Debug)]
pub struct RetentionSettings {
    /// The rules.
    pub policy: Policy,
    /// What makes a group.
    pub group_by: GroupBy,
    /// How long a partial snapshot stays after a complete one came.
    pub partial_mercy: Duration,
}

impl Default for RetentionSettings {
    fn default() -> RetentionSettings {
        let partial_mercy = Duration::from_secs(14 * 86_400);
        RetentionSettings { policy: Policy::default(), group_by: GroupBy::default(), partial_mercy }
    }
}

/// How careful `lifecycle` is.
#[derive(Clone, Debug)]
pub struct LifecycleSettings {
    /// Younger snapshots are never forgotten.
    pub forget_floor: Duration,
    /// Percent of the snapshots that may go in one run, 1 to 100.
    pub forget_limit: u8,
    /// In how many days every pack is read once; 0: none is.
    pub verify_days: u32,
    /// Who is told that it began and ended, where it is called by itself.
    pub ping: Option<Address>,
}

impl Default for LifecycleSettings {
    fn default() -> LifecycleSettings {
        LifecycleSettings { forget_floor: Duration::from_secs(86_400), forget_limit: 50, verify_days: 30, ping: None }
    }
}

/// What `prune` does when it is not told.
#[derive(Clone, Copy, Debug)]
pub struct PruneDefaults {
    /// What of the waste may stay, and how much is moved at most.
    pub limits: Limits,
    /// How long what was written, or condemned, is spared, by the store's clock.
    pub mercy: Duration,
}

impl Default for PruneDefaults {
    fn default() -> PruneDefaults {
        let default = PruneSettings::default();
        PruneDefaults { limits: default.limits, mercy: default.mercy }
    }
}

/// Default for [`Settings::index_memory`] in bytes.
pub const INDEX_MEMORY: u64 = 1 << 30;
/// Least of [`Settings::memory`] in bytes: a few of the largest chunks and packs must fit.
pub const MEMORY_MIN: u64 = 32 << 20;

/// An absolute form of `path`, seen from `base` (itself absolute), without `.`, and without `..` where the system can say
/// what that means: through a symbolic link it is not the folder that was written before it.
pub fn absolute(base: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out = std::fs::canonicalize(&out).unwrap_or(out);
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
