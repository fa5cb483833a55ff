//! Addresses and endpoints, one type for both families.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address family of a packet, a service or a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An IPv4 or IPv6 address: 16 bytes in network byte order, IPv4 in its IPv4-mapped form
/// (`::ffff:a.b.c.d`, RFC 4291, 2.5.5.2), so that tables and schedulers are written once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct Addr([u8; 16]);

const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Addr {
    /// `::`, which also stands for "no address".
    pub const UNSPECIFIED: Addr = Addr([0; 16]);

    /// An IPv4 address from its four bytes in network order.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Addr {
        Addr([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3],
        ])
    }

    /// An IPv6 address from its sixteen bytes in network order.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Addr {
        Addr(bytes)
    }

    /// The family; an IPv4-mapped address is IPv4.
    #[inline(always)]
    pub fn family(&self) -> Family {
        if self.0[..12] == MAPPED {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// The sixteen bytes, network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        self.0
    }

    /// The last four bytes: the IPv4 address, network order.
    #[inline(always)]
    pub const fn octets_v4(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// The IPv4 address as an integer in host order (meaningful for IPv4 only).
    #[inline(always)]
    pub const fn bits_v4(&self) -> u32 {
        u32::from_be_bytes(self.octets_v4())
    }

    /// The kernel's fold for schedulers: IPv4 in host order, IPv6 the xor of its four words
    /// (`ip_vs_*_hashkey`).
    #[inline]
    pub fn fold(&self) -> u32 {
        match self.family() {
            Family::V4 => self.bits_v4(),
            Family::V6 => self.0.chunks_exact(4).fold(0, |acc, w| {
                acc ^ u32::from_be_bytes([w[0], w[1], w[2], w[3]])
            }),
        }
    }

    /// Loopback: 127.0.0.0/8 or ::1.
    pub fn is_loopback(&self) -> bool {
        match self.family() {
            Family::V4 => self.octets_v4()[0] == 127,
            Family::V6 => u128::from_be_bytes(self.octets()) == 1,
        }
    }

    /// `224.0.0.0/4` or `ff00::/8`.
    #[inline]
    pub fn is_multicast(&self) -> bool {
        match self.family() {
            Family::V4 => self.0[12] & 0xf0 == 0xe0,
            Family::V6 => self.0[0] == 0xff,
        }
    }

    /// `fe80::/10`.
    #[inline]
    pub fn is_link_local_v6(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(a) => Addr::v4(a.octets()),
            IpAddr::V6(a) => Addr::v6(a.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Addr {
        Addr::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Addr {
        Addr::v6(ip.octets())
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> IpAddr {
        match addr.family() {
            Family::V4 => IpAddr::V4(addr.octets_v4().into()),
            Family::V6 => IpAddr::V6(addr.0.into()),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address and a port. The port is in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub addr: Addr,
    /// The port, host order.
    pub port: u16,
}

impl Endpoint {
    /// Puts the two together.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16) -> Endpoint {
        Endpoint { addr, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr.family() {
            Family::V4 => write!(f, "{}:{}", self.addr, self.port),
            Family::V6 => write!(f, "[{}]:{}", self.addr, self.port),
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The virtual router MAC of RFC 5798, 7.3: `00-00-5E-00-01-{vrid}` for IPv4,
    /// `00-00-5E-00-02-{vrid}` for IPv6.
    pub const fn vrrp(family: Family, vrid: u8) -> Mac {
        let which = match family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        Mac([0, 0, 0x5e, 0, which, vrid])
    }

    /// The group bit: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
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
    fn families_and_folds() {
        let a = Addr::v4([10, 0, 0, 100]);
        assert_eq!(a.family(), Family::V4);
        assert_eq!(a.fold(), 0x0a00_0064);
        assert_eq!(a.to_string(), "10.0.0.100");
        let b = Addr::from("2001:db8::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(b.family(), Family::V6);
        assert_eq!(b.fold(), 0x2001_0db8 ^ 1);
        assert_eq!(Endpoint::new(b, 443).to_string(), "[2001:db8::1]:443");
    }
}
