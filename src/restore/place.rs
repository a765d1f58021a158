//! Puts what a window holds into the target: directories, open files, links and nodes. Content and metadata come later.

use std::sync::{Arc, Mutex, PoisonError};

use crate::format::entry::{Entry, EntryKind, Problem};
use crate::restore::item::{Fate, Item};
use crate::restore::tally::{Tally, told};
use crate::restore::target::{Outcome, Target, TargetError};
use crate::restore::walk::Step;
use crate::restore::writer::Existing;
use crate::source::firsts::{Firsts, Group};
use crate::source::metadata::{FileTime, Kind};

/// Mode of directories that were not recorded and only lead to what was.
const LEADING_MODE: u32 = 0o755;

/// Puts things, on a blocking thread.
#[derive(Clone)]
pub struct Placer {
    /// Where to; none: a dry run into a folder that is not there.
    pub target: Option<Arc<Target>>,
    /// What came of it.
    pub tally: Arc<Tally>,
    /// Whether nothing is to be written.
    pub dry_run: bool,
    /// First members of hard-link groups that could not be restored, by a hash of their key in the target. None once they
    /// could not be kept: from then on none counts as whole.
    pub broken: Arc<Mutex<Option<Firsts>>>,
}

/// The steps of a window on their way.
#[derive(Default)]
pub struct Steps {
    /// All of them.
    pub steps: Vec<Step>,
    /// How many are done.
    pub done: usize,
    /// Items that became another name of what stands at a key.
    pub linked: Vec<(Arc<Item>, Vec<u8>)>,
    /// Items that could not become that: they are restored as copies.
    pub copies: Vec<Arc<Item>>,
}

impl Placer {
    /// Takes steps until all are done, or one asks for more than this thread can do: a file with several names that may
    /// be right already.
    pub fn run(&self, steps: &mut Steps) -> Option<Arc<Item>> {
        while let Some(step) = steps.steps.get(steps.done) {
            steps.done += 1;
            match step {
                Step::Directory(key, path, recorded) => self.directory(key, path, *recorded),
                Step::Item(item) => {
                    if self.item(item, true) {
                        return Some(item.clone());
                    }
                }
                Step::Link(item, first) => match self.link(item, first) {
                    Ok(outcome) => {
                        self.tally.progress.items.add(1);
                        self.tally.progress.bytes.add(item.entry.size);
                        if item.entry.kind() == EntryKind::File {
                            self.count(outcome);
                        }
                        item.set(Fate::Settled);
                        steps.linked.push((item.clone(), first.clone()));
                    }
                    Err(why) => {
                        self.tally.warned(&item.path, format!("restored as a copy, not as a hard link: {why}"));
                        steps.copies.push(item.clone());
                    }
                },
            }
        }
        None
    }

    /// Counts a file.
    pub fn count(&self, outcome: Outcome) {
        self.tally.with(|report| match outcome {
            Outcome::Unchanged => report.files_unchanged += 1,
            Outcome::Written | Outcome::Withheld => report.files_written += 1,
        });
    }

    /// Notes that other names must not be taken for whole.
    pub fn mark_broken(&self, item: &Item) {
        if !item.entry.hard_link.is_empty() {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            if broken.as_mut().is_some_and(|broken| broken.meet(hash_of(&item.key), u64::MAX, &[]).is_err()) {
                *broken = None;
            }
        }
    }

    /// Whether what stands at a key is not what it should be; yes where that cannot be told.
    pub fn is_broken(&self, key: &[u8]) -> bool {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.as_ref().is_none_or(|broken| broken.knows(&hash_of(key)).unwrap_or(true))
    }

    fn directory(&self, key: &[u8], path: &[u8], recorded: bool) {
        let Some(target) = self.target.as_ref().filter(|_| !self.dry_run) else { return };
        let made = match target.make_directory(key) {
            Ok(Outcome::Written) if !recorded => leading(target, key),
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = made {
            self.tally.refused(path, &e);
        }
    }

    fn link(&self, item: &Item, first: &[u8]) -> Result<Outcome, String> {
        if self.is_broken(first) {
            return Err("its first name could not be restored".into());
        }
        match &self.target {
            Some(target) if self.dry_run => {
                let same = match (target.look(first), target.look(&item.key)) {
                    (Ok(Some(a)), Ok(Some(b))) => a.same_item(&b),
                    _ => false,
                };
                Ok(if same { Outcome::Unchanged } else { Outcome::Written })
            }
            Some(target) => target.hard_link(first, &item.key).map_err(|e| told(&e)),
            None => Ok(Outcome::Written),
        }
    }

    /// Puts one item; whether it may be right already as one of several names of a file, which must be found out before
    /// anything is opened for writing.
    pub fn item(&self, item: &Item, may_share: bool) -> bool {
        let result = match item.entry.kind() {
            EntryKind::File => match self.file(item, may_share) {
                Ok(None) => return true,
                Ok(Some(())) => Ok(None),
                Err(e) => Err(e),
            },
            EntryKind::Symlink if item.entry.problem() == Problem::Unreadable => {
                self.tally.warned(&item.path, UNREAD.into());
                item.set(Fate::Settled);
                return false;
            }
            EntryKind::Unknown | EntryKind::Directory => {
                item.fail(&self.tally, || format!("it is of a kind ({}) that this version does not know", item.entry.kind));
                self.mark_broken(item);
                return false;
            }
            kind => self.node(item, kind).map(Some),
        };
        match result {
            Ok(Some(Outcome::Withheld)) => item.set(Fate::Settled),
            Ok(Some(outcome)) => item.set(Fate::Standing(outcome)),
            Ok(None) => {}
            // Who may make no devices gets all the rest: nothing of their content is lost.
            Err(e) if e.is_denied() && matches!(item.entry.kind(), EntryKind::CharDevice | EntryKind::BlockDevice) => {
                self.tally.warned(&item.path, told(&e));
                item.set(Fate::Settled);
            }
            Err(e) => {
                item.refuse(&self.tally, &e);
                self.mark_broken(item);
            }
        }
        false
    }

    fn node(&self, item: &Item, kind: EntryKind) -> Result<Outcome, TargetError> {
        match self.target.as_ref().filter(|_| !self.dry_run) {
            None => Ok(Outcome::Withheld),
            Some(target) if kind == EntryKind::Symlink => target.symlink(&item.key, &item.entry.link_target),
            Some(target) => target.special(&item.key, kind, item.entry.device),
        }
    }

    /// Opens a file; `None`: ask first whether it is right already.
    fn file(&self, item: &Item, may_share: bool) -> Result<Option<()>, TargetError> {
        let Some(target) = &self.target else { return Ok(Some(())) };
        let entry = &item.entry;
        if entry.problem() == Problem::Unreadable {
            self.tally.warned(&item.path, UNREAD.into());
            // Nothing is known of its content: what stands there may be all there is of it.
            if self.dry_run || target.look(&item.key)?.is_some_and(|m| m.kind == Kind::File) {
                item.set(Fate::Settled);
                return Ok(Some(()));
            }
        }
        if self.dry_run {
            item.exchange_writer(target.open_to_compare(&item.key, entry.size)?);
            return Ok(Some(()));
        }
        if may_share && !entry.hard_link.is_empty() {
            let owners = target.settings.owners;
            let alike = target.look(&item.key)?.is_some_and(|m| {
                m.kind == Kind::File
                    && m.nlink > 1
                    && m.size == entry.size
                    && m.mode == entry.mode
                    && m.mtime == FileTime { seconds: entry.mtime, nanos: entry.mtime_nanos }
                    && (!owners || (m.uid, m.gid) == (entry.uid, entry.gid))
            });
            if alike {
                return Ok(None);
            }
        }
        item.exchange_writer(Some(target.open_for_write(&item.key, entry.size, Existing::Compare)?));
        Ok(Some(()))
    }
}

fn hash_of(key: &[u8]) -> Group {
    let mut hash = [0; 16];
    blake3::Hasher::new().update(key).finalize_xof().fill(&mut hash);
    hash
}

const UNREAD: &str = "it could not be read when it was backed up: its content is not in the snapshot";

/// Opens a directory that was made only to lead somewhere to those who may look.
fn leading(target: &Target, key: &[u8]) -> Result<(), TargetError> {
    let Some(now) = target.look(key)? else { return Ok(()) };
    let entry = Entry {
        kind: EntryKind::Directory.into(),
        mode: LEADING_MODE,
        uid: now.uid,
        gid: now.gid,
        mtime: now.mtime.seconds,
        mtime_nanos: now.mtime.nanos,
        ..Entry::default()
    };
    target.metadata(key, &entry, &[]).map(drop)
}
