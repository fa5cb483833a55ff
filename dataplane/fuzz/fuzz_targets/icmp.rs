//! ICMP messages around packets of live connections.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::icmp(data));
