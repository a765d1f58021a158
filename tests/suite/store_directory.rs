//! What only a directory can meet: crashes that leave files, foreign files, a root that goes away; and the URLs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use holdfast::clock::{Env, Time};
use holdfast::store::directory::DirectoryStore;
use holdfast::store::error::{StoreError, StoreErrorKind};
use holdfast::store::name::ObjectName;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;
use holdfast::store::{OBJECT_MAX, Store, open};
use tempfile::TempDir;

use crate::support::name;

/// Opened where nothing was; jobs run at once, as in the simulation.
fn fresh() -> (TempDir, PathBuf, DirectoryStore) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = DirectoryStore::open(&Env::inline(1, Time(0)), "here", root.clone(), true).unwrap();
    (folder, root, store)
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn listed(store: &dyn Store) -> Vec<String> {
    store.list("").map_ok(|info| info.name.to_string()).try_collect().await.unwrap()
}

/// The error with its causes, as a person reads it.
fn told(error: &StoreError) -> String {
    let cause = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[tokio::test]
async fn nothing_unfinished_is_ever_an_object() {
    let (_folder, root, store) = fresh();
    store.put(&name("data/aa/x"), bytes("whole")).await.unwrap();
    let unfinished = || fs::read_dir(root.join("tmp")).unwrap().count();
    assert_eq!(unfinished(), 0, "a finished put leaves nothing behind");
    store.put(&name("data/aa/x"), bytes("again")).await.unwrap_err();
    assert_eq!(unfinished(), 0, "a refused put leaves nothing behind");
    fs::write(root.join("tmp/0123"), "half an obj").unwrap();
    assert_eq!(listed(&store).await, ["data/aa/x"]);
    assert!(store.list("tmp").next().await.is_none());
    assert!(store.list("tmp/").next().await.is_none());
}

#[tokio::test]
async fn what_a_crash_left_is_removed_after_a_week_and_only_by_writers() {
    let (_folder, root, store) = fresh();
    store.put(&name("data/a"), bytes("x")).await.unwrap();
    let left = |text: &str, days: u64| {
        let file = fs::File::create(root.join("tmp").join(text)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
    };
    left("old", 8);
    left("young", 6);
    let again = DirectoryStore::open(&Env::inline(2, Time(0)), "here", root.clone(), false).unwrap();
    again.get(&name("data/a"), None).await.unwrap();
    assert!(root.join("tmp/old").exists(), "a reader removes nothing");
    again.put(&name("data/b"), bytes("x")).await.unwrap();
    assert!(!root.join("tmp/old").exists());
    assert!(root.join("tmp/young").exists());
}

#[tokio::test]
async fn a_random_name_that_comes_again_is_no_lost_race() {
    let (_folder, root, store) = fresh();
    // What a crashed run left, and a run with the same seed after it.
    let env = || Env::inline(99, Time(0));
    fs::create_dir(root.join("tmp")).unwrap();
    fs::write(root.join("tmp").join(hex::encode(env().random::<16>())), "left").unwrap();
    drop(store);
    let store = DirectoryStore::open(&env(), "here", root, false).unwrap();
    let error = store.put(&name("log/1"), bytes("x")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{}", told(&error));
    store.put(&name("log/1"), bytes("x")).await.unwrap();
}

#[tokio::test]
async fn foreign_files_are_passed_over() {
    let (folder, root, store) = fresh();
    store.put(&name("data/aa/x"), bytes("x")).await.unwrap();
    for foreign in [".DS_Store", "README", "data/aa/x~", "data/Thumbs.db", "data/aa/ö", "lost+found"] {
        fs::write(root.join(foreign), "foreign").unwrap();
    }
    fs::create_dir_all(root.join("data/.snapshots/bb")).unwrap();
    fs::write(root.join("data/.snapshots/bb/y"), "foreign").unwrap();
    fs::create_dir_all(root.join("empty/folder")).unwrap();
    fs::write(folder.path().join("outside"), "outside").unwrap();
    symlink(folder.path().join("outside"), root.join("data/aa/link")).unwrap();
    symlink(folder.path(), root.join("data/around")).unwrap();
    assert_eq!(listed(&store).await, ["data/aa/x"]);
    // A whole name that is foreign and yet valid is an object like any other.
    fs::write(root.join("readme.txt"), "foreign").unwrap();
    assert_eq!(listed(&store).await, ["data/aa/x", "readme.txt"]);
}

#[tokio::test]
async fn only_regular_files_are_objects() {
    let (folder, root, store) = fresh();
    store.put(&name("data/aa/x"), bytes("x")).await.unwrap();
    fs::write(folder.path().join("outside"), "outside").unwrap();
    symlink(folder.path().join("outside"), root.join("data/link")).unwrap();
    symlink(folder.path().join("nowhere"), root.join("data/broken")).unwrap();
    let fifo = Command::new("mkfifo").arg(root.join("data/fifo")).status().unwrap();
    assert!(fifo.success());
    for text in ["data/aa", "data/link", "data/broken", "data/fifo"] {
        let object = name(text);
        let error = store.get(&object, None).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid, "get {text}: {}", told(&error));
        let error = store.stat(&object).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Invalid, "stat {text}: {}", told(&error));
        let error = store.put(&object, bytes("new")).await.unwrap_err();
        let expected = if text == "data/aa" { StoreErrorKind::Invalid } else { StoreErrorKind::AlreadyExists };
        assert_eq!(error.kind, expected, "put {text}: {}", told(&error));
    }
    let error = store.put(&name("data/aa/x/y"), bytes("new")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid, "below an object: {}", told(&error));
    let mut left = store.delete(&[name("data/aa"), name("data/link")]).await;
    let (object, error) = left.pop().unwrap();
    assert!(left.is_empty() && object == name("data/aa"), "the folder stays, the link goes");
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert_eq!(fs::read_to_string(folder.path().join("outside")).unwrap(), "outside");
    assert_eq!(store.get(&name("data/aa/x"), None).await.unwrap(), "x");
}

#[tokio::test]
async fn an_object_of_absurd_length_is_not_read_into_memory() {
    let (_folder, root, store) = fresh();
    let file = fs::File::create(root.join("descriptor")).unwrap();
    file.set_len(1 << 40).unwrap();
    let object = name("descriptor");
    assert_eq!(store.get(&object, None).await.unwrap_err().kind, StoreErrorKind::Corrupt);
    assert_eq!(store.get(&object, Some(0..1 << 39)).await.unwrap_err().kind, StoreErrorKind::Corrupt);
    let end = store.get(&object, Some((1 << 40) - OBJECT_MAX as u64..1 << 40)).await.unwrap();
    assert_eq!(end.len(), OBJECT_MAX);
}

#[tokio::test]
async fn a_root_that_goes_away_is_an_error_and_not_an_empty_store() {
    let (folder, root, store) = fresh();
    let object = name("data/aa/x");
    store.put(&object, bytes("x")).await.unwrap();
    for replaced in [false, true] {
        fs::rename(&root, folder.path().join(if replaced { "again" } else { "away" })).unwrap();
        if replaced {
            fs::create_dir(&root).unwrap();
        }
        // A rename keeps what is open usable: what must not be taken for absent is what is not there.
        let absent = name("data/aa/y");
        let mut errors = vec![store.stat(&absent).await.unwrap_err(), store.get(&absent, None).await.unwrap_err()];
        errors.extend(store.delete(std::slice::from_ref(&absent)).await.pop().map(|(_, e)| e));
        errors.extend(store.list("keys/").next().await.and_then(Result::err));
        assert_eq!(errors.len(), 4);
        for error in errors {
            assert_eq!(error.kind, StoreErrorKind::NotFound);
            assert!(told(&error).contains("directory") && told(&error).contains("is missing"), "{}", told(&error));
        }
        if replaced {
            fs::remove_dir(&root).unwrap();
        } else {
            fs::rename(folder.path().join("away"), &root).unwrap();
        }
    }
    fs::remove_dir_all(folder.path().join("again")).unwrap();
    let error = store.put(&name("log/1"), bytes("x")).await.unwrap_err();
    assert!(error.kind == StoreErrorKind::NotFound && told(&error).contains("is missing"), "{}", told(&error));
    assert!(!root.exists(), "a store is made by init and by nothing else");
}

#[tokio::test]
async fn a_folder_that_others_removed_is_made_again() {
    let (_folder, root, store) = fresh();
    store.put(&name("data/aa/x"), bytes("x")).await.unwrap();
    fs::remove_dir_all(root.join("data")).unwrap();
    store.put(&name("data/aa/y"), bytes("y")).await.unwrap();
    fs::remove_dir_all(root.join("tmp")).unwrap();
    store.put(&name("data/aa/z"), bytes("z")).await.unwrap();
    assert_eq!(listed(&store).await, ["data/aa/y", "data/aa/z"]);
}

#[tokio::test]
async fn a_store_is_opened_where_it_is_or_made_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::inline(1, Time(0));
    let open = |path: &Path, create| DirectoryStore::open(&env, "here", path.to_owned(), create).map(drop);
    let deep = folder.path().join("a/b/c");
    let error = open(&deep, false).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
    assert_eq!(
        told(&error),
        format!(
            "store here: open {}: not found: the store's directory is missing: is it mounted, and is its path right? (`holdfast init` makes it)",
            deep.display()
        )
    );
    assert!(!folder.path().join("a").exists());
    open(&deep, true).unwrap();
    open(&deep, true).unwrap();
    open(&deep, false).unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700, "made for the owner alone");
    symlink(folder.path().join("nowhere"), folder.path().join("broken")).unwrap();
    for root in ["broken", "broken/store"] {
        assert_eq!(open(&folder.path().join(root), true).unwrap_err().kind, StoreErrorKind::NotFound, "{root}");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    for create in [false, true] {
        assert_eq!(open(&folder.path().join("file"), create).unwrap_err().kind, StoreErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_store_that_a_group_shares_stays_shared() {
    let (_folder, root, store) = fresh();
    let modes = |text: &str| {
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        (mode(root.join(text)), mode(root.join(text).parent().unwrap().to_owned()))
    };
    store.put(&name("data/x"), bytes("x")).await.unwrap();
    assert_eq!(modes("data/x"), (0o600, 0o700));
    fs::set_permissions(&root, fs::Permissions::from_mode(0o750)).unwrap();
    let store = DirectoryStore::open(&Env::inline(2, Time(0)), "here", root.clone(), false).unwrap();
    store.put(&name("keys/x"), bytes("x")).await.unwrap();
    // Under a strict umask a share is not widened.
    fs::write(root.join("plain"), "").unwrap();
    let shared = fs::metadata(root.join("plain")).unwrap().permissions().mode() & 0o040 != 0;
    assert_eq!(modes("keys/x"), if shared { (0o640, 0o750) } else { (0o600, 0o700) });
}

/// The winners' notes of one process: which names it created.
fn race(root: &Path, racer: usize, names: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let env = Env::real();
        let mut won = String::new();
        let store = std::sync::Arc::new(DirectoryStore::open(&env, "racer", root.join("store"), true).unwrap());
        for i in 0..names {
            let object = name(&format!("log/{i:03}"));
            let racers: Vec<_> = (0..8)
                .map(|task| {
                    let (store, object) = (store.clone(), object.clone());
                    env.spawn(async move { store.put(&object, Bytes::from(format!("{racer} {task}"))).await.map(|()| task) })
                })
                .collect();
            for task in racers {
                match task.await {
                    Ok(task) => won += &format!("{object} {racer} {task}\n"),
                    Err(e) => assert_eq!(e.kind, StoreErrorKind::AlreadyExists, "{}", told(&e)),
                }
            }
        }
        fs::write(root.join(format!("won-{racer}")), won).unwrap();
    });
}

#[test]
#[ignore = "one racer of processes_create_exclusively, which starts it"]
fn racer() {
    let Some(root) = std::env::var_os("HOLDFAST_TEST_RACE") else { return };
    let racer = std::env::var("HOLDFAST_TEST_RACER").unwrap().parse().unwrap();
    race(Path::new(&root), racer, 200);
}

#[test]
fn processes_create_exclusively() {
    let folder = tempfile::tempdir().unwrap();
    let start = |racer: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store_directory::racer", "--ignored"])
            .env("HOLDFAST_TEST_RACE", folder.path())
            .env("HOLDFAST_TEST_RACER", racer.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let racers: Vec<_> = (0..8).map(start).collect();
    for mut racer in racers {
        assert!(racer.wait().unwrap().success());
    }
    let mut won: Vec<String> = Vec::new();
    for racer in 0..8 {
        let notes = fs::read_to_string(folder.path().join(format!("won-{racer}"))).unwrap();
        won.extend(notes.lines().map(str::to_owned));
    }
    won.sort();
    let held: Vec<String> = (0..200)
        .map(|i| {
            let object = format!("log/{i:03}");
            let held = fs::read_to_string(folder.path().join("store").join(&object)).unwrap();
            format!("{object} {held}")
        })
        .collect();
    assert_eq!(won, held, "each name was won once, and holds what its winner put");
}

#[test]
fn urls_are_read_or_refused_with_a_reason() {
    let here = Path::new("/conf/dir");
    let table = [
        ("file:///srv/backup", "file:///srv/backup"),
        ("file:///srv//backup/./x/", "file:///srv/backup/x"),
        ("file:/srv/backup", "file:///srv/backup"),
        ("file:stores/a", "file:///conf/dir/stores/a"),
        ("file:./stores/a", "file:///conf/dir/stores/a"),
        ("file:../a", "file:///conf/dir/../a"),
        ("file:///srv/my%20backup", "file:///srv/my%20backup"),
        ("file:///srv/my backup", "file:///srv/my%20backup"),
        ("file:///srv/100%25", "file:///srv/100%25"),
        ("file:///srv/%FF", "file:///srv/%FF"),
        ("file:///", "file:///"),
    ];
    for (text, canonical) in table {
        let url = StoreUrl::parse(text, here).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(url.to_string(), canonical, "{text}");
        assert_eq!(StoreUrl::parse(canonical, Path::new("/elsewhere")).unwrap(), url, "{text}");
    }
    let refused = [
        ("s3:bucket", "two slashes"),
        ("s3://b", "names no bucket"),
        ("s3://Bucket/x", "names no bucket"),
        ("s3://bucket/a//b", "single slashes"),
        ("s3://bucket/a/../b", "single slashes"),
        ("s3://bucket#x", "a #"),
        ("az://account", "az://account/container/prefix"),
        ("az://Account/container", "storage account"),
        ("az://container", "az://account/container/prefix"),
        ("memory:name", "unknown scheme"),
        ("FILE:///a", "unknown scheme"),
        ("/srv/backup", "has no scheme"),
        ("", "has no scheme"),
        ("file:", "names no directory"),
        ("file://srv/backup", "two slashes name a host"),
        ("file:///a?b=c", "no parameters"),
        ("file:///a#b", "no parameters"),
        ("file:///a%2", "hexadecimal"),
        ("file:///a%zz", "hexadecimal"),
        ("file:///a%00b", "names no directory"),
    ];
    for (text, reason) in refused {
        let error = StoreUrl::parse(text, here).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&format!("{text:?}")), "{error}");
    }
}

#[tokio::test]
async fn an_opened_store_is_counted_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::inline(1, Time(0));
    let url = StoreUrl::parse("file:stores/a%20b", folder.path()).unwrap();
    let settings = StoreSettings::default();
    assert_eq!(open(&env, "paris", &url, &settings, false).await.err().unwrap().kind, StoreErrorKind::NotFound);
    let object = ObjectName::new("keys/x").unwrap();
    open(&env, "paris", &url, &settings, true).await.unwrap().store.put(&object, bytes("x")).await.unwrap();
    let again = open(&env, "paris", &url, &settings, false).await.unwrap();
    assert_eq!(again.store.label(), "paris");
    assert_eq!(again.store.get(&object, None).await.unwrap(), "x");
    assert_eq!(again.meter.snapshot().bytes_down(), 1);
    assert!(folder.path().join("stores/a b/keys/x").is_file());
}
