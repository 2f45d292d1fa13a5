//! See `waypost_inputs::parts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::parts(bytes));
