//! The last heads seen, remembered on this machine: a log that is shorter or other than remembered was rolled back.
//!
//! The file is a convenience of this machine and no part of the repository: lost, only that protection starts anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::format::Hash;

/// The last slot of a log, and the hash of its stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Epoch, from 1.
    pub epoch: u32,
    /// Slot, from 1; 0 before the first.
    pub slot: u64,
    /// BLAKE3 of the slot's stored bytes; zeros before the first.
    pub hash: Hash,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    epoch: u32,
    slot: u64,
    hash: String,
}

/// Largest file that is read back, in bytes.
const FILE_MAX: u64 = 1 << 20;

fn path(state_dir: &Path, repository: &[u8; 32]) -> PathBuf {
    state_dir.join(hex::encode(repository)).join("heads.json")
}

/// The heads remembered for a repository, by replica id. An absent or unreadable file remembers nothing.
pub fn load(state_dir: &Path, repository: &[u8; 32]) -> BTreeMap<[u8; 32], Head> {
    let file = path(state_dir, repository);
    let small = std::fs::metadata(&file).is_ok_and(|m| m.len() <= FILE_MAX);
    let Some(text) = small.then(|| std::fs::read(&file).ok()).flatten() else { return BTreeMap::new() };
    let stored: BTreeMap<String, Stored> = serde_json::from_slice(&text).unwrap_or_default();
    let hash = |text: &str| {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).ok().map(|()| out)
    };
    stored.iter().filter_map(|(id, s)| Some((hash(id)?, Head { epoch: s.epoch, slot: s.slot, hash: hash(&s.hash)? }))).collect()
}

/// Remembers heads; those of other replicas stay. Written beside and renamed, so that two runs cannot tear it.
pub fn save(state_dir: &Path, repository: &[u8; 32], heads: &BTreeMap<[u8; 32], Head>) -> std::io::Result<()> {
    let mut all = load(state_dir, repository);
    for (id, head) in heads {
        let newer = |old: &Head| (head.epoch, head.slot) >= (old.epoch, old.slot);
        if all.get(id).is_none_or(newer) {
            all.insert(*id, *head);
        }
    }
    let stored: BTreeMap<String, Stored> =
        all.iter().map(|(id, h)| (hex::encode(id), Stored { epoch: h.epoch, slot: h.slot, hash: hex::encode(h.hash) })).collect();
    let file = path(state_dir, repository);
    let folder = file.parent().expect("the path has a folder");
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, &serde_json::to_vec_pretty(&stored)?)?;
    temporary.persist(file)?;
    Ok(())
}
