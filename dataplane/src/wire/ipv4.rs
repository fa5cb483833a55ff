//! IPv4 (RFC 791): header fields.

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// DF in the fragment field.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// MF in the fragment field.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Offset, in units of 8 bytes, in the fragment field.
pub const OFFSET_MASK: u16 = 0x1fff;
