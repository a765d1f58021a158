//! The damage table: each kind of object, damaged in each way, at one replica of three and at all of them. What verify says,
//! what a backup and a restore come to, that nothing wrong is ever restored, and that what was found is never relied on again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use holdfast::backup::BackupError;
use holdfast::cli::exit::Outcome;
use holdfast::cli::{backup as backup_command, restore as restore_command, verify as verify_command};
use holdfast::format::Hash;
use holdfast::format::record::{Action, Forget, Revoke};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::ReplicaSettings;
use holdfast::repository::error::RepositoryError;
use holdfast::repository::keyring::Unlock;
use holdfast::repository::{Access, Repository};
use holdfast::restore::{RestoreError, RestoreSettings};
use holdfast::seal::key::{KdfParams, Secret};
use holdfast::store::Store;
use holdfast::store::name::ObjectName;
use holdfast::verify::share::Share;
use holdfast::verify::{VerifyError, VerifyReport, VerifySettings};

use crate::support::stage::{Stage, backing_up, files_below, grow, opening, run, tree, unlock};

/// What is damaged. The object of each kind is one that the newest snapshot needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Descriptor,
    KeySlot,
    Generation,
    LogSlot,
    Checkpoint,
    List,
    Snapshot,
    Segment,
    MetaPack,
    DataPack,
}

const KINDS: [Kind; 10] = [
    Kind::Descriptor,
    Kind::KeySlot,
    Kind::Generation,
    Kind::LogSlot,
    Kind::Checkpoint,
    Kind::List,
    Kind::Snapshot,
    Kind::Segment,
    Kind::MetaPack,
    Kind::DataPack,
];

/// What becomes of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Deleted,
    Truncated,
    BitFlipped,
    /// It and another object of its kind change places.
    Swapped,
    Zeroed,
    /// The same object of another repository lies in its place.
    Foreign,
}

const HARMS: [Harm; 6] = [Harm::Deleted, Harm::Truncated, Harm::BitFlipped, Harm::Swapped, Harm::Zeroed, Harm::Foreign];

/// Exit codes, in the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Codes {
    /// `verify`.
    presence: u8,
    /// `verify --read-data`.
    content: u8,
    /// `restore latest`, with all replicas at hand.
    restore: u8,
    /// A backup when nobody has verified yet.
    backup: u8,
    /// A backup after a verify that read everything.
    backup_after: u8,
}

/// The table. `same_size`: the object's length did not change; `None`: no such row.
fn expected(kind: Kind, harm: Harm, all: bool, same_size: bool) -> Option<Codes> {
    let codes =
        |presence, content, restore, backup, backup_after| Some(Codes { presence, content, restore, backup, backup_after });
    let every = |code| codes(code, code, code, code, code);
    match (kind, harm, all) {
        // A repository has one.
        (Kind::Descriptor, Harm::Swapped, _) => None,
        // Two repositories at once: the operator must say which.
        (Kind::Descriptor, Harm::Foreign, false) => every(2),
        (Kind::Descriptor, _, false) => codes(14, 14, 0, 4, 4),
        // Nothing can be opened.
        (Kind::Descriptor | Kind::KeySlot | Kind::Generation, _, true) => every(14),
        (Kind::KeySlot | Kind::Generation, _, false) => codes(14, 14, 0, 0, 0),
        // A slot that is gone is a rollback; one that does not authenticate is damage. Nothing is appended behind either.
        (Kind::LogSlot, Harm::Deleted, false) => codes(15, 15, 0, 4, 4),
        (Kind::LogSlot, _, false) => codes(14, 14, 0, 4, 4),
        // What is latest is not known then; older snapshots restore by their ids.
        (Kind::LogSlot, Harm::Deleted, true) => every(15),
        (Kind::LogSlot, _, true) => every(14),
        // A checkpoint that is gone was perhaps never written.
        (Kind::Checkpoint, Harm::Deleted, _) => every(0),
        (Kind::Checkpoint | Kind::List, ..) => codes(14, 14, 0, 0, 0),
        (Kind::Snapshot, _, false) => codes(14, 14, 0, 0, 0),
        // Never the one before it in its place.
        (Kind::Snapshot, _, true) => codes(14, 14, 14, 0, 0),
        (Kind::Segment, _, false) => codes(14, 14, 0, 0, 0),
        (Kind::Segment, _, true) => codes(14, 14, 14, 0, 0),
        // The walk over the catalogs reads these.
        (Kind::MetaPack, _, false) => codes(14, 14, 0, 0, 0),
        (Kind::MetaPack, _, true) => codes(14, 14, 14, 0, 0),
        (Kind::DataPack, _, all) => {
            let presence = if same_size { 0 } else { 14 };
            codes(presence, 14, if all { 14 } else { 0 }, 0, 0)
        }
    }
}

/// A repository with an object of every kind, two of each where there can be two, and where they are.
struct Ground {
    stage: Stage,
    source: tempfile::TempDir,
    /// By replica: what a log writes for itself has another name at each.
    objects: Vec<BTreeMap<Kind, [ObjectName; 2]>>,
    first: [u8; 32],
}

fn names(count: usize, seed: u8) -> Vec<Bytes> {
    let name = |i: usize| Bytes::copy_from_slice(blake3::hash(&[&[seed], &i.to_le_bytes()[..]].concat()).as_bytes());
    (0..count).map(name).collect()
}

impl Ground {
    async fn new(seed: u64) -> Ground {
        let stage = Stage::new(seed);
        stage.init().await;
        let source = tree(seed, 10, 20_000);
        let settings =
            |path: &Path| holdfast::backup::BackupSettings { data_pack: 64 << 10, meta_pack: 1 << 10, ..backing_up(path) };
        let repository = stage.open().await;
        let first = run(&repository, &settings(source.path())).await.expect("a backup").snapshot.expect("a snapshot");
        let other = Unlock::KeyFile(Secret::new([7; 32]));
        repository.add_key(&other, KdfParams::floor_for_tests(), true, "second").await.expect("a second key");
        for i in 0..3 {
            let mut log = repository.log(i).await.expect("readable");
            // Long lists of names that nothing has: a checkpoint puts each into a list of its own.
            let forget = Action::Forget(Forget { ids: names(300, 1) });
            log.append(forget, true, &[], |_| Ok(())).await.expect("appended");
            log.write_checkpoint().await.expect("a checkpoint");
            let revoke = Action::Revoke(Revoke { key_slots: names(300, 2) });
            log.append(revoke, true, &[], |_| Ok(())).await.expect("appended");
            log.write_checkpoint().await.expect("a checkpoint");
        }
        let had = Newcomers::at(&stage).await;
        stage.env.sleep(std::time::Duration::from_secs(1)).await;
        grow(source.path(), seed + 1000, 10..16, 20_000);
        let repository = stage.open().await;
        let report = run(&repository, &settings(source.path())).await.expect("a second backup");
        assert!(report.replicas.iter().all(|r| r.committed), "{report:?}");
        // One more slot behind the commit, so that the last but one is not the end of the log.
        for i in 0..3 {
            repository.note(i, "test", "nothing".into()).await.expect("noted");
        }
        let mut objects = Vec::new();
        for at in 0..3 {
            objects.push(had.objects(&stage, &repository, at).await);
        }
        Ground { stage, source, objects, first }
    }
}

/// The same objects in stores of their own.
async fn copy(stage: &Stage) -> Stage {
    let mut stores = Vec::new();
    for at in 0..stage.stores.len() {
        stores.push(stage.copy(at).await);
    }
    Stage { env: stage.env.clone(), stores, names: stage.names.clone(), chunker: stage.chunker }
}

/// What was there before the second backup.
struct Newcomers(BTreeSet<ObjectName>);

impl Newcomers {
    async fn at(stage: &Stage) -> Newcomers {
        Newcomers(stage.names_at(0, "").await.into_iter().collect())
    }

    /// An object of each kind at a replica, the same at all where all have the same, and another one.
    async fn objects(&self, stage: &Stage, repository: &Repository, at: usize) -> BTreeMap<Kind, [ObjectName; 2]> {
        let hash = |bytes: &Bytes| Hash::try_from(bytes.as_ref()).expect("a hash");
        let key = |bytes: &Bytes| holdfast::repository::layout::hashed(holdfast::repository::layout::Class::Key, &hash(bytes));
        let descriptor = holdfast::repository::layout::descriptor();
        let (slot, generation) = (key(&repository.descriptor().key_slot), key(&repository.descriptor().generation));
        let mut all = Vec::new();
        for prefix in ["log/", "checkpoints/", "lists/", "snapshots/", "index/", "meta/", "data/", "keys/"] {
            let mut names = stage.names_at(at, prefix).await;
            for other in (0..3).filter(|_| prefix != "lists/") {
                let there = stage.names_at(other, prefix).await;
                names.retain(|name| there.contains(name));
            }
            all.push(names);
        }
        let [log, checkpoints, lists, snapshots, segments, meta, data, keys] = &all[..] else { unreachable!() };
        let two = |new: &[ObjectName]| [new[0].clone(), new[1].clone()];
        // The old one holds most of what the newest snapshot needs; the new one changes places with it.
        let old_first = |names: &[ObjectName]| {
            let (old, new): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| self.0.contains(name));
            two(&[old, new].concat())
        };
        // The newest snapshot is what is meant by latest.
        let new_first = |names: &[ObjectName]| {
            let (old, new): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| self.0.contains(name));
            two(&[new, old].concat())
        };
        // The second backup's own slots: its commit, and the note behind it.
        let slots = [log[log.len() - 2].clone(), log[log.len() - 1].clone()];
        let spare = keys.iter().find(|name| **name != slot && **name != generation).expect("a second slot").clone();
        BTreeMap::from([
            (Kind::Descriptor, [descriptor.clone(), descriptor]),
            (Kind::KeySlot, [slot, spare.clone()]),
            (Kind::Generation, [generation, spare]),
            (Kind::LogSlot, slots),
            (Kind::Checkpoint, two(checkpoints)),
            (Kind::List, two(lists)),
            (Kind::Snapshot, new_first(snapshots)),
            (Kind::Segment, old_first(segments)),
            (Kind::MetaPack, new_first(meta)),
            (Kind::DataPack, old_first(data)),
        ])
    }
}

/// Does the harm; whether the object kept its length.
async fn harm(stage: &Stage, at: usize, objects: &[ObjectName; 2], harm: Harm, foreign: &Bytes) -> bool {
    let [object, other] = objects;
    let store = &stage.stores[at];
    let old = store.get(object, None).await.expect("there");
    let length = old.len();
    let partner = store.get(other, None).await.expect("there");
    let new = match harm {
        Harm::Deleted => None,
        Harm::Truncated => Some(old.slice(..length / 2)),
        Harm::BitFlipped => {
            let mut bytes = old.to_vec();
            bytes[length / 2] ^= 4;
            Some(bytes.into())
        }
        Harm::Swapped => Some(partner.clone()),
        Harm::Zeroed => Some(vec![0; length].into()),
        Harm::Foreign => Some(foreign.clone()),
    };
    let same = new.as_ref().is_some_and(|new: &Bytes| new.len() == length);
    if harm == Harm::Swapped {
        stage.tamper(at, other, &|_| Some(old.to_vec())).await;
    }
    stage.tamper(at, object, &|_| new.as_ref().map(|new| new.to_vec())).await;
    same
}

/// How an error that a command ends with comes out.
fn failed(e: &RepositoryError) -> u8 {
    assert!(!e.message.is_empty());
    Outcome::failure(e.fault, None).code()
}

async fn open(stage: &Stage, access: Access) -> Result<Repository, RepositoryError> {
    Repository::open(&stage.env, stage.members(), opening(ReplicaSettings::default()), &unlock(), access).await
}

async fn verify(stage: &Stage, percent: Option<f64>) -> (u8, Option<VerifyReport>) {
    let repository = match open(stage, Access::Write).await {
        Ok(repository) => repository,
        Err(e) => return (failed(&e), None),
    };
    let settings = VerifySettings { read_data: percent.map(Share::Percent), ..VerifySettings::default() };
    match holdfast::verify::run(&repository, &settings, &Progress::default(), &Stop::default()).await {
        Ok(report) => (verify_command::outcome(&report).code(), Some(report)),
        Err(VerifyError::Repository(e)) => (failed(&e), None),
        Err(e) => panic!("{e}"),
    }
}

/// Restores what `text` names; every file that comes back is as it was, or named as failed.
async fn restore(repository: &Repository, text: &str, source: &Path) -> u8 {
    let views = match repository.snapshots().await {
        Ok(views) => views,
        Err(e) => return failed(&e),
    };
    let view = match repository.meant(views, |_| true, text).await {
        Ok(view) => view,
        Err(e) => return failed(&e),
    };
    let target = tempfile::tempdir().expect("a folder");
    let settings = RestoreSettings { target: target.path().to_owned(), memory: 16 << 20, ..RestoreSettings::default() };
    let report = match holdfast::restore::run(repository, &view.snapshot, &settings, &Progress::default(), &Stop::default()).await
    {
        Ok(report) => report,
        Err(RestoreError::Repository(e)) => return failed(&e),
        Err(e) => panic!("{e}"),
    };
    let below = target.path().join(source.strip_prefix("/").expect("absolute"));
    let (expected, found) = (files_below(source), if below.exists() { files_below(&below) } else { BTreeMap::new() });
    for (key, bytes) in &found {
        let name = String::from_utf8_lossy(key).replace('\0', "/");
        let right = expected.get(key).expect("no other file than there was");
        if bytes != right {
            // What could not be had of a file is a gap, and the file is named.
            assert!(report.failed.iter().any(|(path, _)| path.ends_with(&name)), "{name} is wrong and not named");
            assert!(bytes.len() <= right.len() && bytes.iter().zip(right).all(|(b, r)| b == r || *b == 0), "{name}: wrong bytes");
        }
    }
    let code = restore_command::outcome(&report).code();
    if code == 0 && text == "latest" {
        assert!(found == expected, "a restore that succeeds brings everything");
    }
    if found.len() < expected.len() && text == "latest" {
        assert!(report.failed_count > 0, "what does not come is named");
    }
    code
}

async fn restore_at(stage: &Stage, text: &str, source: &Path) -> u8 {
    match open(stage, Access::Read).await {
        Ok(repository) => restore(&repository, text, source).await,
        Err(e) => failed(&e),
    }
}

/// Backs up; exit code, and the replicas that committed.
async fn back_up(stage: &Stage, source: &Path) -> (u8, Vec<usize>) {
    let repository = match open(stage, Access::Write).await {
        Ok(repository) => repository,
        Err(e) => return (failed(&e), Vec::new()),
    };
    // Snapshots are told apart by their times.
    stage.env.sleep(std::time::Duration::from_secs(1)).await;
    match run(&repository, &backing_up(source)).await {
        Ok(report) => {
            let committed = report.replicas.iter().enumerate().filter(|(_, r)| r.committed).map(|(i, _)| i).collect();
            (backup_command::outcome(&report, None).code(), committed)
        }
        Err(BackupError::Repository(e)) => (failed(&e), Vec::new()),
        Err(BackupError::BelowQuorum { fault, message, .. }) => {
            assert!(!message.is_empty());
            (Outcome::failure(fault, None).code(), Vec::new())
        }
        Err(e) => panic!("{e}"),
    }
}

/// The packs that each log distrusts.
async fn distrusted(stage: &Stage) -> Vec<usize> {
    let Ok(repository) = open(stage, Access::Read).await else { return vec![0; stage.stores.len()] };
    let mut counts = Vec::new();
    for at in 0..stage.stores.len() {
        counts.push(match repository.log(at).await {
            Some(log) => log.state.distrusted.len(),
            None => 0,
        });
    }
    counts
}

/// Every replica that committed gives the newest snapshot back, alone, whole.
async fn each_alone(row: &str, stage: &Stage, committed: &[usize], source: &Path) {
    for at in committed {
        let repository = stage.open_alone(*at).await;
        assert_eq!(restore(&repository, "latest", source).await, 0, "{row}: replica {at} alone");
    }
}

async fn row(ground: &Ground, foreign: &Ground, kind: Kind, how: Harm, all: bool) -> bool {
    let at: &[usize] = if all { &[0, 1, 2] } else { &[0] };
    let row = format!("{kind:?} {how:?} at {}", if all { "all replicas" } else { "one replica" });
    let source = ground.source.path();
    let damaged = copy(&ground.stage).await;
    let mut same_size = true;
    for at in at {
        let other = foreign.stage.stores[*at].get(&foreign.objects[*at][&kind][0], None).await.expect("there");
        same_size &= harm(&damaged, *at, &ground.objects[*at][&kind], how, &other).await;
    }
    let Some(expected) = expected(kind, how, all, same_size) else { return false };
    // Each step on a copy of its own.
    let (presence, _) = verify(&copy(&damaged).await, None).await;
    let verified = copy(&damaged).await;
    let (content, report) = verify(&verified, Some(100.0)).await;
    let restore = restore_at(&copy(&damaged).await, "latest", source).await;
    let unverified = copy(&damaged).await;
    let (backup, committed) = back_up(&unverified, source).await;
    let trust = distrusted(&verified).await;
    let (backup_after, committed_after) = back_up(&verified, source).await;
    assert_eq!(Codes { presence, content, restore, backup, backup_after }, expected, "{row}\n{report:?}");

    // What opens the repository is not written again: a replica without it stands by the others until it is healed.
    let openable = |mut committed: Vec<usize>| {
        committed.retain(|i| !matches!(kind, Kind::KeySlot | Kind::Generation) || !at.contains(i));
        committed
    };

    // What was found is named, by the object at the replica where it is.
    if let Some(report) = &report
        && content == 14
        && kind != Kind::Descriptor
        && kind != Kind::LogSlot
    {
        for at in at {
            let (name, object) = (ground.stage.names[*at], ground.objects[*at][&kind][0].to_string());
            assert!(report.damages.iter().any(|d| d.replica == name && d.object == object), "{row}: {report:?}");
        }
        if !all {
            assert!(report.damages.iter().all(|d| d.replica == "a"), "{row}: {report:?}");
        }
    }
    // Distrust is in the logs of the replicas that have the damage, and in no other.
    let packs = matches!(kind, Kind::MetaPack | Kind::DataPack) || (kind == Kind::Segment && !all);
    for (i, count) in trust.iter().enumerate() {
        assert_eq!(*count > 0, packs && at.contains(&i), "{row}: distrust at replica {i}");
    }
    // After a verify nothing relies on what is damaged: with the damage still there, every replica is whole again by itself.
    if backup_after == 0 || backup_after == 4 {
        assert_eq!(committed_after.len(), if backup_after == 4 { 2 } else { 3 }, "{row}");
        each_alone(&row, &verified, &openable(committed_after), source).await;
    }
    // Without one that holds for everything that a backup reads on its way.
    if (backup == 0 || backup == 4) && kind != Kind::DataPack {
        each_alone(&row, &unverified, &openable(committed), source).await;
    }
    if kind == Kind::LogSlot {
        assert_eq!(restore_at(&damaged, &hex::encode(ground.first), source).await, 0, "{row}: an older snapshot by its id");
    }
    true
}

async fn table(all: bool) {
    let (ground, foreign) = (Ground::new(70).await, Ground::new(71).await);
    // The ground itself is whole.
    let whole = copy(&ground.stage).await;
    assert_eq!(verify(&whole, Some(100.0)).await.0, 0);
    assert_eq!(back_up(&whole, ground.source.path()).await, (0, vec![0, 1, 2]));
    each_alone("no damage", &whole, &[0, 1, 2], ground.source.path()).await;
    let mut rows = 0;
    for kind in KINDS {
        for how in HARMS {
            rows += usize::from(row(&ground, &foreign, kind, how, all).await);
        }
    }
    println!(
        "figure: damages, kinds of object by kinds of harm, at {}: {rows}",
        if all { "all replicas" } else { "one replica of three" }
    );
    assert_eq!(rows, 59);
}

#[tokio::test(start_paused = true)]
async fn at_one_replica_of_three() {
    table(false).await;
}

#[tokio::test(start_paused = true)]
async fn at_all_replicas() {
    table(true).await;
}
