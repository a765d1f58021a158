//! Which part of a snapshot is restored, and where each item of it goes.

use std::collections::BTreeSet;

use crate::format::catalog;
use crate::format::snapshot::{Root, Snapshot};
use crate::format::tree::Child;
use crate::restore::RestoreSettings;
use crate::restore::tally::told;
use crate::source::filter::{Filter, Verdict};

/// A part of one root's catalog, and its place in the target.
#[derive(Clone, Debug)]
pub struct Part {
    /// The root's catalog.
    pub catalog: Child,
    /// Catalog key of the topmost item; empty: the root itself.
    pub from: Vec<u8>,
    /// That item's recorded absolute path.
    pub path: Vec<u8>,
    /// That item's key in the target; empty: if it is a directory, its contents go straight into the target.
    pub to: Vec<u8>,
}

impl Part {
    /// The recorded absolute path of the item at a catalog key of this part.
    pub fn path_of(&self, key: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        let below = below(key, &self.from);
        if !below.is_empty() {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend(below.iter().map(|b| if *b == catalog::SEPARATOR { b'/' } else { *b }));
        }
        path
    }

    /// Where the item at a catalog key of this part goes. What is no directory goes into the target under its own name.
    pub fn target_of(&self, key: &[u8], is_directory: bool) -> Vec<u8> {
        let below = below(key, &self.from);
        let place = if below.is_empty() { self.to.clone() } else { catalog::join(&self.to, below) };
        if place.is_empty() && !is_directory {
            let last = self.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            return last.to_vec();
        }
        place
    }

    /// Whether a catalog key is in this part.
    pub fn has(&self, key: &[u8]) -> bool {
        is_at_or_below(key, &self.from)
    }
}

/// What follows `top` in a key that is at or below it.
fn below<'k>(key: &'k [u8], top: &[u8]) -> &'k [u8] {
    let rest = key.get(top.len()..).unwrap_or_default();
    if top.is_empty() { rest } else { rest.get(1..).unwrap_or_default() }
}

/// Whether a key is `top` or below it.
pub fn is_at_or_below(key: &[u8], top: &[u8]) -> bool {
    top.is_empty() || key.strip_prefix(top).is_some_and(|rest| rest.first().is_none_or(|b| *b == catalog::SEPARATOR))
}

/// The components of an absolute path, joined as a key is.
fn key_of(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
    parts.join(&catalog::SEPARATOR)
}

/// The parts to restore. With a path: the item recorded there, from the root nearest above it, or else every root below
/// it. The inner text says what the operator should have asked for.
pub fn parts(snapshot: &Snapshot, path: Option<&[u8]>) -> Result<Vec<Part>, String> {
    let rooted = |root: &Root| Some((root.catalog.clone()?, key_of(&root.path), root.path.to_vec()));
    let roots: Vec<(Child, Vec<u8>, Vec<u8>)> = snapshot.roots.iter().filter_map(rooted).collect();
    let Some(path) = path else {
        return Ok(roots.into_iter().map(|(catalog, to, path)| Part { catalog, from: Vec::new(), path, to }).collect());
    };
    let wanted = key_of(path);
    let above = roots.iter().filter(|(_, at, _)| is_at_or_below(&wanted, at)).max_by_key(|(_, at, _)| at.len());
    if let Some((catalog, at, _)) = above {
        let from = below(&wanted, at).to_vec();
        return Ok(vec![Part { catalog: catalog.clone(), from, path: path.to_vec(), to: Vec::new() }]);
    }
    let under: Vec<Part> = roots
        .into_iter()
        .filter(|(_, at, _)| is_at_or_below(at, &wanted))
        .map(|(catalog, at, path)| Part { catalog, from: Vec::new(), path, to: below(&at, &wanted).to_vec() })
        .collect();
    if under.is_empty() {
        let recorded: BTreeSet<_> = snapshot.roots.iter().map(|r| String::from_utf8_lossy(&r.path).into_owned()).collect();
        let recorded: Vec<String> = recorded.into_iter().take(10).collect();
        let path = String::from_utf8_lossy(path);
        return Err(format!("the snapshot has nothing recorded at {path}; its paths are: {}", recorded.join(", ")));
    }
    Ok(under)
}

/// The patterns of one restore, compared with recorded absolute paths. They mean what they mean to a backup.
#[derive(Debug, Default)]
pub struct Choice {
    includes: Option<Filter>,
    excludes: Filter,
}

/// What the patterns said on the way down to some item.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    included: Verdict,
    excluded: Verdict,
}

impl Choice {
    /// From the settings. The inner text is the operator's to mend.
    pub fn new(settings: &RestoreSettings) -> Result<Choice, String> {
        let filter = |patterns: &[String]| Filter::new(patterns, &[], &[]).map_err(|e| told(&e));
        let includes = if settings.includes.is_empty() { None } else { Some(filter(&settings.includes)?) };
        Ok(Choice { includes, excludes: filter(&settings.excludes)? })
    }

    /// Whether everything is wanted, so that nothing need be judged.
    pub fn is_all(&self) -> bool {
        self.includes.is_none() && self.excludes.has_no_patterns()
    }

    /// Judges the topmost item of a part: it is never left out itself, and a pattern that includes it or anything above
    /// it includes all of it.
    pub fn top(&self, path: &[u8]) -> Judged {
        let mut judged = Judged::default();
        if let Some(includes) = &self.includes {
            let ends = (1..path.len()).filter(|i| path[*i] == b'/').chain([path.len()]);
            for end in ends {
                judged.included = includes.judge(judged.included, &path[..end]);
            }
        }
        judged
    }

    /// Judges an item, given what was said of its directory.
    pub fn judge(&self, above: Judged, path: &[u8]) -> Judged {
        let included = self.includes.as_ref().map_or(above.included, |f| f.judge(above.included, path));
        Judged { included, excluded: self.excludes.judge(above.excluded, path) }
    }

    /// Whether an item is to be restored.
    pub fn takes(&self, judged: Judged) -> bool {
        self.includes.as_ref().is_none_or(|f| f.leaves_out(judged.included)) && !self.leaves_out(judged)
    }

    /// Whether an item is left out with everything below.
    pub fn leaves_out(&self, judged: Judged) -> bool {
        self.excludes.leaves_out(judged.excluded)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::parts;
    use crate::format::snapshot::{Root, Snapshot};
    use crate::format::tree::Child;

    fn snapshot(paths: &[&str]) -> Snapshot {
        let root = |p: &&str| Root { path: Bytes::from(p.to_string()), catalog: Some(Child::default()), ..Root::default() };
        Snapshot { roots: paths.iter().map(root).collect(), ..Snapshot::default() }
    }

    /// From, to, and where the items `x` (a directory) and `f` in the topmost go.
    fn placed(roots: &[&str], path: Option<&str>) -> Vec<(String, String, String)> {
        let text = |key: Vec<u8>| String::from_utf8(key).expect("text").replace('\0', "/");
        let parts = parts(&snapshot(roots), path.map(str::as_bytes)).expect("something is there");
        parts
            .iter()
            .map(|p| (text(p.from.clone()), text(p.target_of(&p.from, true)), text(p.target_of(&p.from, false))))
            .collect()
    }

    #[test]
    fn paths_find_their_root() {
        let one = |from: &str, dir: &str, file: &str| (from.to_owned(), dir.to_owned(), file.to_owned());
        assert_eq!(placed(&["/a/b", "/c"], None), [one("", "a/b", "a/b"), one("", "c", "c")]);
        assert_eq!(placed(&["/a/b"], Some("/a/b")), [one("", "", "b")]);
        assert_eq!(placed(&["/a/b"], Some("/a/b/c/d")), [one("c/d", "", "d")]);
        assert_eq!(placed(&["/a", "/a/b"], Some("/a/b/c")), [one("c", "", "c")]);
        assert_eq!(placed(&["/a/b", "/a/c/d", "/x"], Some("/a")), [one("", "b", "b"), one("", "c/d", "c/d")]);
        assert_eq!(placed(&["/"], Some("/a")), [one("a", "", "a")]);
        assert_eq!(placed(&["/"], None), [one("", "", "")]);
        assert!(parts(&snapshot(&["/ab"]), Some(b"/a")).is_err());
    }

    #[test]
    fn paths_of_items() {
        let part =
            |roots: &[&str], path: Option<&str>| parts(&snapshot(roots), path.map(str::as_bytes)).expect("there")[0].clone();
        assert_eq!(part(&["/a/b"], None).path_of(b"c\0d"), b"/a/b/c/d");
        assert_eq!(part(&["/"], None).path_of(b"c"), b"/c");
        assert_eq!(part(&["/a"], Some("/a/b")).path_of(b"b\0c"), b"/a/b/c");
        assert_eq!(part(&["/a"], Some("/a/b")).target_of(b"b\0c", false), b"c");
        assert!(part(&["/a"], Some("/a/b")).has(b"b\0c") && !part(&["/a"], Some("/a/b")).has(b"b-"));
    }
}
