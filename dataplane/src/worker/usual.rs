//! The usual packet: TCP over IPv4, untagged, without options, of a connection that stays in its
//! state and goes where it went before.
//!
//! Nearly all packets are of this kind, and most of what the walk asks has then one answer. Here
//! every question is asked before anything is changed. Any other answer: `None`, nothing has
//! changed, and the packet takes the walk, which would have done the same
//! (`tests/usual.rs` compares the two).

use super::{Located, TCP, Worker};
use crate::conn::Side;
use crate::conn::entry::flag;
use crate::conn::index::REPLY;
use crate::forward::{link, nat};
use crate::packet::{Packet, Verdict};
use crate::proto::{Direction, tcp};
use crate::route::NeighbourId;
use crate::service::ForwardingMethod;
use crate::time::Ticks;

/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;

impl Worker {
    /// Takes a usual packet from the index to the wire.
    #[inline(always)]
    pub(super) fn usual(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
        side: Side,
    ) -> Option<Verdict> {
        if !at.is_plain || at.plain.ttl <= 1 || at.plain.tcp_flags & tcp::SYN != 0 {
            return None;
        }
        // Two copies, in each of which the side is known.
        match side {
            Side::Request => self.usual_way::<true>(now, packet, at),
            Side::Reply => self.usual_way::<false>(now, packet, at),
        }
    }

    #[inline(always)]
    fn usual_way<const REQUEST: bool>(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
    ) -> Option<Verdict> {
        let side = if REQUEST { Side::Request } else { Side::Reply };
        let (plain, core) = (&at.plain, &self.core);
        let (src, dst) = ((plain.src, plain.src_port), (plain.dst, plain.dst_port));
        let shard = self.shards.get_mut(at.hash.shard as usize)?;
        if !shard.is_match_v4(at.slot, side, TCP, src, dst) {
            return None;
        }
        let entry = shard.entry_mut(at.slot & !REPLY)?;
        let is_nat = entry.method() == ForwardingMethod::Masquerade;
        let is_direct = REQUEST && entry.method() == ForwardingMethod::DirectRoute;
        let unsettled = match side {
            Side::Request => flag::HALF_OPEN,
            Side::Reply => flag::HALF_OPEN | flag::NOOUTPUT,
        };
        if !(is_nat || is_direct) || entry.flags & unsettled != 0 {
            return None;
        }

        let direction = match side {
            Side::Request if entry.flags & flag::NOOUTPUT != 0 => Direction::InputOnly,
            Side::Request => Direction::Input,
            Side::Reply => Direction::Output,
        };
        let state = tcp::State::from_number(entry.state);
        let timeout = core.timeouts[0][entry.state as usize & 15];
        let deadline = now.plus(timeout);
        if tcp::advance(state, direction, plain.tcp_flags) as u8 != entry.state
            || state == tcp::State::SynRecv
            || !deadline.reached(Ticks(entry.armed))
        {
            return None;
        }

        let id = entry.dest_id();
        let dest = core.dests.get(id.0 as usize)?;
        let (hop, mtu, generation) = match side {
            Side::Request => (dest.hop, dest.mtu, dest.generation),
            Side::Reply => (entry.reply_hop, entry.reply_mtu, entry.route_generation),
        };
        let hop = core.router.next_hop(NeighbourId(hop))?;
        if !dest.available
            || generation != core.router.generation()
            || !hop.up
            || hop.vlan != 0
            || plain.len > mtu
            || plain.len > hop.mtu
        {
            return None;
        }
        let counters = core.counters.dest(id)?;
        let headers = packet.frame_mut().first_chunk_mut::<HEADERS>()?;
        let (ethernet, ip) = headers.split_first_chunk_mut::<14>()?;
        let ip = ip.first_chunk_mut::<40>()?;

        // From here on it is a usual packet.
        entry.timeout = timeout;
        entry.deadline = deadline.0;
        let bytes = u64::from(plain.len);
        if REQUEST {
            entry.in_pkts = entry.in_pkts.wrapping_add(1);
            counters.in_pkts.add(1);
            counters.in_bytes.add(bytes);
        } else {
            counters.out_pkts.add(1);
            counters.out_bytes.add(bytes);
        }
        if is_nat {
            nat::rewrite_tcp_v4(ip, entry, side);
        }
        if let Some(header) = ip.first_chunk_mut() {
            link::lower_ttl_v4(header);
        }
        ethernet[..6].copy_from_slice(&hop.dmac.0);
        ethernet[6..12].copy_from_slice(&hop.smac.0);
        packet.vlan_tci = 0;
        Some(Verdict::Transmit(hop.port))
    }
}
