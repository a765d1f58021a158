//! One sample of every stored structure, with two doors each: from its fields to stored bytes, written here a second time
//! after FORMAT.md and not with the code under test, and from stored bytes through the reader.

use bytes::Bytes;
use holdfast::chunk::id::{ChunkId, IdKey};
use holdfast::chunk::split::ChunkerSpec;
use holdfast::format::checkpoint::{Checkpoint, LiveSnapshot, NewestNote, Run, SetKind, SetRuns};
use holdfast::format::descriptor::{Descriptor, Feature};
use holdfast::format::entry::{self, Content, Entry, EntryKind, Piece, Xattr};
use holdfast::format::index::{PackEntry, Segment};
use holdfast::format::key_slot::{self, Generation, KeySlot, SlotInfo, Unlock};
use holdfast::format::list::HashList;
use holdfast::format::pack::{self, Frame, PackKind};
use holdfast::format::record::{
    self, Action, Body, ClassList, Close, Commit, Compact, Condemn, Configure, Distrust, Expected, Forget, Genesis, Head, Hold,
    Note, ObjectClass, ObjectRef, Publish, Release, Revoke, SlotHeader,
};
use holdfast::format::snapshot::{Root, Snapshot, SourceProblem, Statistics};
use holdfast::format::tree::{Child, Node, TreeBuilder, TreeKind};
use holdfast::format::{FormatError, Hash, object_hash};
use holdfast::seal::key::{KdfParams, RepositoryKeys, Secret};
use holdfast::seal::{Kind, seal_structure};
use prost::Message;

/// From fields to stored bytes.
type Wrap = Box<dyn Fn(&[u8]) -> Vec<u8>>;
/// From stored bytes to fields.
type Read = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, FormatError>>;

/// A structure, and how to make and read its stored bytes.
pub struct Sample {
    /// Its name in FORMAT.md.
    pub name: &'static str,
    /// Its fields: what stands in the clear of it, or is sealed.
    pub plain: Vec<u8>,
    /// Fields to stored bytes.
    pub wrap: Wrap,
    /// Stored bytes through the reader; gives the fields as the reader understood them.
    pub read: Read,
    /// The sample's bytes as the code under test writes them.
    pub written: Bytes,
}

/// The 32 bytes n, n+1, n+2 ...
pub fn run(n: u8) -> [u8; 32] {
    std::array::from_fn(|i| n.wrapping_add(i as u8))
}

fn name(n: u8) -> Bytes {
    Bytes::copy_from_slice(&run(n))
}

/// The repository's id in all samples.
pub const REPOSITORY: [u8; 32] = {
    let mut out = [0; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = 0x20 + i as u8;
        i += 1;
    }
    out
};
/// The randomness of all samples.
pub fn entropy() -> [u8; 32] {
    run(0xc0)
}

/// The root secret of all samples.
pub fn root_secret() -> Secret {
    Secret::new(run(0))
}

/// What derives from it.
pub fn keys() -> RepositoryKeys {
    RepositoryKeys::from_root(&root_secret())
}

/// What chunks are named with.
pub fn ids() -> IdKey {
    IdKey::new(*keys().chunk_id.expose())
}

/// A sealed object: magic, version, more that is clear, then the sealed fields.
fn object(magic: &[u8; 4], clear: &[u8], kind: Kind, secret: &Secret, plain: &[u8]) -> Vec<u8> {
    let head = [magic.as_slice(), &1_u32.to_le_bytes(), clear].concat();
    let sealed = seal_structure(secret, &REPOSITORY, kind, &head, plain, entropy());
    [head, sealed].concat()
}

/// Magic, length of clear fields, those, then sealed bytes.
pub fn framed(magic: &[u8; 4], clear: &[u8], kind: Kind, secret: &Secret, plain: &[u8]) -> Vec<u8> {
    let head = [magic.as_slice(), &(clear.len() as u32).to_le_bytes(), clear].concat();
    let sealed = seal_structure(secret, &REPOSITORY, kind, &head, plain, entropy());
    [head, sealed].concat()
}

/// Slot 7 of epoch 1 in the replica [30..].
pub fn slot_header() -> SlotHeader {
    SlotHeader::new(run(0x30), 1, 7)
}

/// What a reader of that slot asks for.
pub const EXPECTED: Expected = Expected { replica_id: None, epoch: 1, slot: 7 };

/// A record's body with that action.
pub fn body(action: Option<Action>) -> Body {
    let head = Head { replica_id: name(0x31), epoch: 2, slot: 300, hash: name(0x32) };
    Body {
        prev: name(0x33),
        heads: vec![head],
        nonce: name(0x34),
        run_id: name(0x35),
        time: 1_700_000_000,
        critical: true,
        action,
    }
}

/// Every action, with its name.
pub fn actions() -> Vec<(&'static str, Action)> {
    let head = Head { replica_id: name(0x36), epoch: 1, slot: 9, hash: name(0x37) };
    let object = ObjectRef { class: ObjectClass::Data as i32, hash: name(0x60) };
    let list = ClassList { class: ObjectClass::Meta as i32, list: name(0x61) };
    vec![
        (
            "record.genesis",
            Action::Genesis(Genesis {
                repository_id: Bytes::copy_from_slice(&REPOSITORY),
                replica_id: name(0x30),
                previous_epoch_head: Some(head),
            }),
        ),
        ("record.close", Action::Close(Close { next_epoch: 2 })),
        ("record.publish", Action::Publish(Publish { segments: vec![name(0x40), name(0x41)] })),
        (
            "record.commit",
            Action::Commit(Commit {
                snapshot_id: name(0x50),
                object: name(0x51),
                segments: vec![name(0x42)],
                replaces: vec![name(0x52)],
                partial: true,
            }),
        ),
        ("record.forget", Action::Forget(Forget { ids: vec![name(0x53)] })),
        ("record.condemn", Action::Condemn(Condemn { objects: vec![object], lists: vec![list] })),
        ("record.distrust", Action::Distrust(Distrust { add: vec![name(0x62)], lift: vec![name(0x63)] })),
        ("record.compact", Action::Compact(Compact { old: vec![name(0x43), name(0x44)], new: vec![name(0x45)] })),
        ("record.revoke", Action::Revoke(Revoke { key_slots: vec![name(0x70)] })),
        ("record.configure", Action::Configure(Configure { feature: "pledge".into(), value: "on".into(), critical: true })),
        ("record.hold", Action::Hold(Hold { id: name(0x54), until: 1_800_000_000, reason: "audit".into() })),
        ("record.release", Action::Release(Release { id: name(0x54) })),
        ("record.note", Action::Note(Note { kind: "verify".into(), text: "all right".into(), list: name(0x64) })),
    ]
}

/// The pack of the samples: one frame of two chunks.
fn frame() -> Frame {
    let ids = ids();
    let chunk_ids = [ids.id(b"fair winds").0, ids.id(b" and following seas").0].concat();
    Frame { offset: 25, stored: 69, plain: 29, compression: 0, generation: 7, ids: Bytes::from(chunk_ids), lengths: vec![10, 19] }
}

#[derive(Clone, PartialEq, Message)]
struct Frames {
    #[prost(message, repeated, tag = "1")]
    frames: Vec<Frame>,
}

/// A pack whose frame is the vector frame.stored, and whose trailer holds `plain`.
fn pack_around(plain: &[u8]) -> Vec<u8> {
    let header = [b"HFPK".as_slice(), &[1, 0, 0, 0, 1], &run(0xd0)[..16]].concat();
    let body = [header.clone(), frame_bytes()].concat();
    let context = [header, (body.len() as u64).to_le_bytes().to_vec()].concat();
    let sealed = seal_structure(&keys().index, &REPOSITORY, Kind::Trailer, &context, plain, entropy());
    let length = (sealed.len() as u32).to_le_bytes();
    [body, sealed, length.to_vec(), b"HFPE".to_vec()].concat()
}

fn frame_bytes() -> Vec<u8> {
    vector(include_str!("vectors/seal.txt"), "frame.stored")
}

/// A named vector of a text.
pub fn vector(text: &str, name: &str) -> Vec<u8> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    hex::decode(line.unwrap_or_else(|| panic!("no vector {name}"))).expect("hex")
}

/// The catalog node of the samples: root, a directory, two files.
fn catalog_tree() -> (Child, Bytes) {
    let mut builder = TreeBuilder::new(TreeKind::Catalog, ids());
    let mut out = Vec::new();
    let directory = Entry { kind: EntryKind::Directory as i32, mode: 0o755, ..Entry::default() }.encode_to_vec();
    for (key, value, bytes) in [
        (&b""[..], &directory, 0),
        (b"a", &directory, 0),
        (b"a\0one", &file().encode_to_vec(), 29),
        (b"a\0one more", &file().encode_to_vec(), 29),
    ] {
        builder.push(key, value, bytes, &mut out).expect("in order");
    }
    let root = builder.finish(&mut out).expect("finished");
    (root, out.remove(0).plaintext)
}

fn content_tree() -> (Child, Bytes) {
    let mut builder = TreeBuilder::new(TreeKind::Content, ids());
    let mut out = Vec::new();
    for piece in [Piece { id: name(0x81), length: 1 << 20 }, Piece { id: Bytes::new(), length: 1 << 40 }] {
        builder.push(b"", &piece.encode_to_vec(), piece.length, &mut out).expect("in order");
    }
    let root = builder.finish(&mut out).expect("finished");
    (root, out.remove(0).plaintext)
}

/// An inner node as a catalog of a few thousand files has it.
fn inner_tree() -> (Child, Bytes) {
    let mut builder = TreeBuilder::new(TreeKind::Catalog, ids());
    let mut out = Vec::new();
    for n in 0..4000_u32 {
        builder.push(format!("file {n:05}").as_bytes(), &file().encode_to_vec(), 29, &mut out).expect("in order");
    }
    let root = builder.finish(&mut out).expect("finished");
    (root, out.pop().expect("the root comes last").plaintext)
}

fn file() -> Entry {
    let xattrs = vec![
        Xattr {
            name: Bytes::from_static(b"user.long"),
            value: Bytes::new(),
            chunk: Some(Piece { id: name(0x83), length: 5000 }),
        },
        Xattr { name: Bytes::from_static(b"user.note"), value: Bytes::from_static(b"dry"), chunk: None },
    ];
    Entry {
        kind: EntryKind::File as i32,
        size: 29,
        mode: 0o4640,
        uid: 1000,
        gid: 100,
        user: Bytes::from_static(b"ada"),
        group: Bytes::from_static(b"users"),
        mtime: -1,
        mtime_nanos: 999_999_999,
        ctime: 1_700_000_000,
        ctime_nanos: 5,
        inode: 42,
        xattrs,
        hard_link: Bytes::from_static(b"a\0one"),
        content: Some(Content { pieces: vec![Piece { id: name(0x84), length: 29 }], list: None }),
        ..Entry::default()
    }
}

fn snapshot() -> Snapshot {
    let statistics = Statistics {
        files: 2,
        directories: 2,
        bytes: 58,
        files_new: 2,
        data_added: 29,
        data_added_stored: 69,
        ..Statistics::default()
    };
    let root = Root { name: Bytes::from_static(b"home"), path: Bytes::from_static(b"/home"), catalog: Some(catalog_tree().0) };
    Snapshot {
        id: name(0x50),
        roots: vec![root],
        time_seconds: 1_700_000_000,
        time_nanos: 123_456_789,
        utc_offset_seconds: -3600,
        host: "keel".into(),
        user: "ada".into(),
        tags: vec!["daily".into(), "sea".into()],
        label: "first".into(),
        program_version: "0.1.0".into(),
        parent: name(0x52),
        statistics: Some(statistics),
        errors_count: 1001,
        errors: vec![SourceProblem { path: Bytes::from_static(b"/home/b"), message: "permission denied".into() }],
        partial: true,
        run_id: name(0x35),
        duration_ms: 1500,
        ..Snapshot::default()
    }
}

fn checkpoint() -> Checkpoint {
    let segments = SetRuns {
        kind: SetKind::Segments as i32,
        class: 0,
        runs: vec![Run { list: name(0x65), count: 1000 }],
        added: Bytes::from([run(0x40), run(0x41)].concat()),
        removed: name(0x42),
    };
    let condemned =
        SetRuns { kind: SetKind::Condemned as i32, class: ObjectClass::Data as i32, added: name(0x60), ..SetRuns::default() };
    Checkpoint {
        epoch: 1,
        slot: 7,
        slot_hash: name(0x38),
        replica_id: name(0x30),
        next_epoch: 0,
        snapshots: vec![LiveSnapshot { id: name(0x50), object: name(0x51), slot: 5, partial: false }],
        sets: vec![segments, condemned],
        heads: body(None).heads,
        features: vec![Configure { feature: "pledge".into(), value: "on".into(), critical: false }],
        holds: vec![Hold { id: name(0x54), until: 0, reason: "audit".into() }],
        previous_epoch_head: None,
        named_lists: vec![ClassList { class: ObjectClass::Meta as i32, list: name(0x61) }],
        notes: Vec::new(),
    }
}

fn noted_checkpoint() -> Checkpoint {
    let note = |kind: &str, list| Note { kind: kind.into(), text: "{}".into(), list };
    let notes = vec![
        NewestNote { time: 1_700_000_000, note: Some(note("drill", name(0x62))) },
        NewestNote { time: -1, note: Some(note("verify", Bytes::new())) },
    ];
    Checkpoint { notes, sets: Vec::new(), ..checkpoint() }
}

fn descriptor() -> Descriptor {
    let mut descriptor = Descriptor::new(REPOSITORY, ChunkerSpec::default(), run(0x70), run(0x71));
    descriptor.features.push(Feature { name: "pledge".into(), critical: false });
    descriptor
}

/// A slot's key; stands for a stretched passphrase or a key file.
pub fn kek() -> Secret {
    Secret::new(run(0xe0))
}

fn slot_info() -> SlotInfo {
    let params = KdfParams { memory_kib: 65_536, passes: 3, lanes: 4 };
    SlotInfo {
        unlock: Unlock::Passphrase { salt: run(0x40), params },
        repository_id: REPOSITORY,
        label: "first".into(),
        created: 1_700_000_000,
    }
}

fn sample(
    name: &'static str,
    plain: Vec<u8>,
    wrap: impl Fn(&[u8]) -> Vec<u8> + 'static,
    read: impl Fn(&[u8]) -> Result<Vec<u8>, FormatError> + 'static,
    written: Bytes,
) -> Sample {
    Sample { name, plain, wrap: Box::new(wrap), read: Box::new(read), written }
}

fn node(name: &'static str, kind: TreeKind, (root, plaintext): (Child, Bytes)) -> Sample {
    let read = move |stored: &[u8]| {
        let node =
            Node::decode(Bytes::copy_from_slice(stored), kind, Some(&root).filter(|root| root.length as usize == stored.len()))?;
        let fields = node.items.iter().flat_map(|item| [&item.key[..], &item.value[..]].concat());
        Ok(fields.collect())
    };
    sample(name, plaintext.to_vec(), <[u8]>::to_vec, read, plaintext)
}

/// All samples.
pub fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    all.push(sample(
        "descriptor",
        descriptor().encode_to_vec(),
        |plain| {
            let head = [b"HOLDFAST", plain].concat();
            [head.clone(), object_hash(&head).to_vec()].concat()
        },
        |stored| Descriptor::decode(stored).map(|read| read.encode_to_vec()),
        descriptor().encode().expect("sound"),
    ));
    let clear = [
        vec![0x08, 1, 0x12, 32],
        REPOSITORY.to_vec(),
        vec![0x1a, 5],
        b"first".to_vec(),
        vec![0x20, 0x80, 0xc4, 0x9f, 0xd5, 0x0c],
        vec![0x2a, 42, 0x0a, 32],
        run(0x40).to_vec(),
        vec![0x10, 0x80, 0x80, 0x04, 0x18, 3, 0x20, 4],
    ];
    all.push(sample(
        "key-slot",
        clear.concat(),
        |plain| framed(b"HFKS", plain, Kind::KeySlot, &kek(), root_secret().expose()),
        |stored| {
            let slot = KeySlot::decode(&Bytes::copy_from_slice(stored))?;
            slot.unwrap(&kek(), &REPOSITORY).map(|root| [root.expose(), slot.info.label.as_bytes()].concat())
        },
        key_slot::wrap(&slot_info(), &root_secret(), &kek(), entropy()).expect("sound"),
    ));
    all.push(sample(
        "generation",
        run(0x80).to_vec(),
        |plain| object(b"HFGN", &7_u32.to_le_bytes(), Kind::Generation, &keys().wrap, plain),
        |stored| Generation::decode(stored, &keys().wrap, &REPOSITORY).map(|read| read.secret.expose().to_vec()),
        Generation { number: 7, secret: Secret::new(run(0x80)) }.encode(&keys().wrap, &REPOSITORY, entropy()).expect("sound"),
    ));
    for (name, action) in actions() {
        let body = body(Some(action));
        all.push(sample(
            name,
            body.encode_to_vec(),
            |plain| framed(b"HFLG", &slot_header().encode_to_vec(), Kind::Record, &keys().log, plain),
            |stored| record::decode_slot(stored, &keys().log, &REPOSITORY, &EXPECTED).map(|(_, body)| body.encode_to_vec()),
            record::encode_slot(&slot_header(), &body, &keys().log, &REPOSITORY, entropy()).expect("sound"),
        ));
    }
    let mut builder = pack::PackBuilder::new(PackKind::Data, *run(0xd0).first_chunk().expect("16 bytes"), 0);
    let chunks: Vec<(ChunkId, u32)> = frame().chunks().map(|span| (span.id, span.length)).collect();
    builder.append(&frame_bytes(), frame().shape().expect("known"), &chunks).expect("sound");
    let finished = builder.finish(&keys().index, &REPOSITORY, entropy());
    all.push(sample(
        "pack",
        Frames { frames: vec![frame()] }.encode_to_vec(),
        pack_around,
        |stored| pack::decode_pack(stored, &keys().index, &REPOSITORY).map(|read| Frames { frames: read.frames }.encode_to_vec()),
        finished.bytes.into(),
    ));
    let entry = PackEntry { hash: name(0x90), size: 1 << 20, kind: PackKind::Data as i32, frames: vec![frame()] };
    let segment = Segment { packs: vec![finished.entry, entry] };
    all.push(sample(
        "segment",
        segment.encode_to_vec(),
        |plain| object(b"HFIX", &[], Kind::Segment, &keys().index, plain),
        |stored| Segment::decode(stored, &keys().index, &REPOSITORY).map(|read| read.encode_to_vec()),
        segment.encode(&keys().index, &REPOSITORY, entropy()).expect("sound"),
    ));
    let list: Vec<Hash> = vec![run(0x60), run(0x61), run(0x62)];
    all.push(sample(
        "list",
        [vec![0x0a, 96], list.concat()].concat(),
        |plain| object(b"HFLS", &[], Kind::List, &keys().log, plain),
        |stored| HashList::decode(stored, &keys().log, &REPOSITORY).map(|read| read.hashes().concat()),
        HashList::new(list).encode(&keys().log, &REPOSITORY, entropy()).expect("sound"),
    ));
    all.push(sample(
        "snapshot",
        snapshot().encode_to_vec(),
        |plain| object(b"HFSN", &[], Kind::Snapshot, &keys().log, plain),
        |stored| Snapshot::decode(stored, &keys().log, &REPOSITORY).map(|read| read.encode_to_vec()),
        snapshot().encode(&keys().log, &REPOSITORY, entropy()).expect("sound"),
    ));
    all.push(sample(
        "checkpoint",
        checkpoint().encode_to_vec(),
        |plain| object(b"HFCP", &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0], Kind::Checkpoint, &keys().log, plain),
        |stored| Checkpoint::decode(stored, &keys().log, &REPOSITORY, 1, 7).map(|read| read.encode_to_vec()),
        checkpoint().encode(&keys().log, &REPOSITORY, entropy()).expect("sound"),
    ));
    all.push(sample(
        "checkpoint.noted",
        noted_checkpoint().encode_to_vec(),
        |plain| object(b"HFCP", &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0], Kind::Checkpoint, &keys().log, plain),
        |stored| Checkpoint::decode(stored, &keys().log, &REPOSITORY, 1, 7).map(|read| read.encode_to_vec()),
        noted_checkpoint().encode(&keys().log, &REPOSITORY, entropy()).expect("sound"),
    ));
    all.push(sample(
        "entry",
        file().encode_to_vec(),
        <[u8]>::to_vec,
        |stored| entry::decode(Bytes::copy_from_slice(stored), b"a\0one more").map(|read| read.encode_to_vec()),
        Bytes::from(file().encode_to_vec()),
    ));
    all.push(node("node.catalog", TreeKind::Catalog, catalog_tree()));
    all.push(node("node.content", TreeKind::Content, content_tree()));
    all.push(node("node.inner", TreeKind::Catalog, inner_tree()));
    all
}
