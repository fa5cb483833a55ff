//! VRRP: any bytes to the decoders, and a virtual router's life as the bytes say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::vrrp(data));
