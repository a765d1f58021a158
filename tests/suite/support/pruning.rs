//! A history with churn to prune, and what must hold afterwards: every kept snapshot comes back from every replica alone, and
//! nothing was deleted that no record condemned before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast::backup::BackupSettings;
use holdfast::clock::Time;
use holdfast::format::Hash;
use holdfast::format::list::HashList;
use holdfast::format::record::{Action, Expected, ObjectClass, decode_slot};
use holdfast::lifecycle::inventory::object_name;
use holdfast::lifecycle::prune::{PruneError, PruneReport, PruneSettings, ReplicaPruned, run as run_prune};
use holdfast::lifecycle::prune_plan::{Limits, MaxUnused};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::repository::layout::{self, Class};
use holdfast::store::Store;
use holdfast::store::meter::Operation;

use crate::support::recording_store::{Record, RecordingStore};
use crate::support::rig;
use crate::support::stage::{Stage, backing_up, contents, files_below, run, tree};

/// Content of a snapshot by key.
pub type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// No mercy, no waste, packs as small as those of the stage.
pub fn settings() -> PruneSettings {
    PruneSettings {
        limits: Limits { max_unused: MaxUnused::Bytes(0), max_repack: None },
        mercy: Duration::ZERO,
        memory: 16 << 20,
        data_pack: 256 << 10,
        meta_pack: 64 << 10,
        group: 32 << 10,
        ..PruneSettings::default()
    }
}

/// Prunes without anybody watching.
pub async fn prune(repository: &Repository, settings: &PruneSettings) -> Result<PruneReport, PruneError> {
    run_prune(repository, settings, &Progress::default(), &Stop::default()).await
}

/// Prunes at these members, and expects every replica to come out well.
pub async fn pruned_at(stage: &Stage, members: Vec<Member>, settings: &PruneSettings) -> Vec<ReplicaPruned> {
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    let report = prune(&repository, settings).await.expect("a prune");
    assert!(report.replicas.iter().all(|r| r.behind.is_none()), "{report:?}");
    report.replicas
}

/// Prunes at all members.
pub async fn pruned(stage: &Stage, settings: &PruneSettings) -> Vec<ReplicaPruned> {
    pruned_at(stage, stage.members(), settings).await
}

/// Some days of a tree that changes: files come, go and are overwritten, a large one in its middle.
pub struct History {
    /// Where it happened.
    pub stage: Stage,
    /// The tree as it is now.
    pub source: tempfile::TempDir,
    /// The snapshots, oldest first, each with what it has to hold.
    pub all: Vec<(Hash, Files)>,
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    crate::support::source_tree::noise(seed, length)
}

/// One more day of a tree.
pub fn change(at: &Path, seed: u64, day: u64) {
    let folder = at.join("changing");
    std::fs::create_dir_all(&folder).expect("made");
    for i in 0..6 {
        std::fs::write(folder.join(format!("of-the-day-{i}")), noise(seed << 40 | day << 8 | i, 9_000)).expect("written");
    }
    std::fs::write(folder.join(format!("new-{day}")), noise(seed << 40 | day << 8 | 100, 40_000)).expect("written");
    for i in 0..8 {
        std::fs::write(folder.join(format!("tiny-{day}-{i}")), noise(seed << 40 | day << 8 | (150 + i), 900)).expect("written");
    }
    if day >= 3 {
        std::fs::remove_file(folder.join(format!("new-{}", day - 3))).expect("it was there");
        for i in (0..8).filter(|i| i % 3 != 0) {
            std::fs::remove_file(folder.join(format!("tiny-{}-{i}", day - 3))).expect("it was there");
        }
    }
    let middle = noise(seed << 40 | day << 8 | 200, 30_000);
    let large = [noise(seed << 40 | 900, 150_000), middle, noise(seed << 40 | 901, 150_000)].concat();
    std::fs::write(folder.join("large"), large).expect("written");
}

/// Backs up at `members`, dated `day`; packs of 64 KiB, so that there are many.
pub async fn backup(stage: &Stage, members: Vec<Member>, path: &Path, day: u64) -> Hash {
    let repository = stage.open_at(members, ReplicaSettings::default()).await.expect("it opens");
    run(&repository, &dated(path, day)).await.expect("a backup").snapshot.expect("committed")
}

/// How a day is backed up.
pub fn dated(path: &Path, day: u64) -> BackupSettings {
    let time = Some(Time(1_700_000_000_000_000_000 + day as i64 * 86_400_000_000_000));
    BackupSettings { time, data_pack: 128 << 10, meta_pack: 32 << 10, ..backing_up(path) }
}

impl History {
    /// So many days, at replicas of these names.
    pub async fn of(seed: u64, names: &[&'static str], days: u64) -> History {
        let stage = Stage::of(seed, names);
        stage.init().await;
        let source = tree(seed, 6, 12_000);
        let mut all = Vec::new();
        for day in 0..days {
            change(source.path(), seed, day);
            let id = backup(&stage, stage.members(), source.path(), day).await;
            all.push((id, files_below(source.path())));
        }
        History { stage, source, all }
    }

    /// Forgets those whose place `goes` says so, in every log; they leave `all`.
    pub async fn forget(&mut self, goes: impl Fn(usize) -> bool) -> Vec<(Hash, Files)> {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for (i, one) in std::mem::take(&mut self.all).into_iter().enumerate() {
            if goes(i) { gone.push(one) } else { kept.push(one) }
        }
        self.all = kept;
        let ids: Vec<Hash> = gone.iter().map(|(id, _)| *id).collect();
        let repository = self.stage.open().await;
        for i in 0..self.stage.stores.len() {
            repository.forget(i, &ids, |_| Ok(())).await.expect("forgotten");
        }
        gone
    }

    /// Every kept snapshot, and no other, comes back byte for byte from every replica alone, and all that is there verifies.
    pub async fn sound(&self) {
        for (at, name) in self.stage.names.iter().enumerate() {
            let alone = self.stage.open_alone(at).await;
            let mut held: Vec<Hash> = alone.live().await.iter().map(|live| live.id).collect();
            let mut wanted: Vec<Hash> = self.all.iter().map(|(id, _)| *id).collect();
            held.sort();
            wanted.sort();
            assert_eq!(held, wanted, "replica {name}");
            for (id, files) in &self.all {
                let found = contents(&alone, *id).await.unwrap_or_else(|e| panic!("replica {name}: {e}"));
                assert!(found == *files, "replica {name} gives back other contents");
            }
            assert!(alone.take_met().is_empty(), "replica {name} is not as it should be");
        }
        rig::verify_all(&self.stage.open().await).await.expect("all is well");
    }
}

/// All members, each with notes of what it is asked.
pub fn recorded(stage: &Stage) -> (Vec<RecordingStore>, Vec<Member>) {
    let notes: Vec<_> = stage.stores.iter().map(|store| RecordingStore::new(Arc::new(store.clone()))).collect();
    let members = stage.names.iter().zip(&notes).map(|(name, store)| stage.wrapped(name, Arc::new(store.clone()))).collect();
    (notes, members)
}

/// How many notes there are of an operation on names that begin so.
pub fn count(records: &[Record], operation: Operation, class: &str) -> u64 {
    records.iter().filter(|r| r.operation == operation && r.name.starts_with(class)).count() as u64
}

/// Bytes of all objects at a replica.
pub async fn bytes_at(stage: &Stage, at: usize, prefix: &str) -> u64 {
    let mut bytes = 0;
    for name in stage.names_at(at, prefix).await {
        bytes += stage.stores[at].stat(&name).await.expect("memory answers").expect("there").size;
    }
    bytes
}

/// What each slot of the log of a replica says, in order.
pub async fn records(repository: &Repository, at: usize) -> Vec<Option<Action>> {
    let (epoch, head, replica_id) = {
        let log = repository.log(at).await.expect("readable");
        (log.state.epoch, log.state.slot, log.state.replica_id)
    };
    let store = &repository.set.replicas[at].store;
    let mut records = Vec::new();
    for slot in 1..=head {
        let stored = store.get(&layout::slot(epoch, slot), None).await.expect("a slot stays");
        let expected = Expected { replica_id, epoch, slot };
        let (_, body) = decode_slot(&stored, &repository.keyring.keys.log, &repository.id(), &expected).expect("authentic");
        records.push(body.action);
    }
    records
}

/// By object name, the slot of the first record that condemns it in the log of a replica.
pub async fn condemning(repository: &Repository, at: usize) -> BTreeMap<String, u64> {
    let (keys, id) = (&repository.keyring.keys, repository.id());
    let store = &repository.set.replicas[at].store;
    let mut slots = BTreeMap::new();
    for (slot, action) in (1..).zip(records(repository, at).await) {
        let Some(Action::Condemn(condemn)) = action else { continue };
        let mut names: Vec<(ObjectClass, Hash)> = Vec::new();
        names.extend(condemn.objects.iter().map(|o| (o.class(), o.hash[..].try_into().expect("a name"))));
        for list in &condemn.lists {
            let name = layout::hashed(Class::List, &list.list[..].try_into().expect("a name"));
            let stored = store.get(&name, None).await.expect("a list that a record names stays");
            let hashes = HashList::decode(&stored, &keys.log, &id).expect("a list").into_hashes();
            names.extend(hashes.into_iter().map(|hash| (list.class(), hash)));
        }
        for (class, hash) in names {
            slots.entry(object_name(class, &hash).expect("a class that is condemned").to_string()).or_insert(slot);
        }
    }
    slots
}

/// S3: every DELETE that was noted names something that a record condemned which was durable by then. `slots` is how many the
/// log had when the notes began. Gives how many DELETEs there were.
pub async fn deletes_are_condemned(repository: &Repository, at: usize, slots: u64, records: &[Record]) -> u64 {
    let condemned = condemning(repository, at).await;
    let (mut slots, mut deletes) = (slots, 0);
    for record in records {
        match record.operation {
            Operation::Put if record.name.starts_with("log/") => slots += 1,
            Operation::Delete => {
                let slot = condemned.get(&record.name).unwrap_or_else(|| panic!("{} was never condemned", record.name));
                assert!(*slot <= slots, "{} was deleted before slot {slot} condemned it", record.name);
                deletes += 1;
            }
            _ => {}
        }
    }
    deletes
}
