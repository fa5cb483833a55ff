//! The passes of the walk over a burst, and what is asked of the memory between them.

use super::{BURST, Entrance, Kind, Located, NO_MAC, TCP, Worker, mac_word};
use crate::addr::Family;
use crate::conn::KeyHash;
use crate::conn::hash::digest_v4;
use crate::flow::{Flow, Plain};
use crate::packet::{Packet, PortId, Verdict};
use crate::time::Instant;

/// How many packets before it is needed an entry is asked for. All at once would be more than
/// the core has in flight, and what is too much is lost.
const AHEAD: usize = 16;

impl Worker {
    #[inline(always)]
    pub(super) fn walk(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        match self.core.is_master() {
            true => self.walk_as_master(now, packets, out),
            false => self.walk_as::<false>(now, packets, out),
        }
    }

    /// A walk of its own, so that the other pays nothing for synchronisation.
    #[inline(never)]
    fn walk_as_master(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        self.walk_as::<true>(now, packets, out);
    }

    #[inline(always)]
    fn walk_as<const MASTER: bool>(
        &mut self,
        now: Instant,
        packets: &mut [Packet<'_>],
        out: &mut [Verdict],
    ) {
        let burst = packets.len().min(out.len()).min(BURST);
        let (Some(packets), Some(out)) = (packets.get_mut(..burst), out.get_mut(..burst)) else {
            return;
        };
        let mut places = [Located::EMPTY; BURST];
        let mut flows = core::mem::take(&mut self.flows);
        let first = packets.first().map_or(PortId(0), |packet| packet.port);
        let entrance = Entrance {
            port: first,
            mac: match self.core.own_macs.get(usize::from(first.0)) {
                Some(mac) => *mac,
                None => NO_MAC,
            },
        };
        // The second pass follows the first at a distance, and the third follows the second.
        for i in 0..burst {
            let (Some(packet), Some(at)) = (packets.get(i), places.get_mut(i)) else {
                break;
            };
            if !self.classify(entrance, packet, at) {
                let flow = flows.get_mut(i);
                self.classify_other(packet, at, flow);
            }
            if i >= AHEAD {
                self.locate(&mut places[i - AHEAD]);
            }
        }
        for at in &mut places[burst.saturating_sub(AHEAD)..burst.min(AHEAD)] {
            self.locate(at);
        }
        let ticks = now.ticks();
        for (i, (packet, out)) in packets.iter_mut().zip(out).enumerate() {
            if let Some(later) = places.get_mut(i + AHEAD) {
                self.locate(later);
            }
            let at = &mut places[i % BURST];
            if !self.usual::<MASTER>(ticks, packet, at, out)
                && let Some(flow) = flows.get_mut(i)
            {
                *out = self.unusual(now, packet, at, flow);
            }
        }
        self.flows = flows;
    }

    /// First pass: parse, decide who is asked next, and ask for the bucket. False for a frame of
    /// another shape than plain IPv4, of which nothing is known then.
    #[inline(always)]
    fn classify(&self, entrance: Entrance, packet: &Packet<'_>, at: &mut Located) -> bool {
        let core = &self.core;
        let Some(head) = packet.head::<{ Plain::HEADERS }>() else {
            return false;
        };
        if packet.port != entrance.port || entrance.mac != mac_word(head) {
            return false;
        }
        let Some(plain) = Plain::read(head, packet.len(), packet.wire_len) else {
            return false;
        };
        let src = digest_v4(u32::from_be(plain.src), plain.src_port());
        let dst = digest_v4(u32::from_be(plain.dst), plain.dst_port());
        let Some((side, _, hash)) = core.find_side_v4(TCP, src, dst) else {
            return false;
        };
        let shard = match core.share.plain_v4(hash.shard) {
            Ok(shard) => shard,
            Err(owner) => {
                at.kind = Kind::Elsewhere(owner);
                return true;
            }
        };
        let hash = KeyHash { shard, ..hash };
        at.hash = hash;
        at.kind = Kind::Plain(Family::V4, side);
        at.home = self.shard(hash).prefetch_home(hash);
        true
    }

    /// First pass for all other frames.
    #[inline(never)]
    fn classify_other(&self, packet: &Packet<'_>, at: &mut Located, flow: Option<&mut Flow>) {
        if !self.core.classify_plain_v6(packet, at)
            && let Some(flow) = flow
        {
            self.core.classify_any(packet, at, flow);
        }
        if matches!(at.kind, Kind::Balance { .. } | Kind::Plain(..)) {
            at.home = self.shard(at.hash).prefetch_home(at.hash);
        }
    }

    /// Second pass: reads the bucket, which has come meanwhile, and asks for the entry.
    #[inline(always)]
    fn locate(&self, at: &mut Located) {
        at.slot = self.shard(at.hash).prefetch_entry(at.home, at.hash);
    }
}
