//! `holdfast status`: the replicas side by side.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{count as count_of, local, name, rfc3339, size, table};
use crate::lifecycle::dispute::{all_answer, dispute, in_words};
use crate::lifecycle::doubt;
use crate::repository::error::Fault;
use crate::repository::status::ReplicaStatus;

/// Arguments.
#[derive(Args)]
pub struct StatusArguments {}

/// Shows the replicas.
pub async fn run(context: &Context, _: StatusArguments) -> Result<Outcome, Failure> {
    let (settings, repository) = context.open_to_read().await?;
    let replicas = context.interruptible(repository.status()).await??;
    let doubtful = context.interruptible(doubt::whole(&repository)).await??;
    let by = [settings.retention.group_by];
    let disputed = context.interruptible(dispute(&repository, &by, &BTreeSet::new(), &doubtful)).await??;
    let mut damaged: BTreeMap<&str, u64> = BTreeMap::new();
    for i in doubtful.values().flat_map(|at| at.indices()) {
        *damaged.entry(&repository.set.replicas[i].name).or_default() += 1;
    }
    let not_whole = |replica: &ReplicaStatus| damaged.get(replica.name.as_str()).copied().unwrap_or(0);
    let id = hex::encode(repository.id());
    let output = &context.output;
    output.summary(&json!({
        "message_type": "status", "id": id, "replicas": replicas.iter().map(|r| object(r, not_whole(r))).collect::<Vec<_>>(),
    }));
    if !output.json {
        output.line(format_args!("repository {id}"));
        let head =
            ["replica", "state", "snapshots", "behind by", "", "packs", "bytes", "distrusted", "head", "last verify", "lies in"];
        let rows: Vec<_> =
            std::iter::once(head.map(str::to_owned).to_vec()).chain(replicas.iter().map(|r| row(r, not_whole(r)))).collect();
        table(&rows, &[2, 3, 4, 5, 6, 7]).iter().for_each(|line| {
            output.line(line);
        });
    }
    let mut outcome = Outcome::success();
    let failed = replicas.iter().filter_map(|r| r.error.as_ref().map(|e| (r, e)));
    let all_failed = failed.clone().count() == replicas.len();
    for (replica, (fault, why)) in failed {
        output.problem("status", &replica.name, why);
        match all_failed {
            true => outcome.join(Outcome::failure(*fault, None)),
            false => outcome.behind(),
        }
    }
    if replicas.iter().any(|r| r.missing > 0) {
        outcome.behind();
    }
    if !disputed.is_empty() {
        output.problem("status", "snapshots", &in_words(disputed.keys(), all_answer(&repository)));
        outcome.join(Outcome::failure(Fault::Refused, None));
    }
    for (replica, count) in &damaged {
        let count = count_of(*count, "snapshot");
        let why = format!("{count} of those it holds, not whole there: run `holdfast heal`, then `holdfast verify`");
        output.problem("status", replica, &why);
        outcome.join(Outcome::failure(Fault::Integrity, None));
    }
    Ok(outcome)
}

fn state(replica: &ReplicaStatus, damaged: u64) -> &'static str {
    match (&replica.error, damaged, replica.missing) {
        (Some(_), ..) => "failed",
        (None, 1.., _) => "damaged",
        (None, 0, 0) => "complete",
        (None, 0, _) => "behind",
    }
}

fn row(replica: &ReplicaStatus, damaged: u64) -> Vec<String> {
    let mut row = vec![name(replica.name.as_bytes()), state(replica, damaged).to_owned()];
    row.extend(match &replica.error {
        Some(_) => ["-"; 8].map(str::to_owned),
        None => [
            replica.snapshots.to_string(),
            replica.missing.to_string(),
            if replica.missing_bytes == 0 { String::new() } else { size(replica.missing_bytes) },
            replica.packs.to_string(),
            size(replica.bytes),
            replica.distrusted.to_string(),
            format!("{}/{} {}", replica.epoch, replica.slot, hex::encode(&replica.head[..4])),
            replica.last_verify.map_or("never".to_owned(), |time| local(time, 0)),
        ],
    });
    row.push(replica.url.clone());
    row
}

fn object(replica: &ReplicaStatus, damaged: u64) -> Value {
    json!({
        "name": replica.name, "url": replica.url, "state": state(replica, damaged), "snapshots_damaged": damaged,
        "error": replica.error.as_ref().map(|(_, why)| why),
        "epoch": replica.epoch, "slot": replica.slot, "head": hex::encode(replica.head),
        "snapshots": replica.snapshots, "snapshots_missing": replica.missing,
        "bytes_missing": replica.missing_bytes, "reachable": replica.error.is_none(), "packs": replica.packs, "bytes": replica.bytes,
        "packs_distrusted": replica.distrusted, "last_verify": replica.last_verify.map(rfc3339),
    })
}
