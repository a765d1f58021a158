//! From how things ended to the exit code. The only place where the codes stand.

use std::collections::BTreeSet;

use crate::repository::error::Fault;

/// A signal that asked the run to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// The exit code of a run that this signal ended.
    pub fn code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }
}

const INCOMPLETE: u8 = 3;
const BEHIND: u8 = 4;
const INCOMPLETE_AND_BEHIND: u8 = 5;

/// Several at once: the first of these that is true is the exit code.
const PRECEDENCE: [u8; 15] = [143, 130, 2, 12, 15, 16, 14, 13, 10, 17, 11, 1, INCOMPLETE_AND_BEHIND, BEHIND, INCOMPLETE];

/// The code of a failure by itself. `signal` is what asked the run to stop, if anything did.
fn code_of(fault: Fault, signal: Option<Signal>) -> u8 {
    match fault {
        Fault::Failed => 1,
        Fault::Usage => 2,
        Fault::NoRepository => 10,
        Fault::Contention => 11,
        Fault::WrongKey => 12,
        Fault::Denied => 13,
        Fault::Integrity => 14,
        Fault::Rollback => 15,
        Fault::Unsupported => 16,
        Fault::Refused => 17,
        Fault::Interrupted => signal.unwrap_or(Signal::Interrupt).code(),
    }
}

/// The final state of a run: everything that is true of it and is not success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome(BTreeSet<u8>);

impl Outcome {
    /// Nothing but success.
    pub fn success() -> Outcome {
        Outcome::default()
    }

    /// It failed with this class. `signal` is what asked the run to stop, if anything did.
    pub fn failure(fault: Fault, signal: Option<Signal>) -> Outcome {
        Outcome(BTreeSet::from([code_of(fault, signal)]))
    }

    /// Adds that some source items (of a restore: some metadata) are missing or uncertain.
    pub fn incomplete(&mut self) {
        self.0.insert(INCOMPLETE);
    }

    /// Adds that it is done at quorum, but some replica is behind.
    pub fn behind(&mut self) {
        self.0.insert(BEHIND);
    }

    /// Adds everything that is true of `other`.
    pub fn join(&mut self, other: Outcome) {
        self.0.extend(other.0);
    }

    /// Whether nothing after this is worth starting: the run was stopped, or has a key or settings that the next step has too.
    pub fn stops_the_run(&self) -> bool {
        matches!(self.code(), 130 | 143 | 2 | 12)
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        let both = self.0.contains(&INCOMPLETE) && self.0.contains(&BEHIND);
        let holds = |code: &u8| self.0.contains(code) || (*code == INCOMPLETE_AND_BEHIND && both);
        PRECEDENCE.into_iter().find(holds).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::exit::{Outcome, Signal};
    use crate::repository::error::Fault;

    const FAULTS: [(Fault, u8); 10] = [
        (Fault::Usage, 2),
        (Fault::WrongKey, 12),
        (Fault::Rollback, 15),
        (Fault::Unsupported, 16),
        (Fault::Integrity, 14),
        (Fault::Denied, 13),
        (Fault::NoRepository, 10),
        (Fault::Refused, 17),
        (Fault::Contention, 11),
        (Fault::Failed, 1),
    ];

    /// Every condition by itself, worst first, with its code.
    fn all() -> Vec<(Outcome, u8)> {
        let mut behind = Outcome::success();
        behind.behind();
        let mut incomplete = Outcome::success();
        incomplete.incomplete();
        let mut all = vec![
            (Outcome::failure(Fault::Interrupted, Some(Signal::Terminate)), 143),
            (Outcome::failure(Fault::Interrupted, Some(Signal::Interrupt)), 130),
        ];
        all.extend(FAULTS.map(|(fault, code)| (Outcome::failure(fault, Some(Signal::Terminate)), code)));
        all.extend([(behind, 4), (incomplete, 3)]);
        all
    }

    #[test]
    fn every_set_of_conditions_has_the_code_of_its_worst() {
        let all = all();
        for set in 0_u32..1 << all.len() {
            let held = || all.iter().enumerate().filter(move |(i, _)| set & 1 << i != 0).map(|(_, one)| one);
            let mut outcome = Outcome::success();
            held().for_each(|(one, _)| outcome.join(one.clone()));
            let only_the_last_two = set == 0b11 << (all.len() - 2);
            let expected = if only_the_last_two { 5 } else { held().next().map_or(0, |(_, code)| *code) };
            assert_eq!(outcome.code(), expected, "{outcome:?}");
            assert_eq!(outcome.stops_the_run(), [143, 130, 2, 12].contains(&expected));
        }
        assert_eq!(Outcome::failure(Fault::Interrupted, None).code(), 130);
    }
}
