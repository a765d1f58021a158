//! What can still be known of a log that is damaged, and of those that the replica had before it.
//!
//! Every slot is read by itself: what authenticates counts, whatever lies around it. A name that any of it condemns is void, a
//! snapshot that any of it forgets is forgotten. What nothing condemns is not therefore sound: the record that did may be the
//! one that is lost. It is proven only where nothing can be missing: a checkpoint covers every slot that cannot be read, or the
//! record that relies on a pack stands behind them all.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::format::record::{Action, Body, Expected, SlotHeader, decode_slot};
use crate::format::{Hash, object_hash};
use crate::replica::read::{ReadFault, read_one};
use crate::repository::Repository;
use crate::repository::epochs::REPAIRED;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::heads::{self, Head};
use crate::repository::layout;
use crate::repository::log::{Log, chain, read_error};
use crate::repository::state::State;
use crate::store::error::StoreErrorKind;

/// Slots that are read at once.
const AT_ONCE: usize = 16;
/// How far behind the last slot that is known another one is looked for.
const AHEAD: u64 = 16;
/// Checkpoints that are tried.
const CHECKPOINTS: usize = 64;
/// Stories that are kept; the count goes on.
const TOLD_MAX: usize = 100;
/// A log has fewer slots than this.
const SLOTS_MAX: u64 = 1 << 32;
/// Nothing that happens to a log leaves a hole of so many slots: what lies behind one is no record of it.
const HOLE_MAX: u64 = 1 << 20;

/// One slot, as far as the slots beside it matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// Nothing lies there.
    Absent,
    /// What lies there, bytes of this hash, is not the record that was.
    Lost(Hash),
    /// A record: its hash, and that of the slot which it follows.
    Record(Hash, Hash),
}

impl Spot {
    /// Hash of the stored bytes; zeros where there are none.
    pub(super) fn hash(&self) -> Hash {
        match self {
            Spot::Absent => [0; 32],
            Spot::Lost(hash) | Spot::Record(hash, _) => *hash,
        }
    }
}

/// What one epoch's slots are.
#[derive(Default)]
pub(super) struct Epoch {
    /// Whose log it is, as far as anything says so.
    pub replica_id: Option<Hash>,
    /// Slot 1 and so on, to the last one that exists.
    pub slots: Vec<Spot>,
    /// Whether it ends in a record that closes it, and no slot before that is free.
    pub fenced: bool,
}

/// What is known of everything that came before a new epoch.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The last epoch of it.
    pub epoch: u32,
    /// How many slots that has.
    pub slots: u64,
    /// Those of them that are lost: slot and story (bounded).
    pub wounds: Vec<(u64, String)>,
    /// How many those are.
    pub wounds_count: u64,
    /// Whether nothing is unknown: what no record condemns is sound.
    pub complete: bool,
    /// Index segments that a record relied on behind everything unknown: their packs are sound unless condemned.
    pub proven_segments: BTreeSet<Hash>,
    /// What is known of all epochs together. Snapshots are those that were committed and not forgotten, as far as known.
    pub state: State,
}

impl Past {
    /// Whether every name is known that is void: nothing of this log is lost, nor was before a repair that began one of its epochs.
    pub fn knows_names(&self) -> bool {
        self.complete && self.state.takes_names()
    }
}

enum Found {
    Absent,
    Lost(Hash, String),
    Record(Hash, Box<(SlotHeader, Body)>),
}

impl Repository {
    /// Everything that is known of a replica's epochs from the first to `last`.
    pub async fn past(&self, index: usize, last: u32) -> Result<Past, RepositoryError> {
        let mut past = Past::default();
        for epoch in 1..=last {
            self.read_epoch(index, epoch, &mut past).await?;
        }
        let State { snapshots, forgotten, .. } = &mut past.state;
        snapshots.retain(|id, _| !forgotten.contains(id));
        Ok(past)
    }

    /// Reads one epoch's slots. What they say goes into `past`, which is of this epoch then.
    pub(super) async fn read_epoch(&self, index: usize, epoch: u32, past: &mut Past) -> Result<Epoch, RepositoryError> {
        let mut log = Log::unread(&self.env, &self.set.replicas[index], &self.keyring, self.run_id, epoch);
        if let Some(state) = newest_checkpoint(&log).await? {
            log.state = state;
        }
        let checkpoint = (log.state.slot > 0).then_some((log.state.slot, log.state.hash));
        let covered = log.state.slot;
        let end = self.last_slot(index, epoch).await?;
        let mut out = Epoch { replica_id: log.state.replica_id, ..Epoch::default() };
        if out.replica_id.is_none() {
            out.replica_id = self.whose(index, epoch, end).await?;
        }
        (past.epoch, past.slots, past.wounds, past.wounds_count) = (epoch, end, Vec::new(), 0);
        let mut wounds: Vec<(u64, String)> = Vec::new();
        let mut closes: Vec<u64> = Vec::new();
        let mut named: Vec<(u64, Hash)> = Vec::new();
        let mut reads = stream::iter(1..=end).map(|slot| self.read_slot(index, epoch, slot)).buffered(AT_ONCE);
        let mut slot = 0;
        while let Some(found) = reads.next().await {
            slot += 1;
            let (spot, story) = match found? {
                Found::Absent => (Spot::Absent, Some("it is missing".to_owned())),
                Found::Lost(hash, why) => (Spot::Lost(hash), Some(why)),
                Found::Record(hash, record) => {
                    let (header, body) = *record;
                    let id: Hash = header.replica_id[..].try_into().unwrap_or_default();
                    match *out.replica_id.get_or_insert(id) == id {
                        false => (Spot::Lost(hash), Some("it belongs to another replica".to_owned())),
                        true => match log.fold_alone(slot, covered, hash, id, &body).await {
                            Ok(()) => {
                                if matches!(body.action, Some(Action::Close(_))) {
                                    closes.push(slot);
                                }
                                named.extend(segments(&body).map(|segment| (slot, segment)));
                                (Spot::Record(hash, body.prev[..].try_into().unwrap_or_default()), None)
                            }
                            // What it condemned is not known: the record is as good as lost.
                            Err(e) if e.fault == Fault::Integrity => (Spot::Lost(hash), Some(e.to_string())),
                            Err(e) => return Err(e),
                        },
                    }
                }
            };
            wounds.extend(story.map(|story| (slot, story)));
            out.slots.push(spot);
        }
        drop(reads);
        let last_real = (1..=end).rev().find(|slot| !closes.contains(slot)).unwrap_or(0);
        out.fenced = last_real < end && !out.slots.contains(&Spot::Absent);
        // A fence between records stands where another record was.
        for slot in closes.into_iter().filter(|slot| *slot < last_real) {
            let spot = &mut out.slots[slot as usize - 1];
            *spot = Spot::Lost(spot.hash());
            wounds.push((slot, "it is missing: a repair closed the gap".to_owned()));
        }
        wounds.sort();
        past.wounds_count = wounds.len() as u64;
        wounds.truncate(TOLD_MAX);
        past.wounds = wounds;
        let heads = self.heads_seen(out.replica_id, epoch).await;
        let judged = judge(&out.slots, checkpoint, &heads);
        // An epoch whose own beginning was not finished does not know all that the one before it knew.
        let begun = epoch == 1 || log.state.features.contains_key(REPAIRED);
        past.complete = begun && judged.complete;
        let proven_from = judged.proven_from.filter(|_| begun);
        past.proven_segments = named
            .into_iter()
            .filter(|(slot, _)| proven_from.is_some_and(|from| *slot >= from))
            .map(|(_, segment)| segment)
            .collect();
        unite(&mut past.state, log.state, begun);
        Ok(out)
    }

    /// Whose log it is, by what most of its first slots say. Where the first was lost, a repair may have put another in its place.
    async fn whose(&self, index: usize, epoch: u32, end: u64) -> Result<Option<Hash>, RepositoryError> {
        let mut ids: Vec<Hash> = Vec::new();
        for slot in 1..=end.min(3) {
            if let Found::Record(_, record) = self.read_slot(index, epoch, slot).await? {
                ids.push(record.0.replica_id[..].try_into().unwrap_or_default());
            }
        }
        let count = |id: &Hash| ids.iter().filter(|other| *other == id).count();
        Ok(ids.iter().max_by_key(|id| count(id)).copied())
    }

    /// The last slot that exists: by a listing, and by looking behind what that shows.
    async fn last_slot(&self, index: usize, epoch: u32) -> Result<u64, RepositoryError> {
        let (store, mut last) = (&self.set.replicas[index].store, 0_u64);
        let prefix = layout::slot_prefix(epoch);
        let mut listing = store.list(&prefix);
        while let Some(info) = listing.next().await {
            let name = info?.name;
            let slot = layout::parse_slot(epoch, &name).unwrap_or(0);
            if slot > last.saturating_add(HOLE_MAX) {
                let why = format!("{name} lies {} slots behind the one before it, so it is no record of this log", slot - last);
                let message = format!("store {}: {why}: take it away, and keep it", self.set.replicas[index].name);
                return Err(RepositoryError::new(Fault::Integrity, message));
            }
            last = last.max(slot);
        }
        drop(listing);
        let mut ahead = 1;
        while ahead <= AHEAD {
            if last >= SLOTS_MAX {
                let why = format!("store {}: {prefix} has slots beyond any that a log has", self.set.replicas[index].name);
                return Err(RepositoryError::new(Fault::Integrity, why));
            }
            match store.stat(&layout::slot(epoch, last + ahead)).await? {
                Some(_) => (last, ahead) = (last + ahead, 1),
                None => ahead += 1,
            }
        }
        Ok(last)
    }

    async fn read_slot(&self, index: usize, epoch: u32, slot: u64) -> Result<Found, RepositoryError> {
        let (replica, keyring) = (&self.set.replicas[index], &self.keyring);
        let name = layout::slot(epoch, slot);
        let expected = Expected { replica_id: None, epoch, slot };
        let mut stored: Hash = [0; 32];
        let read = read_one(replica, &name, None, async |bytes: Bytes| {
            stored = object_hash(&bytes);
            decode_slot(&bytes, &keyring.keys.log, &keyring.repository_id, &expected).map_err(|e| chain(&e))
        });
        match read.await {
            Ok((_, body)) if body.action.is_none() && body.critical => Err(RepositoryError::new(
                Fault::Unsupported,
                format!("store {}: {name} holds a record that only a newer version of holdfast understands", replica.name),
            )),
            Ok(record) => Ok(Found::Record(stored, Box::new(record))),
            Err(ReadFault::Damaged(why)) => Ok(Found::Lost(stored, why)),
            Err(ReadFault::Store(e)) if e.kind == StoreErrorKind::NotFound => Ok(Found::Absent),
            Err(ReadFault::Store(e)) if matches!(e.kind, StoreErrorKind::Corrupt | StoreErrorKind::Invalid) => {
                Ok(Found::Lost([0; 32], e.to_string()))
            }
            Err(fault) => Err(read_error(&name, fault)),
        }
    }

    /// Where a log stood in an epoch when others, or this machine, last saw it.
    async fn heads_seen(&self, replica_id: Option<Hash>, epoch: u32) -> Vec<Head> {
        let Some(id) = replica_id else { return Vec::new() };
        let mut seen: Vec<Head> = Vec::new();
        for other in self.readable().indices() {
            if let Some(log) = self.log(other).await {
                seen.extend(log.state.heads.get(&id));
            }
        }
        seen.extend(self.state_dir.iter().filter_map(|dir| heads::load(dir, &self.id()).get(&id).copied()));
        seen.retain(|head| head.epoch == epoch);
        seen
    }
}

/// The state of the newest checkpoint of an epoch that can be read.
async fn newest_checkpoint(log: &Log) -> Result<Option<State>, RepositoryError> {
    let prefix = layout::checkpoint_prefix(log.state.epoch);
    let mut listing = log.replica.store.list(&prefix).take(CHECKPOINTS);
    while let Some(info) = listing.next().await {
        let Some(slot) = layout::parse_checkpoint(&info?.name) else { continue };
        if let Ok((state, _)) = log.read_checkpoint(slot).await {
            return Ok(Some(state));
        }
    }
    Ok(None)
}

impl Log {
    /// Takes in the record of a slot, whatever became of the slots before it. Of what the state covers already, only what is
    /// final counts. Fails with [`Fault::Integrity`] when a list that the record names cannot be read.
    async fn fold_alone(&mut self, slot: u64, covered: u64, hash: Hash, id: Hash, body: &Body) -> Result<(), RepositoryError> {
        let mut lists = Vec::new();
        if let Some(Action::Condemn(condemn)) = &body.action {
            for list in &condemn.lists {
                lists.push((list.class(), self.load_list(&list.list[..].try_into().unwrap_or_default()).await?));
            }
        }
        if slot > covered {
            self.state.apply(slot, hash, id, body);
        } else {
            let mut final_only = State::default();
            final_only.apply(slot, hash, id, body);
            self.state.forgotten.extend(final_only.forgotten);
            self.state.revoked.extend(final_only.revoked);
            final_only.condemned.into_iter().for_each(|(class, names)| self.state.condemn(class, names));
        }
        lists.into_iter().for_each(|(class, names)| self.state.condemn(class, names));
        Ok(())
    }
}

/// The segments that a record relies on.
fn segments(body: &Body) -> impl Iterator<Item = Hash> {
    let names = match &body.action {
        Some(Action::Publish(publish)) => publish.segments.clone(),
        Some(Action::Commit(commit)) => commit.segments.clone(),
        Some(Action::Compact(compact)) => compact.new.clone(),
        _ => Vec::new(),
    };
    names.into_iter().filter_map(|name| name[..].try_into().ok())
}

/// Adds what one epoch knew to what is known of those before it. `all`: it had carried over what they said.
fn unite(known: &mut State, epoch: State, all: bool) {
    if all {
        (known.distrusted, known.features, known.holds) = Default::default();
    }
    known.snapshots.extend(epoch.snapshots);
    known.forgotten.extend(epoch.forgotten);
    known.segments.extend(epoch.segments);
    known.distrusted.extend(epoch.distrusted);
    known.revoked.extend(epoch.revoked);
    known.features.extend(epoch.features);
    known.holds.extend(epoch.holds);
    epoch.condemned.into_iter().for_each(|(class, names)| known.condemn(class, names));
    (known.epoch, known.slot, known.hash, known.replica_id) = (epoch.epoch, epoch.slot, epoch.hash, epoch.replica_id);
}

/// What can be said of slots as they were found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judged {
    /// Every record is known.
    complete: bool,
    /// Everything unknown stands before this slot, and whoever wrote it or a later one knew it.
    proven_from: Option<u64>,
}

/// Judges the slots of an epoch. `checkpoint`: the slot that one covers, and that slot's hash. `heads`: where the log was seen.
fn judge(slots: &[Spot], checkpoint: Option<(u64, Hash)>, heads: &[Head]) -> Judged {
    let spot = |slot: u64| slots.get(usize::try_from(slot).unwrap_or(usize::MAX).wrapping_sub(1));
    let end = slots.len() as u64;
    // Seen further, or otherwise, than it is: what followed there is not known.
    let strayed = |slot: u64, hash: &Hash| match spot(slot) {
        None => true,
        Some(Spot::Record(found, _)) => found != hash,
        Some(Spot::Absent | Spot::Lost(_)) => false,
    };
    let follows = |slot: u64| match (spot(slot - 1), spot(slot)) {
        (Some(Spot::Record(before, _)), Some(Spot::Record(_, prev))) => prev == before,
        _ => false,
    };
    let forked = (2..=end).any(|slot| {
        let records = matches!((spot(slot - 1), spot(slot)), (Some(Spot::Record(..)), Some(Spot::Record(..))));
        records && !follows(slot)
    });
    if forked || heads.iter().any(|head| strayed(head.slot, &head.hash)) {
        return Judged::default();
    }
    let mut from = end;
    if !matches!(spot(end), Some(Spot::Record(..))) {
        from = 0;
    }
    while from > 1 && follows(from) {
        from -= 1;
    }
    // A log without a wound that needs a repair all the same lacks its end: nothing says what that held.
    let proven_from = (from > 1).then_some(from);
    let complete = checkpoint.is_some_and(|(slot, hash)| {
        let wounded = (1..=slot.min(end)).any(|n| !matches!(spot(n), Some(Spot::Record(..))));
        let next = match spot(slot + 1) {
            None => slot == end,
            Some(Spot::Record(_, prev)) => *prev == hash,
            Some(_) => false,
        };
        wounded && next && !strayed(slot, &hash) && (slot + 2..=end).all(follows)
    });
    Judged { complete, proven_from }
}

#[cfg(test)]
mod tests {
    use crate::repository::heads::Head;
    use crate::repository::past::{Judged, Spot, judge};

    fn hash(n: u8) -> [u8; 32] {
        [n; 32]
    }

    /// A log of `n` records, each following the one before.
    fn log(n: u8) -> Vec<Spot> {
        (1..=n).map(|i| Spot::Record(hash(i), hash(i - 1))).collect()
    }

    fn head(slot: u8, is: u8) -> Head {
        Head { epoch: 1, slot: u64::from(slot), hash: hash(is) }
    }

    fn judged(complete: bool, proven_from: Option<u64>) -> Judged {
        Judged { complete, proven_from }
    }

    #[test]
    fn behind_a_lost_slot_everything_is_proven() {
        for lost in [Spot::Absent, Spot::Lost(hash(99))] {
            let mut slots = log(8);
            slots[3] = lost;
            assert_eq!(judge(&slots, None, &[]), judged(false, Some(5)), "{lost:?}");
            assert_eq!(judge(&slots, None, &[head(4, 4), head(8, 8)]), judged(false, Some(5)));
            assert_eq!(judge(&slots, Some((3, hash(3))), &[]), judged(false, Some(5)), "the checkpoint is from before");
            for at in 4..=8 {
                assert_eq!(judge(&slots, Some((at, hash(at as u8))), &[]), judged(true, Some(5)), "covered at {at}");
            }
        }
    }

    #[test]
    fn nothing_is_proven_where_the_end_may_be_missing() {
        // Whole, and in need of a repair all the same.
        assert_eq!(judge(&log(5), None, &[]), judged(false, None));
        assert_eq!(judge(&log(5), Some((3, hash(3))), &[]), judged(false, None));
        // Seen further, or otherwise.
        let mut slots = log(8);
        slots[3] = Spot::Absent;
        for seen in [head(9, 9), head(7, 70), head(2, 20)] {
            assert_eq!(judge(&slots, Some((6, hash(6))), &[seen]), judged(false, None), "{seen:?}");
        }
        slots[7] = Spot::Lost(hash(9));
        assert_eq!(judge(&slots, Some((6, hash(6))), &[]), judged(false, None), "the last one is lost");
        assert_eq!(judge(&[], None, &[]), judged(false, None));
        assert_eq!(judge(&[Spot::Lost(hash(1))], None, &[]), judged(false, None));
    }

    #[test]
    fn a_fork_or_a_checkpoint_of_another_history_proves_nothing() {
        let mut slots = log(8);
        slots[2] = Spot::Absent;
        slots[5] = Spot::Record(hash(60), hash(50));
        assert_eq!(judge(&slots, Some((4, hash(4))), &[]), judged(false, None), "forked at 6");
        let mut slots = log(8);
        slots[2] = Spot::Absent;
        assert_eq!(judge(&slots, Some((5, hash(50))), &[]), judged(false, Some(4)), "of another slot 5");
        assert_eq!(judge(&slots, Some((3, hash(30))), &[]), judged(false, Some(4)), "slot 4 does not follow it");
        assert_eq!(judge(&slots, Some((9, hash(9))), &[]), judged(false, Some(4)), "of a slot that is not there");
    }
}
