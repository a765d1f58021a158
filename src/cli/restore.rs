//! `holdfast restore`: a snapshot, or a part of it, into a folder.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{Output, count, duration, name, put_name, short, size};
use crate::cli::select::{Filter, Wanted};
use crate::cli::terminal::Watch;
use crate::progress::Progress;
use crate::repository::error::Fault;
use crate::restore::{self, Losses, Lost, RestoreReport, RestoreSettings};

/// Arguments.
#[derive(Args)]
pub struct RestoreArguments {
    /// What to restore: an id or its beginning, latest, latest~N; with PATH the contents of that recorded path go straight into the target
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: OsString,
    /// Where to restore to; what is there already and right is left alone
    #[arg(short, long, value_name = "DIR")]
    pub target: PathBuf,
    /// Read from this store alone
    #[arg(long, value_name = "STORE")]
    pub from: Option<String>,
    /// Only what matches this glob pattern; may be repeated
    #[arg(short, long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Leave out what matches this glob pattern; may be repeated
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Which snapshots `latest` is chosen from
    #[command(flatten)]
    pub filter: Filter,
    /// Do not set owners
    #[arg(long)]
    pub no_owners: bool,
    /// Find owners by name where the name is known here
    #[arg(long, conflicts_with = "no_owners")]
    pub owners_by_name: bool,
    /// Do not set extended attributes and ACLs
    #[arg(long)]
    pub no_xattrs: bool,
    /// Do not make devices nor set special permission bits
    #[arg(long)]
    pub no_special: bool,
    /// Say what would be done; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// List everything that no store has any more, path by path; also of a snapshot that no log names, by its id
    #[arg(long)]
    pub what_is_left: bool,
}

/// Restores.
pub async fn run(context: &Context, arguments: RestoreArguments) -> Result<Outcome, Failure> {
    let wanted = Wanted::parse(&arguments.snapshot)?;
    let (settings, repository) = context.open_to_read().await?;
    context.warn_of_absent(&repository);
    if let Some(from) = &arguments.from
        && !settings.stores.iter().any(|store| store.name == *from)
    {
        return Err(Failure::usage(format!("--from {from}: there is no such store")));
    }
    let snapshot = match context.interruptible(wanted.find(&repository, &arguments.filter)).await? {
        Ok(view) => view.snapshot,
        Err(e) if arguments.what_is_left && e.fault == Fault::Usage && wanted.snapshot.bytes().all(|b| b.is_ascii_hexdigit()) => {
            context.interruptible(repository.unrooted(&wanted.snapshot)).await??.ok_or(e)?
        }
        Err(e) => return Err(e),
    };
    let losses = arguments.what_is_left.then(|| {
        let output = context.output.clone();
        Losses(Arc::new(move |lost| tell(&output, lost)))
    });
    let what = RestoreSettings {
        target: context.absolute(&arguments.target),
        path: wanted.path,
        includes: arguments.include,
        excludes: arguments.exclude,
        from: arguments.from,
        dry_run: arguments.dry_run,
        no_owners: arguments.no_owners,
        owners_by_name: arguments.owners_by_name,
        no_xattrs: arguments.no_xattrs,
        no_special: arguments.no_special,
        memory: settings.memory,
        losses,
    };
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "restoring");
        restore::run(&repository, &snapshot, &what, &progress, &context.stop).await
    };
    let report = result?;
    let output = &context.output;
    for (path, reason) in &report.failed {
        output.problem("restore", path, reason);
    }
    for (path, reason) in &report.warnings {
        output.problem("metadata", path, reason);
    }
    for note in &report.notes {
        output.warn(note);
    }
    output.summary(&json!({
        "message_type": "summary", "dry_run": report.dry_run, "snapshot_id": hex::encode(report.snapshot),
        "seconds_elapsed": report.duration.as_secs(), "total_entries": report.entries,
        "files_restored": report.files_written, "files_skipped": report.files_unchanged,
        "total_bytes": report.bytes_total, "bytes_restored": report.bytes_written,
        // A dry run reads no content, so it does not know.
        "lost_parts": (!report.dry_run).then_some(report.lost_parts), "lost_bytes": (!report.dry_run).then_some(report.lost_bytes),
        "failed": report.failed_count, "metadata_failed": report.warnings_count,
    }));
    if !output.json {
        let target = name(std::os::unix::ffi::OsStrExt::as_bytes(what.target.as_os_str()));
        let verb = if report.dry_run { "would restore" } else { "restored" };
        output.line(format_args!("{verb} snapshot {} to {target} in {}", short(&report.snapshot), duration(report.duration)));
        output.line(format_args!(
            "  {}, {}; {} written ({}), {} as they should be already",
            count(report.entries, "item"),
            size(report.bytes_total),
            count(report.files_written, "file"),
            size(report.bytes_written),
            count(report.files_unchanged, "file"),
        ));
        if report.failed_count > 0 {
            output.line(format_args!("  {} could not be restored", count(report.failed_count, "item")));
        }
        if arguments.what_is_left && report.dry_run {
            output.line("  what of it could not be had is known only when it is restored");
        } else if arguments.what_is_left {
            let parts = count(report.lost_parts, "part");
            output.line(format_args!("  {parts} could not be had from any store ({} of content)", size(report.lost_bytes)));
        }
        if report.warnings_count > 0 {
            output.line(format_args!("  {} of metadata could not be set", count(report.warnings_count, "piece")));
        }
    }
    Ok(outcome(&report))
}

/// One thing that could not be had.
fn tell(output: &Output, lost: &Lost) {
    if !output.json {
        let place = lost.part.map(|(offset, length)| format!(" [{offset}..{}]", offset.saturating_add(length)));
        output.line(format_args!("lost {}{}: {}", name(&lost.path), place.unwrap_or_default(), name(lost.why.as_bytes())));
        return;
    }
    let mut object = serde_json::Map::new();
    object.insert("message_type".into(), "lost".into());
    put_name(&mut object, "path", &lost.path);
    if let Some((offset, length)) = lost.part {
        object.insert("offset".into(), offset.into());
        object.insert("length".into(), length.into());
    }
    object.insert("message".into(), lost.why.clone().into());
    output.object(&object.into());
}

/// How a restore that was carried out came out.
pub fn outcome(report: &RestoreReport) -> Outcome {
    let mut outcome = Outcome::success();
    if report.failed_count > 0 {
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    if report.warnings_count > 0 {
        outcome.incomplete();
    }
    outcome
}
