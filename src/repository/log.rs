//! The commit log of one replica: read to its end, verified, appended to with create-if-absent.
//!
//! Nothing here needs a clock, a lock or a listing. A slot once created never changes; whoever creates slot n has read
//! all of 1..n-1 and verified its record against them; whoever loses the race reads the winner and verifies again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use crate::clock::{Env, Planted};
use crate::format::list::HashList;
use crate::format::record::{self, Action, Body, Expected, Genesis, SlotHeader};
use crate::format::{FormatError, Hash, object_hash};
use crate::replica::Replica;
use crate::replica::read::{ReadFault, read_one};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::heads::Head;
use crate::repository::keyring::Keyring;
use crate::repository::layout::{self, Class};
use crate::repository::state::State;
use crate::store::error::{StoreError, StoreErrorKind};

/// How many lost races in a row are taken before giving up with [`Fault::Contention`].
const RACES_MAX: u32 = 200;
/// How many times the same bytes are sent to a slot whose creation stays unknown, before the outcome is reported as unknown.
const SENDS_MAX: u32 = 4;
/// How many slots are asked for at once when catching up.
const WINDOW_MAX: u64 = 16;

/// Why a log is read no further, and appended to no more.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// Damage to a slot is [`Fault::Integrity`]; a slot that is missing or of another history is [`Fault::Rollback`].
    pub fault: Fault,
    /// The story.
    pub why: String,
}

/// One replica's log, and its state as of the last slot read.
pub struct Log {
    /// Where it lies.
    pub replica: Replica,
    /// What it says.
    pub state: State,
    /// Why nothing may be appended, if so. What was read before that slot stands.
    pub damaged: Option<Damaged>,
    /// The last slot that has a checkpoint, as far as known.
    pub checkpointed: u64,
    /// Runs of the sets in the last checkpoint, see `checkpoints`.
    pub(super) runs: crate::repository::checkpoints::Runs,
    pub(super) env: Env,
    pub(super) keyring: Arc<Keyring>,
    /// What any log that this process reads has forgotten; shared by the logs of a repository once it is open.
    pub(super) gone: Arc<Mutex<BTreeSet<Hash>>>,
    run_id: Hash,
    hashes: BTreeMap<u64, Hash>,
}

impl Log {
    /// Reads a log to its end. `seen` is where it stood when last seen from here.
    pub async fn load(
        env: &Env,
        replica: &Replica,
        keyring: &Arc<Keyring>,
        run_id: Hash,
        seen_epoch: u32,
    ) -> Result<Log, RepositoryError> {
        let mut log = Log::unread(env, replica, keyring, run_id, seen_epoch.max(1));
        log.reload().await?;
        Ok(log)
    }

    /// A log of which nothing was read yet.
    pub(super) fn unread(env: &Env, replica: &Replica, keyring: &Arc<Keyring>, run_id: Hash, epoch: u32) -> Log {
        Log {
            replica: replica.clone(),
            state: State { epoch, ..State::default() },
            damaged: None,
            checkpointed: 0,
            runs: crate::repository::checkpoints::Runs::default(),
            env: env.clone(),
            keyring: keyring.clone(),
            gone: Arc::default(),
            run_id,
            hashes: BTreeMap::new(),
        }
    }

    /// Finds the current epoch and reads it from its newest usable checkpoint on.
    async fn reload(&mut self) -> Result<(), RepositoryError> {
        let mut epoch = self.state.epoch;
        while self.replica.store.stat(&layout::slot(epoch + 1, 1)).await?.is_some() {
            epoch += 1;
        }
        self.state = State { epoch, ..State::default() };
        self.hashes.clear();
        self.damaged = None;
        (self.checkpointed, self.runs) = (0, crate::repository::checkpoints::Runs::default());
        self.load_checkpoint().await?;
        self.share(self.gone.clone());
        self.hashes.insert(self.state.slot, self.state.hash);
        // Two at least, wherever that ends: a slot that was taken away is seen by the one behind it.
        self.read_on(2).await
    }

    /// From now on tells `gone` what is forgotten here, all of the past included, and that of an epoch that was left.
    pub(super) fn share(&mut self, gone: Arc<Mutex<BTreeSet<Hash>>>) {
        let known = match Arc::ptr_eq(&gone, &self.gone) {
            true => BTreeSet::new(),
            false => self.gone.lock().expect("no panic while forgotten ids are noted").clone(),
        };
        gone.lock().expect("no panic while forgotten ids are noted").extend(known.iter().chain(&self.state.forgotten));
        self.gone = gone;
    }

    /// Whether a head seen elsewhere is further than this log was read.
    pub fn is_before(&self, seen: &Head) -> bool {
        (seen.epoch, seen.slot) > (self.state.epoch, self.state.slot)
    }

    /// Reads what came since, a newer epoch included.
    pub async fn catch_up(&mut self) -> Result<(), RepositoryError> {
        match self.replica.store.stat(&layout::slot(self.state.epoch + 1, 1)).await? {
            Some(_) => self.reload().await,
            None => self.refresh().await,
        }
    }

    /// Reads what was appended since.
    pub async fn refresh(&mut self) -> Result<(), RepositoryError> {
        self.read_on(1).await
    }

    fn damage(&mut self, fault: Fault, why: String) {
        self.damaged = Some(Damaged { fault, why: format!("store {}: {why}", self.replica.name) });
    }

    /// Reads to the end, `least` slots at once to begin with: where so many are absent, it ends.
    async fn read_on(&mut self, least: u64) -> Result<(), RepositoryError> {
        let mut window = least;
        while self.damaged.is_none() {
            let first = self.state.slot + 1;
            let names: Vec<_> = (first..first + window).map(|n| layout::slot(self.state.epoch, n)).collect();
            let mut found = Vec::new();
            for (name, read) in names.iter().zip(join_all(names.iter().map(|n| self.replica.store.get(n, None))).await) {
                match read {
                    Ok(bytes) => found.push(Some(bytes)),
                    Err(e) if e.kind == StoreErrorKind::NotFound => found.push(None),
                    // Unreadable for good is damage; what may pass is an error of this replica for now.
                    Err(e) if matches!(e.kind, StoreErrorKind::Corrupt | StoreErrorKind::Invalid) => {
                        self.damage(Fault::Integrity, format!("{name} cannot be read: {e}"));
                        return Ok(());
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            let end = found.iter().position(Option::is_none).unwrap_or(found.len());
            // A slot behind an absent one: either it was just written, or the absent one was taken away.
            let later = found[end..].iter().any(Option::is_some);
            let gap = later && self.replica.store.stat(&names[end]).await?.is_none();
            let (complete, absent) = (end == found.len(), (found.len() - end) as u64);
            for bytes in found.into_iter().take(end).flatten() {
                self.fold(bytes).await?;
                if self.damaged.is_some() {
                    return Ok(());
                }
            }
            if gap {
                let name = &names[end];
                let why = format!("{name} is missing although later slots exist: the log was tampered with");
                self.damage(Fault::Rollback, why);
                return Ok(());
            }
            if complete {
                window = (window * 2).min(WINDOW_MAX);
            } else if absent >= least && !later {
                return Ok(());
            } else {
                window = least;
            }
        }
        Ok(())
    }

    /// Verifies the next slot's bytes and folds them in; bytes that do not authenticate after a second read are damage.
    async fn fold(&mut self, first_read: Bytes) -> Result<(), RepositoryError> {
        let slot = self.state.slot + 1;
        let expected = Expected { replica_id: self.state.replica_id, epoch: self.state.epoch, slot };
        let keyring = self.keyring.clone();
        let decode = |bytes: &Bytes| record::decode_slot(bytes, &keyring.keys.log, &keyring.repository_id, &expected);
        let name = layout::slot(self.state.epoch, slot);
        let mut bytes = first_read;
        let decoded = match decode(&bytes) {
            Ok(decoded) => Ok(decoded),
            Err(e) if e.is_unsupported() => Err(e),
            Err(_) => {
                bytes = self.replica.store.get(&name, None).await?;
                decode(&bytes)
            }
        };
        let (header, body) = match decoded {
            Ok(decoded) => decoded,
            Err(e) if e.is_unsupported() => {
                return Err(RepositoryError::caused(Fault::Unsupported, format!("store {}: {name}", self.replica.name), e));
            }
            Err(e) => {
                let why = chain(&e);
                self.damage(Fault::Integrity, format!("{name} is damaged: {why}"));
                return Ok(());
            }
        };
        if body.prev[..] != self.state.hash[..] && slot != 1 {
            self.damage(Fault::Rollback, format!("{name} does not follow the slot before it: the log was forked"));
            return Ok(());
        }
        if body.action.is_none() && body.critical {
            return Err(RepositoryError::new(
                Fault::Unsupported,
                format!("store {}: {name} holds a record that only a newer version of holdfast understands", self.replica.name),
            ));
        }
        self.take(slot, object_hash(&bytes), &header, &body).await
    }

    async fn take(&mut self, slot: u64, hash: Hash, header: &SlotHeader, body: &Body) -> Result<(), RepositoryError> {
        let replica_id = header.replica_id[..].try_into().unwrap_or_default();
        // Lists first: a state that has taken in the record without its lists would think condemned names sound.
        let mut named = Vec::new();
        if let Some(Action::Condemn(condemn)) = &body.action {
            for list in &condemn.lists {
                let hash = list.list[..].try_into().unwrap_or_default();
                match self.load_list(&hash).await {
                    Ok(names) => named.push((list.class(), names)),
                    // What it condemned is not known: the record is as good as lost.
                    Err(e) if e.fault == Fault::Integrity => {
                        let name = layout::slot(self.state.epoch, slot);
                        self.damage(Fault::Integrity, format!("{name} names a list that cannot be read: {e}"));
                        return Ok(());
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        self.state.apply(slot, hash, replica_id, body);
        let forgets = match &body.action {
            Some(Action::Forget(forget)) => &forget.ids[..],
            Some(Action::Commit(commit)) => &commit.replaces[..],
            _ => &[],
        };
        if !forgets.is_empty() {
            let ids = forgets.iter().filter_map(|id| Hash::try_from(id.as_ref()).ok());
            self.gone.lock().expect("no panic while forgotten ids are noted").extend(ids);
        }
        for (class, names) in named {
            self.state.condemn(class, names);
        }
        self.hashes.insert(slot, hash);
        if self.hashes.len() > 4096 {
            self.hashes.pop_first();
        }
        Ok(())
    }

    /// Reads a list object of this replica.
    pub(super) async fn load_list(&self, list: &Hash) -> Result<Vec<Hash>, RepositoryError> {
        let keyring = self.keyring.clone();
        let name = layout::hashed(Class::List, list);
        let read = read_one(&self.replica, &name, None, async |bytes| {
            HashList::decode(&bytes, &keyring.keys.log, &keyring.repository_id).map_err(|e| chain(&e))
        });
        read.await.map(HashList::into_hashes).map_err(|fault| read_error(&name, fault))
    }

    /// Whether the log still has `seen` at its place: if not, it was rolled back or forked.
    pub async fn agrees_with(&self, seen: &Head) -> Result<bool, RepositoryError> {
        let now = self.state.head();
        if seen.slot == 0 || seen.epoch < now.epoch {
            return Ok(true);
        }
        if (seen.epoch, seen.slot) > (now.epoch, now.slot) {
            // A damaged log is read up to the damage only: that is no rollback.
            return Ok(self.damaged.is_some() && seen.epoch == now.epoch);
        }
        if let Some(hash) = self.hashes.get(&seen.slot) {
            return Ok(*hash == seen.hash);
        }
        let name = layout::slot(seen.epoch, seen.slot);
        let read =
            read_one(
                &self.replica,
                &name,
                None,
                async |stored| {
                    if object_hash(&stored) == seen.hash { Ok(()) } else { Err(String::new()) }
                },
            );
        match read.await {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_damage() => Ok(false),
            Err(ReadFault::Store(e)) => Err(e.into()),
            Err(ReadFault::Damaged(_)) => Ok(false),
        }
    }

    /// Opens the log with its genesis record, if it has none.
    pub async fn create_genesis(&mut self, heads: &[record::Head]) -> Result<(), RepositoryError> {
        while self.state.slot == 0 {
            let replica_id: Hash = self.env.random();
            let genesis = Genesis {
                repository_id: Bytes::copy_from_slice(&self.keyring.repository_id),
                replica_id: Bytes::copy_from_slice(&replica_id),
                previous_epoch_head: None,
            };
            self.state.replica_id = None;
            // Whoever loses this race finds the winner's genesis.
            self.create_next(replica_id, Action::Genesis(genesis), true, heads).await?;
            if let Some(damage) = &self.damaged {
                return Err(RepositoryError::new(damage.fault, damage.why.clone()));
            }
        }
        Ok(())
    }

    /// Appends a record. `verify` judges it against the whole fold before every attempt: it is called again after each
    /// lost race, and its error ends the attempt.
    pub async fn append(
        &mut self,
        action: Action,
        critical: bool,
        heads: &[record::Head],
        mut verify: impl FnMut(&State) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        for race in 0..RACES_MAX {
            if self.replica.store.stat(&layout::slot(self.state.epoch + 1, 1)).await?.is_some() {
                // What a record stands on was looked up in the old epoch, and may not be part of the new one.
                let why = "its log was repaired meanwhile and goes on in a new epoch: run the command again";
                return Err(RepositoryError::new(Fault::Failed, format!("store {}: {why}", self.replica.name)));
            }
            if let Some(damage) = &self.damaged {
                return Err(RepositoryError::new(
                    damage.fault,
                    format!("{}; nothing more is written to this replica until its log is repaired", damage.why),
                ));
            }
            if let Some(next) = self.state.closed {
                return Err(RepositoryError::new(
                    Fault::Integrity,
                    format!(
                        "store {}: the log is closed for epoch {next}, which has not begun: its repair was interrupted",
                        self.replica.name
                    ),
                ));
            }
            let Some(replica_id) = self.state.replica_id else {
                return Err(RepositoryError::new(
                    Fault::NoRepository,
                    format!("store {}: the log has no genesis: run `holdfast heal`", self.replica.name),
                ));
            };
            if !self.env.makes(Planted::UnverifiedRecords) {
                verify(&self.state)?;
            }
            if self.create_next(replica_id, action.clone(), critical, heads).await? {
                return Ok(());
            }
            let jitter = u64::from(self.env.random::<1>()[0]);
            self.env.sleep(Duration::from_millis(jitter * u64::from(race.min(20)) / 8)).await;
        }
        Err(RepositoryError::new(
            Fault::Contention,
            format!(
                "store {}: {RACES_MAX} others were faster to write to the log: try again when fewer run at once",
                self.replica.name
            ),
        ))
    }

    /// Tries to create the next slot; `false` when someone else has it (their record is folded in then).
    pub(super) async fn create_next(
        &mut self,
        replica_id: Hash,
        action: Action,
        critical: bool,
        heads: &[record::Head],
    ) -> Result<bool, RepositoryError> {
        let slot = self.state.slot + 1;
        let header = SlotHeader::new(replica_id, self.state.epoch, slot);
        let body = Body {
            prev: Bytes::copy_from_slice(&self.state.hash),
            heads: heads.iter().filter(|h| h.replica_id[..] != replica_id[..]).cloned().collect(),
            nonce: Bytes::copy_from_slice(&self.env.random::<32>()),
            run_id: Bytes::copy_from_slice(&self.run_id),
            time: self.env.now().seconds(),
            critical,
            action: Some(action),
        };
        let stored = record::encode_slot(&header, &body, &self.keyring.keys.log, &self.keyring.repository_id, self.env.random())
            .map_err(|e| RepositoryError::caused(Fault::Failed, "could not write a log record", e))?;
        let name = layout::slot(self.state.epoch, slot);
        if !self.create(&name, &stored).await? {
            self.refresh().await?;
            return Ok(false);
        }
        self.take(slot, object_hash(&stored), &header, &body).await?;
        Ok(true)
    }

    /// Creates a slot: `true` if it holds these bytes now, `false` if it holds others. Every unclear answer is resolved by
    /// reading the slot: my bytes, it is mine; others, lost; absent, the same bytes are sent again.
    async fn create(&self, name: &crate::store::name::ObjectName, stored: &Bytes) -> Result<bool, RepositoryError> {
        let mut last: Option<StoreError> = None;
        for _ in 0..SENDS_MAX {
            match self.replica.store.put(name, stored.clone()).await {
                Ok(()) => return Ok(true),
                Err(e) if e.kind == StoreErrorKind::AlreadyExists || e.is_ambiguous() => last = Some(e),
                Err(e) if last.is_none() => return Err(e.into()),
                // An earlier sending may still arrive: this refusal does not undo it.
                Err(e) => {
                    last = Some(e);
                    break;
                }
            }
            match self.replica.store.get(name, None).await {
                Ok(bytes) => return Ok(bytes == *stored),
                Err(e) if e.kind == StoreErrorKind::NotFound => {}
                Err(e) => last = Some(e),
            }
        }
        let message = format!(
            "store {}: whether {name} was written is not known: the record may or may not be part of the log",
            self.replica.name
        );
        Err(match last {
            Some(e) => RepositoryError::caused(RepositoryError::from_kind(e.kind), message, e),
            None => RepositoryError::new(Fault::Failed, message),
        })
    }
}

/// A read that failed at one replica, as an error about an object.
pub(super) fn read_error(name: &crate::store::name::ObjectName, fault: ReadFault) -> RepositoryError {
    match fault {
        ReadFault::Store(e) if e.kind == StoreErrorKind::NotFound => {
            RepositoryError::new(Fault::Integrity, format!("store {}: {name} is missing", e.store))
        }
        ReadFault::Store(e) => e.into(),
        ReadFault::Damaged(what) => RepositoryError::new(Fault::Integrity, what),
    }
}

/// An error with its causes, in one line.
pub fn chain(e: &FormatError) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
