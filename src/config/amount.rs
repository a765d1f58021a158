//! Sizes, durations and shares as people write them: a whole number and a unit, nothing looser.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};

use crate::lifecycle::prune_plan::MaxUnused;

/// A number of bytes, written like `128 MiB` or `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time, written like `60s` or `10 m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A share of a whole, written like `50%`: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

/// How much waste may stay, written like `5%`, `10 GiB`, `0` or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unused(pub MaxUnused);

/// A text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It does not start with a whole number.
    #[error("{0:?} is not an amount: write a whole number and a unit, such as {1}")]
    Number(String, &'static str),
    /// The unit is missing or unknown.
    #[error("{0:?} needs one of the units {1}")]
    Unit(String, &'static str),
    /// It is no share of anything.
    #[error("{0:?} must be 1% to 100%")]
    Share(String),
    /// It does not fit.
    #[error("{0:?} is too large")]
    TooLarge(String),
    /// It says nothing of waste.
    #[error("{0:?} is no amount of waste: write a percentage up to 100 such as 5%, a size such as 10 GiB, 0, or unlimited")]
    Unused(String),
}

const SIZE_EXAMPLE: &str = "128 MiB";
const SIZE_UNITS: &str = "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB";
const PERCENT_EXAMPLE: &str = "50%";
const SPAN_EXAMPLE: &str = "60s";
const SPAN_UNITS: &str = "ms, s, m, h, d";
const UNUSED_EXAMPLE: &str = "5%";

fn split<'a>(text: &'a str, example: &'static str) -> Result<(u64, &'a str), AmountError> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return Err(AmountError::Number(text.to_owned(), example));
    }
    // Only digits are left, so the one way to fail is to be too large.
    let number = text[..end].parse().map_err(|_| AmountError::TooLarge(text.to_owned()))?;
    let unit = &text[end..];
    Ok((number, unit.strip_prefix(' ').unwrap_or(unit)))
}

impl FromStr for Size {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Size, AmountError> {
        let (number, unit) = split(text, SIZE_EXAMPLE)?;
        let factor: u64 = match unit {
            "B" => 1,
            // Nothing is nothing in any unit.
            "" if number == 0 => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(AmountError::Unit(text.to_owned(), SIZE_UNITS)),
        };
        number.checked_mul(factor).map(Size).ok_or_else(|| AmountError::TooLarge(text.to_owned()))
    }
}

impl FromStr for Span {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Span, AmountError> {
        let (number, unit) = split(text, SPAN_EXAMPLE)?;
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "" if number == 0 => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(AmountError::Unit(text.to_owned(), SPAN_UNITS)),
        };
        let total = number.checked_mul(milliseconds).ok_or_else(|| AmountError::TooLarge(text.to_owned()))?;
        Ok(Span(Duration::from_millis(total)))
    }
}

impl FromStr for Percent {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Percent, AmountError> {
        let (number, unit) = split(text, PERCENT_EXAMPLE)?;
        match (number, unit) {
            (1..=100, "%") => Ok(Percent(number as u8)),
            (_, "%") => Err(AmountError::Share(text.to_owned())),
            _ => Err(AmountError::Unit(text.to_owned(), "%")),
        }
    }
}

impl FromStr for Unused {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Unused, AmountError> {
        let wrong = || AmountError::Unused(text.to_owned());
        Ok(Unused(match (text, text.strip_suffix('%')) {
            ("unlimited", _) => MaxUnused::Unlimited,
            ("0", _) => MaxUnused::Bytes(0),
            (_, Some(percent)) => {
                let plain = percent.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !percent.starts_with('.');
                let percent: f64 = percent.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
                MaxUnused::Percent(Some(percent).filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(wrong)?)
            }
            _ => MaxUnused::Bytes(text.parse::<Size>().map_err(|_| wrong())?.0),
        }))
    }
}

struct AmountVisitor<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = AmountError>> Visitor<'_> for AmountVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text such as \"{}\"", self.1)
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        deserializer.deserialize_str(AmountVisitor(std::marker::PhantomData, SIZE_EXAMPLE))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
        deserializer.deserialize_str(AmountVisitor(std::marker::PhantomData, PERCENT_EXAMPLE))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_str(AmountVisitor(std::marker::PhantomData, SPAN_EXAMPLE))
    }
}

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unused, D::Error> {
        deserializer.deserialize_str(AmountVisitor(std::marker::PhantomData, UNUSED_EXAMPLE))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::amount::{AmountError, Percent, Size, Span, Unused};
    use crate::lifecycle::prune_plan::MaxUnused;

    #[test]
    fn waste() {
        let all = [
            ("5%", MaxUnused::Percent(5.0)),
            ("2.5%", MaxUnused::Percent(2.5)),
            ("0%", MaxUnused::Percent(0.0)),
            ("100%", MaxUnused::Percent(100.0)),
            ("0", MaxUnused::Bytes(0)),
            ("1 GiB", MaxUnused::Bytes(1 << 30)),
            ("unlimited", MaxUnused::Unlimited),
        ];
        for (text, unused) in all {
            assert_eq!(text.parse(), Ok(Unused(unused)), "{text}");
        }
        for text in ["", "%", "101%", "-1%", "nan%", "inf%", "1e1%", ".5%", "5 %", "5", "all", "1 XB"] {
            assert_eq!(text.parse::<Unused>(), Err(AmountError::Unused(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0B", 0), ("1 KiB", 1024), ("128 MiB", 128 << 20), ("1GiB", 1 << 30), ("2 TB", 2_000_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1 MiB", "1.5 GiB", " 1 MiB", "1  MiB", "1", "1 mib", "1 MiB ", "1M", "1 kib"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        assert!(matches!("18446744073709551616 B".parse::<Size>(), Err(AmountError::TooLarge(_))));
        assert!(matches!("16777216 TiB".parse::<Size>(), Err(AmountError::TooLarge(_))));
    }

    #[test]
    fn shares() {
        assert_eq!(("1%".parse(), "50 %".parse(), "100%".parse()), (Ok(Percent(1)), Ok(Percent(50)), Ok(Percent(100))));
        for text in ["", "0%", "101%", "50", "5.5%", "-1%", "%", "18446744073709551616%"] {
            assert!(text.parse::<Percent>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn spans() {
        for (text, ms) in [("250ms", 250), ("60s", 60_000), ("10 m", 600_000), ("2h", 7_200_000), ("14 d", 1_209_600_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "60", "1min", "-1s", "1.5h", "60 S"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}
