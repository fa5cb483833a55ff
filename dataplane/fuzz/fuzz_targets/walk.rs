//! Services, frames, time and edits of rules, as the bytes say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::walk(data));
