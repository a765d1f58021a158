//! The contract of a store: one list of cases, run for every provider and every wrapper.
//!
//! A provider joins with one line in `contract!`: in which world it lives, over how many names 64 writers race, and how
//! to open it, again and again, over one fresh and empty place.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{StreamExt, TryStreamExt};
use holdfast::clock::{Env, Time};
use holdfast::config::resolve::resolve;
use holdfast::config::{Environment, Overrides};
use holdfast::store::azure::AzureStore;
use holdfast::store::directory::DirectoryStore;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::gcs::GcsStore;
use holdfast::store::limit::{LimitSettings, Limited};
use holdfast::store::memory::MemoryStore;
use holdfast::store::meter::{Meter, Metered};
use holdfast::store::name::{NAME_MAX, ObjectName};
use holdfast::store::retry::{RetrySettings, Retrying};
use holdfast::store::s3::S3Store;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::{Place as UrlPlace, StoreUrl};
use holdfast::store::{OBJECT_MAX, ObjectInfo, Store, open, wrap};

use crate::support::azure_server::AzureServer;
use crate::support::gcs_server::GcsServer;
use crate::support::name;
use crate::support::s3_server::S3Server;

type Open = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync>;

/// What a case gets: a fresh, empty place in a store, and any number of instances that share it.
struct Place {
    env: Env,
    open: Open,
    races: usize,
}

impl Place {
    async fn store(&self) -> Arc<dyn Store> {
        (self.open)().await
    }
}

/// Time stands still and everything happens on one task, or the machine's own time and threads; there, perhaps with a
/// server that a variable of the environment names.
enum World {
    Paused,
    Real,
    Elsewhere(&'static str),
}

fn run<F: Future<Output = ()>>(world: World, races: usize, subject: impl Fn(&Env, &Path) -> Open, case: impl FnOnce(Place) -> F) {
    if let World::Elsewhere(variable) = world
        && std::env::var_os(variable).is_none()
    {
        eprintln!("ignored: {variable} is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut builder, env): (_, fn() -> Env) = match world {
        World::Paused => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.start_paused(true);
            (builder, || Env::inline(1, Time(1_700_000_000_000_000_000)))
        }
        World::Real | World::Elsewhere(_) => (tokio::runtime::Builder::new_multi_thread(), Env::real),
    };
    builder.enable_all().build().unwrap().block_on(async {
        let env = env();
        let open = subject(&env, &folder.path().join("store"));
        case(Place { env, open, races }).await;
    });
}

// Providers: each call of what they return is another instance over the same objects.

fn memory(env: &Env, _: &Path) -> Open {
    let store = MemoryStore::new(env, "memory");
    Box::new(move || ready(Arc::new(store.clone()) as Arc<dyn Store>).boxed())
}

fn directory(env: &Env, folder: &Path) -> Open {
    let (env, folder) = (env.clone(), folder.to_owned());
    Box::new(move || {
        let store = DirectoryStore::open(&env, "directory", folder.clone(), true).unwrap();
        ready(Arc::new(store) as Arc<dyn Store>).boxed()
    })
}

fn opened_by_url(env: &Env, folder: &Path) -> Open {
    let (env, url) = (env.clone(), StoreUrl::parse("file:by/url", folder).unwrap());
    Box::new(move || {
        let (env, url) = (env.clone(), url.clone());
        async move { open(&env, "url", &url, &StoreSettings::default(), true).await.unwrap().store }.boxed()
    })
}

fn s3(env: &Env, _: &Path) -> Open {
    let server = Arc::new(S3Server::start());
    let env = env.clone();
    Box::new(move || {
        let (env, server) = (env.clone(), server.clone());
        async move {
            let url = server.url("some/prefix");
            let UrlPlace::S3(bucket) = url.place() else { panic!("{url}") };
            let store =
                S3Store::open(&env, "s3", bucket, &server.settings()).await.unwrap_or_else(|e| panic!("{e}: {:?}", e.source));
            Arc::new(store) as Arc<dyn Store>
        }
        .boxed()
    })
}

fn gcs(env: &Env, _: &Path) -> Open {
    let server = Arc::new(GcsServer::start());
    let env = env.clone();
    Box::new(move || {
        let (env, server) = (env.clone(), server.clone());
        async move {
            let url = server.url("some/prefix");
            let UrlPlace::Gcs(bucket) = url.place() else { panic!("{url}") };
            let store =
                GcsStore::open(&env, "gcs", bucket, &server.settings()).await.unwrap_or_else(|e| panic!("{e}: {:?}", e.source));
            Arc::new(store) as Arc<dyn Store>
        }
        .boxed()
    })
}

fn azure(env: &Env, _: &Path) -> Open {
    let server = Arc::new(AzureServer::start());
    let env = env.clone();
    Box::new(move || {
        let (env, server) = (env.clone(), server.clone());
        async move {
            let url = server.url("some/prefix");
            let UrlPlace::Azure { account, container } = url.place() else { panic!("{url}") };
            let store = AzureStore::open(&env, "azure", account, container, &server.settings()).await;
            Arc::new(store.unwrap_or_else(|e| panic!("{e}: {:?}", e.source))) as Arc<dyn Store>
        }
        .boxed()
    })
}

/// The store that a variable names, each time under another prefix, with credentials as found in the environment.
fn named_by(variable: &'static str) -> impl Fn(&Env, &Path) -> Open {
    move |env, folder| {
        let text = std::env::var(variable).unwrap();
        let (path, query) = text.split_once('?').map_or((text.as_str(), ""), |(path, query)| (path, query));
        let fresh = hex::encode(env.random::<8>());
        let text = format!("elsewhere={}/contract-{fresh}?{query}", path.trim_end_matches('/'));
        // As a run would find it: some credentials are found by the configuration.
        let overrides = Overrides { stores: vec![text], ..Overrides::default() };
        let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AZURE_"));
        let choice = resolve(&overrides, &Environment::of(ours), folder.parent().unwrap()).unwrap().stores.remove(0);
        let env = env.clone();
        Box::new(move || {
            let (env, choice) = (env.clone(), choice.clone());
            async move { open(&env, "elsewhere", &choice.url, &choice.settings, false).await.unwrap().store }.boxed()
        })
    }
}

// Wrappers, around any of them.

type Provider = fn(&Env, &Path) -> Open;

fn wrapped(wrapper: fn(&Env, Arc<dyn Store>) -> Arc<dyn Store>, inner: Provider) -> impl Fn(&Env, &Path) -> Open {
    move |env, folder| {
        let (env, inner) = (env.clone(), inner(env, folder));
        Box::new(move || {
            let (env, opening) = (env.clone(), inner());
            async move { wrapper(&env, opening.await) }.boxed()
        })
    }
}

fn retry(env: &Env, inner: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Retrying::new(env, inner, RetrySettings::default()))
}

fn limit(env: &Env, inner: Arc<dyn Store>) -> Arc<dyn Store> {
    let settings = LimitSettings { connections: 3, upload: Some(1 << 40), download: Some(1 << 40), requests: Some(1 << 20) };
    Arc::new(Limited::new(env, inner, &settings, settings.pressure()))
}

fn meter(env: &Env, inner: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Metered::new(env, inner, Meter::new()))
}

fn all_of_them(env: &Env, inner: Arc<dyn Store>) -> Arc<dyn Store> {
    wrap(env, inner, &StoreSettings::default()).store
}

macro_rules! cases {
    ($note:tt $world:expr, $races:expr, $subject:expr, $($case:ident)*) => {$(
        #[test]
        #$note
        fn $case() {
            use super::{all_of_them, azure, directory, gcs, limit, memory, meter, named_by, opened_by_url, retry, s3, wrapped};
            let _ = (all_of_them, azure, directory, gcs, limit, memory, meter, named_by, opened_by_url, retry, s3, wrapped);
            super::run($world, $races, $subject, super::$case);
        }
    )*};
}

macro_rules! contract {
    ($($name:ident: $world:expr, $races:expr, $subject:expr;)*) => {
        contract! { [cfg(test)] $($name: $world, $races, $subject;)* }
    };
    ($note:tt $($name:ident: $world:expr, $races:expr, $subject:expr;)*) => {$(
        mod $name {
            cases!($note $world, $races, $subject,
                put_creates_and_get_returns
                put_never_overwrites
                of_many_puts_one_succeeds
                bodies_of_every_size
                a_body_too_large_is_refused
                ranges_are_exact
                ranges_outside_are_refused
                absent_objects
                lists_are_complete_and_ordered
                prefixes_are_plain_strings
                lists_while_objects_come
                delete_takes_a_batch
            );
        }
    )*};
}

contract! {
    in_memory: super::World::Paused, 200, memory;
    in_memory_retry: super::World::Paused, 200, wrapped(retry, memory);
    in_memory_limit: super::World::Paused, 200, wrapped(limit, memory);
    in_memory_meter: super::World::Paused, 200, wrapped(meter, memory);
    in_memory_wrapped: super::World::Paused, 200, wrapped(all_of_them, memory);
    in_directory: super::World::Real, 200, directory;
    in_directory_retry: super::World::Real, 20, wrapped(retry, directory);
    in_directory_limit: super::World::Real, 20, wrapped(limit, directory);
    in_directory_meter: super::World::Real, 20, wrapped(meter, directory);
    in_directory_by_url: super::World::Real, 20, opened_by_url;
    in_azure: super::World::Real, 200, azure;
    in_azure_wrapped: super::World::Real, 20, wrapped(all_of_them, azure);
    in_gcs: super::World::Real, 200, gcs;
    in_gcs_wrapped: super::World::Real, 20, wrapped(all_of_them, gcs);
    in_s3: super::World::Real, 200, s3;
    in_s3_wrapped: super::World::Real, 20, wrapped(all_of_them, s3);
}

// What needs a server that somebody else runs is no part of a plain run, and must not look like one: `tests/run` asks for it.
contract! {
    [ignore = "needs the server that a variable names, see tests/README.md"]
    in_azure_elsewhere: super::World::Elsewhere("HOLDFAST_TEST_AZURE_URL"), 3, named_by("HOLDFAST_TEST_AZURE_URL");
    in_s3_elsewhere: super::World::Elsewhere("HOLDFAST_TEST_S3_URL"), 3, named_by("HOLDFAST_TEST_S3_URL");
    in_gcs_elsewhere: super::World::Elsewhere("HOLDFAST_TEST_GCS_URL"), 3, named_by("HOLDFAST_TEST_GCS_URL");
}

async fn list(store: &dyn Store, prefix: &str) -> Vec<ObjectInfo> {
    store.list(prefix).try_collect().await.unwrap_or_else(|e| panic!("{e}"))
}

async fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    list(store, prefix).await.iter().map(|info| info.name.to_string()).collect()
}

async fn kind_of_get(store: &dyn Store, name: &ObjectName, range: Option<Range<u64>>) -> Option<StoreErrorKind> {
    store.get(name, range).await.err().map(|e| e.kind)
}

/// Bytes that differ at every place and from seed to seed.
fn body(seed: &str, length: usize) -> Bytes {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

async fn put_creates_and_get_returns(at: Place) {
    let store = at.store().await;
    for text in ["descriptor", "log/00000001/00000000000000000001", "data/ab/0123456789abcdef", "a.b_c-d/e"] {
        let (object, bytes) = (name(text), body(text, 1000));
        store.put(&object, bytes.clone()).await.unwrap();
        for store in [&store, &at.store().await] {
            assert_eq!(store.get(&object, None).await.unwrap(), bytes, "{text}");
            let info = store.stat(&object).await.unwrap().expect("the object is there");
            assert_eq!((&info.name, info.size), (&object, 1000));
            let now = at.env.now();
            assert!(now.since(info.modified).max(info.modified.since(now)) < Duration::from_secs(3600), "{info:?}");
            assert_eq!(list(&**store, text).await, [info], "{text}");
        }
    }
}

async fn put_never_overwrites(at: Place) {
    let (store, object, first) = (at.store().await, name("log/1"), body("first", 300));
    store.put(&object, first.clone()).await.unwrap();
    let before = store.stat(&object).await.unwrap();
    for bytes in [first.clone(), body("second", 300), Bytes::new(), body("longer", 3000)] {
        for store in [&store, &at.store().await] {
            let error = store.put(&object, bytes.clone()).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error}");
            assert!(error.to_string().contains("log/1"), "{error}");
            assert_eq!(store.get(&object, None).await.unwrap(), first);
        }
    }
    assert_eq!(store.stat(&object).await.unwrap(), before);
    assert_eq!(names(&*store, "").await, ["log/1"]);
}

async fn of_many_puts_one_succeeds(at: Place) {
    let stores: Vec<_> = futures::future::join_all((0..8).map(|_| at.store())).await;
    for round in 0..at.races {
        let object = name(&format!("log/{}/{round:020}", round % 3));
        let racers: Vec<_> = (0..64)
            .map(|racer| {
                let (store, object) = (stores[racer % 8].clone(), object.clone());
                let bytes = body(&format!("racer {racer}"), 100 + racer);
                at.env.spawn(async move { store.put(&object, bytes.clone()).await.map(|()| bytes) })
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await {
                Ok(bytes) => winners.push(bytes),
                Err(e) => assert_eq!(e.kind, StoreErrorKind::AlreadyExists, "{e}"),
            }
        }
        assert_eq!(winners.len(), 1, "winners of {object}");
        for store in &stores {
            assert_eq!(store.get(&object, None).await.unwrap(), winners[0], "{object}");
        }
    }
    assert_eq!(list(&*stores[0], "").await.len(), at.races);
}

async fn bodies_of_every_size(at: Place) {
    let store = at.store().await;
    for size in [0, 1, 4095, 4096, 4097, 1 << 20, OBJECT_MAX] {
        let (object, bytes) = (name(&format!("data/{size}")), body("sizes", size));
        store.put(&object, bytes.clone()).await.unwrap();
        assert_eq!(store.stat(&object).await.unwrap().unwrap().size, size as u64);
        assert!(store.get(&object, None).await.unwrap() == bytes, "{size} bytes came back changed");
    }
}

async fn a_body_too_large_is_refused(at: Place) {
    let (store, object) = (at.store().await, name("data/large"));
    let error = store.put(&object, Bytes::from(vec![0; OBJECT_MAX + 1])).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert_eq!(store.stat(&object).await.unwrap(), None);
    assert!(names(&*store, "").await.is_empty());
    store.put(&object, Bytes::from_static(b"small")).await.unwrap();
}

async fn ranges_are_exact(at: Place) {
    let (store, object, bytes) = (at.store().await, name("data/aa/bb"), body("ranges", 10_000));
    store.put(&object, bytes.clone()).await.unwrap();
    for (start, end) in [(0, 10_000), (0, 1), (9_999, 10_000), (1, 9_999), (4_095, 4_097), (5_000, 5_001)] {
        let got = store.get(&object, Some(start..end)).await.unwrap();
        assert_eq!(got, bytes[start as usize..end as usize], "{start}..{end}");
    }
}

async fn ranges_outside_are_refused(at: Place) {
    let (store, full, empty) = (at.store().await, name("data/full"), name("data/empty"));
    store.put(&full, body("ranges", 10)).await.unwrap();
    store.put(&empty, Bytes::new()).await.unwrap();
    let table = [(0, 0), (3, 3), (5, 4), (10, 10), (0, 11), (9, 11), (10, 11), (11, 12), (0, u64::MAX), (u64::MAX - 1, u64::MAX)];
    for (start, end) in table {
        let kind = kind_of_get(&*store, &full, Some(Range { start, end })).await;
        assert_eq!(kind, Some(StoreErrorKind::Invalid), "{start}..{end} of 10 bytes");
    }
    for (start, end) in [(0, 0), (0, 1), (1, 2)] {
        let kind = kind_of_get(&*store, &empty, Some(Range { start, end })).await;
        assert_eq!(kind, Some(StoreErrorKind::Invalid), "{start}..{end} of nothing");
    }
    assert_eq!(store.get(&empty, None).await.unwrap(), Bytes::new());
}

async fn absent_objects(at: Place) {
    let store = at.store().await;
    store.put(&name("keys/one"), Bytes::from_static(b"x")).await.unwrap();
    for text in ["descriptor", "keys/two", "keys/on", "keys/one1", "keys/one/below", "no/such/folder"] {
        let object = name(text);
        assert_eq!(store.stat(&object).await.unwrap(), None, "{text}");
        for range in [None, Some(0..1)] {
            assert_eq!(kind_of_get(&*store, &object, range).await, Some(StoreErrorKind::NotFound), "{text}");
        }
    }
}

async fn lists_are_complete_and_ordered(at: Place) {
    let store = at.store().await;
    let mut expected = BTreeSet::new();
    for (from, to) in [(0, 0), (0, 1), (1, 2), (2, 999), (999, 1000), (1000, 1001)] {
        for i in from..to {
            // Out of order, and over some folders.
            let object = name(&format!("data/{:02x}/{i:04}", i * 7919 % 5));
            store.put(&object, Bytes::from(vec![0; i % 10])).await.unwrap();
            expected.insert((object.to_string(), (i % 10) as u64));
        }
        let listed: Vec<_> = list(&*store, "data/").await.into_iter().map(|i| (i.name.to_string(), i.size)).collect();
        assert_eq!(listed, expected.iter().cloned().collect::<Vec<_>>(), "{to} objects");
        let first: Vec<_> = store.list("").take(3).map(|i| i.unwrap().name.to_string()).collect().await;
        assert_eq!(first, expected.iter().take(3).map(|(n, _)| n.clone()).collect::<Vec<_>>(), "{to} objects");
    }
}

async fn prefixes_are_plain_strings(at: Place) {
    let store = at.store().await;
    // Sorted as whole names: `-` and `.` come before `/`, digits after it.
    let all = ["a-b", "a.b/x", "a/b", "a/b-c/x", "a/b.c", "a/bb/c/d", "a/bb/c0", "a/c", "a0/b", "b", "descriptor"];
    for text in all.iter().rev() {
        store.put(&name(text), Bytes::from_static(b"x")).await.unwrap();
    }
    for prefix in ["", "a", "a/", "a/b", "a/b-", "a/bb", "a/bb/", "a/bb/c", "a/bb/c/", "a/bb/c/d", "a.", "a0", "b", "desc"] {
        let expected: Vec<_> = all.iter().filter(|n| n.starts_with(prefix)).collect();
        assert!(!expected.is_empty());
        assert_eq!(names(&*store, prefix).await, expected.into_iter().copied().collect::<Vec<_>>(), "{prefix:?}");
    }
    for prefix in ["/", ".", "..", "../", "a/../a", "a//", "a/b/", "A", "tmp", "tmp/", "c", "zzz/", "descriptor/", "\u{e4}"] {
        assert!(names(&*store, prefix).await.is_empty(), "{prefix:?}");
    }
}

async fn lists_while_objects_come(at: Place) {
    let store = at.store().await;
    let text = |i: usize| format!("index/{:03}", i * 37 % 300);
    let (done, seen) = tokio::sync::watch::channel(0);
    let writer = at.env.spawn({
        let store = at.store().await;
        async move {
            for i in 0..300 {
                store.put(&name(&text(i)), Bytes::from(vec![7; 500])).await.unwrap();
                done.send_replace(i + 1);
                tokio::task::yield_now().await;
            }
        }
    });
    loop {
        let finished = *seen.borrow();
        let listed = list(&*store, "index/").await;
        let listed_names: BTreeSet<_> = listed.iter().map(|i| i.name.to_string()).collect();
        assert_eq!(listed_names.len(), listed.len(), "an object was listed twice");
        assert!(listed.is_sorted_by(|a, b| a.name < b.name));
        assert!(listed.iter().all(|i| i.size == 500), "a part of an object was listed");
        for i in 0..finished {
            assert!(listed_names.contains(&text(i)), "{} was finished and is not listed", text(i));
        }
        if finished == 300 {
            break;
        }
        tokio::task::yield_now().await;
    }
    writer.await;
}

async fn delete_takes_a_batch(at: Place) {
    let store = at.store().await;
    for i in 0..20 {
        store.put(&name(&format!("data/{:02}/x{i:02}", i % 4)), body("delete", i)).await.unwrap();
    }
    let batch: Vec<_> =
        ["data/00/x00", "data/00/missing", "missing", "data/01/x01", "data/01/x01", "data/03/x19", "data/03/x19/y"]
            .iter()
            .map(|text| name(text))
            .collect();
    assert!(store.delete(&batch).await.is_empty());
    assert!(store.delete(&batch).await.is_empty());
    assert!(store.delete(&[]).await.is_empty());
    let left = names(&*store, "").await;
    assert_eq!(left.len(), 17);
    for object in &batch {
        assert_eq!(store.stat(object).await.unwrap(), None);
        assert_eq!(kind_of_get(&*store, object, None).await, Some(StoreErrorKind::NotFound));
        assert!(!left.contains(&object.to_string()));
    }
    store.put(&batch[0], body("again", 5)).await.unwrap();
    assert_eq!(store.get(&batch[0], None).await.unwrap(), body("again", 5));
}

#[test]
fn names_are_refused_before_any_store_sees_them() {
    let segment = "s".repeat(128);
    let longest = [segment.as_str(); 8].join("/");
    assert_eq!(longest.len(), NAME_MAX + 7);
    for text in ["a", "0", "descriptor", "a/b/c", "a.b", "a-b_c.d", "tmp0/a", "a/tmp", "a/tmp/b", &segment, &longest[..NAME_MAX]]
    {
        assert_eq!(ObjectName::new(text).unwrap().as_str(), text);
    }
    let refused = [
        "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../a", ".hidden", "a/.b", "-a", "_a", "tmp", "tmp/", "tmp/a", "Abc",
        "a/B", "DATA/a", "a b", "a\0", "a\n", "a\\b", "a:b", "a%20b", "\u{e4}", "a*", "a?", &longest,
    ];
    for text in refused {
        assert!(ObjectName::new(text).is_err(), "{text:?}");
    }
    assert!(ObjectName::new(&format!("{segment}s")).is_err());
}
