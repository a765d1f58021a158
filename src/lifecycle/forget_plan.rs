//! What a forget is to write: what goes by name or by the rules, and what must stay for it.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};

use crate::format::Hash;
use crate::lifecycle::dispute::dispute;
use crate::lifecycle::doubt::{self, whole};
use crate::lifecycle::forget::{ForgetReport, What};
use crate::lifecycle::retention::Candidate;
use crate::lifecycle::retention::calendar::Moment;
use crate::lifecycle::retention::decide::{Decision, Group, Rules, covering, decide, in_words};
use crate::lifecycle::retention::group::{GroupBy, GroupKey};
use crate::replica::Mask;
use crate::replica::patience::while_it_answers;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout;
use crate::repository::snapshots::SnapshotView;

/// Records whose times are asked for at once.
const AT_ONCE: usize = 16;

/// What is to be written, and what must stay for it.
#[derive(Default)]
pub(super) struct Plan {
    pub report: ForgetReport,
    /// What goes, each with the snapshots that stay instead.
    pub erasures: BTreeMap<Hash, Vec<Hash>>,
    /// What some log forgot before.
    pub carried: BTreeSet<Hash>,
    /// Those that no log takes over from another.
    pub disputed: BTreeSet<Hash>,
    /// What is live and stays.
    pub live: BTreeSet<Hash>,
    /// Where what is live is not whole.
    pub doubtful: BTreeMap<Hash, Mask>,
    /// Seconds since the Unix epoch, for holds.
    pub now: i64,
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

pub(super) async fn plan(
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
            // Also one that another log forgot before it was held here.
            let holds = repository.holds(now).await;
            if let Some(id) = ids.iter().find(|id| holds.contains_key(*id)) {
                let id = hex::encode(id);
                return Err(RepositoryError::new(Fault::Refused, format!("snapshot {id} is held: nothing was forgotten")));
            }
            (named(&all, ids), ids.iter().copied().filter(|id| carried.contains(id) || unreadable.contains(id)).collect())
        }
    };
    let going = groups.iter().flat_map(|group| &group.decisions).filter(|d| !d.keep).map(|d| all[d.index].id);
    forgotten.extend(going);
    let mut erasures: BTreeMap<Hash, Vec<Hash>> = match what {
        What::ByRules(_) => forgotten.difference(&carried).map(|id| (*id, Vec::new())).collect(),
        // Who names what was forgotten before settles it, and nothing else: it goes for nothing, and needs nothing to stay.
        What::Named(_) => {
            carried.clear();
            forgotten.iter().map(|id| (*id, Vec::new())).collect()
        }
    };
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
    let mut disputed = BTreeSet::new();
    if let What::ByRules(rules) = what {
        // By the groups of these rules, and never by wider ones than those that heal and prune go by.
        let found = dispute(repository, &[rules.group_by, rules.source_by], &going, &doubtful).await?;
        for (id, snapshot) in found {
            let view = snapshot.map(|snapshot| SnapshotView { snapshot, id, mask: Mask::default(), replicas: Vec::new() });
            match view.filter(|view| rules.remove_all && among(view)) {
                // Whoever wants all of it to go has named it.
                Some(_) => drop(erasures.insert(id, Vec::new())),
                None => drop(disputed.insert(id)),
            }
        }
    }
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
        let replica = &repository.set.replicas[index];
        let store = &replica.store;
        let time = async |slot: u64| match store.stat(&layout::slot(epoch, slot)).await {
            Ok(info) => info.map(|info| info.modified.seconds()),
            Err(_) => None,
        };
        let asked = async {
            let now = time(head).await?;
            let times = stream::iter(slots).map(async |(id, slot)| (id, time(slot).await)).buffered(AT_ONCE);
            Some((now, times.collect::<Vec<_>>().await))
        };
        let patience = repository.set.settings.stall;
        let told = while_it_answers(&repository.env, replica, patience, "asking when records were written", asked).await;
        let Ok(Some((now, times))) = told else { continue };
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
            decision.reasons = vec![format!("younger than {} by its store's clock", in_words(rules.floor))];
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
        source_by: GroupBy::default(),
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
