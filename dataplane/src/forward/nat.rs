//! Masquerading: addresses, ports and checksums rewritten in place.
//!
//! The one's-complement differences between virtual and real endpoint are computed once per
//! connection; each packet applies them to the checksums it carries (RFC 1624, equation 3).
//! Transport checksums are never verified, so a wrong one stays wrong, as in the kernel; a UDP
//! checksum of zero is replaced by a real one, and SCTP gets a new CRC if its port changes. Of AH
//! and ESP only the addresses are rewritten.

use crate::addr::{Addr, Endpoint};
use crate::conn::{Entry, Side};
use crate::flow::Flow;
use crate::wire::{checksum, sctp};

/// Differences for the request direction: (address, address and port). Those of the reply
/// direction are their complements.
pub fn deltas(virtual_: &Endpoint, dest: &Endpoint) -> (u16, u16) {
    // The mapped prefix of IPv4 is the same on both sides and cancels out.
    let address = checksum::delta(&virtual_.addr.octets(), &dest.addr.octets());
    (
        address,
        checksum::combine(address, checksum::delta_word(virtual_.port, dest.port)),
    )
}

/// Rewrites the packet for the other side: a request goes to the real server, a reply comes
/// from the virtual endpoint. TTL and layer 2 are left alone. False if the transport header is
/// too short to be rewritten; nothing changed then.
#[inline(always)]
#[must_use]
pub fn rewrite(frame: &mut [u8], flow: &Flow, entry: &Entry, side: Side) -> bool {
    if flow.is_v4 && flow.protocol == 6 && !flow.has_options && flow.l4_len >= 20 {
        let headers = frame
            .get_mut(flow.l3 as usize..)
            .and_then(|ip| ip.first_chunk_mut());
        return headers.is_some_and(|headers| {
            rewrite_tcp_v4::<false>(headers, entry, side);
            true
        });
    }
    rewrite_any(frame, flow, entry, side)
}

/// [`rewrite`] for TCP over IPv4 without options: both headers, of known shape. With `HOP` the
/// TTL goes down as well; the caller has seen that it is above 1.
#[inline(always)]
pub fn rewrite_tcp_v4<const HOP: bool>(h: &mut [u8; 40], entry: &Entry, side: Side) {
    let (delta_l3, delta_l4) = match side {
        Side::Request => {
            h[16..20].copy_from_slice(&entry.dest_v4());
            h[22..24].copy_from_slice(&entry.dest_port().to_be_bytes());
            (entry.delta_l3, entry.delta_l4)
        }
        Side::Reply => {
            h[12..16].copy_from_slice(&entry.virtual_v4());
            h[20..22].copy_from_slice(&entry.virtual_port().to_be_bytes());
            (!entry.delta_l3, !entry.delta_l4)
        }
    };
    // One's complement sums do not mind the byte order, so the words stay as they lie there.
    let old = u16::from_ne_bytes([h[10], h[11]]);
    let sum = if HOP {
        h[8] = h[8].wrapping_sub(1);
        checksum::apply_and_lower_ttl(old, delta_l3.to_be())
    } else {
        checksum::apply(old, delta_l3.to_be())
    };
    h[10..12].copy_from_slice(&sum.to_ne_bytes());
    let sum = checksum::apply(u16::from_ne_bytes([h[36], h[37]]), delta_l4.to_be());
    h[36..38].copy_from_slice(&sum.to_ne_bytes());
}

/// [`rewrite`] for TCP over IPv6 without extension headers.
#[inline(always)]
pub fn rewrite_tcp_v6(h: &mut [u8; 60], entry: &Entry, side: Side) {
    let delta = match side {
        Side::Request => {
            h[24..40].copy_from_slice(entry.dest_v6());
            h[42..44].copy_from_slice(&entry.dest_port().to_be_bytes());
            entry.delta_l4
        }
        Side::Reply => {
            h[8..24].copy_from_slice(entry.virtual_v6());
            h[40..42].copy_from_slice(&entry.virtual_port().to_be_bytes());
            !entry.delta_l4
        }
    };
    let sum = checksum::apply(u16::from_ne_bytes([h[56], h[57]]), delta.to_be());
    h[56..58].copy_from_slice(&sum.to_ne_bytes());
}

#[inline(never)]
fn rewrite_any(frame: &mut [u8], flow: &Flow, entry: &Entry, side: Side) -> bool {
    if !flow.has_l4_header() {
        return false;
    }
    let (delta_l3, delta_l4, port) = match side {
        Side::Request => (entry.delta_l3, entry.delta_l4, entry.dest_port()),
        Side::Reply => (!entry.delta_l3, !entry.delta_l4, entry.virtual_port()),
    };
    let Some((ip, l4)) = frame
        .get_mut(flow.l3 as usize..)
        .and_then(|ip| ip.split_at_mut_checked((flow.l4 - flow.l3) as usize))
    else {
        return false;
    };
    let addr_at = match (flow.is_v4, side) {
        (true, Side::Request) => 16,
        (true, Side::Reply) => 12,
        (false, Side::Request) => 24,
        (false, Side::Reply) => 8,
    };
    if flow.is_v4 {
        let addr = match side {
            Side::Request => entry.dest_v4(),
            Side::Reply => entry.virtual_v4(),
        };
        let Some(h) = ip.first_chunk_mut::<20>() else {
            return false;
        };
        if let Some(to) = h.get_mut(addr_at..addr_at + 4) {
            to.copy_from_slice(&addr);
        }
        let sum = checksum::apply(u16::from_be_bytes([h[10], h[11]]), delta_l3);
        h[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let addr = match side {
            Side::Request => entry.dest().addr,
            Side::Reply => entry.virtual_().addr,
        };
        let Some(to) = ip.get_mut(addr_at..addr_at + 16) else {
            return false;
        };
        to.copy_from_slice(&addr.octets());
    }
    if flow.is_ipsec() {
        return true;
    }
    let port_at = if side == Side::Request { 2 } else { 0 };
    let Some(to) = l4.get_mut(port_at..port_at + 2) else {
        return false;
    };
    let port = port.to_be_bytes();
    let has_moved = *to != port;
    to.copy_from_slice(&port);
    if flow.protocol == sctp::PROTOCOL {
        // Its checksum covers no addresses: it stays as it came unless the port changes, and then
        // all pieces would be needed.
        let whole = l4.get_mut(..flow.l4_len as usize).unwrap_or(&mut []);
        return !has_moved || !flow.is_fragment && sctp::fill_checksum(whole);
    }
    if flow.protocol == 6 {
        if let Some(sum) = l4.get_mut(16..18) {
            let new = checksum::apply(u16::from_be_bytes([sum[0], sum[1]]), delta_l4);
            sum.copy_from_slice(&new.to_be_bytes());
        }
        return true;
    }
    let Some(old) = l4.get(6..8).map(|s| u16::from_be_bytes([s[0], s[1]])) else {
        return false;
    };
    if old == 0 {
        // The sum would need the other pieces, or buffers. None is right too.
        if flow.is_fragment || flow.is_v4 && l4.len() < flow.l4_len as usize {
            return true;
        }
        let (src, dst) = match side {
            Side::Request => (flow.src, entry.dest().addr),
            Side::Reply => (entry.virtual_().addr, flow.dst),
        };
        let whole = l4.get_mut(..flow.l4_len as usize).unwrap_or(&mut []);
        return checksum::fill_transport(&src, &dst, flow.protocol, whole);
    }
    if let Some(sum) = l4.get_mut(6..8) {
        let new = checksum::udp_nonzero(checksum::apply(old, delta_l4));
        sum.copy_from_slice(&new.to_be_bytes());
    }
    true
}

/// Rewrites one address of a later fragment: it has no ports, and the checksum of the whole
/// packet stands in the first one. TTL and layer 2 are left alone.
pub fn rewrite_address(frame: &mut [u8], flow: &Flow, new: &Addr, side: Side) {
    let (len, at) = match (flow.is_v4, side) {
        (true, Side::Request) => (4, 16),
        (true, Side::Reply) => (4, 12),
        (false, Side::Request) => (16, 24),
        (false, Side::Reply) => (16, 8),
    };
    let octets = new.octets();
    let (Some(new), Some(ip)) = (octets.get(16 - len..), frame.get_mut(flow.l3 as usize..)) else {
        return;
    };
    let Some(field) = ip.get_mut(at..at + len) else {
        return;
    };
    let delta = checksum::delta(field, new);
    field.copy_from_slice(new);
    if let (true, Some(sum)) = (flow.is_v4, ip.get_mut(10..12)) {
        let new = checksum::apply(u16::from_be_bytes([sum[0], sum[1]]), delta);
        sum.copy_from_slice(&new.to_be_bytes());
    }
}
