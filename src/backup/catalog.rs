//! The stage that puts entries into the catalog, in path order, and counts them.

use tokio::sync::mpsc;

use crate::backup::BackupError;
use crate::backup::drain::{Drain, Phase};
use crate::backup::read::{Change, Done, Outcome, Reading, unwritable};
use crate::backup::walk::Pending;
use crate::format::snapshot::{PROBLEMS_MAX, SourceProblem, Statistics};
use crate::format::tree::{Child, NodeChunk, TreeBuilder, TreeKind};
use crate::source::metadata::Kind;

/// What the entries so far add up to.
#[derive(Clone, Default)]
pub struct Tally {
    /// Counts; the sealing counters are filled in at the end.
    pub statistics: Statistics,
    /// Items with a problem.
    pub errors_count: u64,
    /// The first of them.
    pub errors: Vec<SourceProblem>,
}

impl Tally {
    /// Notes an item that could not be had as it should.
    pub fn problem(&mut self, path: Vec<u8>, message: String) {
        self.errors_count += 1;
        if self.errors.len() < PROBLEMS_MAX {
            let mut message = message;
            message.truncate((0..=1000).rev().find(|n| message.is_char_boundary(*n)).unwrap_or(0));
            self.errors.push(SourceProblem { path: path.into(), message });
        }
    }

    fn count(&mut self, done: &Done) {
        let s = &mut self.statistics;
        match (done.kind, done.change) {
            (Kind::File, change) => {
                s.files += 1;
                s.bytes += done.bytes;
                match change {
                    Change::New => s.files_new += 1,
                    Change::Changed => s.files_changed += 1,
                    Change::Same => s.files_unmodified += 1,
                }
            }
            (Kind::Directory, change) => {
                s.directories += 1;
                match change {
                    Change::New => s.dirs_new += 1,
                    Change::Changed => s.dirs_changed += 1,
                    Change::Same => s.dirs_unmodified += 1,
                }
            }
            _ => s.others += 1,
        }
    }
}

/// The catalog of one root being built.
pub struct Catalog {
    builder: TreeBuilder,
    nodes: Vec<NodeChunk>,
    /// Entries so far.
    pub entries: u64,
}

/// Why the stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is in.
    Complete,
    /// Stopped on request: what came before is in.
    Interrupted,
    /// A partial snapshot is due: call again.
    PartialDue,
}

impl Catalog {
    /// An empty one.
    pub fn new(reading: &Reading) -> Catalog {
        let builder = TreeBuilder::new(TreeKind::Catalog, reading.sealing.id_key.clone());
        Catalog { builder, nodes: Vec::new(), entries: 0 }
    }

    /// Takes results until there are no more, one says stop, or `due` comes true. Work that is not done when the run has no more
    /// time for it goes on in `left`: entries that are in may rely on chunks that it took on.
    pub async fn fill(
        &mut self,
        reading: &Reading,
        pending: &mut mpsc::Receiver<Pending>,
        tally: &mut Tally,
        (drain, left): (&Drain, &mut Vec<Pending>),
        mut due: impl FnMut() -> bool,
    ) -> Result<End, BackupError> {
        loop {
            let next = match drain.within(Phase::Flight, pending.recv()).await {
                Some(Some(next)) => next,
                Some(None) => return Ok(End::Complete),
                None => return Ok(End::Interrupted),
            };
            let outcomes = match next {
                Pending::Ready(outcomes) => outcomes,
                Pending::Large(mut work) => match drain.within(Phase::Flight, &mut work).await {
                    Some(outcome) => vec![outcome?],
                    None => {
                        left.push(Pending::Large(work));
                        return Ok(End::Interrupted);
                    }
                },
                Pending::Batch(slots, mut work) => match drain.within(Phase::Flight, &mut work).await {
                    Some(read) => {
                        let mut read = read?.into_iter();
                        slots.into_iter().filter_map(|slot| slot.or_else(|| read.next())).collect()
                    }
                    None => {
                        left.push(Pending::Batch(slots, work));
                        return Ok(End::Interrupted);
                    }
                },
            };
            for outcome in outcomes {
                match outcome {
                    Outcome::Vanished => {}
                    Outcome::Interrupted => return Ok(End::Interrupted),
                    Outcome::Done(done) => self.add(reading, *done, tally).await?,
                }
            }
            if due() {
                return Ok(End::PartialDue);
            }
        }
    }

    async fn add(&mut self, reading: &Reading, done: Done, tally: &mut Tally) -> Result<(), BackupError> {
        if done.change != Change::Same {
            reading.progress.items.add(1);
        }
        for (path, message) in &done.problems {
            tally.problem(path.clone(), message.clone());
            reading.progress.errors.add(1);
        }
        if done.value.is_empty() {
            return Ok(());
        }
        tally.count(&done);
        self.entries += 1;
        self.builder.push(&done.key, &done.value, done.bytes, &mut self.nodes).map_err(unwritable)?;
        reading.nodes(&mut self.nodes).await
    }

    /// The root of what is in so far; the catalog can be filled further afterwards.
    pub async fn root(&mut self, reading: &Reading) -> Result<Child, BackupError> {
        let root = self.builder.clone().finish(&mut self.nodes).map_err(unwritable)?;
        reading.nodes(&mut self.nodes).await?;
        Ok(root)
    }
}
