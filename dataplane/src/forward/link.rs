//! The Ethernet header of an outgoing frame, and the TTL that every hop lowers.

use crate::flow::Flow;
use crate::packet::{DropReason, Packet, PortId, Verdict};
use crate::route::ResolvedHop;
use crate::wire::{checksum, ethernet, ipv4};

/// Writes MACs and VLAN tag (or leaves that to the NIC) for `hop` before the IP packet that begins `l3` bytes into the frame,
/// and says where the frame goes. `ethertype` is that of the IP packet.
#[inline]
pub fn send(packet: &mut Packet<'_>, l3: u16, ethertype: u16, hop: &ResolvedHop) -> Verdict {
    if !hop.up {
        return Verdict::Drop(DropReason::PortDown);
    }
    let header = if hop.vlan == 0 { 14 } else { 18 };
    let fits = match l3.checked_sub(header) {
        Some(0) => true,
        Some(more) => packet.pull(more),
        None => packet.push(header - l3),
    };
    if !fits {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    packet.vlan_tci = hop.tci;
    let frame = packet.frame_mut();
    if hop.vlan == 0 {
        let Some(h) = frame.first_chunk_mut::<14>() else {
            return Verdict::Drop(DropReason::Truncated);
        };
        h[..12].copy_from_slice(&hop.macs);
        h[12..].copy_from_slice(&ethertype.to_be_bytes());
    } else {
        let Some(h) = frame.first_chunk_mut::<18>() else {
            return Verdict::Drop(DropReason::Truncated);
        };
        h[..12].copy_from_slice(&hop.macs);
        h[12..14].copy_from_slice(&ethernet::TYPE_VLAN.to_be_bytes());
        h[14..16].copy_from_slice(&hop.vlan.to_be_bytes());
        h[16..].copy_from_slice(&ethertype.to_be_bytes());
    }
    Verdict::Transmit(hop.port)
}

/// EtherType of a flow.
#[inline(always)]
pub fn ethertype(flow: &Flow) -> u16 {
    if flow.is_v4 {
        ethernet::TYPE_IPV4
    } else {
        ethernet::TYPE_IPV6
    }
}

/// [`lower_ttl`] of an IPv4 header.
#[inline(always)]
pub fn lower_ttl_v4(h: &mut [u8; 20]) {
    h[8] = h[8].wrapping_sub(1);
    let sum = checksum::lower_ttl(u16::from_ne_bytes([h[10], h[11]]));
    h[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// Lowers TTL or hop limit by one and keeps the IPv4 header checksum right (RFC 1624). The
/// caller has seen that it is above 1.
#[inline]
pub fn lower_ttl(frame: &mut [u8], flow: &Flow) {
    let Some(ip) = frame.get_mut(flow.l3 as usize..) else {
        return;
    };
    if flow.is_v4 {
        if let Some(h) = ip.first_chunk_mut::<20>() {
            lower_ttl_v4(h);
        }
    } else if let Some(h) = ip.first_chunk_mut::<40>() {
        h[7] = h[7].wrapping_sub(1);
    }
}

/// Takes DF off an IPv4 packet: ICMP errors are cut rather than answered.
pub fn allow_cutting(frame: &mut [u8], flow: &Flow) {
    let ip = frame.get_mut(flow.l3 as usize..).unwrap_or(&mut []);
    if let Some(h) = ip.first_chunk_mut::<20>() {
        let old = u16::from_be_bytes([h[6], h[7]]);
        let new = old & !ipv4::DONT_FRAGMENT;
        let sum = u16::from_be_bytes([h[10], h[11]]);
        let sum = checksum::apply(sum, checksum::delta_word(old, new));
        h[6..8].copy_from_slice(&new.to_be_bytes());
        h[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The port a verdict sends by, for tests and captures.
pub fn port_of(verdict: Verdict) -> Option<PortId> {
    match verdict {
        Verdict::Transmit(port) | Verdict::Fragment(port, _) => Some(port),
        _ => None,
    }
}
