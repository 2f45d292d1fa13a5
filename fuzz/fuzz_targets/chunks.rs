//! See `waypost_inputs::chunks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::chunks(bytes));
