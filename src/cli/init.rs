//! `holdfast init`: a repository at every configured store. Also the first step of `backup --init`.

use clap::Args;
use serde_json::json;

use crate::chunk::split::ChunkerSpec;
use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::config::Settings;
use crate::repository::error::Fault;
use crate::repository::init::{InitReport, InitSettings, init};
use crate::repository::keyring::Unlock;
use crate::repository::open::worst;
use crate::seal::key::KdfParams;

/// Arguments.
#[derive(Args)]
pub struct InitArguments {}

/// A repository that is there now, and what it can be opened with.
pub struct Initialised {
    /// What was done.
    pub report: InitReport,
    /// The secret.
    pub unlock: Unlock,
}

/// Makes the repository.
pub async fn run(context: &Context, _: InitArguments) -> Result<Outcome, Failure> {
    let settings = context.settings()?;
    let report = initialise(context, &settings).await?.report;
    let id = hex::encode(report.repository_id);
    if context.output.json {
        let replicas = report.replicas.iter().map(|(name, what)| json!({"name": name, "state": what}));
        let failed = report.failed.iter().map(|(name, _, why)| json!({"name": name, "error": why}));
        context.output.object(&json!({
            "message_type": "initialized", "id": id, "created": report.created,
            "replicas": replicas.chain(failed).collect::<Vec<_>>(),
        }));
    } else {
        context.output.line(format_args!("repository {id} {}", if report.created { "made" } else { "is there already" }));
        for (name, what) in &report.replicas {
            context.output.line(format_args!("  {name}: {what}"));
        }
    }
    for note in &report.notes {
        context.output.warn(note);
    }
    for (name, _, why) in &report.failed {
        context.output.problem("init", name, why);
    }
    let all = report.replicas.len() + report.failed.len();
    let quorum = settings.replicas.write_quorum.unwrap_or(all.saturating_sub(1)).max(1);
    let mut outcome = Outcome::success();
    if report.replicas.len() < quorum {
        let fault = worst(report.failed.iter().map(|(_, fault, _)| *fault)).unwrap_or(Fault::Failed);
        outcome = Outcome::failure(fault, context.signal());
    } else if !report.failed.is_empty() {
        outcome.behind();
    }
    Ok(outcome)
}

/// Makes the secret's file if it is configured and missing, then the repository, or finds it made.
pub async fn initialise(context: &Context, settings: &Settings) -> Result<Initialised, Failure> {
    let source = settings.secret.clone();
    let entropy = context.env.random();
    let made = context.env.blocking(move || source.map_or(Ok(false), |s| s.create(entropy))).await?;
    let file = settings.secret.as_ref().and_then(|s| s.file());
    if let (true, Some(file)) = (made, file) {
        context.output.warn(&format!(
            "made a fresh secret in {}: keep a copy of it in another place, without it nothing can ever be restored",
            file.display()
        ));
    }
    let unlock = context.unlock(settings, true).await?;
    let members = context.interruptible(context.members(settings, true)).await?;
    let how = InitSettings {
        kdf: KdfParams::default(),
        lowered_kdf: false,
        chunker: ChunkerSpec::default(),
        label: format!("{}@{}", settings.backup.user, settings.backup.host),
    };
    let result = context.interruptible(init(&context.env, members, &how, &unlock)).await?;
    let report = match (result, file) {
        (Ok(report), _) => report,
        // The fresh secret opens nothing: a repository was there before. Leaving it would hide that the right one is missing.
        (Err(e), Some(file)) if made && e.fault == Fault::WrongKey => {
            let _ = std::fs::remove_file(file);
            let failure = Failure::from(e);
            let message = format!("{}; it was made with another secret: put that one into {}", failure.message, file.display());
            return Err(Failure { message, ..failure });
        }
        (Err(e), _) => return Err(e.into()),
    };
    Ok(Initialised { report, unlock })
}
