//! What a provider says about the bucket itself: the settings on which it depends whether what is put there stays, and for whom.
//!
//! Facts only. Whether they are good is for the caller, who knows what lies in the bucket.

use futures::future::BoxFuture;

use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;
use crate::store::retry::Retrying;
use crate::store::url::Line;

/// What could be learnt about one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// It is so.
    Known(T),
    /// This identity may not read it; it would take this right.
    Hidden(String),
    /// Nobody here tells it; who does.
    Untold(String),
    /// It could not be asked, and why.
    Failed(String),
    /// The provider knows nothing of the kind.
    Moot,
}

impl<T> Told<T> {
    /// From the answer to a question that takes `right`.
    pub fn from(answer: Result<T, StoreError>, right: &str) -> Told<T> {
        match answer {
            Ok(known) => Told::Known(known),
            Err(e) => Told::refused(&e, right),
        }
    }
    /// What a refusal says about the question.
    pub fn refused(e: &StoreError, right: &str) -> Told<T> {
        match e.kind {
            StoreErrorKind::Denied => Told::Hidden(right.to_owned()),
            // A server that speaks the provider's language, but not all of it.
            StoreErrorKind::Invalid => Told::Untold(format!("the server does not say it: {}", e.story())),
            _ => Told::Failed(e.story()),
        }
    }
    /// The same for what follows from it.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Told<U> {
        match self {
            Told::Known(known) => Told::Known(change(known)),
            Told::Hidden(right) => Told::Hidden(right),
            Told::Untold(who) => Told::Untold(who),
            Told::Failed(why) => Told::Failed(why),
            Told::Moot => Told::Moot,
        }
    }
}

/// All that could be learnt.
#[derive(Clone, Debug)]
pub struct Facts {
    /// By which way of logging in, and as whom. Never a secret.
    pub identity: Told<String>,
    /// By how many seconds the server's clock is ahead of this machine's; negative: behind.
    pub ahead: Told<i64>,
    /// Where the bytes are.
    pub site: Told<Site>,
    /// The rest, by kind of place.
    pub place: PlaceFacts,
}

/// Where the bytes are, as far as two stores can share a fate there. Empty texts are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The provider, or the server that stands for it.
    pub provider: String,
    /// Account or project.
    pub account: String,
    /// Region.
    pub region: String,
}

/// Facts by kind of place.
#[derive(Clone, Debug)]
pub enum PlaceFacts {
    /// A bucket or container.
    Bucket(Box<BucketFacts>),
    /// A local directory.
    Directory(DirectoryFacts),
}

/// Facts about a bucket.
#[derive(Clone, Debug)]
pub struct BucketFacts {
    /// How the server is reached.
    pub line: Line,
    /// Whether what is overwritten or deleted is kept.
    pub versioning: Told<Versioning>,
    /// For how many days what was deleted can be had back; 0: not at all.
    pub soft_delete_days: Told<u32>,
    /// What stands against deletion for a time; `None`: nothing.
    pub lock: Told<Option<Lock>>,
    /// What the provider does to objects by itself.
    pub rules: Told<Vec<Rule>>,
    /// What is open to everybody, in words; `None`: nothing.
    pub public: Told<Option<String>>,
    /// Whether nobody can open the bucket to everybody; else what is missing for that, in words.
    pub closed: Told<Option<String>>,
    /// Whether requests over plain http are refused.
    pub encrypted_only: Told<bool>,
    /// Whether the bucket refuses to put without the condition that nothing be there yet.
    pub create_only: Told<bool>,
    /// How the provider encrypts by default, in words; `None`: not at all.
    pub encryption: Told<Option<String>>,
    /// Storage class of what is put without one.
    pub class: Told<String>,
    /// Whether this identity can take away versions for good (tried only where probing is allowed).
    pub destroys: Told<bool>,
}

impl BucketFacts {
    /// Nothing but how the server is reached.
    pub fn new(line: Line) -> BucketFacts {
        BucketFacts {
            line,
            versioning: Told::Moot,
            soft_delete_days: Told::Moot,
            lock: Told::Moot,
            rules: Told::Moot,
            public: Told::Moot,
            closed: Told::Moot,
            encrypted_only: Told::Moot,
            create_only: Told::Moot,
            encryption: Told::Moot,
            class: Told::Moot,
            destroys: Told::Moot,
        }
    }
}

/// Whether a bucket keeps what is overwritten or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// Yes.
    On,
    /// No more; what it kept is still there.
    Suspended,
    /// No.
    Off,
}

/// What stands against deletion for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// In words.
    pub shown: String,
    /// Whether every new object gets it by itself.
    pub every: bool,
}

/// One thing that the provider does by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is called, or its number.
    pub name: String,
    /// Names in the bucket that begin with this.
    pub prefix: String,
    /// Whether tags, sizes, classes and the like narrow it down further.
    pub narrowed: bool,
    /// What it does.
    pub does: RuleAction,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Drops uploads in parts that were never finished.
    AbortUploads,
    /// Removes objects that are in use.
    ExpireCurrent,
    /// Removes what was overwritten or deleted, so many days later.
    ExpireOld {
        /// Days, if days decide.
        days: Option<u32>,
    },
    /// Moves to another storage class.
    Move {
        /// The class.
        class: String,
        /// Only what was overwritten or deleted.
        old_only: bool,
    },
}

/// Facts about a local directory.
#[derive(Clone, Debug)]
pub struct DirectoryFacts {
    /// Permission bits of the directory.
    pub mode: u32,
    /// The file system that it lies on.
    pub device: u64,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes of the whole file system.
    pub total: u64,
    /// What the file system can do, tried out with a file that is gone again; why that failed.
    pub trial: Option<Result<Trial, String>>,
}

/// What was tried out in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Files can have two names: an object gets its name by a link.
    pub links: bool,
    /// Folders can be synced.
    pub syncs: bool,
}

/// Names that help to ask, and how much may be tried.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// No object has this name.
    pub absent: &'a ObjectName,
    /// An object of this name should be there.
    pub present: &'a ObjectName,
    /// Whether to try what can be tried without harm; else nothing is changed, however little.
    pub probe: bool,
}

/// A store that can tell about its bucket.
pub trait Inspect: Send + Sync {
    /// Asks for everything, each question by itself, through `asking`.
    fn inspect<'a>(&'a self, asking: &'a Retrying, names: Names<'a>) -> BoxFuture<'a, Facts>;
}
