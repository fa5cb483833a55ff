//! The usual packet: an acknowledging TCP segment over IPv4, untagged, without options, of an
//! established connection that goes where it went before.
//!
//! Nearly all packets are of this kind, and most of what the walk asks has then one answer. Here
//! every question is asked before anything is changed. Any other answer: `None`, nothing has
//! changed, and the packet takes the walk, which would have done the same
//! (`tests/usual.rs` compares the two).

use super::{Located, TCP, Worker};
use crate::conn::entry::flag;
use crate::conn::index::REPLY;
use crate::conn::{SHARDS, Side};
use crate::forward::{link, nat};
use crate::packet::{Packet, Verdict};
use crate::proto::tcp::{self, State};
use crate::route::NeighbourId;
use crate::service::ForwardingMethod;
use crate::time::Ticks;

/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;

/// Flags by which a segment would change the state, and the one that it has to have.
const FLAGS: u8 = tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK;

const ESTABLISHED: u8 = State::Established as u8;

impl Worker {
    /// Takes a usual packet from the index to the wire.
    #[inline(always)]
    pub(super) fn usual(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
    ) -> Option<Verdict> {
        let side = at.plain_side?;
        if at.plain.ttl <= 1 || at.plain.tcp_flags & FLAGS != tcp::ACK {
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
        let shard = &mut self.shards[at.hash.shard as usize % SHARDS];
        if !shard.is_match_v4(at.slot, side, TCP, (plain.src, plain.dst), plain.ports) {
            return None;
        }
        let entry = shard.entry_mut(at.slot & !REPLY)?;
        let is_nat = entry.method() == ForwardingMethod::Masquerade;
        let is_direct = REQUEST && entry.method() == ForwardingMethod::DirectRoute;
        // The first reply changes the tables that a connection goes by.
        let unsettled = flag::HELPER | if REQUEST { 0 } else { flag::NOOUTPUT };
        // In each direction, and in the secure table too, ACK leaves ESTABLISHED as it is.
        if !(is_nat || is_direct) || entry.state != ESTABLISHED || entry.flags & unsettled != 0 {
            return None;
        }
        let id = entry.dest_id();
        let dest = core.dests.get(id.0 as usize)?;
        let timeout = dest.established;
        let deadline = now.plus(timeout);
        if !deadline.reached(Ticks(entry.armed)) {
            return None;
        }

        let (hop, mtu, generation) = if REQUEST {
            (dest.hop, dest.mtu, dest.generation)
        } else {
            (entry.reply_hop, entry.reply_mtu, entry.route_generation)
        };
        let hop = core.router.plain_hop(NeighbourId(hop))?;
        if !dest.available
            || generation != core.router.generation()
            || plain.len > mtu
            || plain.len > hop.mtu
        {
            return None;
        }
        let counters = core.counters.dest(id)?;
        let headers = packet.head_mut::<HEADERS>()?;
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
            nat::rewrite_tcp_v4::<true>(ip, entry, side);
        } else if let Some(header) = ip.first_chunk_mut() {
            link::lower_ttl_v4(header);
        }
        ethernet[..12].copy_from_slice(&hop.macs);
        packet.vlan_tci = 0;
        Some(Verdict::Transmit(hop.port))
    }
}
