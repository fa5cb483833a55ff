//! Any bytes as a message of connection synchronisation.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::sync(data));
