//! The blocks that large files are read into: one for each file that is read at once, made once and used again.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backup::budget::{Admitted, Budget};
use crate::backup::pack::Filling;
use crate::backup::{BackupError, BackupSettings};
use crate::seal::Roomy;

/// Room beside the largest chunk, in bytes: what one read brings at least.
const ROOM: usize = 2 << 20;

/// All blocks of a run. Each is part of the budget from when it is first used to the end of the run.
pub struct Blocks {
    length: usize,
    count: usize,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Block>>,
}

struct Block {
    bytes: Vec<u8>,
    _admitted: Admitted,
}

/// A block in use; it comes back when dropped.
pub struct Lent {
    block: Option<Block>,
    blocks: Arc<Blocks>,
    _place: OwnedSemaphorePermit,
}

impl Blocks {
    /// Blocks for at most `readers` files, in which a chunk of `max` bytes finds room; a quarter of `budget` bytes, and at
    /// least one.
    pub fn new(readers: usize, max: usize, budget: u64) -> Arc<Blocks> {
        let length = max + max.min(ROOM);
        let fit = usize::try_from(budget / 4 / length as u64).unwrap_or(usize::MAX);
        let count = readers.min(fit).max(1);
        Arc::new(Blocks { length, count, places: Arc::new(Semaphore::new(count)), idle: Mutex::default() })
    }

    /// How many there can be.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What all of them take, in bytes.
    pub fn memory(&self) -> u64 {
        (self.count * self.length) as u64
    }

    /// Waits for a block. Its bytes are those of whoever had it before.
    pub async fn take(self: &Arc<Blocks>, budget: &Budget) -> Lent {
        let place = self.places.clone().acquire_owned().await.expect("the places are never closed");
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let block = match idle {
            Some(block) => block,
            None => {
                let admitted = budget.admit(self.length as u64).await;
                Block { bytes: vec![0; self.length], _admitted: admitted }
            }
        };
        Lent { block: Some(block), blocks: self.clone(), _place: place }
    }
}

impl Lent {
    /// The whole block.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.block.as_mut().map_or(&mut [], |block| &mut block.bytes)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.blocks.idle.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        }
    }
}

/// How packs and blocks share the memory. What they hold while they wait must leave room for one more chunk, or a run
/// would wait for itself.
pub fn fitting(settings: &BackupSettings, chunk: u32) -> Result<(Filling, Arc<Blocks>), BackupError> {
    let memory = Budget::of(settings.memory);
    let filling = Filling::new(settings.data_pack, settings.meta_pack, memory);
    let blocks = Blocks::new(settings.read_concurrency.max(1), chunk as usize, memory);
    let frame = Roomy::size(chunk as usize) as u64 + (64 << 10);
    let least = blocks.memory() + filling.memory(frame) + frame.max(2 << 20);
    if memory < least {
        let (memory, chunk) = (settings.memory >> 20, chunk.div_ceil(1 << 20));
        return Err(BackupError::Settings(format!(
            "memory of {memory} MiB is too little for chunks of up to {chunk} MiB, as this repository has them: set more"
        )));
    }
    Ok((filling, blocks))
}

#[cfg(test)]
mod tests {
    use super::Blocks;
    use crate::backup::budget::Budget;

    #[tokio::test]
    async fn blocks_are_few_charged_and_used_again() {
        let budget = Budget::new(16 << 20);
        let blocks = Blocks::new(9, 1 << 20, 16 << 20);
        assert_eq!((blocks.count(), blocks.memory()), (2, 4 << 20));
        let (mut first, second) = (blocks.take(&budget).await, blocks.take(&budget).await);
        assert!(futures::future::FutureExt::now_or_never(blocks.take(&budget)).is_none(), "there are two");
        first.bytes()[7] = 7;
        drop(first);
        assert_eq!(blocks.take(&budget).await.bytes()[7], 7, "the same block again");
        drop(second);
        assert_eq!(budget.free(), 12 << 20, "idle blocks stay charged");
        assert_eq!(Blocks::new(9, 16 << 20, 1 << 20).count(), 1);
    }
}
