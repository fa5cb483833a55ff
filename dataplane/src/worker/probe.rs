//! Packets of checks that ask one real server for the virtual address: sent on like those of a
//! client whose connection is with that server, but of no connection.

use super::{Core, Worker};
use crate::command::Event;
use crate::flow::{Flow, Parsed};
use crate::forward::link;
use crate::packet::{DropReason, Packet, Verdict};
use crate::probe::Way;
use crate::route::Unresolved;
use crate::time::Instant;
use crate::wire::tunnel;

use super::transmit::NextHop;

impl Worker {
    /// Sends a probe, which stands behind its [`Way`], to its real server. It is transmitted, to
    /// be cut, or dropped: one whose next hop is not known yet is sent again by the check.
    pub fn process_probe(&mut self, now: Instant, packet: &mut Packet<'_>) -> Verdict {
        let verdict = self.core.probe(now, packet);
        if let (Some(capture), Verdict::Transmit(port) | Verdict::Fragment(port, _)) =
            (&mut self.capture, verdict)
        {
            capture.sent(now, port, packet);
        }
        verdict
    }
}

impl Core {
    #[cold]
    fn probe(&mut self, now: Instant, packet: &mut Packet<'_>) -> Verdict {
        let way = packet.head::<{ Way::LEN }>().and_then(Way::read);
        let (Some(way), true) = (way, packet.pull(Way::LEN as u16)) else {
            return self.dropped(DropReason::Truncated);
        };
        let Parsed::Ip(flow) = Flow::parse(packet.frame(), 0, packet.len().into()) else {
            return self.dropped(DropReason::BadHeader);
        };
        let route = match self.router.route(way.server, 0) {
            Ok(route) => route,
            Err(why) => return self.no_way(why),
        };
        let next = NextHop::of(&route);
        let Some(kind) = way.tunnel else {
            if flow.l3_len > next.mtu && flow.dont_fragment {
                return self.dropped(DropReason::TooBig);
            }
            link::lower_ttl(packet.frame_mut(), &flow);
            return self.send(packet, flow.l3, link::ethertype(&flow), next, flow.l3_len);
        };
        let outer = tunnel::Outer {
            src: route.source,
            dst: way.server,
            tunnel: kind,
        };
        self.wrap(now, packet, &flow, &outer, next)
    }

    /// A probe is not answered: its deadline says enough.
    fn no_way(&mut self, why: Unresolved) -> Verdict {
        let reason = match why {
            Unresolved::NoNeighbour { link, addr } => {
                self.ask(Event::Resolve { link, addr });
                DropReason::NoNeighbour
            }
            // A server on this host holds no other address than we do.
            Unresolved::Local | Unresolved::NoRoute => DropReason::NoRoute,
            Unresolved::Rejected(_) => DropReason::Rejected,
            Unresolved::Foreign => DropReason::ForeignDevice,
            Unresolved::PortDown => DropReason::PortDown,
        };
        self.dropped(reason)
    }
}
