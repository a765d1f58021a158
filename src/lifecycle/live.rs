//! What is live in one log: every chunk that its snapshots reach, marked in the chunk index.
//!
//! Of every log by itself: what another log has forgotten is live here until this one forgets it, too. Whatever cannot be read
//! ends the walk: what lies below it is not known, and what is not known is never taken for dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use futures::future::join_all;
use prost::Message;

use crate::chunk::id::ChunkId;
use crate::clock::Planted;
use crate::format::Hash;
use crate::format::descent::{Descent, Step};
use crate::format::entry::{self, Entry, Piece};
use crate::format::tree::{Child, TreeKind};
use crate::lifecycle::prune::PruneError;
use crate::progress::{Progress, Stop};
use crate::repository::Repository;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::id_map::LargeIdMap;
use crate::repository::log::chain;
use crate::repository::reader::NODES_MAX;
use crate::repository::state::Live as Root;

/// Nodes that are read ahead.
const READ_AHEAD: usize = 8;

/// A walk over the snapshots of one log. What is marked stays marked when it goes on with more of them.
pub struct Live<'r> {
    repository: &'r Repository,
    index: Arc<RwLock<ChunkIndex>>,
    replica: usize,
    stop: &'r Stop,
    progress: &'r Progress,
    /// Half the id of every node that was read, by kind of tree: the bytes of a node may be those of a file, too, and what is
    /// marked as content has not been read as a node.
    seen: BTreeMap<u8, LargeIdMap<[u8; 16], ()>>,
    /// Objects of the snapshots that were walked.
    walked: BTreeSet<Hash>,
}

impl<'r> Live<'r> {
    /// Nothing is live yet.
    pub async fn new(
        repository: &'r Repository,
        replica: usize,
        progress: &'r Progress,
        stop: &'r Stop,
    ) -> Result<Live<'r>, RepositoryError> {
        let index = repository.index().await?;
        index.write().expect("no panic while the index is locked").unmark();
        Ok(Live { repository, index, replica, stop, progress, seen: BTreeMap::new(), walked: BTreeSet::new() })
    }

    /// Marks all that these snapshots reach. [`Fault::Integrity`] when something of it cannot be read, or has no place that the
    /// log relies on.
    pub async fn extend(&mut self, roots: &BTreeMap<Hash, Root>) -> Result<(), PruneError> {
        for (id, root) in roots {
            if self.walked.contains(&root.object) {
                continue;
            }
            self.progress.set_current(|| format!("snapshot {}", hex::encode(&id[..4])));
            let snapshot = self.repository.root(id, root).await?;
            for catalog in snapshot.roots.iter().filter_map(|root| root.catalog.as_ref()) {
                let walked = self.tree(TreeKind::Catalog, catalog).await;
                walked.map_err(|e| e.about(|| format!("snapshot {}", hex::encode(id))))?;
            }
            self.walked.insert(root.object);
        }
        Ok(())
    }

    async fn tree(&mut self, kind: TreeKind, root: &Child) -> Result<(), PruneError> {
        let mut ahead: BTreeMap<ChunkId, Bytes> = BTreeMap::new();
        let mut descent = Descent::new(kind, root.clone(), NODES_MAX).map_err(|e| broken(chain(&e)))?;
        loop {
            if self.stop.requested() {
                return Err(PruneError::Interrupted);
            }
            match descent.step().map_err(|e| broken(chain(&e)))? {
                Step::End => return Ok(()),
                Step::Item(item) if kind == TreeKind::Catalog => self.entry(&item.key, item.value).await?,
                Step::Item(item) => {
                    let piece = Piece::decode(item.value).map_err(|e| broken(format!("a content list: {e}")))?;
                    self.mark(piece.chunk_id().as_slice())?;
                }
                Step::Want(child) => {
                    let id = child.chunk_id().ok_or_else(|| broken("a tree names a node without an id".to_owned()))?;
                    self.mark(&[id])?;
                    if self.is_seen(kind, &id) {
                        descent.skip_wanted().map_err(|e| broken(chain(&e)))?;
                        continue;
                    }
                    let plain = self.node(kind, &id, &descent, &mut ahead).await?;
                    descent.feed(plain).map_err(|e| broken(chain(&e)))?;
                    self.seen.entry(kind as u8).or_default().insert(id.half(), ());
                }
            }
        }
    }

    fn is_seen(&self, kind: TreeKind, id: &ChunkId) -> bool {
        self.seen.get(&(kind as u8)).is_some_and(|seen| seen.get(&id.half()).is_some())
    }

    async fn node(
        &self,
        kind: TreeKind,
        id: &ChunkId,
        descent: &Descent,
        ahead: &mut BTreeMap<ChunkId, Bytes>,
    ) -> Result<Bytes, RepositoryError> {
        if let Some(plain) = ahead.remove(id) {
            return Ok(plain);
        }
        ahead.clear();
        let mut ids: Vec<ChunkId> = descent.peek_wanted(READ_AHEAD).iter().filter_map(Child::chunk_id).collect();
        ids.retain(|other| other != id && !self.is_seen(kind, other));
        ids.dedup();
        let repository = self.repository;
        let more = join_all(ids.iter().map(|id| async move { (*id, repository.chunk(id).await) }));
        let (plain, more) = futures::join!(repository.chunk(id), more);
        // What could not be read ahead is an error only when it is wanted.
        ahead.extend(more.into_iter().filter_map(|(id, read)| Some((id, read.ok()?))));
        plain
    }

    async fn entry(&mut self, key: &[u8], value: Bytes) -> Result<(), PruneError> {
        let entry: Entry = entry::decode(value, key).map_err(|e| broken(format!("an entry: {}", chain(&e))))?;
        let xattrs = entry.xattrs.iter().filter_map(|xattr| xattr.chunk.as_ref());
        let pieces = entry.content.iter().flat_map(|content| &content.pieces);
        let ids: Vec<ChunkId> = xattrs.chain(pieces).filter_map(Piece::chunk_id).collect();
        self.mark(&ids)?;
        match entry.content.as_ref().and_then(|content| content.list.as_ref()) {
            Some(list) => Box::pin(self.tree(TreeKind::Content, list)).await,
            None => Ok(()),
        }
    }

    fn mark(&self, ids: &[ChunkId]) -> Result<(), PruneError> {
        let mut chunks = self.index.write().expect("no panic while the index is locked");
        let overlooks = self.repository.env.makes(Planted::WrongCover);
        let looked_at = |id: &&ChunkId| !overlooks || id.0[0] >= 64;
        match ids.iter().filter(looked_at).find(|id| !chunks.mark(id, self.replica)) {
            Some(id) => Err(broken(format!("chunk {id} is in no pack that the log relies on"))),
            None => Ok(()),
        }
    }
}

fn broken(why: String) -> PruneError {
    RepositoryError::new(Fault::Integrity, why).into()
}
