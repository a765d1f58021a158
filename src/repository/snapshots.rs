//! The snapshots of a repository, over all its replicas.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use crate::clock::Planted;
use crate::format::snapshot::Snapshot;
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::read::{read_any, read_one};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::{Met, Repository};

/// A snapshot and where it is.
#[derive(Clone, Debug)]
pub struct SnapshotView {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its id.
    pub id: Hash,
    /// The replicas whose logs hold it.
    pub mask: Mask,
    /// Their names.
    pub replicas: Vec<String>,
}

/// A snapshot as the logs name it, its object not read yet.
#[derive(Clone, Debug)]
pub struct LiveSnapshot {
    /// Its id.
    pub id: Hash,
    /// The replicas whose logs hold it.
    pub mask: Mask,
    /// The objects that hold it, and where.
    objects: BTreeMap<Hash, Mask>,
    /// The slot of its commit, in the first log that has it.
    pub slot: u64,
}

/// A snapshot with the very bytes that hold it.
#[derive(Clone, Debug)]
pub struct SnapshotObject {
    /// The object's name.
    pub name: Hash,
    /// Its stored bytes.
    pub stored: Bytes,
    /// What they say.
    pub snapshot: Snapshot,
}

/// How many snapshot objects are read at once.
const AT_ONCE: usize = 16;

impl Repository {
    /// The snapshots that are live somewhere and forgotten nowhere, as the logs name them; those committed last come first.
    pub async fn live(&self) -> Vec<LiveSnapshot> {
        let mut live: BTreeMap<Hash, LiveSnapshot> = BTreeMap::new();
        let mut forgotten: BTreeSet<Hash> = BTreeSet::new();
        for index in self.readable().indices() {
            let Some(log) = self.log(index).await else { continue };
            for (id, snapshot) in &log.state.snapshots {
                let new = LiveSnapshot { id: *id, mask: Mask::default(), objects: BTreeMap::new(), slot: snapshot.slot };
                let one = live.entry(*id).or_insert(new);
                one.mask = one.mask.or(Mask::one(index));
                let at = one.objects.entry(snapshot.object).or_default();
                *at = at.or(Mask::one(index));
            }
            forgotten.extend(&log.state.forgotten);
        }
        if !self.env.makes(Planted::ForgottenHealed) {
            live.retain(|id, _| !forgotten.contains(id));
        }
        let mut live: Vec<LiveSnapshot> = live.into_values().collect();
        live.sort_by_key(|one| std::cmp::Reverse((one.slot, one.id)));
        live
    }

    /// Reads the object of a snapshot; `None` when no replica has it whole (what was met is noted).
    pub async fn view(&self, live: &LiveSnapshot) -> Option<SnapshotView> {
        let snapshot = self.snapshot_object(live).await?.snapshot;
        let replicas = live.mask.indices().map(|i| self.set.replicas[i].name.clone()).collect();
        Some(SnapshotView { snapshot, id: live.id, mask: live.mask, replicas })
    }

    /// All snapshots that are live somewhere and forgotten nowhere, oldest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotView>, RepositoryError> {
        let live = self.live().await;
        let reads = stream::iter(&live).map(|one| self.view(one)).buffered(AT_ONCE);
        let mut views: Vec<SnapshotView> = reads.filter_map(async |view| view).collect().await;
        views.sort_by_key(|v| (v.snapshot.time_seconds, v.snapshot.time_nanos, v.id));
        Ok(views)
    }

    /// Those of the live snapshots that are not among `views`: no store that holds one gave its object whole.
    pub async fn unreadable(&self, views: &[SnapshotView]) -> Vec<LiveSnapshot> {
        let mut live = self.live().await;
        live.retain(|one| !views.iter().any(|view| view.id == one.id));
        live
    }

    /// As [`Repository::resolve`] among `views`, all of this repository's snapshots that `among` admits; but a snapshot that
    /// cannot be read and may be the one that is meant is an integrity failure, and never passed over for another; so is
    /// `latest` where every log that can be read is damaged.
    pub async fn meant(
        &self,
        views: Vec<SnapshotView>,
        among: impl Fn(&SnapshotView) -> bool,
        text: &str,
    ) -> Result<SnapshotView, RepositoryError> {
        let latest = text.starts_with("latest");
        let doubtful = |i: usize| self.fault(i).filter(|(fault, _)| matches!(fault, Fault::Integrity | Fault::Rollback));
        let doubts: Vec<_> = self.readable().indices().map(doubtful).collect();
        if latest
            && doubts.iter().all(Option::is_some)
            && let Some((fault, why)) = doubts.into_iter().flatten().next()
        {
            let message = format!("{why}; later snapshots may exist and no other log says so: name one by its id");
            return Err(RepositoryError::new(fault, message));
        }
        let lost = self.unreadable(&views).await;
        let live = self.live().await;
        let views: Vec<SnapshotView> = views.into_iter().filter(among).collect();
        let found = self.resolve(&views, text);
        let wanted = text.to_ascii_lowercase();
        let slot = found.as_ref().ok().and_then(|view| live.iter().find(|one| one.id == view.id));
        let may_be = lost.iter().find(|one| match (latest, slot) {
            // Slots of different logs say nothing about which came first.
            (true, Some(found)) => one.slot > found.slot || one.mask.indices().next() != found.mask.indices().next(),
            (true, None) => true,
            (false, Some(_)) => false,
            (false, None) => hex::encode(one.id).starts_with(&wanted),
        });
        match may_be {
            Some(one) => Err(RepositoryError::new(
                Fault::Integrity,
                format!(
                    "snapshot {} is damaged or missing at every store that holds it{}",
                    hex::encode(one.id),
                    if latest { ", and may be the one that is meant: name one by its id" } else { "" }
                ),
            )),
            None => match found {
                Err(e) if !latest && self.forgotten_ids().await.iter().any(|id| hex::encode(id).starts_with(&wanted)) => {
                    let advice =
                        "one was forgotten: `holdfast snapshots --forgotten` lists what `holdfast undelete` can bring back";
                    Err(RepositoryError::new(e.fault, format!("{e}; {advice}")))
                }
                found => found.cloned(),
            },
        }
    }

    /// The stored object of a snapshot; `None` when no replica has it whole (what was met is noted).
    pub async fn snapshot_object(&self, live: &LiveSnapshot) -> Option<SnapshotObject> {
        for (object, mask) in &live.objects {
            let name = layout::hashed(Class::Snapshot, object);
            let (found, met) = read_any(&self.set, *mask, &name, None, async |stored: Bytes| {
                if object_hash(&stored) != *object {
                    return Err("its bytes do not match its name".to_owned());
                }
                let snapshot = Snapshot::decode(&stored, &self.keyring.keys.log, &self.keyring.repository_id)
                    .map_err(|e| crate::repository::log::chain(&e))?;
                match snapshot.id[..] == live.id[..] {
                    true => Ok(SnapshotObject { name: *object, stored, snapshot }),
                    false => Err("it is of another snapshot".to_owned()),
                }
            })
            .await;
            for (replica, fault) in met {
                self.meet(Met { replica, pack: None, what: fault.to_string() });
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The snapshot whose id begins with `text` and that lies somewhere although no log names it: a repair of the log did not
    /// find it whole, or the record that committed it is lost, or it was forgotten. Several are [`Fault::Usage`].
    pub async fn unrooted(&self, text: &str) -> Result<Option<Snapshot>, RepositoryError> {
        let wanted = text.to_ascii_lowercase();
        let mut found: BTreeMap<Hash, Snapshot> = BTreeMap::new();
        for index in self.readable().indices() {
            for object in self.listed(index, Class::Snapshot).await? {
                let Some((snapshot, _)) = self.snapshot_at(index, &object).await? else { continue };
                let Ok(id) = snapshot.snapshot_id() else { continue };
                if hex::encode(id).starts_with(&wanted) {
                    found.insert(id, snapshot);
                }
            }
        }
        match found.len() {
            0 | 1 => Ok(found.into_values().next()),
            several => {
                Err(RepositoryError::new(Fault::Usage, format!("{several} snapshots' ids begin with {wanted}: write more of it")))
            }
        }
    }

    /// A snapshot's object as it lies at one replica, whether a log names it or not; `None` when it is damaged or missing there.
    pub async fn snapshot_at(&self, index: usize, object: &Hash) -> Result<Option<(Snapshot, Bytes)>, RepositoryError> {
        let name = layout::hashed(Class::Snapshot, object);
        let read = read_one(&self.set.replicas[index], &name, None, async |stored: Bytes| {
            if object_hash(&stored) != *object {
                return Err("its bytes do not match its name".to_owned());
            }
            Snapshot::decode(&stored, &self.keyring.keys.log, &self.keyring.repository_id)
                .map(|snapshot| (snapshot, stored))
                .map_err(|e| crate::repository::log::chain(&e))
        });
        match read.await {
            Ok(found) => Ok(Some(found)),
            Err(fault) if fault.is_damage() => Ok(None),
            Err(fault) => Err(crate::repository::log::read_error(&name, fault)),
        }
    }

    /// The snapshot that `text` names: an id or a unique beginning of one, `latest`, or `latest~N` (N before the latest).
    /// `latest` counts complete snapshots only; an id names partial ones, too.
    pub fn resolve<'v>(&self, views: &'v [SnapshotView], text: &str) -> Result<&'v SnapshotView, RepositoryError> {
        let usage = |message: String| Err(RepositoryError::new(Fault::Usage, message));
        if let Some(rest) = text.strip_prefix("latest") {
            let back = match rest.strip_prefix('~') {
                None if rest.is_empty() => 0,
                Some(number) if number.parse::<usize>().is_ok() => number.parse().unwrap_or(usize::MAX),
                _ => return usage(format!("{text:?} is no snapshot: write latest or latest~N")),
            };
            let complete: Vec<_> = views.iter().filter(|v| !v.snapshot.partial).collect();
            return match complete.len().checked_sub(back.saturating_add(1)) {
                Some(at) => Ok(complete[at]),
                None => usage(format!("there is no snapshot {text}: the repository has {} complete ones", complete.len())),
            };
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return usage(format!("{text:?} is no snapshot: write the beginning of an id, latest or latest~N"));
        }
        let wanted = text.to_ascii_lowercase();
        let matching: Vec<_> = views.iter().filter(|v| hex::encode(v.id).starts_with(&wanted)).collect();
        match matching.as_slice() {
            [one] => Ok(one),
            [] => usage(format!("there is no snapshot whose id begins with {wanted}")),
            several => usage(format!("{} snapshots' ids begin with {wanted}: write more of it", several.len())),
        }
    }
}
