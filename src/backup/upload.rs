//! The stage that publishes: packs whose fate is known at every replica are named in the logs, now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Mutex, mpsc};

use crate::backup::known::Known;
use crate::backup::pack::Packed;
use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::format::pack::PackKind;
use crate::replica::Mask;
use crate::replica::patience::{allowance, while_it_answers};
use crate::replica::write::Fanout;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::writer::{SentSegment, WriteFault};
use crate::store::error::{StoreError, StoreErrorKind};

/// Published at the latest when so many chunks wait for it: their records are held until then, outside of the budget.
const WAITING_CHUNKS: usize = 100_000;

/// What was sent and is not published yet, and what was published by this run.
#[derive(Default)]
pub struct Outbox {
    waiting: Vec<(PackEntry, Mask)>,
    waiting_bytes: u64,
    waiting_chunks: usize,
    /// Packs of this run in each log, by replica index.
    own: Vec<BTreeSet<(PackKind, Hash)>>,
    /// Replicas at which something the run stands on is gone, and what.
    pub lost: Vec<(usize, String)>,
    faults: Vec<(usize, Fault)>,
}

impl Outbox {
    /// The packs of this run in the log of one replica.
    pub fn own(&self, index: usize) -> Vec<(PackKind, Hash)> {
        self.own.get(index).into_iter().flatten().copied().collect()
    }

    /// The class of the failure that took a replica out, when it came from here.
    pub fn fault(&self, index: usize) -> Option<Fault> {
        self.faults.iter().find(|(i, _)| *i == index).map(|(_, f)| *f)
    }

    /// Sends the segments of all waiting packs.
    pub async fn take_segments(&mut self, repository: &Repository, fanout: &Fanout) -> Vec<SentSegment> {
        let alive = fanout.alive();
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|(e, m)| (e, m.and(alive))).collect();
        (self.waiting_bytes, self.waiting_chunks) = (0, 0);
        let (sent, failed) = repository.send_segments(waiting).await;
        for (index, e) in failed {
            self.fail(fanout, repository, index, e);
        }
        sent
    }

    /// Notes that a log names these segments.
    pub fn named(&mut self, index: usize, segments: &[SentSegment]) {
        if self.own.len() <= index {
            self.own.resize(index + 1, BTreeSet::new());
        }
        let packs = segments.iter().filter(|s| s.at.has(index)).flat_map(|s| s.packs.iter().copied());
        self.own[index].extend(packs);
    }

    /// Takes a replica out of the run.
    pub fn fail(&mut self, fanout: &Fanout, repository: &Repository, index: usize, e: RepositoryError) {
        self.faults.push((index, e.fault));
        let store = &repository.set.replicas[index].name;
        fanout.leave_behind(index, StoreError::new(StoreErrorKind::Other, store, "writing its log").because(e));
    }

    /// The same for either kind of failure.
    pub fn fail_write(&mut self, fanout: &Fanout, repository: &Repository, index: usize, e: WriteFault) {
        match e {
            WriteFault::Repository(e) => self.fail(fanout, repository, index, e),
            WriteFault::LostCover(why) => {
                self.lost.push((index, why.clone()));
                self.fail(fanout, repository, index, RepositoryError::new(Fault::Failed, why));
            }
        }
    }

    /// Publishes what waits, in every log that is still part of the run.
    pub async fn publish(&mut self, repository: &Repository, fanout: &Fanout) {
        let segments = self.take_segments(repository, fanout).await;
        if segments.is_empty() {
            return;
        }
        let indices: Vec<usize> = fanout.alive().indices().collect();
        let publishing = |i: &usize| {
            let (i, segments) = (*i, &segments);
            let work = async move { repository.publish(i, segments).await };
            patiently(repository, fanout, i, "publishing in its log", work)
        };
        let published = join_all(indices.iter().map(publishing)).await;
        for (index, result) in indices.into_iter().zip(published) {
            match result {
                Ok(()) => self.named(index, &segments),
                Err(e) => self.fail_write(fanout, repository, index, e),
            }
        }
    }
}

/// Does `work` on a replica's log unless the replica stops answering meanwhile.
pub(super) async fn patiently(
    repository: &Repository,
    fanout: &Fanout,
    index: usize,
    action: &str,
    work: impl Future<Output = Result<(), WriteFault>>,
) -> Result<(), WriteFault> {
    let patience = allowance(repository.set.settings.stall, fanout.largest(index));
    match while_it_answers(&repository.env, &repository.set.replicas[index], patience, action, work).await {
        Ok(done) => done,
        Err(e) => Err(WriteFault::Repository(e.into())),
    }
}

/// Collects packs and publishes them when enough bytes or enough time have come together, until the packs end.
pub async fn run(
    repository: &Repository,
    fanout: &Fanout,
    outbox: &Arc<Mutex<Outbox>>,
    every: (u64, Duration),
    known: &Known,
    mut packed: mpsc::Receiver<Packed>,
) -> Result<(), RepositoryError> {
    let mut last = repository.env.elapsed();
    loop {
        let wait = (last + every.1).saturating_sub(repository.env.elapsed());
        let next = tokio::select! {
            biased;
            next = packed.recv() => next,
            () = repository.env.sleep(wait) => {
                outbox.lock().await.publish(repository, fanout).await;
                known.forget_published();
                last = repository.env.elapsed();
                continue;
            }
        };
        match next {
            None => return Ok(()),
            Some(Packed::Barrier(answer)) => {
                // Whoever asked is gone when the run was given up.
                let _ = answer.send(());
            }
            Some(Packed::Done(entry, have)) => {
                let mut outbox = outbox.lock().await;
                outbox.waiting_bytes += entry.size;
                outbox.waiting_chunks += entry.frames.iter().map(|frame| frame.lengths.len()).sum::<usize>();
                outbox.waiting.push((entry, have));
                if outbox.waiting_bytes >= every.0 || outbox.waiting_chunks >= WAITING_CHUNKS {
                    outbox.publish(repository, fanout).await;
                    known.forget_published();
                    last = repository.env.elapsed();
                }
            }
        }
        if fanout.alive().count() < repository.set.write_quorum() {
            return Err(RepositoryError::new(Fault::Failed, "too few replicas are left"));
        }
    }
}
