//! Owns the way from the fuzzer to `bodies::snapshots`.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::snapshots(data));
