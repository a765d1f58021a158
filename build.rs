//! Finds out which commit is built, for `--version`: `HOLDFAST_COMMIT` where it is set (an image, a package), else the
//! repository's HEAD, else "unknown" (a source archive). It runs again only when one of these moves.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Digits of a commit that are shown.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-env-changed=HOLDFAST_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let given = std::env::var("HOLDFAST_COMMIT").ok().filter(|commit| is_commit(commit));
    let commit = given.or_else(|| head(&folder)).unwrap_or_default();
    let shown = if commit.is_empty() { "unknown" } else { &commit[..commit.len().min(DIGITS)] };
    println!("cargo::rustc-env=HOLDFAST_BUILT_COMMIT={shown}");
}

/// Whether `text` can be a commit: anything else would end up in what people paste into reports.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The commit that is checked out in `folder`, and what Cargo has to watch to notice that it moved.
fn head(folder: &Path) -> Option<String> {
    // A source archive may lie inside somebody else's repository: its commit is not ours.
    let top = PathBuf::from(git(folder, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != folder.canonicalize().ok()? {
        return None;
    }
    let mut watched = vec!["HEAD".to_owned(), "packed-refs".to_owned()];
    watched.extend(git(folder, &["symbolic-ref", "--quiet", "HEAD"]));
    for name in watched {
        // Cargo takes a file that does not exist for one that changed, each time.
        if let Some(path) = git(folder, &["rev-parse", "--git-path", &name]).map(|path| folder.join(path))
            && path.exists()
        {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(folder, &["rev-parse", "HEAD"]).filter(|commit| is_commit(commit))
}

/// What git says to `words`, if it is there and says anything.
fn git(folder: &Path, words: &[&str]) -> Option<String> {
    let said = Command::new("git").arg("-C").arg(folder).args(words).output().ok().filter(|said| said.status.success())?;
    String::from_utf8(said.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}
