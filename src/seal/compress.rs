//! Compression with its proof: what zstd made is unfolded again and compared before anyone relies on it.
//!
//! Encoders have shipped bugs that lost data, and memory flips bits. Both show here, while the source is still at hand.

use std::sync::{Mutex, PoisonError};

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{DParameter, find_frame_compressed_size, get_frame_content_size};

use crate::seal::encrypt::{SALT, TAG};
use crate::seal::{Compression, SealError};

/// Turns plaintext (first) into one zstd frame that replaces what the buffer (second) held.
///
/// Whatever it does wrong is found by [`compress`]; tests hand in broken ones.
pub type Encoder<'a> = dyn FnMut(&[u8], &mut Vec<u8>) -> Result<(), SealError> + 'a;

/// A compressed form must save at least this part of the plaintext (3.1 percent), else it is stored as it is: for less
/// it is not worth unfolding at every restore.
const WORTHWHILE: usize = 32;
/// Largest window that a frame may ask for, as a power of two: that of the largest plaintext, 16 MiB.
const WINDOW_LOG_MAX: u32 = 24;
/// Buffers shrink to this after larger frames, in bytes, so that idle ones hold little.
const KEPT: usize = 4 << 20;
/// First bytes of a zstd frame (RFC 8878, section 3.1.1); skippable frames have others.
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

static COMPRESSORS: Idle<(i32, Compressor<'static>)> = Idle::new();
static DECOMPRESSORS: Idle<Decompressor<'static>> = Idle::new();
static BUFFERS: Idle<Vec<u8>> = Idle::new();

/// What calls work with, between calls: there are never more than calls were under way at once. Kept per thread, each of
/// very many threads would come to hold megabytes, as jobs wander over all of them.
struct Idle<T>(Mutex<Vec<T>>);

impl<T> Idle<T> {
    const fn new() -> Idle<T> {
        Idle(Mutex::new(Vec::new()))
    }

    fn take(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().rposition(fits)?;
        Some(idle.swap_remove(at))
    }

    fn put(&self, back: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(back);
    }
}

/// Lends an empty buffer, and takes it back.
pub fn lend<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut lent = BUFFERS.take(|_| true).unwrap_or_default();
    let result = work(&mut lent);
    lent.clear();
    lent.shrink_to(KEPT);
    BUFFERS.put(lent);
    result
}

/// The encoder in use: zstd at `level` (1 to 22), its context kept for the next call.
pub fn zstd_encoder(level: i32) -> impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), SealError> {
    move |plain, packed| {
        packed.clear();
        packed.reserve(zstd::compress_bound(plain.len()));
        let mut context = match COMPRESSORS.take(|(at, _)| *at == level) {
            Some((_, context)) => context,
            None => Compressor::new(level).map_err(|_| SealError::Encoder)?,
        };
        let done = context.compress_to_buffer(plain, packed);
        COMPRESSORS.put((level, context));
        done.map(drop).map_err(|_| SealError::Encoder)
    }
}

/// Packs the plaintext in `buffer` for encryption, in place: there are [`SALT`] bytes of room in front, before and after.
/// Without an encoder, and when that saves less than 3.1 percent, the plaintext stays as it is.
///
/// [`SealError::Encoder`] when the encoder fails, or its bytes would be used and do not unfold to the plaintext.
pub fn compress(encoder: Option<&mut Encoder<'_>>, buffer: &mut Vec<u8>) -> Result<Compression, SealError> {
    let Some(encoder) = encoder else { return Ok(Compression::Stored) };
    if buffer.len() <= SALT {
        return Ok(Compression::Stored);
    }
    lend(|packed| {
        let plain = &buffer[SALT..];
        encoder(plain, packed)?;
        if packed.len().saturating_add(plain.len() / WORTHWHILE) >= plain.len() {
            return Ok(Compression::Stored);
        }
        lend(|unfolded| {
            let unfolding = decompress(packed, plain.len(), unfolded);
            if unfolding.is_ok() && unfolded == plain { Ok(()) } else { Err(SealError::Encoder) }
        })?;
        buffer.truncate(SALT);
        buffer.extend_from_slice(packed);
        Ok(Compression::Zstd)
    })
}

/// Bytes that the buffer of a plaintext of `length` bytes takes. There are few such lengths, four from one power of two to the
/// next: with one for each chunk, the heap would keep holes between them that fit none of the next.
pub fn room(length: usize) -> usize {
    let least = SALT + length + TAG;
    least.next_multiple_of(1 << (least.ilog2().saturating_sub(2)))
}

/// A copy of the plaintext with room for what sealing adds, in front and behind.
pub fn with_room(plain: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(room(plain.len()));
    buffer.resize(SALT, 0);
    buffer.extend_from_slice(plain);
    buffer
}

/// Unfolds exactly one zstd frame to exactly `plain_len` bytes, which replace what `plain` held.
///
/// The header is read before anything is allocated: a frame that declares another length or none, a window above
/// 16 MiB, an empty frame, a skippable one, a second one behind it or any other bytes are [`SealError::Decoder`], as is
/// damage. `plain_len` itself is the caller's to bound.
pub fn decompress(packed: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Result<(), SealError> {
    plain.clear();
    let declared = get_frame_content_size(packed).map_err(|_| SealError::Decoder)?;
    let alone = find_frame_compressed_size(packed).is_ok_and(|len| len == packed.len());
    if plain_len == 0 || !packed.starts_with(&MAGIC) || declared != Some(plain_len as u64) || !alone || !window_fits(packed) {
        return Err(SealError::Decoder);
    }
    plain.reserve_exact(plain_len);
    let mut context = match DECOMPRESSORS.take(|_| true) {
        Some(context) => context,
        None => {
            let mut context = Decompressor::new().map_err(|_| SealError::Decoder)?;
            context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|_| SealError::Decoder)?;
            context
        }
    };
    let done = context.decompress_to_buffer(packed, plain);
    DECOMPRESSORS.put(context);
    match done {
        Ok(len) if len == plain_len => Ok(()),
        _ => {
            plain.clear();
            Err(SealError::Decoder)
        }
    }
}

/// Whether the window that the frame header asks for is allowed (RFC 8878, section 3.1.1.1.2). The decoder's own limit
/// covers streams only; here a window is as large as the output, but what we accept should not depend on that.
fn window_fits(packed: &[u8]) -> bool {
    match packed {
        // A single segment: its window is its content.
        [_, _, _, _, descriptor, ..] if descriptor & 0x20 != 0 => true,
        [_, _, _, _, _, window, ..] => {
            let (exponent, mantissa) = (u32::from(window >> 3), u64::from(window & 7));
            let least = 1_u64 << (10 + exponent);
            least + least / 8 * mantissa <= 1 << WINDOW_LOG_MAX
        }
        _ => false,
    }
}
/// The release of the encoder, as a number: other releases make other bytes of the same plaintext.
pub fn release() -> u32 {
    zstd::zstd_safe::version_number()
}
