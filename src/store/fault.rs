//! A request to a cloud that failed: what was asked for, its class, and words of strangers made fit for a message of ours.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::clock::Time;
use crate::store::error::StoreErrorKind;

/// Most characters of a server's own words that get into a message.
const WORDS_MAX: usize = 400;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Conditional create.
    Put,
    /// Read of a whole object or a range.
    Get,
    /// Size and time.
    Stat,
    /// A page of a listing.
    List,
    /// Removal of a batch.
    Delete,
    /// A look at the bucket's settings: the key is the right that it takes.
    Settings,
}

/// A request, as far as an error needs it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// What was to be done.
    pub verb: Verb,
    /// The bucket.
    pub bucket: &'a str,
    /// The name in the bucket, or the prefix of a listing.
    pub key: &'a str,
    /// Whether a key of the key service is named by the settings.
    pub kms: bool,
}

/// A classed failure, not yet tied to an object.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What to do next.
    pub kind: StoreErrorKind,
    /// What was said, and what to do.
    pub cause: String,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Put => "put",
            Verb::Get => "get",
            Verb::Stat => "stat",
            Verb::List => "list",
            Verb::Delete => "delete",
            Verb::Settings => "settings by",
        })
    }
}

impl Fault {
    /// A failure of `kind`, told by `cause`.
    pub fn new(kind: StoreErrorKind, cause: impl Into<String>) -> Fault {
        Fault { kind, cause: cause.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

/// A stranger's words: bounded, on one line, without control characters.
pub fn words(text: &str) -> String {
    text.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error and what is behind it, each once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next.filter(|_| parts.len() < 12) {
        let text = words(&error.to_string());
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// The seconds, or the time until the date, that a `Retry-After` header asks for.
pub fn retry_after(text: &str, now: Time) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().as_nanosecond();
    Some(Time(i64::try_from(until).ok()?).since(now))
}
