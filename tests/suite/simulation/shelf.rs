//! What really lies in one store, and what it was a while ago: listings may be old.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use bytes::Bytes;
use holdfast::clock::Time;
use holdfast::store::ObjectInfo;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::name::ObjectName;

/// One object.
struct Object {
    bytes: Bytes,
    modified: Time,
    /// The step at which it came.
    came: u64,
}

/// One store. Every change is one step of the world.
pub struct Shelf {
    /// Its name.
    pub name: &'static str,
    /// Objects whose bytes the simulation changed: what relies on them alone is excused.
    pub rotten: BTreeSet<ObjectName>,
    objects: BTreeMap<ObjectName, Object>,
    /// Objects that were deleted: when, and what a listing of before shows.
    gone: Vec<(u64, u64, ObjectInfo)>,
}

impl Shelf {
    /// An empty one.
    pub fn new(name: &'static str) -> Shelf {
        Shelf { name, rotten: BTreeSet::new(), objects: BTreeMap::new(), gone: Vec::new() }
    }

    /// Creates an object; `false` if the name is taken.
    pub fn put(&mut self, name: &ObjectName, bytes: Bytes, step: u64, now: Time) -> bool {
        if self.objects.contains_key(name) {
            return false;
        }
        self.objects.insert(name.clone(), Object { bytes, modified: now, came: step });
        true
    }

    /// The object, or a part of it.
    pub fn get(&self, name: &ObjectName, range: Option<&Range<u64>>) -> Result<Bytes, StoreErrorKind> {
        let object = self.objects.get(name).ok_or(StoreErrorKind::NotFound)?;
        match range {
            None => Ok(object.bytes.clone()),
            Some(r) if r.start < r.end && r.end <= object.bytes.len() as u64 => {
                Ok(object.bytes.slice(r.start as usize..r.end as usize))
            }
            Some(_) => Err(StoreErrorKind::Invalid),
        }
    }

    /// Its size and time.
    pub fn info(&self, name: &ObjectName) -> Option<ObjectInfo> {
        self.objects.get(name).map(|object| object.info(name))
    }

    /// What a listing showed as of `step`, in order.
    pub fn list(&self, prefix: &str, step: u64) -> Vec<ObjectInfo> {
        let here = self
            .objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix));
        let mut all: Vec<ObjectInfo> =
            here.filter(|(_, object)| object.came <= step).map(|(name, object)| object.info(name)).collect();
        let then = |(came, left, info): &&(u64, u64, ObjectInfo)| {
            *came <= step && *left > step && info.name.as_str().starts_with(prefix)
        };
        all.extend(self.gone.iter().filter(then).map(|(_, _, info)| info.clone()));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        all
    }

    /// Takes an object away.
    pub fn remove(&mut self, name: &ObjectName, step: u64) {
        if let Some(object) = self.objects.remove(name) {
            self.gone.push((object.came, step, object.info(name)));
        }
    }

    /// Names of what lies here, in order.
    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.objects.keys()
    }

    /// Turns one bit of an object, for good.
    pub fn rot(&mut self, name: &ObjectName, bit: u64) {
        if let Some(object) = self.objects.get_mut(name) {
            let mut bytes = object.bytes.to_vec();
            let at = (bit / 8) as usize % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
                object.bytes = Bytes::from(bytes);
                self.rotten.insert(name.clone());
            }
        }
    }
}

impl Object {
    fn info(&self, name: &ObjectName) -> ObjectInfo {
        ObjectInfo { name: name.clone(), size: self.bytes.len() as u64, modified: self.modified }
    }
}
