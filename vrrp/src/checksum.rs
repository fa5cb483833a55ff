//! The Internet checksum (RFC 1071) and the pseudo-headers that VRRP and ICMPv6 put before it.

use core::net::IpAddr;

/// A running sum of 16-bit words, not folded yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds big-endian words; an odd last byte counts as the high half of a word, so only the
    /// last piece may have an odd length.
    pub fn with(mut self, bytes: &[u8]) -> Sum {
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            self.0 += u64::from(word[0]) << 8 | u64::from(word[1]);
        }
        if let [last] = words.remainder() {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// Adds the pseudo-header of a message of `len` bytes: addresses, protocol and length. The
    /// sum is the same for IPv4 (12 bytes) and IPv6 (40 bytes, RFC 8200, 8.1), because the
    /// length always fits 16 bits here.
    pub fn pseudo(self, src: IpAddr, dst: IpAddr, protocol: u8, len: u16) -> Sum {
        self.addr(src)
            .addr(dst)
            .with(&[0, protocol])
            .with(&len.to_be_bytes())
    }

    fn addr(self, addr: IpAddr) -> Sum {
        match addr {
            IpAddr::V4(v4) => self.with(&v4.octets()),
            IpAddr::V6(v6) => self.with(&v6.octets()),
        }
    }

    /// The checksum field for what was added with that field zero.
    pub const fn field(self) -> u16 {
        !self.folded()
    }

    /// Whether what was added, checksum field included, is intact.
    pub const fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }

    const fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().with(&bytes).field(), !0xddf2);
    }

    #[test]
    fn own_field_makes_it_valid() {
        let mut bytes = [0x45, 0xc0, 0x12, 0, 0, 0xff, 0x80];
        let field = Sum::default().with(&bytes).field();
        bytes[3..5].copy_from_slice(&field.to_be_bytes());
        assert!(
            !Sum::default().with(&bytes).is_valid(),
            "the field is not aligned"
        );
        let mut bytes = [0x45, 0xc0, 0x12, 0x34, 0, 0, 0x80];
        let field = Sum::default().with(&bytes).field();
        bytes[4..6].copy_from_slice(&field.to_be_bytes());
        assert!(Sum::default().with(&bytes).is_valid());
        bytes[0] ^= 1;
        assert!(!Sum::default().with(&bytes).is_valid());
    }
}
