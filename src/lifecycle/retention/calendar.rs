//! The calendar as the clock of the machine that took a snapshot showed it: its own distance from UTC, never this machine's.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Seconds that no calendar here goes beyond: room for any distance from UTC is left at both ends.
const ROOM: i64 = 400_000;

/// A point in time, and the clock that showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds within that second.
    pub nanos: u32,
    /// The clock's distance from UTC in seconds, east positive; at most two days.
    pub offset: i32,
}

impl Moment {
    /// The point in time alone, to compare by.
    pub fn instant(&self) -> (i64, u32) {
        (self.seconds, self.nanos)
    }

    /// What its own clock showed.
    pub fn local(&self) -> DateTime {
        self.seen_at(self.offset)
    }

    /// What a clock `offset` seconds east of UTC showed then. Times that no calendar can show become its first or last.
    pub fn seen_at(&self, offset: i32) -> DateTime {
        let seconds = self.seconds.clamp(Timestamp::MIN.as_second() + ROOM, Timestamp::MAX.as_second() - ROOM);
        let shown = Timestamp::new(seconds + i64::from(offset), i32::try_from(self.nanos).unwrap_or(0));
        Offset::UTC.to_datetime(shown.unwrap_or_default())
    }
}

/// What divides time for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// Every snapshot is one of its own.
    Each,
    /// Hours of the clock.
    Hour,
    /// Days.
    Day,
    /// ISO weeks: from Monday, and belonging to the year that has their Thursday.
    Week,
    /// Months.
    Month,
    /// Years.
    Year,
}

/// Names one period among those of its kind.
pub type PeriodName = (i32, i32, i32, i32);

impl Period {
    /// All of them, from the finest.
    pub const ALL: [Period; 6] = [Period::Each, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

    /// The one that `moment` lies in; `nth` tells snapshots apart where each is its own.
    pub fn of(self, moment: &Moment, nth: usize) -> PeriodName {
        let at = moment.local();
        let (year, month, day) = (i32::from(at.year()), i32::from(at.month()), i32::from(at.day()));
        match self {
            Period::Each => (i32::try_from(nth).unwrap_or(i32::MAX), 0, 0, 0),
            Period::Hour => (year, month, day, i32::from(at.hour())),
            Period::Day => (year, month, day, 0),
            Period::Week => {
                let week = at.date().iso_week_date();
                (i32::from(week.year()), i32::from(week.week()), 0, 0)
            }
            Period::Month => (year, month, 0, 0),
            Period::Year => (year, 0, 0, 0),
        }
    }

    /// How reasons call its snapshots: `hourly`.
    pub fn word(self) -> &'static str {
        match self {
            Period::Each => "last",
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::lifecycle::retention::calendar::{Moment, Period};

    fn moment(text: &str, offset: i32) -> Moment {
        let at: jiff::Timestamp = text.parse().expect("a time");
        Moment { seconds: at.as_second(), nanos: 0, offset }
    }

    #[test]
    fn weeks_belong_to_the_year_of_their_thursday() {
        for (text, year, week) in [
            ("2016-01-01T12:00:00Z", 2015, 53),
            ("2016-01-03T12:00:00Z", 2015, 53),
            ("2016-01-04T12:00:00Z", 2016, 1),
            ("2020-12-31T12:00:00Z", 2020, 53),
            ("2021-01-03T23:59:59Z", 2020, 53),
            ("2024-12-30T00:00:00Z", 2025, 1),
        ] {
            assert_eq!(Period::Week.of(&moment(text, 0), 0), (year, week, 0, 0), "{text}");
        }
    }

    #[test]
    fn the_clock_that_took_it_decides() {
        let text = "2021-12-31T23:30:00Z";
        assert_eq!(Period::Year.of(&moment(text, 0), 0).0, 2021);
        assert_eq!(Period::Year.of(&moment(text, 3600), 0).0, 2022);
        assert_eq!(Period::Hour.of(&moment(text, 19_800), 0), (2022, 1, 1, 5), "half hours east");
        assert_eq!(Period::Day.of(&moment("2022-01-01T00:30:00Z", -3600), 0), (2021, 12, 31, 0));
    }

    #[test]
    fn any_number_is_some_time() {
        for seconds in [i64::MIN, -1, 0, i64::MAX] {
            for offset in [-172_800, 0, 172_800] {
                let moment = Moment { seconds, nanos: 999_999_999, offset };
                for period in Period::ALL {
                    period.of(&moment, usize::MAX);
                }
            }
        }
        assert_eq!(Moment { seconds: i64::MIN, nanos: 0, offset: 0 }.local().year(), -9999);
        assert_eq!(Moment { seconds: i64::MAX, nanos: 0, offset: 0 }.local().year(), 9999);
    }
}
