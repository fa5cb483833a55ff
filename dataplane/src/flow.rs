//! `Flow`: what the hot path needs to know of a packet, and the only parser it calls.
//!
//! Nothing here can panic: every byte is read through a slice pattern or `get`, and lengths are
//! checked once per header. Verified: Ethernet type, IP version and lengths, IPv4 header checksum.
//! Not verified: transport checksums (IPVS passes them on as they came).

use crate::addr::{Addr, Family};
use crate::packet::DropReason;
use crate::proto::sctp::{Chunks, HEADER_LEN};
use crate::wire::{checksum, ethernet, icmp, ipv4, ipv6};

/// A parsed packet. Offsets are bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, host order (0 if the protocol has none).
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header.
    pub l4: u16,
    /// Length of the IP packet in bytes (headers included), as its header says.
    pub l3_len: u16,
    /// Bytes from the transport header to the end of the IP packet. The ports are valid from 4
    /// on; whether the transport header is whole is for the caller to ask ([`Flow::has_l4_header`]).
    pub l4_len: u16,
    /// VLAN id, 0 for an untagged or priority-tagged frame.
    pub vlan: u16,
    /// IP protocol number of the transport (after IPv6 extension headers). The number of an
    /// extension header if the chain could not be followed to its end; nothing balances those.
    pub protocol: u8,
    /// TCP flags byte (0 for other protocols).
    pub tcp_flags: u8,
    /// First chunks of SCTP; `None` for other protocols, and if the packet ends before them.
    pub chunks: Option<Chunks>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS byte or traffic class.
    pub tos: u8,
    /// IPv4: true.
    pub is_v4: bool,
    /// IPv4 DF; true for every IPv6 packet, which routers never cut.
    pub dont_fragment: bool,
    /// IPv4 options or IPv6 extension headers stand between `l3` and `l4`.
    pub has_options: bool,
    /// It is a piece of a packet.
    pub is_fragment: bool,
}

const _: () = assert!(size_of::<Flow>() <= 64);

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole IP packet.
    Ip(Flow),
    /// A piece of an IP packet. Ports and flags are those of the first piece, 0 in later ones.
    Fragment(Flow, Fragment),
    /// Not IP, or IP below more than one VLAN tag.
    NotIp {
        /// Type field of the frame (the inner one after a VLAN tag).
        ethertype: u16,
    },
    /// To be dropped.
    Bad(DropReason),
}

/// What [`Flow::read`] found: [`Parsed`] without the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A whole IP packet.
    Ip,
    /// A piece of an IP packet.
    Fragment(Fragment),
    /// Not IP, or IP below more than one VLAN tag.
    NotIp {
        /// Type field of the frame.
        ethertype: u16,
    },
    /// To be dropped.
    Bad(DropReason),
}

/// A whole TCP segment over IPv4 with neither tag nor options: by far the most frames. What tells
/// its connection, in few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Source address, its octets as they lie in the frame.
    pub src: u32,
    /// Destination address, likewise.
    pub dst: u32,
    /// Both ports, host order: the source port in the lower half.
    pub ports: u32,
    /// Length of the IP packet in bytes.
    pub len: u16,
    /// TCP flags byte.
    pub tcp_flags: u8,
    /// TTL.
    pub ttl: u8,
}

impl Plain {
    /// Bytes of the headers: Ethernet, IPv4 and TCP, none of them with options.
    pub const HEADERS: usize = 54;

    /// Reads the headers of a frame of so many bytes, these among them. `None`: it is another kind
    /// of frame, and [`Flow::read`] finds out which. A frame that is read here is a packet ([`Shape::Ip`])
    /// there. `CHECKED`: the NIC found its header checksum right.
    #[inline(always)]
    pub fn read<const CHECKED: bool>(
        h: &[u8; Plain::HEADERS],
        frame_len: u16,
        wire_len: u32,
    ) -> Option<Plain> {
        // EtherType, version and header length; fragment bits and protocol: two comparisons.
        let kind = u32::from_be_bytes(octets(h, 12)) & 0xffff_ff00;
        let rest = u32::from_be_bytes(octets(h, 20)) & 0x3fff_00ff;
        let plain = Plain::again(h);
        // At least both headers, at most the frame, in one comparison.
        let behind = u32::from(plain.len).wrapping_sub(40);
        let room = u32::from(frame_len).wrapping_sub(Plain::HEADERS as u32);
        if kind != (ethernet::TYPE_IPV4 as u32) << 16 | 0x4500
            || rest != TCP as u32
            || behind > room
            || wire_len > u32::from(frame_len)
        {
            return None;
        }
        if CHECKED {
            return Some(plain);
        }
        // As eight bytes each, with what carries out of them: 2^64 is 1 here.
        let (sum, first) =
            u64::from_ne_bytes(octets(h, 14)).overflowing_add(u64::from_ne_bytes(octets(h, 22)));
        let (sum, second) = sum.overflowing_add(u64::from(plain.dst) + u64::from(first));
        // One's complement zero: a multiple of 0xffff, and never 0 with a version in it.
        ((sum + u64::from(second)) % 0xffff == 0).then_some(plain)
    }

    /// The same from headers that [`Plain::read`] has accepted before.
    #[inline(always)]
    pub fn again(h: &[u8; Plain::HEADERS]) -> Plain {
        Plain {
            src: u32::from_ne_bytes(octets(h, 26)),
            dst: u32::from_ne_bytes(octets(h, 30)),
            ports: u32::from_be_bytes(octets(h, 34)).rotate_left(16),
            len: u16::from_be_bytes([h[16], h[17]]),
            tcp_flags: h[47],
            ttl: h[22],
        }
    }

    /// Source port.
    #[inline(always)]
    pub fn src_port(&self) -> u16 {
        self.ports as u16
    }

    /// Destination port.
    #[inline(always)]
    pub fn dst_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }
}

/// The same over IPv6 without extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainV6 {
    /// Both ports, host order: the source port in the lower half.
    pub ports: u32,
    /// Length of the IP packet in bytes.
    pub len: u16,
    /// TCP flags byte.
    pub tcp_flags: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

impl PlainV6 {
    /// Bytes of the headers: Ethernet, IPv6 and TCP.
    pub const HEADERS: usize = 74;

    /// As [`Plain::read`]; the addresses are those of [`PlainV6::addrs`].
    #[inline(always)]
    pub fn read(h: &[u8; PlainV6::HEADERS], frame_len: u16, wire_len: u32) -> Option<PlainV6> {
        let kind = u32::from_be_bytes(octets(h, 12)) & 0xffff_f000;
        let plain = PlainV6::again(h);
        let room = u32::from(frame_len).wrapping_sub(ethernet::HEADER_LEN as u32);
        // Long enough for TCP without the sum having wrapped.
        let is_long_enough = u16::from_be_bytes([h[18], h[19]]) <= u16::MAX - 54 && plain.len >= 60;
        if kind != (ethernet::TYPE_IPV6 as u32) << 16 | 0x6000
            || h[20] != TCP
            || !is_long_enough
            || u32::from(plain.len) > room
            || wire_len > u32::from(frame_len)
        {
            return None;
        }
        // A mapped address on the wire would pass for the IPv4 address in it.
        let (src, dst) = PlainV6::addrs(h);
        (src.family() == Family::V6 && dst.family() == Family::V6).then_some(plain)
    }

    /// The same from headers that [`PlainV6::read`] has accepted before.
    #[inline(always)]
    pub fn again(h: &[u8; PlainV6::HEADERS]) -> PlainV6 {
        PlainV6 {
            ports: u32::from_be_bytes(octets(h, 54)).rotate_left(16),
            len: u16::from_be_bytes([h[18], h[19]]).wrapping_add(40),
            tcp_flags: h[67],
            hop_limit: h[21],
        }
    }

    /// Source and destination address.
    #[inline(always)]
    pub fn addrs(h: &[u8; PlainV6::HEADERS]) -> (Addr, Addr) {
        let (mut src, mut dst) = ([0; 16], [0; 16]);
        src.copy_from_slice(&h[22..38]);
        dst.copy_from_slice(&h[38..54]);
        (Addr::v6(src), Addr::v6(dst))
    }

    /// Source port.
    #[inline(always)]
    pub fn src_port(&self) -> u16 {
        self.ports as u16
    }

    /// Destination port.
    #[inline(always)]
    pub fn dst_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }
}

/// Octets of the headers, all of them in one load: put together one by one, they are also loaded
/// one by one if not all of them are needed.
#[inline(always)]
pub fn octets<const M: usize, const N: usize>(h: &[u8; N], at: usize) -> [u8; M] {
    match h.get(at..).and_then(<[u8]>::first_chunk) {
        Some(octets) => *octets,
        None => [0; M],
    }
}

/// Which piece of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset in bytes of this piece in the packet's payload; 0 is the first piece.
    pub offset: u16,
    /// Whether more pieces follow.
    pub more: bool,
}

/// The packet quoted in an ICMP error. Offsets are bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedFlow {
    /// Source address of the quoted packet.
    pub src: Addr,
    /// Its destination address.
    pub dst: Addr,
    /// Its source port (0 if its protocol has none).
    pub src_port: u16,
    /// Its destination port.
    pub dst_port: u16,
    /// Offset of the quoted IP header.
    pub l3: u16,
    /// Offset of the quoted transport header.
    pub l4: u16,
    /// Quoted bytes of the transport, as far as the quote goes.
    pub l4_len: u16,
    /// Protocol number of the quoted packet.
    pub protocol: u8,
    /// Type of the ICMP error.
    pub icmp_type: u8,
    /// Its code.
    pub icmp_code: u8,
}

impl Flow {
    /// A flow of nothing, to be read into.
    pub const EMPTY: Flow = Flow {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        src_port: 0,
        dst_port: 0,
        l3: 0,
        l4: 0,
        l3_len: 0,
        l4_len: 0,
        vlan: 0,
        protocol: 0,
        tcp_flags: 0,
        chunks: None,
        ttl: 0,
        tos: 0,
        is_v4: true,
        dont_fragment: false,
        has_options: false,
        is_fragment: false,
    };

    /// Parses a frame. `vlan_tci` is the tag that the driver took out of it (0: none),
    /// `wire_len` its whole length on the wire.
    #[inline]
    pub fn parse(frame: &[u8], vlan_tci: u16, wire_len: u32) -> Parsed {
        let mut flow = Flow::EMPTY;
        match flow.read(frame, vlan_tci, wire_len) {
            Shape::Ip => Parsed::Ip(flow),
            Shape::Fragment(fragment) => Parsed::Fragment(flow, fragment),
            Shape::NotIp { ethertype } => Parsed::NotIp { ethertype },
            Shape::Bad(reason) => Parsed::Bad(reason),
        }
    }

    /// As [`Flow::parse`], into `self`, which means something for a packet or a piece of one only.
    ///
    /// Always inlined, with rare shapes kept out of line: each field is written once, where the
    /// caller wants it. Returned by value, a flow would be copied twice a packet.
    #[inline(always)]
    pub fn read(&mut self, frame: &[u8], vlan_tci: u16, wire_len: u32) -> Shape {
        let Some(eth) = frame.first_chunk::<{ ethernet::HEADER_LEN }>() else {
            return Shape::Bad(DropReason::Truncated);
        };
        let ethertype = u16::from_be_bytes([eth[12], eth[13]]);
        let vlan = vlan_tci & ethernet::VLAN_MASK;
        // The rest of a longer frame is in buffers behind this one.
        let tail = (wire_len as usize).saturating_sub(frame.len());
        match ethertype {
            ethernet::TYPE_IPV4 if tail == 0 => {
                self.read_ipv4::<true>(frame, 0, ethernet::HEADER_LEN, vlan)
            }
            ethernet::TYPE_IPV6 if tail == 0 => {
                self.read_ipv6::<true>(frame, 0, ethernet::HEADER_LEN, vlan)
            }
            ethernet::TYPE_VLAN if vlan_tci == 0 => self.read_tagged(frame, tail),
            _ => self.read_long(frame, tail, ethernet::HEADER_LEN, ethertype, vlan),
        }
    }

    /// A frame with one tag of its own.
    #[inline(never)]
    fn read_tagged(&mut self, frame: &[u8], tail: usize) -> Shape {
        const L3: usize = ethernet::HEADER_LEN + ethernet::TAG_LEN;
        let Some(head) = frame.first_chunk::<L3>() else {
            return Shape::Bad(DropReason::Truncated);
        };
        let vlan = u16::from_be_bytes([head[14], head[15]]) & ethernet::VLAN_MASK;
        match u16::from_be_bytes([head[16], head[17]]) {
            ethernet::TYPE_IPV4 if tail == 0 => self.read_ipv4::<true>(frame, 0, L3, vlan),
            ethernet::TYPE_IPV6 if tail == 0 => self.read_ipv6::<true>(frame, 0, L3, vlan),
            ethertype => self.read_long(frame, tail, L3, ethertype, vlan),
        }
    }

    /// Not IP, or IP of which this buffer holds only the beginning: `tail` bytes are in others.
    #[cold]
    fn read_long(
        &mut self,
        frame: &[u8],
        tail: usize,
        l3: usize,
        ethertype: u16,
        vlan: u16,
    ) -> Shape {
        match ethertype {
            ethernet::TYPE_IPV4 | ethernet::TYPE_IPV6 if frame.len() < LEAST_HEAD => {
                Shape::Bad(DropReason::Truncated)
            }
            ethernet::TYPE_IPV4 => self.read_ipv4::<false>(frame, tail, l3, vlan),
            ethernet::TYPE_IPV6 => self.read_ipv6::<false>(frame, tail, l3, vlan),
            _ => Shape::NotIp { ethertype },
        }
    }

    /// `WHOLE`: the frame is in one buffer, and `tail` is 0. Else the headers have to be in this
    /// one.
    #[inline(always)]
    fn read_ipv4<const WHOLE: bool>(
        &mut self,
        frame: &[u8],
        tail: usize,
        l3: usize,
        vlan: u16,
    ) -> Shape {
        let Some((h, rest)) = frame.get(l3..).and_then(<[u8]>::split_first_chunk::<20>) else {
            return Shape::Bad(DropReason::Truncated);
        };
        // Three loads; every field is a shift of them, and so is the checksum.
        let [a, b, c] = ipv4::words(h);
        let total = (a >> 32) as u16;
        let header_len = (a >> 56) as u16 % 16 * 4;
        if a >> 60 != 4 || header_len < 20 || total < header_len {
            return Shape::Bad(DropReason::BadHeader);
        }
        // Covers the options too: total >= header_len.
        let Some(payload) = here::<WHOLE>(rest, tail, total as usize - 20) else {
            return Shape::Bad(DropReason::Truncated);
        };
        let options_len = header_len as usize - 20;
        let mut sum = (a >> 32) + (a & LOW) + (b >> 32) + (b & LOW) + c;
        let mut l4 = payload;
        if options_len != 0 {
            (sum, l4) = add_options(sum, payload, options_len);
        }
        if checksum::fold(sum) != 0xffff {
            return Shape::Bad(DropReason::BadChecksum);
        }
        *self = Flow {
            src: mapped(b),
            dst: mapped(c),
            src_port: 0,
            dst_port: 0,
            l3: l3 as u16,
            l4: l3 as u16 + header_len,
            l3_len: total,
            l4_len: total - header_len,
            vlan,
            protocol: (b >> 48) as u8,
            tcp_flags: 0,
            chunks: None,
            ttl: (b >> 56) as u8,
            tos: (a >> 48) as u8,
            is_v4: true,
            dont_fragment: a as u16 & ipv4::DONT_FRAGMENT != 0,
            has_options: options_len != 0,
            is_fragment: false,
        };
        let field = a as u16;
        if field & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0 {
            return self.ipv4_fragment(field, (a >> 16) as u16, l4);
        }
        self.read_transport(l4);
        Shape::Ip
    }

    #[cold]
    fn ipv4_fragment(&mut self, field: u16, id: u16, l4: &[u8]) -> Shape {
        let offset = (field & ipv4::OFFSET_MASK) * 8;
        self.is_fragment = true;
        if offset == 0 {
            self.read_transport(l4);
        }
        let more = field & ipv4::MORE_FRAGMENTS != 0;
        Shape::Fragment(Fragment {
            id: u32::from(id),
            offset,
            more,
        })
    }

    /// As [`Flow::read_ipv4`].
    #[inline(always)]
    fn read_ipv6<const WHOLE: bool>(
        &mut self,
        frame: &[u8],
        tail: usize,
        l3: usize,
        vlan: u16,
    ) -> Shape {
        let Some((h, rest)) = frame.get(l3..).and_then(<[u8]>::split_first_chunk::<40>) else {
            return Shape::Bad(DropReason::Truncated);
        };
        let payload = u16::from_be_bytes([h[4], h[5]]);
        // Offsets are 16 bits wide, so the packet has to end below 64 KiB of the frame.
        if h[0] >> 4 != 6 || payload as usize > u16::MAX as usize - 40 - l3 {
            return Shape::Bad(DropReason::BadHeader);
        }
        let Some(rest) = here::<WHOLE>(rest, tail, payload as usize) else {
            return Shape::Bad(DropReason::Truncated);
        };
        let mut src = [0; 16];
        let mut dst = [0; 16];
        src.copy_from_slice(&h[8..24]);
        dst.copy_from_slice(&h[24..40]);
        let (src, dst) = (Addr::v6(src), Addr::v6(dst));
        // A mapped address on the wire would pass for the IPv4 address in it (`ipv6_rcv`).
        if src.family() == Family::V4 || dst.family() == Family::V4 {
            return Shape::Bad(DropReason::BadHeader);
        }
        *self = Flow {
            src,
            dst,
            src_port: 0,
            dst_port: 0,
            l3: l3 as u16,
            l4: l3 as u16 + 40,
            l3_len: payload + 40,
            l4_len: payload,
            vlan,
            protocol: h[6],
            tcp_flags: 0,
            chunks: None,
            ttl: h[7],
            tos: h[0] << 4 | h[1] >> 4,
            is_v4: false,
            dont_fragment: true,
            has_options: false,
            is_fragment: false,
        };
        if ipv6::is_extension(h[6]) {
            return self.ipv6_chain(rest);
        }
        self.read_transport(rest);
        Shape::Ip
    }

    #[inline(never)]
    fn ipv6_chain(&mut self, rest: &[u8]) -> Shape {
        let chain = ipv6::walk(self.protocol, rest);
        // `chain.offset` is at most the length of `rest`.
        self.l4 += chain.offset;
        self.l4_len -= chain.offset;
        self.protocol = chain.protocol;
        self.has_options = true;
        if chain.fragment.is_none_or(|f| f.offset == 0) {
            self.read_transport(rest.get(chain.offset as usize..).unwrap_or(&[]));
        }
        match chain.fragment {
            // RFC 6946: a fragment header on a whole packet changes nothing.
            None
            | Some(Fragment {
                offset: 0,
                more: false,
                ..
            }) => Shape::Ip,
            Some(fragment) => {
                self.is_fragment = true;
                Shape::Fragment(fragment)
            }
        }
    }

    /// Ports and flags from the bytes of the transport.
    #[inline(always)]
    fn read_transport(&mut self, l4: &[u8]) {
        match (self.protocol, l4) {
            (TCP, [a, b, c, d, _, _, _, _, _, _, _, _, _, flags, ..]) => {
                self.src_port = u16::from_be_bytes([*a, *b]);
                self.dst_port = u16::from_be_bytes([*c, *d]);
                self.tcp_flags = *flags;
            }
            (TCP | UDP, [a, b, c, d, ..]) => {
                self.src_port = u16::from_be_bytes([*a, *b]);
                self.dst_port = u16::from_be_bytes([*c, *d]);
            }
            (SCTP, [a, b, c, d, ..]) => {
                self.src_port = u16::from_be_bytes([*a, *b]);
                self.dst_port = u16::from_be_bytes([*c, *d]);
                self.chunks = Chunks::read(l4);
            }
            _ => {}
        }
    }

    /// Whether as much of the transport header is there as its protocol needs (TCP 20 bytes,
    /// UDP 8, SCTP 12). A shorter one may still belong to a connection, but opens none.
    #[inline(always)]
    pub const fn has_l4_header(&self) -> bool {
        match self.protocol {
            TCP => self.l4_len >= 20,
            UDP => self.l4_len >= 8,
            SCTP => self.l4_len as usize >= HEADER_LEN,
            _ => true,
        }
    }

    /// Whether the two ports were there to be read.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | SCTP) && self.l4_len >= 4
    }

    /// Whether the packet is ESP or AH.
    #[inline(always)]
    pub const fn is_ipsec(&self) -> bool {
        matches!(self.protocol, ESP | AH)
    }

    /// Whether the packet is ICMP (over IPv4) or ICMPv6 (over IPv6).
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.protocol
            == if self.is_v4 {
                icmp::PROTOCOL_V4
            } else {
                icmp::PROTOCOL_V6
            }
    }

    /// The packet quoted in an ICMP error that IPVS relates to connections: IPv4 types 3, 4 and
    /// 11, ICMPv6 types below 128. `None` for other messages and for quotes that tell nothing:
    /// another family, cut before the ports, a later fragment.
    ///
    /// `self` must be the result of parsing `frame`.
    pub fn parse_embedded(&self, frame: &[u8]) -> Option<EmbeddedFlow> {
        let message = frame.get(self.l4 as usize..self.l4 as usize + self.l4_len as usize)?;
        let (head, quote) = message.split_first_chunk::<8>()?;
        let [icmp_type, icmp_code, ..] = *head;
        let at = self.l4 + 8;
        let base = EmbeddedFlow {
            src: self.src,
            dst: self.dst,
            src_port: 0,
            dst_port: 0,
            l3: at,
            l4: at,
            l4_len: 0,
            protocol: 0,
            icmp_type,
            icmp_code,
        };
        match (self.is_v4, self.protocol) {
            (true, icmp::PROTOCOL_V4) if icmp::is_related_v4(icmp_type) => {
                base.read_ipv4_quote(quote)
            }
            (false, icmp::PROTOCOL_V6) if icmp::is_error_v6(icmp_type) => {
                base.read_ipv6_quote(quote)
            }
            _ => None,
        }
    }
}

impl EmbeddedFlow {
    /// The IPv4 packet inside the quoted one. `quote` is what is left of the message from there
    /// on, `at` its offset in the frame. `None` as for [`Flow::parse_embedded`].
    pub fn parse_inner(&self, quote: &[u8], at: u16) -> Option<EmbeddedFlow> {
        EmbeddedFlow { l3: at, ..*self }
            .read_ipv4_quote(quote)
            .filter(|inner| matches!(inner.protocol, TCP | UDP))
    }

    fn read_ipv4_quote(mut self, quote: &[u8]) -> Option<EmbeddedFlow> {
        let h = quote.first_chunk::<20>()?;
        let header_len = u16::from(h[0] & 15) * 4;
        if h[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        if u16::from_be_bytes([h[6], h[7]]) & ipv4::OFFSET_MASK != 0 {
            return None;
        }
        self.src = Addr::v4([h[12], h[13], h[14], h[15]]);
        self.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
        self.protocol = h[9];
        self.l4 = self.l3 + header_len;
        self.read_ports(quote.get(header_len as usize..)?)
    }

    fn read_ipv6_quote(mut self, quote: &[u8]) -> Option<EmbeddedFlow> {
        let (h, rest) = quote.split_first_chunk::<40>()?;
        if h[0] >> 4 != 6 {
            return None;
        }
        let mut src = [0; 16];
        let mut dst = [0; 16];
        src.copy_from_slice(&h[8..24]);
        dst.copy_from_slice(&h[24..40]);
        self.src = Addr::v6(src);
        self.dst = Addr::v6(dst);
        let chain = ipv6::walk(h[6], rest);
        let later = chain.fragment.is_some_and(|f| f.offset != 0);
        if later || ipv6::is_extension(chain.protocol) {
            return None;
        }
        self.protocol = chain.protocol;
        self.l4 = self.l3 + 40 + chain.offset;
        self.read_ports(rest.get(chain.offset as usize..)?)
    }

    fn read_ports(mut self, l4: &[u8]) -> Option<EmbeddedFlow> {
        self.l4_len = l4.len() as u16;
        if matches!(self.protocol, TCP | UDP | SCTP) {
            let ports = l4.first_chunk::<4>()?;
            self.src_port = u16::from_be_bytes([ports[0], ports[1]]);
            self.dst_port = u16::from_be_bytes([ports[2], ports[3]]);
        }
        Some(self)
    }
}

/// Least that the first buffer of a longer frame has to hold: more than the longest headers of
/// IPv4 and TCP behind a tag.
const LEAST_HEAD: usize = 192;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ESP: u8 = 50;
const AH: u8 = 51;
const LOW: u64 = 0xffff_ffff;

/// The IPv4 address in the low half of a word of the header.
#[inline(always)]
fn mapped(word: u64) -> Addr {
    Addr::v6((0xffff << 32 | u128::from(word & LOW)).to_be_bytes())
}

/// What of the next `len` bytes of the frame is in this buffer; `None` if the frame has less.
#[inline(always)]
fn here<const WHOLE: bool>(rest: &[u8], tail: usize, len: usize) -> Option<&[u8]> {
    match rest.get(..len) {
        None if !WHOLE && len - rest.len() <= tail => Some(rest),
        all => all,
    }
}

/// The header's sum with its options, and what follows them. The sum is big-endian here.
#[cold]
fn add_options(sum: u64, payload: &[u8], options_len: usize) -> (u64, &[u8]) {
    let (options, l4) = payload
        .split_at_checked(options_len)
        .unwrap_or((payload, &[]));
    let folded = u16::from_be(checksum::fold(checksum::add(0, options)));
    (sum + u64::from(folded), l4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;

    /// The sum of the header by words of eight bytes carries twice where addresses and
    /// identification fill its upper half.
    #[test]
    fn header_sums_that_carry() {
        for id in (0..=u16::MAX).step_by(77) {
            for low in [0u32, 1, 0x1234, 0xffff_fffe, 0xffff_ffff] {
                let mut h = [0; Plain::HEADERS];
                h[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
                h[16..18].copy_from_slice(&40u16.to_be_bytes());
                h[18..20].copy_from_slice(&id.to_be_bytes());
                h[20..24].copy_from_slice(&[0x40, 0, 64, TCP]);
                let upper = u32::from_ne_bytes(octets(&h, 18));
                for src in [!upper, (!upper).wrapping_sub(1), upper] {
                    h[26..30].copy_from_slice(&src.to_ne_bytes());
                    h[30..34].copy_from_slice(&(!low).to_ne_bytes());
                    h[24..26].fill(0);
                    let sum = checksum::of(&h[14..34]);
                    h[24..26].copy_from_slice(&sum.to_be_bytes());
                    let read = |h: &[u8; 54]| Plain::read::<false>(h, 60, 60).is_some();
                    assert!(read(&h), "{h:02x?}");
                    h[25] ^= 1;
                    assert!(!read(&h), "{h:02x?}");
                }
            }
        }
    }
}
