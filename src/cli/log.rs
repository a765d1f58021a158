//! What is told while a command goes on, as a log: a line each with its time, its level and, in a run, whose it is.

use std::future::Future;

use tracing::Instrument;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::run::LogFormat;

/// Begins to write logs to standard error; the first format stays. Only what this program says itself: what others say might
/// hold a secret.
pub fn start(format: LogFormat) {
    let plain = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let layer = match format {
        LogFormat::Text => plain.boxed(),
        LogFormat::Json => plain.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    let own = filter_fn(|metadata| metadata.target().starts_with("holdfast"));
    // A second call finds the first one's.
    let _ = tracing_subscriber::registry().with(layer.with_filter(own)).try_init();
}

/// Something that is good to know.
pub fn note(text: &str) {
    tracing::info!("{text}");
}

/// Something that matters but is no failure.
pub fn warn(text: &str) {
    tracing::warn!("{text}");
}

/// An item that failed, while something was being done.
pub fn problem(during: &str, item: &str, text: &str) {
    tracing::error!(during, item, "{text}");
}

/// Why a command failed.
pub fn failure(code: u8, text: &str) {
    tracing::error!(code, "{text}");
}

/// How something ended.
pub fn ended(what: &str, code: u8, seconds: f64, text: &str) {
    match code {
        0 => tracing::info!(code, seconds, "{what}: {text}"),
        _ => tracing::error!(code, seconds, "{what}: {text}"),
    }
}

/// How a replica came out of a job.
pub fn replica(replica: &str, committed: bool, bytes_sent: u64, behind: Option<&str>) {
    match behind {
        None => tracing::info!(replica, committed, bytes_sent, "the replica is up to date"),
        Some(why) => tracing::warn!(replica, committed, bytes_sent, "the replica was left behind: {why}"),
    }
}

/// Does `work` as part of the run `run_id` and of `job` (empty: of none): every line says so.
pub async fn within<T>(run_id: &str, job: &str, work: impl Future<Output = T>) -> T {
    let span = match job {
        "" => tracing::info_span!("run", run_id),
        job => tracing::info_span!(parent: None, "job", run_id, job),
    };
    work.instrument(span).await
}
