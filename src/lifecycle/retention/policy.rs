//! The rules that say which snapshots stay. They are independent: what any of them wants is kept.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};

use crate::lifecycle::retention::calendar::Period;
use crate::lifecycle::retention::span::CalendarSpan;

/// How many snapshots a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many; none: the rule is off.
    Number(u32),
    /// All of its kind.
    Unlimited,
}

impl Default for Count {
    fn default() -> Count {
        Count::Number(0)
    }
}

/// A text or number that is no [`Count`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no count: write a whole number, or unlimited")]
pub struct CountError(String);

impl Count {
    /// Whether the rule is off, or has run out.
    pub fn is_zero(self) -> bool {
        self == Count::Number(0)
    }

    /// One taken.
    pub(super) fn less(self) -> Count {
        match self {
            Count::Number(n) => Count::Number(n.saturating_sub(1)),
            Count::Unlimited => Count::Unlimited,
        }
    }
}

impl FromStr for Count {
    type Err = CountError;
    fn from_str(text: &str) -> Result<Count, CountError> {
        match text {
            "unlimited" => Ok(Count::Unlimited),
            _ => text.parse().map(Count::Number).map_err(|_| CountError(format!("{text:?}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        struct NumberOrWord;
        impl Visitor<'_> for NumberOrWord {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or \"unlimited\"")
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Count, E> {
                u32::try_from(number).map(Count::Number).map_err(|_| E::custom(CountError(number.to_string())))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                match text {
                    "unlimited" => Ok(Count::Unlimited),
                    _ => Err(E::custom(CountError(format!("{text:?}")))),
                }
            }
        }
        deserializer.deserialize_any(NumberOrWord)
    }
}

/// Tags that a snapshot must have, all of them; written `a,b`. A single empty one: those without any tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagList(pub Vec<String>);

impl TagList {
    /// Reads `a,b`.
    pub fn parse(text: &str) -> TagList {
        TagList(text.split(',').map(|tag| tag.trim().to_owned()).collect())
    }

    /// Whether a snapshot with these tags is meant.
    pub fn admits(&self, tags: &[String]) -> bool {
        match self.0.as_slice() {
            [one] if one.is_empty() => tags.is_empty(),
            all => all.iter().all(|wanted| tags.contains(wanted)),
        }
    }
}

impl fmt::Display for TagList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.join(", "))
    }
}

/// All rules together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// By [`Period`], from the finest: how many of the newest with a period of their own are kept.
    pub counts: [Count; 6],
    /// By [`Period`], from the finest: how far back from the newest snapshot one of each period is kept.
    pub within: [CalendarSpan; 6],
    /// Snapshots with the tags of any of these lists are kept.
    pub tags: Vec<TagList>,
}

impl Policy {
    /// Whether no rule keeps anything.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.counts.iter().all(|c| c.is_zero()) && self.within.iter().all(CalendarSpan::is_zero)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (period, count) in Period::ALL.iter().zip(&self.counts) {
            match count {
                Count::Number(0) => {}
                Count::Number(n) => parts.push(format!("{n} {}", period.word())),
                Count::Unlimited => parts.push(format!("all {}", period.word())),
            }
        }
        for (period, span) in Period::ALL.iter().zip(&self.within).filter(|(_, span)| !span.is_zero()) {
            match period {
                Period::Each => parts.push(format!("all within {span} of the newest")),
                _ => parts.push(format!("{} within {span}", period.word())),
            }
        }
        parts.extend(self.tags.iter().map(|list| format!("all with tags {list}")));
        match parts.is_empty() {
            true => f.write_str("keep nothing"),
            false => write!(f, "keep {}", parts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::lifecycle::retention::policy::{Count, Policy, TagList};

    #[test]
    fn counts() {
        for (text, count) in [("0", 0), ("7", 7), ("+1", 1), ("007", 7)] {
            assert_eq!(text.parse(), Ok(Count::Number(count)));
        }
        assert_eq!("unlimited".parse(), Ok(Count::Unlimited));
        for text in ["", "-1", "-2", " 1", "1.0", "0x2", "Unlimited", "99999999999"] {
            assert!(text.parse::<Count>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn lists_of_tags() {
        let has =
            |list: &str, tags: &[&str]| TagList::parse(list).admits(&tags.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert!(has("a", &["a", "b"]) && has("a,b", &["b", "a"]) && has("a, b", &["a", "b", "c"]));
        assert!(!has("a,b", &["a"]) && !has("a,", &["a"]) && !has("", &["a"]));
        assert!(has("", &[]) && !has("a", &[]));
    }

    #[test]
    fn what_the_rules_say() {
        let mut policy = Policy::default();
        assert_eq!((policy.to_string().as_str(), policy.is_empty()), ("keep nothing", true));
        policy.counts[2] = Count::Number(7);
        policy.counts[5] = Count::Unlimited;
        policy.within[0] = "1y2d".parse().expect("a span");
        policy.within[3] = "2m".parse().expect("a span");
        policy.tags.push(TagList::parse("a,b"));
        assert!(!policy.is_empty());
        assert_eq!(
            policy.to_string(),
            "keep 7 daily, all yearly, all within 1y2d of the newest, weekly within 2m, all with tags [a, b]"
        );
    }
}
