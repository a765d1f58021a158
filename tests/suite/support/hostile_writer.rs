//! A writer that holds the keys and means no good: snapshots made of whatever bytes the test says.

use bytes::Bytes;
use holdfast::chunk::id::ChunkId;
use holdfast::format::entry::{Content, Entry, EntryKind, Piece};
use holdfast::format::index::PackEntry;
use holdfast::format::pack::{PackBuilder, PackKind};
use holdfast::format::snapshot::{Root, Snapshot};
use holdfast::format::tree::Child;
use holdfast::format::{Hash, object_hash};
use holdfast::replica::Mask;
use holdfast::repository::Repository;
use holdfast::repository::layout::{self, Class};
use holdfast::repository::writer::Reliance;
use holdfast::seal::Kind;
use prost::Message;

/// One field of a message: a number.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(field << 3, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// One field of a message: bytes.
pub fn span(field: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(field << 3 | 2, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// A leaf of a catalog with these items in this order, whatever the format says about it.
pub fn leaf(items: &[(&[u8], Entry)]) -> Bytes {
    let mut out = number(1, 1);
    for (key, entry) in items {
        out.extend(span(3, &[span(2, key), span(3, &entry.encode_to_vec())].concat()));
    }
    out.into()
}

/// An entry of a kind, as a careful writer makes it.
pub fn entry(kind: EntryKind) -> Entry {
    let mode = if kind == EntryKind::Directory { 0o755 } else { 0o644 };
    Entry { kind: kind as i32, mode, mtime: 1_700_000_000, ..Entry::default() }
}

/// A file whose content is said to be these chunks.
pub fn file(pieces: &[(ChunkId, u64)]) -> Entry {
    let piece = |(id, length): &(ChunkId, u64)| Piece { id: Bytes::copy_from_slice(&id.0), length: *length };
    let size = pieces.iter().fold(0_u64, |sum, (_, length)| sum.wrapping_add(*length));
    let content = Content { pieces: pieces.iter().map(piece).collect(), list: None };
    Entry { size, content: Some(content), ..entry(EntryKind::File) }
}

/// How a tree's only node is named.
pub fn named(repository: &Repository, node: &Bytes, level: u32, entries: u64, bytes: u64) -> Child {
    let id = repository.keyring.id_key.id(node);
    Child { id: Bytes::copy_from_slice(&id.0), length: node.len() as u32, level, entries, bytes }
}

/// Sends a pack with each chunk in a frame of its own to the replicas `at`. A chunk is stored under the id that is given, be
/// it its own or not.
pub async fn send(repository: &Repository, kind: PackKind, chunks: &[(ChunkId, Bytes)], at: Mask) -> PackEntry {
    let env = &repository.env;
    let (seal, class) = match kind {
        PackKind::Meta => (Kind::Meta, Class::MetaPack),
        _ => (Kind::Data, Class::DataPack),
    };
    let mut builder = PackBuilder::new(kind, env.random(), 1 << 20);
    for (id, plain) in chunks {
        let sealed = repository.keyring.sealer.seal(seal, plain, &id.0, env.random()).expect("sealed");
        builder.append(&sealed.bytes, sealed.shape, &[(*id, plain.len() as u32)]).expect("it fits");
    }
    let finished = builder.finish(&repository.keyring.keys.index, &repository.id(), env.random());
    for index in at.indices() {
        let store = &repository.set.replicas[index].store;
        store.put(&layout::hashed(class, &finished.hash), finished.bytes.clone().into()).await.expect("stored");
    }
    finished.entry
}

/// Commits a snapshot of one root at the replicas `at`, with packs that were sent there.
pub async fn commit(repository: &Repository, packs: Vec<PackEntry>, root: Child, at: Mask, time: i64) -> Hash {
    let (segments, failed) = repository.send_segments(packs.into_iter().map(|pack| (pack, at)).collect()).await;
    assert!(failed.is_empty(), "{failed:?}");
    let id: Hash = repository.env.random();
    let snapshot = Snapshot {
        id: Bytes::copy_from_slice(&id),
        roots: vec![Root { name: Bytes::from_static(b"root"), path: Bytes::from_static(b"/root"), catalog: Some(root) }],
        time_seconds: time,
        host: "elsewhere".into(),
        run_id: Bytes::copy_from_slice(&repository.run_id),
        ..Snapshot::default()
    };
    let stored = snapshot.encode(&repository.keyring.keys.log, &repository.id(), repository.env.random()).expect("written");
    let object = object_hash(&stored);
    for index in at.indices() {
        let store = &repository.set.replicas[index].store;
        store.put(&layout::hashed(Class::Snapshot, &object), stored.clone()).await.expect("stored");
        repository.commit(index, id, object, false, &[], &segments, &Reliance::default()).await.expect("committed");
    }
    id
}

/// The id that a chunk should have.
pub fn id_of(repository: &Repository, plain: &[u8]) -> ChunkId {
    repository.keyring.id_key.id(plain)
}
