//! Reading what the walk found, and sealing it: batches of small neighbours, and large files chunk by chunk.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};

use crate::backup::BackupError;
use crate::backup::budget::Budget;
use crate::backup::entry::{add_xattrs, from_meta, piece};
use crate::backup::pack::ToPack;
use crate::backup::seal::{Sealed, Sealing};
use crate::chunk::split::Splitter;
use crate::format::entry::{Content, Entry, INLINE_PIECES, Piece, Problem};
use crate::format::tree::{NodeChunk, TreeBuilder, TreeKind};
use crate::progress::{Progress, Stop};
use crate::repository::error::{Fault, RepositoryError};
use crate::seal::Kind;
use crate::source::attributes::read_xattrs;
use crate::source::directory::Found;
use crate::source::error::SourceError;
use crate::source::metadata::{Kind as ItemKind, Meta, OwnerNames};
use crate::source::reading::{OpenFile, Segment, Small, open_file, read_link, read_small};

/// Bytes read at once from a large file.
const BLOCK: usize = 4 << 20;
/// Chunks of one large file that are sealed at once.
const CHUNKS_AT_ONCE: usize = 16;
/// How often a file that changes is read again.
const AGAIN: usize = 2;
/// Larger files are read once: they are marked instead.
const AGAIN_MAX: u64 = 64 << 20;

/// What all reading shares.
pub struct Reading {
    /// Names and seals.
    pub sealing: Arc<Sealing>,
    /// Cuts.
    pub splitter: Splitter,
    /// Bounds bytes in flight.
    pub budget: Budget,
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

fn path_bytes(path: std::path::PathBuf) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string())
}

fn told(e: &SourceError) -> String {
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
    pub fn is_small(&self, meta: &Meta) -> bool {
        meta.kind != ItemKind::File || (meta.size <= self.small() as u64 && meta.allocated >= meta.size)
    }

    /// Reads and seals a batch of small items.
    pub async fn batch(self: Arc<Self>, items: Vec<Item>) -> Result<Vec<Outcome>, BackupError> {
        let expected: u64 = items.iter().filter(|i| i.found.meta.kind == ItemKind::File).map(|i| i.found.meta.size).sum();
        let permit = self.batches.clone().acquire_owned().await;
        let admitted = self.budget.admit(expected + 4096).await;
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
        let mut owners = self.owners.lock().expect("no panic while names are looked up");
        let mut buffer = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        let mut scratch = Vec::new();
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            out.push(self.look_at(item, &mut owners, &mut buffer, &mut scratch));
        }
        (buffer, out)
    }

    fn look_at(&self, item: Item, owners: &mut OwnerNames, buffer: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Option<Looked> {
        let found = &item.found;
        let start = buffer.len();
        let mut problems = Vec::new();
        let mut note = |e: &SourceError| problems.push((path_bytes(found.path()), told(e)));
        let (mut entry, attributes, mut large) = (from_meta(&found.meta, owners), None, None);
        let mut attributes = attributes;
        match found.meta.kind {
            ItemKind::File => match read_again(found, self.small(), scratch) {
                Ok(Small::Whole(meta, found_attributes)) => {
                    entry = from_meta(&meta, owners);
                    attributes = Some(found_attributes);
                    buffer.extend_from_slice(scratch);
                    entry.size = scratch.len() as u64;
                }
                Ok(Small::Changed(meta, found_attributes)) => {
                    entry = from_meta(&meta, owners);
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
                let mut owners = this.owners.lock().expect("no panic while names are looked up");
                let entry = from_meta(&found.meta, &mut owners);
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

    /// Reads an open file to its end, again if it changes meanwhile.
    async fn content(
        &self,
        item: Item,
        open: OpenFile,
        mut entry: Entry,
        mut problems: Vec<(Vec<u8>, String)>,
    ) -> Result<Outcome, BackupError> {
        let mut open = Some(open);
        for attempt in 0.. {
            let Some(file) = open.take() else { break };
            let size = file.meta.size;
            let (mut content, back) = match self.pieces(file).await? {
                Ok(Some(done)) => done,
                Ok(None) => return Ok(Outcome::Interrupted),
                Err(e) if e.is_vanished() => return Ok(Outcome::Vanished),
                Err(e) => {
                    problems.push((path_bytes(item.found.path()), told(&e)));
                    entry.set_problem(Problem::Unreadable);
                    (entry.size, entry.content) = (0, None);
                    return Ok(self.done(item, entry, problems));
                }
            };
            let this = self.sealing.clone();
            let (back, after, attributes) = this
                .env
                .blocking(move || {
                    let (after, attributes) = (back.stat_again(), back.xattrs());
                    (back, after, attributes)
                })
                .await;
            let (after, attributes) = match (after, attributes) {
                (Ok(after), Ok(attributes)) => (after, attributes),
                (Err(e), _) | (_, Err(e)) => {
                    problems.push((path_bytes(item.found.path()), told(&e)));
                    entry.set_problem(Problem::Inconsistent);
                    (back.meta, Default::default())
                }
            };
            let changed = !after.same_content(&back.meta) || (content.length != size && size != 0);
            if changed && attempt < AGAIN && size <= AGAIN_MAX {
                let found = item.found.clone();
                match this.env.blocking(move || open_file(&found)).await {
                    Ok(again) => {
                        open = Some(again);
                        continue;
                    }
                    Err(e) if e.is_vanished() => return Ok(Outcome::Vanished),
                    Err(e) => problems.push((path_bytes(item.found.path()), told(&e))),
                }
            }
            let hard_link = entry.hard_link.clone();
            {
                let mut owners = self.owners.lock().expect("no panic while names are looked up");
                let problem = entry.problem();
                entry = from_meta(&after, &mut owners);
                entry.set_problem(problem);
            }
            entry.hard_link = hard_link;
            if changed {
                entry.set_problem(Problem::Inconsistent);
                problems.push((path_bytes(item.found.path()), "changed while it was read".into()));
            }
            entry.size = content.length;
            entry.content = content.finish(self).await?;
            problems.extend(attributes.problems.iter().map(|e| (path_bytes(item.found.path()), told(e))));
            for (at, value) in add_xattrs(&mut entry, attributes.list) {
                let length = value.len() as u64;
                let admitted = self.budget.admit(length).await;
                let sealing_ = self.sealing.clone();
                let sealed = this.env.cpu(move || sealing_.seal(Kind::Data, &[&value], admitted)).await;
                let ids = self.send(Kind::Data, sealed.map_err(sealing)?).await?;
                entry.xattrs[at].chunk = Some(piece(&ids[0], length));
            }
            break;
        }
        Ok(self.done(item, entry, problems))
    }

    /// Cuts and seals an open file. The inner result is the source's; `None`: stopped on request.
    async fn pieces(&self, file: OpenFile) -> Result<Result<Option<(Pieces, OpenFile)>, SourceError>, BackupError> {
        let runs: Vec<Segment> = if file.meta.size == 0 { vec![Segment::Data(0, u64::MAX)] } else { file.segments().collect() };
        let max = self.splitter.spec().max as usize;
        let mut pieces = Pieces::new(self);
        let mut sealing_chunks = FuturesOrdered::new();
        let (mut file, mut rest) = (Some(file), BytesMut::new());
        let mut stopped: Option<Result<(), SourceError>> = None;
        'runs: for run in runs {
            let (mut offset, end) = match run {
                Segment::Hole(length) => {
                    while let Some(sealed) = sealing_chunks.next().await {
                        pieces.push(self, sealed).await?;
                    }
                    pieces.hole(self, length).await?;
                    continue;
                }
                Segment::Data(offset, length) => (offset, offset.saturating_add(length)),
            };
            let mut at_end = false;
            while !at_end {
                if self.stop.requested() {
                    stopped = Some(Ok(()));
                    break 'runs;
                }
                let want = BLOCK.min(usize::try_from(end - offset).unwrap_or(BLOCK));
                let mut admitted = self.budget.admit(want as u64).await;
                let open = file.take().expect("the file comes back from every read");
                let carried = std::mem::take(&mut rest);
                let (open, block, read) = self
                    .sealing
                    .env
                    .blocking(move || {
                        let mut block = BytesMut::with_capacity(carried.len() + want);
                        block.extend_from_slice(&carried);
                        let start = block.len();
                        block.resize(start + want, 0);
                        let mut filled = start;
                        let read = loop {
                            match open.read_at(offset + (filled - start) as u64, &mut block[filled..]) {
                                Ok(0) => break Ok(()),
                                Ok(n) => filled += n,
                                Err(e) => break Err(e),
                            }
                            if filled == block.len() {
                                break Ok(());
                            }
                        };
                        block.truncate(filled);
                        (open, block, read.map(|()| filled - start))
                    })
                    .await;
                file = Some(open);
                let got = match read {
                    Ok(got) => got,
                    Err(e) => {
                        stopped = Some(Err(e));
                        break 'runs;
                    }
                };
                offset += got as u64;
                self.sealing.added.read.add(got as u64);
                self.progress.bytes.add(got as u64);
                at_end = got < want || offset >= end;
                rest = block;
                while rest.len() >= max || (at_end && !rest.is_empty()) {
                    let chunk = rest.split_to(self.splitter.cut(&rest)).freeze();
                    let admitted = admitted.split(chunk.len() as u64);
                    if sealing_chunks.len() >= CHUNKS_AT_ONCE
                        && let Some(sealed) = sealing_chunks.next().await
                    {
                        pieces.push(self, sealed).await?;
                    }
                    sealing_chunks.push_back(self.seal_chunk(chunk, admitted));
                }
                // What is left over is small and waits outside the budget: at most one chunk per file being read.
            }
        }
        // Also when stopped: others may rely on the chunks that were taken on here, so they must be sent.
        while let Some(sealed) = sealing_chunks.next().await {
            pieces.push(self, sealed).await?;
        }
        match stopped {
            None => Ok(Ok(file.map(|file| (pieces, file)))),
            Some(Ok(())) => Ok(Ok(None)),
            Some(Err(e)) => Ok(Err(e)),
        }
    }

    /// Seals one chunk on the CPU pool and sends its frame; a task of its own, so that neighbours run beside each other.
    fn seal_chunk(
        &self,
        chunk: Bytes,
        admitted: crate::backup::budget::Admitted,
    ) -> crate::clock::Task<Result<(crate::chunk::id::ChunkId, u64), BackupError>> {
        let (sealing_, frames) = (self.sealing.clone(), self.frames.clone());
        let (env, length) = (self.sealing.env.clone(), chunk.len() as u64);
        let (progress, added) = (self.progress.clone(), self.added_handle());
        self.sealing.env.spawn(async move {
            let sealed = env.cpu(move || sealing_.seal(Kind::Data, &[&chunk], admitted)).await.map_err(sealing)?;
            let id = sealed.ids[0];
            let stored: u64 = sealed.frames.iter().map(|f| f.bytes.len() as u64).sum();
            let new = (sealed.new_chunks, sealed.new_bytes);
            for frame in sealed.frames {
                frames.send(ToPack::Frame(frame)).await.map_err(|_| gone())?;
            }
            progress.stored.add(stored);
            added(new, stored);
            Ok((id, length))
        })
    }

    fn added_handle(&self) -> impl FnOnce((u64, u64), u64) + Send + 'static + use<> {
        let counters = self.sealing.added.clone();
        move |(chunks, bytes), stored| {
            counters.data_chunks.add(chunks);
            counters.bytes.add(bytes);
            counters.stored.add(stored);
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

    fn done(&self, item: Item, entry: Entry, problems: Vec<(Vec<u8>, String)>) -> Outcome {
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

/// The pieces of one file: inline while they are few, then a content list.
struct Pieces {
    inline: Vec<Piece>,
    list: Option<TreeBuilder>,
    nodes: Vec<NodeChunk>,
    length: u64,
    ids: crate::chunk::id::IdKey,
}

impl Pieces {
    fn new(reading: &Reading) -> Pieces {
        let ids = reading.sealing.id_key.clone();
        Pieces { inline: Vec::new(), list: None, nodes: Vec::new(), length: 0, ids }
    }

    async fn push(
        &mut self,
        reading: &Reading,
        sealed: Result<(crate::chunk::id::ChunkId, u64), BackupError>,
    ) -> Result<(), BackupError> {
        let (id, length) = sealed?;
        self.add(reading, piece(&id, length)).await
    }

    async fn hole(&mut self, reading: &Reading, length: u64) -> Result<(), BackupError> {
        reading.progress.bytes.add(length);
        self.add(reading, Piece { id: Bytes::new(), length }).await
    }

    async fn add(&mut self, reading: &Reading, piece: Piece) -> Result<(), BackupError> {
        self.length += piece.length;
        match &mut self.list {
            None if self.inline.len() < INLINE_PIECES => self.inline.push(piece),
            None => {
                let mut list = TreeBuilder::new(TreeKind::Content, self.ids.clone());
                for early in self.inline.drain(..).chain([piece]) {
                    list.push(&[], &early.encode_to_vec(), early.length, &mut self.nodes).map_err(unwritable)?;
                }
                self.list = Some(list);
            }
            Some(list) => list.push(&[], &piece.encode_to_vec(), piece.length, &mut self.nodes).map_err(unwritable)?,
        }
        reading.nodes(&mut self.nodes).await
    }

    async fn finish(&mut self, reading: &Reading) -> Result<Option<Content>, BackupError> {
        let list = match self.list.take() {
            Some(list) => Some(list.finish(&mut self.nodes).map_err(unwritable)?),
            None => None,
        };
        reading.nodes(&mut self.nodes).await?;
        let pieces = std::mem::take(&mut self.inline);
        Ok((list.is_some() || !pieces.is_empty()).then_some(Content { pieces, list }))
    }
}

/// The pack stage is gone: its own error says why.
fn gone() -> BackupError {
    RepositoryError::new(Fault::Failed, "the upload stopped early").into()
}

fn sealing(e: crate::seal::SealError) -> BackupError {
    RepositoryError::caused(Fault::Integrity, "could not seal what was read; nothing of it was stored", e).into()
}

/// A structure that the format cannot hold.
pub fn unwritable(e: crate::format::FormatError) -> BackupError {
    RepositoryError::caused(Fault::Failed, "could not write the catalog", e).into()
}
