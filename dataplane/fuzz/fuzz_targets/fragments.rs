//! Pieces of packets in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::fragments(data));
