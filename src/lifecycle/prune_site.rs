//! A prune at one replica, step by step; whenever others overtake it, from the top.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::{Planted, Time};
use crate::format::Hash;
use crate::format::record::ObjectClass;
use crate::lifecycle::dispute::{all_answer, dispute, in_words};
use crate::lifecycle::doubt::{self, doubtful};
use crate::lifecycle::heal::HealError;
use crate::lifecycle::inventory::{Inventory, pack_class};
use crate::lifecycle::live::Live;
use crate::lifecycle::prune::{PruneError, PruneSettings, ReplicaPruned, Requests, Tally};
use crate::lifecycle::prune_plan::{Fate, FrameFacts, PackFacts, Plan, Why, plan};
use crate::lifecycle::prune_proof::Proof;
use crate::lifecycle::repack::Repack;
use crate::lifecycle::{compact, delete};
use crate::progress::{Progress, Stop};
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::condemned::{CondemnFault, Names};
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::footing::Footing;
use crate::repository::layout;
use crate::repository::state::Live as Root;

/// How often a prune that was overtaken plans again.
const PLANS_MAX: usize = 6;
/// How often a plan that stands is looked at again because others published or committed meanwhile.
const LOOKS_MAX: usize = 50;
/// The kind of note with which a prune asks a store for its time.
pub const NOTE_PRUNE: &str = "prune";

/// One replica's prune.
pub struct Site<'r> {
    repository: &'r Repository,
    settings: &'r PruneSettings,
    replica: usize,
    progress: &'r Progress,
    stop: &'r Stop,
    /// The store's time, where it was asked for it.
    told_time: Option<Time>,
    /// What came of it.
    pub report: ReplicaPruned,
    /// What is worth saying.
    pub notes: Vec<String>,
}

/// What is to be done.
struct Work {
    plan: Plan,
    orphans: Names,
    /// Objects that nothing needs and that are too young to go.
    young: u64,
    /// Whether something would go if it were older.
    waits: bool,
}

impl<'r> Site<'r> {
    /// Nothing done yet.
    pub fn new(
        repository: &'r Repository,
        settings: &'r PruneSettings,
        replica: usize,
        progress: &'r Progress,
        stop: &'r Stop,
    ) -> Site<'r> {
        let (report, notes) = (ReplicaPruned::default(), Vec::new());
        Site { repository, settings, replica, progress, stop, told_time: None, report, notes }
    }

    /// Prunes the replica.
    pub async fn run(&mut self) -> Result<(), PruneError> {
        let mut live = Live::new(self.repository, self.replica, self.progress, self.stop).await?;
        let mut inventory: Option<Inventory> = None;
        let mut overtaken = String::new();
        for _ in 0..PLANS_MAX {
            match self.attempt(&mut live, &mut inventory).await {
                Err(PruneError::Overtaken(why)) => overtaken = why,
                done => return done,
            }
        }
        Err(PruneError::Overtaken(overtaken))
    }

    /// The snapshots that keep what they reach: those of the log, whatever a listing shows.
    fn roots<'f>(&self, footing: &'f Footing, seen: &Inventory) -> Cow<'f, BTreeMap<Hash, Root>> {
        if !self.repository.env.makes(Planted::ListedRoots) {
            return Cow::Borrowed(&footing.snapshots);
        }
        let listed = |live: &Root| seen.objects.contains_key(&(ObjectClass::Snapshot, live.object));
        Cow::Owned(footing.snapshots.iter().filter(|(_, live)| listed(live)).map(|(id, live)| (*id, *live)).collect())
    }

    /// From the top: what is live and listed already stays so.
    async fn attempt(&mut self, live: &mut Live<'r>, inventory: &mut Option<Inventory>) -> Result<(), PruneError> {
        self.going_on()?;
        let mut footing = self.stand().await?;
        let seen = match inventory {
            Some(seen) => seen,
            None => inventory.insert(Inventory::take(self.repository, self.replica, footing.epoch, self.stop).await?),
        };
        if let Some(last) = seen.slots.keys().next_back().copied().filter(|last| *last > footing.slot) {
            // Others wrote meanwhile, or what lies before it was taken away, and what it says is not known here.
            footing = self.stand().await?;
            let (site, name) = (&self.repository.set.replicas[self.replica], layout::slot(footing.epoch, last));
            if last > footing.slot && site.store.stat(&name).await.map_err(RepositoryError::from)?.is_some() {
                let (slot, advice) = (footing.slot, format!("run `holdfast repair log {}`", site.name));
                let why = format!("store {}: {name} is there although its log ends at slot {slot}: {advice}", site.name);
                return Err(RepositoryError::new(Fault::Rollback, why).into());
            }
        }
        let unsound = seen.unsound(self.repository, self.replica).await?;
        let mut damage = self.distrust(unsound).await?;
        live.extend(&self.roots(&footing, seen)).await?;
        damage |= self.distrust(Vec::new()).await?;
        if damage {
            footing = self.stand().await?;
            live.extend(&self.roots(&footing, seen)).await?;
        }
        let work = self.work(&mut footing, seen).await?;
        self.tell(&work, seen).await?;
        if work.plan.going().next().is_some() || !work.orphans.is_empty() {
            self.nothing_is_at_stake(&work).await?;
        }
        if self.settings.dry_run {
            return self.foretell(&work, seen).await;
        }
        self.carry_out(&work, &footing, seen).await?;
        self.clear(seen).await
    }

    /// What the log says now; in a dry run without what is to count as forgotten.
    async fn stand(&self) -> Result<Footing, PruneError> {
        let (mut footing, _) = self.repository.stand(self.replica).await?;
        let gone = &self.settings.forgotten;
        if self.settings.dry_run && !gone.is_empty() {
            // A replica that lacks what stays gives nothing up.
            let live = self.repository.live().await;
            if live.iter().all(|one| gone.contains(&one.id) || one.mask.has(self.replica)) {
                footing.snapshots.retain(|id, _| !gone.contains(id));
            }
        }
        Ok(footing)
    }

    fn going_on(&self) -> Result<(), PruneError> {
        if self.stop.requested() { Err(PruneError::Interrupted) } else { Ok(()) }
    }

    /// Records packs that are not there at their right size, and damage that reads met; whether there was any.
    async fn distrust(&mut self, packs: Vec<Hash>) -> Result<bool, PruneError> {
        if self.settings.dry_run {
            let index = self.repository.index().await?;
            let mut chunks = index.write().expect("no panic while the index is locked");
            packs.iter().for_each(|pack| chunks.distrust(self.replica, pack, true));
            return Ok(false);
        }
        let (name, any) = (&self.repository.set.replicas[self.replica].name, !packs.is_empty());
        if any {
            let count = packs.len();
            let new = self.repository.distrust(self.replica, packs).await?;
            self.notes
                .push(format!("store {name}: {count} packs are missing or cut short, {new} of them are distrusted from now on"));
        }
        let met = self.repository.record_distrust(None).await;
        let any = any || !met.is_empty();
        self.notes.extend(met);
        Ok(any)
    }

    /// The plan. Asks the store for its time where ages decide something.
    async fn work(&mut self, footing: &mut Footing, seen: &mut Inventory) -> Result<Work, PruneError> {
        if self.settings.mercy.is_zero() {
            seen.spare(Time(0), Duration::ZERO);
            return self.plan(footing, seen).await;
        }
        let now = match self.told_time {
            Some(now) => now,
            None => self.written(footing).await?,
        };
        seen.spare(now, self.settings.mercy);
        let work = self.plan(footing, seen).await?;
        let (_, deleted) = delete::due(self.repository, self.replica, seen).await?;
        if self.settings.dry_run || self.told_time.is_some() || !work.waits && deleted.waiting == 0 {
            return Ok(work);
        }
        // The last slot may be old. A new one tells the store's time: what that makes of ages is never too much.
        let (site, patience) = (&self.repository.set.replicas[self.replica], self.repository.set.settings.stall);
        let note = self.repository.note(self.replica, NOTE_PRUNE, "asks the store for its time".to_owned());
        let noted = while_it_answers(&self.repository.env, site, patience, "writing to its log", note).await;
        noted.map_err(RepositoryError::from).and_then(|noted| noted)?;
        let (later, _) = self.repository.stand(self.replica).await?;
        let now = self.written(&later).await?;
        self.told_time = Some(now);
        if footing.overtaken_by(&later).is_some() {
            return Err(PruneError::Overtaken("others wrote to the log".into()));
        }
        *footing = later;
        seen.spare(now, self.settings.mercy);
        self.plan(footing, seen).await
    }

    /// When the store wrote the last slot, by its own clock: never later than its now.
    async fn written(&self, footing: &Footing) -> Result<Time, PruneError> {
        let (site, name) = (&self.repository.set.replicas[self.replica], layout::slot(footing.epoch, footing.slot));
        match site.store.stat(&name).await.map_err(RepositoryError::from)? {
            Some(info) => Ok(info.modified),
            None => {
                let why = format!("store {}: {name} is missing although it was read before", site.name);
                Err(RepositoryError::new(Fault::Rollback, why).into())
            }
        }
    }

    async fn plan(&self, footing: &Footing, seen: &Inventory) -> Result<Work, PruneError> {
        let index = self.repository.index().await?;
        let (orphans, young) = seen.orphans(self.repository, self.replica, footing).await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let facts = |pack: &crate::repository::chunk_index::PackRow| PackFacts {
            size: pack.size,
            here: pack.published.has(self.replica),
            distrusted: pack.distrusted.has(self.replica),
            young: seen.objects.get(&(pack_class(pack), pack.hash)).is_some_and(|object| seen.is_young(object)),
        };
        let packs: Vec<PackFacts> = chunks.packs().iter().map(facts).collect();
        let frame = |number: u32| {
            let frame = chunks.frame(number);
            FrameFacts { pack: frame.pack, stored: frame.stored, plain: frame.plain }
        };
        let visit = |visit: &mut dyn FnMut(u32, &[u32])| chunks.marked(self.replica, visit);
        let plan = plan(&packs, chunks.frames(), &frame, &visit, &self.settings.limits);
        if plan.lost > 0 {
            let why = format!("{} live chunks are in no pack that the log relies on: run `holdfast heal`", plan.lost);
            return Err(RepositoryError::new(Fault::Integrity, why).into());
        }
        let waits = young > 0 || plan.fates.contains(&Some(Fate::Keep(Why::Young)));
        Ok(Work { plan, orphans, young, waits })
    }

    /// Whether what goes may be all that is left of something: then nothing is condemned. The same for a dry run.
    async fn nothing_is_at_stake(&self, work: &Work) -> Result<(), PruneError> {
        // What no replica has whole may have its last pieces here, be it a root of this log or not.
        let live = self.repository.live().await;
        let doubtful = doubtful(self.repository, self.stop).await.map_err(|e| match e {
            HealError::Repository(e) => PruneError::from(e),
            _ => PruneError::Interrupted,
        })?;
        if let Some(lost) = live.iter().find(|live| doubt::of(&doubtful, &live.id).covers(live.mask)) {
            let id = hex::encode(&lost.id[..4]);
            let why = match self.repository.set.closed.is_empty() && self.repository.readable().covers(self.repository.set.all())
            {
                true => format!(
                    "snapshot {id} is whole nowhere, so nothing was condemned: `holdfast heal` brings back what can be had, `holdfast \
                     undelete` what was forgotten, and `holdfast forget` gives it up"
                ),
                false => format!(
                    "snapshot {id} is whole at no store that answers, so nothing was condemned: run `holdfast heal` when all answer"
                ),
            };
            return Err(RepositoryError::new(Fault::Integrity, why).into());
        }
        // What some log forgot and another still stands on is in dispute: its copies here may be the better ones.
        let disputed = dispute(self.repository, &[self.settings.group_by], &self.settings.forgotten, &doubtful).await?;
        if !disputed.is_empty() {
            let why = format!("nothing was condemned: {}", in_words(disputed.keys(), all_answer(self.repository)));
            return Err(RepositoryError::new(Fault::Refused, why).into());
        }
        // What is forgotten was forgotten for what stays. Where that turns out to be damaged, the former may be all that is left.
        if work.plan.fates.contains(&Some(Fate::Keep(Why::Damaged))) {
            let why = "something live lies in damaged packs alone, so nothing was condemned: `holdfast heal` brings back what can be \
                       had, the next backup what its source still has, `holdfast undelete` what was forgotten; what is lost for good \
                       goes by `holdfast forget` and its name";
            return Err(RepositoryError::new(Fault::Integrity, why).into());
        }
        Ok(())
    }

    /// Moves, proves, condemns.
    async fn carry_out(&mut self, work: &Work, planned: &Footing, seen: &Inventory) -> Result<(), PruneError> {
        let going: BTreeSet<u32> = work.plan.going().collect();
        if going.is_empty() && work.orphans.is_empty() {
            return Ok(());
        }
        if !work.plan.moves.is_empty() {
            self.progress.items_total.add(work.plan.moves.len() as u64);
            let (plan, progress) = (&work.plan, self.progress);
            let moved = Repack::new(self.repository, self.settings, self.replica, plan, progress, self.stop).run().await?;
            self.report.made.objects += moved.packs;
            self.report.made.bytes += moved.bytes;
        }
        self.going_on()?;
        let damaged = self.damaged().await?;
        let (mut footing, fresh) = self.repository.stand(self.replica).await?;
        if let Some(why) = planned.upset_by(&footing) {
            return Err(PruneError::Overtaken(why.into()));
        }
        // Whatever was published since is left alone.
        let mut changed = !fresh.is_empty() || footing.snapshots.len() > planned.snapshots.len();
        let mut proof = Proof::new(self.repository, self.replica, going, self.stop).await?;
        proof.spare(&fresh);
        for _ in 0..LOOKS_MAX {
            // Where no pack goes, no chunk can lose its place.
            let proven = if proof.going().is_empty() { Ok(()) } else { proof.extend(&self.roots(&footing, seen)).await? };
            if let Err(refuted) = proven {
                let (chunk, id) = (refuted.chunk, hex::encode(refuted.snapshot));
                let why = format!("chunk {chunk} of snapshot {id}: {}", refuted.why);
                if changed || self.damaged().await? != damaged {
                    return Err(PruneError::Overtaken(why));
                }
                let why = format!("the plan does not stand its proof, nothing was condemned: {why}");
                return Err(RepositoryError::new(Fault::Integrity, why).into());
            }
            if self.damaged().await? != damaged {
                return Err(PruneError::Overtaken("packs were found damaged".into()));
            }
            self.going_on()?;
            let names = self.names(&proof, work, &footing).await?;
            let count: usize = names.values().map(BTreeSet::len).sum();
            if count == 0 {
                return Ok(());
            }
            let (site, patience) = (&self.repository.set.replicas[self.replica], self.repository.set.settings.stall);
            let condemn = self.repository.condemn(self.replica, &footing, &names);
            match while_it_answers(&self.repository.env, site, patience, "condemning in its log", condemn).await {
                Err(e) => return Err(RepositoryError::from(e).into()),
                Ok(Err(CondemnFault::Repository(e))) => return Err(e.into()),
                Ok(Ok(())) => {
                    self.report.condemned += count as u64;
                    return Ok(());
                }
                Ok(Err(CondemnFault::Overtaken(_))) => {}
            }
            let (later, fresh) = self.repository.stand(self.replica).await?;
            if let Some(why) = footing.upset_by(&later) {
                return Err(PruneError::Overtaken(why.into()));
            }
            proof.spare(&fresh);
            (footing, changed) = (later, true);
        }
        Err(PruneError::Overtaken("others kept writing to the log".into()))
    }

    /// The packs that are not to be relied on, be it only by what this process met.
    async fn damaged(&self) -> Result<BTreeSet<Hash>, PruneError> {
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let bad = chunks.packs().iter().filter(|pack| pack.distrusted.has(self.replica) && pack.published.has(self.replica));
        Ok(bad.map(|pack| pack.hash).collect())
    }

    /// Everything that is to be condemned: what is proven to go, and orphans that are still none of the log's.
    async fn names(&self, proof: &Proof<'_>, work: &Work, footing: &Footing) -> Result<Names, PruneError> {
        let lists = self.repository.log(self.replica).await.map(|log| log.named_lists()).unwrap_or_default();
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let live: BTreeSet<Hash> = footing.snapshots.values().map(|live| live.object).collect();
        let mut names = work.orphans.clone();
        for hashes in names.values_mut() {
            hashes.retain(|hash| {
                let published = chunks.pack_number(hash).is_some_and(|number| chunks.pack(number).published.has(self.replica));
                !published && !footing.segments.contains(hash) && !live.contains(hash) && !lists.contains(hash)
            });
        }
        for number in proof.going() {
            let pack = chunks.pack(*number);
            names.entry(pack_class(pack)).or_default().insert(pack.hash);
        }
        names.retain(|_, hashes| !hashes.is_empty());
        Ok(names)
    }

    /// Compacts the index, and removes what was condemned long enough ago.
    async fn clear(&mut self, seen: &Inventory) -> Result<(), PruneError> {
        self.going_on()?;
        let compacted = compact::run(self.repository, self.replica, self.stop).await?;
        if !compacted.old.is_empty() {
            self.report.segments_replaced = compacted.old.len() as u64;
            match self.repository.condemn_segments(self.replica, &compacted.old).await {
                Ok(()) => self.report.condemned += compacted.old.len() as u64,
                // Orphans now: the next prune looks at them.
                Err(CondemnFault::Overtaken(_)) => {}
                Err(CondemnFault::Repository(e)) => return Err(e.into()),
            }
        }
        // Slots of this run are in no listing, and count as young.
        self.report.deleted = delete::run(self.repository, self.replica, seen, self.stop).await?;
        Ok(())
    }

    /// Tells what the plan makes of each pack.
    async fn tell(&mut self, work: &Work, seen: &Inventory) -> Result<(), PruneError> {
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let (made, condemned) = (self.report.made, self.report.condemned);
        self.report = ReplicaPruned { made, condemned, orphans_young: work.young, ..ReplicaPruned::default() };
        let report = &mut self.report;
        for (pack, fate) in chunks.packs().iter().zip(&work.plan.fates) {
            let Some(fate) = fate else { continue };
            report.before.add(pack.size);
            match fate {
                Fate::Drop => report.dropped.add(pack.size),
                Fate::Repack => report.repacked.add(pack.size),
                Fate::Keep(Why::Used) => {}
                Fate::Keep(Why::Young) => report.young.add(pack.size),
                Fate::Keep(Why::Damaged) => report.damaged.add(pack.size),
                Fate::Keep(Why::Tolerated) => report.tolerated.add(pack.size),
                Fate::Keep(Why::Later) => report.later.add(pack.size),
            }
        }
        for (class, hashes) in &work.orphans {
            for seen in hashes.iter().filter_map(|hash| seen.objects.get(&(*class, *hash))) {
                report.orphans.add(seen.size);
            }
        }
        Ok(())
    }

    /// What a run would ask of the store and remove from it, about.
    async fn foretell(&mut self, work: &Work, seen: &Inventory) -> Result<(), PruneError> {
        let (due, deleted) = delete::due(self.repository, self.replica, seen).await?;
        let moves = work.plan.moves.len() as u64;
        let made = Tally { objects: work.plan.moved.div_ceil(u64::from(self.settings.data_pack)), bytes: work.plan.moved };
        let going = self.report.dropped.objects + self.report.repacked.objects + self.report.orphans.objects;
        let report = &mut self.report;
        (report.made, report.deleted, report.condemned) = (made, deleted, going);
        report.deleted.objects = due.len() as u64;
        report.deleted.bytes = due.iter().map(|(_, size)| size).sum();
        if self.settings.mercy.is_zero() {
            report.deleted.objects += going;
            report.deleted.bytes += report.dropped.bytes + report.repacked.bytes + report.orphans.bytes;
        } else {
            report.deleted.waiting += going;
            report.deleted.waiting_bytes += report.dropped.bytes + report.repacked.bytes + report.orphans.bytes;
        }
        let records = u64::from(moves > 0) + u64::from(going > 0);
        let segments = u64::from(moves > 0);
        report.requests = Requests {
            put: made.objects + segments + records,
            get: moves,
            stat: made.objects + segments + records,
            list: 0,
            delete: report.deleted.objects.div_ceil(1000),
        };
        Ok(())
    }
}
