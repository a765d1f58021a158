//! From facts to findings. Pure: the same facts always come to the same findings.

use crate::doctor::facts::{Provider, Role, Seen, StoreFacts, Tried};
use crate::doctor::finding::{Finding, Level};
use crate::repository::error::Fault;
use crate::store::inspect::{PlaceFacts, Told};

pub mod bucket;
pub mod directory;
pub mod fixes;
pub mod together;

/// How far clocks may differ, in seconds: no safety depends on them, but providers refuse requests that are signed a quarter of
/// an hour off.
const CLOCK_OFF: i64 = 300;

/// The findings about one store, or about all together, in the making.
struct Sheet<'a> {
    store: Option<&'a str>,
    provider: Option<Provider>,
    findings: Vec<Finding>,
}

impl Sheet<'_> {
    /// One more finding. What is not ok has the fix of its matter.
    fn say(&mut self, matter: &'static str, level: Level, found: impl Into<String>, expected: &'static str) {
        self.say_with(matter, level, Fault::Failed, found.into(), expected, None);
    }

    /// The same with a class and a fix of its own. Of what is unknown, only the caller can say what to do.
    fn say_with(
        &mut self,
        matter: &'static str,
        level: Level,
        fault: Fault,
        found: String,
        expected: &'static str,
        fix: Option<String>,
    ) {
        let fix = match level {
            Level::Ok => None,
            Level::Unknown => fix,
            _ => fix.or_else(|| fixes::fix(self.provider, matter).map(str::to_owned)),
        };
        self.findings.push(Finding { store: self.store.map(str::to_owned), matter, level, fault, found, expected, fix });
    }

    /// A finding about what may have been told: `judge` says how bad it is, and what was found.
    fn told<T>(
        &mut self,
        matter: &'static str,
        told: &Told<T>,
        expected: &'static str,
        judge: impl FnOnce(&T) -> (Level, String),
    ) {
        let (found, fix) = match told {
            Told::Known(known) => {
                let (level, found) = judge(known);
                return self.say(matter, level, found, expected);
            }
            Told::Moot => return,
            Told::Hidden(right) => (
                "this identity may not read it".into(),
                Some(format!("look with an identity that has {right}: one that administers the bucket")),
            ),
            Told::Untold(who) => (who.clone(), fixes::fix(self.provider, matter).map(str::to_owned)),
            Told::Failed(why) => (why.clone(), Some("ask again".into())),
        };
        self.say_with(matter, Level::Unknown, Fault::Failed, found, expected, fix);
    }
}

/// What is to be said about one store, whose identity is meant to be `role`.
pub fn store(facts: &StoreFacts, role: Option<Role>) -> Vec<Finding> {
    let mut sheet = Sheet { store: Some(&facts.name), provider: Some(facts.provider), findings: Vec::new() };
    let expected = "the store answers, and lets this identity in";
    match &facts.seen {
        Err((fault, why)) => {
            let fix = match fault {
                Fault::Denied => "log in as somebody whom the bucket knows, or grant what is named there".to_owned(),
                _ => "see what is named there; nothing else could be looked at".to_owned(),
            };
            sheet.say_with("reach", Level::Error, *fault, why.clone(), expected, Some(fix));
        }
        Ok(seen) => {
            sheet.say("reach", Level::Ok, "answers", expected);
            rights(&mut sheet, seen, role);
            told(&mut sheet, facts, seen);
        }
    }
    sheet.findings
}

/// What the identity may do, and whether the store does it right.
fn rights(sheet: &mut Sheet<'_>, seen: &Seen, role: Option<Role>) {
    let rights = &seen.rights;
    let expected = "a repository is there";
    match (rights.repository, &rights.read) {
        (true, _) => sheet.say("repository", Level::Ok, "there is one", expected),
        (false, Tried::Works) => {
            sheet.say_with("repository", Level::Error, Fault::NoRepository, "there is none".into(), expected, None);
        }
        (false, _) => sheet.say("repository", Level::Unknown, "the descriptor may not be read", expected),
    }
    let told = &seen.told;
    sheet.told("identity", &told.identity, "one that may do what it is for, and no more", |who| (Level::Ok, who.clone()));
    sheet.told("clock", &told.ahead, "within five minutes of this machine's", |ahead| match *ahead {
        0 => (Level::Ok, "as this machine's".to_owned()),
        ahead => {
            let level = if ahead.abs() > CLOCK_OFF { Level::Warning } else { Level::Ok };
            let (seconds, side) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
            (level, format!("{seconds} s {side} this machine's"))
        }
    });
    may(sheet, "read", &rights.read, Some(true));
    may(sheet, "list", &rights.list, Some(true));
    may(sheet, "create", &rights.create, role.map(|role| role != Role::Reader));
    if let Tried::Works | Tried::Wrong(_) = &rights.create {
        let expected = "what is there is not created once more, not even with the same bytes";
        match &rights.create {
            Tried::Wrong(what) => {
                let found = format!("{what}: the store ignores create-if-absent");
                sheet.say_with("create-if-absent", Level::Error, Fault::Unsupported, found, expected, None);
            }
            _ => sheet.say("create-if-absent", Level::Ok, "refused, as it must be", expected),
        }
    }
    may(sheet, "remove", &rights.remove, role.map(|role| role == Role::Pruner));
}

/// A right: what came of trying it, and whether the identity should have it (`None`: that depends on what it is for).
fn may(sheet: &mut Sheet<'_>, matter: &'static str, tried: &Tried, should: Option<bool>) {
    let expected = match (matter, should) {
        ("create", Some(false)) | ("remove", Some(false)) => "refused: this identity is not meant to",
        ("remove", None) => "granted to a pruner, refused to writers and readers",
        ("create", None) => "granted to writers and pruners, refused to readers",
        _ => "granted: this identity needs it",
    };
    match (tried, should) {
        (Tried::Works, Some(false)) => sheet.say(matter, Level::Warning, "granted", expected),
        (Tried::Works, _) => sheet.say(matter, Level::Ok, "granted", expected),
        (Tried::Wrong(_), _) if matter == "create" => sheet.say(matter, Level::Ok, "granted", expected),
        (Tried::Wrong(what), _) => {
            sheet.say_with(matter, Level::Error, Fault::Unsupported, what.clone(), expected, None);
        }
        (Tried::Refused(why), Some(true)) => {
            sheet.say_with(matter, Level::Error, Fault::Failed, format!("refused: {why}"), expected, None);
        }
        (Tried::Refused(_), _) => sheet.say(matter, Level::Ok, "refused", expected),
        (Tried::Failed(why), _) => {
            sheet.say_with(matter, Level::Unknown, Fault::Failed, why.clone(), expected, Some("ask again".into()));
        }
        (Tried::Untried(why), _) => {
            sheet.say_with(matter, Level::Unknown, Fault::Failed, format!("not tried: {why}"), expected, None);
        }
    }
}

/// What the provider says.
fn told(sheet: &mut Sheet<'_>, facts: &StoreFacts, seen: &Seen) {
    match &seen.told.place {
        PlaceFacts::Bucket(told) => bucket::judge(sheet, facts, seen, told),
        PlaceFacts::Directory(told) => directory::judge(sheet, told),
    }
}
