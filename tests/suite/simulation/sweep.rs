//! A pruner without mercy, as simple as it can be: of one replica it keeps the packs that its own roots need and condemns every
//! other, those of runs under way and those that no record names yet among them, and then deletes what is condemned.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::TryStreamExt;
use holdfast::format::pack::PackKind;
use holdfast::format::record::{Action, Condemn, ObjectClass, ObjectRef};
use holdfast::format::snapshot::Snapshot;
use holdfast::format::{Hash, object_hash};
use holdfast::lifecycle::closure::Closure;
use holdfast::progress::Stop;
use holdfast::replica::Mask;
use holdfast::repository::Repository;
use holdfast::repository::error::{Fault, RepositoryError};
use holdfast::repository::layout::{self, Class};
use holdfast::store::name::ObjectName;

/// How often it plans again when others changed what it stood on.
const PLANS: usize = 4;

fn failed(why: impl Into<String>) -> RepositoryError {
    RepositoryError::new(Fault::Failed, why)
}

/// Prunes one replica. What it says is for the story.
pub async fn run(repository: &Repository, at: usize) -> Result<String, RepositoryError> {
    let mut condemned = 0;
    for plan in 0..=PLANS {
        if plan == PLANS {
            return Err(failed("others changed what there is to prune each time"));
        }
        match condemn(repository, at).await? {
            Some(count) => {
                condemned = count;
                break;
            }
            None => repository.catch_up().await,
        }
    }
    let void: Vec<ObjectName> = {
        let Some(mut log) = repository.log(at).await else { return Err(failed("its log cannot be read")) };
        log.catch_up().await?;
        let packs = [(ObjectClass::Data, Class::DataPack), (ObjectClass::Meta, Class::MetaPack)];
        packs
            .iter()
            .flat_map(|(class, named)| {
                log.state.condemned.get(class).into_iter().flatten().map(|hash| layout::hashed(*named, hash))
            })
            .collect()
    };
    let left = if void.is_empty() { Vec::new() } else { repository.set.replicas[at].store.delete(&void).await };
    Ok(format!("condemned {condemned}, deleted {} of {}", void.len() - left.len(), void.len()))
}

/// One plan, and its record. `None`: the plan was overtaken.
async fn condemn(repository: &Repository, at: usize) -> Result<Option<usize>, RepositoryError> {
    let store = &repository.set.replicas[at].store;
    let then = {
        let Some(mut log) = repository.log(at).await else { return Err(failed("its log cannot be read")) };
        log.catch_up().await?;
        log.state.clone()
    };
    let index = repository.index().await?;
    if repository.index_has_gaps() {
        return Err(failed("part of the index cannot be read"));
    }
    let stop = Stop::default();
    let mut walk = Closure::new(repository, index.clone(), &stop);
    for live in then.snapshots.values() {
        let stored = store.get(&layout::hashed(Class::Snapshot, &live.object), None).await?;
        if object_hash(&stored) != live.object {
            return Err(failed("a snapshot is damaged"));
        }
        let keyring = &repository.keyring;
        let snapshot = Snapshot::decode(&stored, &keyring.keys.log, &keyring.repository_id);
        let snapshot = snapshot.map_err(|e| failed(e.to_string()))?;
        let lost = walk.snapshot(&snapshot, Mask::one(at)).await.map_err(|e| failed(e.to_string()))?;
        if !lost.is_empty() || !walk.needs.is_empty() {
            return Err(failed("not everything that is live is there"));
        }
    }
    let kept: BTreeSet<Hash> = {
        let chunks = index.read().expect("no panic while the index is locked");
        walk.hits[at].iter().map(|number| chunks.pack(*number).hash).collect()
    };
    let mut dead: Vec<(ObjectClass, Hash)> = Vec::new();
    {
        let chunks = index.read().expect("no panic while the index is locked");
        for pack in chunks.packs().iter().filter(|pack| pack.published.has(at)) {
            dead.push((if pack.kind == PackKind::Meta { ObjectClass::Meta } else { ObjectClass::Data }, pack.hash));
        }
    }
    for (prefix, class) in [("data/", ObjectClass::Data), ("meta/", ObjectClass::Meta)] {
        let listed: Vec<_> = store.list(prefix).try_collect().await?;
        dead.extend(listed.iter().filter_map(|info| layout::parse_hashed(&info.name)).map(|(_, hash)| (class, hash)));
    }
    dead.retain(|(class, hash)| !kept.contains(hash) && !then.is_condemned(*class, hash));
    dead.sort();
    dead.dedup();
    if dead.is_empty() {
        return Ok(Some(0));
    }
    let objects = dead.iter().map(|(class, hash)| ObjectRef { class: *class as i32, hash: Bytes::copy_from_slice(hash) });
    let action = Action::Condemn(Condemn { objects: objects.collect(), lists: Vec::new() });
    let mut overtaken = false;
    let Some(mut log) = repository.log(at).await else { return Err(failed("its log cannot be read")) };
    let appended = log
        .append(action, true, &[], |now| {
            // Whatever came since may stand on what was to go, and what was to stay instead may be gone.
            overtaken = now.segments != then.segments
                || now.snapshots != then.snapshots
                || now.distrusted != then.distrusted
                || now.condemned != then.condemned;
            if overtaken { Err(failed("overtaken")) } else { Ok(()) }
        })
        .await;
    drop(log);
    match appended {
        Ok(()) => Ok(Some(dead.len())),
        Err(_) if overtaken => Ok(None),
        Err(e) => Err(e),
    }
}
