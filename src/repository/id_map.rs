//! Maps keyed by chunk ids and object hashes, which are as good as random: their own bits are the hash, and the order is one
//! that a seed replays.
//!
//! In and out: keys and values. Never here: one table of many megabytes. Growing it holds the old one beside the new one, and
//! once glibc has taken back a block of 128 KiB or more it keeps up to twice as much idle in every arena (`mallopt(3)`, the
//! dynamic mmap threshold): a few such tables cost more than all that is in them.

#[allow(clippy::disallowed_types)]
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::chunk::id::ChunkId;

/// How many tables a large map has: with three million keys of an index each of them is still shorter than 128 KiB.
const PARTS: usize = 1024;

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
    /// Some sixteen of its bits.
    fn bits(&self) -> u16;
}

impl Id for ChunkId {
    fn bits(&self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }
}

impl Id for [u8; 16] {
    fn bits(&self) -> u16 {
        u16::from_le_bytes([self[0], self[1]])
    }
}

/// An [`IdMap`] for millions of keys: many tables that grow one at a time.
pub struct LargeIdMap<K, V>(Vec<IdMap<K, V>>);

impl<K: Id, V> Default for LargeIdMap<K, V> {
    fn default() -> Self {
        LargeIdMap((0..PARTS).map(|_| IdMap::default()).collect())
    }
}

impl<K: Id, V> LargeIdMap<K, V> {
    fn part(key: &K) -> usize {
        usize::from(key.bits()) % PARTS
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0[Self::part(key)].get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0[Self::part(key)].get_mut(key)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0[Self::part(&key)].insert(key, value)
    }

    /// The place of a key.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        self.0[Self::part(&key)].entry(key)
    }

    /// Keeps what `stays` says, and gives back the memory of the rest.
    pub fn retain(&mut self, mut stays: impl FnMut(&K, &mut V) -> bool) {
        for part in &mut self.0 {
            part.retain(&mut stays);
            part.shrink_to_fit();
        }
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flatten()
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().flat_map(IdMap::values_mut)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(IdMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys there is room for.
    pub fn capacity(&self) -> usize {
        self.0.iter().map(IdMap::capacity).sum()
    }

    /// Bytes that the tables take, about: of every eight places seven are given out, and each has a byte beside it.
    pub fn memory(&self) -> usize {
        self.capacity() / 7 * 8 * (size_of::<(K, V)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{LargeIdMap, PARTS};

    fn key(number: u32) -> [u8; 16] {
        let hash = blake3::hash(&number.to_le_bytes());
        hash.as_bytes()[..16].try_into().unwrap()
    }

    #[test]
    fn a_large_map_is_a_map() {
        let mut map = LargeIdMap::default();
        assert!(map.is_empty());
        for number in 0..100_000 {
            assert_eq!(map.insert(key(number), number), None);
        }
        assert_eq!((map.len(), map.get(&key(77)), map.get(&key(100_000))), (100_000, Some(&77), None));
        *map.entry(key(77)).or_default() += 1;
        assert_eq!(map.insert(key(77), 5), Some(78));
        let mut all: Vec<[u8; 16]> = map.iter().map(|(key, _)| *key).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 100_000);
        let most = map.0.iter().map(|part| part.len()).max().unwrap();
        assert!(most < 2 * 100_000 / PARTS, "{most} in one of the tables");
        // A place is 20 bytes and one beside them; of those places between 7/16 and 7/8 are taken.
        let each = map.memory() / map.len();
        assert!((24..48).contains(&each), "{each} bytes for each key");
        map.retain(|_, number| *number % 100 == 5);
        assert_eq!(map.len(), 1001, "77 has a 5 now");
        assert!(map.capacity() < 10_000);
    }
}
