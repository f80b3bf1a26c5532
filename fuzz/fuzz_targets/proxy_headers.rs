//! Owns the way from the fuzzer to `bodies::proxy_headers`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::proxy_headers(data));
