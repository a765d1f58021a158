//! Forget: snapshots that are no longer roots, by name or by the rules of retention, recorded in each replica's log.
//!
//! The union of all logs decides what is forgotten. So that two runs with different rules cannot empty a group between them,
//! everybody writes to the logs in the order of their replicas' ids, and each record is sound at its own slot: what was to
//! stay instead is still a root there. A replica that lacks what was to stay, or has it damaged, gives up nothing: heal brings both
//! later. What other logs have forgotten is taken over from them only where something else of its source is left (`dispute`).

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};

use crate::format::Hash;
use crate::lifecycle::dispute::{dispute, in_words};
use crate::lifecycle::doubt::{self, whole};
use crate::lifecycle::heal::told;
use crate::lifecycle::retention::Candidate;
use crate::lifecycle::retention::calendar::Moment;
use crate::lifecycle::retention::decide::{Decision, Group, Rules, covering, decide, in_words as in_words_of};
use crate::lifecycle::retention::group::{GroupBy, GroupKey};
use crate::replica::Mask;
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::forgotten::in_force;
use crate::repository::layout;
use crate::repository::open::worst;
use crate::repository::snapshots::SnapshotView;
use crate::repository::state::State;

/// How often a run that was overtaken by others plans again.
const PLANS_MAX: usize = 5;
/// Records whose times are asked for at once.
const AT_ONCE: usize = 16;
/// Ids in one record: far below what a record may hold.
const IDS_MAX: usize = 10_000;

/// What is to be forgotten.
#[derive(Clone, Debug)]
pub enum What {
    /// These.
    Named(Vec<Hash>),
    /// What the rules do not keep.
    ByRules(Rules),
}

/// What one replica recorded.
#[derive(Clone, Debug, Default)]
pub struct ReplicaForgot {
    /// Its configured name.
    pub name: String,
    /// Ids recorded in its log by this run, those that only others had recorded so far included.
    pub recorded: u64,
    /// Ids that its log keeps as roots for now, since it lacks a snapshot that stays instead.
    pub withheld: u64,
    /// Those of them that another log has forgotten, and of whose source nothing else is left.
    pub disputed: BTreeSet<Hash>,
    /// Why it does not have all of it.
    pub behind: Option<String>,
    /// The class of that reason.
    pub fault: Option<Fault>,
}

/// What a run did, or would do.
#[derive(Clone, Debug, Default)]
pub struct ForgetReport {
    /// All snapshots that were looked at.
    pub views: Vec<SnapshotView>,
    /// How they were judged; indices are places in `views`.
    pub groups: Vec<Group>,
    /// Snapshots that are forgotten by this run (or would be), and named ones that were before.
    pub forgotten: BTreeSet<Hash>,
    /// Live snapshots whose object nobody gave whole: they are left alone unless they are named.
    pub unreadable: BTreeSet<Hash>,
    /// Live snapshots that are known to be whole nowhere, as far as the stores at hand say: rules count none of them and forget
    /// none.
    pub doubtful: BTreeSet<Hash>,
    /// Each configured replica; after a dry run those alone that would not have all of it.
    pub replicas: Vec<ReplicaForgot>,
    /// How many stores are configured.
    pub stores: usize,
    /// Those of `forgotten` that fewer logs record than have to.
    pub short: BTreeSet<Hash>,
    /// Replicas that have to record it.
    pub quorum: usize,
    /// Why the rules' limit refuses it; only ever set after a dry run.
    pub over_limit: Option<String>,
}

/// What is to be written, and what must stay for it.
#[derive(Default)]
struct Plan {
    report: ForgetReport,
    /// What goes, each with the snapshots that stay instead.
    erasures: BTreeMap<Hash, Vec<Hash>>,
    /// What some log forgot before.
    carried: BTreeSet<Hash>,
    /// Those that no log takes over from another.
    disputed: BTreeSet<Hash>,
    /// What is live and stays.
    live: BTreeSet<Hash>,
    /// Where what is live is not whole.
    doubtful: BTreeMap<Hash, Mask>,
    /// Seconds since the Unix epoch, for holds.
    now: i64,
}

/// How an id stands with a log.
#[derive(PartialEq, Eq)]
enum Standing {
    /// Recorded.
    Done,
    /// May be recorded.
    Go,
    /// Must not be recorded yet.
    Withheld,
    /// What the plan stands on is not so any more.
    Overtaken,
}

/// Forgets. `among` says which snapshots the rules are applied to. Refused with [`Fault::Refused`] are rules that would empty
/// a group, and names of snapshots that are held. With `dry_run` nothing is written.
pub async fn run(
    repository: &Repository,
    what: &What,
    among: &(dyn Fn(&SnapshotView) -> bool + Send + Sync),
    dry_run: bool,
) -> Result<ForgetReport, RepositoryError> {
    let mut before = BTreeSet::new();
    for _ in 0..PLANS_MAX {
        let mut plan = plan(repository, what, among).await?;
        if dry_run {
            foretell(repository, &mut plan).await;
            return Ok(plan.report);
        }
        if let Some(why) = plan.report.over_limit {
            return Err(RepositoryError::new(Fault::Refused, format!("{why}: nothing was forgotten anywhere")));
        }
        let overtaken = write(repository, &mut plan, &mut before).await?;
        if !overtaken {
            plan.report.forgotten.append(&mut before);
            finish(repository, &mut plan.report).await;
            return Ok(plan.report);
        }
        repository.catch_up().await;
    }
    let message = "others changed what there is to forget each time it was planned: try again when fewer run at once";
    Err(RepositoryError::new(Fault::Contention, message))
}

/// What one log took over from the others.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// How many ids it recorded.
    pub recorded: u64,
    /// What it did not, since nothing else is left of its source.
    pub disputed: BTreeSet<Hash>,
}

/// Records at the replicas of `to` what the others have forgotten, as far as that strips them of nothing: each must hold
/// everything that is live, and hold it whole, and something that is live must be of the same source, by `group_by`. Gives what became
/// of it at each, or why it could not. Costs no request where nothing is due.
pub async fn carry(repository: &Repository, group_by: GroupBy, to: Mask) -> Vec<(usize, Result<Carried, RepositoryError>)> {
    let carried = repository.forgotten_ids().await;
    let mut due = false;
    for index in to.indices() {
        due |= repository.log(index).await.is_some_and(|log| !carried.is_subset(&log.state.forgotten));
    }
    if !due {
        return to.indices().map(|index| (index, Ok(Carried::default()))).collect();
    }
    let live = repository.live().await.iter().map(|one| one.id).collect();
    let known = async {
        let doubtful = whole(repository).await?;
        Ok::<_, RepositoryError>((dispute(repository, group_by, &BTreeSet::new(), &doubtful).await?, doubtful))
    };
    let (disputed, doubtful) = match known.await {
        Ok(known) => known,
        Err(e) => {
            let again = |index| (index, Err(RepositoryError::new(e.fault, e.message.clone())));
            return to.indices().map(again).collect();
        }
    };
    let now = repository.env.now().seconds();
    let plan = Plan { carried, disputed, live, doubtful, now, ..Plan::default() };
    let mut out = Vec::new();
    for index in to.indices() {
        let done = record(repository, &plan, index).await;
        out.push((index, done.map(|done| Carried { recorded: done.recorded.len() as u64, disputed: done.disputed })));
    }
    out
}

/// What retention knows of each snapshot. A copy that is not whole counts for nothing.
async fn candidates(
    repository: &Repository,
    views: &[SnapshotView],
    doubtful: &BTreeMap<Hash, Mask>,
    now: i64,
) -> Vec<Candidate> {
    let (quorum, sound) = (repository.set.write_quorum(), repository.writable());
    let holds = repository.holds(now).await;
    let candidate = |view: &SnapshotView| {
        let s = &view.snapshot;
        let held = holds.get(&view.id).map(|hold| {
            let until = match hold.until {
                0 => "until released".to_owned(),
                until => jiff::Timestamp::from_second(until).map(|t| format!("until {t}")).unwrap_or_default(),
            };
            if hold.reason.is_empty() { until } else { format!("{until}: {}", hold.reason) }
        });
        Candidate {
            id: view.id,
            moment: Moment { seconds: s.time_seconds, nanos: s.time_nanos, offset: s.utc_offset_seconds },
            host: s.host.clone(),
            paths: s.roots.iter().map(|root| root.path.to_vec()).collect(),
            tags: s.tags.clone(),
            partial: s.partial,
            at_quorum: view.mask.without(doubt::of(doubtful, &view.id)).and(sound).count() >= quorum,
            held,
        }
    };
    views.iter().map(candidate).collect()
}

async fn plan(
    repository: &Repository,
    what: &What,
    among: &(dyn Fn(&SnapshotView) -> bool + Send + Sync),
) -> Result<Plan, RepositoryError> {
    let now = repository.env.now().seconds();
    let views = repository.snapshots().await?;
    let unreadable: BTreeSet<Hash> = repository.unreadable(&views).await.iter().map(|one| one.id).collect();
    let doubtful = whole(repository).await?;
    let nowhere = |view: &&SnapshotView| doubt::of(&doubtful, &view.id).covers(view.mask);
    let lost: BTreeSet<Hash> = views.iter().filter(nowhere).map(|view| view.id).collect();
    let all = candidates(repository, &views, &doubtful, now).await;
    let mut carried = repository.forgotten_ids().await;
    let (groups, mut forgotten) = match what {
        What::ByRules(rules) => {
            let chosen: Vec<usize> = (0..views.len()).filter(|i| !lost.contains(&views[*i].id) && among(&views[*i])).collect();
            let judged: Vec<Candidate> = chosen.iter().map(|i| all[*i].clone()).collect();
            let mut groups = decide(&judged, rules);
            spare_young(repository, &judged, rules, &mut groups).await;
            if let Some(group) = groups.iter().find(|group| !rules.remove_all && group.emptied(&judged)) {
                return Err(RepositoryError::new(
                    Fault::Refused,
                    format!(
                        "the rules would forget every snapshot of {}: nothing was forgotten anywhere; \
                         name snapshots to forget them, or give rules that keep some",
                        described(&group.key)
                    ),
                ));
            }
            groups.iter_mut().flat_map(|group| &mut group.decisions).for_each(|d| d.index = chosen[d.index]);
            (groups, BTreeSet::new())
        }
        What::Named(ids) => {
            if let Some(one) = all.iter().find(|one| ids.contains(&one.id) && one.held.is_some()) {
                let (id, why) = (hex::encode(one.id), one.held.as_deref().unwrap_or_default());
                return Err(RepositoryError::new(Fault::Refused, format!("snapshot {id} is held {why}: nothing was forgotten")));
            }
            (named(&all, ids), ids.iter().copied().filter(|id| carried.contains(id) || unreadable.contains(id)).collect())
        }
    };
    let going = groups.iter().flat_map(|group| &group.decisions).filter(|d| !d.keep).map(|d| all[d.index].id);
    forgotten.extend(going);
    let mut erasures: BTreeMap<Hash, Vec<Hash>> = forgotten.difference(&carried).map(|id| (*id, Vec::new())).collect();
    // What stays instead: the newest of the group that was judged, and the newest of the same host and paths, whatever was
    // judged together.
    let sources = named(&all, &forgotten.iter().copied().collect::<Vec<_>>());
    for group in groups.iter().chain(&sources) {
        let Some(stays) = group.newest_kept(&all).map(|i| all[i].id) else { continue };
        for decision in group.decisions.iter().filter(|d| !d.keep) {
            if let Some(stay) = erasures.get_mut(&all[decision.index].id)
                && !stay.contains(&stays)
            {
                stay.push(stays);
            }
        }
    }
    if let What::ByRules(rules) = what {
        // A partial snapshot goes for a complete one that may be of another group, with more paths.
        for (id, stay) in erasures.iter_mut().filter(|(_, stay)| stay.is_empty()) {
            stay.extend(
                all.iter().find(|one| one.id == *id && one.partial).and_then(|one| covering(&all, rules, &forgotten, one)),
            );
        }
    }
    let mut live: BTreeSet<Hash> = repository.live().await.iter().map(|one| one.id).collect();
    let over_limit = match what {
        What::ByRules(rules) => over_limit(rules, erasures.len(), groups.iter().map(|group| group.decisions.len()).sum()),
        What::Named(_) => None,
    };
    live.retain(|id| !erasures.contains_key(id));
    let going: BTreeSet<Hash> = erasures.keys().copied().collect();
    let disputed = match what {
        What::ByRules(rules) => dispute(repository, rules.group_by, &going, &doubtful).await?,
        // Who names what was forgotten before has settled it, and nothing else.
        What::Named(ids) => {
            carried.retain(|id| ids.contains(id));
            BTreeSet::new()
        }
    };
    let quorum = repository.set.write_quorum();
    let mut groups = groups;
    if let What::ByRules(rules) = what {
        // Judged by no rule; shown where they belong, for what is done is done with the others.
        for index in (0..views.len()).filter(|i| lost.contains(&views[*i].id) && among(&views[*i])) {
            let key = rules.group_by.key(&all[index]);
            let reasons = vec!["damaged at every store that holds it, does not count".to_owned()];
            let decision = Decision { index, keep: true, young: false, reasons };
            match groups.iter_mut().find(|group| group.key == key) {
                Some(group) => group.decisions.push(decision),
                None => groups.push(Group { key, decisions: vec![decision] }),
            }
        }
    }
    let stores = repository.set.replicas.len() + repository.set.closed.len();
    let report =
        ForgetReport { stores, views, groups, forgotten, unreadable, doubtful: lost, quorum, over_limit, ..Default::default() };
    Ok(Plan { report, erasures, carried, disputed, live, doubtful, now })
}

/// The floor once more, by the clocks of the stores: what the times of snapshots and this machine's clock say may be wrong. Of what
/// would go, that stays which no log has had for so long; one record's time is asked for each.
async fn spare_young(repository: &Repository, judged: &[Candidate], rules: &Rules, groups: &mut [Group]) {
    if rules.floor == 0 || rules.remove_all {
        return;
    }
    let going = groups.iter().flat_map(|group| &group.decisions).filter(|d| !d.keep).map(|d| judged[d.index].id);
    // Those of which no store says that they are old enough, and those of which one says anything at all.
    let (mut left, mut known): (BTreeSet<Hash>, BTreeSet<Hash>) = (going.collect(), BTreeSet::new());
    for index in repository.readable().indices() {
        let Some((epoch, head, slots)) = repository.log(index).await.map(|log| {
            let slots = log.state.snapshots.iter().filter(|(id, _)| left.contains(*id)).map(|(id, live)| (*id, live.slot));
            (log.state.epoch, log.state.slot, slots.collect::<Vec<_>>())
        }) else {
            continue;
        };
        if slots.is_empty() {
            continue;
        }
        let store = &repository.set.replicas[index].store;
        let time = async |slot: u64| match store.stat(&layout::slot(epoch, slot)).await {
            Ok(info) => info.map(|info| info.modified.seconds()),
            Err(_) => None,
        };
        let Some(now) = time(head).await else { continue };
        let times: Vec<_> = stream::iter(slots).map(async |(id, slot)| (id, time(slot).await)).buffered(AT_ONCE).collect().await;
        for (id, written) in times {
            let Some(written) = written else { continue };
            known.insert(id);
            if now.saturating_sub(written) >= rules.floor {
                left.remove(&id);
            }
        }
    }
    for decision in groups.iter_mut().flat_map(|group| &mut group.decisions).filter(|d| !d.keep) {
        let id = &judged[decision.index].id;
        if left.contains(id) && known.contains(id) {
            (decision.keep, decision.young) = (true, true);
            decision.reasons = vec![format!("younger than {} by its store's clock", in_words_of(rules.floor))];
        }
    }
}

/// Why so many of so many snapshots must not go at once.
fn over_limit(rules: &Rules, going: usize, judged: usize) -> Option<String> {
    let percent = rules.limit_percent.filter(|percent| going * 100 > judged * usize::from(*percent))?;
    Some(format!("{going} of {judged} snapshots would go, more than the {percent} % that may go at once without --confirm"))
}

/// All snapshots by host and paths; those with one of these ids go.
fn named(all: &[Candidate], ids: &[Hash]) -> Vec<Group> {
    let keeping = Rules {
        policy: Default::default(),
        group_by: GroupBy::default(),
        remove_all: true,
        now: (0, 0),
        partial_mercy: 0,
        floor: 0,
        limit_percent: None,
    };
    let mut groups = decide(all, &keeping);
    for decision in groups.iter_mut().flat_map(|group| &mut group.decisions) {
        let keep = !ids.contains(&all[decision.index].id);
        let reason = if keep { "not named" } else { "named" };
        *decision = Decision { index: decision.index, keep, young: false, reasons: vec![reason.to_owned()] };
    }
    groups
}

/// A group in words.
pub fn described(key: &GroupKey) -> String {
    let mut parts = Vec::new();
    if let Some(host) = &key.host {
        parts.push(format!("host {host}"));
    }
    if let Some(paths) = &key.paths {
        let paths: Vec<_> = paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        parts.push(format!("paths [{}]", paths.join(", ")));
    }
    if let Some(tags) = &key.tags {
        parts.push(format!("tags [{}]", tags.join(", ")));
    }
    if parts.is_empty() { "the repository".to_owned() } else { parts.join(", ") }
}

impl Plan {
    fn standing(&self, index: usize, state: &State, id: &Hash) -> Standing {
        let has = |id: &Hash| state.snapshots.contains_key(id) && !doubt::of(&self.doubtful, id).has(index);
        let instead = self.erasures.get(id);
        if state.forgotten.contains(id) {
            return Standing::Done;
        }
        let held = state.holds.get(id).is_some_and(|hold| in_force(hold, self.now));
        match instead {
            Some(stay) if held || stay.iter().any(|id| state.forgotten.contains(id)) => Standing::Overtaken,
            // Also of what a log never had: where this log alone is left to say so, others would give it up for a snapshot that
            // nobody has any more.
            Some(stay) if stay.iter().all(has) => Standing::Go,
            None if !held && !self.is_disputed(state, id) && self.live.iter().all(has) => Standing::Go,
            _ => Standing::Withheld,
        }
    }
}

impl Plan {
    fn is_disputed(&self, state: &State, id: &Hash) -> bool {
        self.disputed.contains(id) && state.snapshots.contains_key(id)
    }
}

/// What became of one log.
#[derive(Default)]
struct Recorded {
    recorded: Vec<Hash>,
    withheld: u64,
    disputed: BTreeSet<Hash>,
    overtaken: bool,
}

/// Writes what is due to one log. Whether it is overtaken is known at the slot, not before.
async fn record(repository: &Repository, plan: &Plan, index: usize) -> Result<Recorded, RepositoryError> {
    let mut out = Recorded::default();
    let mut due = Vec::new();
    {
        let Some(log) = repository.log(index).await else { return Ok(out) };
        for id in plan.erasures.keys().chain(&plan.carried) {
            match plan.standing(index, &log.state, id) {
                Standing::Done => {}
                Standing::Go => due.push(*id),
                Standing::Withheld => {
                    out.withheld += 1;
                    out.disputed.extend(plan.is_disputed(&log.state, id).then_some(*id));
                }
                Standing::Overtaken => out.overtaken = true,
            }
        }
    }
    if out.overtaken {
        return Ok(out);
    }
    for ids in due.chunks(IDS_MAX) {
        let mut overtaken = false;
        let verify = |state: &State| {
            overtaken = ids.iter().any(|id| !matches!(plan.standing(index, state, id), Standing::Go | Standing::Done));
            match overtaken {
                true => Err(RepositoryError::new(Fault::Contention, "others changed what there is to forget")),
                false => Ok(()),
            }
        };
        let replica = &repository.set.replicas[index];
        let work = repository.forget(index, ids, verify);
        let done = while_it_answers(&repository.env, replica, repository.set.settings.stall, "writing to its log", work).await;
        match done.map_err(RepositoryError::from).and_then(|done| done) {
            Ok(()) => out.recorded.extend_from_slice(ids),
            Err(_) if overtaken => {
                out.overtaken = true;
                return Ok(out);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// Writes to all logs, in the order of their replicas' ids. Whether the plan was overtaken; `before` takes what was recorded
/// all the same.
async fn write(repository: &Repository, plan: &mut Plan, before: &mut BTreeSet<Hash>) -> Result<bool, RepositoryError> {
    let writable = repository.writable();
    let mut order = Vec::new();
    for index in writable.indices() {
        if let Some(log) = repository.log(index).await {
            order.push((log.state.replica_id, index));
        }
    }
    order.sort();
    if order.len() < plan.report.quorum && !plan.erasures.is_empty() {
        let faults = repository.set.replicas.iter().filter_map(|r| repository.fault(r.index));
        let closed = repository.set.closed.iter().map(|(_, _, e)| (RepositoryError::from_kind(e.kind), told(e)));
        let (faults, stories): (Vec<Fault>, Vec<String>) = faults.chain(closed).unzip();
        let (can, need, why) = (order.len(), plan.report.quorum, stories.join("; "));
        let message = format!("{can} replicas can be written to, {need} are needed: nothing was forgotten: {why}");
        return Err(RepositoryError::new(worst(faults).unwrap_or(Fault::Failed), message));
    }
    let mut outcomes: BTreeMap<usize, ReplicaForgot> = BTreeMap::new();
    for (_, index) in order {
        let outcome = outcomes.entry(index).or_default();
        match record(repository, plan, index).await {
            Ok(done) => {
                before.extend(done.recorded.iter().filter(|id| plan.erasures.contains_key(*id)));
                if done.overtaken {
                    return Ok(true);
                }
                (outcome.recorded, outcome.withheld) = (done.recorded.len() as u64, done.withheld);
                outcome.disputed = done.disputed;
                outcome.explain();
            }
            Err(e) => (outcome.behind, outcome.fault) = (Some(told(&e)), Some(e.fault)),
        }
    }
    for replica in &repository.set.replicas {
        let mut outcome = outcomes.remove(&replica.index).unwrap_or_default();
        outcome.name.clone_from(&replica.name);
        if let (None, Some((fault, why))) = (&outcome.behind, repository.fault(replica.index)) {
            (outcome.behind, outcome.fault) = (Some(why), Some(fault));
        }
        plan.report.replicas.push(outcome);
    }
    for (name, _, e) in &repository.set.closed {
        let (behind, fault) = (Some(told(e)), Some(RepositoryError::from_kind(e.kind)));
        plan.report.replicas.push(ReplicaForgot { name: name.clone(), behind, fault, ..ReplicaForgot::default() });
    }
    Ok(false)
}

/// Which replicas would not have all of it, and why.
async fn foretell(repository: &Repository, plan: &mut Plan) {
    let mut left = Vec::new();
    for replica in &repository.set.replicas {
        let (fault, behind) = repository.fault(replica.index).unzip();
        let mut outcome = ReplicaForgot { name: replica.name.clone(), behind, fault, ..ReplicaForgot::default() };
        if let (Some(log), None) = (repository.log(replica.index).await, &outcome.behind) {
            let ids = plan.erasures.keys().chain(&plan.carried);
            let stays = ids.filter(|id| plan.standing(replica.index, &log.state, id) == Standing::Withheld);
            for id in stays {
                outcome.withheld += 1;
                outcome.disputed.extend(plan.is_disputed(&log.state, id).then_some(*id));
            }
        }
        outcome.explain();
        left.extend(outcome.behind.is_some().then_some(outcome));
    }
    for (name, _, e) in &repository.set.closed {
        let (behind, fault) = (Some(told(e)), Some(RepositoryError::from_kind(e.kind)));
        left.push(ReplicaForgot { name: name.clone(), behind, fault, ..ReplicaForgot::default() });
    }
    plan.report.replicas = left;
}

impl ReplicaForgot {
    /// Says why it keeps what it keeps.
    fn explain(&mut self) {
        if !self.disputed.is_empty() {
            (self.behind, self.fault) = (Some(in_words(&self.disputed)), Some(Fault::Refused));
        } else if self.withheld > 0 {
            let what = "it lacks a snapshot that stays instead of those that go, or has it damaged: run `holdfast heal`";
            (self.behind, self.fault) = (Some(what.to_owned()), Some(Fault::Failed));
        }
    }
}

/// Counts the logs that have each.
async fn finish(repository: &Repository, report: &mut ForgetReport) {
    let mut at: BTreeMap<Hash, usize> = report.forgotten.iter().map(|id| (*id, 0)).collect();
    for index in repository.writable().indices() {
        if let Some(log) = repository.log(index).await {
            at.iter_mut().filter(|(id, _)| log.state.forgotten.contains(*id)).for_each(|(_, count)| *count += 1);
        }
    }
    report.short = at.into_iter().filter(|(_, count)| *count < report.quorum).map(|(id, _)| id).collect();
}
