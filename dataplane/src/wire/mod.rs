//! Wire formats: pure functions over bytes, one file per protocol.
//!
//! Each file holds the offsets of its header, readers that return `Option` instead of panicking,
//! writers that leave checksums right, and its tests with literal bytes.

pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
