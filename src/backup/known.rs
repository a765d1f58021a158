//! Which chunks need not be sent: what every participating replica can rely on, and what this run sends already.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::Notify;

use crate::chunk::id::ChunkId;
use crate::replica::Mask;
use crate::replica::write::Fanout;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::id_map::LargeIdMap;

/// The answers to "must this chunk be sent, and where to", shared by all jobs of a run.
pub struct Known {
    index: Arc<RwLock<ChunkIndex>>,
    state: Mutex<State>,
    fanout: Arc<Fanout>,
    sent: Notify,
}

#[derive(Default)]
struct State {
    /// Chunks this run has taken on, and the replicas they go to.
    claims: LargeIdMap<ChunkId, Mask>,
    /// Those of them that are not in a pack yet. Nothing may be committed that may name one of these.
    unsent: BTreeSet<ChunkId>,
    /// Numbers of the packs that this run relies on instead of sending, per replica index.
    hits: Vec<BTreeSet<u32>>,
}

impl Known {
    /// Over the index as it stands, for the replicas that take part in `fanout`.
    pub fn new(index: Arc<RwLock<ChunkIndex>>, fanout: Arc<Fanout>) -> Known {
        Known { index, state: Mutex::default(), fanout, sent: Notify::new() }
    }

    /// For each chunk the replicas that it has to be sent to; empty: none. What is returned is taken on: the caller must
    /// send it, and nobody else will be told to.
    pub fn claim(&self, ids: &[ChunkId]) -> Vec<Mask> {
        let alive = self.fanout.alive();
        let index = self.index.read().expect("no panic while the index is locked");
        let mut state = self.state.lock().expect("no panic while claims are locked");
        let usable = index.usable(ids);
        ids.iter()
            .zip(usable)
            .map(|(id, usable)| {
                let claimed = state.claims.get(id).copied().unwrap_or_default();
                let lacking = alive.without(usable).without(claimed);
                if !lacking.is_empty() {
                    state.claims.insert(*id, claimed.or(lacking));
                    state.unsent.insert(*id);
                }
                rely(&mut state, &index, id, alive.and(usable).without(claimed));
                lacking
            })
            .collect()
    }

    /// Whether every chunk can be relied on at every participating replica (or is being sent there); if so, the run relies on it.
    pub fn covered(&self, ids: &[ChunkId]) -> bool {
        let alive = self.fanout.alive();
        let index = self.index.read().expect("no panic while the index is locked");
        let mut state = self.state.lock().expect("no panic while claims are locked");
        let usable = index.usable(ids);
        let missing = |(id, usable): (&ChunkId, &Mask)| {
            let claimed = state.claims.get(id).copied().unwrap_or_default();
            !alive.without(*usable).without(claimed).is_empty()
        };
        if ids.iter().zip(&usable).any(missing) {
            return false;
        }
        for (id, usable) in ids.iter().zip(usable) {
            let claimed = state.claims.get(id).copied().unwrap_or_default();
            rely(&mut state, &index, id, alive.and(usable).without(claimed));
        }
        true
    }

    /// Says that chunks which were taken on lie in a pack now.
    pub fn sent(&self, chunks: &[(ChunkId, u32)]) {
        let mut state = self.state.lock().expect("no panic while claims are locked");
        for (id, _) in chunks {
            state.unsent.remove(id);
        }
        drop(state);
        self.sent.notify_waiters();
    }

    /// Waits until everything that was taken on before this call lies in a pack: an entry that is finished may rely on a
    /// chunk that a later, unfinished one took on.
    pub async fn settled(&self) {
        let mut open = self.state.lock().expect("no panic while claims are locked").unsent.clone();
        loop {
            let mut changed = std::pin::pin!(self.sent.notified());
            changed.as_mut().enable();
            {
                let state = self.state.lock().expect("no panic while claims are locked");
                open.retain(|id| state.unsent.contains(id));
            }
            if open.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Forgets what was taken on and is published by now: the index knows it wherever it was sent to.
    pub fn forget_published(&self) {
        let alive = self.fanout.alive();
        let index = self.index.read().expect("no panic while the index is locked");
        let mut state = self.state.lock().expect("no panic while claims are locked");
        state.claims.retain(|id, mask| {
            let usable = index.usable(std::slice::from_ref(id)).pop().unwrap_or_default();
            !mask.and(alive).without(usable).is_empty()
        });
    }

    /// How many chunks were taken on and never sent: nothing may be committed while there are any.
    pub fn unsent(&self) -> usize {
        self.state.lock().expect("no panic while claims are locked").unsent.len()
    }

    /// The packs that this run relies on at each replica, by replica index.
    pub fn hits(&self) -> Vec<BTreeSet<u32>> {
        self.state.lock().expect("no panic while claims are locked").hits.clone()
    }
}

/// Notes one covering pack per replica: at commit each of them must still be uncondemned and trusted there.
fn rely(state: &mut State, index: &ChunkIndex, id: &ChunkId, at: Mask) {
    for replica in at.indices() {
        if state.hits.len() <= replica {
            state.hits.resize(replica + 1, BTreeSet::new());
        }
        let hits = &mut state.hits[replica];
        let mut packs = index.covering(id, replica).peekable();
        let first = packs.peek().copied();
        if !packs.any(|pack| hits.contains(&pack))
            && let Some(pack) = first
        {
            hits.insert(pack);
        }
    }
}
