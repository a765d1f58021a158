//! The first name of each hard-link group, by what identifies the group: in bounded memory, beyond it in sorted runs in a
//! temporary file. Blocking.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What identifies a group: device and inode, or a hash.
pub type Group = [u8; 16];

/// About what an entry takes beside its name, in bytes.
const OVERHEAD: usize = 64;
/// One record in so many bytes of a run is remembered with its place.
const STEP: usize = 16 << 10;
/// Runs that are looked through one by one; more are merged into one.
const MOST_RUNS: usize = 8;
/// Longest name; what the format takes for a key.
const LONGEST: usize = 64 << 10;
/// Bytes of a record before its name.
const HEAD: usize = 20;

/// The map.
pub struct Firsts {
    memory: usize,
    folder: PathBuf,
    /// How many more names will come, and the first.
    held: BTreeMap<Group, (u64, Box<[u8]>)>,
    bytes: usize,
    runs: Vec<Run>,
}

/// Sorted records in a file without a name.
struct Run {
    file: File,
    /// The first record of each step and where it begins.
    steps: Vec<(Group, u64)>,
    length: u64,
}

/// Writes a run.
struct Writer {
    file: BufWriter<File>,
    steps: Vec<(Group, u64)>,
    length: u64,
}

/// Reads a run from its beginning.
struct Reader<'r> {
    run: &'r Run,
    step: usize,
    bytes: Vec<u8>,
    at: usize,
}

impl Firsts {
    /// An empty map that holds about `memory` bytes; what is more goes to unlinked files in `folder`.
    pub fn new(memory: usize, folder: PathBuf) -> Firsts {
        Firsts { memory, folder, held: BTreeMap::new(), bytes: 0, runs: Vec::new() }
    }

    /// Whether a call may read or write a file.
    pub fn may_block(&self) -> bool {
        !self.runs.is_empty() || self.bytes + LONGEST + OVERHEAD > self.memory
    }

    /// Whether a group was met before.
    pub fn knows(&self, group: &Group) -> io::Result<bool> {
        Ok(self.held.contains_key(group) || self.spilled(group)?.is_some())
    }

    /// Meets one of the `names` names of a group: gives the one that was met first, none if it is this. A group whose names
    /// were all met is forgotten, as far as it is held in memory.
    pub fn meet(&mut self, group: Group, names: u64, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if let Some((left, first)) = self.held.get_mut(&group) {
            *left = left.saturating_sub(1);
            let (last, first) = (*left == 0, first.to_vec());
            if last {
                self.held.remove(&group);
                self.bytes -= first.len() + OVERHEAD;
            }
            return Ok(Some(first));
        }
        if let Some(first) = self.spilled(&group)? {
            return Ok(Some(first));
        }
        if name.len() > LONGEST {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        self.bytes += name.len() + OVERHEAD;
        self.held.insert(group, (names.saturating_sub(1), name.into()));
        if self.bytes > self.memory {
            self.spill()?;
        }
        Ok(None)
    }

    fn spilled(&self, group: &Group) -> io::Result<Option<Vec<u8>>> {
        for run in self.runs.iter().rev() {
            if let Some(name) = run.get(group)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn spill(&mut self) -> io::Result<()> {
        let mut run = Writer::new(&self.folder)?;
        for (group, (_, name)) in std::mem::take(&mut self.held) {
            run.write(&group, &name)?;
        }
        self.bytes = 0;
        self.runs.push(run.finish()?);
        if self.runs.len() > MOST_RUNS {
            let mut merged = Writer::new(&self.folder)?;
            let mut readers: Vec<Reader<'_>> = self.runs.iter().map(Reader::new).collect();
            let mut heads = Vec::with_capacity(readers.len());
            for reader in &mut readers {
                heads.push(reader.next()?);
            }
            // Few runs, and each group in one of them.
            let least = |heads: &[Option<(Group, Vec<u8>)>]| {
                let heads = heads.iter().enumerate().filter_map(|(at, head)| Some((head.as_ref()?.0, at)));
                heads.min().map(|(_, at)| at)
            };
            while let Some(at) = least(&heads) {
                let next = readers[at].next()?;
                if let Some((group, name)) = std::mem::replace(&mut heads[at], next) {
                    merged.write(&group, &name)?;
                }
            }
            drop(readers);
            self.runs = vec![merged.finish()?];
        }
        Ok(())
    }
}

impl Run {
    fn get(&self, group: &Group) -> io::Result<Option<Vec<u8>>> {
        let Some(step) = self.steps.partition_point(|(first, _)| first <= group).checked_sub(1) else { return Ok(None) };
        let mut reader = Reader { run: self, step, bytes: Vec::new(), at: 0 };
        // The next step begins behind the group.
        while reader.step == step || reader.at < reader.bytes.len() {
            match reader.next()? {
                Some((found, _)) if found < *group => {}
                Some((found, name)) => return Ok((found == *group).then_some(name)),
                None => break,
            }
        }
        Ok(None)
    }
}

impl Writer {
    fn new(folder: &std::path::Path) -> io::Result<Writer> {
        Ok(Writer { file: BufWriter::new(tempfile::tempfile_in(folder)?), steps: Vec::new(), length: 0 })
    }

    fn write(&mut self, group: &Group, name: &[u8]) -> io::Result<()> {
        if self.steps.last().is_none_or(|(_, at)| self.length - at >= STEP as u64) {
            self.steps.push((*group, self.length));
        }
        let length = u32::try_from(name.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))?;
        self.file.write_all(group)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(name)?;
        self.length += (HEAD + name.len()) as u64;
        Ok(())
    }

    fn finish(self) -> io::Result<Run> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Run { file, steps: self.steps, length: self.length })
    }
}

impl<'r> Reader<'r> {
    fn new(run: &'r Run) -> Reader<'r> {
        Reader { run, step: 0, bytes: Vec::new(), at: 0 }
    }

    /// The next record; a step is read whole.
    fn next(&mut self) -> io::Result<Option<(Group, Vec<u8>)>> {
        if self.at == self.bytes.len() {
            let Some((_, start)) = self.run.steps.get(self.step) else { return Ok(None) };
            let end = self.run.steps.get(self.step + 1).map_or(self.run.length, |(_, at)| *at);
            // A step has its own size and at most one record more.
            let length = usize::try_from(end - start).ok().filter(|n| *n <= STEP + HEAD + LONGEST);
            self.bytes.resize(length.ok_or(io::ErrorKind::InvalidData)?, 0);
            self.run.file.read_exact_at(&mut self.bytes, *start)?;
            (self.step, self.at) = (self.step + 1, 0);
        }
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let (group, rest) = self.bytes[self.at..].split_first_chunk::<16>().ok_or_else(damaged)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let name = rest.get(..u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        let found = (*group, name.to_vec());
        self.at += HEAD + found.1.len();
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Firsts, Group};

    fn group(number: u64) -> Group {
        *blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk().expect("32 bytes")
    }

    /// Names of all lengths, the empty one and the longest too.
    fn name(number: u64) -> Vec<u8> {
        let length = match number % 50 {
            0 => 0,
            1 if number % 1000 == 1 => 64 << 10,
            n => n as usize * 7,
        };
        number.to_le_bytes().iter().copied().cycle().take(length).collect()
    }

    #[test]
    fn the_first_name_is_found_however_often_it_spilled() {
        for memory in [1 << 30, 100_000, 20_000] {
            let mut firsts = Firsts::new(memory, std::env::temp_dir());
            let mut all: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for number in 0..4000 {
                assert!(!firsts.knows(&group(number)).expect("read"));
                assert_eq!(firsts.meet(group(number), 100, &name(number)).expect("kept"), None, "{number} was not met yet");
                all.insert(number, name(number));
                if number % 500 == 499 {
                    for (number, name) in &all {
                        let found = firsts.meet(group(*number), 100, b"another").expect("kept");
                        assert_eq!(found.as_ref(), Some(name), "{number}, {memory}");
                        assert!(firsts.knows(&group(*number)).expect("read"));
                    }
                }
            }
            assert_eq!(memory < 1 << 30, !firsts.runs.is_empty(), "small memory spills");
            assert!(firsts.bytes <= memory && firsts.runs.len() <= super::MOST_RUNS);
        }
    }

    #[test]
    fn groups_whose_names_were_all_met_take_no_memory() {
        let mut firsts = Firsts::new(100_000, std::env::temp_dir());
        for number in 0..100_000 {
            assert_eq!(firsts.meet(group(number), 3, b"somewhere").expect("held"), None);
            for _ in 0..2 {
                assert_eq!(firsts.meet(group(number), 3, b"else").expect("held").as_deref(), Some(&b"somewhere"[..]));
            }
        }
        assert_eq!((firsts.bytes, firsts.runs.len()), (0, 0));
    }
}
