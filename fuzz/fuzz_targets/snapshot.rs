//! See `waypost_inputs::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::snapshot(bytes));
