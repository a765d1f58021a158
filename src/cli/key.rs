//! `holdfast key`: the keys that open the repository.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{local, name, rfc3339, short, table};
use crate::clock::Time;
use crate::config::secret::{SecretSource, create_secret_file};
use crate::format::Hash;
use crate::format::key_slot::KeyFile;
use crate::repository::Access;
use crate::repository::error::Fault;
use crate::repository::keys::KeyView;
use crate::seal::key::KdfParams;
use crate::seal::key::Secret;

/// Arguments.
#[derive(Args)]
pub struct KeyArguments {
    /// What to do
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What to do with keys.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// List the keys
    List,
    /// Add a key; the one that opens the repository now keeps opening it
    Add {
        /// File that holds the new passphrase
        #[arg(long, value_name = "FILE", required_unless_present = "new_key_file", conflicts_with = "new_key_file")]
        new_password_file: Option<PathBuf>,
        /// File that holds the new key, as `key generate` writes it
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        /// What to call the key
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// Withdraw a key
    Remove {
        /// Its id, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Write a fresh key to a new file, for --key-file or --new-key-file
    Generate {
        /// The file; it must not exist
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Does it.
pub async fn run(context: &Context, arguments: KeyArguments) -> Result<Outcome, Failure> {
    match arguments.command {
        KeyCommand::List => {
            let (_, repository) = context.open_to_read().await?;
            let keys = context.interruptible(repository.keys()).await??;
            if context.output.json {
                context.output.object(&keys.iter().map(object).collect());
            } else {
                let head = ["id", "kind", "label", "created", "state", "lies in"].map(str::to_owned).to_vec();
                let rows: Vec<_> = std::iter::once(head).chain(keys.iter().map(row)).collect();
                table(&rows, &[]).iter().for_each(|line| {
                    context.output.line(line);
                });
            }
        }
        KeyCommand::Add { new_password_file, new_key_file, label } => {
            let new = match (new_password_file, new_key_file) {
                (Some(path), _) => SecretSource::password_file(&context.current, &path),
                (None, Some(path)) => SecretSource::key_file(&context.current, &path),
                (None, None) => return Err(Failure::usage("which key? give --new-password-file or --new-key-file")),
            };
            let settings = context.settings()?;
            let unlock = context.unlock(&settings, false).await?;
            let loaded = context.env.blocking(move || new.load()).await?;
            if let Some(warning) = &loaded.warning {
                context.output.warn(warning);
            }
            let repository = context.open(&settings, &unlock, Access::Write).await?;
            let key = context.interruptible(repository.add_key(&loaded.unlock, KdfParams::default(), false, &label)).await??;
            said(context, "added", &key);
        }
        KeyCommand::Remove { id } => {
            let settings = context.settings()?;
            let unlock = context.unlock(&settings, false).await?;
            let repository = context.open(&settings, &unlock, Access::Write).await?;
            let key = context.interruptible(repository.remove_key(&id)).await??;
            said(context, "removed", &key);
        }
        KeyCommand::Generate { file } => {
            let (path, text) = (context.absolute(&file), KeyFile(Secret::new(context.env.random())).print());
            let written = context.env.blocking(move || create_secret_file(&path, &text)).await;
            written.map_err(|e| Failure::new(Fault::Failed, format!("writing a fresh key to {}: {e}", file.display())))?;
            context.output.note(&format!("wrote a fresh key to {}: keep a copy of it in another place", file.display()));
        }
    }
    Ok(Outcome::success())
}

fn said(context: &Context, what: &str, id: &Hash) {
    match context.output.json {
        true => context.output.object(&json!({"message_type": what, "id": hex::encode(id)})),
        false => context.output.line(format_args!("{what} key {}", hex::encode(id))),
    };
}

fn created(key: &KeyView) -> Time {
    Time(key.created.saturating_mul(1_000_000_000))
}

fn row(key: &KeyView) -> Vec<String> {
    let state = match (key.revoked, key.in_use) {
        (true, _) => "withdrawn",
        (false, true) => "in use now",
        (false, false) => "opens",
    };
    let (label, created) = (name(key.label.as_bytes()), local(created(key), 0));
    vec![short(&key.id), key.kind.clone(), label, created, state.to_owned(), key.replicas.join(",")]
}

fn object(key: &KeyView) -> Value {
    json!({
        "id": hex::encode(key.id), "kind": key.kind, "label": key.label, "created": rfc3339(created(key)),
        "revoked": key.revoked, "current": key.in_use, "replicas": key.replicas,
    })
}
