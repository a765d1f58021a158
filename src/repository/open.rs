//! Opening a repository: descriptor, key, logs, and the tests that must pass before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::OnceCell;

use crate::clock::Env;
use crate::format::Hash;
use crate::format::descriptor::Descriptor;
use crate::replica::patience::while_it_answers;
use crate::replica::{Mask, Member, Replica, ReplicaSet, ReplicaSettings};
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::frames::Busy;
use crate::repository::heads::{self, Head};
use crate::repository::keyring::{self, Unlock};
use crate::repository::layout;
use crate::repository::log::Log;
use crate::repository::reader::FrameCache;
use crate::repository::retire::retired;
use crate::repository::unlock::unlock_descriptor;
use crate::repository::{Access, Met, Repository};
use crate::seal::key::KdfFloor;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::name::ObjectName;

/// How a repository is opened.
#[derive(Clone, Debug)]
pub struct OpenSettings {
    /// How the set of replicas behaves.
    pub replicas: ReplicaSettings,
    /// Where this machine remembers heads; none: it does not.
    pub state_dir: Option<PathBuf>,
    /// Most bytes that the chunk index may take.
    pub index_memory: u64,
    /// zstd level of new frames.
    pub level: i32,
    /// Admits key derivations that are too cheap to be safe: tests only.
    pub lowered_kdf: bool,
}

impl Default for OpenSettings {
    fn default() -> OpenSettings {
        OpenSettings {
            replicas: ReplicaSettings::default(),
            state_dir: None,
            index_memory: 1 << 30,
            level: keyring::LEVEL,
            lowered_kdf: false,
        }
    }
}

/// The floor that key derivations must reach.
pub(super) fn floor(lowered: bool) -> KdfFloor {
    if lowered { KdfFloor::Lowered } else { KdfFloor::Standard }
}

/// What one store says about the repository it holds.
pub(super) async fn descriptor_at(replica: &Replica) -> Result<Option<(Bytes, Descriptor)>, RepositoryError> {
    let name = layout::descriptor();
    let stored = match replica.store.get(&name, None).await {
        Ok(stored) => stored,
        Err(e) if e.kind == StoreErrorKind::NotFound => {
            // A log begins after the descriptor was written: where there is one, this is no empty place.
            if replica.store.stat(&layout::slot(1, 1)).await?.is_none() {
                return Ok(None);
            }
            // Both may have come since: only a descriptor that is absent while there is a log was lost.
            match replica.store.get(&name, None).await {
                Ok(stored) => return decoded(replica, stored),
                Err(e) if e.kind == StoreErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
            return Err(RepositoryError::new(
                Fault::Integrity,
                format!(
                    "store {0}: {name} is missing although the log of a repository is there: `holdfast heal` brings it from another \
                     store, and where none has it, `holdfast repair descriptor {0}` makes it again",
                    replica.name
                ),
            ));
        }
        Err(e) => return Err(e.into()),
    };
    decoded(replica, stored)
}

fn decoded(replica: &Replica, stored: Bytes) -> Result<Option<(Bytes, Descriptor)>, RepositoryError> {
    let name = layout::descriptor();
    match Descriptor::decode(&stored) {
        Ok(descriptor) => Ok(Some((stored, descriptor))),
        Err(e) if e.is_unsupported() => {
            Err(RepositoryError::caused(Fault::Unsupported, format!("store {}: {name}", replica.name), e))
        }
        Err(e) => {
            let advice = format!(
                "take this one away, and `holdfast heal` brings it from another store, or `holdfast repair descriptor {}` makes it again \
                 where none has it",
                replica.name
            );
            Err(RepositoryError::caused(Fault::Integrity, format!("store {}: {name} is damaged ({advice})", replica.name), e))
        }
    }
}

/// The worst class among several failures, in the order that decides an exit code.
pub fn worst(faults: impl IntoIterator<Item = Fault>) -> Option<Fault> {
    const ORDER: [Fault; 11] = [
        Fault::Interrupted,
        Fault::Usage,
        Fault::WrongKey,
        Fault::Rollback,
        Fault::Unsupported,
        Fault::Integrity,
        Fault::Denied,
        Fault::NoRepository,
        Fault::Refused,
        Fault::Contention,
        Fault::Failed,
    ];
    faults.into_iter().min_by_key(|f| ORDER.iter().position(|o| o == f))
}

impl Repository {
    /// Opens the repository that lies at `members`. A store's own fault only takes that store out (see
    /// [`Repository::fault`]); it is an error when nothing can be opened at all.
    pub async fn open(
        env: &Env,
        members: Vec<Member>,
        settings: OpenSettings,
        unlock: &Unlock,
        access: Access,
    ) -> Result<Repository, RepositoryError> {
        let set = ReplicaSet::new(members, settings.replicas.clone());
        let mut faults: BTreeMap<usize, (Fault, String)> = BTreeMap::new();
        let mut found: Vec<(usize, Descriptor, Bytes)> = Vec::new();
        let patience = settings.replicas.stall;
        let asked = set.replicas.iter().map(|r| while_it_answers(env, r, patience, "opening", descriptor_at(r)));
        let answers = join_all(asked).await;
        for (replica, answer) in set.replicas.iter().zip(answers) {
            match answer.map_err(RepositoryError::from).and_then(|found| found) {
                Ok(Some((stored, descriptor))) => found.push((replica.index, descriptor, stored)),
                Ok(None) => {
                    let why = format!("store {}: holds no repository yet", replica.name);
                    faults.insert(replica.index, (Fault::NoRepository, why));
                }
                Err(e) => {
                    faults.insert(replica.index, (e.fault, story(&e)));
                }
            }
        }
        let Some((_, descriptor, _)) = found.first().cloned() else {
            return Err(nothing_found(&set, &faults));
        };
        if let Some((other, _, _)) = found.iter().find(|(_, d, _)| d.repository_id != descriptor.repository_id) {
            let name = |i: usize| set.replicas[i].name.clone();
            return Err(RepositoryError::new(
                Fault::Usage,
                format!("stores {} and {} hold different repositories: name only stores of one", name(found[0].0), name(*other)),
            ));
        }
        for (_, why) in faults.values_mut().filter(|(fault, _)| *fault == Fault::NoRepository) {
            why.push_str(": run `holdfast heal` to make it a replica");
        }
        let mask = Mask(found.iter().fold(0, |m, (i, _, _)| m | 1 << i));
        let (keyring, met) =
            unlock_descriptor(env, &set, mask, &descriptor, unlock, settings.lowered_kdf, settings.level).await?;
        let met = met.into_iter().map(|(replica, fault)| Met { replica, pack: None, what: fault.to_string() }).collect();
        let keyring = Arc::new(keyring);
        let run_id = env.random();
        let seen = settings.state_dir.as_ref().map(|dir| heads::load(dir, &keyring.repository_id)).unwrap_or_default();
        let loads = set.replicas.iter().map(|replica| {
            let keyring = keyring.clone();
            async move {
                let load = Log::load(env, replica, &keyring, run_id, 1);
                let loaded = while_it_answers(env, replica, patience, "reading its log", load);
                if mask.has(replica.index) { Some(loaded.await.map_err(RepositoryError::from).and_then(|log| log)) } else { None }
            }
        });
        let mut logs: Vec<Option<Log>> = Vec::new();
        for (index, loaded) in join_all(loads).await.into_iter().enumerate() {
            logs.push(match loaded {
                Some(Ok(log)) => Some(log),
                Some(Err(e)) => {
                    faults.insert(index, (e.fault, story(&e)));
                    None
                }
                None => None,
            });
        }
        if logs.iter().all(Option::is_none) {
            let worst_fault = worst(faults.values().map(|(f, _)| *f)).unwrap_or(Fault::Failed);
            let stories: Vec<_> = faults.values().map(|(_, why)| why.clone()).collect();
            return Err(RepositoryError::new(worst_fault, format!("no replica's log can be read: {}", stories.join("; "))));
        }
        audit(env, &set, &mut logs, &seen, &mut faults).await?;
        let gone = Arc::default();
        logs.iter_mut().flatten().for_each(|log| log.share(Arc::clone(&gone)));
        if logs.iter().flatten().any(|log| log.state.revoked.contains(&keyring.slot)) {
            return Err(RepositoryError::new(Fault::WrongKey, "this key was withdrawn from the repository"));
        }
        if access == Access::Write {
            probe(env, &set, &logs, &found, &mut faults).await;
        }
        let chunker = descriptor
            .chunker_spec()
            .map_err(|e| RepositoryError::caused(Fault::Unsupported, "the repository's chunker cannot be used", e))?;
        // Where a log stands that was rolled back or forked is not passed on: the next run would take it for the truth.
        let strayed = |i: &usize| faults.get(i).is_some_and(|(fault, _)| *fault == Fault::Rollback);
        let upright = logs.iter().enumerate().filter(|(i, _)| !strayed(i)).filter_map(|(_, log)| log.as_ref());
        let heads = upright.filter_map(|log| Some((log.state.replica_id?, log.state.head()))).collect();
        let lies_at: BTreeMap<Hash, String> =
            set.replicas.iter().filter_map(|r| Some((logs[r.index].as_ref()?.state.replica_id?, r.name.clone()))).collect();
        let lay = settings.state_dir.as_ref().map(|dir| heads::places(dir, &keyring.repository_id)).unwrap_or_default();
        Ok(Repository {
            env: env.clone(),
            exchanged: exchanged(&set, &lies_at, &lay),
            lies_at,
            set,
            keyring,
            chunker,
            run_id,
            descriptor,
            logs: logs.into_iter().map(|log| log.map(tokio::sync::Mutex::new)).collect(),
            faults: Mutex::new(faults),
            heads: Mutex::new(heads),
            state_dir: settings.state_dir,
            index: Arc::new(RwLock::new(ChunkIndex::new(settings.index_memory))),
            index_loaded: OnceCell::new(),
            segments: Mutex::default(),
            gaps: std::sync::atomic::AtomicBool::new(false),
            met: Mutex::new(met),
            frames: FrameCache::default(),
            only: OnceLock::new(),
            unanswered: Mutex::default(),
            busy: Busy::default(),
            unproven: Mutex::new(if access == Access::Write { Mask::default() } else { mask }),
        })
    }
}

/// Stores that hold the replica which another of them held when this machine last looked. It does no harm, since a replica is what
/// its log says, wherever it lies; but nobody meant it.
fn exchanged(set: &ReplicaSet, lies_at: &BTreeMap<Hash, String>, lay: &BTreeMap<Hash, String>) -> Vec<String> {
    let configured = |name: &String| set.replicas.iter().any(|r| r.name == *name);
    let moved = lies_at.iter().filter_map(|(id, now)| Some((now, lay.get(id).filter(|before| *before != now)?)));
    let told = |(now, before): (&String, &String)| {
        configured(before).then(|| {
            let what = "when last seen: were they exchanged? Each is used as what it holds";
            format!("store {now} holds the replica that lay at store {before} {what}")
        })
    };
    moved.filter_map(told).collect()
}

/// An error with its causes, in one line.
pub fn story(e: &RepositoryError) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn nothing_found(set: &ReplicaSet, faults: &BTreeMap<usize, (Fault, String)>) -> RepositoryError {
    let closed = set.closed.iter().map(|(_, _, e)| {
        let missing = e.kind == StoreErrorKind::NotFound;
        (if missing { Fault::NoRepository } else { RepositoryError::from_kind(e.kind) }, e.story())
    });
    let all: Vec<_> = faults.values().cloned().chain(closed).collect();
    if all.iter().all(|(fault, _)| *fault == Fault::NoRepository) {
        let stories: Vec<_> = all.into_iter().map(|(_, why)| why).collect();
        return RepositoryError::new(Fault::NoRepository, format!("there is no repository: {}", stories.join("; ")));
    }
    let real: Vec<_> = all.into_iter().filter(|(fault, _)| *fault != Fault::NoRepository).collect();
    let fault = worst(real.iter().map(|(f, _)| *f)).unwrap_or(Fault::Failed);
    let stories: Vec<_> = real.into_iter().map(|(_, why)| why).collect();
    RepositoryError::new(fault, format!("no store with a repository can be read: {}", stories.join("; ")))
}

/// Damage, rollback, forks and doubles: what takes a replica out of writing although its log can be read.
async fn audit(
    env: &Env,
    set: &ReplicaSet,
    logs: &mut [Option<Log>],
    seen: &BTreeMap<Hash, Head>,
    faults: &mut BTreeMap<usize, (Fault, String)>,
) -> Result<(), RepositoryError> {
    let mut by_id: BTreeMap<Hash, usize> = BTreeMap::new();
    let gone: BTreeSet<Hash> = logs.iter().flatten().flat_map(|log| retired(&log.state)).collect();
    for index in 0..logs.len() {
        let name = &set.replicas[index].name;
        let Some(id) = logs[index].as_ref().map(|log| log.state.replica_id) else { continue };
        let mut heads: Vec<Head> = Vec::new();
        if let Some(id) = id {
            if let Some(other) = by_id.insert(id, index) {
                return Err(RepositoryError::new(
                    Fault::Usage,
                    format!("stores {} and {name} are one and the same replica: configure it once", set.replicas[other].name),
                ));
            }
            let others = logs.iter().flatten().filter_map(|other| other.state.heads.get(&id));
            heads = others.chain(seen.get(&id)).copied().collect();
            heads.dedup();
        }
        let Some(log) = &mut logs[index] else { continue };
        if heads.iter().any(|head| log.is_before(head)) {
            // Others may have seen a record that was written after this log was read: it is read on before anything is said.
            let patience = set.settings.stall;
            let caught_up = while_it_answers(env, &set.replicas[index], patience, "reading its log", log.catch_up()).await;
            if let Err(e) = caught_up.map_err(RepositoryError::from).and_then(|done| done) {
                faults.insert(index, (e.fault, story(&e)));
                continue;
            }
        }
        if let Some(damage) = &log.damaged {
            let advice = format!("`holdfast repair log {name}` ends it and begins another");
            faults.insert(index, (damage.fault, format!("{}: {advice}", damage.why)));
        }
        if log.is_unfinished() || (log.damaged.is_none() && log.state.closed.is_some()) {
            let why =
                format!("store {name}: the repair of its log was interrupted: run `holdfast repair log {name}` to finish it");
            faults.entry(index).or_insert((Fault::Integrity, why));
        }
        if id.is_some_and(|id| gone.contains(&id)) {
            let why = format!("store {name} was retired: take it out of the configuration");
            faults.entry(index).or_insert((Fault::Refused, why));
        }
        if id.is_none() {
            let why = format!("store {name}: its log has not begun: run `holdfast heal` to make it a replica");
            faults.entry(index).or_insert((Fault::NoRepository, why));
        }
        for head in heads {
            match log.agrees_with(&head).await {
                Ok(true) => {}
                Ok(false) => {
                    let why = format!(
                        "store {name}: its log was at epoch {} slot {} when last seen and is not any more: it was rolled back or \
                         replaced: bring back what was there, or let `holdfast repair log {name}` begin another log",
                        head.epoch, head.slot
                    );
                    faults.insert(index, (Fault::Rollback, why));
                }
                // Not known is no reason to cry rollback, and none to write.
                Err(e) => {
                    faults.entry(index).or_insert((e.fault, story(&e)));
                }
            }
        }
    }
    Ok(())
}

/// How often a store is asked whether it refuses to create what exists: a request that fails and is sent again looks like
/// one that created, because what is there then are its own bytes.
const PROBES: usize = 5;

/// Whether a store refuses to create an object that exists and holds these very bytes.
pub async fn refuses(replica: &Replica, name: &ObjectName, stored: &Bytes) -> Result<bool, StoreError> {
    for _ in 0..PROBES {
        match replica.store.put(name, stored.clone()).await {
            Ok(()) => {}
            Err(e) if e.kind == StoreErrorKind::AlreadyExists => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// What is said of a store that does not.
pub(super) fn careless(replica: &Replica, name: &ObjectName) -> (Fault, String) {
    let why = format!(
        "store {}: created {name} although it exists: the store ignores create-if-absent and cannot be shared safely",
        replica.name
    );
    (Fault::Unsupported, why)
}

/// Whether each store refuses to create what exists. The descriptor's own bytes are sent: a store that ignores the
/// condition overwrites them with themselves.
async fn probe(
    env: &Env,
    set: &ReplicaSet,
    logs: &[Option<Log>],
    found: &[(usize, Descriptor, Bytes)],
    faults: &mut BTreeMap<usize, (Fault, String)>,
) {
    let name = layout::descriptor();
    let usable = |index: usize| logs[index].is_some() && !faults.contains_key(&index);
    let asked = found.iter().filter(|(index, ..)| usable(*index));
    let replicas: Vec<(&Replica, &Bytes)> = asked.map(|(index, _, own)| (&set.replicas[*index], own)).collect();
    let patience = set.settings.stall;
    let answers =
        join_all(replicas.iter().map(|(r, own)| while_it_answers(env, r, patience, "opening", refuses(r, &name, own)))).await;
    for ((replica, _), answer) in replicas.into_iter().zip(answers) {
        match answer.and_then(|refused| refused) {
            Ok(true) => {}
            Ok(false) => {
                faults.insert(replica.index, careless(replica, &name));
            }
            Err(e) => {
                let e = RepositoryError::from(e);
                faults.insert(replica.index, (e.fault, story(&e)));
            }
        }
    }
}
