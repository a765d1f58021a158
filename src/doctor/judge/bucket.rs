//! What is to be said about a bucket.

use crate::doctor::facts::{Provider, Seen, StoreFacts, Tried};
use crate::doctor::finding::Level;
use crate::doctor::judge::Sheet;
use crate::repository::error::Fault;
use crate::repository::layout::{self, Class};
use crate::store::inspect::{BucketFacts, Rule, RuleAction, Told, Versioning};
use crate::store::url::Line;

/// Fewest days in which what was deleted can be had back: time to notice.
const UNDO_DAYS: u32 = 7;

/// Classes from which nothing can be read before it is brought back.
const OFFLINE: [&str; 3] = ["GLACIER", "DEEP_ARCHIVE", "ARCHIVE"];

/// Classes that are read at once, at a price: wrong for what is read at every start.
const COLD: [&str; 7] = ["GLACIER_IR", "STANDARD_IA", "ONEZONE_IA", "NEARLINE", "COLDLINE", "COOL", "COLD"];

/// How a class suits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suits {
    Well,
    Cold,
    Offline,
}

fn suits(provider: Provider, class: &str) -> Suits {
    let class = class.to_ascii_uppercase();
    match class.as_str() {
        // Google's archive is read at once.
        "ARCHIVE" if provider == Provider::Gcs => Suits::Cold,
        class if OFFLINE.contains(&class) => Suits::Offline,
        class if COLD.contains(&class) => Suits::Cold,
        _ => Suits::Well,
    }
}

/// Judges what a provider says of a bucket.
pub(super) fn judge(sheet: &mut Sheet<'_>, facts: &StoreFacts, seen: &Seen, told: &BucketFacts) {
    let expected = "requests go over TLS";
    match told.line {
        Line::Encrypted => sheet.say("line", Level::Ok, "TLS", expected),
        Line::Loopback => sheet.say("line", Level::Ok, "plain http, within this machine", expected),
        Line::Open => sheet.say("line", Level::Warning, "plain http over a network", expected),
    }
    kept(sheet, facts, told, &seen.rights.remove);
    match &told.rules {
        Told::Known(all) => rules(sheet, facts, told, all),
        told => {
            sheet.told("lifecycle", told, "rules that take out old versions and unfinished uploads, and nothing else", |_| {
                (Level::Ok, String::new())
            })
        }
    }
    sheet.told("public", &told.public, "open to nobody", |open| match open {
        Some(how) => (Level::Error, how.clone()),
        None => (Level::Ok, "open to nobody".into()),
    });
    sheet.told("public-block", &told.closed, "nobody can open it to everybody", |missing| match missing {
        Some(what) => (Level::Warning, what.clone()),
        None => (Level::Ok, "closed".into()),
    });
    sheet.told("tls-only", &told.encrypted_only, "the bucket refuses plain http", |only| match only {
        true => (Level::Ok, "plain http is refused".into()),
        false => (Level::Warning, "plain http is not refused".into()),
    });
    sheet.told("create-only", &told.create_only, "the bucket refuses to put over what is there", |only| match only {
        true => (Level::Ok, "every put must be conditional".into()),
        false => (Level::Warning, "whoever may put may put over what is there".into()),
    });
    sheet.told("encryption", &told.encryption, "the provider encrypts, too", |way| match way {
        Some(way) => (Level::Ok, way.clone()),
        None => (Level::Warning, "none by default".into()),
    });
    classes(sheet, facts, &told.class);
}

/// Whether what is deleted or overwritten can be had back, and what stands against taking it away.
fn kept(sheet: &mut Sheet<'_>, facts: &StoreFacts, told: &BucketFacts, remove: &Tried) {
    let soft = matches!(told.soft_delete_days, Told::Known(days) if days >= UNDO_DAYS);
    let locked = matches!(&told.lock, Told::Known(Some(lock)) if lock.every);
    sheet.told("versioning", &told.versioning, "on: what is deleted can be had back", |versioning| match versioning {
        Versioning::On => (Level::Ok, "on".into()),
        Versioning::Suspended => (Level::Warning, "suspended: what is deleted from now on is gone".into()),
        Versioning::Off if soft => (Level::Ok, "off, and soft delete stands in for it".into()),
        Versioning::Off if locked => (Level::Ok, "off, and a retention stands in for it".into()),
        Versioning::Off => (Level::Warning, "off: what is deleted is gone".into()),
    });
    // Azure counts a version's days from its making: what was old when it was deleted goes at once, but for this.
    let (expected, needed) = match facts.provider {
        Provider::Azure => ("seven days or more: the time in which a deletion can be undone", true),
        _ => ("none where versioning is on; else seven days or more", false),
    };
    let versions = matches!(told.versioning, Told::Known(Versioning::On));
    sheet.told("soft-delete", &told.soft_delete_days, expected, |days| {
        let level = if needed && *days < UNDO_DAYS { Level::Warning } else { Level::Ok };
        let found = match *days {
            0 => "off".to_owned(),
            days if versions && !needed => {
                format!("{days} days on top of the versions: what was pruned is paid for so much longer")
            }
            days => format!("{days} days"),
        };
        (level, found)
    });
    sheet.told("lock", &told.lock, "a lock or a retention, if you want one", |lock| {
        (Level::Ok, lock.as_ref().map_or("none".into(), |lock| lock.shown.clone()))
    });
    sheet.told("destroy", &told.destroys, "no identity of a job can take versions away for good", |can| match can {
        false => (Level::Ok, "refused".into()),
        // Without the right to remove there is nothing behind which the versions would have to stand.
        true if matches!(remove, Tried::Refused(_)) => (Level::Warning, "granted, although removing is refused".into()),
        true => (Level::Warning, "granted: whoever has this identity can take away every version".into()),
    });
}

/// Whether a rule for names that begin with `rule` reaches names that begin with `ours`.
fn reaches(rule: &str, ours: &str) -> bool {
    rule.starts_with(ours) || ours.starts_with(rule)
}

/// Judges what the provider does to objects by itself.
fn rules(sheet: &mut Sheet<'_>, facts: &StoreFacts, told: &BucketFacts, all: &[Rule]) {
    let prefix = facts.prefix.as_str();
    let covering = |rule: &&Rule| !rule.narrowed && prefix.starts_with(&rule.prefix);
    let expected = "no rule takes out what is in use";
    let deadly: Vec<_> = all.iter().filter(|r| r.does == RuleAction::ExpireCurrent && reaches(&r.prefix, prefix)).collect();
    match deadly.as_slice() {
        [] => sheet.say("expiry", Level::Ok, "nothing that is in use is taken out", expected),
        found => {
            let found = format!("{} objects that are in use: they will be lost", named(found, "takes out", "take out"));
            sheet.say_with("expiry", Level::Error, Fault::Failed, found, expected, None);
        }
    }
    moves(sheet, facts, all);
    if facts.provider != Provider::Azure {
        let expected = "a rule takes out uploads in parts that were never finished";
        match all.iter().filter(covering).any(|rule| rule.does == RuleAction::AbortUploads) {
            true => sheet.say("uploads", Level::Ok, "there is one", expected),
            false => sheet.say("uploads", Level::Warning, "there is none: what others leave unfinished is paid for", expected),
        }
    }
    let expected = "a rule takes out old versions after a week or more";
    let old: Vec<Option<u32>> = all
        .iter()
        .filter(covering)
        .filter_map(|rule| match rule.does {
            RuleAction::ExpireOld { days } => Some(days),
            _ => None,
        })
        .collect();
    let versions = matches!(told.versioning, Told::Known(Versioning::On | Versioning::Suspended));
    let shortest = old.iter().flatten().min();
    match (versions, old.is_empty(), shortest) {
        (true, true, _) => {
            sheet.say("old-versions", Level::Warning, "there is none: what is pruned is kept and paid for, for ever", expected);
        }
        (true, false, Some(days)) if *days < UNDO_DAYS => {
            sheet.say("old-versions", Level::Warning, format!("after {days} days: that is short to notice a deletion"), expected);
        }
        (true, false, Some(days)) => sheet.say("old-versions", Level::Ok, format!("after {days} days"), expected),
        (true, false, None) => sheet.say("old-versions", Level::Ok, "there is one, which counts no days", expected),
        (false, ..) => {}
    }
}

/// Whether objects are moved to where they cannot be read at once.
fn moves(sheet: &mut Sheet<'_>, facts: &StoreFacts, all: &[Rule]) {
    let expected = "no rule moves what is read at every start to a cold class, nor anything to one that is not online";
    let data = format!("{}{}", facts.prefix, layout::prefix(Class::DataPack));
    let moving = all.iter().filter_map(|rule| match &rule.does {
        RuleAction::Move { class, old_only: false } if reaches(&rule.prefix, &facts.prefix) => Some((rule, class)),
        _ => None,
    });
    let mut worst = (Level::Ok, "nothing is moved to a cold class that should not be".to_owned());
    for (rule, class) in moving {
        let beyond_data = !rule.prefix.starts_with(&data);
        let judged = match (suits(facts.provider, class), beyond_data) {
            (Suits::Well, _) | (Suits::Cold, false) => continue,
            (Suits::Offline, true) => {
                (Level::Error, format!("rule {:?} moves index, log and the like to {class}: nothing works then", rule.name))
            }
            (Suits::Offline, false) => (
                Level::Warning,
                format!("rule {:?} moves content to {class}: it must be brought back before a restore", rule.name),
            ),
            (Suits::Cold, true) => {
                (Level::Warning, format!("rule {:?} moves what is read at every start to {class}: reading is charged", rule.name))
            }
        };
        if judged.0 > worst.0 {
            worst = judged;
        }
    }
    sheet.say("archive", worst.0, worst.1, expected);
}

fn named(rules: &[&Rule], one: &str, many: &str) -> String {
    let names: Vec<String> = rules.iter().map(|rule| format!("{:?}", rule.name)).collect();
    match names.as_slice() {
        [name] => format!("rule {name} {one}"),
        all => format!("rules {} {many}", all.join(", ")),
    }
}

/// The classes that new objects get.
fn classes(sheet: &mut Sheet<'_>, facts: &StoreFacts, bucket: &Told<String>) {
    let expected = "what is read at every start is in a hot class, and all of it online";
    let data = layout::prefix(Class::DataPack).trim_end_matches('/');
    for (first, class) in &facts.classes {
        let is_data = first == data;
        match (suits(facts.provider, class), is_data) {
            (Suits::Well, _) | (Suits::Cold, true) => {}
            (Suits::Offline, true) => {
                let found = format!("the settings put {first} into {class}: it must be brought back before a restore");
                return sheet.say("storage-class", Level::Warning, found, expected);
            }
            (Suits::Offline, false) => {
                let found = format!("the settings put {first} into {class}: nothing could be read at the next start");
                return sheet.say("storage-class", Level::Error, found, expected);
            }
            (Suits::Cold, false) => {
                let found = format!("the settings put {first} into {class}: reading is charged at every start");
                return sheet.say("storage-class", Level::Warning, found, expected);
            }
        }
    }
    let provider = facts.provider;
    sheet.told("storage-class", bucket, expected, |class| match suits(provider, class) {
        Suits::Well => (Level::Ok, class.clone()),
        Suits::Cold => (Level::Warning, format!("{class} by default: reading index and log is charged at every start")),
        Suits::Offline => (Level::Error, format!("{class} by default: nothing can be read at once")),
    });
}
