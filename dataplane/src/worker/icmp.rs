//! ICMP errors about packets of connections, in both directions (`ip_vs_in_icmp`,
//! `ip_vs_out_icmp`).

use super::steer::{self, Found, Way, Ways};
use super::{Core, Worker};
use crate::addr::{Addr, Endpoint};
use crate::conn::{KeyHash, Shard, Side};
use crate::flow::{EmbeddedFlow, Flow};
use crate::forward::link;
use crate::packet::{Attempt, DropReason, Packet, PuntClass, Verdict};
use crate::roles::{MARKED, REAL, VIRTUAL};
use crate::route::Unresolved;
use crate::service::ForwardingMethod;
use crate::time::Instant;
use crate::wire::icmp::{self, Answer, Towards};
use crate::wire::ipv6;

impl Worker {
    /// An ICMP packet to us or past us. Errors about a connection's packets are translated and
    /// sent on; everything else is the kernel's.
    #[cold]
    pub(super) fn icmp_error(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        attempt: Attempt,
    ) -> Verdict {
        if !flow.is_v4 && flow.has_options && is_behind_fragment_header(packet.frame(), flow) {
            return self.core.dropped(DropReason::Fragment);
        }
        if let Some(quoted) = flow.parse_embedded(packet.frame()) {
            let ways = self.ways_of_quoted(packet, flow, &quoted);
            let found = match self.search(&ways, None, attempt, false) {
                Found::Elsewhere(worker, attempt) => return self.core.hand_over(worker, attempt),
                Found::Here { way, hash, i } => Some((way, hash, i)),
                Found::Nowhere | Found::Outbound => None,
            };
            if let Some((way, hash, i)) = found
                && let Some(verdict) = self.error_of(now, packet, flow, &quoted, way, (hash, i))
            {
                return verdict;
            }
            if self.core.settings.schedule_icmp
                && let Some(verdict) = self.scheduled_error(now, packet, flow, &quoted)
            {
                return verdict;
            }
        }
        let class = self.core.class_of(flow, packet.frame(), false);
        self.core.punt_unclaimed(now, packet, class)
    }

    /// With `schedule_icmp` an error about no connection's packet makes one. Nobody is answered.
    fn scheduled_error(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        quoted: &EmbeddedFlow,
    ) -> Option<Verdict> {
        let request = Flow {
            is_v4: flow.is_v4,
            vlan: flow.vlan,
            src: quoted.dst,
            dst: quoted.src,
            src_port: quoted.dst_port,
            dst_port: quoted.src_port,
            protocol: quoted.protocol,
            ..Flow::EMPTY
        };
        let (at, i) = match self.connect_quoted(now, packet.port, &request, flow) {
            Ok(found) => found?,
            Err(reason) => return Some(self.core.dropped(reason)),
        };
        let shard = self.shards.get_mut(at)?;
        Some(
            self.core
                .error_to_server(now, shard, i, packet, flow, quoted),
        )
    }

    /// From the server's side the quote is the request as the server saw it; from the client's
    /// side it is the reply as the client saw it. A quoted tunnel has a client's packet inside.
    fn ways_of_quoted(&self, packet: &Packet<'_>, flow: &Flow, q: &EmbeddedFlow) -> Ways {
        let (src, dst) = (
            Endpoint::new(q.src, q.src_port),
            Endpoint::new(q.dst, q.dst_port),
        );
        let way = |side, client: Endpoint, other: Endpoint, wanted| {
            let roles = &self.core.roles;
            let roles = roles.of(flow.is_v4, q.protocol, &other.addr, other.port);
            (roles & wanted != 0).then_some(Way {
                side,
                protocol: q.protocol,
                client,
                other,
            })
        };
        [
            way(Side::Reply, src, dst, REAL),
            way(Side::Request, dst, src, VIRTUAL | MARKED),
            self.way_of_tunnel(packet, flow, q),
        ]
    }

    /// An error about a packet of this connection. `None`: it is not, after all.
    fn error_of(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        quoted: &EmbeddedFlow,
        way: usize,
        (hash, i): (KeyHash, u32),
    ) -> Option<Verdict> {
        if way == steer::TUNNEL {
            return self.tunnel_error(now, packet, flow, quoted, (hash, i));
        }
        let shard = self.shards.get_mut(usize::from(hash.shard))?;
        let core = &mut self.core;
        Some(match way {
            steer::REPLY => core.error_to_client(now, shard, i, packet, flow, quoted),
            _ => core.error_to_server(now, shard, i, packet, flow, quoted),
        })
    }
}

/// Whether an ICMPv6 error stands behind a fragment header, even if it is a whole packet. Errors
/// are never cut, so it is no honest one (`ip_vs_in_icmp_v6`).
fn is_behind_fragment_header(frame: &[u8], flow: &Flow) -> bool {
    let is_error = frame
        .get(flow.l4 as usize)
        .is_some_and(|icmp_type| icmp::is_error_v6(*icmp_type));
    let chain = frame
        .get(flow.l3 as usize..)
        .and_then(<[u8]>::split_first_chunk::<{ ipv6::HEADER_LEN }>)
        .map(|(header, rest)| ipv6::walk(header[6], rest));
    is_error && chain.is_some_and(|chain| chain.fragment.is_some())
}

impl Core {
    /// An error from the server's side of a NAT connection: it comes from the virtual address
    /// then, whoever sent it.
    fn error_to_client(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        i: u32,
        packet: &mut Packet<'_>,
        flow: &Flow,
        quoted: &EmbeddedFlow,
    ) -> Verdict {
        let Some(entry) = shard.entry_mut(i) else {
            return self.dropped(DropReason::TableFull);
        };
        let virtual_ = entry.virtual_();
        // The message may be for somebody else than the client it tells of.
        let next = if flow.dst == entry.client().addr {
            self.client_hop(entry, flow.dst)
        } else {
            self.hop_to(flow.dst)
        };
        let (dest, len) = (entry.dest_id(), flow.l3_len);
        let towards = Towards::Client(virtual_);
        if let Err(reason) = icmp::translate(packet.frame_mut(), flow, quoted, towards) {
            return self.dropped(reason);
        }
        if let (Some(c), true) = (self.counters.dest(dest), self.is_available(dest)) {
            c.out_pkts.add(1);
            c.out_bytes.add(u64::from(len));
        }
        let source = virtual_.addr;
        match next {
            Ok(next) => self.pass_on(now, packet, flow, next, source),
            Err(Unresolved::Local) => self.punt(now, packet.port, PuntClass::Host),
            Err(why) => self.unreachable(now, packet, flow, why, Side::Reply, source),
        }
    }

    /// An error from the client's side: NAT translates it for the server, DR and tunnels send it
    /// on as it is.
    fn error_to_server(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        i: u32,
        packet: &mut Packet<'_>,
        flow: &Flow,
        quoted: &EmbeddedFlow,
    ) -> Verdict {
        let Some(entry) = shard.entry_mut(i) else {
            return self.dropped(DropReason::TableFull);
        };
        let (method, dest_id, dest) = (entry.method(), entry.dest_id(), entry.dest());
        entry.in_pkts = entry.in_pkts.wrapping_add(1);
        let next = match method {
            ForwardingMethod::Bypass => self.hop_to(flow.dst),
            _ => self.dest_hop(dest_id),
        };
        if method == ForwardingMethod::Masquerade
            && let Err(reason) =
                icmp::translate(packet.frame_mut(), flow, quoted, Towards::Server(dest))
        {
            return self.dropped(reason);
        }
        if let (Some(c), true) = (self.counters.dest(dest_id), self.is_available(dest_id)) {
            c.in_pkts.add(1);
            c.in_bytes.add(u64::from(flow.l3_len));
        }
        match next {
            Ok(next) if method == ForwardingMethod::Tunnel => {
                if flow.ttl <= 1 {
                    return self.answer(now, packet, flow, Answer::TimeExceeded, flow.dst);
                }
                self.encapsulate(now, packet, flow, dest_id, next)
            }
            Ok(next) => self.pass_on(now, packet, flow, next, flow.dst),
            Err(Unresolved::Local) => self.punt(now, packet.port, PuntClass::Host),
            Err(why) => self.unreachable(now, packet, flow, why, Side::Request, flow.dst),
        }
    }

    fn pass_on(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        next: super::transmit::NextHop,
        source: Addr,
    ) -> Verdict {
        if flow.ttl <= 1 {
            return self.answer(now, packet, flow, Answer::TimeExceeded, source);
        }
        if !flow.is_v4 && flow.l3_len > next.mtu {
            // An error about an error is never sent.
            return self.dropped(DropReason::TooBig);
        }
        link::lower_ttl(packet.frame_mut(), flow);
        if flow.l3_len > next.mtu && flow.dont_fragment {
            link::allow_cutting(packet.frame_mut(), flow);
        }
        self.send(packet, flow.l3, link::ethertype(flow), next, flow.l3_len)
    }
}
