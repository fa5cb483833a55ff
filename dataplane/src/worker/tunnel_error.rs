//! ICMP errors about packets of our own tunnels (`ip_vs_in_icmp`, the part on tunnels): a router
//! between us and a real server had no use for an outer packet. The client hears of it, as if
//! there were no tunnel; the message itself ends here.

use super::Worker;
use super::steer::Way;
use crate::addr::Endpoint;
use crate::conn::{KeyHash, Side};
use crate::flow::{EmbeddedFlow, Flow};
use crate::packet::{DropReason, Packet, Verdict};
use crate::route::Lookup;
use crate::service::{DestId, ForwardingMethod, TunnelKind};
use crate::time::Instant;
use crate::wire::icmp::Answer;
use crate::wire::{checksum, ethernet, gre, gue, ipv4, tunnel};

/// Type and code of "fragmentation needed and DF set".
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);

/// What an outer packet carried, from a quote of it.
struct Carried {
    kind: TunnelKind,
    /// UDP port of GUE, 0 for the others.
    port: u16,
    /// The client's packet.
    inner: EmbeddedFlow,
}

/// Looks into a quoted outer packet. `None`: it is none of a kind that we send, or the quote ends
/// too early to tell whose packet was inside.
fn look_inside(frame: &[u8], flow: &Flow, quoted: &EmbeddedFlow) -> Option<Carried> {
    let end = flow.l4 as usize + flow.l4_len as usize;
    let shim = frame.get(quoted.l4 as usize..end)?;
    let (kind, port, at) = match quoted.protocol {
        tunnel::IPV4_INSIDE => (TunnelKind::IpIp, 0, 0),
        gre::PROTOCOL => match gre::inner(shim)? {
            (at, ethernet::TYPE_IPV4) => (TunnelKind::Gre, 0, at),
            _ => return None,
        },
        gue::PROTOCOL => match gue::inner(shim)? {
            (port, at, tunnel::IPV4_INSIDE) => (TunnelKind::Gue, port, at),
            _ => return None,
        },
        _ => return None,
    };
    let at = quoted.l4.checked_add(at as u16)?;
    let inner = quoted.parse_inner(frame.get(at as usize..end)?, at)?;
    Some(Carried { kind, port, inner })
}

impl Worker {
    /// How the packet inside belongs to a connection, if the error may be about a tunnel of ours.
    /// As in the kernel the outer packet is IPv4's, and so is the one inside.
    pub(super) fn way_of_tunnel(
        &self,
        packet: &Packet<'_>,
        flow: &Flow,
        quoted: &EmbeddedFlow,
    ) -> Option<Way> {
        if !flow.is_v4 || !matches!(self.core.router.lookup(flow.dst, 0), Lookup::Local) {
            return None;
        }
        let q = look_inside(packet.frame(), flow, quoted)?.inner;
        Some(Way {
            side: Side::Request,
            protocol: q.protocol,
            client: Endpoint::new(q.src, q.src_port),
            other: Endpoint::new(q.dst, q.dst_port),
        })
    }

    /// Handles an ICMP error if it is about the tunnel of this connection, which the packet inside
    /// belongs to.
    #[cold]
    pub(super) fn tunnel_error(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        quoted: &EmbeddedFlow,
        (hash, i): (KeyHash, u32),
    ) -> Option<Verdict> {
        let carried = look_inside(packet.frame(), flow, quoted)?;
        let id = self.tunnel_of(quoted, &carried, hash, i)?;
        let core = &mut self.core;
        let end = flow.l4 as usize + flow.l4_len as usize;
        let message = packet.frame().get(flow.l4 as usize..end)?;
        if !checksum::is_valid(message) {
            return Some(core.dropped(DropReason::IcmpChecksum));
        }
        let word = message
            .get(4..8)?
            .first_chunk()
            .map(|w| u32::from_be_bytes(*w))?;
        let inner = carried.inner;
        let field = packet
            .frame()
            .get(inner.l3 as usize + 6..)?
            .first_chunk::<2>()?;
        let dont_fragment = u16::from_be_bytes(*field) & ipv4::DONT_FRAGMENT != 0;

        let is_mtu = (quoted.icmp_type, quoted.icmp_code) == FRAGMENTATION_NEEDED;
        let answer = if is_mtu {
            let mtu = core.learn_path_mtu(id, word as u16, now);
            if !dont_fragment {
                // The client's packets may be cut: ours are, from now on.
                return Some(core.dropped(DropReason::PathMtu));
            }
            Answer::TooBig { mtu }
        } else {
            Answer::Relayed {
                icmp_type: quoted.icmp_type,
                code: quoted.icmp_code,
                word,
            }
        };
        let stripped = strip(packet, flow, &inner, dont_fragment)?;
        if let Some(c) = core.counters.dest(id) {
            c.out_pkts.add(1);
            c.out_bytes.add(u64::from(stripped.l3_len));
        }
        let sent = core.tell(now, packet, &stripped, answer, inner.dst);
        Some(sent.unwrap_or_else(Verdict::Drop))
    }

    /// The destination whose tunnel the quoted outer packet took: that of the connection.
    fn tunnel_of(
        &self,
        quoted: &EmbeddedFlow,
        carried: &Carried,
        hash: KeyHash,
        i: u32,
    ) -> Option<DestId> {
        let shard = self.shard(hash);
        let entry = shard.entry(i)?;
        let dest = self.core.dests.get(entry.dest_id().0 as usize)?;
        let is_ours = entry.method() == ForwardingMethod::Tunnel
            && dest.addr == quoted.dst
            && dest.tunnel.kind == carried.kind
            && dest.tunnel.port == carried.port;
        is_ours.then_some(entry.dest_id())
    }
}

/// Cuts off all that stands before the innermost packet and puts layer 2 before it again. What it
/// is then, as far as the quote goes.
fn strip(
    packet: &mut Packet<'_>,
    flow: &Flow,
    inner: &EmbeddedFlow,
    dont_fragment: bool,
) -> Option<Flow> {
    const L2: u16 = ethernet::HEADER_LEN as u16;
    let end = flow.l4 + flow.l4_len;
    let head = *packet.frame().first_chunk::<{ ethernet::HEADER_LEN }>()?;
    if !packet.set_len(end) || !packet.pull(inner.l3.checked_sub(L2)?) {
        return None;
    }
    let to = packet.frame_mut().first_chunk_mut()?;
    *to = head;
    ethernet::set_type(
        packet.frame_mut(),
        ethernet::HEADER_LEN,
        ethernet::TYPE_IPV4,
    );
    Some(Flow {
        src: inner.src,
        dst: inner.dst,
        src_port: inner.src_port,
        dst_port: inner.dst_port,
        l3: L2,
        l4: L2 + (inner.l4 - inner.l3),
        l3_len: end - inner.l3,
        l4_len: inner.l4_len,
        protocol: inner.protocol,
        is_v4: true,
        dont_fragment,
        ..Flow::EMPTY
    })
}
