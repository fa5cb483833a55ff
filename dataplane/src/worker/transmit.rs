//! Sending a packet of a connection on: to the real server, or back to the client.

use super::{Core, is_local};
use crate::addr::Addr;
use crate::command::Event;
use crate::conn::{Entry, Shard, Side};
use crate::flow::Flow;
use crate::forward::{link, nat};
use crate::packet::{DropReason, Packet, PuntClass, Verdict};
use crate::proto::sctp::Chunks;
use crate::route::{LinkId, Lookup, NeighbourId, Reject, Route, Unresolved};
use crate::service::{DestId, ForwardingMethod};
use crate::time::Instant;
use crate::wire::icmp::Answer;
use crate::wire::tunnel;

/// Where a packet goes next and how large it may be.
#[derive(Clone, Copy)]
pub(super) struct NextHop {
    hop: NeighbourId,
    pub(super) mtu: u16,
}

impl NextHop {
    /// The first one on a route.
    pub(super) fn of(route: &Route) -> NextHop {
        NextHop {
            hop: route.neighbour,
            mtu: route.mtu,
        }
    }
}

/// The identification after this one; never 0.
#[inline(always)]
pub(super) const fn following(id: u16) -> u16 {
    match id.wrapping_add(1) {
        0 => 1,
        id => id,
    }
}

impl Core {
    /// Sends a client's packet on by the connection's method.
    #[inline(always)]
    pub(super) fn forward_request(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        entry: &Entry,
    ) -> Verdict {
        let method = entry.method();
        if is_local(method) {
            return self.punt(now, packet.port, PuntClass::Host);
        }
        if method == ForwardingMethod::Bypass {
            return self.forward_to_own(now, packet, flow);
        }
        let next = match entry.dest_id() {
            // Told of by a master, and its server is not known here.
            DestId::NONE => self.hop_to(entry.dest().addr),
            id => self.dest_hop(id),
        };
        let next = match next {
            Ok(next) => next,
            Err(Unresolved::Local) => return self.deliver_locally(now, packet, flow, entry),
            Err(why) => {
                return self.unreachable(now, packet, flow, why, Side::Request, flow.dst);
            }
        };
        if flow.ttl <= 1 {
            return self.answer(now, packet, flow, Answer::TimeExceeded, flow.dst);
        }
        match method {
            ForwardingMethod::Tunnel => self.encapsulate(now, packet, flow, entry.dest_id(), next),
            _ => {
                if flow.l3_len > next.mtu && flow.dont_fragment {
                    return self.too_big(now, packet, flow, next.mtu, flow.dst);
                }
                let frame = packet.frame_mut();
                link::lower_ttl(frame, flow);
                if method == ForwardingMethod::Masquerade
                    && !nat::rewrite(frame, flow, entry, Side::Request)
                {
                    return self.dropped(DropReason::ShortTransport);
                }
                self.send(packet, flow.l3, link::ethertype(flow), next, flow.l3_len)
            }
        }
    }

    /// A server's packet that has a connection: NAT gives it the virtual endpoint back.
    #[inline(always)]
    pub(super) fn reply(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        i: u32,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Verdict {
        let Some(entry) = shard.entry_mut(i) else {
            return self.dropped(DropReason::TableFull);
        };
        if entry.method() != ForwardingMethod::Masquerade {
            // A DR or tunnel reply that happens to pass: followed, not rewritten.
            self.count_reply(entry, flow);
            if let Some(half_open) = self.advance(entry, Side::Reply, flow, now.ticks()) {
                shard.rearm(i, half_open);
            }
            return self.punt(now, packet.port, PuntClass::Transit);
        }
        // The kernel routes, checks the MTU and lowers the TTL before IPVS sees a reply.
        let next = match self.client_hop(entry, flow.dst) {
            Ok(next) => Some(next),
            Err(Unresolved::Local) => None,
            Err(Unresolved::NoNeighbour { link, addr }) if self.may_wait(now, link, addr) => {
                return self.wait_for(link, addr);
            }
            Err(why) => {
                let source = self.own_source(flow.src);
                return self.unreachable(now, packet, flow, why, Side::Reply, source);
            }
        };
        if let Some(next) = &next {
            if flow.ttl <= 1 {
                let source = self.own_source(flow.src);
                return self.answer(now, packet, flow, Answer::TimeExceeded, source);
            }
            if flow.l3_len > next.mtu && flow.dont_fragment {
                // Routing looks at the length before it lowers the TTL (`ip_forward`).
                let source = self.own_source(flow.src);
                let mtu = next.mtu;
                return self.answer(now, packet, flow, Answer::TooBig { mtu }, source);
            }
        }
        if !nat::rewrite(packet.frame_mut(), flow, entry, Side::Reply) {
            // The connection was in use all the same (`ip_vs_conn_put`).
            entry.deadline = now.ticks().plus(entry.timeout).0;
            return self.dropped(DropReason::ShortTransport);
        }
        self.count_reply(entry, flow);
        if let Some(half_open) = self.advance(entry, Side::Reply, flow, now.ticks()) {
            shard.rearm(i, half_open);
        }
        match next {
            Some(next) => {
                link::lower_ttl(packet.frame_mut(), flow);
                self.send(packet, flow.l3, link::ethertype(flow), next, flow.l3_len)
            }
            None => self.punt(now, packet.port, PuntClass::Host),
        }
    }

    /// The answer of a real server on this host, on its way out of a twin.
    pub(super) fn local_reply(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        i: u32,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) {
        let Some(entry) = shard.entry_mut(i) else {
            return;
        };
        let follow = match entry.method() {
            ForwardingMethod::Masquerade => {
                nat::rewrite(packet.frame_mut(), flow, entry, Side::Reply)
            }
            // Of a real server elsewhere: it was followed when it came in, and is passing on.
            _ => is_local(entry.method()) || self.is_own(entry.dest().addr),
        };
        if !follow {
            return;
        }
        self.count_reply(entry, flow);
        if let Some(half_open) = self.advance(entry, Side::Reply, flow, now.ticks()) {
            shard.rearm(i, half_open);
        }
    }

    fn is_own(&self, addr: Addr) -> bool {
        matches!(self.router.lookup(addr, 0), Lookup::Local)
    }

    /// From a NAT server's port, but of no connection (`nat_icmp_send`).
    pub(super) fn unknown_reply(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Verdict {
        const RST: u8 = 0x04;
        let (addr, port) = (&flow.src, flow.src_port);
        let of_server = self
            .roles
            .is_server_port(flow.is_v4, flow.protocol, addr, port);
        let is_end = flow.tcp_flags & RST != 0 || flow.chunks.is_some_and(Chunks::is_abort);
        let passes_by = !self.is_own(flow.dst);
        // Routing comes first: it answers what has come too far or is too long, and lowers the TTL
        // of the rest.
        let is_too_long = || {
            let next = self.hop_to(flow.dst);
            flow.dont_fragment && next.is_ok_and(|next| flow.l3_len > next.mtu)
        };
        let goes_on = !passes_by || (flow.ttl > 1 && !is_too_long());
        if self.settings.nat_icmp_send && of_server && !is_end && goes_on {
            if passes_by {
                link::lower_ttl(packet.frame_mut(), flow);
            }
            let source = self.own_source(flow.src);
            return self.answer(now, packet, flow, Answer::PortUnreachable, source);
        }
        let class = self.class_of(flow, packet.frame(), false);
        self.punt(now, packet.port, class)
    }

    #[inline(always)]
    fn count_reply(&self, entry: &Entry, flow: &Flow) {
        if let Some(c) = self.counters.dest(entry.dest_id())
            && self
                .dests
                .get(entry.dest_id().0 as usize)
                .is_some_and(|d| d.available)
        {
            c.out_pkts.add(1);
            c.out_bytes.add(u64::from(flow.l3_len));
        }
    }

    /// Writes layer 2 and says where to; a packet that may be cut is cut by the caller.
    #[inline(always)]
    pub(super) fn send(
        &mut self,
        packet: &mut Packet<'_>,
        l3: u16,
        ethertype: u16,
        next: NextHop,
        l3_len: u16,
    ) -> Verdict {
        let Some(hop) = self.router.next_hop(next.hop) else {
            return self.dropped(DropReason::PortDown);
        };
        match link::send(packet, l3, ethertype, hop) {
            Verdict::Transmit(port) if l3_len > next.mtu => Verdict::Fragment(port, next.mtu),
            Verdict::Drop(reason) => self.dropped(reason),
            verdict => verdict,
        }
    }

    /// Wraps the packet for the tunnel (TTL, TOS and DF are inherited) and sends it to the real
    /// server.
    #[inline(never)]
    pub(super) fn encapsulate(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        id: DestId,
        next: NextHop,
    ) -> Verdict {
        let Some(dest) = self.dests.get(id.0 as usize) else {
            return self.dropped(DropReason::DestinationGone);
        };
        let outer = tunnel::Outer {
            src: dest.source,
            dst: dest.addr,
            tunnel: dest.tunnel,
        };
        let next = NextHop {
            mtu: self.paths.limit(id, next.mtu, now),
            ..next
        };
        self.wrap(now, packet, flow, &outer, next)
    }

    /// Wraps the packet into this outer header, with the path MTU as that of the next hop.
    #[inline]
    pub(super) fn wrap(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        outer: &tunnel::Outer,
        next: NextHop,
    ) -> Verdict {
        let overhead = outer.overhead();
        let mtu = next.mtu.saturating_sub(overhead);
        if mtu < outer.least_mtu() {
            return self.dropped(DropReason::TooBig);
        }
        let is_long = flow.l3_len > mtu;
        // An ICMP error is no cause for another: IPv4 is cut instead, whatever its DF.
        let is_error = flow.is_v4 && flow.is_icmp();
        let follow_df = (self.settings.pmtu_disc || !flow.is_v4) && !is_error;
        if is_long && flow.dont_fragment && follow_df {
            return self.too_big(now, packet, flow, mtu, flow.dst);
        }
        link::lower_ttl(packet.frame_mut(), flow);
        let choices = tunnel::Choices {
            copy_df: self.settings.pmtu_disc && !(is_long && is_error),
            id: self.next_id(),
            cut: is_long.then(|| self.next_fragment_id()),
            udp_sums: self
                .router
                .next_hop(next.hop)
                .is_some_and(|hop| hop.udp_sums),
        };
        match tunnel::encapsulate(packet, flow, outer, choices) {
            Some(l3) => {
                let len = flow.l3_len.saturating_add(overhead);
                self.send(packet, l3, outer.ethertype(), next, len)
            }
            None => self.dropped(DropReason::NoHeadroom),
        }
    }

    /// A router on the way to a tunnel's real server told its MTU: what now fits inside.
    pub(super) fn learn_path_mtu(&mut self, id: DestId, told: u16, now: Instant) -> u16 {
        let current = self.dest_hop(id).map_or(u16::MAX, |next| next.mtu);
        let current = self.paths.limit(id, current, now);
        let mtu = self.paths.learn(id, told, current, now);
        self.begin_epoch();
        let Some(dest) = self.dests.get(id.0 as usize) else {
            return mtu;
        };
        let outer = tunnel::Outer {
            src: dest.source,
            dst: dest.addr,
            tunnel: dest.tunnel,
        };
        mtu.saturating_sub(outer.overhead())
    }

    /// The real server is this host: NAT still rewrites, the kernel delivers. TTL is untouched.
    #[cold]
    fn deliver_locally(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        entry: &Entry,
    ) -> Verdict {
        if entry.method() == ForwardingMethod::Masquerade {
            // Nobody from outside talks to a loopback address.
            if entry.dest().addr.is_loopback() {
                return self.dropped(DropReason::MartianSource);
            }
            if !nat::rewrite(packet.frame_mut(), flow, entry, Side::Request) {
                return self.dropped(DropReason::ShortTransport);
            }
        }
        self.punt(now, packet.port, PuntClass::Host)
    }

    /// Longer than the path takes and not to be cut: says so to the sender.
    #[cold]
    pub(super) fn too_big(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        mtu: u16,
        source: Addr,
    ) -> Verdict {
        // The quoted header shows the TTL after this hop.
        link::lower_ttl(packet.frame_mut(), flow);
        self.answer(now, packet, flow, Answer::TooBig { mtu }, source)
    }

    /// No way to the next hop: the sender is told. `side` is the packet's: a request is sent by
    /// IPVS, which knows only one error, a reply is forwarded, which knows one for each kind of
    /// route.
    #[cold]
    pub(super) fn unreachable(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        why: Unresolved,
        side: Side,
        source: Addr,
    ) -> Verdict {
        let answer = match (why, side) {
            (Unresolved::NoNeighbour { link, addr }, _) => {
                self.ask(Event::Resolve { link, addr });
                let reason = DropReason::NoNeighbour;
                if self.may_wait(now, link, addr) {
                    return self.dropped(reason);
                }
                let answer = Answer::HostUnreachable;
                return self.answer_as(reason, now, packet, flow, answer, source);
            }
            (Unresolved::PortDown, _) => return self.dropped(DropReason::PortDown),
            (Unresolved::Foreign, _) => return self.dropped(DropReason::ForeignDevice),
            (Unresolved::Rejected(Reject::Blackhole), _) => {
                return self.dropped(DropReason::Blackhole);
            }
            (Unresolved::Rejected(Reject::Prohibit), _) => Answer::Prohibited,
            (Unresolved::Rejected(Reject::Unreachable), Side::Reply) => Answer::Unreachable,
            (Unresolved::Rejected(Reject::Unreachable), Side::Request) => {
                let (reason, answer) = (DropReason::Rejected, Answer::HostUnreachable);
                return self.answer_as(reason, now, packet, flow, answer, source);
            }
            (Unresolved::NoRoute | Unresolved::Rejected(Reject::Throw), Side::Reply) => {
                Answer::NoRoute
            }
            _ => Answer::HostUnreachable,
        };
        self.answer(now, packet, flow, answer, source)
    }

    /// Whether a packet may wait for the MAC of this next hop: not if the kernel has just got no
    /// answer from it, or if the packet has waited long enough.
    pub(super) fn may_wait(&self, now: Instant, link: LinkId, addr: Addr) -> bool {
        self.is_patient && !self.router.is_failed(now, link, addr)
    }

    /// The packet has to wait until the MAC of this next hop is known.
    #[cold]
    pub(super) fn wait_for(&mut self, link: LinkId, addr: Addr) -> Verdict {
        self.ask(Event::Resolve { link, addr });
        Verdict::Wait
    }

    /// `Some` while the next hop of a destination is unknown, before anything was counted.
    #[inline(always)]
    pub(super) fn awaits_hop(&mut self, now: Instant, id: DestId) -> Option<Verdict> {
        let dest = self.dests.get(id.0 as usize)?;
        if dest.generation == self.router.generation() {
            return None;
        }
        match self.resolve_dest(id) {
            Err(Unresolved::NoNeighbour { link, addr }) if self.may_wait(now, link, addr) => {
                Some(self.wait_for(link, addr))
            }
            _ => None,
        }
    }

    pub(super) fn ask(&mut self, event: Event) {
        if self.events.last() != Some(&event) {
            // Full: control will be asked again by the next packet.
            let _ = self.events.try_push(event);
        }
    }

    pub(super) fn next_id(&mut self) -> u16 {
        self.ip_id = following(self.ip_id);
        self.ip_id
    }

    /// Identification of an IPv6 packet that is cut: unlike IPv4's it has room for a count.
    fn next_fragment_id(&mut self) -> u32 {
        self.fragment_id = self.fragment_id.wrapping_add(1);
        self.fragment_id
    }

    /// Address of ours that errors towards `peer` come from.
    pub(super) fn own_source(&self, peer: Addr) -> Addr {
        self.router
            .route(peer, 0)
            .map_or(Addr::UNSPECIFIED, |route| route.source)
    }

    /// Next hop of a destination, remembered until routes change.
    #[inline(always)]
    pub(super) fn dest_hop(&mut self, id: DestId) -> Result<NextHop, Unresolved> {
        let Some(dest) = self.dests.get(id.0 as usize) else {
            return Err(Unresolved::NoRoute);
        };
        if dest.generation != self.router.generation() {
            self.resolve_dest(id)?;
        }
        let Some(dest) = self.dests.get(id.0 as usize) else {
            return Err(Unresolved::NoRoute);
        };
        let id = NeighbourId(dest.hop);
        match self.router.next_hop(id) {
            Some(hop) => Ok(NextHop {
                hop: id,
                mtu: dest.mtu.min(hop.mtu),
            }),
            None => Err(Unresolved::PortDown),
        }
    }

    /// Whether a destination is still part of its service.
    pub(super) fn is_available(&self, id: DestId) -> bool {
        self.dests
            .get(id.0 as usize)
            .is_some_and(|dest| dest.available)
    }

    /// Next hop towards any address, not remembered.
    pub(super) fn hop_to(&self, addr: Addr) -> Result<NextHop, Unresolved> {
        self.router.route(addr, 0).map(|route| NextHop::of(&route))
    }

    #[cold]
    fn resolve_dest(&mut self, id: DestId) -> Result<(), Unresolved> {
        let Some(dest) = self.dests.get_mut(id.0 as usize) else {
            return Err(Unresolved::NoRoute);
        };
        let route = self.router.route(dest.addr, 0)?;
        dest.hop = route.neighbour.0;
        dest.mtu = route.mtu;
        dest.source = route.source;
        dest.generation = self.router.generation();
        self.forget_exit(id);
        Ok(())
    }

    /// Next hop towards the client, remembered in the connection until routes change.
    #[inline(always)]
    pub(super) fn client_hop(
        &self,
        entry: &mut Entry,
        client: Addr,
    ) -> Result<NextHop, Unresolved> {
        if entry.route_generation != self.router.generation() {
            self.resolve_client(entry, client)?;
        }
        let id = NeighbourId(entry.reply_hop);
        match self.router.next_hop(id) {
            Some(_) => Ok(NextHop {
                hop: id,
                mtu: entry.reply_mtu,
            }),
            None => Err(Unresolved::PortDown),
        }
    }

    #[cold]
    fn resolve_client(&self, entry: &mut Entry, client: Addr) -> Result<(), Unresolved> {
        let hash = client.fold() ^ u32::from(entry.client().port).wrapping_mul(0x9e37_79b1);
        let route = self.router.route(client, hash)?;
        entry.reply_hop = route.neighbour.0;
        // Another MTU of the link makes all routes old.
        let link = self.router.next_hop(route.neighbour);
        entry.reply_mtu = route.mtu.min(link.map_or(u16::MAX, |hop| hop.mtu));
        entry.route_generation = self.router.generation();
        Ok(())
    }
}
