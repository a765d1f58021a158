//! The stage that fills packs and hands them to the fan-out.
//!
//! Frames come in any order; what must be kept in order (the catalog) names chunks, not places. At most two packs are
//! open per kind: one for all participating replicas, one for those that lack what others have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use crate::backup::budget::Admitted;
use crate::backup::drain::Drain;
use crate::backup::known::Known;
use crate::backup::seal::{Frame, RECORD};
use crate::clock::Env;
use crate::format::index::PackEntry;
use crate::format::pack::{PackBuilder, PackKind};
use crate::replica::Mask;
use crate::replica::write::Fanout;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::Keyring;
use crate::repository::layout::{self, Class};
use crate::seal::Kind;
use crate::store::buffers::buffer;

/// Room for a trailer's last bytes beyond the target, so that closing a pack never moves it.
const ROOM: usize = 64 << 10;

/// Chunks in a pack, about: of tiny ones the records in memory outweigh their bytes, from here to where they are published.
const CHUNKS_MAX: usize = 1 << 15;

/// Once the run is to stop, what is open is sent so often, full or not: it may have little time left, and nobody knows when the
/// last frame comes. Most runs have ended before the first time.
const SEND_EVERY: Duration = Duration::from_secs(1);

/// What the stage is told.
pub enum ToPack {
    /// Put this into a pack.
    Frame(Frame),
    /// Close all packs; answer when everything sent so far is handed on to the publisher.
    Barrier(oneshot::Sender<()>),
}

/// What it hands on to the publisher.
pub enum Packed {
    /// A pack, and the replicas that proved to hold it.
    Done(PackEntry, Mask),
    /// Everything before this is done.
    Barrier(oneshot::Sender<()>),
}

struct Open {
    builder: PackBuilder,
    /// How many chunks are in it.
    chunks: usize,
    to: Mask,
    /// What the buffer takes of the budget: never less than it was ever filled to.
    admitted: Admitted,
    /// Of that, what was there before the first frame.
    before: u64,
}

/// How packs are filled.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// Target size of a data pack, in bytes.
    pub data: usize,
    /// Target size of a meta pack, in bytes.
    pub meta: usize,
    /// Bytes that all open packs may hold together: beyond them the fullest is closed early, so that what is still on the
    /// way finds room.
    pub open: u64,
    /// Whether the buffer of a data pack is kept for the next one; it stays part of the budget meanwhile.
    pub keeps: bool,
}

impl Filling {
    /// Packs of these sizes in a budget of `memory` bytes.
    pub fn new(data: u32, meta: u32, memory: u64) -> Filling {
        let (data, meta) = (data as usize, meta as usize);
        Filling { data, meta, open: memory / 8 * 3, keeps: data as u64 <= memory / 7 }
    }

    /// What the stage may keep waiting in memory before it sends anything, in bytes, with frames of up to `frame` bytes.
    pub fn memory(&self, frame: u64) -> u64 {
        self.open + frame + if self.keeps { self.data as u64 } else { 0 }
    }
}

/// The buffer of the data pack that was done last.
type Spare = Arc<Mutex<Option<(Vec<u8>, Admitted)>>>;

/// A finished pack's bytes and its share of the budget, until the last upload lets go of them.
struct Buffer {
    bytes: Vec<u8>,
    admitted: Admitted,
    spare: Option<Spare>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(spare) = &self.spare {
            let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.is_none() {
                *spare = Some((std::mem::take(&mut self.bytes), std::mem::replace(&mut self.admitted, Admitted::none())));
            }
        }
    }
}

/// Fills packs until `frames` ends, then closes what is open and waits for the last receipt.
pub async fn run(
    env: &Env,
    keyring: &Arc<Keyring>,
    fanout: &Fanout,
    filling: Filling,
    (known, drain): (&Known, &Drain),
    mut frames: mpsc::Receiver<ToPack>,
    packed: mpsc::Sender<Packed>,
) -> Result<(), RepositoryError> {
    // [data, meta] x [for all, for those that lack]
    let mut open: [Option<Open>; 4] = [None, None, None, None];
    let mut uploading = FuturesUnordered::new();
    let gone = |_| RepositoryError::new(Fault::Failed, "the publisher stopped early");
    let kept = Spare::default();
    let spare = |slot: usize| (filling.keeps && slot < 2).then(|| kept.clone());
    let mut times = 1;
    loop {
        let next = tokio::select! {
            biased;
            Some((entry, have)) = uploading.next(), if !uploading.is_empty() => {
                packed.send(Packed::Done(entry, have)).await.map_err(gone)?;
                continue;
            }
            () = drain.asked(SEND_EVERY * times) => {
                times += 1;
                for (slot, pack) in open.iter_mut().enumerate() {
                    if let Some(pack) = pack.take() {
                        uploading.push(finish(env, keyring, fanout, pack, spare(slot)).await?);
                    }
                }
                continue;
            }
            next = frames.recv() => next,
        };
        let barrier = match next {
            Some(ToPack::Frame(frame)) => {
                let all = fanout.alive();
                let data = frame.kind == Kind::Data;
                let slot = usize::from(!data) * 2 + usize::from(!frame.to.covers(all));
                let target = if data { filling.data } else { filling.meta };
                // Its record counts: of very many tiny chunks, the trailer is longer than the frames.
                let adds = frame.bytes.len() + RECORD * frame.chunks.len();
                let full = |pack: &Open| {
                    pack.builder.stored() + adds > target || (pack.chunks > 0 && pack.chunks + frame.chunks.len() > CHUNKS_MAX)
                };
                if open[slot].as_ref().is_some_and(full)
                    && let Some(full) = open[slot].take()
                {
                    uploading.push(finish(env, keyring, fanout, full, spare(slot)).await?);
                }
                let pack = match &mut open[slot] {
                    Some(pack) => pack,
                    empty => empty.insert(Open::new(env, data, target.max(frame.bytes.len()), spare(slot))),
                };
                pack.builder
                    .append(&frame.bytes, frame.shape, &frame.chunks)
                    .map_err(|e| RepositoryError::caused(Fault::Failed, "could not add a frame to a pack", e))?;
                pack.chunks += frame.chunks.len();
                known.sent(&frame.chunks);
                pack.to = pack.to.or(frame.to);
                pack.admitted.merge(frame.admitted);
                drop(frame.bytes);
                pack.admitted.shrink((pack.builder.stored() as u64).max(pack.before));
                let held = |pack: &Option<Open>| pack.as_ref().map_or(0, |pack| pack.admitted.bytes());
                if open.iter().map(held).sum::<u64>() > filling.open
                    && let Some(fullest) = (0..open.len()).max_by_key(|slot| held(&open[*slot]))
                    && let Some(pack) = open[fullest].take()
                {
                    uploading.push(finish(env, keyring, fanout, pack, spare(fullest)).await?);
                }
                continue;
            }
            Some(ToPack::Barrier(answer)) => Some(answer),
            None => None,
        };
        for (slot, pack) in open.iter_mut().enumerate() {
            if let Some(pack) = pack.take() {
                uploading.push(finish(env, keyring, fanout, pack, spare(slot)).await?);
            }
        }
        while let Some((entry, have)) = uploading.next().await {
            packed.send(Packed::Done(entry, have)).await.map_err(gone)?;
        }
        match barrier {
            Some(answer) => packed.send(Packed::Barrier(answer)).await.map_err(gone)?,
            None => return Ok(()),
        }
    }
}

impl Open {
    fn new(env: &Env, data: bool, length: usize, spare: Option<Spare>) -> Open {
        let kind = if data { PackKind::Data } else { PackKind::Meta };
        let kept = spare.and_then(|spare| spare.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (buffer, admitted) = kept.unwrap_or_else(|| (buffer(length + ROOM), Admitted::none()));
        let before = admitted.bytes();
        Open { builder: PackBuilder::within(kind, env.entropy(), buffer), chunks: 0, to: Mask::default(), admitted, before }
    }
}

/// Closes a pack and starts its upload; the future says where it arrived.
async fn finish(
    env: &Env,
    keyring: &Arc<Keyring>,
    fanout: &Fanout,
    pack: Open,
    spare: Option<Spare>,
) -> Result<impl Future<Output = (PackEntry, Mask)> + use<>, RepositoryError> {
    let (keys, entropy) = (keyring.clone(), env.entropy());
    let Open { builder, to, admitted, .. } = pack;
    let finished = env.cpu(move || builder.finish(&keys.keys.index, &keys.repository_id, entropy)).await;
    let class = if finished.entry.kind() == PackKind::Data { Class::DataPack } else { Class::MetaPack };
    let (name, entry) = (layout::hashed(class, &finished.hash), finished.entry);
    let bytes = Bytes::from_owner(Buffer { bytes: finished.bytes, admitted, spare });
    let answer = fanout.send(&name, &bytes, to);
    Ok(async move { (entry, answer.await.unwrap_or_default()) })
}
