//! `holdfast prune`: what no snapshot needs any more, taken out of each replica.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, duration, name, size, table};
use crate::cli::terminal::Watch;
use crate::config::Settings;
use crate::config::amount::{Size, Span, Unused};
use crate::lifecycle::prune::{self, PruneReport, PruneSettings, ReplicaPruned, Tally};
use crate::progress::Progress;
use crate::repository::error::Fault;
use crate::repository::open::worst;
use crate::repository::{Access, Repository};

/// Arguments.
#[derive(Args, Default)]
pub struct PruneArguments {
    /// Say what would be done, why, and in how many requests; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How much waste may stay: 5%, 10 GiB, 0 or unlimited [default: 5%, or as configured]
    #[arg(long, value_name = "AMOUNT")]
    pub max_unused: Option<Unused>,
    /// Take packs of at most so many bytes apart, per store [default: no limit, or as configured]
    #[arg(long, value_name = "SIZE")]
    pub max_repack_size: Option<Size>,
    /// Spare what was written, or condemned, for so long, by the store's clock [default: 14d, or as configured]
    #[arg(long, value_name = "TIME")]
    pub mercy: Option<Span>,
}

/// The settings of the configuration, and what the command line says instead.
pub fn how(settings: &Settings, arguments: &PruneArguments) -> PruneSettings {
    let mut limits = settings.prune.limits;
    limits.max_unused = arguments.max_unused.map_or(limits.max_unused, |unused| unused.0);
    limits.max_repack = arguments.max_repack_size.map(|size| size.0).or(limits.max_repack);
    PruneSettings {
        dry_run: arguments.dry_run,
        forgotten: BTreeSet::new(),
        limits,
        mercy: arguments.mercy.map_or(settings.prune.mercy, |span| span.0),
        memory: settings.memory,
        data_pack: settings.backup.data_pack,
        meta_pack: settings.backup.meta_pack,
        group: settings.backup.group,
        publish_bytes: settings.backup.publish_bytes,
        group_by: settings.retention.group_by,
    }
}

/// Prunes, and says what became of each replica.
pub async fn run(context: &Context, arguments: PruneArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let unlock = context.unlock(&settings, false).await?;
    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    let repository = context.open(&settings, &unlock, access).await?;
    let report = step(context, &repository, &how(&settings, &arguments)).await?;
    context.output.summary(&summary(&report));
    if !context.output.json {
        print(context, &report);
    }
    Ok(outcome(context, &report))
}

/// Prunes.
pub async fn step(context: &Context, repository: &Repository, how: &PruneSettings) -> Result<PruneReport, Failure> {
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "pruning");
        prune::run(repository, how, &progress, &context.stop).await
    };
    let report = result?;
    report.notes.iter().for_each(|note| context.output.note(note));
    Ok(report)
}

/// How a prune came out; replicas that were not pruned are named.
pub fn outcome(context: &Context, report: &PruneReport) -> Outcome {
    let mut outcome = Outcome::success();
    let behind: Vec<&ReplicaPruned> = report.replicas.iter().filter(|r| r.behind.is_some()).collect();
    for replica in &behind {
        context.output.problem("prune", &replica.name, replica.behind.as_deref().unwrap_or_default());
    }
    if behind.is_empty() {
        return outcome;
    }
    match report.replicas.len() - behind.len() >= report.quorum {
        true => outcome.behind(),
        false => {
            let fault = worst(behind.iter().filter_map(|r| r.fault)).unwrap_or(Fault::Failed);
            outcome.join(Outcome::failure(fault, context.signal()));
        }
    }
    outcome
}

/// Why replicas were not pruned, if all that kept them from it is that their providers deny it.
pub fn denied(report: &PruneReport) -> Option<String> {
    let mut behind = report.replicas.iter().filter(|r| r.behind.is_some()).peekable();
    behind.peek()?;
    let told = |r: &ReplicaPruned| (r.fault == Some(Fault::Denied)).then(|| r.behind.clone().unwrap_or_default());
    behind.map(told).collect::<Option<Vec<String>>>().map(|all| format!("prune: {}", all.join("; ")))
}

/// The report as JSON.
pub fn summary(report: &PruneReport) -> Value {
    let tally = |tally: &Tally| json!({"objects": tally.objects, "bytes": tally.bytes});
    let replica = |r: &ReplicaPruned| {
        json!({
            "name": r.name, "packs_before": tally(&r.before), "packs_dropped": tally(&r.dropped),
            "packs_repacked": tally(&r.repacked), "packs_made": tally(&r.made),
            "kept": {
                "young": tally(&r.young), "damaged": tally(&r.damaged), "max_unused": tally(&r.tolerated),
                "max_repack_size": tally(&r.later),
            },
            "orphans": tally(&r.orphans), "orphans_young": r.orphans_young, "segments_replaced": r.segments_replaced,
            "condemned": r.condemned,
            "deleted": {"objects": r.deleted.objects, "bytes": r.deleted.bytes},
            "waiting": {"objects": r.deleted.waiting, "bytes": r.deleted.waiting_bytes},
            "requests": {
                "put": r.requests.put, "get": r.requests.get, "stat": r.requests.stat, "list": r.requests.list,
                "delete": r.requests.delete,
            },
            "behind": r.behind,
        })
    };
    json!({
        "message_type": "summary", "dry_run": report.dry_run, "seconds_elapsed": report.duration.as_secs_f64(),
        "replicas": report.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

/// The report for people.
pub fn print(context: &Context, report: &PruneReport) {
    let dry = report.dry_run;
    let words =
        ["replica", "packs", "dropped", "repacked", "made", "orphans", if dry { "to delete" } else { "deleted" }, "waiting"];
    let cell = |tally: &Tally| if tally.objects == 0 { "-".into() } else { format!("{} ({})", tally.objects, size(tally.bytes)) };
    let row = |r: &ReplicaPruned| {
        let deleted = Tally { objects: r.deleted.objects, bytes: r.deleted.bytes };
        let waiting = Tally { objects: r.deleted.waiting, bytes: r.deleted.waiting_bytes };
        let mut row = vec![name(r.name.as_bytes())];
        row.extend([&r.before, &r.dropped, &r.repacked, &r.made, &r.orphans, &deleted, &waiting].map(cell));
        row
    };
    let sound = || report.replicas.iter().filter(|r| r.behind.is_none());
    let rows: Vec<_> = std::iter::once(words.map(str::to_owned).to_vec()).chain(sound().map(row)).collect();
    table(&rows, &[1, 2, 3, 4, 5, 6, 7]).iter().for_each(|line| {
        context.output.line(line);
    });
    for replica in sound() {
        for line in reasons(replica) {
            context.output.line(format_args!("{}: {line}", name(replica.name.as_bytes())));
        }
        let requests = replica.requests;
        let asked = format!(
            "{}: {} {} put, {} get, {} stat, {} list, {} delete",
            name(replica.name.as_bytes()),
            if dry { "a run would ask, about:" } else { "requests:" },
            requests.put,
            requests.get,
            requests.stat,
            requests.list,
            requests.delete
        );
        match dry {
            true => {
                context.output.line(asked);
            }
            false => context.output.note(&asked),
        }
    }
    let what = if dry { "dry run, nothing was written" } else { "done" };
    context.output.line(format_args!("{what} in {}", duration(report.duration)));
}

/// Why packs that hold waste stay all the same.
fn reasons(replica: &ReplicaPruned) -> Vec<String> {
    let all = [
        (&replica.young, "stay for now: they were written within the mercy period"),
        (&replica.damaged, "are damaged, and something live has no other place: run `holdfast heal`"),
        (&replica.tolerated, "hold waste within --max-unused"),
        (&replica.later, "stay for now: --max-repack-size was reached"),
    ];
    let told = |(tally, why): &(&Tally, &str)| format!("{} ({}) {why}", count(tally.objects, "pack"), size(tally.bytes));
    all.iter().filter(|(tally, _)| tally.objects > 0).map(told).collect()
}
