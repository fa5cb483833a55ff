//! GUE, generic UDP encapsulation (draft-ietf-intarea-gue, version 0), as the kernel's IPVS
//! writes it: UDP, four bytes, the inner packet.
//!
//! The option for remote checksums is never written: it belongs to packets whose own checksum is
//! still to be filled in, and those that come from a wire have theirs.

use arrayvec::ArrayVec;

use crate::addr::Addr;
use crate::flow::Flow;
use crate::wire::{checksum, udp};

/// IP protocol number of what carries it.
pub const PROTOCOL: u8 = 17;
/// Bytes of the UDP header and of GUE's.
pub const HEADER_LEN: usize = udp::HEADER_LEN + 4;

/// Range of the source port (`net.ipv4.ip_local_port_range`).
const PORTS: core::ops::RangeInclusive<u16> = 32768..=60999;

/// UDP source port of a flow: one flow, one port, so that routers and NICs spread flows and keep
/// the packets of each in order (`udp_flow_src_port`).
pub fn source_port(flow: &Flow) -> u16 {
    let ports = u32::from(flow.src_port) << 16 | u32::from(flow.dst_port);
    let mixed = flow.src.fold().wrapping_mul(0x9e37_79b1)
        ^ flow.dst.fold().rotate_left(16)
        ^ ports.wrapping_mul(0x85eb_ca6b)
        ^ u32::from(flow.protocol);
    let hash = (mixed ^ mixed >> 15).wrapping_mul(0x2c1b_3c6d);
    let width = u64::from(PORTS.end() - PORTS.start()) + 1;
    PORTS.start() + ((u64::from(hash) * width) >> 32) as u16
}

/// What the UDP header tells.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Outer source address.
    pub src: &'a Addr,
    /// Outer destination address.
    pub dst: &'a Addr,
    /// UDP source port.
    pub src_port: u16,
    /// UDP destination port.
    pub dst_port: u16,
    /// Whether UDP has a checksum.
    pub checksum: UdpSum,
}

/// The checksum of the UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpSum {
    /// None: the field is 0.
    None,
    /// It is worked out.
    Whole,
    /// The field has the sum of the pseudo header, and the NIC adds the rest
    /// ([`Packet::owed_udp`](crate::packet::Packet::owed_udp)).
    Owed,
}

impl Header<'_> {
    /// UDP and GUE before a packet of `inner_len` bytes whose IP protocol number (4 or 41) is
    /// `protocol`; `None` if it is too long. Of the packet, `inner` is what is here: all of it if
    /// the checksum is to be worked out.
    pub fn emit(
        &self,
        protocol: u8,
        inner: &[u8],
        inner_len: usize,
    ) -> Option<ArrayVec<u8, HEADER_LEN>> {
        let len = u16::try_from(inner_len + HEADER_LEN).ok()?;
        let mut header = ArrayVec::new();
        for word in [self.src_port, self.dst_port, len, 0] {
            header.extend(word.to_be_bytes());
        }
        // Version, control bit and length of options are 0; no flags.
        header.extend([0, protocol, 0, 0]);
        let pseudo = || checksum::pseudo_header(self.src, self.dst, PROTOCOL, len);
        let field = match self.checksum {
            UdpSum::None => [0; 2],
            UdpSum::Whole => {
                let sum = checksum::add(checksum::add(pseudo(), &header), inner);
                checksum::udp_nonzero(checksum::finish(sum)).to_be_bytes()
            }
            UdpSum::Owed => checksum::fold(pseudo()).to_ne_bytes(),
        };
        header
            .get_mut(udp::CHECKSUM..udp::CHECKSUM + 2)?
            .copy_from_slice(&field);
        Some(header)
    }
}

/// Destination port, and offset and protocol of the packet inside, from a UDP header on: data
/// messages of version 0 only, whose options are passed over.
pub fn inner(udp: &[u8]) -> Option<(u16, usize, u8)> {
    let head = udp.first_chunk::<HEADER_LEN>()?;
    let (first, protocol) = (head[udp::HEADER_LEN], head[udp::HEADER_LEN + 1]);
    // Two bits of version, the control bit, five bits of length in words.
    if first >> 5 != 0 {
        return None;
    }
    let at = HEADER_LEN + usize::from(first & 0x1f) * 4;
    let port = u16::from_be_bytes([head[2], head[3]]);
    (udp.len() >= at).then_some((port, at, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_and_without_checksum() {
        let (src, dst) = (Addr::v4([192, 168, 50, 1]), Addr::v4([192, 168, 50, 6]));
        let mut header = Header {
            src: &src,
            dst: &dst,
            src_port: 40000,
            dst_port: 6080,
            checksum: UdpSum::None,
        };
        let inside = [0x45, 1, 2];
        let bytes = header.emit(4, &inside, 3).unwrap();
        assert_eq!(bytes[..], [0x9c, 0x40, 0x17, 0xc0, 0, 15, 0, 0, 0, 4, 0, 0]);
        assert_eq!(inner(&bytes), Some((6080, 12, 4)));
        header.checksum = UdpSum::Whole;
        let whole = [&header.emit(4, &inside, 3).unwrap()[..], &inside].concat();
        let pseudo = checksum::pseudo_header(&src, &dst, PROTOCOL, 15);
        assert_eq!(checksum::fold(checksum::add(pseudo, &whole)), 0xffff);
        assert!(header.emit(4, &[0; 65530], 65530).is_none());
        // What a NIC makes of an owed one: the sum of all from the UDP header on, complemented.
        header.checksum = UdpSum::Owed;
        let mut owed = [&header.emit(4, &inside, 3).unwrap()[..], &inside].concat();
        let sum = checksum::of(&owed).to_be_bytes();
        owed[6..8].copy_from_slice(&sum);
        assert_eq!(owed, whole);
    }

    #[test]
    fn options_are_passed_over_and_control_messages_are_not_ours() {
        let mut bytes = [0u8; 24];
        bytes[2..4].copy_from_slice(&6080u16.to_be_bytes());
        bytes[8..10].copy_from_slice(&[2, 4]);
        assert_eq!(inner(&bytes), Some((6080, 20, 4)));
        assert_eq!(inner(&bytes[..19]), None);
        for first in [0x20, 0x40, 0x80] {
            bytes[8] = first;
            assert_eq!(inner(&bytes), None);
        }
    }

    #[test]
    fn ports_are_of_the_range_and_spread() {
        let mut seen = std::collections::HashSet::new();
        for port in 1024..3024 {
            let flow = Flow {
                src: Addr::v4([172, 16, 1, 7]),
                dst: Addr::v4([192, 168, 40, 200]),
                src_port: port,
                dst_port: 443,
                protocol: 6,
                ..Flow::EMPTY
            };
            assert!(PORTS.contains(&source_port(&flow)));
            assert_eq!(source_port(&flow), source_port(&flow.clone()));
            seen.insert(source_port(&flow));
        }
        assert!(seen.len() > 1500, "{} ports", seen.len());
    }
}
