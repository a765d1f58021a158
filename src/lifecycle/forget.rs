//! Forget: snapshots that are no longer roots, by name or by the rules of retention, recorded in each replica's log.
//!
//! The union of all logs decides what is forgotten. So that two runs with different rules cannot empty a group between them,
//! everybody writes to the logs in the order of their replicas' ids, and each record is sound at its own slot: what was to
//! stay instead is still a root there. A replica that lacks what was to stay, or has it damaged, gives up nothing: heal brings both
//! later. What other logs have forgotten is taken over from them only where something else of its source is left (`dispute`).

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Hash;
use crate::lifecycle::dispute::{all_answer, dispute, in_words};
use crate::lifecycle::doubt::{self, whole};
use crate::lifecycle::forget_plan::{Plan, plan};
use crate::lifecycle::heal::told;
use crate::lifecycle::retention::decide::{Group, Rules};
use crate::lifecycle::retention::group::GroupBy;
use crate::replica::Mask;
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::forgotten::in_force;
use crate::repository::open::worst;
use crate::repository::snapshots::SnapshotView;
use crate::repository::state::State;

/// How often a run that was overtaken by others plans again.
const PLANS_MAX: usize = 5;
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
        Ok::<_, RepositoryError>((dispute(repository, &[group_by], &BTreeSet::new(), &doubtful).await?, doubtful))
    };
    let (disputed, doubtful) = match known.await {
        Ok(known) => known,
        Err(e) => {
            let again = |index| (index, Err(RepositoryError::new(e.fault, e.message.clone())));
            return to.indices().map(again).collect();
        }
    };
    let now = repository.env.now().seconds();
    let disputed = disputed.into_keys().collect();
    let plan = Plan { carried, disputed, live, doubtful, now, ..Plan::default() };
    let mut out = Vec::new();
    for index in to.indices() {
        let done = record(repository, &plan, index).await;
        out.push((index, done.map(|done| Carried { recorded: done.recorded.len() as u64, disputed: done.disputed })));
    }
    out
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
                outcome.explain(all_answer(repository));
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
        outcome.explain(all_answer(repository));
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
    fn explain(&mut self, all: bool) {
        if !self.disputed.is_empty() {
            (self.behind, self.fault) = (Some(in_words(&self.disputed, all)), Some(Fault::Refused));
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
