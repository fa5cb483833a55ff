//! The Internet checksum: in full (RFC 1071) and incrementally (RFC 1624).
//!
//! Sums are kept as 64-bit totals of 16-bit words in the byte order of the wire, whichever the
//! machine's (the sum does not depend on it, RFC 1071, 2(B)). Values that enter or leave a
//! header are big-endian `u16`s as everywhere else.

/// Adds the five words of an IPv4 header without options, checksum field included. Native byte
/// order inside: only [`fold`] against 0xffff makes sense of the result.
#[inline(always)]
pub fn sum_ipv4_header(h: &[u8; 20]) -> u64 {
    let word = |i: usize| u64::from(u32::from_ne_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]));
    word(0) + word(4) + word(8) + word(12) + word(16)
}

/// Adds `bytes` to `sum`, native byte order.
#[inline]
pub fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    for w in words {
        sum += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
    }
    sum + u64::from(u32::from_ne_bytes(last))
}

/// Folds a sum to 16 bits (not complemented).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
