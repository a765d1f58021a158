//! Reading what the walk found, and sealing it: batches of small neighbours, and large files chunk by chunk.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};

use crate::backup::BackupError;
use crate::backup::block::Blocks;
use crate::backup::budget::Budget;
use crate::backup::entry::{add_xattrs, from_meta, piece};
use crate::backup::pack::ToPack;
use crate::backup::seal::{RECORD, Sealed, Sealing};
use crate::chunk::split::Splitter;
use crate::format::entry::{Content, Entry, Problem};
use crate::format::tree::NodeChunk;
use crate::progress::{Progress, Stop};
use crate::repository::error::{Fault, RepositoryError};
use crate::seal::Kind;
use crate::source::attributes::read_xattrs;
use crate::source::directory::Found;
use crate::source::error::SourceError;
use crate::source::metadata::{Kind as ItemKind, Meta, OwnerNames};
use crate::source::reading::{OpenFile, Small, open_file, read_link, read_small};

/// How often a file that changes is read again.
pub(super) const AGAIN: usize = 2;
/// What all reading shares.
pub struct Reading {
    /// Names and seals.
    pub sealing: Arc<Sealing>,
    /// Cuts.
    pub splitter: Splitter,
    /// Bounds bytes in flight.
    pub budget: Budget,
    /// What large files are read into.
    pub blocks: Arc<Blocks>,
    /// Where frames go.
    pub frames: mpsc::Sender<ToPack>,
    /// Bounds large files read at once.
    pub readers: Arc<Semaphore>,
    /// Bounds batches read at once.
    pub batches: Arc<Semaphore>,
    /// Names of owners.
    pub owners: Mutex<OwnerNames>,
    /// Counters for the terminal.
    pub progress: Progress,
    /// Whether to stop.
    pub stop: Stop,
}

/// One item that has to be looked into.
pub struct Item {
    /// The item.
    pub found: Found,
    /// Key of the first member of its hard-link group; empty: none.
    pub hard_link: Vec<u8>,
    /// The parent's entry as stored, if it has one.
    pub previous: Option<Bytes>,
}

/// How an item compares with the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The parent does not have it.
    New,
    /// It differs.
    Changed,
    /// Carried over, or the same again.
    Same,
}

/// An item that is ready for the catalog.
pub struct Done {
    /// Its catalog key.
    pub key: Vec<u8>,
    /// Its entry as stored.
    pub value: Bytes,
    /// Its content bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: ItemKind,
    /// How it compares.
    pub change: Change,
    /// What went wrong, for people: path and reason. An item with a problem may have no value: it vanished.
    pub problems: Vec<(Vec<u8>, String)>,
}

/// What came of an item.
pub enum Outcome {
    /// Into the catalog.
    Done(Box<Done>),
    /// It is gone: nothing to record.
    Vanished,
    /// The run is to stop before it.
    Interrupted,
}

/// What a blocking job found out about one item of a batch.
struct Looked {
    item: Item,
    entry: Entry,
    /// Where its content lies in the batch's buffer.
    span: std::ops::Range<usize>,
    /// Long attributes: place in the entry, and where the value lies in the buffer.
    long: Vec<(usize, std::ops::Range<usize>)>,
    large: Option<OpenFile>,
    problems: Vec<(Vec<u8>, String)>,
}

pub(super) fn path_bytes(path: std::path::PathBuf) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string())
}

pub(super) fn told(e: &SourceError) -> String {
    match std::error::Error::source(e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

impl Reading {
    /// The largest file that is read in a batch.
    fn small(&self) -> usize {
        self.splitter.spec().min as usize
    }

    /// Whether an item belongs into a batch (else it is read on its own).
    pub fn is_small(&self, found: &Found) -> bool {
        let meta = &found.meta;
        // A stream does not say how long it is, and cannot be read again.
        !found.origin.is_stream()
            && (meta.kind != ItemKind::File || meta.size <= self.small() as u64 && meta.allocated >= meta.size)
    }

    /// Reads and seals a batch of small items.
    pub async fn batch(self: Arc<Self>, items: Vec<Item>) -> Result<Vec<Outcome>, BackupError> {
        let expected: u64 = items.iter().filter(|i| i.found.meta.kind == ItemKind::File).map(|i| i.found.meta.size).sum();
        // Nothing is begun once the run is to stop: others may hold all of the budget, and nobody relies on this yet.
        let (this, wanted) = (self.clone(), expected + 4096 + (RECORD * items.len()) as u64);
        let room = async move { (this.batches.clone().acquire_owned().await, this.budget.admit(wanted).await) };
        let room = match self.stop.requested() {
            true => None,
            false => self.stop.unless_requested(room).await,
        };
        let Some((permit, admitted)) = room else {
            return Ok(items.iter().map(|_| Outcome::Interrupted).collect());
        };
        let this = self.clone();
        let (buffer, looked) = self.sealing.env.blocking(move || this.look(items, expected)).await;
        drop(permit);
        let spans: Vec<_> = looked.iter().flatten().flat_map(|l| l.spans()).collect();
        let this = self.clone();
        let sealed = self
            .sealing
            .env
            .cpu(move || {
                let chunks: Vec<&[u8]> = spans.iter().map(|span| &buffer[span.clone()]).collect();
                this.sealing.seal(Kind::Data, &chunks, admitted)
            })
            .await;
        let mut ids = self.send(Kind::Data, sealed.map_err(sealing)?).await?.into_iter();
        let mut outcomes = Vec::with_capacity(looked.len());
        for looked in looked {
            let Some(mut looked) = looked else {
                outcomes.push(Outcome::Vanished);
                continue;
            };
            if !looked.span.is_empty() {
                let id = ids.next().expect("one id for each span");
                looked.entry.content = Some(Content { pieces: vec![piece(&id, looked.span.len() as u64)], list: None });
            }
            for (at, span) in &looked.long {
                let id = ids.next().expect("one id for each span");
                looked.entry.xattrs[*at].chunk = Some(piece(&id, span.len() as u64));
            }
            outcomes.push(match looked.large.take() {
                Some(open) => self.content(looked.item, open, looked.entry, looked.problems).await?,
                None => self.done(looked.item, looked.entry, looked.problems),
            });
        }
        Ok(outcomes)
    }

    /// Looks into every item; content is joined in one buffer. `None`: it vanished.
    fn look(&self, items: Vec<Item>, expected: u64) -> (Vec<u8>, Vec<Option<Looked>>) {
        let mut buffer = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        let mut scratch = Vec::new();
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            out.push(self.look_at(item, &mut buffer, &mut scratch));
        }
        (buffer, out)
    }

    /// What is recorded of an item before its content. The names are not kept while anything is read: a file that hangs must
    /// not hold up others.
    pub(super) fn entry(&self, meta: &Meta) -> Entry {
        from_meta(meta, &mut self.owners.lock().expect("no panic while names are looked up"))
    }

    fn look_at(&self, item: Item, buffer: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Option<Looked> {
        let found = &item.found;
        let start = buffer.len();
        let mut problems = Vec::new();
        let mut note = |e: &SourceError| problems.push((path_bytes(found.path()), told(e)));
        let (mut entry, attributes, mut large) = (self.entry(&found.meta), None, None);
        let mut attributes = attributes;
        match found.meta.kind {
            ItemKind::File => match read_again(found, self.small(), scratch) {
                Ok(Small::Whole(meta, found_attributes)) => {
                    entry = self.entry(&meta);
                    attributes = Some(found_attributes);
                    buffer.extend_from_slice(scratch);
                    entry.size = scratch.len() as u64;
                }
                Ok(Small::Changed(meta, found_attributes)) => {
                    entry = self.entry(&meta);
                    attributes = Some(found_attributes);
                    buffer.extend_from_slice(scratch);
                    entry.size = scratch.len() as u64;
                    entry.set_problem(Problem::Inconsistent);
                    problems.push((path_bytes(found.path()), "changed while it was read".into()));
                }
                Ok(Small::Large(open)) => large = Some(open),
                Err(e) if e.is_vanished() => return None,
                Err(e) => {
                    note(&e);
                    entry.set_problem(Problem::Unreadable);
                    entry.size = 0;
                }
            },
            ItemKind::Symlink => match read_link(found) {
                Ok(target) => entry.link_target = Bytes::from(target),
                Err(e) if e.is_vanished() => return None,
                Err(e) => {
                    note(&e);
                    entry.set_problem(Problem::Unreadable);
                }
            },
            _ => {}
        }
        if attributes.is_none() && large.is_none() && entry.problem() == Problem::None {
            match read_xattrs(found) {
                Ok(read) => attributes = Some(read),
                Err(e) if e.is_vanished() => return None,
                Err(e) => problems.push((path_bytes(found.path()), told(&e))),
            }
        }
        let span = start..buffer.len();
        let mut long = Vec::new();
        if let Some(attributes) = attributes {
            problems.extend(attributes.problems.iter().map(|e| (path_bytes(found.path()), told(e))));
            for (at, value) in add_xattrs(&mut entry, attributes.list) {
                let start = buffer.len();
                buffer.extend_from_slice(&value);
                long.push((at, start..buffer.len()));
            }
        }
        entry.hard_link = Bytes::copy_from_slice(&item.hard_link);
        self.sealing.added.read.add(span.len() as u64);
        Some(Looked { item, entry, span, long, large, problems })
    }

    /// Reads and seals a large file.
    pub async fn large(self: Arc<Self>, item: Item) -> Result<Outcome, BackupError> {
        let _reader = self.readers.clone().acquire_owned().await;
        if self.stop.requested() {
            return Ok(Outcome::Interrupted);
        }
        let (this, found) = (self.clone(), item.found.clone());
        let opened = self
            .sealing
            .env
            .blocking(move || {
                let entry = this.entry(&found.meta);
                (open_file(&found), entry)
            })
            .await;
        match opened {
            (Ok(open), mut entry) => {
                entry.hard_link = Bytes::copy_from_slice(&item.hard_link);
                self.content(item, open, entry, Vec::new()).await
            }
            (Err(e), _) if e.is_vanished() => Ok(Outcome::Vanished),
            (Err(e), mut entry) => {
                entry.set_problem(Problem::Unreadable);
                (entry.size, entry.hard_link) = (0, Bytes::copy_from_slice(&item.hard_link));
                let problems = vec![(path_bytes(item.found.path()), told(&e))];
                Ok(self.done(item, entry, problems))
            }
        }
    }

    /// Sends the frames of sealed chunks and counts them; gives the chunks' ids.
    pub async fn send(&self, kind: Kind, sealed: Sealed) -> Result<Vec<crate::chunk::id::ChunkId>, BackupError> {
        let counters = &self.sealing.added;
        let chunks = if kind == Kind::Meta { &counters.meta_chunks } else { &counters.data_chunks };
        chunks.add(sealed.new_chunks);
        counters.bytes.add(sealed.new_bytes);
        for frame in sealed.frames {
            counters.stored.add(frame.bytes.len() as u64);
            self.progress.stored.add(frame.bytes.len() as u64);
            self.frames.send(ToPack::Frame(frame)).await.map_err(|_| gone())?;
        }
        Ok(sealed.ids)
    }

    /// Seals and sends nodes of a tree.
    pub async fn nodes(&self, nodes: &mut Vec<NodeChunk>) -> Result<(), BackupError> {
        if nodes.is_empty() {
            return Ok(());
        }
        let nodes = std::mem::take(nodes);
        let bytes: usize = nodes.iter().map(|n| n.plaintext.len()).sum();
        let admitted = self.budget.admit(bytes as u64).await;
        let sealing_ = self.sealing.clone();
        let sealed = self
            .sealing
            .env
            .cpu(move || {
                let chunks: Vec<&[u8]> = nodes.iter().map(|n| n.plaintext.as_ref()).collect();
                sealing_.seal(Kind::Meta, &chunks, admitted)
            })
            .await;
        self.send(Kind::Meta, sealed.map_err(sealing)?).await.map(drop)
    }

    pub(super) fn done(&self, item: Item, entry: Entry, problems: Vec<(Vec<u8>, String)>) -> Outcome {
        let value = Bytes::from(entry.encode_to_vec());
        let change = match &item.previous {
            None => Change::New,
            Some(previous) if *previous == value => Change::Same,
            Some(_) => Change::Changed,
        };
        let (kind, bytes) = (item.found.meta.kind, entry.size);
        Outcome::Done(Box::new(Done { key: item.found.key, value, bytes, kind, change, problems }))
    }
}

impl Looked {
    fn spans(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let content = (!self.span.is_empty()).then(|| self.span.clone());
        content.into_iter().chain(self.long.iter().map(|(_, span)| span.clone()))
    }
}

fn read_again(found: &Found, max: usize, scratch: &mut Vec<u8>) -> Result<Small, SourceError> {
    let mut read = read_small(found, max, scratch)?;
    for _ in 0..AGAIN {
        if !matches!(read, Small::Changed(..)) {
            break;
        }
        read = read_small(found, max, scratch)?;
    }
    Ok(read)
}

/// The pack stage is gone: its own error says why.
pub(super) fn gone() -> BackupError {
    RepositoryError::new(Fault::Failed, "the upload stopped early").into()
}

pub(super) fn sealing(e: crate::seal::SealError) -> BackupError {
    RepositoryError::caused(Fault::Integrity, "could not seal what was read; nothing of it was stored", e).into()
}

/// A structure that the format cannot hold.
pub fn unwritable(e: crate::format::FormatError) -> BackupError {
    RepositoryError::caused(Fault::Failed, "could not write the catalog", e).into()
}
