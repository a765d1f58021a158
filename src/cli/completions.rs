//! `holdfast completions`: what a shell needs to complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::cli::arguments::Arguments;
use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;

/// Arguments.
#[derive(Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

/// Prints the completions.
pub fn run(context: &Context, arguments: CompletionsArguments) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Arguments::command(), "holdfast", &mut script);
    context.output.line(String::from_utf8_lossy(&script).trim_end());
    Ok(Outcome::success())
}
