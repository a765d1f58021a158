//! The model in words, for traces.

use std::fmt;

use crate::model::protocol::{Backup, Role, Scenario};
use crate::model::world::{Kind, Record, Set, bits};

/// Objects, as `P0 P3`.
pub struct Names(Set);

/// Chunks, as `ab`.
pub struct Chunks(Set);

/// A record.
pub struct Told(Record);

/// An actor.
pub struct Who<'s>(usize, &'s Role);

pub fn names(set: Set) -> Names {
    Names(set)
}

pub fn chunks(set: Set) -> Chunks {
    Chunks(set)
}

/// A replica's name.
pub fn store(r: usize) -> &'static str {
    ["paris", "spare"][r]
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("nothing");
        }
        bits(self.0).enumerate().try_for_each(|(at, name)| write!(f, "{}P{name}", if at > 0 { " " } else { "" }))
    }
}

impl fmt::Display for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bits(self.0).try_for_each(|chunk| write!(f, "{}", char::from(b'a' + chunk as u8)))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        match record.kind() {
            Kind::Publish => write!(f, "publish {}", names(record.names))?,
            Kind::Commit if record.names == 0 => write!(f, "commit S{}", record.snapshot())?,
            Kind::Commit => write!(f, "commit S{} with {}", record.snapshot(), names(record.names))?,
            Kind::Forget => write!(f, "forget S{}", record.snapshot())?,
            Kind::Condemn => write!(f, "condemn {}", names(record.names))?,
            Kind::Distrust => write!(f, "distrust {}", names(record.names))?,
            Kind::Compact => write!(f, "compact {} with the rows of {}", names(record.old), names(record.names))?,
        }
        if record.kind() == Kind::Commit {
            bits(record.old).try_for_each(|snapshot| write!(f, " instead of S{snapshot}"))?;
        }
        if record.extra != 0 { write!(f, ", object {}", names(record.extra)) } else { Ok(()) }
    }
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Role::Backup(Backup { snapshot, .. }) => write!(f, "the backup of S{snapshot}"),
            Role::Pruner { .. } => write!(f, "pruner {}", self.0),
            Role::Compactor { .. } => write!(f, "compactor {}", self.0),
            Role::Forgetter { .. } => write!(f, "forgetter {}", self.0),
            Role::Verifier { .. } => write!(f, "verifier {}", self.0),
            Role::Healer { .. } => write!(f, "healer {}", self.0),
        }
    }
}

impl Scenario {
    pub fn who(&self, a: usize) -> Who<'_> {
        Who(a, &self.roles[a])
    }

    pub fn told(record: Record) -> Told {
        Told(record)
    }

    /// Where a scenario begins, in words.
    pub fn beginning(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for r in 0..self.replicas {
            let log = &self.start.logs[r];
            let records: Vec<String> = log.slots(0, log.len).iter().map(|record| Told(*record).to_string()).collect();
            lines.push(format!(
                "{} begins with: {}",
                store(r),
                if records.is_empty() { "nothing".to_owned() } else { records.join("; ") }
            ));
        }
        let held: Vec<String> = (0..self.start.contents.len())
            .filter(|name| self.start.contents[*name] != 0 && self.start.present.iter().any(|p| p & 1 << name != 0))
            .map(|name| format!("P{name} holds {}", chunks(self.start.contents[name])))
            .collect();
        lines.push(held.join(", "));
        let snapshots = self.snapshots.iter().enumerate().map(|(s, needed)| format!("S{s} needs {}", chunks(*needed)));
        lines.push(snapshots.collect::<Vec<_>>().join(", "));
        lines
    }
}
