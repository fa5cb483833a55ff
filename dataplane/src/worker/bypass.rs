//! With `cache_bypass`, a marked service that has no usable destination lets packets to other
//! hosts pass to where they were going (`ip_vs_leave`, `ip_vs_bypass_xmit`). Their connection has
//! no destination, and stays as it is when one comes.

use core::net::IpAddr;

use super::admit::{Chosen, Refusal};
use super::synced::is_unbound;
use super::{Core, Worker};
use crate::addr::{Addr, Endpoint, Family};
use crate::conn::entry::flag;
use crate::conn::{KeyHash, NewConnection, Side};
use crate::flow::Flow;
use crate::forward::link;
use crate::packet::{DropReason, Packet, PuntClass, Verdict};
use crate::route::{Lookup, Unresolved};
use crate::service::{DestId, ForwardingMethod, Protocol, ServiceId};
use crate::time::Instant;
use crate::wire::icmp::Answer;

impl Worker {
    /// Makes the connection of a packet that goes past the service.
    pub(super) fn open_past(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        chosen: &Chosen,
    ) -> Result<Verdict, Refusal> {
        // Not kept: a packet that has to wait comes here again.
        if chosen.new.flags & flag::ONE_PACKET != 0
            && let Some(wait) = self.core.awaits(now, DestId::NONE, flow)
        {
            return Ok(wait);
        }
        let shard = usize::from(hash.shard);
        let i = self
            .insert(shard, |shard| shard.insert(&chosen.new))
            .ok_or(Refusal::Drop(DropReason::TableFull))?;
        Ok(self.first_packet(now, packet, flow, shard, i, chosen))
    }

    /// A packet of a connection without a destination.
    #[cold]
    pub(super) fn bypassed(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        i: u32,
    ) -> Verdict {
        let Some(shard) = self.shards.get_mut(usize::from(hash.shard)) else {
            return self.core.dropped(DropReason::TableFull);
        };
        if shard
            .entry(i)
            .is_some_and(|e| is_unbound(e.dest_id(), e.method()))
        {
            return self.unbound(now, packet, flow, hash, i);
        }
        if let Some(wait) = self.core.awaits(now, DestId::NONE, flow) {
            return wait;
        }
        let verdict = self.core.pass_request(now, shard, i, packet, flow);
        self.offered(now.ticks(), usize::from(hash.shard), i, verdict)
    }
}

impl Core {
    /// Whether a packet for which a service has no destination goes to its own.
    pub(super) fn bypasses(&self, service: ServiceId, flow: &Flow) -> bool {
        let running = self.running.get(service.0 as usize);
        let is_marked = running
            .and_then(Option::as_ref)
            .is_some_and(|running| running.service.key.mark() != 0);
        self.settings.cache_bypass && is_marked && self.is_elsewhere(flow.dst)
    }

    /// Whether it is the address of one other host.
    fn is_elsewhere(&self, addr: Addr) -> bool {
        let ip = IpAddr::from(addr);
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
        let is_one = !(ip.is_multicast() || ip.is_unspecified() || broadcast);
        is_one && self.router.lookup(addr, 0) != Lookup::Local
    }

    /// A connection past the service. As in the kernel it has none of the flags that a
    /// connection takes from its destination: it is followed as if replies came by.
    pub(super) fn past(
        &self,
        service: ServiceId,
        protocol: Protocol,
        flow: &Flow,
    ) -> Result<Chosen, Refusal> {
        let Some(Some(running)) = self.running.get(service.0 as usize) else {
            return Err(Refusal::Accept);
        };
        let one_packet = running.service.options.one_packet && protocol == Protocol::Udp;
        let nobody = match flow.dst.family() {
            Family::V4 => Addr::v4([0; 4]),
            Family::V6 => Addr::UNSPECIFIED,
        };
        Ok(Chosen {
            new: NewConnection {
                protocol,
                client: Endpoint::new(flow.src, flow.src_port),
                virtual_: Endpoint::new(flow.dst, flow.dst_port),
                dest: Endpoint::new(nobody, 0),
                dest_id: DestId::NONE,
                method: ForwardingMethod::Bypass,
                flags: if one_packet { flag::ONE_PACKET } else { 0 },
            },
            fwmark: running.service.key.mark(),
        })
    }

    /// `Some` while the next hop of a connection is unknown.
    #[inline]
    pub(super) fn awaits(&mut self, now: Instant, id: DestId, flow: &Flow) -> Option<Verdict> {
        if id != DestId::NONE {
            return self.awaits_hop(now, id);
        }
        match self.hop_to(flow.dst) {
            Err(Unresolved::NoNeighbour { link, addr }) if self.may_wait(now, link, addr) => {
                Some(self.wait_for(link, addr))
            }
            _ => None,
        }
    }

    /// Sends a packet where it was going.
    #[cold]
    pub(super) fn forward_to_own(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Verdict {
        let next = match self.hop_to(flow.dst) {
            Ok(next) => next,
            // An address that has become ours since: the kernel does not deliver it either.
            Err(Unresolved::Local) => return self.dropped(DropReason::NoRoute),
            // By a device that is no data port: the kernel knows the way.
            Err(Unresolved::Foreign) => return self.punt(now, packet.port, PuntClass::Transit),
            Err(why) => return self.unreachable(now, packet, flow, why, Side::Request, flow.dst),
        };
        if flow.ttl <= 1 {
            return self.answer(now, packet, flow, Answer::TimeExceeded, flow.dst);
        }
        if flow.l3_len > next.mtu && flow.dont_fragment {
            return self.too_big(now, packet, flow, next.mtu, flow.dst);
        }
        link::lower_ttl(packet.frame_mut(), flow);
        self.send(packet, flow.l3, link::ethertype(flow), next, flow.l3_len)
    }
}
