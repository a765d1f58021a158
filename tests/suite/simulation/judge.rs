//! What must never happen, watched at the stores themselves: every slot that is created is opened and held against what lies
//! there, every request to delete against what the log condemns, and what clients were told against what the logs say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use holdfast::format::index::Segment;
use holdfast::format::list::HashList;
use holdfast::format::pack::PackKind;
use holdfast::format::record::{self, Action, Expected, ObjectClass};
use holdfast::format::{Hash, object_hash};
use holdfast::repository::keyring::Keyring;
use holdfast::repository::layout::{self, Class};
use holdfast::store::name::ObjectName;

use crate::simulation::shelf::Shelf;
use crate::simulation::world::Doing;
use crate::support::rig::Tree;

/// What one log says, folded here once more.
#[derive(Default)]
pub struct LogView {
    replica: Option<Hash>,
    slot: u64,
    /// Snapshots that are roots, and whether they are partial.
    pub roots: BTreeMap<Hash, bool>,
    /// Snapshots that are none any more, and the slot that said so.
    pub forgotten: BTreeMap<Hash, u64>,
    condemned: BTreeSet<ObjectName>,
    /// Packs that were found damaged, or seemed so.
    distrusted: BTreeSet<Hash>,
}

/// A snapshot that a client was told is safe.
pub struct Promise {
    /// Names the tree that it holds.
    pub tag: String,
    /// Whose it is.
    pub host: String,
}

/// Who created an object.
#[derive(Clone, Copy, Default)]
pub struct Sender<'s> {
    /// The client; none: its request arrived late.
    pub client: Option<usize>,
    /// What it was doing.
    pub doing: Doing,
    /// How far it surely knew each log.
    pub knows: &'s [u64],
}

/// Knows what was promised, and sees what happens.
pub struct Judge {
    keyring: Option<Arc<Keyring>>,
    names: Vec<&'static str>,
    /// What each log says.
    pub logs: Vec<LogView>,
    /// What each snapshot has to hold, by tag.
    pub trees: BTreeMap<String, Tree>,
    /// Who committed each snapshot first.
    makers: BTreeMap<Hash, Option<usize>>,
    /// What clients were told is safe, by snapshot id.
    pub promises: BTreeMap<Hash, Promise>,
    /// Hosts of which somebody forgot snapshots by name: they may have none left.
    pub emptied: BTreeSet<String>,
    /// What must not have happened.
    pub broken: Vec<String>,
}

fn hash(bytes: &Bytes) -> Hash {
    bytes.as_ref().try_into().unwrap_or_default()
}

fn short(hash: &Hash) -> String {
    hex::encode(&hash[..4])
}

fn object(class: ObjectClass, hash: &Hash) -> Option<ObjectName> {
    let class = match class {
        ObjectClass::Data => Class::DataPack,
        ObjectClass::Meta => Class::MetaPack,
        ObjectClass::Index => Class::Segment,
        ObjectClass::Snapshot => Class::Snapshot,
        ObjectClass::List => Class::List,
        ObjectClass::Key => Class::Key,
        ObjectClass::Unknown | ObjectClass::Checkpoint => return None,
    };
    Some(layout::hashed(class, hash))
}

impl Judge {
    /// Of stores with these names.
    pub fn new(names: &[&'static str]) -> Judge {
        Judge {
            keyring: None,
            names: names.to_vec(),
            logs: names.iter().map(|_| LogView::default()).collect(),
            trees: BTreeMap::new(),
            makers: BTreeMap::new(),
            promises: BTreeMap::new(),
            emptied: BTreeSet::new(),
            broken: Vec::new(),
        }
    }

    /// Something happened that must not.
    pub fn accuse(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }

    /// From now on the logs can be read: what they say so far is taken in.
    pub fn learn(&mut self, keyring: Arc<Keyring>, shelves: &[Shelf]) {
        self.keyring = Some(keyring);
        for (at, shelf) in shelves.iter().enumerate() {
            for slot in 1.. {
                let Ok(bytes) = shelf.get(&layout::slot(1, slot), None) else { break };
                self.slot(shelves, at, slot, &bytes, Sender::default());
            }
        }
    }

    /// An object was created.
    pub fn created(&mut self, shelves: &[Shelf], at: usize, name: &ObjectName, bytes: &Bytes, sender: Sender<'_>) {
        let slot = name.as_str().strip_prefix("log/00000001/").and_then(|slot| slot.parse().ok());
        if let (Some(slot), true) = (slot, self.keyring.is_some()) {
            self.slot(shelves, at, slot, bytes, sender);
        }
    }

    fn slot(&mut self, shelves: &[Shelf], at: usize, slot: u64, bytes: &Bytes, sender: Sender<'_>) {
        let Sender { client, doing, knows } = sender;
        let store = self.names[at];
        let Some(keyring) = self.keyring.clone() else { return };
        let expected = Expected { replica_id: self.logs[at].replica, epoch: 1, slot };
        let (header, body) = match record::decode_slot(bytes, &keyring.keys.log, &keyring.repository_id, &expected) {
            Ok(read) => read,
            Err(e) => return self.accuse(format!("{store}: slot {slot} was created and is none: {e}")),
        };
        if slot != self.logs[at].slot + 1 {
            return self.accuse(format!("{store}: slot {slot} was created after slot {}", self.logs[at].slot));
        }
        (self.logs[at].slot, self.logs[at].replica) = (slot, Some(hash(&header.replica_id)));
        if std::env::var_os("HOLDFAST_SEED").is_some() {
            println!("{store} slot {slot} of {client:?}: {}", told(body.action.as_ref()));
        }
        match body.action {
            Some(Action::Publish(publish)) => self.relied_on(&shelves[at], at, slot, &publish.segments),
            Some(Action::Compact(compact)) => self.relied_on(&shelves[at], at, slot, &compact.new),
            Some(Action::Commit(commit)) => {
                self.relied_on(&shelves[at], at, slot, &commit.segments);
                let (id, snapshot) = (hash(&commit.snapshot_id), layout::hashed(Class::Snapshot, &hash(&commit.object)));
                if self.logs[at].condemned.contains(&snapshot) || shelves[at].info(&snapshot).is_none() {
                    self.accuse(format!("{store}: slot {slot} commits {}, whose object is condemned or not there", short(&id)));
                }
                let known = |(other, log): (usize, &LogView)| {
                    log.forgotten.get(&id).is_some_and(|slot| knows.get(other).is_some_and(|known| known >= slot))
                };
                // A run whose own snapshot is forgotten while it commits it is not to blame.
                let own = client.is_some() && *self.makers.entry(id).or_insert(client) == client;
                if !own && let Some(other) = (0..self.logs.len()).find(|other| known((*other, &self.logs[*other]))) {
                    let (other, id) = (self.names[other], short(&id));
                    self.accuse(format!("{store}: slot {slot} commits {id}, which {other} had forgotten, as the writer knew"));
                }
                commit.replaces.iter().for_each(|old| self.forget(at, slot, hash(old), doing));
                if !self.logs[at].forgotten.contains_key(&id) {
                    self.logs[at].roots.insert(id, commit.partial);
                }
            }
            Some(Action::Forget(forget)) => forget.ids.iter().for_each(|id| self.forget(at, slot, hash(id), doing)),
            Some(Action::Condemn(condemn)) => {
                let mut names: Vec<Option<ObjectName>> =
                    condemn.objects.iter().map(|one| object(one.class(), &hash(&one.hash))).collect();
                for list in &condemn.lists {
                    let stored = shelves[at].get(&layout::hashed(Class::List, &hash(&list.list)), None).unwrap_or_default();
                    match HashList::decode(&stored, &keyring.keys.log, &keyring.repository_id) {
                        Ok(read) => names.extend(read.hashes().iter().map(|hash| object(list.class(), hash))),
                        Err(_) => self.accuse(format!("{store}: slot {slot} condemns a list that cannot be read")),
                    }
                }
                self.logs[at].condemned.extend(names.into_iter().flatten());
            }
            Some(Action::Distrust(distrust)) => {
                self.logs[at].distrusted.extend(distrust.add.iter().map(hash));
                let lifted: BTreeSet<Hash> = distrust.lift.iter().map(hash).collect();
                self.logs[at].distrusted.retain(|pack| !lifted.contains(pack));
            }
            _ => {}
        }
    }

    /// A record that makes these segments something to rely on: every pack in them is there, whole, and not condemned.
    fn relied_on(&mut self, shelf: &Shelf, at: usize, slot: u64, segments: &[Bytes]) {
        let Some(keyring) = self.keyring.clone() else { return };
        for segment in segments.iter().map(hash) {
            let name = layout::hashed(Class::Segment, &segment);
            if self.logs[at].condemned.contains(&name) {
                self.accuse(format!("{}: slot {slot} relies on {name}, which is condemned", shelf.name));
            }
            let stored = match shelf.get(&name, None) {
                Ok(stored) => stored,
                Err(_) => {
                    self.accuse(format!("{}: slot {slot} relies on {name}, which is not there", shelf.name));
                    continue;
                }
            };
            if shelf.rotten.contains(&name) {
                continue;
            }
            let segment = match Segment::decode(&stored, &keyring.keys.index, &keyring.repository_id) {
                Ok(segment) => segment,
                Err(e) => {
                    self.accuse(format!("{}: slot {slot} relies on {name}, which is no segment: {e}", shelf.name));
                    continue;
                }
            };
            for pack in &segment.packs {
                let class = if pack.kind() == PackKind::Meta { Class::MetaPack } else { Class::DataPack };
                let name = layout::hashed(class, &hash(&pack.hash));
                if self.logs[at].condemned.contains(&name) {
                    self.accuse(format!("{}: slot {slot} relies on {name}, which is condemned", shelf.name));
                }
                match shelf.get(&name, None) {
                    _ if shelf.rotten.contains(&name) => {}
                    Ok(bytes) if object_hash(&bytes) == hash(&pack.hash) && bytes.len() as u64 == pack.size => {}
                    Ok(_) => self.accuse(format!("{}: slot {slot} relies on {name}, which holds other bytes", shelf.name)),
                    Err(_) => self.accuse(format!("{}: slot {slot} relies on {name}, which is not there", shelf.name)),
                }
            }
        }
    }

    /// A record that makes a snapshot no root: only whoever forgets may be the first to, or a run its own partial one.
    fn forget(&mut self, at: usize, slot: u64, id: Hash, doing: Doing) {
        let before = self.logs.iter().any(|log| log.forgotten.contains_key(&id));
        let partial = self.logs.iter().any(|log| log.roots.get(&id) == Some(&true));
        let complete = self.logs.iter().any(|log| log.roots.get(&id) == Some(&false));
        if !before && complete && !partial && doing != Doing::Forget {
            self.accuse(format!("{}: slot {slot} makes {} no root, by a {doing:?}", self.names[at], short(&id)));
        }
        self.logs[at].roots.remove(&id);
        self.logs[at].forgotten.entry(id).or_insert(slot);
    }

    /// A delete was sent: only what the log condemns may go.
    pub fn deleting(&mut self, at: usize, name: &ObjectName) {
        if !self.logs[at].condemned.contains(name) {
            self.accuse(format!("{}: a delete of {name} was sent, which no record condemns", self.names[at]));
        }
    }

    /// A client was told that its snapshot is safe at these stores.
    pub fn promised(&mut self, id: Hash, tag: &str, host: &str, at: &[&str], quorum: usize) {
        self.committed(&id, at, quorum);
        self.promises.insert(id, Promise { tag: tag.to_owned(), host: host.to_owned() });
    }

    /// A client was told that a snapshot is committed at these stores.
    pub fn committed(&mut self, id: &Hash, at: &[&str], quorum: usize) {
        for store in at {
            let known = self.names.iter().position(|name| name == store);
            let log = &self.logs[known.expect("a store of this world")];
            if !log.roots.contains_key(id) && !log.forgotten.contains_key(id) {
                self.accuse(format!("{store} was said to hold {}, and its log does not", short(id)));
            }
        }
        if at.len() < quorum {
            self.accuse(format!("{} was said to be safe at {} stores of {quorum}", short(id), at.len()));
        }
    }

    /// Whether a store's log distrusts an object: reads that went wrong are enough for that.
    pub fn is_distrusted(&self, store: &str, object: &str) -> bool {
        let distrusts = |log: &LogView| log.distrusted.iter().any(|pack| object.ends_with(&hex::encode(pack)));
        self.names.iter().position(|name| *name == store).is_some_and(|at| distrusts(&self.logs[at]))
    }

    /// Whether some log says that a snapshot is no root.
    pub fn is_forgotten(&self, id: &Hash) -> bool {
        self.logs.iter().any(|log| log.forgotten.contains_key(id))
    }

    /// What has to be restorable in the end, at every replica.
    pub fn required(&self) -> impl Iterator<Item = (&Hash, &Promise)> {
        self.promises.iter().filter(|(id, _)| !self.is_forgotten(id))
    }

    /// Hosts that were promised something, of which nobody named snapshots to forget, and that have nothing left.
    pub fn stripped(&self) -> Vec<&str> {
        let hosts: BTreeSet<&str> = self.promises.values().map(|promise| promise.host.as_str()).collect();
        let left: BTreeSet<&str> = self.required().map(|(_, promise)| promise.host.as_str()).collect();
        hosts.difference(&left).copied().filter(|host| !self.emptied.contains(*host)).collect()
    }
}

/// A record in few words, for the story of one seed.
fn told(action: Option<&Action>) -> String {
    let ids = |ids: &[Bytes]| ids.iter().map(|id| short(&hash(id))).collect::<Vec<_>>().join(" ");
    match action {
        Some(Action::Publish(publish)) => format!("publish {}", ids(&publish.segments)),
        Some(Action::Commit(c)) => {
            let (id, replaces) = (short(&hash(&c.snapshot_id)), ids(&c.replaces));
            format!("commit {id}, partial: {}, replaces: {replaces}, segments: {}", c.partial, ids(&c.segments))
        }
        Some(Action::Forget(forget)) => format!("forget {}", ids(&forget.ids)),
        Some(Action::Condemn(condemn)) => {
            let names: Vec<Bytes> = condemn.objects.iter().map(|object| object.hash.clone()).collect();
            format!("condemn {} and {} lists", ids(&names), condemn.lists.len())
        }
        Some(Action::Compact(compact)) => format!("compact {} into {}", ids(&compact.old), ids(&compact.new)),
        Some(Action::Distrust(distrust)) => format!("distrust {}, lift {}", ids(&distrust.add), ids(&distrust.lift)),
        Some(Action::Note(note)) => format!("note {}", note.kind),
        Some(_) => "another record".to_owned(),
        None => "a record to come".to_owned(),
    }
}
