//! Heal: replicas that lack what others hold are brought up to date, and what is damaged gets another place.
//!
//! Round by round: snapshots that a target lacks (and, where its log distrusts packs, those that it holds) are walked, oldest
//! first; what they need and the target cannot rely on is moved and published; then they are committed. A round in which
//! something did not arrive is followed by another, which sees what the first one learned. Everything published stays, so
//! a heal that was cut off goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;

use crate::format::Hash;
use crate::format::pack::PackKind;
use crate::format::record::ObjectClass;
use crate::lifecycle::closure::Closure;
use crate::lifecycle::dispute::{all_answer, in_words};
use crate::lifecycle::doubt::unproven;
use crate::lifecycle::forget::{Carried, carry};
use crate::lifecycle::heal_commit::{Pending, commit, reliance};
use crate::lifecycle::heal_objects::{self, Replaced};
use crate::lifecycle::heal_plan::{Move, Needs, PackFacts, plan, sources};
use crate::lifecycle::heal_report::{HealReport, ReplicaHealed, lacking};
use crate::lifecycle::retention::group::GroupBy;
use crate::lifecycle::transfer::{Moved, Transfer};
use crate::progress::{Progress, Stop};
use crate::replica::Mask;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::keys::KeysCopied;
use crate::repository::snapshots::LiveSnapshot;
use crate::repository::writer::WriteFault;

/// How often what did not arrive is planned again.
const ROUNDS: usize = 4;
/// What is planned at once, in stored bytes of the neediest target: then it is moved, and its snapshots are committed.
const BATCH: u64 = 1 << 30;

/// How much is to be healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Snapshots, damage, keys.
    Everything,
    /// Snapshots, where a replica lacks no more than `behind_limit`: what a backup does first. Costs no request when no
    /// replica lacks a snapshot.
    SmallGaps,
}

/// What a heal is to do.
#[derive(Clone, Debug)]
pub struct HealSettings {
    /// The replicas to heal; none named: all.
    pub stores: Vec<String>,
    /// How much.
    pub extent: Extent,
    /// Say what would be done; write nothing.
    pub dry_run: bool,
    /// Bytes in flight.
    pub memory: u64,
    /// Target size of new data packs in bytes.
    pub data_pack: u32,
    /// Target size of new meta packs in bytes.
    pub meta_pack: u32,
    /// Publish at least this often, in bytes.
    pub publish_bytes: u64,
    /// Publish at least this often, in time.
    pub publish_every: Duration,
    /// What snapshots of one source have in common: what others have forgotten goes only where something else of its source is left.
    pub group_by: GroupBy,
}

impl Default for HealSettings {
    fn default() -> HealSettings {
        HealSettings {
            stores: Vec::new(),
            extent: Extent::Everything,
            dry_run: false,
            memory: 128 << 20,
            data_pack: 16 << 20,
            meta_pack: 4 << 20,
            publish_bytes: 1 << 30,
            publish_every: Duration::from_secs(60),
            group_by: GroupBy::default(),
        }
    }
}

/// Why a heal ended early.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting that cannot be carried out (exit 2).
    #[error("{0}")]
    Settings(String),
    /// Stopped on request. What was published stays, and is not sent again.
    #[error("interrupted: what was copied so far is not copied again")]
    Interrupted,
}

/// An error with its causes, in one line.
pub(super) fn told(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Heals, once. Stores that are no replica yet are made one before, by [`Repository::begin`].
pub async fn run(
    repository: &Repository,
    settings: &HealSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<HealReport, HealError> {
    let began = repository.env.elapsed();
    let set = &repository.set;
    let known = |name: &String| set.replicas.iter().any(|r| r.name == *name) || set.closed.iter().any(|c| c.0 == *name);
    if let Some(unknown) = settings.stores.iter().find(|name| !known(name)) {
        return Err(HealError::Settings(format!("there is no store {unknown:?}")));
    }
    let named = set.replicas.iter().filter(|r| settings.stores.is_empty() || settings.stores.contains(&r.name));
    let named = Mask(named.fold(0, |m, r| m | 1 << r.index));
    let mut targets = repository.writable();
    if settings.dry_run {
        targets = targets.or(repository.unbegun());
    }
    repository.index().await?;
    let mut healing = Healing {
        repository,
        settings,
        stop,
        progress,
        targets: targets.and(named),
        damaged: Mask::default(),
        transfer: Transfer::new(repository, settings, progress, stop),
        report: HealReport { dry_run: settings.dry_run, quorum: set.write_quorum(), ..HealReport::default() },
        healed: BTreeMap::new(),
        needed: BTreeMap::new(),
        keys: BTreeMap::new(),
        sources: BTreeMap::new(),
        damaged_keys: BTreeMap::new(),
        objects: BTreeMap::new(),
    };
    if settings.extent == Extent::SmallGaps && !healing.small_gaps().await? {
        return Ok(healing.report);
    }
    let lacked = lacking(repository).await;
    if settings.extent == Extent::Everything {
        healing.objects().await?;
        for KeysCopied { target, copied, damaged } in repository.copy_keys(healing.targets, settings.dry_run).await {
            healing.damaged_keys.extend(damaged.into_iter().next().map(|why| (target, why)));
            match copied {
                Ok(count) => drop(healing.keys.insert(target, count)),
                Err(e) => healing.transfer.leave(target, e.fault, told(&e)),
            }
        }
    }
    let done = healing.rounds().await;
    if !settings.dry_run {
        healing.forgets().await;
        let notes = repository.record_distrust(None).await;
        healing.report.notes.extend(notes);
        healing.report.notes.extend(repository.save_heads().err());
    } else {
        healing.report.notes.extend(repository.take_met().into_iter().map(|met| met.what).take(100));
    }
    done?;
    healing.finish(&lacked).await;
    healing.report.duration = repository.env.elapsed().saturating_sub(began);
    Ok(healing.report)
}

struct Healing<'r> {
    repository: &'r Repository,
    settings: &'r HealSettings,
    stop: &'r Stop,
    progress: &'r Progress,
    targets: Mask,
    /// Targets whose logs distrust packs: the snapshots that they hold are walked, too.
    damaged: Mask,
    transfer: Transfer<'r>,
    report: HealReport,
    /// Snapshots committed, by target.
    healed: BTreeMap<usize, u64>,
    /// Stored bytes that the first round found to be lacking, by target.
    needed: BTreeMap<usize, u64>,
    /// Key objects copied, by target.
    keys: BTreeMap<usize, u64>,
    /// A key object that is damaged, by target.
    /// Where a dry run would read what each target lacks: bytes by replica.
    sources: BTreeMap<usize, BTreeMap<Option<String>, u64>>,
    damaged_keys: BTreeMap<usize, String>,
    /// Segments and snapshots' objects that were replaced, by target.
    objects: BTreeMap<usize, Replaced>,
}

impl Healing<'_> {
    /// Replaces what logs stand on besides packs, where that is damaged.
    async fn objects(&mut self) -> Result<(), HealError> {
        for (i, replaced) in heal_objects::run(self.repository, self.targets, self.settings.dry_run, self.stop).await? {
            match replaced {
                Ok(replaced) => drop(self.objects.insert(i, replaced)),
                Err(e) => self.transfer.leave(i, e.fault, told(&e)),
            }
        }
        Ok(())
    }

    /// Keeps the targets that lack snapshots and little else; `false` when there is none.
    async fn small_gaps(&mut self) -> Result<bool, HealError> {
        let lacks = async |healing: &Self| {
            let lacked = lacking(healing.repository).await;
            Mask(healing.targets.indices().filter(|i| lacked.contains_key(i)).fold(0, |m, i| m | 1 << i))
        };
        if lacks(self).await.is_empty() {
            return Ok(false);
        }
        // Another run may be about to commit there.
        self.repository.catch_up().await;
        self.targets = lacks(self).await;
        let index = self.repository.index().await?;
        let lacking = index.read().expect("no panic while the index is locked").lacking(self.targets);
        let limit = self.repository.set.settings.behind_limit;
        self.targets = Mask(self.targets.indices().filter(|i| lacking[*i] <= limit).fold(0, |m, i| m | 1 << i));
        Ok(!self.targets.is_empty())
    }

    async fn rounds(&mut self) -> Result<(), HealError> {
        for round in 0..ROUNDS {
            self.repository.take_in().await?;
            let doubted = self.look_for_damage().await?;
            self.report.lost.clear();
            let learned = |moved: &Moved| (moved.got.iter().map(|got| got.bytes).sum::<u64>(), moved.unreadable.len());
            let before = learned(&self.transfer.moved());
            self.transfer.moved().short = Mask::default();
            self.round(round == 0).await?;
            // What was met on the way is damage like any other: whoever holds it is not done.
            let grown = self.look_for_damage().await? > doubted && !self.settings.dry_run;
            let mut moved = self.transfer.moved();
            if grown {
                moved.short = moved.short.or(self.damaged);
            } else if moved.short.is_empty() || learned(&moved) == before && moved.void.is_empty() && round > 0 {
                break;
            }
        }
        let live: BTreeSet<Hash> = self.repository.live().await.iter().map(|one| one.id).collect();
        self.report.lost.retain(|(id, ..)| live.contains(id));
        Ok(())
    }

    /// Notes which targets have packs that are not to be relied on. Gives how many packs those are.
    async fn look_for_damage(&mut self) -> Result<usize, HealError> {
        if self.settings.extent != Extent::Everything {
            return Ok(0);
        }
        let (at, count) = unproven(self.repository, self.targets).await?;
        self.damaged = self.damaged.or(at);
        Ok(count)
    }

    /// The snapshots that some target needs something of; those committed first come last.
    async fn wanted(&self) -> Vec<(LiveSnapshot, Mask)> {
        let lacks = |live: LiveSnapshot| {
            let at = self.damaged.or(self.repository.set.all().without(live.mask));
            (live, self.transfer.alive(self.targets).and(at))
        };
        self.repository.live().await.into_iter().map(lacks).filter(|(_, at)| !at.is_empty()).collect()
    }

    async fn round(&mut self, first: bool) -> Result<(), HealError> {
        let index = self.repository.index().await?;
        let mut walk = Closure::new(self.repository, index, self.stop);
        walk.unreadable.clone_from(&self.transfer.moved().unreadable);
        let mut pending: Vec<Pending> = Vec::new();
        let mut wanted = self.wanted().await;
        while let Some((live, at)) = wanted.pop() {
            // What one target did not get may be below a node that the next snapshot shares: it waits for the next round.
            let at = self.transfer.alive(at).without(self.transfer.moved().short);
            if at.is_empty() {
                continue;
            }
            let Some(object) = self.repository.snapshot_object(&live).await else {
                self.lose(&live.id, at, "its object is damaged or missing wherever it lies");
                continue;
            };
            self.progress.set_current(|| format!("snapshot {}", hex::encode(&live.id[..4])));
            let lost = walk.snapshot(&object.snapshot, at).await?;
            lost.iter().for_each(|(target, why)| self.lose(&live.id, Mask::one(*target), why));
            let whole = Mask(lost.keys().fold(at.without(live.mask).0, |m, i| m & !(1 << i)));
            pending.push(Pending { id: live.id, object, at: whole });
            if !self.settings.dry_run && (walk.needs.most() >= BATCH || wanted.is_empty()) {
                self.batch(&mut walk, std::mem::take(&mut pending), first).await?;
            }
        }
        if !walk.needs.is_empty() || !pending.is_empty() {
            self.batch(&mut walk, pending, first).await?;
        }
        Ok(())
    }

    fn lose(&mut self, id: &Hash, at: Mask, why: &str) {
        let names = at.indices().map(|i| self.repository.set.replicas[i].name.clone());
        self.report.lost.extend(names.map(|name| (*id, name, why.to_owned())));
    }

    /// Moves what the walk found lacking, and commits what is whole then.
    async fn batch(&mut self, walk: &mut Closure<'_>, pending: Vec<Pending>, first: bool) -> Result<(), HealError> {
        let moves = self.plan(std::mem::take(&mut walk.needs)).await?;
        self.progress.items_total.add(moves.len() as u64);
        self.progress.bytes_total.add(moves.iter().map(Move::bytes).sum());
        if first {
            for wanted in moves.iter().flat_map(|one| &one.frames) {
                wanted.to.indices().for_each(|i| *self.needed.entry(i).or_default() += u64::from(wanted.spot.1));
            }
        }
        if self.settings.dry_run {
            return self.foretell(&moves).await;
        }
        self.transfer.run(moves).await;
        let notes = self.repository.record_distrust(None).await;
        self.report.notes.extend(notes);
        if self.stop.requested() {
            return Err(HealError::Interrupted);
        }
        // Forgotten anywhere meanwhile, a snapshot does not come back here.
        self.repository.catch_up().await;
        let live: BTreeMap<Hash, Mask> = self.repository.live().await.into_iter().map(|one| (one.id, one.mask)).collect();
        for one in pending {
            let Some(held) = live.get(&one.id) else { continue };
            // Each record that was written since may have brought news of other logs.
            if self.repository.forgotten_ids().await.contains(&one.id) {
                continue;
            }
            let at = self.transfer.alive(one.at.without(*held)).without(self.transfer.moved().short);
            let commits = at.indices().map(|i| {
                let (repository, one, own, hits) = (self.repository, &one, self.transfer.moved().own[i].clone(), &walk.hits[i]);
                async move { (i, commit(repository, i, one, &reliance(repository, own, hits).await).await) }
            });
            for (i, committed) in join_all(commits).await {
                match committed {
                    Ok(()) => *self.healed.entry(i).or_default() += 1,
                    // What it stands on was condemned or distrusted meanwhile: looked at again in the next round.
                    Err(WriteFault::LostCover(_)) => self.transfer.fall_short(Mask::one(i)),
                    Err(WriteFault::Repository(e)) => self.transfer.leave(i, e.fault, told(&e)),
                }
            }
        }
        Ok(())
    }

    /// Notes where what is to move would be read first.
    async fn foretell(&mut self, moves: &[Move]) -> Result<(), HealError> {
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let order = |pack| self.repository.set.reading_order(chunks.pack(pack).usable());
        self.sources = sources(moves, |pack| order(pack).first().map(|replica| replica.name.clone()));
        Ok(())
    }

    async fn plan(&self, needs: Needs) -> Result<Vec<Move>, HealError> {
        let mut void: BTreeMap<usize, (BTreeSet<Hash>, BTreeSet<Hash>)> = BTreeMap::new();
        let mut named = self.targets;
        for i in self.targets.indices() {
            if let Some(log) = self.repository.log(i).await {
                if !log.state.takes_names() {
                    named = named.without(Mask::one(i));
                }
                let of = |class| log.state.condemned.get(&class).into_iter().flatten().chain(&log.state.distrusted).copied();
                void.insert(i, (of(ObjectClass::Data).collect(), of(ObjectClass::Meta).collect()));
            }
        }
        for (i, pack) in &self.transfer.moved().void {
            let (data, meta) = void.entry(*i).or_default();
            data.insert(*pack);
            meta.insert(*pack);
        }
        let index = self.repository.index().await?;
        let chunks = index.read().expect("no panic while the index is locked");
        let readable = self.repository.readable();
        Ok(plan(needs, |number| {
            let pack = chunks.pack(number);
            // Published there and still lacking: distrusted, be it only by what this process met.
            let mut nameable = named.without(pack.published).without(pack.distrusted);
            for (i, (data, meta)) in &void {
                if if pack.kind == PackKind::Meta { meta } else { data }.contains(&pack.hash) {
                    nameable = nameable.without(Mask::one(*i));
                }
            }
            PackFacts { size: pack.size, nameable, trusted: !pack.usable().and(readable).is_empty() }
        }))
    }

    /// What others have forgotten is recorded at the targets that hold all that is live.
    async fn forgets(&mut self) {
        for (i, carried) in carry(self.repository, self.settings.group_by, self.transfer.alive(self.targets)).await {
            match carried {
                Ok(Carried { disputed, .. }) if !disputed.is_empty() => {
                    // Nothing is wrong with the store: it goes on, and this is told of it.
                    let why = in_words(&disputed, all_answer(self.repository));
                    self.transfer.moved().out.entry(i).or_insert((Fault::Refused, why));
                }
                Ok(Carried { recorded: 0, .. }) => {}
                Ok(Carried { recorded: n, .. }) => {
                    let name = &self.repository.set.replicas[i].name;
                    self.report.notes.push(format!("store {name}: {n} forgotten snapshots are forgotten there, too"));
                }
                Err(e) => self.transfer.leave(i, e.fault, told(&e)),
            }
        }
    }

    /// The last look: what each replica got, and what it still lacks.
    async fn finish(&mut self, lacked: &BTreeMap<usize, u64>) {
        let repository = self.repository;
        let left = lacking(self.repository).await;
        for replica in &repository.set.replicas {
            let i = replica.index;
            let (got, out) = {
                let moved = self.transfer.moved();
                (moved.got[i], moved.out.get(&i).cloned())
            };
            let objects = self.objects.remove(&i).unwrap_or_default();
            self.report.notes.extend(objects.told(&replica.name, self.settings.dry_run));
            let mut healed = ReplicaHealed {
                name: replica.name.clone(),
                lacked: lacked.get(&i).copied().unwrap_or(0),
                snapshots: self.healed.get(&i).copied().unwrap_or(0),
                needed: self.needed.get(&i).copied().unwrap_or(0),
                packs_copied: got.packs_copied,
                packs_made: got.packs_made,
                bytes_sent: got.bytes,
                keys: self.keys.get(&i).copied().unwrap_or(0),
                replaced: objects.segments + objects.snapshots,
                ..ReplicaHealed::default()
            };
            let left = left.get(&i).copied().unwrap_or(0);
            let lost = self.report.lost.iter().any(|(_, name, _)| *name == replica.name);
            for (source, bytes) in self.sources.remove(&i).unwrap_or_default() {
                match source {
                    Some(source) => drop(healed.sources.insert(source, bytes)),
                    None => healed.in_doubt = bytes,
                }
            }
            if self.settings.dry_run && self.targets.has(i) && !lost {
                // It would be healed, but for what has no other place.
                (healed.fault, healed.behind) = (objects.left.as_ref().map(|_| Fault::Integrity), objects.left);
            } else if let Some((fault, why)) = out.or_else(|| repository.fault(i)) {
                (healed.behind, healed.fault) = (Some(why), Some(fault));
            } else if left > 0 {
                let why = self.report.lost.iter().find(|(_, name, _)| *name == replica.name).map(|(_, _, why)| why.clone());
                let why = why.unwrap_or_else(|| "not healed by this run".into());
                (healed.behind, healed.fault) = (Some(format!("lacks {left} snapshots: {why}")), Some(Fault::Failed));
            } else if self.targets.has(i) && self.transfer.moved().short.has(i) {
                let why = "something that was found damaged has no other place yet";
                (healed.behind, healed.fault) = (Some(why.into()), Some(Fault::Integrity));
            } else if let Some((_, _, why)) = self.report.lost.iter().find(|(_, name, _)| *name == replica.name) {
                (healed.behind, healed.fault) = (Some(format!("a snapshot is not whole there: {why}")), Some(Fault::Integrity));
            } else if let Some(why) = self.damaged_keys.remove(&i).or(objects.left) {
                (healed.behind, healed.fault) = (Some(why), Some(Fault::Integrity));
            }
            self.report.replicas.push(healed);
        }
        for (name, _, e) in &repository.set.closed {
            let fault = Some(RepositoryError::from_kind(e.kind));
            let (lacked, behind) = (left.values().copied().max().unwrap_or(0), Some(told(e)));
            self.report.replicas.push(ReplicaHealed { name: name.clone(), lacked, behind, fault, ..ReplicaHealed::default() });
        }
    }
}
