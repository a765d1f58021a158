//! `holdfast doctor`: what differs from what a locked-down store should be, and the fix.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use clap::{Args, ValueEnum};
use futures::future::join_all;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{name, printable};
use crate::clock::Time;
use crate::config::{Settings, StoreChoice};
use crate::doctor::facts::{Logs, Role, StoreFacts, Together};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::judge;
use crate::doctor::look::look;
use crate::lifecycle::doubt;
use crate::lifecycle::prune_site::NOTE_PRUNE;
use crate::lifecycle::rotation::NOTE_ROTATION;
use crate::repository::error::Fault;
use crate::repository::{Access, Repository};
use crate::store::inspect::Told;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Days within which a replica should be verified where the settings do not say.
const VERIFY_DAYS: u32 = 30;

/// Arguments.
#[derive(Args)]
#[command(after_help = "\
What is tried: the descriptor is read and listed; it is created once more, which must be refused; an object that does not exist \
is removed (in a bucket of S3 with versions that leaves a delete marker, which the lifecycle rule takes out), and so is a version \
of it; in a local directory a file is made below tmp/ and removed. --no-probe only reads.

What cannot be learnt is `unknown`: that is no failure. Exit code 0: no error; 1: an error; 10: a store holds no repository; \
13: a store lets this identity in nowhere; 16: a store ignores create-if-absent.")]
pub struct DoctorArguments {
    /// Only these stores; without any, all of them, and the repository as a whole
    #[arg(value_name = "STORE")]
    pub stores: Vec<String>,
    /// What the identity in use is meant to be: a right too few is an error, one too many a warning
    #[arg(long = "as", value_name = "ROLE")]
    pub role: Option<RoleName>,
    /// Only read: try neither to create nor to remove
    #[arg(long)]
    pub no_probe: bool,
}

/// What an identity is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Writes backups
    Writer,
    /// Prunes
    Pruner,
    /// Restores
    Reader,
}

/// Looks, and says what it found.
pub async fn run(context: &Context, arguments: DoctorArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    if let Some(unknown) = arguments.stores.iter().find(|name| !settings.stores.iter().any(|store| store.name == **name)) {
        return Err(Failure::usage(format!("there is no store {unknown:?}")));
    }
    let role = arguments.role.map(|role| match role {
        RoleName::Writer => Role::Writer,
        RoleName::Pruner => Role::Pruner,
        RoleName::Reader => Role::Reader,
    });
    let chosen = |store: &&StoreChoice| arguments.stores.is_empty() || arguments.stores.contains(&store.name);
    let looking = settings
        .stores
        .iter()
        .filter(chosen)
        .map(|StoreChoice { name, url, settings }| look(&context.env, name, url, settings, !arguments.no_probe));
    let stores = context.interruptible(join_all(looking)).await?;
    let mut findings = Vec::new();
    for facts in &stores {
        show(context, Some(facts), judge::store(facts, role), &mut findings);
    }
    if arguments.stores.is_empty() {
        let facts = together(context, &settings, &stores).await?;
        show(context, None, judge::together::together(&stores, &facts), &mut findings);
    }
    Ok(summary(context, &findings))
}

/// What concerns all stores together.
async fn together(context: &Context, settings: &Settings, stores: &[StoreFacts]) -> Result<Together, Failure> {
    let file = settings.secret.as_ref().and_then(|source| source.file()).map(std::path::Path::to_path_buf);
    let secret = match file {
        Some(file) => {
            let shown = file.display().to_string();
            let mode = context.env.blocking(move || file.metadata().map(|about| about.permissions().mode())).await;
            // That it is missing is told by the opening.
            mode.ok().map(|mode| (shown, mode))
        }
        None => None,
    };
    let there = stores.iter().any(|store| store.seen.as_ref().is_ok_and(|seen| seen.rights.repository));
    let mut fault = None;
    let logs = match (there, &settings.secret) {
        (false, _) => Told::Untold("there is no repository to open".into()),
        (true, None) => Told::Untold("no secret is configured".into()),
        (true, Some(_)) => match logs(context, settings).await {
            Ok(logs) => Told::Known(logs),
            Err(failure) if failure.fault == Fault::Interrupted => return Err(failure),
            Err(failure) => {
                fault = Some(failure.fault);
                Told::Failed(failure.message)
            }
        },
    };
    let count = settings.stores.len();
    Ok(Together {
        stores: count,
        quorum: settings.replicas.write_quorum.unwrap_or(count.saturating_sub(1)).max(1),
        secret,
        retention: !settings.retention.policy.is_empty(),
        logs,
        fault,
        verify_days: settings.lifecycle.verify_days.max(VERIFY_DAYS),
    })
}

/// Opens the repository and reads what its logs say.
async fn logs(context: &Context, settings: &Settings) -> Result<Logs, Failure> {
    let unlock = context.unlock(settings, false).await?;
    let repository = context.open(settings, &unlock, Access::Read).await?;
    let replicas = context.interruptible(repository.status()).await??;
    let doubtful = context.interruptible(doubt::whole(&repository)).await??;
    let mut damaged: BTreeMap<String, u64> = BTreeMap::new();
    for i in doubtful.values().flat_map(|at| at.indices()) {
        *damaged.entry(repository.set.replicas[i].name.clone()).or_default() += 1;
    }
    let now = context.env.now();
    let age = |time: Time| u32::try_from(now.since(time).as_secs() / DAY).unwrap_or(u32::MAX);
    let readable = replicas.iter().filter(|replica| replica.error.is_none());
    Ok(Logs {
        snapshots: readable.clone().map(|replica| replica.snapshots).max().unwrap_or(0),
        verified: readable.map(|replica| (replica.name.clone(), replica.last_verify.map(age))).collect(),
        damaged: damaged.into_iter().collect(),
        lifecycle: context.interruptible(kept(&repository)).await?,
    })
}

/// Whether any log shows that the repository is looked after.
async fn kept(repository: &Repository) -> bool {
    for replica in &repository.set.replicas {
        if let Some(log) = repository.log(replica.index).await {
            let noted = [NOTE_ROTATION, NOTE_PRUNE].iter().any(|kind| log.state.notes.contains_key(*kind));
            if noted || !log.state.forgotten.is_empty() {
                return true;
            }
        }
    }
    false
}

/// Shows the findings about one store, or about all together, and puts them to the others.
fn show(context: &Context, store: Option<&StoreFacts>, new: Vec<Finding>, findings: &mut Vec<Finding>) {
    let output = &context.output;
    if !output.json {
        match store {
            Some(facts) => output.line(format_args!("store {} ({})", name(facts.name.as_bytes()), printable(&facts.url))),
            None => output.line("all together"),
        };
    }
    for finding in &new {
        if output.json {
            output.object(&json!({
                "message_type": "finding", "store": finding.store, "matter": finding.matter, "level": finding.level.word(),
                "found": finding.found, "expected": finding.expected, "fix": finding.fix,
            }));
        } else if finding.level >= Level::Warning || !output.quiet {
            output.line(format_args!("  {:<8} {:<17} {}", finding.level.word(), finding.matter, printable(&finding.found)));
            if finding.level >= Level::Warning {
                output.line(format_args!("  {:27}expected: {}", "", finding.expected));
            }
            if let Some(fix) = &finding.fix {
                output.line(format_args!("  {:27}fix: {}", "", printable(fix)));
            }
        }
    }
    findings.extend(new);
}

/// Says how many of each there are, and what that comes to.
fn summary(context: &Context, findings: &[Finding]) -> Outcome {
    let mut counts: BTreeMap<Level, u64> = BTreeMap::new();
    let mut outcome = Outcome::success();
    for finding in findings {
        *counts.entry(finding.level).or_default() += 1;
        if finding.level == Level::Error {
            outcome.join(Outcome::failure(finding.fault, context.signal()));
        }
    }
    let of = |level: Level| counts.get(&level).copied().unwrap_or(0);
    context.output.summary(&json!({
        "message_type": "summary", "errors": of(Level::Error), "warnings": of(Level::Warning),
        "unknown": of(Level::Unknown), "ok": of(Level::Ok),
    }));
    if !context.output.json {
        context.output.line(format_args!(
            "errors: {}, warnings: {}, unknown: {}, ok: {}",
            of(Level::Error),
            of(Level::Warning),
            of(Level::Unknown),
            of(Level::Ok)
        ));
    }
    outcome
}
