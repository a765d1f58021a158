//! Maps keyed by chunk ids and object hashes, which are as good as random: their own bits are the hash, and the order is one
//! that a seed replays.
//!
//! In and out: keys and values. Never here: one table of many megabytes, nor many that grow. Growing a table holds the old one
//! beside the new one, and leaves a hole behind; once glibc has taken back a block of 128 KiB or more it keeps up to twice as
//! much idle in every arena (`mallopt(3)`, the dynamic mmap threshold): a few such tables cost more than all that is in them.
//! So a large map consists of tables of one size; a full one is split in two, and what it leaves behind fits the next.

#[allow(clippy::disallowed_types)]
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::chunk::id::ChunkId;

/// Bytes of a table, at most: from 128 KiB on glibc maps a block by itself.
const TABLE_MAX: usize = 120 << 10;
/// A table that is split so often grows instead: keys are not as random as they should be.
const DEPTH_MAX: u32 = 20;

/// Ids are keyed hashes, as good as random to anyone without the key: their own bits are the hash.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
        }
    }
    fn write_usize(&mut self, _: usize) {}
}

/// A map keyed by (truncated) chunk ids or object hashes, with an order that a seed replays.
#[allow(clippy::disallowed_types)]
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A key whose bits are as good as random.
pub trait Id: Eq + Hash {
    /// Some of its bits.
    fn bits(&self) -> u32;
}

fn first_bits(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |bits, byte| bits << 8 | u32::from(*byte))
}

impl Id for ChunkId {
    fn bits(&self) -> u32 {
        first_bits(&self.0)
    }
}

impl Id for [u8; 16] {
    fn bits(&self) -> u32 {
        first_bits(self)
    }
}

/// An [`IdMap`] for millions of keys: many tables, found by a directory (extendible hashing).
pub struct LargeIdMap<K, V> {
    tables: Vec<Table<K, V>>,
    /// The number of a table, by the lowest `depth` bits of a key.
    directory: Vec<u32>,
    depth: u32,
}

struct Table<K, V> {
    map: IdMap<K, V>,
    /// How many of the lowest bits all its keys have in common.
    depth: u32,
}

impl<K: Id, V> Default for LargeIdMap<K, V> {
    fn default() -> Self {
        LargeIdMap { tables: vec![Table { map: IdMap::default(), depth: 0 }], directory: vec![0], depth: 0 }
    }
}

impl<K: Id, V> LargeIdMap<K, V> {
    /// Keys in a table that is full: of every eight places the standard library gives out seven, and each has a byte beside it.
    const FULL: usize = {
        let mut places = 64;
        while 2 * places * (size_of::<(K, V)>() + 1) <= TABLE_MAX {
            places *= 2;
        }
        places / 8 * 7
    };

    fn table(&self, key: &K) -> usize {
        self.directory[key.bits() as usize & (self.directory.len() - 1)] as usize
    }

    /// The table that a key belongs into, with room for one more.
    fn roomy(&mut self, key: &K) -> &mut IdMap<K, V> {
        loop {
            let number = self.table(key);
            let Table { map, depth } = &self.tables[number];
            if map.len() < Self::FULL || *depth >= DEPTH_MAX {
                return &mut self.tables[number].map;
            }
            self.split(number, key.bits());
        }
    }

    /// Splits a table in two by the next bit; `bits` are those of any key that belongs into it.
    fn split(&mut self, number: usize, bits: u32) {
        let (new, depth) = (self.tables.len() as u32, self.tables[number].depth);
        if depth == self.depth {
            self.directory.extend_from_within(..);
            self.depth += 1;
        }
        let by = 1 << depth;
        let empty = || IdMap::with_capacity_and_hasher(Self::FULL, BuildHasherDefault::default());
        let (mut low, mut high) = (empty(), empty());
        for (key, value) in std::mem::take(&mut self.tables[number].map) {
            let half = if key.bits() & by == 0 { &mut low } else { &mut high };
            half.insert(key, value);
        }
        self.tables[number] = Table { map: low, depth: depth + 1 };
        self.tables.push(Table { map: high, depth: depth + 1 });
        let first = (bits & (by - 1) | by) as usize;
        for slot in (first..self.directory.len()).step_by(2 * by as usize) {
            self.directory[slot] = new;
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.tables[self.table(key)].map.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let number = self.table(key);
        self.tables[number].map.get_mut(key)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.roomy(&key).insert(key, value)
    }

    /// The place of a key.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        self.roomy(&key).entry(key)
    }

    /// Keeps what `stays` says, and gives back the memory of the rest.
    pub fn retain(&mut self, mut stays: impl FnMut(&K, &mut V) -> bool) {
        for Table { map, .. } in &mut self.tables {
            map.retain(&mut stays);
            map.shrink_to_fit();
            // What left unused places behind that only a new table has free would double at the next full one.
            if map.capacity() < Self::FULL && map.len() * 2 > Self::FULL {
                let mut anew = IdMap::with_capacity_and_hasher(Self::FULL, BuildHasherDefault::default());
                anew.extend(std::mem::take(map));
                *map = anew;
            }
        }
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.tables.iter().flat_map(|table| &table.map)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.tables.iter_mut().flat_map(|table| table.map.values_mut())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.map.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys there is room for.
    pub fn capacity(&self) -> usize {
        self.tables.iter().map(|table| table.map.capacity()).sum()
    }

    /// Bytes that the tables take, about: of every eight places seven are given out, and each has a byte beside it.
    pub fn memory(&self) -> usize {
        self.capacity() / 7 * 8 * (size_of::<(K, V)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::LargeIdMap;

    const FULL: usize = LargeIdMap::<[u8; 16], u32>::FULL;

    fn key(number: u32) -> [u8; 16] {
        let hash = blake3::hash(&number.to_le_bytes());
        hash.as_bytes()[..16].try_into().unwrap()
    }

    #[test]
    fn a_large_map_is_a_map() {
        let mut map = LargeIdMap::default();
        assert!(map.is_empty());
        // Three times as many, so that tables were split to different depths.
        for number in 10_000..30_000 {
            assert_eq!(map.insert(key(number), 5), None);
        }
        map.retain(|_, _| false);
        for number in 0..10_000 {
            assert_eq!(map.insert(key(number), number), None);
        }
        assert_eq!((map.len(), map.get(&key(77)), map.get(&key(10_000))), (10_000, Some(&77), None));
        *map.entry(key(77)).or_default() += 1;
        assert_eq!(map.insert(key(77), 5), Some(78));
        let mut all: Vec<[u8; 16]> = map.iter().map(|(key, _)| *key).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10_000);
        assert!(map.tables.len() >= 8 && map.tables.iter().all(|table| table.map.len() <= FULL));
        map.retain(|_, number| *number % 100 == 5);
        assert_eq!(map.len(), 101, "77 has a 5 now");
        assert!(map.capacity() < 1000);
    }

    /// No table ever grows beyond its size, and at each moment all keys are found.
    #[test]
    fn tables_stay_of_one_size() {
        let mut map = LargeIdMap::default();
        for number in 0..100_000 {
            map.insert(key(number), number);
            if number % 9_973 == 0 {
                assert!((0..=number).all(|one| map.get(&key(one)) == Some(&one)), "{number}");
            }
        }
        assert!(map.tables.iter().all(|table| table.map.capacity() <= FULL));
        // A place is 20 bytes and one beside them; of those places between 7/16 and 7/8 are taken.
        let each = map.memory() / map.len();
        assert!((24..=48).contains(&each), "{each} bytes for each key");
        let depths: std::collections::BTreeSet<u32> = map.tables.iter().map(|table| table.depth).collect();
        assert!(depths.len() <= 3 && map.directory.len() < 4 * map.tables.len(), "{depths:?}");
    }

    /// Keys of which the first bits are all the same end up in one table, which grows.
    #[test]
    fn keys_that_are_not_random_cost_no_more_than_time() {
        let mut map = LargeIdMap::default();
        for number in 0..5_000_u32 {
            let mut key = [0; 16];
            key[12..].copy_from_slice(&number.to_le_bytes());
            *map.entry(key).or_insert(0) += number;
        }
        assert_eq!(map.len(), 5_000);
        assert!(map.tables.len() <= 21 && map.directory.len() <= 1 << 20);
    }

    /// What goes leaves places behind that a table cannot fill again by itself: it must not double for want of them.
    #[test]
    fn tables_stay_as_large_after_much_has_gone() {
        for seed in 0..40 {
            let mut map = LargeIdMap::default();
            let full = FULL as u32 - 1;
            for number in 0..full {
                map.insert(key(seed * 1_000_000 + number), number);
            }
            for round in 0..6 {
                map.retain(|_, number| *number % 6 != round);
                let lacks = full - map.len() as u32;
                for number in 0..lacks {
                    map.insert(key(seed * 1_000_000 + (round + 1) * 100_000 + number), number);
                }
                assert!(map.tables.len() == 1 && map.capacity() <= FULL, "round {round}: {} of {FULL}", map.capacity());
            }
        }
    }
}
