//! What the walk is compared with: the newest complete snapshot of the same sources, and a newer partial one before it.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use crate::chunk::id::ChunkId;
use crate::format::Hash;
use crate::format::entry::{self, Content, Entry, Piece};
use crate::format::tree::TreeKind;
use crate::repository::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::reader::Cursor;
use crate::repository::snapshots::SnapshotView;

/// How many of the last commits are looked at for a parent. Beyond them the source is read again, which costs time and no
/// storage.
const LOOK_BACK: usize = 256;
/// How many of them are read at once.
const AT_ONCE: usize = 8;

/// Picks the snapshots to compare with: same host, same recorded paths; partial ones only if newer than the complete one.
pub async fn choose(repository: &Repository, host: &str, paths: &[Vec<u8>]) -> Vec<SnapshotView> {
    let live = repository.live().await;
    let mut views = stream::iter(live.iter().take(LOOK_BACK)).map(|one| repository.view(one)).buffered(AT_ONCE);
    let mut chosen: Vec<SnapshotView> = Vec::new();
    while let Some(view) = views.next().await {
        let Some(view) = view else { continue };
        let theirs: Vec<&[u8]> = view.snapshot.roots.iter().map(|r| r.path.as_ref()).collect();
        // A partial snapshot may lack its last roots.
        let same = theirs.iter().all(|p| paths.iter().any(|own| own == p));
        if view.snapshot.host != host || !same {
            continue;
        }
        if !view.snapshot.partial && theirs.len() == paths.len() {
            chosen.push(view);
            break;
        }
        if view.snapshot.partial && chosen.is_empty() {
            chosen.push(view);
        }
    }
    chosen
}

/// One place in each parent's catalog of one root, moving forward together with the walk.
pub struct Parents<'r> {
    repository: &'r Repository,
    cursors: Vec<Place<'r>>,
    /// Entries whose change time is not before this may have changed unnoticed after they were read: seconds, nanoseconds.
    /// One bound per cursor.
    racy: Vec<(i64, u32)>,
    /// What could not be read of a parent: the rest of it counts as absent.
    pub notes: Vec<String>,
}

struct Place<'r> {
    cursor: Cursor<'r>,
    at: Option<(Bytes, Bytes)>,
    begun: bool,
    ended: bool,
}

/// The clock that stamps files may tick this coarsely, in nanoseconds.
const STAMP_TICK: i64 = 20_000_000;

impl<'r> Parents<'r> {
    /// At the beginning of the root recorded as `path` in each of `views`.
    pub fn open(repository: &'r Repository, views: &[SnapshotView], path: &[u8]) -> Parents<'r> {
        let mut parents = Parents { repository, cursors: Vec::new(), racy: Vec::new(), notes: Vec::new() };
        for view in views {
            let root = view.snapshot.roots.iter().find(|r| r.path == path).and_then(|r| r.catalog.as_ref());
            let Some(root) = root else { continue };
            match repository.cursor(TreeKind::Catalog, root) {
                Ok(cursor) => {
                    parents.cursors.push(Place { cursor, at: None, begun: false, ended: false });
                    // By the clock: the time that a snapshot bears may have been given to it.
                    let (seconds, nanos) = view.snapshot.began();
                    let nanos = i64::from(nanos) - STAMP_TICK;
                    let carry = i64::from(nanos < 0);
                    parents.racy.push((seconds - carry, (nanos + carry * 1_000_000_000) as u32));
                }
                Err(e) => parents.notes.push(format!("the parent cannot be read: {e}")),
            }
        }
        parents
    }

    /// Whether there is anything to compare with.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// The entry with exactly this key, and whether its change time is too late to be trusted. Keys must ascend from call to call.
    pub async fn find(&mut self, key: &[u8]) -> Option<(Bytes, Entry, bool)> {
        let mut found = None;
        for (place, racy) in self.cursors.iter_mut().zip(&self.racy) {
            if let Err(e) = place.advance(key).await {
                self.notes.push(format!("the parent cannot be read on: {e}"));
                (place.ended, place.at) = (true, None);
            }
            if found.is_none()
                && let Some((at, value)) = &place.at
                && *at == key
                && let Ok(entry) = entry::decode(value.clone(), key)
            {
                let late = (entry.ctime, entry.ctime_nanos) >= *racy;
                found = Some((value.clone(), entry, late));
            }
        }
        found
    }

    /// Every chunk that an entry names, directly or through a content list, list nodes included.
    pub async fn closure(&self, entry: &Entry) -> Result<Vec<ChunkId>, RepositoryError> {
        let mut ids: Vec<ChunkId> = entry.xattrs.iter().filter_map(|x| x.chunk.as_ref()?.chunk_id()).collect();
        let Some(Content { pieces, list }) = &entry.content else { return Ok(ids) };
        ids.extend(pieces.iter().filter_map(Piece::chunk_id));
        if let Some(list) = list {
            let mut cursor = self.repository.cursor(TreeKind::Content, list)?;
            while let Some((_, value)) = cursor.next().await? {
                let piece = <Piece as prost::Message>::decode(value);
                ids.extend(piece.ok().and_then(|p| p.chunk_id()));
            }
            ids.extend(cursor.take_read());
        }
        Ok(ids)
    }
}

impl Place<'_> {
    async fn advance(&mut self, key: &[u8]) -> Result<(), RepositoryError> {
        if self.ended || self.at.as_ref().is_some_and(|(at, _)| at[..] >= *key) {
            return Ok(());
        }
        // The next one is nearly always right; a seek is for what was left out of this walk.
        for step in 0.. {
            if step == 4 || !self.begun {
                self.cursor.seek(key);
                self.begun = true;
            }
            self.at = self.cursor.next().await?;
            match &self.at {
                Some((at, _)) if at[..] < *key => {}
                Some(_) => return Ok(()),
                None => break,
            }
        }
        self.ended = true;
        Ok(())
    }
}

/// The ids of snapshots.
pub fn ids(views: &[SnapshotView]) -> Vec<Hash> {
    views.iter().map(|v| v.id).collect()
}
