//! A received message with what its IP header said.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Invalid;
use crate::PROTOCOL;

/// IP protocol number of the IPsec authentication header (RFC 4302).
const AUTH_HEADER: u8 = 51;

/// A message as it came in. A raw socket for IPv6 yields the parts, one for IPv4 the whole packet:
/// see [`Received::from_ip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Sender.
    pub src: IpAddr,
    /// Receiver: a group or a unicast address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether an IPsec authentication header came first.
    pub authenticated: bool,
    /// Bytes of the IP header.
    pub header_size: usize,
    /// Bytes that follow the IP header by its own account.
    pub declared: usize,
    /// What follows the IP header, and the padding of a short Ethernet frame if it is still there.
    pub message: &'a [u8],
}

impl<'a> Received<'a> {
    /// Reads an IP packet, with or without Ethernet padding behind it.
    ///
    /// # Errors
    /// `Truncated`, also for fragments; `Protocol` for what is neither VRRP nor an IPsec
    /// authentication header.
    pub fn from_ip(packet: &'a [u8]) -> Result<Received<'a>, Invalid> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::from_ipv4(packet),
            Some(6) => Self::from_ipv6(packet),
            _ => Err(Invalid::Truncated),
        }
    }

    fn from_ipv4(packet: &'a [u8]) -> Result<Received<'a>, Invalid> {
        let header: &[u8; 20] = packet.first_chunk().ok_or(Invalid::Truncated)?;
        let header_size = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        if header_size < 20 || total < header_size || total > packet.len() || is_fragment {
            return Err(Invalid::Truncated);
        }
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Ok(Received {
            src: Ipv4Addr::new(s0, s1, s2, s3).into(),
            dst: Ipv4Addr::new(d0, d1, d2, d3).into(),
            ttl: header[8],
            authenticated: is_authenticated(header[9])?,
            header_size,
            declared: total - header_size,
            message: packet.get(header_size..).ok_or(Invalid::Truncated)?,
        })
    }

    fn from_ipv6(packet: &'a [u8]) -> Result<Received<'a>, Invalid> {
        let header: &[u8; 40] = packet.first_chunk().ok_or(Invalid::Truncated)?;
        let declared = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let message = packet.get(40..).ok_or(Invalid::Truncated)?;
        if declared > message.len() {
            return Err(Invalid::Truncated);
        }
        let addr = |from: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[from..from + 16]);
            Ipv6Addr::from(octets).into()
        };
        Ok(Received {
            src: addr(8),
            dst: addr(24),
            ttl: header[7],
            authenticated: is_authenticated(header[6])?,
            header_size: 40,
            declared,
            message,
        })
    }
}

fn is_authenticated(protocol: u8) -> Result<bool, Invalid> {
    match protocol {
        PROTOCOL => Ok(false),
        AUTH_HEADER => Ok(true),
        _ => Err(Invalid::Protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = vec![0x45, 0xc0, 0, 28, 0, 1, 0, 0, 255, 112, 0, 0];
        packet.extend([10, 0, 0, 1, 224, 0, 0, 18, 0x31, 7, 100, 0, 0, 100, 0, 0]);
        packet
    }

    #[test]
    fn header_fields_of_ipv4() {
        let packet = packet();
        let received = Received::from_ip(&packet).unwrap();
        assert_eq!(received.src.to_string(), "10.0.0.1");
        assert_eq!(received.dst.to_string(), "224.0.0.18");
        assert_eq!(
            (received.ttl, received.header_size, received.declared),
            (255, 20, 8)
        );
        assert_eq!(received.message[..3], [0x31, 7, 100]);
    }

    #[test]
    fn broken_ip_headers_are_refused() {
        let with = |at: usize, value: u8| {
            let mut packet = packet();
            packet[at] = value;
            Received::from_ip(&packet).map(|_| ()).unwrap_err()
        };
        assert_eq!(
            with(0, 0x44),
            Invalid::Truncated,
            "header shorter than 20 bytes"
        );
        assert_eq!(with(0, 0x55), Invalid::Truncated, "IP version 5");
        assert_eq!(with(3, 29), Invalid::Truncated, "longer than what came");
        assert_eq!(with(3, 19), Invalid::Truncated, "shorter than its header");
        assert_eq!(with(6, 0x20), Invalid::Truncated, "more fragments");
        assert_eq!(with(7, 1), Invalid::Truncated, "a later fragment");
        assert_eq!(with(9, 17), Invalid::Protocol);
        assert_eq!(Received::from_ip(&[]), Err(Invalid::Truncated));
        assert_eq!(Received::from_ip(&[0x60; 39]), Err(Invalid::Truncated));
    }
}
