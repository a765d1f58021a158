//! The target of a restore: what is put there, and what never happens.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;
use holdfast::format::entry::{Entry, EntryKind};
use holdfast::restore::metadata::Applied;
use holdfast::restore::target::{Outcome, Target, TargetError, TargetSettings};
use holdfast::restore::writer::Existing;
use holdfast::source::attributes::{Attribute, read_xattrs};
use holdfast::source::directory::Found;
use holdfast::source::metadata::{Kind, raise_open_files};
use holdfast::source::reading::{Segment, open_file, read_link};

use crate::support::seen::{assert_same, walk};
use crate::support::source_tree::{awkward, deep_chain, noise, remove_chain};

fn folder() -> tempfile::TempDir {
    raise_open_files();
    tempfile::tempdir().expect("a temporary folder")
}

fn open(at: &Path) -> Target {
    Target::open(at, true, TargetSettings::default()).expect("opening the target")
}

fn entry_of(found: &Found) -> Entry {
    let kind = match found.meta.kind {
        Kind::File => EntryKind::File,
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink => EntryKind::Symlink,
        Kind::Fifo => EntryKind::Fifo,
        Kind::Socket => EntryKind::Socket,
        Kind::CharDevice => EntryKind::CharDevice,
        Kind::BlockDevice => EntryKind::BlockDevice,
    };
    let m = &found.meta;
    Entry {
        kind: kind.into(),
        size: m.size,
        mode: m.mode,
        uid: m.uid,
        gid: m.gid,
        mtime: m.mtime.seconds,
        mtime_nanos: m.mtime.nanos,
        device: (u64::from(m.rdev.0) << 32) | u64::from(m.rdev.1),
        ..Entry::default()
    }
}

fn file_entry(mode: u32) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Entry { kind: EntryKind::File.into(), mode, uid, gid, mtime: 1_000, mtime_nanos: 5, ..Entry::default() }
}

/// Restores one tree from another as the activity does, in order, directories' metadata last. Every outcome by key.
fn copy(from: &Path, target: &Target) -> BTreeMap<Vec<u8>, (Outcome, Applied)> {
    let mut first: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut done = BTreeMap::new();
    let mut folders: Vec<(Vec<u8>, Entry, Vec<Attribute>, Outcome)> = Vec::new();
    walk(from, |found| {
        let entry = entry_of(&found);
        let xattrs = read_xattrs(&found).expect("attributes").list;
        let (key, meta) = (found.key.clone(), found.meta);
        if meta.kind == Kind::Directory {
            let made = target.make_directory(&key).expect("a directory");
            folders.push((key, entry, xattrs, made));
            return;
        }
        let of_group = if meta.nlink > 1 {
            Some(first.entry((meta.device_id, meta.inode)).or_insert_with(|| key.clone()).clone())
        } else {
            None
        };
        let outcome = match (of_group, EntryKind::try_from(entry.kind).expect("a kind")) {
            (Some(group), _) if group != key => target.hard_link(&group, &key).expect("a hard link"),
            (_, EntryKind::Symlink) => target.symlink(&key, &read_link(&found).expect("a link")).expect("a link"),
            (_, EntryKind::File) => {
                let file = open_file(&found).expect("opening");
                let writer = target.open_for_write(&key, meta.size, Existing::Compare).expect("a file");
                for (i, segment) in file.segments().enumerate() {
                    let at = file
                        .segments()
                        .take(i)
                        .map(|s| match s {
                            Segment::Data(_, n) | Segment::Hole(n) => n,
                        })
                        .sum();
                    match segment {
                        Segment::Hole(length) => writer.hole(at, length).expect("a hole"),
                        Segment::Data(offset, length) => {
                            let mut bytes = vec![0; usize::try_from(length).expect("a length")];
                            assert_eq!(file.read_at(offset, &mut bytes).expect("reading"), bytes.len());
                            if !writer.matches(offset, &bytes).expect("comparing") {
                                writer.write_at(offset, &bytes).expect("writing");
                            }
                        }
                    }
                }
                writer.finish().expect("finishing")
            }
            (_, kind) => target.special(&key, kind, entry.device).expect("a special file"),
        };
        let applied = target.metadata(&key, &entry, &xattrs).expect("metadata");
        done.insert(key, (outcome, applied));
    });
    for (key, entry, xattrs, made) in folders.into_iter().rev() {
        let applied = target.metadata(&key, &entry, &xattrs).expect("metadata");
        done.insert(key, (made, applied));
    }
    done
}

#[test]
fn an_awkward_tree_comes_back_as_it_was_and_a_second_time_nothing_is_written() {
    let (from, to) = (folder(), folder());
    let (from, to) = (from.path(), to.path().join("made/on/the/way"));
    awkward(from, 1200);
    let target = open(&to);
    let warnings: Vec<_> = copy(from, &target).into_values().flat_map(|(_, a)| a.warnings).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_same(from, &to);
    let again = copy(from, &target);
    assert_same(from, &to);
    let twins = |key: &[u8]| fs::symlink_metadata(target.path_of(key)).is_ok_and(|m| m.nlink() > 1);
    for (key, (outcome, applied)) in again {
        if key.len() < 1000 && !twins(&key) {
            // A file with several names is written afresh: the other names may not be ours.
            let touched = ["", "twins"].iter().any(|k| k.as_bytes() == key);
            assert!(
                outcome == Outcome::Unchanged && (touched || applied.outcome == Outcome::Unchanged),
                "{}",
                key.escape_ascii()
            );
        }
    }
    for root in [from, to.as_path()] {
        remove_chain(&root.join("chain"), "deep").expect("removing the chain");
    }
}

#[test]
fn only_what_differs_is_rewritten_and_everything_wrong_is_mended() {
    let (from, to) = (folder(), folder());
    let (from, to) = (from.path(), to.path());
    awkward(from, 1);
    let target = open(to);
    copy(from, &target);
    // Damage of every sort: content, length, kind, links, owners, modes, times, attributes.
    let large = fs::OpenOptions::new().write(true).open(to.join("mode-0777")).expect("opening");
    large.write_all_at(b"!", 0).expect("writing");
    fs::OpenOptions::new().append(true).open(to.join("zeros")).and_then(|f| f.set_len(5 << 20)).expect("extending");
    fs::OpenOptions::new()
        .write(true)
        .open(to.join("hole-between"))
        .and_then(|f| f.write_all_at(b"no hole", 3 << 20))
        .expect("writing");
    fs::OpenOptions::new().write(true).open(to.join("hole-end")).and_then(|f| f.set_len(10)).expect("cutting");
    fs::remove_file(to.join("socket")).and_then(|()| fs::write(to.join("socket"), b"a file")).expect("replacing");
    fs::remove_file(to.join("link-up")).and_then(|()| symlink("elsewhere", to.join("link-up"))).expect("replacing");
    fs::remove_dir_all(to.join("empty-folder")).and_then(|()| fs::write(to.join("empty-folder"), b"a file")).expect("replacing");
    fs::remove_file(to.join("empty")).and_then(|()| fs::create_dir(to.join("empty"))).expect("replacing");
    fs::remove_file(to.join("twins/third")).and_then(|()| fs::copy(to.join("large"), to.join("twins/third"))).expect("replacing");
    fs::set_permissions(to.join("owned"), fs::Permissions::from_mode(0o777)).expect("a mode");
    let _ = rustix::fs::lsetxattr(to.join("empty-folder"), "user.extra", b"x", rustix::fs::XattrFlags::empty());
    let _ = rustix::fs::lsetxattr(to.join("acl"), "user.extra", b"x", rustix::fs::XattrFlags::empty());
    let _ = rustix::fs::lremovexattr(to.join("with-attributes"), "system.posix_acl_default");
    copy(from, &target);
    assert_same(from, to);
}

#[test]
fn one_changed_byte_costs_one_write_and_an_equal_file_none() {
    let to = folder();
    let target = open(to.path());
    let bytes = noise(1, 1 << 20);
    fs::write(to.path().join("f"), &bytes).expect("writing");
    let inode = fs::metadata(to.path().join("f")).expect("metadata").ino();
    let writer = target.open_for_write(b"f", 1 << 20, Existing::Compare).expect("opening");
    assert!(!writer.is_new());
    assert!(writer.matches(0, &bytes).expect("comparing") && writer.matches(5, &bytes[5..100_000]).expect("comparing"));
    assert!(!writer.matches(1, &bytes[..100]).expect("comparing") && !writer.matches(1 << 20, b"x").expect("comparing"));
    assert!(!writer.matches(u64::MAX, b"x").expect("comparing"));
    assert_eq!(writer.finish().expect("finishing"), Outcome::Unchanged);
    fs::set_permissions(to.path().join("f"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    let writer = target.open_for_write(b"f", 1 << 20, Existing::Compare).expect("opening");
    writer.write_at(77, b"changed").expect("writing");
    assert!(writer.write_at((1 << 20) - 1, b"xy").is_err(), "beyond the size");
    assert!(writer.write_at(u64::MAX, b"xy").is_err() && writer.hole(u64::MAX, 2).is_err());
    let now = fs::metadata(to.path().join("f")).expect("metadata");
    assert_eq!((now.ino(), now.mode() & 0o7777), (inode, 0o600), "in place, private, no longer set-user-id");
    assert_eq!(writer.finish().expect("finishing"), Outcome::Written);
    let mut expected = bytes;
    expected[77..84].copy_from_slice(b"changed");
    assert_eq!(fs::read(to.path().join("f")).expect("reading"), expected);
    // Held open, so that its inode is not given to the next file.
    let old = fs::File::open(to.path().join("f")).expect("opening");
    target.open_for_write(b"f", 3, Existing::Replace).expect("opening").finish().expect("finishing");
    assert_ne!(fs::metadata(to.path().join("f")).expect("metadata").ino(), inode);
    assert_eq!(old.metadata().expect("metadata").len(), 1 << 20);
}

#[test]
fn a_file_with_another_name_is_replaced_and_the_other_left_alone() {
    let (to, outside) = (folder(), folder());
    fs::write(outside.path().join("theirs"), b"theirs").expect("writing");
    fs::hard_link(outside.path().join("theirs"), to.path().join("f")).expect("a link");
    let target = open(to.path());
    let writer = target.open_for_write(b"f", 4, Existing::Compare).expect("opening");
    writer.write_at(0, b"ours").expect("writing");
    writer.finish().expect("finishing");
    target.metadata(b"f", &file_entry(0o640), &[]).expect("metadata");
    assert_eq!(fs::read(outside.path().join("theirs")).expect("reading"), b"theirs");
    assert_eq!(fs::read(to.path().join("f")).expect("reading"), b"ours");
}

#[test]
fn holes_read_as_zeros_whatever_was_there() {
    let to = folder();
    let target = open(to.path());
    fs::write(to.path().join("f"), noise(3, 1 << 20)).expect("writing");
    let writer = target.open_for_write(b"f", 4 << 20, Existing::Compare).expect("opening");
    writer.hole(1000, (4 << 20) - 1000).expect("a hole");
    assert_eq!(writer.finish().expect("finishing"), Outcome::Written);
    let mut expected = vec![0; 4 << 20];
    expected[..1000].copy_from_slice(&noise(3, 1 << 20)[..1000]);
    assert!(fs::read(to.path().join("f")).expect("reading") == expected);
    let writer = target.open_for_write(b"f", 4 << 20, Existing::Compare).expect("opening");
    writer.hole(1000, (4 << 20) - 1000).expect("a hole");
    assert_eq!(writer.finish().expect("finishing"), Outcome::Unchanged);
    let sparse = Target::open(to.path(), false, TargetSettings { sparse: true, ..TargetSettings::default() }).expect("opening");
    let writer = sparse.open_for_write(b"zeros", 8 << 20, Existing::Compare).expect("opening");
    writer.write_at(0, &vec![0; 8 << 20]).expect("writing");
    writer.finish().expect("finishing");
    let made = fs::metadata(to.path().join("zeros")).expect("metadata");
    assert_eq!((made.len(), made.blocks()), (8 << 20, 0));
}

#[test]
fn planted_links_are_never_followed() {
    let (to, outside) = (folder(), folder());
    let secret = outside.path().join("secret");
    fs::write(&secret, b"secret").expect("writing");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).expect("a mode");
    let before = fs::metadata(&secret).expect("metadata");
    symlink(outside.path(), to.path().join("dir")).expect("a link");
    symlink(&secret, to.path().join("file")).expect("a link");
    symlink(outside.path().join("new"), to.path().join("dangling")).expect("a link");
    fs::create_dir(to.path().join("real")).expect("a folder");
    symlink(outside.path(), to.path().join("real/dir")).expect("a link");
    let target = open(to.path());
    let planted = |r: Result<Outcome, TargetError>| matches!(r, Err(TargetError::Planted { .. }));
    for dir in ["dir", "real\0dir"] {
        assert!(planted(target.make_directory(dir.as_bytes())));
        let inside = |name: &str| format!("{dir}\0{name}").into_bytes();
        assert!(planted(target.make_directory(&inside("x"))));
        assert!(planted(target.symlink(&inside("x"), b"y")));
        assert!(planted(target.hard_link(&inside("secret"), b"stolen")));
        assert!(planted(target.special(&inside("x"), EntryKind::Fifo, 0)));
        assert!(matches!(target.open_for_write(&inside("secret"), 1, Existing::Compare), Err(TargetError::Planted { .. })));
        assert!(matches!(target.metadata(&inside("secret"), &file_entry(0o777), &[]), Err(TargetError::Planted { .. })));
        assert!(target.look(&inside("secret")).expect("looking").is_none());
    }
    // Metadata meant for a file never reaches what a link points to.
    assert!(matches!(target.metadata(b"file", &file_entry(0o777), &[]), Err(TargetError::Exchanged { .. })));
    let link = Entry { kind: EntryKind::Symlink.into(), mode: 0o777, ..file_entry(0) };
    target.metadata(b"file", &link, &[]).expect("metadata of the link");
    for name in ["file", "dangling"] {
        let writer = target.open_for_write(name.as_bytes(), 4, Existing::Compare).expect("replacing a link");
        writer.write_at(0, b"mine").expect("writing");
        writer.finish().expect("finishing");
        target.metadata(name.as_bytes(), &file_entry(0o644), &[]).expect("metadata");
        assert!(fs::symlink_metadata(to.path().join(name)).expect("metadata").is_file());
    }
    let after = fs::metadata(&secret).expect("metadata");
    assert_eq!(fs::read(&secret).expect("reading"), b"secret");
    assert_eq!((before.mode(), before.mtime(), before.uid()), (after.mode(), after.mtime(), after.uid()));
    assert_eq!(fs::read_dir(outside.path()).expect("reading").count(), 1);
}

#[test]
fn names_that_no_tree_has_are_refused_before_anything_is_touched() {
    let (to, outer) = (folder(), folder());
    let target = open(&to.path().join("t"));
    let long = "n".repeat(256);
    let deep = "d\0".repeat(40_000);
    for key in ["..", ".", "a\0..", "a\0..\0b", "\0a", "a\0", "a\0\0b", "/etc", "a/b", "../x", "a\0/", &long, &deep] {
        let key = key.as_bytes();
        let refused = |e: Option<TargetError>| matches!(e, Some(TargetError::Name { .. }));
        assert!(refused(target.make_directory(key).err()), "{}", key.escape_ascii());
        assert!(refused(target.symlink(key, b"x").err()));
        assert!(refused(target.hard_link(b"a", key).err()) || target.look(b"a").expect("looking").is_none());
        assert!(refused(target.hard_link(key, b"a").err()));
        assert!(refused(target.special(key, EntryKind::Fifo, 0).err()));
        assert!(refused(target.open_for_write(key, 0, Existing::Replace).err()));
        assert!(refused(target.metadata(key, &file_entry(0o644), &[]).err()));
        assert!(refused(target.look(key).err()));
    }
    assert!(matches!(target.open_for_write(b"", 0, Existing::Replace), Err(TargetError::Name { .. })));
    assert_eq!(fs::read_dir(to.path()).expect("reading").count(), 1);
    assert_eq!(fs::read_dir(to.path().join("t")).expect("reading").count(), 0);
    assert!(matches!(Target::open(&outer.path().join("missing"), false, TargetSettings::default()), Err(TargetError::Io { .. })));
}

#[test]
fn directories_with_contents_are_never_removed() {
    let to = folder();
    fs::create_dir_all(to.path().join("full")).expect("a folder");
    fs::write(to.path().join("full/precious"), b"p").expect("writing");
    fs::create_dir(to.path().join("void")).expect("a folder");
    let target = open(to.path());
    let occupied = |e: Option<TargetError>| matches!(e, Some(TargetError::Occupied { .. }));
    assert!(occupied(target.open_for_write(b"full", 1, Existing::Compare).err()));
    assert!(occupied(target.open_for_write(b"full", 1, Existing::Replace).err()));
    assert!(occupied(target.symlink(b"full", b"x").err()));
    assert!(occupied(target.special(b"full", EntryKind::Fifo, 0).err()));
    assert_eq!(target.make_directory(b"full").expect("it is one"), Outcome::Unchanged);
    assert!(to.path().join("full/precious").exists());
    // A handle of a directory that was replaced is not used for the next one of that name.
    assert_eq!(target.symlink(b"void\0inner", b"x").expect("a link"), Outcome::Written);
    fs::remove_file(to.path().join("void/inner")).expect("removing");
    assert_eq!(target.symlink(b"void", b"x").expect("replacing an empty one"), Outcome::Written);
    assert!(matches!(target.symlink(b"void\0inner", b"x"), Err(TargetError::Planted { .. })));
}

#[test]
fn paths_of_any_depth_are_reached_with_few_handles_and_from_many_threads() {
    let to = folder();
    let target = open(to.path());
    let depth = 3000;
    let mut key = Vec::new();
    for _ in 0..depth {
        if !key.is_empty() {
            key.push(0);
        }
        key.extend_from_slice(b"deep");
        target.make_directory(&key).expect("a directory");
    }
    let (target, key) = (&target, &key);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            scope.spawn(move || {
                // From the top, the bottom and between, so that handles are dropped and found again.
                for level in [0, 2999, 1500, 1, 2998, 300] {
                    let mut key = key[..level * 5].to_vec();
                    key.extend_from_slice(format!("file-{thread}").as_bytes());
                    let writer = target.open_for_write(&key, 6, Existing::Compare).expect("a file");
                    writer.write_at(3, b"def").expect("writing");
                    writer.write_at(0, b"abc").expect("writing");
                    writer.finish().expect("finishing");
                    target.metadata(&key, &file_entry(0o644), &[]).expect("metadata");
                    assert_eq!(target.look(&key).expect("looking").expect("it is there").size, 6);
                }
            });
        }
    });
    let mut files = 0;
    walk(to.path(), |found| {
        files += usize::from(found.meta.kind == Kind::File && found.meta.size == 6 && found.meta.mode == 0o644)
    });
    assert_eq!(files, 24);
    fs::remove_dir_all(to.path().join("deep")).expect("removing the chain");
    let other = folder();
    deep_chain(other.path(), "deep", 10).expect("a chain");
    remove_chain(other.path(), "deep").expect("removing the chain");
    assert!(!other.path().join("deep").exists());
}

#[test]
fn what_settings_withhold_stays_as_it_is() {
    let to = folder();
    let none = TargetSettings { owners: false, xattrs: false, special: false, numeric_ids: true, sparse: false };
    let target = Target::open(to.path(), false, none).expect("opening");
    assert_eq!(target.special(b"null", EntryKind::CharDevice, (1 << 32) | 3).expect("withheld"), Outcome::Withheld);
    assert_eq!(target.special(b"pipe", EntryKind::Fifo, 0).expect("a pipe"), Outcome::Written);
    assert!(!to.path().join("null").exists());
    target.open_for_write(b"f", 0, Existing::Compare).and_then(|w| w.finish()).expect("a file");
    let entry = Entry { uid: 4242, gid: 4242, ..file_entry(0o6755) };
    let applied = target.metadata(b"f", &entry, &[(b"user.x".to_vec(), b"y".to_vec())]).expect("metadata");
    assert!(applied.warnings.is_empty(), "{:?}", applied.warnings);
    let made = fs::metadata(to.path().join("f")).expect("metadata");
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o755, rustix::process::geteuid().as_raw()));
    assert_eq!((made.mtime(), made.mtime_nsec()), (1_000, 5));
    // Rights of one owner are not handed to another, and that is said.
    let special = Target::open(to.path(), false, TargetSettings { special: true, ..none }).expect("opening");
    let applied = special.metadata(b"f", &entry, &[]).expect("metadata");
    assert_eq!(applied.warnings.len(), 1);
    assert_eq!(fs::metadata(to.path().join("f")).expect("metadata").mode() & 0o7777, 0o755);
    let applied = special.metadata(b"f", &file_entry(0o4755), &[]).expect("metadata");
    assert!(applied.warnings.is_empty());
    assert_eq!(fs::metadata(to.path().join("f")).expect("metadata").mode() & 0o7777, 0o4755);
}

#[test]
fn metadata_that_cannot_be_set_is_named_and_the_rest_is_set() {
    let to = folder();
    let target = open(to.path());
    target.open_for_write(b"f", 0, Existing::Compare).and_then(|w| w.finish()).expect("a file");
    let entry = Entry { mtime_nanos: 4_000_000_000, ..file_entry(0o640) };
    let applied = target
        .metadata(b"f", &entry, &[(b"nonsense".to_vec(), b"y".to_vec()), (b"user.ok".to_vec(), b"y".to_vec())])
        .expect("metadata");
    let said: Vec<String> = applied.warnings.iter().map(ToString::to_string).collect();
    assert!(said.len() == 2 && said[0].contains("nonsense") && said[1].contains("4000000000"), "{said:?}");
    assert_eq!(fs::metadata(to.path().join("f")).expect("metadata").mode() & 0o7777, 0o640);
    let again = target.metadata(b"f", &file_entry(0o640), &[(b"user.ok".to_vec(), b"y".to_vec())]).expect("metadata");
    assert!(again.warnings.is_empty());
    let again = target.metadata(b"f", &file_entry(0o640), &[(b"user.ok".to_vec(), b"y".to_vec())]).expect("metadata");
    assert_eq!(again.outcome, Outcome::Unchanged);
}

#[test]
fn owners_go_by_number_or_by_name() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested here: only root may give files away");
        return;
    }
    let to = folder();
    let entry = Entry {
        uid: 4242,
        gid: 4243,
        user: Bytes::from_static(b"root"),
        group: Bytes::from_static(b"no-such-group"),
        ..file_entry(0o600)
    };
    let owners = |numeric_ids| {
        let target =
            Target::open(to.path(), false, TargetSettings { numeric_ids, ..TargetSettings::default() }).expect("opening");
        target.open_for_write(b"f", 0, Existing::Replace).and_then(|w| w.finish()).expect("a file");
        target.metadata(b"f", &entry, &[]).expect("metadata");
        let made = fs::metadata(to.path().join("f")).expect("metadata");
        (made.uid(), made.gid())
    };
    assert_eq!(owners(true), (4242, 4243));
    assert_eq!(owners(false), (0, 4243));
}
