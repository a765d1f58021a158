//! `holdfast repair`: a replica's own records, made again where they are lost.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::chunk::split::ChunkerSpec;
use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, duration, name, short, size, table};
use crate::cli::terminal::Watch;
use crate::config::Settings;
use crate::lifecycle::dispute::all_answer;
use crate::lifecycle::repair::RepairSettings;
use crate::lifecycle::repair::index::{self, IndexRepaired};
use crate::lifecycle::repair::log::{self, LogRepaired};
use crate::progress::Progress;
use crate::repository::Access;
use crate::repository::error::Fault;
use crate::repository::lost_descriptor::{DescriptorSettings, make_again};

/// Arguments.
#[derive(Args)]
pub struct RepairArguments {
    /// What to repair.
    #[command(subcommand)]
    pub what: What,
}

/// What can be repaired.
#[derive(Subcommand)]
pub enum What {
    /// Make the index again from the packs that lie at a store
    Index(IndexArguments),
    /// End a damaged log, and begin another that takes over what is sound
    Log(LogArguments),
    /// Make the descriptor again from the keys that lie at a store, where no store has it any more
    Descriptor(DescriptorArguments),
}

/// Arguments of `repair index`.
#[derive(Args)]
pub struct IndexArguments {
    /// The stores; without any, all of them
    #[arg(value_name = "STORE")]
    pub stores: Vec<String>,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `repair log`.
#[derive(Args)]
pub struct LogArguments {
    /// The store whose log is damaged
    #[arg(value_name = "STORE")]
    pub at: String,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Finish although snapshots that no other store holds are not whole: what is left of them may be pruned then
    #[arg(long)]
    pub give_up: bool,
}

/// Arguments of `repair descriptor`.
#[derive(Args)]
pub struct DescriptorArguments {
    /// The store that lost its descriptor
    #[arg(value_name = "STORE")]
    pub at: String,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Repairs.
pub async fn run(context: &Context, arguments: RepairArguments) -> Result<Outcome, Failure> {
    match arguments.what {
        What::Index(arguments) => repair_index(context, arguments).await,
        What::Log(arguments) => repair_log(context, arguments).await,
        What::Descriptor(arguments) => repair_descriptor(context, arguments).await,
    }
}

fn how(settings: &Settings, stores: Vec<String>, dry_run: bool) -> Result<RepairSettings, Failure> {
    if let Some(unknown) = stores.iter().find(|name| !settings.stores.iter().any(|store| store.name == **name)) {
        return Err(Failure::usage(format!("there is no store {unknown:?}")));
    }
    let (data_pack, meta_pack) = (settings.backup.data_pack, settings.backup.meta_pack);
    let group_by = settings.retention.group_by;
    Ok(RepairSettings { stores, dry_run, data_pack, meta_pack, group_by, ..RepairSettings::default() })
}

async fn repair_index(context: &Context, arguments: IndexArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let how = how(&settings, arguments.stores, arguments.dry_run)?;
    let unlock = context.unlock(&settings, false).await?;
    let access = if how.dry_run { Access::Read } else { Access::Write };
    let repository = context.open(&settings, &unlock, access).await?;
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "repairing the index");
        index::run(&repository, &how, &progress, &context.stop).await
    };
    let reports = result?;
    let output = &context.output;
    for report in &reports {
        for (object, story) in &report.lost {
            output.warn(&format!("{object} is lost: {story}"));
        }
        for (object, story) in &report.unreadable {
            output.problem("repair", object, story);
        }
        if let Some(why) = &report.behind {
            output.problem("repair", &report.name, why);
        }
    }
    output.summary(&json!({
        "message_type": "summary", "dry_run": how.dry_run,
        "replicas": reports.iter().map(|r| json!({
            "name": r.name, "packs": r.packs, "segments_lost": r.lost_count, "packs_added": r.added, "packs_proven": r.proven,
            "segments_written": r.segments, "packs_unreadable": r.unreadable_count, "replaced": r.replaced, "behind": r.behind,
        })).collect::<Vec<_>>(),
    }));
    if !output.json {
        let words = ["replica", "packs", "segments lost", if how.dry_run { "packs to add" } else { "packs added" }, "read back"];
        let row = |r: &IndexRepaired| {
            let figures = [r.packs, r.lost_count, r.added, r.proven].map(|n| n.to_string());
            [vec![name(r.name.as_bytes())], figures.to_vec()].concat()
        };
        let rows: Vec<_> = std::iter::once(words.map(str::to_owned).to_vec()).chain(reports.iter().map(row)).collect();
        table(&rows, &[1, 2, 3, 4]).iter().for_each(|line| {
            output.line(line);
        });
        if how.dry_run {
            output.line("dry run, nothing was written");
        }
    }
    Ok(index_outcome(&reports))
}

/// How a repair of indexes came out.
pub fn index_outcome(reports: &[IndexRepaired]) -> Outcome {
    let mut outcome = Outcome::success();
    let failed = |r: &&IndexRepaired| r.fault.is_some();
    for report in reports {
        if report.unreadable_count > 0 {
            outcome.join(Outcome::failure(Fault::Integrity, None));
        }
        match report.fault {
            None => {}
            Some(Fault::Failed | Fault::NoRepository) if !reports.iter().all(|r| failed(&r)) => outcome.behind(),
            Some(fault) => outcome.join(Outcome::failure(fault, None)),
        }
    }
    outcome
}

async fn repair_log(context: &Context, arguments: LogArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let how = how(&settings, vec![arguments.at.clone()], arguments.dry_run)?;
    let how = RepairSettings { give_up: arguments.give_up, ..how };
    let unlock = context.unlock(&settings, false).await?;
    let access = if how.dry_run { Access::Read } else { Access::Write };
    let repository = context.open(&settings, &unlock, access).await?;
    if let Some((_, _, e)) = repository.set.closed.iter().find(|(closed, ..)| *closed == arguments.at) {
        return Err(Failure::new(Fault::Failed, format!("store {} cannot be opened: {}", arguments.at, e.story())));
    }
    let index = repository.set.replicas.iter().find(|r| r.name == arguments.at).map(|r| r.index);
    let index = index.ok_or_else(|| Failure::usage(format!("there is no store {:?}", arguments.at)))?;
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "repairing the log");
        log::run(&repository, index, &how, &progress, &context.stop).await
    };
    let report = result?;
    let output = &context.output;
    report.notes.iter().for_each(|note| output.note(note));
    for (slot, story) in &report.wounds {
        output.warn(&format!("slot {slot}: {story}"));
    }
    for object in &report.damaged {
        output.problem("repair", object, "not all of it could be had");
    }
    let all = all_answer(&repository);
    for (id, why, elsewhere) in &report.not_whole {
        let next = match (elsewhere, all) {
            (true, _) if report.waits => "another store holds it, and `holdfast heal` brings it when the repair is done",
            (true, _) => "another store holds it: run `holdfast heal`",
            (false, true) => "no other log holds it: `holdfast restore --what-is-left` brings what there is",
            (false, false) => "no other log that answers holds it: run this again when all answer",
        };
        output.problem("repair", &format!("snapshot {}", short(id)), &format!("{why}: {next}"));
    }
    output.summary(&summary(&report, how.dry_run));
    if !output.json {
        print(context, &report, how.dry_run, all);
    }
    Ok(log_outcome(&report))
}

async fn repair_descriptor(context: &Context, arguments: DescriptorArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let DescriptorArguments { at, dry_run } = arguments;
    // Its name is looked at before anything is asked for.
    how(&settings, vec![at.clone()], dry_run)?;
    let unlock = context.unlock(&settings, false).await?;
    let members = context.interruptible(context.members(&settings, false)).await?;
    let settings = DescriptorSettings { at: at.clone(), dry_run, chunker: ChunkerSpec::default(), lowered_kdf: false };
    let id = context.interruptible(make_again(&context.env, members, &settings, &unlock)).await??;
    let (id, output) = (hex::encode(id), &context.output);
    output.summary(&json!({"message_type": "summary", "dry_run": dry_run, "replica": at, "repository_id": id}));
    if !output.json {
        let done = if dry_run { "would be written" } else { "was written" };
        output.line(format_args!("{}: the descriptor of repository {id} {done}", name(at.as_bytes())));
        if dry_run {
            output.line("dry run, nothing was written");
        }
    }
    Ok(Outcome::success())
}

fn summary(report: &LogRepaired, dry_run: bool) -> serde_json::Value {
    json!({
        "message_type": "summary", "dry_run": dry_run, "replica": report.name, "reason": report.why, "epoch": report.epoch,
        "finished": report.finished, "waits": report.waits, "slots_lost": report.wounds_count, "complete": report.complete, "packs_kept": report.kept,
        "packs_copied": report.copied, "bytes_copied": report.bytes_copied, "packs_damaged": report.damaged_count,
        "snapshots": report.snapshots, "forgotten": report.forgotten, "names_void": report.void,
        "seconds_elapsed": report.duration.as_secs_f64(),
        "not_whole": report.not_whole.iter().map(|(id, why, elsewhere)| json!({
            "snapshot_id": hex::encode(id), "message": why, "elsewhere": elsewhere,
        })).collect::<Vec<_>>(),
    })
}

fn print(context: &Context, report: &LogRepaired, dry_run: bool, all: bool) {
    let output = &context.output;
    let at = name(report.name.as_bytes());
    let Some(why) = &report.why else {
        output.line(format_args!("the log of {at} is whole: nothing to repair"));
        return;
    };
    output.line(format_args!("{}", name(why.as_bytes())));
    let known = match report.complete {
        true => "a checkpoint says all that they said",
        false => "what they said is not known",
    };
    let lost = count(report.wounds_count, "slot");
    output.line(format_args!("{lost} lost; {known}"));
    let (kept, copied) = (count(report.kept, "pack"), count(report.copied, "pack"));
    let (bytes, snapshots) = (size(report.bytes_copied), count(report.snapshots, "snapshot"));
    match dry_run {
        true => {
            output.line(format_args!(
                "would begin epoch {}: {kept} under their own names, at most {copied} as copies ({bytes}), {snapshots} to look at",
                report.epoch
            ));
            output.line("dry run, nothing was written");
        }
        false => {
            let finished = if report.finished { "finished the repair: " } else { "" };
            output.line(format_args!(
                "{finished}epoch {} of {at}: {kept} under their own names, {copied} copied ({bytes}), {snapshots} committed, in {}",
                report.epoch,
                duration(report.duration)
            ));
            if !report.not_whole.is_empty() {
                let left = count(report.not_whole.len() as u64, "snapshot");
                output.line(format_args!("  {left} not committed"));
            }
            if report.waits {
                let next = match all {
                    true => "restore what is left, then run it again with --give-up",
                    false => "run it again when all stores answer",
                };
                output.line(format_args!("the repair waits, and nothing is written or pruned there: {next}"));
            }
        }
    }
}

/// How the repair of a log came out.
pub fn log_outcome(report: &LogRepaired) -> Outcome {
    let mut outcome = Outcome::success();
    if report.not_whole.iter().any(|(_, _, elsewhere)| !elsewhere) {
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    if !report.not_whole.is_empty() {
        outcome.behind();
    }
    outcome
}
