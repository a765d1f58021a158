//! The jobs of the CPU pool: name chunks, ask whether they are known, group small neighbours, seal.

use std::sync::Arc;

use crate::backup::budget::Admitted;
use crate::backup::known::Known;
use crate::chunk::id::{ChunkId, IdKey};
use crate::clock::Env;
use crate::progress::Counter;
use crate::replica::Mask;
use crate::seal::{FrameSealer, FrameShape, Kind, Roomy, SealError};

/// Chunks of this size or more are sealed alone, in bytes.
pub const ALONE: usize = 64 << 10;

/// What the record of a chunk takes in memory until its pack is published, in bytes, about.
pub const RECORD: usize = 64;

/// A sealed frame on its way into a pack.
pub struct Frame {
    /// Data or meta.
    pub kind: Kind,
    /// The bytes that go into the pack.
    pub bytes: Vec<u8>,
    /// How to open them.
    pub shape: FrameShape,
    /// The chunks inside, in order, with their lengths.
    pub chunks: Vec<(ChunkId, u32)>,
    /// The replicas that need it.
    pub to: Mask,
    /// Its share of the budget.
    pub admitted: Admitted,
}

/// What was new, counted while sealing.
#[derive(Default)]
pub struct Added {
    /// Data chunks.
    pub data_chunks: Counter,
    /// Nodes.
    pub meta_chunks: Counter,
    /// Their plaintext bytes.
    pub bytes: Counter,
    /// Their sealed bytes.
    pub stored: Counter,
    /// Bytes read from the source.
    pub read: Counter,
}

/// What sealing jobs share.
pub struct Sealing {
    /// Where randomness comes from.
    pub env: Env,
    /// Names chunks.
    pub id_key: IdKey,
    /// Seals frames.
    pub sealer: Arc<FrameSealer>,
    /// Says what need not be sent.
    pub known: Known,
    /// Plaintext bytes that groups are filled to.
    pub group: usize,
    /// What was new.
    pub added: Arc<Added>,
    /// Whether frames are wanted at all (not in a dry run).
    pub dry_run: bool,
}

/// What came of some chunks.
#[derive(Default)]
pub struct Sealed {
    /// Their ids, in the order given.
    pub ids: Vec<ChunkId>,
    /// The frames to send.
    pub frames: Vec<Frame>,
    /// How many chunks were new.
    pub new_chunks: u64,
    /// Their plaintext bytes.
    pub new_bytes: u64,
}

impl Sealing {
    /// Names and seals chunks that lie next to each other; small ones that must be sent to the same replicas share a frame.
    pub fn seal(&self, kind: Kind, chunks: &[&[u8]], mut admitted: Admitted) -> Result<Sealed, SealError> {
        let ids: Vec<ChunkId> = chunks.iter().map(|c| self.id_key.id(c)).collect();
        let needs = self.known.claim(&ids);
        let mut out = Sealed::default();
        let mut groups: Vec<Group> = Vec::new();
        for ((chunk, id), to) in chunks.iter().zip(&ids).zip(needs) {
            if to.is_empty() {
                continue;
            }
            out.new_chunks += 1;
            out.new_bytes += chunk.len() as u64;
            if self.dry_run {
                continue;
            }
            if chunk.len() >= ALONE {
                let (plain, chunks) = (Roomy::new(chunk), vec![(*id, chunk.len() as u32)]);
                out.frames.push(self.frame(kind, plain, chunks, to, &mut admitted)?);
                continue;
            }
            let group = match groups.iter_mut().find(|g| g.to == to) {
                Some(group) => group,
                None => {
                    groups.push(Group { to, plain: Vec::with_capacity(self.group.min(1 << 20)), chunks: Vec::new() });
                    groups.last_mut().expect("just pushed")
                }
            };
            group.plain.extend_from_slice(chunk);
            group.chunks.push((*id, chunk.len() as u32));
            if group.plain.len() >= self.group {
                let (plain, chunks) = (Roomy::new(&group.plain), std::mem::take(&mut group.chunks));
                out.frames.push(self.frame(kind, plain, chunks, to, &mut admitted)?);
                group.plain.clear();
            }
        }
        for group in groups.into_iter().filter(|g| !g.chunks.is_empty()) {
            out.frames.push(self.frame(kind, Roomy::new(&group.plain), group.chunks, group.to, &mut admitted)?);
        }
        out.ids = ids;
        Ok(out)
    }

    /// Names and seals one chunk in the buffer that it lies in; all that is admitted goes with the frame.
    pub fn seal_alone(&self, kind: Kind, chunk: Roomy, admitted: Admitted) -> Result<Sealed, SealError> {
        let (id, length) = (self.id_key.id(chunk.plain()), chunk.plain().len());
        let to = self.known.claim(&[id]).pop().unwrap_or_default();
        let mut out = Sealed { ids: vec![id], ..Sealed::default() };
        if to.is_empty() {
            return Ok(out);
        }
        (out.new_chunks, out.new_bytes) = (1, length as u64);
        if !self.dry_run {
            let sealed = self.sealer.seal_roomy(kind, chunk, &id.0, self.env.entropy())?;
            let chunks = vec![(id, length as u32)];
            out.frames.push(Frame { kind, bytes: sealed.bytes, shape: sealed.shape, chunks, to, admitted });
        }
        Ok(out)
    }

    fn frame(
        &self,
        kind: Kind,
        plain: Roomy,
        chunks: Vec<(ChunkId, u32)>,
        to: Mask,
        admitted: &mut Admitted,
    ) -> Result<Frame, SealError> {
        let plain_id = match chunks.as_slice() {
            [(only, _)] => *only,
            // The ids determine the plaintext: hashing them is as good as hashing it again.
            several => self.id_key.id(&several.iter().flat_map(|(id, _)| id.0).collect::<Vec<u8>>()),
        };
        let mut sealed = self.sealer.seal_roomy(kind, plain, &plain_id.0, self.env.entropy())?;
        sealed.bytes.shrink_to_fit();
        let admitted = admitted.split((sealed.bytes.len() + RECORD * chunks.len()) as u64);
        Ok(Frame { kind, bytes: sealed.bytes, shape: sealed.shape, chunks, to, admitted })
    }
}

struct Group {
    to: Mask,
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}
