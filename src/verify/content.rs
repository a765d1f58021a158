//! Index segments read in full, and with them as many packs as wanted: every frame opened, every chunk id recomputed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::format::index::{PackEntry, Segment};
use crate::format::pack::{PackKind, decode_pack};
use crate::format::{Hash, object_hash};
use crate::replica::Mask;
use crate::replica::read::{ReadFault, read_one};
use crate::repository::keyring::Keyring;
use crate::repository::layout::{self, Class};
use crate::repository::log::chain;
use crate::seal::Kind;
use crate::store::error::StoreErrorKind;
use crate::verify::examine::{Examination, Halt, sort};
use crate::verify::presence::pack_name;
use crate::verify::share::Share;

/// Unread packs that are named; the count goes on.
pub const UNREAD_MAX: usize = 100;
/// What opening one frame may take beside the pack, in bytes.
const FRAME_ROOM: u64 = 16 << 20;

/// What reading found whole.
#[derive(Default)]
pub struct Read {
    /// Packs that a whole segment of this replica names.
    pub indexed: BTreeSet<Hash>,
    /// Packs of which every byte was read and verified.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were distrusted before.
    pub healed: Vec<Hash>,
    /// Packs that were to be read and could not be, though nothing says that they are damaged (bounded).
    pub unread: BTreeSet<Hash>,
    /// How many those are.
    pub unread_count: u64,
}

impl Read {
    fn miss(&mut self, pack: Hash) {
        self.unread_count += 1;
        if self.unread.len() < UNREAD_MAX {
            self.unread.insert(pack);
        }
    }
}

/// How reading one pack came out.
enum Fate {
    /// Every byte is right: name and size.
    Whole(Hash, u64),
    /// Damaged, which was written down.
    Damaged,
    /// Nobody knows.
    Unread(Hash),
}

/// How the packs to read are drawn.
pub struct Drawing<'s> {
    /// How many.
    pub share: Share,
    /// What chance comes from.
    pub seed: [u8; 32],
    /// The replicas that share the work, so that each pack is read at one of them only; none: each reads by itself.
    pub across: Mask,
    /// Packs that are read whatever is drawn, where the log relies on them.
    pub besides: Option<&'s BTreeSet<Hash>>,
}

/// Draws the packs to read: a share of those the log relies on, and all that are distrusted.
pub fn draw(what: &Examination<'_>, drawing: &Drawing<'_>) -> BTreeSet<Hash> {
    let me = Mask::one(what.replica.index);
    let among = drawing.across.or(me);
    let chunks = what.index.read().expect("no panic while the index is locked");
    let held = chunks.packs().iter().filter(|pack| !pack.published.and(among).is_empty());
    let chosen = drawing.share.choose(held.map(|pack| (pack.hash, pack.size)).collect(), &drawing.seed);
    let mine = |hash: &Hash| {
        let at = chunks.pack_number(hash).map_or(Mask::default(), |number| chunks.pack(number).published).and(among);
        // Whose turn it is differs from run to run: in time every copy is read.
        let [a, b, c, d, ..] = *blake3::keyed_hash(&drawing.seed, &[&hash[..], b"turn"].concat()).as_bytes();
        let turn = u32::from_le_bytes([a, b, c, d]) as usize % at.count().max(1);
        at.indices().nth(turn) == Some(what.replica.index)
    };
    let mut packs: BTreeSet<Hash> = chosen.into_iter().filter(mine).collect();
    let relied = |pack: &&Hash| chunks.pack_number(pack).is_some_and(|number| chunks.pack(number).published.and(me) == me);
    packs.extend(drawing.besides.into_iter().flatten().filter(relied));
    drop(chunks);
    packs.extend(&what.facts.distrusted);
    packs.retain(|pack| !what.findings.is_bad(what.replica.index, pack));
    packs
}

struct Reading {
    wanted: BTreeSet<Hash>,
    read: Read,
    /// Segments that are damaged here, with the packs they name according to another replica.
    lost: Vec<(String, Vec<Hash>)>,
}

/// Reads every segment that the log relies on, and the `wanted` packs.
pub async fn verify_segments(what: &Examination<'_>, wanted: BTreeSet<Hash>) -> Result<Read, Halt> {
    let reading = Mutex::new(Reading { wanted, read: Read::default(), lost: Vec::new() });
    let lock = || reading.lock().unwrap_or_else(PoisonError::into_inner);
    let at_once = 2 * what.repository.env.threads();
    // One segment after the other, each with its packs to the end: a read that is under way and not looked at would hold
    // its place in the queues that the others wait in.
    for hash in &what.facts.segments {
        what.going_on()?;
        let packs: Vec<PackEntry> = match read_segment(what, hash).await? {
            Ok(segment) => {
                let mut reading = lock();
                reading.read.indexed.extend(segment.packs.iter().filter_map(|p| p.name().ok()));
                // Each pack once, whichever segment names it first.
                let mut wanted = segment.packs;
                wanted.retain(|entry| entry.name().is_ok_and(|name| reading.wanted.remove(&name)));
                wanted
            }
            Err(story) => {
                let name = layout::hashed(Class::Segment, hash);
                what.findings.add(what.replica.index, &name, story);
                let others = what.repository.readable().without(Mask::one(what.replica.index));
                let (elsewhere, _) = what.repository.segment(hash, others).await;
                let packs = elsewhere.iter().flat_map(|s| &s.packs).filter_map(|p| p.name().ok()).collect();
                lock().lost.push((name.to_string(), packs));
                Vec::new()
            }
        };
        what.progress.items.add(1);
        let mut reads = stream::iter(packs).map(|entry| read_pack(what, entry)).buffer_unordered(at_once);
        while let Some(fate) = reads.next().await {
            match fate? {
                Fate::Whole(hash, size) => {
                    let mut reading = lock();
                    reading.read.packs += 1;
                    reading.read.bytes += size;
                    if what.facts.distrusted.contains(&hash) {
                        reading.read.healed.push(hash);
                    }
                }
                Fate::Unread(hash) => lock().read.miss(hash),
                Fate::Damaged => {}
            }
        }
    }
    let mut reading = reading.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (name, packs) in reading.lost {
        for pack in packs.into_iter().filter(|pack| !reading.read.indexed.contains(pack)) {
            what.findings.bad_pack(what.replica.index, pack, &name, "it is damaged");
        }
    }
    // What is distrusted is read each time.
    for pack in reading.wanted.into_iter().filter(|pack| !what.facts.distrusted.contains(pack)) {
        if !what.findings.is_bad(what.replica.index, &pack) {
            reading.read.miss(pack);
        }
    }
    Ok(reading.read)
}

async fn read_segment(what: &Examination<'_>, hash: &Hash) -> Result<Result<Segment, String>, Halt> {
    let name = layout::hashed(Class::Segment, hash);
    let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
        let (keyring, hash) = (what.repository.keyring.clone(), *hash);
        let decode = move || {
            if object_hash(&bytes) != hash {
                return Err("its bytes do not match its name".to_owned());
            }
            Segment::decode(&bytes, &keyring.keys.index, &keyring.repository_id).map_err(|e| chain(&e))
        };
        what.repository.env.cpu(decode).await
    });
    match read.await {
        Ok(segment) => Ok(Ok(segment)),
        Err(fault) => sort(fault).map(Err),
    }
}

/// Reads one pack in full, and writes down what is wrong with it.
async fn read_pack(what: &Examination<'_>, entry: PackEntry) -> Result<Fate, Halt> {
    what.going_on()?;
    let Ok(hash) = entry.name() else { return Ok(Fate::Damaged) };
    let name = pack_name(entry.kind(), &hash);
    let size = entry.size;
    let room = u32::try_from((size + FRAME_ROOM) >> 10).unwrap_or(u32::MAX).clamp(1, what.memory_kib);
    let admitted = what.memory.acquire_many(room).await;
    what.going_on()?;
    what.progress.set_current(|| format!("{}: {name}", what.replica.name));
    let entry = std::sync::Arc::new(entry);
    let read = read_one(what.replica, &name, None, async |bytes: Bytes| {
        let (keyring, entry) = (what.repository.keyring.clone(), entry.clone());
        what.repository.env.cpu(move || verify_pack(&keyring, &entry, &bytes)).await
    });
    let read = read.await;
    drop(admitted);
    what.progress.items.add(1);
    what.progress.bytes.add(size);
    match read {
        Ok(()) => Ok(Fate::Whole(hash, size)),
        // A store that fails in a way nobody knows says nothing for sure about the pack: told, not written down.
        Err(ReadFault::Store(e)) if e.kind == StoreErrorKind::Other => {
            what.findings.add(what.replica.index, &name, sort(ReadFault::Store(e))?);
            Ok(Fate::Unread(hash))
        }
        Err(fault) => {
            what.findings.bad_pack(what.replica.index, hash, &name, sort(fault)?);
            what.progress.errors.add(1);
            Ok(Fate::Damaged)
        }
    }
}

/// Tests a pack's bytes against its name, its row in the index, and every chunk's id against its plaintext.
fn verify_pack(keyring: &Keyring, entry: &PackEntry, bytes: &[u8]) -> Result<(), String> {
    let found = decode_pack(bytes, &keyring.keys.index, &keyring.repository_id).map_err(|e| chain(&e))?;
    if found.hash != entry.hash {
        return Err("its bytes do not match its name".into());
    }
    if found != *entry {
        return Err("its trailer is not as the index says".into());
    }
    let kind = if found.kind() == PackKind::Meta { Kind::Meta } else { Kind::Data };
    for frame in &found.frames {
        let range = frame.range();
        let sealed = bytes.get(range.start as usize..range.end as usize).ok_or("a frame reaches past its end")?;
        let shape = frame.shape().map_err(|e| chain(&e))?;
        let plain =
            keyring.sealer.open(kind, shape, sealed).map_err(|e| format!("the frame at {} does not open: {e}", range.start))?;
        for span in frame.chunks() {
            let start = span.offset as usize;
            let chunk = plain.get(start..start + span.length as usize).ok_or("a chunk reaches past its frame")?;
            if keyring.id_key.id(chunk) != span.id {
                return Err(format!("chunk {} has other bytes than its id says", span.id));
            }
        }
    }
    Ok(())
}
