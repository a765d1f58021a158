//! Sealing: what goes in comes out, whatever was changed on the way is noticed, and the bytes are those of the format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use holdfast::chunk::id::IdKey;
use holdfast::seal::compress::decompress;
use holdfast::seal::encrypt::seal_frame;
use holdfast::seal::key::{KdfFloor, KdfParams, RepositoryKeys, Secret, derive, stretch};
use holdfast::seal::{
    Compression, FRAME_OVERHEAD, FRAME_PLAIN_MAX, FrameSealer, FrameShape, Kind, Roomy, STRUCTURE_OVERHEAD, SealError,
    open_structure, seal_structure,
};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

const KINDS: [Kind; 10] = [
    Kind::Data,
    Kind::Meta,
    Kind::Trailer,
    Kind::Segment,
    Kind::Snapshot,
    Kind::Record,
    Kind::Checkpoint,
    Kind::List,
    Kind::KeySlot,
    Kind::Generation,
];
const ENTROPY: [u8; 32] = [9; 32];

fn sealer(level: i32) -> FrameSealer {
    FrameSealer::new([2; 32], 1, Secret::new([3; 32]), Secret::new([4; 32]), level)
}

fn id(plain: &[u8]) -> [u8; 32] {
    IdKey::new([5; 32]).id(plain).0
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Lines of prose-like words: compresses to a fraction.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(len + 16);
    for byte in noise(seed, len / 4 + 1) {
        out.extend_from_slice(
            [&b"anchor "[..], b"rope ", b"tide ", b"harbour\n", b"keel ", b"storm ", b"hold "][usize::from(byte) % 7],
        );
        if out.len() >= len {
            break;
        }
    }
    out.resize(len, b'.');
    out
}

#[test]
fn frames_come_back_at_every_size_and_level() {
    for len in [0, 1, 31, 64 << 10, (16 << 20) - 1, 16 << 20] {
        for (plain, packs) in [(text(1, len), len >= 64 << 10), (noise(1, len), false), (vec![0; len], len >= 31)] {
            for level in [0, 1, 3] {
                let sealer = sealer(level);
                let frame = sealer.seal(Kind::Data, &plain, &id(&plain), ENTROPY).expect("sealed");
                let expected = if packs && level > 0 { Compression::Zstd } else { Compression::Stored };
                assert_eq!(frame.shape, FrameShape { generation: 1, plain_len: len as u32, compression: expected });
                if expected == Compression::Stored {
                    assert_eq!(frame.bytes.len(), len + FRAME_OVERHEAD);
                } else {
                    assert!(frame.bytes.len() < len - len / 32 + FRAME_OVERHEAD);
                }
                // Frames are made in the chunk's own buffer, which the budget counts.
                assert!(frame.bytes.capacity() <= Roomy::size(len), "{} for {len}", frame.bytes.capacity());
                assert!(Roomy::size(len) <= (len + FRAME_OVERHEAD) * 5 / 4, "{} for {len}", Roomy::size(len));
                assert!(sealer.open(Kind::Data, frame.shape, &frame.bytes).expect("opened") == plain, "{len} at {level}");
            }
        }
    }
    let large = vec![0; FRAME_PLAIN_MAX + 1];
    assert!(matches!(sealer(3).seal(Kind::Data, &large, &[0; 32], ENTROPY), Err(SealError::Length)));
    let shape = FrameShape { generation: 1, plain_len: FRAME_PLAIN_MAX as u32 + 1, compression: Compression::Zstd };
    assert!(matches!(sealer(3).open(Kind::Data, shape, &[0; 100]), Err(SealError::Length)));
    let shape = FrameShape { plain_len: 1, ..shape };
    assert!(matches!(sealer(3).open(Kind::Data, shape, &vec![0; FRAME_PLAIN_MAX + FRAME_OVERHEAD + 1]), Err(SealError::Length)));
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3000),
        (any::<u64>(), 0..200_000_usize).prop_map(|(seed, len)| text(seed, len)),
        (any::<u64>(), 0..50_000_usize).prop_map(|(seed, len)| [text(seed, len), noise(seed, len)].concat()),
        Just(Vec::new()),
    ]
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens(plain in some_bytes(), entropy in any::<[u8; 32]>(), level in 0..6, meta in any::<bool>()) {
        let (sealer, kind) = (sealer(level), if meta { Kind::Meta } else { Kind::Data });
        let frame = sealer.seal(kind, &plain, &id(&plain), entropy).expect("sealed");
        prop_assert!(frame.bytes.len() <= plain.len() + FRAME_OVERHEAD);
        prop_assert_eq!(sealer.open(kind, frame.shape, &frame.bytes).expect("opened"), &plain[..]);
        let again = sealer.seal(kind, &plain, &id(&plain), entropy).expect("sealed");
        prop_assert!(again.bytes == frame.bytes, "the same input under the same randomness says nothing new");

        let secret = Secret::new(entropy);
        let stored = seal_structure(&secret, &[2; 32], kind, b"place", &plain, entropy);
        prop_assert_eq!(stored.len(), plain.len() + STRUCTURE_OVERHEAD);
        prop_assert_eq!(open_structure(&secret, &[2; 32], kind, b"place", &stored).expect("opened"), plain);
    }

    #[test]
    fn any_bytes_are_opened_without_panic(stored in some_bytes(), plain_len in any::<u32>(), zstd in any::<bool>(), generation in 0..3_u32) {
        let compression = if zstd { Compression::Zstd } else { Compression::Stored };
        let shape = FrameShape { generation, plain_len, compression };
        prop_assert!(sealer(3).open(Kind::Data, shape, &stored).is_err());
        prop_assert!(open_structure(&Secret::new([3; 32]), &[2; 32], Kind::Record, b"", &stored).is_err());
        prop_assert!(decompress(&stored, plain_len as usize % (1 << 20), &mut Vec::new()).is_err());
    }

    #[test]
    fn damaged_zstd_frames_unfold_to_their_length_or_not_at_all(seed in any::<u64>(), at in any::<proptest::sample::Index>(), flip in 1..=255_u8) {
        let plain = text(seed, 5000);
        let mut packed = zstd::bulk::compress(&plain, 3).expect("compressed");
        let at = at.index(packed.len());
        packed[at] ^= flip;
        let mut out = Vec::new();
        match decompress(&packed, plain.len(), &mut out) {
            Ok(()) => prop_assert_eq!(out.len(), plain.len()),
            Err(_) => prop_assert!(out.is_empty()),
        }
    }
}

#[test]
fn no_frame_opens_as_another() {
    let mut sealers = [sealer(3), sealer(3)];
    sealers[1].repository = [7; 32];
    for sealer in &mut sealers {
        sealer.generations.insert(2, Secret::new([8; 32]));
    }
    let (lengths, compressions) = ([999, 1000, 1001, 0, 16 << 20], [Compression::Stored, Compression::Zstd]);
    let mut refused = 0;
    for (plain, compression) in [(noise(1, 1000), Compression::Stored), (text(1, 1000), Compression::Zstd)] {
        for kind in KINDS {
            let frame = sealers[0].seal(kind, &plain, &id(&plain), ENTROPY).expect("sealed");
            assert_eq!(frame.shape.compression, compression);
            for (as_kind, sealer) in KINDS.iter().flat_map(|kind| sealers.iter().map(move |sealer| (*kind, sealer))) {
                for (plain_len, as_compression) in
                    lengths.iter().flat_map(|len| compressions.map(|compression| (*len, compression)))
                {
                    for generation in [1, 2] {
                        let shape = FrameShape { generation, plain_len, compression: as_compression };
                        let opened = sealer.open(as_kind, shape, &frame.bytes);
                        if shape == frame.shape && as_kind == kind && sealer.repository == sealers[0].repository {
                            assert_eq!(opened.expect("opened"), plain);
                        } else {
                            assert!(
                                matches!(opened, Err(SealError::Authentication)),
                                "{kind:?} as {as_kind:?} {shape:?}: {opened:?}"
                            );
                            refused += 1;
                        }
                    }
                }
            }
            let shape = FrameShape { generation: 3, ..frame.shape };
            assert!(matches!(sealers[0].open(kind, shape, &frame.bytes), Err(SealError::Generation(3))));
        }
    }
    assert_eq!(refused, 2 * 10 * (10 * 2 * 5 * 2 * 2 - 1));

    sealers[0].current = 3;
    assert!(matches!(sealers[0].seal(Kind::Data, b"", &[0; 32], ENTROPY), Err(SealError::Generation(3))));
}

#[test]
fn no_structure_opens_as_another() {
    let secrets = [Secret::new([3; 32]), Secret::new([6; 32])];
    let repositories = [[2; 32], [7; 32]];
    let contexts: [&[u8]; 4] = [b"", b"\0", b"log/1", b"log/2"];
    let places: Vec<_> = (0..2)
        .flat_map(|secret| repositories.iter().map(move |repository| (secret, repository)))
        .flat_map(|(secret, repository)| KINDS.iter().map(move |kind| (secret, repository, *kind)))
        .flat_map(|(secret, repository, kind)| contexts.iter().map(move |context| (secret, repository, kind, *context)))
        .collect();
    for here in &places {
        let stored = seal_structure(&secrets[here.0], here.1, here.2, here.3, b"a record", ENTROPY);
        for there in &places {
            let opened = open_structure(&secrets[there.0], there.1, there.2, there.3, &stored);
            if here == there {
                assert_eq!(opened.expect("opened"), b"a record");
            } else {
                assert!(matches!(opened, Err(SealError::Authentication)), "{here:?} as {there:?}");
            }
        }
    }
}

#[test]
fn frames_and_structures_never_stand_in_for_each_other() {
    let sealer = sealer(0);
    let secret = &sealer.generations[&1];
    let frame = sealer.seal(Kind::Meta, &[1; 100], &[0; 32], ENTROPY).expect("sealed");
    assert!(matches!(open_structure(secret, &[2; 32], Kind::Meta, b"", &frame.bytes), Err(SealError::Authentication)));
    let stored = seal_structure(secret, &[2; 32], Kind::Meta, b"", &[1; 100], ENTROPY);
    for plain_len in [100, 132] {
        let shape = FrameShape { plain_len, ..frame.shape };
        assert!(matches!(sealer.open(Kind::Meta, shape, &stored), Err(SealError::Authentication)));
    }
}

#[test]
fn every_flipped_bit_and_every_missing_byte_is_noticed() {
    let secret = Secret::new([3; 32]);
    for plain in [noise(1, 40), vec![b'x'; 200], Vec::new()] {
        let sealer = sealer(3);
        let frame = sealer.seal(Kind::Data, &plain, &id(&plain), ENTROPY).expect("sealed");
        let structure = seal_structure(&secret, &[2; 32], Kind::Record, b"place", &plain, ENTROPY);
        let open_frame = |bytes: &[u8]| sealer.open(Kind::Data, frame.shape, bytes);
        let open_structure = |bytes: &[u8]| open_structure(&secret, &[2; 32], Kind::Record, b"place", bytes);
        type Door<'a> = (&'a [u8], usize, &'a dyn Fn(&[u8]) -> Result<Vec<u8>, SealError>);
        let doors: [Door<'_>; 2] =
            [(&frame.bytes, FRAME_OVERHEAD, &open_frame), (&structure, STRUCTURE_OVERHEAD, &open_structure)];
        for (stored, overhead, open) in doors {
            assert_eq!(open(stored).expect("opened"), plain);
            for bit in 0..stored.len() * 8 {
                let mut damaged = stored.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(open(&damaged), Err(SealError::Authentication)), "bit {bit}");
            }
            for len in 0..stored.len() {
                match open(&stored[..len]) {
                    Err(SealError::Length) => assert!(len < overhead),
                    Err(SealError::Authentication) => assert!(len >= overhead),
                    other => panic!("{len} bytes of {}: {other:?}", stored.len()),
                }
            }
            assert!(matches!(open(&[stored, &[0]].concat()), Err(SealError::Authentication)));
        }
    }
}

#[test]
fn a_faulty_encoder_is_found_and_nothing_is_sealed() {
    let plain = text(1, 100_000);
    let honest = |plain: &[u8], packed: &mut Vec<u8>| *packed = zstd::bulk::compress(plain, 3).expect("compressed");
    type Fault = (&'static str, Box<dyn Fn(&[u8], &mut Vec<u8>) -> Result<(), SealError>>);
    let faults: Vec<Fault> = vec![
        (
            "other bytes of the same length",
            Box::new(move |plain, packed| {
                let mut plain = plain.to_vec();
                plain[50_000] ^= 1;
                honest(&plain, packed);
                Ok(())
            }),
        ),
        (
            "a byte too few",
            Box::new(move |plain, packed| {
                honest(&plain[1..], packed);
                Ok(())
            }),
        ),
        (
            "a byte too many",
            Box::new(move |plain, packed| {
                honest(&[plain, b"!"].concat(), packed);
                Ok(())
            }),
        ),
        (
            "a cut frame",
            Box::new(move |plain, packed| {
                honest(plain, packed);
                packed.pop();
                Ok(())
            }),
        ),
        (
            "a frame and more",
            Box::new(move |plain, packed| {
                honest(plain, packed);
                packed.push(0);
                Ok(())
            }),
        ),
        (
            "nothing",
            Box::new(|_, packed| {
                packed.clear();
                Ok(())
            }),
        ),
        ("an error", Box::new(|_, _| Err(SealError::Encoder))),
    ];
    let sealer = sealer(3);
    for (fault, encoder) in faults {
        let mut encoder = |plain: &[u8], packed: &mut Vec<u8>| encoder(plain, packed);
        let sealed = sealer.seal_with(Some(&mut encoder), Kind::Data, &plain, &id(&plain), ENTROPY);
        assert!(matches!(sealed, Err(SealError::Encoder)), "{fault}");
    }
    let mut calls = 0;
    let mut counted = |plain: &[u8], packed: &mut Vec<u8>| {
        calls += 1;
        honest(plain, packed);
        Ok(())
    };
    let frame = sealer.seal_with(Some(&mut counted), Kind::Data, &plain, &id(&plain), ENTROPY).expect("an honest encoder passes");
    assert_eq!(sealer.open(Kind::Data, frame.shape, &frame.bytes).expect("opened"), plain);
    assert_eq!(calls, 1);
}

/// Every bit of every compressed form, flipped by the encoder itself: sealed only if it unfolds to the same bytes.
#[test]
fn a_flipped_bit_between_encoder_and_seal_is_found() {
    let plain = text(2, 2000);
    let sealer = sealer(3);
    let bits = zstd::bulk::compress(&plain, 3).expect("compressed").len() * 8;
    let mut found = 0;
    for bit in 0..bits {
        let mut encoder = |plain: &[u8], packed: &mut Vec<u8>| {
            *packed = zstd::bulk::compress(plain, 3).expect("compressed");
            packed[bit / 8] ^= 1 << (bit % 8);
            Ok(())
        };
        match sealer.seal_with(Some(&mut encoder), Kind::Data, &plain, &id(&plain), ENTROPY) {
            Ok(frame) => assert!(sealer.open(Kind::Data, frame.shape, &frame.bytes).expect("opened") == plain, "bit {bit}"),
            Err(error) => {
                assert!(matches!(error, SealError::Encoder), "bit {bit}: {error}");
                found += 1;
            }
        }
    }
    assert!(found > bits * 9 / 10, "{found} of {bits}");
}

/// One raw block in a frame that asks for the window that the byte stands for.
fn windowed(window: u8, content: &[u8]) -> Vec<u8> {
    let block = (content.len() as u32) << 3 | 1;
    let header = [&[0x28, 0xB5, 0x2F, 0xFD, 0x80, window][..], &(content.len() as u32).to_le_bytes(), &block.to_le_bytes()[..3]];
    [&header.concat(), content].concat()
}

#[test]
fn only_one_frame_of_the_declared_length_is_unfolded() {
    let plain = text(1, 5000);
    let frame = zstd::bulk::compress(&plain, 3).expect("compressed");
    let mut unsized_frame = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("encoder");
    unsized_frame.write_all(&plain).expect("written");
    let unsized_frame = unsized_frame.finish().expect("finished");
    let skippable = [&0x184D2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
    let empty = zstd::bulk::compress(b"", 3).expect("compressed");

    let unfolds = |packed: &[u8], len: usize| {
        let mut out = b"left over".to_vec();
        let result = decompress(packed, len, &mut out);
        assert!(result.is_ok() || (matches!(result, Err(SealError::Decoder)) && out.is_empty()));
        result.is_ok() && out == plain
    };
    assert!(unfolds(&frame, 5000));
    for len in [0, 4999, 5001, usize::MAX] {
        assert!(!unfolds(&frame, len), "{len}");
    }
    assert!(!unfolds(&unsized_frame, 5000), "no length declared");
    assert!(!unfolds(&[&frame[..], b"junk"].concat(), 5000));
    assert!(!unfolds(&[&frame[..], &frame].concat(), 5000) && !unfolds(&[&frame[..], &frame].concat(), 10_000));
    assert!(!unfolds(&[&skippable[..], &frame].concat(), 5000) && !unfolds(&[&frame[..], &skippable].concat(), 5000));
    assert!(!unfolds(&skippable, 0) && !unfolds(&empty, 0) && !unfolds(&[&frame[..], &empty].concat(), 5000));
    assert!(!unfolds(b"", 0) && !unfolds(&plain, 5000) && !unfolds(&frame[..8], 5000));

    assert!(unfolds(&windowed(0, &plain), 5000));
    assert!(unfolds(&windowed(14 << 3, &plain), 5000), "16 MiB is the largest window");
    assert!(
        !unfolds(&windowed(14 << 3 | 1, &plain), 5000)
            && !unfolds(&windowed(15 << 3, &plain), 5000)
            && !unfolds(&windowed(0xFF, &plain), 5000)
    );
}

/// An authentic frame that unfolds to more than it declares: only a holder of the keys can make one, and it is refused, too.
#[test]
fn a_compression_bomb_is_refused() {
    let sealer = sealer(3);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).expect("compressed");
    let honest = zstd::bulk::compress(&vec![0; 4096], 3).expect("compressed");
    for (packed, plain_len, opens) in
        [(&bomb, 64 << 10, false), (&bomb, 16 << 20, false), (&honest, 4095, false), (&honest, 4096, true)]
    {
        let mut aad = b"HFfr".to_vec();
        aad.extend_from_slice(&[2; 32]);
        aad.push(1);
        aad.extend_from_slice(&u32::to_le_bytes(plain_len));
        aad.push(1);
        aad.extend_from_slice(&[0; 4]);
        let mut stored = [&[0; 24][..], packed].concat();
        seal_frame(&sealer.generations[&1], &[6; 24], &aad, &mut stored);
        let shape = FrameShape { generation: 1, plain_len, compression: Compression::Zstd };
        match sealer.open(Kind::Data, shape, &stored) {
            Ok(plain) => assert!(opens && plain == vec![0; plain_len as usize]),
            Err(error) => assert!(!opens && matches!(error, SealError::Decoder), "{plain_len}: {error}"),
        }
    }
}

/// A cloned machine draws the same randomness again: other content, kind, packing or place still gets another key.
#[test]
fn repeated_randomness_never_repeats_a_key_for_other_bytes() {
    let mut salts = BTreeSet::new();
    let stored = sealer(0);
    let secret = Secret::new([3; 32]);
    for i in 0..100_000_u32 {
        let plain = i.to_le_bytes();
        let frame = stored.seal(Kind::Data, &plain, &id(&plain), ENTROPY).expect("sealed");
        assert!(salts.insert(frame.bytes[..24].to_vec()), "{i}");
    }
    for i in 0..100_000_u32 {
        let structure = seal_structure(&secret, &[2; 32], Kind::Record, b"", &i.to_le_bytes(), ENTROPY);
        assert!(salts.insert(structure[..24].to_vec()), "{i}");
    }
    let plain = text(1, 5000);
    for kind in [Kind::Data, Kind::Meta] {
        for level in [0, 1, 3, 9] {
            let frame = sealer(level).seal(kind, &plain, &id(&plain), ENTROPY).expect("sealed");
            assert!(salts.insert(frame.bytes[..24].to_vec()), "{kind:?} at {level}");
        }
        for context in [&b"a"[..], b"ab", b""] {
            let structure = seal_structure(&secret, &[2; 32], kind, context, b"b", ENTROPY);
            assert!(salts.insert(structure[..24].to_vec()));
        }
    }
    let other = stored.seal(Kind::Data, &plain, &id(&plain), [10; 32]).expect("sealed");
    assert!(salts.insert(other.bytes[..24].to_vec()), "fresh randomness alone is enough");
}

#[test]
fn one_sealer_serves_many_threads() {
    let sealer = sealer(3);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let sealer = &sealer;
            scope.spawn(move || {
                for i in 0..50 {
                    let plain = [text(thread * 100 + i, 3000), noise(i, 100)].concat();
                    let frame = sealer.seal(Kind::Meta, &plain, &id(&plain), [i as u8; 32]).expect("sealed");
                    assert_eq!(sealer.open(Kind::Meta, frame.shape, &frame.bytes).expect("opened"), plain);
                }
            });
        }
    });
}

/// The bytes that the format promises. The inputs are told in the file; each vector must be asserted here.
#[test]
fn vectors_are_frozen() {
    let mut vectors: BTreeMap<&str, Vec<u8>> = include_str!("vectors/seal.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" = ").expect("name = hex"))
        .map(|(name, bytes)| (name, hex::decode(bytes).expect("hex")))
        .collect();
    let mut differing = Vec::new();
    let mut assert_vector = |name: &str, found: &[u8]| {
        if vectors.remove(name).as_deref() != Some(found) {
            differing.push(format!("{name} = {}", hex::encode(found)));
        }
    };

    let counted = |from: u8| -> [u8; 32] { std::array::from_fn(|i| from + i as u8) };
    let root = Secret::new(counted(0));
    let keys = RepositoryKeys::from_root(&root);
    let labels = ["chunk-id", "chunker", "log", "index", "salt", "wrap"];
    let derived = [&keys.chunk_id, &keys.chunker, &keys.log, &keys.index, &keys.salt, &keys.wrap];
    for (label, secret) in labels.into_iter().zip(derived) {
        assert_vector(&format!("derive.{label}"), secret.expose());
    }
    assert_vector("derive.structure-salt", derive(&keys.log, "structure salt").expose());

    let params = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
    let stretched = stretch(b"correct horse battery staple", &counted(0x40), &params, KdfFloor::Standard).expect("stretched");
    assert_vector("stretch.19m-2-1", stretched.expose());
    let stretched = stretch(b"correct horse battery staple", &counted(0x40), &KdfParams::default(), KdfFloor::Standard);
    assert_vector("stretch.64m-3-4", stretched.expect("stretched").expose());

    let id_key = IdKey::new(*keys.chunk_id.expose());
    assert_vector("chunk-id.empty", &id_key.id(b"").0);
    assert_vector("chunk-id.holdfast", &id_key.id(b"holdfast").0);

    let sealer = FrameSealer::new(counted(0x20), 7, Secret::new(counted(0x80)), keys.salt.clone(), 0);
    let plain = b"fair winds and following seas";
    let mut frame = vec![0; 24];
    frame.extend_from_slice(plain);
    let aad = [&b"HFfr"[..], &counted(0x20), &[1], &29_u32.to_le_bytes(), &[0], &[0; 4]].concat();
    seal_frame(&sealer.generations[&7], &std::array::from_fn(|i| 0xA0 + i as u8), &aad, &mut frame);
    assert_vector("frame.stored", &frame);
    let shape = FrameShape { generation: 7, plain_len: 29, compression: Compression::Stored };
    assert_eq!(sealer.open(Kind::Data, shape, &frame).expect("opened"), plain);

    // What an encoder makes differs from release to release, so this was packed by hand: one run of 300 zeros.
    let shape = FrameShape { generation: 7, plain_len: 300, compression: Compression::Zstd };
    let mut frame = [&[0; 24][..], &[0x28, 0xB5, 0x2F, 0xFD, 0x60, 44, 0, 0x63, 0x09, 0, 0]].concat();
    let aad = [&b"HFfr"[..], &counted(0x20), &[2], &300_u32.to_le_bytes(), &[1], &[0; 4]].concat();
    seal_frame(&sealer.generations[&7], &std::array::from_fn(|i| 0xA0 + i as u8), &aad, &mut frame);
    assert_vector("frame.zstd", &frame);
    assert_eq!(sealer.open(Kind::Meta, shape, &frame).expect("opened"), vec![0; 300]);

    let structure = seal_structure(&keys.log, &counted(0x20), Kind::Record, b"log/1", plain, counted(0xC0));
    assert_vector("structure.record", &structure);
    assert_eq!(open_structure(&keys.log, &counted(0x20), Kind::Record, b"log/1", &structure).expect("opened"), plain);

    assert!(differing.is_empty(), "these differ:\n{}", differing.join("\n"));
    assert!(vectors.is_empty(), "never asserted: {:?}", vectors.keys());
}
