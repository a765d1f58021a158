//! Content-defined boundaries: FastCDC with normalised chunking (level 2), its gear table drawn from a secret.
//!
//! A chunk ends after its first `n` bytes, for the smallest `n` in `min..=max` at which the gear hash of the 64 bytes
//! before that point has zeros under a mask: the strict one (two bits more than the average asks for) up to the
//! average, the loose one (two bits fewer) beyond it; else at `max`. Where a boundary may lie thus depends on 64 bytes
//! of content and the secret only, never on where the chunk began: after an edit the cuts fall back into step at once.

use std::sync::Arc;

use zeroize::ZeroizeOnDrop;

/// Bytes that one gear hash sees: each step shifts it by one bit, so that 64 steps forget whatever was before.
const WINDOW: usize = 64;
/// Largest chunk that any chunker may make, in bytes.
const MAX: u32 = 16 << 20;
/// Bits between the strict mask and the average, and between the average and the loose mask.
const NORMALISATION: usize = 2;
/// Mask bits are drawn from here. The low bits have seen too few bytes; bit 63 is lost when the scan shifts the mask.
const MASK_BITS: std::ops::RangeInclusive<u8> = 15..=62;
/// Domain of the constants that are drawn from the seed.
const LABEL: &[u8] = b"holdfast v1 gear";

/// The chunker a repository was made with; stands in its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkerSpec {
    /// Smallest chunk in bytes (only the last of a file may be smaller).
    pub min: u32,
    /// The size aimed at, in bytes; a power of two.
    pub average: u32,
    /// Largest chunk in bytes.
    pub max: u32,
}

impl Default for ChunkerSpec {
    fn default() -> ChunkerSpec {
        ChunkerSpec { min: 128 << 10, average: 512 << 10, max: 2 << 20 }
    }
}

/// Finds chunk boundaries. Cheap to clone; one serves any number of threads.
#[derive(Clone)]
pub struct Splitter {
    spec: ChunkerSpec,
    gear: Arc<Gear>,
}

/// The secret constants.
#[derive(ZeroizeOnDrop)]
struct Gear {
    strict: u64,
    loose: u64,
    table: [u64; 256],
    /// The table shifted by one bit, so that two bytes cost one shift of the hash.
    shifted: [u64; 256],
}

/// A chunker that cannot be: sizes out of order or out of bounds.
#[derive(Debug, thiserror::Error)]
#[error("chunker sizes {min}/{average}/{max} are out of bounds")]
pub struct SpecError {
    min: u32,
    average: u32,
    max: u32,
}

impl Splitter {
    /// A splitter whose table derives from `seed`, so that boundaries tell a provider nothing.
    ///
    /// Refuses sizes unless 64 <= min <= average <= max <= 16 MiB and the average is a power of two.
    pub fn new(spec: ChunkerSpec, seed: &[u8; 32]) -> Result<Splitter, SpecError> {
        let ChunkerSpec { min, average, max } = spec;
        let ordered = WINDOW as u32 <= min && min <= average && average <= max && max <= MAX;
        if !ordered || !average.is_power_of_two() {
            return Err(SpecError { min, average, max });
        }
        Ok(Splitter { spec, gear: Arc::new(Gear::draw(seed, average.trailing_zeros() as usize)) })
    }

    /// The sizes in use.
    pub fn spec(&self) -> ChunkerSpec {
        self.spec
    }

    /// Length of the first chunk of `data`: `1..=max`. `data` must be at least `max` long or reach the end of the content;
    /// what is shorter than `min` is one chunk. Empty data gives 0.
    pub fn cut(&self, data: &[u8]) -> usize {
        let ChunkerSpec { min, average, max } = self.spec;
        let (min, average) = (min as usize, average as usize);
        let data = &data[..data.len().min(max as usize)];
        if data.len() <= min {
            return data.len();
        }
        // The hash is filled from the bytes before `min`, so that the first boundaries allowed see a whole window, too.
        let mut hash = self.gear.fill(&data[min - WINDOW..min - 1]);
        let normal = data.len().min(average);
        if let Some(at) = self.gear.scan(&mut hash, &data[min - 1..normal], self.gear.strict) {
            return min - 1 + at;
        }
        match self.gear.scan(&mut hash, &data[normal..], self.gear.loose) {
            Some(at) => normal + at,
            None => data.len(),
        }
    }
}

impl Gear {
    /// Draws masks and table from the keyed BLAKE3 stream of the seed, as little-endian words in the order used here.
    fn draw(seed: &[u8; 32], average_bits: usize) -> Gear {
        let mut stream = blake3::Hasher::new_keyed(seed).update(LABEL).finalize_xof();
        let mut draw = || {
            let mut word = [0; 8];
            stream.fill(&mut word);
            u64::from_le_bytes(word)
        };
        // A shuffle of the places; both masks take theirs from its front, so that what the strict mask cuts, the loose
        // one cuts as well, and a boundary survives when an edit moves it across the average.
        let mut places: Vec<u8> = MASK_BITS.collect();
        for i in 0..places.len() {
            let left = (places.len() - i) as u64;
            places.swap(i, i + (draw() % left) as usize);
        }
        let mask = |bits: usize| places.iter().take(bits).fold(0_u64, |mask, place| mask | 1 << place);
        let (strict, loose) = (mask(average_bits + NORMALISATION), mask(average_bits - NORMALISATION));
        // In a run of one byte value the hash settles at minus its entry. An entry that would cut there is drawn again:
        // a hole or a cleared disk becomes few chunks of `max` under every seed, never many of `min`.
        let table = std::array::from_fn(|_| {
            loop {
                let entry: u64 = draw();
                if entry.wrapping_neg() & loose != 0 {
                    break entry;
                }
            }
        });
        Gear { strict, loose, table, shifted: table.map(|entry| entry << 1) }
    }

    /// The hash after `bytes`.
    fn fill(&self, bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |hash, &byte| self.step(hash, byte))
    }

    #[inline]
    fn step(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.table[usize::from(byte)])
    }

    /// Rolls `hash` over `bytes`; how many of them there are up to and with the first after which the mask sees zeros.
    ///
    /// Four bytes per turn, two per shift: a hash at an odd place is kept doubled and met with the doubled mask. What
    /// the bytes add is summed apart from the hash, which leaves one shift and one addition per turn that must wait
    /// for the turn before.
    #[inline]
    fn scan(&self, hash: &mut u64, bytes: &[u8], mask: u64) -> Option<usize> {
        let Gear { table, shifted, .. } = self;
        let doubled = mask << 1;
        let (turns, rest) = bytes.as_chunks::<4>();
        for (turn, &[a, b, c, d]) in turns.iter().enumerate() {
            let (a, b) = (shifted[usize::from(a)], table[usize::from(b)]);
            let (c, d) = (shifted[usize::from(c)], table[usize::from(d)]);
            let (ab, cd) = (a.wrapping_add(b), c.wrapping_add(d));
            let start = *hash << 2;
            let second = start.wrapping_add(ab);
            if start.wrapping_add(a) & doubled == 0 {
                return Some(turn * 4 + 1);
            }
            if second & mask == 0 {
                return Some(turn * 4 + 2);
            }
            if (second << 2).wrapping_add(c) & doubled == 0 {
                return Some(turn * 4 + 3);
            }
            *hash = (*hash << 4).wrapping_add((ab << 2).wrapping_add(cd));
            if *hash & mask == 0 {
                return Some(turn * 4 + 4);
            }
        }
        for (i, &byte) in rest.iter().enumerate() {
            *hash = self.step(*hash, byte);
            if *hash & mask == 0 {
                return Some(turns.len() * 4 + i + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkerSpec, Gear, Splitter, WINDOW};

    const SMALL: ChunkerSpec = ChunkerSpec { min: 256, average: 1024, max: 4096 };

    fn stream(seed: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    /// Ends of all chunks.
    fn ends(splitter: &Splitter, data: &[u8]) -> Vec<usize> {
        let (mut at, mut ends) = (0, Vec::new());
        while at < data.len() {
            at += splitter.cut(&data[at..]);
            ends.push(at);
        }
        ends
    }

    /// The definition at the top of this file, word by word.
    fn slowly(gear: &Gear, spec: ChunkerSpec, data: &[u8]) -> usize {
        for end in spec.min as usize..data.len().min(spec.max as usize) {
            let mask = if end <= spec.average as usize { gear.strict } else { gear.loose };
            if gear.fill(&data[end - WINDOW..end]) & mask == 0 {
                return end;
            }
        }
        data.len().min(spec.max as usize)
    }

    #[test]
    fn cuts_are_those_of_the_definition() {
        for (seed, min) in [64, 65, 66, 67, 300, 1024].into_iter().enumerate() {
            let spec = ChunkerSpec { min, ..SMALL };
            let splitter = Splitter::new(spec, &[seed as u8; 32]).expect("valid sizes");
            let data = stream(seed as u64, 300_000);
            let mut at = 0;
            while at < data.len() {
                let cut = splitter.cut(&data[at..]);
                assert_eq!(cut, slowly(&splitter.gear, spec, &data[at..]), "at {at}, min {min}");
                at += cut;
            }
            assert_eq!(at, data.len());
        }
    }

    #[test]
    fn sizes_stay_in_bounds_and_near_the_average() {
        let splitter = Splitter::new(SMALL, &[7; 32]).expect("valid sizes");
        let data = stream(1, 4 << 20);
        let ends = ends(&splitter, &data);
        let mut before = 0;
        for (i, &end) in ends.iter().enumerate() {
            let last = i + 1 == ends.len();
            assert!(end - before <= 4096 && (last || end - before >= 256), "{before}..{end}");
            before = end;
        }
        assert_eq!(before, data.len());
        let mean = data.len() / ends.len();
        assert!((900..1500).contains(&mean), "mean {mean}");
        assert_eq!(splitter.cut(&[]), 0);
        for len in [1, 255, 256] {
            assert_eq!(splitter.cut(&data[..len]), len);
        }
    }

    #[test]
    fn an_edit_moves_few_boundaries() {
        let splitter = Splitter::new(SMALL, &[7; 32]).expect("valid sizes");
        let data = stream(2, 1 << 20);
        let before = ends(&splitter, &data);
        for at in [0, 1, 255, 300_000, 777_777] {
            let mut edited = data.clone();
            edited.insert(at, 0xA5);
            let after = ends(&splitter, &edited);
            let kept = before.iter().filter(|&&end| after.binary_search(&(end + usize::from(end > at))).is_ok()).count();
            assert!(before.len() - kept <= 8, "{} of {} lost by an insert at {at}", before.len() - kept, before.len());
        }
    }

    #[test]
    fn boundaries_are_frozen_and_belong_to_the_seed() {
        let data = stream(3, 16_384);
        let seed: [u8; 32] = std::array::from_fn(|i| i as u8);
        let cuts = ends(&Splitter::new(SMALL, &seed).expect("valid sizes"), &data);
        assert_eq!(cuts, FROZEN);
        let other = ends(&Splitter::new(SMALL, &[1; 32]).expect("valid sizes"), &data);
        assert!(other.iter().filter(|end| cuts.contains(end)).count() <= 2, "{other:?}");

        let big = stream(4, 8 << 20);
        assert_eq!(ends(&Splitter::new(ChunkerSpec::default(), &seed).expect("valid sizes"), &big), FROZEN_DEFAULT);
    }

    const FROZEN: [usize; 14] = [1348, 2407, 3753, 4856, 6014, 6959, 8137, 9428, 10031, 11470, 12677, 14376, 15640, 16384];
    const FROZEN_DEFAULT: [usize; 16] = [
        375381, 625983, 1521251, 2154342, 2337731, 2866565, 3217415, 3769989, 4542105, 5165842, 5746877, 6302614, 6985783,
        7821551, 8372104, 8388608,
    ];

    #[test]
    fn runs_of_one_byte_become_chunks_of_the_largest_size() {
        for seed in 0..8 {
            // The smallest average has the loosest mask: without the second draw most byte values would cut at `min`.
            let spec = ChunkerSpec { min: 64, average: 64, max: 4096 };
            let splitter = Splitter::new(spec, &[seed; 32]).expect("valid sizes");
            for byte in 0..=255 {
                assert_eq!(splitter.cut(&[byte; 10_000]), 4096, "byte {byte}");
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let of = |min, average, max| Splitter::new(ChunkerSpec { min, average, max }, &[0; 32]);
        assert!(of(64, 64, 64).is_ok() && of(64, 16 << 20, 16 << 20).is_ok());
        for (min, average, max) in
            [(63, 64, 64), (0, 64, 64), (128, 64, 256), (64, 256, 128), (64, 96, 128), (64, 0, 0), (64, 64, (16 << 20) + 1)]
        {
            assert!(of(min, average, max).is_err(), "{min}/{average}/{max}");
        }
        let (small, large) = (of(64, 64, 64).expect("valid sizes"), of(64, 16 << 20, 16 << 20).expect("valid sizes"));
        assert_eq!((small.gear.strict.count_ones(), small.gear.loose.count_ones()), (8, 4));
        assert_eq!((large.gear.strict.count_ones(), large.gear.loose.count_ones()), (26, 22));
    }
}
