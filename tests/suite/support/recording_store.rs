//! A store that takes notes of what it was asked.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use holdfast::store::error::StoreError;
use holdfast::store::meter::Operation;
use holdfast::store::name::ObjectName;
use holdfast::store::{ObjectInfo, Store};

/// One call, noted when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub operation: Operation,
    /// Of which object (a listing: prefix). A delete of n objects makes n notes.
    pub name: String,
    /// Bytes of the put; for a get, bytes of the range asked for, 0 for a whole object.
    pub bytes: u64,
}

/// A store that takes notes. A clone shares them.
#[derive(Clone)]
pub struct RecordingStore {
    inner: Arc<dyn Store>,
    records: Arc<Mutex<Vec<Record>>>,
}

impl RecordingStore {
    /// `inner`, with notes.
    pub fn new(inner: Arc<dyn Store>) -> RecordingStore {
        RecordingStore { inner, records: Arc::default() }
    }
    /// All notes so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().expect("no panic while noting").clone()
    }
    /// All notes so far, which are then forgotten.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.records.lock().expect("no panic while noting"))
    }
    fn note(&self, operation: Operation, name: &str, bytes: u64) {
        let record = Record { operation, name: name.to_owned(), bytes };
        self.records.lock().expect("no panic while noting").push(record);
    }
}

impl Store for RecordingStore {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.note(Operation::Put, name.as_str(), bytes.len() as u64);
            self.inner.put(name, bytes).await
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let asked = range.as_ref().map_or(0, |r| r.end.saturating_sub(r.start));
            self.note(Operation::Get, name.as_str(), asked);
            self.inner.get(name, range).await
        })
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            self.note(Operation::Stat, name.as_str(), 0);
            self.inner.stat(name).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        stream::once(async move {
            self.note(Operation::List, prefix, 0);
            self.inner.list(prefix)
        })
        .flatten()
        .boxed()
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            names.iter().for_each(|name| self.note(Operation::Delete, name.as_str(), 0));
            self.inner.delete(names).await
        })
    }
}
