//! Which snapshots stay, and why. Pure.
//!
//! What is here: the rules (`policy`), lengths of calendar time (`span`), the calendar as a snapshot's own clock shows it
//! (`calendar`), groups (`group`) and the decision (`decide`). What comes in: what is known of each snapshot, the rules,
//! and the time that counts as now. What goes out: each group's snapshots, kept or not, each with its reasons. What never
//! happens here: a clock, a zone of this machine, a read or a write.

pub mod calendar;
pub mod decide;
pub mod group;
pub mod policy;
pub mod span;

use crate::format::Hash;
use crate::lifecycle::retention::calendar::Moment;

/// What retention has to know of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: Hash,
    /// When it was taken, by which clock.
    pub moment: Moment,
    /// The machine.
    pub host: String,
    /// The recorded paths of its roots, raw bytes.
    pub paths: Vec<Vec<u8>>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether its run had not finished.
    pub partial: bool,
    /// Whether as many replicas hold it as have to: only such complete snapshots count.
    pub at_quorum: bool,
    /// Why it is held, if it is: it stays whatever the rules say.
    pub held: Option<String>,
}

impl Candidate {
    /// Whether the rules count it.
    pub fn counts(&self) -> bool {
        !self.partial && self.at_quorum
    }
}
