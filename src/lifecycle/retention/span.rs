//! Lengths of calendar time as retention rules name them: `1y5m7d2h`.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};

/// Years, months, days and hours. All zero: not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalendarSpan {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

/// A text that is no [`CalendarSpan`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// A number is missing.
    #[error("{0:?} is no length of time: write numbers with y, m, d or h, such as 1y5m7d2h")]
    Number(String),
    /// A unit is missing or unknown.
    #[error("{0:?} needs one of the units y (years), m (months), d and h after each number")]
    Unit(String),
    /// Below zero.
    #[error("{0:?} must not be negative")]
    Negative(String),
    /// It does not fit.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

impl CalendarSpan {
    /// Whether it stands for "not given".
    pub fn is_zero(&self) -> bool {
        *self == CalendarSpan::default()
    }

    /// The date and time so long before `from`: first the calendar's units at once, a day that its month does not have
    /// carried over into the next month, then the hours. `None`: before all that a calendar can show.
    pub fn before(&self, from: DateTime) -> Option<DateTime> {
        let back = i64::from(self.years) * 12 + i64::from(self.months);
        let months = i64::from(from.year()) * 12 + i64::from(from.month()) - 1 - back;
        let year = i16::try_from(months.div_euclid(12)).ok()?;
        let month = i8::try_from(months.rem_euclid(12) + 1).ok()?;
        let days = i64::from(from.day()) - 1 - i64::from(self.days);
        let date = Date::new(year, month, 1).ok()?.checked_add(jiff::Span::new().try_days(days).ok()?).ok()?;
        date.to_datetime(from.time()).checked_sub(jiff::Span::new().try_hours(self.hours).ok()?).ok()
    }
}

impl FromStr for CalendarSpan {
    type Err = SpanError;
    /// Units in any order; of a unit that is repeated the last number counts.
    fn from_str(text: &str) -> Result<CalendarSpan, SpanError> {
        let mut span = CalendarSpan::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
            if end == 0 {
                return Err(match rest.strip_prefix('-') {
                    Some(positive) if positive.starts_with(|c: char| c.is_ascii_digit()) => SpanError::Negative(text.to_owned()),
                    _ => SpanError::Number(text.to_owned()),
                });
            }
            // Only digits are left, so the one way to fail is to be too large.
            let number = rest[..end].parse().map_err(|_| SpanError::TooLarge(text.to_owned()))?;
            match rest.as_bytes().get(end) {
                Some(b'y') => span.years = number,
                Some(b'm') => span.months = number,
                Some(b'd') => span.days = number,
                Some(b'h') => span.hours = number,
                _ => return Err(SpanError::Unit(text.to_owned())),
            }
            rest = &rest[end + 1..];
        }
        Ok(span)
    }
}

impl fmt::Display for CalendarSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::{DateTime, date};

    use crate::lifecycle::retention::span::{CalendarSpan, SpanError};

    #[test]
    fn what_is_read_and_shown() {
        let span = |years, months, days, hours| CalendarSpan { years, months, days, hours };
        for (text, read, shown) in [
            ("1y5m7d2h", span(1, 5, 7, 2), "1y5m7d2h"),
            ("2h1d0m", span(0, 0, 1, 2), "1d2h"),
            ("3d1d", span(0, 0, 1, 0), "1d"),
            ("007d", span(0, 0, 7, 0), "7d"),
            ("9999y", span(9999, 0, 0, 0), "9999y"),
            ("0h", span(0, 0, 0, 0), ""),
            ("", span(0, 0, 0, 0), ""),
        ] {
            assert_eq!(text.parse(), Ok(read), "{text}");
            assert_eq!(read.to_string(), shown);
            assert_eq!(read.is_zero(), shown.is_empty());
        }
        for text in ["1", "1w", "1d2", "1 d", "1D", "1.5d", "0x1d", "1µ"] {
            assert_eq!(text.parse::<CalendarSpan>(), Err(SpanError::Unit(text.into())), "{text}");
        }
        for text in ["d", "+3d", "1d 2h", " 1d", "-d", "é"] {
            assert_eq!(text.parse::<CalendarSpan>(), Err(SpanError::Number(text.into())), "{text}");
        }
        for text in ["-1d", "1y-2d"] {
            assert_eq!(text.parse::<CalendarSpan>(), Err(SpanError::Negative(text.into())), "{text}");
        }
        assert_eq!("4294967296d".parse::<CalendarSpan>(), Err(SpanError::TooLarge("4294967296d".into())));
    }

    #[test]
    fn calendars_have_uneven_months() {
        let before = |text: &str, from: DateTime| text.parse::<CalendarSpan>().expect("a span").before(from);
        let at = |y, m, d| date(y, m, d).at(10, 20, 30, 5);
        for (from, span, to) in [
            // A day that February does not have is carried over.
            (at(2025, 3, 31), "1m", at(2025, 3, 3)),
            (at(2024, 3, 31), "1m", at(2024, 3, 2)),
            (at(2024, 2, 29), "1y", at(2023, 3, 1)),
            (at(2024, 2, 29), "4y", at(2020, 2, 29)),
            (at(2024, 3, 1), "1d", at(2024, 2, 29)),
            (at(2024, 1, 15), "14m", at(2022, 11, 15)),
            // Months first, then days.
            (at(2024, 3, 31), "1m1d", at(2024, 3, 1)),
            (at(2024, 1, 1), "1y2m3d", at(2022, 10, 29)),
        ] {
            assert_eq!(before(span, from), Some(to), "{span} before {from}");
        }
        assert_eq!(before("1d25h", at(2024, 3, 3)), Some(date(2024, 3, 1).at(9, 20, 30, 5)));
        for span in ["30000y", "4294967295m", "4294967295d", "4294967295h", "12100y", "9000000d"] {
            assert_eq!(before(span, at(2024, 3, 3)), None, "{span}");
        }
        assert_eq!(before("9999y", at(2024, 3, 3)), Some(at(-7975, 3, 3)));
    }
}
