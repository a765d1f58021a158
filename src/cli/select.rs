//! Which snapshot is meant: filters, and `SNAPSHOT[:PATH]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::cli::context::Failure;
use crate::lifecycle::retention::policy::TagList;
use crate::repository::Repository;
use crate::repository::snapshots::SnapshotView;

/// Filters on snapshots. Of one kind any must match (of paths all), of different kinds all.
#[derive(Args)]
pub struct Filter {
    /// Only snapshots of this host; may be repeated
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
    /// Only snapshots with this tag, or with all of several; "" means those without any; may be repeated
    #[arg(long, value_name = "TAG[,TAG...]")]
    pub tag: Vec<String>,
    /// Only snapshots of this job; may be repeated
    #[arg(long, value_name = "NAME")]
    pub label: Vec<String>,
    /// Only snapshots of this recorded path (a relative one begins at the current folder); may be repeated: of all of them
    #[arg(long, value_name = "PATH", value_parser = OsStringValueParser::new().try_map(recorded))]
    pub path: Vec<OsString>,
}

/// The path as it would be recorded. What is no path of a file system, a URL for one, stays as it is.
fn recorded(path: OsString) -> std::io::Result<OsString> {
    match path.as_bytes().windows(3).any(|part| part == b"://") {
        true => Ok(path),
        false => Ok(std::path::absolute(path)?.components().collect::<PathBuf>().into_os_string()),
    }
}

impl Filter {
    /// Whether a snapshot matches.
    pub fn admits(&self, view: &SnapshotView) -> bool {
        let any = |wanted: &[String], has: &dyn Fn(&String) -> bool| wanted.is_empty() || wanted.iter().any(has);
        let s = &view.snapshot;
        any(&self.host, &|host| s.host == *host)
            && any(&self.tag, &|tag| s.tags.contains(tag) || TagList::parse(tag).admits(&s.tags))
            && any(&self.label, &|label| s.label == *label)
            && self.path.iter().all(|p| s.roots.iter().any(|r| r.path == p.as_bytes()))
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.host.is_empty() && self.tag.is_empty() && self.label.is_empty() && self.path.is_empty()
    }
}

/// A snapshot, and a recorded path in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Id prefix, `latest` or `latest~N`.
    pub snapshot: String,
    /// Absolute, without `.`, `..` and doubled slashes.
    pub path: Option<Vec<u8>>,
}

impl Wanted {
    /// Reads `SNAPSHOT[:PATH]`.
    pub fn parse(text: &OsStr) -> Result<Wanted, Failure> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|b| *b == b':');
        let (snapshot, path) = match colon {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        let snapshot = std::str::from_utf8(snapshot).ok().filter(|s| !s.is_empty());
        let Some(snapshot) = snapshot else {
            return Err(Failure::usage(format!("{}: write SNAPSHOT or SNAPSHOT:PATH", text.display())));
        };
        let path = match path {
            None => None,
            Some(path) if path.first() != Some(&b'/') => {
                return Err(Failure::usage(format!("{}: the path must be as it was recorded: absolute", text.display())));
            }
            Some(path) => {
                let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
                if parts.contains(&b"..".as_slice()) {
                    return Err(Failure::usage(format!("{}: `..` in a recorded path means nothing", text.display())));
                }
                Some([b"/".as_slice(), &parts.join(&b'/')].concat())
            }
        };
        Ok(Wanted { snapshot: snapshot.to_owned(), path })
    }

    /// The snapshot that is meant, among those the filter lets through.
    pub async fn find(&self, repository: &Repository, filter: &Filter) -> Result<SnapshotView, Failure> {
        let list = repository.snapshots().await?;
        Ok(repository.meant(list, |view| filter.admits(view), &self.snapshot).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use crate::cli::select::Wanted;

    #[test]
    fn snapshot_and_path() {
        let parse = |text: &str| Wanted::parse(OsStr::new(text)).ok().map(|w| (w.snapshot, w.path));
        let path = |text: &str| Some(text.as_bytes().to_vec());
        for (text, snapshot, at) in [
            ("latest", "latest", None),
            ("latest~2:/", "latest~2", path("/")),
            ("ab12:/home//x/./y/", "ab12", path("/home/x/y")),
            ("ab12:/with:colon", "ab12", path("/with:colon")),
        ] {
            assert_eq!(parse(text), Some((snapshot.into(), at)), "{text}");
        }
        for text in ["", ":/home", "latest:", "latest:home", "latest:/home/../etc"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
