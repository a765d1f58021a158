//! Packs as a store itself shows them: listed, and described by their own trailers. What a lost index is made of again.

use bytes::Bytes;
use futures::StreamExt;

use crate::format::index::{PackEntry, Segment};
use crate::format::pack::{Frame, PackKind, decode_pack};
use crate::format::record::{Action, Compact};
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::read::{ReadFault, read_one};
use crate::repository::Repository;
use crate::repository::chunk_index::PackRow;
use crate::repository::error::RepositoryError;
use crate::repository::layout::{self, Class};
use crate::repository::log::chain;
use crate::repository::reader::pack_class;
use crate::repository::writer::{Reliance, WriteFault};
use crate::store::name::ObjectName;

/// A pack that a listing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPack {
    /// What it holds, by the folder it lies in.
    pub kind: PackKind,
    /// Its name.
    pub hash: Hash,
    /// Its length in bytes, as listed.
    pub size: u64,
}

impl StoredPack {
    /// The name of its object.
    pub fn object(&self) -> ObjectName {
        layout::hashed(pack_class(self.kind), &self.hash)
    }

    fn row(&self) -> PackRow {
        let nowhere = Mask::default();
        PackRow { hash: self.hash, size: self.size, kind: self.kind, published: nowhere, distrusted: nowhere, chunks: 0 }
    }
}

impl Repository {
    /// The packs that lie at a replica, as one listing shows them. It only proposes.
    pub async fn listed_packs(&self, index: usize) -> Result<Vec<StoredPack>, RepositoryError> {
        let mut packs = Vec::new();
        for (class, kind) in [(Class::MetaPack, PackKind::Meta), (Class::DataPack, PackKind::Data)] {
            let mut listing = self.set.replicas[index].store.list(layout::prefix(class));
            while let Some(info) = listing.next().await {
                let info = info?;
                if let Some((_, hash)) = layout::parse_hashed(&info.name) {
                    packs.push(StoredPack { kind, hash, size: info.size });
                }
            }
        }
        Ok(packs)
    }

    /// The names of the objects of a class at a replica, as one listing shows them. It only proposes.
    pub async fn listed(&self, index: usize, class: Class) -> Result<Vec<Hash>, RepositoryError> {
        let mut hashes = Vec::new();
        let mut listing = self.set.replicas[index].store.list(layout::prefix(class));
        while let Some(info) = listing.next().await {
            hashes.extend(layout::parse_hashed(&info?.name).map(|(_, hash)| hash));
        }
        Ok(hashes)
    }

    /// An index segment as it lies at one replica, whether its log names it or not.
    pub async fn segment_at(&self, index: usize, hash: &Hash) -> Result<Segment, ReadFault> {
        let name = layout::hashed(Class::Segment, hash);
        read_one(&self.set.replicas[index], &name, None, async |bytes: Bytes| {
            let (keyring, hash) = (self.keyring.clone(), *hash);
            let decode = move || {
                if object_hash(&bytes) != hash {
                    return Err("its bytes do not match its name".to_owned());
                }
                Segment::decode(&bytes, &keyring.keys.index, &keyring.repository_id).map_err(|e| chain(&e))
            };
            self.env.cpu(decode).await
        })
        .await
    }

    /// A pack's row for an index, by its trailer at one replica. The frames themselves are not read.
    pub async fn row_by_trailer(&self, index: usize, pack: &StoredPack) -> Result<PackEntry, ReadFault> {
        let replica = &self.set.replicas[index];
        let frames = self.patiently(replica, pack.size.min(1 << 20), self.trailer(replica, &pack.row())).await?;
        Ok(PackEntry { hash: Bytes::copy_from_slice(&pack.hash), size: pack.size, kind: pack.kind as i32, frames })
    }

    /// A whole pack from one replica, its bytes as its name says. The frames are not opened: these are the bytes that were
    /// compared with their source before they were sent.
    async fn pack_at(&self, index: usize, pack: &StoredPack) -> Result<(PackEntry, Bytes), ReadFault> {
        let replica = &self.set.replicas[index];
        let name = pack.object();
        let read = read_one(replica, &name, None, async |bytes: Bytes| {
            let (keyring, pack) = (self.keyring.clone(), *pack);
            let test = move || {
                let entry = decode_pack(&bytes, &keyring.keys.index, &keyring.repository_id).map_err(|e| chain(&e))?;
                match entry.hash[..] == pack.hash[..] && entry.kind() == pack.kind {
                    true => Ok((entry, bytes)),
                    false => Err("its bytes do not match its name".to_owned()),
                }
            };
            self.env.cpu(test).await
        });
        self.patiently(replica, pack.size, read).await
    }

    /// A whole pack from one replica: its bytes as its name says, every frame opened, and every chunk in it held against its id.
    pub async fn proven_pack_at(&self, index: usize, pack: &StoredPack) -> Result<(PackEntry, Bytes), ReadFault> {
        let (entry, bytes) = self.pack_at(index, pack).await?;
        for frame in &entry.frames {
            let range = frame.range();
            let sealed = bytes.slice(range.start as usize..range.end as usize);
            self.is_whole(pack.kind, frame, sealed).await.map_err(|why| {
                ReadFault::Damaged(format!("store {}: {} is damaged: {why}", self.set.replicas[index].name, pack.object()))
            })?;
        }
        Ok((entry, bytes))
    }

    /// Replaces segments in one log by others that hold every row of theirs which may be relied on; `reliance` is what must
    /// hold of those at the very slot.
    pub async fn replace_segments(
        &self,
        index: usize,
        old: &[Hash],
        new: &[Hash],
        reliance: &Reliance,
    ) -> Result<(), WriteFault> {
        let names = |hashes: &[Hash]| hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        let action = Action::Compact(Compact { old: names(old), new: names(new) });
        self.write(index, action, reliance, &new.iter().copied().collect(), None).await?;
        self.checkpoint(index).await;
        Ok(())
    }

    /// Those of `frames` of a damaged pack that one replica still gives whole, each opened and held against its chunks' ids.
    pub async fn sound_frames_at(&self, index: usize, pack: &StoredPack, frames: &[Frame]) -> Vec<(Frame, Bytes)> {
        let found = self.frames_at(&self.set.replicas[index], &pack.row(), frames.to_vec()).await;
        found.into_iter().map(|(_, got)| got).collect()
    }
}
