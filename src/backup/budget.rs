//! Bytes in flight: admitted at read, released when the last replica is done with them or left behind.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per permit.
const UNIT: u64 = 1024;

/// The byte budget of one run.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    units: u32,
}

/// Bytes that were admitted; released when dropped.
pub struct Admitted(Option<OwnedSemaphorePermit>);

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Budget {
        let units = units(bytes).min(Semaphore::MAX_PERMITS as u32);
        Budget { permits: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// The bytes that are admitted of `memory`: an eighth is left for the holes that the heap keeps between buffers of many
    /// lengths.
    pub fn of(memory: u64) -> u64 {
        memory - memory / 8
    }

    /// Waits until `bytes` fit, first come first served. More than the whole budget is admitted as the whole budget.
    pub async fn admit(&self, bytes: u64) -> Admitted {
        let wanted = units(bytes).min(self.units);
        Admitted(Some(self.permits.clone().acquire_many_owned(wanted).await.expect("the budget is never closed")))
    }
}

impl Budget {
    /// Bytes that nothing holds now.
    pub fn free(&self) -> u64 {
        self.permits.available_permits() as u64 * UNIT
    }
}

impl Admitted {
    /// Nothing.
    pub fn none() -> Admitted {
        Admitted(None)
    }

    /// How many bytes are admitted.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() as u64 * UNIT)
    }

    /// Keeps `bytes` (rounded up) and releases the rest: sealing made them fewer.
    pub fn shrink(&mut self, bytes: u64) {
        if let Some(permit) = &mut self.0 {
            let spare = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(spare));
        }
    }

    /// Takes `bytes` (rounded up, as far as they are there) out into an admission of their own.
    pub fn split(&mut self, bytes: u64) -> Admitted {
        match &mut self.0 {
            Some(permit) => {
                let count = permit.num_permits().min(units(bytes) as usize);
                Admitted(permit.split(count))
            }
            None => Admitted(None),
        }
    }

    /// Joins two admissions of the same budget.
    pub fn merge(&mut self, other: Admitted) {
        match (&mut self.0, other.0) {
            (Some(permit), Some(other)) => permit.merge(other),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[tokio::test]
    async fn what_is_shrunk_or_dropped_comes_back() {
        let budget = Budget::new(10 << 10);
        let mut first = budget.admit(8 << 10).await;
        first.shrink(1);
        assert_eq!(budget.permits.available_permits(), 9);
        let part = first.split(1 << 10);
        drop(first);
        assert_eq!(budget.permits.available_permits(), 9, "the part still holds the last unit");
        drop(part);
        assert_eq!(budget.permits.available_permits(), 10);
        assert_eq!(budget.admit(u64::MAX).await.0.as_ref().map(|p| p.num_permits()), Some(10));
    }
}
