//! VRRP versions 2 and 3 (RFC 3768, RFC 5798, RFC 9568) for IPv4 and IPv6, without I/O.
//!
//! The crate holds no socket, clock or thread. Time and what happened come in, what is to be done
//! goes out as values, so that every rule can be tested with a fake clock and a run can be written
//! down as a transcript. It elects like keepalived, with which it shares a LAN.
//!
//! - [`packet`]: advertisements on the wire and the order in which received ones are checked.
//! - [`timers`]: intervals, skew and master-down time, in keepalived's arithmetic.
//! - [`instance`]: one virtual router, a state machine that takes what happened and the time.
//! - [`track`]: what its priority depends on. [`group`]: routers that change together.
//! - [`router`]: all of a host's, and when the next of them wants to be called.
//! - [`output`]: what they want done. [`announce`]: the frames that tell a LAN of it.
#![forbid(unsafe_code)]

pub mod addr;
pub mod announce;
pub mod checksum;
pub mod config;
pub mod counters;
pub mod group;
pub mod instance;
pub mod output;
pub mod packet;
pub mod router;
pub mod time;
pub mod timers;
pub mod track;

/// IP protocol number of VRRP (RFC 5798, 5.1.1.4).
pub const PROTOCOL: u8 = 112;
