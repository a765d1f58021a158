//! The selected part of the catalogs, in order, cut into windows that bound memory and open files whatever the size of a
//! tree, a directory or a file.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::chunk::id::ChunkId;
use crate::format::catalog;
use crate::format::entry::{self, Entry, EntryKind};
use crate::format::tree::TreeKind;
use crate::progress::Stop;
use crate::repository::Repository;
use crate::repository::error::Fault;
use crate::repository::reader::Cursor;
use crate::restore::RestoreError;
use crate::restore::content::{Run, Runs};
use crate::restore::item::Item;
use crate::restore::select::{Choice, Judged, Part, is_at_or_below};
use crate::restore::tally::{Tally, told};
use crate::source::firsts::{Firsts, Group};

/// Runs of files in one window.
const RUNS_MAX: usize = 16 << 10;
/// Bytes of keys, paths and entries in one window, about.
const WEIGHT_MAX: usize = 4 << 20;

/// A step that puts something into the target.
pub enum Step {
    /// Make a directory: key, recorded path, and whether its metadata will be set later.
    Directory(Vec<u8>, Vec<u8>, bool),
    /// Put an item that is no directory.
    Item(Arc<Item>),
    /// Make an item another name of what stands at a key.
    Link(Arc<Item>, Vec<u8>),
}

/// A directory whose contents are all in this window or before it.
pub struct Left {
    /// Where it goes.
    pub key: Vec<u8>,
    /// Where it was.
    pub path: Vec<u8>,
    /// What is known of it.
    pub entry: Entry,
}

/// A chunk (or hole) of a file, and its place there.
#[derive(Clone)]
pub struct Placed {
    /// The file.
    pub item: Arc<Item>,
    /// Where in it.
    pub offset: u64,
    /// How long.
    pub length: u64,
    /// The chunk; none: a hole.
    pub id: Option<ChunkId>,
}

/// Some of the walk.
#[derive(Default)]
pub struct Window {
    /// What to put, in catalog order.
    pub steps: Vec<Step>,
    /// Content to write.
    pub runs: Vec<Placed>,
    /// Items whose content ends in this window.
    pub whole: Vec<Arc<Item>>,
    /// Directories to finish, children before parents.
    pub left: Vec<Left>,
    /// Whether the next window belongs to another part, which may touch the same items.
    pub ends_part: bool,
    weight: usize,
}

/// A directory that is open in the walk. Its key is the beginning of the deepest one's.
struct Level {
    length: usize,
    entry: Option<Bytes>,
    judged: Judged,
    made: bool,
}

/// The walk of one part.
struct Within<'r> {
    part: Part,
    cursor: Cursor<'r>,
    next: Option<(Bytes, Bytes)>,
    ended: bool,
    levels: Vec<Level>,
    /// Key of the deepest open directory.
    deepest: Vec<u8>,
    /// How much of the way to the part's place in the target was made.
    way_made: Option<usize>,
    /// The last item that was no directory: nothing can lie beneath it.
    leaf: Bytes,
    /// Taken, and waiting for its directories to be made; none inside: a directory, which needs nothing more.
    taken: Option<Option<Entering>>,
    streaming: Option<(Arc<Item>, Runs<'r>)>,
    /// Hard-link groups met, by a hash of kind and first key, with the key in the target that was made first.
    groups: Option<Firsts>,
}

struct Entering {
    key: Bytes,
    entry: Entry,
    path: Vec<u8>,
}

/// The walk.
pub struct Walk<'r> {
    repository: &'r Repository,
    choice: &'r Choice,
    tally: Arc<Tally>,
    stop: Stop,
    steps_max: usize,
    links_memory: usize,
    parts: VecDeque<Part>,
    within: Option<Within<'r>>,
}

impl Window {
    fn is_full(&self, steps_max: usize) -> bool {
        self.steps.len() >= steps_max || self.runs.len() >= RUNS_MAX || self.weight >= WEIGHT_MAX
    }
}

impl<'r> Walk<'r> {
    /// Before the first item. A window has at most `steps_max` steps, which is how many files it can open. First names of
    /// hard links take about `links_memory` bytes, and beyond it a temporary file.
    pub fn new(
        repository: &'r Repository,
        choice: &'r Choice,
        tally: Arc<Tally>,
        stop: &Stop,
        (steps_max, links_memory): (usize, usize),
        parts: Vec<Part>,
    ) -> Walk<'r> {
        Walk { repository, choice, tally, stop: stop.clone(), steps_max, links_memory, parts: parts.into(), within: None }
    }

    /// The next window; `None` at the end.
    pub async fn window(&mut self) -> Result<Option<Window>, RestoreError> {
        let mut window = Window::default();
        while !window.is_full(self.steps_max) {
            if self.stop.requested() {
                return Err(RestoreError::Interrupted);
            }
            let Some(within) = &mut self.within else {
                let Some(part) = self.parts.pop_front() else { return Ok(None) };
                let mut cursor = self.repository.cursor(TreeKind::Catalog, &part.catalog)?;
                cursor.seek(&part.from);
                self.within = Some(Within::new(part, cursor, self.links_memory));
                continue;
            };
            if within.stream(&mut window, &self.tally).await?
                || within.make_way(&mut window)
                || within.enter(&mut window, &self.tally, self.repository).await?
            {
                continue;
            }
            if within.next.is_none() && !within.ended {
                within.advance(&self.tally).await?;
                continue;
            }
            if within.leave(&mut window) {
                continue;
            }
            if within.next.is_none() {
                self.within = None;
                window.ends_part = true;
                return Ok(Some(window));
            }
            within.take(self.choice, &self.tally);
        }
        Ok(Some(window))
    }
}

impl<'r> Within<'r> {
    fn new(part: Part, cursor: Cursor<'r>, links_memory: usize) -> Within<'r> {
        Within {
            part,
            cursor,
            next: None,
            ended: false,
            levels: Vec::new(),
            deepest: Vec::new(),
            way_made: Some(0),
            leaf: Bytes::new(),
            taken: None,
            streaming: None,
            groups: Some(Firsts::new(links_memory, std::env::temp_dir())),
        }
    }

    /// Gives the runs of the file that was begun; whether there was one.
    async fn stream(&mut self, window: &mut Window, tally: &Tally) -> Result<bool, RestoreError> {
        let Some((item, runs)) = &mut self.streaming else { return Ok(false) };
        while window.runs.len() < RUNS_MAX {
            match runs.next().await {
                Ok(Some((offset, Run::Chunk(id, length)))) => {
                    window.runs.push(Placed { item: item.clone(), offset, length: u64::from(length), id: Some(id) });
                }
                Ok(Some((offset, Run::Hole(length)))) => {
                    window.runs.push(Placed { item: item.clone(), offset, length, id: None });
                }
                Ok(Some((offset, Run::Lost(length, why)))) => {
                    item.lose(tally, Some((offset, length)), || format!("{length} bytes at {offset} could not be had: {why}"));
                }
                Ok(None) => {
                    window.whole.push(item.clone());
                    self.streaming = None;
                    break;
                }
                Err(e) if e.fault == Fault::Integrity => {
                    item.lose(tally, None, || told(&e));
                    window.whole.push(item.clone());
                    self.streaming = None;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    /// Makes the next directory on the way to what was taken; whether there was one to make. One at a time: together,
    /// the keys on the way to a deep place are long.
    fn make_way(&mut self, window: &mut Window) -> bool {
        if self.taken.is_none() {
            return false;
        }
        if let Some(made) = self.way_made {
            let rest = &self.part.to[made..];
            let skip = usize::from(made > 0);
            match rest.iter().skip(skip).position(|b| *b == catalog::SEPARATOR) {
                Some(end) => {
                    let key = self.part.to[..made + skip + end].to_vec();
                    self.way_made = Some(key.len());
                    window.weight += 2 * key.len() + 64;
                    let shown = [b"/".as_slice(), &key].concat().iter().map(|b| if *b == 0 { b'/' } else { *b }).collect();
                    window.steps.push(Step::Directory(key, shown, false));
                }
                None => self.way_made = None,
            }
            return true;
        }
        let Some(level) = self.levels.iter_mut().find(|level| !level.made) else { return false };
        level.made = true;
        let key = &self.deepest[..level.length];
        let (to, path) = (self.part.target_of(key, true), self.part.path_of(key));
        window.weight += to.len() + path.len() + 64;
        window.steps.push(Step::Directory(to, path, level.entry.is_some()));
        true
    }

    /// Puts what was taken into the window, its directories being made; whether something was.
    async fn enter(&mut self, window: &mut Window, tally: &Tally, repository: &'r Repository) -> Result<bool, RestoreError> {
        let Some(taken) = self.taken.take() else { return Ok(false) };
        let Some(Entering { key, entry, path }) = taken else { return Ok(true) };
        let to = self.part.target_of(&key, false);
        window.weight += to.len() + path.len() + key.len() + prost::Message::encoded_len(&entry) + 512;
        let is_file = entry.kind() == EntryKind::File;
        let group = (!entry.hard_link.is_empty()).then(|| group_of(&entry));
        let item = Arc::new(Item::new(to, path, entry));
        if let Some(group) = group
            && let Some(first) = self.first_of(group, &item, repository).await?
        {
            window.steps.push(Step::Link(item, first));
            return Ok(true);
        }
        window.steps.push(Step::Item(item.clone()));
        if !is_file {
            window.whole.push(item);
            return Ok(true);
        }
        match Runs::of(repository, &item.entry) {
            Ok(runs) => self.streaming = Some((item, runs)),
            Err(e) => {
                item.lose(tally, None, || told(&e));
                window.whole.push(item);
            }
        }
        Ok(true)
    }

    /// What was made first of a group; none: this item is.
    async fn first_of(
        &mut self,
        group: Group,
        item: &Arc<Item>,
        repository: &Repository,
    ) -> Result<Option<Vec<u8>>, RestoreError> {
        let mut groups = self.groups.take().expect("it comes back from every question");
        let (may_block, item) = (groups.may_block(), item.clone());
        let ask = move || {
            // How many names will be asked for is not known.
            let first = groups.meet(group, u64::MAX, &item.key);
            (groups, first)
        };
        let (groups, first) = if may_block { repository.env.blocking(ask).await } else { ask() };
        self.groups = Some(groups);
        let doing = "could not keep the first names of hard links in a temporary file (is its folder full?)";
        first.map_err(|e| RestoreError::Target(format!("{doing}: {e}")))
    }

    /// Reads on, past what cannot be read.
    async fn advance(&mut self, tally: &Tally) -> Result<(), RestoreError> {
        match self.cursor.next().await {
            Ok(Some((key, value))) if self.part.has(&key) => self.next = Some((key, value)),
            Ok(_) => self.ended = true,
            Err(e) if e.fault == Fault::Integrity => {
                let Some(unread) = self.cursor.pass_over() else { return Err(e.into()) };
                let first = if self.part.has(&unread.first) { &unread.first[..] } else { &self.part.from };
                let until = match unread.next.filter(|key| self.part.has(key)) {
                    Some(key) => format!("up to {}", String::from_utf8_lossy(&self.part.path_of(&key))),
                    None => "to the end".to_owned(),
                };
                let why = format!("from here {until}, up to {} items are lost: {}", unread.entries, told(&e));
                tally.gone(&self.part.path_of(first), why);
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Leaves the deepest open directory if the next item is not in it; whether it did.
    fn leave(&mut self, window: &mut Window) -> bool {
        let stays = self.next.as_ref().is_some_and(|(key, _)| is_at_or_below(key, &self.deepest));
        if stays {
            return false;
        }
        let Some(level) = self.levels.pop() else { return false };
        if let (true, Some(entry)) = (level.made, level.entry.and_then(|value| entry::decode(value, &self.deepest).ok())) {
            let (key, path) = (self.part.target_of(&self.deepest, true), self.part.path_of(&self.deepest));
            window.weight += key.len() + path.len() + prost::Message::encoded_len(&entry) + 128;
            window.left.push(Left { key, path, entry });
        }
        self.deepest.truncate(self.levels.last().map_or(0, |above| above.length));
        true
    }

    /// Decides about the next item, or about a directory above it that the catalog does not name (any more).
    fn take(&mut self, choice: &Choice, tally: &Tally) {
        let Some((key, value)) = self.next.take() else { return };
        let above = self.levels.last().map(|level| level.length);
        let judge = |path: &[u8]| match self.levels.last() {
            None => choice.top(path),
            Some(level) if choice.is_all() => level.judged,
            Some(level) => choice.judge(level.judged, path),
        };
        // The next directory on the way down to the key, if it is not the key itself.
        let start = match above {
            None => self.part.from.len(),
            Some(length) => {
                let from = if length == 0 { 0 } else { length + 1 };
                key[from..].iter().position(|b| *b == catalog::SEPARATOR).map_or(key.len(), |at| from + at)
            }
        };
        let decoded = entry::decode(value.clone(), &key);
        if start < key.len() {
            if catalog::verify_key(&key).is_err() {
                tally.gone(&self.part.path_of(&key), "its name is none that a tree can have".into());
                return;
            }
            if key[..start] == self.leaf[..] {
                return tally.gone(&self.part.path_of(&key), "it lies beneath what is no directory".into());
            }
            let judged = judge(&self.part.path_of(&key[..start]));
            self.deepest = key[..start].to_vec();
            self.levels.push(Level { length: start, entry: None, judged, made: false });
            self.next = Some((key, value));
            return;
        }
        let path = self.part.path_of(&key);
        let entry = match decoded {
            Ok(entry) => entry,
            Err(e) => return tally.gone(&path, told(&e)),
        };
        let judged = judge(&path);
        let takes = choice.takes(judged);
        let is_directory = entry.kind() == EntryKind::Directory;
        if !is_directory {
            self.leaf = key.clone();
        }
        if takes {
            tally.progress.set_current(|| String::from_utf8_lossy(&path).into_owned());
            tally.with(|report| {
                report.entries += 1;
                report.bytes_total += entry.size;
            });
        }
        if is_directory {
            if choice.leaves_out(judged) {
                self.cursor.skip_prefix(&catalog::contents_prefix(&key));
                return;
            }
            self.deepest = key.to_vec();
            let entry = Some(Bytes::copy_from_slice(&value));
            self.levels.push(Level { length: key.len(), entry, judged, made: false });
            self.taken = takes.then_some(None);
        } else if takes {
            self.taken = Some(Some(Entering { key, entry, path }));
        }
    }
}

fn group_of(entry: &Entry) -> Group {
    let mut hash = [0; 16];
    blake3::Hasher::new().update(&entry.kind.to_le_bytes()).update(&entry.hard_link).finalize_xof().fill(&mut hash);
    hash
}
