//! Frames, alone and with their neighbours in one request, and the order in which replicas are asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::chunk::id::ChunkId;
use crate::format::pack::PackKind;
use crate::replica::Replica;
use crate::replica::read::{ReadFault, read_one};
use crate::repository::chunk_index::{PackRow, Place};
use crate::repository::error::RepositoryError;
use crate::repository::layout;
use crate::repository::reader::{Wanted, pack_class, seal_kind, verify};
use crate::repository::{Met, Repository};
use crate::seal::Kind;

/// A replica that failed to answer this often in a row is asked last.
const UNANSWERED_MAX: u32 = 3;

impl Repository {
    /// Every place of each chunk that some readable replica has, the trusted ones first.
    pub async fn places(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>, RepositoryError> {
        let readable = self.readable();
        let index = self.index().await?;
        let index = index.read().expect("no panic while the index is locked");
        let of = |id| {
            let mut places = index.places(id);
            places.retain(|p| !index.pack(p.pack).published.and(readable).is_empty());
            places.sort_by_key(|p| index.pack(p.pack).usable().and(readable).is_empty());
            places
        };
        Ok(ids.iter().map(of).collect())
    }

    /// The plaintext of a frame, with the wanted chunks in it verified. Tries every replica that has the pack, those that
    /// trust it first; `None` when none of them gives what is wanted (what was met is noted).
    pub async fn frame(&self, place: &Place, wanted: &[Wanted]) -> Option<Bytes> {
        self.frame_from(None, place, wanted).await
    }

    /// The same, beginning with replica `first` unless it is known by now not to have the pack whole.
    async fn frame_from(&self, first: Option<usize>, place: &Place, wanted: &[Wanted]) -> Option<Bytes> {
        if let Some(plain) = self.frames.get(place.frame)
            && verify(&self.keyring.id_key, &plain, wanted).is_ok()
        {
            return Some(plain);
        }
        let pack = self.index.read().expect("no panic while the index is locked").pack(place.pack).clone();
        let name = layout::hashed(pack_class(pack.kind), &pack.hash);
        let range = u64::from(place.frame_offset)..u64::from(place.frame_offset) + u64::from(place.frame_stored);
        let kind = seal_kind(pack.kind);
        let wanted: Arc<[Wanted]> = wanted.into();
        let mut order = self.order_for(&pack);
        if let Some(first) = first.filter(|first| pack.usable().has(*first)) {
            order.sort_by_key(|r| r.index != first);
        }
        for replica in order {
            let asking = self.busy.asks(replica.index, u64::from(place.frame_stored));
            let read = read_one(replica, &name, Some(range.clone()), async |bytes: Bytes| {
                let (keyring, shape, wanted) = (self.keyring.clone(), place.shape, wanted.clone());
                self.env
                    .cpu(move || {
                        let plain = keyring.sealer.open(kind, shape, &bytes).map_err(|e| e.to_string())?;
                        verify(&keyring.id_key, &plain, &wanted)?;
                        Ok(Bytes::from(plain))
                    })
                    .await
            });
            let read = read.await;
            drop(asking);
            match read {
                Ok(plain) => {
                    self.answered(replica.index);
                    if kind == Kind::Meta {
                        self.frames.put(place.frame, plain.clone());
                    }
                    return Some(plain);
                }
                Err(fault) => self.failed(replica.index, &pack, &fault),
            }
        }
        None
    }

    /// The plaintexts of frames of one pack that lie near each other, in ascending order: read in one request, each
    /// verified on its own as by [`Repository::frame`]. What the one request does not give is read frame by frame.
    pub async fn frames(&self, frames: &[(Place, Vec<Wanted>)]) -> Vec<Option<Bytes>> {
        let (mut plains, asked) = match frames {
            [first, .., last] if frames.is_sorted_by_key(|(p, _)| p.frame_offset) && first.0.pack == last.0.pack => {
                self.joined(frames).await
            }
            _ => (Vec::new(), None),
        };
        plains.resize(frames.len(), None);
        for (plain, (place, wanted)) in plains.iter_mut().zip(frames) {
            if plain.is_none() {
                *plain = self.frame_from(asked, place, wanted).await;
            }
        }
        plains
    }

    /// What one request gives, and the replica that gave something else for some of it: it is asked again before that
    /// counts as damage.
    async fn joined(&self, frames: &[(Place, Vec<Wanted>)]) -> (Vec<Option<Bytes>>, Option<usize>) {
        let end = |p: &Place| u64::from(p.frame_offset) + u64::from(p.frame_stored);
        let start = u64::from(frames[0].0.frame_offset);
        let range = start..frames.iter().map(|(p, _)| end(p)).max().unwrap_or(start);
        let pack = self.index.read().expect("no panic while the index is locked").pack(frames[0].0.pack).clone();
        let name = layout::hashed(pack_class(pack.kind), &pack.hash);
        let order = self.order_for(&pack);
        let Some(replica) = order.first() else { return (Vec::new(), None) };
        let asking = self.busy.asks(replica.index, range.end - range.start);
        let read = replica.store.get(&name, Some(range)).await;
        drop(asking);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(e) => {
                self.failed(replica.index, &pack, &ReadFault::Store(e));
                return (Vec::new(), None);
            }
        };
        self.answered(replica.index);
        let (keyring, kind) = (self.keyring.clone(), seal_kind(pack.kind));
        let frames: Vec<(Place, Vec<Wanted>)> = frames.to_vec();
        let plains = self
            .env
            .cpu(move || {
                let open = |(place, wanted): &(Place, Vec<Wanted>)| {
                    let from = (u64::from(place.frame_offset) - start) as usize;
                    let stored = bytes.get(from..from + place.frame_stored as usize)?;
                    let plain = keyring.sealer.open(kind, place.shape, stored).ok()?;
                    verify(&keyring.id_key, &plain, wanted).ok()?;
                    Some(Bytes::from(plain))
                };
                frames.iter().map(open).collect()
            })
            .await;
        (plains, Some(replica.index))
    }

    /// The replicas that have a pack, in the order in which to ask: those that trust it first, silent ones last, the
    /// preferred before the others. Content is asked of the least busy among equals, so that a restore draws on all of them
    /// at once; catalogs are small, and come from the same replica as long as it answers.
    pub(super) fn order_for(&self, pack: &PackRow) -> Vec<&Replica> {
        let mut order = self.set.reading_order(pack.published.and(self.readable()));
        let unanswered = self.unanswered.lock().expect("no panic while answers are counted").clone();
        let load = self.busy.loads();
        let spread = pack.kind == PackKind::Data;
        order.sort_by_key(|r| {
            let silent = unanswered.get(&r.index).is_some_and(|n| *n >= UNANSWERED_MAX);
            let load = if spread { load.get(&r.index).copied().unwrap_or_default() } else { Load::default() };
            (silent, !pack.usable().has(r.index), self.set.rank(r), load)
        });
        order
    }

    /// Notes whether a replica answered: damage is an answer, too.
    pub(super) fn note_answer(&self, replica: usize, fault: Option<&ReadFault>) {
        match fault {
            Some(fault) if !fault.is_damage() => {
                *self.unanswered.lock().expect("no panic while answers are counted").entry(replica).or_default() += 1;
            }
            _ => self.answered(replica),
        }
    }

    fn answered(&self, replica: usize) {
        self.unanswered.lock().expect("no panic while answers are counted").remove(&replica);
    }

    /// Notes what a read met. A pack found damaged is not relied on from here on; a replica that does not answer is
    /// counted: a dead one must not be waited for at every frame.
    fn failed(&self, replica: usize, pack: &PackRow, fault: &ReadFault) {
        self.note_answer(replica, Some(fault));
        if fault.is_damage() {
            self.index.write().expect("no panic while the index is locked").distrust(replica, &pack.hash, true);
        }
        let pack = fault.is_damage().then_some(pack.hash);
        self.meet(Met { replica, pack, what: fault.to_string() });
    }
}

/// What a replica is asked for, in bytes: under way, and since the repository was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Load {
    now: u64,
    ever: u64,
}

/// What each replica is asked for.
#[derive(Default)]
pub struct Busy(Mutex<BTreeMap<usize, Load>>);

/// A request under way.
struct Asking<'b> {
    busy: &'b Busy,
    replica: usize,
    bytes: u64,
}

impl Busy {
    fn loads(&self) -> BTreeMap<usize, Load> {
        self.0.lock().expect("no panic while loads are counted").clone()
    }

    fn asks(&self, replica: usize, bytes: u64) -> Asking<'_> {
        let mut loads = self.0.lock().expect("no panic while loads are counted");
        let load = loads.entry(replica).or_default();
        load.now += bytes;
        load.ever += bytes;
        Asking { busy: self, replica, bytes }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Ok(mut loads) = self.busy.0.lock() {
            let load = loads.entry(self.replica).or_default();
            load.now = load.now.saturating_sub(self.bytes);
        }
    }
}
