//! The figures of a run: what it did, and how the repository stands afterwards; to a file, and to a Pushgateway. What cannot be
//! known from here is left out, never guessed. Nothing here fails a run.

use std::collections::BTreeMap;

use crate::cli::context::{Context, Failure};
use crate::cli::run::{Ended, JobDone};
use crate::cli::snapshots::time;
use crate::clock::Time;
use crate::config::Settings;
use crate::metrics::figures::{Figures, Labels};
use crate::metrics::file;
use crate::metrics::names::{
    EXPECTED_INTERVAL, INFO, LAST_RUN_BYTES, LAST_RUN_DURATION, LAST_RUN_ERRORS, LAST_RUN_EXIT_CODE, LAST_RUN_FILES,
    LAST_RUN_REQUESTS, LAST_RUN_RETRIES, LAST_RUN_STATUS, LAST_RUN_TIMESTAMP, LAST_SUCCESS_TIMESTAMP, Metric, NEWEST_SNAPSHOT,
    OLDEST_SNAPSHOT, REPLICA_BEHIND, REPLICA_BYTES, REPLICA_LAST_SUCCESS, REPLICA_LAST_VERIFY, REPLICA_PACKS, REPLICA_UP,
    SNAPSHOTS,
};
use crate::metrics::post::Patience;
use crate::metrics::push::push;
use crate::repository::Access;
use crate::repository::keyring::Unlock;
use crate::repository::snapshots::SnapshotView;
use crate::repository::status::ReplicaStatus;
use crate::store::meter::Operation;

/// How the repository stands.
struct Stands {
    id: String,
    replicas: Vec<ReplicaStatus>,
    /// Complete snapshots at quorum, oldest first.
    snapshots: Vec<SnapshotView>,
    /// Whether every snapshot could be read.
    whole: bool,
}

/// What was done, as far as figures tell it.
pub struct Told<'d> {
    /// The whole, where a schedule called for all of it.
    pub run: Option<&'d Ended>,
    /// The jobs that had their turn.
    pub jobs: &'d [JobDone],
    /// The lifecycle; none when it had not.
    pub lifecycle: Option<&'d Ended>,
}

/// Leaves the figures of what was done where the settings want them; gives what went wrong.
pub async fn leave(context: &Context, settings: &Settings, unlock: Option<&Unlock>, done: &Told<'_>) -> Vec<String> {
    let wanted = &settings.metrics;
    if wanted.file.is_none() && wanted.push.is_none() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    // Before the repository is asked how it stands: that is not what the run cost.
    let asked = requests(context);
    let stands = match unlock {
        Some(unlock) => match context.interruptible(look(context, settings, unlock)).await.and_then(|stands| stands) {
            Ok(stands) => Some(stands),
            Err(failure) => {
                problems.push(format!("the figures lack how the repository stands: {}", failure.message));
                None
            }
        },
        None => None,
    };
    let place = wanted.file.clone();
    let before = match place.clone() {
        Some(path) => context.env.blocking(move || file::read(&path)).await.unwrap_or_default(),
        None => Figures::default(),
    };
    let id = stands.as_ref().map_or_else(|| only_repository(&before), |stands| stands.id.clone());
    let mut figures = Figures::default();
    of_run(&mut figures, settings, done, &id);
    for ((replica, kind), calls) in &asked.calls {
        figures.set(&LAST_RUN_REQUESTS, &[("repository", &id), ("replica", replica), ("kind", kind)], *calls as f64);
    }
    for (replica, times) in &asked.again {
        figures.set(&LAST_RUN_RETRIES, &[("repository", &id), ("replica", replica)], *times as f64);
    }
    if let Some(stands) = &stands {
        of_repository(&mut figures, settings, stands);
    }
    let keep = Keep {
        id: id.clone(),
        configured: settings.jobs.iter().map(|job| job.backup.label.clone()).collect(),
        had_turn: done.jobs.iter().map(|job| job.name.clone()).collect(),
        run: done.run.is_some(),
        lifecycle: done.lifecycle.is_some(),
    };
    if let Some(path) = place {
        let shown = path.display().to_string();
        let own = figures.clone();
        let make = move |before: Figures| {
            let mut all = own;
            all.take_over(&before, |metric, labels| keep.holds(metric, labels));
            all
        };
        if let Err(e) = context.env.blocking(move || file::replace(&path, make)).await {
            problems.push(format!("writing the figures to {shown}: {e}"));
        }
    }
    if let Some(to) = &wanted.push {
        let patience = if context.stop.requested() { Patience::HURRIED } else { Patience::USUAL };
        let pushed = context.hurried(Patience::HURRIED.timeout, push(&context.env, to, &id, &figures, patience)).await;
        let late = || vec![format!("pushing the figures to {to}: given up, since the run was asked to stop")];
        problems.extend(pushed.unwrap_or_else(late));
    }
    problems
}

/// What of earlier figures is still true.
struct Keep {
    id: String,
    configured: Vec<String>,
    had_turn: Vec<String>,
    run: bool,
    lifecycle: bool,
}

impl Keep {
    fn holds(&self, metric: &Metric, labels: &Labels) -> bool {
        if labels.get("repository").is_some_and(|id| *id != self.id) {
            return false;
        }
        match labels.get("job") {
            Some(job) if !self.configured.contains(job) => false,
            // When a job last went well stays true, whatever became of it now.
            _ if *metric == LAST_SUCCESS_TIMESTAMP => true,
            Some(job) => !self.had_turn.contains(job),
            None => match labels.get("operation").map(String::as_str) {
                Some("run") => !self.run,
                Some("lifecycle") => !self.lifecycle,
                _ => false,
            },
        }
    }
}

/// The one repository that earlier figures are of; empty if there is none, or more than one.
fn only_repository(before: &Figures) -> String {
    let ids = before.values_of("repository");
    match ids.len() {
        1 => ids.first().map(|id| (*id).to_owned()).unwrap_or_default(),
        _ => String::new(),
    }
}

async fn look(context: &Context, settings: &Settings, unlock: &Unlock) -> Result<Stands, Failure> {
    let repository = context.open(settings, unlock, Access::Read).await?;
    let replicas = context.interruptible(repository.status()).await??;
    let mut snapshots = context.interruptible(repository.snapshots()).await??;
    let whole = repository.unreadable(&snapshots).await.is_empty() && replicas.iter().any(|r| r.error.is_none());
    // Who is away may hold it as well: what counted yesterday must not count less today.
    let away = replicas.iter().filter(|r| r.error.is_some()).count();
    let quorum = repository.set.write_quorum();
    snapshots.retain(|view| !view.snapshot.partial && view.replicas.len() + away >= quorum);
    Ok(Stands { id: crate::cli::output::short(&repository.id()), replicas, snapshots, whole })
}

/// What was asked of every store.
#[derive(Default)]
struct Asked {
    calls: BTreeMap<(String, &'static str), u64>,
    again: BTreeMap<String, u64>,
}

fn requests(context: &Context) -> Asked {
    const KINDS: [(&str, Operation); 5] = [
        ("put", Operation::Put),
        ("get", Operation::Get),
        ("stat", Operation::Stat),
        ("list", Operation::List),
        ("delete", Operation::Delete),
    ];
    let mut asked = Asked::default();
    let Ok(meters) = context.meters.lock() else { return asked };
    for (replica, meter) in meters.iter() {
        let figures = meter.snapshot();
        for (kind, operation) in KINDS {
            *asked.calls.entry((replica.clone(), kind)).or_default() += figures.total(operation).calls;
        }
        *asked.again.entry(replica.clone()).or_default() += meter.sent_again();
    }
    asked
}

/// What was asked of every store, a line for each.
pub fn asked(context: &Context) -> Vec<String> {
    let asked = requests(context);
    let of = |replica: &String| {
        let calls = |kind| asked.calls.get(&(replica.clone(), kind)).copied().unwrap_or(0);
        let [put, get, stat, list, delete] = ["put", "get", "stat", "list", "delete"].map(calls);
        let again = asked.again[replica];
        format!("requests to {replica}: {put} put, {get} get, {stat} stat, {list} list, {delete} delete; and {again} sent again")
    };
    asked.again.keys().map(of).collect()
}

fn seconds(time: Time) -> f64 {
    time.0 as f64 / 1e9
}

/// 0 well, 1 partly, 2 failed.
fn status(code: u8) -> f64 {
    match code {
        0 => 0.0,
        3..=5 => 1.0,
        _ => 2.0,
    }
}

/// What the run did.
fn of_run(figures: &mut Figures, settings: &Settings, done: &Told<'_>, id: &str) {
    let version = env!("CARGO_PKG_VERSION");
    figures.set(&INFO, &[("repository", id), ("version", version)], 1.0);
    for job in &settings.jobs {
        if let Some(every) = job.every {
            let labels = [("repository", id), ("job", &job.backup.label)];
            figures.set(&EXPECTED_INTERVAL, &labels, every.as_secs_f64());
        }
    }
    let mut ended = |job: &str, operation: &str, ended: &Ended| {
        let labels = [("repository", id), ("job", job), ("operation", operation)];
        let code = ended.outcome.code();
        figures.set(&LAST_RUN_TIMESTAMP, &labels, seconds(ended.at));
        figures.set(&LAST_RUN_STATUS, &labels, status(code));
        figures.set(&LAST_RUN_EXIT_CODE, &labels, f64::from(code));
        figures.set(&LAST_RUN_DURATION, &labels, ended.took.as_secs_f64());
        // Of a job the repository says it.
        if job.is_empty() && code == 0 {
            figures.set(&LAST_SUCCESS_TIMESTAMP, &labels, seconds(ended.at));
        }
    };
    if let Some(run) = done.run {
        ended("", "run", run);
    }
    if let Some(lifecycle) = done.lifecycle {
        ended("", "lifecycle", lifecycle);
    }
    done.jobs.iter().for_each(|job| ended(&job.name, "backup", &job.ended));
    for job in done.jobs {
        let Some(report) = job.report() else { continue };
        let labels = [("repository", id), ("job", job.name.as_str()), ("operation", "backup")];
        let with = |name: &'static str, value: &'static str| [&labels[..], &[(name, value)]].concat();
        let s = &report.statistics;
        let sent: u64 = report.replicas.iter().map(|replica| replica.sent).sum();
        let bytes = [("read", s.bytes_read), ("new", s.data_added), ("stored", s.data_added_stored), ("uploaded", sent)];
        bytes.iter().for_each(|(kind, n)| figures.set(&LAST_RUN_BYTES, &with("kind", kind), *n as f64));
        let files =
            [("new", s.files_new), ("changed", s.files_changed), ("unmodified", s.files_unmodified), ("failed", report.errors)];
        files.iter().for_each(|(state, n)| figures.set(&LAST_RUN_FILES, &with("state", state), *n as f64));
        figures.set(&LAST_RUN_ERRORS, &labels, report.errors as f64);
    }
}

/// How the repository stands.
fn of_repository(figures: &mut Figures, settings: &Settings, stands: &Stands) {
    let id = stands.id.as_str();
    for replica in &stands.replicas {
        let labels = [("repository", id), ("replica", replica.name.as_str())];
        let up = replica.error.is_none();
        figures.set(&REPLICA_UP, &labels, f64::from(u8::from(up)));
        if !up {
            continue;
        }
        figures.set(&REPLICA_BEHIND, &labels, replica.missing as f64);
        figures.set(&REPLICA_BYTES, &labels, replica.bytes as f64);
        figures.set(&REPLICA_PACKS, &labels, replica.packs as f64);
        if let Some(verified) = replica.last_verify {
            figures.set(&REPLICA_LAST_VERIFY, &labels, seconds(verified));
        }
        let held = stands.snapshots.iter().filter(|view| view.replicas.contains(&replica.name));
        if let Some(newest) = held.map(|view| time(&view.snapshot)).max() {
            figures.set(&REPLICA_LAST_SUCCESS, &labels, seconds(newest));
        }
    }
    for job in &settings.jobs {
        let own = |view: &&SnapshotView| view.snapshot.label == job.backup.label && view.snapshot.host == job.backup.host;
        let labels = [("repository", id), ("job", job.backup.label.as_str())];
        if stands.whole {
            figures.set(&SNAPSHOTS, &labels, stands.snapshots.iter().filter(own).count() as f64);
        }
        if let Some(newest) = stands.snapshots.iter().filter(own).map(|view| time(&view.snapshot)).max() {
            figures.set(&NEWEST_SNAPSHOT, &labels, seconds(newest));
            figures.set(&LAST_SUCCESS_TIMESTAMP, &[&labels[..], &[("operation", "backup")]].concat(), seconds(newest));
        }
    }
    if let (Some(oldest), true) = (stands.snapshots.first(), stands.whole) {
        figures.set(&OLDEST_SNAPSHOT, &[("repository", id)], seconds(time(&oldest.snapshot)));
    }
}
