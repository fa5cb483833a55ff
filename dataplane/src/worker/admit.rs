//! New connections: which service, which real server (`ip_vs_schedule`).

use core::net::IpAddr;

use super::{Core, Running, Worker};
use crate::addr::Endpoint;
use crate::conn::entry::flag;
use crate::conn::{KeyHash, NewConnection, Side};
use crate::dests;
use crate::flow::Flow;
use crate::forward::nat;
use crate::packet::{DropReason, Packet, Verdict};
use crate::proto::{self, Opening, tcp};
use crate::route::Lookup;
use crate::service::{ForwardingMethod, Protocol, ServiceKey};
use crate::time::Instant;
use crate::wire::icmp::Answer;

/// What scheduling a packet came to.
enum Choice {
    /// A new connection to this destination; `one_packet` when it lasts for this packet only.
    Connect {
        new: NewConnection,
        one_packet: bool,
    },
    /// IPVS is not interested: the host answers.
    Accept,
    /// The service has no usable destination.
    NoDestination,
    /// Refused.
    Drop(DropReason),
}

impl Worker {
    /// A packet from a client without a connection, for an endpoint that is a live service's.
    #[inline(never)]
    pub(super) fn admit(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
    ) -> Verdict {
        let core = &mut self.core;
        let (new, one_packet) = match core.choose(now, flow) {
            Choice::Connect { new, one_packet } => (new, one_packet),
            Choice::Accept => {
                let class = core.class_of(flow, packet.frame(), false);
                return core.punt(now, packet.port, class);
            }
            Choice::NoDestination => {
                return core.answer(now, packet, flow, Answer::PortUnreachable, flow.dst);
            }
            Choice::Drop(reason) => return core.dropped(reason),
        };
        if let Some(wait) = core.awaits_hop(new.dest_id) {
            return wait;
        }
        let Some(shard) = self.shards.get_mut(hash.shard as usize) else {
            return core.dropped(DropReason::TableFull);
        };
        let mut at = shard.insert(&new);
        if at.is_none()
            && let Some(oldest) = shard.oldest_half_open()
        {
            core.counters.reclaimed.add(1);
            core.end(shard, oldest);
            at = shard.insert(&new);
        }
        let Some(i) = at else {
            return core.dropped(DropReason::TableFull);
        };
        core.counters.connections.add(1);
        dests::bind(
            &core.dests,
            &core.counters,
            &core.changes,
            new.dest_id,
            true,
        );
        if let Some(c) = core.counters.dest(new.dest_id) {
            c.in_pkts.add(1);
            c.in_bytes.add(u64::from(flow.l3_len));
        }
        let Some(entry) = shard.entry_mut(i) else {
            return core.dropped(DropReason::TableFull);
        };
        if new.method == ForwardingMethod::Masquerade {
            (entry.delta_l3, entry.delta_l4) = nat::deltas(&new.virtual_, &new.dest);
        }
        entry.in_pkts = 1;
        let half_open = core
            .advance(entry, Side::Request, flow, now.ticks())
            // A fresh entry is in no list yet, whatever its deadline.
            .unwrap_or(flow.protocol == 6 && entry.state == tcp::State::SynRecv as u8);
        let verdict = core.forward_request(now, packet, flow, entry);
        if one_packet {
            core.end(shard, i);
        } else {
            shard.rearm(i, half_open);
        }
        verdict
    }
}

impl Core {
    /// Sources that the kernel's input routing refuses: loopback, groups, nobody, ourselves.
    fn is_martian(&self, flow: &Flow) -> bool {
        let src = IpAddr::from(flow.src);
        let broadcast = matches!(src, IpAddr::V4(v4) if v4.is_broadcast());
        src.is_loopback()
            || src.is_multicast()
            || src.is_unspecified()
            || broadcast
            || matches!(self.router.lookup(flow.src, 0), Lookup::Local)
    }

    fn choose(&mut self, now: Instant, flow: &Flow) -> Choice {
        let Some(protocol) = Protocol::from_number(flow.protocol) else {
            return Choice::Accept;
        };
        match proto::may_open(protocol, flow, &self.settings) {
            Opening::Allowed => {}
            Opening::Refused => return Choice::Accept,
            Opening::Short => return Choice::Drop(DropReason::ShortTransport),
        }
        let virtual_ = Endpoint::new(flow.dst, flow.dst_port);
        if self.is_martian(flow) {
            return Choice::Drop(DropReason::MartianSource);
        }
        let Some(&id) = self.services.get(&ServiceKey::new(protocol, virtual_)) else {
            return Choice::Accept;
        };
        let chosen = self.pick(now, id, flow);
        let Some(Some(Running { service, .. })) = self.running.get(id.0 as usize) else {
            return Choice::Accept;
        };
        let Some(dest) = chosen.and_then(|i| service.destinations.get(i)) else {
            return Choice::NoDestination;
        };
        // A server without a port of its own keeps the packet's.
        let port = match dest.endpoint.port {
            0 => virtual_.port,
            port => port,
        };
        let one_packet = service.options.one_packet && protocol == Protocol::Udp;
        let no_output = if dest.method == ForwardingMethod::Masquerade {
            0
        } else {
            flag::NOOUTPUT
        };
        let once = if one_packet { flag::ONE_PACKET } else { 0 };
        Choice::Connect {
            new: NewConnection {
                protocol,
                client: Endpoint::new(flow.src, flow.src_port),
                virtual_,
                dest: Endpoint::new(dest.endpoint.addr, port),
                dest_id: dest.id,
                method: dest.method,
                flags: flag::INACTIVE | no_output | once,
            },
            one_packet,
        }
    }
}
