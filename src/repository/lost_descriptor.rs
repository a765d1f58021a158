//! The descriptor made again where no store has it any more: all it says stands in the key slots, too, or is the same everywhere.

use bytes::Bytes;
use futures::StreamExt;

use crate::chunk::split::ChunkerSpec;
use crate::clock::Env;
use crate::format::descriptor::Descriptor;
use crate::format::key_slot::{Generation, KeySlot};
use crate::format::record::{Expected, decode_slot};
use crate::format::{FormatError, Hash, SMALL_MAX, object_hash};
use crate::replica::write::put_proven;
use crate::replica::{Member, Replica, ReplicaSet, ReplicaSettings};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::{SLOTS_MAX, Unlock, try_slot};
use crate::repository::layout::{self, Class};
use crate::repository::open::{descriptor_at, floor, story};
use crate::seal::key::RepositoryKeys;
use crate::store::error::StoreError;

/// So many records are tried to learn whose log it is: one that can be read is enough.
const RECORDS_TRIED: usize = 64;

/// What is made again, and how.
#[derive(Clone, Debug)]
pub struct DescriptorSettings {
    /// The store that lost it, by its configured name.
    pub at: String,
    /// Say what would be written; write nothing.
    pub dry_run: bool,
    /// How content is cut from now on; what was cut otherwise stays readable, but is not found again.
    pub chunker: ChunkerSpec,
    /// Admits key derivations that are too cheap to be safe: tests only.
    pub lowered_kdf: bool,
}

/// A key slot that the operator's secret opens, and the first generation's secret that goes with it.
struct Candidate {
    repository_id: Hash,
    keys: RepositoryKeys,
    descriptor: Descriptor,
}

/// Writes the descriptor of a store that lost it; gives the repository's id. Refused ([`Fault::Refused`]) where another store has
/// one, which `heal` brings, and where the store has one that is damaged, which only its owner takes away. Every store must answer.
pub async fn make_again(
    env: &Env,
    members: Vec<Member>,
    settings: &DescriptorSettings,
    unlock: &Unlock,
) -> Result<Hash, RepositoryError> {
    let set = ReplicaSet::new(members, ReplicaSettings::default());
    let name = layout::descriptor();
    if let Some((closed, _, e)) = set.closed.first() {
        let why = format!("store {closed} cannot be asked whether it has the descriptor: {}", e.story());
        return Err(RepositoryError::new(RepositoryError::from_kind(e.kind), why));
    }
    let mut lost = None;
    for replica in &set.replicas {
        let own = replica.name == settings.at;
        match descriptor_at(replica).await {
            Ok(Some(_)) if own => return Err(refused(format!("store {}: its descriptor is there and whole", replica.name))),
            Ok(Some(_)) => {
                return Err(refused(format!("store {} has the descriptor: `holdfast heal` brings it from there", replica.name)));
            }
            Ok(None) if own => {
                let why = format!("store {}: there is no log either, so nothing says that a repository was here", replica.name);
                return Err(RepositoryError::new(Fault::NoRepository, why));
            }
            Ok(None) => {}
            // It was lost, or is damaged there, too.
            Err(e) if e.fault == Fault::Integrity => {
                if own && replica.store.stat(&name).await?.is_some() {
                    let why = "nothing is overwritten: take this one away, keep it, and run this again";
                    return Err(refused(format!("{}: {why}", story(&e))));
                }
                if own {
                    lost = Some(replica);
                }
            }
            Err(e) => return Err(e),
        }
    }
    let lost = lost.ok_or_else(|| RepositoryError::new(Fault::Usage, format!("there is no store {:?}", settings.at)))?;
    let found = settle(lost, candidates(env, lost, settings, unlock).await?).await?;
    let stored =
        found.descriptor.encode().map_err(|e| RepositoryError::caused(Fault::Failed, "could not write the descriptor", e))?;
    if !settings.dry_run {
        put_proven(lost, &name, &stored).await?;
    }
    Ok(found.repository_id)
}

fn refused(why: String) -> RepositoryError {
    RepositoryError::new(Fault::Refused, why)
}

/// All that could have been described: one, unless somebody lost a race to make a repository here.
async fn candidates(
    env: &Env,
    replica: &Replica,
    settings: &DescriptorSettings,
    unlock: &Unlock,
) -> Result<Vec<Candidate>, RepositoryError> {
    let (mut slots, mut generations): (Vec<(KeySlot, Bytes)>, Vec<Bytes>) = Default::default();
    let mut listing = replica.store.list(layout::prefix(Class::Key));
    while let Some(info) = listing.next().await {
        let info = info?;
        let Some((_, hash)) = layout::parse_hashed(&info.name) else { continue };
        if info.size > SMALL_MAX as u64 {
            continue;
        }
        let stored = replica.store.get(&info.name, None).await?;
        if object_hash(&stored) != hash {
            continue;
        }
        match Generation::is_one(&stored) {
            true => generations.push(stored),
            false => slots.extend(KeySlot::decode(&stored).ok().map(|slot| (slot, stored))),
        }
        if slots.len() + generations.len() > 2 * SLOTS_MAX {
            break;
        }
    }
    slots.sort_by_key(|(slot, stored)| (slot.info.created, object_hash(stored)));
    let mut found: Vec<Candidate> = Vec::new();
    let mut opened = false;
    for (slot, stored) in slots.iter().take(SLOTS_MAX) {
        let repository_id = slot.info.repository_id;
        if found.iter().any(|one| one.repository_id == repository_id) {
            continue;
        }
        // One that is damaged must not keep another from being tried.
        let Ok(Some(root)) = try_slot(env, stored, &repository_id, unlock, floor(settings.lowered_kdf)).await else { continue };
        opened = true;
        let keys = RepositoryKeys::from_root(&root);
        let first = |one: &&Bytes| Generation::decode(one, &keys.wrap, &repository_id).is_ok_and(|one| one.number == 1);
        if let Some(generation) = generations.iter().find(first) {
            let (slot, generation) = (object_hash(stored), object_hash(generation));
            let descriptor = Descriptor::new(repository_id, settings.chunker, slot, generation);
            found.push(Candidate { repository_id, keys, descriptor });
        }
    }
    match (found.is_empty(), opened) {
        (false, _) => Ok(found),
        (true, true) => Err(RepositoryError::new(Fault::Integrity, "the repository's generation secret was lost, too")),
        (true, false) => {
            Err(RepositoryError::new(Fault::WrongKey, "wrong passphrase or key file: no key slot there opens with it"))
        }
    }
}

/// Whose the log is: of several candidates the one whose key reads a record of it.
async fn settle(replica: &Replica, found: Vec<Candidate>) -> Result<Candidate, RepositoryError> {
    let mut listing = replica.store.list("log/").take(RECORDS_TRIED);
    while let Some(info) = listing.next().await {
        let name = info?.name;
        let epoch = name.as_str().split('/').nth(1).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some((epoch, slot)) = epoch.and_then(|epoch| Some((epoch, layout::parse_slot(epoch, &name)?))) else { continue };
        let Ok::<Bytes, StoreError>(stored) = replica.store.get(&name, None).await else { continue };
        let expected = Expected { replica_id: None, epoch, slot };
        let reads = |one: &Candidate| -> Result<(), FormatError> {
            decode_slot(&stored, &one.keys.log, &one.repository_id, &expected).map(drop)
        };
        if let Some(at) = found.iter().position(|one| reads(one).is_ok()) {
            return Ok(found.into_iter().nth(at).expect("it was just found"));
        }
    }
    let why = "no record of its log can be read with this key";
    Err(RepositoryError::new(Fault::Integrity, format!("store {}: {why}: whose it is cannot be told", replica.name)))
}
