//! The process edge: the runtime, panics, and the exit code.

use std::process::ExitCode;
use std::time::Duration;

use holdfast::cli;
use holdfast::config::Environment;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let environment = Environment::of_process();
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("holdfast: a defect in this program, please report it: {panic}");
    }));
    let runtime = match holdfast::clock::runtime() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("holdfast: starting: {e}");
            return ExitCode::FAILURE;
        }
    };
    let run = std::panic::AssertUnwindSafe(|| runtime.block_on(cli::run(words, environment)));
    // A defect is never success, wherever in the run it shows.
    let code = std::panic::catch_unwind(run).unwrap_or(1);
    // A thread may hang in a system call on a store that is gone; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ExitCode::from(code)
}
