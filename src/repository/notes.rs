//! What a verify leaves in a replica's log: packs that are trusted again, and the fact that it happened.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::format::Hash;
use crate::format::record::{Action, Distrust, Note};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::{Met, Repository};

impl Repository {
    /// Records that packs which were distrusted at a replica are whole after all: every byte of them was read and
    /// verified there. Gives how many were lifted; packs that are not distrusted are passed over.
    pub async fn lift_distrust(&self, index: usize, packs: Vec<Hash>) -> Result<usize, RepositoryError> {
        let Some(log) = self.log(index).await else { return Ok(0) };
        let lift: Vec<Bytes> =
            packs.iter().filter(|p| log.state.distrusted.contains(*p)).map(|p| Bytes::copy_from_slice(p)).collect();
        drop(log);
        let count = lift.len();
        if count > 0 {
            self.record(index, Action::Distrust(Distrust { add: Vec::new(), lift })).await?;
        }
        // What was met before the bytes were read is no damage any more.
        let whole: BTreeSet<&Hash> = packs.iter().collect();
        let lifted = |met: &Met| met.replica == index && met.pack.is_some_and(|pack| whole.contains(&pack));
        self.met.lock().expect("no panic while notes are locked").retain(|met| !lifted(met));
        let mut chunks = self.index.write().expect("no panic while the index is locked");
        packs.iter().for_each(|pack| chunks.distrust(index, pack, false));
        Ok(count)
    }

    /// Records a fact of a kind such as [`crate::repository::state::NOTE_VERIFY`] in one replica's log.
    pub async fn note(&self, index: usize, kind: &str, text: String) -> Result<(), RepositoryError> {
        self.record(index, Action::Note(Note { kind: kind.to_owned(), text, list: Bytes::new() })).await
    }

    /// Appends a record that relies on nothing, and that a reader who does not know it may skip.
    async fn record(&self, index: usize, action: Action) -> Result<(), RepositoryError> {
        if let Some((fault, why)) = self.fault(index) {
            return Err(RepositoryError::new(fault, why));
        }
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else {
            return Err(RepositoryError::new(Fault::Failed, "the replica's log was never read"));
        };
        self.prove_refusal(index).await?;
        log.append(action, false, &heads, |_| Ok(())).await?;
        log.checkpoint_if_due().await;
        self.remember(&log);
        Ok(())
    }
}
