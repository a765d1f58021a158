//! What was found wrong so far: each object once per replica, bounded in number and in paths.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::format::Hash;
use crate::verify::Damage;

/// Damages that are told in full; the count goes on.
pub const DAMAGES_MAX: usize = 1000;
/// Paths that are named per damage.
pub const PATHS_MAX: usize = 20;
/// Notes that are kept per replica.
const NOTES_MAX: usize = 100;

/// Everything found, shared by all that look.
#[derive(Default)]
pub struct Findings(Mutex<Inner>);

/// What is wrong with an object, and what that affects.
#[derive(Default)]
struct Told {
    what: String,
    /// Recorded path and snapshot.
    paths: Vec<(String, String)>,
    /// How many more than those.
    more: u64,
    /// The last one that was met: what one file needs of an object is met in one go.
    last: (String, String),
}

#[derive(Default)]
struct Inner {
    told: BTreeMap<(usize, String), Told>,
    /// Objects beyond those, by replica and hash of their name, so that each counts once.
    beyond: BTreeSet<(usize, u64)>,
    notes: BTreeMap<usize, Vec<String>>,
    bad: BTreeMap<usize, BTreeMap<Hash, String>>,
    /// By replica and snapshot: how many paths are affected, and the last one of them.
    affected: BTreeMap<(usize, String), (u64, String)>,
}

impl Inner {
    fn add(&mut self, replica: usize, object: &str, what: impl FnOnce() -> String) {
        let key = (replica, object.to_owned());
        if self.told.contains_key(&key) {
            return;
        }
        if self.told.len() < DAMAGES_MAX {
            self.told.insert(key, Told { what: what(), ..Told::default() });
            return;
        }
        let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(object.as_bytes()).as_bytes();
        self.beyond.insert((replica, u64::from_le_bytes([a, b, c, d, e, f, g, h])));
    }
}

impl Findings {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is whole by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong with an object at a replica. The first story stays.
    pub fn add(&self, replica: usize, object: impl ToString, what: impl Into<String>) {
        self.lock().add(replica, &object.to_string(), || what.into());
    }

    /// A pack is not to be relied on at a replica, because of `object`: the pack itself, or the segment that names it.
    pub fn bad_pack(&self, replica: usize, pack: Hash, object: impl ToString, what: impl Into<String>) {
        let object = object.to_string();
        let mut inner = self.lock();
        inner.add(replica, &object, || what.into());
        inner.bad.entry(replica).or_default().entry(pack).or_insert(object);
    }

    /// A snapshot's file needs what lies in a pack that is not to be relied on at a replica. `otherwise` names the object
    /// and tells the story of a pack that nothing was found wrong with this time.
    pub fn needed(&self, replica: usize, pack: &Hash, path: &str, snapshot: &str, otherwise: impl FnOnce() -> (String, String)) {
        let mut inner = self.lock();
        let known = inner.bad.get(&replica).and_then(|bad| bad.get(pack)).cloned();
        let object = match known {
            Some(object) => object,
            None => {
                let (object, what) = otherwise();
                inner.add(replica, &object, || what);
                object
            }
        };
        affect(&mut inner, replica, object, path, snapshot);
    }

    /// A snapshot's file needs something that is wrong everywhere it could be at a replica.
    pub fn affects(&self, replica: usize, object: &str, what: impl FnOnce() -> String, path: &str, snapshot: &str) {
        let mut inner = self.lock();
        inner.add(replica, object, what);
        affect(&mut inner, replica, object.to_owned(), path, snapshot);
    }

    /// Something worth saying that is no damage.
    pub fn note(&self, replica: usize, text: impl Into<String>) {
        let mut inner = self.lock();
        let notes = inner.notes.entry(replica).or_default();
        let text = text.into();
        if notes.len() < NOTES_MAX && !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// The packs that were found not to be relied on at a replica.
    pub fn bad_packs(&self, replica: usize) -> BTreeSet<Hash> {
        self.lock().bad.get(&replica).map(|bad| bad.keys().copied().collect()).unwrap_or_default()
    }

    /// Whether a pack was found not to be relied on at a replica.
    pub fn is_bad(&self, replica: usize, pack: &Hash) -> bool {
        self.lock().bad.get(&replica).is_some_and(|bad| bad.contains_key(pack))
    }

    /// How many objects are damaged at a replica.
    pub fn count(&self, replica: usize) -> u64 {
        let inner = self.lock();
        let told = inner.told.keys().filter(|(i, _)| *i == replica).count();
        (told + inner.beyond.iter().filter(|(i, _)| *i == replica).count()) as u64
    }

    /// The notes about a replica, taken out.
    pub fn take_notes(&self, replica: usize) -> Vec<String> {
        self.lock().notes.remove(&replica).unwrap_or_default()
    }

    /// The snapshots that are affected at a replica, taken out: short id, and how many paths in it.
    pub fn take_affected(&self, replica: usize) -> BTreeMap<String, u64> {
        let mut inner = self.lock();
        let mine = inner.affected.extract_if(.., |(at, _), _| *at == replica);
        mine.map(|((_, snapshot), (paths, _))| (snapshot, paths)).collect()
    }

    /// Everything found, and how much that is.
    pub fn into_damages(self, name: impl Fn(usize) -> String) -> (Vec<Damage>, u64) {
        let inner = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let count = (inner.told.len() + inner.beyond.len()) as u64;
        let damage = |((replica, object), told): ((usize, String), Told)| {
            let Told { what, paths: affects, more, .. } = told;
            Damage { replica: name(replica), object, what, affects, more }
        };
        (inner.told.into_iter().map(damage).collect(), count)
    }
}

fn affect(inner: &mut Inner, replica: usize, object: String, path: &str, snapshot: &str) {
    let (count, last) = inner.affected.entry((replica, snapshot.to_owned())).or_default();
    if *count == 0 || last != path {
        *count += 1;
        path.clone_into(last);
    }
    let Some(told) = inner.told.get_mut(&(replica, object)) else { return };
    if told.last.0 == path && told.last.1 == snapshot {
        return;
    }
    told.last = (path.to_owned(), snapshot.to_owned());
    if told.paths.iter().any(|(p, s)| p == path && s == snapshot) {
        return;
    }
    match told.paths.len() < PATHS_MAX {
        true => told.paths.push((path.to_owned(), snapshot.to_owned())),
        false => told.more += 1,
    }
}
