//! A repository that was written once and never again: `tests/golden/v1`. Every later version opens it, verifies it and
//! restores every byte of it. It holds every kind of object and every kind of record that was written when it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast::backup::BackupSettings;
use holdfast::chunk::split::ChunkerSpec;
use holdfast::cli::{restore as restore_command, verify as verify_command};
use holdfast::clock::Env;
use holdfast::format::entry::Piece;
use holdfast::format::record::{
    Action, Condemn, Configure, Distrust, Expected, Forget, Hold, ObjectClass, ObjectRef, Release, Revoke, decode_slot,
};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::init::{InitSettings, init};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::open::OpenSettings;
use holdfast::repository::{Access, Repository, layout};
use holdfast::restore::RestoreSettings;
use holdfast::seal::key::{KdfParams, Secret};
use holdfast::store::OpenStore;
use holdfast::store::Store;
use holdfast::store::directory::DirectoryStore;
use holdfast::store::meter::Meter;
use holdfast::verify::VerifySettings;
use holdfast::verify::share::Share;

use crate::support::source_tree::{noise, set_mtime};
use crate::support::stage::WALL;

/// Where it lies in this project.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// What opens it: one secret for each kind of slot, known to all.
fn secrets() -> [Unlock; 2] {
    [Unlock::Passphrase(b"golden".to_vec().into()), Unlock::KeyFile(Secret::new([0x60; 32]))]
}

fn member(env: &Env, at: &Path, create: bool) -> Member {
    let store = DirectoryStore::open(env, "golden", at.to_owned(), create).expect("the directory is there");
    Member {
        name: "golden".into(),
        url: "file:///golden".into(),
        store: Ok(OpenStore { store: Arc::new(store), meter: Meter::new() }),
    }
}

async fn open(env: &Env, at: &Path, unlock: &Unlock, access: Access) -> Repository {
    let settings = OpenSettings { replicas: ReplicaSettings::default(), ..OpenSettings::default() };
    Repository::open(env, vec![member(env, at, false)], settings, unlock, access).await.expect("a repository of version 1 opens")
}

/// One line for each item below `root`: kind and mode, modification time, hash of content or target, name.
fn listing(root: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut open = vec![(root.to_path_buf(), Vec::new())];
    while let Some((path, name)) = open.pop() {
        let meta = fs::symlink_metadata(&path).expect("there");
        let content = if meta.is_dir() {
            for child in fs::read_dir(&path).expect("a folder") {
                let child = child.expect("an item");
                open.push((child.path(), [name.as_slice(), b"/", child.file_name().as_bytes()].concat()));
            }
            "-".to_owned()
        } else if meta.is_symlink() {
            blake3::hash(fs::read_link(&path).expect("a link").as_os_str().as_bytes()).to_hex().to_string()
        } else if meta.is_file() {
            blake3::hash(&fs::read(&path).expect("a file")).to_hex().to_string()
        } else {
            "-".to_owned()
        };
        let name = if name.is_empty() { "/".to_owned() } else { name.escape_ascii().to_string() };
        lines.insert(format!("{:o} {}.{:09} {content} {name}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
    }
    lines
}

/// Everything in a folder, with what a writer would change.
fn state(root: &Path) -> BTreeMap<PathBuf, (i64, i64, u64, String)> {
    let mut out = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).expect("there");
        let hash =
            if meta.is_file() { blake3::hash(&fs::read(&path).expect("a file")).to_hex().to_string() } else { String::new() };
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").map(|child| child.expect("an item").path()));
        }
        out.insert(path, (meta.mtime(), meta.mtime_nsec(), meta.size(), hash));
    }
    out
}

/// Bytes in all files.
fn bytes_in(root: &Path) -> u64 {
    state(root).values().filter(|(.., hash)| !hash.is_empty()).map(|(_, _, size, _)| size).sum()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for child in fs::read_dir(from).expect("a folder") {
        let child = child.expect("an item");
        match child.file_type().expect("a type").is_dir() {
            true => copy(&child.path(), &to.join(child.file_name())),
            false => drop(fs::copy(child.path(), to.join(child.file_name())).expect("copied")),
        }
    }
}

/// What the snapshots are made of.
fn plant(at: &Path) {
    fs::create_dir_all(at.join("folder/deeper")).expect("made");
    fs::create_dir(at.join("empty folder")).expect("made");
    fs::write(at.join("empty"), b"").expect("written");
    fs::write(at.join("small"), b"a few words\n").expect("written");
    fs::write(at.join("twin of small"), b"a few words\n").expect("written");
    fs::write(at.join("folder/noise"), noise(1, 30_000)).expect("written");
    // Many chunks that compress well: a content list.
    let lines: String = (0..6_000).map(|n| format!("line {n} of many that are nearly alike\n")).collect();
    fs::write(at.join("folder/deeper/lines"), lines).expect("written");
    let holes = fs::File::create(at.join("folder/holes")).expect("made");
    holes.set_len(3 << 20).expect("set");
    std::os::unix::fs::FileExt::write_all_at(&holes, b"in the middle", 1 << 20).expect("written");
    symlink("../small", at.join("folder/link")).expect("made");
    symlink("/nowhere/at all", at.join("dangling")).expect("made");
    fs::hard_link(at.join("small"), at.join("folder/hard link")).expect("made");
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n\x1b[31m name");
    fs::write(at.join(odd), b"odd").expect("written");
    fs::set_permissions(at.join("small"), fs::Permissions::from_mode(0o640)).expect("set");
    fs::set_permissions(at.join("folder/noise"), fs::Permissions::from_mode(0o4755)).expect("set");
    let fifo = std::process::Command::new("mkfifo").arg(at.join("pipe")).status().expect("mkfifo runs");
    assert!(fifo.success());
}

/// Times that do not depend on when the test ran; from the leaves up.
fn settle_times(at: &Path) {
    for child in fs::read_dir(at).expect("a folder") {
        let child = child.expect("an item");
        if child.file_type().expect("a type").is_dir() {
            settle_times(&child.path());
        }
        set_mtime(&child.path(), 1_700_000_000, 123_456_789).expect("set");
    }
    set_mtime(at, 1_700_000_001, 0).expect("set");
}

#[tokio::test(start_paused = true)]
#[ignore = "made once: writes tests/golden/v1 anew, which is then another golden repository"]
async fn make() {
    let at = golden();
    assert!(!at.exists(), "{} is there: a golden repository is never made again", at.display());
    let store = at.join("repository");
    let env = Env::inline(0x601D, WALL);
    let [passphrase, key_file] = secrets();
    let settings = InitSettings {
        kdf: KdfParams::default(),
        chunker: ChunkerSpec { min: 2 << 10, average: 8 << 10, max: 32 << 10 },
        label: "golden passphrase".into(),
        ..InitSettings::default()
    };
    init(&env, vec![member(&env, &store, true)], &settings, &passphrase).await.expect("made");
    let source = tempfile::tempdir().expect("a folder");
    plant(source.path());
    settle_times(source.path());
    let backup = BackupSettings {
        paths: vec![source.path().to_owned()],
        recorded_as: Some("/golden".into()),
        host: "golden".into(),
        user: "golden".into(),
        tags: vec!["first".into()],
        label: "golden job".into(),
        memory: 32 << 20,
        data_pack: 24 << 10,
        meta_pack: 4 << 10,
        ..BackupSettings::default()
    };
    let go = async |settings: &BackupSettings| {
        let repository = open(&env, &store, &passphrase, Access::Write).await;
        let report =
            holdfast::backup::run(&repository, settings, &Progress::default(), &Stop::default()).await.expect("a backup");
        assert_eq!(report.errors, 0, "{report:?}");
    };
    go(&backup).await;
    let repository = open(&env, &store, &passphrase, Access::Write).await;
    repository.add_key(&key_file, KdfParams::default(), false, "golden key file").await.expect("added");
    let names =
        |seed: u8| (0..300_u16).map(move |n| Bytes::copy_from_slice(blake3::hash(&[seed, n as u8, (n >> 8) as u8]).as_bytes()));
    let one = |seed: u8| Bytes::copy_from_slice(blake3::hash(&[seed]).as_bytes());
    {
        let mut log = repository.log(0).await.expect("readable");
        for (critical, action) in [
            (true, Action::Forget(Forget { ids: names(1).collect() })),
            (true, Action::Revoke(Revoke { key_slots: names(2).collect() })),
            (
                true,
                Action::Condemn(Condemn {
                    objects: vec![ObjectRef { class: ObjectClass::Data as i32, hash: one(3) }],
                    ..Condemn::default()
                }),
            ),
            (false, Action::Distrust(Distrust { add: vec![one(4), one(5)], lift: Vec::new() })),
            (false, Action::Distrust(Distrust { add: Vec::new(), lift: vec![one(5)] })),
            (false, Action::Configure(Configure { feature: "golden".into(), value: "1".into(), ..Configure::default() })),
            (false, Action::Hold(Hold { id: one(6), ..Hold::default() })),
            (false, Action::Release(Release { id: one(6) })),
        ] {
            log.append(action, critical, &[], |_| Ok(())).await.expect("appended");
        }
        log.write_checkpoint().await.expect("a checkpoint");
    }
    repository.note(0, "golden", "made once".into()).await.expect("noted");
    drop(repository);
    // The second snapshot begins behind the checkpoint, publishes often, and replaces partial ones.
    fs::write(source.path().join("folder/late"), noise(2, 20_000)).expect("written");
    fs::remove_file(source.path().join("empty")).expect("removed");
    settle_times(source.path());
    go(&BackupSettings {
        tags: vec!["second".into()],
        publish_bytes: 4 << 10,
        partial_every: std::time::Duration::ZERO,
        ..backup
    })
    .await;
    fs::write(at.join("expected"), listing(source.path()).into_iter().map(|line| line + "\n").collect::<String>())
        .expect("written");
    let _ = fs::remove_dir_all(store.join("tmp"));
    assert!(bytes_in(&store) < 200 << 10, "{} bytes are too many", bytes_in(&store));
}

/// Restores the newest snapshot and compares it with what is listed.
async fn restores(env: &Env, repository: &Repository) {
    let views = repository.snapshots().await.expect("listed");
    let tags: Vec<&str> = views.iter().flat_map(|view| &view.snapshot.tags).map(String::as_str).collect();
    assert_eq!(tags, ["first", "second"]);
    let target = tempfile::tempdir().expect("a folder");
    let settings = RestoreSettings {
        target: target.path().join("all"),
        path: Some(b"/golden".to_vec()),
        no_owners: true,
        memory: 16 << 20,
        ..RestoreSettings::default()
    };
    let snapshot = &views[1].snapshot;
    let report =
        holdfast::restore::run(repository, snapshot, &settings, &Progress::default(), &Stop::default()).await.expect("restored");
    assert_eq!(restore_command::outcome(&report).code(), 0, "{report:?}");
    assert!(report.notes.is_empty(), "{report:?}");
    let expected = fs::read_to_string(golden().join("expected")).expect("it is part of the project");
    let expected: BTreeSet<String> = expected.lines().map(str::to_owned).collect();
    assert!(expected.len() > 12);
    let found = listing(&target.path().join("all"));
    assert_eq!(found.symmetric_difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new());
    let _ = env;
}

#[tokio::test(start_paused = true)]
async fn a_copy_opens_with_both_keys_verifies_and_restores() {
    let at = tempfile::tempdir().expect("a folder");
    copy(&golden().join("repository"), at.path());
    let env = Env::inline(1, WALL);
    for unlock in secrets() {
        let repository = open(&env, at.path(), &unlock, Access::Read).await;
        restores(&env, &repository).await;
    }
    // A verify says in the log that it was carried out: the copy is written to, and can be.
    let [passphrase, _] = secrets();
    let repository = open(&env, at.path(), &passphrase, Access::Write).await;
    let settings = VerifySettings { read_data: Some(Share::All), ..VerifySettings::default() };
    let report =
        holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out");
    assert_eq!(verify_command::outcome(&report).code(), 0, "{report:?}");
    let [replica] = &report.replicas[..] else { panic!("{report:?}") };
    assert!(replica.packs > 4 && replica.packs == replica.packs_read, "{report:?}");
    assert_eq!((replica.snapshots, replica.foreign, replica.notes.len()), (2, 0, 0), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn reading_changes_nothing() {
    let at = golden().join("repository");
    let before = state(&at);
    assert!((50 << 10..200 << 10).contains(&bytes_in(&at)), "{}", bytes_in(&at));
    // From a folder that nobody may write to.
    let frozen = tempfile::tempdir().expect("a folder");
    copy(&at, frozen.path());
    let chmod = |root: &Path, dir: u32, file: u32| {
        for path in state(root).keys() {
            let mode = if path.is_dir() { dir } else { file };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        }
    };
    chmod(frozen.path(), 0o555, 0o444);
    let still = state(frozen.path());
    let env = Env::inline(2, WALL);
    let [passphrase, _] = secrets();
    for place in [frozen.path(), &at] {
        let repository = open(&env, place, &passphrase, Access::Read).await;
        repository.keys().await.expect("keys are listed");
        restores(&env, &repository).await;
        repository.status().await.expect("a status");
    }
    assert!(state(&at) == before, "the golden repository was written to");
    assert!(state(frozen.path()) == still, "a folder that is only read was written to");
    chmod(frozen.path(), 0o755, 0o644);
}

/// It holds what it is there for: an object of every kind, and every record that was written then.
#[tokio::test(start_paused = true)]
async fn it_holds_every_kind() {
    let env = Env::inline(3, WALL);
    let [passphrase, _] = secrets();
    let repository = open(&env, &golden().join("repository"), &passphrase, Access::Read).await;
    let store: &Arc<dyn Store> = &repository.set.replicas[0].store;
    let log = repository.log(0).await.expect("readable");
    let mut records = BTreeSet::new();
    let mut partial = 0;
    for slot in 1..=log.state.slot {
        let stored = store.get(&layout::slot(1, slot), None).await.expect("every slot is there");
        let expected = Expected { replica_id: log.state.replica_id, epoch: 1, slot };
        let (_, body) = decode_slot(&stored, &repository.keyring.keys.log, &repository.id(), &expected).expect("and is whole");
        let action = body.action.expect("known");
        if let Action::Commit(commit) = &action {
            partial += u32::from(commit.partial);
        }
        records.insert(format!("{action:?}").split('(').next().expect("a name").to_owned());
    }
    let written =
        ["Commit", "Condemn", "Configure", "Distrust", "Forget", "Genesis", "Hold", "Note", "Publish", "Release", "Revoke"];
    assert_eq!(records, written.map(str::to_owned).into());
    assert!(partial > 0, "a partial snapshot that was replaced");
    assert!(log.checkpointed > 0, "a checkpoint is read");
    assert_eq!((log.state.forgotten.len() > 300, log.state.revoked.len(), log.state.distrusted.len()), (true, 300, 1));
    assert_eq!(log.state.features.len(), 1);
    drop(log);
    for prefix in ["descriptor", "keys/", "log/", "checkpoints/", "snapshots/", "index/", "lists/", "meta/", "data/"] {
        assert!(futures::StreamExt::next(&mut store.list(prefix)).await.is_some(), "{prefix}");
    }
    assert_eq!(repository.keys().await.expect("keys").iter().map(|k| k.kind.clone()).collect::<BTreeSet<_>>().len(), 2);
    let views = repository.snapshots().await.expect("listed");
    let entries = crate::support::stage::entries(&repository, views[1].id).await.expect("entries");
    let lines = &entries[&b"folder\0deeper\0lines"[..]];
    assert!(lines.content.as_ref().is_some_and(|content| content.list.is_some()), "a content list");
    let holes = crate::support::stage::pieces(&repository, &entries[&b"folder\0holes"[..]]).await.expect("pieces");
    assert!(holes.iter().any(|piece| Piece::chunk_id(piece).is_none()), "a hole");
}
