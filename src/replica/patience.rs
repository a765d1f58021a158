//! Patience with a replica: work on it goes on while it answers, and ends when it has not answered for too long.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use crate::clock::Env;
use crate::progress::Stop;
use crate::replica::Replica;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::retry::SLOWEST;

/// How long a replica that is moving objects of up to `bytes` may finish nothing: a large object on a thin line is not
/// cut off for ever.
pub fn allowance(stall: Duration, bytes: u64) -> Duration {
    stall + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST)
}

/// When waiting ends whatever a replica does: so long after the run was asked to stop.
#[derive(Clone)]
pub struct Limit {
    /// The request.
    pub stop: Stop,
    /// How long after it.
    pub after: Duration,
}

impl Limit {
    /// Waits until it is reached.
    pub async fn reached(&self, env: &Env) {
        self.stop.over(env, self.after).await;
    }

    /// Whether it is.
    pub fn is_reached(&self, env: &Env) -> bool {
        self.stop.age(env).is_some_and(|age| age >= self.after)
    }
}

/// Does `work` on a replica unless the replica finishes no request for `patience`: then what the work came to is not known.
pub async fn while_it_answers<T>(
    env: &Env,
    replica: &Replica,
    patience: Duration,
    action: &str,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    while_it_may(env, replica, patience, None, action, work).await
}

/// The same, and no longer than to `limit`: what is given up then is as much in doubt as what timed out.
pub async fn while_it_may<T>(
    env: &Env,
    replica: &Replica,
    patience: Duration,
    limit: Option<&Limit>,
    action: &str,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    let mut work = pin!(work);
    let mut limited = pin!(async {
        match limit {
            Some(limit) => limit.reached(env).await,
            None => pending().await,
        }
    });
    let began = env.elapsed();
    loop {
        let last = replica.meter.last_finished().max(began);
        let left = (last + patience).saturating_sub(env.elapsed());
        if left.is_zero() {
            let why = format!("no request finished for {} s: what came of it is not known", patience.as_secs());
            return Err(StoreError::new(StoreErrorKind::TimedOut, &replica.name, action).because(why));
        }
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = &mut limited => {
                let after = limit.map_or(0, |limit| limit.after.as_secs());
                let why = format!("given up {after} s after the run was asked to stop: what came of it is not known");
                return Err(StoreError::new(StoreErrorKind::TimedOut, &replica.name, action).because(why));
            }
            () = env.sleep(left) => {}
        }
    }
}
