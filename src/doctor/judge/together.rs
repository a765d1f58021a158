//! What is to be said about all stores together.

use crate::doctor::facts::{Logs, Provider, StoreFacts, Together};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::judge::Sheet;
use crate::repository::error::Fault;
use crate::store::inspect::{PlaceFacts, Site, Told};

/// What is to be said about all stores together.
pub fn together(stores: &[StoreFacts], facts: &Together) -> Vec<Finding> {
    let mut sheet = Sheet { store: None, provider: None, findings: Vec::new() };
    let expected = "two replicas or more, at places that do not fail together";
    match facts.stores {
        0 | 1 => sheet.say("replicas", Level::Warning, "one: what is lost there is lost", expected),
        n => sheet.say("replicas", Level::Ok, format!("{n}"), expected),
    }
    places(&mut sheet, stores);
    let expected = "more than one, where there are three or more";
    match (facts.quorum, facts.stores) {
        (1, n) if n > 2 => {
            sheet.say("quorum", Level::Warning, format!("1 of {n}: a snapshot counts as done when one store holds it"), expected);
        }
        (quorum, n) => sheet.say("quorum", Level::Ok, format!("{quorum} of {n}"), expected),
    }
    secret(&mut sheet, facts);
    logs(&mut sheet, facts);
    sheet.findings
}

/// Whether two stores share a fate.
fn places(sheet: &mut Sheet<'_>, stores: &[StoreFacts]) {
    let expected = "each replica at a place of its own";
    let mut shared = Vec::new();
    for (i, one) in stores.iter().enumerate() {
        for other in &stores[..i] {
            if let Some(what) = both(one, other) {
                shared.push(format!("{} and {} {what}", other.name, one.name));
            }
        }
    }
    match shared.is_empty() {
        false => sheet.say("places", Level::Warning, shared.join("; "), expected),
        true if stores.len() > 1 => sheet.say("places", Level::Ok, "no two are known to share one", expected),
        true => {}
    }
}

fn both(one: &StoreFacts, other: &StoreFacts) -> Option<String> {
    if one.provider == Provider::Directory || other.provider == Provider::Directory {
        let device = |facts: &StoreFacts| match &facts.seen.as_ref().ok()?.told.place {
            PlaceFacts::Directory(directory) => Some(directory.device),
            PlaceFacts::Bucket(_) => None,
        };
        let same = device(one).is_some() && device(one) == device(other);
        return same.then(|| "lie on one file system: one disk takes both".into());
    }
    if one.bucket == other.bucket {
        return Some("lie in one bucket: one deletion takes both".into());
    }
    let site = |facts: &StoreFacts| match &facts.seen.as_ref().ok()?.told.site {
        Told::Known(site) => Some(site.clone()),
        _ => None,
    };
    let (one, other): (Site, Site) = (site(one)?, site(other)?);
    let same = |a: &str, b: &str| !a.is_empty() && a == b;
    match (same(&one.provider, &other.provider), same(&one.account, &other.account), same(&one.region, &other.region)) {
        (true, true, true) => Some(format!("lie in one account ({}) and one region ({})", one.account, one.region)),
        (true, true, false) => Some(format!("lie in one account ({}): who takes it over takes both", one.account)),
        (true, false, true) => Some(format!("lie in one region ({}) of one provider", one.region)),
        _ => None,
    }
}

/// Who can read the secret's file.
fn secret(sheet: &mut Sheet<'_>, facts: &Together) {
    let expected = "the secret's file is its owner's alone";
    let Some((file, mode)) = &facts.secret else { return };
    let bits = format!("{file} has mode {:03o}", mode & 0o777);
    let fix = Some(format!("chmod 600 {file}"));
    match mode {
        m if m & 0o007 != 0 => {
            sheet.say_with("secret", Level::Warning, Fault::Failed, format!("{bits}: every user can use it"), expected, fix);
        }
        m if m & 0o070 != 0 => {
            sheet.say_with("secret", Level::Warning, Fault::Failed, format!("{bits}: its group can use it"), expected, fix);
        }
        _ => sheet.say("secret", Level::Ok, bits, expected),
    }
}

/// What the logs say about how the repository is kept.
fn logs(sheet: &mut Sheet<'_>, facts: &Together) {
    let expected = "the repository opens";
    let Logs { verified, damaged, lifecycle, snapshots } = match (&facts.logs, facts.fault) {
        (Told::Known(logs), _) => logs,
        (Told::Failed(why), Some(fault)) => {
            let fix = (fault != Fault::NoRepository).then(|| "see what is named there".to_owned());
            return sheet.say_with("open", Level::Error, fault, why.clone(), expected, fix);
        }
        (told, _) => return sheet.told("open", told, expected, |_| (Level::Ok, String::new())),
    };
    sheet.say("open", Level::Ok, format!("opens; snapshots: {snapshots}"), expected);
    let expected = "what the rules of retention do not keep is taken out now and then";
    match (facts.retention, lifecycle) {
        (true, false) if *snapshots > 0 => {
            sheet.say("retention", Level::Warning, "there are rules, and `lifecycle` never ran", expected);
        }
        (true, _) => sheet.say("retention", Level::Ok, "there are rules", expected),
        (false, _) => sheet.say("retention", Level::Ok, "there are no rules: nothing is ever forgotten", expected),
    }
    let expected = "what lies at a replica is whole there, as far as is known";
    let broken: Vec<String> =
        damaged.iter().map(|(name, count)| format!("{name}: snapshots that are not whole: {count}")).collect();
    match broken.is_empty() {
        true => sheet.say("whole", Level::Ok, "no damage is known", expected),
        false => sheet.say("whole", Level::Error, broken.join("; "), expected),
    }
    let expected = "every replica was verified not long ago";
    let late = verified.iter().filter(|(_, days)| days.is_none_or(|days| days > facts.verify_days));
    let late: Vec<String> = late
        .map(|(name, days)| match days {
            Some(days) => format!("{name}: {days} days ago"),
            None => format!("{name}: never"),
        })
        .collect();
    match late.is_empty() {
        true => sheet.say("verified", Level::Ok, format!("all, within {} days", facts.verify_days), expected),
        // There is nothing to verify yet.
        false if *snapshots == 0 => sheet.say("verified", Level::Ok, "there is no snapshot yet", expected),
        false => sheet.say("verified", Level::Warning, late.join("; "), expected),
    }
}
