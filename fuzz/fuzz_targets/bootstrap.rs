//! See `waypost_inputs::bootstrap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::bootstrap(bytes));
