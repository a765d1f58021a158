//! Text and names: key files, catalog keys and how they are shown.
#![no_main]

#[path = "../../suite/format_samples.rs"]
#[allow(dead_code, reason = "the drivers name it")]
mod format_samples;
#[path = "../../suite/fuzz_drivers.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod fuzz_drivers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz_drivers::names(data));
