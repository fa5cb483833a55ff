//! IPv4 (RFC 791): header fields, a writer, the header checksum.

use super::checksum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Most bytes of a header.
pub const MAX_HEADER_LEN: usize = 60;
/// Smallest MTU of a link.
pub const MIN_MTU: u16 = 68;
/// DF in the fragment field.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// MF in the fragment field.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Offset, in units of 8 bytes, in the fragment field.
pub const OFFSET_MASK: u16 = 0x1fff;

/// A header without options, as we write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of service.
    pub tos: u8,
    /// Length of the packet, header included.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// DF.
    pub dont_fragment: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Header {
    /// The header's bytes, checksum included.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut h = [0u8; HEADER_LEN];
        h[0] = 0x45;
        h[1] = self.tos;
        h[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        h[4..6].copy_from_slice(&self.id.to_be_bytes());
        h[6] = if self.dont_fragment { 0x40 } else { 0 };
        h[8] = self.ttl;
        h[9] = self.protocol;
        h[12..16].copy_from_slice(&self.src);
        h[16..20].copy_from_slice(&self.dst);
        let csum = checksum::finish(checksum::sum_ipv4_header(&h));
        h[10..12].copy_from_slice(&csum.to_be_bytes());
        h
    }
}

/// The header as three big-endian words: bytes 0 to 7, 8 to 15 and 16 to 19.
#[inline(always)]
pub const fn words(h: &[u8; HEADER_LEN]) -> [u64; 3] {
    let [a, b, c, d, e, f, g, i, rest @ ..] = h;
    let first = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *i]);
    let [a, b, c, d, e, f, g, i, rest @ ..] = rest;
    let second = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *i]);
    [first, second, u32::from_be_bytes(*rest) as u64]
}

/// Header length that the first byte of `ip` tells, if it is possible and all there.
#[inline]
pub fn header_len(ip: &[u8]) -> Option<usize> {
    let len = usize::from(ip.first()? & 15) * 4;
    (len >= HEADER_LEN && len <= ip.len()).then_some(len)
}

/// Whether the header that begins `ip` has an option by which the sender chooses the way (loose
/// or strict source route, RFC 791, 3.1). Options that do not fit end the search.
pub fn is_source_routed(ip: &[u8]) -> bool {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const SOURCE_ROUTES: [u8; 2] = [131, 137];
    let mut options = header_len(ip)
        .and_then(|len| ip.get(HEADER_LEN..len))
        .unwrap_or(&[]);
    while let Some(&kind) = options.first() {
        let len = match kind {
            END => return false,
            NOP => 1,
            kind if SOURCE_ROUTES.contains(&kind) => return true,
            _ => options.get(1).map_or(0, |len| usize::from(*len)),
        };
        match options.get(len..) {
            Some(rest) if len > 0 => options = rest,
            _ => return false,
        }
    }
    false
}

/// Computes the header checksum anew; nothing happens to a header that is cut short.
pub fn fill_checksum(ip: &mut [u8]) {
    let Some(header) = header_len(ip).and_then(|len| ip.get_mut(..len)) else {
        return;
    };
    header[10..12].fill(0);
    let csum = checksum::of(header);
    header[10..12].copy_from_slice(&csum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emits_what_the_kernel_emitted() {
        // An ICMP error of the kernel's.
        let h = Header {
            tos: 0xc0,
            total_len: 0x48,
            id: 0x45c1,
            dont_fragment: false,
            ttl: 64,
            protocol: 1,
            src: [192, 168, 40, 200],
            dst: [172, 17, 251, 154],
        };
        let bytes = [
            0x45, 0xc0, 0, 0x48, 0x45, 0xc1, 0, 0, 0x40, 1, 0xa3, 0x17, 192, 168, 40, 200, 172, 17,
            251, 154,
        ];
        assert_eq!(h.emit(), bytes);
        let mut again = bytes;
        again[10] = 9;
        fill_checksum(&mut again);
        assert_eq!(again, bytes);
    }

    #[test]
    fn source_routes_are_found_among_options() {
        let with = |options: &[u8]| {
            let mut h = vec![0u8; 20];
            h[0] = 0x40 | (5 + options.len() as u8 / 4);
            h.extend(options);
            is_source_routed(&h)
        };
        assert!(!with(&[]));
        assert!(with(&[131, 3, 4, 0]));
        assert!(with(&[1, 137, 3, 4]));
        // Router alert, then record route, then a source route.
        assert!(with(&[0x94, 4, 0, 0, 7, 3, 4, 131, 3, 4, 0, 0]));
        assert!(!with(&[0x94, 4, 0, 0, 7, 3, 4, 0]));
        // Behind the end, and behind lengths that cannot be.
        assert!(!with(&[0, 131, 3, 4]));
        assert!(!with(&[7, 0, 131, 3]));
        assert!(!with(&[7, 99, 131, 3]));
        assert!(!is_source_routed(&[0x46; 20]));
    }

    #[test]
    fn impossible_headers_are_left_alone() {
        assert_eq!(header_len(&[]), None);
        assert_eq!(header_len(&[0x44; 60]), None);
        assert_eq!(header_len(&[0x4f; 59]), None);
        assert_eq!(header_len(&[0x4f; 60]), Some(60));
        let mut short = [0x46; 20];
        fill_checksum(&mut short);
        assert_eq!(short, [0x46; 20]);
    }
}
