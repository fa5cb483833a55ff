//! Answers of ours: ICMP errors made in place of the packet that caused them.

use super::Core;
use crate::addr::Addr;
use crate::flow::Flow;
use crate::forward::link;
use crate::packet::{DropReason, Packet, Verdict};
use crate::time::Instant;
use crate::wire::icmp::{self, Answer};

/// The reason that an answer is counted under.
fn reason_of(answer: Answer) -> DropReason {
    match answer {
        Answer::PortUnreachable => DropReason::NoDestination,
        Answer::HostUnreachable | Answer::NoRoute => DropReason::NoRoute,
        Answer::Unreachable | Answer::Prohibited => DropReason::Rejected,
        Answer::TimeExceeded => DropReason::TtlExceeded,
        Answer::TooBig { .. } => DropReason::TooBig,
        Answer::Relayed { .. } => DropReason::NoReply,
    }
}

impl Core {
    /// Drops the packet and turns it into an ICMP error from `source` to its sender, if the
    /// rules (RFC 1122, 3.2.2; RFC 4443, 2.4) and the rate limit let it.
    #[cold]
    pub(super) fn answer(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        answer: Answer,
        source: Addr,
    ) -> Verdict {
        self.answer_as(reason_of(answer), now, packet, flow, answer, source)
    }

    /// As [`Core::answer`], counted under another reason than is usual for the answer.
    #[cold]
    pub(super) fn answer_as(
        &mut self,
        reason: DropReason,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        answer: Answer,
        source: Addr,
    ) -> Verdict {
        let refused = self.dropped(reason);
        self.tell(now, packet, flow, answer, source)
            .unwrap_or(refused)
    }

    /// Turns the packet into an ICMP error about itself.
    ///
    /// # Errors
    /// Why that may not be; it has been counted.
    pub(super) fn tell(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        answer: Answer,
        source: Addr,
    ) -> Result<Verdict, DropReason> {
        let refuse = |core: &Core, reason| {
            core.counters.count_drop(reason);
            Err(reason)
        };
        if source == Addr::UNSPECIFIED || !icmp::may_answer(flow, packet.frame()) {
            return refuse(self, DropReason::NoReply);
        }
        // Path MTU discovery is never held back (`icmpv4_mask_allow`, `icmpv6_mask_allow`).
        let limited = !matches!(answer, Answer::TooBig { .. });
        if limited && !self.answers.allow(&flow.src, now) {
            return refuse(self, DropReason::IcmpRateLimited);
        }
        let back_by = packet.port;
        let id = self.next_id();
        if !icmp::build(packet, flow, answer, source, id) {
            return refuse(self, DropReason::NoReply);
        }
        // Back by the route to the sender; without one, to the station it came from.
        let hop = self.router.route(flow.src, 0).ok();
        let sent = match hop.and_then(|route| self.router.next_hop(route.neighbour)) {
            Some(hop) => link::send(packet, flow.l3, link::ethertype(flow), hop),
            None => Verdict::Transmit(back_by),
        };
        Ok(match sent {
            Verdict::Drop(reason) => self.dropped(reason),
            sent => {
                self.counters.icmp_sent.add(1);
                sent
            }
        })
    }
}
