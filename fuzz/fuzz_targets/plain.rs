//! See `waypost_inputs::plain`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::plain(bytes));
