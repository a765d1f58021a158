//! `holdfast lifecycle`: what the configuration says is to become of a repository, in safe order: heal, forget, prune, verify.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::name;
use crate::cli::prune::PruneArguments;
use crate::cli::run::{Ended, tell, uuid};
use crate::cli::{figures, forget, heal, prune, verify};
use crate::clock::Env;
use crate::config::Settings;
use crate::format::Hash;
use crate::lifecycle::prune::PruneSettings;
use crate::lifecycle::rotation::{self, Due, NOTE_ROTATION};
use crate::metrics::ping::Sign;
use crate::repository::error::Fault;
use crate::repository::keyring::Unlock;
use crate::repository::{Access, Repository};
use crate::verify::VerifySettings;
use crate::verify::share::Share;

/// Arguments.
#[derive(Args)]
pub struct LifecycleArguments {
    /// Let the rules forget more of the snapshots than the configured limit allows, this once
    #[arg(long)]
    pub confirm: bool,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Does what is due.
pub async fn run(context: &Context, arguments: LifecycleArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let began = context.env.elapsed();
    let dry_run = arguments.dry_run;
    let (told_to, run_id) = (settings.lifecycle.ping.as_ref().filter(|_| !dry_run), uuid(context.env.random()));
    tell(context, told_to, &run_id, Sign::Start, "").await;
    let (unlock, done) = match context.unlock(&settings, false).await {
        Ok(unlock) => {
            let done = context.in_time(steps(context, &settings, &unlock, arguments, false)).await;
            (Some(unlock), done)
        }
        Err(failure) => (None, Err(failure)),
    };
    if !dry_run {
        let outcome = match &done {
            Ok(done) => done.outcome.clone(),
            Err(failure) => Outcome::failure(failure.fault, context.signal()),
        };
        let ended = Ended { outcome, at: context.env.now(), took: context.env.elapsed().saturating_sub(began) };
        let told = figures::Told { run: None, jobs: &[], lifecycle: Some(&ended) };
        for problem in figures::leave(context, &settings, unlock.as_ref(), &told).await {
            context.output.warn(&problem);
        }
        let text = match &done {
            Ok(done) => format!("lifecycle: exit code {}", done.outcome.code()),
            Err(failure) => format!("lifecycle: {}", failure.message),
        };
        tell(context, told_to, &run_id, Sign::End(ended.outcome.code()), &text).await;
    }
    let done = done?;
    context.output.summary(&done.summary);
    Ok(done.outcome)
}

/// What a lifecycle came to.
pub struct Done {
    /// Every step, as JSON.
    pub summary: Value,
    /// How it came out.
    pub outcome: Outcome,
    /// What this identity is denied and therefore was left to another one.
    pub denied: Vec<String>,
}

/// Does what is due, step by step. A step that fails is named, and the next goes on where that is safe: nothing is pruned by rules
/// that were refused or not written down. With `forgiving`, what a provider denies this identity is no failure: another
/// identity is meant to do it.
pub async fn steps(
    context: &Context,
    settings: &Settings,
    unlock: &Unlock,
    arguments: LifecycleArguments,
    forgiving: bool,
) -> Result<Done, Failure> {
    let began = context.env.elapsed();
    let dry_run = arguments.dry_run;
    let access = if dry_run { Access::Read } else { Access::Write };
    let mut repository = context.open(settings, unlock, access).await?;
    let mut steps = Steps { context, said: Map::new(), outcome: Outcome::success(), forgiving, denied: Vec::new() };

    steps.begin("heal");
    let healed = heal::step(context, settings, unlock, &mut repository, Vec::new(), dry_run).await;
    let mut lost = None;
    if let Some((report, begun)) = steps.done("heal", healed) {
        lost = Some(report.lost.iter().map(|(id, ..)| *id).collect::<BTreeSet<_>>());
        let outcome = heal::outcome(context, &report);
        steps.report("heal", heal::summary(&report, &begun), outcome, || heal::print(context, &report));
    }

    let (mut forgotten, mut going) = (false, BTreeSet::new());
    if steps.go_on() {
        steps.begin("forget");
        match (forget::configured(context, settings, arguments.confirm), lost) {
            (None, _) => {
                forgotten = true;
                steps.skip("forget", "there are no rules in [retention]: nothing is forgotten");
            }
            (Some(_), None) => steps.skip("forget", "heal failed, so nobody knows what is whole: nothing is forgotten"),
            (Some(what), Some(lost)) => {
                let done = forget::step(context, &repository, &what, &|_| true, &lost, dry_run).await;
                if let Some(mut report) = steps.done("forget", done) {
                    if dry_run {
                        // What lags would have been healed before; who is away was told of by the heal.
                        report.replicas.retain(|replica| !replica.disputed.is_empty());
                    }
                    going.clone_from(&report.forgotten);
                    let outcome = forget::outcome(context, &report, &what);
                    forgotten = matches!(outcome.code(), 0 | 4 | 14);
                    let over = report.over_limit.clone();
                    steps.report("forget", forget::summary(&report, &what), outcome, || {
                        forget::print(context, &report, &what, dry_run);
                    });
                    if let Some(why) = over {
                        forgotten = false;
                        steps.fail("forget", &Failure::new(Fault::Refused, format!("{why}: it would be refused")));
                    }
                }
            }
        }
    }

    if steps.go_on() {
        steps.begin("prune");
        match forgotten {
            false => steps.skip("prune", "what is to stay was not settled: nothing is pruned"),
            true => {
                // What a dry run does not forget counts as forgotten for the next step.
                let forgotten = if dry_run { going } else { BTreeSet::new() };
                let how = prune::how(settings, &PruneArguments { dry_run, ..Default::default() });
                let done = prune::step(context, &repository, &PruneSettings { forgotten, ..how }).await;
                if let Some(report) = steps.done("prune", done) {
                    let outcome = match prune::denied(&report).filter(|_| steps.forgiving) {
                        Some(why) => {
                            steps.denied.push(why);
                            Outcome::success()
                        }
                        None => prune::outcome(context, &report),
                    };
                    steps.report("prune", prune::summary(&report), outcome, || prune::print(context, &report));
                }
            }
        }
    }

    if steps.go_on() {
        steps.begin("verify");
        match dry_run {
            true => {
                let due = due(&repository, settings, today(&context.env)).await;
                let slices: Vec<Value> = due.iter().map(|(store, (due, _))| slices(store, *due)).collect();
                steps.skip("verify", "a dry run reads nothing");
                steps.said.insert("slices".into(), slices.into());
            }
            false => {
                // Prune has changed what lies where.
                drop(repository);
                let verified = verify_due(&mut steps, settings, unlock).await;
                steps.done("verify", verified);
            }
        }
    }
    Ok(steps.finish(began, dry_run))
}

/// The day that slices are counted by.
fn today(env: &Env) -> i64 {
    rotation::day(env.now().seconds())
}

/// What is due at each replica whose log can be read, and the packs that earlier slices left unread there.
async fn due(repository: &Repository, settings: &Settings, today: i64) -> BTreeMap<String, (Option<Due>, BTreeSet<Hash>)> {
    let mut all = BTreeMap::new();
    for replica in &repository.set.replicas {
        if let Some(log) = repository.log(replica.index).await {
            let note = log.state.notes.get(NOTE_ROTATION).map(|(_, note)| note.text.as_str());
            let (last, unread) = note.and_then(|text| rotation::noted(text, settings.lifecycle.verify_days)).unzip();
            let due = rotation::due(last, today, settings.lifecycle.verify_days);
            all.insert(replica.name.clone(), (due, unread.unwrap_or_default()));
        }
    }
    all
}

fn slices(store: &str, due: Option<Due>) -> Value {
    match due {
        Some(due) => json!({"name": store, "nth": due.nth, "of": due.of, "count": due.count}),
        None => json!({"name": store, "count": 0}),
    }
}

/// Verifies what is there, reads the slices that are due, and notes that they were read.
async fn verify_due(steps: &mut Steps<'_>, settings: &Settings, unlock: &Unlock) -> Result<(), Failure> {
    let context = steps.context;
    let repository = context.open(settings, unlock, Access::Write).await?;
    let today = today(&context.env);
    let due = due(&repository, settings, today).await;
    steps.said.insert("slices".into(), due.iter().map(|(store, (due, _))| slices(store, *due)).collect::<Vec<_>>().into());
    let share = |due: &Due| Share::Slice { nth: due.nth, of: due.of, count: due.count };
    let shares = due.iter().map(|(store, (due, _))| (store.clone(), due.as_ref().map(share))).collect();
    let besides = due.iter().map(|(store, (_, unread))| (store.clone(), unread.clone())).collect();
    let how = VerifySettings { shares, besides, memory: settings.memory, ..VerifySettings::default() };
    let report = verify::step(context, &repository, &how).await?;
    for replica in &report.replicas {
        if let Some(why) = &replica.unreachable {
            context.output.problem("verify", &replica.name, why);
        }
    }
    for replica in &repository.set.replicas {
        let verified = report.replicas.iter().find(|r| r.name == replica.name && r.unreachable.is_none());
        let read = due.get(&replica.name).is_some_and(|(due, _)| due.is_some());
        if let Some(verified) = verified.filter(|_| read && repository.writable().has(replica.index)) {
            if verified.unread_count > verified.unread.len() as u64 {
                // Too many to be named: nothing is noted, and the same slices are read again.
                continue;
            }
            let text = rotation::text(today, settings.lifecycle.verify_days, &verified.unread);
            if let Err(e) = context.interruptible(repository.note(replica.index, NOTE_ROTATION, text)).await? {
                // The same slices are read again: a cost, no loss.
                context.output.warn(&format!("noting at {} what was read: {}", replica.name, Failure::from(e).message));
            }
        }
    }
    context.output.note_if(repository.save_heads().err());
    let outcome = verify::outcome(&report);
    steps.report("verify", verify::summary(&report, &how), outcome, || verify::print(context, &report, &how));
    Ok(())
}

/// What was done so far, and how that came out.
struct Steps<'c> {
    context: &'c Context,
    said: Map<String, Value>,
    outcome: Outcome,
    forgiving: bool,
    denied: Vec<String>,
}

impl Steps<'_> {
    /// Says that a step begins.
    fn begin(&self, step: &str) {
        if !self.context.output.json {
            self.context.output.line(format_args!("{step}:"));
            self.context.output.flush();
        }
    }

    /// Takes in how a step went.
    fn report(&mut self, step: &str, mut summary: Value, outcome: Outcome, print: impl FnOnce()) {
        if let Some(fields) = summary.as_object_mut() {
            fields.remove("message_type");
        }
        self.said.insert(step.into(), summary);
        self.outcome.join(outcome);
        if !self.context.output.json {
            print();
        }
    }

    /// Takes in why a step was left out.
    fn skip(&mut self, step: &str, why: &str) {
        self.said.insert(step.into(), json!({"skipped": why}));
        if !self.context.output.json {
            self.context.output.line(name(why.as_bytes()));
        }
    }

    /// Takes in that a step failed.
    fn fail(&mut self, step: &str, failure: &Failure) {
        self.context.output.problem("lifecycle", step, &failure.message);
        self.outcome.join(Outcome::failure(failure.fault, self.context.signal()));
    }

    fn done<T>(&mut self, step: &str, result: Result<T, Failure>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(failure) if self.forgiving && failure.fault == Fault::Denied => {
                self.said.insert(step.into(), json!({"skipped": failure.message}));
                self.denied.push(format!("{step}: {}", failure.message));
                None
            }
            Err(failure) => {
                self.said.insert(step.into(), json!({"failed": failure.message}));
                self.fail(step, &failure);
                None
            }
        }
    }

    /// Whether the next step is worth starting.
    fn go_on(&self) -> bool {
        !self.outcome.stops_the_run() && !self.context.stop.requested()
    }

    fn finish(mut self, began: std::time::Duration, dry_run: bool) -> Done {
        if self.context.stop.requested() {
            self.outcome.join(Outcome::failure(Fault::Interrupted, self.context.signal()));
        }
        let seconds = self.context.env.elapsed().saturating_sub(began).as_secs_f64();
        let mut summary = json!({"message_type": "summary", "dry_run": dry_run, "seconds_elapsed": seconds});
        if let Some(fields) = summary.as_object_mut() {
            fields.append(&mut self.said);
        }
        Done { summary, outcome: self.outcome, denied: self.denied }
    }
}
