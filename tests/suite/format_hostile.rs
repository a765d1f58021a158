//! What a hostile writer may put into a store, with or without the keys: row by row, refused for the right reason.

use bytes::Bytes;
use holdfast::format::descent::{Descent, Step};
use holdfast::format::key_slot::KeyFile;
use holdfast::format::pack::trailer_range;
use holdfast::format::record::{self, Action, Body, Expected, Genesis, Publish, SlotHeader};
use holdfast::format::tree::{Child, Node, TreeKind};
use holdfast::format::{FormatError, catalog};
use holdfast::seal::Kind;
use prost::Message;

use crate::format_samples::{EXPECTED, REPOSITORY, Sample, body, entropy, framed, keys, run, samples, slot_header};

fn sample(name: &str) -> Sample {
    samples().into_iter().find(|sample| sample.name == name).expect("a sample of that name")
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn span(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// What an error is, in one line: its class, then its text.
fn class(error: &FormatError) -> String {
    let class = match error {
        FormatError::Invalid { .. } => "invalid",
        FormatError::Fields { .. } => "fields",
        FormatError::Sealed { .. } => "sealed",
        FormatError::Unsupported { .. } => "unsupported",
        FormatError::OverLimit { .. } => "over limit",
        FormatError::Unwritable { .. } => "unwritable",
    };
    format!("{class}: {error}")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(row: &str, result: Result<T, FormatError>, expected: &str) {
    let error = result.map(|_| ()).expect_err(row);
    let found = class(&error);
    let (kind, why) = expected.split_once(": ").unwrap_or((expected, ""));
    assert!(found.starts_with(kind) && found.contains(why), "{row}: {found}, not {expected}");
}

#[test]
fn every_structure_guards_its_edges() {
    for sample in samples() {
        let stored = &sample.written[..];
        let read = |bytes: &[u8]| (sample.read)(bytes);
        assert!(read(stored).is_ok(), "{}", sample.name);
        if sample.name.starts_with("node") || sample.name == "entry" {
            continue;
        }
        for length in 0..stored.len() {
            assert!(read(&stored[..length]).is_err(), "{} cut to {length}", sample.name);
        }
        assert!(read(&[stored, &[0]].concat()).is_err(), "{} with one byte more", sample.name);
        refused(sample.name, read(&[b"HFXX", &stored[4..]].concat()), "invalid: wrong magic");
        // In a pack, the frames' bytes are guarded by themselves and by the pack's name, not by the trailer.
        let guarded = (0..stored.len()).filter(|at| sample.name != "pack" || !(25..94).contains(at));
        for at in guarded {
            let mut flipped = stored.to_vec();
            flipped[at] ^= 0x10;
            assert!(read(&flipped).is_err(), "{} with byte {at} flipped", sample.name);
        }
    }
}

#[test]
fn nothing_is_taken_for_something_else() {
    let all = samples();
    let sealed = |sample: &&Sample| !sample.name.starts_with("node") && sample.name != "entry";
    for one in all.iter().filter(sealed) {
        for other in all.iter().filter(sealed) {
            let same_family = one.name.split('.').next() == other.name.split('.').next();
            assert_eq!((other.read)(&one.written).is_ok(), same_family, "{} as {}", one.name, other.name);
            // Another kind's bytes behind this kind's magic and version: the seal tells.
            if !same_family && other.written.len() > 8 && one.written.len() > 8 {
                assert!(
                    (other.read)(&[&other.written[..8], &one.written[8..]].concat()).is_err(),
                    "{} dressed as {}",
                    one.name,
                    other.name
                );
            }
        }
    }
}

#[test]
fn versions_and_features_that_are_not_known_are_named() {
    for (name, clear) in [("generation", 4), ("segment", 0), ("list", 0), ("snapshot", 0), ("checkpoint", 12), ("pack", 0)] {
        let mut stored = sample(name).written.to_vec();
        stored[4] = 2;
        // Sealed as of another version it opens as of none; but what opens as of this one was written by this one, and changed.
        if name != "pack" {
            refused(name, (sample(name).read)(&stored), "invalid: its version was changed");
        }
        stored[8 + clear + 40] ^= 1;
        refused(name, (sample(name).read)(&stored), "unsupported: format version 2");
    }
    let descriptor = sample("descriptor");
    let fields = |more: &[u8]| (descriptor.wrap)(&[&descriptor.plain, more].concat());
    for (row, more, expected) in [
        ("version", number(1, 2), "unsupported: format version 2"),
        ("no version", number(1, 0), "unsupported: format version 0"),
        ("feature", span(6, &[span(1, b"twist"), number(2, 1)].concat()), "unsupported: \"twist\""),
        ("chunker", span(3, &number(1, 2)), "unsupported: chunker kind 2"),
        ("another meaning of fields", [number(1, 2), number(2, 5)].concat(), "unsupported: format version 2"),
    ] {
        refused(row, (descriptor.read)(&fields(&more)), expected);
    }
    assert!((descriptor.read)(&fields(&span(6, &span(1, b"twist")))).is_ok(), "not critical");
    assert!((descriptor.read)(&fields(&span(99, b"news"))).is_ok(), "an unknown field");
    refused("key file", KeyFile::parse(&format!("holdfast-key-2 {}", "00".repeat(32))), "unsupported");
    let slot = framed(b"HFLG", &number(1, 9), Kind::Record, &keys().log, b"");
    refused("slot", record::decode_slot(&slot, &keys().log, &REPOSITORY, &EXPECTED), "unsupported: format version 9");
    let mut slot = record::encode_slot(
        &slot_header(),
        &body(Some(Action::Publish(Publish::default()))),
        &keys().log,
        &REPOSITORY,
        entropy(),
    )
    .expect("sound")
    .to_vec();
    assert_eq!(slot[8..10], [8, 1], "where the version lies");
    slot[9] = 3;
    refused("slot", record::decode_slot(&slot, &keys().log, &REPOSITORY, &EXPECTED), "invalid: its version was changed");
}

#[test]
fn descriptors_are_bounded() {
    let descriptor = sample("descriptor");
    let with = |more: Vec<u8>| (descriptor.read)(&(descriptor.wrap)(&[descriptor.plain.clone(), more].concat()));
    let chunker =
        |min: u64, average: u64, max: u64| span(3, &[number(1, 1), number(2, min), number(3, average), number(4, max)].concat());
    for (row, more, expected) in [
        ("id too short", span(2, &[1; 31]), "invalid: 32 bytes"),
        ("slot too long", span(4, &[1; 33]), "invalid: 32 bytes"),
        ("sizes out of order", chunker(4096, 1024, 65_536), "invalid: out of bounds"),
        ("no average", chunker(4096, 5000, 65_536), "invalid: out of bounds"),
        ("chunks too large", chunker(4096, 8192, 17 << 20), "invalid: out of bounds"),
        ("a size too wide", chunker(4096, 8192, u64::MAX), "invalid: out of bounds"),
        ("a field past the end", [varint(6 << 3 | 2), varint(1 << 40)].concat(), "fields"),
        ("too long", span(99, &[0; 65_536]), "invalid: longer"),
    ] {
        refused(row, with(more), expected);
    }
}

#[test]
fn key_slots_and_key_files_are_bounded() {
    let slot = sample("key-slot");
    let read = |clear: Vec<u8>| (slot.read)(&(slot.wrap)(&clear));
    let plain = &slot.plain;
    refused("two kinds", read([&plain[..], &span(6, b"")].concat()), "invalid: two kinds");
    refused("no kind", read(plain[..plain.len() - 44].to_vec()), "unsupported: its kind");
    refused("version", read([&plain[..], &number(1, 3)].concat()), "unsupported: format version 3");
    refused("label", read([&plain[..], &span(3, &[b'x'; 2000])].concat()), "invalid: label");
    refused("salt", read([&plain[..], &span(5, &span(1, &[0; 16]))].concat()), "invalid: 32 bytes");
    refused("another repository", read([&plain[..], &span(2, &[9; 32])].concat()), "invalid: another repository");
    let mut reach = slot.written.to_vec();
    reach[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    refused("clear part past the end", (slot.read)(&reach), "invalid: past the end");
    let sealed = &slot.written[8 + plain.len()..];
    let weaker = [&plain[..], &span(5, &[number(2, 8), number(3, 1), number(4, 1)].concat())].concat();
    let weaker = [&slot.written[..4], &(weaker.len() as u32).to_le_bytes(), &weaker, sealed].concat();
    refused("weaker parameters before the same secret", (slot.read)(&weaker), "sealed");

    let digits = "ab".repeat(32);
    for (row, text) in [
        ("empty", String::new()),
        ("no tag", digits.clone()),
        ("another tag", format!("holdfart-key-1 {digits}")),
        ("short", format!("holdfast-key-1 {}", &digits[2..])),
        ("long", format!("holdfast-key-1 {digits}00")),
        ("two spaces", format!("holdfast-key-1  {digits}")),
        ("two lines", format!("holdfast-key-1 {digits}\n\n")),
        ("no digits", format!("holdfast-key-1 {}", "zz".repeat(32))),
    ] {
        refused(row, KeyFile::parse(&text), "invalid");
    }
    for text in [
        format!("holdfast-key-1 {digits}"),
        format!("holdfast-key-1 {digits}\r\n"),
        format!("holdfast-key-1 {}\n", digits.to_uppercase()),
    ] {
        assert_eq!(KeyFile::parse(&text).expect("a key file").0.expose(), &[0xab; 32]);
    }
    let generation = sample("generation");
    refused("a short secret", (generation.read)(&(generation.wrap)(&[1; 31])), "invalid: 32 bytes");
}

#[test]
fn records_are_bounded_and_bound_to_their_slot() {
    let stored = sample("record.publish").written;
    let read = |stored: &[u8], expected: Expected| record::decode_slot(stored, &keys().log, &REPOSITORY, &expected);
    refused("another slot", read(&stored, Expected { slot: 8, ..EXPECTED }), "invalid: another slot");
    refused("another epoch", read(&stored, Expected { epoch: 2, ..EXPECTED }), "invalid: another slot");
    refused("another replica", read(&stored, Expected { replica_id: Some(run(9)), ..EXPECTED }), "invalid: another replica");
    assert!(read(&stored, Expected { replica_id: Some(run(0x30)), ..EXPECTED }).is_ok());
    refused("another repository", record::decode_slot(&stored, &keys().log, &[9; 32], &EXPECTED), "sealed");
    refused("too long", read(&vec![0; (4 << 20) + 1], EXPECTED), "invalid: longer");
    let mut reach = stored.to_vec();
    reach[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    refused("header past the end", read(&reach, EXPECTED), "invalid: past the end");
    let moved = SlotHeader::new(run(0x30), 1, 8).encode_to_vec();
    let moved = [b"HFLG".as_slice(), &(moved.len() as u32).to_le_bytes(), &moved, &stored[8 + moved.len()..]].concat();
    refused("moved to another slot", read(&moved, Expected { slot: 8, ..EXPECTED }), "sealed");

    let sample = sample("record.publish");
    let with = |more: Vec<u8>| (sample.read)(&(sample.wrap)(&[sample.plain.clone(), more].concat()));
    for (row, more, expected) in [
        ("short segment", span(18, &span(1, &[1; 31])), "invalid: 32 bytes"),
        ("no snapshot id", span(19, b""), "invalid: 32 bytes"),
        ("short nonce", span(3, b"x"), "invalid: 32 bytes"),
        ("head of slot 0", span(2, &[span(1, &[1; 32]), number(2, 1), span(4, &[1; 32])].concat()), "invalid: 0"),
        ("classless object", span(21, &span(1, &span(2, &[1; 32]))), "invalid: without a class"),
        ("object of a class to come", span(21, &span(1, &[number(1, 99), span(2, &[1; 32])].concat())), "unsupported: class 99"),
        ("next epoch 0", span(17, b""), "invalid: next epoch"),
        ("note with a short list", span(28, &span(3, b"x")), "invalid: 32 bytes"),
        ("nameless feature", span(25, b""), "invalid: no name"),
        (
            "genesis of another",
            span(16, &[span(1, &[9; 32]), span(2, &run(0x30))].concat()),
            "invalid: another repository or replica",
        ),
        ("past the end", [varint(18 << 3 | 2), varint(u64::MAX)].concat(), "fields"),
    ] {
        refused(row, with(more), expected);
    }
    let unknown = Body { action: None, ..body(None) };
    let unknown = framed(
        b"HFLG",
        &slot_header().encode_to_vec(),
        Kind::Record,
        &keys().log,
        &[unknown.encode_to_vec(), span(77, b"?")].concat(),
    );
    let (_, read_body) = read(&unknown, EXPECTED).expect("an action to come is the caller's to judge");
    assert!(read_body.action.is_none() && read_body.critical);

    let write = |action: Option<Action>| record::encode_slot(&slot_header(), &body(action), &keys().log, &REPOSITORY, entropy());
    refused("nothing", write(None), "unwritable: no action");
    let many = vec![Bytes::from_static(&[5; 32]); 130_000];
    refused("too much", write(Some(Action::Publish(Publish { segments: many }))), "unwritable: more than");
    let short = Genesis { repository_id: Bytes::from_static(b"x"), ..Genesis::default() };
    refused("a short id", write(Some(Action::Genesis(short))), "unwritable: 32 bytes");
}

#[test]
fn packs_and_segments_are_bounded() {
    let frame = |offset: u64, stored: u64, plain: u64, compression: u64, ids: usize, lengths: &[u64]| {
        let lengths: Vec<u8> = lengths.iter().flat_map(|length| varint(*length)).collect();
        let fields = [
            number(1, offset),
            number(2, stored),
            number(3, plain),
            number(4, compression),
            number(5, 1),
            span(6, &vec![7; ids]),
            span(7, &lengths),
        ];
        fields.concat()
    };
    let good = frame(25, 69, 29, 0, 64, &[10, 19]);
    let rows: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("overlap", vec![good.clone(), good.clone()], "invalid: overlap"),
        ("not in order", vec![frame(100, 41, 1, 0, 32, &[1]), good.clone()], "invalid: overlap"),
        ("in the header", vec![frame(24, 69, 29, 0, 64, &[10, 19])], "invalid: overlap"),
        ("offset overflows", vec![frame(u64::MAX, 69, 29, 0, 64, &[10, 19])], "invalid: past the end"),
        ("past the end", vec![frame(1 << 40, 69, 29, 0, 64, &[10, 19])], "invalid: past the end"),
        ("into the trailer", vec![frame(26, 69, 29, 0, 64, &[10, 19])], "invalid: "),
        ("lengths do not add up", vec![frame(25, 69, 29, 0, 64, &[10, 20])], "invalid: add up"),
        ("lengths wrap", vec![frame(25, 69, 29, 0, 96, &[30, 0xffff_ffff, 0])], "invalid: no length"),
        ("lengths wrap to fit", vec![frame(25, 69, 29, 0, 64, &[30, 0xffff_ffff])], "invalid: add up"),
        ("a chunk of nothing", vec![frame(25, 69, 29, 0, 64, &[0, 29])], "invalid: no length"),
        ("an id too few", vec![frame(25, 69, 29, 0, 32, &[10, 19])], "invalid: number"),
        ("an id cut short", vec![frame(25, 69, 29, 0, 63, &[10, 19])], "invalid: number"),
        ("no chunks", vec![frame(25, 69, 29, 0, 0, &[])], "invalid"),
        ("plaintext too long", vec![frame(25, 69, (16 << 20) + 1, 1, 32, &[(16 << 20) + 1])], "invalid: out of bounds"),
        ("plaintext of nothing", vec![frame(25, 40, 0, 0, 32, &[0])], "invalid: out of bounds"),
        ("stored and longer", vec![frame(25, 70, 29, 0, 64, &[10, 19])], "invalid: impossible"),
        ("packed and not shorter", vec![frame(25, 69, 29, 1, 64, &[10, 19])], "invalid: impossible"),
        ("packed into nothing", vec![frame(25, 40, 29, 1, 64, &[10, 19])], "invalid: impossible"),
        ("compression to come", vec![frame(25, 69, 29, 7, 64, &[10, 19])], "unsupported: compression 7"),
        ("empty frames", vec![Vec::new(); 100_000], "invalid: more items"),
    ];
    let (pack, segment) = (sample("pack"), sample("segment"));
    let entry =
        |frames: &[u8], size: u64, kind: u64| [span(1, &run(0x91)), number(2, size), number(3, kind), frames.to_vec()].concat();
    for (row, frames, expected) in rows {
        let in_trailer: Vec<u8> = frames.iter().flat_map(|frame| span(1, frame)).collect();
        refused(row, (pack.read)(&(pack.wrap)(&in_trailer)), expected);
        let in_segment: Vec<u8> = frames.iter().flat_map(|frame| span(4, frame)).collect();
        refused(row, (segment.read)(&(segment.wrap)(&span(1, &entry(&in_segment, 174, 1)))), expected);
    }
    let twice = span(1, &entry(&span(4, &good), 1 << 20, 1)).repeat(2);
    refused("a pack twice", (segment.read)(&(segment.wrap)(&twice)), "invalid: twice");
    for (row, size, kind, expected) in [
        ("no kind", 1 << 20, 0, "invalid: kind"),
        ("kind to come", 1 << 20, 3, "invalid: kind"),
        ("too long", (128 << 20) + 1, 1, "invalid: longer"),
        ("too short", 60, 1, "invalid: past the end"),
    ] {
        refused(row, (segment.read)(&(segment.wrap)(&span(1, &entry(&span(4, &good), size, kind)))), expected);
    }
    refused("empty packs", (segment.read)(&(segment.wrap)(&span(1, b"").repeat(100_000))), "invalid: more items");

    let end = |length: u32| [&length.to_le_bytes()[..], b"HFPE"].concat();
    for (row, tail, size, expected) in [
        ("no end", end(72)[..7].to_vec(), 1000, "invalid: truncated"),
        ("wrong end", vec![0; 8], 1000, "invalid: end is missing"),
        ("trailer longer than the pack", end(u32::MAX), 1000, "invalid: beginning"),
        ("trailer over the header", end(970), 1000, "invalid: beginning"),
        ("trailer too short", end(71), 1000, "invalid: too short"),
        ("pack shorter than its end", end(72), 4, "invalid: truncated"),
        ("pack too long", end(72), u64::MAX, "invalid: longer"),
    ] {
        refused(row, trailer_range(&tail, size), expected);
    }
    assert_eq!(trailer_range(&end(72), 1000).expect("sound"), 920..992);
    let mut meta = pack.written.to_vec();
    meta[8] = 2;
    refused("another kind", (pack.read)(&meta), "sealed");
    let longer = [&pack.written[..94], &[0; 10], &pack.written[94..]].concat();
    refused("a trailer at another place", (pack.read)(&longer), "sealed");
}

#[test]
fn lists_snapshots_and_checkpoints_are_bounded() {
    let list = sample("list");
    let hashes = |all: &[u8]| (list.read)(&(list.wrap)(&span(1, &all.iter().flat_map(|n| [*n; 32]).collect::<Vec<u8>>())));
    assert!(hashes(&[1, 2, 3]).is_ok() && hashes(&[]).is_ok());
    refused("not in order", hashes(&[2, 1]), "invalid: order");
    refused("twice", hashes(&[1, 1]), "invalid: order");
    refused("cut short", (list.read)(&(list.wrap)(&span(1, &[1; 33]))), "invalid: cut short");

    let snapshot = sample("snapshot");
    let with = |more: Vec<u8>| (snapshot.read)(&(snapshot.wrap)(&[snapshot.plain.clone(), more].concat()));
    let child = |id: usize, length: u64, level: u64, entries: u64| {
        span(3, &[span(1, &vec![1; id]), number(2, length), number(3, level), number(4, entries)].concat())
    };
    let root = |child: Vec<u8>| span(2, &[span(1, b"other"), child].concat());
    assert!(with(root(child(32, 100, 0, 5))).is_ok());
    for (row, more, expected) in [
        ("short id", span(1, b"x"), "invalid: 32 bytes"),
        ("short parent", span(11, b"x"), "invalid: 32 bytes"),
        ("nanoseconds", number(4, 1_000_000_000), "invalid: second"),
        ("offset", number(5, 400_000), "invalid: UTC"),
        ("more errors than counted", [number(13, 0), span(14, b"")].concat(), "invalid: counts"),
        ("too many errors", [number(13, 2000), span(14, b"").repeat(1001)].concat(), "invalid: more items"),
        ("too many tags", span(8, b"x").repeat(2000), "invalid: more items"),
        ("long host", span(6, &[b'h'; 5000]), "invalid: too long"),
        ("host that is no text", span(6, &[0xff]), "fields"),
        ("no catalog", span(2, &span(1, b"other")), "invalid: without a catalog"),
        ("root twice", span(2, &[span(1, b"home"), child(32, 100, 0, 5)].concat()), "invalid: one name"),
        ("catalog's id", root(child(31, 100, 0, 5)), "invalid: 32 bytes"),
        ("catalog too long", root(child(32, (1 << 20) + 1, 0, 5)), "invalid: out of bounds"),
        ("catalog too deep", root(child(32, 100, 33, 5)), "invalid: too deep"),
        ("inner and empty", root(child(32, 100, 1, 0)), "invalid: without items"),
    ] {
        refused(row, with(more), expected);
    }

    let checkpoint = sample("checkpoint");
    let with = |more: Vec<u8>| (checkpoint.read)(&(checkpoint.wrap)(&[checkpoint.plain.clone(), more].concat()));
    let set = |kind: u64, class: u64, added: &[u8]| span(7, &[number(1, kind), number(2, class), span(4, added)].concat());
    assert!(with(set(4, 0, &[[1; 32], [2; 32]].concat())).is_ok());
    for (row, more, expected) in [
        ("another slot inside", number(2, 8), "invalid: another slot"),
        ("short hash", span(3, b"x"), "invalid: 32 bytes"),
        ("set without a kind", set(0, 0, b""), "invalid: without a kind"),
        ("set of a kind to come", set(9, 0, b""), "invalid: unknown kind"),
        ("condemned without a class", set(2, 0, b""), "invalid: class"),
        ("class without cause", set(4, 1, b""), "invalid: class"),
        ("set twice", set(1, 0, b""), "invalid: twice"),
        ("not in order", set(4, 0, &[[2; 32], [1; 32]].concat()), "invalid: order"),
        ("cut short", set(4, 0, &[1; 40]), "invalid: 32 bytes"),
        ("a later snapshot", span(6, &[span(1, &[1; 32]), span(2, &[1; 32]), number(3, 8)].concat()), "invalid: later slot"),
        ("empty snapshots", span(6, b"").repeat(100_000), "invalid: more items"),
        ("empty note", span(13, b""), "invalid: missing"),
        ("long note", span(13, &span(2, &span(2, &[b'x'; 20_000]))), "invalid: too long"),
        ("note with a short list", span(13, &span(2, &span(3, b"x"))), "invalid: 32 bytes"),
        ("notes of one kind", span(13, &span(2, &span(1, b"x"))).repeat(2), "invalid: order"),
        ("many notes", span(13, b"").repeat(65), "invalid: more items"),
    ] {
        refused(row, with(more), expected);
    }
    let mut moved = checkpoint.written.to_vec();
    moved[12] = 8;
    refused("another slot outside", (checkpoint.read)(&moved), "invalid: another slot");
}

#[test]
fn entries_and_keys_stay_below_their_root() {
    for (row, key) in [
        ("up", &b".."[..]),
        ("here", b"."),
        ("up from inside", b"a\0..\0b"),
        ("slash", b"a/b"),
        ("absolute", b"/etc"),
        ("empty component", b"a\0\0b"),
        ("ends in a separator", b"a\0"),
        ("begins with one", b"\0a"),
        ("long component", &[b'x'; 256]),
    ] {
        refused(row, catalog::verify_key(key), "invalid");
    }
    refused("long", catalog::verify_key(&vec![b'x'; 65_536]), "invalid: too long");
    for key in [&b""[..], b"a", b"...", b"a\0..b", b"\xff\0\n", &[b'x'; 255]] {
        assert!(catalog::verify_key(key).is_ok());
    }
    assert_eq!(catalog::display(b"a\x1b[2J\0\xff\0\xe2\x80\xae"), "a\\u{1b}[2J/\u{fffd}/\\u{202e}");
    for path in ["../a", "/a", "a/../b"] {
        refused(path, catalog::from_path(std::path::Path::new(path)), "unwritable: below its root");
    }

    let entry = sample("entry");
    let with = |more: Vec<u8>| (entry.read)(&[entry.plain.clone(), more].concat());
    let piece = |id: usize, length: u64| span(1, &[span(1, &vec![1; id]), number(2, length)].concat());
    let fresh = |more: Vec<u8>| (entry.read)(&[number(1, 1), more].concat());
    for (row, result, expected) in [
        ("no kind", with(number(1, 0)), "invalid: no kind"),
        ("mode", with(number(3, 0o10_000)), "invalid: mode"),
        ("nanoseconds", with(number(9, 1_000_000_000)), "invalid: second"),
        ("owner", with(span(6, &[b'u'; 2000])), "invalid: owner"),
        ("link with a zero byte", with(span(13, b"a\0b")), "invalid: zero byte"),
        ("hard link out of the root", with(span(16, b"..\0etc")), "invalid: dot"),
        ("content of a directory", with(number(1, 2)), "invalid: no file"),
        ("link without a target", (entry.read)(&number(1, 3)), "invalid: without a target"),
        ("attribute twice", with(span(14, &span(1, b"user.note"))), "invalid: order"),
        ("attribute without a name", fresh(span(14, b"")), "invalid: name"),
        ("attribute too long", fresh(span(14, &[span(1, b"a"), span(2, &[0; 4097])].concat())), "invalid: value is too long"),
        ("attribute as a hole", fresh(span(14, &[span(1, b"a"), span(3, &number(2, 5))].concat())), "invalid: neither"),
        ("too many attributes", fresh(span(14, b"").repeat(5000)), "invalid: more items"),
        ("a size without content", fresh(number(2, 5)), "invalid: without its content"),
        ("sizes differ", with(number(2, 28)), "invalid: add up"),
        ("piece of nothing", fresh([number(2, 0), span(17, &piece(32, 0))].concat()), "invalid: out of bounds"),
        ("piece too long", fresh([number(2, 1 << 30), span(17, &piece(32, 1 << 30))].concat()), "invalid: out of bounds"),
        ("piece with half an id", fresh([number(2, 5), span(17, &piece(16, 5))].concat()), "invalid: another length"),
        (
            "pieces overflow",
            fresh([number(2, 0), span(17, &[piece(0, 1 << 63), piece(0, 1 << 63)].concat())].concat()),
            "invalid: add up",
        ),
        ("too many pieces", fresh([number(2, 7), span(17, &piece(0, 1).repeat(7))].concat()), "invalid: too many"),
    ] {
        refused(row, result, expected);
    }
    assert!((entry.read)(&number(1, 99)).is_ok(), "a kind to come is the caller's to skip");
    assert!(fresh([number(2, 1 << 63), span(17, &piece(0, 1 << 63))].concat()).is_ok(), "a hole may be as long as a file");
}

fn item(shared: u64, suffix: &[u8], value: &[u8]) -> Vec<u8> {
    span(3, &[number(1, shared), span(2, suffix), span(3, value)].concat())
}

fn child(level: u64, entries: u64, bytes: u64) -> Vec<u8> {
    [span(1, &[1; 32]), number(2, 100), number(3, level), number(4, entries), number(5, bytes)].concat()
}

#[test]
fn nodes_are_bounded() {
    let decode = |kind: TreeKind, fields: &[u8]| {
        Node::decode(Bytes::copy_from_slice(&[&number(1, kind as u64), fields].concat()), kind, None)
    };
    let piece = [span(1, &[1; 32]), number(2, 5)].concat();
    for (row, kind, fields, expected) in [
        ("another kind", TreeKind::Catalog, number(1, 2), "invalid: another kind"),
        ("too deep", TreeKind::Catalog, number(2, 33), "invalid: too deep"),
        ("level overflows", TreeKind::Catalog, number(2, 1 << 32), "invalid: too deep"),
        ("twice", TreeKind::Catalog, item(0, b"a", b"").repeat(2), "invalid: order"),
        ("not in order", TreeKind::Catalog, [item(0, b"b", b""), item(0, b"a", b"")].concat(), "invalid: order"),
        (
            "shares more than there is",
            TreeKind::Catalog,
            [item(0, b"a", b""), item(2, b"b", b"")].concat(),
            "invalid: shares more",
        ),
        ("first shares", TreeKind::Catalog, item(1, b"a", b""), "invalid: shares more"),
        ("shares without end", TreeKind::Catalog, [item(0, b"a", b""), item(u64::MAX, b"b", b"")].concat(), "invalid: too long"),
        ("long key", TreeKind::Catalog, item(0, &[b'k'; 65_536], b""), "invalid: too long"),
        ("keys in a list", TreeKind::Content, item(0, b"a", &piece), "invalid: has keys"),
        ("piece of nothing", TreeKind::Content, item(0, b"", b""), "invalid: out of bounds"),
        ("inner and empty", TreeKind::Catalog, number(2, 1), "invalid: without items"),
        (
            "child of its own level",
            TreeKind::Catalog,
            [number(2, 1), item(0, b"a", &child(1, 1, 0))].concat(),
            "invalid: wrong level",
        ),
        (
            "child two levels down",
            TreeKind::Catalog,
            [number(2, 2), item(0, b"a", &child(0, 1, 0))].concat(),
            "invalid: wrong level",
        ),
        ("empty child", TreeKind::Catalog, [number(2, 1), item(0, b"a", &child(0, 0, 0))].concat(), "invalid: empty child"),
        (
            "counts overflow",
            TreeKind::Catalog,
            [number(2, 1), item(0, b"a", &child(0, u64::MAX, 0)), item(0, b"b", &child(0, 1, 0))].concat(),
            "invalid: overflow",
        ),
        (
            "bytes overflow",
            TreeKind::Content,
            [item(0, b"", &number(2, u64::MAX)), item(0, b"", &number(2, 1))].concat(),
            "invalid: overflow",
        ),
        ("child that is none", TreeKind::Catalog, [number(2, 1), item(0, b"a", b"\x0a")].concat(), "fields"),
        ("past the end", TreeKind::Catalog, [varint(3 << 3 | 2), varint(1 << 50)].concat(), "invalid: past the end"),
        ("group", TreeKind::Catalog, vec![3 << 3 | 3], "invalid: field type"),
        ("too long", TreeKind::Catalog, vec![0; 1 << 20], "invalid: longer"),
    ] {
        refused(row, decode(kind, &fields), expected);
    }
    // 60,000 keys of 60,000 bytes each in less than 1 MiB: 3.6 GB, if anyone unfolded them.
    let bomb = [item(0, &[b'k'; 60_000], b""), (0..60_000_u32).flat_map(|n| item(60_000, &n.to_be_bytes()[1..], b"")).collect()]
        .concat();
    assert!(bomb.len() < 1 << 20);
    refused("keys unfold", decode(TreeKind::Catalog, &bomb), "invalid: unfold");
}

#[test]
fn nodes_are_what_their_parents_say() {
    let leaf = Bytes::from([number(1, 1), item(0, b"a", b"1"), item(0, b"b", b"2")].concat());
    let named = |length: usize, level: u32, entries: u64| Child {
        id: Bytes::from_static(&[1; 32]),
        length: length as u32,
        level,
        entries,
        bytes: 0,
    };
    assert!(Node::decode(leaf.clone(), TreeKind::Catalog, Some(&named(leaf.len(), 0, 2))).is_ok());
    for (row, child, expected) in [
        ("length", named(leaf.len() + 1, 0, 2), "invalid: length"),
        ("level", named(leaf.len(), 1, 2), "invalid: level"),
        ("count", named(leaf.len(), 0, 3), "invalid: counts"),
    ] {
        refused(row, Node::decode(leaf.clone(), TreeKind::Catalog, Some(&child)), expected);
    }

    let name = |leaf: &Bytes| [span(1, &[1; 32]), number(2, leaf.len() as u64), number(4, 2)].concat();
    let walk = |first: &[u8], second: &[u8], nodes_max: u64| -> Result<usize, FormatError> {
        let inner =
            Bytes::from([number(1, 1), number(2, 1), item(0, first, &name(&leaf)), item(0, second, &name(&leaf))].concat());
        let mut descent = Descent::new(TreeKind::Catalog, named(inner.len(), 1, 4), nodes_max)?;
        descent.feed(inner)?;
        let mut items = 0;
        loop {
            match descent.step()? {
                Step::Want(_) => descent.feed(leaf.clone())?,
                Step::Item(_) => items += 1,
                Step::End => return Ok(items),
            }
        }
    };
    refused("one leaf under two names", walk(b"a", b"c", 9), "invalid: begins with another key");
    refused("a leaf that reaches into its neighbour", walk(b"a", b"aa", 9), "invalid: neighbour");
    refused("more than was allowed", walk(b"a", b"c", 1), "over limit: 1");
    let mut descent = Descent::new(TreeKind::Catalog, named(leaf.len(), 0, 2), 9).expect("sound");
    descent.feed(leaf.clone()).expect("wanted");
    refused("fed twice", descent.feed(leaf.clone()), "invalid: not asked for");
}

#[test]
fn one_list_over_and_over_ends_at_the_limit() {
    // A content list of 2^30 holes that is one leaf, named twice by each of thirty levels.
    let leaf = Bytes::from([number(1, 2), item(0, b"", &number(2, 1))].concat());
    let mut nodes = vec![leaf.clone()];
    for level in 1..=30_u64 {
        let below = nodes[level as usize - 1].len() as u64;
        let value =
            [span(1, &[1; 32]), number(2, below), number(3, level - 1), number(4, 1 << (level - 1)), number(5, 1 << (level - 1))]
                .concat();
        nodes.push(Bytes::from([number(1, 2), number(2, level), item(0, b"", &value).repeat(2)].concat()));
    }
    let root =
        Child { id: Bytes::from_static(&[1; 32]), length: nodes[30].len() as u32, level: 30, entries: 1 << 30, bytes: 1 << 30 };
    let mut descent = Descent::new(TreeKind::Content, root, 1000).expect("it looks sound");
    let stopped = loop {
        match descent.step().expect("every node is sound") {
            Step::Want(child) => {
                if let Err(e) = descent.feed(nodes[child.level as usize].clone()) {
                    break e;
                }
            }
            Step::Item(_) => {}
            Step::End => panic!("a tree of 2^30 items was read with 1000 nodes"),
        }
    };
    assert_eq!(class(&stopped), "over limit: reading the nodes of a tree: more than the limit of 1000");
}
