//! The large buffers that bodies come in: fresh memory costs a page fault for every 4 KiB, which is more than reading
//! from a disk nearby costs, so a few buffers are used again.
//!
//! In: how long a body is. Out: an empty buffer, and [`Bytes`] that give it back when the last of them is dropped. Never
//! here: more than 16 MiB kept while nobody uses them.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes reserved at least for a large buffer that comes and goes: of such a length (more than 32 MiB) glibc maps it for itself
/// and gives it back at once when it is freed; shorter ones stay in the arenas of many threads, in pieces, beyond any budget.
/// What is reserved and not filled takes no memory.
const RESERVED: usize = (32 << 20) + (64 << 10);
/// From this length on a buffer counts as large: the shortest that glibc maps at first. One such block freed, shorter than 32 MiB,
/// makes it keep up to twice as much idle in the arena of every thread (`mallopt(3)`, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD):
/// bodies of 1 MiB, in 16 arenas, up to 32 MiB.
const LARGE: usize = 128 << 10;
/// Bytes kept in idle buffers.
const IDLE: usize = 16 << 20;
/// Idle buffers kept: each is an address range of [`RESERVED`] bytes, which some systems count as taken (`vm.overcommit_memory` 2).
const IDLE_MAX: usize = 16;

static IDLE_BUFFERS: Idle = Idle(Mutex::new(Vec::new()));

/// Buffers that nobody uses.
struct Idle(Mutex<Vec<Buffer>>);

/// A buffer for a body, and how much of it was ever filled: that much memory it takes.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

/// An empty buffer for `length` bytes that leaves no memory behind.
pub fn buffer(length: usize) -> Vec<u8> {
    Vec::with_capacity(if length >= LARGE { length.max(RESERVED) } else { length })
}

/// An empty body for `length` bytes: to be filled, then frozen.
pub fn body(length: usize) -> Body {
    IDLE_BUFFERS.body(length)
}

impl Idle {
    fn body(&'static self, length: usize) -> Body {
        Body { length, whole: Bytes::new(), buffer: Buffer::default(), back: self }
    }

    /// An idle buffer with room for `length` bytes: the one that has least to fill anew, or else to spare.
    fn take(&self, length: usize) -> Option<Buffer> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..idle.len()).filter(|&at| idle[at].bytes.capacity() >= length);
        let at = fitting.min_by_key(|&at| (length.saturating_sub(idle[at].filled), idle[at].filled))?;
        Some(idle.swap_remove(at))
    }

    fn put(&self, buffer: Buffer) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && idle.iter().map(|buffer| buffer.filled).sum::<usize>() + buffer.filled <= IDLE {
            idle.push(buffer);
        }
    }
}

/// A body in the making. Its buffer is kept when nobody uses it any more, as far as there is room.
pub struct Body {
    length: usize,
    // The first piece, until there is a second: often it is the whole, and then nothing is copied.
    whole: Bytes,
    buffer: Buffer,
    back: &'static Idle,
}

impl Body {
    /// The bytes that came, to be added to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        if self.buffer.bytes.capacity() == 0 {
            let kept = if self.length < LARGE { None } else { self.back.take(self.length) };
            self.buffer = kept.unwrap_or_else(|| Buffer { bytes: buffer(self.length), filled: 0 });
        }
        let first = std::mem::take(&mut self.whole);
        self.buffer.bytes.extend_from_slice(&first);
        &mut self.buffer.bytes
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.whole = piece;
        } else {
            self.bytes().extend_from_slice(&piece);
        }
    }

    /// How many bytes came.
    pub fn len(&self) -> usize {
        self.whole.len() + self.buffer.bytes.len()
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The finished body.
    pub fn freeze(mut self) -> Bytes {
        if self.buffer.bytes.is_empty() {
            std::mem::take(&mut self.whole)
        } else if self.length < LARGE {
            std::mem::take(&mut self.buffer.bytes).into()
        } else {
            Bytes::from_owner(self)
        }
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.buffer.bytes.capacity() >= RESERVED {
            let mut bytes = std::mem::take(&mut self.buffer.bytes);
            let filled = self.buffer.filled.max(bytes.len());
            bytes.clear();
            self.back.put(Buffer { bytes, filled });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::{IDLE, Idle, LARGE};

    static OWN: Idle = Idle(Mutex::new(Vec::new()));

    fn body(length: usize, of: u8) -> Bytes {
        let mut body = OWN.body(length);
        assert!(body.is_empty() && body.bytes().is_empty());
        body.bytes().resize(length, of);
        body.freeze()
    }

    #[test]
    fn buffers_are_used_again_only_when_nobody_reads_them_and_few_are_kept() {
        let first = body(LARGE, 1);
        let part = first.slice(5..9);
        let at = first.as_ptr();
        drop(first);
        let second = body(LARGE, 2);
        assert_ne!(second.as_ptr(), at, "a part of the first body is still read");
        assert_eq!(part, [1; 4][..]);
        drop(part);
        let third = body(LARGE + 1, 3);
        assert_eq!(third.as_ptr(), at);
        assert!(second.iter().all(|b| *b == 2) && third.iter().all(|b| *b == 3));
        drop((second, third));
        drop((0..9).map(|of| body(IDLE / 5, of)).collect::<Vec<_>>());
        drop(body(IDLE + 1, 4));
        let kept: usize = OWN.0.lock().unwrap().iter().map(|buffer| buffer.filled).sum();
        assert!((IDLE / 2..=IDLE).contains(&kept), "{kept}");
    }

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        for length in [9, LARGE] {
            let piece = Bytes::from(vec![7; length]);
            let mut whole = OWN.body(length);
            whole.push(piece.clone());
            assert_eq!((whole.len(), whole.freeze().as_ptr()), (length, piece.as_ptr()));
            let mut parts = OWN.body(2 * length);
            parts.push(piece.clone());
            parts.push(piece.clone());
            assert_eq!((parts.len(), &parts.freeze()[..]), (2 * length, &vec![7; 2 * length][..]));
        }
    }
}
