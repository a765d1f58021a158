//! From what the operator has to the keys of a repository: the key slot that opens, wherever it lies.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::StreamExt;

use crate::clock::Env;
use crate::format::descriptor::Descriptor;
use crate::format::key_slot::Generation;
use crate::format::{Hash, SMALL_MAX, object_hash};
use crate::replica::read::{Met, read_any};
use crate::replica::{Mask, ReplicaSet};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::{self, Keyring, SLOTS_MAX, Unlock};
use crate::repository::layout::{self, Class};
use crate::repository::open::{floor, story};
use crate::seal::key::Secret;

/// Where slots are looked for, and what they are tried with.
struct Search<'s> {
    env: &'s Env,
    set: &'s ReplicaSet,
    mask: Mask,
    repository_id: Hash,
    unlock: &'s Unlock,
    lowered: bool,
}

/// Opens the first slot that `unlock` fits: the named one, else any other in `keys/`. Gives what was met on the way, too.
pub(super) async fn unlock_descriptor(
    env: &Env,
    set: &ReplicaSet,
    mask: Mask,
    descriptor: &Descriptor,
    unlock: &Unlock,
    lowered: bool,
    level: i32,
) -> Result<(Keyring, Met), RepositoryError> {
    let hash = |bytes: &Bytes| Hash::try_from(bytes.as_ref()).unwrap_or_default();
    let search = Search { env, set, mask, repository_id: hash(&descriptor.repository_id), unlock, lowered };
    let named = hash(&descriptor.key_slot);
    // Why the named slot could not even be tried, if so: then a key that opens nothing else may be the right one.
    let mut untried: Option<RepositoryError> = None;
    let mut opened: Option<(Secret, Hash)> = None;
    let (slot, mut met) = search.object(&named).await;
    match slot {
        Some(slot) => match search.attempt(&slot).await {
            Ok(root) => opened = root.map(|root| (root, named)),
            Err(e) => untried = Some(e),
        },
        None => {
            let message = format!("the key slot that the descriptor names cannot be had: {}", first(&met));
            untried = Some(RepositoryError::new(Fault::Integrity, message));
        }
    }
    if opened.is_none() {
        opened = search.others(named).await;
    }
    let Some((root, slot)) = opened else {
        return Err(match untried {
            Some(e) => {
                RepositoryError::new(e.fault, format!("{}; no other key slot opens with this passphrase or key file", story(&e)))
            }
            None => RepositoryError::new(
                Fault::WrongKey,
                "wrong passphrase or key file: no key slot of this repository opens with it",
            ),
        });
    };
    let generation = hash(&descriptor.generation);
    let (stored, more) = search.object(&generation).await;
    let Some(stored) = stored else {
        let why = first(&more);
        return Err(RepositoryError::new(Fault::Integrity, format!("the repository's generation secret cannot be had: {why}")));
    };
    met.extend(more);
    Ok((keyring::open_with_root(descriptor, root, slot, &stored, level)?, met))
}

fn first(met: &Met) -> String {
    met.first().map(|(_, fault)| fault.to_string()).unwrap_or_default()
}

impl Search<'_> {
    /// An object in `keys/` from the first replica that has it whole, and what was met at those before it.
    async fn object(&self, want: &Hash) -> (Option<Bytes>, Met) {
        let name = layout::hashed(Class::Key, want);
        read_any(self.set, self.mask, &name, None, async |bytes: Bytes| {
            if object_hash(&bytes) == *want { Ok(bytes) } else { Err("its bytes do not match its name".to_owned()) }
        })
        .await
    }

    async fn attempt(&self, slot: &Bytes) -> Result<Option<Secret>, RepositoryError> {
        keyring::try_slot(self.env, slot, &self.repository_id, self.unlock, floor(self.lowered)).await
    }

    /// The first slot beside the `named` one that opens. Each is tried once, wherever it lies.
    async fn others(&self, named: Hash) -> Option<(Secret, Hash)> {
        let mut tried = BTreeSet::from([named]);
        for replica in self.set.reading_order(self.mask) {
            let mut listing = replica.store.list(layout::prefix(Class::Key));
            while let Some(Ok(info)) = listing.next().await {
                let Some((_, hash)) = layout::parse_hashed(&info.name) else { continue };
                if tried.contains(&hash) || info.size > SMALL_MAX as u64 {
                    continue;
                }
                let Ok(stored) = replica.store.get(&info.name, None).await else { continue };
                // Another replica may have it whole.
                if Generation::is_one(&stored) || object_hash(&stored) != hash {
                    continue;
                }
                if tried.len() > SLOTS_MAX {
                    return None;
                }
                tried.insert(hash);
                // A damaged or hostile slot must not keep a good one from being tried.
                if let Ok(Some(root)) = self.attempt(&stored).await {
                    return Some((root, hash));
                }
            }
        }
        None
    }
}
