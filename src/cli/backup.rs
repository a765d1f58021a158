//! `holdfast backup`: paths, or configured jobs, into all stores at once.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::backup::stream::{STREAM_NAME, STREAM_STALL, StreamSettings, recorded_path};
use crate::backup::{self, BackupReport, BackupSettings, ReplicaReport};
use crate::cli::context::{Context, Failure};
use crate::cli::exit::{Outcome, Signal};
use crate::cli::heal::small_gaps;
use crate::cli::init::initialise;
use crate::cli::output::{count, duration, name, rfc3339, short, size, table};
use crate::cli::terminal::Watch;
use crate::clock::Time;
use crate::config::Settings;
use crate::config::amount::{Size, Span};
use crate::progress::Progress;
use crate::repository::Access;
use crate::repository::error::Fault;
use crate::repository::keyring::Unlock;

/// Arguments.
#[derive(Args)]
pub struct BackupArguments {
    /// What to back up; without any, the configured jobs in turn
    #[arg(value_name = "PATH", conflicts_with = "job")]
    pub paths: Vec<PathBuf>,
    /// Only this configured job; may be repeated
    #[arg(long, value_name = "NAME")]
    pub job: Vec<String>,
    /// Make the repository first where it is missing, and a fresh secret where the configured file is missing
    #[arg(long)]
    pub init: bool,
    /// Leave out what matches this glob pattern; may be repeated
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// The same, ignoring case
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,
    /// File with one pattern a line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out the contents of directories that a CACHEDIR.TAG marks
    #[arg(long)]
    pub exclude_caches: bool,
    /// Leave out the contents of directories that hold a file of this name; may be repeated
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<String>,
    /// Leave out larger files
    #[arg(long, value_name = "SIZE")]
    pub exclude_larger_than: Option<Size>,
    /// Stay on the file system of each path
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Tag the snapshot; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Record this host name [$HOLDFAST_HOST; default: this machine's]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Record this time: RFC 3339, or local like "2026-01-31 18:30:00" [default: now]
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// Record this path instead of the one that is read, and compare with its snapshots
    #[arg(long = "as", value_name = "PATH")]
    pub recorded_as: Option<PathBuf>,
    /// Read every file, whatever the last snapshot says
    #[arg(short, long)]
    pub force: bool,
    /// Tell changes by size and modification time alone
    #[arg(long)]
    pub ignore_inode: bool,
    /// Do not tell changes by the time of the last status change
    #[arg(long)]
    pub ignore_ctime: bool,
    /// Files read at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub read_concurrency: Option<u16>,
    /// zstd level of what is new, 1 to 22; 0 stores as it is [default: 3]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=22))]
    pub compression: Option<u8>,
    /// Back up standard input as one file; when it breaks off or stalls there is no snapshot
    #[arg(long, conflicts_with_all = ["paths", "job", "command"])]
    pub stdin: bool,
    /// Back up what a command prints as one file: `--command -- PROGRAM ARGUMENT...`; when it fails there is no snapshot
    #[arg(long, requires = "paths", conflicts_with = "job")]
    pub command: bool,
    /// What that file is called [default: stdin]
    #[arg(long, value_name = "NAME")]
    pub stdin_filename: Option<OsString>,
    /// How long the stream may give nothing before it counts as broken [default: 15m]
    #[arg(long, value_name = "TIME")]
    pub stall: Option<Span>,
    /// Do not heal first what a replica lacks
    #[arg(long)]
    pub no_heal: bool,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Backs up, and says what was done, where it lies and how it comes back.
pub async fn run(context: &Context, arguments: BackupArguments) -> Result<Outcome, Failure> {
    let mut settings = context.settings()?;
    settings.compression = arguments.compression.map_or(settings.compression, i32::from);
    let runs = plan(context, &settings, &arguments)?;
    if arguments.dry_run && arguments.init {
        return Err(Failure::usage("--dry-run writes nothing, so it cannot --init"));
    }
    let unlock = match arguments.init {
        true => {
            let done = initialise(context, &settings).await?;
            if done.report.created {
                context.output.note(&format!("made repository {}", hex::encode(done.report.repository_id)));
            }
            done.unlock
        }
        false => context.unlock(&settings, false).await?,
    };
    let mut outcome = Outcome::success();
    let several = runs.len() > 1;
    for what in runs {
        match one(context, &settings, &what, &unlock, !arguments.no_heal).await {
            Ok(done) => outcome.join(done),
            Err(failure) if !several => return Err(failure),
            Err(failure) => {
                context.output.problem("backup", &what.label, &failure.message);
                outcome.join(Outcome::failure(failure.fault, context.signal()));
            }
        }
        context.output.flush();
        if outcome.stops_the_run() {
            break;
        }
    }
    Ok(outcome)
}

/// The stream that the command line names, if it does.
fn stream(arguments: &BackupArguments) -> Result<Option<StreamSettings>, Failure> {
    if !arguments.stdin && !arguments.command {
        return match arguments.stdin_filename.is_some() || arguments.stall.is_some() {
            true => Err(Failure::usage("--stdin-filename and --stall go with --stdin or --command")),
            false => Ok(None),
        };
    }
    let a = arguments;
    let lists = [&a.exclude, &a.iexclude, &a.exclude_if_present];
    let chosen = lists.iter().any(|list| !list.is_empty()) || !a.exclude_file.is_empty() || a.exclude_larger_than.is_some();
    if chosen || a.exclude_caches || a.one_file_system || a.force || a.ignore_inode || a.ignore_ctime {
        return Err(Failure::usage("what chooses or compares files goes with paths; a stream is read whole each time"));
    }
    let name = arguments.stdin_filename.as_deref().unwrap_or(OsStr::new(STREAM_NAME));
    Ok(Some(StreamSettings {
        command: arguments.command.then(|| arguments.paths.iter().map(|word| word.clone().into_os_string()).collect()),
        path: recorded_path(name).map_err(Failure::usage)?,
        stall: arguments.stall.map_or(STREAM_STALL, |span| span.0),
    }))
}

/// What is to be run: the paths, or the jobs, each with the command line's words on top.
fn plan(context: &Context, settings: &Settings, arguments: &BackupArguments) -> Result<Vec<BackupSettings>, Failure> {
    let stream = stream(arguments)?;
    let mut runs = match (arguments.paths.is_empty(), arguments.job.is_empty()) {
        _ if stream.is_some() => vec![BackupSettings { stream, ..settings.backup.clone() }],
        (false, _) => {
            let paths = arguments.paths.iter().map(|p| context.absolute(p)).collect();
            vec![BackupSettings { paths, ..settings.backup.clone() }]
        }
        (true, false) => {
            let find = |wanted: &String| {
                let job = settings.jobs.iter().find(|job| job.backup.label == *wanted);
                job.map(|job| job.backup.clone())
                    .ok_or_else(|| Failure::usage(format!("there is no job {wanted:?} in the configuration")))
            };
            arguments.job.iter().map(find).collect::<Result<Vec<_>, _>>()?
        }
        (true, true) if settings.jobs.is_empty() => {
            return Err(Failure::usage("nothing to back up: name a path, or configure a [[job]]"));
        }
        (true, true) => settings.jobs.iter().map(|job| job.backup.clone()).collect(),
    };
    let recorded_as = arguments.recorded_as.as_ref();
    if let Some(path) = recorded_as.filter(|p| !p.is_absolute()) {
        return Err(Failure::usage(format!("--as {}: must be absolute", path.display())));
    }
    if recorded_as.is_some() && (runs.len() != 1 || runs[0].paths.len() != 1) {
        return Err(Failure::usage("--as needs exactly one path"));
    }
    let (time, utc_offset_seconds) = when(arguments.time.as_deref(), context.env.now())?;
    for run in &mut runs {
        run.time = time;
        run.utc_offset_seconds = utc_offset_seconds;
        run.excludes.extend_from_slice(&arguments.exclude);
        run.iexcludes.extend_from_slice(&arguments.iexclude);
        run.exclude_files.extend(arguments.exclude_file.iter().map(|p| context.absolute(p)));
        run.exclude_caches |= arguments.exclude_caches;
        run.exclude_if_present.extend_from_slice(&arguments.exclude_if_present);
        run.exclude_larger_than = arguments.exclude_larger_than.map(|s| s.0).or(run.exclude_larger_than);
        run.one_file_system |= arguments.one_file_system;
        run.tags.extend_from_slice(&arguments.tag);
        if let Some(host) = &arguments.host {
            run.host.clone_from(host);
        }
        if let Some(path) = recorded_as {
            run.recorded_as = Some(path.clone());
        }
        run.force |= arguments.force;
        run.ignore_inode |= arguments.ignore_inode;
        run.ignore_ctime |= arguments.ignore_ctime;
        run.dry_run = arguments.dry_run;
        if let Some(n) = arguments.read_concurrency {
            run.read_concurrency = usize::from(n);
        }
    }
    Ok(runs)
}

/// The time to record, if it is not to be the run's own, and the distance of the local clock from UTC then.
fn when(text: Option<&str>, now: Time) -> Result<(Option<Time>, i32), Failure> {
    let zone = jiff::tz::TimeZone::system();
    let Some(text) = text else {
        let now = jiff::Timestamp::from_nanosecond(i128::from(now.0)).unwrap_or_default();
        return Ok((None, zone.to_offset(now).seconds()));
    };
    let given = match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time),
        Err(_) => text.parse::<jiff::civil::DateTime>().and_then(|local| local.to_zoned(zone.clone())).map(|z| z.timestamp()),
    };
    let given = given.map_err(|e| Failure::usage(format!("--time {text}: {e}")))?;
    let nanoseconds = i64::try_from(given.as_nanosecond())
        .map_err(|_| Failure::usage(format!("--time {text}: must lie between 1678 and 2262")))?;
    Ok((Some(Time(nanoseconds)), zone.to_offset(given).seconds()))
}

/// One backup.
async fn one(
    context: &Context,
    settings: &Settings,
    what: &BackupSettings,
    unlock: &Unlock,
    heal: bool,
) -> Result<Outcome, Failure> {
    let done = step(context, settings, what, unlock, heal).await?;
    context.output.summary(&summary(&done, what));
    if !context.output.json {
        print(context, settings, what, &done.report);
    }
    Ok(outcome(&done.report, context.signal()))
}

/// A backup that was done.
pub struct Done {
    /// What it came to.
    pub report: BackupReport,
    /// When it began.
    pub began: Time,
    /// When it ended.
    pub ended: Time,
}

/// Backs up; problems and notes are said.
pub async fn step(
    context: &Context,
    settings: &Settings,
    what: &BackupSettings,
    unlock: &Unlock,
    heal: bool,
) -> Result<Done, Failure> {
    let access = if what.dry_run { Access::Read } else { Access::Write };
    let repository = context.open(settings, unlock, access).await?;
    if heal && !what.dry_run {
        // Loaded here, where it may be broken off at any point.
        context.interruptible(repository.index()).await??;
        let healing = async {
            small_gaps(context, settings, &repository).await;
            Ok(())
        };
        context.in_time(healing).await?;
    }
    let progress = Progress::default();
    let began = context.env.now();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "backing up");
        backup::run(&repository, what, &progress, &context.stop).await
    };
    let report = result?;
    for (path, reason) in &report.problems {
        context.output.problem("archival", path, reason);
    }
    let more = report.errors.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        context.output.warn(&format!("and {} that are not listed", count(more, "problem")));
    }
    for note in &report.notes {
        context.output.note(note);
    }
    Ok(Done { report, began, ended: context.env.now() })
}

/// How a backup that has a snapshot at quorum, or was a dry run, came out. `signal` is what asked it to stop, if anything did.
pub fn outcome(report: &BackupReport, signal: Option<Signal>) -> Outcome {
    let mut outcome = Outcome::success();
    if report.partial {
        outcome.join(Outcome::failure(Fault::Interrupted, signal));
    }
    if report.errors > 0 {
        outcome.incomplete();
    }
    if report.replicas.iter().any(|r| !r.committed) && !report.dry_run {
        outcome.behind();
    }
    outcome
}

/// The last line of a backup with `--json`: restic's fields under restic's names, and ours.
pub fn summary(done: &Done, run: &BackupSettings) -> Value {
    let Done { report, began, ended } = done;
    let s = &report.statistics;
    let mut summary = json!({
        "message_type": "summary", "dry_run": report.dry_run,
        "files_new": s.files_new, "files_changed": s.files_changed, "files_unmodified": s.files_unmodified,
        "dirs_new": s.dirs_new, "dirs_changed": s.dirs_changed, "dirs_unmodified": s.dirs_unmodified,
        "data_blobs": s.data_chunks, "tree_blobs": s.meta_chunks,
        "data_added": s.data_added, "data_added_packed": s.data_added_stored,
        "total_files_processed": s.files,
        "total_bytes_processed": s.bytes,
        "backup_start": rfc3339(*began), "backup_end": rfc3339(*ended), "total_duration": report.duration.as_secs_f64(),
        "bytes_read": s.bytes_read, "errors": report.errors, "partial": report.partial, "label": run.label,
        "write_quorum": report.quorum,
        "replicas": report.replicas.iter().map(|r| json!({
            "name": r.name, "committed": r.committed, "bytes_sent": r.sent, "behind": r.behind,
        })).collect::<Vec<_>>(),
    });
    if let Some(id) = &report.snapshot {
        summary["snapshot_id"] = hex::encode(id).into();
    }
    if let Some(id) = &report.parent {
        summary["parent"] = hex::encode(id).into();
    }
    summary
}

/// The report for people.
pub fn print(context: &Context, settings: &Settings, run: &BackupSettings, report: &BackupReport) {
    let s = &report.statistics;
    let stream = run.stream.as_ref().map(|stream| &stream.path);
    let paths: Vec<String> =
        run.paths.iter().chain(stream).map(|p| name(std::os::unix::ffi::OsStrExt::as_bytes(p.as_os_str()))).collect();
    let what = match (&report.snapshot, report.dry_run) {
        (_, true) => "dry run, nothing was written:".to_owned(),
        (Some(id), _) if report.partial => format!("partial snapshot {}", short(id)),
        (Some(id), _) => format!("snapshot {}", short(id)),
        (None, _) => "no snapshot".to_owned(),
    };
    let parent = report.parent.map(|id| format!(", compared with {}", short(&id))).unwrap_or_default();
    let mut lines = vec![
        format!("{what} of {}{parent}", paths.join(" ")),
        format!("  files        {} new, {} changed, {} unmodified", s.files_new, s.files_changed, s.files_unmodified),
        format!("  directories  {} new, {} changed, {} unmodified", s.dirs_new, s.dirs_changed, s.dirs_unmodified),
        format!("  content      {} in all, {} read in {}", size(s.bytes), size(s.bytes_read), duration(report.duration)),
        format!("  added        {}, sealed to {}", size(s.data_added), size(s.data_added_stored)),
    ];
    if report.errors > 0 {
        lines.push(format!("  problems     {} (listed above)", report.errors));
    }
    if let (Some(id), false) = (&report.snapshot, report.dry_run) {
        lines.push(format!("it lies in (at least {} had to commit):", report.quorum));
        let state = |r: &ReplicaReport| match (&r.behind, r.committed) {
            (_, true) => "committed".to_owned(),
            (Some(why), false) => format!("left behind: {}", name(why.as_bytes())),
            (None, false) => "left behind".to_owned(),
        };
        let url = |r: &ReplicaReport| settings.stores.iter().find(|c| c.name == r.name).map(|c| c.url.to_string());
        let rows: Vec<_> = report
            .replicas
            .iter()
            .map(|r| vec![format!("  {}", r.name), url(r).unwrap_or_default(), format!("{} sent", size(r.sent)), state(r)])
            .collect();
        lines.extend(table(&rows, &[2]));
        if let Some(replica) = report.replicas.iter().find(|r| r.committed) {
            let id = short(id);
            let target = format!("restored-{id}");
            lines.push("to restore it from one of them alone:".to_owned());
            let words = ["restore", &id, "--target", &target, "--from", &replica.name];
            lines.push(format!("  {}", context.command_line(settings, &words)));
        }
    }
    lines.iter().for_each(|line| {
        context.output.line(line);
    });
}

#[cfg(test)]
mod tests {
    use crate::cli::backup::when;
    use crate::clock::Time;

    #[test]
    fn recorded_times() {
        let given = |text: &str| when(Some(text), Time(0)).ok().and_then(|(time, _)| time);
        assert_eq!(given("1970-01-01T00:00:01.5Z"), Some(Time(1_500_000_000)));
        assert_eq!(given("1970-01-01T01:00:00+01:00"), Some(Time(0)));
        assert!(given("2026-01-31 18:30:00").is_some());
        for text in ["", "yesterday", "2026-02-30 00:00:00", "9999-01-01T00:00:00Z"] {
            assert_eq!(given(text), None, "{text}");
        }
        assert!(when(None, Time(0)).is_ok_and(|(time, _)| time.is_none()));
    }
}
