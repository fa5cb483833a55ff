//! Frames that tell a LAN where an address is: gratuitous ARP and unsolicited neighbour
//! advertisements, sent and heard.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::Mac;
use crate::checksum::Sum;
use crate::packet::ethernet;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Option "target link-layer address", one unit of eight bytes (RFC 4861, 4.6.1).
const TARGET_LINK_LAYER: u8 = 2;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Ethernet for IPv4, addresses of 6 and 4 bytes (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The frame that announces `addr` at `mac`: a gratuitous ARP request (RFC 5798, 6.4.2) of 42
/// bytes or an unsolicited neighbour advertisement of 86. `is_router` sets the flag of that name,
/// which has to be right whenever the host forwards IPv6.
pub fn frame(mac: Mac, addr: IpAddr, is_router: bool) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => gratuitous_arp(mac, addr),
        IpAddr::V6(addr) => unsolicited_advertisement(mac, addr, is_router),
    }
}

fn gratuitous_arp(mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(Mac::BROADCAST.0);
    frame.extend(mac.0);
    frame.extend(ARP.to_be_bytes());
    frame.extend(ARP_KIND);
    frame.extend([0, 1]);
    frame.extend(mac.0);
    frame.extend(addr.octets());
    frame.extend(Mac::BROADCAST.0);
    frame.extend(addr.octets());
    frame
}

fn unsolicited_advertisement(mac: Mac, addr: Ipv6Addr, is_router: bool) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
    message.extend([
        FLAG_OVERRIDE | if is_router { FLAG_ROUTER } else { 0 },
        0,
        0,
        0,
    ]);
    message.extend(addr.octets());
    message.extend([TARGET_LINK_LAYER, 1]);
    message.extend(mac.0);
    let sum = Sum::default().with(&message);
    let len = message.len() as u16;
    let checksum = sum
        .pseudo(addr.into(), ALL_NODES.into(), ICMPV6, len)
        .field();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([ICMPV6, 255]);
    packet.extend(addr.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(message);
    let all_nodes = Mac([0x33, 0x33, 0, 0, 0, 1]);
    ethernet(all_nodes, mac, &packet)
}

/// What an ARP packet or a neighbour advertisement says: this address is at this MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub addr: IpAddr,
    /// Where it is said to be.
    pub mac: Mac,
}

impl Claim {
    /// Reads an Ethernet frame without VLAN tag. `None` if it claims nothing: another protocol,
    /// a question about an address that the sender does not have (a probe), or a broken message.
    pub fn from_frame(frame: &[u8]) -> Option<Claim> {
        let (header, payload) = frame.split_first_chunk::<14>()?;
        let src = Mac([
            header[6], header[7], header[8], header[9], header[10], header[11],
        ]);
        match u16::from_be_bytes([header[12], header[13]]) {
            ARP => Claim::from_arp(payload),
            IPV6 => Claim::from_ipv6(payload, src),
            _ => None,
        }
    }

    fn from_arp(packet: &[u8]) -> Option<Claim> {
        let packet: &[u8; 28] = packet.first_chunk()?;
        let [
            k0,
            k1,
            k2,
            k3,
            k4,
            k5,
            0,
            1 | 2,
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            a,
            b,
            c,
            d,
            ..,
        ] = *packet
        else {
            return None;
        };
        let addr = Ipv4Addr::new(a, b, c, d);
        let is_claim = [k0, k1, k2, k3, k4, k5] == ARP_KIND && !addr.is_unspecified();
        is_claim.then_some(Claim {
            addr: addr.into(),
            mac: Mac([m0, m1, m2, m3, m4, m5]),
        })
    }

    fn from_ipv6(packet: &[u8], src: Mac) -> Option<Claim> {
        let (header, rest) = packet.split_first_chunk::<40>()?;
        let len = u16::from_be_bytes([header[4], header[5]]);
        let message = rest.get(..usize::from(len))?;
        // RFC 4861, 7.1.2: hop limit 255, code 0, checksum, 24 bytes.
        if header[6] != ICMPV6 || header[7] != 255 || message.len() < 24 {
            return None;
        }
        let addr = |from: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[from..from + 16]);
            IpAddr::from(octets)
        };
        let sum = Sum::default()
            .with(message)
            .pseudo(addr(8), addr(24), ICMPV6, len);
        if message[..2] != [NEIGHBOUR_ADVERTISEMENT, 0] || !sum.is_valid() {
            return None;
        }
        let mut target = [0; 16];
        target.copy_from_slice(&message[8..24]);
        let mac = link_layer_option(&message[24..]).unwrap_or(src);
        Some(Claim {
            addr: target.into(),
            mac,
        })
    }
}

/// The target link-layer address among the options.
fn link_layer_option(mut options: &[u8]) -> Option<Mac> {
    while let [kind, units, ..] = *options {
        let size = usize::from(units) * 8;
        let option = options.get(..size).filter(|option| !option.is_empty())?;
        if let (TARGET_LINK_LAYER, [_, _, a, b, c, d, e, g, ..]) = (kind, option) {
            return Some(Mac([*a, *b, *c, *d, *e, *g]));
        }
        options = &options[size..];
    }
    None
}
