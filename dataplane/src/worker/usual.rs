//! The usual packet: an acknowledging TCP segment, untagged (or with the tag left to NICs), without options, of an established
//! connection that goes where it went before.
//!
//! Nearly all packets are of this kind, and most of what the walk asks has then one answer. Here
//! every question is asked before anything is changed. Any other answer: false, nothing has
//! changed, and the packet takes the walk, which would have done the same
//! (`tests/usual.rs` compares the two).

use super::transmit::following;
use super::{Core, Kind, Located, TCP, Worker};
use crate::conn::entry::flag;
use crate::conn::{Entry, SHARDS, Side, Signature};
use crate::counters::DestCounters;
use crate::dests::Exit;
use crate::flow::{Plain, PlainV6};
use crate::forward::{link, nat};
use crate::packet::{Packet, Verdict};
use crate::proto::tcp::{self, State};
use crate::route::{NeighbourId, ResolvedHop};
use crate::service::ForwardingMethod;
use crate::time::Ticks;
use crate::wire::{ethernet, ipv4};

/// Flags by which a segment would change the state, and the one that it has to have.
const FLAGS: u8 = tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK;

/// Families that an entry can be of.
const V6: u16 = flag::CLIENT_V6 | flag::DEST_V6;

/// What counts of an entry for a packet from a client over IPv4; its real server may be of either
/// family. In each direction, and in the secure table too, ACK leaves ESTABLISHED as it is.
const REQUEST: Signature = Signature::new(0xff, 0xff, flag::HELPER | flag::CLIENT_V6, 0xff);
/// The same over IPv6, where the method is asked for later.
const REQUEST_V6: Signature = Signature::new(0xff, 0, flag::HELPER | V6, 0xff);
/// For a packet from a server. The first reply changes the tables that a connection goes by.
const REPLY: Signature = Signature::new(0xff, 0xff, flag::HELPER | flag::NOOUTPUT | V6, 0xff);

/// What of an entry has to be there: an established connection over IPv4, by method.
const NAT: Signature = established(ForwardingMethod::Masquerade, 0);
const DIRECT: Signature = established(ForwardingMethod::DirectRoute, 0);
const TUNNEL: Signature = established(ForwardingMethod::Tunnel, 0);
/// The same over IPv6. As a request's, this is any method's.
const NAT_V6: Signature = established(ForwardingMethod::Masquerade, V6);

const fn established(method: ForwardingMethod, flags: u16) -> Signature {
    Signature::new(TCP, method as u8, flags, State::Established as u8)
}

impl Worker {
    /// Takes a usual packet from the index to the wire. Only a `MASTER` asks whether backups are to be
    /// told of its connection.
    #[inline(always)]
    pub(super) fn usual<const MASTER: bool>(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
        out: &mut Verdict,
    ) -> bool {
        let sent = match at.kind {
            Kind::Request => self.usual_request::<MASTER>(now, packet, at, out),
            Kind::Reply => self.usual_reply(now, packet, at, out),
            _ => self.usual_v6::<MASTER>(now, packet, at, out),
        };
        sent.is_some()
    }

    #[inline(always)]
    fn usual_request<const MASTER: bool>(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
        out: &mut Verdict,
    ) -> Option<()> {
        let core = &mut self.core;
        let shard = &mut self.shards[at.shard as usize % SHARDS];
        let entry = shard.entry_of_slot(at.slot, Side::Request)?;
        let headers = packet.known_head_mut::<{ Plain::HEADERS }>()?;
        let plain = Plain::again(headers);
        if !entry.has_request_tuple_v4(plain.src, plain.dst, plain.ports)
            || !is_usual(plain.tcp_flags, plain.ttl)
        {
            return None;
        }
        let exit = match entry.signature().masked(REQUEST) {
            NAT => core.usual_request_of::<true>(now, entry, headers, plain.len)?,
            DIRECT => core.usual_request_of::<false>(now, entry, headers, plain.len)?,
            other => core.usual_tunnel(now, entry, packet, plain.len, other)?,
        };
        packet.vlan_tci = exit.tci;
        *out = Verdict::Transmit(exit.port);
        if MASTER && core.pace.is_due(entry.in_pkts) {
            self.offer_usual(now, at);
        }
        Some(())
    }

    #[inline(always)]
    fn usual_reply(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
        out: &mut Verdict,
    ) -> Option<()> {
        let core = &self.core;
        let shard = &mut self.shards[at.shard as usize % SHARDS];
        if shard.is_owed() {
            return None;
        }
        let entry = shard.entry_of_slot(at.slot, Side::Reply)?;
        let headers = packet.known_head_mut::<{ Plain::HEADERS }>()?;
        let plain = Plain::again(headers);
        if !entry.has_reply_tuple_v4(plain.dst, plain.src, plain.ports)
            || !is_usual(plain.tcp_flags, plain.ttl)
            || entry.signature().masked(REPLY) != NAT
        {
            return None;
        }
        let counters = core.counters.dest(entry.dest_id())?;
        let (hop, timeout) = core.usual_return(entry, plain.len)?;
        let timing = usual_timing(now, entry, timeout)?;
        let (ethernet, ip) = headers.split_first_chunk_mut::<14>()?;
        let ip = ip.first_chunk_mut::<40>()?;
        // From here on it is a usual packet.
        nat::rewrite_tcp_v4::<true>(ip, entry, Side::Reply);
        ethernet[..12].copy_from_slice(&hop.macs);
        count_reply(entry, counters, plain.len, timing);
        packet.vlan_tci = hop.tci;
        *out = Verdict::Transmit(hop.port);
        Some(())
    }

    #[inline(never)]
    fn usual_v6<const MASTER: bool>(
        &mut self,
        now: Ticks,
        packet: &mut Packet<'_>,
        at: &Located,
        out: &mut Verdict,
    ) -> Option<()> {
        let side = match at.kind {
            Kind::RequestV6 => Side::Request,
            Kind::ReplyV6 => Side::Reply,
            _ => return None,
        };
        let core = &self.core;
        let shard = &mut self.shards[at.shard as usize % SHARDS];
        if side == Side::Reply && shard.is_owed() {
            return None;
        }
        let entry = shard.entry_of_slot(at.slot, side)?;
        let headers = packet.known_head_mut::<{ PlainV6::HEADERS }>()?;
        let plain = PlainV6::again(headers);
        let (ethernet, ip) = headers.split_first_chunk_mut::<14>()?;
        let ip = ip.first_chunk_mut::<60>()?;
        let addrs = ip.get(8..40)?.first_chunk()?;
        let (is_it, mask) = match side {
            Side::Request => (entry.has_request_tuple_v6(addrs, plain.ports), REQUEST_V6),
            Side::Reply => (entry.has_reply_tuple_v6(addrs, plain.ports), REPLY),
        };
        if !is_it
            || entry.signature().masked(mask) != NAT_V6
            || !is_usual(plain.tcp_flags, plain.hop_limit)
        {
            return None;
        }
        let counters = core.counters.dest(entry.dest_id())?;
        let method = entry.method();
        let (macs, port, tci, timeout) = match side {
            Side::Request => {
                let exit = core.exits.get(entry.dest_id().0 as usize)?;
                let is_known = matches!(
                    method,
                    ForwardingMethod::Masquerade | ForwardingMethod::DirectRoute
                );
                if !is_known || exit.epoch != core.epoch || plain.len > exit.most {
                    return None;
                }
                (&exit.macs, exit.port, exit.tci, exit.established)
            }
            Side::Reply => {
                let (hop, timeout) = core.usual_return(entry, plain.len)?;
                (&hop.macs, hop.port, hop.tci, timeout)
            }
        };
        let timing = usual_timing(now, entry, timeout)?;
        // From here on it is a usual packet.
        ip[7] -= 1;
        if method == ForwardingMethod::Masquerade {
            nat::rewrite_tcp_v6(ip, entry, side);
        }
        ethernet[..12].copy_from_slice(macs);
        packet.vlan_tci = tci;
        *out = Verdict::Transmit(port);
        match side {
            Side::Request => {
                count_request(entry, counters, plain.len, timing);
                if MASTER && core.pace.is_due(entry.in_pkts) {
                    self.offer_usual(now, at);
                }
            }
            Side::Reply => count_reply(entry, counters, plain.len, timing),
        }
        Some(())
    }
}

impl Core {
    /// A client's packet that goes on as it is, but for its TTL and, with `NAT`, where it goes. The
    /// two are apart so that neither asks for the method again.
    #[inline(always)]
    fn usual_request_of<const NAT: bool>(
        &self,
        now: Ticks,
        entry: &mut Entry,
        headers: &mut [u8; Plain::HEADERS],
        len: u16,
    ) -> Option<&Exit> {
        let counters = self.counters.dest(entry.dest_id())?;
        let exit = self.exits.get(entry.dest_id().0 as usize)?;
        if exit.epoch != self.epoch || len > exit.most {
            return None;
        }
        let timing = usual_timing(now, entry, exit.established)?;
        let (ethernet, ip) = headers.split_first_chunk_mut::<14>()?;
        let ip = ip.first_chunk_mut::<40>()?;
        // From here on it is a usual packet.
        if NAT {
            nat::rewrite_tcp_v4::<true>(ip, entry, Side::Request);
        } else if let Some(header) = ip.first_chunk_mut() {
            link::lower_ttl_v4(header);
        }
        ethernet[..12].copy_from_slice(&exit.macs);
        count_request(entry, counters, len, timing);
        Some(exit)
    }

    /// A client's packet that goes into another. Out of line, so that those that do not have all
    /// registers; and it asks itself whether it is one, so that those do not.
    #[inline(never)]
    fn usual_tunnel(
        &mut self,
        now: Ticks,
        entry: &mut Entry,
        packet: &mut Packet<'_>,
        len: u16,
        signature: Signature,
    ) -> Option<&Exit> {
        if signature != TUNNEL {
            return None;
        }
        let exit = self.exits.get(entry.dest_id().0 as usize)?;
        let timing = usual_timing(now, entry, exit.established)?;
        let counters = self.counters.dest(entry.dest_id())?;
        if exit.epoch != self.epoch
            || len > exit.most_inside
            // The last thing that can be refused.
            || !packet.push(ipv4::HEADER_LEN as u16 + exit.shim_len)
        {
            return None;
        }
        self.ip_id = following(self.ip_id);
        let (copy_df, id) = (self.settings.pmtu_disc, self.ip_id);
        match exit.shim_len {
            0 => enclose::<54>(packet, exit, len, copy_df, id),
            _ => enclose::<58>(packet, exit, len, copy_df, id),
        }
        count_request(entry, counters, len, timing);
        Some(exit)
    }

    /// Where a reply of so many bytes leaves, as long as the way back that the connection
    /// remembers is right and its real server is still counted; and the timeout, in ticks.
    #[inline(always)]
    fn usual_return(&self, entry: &Entry, len: u16) -> Option<(&ResolvedHop, u32)> {
        let dest = self.dests.get(entry.dest_id().0 as usize)?;
        let hop = self.router.plain_hop(NeighbourId(entry.reply_hop))?;
        let is_right = dest.available
            && entry.route_generation == self.router.generation()
            && len <= entry.reply_mtu;
        is_right.then_some((hop, dest.established))
    }
}

/// Timeout and deadline after this packet, unless the deadline came closer: the entry has to be
/// linked anew then.
#[inline(always)]
fn usual_timing(now: Ticks, entry: &Entry, timeout: u32) -> Option<(u32, Ticks)> {
    let deadline = now.plus(timeout);
    deadline
        .reached(Ticks(entry.armed))
        .then_some((timeout, deadline))
}

/// Whether a segment changes nothing in an established connection, and may go on.
#[inline(always)]
fn is_usual(tcp_flags: u8, ttl: u8) -> bool {
    tcp_flags & FLAGS == tcp::ACK && ttl > 1
}

#[inline(always)]
fn count_request(
    entry: &mut Entry,
    counters: &DestCounters,
    len: u16,
    (timeout, deadline): (u32, Ticks),
) {
    entry.timeout = timeout;
    entry.deadline = deadline.0;
    entry.in_pkts = entry.in_pkts.wrapping_add(1);
    counters.in_pkts.add(1);
    counters.in_bytes.add(u64::from(len));
}

#[inline(always)]
fn count_reply(
    entry: &mut Entry,
    counters: &DestCounters,
    len: u16,
    (timeout, deadline): (u32, Ticks),
) {
    entry.timeout = timeout;
    entry.deadline = deadline.0;
    counters.out_pkts.add(1);
    counters.out_bytes.add(u64::from(len));
}

/// Puts a packet of `len` bytes into another. The frame has grown already, by what stands
/// between the Ethernet header and the packet; `N` is all of that with the packet's IP header.
#[inline(always)]
fn enclose<const N: usize>(packet: &mut Packet<'_>, exit: &Exit, len: u16, copy_df: bool, id: u16) {
    let front = (N - ethernet::HEADER_LEN - ipv4::HEADER_LEN) as u16;
    // Padding is cut off, so it cannot fail.
    let _ = packet.set_len(ethernet::HEADER_LEN as u16 + front + len);
    let Some((before, inner)) = packet
        .head_mut::<N>()
        .and_then(|headers| headers.split_last_chunk_mut())
    else {
        return;
    };
    link::lower_ttl_v4(inner);
    let Some((ethernet, rest)) = before.split_first_chunk_mut::<14>() else {
        return;
    };
    let Some((outer, shim)) = rest.split_first_chunk_mut() else {
        return;
    };
    exit.front.write(outer, inner, front + len, copy_df, id);
    for (to, octet) in shim.iter_mut().zip(exit.shim) {
        *to = octet;
    }
    ethernet[..12].copy_from_slice(&exit.macs);
    ethernet[12..].copy_from_slice(&ethernet::TYPE_IPV4.to_be_bytes());
}
