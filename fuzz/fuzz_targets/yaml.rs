//! See `waypost_inputs::yaml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::yaml(bytes));
