//! GRE (RFC 2784): the four bytes before the inner packet, eight with a checksum.

use arrayvec::ArrayVec;

use super::checksum;

/// IP protocol number.
pub const PROTOCOL: u8 = 47;
/// The C bit: a checksum follows.
const CHECKSUM_PRESENT: u16 = 0x8000;
/// Longest header we write.
pub const MAX_LEN: usize = 8;

/// Bytes of the header.
pub const fn header_len(checksum: bool) -> u16 {
    if checksum { 8 } else { 4 }
}

/// The header before a packet of this type. The checksum, if wanted, covers header and `inner`.
pub fn emit(inner_type: u16, inner: &[u8], checksum: bool) -> ArrayVec<u8, MAX_LEN> {
    let mut header = ArrayVec::new();
    let flags = if checksum { CHECKSUM_PRESENT } else { 0 };
    header.extend(flags.to_be_bytes());
    header.extend(inner_type.to_be_bytes());
    if checksum {
        let sum = checksum::add(checksum::add(0, &header), inner);
        header.extend(checksum::finish(sum).to_be_bytes());
        header.extend([0, 0]);
    }
    header
}

/// Offset and type of the packet inside, if the header is one that we write: no flag but C.
pub fn inner(gre: &[u8]) -> Option<(usize, u16)> {
    let &[f, lags, t, ype] = gre.first_chunk::<4>()?;
    let checksum = match u16::from_be_bytes([f, lags]) {
        0 => false,
        CHECKSUM_PRESENT => true,
        _ => return None,
    };
    let at = usize::from(header_len(checksum));
    (gre.len() >= at).then_some((at, u16::from_be_bytes([t, ype])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_and_with_a_checksum() {
        assert_eq!(emit(0x0800, &[1, 2, 3], false)[..], [0, 0, 8, 0]);
        let header = emit(0x86dd, &[1, 2, 3], true);
        assert_eq!(header[..4], [0x80, 0, 0x86, 0xdd]);
        assert_eq!(header[6..], [0, 0]);
        assert!(checksum::is_valid(&[&header[..], &[1, 2, 3]].concat()));
        assert_eq!(inner(&header), Some((8, 0x86dd)));
        assert_eq!(inner(&header[..7]), None);
    }

    #[test]
    fn other_flags_are_not_ours() {
        assert_eq!(inner(&[0, 0, 8, 0]), Some((4, 0x0800)));
        // A key, and version 1.
        assert_eq!(inner(&[0x20, 0, 8, 0, 0, 0, 0, 0]), None);
        assert_eq!(inner(&[0, 1, 8, 0]), None);
        assert_eq!(inner(&[0, 0, 8]), None);
    }
}
