//! Which snapshots are judged together.

use std::str::FromStr;

use crate::lifecycle::retention::Candidate;

/// What the snapshots of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// The machine.
    pub host: bool,
    /// The whole set of recorded paths.
    pub paths: bool,
    /// The whole set of tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> GroupBy {
        GroupBy { host: true, paths: true, tags: false }
    }
}

/// A text that is no [`GroupBy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing to group by: write host, paths and tags, separated by commas, or nothing for one group of all")]
pub struct GroupByError(String);

impl FromStr for GroupBy {
    type Err = GroupByError;
    fn from_str(text: &str) -> Result<GroupBy, GroupByError> {
        let mut by = GroupBy { host: false, paths: false, tags: false };
        for word in text.split(',') {
            match word {
                "" => {}
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                _ => return Err(GroupByError(word.to_owned())),
            }
        }
        Ok(by)
    }
}

/// A group: what it is not grouped by is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The machine.
    pub host: Option<String>,
    /// Recorded paths, sorted.
    pub paths: Option<Vec<Vec<u8>>>,
    /// Tags, sorted.
    pub tags: Option<Vec<String>>,
}

impl GroupBy {
    /// The group that a snapshot belongs to.
    pub fn key(self, snapshot: &Candidate) -> GroupKey {
        self.of(&snapshot.host, &snapshot.paths, &snapshot.tags)
    }

    /// The group of what has these.
    pub fn of(self, host: &str, paths: &[Vec<u8>], tags: &[String]) -> GroupKey {
        GroupKey {
            host: self.host.then(|| host.to_owned()),
            paths: self.paths.then(|| sorted(paths)),
            tags: self.tags.then(|| sorted(tags)),
        }
    }
}

impl GroupKey {
    /// Whether a snapshot of the group `other` is of the same source: an unfinished run may lack paths.
    pub fn covers(&self, other: &GroupKey) -> bool {
        let paths = match (&self.paths, &other.paths) {
            (Some(own), Some(theirs)) => theirs.iter().all(|path| own.binary_search(path).is_ok()),
            (own, theirs) => own == theirs,
        };
        paths && self.host == other.host && self.tags == other.tags
    }
}

fn sorted<T: Ord + Clone>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort();
    list
}

#[cfg(test)]
mod tests {
    use crate::lifecycle::retention::group::{GroupBy, GroupKey};

    #[test]
    fn words() {
        let by = |host, paths, tags| Ok(GroupBy { host, paths, tags });
        for (text, read) in [
            ("host,paths", by(true, true, false)),
            ("paths,hosts", by(true, true, false)),
            ("path", by(false, true, false)),
            ("tag,tags", by(false, false, true)),
            (",host", by(true, false, false)),
            ("", by(false, false, false)),
        ] {
            assert_eq!(text.parse(), read, "{text}");
        }
        for text in ["Host", "host, paths", "label", "*"] {
            assert!(text.parse::<GroupBy>().is_err(), "{text}");
        }
        assert_eq!("host,paths".parse(), Ok(GroupBy::default()));
    }

    #[test]
    fn an_unfinished_run_may_lack_paths() {
        let key = |paths: &[&str]| GroupKey {
            paths: Some(paths.iter().map(|p| p.as_bytes().to_vec()).collect()),
            ..GroupKey::default()
        };
        assert!(key(&["a", "b"]).covers(&key(&["a"])) && key(&["a"]).covers(&key(&["a"])));
        assert!(!key(&["a"]).covers(&key(&["a", "b"])));
        let host = GroupKey { host: Some("h".into()), ..key(&["a"]) };
        assert!(!host.covers(&key(&["a"])));
    }
}
