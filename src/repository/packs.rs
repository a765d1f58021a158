//! Packs as they are stored, for moving them: whole and held against their name, or some of their frames, each opened.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::format::index::PackEntry;
use crate::format::pack::{Frame, HEADER_LEN, PackKind, decode_pack, decode_trailer, trailer_range};
use crate::format::{Hash, PACK_MAX};
use crate::replica::Replica;
use crate::replica::patience::{allowance, while_it_answers};
use crate::replica::read::{ReadFault, read_one};
use crate::replica::write::put_proven;
use crate::repository::chunk_index::PackRow;
use crate::repository::layout;
use crate::repository::log::chain;
use crate::repository::reader::{pack_class, seal_kind};
use crate::repository::{Met, Repository};
use crate::store::error::StoreError;

/// The last bytes of a pack that are read in one request: nearly always its whole trailer.
const TAIL: u64 = 64 << 10;
/// Frames that lie no farther apart are read in one request, in bytes.
const GAP: u64 = 256 << 10;
/// Most bytes of one such request.
const JOINED_MAX: u64 = 8 << 20;

/// Where a frame lies in its pack: offset and stored length, as the index says.
pub type Spot = (u32, u32);

impl Repository {
    /// A whole pack, its bytes as its name says and its trailer with every frame of `wanted`, from the first replica that has it
    /// so, those that trust it first. What was met on the way is noted.
    pub async fn whole_pack(&self, pack: &PackRow, wanted: &[Spot]) -> Option<(PackEntry, Bytes)> {
        let name = layout::hashed(pack_class(pack.kind), &pack.hash);
        for replica in self.order_for(pack) {
            let read = read_one(replica, &name, None, async |bytes: Bytes| {
                let (keyring, row, wanted) = (self.keyring.clone(), pack.clone(), wanted.to_vec());
                let test = move || {
                    if bytes.len() as u64 != row.size || bytes.len() > PACK_MAX {
                        return Err("it has another length than the index says".to_owned());
                    }
                    let entry = decode_pack(&bytes, &keyring.keys.index, &keyring.repository_id).map_err(|e| chain(&e))?;
                    if entry.hash[..] != row.hash[..] {
                        return Err("its bytes do not match its name".to_owned());
                    }
                    find(&entry.frames, &wanted)?;
                    Ok((entry, bytes))
                };
                self.env.cpu(test).await
            });
            match self.patiently(replica, pack.size, read).await {
                Ok(found) => return Some(found),
                Err(fault) => self.met_pack(replica.index, pack, &fault),
            }
        }
        None
    }

    /// Those of the frames `wanted` (ascending) of a pack that some replica gives whole: each opened, and every chunk in it
    /// as its id says. Replicas that distrust the pack are asked, too, last. What was met on the way is noted.
    pub async fn pack_frames(&self, pack: &PackRow, wanted: &[Spot]) -> Vec<(Frame, Bytes)> {
        let mut found: BTreeMap<u32, (Frame, Bytes)> = BTreeMap::new();
        for replica in self.order_for(pack) {
            let left: Vec<Spot> = wanted.iter().filter(|(offset, _)| !found.contains_key(offset)).copied().collect();
            if left.is_empty() {
                break;
            }
            let trailer = self.patiently(replica, pack.size.min(TAIL), self.trailer(replica, pack)).await;
            let frames = trailer.and_then(|frames| find(&frames, &left).map_err(ReadFault::Damaged));
            match frames {
                Ok(frames) => {
                    for (offset, got) in self.frames_at(replica, pack, frames).await {
                        found.insert(offset, got);
                    }
                }
                Err(fault) => self.met_pack(replica.index, pack, &fault),
            }
        }
        found.into_values().collect()
    }

    /// Puts a pack at one replica and proves it: an object of that name that is there must hold these very bytes.
    pub async fn put_pack(&self, index: usize, kind: PackKind, hash: &Hash, bytes: &Bytes) -> Result<(), StoreError> {
        let (name, replica) = (layout::hashed(pack_class(kind), hash), &self.set.replicas[index]);
        let patience = allowance(self.set.settings.stall, bytes.len() as u64);
        let put = put_proven(replica, &name, bytes);
        while_it_answers(&self.env, replica, patience, "copying a pack", put).await?.map(drop)
    }

    /// What a read came to, unless the replica stops answering meanwhile.
    pub(super) async fn patiently<T>(
        &self,
        replica: &Replica,
        bytes: u64,
        read: impl Future<Output = Result<T, ReadFault>>,
    ) -> Result<T, ReadFault> {
        let patience = allowance(self.set.settings.stall, bytes);
        let read = while_it_answers(&self.env, replica, patience, "reading a pack", read).await;
        let read = read.map_err(ReadFault::Store).and_then(|read| read);
        self.note_answer(replica.index, read.as_ref().err());
        read
    }

    fn met_pack(&self, replica: usize, pack: &PackRow, fault: &ReadFault) {
        let bad = fault.is_damage().then_some(pack.hash);
        self.meet(Met { replica, pack: bad, what: fault.to_string() });
        if bad.is_some() {
            self.index.write().expect("no panic while the index is locked").distrust(replica, &pack.hash, true);
        }
    }

    /// The frames of a pack, by its trailer at one replica.
    pub(super) async fn trailer(&self, replica: &Replica, pack: &PackRow) -> Result<Vec<Frame>, ReadFault> {
        let name = layout::hashed(pack_class(pack.kind), &pack.hash);
        let (size, keyring) = (pack.size, &self.keyring);
        let tail_at = size.saturating_sub(TAIL);
        let header = read_one(replica, &name, Some(0..HEADER_LEN as u64), async |bytes: Bytes| Ok(bytes));
        let tail = read_one(replica, &name, Some(tail_at..size), async |bytes: Bytes| {
            trailer_range(&bytes, size).map(|range| (range, bytes)).map_err(|e| chain(&e))
        });
        let (header, tail) = futures::join!(header, tail);
        let (header, (range, tail)) = (header?, tail?);
        let open = |sealed: &[u8]| {
            let (kind, frames) =
                decode_trailer(&header, sealed, size, &keyring.keys.index, &keyring.repository_id).map_err(|e| chain(&e))?;
            if kind == pack.kind { Ok(frames) } else { Err("it holds something else than its name says".to_owned()) }
        };
        if range.start >= tail_at {
            let sealed = &tail[(range.start - tail_at) as usize..(range.end - tail_at) as usize];
            if let Ok(frames) = open(sealed) {
                return Ok(frames);
            }
        }
        read_one(replica, &name, Some(range), async |bytes: Bytes| open(&bytes)).await
    }

    /// Those of `frames` that one replica gives whole, by offset. What is damaged is read alone, and twice, before it is said so.
    pub(super) async fn frames_at(&self, replica: &Replica, pack: &PackRow, frames: Vec<Frame>) -> Vec<(u32, (Frame, Bytes))> {
        let name = layout::hashed(pack_class(pack.kind), &pack.hash);
        let mut out = Vec::new();
        for run in runs(frames) {
            let range = run[0].offset..run.last().map_or(0, |frame| frame.range().end);
            let length = range.end - range.start;
            let start = range.start;
            let joined = read_one(replica, &name, Some(range), async |bytes: Bytes| Ok(bytes));
            let joined = match self.patiently(replica, length, joined).await {
                Ok(bytes) => bytes,
                Err(fault) => {
                    self.met_pack(replica.index, pack, &fault);
                    continue;
                }
            };
            for frame in run {
                let from = (frame.offset - start) as usize;
                let bytes = joined.slice(from..from + frame.stored as usize);
                if self.is_whole(pack.kind, &frame, bytes.clone()).await.is_ok() {
                    out.push((frame.offset as u32, (frame, bytes)));
                    continue;
                }
                let alone = read_one(replica, &name, Some(frame.range()), async |bytes: Bytes| {
                    self.is_whole(pack.kind, &frame, bytes.clone()).await.map(|()| bytes)
                });
                match self.patiently(replica, u64::from(frame.stored), alone).await {
                    Ok(bytes) => out.push((frame.offset as u32, (frame, bytes))),
                    Err(fault) => self.met_pack(replica.index, pack, &fault),
                }
            }
        }
        out
    }

    /// Opens a frame, and holds every chunk in it against its id.
    pub(super) async fn is_whole(&self, kind: PackKind, frame: &Frame, bytes: Bytes) -> Result<(), String> {
        let (keyring, frame) = (self.keyring.clone(), frame.clone());
        let test = move || {
            let shape = frame.shape().map_err(|e| chain(&e))?;
            let plain = keyring
                .sealer
                .open(seal_kind(kind), shape, &bytes)
                .map_err(|e| format!("the frame at {} does not open: {e}", frame.offset))?;
            for span in frame.chunks() {
                let start = span.offset as usize;
                let chunk = plain.get(start..start + span.length as usize).ok_or("a chunk reaches past its frame")?;
                if keyring.id_key.id(chunk) != span.id {
                    return Err(format!("chunk {} has other bytes than its id says", span.id));
                }
            }
            Ok(())
        };
        self.env.cpu(test).await
    }
}

/// The records of the frames at `wanted`; an error when one of them is not where the index says.
fn find(frames: &[Frame], wanted: &[Spot]) -> Result<Vec<Frame>, String> {
    let one = |(offset, stored): &Spot| {
        let at = frames.binary_search_by_key(&u64::from(*offset), |frame| frame.offset).ok().map(|at| &frames[at]);
        at.filter(|frame| frame.stored == *stored).cloned()
    };
    wanted.iter().map(|spot| one(spot).ok_or_else(|| "its trailer is not as the index says".to_owned())).collect()
}

/// Frames in runs that are worth one request each.
fn runs(frames: Vec<Frame>) -> Vec<Vec<Frame>> {
    let mut runs: Vec<(Range<u64>, Vec<Frame>)> = Vec::new();
    for frame in frames {
        let range = frame.range();
        match runs.last_mut() {
            Some((span, run)) if range.start.saturating_sub(span.end) <= GAP && range.end - span.start <= JOINED_MAX => {
                span.end = range.end;
                run.push(frame);
            }
            _ => runs.push((range, vec![frame])),
        }
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

#[cfg(test)]
mod tests {
    use crate::format::pack::Frame;
    use crate::repository::packs::{GAP, find, runs};

    fn frame(offset: u64, stored: u32) -> Frame {
        Frame { offset, stored, ..Frame::default() }
    }

    #[test]
    fn frames_near_each_other_share_a_request() {
        let frames = vec![frame(25, 100), frame(125 + GAP, 10), frame(136 + 2 * GAP, 5), frame(136 + 2 * GAP + 5, 9 << 20)];
        let shape: Vec<usize> = runs(frames).iter().map(Vec::len).collect();
        assert_eq!(shape, [2, 1, 1]);
    }

    #[test]
    fn a_frame_is_where_the_index_says_or_the_pack_is_damaged() {
        let frames = [frame(25, 100), frame(125, 10)];
        assert_eq!(find(&frames, &[(125, 10)]).expect("there"), [frame(125, 10)]);
        assert!(find(&frames, &[(125, 11)]).is_err() && find(&frames, &[(26, 100)]).is_err());
    }
}
