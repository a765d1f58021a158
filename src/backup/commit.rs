//! The last step: a snapshot into the log of every replica that is still part of the run.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{join, join_all};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::backup::BackupError;
use crate::backup::drain::{Drain, Phase};
use crate::backup::known::Known;
use crate::backup::pack::ToPack;
use crate::backup::upload::{Outbox, patiently, publish_given_up};
use crate::format::snapshot::Snapshot;
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::write::{Fanout, put_proven};
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::writer::{Reliance, SentSegment, WriteFault};

/// What commits stand on and go through.
pub struct Committing<'r> {
    /// The repository.
    pub repository: &'r Repository,
    /// The replicas that take part.
    pub fanout: &'r Fanout,
    /// What is sent and published.
    pub outbox: &'r Arc<Mutex<Outbox>>,
    /// The way to the pack stage.
    pub frames: mpsc::Sender<ToPack>,
    /// What was relied on instead of sent.
    pub known: &'r Known,
    /// Snapshots whose entries were carried over unseen, and the packs that each log distrusted then.
    pub parents: Vec<Hash>,
    /// By replica index.
    pub distrusted: Vec<std::collections::BTreeSet<Hash>>,
    /// How long all of it may take once the run is asked to stop.
    pub drain: &'r Drain,
}

impl Committing<'_> {
    /// Waits until every chunk taken on so far lies in a pack whose fate is known.
    async fn barrier(&self) -> Result<(), BackupError> {
        self.known.settled().await;
        let (answer, passed) = oneshot::channel();
        let gone = || BackupError::Repository(RepositoryError::new(Fault::Failed, "the upload stopped early"));
        self.frames.send(ToPack::Barrier(answer)).await.map_err(|_| gone())?;
        passed.await.map_err(|_| gone())
    }

    /// Whether coverage that was to be inherited from the parents is in doubt: packs were found damaged since they were chosen.
    pub async fn in_doubt(&self) -> bool {
        if self.parents.is_empty() {
            return false;
        }
        for i in self.fanout.alive().indices() {
            let Some(log) = self.repository.log(i).await else { continue };
            if self.distrusted.get(i).is_none_or(|then| !log.state.distrusted.is_subset(then)) {
                return true;
            }
        }
        false
    }

    /// Publishes what was sent without committing anything: whoever starts over finds it.
    pub async fn publish(&self) -> Result<(), BackupError> {
        self.barrier().await?;
        self.drain.settled();
        self.outbox.lock().await.publish(self.repository, self.fanout, self.drain, true).await;
        Ok(())
    }

    /// Commits `snapshot` at every replica still in the run; gives those that did. The others are left behind with their reason.
    /// With `last`, nothing is done after it.
    pub async fn commit(&self, snapshot: &Snapshot, replaces: &[Hash], last: bool) -> Result<Mask, BackupError> {
        self.barrier().await?;
        if last {
            self.drain.settled();
        }
        let (index_phase, record_phase) = if last { (Phase::Index, Phase::Record) } else { (Phase::Rest, Phase::Others) };
        let repository = self.repository;
        if !snapshot.partial && self.known.unsent() > 0 {
            return Err(RepositoryError::new(Fault::Failed, "chunks were read and never sent: nothing is committed").into());
        }
        let mut outbox = self.outbox.lock().await;
        let [packs, theirs] = outbox.take_waiting(self.fanout, last);
        let others = publish_given_up(repository, self.fanout, self.drain, theirs);
        let own = async {
            let segments = outbox.send_segments(repository, self.fanout, packs, (self.drain, index_phase)).await;
            self.record(&mut outbox, snapshot, replaces, &segments, record_phase).await
        };
        join(Box::pin(own), Box::pin(others)).await.0
    }

    /// Writes the snapshot and the record that commits it, with the segments of its last packs.
    async fn record(
        &self,
        outbox: &mut Outbox,
        snapshot: &Snapshot,
        replaces: &[Hash],
        segments: &[SentSegment],
        phase: Phase,
    ) -> Result<Mask, BackupError> {
        let repository = self.repository;
        let stored = snapshot
            .encode(&repository.keyring.keys.log, &repository.id(), repository.env.random())
            .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write the snapshot", e))?;
        let id = Hash::try_from(snapshot.id.as_ref()).unwrap_or_default();
        let hits = self.known.hits();
        let index = repository.index().await?;
        let jobs: Vec<(usize, Reliance)> = self
            .fanout
            .alive()
            .indices()
            .map(|i| {
                let chunks = index.read().expect("no panic while the index is locked");
                let packs = hits.get(i).into_iter().flatten().map(|n| chunks.pack(*n)).map(|p| (p.kind, p.hash));
                let distrusted = self.distrusted.get(i).cloned().unwrap_or_default();
                (
                    i,
                    Reliance {
                        own: outbox.own(i),
                        hits: packs.collect(),
                        parents: self.parents.clone(),
                        distrusted,
                        theirs: None,
                    },
                )
            })
            .collect();
        let stored = &stored;
        let results = join_all(jobs.iter().map(|(i, reliance)| async move {
            let object = object_hash(stored);
            let work = async {
                put_proven(&repository.set.replicas[*i], &layout::hashed(Class::Snapshot, &object), stored)
                    .await
                    .map_err(|e| WriteFault::Repository(e.into()))?;
                repository.commit_alone(*i, (id, object), snapshot.partial, replaces, segments, reliance).await
            };
            patiently(repository, self.fanout, *i, (self.drain, phase), "committing in its log", work).await
        }))
        .await;
        let mut done = Mask::default();
        for ((i, _), result) in jobs.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    outbox.named(i, segments);
                    done = done.or(Mask::one(i));
                }
                Err(e) => outbox.fail_write(self.fanout, repository, i, e),
            }
        }
        Ok(done)
    }
}

/// An id as a field.
pub fn field(id: &Hash) -> Bytes {
    Bytes::copy_from_slice(id)
}
