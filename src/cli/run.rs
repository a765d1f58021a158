//! `holdfast run`: what a scheduled job calls. Jobs one after the other, each with its hooks and signs of life, then the lifecycle;
//! one summary, one exit code. Every part is safe to run twice at once and to be killed, and so is the whole.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::backup::BackupReport;
use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::hooks::{Facts, Moment};
use crate::cli::init::initialise;
use crate::cli::lifecycle::LifecycleArguments;
use crate::cli::output::{count, duration, name, printable, short, size, table};
use crate::cli::{backup, figures, hooks, lifecycle, log};
use crate::clock::Time;
use crate::config::{Job, Settings};
use crate::metrics::ping::{Sign, ping};
use crate::metrics::post::{Address, Patience};
use crate::repository::error::Fault;
use crate::repository::keyring::Unlock;

/// Arguments.
#[derive(Args)]
pub struct RunArguments {
    /// Make the repository first where it is missing, and a fresh secret where the configured file is missing
    #[arg(long)]
    pub init: bool,
    /// Only this configured job; may be repeated
    #[arg(long, value_name = "NAME")]
    pub job: Vec<String>,
    /// Back up only: the lifecycle is another identity's business
    #[arg(long)]
    pub no_lifecycle: bool,
}

/// How something that was done ended.
pub struct Ended {
    /// How it came out.
    pub outcome: Outcome,
    /// When.
    pub at: Time,
    /// How long it took.
    pub took: Duration,
}

/// A job that had its turn, or did not get it.
pub struct JobDone {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub ended: Ended,
    /// What was done, where something was committed.
    pub done: Option<backup::Done>,
    /// What went wrong.
    pub errors: Vec<String>,
    summary: Map<String, Value>,
}

impl JobDone {
    /// What the backup came to, where something was committed.
    pub fn report(&self) -> Option<&BackupReport> {
        self.done.as_ref().map(|done| &done.report)
    }
}

/// A lifecycle that had its turn.
pub struct LifecycleDone {
    /// How it ended.
    pub ended: Ended,
    summary: Value,
    denied: Vec<String>,
}

/// Everything that a run did.
pub struct Done {
    /// The run, for whoever pairs what it tells.
    pub run_id: String,
    /// The jobs, in order.
    pub jobs: Vec<JobDone>,
    /// The lifecycle; none when it did not get its turn.
    pub lifecycle: Option<LifecycleDone>,
    /// The whole.
    pub ended: Ended,
}

/// Runs the jobs, then the lifecycle.
pub async fn run(context: &Context, arguments: RunArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let jobs = chosen(&settings, &arguments.job)?;
    let run_id = uuid(context.env.random());
    let whole = Run { context, settings: &settings, run_id: &run_id };
    let outcome = log::within(&run_id, "", async {
        let began = context.env.elapsed();
        whole.tell(settings.ping.as_ref(), Sign::Start, "").await;
        let (jobs, lifecycle, outcome, unlock) = whole.work(&jobs, &arguments).await;
        let ended = Ended { outcome, at: context.env.now(), took: context.env.elapsed().saturating_sub(began) };
        let done = Done { run_id: run_id.clone(), jobs, lifecycle, ended };
        let told =
            figures::Told { run: Some(&done.ended), jobs: &done.jobs, lifecycle: done.lifecycle.as_ref().map(|one| &one.ended) };
        for problem in figures::leave(context, &settings, unlock.as_ref(), &told).await {
            context.output.warn(&problem);
        }
        let code = done.ended.outcome.code();
        let text = text(&done);
        whole.tell(settings.ping.as_ref(), Sign::End(code), &text.join("\n")).await;
        context.output.summary(&summary(&done));
        if !context.output.json {
            context.output.line(text.join("\n"));
        }
        if context.output.logs() {
            log::ended("the run ended", code, done.ended.took.as_secs_f64(), &format!("exit code {code}"));
        }
        done.ended.outcome
    })
    .await;
    Ok(outcome)
}

/// The jobs that are meant.
fn chosen<'s>(settings: &'s Settings, wanted: &[String]) -> Result<Vec<&'s Job>, Failure> {
    if settings.jobs.is_empty() {
        return Err(Failure::usage("nothing to back up: configure a [[job]]"));
    }
    if let Some(unknown) = wanted.iter().find(|wanted| !settings.jobs.iter().any(|job| job.backup.label == **wanted)) {
        return Err(Failure::usage(format!("there is no job {unknown:?} in the configuration")));
    }
    let is_wanted = |job: &&Job| wanted.is_empty() || wanted.contains(&job.backup.label);
    Ok(settings.jobs.iter().filter(is_wanted).collect())
}

/// Tells whoever wants to hear of it. It never fails what it tells of.
pub(super) async fn tell(context: &Context, to: Option<&Address>, run_id: &str, sign: Sign, body: &str) {
    let patience = if context.stop.requested() { Patience::HURRIED } else { Patience::USUAL };
    let Some(to) = to else { return };
    let told = ping(&context.env, to, run_id, sign, body, patience);
    if let Some(Err(why)) = context.hurried(Patience::HURRIED.timeout, told).await {
        context.output.warn(&why);
    }
}

/// A UUID (version 4) of random bytes.
pub(super) fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Whether a snapshot was committed at quorum, with or without a flaw.
fn committed(outcome: &Outcome) -> bool {
    matches!(outcome.code(), 0 | 3 | 4 | 5)
}

struct Run<'c> {
    context: &'c Context,
    settings: &'c Settings,
    run_id: &'c str,
}

impl Run<'_> {
    /// Tells whoever wants to hear of it. It never fails the run.
    async fn tell(&self, to: Option<&Address>, sign: Sign, body: &str) {
        tell(self.context, to, self.run_id, sign, body).await;
    }

    async fn hook(&self, hooks: &crate::config::run::Hooks, moment: Moment, facts: &Facts) -> Vec<String> {
        let problems = hooks::run(self.context, hooks, moment, facts).await;
        let item = if facts.job.is_empty() { "run" } else { &facts.job };
        problems.iter().for_each(|problem| self.context.output.problem("hook", item, problem));
        problems
    }

    /// Everything between the first sign of life and the last.
    async fn work(
        &self,
        jobs: &[&Job],
        arguments: &RunArguments,
    ) -> (Vec<JobDone>, Option<LifecycleDone>, Outcome, Option<Unlock>) {
        let (context, hooks) = (self.context, &self.settings.hooks);
        let mut facts = Facts { operation: "run", ..Facts::default() };
        let mut outcome = Outcome::success();
        let (mut done, mut lifecycle, mut unlock) = (Vec::new(), None, None);
        let mut errors = self.hook(hooks, Moment::Before, &facts).await;
        if errors.is_empty() {
            match self.open(arguments.init).await {
                Ok(opened) => unlock = Some(opened),
                Err(failure) => {
                    context.output.problem("run", "repository", &failure.message);
                    outcome.join(Outcome::failure(failure.fault, context.signal()));
                    errors.push(failure.message);
                }
            }
        } else {
            outcome.join(Outcome::failure(Fault::Failed, None));
        }
        if let Some(unlock) = &unlock {
            // A wrong key is wrong for all of them; whatever else befalls one job, the next may do better.
            let mut over = false;
            for job in jobs {
                over |= context.stop.requested();
                let one = log::within(self.run_id, &job.backup.label, self.job(job, unlock, over)).await;
                over |= one.ended.outcome == Outcome::failure(Fault::WrongKey, None);
                outcome.join(one.ended.outcome.clone());
                done.push(one);
                context.output.flush();
            }
            if !arguments.no_lifecycle && !over && !context.stop.requested() {
                let one = self.lifecycle(unlock).await;
                outcome.join(one.ended.outcome.clone());
                lifecycle = Some(one);
            }
        } else {
            let why = errors.join("; ");
            for job in jobs {
                done.push(self.left_out(job, outcome.clone(), &format!("not begun: {why}")).await);
            }
        }
        if context.stop.requested() {
            outcome.join(Outcome::failure(Fault::Interrupted, context.signal()));
        }
        errors.extend(done.iter().flat_map(|job| job.errors.iter().map(|error| format!("{}: {error}", job.name))));
        facts.exit_code = Some(outcome.code());
        facts.error = (!errors.is_empty()).then(|| errors.join("; "));
        let moment = if committed(&outcome) { Moment::After } else { Moment::Failed };
        let mut late = self.hook(hooks, moment, &facts).await;
        late.extend(self.hook(hooks, Moment::Finally, &facts).await);
        if !late.is_empty() {
            outcome.join(Outcome::failure(Fault::Failed, None));
        }
        (done, lifecycle, outcome, unlock)
    }

    /// Reads the secret, and makes the repository where that is wanted.
    async fn open(&self, init: bool) -> Result<Unlock, Failure> {
        if !init {
            return self.context.unlock(self.settings, false).await;
        }
        let done = initialise(self.context, self.settings).await?;
        if done.report.created {
            self.context.output.note(&format!("made repository {}", hex::encode(done.report.repository_id)));
        }
        Ok(done.unlock)
    }

    /// One job with its hooks and signs of life, unless the run is over.
    async fn job(&self, job: &Job, unlock: &Unlock, over: bool) -> JobDone {
        let context = self.context;
        let name = &job.backup.label;
        if over {
            let stopped = if context.stop.requested() { Fault::Interrupted } else { Fault::Failed };
            let outcome = Outcome::failure(stopped, context.signal());
            return self.left_out(job, outcome, "not begun: the run was over before").await;
        }
        let began = context.env.elapsed();
        self.tell(job.ping.as_ref(), Sign::Start, "").await;
        let mut facts = Facts { job: name.clone(), operation: "backup", ..Facts::default() };
        let mut errors = self.hook(&job.hooks, Moment::Before, &facts).await;
        let (mut outcome, mut done, mut fields) = (Outcome::success(), None, Map::new());
        if !errors.is_empty() {
            outcome.join(Outcome::failure(Fault::Failed, None));
        } else {
            match backup::step(context, self.settings, &job.backup, unlock, true).await {
                Ok(one) => {
                    outcome.join(backup::outcome(&one.report, context.signal()));
                    facts.snapshot = one.report.snapshot.map(hex::encode);
                    if let Value::Object(own) = backup::summary(&one, &job.backup) {
                        fields = own;
                    }
                    if !context.output.json {
                        backup::print(context, self.settings, &job.backup, &one.report);
                    }
                    self.log_replicas(&one.report);
                    done = Some(one);
                }
                Err(failure) => {
                    context.output.problem("backup", name, &failure.message);
                    outcome.join(Outcome::failure(failure.fault, context.signal()));
                    errors.push(failure.message);
                }
            }
        }
        facts.exit_code = Some(outcome.code());
        facts.error = (!errors.is_empty()).then(|| errors.join("; "));
        let moment = if committed(&outcome) { Moment::After } else { Moment::Failed };
        let mut late = self.hook(&job.hooks, moment, &facts).await;
        late.extend(self.hook(&job.hooks, Moment::Finally, &facts).await);
        if !late.is_empty() {
            outcome.join(Outcome::failure(Fault::Failed, None));
            errors.append(&mut late);
        }
        let ended = Ended { outcome, at: context.env.now(), took: context.env.elapsed().saturating_sub(began) };
        let one = JobDone { name: name.clone(), ended, done, errors, summary: fields };
        let code = one.ended.outcome.code();
        let said = row(&one).join("  ").trim().to_owned();
        if context.output.logs() {
            log::ended("the job ended", code, one.ended.took.as_secs_f64(), &printable(&said));
        }
        self.tell(job.ping.as_ref(), Sign::End(code), &said).await;
        one
    }

    fn log_replicas(&self, report: &BackupReport) {
        if self.context.output.logs() {
            for replica in &report.replicas {
                let behind = replica.behind.as_deref().map(printable);
                let behind = if replica.committed { None } else { Some(behind.unwrap_or_default()) };
                log::replica(&replica.name, replica.committed, replica.sent, behind.as_deref());
            }
        }
    }

    /// A job that did not get its turn; whoever waits for it hears of it.
    async fn left_out(&self, job: &Job, outcome: Outcome, why: &str) -> JobDone {
        self.tell(job.ping.as_ref(), Sign::End(outcome.code()), why).await;
        let ended = Ended { outcome, at: self.context.env.now(), took: Duration::ZERO };
        JobDone { name: job.backup.label.clone(), ended, done: None, errors: vec![why.to_owned()], summary: Map::new() }
    }

    async fn lifecycle(&self, unlock: &Unlock) -> LifecycleDone {
        let context = self.context;
        let began = context.env.elapsed();
        let arguments = LifecycleArguments { confirm: false, dry_run: false };
        let (outcome, summary, denied) =
            match context.in_time(lifecycle::steps(context, self.settings, unlock, arguments, true)).await {
                Ok(done) => (done.outcome, done.summary, done.denied),
                Err(failure) if failure.fault == Fault::Denied => {
                    (Outcome::success(), json!({"skipped": failure.message}), vec![failure.message])
                }
                Err(failure) => {
                    context.output.problem("lifecycle", "lifecycle", &failure.message);
                    (Outcome::failure(failure.fault, context.signal()), json!({"failed": failure.message}), Vec::new())
                }
            };
        for why in &denied {
            context.output.note(&format!("left to an identity that may delete (`holdfast lifecycle`): {why}"));
        }
        let ended = Ended { outcome, at: context.env.now(), took: context.env.elapsed().saturating_sub(began) };
        if context.output.logs() {
            let code = ended.outcome.code();
            log::ended("the lifecycle ended", code, ended.took.as_secs_f64(), &format!("exit code {code}"));
        }
        LifecycleDone { ended, summary, denied }
    }
}

/// A job as a row of the summary.
fn row(job: &JobDone) -> Vec<String> {
    let mut row = vec![name(job.name.as_bytes()), job.ended.outcome.code().to_string()];
    row.push(match job.report().and_then(|report| report.snapshot) {
        Some(id) => short(&id),
        None => "no snapshot".to_owned(),
    });
    row.push(job.report().map_or(String::new(), |report| {
        let s = &report.statistics;
        format!("{} in {}, {} added", size(s.bytes), count(s.files, "file"), size(s.data_added_stored))
    }));
    row.push(duration(job.ended.took));
    let unread = job.report().map_or(0, |report| report.errors);
    let behind = job.report().into_iter().flat_map(|r| &r.replicas).filter(|r| !r.committed);
    let mut told: Vec<String> = behind.map(|r| format!("{} left behind", r.name)).collect();
    if unread > 0 {
        told.push(format!("{} unreadable", count(unread, "item")));
    }
    told.extend(job.errors.iter().map(|error| printable(error).replace('\n', " ")));
    row.push(told.join("; "));
    row
}

/// The summary for people.
fn text(done: &Done) -> Vec<String> {
    let head = ["job", "exit code", "snapshot", "content", "took", ""].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(done.jobs.iter().map(row)).collect();
    let mut lines = table(&rows, &[1]);
    lines.push(match &done.lifecycle {
        None => "lifecycle: not run".to_owned(),
        Some(one) if one.denied.is_empty() => format!("lifecycle: exit code {}", one.ended.outcome.code()),
        Some(one) => {
            let denied = count(one.denied.len() as u64, "step");
            format!("lifecycle: exit code {}, {denied} left to an identity that may delete", one.ended.outcome.code())
        }
    });
    lines.push(format!("exit code {} after {}", done.ended.outcome.code(), duration(done.ended.took)));
    lines
}

/// The summary as JSON.
fn summary(done: &Done) -> Value {
    let job = |job: &JobDone| {
        let mut fields = job.summary.clone();
        fields.remove("message_type");
        fields.insert("name".into(), job.name.clone().into());
        fields.insert("exit_code".into(), job.ended.outcome.code().into());
        fields.insert("seconds_elapsed".into(), job.ended.took.as_secs_f64().into());
        fields.insert("messages".into(), job.errors.clone().into());
        Value::Object(fields)
    };
    let lifecycle = done.lifecycle.as_ref().map(|one| {
        let mut fields = one.summary.as_object().cloned().unwrap_or_default();
        fields.remove("message_type");
        fields.insert("exit_code".into(), one.ended.outcome.code().into());
        fields.insert("denied".into(), one.denied.clone().into());
        Value::Object(fields)
    });
    json!({
        "message_type": "summary", "run_id": done.run_id, "exit_code": done.ended.outcome.code(),
        "seconds_elapsed": done.ended.took.as_secs_f64(), "jobs": done.jobs.iter().map(job).collect::<Vec<_>>(),
        "lifecycle": lifecycle,
    })
}

#[cfg(test)]
mod tests {
    use crate::cli::run::uuid;

    #[test]
    fn run_ids_are_uuids() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
