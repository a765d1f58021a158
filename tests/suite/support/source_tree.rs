//! A tree of awkward things: every type of file, odd names, odd times, holes, links, attributes, depth.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

/// POSIX ACL in its attribute form: owner rw, user 1000 r, group r, mask rw, others nothing.
pub const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 6, 0, 255, 255,
    255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// The capability to bind low ports, permitted and effective, in its attribute form.
pub const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What this system or its file system refuses to hold; said aloud, so that nobody takes it for tested.
#[derive(Debug, Default)]
pub struct Skipped(pub Vec<String>);

impl Skipped {
    fn unless<E: std::fmt::Display>(&mut self, what: &str, result: Result<(), E>) {
        if let Err(e) = result {
            eprintln!("not in the awkward tree, refused here: {what}: {e}");
            self.0.push(what.to_owned());
        }
    }
}

/// Sets a time of last modification, of a link itself too.
pub fn set_mtime(path: &Path, seconds: i64, nanos: u32) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Bytes that repeat nowhere, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A chain of `depth` directories of the same name below `at`, a file in the last; by handles, so of any length.
pub fn deep_chain(at: &Path, name: &str, depth: usize) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here: OwnedFd = rustix::fs::open(at, flags, Mode::empty())?;
    for _ in 0..depth {
        rustix::fs::mkdirat(&here, name, Mode::RWXU)?;
        here = rustix::fs::openat(&here, name, flags, Mode::empty())?;
    }
    let file = rustix::fs::openat(&here, "last", OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    rustix::io::write(file, b"deep down")?;
    Ok(())
}

/// Removes a chain made by [`deep_chain`] (or restored from one), which nothing recursive can be trusted with.
pub fn remove_chain(at: &Path, name: &str) -> io::Result<()> {
    let (link, aside) = (at.join(name), at.join("aside"));
    while link.exists() {
        let _ = fs::remove_file(link.join("last"));
        let more = fs::rename(link.join(name), &aside).is_ok();
        fs::remove_dir(&link)?;
        if more {
            fs::rename(&aside, &link)?;
        }
    }
    Ok(())
}

/// Names that have been trouble to someone.
pub fn odd_names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "a",
        "a-",
        "a.b",
        "a b",
        " lead",
        "trail ",
        "new\nline",
        "tab\t\u{1b}[31m",
        "-rf",
        "~",
        "*",
        "\\",
        "é",
        "e\u{301}",
        "日本",
        "CON",
        "a:b",
        "...",
        "\u{7f}",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    names.push(OsString::from_vec(vec![b'x', 0xff, 0xfe, b'y']));
    names.push(OsString::from_vec(vec![1]));
    names.push(OsString::from("n".repeat(255)));
    names
}

/// Fills the empty directory `at`. The deep part is a chain `deep` of `depth` links (remove it by [`remove_chain`]).
pub fn awkward(at: &Path, depth: usize) -> Skipped {
    let mut skipped = Skipped::default();
    let put = |name: &str, bytes: &[u8]| fs::write(at.join(name), bytes).expect("writing into the awkward tree");
    for (i, name) in odd_names().into_iter().enumerate() {
        let shown = format!("name {}", name.as_bytes().escape_ascii());
        skipped.unless(&shown, fs::write(at.join(&name), noise(i as u64, i * 37)));
        let folder = at.join("folders").join(&name);
        skipped.unless(&shown, fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("inside"), b"x")));
    }
    put("empty", b"");
    put("large", &noise(99, 3 << 20));
    fs::create_dir_all(at.join("empty-folder/also-empty")).expect("making folders");
    holes(at, &mut skipped);
    links(at, &mut skipped);
    special_files(at, &mut skipped);
    modes(at, &mut skipped);
    attributes(at, &mut skipped);
    fs::create_dir(at.join("chain")).expect("making a folder");
    skipped.unless("a path beyond PATH_MAX", deep_chain(&at.join("chain"), "deep", depth));
    times(at, &mut skipped);
    skipped
}

fn holes(at: &Path, skipped: &mut Skipped) {
    let sparse = |name: &str, size: u64, data: &[(u64, usize)]| -> io::Result<()> {
        let file = fs::File::create(at.join(name))?;
        file.set_len(size)?;
        for (offset, length) in data {
            file.write_all_at(&noise(*offset, *length), *offset)?;
        }
        Ok(())
    };
    skipped.unless("a hole at the end", sparse("hole-end", 5 << 20, &[(0, 70_000)]));
    skipped.unless("a hole at the start", sparse("hole-start", 5 << 20, &[((5 << 20) - 70_000, 70_000)]));
    skipped.unless("holes between", sparse("hole-between", 9 << 20, &[(1 << 20, 100_000), (5 << 20, 100_000)]));
    skipped.unless("nothing but a hole", sparse("hole-only", 1 << 40, &[]));
    skipped.unless("zeros that are stored", fs::write(at.join("zeros"), vec![0; 1 << 20]));
}

fn links(at: &Path, skipped: &mut Skipped) {
    for (name, to) in [
        ("link", "large"),
        ("link-nowhere", "no/such/place"),
        ("link-loop", "link-loop"),
        ("link-up", "../.."),
        ("link-folder", "folders"),
    ] {
        skipped.unless("a symbolic link", symlink(to, at.join(name)));
    }
    skipped.unless("a long link", symlink("l".repeat(4000), at.join("link-long")));
    skipped.unless("a link that is no text", symlink(OsStr::from_bytes(&[0xff, b'\n']), at.join("link-bytes")));
    fs::create_dir_all(at.join("twins")).expect("making a folder");
    for name in ["b-second", "twins/third"] {
        skipped.unless("a hard link", fs::hard_link(at.join("large"), at.join(name)));
    }
    skipped
        .unless("a hard link to a link", rustix::fs::linkat(CWD, at.join("link"), CWD, at.join("link-twin"), AtFlags::empty()));
}

fn special_files(at: &Path, skipped: &mut Skipped) {
    let mode = Mode::from_raw_mode(0o640);
    let mut node = |name: &str, kind, device| {
        skipped.unless(name, rustix::fs::mknodat(CWD, at.join(name), kind, mode, device));
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("char-device", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("block-device", FileType::BlockDevice, rustix::fs::makedev(259, 65_537));
    skipped.unless("a hard link to a pipe", fs::hard_link(at.join("fifo"), at.join("fifo-twin")));
}

fn modes(at: &Path, skipped: &mut Skipped) {
    for mode in [0o000, 0o400, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777] {
        let file = at.join(format!("mode-{mode:04o}"));
        let folder = at.join(format!("folder-mode-{mode:04o}"));
        fs::write(&file, b"#!").expect("writing");
        fs::create_dir(&folder).expect("making a folder");
        fs::write(folder.join("inside"), b"y").expect("writing");
        if mode & 0o500 != 0o500 && !rustix::process::geteuid().is_root() {
            continue;
        }
        skipped.unless("a mode", fs::set_permissions(&file, fs::Permissions::from_mode(mode)));
        skipped.unless("a mode", fs::set_permissions(&folder, fs::Permissions::from_mode(mode)));
    }
    for (name, uid, gid) in [("owned", 12_345, 54_321), ("owned-by-most", u32::MAX - 1, u32::MAX - 1), ("owned-folder", 1, 2)] {
        let path = at.join(name);
        if name.ends_with("folder") { fs::create_dir(&path) } else { fs::write(&path, b"z") }.expect("making");
        skipped.unless("another owner", std::os::unix::fs::lchown(&path, Some(uid), Some(gid)));
    }
    skipped.unless("another owner of a link", std::os::unix::fs::lchown(at.join("link"), Some(7), Some(8)));
}

fn attributes(at: &Path, skipped: &mut Skipped) {
    fs::create_dir(at.join("with-attributes")).expect("making a folder");
    let mut set = |name: &str, attribute: &str, value: &[u8]| {
        let path = at.join(name);
        if !path.exists() {
            fs::write(&path, b"attributed").expect("writing");
        }
        let flags = XattrFlags::empty();
        skipped.unless(attribute, rustix::fs::lsetxattr(path, attribute, value, flags));
    };
    set("attributed", "user.empty", b"");
    set("attributed", "user.bytes", &[0, 255, 10, 0]);
    set("attributed", "user.long", &noise(5, 3000));
    set("attributed", "trusted.note", b"t");
    set("with-attributes", "user.folder", b"f");
    set("with-attributes", "system.posix_acl_default", ACL);
    set("with-attributes", "system.posix_acl_access", ACL);
    set("acl", "system.posix_acl_access", ACL);
    set("capable", "security.capability", CAPABILITY);
    skipped.unless("an attribute of a link", rustix::fs::lsetxattr(at.join("link"), "trusted.link", b"l", XattrFlags::empty()));
    skipped.unless("an attribute of a pipe", rustix::fs::lsetxattr(at.join("fifo"), "trusted.pipe", b"p", XattrFlags::empty()));
}

fn times(at: &Path, skipped: &mut Skipped) {
    let odd: [(&str, i64, u32); 9] = [
        ("empty", 0, 0),
        ("large", 1, 999_999_999),
        ("zeros", -1, 1),
        ("a", -2_000_000_000, 123_456_789),
        ("link", 1_500_000_000, 7),
        ("fifo", 1_600_000_000, 8),
        ("empty-folder", 4_294_967_296, 5),
        ("folders", -1, 999_999_999),
        ("acl", 8_000_000_000, 4),
    ];
    for (name, seconds, nanos) in odd {
        skipped.unless("an odd time", set_mtime(&at.join(name), seconds, nanos));
    }
    skipped.unless("an odd time", set_mtime(at, 1_234_567_890, 42));
}

/// All paths below a directory (as std sees them), without entering `except`; components joined by 0.
pub fn keys_below(at: &Path, except: &str) -> Vec<Vec<u8>> {
    let mut keys = vec![Vec::new()];
    let mut folders: Vec<(PathBuf, Vec<u8>)> = vec![(at.to_owned(), Vec::new())];
    while let Some((folder, key)) = folders.pop() {
        for entry in fs::read_dir(folder).expect("reading a folder") {
            let entry = entry.expect("reading a folder");
            let mut below = key.clone();
            if !below.is_empty() {
                below.push(0);
            }
            below.extend_from_slice(entry.file_name().as_bytes());
            if entry.file_type().expect("a type").is_dir() && entry.file_name() != except {
                folders.push((entry.path(), below.clone()));
            }
            keys.push(below);
        }
    }
    keys.sort();
    keys
}
