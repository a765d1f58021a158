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
    /// The name of the store where the replica lay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<String>,
}

/// Largest file that is read back, in bytes.
const FILE_MAX: u64 = 1 << 20;

fn path(state_dir: &Path, repository: &[u8; 32]) -> PathBuf {
    state_dir.join(hex::encode(repository)).join("heads.json")
}

fn read(state_dir: &Path, repository: &[u8; 32]) -> BTreeMap<String, Stored> {
    let file = path(state_dir, repository);
    let small = std::fs::metadata(&file).is_ok_and(|m| m.len() <= FILE_MAX);
    let Some(text) = small.then(|| std::fs::read(&file).ok()).flatten() else { return BTreeMap::new() };
    serde_json::from_slice(&text).unwrap_or_default()
}

fn hash(text: &str) -> Option<Hash> {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok().map(|()| out)
}

/// The heads remembered for a repository, by replica id. An absent or unreadable file remembers nothing.
pub fn load(state_dir: &Path, repository: &[u8; 32]) -> BTreeMap<[u8; 32], Head> {
    let stored = read(state_dir, repository);
    stored.iter().filter_map(|(id, s)| Some((hash(id)?, Head { epoch: s.epoch, slot: s.slot, hash: hash(&s.hash)? }))).collect()
}

/// The names of the stores where replicas lay when last seen, by replica id.
pub fn places(state_dir: &Path, repository: &[u8; 32]) -> BTreeMap<[u8; 32], String> {
    read(state_dir, repository).into_iter().filter_map(|(id, s)| Some((hash(&id)?, s.place?))).collect()
}

/// Remembers heads, and where the replicas lie; those of other replicas stay. Written beside and renamed, so that two runs cannot tear it.
pub fn save(
    state_dir: &Path,
    repository: &[u8; 32],
    heads: &BTreeMap<[u8; 32], Head>,
    lie_at: &BTreeMap<[u8; 32], String>,
) -> std::io::Result<()> {
    let (mut all, mut lay) = (load(state_dir, repository), places(state_dir, repository));
    lay.extend(lie_at.iter().map(|(id, place)| (*id, place.clone())));
    for (id, head) in heads {
        let newer = |old: &Head| (head.epoch, head.slot) >= (old.epoch, old.slot);
        if all.get(id).is_none_or(newer) {
            all.insert(*id, *head);
        }
    }
    let one = |(id, h): (&[u8; 32], &Head)| {
        let place = lay.get(id).cloned();
        (hex::encode(id), Stored { epoch: h.epoch, slot: h.slot, hash: hex::encode(h.hash), place })
    };
    let stored: BTreeMap<String, Stored> = all.iter().map(one).collect();
    let file = path(state_dir, repository);
    let folder = file.parent().expect("the path has a folder");
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, &serde_json::to_vec_pretty(&stored)?)?;
    temporary.persist(file)?;
    Ok(())
}
