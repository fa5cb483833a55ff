//! VRRP (RFC 3768, RFC 5798) as a sans-IO state machine. The election itself arrives with the
//! keepalived replacement; until then this crate holds the protocol constants the twin needs.
#![forbid(unsafe_code)]

/// IP protocol number of VRRP (RFC 5798, 5.1.1.4).
pub const PROTOCOL: u8 = 112;
