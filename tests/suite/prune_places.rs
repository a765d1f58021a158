//! Where live chunks lie, and what becomes of everything else: orphans, missing packs, every way in which a snapshot names a
//! chunk, the proof against plans that are wrong, the index made small.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast::chunk::id::ChunkId;
use holdfast::format::entry::{Content, EntryKind, Piece, Xattr};
use holdfast::format::pack::PackKind;
use holdfast::format::record::ObjectClass;
use holdfast::format::tree::Child;
use holdfast::format::{Hash, object_hash};
use holdfast::lifecycle::prune::PruneSettings;
use holdfast::lifecycle::prune_proof::Proof;
use holdfast::progress::Stop;
use holdfast::replica::{Mask, ReplicaSettings};
use holdfast::repository::Repository;
use holdfast::repository::layout::{self, Class};
use holdfast::store::Store;
use holdfast::store::name::ObjectName;
use prost::Message;

use crate::support::hostile_writer::{commit, entry, file, id_of, leaf, named, number, send, span};
use crate::support::pruning::{History, prune, pruned, settings};
use crate::support::rig;
use crate::support::source_tree::noise;
use crate::support::stage::{Stage, backing_up, grow, run, tree};

const ONE: Mask = Mask(1);

async fn put(stage: &Stage, name: &ObjectName, bytes: &Bytes) {
    stage.stores[0].put(name, bytes.clone()).await.expect("stored");
}

#[tokio::test(start_paused = true)]
async fn orphans_of_every_kind() {
    let history = History::of(80, &["a"], 2).await;
    let stage = &history.stage;
    let repository = stage.open().await;
    let plain = Bytes::from(noise(1, 5_000));
    let id = id_of(&repository, &plain);
    let mut orphans = BTreeSet::new();
    for kind in [PackKind::Data, PackKind::Meta] {
        let entry = send(&repository, kind, &[(id, plain.clone())], ONE).await;
        let class = if kind == PackKind::Meta { Class::MetaPack } else { Class::DataPack };
        orphans.insert(layout::hashed(class, &entry.name().expect("a name")));
        if kind == PackKind::Data {
            let (segments, _) = repository.send_segments(vec![(entry, ONE)]).await;
            orphans.insert(layout::hashed(Class::Segment, &segments[0].hash));
        }
    }
    let junk = Bytes::from(noise(2, 300));
    let snapshot = layout::hashed(Class::Snapshot, &object_hash(&junk));
    put(stage, &snapshot, &junk).await;
    orphans.insert(snapshot);
    let list = layout::hashed(Class::List, &object_hash(&junk));
    put(stage, &list, &junk).await;
    orphans.insert(list);
    // What is not known to be useless stays: keys, and what is not ours.
    let mut kept = vec![layout::hashed(Class::Key, &object_hash(&junk))];
    kept.extend(["data/zz/note", "elsewhere/object"].map(|name| ObjectName::new(name).expect("a name")));
    for name in &kept {
        put(stage, name, &junk).await;
    }
    drop(repository);
    let merciful = PruneSettings { mercy: Duration::from_secs(86_400), ..settings() };
    let one = pruned(stage, &merciful).await.remove(0);
    assert_eq!((one.orphans.objects, one.orphans_young, one.condemned), (0, orphans.len() as u64, 0), "{one:?}");
    tokio::time::advance(Duration::from_secs(2 * 86_400)).await;
    let one = pruned(stage, &merciful).await.remove(0);
    assert_eq!((one.orphans.objects, one.condemned, one.deleted.objects), (orphans.len() as u64, orphans.len() as u64, 0));
    let one = pruned(stage, &settings()).await.remove(0);
    assert_eq!((one.condemned, one.deleted.objects), (0, orphans.len() as u64), "condemned once, and then deleted");
    for name in &orphans {
        assert!(stage.stores[0].stat(name).await.expect("memory answers").is_none(), "{name}");
    }
    for name in &kept {
        assert!(stage.stores[0].stat(name).await.expect("memory answers").is_some(), "{name}");
        stage.tamper(0, name, &|_| None).await;
    }
    history.sound().await;
}

/// Chunks of 20 KB, alone in packs that are sent to the first replica.
async fn chunks(repository: &Repository, seeds: std::ops::Range<u64>) -> Vec<(ChunkId, Bytes)> {
    seeds.map(|seed| Bytes::from(noise(seed, 20_000))).map(|plain| (id_of(repository, &plain), plain)).collect()
}

/// A snapshot of files that are one chunk each; its node goes into a pack of its own.
async fn snapshot_of(
    repository: &Repository,
    packs: Vec<holdfast::format::index::PackEntry>,
    wanted: &[(ChunkId, Bytes)],
) -> Hash {
    let items: Vec<_> =
        wanted.iter().map(|(id, plain)| (id.0.map(|b| b % 26 + 97).to_vec(), file(&[(*id, plain.len() as u64)]))).collect();
    let mut items: Vec<(&[u8], _)> = items.iter().map(|(key, file)| (&key[..], file.clone())).collect();
    items.sort_by(|a, b| a.0.cmp(b.0));
    let node = leaf(&items);
    let mut all = packs;
    all.push(send(repository, PackKind::Meta, &[(id_of(repository, &node), node.clone())], ONE).await);
    let root = named(repository, &node, 0, items.len() as u64, wanted.iter().map(|(_, plain)| plain.len() as u64).sum());
    commit(repository, all, root, ONE, 1_700_000_000).await
}

/// The better place of a chunk is gone from the store: the worse one is not given up for it.
#[tokio::test(start_paused = true)]
async fn a_cover_that_is_not_there_covers_nothing() {
    for short in [false, true] {
        let stage = Stage::of(81, &["a"]);
        stage.init().await;
        let repository = stage.open().await;
        let all = chunks(&repository, 100..104).await;
        // The first chunk lies beside three that nobody needs, and in a pack of its own.
        let wasteful = send(&repository, PackKind::Data, &all, ONE).await;
        let better = send(&repository, PackKind::Data, &all[..1], ONE).await;
        let (worse, name) = (wasteful.name().expect("a name"), better.name().expect("a name"));
        snapshot_of(&repository, vec![wasteful, better], &all[..1]).await;
        drop(repository);
        let gone = layout::hashed(Class::DataPack, &name);
        stage.tamper(0, &gone, &|bytes| short.then(|| bytes[..bytes.len() - 1].to_vec())).await;
        let one = pruned(&stage, &settings()).await.remove(0);
        let repository = stage.open().await;
        {
            let log = repository.log(0).await.expect("readable");
            assert!(log.state.is_condemned(ObjectClass::Data, &name), "nothing live needs it: {one:?}");
            assert!(!log.state.distrusted.contains(&name), "what is void is of no concern: {one:?}");
            assert!(log.state.is_condemned(ObjectClass::Data, &worse) == (one.repacked.objects > 0), "{one:?}");
        }
        assert_eq!(repository.chunk(&all[0].0).await.expect("it has a place"), all[0].1);
        rig::verify_all(&repository).await.expect("all is well");
    }
}

/// Every way in which a snapshot names a chunk; and a file whose bytes are those of a node.
#[tokio::test(start_paused = true)]
async fn whatever_names_a_chunk_keeps_it() {
    let stage = Stage::of(82, &["a"]);
    stage.init().await;
    let repository = stage.open().await;
    let all = chunks(&repository, 200..206).await;
    let piece = |at: usize| Piece { id: Bytes::copy_from_slice(&all[at].0.0), length: 20_000 };
    // A content list of two leaves below one inner node.
    let list = |at: usize| -> Bytes { [number(1, 2), span(3, &span(3, &piece(at).encode_to_vec()))].concat().into() };
    let leaves = [list(2), list(3)];
    let children: Vec<Child> = leaves.iter().map(|node| named(&repository, node, 0, 1, 20_000)).collect();
    let inner: Vec<u8> = children.iter().flat_map(|child| span(3, &span(3, &child.encode_to_vec()))).collect();
    let inner: Bytes = [number(1, 2), number(2, 1), inner].concat().into();
    let listed = Content { pieces: Vec::new(), list: Some(named(&repository, &inner, 1, 2, 40_000)) };
    let value = Xattr { name: Bytes::from_static(b"user.long"), value: Bytes::new(), chunk: Some(piece(1)) };
    let one_leaf = Content { pieces: Vec::new(), list: Some(named(&repository, &list(4), 0, 1, 20_000)) };
    let twin = list(4);
    let items: Vec<(&[u8], _)> = vec![
        // Its content is the very bytes of the node that the last one needs.
        (b"a-twin", file(&[(id_of(&repository, &twin), twin.len() as u64)])),
        (b"b-inline", file(&[(all[0].0, 20_000)])),
        (b"c-attribute", holdfast::format::entry::Entry { xattrs: vec![value], ..entry(EntryKind::Directory) }),
        (b"d-listed", holdfast::format::entry::Entry { size: 40_000, content: Some(listed), ..entry(EntryKind::File) }),
        (b"e-listed", holdfast::format::entry::Entry { size: 20_000, content: Some(one_leaf), ..entry(EntryKind::File) }),
    ];
    let node = leaf(&items);
    let root = named(&repository, &node, 0, items.len() as u64, 80_000 + twin.len() as u64);
    let nodes = [&node, &inner, &leaves[0], &leaves[1], &twin].map(|node| (id_of(&repository, node), node.clone()));
    let mut packs = vec![send(&repository, PackKind::Meta, &nodes, ONE).await];
    for chunk in &all {
        packs.push(send(&repository, PackKind::Data, std::slice::from_ref(chunk), ONE).await);
    }
    let index = repository.index().await.expect("an index");
    commit(&repository, packs, root, ONE, 1_700_000_000).await;
    drop((repository, index));
    let one = pruned(&stage, &settings()).await.remove(0);
    assert_eq!((one.dropped.objects, one.repacked.objects), (1, 0), "the sixth chunk alone is named by nothing: {one:?}");
    let repository = stage.open_alone(0).await;
    for (id, plain) in all[..5].iter().chain(&nodes) {
        assert_eq!(repository.chunk(id).await.expect("it is needed"), *plain);
    }
    assert!(repository.chunk(&all[5].0).await.is_err());
    // The proof knows each of these ways, too.
    let packs = repository.index().await.expect("an index").read().expect("no panic").packs().len() as u32;
    for pack in 0..packs {
        assert_eq!(refutes(&repository, BTreeSet::from([pack])).await, published(&repository, pack).await, "pack {pack}");
    }
}

async fn published(repository: &Repository, pack: u32) -> bool {
    repository.index().await.expect("an index").read().expect("no panic").pack(pack).published.has(0)
}

async fn refutes(repository: &Repository, going: BTreeSet<u32>) -> bool {
    let stop = Stop::default();
    let (footing, _) = repository.stand(0).await.expect("it stands");
    let mut proof = Proof::new(repository, 0, going, &stop).await.expect("an index");
    proof.extend(&footing.snapshots).await.expect("all can be read").is_err()
}

/// Wrong plans over a real history: every pack that holds something live, alone and with others; and the right one.
#[tokio::test(start_paused = true)]
async fn the_proof_refuses_every_wrong_plan() {
    let mut history = History::of(83, &["a"], 5).await;
    history.forget(|i| i < 2).await;
    let repository = history.stage.open().await;
    let (footing, _) = repository.stand(0).await.expect("it stands");
    let live = rig_live(&repository, &footing).await;
    let packs: Vec<(u32, bool)> = {
        let index = repository.index().await.expect("an index");
        let chunks = index.read().expect("no panic");
        let mut used = vec![false; chunks.packs().len()];
        for id in &live {
            let places = chunks.places(id);
            assert_eq!(places.len(), 1, "a backup sends nothing twice");
            used[places[0].pack as usize] = true;
        }
        // Of nodes nothing is known here.
        let is_data = |number: &usize| chunks.packs()[*number].kind == PackKind::Data;
        let all = used.into_iter().enumerate().filter(|(number, _)| is_data(number));
        all.map(|(number, used)| (number as u32, used)).collect()
    };
    let useless: BTreeSet<u32> = packs.iter().filter(|(_, used)| !used).map(|(number, _)| *number).collect();
    assert!(!useless.is_empty() && useless.len() < packs.len());
    assert!(!refutes(&repository, useless.clone()).await, "what nobody needs may go");
    assert!(!refutes(&repository, BTreeSet::new()).await);
    for (number, _) in packs.iter().filter(|(_, used)| *used) {
        assert!(refutes(&repository, BTreeSet::from([*number])).await, "pack {number} is needed");
        let mut more = useless.clone();
        more.insert(*number);
        assert!(refutes(&repository, more).await, "pack {number} is needed");
    }
    // Taken off the list again, the rest is as good as before.
    let stop = Stop::default();
    let wrong = *packs.iter().find(|(_, used)| *used).map(|(number, _)| number).expect("one is used");
    let mut proof = Proof::new(&repository, 0, BTreeSet::from([wrong]), &stop).await.expect("an index");
    proof.spare(&BTreeSet::from([wrong]));
    assert!(proof.going().is_empty());
    assert!(proof.extend(&footing.snapshots).await.expect("all can be read").is_ok());
    assert!(proof.looked_up as usize >= live.len());
}

/// All chunks of all snapshots, by the way a restore reads them.
async fn rig_live(repository: &Repository, footing: &holdfast::repository::footing::Footing) -> BTreeSet<ChunkId> {
    let mut live = BTreeSet::new();
    for id in footing.snapshots.keys() {
        for entry in crate::support::stage::entries(repository, *id).await.expect("all can be read").values() {
            let pieces = crate::support::stage::pieces(repository, entry).await.expect("all can be read");
            live.extend(pieces.iter().filter_map(Piece::chunk_id));
        }
    }
    live
}

/// Many small segments become few, and every place is still known.
#[tokio::test(start_paused = true)]
async fn the_index_is_made_small() {
    let stage = Stage::of(84, &["a"]);
    stage.init().await;
    let source = tree(84, 2, 9_000);
    let mut all = Vec::new();
    for day in 0..20 {
        grow(source.path(), 84, 2 + day..3 + day, 9_000);
        let repository = stage.open().await;
        let report = run(&repository, &backing_up(source.path())).await.expect("a backup");
        all.push((report.snapshot.expect("committed"), crate::support::stage::files_below(source.path())));
    }
    let before = stage.names_at(0, "index/").await;
    assert!(before.len() > 16, "{}", before.len());
    let chunks = rig::published(&stage.open().await, 0).await.chunks();
    let history = History { stage, source, all };
    let one = pruned(&history.stage, &settings()).await.remove(0);
    assert_eq!(one.segments_replaced, before.len() as u64, "{one:?}");
    let repository = history.stage.open().await;
    let after = rig::published(&repository, 0).await;
    assert_eq!((after.segments.len(), after.chunks()), (1, chunks));
    assert_eq!(history.stage.names_at(0, "index/").await.len(), 1);
    drop(repository);
    history.sound().await;
    let again = pruned(&history.stage, &settings()).await.remove(0);
    assert_eq!((again.segments_replaced, again.condemned), (0, 0));
}

/// More names than a record carries go into lists, and are read back from there.
#[tokio::test(start_paused = true)]
async fn long_lists_are_objects_of_their_own() {
    let history = History::of(85, &["a"], 1).await;
    let stage = &history.stage;
    for seed in 0..4_200_u64 {
        let junk = Bytes::copy_from_slice(&seed.to_le_bytes());
        put(stage, &layout::hashed(Class::Snapshot, &object_hash(&junk)), &junk).await;
    }
    let lists = stage.names_at(0, "lists/").await.len();
    let one = pruned(stage, &settings()).await.remove(0);
    assert_eq!((one.condemned, one.deleted.objects), (4_200, 4_200), "{one:?}");
    assert_eq!(stage.names_at(0, "lists/").await.len(), lists + 1);
    assert_eq!(crate::support::pruning::condemning(&stage.open().await, 0).await.len(), 4_200);
    let again = prune(&stage.open_at(stage.members(), ReplicaSettings::default()).await.expect("it opens"), &settings()).await;
    assert_eq!(again.expect("a report").replicas[0].condemned, 0);
    history.sound().await;
}
