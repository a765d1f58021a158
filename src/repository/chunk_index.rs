//! Chunk id to places in packs, over all replicas at once.
//!
//! A place counts at a replica when that replica's log relies on the pack and does not distrust it. Ids are held by
//! their first 128 bits: "known" is never said on less. Costs about 45 bytes per chunk plus 20 per frame.

use std::collections::BTreeMap;

use crate::chunk::id::ChunkId;
use crate::format::Hash;
use crate::format::index::Segment;
use crate::format::pack::PackKind;
use crate::replica::{Mask, REPLICAS_MAX};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::id_map::{IdMap, LargeIdMap};
use crate::seal::{Compression, FrameShape};

#[derive(Clone, Copy)]
struct Row {
    frame: u32,
    /// Where it begins in the frame's plaintext, and in the first row of a chunk [`MARK`].
    offset: u32,
    length: u32,
}

/// Says of a chunk that it is live. No frame is so long that an offset would need this bit.
const MARK: u32 = 1 << 31;

struct FrameRow {
    pack: u32,
    offset: u32,
    stored: u32,
    plain: u32,
    /// Generation in the upper 31 bits, compressed in the lowest.
    form: u32,
}

/// A pack that at least one log relies on.
#[derive(Clone, Debug)]
pub struct PackRow {
    /// The object's hash, its name.
    pub hash: Hash,
    /// Its size in bytes.
    pub size: u64,
    /// Data or meta.
    pub kind: PackKind,
    /// The replicas whose logs published it and did not condemn it.
    pub published: Mask,
    /// The replicas whose logs distrust it.
    pub distrusted: Mask,
    /// How many chunks it holds.
    pub chunks: u32,
}

impl PackRow {
    /// Where it may be relied on.
    pub fn usable(&self) -> Mask {
        self.published.without(self.distrusted)
    }
}

/// One place of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the pack, see [`ChunkIndex::pack`].
    pub pack: u32,
    /// Number of the frame; equal numbers are the same frame.
    pub frame: u32,
    /// Where the frame begins in the pack.
    pub frame_offset: u32,
    /// Stored length of the frame.
    pub frame_stored: u32,
    /// How to open the frame.
    pub shape: FrameShape,
    /// Where the chunk begins in the frame's plaintext.
    pub offset: u32,
    /// Length of the chunk.
    pub length: u32,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlace {
    /// Number of its pack.
    pub pack: u32,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Its length there.
    pub stored: u32,
    /// Length of its plaintext.
    pub plain: u32,
}

/// Where every chunk is.
pub struct ChunkIndex {
    packs: Vec<PackRow>,
    by_hash: IdMap<Hash, u32>,
    frames: Vec<FrameRow>,
    rows: LargeIdMap<[u8; 16], Row>,
    more: BTreeMap<[u8; 16], Vec<Row>>,
    memory_max: u64,
}

fn short(id: &ChunkId) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&id.0[..16]);
    out
}

impl ChunkIndex {
    /// An empty index that refuses to grow beyond `memory_max` bytes.
    pub fn new(memory_max: u64) -> ChunkIndex {
        ChunkIndex {
            packs: Vec::new(),
            by_hash: IdMap::default(),
            frames: Vec::new(),
            rows: LargeIdMap::default(),
            more: BTreeMap::new(),
            memory_max,
        }
    }

    /// Bytes in use, about. Of what has more than one place: a key, its part of a tree, and a block with one more place.
    pub fn memory(&self) -> u64 {
        (self.rows.memory() + self.frames.capacity() * 20 + self.packs.capacity() * 64 + self.more.len() * 96) as u64
    }

    /// Takes in what the logs of `replicas` published in one segment. A pack that is in already gains the replicas.
    pub fn insert(&mut self, segment: &Segment, replicas: Mask) -> Result<(), RepositoryError> {
        for entry in &segment.packs {
            let Ok(hash) = Hash::try_from(entry.hash.as_ref()) else { continue };
            if let Some(number) = self.by_hash.get(&hash) {
                let pack = &mut self.packs[*number as usize];
                pack.published = pack.published.or(replicas);
                continue;
            }
            let number = self.packs.len() as u32;
            self.packs.push(PackRow {
                hash,
                size: entry.size,
                kind: entry.kind(),
                published: replicas,
                distrusted: Mask::default(),
                chunks: entry.frames.iter().map(|frame| frame.lengths.len() as u32).sum(),
            });
            self.by_hash.insert(hash, number);
            for frame in &entry.frames {
                let frame_number = self.frames.len() as u32;
                self.frames.push(FrameRow {
                    pack: number,
                    offset: frame.offset as u32,
                    stored: frame.stored,
                    plain: frame.plain,
                    form: frame.generation << 1 | u32::from(frame.compression != 0),
                });
                for span in frame.chunks() {
                    self.add(short(&span.id), Row { frame: frame_number, offset: span.offset, length: span.length });
                }
            }
            // Packs hold at most some ten thousand chunks each; what is in use is counted table by table.
            if number % 64 == 63 {
                self.verify_room()?;
            }
        }
        self.verify_room()
    }

    fn verify_room(&self) -> Result<(), RepositoryError> {
        if self.memory() <= self.memory_max {
            return Ok(());
        }
        let allowed = self.memory_max >> 20;
        let why = format!("the chunk index needs more than the {allowed} MiB it is allowed: raise index_memory");
        Err(RepositoryError::new(Fault::Refused, why))
    }

    fn add(&mut self, key: [u8; 16], row: Row) {
        match self.rows.entry(key) {
            std::collections::hash_map::Entry::Vacant(empty) => {
                empty.insert(row);
            }
            std::collections::hash_map::Entry::Occupied(_) => {
                // Nearly all of these have one place more, and no room is left for others.
                let more = self.more.entry(key).or_default();
                more.reserve_exact(1);
                more.push(row);
            }
        }
    }

    /// Says that the log of `replica` condemned or distrusts packs, or (with `false`) trusts them again.
    pub fn distrust(&mut self, replica: usize, hash: &Hash, on: bool) {
        if let Some(number) = self.by_hash.get(hash) {
            let pack = &mut self.packs[*number as usize];
            let one = Mask::one(replica);
            pack.distrusted = if on { pack.distrusted.or(one) } else { pack.distrusted.without(one) };
        }
    }

    /// Says that the log of `replica` relies on a pack from now on.
    pub fn publish(&mut self, replica: usize, hash: &Hash) {
        if let Some(number) = self.by_hash.get(hash) {
            let pack = &mut self.packs[*number as usize];
            pack.published = pack.published.or(Mask::one(replica));
        }
    }

    /// Says that the log of `replica` condemned a pack.
    pub fn condemn(&mut self, replica: usize, hash: &Hash) {
        if let Some(number) = self.by_hash.get(hash) {
            let pack = &mut self.packs[*number as usize];
            pack.published = pack.published.without(Mask::one(replica));
        }
    }

    /// The replicas at which each chunk may be relied on, taken over all its places.
    pub fn usable(&self, ids: &[ChunkId]) -> Vec<Mask> {
        ids.iter()
            .map(|id| {
                self.rows_of(id)
                    .fold(Mask::default(), |m, row| m.or(self.packs[self.frames[row.frame as usize].pack as usize].usable()))
            })
            .collect()
    }

    /// Bytes of packs that others rely on and a replica of `at` does not, by replica index: it lacks at most so much.
    pub fn lacking_at_most(&self, at: Mask) -> [u64; REPLICAS_MAX] {
        let mut out = [0; REPLICAS_MAX];
        for pack in self.packs.iter().filter(|pack| !pack.usable().is_empty()) {
            at.without(pack.usable()).indices().for_each(|i| out[i] += pack.size);
        }
        out
    }

    /// Stored bytes of chunks that others can rely on and a replica of `at` cannot, by replica index. Looks at every chunk,
    /// unless all packs are at all replicas: replicas are equal when they hold the same chunks, in whatever packs.
    pub fn lacking(&self, at: Mask) -> [u64; REPLICAS_MAX] {
        let most = self.lacking_at_most(at);
        let suspects = Mask(at.indices().filter(|i| most[*i] > 0).fold(0, |m, i| m | 1 << i));
        let mut out = [0; REPLICAS_MAX];
        if suspects.is_empty() {
            return out;
        }
        let usable = |row: &Row| self.packs[self.frames[row.frame as usize].pack as usize].usable();
        for (key, row) in self.rows.iter() {
            let more = if self.more.is_empty() { None } else { self.more.get(key) };
            let at = more.into_iter().flatten().fold(usable(row), |m, row| m.or(usable(row)));
            if !at.is_empty() {
                let frame = &self.frames[row.frame as usize];
                let stored = u64::from(frame.stored) * u64::from(row.length) / u64::from(frame.plain.max(1));
                suspects.without(at).indices().for_each(|i| out[i] += stored);
            }
        }
        out
    }

    fn rows_of(&self, id: &ChunkId) -> impl Iterator<Item = &Row> {
        let key = short(id);
        self.rows.get(&key).into_iter().chain(self.more.get(&key).into_iter().flatten())
    }

    /// Every place of a chunk, distrusted ones included (last).
    pub fn places(&self, id: &ChunkId) -> Vec<Place> {
        let mut places: Vec<Place> = self
            .rows_of(id)
            .map(|row| {
                let frame = &self.frames[row.frame as usize];
                Place {
                    pack: frame.pack,
                    frame: row.frame,
                    frame_offset: frame.offset,
                    frame_stored: frame.stored,
                    shape: FrameShape {
                        generation: frame.form >> 1,
                        plain_len: frame.plain,
                        compression: if frame.form & 1 == 1 { Compression::Zstd } else { Compression::Stored },
                    },
                    offset: row.offset & !MARK,
                    length: row.length,
                }
            })
            .collect();
        places.sort_by_key(|p| self.packs[p.pack as usize].usable().is_empty());
        places
    }

    /// The numbers of the packs that cover a chunk at `replica`.
    pub fn covering(&self, id: &ChunkId, replica: usize) -> impl Iterator<Item = u32> {
        self.rows_of(id)
            .map(|row| self.frames[row.frame as usize].pack)
            .filter(move |pack| self.packs[*pack as usize].usable().has(replica))
    }

    /// The numbers of the packs that hold a chunk and that the log of `replica` relies on, distrusted ones included.
    pub fn holding(&self, id: &ChunkId, replica: usize) -> impl Iterator<Item = u32> {
        self.rows_of(id)
            .map(|row| self.frames[row.frame as usize].pack)
            .filter(move |pack| self.packs[*pack as usize].published.has(replica))
    }

    /// Marks a chunk, in whatever packs it lies; `false`: no pack that the log of `replica` relies on holds it, and nothing
    /// was marked. Costs no memory.
    pub fn mark(&mut self, id: &ChunkId, replica: usize) -> bool {
        let held = self.holding(id, replica).next().is_some();
        if held && let Some(row) = self.rows.get_mut(&short(id)) {
            row.offset |= MARK;
        }
        held
    }

    /// Whether a chunk is marked.
    pub fn is_marked(&self, id: &ChunkId) -> bool {
        self.rows.get(&short(id)).is_some_and(|row| row.offset & MARK != 0)
    }

    /// The frames that hold a chunk in packs which the log of `replica` relies on, distrusted ones included: the number of each,
    /// and that of its pack.
    pub fn frames_of(&self, id: &ChunkId, replica: usize) -> impl Iterator<Item = (u32, u32)> {
        let pack = |row: &Row| self.frames[row.frame as usize].pack;
        self.rows_of(id)
            .map(move |row| (row.frame, pack(row)))
            .filter(move |(_, pack)| self.packs[*pack as usize].published.has(replica))
    }

    /// Takes all marks back.
    pub fn unmark(&mut self) {
        self.rows.values_mut().for_each(|row| row.offset &= !MARK);
    }

    /// Calls `visit` for every marked chunk with its length in bytes and the numbers of its frames in packs that the log of
    /// `replica` relies on, distrusted ones included.
    pub fn marked(&self, replica: usize, visit: &mut dyn FnMut(u32, &[u32])) {
        let mut frames = Vec::new();
        for (key, row) in self.rows.iter().filter(|(_, row)| row.offset & MARK != 0) {
            frames.clear();
            let more = if self.more.is_empty() { None } else { self.more.get(key) };
            let all = std::iter::once(row).chain(more.into_iter().flatten()).map(|row| row.frame);
            frames.extend(all.filter(|f| self.packs[self.frames[*f as usize].pack as usize].published.has(replica)));
            visit(row.length, &frames);
        }
    }

    /// A frame by its number. Frames of one pack have neighbouring numbers, in the order of their places.
    pub fn frame(&self, number: u32) -> FramePlace {
        let frame = &self.frames[number as usize];
        FramePlace { pack: frame.pack, offset: frame.offset, stored: frame.stored, plain: frame.plain }
    }

    /// How many frames are known.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// A pack by its number.
    pub fn pack(&self, number: u32) -> &PackRow {
        &self.packs[number as usize]
    }

    /// A pack's number by its hash.
    pub fn pack_number(&self, hash: &Hash) -> Option<u32> {
        self.by_hash.get(hash).copied()
    }

    /// All packs.
    pub fn packs(&self) -> &[PackRow] {
        &self.packs
    }

    /// How many chunks are known.
    pub fn chunks(&self) -> usize {
        self.rows.len()
    }
}
