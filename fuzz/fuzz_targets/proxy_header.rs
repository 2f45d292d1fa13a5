//! See `waypost_inputs::proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| waypost_inputs::proxy_header(bytes));
