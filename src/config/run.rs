//! What belongs to a scheduled run: a job's source, commands around it, figures, signs of life, and logs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;

use crate::backup::stream::{STREAM_STALL, StreamSettings, recorded_path};
use crate::config::amount::Span;
use crate::config::file::{HooksSection, JobSection, LogSection, MetricsSection};
use crate::config::resolve::Place;
use crate::config::{ConfigError, Environment, Overrides, absolute};
use crate::metrics::post::Address;

/// How long one command of a hook may take where nobody says otherwise.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest time that can be set here: longer ones are a slip of the pen.
const SPAN_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Commands around something, each program and arguments.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// Before; one that fails stops what was to follow.
    pub before: Vec<Vec<OsString>>,
    /// After all went well.
    pub after: Vec<Vec<OsString>>,
    /// After something failed.
    pub failed: Vec<Vec<OsString>>,
    /// In the end, whatever happened.
    pub finally: Vec<Vec<OsString>>,
    /// How long one command may take.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Hooks {
        let none = Vec::new;
        Hooks { before: none(), after: none(), failed: none(), finally: none(), timeout: HOOK_TIMEOUT }
    }
}

/// Where a `run` leaves its figures.
#[derive(Clone, Debug, Default)]
pub struct MetricsSettings {
    /// A text file for the node exporter.
    pub file: Option<PathBuf>,
    /// A Pushgateway.
    pub push: Option<Address>,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text each.
    Text,
    /// A line of JSON each.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is no format of logs: text or json")),
        }
    }
}

/// What a job backs up: paths, or the output of a command.
pub(super) fn source(section: &JobSection, place: &Place<'_>) -> Result<(Vec<PathBuf>, Option<StreamSettings>), ConfigError> {
    let lone = |name: &str| format!("{name} goes with command");
    match (&section.paths, &section.command) {
        (Some(_), Some(command)) => Err(place.at(command.span(), "a job has paths or a command: make it two jobs")),
        (None, None) => Err(place.at(section.name.span(), "the job names neither paths nor a command")),
        (Some(paths), None) => {
            if paths.get_ref().is_empty() {
                return Err(place.at(paths.span(), "names no path"));
            }
            if let Some(name) = &section.filename {
                return Err(place.at(name.span(), lone("filename")));
            }
            if let Some(stall) = &section.stall {
                return Err(place.at(stall.span(), lone("stall")));
            }
            Ok((paths.get_ref().iter().map(|path| absolute(place.folder, path)).collect(), None))
        }
        (None, Some(words)) => {
            if let Some(path) = &section.recorded_as {
                return Err(place.at(path.span(), "recorded_as goes with paths; for a command it is filename"));
            }
            let lists = [&section.exclude, &section.iexclude, &section.exclude_if_present];
            let chosen = lists.iter().any(|list| !list.is_empty())
                || !section.exclude_file.is_empty()
                || section.exclude_larger_than.is_some();
            if chosen || section.exclude_caches || section.one_file_system || section.ignore_inode || section.ignore_ctime {
                return Err(place.at(words.span(), "what chooses among files goes with paths; of a command everything is kept"));
            }
            let path = match &section.filename {
                Some(name) => recorded_path(name.get_ref().as_ref()).map_err(|why| place.at(name.span(), why))?,
                None => recorded_path(section.name.get_ref().as_ref()).map_err(|why| place.at(section.name.span(), why))?,
            };
            let stall = bounded(section.stall.as_ref(), place)?.unwrap_or(STREAM_STALL);
            Ok((Vec::new(), Some(StreamSettings { command: Some(command(words, place)?), path, stall })))
        }
    }
}

/// A length of time within reason.
fn bounded(span: Option<&Spanned<Span>>, place: &Place<'_>) -> Result<Option<Duration>, ConfigError> {
    match span {
        Some(span) if !(Duration::from_secs(1)..=SPAN_MAX).contains(&span.get_ref().0) => {
            Err(place.at(span.span(), "must be 1 s to 366 d"))
        }
        span => Ok(span.map(|span| span.get_ref().0)),
    }
}

/// How often a job is meant to run.
pub(super) fn every(span: Option<&Spanned<Span>>, place: &Place<'_>) -> Result<Option<Duration>, ConfigError> {
    bounded(span, place)
}

fn command(words: &Spanned<Vec<String>>, place: &Place<'_>) -> Result<Vec<OsString>, ConfigError> {
    match words.get_ref().first() {
        Some(program) if !program.is_empty() && words.get_ref().iter().all(|word| !word.contains('\0')) => {
            Ok(words.get_ref().iter().map(OsString::from).collect())
        }
        _ => Err(place.at(words.span(), "names no program: write [\"PROGRAM\", \"ARGUMENT\", ...]")),
    }
}

/// Commands around something.
pub(super) fn hooks(section: &HooksSection, place: &Place<'_>) -> Result<Hooks, ConfigError> {
    let all = |list: &[Spanned<Vec<String>>]| list.iter().map(|words| command(words, place)).collect::<Result<Vec<_>, _>>();
    Ok(Hooks {
        before: all(&section.before)?,
        after: all(&section.after)?,
        failed: all(&section.failed)?,
        finally: all(&section.finally)?,
        timeout: bounded(section.timeout.as_ref(), place)?.unwrap_or(HOOK_TIMEOUT),
    })
}

/// Where figures go.
pub(super) fn metrics(section: &MetricsSection, place: &Place<'_>) -> Result<MetricsSettings, ConfigError> {
    Ok(MetricsSettings {
        file: section.file.as_ref().map(|path| absolute(place.folder, path.get_ref())),
        push: ping(section.push.as_ref(), place)?,
    })
}

/// Who is told. The address itself may be a secret: no message repeats it.
pub(super) fn ping(url: Option<&Spanned<String>>, place: &Place<'_>) -> Result<Option<Address>, ConfigError> {
    url.map(|url| Address::parse(url.get_ref()).map_err(|why| place.at(url.span(), why))).transpose()
}

/// How logs are written: flag, environment, file.
pub(super) fn log(
    overrides: &Overrides,
    environment: &Environment,
    section: &LogSection,
    place: &Place<'_>,
) -> Result<Option<LogFormat>, ConfigError> {
    if let Some(format) = overrides.log {
        return Ok(Some(format));
    }
    if let Some(format) = environment.parsed("HOLDFAST_LOG_FORMAT")? {
        return Ok(Some(format));
    }
    section.format.as_ref().map(|text| text.get_ref().parse().map_err(|why: String| place.at(text.span(), why))).transpose()
}
