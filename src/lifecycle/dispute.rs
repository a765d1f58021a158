//! Logs that disagree about what was forgotten. Two runs, each where the logs of the other were not at hand, may each have kept what the
//! other forgot: as a union, nothing of that source would be left.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Hash;
use crate::format::snapshot::Snapshot;
use crate::repository::Repository;
use crate::repository::error::RepositoryError;

/// What logs disagree about: a snapshot that is a root here, that another log forgot while it kept one of the same source, which
/// was forgotten elsewhere in its turn, with nothing else of that source live anywhere. Reads nothing where no log has a root
/// that another has forgotten.
pub async fn dispute(repository: &Repository) -> Result<BTreeSet<Hash>, RepositoryError> {
    let forgotten = repository.forgotten_ids().await;
    let mut held: Vec<(usize, Vec<(Hash, Hash)>)> = Vec::new();
    for index in repository.readable().indices() {
        let Some(log) = repository.log(index).await else { continue };
        let roots = log.state.snapshots.iter().filter(|(id, root)| forgotten.contains(*id) && !root.partial);
        let roots: Vec<(Hash, Hash)> = roots.map(|(id, root)| (*id, root.object)).collect();
        if !roots.is_empty() {
            held.push((index, roots));
        }
    }
    let mut disputed = BTreeSet::new();
    if held.len() < 2 {
        return Ok(disputed);
    }
    let source = |snapshot: &Snapshot| {
        let mut paths: Vec<Vec<u8>> = snapshot.roots.iter().map(|root| root.path.to_vec()).collect();
        paths.sort();
        (snapshot.host.clone(), paths)
    };
    let views = repository.snapshots().await?;
    let live: BTreeSet<_> = views.iter().filter(|view| !view.snapshot.partial).map(|view| source(&view.snapshot)).collect();
    // By id: of which source it is; one whose object nobody gives is of any.
    let mut sources = BTreeMap::new();
    for (index, roots) in &held {
        for (id, object) in roots {
            if let Some((snapshot, _)) = repository.snapshot_at(*index, object).await? {
                sources.insert(*id, source(&snapshot));
            }
        }
    }
    sources.retain(|_, source| !live.contains(source));
    for (index, roots) in &held {
        let Some(gone) = repository.log(*index).await.map(|log| log.state.forgotten.clone()) else { continue };
        for (theirs, _) in held.iter().filter(|(other, _)| other != index).flat_map(|(_, roots)| roots) {
            // This log forgot theirs, and has a root of its own that was forgotten by others.
            let same = |own: &Hash| own != theirs && sources.contains_key(theirs) && sources.get(own) == sources.get(theirs);
            if gone.contains(theirs) && roots.iter().any(|(own, _)| same(own)) {
                disputed.insert(*theirs);
            }
        }
    }
    Ok(disputed)
}

/// What is disputed, and how it is settled.
pub fn in_words(ids: &BTreeSet<Hash>) -> String {
    let names: Vec<String> = ids.iter().take(5).map(|id| hex::encode(&id[..4])).collect();
    let (names, more) = (names.join(", "), if ids.len() > 5 { " and others" } else { "" });
    format!(
        "{names}{more} stays there: forgotten elsewhere for a snapshot that was forgotten in its turn, and nothing else of that source \
         is left: `holdfast undelete` brings one back, `holdfast forget` with the name lets it go"
    )
}
