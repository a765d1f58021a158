//! Backup, then restore: every byte and every piece of metadata comes back, from any replica, whatever happened to the
//! others, and what cannot be had is named.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast::backup::BackupSettings;
use holdfast::format::tree::{Child, Node, TreeKind};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::Member;
use holdfast::repository::error::Fault as Class;
use holdfast::restore::{RestoreError, RestoreReport, RestoreSettings};
use holdfast::store::Store;
use holdfast::store::meter::Operation;

use crate::support::faulty_store::{Fault, FaultyStore};
use crate::support::recording_store::RecordingStore;
use crate::support::replicas::{NAMES, Replicas, damage, member, restore};
use crate::support::seen::{assert_same, seen};
use crate::support::source_tree::{awkward, noise, remove_chain, set_mtime};

fn into(target: &Path) -> RestoreSettings {
    RestoreSettings { target: target.to_path_buf(), ..RestoreSettings::default() }
}

/// The recorded `path`, straight into `target`.
fn part(path: &Path, target: &Path) -> RestoreSettings {
    RestoreSettings { path: Some(path.as_os_str().as_bytes().to_vec()), ..into(target) }
}

/// Where an absolute path goes below a target.
fn below(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").expect("an absolute path"))
}

fn complete(report: &RestoreReport) {
    assert!(report.failed.is_empty() && report.failed_count == 0, "{:?}", report.failed);
    assert!(report.warnings.is_empty() && report.warnings_count == 0, "{:?}", report.warnings);
}

/// A tree of plain files, some of them of many chunks.
fn plain(at: &Path, files: u64, largest: usize) {
    for i in 0..files {
        let folder = at.join(format!("folder-{}", i % 7));
        fs::create_dir_all(&folder).expect("making a folder");
        let length = if i % 5 == 0 { largest } else { 300 + i as usize };
        fs::write(folder.join(format!("file-{i}")), noise(i, length)).expect("writing");
    }
}

/// Paths of the files that differ between two trees, or are only in the first.
fn differing(from: &Path, to: &Path) -> BTreeSet<String> {
    let (left, right) = (seen(from), seen(to));
    let text = |key: &[u8]| from.join(String::from_utf8_lossy(key).replace('\0', "/")).to_string_lossy().into_owned();
    // Place 9 is the hash of the content.
    left.iter().filter(|(key, item)| right.get(*key).is_none_or(|r| r.9 != item.9)).map(|(key, _)| text(key)).collect()
}

fn names(failed: &[(String, String)]) -> BTreeSet<String> {
    failed.iter().map(|(path, _)| path.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_awkward_tree_comes_back_and_a_second_restore_writes_nothing() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    awkward(&from, 1200);
    let snapshot = replicas.backup_of(&[&from]).await;
    let repository = replicas.open().await;
    let first = restore(&repository, &snapshot, &into(&to)).await.expect("a restore");
    complete(&first);
    assert_eq!(first.notes, Vec::<String>::new());
    let there = below(&to, &from);
    assert_same(&from, &there);
    let mode = |path: &Path| fs::metadata(path).expect("a folder").permissions().mode() & 0o7777;
    assert_eq!(mode(there.parent().expect("it has one")), 0o755, "a folder that only leads to what was recorded");
    let times = |root: &Path| seen(root).into_keys().filter(|key| key.len() < 1000).collect::<Vec<_>>();
    let changed: Vec<_> = times(&there).iter().map(|key| ctime(&there, key)).collect();

    let second = restore(&repository, &snapshot, &into(&to)).await.expect("a restore");
    complete(&second);
    assert_eq!((second.files_written, second.bytes_written), (0, 0));
    assert_eq!(second.files_unchanged, first.files_written);
    assert_eq!(second.entries, snapshot.roots[0].catalog.as_ref().expect("a catalog").entries);
    let again: Vec<_> = times(&there).iter().map(|key| ctime(&there, key)).collect();
    assert_eq!(changed, again, "nothing was touched");
    assert_same(&from, &there);
    for root in [&from, &there] {
        remove_chain(&root.join("chain"), "deep").expect("removing the chain");
    }
}

fn ctime(root: &Path, key: &[u8]) -> (Vec<u8>, i64, i64) {
    let path = key.split(|b| *b == 0).fold(root.to_path_buf(), |path, part| path.join(std::ffi::OsStr::from_bytes(part)));
    let meta = fs::symlink_metadata(path).expect("an item");
    (key.to_vec(), meta.ctime(), meta.ctime_nsec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_snapshot() {
    let replicas = Replicas::new().await;
    let (one, two) = (replicas.folder("both/one"), replicas.folder("both/two"));
    plain(&one, 20, 50_000);
    plain(&two, 10, 5_000);
    fs::write(one.join("folder-1-not"), b"a neighbour by name").expect("writing");
    let folder = one.join("folder-1");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).expect("a mode");
    set_mtime(&folder, 1_000_000, 3).expect("a time");
    let snapshot = replicas.backup_of(&[&one, &two]).await;
    let repository = replicas.open().await;

    let to = replicas.folder("a-folder");
    complete(&restore(&repository, &snapshot, &part(&folder, &to)).await.expect("a restore"));
    assert_same(&folder, &to);

    let to = replicas.folder("a-file");
    complete(&restore(&repository, &snapshot, &part(&folder.join("file-1"), &to)).await.expect("a restore"));
    assert_eq!(fs::read(to.join("file-1")).expect("the file"), fs::read(folder.join("file-1")).expect("the file"));
    assert_eq!(fs::read_dir(&to).expect("a folder").count(), 1);

    let to = replicas.folder("a-root");
    complete(&restore(&repository, &snapshot, &part(&two, &to)).await.expect("a restore"));
    assert_same(&two, &to);

    let to = replicas.folder("above-the-roots");
    complete(&restore(&repository, &snapshot, &part(one.parent().expect("it has one"), &to)).await.expect("a restore"));
    assert_same(&one, &to.join("one"));
    assert_same(&two, &to.join("two"));

    let to = replicas.folder.path().join("never-made");
    for absent in [folder.join("file-999"), one.join("folder-"), PathBuf::from("/elsewhere"), folder.join("file-1/below")] {
        let refused = restore(&repository, &snapshot, &part(&absent, &to)).await;
        assert!(matches!(refused, Err(RestoreError::Settings(_))), "{absent:?}: {refused:?}");
        assert!(!to.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_a_file() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    let file = from.join("single");
    fs::write(&file, noise(1, 100_000)).expect("writing");
    let snapshot = replicas.backup_of(&[&file]).await;
    let repository = replicas.open().await;
    complete(&restore(&repository, &snapshot, &into(&to)).await.expect("a restore"));
    assert_same(&file, &below(&to, &file));
    complete(&restore(&repository, &snapshot, &part(&file, &to)).await.expect("a restore"));
    assert_same(&file, &to.join("single"));
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose() {
    let replicas = Replicas::new().await;
    let from = replicas.folder("from");
    plain(&from, 40, 5_000);
    fs::create_dir_all(from.join("folder-1/deep/er")).expect("making folders");
    fs::write(from.join("folder-1/deep/er/file-1"), b"deep").expect("writing");
    let snapshot = replicas.backup_of(&[&from]).await;
    let repository = replicas.open().await;
    let choose = async |name: &str, includes: &[&str], excludes: &[&str]| {
        let to = replicas.folder(name);
        let list = |patterns: &[&str]| patterns.iter().map(|p| p.replace("FROM", from.to_str().expect("text"))).collect();
        let settings = RestoreSettings { includes: list(includes), excludes: list(excludes), ..part(&from, &to) };
        let report = restore(&repository, &snapshot, &settings).await.expect("a restore");
        complete(&report);
        let keys = seen(&to).into_keys().map(|key| String::from_utf8(key).expect("text").replace('\0', "/"));
        keys.filter(|key| !key.is_empty()).collect::<BTreeSet<_>>()
    };
    let all: BTreeSet<String> = seen(&from)
        .into_keys()
        .map(|key| String::from_utf8(key).expect("text").replace('\0', "/"))
        .filter(|k| !k.is_empty())
        .collect();
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();

    let expected = set(&["folder-1", "folder-1/file-1", "folder-1/deep", "folder-1/deep/er", "folder-1/deep/er/file-1"]);
    assert_eq!(choose("a", &["file-1"], &[]).await, expected, "only what matches, and the way there");
    assert_eq!(choose("b", &["file-1"], &["FROM/folder-1/deep"]).await, set(&["folder-1", "folder-1/file-1"]));
    let without: BTreeSet<String> = all.iter().filter(|k| !k.starts_with("folder-3")).cloned().collect();
    assert_eq!(choose("c", &[], &["FROM/folder-3"]).await, without);
    let only: BTreeSet<String> = all.iter().filter(|k| k.starts_with("folder-2")).cloned().collect();
    assert_eq!(choose("d", &["FROM/folder-2"], &[]).await, only, "with all below");
    assert_eq!(choose("e", &["FROM"], &[]).await, all, "the top itself");
    assert_eq!(choose("f", &["/nowhere"], &[]).await, BTreeSet::new());
    let to = replicas.folder("g");
    let wrong = RestoreSettings { includes: vec!["[".into()], ..into(&to) };
    assert!(matches!(restore(&repository, &snapshot, &wrong).await, Err(RestoreError::Settings(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_alone_is_enough() {
    let replicas = Replicas::new().await;
    let from = replicas.folder("from");
    plain(&from, 60, 150_000);
    let snapshot = replicas.backup_of(&[&from]).await;
    for name in NAMES {
        let recorded: Vec<(&str, RecordingStore)> = NAMES.iter().map(|n| (*n, RecordingStore::new(replicas.store(n)))).collect();
        let members = recorded.iter().map(|(n, store)| member(n, Arc::new(store.clone()))).collect();
        let repository = replicas.open_at(members).await;
        recorded.iter().for_each(|(_, store)| drop(store.take()));
        let to = replicas.folder(&format!("from-{name}"));
        let settings = RestoreSettings { from: Some(name.into()), ..part(&from, &to) };
        complete(&restore(&repository, &snapshot, &settings).await.expect("a restore"));
        assert_same(&from, &to);
        for (other, store) in &recorded {
            assert_eq!(store.records().is_empty(), *other != name, "{other} was asked, or {name} was not");
        }
        // And with the others gone from the world.
        let repository = replicas.open_at(replicas.members(&[name])).await;
        let to = replicas.folder(&format!("only-{name}"));
        complete(&restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore"));
        assert_same(&from, &to);
    }
    let repository = replicas.open().await;
    let settings = RestoreSettings { from: Some("d".into()), ..into(&replicas.folder("to")) };
    let refused = restore(&repository, &snapshot, &settings).await;
    assert!(matches!(&refused, Err(RestoreError::Repository(e)) if e.fault == Class::Usage), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_dead_and_one_damaged() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    plain(&from, 60, 150_000);
    let snapshot = replicas.backup_of(&[&from]).await;
    let packs = [replicas.packs("b", "data"), replicas.packs("b", "meta")].concat();
    for (i, pack) in packs.iter().enumerate() {
        damage(pack, |bytes| {
            for at in (0..bytes.len()).step_by(5_000) {
                bytes[at] ^= 1 << (i % 8);
            }
        });
    }
    let dead = FaultyStore::new(&replicas.env, replicas.store("a"), |call| {
        use holdfast::store::error::StoreErrorKind::Unavailable;
        if call.name.starts_with("data/") || call.name.starts_with("meta/") {
            Fault::FailBefore(Unavailable)
        } else {
            Fault::Pass
        }
    });
    let dead = Arc::new(dead);
    let members: Vec<Member> =
        vec![member("a", dead.clone()), member("b", replicas.store("b")), member("c", replicas.store("c"))];
    let repository = replicas.open_at(members).await;
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    complete(&report);
    assert_same(&from, &to);
    assert!(report.notes.iter().any(|n| n.contains("store b") && n.contains("is damaged")), "{:?}", report.notes);
    assert!(report.notes.iter().any(|n| n.contains("distrusted from now on")), "{:?}", report.notes);
    assert!(dead.calls_of(Operation::Get) < 40, "a dead replica was waited for {} times", dead.calls_of(Operation::Get));
    // What was found is known to whoever comes next.
    let repository = replicas.open().await;
    let distrusted = async |i| repository.log(i).await.expect("a log").state.distrusted.len();
    let (a, b, c) = (distrusted(0).await, distrusted(1).await, distrusted(2).await);
    assert!(b > 0 && b <= packs.len(), "{b} of {}", packs.len());
    assert_eq!((a, c), (0, 0), "unreachable is not damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_everywhere_costs_the_files_it_hit_and_no_others() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    plain(&from, 60, 150_000);
    fs::hard_link(from.join("folder-0/file-0"), from.join("folder-0/twin")).expect("a hard link");
    let snapshot = replicas.backup_of(&[&from]).await;
    let pack = replicas.packs("a", "data").remove(0);
    let pack = pack.strip_prefix(replicas.place("a")).expect("in the store").to_owned();
    for name in NAMES {
        damage(&replicas.place(name).join(&pack), |bytes| bytes[100..].fill(0));
    }
    let repository = replicas.open().await;
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    let differing = differing(&from, &to);
    assert!(!differing.is_empty() && differing.len() < 60, "{differing:?}");
    assert_eq!(names(&report.failed), differing);
    assert_eq!(report.failed_count, differing.len() as u64);
    assert_eq!(differing.contains(&from.join("folder-0/twin").to_string_lossy().into_owned()), {
        differing.contains(&from.join("folder-0/file-0").to_string_lossy().into_owned())
    });
    // What is not whole does not look whole.
    for path in &differing {
        let restored = to.join(Path::new(path).strip_prefix(&from).expect("below the source"));
        let (was, is) = (fs::metadata(path).expect("a file"), fs::metadata(restored).expect("a file"));
        assert!(is.mode() & 0o777 == 0o600 && (is.mtime(), is.mtime_nsec()) != (was.mtime(), was.mtime_nsec()), "{path}");
    }
    assert_eq!(report.notes.iter().filter(|n| n.contains("distrusted from now on")).count(), 3, "{:?}", report.notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_of_the_catalog_costs_what_it_named() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    for i in 0..4000_u32 {
        let folder = from.join(format!("{:02}", i / 100));
        fs::create_dir_all(&folder).expect("making a folder");
        fs::write(folder.join(format!("file-with-a-long-name-to-fill-its-node-{i}")), i.to_le_bytes()).expect("writing");
    }
    let snapshot = replicas.backup_of(&[&from]).await;
    let repository = replicas.open().await;
    let root = snapshot.roots[0].catalog.clone().expect("a catalog");
    let node = repository.chunk(&root.chunk_id().expect("an id")).await.expect("the root's node");
    let node = Node::decode(node, TreeKind::Catalog, Some(&root)).expect("a node");
    assert!(node.level == 1 && node.items.len() > 4, "a tree with leaves: level {}", node.level);
    // The last node in the middle of the tree that shares its frame with neither the root nor the first leaf.
    let child = |i: usize| {
        Child::decode_value(node.items[i].value.clone(), TreeKind::Catalog).expect("a child").chunk_id().expect("an id")
    };
    let ids: Vec<_> = (0..node.items.len()).map(child).collect();
    let places = repository.places(&ids).await.expect("places");
    let of_root = repository.places(&[root.chunk_id().expect("an id")]).await.expect("places")[0][0];
    let frame = |i: usize| (places[i][0].pack, places[i][0].frame);
    let hit =
        (1..ids.len()).find(|i| frame(*i) != frame(0) && frame(*i) != (of_root.pack, of_root.frame)).expect("some leaf apart");
    let (place, hash) = (places[hit][0], {
        let index = repository.index().await.expect("an index");
        let index = index.read().expect("no panic");
        hex::encode(index.pack(places[hit][0].pack).hash)
    });
    for name in NAMES {
        let pack = replicas.place(name).join("meta").join(&hash[..2]).join(&hash);
        damage(&pack, |bytes| bytes[place.frame_offset as usize + 50] ^= 1);
    }
    let repository = replicas.open().await;
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    let (all, had) = (seen(&from), seen(&to));
    assert!(report.failed_count > 0, "nobody was told");
    assert!(had.len() > 500 && had.len() < all.len(), "{} of {}", had.len(), all.len());
    assert!(report.failed[0].1.contains("items are lost"), "{:?}", report.failed);
    for (key, item) in had {
        // A folder whose own entry is lost has other metadata; files are as they were.
        assert!(all[&key] == item || item.0 == holdfast::source::metadata::Kind::Directory, "{}", key.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_the_target() {
    let replicas = Replicas::new().await;
    let (from, to, outside) = (replicas.folder("from"), replicas.folder("to"), replicas.folder("outside"));
    plain(&from, 20, 50_000);
    fs::write(outside.join("file-1"), b"not yours").expect("writing");
    let snapshot = replicas.backup_of(&[&from]).await;
    // A link where a folder belongs, a link where a file belongs, and a file that has another name elsewhere.
    symlink(&outside, to.join("folder-1")).expect("a link");
    fs::create_dir(to.join("folder-2")).expect("a folder");
    symlink(outside.join("file-1"), to.join("folder-2/file-2")).expect("a link");
    fs::create_dir(to.join("folder-3")).expect("a folder");
    fs::hard_link(outside.join("file-1"), to.join("folder-3/file-3")).expect("a hard link");
    let before = seen(&outside);
    let repository = replicas.open().await;
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    let after = seen(&outside);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before.iter().all(|(key, item)| after[key] == *item), "nothing outside was touched");
    assert!(report.failed_count > 0);
    let in_folder_1 = from.join("folder-1").to_string_lossy().into_owned();
    assert!(report.failed.iter().all(|(path, _)| path.starts_with(&in_folder_1)), "{:?}", report.failed);
    assert!(fs::symlink_metadata(to.join("folder-1")).expect("the link").is_symlink());
    let expected = |path: &str| assert_same(&from.join(path), &to.join(path));
    ["folder-2", "folder-3", "folder-4"].into_iter().for_each(expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_with_holes_and_only_what_differs() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    let file = fs::File::create(from.join("large")).expect("a file");
    file.set_len(40 << 20).expect("a length");
    for i in 0..16_u64 {
        // Not at multiples of a page: holes end where the file system says.
        file.write_all_at(&noise(i, 1 << 20), i * (5 << 19)).expect("writing");
    }
    drop(file);
    let snapshot = replicas.backup_of(&[&from]).await;
    let recorded = RecordingStore::new(replicas.store("a"));
    let repository = replicas.open_at(vec![member("a", Arc::new(recorded.clone()))]).await;
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    complete(&report);
    assert_same(&from, &to);
    assert_eq!((report.bytes_total, report.bytes_written), (40 << 20, 16 << 20));
    let reads = recorded.take().iter().filter(|r| r.operation == Operation::Get && r.name.starts_with("data/")).count();
    // 16 MiB in about a thousand chunks, in packs of 1 MiB.
    assert!(reads <= 2 * replicas.packs("a", "data").len(), "{reads} requests");

    // A few bytes change, data stands where a hole belongs, and the end is gone.
    let there = fs::OpenOptions::new().write(true).open(to.join("large")).expect("the file");
    there.write_all_at(b"changed", 5 << 19).expect("writing");
    there.write_all_at(&[7; 5000], (1 << 20) + 300_000).expect("writing");
    there.set_len(39 << 20).expect("a length");
    drop(there);
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    complete(&report);
    assert_same(&from, &to);
    assert!(report.files_written == 1 && (1..=2 * (64 << 10)).contains(&report.bytes_written), "{}", report.bytes_written);
}

#[tokio::test(flavor = "multi_thread")]
async fn little_memory_and_many_windows() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    plain(&from, 3000, 2_000);
    fs::write(from.join("large"), noise(77, 9 << 20)).expect("writing");
    let snapshot = replicas.backup_of(&[&from]).await;
    let repository = replicas.open().await;
    let report =
        restore(&repository, &snapshot, &RestoreSettings { memory: 1 << 20, ..part(&from, &to) }).await.expect("a restore");
    complete(&report);
    assert_same(&from, &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_file() {
    let replicas = Replicas::new().await;
    let from = replicas.folder("from");
    fs::create_dir_all(from.join("a")).expect("a folder");
    fs::create_dir_all(from.join("b")).expect("a folder");
    fs::write(from.join("a/first"), noise(1, 200_000)).expect("writing");
    for name in ["a/second", "b/third", "b/fourth"] {
        fs::hard_link(from.join("a/first"), from.join(name)).expect("a hard link");
    }
    let snapshot = replicas.backup_of(&[&from]).await;
    let repository = replicas.open().await;
    // The first name is not asked for: the others are names of one file all the same.
    let to = replicas.folder("some");
    complete(&restore(&repository, &snapshot, &part(&from.join("b"), &to)).await.expect("a restore"));
    assert_same(&from.join("b"), &to);
    assert_eq!(fs::metadata(to.join("third")).expect("a file").nlink(), 2);

    // A name that is another file's here becomes this one's, and the other file stays as it is.
    let to = replicas.folder("all");
    complete(&restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore"));
    fs::remove_file(to.join("b/third")).expect("removing");
    fs::write(replicas.folder.path().join("mine"), b"mine").expect("writing");
    fs::hard_link(replicas.folder.path().join("mine"), to.join("b/third")).expect("a hard link");
    let report = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    complete(&report);
    assert_same(&from, &to);
    assert_eq!(report.bytes_written, 0, "only a name was missing");
    assert_eq!(fs::read(replicas.folder.path().join("mine")).expect("a file"), b"mine");

    // Another content under all names: it is replaced, not written into.
    fs::write(to.join("a/first"), noise(2, 200_000)).expect("writing");
    fs::hard_link(to.join("a/first"), replicas.folder.path().join("kept")).expect("a hard link");
    complete(&restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore"));
    assert_same(&from, &to);
    assert_eq!(fs::read(replicas.folder.path().join("kept")).expect("a file"), noise(2, 200_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_and_does_not() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder.path().join("to"));
    plain(&from, 30, 100_000);
    let snapshot = replicas.backup_of(&[&from]).await;
    let repository = replicas.open().await;
    let dry = RestoreSettings { dry_run: true, ..part(&from, &to) };
    let said = restore(&repository, &snapshot, &dry).await.expect("a dry run");
    assert!(said.dry_run && !to.exists());
    let done = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    assert_eq!((said.files_written, said.bytes_written, said.entries), (done.files_written, done.bytes_written, done.entries));

    fs::write(to.join("folder-0/file-0"), b"other").expect("writing");
    fs::remove_file(to.join("folder-1/file-1")).expect("removing");
    let before = seen(&to);
    let said = restore(&repository, &snapshot, &dry).await.expect("a dry run");
    assert!(seen(&to) == before, "nothing was written");
    let done = restore(&repository, &snapshot, &part(&from, &to)).await.expect("a restore");
    assert_eq!((said.files_written, said.files_unchanged, said.bytes_written), (2, 28, done.bytes_written));
    assert_eq!((done.files_written, done.files_unchanged), (2, 28));
    assert_same(&from, &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_and_finished_later() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    plain(&from, 100, 300_000);
    let snapshot = replicas.backup_of(&[&from]).await;
    let stop = Stop::default();
    let asked = stop.clone();
    let store = FaultyStore::new(&replicas.env, replicas.store("a"), move |call| {
        if call.operation == Operation::Get && call.name.starts_with("data/") {
            asked.request();
        }
        Fault::Pass
    });
    let store: Arc<dyn Store> = Arc::new(store);
    let repository = replicas.open_at(vec![member("a", store)]).await;
    let progress = Progress::default();
    let stopped = holdfast::restore::run(&repository, &snapshot, &part(&from, &to), &progress, &stop).await;
    assert!(matches!(stopped, Err(RestoreError::Interrupted)), "{stopped:?}");
    let (had, all) = (progress.bytes.get(), snapshot.statistics.expect("figures").bytes);
    assert!(had > 0 && had < all, "what was under way was written, and no more: {had} of {all}");
    let report = restore(&replicas.open().await, &snapshot, &part(&from, &to)).await.expect("a restore");
    complete(&report);
    assert!(report.bytes_written <= all - had, "what was there was left: {} of {all}", report.bytes_written);
    assert_same(&from, &to);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_ends_where_it_said() {
    let replicas = Replicas::new().await;
    let (from, to) = (replicas.folder("from"), replicas.folder("to"));
    plain(&from, 30, 100_000);
    fs::hard_link(from.join("folder-0/file-0"), from.join("twin")).expect("a hard link");
    symlink("nowhere", from.join("link")).expect("a link");
    let (_, snapshot) = replicas.backup(BackupSettings { paths: vec![from.clone()], ..BackupSettings::default() }).await;
    let repository = replicas.open().await;
    for _ in 0..2 {
        let progress = Progress::default();
        let report =
            holdfast::restore::run(&repository, &snapshot, &into(&to), &progress, &Stop::default()).await.expect("a restore");
        complete(&report);
        assert_eq!((progress.items.get(), progress.bytes.get()), (progress.items_total.get(), progress.bytes_total.get()));
        assert_eq!((report.entries, report.bytes_total), (progress.items_total.get(), progress.bytes_total.get()));
        assert!(report.entries > 30);
    }
}

/// The time that a snapshot bears may be given to it, and be any. What changed too recently to be trusted is told by the clock.
#[tokio::test(start_paused = true)]
async fn a_given_time_does_not_make_recent_changes_trusted() {
    use crate::support::stage::{Stage, WALL, backing_up, run, tree};
    use holdfast::clock::{Env, Time};

    const LONG_AGO: Time = Time(1_000_000_000_000_000_000);
    // By the first clock every file changed after the run began, by the second long before.
    for (clock, read_again) in [(LONG_AGO, true), (WALL, false)] {
        for given in [None, Some(LONG_AGO), Some(WALL)] {
            let stage = Stage { env: Env::inline(9, clock), ..Stage::new(9) };
            stage.init().await;
            let source = tree(9, 5, 30_000);
            for round in 0..2 {
                let settings = BackupSettings { time: given, ..backing_up(source.path()) };
                let report = run(&stage.open().await, &settings).await.expect("a backup");
                let read = report.statistics.bytes_read;
                assert_eq!(read > 0, round == 0 || read_again, "clock {clock:?}, given {given:?}, round {round}: {read} bytes");
            }
        }
    }
}
