//! How a run that was asked to stop ends in time, whatever its stores and its source do.
//!
//! What is in flight has `patience`. Then uploads that are still on their way are given up, what was not read by then is not waited
//! for, and the snapshot of what came before is committed wherever everything it needs is known to lie: within seconds, which
//! are drawn below. What is given up is in doubt, as after a timeout: nothing relies on it.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{Either, select};

use crate::backup::BackupError;
use crate::clock::Env;
use crate::progress::Stop;
use crate::replica::patience::Limit;
use crate::replica::write::Fanout;

/// How long what is in flight has unless set: with [`Phase::End`] it leaves room in the 30 seconds that schedulers give.
pub const PATIENCE: Duration = Duration::from_secs(18);

/// The ends of what follows, each after the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Of waiting for the last record before what arrived is published by itself.
    Half,
    /// Of uploads, and of the source.
    Flight,
    /// Of the uploads that had been held up by others until then, and of index segments for a record on the way.
    Rest,
    /// Of that record, which may have been held up by the segments of other replicas.
    Others,
    /// Of index segments for the last record.
    Index,
    /// Of the last record.
    Record,
    /// Of everything.
    End,
}

impl Phase {
    /// How long after the request, with this patience.
    fn after(self, patience: Duration) -> Duration {
        let later = |milliseconds| patience.saturating_add(Duration::from_millis(milliseconds));
        match self {
            Phase::Half => patience / 2,
            Phase::Flight => patience,
            Phase::Rest => later(2000),
            Phase::Others => later(3000),
            Phase::Index => later(4500),
            Phase::Record => later(6000),
            Phase::End => later(7000),
        }
    }
}

/// The way a run ends when it is asked to stop.
#[derive(Clone)]
pub struct Drain {
    env: Env,
    stop: Stop,
    patience: Duration,
    settled: Arc<AtomicBool>,
}

impl Drain {
    /// For a run that `stop` stops.
    pub fn new(env: &Env, stop: &Stop, patience: Duration) -> Drain {
        Drain { env: env.clone(), stop: stop.clone(), patience, settled: Arc::default() }
    }

    /// The same for another pass of the run.
    pub fn anew(&self) -> Drain {
        Drain { settled: Arc::default(), ..self.clone() }
    }

    /// When `phase` is over.
    pub fn limit(&self, phase: Phase) -> Limit {
        Limit { stop: self.stop.clone(), after: phase.after(self.patience) }
    }

    /// Whether the run was asked to stop.
    pub fn is_asked(&self) -> bool {
        self.stop.requested()
    }

    /// Waits until the run was asked to stop, and `after` is over since.
    pub async fn asked(&self, after: Duration) {
        self.stop.over(&self.env, after).await;
    }

    /// Whether `phase` is over.
    pub fn is_over(&self, phase: Phase) -> bool {
        self.limit(phase).is_reached(&self.env)
    }

    /// What `work` comes to, if it does before `phase` is over. Work that is ready wins.
    pub async fn within<T>(&self, phase: Phase, work: impl Future<Output = T>) -> Option<T> {
        let limit = self.limit(phase);
        match select(std::pin::pin!(work), std::pin::pin!(limit.reached(&self.env))).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(((), _)) => None,
        }
    }

    /// What `work` comes to, if it does before the run is asked to stop: for work that may be dropped at any point.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.unless_requested(work).await
    }

    /// Says that all that the last record stands on has arrived: uploads that are still on their way are no concern of it.
    pub fn settled(&self) {
        self.settled.store(true, Ordering::SeqCst);
    }

    /// Gives up uploads when their time is over. Never ends by itself.
    async fn hurry(&self, fanout: &Fanout) {
        for phase in [Phase::Flight, Phase::Rest] {
            let limit = self.limit(phase);
            limit.reached(&self.env).await;
            if !self.settled.load(Ordering::SeqCst) {
                fanout.give_up(limit.after);
            }
        }
        pending().await
    }

    /// Does `work` while `stages` carry what it gives to the stores, and sees that all end in time. Where the work was broken off,
    /// it waited for what it stands on itself: what the stages still carry then is of no use to it.
    pub async fn run<T>(
        &self,
        fanout: &Fanout,
        work: impl Future<Output = Result<T, BackupError>>,
        stages: impl Future<Output = Result<(), BackupError>>,
        broken_off: impl Fn(&T) -> bool,
    ) -> Result<T, BackupError> {
        let both = async {
            let (work, stages) = (std::pin::pin!(work), std::pin::pin!(stages));
            match select(work, stages).await {
                Either::Left((Ok(done), _)) if broken_off(&done) => Ok(done),
                Either::Left((Ok(done), stages)) => stages.await.map(|()| done),
                Either::Left((Err(e), _)) | Either::Right((Err(e), _)) => Err(e),
                Either::Right((Ok(()), work)) => work.await,
            }
        };
        match select(std::pin::pin!(both), std::pin::pin!(self.hurry(fanout))).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => Err(BackupError::Interrupted),
        }
    }
}
