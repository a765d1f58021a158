//! How much of the content a verify reads back, and which packs that is.

use std::fmt;

use crate::format::Hash;

/// A share of the packs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// All of them.
    All,
    /// So many of a hundred, drawn at random and at least one: more than 0, at most 100.
    Percent(f64),
    /// `count` neighbouring slices of `of`, from slice `nth` on, counted from 1; the first comes again after the last. A
    /// pack's name says in which slice it is: each pack is in exactly one, today and tomorrow, at whichever replica.
    Slice {
        /// The first slice, from 1.
        nth: u32,
        /// How many slices there are.
        of: u32,
        /// How many of them are read.
        count: u32,
    },
    /// Packs drawn at random as long as they add up to no more than so many bytes, and at least one.
    Bytes(u64),
}

impl Share {
    /// Says what is wrong with it, if anything is.
    pub fn verify(&self) -> Result<(), String> {
        match *self {
            Share::All => Ok(()),
            Share::Percent(percent) if percent > 0.0 && percent <= 100.0 => Ok(()),
            Share::Percent(_) => Err("the share of data to read must be more than 0 % and at most 100 %".into()),
            Share::Slice { nth, of, count } if (1..=of).contains(&nth) && (1..=of).contains(&count) => Ok(()),
            Share::Slice { .. } => Err("a slice N/T is one of T: N is at least 1 and at most T".into()),
            Share::Bytes(0) => Err("the bytes to read must be more than 0".into()),
            Share::Bytes(_) => Ok(()),
        }
    }

    /// Those of `packs` (name and size in bytes) that belong to it. Chance comes from `seed` alone: nobody who does not know
    /// it can tell which packs will be looked at.
    pub fn choose(&self, mut packs: Vec<(Hash, u64)>, seed: &[u8; 32]) -> Vec<Hash> {
        if matches!(self, Share::Percent(_) | Share::Bytes(_)) {
            packs.sort_by_cached_key(|(hash, _)| *blake3::keyed_hash(seed, hash).as_bytes());
        }
        match *self {
            Share::All => {}
            Share::Percent(percent) => {
                let wanted = (packs.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
                packs.truncate(wanted);
            }
            Share::Slice { nth, of, count } => packs.retain(|(hash, _)| is_in_slice(hash, nth, of, count)),
            Share::Bytes(most) => {
                let mut sum = 0_u64;
                let beyond = packs.iter().position(|(_, size)| {
                    sum = sum.saturating_add(*size);
                    sum > most
                });
                packs.truncate(beyond.unwrap_or(packs.len()).max(1));
            }
        }
        packs.into_iter().map(|(hash, _)| hash).collect()
    }
}

/// Whether a pack is in one of `count` slices from `nth` on.
fn is_in_slice(hash: &Hash, nth: u32, of: u32, count: u32) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    let of = u64::from(of.max(1));
    let own = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % of;
    // How many slices it comes behind the first one asked for.
    (own + of - u64::from(nth.max(1) - 1) % of) % of < u64::from(count)
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::All => f.write_str("100%"),
            Share::Percent(percent) => write!(f, "{percent}%"),
            Share::Slice { nth, of, count: 1 } => write!(f, "{nth}/{of}"),
            Share::Slice { nth, of, count } => write!(f, "{nth}/{of} and the {} after it", count - 1),
            Share::Bytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::verify::share::Share;

    fn packs(n: u32) -> Vec<([u8; 32], u64)> {
        (0..n).map(|i| (*blake3::hash(&i.to_le_bytes()).as_bytes(), 10)).collect()
    }

    fn slice(nth: u32, of: u32, count: u32) -> Share {
        Share::Slice { nth, of, count }
    }

    #[test]
    fn each_pack_is_in_exactly_one_slice() {
        for of in [1, 2, 7, 30] {
            let mut all: Vec<_> = (1..=of).flat_map(|nth| slice(nth, of, 1).choose(packs(500), &[0; 32])).collect();
            all.sort_unstable();
            let mut expected: Vec<_> = packs(500).into_iter().map(|(hash, _)| hash).collect();
            expected.sort_unstable();
            assert_eq!(all, expected, "of {of}");
        }
        let seventh = slice(7, 7, 1).choose(packs(500), &[0; 32]);
        assert_eq!(seventh, slice(7, 7, 1).choose(packs(500), &[9; 32]), "no chance in it");
        assert!((40..110).contains(&seventh.len()), "{}", seventh.len());
    }

    #[test]
    fn neighbouring_slices_wrap() {
        let mut apart: Vec<_> = [6, 7, 1].into_iter().flat_map(|nth| slice(nth, 7, 1).choose(packs(300), &[0; 32])).collect();
        let mut together = slice(6, 7, 3).choose(packs(300), &[0; 32]);
        apart.sort_unstable();
        together.sort_unstable();
        assert_eq!(together, apart);
        assert_eq!(slice(3, 7, 7).choose(packs(300), &[0; 32]).len(), 300);
    }

    #[test]
    fn drawn_shares() {
        let count = |share: Share, n| share.choose(packs(n), &[3; 32]).len();
        assert_eq!((count(Share::All, 100), count(Share::Percent(100.0), 100)), (100, 100));
        assert_eq!((count(Share::Percent(0.01), 100), count(Share::Percent(12.5), 100)), (1, 13));
        assert_eq!((count(Share::Bytes(1), 100), count(Share::Bytes(29), 100), count(Share::Bytes(30), 100)), (1, 2, 3));
        assert_eq!((count(Share::Bytes(u64::MAX), 100), count(Share::Bytes(5), 0), count(Share::Percent(5.0), 0)), (100, 0, 0));
        let half = Share::Percent(50.0);
        assert_ne!(half.choose(packs(100), &[1; 32]), half.choose(packs(100), &[2; 32]));
    }

    #[test]
    fn shares_that_cannot_be() {
        for share in [Share::All, Share::Percent(0.5), Share::Percent(100.0), slice(1, 1, 1), slice(7, 7, 7), Share::Bytes(1)] {
            assert_eq!(share.verify(), Ok(()));
        }
        let percents = [0.0, -1.0, 100.1, f64::NAN, f64::INFINITY].map(Share::Percent);
        let slices = [slice(0, 7, 1), slice(8, 7, 1), slice(1, 0, 1), slice(1, 7, 0), slice(1, 7, 8)];
        for share in percents.into_iter().chain(slices).chain([Share::Bytes(0)]) {
            assert!(share.verify().is_err(), "{share:?}");
        }
    }

    #[test]
    fn in_words() {
        let told = [Share::All, Share::Percent(2.5), slice(2, 7, 1), slice(6, 7, 3), Share::Bytes(9)].map(|s| s.to_string());
        assert_eq!(told, ["100%", "2.5%", "2/7", "6/7 and the 2 after it", "9 bytes"]);
    }
}
