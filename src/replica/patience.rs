//! Patience with a replica: work on it goes on while it answers, and ends when it has not answered for too long.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use crate::clock::Env;
use crate::replica::Replica;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::retry::SLOWEST;

/// How long a replica that is moving objects of up to `bytes` may finish nothing: a large object on a thin line is not
/// cut off for ever.
pub fn allowance(stall: Duration, bytes: u64) -> Duration {
    stall + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST)
}

/// Does `work` on a replica unless the replica finishes no request for `patience`: then what the work came to is not known.
pub async fn while_it_answers<T>(
    env: &Env,
    replica: &Replica,
    patience: Duration,
    action: &str,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    let mut work = pin!(work);
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
            () = env.sleep(left) => {}
        }
    }
}
