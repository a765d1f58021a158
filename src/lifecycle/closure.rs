//! Everything a snapshot stands on, walked once for all targets: what a target can rely on already, and what it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use prost::Message;

use crate::chunk::id::ChunkId;
use crate::format::descent::{Descent, Step};
use crate::format::entry::{self, Entry, Piece};
use crate::format::snapshot::Snapshot;
use crate::format::tree::{Child, TreeKind};
use crate::lifecycle::heal::HealError;
use crate::lifecycle::heal_plan::Needs;
use crate::progress::Stop;
use crate::replica::{Mask, REPLICAS_MAX};
use crate::repository::Repository;
use crate::repository::chunk_index::{ChunkIndex, Place};
use crate::repository::id_map::LargeIdMap;
use crate::repository::log::chain;
use crate::repository::reader::NODES_MAX;

/// Nodes that are read ahead.
const READ_AHEAD: usize = 8;

/// Walks snapshots; nodes seen under one are not read again under the next.
pub struct Closure<'r> {
    repository: &'r Repository,
    index: Arc<RwLock<ChunkIndex>>,
    stop: &'r Stop,
    /// Half an id, and the targets for which everything below that node was looked up. About 40 bytes per node.
    seen: LargeIdMap<[u8; 16], Mask>,
    /// What the snapshot being walked added to `seen`: taken back when the snapshot turns out not to be whole.
    fresh: Vec<([u8; 16], Mask)>,
    /// What targets lack and some replica has.
    pub needs: Needs,
    /// Frames that cannot be had, by number of the pack and offset: what lies in them alone is lost, and does not hold up the rest.
    pub unreadable: BTreeSet<(u32, u32)>,
    /// Numbers of packs that each target relies on already, by its index.
    pub hits: Vec<BTreeSet<u32>>,
    /// Whether what a target lacks is lost for it, wherever else it lies: nothing is to be moved, and the first loss is enough.
    pub strict: bool,
    /// Why the snapshot being walked cannot be whole, and for which targets.
    lost: BTreeMap<usize, String>,
}

impl<'r> Closure<'r> {
    /// Nothing seen yet.
    pub fn new(repository: &'r Repository, index: Arc<RwLock<ChunkIndex>>, stop: &'r Stop) -> Closure<'r> {
        Closure {
            repository,
            index,
            stop,
            seen: LargeIdMap::default(),
            fresh: Vec::new(),
            needs: Needs::default(),
            unreadable: BTreeSet::new(),
            hits: vec![BTreeSet::new(); REPLICAS_MAX],
            strict: false,
            lost: BTreeMap::new(),
        }
    }

    /// Walks one snapshot for the targets `at`. Gives those that cannot have it whole, with the reason.
    pub async fn snapshot(&mut self, snapshot: &Snapshot, at: Mask) -> Result<BTreeMap<usize, String>, HealError> {
        self.lost.clear();
        self.fresh.clear();
        for root in &snapshot.roots {
            if let Some(catalog) = &root.catalog {
                self.tree(TreeKind::Catalog, catalog, at).await?;
            }
        }
        let lost = std::mem::take(&mut self.lost);
        let mask = Mask(lost.keys().fold(0, |m, i| m | 1 << i));
        if !mask.is_empty() {
            // Something below these nodes is lost: another snapshot that names them must find that out, too.
            for (node, at) in self.fresh.drain(..) {
                if let Some(seen) = self.seen.get_mut(&node) {
                    *seen = seen.without(at.and(mask));
                }
            }
        }
        Ok(lost)
    }

    /// Walks a tree; of a catalog also every content list below it.
    async fn tree(&mut self, kind: TreeKind, root: &Child, at: Mask) -> Result<(), HealError> {
        let mut ahead: BTreeMap<ChunkId, Bytes> = BTreeMap::new();
        let mut descent = match Descent::new(kind, root.clone(), NODES_MAX) {
            Ok(descent) => descent,
            Err(e) => return self.give_up(at, &chain(&e)),
        };
        loop {
            if self.stop.requested() {
                return Err(HealError::Interrupted);
            }
            if self.strict && at.indices().all(|target| self.lost.contains_key(&target)) {
                return Ok(());
            }
            match descent.step() {
                Err(e) => return self.give_up(at, &chain(&e)),
                Ok(Step::End) => return Ok(()),
                Ok(Step::Item(item)) if kind == TreeKind::Catalog => self.entry(&item.key, item.value, at).await?,
                Ok(Step::Item(item)) => {
                    // Reading the node tested the piece.
                    let chunk = Piece::decode(item.value).ok().and_then(|piece| piece.chunk_id());
                    chunk.into_iter().for_each(|id| self.cover(&[id], at));
                }
                Ok(Step::Want(child)) => {
                    let Some(id) = child.chunk_id() else { return self.give_up(at, "a tree names a node without an id") };
                    self.cover(&[id], at);
                    let read = if self.is_seen(&id, at) { None } else { self.node(&id, &descent, &mut ahead, at).await };
                    let fed = match read {
                        Some(plain) => descent.feed(plain),
                        None => descent.skip_wanted(),
                    };
                    if let Err(e) = fed {
                        return self.give_up(at, &chain(&e));
                    }
                }
            }
        }
    }

    fn is_seen(&self, id: &ChunkId, at: Mask) -> bool {
        self.seen.get(&id.half()).is_some_and(|seen| seen.covers(at))
    }

    /// The node's plaintext; `None` when it can be had nowhere.
    async fn node(&mut self, id: &ChunkId, descent: &Descent, ahead: &mut BTreeMap<ChunkId, Bytes>, at: Mask) -> Option<Bytes> {
        let read = match ahead.remove(id) {
            Some(plain) => Ok(plain),
            None => {
                ahead.clear();
                let mut ids: Vec<ChunkId> = descent.peek_wanted(READ_AHEAD).iter().filter_map(Child::chunk_id).collect();
                ids.retain(|other| other != id && !self.is_seen(other, at));
                ids.dedup();
                let repository = self.repository;
                let (plain, more) = futures::join!(
                    repository.chunk(id),
                    futures::future::join_all(ids.iter().map(|id| async move { (*id, repository.chunk(id).await) }))
                );
                ahead.extend(more.into_iter().filter_map(|(id, read)| Some((id, read.ok()?))));
                plain
            }
        };
        match read {
            Ok(plain) => {
                let seen = self.seen.entry(id.half()).or_default();
                self.fresh.push((id.half(), at.without(*seen)));
                *seen = seen.or(at);
                Some(plain)
            }
            Err(e) => {
                self.lose(at, &e.to_string());
                None
            }
        }
    }

    async fn entry(&mut self, key: &[u8], value: Bytes, at: Mask) -> Result<(), HealError> {
        let entry: Entry = match entry::decode(value, key) {
            Ok(entry) => entry,
            Err(e) => return self.give_up(at, &format!("an entry: {}", chain(&e))),
        };
        let mut ids: Vec<ChunkId> = entry.xattrs.iter().filter_map(|x| x.chunk.as_ref()?.chunk_id()).collect();
        let content = entry.content.as_ref();
        ids.extend(content.iter().flat_map(|c| &c.pieces).filter_map(Piece::chunk_id));
        self.cover(&ids, at);
        match content.and_then(|c| c.list.as_ref()) {
            Some(list) => Box::pin(self.tree(TreeKind::Content, list, at)).await,
            None => Ok(()),
        }
    }

    /// Looks chunks up: where a target can rely on one, the pack is noted; where not, the place that it comes from.
    fn cover(&mut self, ids: &[ChunkId], at: Mask) {
        let index = self.index.clone();
        let chunks = index.read().expect("no panic while the index is locked");
        let readable = self.repository.readable();
        for (id, usable) in ids.iter().zip(chunks.usable(ids)) {
            for target in at.and(usable).indices() {
                let hits = &mut self.hits[target];
                let mut packs = chunks.covering(id, target).peekable();
                let first = packs.peek().copied();
                if !packs.any(|pack| hits.contains(&pack)) {
                    hits.extend(first);
                }
            }
            let lacking = at.without(usable);
            if lacking.is_empty() {
                continue;
            }
            if self.strict {
                self.lose(lacking, &format!("chunk {id} is in no pack that may be relied on there"));
                continue;
            }
            // Where no replica trusts any pack that has it, what is left of one of them is better than nothing.
            let places = chunks.places(id);
            let (trusted, rest): (Vec<Place>, Vec<Place>) = places
                .into_iter()
                .filter(|p| !chunks.pack(p.pack).published.and(readable).is_empty())
                .filter(|p| !self.unreadable.contains(&(p.pack, p.frame_offset)))
                .partition(|p| !chunks.pack(p.pack).usable().and(readable).is_empty());
            match self.needs.choose(if trusted.is_empty() { &rest } else { &trusted }).copied() {
                Some(place) => self.needs.add(&place, lacking),
                None => self.lose(lacking, &format!("chunk {id} is in no pack that any log relies on and that can be read")),
            }
        }
    }

    /// Nothing more can be learned of this tree.
    fn give_up(&mut self, at: Mask, why: &str) -> Result<(), HealError> {
        self.lose(at, why);
        Ok(())
    }

    fn lose(&mut self, at: Mask, why: &str) {
        for target in at.indices() {
            self.lost.entry(target).or_insert_with(|| why.to_owned());
        }
    }
}
