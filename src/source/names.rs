//! The names in one directory, sorted bytewise, in bounded memory: beyond it sorted runs go to a temporary file.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much of a run is read at once.
const RUN_BUFFER: usize = 8 << 10;
/// How many runs are merged at once; more are merged into one first.
const MOST_RUNS: usize = 256;
/// Bytes that a name costs beside itself: its length and its place.
const NAME_OVERHEAD: usize = 6;
/// An arena of more than 1 MiB reserves this at once: shorter blocks, once freed, make glibc keep twice as much idle in every
/// arena of its own (`mallopt(3)`, the dynamic mmap threshold). What is reserved and not filled takes no memory.
const RESERVED: usize = 33 << 20;
/// Names held at once whatever the memory: a spill for each would be a write for each.
const FEWEST_NAMES: usize = 16;

/// Names being collected.
pub struct Collector<'a> {
    memory: usize,
    folder: &'a Path,
    arena: Vec<u8>,
    places: Vec<u32>,
    spilled: Option<Spilled>,
}

/// Sorted names, handed out one by one.
pub enum SortedNames {
    /// All in memory: arena, places in order, next.
    Held(Vec<u8>, Vec<u32>, usize),
    /// Merged from runs.
    Merged(Box<Merge>),
    /// These few.
    One(Option<Vec<u8>>),
}

struct Spilled {
    file: BufWriter<File>,
    length: u64,
    runs: Vec<(u64, u64)>,
}

/// A merge of runs.
pub struct Merge {
    file: File,
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
}

struct Run {
    next: u64,
    end: u64,
    buffer: Vec<u8>,
    taken: usize,
}

impl<'a> Collector<'a> {
    /// Collects names, `memory` bytes of them at once (about), further ones in an unlinked file in `folder`.
    pub fn new(memory: usize, folder: &'a Path) -> Collector<'a> {
        // Places are 32 bits wide.
        let memory = memory.min(1 << 30);
        Collector { memory, folder, arena: Vec::new(), places: Vec::new(), spilled: None }
    }

    /// Adds a name (no longer than 65,535 bytes; no file system has longer ones).
    pub fn add(&mut self, name: &[u8]) -> io::Result<()> {
        let length = u16::try_from(name.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let held = self.arena.len() + name.len() + (self.places.len() + 1) * NAME_OVERHEAD;
        if held > self.memory && self.places.len() >= FEWEST_NAMES {
            self.spill()?;
        }
        let place = u32::try_from(self.arena.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.places.push(place);
        if self.arena.len() > 1 << 20 && self.arena.capacity() < RESERVED {
            self.arena.reserve_exact(RESERVED - self.arena.len());
        }
        self.arena.extend_from_slice(&length.to_le_bytes());
        self.arena.extend_from_slice(name);
        Ok(())
    }

    /// Sorts what was added.
    pub fn finish(mut self) -> io::Result<SortedNames> {
        if self.spilled.is_none() {
            sort(&self.arena, &mut self.places);
            if self.arena.capacity() < RESERVED {
                self.arena.shrink_to_fit();
                self.places.shrink_to_fit();
            }
            return Ok(SortedNames::Held(self.arena, self.places, 0));
        }
        self.spill()?;
        let Some(spilled) = self.spilled.take() else { return Ok(SortedNames::One(None)) };
        Ok(SortedNames::Merged(Box::new(Merge::open(spilled)?)))
    }

    fn spill(&mut self) -> io::Result<()> {
        sort(&self.arena, &mut self.places);
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled::new(self.folder)?),
        };
        for place in &self.places {
            spilled.write(at(&self.arena, *place))?;
        }
        spilled.end_run();
        self.arena.clear();
        self.places.clear();
        if spilled.runs.len() >= MOST_RUNS
            && let Some(many) = self.spilled.take()
        {
            let mut one = Spilled::new(self.folder)?;
            let mut merge = Merge::open(many)?;
            while let Some(name) = merge.next()? {
                one.write(&name)?;
            }
            one.end_run();
            self.spilled = Some(one);
        }
        Ok(())
    }
}

impl SortedNames {
    /// Exactly this name.
    pub fn one(name: &[u8]) -> SortedNames {
        SortedNames::One(Some(name.to_vec()))
    }

    /// Puts the next name into `name`; false at the end. Fails only when the temporary file cannot be read.
    pub fn next(&mut self, name: &mut Vec<u8>) -> io::Result<bool> {
        name.clear();
        match self {
            SortedNames::Held(arena, places, next) => match places.get(*next) {
                Some(place) => {
                    *next += 1;
                    name.extend_from_slice(at(arena, *place));
                    Ok(true)
                }
                None => {
                    (*arena, *places) = (Vec::new(), Vec::new());
                    Ok(false)
                }
            },
            SortedNames::Merged(merge) => Ok(merge.next()?.map(|n| name.extend_from_slice(&n)).is_some()),
            SortedNames::One(one) => Ok(one.take().map(|n| name.extend_from_slice(&n)).is_some()),
        }
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        match self {
            SortedNames::Held(arena, places, _) => arena.len() + places.len() * size_of::<u32>(),
            SortedNames::Merged(merge) => merge.runs.len() * RUN_BUFFER,
            SortedNames::One(_) => 0,
        }
    }
}

/// Calls `with` for every name in the directory but `.` and `..`, in no order.
#[cfg(target_os = "linux")]
pub fn each(directory: &OwnedFd, with: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 32 << 10];
    let mut entries = rustix::fs::RawDir::new(directory.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            with(name)?;
        }
    }
    Ok(())
}

/// Calls `with` for every name in the directory but `.` and `..`, in no order.
#[cfg(not(target_os = "linux"))]
pub fn each(directory: &OwnedFd, with: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(directory.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            with(name)?;
        }
    }
    Ok(())
}

fn at(arena: &[u8], place: u32) -> &[u8] {
    let start = place as usize + 2;
    let length = usize::from(u16::from_le_bytes([arena[start - 2], arena[start - 1]]));
    &arena[start..start + length]
}

fn sort(arena: &[u8], places: &mut [u32]) {
    places.sort_unstable_by(|a, b| at(arena, *a).cmp(at(arena, *b)));
}

impl Spilled {
    fn new(folder: &Path) -> io::Result<Spilled> {
        Ok(Spilled { file: BufWriter::new(tempfile::tempfile_in(folder)?), length: 0, runs: Vec::new() })
    }

    fn write(&mut self, name: &[u8]) -> io::Result<()> {
        // Came from `add` or from a run, so that it fits.
        self.file.write_all(&(name.len() as u16).to_le_bytes())?;
        self.file.write_all(name)?;
        self.length += 2 + name.len() as u64;
        Ok(())
    }

    fn end_run(&mut self) {
        let start = self.runs.last().map_or(0, |r| r.1);
        if self.length > start {
            self.runs.push((start, self.length));
        }
    }
}

impl Merge {
    fn open(spilled: Spilled) -> io::Result<Merge> {
        let file = spilled.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let runs = spilled.runs.iter().map(|(next, end)| Run { next: *next, end: *end, buffer: Vec::new(), taken: 0 });
        let mut merge = Merge { file, runs: runs.collect(), heads: BinaryHeap::new() };
        for run in 0..merge.runs.len() {
            merge.advance(run)?;
        }
        Ok(merge)
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(Reverse((name, run))) = self.heads.pop() else { return Ok(None) };
        self.advance(run)?;
        Ok(Some(name))
    }

    fn advance(&mut self, run: usize) -> io::Result<()> {
        if let Some(name) = self.runs[run].take(&self.file)? {
            self.heads.push(Reverse((name, run)));
        }
        Ok(())
    }
}

impl Run {
    fn take(&mut self, file: &File) -> io::Result<Option<Vec<u8>>> {
        let Some(length) = self.bytes(file, 2)? else { return Ok(None) };
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        self.bytes(file, length)?
            .map(|name| name.to_vec())
            .map_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()), |n| Ok(Some(n)))
    }

    /// The next `length` bytes, none at the end of the run.
    fn bytes(&mut self, file: &File, length: usize) -> io::Result<Option<&[u8]>> {
        if self.buffer.len() - self.taken < length {
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let kept = self.buffer.len();
            let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            let more = left.min(RUN_BUFFER.max(length) - kept);
            if kept + more < length {
                return Ok(None);
            }
            self.buffer.resize(kept + more, 0);
            file.read_exact_at(&mut self.buffer[kept..], self.next)?;
            self.next += more as u64;
        }
        self.taken += length;
        Ok(Some(&self.buffer[self.taken - length..self.taken]))
    }
}
