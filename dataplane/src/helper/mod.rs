//! Protocols that speak of addresses in their payload.

pub mod ftp;
pub mod sequence;
pub mod sip;
