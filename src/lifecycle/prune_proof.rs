//! The proof of a plan: every live chunk once more, each looked up by itself. Shares no code with the walk and the planner.
//!
//! A chunk that some undamaged pack holds must be in one that stays. A chunk that lies in damaged packs alone must lose none of
//! them. Everything else refutes the plan, and nothing is condemned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use futures::future::join_all;
use prost::Message;

use crate::chunk::id::ChunkId;
use crate::clock::Planted;
use crate::format::Hash;
use crate::format::entry::{self, Piece};
use crate::format::tree::{Child, Node, TreeKind};
use crate::lifecycle::prune::PruneError;
use crate::progress::Stop;
use crate::repository::Repository;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::log::chain;
use crate::repository::state::Live;

/// Nodes that are read at once.
const AT_ONCE: usize = 8;

/// Why a plan must not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuted {
    /// The chunk that would be lost.
    pub chunk: ChunkId,
    /// The snapshot that needs it.
    pub snapshot: Hash,
    /// How it stands with it.
    pub why: &'static str,
}

/// A proof under way at one replica: more snapshots can be added, and packs be taken off the list, without beginning anew.
pub struct Proof<'r> {
    repository: &'r Repository,
    index: Arc<RwLock<ChunkIndex>>,
    replica: usize,
    stop: &'r Stop,
    /// Numbers of the packs that are to be condemned.
    going: BTreeSet<u32>,
    /// Nodes below which everything was looked up, by kind of tree.
    done: BTreeSet<(u8, ChunkId)>,
    /// Objects of the snapshots that are proven.
    proven: BTreeSet<Hash>,
    /// Chunks looked up.
    pub looked_up: u64,
}

impl<'r> Proof<'r> {
    /// Nothing is proven yet of condemning these packs.
    pub async fn new(
        repository: &'r Repository,
        replica: usize,
        going: BTreeSet<u32>,
        stop: &'r Stop,
    ) -> Result<Proof<'r>, RepositoryError> {
        let index = repository.index().await?;
        let (done, proven) = (BTreeSet::new(), BTreeSet::new());
        Ok(Proof { repository, index, replica, stop, going, done, proven, looked_up: 0 })
    }

    /// Takes packs off the list: what was proven stays so.
    pub fn spare(&mut self, packs: &BTreeSet<u32>) {
        self.going.retain(|pack| !packs.contains(pack));
    }

    /// The packs on the list.
    pub fn going(&self) -> &BTreeSet<u32> {
        &self.going
    }

    /// Looks up every chunk of the snapshots that are not proven yet; the chunk that would be lost, if there is one.
    pub async fn extend(&mut self, roots: &BTreeMap<Hash, Live>) -> Result<Result<(), Refuted>, PruneError> {
        for (id, live) in roots {
            if self.proven.contains(&live.object) {
                continue;
            }
            let snapshot = self.repository.root(id, live).await?;
            let trees = snapshot.roots.iter().filter_map(|root| root.catalog.as_ref()?.chunk_id());
            let mut open: Vec<(TreeKind, ChunkId)> = trees.map(|id| (TreeKind::Catalog, id)).collect();
            while !open.is_empty() {
                if self.stop.requested() {
                    return Err(PruneError::Interrupted);
                }
                if let Err((chunk, why)) = self.nodes(&mut open).await? {
                    return Ok(Err(Refuted { chunk, snapshot: *id, why }));
                }
            }
            self.proven.insert(live.object);
        }
        Ok(Ok(()))
    }

    /// Reads some of the open nodes, and looks up all that they name; nodes below them are open then.
    async fn nodes(&mut self, open: &mut Vec<(TreeKind, ChunkId)>) -> Result<Result<(), (ChunkId, &'static str)>, PruneError> {
        let mut batch = Vec::new();
        while batch.len() < AT_ONCE
            && let Some((kind, id)) = open.pop()
        {
            if let Err(why) = self.has_place(&id) {
                return Ok(Err((id, why)));
            }
            if self.done.insert((kind as u8, id)) {
                batch.push((kind, id));
            }
        }
        let repository = self.repository;
        let reads = join_all(batch.iter().map(|(_, id)| repository.chunk(id))).await;
        for ((kind, id), plain) in batch.into_iter().zip(reads) {
            let broken = |why: String| RepositoryError::new(Fault::Integrity, format!("node {id}: {why}"));
            let node = Node::decode(plain?, kind, None).map_err(|e| broken(chain(&e)))?;
            for item in node.items {
                let mut chunks: Vec<ChunkId> = Vec::new();
                if node.level > 0 {
                    let child = Child::decode_value(item.value, kind).map_err(|e| broken(chain(&e)))?;
                    open.extend(child.chunk_id().map(|child| (kind, child)));
                } else if kind == TreeKind::Content {
                    chunks.extend(Piece::decode(item.value).map_err(|e| broken(e.to_string()))?.chunk_id());
                } else {
                    let entry = entry::decode(item.value, &item.key).map_err(|e| broken(chain(&e)))?;
                    for xattr in &entry.xattrs {
                        chunks.extend(xattr.chunk.as_ref().and_then(Piece::chunk_id));
                    }
                    if let Some(content) = &entry.content {
                        chunks.extend(content.pieces.iter().filter_map(Piece::chunk_id));
                        let list = content.list.as_ref().and_then(Child::chunk_id);
                        open.extend(list.map(|list| (TreeKind::Content, list)));
                    }
                }
                for chunk in chunks {
                    if let Err(why) = self.has_place(&chunk) {
                        return Ok(Err((chunk, why)));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    fn has_place(&mut self, id: &ChunkId) -> Result<(), &'static str> {
        self.looked_up += 1;
        if self.repository.env.makes(Planted::WrongCover) {
            return Ok(());
        }
        let chunks = self.index.read().expect("no panic while the index is locked");
        let mut trusted = chunks.covering(id, self.replica).peekable();
        if trusted.peek().is_some() {
            return match trusted.any(|pack| !self.going.contains(&pack)) {
                true => Ok(()),
                false => Err("every undamaged pack that holds it is to be condemned"),
            };
        }
        let mut rest = chunks.holding(id, self.replica).peekable();
        if rest.peek().is_none() {
            return Err("no pack that the log relies on holds it");
        }
        match rest.any(|pack| self.going.contains(&pack)) {
            true => Err("it lies in damaged packs alone, and one of them is to be condemned"),
            false => Ok(()),
        }
    }
}
