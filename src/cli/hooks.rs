//! Commands of the operator around a run and around its jobs.

use std::time::Duration;

use crate::cli::context::Context;
use crate::clock::Task;
use crate::command::{self, Output, Running};
use crate::config::run::Hooks;
use crate::progress::Stop;

/// Bytes of a variable that a hook gets.
const VARIABLE_MAX: usize = 8 << 10;
/// How long a command may still take once the run was asked to stop: whoever asked does not wait for ever.
const HURRIED: Duration = Duration::from_secs(10);

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before; one command that fails stops what was to follow.
    Before,
    /// After all went well.
    After,
    /// After something failed.
    Failed,
    /// In the end, whatever happened.
    Finally,
}

impl Moment {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::After => "after",
            Moment::Failed => "failed",
            Moment::Finally => "finally",
        }
    }
}

/// What a hook is told in its environment; what is not known yet is empty.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `HOLDFAST_JOB`: the job; empty around the whole run.
    pub job: String,
    /// `HOLDFAST_OPERATION`: `run` or `backup`.
    pub operation: &'static str,
    /// `HOLDFAST_EXIT_CODE`.
    pub exit_code: Option<u8>,
    /// `HOLDFAST_SNAPSHOT`: its whole id.
    pub snapshot: Option<String>,
    /// `HOLDFAST_ERROR`: why it failed.
    pub error: Option<String>,
}

impl Facts {
    fn variables(&self) -> Vec<(&'static str, String)> {
        let bounded = |text: &str| {
            let mut end = text.len().min(VARIABLE_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text[..end].replace('\0', " ")
        };
        vec![
            ("HOLDFAST_JOB", bounded(&self.job)),
            ("HOLDFAST_OPERATION", self.operation.to_owned()),
            ("HOLDFAST_EXIT_CODE", self.exit_code.map(|code| code.to_string()).unwrap_or_default()),
            ("HOLDFAST_SNAPSHOT", self.snapshot.clone().unwrap_or_default()),
            ("HOLDFAST_ERROR", bounded(self.error.as_deref().unwrap_or_default())),
        ]
    }
}

/// Runs the commands of one moment, in order. Gives what went wrong; before, nothing follows the first that fails, and later all
/// of them get their turn.
pub async fn run(context: &Context, hooks: &Hooks, moment: Moment, facts: &Facts) -> Vec<String> {
    let commands = match moment {
        Moment::Before => &hooks.before,
        Moment::After => &hooks.after,
        Moment::Failed => &hooks.failed,
        Moment::Finally => &hooks.finally,
    };
    let mut problems = Vec::new();
    for words in commands {
        // What comes before need not be finished when the run is to stop; what cleans up must be.
        let late = Stop::default();
        let (stop, hurry) = match moment {
            Moment::Before => (context.stop.clone(), None),
            _ => (late.clone(), Some(hurry(context, late))),
        };
        let patience = hooks.timeout;
        let (env, words, variables) = (context.env.clone(), words.clone(), facts.variables());
        let told = format!("the {} hook {:?}", moment.name(), words.first().cloned().unwrap_or_default());
        let work = move || {
            let (to, events) = command::channel();
            let started = Running::start(&env, &words, &variables, Output::Said, &to);
            drop(to);
            let mut running = started.map_err(|e| format!("could not be started: {e}"))?;
            running.conclude(&env, &events, Some(&stop), patience)?;
            Ok::<String, String>(running.tail())
        };
        let done = context.env.blocking(work).await;
        drop(hurry);
        match done {
            Ok(said) if said.is_empty() => {}
            Ok(said) => context.output.detail(&format!("{told} said: {said}")),
            Err(why) => {
                problems.push(format!("{told} {why}"));
                if moment == Moment::Before {
                    break;
                }
            }
        }
    }
    problems
}

/// Asks for an end by `late` when whoever wants the run to stop has waited long enough for what is run from now on.
fn hurry(context: &Context, late: Stop) -> Task<()> {
    let (env, stop) = (context.env.clone(), context.stop.clone());
    context.env.spawn(async move {
        stop.wait().await;
        env.sleep(HURRIED).await;
        late.request();
    })
}
