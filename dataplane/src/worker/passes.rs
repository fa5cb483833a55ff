//! The passes of the walk over a burst, and what is asked of the memory between them.
//!
//! The walk exists twice, by where the table lies. A *near* table is one whose pages the TLB
//! reaches: each packet asks for its line as soon as it knows it. For a *far* one every request
//! needs a walk through the page tables, of a virtual machine two; it retires only when its
//! address is translated, and as a processor looks only some hundred instructions ahead, the walk
//! for one packet would be over before that for the next begins. There a group of packets asks
//! together, and the walks overlap.

use super::{BURST, Entrance, Kind, Located, NO_MAC, TCP, Worker, mac_word};
use crate::conn::hash::digest_v4;
use crate::conn::prefetch::Line;
use crate::conn::{KeyHash, NIL, Shard};
use crate::flow::{Flow, Plain};
use crate::packet::{Packet, PortId, Verdict};
use crate::time::Instant;

/// How many packets before it is needed an entry is asked for. All at once would be more than
/// the core has in flight, and what is too much is lost.
const AHEAD: usize = 16;

/// How many packets of a far table ask for their lines together; as many as fit into what the
/// processor has in flight.
const TOGETHER: usize = 8;

/// Bytes of a table from which on it is far. Between 300 and 400 MiB a line starts to cost more
/// (docs/performance.md).
const FAR: usize = 320 << 20;

impl Worker {
    #[inline(always)]
    pub(super) fn walk(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        // NICs that look at header checksums look at all of them.
        if packets.iter().all(|packet| packet.checked.ipv4) && !self.core.is_master() {
            return match self.is_far {
                false => self.walk_checked(now, packets, out),
                true => self.walk_far_checked(now, packets, out),
            };
        }
        match (self.core.is_master(), self.is_far) {
            (false, false) => self.walk_as::<false, false, false>(now, packets, out),
            (false, true) => self.walk_far(now, packets, out),
            (true, false) => self.walk_as_master(now, packets, out),
            (true, true) => self.walk_far_as_master(now, packets, out),
        }
    }

    /// Takes the table for a far one, whatever its size.
    pub fn ask_in_groups(&mut self) {
        self.is_far = true;
    }

    /// Whether the shards of a worker are more than the TLB reaches.
    pub(super) fn is_far(shards: &[Shard]) -> bool {
        shards.iter().map(Shard::bytes).sum::<usize>() >= FAR
    }

    #[inline(never)]
    fn walk_far(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        self.walk_as::<false, true, false>(now, packets, out);
    }

    /// A burst whose header checksums the NIC found right.
    #[inline(never)]
    fn walk_checked(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        self.walk_as::<false, false, true>(now, packets, out);
    }

    #[inline(never)]
    fn walk_far_checked(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        self.walk_as::<false, true, true>(now, packets, out);
    }

    /// A walk of its own, so that the other pays nothing for synchronisation.
    #[inline(never)]
    fn walk_as_master(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        self.walk_as::<true, false, false>(now, packets, out);
    }

    #[inline(never)]
    fn walk_far_as_master(
        &mut self,
        now: Instant,
        packets: &mut [Packet<'_>],
        out: &mut [Verdict],
    ) {
        self.walk_as::<true, true, false>(now, packets, out);
    }

    #[inline(always)]
    fn walk_as<const MASTER: bool, const FAR: bool, const CHECKED: bool>(
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
        // What the packets of a far table ask for.
        let mut lines = [Line::nowhere(); BURST];
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
            let line = match self.classify::<CHECKED>(entrance, packet, at) {
                Some(line) => line,
                None => self.classify_other(packet, at, &mut flows, i),
            };
            if FAR {
                lines[i % BURST] = line;
                if i % TOGETHER == TOGETHER - 1 {
                    ask(group_of(&mut lines, i / TOGETHER));
                    if let Some(earlier) = i.checked_sub(AHEAD) {
                        self.locate_all(group_of(&mut places, earlier / TOGETHER));
                    }
                }
            } else {
                line.prefetch();
                if i >= AHEAD {
                    self.locate(&mut places[i - AHEAD]);
                }
            }
        }
        if FAR {
            self.finish_first(&mut places, &mut lines, burst);
        } else {
            for at in &mut places[burst.saturating_sub(AHEAD)..burst.min(AHEAD)] {
                self.locate(at);
            }
        }
        let ticks = now.ticks();
        for (i, (packet, out)) in packets.iter_mut().zip(out).enumerate() {
            if FAR {
                if i.is_multiple_of(TOGETHER) {
                    let later = i + AHEAD;
                    if later < burst {
                        self.locate_all(group_of(&mut places, later / TOGETHER));
                    }
                }
            } else if let Some(later) = places.get_mut(i + AHEAD) {
                self.locate(later);
            }
            let at = &mut places[i % BURST];
            if !self.usual::<MASTER>(ticks, packet, at, out) {
                self.take_unusual(now, packet, at, out, &mut flows, i);
            }
        }
        self.flows = flows;
    }

    /// First pass: parse, decide who is asked next, and name the bucket to ask for. `None` for a
    /// frame of another shape than plain IPv4, of which nothing is known then.
    #[inline(always)]
    fn classify<const CHECKED: bool>(
        &self,
        entrance: Entrance,
        packet: &Packet<'_>,
        at: &mut Located,
    ) -> Option<Line> {
        let core = &self.core;
        let head = packet.head::<{ Plain::HEADERS }>()?;
        if packet.port != entrance.port || entrance.mac != mac_word(head) {
            return None;
        }
        let plain = Plain::read::<CHECKED>(head, packet.len(), packet.wire_len)?;
        let src = digest_v4(u32::from_be(plain.src), plain.src_port());
        let dst = digest_v4(u32::from_be(plain.dst), plain.dst_port());
        let (side, hash) = core.find_side_v4(TCP, src, dst)?;
        let shard = match core.share.plain_v4(hash.shard) {
            Ok(shard) => shard,
            Err(owner) => {
                at.kind = Kind::Elsewhere(owner);
                return Some(Line::nowhere());
            }
        };
        let hash = KeyHash { shard, ..hash };
        at.set_hash(hash);
        at.kind = Kind::plain_v4(side);
        let line;
        (at.home, line) = self.shard(hash).home(hash);
        Some(line)
    }

    /// First pass for all other frames. The flow is looked up here, as the others need not know
    /// where theirs is.
    #[inline(never)]
    fn classify_other(
        &self,
        packet: &Packet<'_>,
        at: &mut Located,
        flows: &mut [Flow],
        i: usize,
    ) -> Line {
        if !self.core.classify_plain_v6(packet, at)
            && let Some(flow) = flows.get_mut(i)
        {
            self.core.classify_any(packet, at, flow);
        }
        if !matches!(
            at.kind,
            Kind::Balance { .. } | Kind::RequestV6 | Kind::ReplyV6 | Kind::Request | Kind::Reply
        ) {
            return Line::nowhere();
        }
        let line;
        (at.home, line) = self.shard(at.hash()).home(at.hash());
        line
    }

    /// Third pass for all other frames.
    #[inline(never)]
    fn take_unusual(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        at: &mut Located,
        out: &mut Verdict,
        flows: &mut [Flow],
        i: usize,
    ) {
        if let Some(flow) = flows.get_mut(i) {
            *out = self.unusual(now, packet, at, flow);
        }
    }

    /// Second pass: reads the bucket, which has come meanwhile, and asks for the entry.
    #[inline(always)]
    fn locate(&self, at: &mut Located) {
        match self.shard(at.hash()).candidate(at.home, at.hash()) {
            Some((slot, line)) => {
                at.slot = slot;
                line.prefetch();
            }
            None => self.miss(at),
        }
    }

    /// Not where it belongs: one of few that found their bucket full, or perhaps a new connection,
    /// which will write all of the entry.
    #[inline(never)]
    fn miss(&self, at: &mut Located) {
        let shard = self.shard(at.hash());
        if let Some((slot, line)) = shard.displaced(at.home, at.hash()) {
            at.slot = slot;
            return line.prefetch();
        }
        at.slot = NIL;
        let line = shard.next_free();
        line.prefetch();
        line.next().prefetch();
    }

    /// Second pass for a group of a far table.
    #[inline(never)]
    fn locate_all(&self, group: &mut [Located; TOGETHER]) {
        let mut lines = [Line::nowhere(); TOGETHER];
        let mut missing = false;
        for (at, line) in group.iter_mut().zip(&mut lines) {
            let shard = self.shard(at.hash());
            (at.slot, *line) = match shard.candidate(at.home, at.hash()) {
                Some(found) => found,
                None => {
                    missing = true;
                    (NIL, shard.next_free())
                }
            };
        }
        ask(&lines);
        if missing {
            for at in group.iter_mut().filter(|at| at.slot == NIL) {
                self.miss(at);
            }
        }
    }

    /// First pass for a far table, when all packets went through it: the last group may have been
    /// too small to ask, and the first groups may have had none to follow at a distance.
    #[inline(always)]
    fn finish_first(&self, places: &mut [Located; BURST], lines: &mut [Line; BURST], burst: usize) {
        let whole = burst / TOGETHER;
        if !burst.is_multiple_of(TOGETHER) {
            ask(group_of(lines, whole));
        }
        let ahead = AHEAD / TOGETHER;
        for group in whole.saturating_sub(ahead)..burst.div_ceil(TOGETHER).min(ahead) {
            self.locate_all(group_of(places, group));
        }
    }
}

/// A group of a burst by its number.
#[inline(always)]
fn group_of<T>(all: &mut [T; BURST], group: usize) -> &mut [T; TOGETHER] {
    &mut all.as_chunks_mut().0[group % (BURST / TOGETHER)]
}

/// Asks for the lines of a group, one request right behind the other.
#[inline(always)]
fn ask(group: &[Line; TOGETHER]) {
    for line in group {
        line.prefetch();
    }
}
