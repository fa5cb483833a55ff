//! Any bytes as what other nodes of RVS say, or as the records of a table.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::peer(data));
