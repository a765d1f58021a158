//! What is to be said about a local directory.

use crate::doctor::finding::Level;
use crate::doctor::judge::Sheet;
use crate::repository::error::Fault;
use crate::store::inspect::DirectoryFacts;

/// Least part of a file system that should be free, in percent.
const FREE_PERCENT: u64 = 5;

/// Judges what the system says of a directory.
pub(super) fn judge(sheet: &mut Sheet<'_>, facts: &DirectoryFacts) {
    let expected = "nobody else may write there, and strangers may not read";
    let mode = format!("mode {:03o}", facts.mode & 0o777);
    match facts.mode {
        m if m & 0o002 != 0 => {
            let found = format!("{mode}: every user of this machine can remove the repository");
            sheet.say_with("modes", Level::Error, Fault::Failed, found, expected, None);
        }
        m if m & 0o005 != 0 => {
            sheet.say("modes", Level::Warning, format!("{mode}: every user of this machine can see names and sizes"), expected);
        }
        _ => sheet.say("modes", Level::Ok, mode, expected),
    }
    let expected = "a twentieth of the file system is free";
    let percent = facts.free.saturating_mul(100).checked_div(facts.total).unwrap_or(100);
    match (facts.free, percent < FREE_PERCENT) {
        (0, _) => sheet.say_with("room", Level::Error, Fault::Failed, "no room is left".into(), expected, None),
        (free, true) => sheet.say("room", Level::Warning, format!("{percent} % are free, {} MiB", free >> 20), expected),
        (free, false) => sheet.say("room", Level::Ok, format!("{percent} % are free, {} MiB", free >> 20), expected),
    }
    let Some(Ok(trial)) = &facts.trial else { return };
    let expected = "an object gets its name by a hard link";
    match trial.links {
        true => sheet.say("links", Level::Ok, "hard links work", expected),
        false => {
            sheet.say("links", Level::Warning, "no hard links: names are given by a rename that must not overwrite", expected)
        }
    }
    let expected = "a name that was given survives a crash";
    match trial.syncs {
        true => sheet.say("sync", Level::Ok, "folders can be synced", expected),
        false => sheet.say("sync", Level::Warning, "folders cannot be synced: what is durable is up to the server", expected),
    }
}
