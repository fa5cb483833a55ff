//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors: made in place of the packet that caused them,
//! and translated when they are about a masqueraded connection.

use crate::addr::{Addr, Endpoint, Family};
use crate::flow::{EmbeddedFlow, Flow};
use crate::packet::{DropReason, Packet};
use crate::wire::{checksum, ethernet, ipv4, ipv6};

/// IP protocol number of ICMP.
pub const PROTOCOL_V4: u8 = 1;
/// Next header number of ICMPv6.
pub const PROTOCOL_V6: u8 = 58;
/// Bytes of the header of an error; the quote follows.
pub const HEADER_LEN: usize = 8;
/// TTL and hop limit of our messages.
const TTL: u8 = 64;
/// Precedence "internetwork control", which errors carry (RFC 1812, 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;
/// The TOS bits (RFC 1349) that an error takes over from the packet it is about.
const TOS_BITS: u8 = 0x1e;
/// Longest IPv4 error, IP header included (RFC 1812, 4.3.2.3).
const MAX_LEN_V4: u16 = 576;

/// IPv4 errors that IPVS relates to a connection: unreachable, source quench, time exceeded.
#[inline(always)]
pub const fn is_related_v4(icmp_type: u8) -> bool {
    matches!(icmp_type, 3 | 4 | 11)
}

/// ICMPv6 errors are the types below 128.
#[inline(always)]
pub const fn is_error_v6(icmp_type: u8) -> bool {
    icmp_type < 128
}

/// An error to be told to the sender of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody serves the port: IPv4 3/3, IPv6 1/4.
    PortUnreachable,
    /// No way to the real server, or a next hop that does not answer: IPv4 3/1, IPv6 1/3
    /// (`dst_link_failure`).
    HostUnreachable,
    /// No route: IPv4 3/0, IPv6 1/0 (`ip_error`, `ip6_pkt_discard`).
    NoRoute,
    /// An `unreachable` route: IPv4 3/1, IPv6 1/0.
    Unreachable,
    /// A `prohibit` route: IPv4 3/13, IPv6 1/1.
    Prohibited,
    /// TTL or hop limit ran out: IPv4 11/0, IPv6 3/0.
    TimeExceeded,
    /// Longer than the path's MTU: IPv4 3/4, IPv6 2/0.
    TooBig {
        /// The MTU, bytes of layer 3.
        mtu: u16,
    },
    /// An IPv4 error about a tunnel, passed on as it was told.
    Relayed {
        /// Type.
        icmp_type: u8,
        /// Code.
        code: u8,
        /// The word behind the checksum.
        word: u32,
    },
}

impl Answer {
    /// Type, code and the word behind the checksum.
    const fn fields(self, is_v4: bool) -> (u8, u8, u32) {
        match (self, is_v4) {
            (Answer::PortUnreachable, true) => (3, 3, 0),
            (Answer::PortUnreachable, false) => (1, 4, 0),
            (Answer::HostUnreachable, true) => (3, 1, 0),
            (Answer::HostUnreachable, false) => (1, 3, 0),
            (Answer::NoRoute, true) => (3, 0, 0),
            (Answer::Unreachable, true) => (3, 1, 0),
            (Answer::NoRoute | Answer::Unreachable, false) => (1, 0, 0),
            (Answer::Prohibited, true) => (3, 13, 0),
            (Answer::Prohibited, false) => (1, 1, 0),
            (Answer::TimeExceeded, true) => (11, 0, 0),
            (Answer::TimeExceeded, false) => (3, 0, 0),
            (Answer::TooBig { mtu }, true) => (3, 4, mtu as u32),
            (Answer::TooBig { mtu }, false) => (2, 0, mtu as u32),
            (
                Answer::Relayed {
                    icmp_type,
                    code,
                    word,
                },
                _,
            ) => (icmp_type, code, word),
        }
    }
}

/// Whether an error about this packet may be sent (RFC 1122, 3.2.2; RFC 4443, 2.4 e): never
/// about another error, a packet to or from a group, a later fragment, or one that came in a
/// broadcast frame.
pub fn may_answer(flow: &Flow, frame: &[u8]) -> bool {
    let group_frame = ethernet::dst(frame).is_none_or(|mac| mac.is_group());
    if group_frame || !is_single(&flow.src) || !is_single(&flow.dst) {
        return false;
    }
    !is_later_fragment(flow, frame) && !is_error(flow, frame)
}

/// One host's address: not a group, not "any", not the broadcast address or loopback.
fn is_single(addr: &Addr) -> bool {
    let v4 = addr.octets_v4();
    match addr.family() {
        Family::V4 => v4[0] != 0 && v4[0] != 127 && v4[0] < 224,
        Family::V6 => !addr.is_multicast() && addr.octets()[..15] != [0; 15],
    }
}

fn is_later_fragment(flow: &Flow, frame: &[u8]) -> bool {
    let Some(ip) = frame.get(flow.l3 as usize..) else {
        return true;
    };
    if flow.is_v4 {
        let field = ip.get(6..8).map_or(0, |f| u16::from_be_bytes([f[0], f[1]]));
        return field & ipv4::OFFSET_MASK != 0;
    }
    if !flow.has_options {
        return false;
    }
    let Some((header, rest)) = ip.split_first_chunk::<{ ipv6::HEADER_LEN }>() else {
        return true;
    };
    ipv6::walk(header[6], rest)
        .fragment
        .is_some_and(|f| f.offset != 0)
}

/// Whether it is an ICMP error, or ICMP of an unknown or cut type.
fn is_error(flow: &Flow, frame: &[u8]) -> bool {
    if !flow.is_icmp() {
        return false;
    }
    let icmp_type = match frame.get(flow.l4 as usize) {
        Some(t) if flow.l4_len > 0 => *t,
        _ => return true,
    };
    if flow.is_v4 {
        // Echo, router discovery, timestamp, information and mask queries and answers.
        !matches!(icmp_type, 0 | 8..=10 | 13..=18)
    } else {
        // 137 is a redirect.
        is_error_v6(icmp_type) || icmp_type == 137
    }
}

/// Turns the packet into an error about itself, from `source` to its sender, and returns whether
/// there was room for it (nothing changed if not).
///
/// The IP header stays `flow.l3` bytes into the frame, and layer 2 goes back where it came from
/// until the caller writes another. IPv4 messages have at most 576 bytes, IPv6 ones 1280. `id`
/// is the IPv4 identification. Whether an answer is proper is [`may_answer`]'s question.
pub fn build(packet: &mut Packet<'_>, flow: &Flow, answer: Answer, source: Addr, id: u16) -> bool {
    if source.family() != flow.src.family() {
        return false;
    }
    let l3 = flow.l3;
    let (ip_len, most) = if flow.is_v4 {
        (ipv4::HEADER_LEN as u16, MAX_LEN_V4)
    } else {
        (ipv6::HEADER_LEN as u16, ipv6::MIN_MTU)
    };
    let front = ip_len + HEADER_LEN as u16;
    let mut quote = flow.l3_len.min(most - front);
    if packet.wire_len > u32::from(packet.len()) {
        // What is in other buffers is not quoted.
        quote = quote.min(packet.len().saturating_sub(l3));
    }
    let tos = packet.frame().get(l3 as usize + 1).copied().unwrap_or(0);
    if quote == 0 || l3.checked_add(quote).is_none_or(|end| end > packet.len()) {
        return false;
    }
    if !make_room(packet, l3, front, quote) {
        return false;
    }
    packet.drop_tail();
    ethernet::swap_macs(packet.frame_mut());
    let Some(ip) = packet.frame_mut().get_mut(l3 as usize..) else {
        return false;
    };
    let Some((header, message)) = ip.split_at_mut_checked(ip_len as usize) else {
        return false;
    };
    let (icmp_type, code, word) = answer.fields(flow.is_v4);
    if let Some(h) = message.first_chunk_mut::<HEADER_LEN>() {
        *h = [icmp_type, code, 0, 0, 0, 0, 0, 0];
        h[4..].copy_from_slice(&word.to_be_bytes());
    }
    if flow.is_v4 {
        fill_checksum(message, 0);
        let bytes = ipv4::Header {
            tos: tos & TOS_BITS | PRECEDENCE,
            total_len: front + quote,
            id,
            dont_fragment: false,
            ttl: TTL,
            protocol: PROTOCOL_V4,
            src: source.octets_v4(),
            dst: flow.src.octets_v4(),
        };
        header.copy_from_slice(&bytes.emit());
    } else {
        let len = HEADER_LEN as u16 + quote;
        fill_checksum(
            message,
            checksum::pseudo_header(&source, &flow.src, PROTOCOL_V6, len),
        );
        let bytes = ipv6::Header {
            traffic_class: 0,
            payload_len: len,
            next: PROTOCOL_V6,
            hop_limit: TTL,
            src: source.octets(),
            dst: flow.src.octets(),
        };
        header.copy_from_slice(&bytes.emit());
    }
    true
}

/// Opens a gap of `front` bytes between layer 2 and the IP packet, of which `quote` bytes stay.
fn make_room(packet: &mut Packet<'_>, l3: u16, front: u16, quote: u16) -> bool {
    let Some(len) = l3.checked_add(front).and_then(|n| n.checked_add(quote)) else {
        return false;
    };
    let (l3, front) = (l3 as usize, front as usize);
    if packet.push(front as u16) {
        // Layer 2 moves to the new front, the quote stays where it is.
        packet.frame_mut().copy_within(front..front + l3, 0);
        packet.set_len(len)
    } else if packet.set_len(len) {
        // Little headroom: the quote moves back. It may have been longer than `len`, so only
        // bytes that are quoted move.
        packet
            .frame_mut()
            .copy_within(l3..l3 + quote as usize, l3 + front);
        true
    } else {
        false
    }
}

/// Computes the checksum of an ICMP message anew, over `pseudo` (ICMPv6) or nothing (ICMP).
fn fill_checksum(message: &mut [u8], pseudo: u64) {
    let Some(field) = message.get_mut(2..4) else {
        return;
    };
    field.fill(0);
    let csum = checksum::finish(checksum::add(pseudo, message));
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&csum.to_be_bytes());
    }
}

/// Which way a translated error goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To the real server: the client's side complains about a reply. The endpoint is the real
    /// server's; it takes the place of the virtual one in the outer destination and in the
    /// quoted source.
    Server(Endpoint),
    /// To the client: the server's side complains about a request. The endpoint is the virtual
    /// one; it becomes the outer source (also of a router's message) and the quoted destination.
    Client(Endpoint),
}

/// Translates an ICMP error about a masqueraded connection (`ip_vs_nat_icmp`): one outer
/// address, one quoted address and port, both IP header checksums, and the ICMP checksum in
/// full. The quoted transport checksum stays as it is, as in the kernel.
///
/// `flow` and `quoted` must be the results of parsing `frame`.
///
/// # Errors
/// `IcmpChecksum` if the message's own checksum is wrong; nothing has changed then. `BadHeader`
/// if the endpoint is of another family or the offsets do not fit the frame.
pub fn translate(
    frame: &mut [u8],
    flow: &Flow,
    quoted: &EmbeddedFlow,
    towards: Towards,
) -> Result<(), DropReason> {
    let (Towards::Server(new) | Towards::Client(new)) = towards;
    let l4_end = flow.l4 as usize + flow.l4_len as usize;
    let message = frame
        .get(flow.l4 as usize..l4_end)
        .ok_or(DropReason::BadHeader)?;
    let pseudo = |src: &Addr, dst: &Addr| match flow.is_v4 {
        true => 0,
        false => checksum::pseudo_header(src, dst, PROTOCOL_V6, flow.l4_len),
    };
    if checksum::fold(checksum::add(pseudo(&flow.src, &flow.dst), message)) != 0xffff {
        return Err(DropReason::IcmpChecksum);
    }
    if new.addr.family() != flow.src.family() {
        return Err(DropReason::BadHeader);
    }
    // Offsets of source and destination address in an IP header.
    let (addr_len, src_at, dst_at) = if flow.is_v4 { (4, 12, 16) } else { (16, 8, 24) };
    let (outer_at, quoted_at, port_at, src, dst) = match towards {
        Towards::Server(_) => (dst_at, src_at, 0, flow.src, new.addr),
        Towards::Client(_) => (src_at, dst_at, 2, new.addr, flow.dst),
    };
    let octets = new.addr.octets();
    let addr = octets.get(16 - addr_len..).unwrap_or(&[]);
    write(frame, flow.l3 as usize + outer_at, addr)?;
    write(frame, quoted.l3 as usize + quoted_at, addr)?;
    if matches!(quoted.protocol, 6 | 17 | 132) {
        write(frame, quoted.l4 as usize + port_at, &new.port.to_be_bytes())?;
    }
    if flow.is_v4 {
        for l3 in [flow.l3, quoted.l3] {
            ipv4::fill_checksum(frame.get_mut(l3 as usize..l4_end).unwrap_or(&mut []));
        }
    }
    let message = frame
        .get_mut(flow.l4 as usize..l4_end)
        .ok_or(DropReason::BadHeader)?;
    fill_checksum(message, pseudo(&src, &dst));
    Ok(())
}

fn write(frame: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), DropReason> {
    let to = frame
        .get_mut(at..at + bytes.len())
        .ok_or(DropReason::BadHeader)?;
    to.copy_from_slice(bytes);
    Ok(())
}
