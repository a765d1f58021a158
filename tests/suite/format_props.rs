//! What holds for every structure of the format, whatever its content: it comes back as it went in; trees depend on
//! their items alone, and a small change rewrites few nodes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast::chunk::id::{ChunkId, IdKey};
use holdfast::format::descent::{Descent, Step};
use holdfast::format::entry::{Entry, EntryKind, Piece};
use holdfast::format::index::Segment;
use holdfast::format::list::HashList;
use holdfast::format::pack::{self, PackBuilder, PackKind};
use holdfast::format::tree::{Child, Item, LEVEL_MAX, Node, NodeChunk, TreeBuilder, TreeKind, WEIGHT_MAX};
use holdfast::format::{catalog, entry};
use holdfast::seal::key::Secret;
use holdfast::seal::{Compression, FRAME_OVERHEAD, FrameShape};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use prost::Message;

type Nodes = BTreeMap<Vec<u8>, Bytes>;
type Items = Vec<(Vec<u8>, Vec<u8>, u64)>;

fn ids() -> IdKey {
    IdKey::new([7; 32])
}

fn build(kind: TreeKind, items: &Items) -> (Child, Nodes) {
    let mut builder = TreeBuilder::new(kind, ids());
    let (mut nodes, mut out) = (Nodes::new(), Vec::new());
    for (key, value, bytes) in items {
        builder.push(key, value, *bytes, &mut out).expect("in order");
    }
    let root = builder.finish(&mut out).expect("finished");
    nodes.extend(out.drain(..).map(|NodeChunk { id, plaintext }| (id.0.to_vec(), plaintext)));
    (root, nodes)
}

/// Reads a tree to its end; how many nodes that took.
fn read(kind: TreeKind, root: &Child, nodes: &Nodes, steer: impl FnOnce(&mut Descent)) -> (Vec<Item>, usize) {
    let mut descent = Descent::new(kind, root.clone(), 1 << 20).expect("a sound root");
    steer(&mut descent);
    let (mut items, mut fed) = (Vec::new(), 0);
    loop {
        match descent.step().expect("a sound tree") {
            Step::Want(child) => {
                assert_eq!(descent.peek_wanted(3).first(), Some(&child), "what is wanted is what was announced");
                descent.feed(nodes[&child.id[..]].clone()).expect("a sound node");
                fed += 1;
            }
            Step::Item(item) => items.push(item),
            Step::End => return (items, fed),
        }
    }
}

fn noise(seed: u64) -> [u8; 32] {
    *blake3::hash(&seed.to_le_bytes()).as_bytes()
}

/// A catalog like a real one: directories of files, values of a hundred bytes.
fn catalog_items(count: u64) -> Items {
    let directory = |n: u64| format!("directory-{:04}/of/a/few/levels", n / 40).replace('/', "\0");
    (0..count)
        .map(|n| {
            let key = format!("{}\0file-{n:06}.txt", directory(n)).into_bytes();
            let value = [noise(n).as_slice(), &noise(n + 1), &noise(n + 2)].concat();
            (key, value, n % 9000)
        })
        .collect()
}

fn content_items(count: u64) -> Items {
    (0..count)
        .map(|n| {
            let hole = n % 97 == 5;
            let id = if hole { Bytes::new() } else { Bytes::copy_from_slice(&noise(n)) };
            let piece = Piece { id, length: 1 + n % 1_000_000 };
            (Vec::new(), piece.encode_to_vec(), piece.length)
        })
        .collect()
}

fn as_items(items: &Items) -> Vec<Item> {
    items.iter().map(|(key, value, _)| Item { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }).collect()
}

#[test]
fn trees_come_back_in_order_at_every_size() {
    for kind in [TreeKind::Catalog, TreeKind::Content] {
        for count in [0, 1, 2, 100, 1000, 60_000] {
            let items = if kind == TreeKind::Catalog { catalog_items(count) } else { content_items(count) };
            let (root, nodes) = build(kind, &items);
            assert_eq!(root.entries, count);
            assert_eq!(root.bytes, items.iter().map(|item| item.2).sum::<u64>());
            let (found, fed) = read(kind, &root, &nodes, |_| {});
            assert!(found == as_items(&items), "{kind:?} {count}");
            assert_eq!(fed, nodes.len(), "every node is of use");
            assert_eq!(root.level == 0, nodes.len() == 1);
        }
    }
}

#[test]
fn nodes_keep_their_sizes() {
    let (root, nodes) = build(TreeKind::Catalog, &catalog_items(200_000));
    let sizes: Vec<usize> = nodes.values().map(Bytes::len).collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((48 << 10..=96 << 10).contains(&mean), "mean {mean} of {}", sizes.len());
    assert!(sizes.iter().all(|size| *size <= WEIGHT_MAX + (1 << 10)));
    assert!(root.level >= 1 && root.level <= 3, "{}", root.level);
}

#[test]
fn one_change_rewrites_a_path() {
    for (kind, items) in [(TreeKind::Catalog, catalog_items(100_000)), (TreeKind::Content, content_items(300_000))] {
        let (root, before) = build(kind, &items);
        let depth = root.level as usize + 1;
        let (mut total, mut worst, rounds) = (0, 0, 30);
        for round in 0..rounds {
            let at = (u64::from_le_bytes(*noise(round).first_chunk().expect("8 bytes")) % items.len() as u64) as usize;
            let mut changed = items.clone();
            match (round % 3, kind) {
                (0, TreeKind::Catalog) => changed[at].1[0] ^= 1,
                (0, TreeKind::Content) => changed[at].1[2..].iter_mut().take(4).for_each(|byte| *byte ^= 1),
                (1, _) => drop(changed.remove(at)),
                (_, TreeKind::Catalog) => {
                    let key = [&items[at].0[..], b"-new"].concat();
                    changed.insert(at + 1, (key, noise(round).to_vec(), 1));
                }
                (_, TreeKind::Content) => {
                    let piece = Piece { id: Bytes::copy_from_slice(&noise(1 << 40 | round)), length: 4 };
                    changed.insert(at, (Vec::new(), piece.encode_to_vec(), 4));
                }
            }
            let (_, after) = build(kind, &changed);
            let new = after.keys().filter(|id| !before.contains_key(*id)).count();
            if kind == TreeKind::Catalog && round % 3 == 0 {
                assert_eq!(new, depth, "a changed value moves no boundary");
            }
            total += new;
            worst = worst.max(new);
        }
        assert!(total <= rounds as usize * depth * 2, "{kind:?}: {total} nodes in {rounds} rounds at depth {depth}");
        assert!(worst <= depth * 6, "{kind:?}: {worst} nodes at depth {depth}");
    }
}

#[test]
fn a_clone_is_a_tree_of_its_own() {
    let items = catalog_items(30_000);
    let mut builder = TreeBuilder::new(TreeKind::Catalog, ids());
    let mut out = Vec::new();
    for (key, value, bytes) in &items[..20_000] {
        builder.push(key, value, *bytes, &mut out).expect("in order");
    }
    let mut tail = Vec::new();
    let partial = builder.clone().finish(&mut tail).expect("finished");
    let (expected, _) = build(TreeKind::Catalog, &items[..20_000].to_vec());
    assert_eq!(partial, expected);
    for (key, value, bytes) in &items[20_000..] {
        builder.push(key, value, *bytes, &mut out).expect("in order");
    }
    assert_eq!(builder.finish(&mut out).expect("finished"), build(TreeKind::Catalog, &items).0);
}

#[test]
fn what_cannot_be_read_back_is_not_built() {
    let builder = || TreeBuilder::new(TreeKind::Catalog, ids());
    let mut out = Vec::new();
    let mut tree = builder();
    tree.push(b"", b"root", 0, &mut out).expect("the root has an empty key");
    tree.push(b"a", b"", 0, &mut out).expect("empty values are fine");
    assert!(tree.clone().push(b"a", b"", 0, &mut out).is_err(), "a key twice");
    assert!(tree.clone().push(b"", b"", 0, &mut out).is_err(), "a key before");
    assert!(builder().push(&[b'k'; 65_536], b"", 0, &mut out).is_err(), "a key too long");
    assert!(builder().push(b"a", &vec![0; (512 << 10) + 1], 0, &mut out).is_err(), "a value too long");
    tree.push(b"b", b"", u64::MAX, &mut out).expect("the most there can be");
    assert!(tree.push(b"c", b"", 1, &mut out).is_err(), "an overflow");
    assert!(TreeBuilder::new(TreeKind::Content, ids()).push(b"a", b"", 1, &mut out).is_err(), "a content list with keys");
}

#[test]
fn long_keys_and_values_stay_within_a_node() {
    let long: Items = (0..200_u32).map(|n| ([&[b'k'; 65_000][..], n.to_string().as_bytes()].concat(), vec![1; 40], 0)).collect();
    let mut long = long;
    long.sort();
    let heavy: Items = (0..20_u32).map(|n| ([&[n as u8 + 1][..], &vec![b'x'; 65_000]].concat(), vec![2; 512 << 10], 0)).collect();
    for items in [long, heavy] {
        let (root, nodes) = build(TreeKind::Catalog, &items);
        assert!(nodes.values().all(|node| node.len() <= 1 << 20));
        assert!(root.level < LEVEL_MAX);
        assert!(read(TreeKind::Catalog, &root, &nodes, |_| {}).0 == as_items(&items));
    }
}

#[test]
fn seeking_reads_one_path() {
    let items = catalog_items(100_000);
    let (root, nodes) = build(TreeKind::Catalog, &items);
    for at in [0, 1, 777, 50_000, 99_999] {
        for (key, from) in [(items[at].0.clone(), at), ([&items[at].0[..], b"\0"].concat(), at + 1)] {
            let mut descent = Descent::new(TreeKind::Catalog, root.clone(), 1 << 20).expect("a sound root");
            descent.seek(&key);
            let mut fed = 0;
            let found = loop {
                match descent.step().expect("a sound tree") {
                    Step::Want(child) => descent.feed(nodes[&child.id[..]].clone()).map(|()| fed += 1).expect("a sound node"),
                    Step::Item(item) => break Some(item.key),
                    Step::End => break None,
                }
            };
            assert_eq!(found.as_deref(), items.get(from).map(|item| &item.0[..]));
            assert!(fed <= root.level + 2, "{fed} nodes for one seek");
        }
    }
    let (found, _) = read(TreeKind::Catalog, &root, &nodes, |descent| descent.skip_prefix(b""));
    assert!(found.is_empty());
}

#[test]
fn skipping_a_directory_costs_no_reading() {
    let items = catalog_items(100_000);
    let (root, nodes) = build(TreeKind::Catalog, &items);
    let mut descent = Descent::new(TreeKind::Catalog, root, 1 << 20).expect("a sound root");
    let (mut directories, mut fed) = (Vec::new(), 0);
    loop {
        match descent.step().expect("a sound tree") {
            Step::Want(child) => {
                descent.feed(nodes[&child.id[..]].clone()).expect("a sound node");
                fed += 1;
            }
            Step::Item(item) => {
                let top = catalog::components(&item.key).next().expect("one component").to_vec();
                descent.skip_prefix(&catalog::contents_prefix(&top));
                directories.push(top);
            }
            Step::End => break,
        }
    }
    let all: BTreeSet<Vec<u8>> = items.iter().filter_map(|item| Some(catalog::components(&item.0).next()?.to_vec())).collect();
    assert_eq!(directories, all.into_iter().collect::<Vec<_>>());
    assert!(fed <= nodes.len());

    // All of the first half, in one step.
    let (_, whole) = build(TreeKind::Catalog, &items);
    let (found, fed) =
        read(TreeKind::Catalog, &build(TreeKind::Catalog, &items).0, &whole, |descent| descent.skip_prefix(b"directory-0"));
    assert_eq!(found.len(), items.iter().filter(|item| !item.0.starts_with(b"directory-0")).count());
    assert!(fed < whole.len() * 7 / 10, "{fed} of {}", whole.len());
}

#[test]
fn equal_subtrees_can_be_passed_over() {
    let items = catalog_items(50_000);
    let (root, nodes) = build(TreeKind::Catalog, &items);
    let mut descent = Descent::new(TreeKind::Catalog, root.clone(), 1).expect("a sound root");
    let Ok(Step::Want(first)) = descent.step() else { panic!("the root comes first") };
    descent.feed(nodes[&first.id[..]].clone()).expect("a sound node");
    let mut passed = 0;
    while let Step::Want(child) = descent.step().expect("a sound tree") {
        assert_eq!(child.level + 1, root.level);
        passed += child.entries;
        descent.skip_wanted().expect("wanted");
    }
    assert_eq!(passed, 50_000);
}

fn keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let component = proptest::collection::vec(1..=255_u8, 1..12);
    let key = proptest::collection::vec(component, 1..6).prop_map(|components| components.join(&0));
    proptest::collection::btree_set(key, 0..400).prop_map(|keys| keys.into_iter().collect())
}

proptest! {
    #[test]
    fn any_tree_comes_back(keys in keys(), weight in 0..3000_usize, seed in any::<u64>()) {
        let items: Items = keys.iter().zip(seed..).map(|(key, n)| (key.clone(), noise(n)[..].repeat(weight / 32 + 1), n % 5)).collect();
        let (root, nodes) = build(TreeKind::Catalog, &items);
        let (found, _) = read(TreeKind::Catalog, &root, &nodes, |_| {});
        prop_assert!(found == as_items(&items));
        if let Some(middle) = keys.get(keys.len() / 2) {
            let (found, _) = read(TreeKind::Catalog, &root, &nodes, |descent| descent.seek(middle));
            prop_assert!(found == as_items(&items)[keys.len() / 2..]);
            let prefix = catalog::contents_prefix(catalog::components(middle).next().unwrap_or_default());
            let (found, _) = read(TreeKind::Catalog, &root, &nodes, |descent| descent.skip_prefix(&prefix));
            let rest: Vec<Item> = as_items(&items).into_iter().filter(|item| item.key[..] >= prefix[..] && !item.key.starts_with(&prefix)).collect();
            prop_assert!(found == rest);
        }
    }

    #[test]
    fn any_pack_comes_back(sizes in proptest::collection::vec(proptest::collection::vec(1..5000_u32, 1..20), 0..20), random in any::<[u8; 16]>(), meta in any::<bool>()) {
        let (key, repository) = (Secret::new([1; 32]), [2; 32]);
        let kind = if meta { PackKind::Meta } else { PackKind::Data };
        let mut builder = PackBuilder::new(kind, random, 1 << 16);
        let mut expected = Vec::new();
        for (at, lengths) in sizes.iter().enumerate() {
            let chunks: Vec<(ChunkId, u32)> = lengths.iter().zip(at as u64 * 100..).map(|(length, n)| (ChunkId(noise(n)), *length)).collect();
            let plain_len: u32 = lengths.iter().sum();
            let zstd = at % 2 == 0 && plain_len > 1;
            let stored = if zstd { plain_len as usize / 2 + FRAME_OVERHEAD } else { plain_len as usize + FRAME_OVERHEAD };
            let compression = if zstd { Compression::Zstd } else { Compression::Stored };
            let shape = FrameShape { generation: 3, plain_len, compression };
            builder.append(&vec![at as u8; stored], shape, &chunks).expect("a sound frame");
            expected.push((shape, chunks));
        }
        let finished = builder.finish(&key, &repository, [9; 32]);
        let read = pack::decode_pack(&finished.bytes, &key, &repository).expect("a sound pack");
        prop_assert_eq!(&read, &finished.entry);
        prop_assert_eq!(read.frames.len(), expected.len());
        for ((frame, (shape, chunks)), at) in read.frames.iter().zip(&expected).zip(0_u8..) {
            prop_assert_eq!(frame.shape().expect("known"), *shape);
            prop_assert_eq!(&frame.chunks().map(|span| (span.id, span.length)).collect::<Vec<_>>(), chunks);
            let range = frame.range();
            prop_assert!(finished.bytes[range.start as usize..range.end as usize].iter().all(|byte| *byte == at));
        }
        let segment = Segment { packs: vec![read] };
        let stored = segment.encode(&key, &repository, [8; 32]).expect("a sound segment");
        prop_assert_eq!(Segment::decode(&stored, &key, &repository).expect("a sound segment"), segment);
    }

    #[test]
    fn any_list_comes_back(hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..50)) {
        let (key, repository) = (Secret::new([1; 32]), [2; 32]);
        let list = HashList::new([&hashes[..], &hashes[..]].concat());
        let stored = list.encode(&key, &repository, [3; 32]).expect("short enough");
        let read = HashList::decode(&stored, &key, &repository).expect("a sound list");
        prop_assert!(hashes.iter().all(|hash| read.contains(hash)));
        prop_assert_eq!(read.hashes().iter().collect::<BTreeSet<_>>(), hashes.iter().collect::<BTreeSet<_>>());
    }

    #[test]
    fn keys_are_paths(components in proptest::collection::vec("[^/\u{0}]{1,8}", 0..6)) {
        let components: Vec<String> = components.into_iter().filter(|component| component != "." && component != "..").collect();
        let key = components.iter().fold(Vec::new(), |key, component| catalog::join(&key, component.as_bytes()));
        catalog::verify_key(&key).expect("a sound key");
        prop_assert_eq!(catalog::components(&key).collect::<Vec<_>>(), components.iter().map(String::as_bytes).collect::<Vec<_>>());
        prop_assert_eq!(catalog::from_path(std::path::Path::new(&components.join("/"))).expect("a relative path"), &key[..]);
        prop_assert_eq!(catalog::name(&key), components.last().map_or(&b""[..], String::as_bytes));
        if let Some(parent) = catalog::parent(&key) {
            prop_assert_eq!(catalog::join(parent, catalog::name(&key)), &key[..]);
            prop_assert!(key.starts_with(&catalog::contents_prefix(parent)));
        }
        prop_assert!(!catalog::display(&key).chars().any(char::is_control));
    }
}

#[test]
fn carried_entries_keep_unknown_fields() {
    let entry = Entry { kind: EntryKind::File as i32, mode: 0o644, mtime: -5, ..Entry::default() };
    let value = Bytes::from([entry.encode_to_vec(), vec![0xfa, 0x07, 3, b'n', b'e', b'w']].concat());
    assert_eq!(entry::decode(value.clone(), b"a").expect("an unknown field is passed over"), entry);
    let (root, nodes) = build(TreeKind::Catalog, &vec![(b"a".to_vec(), value.to_vec(), 0)]);
    assert_eq!(read(TreeKind::Catalog, &root, &nodes, |_| {}).0[0].value, value);
}

#[test]
fn a_decoded_leaf_shares_the_node_bytes() {
    let (root, nodes) = build(TreeKind::Catalog, &vec![(b"a".to_vec(), vec![5; 100], 0), (b"b".to_vec(), vec![6; 100], 0)]);
    let plaintext = &nodes[&root.id[..]];
    let node = Node::decode(plaintext.clone(), TreeKind::Catalog, Some(&root)).expect("a sound node");
    let inside = |bytes: &Bytes| plaintext.as_ptr_range().contains(&bytes.as_ptr());
    assert!(node.items.iter().all(|item| inside(&item.key) && inside(&item.value)));
}
