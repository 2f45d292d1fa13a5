//! See `waypost_inputs::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::record(bytes));
