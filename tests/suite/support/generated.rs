//! A source that no disk holds: items made up as they are asked for, with content that is never zero and never repeats.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use holdfast::source::directory::{Found, Walked};
use holdfast::source::metadata::{FileTime, Kind, Meta};
use holdfast::source::{Content, Origin, Source};

/// How well generated content compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Not at all.
    Random,
    /// To about half.
    Text,
    /// Files take turns.
    Mixed,
}

/// A flat directory of generated files.
pub struct Generated {
    next: u64,
    files: u64,
    size_of: Box<dyn Fn(u64) -> u64 + Send>,
    grain: Grain,
}

impl Generated {
    /// A directory of `files` files; `size_of` gives the length of each by its number, in bytes.
    pub fn new(files: u64, grain: Grain, size_of: impl Fn(u64) -> u64 + Send + 'static) -> Generated {
        Generated { next: 0, files, size_of: Box::new(size_of), grain }
    }
}

impl Source for Generated {
    fn next(&mut self) -> Option<Walked> {
        let number = self.next;
        self.next += 1;
        if number > self.files {
            return None;
        }
        // The root comes first.
        let size = if number == 0 { 0 } else { (self.size_of)(number) };
        let text = match self.grain {
            Grain::Random => false,
            Grain::Text => true,
            Grain::Mixed => number.is_multiple_of(2),
        };
        let time = FileTime { seconds: 1_700_000_000, nanos: number as u32 % 1000 };
        let meta = Meta {
            kind: if number == 0 { Kind::Directory } else { Kind::File },
            size,
            allocated: size,
            mode: if number == 0 { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            inode: number + 1,
            device_id: 1,
            nlink: 1,
            rdev: (0, 0),
        };
        let key = if number == 0 { Vec::new() } else { format!("generated-file-{number:010}").into_bytes() };
        let content = Arc::new(Words { seed: number << 40, size, text });
        Some(Walked::Item(Found { key, meta, origin: Origin::Given(content), name: OsString::new() }))
    }

    fn vanished(&self) -> u64 {
        0
    }
}

/// Content made of one 8-byte word for each place, none like another.
struct Words {
    seed: u64,
    size: u64,
    text: bool,
}

impl Words {
    fn word(&self, at: u64) -> [u8; 8] {
        let mut word = (self.seed ^ at).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word = (word ^ (word >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        word ^= word >> 32;
        // Sixteen letters: four bits of chance in each byte.
        let word = if self.text { (word & 0x0f0f_0f0f_0f0f_0f0f) | 0x6060_6060_6060_6060 } else { word | 1 };
        word.to_le_bytes()
    }
}

impl Content for Words {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        let (mut at, mut rest) = (offset / 8, &mut buffer[..length]);
        let inside = (offset % 8) as usize;
        if inside > 0 {
            let head = rest.len().min(8 - inside);
            rest[..head].copy_from_slice(&self.word(at)[inside..inside + head]);
            (at, rest) = (at + 1, &mut rest[head..]);
        }
        let (words, tail) = rest.as_chunks_mut::<8>();
        for word in words {
            *word = self.word(at);
            at += 1;
        }
        tail.copy_from_slice(&self.word(at)[..tail.len()]);
        Ok(length)
    }
}
