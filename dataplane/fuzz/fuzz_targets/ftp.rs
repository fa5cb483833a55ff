//! What FTP clients and servers say on a control connection, and the data connections of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_fuzz::ftp(data));
