//! What a release is made of: the version with its commit, the manual pages, completions.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory;
use holdfast::cli::arguments::Arguments;

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast");
const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn git(folder: &Path, words: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let done = command.output().ok().filter(|done| done.status.success())?;
    String::from_utf8(done.stdout).ok().map(|text| text.trim().to_owned())
}

#[test]
fn the_version_names_the_commit() {
    let shown = text(&Command::new(PROGRAM).arg("--version").output().expect("it starts"));
    let of_git = || {
        let top = git(Path::new(HERE), &["rev-parse", "--show-toplevel"])?;
        (std::fs::canonicalize(top).ok()? == std::fs::canonicalize(HERE).ok()?).then_some(())?;
        git(Path::new(HERE), &["rev-parse", "HEAD"])
    };
    let commit = option_env!("HOLDFAST_COMMIT")
        .map(str::to_owned)
        .or_else(of_git)
        .map_or("unknown".into(), |c| c[..c.len().min(12)].to_owned());
    assert_eq!(shown, format!("holdfast {} ({commit})\n", env!("CARGO_PKG_VERSION")));
}

/// `build.rs` itself, as Cargo would run it, without building everything again.
struct Script {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Script {
    fn new() -> Script {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("build-script");
        let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        compiler.args(["--edition", "2024", "-o"]).arg(&program).arg(Path::new(HERE).join("build.rs"));
        text(&compiler.output().expect("rustc starts"));
        Script { folder, program }
    }
    /// What it says in `folder`: the commit, and the files to watch.
    fn run(&self, folder: &Path, commit: Option<&str>) -> (String, Vec<PathBuf>) {
        let mut command = Command::new(&self.program);
        command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder).env_remove("HOLDFAST_COMMIT");
        if let Some(commit) = commit {
            command.env("HOLDFAST_COMMIT", commit);
        }
        let said = text(&command.output().expect("it starts"));
        let find = |word: &'static str| said.lines().filter_map(move |line| line.strip_prefix(word));
        let commit = find("cargo::rustc-env=HOLDFAST_BUILT_COMMIT=").collect::<Vec<_>>().join(",");
        (commit, find("cargo::rerun-if-changed=").map(PathBuf::from).collect())
    }
}

#[test]
fn a_build_finds_its_commit_or_says_that_it_is_unknown() {
    let script = Script::new();
    let at = |name: &str| {
        let path = script.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    };
    let archive = at("archive");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(script.run(&archive, None).0, "unknown");
    assert_eq!(script.run(&archive, Some(commit)).0, "0123456789ab");
    for odd in ["", "main", "0123; rm", "../../etc", "0123456789abcdef0123456789abcdef01234567\ncargo::warning=x"] {
        assert_eq!(script.run(&archive, Some(odd)).0, "unknown", "{odd}");
    }

    let clone = at("clone");
    if git(&clone, &["init", "--quiet", "--initial-branch=trunk"]).is_none() {
        eprintln!("ignored: git is not installed, so the commit of a clone was not looked at");
        return;
    }
    // Nothing is committed yet.
    assert_eq!(script.run(&clone, None).0, "unknown");
    let commits = |message: &str| {
        let who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"];
        let words = [who.as_slice(), &["commit", "--quiet", "--allow-empty", "-m", message]].concat();
        git(&clone, &words).expect("committed");
        git(&clone, &["rev-parse", "HEAD"]).expect("a commit")[..12].to_owned()
    };
    let first = commits("one");
    let (shown, watched) = script.run(&clone, None);
    assert_eq!(shown, first);
    // What Cargo watches exists, since it takes a missing file for one that changed, and one of them changes with the next commit.
    let stamp =
        |files: &[PathBuf]| -> Vec<Vec<u8>> { files.iter().map(|f| std::fs::read(clone.join(f)).expect("there")).collect() };
    let before = stamp(&watched[1..]);
    let second = commits("two");
    assert_ne!(stamp(&watched[1..]), before, "{watched:?}");
    assert_eq!(script.run(&clone, None).0, second);
    // What is given stands before what is found.
    assert_eq!(script.run(&clone, Some(commit)).0, "0123456789ab");
    // A commit that is checked out by itself, and a second working tree, are found too.
    git(&clone, &["checkout", "--quiet", "--detach", &first]).expect("checked out");
    assert_eq!(script.run(&clone, None).0, first);
    let tree = script.folder.path().join("tree");
    git(&clone, &["worktree", "add", "--quiet", tree.to_str().expect("UTF-8"), &second]).expect("added");
    assert_eq!(script.run(&tree, None).0, second);
    // An archive that was unpacked inside somebody else's repository is not of that repository's commit.
    assert_eq!(script.run(&at("clone/vendor/holdfast"), None).0, "unknown");
}

/// Names of the pages of `command` and all below it.
fn page_names(command: &clap::Command, prefix: &str, into: &mut Vec<String>) {
    let name = if prefix.is_empty() { command.get_name().to_owned() } else { format!("{prefix}-{}", command.get_name()) };
    command.get_subcommands().for_each(|below| page_names(below, &name, into));
    into.push(format!("{name}.1"));
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("share/man1");
    text(&Command::new(PROGRAM).arg("man").arg(&pages).output().expect("it starts"));
    let mut expected = Vec::new();
    page_names(&Arguments::command(), "", &mut expected);
    expected.sort();
    let mut written: Vec<String> = std::fs::read_dir(&pages)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    written.sort();
    assert_eq!(written, expected);
    assert!(written.len() > 20 && written.contains(&"holdfast-key-list.1".to_owned()));
    for name in &written {
        let page = std::fs::read_to_string(pages.join(name)).expect("UTF-8");
        for part in
            [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH \"EXIT STATUS\"", "\n  17   refused by a safety limit\n"]
        {
            assert!(page.contains(part), "{name} lacks {part}\n{page}");
        }
    }
    // A folder that cannot be made is said.
    let failed = Command::new(PROGRAM).args(["man", "/dev/null/pages"]).output().expect("it starts");
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("/dev/null/pages"));
}
