//! Key slots: listed, added, withdrawn.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::format::key_slot::{self, Generation, KeySlot};
use crate::format::record::{Action, Revoke};
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::patience::while_it_answers;
use crate::replica::read::{ReadFault, read_any, read_one};
use crate::replica::write::put_proven;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::{self, Unlock};
use crate::repository::layout::{self, Class};
use crate::repository::open::floor;
use crate::seal::key::KdfParams;
use crate::store::error::StoreError;

/// A key slot, as listed.
#[derive(Clone, Debug)]
pub struct KeyView {
    /// Its name, a hash.
    pub id: Hash,
    /// `passphrase` or `key file`.
    pub kind: String,
    /// The operator's name for it.
    pub label: String,
    /// When it was made, seconds since the Unix epoch.
    pub created: i64,
    /// Whether it was withdrawn.
    pub revoked: bool,
    /// Whether it opened the repository just now.
    pub in_use: bool,
    /// The replicas that hold it.
    pub replicas: Vec<String>,
}

/// What became of the keys at one replica.
#[derive(Debug)]
pub struct KeysCopied {
    /// Its index.
    pub target: usize,
    /// How many it got, or why it could not.
    pub copied: Result<u64, RepositoryError>,
    /// Those that are damaged there, and what to do: their names are taken, and nothing is overwritten.
    pub damaged: Vec<String>,
}

impl Repository {
    /// The key slots at all readable replicas.
    pub async fn keys(&self) -> Result<Vec<KeyView>, RepositoryError> {
        let mut views: Vec<KeyView> = Vec::new();
        for index in self.readable().indices() {
            let replica = &self.set.replicas[index];
            let mut listing = replica.store.list(layout::prefix(Class::Key));
            while let Some(info) = listing.next().await {
                let info = info?;
                let Some((_, id)) = layout::parse_hashed(&info.name) else { continue };
                if let Some(view) = views.iter_mut().find(|v| v.id == id) {
                    view.replicas.push(replica.name.clone());
                    continue;
                }
                let stored = replica.store.get(&info.name, None).await?;
                if Generation::is_one(&stored) || object_hash(&stored) != id {
                    continue;
                }
                // A slot of a lost race or of a newer version is none of ours.
                let Ok(slot) = KeySlot::decode(&stored) else { continue };
                if slot.info.repository_id != self.id() {
                    continue;
                }
                let kind = match slot.info.unlock {
                    key_slot::Unlock::Passphrase { .. } => "passphrase",
                    key_slot::Unlock::KeyFile => "key file",
                };
                views.push(KeyView {
                    id,
                    kind: kind.into(),
                    label: slot.info.label,
                    created: slot.info.created,
                    revoked: false,
                    in_use: id == self.keyring.slot,
                    replicas: vec![replica.name.clone()],
                });
            }
        }
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                views.iter_mut().for_each(|v| v.revoked |= log.state.revoked.contains(&v.id));
            }
        }
        views.sort_by_key(|v| (v.created, v.id));
        Ok(views)
    }

    /// Adds a key slot at every writable replica; gives its name. Fails unless the write quorum has it.
    pub async fn add_key(&self, unlock: &Unlock, kdf: KdfParams, lowered: bool, label: &str) -> Result<Hash, RepositoryError> {
        if let Unlock::Passphrase(text) = unlock
            && text.is_empty()
        {
            return Err(RepositoryError::new(Fault::Usage, "the passphrase is empty"));
        }
        let slot = keyring::make_slot(&self.env, self.id(), self.keyring.root(), unlock, kdf, floor(lowered), label).await?;
        let id = object_hash(&slot);
        let name = layout::hashed(Class::Key, &id);
        let mut done = 0;
        let mut errors = Vec::new();
        for index in self.writable().indices() {
            match put_proven(&self.set.replicas[index], &name, &slot).await {
                Ok(_) => done += 1,
                Err(e) => errors.push(e.to_string()),
            }
        }
        self.quorum("the new key", done, errors)?;
        Ok(id)
    }

    /// Withdraws the key slot whose name begins with `prefix`, in every writable log; gives its name. The last slot, and
    /// the one in use, stay.
    pub async fn remove_key(&self, prefix: &str) -> Result<Hash, RepositoryError> {
        let usage = |message: String| Err(RepositoryError::new(Fault::Usage, message));
        let views: Vec<KeyView> = self.keys().await?.into_iter().filter(|v| !v.revoked).collect();
        let matching: Vec<_> = views.iter().filter(|v| hex::encode(v.id).starts_with(&prefix.to_ascii_lowercase())).collect();
        let id = match matching.as_slice() {
            [one] if one.in_use => {
                return usage("this key is in use: open the repository with another one to withdraw it".into());
            }
            [one] => one.id,
            [] => return usage(format!("there is no key whose id begins with {prefix}")),
            several => return usage(format!("{} keys' ids begin with {prefix}: write more of it", several.len())),
        };
        let heads = self.record_heads();
        let (mut done, mut errors) = (0, Vec::new());
        for index in self.writable().indices() {
            let Some(mut log) = self.log(index).await else { continue };
            let action = Action::Revoke(Revoke { key_slots: vec![Bytes::copy_from_slice(&id)] });
            match log.append(action, true, &heads, |_| Ok(())).await {
                Ok(()) => {
                    done += 1;
                    self.remember(&log);
                }
                Err(e) => errors.push(e.to_string()),
            }
        }
        self.quorum("the withdrawal", done, errors)?;
        Ok(id)
    }

    /// Key slots that some readable log withdrew.
    pub async fn revoked(&self) -> BTreeSet<Hash> {
        let mut revoked = BTreeSet::new();
        for index in self.readable().indices() {
            if let Some(log) = self.log(index).await {
                revoked.extend(&log.state.revoked);
            }
        }
        revoked
    }

    /// Brings the key slots and generation secrets of this repository that were not withdrawn to the replicas of `to` that
    /// lack them, and looks at those that they have; what was withdrawn is withdrawn in their logs, too. A dry run counts what
    /// would be copied.
    pub async fn copy_keys(&self, to: Mask, dry_run: bool) -> Vec<KeysCopied> {
        let revoked = self.revoked().await;
        let mut held: BTreeMap<Hash, Mask> = BTreeMap::new();
        let fresh = |target| KeysCopied { target, copied: Ok(0), damaged: Vec::new() };
        let mut out: Vec<KeysCopied> = to.indices().map(fresh).collect();
        for one in out.iter_mut().filter(|one| !dry_run && self.writable().has(one.target)) {
            let (replica, patience) = (&self.set.replicas[one.target], self.set.settings.stall);
            let work = self.withdraw(one.target, &revoked);
            let done = while_it_answers(&self.env, replica, patience, "writing to its log", work).await;
            if let Err(e) = done.map_err(RepositoryError::from).and_then(|done| done) {
                one.copied = Err(e);
            }
        }
        for index in self.readable().or(to).indices() {
            let listed: Result<Vec<_>, StoreError> =
                self.set.replicas[index].store.list(layout::prefix(Class::Key)).try_collect().await;
            match (listed, out.iter_mut().find(|one| one.target == index)) {
                (Ok(infos), _) => infos.iter().filter_map(|info| layout::parse_hashed(&info.name)).for_each(|(_, id)| {
                    let at = held.entry(id).or_default();
                    *at = at.or(Mask::one(index));
                }),
                (Err(e), Some(one)) => one.copied = Err(e.into()),
                // The others have the same keys, or it is none the worse.
                (Err(_), None) => {}
            }
        }
        for (id, at) in held.into_iter().filter(|(id, _)| !revoked.contains(id)) {
            let name = layout::hashed(Class::Key, &id);
            let whole = async |stored: Bytes| match object_hash(&stored) == id {
                true => Ok(()),
                false => Err("its bytes do not match its name".into()),
            };
            for one in out.iter_mut().filter(|one| at.has(one.target)) {
                // What cannot be read now is told by whatever needs it.
                if let Err(ReadFault::Damaged(what)) = read_one(&self.set.replicas[one.target], &name, None, whole).await {
                    one.damaged.push(format!("{what}: remove it there, then `holdfast heal` brings it back"));
                }
            }
            if at.covers(to) {
                continue;
            }
            let Some(stored) = self.own_key(&id, at).await else { continue };
            for one in out.iter_mut().filter(|one| !at.has(one.target)) {
                if let Ok(count) = &mut one.copied {
                    if dry_run {
                        *count += 1;
                        continue;
                    }
                    match put_proven(&self.set.replicas[one.target], &name, &stored).await {
                        Ok(_) => *count += 1,
                        Err(e) => one.copied = Err(e.into()),
                    }
                }
            }
        }
        out
    }

    /// A key object's bytes from the first of `at` that has it whole; `None` where none has, or where it is none of this repository:
    /// whoever lost the race for the descriptor left one behind.
    pub async fn own_key(&self, id: &Hash, at: Mask) -> Option<Bytes> {
        let name = layout::hashed(Class::Key, id);
        let ours = async |stored: Bytes| if self.is_key(id, &stored) { Ok(stored) } else { Err("it is no key of ours".into()) };
        read_any(&self.set, at.and(self.readable()), &name, None, ours).await.0
    }

    /// Records in a log what others withdrew: whoever has that store alone must not open it with such a key.
    async fn withdraw(&self, index: usize, revoked: &BTreeSet<Hash>) -> Result<(), RepositoryError> {
        let heads = self.record_heads();
        let Some(mut log) = self.log(index).await else { return Ok(()) };
        let key_slots: Vec<Bytes> = revoked.difference(&log.state.revoked).map(|id| Bytes::copy_from_slice(id)).collect();
        if !key_slots.is_empty() {
            log.append(Action::Revoke(Revoke { key_slots }), true, &heads, |_| Ok(())).await?;
            self.remember(&log);
        }
        Ok(())
    }

    /// Whether an object is a generation secret or a key slot of this repository, and whole.
    fn is_key(&self, id: &Hash, stored: &Bytes) -> bool {
        let slot = || KeySlot::decode(stored).is_ok_and(|slot| slot.info.repository_id == self.id());
        let generation = || Generation::decode(stored, &self.keyring.keys.wrap, &self.id()).is_ok();
        object_hash(stored) == *id && if Generation::is_one(stored) { generation() } else { slot() }
    }

    fn quorum(&self, what: &str, done: usize, errors: Vec<String>) -> Result<(), RepositoryError> {
        let quorum = self.set.write_quorum();
        if done >= quorum {
            return Ok(());
        }
        Err(RepositoryError::new(
            Fault::Failed,
            format!("{what} is at {done} replicas, {quorum} are needed: {}", errors.join("; ")),
        ))
    }
}
