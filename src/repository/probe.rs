//! What a store must do before a repository is trusted to it, tried out on the descriptor: it costs five requests, once.

use bytes::Bytes;
use futures::StreamExt;

use crate::clock::Env;
use crate::replica::Replica;
use crate::repository::error::{Fault, RepositoryError};
use crate::store::name::ObjectName;

/// A clock that is off by more than this is worth a word. No safety depends on clocks, but providers refuse requests that
/// are signed more than a quarter of an hour off, and mercy periods are told by the store's clock.
const CLOCK_OFF: u64 = 300;

/// Reads `stored`, which was just written under `name`, back in every way that a repository is read: whole, in part, by
/// stat and by listing. Gives a note if the store's clock and this machine's differ. `Unsupported` names what the store
/// does wrong.
pub async fn examine(env: &Env, replica: &Replica, name: &ObjectName, stored: &Bytes) -> Result<Option<String>, RepositoryError> {
    let store = &replica.store;
    let wrong = |what: &str| {
        let message = format!("store {}: {what} {name}, which was just written: no repository can live there", replica.name);
        RepositoryError::new(Fault::Unsupported, message)
    };
    if store.get(name, None).await? != *stored {
        return Err(wrong("gives back other bytes for"));
    }
    let (start, end) = (stored.len() / 3, stored.len() - stored.len() / 3);
    if store.get(name, Some(start as u64..end as u64)).await? != stored.slice(start..end) {
        return Err(wrong("gives back other bytes for a part of"));
    }
    let Some(info) = store.stat(name).await? else {
        return Err(wrong("does not find"));
    };
    if info.size != stored.len() as u64 {
        return Err(wrong("tells a wrong size of"));
    }
    let mut listing = store.list(name.as_str());
    let mut listed = false;
    while let Some(found) = listing.next().await {
        listed |= found?.name == *name;
    }
    if !listed {
        return Err(wrong("does not list"));
    }
    // The descriptor may be older than this run: only a store that is ahead tells anything then.
    let ahead = info.modified.since(env.now()).as_secs();
    Ok((ahead > CLOCK_OFF)
        .then(|| format!("store {}: its clock is {ahead} s ahead of this machine's: set the clock that is wrong", replica.name)))
}
