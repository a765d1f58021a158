//! What lies at one replica, as a listing shows it, and what of it nothing in the log names.
//!
//! A listing only proposes: an object that it leaves out is asked for by name where it matters, and one that it invents is
//! condemned by a record before anything is sent to the store. Ages are told by the store's own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use crate::clock::Time;
use crate::format::Hash;
use crate::format::pack::PackKind;
use crate::format::record::ObjectClass;
use crate::lifecycle::prune::PruneError;
use crate::progress::Stop;
use crate::repository::Repository;
use crate::repository::chunk_index::PackRow;
use crate::repository::condemned::Names;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::footing::Footing;
use crate::repository::layout::{self, Class};
use crate::store::name::ObjectName;

/// Objects that are taken note of: about 100 bytes each.
const OBJECTS_MAX: usize = 20_000_000;
/// Packs that are asked for by name at once.
const AT_ONCE: usize = 16;

/// An object as the store shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Time,
}

/// What lies at one replica.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Packs, segments, snapshots and lists.
    pub objects: BTreeMap<(ObjectClass, Hash), Seen>,
    /// When each slot of the epoch was written.
    pub slots: BTreeMap<u64, Time>,
    /// What is younger than this is spared; none: nothing is.
    pub spared_since: Option<Time>,
    /// The slots of the epoch that have a checkpoint.
    checkpoints: Vec<u64>,
    /// Lists that something names.
    lists: BTreeSet<Hash>,
}

/// The class of objects that prune looks after. Keys it leaves alone: no record names one that is in use. So it does checkpoints:
/// the old ones, too, help to repair a log.
fn class_of(class: Class) -> Option<ObjectClass> {
    match class {
        Class::DataPack => Some(ObjectClass::Data),
        Class::MetaPack => Some(ObjectClass::Meta),
        Class::Segment => Some(ObjectClass::Index),
        Class::Snapshot => Some(ObjectClass::Snapshot),
        Class::List => Some(ObjectClass::List),
        Class::Key => None,
    }
}

/// The object of a class that prune looks after; `None` for others.
pub fn object_name(class: ObjectClass, hash: &Hash) -> Option<ObjectName> {
    let class = match class {
        ObjectClass::Data => Class::DataPack,
        ObjectClass::Meta => Class::MetaPack,
        ObjectClass::Index => Class::Segment,
        ObjectClass::Snapshot => Class::Snapshot,
        ObjectClass::List => Class::List,
        ObjectClass::Key | ObjectClass::Checkpoint | ObjectClass::Unknown => return None,
    };
    Some(layout::hashed(class, hash))
}

/// The class of a pack.
pub fn pack_class(pack: &PackRow) -> ObjectClass {
    pack.kind.into()
}

impl Inventory {
    /// Lists a replica, whose log is at `epoch`, once, and finds out which lists something names.
    pub async fn take(repository: &Repository, replica: usize, epoch: u32, stop: &Stop) -> Result<Inventory, PruneError> {
        let mut inventory = Inventory::default();
        let store = repository.set.replicas[replica].store.clone();
        let checkpoints = layout::checkpoint_prefix(epoch);
        let mut listing = store.list("");
        while let Some(info) = listing.next().await {
            if stop.requested() {
                return Err(PruneError::Interrupted);
            }
            let info = info.map_err(RepositoryError::from)?;
            if let Some((class, hash)) = layout::parse_hashed(&info.name) {
                let seen = Seen { size: info.size, modified: info.modified };
                inventory.objects.extend(class_of(class).map(|class| ((class, hash), seen)));
            } else if let Some(slot) = layout::parse_slot(epoch, &info.name) {
                inventory.slots.insert(slot, info.modified);
            } else if info.name.as_str().starts_with(&checkpoints) {
                inventory.checkpoints.extend(layout::parse_checkpoint(&info.name));
            }
            let all = inventory.objects.len() + inventory.slots.len() + inventory.checkpoints.len();
            if all > OBJECTS_MAX {
                let name = &repository.set.replicas[replica].name;
                let why = format!("store {name}: it lists more than {OBJECTS_MAX} objects, which no prune can take in");
                return Err(RepositoryError::new(Fault::Refused, why).into());
            }
        }
        drop(listing);
        inventory.find_lists(repository, replica, epoch, stop).await?;
        Ok(inventory)
    }

    /// The lists that checkpoints name. All are taken to be named where that cannot be told: where a checkpoint cannot be read,
    /// and after a repair, since what is left of the log before it names lists, too. What records name is judged at the slot.
    async fn find_lists(&mut self, repository: &Repository, replica: usize, epoch: u32, stop: &Stop) -> Result<(), PruneError> {
        let first = (ObjectClass::List, [0; 32]);
        let listed: BTreeSet<Hash> =
            self.objects.range(first..=(ObjectClass::List, [255; 32])).map(|((_, hash), _)| *hash).collect();
        let Some(log) = repository.log(replica).await else { return Ok(()) };
        let named = log.named_lists();
        if epoch > 1 {
            self.lists = listed;
        } else if !listed.iter().all(|hash| named.contains(hash) || log.state.is_condemned(ObjectClass::List, hash)) {
            // Whatever those of records leave open, each checkpoint may name.
            let reads = stream::iter(&self.checkpoints).map(|slot| log.lists_of_checkpoint(*slot)).buffered(AT_ONCE);
            let mut reads = std::pin::pin!(reads);
            while let Some(read) = reads.next().await {
                if stop.requested() {
                    return Err(PruneError::Interrupted);
                }
                match read {
                    Ok(lists) => self.lists.extend(lists),
                    Err(_) => {
                        self.lists = listed;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Spares what was written within `mercy` before `now`, both by the store's clock.
    pub fn spare(&mut self, now: Time, mercy: Duration) {
        let mercy = i64::try_from(mercy.as_nanos()).unwrap_or(i64::MAX);
        self.spared_since = (mercy > 0).then(|| Time(now.0.saturating_sub(mercy)));
    }

    /// Whether an object is too young to go.
    pub fn is_young(&self, seen: &Seen) -> bool {
        self.spared_since.is_some_and(|since| seen.modified > since)
    }

    /// The packs that the log of `replica` relies on and that are not there at their right size: what the listing does not show
    /// so is asked for by name.
    pub async fn unsound(&mut self, repository: &Repository, replica: usize) -> Result<Vec<Hash>, PruneError> {
        let packs: Vec<PackRow> = {
            let index = repository.index().await?;
            let chunks = index.read().expect("no panic while the index is locked");
            let relied = chunks.packs().iter().filter(|pack| pack.usable().has(replica));
            let as_it_should = |pack: &&PackRow| {
                let seen = self.objects.get(&(pack_class(pack), pack.hash));
                seen.is_none_or(|seen| seen.size != pack.size)
            };
            relied.filter(as_it_should).cloned().collect()
        };
        let store = &repository.set.replicas[replica].store;
        let stats = stream::iter(packs).map(|pack| async move {
            let name = layout::hashed(if pack.kind == PackKind::Meta { Class::MetaPack } else { Class::DataPack }, &pack.hash);
            let found = store.stat(&name).await.map_err(RepositoryError::from)?;
            Ok::<_, RepositoryError>((pack, found))
        });
        let asked: Vec<_> = stats.buffered(AT_ONCE).try_collect().await?;
        let mut unsound = Vec::new();
        for (pack, found) in asked {
            match found {
                Some(info) if info.size == pack.size => {
                    let seen = Seen { size: info.size, modified: info.modified };
                    self.objects.insert((pack_class(&pack), pack.hash), seen);
                }
                _ => unsound.push(pack.hash),
            }
        }
        Ok(unsound)
    }

    /// What nothing needs: packs that the log never named, segments that are not in force, the objects of snapshots that are no
    /// roots, and lists that neither a record nor a checkpoint names. Also how many such objects are too young to go.
    pub async fn orphans(&self, repository: &Repository, replica: usize, footing: &Footing) -> Result<(Names, u64), PruneError> {
        let live: BTreeSet<Hash> = footing.snapshots.values().map(|live| live.object).collect();
        let index = repository.index().await?;
        let Some(log) = repository.log(replica).await else { return Ok((Names::new(), 0)) };
        let lists = log.named_lists();
        let chunks = index.read().expect("no panic while the index is locked");
        let (mut names, mut young) = (Names::new(), 0);
        for ((class, hash), seen) in &self.objects {
            let needed = match class {
                ObjectClass::Index => footing.segments.contains(hash),
                ObjectClass::Snapshot => live.contains(hash),
                ObjectClass::List => self.lists.contains(hash) || lists.contains(hash),
                _ => chunks.pack_number(hash).is_some_and(|number| chunks.pack(number).published.has(replica)),
            };
            if needed || log.state.is_condemned(*class, hash) {
                continue;
            }
            match self.is_young(seen) {
                true => young += 1,
                false => drop(names.entry(*class).or_default().insert(*hash)),
            }
        }
        Ok((names, young))
    }
}
