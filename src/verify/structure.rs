//! Every live snapshot walked: each chunk that it needs must have a place to rely on at every replica that holds it.
//!
//! What two snapshots share is walked once, unless something is wrong below it: then each of them says so for itself.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use prost::Message;

use crate::chunk::id::ChunkId;
use crate::format::descent::{Descent, Step};
use crate::format::entry::{self, Entry, EntryKind, Piece};
use crate::format::tree::{Child, TreeKind};
use crate::progress::Stop;
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::id_map::LargeIdMap;
use crate::repository::log::chain;
use crate::repository::reader::NODES_MAX;
use crate::repository::snapshots::SnapshotView;
use crate::verify::VerifyError;
use crate::verify::findings::Findings;
use crate::verify::presence::pack_name;

/// Nodes that are read ahead.
const READ_AHEAD: usize = 8;
/// How often something wrong is met before what is shared is told of one snapshot only: the walk ends, however much is lost.
const AGAIN_MAX: u64 = 1 << 20;

/// Walks snapshots; nodes seen under one are not read again under the next.
pub struct Walk<'r> {
    repository: &'r Repository,
    index: Arc<RwLock<ChunkIndex>>,
    findings: &'r Findings,
    stop: &'r Stop,
    /// Half an id, and the replicas for which everything below that node was looked up. About 40 bytes per node.
    seen: LargeIdMap<[u8; 16], Mask>,
    /// The nodes that lead to where the walk is: level, and half an id.
    above: Vec<(u32, [u8; 16])>,
    /// Nodes that can be had nowhere, and why: not asked for again.
    lost: BTreeMap<[u8; 16], String>,
    /// How often something wrong was met.
    met: u64,
}

/// Where the walk is, for the story.
struct Place<'s> {
    snapshot: &'s str,
    root: &'s [u8],
    at: Mask,
}

impl Place<'_> {
    /// The recorded path of a catalog key.
    fn path(&self, key: &[u8]) -> String {
        let mut path = String::from_utf8_lossy(self.root).into_owned();
        if !key.is_empty() {
            if !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(&String::from_utf8_lossy(key).replace('\0', "/"));
        }
        path
    }
}

impl<'r> Walk<'r> {
    /// Nothing seen yet. `index` already knows which packs are not to be relied on where.
    pub fn new(repository: &'r Repository, index: Arc<RwLock<ChunkIndex>>, findings: &'r Findings, stop: &'r Stop) -> Walk<'r> {
        let (seen, above, lost) = (LargeIdMap::default(), Vec::new(), BTreeMap::new());
        Walk { repository, index, findings, stop, seen, above, lost, met: 0 }
    }

    /// Walks one snapshot for the replicas `at`.
    pub async fn snapshot(&mut self, view: &SnapshotView, at: Mask) -> Result<(), VerifyError> {
        let id = hex::encode(view.id);
        self.above.clear();
        for root in &view.snapshot.roots {
            let place = Place { snapshot: &id[..8], root: &root.path, at };
            if let Some(catalog) = &root.catalog {
                self.tree(TreeKind::Catalog, catalog, &place, &[]).await?;
            }
        }
        Ok(())
    }

    /// Walks a tree; of a catalog also every content list below it. `key` is the entry whose content list it is.
    async fn tree(&mut self, kind: TreeKind, root: &Child, place: &Place<'_>, key: &[u8]) -> Result<(), VerifyError> {
        let base = self.above.len();
        let walked = self.nodes(kind, root, place, key, base).await;
        self.above.truncate(base);
        walked
    }

    /// Something is wrong below the nodes that lead here: another snapshot that names them must find that out, too.
    fn again(&mut self, at: Mask) {
        self.met += 1;
        if self.met > AGAIN_MAX {
            return;
        }
        for (_, node) in &self.above {
            if let Some(seen) = self.seen.get_mut(node) {
                *seen = seen.without(at);
            }
        }
    }

    /// Walks the nodes of a tree; those above it are `base`.
    async fn nodes(
        &mut self,
        kind: TreeKind,
        root: &Child,
        place: &Place<'_>,
        key: &[u8],
        base: usize,
    ) -> Result<(), VerifyError> {
        let mut ahead: BTreeMap<ChunkId, Bytes> = BTreeMap::new();
        // The entry before, if it is no directory: in key order, what lies beneath it would come next.
        let mut leaf: Option<Bytes> = None;
        let mut descent = match Descent::new(kind, root.clone(), NODES_MAX) {
            Ok(descent) => descent,
            Err(e) => {
                self.broken(place, key, chain(&e));
                return Ok(());
            }
        };
        loop {
            if self.stop.requested() {
                return Err(VerifyError::Interrupted);
            }
            match descent.step() {
                Err(e) => {
                    self.broken(place, key, chain(&e));
                    return Ok(());
                }
                Ok(Step::End) => return Ok(()),
                Ok(Step::Item(item)) if kind == TreeKind::Catalog => {
                    if leaf.is_some_and(|leaf| item.key.strip_prefix(&leaf[..]).is_some_and(|rest| rest.starts_with(&[0]))) {
                        self.broken(place, &item.key, "it lies beneath what is no directory".into());
                    }
                    leaf = (!self.entry(&item.key, item.value, place).await?).then_some(item.key);
                }
                Ok(Step::Item(item)) => {
                    // Reading the node tested the piece.
                    self.cover(Piece::decode(item.value).iter().filter_map(wanted).collect(), place, key);
                }
                Ok(Step::Want(child)) => {
                    let Some(id) = child.chunk_id() else { return Ok(()) };
                    while self.above.len() > base && self.above.last().is_some_and(|(level, _)| *level <= child.level) {
                        self.above.pop();
                    }
                    self.cover(vec![(id, u64::from(child.length))], place, key);
                    let read =
                        if self.is_seen(&id, place.at) { None } else { self.node(&id, &descent, &mut ahead, place, key).await };
                    if read.is_some() {
                        self.above.push((child.level, id.half()));
                    }
                    let fed = match read {
                        Some(plain) => descent.feed(plain),
                        None => descent.skip_wanted(),
                    };
                    if let Err(e) = fed {
                        self.broken(place, key, chain(&e));
                        return Ok(());
                    }
                }
            }
        }
    }

    fn is_seen(&self, id: &ChunkId, at: Mask) -> bool {
        self.seen.get(&id.half()).is_some_and(|seen| seen.covers(at))
    }

    /// The node's plaintext; `None` when it can be had nowhere, which is written down.
    async fn node(
        &mut self,
        id: &ChunkId,
        descent: &Descent,
        ahead: &mut BTreeMap<ChunkId, Bytes>,
        place: &Place<'_>,
        key: &[u8],
    ) -> Option<Bytes> {
        if let Some(why) = self.lost.get(&id.half()).cloned() {
            self.unreadable(id, why, place, key);
            return None;
        }
        let plain = match ahead.remove(id) {
            Some(plain) => plain,
            None => {
                ahead.clear();
                let mut ids: Vec<ChunkId> = descent.peek_wanted(READ_AHEAD).iter().filter_map(Child::chunk_id).collect();
                ids.retain(|other| other != id && !self.is_seen(other, place.at));
                ids.dedup();
                let repository = self.repository;
                let (plain, more) = futures::join!(
                    repository.chunk(id),
                    futures::future::join_all(ids.iter().map(|id| async move { (*id, repository.chunk(id).await) }))
                );
                ahead.extend(more.into_iter().filter_map(|(id, read)| Some((id, read.ok()?))));
                match plain {
                    Ok(plain) => plain,
                    Err(e) => {
                        self.lost.insert(id.half(), e.to_string());
                        self.unreadable(id, e.to_string(), place, key);
                        return None;
                    }
                }
            }
        };
        let seen = self.seen.entry(id.half()).or_default();
        *seen = seen.or(place.at);
        Some(plain)
    }

    /// Looks into an entry; whether it may have others beneath it.
    async fn entry(&mut self, key: &[u8], value: Bytes, place: &Place<'_>) -> Result<bool, VerifyError> {
        let entry: Entry = match entry::decode(value, key) {
            Ok(entry) => entry,
            Err(e) => {
                self.broken(place, key, format!("an entry: {}", chain(&e)));
                return Ok(true);
            }
        };
        let directory = matches!(entry.kind(), EntryKind::Directory);
        let mut chunks: Vec<(ChunkId, u64)> = entry.xattrs.iter().filter_map(|x| wanted(x.chunk.as_ref()?)).collect();
        let Some(content) = &entry.content else {
            self.cover(chunks, place, key);
            return Ok(directory);
        };
        chunks.extend(content.pieces.iter().filter_map(wanted));
        self.cover(chunks, place, key);
        if let Some(list) = &content.list {
            Box::pin(self.tree(TreeKind::Content, list, place, key)).await?;
        }
        Ok(directory)
    }

    /// Looks chunks up: each must be usable at every replica that the walk is for, and be as long as it is said to be.
    fn cover(&mut self, wanted: Vec<(ChunkId, u64)>, place: &Place<'_>, key: &[u8]) {
        let index = self.index.clone();
        let chunks = index.read().expect("no panic while the index is locked");
        let ids: Vec<ChunkId> = wanted.iter().map(|(id, _)| *id).collect();
        for ((id, length), usable) in wanted.iter().zip(chunks.usable(&ids)) {
            let places = chunks.places(id);
            if !places.is_empty() && places.iter().all(|p| u64::from(p.length) != *length) {
                self.broken(place, key, format!("chunk {id} is said to have {length} bytes and has another length"));
                continue;
            }
            let without = place.at.without(usable);
            for replica in without.indices() {
                let path = place.path(key);
                let mut packs = places.iter().map(|p| chunks.pack(p.pack)).filter(|p| p.published.has(replica));
                match packs.next() {
                    Some(pack) => self.findings.needed(replica, &pack.hash, &path, place.snapshot, || {
                        let story = "it was found damaged, and what lies in it is nowhere else at this store";
                        (pack_name(pack.kind, &pack.hash).to_string(), story.to_owned())
                    }),
                    None => {
                        let what = || "it is in no pack that the log of this store relies on".to_owned();
                        self.findings.affects(replica, &format!("chunk {id}"), what, &path, place.snapshot);
                    }
                }
            }
            if !without.is_empty() {
                self.again(without);
            }
        }
    }

    /// What the snapshot says is not what the format allows: wrong wherever the snapshot is.
    fn broken(&mut self, place: &Place<'_>, key: &[u8], why: String) {
        for replica in place.at.indices() {
            let object = format!("snapshot {}", place.snapshot);
            self.findings.affects(replica, &object, || why.clone(), &place.path(key), place.snapshot);
        }
        self.again(place.at);
    }

    /// A node that no replica gives. Where its pack is known to be bad that is told already; else it is told here.
    fn unreadable(&mut self, id: &ChunkId, why: String, place: &Place<'_>, key: &[u8]) {
        let usable = self.index.read().expect("no panic while the index is locked").usable(&[*id])[0];
        for replica in place.at.and(usable).indices() {
            self.findings.affects(replica, &format!("chunk {id}"), || why.clone(), &place.path(key), place.snapshot);
        }
        self.again(place.at);
    }
}

/// The chunk that a piece needs, if any, and how long it is said to be.
fn wanted(piece: &Piece) -> Option<(ChunkId, u64)> {
    Some((piece.chunk_id()?, piece.length))
}
