//! What must hold of every parser of bytes from a store, whatever the bytes are: the suite drives it for a while on stable
//! Rust (`fuzz_parsers`), cargo-fuzz for as long as wanted (`tests/fuzz`).

use holdfast::format::key_slot::KeyFile;
use holdfast::format::{FormatError, catalog};

use crate::format_samples::Sample;

/// Reads without a panic of the reader's own; an error has something to say.
pub fn read(sample: &Sample, stored: &[u8]) -> Result<Vec<u8>, FormatError> {
    let result = (sample.read)(stored);
    if let Err(e) = &result {
        assert!(!e.to_string().is_empty());
    }
    result
}

/// Stored bytes that may have been changed on their way: what guards its own bytes is refused unless it is untouched.
pub fn stored(sample: &Sample, stored: &[u8]) {
    let result = read(sample, stored);
    // All but entries and nodes, which are chunks and verified by their ids, guard their own bytes.
    let guarded = !sample.name.starts_with("node") && sample.name != "entry" && sample.name != "pack";
    assert!(!guarded || result.is_err() || stored == sample.written, "{} was accepted: {}", sample.name, hex::encode(stored));
}

/// Fields that a holder of the keys wrote: what is accepted is understood the same way when it is written and read again.
/// Says whether it was accepted.
pub fn fields(sample: &Sample, plain: &[u8]) -> bool {
    let Ok(understood) = read(sample, &(sample.wrap)(plain)) else { return false };
    let written_again = matches!(
        sample.name.split('.').next(),
        Some("descriptor" | "record" | "pack" | "segment" | "snapshot" | "checkpoint" | "entry")
    );
    if written_again {
        let again = read(sample, &(sample.wrap)(&understood))
            .unwrap_or_else(|e| panic!("{}: what was read cannot be read again: {e}", sample.name));
        assert_eq!(again, understood, "{}", sample.name);
    }
    true
}

/// Text and names: key files, catalog keys and how they are shown.
pub fn names(bytes: &[u8]) {
    let _ = KeyFile::parse(&String::from_utf8_lossy(bytes));
    if catalog::verify_key(bytes).is_ok() {
        assert!(catalog::components(bytes).all(|part| !part.is_empty() && part != b".." && !part.contains(&b'/')));
    }
    assert!(!catalog::display(bytes).chars().any(char::is_control));
}
