//! Fields that a holder of the keys wrote: the first byte chooses the structure, the rest is sealed and read.
#![no_main]

#[path = "../../suite/format_samples.rs"]
#[allow(dead_code, reason = "the suite uses more of it")]
mod format_samples;
#[path = "../../suite/fuzz_drivers.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod fuzz_drivers;

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;

/// A structure with its two doors. The doors are closures over constants.
struct Samples(Vec<format_samples::Sample>);

thread_local! {
    static SAMPLES: LazyCell<Samples> = LazyCell::new(|| Samples(format_samples::samples()));
}

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    SAMPLES.with(|samples| {
        let sample = &samples.0[usize::from(*which) % samples.0.len()];
        fuzz_drivers::fields(sample, bytes);
    });
});
