//! The stage that walks one root, compares with the parents, and starts the reading of what is new or changed.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::backup::BackupError;
use crate::backup::drain::{Drain, Phase};
use crate::backup::entry::{Compare, is_unchanged};
use crate::backup::known::Known;
use crate::backup::parents::Parents;
use crate::backup::read::{Change, Done, Item, Outcome, Reading};
use crate::clock::{Env, Task};
use crate::format::entry::{Entry, Problem};
use crate::repository::error::{Fault, RepositoryError};
use crate::source::directory::{Found, Unreadable, Walked};
use crate::source::firsts::{Firsts, Group};
use crate::source::metadata::Kind;
use crate::source::{Origin, Source};

/// Items that are looked at in one go.
const GO: usize = 512;
/// Items in one batch.
const BATCH_ITEMS: usize = 1024;
/// Content bytes in one batch.
const BATCH_BYTES: u64 = 1 << 20;
/// Directories that one batch keeps open.
const BATCH_FOLDERS: usize = 64;

/// Results in path order, some of them still being worked on.
pub enum Pending {
    /// Nothing to read.
    Ready(Vec<Outcome>),
    /// A batch: its items among those that need no reading, in order.
    Batch(Vec<Option<Outcome>>, Task<Result<Vec<Outcome>, BackupError>>),
    /// A large file.
    Large(Task<Result<Outcome, BackupError>>),
}

impl Pending {
    /// Waits for the work and forgets what came of it.
    pub async fn finish(&mut self) -> Result<(), BackupError> {
        match self {
            Pending::Ready(_) => Ok(()),
            Pending::Batch(_, work) => work.await.map(drop),
            Pending::Large(work) => work.await.map(drop),
        }
    }
}

/// How entries are compared with the parents.
pub struct Comparing {
    /// Read every file.
    pub force: bool,
    /// What may differ.
    pub compare: Compare,
    /// Bytes of hard links' first names held at once, about; beyond it they go to a temporary file.
    pub links_memory: usize,
    /// Carry an entry over only if all its chunks are found usable at every participating replica.
    pub look_up: bool,
}

#[derive(Default)]
struct Batch {
    slots: Vec<Option<Outcome>>,
    items: Vec<Item>,
    bytes: u64,
    folders: usize,
    last_folder: usize,
}

/// Walks to the end (or until asked to stop) and hands on results in path order. Gives how many items vanished, and notes.
pub async fn run(
    reading: &Arc<Reading>,
    walk: Box<dyn Source>,
    mut parents: Parents<'_>,
    comparing: &Comparing,
    known: &Known,
    drain: &Drain,
    pending: mpsc::Sender<Pending>,
) -> Result<(u64, Vec<String>), BackupError> {
    let env = reading.sealing.env.clone();
    let mut links = Links(Some(Firsts::new(comparing.links_memory, std::env::temp_dir())));
    let mut batch = Batch::default();
    let mut walk = Some(walk);
    let mut interrupted = false;
    'walk: while let Some(mut own) = walk.take() {
        if reading.stop.requested() {
            interrupted = true;
            break;
        }
        let walking = env.blocking(move || {
            let go: Vec<Walked> = std::iter::from_fn(|| own.next()).take(GO).collect();
            (own, go)
        });
        // A folder that does not come to its end is not waited for, nor is a parent whose store does not answer.
        let Some((own, go)) = drain.within(Phase::Flight, walking).await else {
            interrupted = true;
            break;
        };
        let ended = go.len() < GO;
        if let Some(Walked::Item(found)) = go.last() {
            reading.progress.set_current(|| found.path().display().to_string());
        }
        for walked in go {
            let found = match walked {
                Walked::Item(found) => found,
                Walked::Problem(problem) => {
                    if let Some(outcome) = unreadable(reading, *problem) {
                        batch.slots.push(Some(outcome));
                    }
                    continue;
                }
            };
            let hard_link = links.group(&env, &found).await?;
            let previous = match parents.is_empty() {
                true => None,
                false => match drain.unless_stopped(parents.find(&found.key)).await {
                    Some(previous) => previous,
                    None => {
                        interrupted = true;
                        break 'walk;
                    }
                },
            };
            if let Some((value, entry, late)) = &previous
                && found.meta.kind != Kind::Directory
                && !found.origin.is_stream()
                && !comparing.force
                && !*late
                && is_unchanged(entry, &found.meta, &hard_link, comparing.compare)
                && (!comparing.look_up || covered(drain, &parents, entry, known).await)
            {
                reading.progress.items.add(1);
                reading.progress.bytes.add(entry.size);
                let done = Done {
                    key: found.key,
                    value: value.clone(),
                    bytes: entry.size,
                    kind: found.meta.kind,
                    change: Change::Same,
                    problems: Vec::new(),
                };
                batch.slots.push(Some(Outcome::Done(Box::new(done))));
            } else {
                let item = Item { found, hard_link, previous: previous.map(|(value, _, _)| value) };
                if reading.is_small(&item.found) {
                    batch.add(item);
                } else {
                    if !batch.send(reading, &pending).await {
                        return Ok((own.vanished(), parents.notes));
                    }
                    let work = reading.clone().large(item);
                    if pending.send(Pending::Large(env.spawn(work))).await.is_err() {
                        return Ok((own.vanished(), parents.notes));
                    }
                }
            }
            if batch.is_full() && !batch.send(reading, &pending).await {
                return Ok((own.vanished(), parents.notes));
            }
        }
        if ended {
            batch.send(reading, &pending).await;
            return Ok((own.vanished(), parents.notes));
        }
        walk = Some(own);
    }
    if interrupted {
        batch.slots.push(Some(Outcome::Interrupted));
    }
    batch.send(reading, &pending).await;
    Ok((0, parents.notes))
}

/// Whether all that an entry names can be relied on; what cannot be found out any more, cannot.
async fn covered(drain: &Drain, parents: &Parents<'_>, entry: &Entry, known: &Known) -> bool {
    let closure = drain.unless_stopped(parents.closure(entry)).await;
    closure.is_some_and(|closure| closure.is_ok_and(|ids| known.covered(&ids)))
}

impl Batch {
    fn add(&mut self, item: Item) {
        if item.found.meta.kind == Kind::File {
            self.bytes += item.found.meta.size;
        }
        // Neighbours share their directory's handle: counting changes is counting handles, about.
        let folder = if let Origin::Directory(parent) = &item.found.origin { Arc::as_ptr(parent) as usize } else { 0 };
        if folder != self.last_folder {
            (self.last_folder, self.folders) = (folder, self.folders + 1);
        }
        self.slots.push(None);
        self.items.push(item);
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= BATCH_ITEMS || self.bytes >= BATCH_BYTES || self.folders >= BATCH_FOLDERS
    }

    /// Starts the work; `false` when nobody wants results any more.
    async fn send(&mut self, reading: &Arc<Reading>, pending: &mpsc::Sender<Pending>) -> bool {
        let batch = std::mem::take(self);
        let next = if batch.items.is_empty() {
            if batch.slots.is_empty() {
                return true;
            }
            Pending::Ready(batch.slots.into_iter().flatten().collect())
        } else {
            let work = reading.clone().batch(batch.items);
            Pending::Batch(batch.slots, reading.sealing.env.spawn(work))
        };
        pending.send(next).await.is_ok()
    }
}

/// What cannot be read is recorded as that: with its metadata, and never with the content it had before.
fn unreadable(reading: &Reading, problem: Unreadable) -> Option<Outcome> {
    if problem.error.is_vanished() {
        return None;
    }
    let path = std::os::unix::ffi::OsStringExt::into_vec(problem.path.into_os_string());
    let told = match std::error::Error::source(&problem.error) {
        Some(cause) => format!("{}: {cause}", problem.error),
        None => problem.error.to_string(),
    };
    let mut done = Done {
        key: problem.key,
        value: Bytes::new(),
        bytes: 0,
        kind: if problem.is_directory { Kind::Directory } else { Kind::File },
        change: Change::Changed,
        problems: vec![(path, told)],
    };
    if let (true, Some(meta)) = (problem.is_item, &problem.meta) {
        let mut entry = reading.entry(meta);
        entry.set_problem(Problem::Unreadable);
        (entry.size, done.kind) = (0, meta.kind);
        done.value = Bytes::from(prost::Message::encode_to_vec(&entry));
    }
    Some(Outcome::Done(Box::new(done)))
}

/// Files with several names that were met, with the key met first, until all their names were.
struct Links(Option<Firsts>);

impl Links {
    /// The key of the first member of an item's hard-link group; empty when it has one name only.
    async fn group(&mut self, env: &Env, found: &Found) -> Result<Vec<u8>, BackupError> {
        let meta = &found.meta;
        if meta.nlink < 2 || meta.kind == Kind::Directory {
            return Ok(Vec::new());
        }
        let mut group: Group = [0; 16];
        group[..8].copy_from_slice(&meta.device_id.to_le_bytes());
        group[8..].copy_from_slice(&meta.inode.to_le_bytes());
        let mut firsts = self.0.take().expect("it comes back from every question");
        let (may_block, names, key) = (firsts.may_block(), meta.nlink, found.key.clone());
        let ask = move || {
            let first = firsts.meet(group, names, &key);
            (firsts, first.map(|first| first.unwrap_or(key)))
        };
        let (firsts, first) = if may_block { env.blocking(ask).await } else { ask() };
        self.0 = Some(firsts);
        let doing = "could not keep the first names of hard links in a temporary file (is its folder full?)";
        first.map_err(|e| RepositoryError::caused(Fault::Failed, doing, e).into())
    }
}
