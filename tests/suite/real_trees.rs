//! Real input through the real binary: three replicas, each alone restores, and rsync finds no difference.
//!
//! Quick form: Holdfast's own sources, this toolchain's `etc` and `share`, and an awkward tree. With `HOLDFAST_SUITE=full` also the whole
//! toolchain, the sources of the crates in use and the system's documentation.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::source_tree::awkward;

fn holdfast(home: &Path, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.env_clear().env("HOME", home).env("TMPDIR", std::env::temp_dir()).env("HOLDFAST_KEY_FILE", home.join("key"));
    for name in ["a", "b", "c"] {
        command.arg("--store").arg(format!("{name}=file:{}", home.join(name).display()));
    }
    let out = command.arg("--quiet").args(words).output().expect("the binary runs");
    assert!(out.status.success(), "{words:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
}

/// What rsync would change to make `restored` like `source`; nothing, if all is well.
pub fn difference(source: &Path, restored: &Path) -> String {
    let out = Command::new("rsync")
        .args(["-nacHAXS", "--numeric-ids", "--delete", "--itemize-changes"])
        .arg(format!("{}/", source.display()))
        .arg(format!("{}/", restored.display()))
        .output()
        .expect("rsync runs");
    assert!(out.status.success(), "rsync: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Whether rsync is there; says so if not.
pub fn has_rsync() -> bool {
    let there = Command::new("rsync").arg("--version").output().is_ok();
    if !there {
        eprintln!("ignored: rsync is not on PATH");
    }
    there
}

fn round_trip(home: &Path, sources: &[PathBuf]) {
    std::fs::write(home.join("key"), format!("holdfast-key-1 {}\n", "5a".repeat(32))).expect("a key");
    std::fs::set_permissions(home.join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    holdfast(home, &["init"]);
    let paths: Vec<&str> = sources.iter().map(|p| p.to_str().expect("plain paths")).collect();
    holdfast(home, &[&["backup"], paths.as_slice()].concat());
    for name in ["a", "b", "c"] {
        let target = home.join(format!("from-{name}"));
        let text = target.to_str().expect("plain").to_owned();
        holdfast(home, &["restore", "latest", "--target", &text, "--from", name]);
        for source in sources {
            let restored = target.join(source.strip_prefix("/").expect("absolute"));
            assert_eq!(difference(source, &restored), "", "{} from replica {name}", source.display());
        }
        std::fs::remove_dir_all(&target).expect("removed");
    }
    holdfast(home, &["verify", "--read-data"]);
}

#[test]
fn real_trees_come_back_from_each_replica() {
    if !has_rsync() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = vec![root.join("src"), root.join("tests")];
    let toolchain = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let toolchain = toolchain.filter(|t| t.starts_with('/')).map(PathBuf::from);
    if std::env::var("HOLDFAST_SUITE").is_ok_and(|v| v == "full") {
        sources.extend(toolchain);
        let home = std::env::var("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|_| std::env::var("HOME").map(|h| Path::new(&h).join(".cargo")));
        sources.extend(home.ok().map(|h| h.join("registry/src")));
        sources.push("/usr/share/doc".into());
    } else {
        sources.extend(toolchain.into_iter().flat_map(|t| [t.join("etc"), t.join("lib/rustlib/etc")]));
        sources.push("/usr/share/doc/bash".into());
    }
    sources.retain(|p| p.is_dir());
    round_trip(home.path(), &sources);
}

#[test]
fn an_awkward_tree_comes_back_from_each_replica() {
    if !has_rsync() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let source = home.path().join("source");
    std::fs::create_dir(&source).expect("a folder");
    // rsync itself stops at PATH_MAX: depth beyond it has tests of its own.
    let skipped = awkward(&source, 40);
    // rsync would read every zero of a tebibyte; that file's way back has a test without it.
    std::fs::remove_file(source.join("hole-only")).expect("removed");
    eprintln!("not on this file system: {:?}", skipped);
    round_trip(home.path(), std::slice::from_ref(&source));
}
