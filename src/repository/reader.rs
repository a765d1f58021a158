//! Reading chunks, frames and catalogs: every byte verified, every replica tried before anything counts as lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;

use crate::chunk::id::ChunkId;
use crate::format::descent::{Descent, Step};
use crate::format::index::Segment;
use crate::format::pack::PackKind;
use crate::format::record::{Action, Distrust, ObjectClass};
use crate::format::tree::{Child, TreeKind};
use crate::format::{FormatError, Hash, object_hash};
use crate::replica::Mask;
use crate::replica::patience::{Limit, while_it_may};
use crate::replica::read::read_any;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::{Met, Repository};
use crate::seal::Kind;

/// Frames of meta packs that are kept opened, in bytes.
const CACHE_BYTES: usize = 8 << 20;
/// Nodes that are read ahead when a catalog is walked.
const READ_AHEAD: usize = 8;
/// Segments that are read at once when the index is loaded.
const SEGMENTS_AT_ONCE: usize = 8;
/// More nodes than this are not read of one tree.
pub const NODES_MAX: u64 = 100_000_000;

/// Opened frames of meta packs, the newest first.
#[derive(Default)]
pub struct FrameCache(Mutex<(VecDeque<(u32, Bytes)>, usize)>);

impl FrameCache {
    pub(super) fn get(&self, frame: u32) -> Option<Bytes> {
        let cache = self.0.lock().expect("no panic while the cache is locked");
        cache.0.iter().find(|(number, _)| *number == frame).map(|(_, bytes)| bytes.clone())
    }
    pub(super) fn put(&self, frame: u32, bytes: Bytes) {
        let mut cache = self.0.lock().expect("no panic while the cache is locked");
        if cache.0.iter().any(|(number, _)| *number == frame) {
            return;
        }
        cache.1 += bytes.len();
        cache.0.push_front((frame, bytes));
        while cache.1 > CACHE_BYTES
            && let Some((_, oldest)) = cache.0.pop_back()
        {
            cache.1 -= oldest.len();
        }
    }
}

/// A chunk that is wanted out of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its id.
    pub id: ChunkId,
    /// Where the index says it begins in the frame's plaintext.
    pub offset: u32,
    /// Its length.
    pub length: u32,
}

pub(super) fn seal_kind(kind: PackKind) -> Kind {
    if kind == PackKind::Meta { Kind::Meta } else { Kind::Data }
}

pub(super) fn pack_class(kind: PackKind) -> Class {
    if kind == PackKind::Meta { Class::MetaPack } else { Class::DataPack }
}

impl Repository {
    /// The chunk index over all readable replicas, loaded at the first call.
    pub async fn index(&self) -> Result<Arc<RwLock<ChunkIndex>>, RepositoryError> {
        self.index_loaded.get_or_try_init(|| self.load_index()).await?;
        Ok(self.index.clone())
    }

    async fn load_index(&self) -> Result<(), RepositoryError> {
        let mut segments: BTreeMap<Hash, Mask> = BTreeMap::new();
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                for segment in &log.state.segments {
                    segments.entry(*segment).or_default().0 |= 1 << index;
                }
            }
        }
        self.load_segments(segments).await?;
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                self.mark(index, &log.state);
            }
        }
        Ok(())
    }

    /// Takes segments into the index, each for the replicas whose logs name it. What those logs condemn is void only when
    /// [`Repository::mark`] has said so afterwards.
    pub(super) async fn load_segments(&self, segments: BTreeMap<Hash, Mask>) -> Result<(), RepositoryError> {
        let mut reads = stream::iter(segments)
            .map(|(hash, mask)| async move { (hash, mask, self.segment(&hash, mask).await) })
            // As they come: those that waited for their turn would wait unfolded, each a multiple of its stored size.
            .buffer_unordered(SEGMENTS_AT_ONCE);
        let mut unproven: Vec<(usize, Vec<Hash>)> = Vec::new();
        while let Some((hash, mask, (segment, met))) = reads.next().await {
            if let Some(segment) = &segment {
                self.index.write().expect("no panic while the index is locked").insert(segment, mask)?;
                self.loaded(hash, mask, segment.packs.iter().filter_map(|pack| pack.name().ok()));
            }
            for (replica, fault) in met {
                // A segment that cannot be had leaves its chunks unknown: a backup sends them again, a restore says what it lacks.
                // Where only other replicas have it, this one alone could not restore: its packs are not relied on there.
                let packs: Vec<Hash> = segment.iter().flat_map(|s| &s.packs).filter_map(|p| p.name().ok()).collect();
                if segment.is_none() || fault.is_damage() {
                    self.gaps.store(true, Ordering::Relaxed);
                }
                if fault.is_damage() && !packs.is_empty() {
                    packs.iter().for_each(|p| self.meet(Met { replica, pack: Some(*p), what: fault.to_string() }));
                    unproven.push((replica, packs));
                } else {
                    self.meet(Met { replica, pack: None, what: fault.to_string() });
                }
            }
        }
        let mut chunks = self.index.write().expect("no panic while the index is locked");
        for (replica, packs) in unproven {
            packs.iter().for_each(|pack| chunks.distrust(replica, pack, true));
        }
        Ok(())
    }

    /// Tells the index what a log condemns and distrusts.
    pub(super) fn mark(&self, index: usize, state: &crate::repository::state::State) {
        let mut chunks = self.index.write().expect("no panic while the index is locked");
        for class in [ObjectClass::Data, ObjectClass::Meta] {
            for pack in state.condemned.get(&class).into_iter().flatten() {
                chunks.condemn(index, pack);
            }
        }
        for pack in &state.distrusted {
            chunks.distrust(index, pack, true);
        }
    }

    /// Whether some log relies on a segment that is damaged there, or could be read nowhere: what its snapshots need is
    /// then not all known to be covered.
    pub fn index_has_gaps(&self) -> bool {
        self.gaps.load(Ordering::Relaxed)
    }

    /// An index segment from the first replica of `mask` that has it whole, and what was met at those before it.
    pub async fn segment(&self, hash: &Hash, mask: Mask) -> (Option<Segment>, crate::replica::read::Met) {
        let name = layout::hashed(Class::Segment, hash);
        read_any(&self.set, mask, &name, None, async |bytes: Bytes| {
            if object_hash(&bytes) != *hash {
                return Err("its bytes do not match its name".to_owned());
            }
            Segment::decode(&bytes, &self.keyring.keys.index, &self.keyring.repository_id)
                .map_err(|e| crate::repository::log::chain(&e))
        })
        .await
    }

    /// The plaintext of a chunk, from any place at any replica.
    pub async fn chunk(&self, id: &ChunkId) -> Result<Bytes, RepositoryError> {
        let places = self.index().await?.read().expect("no panic while the index is locked").places(id);
        let known = !places.is_empty();
        for place in places {
            let wanted = [Wanted { id: *id, offset: place.offset, length: place.length }];
            if let Some(plain) = self.frame(&place, &wanted).await {
                return Ok(plain.slice(place.offset as usize..place.offset as usize + place.length as usize));
            }
        }
        let why = if known { "is damaged or missing wherever it lies" } else { "is in no pack that any log relies on" };
        Err(RepositoryError::new(Fault::Integrity, format!("chunk {id} {why}")))
    }

    /// Reads a tree from left to right.
    pub fn cursor(&self, kind: TreeKind, root: &Child) -> Result<Cursor<'_>, RepositoryError> {
        let descent = Descent::new(kind, root.clone(), NODES_MAX).map_err(|e| damaged_tree(&e))?;
        Ok(Cursor { repository: self, descent, ahead: BTreeMap::new(), read: Vec::new(), stuck: None })
    }

    /// Writes into the logs that packs met on the way are not to be relied on. Gives notes for people. A replica that
    /// cannot be written to is told of nothing, nor is one that has not taken it at `limit`; none waits for another.
    pub async fn record_distrust(&self, limit: Option<&Limit>) -> Vec<String> {
        let met = self.take_met();
        let mut notes = Vec::new();
        let mut by_replica: BTreeMap<usize, Vec<Hash>> = BTreeMap::new();
        for one in met {
            if let Some(pack) = one.pack {
                let packs = by_replica.entry(one.replica).or_default();
                if packs.contains(&pack) {
                    continue;
                }
                packs.push(pack);
            }
            if notes.len() < 100 && !notes.contains(&one.what) {
                notes.push(one.what);
            }
        }
        let telling = by_replica.into_iter().map(async |(index, packs)| {
            let (replica, patience, count) = (&self.set.replicas[index], self.set.settings.stall, packs.len());
            let told = while_it_may(&self.env, replica, patience, limit, "noting damage", self.distrust(index, packs)).await;
            (&replica.name, count, told.map_err(RepositoryError::from).and_then(|new| new))
        });
        for (name, count, told) in join_all(telling).await {
            match told {
                Ok(0) => {}
                Ok(new) => notes.push(format!("store {name}: {new} damaged packs are distrusted from now on")),
                Err(e) => notes.push(format!("store {name}: {count} damaged packs could not be recorded: {e}")),
            }
        }
        notes
    }

    /// Records packs as distrusted at one replica; gives how many were not yet.
    pub async fn distrust(&self, index: usize, packs: Vec<Hash>) -> Result<usize, RepositoryError> {
        if let Some((fault, why)) = self.fault(index) {
            return Err(RepositoryError::new(fault, why));
        }
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else { return Ok(0) };
        let new: Vec<Bytes> =
            packs.iter().filter(|p| !log.state.distrusted.contains(*p)).map(|p| Bytes::copy_from_slice(p)).collect();
        let count = new.len();
        if count > 0 {
            self.prove_refusal(index).await?;
            log.append(Action::Distrust(Distrust { add: new, lift: Vec::new() }), false, &heads, |_| Ok(())).await?;
            self.remember(&log);
        }
        let mut chunks = self.index.write().expect("no panic while the index is locked");
        packs.iter().for_each(|pack| chunks.distrust(index, pack, true));
        Ok(count)
    }
}

pub(super) fn verify(id_key: &crate::chunk::id::IdKey, plain: &[u8], wanted: &[Wanted]) -> Result<(), String> {
    for want in wanted {
        let chunk = plain
            .get(want.offset as usize..want.offset as usize + want.length as usize)
            .ok_or("a chunk reaches past the end of its frame")?;
        if id_key.id(chunk) != want.id {
            return Err(format!("chunk {} has other bytes than its id says", want.id));
        }
    }
    Ok(())
}

fn damaged_tree(e: &FormatError) -> RepositoryError {
    let fault = match e {
        FormatError::OverLimit { .. } => Fault::Refused,
        FormatError::Unsupported { .. } => Fault::Unsupported,
        _ => Fault::Integrity,
    };
    RepositoryError::new(fault, crate::repository::log::chain(e))
}

/// A place in a tree, moving from left to right, that reads what it needs.
pub struct Cursor<'r> {
    repository: &'r Repository,
    descent: Descent,
    ahead: BTreeMap<ChunkId, Bytes>,
    read: Vec<ChunkId>,
    /// The node that could not be read.
    stuck: Option<Child>,
}

/// A part of a tree that cannot be read.
#[derive(Clone, Debug)]
pub struct Unread {
    /// The first key in it (of a content list: empty).
    pub first: Bytes,
    /// The first key after it; none: it reaches the end.
    pub next: Option<Bytes>,
    /// How many items it has.
    pub entries: u64,
    /// Content bytes of its items.
    pub bytes: u64,
}

impl Cursor<'_> {
    /// The next item: its key and its own bytes.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, RepositoryError> {
        loop {
            match self.descent.step().map_err(|e| damaged_tree(&e))? {
                Step::Item(item) => return Ok(Some((item.key, item.value))),
                Step::End => return Ok(None),
                Step::Want(child) => {
                    self.stuck = Some(child.clone());
                    let plain = self.node(&child).await?;
                    self.read.extend(child.chunk_id());
                    self.descent.feed(plain).map_err(|e| damaged_tree(&e))?;
                    self.stuck = None;
                }
            }
        }
    }

    /// After [`Cursor::next`] failed: passes over the node that could not be read, with all below it. `None` when it was
    /// not a node that failed: the rest of the tree cannot be read.
    pub fn pass_over(&mut self) -> Option<Unread> {
        let child = self.stuck.take()?;
        let (first, next) = self.descent.wanted_span();
        self.descent.skip_wanted().ok()?;
        Some(Unread { first, next, entries: child.entries, bytes: child.bytes })
    }

    /// The ids of the nodes read since the last call.
    pub fn take_read(&mut self) -> Vec<ChunkId> {
        std::mem::take(&mut self.read)
    }

    /// Goes forward to the first item whose key is `key` or after it.
    pub fn seek(&mut self, key: &[u8]) {
        self.descent.seek(key);
    }

    /// Goes forward past all items whose keys start with `prefix`.
    pub fn skip_prefix(&mut self, prefix: &[u8]) {
        self.descent.skip_prefix(prefix);
    }

    async fn node(&mut self, wanted: &Child) -> Result<Bytes, RepositoryError> {
        let id = wanted.chunk_id().ok_or_else(|| RepositoryError::new(Fault::Integrity, "a tree names a node without an id"))?;
        if let Some(plain) = self.ahead.remove(&id) {
            return Ok(plain);
        }
        self.ahead.clear();
        let mut ids: Vec<ChunkId> = self.descent.peek_wanted(READ_AHEAD).iter().filter_map(Child::chunk_id).collect();
        ids.retain(|other| *other != id);
        ids.dedup();
        let repository = self.repository;
        let (plain, ahead) = futures::join!(
            repository.chunk(&id),
            futures::future::join_all(ids.iter().map(|id| async move { (*id, repository.chunk(id).await) }))
        );
        // What could not be read ahead is an error only when it is wanted.
        self.ahead.extend(ahead.into_iter().filter_map(|(id, read)| Some((id, read.ok()?))));
        plain
    }
}
