//! Catalog keys: path components joined by 0x00, so that a directory is followed by its contents.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use bytes::Bytes;

use crate::format::{COMPONENT_MAX, FormatError, KEY_MAX, ensure, unwritable};

const WHAT: &str = "a catalog key";

/// What stands between components.
pub const SEPARATOR: u8 = 0;

/// The key of `name` in the directory with key `parent` (empty: the root). `name` is taken as it is.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parent.len() + 1 + name.len());
    key.extend_from_slice(parent);
    if !parent.is_empty() {
        key.push(SEPARATOR);
    }
    key.extend_from_slice(name);
    key
}

/// The components of a key, from the root down; of the root, none.
pub fn components(key: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    key.split(|byte| *byte == SEPARATOR).filter(move |_| !key.is_empty())
}

/// The key of the directory that holds `key`; `None` for the root.
pub fn parent(key: &[u8]) -> Option<&[u8]> {
    if key.is_empty() {
        return None;
    }
    Some(key.iter().rposition(|byte| *byte == SEPARATOR).map_or(&[], |at| &key[..at]))
}

/// The last component; of the root, empty.
pub fn name(key: &[u8]) -> &[u8] {
    key.iter().rposition(|byte| *byte == SEPARATOR).map_or(key, |at| &key[at + 1..])
}

/// Where the contents of the directory `key` begin and what all their keys start with; for the root, empty.
pub fn contents_prefix(key: &[u8]) -> Vec<u8> {
    if key.is_empty() { Vec::new() } else { [key, &[SEPARATOR]].concat() }
}

/// Tests a key: every component 1 to 255 bytes, no `/`, not `.` or `..`; the whole within [`KEY_MAX`]. A key that passes
/// can only name something below the directory it is applied to.
pub fn verify_key(key: &[u8]) -> Result<(), FormatError> {
    ensure(key.len() <= KEY_MAX, WHAT, "it is too long")?;
    components(key).try_for_each(|component| {
        ensure(!component.is_empty(), WHAT, "a component is empty")?;
        ensure(component.len() <= COMPONENT_MAX, WHAT, "a component is too long")?;
        ensure(!component.contains(&b'/'), WHAT, "a component holds a slash")?;
        ensure(component != b"." && component != b"..", WHAT, "a component is a dot or two")
    })
}

/// A key for people: joined by `/`, what is not text replaced, control characters escaped. Not reversible.
pub fn display(key: &[u8]) -> String {
    let mut out = String::with_capacity(key.len());
    for (at, component) in components(key).enumerate() {
        if at > 0 {
            out.push('/');
        }
        for character in String::from_utf8_lossy(component).chars() {
            let steers = character.is_control()
                || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if steers { out.extend(character.escape_default()) } else { out.push(character) }
        }
    }
    out
}

/// The key of a relative path; `.` components are dropped, `..` and roots are refused.
pub fn from_path(path: &Path) -> Result<Bytes, FormatError> {
    let mut key = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => key = join(&key, name.as_bytes()),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(unwritable(WHAT, "the path is not below its root"));
            }
        }
    }
    verify_key(&key).map_err(FormatError::on_writing)?;
    Ok(Bytes::from(key))
}
