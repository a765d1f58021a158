//! The state of one replica: the fold of its log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::format::Hash;
use crate::format::checkpoint::{NOTE_MAX, NOTES_MAX};
use crate::format::record::{Action, Body, Configure, Hold, Note, ObjectClass};
use crate::repository::epochs::NAMES_LOST;
use crate::repository::heads::Head;

/// A snapshot that is a root in this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The snapshot object's hash.
    pub object: Hash,
    /// The slot that committed it.
    pub slot: u64,
    /// Whether its run had not finished.
    pub partial: bool,
}

/// What a log says, up to and with its last slot.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Last slot folded in; 0: none.
    pub slot: u64,
    /// Hash of that slot's stored bytes.
    pub hash: Hash,
    /// The replica, once its genesis was read.
    pub replica_id: Option<Hash>,
    /// The epoch that follows, where this one was closed.
    pub closed: Option<u32>,
    /// Snapshots that are roots, by id.
    pub snapshots: BTreeMap<Hash, Live>,
    /// Ids of snapshots that are no longer roots.
    pub forgotten: BTreeSet<Hash>,
    /// Index segments in force.
    pub segments: BTreeSet<Hash>,
    /// Names that are void, by class.
    pub condemned: BTreeMap<ObjectClass, BTreeSet<Hash>>,
    /// Packs found damaged.
    pub distrusted: BTreeSet<Hash>,
    /// Key slots withdrawn.
    pub revoked: BTreeSet<Hash>,
    /// The newest head of each other replica that this log has seen.
    pub heads: BTreeMap<Hash, Head>,
    /// Features in force.
    pub features: BTreeMap<String, Configure>,
    /// Holds in force, by snapshot id.
    pub holds: BTreeMap<Hash, Hold>,
    /// The newest note of each kind, with the time of its record in seconds since the Unix epoch.
    pub notes: BTreeMap<String, (i64, Note)>,
    /// The last slot of the epoch before, where there was one.
    pub previous_epoch_head: Option<Head>,
    /// Lists that condemn records named.
    pub named_lists: Vec<(ObjectClass, Hash)>,
}

/// The kind of note that says when a replica was verified.
pub const NOTE_VERIFY: &str = "verify";

fn hash(bytes: &Bytes) -> Hash {
    // Decoding a record tests every name's length.
    bytes.as_ref().try_into().unwrap_or_default()
}

impl State {
    /// The head this state stands at.
    pub fn head(&self) -> Head {
        Head { epoch: self.epoch, slot: self.slot, hash: self.hash }
    }

    /// Whether a pack may be relied on: not condemned.
    pub fn is_condemned(&self, class: ObjectClass, name: &Hash) -> bool {
        self.condemned.get(&class).is_some_and(|set| set.contains(name))
    }

    /// Whether what another replica holds may lie here under the name that it has there. After a repair that did not find all
    /// that was condemned nobody knows which names are void.
    pub fn takes_names(&self) -> bool {
        !self.features.contains_key(NAMES_LOST)
    }

    /// Takes in the record of the next slot. The names in the lists of a condemn record are given to [`State::condemn`] by
    /// the caller, who has read them before.
    pub fn apply(&mut self, slot: u64, stored_hash: Hash, replica_id: Hash, body: &Body) {
        self.slot = slot;
        self.hash = stored_hash;
        self.replica_id = Some(replica_id);
        for head in &body.heads {
            let seen = Head { epoch: head.epoch, slot: head.slot, hash: hash(&head.hash) };
            let known = self.heads.entry(hash(&head.replica_id)).or_insert(seen);
            if (seen.epoch, seen.slot) > (known.epoch, known.slot) {
                *known = seen;
            }
        }
        match &body.action {
            None => {}
            Some(Action::Genesis(genesis)) => {
                self.previous_epoch_head =
                    genesis.previous_epoch_head.as_ref().map(|h| Head { epoch: h.epoch, slot: h.slot, hash: hash(&h.hash) });
            }
            Some(Action::Close(close)) => self.closed = Some(close.next_epoch),
            Some(Action::Publish(publish)) => self.segments.extend(publish.segments.iter().map(hash)),
            Some(Action::Commit(commit)) => {
                self.segments.extend(commit.segments.iter().map(hash));
                self.forget(commit.replaces.iter().map(hash));
                let id = hash(&commit.snapshot_id);
                // A forgotten id never comes back: forgets are a union over all logs.
                if !self.forgotten.contains(&id) {
                    self.snapshots.insert(id, Live { object: hash(&commit.object), slot, partial: commit.partial });
                }
            }
            Some(Action::Forget(forget)) => self.forget(forget.ids.iter().map(hash)),
            Some(Action::Condemn(condemn)) => {
                for object in &condemn.objects {
                    self.condemn(object.class(), [hash(&object.hash)]);
                }
                self.named_lists.extend(condemn.lists.iter().map(|l| (l.class(), hash(&l.list))));
            }
            Some(Action::Distrust(distrust)) => {
                let void = |pack: &Hash| self.is_condemned(ObjectClass::Data, pack) || self.is_condemned(ObjectClass::Meta, pack);
                let add: Vec<Hash> = distrust.add.iter().map(hash).filter(|pack| !void(pack)).collect();
                self.distrusted.extend(add);
                for pack in &distrust.lift {
                    self.distrusted.remove(&hash(pack));
                }
            }
            Some(Action::Compact(compact)) => {
                for segment in &compact.old {
                    self.segments.remove(&hash(segment));
                }
                self.segments.extend(compact.new.iter().map(hash));
            }
            Some(Action::Revoke(revoke)) => self.revoked.extend(revoke.key_slots.iter().map(hash)),
            Some(Action::Configure(configure)) => {
                if configure.value.is_empty() {
                    self.features.remove(&configure.feature);
                } else {
                    self.features.insert(configure.feature.clone(), configure.clone());
                }
            }
            Some(Action::Hold(hold)) => {
                self.holds.insert(hash(&hold.id), hold.clone());
            }
            Some(Action::Release(release)) => {
                self.holds.remove(&hash(&release.id));
            }
            Some(Action::Note(note)) => self.note(body.time, note),
        }
    }

    /// Keeps a note instead of the one of its kind before it. What is too long, or of too many kinds, is in the log alone.
    fn note(&mut self, time: i64, note: &Note) {
        let room = self.notes.len() < NOTES_MAX || self.notes.contains_key(&note.kind);
        if room && note.kind.len() + note.text.len() <= NOTE_MAX {
            self.notes.insert(note.kind.clone(), (time, note.clone()));
        }
    }

    /// When a note of this kind was last written, in seconds since the Unix epoch by its writer's clock.
    pub fn noted(&self, kind: &str) -> Option<i64> {
        self.notes.get(kind).map(|(time, _)| *time)
    }

    fn forget(&mut self, ids: impl Iterator<Item = Hash>) {
        for id in ids {
            self.snapshots.remove(&id);
            self.forgotten.insert(id);
        }
    }

    /// Voids names, for good. A void pack is no longer distrusted: nobody may rely on it anyway, and nobody need look at it.
    pub fn condemn(&mut self, class: ObjectClass, names: impl IntoIterator<Item = Hash>) {
        let condemned = self.condemned.entry(class).or_default();
        for name in names {
            self.distrusted.remove(&name);
            condemned.insert(name);
        }
    }
}
