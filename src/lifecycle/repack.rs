//! Moving what is live out of packs that go: frames as they are, or opened and their live chunks sealed anew; then the index
//! segments that publish the new packs in the log of the one replica that they are for.
//!
//! ```text
//! packs -2 or more at once, as memory allows-> read (hash, or frames opened) -> one by one: frames to packs -> put -> publish
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::chunk::id::ChunkId;
use crate::format::index::PackEntry;
use crate::format::pack::{Frame, PackBuilder, PackKind};
use crate::lifecycle::prune::{PruneError, PruneSettings};
use crate::lifecycle::prune_plan::{Moving, Plan};
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::chunk_index::PackRow;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::packs::Spot;
use crate::repository::writer::WriteFault;
use crate::seal::{FrameShape, Kind, Roomy};

/// Packs that are read at once at most.
const AT_ONCE: usize = 8;
/// A pack is read whole for some of its frames where that costs no more bytes than this beyond them.
const WASTE_MAX: u64 = 1 << 20;
/// Chunks of this size or more are sealed alone, in bytes.
const ALONE: usize = 64 << 10;
/// Chunks in one pack at most: its trailer stays small beside it.
const CHUNKS_MAX: usize = 1 << 15;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// New packs.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Small chunks that are to be sealed together.
#[derive(Default)]
struct Group {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

/// A frame that is to move, and its number if it is to be opened.
type Wish = (Spot, Option<u32>);
/// A frame that was read, and its number if it is to be opened.
type Read = (Frame, Bytes, Option<u32>);

/// A pack, and the frames that are to move out of it; see [`Moving`] for what stands beside each.
type Wanted = (PackRow, Vec<Wish>);

/// The way into new packs of one replica.
pub struct Repack<'r> {
    repository: &'r Repository,
    settings: &'r PruneSettings,
    replica: usize,
    plan: &'r Plan,
    progress: &'r Progress,
    stop: &'r Stop,
    /// Packs that are being filled, each with its number of chunks.
    open: BTreeMap<PackKind, (PackBuilder, usize)>,
    groups: BTreeMap<PackKind, Group>,
    /// Packs that lie at the replica and are not published yet.
    waiting: Vec<PackEntry>,
    moved: Moved,
}

fn seal_kind(kind: PackKind) -> Kind {
    if kind == PackKind::Meta { Kind::Meta } else { Kind::Data }
}

fn unwritable(e: impl std::error::Error + Send + Sync + 'static) -> PruneError {
    RepositoryError::caused(Fault::Failed, "could not move a frame into a new pack", e).into()
}

impl<'r> Repack<'r> {
    /// Nothing is moved yet.
    pub fn new(
        repository: &'r Repository,
        settings: &'r PruneSettings,
        replica: usize,
        plan: &'r Plan,
        progress: &'r Progress,
        stop: &'r Stop,
    ) -> Repack<'r> {
        let (open, groups, waiting) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Repack { repository, settings, replica, plan, progress, stop, open, groups, waiting, moved: Moved::default() }
    }

    /// Carries out the moves of the plan, and publishes what they come to. What was published before it fails stays; the next
    /// run finds it.
    pub async fn run(mut self) -> Result<Moved, PruneError> {
        let index = self.repository.index().await?;
        let mut wanted: Vec<Wanted> = Vec::new();
        {
            let chunks = index.read().expect("no panic while the index is locked");
            for (pack, frames) in &self.plan.moves {
                let spot = |moving: &Moving| {
                    let frame = chunks.frame(moving.frame);
                    ((frame.offset, frame.stored), moving.opened.then_some(moving.frame))
                };
                wanted.push((chunks.pack(*pack).clone(), frames.iter().map(spot).collect()));
            }
        }
        // What is being filled and what is being sent have their share beside what is read.
        let filling = 2 * u64::from(self.settings.data_pack.max(self.settings.meta_pack));
        let largest = wanted.iter().map(|(pack, _)| pack.size).max().unwrap_or(1).max(1);
        let at_once = (self.settings.memory.saturating_sub(filling) / (2 * largest)).clamp(1, AT_ONCE as u64);
        let (repository, replica, stop) = (self.repository, self.replica, self.stop);
        let mut reads = stream::iter(wanted)
            .map(|(pack, frames)| async move {
                if stop.requested() {
                    return Err(PruneError::Interrupted);
                }
                match read(repository, &pack, &frames).await {
                    Some(read) => Ok((pack, read)),
                    None => Err(unread(repository, replica, &pack).await),
                }
            })
            .buffered(at_once as usize);
        while let Some(next) = reads.next().await {
            let (pack, frames) = next?;
            self.progress.set_current(|| format!("pack {}", hex::encode(pack.hash)));
            for (frame, bytes, opened) in frames {
                match opened {
                    Some(number) => self.take_apart(pack.kind, number, frame, bytes).await?,
                    None => {
                        let chunks: Vec<_> = frame.chunks().map(|span| (span.id, span.length)).collect();
                        self.append(pack.kind, &bytes, frame.shape().map_err(unwritable)?, &chunks).await?;
                    }
                }
            }
            self.progress.items.add(1);
            self.progress.bytes.add(pack.size);
            if self.waiting.iter().map(|entry| entry.size).sum::<u64>() >= self.settings.publish_bytes {
                self.publish().await?;
            }
        }
        drop(reads);
        for kind in self.groups.keys().copied().collect::<Vec<_>>() {
            self.close_group(kind).await?;
        }
        for kind in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(kind).await?;
        }
        self.publish().await?;
        Ok(self.moved)
    }

    /// Opens a frame, and puts those of its chunks that are live and have their place there into groups.
    async fn take_apart(&mut self, kind: PackKind, number: u32, frame: Frame, bytes: Bytes) -> Result<(), PruneError> {
        let (keyring, shape) = (self.repository.keyring.clone(), frame.shape().map_err(unwritable)?);
        let opened = self.repository.env.cpu(move || keyring.sealer.open(seal_kind(kind), shape, &bytes)).await;
        let plain = opened.map_err(|_| PruneError::Overtaken("a frame to be moved does not open".into()))?;
        let index = self.repository.index().await?;
        for span in frame.chunks() {
            let moves = {
                let chunks = index.read().expect("no panic while the index is locked");
                chunks.is_marked(&span.id) && self.plan.place(chunks.frames_of(&span.id, self.replica)) == Some(number)
            };
            if !moves {
                continue;
            }
            let chunk = plain.get(span.offset as usize..span.offset as usize + span.length as usize).unwrap_or_default();
            if self.repository.keyring.id_key.id(chunk) != span.id {
                return Err(PruneError::Overtaken(format!("chunk {} has other bytes than its id says", span.id)));
            }
            if chunk.len() >= ALONE {
                self.seal(kind, chunk.to_vec(), vec![(span.id, span.length)]).await?;
                continue;
            }
            let group = self.groups.entry(kind).or_default();
            group.plain.extend_from_slice(chunk);
            group.chunks.push((span.id, span.length));
            if group.plain.len() >= self.settings.group as usize {
                self.close_group(kind).await?;
            }
        }
        Ok(())
    }

    async fn close_group(&mut self, kind: PackKind) -> Result<(), PruneError> {
        let Group { plain, chunks } = self.groups.remove(&kind).unwrap_or_default();
        if chunks.is_empty() { Ok(()) } else { self.seal(kind, plain, chunks).await }
    }

    async fn seal(&mut self, kind: PackKind, plain: Vec<u8>, chunks: Vec<(ChunkId, u32)>) -> Result<(), PruneError> {
        let (keyring, entropy) = (self.repository.keyring.clone(), self.repository.env.random());
        let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        let seal = move || {
            let plain_id = match ids.as_slice() {
                [only] => *only,
                // The ids determine the plaintext: hashing them is as good as hashing it again.
                several => keyring.id_key.id(&several.iter().flat_map(|id| id.0).collect::<Vec<u8>>()),
            };
            keyring.sealer.seal_roomy(seal_kind(kind), Roomy::new(&plain), &plain_id.0, entropy)
        };
        let sealed = self.repository.env.cpu(seal).await.map_err(unwritable)?;
        self.append(kind, &sealed.bytes, sealed.shape, &chunks).await
    }

    async fn append(
        &mut self,
        kind: PackKind,
        bytes: &[u8],
        shape: FrameShape,
        chunks: &[(ChunkId, u32)],
    ) -> Result<(), PruneError> {
        let target = if kind == PackKind::Meta { self.settings.meta_pack } else { self.settings.data_pack } as usize;
        let full = |(builder, held): &(PackBuilder, usize)| {
            !builder.is_empty() && (builder.stored() + bytes.len() > target || held + chunks.len() > CHUNKS_MAX)
        };
        if self.open.get(&kind).is_some_and(full) {
            self.close(kind).await?;
        }
        let random = self.repository.env.random();
        let fresh = || (PackBuilder::new(kind, random, target.max(bytes.len())), 0);
        let (builder, held) = self.open.entry(kind).or_insert_with(fresh);
        *held += chunks.len();
        builder.append(bytes, shape, chunks).map_err(unwritable)
    }

    /// Finishes a pack and brings it to the replica.
    async fn close(&mut self, kind: PackKind) -> Result<(), PruneError> {
        let Some((builder, _)) = self.open.remove(&kind).filter(|(builder, _)| !builder.is_empty()) else { return Ok(()) };
        if self.stop.requested() {
            return Err(PruneError::Interrupted);
        }
        let (keyring, entropy) = (self.repository.keyring.clone(), self.repository.env.random());
        let finish = move || builder.finish(&keyring.keys.index, &keyring.repository_id, entropy);
        let pack = self.repository.env.cpu(finish).await;
        let bytes = Bytes::from(pack.bytes);
        self.repository.put_pack(self.replica, kind, &pack.hash, &bytes).await.map_err(RepositoryError::from)?;
        self.moved.packs += 1;
        self.moved.bytes += pack.entry.size;
        let name = &self.repository.set.replicas[self.replica].name;
        let sent = self.moved.bytes;
        self.progress.update_replica(self.replica, |figures| {
            figures.name.clone_from(name);
            figures.sent = sent;
        });
        self.waiting.push(pack.entry);
        Ok(())
    }

    /// Names the packs that wait in the log.
    async fn publish(&mut self) -> Result<(), PruneError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let at = Mask::one(self.replica);
        let packs = std::mem::take(&mut self.waiting).into_iter().map(|entry| (entry, at)).collect();
        let (segments, failed) = self.repository.send_segments(packs).await;
        if let Some((_, e)) = failed.into_iter().next() {
            return Err(e.into());
        }
        let (site, patience) = (&self.repository.set.replicas[self.replica], self.repository.set.settings.stall);
        let publish = self.repository.publish(self.replica, &segments);
        match while_it_answers(&self.repository.env, site, patience, "publishing in its log", publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WriteFault::LostCover(why))) => Err(PruneError::Overtaken(why)),
            Ok(Err(WriteFault::Repository(e))) => Err(e.into()),
            Err(e) => Err(RepositoryError::from(e).into()),
        }
    }
}

/// Why a pack could not be read: by now it is distrusted, and the plan is made without it; or its stores do not answer.
async fn unread(repository: &Repository, replica: usize, pack: &PackRow) -> PruneError {
    let known = match repository.index().await {
        Ok(index) => {
            let chunks = index.read().expect("no panic while the index is locked");
            chunks.pack_number(&pack.hash).is_some_and(|number| chunks.pack(number).distrusted.has(replica))
        }
        Err(e) => return e.into(),
    };
    let hash = hex::encode(pack.hash);
    match known {
        true => PruneError::Overtaken(format!("pack {hash} was found damaged")),
        false => {
            RepositoryError::new(Fault::Failed, format!("pack {hash}, which is to be moved, can be read at no store")).into()
        }
    }
}

/// The frames of a pack that are to move; `None` when some of them can be had nowhere.
async fn read(repository: &Repository, pack: &PackRow, frames: &[Wish]) -> Option<Vec<Read>> {
    let spots: Vec<Spot> = frames.iter().map(|(spot, _)| *spot).collect();
    let bytes: u64 = spots.iter().map(|(_, stored)| u64::from(*stored)).sum();
    let mut found: BTreeMap<u32, (Frame, Bytes)> = BTreeMap::new();
    if pack.size.saturating_sub(bytes) <= WASTE_MAX
        && let Some((entry, stored)) = repository.whole_pack(pack, &spots).await
    {
        for frame in entry.frames {
            let range = frame.range().start as usize..frame.range().end as usize;
            found.insert(frame.offset as u32, (frame, stored.slice(range)));
        }
    } else {
        let some = repository.pack_frames(pack, &spots).await;
        found.extend(some.into_iter().map(|(frame, bytes)| (frame.offset as u32, (frame, bytes))));
    }
    let one = |((offset, _), opened): &Wish| found.remove(offset).map(|(frame, bytes)| (frame, bytes, *opened));
    frames.iter().map(one).collect()
}
