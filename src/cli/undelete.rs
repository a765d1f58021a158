//! `holdfast undelete`: forgotten snapshots brought back.

use clap::Args;
use serde_json::json;

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::short;
use crate::lifecycle::undelete::{self, UndeleteReport};
use crate::repository::Access;
use crate::repository::error::Fault;
use crate::repository::open::worst;

/// Arguments.
#[derive(Args)]
pub struct UndeleteArguments {
    /// Forgotten snapshots, as `snapshots --forgotten` lists them: beginnings of ids, latest, latest~N
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<String>,
}

/// Brings them back, each under a new id.
pub async fn run(context: &Context, arguments: UndeleteArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let unlock = context.unlock(&settings, false).await?;
    let repository = context.open(&settings, &unlock, Access::Write).await?;
    let (forgotten, problems) = context.interruptible(repository.forgotten()).await?;
    problems.iter().for_each(|problem| context.output.warn(problem));
    let mut chosen = Vec::new();
    for text in &arguments.snapshots {
        match repository.resolve(&forgotten, text) {
            Ok(view) => chosen.push(view),
            Err(e) => return Err(Failure::new(e.fault, format!("among what was forgotten and is still there: {e}"))),
        }
    }
    let mut outcome = Outcome::success();
    for view in chosen {
        match context.interruptible(undelete::run(&repository, view, &context.stop)).await? {
            Ok(report) => outcome.join(said(context, &report)),
            Err(e) => {
                let failure = Failure::from(e);
                context.output.problem("undelete", &short(&view.id), &failure.message);
                outcome.join(Outcome::failure(failure.fault, context.signal()));
            }
        }
    }
    context.output.note_if(repository.save_heads().err());
    Ok(outcome)
}

/// Says how one came out.
fn said(context: &Context, report: &UndeleteReport) -> Outcome {
    let mut outcome = Outcome::success();
    match context.output.json {
        true => context.output.object(&json!({
            "message_type": "undeleted", "snapshot_id": hex::encode(report.new), "forgotten_id": hex::encode(report.old),
            "already": report.already,
            "replicas": report.replicas.iter().map(|r| json!({
                "name": r.name, "committed": r.committed, "behind": r.behind,
            })).collect::<Vec<_>>(),
        })),
        false => context.output.line(format_args!(
            "snapshot {} {} as {}",
            short(&report.old),
            if report.already { "is there already" } else { "is back" },
            hex::encode(report.new)
        )),
    };
    let behind: Vec<_> = report.replicas.iter().filter(|r| !r.committed).collect();
    for replica in &behind {
        context.output.problem("undelete", &replica.name, replica.behind.as_deref().unwrap_or_default());
    }
    if report.replicas.len() - behind.len() < report.quorum {
        let fault = worst(behind.iter().filter_map(|r| r.fault)).unwrap_or(Fault::Failed);
        outcome.join(Outcome::failure(fault, context.signal()));
    } else if !behind.is_empty() {
        outcome.behind();
    }
    outcome
}
