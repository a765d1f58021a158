//! `holdfast verify`: is it all there, is it all right.

use clap::Args;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, duration, name, size, table};
use crate::cli::terminal::Watch;
use crate::config::amount::Size;
use crate::progress::Progress;
use crate::repository::error::Fault;
use crate::repository::{Access, Repository};
use crate::verify::share::Share;
use crate::verify::{self, Damage, ReplicaVerified, VerifyReport, VerifySettings};

/// Arguments.
#[derive(Args)]
pub struct VerifyArguments {
    /// Read packs back and verify every byte: all of them, or a share: 5%, one slice of seven (3/7), or packs drawn at random up to a size (2 GiB)
    #[arg(long, value_name = "N%|N/T|SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = share)]
    pub read_data: Option<Share>,
    /// The same as --read-data
    #[arg(long, value_name = "N%|N/T|SIZE", value_parser = share, conflicts_with = "read_data", hide = true)]
    pub read_data_subset: Option<Share>,
    /// Read each pack at one store only, so that the stores share the work
    #[arg(long)]
    pub across: bool,
    /// Only this store
    #[arg(long, value_name = "STORE")]
    pub from: Option<String>,
}

/// Reads `5%` (or `5`), `3/7`, `2 GiB` (or `2G`).
fn share(text: &str) -> Result<Share, String> {
    let share = match text.split_once('/') {
        Some((nth, of)) => {
            let number = |text: &str| text.parse::<u32>().map_err(|e| format!("{text:?} is no number of a slice: {e}"));
            Share::Slice { nth: number(nth)?, of: number(of)?, count: 1 }
        }
        None if text.ends_with(|c: char| c.is_ascii_alphabetic()) && text.starts_with(|c: char| c.is_ascii_digit()) => {
            // Others write sizes like 50M.
            let binary = text.strip_suffix(['K', 'M', 'G', 'T']).and(Some(format!("{text}iB")));
            Share::Bytes(binary.as_deref().unwrap_or(text).parse::<Size>().map_err(|e| e.to_string())?.0)
        }
        None => {
            let percent = text.strip_suffix('%').unwrap_or(text).parse();
            Share::Percent(percent.map_err(|_| "write a share like 5%, a slice like 1/7, or a size like 2 GiB".to_owned())?)
        }
    };
    share.verify()?;
    Ok(if share == Share::Percent(100.0) { Share::All } else { share })
}

/// Verifies.
pub async fn run(context: &Context, arguments: VerifyArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    if let Some(from) = &arguments.from
        && !settings.stores.iter().any(|store| store.name == *from)
    {
        return Err(Failure::usage(format!("--from {from}: there is no such store")));
    }
    let share = arguments.read_data.or(arguments.read_data_subset);
    if arguments.across && share.is_none() {
        return Err(Failure::usage("--across shares the work of --read-data: ask for that, too"));
    }
    let unlock = context.unlock(&settings, false).await?;
    // What is found damaged is written down in the log, so that no backup relies on it.
    let repository = context.open(&settings, &unlock, Access::Write).await?;
    let (across, only) = (arguments.across, arguments.from);
    let how = VerifySettings { read_data: share, across, only, memory: settings.memory, ..VerifySettings::default() };
    let report = step(context, &repository, &how).await?;
    context.output.summary(&summary(&report, &how));
    if !context.output.json {
        print(context, &report, &how);
    }
    for replica in &report.replicas {
        if let Some(why) = &replica.unreachable {
            context.output.problem("verify", &replica.name, why);
        }
    }
    Ok(outcome(&report))
}

/// Verifies, and names what is damaged.
pub async fn step(context: &Context, repository: &Repository, how: &VerifySettings) -> Result<VerifyReport, Failure> {
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "verifying");
        verify::run(repository, how, &progress, &context.stop).await
    };
    let report = result?;
    let output = &context.output;
    for damage in &report.damages {
        match output.json {
            true => output.object(&object(damage)),
            false => {
                output.line(format_args!("damaged at {}: {}: {}", damage.replica, damage.object, name(damage.what.as_bytes())));
                if damage.affects.is_empty() && (damage.object.starts_with("data/") || damage.object.starts_with("meta/")) {
                    output.line("  no file that is known to need it: where nothing does, `holdfast prune` takes it out");
                }
                for (path, snapshot) in &damage.affects {
                    output.line(format_args!("  needed by {} in snapshot {snapshot}", name(path.as_bytes())));
                }
                if damage.more > 0 {
                    output.line(format_args!("  and {} more", damage.more));
                }
                true
            }
        };
    }
    Ok(report)
}

/// The report as JSON; damage has lines of its own.
pub fn summary(report: &VerifyReport, how: &VerifySettings) -> serde_json::Value {
    json!({
        "message_type": "summary", "num_errors": report.damage_count, "seconds_elapsed": report.duration.as_secs(),
        "share": how.read_data.map(|share| share.to_string()), "across": how.across,
        "replicas": report.replicas.iter().map(|r| json!({
            "name": r.name, "unreachable": r.unreachable, "snapshots": r.snapshots, "packs": r.packs,
            "share": how.share_of(&r.name).map(|share| share.to_string()),
            "packs_read": r.packs_read, "bytes_read": r.bytes_read, "unread": r.unread_count, "distrusted": r.distrusted, "lifted": r.lifted,
            "foreign": r.foreign, "notes": r.notes,
            "affected": r.affected.iter().map(|(id, paths)| json!({"snapshot": id, "paths": paths})).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

/// The report for people.
pub fn print(context: &Context, report: &VerifyReport, how: &VerifySettings) {
    let output = &context.output;
    let reached = |r: &&ReplicaVerified| r.unreachable.is_none();
    let head = ["replica", "snapshots", "packs", "read", "bytes read", "distrusted", "foreign"].map(str::to_owned).to_vec();
    let row = |r: &ReplicaVerified| {
        let (s, p, read) = (r.snapshots.to_string(), r.packs.to_string(), r.packs_read.to_string());
        vec![name(r.name.as_bytes()), s, p, read, size(r.bytes_read), r.distrusted.to_string(), r.foreign.to_string()]
    };
    let rows: Vec<_> = std::iter::once(head).chain(report.replicas.iter().filter(reached).map(row)).collect();
    table(&rows, &[1, 2, 3, 4, 5, 6]).iter().for_each(|line| {
        output.line(line);
    });
    for replica in &report.replicas {
        for (id, paths) in &replica.affected {
            let (paths, at) = (count(*paths, "path"), name(replica.name.as_bytes()));
            output.line(format_args!("snapshot {id} is not whole at {at}: {paths} need what is damaged there"));
        }
    }
    if let Some(share) = how.read_data {
        let where_read = if how.across { ", each pack at one store" } else { " at each store" };
        output.line(format_args!("read back: {share} of the packs{where_read}"));
    }
    for replica in report.replicas.iter().filter(reached).filter(|r| how.shares.contains_key(&r.name)) {
        let share = how.share_of(&replica.name).map_or("nothing is due".to_owned(), |share| format!("{share} of the packs"));
        output.line(format_args!("read back at {}: {share}", name(replica.name.as_bytes())));
    }
    for replica in &report.replicas {
        for note in &replica.notes {
            output.line(format_args!("{}: {}", name(replica.name.as_bytes()), name(note.as_bytes())));
        }
    }
    if !report.replicas.iter().any(|r| reached(&r)) {
        return;
    }
    let found = if report.damage_count == 0 { "no damage".to_owned() } else { count(report.damage_count, "damaged object") };
    let left: Vec<String> = report.replicas.iter().filter(|r| !reached(r)).map(|r| name(r.name.as_bytes())).collect();
    let left = if left.is_empty() { String::new() } else { format!("; not verified: {}", left.join(", ")) };
    output.line(format_args!("{found} found in {}{left}", duration(report.duration)));
}

/// How a verify that was carried out came out.
pub fn outcome(report: &VerifyReport) -> Outcome {
    let reached = |r: &&ReplicaVerified| r.unreachable.is_none();
    let mut outcome = Outcome::success();
    if report.damage_count > 0 {
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    if report.replicas.iter().any(|r| r.keys_missing > 0) {
        outcome.behind();
    }
    for replica in report.replicas.iter().filter(|r| r.unreachable.is_some()) {
        match replica.fault {
            // Finding these is what verify is for; a store that is merely away is another matter while others answer.
            Some(fault @ (Fault::Integrity | Fault::Rollback | Fault::Unsupported | Fault::Denied)) => {
                outcome.join(Outcome::failure(fault, None));
            }
            _ if !report.replicas.iter().any(|r| reached(&r)) => outcome.join(Outcome::failure(Fault::Failed, None)),
            _ => outcome.behind(),
        }
    }
    outcome
}

fn object(damage: &Damage) -> serde_json::Value {
    json!({
        "message_type": "damage", "replica": damage.replica, "object": damage.object, "message": damage.what,
        "affects": damage.affects.iter().map(|(path, id)| json!({"path": path, "snapshot": id})).collect::<Vec<_>>(),
        "affects_more": damage.more,
    })
}

#[cfg(test)]
mod tests {
    use crate::cli::verify::share;
    use crate::verify::share::Share;

    #[test]
    fn shares() {
        assert_eq!((share("5%"), share("0.5")), (Ok(Share::Percent(5.0)), Ok(Share::Percent(0.5))));
        assert_eq!((share("100%"), share("100")), (Ok(Share::All), Ok(Share::All)));
        assert_eq!(share("3/7"), Ok(Share::Slice { nth: 3, of: 7, count: 1 }));
        assert_eq!((share("2 GiB"), share("2G")), (Ok(Share::Bytes(2 << 30)), Ok(Share::Bytes(2 << 30))));
        assert_eq!((share("50MB"), share("7B")), (Ok(Share::Bytes(50_000_000)), Ok(Share::Bytes(7))));
        for text in [
            "", "0", "-1", "101%", "NaN", "inf", "5 %", "%", "0/7", "8/7", "1/0", "/", "1/", "1/2/3", "-1/7", "0B", "5X", "G",
            "1e3G",
        ] {
            assert!(share(text).is_err(), "{text:?}");
        }
    }
}
