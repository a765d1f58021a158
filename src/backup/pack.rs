//! The stage that fills packs and hands them to the fan-out.
//!
//! Frames come in any order; what must be kept in order (the catalog) names chunks, not places. At most two packs are
//! open per kind: one for all participating replicas, one for those that lack what others have.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use crate::backup::budget::Admitted;
use crate::backup::known::Known;
use crate::backup::seal::Frame;
use crate::clock::Env;
use crate::format::index::PackEntry;
use crate::format::pack::{PackBuilder, PackKind};
use crate::replica::Mask;
use crate::replica::write::Fanout;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keyring::Keyring;
use crate::repository::layout::{self, Class};
use crate::seal::Kind;

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
    to: Mask,
    admitted: Admitted,
}

/// Fills packs until `frames` ends, then closes what is open and waits for the last receipt.
pub async fn run(
    env: &Env,
    keyring: &Arc<Keyring>,
    fanout: &Fanout,
    targets: (u32, u32),
    known: &Known,
    mut frames: mpsc::Receiver<ToPack>,
    packed: mpsc::Sender<Packed>,
) -> Result<(), RepositoryError> {
    // [data, meta] x [for all, for those that lack]
    let mut open: [Option<Open>; 4] = [None, None, None, None];
    let mut uploading = FuturesUnordered::new();
    let gone = |_| RepositoryError::new(Fault::Failed, "the publisher stopped early");
    loop {
        let next = tokio::select! {
            biased;
            Some((entry, have)) = uploading.next(), if !uploading.is_empty() => {
                packed.send(Packed::Done(entry, have)).await.map_err(gone)?;
                continue;
            }
            next = frames.recv() => next,
        };
        let barrier = match next {
            Some(ToPack::Frame(frame)) => {
                let all = fanout.alive();
                let data = frame.kind == Kind::Data;
                let slot = usize::from(!data) * 2 + usize::from(!frame.to.covers(all));
                let target = if data { targets.0 } else { targets.1 } as usize;
                // A pack of very many tiny frames holds far more of the budget than it has bytes: it must not hold all of it.
                let most = (target + target / 16) as u64;
                let is_full =
                    |o: &Open| o.builder.len() + frame.bytes.len() > target || o.admitted.bytes() + frame.admitted.bytes() > most;
                if open[slot].as_ref().is_some_and(is_full)
                    && let Some(full) = open[slot].take()
                {
                    uploading.push(finish(env, keyring, fanout, full).await?);
                }
                let pack = match &mut open[slot] {
                    Some(pack) => pack,
                    empty => empty.insert(Open {
                        builder: PackBuilder::new(
                            if data { PackKind::Data } else { PackKind::Meta },
                            env.random(),
                            target.max(frame.bytes.len()),
                        ),
                        to: Mask::default(),
                        admitted: Admitted::none(),
                    }),
                };
                pack.builder
                    .append(&frame.bytes, frame.shape, &frame.chunks)
                    .map_err(|e| RepositoryError::caused(Fault::Failed, "could not add a frame to a pack", e))?;
                known.sent(&frame.chunks);
                pack.to = pack.to.or(frame.to);
                pack.admitted.merge(frame.admitted);
                continue;
            }
            Some(ToPack::Barrier(answer)) => Some(answer),
            None => None,
        };
        for slot in &mut open {
            if let Some(pack) = slot.take() {
                uploading.push(finish(env, keyring, fanout, pack).await?);
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

/// Closes a pack and starts its upload; the future says where it arrived.
async fn finish(
    env: &Env,
    keyring: &Arc<Keyring>,
    fanout: &Fanout,
    pack: Open,
) -> Result<impl Future<Output = (PackEntry, Mask)> + use<>, RepositoryError> {
    let (keys, entropy) = (keyring.clone(), env.random());
    let Open { builder, to, admitted } = pack;
    let finished = env.cpu(move || builder.finish(&keys.keys.index, &keys.repository_id, entropy)).await;
    let class = if finished.entry.kind() == PackKind::Data { Class::DataPack } else { Class::MetaPack };
    let answer = fanout.send(&layout::hashed(class, &finished.hash), &finished.bytes, to, admitted);
    let entry = finished.entry;
    Ok(async move { (entry, answer.await.unwrap_or_default()) })
}
