//! See `waypost_inputs::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::template(bytes));
