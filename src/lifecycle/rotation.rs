//! Which slice of the packs is read today, so that each is read once within a set number of days. Pure.
//!
//! Packs belong to slices by their names, one for each day of the rotation. What was last read is noted in each replica's
//! log: days that were missed are made up for, and a clock that was wrong once costs reading, never leaves a slice out for
//! longer than one rotation from then on.

use std::collections::BTreeSet;

use crate::format::Hash;

/// The kind of note that says up to which day the slices of a replica were read.
pub const NOTE_ROTATION: &str = "rotation";

const DAY: i64 = 86_400;

/// Slices that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The first, from 1.
    pub nth: u32,
    /// How many there are; after the last comes the first.
    pub of: u32,
    /// How many are due, at most all.
    pub count: u32,
}

/// The day of a time, in seconds since the Unix epoch.
pub fn day(now: i64) -> i64 {
    now.div_euclid(DAY)
}

/// What there is to read on `today` in a rotation of `days`, when everything up to and with day `last` was read; `None`:
/// nothing. Without a last day, or with one from the future, it begins with today's slice.
pub fn due(last: Option<i64>, today: i64, days: u32) -> Option<Due> {
    if days == 0 {
        return None;
    }
    let missed = match last.filter(|last| *last <= today) {
        Some(last) => (today - last).min(i64::from(days)) as u32,
        None => 1,
    };
    if missed == 0 {
        return None;
    }
    let first = (today - i64::from(missed) + 1).rem_euclid(i64::from(days)) as u32;
    Some(Due { nth: first + 1, of: days, count: missed })
}

/// The text of the note: everything up to and with `day` was read, in a rotation of `days`, but for the packs `unread`.
pub fn text(day: i64, days: u32, unread: &BTreeSet<Hash>) -> String {
    let mut note = serde_json::json!({"day": day, "of": days});
    if !unread.is_empty() {
        note["unread"] = unread.iter().map(hex::encode).collect::<Vec<_>>().into();
    }
    note.to_string()
}

/// What a note's text says: the day, and what is left of its slices and those before; `None` when it says nothing of the kind,
/// or belongs to a rotation of another length, in which other packs were read.
pub fn noted(text: &str, days: u32) -> Option<(i64, BTreeSet<Hash>)> {
    let note: serde_json::Value = serde_json::from_str(text).ok()?;
    let day = note["day"].as_i64().filter(|_| note["of"].as_u64() == Some(u64::from(days)))?;
    let name = |text: &serde_json::Value| {
        let mut hash = [0; 32];
        hex::decode_to_slice(text.as_str()?, &mut hash).ok().map(|()| hash)
    };
    Some((day, note["unread"].as_array().into_iter().flatten().filter_map(name).collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::lifecycle::rotation::{due, noted, text};

    /// The slices, each by its number from 1.
    fn read(last: Option<i64>, today: i64, days: u32) -> Vec<u32> {
        let slices = due(last, today, days);
        slices.map_or(Vec::new(), |s| (0..s.count).map(|i| (s.nth - 1 + i) % s.of + 1).collect())
    }

    #[test]
    fn a_slice_a_day_and_missed_ones_besides() {
        assert_eq!(read(None, 700, 7), [1], "the first run reads one day's");
        assert_eq!(read(Some(700), 701, 7), [2]);
        assert_eq!(read(Some(700), 700, 7), [0_u32; 0], "today's was read");
        assert_eq!(read(Some(700), 703, 7), [2, 3, 4], "missed days");
        assert_eq!(read(Some(705), 708, 7), [7, 1, 2], "over the end");
        assert_eq!(read(Some(1), 708, 7).len(), 7, "never more than all");
        assert_eq!(read(Some(900), 708, 7), [2], "a day from the future");
        assert_eq!(read(None, -1, 7), [7], "before 1970");
        assert_eq!(read(Some(700), 701, 0), [0_u32; 0], "off");
        assert_eq!(read(None, 701, 1), [1], "all each day");
    }

    /// Whatever days a run is made on, each slice is read within a rotation's length of days, or at the next run after it.
    #[test]
    fn every_slice_comes_up_in_time() {
        for (days, pattern) in [(30_u32, 1_u64), (30, 0x9e37_79b9_7f4a_7c15), (7, 0x5555), (1, 3), (365, 0xff00_ff00)] {
            let (mut last, mut seen) = (None, Vec::new());
            for today in 0..2_000_i64 {
                if pattern.rotate_left(today as u32) & 1 == 0 && pattern != 1 {
                    continue;
                }
                if seen.is_empty() {
                    // Time is counted from the first run on.
                    seen = vec![today; days as usize];
                }
                for slice in read(last, today, days) {
                    seen[slice as usize - 1] = today;
                }
                last = Some(today);
                let late: BTreeSet<_> = seen.iter().filter(|at| today - **at >= i64::from(days)).collect();
                assert!(late.is_empty(), "on day {today} of {days}: {late:?}");
            }
        }
    }

    #[test]
    fn notes_are_read_back_and_others_are_not() {
        let (none, some) = (BTreeSet::new(), BTreeSet::from([[1; 32], [2; 32]]));
        assert_eq!(noted(&text(20_000, 30, &none), 30), Some((20_000, none.clone())));
        assert_eq!(noted(&text(-5, 30, &some), 30), Some((-5, some)));
        let odd = "{\"day\":7,\"of\":30,\"unread\":[1,\"00\",\"zz\"]}";
        assert_eq!(noted(odd, 30), Some((7, none.clone())));
        for other in [text(20_000, 7, &none), String::new(), "{}".into(), "[]".into(), "{\"day\":\"x\",\"of\":30}".into()] {
            assert_eq!(noted(&other, 30), None, "{other}");
        }
    }
}
