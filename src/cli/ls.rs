//! `holdfast ls`: what is in a snapshot.

use std::ffi::OsString;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::context::{Context, Failure};
use crate::cli::exit::Outcome;
use crate::cli::output::{local, name, put_name, rfc3339, short};
use crate::cli::select::{Filter, Wanted};
use crate::cli::snapshots;
use crate::clock::Time;
use crate::format::entry::{self, Entry, EntryKind, Problem};
use crate::format::snapshot::Root;
use crate::format::tree::TreeKind;
use crate::repository::error::Fault;

/// Arguments.
#[derive(Args)]
pub struct LsArguments {
    /// Which snapshot: an id or its beginning, latest, latest~N; with PATH only what is at and below that recorded path
    #[arg(value_name = "SNAPSHOT[:PATH]", default_value = "latest")]
    pub snapshot: OsString,
    /// Which snapshots `latest` is chosen from
    #[command(flatten)]
    pub filter: Filter,
    /// Mode, owner, size and time, too
    #[arg(short, long)]
    pub long: bool,
}

/// Lists in path order.
pub async fn run(context: &Context, arguments: LsArguments) -> Result<Outcome, Failure> {
    let wanted = Wanted::parse(&arguments.snapshot)?;
    let (_, repository) = context.open_to_read().await?;
    context.warn_of_absent(&repository);
    let view = context.interruptible(wanted.find(&repository, &arguments.filter)).await??;
    let output = &context.output;
    if output.json {
        let mut snapshot = snapshots::object(&view);
        snapshot["message_type"] = "snapshot".into();
        snapshot["struct_type"] = "snapshot".into();
        output.object(&snapshot);
    }
    let mut found = wanted.path.is_none();
    for root in &view.snapshot.roots {
        let Some(below) = below(root, wanted.path.as_deref()) else { continue };
        let Some(catalog) = &root.catalog else { continue };
        let mut cursor = repository.cursor(TreeKind::Catalog, catalog)?;
        cursor.seek(&below);
        while let Some((key, value)) = context.interruptible(cursor.next()).await?? {
            if !is_below(&key, &below) {
                break;
            }
            found = true;
            let entry = entry::decode(value, &key).map_err(|e| {
                Failure::new(
                    Fault::Integrity,
                    format!("reading {} in snapshot {}: {e}", name(&path(root, &key)), short(&view.id)),
                )
            })?;
            let path = path(root, &key);
            let more = match output.json {
                true => output.object(&object(&path, &entry)),
                false if arguments.long => output.line(long(&path, &entry)),
                false => output.line(name(&path)),
            };
            if !more {
                return Ok(Outcome::success());
            }
        }
    }
    match (found, &wanted.path) {
        (false, Some(path)) => Err(Failure::new(Fault::Failed, format!("snapshot {} has no {}", wanted.snapshot, name(path)))),
        _ => Ok(Outcome::success()),
    }
}

/// The key in `root` that `wanted` stands for: empty for the whole root. `None` when it lies elsewhere.
fn below(root: &Root, wanted: Option<&[u8]>) -> Option<Vec<u8>> {
    let Some(wanted) = wanted else { return Some(Vec::new()) };
    let inside = |outer: &[u8], inner: &[u8]| -> Option<Vec<u8>> {
        let outer = outer.strip_suffix(b"/").unwrap_or(outer);
        match inner.strip_prefix(outer)? {
            [] => Some(Vec::new()),
            [b'/', rest @ ..] => Some(rest.to_vec()),
            _ => None,
        }
    };
    match inside(&root.path, wanted) {
        Some(rest) => Some(rest.iter().map(|b| if *b == b'/' { 0 } else { *b }).collect()),
        // A folder above the root shows all of it.
        None => inside(wanted, &root.path).map(|_| Vec::new()),
    }
}

fn is_below(key: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty() || key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == 0)
}

fn path(root: &Root, key: &Bytes) -> Vec<u8> {
    let mut path = root.path.to_vec();
    if !key.is_empty() {
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend(key.iter().map(|b| if *b == 0 { b'/' } else { *b }));
    }
    path
}

fn kind(entry: &Entry) -> (char, &'static str) {
    match entry.kind() {
        EntryKind::File => ('-', "file"),
        EntryKind::Directory => ('d', "dir"),
        EntryKind::Symlink => ('l', "symlink"),
        EntryKind::Fifo => ('p', "fifo"),
        EntryKind::Socket => ('s', "socket"),
        EntryKind::CharDevice => ('c', "chardev"),
        EntryKind::BlockDevice => ('b', "dev"),
        EntryKind::Unknown => ('?', "unknown"),
    }
}

fn permissions(entry: &Entry) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::from(kind(entry).0);
    for (i, (bit, with, without)) in special.into_iter().enumerate() {
        let bits = entry.mode >> (6 - 3 * i) & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (entry.mode & bit != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => with,
            (true, false) => without,
        });
    }
    text
}

fn mtime(entry: &Entry) -> Time {
    Time(entry.mtime.saturating_mul(1_000_000_000).saturating_add(i64::from(entry.mtime_nanos)))
}

fn long(path: &[u8], entry: &Entry) -> String {
    let owner = |number: u32, text: &[u8]| if text.is_empty() { number.to_string() } else { name(text) };
    let mut line = format!(
        "{} {:>8} {:>8} {:>12} {} {}",
        permissions(entry),
        owner(entry.uid, &entry.user),
        owner(entry.gid, &entry.group),
        entry.size,
        local(mtime(entry), 0),
        name(path)
    );
    if entry.kind() == EntryKind::Symlink {
        line.push_str(" -> ");
        line.push_str(&name(&entry.link_target));
    }
    if entry.problem() != Problem::None {
        line.push_str(" (incomplete)");
    }
    line
}

fn object(path: &[u8], entry: &Entry) -> Value {
    let mut object = Map::new();
    object.insert("message_type".into(), "node".into());
    object.insert("struct_type".into(), "node".into());
    put_name(&mut object, "name", path.rsplit(|b| *b == b'/').next().unwrap_or_default());
    object.insert("type".into(), kind(entry).1.into());
    put_name(&mut object, "path", path);
    let Value::Object(rest) = json!({
        "uid": entry.uid, "gid": entry.gid, "mode": entry.mode, "permissions": permissions(entry), "mtime": rfc3339(mtime(entry)),
    }) else {
        return object.into();
    };
    object.extend(rest);
    if entry.kind() == EntryKind::File {
        object.insert("size".into(), entry.size.into());
    }
    if !entry.user.is_empty() {
        put_name(&mut object, "user", &entry.user);
    }
    if !entry.group.is_empty() {
        put_name(&mut object, "group", &entry.group);
    }
    if entry.kind() == EntryKind::Symlink {
        put_name(&mut object, "linktarget", &entry.link_target);
    }
    match entry.problem() {
        Problem::None => {}
        Problem::Inconsistent => drop(object.insert("problem".into(), "inconsistent".into())),
        Problem::Unreadable => drop(object.insert("problem".into(), "unreadable".into())),
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use crate::cli::ls::{below, is_below, path, permissions};
    use crate::format::entry::{Entry, EntryKind};
    use crate::format::snapshot::Root;

    #[test]
    fn recorded_paths_and_keys() {
        let root = |at: &'static str| Root { path: at.into(), ..Root::default() };
        let key = |at, wanted: &str| below(&root(at), Some(wanted.as_bytes()));
        assert_eq!(below(&root("/home"), None), Some(vec![]));
        assert_eq!(key("/home", "/home"), Some(vec![]));
        assert_eq!(key("/home", "/home/a/b"), Some(b"a\0b".to_vec()));
        assert_eq!(key("/home", "/homes"), None);
        assert_eq!(key("/home/a", "/"), Some(vec![]));
        assert_eq!(key("/home/a", "/home"), Some(vec![]));
        assert_eq!(key("/", "/a"), Some(b"a".to_vec()));
        assert!(is_below(b"a\0b", b"a") && is_below(b"a", b"a") && !is_below(b"ab", b"a") && is_below(b"x", b""));
        assert_eq!(path(&root("/"), &"a\0b".into()), b"/a/b");
        assert_eq!(path(&root("/r"), &"".into()), b"/r");
    }

    #[test]
    fn modes() {
        for (mode, text) in [(0o755, "-rwxr-xr-x"), (0o4755, "-rwsr-xr-x"), (0o2640, "-rw-r-S---"), (0o1777, "-rwxrwxrwt")] {
            assert_eq!(permissions(&Entry { kind: EntryKind::File as i32, mode, ..Entry::default() }), text);
        }
    }
}
