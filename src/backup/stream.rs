//! A stream as what is backed up: where it comes from, under which path, and the one file that it becomes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::backup::Given;
use crate::clock::Env;
use crate::progress::Stop;
use crate::source::stream::{Feed, StreamSource};

/// What its path is called where nobody says otherwise.
pub const STREAM_NAME: &str = "stdin";
/// How long a stream may give nothing before it counts as broken, where nobody says otherwise. A dump may well think for a while.
pub const STREAM_STALL: Duration = Duration::from_secs(900);

/// A stream to back up.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The command that prints it (program and arguments; no shell in between); none: standard input.
    pub command: Option<Vec<OsString>>,
    /// The path to record, absolute.
    pub path: PathBuf,
    /// How long it may give nothing.
    pub stall: Duration,
}

/// The path to record for a stream called `name`: below `/`. The error says what is wrong with the name.
pub fn recorded_path(name: &OsStr) -> Result<PathBuf, String> {
    let path = Path::new("/").join(Path::new(name));
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let fits = (2..=4096).contains(&path.as_os_str().len()) && path.file_name().is_some();
    match plain && fits && !name.as_bytes().contains(&0) && !name.as_bytes().ends_with(b"/") {
        true => Ok(path),
        false => Err(format!("{name:?} cannot name a stream: use a file name, or a path without . and ..")),
    }
}

/// The stream as a source. A command is started when the run is ready to read it.
pub fn given(env: &Env, settings: &StreamSettings, stop: &Stop) -> Given {
    let feed = settings.command.clone().map_or(Feed::Input, Feed::Command);
    let source = StreamSource::new(env, feed, settings.stall, stop);
    Given { path: settings.path.as_os_str().as_bytes().to_vec(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;

    use crate::backup::stream::recorded_path;

    #[test]
    fn names() {
        for (name, path) in [("stdin", "/stdin"), ("dumps/db.sql", "/dumps/db.sql"), ("/a b", "/a b")] {
            assert_eq!(recorded_path(OsStr::new(name)).as_deref(), Ok(Path::new(path)));
        }
        for name in ["", "/", "..", "a/../b", "a/", "a\0b", &"x".repeat(5000)] {
            assert!(recorded_path(OsStr::new(name)).is_err(), "{name:?}");
        }
    }
}
