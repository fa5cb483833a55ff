//! IP-in-IP encapsulation (RFC 2003, RFC 2473) with the fields the kernel's IPVS writes:
//! 4-in-4, 6-in-6, and either family in the other.

use crate::addr::{Addr, Family};
use crate::flow::Flow;
use crate::packet::Packet;
use crate::wire::{ethernet, ipv4, ipv6};

/// Protocol number of an IPv4 packet inside another.
pub const IPV4_INSIDE: u8 = 4;
/// Protocol number of an IPv6 packet inside another.
pub const IPV6_INSIDE: u8 = 41;

/// Ends of a tunnel; both are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Our address on the way to the real server.
    pub src: Addr,
    /// The real server.
    pub dst: Addr,
}

impl Outer {
    /// Bytes that encapsulation adds.
    pub fn overhead(&self) -> u16 {
        match self.dst.family() {
            Family::V4 => ipv4::HEADER_LEN as u16,
            Family::V6 => ipv6::HEADER_LEN as u16,
        }
    }

    /// A tunnel whose inside has a smaller MTU than this carries nothing.
    pub fn least_mtu(&self) -> u16 {
        match self.dst.family() {
            Family::V4 => ipv4::MIN_MTU,
            Family::V6 => ipv6::MIN_MTU,
        }
    }

    /// Type field of the frame.
    pub fn ethertype(&self) -> u16 {
        match self.dst.family() {
            Family::V4 => ethernet::TYPE_IPV4,
            Family::V6 => ethernet::TYPE_IPV6,
        }
    }
}

/// TOS of the outer header: the inner one, but congestion already experienced is not told twice,
/// it becomes ECT(0) (RFC 3168, 9.1.1, full functionality).
#[inline]
pub const fn outer_tos(inner: u8) -> u8 {
    if inner & 3 == 3 {
        inner & !3 | 2
    } else {
        inner
    }
}

/// Puts the packet into another and returns the offset of the outer header; `None` if the
/// headroom is too small or the packet too long, and then nothing changed.
///
/// `flow` is the packet as it was parsed. Its TTL has been lowered since; the outer header takes
/// it as it is now. The frame gets an untagged Ethernet header with its type set and its MACs
/// left to the caller; padding behind the packet is cut off. DF is the inner one's if
/// `copy_df` (`pmtu_disc`), never set for IPv6 inside; with DF the identification is 0,
/// otherwise `id`.
pub fn encapsulate(
    packet: &mut Packet<'_>,
    flow: &Flow,
    outer: &Outer,
    copy_df: bool,
    id: u16,
) -> Option<u16> {
    let frame = packet.frame();
    let ip = frame.get(flow.l3 as usize..flow.l3 as usize + flow.l3_len as usize)?;
    let (inside, tos, ttl, inner_df) = if flow.is_v4 {
        (IPV4_INSIDE, *ip.get(1)?, *ip.get(8)?, flow.dont_fragment)
    } else {
        (IPV6_INSIDE, ipv6::traffic_class(ip)?, *ip.get(7)?, false)
    };
    let total_len = flow.l3_len.checked_add(outer.overhead())?;
    let dont_fragment = copy_df && inner_df;
    match (outer.src.family(), outer.dst.family()) {
        (Family::V4, Family::V4) => {
            let header = ipv4::Header {
                tos: outer_tos(tos),
                total_len,
                id: if dont_fragment { 0 } else { id },
                dont_fragment,
                ttl,
                protocol: inside,
                src: outer.src.octets_v4(),
                dst: outer.dst.octets_v4(),
            };
            wrap(packet, flow, &header.emit(), ethernet::TYPE_IPV4)
        }
        (Family::V6, Family::V6) => {
            let header = ipv6::Header {
                traffic_class: outer_tos(tos),
                payload_len: flow.l3_len,
                next: inside,
                hop_limit: ttl,
                src: outer.src.octets(),
                dst: outer.dst.octets(),
            };
            wrap(packet, flow, &header.emit(), ethernet::TYPE_IPV6)
        }
        _ => None,
    }
}

/// Replaces layer 2 by an Ethernet header and `header`, which may hold more than one header
/// (GRE and GUE add theirs behind the outer IP header).
fn wrap(packet: &mut Packet<'_>, flow: &Flow, header: &[u8], ethertype: u16) -> Option<u16> {
    let front = (ethernet::HEADER_LEN + header.len()) as u16;
    let room = packet.start().checked_add(flow.l3)?;
    if room < front || flow.l3_len.checked_add(front).is_none() {
        return None;
    }
    // Cuts padding; it cannot fail, the packet was within the frame.
    if !packet.set_len(flow.l3 + flow.l3_len) || !packet.pull(flow.l3) || !packet.push(front) {
        return None;
    }
    let frame = packet.frame_mut();
    frame.get_mut(..12)?.fill(0);
    ethernet::set_type(frame, ethernet::HEADER_LEN, ethertype);
    frame
        .get_mut(ethernet::HEADER_LEN..front as usize)?
        .copy_from_slice(header);
    Some(ethernet::HEADER_LEN as u16)
}
