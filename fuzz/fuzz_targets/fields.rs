//! See `waypost_inputs::fields`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::fields(bytes));
