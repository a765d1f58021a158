//! The format is what FORMAT.md says: its test vectors are written and read by the code, byte for byte.

use holdfast::chunk::split::{ChunkerSpec, Splitter};
use holdfast::format::key_slot::KeyFile;
use holdfast::format::tree::{TreeBuilder, TreeKind};
use holdfast::seal::key::Secret;
use prost::Message;

use crate::format_samples::{ids, keys, run, samples, vector};

const SPECIFICATION: &str = include_str!("../../src/format/FORMAT.md");

/// The vectors that the code makes.
fn made() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<_> = samples().into_iter().map(|sample| (sample.name, sample.written.to_vec())).collect();
    all.push(("key-file", KeyFile(Secret::new(run(0xe0))).print().as_bytes().to_vec()));

    let mut data = vec![0; 16 << 20];
    blake3::Hasher::new().update(b"holdfast").finalize_xof().fill(&mut data);
    let splitter = Splitter::new(ChunkerSpec::default(), keys().chunker.expose()).expect("the default");
    let (mut rest, mut cuts) = (&data[..], Vec::new());
    while !rest.is_empty() {
        let cut = splitter.cut(rest);
        cuts.extend_from_slice(&(cut as u32).to_le_bytes());
        rest = &rest[cut..];
    }
    all.push(("chunker", cuts));

    for (name, kind) in [("tree.catalog", TreeKind::Catalog), ("tree.content", TreeKind::Content)] {
        let mut builder = TreeBuilder::new(kind, ids());
        let mut out = Vec::new();
        for n in 0..50_000_u32 {
            let id = blake3::hash(&n.to_le_bytes());
            let value = [&[0x0a, 0x20], id.as_bytes().as_slice(), &[0x10, 0x64]].concat();
            let key = if kind == TreeKind::Catalog { format!("{:03}\0{n:05}", n / 100) } else { String::new() };
            builder.push(key.as_bytes(), &value, 100, &mut out).expect("in order");
        }
        all.push((name, builder.finish(&mut out).expect("finished").encode_to_vec()));
    }
    all
}

#[test]
fn the_code_writes_what_the_specification_says() {
    let found = made();
    let lines = |all: &[(&str, Vec<u8>)]| {
        all.iter().map(|(name, bytes)| format!("{name} = {}\n", hex::encode(bytes))).collect::<String>()
    };
    let is_vector = |line: &&str| line.split_once(" = ").is_some_and(|(_, digits)| hex::decode(digits).is_ok());
    let stated: Vec<&str> = SPECIFICATION.lines().filter(is_vector).collect();
    let differing: Vec<_> =
        found.iter().filter(|(name, bytes)| !stated.contains(&&*format!("{name} = {}", hex::encode(bytes)))).cloned().collect();
    assert!(differing.is_empty(), "FORMAT.md has no such vectors:\n{}", lines(&differing));
    assert_eq!(stated.len(), found.len(), "FORMAT.md has a vector that nothing makes");
}

#[test]
fn the_code_reads_what_the_specification_says() {
    for sample in samples() {
        let stored = vector(SPECIFICATION, sample.name);
        (sample.read)(&stored).unwrap_or_else(|e| panic!("{}: {e}", sample.name));
    }
    let text = String::from_utf8(vector(SPECIFICATION, "key-file")).expect("text");
    assert_eq!(KeyFile::parse(&text).expect("a key file").0.expose(), &run(0xe0));
}

#[test]
fn a_second_writer_after_the_specification_agrees() {
    for sample in samples() {
        assert_eq!(hex::encode((sample.wrap)(&sample.plain)), hex::encode(&sample.written), "{}", sample.name);
    }
}
