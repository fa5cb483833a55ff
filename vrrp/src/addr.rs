//! Address families, MAC addresses and the groups that routers talk to.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6. One instance speaks one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Family {
        match addr {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Bytes of one address.
    pub const fn size(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// Bytes of an IP header without options or extensions.
    pub const fn header_size(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// Bits of one address: the prefix length of a single one.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The group that adverts go to: 224.0.0.18 or ff02::12 (RFC 5798, 5.1.1.2 and 5.1.2.2).
    pub const fn group(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)),
        }
    }
}

/// Whether an IPv6 address is link-local (fe80::/10); an IPv4 address never is, for VRRP.
pub fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// The virtual router MAC (RFC 5798, 7.3): `00-00-5E-00-01-{vrid}` for IPv4,
    /// `00-00-5E-00-02-{vrid}` for IPv6.
    pub const fn virtual_router(family: Family, vrid: u8) -> Mac {
        let which = match family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        Mac([0, 0, 0x5e, 0, which, vrid])
    }

    /// The MAC of a multicast group (RFC 1112, 6.4; RFC 2464, 7). `None` for a unicast address.
    pub fn multicast(group: IpAddr) -> Option<Mac> {
        match group {
            IpAddr::V4(v4) if v4.is_multicast() => {
                let [_, b, c, d] = v4.octets();
                Some(Mac([0x01, 0, 0x5e, b & 0x7f, c, d]))
            }
            IpAddr::V6(v6) if v6.is_multicast() => {
                let [.., a, b, c, d] = v6.octets();
                Some(Mac([0x33, 0x33, a, b, c, d]))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_of_routers_and_groups() {
        let text = |mac: Mac| mac.to_string();
        assert_eq!(
            text(Mac::virtual_router(Family::V4, 63)),
            "00:00:5e:00:01:3f"
        );
        assert_eq!(
            text(Mac::virtual_router(Family::V6, 1)),
            "00:00:5e:00:02:01"
        );
        assert_eq!(
            text(Mac::multicast(Family::V4.group()).unwrap()),
            "01:00:5e:00:00:12"
        );
        assert_eq!(
            text(Mac::multicast(Family::V6.group()).unwrap()),
            "33:33:00:00:00:12"
        );
        assert_eq!(Mac::multicast("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn link_local_is_a_matter_of_ten_bits() {
        assert!(is_link_local("fe80::1".parse().unwrap()));
        assert!(is_link_local("febf::1".parse().unwrap()));
        assert!(!is_link_local("fec0::1".parse().unwrap()));
        assert!(!is_link_local("169.254.0.1".parse().unwrap()));
    }
}
