//! `holdfast heal`: replicas brought up to date; empty stores made replicas. Also the first step of `backup`, where little is lacking.

use clap::Args;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, duration, name, short, size, table};
use crate::cli::terminal::Watch;
use crate::config::Settings;
use crate::lifecycle::dispute::disputed_at;
use crate::lifecycle::doubt::doubting;
use crate::lifecycle::forget::{Carried, carry};
use crate::lifecycle::heal::{Extent, HealSettings, run as heal};
use crate::lifecycle::heal_report::{HealReport, ReplicaHealed};
use crate::progress::Progress;
use crate::repository::error::Fault;
use crate::repository::keyring::Unlock;
use crate::repository::open::worst;
use crate::repository::{Access, Repository};

/// Arguments.
#[derive(Args)]
pub struct HealArguments {
    /// The stores to heal; without any, all of them
    #[arg(value_name = "STORE")]
    pub stores: Vec<String>,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

fn how(settings: &Settings, stores: Vec<String>, extent: Extent, dry_run: bool) -> HealSettings {
    HealSettings {
        stores,
        extent,
        dry_run,
        memory: settings.memory,
        data_pack: settings.backup.data_pack,
        meta_pack: settings.backup.meta_pack,
        publish_bytes: settings.backup.publish_bytes,
        publish_every: settings.backup.publish_every,
        group_by: settings.retention.group_by,
    }
}

/// Heals, and says what each replica got and what it still lacks.
pub async fn run(context: &Context, arguments: HealArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    if let Some(unknown) = arguments.stores.iter().find(|name| !settings.stores.iter().any(|store| store.name == **name)) {
        return Err(Failure::usage(format!("there is no store {unknown:?}")));
    }
    let unlock = context.unlock(&settings, false).await?;
    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    let mut repository = context.open(&settings, &unlock, access).await?;
    let (report, begun) = step(context, &settings, &unlock, &mut repository, arguments.stores, arguments.dry_run).await?;
    context.output.summary(&summary(&report, &begun));
    if !context.output.json {
        print(context, &report);
    }
    Ok(outcome(context, &report))
}

/// Makes empty stores replicas, and heals; what cannot be healed is said. Gives what was done, and the stores that were empty.
/// Where there were any, `repository` is opened anew.
pub async fn step(
    context: &Context,
    settings: &Settings,
    unlock: &Unlock,
    repository: &mut Repository,
    stores: Vec<String>,
    dry_run: bool,
) -> Result<(HealReport, Vec<String>), Failure> {
    let wanted = |name: &String| stores.is_empty() || stores.contains(name);
    let mut begun = Vec::new();
    for index in repository.unbegun().indices() {
        let replica = &repository.set.replicas[index];
        if !wanted(&replica.name) {
            continue;
        }
        let done = match dry_run {
            true => context.interruptible(repository.may_begin(index)).await?,
            false => context.interruptible(repository.begin(index)).await?,
        };
        match done {
            Ok(()) if dry_run => {}
            Ok(()) => context.output.note(&format!("store {} is a replica now", replica.name)),
            // A store that holds something else is no replica of this repository, and never will be.
            Err(e) if e.fault == Fault::Usage => return Err(e.into()),
            Err(e) => {
                context.output.problem("heal", &replica.name, &Failure::from(e).message);
                continue;
            }
        }
        begun.push(replica.name.clone());
    }
    let mut brought = false;
    for replica in repository.set.replicas.iter().filter(|replica| !dry_run && wanted(&replica.name)) {
        if !repository.fault(replica.index).is_some_and(|(fault, _)| fault == Fault::Integrity) {
            continue;
        }
        match context.interruptible(repository.bring_descriptor(replica.index)).await? {
            Ok(false) => {}
            Ok(true) => {
                brought = true;
                context.output.note(&format!("store {} has its descriptor again", replica.name));
            }
            Err(e) => context.output.problem("heal", &replica.name, &Failure::from(e).message),
        }
    }
    if !begun.is_empty() && !dry_run || brought {
        *repository = context.open(settings, unlock, Access::Write).await?;
    }
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "healing");
        heal(repository, &how(settings, stores, Extent::Everything, dry_run), &progress, &context.stop).await
    };
    let mut report = result?;
    if dry_run {
        let told = disputed_at(repository, settings.retention.group_by, repository.readable());
        for (i, why) in context.interruptible(told).await?? {
            let of = |r: &&mut ReplicaHealed| r.name == repository.set.replicas[i].name && r.behind.is_none();
            if let Some(replica) = report.replicas.iter_mut().find(of) {
                (replica.behind, replica.fault) = (Some(why), Some(Fault::Refused));
            }
        }
    }
    report.notes.iter().for_each(|note| context.output.note(note));
    for (id, replica, why) in &report.lost {
        context.output.problem("heal", &format!("snapshot {} at {replica}", short(id)), why);
    }
    Ok((report, begun))
}

/// Heals what a backup brings up to date first. Whatever comes of it: the backup itself decides who takes part.
pub async fn small_gaps(context: &Context, settings: &Settings, repository: &Repository) {
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "healing");
        heal(repository, &how(settings, Vec::new(), Extent::SmallGaps, false), &progress, &context.stop).await
    };
    match result {
        Ok(report) => {
            report.notes.iter().for_each(|note| context.output.note(note));
            for replica in report.replicas.iter().filter(|r| r.snapshots > 0) {
                let (snapshots, bytes) = (count(replica.snapshots, "snapshot"), size(replica.bytes_sent));
                context.output.note(&format!("healed store {} first: {snapshots}, {bytes}", replica.name));
            }
        }
        Err(e) => context.output.warn(&format!("healing before the backup: {}", Failure::from(e).message)),
    }
    forgets(context, settings, repository).await;
}

/// What others have forgotten is recorded where it is not yet: nothing has to be read for that unless damage is known, and then it
/// waits for a heal. Whatever comes of it, nobody is left out of the backup for it.
async fn forgets(context: &Context, settings: &Settings, repository: &Repository) {
    if !doubting(repository).await.is_empty() {
        return;
    }
    let carried = carry(repository, settings.retention.group_by, repository.writable());
    for (i, done) in context.interruptible(carried).await.unwrap_or_default() {
        let name = &repository.set.replicas[i].name;
        match done {
            Ok(Carried { recorded: 0, .. }) => {}
            Ok(Carried { recorded, .. }) => {
                let count = count(recorded, "forgotten snapshot");
                context.output.note(&format!("store {name}: recorded what others have forgotten: {count}"));
            }
            Err(e) => {
                context.output.warn(&format!("recording at {name} what others have forgotten: {}", Failure::from(e).message))
            }
        }
    }
}

/// How a heal came out; replicas that are behind still are named.
pub fn outcome(context: &Context, report: &HealReport) -> Outcome {
    let mut outcome = Outcome::success();
    if !report.lost.is_empty() {
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    let behind: Vec<&ReplicaHealed> = report.replicas.iter().filter(|r| r.behind.is_some()).collect();
    for replica in &behind {
        context.output.problem("heal", &replica.name, replica.behind.as_deref().unwrap_or_default());
    }
    if !behind.is_empty() && !report.dry_run {
        match report.replicas.len() - behind.len() >= report.quorum {
            true => outcome.behind(),
            false => {
                let fault = worst(behind.iter().filter_map(|r| r.fault)).unwrap_or(Fault::Failed);
                outcome.join(Outcome::failure(fault, context.signal()));
            }
        }
    }
    outcome
}

/// The report as JSON.
pub fn summary(report: &HealReport, begun: &[String]) -> serde_json::Value {
    json!({
        "message_type": "summary", "dry_run": report.dry_run, "seconds_elapsed": report.duration.as_secs_f64(),
        "replicas": report.replicas.iter().map(|r| json!({
            "name": r.name, "new": begun.contains(&r.name), "snapshots_lacked": r.lacked, "snapshots_healed": r.snapshots,
            "bytes_needed": r.needed, "packs_copied": r.packs_copied, "packs_made": r.packs_made, "bytes_sent": r.bytes_sent,
            "keys": r.keys, "objects_replaced": r.replaced, "sources": r.sources, "bytes_in_doubt": r.in_doubt, "behind": r.behind,
        })).collect::<Vec<_>>(),
        "lost": report.lost.iter().map(|(id, replica, why)| json!({
            "snapshot_id": hex::encode(id), "replica": replica, "message": why,
        })).collect::<Vec<_>>(),
    })
}

/// The report for people.
pub fn print(context: &Context, report: &HealReport) {
    let words =
        ["replica", "lacked", "healed", "packs copied", "packs made", if report.dry_run { "to copy" } else { "sent" }, "state"];
    let row = |r: &ReplicaHealed| {
        let state = match (&r.behind, r.lacked + r.needed + r.replaced + r.keys, report.dry_run) {
            (Some(_), ..) => "behind",
            (None, 0, _) => "complete",
            (None, _, true) => "would be healed",
            (None, _, false) => "healed",
        };
        let bytes = size(if report.dry_run { r.needed } else { r.bytes_sent });
        let figures = [r.lacked, r.snapshots, r.packs_copied, r.packs_made].map(|n| n.to_string());
        let mut row = vec![name(r.name.as_bytes())];
        row.extend(figures);
        row.extend([bytes, state.to_owned()]);
        row
    };
    let rows: Vec<_> = std::iter::once(words.map(str::to_owned).to_vec()).chain(report.replicas.iter().map(row)).collect();
    table(&rows, &[1, 2, 3, 4, 5]).iter().for_each(|line| {
        context.output.line(line);
    });
    for (replica, from, bytes) in
        report.replicas.iter().flat_map(|r| r.sources.iter().map(|(from, bytes)| (&r.name, from, bytes)))
    {
        let (replica, from) = (name(replica.as_bytes()), name(from.as_bytes()));
        context.output.line(format_args!("{replica} would get {} from {from}", size(*bytes)));
    }
    for replica in report.replicas.iter().filter(|r| r.in_doubt > 0) {
        let (replica, bytes) = (name(replica.name.as_bytes()), size(replica.in_doubt));
        context.output.line(format_args!("{replica} needs {bytes} that only damaged packs may still have"));
    }
    let what = if report.dry_run { "dry run, nothing was written" } else { "done" };
    context.output.line(format_args!("{what} in {}", duration(report.duration)));
}
