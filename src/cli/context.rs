//! What every command starts from: settings, secret, stores, the repository, and the wish to stop.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, join_all, select};

use crate::backup::BackupError;
use crate::cli::exit::Signal;
use crate::cli::output::{Output, chain, shell_word};
use crate::cli::prompt;
use crate::clock::Env;
use crate::config::resolve::resolve;
use crate::config::{ConfigError, Environment, Overrides, Settings, StoreChoice};
use crate::lifecycle::heal::HealError;
use crate::lifecycle::prune::PruneError;
use crate::progress::Stop;
use crate::replica::Member;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::Unlock;
use crate::repository::open::OpenSettings;
use crate::repository::{Access, Repository};
use crate::restore::RestoreError;
use crate::store;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::meter::Meter;
use crate::verify::VerifyError;

/// How long a command that was asked to stop may take to come to its end: it finishes what it has in hand, and a store that
/// answers late or never must not keep it.
const GRACE: Duration = Duration::from_secs(20);

/// Why a command could not do what it was asked, ready to be said.
#[derive(Debug)]
pub struct Failure {
    /// Its class.
    pub fault: Fault,
    /// The whole story.
    pub message: String,
}

impl Failure {
    /// A failure of class `fault`.
    pub fn new(fault: Fault, message: impl Into<String>) -> Failure {
        Failure { fault, message: message.into() }
    }
    /// What was asked for cannot be.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Fault::Usage, message)
    }
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Failure {
        Failure::usage(chain(&e))
    }
}

impl From<RepositoryError> for Failure {
    fn from(e: RepositoryError) -> Failure {
        Failure::new(e.fault, chain(&e))
    }
}

impl From<BackupError> for Failure {
    fn from(e: BackupError) -> Failure {
        let fault = match &e {
            BackupError::Repository(e) => e.fault,
            BackupError::Settings(_) => Fault::Usage,
            BackupError::NoSource(_) | BackupError::Stream(_) => Fault::Failed,
            BackupError::BelowQuorum { fault, .. } => *fault,
            BackupError::Interrupted | BackupError::GivenUp(_) => Fault::Interrupted,
        };
        Failure::new(fault, chain(&e))
    }
}

impl From<RestoreError> for Failure {
    fn from(e: RestoreError) -> Failure {
        let fault = match &e {
            RestoreError::Repository(e) => e.fault,
            RestoreError::Settings(_) => Fault::Usage,
            RestoreError::Target(_) => Fault::Failed,
            RestoreError::Interrupted => Fault::Interrupted,
        };
        Failure::new(fault, chain(&e))
    }
}

impl From<HealError> for Failure {
    fn from(e: HealError) -> Failure {
        let fault = match &e {
            HealError::Repository(e) => e.fault,
            HealError::Settings(_) => Fault::Usage,
            HealError::Interrupted => Fault::Interrupted,
        };
        Failure::new(fault, chain(&e))
    }
}

impl From<PruneError> for Failure {
    fn from(e: PruneError) -> Failure {
        Failure::new(e.fault(), chain(&e))
    }
}

impl From<VerifyError> for Failure {
    fn from(e: VerifyError) -> Failure {
        let fault = match &e {
            VerifyError::Repository(e) => e.fault,
            VerifyError::Settings(_) => Fault::Usage,
            VerifyError::Interrupted => Fault::Interrupted,
        };
        Failure::new(fault, chain(&e))
    }
}

/// What every command starts from.
pub struct Context {
    /// Time, chance and work.
    pub env: Env,
    /// Where to say things.
    pub output: Arc<Output>,
    /// Set by the first signal.
    pub stop: Stop,
    /// The signal that set it.
    pub signal: Arc<Mutex<Option<Signal>>>,
    /// What the command line sets.
    pub overrides: Overrides,
    /// The process's environment.
    pub environment: Environment,
    /// The folder the command was started in, absolute.
    pub current: PathBuf,
    /// How this program was called.
    pub program: OsString,
    /// The meters of all stores that were opened, by name.
    pub meters: Meters,
}

/// The meters of all stores that a command opened, by name; one store may be opened several times.
pub type Meters = Arc<Mutex<Vec<(String, Meter)>>>;

impl Context {
    /// The settings of this run.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let settings = resolve(&self.overrides, &self.environment, &self.current)?;
        if let Some(format) = settings.log {
            self.output.log_as(format);
        }
        Ok(settings)
    }

    /// Reads the secret that opens the repository, or asks for it where none is configured and there is somebody to ask;
    /// twice with `fresh`, because a repository may be made with it.
    pub async fn unlock(&self, settings: &Settings, fresh: bool) -> Result<Unlock, Failure> {
        let Some(source) = settings.secret.clone() else {
            if prompt::can_ask() {
                let _terminal = prompt::Terminal::noted();
                let asked = self.interruptible(self.env.blocking(move || prompt::passphrase(fresh))).await?;
                return Ok(Unlock::Passphrase(asked?));
            }
            return Err(Failure::usage(
                "no secret is configured: set password_file, password_command or key_file in [repository], \
                 or HOLDFAST_PASSWORD, HOLDFAST_PASSWORD_FILE, HOLDFAST_PASSWORD_COMMAND or HOLDFAST_KEY_FILE (at a terminal it is asked for)",
            ));
        };
        let loaded = self.interruptible(self.env.blocking(move || source.load())).await??;
        if let Some(warning) = loaded.warning {
            self.output.warn(&warning);
        }
        Ok(loaded.unlock)
    }

    /// Opens every configured store, each by itself: one that does not answer costs its own place only. With `create`
    /// the folders of local stores are made; without it a missing one is an error, since it may be a disk that is not mounted.
    pub async fn members(&self, settings: &Settings, create: bool) -> Vec<Member> {
        let patience = settings.replicas.stall;
        join_all(settings.stores.iter().map(|choice| async move {
            let (env, StoreChoice { name, url, settings }) = (self.env.clone(), choice.clone());
            let open = async move { store::open(&env, &name, &url, &settings, create).await };
            let store = self.env.timeout(patience, open).await.unwrap_or_else(|| {
                let action = format!("opening {}", choice.url);
                Err(StoreError::new(StoreErrorKind::TimedOut, &choice.name, action))
            });
            if let (Ok(store), Ok(mut meters)) = (&store, self.meters.lock()) {
                meters.push((choice.name.clone(), store.meter.clone()));
            }
            Member { name: choice.name.clone(), url: choice.url.to_string(), store }
        }))
        .await
    }

    /// Opens the repository at the configured stores.
    pub async fn open(&self, settings: &Settings, unlock: &Unlock, access: Access) -> Result<Repository, Failure> {
        let members = self.interruptible(self.members(settings, false)).await?;
        let how = OpenSettings {
            replicas: settings.replicas.clone(),
            state_dir: settings.state_dir.clone(),
            index_memory: settings.index_memory,
            level: settings.compression,
            lowered_kdf: false,
        };
        let opened = self.interruptible(Repository::open(&self.env, members, how, unlock, access)).await?;
        if let Ok(repository) = &opened {
            repository.exchanged.iter().for_each(|why| self.output.warn(why));
        }
        opened.map_err(|e| {
            let advice = match e.fault {
                Fault::NoRepository => " (`holdfast init` makes one, `holdfast backup --init` too)",
                _ => "",
            };
            let failure = Failure::from(e);
            Failure { message: failure.message + advice, ..failure }
        })
    }

    /// Settings, secret and repository in one, for commands that only read.
    pub async fn open_to_read(&self) -> Result<(Settings, Repository), Failure> {
        let settings = self.settings()?;
        let unlock = self.unlock(&settings, false).await?;
        let repository = self.open(&settings, &unlock, Access::Read).await?;
        Ok((settings, repository))
    }

    /// Names the replicas that could not be read, or not to the end of their logs: what is listed or restored may be older
    /// than what they hold.
    pub fn warn_of_absent(&self, repository: &Repository) {
        let faults = repository.set.replicas.iter().filter_map(|r| repository.fault(r.index)).map(|(_, why)| why);
        let closed = repository.set.closed.iter().map(|(_, _, e)| chain(e));
        faults.chain(closed).for_each(|why| self.output.warn(&why));
    }

    /// Awaits `work`, but no longer than until the operator wants to stop. For work that may be dropped at any point.
    pub async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        // `select` polls its first side first: finished work wins over a wish that came as late.
        match select(pin!(work), pin!(self.stop.wait())).await {
            Either::Left((out, _)) => Ok(out),
            Either::Right(_) => Err(Failure::new(Fault::Interrupted, "interrupted")),
        }
    }

    /// Awaits `work`, which ends by itself soon after the operator wants to stop; where it does not, it is given up where it
    /// stands, which harms no store: as a crash does not.
    pub async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match select(pin!(work), pin!(self.stop.over(&self.env, GRACE))).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(Failure::new(
                Fault::Interrupted,
                format!(
                    "interrupted, and given up {} s later, since a store did not answer in time: what was written stays, \
                     whether the last of it was is not known, and the same command goes on from there",
                    GRACE.as_secs()
                ),
            )),
        }
    }

    /// Awaits `work`, but no longer than `time` once the operator wants to stop.
    pub async fn hurried<T>(&self, time: Duration, work: impl Future<Output = T>) -> Option<T> {
        let late = async {
            self.stop.wait().await;
            self.env.sleep(time).await;
        };
        match select(pin!(work), pin!(late)).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    /// The signal that asked to stop, if one did.
    pub fn signal(&self) -> Option<Signal> {
        self.signal.lock().map_or(None, |signal| *signal)
    }

    /// `path` as seen from the folder the command was started in.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        crate::config::absolute(&self.current, path)
    }

    /// The command line that calls this program with `words` against the same stores, ready for a shell.
    pub fn command_line(&self, settings: &Settings, words: &[&str]) -> String {
        let program = self.program.to_string_lossy();
        let mut line = shell_word(if program.is_empty() { "holdfast" } else { &program });
        let mut add = |word: &str| {
            line.push(' ');
            line.push_str(&shell_word(word));
        };
        if let Some(file) = &settings.file {
            add("--config");
            add(&file.to_string_lossy());
        }
        for store in &self.overrides.stores {
            add("--store");
            add(store);
        }
        for (flag, source) in &self.overrides.secret.all {
            if let Some(path) = source.file() {
                add(flag);
                add(&path.to_string_lossy());
            }
            if let crate::config::secret::SecretSource::PasswordCommand(command) = source {
                add(flag);
                add(command);
            }
        }
        words.iter().for_each(|word| add(word));
        line
    }
}
