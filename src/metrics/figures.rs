//! A set of figures, to the text that Prometheus reads and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::names::{ALL, LABELS, Metric};

/// Longest text that is read back, in bytes.
pub const TEXT_MAX: u64 = 4 << 20;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;
/// One series: the place of its name in [`ALL`], and its labels.
type Series = (usize, Labels);

/// Figures that are known; what is not known is not here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(BTreeMap<Series, f64>);

fn place(name: &str) -> Option<usize> {
    ALL.iter().position(|metric| metric.name == name)
}

impl Figures {
    /// Sets a figure. Labels without a value are left out.
    pub fn set(&mut self, metric: &Metric, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| ((*name).into(), (*value).into()));
        if let Some(place) = place(metric.name) {
            self.0.insert((place, labels.collect()), value);
        }
    }

    /// The figure with exactly these labels.
    pub fn get(&self, metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self.0.get(&(place(metric.name)?, labels)).copied()
    }

    /// Every figure: name, labels and value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Metric, &Labels, f64)> {
        self.0.iter().map(|((place, labels), value)| (ALL[*place], labels, *value))
    }

    /// Takes over from `earlier` what is still true and not known better.
    pub fn take_over(&mut self, earlier: &Figures, still_true: impl Fn(&Metric, &Labels) -> bool) {
        for ((place, labels), value) in &earlier.0 {
            if still_true(ALL[*place], labels) {
                self.0.entry((*place, labels.clone())).or_insert(*value);
            }
        }
    }

    /// The values of one label.
    pub fn values_of(&self, label: &str) -> BTreeSet<&str> {
        self.0.keys().filter_map(|(_, labels)| labels.get(label)).map(String::as_str).collect()
    }

    /// Only what fits.
    pub fn only(&self, fits: impl Fn(&Labels) -> bool) -> Figures {
        Figures(self.0.iter().filter(|((_, labels), _)| fits(labels)).map(|(series, value)| (series.clone(), *value)).collect())
    }

    /// As text (version 0.0.4 of the format).
    pub fn encode(&self) -> String {
        type Gauges = Family<Vec<(String, String)>, Gauge<f64, AtomicU64>>;
        let mut registry = Registry::default();
        let mut families: BTreeMap<usize, Gauges> = BTreeMap::new();
        for ((place, labels), value) in &self.0 {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            families.entry(*place).or_default().get_or_create(&labels).set(*value);
        }
        for (place, family) in families {
            registry.register(ALL[place].name, ALL[place].help, family);
        }
        let mut text = String::new();
        // A `String` takes everything.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }

    /// From a text that [`Figures::encode`] made. What it does not know is left out: the text may be of another version, or not
    /// ours at all.
    pub fn parse(text: &str) -> Figures {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Figures(lines.filter_map(parse_line).collect())
    }
}

/// `name{label="value",...} number`.
fn parse_line(line: &str) -> Option<(Series, f64)> {
    let end = line.find(['{', ' '])?;
    let place = place(&line[..end])?;
    let mut rest = &line[end..];
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (name, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquote(quoted)?;
            if !LABELS.contains(&name) {
                return None;
            }
            labels.insert(name.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value: f64 = rest.trim().parse().ok()?;
    value.is_finite().then_some(((place, labels), value))
}

/// A label's value up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::metrics::figures::Figures;
    use crate::metrics::names::{ALL, INFO, LABELS, LAST_RUN_STATUS, LAST_SUCCESS_TIMESTAMP, REPLICA_UP};

    #[test]
    fn what_is_written_is_read_back() {
        let mut figures = Figures::default();
        for (i, metric) in ALL.iter().enumerate() {
            figures.set(metric, &[("repository", "abcd"), ("job", "a \"b\"\\c\nd"), ("kind", "")], i as f64 + 0.5);
            figures.set(metric, &[], 1.7e9 + i as f64);
        }
        let text = figures.encode();
        assert_eq!(Figures::parse(&text), figures, "{text}");
        assert!(!text.contains("kind=") && text.contains("# TYPE holdfast_info gauge\n"), "{text}");
        for text in ["", "x 1", "holdfast_info", "holdfast_info{", "holdfast_info{a=\"b\"} 1", "holdfast_info{job=\"x} 1"] {
            assert_eq!(Figures::parse(text), Figures::default(), "{text:?}");
        }
        assert_eq!(Figures::parse("holdfast_info NaN\nholdfast_info x"), Figures::default());
    }

    #[test]
    fn what_is_known_better_is_not_taken_over() {
        let (mut now, mut earlier) = (Figures::default(), Figures::default());
        now.set(&LAST_RUN_STATUS, &[("job", "a")], 2.0);
        for (metric, job) in
            [(&LAST_RUN_STATUS, "a"), (&LAST_RUN_STATUS, "b"), (&LAST_SUCCESS_TIMESTAMP, "a"), (&REPLICA_UP, "a")]
        {
            earlier.set(metric, &[("job", job)], 0.0);
        }
        now.take_over(&earlier, |metric, _| *metric != REPLICA_UP);
        assert_eq!(now.get(&LAST_RUN_STATUS, &[("job", "a")]), Some(2.0));
        assert_eq!(now.get(&LAST_RUN_STATUS, &[("job", "b")]), Some(0.0));
        assert_eq!(now.get(&LAST_SUCCESS_TIMESTAMP, &[("job", "a")]), Some(0.0));
        assert_eq!((now.get(&REPLICA_UP, &[("job", "a")]), now.get(&INFO, &[])), (None, None));
        assert_eq!(now.only(|labels| labels["job"] == "b").iter().count(), 1);
    }

    #[test]
    fn names_are_distinct_and_say_their_unit() {
        for (i, metric) in ALL.iter().enumerate() {
            assert!(metric.name.starts_with("holdfast_") && !metric.name.ends_with("_total") && !metric.help.ends_with('.'));
            assert!(ALL[..i].iter().all(|other| other.name != metric.name), "{}", metric.name);
            assert_eq!(metric.name.contains("timestamp"), metric.name.ends_with("_timestamp_seconds"), "{}", metric.name);
        }
        assert!(!LABELS.contains(&"snapshot"));
    }
}
