//! Repositories that somebody with the keys, or a provider without, has prepared: what verify and restore come to, row by
//! row, with the exit code; and that nothing leaves the target, whatever the names say.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use holdfast::chunk::id::ChunkId;
use holdfast::cli::exit::Outcome;
use holdfast::cli::{restore as restore_command, verify as verify_command};
use holdfast::format::descriptor::{Descriptor, Feature};
use holdfast::format::entry::{Entry, EntryKind};
use holdfast::format::key_slot::{self, SlotInfo};
use holdfast::format::pack::PackKind;
use holdfast::format::record::{Body, SlotHeader};
use holdfast::format::{Hash, object_hash};
use holdfast::progress::{Progress, Stop};
use holdfast::replica::{Mask, ReplicaSettings};
use holdfast::repository::keyring::Unlock;
use holdfast::repository::layout::{self, Class};
use holdfast::repository::{Access, Repository};
use holdfast::restore::RestoreSettings;
use holdfast::seal::key::{KdfParams, Secret};
use holdfast::seal::{Kind, seal_structure};
use holdfast::store::Store;
use holdfast::verify::VerifySettings;
use holdfast::verify::share::Share;

use prost::Message;

use crate::support::hostile_writer::{commit, entry, file, id_of, leaf, named, send, span};
use crate::support::stage::{Stage, files_below, opening, tree, unlock};

const ALL: Mask = Mask(0b111);

async fn verified(repository: &Repository) -> (u8, holdfast::verify::VerifyReport) {
    let settings = VerifySettings { read_data: Some(Share::All), ..VerifySettings::default() };
    let report = holdfast::verify::run(repository, &settings, &Progress::default(), &Stop::default()).await.expect("carried out");
    (verify_command::outcome(&report).code(), report)
}

/// Restores a snapshot into `target`; exit code and what failed.
async fn restored(repository: &Repository, id: Hash, target: &Path) -> (u8, Vec<String>) {
    let views = repository.snapshots().await.expect("listed");
    let view = repository.meant(views, |_| true, &hex::encode(id)).await.expect("it is there");
    let settings = RestoreSettings { target: target.to_owned(), memory: 16 << 20, no_owners: true, ..RestoreSettings::default() };
    match holdfast::restore::run(repository, &view.snapshot, &settings, &Progress::default(), &Stop::default()).await {
        Ok(report) => (restore_command::outcome(&report).code(), report.failed.into_iter().map(|(path, _)| path).collect()),
        Err(holdfast::restore::RestoreError::Repository(e)) => (Outcome::failure(e.fault, None).code(), vec![e.message]),
        Err(e) => panic!("{e}"),
    }
}

struct Row {
    name: &'static str,
    items: Vec<(&'static [u8], Entry)>,
    verify: u8,
    restore: u8,
    /// What comes back, besides directories: path below the root, and content. What was lost of a file that is named as
    /// failed is a gap in it.
    comes: Vec<(&'static str, &'static [u8])>,
}

const GOOD: &[u8] = b"what is good";

#[tokio::test(start_paused = true)]
async fn catalogs_of_a_hostile_writer() {
    let stage = Stage::new(80);
    stage.init().await;
    let repository = stage.open().await;
    let good = id_of(&repository, GOOD);
    let fine = || file(&[(good, GOOD.len() as u64)]);
    let root = || entry(EntryKind::Directory);
    let link = |to: &'static [u8]| Entry { link_target: Bytes::from_static(to), mode: 0o777, ..entry(EntryKind::Symlink) };
    let nowhere = ChunkId([9; 32]);
    let lost_with_its_node =
        |name: &'static str, items: Vec<(&'static [u8], Entry)>| Row { name, items, verify: 14, restore: 14, comes: Vec::new() };
    let refused = |name: &'static str, key: &'static [u8]| Row {
        name,
        // In order whatever the key is: `~` sorts behind all that are tried here.
        items: vec![(b"", root()), (key, fine()), (b"~", fine())],
        verify: 14,
        restore: 14,
        comes: vec![("~", GOOD)],
    };
    let rows = vec![
        Row {
            name: "nothing wrong",
            items: vec![(b"", root()), (b"a", fine())],
            verify: 0,
            restore: 0,
            comes: vec![("a", GOOD)],
        },
        refused("name `..`", b".."),
        refused("name `.`", b"."),
        refused("name with a separator", b"a/b"),
        refused("absolute name", b"/etc/passwd"),
        refused("climbing name", b"a/../../b"),
        refused("climbing by components", b"..\0..\0x"),
        refused("empty component", b"a\0\0b"),
        refused("ends in a separator", b"a\0"),
        lost_with_its_node("two of one name", vec![(b"", root()), (b"a", fine()), (b"a", fine())]),
        lost_with_its_node("not in order", vec![(b"", root()), (b"b", fine()), (b"a", fine())]),
        Row {
            name: "a file beneath a link that leads out",
            items: vec![(b"", root()), (b"a", link(b"../../outside")), (b"a\0b", fine()), (b"c", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("c", GOOD)],
        },
        Row {
            name: "a file beneath a file",
            items: vec![(b"", root()), (b"a", fine()), (b"a\0b", fine()), (b"c", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("a", GOOD), ("c", GOOD)],
        },
        Row {
            name: "a chunk that nobody has",
            items: vec![(b"", root()), (b"a", file(&[(nowhere, 7)])), (b"b", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("a", &[0; 7]), ("b", GOOD)],
        },
        Row {
            name: "a chunk said to be longer",
            items: vec![(b"", root()), (b"a", file(&[(good, GOOD.len() as u64 + 1)])), (b"b", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("a", &[0; 13]), ("b", GOOD)],
        },
        Row {
            name: "a chunk said to be shorter",
            items: vec![(b"", root()), (b"a", file(&[(good, 3)])), (b"b", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("a", &[0; 3]), ("b", GOOD)],
        },
        Row {
            name: "a size that its pieces do not have",
            items: vec![(b"", root()), (b"a", Entry { size: 1 << 60, ..fine() }), (b"b", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("b", GOOD)],
        },
        Row {
            name: "pieces that overflow",
            items: vec![(b"", root()), (b"a", file(&[(good, u64::MAX), (good, 13)])), (b"b", fine())],
            verify: 14,
            restore: 14,
            comes: vec![("b", GOOD)],
        },
        Row {
            name: "a hard link to what is not there",
            items: vec![(b"", root()), (b"b", Entry { hard_link: Bytes::from_static(b"a"), ..fine() })],
            verify: 0,
            restore: 0,
            comes: vec![("b", GOOD)],
        },
    ];
    drop(repository);
    for row in rows {
        let stage = Stage::new(81);
        stage.init().await;
        let repository = stage.open().await;
        // The key is the same only by the seed of the stage; the ids are made anew with this one's.
        let own = id_of(&repository, GOOD);
        let items: Vec<(&[u8], Entry)> = row
            .items
            .into_iter()
            .map(|(key, mut entry)| {
                for piece in entry.content.iter_mut().flat_map(|content| &mut content.pieces) {
                    if piece.id[..] == good.0[..] {
                        piece.id = Bytes::copy_from_slice(&own.0);
                    }
                }
                (key, entry)
            })
            .collect();
        let node = leaf(&items);
        let bytes = items.iter().fold(0_u64, |sum, (_, e)| sum.saturating_add(e.size));
        let child = named(&repository, &node, 0, items.len() as u64, bytes);
        let data = send(&repository, PackKind::Data, &[(own, Bytes::from_static(GOOD))], ALL).await;
        let meta = send(&repository, PackKind::Meta, &[(id_of(&repository, &node), node.clone())], ALL).await;
        let id = commit(&repository, vec![data, meta], child, ALL, 5_000_000_000).await;

        let repository = stage.open().await;
        let (code, report) = verified(&repository).await;
        assert_eq!(code, row.verify, "{}: verify: {report:?}", row.name);
        // Nothing is wrong with any pack: the writer lied, not the store.
        assert!(report.replicas.iter().all(|r| r.distrusted == 0), "{}: {report:?}", row.name);

        let world = tempfile::tempdir().expect("a folder");
        let target = world.path().join("inner/target");
        std::fs::create_dir_all(world.path().join("outside")).expect("made");
        let (code, failed) = restored(&repository, id, &target).await;
        assert_eq!(code, row.restore, "{}: restore: {failed:?}", row.name);
        let below = target.join("root");
        let found = if below.exists() { files_below(&below) } else { BTreeMap::new() };
        let expected: BTreeMap<Vec<u8>, Vec<u8>> =
            row.comes.iter().map(|(path, bytes)| (path.as_bytes().to_vec(), bytes.to_vec())).collect();
        assert_eq!(found, expected, "{}", row.name);
        let outside = files_below(world.path());
        assert!(outside.keys().all(|key| key.starts_with(b"inner\0target\0root\0")), "{}: {outside:?}", row.name);
    }
}

#[tokio::test(start_paused = true)]
async fn one_id_in_two_packs_of_which_one_lies() {
    let stage = Stage::new(82);
    stage.init().await;
    let repository = stage.open().await;
    let good = id_of(&repository, GOOD);
    let node = leaf(&[(b"", entry(EntryKind::Directory)), (b"a", file(&[(good, GOOD.len() as u64)]))]);
    let child = named(&repository, &node, 0, 2, GOOD.len() as u64);
    let lie = send(&repository, PackKind::Data, &[(good, Bytes::from_static(b"what is evil"))], ALL).await;
    let truth = send(&repository, PackKind::Data, &[(good, Bytes::from_static(GOOD))], ALL).await;
    let lying = lie.name().expect("a name");
    let meta = send(&repository, PackKind::Meta, &[(id_of(&repository, &node), node.clone())], ALL).await;
    let id = commit(&repository, vec![lie, truth, meta], child, ALL, 5).await;

    let target = tempfile::tempdir().expect("a folder");
    assert_eq!(restored(&stage.open().await, id, target.path()).await, (0, Vec::new()));
    assert_eq!(files_below(&target.path().join("root")), BTreeMap::from([(b"a".to_vec(), GOOD.to_vec())]));
    let (code, _) = verified(&stage.open().await).await;
    assert_eq!(code, 14);
    let repository = stage.open().await;
    for replica in 0..3 {
        let log = repository.log(replica).await.expect("readable");
        assert_eq!(log.state.distrusted.iter().collect::<Vec<_>>(), [&lying], "the one that lies, and no other");
    }
}

#[tokio::test(start_paused = true)]
async fn times_decide_nothing_but_the_order() {
    let stage = Stage::new(83);
    stage.init().await;
    let repository = stage.open().await;
    let node = leaf(&[(b"", entry(EntryKind::Directory))]);
    for (time, code) in [(i64::MIN / 4, 0), (0, 0), (i64::MAX / 4, 0)] {
        let meta = send(&repository, PackKind::Meta, &[(id_of(&repository, &node), node.clone())], ALL).await;
        let id = commit(&repository, vec![meta], named(&repository, &node, 0, 1, 0), ALL, time).await;
        let target = tempfile::tempdir().expect("a folder");
        assert_eq!(restored(&stage.open().await, id, target.path()).await, (code, Vec::new()), "{time}");
    }
    assert_eq!(verified(&stage.open().await).await.0, 0);
}

/// A record that no version knows yet, in the next slot of one log.
async fn append_unknown(stage: &Stage, at: usize, critical: bool) {
    let repository = stage.open_alone(at).await;
    let log = repository.log(0).await.expect("readable");
    let header = SlotHeader::new(log.state.replica_id.expect("begun"), log.state.epoch, log.state.slot + 1);
    let body = Body {
        prev: Bytes::copy_from_slice(&log.state.hash),
        nonce: Bytes::copy_from_slice(&[1; 32]),
        run_id: Bytes::copy_from_slice(&[2; 32]),
        critical,
        ..Body::default()
    };
    // An action whose field is none of those that are known.
    let body = [body.encode_to_vec(), span(2000, b"what is to come")].concat();
    let (keyring, header) = (&repository.keyring, header.encode_to_vec());
    let mut stored = b"HFLG".to_vec();
    stored.extend((header.len() as u32).to_le_bytes());
    stored.extend(header);
    let sealed = seal_structure(&keyring.keys.log, &keyring.repository_id, Kind::Record, &stored, &body, [3; 32]);
    stored.extend(sealed);
    let name = layout::slot(log.state.epoch, log.state.slot + 1);
    stage.stores[at].put(&name, stored.into()).await.expect("the slot was free");
}

/// What verify, a backup and a restore of the latest snapshot come to.
async fn codes(stage: &Stage, source: &Path) -> (u8, u8, u8) {
    let open = |access| Repository::open(&stage.env, stage.members(), opening(ReplicaSettings::default()), &UNLOCK, access);
    let failed = |e: holdfast::repository::error::RepositoryError| Outcome::failure(e.fault, None).code();
    let verify = match open(Access::Write).await {
        Ok(repository) => verified(&repository).await.0,
        Err(e) => failed(e),
    };
    let backup = match stage.backup(stage.members(), source).await {
        Ok(report) => holdfast::cli::backup::outcome(&report, None).code(),
        Err(holdfast::backup::BackupError::Repository(e)) => failed(e),
        Err(holdfast::backup::BackupError::BelowQuorum { fault, .. }) => Outcome::failure(fault, None).code(),
        Err(e) => panic!("{e}"),
    };
    let restore = match open(Access::Read).await {
        Ok(repository) => {
            let views = repository.snapshots().await.expect("listed");
            let target = tempfile::tempdir().expect("a folder");
            match repository.meant(views, |_| true, "latest").await {
                Ok(view) => restored(&repository, view.id, target.path()).await.0,
                Err(e) => failed(e),
            }
        }
        Err(e) => failed(e),
    };
    (verify, backup, restore)
}

static UNLOCK: std::sync::LazyLock<Unlock> = std::sync::LazyLock::new(unlock);

/// A descriptor with other fields, its hash made anew. The writer refuses to write what it could not read.
fn rewritten(stored: &[u8], change: &dyn Fn(&mut Descriptor)) -> Vec<u8> {
    let mut descriptor = Descriptor::decode(stored).expect("ours");
    change(&mut descriptor);
    let mut stored = stored[..8].to_vec();
    stored.extend(descriptor.encode_to_vec());
    let hash = object_hash(&stored);
    stored.extend(hash);
    stored
}

#[tokio::test(start_paused = true)]
async fn what_only_a_newer_version_understands() {
    let source = tree(84, 3, 2_000);
    for (row, at, critical, expected) in [
        ("skipped", &[0, 1, 2][..], false, (0, 0, 0)),
        ("critical at one", &[0], true, (16, 4, 0)),
        ("critical at all", &[0, 1, 2], true, (16, 16, 16)),
    ] {
        let stage = Stage::new(84);
        stage.init().await;
        stage.backup(stage.members(), source.path()).await.expect("a backup");
        for at in at {
            append_unknown(&stage, *at, critical).await;
        }
        assert_eq!(codes(&stage, source.path()).await, expected, "{row}");
    }
    let feature = |critical: bool| move |d: &mut Descriptor| d.features.push(Feature { name: "teleport".into(), critical });
    let version = |d: &mut Descriptor| d.format_version = 2;
    let (critical, other) = (feature(true), feature(false));
    type Change<'c> = &'c dyn Fn(&mut Descriptor);
    let rows: [(&str, &[usize], Change<'_>, _); 4] = [
        ("version at one", &[0], &version, (16, 4, 0)),
        ("version at all", &[0, 1, 2], &version, (16, 16, 16)),
        ("critical feature at all", &[0, 1, 2], &critical, (16, 16, 16)),
        ("other feature at all", &[0, 1, 2], &other, (0, 0, 0)),
    ];
    for (row, at, change, expected) in rows {
        let stage = Stage::new(85);
        stage.init().await;
        stage.backup(stage.members(), source.path()).await.expect("a backup");
        let before = stage.names_at(1, "").await;
        for at in at {
            stage.tamper(*at, &layout::descriptor(), &|bytes| Some(rewritten(&bytes, change))).await;
        }
        assert_eq!(codes(&stage, source.path()).await, expected, "{row}");
        if expected.1 == 16 {
            assert_eq!(stage.names_at(1, "").await, before, "{row}: nothing is touched");
        }
    }
}

/// The named slot asks for a derivation that no machine should carry out; another slot opens all the same.
#[tokio::test(start_paused = true)]
async fn key_slots_that_cannot_be_carried_out() {
    let stage = Stage::new(86);
    stage.init().await;
    let source = tree(86, 2, 2_000);
    stage.backup(stage.members(), source.path()).await.expect("a backup");
    let repository = stage.open().await;
    for (row, memory_kib, passes, lanes) in [
        ("too much memory", u32::MAX, 3, 4),
        ("too many passes", 65_536, u32::MAX, 4),
        ("too many lanes", 65_536, 3, u32::MAX),
        ("too little memory", 1, 3, 4),
        ("no pass", 65_536, 0, 4),
        ("no lane", 65_536, 3, 0),
    ] {
        let params = KdfParams { memory_kib, passes, lanes };
        let unlock_by = key_slot::Unlock::Passphrase { salt: [5; 32], params };
        let info = SlotInfo { unlock: unlock_by, repository_id: repository.id(), label: row.into(), created: 0 };
        let slot = key_slot::wrap(&info, &Secret::new([1; 32]), &Secret::new([2; 32]), [3; 32]).expect("written");
        let hash = object_hash(&slot);
        let damaged = Stage {
            env: stage.env.clone(),
            stores: vec![stage.copy(0).await, stage.copy(1).await, stage.copy(2).await],
            names: stage.names.clone(),
            chunker: stage.chunker,
        };
        let first = layout::hashed(Class::Key, &Hash::try_from(&repository.descriptor().key_slot[..]).expect("a hash"));
        for at in 0..3 {
            damaged.stores[at].put(&layout::hashed(Class::Key, &hash), slot.clone()).await.expect("stored");
            damaged
                .tamper(at, &layout::descriptor(), &|bytes| {
                    let mut descriptor = Descriptor::decode(&bytes).expect("ours");
                    descriptor.key_slot = Bytes::copy_from_slice(&hash);
                    Some(descriptor.encode().expect("written").to_vec())
                })
                .await;
        }
        // The slot that the passphrase fits is still there, though no descriptor names it.
        assert_eq!(codes(&damaged, source.path()).await, (0, 0, 0), "{row}");
        for at in 0..3 {
            damaged.stores[at].delete(std::slice::from_ref(&first)).await;
        }
        assert_eq!(codes(&damaged, source.path()).await, (14, 14, 14), "{row}: and nothing else opens");
    }
}

/// A named slot that is damaged must not keep a good one from opening, and is no proof of a wrong key.
#[tokio::test(start_paused = true)]
async fn a_damaged_key_slot_does_not_lock_out_the_others() {
    let stage = Stage::new(87);
    stage.init().await;
    let repository = stage.open().await;
    let spare = Unlock::KeyFile(Secret::new([7; 32]));
    repository.add_key(&spare, KdfParams::floor_for_tests(), true, "spare").await.expect("added");
    let named = layout::hashed(Class::Key, &Hash::try_from(&repository.descriptor().key_slot[..]).expect("a hash"));
    drop(repository);
    let open = async |unlock: &Unlock| {
        let opened = Repository::open(&stage.env, stage.members(), opening(ReplicaSettings::default()), unlock, Access::Write);
        opened.await.map(drop).map_err(|e| (Outcome::failure(e.fault, None).code(), e.message))
    };
    let wrong = Unlock::Passphrase(b"a house".to_vec().into());
    assert_eq!(open(&wrong).await.expect_err("wrong").0, 12, "a key that fits no slot is a wrong key while all can be tried");
    // At one replica: the others have it.
    stage.tamper(0, &named, &|bytes| Some(bytes[..20].to_vec())).await;
    assert_eq!((open(&unlock()).await, open(&spare).await), (Ok(()), Ok(())));
    // At all of them: only the other key opens, and the first one is not called wrong.
    for at in 1..3 {
        stage
            .tamper(at, &named, &|mut bytes| {
                bytes[9] ^= 1;
                Some(bytes)
            })
            .await;
    }
    assert_eq!(open(&spare).await, Ok(()));
    let (code, why) = open(&unlock()).await.expect_err("its slot is gone");
    assert_eq!(code, 14, "{why}");
    assert!(why.contains("key slot") && why.contains("damaged"), "{why}");
}
