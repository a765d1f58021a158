//! The fan-out, end to end, at stores in this process with the latency and the bandwidth of far ones: what do several stores cost
//! beside one? Sources are generated, stores keep no bodies: what is measured is Holdfast.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use holdfast::backup::{self, BackupSettings, Given};
use holdfast::clock::Env;
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::init::{InitSettings, init};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository};
use holdfast::seal::key::{KdfParams, Secret};
use holdfast::store::error::StoreError;
use holdfast::store::memory::MemoryStore;
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::{ObjectInfo, Store, wrap};

#[path = "../tests/suite/support/generated.rs"]
#[allow(dead_code)]
mod generated;

use generated::{Generated, Grain};

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 3;

/// How far a store is.
#[derive(Clone, Copy)]
struct Far {
    latency: Duration,
    /// Bytes per second that it takes in all.
    rate: Option<u64>,
}

const NEAR: Far = Far { latency: Duration::ZERO, rate: None };

/// A store at the end of a line.
struct Line {
    env: Env,
    inner: MemoryStore,
    far: Far,
    free_at: Mutex<Duration>,
}

impl Line {
    async fn wait(&self, bytes: u64) {
        let mut until = self.env.elapsed() + self.far.latency;
        if let Some(rate) = self.far.rate {
            let mut free_at = self.free_at.lock().expect("no panic while booking");
            let sent = (*free_at).max(self.env.elapsed()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *free_at = sent;
            until = until.max(sent + self.far.latency);
        }
        let wait = until.saturating_sub(self.env.elapsed());
        if !wait.is_zero() {
            self.env.sleep(wait).await;
        }
    }
}

impl Store for Line {
    fn label(&self) -> &str {
        self.inner.label()
    }
    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.wait(bytes.len() as u64).await;
            self.inner.put(name, bytes).await
        })
    }
    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            self.wait(0).await;
            self.inner.get(name, range).await
        })
    }
    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            self.wait(0).await;
            self.inner.stat(name).await
        })
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.inner.list(prefix)
    }
    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        self.inner.delete(names)
    }
}

/// Seconds of one first backup of `bytes` into stores that are that far.
async fn backup_into(far: &[Far], bytes: u64, grain: Grain) -> f64 {
    let env = Env::real();
    let lines: Vec<Arc<dyn Store>> = far
        .iter()
        .enumerate()
        .map(|(i, far)| {
            let inner = MemoryStore::discarding(&env, &format!("store-{i}"));
            Arc::new(Line { env: env.clone(), inner, far: *far, free_at: Mutex::default() }) as Arc<dyn Store>
        })
        .collect();
    let members = || -> Vec<Member> {
        let member = |(i, store): (usize, &Arc<dyn Store>)| Member {
            name: format!("store-{i}"),
            url: format!("memory:{i}"),
            store: Ok(wrap(&env, store.clone(), &StoreSettings::default())),
        };
        lines.iter().enumerate().map(member).collect()
    };
    let unlock = Unlock::KeyFile(Secret::new([7; 32]));
    let settings = InitSettings { kdf: KdfParams::default(), ..InitSettings::default() };
    init(&env, members(), &settings, &unlock).await.expect("made");
    let replicas = ReplicaSettings { write_quorum: Some(far.len()), ..ReplicaSettings::default() };
    let settings = OpenSettings { replicas, ..OpenSettings::default() };
    let repository = Repository::open(&env, members(), settings, &unlock, Access::Write).await.expect("opened");
    let source = Generated::new(64, grain, move |_| bytes / 64);
    let sources = vec![Given { path: b"/generated".to_vec(), source: Box::new(source) }];
    let started = Instant::now();
    let report = backup::run_sources(&repository, &BackupSettings::default(), sources, &Progress::default(), &Stop::default())
        .await
        .expect("backed up");
    assert!(report.replicas.iter().all(|r| r.committed), "{:?}", report.replicas);
    started.elapsed().as_secs_f64()
}

/// The best of some rounds of each, taken in turn, so that a noisy neighbour hits both.
fn compare(name: &str, limit: f64, one: &[Far], several: &[Far], bytes: u64, grain: Grain) {
    let runtime = holdfast::clock::runtime().expect("a runtime");
    let (mut alone, mut together) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        alone = alone.min(runtime.block_on(backup_into(one, bytes, grain)));
        together = together.min(runtime.block_on(backup_into(several, bytes, grain)));
    }
    let ratio = together / alone;
    let verdict = if ratio <= limit { "within" } else { "OVER" };
    println!("{name:<58} alone {alone:6.2} s, together {together:6.2} s: {ratio:.2}, {verdict} {limit}");
}

fn main() {
    let far = |latency: u64, mib: u64| Far { latency: Duration::from_millis(latency), rate: Some(mib * MIB) };
    let three = [far(5, 100), far(50, 100), far(200, 100)];
    compare("5, 50 and 200 ms at 100 MiB/s, beside 200 ms alone", 1.10, &three[2..], &three, 1024 * MIB, Grain::Random);
    let uneven = [far(5, 200), far(50, 100), far(200, 40)];
    compare("200, 100 and 40 MiB/s, beside 40 MiB/s alone", 1.10, &uneven[2..], &uneven, 512 * MIB, Grain::Random);
    compare("three equal stores near by, beside one (text)", 1.7, &[NEAR], &[NEAR; 3], 512 * MIB, Grain::Text);
    compare("three equal stores near by, beside one (random)", 1.7, &[NEAR], &[NEAR; 3], 2048 * MIB, Grain::Random);
}
