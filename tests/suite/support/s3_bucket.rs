//! Buckets in memory with the semantics of S3: conditional creates, versions, locks, pages. Pure but for the clock handed in.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::SystemTime;

use bytes::Bytes;

use crate::support::s3_settings::Settings;

/// One version of an object, or a delete marker.
#[derive(Clone, Debug)]
pub struct Version {
    /// `null` in a bucket without versions.
    pub id: String,
    /// `None` for a delete marker.
    pub body: Option<Bytes>,
    pub modified: SystemTime,
    pub etag: String,
    /// The sum that came with it, by the header's name.
    pub sums: BTreeMap<&'static str, String>,
    pub class: Option<String>,
    pub kms_key: Option<String>,
    pub lock: Lock,
}

/// What stands against the deletion of a version.
#[derive(Clone, Debug, Default)]
pub struct Lock {
    /// `COMPLIANCE` or `GOVERNANCE`, and until when.
    pub retention: Option<(String, SystemTime)>,
    pub legal_hold: bool,
}

impl Lock {
    fn holds(&self, now: SystemTime, bypass: bool) -> bool {
        let retained = self.retention.as_ref().is_some_and(|(mode, until)| *until > now && !(bypass && mode == "GOVERNANCE"));
        self.legal_hold || retained
    }
}

/// Why a bucket refuses: S3's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoSuchKey,
    NoSuchVersion,
    PreconditionFailed,
    AccessDenied,
}

/// A bucket: the versions of each key, newest last.
#[derive(Default)]
pub struct Bucket {
    pub versioned: bool,
    /// What it says of itself. Nothing here acts on it.
    pub settings: Settings,
    drawn: u64,
    keys: BTreeMap<String, Vec<Version>>,
}

impl Bucket {
    /// The newest version, unless it is a delete marker.
    pub fn current(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last().filter(|v| v.body.is_some())
    }

    /// The version `id`, or the newest one.
    pub fn version(&self, key: &str, id: Option<&str>) -> Result<&Version, Refusal> {
        match id {
            None => self.current(key).ok_or(Refusal::NoSuchKey),
            Some(id) => self.keys.get(key).and_then(|all| all.iter().find(|v| v.id == id)).ok_or(Refusal::NoSuchVersion),
        }
    }

    /// Stores; with `absent`, only where there is nothing. Look and write are one step: the caller holds the lock.
    pub fn put(&mut self, key: &str, absent: bool, mut version: Version) -> Result<&Version, Refusal> {
        if absent && self.current(key).is_some() {
            return Err(Refusal::PreconditionFailed);
        }
        version.id = self.id();
        let all = self.keys.entry(key.to_owned()).or_default();
        all.retain(|v| v.id != version.id);
        all.push(version);
        Ok(all.last().expect("just pushed"))
    }

    fn id(&mut self) -> String {
        if !self.versioned {
            return "null".into();
        }
        self.drawn += 1;
        format!("v{:016}", self.drawn)
    }

    /// Removes a version, or puts a delete marker where the bucket keeps versions. `Some(true)` says that a marker came about.
    pub fn delete(&mut self, key: &str, id: Option<&str>, now: SystemTime, bypass: bool) -> Result<bool, Refusal> {
        if id.is_none() && self.versioned {
            let id = self.id();
            let marker = Version {
                id,
                body: None,
                modified: now,
                etag: String::new(),
                sums: BTreeMap::new(),
                class: None,
                kms_key: None,
                lock: Lock::default(),
            };
            self.keys.entry(key.to_owned()).or_default().push(marker);
            return Ok(true);
        }
        let id = id.unwrap_or("null");
        if let Some(all) = self.keys.get_mut(key) {
            if all.iter().any(|v| v.id == id && v.lock.holds(now, bypass)) {
                return Err(Refusal::AccessDenied);
            }
            all.retain(|v| v.id != id);
            if all.is_empty() {
                self.keys.remove(key);
            }
        }
        Ok(false)
    }

    /// Changes the lock of a version. A compliance retention is never shortened.
    pub fn relock(
        &mut self,
        key: &str,
        id: Option<&str>,
        now: SystemTime,
        change: impl FnOnce(&mut Lock),
    ) -> Result<(), Refusal> {
        let id = self.version(key, id)?.id.clone();
        let all = self.keys.get_mut(key).expect("it was just seen");
        let version = all.iter_mut().find(|v| v.id == id).expect("it was just seen");
        let mut lock = version.lock.clone();
        change(&mut lock);
        let ends = |l: &Lock| l.retention.as_ref().filter(|(mode, until)| mode == "COMPLIANCE" && *until > now).map(|r| r.1);
        if ends(&version.lock).is_some_and(|before| ends(&lock).is_none_or(|after| after < before)) {
            return Err(Refusal::AccessDenied);
        }
        version.lock = lock;
        Ok(())
    }

    /// At most `most` current objects behind `after` whose keys begin with `prefix`, in order, and whether there are more.
    pub fn page(&self, prefix: &str, after: Option<&str>, most: usize) -> (Vec<(&str, &Version)>, bool) {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut all = self
            .keys
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, _)| Some((key.as_str(), self.current(key)?)));
        let page: Vec<_> = all.by_ref().take(most).collect();
        let more = all.next().is_some();
        (page, more)
    }

    /// Every version and delete marker under `prefix`, newest first within a key, and whether it is the newest.
    pub fn versions(&self, prefix: &str) -> Vec<(&str, &Version, bool)> {
        let keys = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        keys.flat_map(|(key, all)| all.iter().rev().enumerate().map(move |(at, v)| (key.as_str(), v, at == 0))).collect()
    }

    /// Puts other bytes in the place of an object's, behind everybody's back.
    pub fn damage(&mut self, key: &str, body: Bytes) {
        let version = self.keys.get_mut(key).and_then(|all| all.last_mut()).expect("an object to damage");
        version.body = Some(body);
    }
}
