//! Moving what was planned: whole packs as they are, frames into new packs, then the index segments that publish them.
//!
//! ```text
//! moves -16 at once-> read (whole: hash; frames: opened) -> put whole packs --\
//!                                          \--4 arrivals-> frames to packs ----> segments -> publish
//! ```
//! Every read waits by itself for its place in the channel, so that none stands still while it holds a store's attention.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, stream};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::format::pack::{Frame, PackBuilder, PackKind};
use crate::lifecycle::heal::HealSettings;
use crate::lifecycle::heal_plan::{Move, Wanted};
use crate::progress::{Progress, Stop};
use crate::replica::read::ReadFault;
use crate::replica::{Mask, REPLICAS_MAX};
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::packs::Spot;
use crate::repository::writer::{SentSegment, WriteFault};
use crate::store::error::StoreErrorKind;

/// Source packs that are read at once, memory permitting.
const AT_ONCE: usize = 16;
/// What was read and may wait for the packer.
const ARRIVED: usize = 4;
/// New packs that are filled at once: by kind, and by who lacks what goes into them.
const OPEN_MAX: usize = 2;
/// A pack is read whole for some of its frames where that costs no more bytes than this beyond them.
const WASTE_MAX: u64 = 1 << 20;

/// What one target got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Got {
    /// Packs copied as they are.
    pub packs_copied: u64,
    /// Packs made of frames.
    pub packs_made: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// What came of the moves so far.
#[derive(Default)]
pub struct Moved {
    /// Targets whose store or log failed, and why: nothing more is sent there.
    pub out: BTreeMap<usize, (Fault, String)>,
    /// Targets that did not get something that was planned for them.
    pub short: Mask,
    /// Frames of packs that no replica trusts and that none gave: number of the pack, offset of the frame.
    pub unreadable: BTreeSet<(u32, u32)>,
    /// Names of packs under which something else lies at a target.
    pub void: BTreeSet<(usize, Hash)>,
    /// Packs that were published in each target's log, by its index.
    pub own: Vec<BTreeSet<(PackKind, Hash)>>,
    /// What each target got, by its index.
    pub got: Vec<Got>,
}

/// The way from source packs to targets.
pub struct Transfer<'r> {
    repository: &'r Repository,
    settings: &'r HealSettings,
    progress: &'r Progress,
    stop: &'r Stop,
    memory: Semaphore,
    memory_kib: u32,
    moved: Mutex<Moved>,
}

/// A frame on its way into a new pack.
type Loose = (Frame, Bytes, Mask);

enum Arrived<'m> {
    /// A pack that lies at these targets.
    Pack(PackEntry, Mask),
    /// Frames, and their share of the memory.
    Frames(PackKind, Vec<Loose>, SemaphorePermit<'m>),
}

impl<'r> Transfer<'r> {
    /// Nothing moved yet.
    pub fn new(repository: &'r Repository, settings: &'r HealSettings, progress: &'r Progress, stop: &'r Stop) -> Transfer<'r> {
        // New packs that are being filled have their share beside what is being read.
        let filling = OPEN_MAX as u64 * u64::from(settings.data_pack.max(settings.meta_pack));
        let reading = settings.memory.saturating_sub(filling).max(settings.memory / 4);
        let memory_kib = u32::try_from(reading >> 10).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        let moved =
            Moved { own: vec![BTreeSet::new(); REPLICAS_MAX], got: vec![Got::default(); REPLICAS_MAX], ..Moved::default() };
        Transfer {
            repository,
            settings,
            progress,
            stop,
            memory: Semaphore::new(memory_kib as usize),
            memory_kib,
            moved: Mutex::new(moved),
        }
    }

    /// What came of it so far.
    pub fn moved(&self) -> MutexGuard<'_, Moved> {
        // Every change under the lock is whole by itself.
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `mask` that have not failed.
    pub fn alive(&self, mask: Mask) -> Mask {
        Mask(self.moved().out.keys().fold(mask.0, |m, i| m & !(1 << i)))
    }

    /// Takes a target out: nothing more is sent there.
    pub fn leave(&self, index: usize, fault: Fault, why: String) {
        self.repository.set_fault(index, fault, why.clone());
        self.moved().out.entry(index).or_insert((fault, why));
    }

    /// A target did not get something.
    pub fn fall_short(&self, at: Mask) {
        let mut moved = self.moved();
        moved.short = moved.short.or(at);
    }

    /// Carries out moves, and publishes what arrived. What did not is told by [`Moved`].
    pub async fn run(&self, moves: Vec<Move>) {
        let (arrived_in, arrived) = mpsc::channel(ARRIVED);
        let moving = async move {
            let to = &arrived_in;
            stream::iter(moves).for_each_concurrent(AT_ONCE, |one| self.one(one, to)).await;
        };
        futures::join!(moving, self.pack(arrived));
    }

    async fn one<'m>(&'m self, what: Move, to: &mpsc::Sender<Arrived<'m>>) {
        let index = match self.repository.index().await {
            Ok(index) => index,
            Err(e) => return self.everyone(&what, &e),
        };
        let pack = index.read().expect("no panic while the index is locked").pack(what.pack).clone();
        let spots: Vec<Spot> = what.frames.iter().map(|f| f.spot).collect();
        let (bytes, largest) = (what.bytes(), spots.iter().map(|spot| u64::from(spot.1)).max().unwrap_or(0));
        let trusted = !pack.usable().and(self.repository.readable()).is_empty();
        let read_whole = trusted && (!what.whole.is_empty() || pack.size.saturating_sub(bytes) <= WASTE_MAX);
        // A frame that is opened needs room beside itself.
        let room = if read_whole { pack.size } else { bytes + 2 * largest + WASTE_MAX };
        let room = u32::try_from(room.div_ceil(1 << 10)).unwrap_or(u32::MAX).clamp(1, self.memory_kib);
        let Ok(admitted) = self.memory.acquire_many(room).await else { return };
        let alive = self.alive(what.to());
        if self.stop.requested() || alive.is_empty() {
            return self.fall_short(what.to());
        }
        self.progress.set_current(|| format!("pack {}", hex::encode(pack.hash)));
        if read_whole && let Some((entry, stored)) = self.repository.whole_pack(&pack, &spots).await {
            let whole = what.whole.and(alive);
            if !whole.is_empty() {
                let (at, void) = self.put(whole, &entry, &stored).await;
                self.moved().void.extend(void.indices().map(|i| (i, pack.hash)));
                self.fall_short(void);
                self.count(at, entry.size, |got| got.packs_copied += 1);
                self.hand_on(to, Arrived::Pack(entry.clone(), at)).await;
            }
            let loose = loose(&what.frames, alive.without(what.whole), |spot| {
                let at = entry.frames.binary_search_by_key(&u64::from(spot.0), |f| f.offset).ok()?;
                let range = entry.frames[at].range();
                Some((entry.frames[at].clone(), stored.slice(range.start as usize..range.end as usize)))
            });
            if !loose.is_empty() {
                self.hand_on(to, Arrived::Frames(pack.kind, loose, admitted)).await;
            }
        } else {
            let mut found: BTreeMap<u32, (Frame, Bytes)> =
                self.repository.pack_frames(&pack, &spots).await.into_iter().map(|f| (f.0.offset as u32, f)).collect();
            let missing: Vec<&Wanted> = what.frames.iter().filter(|f| !found.contains_key(&f.spot.0)).collect();
            self.fall_short(missing.iter().fold(Mask::default(), |m, f| m.or(f.to)));
            if !trusted {
                self.moved().unreadable.extend(missing.iter().map(|f| (what.pack, f.spot.0)));
            }
            let loose = loose(&what.frames, alive, |spot| found.remove(&spot.0));
            self.hand_on(to, Arrived::Frames(pack.kind, loose, admitted)).await;
        }
        self.progress.items.add(1);
        self.progress.bytes.add(bytes);
    }

    async fn hand_on<'m>(&self, to: &mpsc::Sender<Arrived<'m>>, what: Arrived<'m>) {
        // The packer takes until the last sender is gone.
        let _ = to.send(what).await;
    }

    fn everyone(&self, what: &Move, e: &RepositoryError) {
        what.to().indices().for_each(|i| self.leave(i, e.fault, e.to_string()));
    }

    /// Puts a pack at targets. Gives those that have it now, and those where its name is taken by something else.
    async fn put(&self, targets: Mask, entry: &PackEntry, stored: &Bytes) -> (Mask, Mask) {
        let Ok(hash) = entry.name() else { return (Mask::default(), targets) };
        let puts = targets.indices().map(|i| {
            let put = self.repository.put_pack(i, entry.kind(), &hash, stored);
            async move { (i, put.await) }
        });
        let (mut at, mut void) = (Mask::default(), Mask::default());
        for (i, put) in join_all(puts).await {
            match put {
                Ok(()) => at = at.or(Mask::one(i)),
                Err(e) if e.kind == StoreErrorKind::Corrupt => void = void.or(Mask::one(i)),
                Err(e) => self.leave(i, RepositoryError::from_kind(e.kind), ReadFault::Store(e).to_string()),
            }
        }
        (at, void)
    }

    fn count(&self, at: Mask, bytes: u64, what: impl Fn(&mut Got)) {
        let mut moved = self.moved();
        for i in at.indices() {
            what(&mut moved.got[i]);
            moved.got[i].bytes += bytes;
            let (name, sent) = (&self.repository.set.replicas[i].name, moved.got[i].bytes);
            self.progress.update_replica(i, |p| {
                p.name.clone_from(name);
                p.sent = sent;
            });
        }
    }

    /// Fills packs with the frames that arrive, and publishes packs now and then.
    async fn pack(&self, mut arrived: mpsc::Receiver<Arrived<'_>>) {
        let mut open: BTreeMap<(PackKind, Mask), PackBuilder> = BTreeMap::new();
        let mut waiting: Vec<(PackEntry, Mask)> = Vec::new();
        let env = &self.repository.env;
        let mut last = env.elapsed();
        while let Some(next) = arrived.recv().await {
            match next {
                Arrived::Pack(entry, at) => waiting.push((entry, at)),
                Arrived::Frames(kind, frames, _admitted) => {
                    for (frame, bytes, to) in frames {
                        self.append(&mut open, kind, &frame, &bytes, to, &mut waiting).await;
                    }
                }
            }
            let bytes: u64 = waiting.iter().map(|(entry, _)| entry.size).sum();
            if bytes >= self.settings.publish_bytes || env.elapsed() >= last + self.settings.publish_every {
                self.publish(std::mem::take(&mut waiting)).await;
                last = env.elapsed();
            }
        }
        for ((_, to), builder) in open {
            waiting.extend(self.close(builder, to).await);
        }
        self.publish(waiting).await;
    }

    async fn append(
        &self,
        open: &mut BTreeMap<(PackKind, Mask), PackBuilder>,
        kind: PackKind,
        frame: &Frame,
        bytes: &Bytes,
        to: Mask,
        waiting: &mut Vec<(PackEntry, Mask)>,
    ) {
        let to = self.alive(to);
        if to.is_empty() {
            return;
        }
        let target = if kind == PackKind::Meta { self.settings.meta_pack } else { self.settings.data_pack } as usize;
        if open.get(&(kind, to)).is_some_and(|builder| builder.len() + bytes.len() > target)
            && let Some(full) = open.remove(&(kind, to))
        {
            waiting.extend(self.close(full, to).await);
        }
        if open.len() == OPEN_MAX
            && !open.contains_key(&(kind, to))
            && let Some(key) = open.iter().max_by_key(|(_, builder)| builder.len()).map(|(key, _)| *key)
            && let Some(largest) = open.remove(&key)
        {
            waiting.extend(self.close(largest, key.1).await);
        }
        let random = self.repository.env.random();
        let builder = open.entry((kind, to)).or_insert_with(|| PackBuilder::new(kind, random, target.max(bytes.len())));
        let chunks: Vec<_> = frame.chunks().map(|span| (span.id, span.length)).collect();
        let added = frame.shape().and_then(|shape| builder.append(bytes, shape, &chunks));
        if added.is_err() {
            self.fall_short(to);
        }
    }

    /// Finishes a pack and brings it to the targets; gives it with those that have it.
    async fn close(&self, builder: PackBuilder, to: Mask) -> Option<(PackEntry, Mask)> {
        if builder.is_empty() {
            return None;
        }
        let (keyring, entropy) = (self.repository.keyring.clone(), self.repository.env.random());
        let finish = move || builder.finish(&keyring.keys.index, &keyring.repository_id, entropy);
        let pack = self.repository.env.cpu(finish).await;
        let bytes = Bytes::from(pack.bytes);
        let (at, void) = self.put(self.alive(to), &pack.entry, &bytes).await;
        self.fall_short(void);
        self.count(at, pack.entry.size, |got| got.packs_made += 1);
        Some((pack.entry, at))
    }

    /// Names packs in the logs of the targets that have them.
    async fn publish(&self, packs: Vec<(PackEntry, Mask)>) {
        let packs: Vec<_> =
            packs.into_iter().map(|(entry, at)| (entry, self.alive(at))).filter(|(_, at)| !at.is_empty()).collect();
        if packs.is_empty() {
            return;
        }
        let (segments, failed) = self.repository.send_segments(packs).await;
        for (i, e) in failed {
            self.leave(i, e.fault, crate::lifecycle::heal::told(&e));
        }
        let at = segments.iter().fold(Mask::default(), |m, segment| m.or(segment.at));
        let segments: &[SentSegment] = &segments;
        let publish = async |i: usize| (i, self.repository.publish(i, segments).await);
        for (i, published) in join_all(self.alive(at).indices().map(publish)).await {
            match published {
                Ok(()) => {
                    let packs = segments.iter().filter(|s| s.at.has(i)).flat_map(|s| s.packs.iter().copied());
                    self.moved().own[i].extend(packs);
                }
                // Condemned meanwhile: the next round copies it under another name.
                Err(WriteFault::LostCover(_)) => self.fall_short(Mask::one(i)),
                Err(WriteFault::Repository(e)) => self.leave(i, e.fault, crate::lifecycle::heal::told(&e)),
            }
        }
    }
}

/// The frames that some of `at` lack, as `find` gives them.
fn loose(frames: &[Wanted], at: Mask, mut find: impl FnMut(&Spot) -> Option<(Frame, Bytes)>) -> Vec<Loose> {
    let one = |wanted: &Wanted| {
        let to = wanted.to.and(at);
        let (frame, bytes) = if to.is_empty() { None } else { find(&wanted.spot) }?;
        Some((frame, bytes, to))
    };
    frames.iter().filter_map(one).collect()
}
