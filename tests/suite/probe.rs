//! What a store must do before a repository is trusted to it: stores that do not are refused at `init`, by what they do wrong.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use holdfast::clock::{Env, Time};
use holdfast::replica::Member;
use holdfast::repository::error::Fault;
use holdfast::repository::init::{InitReport, InitSettings, init};
use holdfast::repository::keyring::Unlock;
use holdfast::seal::key::{KdfParams, Secret};
use holdfast::store::error::StoreError;
use holdfast::store::memory::MemoryStore;
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{ObjectInfo, Store, wrap};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    Good,
    Overwrites,
    ForgetsBodies,
    IgnoresRanges,
    HidesFromStat,
    WrongSize,
    HidesFromLists,
    ClockAhead,
}

/// A store with a bad habit about the descriptor.
struct Peculiar {
    inner: MemoryStore,
    habit: Habit,
}

impl Peculiar {
    fn about(&self, name: &ObjectName, habit: Habit) -> bool {
        self.habit == habit && name.as_str() == "descriptor"
    }
}

impl Store for Peculiar {
    fn label(&self) -> &str {
        self.inner.label()
    }
    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            if self.about(name, Habit::Overwrites) {
                self.inner.delete(std::slice::from_ref(name)).await;
            }
            self.inner.put(name, bytes).await
        })
    }
    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let whole = self.inner.get(name, None).await?;
            match range {
                None if self.about(name, Habit::ForgetsBodies) => Ok(Bytes::from(vec![0; whole.len()])),
                Some(_) if self.about(name, Habit::IgnoresRanges) => Ok(whole),
                range => self.inner.get(name, range).await,
            }
        })
    }
    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let info = self.inner.stat(name).await?;
            Ok(match info {
                Some(_) if self.about(name, Habit::HidesFromStat) => None,
                Some(info) if self.about(name, Habit::WrongSize) => Some(ObjectInfo { size: info.size + 1, ..info }),
                Some(info) if self.about(name, Habit::ClockAhead) => {
                    Some(ObjectInfo { modified: info.modified.plus(Duration::from_secs(3600)), ..info })
                }
                info => info,
            })
        })
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let hides = self.habit == Habit::HidesFromLists;
        let shown = move |info: &Result<ObjectInfo, StoreError>| {
            let hidden = hides && info.as_ref().is_ok_and(|i| i.name.as_str() == "descriptor");
            std::future::ready(!hidden)
        };
        self.inner.list(prefix).filter(shown).boxed()
    }
    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        self.inner.delete(names)
    }
}

/// `init` at one store with that habit.
async fn made(habit: Habit) -> InitReport {
    let env = Env::inline(1, Time(1_700_000_000_000_000_000));
    let store = Peculiar { inner: MemoryStore::new(&env, "odd"), habit };
    let store = Ok(wrap(&env, Arc::new(store), &StoreSettings::default()));
    let members = vec![Member { name: "odd".into(), url: "memory:odd".into(), store }];
    let settings = InitSettings { kdf: KdfParams::floor_for_tests(), lowered_kdf: true, ..InitSettings::default() };
    init(&env, members, &settings, &Unlock::KeyFile(Secret::new([7; 32]))).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn stores_that_cannot_hold_a_repository_are_refused() {
    let table = [
        (Habit::Overwrites, "ignores create-if-absent"),
        (Habit::ForgetsBodies, "gives back other bytes for descriptor"),
        (Habit::IgnoresRanges, "gives back other bytes for a part of descriptor"),
        // Seen earlier, when init asks whether the descriptor is there.
        (Habit::HidesFromStat, "holds descriptor but no descriptor"),
        (Habit::WrongSize, "tells a wrong size of descriptor"),
        (Habit::HidesFromLists, "does not list descriptor"),
    ];
    for (habit, reason) in table {
        let report = made(habit).await;
        let (name, fault, why) = &report.failed[0];
        let class = if habit == Habit::HidesFromStat { Fault::Integrity } else { Fault::Unsupported };
        assert_eq!((name.as_str(), *fault), ("odd", class), "{why}");
        assert!(why.contains(reason) && why.contains("store odd"), "{why}");
        assert!(report.replicas.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_is_worth_a_word_and_no_more() {
    let report = made(Habit::ClockAhead).await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.notes[0].contains("its clock is 3600 s ahead"), "{:?}", report.notes);
    assert!(made(Habit::Good).await.notes.is_empty());
}
