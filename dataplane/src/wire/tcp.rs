//! TCP (RFC 9293): offsets in the header.

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Offset of the source port.
pub const SRC_PORT: usize = 0;
/// Offset of the destination port.
pub const DST_PORT: usize = 2;
/// Offset of the flags byte.
pub const FLAGS: usize = 13;
/// Offset of the checksum.
pub const CHECKSUM: usize = 16;
