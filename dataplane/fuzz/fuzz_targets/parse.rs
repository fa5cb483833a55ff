//! Any bytes to the parsers: offsets they return lie within the frame, and the fragmenter's
//! pieces add up.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::parse(data));
