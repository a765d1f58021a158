//! The decision: each group from its newest snapshot to its oldest, each rule by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::DateTime;

use crate::format::Hash;
use crate::lifecycle::retention::Candidate;
use crate::lifecycle::retention::calendar::{Moment, Period, PeriodName};
use crate::lifecycle::retention::group::{GroupBy, GroupKey};
use crate::lifecycle::retention::policy::{Count, Policy};
use crate::lifecycle::retention::span::CalendarSpan;

/// What becomes of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its place among the candidates.
    pub index: usize,
    /// Whether it stays.
    pub keep: bool,
    /// Whether nothing but the floor keeps it.
    pub young: bool,
    /// Why.
    pub reasons: Vec<String>,
}

/// A group, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What its snapshots have in common.
    pub key: GroupKey,
    /// All of them, newest first.
    pub decisions: Vec<Decision>,
}

impl Group {
    /// Whether nothing that counts would be left of it, although something was there.
    pub fn emptied(&self, all: &[Candidate]) -> bool {
        let mut counted = self.decisions.iter().filter(|d| all[d.index].counts()).peekable();
        // What is merely young still is no reason to let all else go, unless there is nothing else.
        let going = self.decisions.iter().any(|d| !d.keep && all[d.index].counts());
        counted.peek().is_some() && !counted.any(|d| d.keep && !(going && d.young))
    }

    /// The newest of those that stay: a replica without it gives up nothing of this group yet. One that counts comes first,
    /// then a complete one below the quorum.
    pub fn newest_kept(&self, all: &[Candidate]) -> Option<usize> {
        let mut kept = self.decisions.iter().filter(|d| d.keep && !all[d.index].partial).map(|d| d.index);
        kept.clone().find(|i| all[*i].counts()).or_else(|| kept.next())
    }
}

/// How a group is judged.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The rules.
    pub policy: Policy,
    /// What makes a group.
    pub group_by: GroupBy,
    /// Nothing stays but what is held. The policy must be empty then.
    pub remove_all: bool,
    /// What counts as now: seconds since the Unix epoch, nanoseconds.
    pub now: (i64, u32),
    /// Seconds that a partial snapshot stays after a later complete one came.
    pub partial_mercy: i64,
    /// Seconds for which every snapshot stays, whatever the rules say; 0: none. Those from the future stay, too.
    pub floor: i64,
    /// More than this many percent of the snapshots that are judged may not go at once; none: all may.
    pub limit_percent: Option<u8>,
    /// What makes a source, whatever is judged together here: what one log has forgotten another gives up only where something of
    /// the same source is left.
    pub source_by: GroupBy,
}

/// Judges all candidates; groups come in the order of their keys. Whatever the order of the candidates, the answer is the same.
pub fn decide(all: &[Candidate], rules: &Rules) -> Vec<Group> {
    let mut members: BTreeMap<GroupKey, Vec<usize>> = BTreeMap::new();
    for (index, one) in all.iter().enumerate() {
        members.entry(rules.group_by.key(one)).or_default().push(index);
    }
    let mut groups: Vec<Group> = Vec::new();
    for (key, mut indices) in members {
        // Equal times have no order of their own: the ids give them one, the same by which one of them is the latest.
        indices.sort_by_key(|i| Reverse((all[*i].moment.instant(), all[*i].id)));
        let counted: Vec<usize> = indices.iter().copied().filter(|i| all[*i].counts()).collect();
        let mut wanted = wanted(all, &counted, rules);
        let decision = |index: usize| {
            let mut reasons = wanted.remove(&index).unwrap_or_default();
            if let Some(why) = &all[index].held {
                reasons.push(format!("held: {why}"));
            }
            let age = rules.now.0.saturating_sub(all[index].moment.seconds);
            // Without a floor one from the future is like any other, although its age is less than nothing.
            let young = rules.floor > 0 && age < rules.floor && !rules.remove_all;
            let alone = young && reasons.is_empty();
            if young {
                reasons.push(format!("younger than {}", in_words(rules.floor)));
            }
            if !all[index].partial && !all[index].at_quorum && !rules.remove_all {
                reasons.push("not at the write quorum, does not count".into());
            }
            Decision { index, keep: !reasons.is_empty(), young: alone, reasons }
        };
        let decisions = indices.into_iter().map(decision).collect();
        groups.push(Group { key, decisions });
    }
    partials(all, rules, &mut groups);
    for decision in groups.iter_mut().flat_map(|group| &mut group.decisions).filter(|d| d.reasons.is_empty()) {
        let all_go = if rules.remove_all { "everything is to go" } else { "no rule keeps it" };
        decision.reasons.push(all_go.into());
    }
    groups
}

/// A length of time in its largest whole unit.
pub fn in_words(seconds: i64) -> String {
    match seconds {
        s if s % 86_400 == 0 => format!("{} d", s / 86_400),
        s if s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

/// The snapshots of a group that some rule wants, newest first, each with the rules' reasons.
fn wanted(all: &[Candidate], counted: &[usize], rules: &Rules) -> BTreeMap<usize, Vec<String>> {
    let policy = &rules.policy;
    // The newest that is not from the future: a clock that ran ahead once must not shift the windows.
    let newest = counted.iter().map(|i| all[*i].moment).find(|moment| moment.instant() < rules.now);
    let count = |(period, left): (Period, &Count)| Walk { period, left: *left, window: None, seen: None };
    let within = |(period, span): (Period, &CalendarSpan)| {
        let since = newest.map(|newest| (newest.offset, span.before(newest.local())));
        let left = if span.is_zero() { Count::default() } else { Count::Unlimited };
        Walk { period, left, window: Some(Window { span: *span, since }), seen: None }
    };
    let mut walks: Vec<Walk> = Vec::new();
    walks.push(within((Period::Each, &policy.within[0])));
    walks.extend(Period::ALL.into_iter().zip(&policy.counts).map(count));
    walks.extend(Period::ALL.into_iter().zip(&policy.within).skip(1).map(within));
    let mut wanted = BTreeMap::new();
    for (nth, index) in counted.iter().enumerate() {
        let one = &all[*index];
        let tagged = policy.tags.iter().filter(|list| list.admits(&one.tags)).map(|list| format!("has tags {list}"));
        let mut reasons: Vec<String> = tagged.collect();
        reasons.extend(walks.iter_mut().filter_map(|walk| walk.judge(&one.moment, nth, nth + 1 == counted.len())));
        if !reasons.is_empty() {
            wanted.insert(*index, reasons);
        }
    }
    wanted
}

/// One rule on its way from the newest snapshot to the oldest.
struct Walk {
    period: Period,
    left: Count,
    window: Option<Window>,
    /// The period of the last snapshot that it kept.
    seen: Option<PeriodName>,
}

/// How far back a rule looks.
struct Window {
    span: CalendarSpan,
    /// The distance from UTC of the clock by which it is measured, and what must be later than this; `None`: everything is.
    since: Option<(i32, Option<DateTime>)>,
}

impl Window {
    fn holds(&self, moment: &Moment) -> bool {
        match self.since {
            Some((offset, Some(since))) => moment.seen_at(offset) > since,
            _ => true,
        }
    }
}

impl Walk {
    /// Whether the rule wants this snapshot, the `nth` of its group; with what is left it takes the oldest, too.
    fn judge(&mut self, moment: &Moment, nth: usize, oldest: bool) -> Option<String> {
        if self.left.is_zero() || self.window.as_ref().is_some_and(|window| !window.holds(moment)) {
            return None;
        }
        let period = self.period.of(moment, nth);
        let fresh = self.seen != Some(period);
        if !fresh && !oldest {
            return None;
        }
        self.seen = Some(period);
        self.left = self.left.less();
        let reason = match (&self.window, self.period) {
            (None, period) => format!("{} snapshot", period.word()),
            (Some(window), Period::Each) => format!("within {}", window.span),
            (Some(window), period) => format!("{} within {}", period.word(), window.span),
        };
        Some(if fresh { reason } else { format!("oldest {reason}") })
    }
}

/// Partial snapshots go when a later complete one of the same source stays, and they are old enough.
fn partials(all: &[Candidate], rules: &Rules, groups: &mut [Group]) {
    if rules.remove_all {
        return;
    }
    let mut stays: Vec<(GroupKey, (i64, u32))> = Vec::new();
    for group in groups.iter() {
        let kept = group.decisions.iter().find(|d| d.keep && all[d.index].counts());
        stays.extend(kept.map(|d| (group.key.clone(), all[d.index].moment.instant())));
    }
    for group in groups {
        for decision in group.decisions.iter_mut().filter(|d| all[d.index].partial && !d.keep) {
            let taken = all[decision.index].moment.instant();
            let later = stays.iter().any(|(key, newest)| key.covers(&group.key) && *newest > taken);
            let young = taken.0 > rules.now.0.saturating_sub(rules.partial_mercy);
            decision.keep = !later || young;
            decision.reasons.push(match (later, young) {
                (false, _) => "partial, and nothing complete is later".into(),
                (true, true) => "partial, and young".into(),
                (true, false) => "partial, and a complete one is later".into(),
            });
        }
    }
}

/// The newest complete snapshot of the same source as the partial one `of`, which may have more paths and so be of another group,
/// that does not go; one that counts comes first.
pub fn covering(all: &[Candidate], rules: &Rules, going: &BTreeSet<Hash>, of: &Candidate) -> Option<Hash> {
    let own = rules.group_by.key(of);
    let fits = |one: &&Candidate| !one.partial && !going.contains(&one.id) && rules.group_by.key(one).covers(&own);
    all.iter().filter(fits).max_by_key(|one| (one.counts(), one.moment.instant(), one.id)).map(|one| one.id)
}
