//! What `doctor` makes of facts: where all is well it says so, and each fact that is wrong, alone, comes to exactly one finding.

use std::collections::BTreeMap;

use holdfast::doctor::facts::{Logs, Provider, Rights, Role, Seen, StoreFacts, Together, Tried};
use holdfast::doctor::finding::{Finding, Level};
use holdfast::doctor::judge;
use holdfast::repository::error::Fault;
use holdfast::store::inspect::{
    BucketFacts, DirectoryFacts, Facts, Lock, PlaceFacts, Rule, RuleAction, Site, Told, Trial, Versioning,
};
use holdfast::store::url::Line;

use Level::{Error, Ok as Fine, Unknown, Warning};

const PROVIDERS: [Provider; 3] = [Provider::S3, Provider::Gcs, Provider::Azure];

fn rule(prefix: &str, does: RuleAction) -> Rule {
    Rule { name: "keeping".into(), prefix: prefix.into(), narrowed: false, does }
}

fn lock(every: bool) -> Lock {
    Lock { shown: "a retention".into(), every }
}

fn moving(prefix: &str, class: &str) -> RuleChange {
    let (prefix, class) = (prefix.to_owned(), class.to_owned());
    Box::new(move |b| rules(b).push(rule(&prefix, RuleAction::Move { class: class.clone(), old_only: false })))
}

/// A store at which all is as it should be.
fn well(provider: Provider) -> StoreFacts {
    let bucket = BucketFacts {
        versioning: Told::Known(Versioning::On),
        soft_delete_days: match provider {
            Provider::Gcs => Told::Known(0),
            Provider::Azure => Told::Known(14),
            _ => Told::Moot,
        },
        lock: Told::Known(None),
        rules: Told::Known(vec![rule("", RuleAction::AbortUploads), rule("", RuleAction::ExpireOld { days: Some(30) })]),
        public: Told::Known(None),
        closed: Told::Known(None),
        encrypted_only: Told::Known(true),
        create_only: Told::Known(true),
        encryption: Told::Known(Some("AES256".into())),
        class: Told::Known("STANDARD".into()),
        destroys: Told::Known(false),
        ..BucketFacts::new(Line::Encrypted)
    };
    let trial = Some(Ok(Trial { links: true, syncs: true }));
    let directory = DirectoryFacts { mode: 0o700, device: 1, free: 50 << 30, total: 100 << 30, trial };
    let told = Facts {
        identity: Told::Known("somebody".into()),
        ahead: Told::Known(0),
        site: Told::Known(Site { provider: format!("{provider:?}"), account: "ours".into(), region: "here".into() }),
        place: match provider {
            Provider::Directory => PlaceFacts::Directory(directory),
            _ => PlaceFacts::Bucket(Box::new(bucket)),
        },
    };
    let rights = Rights {
        repository: true,
        read: Tried::Works,
        list: Tried::Works,
        create: Tried::Works,
        remove: Tried::Refused("policy".into()),
    };
    StoreFacts {
        name: "paris".into(),
        url: "s3://bucket/repo".into(),
        provider,
        bucket: format!("{provider:?} bucket"),
        prefix: "repo/".into(),
        classes: BTreeMap::new(),
        seen: Ok(Seen { rights, told }),
    }
}

fn seen(facts: &mut StoreFacts) -> &mut Seen {
    facts.seen.as_mut().expect("it was seen")
}

fn bucket(facts: &mut StoreFacts) -> &mut BucketFacts {
    match &mut seen(facts).told.place {
        PlaceFacts::Bucket(bucket) => bucket,
        PlaceFacts::Directory(_) => panic!("a directory"),
    }
}

fn directory(facts: &mut StoreFacts) -> &mut DirectoryFacts {
    match &mut seen(facts).told.place {
        PlaceFacts::Directory(directory) => directory,
        PlaceFacts::Bucket(_) => panic!("a bucket"),
    }
}

fn rules(bucket: &mut BucketFacts) -> &mut Vec<Rule> {
    match &mut bucket.rules {
        Told::Known(rules) => rules,
        other => panic!("{other:?}"),
    }
}

/// The findings of `now` that are not in `before`.
fn fresh(before: &[Finding], now: &[Finding]) -> Vec<(&'static str, Level)> {
    now.iter().filter(|f| !before.contains(f)).map(|f| (f.matter, f.level)).collect()
}

/// Every finding says what to do unless all is well, or nothing can be done but ask again.
fn whole(findings: &[Finding]) {
    for finding in findings {
        assert!(!finding.found.is_empty() && !finding.expected.is_empty(), "{finding:?}");
        assert!(finding.level < Warning || finding.fix.is_some(), "no fix: {finding:?}");
        assert!(finding.level != Fine || finding.fix.is_none(), "a fix for what is well: {finding:?}");
    }
}

/// Matter, level, and what makes it so.
type Rows<T> = Vec<(&'static str, Level, Box<dyn Fn(&mut T)>)>;
type Change = Box<dyn Fn(&mut StoreFacts)>;
type RuleChange = Box<dyn Fn(&mut BucketFacts)>;

fn on_bucket(change: RuleChange) -> Change {
    Box::new(move |facts| change(bucket(facts)))
}

#[test]
fn where_all_is_well_nothing_else_is_said() {
    for provider in [Provider::S3, Provider::Gcs, Provider::Azure, Provider::Directory] {
        for role in [None, Some(Role::Writer)] {
            let findings = judge::store(&well(provider), role);
            assert!(findings.len() >= 10 && findings.iter().all(|f| f.level == Fine), "{provider:?} {findings:#?}");
            whole(&findings);
        }
    }
}

#[test]
fn each_wrong_fact_of_a_bucket_is_one_finding() {
    let named = |class: &str, first: &str| -> Change {
        let (class, first) = (class.to_owned(), first.to_owned());
        Box::new(move |facts| drop(facts.classes.insert(first.clone(), class.clone())))
    };
    let table: Vec<(&str, Level, Change)> = vec![
        ("line", Warning, on_bucket(Box::new(|b| b.line = Line::Open))),
        ("line", Fine, on_bucket(Box::new(|b| b.line = Line::Loopback))),
        ("versioning", Warning, on_bucket(Box::new(|b| b.versioning = Told::Known(Versioning::Suspended)))),
        ("expiry", Error, on_bucket(Box::new(|b| rules(b).push(rule("", RuleAction::ExpireCurrent))))),
        ("expiry", Error, on_bucket(Box::new(|b| rules(b).push(rule("repo/data/ab/", RuleAction::ExpireCurrent))))),
        (
            "expiry",
            Error,
            on_bucket(Box::new(|b| rules(b).push(Rule { narrowed: true, ..rule("rep", RuleAction::ExpireCurrent) }))),
        ),
        ("archive", Error, on_bucket(moving("", "DEEP_ARCHIVE"))),
        ("archive", Warning, on_bucket(moving("", "COLDLINE"))),
        ("archive", Error, on_bucket(moving("repo/log/", "GLACIER"))),
        ("archive", Error, on_bucket(moving("repo/index/", "GLACIER"))),
        ("archive", Error, on_bucket(moving("repo/meta/", "GLACIER"))),
        ("archive", Warning, on_bucket(moving("repo/data/", "GLACIER"))),
        ("old-versions", Warning, on_bucket(Box::new(|b| drop(rules(b).pop())))),
        ("old-versions", Warning, on_bucket(Box::new(|b| rules(b)[1].narrowed = true))),
        ("old-versions", Warning, on_bucket(Box::new(|b| rules(b)[1].prefix = "other/".into()))),
        ("old-versions", Warning, on_bucket(Box::new(|b| rules(b)[1].does = RuleAction::ExpireOld { days: Some(1) }))),
        ("old-versions", Fine, on_bucket(Box::new(|b| rules(b)[1].does = RuleAction::ExpireOld { days: None }))),
        ("lock", Fine, on_bucket(Box::new(|b| b.lock = Told::Known(Some(lock(true)))))),
        ("public", Error, on_bucket(Box::new(|b| b.public = Told::Known(Some("open".into()))))),
        ("public-block", Warning, on_bucket(Box::new(|b| b.closed = Told::Known(Some("not set".into()))))),
        ("storage-class", Warning, on_bucket(Box::new(|b| b.class = Told::Known("COOL".into())))),
        ("storage-class", Warning, named("GLACIER", "data")),
        ("storage-class", Error, named("DEEP_ARCHIVE", "meta")),
        ("storage-class", Warning, named("STANDARD_IA", "meta")),
        ("clock", Warning, Box::new(|f| seen(f).told.ahead = Told::Known(-301))),
        ("clock", Warning, Box::new(|f| seen(f).told.ahead = Told::Known(301))),
        ("clock", Fine, Box::new(|f| seen(f).told.ahead = Told::Known(300))),
        ("identity", Fine, Box::new(|f| seen(f).told.identity = Told::Known("another".into()))),
        ("repository", Error, Box::new(|f| seen(f).rights.repository = false)),
        ("read", Error, Box::new(|f| seen(f).rights.read = Tried::Wrong("other bytes".into()))),
        ("read", Error, Box::new(|f| seen(f).rights.read = Tried::Refused("no".into()))),
        ("read", Unknown, Box::new(|f| seen(f).rights.read = Tried::Failed("away".into()))),
        ("list", Error, Box::new(|f| seen(f).rights.list = Tried::Refused("no".into()))),
        ("create-if-absent", Error, Box::new(|f| seen(f).rights.create = Tried::Wrong("created".into()))),
        ("create", Fine, Box::new(|f| seen(f).rights.create = Tried::Refused("no".into()))),
        ("create", Unknown, Box::new(|f| seen(f).rights.create = Tried::Untried("left out".into()))),
        ("remove", Fine, Box::new(|f| seen(f).rights.remove = Tried::Works)),
        ("remove", Unknown, Box::new(|f| seen(f).rights.remove = Tried::Failed("away".into()))),
    ];
    for provider in PROVIDERS {
        let before = judge::store(&well(provider), None);
        for (at, (matter, level, change)) in table.iter().enumerate() {
            let mut facts = well(provider);
            change(&mut facts);
            let now = judge::store(&facts, None);
            assert_eq!(fresh(&before, &now), [(*matter, *level)], "{provider:?}, row {at}");
            whole(&now);
        }
        // What does not reach the repository, or does no harm.
        let harmless: Vec<Change> = vec![
            on_bucket(Box::new(|b| rules(b).push(rule("others/", RuleAction::ExpireCurrent)))),
            on_bucket(moving("others/", "GLACIER")),
            on_bucket(moving("", "INTELLIGENT_TIERING")),
            on_bucket(moving("repo/data/", "NEARLINE")),
            on_bucket(Box::new(|b| {
                rules(b).push(rule("", RuleAction::Move { class: "GLACIER".into(), old_only: true }));
            })),
            named("GLACIER_IR", "data"),
            on_bucket(Box::new(|b| rules(b).push(rule("repo/data/", RuleAction::ExpireOld { days: Some(1) })))),
        ];
        for (at, change) in harmless.iter().enumerate() {
            let mut facts = well(provider);
            change(&mut facts);
            assert_eq!(fresh(&before, &judge::store(&facts, None)), [], "{provider:?}, row {at}");
        }
    }
}

#[test]
fn what_only_some_providers_have() {
    let one = |provider: Provider, change: &dyn Fn(&mut BucketFacts)| {
        let mut facts = well(provider);
        change(bucket(&mut facts));
        let now = judge::store(&facts, None);
        whole(&now);
        fresh(&judge::store(&well(provider), None), &now)
    };
    assert_eq!(one(Provider::S3, &|b| b.encrypted_only = Told::Known(false)), [("tls-only", Warning)]);
    assert_eq!(one(Provider::S3, &|b| b.create_only = Told::Known(false)), [("create-only", Warning)]);
    assert_eq!(one(Provider::S3, &|b| b.encryption = Told::Known(None)), [("encryption", Warning)]);
    assert_eq!(one(Provider::S3, &|b| b.destroys = Told::Known(true)), [("destroy", Warning)]);
    assert_eq!(one(Provider::S3, &|b| drop(rules(b).remove(0))), [("uploads", Warning)]);
    assert_eq!(one(Provider::Gcs, &|b| drop(rules(b).remove(0))), [("uploads", Warning)]);
    // Azure forgets what was not finished by itself.
    assert_eq!(one(Provider::Azure, &|b| drop(rules(b).remove(0))), []);
    // Google's archive is read at once, the others' are not.
    assert_eq!(one(Provider::Gcs, &|b| b.class = Told::Known("ARCHIVE".into())), [("storage-class", Warning)]);
    assert_eq!(one(Provider::Azure, &|b| b.class = Told::Known("Archive".into())), [("storage-class", Error)]);
    // Versions that were never kept need no rule; soft delete or a retention stands in for them.
    let off = |days: u32| {
        move |b: &mut BucketFacts| {
            b.versioning = Told::Known(Versioning::Off);
            b.soft_delete_days = Told::Known(days);
        }
    };
    assert_eq!(one(Provider::Gcs, &off(0)), [("versioning", Warning)]);
    for (every, level) in [(true, Fine), (false, Warning)] {
        let held = move |b: &mut BucketFacts| {
            b.versioning = Told::Known(Versioning::Off);
            b.lock = Told::Known(Some(lock(every)));
        };
        assert_eq!(one(Provider::Gcs, &held), [("versioning", level), ("lock", Fine)]);
    }
    assert_eq!(one(Provider::Gcs, &off(3)), [("versioning", Warning), ("soft-delete", Fine)]);
    assert_eq!(one(Provider::Gcs, &off(7)), [("versioning", Fine), ("soft-delete", Fine)]);
    assert_eq!(one(Provider::S3, &|b| b.versioning = Told::Known(Versioning::Off)), [("versioning", Warning)]);
    assert_eq!(one(Provider::Azure, &|b| b.soft_delete_days = Told::Known(6)), [("soft-delete", Warning)]);
    assert_eq!(one(Provider::Azure, &|b| b.soft_delete_days = Told::Known(7)), [("soft-delete", Fine)]);
}

#[test]
fn what_cannot_be_learnt_is_unknown_and_names_the_right() {
    let table: [(&str, RuleChange); 10] = [
        ("versioning", Box::new(|b| b.versioning = Told::Hidden("s3:GetIt".into()))),
        ("soft-delete", Box::new(|b| b.soft_delete_days = Told::Hidden("s3:GetIt".into()))),
        ("lock", Box::new(|b| b.lock = Told::Hidden("s3:GetIt".into()))),
        ("public", Box::new(|b| b.public = Told::Hidden("s3:GetIt".into()))),
        ("public-block", Box::new(|b| b.closed = Told::Hidden("s3:GetIt".into()))),
        ("tls-only", Box::new(|b| b.encrypted_only = Told::Hidden("s3:GetIt".into()))),
        ("create-only", Box::new(|b| b.create_only = Told::Hidden("s3:GetIt".into()))),
        ("encryption", Box::new(|b| b.encryption = Told::Hidden("s3:GetIt".into()))),
        ("storage-class", Box::new(|b| b.class = Told::Hidden("s3:GetIt".into()))),
        ("lifecycle", Box::new(|b| b.rules = Told::Hidden("s3:GetIt".into()))),
    ];
    for provider in PROVIDERS {
        let before = judge::store(&well(provider), None);
        for (matter, change) in &table {
            let mut facts = well(provider);
            change(bucket(&mut facts));
            // Without the versions, nothing can be said of their rule.
            let now = judge::store(&facts, None);
            assert_eq!(fresh(&before, &now), [(*matter, Unknown)], "{provider:?}");
            let finding = now.iter().find(|f| f.matter == *matter).expect("it is there");
            assert!(finding.fix.as_deref().is_some_and(|fix| fix.contains("s3:GetIt")), "{finding:?}");
        }
    }
}

#[test]
fn rights_are_judged_by_what_the_identity_is_for() {
    let judged = |role, create: Tried, remove: Tried| {
        let mut facts = well(Provider::S3);
        (seen(&mut facts).rights.create, seen(&mut facts).rights.remove) = (create, remove);
        let findings = judge::store(&facts, role);
        whole(&findings);
        ["create", "remove"].map(|matter| findings.iter().find(|f| f.matter == matter).expect("it is there").level)
    };
    let no = || Tried::Refused("policy".into());
    let table = [
        (Role::Writer, Tried::Works, no(), [Fine, Fine]),
        (Role::Writer, Tried::Works, Tried::Works, [Fine, Warning]),
        (Role::Writer, no(), no(), [Error, Fine]),
        (Role::Pruner, Tried::Works, Tried::Works, [Fine, Fine]),
        (Role::Pruner, Tried::Works, no(), [Fine, Error]),
        (Role::Reader, no(), no(), [Fine, Fine]),
        (Role::Reader, Tried::Works, no(), [Warning, Fine]),
        (Role::Reader, no(), Tried::Works, [Fine, Warning]),
    ];
    for (role, create, remove, levels) in table {
        assert_eq!(judged(Some(role), create.clone(), remove.clone()), levels, "{role:?} {create:?} {remove:?}");
    }
    assert_eq!(judged(None, no(), no()), [Fine, Fine]);
}

#[test]
fn a_store_that_lets_nobody_in_is_one_finding() {
    for fault in [Fault::Denied, Fault::Failed] {
        let facts = StoreFacts { seen: Err((fault, "no".into())), ..well(Provider::S3) };
        let findings = judge::store(&facts, None);
        whole(&findings);
        assert_eq!(findings.iter().map(|f| (f.matter, f.level, f.fault)).collect::<Vec<_>>(), [("reach", Error, fault)]);
    }
    let mut facts = well(Provider::S3);
    seen(&mut facts).rights.repository = false;
    seen(&mut facts).rights.create = Tried::Wrong("created".into());
    let classes: Vec<Fault> = judge::store(&facts, None).iter().filter(|f| f.level == Error).map(|f| f.fault).collect();
    assert_eq!(classes, [Fault::NoRepository, Fault::Unsupported]);
}

#[test]
fn each_wrong_fact_of_a_directory_is_one_finding() {
    let before = judge::store(&well(Provider::Directory), None);
    let trial = |links, syncs| Some(Ok(Trial { links, syncs }));
    let table: Rows<DirectoryFacts> = vec![
        ("modes", Error, Box::new(|d| d.mode = 0o777)),
        ("modes", Warning, Box::new(|d| d.mode = 0o755)),
        ("modes", Fine, Box::new(|d| d.mode = 0o770)),
        ("room", Error, Box::new(|d| d.free = 0)),
        ("room", Warning, Box::new(|d| d.free = 1 << 30)),
        ("links", Warning, Box::new(move |d| d.trial = trial(false, true))),
        ("sync", Warning, Box::new(move |d| d.trial = trial(true, false))),
    ];
    for (at, (matter, level, change)) in table.iter().enumerate() {
        let mut facts = well(Provider::Directory);
        change(directory(&mut facts));
        let now = judge::store(&facts, None);
        whole(&now);
        assert_eq!(fresh(&before, &now), [(*matter, *level)], "row {at}");
    }
}

fn all_well() -> (Vec<StoreFacts>, Together) {
    let stores = PROVIDERS.map(|provider| StoreFacts { name: format!("{provider:?}"), ..well(provider) });
    let together = Together {
        stores: 3,
        quorum: 2,
        secret: Some(("/key".into(), 0o100_600)),
        retention: true,
        logs: Told::Known(Logs { verified: vec![("S3".into(), Some(3))], damaged: Vec::new(), lifecycle: true, snapshots: 7 }),
        fault: None,
        verify_days: 30,
    };
    (stores.into(), together)
}

#[test]
fn each_wrong_fact_of_all_together_is_one_finding() {
    let (stores, facts) = all_well();
    let before = judge::together::together(&stores, &facts);
    assert!(before.len() >= 6 && before.iter().all(|f| f.level == Fine), "{before:#?}");
    let logs = |change: fn(&mut Logs)| {
        move |t: &mut Together| match &mut t.logs {
            Told::Known(logs) => change(logs),
            other => panic!("{other:?}"),
        }
    };
    let table: Rows<Together> = vec![
        ("quorum", Warning, Box::new(|t| t.quorum = 1)),
        ("quorum", Fine, Box::new(|t| t.quorum = 3)),
        ("secret", Warning, Box::new(|t| t.secret = Some(("/key".into(), 0o644)))),
        ("secret", Warning, Box::new(|t| t.secret = Some(("/key".into(), 0o640)))),
        ("retention", Warning, Box::new(logs(|l| l.lifecycle = false))),
        ("retention", Fine, Box::new(|t| t.retention = false)),
        ("whole", Error, Box::new(logs(|l| l.damaged = vec![("S3".into(), 2)]))),
        ("verified", Warning, Box::new(logs(|l| l.verified[0].1 = None))),
        ("verified", Warning, Box::new(logs(|l| l.verified[0].1 = Some(31)))),
    ];
    for (at, (matter, level, change)) in table.iter().enumerate() {
        let mut facts = facts.clone();
        change(&mut facts);
        let now = judge::together::together(&stores, &facts);
        whole(&now);
        assert_eq!(fresh(&before, &now), [(*matter, *level)], "row {at}");
    }
    let alone = Together { stores: 1, quorum: 1, ..facts.clone() };
    let now = judge::together::together(&stores[..1], &alone);
    assert_eq!(now.iter().filter(|f| f.level != Fine).map(|f| (f.matter, f.level)).collect::<Vec<_>>(), [("replicas", Warning)]);
    let closed = Together { logs: Told::Failed("wrong key".into()), fault: Some(Fault::WrongKey), ..facts };
    let now = judge::together::together(&stores, &closed);
    let open: Vec<_> = now.iter().filter(|f| f.level == Error).map(|f| (f.matter, f.fault)).collect();
    assert_eq!(open, [("open", Fault::WrongKey)]);
}

#[test]
fn stores_that_share_a_fate_are_named() {
    let (_, facts) = all_well();
    let facts = Together { stores: 2, quorum: 1, ..facts };
    let named = |name: &str, facts: StoreFacts| StoreFacts { name: name.into(), ..facts };
    let said = |one: StoreFacts, other: StoreFacts| {
        let findings = judge::together::together(&[named("one", one), named("other", other)], &facts);
        let finding = findings.iter().find(|f| f.matter == "places").expect("it is there").clone();
        (finding.level, finding.found)
    };
    let at = |account: &str, region: &str| {
        let mut facts = StoreFacts { bucket: format!("bucket of {account} in {region}"), ..well(Provider::S3) };
        let site = Site { provider: "AWS".into(), account: account.into(), region: region.into() };
        seen(&mut facts).told.site = Told::Known(site);
        facts
    };
    let disk = |device: u64| {
        let mut facts = StoreFacts { bucket: format!("/disk/{device}"), ..well(Provider::Directory) };
        directory(&mut facts).device = device;
        facts
    };
    let table = [
        (at("ours", "here"), at("theirs", "there"), Fine, "no two"),
        (at("ours", "here"), at("ours", "here"), Warning, "one and other lie in one bucket"),
        (at("ours", "here"), at("ours", "there"), Warning, "lie in one account (ours): who"),
        (at("ours", "here"), at("theirs", "here"), Warning, "lie in one region (here)"),
        (at("", ""), StoreFacts { bucket: "another".into(), ..at("", "") }, Fine, "no two"),
        (disk(1), disk(2), Fine, "no two"),
        (disk(1), disk(1), Warning, "one and other lie on one file system"),
        (disk(1), at("ours", "here"), Fine, "no two"),
    ];
    for (one, other, level, says) in table {
        let (now, text) = said(one, other);
        assert!(now == level && text.contains(says), "{now:?} {text}, not {level:?} {says}");
    }
    let both = StoreFacts { bucket: "one more".into(), ..at("ours", "here") };
    assert!(said(at("ours", "here"), both).1.contains("one account (ours) and one region (here)"));
}
