//! Flag before environment before file before default, and every value fit for use.

use std::path::{Path, PathBuf};

use crate::backup::BackupSettings;
use crate::config::amount::Size;
use crate::config::file::{
    self, BackupSection, ConfigFile, JobSection, LifecycleSection, Origin, PruneSection, RetentionSection,
};
use crate::config::run;
use crate::config::secret::{Named, SecretSource};
use crate::config::store::{self, distinct, store_flag};
use crate::config::{
    ConfigError, Environment, INDEX_MEMORY, Job, LifecycleSettings, MEMORY_MIN, Overrides, PruneDefaults, RetentionSettings,
    Settings, StoreChoice, absolute,
};
use crate::lifecycle::prune_plan::Limits;
use crate::lifecycle::retention::policy::{Policy, TagList};
use crate::lifecycle::retention::span::CalendarSpan;
use crate::replica::ReplicaSettings;
use crate::repository::keyring::LEVEL;

/// Finds and reads the configuration file: the flag, `HOLDFAST_CONFIG`, `./holdfast.toml`, the user's folder. The first that
/// is named must exist; the others may.
fn find(overrides: &Overrides, environment: &Environment, current: &Path) -> Result<Option<Origin>, ConfigError> {
    let read = |path: &Path| -> std::io::Result<Origin> {
        let mut text = String::new();
        let file = std::fs::File::open(current.join(path))?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, file::FILE_MAX + 1), &mut text)?;
        match text.len() as u64 > file::FILE_MAX {
            true => Err(std::io::Error::other(format!("larger than {} bytes", file::FILE_MAX))),
            false => Ok(Origin::new(path.to_owned(), text)),
        }
    };
    let failed = |path: &Path, e| ConfigError::caused(format!("reading the configuration file {}", path.display()), e);
    if let Some(path) = overrides.config.clone().or_else(|| environment.get("HOLDFAST_CONFIG").map(PathBuf::from)) {
        return read(&path).map(Some).map_err(|e| failed(&path, e));
    }
    let home = environment.folder("XDG_CONFIG_HOME").or_else(|| Some(environment.folder("HOME")?.join(".config")));
    for path in [Some(PathBuf::from("holdfast.toml")), home.map(|h| h.join("holdfast/holdfast.toml"))].into_iter().flatten() {
        match read(&path) {
            Ok(origin) => return Ok(Some(origin)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.kind() == std::io::ErrorKind::NotADirectory => {}
            Err(e) => return Err(failed(&path, e)),
        }
    }
    Ok(None)
}

/// Reads what there is to read and puts flag before environment before file before default. `current` is the folder the
/// command was started in; paths in the file start from the file's own folder.
pub fn resolve(overrides: &Overrides, environment: &Environment, current: &Path) -> Result<Settings, ConfigError> {
    let origin = find(overrides, environment, current)?;
    let file = origin.as_ref().map(file::parse).transpose()?.unwrap_or_default();
    let folder = match origin.as_ref().and_then(|o| o.path.parent()) {
        Some(parent) => absolute(current, parent),
        None => current.to_owned(),
    };
    let place = Place { origin: origin.as_ref(), folder: &folder };

    let stores = match overrides.stores.is_empty() {
        true => file.store.iter().map(|s| store::of_section(&place, s, environment)).collect::<Result<Vec<_>, _>>()?,
        false => overrides.stores.iter().map(|text| store_flag(text, current, environment)).collect::<Result<Vec<_>, _>>()?,
    };
    if stores.is_empty() {
        let looked = match &origin {
            Some(origin) => format!("{} has no [[store]]", origin.path.display()),
            None => "there is no configuration file (--config FILE, HOLDFAST_CONFIG, ./holdfast.toml)".to_owned(),
        };
        return Err(ConfigError::new(format!("no store is configured: {looked}, and --store NAME=URL was not given")));
    }
    distinct(&stores, |i, message| match overrides.stores.is_empty() {
        true => place.at(file.store[i].url.span(), message),
        false => ConfigError::new(format!("--store {}: {message}", overrides.stores[i])),
    })?;

    let section = &file.repository;
    let replicas = replica_settings(overrides, environment, &file, &place, &stores)?;
    let memory = match overrides.memory.map(Ok).or_else(|| environment.parsed("HOLDFAST_MEMORY").transpose()).transpose()? {
        Some(size) if size.0 < MEMORY_MIN => {
            return Err(ConfigError::new(format!("memory must be at least {} MiB", MEMORY_MIN >> 20)));
        }
        Some(size) => size.0,
        None => match &section.memory {
            Some(size) if size.get_ref().0 < MEMORY_MIN => {
                return Err(place.at(size.span(), format!("memory must be at least {} MiB", MEMORY_MIN >> 20)));
            }
            Some(size) => size.get_ref().0,
            None => BackupSettings::default().memory,
        },
    };
    let backup = backup_settings(&file.backup, memory, environment, &place)?;
    let jobs = file.job.iter().map(|j| place.job(j, &backup)).collect::<Result<Vec<_>, _>>()?;
    for (i, job) in file.job.iter().enumerate() {
        if file.job[..i].iter().any(|other| other.name.get_ref() == job.name.get_ref()) {
            return Err(place.at(job.name.span(), format!("there is another job {:?}", job.name.get_ref())));
        }
    }
    let state_home = environment.folder("XDG_STATE_HOME").or_else(|| Some(environment.folder("HOME")?.join(".local/state")));
    let state_dir = overrides.state_dir.clone().or_else(|| environment.get("HOLDFAST_STATE_DIR").map(PathBuf::from));
    let state_dir = match state_dir {
        Some(path) => Some(absolute(current, &path)),
        None => section.state_dir.as_ref().map(|p| absolute(&folder, p)).or_else(|| Some(state_home?.join("holdfast"))),
    };
    Ok(Settings {
        secret: secret_source(overrides, environment, &file, &place, current)?,
        file: origin.as_ref().map(|o| o.path.clone()),
        stores,
        replicas,
        memory,
        index_memory: section.index_memory.map_or(INDEX_MEMORY, |s| s.0),
        compression: match &file.backup.compression {
            Some(level) if !(0..=22).contains(level.get_ref()) => return Err(place.at(level.span(), "must be 0 to 22")),
            Some(level) => *level.get_ref(),
            None => LEVEL,
        },
        state_dir,
        backup,
        jobs,
        hooks: run::hooks(&file.hooks, &place)?,
        metrics: run::metrics(&file.metrics, &place)?,
        ping: run::ping(file.ping.url.as_ref(), &place)?,
        log: run::log(overrides, environment, &file.log, &place)?,
        retention: retention_settings(&file.retention, &place)?,
        lifecycle: lifecycle_settings(&file.lifecycle, &place)?,
        prune: prune_defaults(&file.prune),
    })
}

fn prune_defaults(section: &PruneSection) -> PruneDefaults {
    let default = PruneDefaults::default();
    PruneDefaults {
        limits: Limits {
            max_unused: section.max_unused.map_or(default.limits.max_unused, |unused| unused.0),
            max_repack: section.max_repack_size.map(|size| size.0),
        },
        mercy: section.mercy.map_or(default.mercy, |span| span.0),
    }
}

fn retention_settings(section: &RetentionSection, place: &Place<'_>) -> Result<RetentionSettings, ConfigError> {
    let default = RetentionSettings::default();
    let span = |text: &Option<toml::Spanned<String>>| match text {
        None => Ok(CalendarSpan::default()),
        Some(text) => text.get_ref().parse().map_err(|e| place.at(text.span(), e)),
    };
    let counts = [
        section.keep_last,
        section.keep_hourly,
        section.keep_daily,
        section.keep_weekly,
        section.keep_monthly,
        section.keep_yearly,
    ];
    Ok(RetentionSettings {
        policy: Policy {
            counts: counts.map(Option::unwrap_or_default),
            within: [
                span(&section.keep_within)?,
                span(&section.keep_within_hourly)?,
                span(&section.keep_within_daily)?,
                span(&section.keep_within_weekly)?,
                span(&section.keep_within_monthly)?,
                span(&section.keep_within_yearly)?,
            ],
            tags: section.keep_tag.iter().map(|text| TagList::parse(text)).collect(),
        },
        group_by: match &section.group_by {
            None => default.group_by,
            Some(text) => text.get_ref().parse().map_err(|e| place.at(text.span(), e))?,
        },
        partial_mercy: section.partial_mercy.map_or(default.partial_mercy, |s| s.0),
    })
}

fn lifecycle_settings(section: &LifecycleSection, place: &Place<'_>) -> Result<LifecycleSettings, ConfigError> {
    const DAY: u64 = 86_400;
    let default = LifecycleSettings::default();
    let verify_days = match &section.verify_within {
        None => default.verify_days,
        Some(span) => match span.get_ref().0.as_millis().checked_rem(u128::from(DAY) * 1_000) {
            Some(0) if span.get_ref().0.as_secs() <= DAY * 3_650 => (span.get_ref().0.as_secs() / DAY) as u32,
            _ => return Err(place.at(span.span(), "must be whole days, at most 3650 d; 0 d reads nothing")),
        },
    };
    Ok(LifecycleSettings {
        forget_floor: section.forget_floor.map_or(default.forget_floor, |s| s.0),
        forget_limit: section.forget_limit.map_or(default.forget_limit, |p| p.0),
        verify_days,
        ping: run::ping(section.ping.as_ref(), place)?,
    })
}

fn replica_settings(
    overrides: &Overrides,
    environment: &Environment,
    file: &ConfigFile,
    place: &Place<'_>,
    stores: &[StoreChoice],
) -> Result<ReplicaSettings, ConfigError> {
    let section = &file.repository;
    let too_many = |quorum: usize| {
        let have = stores.len();
        (quorum == 0 || quorum > have).then(|| format!("write_quorum is {quorum}, but must be 1 to {have}, the number of stores"))
    };
    let named = match overrides.write_quorum {
        Some(quorum) => Some(quorum),
        None => environment.parsed("HOLDFAST_WRITE_QUORUM")?,
    };
    let write_quorum = match (named, &section.write_quorum) {
        (Some(quorum), _) => {
            if let Some(message) = too_many(quorum) {
                return Err(ConfigError::new(message));
            }
            Some(quorum)
        }
        (None, Some(quorum)) => {
            if let Some(message) = too_many(*quorum.get_ref()) {
                return Err(place.at(quorum.span(), message));
            }
            Some(*quorum.get_ref())
        }
        (None, None) => None,
    };
    if let Some(prefer) = &section.prefer
        && let Some(unknown) = prefer.get_ref().iter().find(|name| !stores.iter().any(|s| s.name == **name))
    {
        return Err(place.at(prefer.span(), format!("there is no store {unknown:?}")));
    }
    let default = ReplicaSettings::default();
    Ok(ReplicaSettings {
        write_quorum,
        stall: section.stall.map_or(default.stall, |s| s.0),
        min_rate: section.min_rate.map(|s| s.0),
        behind_limit: section.behind_limit.map_or(default.behind_limit, |s| s.0),
        prefer: section.prefer.as_ref().map(|p| p.get_ref().clone()).unwrap_or_default(),
    })
}

fn secret_source(
    overrides: &Overrides,
    environment: &Environment,
    file: &ConfigFile,
    place: &Place<'_>,
    current: &Path,
) -> Result<Option<SecretSource>, ConfigError> {
    if let Some(source) = overrides.secret.clone().one()? {
        return Ok(Some(source));
    }
    if let Some(source) = Named::from_environment(environment, current).one()? {
        return Ok(Some(source));
    }
    let section = &file.repository;
    let mut all = Vec::new();
    if let Some(path) = &section.password_file {
        all.push((place.text(path.span(), "password_file"), SecretSource::password_file(place.folder, path.get_ref())));
    }
    if let Some(command) = &section.password_command {
        all.push((place.text(command.span(), "password_command"), SecretSource::PasswordCommand(command.get_ref().clone())));
    }
    if let Some(path) = &section.key_file {
        all.push((place.text(path.span(), "key_file"), SecretSource::key_file(place.folder, path.get_ref())));
    }
    Named { all }.one()
}

fn backup_settings(
    section: &BackupSection,
    memory: u64,
    environment: &Environment,
    place: &Place<'_>,
) -> Result<BackupSettings, ConfigError> {
    let default = BackupSettings::default();
    let pack = |value: &Option<toml::Spanned<Size>>, default: u32, least: u32, most: u32| match value {
        None => Ok(default),
        Some(size) => match u32::try_from(size.get_ref().0) {
            Ok(bytes) if (least..=most).contains(&bytes) => Ok(bytes),
            _ => Err(place.at(size.span(), format!("must be {least} to {most} bytes"))),
        },
    };
    let host = environment.get("HOLDFAST_HOST").map(|h| h.to_string_lossy().into_owned()).or_else(|| section.host.clone());
    Ok(BackupSettings {
        host: host.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned()),
        user: uzers::get_current_username().map(|u| u.to_string_lossy().into_owned()).unwrap_or_default(),
        memory,
        data_pack: pack(&section.data_pack, default.data_pack, 1 << 20, 60 << 20)?,
        meta_pack: pack(&section.meta_pack, default.meta_pack, 1 << 20, 60 << 20)?,
        group: pack(&section.group, default.group, 0, 1 << 20)?,
        read_concurrency: match &section.read_concurrency {
            Some(n) if !(1..=256).contains(n.get_ref()) => return Err(place.at(n.span(), "must be 1 to 256")),
            Some(n) => *n.get_ref(),
            None => default.read_concurrency,
        },
        publish_bytes: section.publish_bytes.map_or(default.publish_bytes, |s| s.0),
        publish_every: section.publish_every.map_or(default.publish_every, |s| s.0),
        partial_every: section.partial_every.map_or(default.partial_every, |s| s.0),
        drain: section.drain.map_or(default.drain, |s| s.0),
        ..default
    })
}

/// The file that settings come from, for messages and relative paths.
pub(super) struct Place<'a> {
    origin: Option<&'a Origin>,
    pub(super) folder: &'a Path,
}

impl Place<'_> {
    pub(super) fn at(&self, span: std::ops::Range<usize>, message: impl std::fmt::Display) -> ConfigError {
        match self.origin {
            Some(origin) => origin.at(span, message),
            None => ConfigError::new(message.to_string()),
        }
    }
    fn text(&self, span: std::ops::Range<usize>, name: &str) -> String {
        self.at(span, name).to_string()
    }

    fn job(&self, section: &JobSection, backup: &BackupSettings) -> Result<Job, ConfigError> {
        if let Some(reason) = bad_name(section.name.get_ref()) {
            return Err(self.at(section.name.span(), reason));
        }
        let (paths, stream) = run::source(section, self)?;
        let recorded_as = match &section.recorded_as {
            Some(path) if paths.len() != 1 => return Err(self.at(path.span(), "recorded_as needs exactly one path")),
            Some(path) if !path.get_ref().is_absolute() => return Err(self.at(path.span(), "recorded_as must be absolute")),
            recorded => recorded.as_ref().map(|p| p.get_ref().clone()),
        };
        let backup = BackupSettings {
            paths,
            stream,
            recorded_as,
            label: section.name.get_ref().clone(),
            tags: section.tags.clone(),
            excludes: section.exclude.clone(),
            iexcludes: section.iexclude.clone(),
            exclude_files: section.exclude_file.iter().map(|p| absolute(self.folder, p)).collect(),
            exclude_caches: section.exclude_caches,
            exclude_if_present: section.exclude_if_present.clone(),
            exclude_larger_than: section.exclude_larger_than.map(|s| s.0),
            one_file_system: section.one_file_system,
            ignore_inode: section.ignore_inode,
            ignore_ctime: section.ignore_ctime,
            ..backup.clone()
        };
        Ok(Job {
            backup,
            every: run::every(section.every.as_ref(), self)?,
            hooks: run::hooks(&section.hooks, self)?,
            ping: run::ping(section.ping.as_ref(), self)?,
        })
    }
}

/// Why `name` cannot name a store or a job: it stands in flags, tables and messages.
pub(super) fn bad_name(name: &str) -> Option<String> {
    let fits = (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !name.starts_with('-');
    (!fits).then(|| format!("{name:?} is no name: use 1 to 64 bytes of letters, digits, '-', '_' and '.', not '-' first"))
}
