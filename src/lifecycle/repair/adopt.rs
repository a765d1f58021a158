//! The packs that lie at a replica, taken over into a new epoch of its log.
//!
//! What is proven never to have been condemned keeps its name. Of everything else the frames go into new packs, under names that
//! nobody can have condemned: unopened where the old pack is whole, else those that open and are right.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::format::Hash;
use crate::format::index::PackEntry;
use crate::format::pack::{Frame, PackBuilder, PackKind};
use crate::lifecycle::heal::HealError;
use crate::lifecycle::repair::RepairSettings;
use crate::lifecycle::repair::rows::Rows;
use crate::progress::{Progress, Stop};
use crate::replica::read::ReadFault;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::Class;
use crate::repository::past::Past;
use crate::repository::trailers::StoredPack;

/// Packs that are looked at at once.
const AT_ONCE: usize = 8;
/// Whole packs that are read at once.
const WHOLE_AT_ONCE: usize = 2;

/// What became of the packs.
#[derive(Clone, Debug, Default)]
pub struct Adopted {
    /// Packs that keep their names.
    pub kept: u64,
    /// Packs whose frames went into new ones.
    pub copied: u64,
    /// Bytes of the new packs.
    pub bytes_copied: u64,
    /// Packs of which something could not be had, their objects (bounded).
    pub damaged: Vec<String>,
    /// How many those are.
    pub damaged_count: u64,
    /// Packs whose names are void from now on, since all of them is elsewhere.
    pub void: BTreeSet<(PackKind, Hash)>,
    /// Packs that are not to be relied on, and of which something is nowhere else.
    pub doubted: BTreeSet<Hash>,
}

/// How the packs at a replica are to be taken over.
#[derive(Debug, Default)]
pub struct Sorted {
    /// Under their own names.
    pub keep: Vec<StoredPack>,
    /// As copies.
    pub copy: Vec<StoredPack>,
    /// Void before: left alone.
    pub void: u64,
}

/// Sorts the packs that lie at a replica.
pub async fn sort(repository: &Repository, index: usize, past: &Past) -> Result<Sorted, HealError> {
    let mut proven: BTreeSet<Hash> = BTreeSet::new();
    for segment in &past.proven_segments {
        // One that cannot be read proves nothing.
        if let Ok(segment) = repository.segment_at(index, segment).await {
            proven.extend(segment.packs.iter().filter_map(|pack| pack.name().ok()));
        }
    }
    let mut sorted = Sorted::default();
    for pack in repository.listed_packs(index).await? {
        if past.state.is_condemned(pack.kind.into(), &pack.hash) {
            sorted.void += 1;
        } else if (past.knows_names() || proven.contains(&pack.hash)) && !past.state.distrusted.contains(&pack.hash) {
            sorted.keep.push(pack);
        } else {
            sorted.copy.push(pack);
        }
    }
    Ok(sorted)
}

/// The packs of one replica on their way.
pub struct Adoption<'r> {
    repository: &'r Repository,
    index: usize,
    settings: &'r RepairSettings,
    progress: &'r Progress,
    stop: &'r Stop,
    rows: Rows<'r>,
    open: BTreeMap<PackKind, PackBuilder>,
    /// What came of it.
    pub done: Adopted,
}

impl<'r> Adoption<'r> {
    /// Nothing yet.
    pub fn new(
        repository: &'r Repository,
        index: usize,
        settings: &'r RepairSettings,
        progress: &'r Progress,
        stop: &'r Stop,
    ) -> Adoption<'r> {
        let rows = Rows::new(repository, index, settings.publish_chunks);
        Adoption { repository, index, settings, progress, stop, rows, open: BTreeMap::new(), done: Adopted::default() }
    }

    /// What was published.
    pub fn into_rows(self) -> Rows<'r> {
        self.rows
    }

    /// Takes the packs over, and publishes them. Those that an earlier attempt published are passed over.
    pub async fn run(&mut self, sorted: Sorted) -> Result<(), HealError> {
        let (repository, index) = (self.repository, self.index);
        self.progress.items_total.add((sorted.keep.len() + sorted.copy.len()) as u64);
        let mut bare: Vec<StoredPack> = Vec::new();
        let keep = self.unpublished(sorted.keep).await?;
        let mut reads =
            stream::iter(keep).map(|pack| async move { (pack, repository.row_by_trailer(index, &pack).await) }).buffered(AT_ONCE);
        while let Some((pack, read)) = reads.next().await {
            self.going_on()?;
            match self.damaged(read)? {
                Some(entry) => {
                    self.done.kept += 1;
                    self.progress.items.add(1);
                    self.rows.add(entry).await?;
                }
                None => bare.push(pack),
            }
        }
        drop(reads);
        // What keeps its name is published first: of the others less has to be copied then.
        self.rows.publish().await?;
        let copy = self.unpublished(sorted.copy).await?;
        let mut reads =
            stream::iter(copy).map(|pack| async move { (pack, repository.row_by_trailer(index, &pack).await) }).buffered(AT_ONCE);
        let mut wanted: Vec<(StoredPack, Option<PackEntry>)> = Vec::new();
        while let Some((pack, read)) = reads.next().await {
            self.going_on()?;
            match self.damaged(read)? {
                Some(entry) if self.lacking(&entry.frames).await?.is_empty() => {
                    self.progress.items.add(1);
                    self.done.void.insert((pack.kind, pack.hash));
                }
                Some(_) => wanted.push((pack, None)),
                None => bare.push(pack),
            }
        }
        drop(reads);
        wanted.extend(self.described(bare).await?);
        let mut reads = stream::iter(wanted)
            .map(|(pack, entry)| async move {
                match entry {
                    // Its trailer is lost: it cannot be whole.
                    Some(entry) => (pack, Some(entry), Err(ReadFault::Damaged("its trailer is damaged".into()))),
                    None => (pack, None, repository.proven_pack_at(index, &pack).await),
                }
            })
            .buffered(WHOLE_AT_ONCE);
        while let Some((pack, entry, read)) = reads.next().await {
            self.going_on()?;
            match self.damaged(read)? {
                Some((entry, bytes)) => {
                    let frames = self.lacking(&entry.frames).await?;
                    let cut = |frame: &Frame| bytes.slice(frame.range().start as usize..frame.range().end as usize);
                    let loose = frames.iter().map(|frame| (frame.clone(), cut(frame))).collect();
                    self.append(pack.kind, loose).await?;
                    self.done.copied += 1;
                    self.done.void.insert((pack.kind, pack.hash));
                }
                None => {
                    let frames = match entry {
                        Some(entry) => entry.frames,
                        None => match self.damaged(repository.row_by_trailer(index, &pack).await)? {
                            Some(entry) => entry.frames,
                            None => Vec::new(),
                        },
                    };
                    let wanted = self.lacking(&frames).await?;
                    let sound = repository.sound_frames_at(index, &pack, &wanted).await;
                    self.doubt(&pack);
                    if !sound.is_empty() {
                        self.done.copied += 1;
                        self.append(pack.kind, sound).await?;
                    }
                }
            }
            self.progress.items.add(1);
            self.progress.bytes.add(pack.size);
        }
        drop(reads);
        for kind in [PackKind::Meta, PackKind::Data] {
            self.close(kind).await?;
        }
        self.rows.publish().await?;
        Ok(())
    }

    /// Those that the new log does not rely on yet.
    async fn unpublished(&self, mut packs: Vec<StoredPack>) -> Result<Vec<StoredPack>, RepositoryError> {
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        packs.retain(|pack| {
            let known = chunks.pack_number(&pack.hash).map(|number| chunks.pack(number));
            !known.is_some_and(|known| known.published.has(self.index))
        });
        Ok(packs)
    }

    /// Those of the frames that hold a chunk which the new log has no place for yet.
    async fn lacking(&self, frames: &[Frame]) -> Result<Vec<Frame>, RepositoryError> {
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let lacks = |frame: &&Frame| {
            let ids: Vec<_> = frame.chunks().map(|span| span.id).collect();
            chunks.usable(&ids).iter().any(|usable| !usable.has(self.index))
        };
        Ok(frames.iter().filter(lacks).cloned().collect())
    }

    /// What segments that lie at the replica say of packs whose own trailers cannot be read. Those that none describes are
    /// given up.
    async fn described(&mut self, bare: Vec<StoredPack>) -> Result<Vec<(StoredPack, Option<PackEntry>)>, HealError> {
        let mut left: BTreeMap<Hash, StoredPack> = bare.into_iter().map(|pack| (pack.hash, pack)).collect();
        let mut out = Vec::new();
        if left.is_empty() {
            return Ok(out);
        }
        for segment in self.repository.listed(self.index, Class::Segment).await? {
            self.going_on()?;
            let Ok(segment) = self.repository.segment_at(self.index, &segment).await else { continue };
            for entry in segment.packs {
                let Ok(name) = entry.name() else { continue };
                if let Some(pack) = left.remove(&name) {
                    out.push((pack, Some(entry)));
                }
            }
        }
        for pack in left.into_values() {
            self.doubt(&pack);
            self.progress.items.add(1);
        }
        Ok(out)
    }

    fn doubt(&mut self, pack: &StoredPack) {
        self.done.damaged_count += 1;
        if self.done.damaged.len() < 100 {
            self.done.damaged.push(pack.object().to_string());
        }
        self.done.doubted.insert(pack.hash);
    }

    /// Puts frames into new packs.
    async fn append(&mut self, kind: PackKind, frames: Vec<(Frame, Bytes)>) -> Result<(), RepositoryError> {
        let target = if kind == PackKind::Meta { self.settings.meta_pack } else { self.settings.data_pack } as usize;
        for (frame, bytes) in frames {
            if self.open.get(&kind).is_some_and(|builder| builder.len() + bytes.len() > target) {
                self.close(kind).await?;
            }
            let random = self.repository.env.random();
            let builder = self.open.entry(kind).or_insert_with(|| PackBuilder::new(kind, random, target.max(bytes.len())));
            let chunks: Vec<_> = frame.chunks().map(|span| (span.id, span.length)).collect();
            let added = frame.shape().and_then(|shape| builder.append(&bytes, shape, &chunks));
            added.map_err(|e| RepositoryError::caused(Fault::Failed, "could not put a frame into a new pack", e))?;
        }
        Ok(())
    }

    /// Finishes the open pack of a kind and puts it at the replica.
    async fn close(&mut self, kind: PackKind) -> Result<(), RepositoryError> {
        let Some(builder) = self.open.remove(&kind) else { return Ok(()) };
        let (keyring, entropy) = (self.repository.keyring.clone(), self.repository.env.random());
        let finish = move || builder.finish(&keyring.keys.index, &keyring.repository_id, entropy);
        let pack = self.repository.env.cpu(finish).await;
        self.repository.put_pack(self.index, kind, &pack.hash, &Bytes::from(pack.bytes)).await?;
        self.done.bytes_copied += pack.entry.size;
        self.rows.add(pack.entry).await
    }

    /// What was read; none: it is damaged or gone. A store that does not answer ends the repair.
    fn damaged<T>(&self, read: Result<T, ReadFault>) -> Result<Option<T>, RepositoryError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(fault) if fault.is_damage() => Ok(None),
            Err(ReadFault::Store(e)) => Err(e.into()),
            Err(ReadFault::Damaged(why)) => Err(RepositoryError::new(Fault::Integrity, why)),
        }
    }

    fn going_on(&self) -> Result<(), HealError> {
        if self.stop.requested() { Err(HealError::Interrupted) } else { Ok(()) }
    }
}
