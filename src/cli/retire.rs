//! `holdfast retire`: a replica that is lost, or given up, taken out.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::name;
use crate::format::Hash;
use crate::lifecycle::dispute::dispute;
use crate::lifecycle::doubt::{doubtful, of};
use crate::lifecycle::retention::group::GroupBy;
use crate::progress::Stop;
use crate::replica::Mask;
use crate::repository::error::Fault;
use crate::repository::snapshots::LiveSnapshot;
use crate::repository::{Access, Repository};

/// Arguments.
#[derive(Args)]
pub struct RetireArguments {
    /// The store that is lost or given up
    #[arg(value_name = "STORE")]
    pub at: String,
    /// The id of its replica, where the store does not answer and several are missing
    #[arg(long, value_name = "ID")]
    pub replica_id: Option<String>,
    /// Also where snapshots lie there that no other store holds, or where that cannot be known: the store does not answer, or its log is damaged
    #[arg(long)]
    pub give_up: bool,
}

/// Takes a replica out.
pub async fn run(context: &Context, arguments: RetireArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    if !settings.stores.iter().any(|store| store.name == arguments.at) {
        return Err(Failure::usage(format!("there is no store {:?}", arguments.at)));
    }
    if settings.stores.len() < 2 {
        return Err(Failure::new(Fault::Refused, "this is the only store: there would be no repository left"));
    }
    let unlock = context.unlock(&settings, false).await?;
    let repository = context.open(&settings, &unlock, Access::Write).await?;
    let id = which(&repository, &arguments, settings.retention.group_by).await?;
    let retired = context.interruptible(repository.retire(id, &arguments.at)).await??;
    let output = &context.output;
    if let Err(why) = repository.save_heads() {
        output.note(&why);
    }
    for (replica, _, why) in &retired.behind {
        output.problem("retire", replica, why);
    }
    output.summary(&json!({
        "message_type": "summary", "store": arguments.at, "replica_id": hex::encode(retired.id), "recorded": retired.recorded,
        "behind": retired.behind.iter().map(|(replica, ..)| replica).collect::<Vec<_>>(),
    }));
    if !output.json {
        let (store, logs) = (name(arguments.at.as_bytes()), retired.recorded.join(", "));
        output.line(format_args!("store {store} is retired, the logs of {logs} say so: take it out of the configuration"));
    }
    let mut outcome = Outcome::success();
    if !retired.behind.is_empty() {
        outcome.behind();
    }
    Ok(outcome)
}

/// The replica that is meant. A store that answers says so itself; of one that does not only the others' logs know.
async fn which(repository: &Repository, arguments: &RetireArguments, group_by: GroupBy) -> Result<Hash, Failure> {
    if let Some(replica) = repository.set.replicas.iter().find(|r| r.name == arguments.at)
        && let Some(log) = repository.log(replica.index).await
        && let Some(id) = log.state.replica_id
    {
        drop(log);
        if let Some(text) = &arguments.replica_id
            && !hex::encode(id).starts_with(&text.to_ascii_lowercase())
        {
            let why = format!("the replica at store {} is {}, not {text}", replica.name, hex::encode(id));
            return Err(Failure::usage(why));
        }
        if let Some((Fault::Integrity | Fault::Rollback | Fault::Unsupported, why)) = repository.fault(replica.index)
            && !arguments.give_up
        {
            let what = "so nobody knows whether snapshots lie only there: --give-up takes it out all the same";
            return Err(Failure::new(
                Fault::Refused,
                format!("not all of the log of store {} counts, {what}: {why}", replica.name),
            ));
        }
        let doubtful = doubtful(repository, &Stop::default()).await?;
        let here = Mask::one(replica.index);
        // Also what is damaged there: it may be all that is left.
        let nowhere_else = |live: &&LiveSnapshot| {
            live.mask.has(replica.index) && live.mask.without(of(&doubtful, &live.id)).without(here).is_empty()
        };
        let mut only = repository.live().await.iter().filter(nowhere_else).count();
        let disputed = dispute(repository, &[group_by], &BTreeSet::new(), &doubtful).await?;
        for id in disputed.keys() {
            let mut at = Mask::default();
            for i in repository.readable().indices() {
                let rooted = repository.log(i).await.is_some_and(|log| log.state.snapshots.contains_key(id));
                at = if rooted { at.or(Mask::one(i)) } else { at };
            }
            only += usize::from(at == here);
        }
        if only > 0 && !arguments.give_up {
            let why = format!(
                "{only} snapshots are whole at no other store than {}: run `holdfast heal` first (what was forgotten elsewhere, and is the \
                 last of its source, comes back by `holdfast undelete` before that, or goes by `holdfast forget`), or --give-up",
                replica.name
            );
            return Err(Failure::new(Fault::Refused, why));
        }
        return Ok(id);
    }
    // It answers, and nothing is there: whoever is missing is somebody else.
    if repository.set.replicas.iter().any(|r| r.name == arguments.at && repository.unbegun().has(r.index)) {
        let why = format!("store {} holds no replica: take it out of the configuration, that is all", arguments.at);
        return Err(Failure::usage(why));
    }
    let absent = repository.absent_replicas().await;
    let listed = || absent.iter().map(|(id, head)| format!("{} (last seen at slot {})", hex::encode(id), head.slot));
    let matching: Vec<&Hash> = match &arguments.replica_id {
        None => absent.keys().collect(),
        Some(text) => absent.keys().filter(|id| hex::encode(id).starts_with(&text.to_ascii_lowercase())).collect(),
    };
    match matching[..] {
        [_] if !arguments.give_up => Err(Failure::new(
            Fault::Refused,
            format!(
                "store {} does not answer, so nobody knows whether snapshots lie only there: --give-up takes it out all the same",
                arguments.at
            ),
        )),
        [one] => Ok(*one),
        [] if !absent.is_empty() => Err(Failure::usage(format!(
            "store {} does not answer, and none of the missing replicas has an id that begins so: {}",
            arguments.at,
            listed().collect::<Vec<_>>().join(", ")
        ))),
        [] => Err(Failure::usage(format!(
            "no log has seen the replica at store {}, which does not answer: take it out of the configuration, that is all",
            arguments.at
        ))),
        _ => Err(Failure::usage(format!(
            "store {} does not answer, and several replicas are missing: say which with --replica-id: {}",
            arguments.at,
            listed().collect::<Vec<_>>().join(", ")
        ))),
    }
}
