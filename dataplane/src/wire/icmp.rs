//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors.

/// IP protocol number of ICMP.
pub const PROTOCOL_V4: u8 = 1;
/// Next header number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;

/// IPv4 errors that IPVS relates to a connection: unreachable, source quench, time exceeded.
#[inline(always)]
pub const fn is_related_v4(icmp_type: u8) -> bool {
    matches!(icmp_type, 3 | 4 | 11)
}

/// ICMPv6 errors are the types below 128.
#[inline(always)]
pub const fn is_error_v6(icmp_type: u8) -> bool {
    icmp_type < 128
}
