//! Rows for the index on their way into new segments of one replica's log.

use std::collections::BTreeSet;

use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::format::pack::PackKind;
use crate::format::record::ObjectClass;
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::writer::{SentSegment, WriteFault};

/// How often rows that lost their cover are looked at again.
const LOOKS: usize = 4;

/// Rows of packs that lie at one replica, published there a batch at a time.
pub struct Rows<'r> {
    repository: &'r Repository,
    index: usize,
    /// Chunks in one publication.
    most: usize,
    waiting: Vec<PackEntry>,
    chunks: usize,
    /// Segments published so far.
    pub segments: Vec<Hash>,
    /// Packs published so far.
    pub packs: BTreeSet<(PackKind, Hash)>,
}

impl<'r> Rows<'r> {
    /// None yet, for the log of replica `index`; published after at most about `most` chunks.
    pub fn new(repository: &'r Repository, index: usize, most: usize) -> Rows<'r> {
        let (waiting, segments, packs) = (Vec::new(), Vec::new(), BTreeSet::new());
        Rows { repository, index, most, waiting, chunks: 0, segments, packs }
    }

    /// Takes a pack that lies at the replica.
    pub async fn add(&mut self, entry: PackEntry) -> Result<(), RepositoryError> {
        self.chunks += entry.frames.iter().map(|frame| frame.lengths.len()).sum::<usize>();
        self.waiting.push(entry);
        if self.chunks >= self.most { self.publish().await } else { Ok(()) }
    }

    /// Publishes what waits. Packs that were condemned or distrusted meanwhile are left out.
    pub async fn publish(&mut self) -> Result<(), RepositoryError> {
        let mut rows = std::mem::take(&mut self.waiting);
        self.chunks = 0;
        for _ in 0..LOOKS {
            if let Some(log) = self.repository.log(self.index).await {
                let state = &log.state;
                let void =
                    |hash: &Hash, kind| state.is_condemned(ObjectClass::from(kind), hash) || state.distrusted.contains(hash);
                rows.retain(|row| row.name().is_ok_and(|hash| !void(&hash, row.kind())));
            }
            if rows.is_empty() {
                return Ok(());
            }
            let one = Mask::one(self.index);
            let (sent, failed) = self.repository.send_segments(rows.iter().map(|row| (row.clone(), one)).collect()).await;
            if let Some((_, e)) = failed.into_iter().next() {
                return Err(e);
            }
            match self.repository.publish(self.index, &sent).await {
                Ok(()) => {
                    self.published(&sent).await;
                    return Ok(());
                }
                Err(WriteFault::LostCover(_)) => {}
                Err(WriteFault::Repository(e)) => return Err(e),
            }
        }
        let name = &self.repository.set.replicas[self.index].name;
        let message = format!("store {name}: what was to be published kept being condemned: run the command again");
        Err(RepositoryError::new(Fault::Contention, message))
    }

    async fn published(&mut self, sent: &[SentSegment]) {
        self.segments.extend(sent.iter().map(|segment| segment.hash));
        let packs: Vec<(PackKind, Hash)> = sent.iter().flat_map(|segment| segment.packs.iter().copied()).collect();
        if let Ok(index) = self.repository.index().await {
            let mut chunks = index.write().expect("no panic while the index is locked");
            // What a lost segment alone had named was not to be relied on; the log itself never said so.
            packs.iter().for_each(|(_, pack)| chunks.distrust(self.index, pack, false));
        }
        self.packs.extend(packs);
    }
}
