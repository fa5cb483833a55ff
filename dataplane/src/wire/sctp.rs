//! SCTP (RFC 9260): the checksum of its common header.

use crc::{CRC_32_ISCSI, Crc, Table};

/// IP protocol number.
pub const PROTOCOL: u8 = 132;
/// Bytes of the common header; chunks follow.
pub const HEADER_LEN: usize = 12;
/// Offset of the checksum.
pub const CHECKSUM: usize = 8;

/// CRC32c, sixteen bytes a step.
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC32c of a whole packet with its checksum field taken as zero (RFC 9260, appendix A), as the
/// field carries it: least significant byte first. `None`: shorter than the header.
pub fn checksum(packet: &[u8]) -> Option<[u8; 4]> {
    let (ports, rest) = packet.split_at_checked(CHECKSUM)?;
    let (_, chunks) = rest.split_at_checked(HEADER_LEN - CHECKSUM)?;
    let mut digest = CRC32C.digest();
    digest.update(ports);
    digest.update(&[0; HEADER_LEN - CHECKSUM]);
    digest.update(chunks);
    Some(digest.finalize().to_le_bytes())
}

/// Computes the checksum anew and writes it; false if the packet is too short.
pub fn fill_checksum(packet: &mut [u8]) -> bool {
    let Some(sum) = checksum(packet) else {
        return false;
    };
    if let Some(field) = packet.get_mut(CHECKSUM..HEADER_LEN) {
        field.copy_from_slice(&sum);
    }
    true
}

/// Whether the sender left the checksum to its hardware: the field is then zero. (A packet whose
/// CRC is zero is taken for one, and keeps its zero when it is computed.)
pub fn is_partial(packet: &[u8]) -> bool {
    packet.get(CHECKSUM..HEADER_LEN) == Some(&[0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc32c() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones.
        assert_eq!(
            CRC32C.checksum(&[0; 32]).to_le_bytes(),
            [0xaa, 0x36, 0x91, 0x8a]
        );
        assert_eq!(
            CRC32C.checksum(&[0xff; 32]).to_le_bytes(),
            [0x43, 0xab, 0xa8, 0x62]
        );
    }

    #[test]
    fn the_field_does_not_cover_itself() {
        let mut packet = [7u8; 40];
        let sum = checksum(&packet);
        assert!(fill_checksum(&mut packet));
        assert_eq!(packet[8..12], sum.unwrap());
        assert_eq!(checksum(&packet), sum);
        assert!(!is_partial(&packet));
        packet[8..12].fill(0);
        assert!(is_partial(&packet));
        assert!(!fill_checksum(&mut packet[..11]));
        assert!(!is_partial(&packet[..11]));
    }
}
