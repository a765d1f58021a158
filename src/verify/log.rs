//! The commit log from its first slot: every record authentic, each following the one before.

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::format::record::{Body, Expected, decode_slot};
use crate::format::{Hash, object_hash};
use crate::replica::read::read_one;
use crate::repository::layout;
use crate::repository::log::chain;
use crate::verify::examine::{Examination, Halt, sort};

/// Slots that are read at once.
const AT_ONCE: usize = 16;

/// Reads all slots of the current epoch. Opening may have begun at a checkpoint: what lies before it was not seen then.
pub async fn verify_slots(what: &Examination<'_>) -> Result<(), Halt> {
    let (state, keyring) = (&what.facts, &what.repository.keyring);
    let mut reads = stream::iter(1..=state.slot)
        .map(|slot| {
            let name = layout::slot(state.epoch, slot);
            let expected = Expected { replica_id: state.replica_id, epoch: state.epoch, slot };
            async move {
                let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
                    let decoded = decode_slot(&bytes, &keyring.keys.log, &keyring.repository_id, &expected);
                    decoded.map(|(_, body): (_, Body)| (object_hash(&bytes), body.prev)).map_err(|e| chain(&e))
                });
                (slot, name.clone(), read.await)
            }
        })
        .buffered(AT_ONCE);
    // None: the slot before is damaged, and what should follow it is not known.
    let mut last: Option<Hash> = None;
    while let Some((slot, name, read)) = reads.next().await {
        what.going_on()?;
        match read {
            Ok((hash, prev)) => {
                if slot > 1 && last.is_some_and(|last| last[..] != prev[..]) {
                    what.findings.add(what.replica.index, &name, "it does not follow the slot before it");
                }
                if slot == state.slot && hash != state.hash {
                    what.findings.add(what.replica.index, &name, "it is another record than the one read on opening");
                }
                last = Some(hash);
            }
            Err(fault) => {
                what.findings.add(what.replica.index, &name, sort(fault)?);
                last = None;
            }
        }
        what.progress.items.add(1);
    }
    Ok(())
}
