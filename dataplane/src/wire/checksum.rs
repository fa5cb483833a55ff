//! The Internet checksum: in full (RFC 1071) and incrementally (RFC 1624).
//!
//! Checksum fields enter and leave as big-endian `u16`s, like every other field. Inside, sums
//! are 64-bit totals of words in the machine's byte order, because one's complement addition
//! does not care (RFC 1071, 2(B)); they are swapped once at the end.

use crate::addr::Addr;

/// Adds the five words of an IPv4 header without options, checksum field included. The header
/// is right if [`fold`] of the sum is 0xffff.
#[inline(always)]
pub fn sum_ipv4_header(h: &[u8; 20]) -> u64 {
    let word = |i: usize| u64::from(u32::from_ne_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]));
    word(0) + word(4) + word(8) + word(12) + word(16)
}

/// Adds `bytes` to `sum`. Only the last piece of what is summed may have an odd length.
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

/// Folds a sum to 16 bits (not complemented, the machine's byte order).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for this sum: folded and complemented.
#[inline(always)]
pub const fn finish(sum: u64) -> u16 {
    u16::from_be(!fold(sum))
}

/// Checksum of `bytes`, in which the checksum field has to be zero.
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    finish(add(0, bytes))
}

/// Whether `bytes`, checksum field included, sum up as they should.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    fold(add(0, bytes)) == 0xffff
}

/// Sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293, 3.1; RFC 8200, 8.1): addresses,
/// protocol and length of the transport. Both addresses are of one family.
#[inline]
pub fn pseudo_header(src: &Addr, dst: &Addr, protocol: u8, l4_len: u16) -> u64 {
    // The mapped prefix of IPv4 adds 0xffff per address, which is zero in one's complement
    // (and the sum is never the other zero: protocol is not 0).
    let sum = add(add(0, &src.octets()), &dst.octets());
    add(sum, &[0, protocol, (l4_len >> 8) as u8, l4_len as u8])
}

/// Checksum of a transport packet over its pseudo header. The checksum field in `l4` has to be
/// zero. For UDP pass the result through [`udp_nonzero`].
#[inline]
pub fn transport(src: &Addr, dst: &Addr, protocol: u8, l4: &[u8]) -> u16 {
    finish(add(pseudo_header(src, dst, protocol, l4.len() as u16), l4))
}

/// UDP writes a checksum that came out as 0 as 0xffff, since 0 means "none" (RFC 768).
#[inline(always)]
pub const fn udp_nonzero(csum: u16) -> u16 {
    if csum == 0 { 0xffff } else { csum }
}

/// What replacing `old` by `new` adds to a checksum (RFC 1624, equation 3: `~m + m'`): computed
/// once per connection, applied to every packet. The bytes stand at an even offset.
///
/// IPv4 addresses may be given with their mapped prefix, which cancels out. The complement of a
/// delta (`!d`) undoes it.
#[inline]
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    u16::from_be(fold(u64::from(!fold(add(0, old))) + add(0, new)))
}

/// As [`delta`], for one 16-bit field.
#[inline(always)]
pub const fn delta_word(old: u16, new: u16) -> u16 {
    fold(!old as u64 + new as u64)
}

/// Both changes in one.
#[inline(always)]
pub const fn combine(a: u16, b: u16) -> u16 {
    fold(a as u64 + b as u64)
}

/// One's complement difference: a subtraction and one of its borrow.
#[inline(always)]
const fn less(a: u16, b: u16) -> u16 {
    let (difference, borrow) = a.overflowing_sub(b);
    difference.wrapping_sub(borrow as u16)
}

/// The checksum field after the change, `~(~csum + delta)` worked out as `csum - delta` (RFC 1624,
/// equation 4), which takes a third of the instructions. For UDP see [`udp_nonzero`], and note
/// that a UDP checksum of 0 (none) must not be updated but computed ([`fill_transport`]).
#[inline(always)]
pub const fn apply(csum: u16, delta: u16) -> u16 {
    less(csum, delta)
}

/// The IPv4 header checksum after a change by `delta` and a TTL that is one less, both as they
/// lie in the frame: the word of TTL and protocol goes down by 0x0100 in network order.
#[inline(always)]
pub const fn apply_and_lower_ttl(csum: u16, delta: u16) -> u16 {
    less(less(csum, delta), LOWER_TTL)
}

/// What a TTL that is one less adds to the header checksum, as for [`delta`], in the byte order of
/// frames.
const LOWER_TTL: u16 = !0x0100u16.to_be();

/// The IPv4 header checksum after a TTL that is one less, as it lies in the frame.
#[inline(always)]
pub const fn lower_ttl(csum: u16) -> u16 {
    less(csum, LOWER_TTL)
}

/// Offset of the checksum field in the transport header of TCP and UDP.
#[inline(always)]
pub const fn transport_offset(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(super::tcp::CHECKSUM),
        17 => Some(super::udp::CHECKSUM),
        _ => None,
    }
}

/// Whether the checksum field of `l4` holds only the folded pseudo header, as a sender on the
/// same host leaves it for a NIC to complete (virtio and veth without checksum offload). Such a
/// packet must be completed before it leaves by a real wire.
pub fn is_partial(src: &Addr, dst: &Addr, protocol: u8, l4: &[u8]) -> bool {
    let field = transport_offset(protocol).and_then(|o| l4.get(o..o + 2));
    let pseudo = fold(pseudo_header(src, dst, protocol, l4.len() as u16));
    field.is_some_and(|f| u16::from_ne_bytes([f[0], f[1]]) == pseudo)
}

/// Computes the checksum of a whole TCP or UDP packet anew and writes it; false if it is neither
/// or too short.
pub fn fill_transport(src: &Addr, dst: &Addr, protocol: u8, l4: &mut [u8]) -> bool {
    let Some(offset) = transport_offset(protocol) else {
        return false;
    };
    let Some(field) = l4.get_mut(offset..offset + 2) else {
        return false;
    };
    field.fill(0);
    let csum = transport(src, dst, protocol, l4);
    let csum = if protocol == 17 {
        udp_nonzero(csum)
    } else {
        csum
    };
    if let Some(field) = l4.get_mut(offset..offset + 2) {
        field.copy_from_slice(&csum.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of RFC 1071's successors' examples, checksum b861.
    const HEADER: [u8; 20] = [
        0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
        0xc7,
    ];

    #[test]
    fn a_known_header() {
        assert_eq!(fold(sum_ipv4_header(&HEADER)), 0xffff);
        assert!(is_valid(&HEADER));
        let mut h = HEADER;
        h[10] = 0;
        h[11] = 0;
        assert_eq!(of(&h), 0xb861);
    }

    #[test]
    fn odd_lengths_are_padded() {
        assert_eq!(of(&[1]), !0x0100);
        assert_eq!(of(&[1, 2, 3]), !(0x0102 + 0x0300));
        assert_eq!(
            of(&[1, 2, 3, 4, 5, 6, 7]),
            !(0x0102 + 0x0304 + 0x0506 + 0x0700)
        );
        assert_eq!(of(&[]), 0xffff);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: HC 0xdd2f, m 0x5555 becomes 0x3285, result 0x0000.
        assert_eq!(apply(0xdd2f, delta_word(0x5555, 0x3285)), 0);
        assert_eq!(apply(0xdd2f, delta(&[0x55, 0x55], &[0x32, 0x85])), 0);
        assert_eq!(udp_nonzero(0), 0xffff);
        assert_eq!(udp_nonzero(1), 1);
    }

    #[test]
    fn differences_are_those_of_equation_3() {
        let sum = |csum: u16, deltas: &[u16]| {
            let all = deltas.iter().map(|d| u64::from(*d)).sum::<u64>();
            !fold(u64::from(!csum) + all)
        };
        let edges = [0, 1, 2, 0x00fe, 0x00ff, 0x0100, 0x0101, 0x7fff, 0x8000];
        for delta in edges.into_iter().flat_map(|d| [d, !d]) {
            for csum in 0..=u16::MAX {
                assert_eq!(apply(csum, delta), sum(csum, &[delta]));
                let hop = !0x0100u16.to_be();
                assert_eq!(apply_and_lower_ttl(csum, delta), sum(csum, &[delta, hop]));
                assert_eq!(lower_ttl(csum), sum(csum, &[hop]));
            }
        }
    }

    #[test]
    fn mapped_prefix_cancels() {
        let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v4([192, 168, 1, 2]));
        let there = delta(&a.octets(), &b.octets());
        assert_eq!(there, delta(&[10, 0, 0, 1], &[192, 168, 1, 2]));
        assert_eq!(apply(apply(0x1234, there), !there), 0x1234);
    }

    #[test]
    fn udp_zero_gets_a_full_checksum_and_partial_ones_are_seen() {
        let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        let mut udp = [0x30, 0x39, 0, 53, 0, 10, 0, 0, 0xab, 0xcd];
        assert!(fill_transport(&a, &b, 17, &mut udp));
        assert_eq!(fold(add(pseudo_header(&a, &b, 17, 10), &udp)), 0xffff);
        assert!(!is_partial(&a, &b, 17, &udp));
        udp[6..8].copy_from_slice(&fold(pseudo_header(&a, &b, 17, 10)).to_ne_bytes());
        assert!(is_partial(&a, &b, 17, &udp));
        assert!(!fill_transport(&a, &b, 17, &mut udp[..7]));
        assert!(!fill_transport(&a, &b, 1, &mut udp));
    }
}
