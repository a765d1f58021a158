//! From what is wanted to an ordered list of reads. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::id::ChunkId;
use crate::repository::chunk_index::Place;

/// A gap between two frames that is read along rather than paid for with another request, in bytes.
const GAP_MAX: u64 = 64 << 10;
/// Most stored bytes that are asked for in one request (a single frame may be longer).
const READ_MAX: u64 = 8 << 20;
/// Most plaintext bytes that one request may unfold to (a single frame may be longer).
const PLAIN_MAX: u64 = 16 << 20;

/// A chunk that a file wants.
#[derive(Clone, Debug)]
pub struct Need {
    /// The file's number.
    pub file: u32,
    /// Where it belongs in the file.
    pub offset: u64,
    /// The chunk.
    pub id: ChunkId,
    /// Its length as the file's content says.
    pub length: u32,
    /// Where it lies, the best place first.
    pub places: Vec<Place>,
}

/// One chunk of a frame on its way into one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The chunk.
    pub id: ChunkId,
    /// The file's number.
    pub file: u32,
    /// Where it belongs in the file.
    pub offset: u64,
    /// Where it begins in the frame's plaintext.
    pub from: u32,
    /// Its length.
    pub length: u32,
}

/// A frame, and everything it is read for.
#[derive(Clone, Debug)]
pub struct FrameRead {
    /// The frame (offset and length in it are those of the first chunk wanted).
    pub place: Place,
    /// The chunks it serves, in the order of their needs.
    pub writes: Vec<Write>,
}

/// Frames of one pack that are read in one request, ascending.
#[derive(Clone, Debug)]
pub struct Read {
    /// The frames.
    pub frames: Vec<FrameRead>,
}

impl Read {
    /// Bytes that it takes while under way: the request's answer and all plaintexts.
    pub fn memory(&self) -> u64 {
        let start = self.frames.first().map_or(0, |f| u64::from(f.place.frame_offset));
        let end = self.frames.iter().map(|f| end_of(&f.place)).max().unwrap_or(start);
        end - start + self.frames.iter().map(|f| u64::from(f.place.shape.plain_len)).sum::<u64>()
    }
}

/// What to read, and what lies nowhere.
#[derive(Debug, Default)]
pub struct Plan {
    /// The reads, by pack and place in it.
    pub reads: Vec<Read>,
    /// Needs without a usable place (`from` means nothing).
    pub lost: Vec<Write>,
}

fn end_of(place: &Place) -> u64 {
    u64::from(place.frame_offset) + u64::from(place.frame_stored)
}

/// Plans. Every need is served by exactly one read, or is lost. A chunk with several places is taken from a frame that is
/// read anyway, if there is one.
pub fn plan(needs: Vec<Need>) -> Plan {
    let mut out = Plan::default();
    let fits = |need: &Need, place: &&Place| place.length == need.length;
    let mut chosen: BTreeSet<u32> = BTreeSet::new();
    for need in &needs {
        if let ([only], Some(_)) = (need.places.as_slice(), need.places.iter().find(|p| fits(need, p))) {
            chosen.insert(only.frame);
        }
    }
    let mut frames: BTreeMap<(u32, u32, u32), FrameRead> = BTreeMap::new();
    for need in needs {
        let mut usable = need.places.iter().filter(|p| fits(&need, p)).peekable();
        let best = usable.peek().copied();
        let Some(place) = usable.find(|p| chosen.contains(&p.frame)).or(best).copied() else {
            let Need { file, offset, id, length, .. } = need;
            out.lost.push(Write { id, file, offset, from: 0, length });
            continue;
        };
        chosen.insert(place.frame);
        let frame = frames
            .entry((place.pack, place.frame_offset, place.frame))
            .or_insert_with(|| FrameRead { place, writes: Vec::new() });
        let Need { file, offset, id, length, .. } = need;
        frame.writes.push(Write { id, file, offset, from: place.offset, length });
    }
    for frame in frames.into_values() {
        match out.reads.last_mut() {
            Some(read) if joins(read, &frame.place) => read.frames.push(frame),
            _ => out.reads.push(Read { frames: vec![frame] }),
        }
    }
    out
}

/// Whether a frame is read with those before it.
fn joins(read: &Read, place: &Place) -> bool {
    let (Some(first), Some(last)) = (read.frames.first(), read.frames.last()) else { return false };
    let plain: u64 = read.frames.iter().map(|f| u64::from(f.place.shape.plain_len)).sum();
    first.place.pack == place.pack
        && u64::from(place.frame_offset) <= end_of(&last.place) + GAP_MAX
        && end_of(place).saturating_sub(u64::from(first.place.frame_offset)) <= READ_MAX
        && plain + u64::from(place.shape.plain_len) <= PLAIN_MAX
}

#[cfg(test)]
mod tests {
    use super::{Need, Plan, plan};
    use crate::chunk::id::ChunkId;
    use crate::repository::chunk_index::Place;
    use crate::seal::{Compression, FrameShape};

    fn place(pack: u32, frame: u32, frame_offset: u32, frame_stored: u32) -> Place {
        let shape = FrameShape { generation: 1, plain_len: 1000, compression: Compression::Zstd };
        Place { pack, frame, frame_offset, frame_stored, shape, offset: 0, length: 10 }
    }

    fn need(id: u8, file: u32, offset: u64, places: &[Place]) -> Need {
        Need { file, offset, id: ChunkId([id; 32]), length: 10, places: places.to_vec() }
    }

    /// Per read: its pack, and per frame its offset and the file offsets it serves.
    #[allow(clippy::type_complexity)]
    fn shape(plan: &Plan) -> Vec<(u32, Vec<(u32, Vec<u64>)>)> {
        let frame = |f: &super::FrameRead| (f.place.frame_offset, f.writes.iter().map(|w| w.offset).collect());
        plan.reads.iter().map(|r| (r.frames[0].place.pack, r.frames.iter().map(frame).collect())).collect()
    }

    #[test]
    fn neighbours_are_one_read_and_every_need_is_served_once() {
        let far = 1 << 20;
        let planned = plan(vec![
            need(1, 0, 0, &[place(7, 1, 500, 500)]),
            need(2, 0, 10, &[place(7, 0, 0, 500)]),
            need(3, 0, 20, &[place(7, 2, far, 500)]),
            need(4, 1, 0, &[place(3, 5, 0, 500)]),
            need(1, 1, 10, &[place(7, 1, 500, 500)]),
        ]);
        let expected = vec![(3, vec![(0, vec![0])]), (7, vec![(0, vec![10]), (500, vec![0, 10])]), (7, vec![(far, vec![20])])];
        assert_eq!(shape(&planned), expected);
        assert_eq!(planned.reads[1].memory(), 1000 + 2000);
    }

    #[test]
    fn long_runs_are_cut() {
        let mib = 1 << 20;
        let planned =
            plan((0..20).map(|i| need(i, 0, u64::from(i), &[place(0, u32::from(i), u32::from(i) * mib, mib)])).collect());
        let lengths: Vec<usize> = planned.reads.iter().map(|r| r.frames.len()).collect();
        assert_eq!(lengths, [8, 8, 4]);
        assert!(planned.reads.iter().all(|r| r.memory() <= super::READ_MAX + super::PLAIN_MAX));
    }

    #[test]
    fn a_frame_that_is_read_anyway_serves() {
        let planned =
            plan(vec![need(1, 0, 0, &[place(1, 1, 0, 100), place(2, 2, 0, 100)]), need(2, 0, 10, &[place(2, 2, 0, 100)])]);
        assert_eq!(shape(&planned), vec![(2, vec![(0, vec![0, 10])])]);
    }

    #[test]
    fn what_lies_nowhere_or_has_another_length_is_lost() {
        let mut short = place(1, 1, 0, 100);
        short.length = 9;
        let planned = plan(vec![need(1, 4, 0, &[]), need(2, 5, 0, &[short]), need(3, 6, 0, &[short, place(1, 2, 0, 100)])]);
        let lost: Vec<_> = planned.lost.iter().map(|w| (w.id, w.file, w.offset, w.length)).collect();
        assert_eq!(lost, [(ChunkId([1; 32]), 4, 0, 10), (ChunkId([2; 32]), 5, 0, 10)]);
        assert_eq!(shape(&planned), vec![(1, vec![(0, vec![0])])]);
    }
}
