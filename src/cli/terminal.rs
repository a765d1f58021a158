//! Progress while a run goes on: bars on a terminal, a line every few seconds off it, JSON status lines with `--json`.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::output::{Output, duration, name, on_terminal, size};
use crate::clock::{Env, Task};
use crate::progress::Progress;

const REDRAW: Duration = Duration::from_millis(200);
const STATUS: Duration = Duration::from_secs(1);
const LINE: Duration = Duration::from_secs(5);

/// Shows `progress` until it is dropped.
pub struct Watch {
    task: Option<Task<()>>,
    bar: ProgressBar,
}

impl Watch {
    /// Begins to show. `verb` says what the run does: `backing up`.
    pub fn start(env: &Env, output: &Arc<Output>, progress: &Progress, verb: &'static str) -> Watch {
        let bar = ProgressBar::hidden();
        if output.quiet {
            return Watch { task: None, bar };
        }
        let bars = on_terminal() && !output.json;
        if bars {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
        }
        let (env, output, progress, shown) = (env.clone(), output.clone(), progress.clone(), bar.clone());
        let began = env.elapsed();
        let task = env.clone().spawn(async move {
            loop {
                env.sleep(if output.json {
                    STATUS
                } else if bars {
                    REDRAW
                } else {
                    LINE
                })
                .await;
                let elapsed = env.elapsed().saturating_sub(began);
                match (output.json, bars) {
                    (true, _) => {
                        output.object(&status(&progress, elapsed));
                        output.flush();
                    }
                    (false, true) => shown.set_message(text(&progress, verb, elapsed, true)),
                    (false, false) => output.note(&text(&progress, verb, elapsed, false)),
                }
            }
        });
        Watch { task: Some(task), bar }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task = None;
        self.bar.finish_and_clear();
    }
}

fn part(done: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| (done as f64 / total as f64).min(1.0))
}

/// A restic-shaped status object.
fn status(progress: &Progress, elapsed: Duration) -> Value {
    let (bytes, total) = (progress.bytes.get(), progress.bytes_total.get());
    let mut status = json!({
        "message_type": "status",
        "seconds_elapsed": elapsed.as_secs(),
        "percent_done": part(bytes, total).unwrap_or(0.0),
        "total_files": progress.items_total.get(),
        "files_done": progress.items.get(),
        "total_bytes": total,
        "bytes_done": bytes,
        "bytes_stored": progress.stored.get(),
        "error_count": progress.errors.get(),
        "current_files": [progress.current()],
        "replicas": progress.replicas().iter().map(|r| json!({
            "name": r.name, "bytes_sent": r.sent, "bytes_waiting": r.waiting, "behind": r.behind,
        })).collect::<Vec<_>>(),
    });
    if let Some(done) = part(bytes, total).filter(|done| *done > 0.0) {
        status["seconds_remaining"] = ((elapsed.as_secs_f64() * (1.0 - done) / done) as u64).into();
    }
    status
}

fn text(progress: &Progress, verb: &str, elapsed: Duration, brief: bool) -> String {
    let (bytes, total) = (progress.bytes.get(), progress.bytes_total.get());
    let mut text = match part(bytes, total) {
        Some(done) => format!("{verb}: {:.0} %, {} of {}", done * 100.0, size(bytes), size(total)),
        None => format!("{verb}: {}", size(bytes)),
    };
    text.push_str(&format!(", {} items, {}/s, {}", progress.items.get(), size(rate(bytes, elapsed)), duration(elapsed)));
    if progress.errors.get() > 0 {
        text.push_str(&format!(", {} errors", progress.errors.get()));
    }
    for replica in progress.replicas() {
        match replica.behind {
            Some(_) => text.push_str(&format!(" | {} left behind", replica.name)),
            None => text.push_str(&format!(" | {} {}", replica.name, size(replica.sent))),
        }
    }
    let current = progress.current();
    if brief && !current.is_empty() {
        text.push_str(" | ");
        text.push_str(&name(current.as_bytes()));
    }
    text
}

fn rate(bytes: u64, elapsed: Duration) -> u64 {
    if elapsed.is_zero() { 0 } else { (bytes as f64 / elapsed.as_secs_f64()) as u64 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::cli::terminal::{status, text};
    use crate::progress::Progress;

    #[test]
    fn what_is_shown_is_what_was_counted() {
        let progress = Progress::default();
        progress.bytes.add(1 << 20);
        progress.items.add(3);
        assert_eq!(
            text(&progress, "backing up", Duration::from_secs(2), true),
            "backing up: 1.0 MiB, 3 items, 512.0 KiB/s, 2.0 s"
        );
        assert!(status(&progress, Duration::from_secs(2)).get("seconds_remaining").is_none());
        progress.bytes_total.set(4 << 20);
        progress.set_current(|| "a\u{1b}b".into());
        progress.update_replica(0, |r| r.name = "paris".into());
        progress.update_replica(0, |r| r.behind = Some("full".into()));
        let shown = text(&progress, "backing up", Duration::from_secs(2), true);
        assert_eq!(
            shown,
            "backing up: 25 %, 1.0 MiB of 4.0 MiB, 3 items, 512.0 KiB/s, 2.0 s | paris left behind | \"a\\u{1b}b\""
        );
        let status = status(&progress, Duration::from_secs(2));
        assert_eq!((&status["percent_done"], &status["seconds_remaining"]), (&0.25.into(), &6.into()));
        assert_eq!(status["current_files"][0], "a\u{1b}b");
    }
}
