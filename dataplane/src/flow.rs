//! `Flow`: what the hot path needs to know of a packet, and the only parser it calls.
//!
//! Nothing here can panic: every byte is read through a slice pattern or `get`, and lengths are
//! checked once per header. Verified: Ethernet type, IP version and lengths, IPv4 header checksum.
//! Not verified: transport checksums (IPVS passes them on as they came).

use crate::addr::Addr;
use crate::packet::DropReason;
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
    /// Parses a frame. `vlan_tci` is the tag that the driver took out of it (0: none),
    /// `wire_len` its whole length on the wire.
    #[inline]
    pub fn parse(frame: &[u8], vlan_tci: u16, wire_len: u32) -> Parsed {
        let Some(eth) = frame.first_chunk::<{ ethernet::HEADER_LEN }>() else {
            return Parsed::Bad(DropReason::Truncated);
        };
        let mut ethertype = u16::from_be_bytes([eth[12], eth[13]]);
        let mut l3 = ethernet::HEADER_LEN;
        let mut tci = vlan_tci;
        if ethertype == ethernet::TYPE_VLAN && vlan_tci == 0 {
            let Some(tagged) = frame.first_chunk::<{ ethernet::HEADER_LEN + ethernet::TAG_LEN }>()
            else {
                return Parsed::Bad(DropReason::Truncated);
            };
            tci = u16::from_be_bytes([tagged[14], tagged[15]]);
            ethertype = u16::from_be_bytes([tagged[16], tagged[17]]);
            l3 += ethernet::TAG_LEN;
        }
        let vlan = tci & ethernet::VLAN_MASK;
        // Frames in several buffers cannot be edited in place; they count as cut.
        if wire_len as usize > frame.len() {
            return match ethertype {
                ethernet::TYPE_IPV4 | ethernet::TYPE_IPV6 => Parsed::Bad(DropReason::Truncated),
                _ => Parsed::NotIp { ethertype },
            };
        }
        match ethertype {
            ethernet::TYPE_IPV4 => Flow::parse_ipv4(frame, l3, vlan),
            ethernet::TYPE_IPV6 => Flow::parse_ipv6(frame, l3, vlan),
            _ => Parsed::NotIp { ethertype },
        }
    }

    #[inline(always)]
    fn parse_ipv4(frame: &[u8], l3: usize, vlan: u16) -> Parsed {
        let Some((h, rest)) = frame.get(l3..).and_then(<[u8]>::split_first_chunk::<20>) else {
            return Parsed::Bad(DropReason::Truncated);
        };
        let total = u16::from_be_bytes([h[2], h[3]]);
        let header_len = u16::from(h[0] & 15) * 4;
        let options_len = header_len.wrapping_sub(20) as usize;
        if h[0] >> 4 != 4 || header_len < 20 || total < header_len {
            return Parsed::Bad(DropReason::BadHeader);
        }
        // Covers the options too: total >= header_len.
        if l3 + total as usize > frame.len() {
            return Parsed::Bad(DropReason::Truncated);
        }
        let mut sum = checksum::sum_ipv4_header(h);
        if options_len != 0 {
            sum = checksum::add(sum, rest.get(..options_len).unwrap_or(&[]));
        }
        if checksum::fold(sum) != 0xffff {
            return Parsed::Bad(DropReason::BadChecksum);
        }
        let mut flow = Flow {
            src: Addr::v4([h[12], h[13], h[14], h[15]]),
            dst: Addr::v4([h[16], h[17], h[18], h[19]]),
            src_port: 0,
            dst_port: 0,
            l3: l3 as u16,
            l4: l3 as u16 + header_len,
            l3_len: total,
            l4_len: total - header_len,
            vlan,
            protocol: h[9],
            tcp_flags: 0,
            ttl: h[8],
            tos: h[1],
            is_v4: true,
            dont_fragment: h[6] & 0x40 != 0,
            has_options: options_len != 0,
        };
        let frag = u16::from_be_bytes([h[6], h[7]]);
        let l4 = rest.get(options_len..total as usize - 20).unwrap_or(&[]);
        if frag & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) == 0 {
            flow.read_transport(l4);
            return Parsed::Ip(flow);
        }
        let offset = (frag & ipv4::OFFSET_MASK) * 8;
        if offset == 0 {
            flow.read_transport(l4);
        }
        let id = u32::from(u16::from_be_bytes([h[4], h[5]]));
        Parsed::Fragment(
            flow,
            Fragment {
                id,
                offset,
                more: frag & ipv4::MORE_FRAGMENTS != 0,
            },
        )
    }

    #[inline(always)]
    fn parse_ipv6(frame: &[u8], l3: usize, vlan: u16) -> Parsed {
        let Some((h, rest)) = frame.get(l3..).and_then(<[u8]>::split_first_chunk::<40>) else {
            return Parsed::Bad(DropReason::Truncated);
        };
        let payload = u16::from_be_bytes([h[4], h[5]]);
        // Offsets are 16 bits wide, so the packet has to end below 64 KiB of the frame.
        if h[0] >> 4 != 6 || payload as usize > u16::MAX as usize - 40 - l3 {
            return Parsed::Bad(DropReason::BadHeader);
        }
        let Some(rest) = rest.get(..payload as usize) else {
            return Parsed::Bad(DropReason::Truncated);
        };
        let mut src = [0; 16];
        let mut dst = [0; 16];
        src.copy_from_slice(&h[8..24]);
        dst.copy_from_slice(&h[24..40]);
        let mut flow = Flow {
            src: Addr::v6(src),
            dst: Addr::v6(dst),
            src_port: 0,
            dst_port: 0,
            l3: l3 as u16,
            l4: l3 as u16 + 40,
            l3_len: payload + 40,
            l4_len: payload,
            vlan,
            protocol: h[6],
            tcp_flags: 0,
            ttl: h[7],
            tos: h[0] << 4 | h[1] >> 4,
            is_v4: false,
            dont_fragment: true,
            has_options: false,
        };
        if !ipv6::is_extension(h[6]) {
            flow.read_transport(rest);
            return Parsed::Ip(flow);
        }
        let chain = ipv6::walk(h[6], rest);
        // `chain.offset` is at most `payload`.
        flow.l4 += chain.offset;
        flow.l4_len -= chain.offset;
        flow.protocol = chain.protocol;
        flow.has_options = true;
        if chain.fragment.is_none_or(|f| f.offset == 0) {
            flow.read_transport(rest.get(chain.offset as usize..).unwrap_or(&[]));
        }
        match chain.fragment {
            // RFC 6946: a fragment header on a whole packet changes nothing.
            None
            | Some(Fragment {
                offset: 0,
                more: false,
                ..
            }) => Parsed::Ip(flow),
            Some(fragment) => Parsed::Fragment(flow, fragment),
        }
    }

    /// Ports and flags from the bytes of the transport.
    #[inline(always)]
    fn read_transport(&mut self, l4: &[u8]) {
        if self.protocol != TCP && self.protocol != UDP {
            return;
        }
        if let Some(ports) = l4.first_chunk::<4>() {
            self.src_port = u16::from_be_bytes([ports[0], ports[1]]);
            self.dst_port = u16::from_be_bytes([ports[2], ports[3]]);
        }
        if self.protocol == TCP {
            self.tcp_flags = l4.get(13).copied().unwrap_or(0);
        }
    }

    /// Whether as much of the transport header is there as its protocol needs (TCP 20 bytes,
    /// UDP 8). A shorter one may still belong to a connection, but opens none.
    #[inline(always)]
    pub const fn has_l4_header(&self) -> bool {
        match self.protocol {
            TCP => self.l4_len >= 20,
            UDP => self.l4_len >= 8,
            _ => true,
        }
    }

    /// Whether the two ports were there to be read.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        (self.protocol == TCP || self.protocol == UDP) && self.l4_len >= 4
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
        if self.protocol == TCP || self.protocol == UDP {
            let ports = l4.first_chunk::<4>()?;
            self.src_port = u16::from_be_bytes([ports[0], ports[1]]);
            self.dst_port = u16::from_be_bytes([ports[2], ports[3]]);
        }
        Some(self)
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
