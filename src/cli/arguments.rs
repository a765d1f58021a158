//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::cli::{
    backup, completions, doctor, forget, github, heal, init, key, lifecycle, ls, man, prune, repair, restore, retire, run,
    snapshots, status, undelete, verify,
};
use crate::config::Overrides;
use crate::config::amount::Size;
use crate::config::run::LogFormat;
use crate::config::secret::{Named, SecretSource};

/// What each exit code means, as people read it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    all done
  1    failed; no snapshot at the write quorum
  2    usage or configuration
  3    done, but some source items were unreadable (restore: some metadata could not be set)
  4    done at the write quorum, but some replica is behind
  5    3 and 4 together
  10   there is no repository
  11   others were faster too many times
  12   wrong key
  13   a provider denies access
  14   damaged or missing data
  15   a log is shorter than, or differs from, what was seen before
  16   unsupported format or store
  17   refused by a safety limit
  130  interrupted (SIGINT)
  143  terminated (SIGTERM)";

/// The program's version, and the commit it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HOLDFAST_BUILT_COMMIT"), ")");

/// What exit code `code` means.
pub fn meaning(code: u8) -> Option<&'static str> {
    let line = |line: &'static str| line.trim().split_once(' ').filter(|(first, _)| *first == code.to_string());
    EXIT_CODES.lines().find_map(line).map(|(_, meaning)| meaning.trim())
}

/// Backs up files into several stores at once; each store is a complete repository of its own.
#[derive(Parser)]
#[command(name = "holdfast", version = VERSION, max_term_width = 100, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Arguments {
    /// Flags of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands.
#[derive(Args)]
pub struct Global {
    /// Configuration file [default: $HOLDFAST_CONFIG, ./holdfast.toml, then holdfast/holdfast.toml in the user's configuration folder]
    #[arg(long, global = true, value_name = "FILE", hide_default_value = true)]
    pub config: Option<PathBuf>,
    /// A store; repeat for each. Takes the place of the configuration file's stores
    #[arg(long, global = true, value_name = "NAME=URL")]
    pub store: Vec<String>,
    /// How many replicas must commit [$HOLDFAST_WRITE_QUORUM; default: all but one, at least 1]
    #[arg(long, global = true, value_name = "N")]
    pub write_quorum: Option<usize>,
    /// File that holds the passphrase [$HOLDFAST_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Shell command that prints the passphrase [$HOLDFAST_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND")]
    pub password_command: Option<String>,
    /// File that holds a key, as `key generate` writes it [$HOLDFAST_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Bytes in flight [$HOLDFAST_MEMORY; default: 128 MiB]
    #[arg(long, global = true, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Folder that remembers the state of each replica's log [$HOLDFAST_STATE_DIR; default: holdfast in the user's state folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Speak to GitHub Actions: annotations, a summary page, outputs [default: auto, where GITHUB_ACTIONS is true]
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        default_value = "auto",
        hide_default_value = true
    )]
    pub github: github::When,
    /// Write what is told besides results as a log, text or json, to standard error [$HOLDFAST_LOG_FORMAT; default: plainly]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more, and at the end how many requests of each kind each store was sent
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl Global {
    /// What these flags set; paths are seen from `current`.
    pub fn overrides(&self, current: &Path) -> Overrides {
        let mut all = Vec::new();
        if let Some(path) = &self.password_file {
            all.push(("--password-file".to_owned(), SecretSource::password_file(current, path)));
        }
        if let Some(command) = &self.password_command {
            all.push(("--password-command".to_owned(), SecretSource::PasswordCommand(command.clone())));
        }
        if let Some(path) = &self.key_file {
            all.push(("--key-file".to_owned(), SecretSource::key_file(current, path)));
        }
        Overrides {
            config: self.config.clone(),
            stores: self.store.clone(),
            write_quorum: self.write_quorum,
            memory: self.memory,
            state_dir: self.state_dir.clone(),
            secret: Named { all },
            log: self.log_format,
        }
    }
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Make a repository at the configured stores, or finish making it
    Init(init::InitArguments),
    /// Back up files into all stores at once
    Backup(backup::BackupArguments),
    /// List snapshots
    Snapshots(snapshots::SnapshotsArguments),
    /// List what is in a snapshot
    Ls(ls::LsArguments),
    /// Restore a snapshot, or a part of it
    Restore(restore::RestoreArguments),
    /// Verify that everything is there, and that it is right
    Verify(verify::VerifyArguments),
    /// Forget snapshots, by name or by what the rules of retention do not keep
    Forget(Box<forget::ForgetArguments>),
    /// Bring forgotten snapshots back, as long as nothing was pruned
    Undelete(undelete::UndeleteArguments),
    /// Take out what no snapshot needs any more
    Prune(prune::PruneArguments),
    /// Bring replicas up to date that lack what others hold, and replace what is damaged
    Heal(heal::HealArguments),
    /// Make a replica's own records again where they are lost: its index, or its log
    Repair(repair::RepairArguments),
    /// Take out a store that is lost or given up
    Retire(retire::RetireArguments),
    /// Do what is due by the configuration: heal, forget, prune, verify a slice
    Lifecycle(lifecycle::LifecycleArguments),
    /// Do what a scheduled job does: back up all configured jobs, then what is due by the configuration
    Run(run::RunArguments),
    /// Show the replicas side by side
    Status(status::StatusArguments),
    /// Say what differs from what a locked-down store should be, and the fix
    Doctor(doctor::DoctorArguments),
    /// Manage the keys that open the repository
    Key(key::KeyArguments),
    /// Print completions for a shell
    Completions(completions::CompletionsArguments),
    /// Write the manual pages
    Man(man::ManArguments),
}
