//! What a snapshot's roots are made from: paths of this machine, and sources that were handed in.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::backup::{BackupSettings, Given};
use crate::source::Source;

/// What one root of the snapshot is made from.
pub struct Recorded {
    /// The path that is recorded.
    pub path: Vec<u8>,
    /// Where it is read (as recorded when it was handed in).
    pub from: PathBuf,
    /// What was handed in.
    pub given: Option<Box<dyn Source>>,
}

/// The sources with the path that is recorded for each; each once.
pub fn recorded(settings: &BackupSettings, sources: Vec<Given>) -> Vec<Recorded> {
    let mut out: Vec<Recorded> = Vec::new();
    for path in &settings.paths {
        let path: PathBuf = path.components().filter(|c| *c != std::path::Component::CurDir).collect();
        let as_path = settings.recorded_as.as_deref().unwrap_or(&path).as_os_str().as_bytes().to_vec();
        if !out.iter().any(|other| other.path == as_path) {
            out.push(Recorded { path: as_path, from: path, given: None });
        }
    }
    for Given { path, source } in sources {
        if !out.iter().any(|other| other.path == path) {
            out.push(Recorded { from: PathBuf::from(OsStr::from_bytes(&path)), path, given: Some(source) });
        }
    }
    out
}
