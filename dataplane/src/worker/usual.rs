//! The usual packet: TCP over IPv4, untagged, without options, of a connection that stays in its
//! state and goes where it went before.
//!
//! Nearly all packets are of this kind, and most of what the walk asks has then one answer. Here
//! every question is asked before anything is changed. Any other answer: `None`, nothing has
//! changed, and the packet takes the walk, which would have done the same
//! (`tests/usual.rs` compares the two).

use super::{Located, Worker};
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
        let (flow, core) = (&at.flow, &self.core);
        let shard = self.shards.get_mut(at.hash.shard as usize)?;
        if !at.is_plain || !shard.is_match_v4(at.slot, side, flow) {
            return None;
        }
        let entry = shard.entry_mut(at.slot & !REPLY)?;
        let method = entry.method();
        let dest = core
            .dests
            .get(entry.dest_id().0 as usize)
            .filter(|dest| dest.available)?;
        let (direction, hop, mtu, generation) = match side {
            Side::Request if entry.flags & flag::NOOUTPUT != 0 => {
                (Direction::InputOnly, dest.hop, dest.mtu, dest.generation)
            }
            Side::Request => (Direction::Input, dest.hop, dest.mtu, dest.generation),
            Side::Reply => (
                Direction::Output,
                entry.reply_hop,
                entry.reply_mtu,
                entry.route_generation,
            ),
        };
        let is_nat = method == ForwardingMethod::Masquerade;
        let is_direct = method == ForwardingMethod::DirectRoute && side == Side::Request;
        let settled = match side {
            Side::Request => flag::HALF_OPEN,
            Side::Reply => flag::HALF_OPEN | flag::NOOUTPUT,
        };
        if !(is_nat || is_direct) || entry.flags & settled != 0 {
            return None;
        }

        let state = tcp::advance(
            tcp::State::from_number(entry.state),
            direction,
            flow.tcp_flags,
        );
        let timeout = core.timeouts[0][state as usize & 15];
        let deadline = now.plus(timeout);
        let stays = state as u8 == entry.state && state != tcp::State::SynRecv;
        if !stays || !deadline.reached(Ticks(entry.armed)) {
            return None;
        }
        let hop = core.router.next_hop(NeighbourId(hop))?;
        let fits = flow.l3_len <= mtu.min(hop.mtu);
        if generation != core.router.generation() || !hop.up || hop.vlan != 0 || !fits {
            return None;
        }
        let counters = core.counters.dest(entry.dest_id())?;
        let headers = packet.frame_mut().first_chunk_mut::<HEADERS>()?;
        let (ethernet, ip) = headers.split_first_chunk_mut::<14>()?;
        let ip = ip.first_chunk_mut::<40>()?;

        // From here on it is a usual packet.
        entry.timeout = timeout;
        entry.deadline = deadline.0;
        let bytes = u64::from(flow.l3_len);
        match side {
            Side::Request => {
                entry.in_pkts = entry.in_pkts.wrapping_add(1);
                counters.in_pkts.add(1);
                counters.in_bytes.add(bytes);
            }
            Side::Reply => {
                counters.out_pkts.add(1);
                counters.out_bytes.add(bytes);
            }
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
