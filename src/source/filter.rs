//! What is left out: patterns, marked directories, large files. Patterns mean what they mean to restic.
//!
//! A pattern matches whole path components: `*`, `?` and `[...]` within one, `**` over any number of them. With a
//! leading `/` it is compared with the absolute path, else it may begin at any component. What it matches is left out
//! with everything below. `!pattern` takes back what an earlier pattern of the same list left out, though not below a
//! directory that stays out. Later patterns win. The path named for the backup is never left out itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest file of patterns in bytes.
const LONGEST_FILE: u64 = 16 << 20;

/// Why a filter could not be made. All of them are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A pattern that means nothing.
    #[error("{origin}: invalid pattern {pattern:?}")]
    Pattern {
        /// Where it stands.
        origin: Origin,
        /// The pattern.
        pattern: String,
        /// Why.
        source: globset::Error,
    },
    /// A pattern that is empty.
    #[error("{origin}: empty pattern")]
    Empty {
        /// Where it stands.
        origin: Origin,
    },
    /// A line that is not UTF-8.
    #[error("{origin}: not UTF-8")]
    NotText {
        /// Where it stands.
        origin: Origin,
    },
    /// A file of patterns that cannot be read.
    #[error("reading the patterns in {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// All patterns together are too much.
    #[error("the patterns together are too large")]
    TooLarge {
        /// How.
        source: globset::Error,
    },
    /// A marker without a file name.
    #[error("{marker:?} is no file name to look for (NAME or NAME:HEADER)")]
    Marker {
        /// What was given.
        marker: String,
    },
}

/// Where a pattern stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Given as such.
    Given,
    /// In a file, with the line counted from 1.
    Line(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Given => f.write_str("exclude"),
            Origin::Line(path, line) => write!(f, "{path:?} line {line}"),
        }
    }
}

/// What is left out of a walk. Empty by default.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    lists: [List; 2],
    larger_than: Option<u64>,
    markers: Vec<Marker>,
}

/// A file whose presence leaves out everything beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The file's name.
    pub name: Vec<u8>,
    /// What it must begin with.
    pub header: Vec<u8>,
}

impl Marker {
    /// The standard marker of cache directories: name and signature of the Cache Directory Tagging Specification.
    pub fn cache() -> Marker {
        let header = b"Signature: 8a477f597d28d172789f06886806bc55".to_vec();
        Marker { name: b"CACHEDIR.TAG".to_vec(), header }
    }
}

/// Which patterns have matched so far, from the root of the walk down to some item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict([Option<usize>; 2]);

/// Patterns of one case rule, in order.
#[derive(Clone, Debug, Default)]
struct List {
    set: GlobSet,
    /// Whether the pattern at that place takes back.
    negated: Vec<bool>,
}

impl Filter {
    /// A filter of patterns: given ones first, then the lines of the files (blank lines and lines that begin with `#`
    /// skipped, white space at both ends cut); `iexcludes` are a list of their own, compared without regard to case.
    pub fn new(excludes: &[String], iexcludes: &[String], exclude_files: &[PathBuf]) -> Result<Filter, FilterError> {
        let given = |patterns: &[String]| patterns.iter().map(|p| (Origin::Given, p.clone())).collect::<Vec<_>>();
        let mut exact = given(excludes);
        for path in exclude_files {
            exact.extend(lines(path)?);
        }
        Ok(Filter {
            lists: [List::new(exact, false)?, List::new(given(iexcludes), true)?],
            larger_than: None,
            markers: Vec::new(),
        })
    }

    /// Leaves out regular files of more than `bytes` as well.
    #[must_use]
    pub fn larger_than(mut self, bytes: u64) -> Filter {
        self.larger_than = Some(bytes);
        self
    }

    /// Leaves out the contents of directories that hold a file `NAME` (beginning with `HEADER`, if one is given as
    /// `NAME:HEADER`) as well, that file excepted.
    pub fn if_present(mut self, marker: &str) -> Result<Filter, FilterError> {
        let (name, header) = marker.split_once(':').unwrap_or((marker, ""));
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(FilterError::Marker { marker: marker.to_owned() });
        }
        self.markers.push(Marker { name: name.as_bytes().to_vec(), header: header.as_bytes().to_vec() });
        Ok(self)
    }

    /// Whether there are no patterns, so that no path need be made.
    pub fn has_no_patterns(&self) -> bool {
        self.lists.iter().all(|l| l.negated.is_empty())
    }

    /// The markers to look for in each directory.
    pub fn markers(&self) -> &[Marker] {
        &self.markers
    }

    /// Judges the item at an absolute path, given the verdict on its directory (default for the root of the walk).
    pub fn judge(&self, above: Verdict, path: &[u8]) -> Verdict {
        let mut verdict = above;
        let candidate = Candidate::from_bytes(path);
        for (list, last) in self.lists.iter().zip(&mut verdict.0) {
            if !list.negated.is_empty() {
                let own = list.set.matches_candidate(&candidate).last().copied();
                *last = (*last).max(own);
            }
        }
        verdict
    }

    /// Whether an item with this verdict is left out.
    pub fn leaves_out(&self, verdict: Verdict) -> bool {
        self.lists.iter().zip(verdict.0).any(|(list, last)| last.is_some_and(|i| !list.negated[i]))
    }

    /// Whether a regular file of `size` bytes is left out.
    pub fn leaves_out_size(&self, size: u64) -> bool {
        self.larger_than.is_some_and(|most| size > most)
    }
}

impl List {
    fn new(patterns: Vec<(Origin, String)>, any_case: bool) -> Result<List, FilterError> {
        let mut set = GlobSetBuilder::new();
        let mut negated = Vec::with_capacity(patterns.len());
        for (origin, text) in patterns {
            let (not, pattern) = text.strip_prefix('!').map_or((false, text.as_str()), |p| (true, p));
            if pattern.is_empty() {
                return Err(FilterError::Empty { origin });
            }
            let glob = GlobBuilder::new(&glob_text(pattern))
                .literal_separator(true)
                .backslash_escape(true)
                .case_insensitive(any_case)
                .build();
            set.add(glob.map_err(|source| FilterError::Pattern { origin, pattern: text.clone(), source })?);
            negated.push(not);
        }
        let set = set.build().map_err(|source| FilterError::TooLarge { source })?;
        Ok(List { set, negated })
    }
}

/// The pattern as the glob library wants it: cleaned of empty and dot components, anchored by `**/` where it may begin
/// anywhere, with braces taken literally. `a/**` is `a`, since what is below goes with it.
fn glob_text(pattern: &str) -> String {
    let mut parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    while parts.len() > 1 && parts.last() == Some(&"**") {
        parts.pop();
    }
    let mut text = String::from(if pattern.starts_with('/') { "" } else { "**" });
    for part in parts {
        text.push('/');
        let (mut escaped, mut class) = (false, false);
        for c in part.chars() {
            if !escaped && !class && matches!(c, '{' | '}') {
                text.push('\\');
            }
            class = !escaped && (c == '[' || (class && c != ']'));
            escaped = !escaped && c == '\\';
            text.push(c);
        }
    }
    text
}

fn lines(path: &Path) -> Result<Vec<(Origin, String)>, FilterError> {
    let failed = |source| FilterError::File { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > LONGEST_FILE {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read(path).map_err(failed)?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut patterns = Vec::new();
    for (number, line) in text.split(|b| *b == b'\n').enumerate() {
        let origin = Origin::Line(path.to_owned(), number + 1);
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match std::str::from_utf8(line) {
            Ok(pattern) => patterns.push((origin, pattern.to_owned())),
            Err(_) => return Err(FilterError::NotText { origin }),
        }
    }
    Ok(patterns)
}
