//! `holdfast man`: the manual pages, one for each command.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use crate::cli::arguments::{Arguments, EXIT_CODES};
use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::count;
use crate::repository::error::Fault;

/// Arguments.
#[derive(Args)]
pub struct ManArguments {
    /// Folder to write the pages to, made where it is missing
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes the pages.
pub fn run(context: &Context, arguments: ManArguments) -> Result<Outcome, Failure> {
    let folder = context.absolute(&arguments.folder);
    let failed = |e: std::io::Error| {
        Failure::new(
            Fault::Failed,
            format!("writing manual pages to {}: {e}; name a folder that can be written", folder.display()),
        )
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let mut root = Arguments::command();
    root.build();
    let written = pages(root, &folder).map_err(failed)?;
    context.output.note(&format!("wrote {}", count(written, "page")));
    Ok(Outcome::success())
}

/// Writes the page of `command` and those of the commands below it. Returns how many.
fn pages(command: clap::Command, folder: &Path) -> std::io::Result<u64> {
    let mut written = 1;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()).cloned() {
        written += pages(below, folder)?;
    }
    // The table of exit codes would be filled into one paragraph: it has a section of its own, line by line.
    let page = Man::new(command.after_help(None::<&str>));
    let mut text = Vec::new();
    page.render(&mut text)?;
    text.extend_from_slice(format!(".SH \"EXIT STATUS\"\n.nf\n{EXIT_CODES}\n.fi\n").as_bytes());
    std::fs::write(folder.join(page.get_filename()), text)?;
    Ok(written)
}
