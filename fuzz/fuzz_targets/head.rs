//! See `waypost_inputs::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::head(bytes));
