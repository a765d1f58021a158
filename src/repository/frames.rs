//! Neighbouring frames of one pack in one request, and the order in which replicas are asked.

use bytes::Bytes;

use crate::chunk::id::ChunkId;
use crate::replica::Replica;
use crate::replica::read::ReadFault;
use crate::repository::Repository;
use crate::repository::chunk_index::{PackRow, Place};
use crate::repository::error::RepositoryError;
use crate::repository::layout;
use crate::repository::reader::{Wanted, pack_class, seal_kind, verify};

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

    /// The plaintexts of frames of one pack that lie near each other, in ascending order: read in one request, each
    /// verified on its own as by [`Repository::frame`]. What the one request does not give is read frame by frame.
    pub async fn frames(&self, frames: &[(Place, Vec<Wanted>)]) -> Vec<Option<Bytes>> {
        let mut plains = match frames {
            [first, .., last] if frames.is_sorted_by_key(|(p, _)| p.frame_offset) && first.0.pack == last.0.pack => {
                self.joined(frames).await
            }
            _ => Vec::new(),
        };
        plains.resize(frames.len(), None);
        for (plain, (place, wanted)) in plains.iter_mut().zip(frames) {
            if plain.is_none() {
                *plain = self.frame(place, wanted).await;
            }
        }
        plains
    }

    async fn joined(&self, frames: &[(Place, Vec<Wanted>)]) -> Vec<Option<Bytes>> {
        let end = |p: &Place| u64::from(p.frame_offset) + u64::from(p.frame_stored);
        let start = u64::from(frames[0].0.frame_offset);
        let range = start..frames.iter().map(|(p, _)| end(p)).max().unwrap_or(start);
        let pack = self.index.read().expect("no panic while the index is locked").pack(frames[0].0.pack).clone();
        let name = layout::hashed(pack_class(pack.kind), &pack.hash);
        let order = self.order_for(&pack);
        let Some(replica) = order.first() else { return Vec::new() };
        // What fails here is asked for again frame by frame, and what that meets is noted there.
        let bytes = match replica.store.get(&name, Some(range)).await {
            Ok(bytes) => bytes,
            Err(e) => {
                self.note_answer(replica.index, Some(&ReadFault::Store(e)));
                return Vec::new();
            }
        };
        let (keyring, kind) = (self.keyring.clone(), seal_kind(pack.kind));
        let frames: Vec<(Place, Vec<Wanted>)> = frames.to_vec();
        self.env
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
            .await
    }

    /// The replicas that have a pack, in the order in which to ask: those that trust it first, silent ones last.
    pub(super) fn order_for(&self, pack: &PackRow) -> Vec<&Replica> {
        let readable = self.readable();
        let (trusted, rest) = (pack.usable().and(readable), pack.published.and(readable).without(pack.usable()));
        let mut order = self.set.reading_order(trusted);
        order.extend(self.set.reading_order(rest));
        let unanswered = self.unanswered.lock().expect("no panic while answers are counted");
        order.sort_by_key(|r| unanswered.get(&r.index).is_some_and(|n| *n >= UNANSWERED_MAX));
        order
    }

    /// Counts how often in a row a replica failed to answer: a dead one must not be waited for at every frame.
    pub(super) fn note_answer(&self, replica: usize, fault: Option<&ReadFault>) {
        let mut unanswered = self.unanswered.lock().expect("no panic while answers are counted");
        match fault {
            Some(fault) if !fault.is_damage() => *unanswered.entry(replica).or_default() += 1,
            _ => {
                unanswered.remove(&replica);
            }
        }
    }
}
