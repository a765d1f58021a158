//! What the operator says and sees.
//!
//! What is here: one file per command, each the same shape (arguments, run, what is printed), the way things are shown
//! (`output`, `terminal`, `github`) and the exit codes (`exit`). What comes in: the command line, signals. What goes out: text or
//! JSON, and a code from the final state alone. What never happens here: a decision about data.

pub mod arguments;
pub mod backup;
pub mod completions;
pub mod context;
pub mod doctor;
pub mod exit;
pub mod figures;
pub mod forget;
pub mod github;
pub mod heal;
pub mod hooks;
pub mod init;
pub mod key;
pub mod lifecycle;
pub mod log;
pub mod ls;
pub mod man;
pub mod output;
pub mod prompt;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod retire;
pub mod run;
pub mod select;
pub mod snapshots;
pub mod status;
pub mod terminal;
pub mod undelete;
pub mod verify;

use std::ffi::OsString;
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::arguments::{Arguments, Command};
use crate::cli::context::{Context, Failure};
use crate::cli::exit::{Outcome, Signal};
use crate::cli::github::GitHub;
use crate::cli::output::Output;
use crate::clock::{Env, Task};
use crate::config::Environment;
use crate::progress::Stop;
use crate::repository::error::Fault;

/// Runs the command that `words` (program name first) ask for. Returns the exit code.
pub async fn run(words: Vec<OsString>, environment: Environment) -> u8 {
    let parsed = Arguments::command().try_get_matches_from(&words).and_then(|matches| {
        let name = matches.subcommand_name().unwrap_or_default().to_owned();
        Arguments::from_arg_matches(&matches).map(|arguments| (name, arguments))
    });
    let (name, arguments) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            let code = if e.use_stderr() { Outcome::failure(Fault::Usage, None).code() } else { 0 };
            if code != 0 && words.iter().any(|word| word == "--json") {
                Output::new(true, false, false).failure(code, e.to_string().trim_end());
            } else {
                // Help and version are results. A reader that went away is no failure.
                let _ = e.print();
            }
            return code;
        }
    };
    let global = arguments.global;
    let github = GitHub::of(global.github, &environment);
    let output = Arc::new(Output::new(global.json, global.quiet, global.verbose).with_github(github));
    if let Some(format) = global.log_format {
        output.log_as(format);
    }
    let result = match std::env::current_dir() {
        Ok(current) => {
            let context = Context {
                env: Env::real(),
                output: output.clone(),
                stop: Stop::default(),
                signal: Arc::default(),
                overrides: global.overrides(&current),
                environment,
                current,
                program: words.into_iter().next().unwrap_or_default(),
                meters: Arc::default(),
            };
            let signals = listen(&context);
            let result = match signals {
                Ok(_task) => dispatch(&context, arguments.command).await,
                Err(e) => Err(Failure::new(Fault::Failed, format!("listening for signals: {e}"))),
            };
            figures::asked(&context).iter().for_each(|line| output.detail(line));
            result.map_err(|failure| (Outcome::failure(failure.fault, context.signal()).code(), failure.message))
        }
        Err(e) => Err((1, format!("finding the current folder: {e}"))),
    };
    let (code, message) = match result {
        Ok(outcome) => (outcome.code(), String::new()),
        Err((code, message)) => (code, message),
    };
    let (code, message) = match output.finish() {
        Err(e) if code == 0 => (1, format!("writing to standard output: {e}")),
        _ => (code, message),
    };
    match (code, message.is_empty()) {
        (0, _) => {}
        (_, false) => output.failure(code, &message),
        (_, true) if output.json => output.failure(code, "see the lines before this one"),
        (_, true) => {}
    }
    output.close(&name, code, &message);
    code
}

async fn dispatch(context: &Context, command: Command) -> Result<Outcome, Failure> {
    // These see to it themselves that they end in time: there is something to tell afterwards.
    let tells = matches!(command, Command::Backup(_) | Command::Lifecycle(_) | Command::Run(_));
    let work = Box::pin(async {
        match command {
            Command::Init(arguments) => init::run(context, arguments).await,
            Command::Backup(arguments) => backup::run(context, arguments).await,
            Command::Snapshots(arguments) => snapshots::run(context, arguments).await,
            Command::Ls(arguments) => ls::run(context, arguments).await,
            Command::Restore(arguments) => restore::run(context, arguments).await,
            Command::Verify(arguments) => verify::run(context, arguments).await,
            Command::Forget(arguments) => forget::run(context, *arguments).await,
            Command::Undelete(arguments) => undelete::run(context, arguments).await,
            Command::Prune(arguments) => prune::run(context, arguments).await,
            Command::Heal(arguments) => heal::run(context, arguments).await,
            Command::Repair(arguments) => repair::run(context, arguments).await,
            Command::Retire(arguments) => retire::run(context, arguments).await,
            Command::Lifecycle(arguments) => lifecycle::run(context, arguments).await,
            Command::Run(arguments) => run::run(context, arguments).await,
            Command::Status(arguments) => status::run(context, arguments).await,
            Command::Doctor(arguments) => doctor::run(context, arguments).await,
            Command::Key(arguments) => key::run(context, arguments).await,
            Command::Completions(arguments) => completions::run(context, arguments),
            Command::Man(arguments) => man::run(context, arguments),
        }
    });
    if tells { work.await } else { context.in_time(work).await }
}

/// The first signal asks the run to stop; the second ends the process where it stands, which no store can be harmed by.
fn listen(context: &Context) -> std::io::Result<Task<()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (env, stop, first, output) = (context.env.clone(), context.stop.clone(), context.signal.clone(), context.output.clone());
    Ok(context.env.spawn(async move {
        loop {
            let received = tokio::select! {
                biased;
                _ = terminate.recv() => Signal::Terminate,
                _ = interrupt.recv() => Signal::Interrupt,
            };
            if !remember(&first, received) {
                std::process::exit(i32::from(received.code()));
            }
            output.note("stopping: what is in flight is finished first, for a while (once more to stop at once)");
            stop.request();
            // From now on it counts.
            let _ = stop.age(&env);
        }
    }))
}

/// Whether `received` is the first signal.
fn remember(first: &Mutex<Option<Signal>>, received: Signal) -> bool {
    let Ok(mut first) = first.lock() else { return false };
    let fresh = first.is_none();
    first.get_or_insert(received);
    fresh
}
