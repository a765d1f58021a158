//! Is it all there, is it all right.
//!
//! What is here: one replica held against its own log (`examine`, `log`, `presence`), its segments and packs read back
//! (`content`; how many of them: `share`), the snapshots walked down to every chunk (`structure`), and what that finds
//! (`findings`). What comes in: an opened repository. What goes out: a report; distrust, and trust given back, in the logs. What never happens here: a
//! repair, a deletion, a word about one replica that was learned from another.

pub mod content;
pub mod examine;
pub mod findings;
pub mod log;
pub mod presence;
pub mod share;
pub mod structure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use futures::future::join_all;
use tokio::sync::Semaphore;

use crate::format::Hash;
use crate::progress::{Progress, Stop};
use crate::replica::{Mask, Replica};
use crate::repository::Repository;
use crate::repository::chunk_index::ChunkIndex;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::state::{NOTE_VERIFY, State};
use crate::verify::content::Drawing;
use crate::verify::examine::{Examination, Facts, Halt};
use crate::verify::findings::Findings;
use crate::verify::share::Share;
use crate::verify::structure::Walk;

/// Bytes in flight unless set.
const MEMORY: u64 = 128 << 20;
/// Packs named in one record.
const PACKS_PER_RECORD: usize = 50_000;

/// What a verify is to do.
#[derive(Clone, Debug, Default)]
pub struct VerifySettings {
    /// Share of packs to read back in full; none: presence only.
    pub read_data: Option<Share>,
    /// Other shares for some replicas, by their configured names.
    pub shares: BTreeMap<String, Option<Share>>,
    /// Packs that are read besides, by the names of replicas that read a share.
    pub besides: BTreeMap<String, BTreeSet<Hash>>,
    /// Read each of those packs at one replica only, so that the replicas share the work; else each replica reads its share.
    pub across: bool,
    /// Only this replica.
    pub only: Option<String>,
    /// Bytes in flight.
    pub memory: u64,
}

impl VerifySettings {
    /// What is read back at a replica.
    pub fn share_of(&self, name: &str) -> Option<Share> {
        self.shares.get(name).copied().unwrap_or(self.read_data)
    }
}

/// Whether the last verify of a replica found damage there, by the note that it left in the log.
pub fn found_damage(state: &State) -> bool {
    let note = state.notes.get(NOTE_VERIFY).map(|(_, note)| note.text.as_str());
    let note = note.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    note.is_some_and(|note| note["damages"].as_u64().is_some_and(|count| count > 0))
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The replica.
    pub replica: String,
    /// The object's name.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Recorded paths of files that need it, with the snapshot's short id (bounded).
    pub affects: Vec<(String, String)>,
    /// How many more there are than are named.
    pub more: u64,
}

/// How one replica came out.
#[derive(Clone, Debug, Default)]
pub struct ReplicaVerified {
    /// Its configured name.
    pub name: String,
    /// Why it could not be verified, if so.
    pub unreachable: Option<String>,
    /// The class of that reason.
    pub fault: Option<crate::repository::error::Fault>,
    /// Snapshots in its log.
    pub snapshots: u64,
    /// Packs that its log relies on.
    pub packs: u64,
    /// Packs read in full.
    pub packs_read: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Packs that were to be read and could not be, though nothing says that they are damaged (bounded).
    pub unread: BTreeSet<Hash>,
    /// How many those are.
    pub unread_count: u64,
    /// Keys that were not withdrawn and that other stores hold.
    pub keys_missing: u64,
    /// Packs newly distrusted.
    pub distrusted: u64,
    /// Objects in the store that nothing knows.
    pub foreign: u64,
    /// Packs that were distrusted and are relied on again.
    pub lifted: u64,
    /// Snapshots in which something could not be had from this replica alone: short id, and how many paths that is.
    pub affected: BTreeMap<String, u64>,
    /// Things worth saying that are no damage.
    pub notes: Vec<String>,
}

/// What verify found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Each replica.
    pub replicas: Vec<ReplicaVerified>,
    /// Everything wrong, bounded.
    pub damages: Vec<Damage>,
    /// How many that is.
    pub damage_count: u64,
    /// How long it took.
    pub duration: std::time::Duration,
}

/// Why verify could not be carried out at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The repository or its stores.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting that cannot be carried out (exit 2).
    #[error("{0}")]
    Settings(String),
    /// Stopped on request.
    #[error("interrupted")]
    Interrupted,
}

/// Verifies. Whatever is found is in the report; damaged packs are written down in the logs that may be written to.
pub async fn run(
    repository: &Repository,
    settings: &VerifySettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<VerifyReport, VerifyError> {
    let began = repository.env.elapsed();
    for share in settings.read_data.iter().chain(settings.shares.values().flatten()) {
        share.verify().map_err(VerifyError::Settings)?;
    }
    let set = &repository.set;
    let wanted = |name: &str| settings.only.as_deref().is_none_or(|only| only == name);
    if !set.replicas.iter().map(|r| &r.name).chain(set.closed.iter().map(|(name, ..)| name)).any(|name| wanted(name)) {
        return Err(VerifyError::Settings(format!("there is no store {}", settings.only.as_deref().unwrap_or_default())));
    }
    let index = repository.index().await?;
    // What loading the index met is found again below, and told better.
    repository.take_met();
    let findings = Findings::default();
    let kib = |bytes: u64| u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
    let memory_kib = kib(if settings.memory == 0 { MEMORY } else { settings.memory });
    let memory = Semaphore::new(memory_kib as usize);
    let chosen: Vec<&Replica> = set.replicas.iter().filter(|r| wanted(&r.name)).collect();
    let across = match settings.across {
        true => Mask(chosen.iter().fold(0, |m, r| m | 1 << r.index)).and(repository.readable()),
        false => Mask::default(),
    };
    let seed = repository.env.random();
    let ground = Ground {
        repository,
        settings,
        index: &index,
        findings: &findings,
        progress,
        stop,
        memory: &memory,
        memory_kib,
        across,
        seed,
    };
    let mut examined: Vec<Examined> = Vec::new();
    for one in join_all(chosen.iter().map(|replica| ground.replica(replica))).await {
        examined.push(one?);
    }
    compare_keys(repository, &findings, &mut examined).await;
    let at = Mask(examined.iter().filter(|e| e.report.unreachable.is_none()).fold(0, |m, e| m | 1 << e.index));
    walk(&ground, at).await?;
    told_by_reads(&findings, repository, &index, at);
    for one in &mut examined {
        record(&ground, one).await;
    }
    let mut report = VerifyReport { replicas: examined.into_iter().map(|e| e.report).collect(), ..VerifyReport::default() };
    for (name, _, e) in set.closed.iter().filter(|(name, ..)| wanted(name)) {
        let (fault, why) = (RepositoryError::from_kind(e.kind), e.story());
        report.replicas.push(ReplicaVerified {
            name: name.clone(),
            unreachable: Some(why),
            fault: Some(fault),
            ..ReplicaVerified::default()
        });
    }
    if let Err(why) = repository.save_heads()
        && let Some(first) = report.replicas.first_mut()
    {
        first.notes.push(why);
    }
    (report.damages, report.damage_count) = findings.into_damages(|index| set.replicas[index].name.clone());
    report.duration = repository.env.elapsed().saturating_sub(began);
    Ok(report)
}

/// What all examinations stand on.
struct Ground<'r> {
    repository: &'r Repository,
    settings: &'r VerifySettings,
    index: &'r Arc<RwLock<ChunkIndex>>,
    findings: &'r Findings,
    progress: &'r Progress,
    stop: &'r Stop,
    memory: &'r Semaphore,
    memory_kib: u32,
    /// The replicas that share the packs to read; none: each reads by itself.
    across: Mask,
    /// What those draw by.
    seed: [u8; 32],
}

/// One replica, examined.
struct Examined {
    index: usize,
    report: ReplicaVerified,
    keys: BTreeSet<Hash>,
    revoked: BTreeSet<Hash>,
    healed: Vec<Hash>,
}

impl Ground<'_> {
    async fn replica(&self, replica: &Replica) -> Result<Examined, VerifyError> {
        let (repository, me) = (self.repository, replica.index);
        let report = ReplicaVerified { name: replica.name.clone(), ..ReplicaVerified::default() };
        let mut out = Examined { index: me, report, keys: BTreeSet::new(), revoked: BTreeSet::new(), healed: Vec::new() };
        let fault = repository.fault(me);
        let Some((facts, damaged)) = Facts::gather(repository, me).await else {
            let (fault, why) = fault.unwrap_or((Fault::Failed, "its log was never read".into()));
            (out.report.fault, out.report.unreachable) = (Some(fault), Some(why));
            return Ok(out);
        };
        match (fault, damaged) {
            (Some((fault @ (Fault::Rollback | Fault::Unsupported | Fault::NoRepository), why)), _) => {
                (out.report.fault, out.report.unreachable) = (Some(fault), Some(why));
                return Ok(out);
            }
            (_, Some(damage)) => self.findings.add(me, "log", damage.why),
            (Some((_, why)), None) => self.findings.note(me, format!("nothing can be written down in its log: {why}")),
            (None, None) => {}
        }
        out.report.snapshots = facts.snapshots.len() as u64;
        out.revoked = facts.revoked.clone();
        let what = Examination {
            repository,
            replica,
            facts,
            index: self.index.clone(),
            findings: self.findings,
            progress: self.progress,
            stop: self.stop,
            memory: self.memory,
            memory_kib: self.memory_kib,
        };
        match self.examine(&what, &mut out).await {
            Ok(()) => Ok(out),
            Err(Halt::Interrupted) => Err(VerifyError::Interrupted),
            Err(Halt::Unreachable(fault, why)) => {
                (out.report.fault, out.report.unreachable) = (Some(fault), Some(why));
                Ok(out)
            }
        }
    }

    async fn examine(&self, what: &Examination<'_>, out: &mut Examined) -> Result<(), Halt> {
        let me = what.replica.index;
        let facts = &what.facts;
        {
            let chunks = self.index.read().expect("no panic while the index is locked");
            let packs = chunks.packs().iter().filter(|p| p.published.has(me)).count() as u64;
            self.progress.items_total.add(facts.slot + facts.snapshots.len() as u64 + facts.segments.len() as u64 + packs);
        }
        presence::verify_descriptor(what).await?;
        log::verify_slots(what).await?;
        let listed = presence::verify_packs(what).await?;
        (out.report.packs, out.report.foreign) = (listed.packs, listed.foreign);
        presence::verify_end(what, &listed).await?;
        out.keys.clone_from(&listed.keys);
        presence::verify_keys(what, &listed).await?;
        let runs = presence::verify_checkpoints(what, &listed).await?;
        presence::verify_lists(what, &listed, runs).await?;
        presence::verify_snapshots(what).await?;
        let wanted = match self.settings.share_of(&what.replica.name) {
            Some(share) => {
                let besides = self.settings.besides.get(&what.replica.name);
                // Who reads alone draws alone: of a pack that lies at several replicas another copy may be looked at.
                let seed = if self.across.is_empty() { self.repository.env.random() } else { self.seed };
                content::draw(what, &Drawing { share, seed, across: self.across, besides })
            }
            None => BTreeSet::new(),
        };
        {
            let chunks = self.index.read().expect("no panic while the index is locked");
            let sizes = wanted.iter().filter_map(|hash| Some(chunks.pack(chunks.pack_number(hash)?).size));
            self.progress.bytes_total.add(sizes.sum());
            self.progress.items_total.add(wanted.len() as u64);
        }
        let read = content::verify_segments(what, wanted).await?;
        (out.report.packs_read, out.report.bytes_read) = (read.packs, read.bytes);
        (out.report.unread, out.report.unread_count) = (read.unread, read.unread_count);
        out.healed = read.healed;
        // From here on the index says what this verify knows, not what the log said before.
        let healed: BTreeSet<&Hash> = out.healed.iter().collect();
        let mut chunks = self.index.write().expect("no panic while the index is locked");
        let mine: Vec<Hash> = chunks.packs().iter().filter(|p| p.published.has(me)).map(|p| p.hash).collect();
        for pack in mine {
            let before = facts.distrusted.contains(&pack) && !healed.contains(&pack);
            chunks.distrust(me, &pack, before || self.findings.is_bad(me, &pack));
        }
        Ok(())
    }
}

/// A key slot that one replica holds and another does not is no damage, but whoever has only that key should know.
async fn compare_keys(repository: &Repository, findings: &Findings, examined: &mut [Examined]) {
    let reached = |e: &&Examined| e.report.unreachable.is_none();
    let revoked: BTreeSet<Hash> = examined.iter().filter(reached).flat_map(|e| &e.revoked).copied().collect();
    let mut held: BTreeMap<Hash, Mask> = BTreeMap::new();
    for one in examined.iter().filter(reached) {
        for key in one.keys.difference(&revoked) {
            let at = held.entry(*key).or_default();
            *at = at.or(Mask::one(one.index));
        }
    }
    let all = Mask(examined.iter().filter(reached).fold(0, |m, e| m | 1 << e.index));
    for (key, at) in held.into_iter().filter(|(_, at)| !at.covers(all)) {
        if repository.own_key(&key, at).await.is_none() {
            continue;
        }
        for one in examined.iter_mut().filter(|e| all.without(at).has(e.index)) {
            one.report.keys_missing += 1;
            let what = "is at other stores and not at this one: `holdfast heal` brings it";
            findings.note(one.index, format!("key {} {what}", hex::encode(key)));
        }
    }
}

/// Walks every live snapshot, the newest first, for the replicas that hold it.
async fn walk(ground: &Ground<'_>, at: Mask) -> Result<(), VerifyError> {
    let mut walk = Walk::new(ground.repository, ground.index.clone(), ground.findings, ground.stop);
    for view in ground.repository.snapshots().await?.iter().rev() {
        let at = view.mask.and(at);
        if !at.is_empty() {
            ground.progress.set_current(|| format!("snapshot {}", hex::encode(&view.id[..4])));
            walk.snapshot(view, at).await?;
        }
    }
    Ok(())
}

/// Damage that reading the catalogs met on its way.
fn told_by_reads(findings: &Findings, repository: &Repository, index: &RwLock<ChunkIndex>, at: Mask) {
    let chunks = index.read().expect("no panic while the index is locked");
    for met in repository.take_met() {
        match met.pack {
            Some(pack) if at.has(met.replica) => {
                let number = chunks.pack_number(&pack);
                let name = number.map(|n| presence::pack_name(chunks.pack(n).kind, &pack).to_string());
                if !findings.is_bad(met.replica, &pack) {
                    findings.bad_pack(met.replica, pack, name.unwrap_or_else(|| hex::encode(pack)), met.what);
                }
            }
            _ => findings.note(met.replica, met.what),
        }
    }
}

/// Writes into a replica's log what was found there.
async fn record(ground: &Ground<'_>, one: &mut Examined) {
    let (repository, findings, me) = (ground.repository, ground.findings, one.index);
    let told = |e: RepositoryError| findings.note(me, format!("its log could not be told: {e}"));
    let bad: Vec<Hash> = findings.bad_packs(me).into_iter().collect();
    if repository.writable().has(me) {
        for packs in bad.chunks(PACKS_PER_RECORD) {
            match repository.distrust(me, packs.to_vec()).await {
                Ok(new) => one.report.distrusted += new as u64,
                Err(e) => told(e),
            }
        }
        one.healed.retain(|pack| !findings.is_bad(me, pack));
        for packs in one.healed.chunks(PACKS_PER_RECORD) {
            match repository.lift_distrust(me, packs.to_vec()).await {
                Ok(lifted) => one.report.lifted += lifted as u64,
                Err(e) => told(e),
            }
        }
        if one.report.unreachable.is_none() {
            let text = serde_json::json!({
                "snapshots": one.report.snapshots,
                "packs": one.report.packs,
                "share": ground.settings.share_of(&one.report.name).map(|share| share.to_string()),
                "packs_read": one.report.packs_read,
                "bytes_read": one.report.bytes_read,
                "damages": findings.count(me),
                "distrusted": one.report.distrusted,
                "lifted": one.report.lifted,
            });
            if let Err(e) = repository.note(me, NOTE_VERIFY, text.to_string()).await {
                told(e);
            }
        }
    }
    one.report.affected = findings.take_affected(me);
    one.report.notes = findings.take_notes(me);
}
