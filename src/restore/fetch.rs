//! Content into open files: what stands there already is left alone, the rest is read in few requests, several at a time,
//! verified, and written at its offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::chunk::id::ChunkId;
use crate::progress::Stop;
use crate::repository::Repository;
use crate::repository::reader::Wanted;
use crate::restore::RestoreError;
use crate::restore::content::{Run, Runs};
use crate::restore::item::{Fate, Item};
use crate::restore::place::Placer;
use crate::restore::plan::{FrameRead, Need, Read, Write, plan};
use crate::restore::tally::told;
use crate::restore::walk::Placed;

/// Reads under way at once.
const READS: usize = 12;
/// Bytes that are compared in one go.
const COMPARED: u64 = 4 << 20;
/// Runs of a copy that are worked on in one go.
const RUNS: usize = 4096;
/// Bytes per permit.
const UNIT: u64 = 1024;

/// What the stages share.
pub struct Work<'r> {
    /// Where content comes from.
    pub repository: &'r Repository,
    /// Where it goes.
    pub placer: Placer,
    /// Whether to stop.
    pub stop: Stop,
    /// Bytes in flight.
    pub budget: Arc<Semaphore>,
    /// The whole budget, in permits.
    pub units: u32,
}

impl<'r> Work<'r> {
    /// Work with a budget of `memory` bytes.
    pub fn new(repository: &'r Repository, placer: Placer, stop: &Stop, memory: u64) -> Work<'r> {
        let units = u32::try_from(memory / UNIT).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS.min(1 << 31) as u32);
        Work { repository, placer, stop: stop.clone(), budget: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` fit. More than the whole budget is admitted as the whole budget.
    async fn admit(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        self.budget.clone().acquire_many_owned(units).await.expect("the budget is never closed")
    }

    /// Whether to go on.
    pub fn goes_on(&self) -> Result<(), RestoreError> {
        if let Some(why) = self.placer.tally.fatal() {
            return Err(RestoreError::Target(why));
        }
        if self.stop.requested() { Err(RestoreError::Interrupted) } else { Ok(()) }
    }

    /// Puts runs into their files.
    pub async fn content(&self, mut runs: Vec<Placed>) -> Result<(), RestoreError> {
        let tally = &self.placer.tally;
        runs.retain(|run| run.item.takes_content());
        let same = self.same(&runs).await;
        let mut at = 0;
        runs.retain(|run| {
            at += 1;
            if same[at - 1] {
                tally.progress.bytes.add(run.length);
            }
            !same[at - 1]
        });
        if self.placer.dry_run {
            for run in &runs {
                run.item.set_differs();
            }
            let bytes: u64 = runs.iter().filter(|run| run.id.is_some()).map(|run| run.length).sum();
            tally.with(|report| report.bytes_written += bytes);
            tally.progress.bytes.add(runs.iter().map(|run| run.length).sum());
            return Ok(());
        }
        let holes = runs.extract_if(.., |run| run.id.is_none()).collect();
        self.holes(holes).await;
        let (items, needs) = self.needs(&runs).await?;
        drop(runs);
        let planned = plan(needs);
        for Write { id, file, offset, length, .. } in planned.lost {
            let part = Some((offset, u64::from(length)));
            items[file as usize].lose(tally, part, || format!("chunk {id} is in no pack that can be read"));
        }
        let items = &items;
        stream::iter(planned.reads).for_each_concurrent(READS, |read| async move { self.read(read, items).await }).await;
        self.goes_on()
    }

    async fn needs(&self, runs: &[Placed]) -> Result<(Vec<Arc<Item>>, Vec<Need>), RestoreError> {
        let ids: Vec<ChunkId> = runs.iter().filter_map(|run| run.id).collect();
        let places = self.repository.places(&ids).await?;
        let mut items: Vec<Arc<Item>> = Vec::new();
        let mut needs = Vec::with_capacity(runs.len());
        for ((run, id), places) in runs.iter().filter_map(|run| Some((run, run.id?))).zip(places) {
            if !items.last().is_some_and(|last| Arc::ptr_eq(last, &run.item)) {
                items.push(run.item.clone());
            }
            let Ok(length) = u32::try_from(run.length) else { continue };
            needs.push(Need { file: (items.len() - 1) as u32, offset: run.offset, id, length, places });
        }
        Ok((items, needs))
    }

    async fn holes(&self, holes: Vec<Placed>) {
        if holes.is_empty() {
            return;
        }
        let placer = self.placer.clone();
        self.repository
            .env
            .blocking(move || {
                for run in holes {
                    if let Some(Err(e)) = run.item.with_writer(|w| w.hole(run.offset, run.length)) {
                        run.item.refuse(&placer.tally, &e);
                    }
                    placer.tally.progress.bytes.add(run.length);
                }
            })
            .await;
    }

    /// For each run, whether it stands in its file already.
    pub async fn same(&self, runs: &[Placed]) -> Vec<bool> {
        let mut same = vec![false; runs.len()];
        let mut batches: Vec<Vec<(usize, Placed)>> = Vec::new();
        let mut bytes = COMPARED;
        for (at, run) in runs.iter().enumerate() {
            if run.item.with_writer(|w| w.is_new()).unwrap_or(true) {
                continue;
            }
            let own = if run.id.is_some() { run.length } else { 0 };
            bytes += own;
            match batches.last_mut() {
                Some(batch) if bytes <= COMPARED => batch.push((at, run.clone())),
                _ => {
                    bytes = own;
                    batches.push(vec![(at, run.clone())]);
                }
            }
        }
        let mut found =
            stream::iter(batches).map(|batch| self.same_batch(batch)).buffer_unordered(self.repository.env.threads() + 1);
        while let Some(batch) = found.next().await {
            batch.into_iter().for_each(|at| same[at] = true);
        }
        same
    }

    /// Of a batch, the numbers of those runs that stand already.
    async fn same_batch(&self, batch: Vec<(usize, Placed)>) -> Vec<usize> {
        if self.stop.requested() {
            return Vec::new();
        }
        let bytes = batch.iter().filter(|(_, run)| run.id.is_some()).map(|(_, run)| run.length).sum();
        let admitted = self.admit(bytes).await;
        let env = &self.repository.env;
        let (mut same, read) = env
            .blocking(move || {
                let (mut zeros, mut read) = (Vec::new(), Vec::new());
                for (at, run) in batch {
                    let Some(id) = run.id else {
                        let is_hole = run.item.with_writer(|w| w.reads_as_zeros(run.offset, run.length));
                        zeros.extend(is_hole.and_then(Result::ok).filter(|yes| *yes).map(|_| at));
                        continue;
                    };
                    let mut there = vec![0; usize::try_from(run.length).unwrap_or(0)];
                    // What cannot be read is written; that will say what is wrong.
                    if run.item.with_writer(|w| w.read_at(run.offset, &mut there)).is_some_and(|n| n.ok() == Some(there.len())) {
                        read.push((at, id, there));
                    }
                }
                (zeros, read)
            })
            .await;
        let id_key = self.repository.keyring.id_key.clone();
        let hashed =
            move || read.into_iter().filter(|(_, id, there)| id_key.id(there) == *id).map(|(at, ..)| at).collect::<Vec<_>>();
        same.extend(env.cpu(hashed).await);
        drop(admitted);
        same
    }

    /// Carries out one read, and whatever it takes if it fails.
    async fn read(&self, read: Read, items: &[Arc<Item>]) {
        let _admitted = self.admit(read.memory()).await;
        if self.goes_on().is_err() {
            return;
        }
        let frames: Vec<_> = read.frames.iter().map(|frame| (frame.place, wanted(&frame.writes))).collect();
        let plains = self.repository.frames(&frames).await;
        let mut writes = Vec::new();
        for (frame, plain) in read.frames.into_iter().zip(plains) {
            match plain {
                Some(plain) => {
                    writes.extend(frame.writes.into_iter().map(|w| {
                        let bytes = plain.slice(w.from as usize..w.from as usize + w.length as usize);
                        (items[w.file as usize].clone(), w.offset, bytes)
                    }));
                }
                None => self.elsewhere(frame, items, &mut writes).await,
            }
        }
        self.write(writes).await;
    }

    /// The chunks of a frame that no replica gives, from other packs that hold them.
    async fn elsewhere(&self, frame: FrameRead, items: &[Arc<Item>], out: &mut Vec<(Arc<Item>, u64, Bytes)>) {
        let mut had: BTreeMap<ChunkId, Option<Bytes>> = BTreeMap::new();
        for write in frame.writes {
            if let std::collections::btree_map::Entry::Vacant(empty) = had.entry(write.id) {
                empty.insert(self.in_another_place(&write, frame.place.frame).await);
            }
            let item = &items[write.file as usize];
            match had.get(&write.id).and_then(Clone::clone) {
                Some(bytes) => out.push((item.clone(), write.offset, bytes)),
                None => {
                    let Write { id, offset, length, .. } = write;
                    item.lose(&self.placer.tally, Some((offset, u64::from(length))), || {
                        format!("{length} bytes at {offset} could not be had: chunk {id} is damaged or missing wherever it lies")
                    });
                }
            }
        }
    }

    async fn in_another_place(&self, write: &Write, not: u32) -> Option<Bytes> {
        let places = self.repository.places(&[write.id]).await.ok()?.pop()?;
        for place in places.into_iter().filter(|p| p.frame != not && p.length == write.length) {
            let wanted = [Wanted { id: write.id, offset: place.offset, length: place.length }];
            if let Some(plain) = self.repository.frame(&place, &wanted).await {
                return Some(plain.slice(place.offset as usize..place.offset as usize + place.length as usize));
            }
        }
        None
    }

    async fn write(&self, writes: Vec<(Arc<Item>, u64, Bytes)>) {
        let placer = self.placer.clone();
        self.repository
            .env
            .blocking(move || {
                let mut written = 0;
                for (item, offset, bytes) in writes {
                    match item.with_writer(|w| w.write_at(offset, &bytes)) {
                        Some(Ok(())) => written += bytes.len() as u64,
                        Some(Err(e)) => item.refuse(&placer.tally, &e),
                        None => {}
                    }
                }
                placer.tally.progress.bytes.add(written);
                placer.tally.with(|report| report.bytes_written += written);
            })
            .await;
    }

    /// Whether a file stands as it should, under several names; it is then left as it is, and else replaced.
    pub async fn share(&self, item: &Arc<Item>) -> Result<(), RestoreError> {
        let (placer, own) = (self.placer.clone(), item.clone());
        let open = move || {
            let target = placer.target.as_ref()?;
            own.exchange_writer(Some(target.open_to_compare(&own.key, own.entry.size).ok()??));
            Some(())
        };
        let mut stands = self.repository.env.blocking(open).await.is_some();
        if stands {
            stands = self.stands(item).await?;
        }
        let (placer, own) = (self.placer.clone(), item.clone());
        self.repository
            .env
            .blocking(move || {
                own.exchange_writer(None);
                if stands {
                    own.set(Fate::Standing(crate::restore::target::Outcome::Unchanged));
                    placer.tally.progress.bytes.add(own.entry.size);
                } else {
                    placer.item(&own, false);
                }
            })
            .await;
        Ok(())
    }

    async fn stands(&self, item: &Arc<Item>) -> Result<bool, RestoreError> {
        let Ok(mut runs) = Runs::of(self.repository, &item.entry) else { return Ok(false) };
        loop {
            self.goes_on()?;
            let Some((batch, _)) = self.some_runs(item, &mut runs).await else { return Ok(false) };
            if batch.is_empty() {
                return Ok(true);
            }
            // An empty file has nothing to compare, and was compared by its size.
            if self.same(&batch).await.contains(&false) {
                return Ok(false);
            }
        }
    }

    /// The next runs of a file, and those that are lost among them (offset, length, why); `None`: its content list cannot be
    /// read on.
    async fn some_runs(&self, item: &Arc<Item>, runs: &mut Runs<'_>) -> Option<(Vec<Placed>, Vec<(u64, u64, String)>)> {
        let (mut batch, mut lost) = (Vec::new(), Vec::new());
        while batch.len() < RUNS {
            let (offset, length, id) = match runs.next().await.ok()? {
                None => break,
                Some((offset, Run::Chunk(id, length))) => (offset, u64::from(length), Some(id)),
                Some((offset, Run::Hole(length))) => (offset, length, None),
                Some((offset, Run::Lost(length, why))) => {
                    lost.push((offset, length, why));
                    continue;
                }
            };
            batch.push(Placed { item: item.clone(), offset, length, id });
        }
        Some((batch, lost))
    }

    /// Restores an item on its own.
    pub async fn copy(&self, item: &Arc<Item>) -> Result<(), RestoreError> {
        let (placer, own) = (self.placer.clone(), item.clone());
        self.repository.env.blocking(move || placer.item(&own, false)).await;
        let mut runs = match Runs::of(self.repository, &item.entry) {
            Ok(runs) => runs,
            Err(e) => {
                item.lose(&self.placer.tally, None, || told(&e));
                return Ok(());
            }
        };
        while item.takes_content() {
            let Some((batch, lost)) = self.some_runs(item, &mut runs).await else {
                item.lose(&self.placer.tally, None, || "its content list cannot be read".into());
                break;
            };
            for (offset, length, why) in lost {
                let part = Some((offset, length));
                item.lose(&self.placer.tally, part, || format!("{length} bytes at {offset} could not be had: {why}"));
            }
            if batch.is_empty() {
                break;
            }
            self.content(batch).await?;
        }
        Ok(())
    }
}

/// The chunks wanted of a frame, each once.
fn wanted(writes: &[Write]) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = writes.iter().map(|w| Wanted { id: w.id, offset: w.from, length: w.length }).collect();
    all.sort_by_key(|w| (w.offset, w.length, w.id));
    all.dedup_by_key(|w| (w.offset, w.length, w.id));
    all
}
