//! Making a repository. Whoever creates the descriptor at the first store (in URL order) decides; losers adopt it.
//! Every step can be repeated: a run that was cut off is finished by the next.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::StreamExt;

use crate::chunk::split::ChunkerSpec;
use crate::clock::Env;
use crate::format::descriptor::Descriptor;
use crate::format::key_slot::Generation;
use crate::format::record::{Expected, decode_slot};
use crate::format::{Hash, object_hash};
use crate::replica::patience::while_it_answers;
use crate::replica::read::read_one;
use crate::replica::write::put_proven;
use crate::replica::{Mask, Member, Replica, ReplicaSet, ReplicaSettings};
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::{self, Keyring, Unlock};
use crate::repository::layout::{self, Class};
use crate::repository::log::{Log, chain, read_error};
use crate::repository::open::{descriptor_at, floor, refuses, story, worst};
use crate::repository::probe::examine;
use crate::repository::unlock::unlock_descriptor;
use crate::seal::key::{KdfParams, RepositoryKeys, Secret};
use crate::store::error::StoreErrorKind;

/// What a new repository is made with.
#[derive(Clone, Debug)]
pub struct InitSettings {
    /// Cost of stretching the passphrase.
    pub kdf: KdfParams,
    /// Admits a cost that is too low to be safe: tests only.
    pub lowered_kdf: bool,
    /// How content is cut.
    pub chunker: ChunkerSpec,
    /// The operator's name for the first key slot.
    pub label: String,
}

impl Default for InitSettings {
    fn default() -> InitSettings {
        InitSettings { kdf: KdfParams::default(), lowered_kdf: false, chunker: ChunkerSpec::default(), label: "first".into() }
    }
}

/// What `init` did.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// The repository's id.
    pub repository_id: Hash,
    /// Whether it was made now (else it was there).
    pub created: bool,
    /// Each store, and what happened there.
    pub replicas: Vec<(String, String)>,
    /// Stores at which it could not be completed: name, class, why.
    pub failed: Vec<(String, Fault, String)>,
    /// Things worth saying that are no errors.
    pub notes: Vec<String>,
}

/// Makes a repository at all members, or completes the one that is there.
pub async fn init(
    env: &Env,
    members: Vec<Member>,
    settings: &InitSettings,
    unlock: &Unlock,
) -> Result<InitReport, RepositoryError> {
    if let Unlock::Passphrase(text) = unlock
        && text.is_empty()
    {
        return Err(RepositoryError::new(Fault::Usage, "the passphrase is empty"));
    }
    let set = ReplicaSet::new(members, ReplicaSettings::default());
    let mut failed: Vec<(String, Fault, String)> =
        set.closed.iter().map(|(name, _, e)| (name.clone(), RepositoryError::from_kind(e.kind), e.story())).collect();
    let mut found: Vec<(usize, Bytes, Descriptor)> = Vec::new();
    let mut absent: Vec<&Replica> = Vec::new();
    for replica in &set.replicas {
        match descriptor_at(replica).await {
            Ok(Some((stored, descriptor))) => found.push((replica.index, stored, descriptor)),
            Ok(None) => absent.push(replica),
            Err(e) => failed.push((replica.name.clone(), e.fault, story(&e))),
        }
    }
    let mut created = false;
    let (stored, descriptor) = match found.first().cloned() {
        Some((first, stored, descriptor)) => {
            if let Some((other, _, _)) = found.iter().find(|(_, _, d)| d.repository_id != descriptor.repository_id) {
                return Err(RepositoryError::new(
                    Fault::Usage,
                    format!(
                        "stores {} and {} hold different repositories: name only stores of one",
                        set.replicas[first].name, set.replicas[*other].name
                    ),
                ));
            }
            (stored, descriptor)
        }
        None => {
            if let Some(fault) = worst(failed.iter().map(|(_, fault, _)| *fault)) {
                let stories: Vec<_> = failed.iter().map(|(_, _, why)| why.clone()).collect();
                return Err(RepositoryError::new(
                    fault,
                    format!(
                        "nothing was created: no repository was found, but not every store could be asked ({}): try again when all answer",
                        stories.join("; ")
                    ),
                ));
            }
            let (stored, mine) = create(env, &absent, settings, unlock).await?;
            created = mine;
            let descriptor = Descriptor::decode(&stored)
                .map_err(|e| RepositoryError::caused(Fault::Integrity, "the descriptor that was just written", e))?;
            found.push((decider(&absent).index, stored.clone(), descriptor.clone()));
            (stored, descriptor)
        }
    };
    let mut mask = Mask(found.iter().fold(0, |m, (i, _, _)| m | 1 << i));
    let (keyring, _) = unlock_descriptor(env, &set, mask, &descriptor, unlock, settings.lowered_kdf, keyring::LEVEL).await?;
    let keyring = std::sync::Arc::new(keyring);
    let (mut replicas, mut notes) = (Vec::new(), Vec::new());
    for replica in &set.replicas {
        if failed.iter().any(|(name, _, _)| *name == replica.name) {
            continue;
        }
        match complete(env, &set, mask, replica, &keyring, &stored, &descriptor, &BTreeSet::new()).await {
            Ok((what, note)) => {
                notes.extend(note);
                // The next ones can have the keys from here, too: the store that decided may fail on the way.
                mask = mask.or(Mask::one(replica.index));
                replicas.push((replica.name.clone(), what));
            }
            Err(e) => failed.push((replica.name.clone(), e.fault, story(&e))),
        }
    }
    Ok(InitReport { repository_id: keyring.repository_id, created, replicas, failed, notes })
}

/// The store whose descriptor decides.
fn decider<'a>(replicas: &[&'a Replica]) -> &'a Replica {
    replicas.iter().min_by_key(|r| &r.url).expect("init is given at least one store")
}

/// Writes keys and descriptor at the first store; gives the descriptor that won, and whether it is ours.
async fn create(
    env: &Env,
    replicas: &[&Replica],
    settings: &InitSettings,
    unlock: &Unlock,
) -> Result<(Bytes, bool), RepositoryError> {
    for replica in replicas {
        refuse_foreign(replica).await?;
    }
    let first = decider(replicas);
    let root = Secret::new(env.random());
    let repository_id: Hash = env.random();
    let slot =
        keyring::make_slot(env, repository_id, &root, unlock, settings.kdf, floor(settings.lowered_kdf), &settings.label).await?;
    let failed = |e| RepositoryError::caused(Fault::Failed, "could not make a repository", e);
    let generation = Generation { number: 1, secret: Secret::new(env.random()) }
        .encode(&RepositoryKeys::from_root(&root).wrap, &repository_id, env.random())
        .map_err(failed)?;
    for object in [&slot, &generation] {
        put_proven(first, &layout::hashed(Class::Key, &object_hash(object)), object).await?;
    }
    let descriptor = Descriptor::new(repository_id, settings.chunker, object_hash(&slot), object_hash(&generation));
    let stored = descriptor.encode().map_err(failed)?;
    match first.store.put(&layout::descriptor(), stored.clone()).await {
        Ok(()) => Ok((stored, true)),
        Err(e) if e.kind == StoreErrorKind::AlreadyExists || e.is_ambiguous() => {
            let now = first.store.get(&layout::descriptor(), None).await?;
            let mine = now == stored;
            Ok((now, mine))
        }
        Err(e) => Err(e.into()),
    }
}

/// A prefix that holds what is not ours is no place for a repository.
async fn refuse_foreign(replica: &Replica) -> Result<(), RepositoryError> {
    let mut listing = replica.store.list("");
    while let Some(info) = listing.next().await {
        let info = info?;
        if !layout::is_ours(&info.name) {
            return Err(RepositoryError::new(
                Fault::Usage,
                format!("store {}: holds {} and is no repository: choose an empty place", replica.name, info.name),
            ));
        }
        if !info.name.as_str().starts_with(layout::prefix(Class::Key)) {
            // Someone else may be making the same repository at this moment: the descriptor comes before whatever else there is.
            if replica.store.stat(&layout::descriptor()).await?.is_some() {
                return Ok(());
            }
            return Err(RepositoryError::new(
                Fault::Integrity,
                format!("store {}: holds {} but no descriptor: its descriptor was lost", replica.name, info.name),
            ));
        }
    }
    Ok(())
}

/// Brings keys, descriptor and genesis to one store.
#[allow(clippy::too_many_arguments)]
async fn complete(
    env: &Env,
    set: &ReplicaSet,
    from: Mask,
    replica: &Replica,
    keyring: &std::sync::Arc<Keyring>,
    stored: &Bytes,
    descriptor: &Descriptor,
    revoked: &BTreeSet<Hash>,
) -> Result<(String, Option<String>), RepositoryError> {
    let had = replica.store.stat(&layout::descriptor()).await?.is_some();
    if !had {
        refuse_foreign(replica).await?;
    }
    for key in [&descriptor.key_slot, &descriptor.generation] {
        let hash = Hash::try_from(key.as_ref()).unwrap_or_default();
        let name = layout::hashed(Class::Key, &hash);
        if revoked.contains(&hash) {
            continue;
        }
        if replica.store.stat(&name).await?.is_none() {
            let (bytes, _) = crate::replica::read::read_any(set, from, &name, None, async |bytes: Bytes| {
                if object_hash(&bytes) == hash { Ok(bytes) } else { Err("its bytes do not match its name".into()) }
            })
            .await;
            let bytes =
                bytes.ok_or_else(|| RepositoryError::new(Fault::Integrity, format!("{name} cannot be had from any store")))?;
            put_proven(replica, &name, &bytes).await?;
        }
    }
    if !had {
        match replica.store.put(&layout::descriptor(), stored.clone()).await {
            Ok(()) => {}
            Err(e) if e.kind == StoreErrorKind::AlreadyExists || e.is_ambiguous() => {
                if replica.store.get(&layout::descriptor(), None).await? != *stored {
                    return Err(RepositoryError::new(
                        Fault::Usage,
                        format!("store {}: another repository was made there meanwhile", replica.name),
                    ));
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    if !refuses(replica, &layout::descriptor(), stored).await? {
        return Err(RepositoryError::new(
            Fault::Unsupported,
            format!("store {}: ignores create-if-absent and cannot be shared safely", replica.name),
        ));
    }
    let mut log = Log::load(env, replica, keyring, env.random(), 1).await?;
    let begun = log.state.slot > 0 || log.damaged.is_some();
    let mut note = None;
    if !begun {
        note = examine(env, replica, &layout::descriptor(), stored).await?;
        log.create_genesis(&[]).await?;
    }
    let what = match (had, begun) {
        (true, true) => "was there",
        (true, false) => "completed",
        (false, _) => "created",
    };
    Ok((what.into(), note))
}

impl Repository {
    /// The stores that answer and are no replica yet: no descriptor, or a log that has not begun.
    pub fn unbegun(&self) -> Mask {
        let begun = |i: &usize| !self.fault(*i).is_some_and(|(fault, _)| fault == Fault::NoRepository);
        Mask(self.set.all().indices().filter(|i| !begun(i)).fold(0, |m, i| m | 1 << i))
    }

    /// Makes an empty store a replica of this repository: keys that were not withdrawn, descriptor, genesis. The repository
    /// must be opened anew to write to it. A store that holds anything else is refused ([`Fault::Usage`]).
    pub async fn begin(&self, index: usize) -> Result<(), RepositoryError> {
        let replica = &self.set.replicas[index];
        let stored = self.stored_descriptor().await?;
        let patience = self.set.settings.stall;
        let work = async {
            self.may_begin(index).await?;
            // Before the descriptor: whoever finds that must find the keys.
            self.copy_keys(Mask::one(index), false).await.into_iter().try_for_each(|one| one.copied.map(drop))?;
            let revoked = self.revoked().await;
            complete(&self.env, &self.set, self.readable(), replica, &self.keyring, &stored, self.descriptor(), &revoked).await
        };
        while_it_answers(&self.env, replica, patience, "making it a replica", work).await??;
        Ok(())
    }

    /// Whether nothing else lies at an empty store, as [`Repository::begin`] asks; writes nothing.
    pub async fn may_begin(&self, index: usize) -> Result<(), RepositoryError> {
        let replica = &self.set.replicas[index];
        match descriptor_at(replica).await? {
            None => refuse_foreign(replica).await,
            Some(_) => Ok(()),
        }
    }

    /// The descriptor's bytes, from the first store that has them.
    async fn stored_descriptor(&self) -> Result<Bytes, RepositoryError> {
        for other in self.set.reading_order(self.readable()) {
            match descriptor_at(other).await {
                Ok(Some((bytes, found))) if found == *self.descriptor() => return Ok(bytes),
                _ => continue,
            }
        }
        Err(RepositoryError::new(Fault::Integrity, "the descriptor can be read from no store"))
    }

    /// Brings the descriptor back to a store that lost it and has a log of this repository; whether that was so. The repository
    /// must be opened anew to write to it. One that is there and damaged is not touched.
    pub async fn bring_descriptor(&self, index: usize) -> Result<bool, RepositoryError> {
        let (replica, keyring) = (&self.set.replicas[index], &self.keyring);
        let (name, first) = (layout::descriptor(), layout::slot(1, 1));
        let work = async {
            if replica.store.stat(&name).await?.is_some() || replica.store.stat(&first).await?.is_none() {
                return Ok(false);
            }
            // Whose log it is, its first record says.
            let expected = Expected { replica_id: None, epoch: 1, slot: 1 };
            let read = read_one(replica, &first, None, async |bytes: Bytes| {
                decode_slot(&bytes, &keyring.keys.log, &keyring.repository_id, &expected).map_err(|e| chain(&e))
            });
            if let Err(fault) = read.await {
                return Err(read_error(&first, fault));
            }
            put_proven(replica, &name, &self.stored_descriptor().await?).await?;
            Ok(true)
        };
        while_it_answers(&self.env, replica, self.set.settings.stall, "bringing its descriptor back", work).await?
    }
}
