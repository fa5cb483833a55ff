//! Any bytes as a `keepalived.conf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::import(data));
