//! What the wrappers add to a store: retry under planned faults, limits in virtual time, figures.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{StreamExt, TryStreamExt};
use holdfast::clock::{Env, Time};
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::limit::{LimitSettings, Limited};
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::{Figures, Meter, Metered, Operation};
use holdfast::store::name::ObjectName;
use holdfast::store::retry::{RetryBudget, RetrySettings, Retrying};
use holdfast::store::settings::StoreSettings;
use holdfast::store::{Store, wrap};

use crate::support::faulty_store::{Call, Fault, FaultyStore, How};
use crate::support::name;
use crate::support::recording_store::RecordingStore;

const TRANSIENT: [StoreErrorKind; 4] =
    [StoreErrorKind::Unavailable, StoreErrorKind::TimedOut, StoreErrorKind::Corrupt, StoreErrorKind::Throttled(None)];
const FINAL: [StoreErrorKind; 6] = [
    StoreErrorKind::NotFound,
    StoreErrorKind::AlreadyExists,
    StoreErrorKind::Denied,
    StoreErrorKind::Full,
    StoreErrorKind::Invalid,
    StoreErrorKind::Other,
];

/// A store in memory, one that fails as scripted before it, and retries around both.
struct Chain {
    env: Env,
    memory: MemoryStore,
    faulty: Arc<FaultyStore>,
    store: Retrying,
}

fn settings() -> RetrySettings {
    RetrySettings {
        attempts: 5,
        first_delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(1),
        attempt_timeout: Duration::from_secs(10),
        budget: RetryBudget { reserve: 100, percent: 20 },
    }
}

fn chain(faults: Vec<Fault>) -> Chain {
    chain_with(settings(), move |i| faults.get(i).cloned().unwrap_or(Fault::Pass))
}

fn chain_with(settings: RetrySettings, fault: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Chain {
    chain_by_call(settings, move |call| fault(call.index as usize))
}

fn chain_by_call(settings: RetrySettings, fault: impl Fn(&Call) -> Fault + Send + Sync + 'static) -> Chain {
    let env = Env::inline(7, Time(0));
    let memory = MemoryStore::new(&env, "memory");
    let faulty = FaultyStore::new(&env, Arc::new(memory.clone()), fault);
    let faulty = Arc::new(faulty);
    let store = Retrying::new(&env, faulty.clone(), settings);
    Chain { env, memory, faulty, store }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn fill(store: &dyn Store, count: usize) -> Vec<ObjectName> {
    let names: Vec<_> = (0..count).map(|i| name(&format!("data/{i:04}"))).collect();
    for name in &names {
        store.put(name, bytes("body")).await.unwrap();
    }
    names
}

/// Each operation once, on an object that is there (a put: on one that is not); what it answered.
async fn each_operation(store: &dyn Store, operation: Operation) -> Result<(), StoreError> {
    let (there, new) = (name("data/0000"), name("data/new"));
    match operation {
        Operation::Put => store.put(&new, bytes("new")).await,
        Operation::Get => store.get(&there, None).await.map(|got| assert_eq!(got, "body")),
        Operation::Stat => store.stat(&there).await.map(|info| assert_eq!(info.unwrap().size, 4)),
        Operation::List => store.list("data/").try_collect::<Vec<_>>().await.map(|all| assert_eq!(all.len(), 3)),
        Operation::Delete => store.delete(&[there]).await.pop().map_or(Ok(()), |(_, e)| Err(e)),
    }
}

const OPERATIONS: [Operation; 5] = [Operation::Put, Operation::Get, Operation::Stat, Operation::List, Operation::Delete];

#[tokio::test(start_paused = true)]
async fn passing_faults_are_outlasted() {
    for operation in OPERATIONS {
        let chain = chain(TRANSIENT.map(Fault::FailBefore).to_vec());
        fill(&chain.memory, 3).await;
        each_operation(&chain.store, operation).await.unwrap_or_else(|e| panic!("{operation:?}: {e}"));
        assert_eq!(chain.faulty.calls(), 5, "{operation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn final_errors_are_not_repeated() {
    for operation in OPERATIONS {
        for kind in FINAL {
            let chain = chain(vec![Fault::FailBefore(kind)]);
            fill(&chain.memory, 3).await;
            let error = each_operation(&chain.store, operation).await.unwrap_err();
            assert_eq!((error.kind, chain.faulty.calls()), (kind, 1), "{operation:?}");
            assert_eq!(chain.env.elapsed(), Duration::ZERO);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_waits_grow() {
    for operation in OPERATIONS {
        let chain = chain_with(settings(), |_| Fault::FailBefore(StoreErrorKind::Unavailable));
        let error = each_operation(&chain.store, operation).await.unwrap_err();
        assert_eq!((error.kind, chain.faulty.calls()), (StoreErrorKind::Unavailable, 5), "{operation:?}");
        // At most 0.1 + 0.2 + 0.4 + 0.8 seconds, and not nothing.
        let waited = chain.env.elapsed();
        assert!(waited > Duration::from_millis(10) && waited <= Duration::from_millis(1510), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_an_attempt() {
    for operation in OPERATIONS {
        let chain = chain_by_call(settings(), move |call| match (call.operation == operation, call.nth) {
            (true, 0) => Fault::Stall,
            (true, 1) => Fault::StallAfter,
            _ => Fault::Pass,
        });
        fill(&chain.memory, 3).await;
        each_operation(&chain.store, operation).await.unwrap_or_else(|e| panic!("{operation:?}: {e}"));
        let waited = chain.env.elapsed();
        assert!(waited >= Duration::from_secs(20) && waited < Duration::from_secs(22), "{operation:?}: {waited:?}");
    }
    for operation in OPERATIONS {
        let chain = chain_with(settings(), |_| Fault::Stall);
        let error = each_operation(&chain.store, operation).await.unwrap_err();
        assert_eq!((error.kind, chain.faulty.calls_of(operation)), (StoreErrorKind::TimedOut, 5), "{operation:?}");
        let waited = chain.env.elapsed();
        assert!(waited >= Duration::from_secs(50) && waited < Duration::from_secs(52), "{operation:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_object_gets_the_time_it_needs() {
    let chain = chain(vec![Fault::Delay(Duration::from_secs(100))]);
    chain.store.put(&name("data/large"), Bytes::from(vec![1; 16 << 20])).await.unwrap();
    assert_eq!(chain.faulty.calls(), 1);
}

/// Nobody told how large it is: the store is asked beside the reading.
#[tokio::test(start_paused = true)]
async fn a_large_object_read_whole_gets_the_time_it_needs() {
    let object = name("data/large");
    let getting = |fault: Fault| move |call: &Call| if call.operation == Operation::Get { fault.clone() } else { Fault::Pass };
    // 8 MiB at the slowest rate are 64 seconds, beside the 10 of any attempt.
    for (seconds, attempts) in [(4, 1), (9, 1), (73, 1), (75, 5)] {
        let chain = chain_by_call(settings(), getting(Fault::Delay(Duration::from_secs(seconds))));
        chain.memory.put(&object, Bytes::from(vec![1; 8 << 20])).await.unwrap();
        let got = chain.store.get(&object, None).await;
        assert_eq!((got.is_ok(), chain.faulty.calls_of(Operation::Get)), (attempts == 1, attempts), "{seconds} s");
        let asked = if seconds < 5 { 0 } else { attempts };
        assert_eq!(chain.faulty.calls_of(Operation::Stat), asked, "{seconds} s: asked once an attempt, and only where it lasts");
    }
    // A small one, an absent one, and one whose size is not told get no more time than any request.
    for (size, stat) in [
        (Some(1000), Fault::Pass),
        (None, Fault::Pass),
        (Some(8 << 20), Fault::Stall),
        (Some(8 << 20), Fault::FailBefore(StoreErrorKind::Denied)),
    ] {
        let plan = stat.clone();
        let chain = chain_by_call(RetrySettings { attempts: 1, ..settings() }, move |call| match call.operation {
            Operation::Get => Fault::Stall,
            _ => plan.clone(),
        });
        if let Some(size) = size {
            chain.memory.put(&object, Bytes::from(vec![1; size])).await.unwrap();
        }
        assert_eq!(chain.store.get(&object, None).await.unwrap_err().kind, StoreErrorKind::TimedOut);
        let waited = chain.env.elapsed();
        assert!(waited >= Duration::from_secs(10) && waited < Duration::from_millis(10_100), "{size:?}, {stat:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_a_store_asks_for_is_kept() {
    let asked = |seconds| Fault::FailBefore(StoreErrorKind::Throttled(Some(Duration::from_secs(seconds))));
    for (seconds, kept) in [(0, 0), (7, 7), (300, 300), (1_000_000, 300)] {
        let chain = chain(vec![asked(seconds)]);
        chain.store.put(&name("log/1"), bytes("record")).await.unwrap();
        let waited = chain.env.elapsed();
        let kept = Duration::from_secs(kept);
        assert!(waited >= kept && waited <= kept + Duration::from_millis(101), "{seconds}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_in_doubt_is_settled_by_reading() {
    let object = name("log/1");
    let unclear = [
        Fault::FailAfter(StoreErrorKind::Unavailable),
        Fault::FailAfter(StoreErrorKind::TimedOut),
        Fault::FailAfter(StoreErrorKind::Throttled(None)),
        Fault::StallAfter,
    ];
    for fault in unclear {
        let chain = chain(vec![fault.clone()]);
        chain.store.put(&object, bytes("mine")).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(chain.memory.get(&object, None).await.unwrap(), "mine");
        assert_eq!((chain.faulty.calls_of(Operation::Put), chain.faulty.calls_of(Operation::Get)), (2, 1), "{fault:?}");
    }
    // The reading fails for a while, too.
    let chain =
        chain(vec![Fault::StallAfter, Fault::Pass, Fault::FailBefore(StoreErrorKind::Unavailable), Fault::Pass, Fault::Stall]);
    chain.store.put(&object, bytes("mine")).await.unwrap();
    assert_eq!((chain.faulty.calls_of(Operation::Put), chain.faulty.calls_of(Operation::Get)), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn another_writers_object_stays_anothers() {
    let object = name("log/1");
    for other in ["other", "mine and more", "min", ""] {
        for fault in [Fault::FailBefore(StoreErrorKind::Unavailable), Fault::Stall, Fault::Torn] {
            let chain = chain(vec![fault]);
            chain.memory.put(&object, bytes(other)).await.unwrap();
            let error = chain.store.put(&object, bytes("mine")).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{other:?}");
            assert_eq!(chain.memory.get(&object, None).await.unwrap(), other);
        }
    }
    // Without a doubt nothing is read: the same bytes of an earlier request are not this request's success.
    let chain = chain(vec![]);
    chain.memory.put(&object, bytes("mine")).await.unwrap();
    assert_eq!(chain.store.put(&object, bytes("mine")).await.unwrap_err().kind, StoreErrorKind::AlreadyExists);
    assert_eq!(chain.faulty.calls(), 1);
}

/// A refusal answers the attempt that it answers: the one before may have been carried out, or still be under way.
#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_hide_the_doubt_before_it() {
    let object = name("log/1");
    let refusals =
        [StoreErrorKind::Denied, StoreErrorKind::Full, StoreErrorKind::Invalid, StoreErrorKind::NotFound, StoreErrorKind::Other];
    for refusal in refusals {
        let then = |first: Fault| chain(vec![first, Fault::FailBefore(refusal)]);
        // It was carried out: the bytes are there.
        for first in [Fault::StallAfter, Fault::FailAfter(StoreErrorKind::Unavailable)] {
            let chain = then(first);
            chain.store.put(&object, bytes("mine")).await.unwrap_or_else(|e| panic!("{refusal:?}: {e}"));
            assert_eq!(chain.memory.get(&object, None).await.unwrap(), "mine");
        }
        // Another was there first.
        let chain = then(Fault::Stall);
        chain.memory.put(&object, bytes("other")).await.unwrap();
        let error = chain.store.put(&object, bytes("mine")).await.unwrap_err();
        assert_eq!((error.kind, error.is_ambiguous()), (StoreErrorKind::AlreadyExists, false), "{refusal:?}");
        // Not there yet: it keeps its class, and says that it is not the last word.
        let chain = then(Fault::Stall);
        let error = chain.store.put(&object, bytes("mine")).await.unwrap_err();
        assert_eq!((error.kind, error.is_ambiguous()), (refusal, true));
        assert!(error.to_string().contains("earlier attempt"), "{error}");
        // Without an attempt before it a refusal is one.
        let chain = chain_with(settings(), move |_| Fault::FailBefore(refusal));
        let error = chain.store.put(&object, bytes("mine")).await.unwrap_err();
        assert_eq!((error.kind, error.is_ambiguous()), (refusal, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_that_stays_is_neither_success_nor_a_lost_race() {
    let chain = chain_with(settings(), |i| match i {
        0 => Fault::FailAfter(StoreErrorKind::TimedOut),
        i if i % 2 == 1 => Fault::Pass,
        _ => Fault::FailBefore(StoreErrorKind::Unavailable),
    });
    let error = chain.store.put(&name("log/1"), bytes("mine")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert_eq!(chain.faulty.calls_of(Operation::Put), 5);
}

#[tokio::test(start_paused = true)]
async fn retries_have_a_budget() {
    for (reserve, percent, requests, retries) in [(3, 0, 20, 3), (0, 0, 5, 0), (0, 50, 5, 0), (1, 50, 9, 5), (2, 100, 10, 11)] {
        let settings = RetrySettings { budget: RetryBudget { reserve, percent }, attempts: 3, ..settings() };
        let chain = chain_with(settings, |_| Fault::FailBefore(StoreErrorKind::Unavailable));
        for _ in 0..requests {
            chain.store.stat(&name("descriptor")).await.unwrap_err();
        }
        let spent = chain.faulty.calls() - requests;
        assert!(spent <= u64::from(reserve) + requests * u64::from(percent) / 100, "{reserve} {percent}: {spent}");
        assert_eq!(spent, retries, "reserve {reserve}, {percent} percent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_where_it_broke_off() {
    let fault = |i| match i {
        0 => Fault::FailBefore(StoreErrorKind::Throttled(None)),
        1 => Fault::Torn,
        2 => Fault::FailAfter(StoreErrorKind::Unavailable),
        3 => Fault::StallAfter,
        _ => Fault::Pass,
    };
    let chain = chain_with(settings(), fault);
    let expected = fill(&chain.memory, 1500).await;
    let listed: Vec<_> = chain.store.list("data/").map_ok(|info| info.name).try_collect().await.unwrap();
    assert_eq!(listed, expected);
    assert_eq!(chain.faulty.calls(), 5);

    let chain = chain_with(settings(), |_| Fault::Torn);
    fill(&chain.memory, 3).await;
    let listed: Vec<_> = chain.store.list("data/").collect().await;
    assert_eq!(listed.len(), 2, "one object, one error, the end");
    assert_eq!(listed[1].as_ref().unwrap_err().kind, StoreErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_left_is_deleted_again() {
    let env = Env::inline(7, Time(0));
    let memory = MemoryStore::new(&env, "memory");
    let names = fill(&memory, 8).await;
    let recording = RecordingStore::new(Arc::new(memory.clone()));
    let faults = vec![Fault::Torn, Fault::Torn, Fault::FailAfter(StoreErrorKind::Unavailable), Fault::StallAfter];
    let faulty = FaultyStore::scripted(&env, Arc::new(recording.clone()), faults);
    let store = Retrying::new(&env, Arc::new(faulty), settings());
    assert!(store.delete(&names).await.is_empty());
    // 4 of 8, 2 of 4, then 2 three times: unacknowledged, unanswered, done.
    assert_eq!(recording.records().len(), 4 + 2 + 2 + 2 + 2);
    assert!(memory.list("").next().await.is_none());
}

// Limit.

fn limited(env: &Env, inner: Arc<dyn Store>, settings: LimitSettings) -> Arc<Limited> {
    Arc::new(Limited::new(env, inner, &settings, settings.pressure()))
}

fn connections(connections: usize) -> LimitSettings {
    LimitSettings { connections, upload: None, download: None, requests: None }
}

fn slow(env: &Env, inner: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(FaultyStore::new(env, inner, |_| Fault::Delay(Duration::from_secs(1))))
}

async fn put_all(store: &dyn Store, from: usize, to: usize, size: usize) -> Vec<Result<(), StoreError>> {
    let names: Vec<_> = (from..to).map(|i| name(&format!("data/{i:04}"))).collect();
    join_all(names.iter().map(|name| store.put(name, Bytes::from(vec![0; size])))).await
}

#[tokio::test(start_paused = true)]
async fn only_so_many_at_once_and_first_come_first_served() {
    for (allowed, seconds) in [(1, 12), (3, 4), (5, 3), (100, 1), (0, 12)] {
        let env = Env::inline(1, Time(0));
        let recording = RecordingStore::new(Arc::new(MemoryStore::new(&env, "memory")));
        let store = limited(&env, slow(&env, Arc::new(recording.clone())), connections(allowed));
        assert!(put_all(&*store, 0, 12, 1).await.iter().all(Result::is_ok));
        assert_eq!(env.elapsed().as_secs(), seconds, "{allowed} at once");
        assert!(recording.records().is_sorted_by(|a, b| a.name < b.name), "{allowed} at once");
    }
}

/// Packs wait, a record does not; and however many records come, a pack has its turn, too.
#[tokio::test(start_paused = true)]
async fn small_objects_go_before_large_ones_that_wait() {
    let pack = |i: usize| (name(&format!("data/{i:02}")), Bytes::from(vec![0; 1 << 20]));
    let record = |i: usize| (name(&format!("log/{i:02}")), bytes("record"));
    let free = LimitSettings { connections: 1, upload: None, download: None, requests: None };
    // One request a second, however that comes about.
    for (slowly, settings) in [
        (true, free),
        (false, LimitSettings { connections: 8, upload: Some(1 << 20), ..free }),
        (false, LimitSettings { connections: 8, requests: Some(1), ..free }),
    ] {
        let env = Env::inline(1, Time(0));
        let recording = RecordingStore::new(Arc::new(MemoryStore::new(&env, "memory")));
        let inner: Arc<dyn Store> = Arc::new(recording.clone());
        let store = limited(&env, if slowly { slow(&env, inner) } else { inner }, settings);
        let put = async |(name, bytes): (ObjectName, Bytes), after: u64| {
            env.sleep(Duration::from_millis(after)).await;
            store.put(&name, bytes).await.unwrap();
        };
        let packs = join_all((0..20).map(|i| put(pack(i), 0)));
        let records = join_all((0..2).map(|i| put(record(i), 2500 + i as u64)));
        let (order, _, _) = futures::join!(
            async {
                env.sleep(Duration::from_secs(60)).await;
                recording.records().into_iter().map(|r| r.name).collect::<Vec<_>>()
            },
            packs,
            records
        );
        assert_eq!(order.len(), 22);
        let at = |i: usize| order.iter().position(|name| *name == record(i).0.as_str()).unwrap();
        assert!(at(0) >= 2 && at(1) <= 6, "at most the one under way and the next before both: {settings:?}: {order:?}");
        let packs: Vec<_> = order.iter().filter(|name| name.starts_with("data/")).collect();
        assert!(packs.is_sorted(), "first come, first served: {order:?}");
    }
    // Records without end: thirty wait already, and two come each second.
    let env = Env::inline(1, Time(0));
    let recording = RecordingStore::new(Arc::new(MemoryStore::new(&env, "memory")));
    let store = limited(&env, slow(&env, Arc::new(recording.clone())), connections(1));
    let put = async |(name, bytes): (ObjectName, Bytes), after: u64| {
        env.sleep(Duration::from_millis(after)).await;
        store.put(&name, bytes).await.unwrap();
    };
    futures::join!(
        join_all((0..30).map(|i| put(record(i), 0))),
        join_all((0..2).map(|i| put(pack(i), 10))),
        join_all((30..150).map(|i| put(record(i), (i as u64 - 29) * 500))),
    );
    let order: Vec<_> = recording.records().into_iter().map(|r| r.name).collect();
    let at = |i: usize| order.iter().position(|name| *name == pack(i).0.as_str()).unwrap();
    assert!(at(0) == 30 && at(1) <= 92, "each in its place among those that were there: {order:?}");
}

#[tokio::test(start_paused = true)]
async fn throttling_halves_once_and_success_adds_one() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    // The first eight are throttled together, after they were all under way.
    let throttled = Arc::new(FaultyStore::new(&env, memory, |call| match call.index {
        0..8 => Fault::FailAfter(StoreErrorKind::Throttled(None)),
        _ => Fault::Pass,
    }));
    let settings = connections(8);
    let pressure = settings.pressure();
    let slow = slow(&env, throttled);
    let store = Limited::new(&env, slow, &settings, pressure.clone());
    assert!(put_all(&store, 0, 8, 1).await.iter().all(Result::is_err));
    assert_eq!(pressure.allowed(), 4);
    // Four at once now: eight take two seconds. After four successes it is five, after five more six.
    put_all(&store, 10, 18, 1).await;
    assert_eq!((env.elapsed().as_secs(), pressure.allowed()), (3, 5));
    put_all(&store, 20, 25, 1).await;
    assert_eq!((env.elapsed().as_secs(), pressure.allowed()), (4, 6));
    for round in 1..10 {
        put_all(&store, round * 100, round * 100 + 8, 1).await;
    }
    assert_eq!(pressure.allowed(), 8, "never more than set");
    let before = env.elapsed();
    put_all(&store, 2000, 2016, 1).await;
    assert_eq!((env.elapsed() - before).as_secs(), 2, "eight at once again");
    for _ in 0..10 {
        env.sleep(Duration::from_secs(1)).await;
        let now = env.elapsed();
        pressure.throttled(now, now);
    }
    assert_eq!(pressure.allowed(), 1, "never less than one");
    let before = env.elapsed();
    put_all(&store, 3000, 3002, 1).await;
    assert_eq!((env.elapsed() - before).as_secs(), 2, "one at once");
}

#[tokio::test(start_paused = true)]
async fn throttling_that_retry_makes_good_lowers_the_limit() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let faulty = FaultyStore::scripted(&env, memory, vec![Fault::FailBefore(StoreErrorKind::Throttled(None))]);
    let settings_ = connections(8);
    let pressure = settings_.pressure();
    let retrying = Retrying::new(&env, Arc::new(faulty), settings()).reporting_to(pressure.clone());
    let store = Limited::new(&env, Arc::new(retrying), &settings_, pressure.clone());
    store.put(&name("data/1"), bytes("x")).await.unwrap();
    assert_eq!(pressure.allowed(), 4);
}

#[tokio::test(start_paused = true)]
async fn bytes_per_second_are_kept() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let settings = LimitSettings { connections: 4, upload: Some(1 << 20), download: Some(2 << 20), requests: None };
    let store = limited(&env, memory, settings);
    assert!(put_all(&*store, 0, 11, 1 << 20).await.iter().all(Result::is_ok));
    assert_eq!(env.elapsed(), Duration::from_secs(10), "eleven MiB: the last begins after ten");
    // What moves no bytes waits for nobody's bytes.
    let (object, other, begun) = (name("data/0000"), name("data/x"), env.elapsed());
    let busy = store.put(&other, Bytes::from(vec![0; 1 << 20]));
    let (_, seen) = futures::join!(busy, async {
        store.stat(&object).await.unwrap();
        env.elapsed()
    });
    assert_eq!(seen, begun);
    let begun = env.elapsed();
    for _ in 0..5 {
        store.get(&object, None).await.unwrap();
    }
    assert_eq!(env.elapsed() - begun, Duration::from_secs(2), "whole objects: four MiB before the fifth");
    env.sleep(Duration::from_secs(60)).await;
    let begun = env.elapsed();
    for _ in 0..9 {
        store.get(&object, Some(0..1 << 19)).await.unwrap();
    }
    assert_eq!(env.elapsed() - begun, Duration::from_secs(2), "ranges: four MiB before the ninth");
}

#[tokio::test(start_paused = true)]
async fn a_listing_half_read_holds_no_turn() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    fill(&*memory, 2500).await;
    let store = limited(&env, memory, connections(1));
    let work = async {
        let mut seen = 0;
        let mut listing = store.list("data/");
        while let Some(info) = listing.next().await {
            store.stat(&info.unwrap().name).await.unwrap().unwrap();
            seen += 1;
        }
        seen
    };
    assert_eq!(env.timeout(Duration::from_secs(60), work).await, Some(2500));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_gives_its_turn_back() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let store = limited(&env, slow(&env, memory), connections(2));
    for millis in [100, 500, 1500, 2500] {
        assert!(env.timeout(Duration::from_millis(millis), put_all(&*store, 0, 20, 1)).await.is_none());
    }
    let begun = env.elapsed();
    put_all(&*store, 100, 104, 1).await;
    assert_eq!((env.elapsed() - begun).as_secs(), 2);
}

// Meter.

#[tokio::test(start_paused = true)]
async fn the_meter_counts_by_operation_and_first_segment() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let meter = Meter::new();
    let store = Metered::new(&env, memory, meter.clone());
    assert_eq!(meter.snapshot().calls(), 0);
    store.put(&name("data/a"), Bytes::from(vec![0; 1000])).await.unwrap();
    store.put(&name("data/a"), Bytes::from(vec![0; 1000])).await.unwrap_err();
    store.put(&name("log/1"), Bytes::from(vec![0; 10])).await.unwrap();
    store.put(&name("descriptor"), Bytes::from(vec![0; 7])).await.unwrap();
    store.get(&name("data/a"), None).await.unwrap();
    store.get(&name("data/a"), Some(5..25)).await.unwrap();
    store.get(&name("data/b"), None).await.unwrap_err();
    store.stat(&name("log/1")).await.unwrap();
    store.stat(&name("log/2")).await.unwrap();
    assert_eq!(store.list("data/").count().await, 1);
    assert_eq!(store.list("").count().await, 3);
    store.delete(&[name("data/a"), name("data/b")]).await;
    let figures = meter.snapshot();
    let expected = [
        ("data", Operation::Put, Figures { calls: 2, errors: 1, objects: 1, bytes_up: 1000, bytes_down: 0 }),
        ("log", Operation::Put, Figures { calls: 1, objects: 1, bytes_up: 10, ..Figures::default() }),
        ("descriptor", Operation::Put, Figures { calls: 1, objects: 1, bytes_up: 7, ..Figures::default() }),
        ("data", Operation::Get, Figures { calls: 3, errors: 1, objects: 2, bytes_up: 0, bytes_down: 1020 }),
        ("log", Operation::Stat, Figures { calls: 2, objects: 1, ..Figures::default() }),
        ("data", Operation::List, Figures { calls: 1, objects: 1, ..Figures::default() }),
        ("", Operation::List, Figures { calls: 1, objects: 3, ..Figures::default() }),
        ("data", Operation::Delete, Figures { calls: 1, objects: 2, ..Figures::default() }),
        ("keys", Operation::Put, Figures::default()),
    ];
    for (first, operation, row) in expected {
        assert_eq!(figures.of(first, operation), row, "{operation:?} {first}");
    }
    assert_eq!(figures.total(Operation::Put).calls, 4);
    assert_eq!((figures.calls(), figures.bytes_up(), figures.bytes_down()), (12, 1017, 1020));
    assert_eq!(figures.in_flight, 0);
    // More kinds of names than rows: the rest is counted together, nothing is lost.
    for i in 0..40 {
        store.put(&name(&format!("kind{i:02}/x")), bytes("four")).await.unwrap();
    }
    let figures = meter.snapshot();
    assert_eq!(figures.total(Operation::Put).objects, 43);
    assert!(figures.firsts().count() <= 16 && figures.of("other", Operation::Put).objects > 20);
}

#[tokio::test(start_paused = true)]
async fn a_stall_shows_in_the_meter() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let faults = vec![Fault::Delay(Duration::from_secs(5)), Fault::FailBefore(StoreErrorKind::Unavailable), Fault::Stall];
    let meter = Meter::new();
    let store = Metered::new(&env, Arc::new(FaultyStore::scripted(&env, memory, faults)), meter.clone());
    store.put(&name("data/a"), bytes("x")).await.unwrap();
    assert_eq!(meter.snapshot().last_finished, Duration::from_secs(5));
    env.sleep(Duration::from_secs(1)).await;
    store.put(&name("data/b"), bytes("x")).await.unwrap_err();
    assert_eq!(meter.snapshot().last_finished, Duration::from_secs(5), "an outage is no answer");
    let stalled = env.timeout(Duration::from_secs(60), async {
        let object = name("data/c");
        futures::join!(store.put(&object, bytes("x")), async {
            env.sleep(Duration::from_secs(30)).await;
            assert_eq!(meter.snapshot().in_flight, 1);
        })
    });
    assert!(stalled.await.is_none());
    let figures = meter.snapshot();
    assert_eq!((figures.last_finished, figures.in_flight), (Duration::from_secs(5), 0));
    let _ = store.put(&name("data/a"), bytes("x")).await.unwrap_err();
    assert_eq!(meter.snapshot().last_finished, env.elapsed(), "a refusal is an answer");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_does_not_count_as_an_attempts_time() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let settings = StoreSettings { connections: 1, timeout: Duration::from_secs(3), retries: 0, ..StoreSettings::default() };
    let open = wrap(&env, slow(&env, memory), &settings);
    assert!(put_all(&*open.store, 0, 20, 1).await.iter().all(Result::is_ok));
    assert_eq!(env.elapsed().as_secs(), 20);
    assert_eq!(open.meter.snapshot().of("data", Operation::Put).objects, 20);
}

// The stores of the suite themselves.

#[tokio::test(start_paused = true)]
async fn a_discarding_store_remembers_sizes_only() {
    let env = Env::inline(1, Time(0));
    let store = MemoryStore::discarding(&env, "memory");
    for (text, kept) in [("data/aa/x", false), ("meta/aa/x", false), ("log/1", true), ("index/x", false), ("database/x", true)] {
        let object = name(text);
        store.put(&object, bytes("five!")).await.unwrap();
        assert_eq!(store.stat(&object).await.unwrap().unwrap().size, 5);
        assert_eq!(store.put(&object, bytes("six!!!")).await.unwrap_err().kind, StoreErrorKind::AlreadyExists);
        match store.get(&object, None).await {
            Ok(got) => assert!(kept && got == "five!", "{text}"),
            Err(e) => assert!(!kept && e.kind == StoreErrorKind::Corrupt, "{text}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stores_that_share_a_counter_crash_together() {
    for (how, applied) in [(How::Before, false), (How::Applied, true), (How::Torn, false)] {
        let env = Env::inline(1, Time(0));
        let counter = Arc::new(AtomicU64::new(0));
        let inner: Vec<_> = (0..2).map(|_| Arc::new(MemoryStore::new(&env, "memory"))).collect();
        let stores: Vec<_> = inner.iter().map(|s| FaultyStore::crash_at(&env, s.clone(), 3, how, counter.clone())).collect();
        let object = |i: usize| name(&format!("data/{i}"));
        for i in 0..6 {
            assert_eq!(stores[i % 2].put(&object(i), bytes("x")).await.is_ok(), i < 3, "call {i}, {how:?}");
        }
        for i in 0..6 {
            let there = inner[i % 2].stat(&object(i)).await.unwrap().is_some();
            assert_eq!(there, i < 3 || (i == 3 && applied), "object {i}, {how:?}");
        }
        assert_eq!(stores[0].list("").count().await, 1, "an error and nothing else");
        assert_eq!(counter.load(std::sync::atomic::Ordering::SeqCst), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lying_store_drops_and_flips() {
    let env = Env::inline(1, Time(0));
    let memory = Arc::new(MemoryStore::new(&env, "memory"));
    let store = FaultyStore::new(&env, memory, |call| match (call.operation, call.nth) {
        (Operation::Put, 0) => Fault::Drop,
        (Operation::Get, 0) => Fault::FlipBit(9),
        (Operation::Get, 1) => Fault::Short,
        _ => Fault::Pass,
    });
    store.put(&name("data/dropped"), bytes("x")).await.unwrap();
    assert_eq!(store.stat(&name("data/dropped")).await.unwrap(), None);
    let object = name("data/kept");
    store.put(&object, bytes("\0\0")).await.unwrap();
    assert_eq!(store.get(&object, None).await.unwrap(), &[0, 2][..]);
    assert_eq!(store.get(&object, None).await.unwrap(), &[0][..]);
    assert_eq!(store.get(&object, None).await.unwrap(), &[0, 0][..]);
}

#[tokio::test(start_paused = true)]
async fn requests_are_spread_over_time() {
    let env = Env::inline(1, Time(0));
    let settings = LimitSettings { connections: 100, upload: None, download: None, requests: Some(10) };
    let store = Limited::new(&env, Arc::new(MemoryStore::new(&env, "m")), &settings, settings.pressure());
    let object = name("a");
    let stats = (0..31).map(|_| store.stat(&object));
    futures::future::join_all(stats).await;
    assert_eq!(env.elapsed(), Duration::from_secs(3), "the first at once, thirty more at ten a second");
}
