//! `holdfast verify`: is it all there, is it all right.

use clap::Args;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count, duration, name, size, table};
use crate::cli::terminal::Watch;
use crate::progress::Progress;
use crate::repository::Access;
use crate::repository::error::Fault;
use crate::verify::{self, Damage, ReplicaVerified, VerifyReport, VerifySettings};

/// Arguments.
#[derive(Args)]
pub struct VerifyArguments {
    /// Read packs back and verify every byte: all of them, or the given share of them
    #[arg(long, value_name = "PERCENT%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = percent)]
    pub read_data: Option<f64>,
    /// Only this store
    #[arg(long, value_name = "STORE")]
    pub from: Option<String>,
}

/// Reads `5%` or `5`; more than 0, at most 100.
fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.strip_suffix('%').unwrap_or(text).parse().map_err(|e| format!("{e}"))?;
    match number > 0.0 && number <= 100.0 {
        true => Ok(number),
        false => Err("must be more than 0 % and at most 100 %".to_owned()),
    }
}

/// Verifies.
pub async fn run(context: &Context, arguments: VerifyArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    if let Some(from) = &arguments.from
        && !settings.stores.iter().any(|store| store.name == *from)
    {
        return Err(Failure::usage(format!("--from {from}: there is no such store")));
    }
    let unlock = context.unlock(&settings, false).await?;
    // What is found damaged is written down in the log, so that no backup relies on it.
    let repository = context.open(&settings, &unlock, Access::Write).await?;
    let how = VerifySettings { read_data_percent: arguments.read_data, only: arguments.from, memory: settings.memory };
    let progress = Progress::default();
    let result = {
        let _watch = Watch::start(&context.env, &context.output, &progress, "verifying");
        verify::run(&repository, &how, &progress, &context.stop).await
    };
    let report = result?;
    let output = &context.output;
    for damage in &report.damages {
        match output.json {
            true => output.object(&object(damage)),
            false => {
                output.line(format_args!("damaged at {}: {}: {}", damage.replica, damage.object, name(damage.what.as_bytes())));
                for (path, snapshot) in &damage.affects {
                    output.line(format_args!("  needed by {} in snapshot {snapshot}", name(path.as_bytes())));
                }
                true
            }
        };
    }
    let reached = |r: &&ReplicaVerified| r.unreachable.is_none();
    if output.json {
        output.object(&json!({
            "message_type": "summary", "num_errors": report.damage_count, "seconds_elapsed": report.duration.as_secs(),
            "replicas": report.replicas.iter().map(|r| json!({
                "name": r.name, "unreachable": r.unreachable, "snapshots": r.snapshots, "packs": r.packs,
                "packs_read": r.packs_read, "bytes_read": r.bytes_read, "distrusted": r.distrusted, "foreign": r.foreign,
            })).collect::<Vec<_>>(),
        }));
    } else {
        let head = ["replica", "snapshots", "packs", "read", "bytes read", "distrusted", "foreign"].map(str::to_owned).to_vec();
        let row = |r: &ReplicaVerified| {
            let (s, p, read) = (r.snapshots.to_string(), r.packs.to_string(), r.packs_read.to_string());
            vec![r.name.clone(), s, p, read, size(r.bytes_read), r.distrusted.to_string(), r.foreign.to_string()]
        };
        let rows: Vec<_> = std::iter::once(head).chain(report.replicas.iter().filter(reached).map(row)).collect();
        table(&rows, &[1, 2, 3, 4, 5, 6]).iter().for_each(|line| {
            output.line(line);
        });
        let found = if report.damage_count == 0 { "no damage".to_owned() } else { count(report.damage_count, "damaged object") };
        output.line(format_args!("{found} found in {}", duration(report.duration)));
    }
    for replica in &report.replicas {
        if let Some(why) = &replica.unreachable {
            output.problem("verify", &replica.name, why);
        }
    }
    Ok(outcome(&report))
}

/// How a verify that was carried out came out.
pub fn outcome(report: &VerifyReport) -> Outcome {
    let reached = |r: &&ReplicaVerified| r.unreachable.is_none();
    let mut outcome = Outcome::success();
    if report.damage_count > 0 {
        outcome.join(Outcome::failure(Fault::Integrity, None));
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
    })
}

#[cfg(test)]
mod tests {
    use crate::cli::verify::percent;

    #[test]
    fn shares() {
        assert_eq!((percent("5%"), percent("0.5"), percent("100%")), (Ok(5.0), Ok(0.5), Ok(100.0)));
        for text in ["", "0", "-1", "101%", "NaN", "inf", "5 %", "%"] {
            assert!(percent(text).is_err(), "{text:?}");
        }
    }
}
