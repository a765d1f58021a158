//! `holdfast forget`: snapshots that are no longer wanted, by name or by the rules of retention.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, local, name, short, table};
use crate::cli::select::Filter;
use crate::cli::snapshots::{object, time};
use crate::config::Settings;
use crate::format::Hash;
use crate::lifecycle::dispute::all_answer;
use crate::lifecycle::forget::{self, ForgetReport, ReplicaForgot, What};
use crate::lifecycle::forget_plan::described;
use crate::lifecycle::retention::decide::{Decision, Group, Rules};
use crate::lifecycle::retention::group::GroupBy;
use crate::lifecycle::retention::policy::{Count, Policy, TagList};
use crate::lifecycle::retention::span::CalendarSpan;
use crate::repository::error::Fault;
use crate::repository::open::worst;
use crate::repository::snapshots::SnapshotView;
use crate::repository::{Access, Repository};

/// Arguments.
#[derive(Args)]
pub struct ForgetArguments {
    /// Snapshots to forget (beginnings of ids, latest, latest~N), whatever the rules say; without any, the rules decide
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// What the rules keep
    #[command(flatten)]
    pub keep: Keep,
    /// What the rules are applied to
    #[command(flatten)]
    pub filter: Filter,
    /// Apply the rules to groups of the same host, paths and/or tags; "" makes one group [default: host,paths]
    #[arg(short, long, value_name = "WORDS")]
    pub group_by: Option<GroupBy>,
    /// Forget everything that the filters choose; stands instead of all rules
    #[arg(long)]
    pub unsafe_allow_remove_all: bool,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Rules: what any of them wants is kept. Given one, those of the configuration do not apply.
#[derive(Args)]
pub struct Keep {
    /// Keep the N newest (or unlimited: all)
    #[arg(short = 'l', long, value_name = "N", allow_negative_numbers = true)]
    pub keep_last: Option<Count>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N", allow_negative_numbers = true)]
    pub keep_hourly: Option<Count>,
    /// The same of days
    #[arg(short = 'd', long, value_name = "N", allow_negative_numbers = true)]
    pub keep_daily: Option<Count>,
    /// The same of ISO weeks
    #[arg(short = 'w', long, value_name = "N", allow_negative_numbers = true)]
    pub keep_weekly: Option<Count>,
    /// The same of months
    #[arg(short = 'm', long, value_name = "N", allow_negative_numbers = true)]
    pub keep_monthly: Option<Count>,
    /// The same of years
    #[arg(short = 'y', long, value_name = "N", allow_negative_numbers = true)]
    pub keep_yearly: Option<Count>,
    /// Keep all that are less than this older than the newest, such as 1y5m7d2h
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within: Option<CalendarSpan>,
    /// Keep one of each hour within this of the newest
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_hourly: Option<CalendarSpan>,
    /// The same of days
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_daily: Option<CalendarSpan>,
    /// The same of ISO weeks
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_weekly: Option<CalendarSpan>,
    /// The same of months
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_monthly: Option<CalendarSpan>,
    /// The same of years
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    pub keep_within_yearly: Option<CalendarSpan>,
    /// Keep those with all of these tags; may be repeated; "" means those without any
    #[arg(long, value_name = "TAG[,TAG...]")]
    pub keep_tag: Vec<String>,
}

impl Keep {
    /// The rules; `None` when no flag was given.
    fn policy(&self) -> Option<Policy> {
        let counts = [self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        let within = [
            self.keep_within,
            self.keep_within_hourly,
            self.keep_within_daily,
            self.keep_within_weekly,
            self.keep_within_monthly,
            self.keep_within_yearly,
        ];
        if self.keep_tag.is_empty() && counts.iter().all(Option::is_none) && within.iter().all(Option::is_none) {
            return None;
        }
        Some(Policy {
            counts: counts.map(Option::unwrap_or_default),
            within: within.map(Option::unwrap_or_default),
            tags: self.keep_tag.iter().map(|text| TagList::parse(text)).collect(),
        })
    }
}

/// Forgets, and says what stays and what goes, each with its reason.
pub async fn run(context: &Context, arguments: ForgetArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let rules = if arguments.snapshots.is_empty() { Some(rules(context, &settings, &arguments)?) } else { None };
    if rules.is_none() && (arguments.keep.policy().is_some() || arguments.unsafe_allow_remove_all) {
        context.output.warn("snapshots are named: the rules do not apply");
    }
    let unlock = context.unlock(&settings, false).await?;
    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    let repository = context.open(&settings, &unlock, access).await?;
    if arguments.dry_run {
        context.warn_of_absent(&repository);
    }
    let what = match rules {
        Some(rules) => {
            context.output.note(&rules.policy.to_string());
            What::ByRules(rules)
        }
        None => What::Named(context.interruptible(ids(&repository, &arguments)).await??),
    };
    let among = |view: &SnapshotView| arguments.filter.admits(view);
    let report = step(context, &repository, &what, &among, &BTreeSet::new(), arguments.dry_run).await?;
    context.output.summary(&summary(&report, &what));
    if !context.output.json {
        print(context, &report, &what, arguments.dry_run);
    }
    Ok(outcome(context, &report, &what))
}

/// Forgets. `lost`: snapshots of which it is known already that they are whole nowhere: no rule counts them, and none forgets them.
pub async fn step(
    context: &Context,
    repository: &Repository,
    what: &What,
    among: &(dyn Fn(&SnapshotView) -> bool + Send + Sync),
    lost: &BTreeSet<Hash>,
    dry_run: bool,
) -> Result<ForgetReport, Failure> {
    let whole = |view: &SnapshotView| !lost.contains(&view.id) && among(view);
    let mut report = context.interruptible(forget::run(repository, what, &whole, dry_run)).await??;
    if matches!(what, What::ByRules(_)) {
        report.doubtful.extend(lost);
    } else {
        report.doubtful.clear();
    }
    context.output.note_if(repository.save_heads().err());
    let all = all_answer(repository);
    for id in report.doubtful.iter().map(|id| short(id)) {
        let (told, next) = match all {
            true => (
                "at every store that holds it",
                format!(
                    ", `holdfast undelete` what was forgotten (`holdfast snapshots --forgotten`), `holdfast forget {id}` gives it up"
                ),
            ),
            false => ("at the stores that answer", "; bring back those that do not answer first".to_owned()),
        };
        let why = format!("damage was found in what it needs {told}, so no rule counts it and none forgets it");
        let what = format!("{why}: `holdfast heal` brings back what can be had{next}");
        context.output.problem("forget", &id, &what);
    }
    Ok(report)
}

/// The rules of the command line, else of the configuration.
fn rules(context: &Context, settings: &Settings, arguments: &ForgetArguments) -> Result<Rules, Failure> {
    let given = arguments.keep.policy();
    let remove_all = arguments.unsafe_allow_remove_all && given.is_none();
    if remove_all && arguments.filter.is_empty() {
        return Err(Failure::usage("--unsafe-allow-remove-all needs a filter: --host, --tag, --label or --path"));
    }
    let policy = match (given, remove_all) {
        (Some(policy), _) => policy,
        (None, true) => Policy::default(),
        (None, false) => settings.retention.policy.clone(),
    };
    if policy.is_empty() && !remove_all {
        return Err(Failure::usage(
            "no rule says what to keep: give --keep-last and so on, set rules in [retention], or name the snapshots to forget",
        ));
    }
    let now = context.env.now();
    Ok(Rules {
        policy,
        group_by: arguments.group_by.unwrap_or(settings.retention.group_by),
        remove_all,
        now: (now.seconds(), now.subsec_nanos()),
        partial_mercy: i64::try_from(settings.retention.partial_mercy.as_secs()).unwrap_or(i64::MAX),
        floor: 0,
        limit_percent: None,
        source_by: settings.retention.group_by,
    })
}

/// The rules of the configuration, with its floor and, unless it is `confirmed` that more may go, its limit; `None`: there
/// are none.
pub fn configured(context: &Context, settings: &Settings, confirmed: bool) -> Option<What> {
    let now = context.env.now();
    let seconds = |length: std::time::Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    let policy = settings.retention.policy.clone();
    (!policy.is_empty()).then(|| {
        What::ByRules(Rules {
            policy,
            group_by: settings.retention.group_by,
            remove_all: false,
            now: (now.seconds(), now.subsec_nanos()),
            partial_mercy: seconds(settings.retention.partial_mercy),
            floor: seconds(settings.lifecycle.forget_floor),
            limit_percent: (!confirmed).then_some(settings.lifecycle.forget_limit),
            source_by: settings.retention.group_by,
        })
    })
}

/// The snapshots that are named; one that was forgotten before may be named again.
async fn ids(repository: &Repository, arguments: &ForgetArguments) -> Result<Vec<Hash>, Failure> {
    let live = repository.live().await;
    let mut ids = Vec::new();
    for text in &arguments.snapshots {
        let wanted = text.to_ascii_lowercase();
        if text.starts_with("latest") || wanted.is_empty() || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            let views = repository.snapshots().await?;
            ids.push(repository.meant(views, |view| arguments.filter.admits(view), text).await?.id);
            continue;
        }
        let fits = |id: &Hash| hex::encode(id).starts_with(&wanted);
        let mut matching: Vec<_> = live.iter().map(|one| one.id).filter(fits).collect();
        if matching.is_empty() {
            matching.extend(repository.forgotten_ids().await.into_iter().filter(fits));
        }
        match matching.as_slice() {
            [one] => ids.push(*one),
            [] => return Err(Failure::usage(format!("there is no snapshot whose id begins with {wanted}"))),
            several => {
                let several = several.len();
                return Err(Failure::usage(format!("{several} snapshots' ids begin with {wanted}: write more of it")));
            }
        }
    }
    Ok(ids)
}

/// Whether a group is worth showing: of named snapshots only what goes is.
fn shown<'g>(group: &'g Group, what: &'g What) -> impl Iterator<Item = &'g Decision> {
    group.decisions.iter().filter(move |d| !d.keep || matches!(what, What::ByRules(_)))
}

/// The report as JSON: one array, a group an item.
pub fn summary(report: &ForgetReport, what: &What) -> Value {
    report.groups.iter().filter_map(|group| of_group(report, group, what)).collect()
}

/// A group in restic's shape, with the reasons of what goes besides.
fn of_group(report: &ForgetReport, group: &Group, what: &What) -> Option<Value> {
    shown(group, what).next()?;
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let of = |keep: bool| shown(group, what).filter(move |d| d.keep == keep);
    let snapshots = |keep: bool| of(keep).map(|d| object(&report.views[d.index])).collect::<Vec<_>>();
    let reasons = |keep: bool| {
        let reason = |d: &Decision| json!({"snapshot": object(&report.views[d.index]), "matches": d.reasons});
        of(keep).map(reason).collect::<Vec<_>>()
    };
    Some(json!({
        "tags": group.key.tags, "host": group.key.host.as_deref().unwrap_or_default(),
        "paths": group.key.paths.as_ref().map(|paths| paths.iter().map(text).collect::<Vec<_>>()),
        "keep": snapshots(true), "remove": snapshots(false), "reasons": reasons(true), "remove_reasons": reasons(false),
    }))
}

/// The report for people.
pub fn print(context: &Context, report: &ForgetReport, what: &What, dry_run: bool) {
    let row = |d: &Decision| {
        let view = &report.views[d.index];
        let s = &view.snapshot;
        vec![
            format!("  {}", short(&s.id)),
            local(time(s), s.utc_offset_seconds),
            if d.keep { "stays" } else { "goes" }.to_owned(),
            name(s.host.as_bytes()),
            s.tags.iter().map(|t| name(t.as_bytes())).collect::<Vec<_>>().join(","),
            format!("{} of {}", view.replicas.len(), report.stores),
            d.reasons.join("; "),
        ]
    };
    let mut stays = 0;
    for group in &report.groups {
        let rows: Vec<_> = shown(group, what).map(row).collect();
        stays += group.decisions.iter().filter(|d| d.keep).count() as u64;
        if !rows.is_empty() {
            context.output.line(name(described(&group.key).as_bytes()));
            table(&rows, &[]).iter().for_each(|line| {
                context.output.line(line);
            });
        }
    }
    let goes = count(report.forgotten.len() as u64, "snapshot");
    context.output.line(match dry_run {
        true => format!("dry run, nothing was written: {goes} would be forgotten, {stays} would stay"),
        false => format!("{goes} forgotten, {stays} {}", if stays == 1 { "stays" } else { "stay" }),
    });
    if !dry_run && !report.forgotten.is_empty() {
        context.output.note("`holdfast undelete` brings back what was whole, as long as nothing was pruned");
    }
}

/// How a forget came out; replicas that did not take part are named.
pub fn outcome(context: &Context, report: &ForgetReport, what: &What) -> Outcome {
    let mut outcome = Outcome::success();
    let passed = |id: &&Hash| matches!(what, What::ByRules(_)) && !report.forgotten.contains(*id);
    for id in report.unreadable.iter().filter(passed) {
        context.output.problem("forget", &short(id), "it is damaged or missing at every store that holds it, and was left alone");
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    if !report.doubtful.is_empty() {
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    let behind: Vec<&ReplicaForgot> = report.replicas.iter().filter(|r| r.behind.is_some()).collect();
    for replica in &behind {
        context.output.problem("forget", &replica.name, replica.behind.as_deref().unwrap_or_default());
    }
    if !report.replicas.is_empty() && !report.short.is_empty() {
        for id in &report.short {
            let message = format!("fewer than {} replicas record that it is forgotten: forget it again", report.quorum);
            context.output.problem("forget", &short(id), &message);
        }
        let fault = worst(behind.iter().filter_map(|r| r.fault)).unwrap_or(Fault::Failed);
        outcome.join(Outcome::failure(fault, context.signal()));
    } else if report.stores - behind.len() < report.quorum && !behind.is_empty() {
        // Nothing had to go, and that is all that can be said: too few logs could be written to.
        let fault = worst(behind.iter().filter_map(|r| r.fault)).unwrap_or(Fault::Failed);
        outcome.join(Outcome::failure(fault, context.signal()));
    } else if !behind.is_empty() {
        outcome.behind();
    }
    outcome
}
