//! The text file that the node exporter reads: whole at any moment, and durable before it takes the old one's place. Blocking.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::metrics::figures::{Figures, TEXT_MAX};

/// What the file holds; nothing when it is not there.
pub fn read(path: &Path) -> io::Result<Figures> {
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(TEXT_MAX).read_to_string(&mut text).map(drop)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(Figures::parse(&text))
}

/// Replaces the file by what `make` says, given what it held. Runs that end at the same moment take turns, so that none
/// overlooks what another wrote.
pub fn replace(path: &Path, make: impl FnOnce(Figures) -> Figures) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let held = std::fs::File::open(folder)?;
    // Some network file systems cannot; the file is whole all the same.
    let _turn = flock(&held, FlockOperation::LockExclusive);
    let text = make(read(path).unwrap_or_default()).encode();
    // Its name ends otherwise: the node exporter must not read it before it is whole.
    let mut file = tempfile::Builder::new().prefix(".holdfast-metrics").suffix(".new").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    // Who reads it is another user.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    held.sync_all()
}
