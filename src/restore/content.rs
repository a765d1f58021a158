//! The content of one file, run by run: from its entry, or from its content list however long.

use std::collections::VecDeque;

use prost::Message;

use crate::chunk::id::ChunkId;
use crate::format::entry::{Entry, Piece};
use crate::format::tree::TreeKind;
use crate::repository::Repository;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::reader::Cursor;
use crate::restore::tally::told;

/// A run of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// A chunk and its length.
    Chunk(ChunkId, u32),
    /// Zeros that are not stored.
    Hole(u64),
    /// The part of the content list that says what stands here cannot be read.
    Lost(u64, String),
}

/// The runs of one file, in order.
pub struct Runs<'r> {
    inline: VecDeque<Piece>,
    list: Option<Cursor<'r>>,
    offset: u64,
    size: u64,
}

impl<'r> Runs<'r> {
    /// Before the first run.
    pub fn of(repository: &'r Repository, entry: &Entry) -> Result<Runs<'r>, RepositoryError> {
        let content = entry.content.clone().unwrap_or_default();
        let list = content.list.as_ref().map(|root| repository.cursor(TreeKind::Content, root)).transpose()?;
        Ok(Runs { inline: content.pieces.into(), list, offset: 0, size: entry.size })
    }

    /// The next run and its place in the file.
    pub async fn next(&mut self) -> Result<Option<(u64, Run)>, RepositoryError> {
        let (length, run) = match (self.inline.pop_front(), &mut self.list) {
            (Some(piece), _) => run_of(&piece)?,
            (None, None) => return Ok(None),
            (None, Some(list)) => match list.next().await {
                Ok(None) => return Ok(None),
                Ok(Some((_, value))) => {
                    let what = "a content list is damaged";
                    let piece = Piece::decode(value).map_err(|e| RepositoryError::caused(Fault::Integrity, what, e))?;
                    piece.verify(what).map_err(|e| RepositoryError::caused(Fault::Integrity, what, e))?;
                    run_of(&piece)?
                }
                Err(e) if e.fault == Fault::Integrity => match list.pass_over() {
                    Some(unread) => (unread.bytes, Run::Lost(unread.bytes, told(&e))),
                    None => return Err(e),
                },
                Err(e) => return Err(e),
            },
        };
        let at = self.offset;
        self.offset = at.saturating_add(length);
        if self.offset > self.size {
            return Err(RepositoryError::new(Fault::Integrity, "a content list is longer than its file"));
        }
        Ok(Some((at, run)))
    }
}

fn run_of(piece: &Piece) -> Result<(u64, Run), RepositoryError> {
    let run = match piece.chunk_id() {
        None => Run::Hole(piece.length),
        Some(id) => {
            let wrong = |_| RepositoryError::new(Fault::Integrity, "a chunk is longer than any chunk");
            Run::Chunk(id, u32::try_from(piece.length).map_err(wrong)?)
        }
    };
    Ok((piece.length, run))
}
