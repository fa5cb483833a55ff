//! ICMP errors about packets of connections, in both directions (`ip_vs_in_icmp`,
//! `ip_vs_out_icmp`).

use super::{Core, Worker};
use crate::addr::{Addr, Endpoint};
use crate::conn::{Shard, Side};
use crate::flow::{EmbeddedFlow, Flow};
use crate::forward::link;
use crate::packet::{DropReason, Packet, PuntClass, Verdict};
use crate::roles::{REAL, VIRTUAL};
use crate::route::Unresolved;
use crate::service::ForwardingMethod;
use crate::time::Instant;
use crate::wire::icmp::{self, Answer, Towards};
use crate::wire::ipv6;

/// Where the connection of a quoted packet is.
enum Quoted {
    /// In this shard, with this number.
    Here(usize, u32),
    /// With another worker, if anywhere.
    Elsewhere(u8),
    /// There is none.
    Unknown,
}

impl Worker {
    /// An ICMP packet to us or past us. Errors about a connection's packets are translated and
    /// sent on; everything else is the kernel's.
    #[cold]
    pub(super) fn icmp_error(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Verdict {
        // From the server's side the quote is the request as the server saw it; from the
        // client's side it is the reply as the client saw it.
        self.icmp_error_of(now, packet, flow, &[Side::Reply, Side::Request])
    }

    /// As [`Worker::icmp_error`], for connections seen from these sides.
    pub(super) fn icmp_error_of(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        sides: &[Side],
    ) -> Verdict {
        if !flow.is_v4 && flow.has_options && is_behind_fragment_header(packet.frame(), flow) {
            return self.core.dropped(DropReason::Fragment);
        }
        if let Some(quoted) = flow.parse_embedded(packet.frame()) {
            for &side in sides {
                let (shard, i) = match self.find_quoted(flow.is_v4, &quoted, side) {
                    Quoted::Unknown => continue,
                    Quoted::Elsewhere(worker) => {
                        return self.core.hand_over(worker, side == Side::Request);
                    }
                    Quoted::Here(shard, i) => (shard, i),
                };
                let Some(shard) = self.shards.get_mut(shard) else {
                    break;
                };
                return match side {
                    Side::Reply => self
                        .core
                        .error_to_client(now, shard, i, packet, flow, &quoted),
                    Side::Request => self
                        .core
                        .error_to_server(now, shard, i, packet, flow, &quoted),
                };
            }
            if let Some(verdict) = self.tunnel_error(now, packet, flow, &quoted) {
                return verdict;
            }
            if self.core.settings.schedule_icmp
                && let Some(verdict) = self.scheduled_error(now, packet, flow, &quoted)
            {
                return verdict;
            }
        }
        let class = self.core.class_of(flow, packet.frame(), false);
        self.core.punt(now, packet.port, class)
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
        let (at, i) = match self.connect_quoted(now, packet.port, &request) {
            Ok(found) => found?,
            Err(reason) => return Some(self.core.dropped(reason)),
        };
        let shard = self.shards.get_mut(at)?;
        Some(
            self.core
                .error_to_server(now, shard, i, packet, flow, quoted),
        )
    }

    fn find_quoted(&self, is_v4: bool, q: &EmbeddedFlow, side: Side) -> Quoted {
        let (src, dst) = (
            Endpoint::new(q.src, q.src_port),
            Endpoint::new(q.dst, q.dst_port),
        );
        let (client, other, role) = match side {
            Side::Reply => (src, dst, REAL),
            Side::Request => (dst, src, VIRTUAL),
        };
        if self
            .core
            .roles
            .of(is_v4, q.protocol, &other.addr, other.port)
            & role
            == 0
        {
            return Quoted::Unknown;
        }
        let hash = self.core.key.hash(
            q.protocol,
            &client.addr,
            client.port,
            &other.addr,
            other.port,
        );
        if let Some(worker) = self.core.share.elsewhere(hash.shard) {
            return Quoted::Elsewhere(worker);
        }
        let found = self
            .shard(hash)
            .lookup(hash, side, q.protocol, &client, &other);
        found.map_or(Quoted::Unknown, |i| Quoted::Here(hash.shard as usize, i))
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
        let next = self.dest_hop(dest_id);
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
