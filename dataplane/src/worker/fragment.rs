//! Packets that come in pieces. The kernel puts them together, balances the whole and cuts it
//! again; here the first piece decides and the others go after it as they are
//! ([`Fragments`](crate::fragments::Fragments)). A real server sees the same packet either way.

use super::steer;
use super::{Core, Worker, ends};
use crate::addr::Addr;
use crate::conn::Side;
use crate::flow::{Flow, Fragment, Shape};
use crate::forward::{link, nat};
use crate::fragments::Fate;
use crate::packet::{Attempt, DropReason, Packet, PuntClass, Verdict};
use crate::route::{Lookup, Unresolved};
use crate::service::{DestId, ForwardingMethod, Protocol};
use crate::time::Instant;
use crate::wire::icmp::{self, Answer};

/// Longest payload of an IPv4 packet.
const LONGEST: u32 = 65535 - 20;

impl Worker {
    /// A piece of a packet. All of a packet's go to one worker first, and from there after the
    /// first to the one that has the connection (`attempt`).
    #[cold]
    pub(super) fn fragment(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &mut Flow,
        attempt: Attempt,
    ) -> Verdict {
        let (frame, tci) = (packet.frame(), packet.vlan_tci);
        let Shape::Fragment(piece) = flow.read(frame, tci, packet.wire_len) else {
            return self.core.dropped(DropReason::Fragment);
        };
        let flow = *flow;
        if packet.frame().first().is_some_and(|mac| mac & 1 == 1) {
            let class = self.core.class_of(&flow, packet.frame(), true);
            return self.core.punt(now, packet.port, class);
        }
        if Protocol::from_number(flow.protocol).is_none() {
            return self.core.other_fragment(now, packet, &flow, piece);
        }
        let units = !piece.more || flow.l4_len.is_multiple_of(8);
        let end = u32::from(piece.offset) + u32::from(flow.l4_len);
        if !units || flow.l4_len == 0 || end > LONGEST {
            return self.core.dropped(DropReason::Fragment);
        }
        let meeting = self.core.fragments.shard(&flow, piece);
        if attempt == Attempt::START
            && let Some(owner) = self.core.share.elsewhere(meeting)
        {
            return self.core.hand_over(owner, Attempt::START);
        }
        if piece.offset == 0 {
            return self.first_fragment(now, packet, &flow, piece, attempt);
        }
        if let Some(fate) = self.core.fragments.follow(&flow, piece, now) {
            return self.core.later_fragment(now, packet, &flow, fate);
        }
        if self.core.services.is_empty() {
            let class = self.core.class_of(&flow, packet.frame(), false);
            return self.core.punt_unclaimed(now, packet, class);
        }
        Verdict::Hold
    }

    /// The piece with the ports: balanced as a whole packet is.
    fn first_fragment(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        piece: Fragment,
        attempt: Attempt,
    ) -> Verdict {
        // What became of a whole packet before says nothing about this one.
        self.core.connected_once = None;
        let verdict = match self.core.sides(flow) {
            Some(sides) => self.find_packet(now, packet, flow, sides, attempt, false),
            None => {
                let class = self.core.class_of(flow, packet.frame(), false);
                self.core.punt_unclaimed(now, packet, class)
            }
        };
        if let Some(fate) = self.fate_of(flow, verdict) {
            self.core.fragments.decided(flow, piece, fate, now);
            self.core.first_fragments = self.core.first_fragments.wrapping_add(1);
        } else {
            // It waits here now, and is with nobody else any more.
            self.core.fragments.forget(flow, piece);
        }
        verdict
    }

    /// What was decided about a first piece, for the others. `None`: nothing yet.
    fn fate_of(&mut self, flow: &Flow, verdict: Verdict) -> Option<Fate> {
        let once = self.core.connected_once.take();
        match verdict {
            Verdict::Wait | Verdict::Hold => return None,
            Verdict::Drop(reason) => return Some(Fate::Dropped(reason)),
            Verdict::HandOver { worker, .. } => return Some(Fate::Worker(worker)),
            Verdict::Transmit(_) | Verdict::Fragment(..) | Verdict::Kernel(_) => {}
        }
        let of_connection = [Side::Reply, Side::Request]
            .into_iter()
            .find_map(|side| self.fate_by_connection(flow, side));
        once.or(of_connection).or(match verdict {
            Verdict::Kernel(class) => Some(Fate::Kernel(class)),
            // It was answered.
            _ => Some(Fate::Dropped(DropReason::Fragment)),
        })
    }

    fn fate_by_connection(&self, flow: &Flow, side: Side) -> Option<Fate> {
        let (client, other) = ends(flow, side);
        let protocol = flow.protocol;
        let hash = self.core.place(self.core.key.hash(
            protocol,
            &client.addr,
            client.port,
            &other.addr,
            other.port,
        ));
        let shard = self.shard(hash);
        let entry = shard.entry(shard.lookup(hash, side, flow.protocol, &client, &other)?)?;
        let (dest, method) = (entry.dest_id(), entry.method());
        Some(match (side, method) {
            (Side::Request, ForwardingMethod::Bypass) => Fate::Onwards,
            (Side::Request, _) => Fate::ToServer {
                dest,
                method,
                real: entry.dest().addr,
            },
            (Side::Reply, ForwardingMethod::Masquerade) => Fate::ToClient {
                dest,
                virtual_: entry.virtual_().addr,
            },
            // Followed, not rewritten.
            (Side::Reply, _) => Fate::Kernel(PuntClass::Transit),
        })
    }

    /// A piece of an answer that a real server on this host gives.
    #[cold]
    pub(super) fn fragment_of_kernel(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        piece: Fragment,
        attempt: Attempt,
    ) -> Option<(u8, Attempt)> {
        // All are met at one worker here, too.
        let meeting = self.core.fragments.shard(flow, piece);
        if attempt == Attempt::START
            && let Some(owner) = self.core.share.elsewhere(meeting)
        {
            return Some((owner, Attempt::START));
        }
        if piece.offset == 0 {
            let elsewhere = self.whole_of_kernel(now, packet, flow, attempt);
            let fate = match elsewhere {
                Some((worker, _)) => Some(Fate::Worker(worker)),
                None => self.fate_by_connection(flow, Side::Reply),
            };
            if let Some(fate @ (Fate::ToClient { .. } | Fate::Worker(_))) = fate {
                self.core.fragments.decided(flow, piece, fate, now);
            }
            return elsewhere;
        }
        match self.core.fragments.follow(flow, piece, now) {
            Some(Fate::Worker(worker)) => Some((worker, steer::attempt(steer::REPLY, 0))),
            Some(Fate::ToClient { dest, virtual_ }) => {
                if let (Some(c), true) =
                    (self.core.counters.dest(dest), self.core.is_available(dest))
                {
                    c.out_bytes.add(u64::from(flow.l4_len));
                }
                nat::rewrite_address(packet.frame_mut(), flow, &virtual_, Side::Reply);
                None
            }
            _ => None,
        }
    }

    /// A later piece was held ([`Verdict::Hold`]) and its first has not come in time, or too
    /// many others wait. Without it a packet to this host is lost; one to others may have its
    /// first piece on another way, and is the kernel's to forward.
    pub(super) fn give_up_fragment(&mut self, now: Instant, packet: &mut Packet<'_>) -> Verdict {
        let mut flow = Flow::EMPTY;
        let shape = flow.read(packet.frame(), packet.vlan_tci, packet.wire_len);
        let is_piece = matches!(shape, Shape::Fragment(_));
        let is_local = matches!(self.core.router.lookup(flow.dst, 0), Lookup::Local);
        if !is_piece || is_local {
            return self.core.dropped(DropReason::FragmentEarly);
        }
        let class = self.core.class_of(&flow, packet.frame(), false);
        self.core.punt_unclaimed(now, packet, class)
    }

    /// Rises with every first piece: pieces that wait may be worth another try.
    pub fn first_fragments(&self) -> u32 {
        self.core.first_fragments
    }
}

impl Core {
    /// A piece of what is not balanced: the kernel's. An ICMPv6 error never comes in pieces
    /// (`ip_vs_in_icmp_v6`).
    fn other_fragment(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        flow: &Flow,
        piece: Fragment,
    ) -> Verdict {
        let first = packet.frame().get(flow.l4 as usize).copied();
        if !flow.is_v4
            && flow.is_icmp()
            && piece.offset == 0
            && first.is_some_and(icmp::is_error_v6)
        {
            return self.dropped(DropReason::Fragment);
        }
        let class = self.class_of(flow, packet.frame(), false);
        self.punt_unclaimed(now, packet, class)
    }

    /// A later piece goes where its first went.
    fn later_fragment(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        fate: Fate,
    ) -> Verdict {
        match fate {
            Fate::Kernel(class) => self.punt(now, packet.port, class),
            Fate::Dropped(reason) => self.dropped(reason),
            Fate::Worker(worker) => self.hand_over(worker, steer::attempt(steer::REQUEST, 0)),
            Fate::Onwards => self.forward_to_own(now, packet, flow),
            Fate::ToServer { dest, method, real } => {
                self.later_to_server(now, packet, flow, dest, method, real)
            }
            Fate::ToClient { dest, virtual_ } => {
                self.later_to_client(now, packet, flow, dest, virtual_)
            }
        }
    }

    fn later_to_server(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        dest: DestId,
        method: ForwardingMethod,
        real: Addr,
    ) -> Verdict {
        if !self.is_available(dest) {
            return self.dropped(DropReason::DestinationGone);
        }
        if let Some(wait) = self.awaits_hop(now, dest) {
            return wait;
        }
        let is_nat = method == ForwardingMethod::Masquerade;
        // The whole packet counts once, with all its bytes.
        if let Some(c) = self.counters.dest(dest) {
            c.in_bytes.add(u64::from(flow.l4_len));
        }
        let next = match self.dest_hop(dest) {
            Ok(next) if method != ForwardingMethod::Local => next,
            Ok(_) | Err(Unresolved::Local) => {
                if is_nat && real.is_loopback() {
                    return self.dropped(DropReason::MartianSource);
                }
                if is_nat {
                    nat::rewrite_address(packet.frame_mut(), flow, &real, Side::Request);
                }
                return self.punt(now, packet.port, PuntClass::Host);
            }
            Err(why) => {
                return self.unreachable(now, packet, flow, why, Side::Request, flow.dst);
            }
        };
        if flow.ttl <= 1 {
            return self.answer(now, packet, flow, Answer::TimeExceeded, flow.dst);
        }
        if method == ForwardingMethod::Tunnel {
            return self.encapsulate(now, packet, flow, dest, next);
        }
        if flow.l3_len > next.mtu && flow.dont_fragment {
            return self.dropped(DropReason::TooBig);
        }
        link::lower_ttl(packet.frame_mut(), flow);
        if is_nat {
            nat::rewrite_address(packet.frame_mut(), flow, &real, Side::Request);
        }
        self.send(packet, flow.l3, link::ethertype(flow), next, flow.l3_len)
    }

    fn later_to_client(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        dest: DestId,
        virtual_: Addr,
    ) -> Verdict {
        let next = match self.hop_to(flow.dst) {
            Ok(next) => Some(next),
            Err(Unresolved::Local) => None,
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
                return self.dropped(DropReason::TooBig);
            }
        }
        if let (Some(c), true) = (self.counters.dest(dest), self.is_available(dest)) {
            c.out_bytes.add(u64::from(flow.l4_len));
        }
        nat::rewrite_address(packet.frame_mut(), flow, &virtual_, Side::Reply);
        match next {
            Some(next) => {
                link::lower_ttl(packet.frame_mut(), flow);
                self.send(packet, flow.l3, link::ethertype(flow), next, flow.l3_len)
            }
            None => self.punt(now, packet.port, PuntClass::Host),
        }
    }
}
