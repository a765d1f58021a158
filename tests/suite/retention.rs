//! Retention: the kept counts of a published table, the laws that any history and any rules obey, the calendar's corners, and
//! restic's own binary as an oracle where it is on PATH.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use holdfast::format::Hash;
use holdfast::lifecycle::retention::Candidate;
use holdfast::lifecycle::retention::calendar::Moment;
use holdfast::lifecycle::retention::decide::{Group, Rules, decide};
use holdfast::lifecycle::retention::group::GroupBy;
use holdfast::lifecycle::retention::policy::{Count, Policy, TagList};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::ValueTree;
use serde_json::Value;

const ALL_IN_ONE: GroupBy = GroupBy { host: false, paths: false, tags: false };
const NOW: &str = "2026-11-01T00:00:00Z";

fn instant(text: &str) -> (i64, u32) {
    let at: jiff::Timestamp = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    (at.as_second(), u32::try_from(at.subsec_nanosecond()).expect("after 1970"))
}

fn id(n: usize) -> Hash {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

/// The `n`th of a history, taken then by a clock on UTC.
fn taken(n: usize, text: &str, tags: &[&str]) -> Candidate {
    let (seconds, nanos) = instant(text);
    Candidate {
        id: id(n),
        moment: Moment { seconds, nanos, offset: 0 },
        host: "h".into(),
        paths: vec![b"/p".to_vec()],
        tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        partial: false,
        at_quorum: true,
        held: None,
    }
}

fn rules(policy: Policy) -> Rules {
    let (group_by, now) = (ALL_IN_ONE, instant(NOW));
    Rules { policy, group_by, remove_all: false, now, partial_mercy: 0, floor: 0, limit_percent: None, source_by: group_by }
}

/// Rules as words: `daily 7`, `within 1d`, `within-daily 7d`, `tag a,b`.
fn policy(text: &str) -> Policy {
    const WORDS: [&str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
    let mut policy = Policy::default();
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        let place = |name: &str| WORDS.iter().position(|w| *w == name);
        match (word, word.strip_prefix("within-").and_then(place), place(word)) {
            ("tag", ..) => policy.tags.push(TagList::parse(value)),
            ("within", ..) => policy.within[0] = value.parse().expect("a span"),
            (_, Some(at), _) => policy.within[at] = value.parse().expect("a span"),
            (_, _, Some(at)) => policy.counts[at] = value.parse().expect("a count"),
            _ => panic!("{word}"),
        }
    }
    policy
}

fn kept(groups: &[Group], all: &[Candidate]) -> BTreeSet<Hash> {
    groups.iter().flat_map(|group| &group.decisions).filter(|d| d.keep).map(|d| all[d.index].id).collect()
}

fn keep(all: &[Candidate], policy: &Policy) -> BTreeSet<Hash> {
    kept(&decide(all, &rules(policy.clone())), all)
}

/// The history that restic's own tests use: 103 snapshots of 2014 to 2016.
fn published() -> Vec<Candidate> {
    let mut all: Vec<(String, &[&str])> = Vec::new();
    let early = ["08", "10", "12", "13", "13.1", "15", "18", "20", "21", "22"];
    let late = ["01", "02", "05", "06", "08", "09", "10", "11", "20", "22"];
    for year in [2014, 2015] {
        for (month, days) in [(8, early), (9, late), (10, late), (11, early)] {
            for day in days {
                let tags: &[&str] = match (year, month, day) {
                    (2014, 10, _) | (2014, 11, "08" | "10" | "12" | "13") => &["foo"],
                    (2014, 11, "13.1") => &["bar"],
                    (2014, 11, "15") => &["foo", "bar"],
                    _ => &[],
                };
                let (day, tenth) = day.split_once('.').map_or((day, "0"), |(day, _)| (day, "1"));
                all.push((format!("{year}-{month:02}-{day}T10:20:30.{tenth}Z"), tags));
            }
        }
    }
    let same: [&[&str]; 4] = [&[], &["foo", "bar"], &["foo", "bar"], &["foo", "bar"]];
    all.extend(same.map(|tags| ("2015-10-22T10:20:30Z".to_owned(), tags)));
    for time in [
        "01T01:02:03",
        "01T01:03:03",
        "01T07:08:03",
        "03T07:02:03",
        "04T10:23:03",
        "04T11:23:03",
        "04T12:23:03",
        "04T12:24:03",
        "04T12:28:03",
        "04T12:30:03",
        "04T16:23:03",
        "05T09:02:03",
        "06T08:02:03",
        "07T10:02:03",
        "08T20:02:03",
        "09T21:02:03",
        "12T21:02:03",
        "12T21:08:03",
        "18T12:02:03",
    ] {
        all.push((format!("2016-01-{time}Z"), &[]));
    }
    all.into_iter().enumerate().map(|(n, (time, tags))| taken(n, &time, tags)).collect()
}

#[test]
fn the_published_table() {
    let all = published();
    assert_eq!(all.len(), 103);
    // Rules, how many are kept, and how many of them as the oldest.
    for (text, expected, oldest) in [
        ("last 10", 10, 0),
        ("last 15", 15, 0),
        ("last 99", 99, 0),
        ("last 200", 103, 0),
        ("hourly 20", 20, 0),
        ("daily 3", 3, 0),
        ("daily 10", 10, 0),
        ("daily 30", 30, 0),
        ("last 5 daily 5", 6, 0),
        ("last 2 daily 10", 10, 0),
        ("weekly 2", 2, 0),
        ("weekly 4", 4, 0),
        ("daily 3 weekly 4", 4, 0),
        ("monthly 6", 6, 0),
        ("daily 2 weekly 2 monthly 6", 7, 0),
        ("yearly 10", 4, 1),
        ("daily 7 weekly 2 monthly 3 yearly 10", 11, 1),
        ("tag foo", 18, 0),
        ("tag foo,bar", 4, 0),
        ("tag foo tag bar", 19, 0),
        ("within 1d", 1, 0),
        ("within 2d", 1, 0),
        ("within 7d", 3, 0),
        ("within 1m", 19, 0),
        ("within 1m14d", 19, 0),
        ("within 1y1d1m", 63, 0),
        ("within 13d23h", 9, 0),
        ("within 2m2h", 23, 0),
        ("within 1y2m3d3h", 68, 0),
        ("within-hourly 1y2m3d3h", 57, 0),
        ("within-daily 1y2m3d3h", 53, 0),
        ("within-weekly 1y2m3d3h", 19, 0),
        ("within-monthly 1y2m3d3h", 6, 0),
        ("within-yearly 1y2m3d3h", 3, 0),
        ("within 1h within-hourly 1d within-daily 7d within-weekly 1m within-monthly 1y within-yearly 9999y", 10, 1),
        ("last unlimited", 103, 0),
        ("last unlimited hourly unlimited", 103, 0),
        ("hourly unlimited", 90, 0),
        ("daily 3 weekly 2 monthly unlimited yearly unlimited", 12, 2),
    ] {
        let groups = decide(&all, &rules(policy(text)));
        let reasons = groups[0].decisions.iter().filter(|d| d.keep).flat_map(|d| &d.reasons);
        let as_oldest = reasons.filter(|reason| reason.starts_with("oldest ")).count();
        assert_eq!((kept(&groups, &all).len(), as_oldest), (expected, oldest), "{text}");
    }
    assert_eq!(keep(&all, &Policy::default()).len(), 0);
}

#[test]
fn each_reason_is_named() {
    let times = ["2026-01-02T11:00:00Z", "2026-01-02T10:00:00Z", "2026-01-01T10:00:00Z"];
    let all: Vec<_> = times.iter().enumerate().map(|(n, text)| taken(n, text, &["a", "b"])).collect();
    let reasons = |text: &str| -> Vec<String> {
        let groups = decide(&all, &rules(policy(text)));
        groups[0].decisions.iter().map(|d| d.reasons.join("; ")).collect()
    };
    assert_eq!(
        reasons("within-daily 1y2d within 1d3h yearly 3 within-yearly 3d1d"),
        [
            "within 1d3h; yearly snapshot; daily within 1y2d; yearly within 1d",
            "within 1d3h",
            "within 1d3h; oldest yearly snapshot; daily within 1y2d"
        ]
    );
    assert_eq!(reasons("tag b,a last 1"), ["has tags [b, a]; last snapshot", "has tags [b, a]", "has tags [b, a]"]);
    assert_eq!(reasons("daily 5"), ["daily snapshot", "no rule keeps it", "daily snapshot"]);
}

/// A clock that is put back shows an hour twice, one that is put forward leaves one out: the offset of each snapshot says so.
#[test]
fn the_clocks_change() {
    let at = |n: usize, text: &str, hours: i32| {
        let mut one = taken(n, text, &[]);
        one.moment.offset = hours * 3600;
        one
    };
    // New York, 2025-11-02: 01:30 comes twice, first at -4, then at -5. It is one hour of the clock.
    let fold = [at(0, "2025-11-02T05:30:00Z", -4), at(1, "2025-11-02T06:30:00Z", -5), at(2, "2025-11-02T07:30:00Z", -5)];
    assert_eq!(keep(&fold, &policy("hourly 2")), BTreeSet::from([id(2), id(1)]));
    assert_eq!(keep(&fold, &policy("hourly 9")), BTreeSet::from([id(2), id(1), id(0)]), "the oldest");
    // 2025-03-09: 01:30 and 03:30 are an hour apart.
    let gap = [at(0, "2025-03-09T06:30:00Z", -5), at(1, "2025-03-09T07:30:00Z", -4)];
    assert_eq!(keep(&gap, &policy("hourly 9")).len(), 2);
    assert_eq!(keep(&gap, &policy("within 1h")), BTreeSet::from([id(1)]), "an hour is an hour, and it is not within");
    assert_eq!(keep(&gap, &policy("within 2h")).len(), 2);
    // One that came later by the clock of its machine was taken earlier.
    let apart = [at(0, "2025-06-02T01:00:00Z", 0), at(1, "2025-06-01T23:00:00Z", 9), at(2, "2025-06-01T12:00:00Z", 0)];
    assert_eq!(keep(&apart, &policy("daily 2")), BTreeSet::from([id(0), id(2)]), "day 2, day 2 in the east, day 1");
}

#[test]
fn uneven_years_and_weeks() {
    let history = |times: &[&str]| -> Vec<Candidate> {
        times.iter().enumerate().map(|(n, text)| taken(n, &format!("{text}T12:00:00Z"), &[])).collect()
    };
    // 2020 has 53 weeks; its last one ends on 2021-01-03.
    let weeks = history(&["2021-01-04", "2021-01-03", "2020-12-28", "2020-12-27"]);
    assert_eq!(keep(&weeks, &policy("weekly 2")), BTreeSet::from([id(0), id(1)]));
    assert_eq!(keep(&weeks, &policy("weekly 3")), BTreeSet::from([id(0), id(1), id(3)]));
    assert_eq!(keep(&weeks, &policy("yearly 2")), BTreeSet::from([id(0), id(2)]));
    // A year before 29 February is 1 March, and that itself is not within.
    let leap = history(&["2024-02-29", "2023-03-02", "2023-03-01", "2023-02-28"]);
    assert_eq!(keep(&leap, &policy("within 1y")), BTreeSet::from([id(0), id(1)]));
    assert_eq!(keep(&leap, &policy("within 1y1h")).len(), 3);
    assert_eq!(keep(&leap, &policy("within 9999y")).len(), 4);
    assert_eq!(keep(&leap, &policy("within 4294967295y")).len(), 4);
    assert_eq!(keep(&leap, &policy("within-yearly 4294967295d")).len(), 3, "2024, 2023 and the oldest");
}

/// A clock that ran ahead: what it dated into the future is no measure, but it is newest for the counts.
#[test]
fn from_the_future() {
    let all = [
        taken(0, "2090-01-01T00:00:00Z", &[]),
        taken(1, "2026-10-31T00:00:00Z", &[]),
        taken(2, "2026-10-30T00:00:00Z", &[]),
        taken(3, "2026-10-20T00:00:00Z", &[]),
    ];
    assert_eq!(keep(&all, &policy("within 2d")), BTreeSet::from([id(0), id(1), id(2)]));
    assert_eq!(keep(&all, &policy("last 1")), BTreeSet::from([id(0)]));
    let twice = [taken(4, "2091-01-01T00:00:00Z", &[]), all[0].clone(), all[1].clone()];
    assert_eq!(keep(&twice, &policy("last 1")), BTreeSet::from([id(4)]), "no floor: the future is no reason to stay");
    // All of them are: everything is within.
    let early = Rules { now: instant("2020-01-01T00:00:00Z"), ..rules(policy("within 1h")) };
    assert_eq!(kept(&decide(&all, &early), &all).len(), 4);
    // Just now is not before now.
    let just = Rules { now: all[1].moment.instant(), ..rules(policy("within 2d")) };
    assert_eq!(kept(&decide(&all, &just), &all).len(), 3);
    let just = Rules { now: all[1].moment.instant(), ..rules(policy("within 1h")) };
    assert_eq!(kept(&decide(&all, &just), &all), BTreeSet::from([id(0), id(1), id(2)]), "measured from 30 October");
}

#[test]
fn groups_are_judged_apart_and_none_is_emptied_unseen() {
    let mut all = Vec::new();
    for (n, (host, paths, tags)) in
        [("a", ["/x", "/y"], ["t"]), ("a", ["/y", "/x"], ["u"]), ("b", ["/x", "/y"], ["t"]), ("a", ["/x", "/z"], ["t"])]
            .into_iter()
            .enumerate()
    {
        let mut one = taken(n, &format!("2026-01-0{}T00:00:00Z", n + 1), &tags);
        (one.host, one.paths) = (host.into(), paths.iter().map(|p| p.as_bytes().to_vec()).collect());
        all.push(one);
    }
    let judged = |by: &str, text: &str| decide(&all, &Rules { group_by: by.parse().expect("words"), ..rules(policy(text)) });
    for (by, groups) in [("host,paths", 3), ("host", 2), ("paths", 2), ("tags", 2), ("", 1), ("host,paths,tags", 4)] {
        let judged = judged(by, "last 1");
        assert_eq!((judged.len(), kept(&judged, &all).len()), (groups, groups), "{by:?}");
        assert!(judged.iter().all(|group| !group.emptied(&all)));
    }
    let groups = judged("host,paths", "tag u");
    assert_eq!(groups.iter().map(|g| g.emptied(&all)).collect::<Vec<_>>(), [false, true, true]);
    assert!(decide(&[], &rules(policy("last 1"))).is_empty());
    let one = [taken(0, "2026-01-01T00:00:00Z", &[])];
    for text in ["last 1", "yearly 1", "within 1h", "within-weekly 1h"] {
        assert_eq!(keep(&one, &policy(text)).len(), 1, "{text}");
    }
}

/// What does not count is never chosen, never fills a rule's count, and goes only for its own reason.
#[test]
fn partial_held_and_below_the_quorum() {
    let day = |n: usize| taken(n, &format!("2026-01-{:02}T00:00:00Z", 30 - n), &[]);
    let mut all: Vec<Candidate> = (0..8).map(day).collect();
    all[0].at_quorum = false;
    all[1].partial = true;
    all[4].partial = true;
    all[6].held = Some("until released".into());
    let judge = |all: &[Candidate], mercy: i64| decide(all, &Rules { partial_mercy: mercy, ..rules(policy("last 2")) });
    let groups = judge(&all, 0);
    assert_eq!(kept(&groups, &all), BTreeSet::from([0, 1, 2, 3, 6].map(id)));
    let reasons: BTreeMap<usize, &str> = groups[0].decisions.iter().map(|d| (d.index, d.reasons[0].as_str())).collect();
    assert_eq!(reasons[&0], "not at the write quorum, does not count");
    assert_eq!(reasons[&1], "partial, and nothing complete is later");
    assert_eq!(reasons[&4], "partial, and a complete one is later");
    assert_eq!(reasons[&6], "held: until released");
    assert_eq!(groups[0].newest_kept(&all), Some(2));
    let year = 366 * 86_400;
    assert_eq!(kept(&judge(&all, year), &all), BTreeSet::from([0, 1, 2, 3, 4, 6].map(id)), "a young one stays");
    // A partial one that lacks a path belongs to the complete one with both.
    all[4].paths = Vec::new();
    all[4].paths.push(b"/p".to_vec());
    for one in &mut all {
        if !one.partial {
            one.paths.push(b"/q".to_vec());
        }
    }
    let by_paths = Rules { group_by: GroupBy::default(), ..rules(policy("last 2")) };
    assert_eq!(kept(&decide(&all, &by_paths), &all), BTreeSet::from([0, 1, 2, 3, 6].map(id)));
    // Only what does not count is left: that is no empty group.
    let only = [all[1].clone()];
    assert!(!judge(&only, 0)[0].emptied(&only));
    // Everything goes when it is told to, but what is held.
    let none = Rules { remove_all: true, ..rules(Policy::default()) };
    assert_eq!(kept(&decide(&all, &none), &all), BTreeSet::from([id(6)]));
}

/// Nothing young goes, nor what comes from the future; the floor keeps nothing else.
#[test]
fn a_floor_keeps_what_is_young() {
    let day = |n: usize| taken(n, &format!("2026-01-{:02}T00:00:00Z", 30 - n), &[]);
    let mut all: Vec<Candidate> = (0..8).map(day).collect();
    all[3].partial = true;
    let floor = |seconds: i64| {
        let now = (instant("2026-01-30T00:00:00Z").0, 0);
        decide(&all, &Rules { floor: seconds, now, ..rules(policy("last 1")) })
    };
    assert_eq!(kept(&floor(0), &all), BTreeSet::from([0].map(id)));
    assert_eq!(kept(&floor(2 * 86_400), &all), BTreeSet::from([0, 1].map(id)), "two days old is no longer young");
    assert_eq!(kept(&floor(2 * 86_400 + 1), &all), BTreeSet::from([0, 1, 2].map(id)));
    let groups = floor(5 * 86_400);
    assert_eq!(kept(&groups, &all), BTreeSet::from([0, 1, 2, 3, 4].map(id)), "partial ones, too");
    let reasons: BTreeMap<usize, &str> = groups[0].decisions.iter().map(|d| (d.index, d.reasons[0].as_str())).collect();
    assert_eq!((reasons[&4], reasons[&5]), ("younger than 5 d", "no rule keeps it"));
    let ahead = Rules { floor: 1, now: instant("2020-01-01T00:00:00Z"), ..rules(policy("last 1")) };
    assert_eq!(kept(&decide(&all, &ahead), &all).len(), all.len(), "nobody knows how old they are");
}

/// Who is young is no reason to let all the others go.
#[test]
fn a_floor_does_not_excuse_an_empty_group() {
    let all: Vec<Candidate> =
        ["30", "10", "09"].iter().enumerate().map(|(n, day)| taken(n, &format!("2026-01-{day}T00:00:00Z"), &[])).collect();
    let judge = |all: &[Candidate], floor: i64| {
        let now = instant("2026-01-30T01:00:00Z");
        decide(all, &Rules { floor, now, ..rules(policy("tag keep")) }).remove(0).emptied(all)
    };
    assert!(judge(&all, 0) && judge(&all, 86_400), "the floor alone keeps one");
    assert!(!judge(&all[..1], 86_400), "nothing goes");
    assert!(judge(&all[1..], 86_400));
    let mut kept = all.clone();
    kept[2].tags = vec!["keep".into()];
    assert!(!judge(&kept, 86_400));
}

fn histories() -> impl Strategy<Value = Vec<Candidate>> {
    // Few distinct times of few days, so that periods and times coincide; some in the future, clocks all over the world.
    let time = prop_oneof![
        8 => 1_700_000_000_i64..1_700_900_000,
        8 => (0_i64..400).prop_map(|d| 1_690_000_000 + d * 86_400),
        4 => (0_i64..40).prop_map(|m| 1_600_000_000 + m * 2_629_746),
        1 => 4_000_000_000_i64..4_000_100_000,
        1 => any::<i64>(),
    ];
    let offset = prop_oneof![4 => Just(0), 1 => (-12_i32..=14).prop_map(|h| h * 3600), 1 => -172_800_i32..=172_800];
    let tags = prop::collection::btree_set(prop_oneof!["a", "b", "c"], 0..3);
    let one = (time, prop_oneof![3 => Just(0_u32), 1 => 0_u32..1_000_000_000], offset, tags);
    prop::collection::vec(one, 0..40).prop_map(|list| {
        let make = |(n, (seconds, nanos, offset, tags)): (usize, (i64, u32, i32, BTreeSet<String>))| Candidate {
            moment: Moment { seconds, nanos, offset },
            tags: tags.into_iter().collect(),
            ..taken(n, NOW, &[])
        };
        list.into_iter().enumerate().map(make).collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let count = || prop_oneof![4 => Just(0_u32), 4 => 1_u32..6, 1 => 6_u32..50].prop_map(Count::Number);
    let count = move || prop_oneof![9 => count(), 1 => Just(Count::Unlimited)];
    let span = || {
        let text = prop_oneof![
            4 => Just(String::new()),
            1 => (0_u32..80).prop_map(|h| format!("{h}h")),
            1 => (0_u32..500).prop_map(|d| format!("{d}d")),
            1 => (0_u32..3, 0_u32..30, 0_u32..40).prop_map(|(y, m, d)| format!("{y}y{m}m{d}d")),
            1 => Just("9999y".to_owned()),
        ];
        text.prop_map(|text| text.parse().expect("a span"))
    };
    let list = prop_oneof!["a", "b", "a,b", "", "d"].prop_map(|text| TagList::parse(&text));
    let counts = [count(), count(), count(), count(), count(), count()];
    let within = [span(), span(), span(), span(), span(), span()];
    (counts, within, prop::collection::vec(list, 0..3)).prop_map(|(counts, within, tags)| Policy { counts, within, tags })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rules are independent: together they keep what each of them keeps.
    #[test]
    fn together_they_keep_what_each_keeps(all in histories(), whole in policies()) {
        let mut apart = BTreeSet::new();
        for at in 0..6 {
            let mut one = Policy::default();
            one.counts[at] = whole.counts[at];
            apart.extend(keep(&all, &one));
            let mut one = Policy::default();
            one.within[at] = whole.within[at];
            apart.extend(keep(&all, &one));
        }
        for list in &whole.tags {
            apart.extend(keep(&all, &Policy { tags: vec![list.clone()], ..Policy::default() }));
        }
        prop_assert_eq!(keep(&all, &whole), apart);
    }

    /// Counts bound what they keep, keep the newest (of equal times the highest id), and keep more when they are larger.
    #[test]
    fn counts_bound_what_they_keep(all in histories(), counts in prop::array::uniform6(0_u32..8)) {
        let policy = Policy { counts: counts.map(Count::Number), ..Policy::default() };
        let kept = keep(&all, &policy);
        prop_assert!(kept.len() <= counts.iter().sum::<u32>() as usize);
        let newest = all.iter().max_by_key(|one| (one.moment.instant(), one.id));
        if let (Some(newest), false) = (newest, policy.is_empty()) {
            prop_assert!(kept.contains(&newest.id));
        }
        let more = Policy { counts: counts.map(|n| Count::Number(if n == 0 { 0 } else { n + 1 })), ..Policy::default() };
        prop_assert!(keep(&all, &more).is_superset(&kept));
        let unlimited = Policy { counts: counts.map(|n| if n == 0 { Count::Number(0) } else { Count::Unlimited }), ..policy };
        prop_assert!(keep(&all, &unlimited).is_superset(&kept));
    }

    /// What stays once stays when the same rules are asked again.
    #[test]
    fn twice_is_once(all in histories(), policy in policies()) {
        let kept = keep(&all, &policy);
        let left: Vec<Candidate> = all.into_iter().filter(|one| kept.contains(&one.id)).collect();
        prop_assert_eq!(keep(&left, &policy), kept);
    }

    /// The order in which snapshots are listed means nothing, reasons included.
    #[test]
    fn the_order_means_nothing(all in histories(), policy in policies(), by in 0_usize..8, seed in any::<u64>()) {
        let mut shuffled = all.clone();
        shuffled.sort_by_key(|one| blake3::hash(&[&one.id[..], &seed.to_le_bytes()].concat()).to_hex().to_string());
        let group_by = GroupBy { host: by & 1 > 0, paths: by & 2 > 0, tags: by & 4 > 0 };
        let told = |all: &[Candidate]| {
            let judged = decide(all, &Rules { group_by, ..rules(policy.clone()) });
            let of = |group: &Group| {
                let decisions = group.decisions.iter().map(|d| (all[d.index].id, d.keep, d.reasons.clone()));
                (group.key.clone(), decisions.collect::<Vec<_>>())
            };
            judged.iter().map(of).collect::<Vec<_>>()
        };
        let told_once = told(&all);
        prop_assert_eq!(told_once.iter().map(|group| group.1.len()).sum::<usize>(), all.len(), "each is judged once");
        prop_assert!(told_once.iter().flat_map(|group| &group.1).all(|d| !d.2.is_empty()), "and with reasons");
        prop_assert_eq!(told_once, told(&shuffled));
    }

    /// Tags keep theirs, whatever else there is, and the counts go on as if they were not there.
    #[test]
    fn tags_take_nothing_from_the_counts(all in histories(), policy in policies()) {
        let without = keep(&all, &Policy { tags: Vec::new(), ..policy.clone() });
        let tagged = all.iter().filter(|one| policy.tags.iter().any(|list| list.admits(&one.tags))).map(|one| one.id);
        prop_assert_eq!(keep(&all, &policy), without.into_iter().chain(tagged).collect::<BTreeSet<_>>());
    }
}

/// What a run of restic says, as JSON. `zone` is where its clock stands.
fn restic(folder: &Path, zone: &str, words: &[&str]) -> Option<Value> {
    let mut command = Command::new("restic");
    command.args(words).current_dir(folder).env("TZ", zone).env("HOME", folder);
    command.env("RESTIC_REPOSITORY", folder.join("repository")).env("RESTIC_PASSWORD", "x").arg("--no-cache").arg("--json");
    let output = command.output().ok()?;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    Some(serde_json::from_str(text.lines().last()?).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}")))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|one| one.as_str().expect("a text").to_owned()).collect()
}

/// A snapshot as restic lists it.
fn listed(snapshot: &Value) -> Candidate {
    let text = snapshot["time"].as_str().expect("a time");
    let (seconds, nanos) = instant(text);
    let clock = text
        .rfind(['+', '-'])
        .filter(|at| *at > 10 && !text.ends_with('Z'))
        .map_or((0, "00:00"), |at| (if text[at..].starts_with('-') { -1 } else { 1 }, &text[at + 1..]));
    let (hours, minutes) = clock.1.split_once(':').expect("an offset");
    let offset = clock.0 * (hours.parse::<i32>().expect("hours") * 3600 + minutes.parse::<i32>().expect("minutes") * 60);
    let mut id = [0; 32];
    hex::decode_to_slice(snapshot["id"].as_str().expect("an id"), &mut id).expect("32 bytes");
    Candidate {
        id,
        moment: Moment { seconds, nanos, offset },
        host: snapshot["hostname"].as_str().expect("a host").to_owned(),
        paths: texts(&snapshot["paths"]).into_iter().map(String::into_bytes).collect(),
        tags: texts(&snapshot["tags"]),
        ..taken(0, NOW, &[])
    }
}

type Told = Vec<(String, Vec<(Hash, Vec<String>)>, BTreeSet<Hash>)>;

/// What restic would do, group by group: what stays with its reasons, and what goes.
fn theirs(groups: &Value) -> Told {
    let of = |group: &Value| {
        let kept = group["reasons"].as_array().into_iter().flatten();
        let kept = kept.map(|reason| (listed(&reason["snapshot"]), texts(&reason["matches"])));
        let gone = group["remove"].as_array().into_iter().flatten().map(|one| listed(one).id);
        let key = (group["host"].as_str(), texts(&group["paths"]), texts(&group["tags"]));
        (format!("{key:?}"), kept.map(|(one, reasons)| (one.id, reasons)).collect(), gone.collect())
    };
    let mut told: Told = groups.as_array().into_iter().flatten().map(of).collect();
    told.sort();
    told
}

/// The same of ours.
fn ours(all: &[Candidate], rules: &Rules) -> Told {
    let of = |group: &Group| {
        let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let key = (
            Some(group.key.host.as_deref().unwrap_or_default()),
            group.key.paths.iter().flatten().map(text).collect::<Vec<_>>(),
            group.key.tags.clone().unwrap_or_default(),
        );
        let of = |keep: bool| group.decisions.iter().filter(move |d| d.keep == keep);
        let kept = of(true).map(|d| (all[d.index].id, d.reasons.clone())).collect();
        (format!("{key:?}"), kept, of(false).map(|d| all[d.index].id).collect())
    };
    let mut told: Told = decide(all, rules).iter().map(of).collect();
    told.sort();
    told
}

/// The same history and the same rules, judged by both. How much: `HOLDFAST_SUITE=full` for more.
#[test]
fn restic_decides_the_same() {
    let version = Command::new("restic").arg("version").output().ok().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let minor = version.as_ref().and_then(|text| text.split('.').nth(1)?.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 16) {
        eprintln!("ignored: restic 0.16 or newer is not on PATH ({})", version.as_deref().unwrap_or("none").trim());
        return;
    }
    let full = std::env::var("HOLDFAST_SUITE").is_ok_and(|v| v == "full");
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    for source in ["x", "y"] {
        std::fs::create_dir(at.join(source)).expect("made");
        std::fs::write(at.join(source).join("file"), source).expect("written");
    }
    restic(at, "UTC", &["init"]);
    // Times of the local clock, everywhere: a year in weeks, days, hours; the clocks change; leap day; a clock that ran ahead, more than once.
    let zones = ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"];
    let mut times: Vec<String> = [
        "2024-02-29 12:00:01",
        "2024-03-01 00:00:00",
        "2024-12-30 23:59:59",
        "2024-12-31 00:30:00",
        "2025-01-01 00:30:01",
        "2025-11-02 00:30:00",
        "2025-11-02 01:30:00",
        "2025-11-02 03:30:00",
        "2025-03-09 01:30:00",
        "2025-03-09 03:30:00",
        "2025-12-31 11:00:00",
        "2026-01-01 11:00:05",
        "2026-01-01 12:10:00",
        "2026-01-01 12:20:00",
        "2090-06-01 00:00:00",
        "2090-06-01 00:10:00",
        "2091-06-01 00:00:00",
    ]
    .map(str::to_owned)
    .to_vec();
    let more = if full { 60 } else { 9 };
    times.extend((0..more).map(|n| format!("2025-{:02}-{:02} {:02}:{:02}:07", n % 12 + 1, n * 7 % 28 + 1, n * 5 % 24, n % 60)));
    for (n, time) in times.iter().enumerate() {
        let mut words = vec!["backup", "--time", time, "--host", ["here", "there"][n % 5 / 4]];
        for (tag, every) in [("a", 2), ("b", 3)] {
            if n % every == 0 {
                words.extend(["--tag", tag]);
            }
        }
        words.extend(if n % 7 == 6 { &["x", "y"][..] } else { &["x"] });
        restic(at, zones[n % zones.len()], &words);
    }
    let snapshots = restic(at, "UTC", &["snapshots"]).expect("a list");
    let all: Vec<Candidate> = snapshots.as_array().expect("a list").iter().map(listed).collect();
    assert_eq!(all.len(), times.len());
    assert!(all.iter().any(|one| one.moment.offset == 19_800), "the zones are known here");
    let mut compared = 0;
    let given = [
        "last 3",
        "hourly 4",
        "daily 5",
        "weekly 6",
        "monthly 7",
        "yearly 2",
        "yearly 9",
        "daily 2 weekly 3 monthly 4 yearly 5",
        "within 1d",
        "within 1y",
        "within 14m",
        "within 8760h",
        "within-hourly 3m",
        "within-daily 1y1d",
        "within-weekly 10m3d",
        "within-monthly 2y",
        "within-yearly 9999y",
        "tag a",
        "tag a,b tag b last 1",
        "last 1 daily unlimited",
        "last 1 hourly unlimited within-weekly 1y",
    ];
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let drawn = std::iter::repeat_with(|| policies().new_tree(&mut runner).expect("a policy").current());
    let drawn = drawn.filter(|policy| policy.counts.iter().any(|count| !count.is_zero()));
    for (n, policy) in given.iter().map(|text| policy(text)).chain(drawn.take(if full { 150 } else { 12 })).enumerate() {
        let by = ["host,paths", "", "tags", "host", "paths", "host,paths,tags"][n % 6];
        let mut words: Vec<String> = vec!["forget".into(), "--dry-run".into(), "--group-by".into(), by.into()];
        let names = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
        for (name, count) in names.iter().zip(&policy.counts) {
            match count {
                Count::Number(0) => {}
                Count::Number(n) => words.extend([format!("--keep-{name}"), n.to_string()]),
                Count::Unlimited => words.extend([format!("--keep-{name}"), "unlimited".into()]),
            }
        }
        for (name, span) in names.iter().zip(&policy.within).filter(|(_, span)| !span.is_zero()) {
            let name = if *name == "last" { "--keep-within".to_owned() } else { format!("--keep-within-{name}") };
            words.extend([name, span.to_string()]);
        }
        for list in &policy.tags {
            words.extend(["--keep-tag".into(), list.0.join(",")]);
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let now = (i64::try_from(now.as_secs()).expect("small"), now.subsec_nanos());
        let rules = Rules { group_by: by.parse().expect("words"), now, ..rules(policy) };
        let mine = ours(&all, &rules);
        if mine.iter().any(|group| group.1.is_empty()) {
            // It refuses to empty a group, and so do we.
            continue;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(mine, theirs(&restic(at, "UTC", &words).expect("a report")), "{words:?}");
        compared += 1;
    }
    println!(
        "figure: retention, policies decided the same: {compared} (over {} snapshots, by {})",
        all.len(),
        version.unwrap_or_default().trim()
    );
    assert!(compared >= 20, "{compared}");
}
