//! The stage that publishes: packs whose fate is known at every replica are named in the logs, now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt, join, join_all};
use tokio::sync::{Mutex, mpsc};

use crate::backup::drain::{Drain, Phase};
use crate::backup::known::Known;
use crate::backup::pack::Packed;
use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::format::pack::PackKind;
use crate::replica::Mask;
use crate::replica::patience::{allowance, while_it_may};
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

    /// The packs that wait, taken out: those for the replicas that are still part of the run, and the same for those whose
    /// uploads were given up. What those have waits for the `last` time: until then nothing is held up by them.
    pub fn take_waiting(&mut self, fanout: &Fanout, last: bool) -> [Vec<(PackEntry, Mask)>; 2] {
        (self.waiting_bytes, self.waiting_chunks) = (0, 0);
        let (alive, given_up) = (fanout.alive(), fanout.given_up());
        let mut own = std::mem::take(&mut self.waiting);
        let theirs = own.iter().map(|(entry, have)| (entry, have.and(given_up))).filter(|(_, have)| !have.is_empty());
        let mut theirs: Vec<_> = theirs.map(|(entry, have)| (entry.clone(), have)).collect();
        own.iter_mut().for_each(|(_, have)| *have = have.and(alive));
        if !last {
            self.waiting = std::mem::take(&mut theirs);
        }
        [own, theirs]
    }

    /// Sends the segments of packs to the replicas that hold them, no longer than to the end of `phase`.
    pub async fn send_segments(
        &mut self,
        repository: &Repository,
        fanout: &Fanout,
        packs: Vec<(PackEntry, Mask)>,
        (drain, phase): (&Drain, Phase),
    ) -> Vec<SentSegment> {
        let (sent, failed) = repository.send_segments_until(packs, Some(&drain.limit(phase))).await;
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

    /// Publishes what waits, in every log that is still part of the run: now and then, or with `last` as the last that is done.
    pub async fn publish(&mut self, repository: &Repository, fanout: &Fanout, drain: &Drain, last: bool) {
        let [packs, theirs] = self.take_waiting(fanout, last);
        let (index, record) = if last { (Phase::Index, Phase::Record) } else { (Phase::Rest, Phase::Others) };
        let others = publish_given_up(repository, fanout, drain, theirs);
        let own = async {
            let segments = self.send_segments(repository, fanout, packs, (drain, index)).await;
            if segments.is_empty() {
                return;
            }
            // A replica whose uploads were given up meanwhile may have taken its segment all the same.
            let (alive, given_up) = (fanout.alive(), fanout.given_up());
            let indices: Vec<usize> = alive.or(given_up).indices().collect();
            let publishing = |i: &usize| {
                let (i, segments) = (*i, &segments);
                let work = async move { repository.publish_alone(i, segments).await };
                let phase = if given_up.has(i) { Phase::Record } else { record };
                patiently(repository, fanout, i, (drain, phase), "publishing in its log", work)
            };
            let published = join_all(indices.iter().map(publishing)).await;
            for (index, result) in indices.into_iter().zip(published) {
                match result {
                    Ok(()) => self.named(index, &segments),
                    Err(_) if given_up.has(index) => {}
                    Err(e) => self.fail_write(fanout, repository, index, e),
                }
            }
        };
        join(Box::pin(own), Box::pin(others)).await;
    }
}

/// Publishes at the replicas whose uploads were given up what of `packs` they proved to hold before: the next run sends none of
/// it again. They are left behind already, so it is no loss to the run where that fails.
pub(super) async fn publish_given_up(repository: &Repository, fanout: &Fanout, drain: &Drain, packs: Vec<(PackEntry, Mask)>) {
    let packs = &packs;
    let publishing = fanout.given_up().indices().map(async |i| {
        let own = packs.iter().filter(|(_, have)| have.has(i)).map(|(entry, _)| (entry.clone(), Mask::one(i))).collect();
        let (segments, _) = repository.send_segments_until(own, Some(&drain.limit(Phase::Index))).await;
        let work = repository.publish_alone(i, &segments);
        let _ = patiently(repository, fanout, i, (drain, Phase::Record), "publishing in its log", work).await;
    });
    join_all(publishing).await;
}

/// Does `work` on a replica's log unless the replica stops answering meanwhile, and no longer than to the end of a phase. Then, unless
/// the run is to stop, it is time for a checkpoint: nothing depends on that.
pub(super) async fn patiently(
    repository: &Repository,
    fanout: &Fanout,
    index: usize,
    (drain, phase): (&Drain, Phase),
    action: &str,
    work: impl Future<Output = Result<(), WriteFault>>,
) -> Result<(), WriteFault> {
    let (patience, limit) = (allowance(repository.set.settings.stall, fanout.largest(index)), drain.limit(phase));
    let (env, replica) = (&repository.env, &repository.set.replicas[index]);
    match while_it_may(env, replica, patience, Some(&limit), action, work).await {
        Ok(done) => done?,
        Err(e) => return Err(WriteFault::Repository(e.into())),
    }
    if !drain.is_asked() {
        let checkpoint = drain.unless_stopped(repository.checkpoint(index));
        let _ = while_it_may(env, replica, patience, None, "writing a checkpoint of its log", checkpoint).await;
    }
    Ok(())
}

/// Collects packs and publishes them when enough bytes or enough time have come together, until the packs end.
pub async fn run(
    repository: &Repository,
    fanout: &Fanout,
    outbox: &Arc<Mutex<Outbox>>,
    every: (u64, Duration),
    drain: &Drain,
    known: &Known,
    mut packed: mpsc::Receiver<Packed>,
) -> Result<(), RepositoryError> {
    let mut last = repository.env.elapsed();
    let half = drain.limit(Phase::Half);
    let mut hurried = std::pin::pin!(half.reached(&repository.env).fuse());
    loop {
        let wait = (last + every.1).saturating_sub(repository.env.elapsed());
        let due = async {
            // A stopped run that takes so long may not come to its last record. Where a publication before held this one up, it is
            // left to that record: begun too late, it would be cut off, and its replicas be left behind for it.
            tokio::select! {
                biased;
                () = &mut hurried => !drain.is_over(Phase::Flight),
                () = repository.env.sleep(wait) => !drain.is_over(Phase::Half),
            }
        };
        let next = tokio::select! {
            biased;
            next = packed.recv() => next,
            wanted = due => {
                if wanted {
                    outbox.lock().await.publish(repository, fanout, drain, false).await;
                    known.forget_published();
                }
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
                let enough = outbox.waiting_bytes >= every.0 || outbox.waiting_chunks >= WAITING_CHUNKS;
                // Nothing is begun that might be cut off: the last record takes it all.
                if enough && !drain.is_over(Phase::Half) {
                    outbox.publish(repository, fanout, drain, false).await;
                    known.forget_published();
                    last = repository.env.elapsed();
                }
            }
        }
        // When uploads were given up, what became of all the others is still wanted.
        if fanout.alive().count() < repository.set.write_quorum() && !drain.is_over(Phase::Flight) {
            return Err(RepositoryError::new(Fault::Failed, "too few replicas are left"));
        }
    }
}
