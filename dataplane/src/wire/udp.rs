//! UDP (RFC 768): offsets in the header.

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Offset of the source port.
pub const SRC_PORT: usize = 0;
/// Offset of the destination port.
pub const DST_PORT: usize = 2;
/// Offset of the length, header included.
pub const LENGTH: usize = 4;
/// Offset of the checksum; 0 there means that the sender computed none.
pub const CHECKSUM: usize = 6;
