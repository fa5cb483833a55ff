//! Wire formats: pure functions over bytes, one file per protocol.
//!
//! Readers return `Option` instead of panicking on short input, writers leave the checksums they
//! are responsible for right, and tests stand at the end of each file with literal bytes.

pub mod announce;
pub mod checksum;
pub mod ethernet;
pub mod fragment;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod segment;
pub mod tcp;
pub mod tunnel;
pub mod udp;
