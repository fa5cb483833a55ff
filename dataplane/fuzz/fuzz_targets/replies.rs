//! Any bytes as what a server answers to a health check.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::replies(data));
