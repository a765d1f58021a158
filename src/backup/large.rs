//! Large files: read in blocks, cut, and sealed chunk by chunk; their pieces in order.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use prost::Message;

use crate::backup::BackupError;
use crate::backup::budget::Admitted;
use crate::backup::entry::{add_xattrs, piece};
use crate::backup::pack::ToPack;
use crate::backup::read::{AGAIN, Item, Outcome, Reading, gone, path_bytes, sealing, told, unwritable};
use crate::backup::seal::RECORD;
use crate::format::entry::{Content, Entry, INLINE_PIECES, Piece, Problem};
use crate::format::tree::{NodeChunk, TreeBuilder, TreeKind};
use crate::seal::{Kind, Roomy};
use crate::source::error::SourceError;
use crate::source::reading::{OpenFile, Segment, open_file};

/// Chunks of one large file that are sealed at once.
const CHUNKS_AT_ONCE: usize = 16;
/// Larger files are read once: they are marked instead.
const AGAIN_MAX: u64 = 64 << 20;

impl Reading {
    /// Reads an open file to its end, again if it changes meanwhile.
    pub(super) async fn content(
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
                Err(_) if item.found.origin.is_stream() && self.stop.requested() => return Ok(Outcome::Interrupted),
                // Half a stream is no backup of it: nothing of it is recorded.
                Err(e) if item.found.origin.is_stream() => return Err(broken(&e)),
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
            let problem = entry.problem();
            entry = self.entry(&after);
            entry.set_problem(problem);
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
        // What is left over between two reads lies at the front of the block.
        let Some(block) = self.stop.unless_requested(self.blocks.take(&self.budget)).await else { return Ok(Ok(None)) };
        let (mut lent, mut left) = (Some((file, block)), 0);
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
                let (open, mut block) = lent.take().expect("both come back from every read");
                let reading = move || {
                    let (got, want) = fill(&open, offset, end, &mut block.bytes()[left..]);
                    (open, block, got, want)
                };
                let (open, mut block, read, want) = self.sealing.env.blocking(reading).await;
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
                let (mut at, filled) = (0, left + got);
                while at < filled {
                    let rest = &block.bytes()[at..filled];
                    let length = self.splitter.cut(rest);
                    // A boundary holds wherever the data ends; its end is one only where the content ends.
                    if length == rest.len() && length < max && !at_end {
                        break;
                    }
                    if sealing_chunks.len() >= CHUNKS_AT_ONCE
                        && let Some(sealed) = sealing_chunks.next().await
                    {
                        pieces.push(self, sealed).await?;
                    }
                    let room = self.budget.admit((Roomy::size(length) + RECORD) as u64);
                    let Some(admitted) = self.stop.unless_requested(room).await else {
                        stopped = Some(Ok(()));
                        break 'runs;
                    };
                    let chunk = Roomy::new(&block.bytes()[at..at + length]);
                    sealing_chunks.push_back(self.seal_chunk(chunk, admitted));
                    at += length;
                }
                block.bytes().copy_within(at..filled, 0);
                left = filled - at;
                lent = Some((open, block));
            }
        }
        // The block goes back now.
        let file = lent.map(|(open, _)| open);
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
        chunk: Roomy,
        admitted: Admitted,
    ) -> crate::clock::Task<Result<(crate::chunk::id::ChunkId, u64), BackupError>> {
        let (sealing_, frames) = (self.sealing.clone(), self.frames.clone());
        let (env, length) = (self.sealing.env.clone(), chunk.plain().len() as u64);
        let (progress, added) = (self.progress.clone(), self.added_handle());
        self.sealing.env.spawn(async move {
            let sealed = env.cpu(move || sealing_.seal_alone(Kind::Data, chunk, admitted)).await.map_err(sealing)?;
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
}

/// Why a stream could not be read: what it says itself.
fn broken(e: &SourceError) -> BackupError {
    BackupError::Stream(std::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string))
}

/// Reads from `offset` on until the buffer is full, the run ends at `end`, or the file does: how much was read, and how much
/// was wanted.
fn fill(open: &OpenFile, offset: u64, end: u64, buffer: &mut [u8]) -> (Result<usize, SourceError>, usize) {
    let want = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
    let mut filled = 0;
    while filled < want {
        match open.read_at(offset + filled as u64, &mut buffer[filled..want]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) => return (Err(e), want),
        }
    }
    (Ok(filled), want)
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
