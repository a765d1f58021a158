//! The pure chain on one core: cut, hash, compress and compare, encrypt; each step and all of them, in GB/s of plaintext.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use holdfast::chunk::id::IdKey;
use holdfast::chunk::split::{ChunkerSpec, Splitter};
use holdfast::seal::compress::{Encoder, compress, with_room, zstd_encoder};
use holdfast::seal::encrypt::{SALT, TAG, seal_frame};
use holdfast::seal::key::Secret;
use holdfast::seal::{FrameSealer, Kind};

const LEN: usize = 128 << 20;
const ROUNDS: usize = 5;
const LEVEL: i32 = 3;

fn random(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"random").finalize_xof().fill(&mut out);
    out
}

/// Words drawn from a vocabulary of 4096, the small numbers far more often than the large ones, in lines.
fn text(len: usize) -> Vec<u8> {
    let letters = random(4096 * 12);
    let words: Vec<Vec<u8>> = letters
        .chunks_exact(12)
        .map(|raw| raw[1..2 + usize::from(raw[0]) % 10].iter().map(|letter| b'a' + letter % 26).collect())
        .collect();
    let mut out = Vec::with_capacity(len + 16);
    for draw in random(len).chunks_exact(4) {
        let (a, b) = (usize::from(draw[0]) | usize::from(draw[1]) << 8, usize::from(draw[2]) | usize::from(draw[3]) << 8);
        out.extend_from_slice(&words[(a % 4096) * (b % 4096) / 4096]);
        out.push(if draw[3] < 20 { b'\n' } else { b' ' });
        if out.len() >= len {
            break;
        }
    }
    out.truncate(len);
    out
}

/// The fastest round: what the machine can do when nothing else wants it.
fn figure(name: &str, len: usize, mut work: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        work();
        best = best.min(started.elapsed());
    }
    println!("  {name:<28} {:>6.2} GB/s", len as f64 / best.as_secs_f64() / 1e9);
}

fn main() {
    let splitter = Splitter::new(ChunkerSpec::default(), &[1; 32]).expect("the default sizes are valid");
    let ids = IdKey::new([2; 32]);
    let secret = Secret::new([3; 32]);
    let sealer = FrameSealer::new([4; 32], 1, secret.clone(), Secret::new([5; 32]), LEVEL);

    for (name, data) in [("random", random(LEN)), ("text", text(LEN))] {
        let mut chunks: Vec<&[u8]> = Vec::new();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(splitter.cut(rest));
            chunks.push(chunk);
            rest = after;
        }
        let frames: Vec<_> =
            chunks.iter().map(|chunk| sealer.seal(Kind::Data, chunk, &ids.id(chunk).0, [6; 32]).expect("sealed")).collect();
        let sealed: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
        println!(
            "{name}: {} chunks, {} KiB on average, sealed to {:.3}",
            chunks.len(),
            data.len() / chunks.len() / 1024,
            sealed as f64 / data.len() as f64
        );

        figure("cut", data.len(), || {
            let mut rest = &data[..];
            while !rest.is_empty() {
                rest = &rest[black_box(splitter.cut(rest))..];
            }
        });
        figure("hash", data.len(), || {
            for chunk in &chunks {
                black_box(ids.id(chunk));
            }
        });
        figure("compress and compare", data.len(), || {
            let mut zstd = zstd_encoder(LEVEL);
            for chunk in &chunks {
                black_box(compress(Some(&mut zstd as &mut Encoder<'_>), &mut with_room(chunk)).expect("compressed"));
            }
        });
        figure("encrypt (uncompressed)", data.len(), || {
            let mut buffer = Vec::new();
            for chunk in &chunks {
                buffer.clear();
                buffer.reserve(SALT + chunk.len() + TAG);
                buffer.resize(SALT, 0);
                buffer.extend_from_slice(chunk);
                seal_frame(&secret, &[7; SALT], b"aad", &mut buffer);
                black_box(&buffer);
            }
        });
        figure("the whole chain", data.len(), || {
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(splitter.cut(rest));
                let id = ids.id(chunk);
                black_box(sealer.seal(Kind::Data, chunk, &id.0, [6; 32]).expect("sealed"));
                rest = after;
            }
        });
        figure("open and verify", data.len(), || {
            for frame in &frames {
                let plain = sealer.open(Kind::Data, frame.shape, &frame.bytes).expect("opened");
                black_box(ids.id(&plain));
            }
        });
    }
}
