//! The configuration file, field for field as it is written. Meaning is given to it in `config/mod.rs`.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::config::ConfigError;
use crate::config::amount::{Percent, Size, Span, Unused};
use crate::lifecycle::retention::policy::Count;

/// Largest configuration file that is read, in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// A whole configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// `[repository]`: what belongs to all replicas together.
    pub repository: RepositorySection,
    /// `[[store]]`, one per replica.
    pub store: Vec<StoreSection>,
    /// `[backup]`: what belongs to every backup.
    pub backup: BackupSection,
    /// `[[job]]`: what is backed up when no path is named.
    pub job: Vec<JobSection>,
    /// `[hooks]`: commands around a whole `run`.
    pub hooks: HooksSection,
    /// `[metrics]`: where a `run` leaves its figures.
    pub metrics: MetricsSection,
    /// `[ping]`: who is told that a `run` began and ended.
    pub ping: PingSection,
    /// `[log]`: what is told while a command goes on, for machines.
    pub log: LogSection,
    /// `[retention]`: which snapshots `forget` keeps.
    pub retention: RetentionSection,
    /// `[lifecycle]`: how careful `lifecycle` is.
    pub lifecycle: LifecycleSection,
    /// `[prune]`: what `prune` takes out.
    pub prune: PruneSection,
}

/// `[repository]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositorySection {
    /// How many replicas must commit.
    pub write_quorum: Option<Spanned<usize>>,
    /// File whose contents are the passphrase.
    pub password_file: Option<Spanned<PathBuf>>,
    /// Shell command that prints the passphrase.
    pub password_command: Option<Spanned<String>>,
    /// File that holds a key, as `holdfast key generate` writes it.
    pub key_file: Option<Spanned<PathBuf>>,
    /// Stores to read from first, in order.
    pub prefer: Option<Spanned<Vec<String>>>,
    /// A store that finishes no request for so long is left behind.
    pub stall: Option<Span>,
    /// A store that takes fewer bytes per second than this is left behind.
    pub min_rate: Option<Size>,
    /// A store that lacks more than this is left out of a backup until it is healed.
    pub behind_limit: Option<Size>,
    /// Bytes in flight.
    pub memory: Option<Spanned<Size>>,
    /// Bytes that the chunk index may take.
    pub index_memory: Option<Size>,
    /// Folder that remembers the heads of the logs.
    pub state_dir: Option<PathBuf>,
}

/// `[[store]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// What messages and flags call it.
    pub name: Spanned<String>,
    /// Where it lies.
    pub url: Spanned<String>,
    /// Most requests under way at once.
    pub connections: Option<Spanned<usize>>,
    /// Bytes per second sent.
    pub upload_limit: Option<Size>,
    /// Bytes per second received.
    pub download_limit: Option<Size>,
    /// How long one attempt may take.
    pub timeout: Option<Span>,
    /// Requests per second.
    pub request_limit: Option<Spanned<u64>>,
    /// How many times a request is sent again.
    pub retries: Option<u32>,
    /// Another server than the provider's own.
    pub endpoint: Option<Spanned<String>>,
    /// Region of the bucket.
    pub region: Option<Spanned<String>>,
    /// Storage class of data packs.
    pub storage_class: Option<Spanned<String>>,
    /// Storage class of meta packs.
    pub meta_storage_class: Option<Spanned<String>>,
    /// Key at the provider's key service.
    pub kms_key: Option<Spanned<String>>,
    /// Certificates to trust.
    pub ca_file: Option<Spanned<PathBuf>>,
    /// Who asks.
    pub credentials: Option<Spanned<CredentialsSection>>,
}

/// `[store.credentials]`: `kind` decides which of the others belong to it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsSection {
    /// The way to log in.
    pub kind: String,
    /// Name of a profile.
    pub profile: Option<String>,
    /// ARN of a role.
    pub role: Option<String>,
    /// What the role's owner asks for besides.
    pub external_id: Option<String>,
    /// Id of an access key.
    pub access_key_id: Option<String>,
    /// Variable with the token of a temporary access key.
    pub session_token_env: Option<String>,
    /// File with a token.
    pub token_file: Option<PathBuf>,
    /// Who gives the token instead.
    pub token_from: Option<String>,
    /// Whom that token is made out to.
    pub audience: Option<String>,
    /// File with credentials.
    pub file: Option<PathBuf>,
    /// Command that prints credentials.
    pub command: Option<String>,
    /// Service account to impersonate.
    pub account: Option<String>,
    /// Directory of identities.
    pub tenant_id: Option<String>,
    /// Application or identity.
    pub client_id: Option<String>,
    /// Variable with the secret.
    pub secret_env: Option<String>,
    /// File with the secret.
    pub secret_file: Option<PathBuf>,
    /// Shell command that prints the secret.
    pub secret_command: Option<String>,
}

/// `[backup]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupSection {
    /// Recorded host name.
    pub host: Option<String>,
    /// Target size of data packs.
    pub data_pack: Option<Spanned<Size>>,
    /// Target size of meta packs.
    pub meta_pack: Option<Spanned<Size>>,
    /// What small neighbours are grouped to.
    pub group: Option<Spanned<Size>>,
    /// zstd level; 0 stores.
    pub compression: Option<Spanned<i32>>,
    /// Files read at once.
    pub read_concurrency: Option<Spanned<usize>>,
    /// Publish at least this often, in bytes.
    pub publish_bytes: Option<Size>,
    /// Publish at least this often, in time.
    pub publish_every: Option<Span>,
    /// Commit a partial snapshot at least this often.
    pub partial_every: Option<Span>,
    /// How long what is in flight has when the run is asked to stop.
    pub drain: Option<Span>,
}

/// `[[job]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSection {
    /// What `--job` calls it; recorded as the snapshot's label.
    pub name: Spanned<String>,
    /// What is backed up.
    pub paths: Option<Spanned<Vec<PathBuf>>>,
    /// Instead of paths: the command whose output is backed up, program and arguments.
    pub command: Option<Spanned<Vec<String>>>,
    /// What that output is called.
    pub filename: Option<Spanned<String>>,
    /// How long the command may print nothing.
    pub stall: Option<Spanned<Span>>,
    /// How often the job is meant to run.
    pub every: Option<Spanned<Span>>,
    /// The path to record instead of the only one.
    pub recorded_as: Option<Spanned<PathBuf>>,
    /// Recorded tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Glob patterns of what to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// The same, ignoring case.
    #[serde(default)]
    pub iexclude: Vec<String>,
    /// Files with such patterns.
    #[serde(default)]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out the contents of tagged cache directories.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Leave out directories that hold a file of one of these names.
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    /// Leave out larger files.
    pub exclude_larger_than: Option<Size>,
    /// Stay on the file system of each path.
    #[serde(default)]
    pub one_file_system: bool,
    /// Trust size and modification time alone.
    #[serde(default)]
    pub ignore_inode: bool,
    /// Do not compare the time of the last status change.
    #[serde(default)]
    pub ignore_ctime: bool,
    /// Who is told that this job began and ended.
    pub ping: Option<Spanned<String>>,
    /// Commands around this job in a `run`.
    #[serde(default)]
    pub hooks: HooksSection,
}

/// `[hooks]` and `[job.hooks]`: lists of commands, each a list of program and arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksSection {
    /// Before; one that fails stops what was to follow.
    pub before: Vec<Spanned<Vec<String>>>,
    /// After all went well.
    pub after: Vec<Spanned<Vec<String>>>,
    /// After something failed.
    pub failed: Vec<Spanned<Vec<String>>>,
    /// In the end, whatever happened.
    pub finally: Vec<Spanned<Vec<String>>>,
    /// How long one command may take.
    pub timeout: Option<Spanned<Span>>,
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// A text file for the node exporter.
    pub file: Option<Spanned<PathBuf>>,
    /// The address of a Pushgateway.
    pub push: Option<Spanned<String>>,
}

/// `[ping]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PingSection {
    /// The address of the sign of life.
    pub url: Option<Spanned<String>>,
}

/// `[log]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `text` or `json`.
    pub format: Option<Spanned<String>>,
}

/// `[retention]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSection {
    /// How many of the newest to keep.
    pub keep_last: Option<Count>,
    /// Of how many hours to keep the newest.
    pub keep_hourly: Option<Count>,
    /// Of how many days.
    pub keep_daily: Option<Count>,
    /// Of how many ISO weeks.
    pub keep_weekly: Option<Count>,
    /// Of how many months.
    pub keep_monthly: Option<Count>,
    /// Of how many years.
    pub keep_yearly: Option<Count>,
    /// How far back from the newest to keep all.
    pub keep_within: Option<Spanned<String>>,
    /// How far back to keep one of each hour.
    pub keep_within_hourly: Option<Spanned<String>>,
    /// How far back to keep one of each day.
    pub keep_within_daily: Option<Spanned<String>>,
    /// How far back to keep one of each ISO week.
    pub keep_within_weekly: Option<Spanned<String>>,
    /// How far back to keep one of each month.
    pub keep_within_monthly: Option<Spanned<String>>,
    /// How far back to keep one of each year.
    pub keep_within_yearly: Option<Spanned<String>>,
    /// Lists of tags; who has all of one list is kept.
    pub keep_tag: Vec<String>,
    /// What makes a group.
    pub group_by: Option<Spanned<String>>,
    /// How long a partial snapshot stays after a complete one came.
    pub partial_mercy: Option<Span>,
}

/// `[lifecycle]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LifecycleSection {
    /// How old a snapshot must be before it can go.
    pub forget_floor: Option<Span>,
    /// What share of the snapshots may go in one run.
    pub forget_limit: Option<Percent>,
    /// Within what time every pack is read once.
    pub verify_within: Option<Spanned<Span>>,
    /// Who is told that it began and ended, where it is called by itself.
    pub ping: Option<Spanned<String>>,
}

/// `[prune]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PruneSection {
    /// How much waste may stay.
    pub max_unused: Option<Unused>,
    /// Bytes of packs that are taken apart at most, per replica.
    pub max_repack_size: Option<Size>,
    /// How long what was written, or condemned, is spared.
    pub mercy: Option<Span>,
}

/// A configuration file's text with its name, to say where in it something is wrong.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file as messages call it.
    pub path: PathBuf,
    text: String,
}

impl Origin {
    /// A text and the name of the file it came from.
    pub fn new(path: PathBuf, text: String) -> Origin {
        Origin { path, text }
    }

    /// The error `message` about the bytes at `span`.
    pub fn at(&self, span: std::ops::Range<usize>, message: impl std::fmt::Display) -> ConfigError {
        let mut offset = span.start.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        ConfigError::new(format!("{}:{line}:{column}: {message}", self.path.display()))
    }
}

/// Reads the text of a configuration file.
pub fn parse(origin: &Origin) -> Result<ConfigFile, ConfigError> {
    toml::from_str(&origin.text).map_err(|e| match e.span() {
        Some(span) => origin.at(span, e.message().trim_end()),
        None => ConfigError::new(format!("{}: {}", origin.path.display(), e.message())),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::file::{Origin, parse};

    fn refused(text: &str) -> String {
        parse(&Origin::new("h.toml".into(), text.to_owned())).expect_err(text).to_string()
    }

    #[test]
    fn errors_name_the_place() {
        assert_eq!(
            refused("[repository]\nwrite_qorum = 1\n").split(", expected").next(),
            Some("h.toml:2:1: unknown field `write_qorum`")
        );
        assert!(refused("\n[[store]]\nname = \"a\"\n").starts_with("h.toml:2:1: missing field `url`"));
        assert!(refused("[repository]\nwrite_quorum = \"2\"\n").starts_with("h.toml:2:16: invalid type"));
        assert!(refused("[repository]\nwrite_quorum = -2\n").starts_with("h.toml:2:16: "));
        assert_eq!(refused("[repository]\nstall = \"60\"\n"), "h.toml:2:9: \"60\" needs one of the units ms, s, m, h, d");
        assert!(refused("[repository]\nmemory = 5\n").starts_with("h.toml:2:10: invalid type"));
        assert!(refused("[repository\n").starts_with("h.toml:1:"));
        assert!(refused("[[job]]\nname = \"é\" x\n").starts_with("h.toml:2:"));
        assert!(refused("[retentions]\nkeep_daily = 7\n").starts_with("h.toml:1:2: unknown field `retentions`"));
        assert!(refused("[retention]\nkeep_daily = -1\n").starts_with("h.toml:2:14: -1 is no count"));
        assert!(refused("[retention]\nkeep_daily = \"all\"\n").starts_with("h.toml:2:14: \"all\" is no count"));
    }
}
