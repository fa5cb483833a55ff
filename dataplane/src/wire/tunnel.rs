//! Tunnels to real servers: IP in IP (RFC 2003, RFC 2473), GRE and GUE, with the fields the
//! kernel's IPVS writes. Either family in either.

use arrayvec::ArrayVec;

use crate::addr::{Addr, Family};
use crate::flow::Flow;
use crate::packet::Packet;
use crate::service::{Tunnel, TunnelChecksum, TunnelKind};
use crate::wire::{checksum, ethernet, gre, gue, ipv4, ipv6};

/// Protocol number of an IPv4 packet inside another.
pub const IPV4_INSIDE: u8 = 4;
/// Protocol number of an IPv6 packet inside another.
pub const IPV6_INSIDE: u8 = 41;

/// Longest front: IPv6 with a fragment header, UDP and GUE.
const MAX_LEN: usize = ipv6::HEADER_LEN + ipv6::FRAGMENT_LEN + gue::HEADER_LEN;

/// A tunnel: its ends, which are of one family, and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Our address on the way to the real server.
    pub src: Addr,
    /// The real server.
    pub dst: Addr,
    /// What is written between outer and inner packet.
    pub tunnel: Tunnel,
}

/// Fields of the outer header that do not follow from the packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Whether DF is the inner packet's (`pmtu_disc`). If not, and for IPv6 inside, it is not set.
    pub copy_df: bool,
    /// Identification of an IPv4 packet without DF; with DF it is 0.
    pub id: u16,
    /// The packet is going to be cut. An IPv6 one gets a fragment header with this
    /// identification, for [`Fragments`](crate::wire::fragment::Fragments) to go by.
    pub cut: Option<u32>,
    /// The NIC that the packet leaves by works out UDP checksums.
    pub udp_sums: bool,
}

impl Outer {
    /// Bytes that encapsulation adds.
    pub fn overhead(&self) -> u16 {
        let ip = match self.dst.family() {
            Family::V4 => ipv4::HEADER_LEN as u16,
            Family::V6 => ipv6::HEADER_LEN as u16,
        };
        ip + match self.tunnel.kind {
            TunnelKind::IpIp => 0,
            TunnelKind::Gre => gre::header_len(self.has_checksum()),
            TunnelKind::Gue => gue::HEADER_LEN as u16,
        }
    }

    /// Packets that come from a wire have their checksum: GUE's remote one is a full one then.
    fn has_checksum(&self) -> bool {
        self.tunnel.checksum != TunnelChecksum::None
    }

    /// What stands between the IP headers, and the protocol number that announces it.
    fn shim(
        &self,
        flow: &Flow,
        inner: &[u8],
        owed: bool,
    ) -> Option<(ArrayVec<u8, { gue::HEADER_LEN }>, u8)> {
        let (inside, inside_type) = if flow.is_v4 {
            (IPV4_INSIDE, ethernet::TYPE_IPV4)
        } else {
            (IPV6_INSIDE, ethernet::TYPE_IPV6)
        };
        Some(match self.tunnel.kind {
            TunnelKind::IpIp => (ArrayVec::new(), inside),
            TunnelKind::Gre => {
                let header = gre::emit(inside_type, inner, self.has_checksum());
                (header.into_iter().collect(), gre::PROTOCOL)
            }
            TunnelKind::Gue => {
                let header = gue::Header {
                    src: &self.src,
                    dst: &self.dst,
                    src_port: gue::source_port(flow),
                    dst_port: self.tunnel.port,
                    checksum: match (self.has_checksum(), owed) {
                        (false, _) => gue::UdpSum::None,
                        (true, false) => gue::UdpSum::Whole,
                        (true, true) => gue::UdpSum::Owed,
                    },
                };
                let header = header.emit(inside, inner, usize::from(flow.l3_len))?;
                (header, gue::PROTOCOL)
            }
        })
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
    // The lower of the two bits goes where both are set.
    inner ^ (inner & inner >> 1 & 1)
}

/// An IPv4 header before an IPv4 packet, from one that is half made (RFC 2003).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Source and destination.
    ends: [u8; 8],
    protocol: u8,
    /// Sum of the header with all else zero but its first octet, in the machine's byte order.
    sum: u16,
}

impl Front {
    /// Of no tunnel.
    pub const EMPTY: Front = Front {
        ends: [0; 8],
        protocol: 0,
        sum: 0,
    };

    /// From the addresses and the protocol number of the header.
    pub fn new(src: [u8; 4], dst: [u8; 4], protocol: u8) -> Front {
        let mut header = [0; ipv4::HEADER_LEN];
        header[0] = 0x45;
        header[9] = protocol;
        header[12..16].copy_from_slice(&src);
        header[16..].copy_from_slice(&dst);
        let mut ends = [0; 8];
        ends.copy_from_slice(&header[12..]);
        Front {
            ends,
            protocol,
            sum: checksum::fold(checksum::sum_ipv4_header(&header)),
        }
    }

    /// Writes the header of a packet of `len` bytes before the packet that `inner` begins, whose
    /// TTL is the one that it goes on with. `id` is used without DF. What [`encapsulate`] writes.
    #[inline(always)]
    pub fn write(
        &self,
        to: &mut [u8; ipv4::HEADER_LEN],
        inner: &[u8; ipv4::HEADER_LEN],
        len: u16,
        copy_df: bool,
        id: u16,
    ) {
        // Words of four bytes, as wide as they are written.
        let word = |high: [u8; 2], low: u16| {
            let [a, b] = low.to_be_bytes();
            u32::from_ne_bytes([high[0], high[1], a, b])
        };
        let lengths = word([0, outer_tos(inner[1])], len);
        let pieces = match copy_df && inner[6] & 0x40 != 0 {
            true => word([0, 0], ipv4::DONT_FRAGMENT),
            false => word(id.to_be_bytes(), 0),
        };
        let ttl = u32::from_ne_bytes([inner[8], 0, 0, 0]);
        let sum = u64::from(lengths) + u64::from(pieces) + u64::from(ttl) + u64::from(self.sum);
        let sum = !checksum::fold(sum);
        let [a, b] = sum.to_ne_bytes();
        let first = lengths | u32::from_ne_bytes([0x45, 0, 0, 0]);
        let third = ttl | u32::from_ne_bytes([0, self.protocol, a, b]);
        to[0..4].copy_from_slice(&first.to_ne_bytes());
        to[4..8].copy_from_slice(&pieces.to_ne_bytes());
        to[8..12].copy_from_slice(&third.to_ne_bytes());
        to[12..].copy_from_slice(&self.ends);
    }
}

/// Puts the packet into another and returns the offset of the outer header; `None` if the
/// headroom is too small or the packet too long, and then nothing changed.
///
/// `flow` is the packet as it was parsed. Its TTL has been lowered since; the outer header takes
/// it as it is now. The frame gets an untagged Ethernet header with its type set and its MACs
/// left to the caller; padding behind the packet is cut off.
pub fn encapsulate(
    packet: &mut Packet<'_>,
    flow: &Flow,
    outer: &Outer,
    choices: Choices,
) -> Option<u16> {
    // A packet that is going to be cut leaves as pieces, of which no NIC makes a sum.
    let owed = choices.udp_sums
        && choices.cut.is_none()
        && outer.tunnel.kind == TunnelKind::Gue
        && outer.has_checksum();
    let frame = packet.frame();
    let ip = frame.get(flow.l3 as usize..)?;
    let ip = match ip.get(..flow.l3_len as usize) {
        Some(whole) => whole,
        // The rest is in other buffers, where a checksum cannot reach it.
        None if !outer.has_checksum() || owed => ip,
        None => return None,
    };
    let (tos, ttl, inner_df) = if flow.is_v4 {
        (*ip.get(1)?, *ip.get(8)?, flow.dont_fragment)
    } else {
        (ipv6::traffic_class(ip)?, *ip.get(7)?, false)
    };
    let (shim, protocol) = outer.shim(flow, ip, owed)?;
    let total_len = flow.l3_len.checked_add(outer.overhead())?;
    let dont_fragment = choices.copy_df && inner_df;
    let mut front = ArrayVec::<u8, MAX_LEN>::new();
    let ethertype = match (outer.src.family(), outer.dst.family()) {
        (Family::V4, Family::V4) => {
            let header = ipv4::Header {
                tos: outer_tos(tos),
                total_len,
                id: if dont_fragment { 0 } else { choices.id },
                dont_fragment,
                ttl,
                protocol,
                src: outer.src.octets_v4(),
                dst: outer.dst.octets_v4(),
            };
            front.extend(header.emit());
            ethernet::TYPE_IPV4
        }
        (Family::V6, Family::V6) => {
            let fragment = choices.cut.map(|id| ipv6::fragment_header(protocol, id));
            let fragment_len = fragment.map_or(0, |f| f.len() as u16);
            let payload = total_len - ipv6::HEADER_LEN as u16;
            let header = ipv6::Header {
                traffic_class: outer_tos(tos),
                payload_len: payload.checked_add(fragment_len)?,
                next: fragment.map_or(protocol, |_| ipv6::FRAGMENT),
                hop_limit: ttl,
                src: outer.src.octets(),
                dst: outer.dst.octets(),
            };
            front.extend(header.emit());
            front.extend(fragment.into_iter().flatten());
            ethernet::TYPE_IPV6
        }
        _ => return None,
    };
    let ip_len = front.len() as u8;
    front.extend(shim);
    let l3 = wrap(packet, flow, &front, ethertype)?;
    packet.owed_udp = if owed { ip_len } else { 0 };
    Some(l3)
}

/// Replaces layer 2 by an Ethernet header and `header`, all that stands before the inner packet.
fn wrap(packet: &mut Packet<'_>, flow: &Flow, header: &[u8], ethertype: u16) -> Option<u16> {
    let front = (ethernet::HEADER_LEN + header.len()) as u16;
    let room = packet.start().checked_add(flow.l3)?;
    if room < front || flow.l3_len.checked_add(front).is_none() {
        return None;
    }
    // Cuts padding; a packet that goes on in other buffers keeps what is here.
    let end = packet.len().min(flow.l3 + flow.l3_len);
    if !packet.set_len(end) || !packet.pull(flow.l3) || !packet.push(front) {
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
