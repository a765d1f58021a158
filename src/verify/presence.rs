//! What must be there: descriptor, keys, snapshots, lists, checkpoints, and every pack at its right size.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::format::checkpoint::Checkpoint;
use crate::format::descriptor::Descriptor;
use crate::format::pack::PackKind;
use crate::format::record::ObjectClass;
use crate::format::snapshot::Snapshot;
use crate::format::{Hash, object_hash};
use crate::replica::read::{ReadFault, read_one};
use crate::repository::error::Fault;
use crate::repository::layout::{self, Class};
use crate::repository::log::chain;
use crate::store::error::StoreErrorKind;
use crate::store::name::ObjectName;
use crate::store::{ObjectInfo, Store};
use crate::verify::examine::{Examination, Halt, sort};

/// Small objects that are read at once.
const AT_ONCE: usize = 16;
/// Lists that are read at once: they may be large.
const LISTS_AT_ONCE: usize = 2;
/// Key slots that are looked at.
const KEYS_MAX: usize = 4096;
/// Checkpoints that opening would try.
const CHECKPOINTS: usize = 3;

/// What a listing showed.
#[derive(Default)]
pub struct Listed {
    /// Objects in `keys/`.
    pub keys: BTreeSet<Hash>,
    /// Objects in `lists/`.
    pub lists: BTreeSet<Hash>,
    /// Slots of checkpoints of the current epoch, the newest first.
    pub checkpoints: Vec<u64>,
    /// The last slot of the current epoch that was listed.
    pub last_slot: u64,
    /// Objects that nothing knows.
    pub foreign: u64,
    /// Packs that the log relies on.
    pub packs: u64,
}

/// The name of a pack's object.
pub fn pack_name(kind: PackKind, hash: &Hash) -> ObjectName {
    layout::hashed(if kind == PackKind::Meta { Class::MetaPack } else { Class::DataPack }, hash)
}

/// Lists the replica once. What the listing does not show is asked for by name before it counts as missing.
pub async fn verify_packs(what: &Examination<'_>) -> Result<Listed, Halt> {
    let me = what.replica.index;
    let mut listed = Listed::default();
    let mut seen = vec![false; what.index.read().expect("no panic while the index is locked").packs().len()];
    let live: BTreeSet<Hash> = what.facts.snapshots.iter().map(|(_, live)| live.object).collect();
    let mut unknown_snapshots = 0;
    let mut listing = what.replica.store.list("");
    while let Some(info) = listing.next().await {
        what.going_on()?;
        let info = info?;
        match layout::parse_hashed(&info.name) {
            Some((Class::Key, hash)) if listed.keys.len() < KEYS_MAX => {
                listed.keys.insert(hash);
            }
            Some((Class::Key, _)) => listed.foreign += 1,
            Some((Class::List, hash)) => {
                listed.lists.insert(hash);
            }
            Some((Class::Snapshot, hash)) if live.contains(&hash) => {}
            Some((Class::Snapshot, hash)) => {
                unknown_snapshots += u64::from(!what.is_condemned(ObjectClass::Snapshot, &hash).await);
            }
            Some((Class::Segment, hash)) if what.facts.segments.contains(&hash) => {}
            Some((Class::Segment, hash)) => {
                listed.foreign += u64::from(!what.is_condemned(ObjectClass::Index, &hash).await);
            }
            Some((class @ (Class::DataPack | Class::MetaPack), hash)) => {
                let known = known_pack(what, class, &hash);
                match known {
                    Some((number, size)) if size == info.size => {
                        if let Some(seen) = seen.get_mut(number)
                            && !std::mem::replace(seen, true)
                        {
                            what.progress.items.add(1);
                        }
                    }
                    // A size that surprises is asked for by name below.
                    Some(_) => {}
                    None => {
                        let class = if class == Class::MetaPack { ObjectClass::Meta } else { ObjectClass::Data };
                        listed.foreign += u64::from(!what.is_condemned(class, &hash).await);
                    }
                }
            }
            None => listed.other(what, &info),
        }
    }
    drop(listing);
    listed.foreign += unknown_snapshots.saturating_sub(what.facts.forgotten);
    let mut unseen = Vec::new();
    for (number, pack) in what.index.read().expect("no panic while the index is locked").packs().iter().enumerate() {
        if pack.published.has(me) {
            listed.packs += 1;
            if !seen.get(number).is_some_and(|seen| *seen) {
                unseen.push(pack.clone());
            }
        }
    }
    let store: &dyn Store = what.replica.store.as_ref();
    let stats = stream::iter(unseen).map(|pack| async move {
        what.going_on()?;
        let name = pack_name(pack.kind, &pack.hash);
        let found = store.stat(&name).await?;
        Ok::<_, Halt>((pack, name, found))
    });
    stats
        .buffer_unordered(AT_ONCE)
        .try_for_each(|(pack, name, found)| async move {
            match found {
                Some(info) if info.size == pack.size => {}
                Some(info) => {
                    let story = format!("it has {} bytes instead of {}", info.size, pack.size);
                    what.findings.bad_pack(me, pack.hash, &name, story);
                }
                None => what.findings.bad_pack(me, pack.hash, &name, "it is missing"),
            }
            what.progress.items.add(1);
            Ok(())
        })
        .await?;
    Ok(listed)
}

/// Number and size of a pack that this replica's log relies on.
fn known_pack(what: &Examination<'_>, class: Class, hash: &Hash) -> Option<(usize, u64)> {
    let chunks = what.index.read().expect("no panic while the index is locked");
    let number = chunks.pack_number(hash)?;
    let pack = chunks.pack(number);
    let kind = if class == Class::MetaPack { PackKind::Meta } else { PackKind::Data };
    (pack.kind == kind && pack.published.has(what.replica.index)).then_some((number as usize, pack.size))
}

impl Listed {
    /// Takes in an object that is not named by its hash.
    fn other(&mut self, what: &Examination<'_>, info: &ObjectInfo) {
        if !layout::is_ours(&info.name) {
            self.foreign += 1;
        } else if info.name.as_str().starts_with(&layout::checkpoint_prefix(what.facts.epoch))
            && let Some(slot) = layout::parse_checkpoint(&info.name)
            && self.checkpoints.len() < CHECKPOINTS
        {
            self.checkpoints.push(slot);
        } else if let Some(slot) = layout::parse_slot(what.facts.epoch, &info.name) {
            self.last_slot = self.last_slot.max(slot);
        }
    }
}

/// The log must not go on behind a slot that is missing: what follows there says nothing to anybody who reads from the front.
pub async fn verify_end(what: &Examination<'_>, listed: &Listed) -> Result<(), Halt> {
    let (epoch, end, last) = (what.facts.epoch, what.facts.slot, listed.last_slot);
    if last <= end {
        return Ok(());
    }
    let (next, later) = (layout::slot(epoch, end + 1), layout::slot(epoch, last));
    let store = &what.replica.store;
    // Others may have written while it was looked at.
    if store.stat(&next).await?.is_none() && store.stat(&later).await?.is_some() && store.stat(&next).await?.is_none() {
        let why = format!("{next} is missing although {later} is there: run `holdfast repair log {}`", what.replica.name);
        return Err(Halt::Unreachable(Fault::Rollback, format!("store {}: {why}", what.replica.name)));
    }
    Ok(())
}

/// The descriptor must be the one that the repository was opened with.
pub async fn verify_descriptor(what: &Examination<'_>) -> Result<(), Halt> {
    let name = layout::descriptor();
    let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
        let found = Descriptor::decode(&bytes).map_err(|e| chain(&e))?;
        if found == *what.repository.descriptor() { Ok(()) } else { Err("it differs from the other replicas'".to_owned()) }
    });
    if let Err(fault) = read.await {
        what.findings.add(what.replica.index, &name, sort(fault)?);
    }
    Ok(())
}

/// Every object in `keys/` must be what its name says, and those that opening needs must be there.
pub async fn verify_keys(what: &Examination<'_>, listed: &Listed) -> Result<(), Halt> {
    let mut keys = listed.keys.clone();
    let descriptor = what.repository.descriptor();
    let named = [&descriptor.key_slot, &descriptor.generation].into_iter().filter_map(|h| Hash::try_from(h.as_ref()).ok());
    keys.extend(named.filter(|hash| !what.facts.revoked.contains(hash)));
    verify_hashed(what, Class::Key, keys).await?.into_iter().for_each(|(name, story)| {
        what.findings.add(what.replica.index, name, story);
    });
    Ok(())
}

/// Lists that records or the newest checkpoints (`runs`) name must be there and whole; others serve older checkpoints, or ones
/// that came after a prune had taken their lists for orphans: opening does without them.
pub async fn verify_lists(what: &Examination<'_>, listed: &Listed, runs: BTreeSet<Hash>) -> Result<(), Halt> {
    let me = what.replica.index;
    let needed = runs.union(&what.facts.lists).copied().collect();
    let lists = listed.lists.union(&needed).copied().collect();
    for (name, story) in verify_hashed(what, Class::List, lists).await? {
        let Some((_, hash)) = layout::parse_hashed(&name) else { continue };
        match needed.contains(&hash) && !what.is_condemned(ObjectClass::List, &hash).await {
            true => what.findings.add(me, name, story),
            false => {
                what.findings.note(me, format!("{name}, which serves checkpoints alone that opening can do without: {story}"))
            }
        }
    }
    Ok(())
}

/// Those of the objects that are missing or are not what their name says.
async fn verify_hashed(what: &Examination<'_>, class: Class, hashes: BTreeSet<Hash>) -> Result<Vec<(ObjectName, String)>, Halt> {
    let at_once = if class == Class::List { LISTS_AT_ONCE } else { AT_ONCE };
    let reads = stream::iter(hashes).map(|hash| async move {
        what.going_on()?;
        let name = layout::hashed(class, &hash);
        let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
            if object_hash(&bytes) == hash { Ok(()) } else { Err("its bytes do not match its name".to_owned()) }
        });
        let wrong = read.await.err().map(sort).transpose()?;
        Ok::<_, Halt>(wrong.map(|story| (name, story)))
    });
    reads.buffered(at_once).try_filter_map(|wrong| async move { Ok(wrong) }).try_collect().await
}

/// The newest checkpoints must be whole: opening can do without, a repair of the log cannot. Gives the lists they name.
pub async fn verify_checkpoints(what: &Examination<'_>, listed: &Listed) -> Result<BTreeSet<Hash>, Halt> {
    let (epoch, keyring) = (what.facts.epoch, &what.repository.keyring);
    let mut runs = BTreeSet::new();
    for slot in &listed.checkpoints {
        what.going_on()?;
        let name = layout::checkpoint(epoch, *slot);
        let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
            Checkpoint::decode(&bytes, &keyring.keys.log, &keyring.repository_id, epoch, *slot).map_err(|e| chain(&e))
        });
        match read.await {
            Ok(checkpoint) => {
                let named = checkpoint.sets.iter().flat_map(|set| &set.runs);
                runs.extend(named.filter_map(|run| Hash::try_from(run.list.as_ref()).ok()));
            }
            // Only the listing showed it, and only a listing ever will.
            Err(ReadFault::Store(e)) if e.kind == StoreErrorKind::NotFound => {}
            Err(fault) => what.findings.add(what.replica.index, &name, sort(fault)?),
        }
    }
    Ok(runs)
}

/// Every live snapshot's object must be there and be that snapshot.
pub async fn verify_snapshots(what: &Examination<'_>) -> Result<(), Halt> {
    let keyring = &what.repository.keyring;
    let reads = stream::iter(what.facts.snapshots.iter()).map(|(id, live)| async move {
        what.going_on()?;
        let name = layout::hashed(Class::Snapshot, &live.object);
        let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
            if object_hash(&bytes) != live.object {
                return Err("its bytes do not match its name".to_owned());
            }
            let snapshot = Snapshot::decode(&bytes, &keyring.keys.log, &keyring.repository_id).map_err(|e| chain(&e))?;
            if snapshot.id[..] == id[..] { Ok(()) } else { Err("it is of another snapshot".to_owned()) }
        });
        let wrong = read.await.err().map(sort).transpose()?;
        Ok::<_, Halt>((id, name, wrong))
    });
    reads
        .buffered(AT_ONCE)
        .try_for_each(|(id, name, wrong)| async move {
            if let Some(story) = wrong {
                what.findings.add(what.replica.index, name, format!("snapshot {}: {story}", hex::encode(id)));
            }
            what.progress.items.add(1);
            Ok(())
        })
        .await
}
