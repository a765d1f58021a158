//! Packs: many frames in one object, with a sealed trailer that says what they hold.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;

use crate::chunk::id::ChunkId;
use crate::format::index::PackEntry;
use crate::format::{
    CHUNK_MAX, FORMAT_VERSION, FormatError, Hash, PACK_MAX, ensure, invalid, message, object_hash, unsupported, unwritable,
    version, wire,
};
use crate::seal::key::Secret;
use crate::seal::{Compression, FRAME_OVERHEAD, FrameShape, Kind, STRUCTURE_OVERHEAD};

const WHAT: &str = "a pack";
const MAGIC: &[u8; 4] = b"HFPK";
const END_MAGIC: &[u8; 4] = b"HFPE";
/// Bytes before the first frame: magic, version, kind, 16 random bytes.
pub const HEADER_LEN: usize = 25;
/// Bytes after the sealed trailer: its length, magic.
pub const END_LEN: usize = 8;
/// How many chunks one frame can hold.
pub const FRAME_CHUNKS_MAX: usize = 65_536;
/// A frame's record in the fewest bytes that a true one can have (one id and its field).
const FRAME_FIELDS_MIN: usize = 34;

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PackKind {
    /// Never written.
    Unknown = 0,
    /// Content.
    Data = 1,
    /// Nodes of catalogs and content lists.
    Meta = 2,
}

/// One frame's record, in trailers and index segments.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Frame {
    /// Where the frame begins in its pack, in bytes.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Its length in the pack, in bytes.
    #[prost(uint32, tag = "2")]
    pub stored: u32,
    /// Length of its plaintext, in bytes.
    #[prost(uint32, tag = "3")]
    pub plain: u32,
    /// [`Compression`] as a number.
    #[prost(uint32, tag = "4")]
    pub compression: u32,
    /// Number of the generation secret that seals it.
    #[prost(uint32, tag = "5")]
    pub generation: u32,
    /// The ids of its chunks in order, 32 bytes each, joined.
    #[prost(bytes = "bytes", tag = "6")]
    pub ids: Bytes,
    /// Their lengths in bytes.
    #[prost(uint32, repeated, tag = "7")]
    pub lengths: Vec<u32>,
}

/// A chunk inside the plaintext of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSpan {
    /// The chunk's id.
    pub id: ChunkId,
    /// Where it begins in the frame's plaintext, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub length: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct Trailer {
    #[prost(message, repeated, tag = "1")]
    frames: Vec<Frame>,
}

impl Frame {
    /// How to open it.
    pub fn shape(&self) -> Result<FrameShape, FormatError> {
        let compression = match self.compression {
            0 => Compression::Stored,
            1 => Compression::Zstd,
            other => return Err(unsupported(WHAT, format!("compression {other}"))),
        };
        Ok(FrameShape { generation: self.generation, plain_len: self.plain, compression })
    }

    /// Where it lies in its pack. Of a verified frame, never past the end.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.stored))
    }

    /// Its chunks in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkSpan> + '_ {
        let mut offset = 0_u32;
        self.ids.as_chunks::<32>().0.iter().zip(&self.lengths).map(move |(id, &length)| {
            let span = ChunkSpan { id: ChunkId(*id), offset, length };
            offset = offset.saturating_add(length);
            span
        })
    }

    /// Tests everything that can be tested without the frame's bytes; gives the offset of its end.
    fn verify(&self, what: &'static str, after: u64) -> Result<u64, FormatError> {
        let shape = self.shape()?;
        ensure(self.offset >= after, what, "frames overlap or are not in order")?;
        ensure(self.plain > 0 && self.plain as usize <= CHUNK_MAX, what, "a frame's length is out of bounds")?;
        ensure(self.generation > 0, what, "a frame's key generation is 0")?;
        ensure(
            !self.lengths.is_empty() && self.lengths.len() <= FRAME_CHUNKS_MAX,
            what,
            "a frame's number of chunks is out of bounds",
        )?;
        ensure(self.ids.len() == 32 * self.lengths.len(), what, "a frame's ids and lengths differ in number")?;
        let mut sum = 0_u64;
        for &length in &self.lengths {
            ensure(length > 0, what, "a chunk of no length")?;
            sum += u64::from(length);
        }
        ensure(sum == u64::from(self.plain), what, "a frame's chunks do not add up to its length")?;
        let full = u64::from(self.plain) + FRAME_OVERHEAD as u64;
        let stored = u64::from(self.stored);
        let plausible = match shape.compression {
            Compression::Stored => stored == full,
            Compression::Zstd => stored > FRAME_OVERHEAD as u64 && stored < full,
        };
        ensure(plausible, what, "a frame's stored length is impossible")?;
        self.offset.checked_add(stored).ok_or_else(|| invalid(what, "a frame reaches past the end"))
    }
}

/// Tests the frames of a pack of `size` bytes: in order, inside, each sound.
pub(crate) fn verify_frames(what: &'static str, frames: &[Frame], size: u64) -> Result<(), FormatError> {
    ensure(size <= PACK_MAX as u64, what, "a pack is longer than the format allows")?;
    let end = frames.iter().try_fold(HEADER_LEN as u64, |after, frame| frame.verify(what, after))?;
    let tail = (STRUCTURE_OVERHEAD + END_LEN) as u64;
    ensure(end.saturating_add(tail) <= size, what, "a frame reaches past the end of its pack")
}

/// Refuses a run of frame records that would take far more memory than bytes, before they are decoded.
pub(crate) fn verify_frame_fields(what: &'static str, fields: &[u8], number: u32) -> Result<(), FormatError> {
    wire::verify_repeated(what, fields, number, usize::MAX, FRAME_FIELDS_MIN)
}

/// Fills a pack in one buffer.
pub struct PackBuilder {
    kind: PackKind,
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    fields: usize,
}

/// A pack ready to be stored.
#[derive(Clone, Debug)]
pub struct FinishedPack {
    /// Its name.
    pub hash: Hash,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its row for an index segment.
    pub entry: PackEntry,
}

impl PackBuilder {
    /// An empty pack. `random` makes its name belong to one upload; `capacity` (bytes) is reserved at once.
    pub fn new(kind: PackKind, random: [u8; 16], capacity: usize) -> PackBuilder {
        PackBuilder::within(kind, random, Vec::with_capacity(capacity.clamp(HEADER_LEN, PACK_MAX)))
    }

    /// The same in a buffer that was used before.
    pub fn within(kind: PackKind, random: [u8; 16], mut bytes: Vec<u8>) -> PackBuilder {
        bytes.clear();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.push(kind as u8);
        bytes.extend_from_slice(&random);
        PackBuilder { kind, bytes, frames: Vec::new(), fields: 0 }
    }

    /// Appends a sealed frame that holds `chunks` (id and length, in order). Fails, leaving the pack as it was, when the
    /// pack would grow beyond the format or the frame and its description cannot belong together.
    pub fn append(&mut self, frame: &[u8], shape: FrameShape, chunks: &[(ChunkId, u32)]) -> Result<(), FormatError> {
        let stored = u32::try_from(frame.len()).map_err(|_| unwritable(WHAT, "a frame is too long"))?;
        let mut ids = Vec::with_capacity(32 * chunks.len());
        chunks.iter().for_each(|(id, _)| ids.extend_from_slice(&id.0));
        let record = Frame {
            offset: self.bytes.len() as u64,
            stored,
            plain: shape.plain_len,
            compression: shape.compression as u32,
            generation: shape.generation,
            ids: Bytes::from(ids),
            lengths: chunks.iter().map(|(_, length)| *length).collect(),
        };
        record.verify(WHAT, self.bytes.len() as u64).map_err(FormatError::on_writing)?;
        let fields = self.fields + record.encoded_len() + 8;
        if self.bytes.len() + frame.len() + fields + STRUCTURE_OVERHEAD + END_LEN > PACK_MAX {
            return Err(unwritable(WHAT, format!("more than {PACK_MAX} bytes")));
        }
        self.fields = fields;
        self.bytes.extend_from_slice(frame);
        self.frames.push(record);
        Ok(())
    }

    /// Bytes that the finished pack will have, about and not less.
    pub fn stored(&self) -> usize {
        self.bytes.len() + self.fields + STRUCTURE_OVERHEAD + END_LEN
    }

    /// Bytes so far, without the trailer.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Its frames so far.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What it holds.
    pub fn kind(&self) -> PackKind {
        self.kind
    }

    /// Adds the trailer and names the pack.
    pub fn finish(mut self, index_key: &Secret, repository: &Hash, entropy: [u8; 32]) -> FinishedPack {
        let trailer = Trailer { frames: self.frames };
        let context = trailer_context(&self.bytes[..HEADER_LEN], self.bytes.len() as u64);
        let sealed =
            crate::seal::seal_structure(index_key, repository, Kind::Trailer, &context, &trailer.encode_to_vec(), entropy);
        self.bytes.extend_from_slice(&sealed);
        self.bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(END_MAGIC);
        let hash = object_hash(&self.bytes);
        let size = self.bytes.len() as u64;
        let entry = PackEntry { hash: Bytes::copy_from_slice(&hash), size, kind: self.kind as i32, frames: trailer.frames };
        FinishedPack { hash, bytes: self.bytes, entry }
    }
}

fn trailer_context(header: &[u8], offset: u64) -> Vec<u8> {
    [header, &offset.to_le_bytes()].concat()
}

/// Where the sealed trailer lies in a pack of `size` bytes, given its last bytes (at least [`END_LEN`]).
pub fn trailer_range(tail: &[u8], size: u64) -> Result<Range<u64>, FormatError> {
    ensure(size <= PACK_MAX as u64, WHAT, "longer than the format allows")?;
    let (_, end) = tail.split_last_chunk::<END_LEN>().ok_or_else(|| invalid(WHAT, "truncated"))?;
    ensure(&end[4..] == END_MAGIC, WHAT, "its end is missing")?;
    let length = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let stop = size.checked_sub(END_LEN as u64).ok_or_else(|| invalid(WHAT, "truncated"))?;
    let start = stop.checked_sub(length).filter(|start| *start >= HEADER_LEN as u64);
    let start = start.ok_or_else(|| invalid(WHAT, "its trailer reaches past its beginning"))?;
    ensure(length >= STRUCTURE_OVERHEAD as u64, WHAT, "its trailer is too short")?;
    Ok(start..stop)
}

/// Opens a trailer: `header` is the pack's first [`HEADER_LEN`] bytes, `sealed` the bytes at [`trailer_range`].
pub fn decode_trailer(
    header: &[u8],
    sealed: &[u8],
    size: u64,
    index_key: &Secret,
    repository: &Hash,
) -> Result<(PackKind, Vec<Frame>), FormatError> {
    let kind = decode_header(header)?;
    let offset = size.checked_sub((END_LEN + sealed.len()) as u64).ok_or_else(|| invalid(WHAT, "truncated"))?;
    let context = trailer_context(header, offset);
    let plain = crate::seal::open_structure(index_key, repository, Kind::Trailer, &context, sealed)
        .map_err(|source| FormatError::Sealed { what: "a pack's trailer", source })?;
    verify_frame_fields(WHAT, &plain, 1)?;
    let trailer: Trailer = message(WHAT, Bytes::from(plain))?;
    verify_frames(WHAT, &trailer.frames, size)?;
    let end = trailer.frames.last().map_or(HEADER_LEN as u64, |frame| frame.range().end);
    ensure(end <= offset, WHAT, "a frame reaches into the trailer")?;
    Ok((kind, trailer.frames))
}

/// What a pack's first [`HEADER_LEN`] bytes say it holds. Not authenticated until its trailer is opened.
pub fn decode_header(header: &[u8]) -> Result<PackKind, FormatError> {
    ensure(header.len() == HEADER_LEN, WHAT, "truncated")?;
    ensure(header.starts_with(MAGIC), WHAT, "wrong magic")?;
    version(WHAT, u32::from_le_bytes([header[4], header[5], header[6], header[7]]))?;
    match PackKind::try_from(i32::from(header[8])) {
        Ok(kind @ (PackKind::Data | PackKind::Meta)) => Ok(kind),
        Ok(PackKind::Unknown) | Err(_) => Err(invalid(WHAT, "unknown kind")),
    }
}

/// Reads a whole pack: its row as an index segment would hold it. The frames themselves are not opened.
pub fn decode_pack(bytes: &[u8], index_key: &Secret, repository: &Hash) -> Result<PackEntry, FormatError> {
    let size = bytes.len() as u64;
    let header = bytes.get(..HEADER_LEN).ok_or_else(|| invalid(WHAT, "truncated"))?;
    decode_header(header)?;
    let range = trailer_range(bytes, size)?;
    let sealed = &bytes[range.start as usize..range.end as usize];
    let (kind, frames) = decode_trailer(header, sealed, size, index_key, repository)?;
    Ok(PackEntry { hash: Bytes::copy_from_slice(&object_hash(bytes)), size, kind: kind as i32, frames })
}
