//! FTP through NAT: the control connection is read, the data connections that it announces are
//! expected, and the real server's address in its answers is replaced (`ip_vs_ftp`).
//!
//! Only connections with [`flag::HELPER`] come here: masqueraded ones to port 21.

use core::ops::Range;

use super::{Core, Worker};
use crate::addr::Endpoint;
use crate::conn::entry::flag;
use crate::conn::{Controller, Entry, KeyHash, NewConnection, SHARDS, Side};
use crate::dests;
use crate::flow::Flow;
use crate::forward::nat;
use crate::helper::ftp::{self, Command, Passive};
use crate::helper::sequence::Adjustment;
use crate::packet::{DropReason, Packet, Verdict};
use crate::proto;
use crate::proto::tcp::{SYN, State};
use crate::route::Unresolved;
use crate::service::{ForwardingMethod, Protocol};
use crate::time::{Instant, secs};
use crate::wire::{checksum, ipv4, tcp};

/// How long an announced data connection is waited for, ticks (LISTEN).
const LISTEN_TIMEOUT: u32 = secs(120);

/// Flags of a connection whose payload is read.
pub(super) fn flags(protocol: Protocol, virtual_: &Endpoint, method: ForwardingMethod) -> u16 {
    let is_ftp = protocol == Protocol::Tcp && virtual_.port == ftp::PORT;
    if is_ftp && method == ForwardingMethod::Masquerade {
        flag::HELPER
    } else {
        0
    }
}

/// A data connection to come.
struct Announced {
    client: Endpoint,
    virtual_: Endpoint,
    dest: Endpoint,
}

impl Worker {
    /// A client's segment of a control connection. Its next hop is known. As in the kernel it is
    /// counted and has had its effect on the state before it is read.
    #[cold]
    pub(super) fn helped_request(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        i: u32,
    ) -> Verdict {
        let at = usize::from(hash.shard) % SHARDS;
        self.core.take_request(now, &mut self.shards[at], i, flow);
        if let Err(reason) = self.hear_client(now, packet, flow, at, i) {
            return self.core.dropped(reason);
        }
        self.core
            .send_request(now, &self.shards[at], i, packet, flow)
    }

    /// The segment that has just opened a control connection: with `sloppy_tcp` it may be one
    /// from the middle of a dialogue.
    #[cold]
    pub(super) fn helped_first(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        at: usize,
        i: u32,
    ) -> Verdict {
        // The first piece of a SYN has no more to say than a whole one.
        let is_mute = flow.is_fragment && flow.tcp_flags & SYN != 0;
        if !is_mute && let Err(reason) = self.hear_client(now, packet, flow, at, i) {
            return self.core.dropped(reason);
        }
        let Some(entry) = self.shards.get(at).and_then(|shard| shard.entry(i)) else {
            return self.core.dropped(DropReason::TableFull);
        };
        self.core.forward_request(now, packet, flow, entry)
    }

    /// A real server's segment of a control connection.
    #[cold]
    pub(super) fn helped_reply(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        i: u32,
    ) -> Verdict {
        let shard = &mut self.shards[hash.shard as usize % SHARDS];
        // A packet that has to wait comes again as it is.
        if let Some(entry) = shard.entry_mut(i)
            && let Err(Unresolved::NoNeighbour { link, addr }) =
                self.core.client_hop(entry, flow.dst)
            && self.core.may_wait(now, link, addr)
        {
            return self.core.wait_for(link, addr);
        }
        match self.hear_server(now, packet, flow, hash, i) {
            Ok(flow) => {
                let shard = &mut self.shards[hash.shard as usize % SHARDS];
                self.core.reply(now, shard, i, packet, &flow)
            }
            Err(reason) => self.core.dropped(reason),
        }
    }

    fn hear_client(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        at: usize,
        i: u32,
    ) -> Result<(), DropReason> {
        let payload = payload(packet, flow)?;
        let Some(entry) = self.shards.get(at).and_then(|shard| shard.entry(i)) else {
            return Ok(());
        };
        let (client, virtual_, dest) = (entry.client(), entry.virtual_(), entry.dest());
        let adjustment = entry.adjustment();
        if entry.state == State::Established as u8 {
            for command in ftp::commands(packet.frame().get(payload).unwrap_or(&[])) {
                match command {
                    // The client's own address: it cannot send the server to somebody else.
                    Command::Active(to) if to.addr == client.addr => {
                        let announced = Announced {
                            client: to,
                            virtual_: Endpoint::new(virtual_.addr, virtual_.port - 1),
                            dest: Endpoint::new(dest.addr, dest.port.wrapping_sub(1)),
                        };
                        self.expect(now, &announced, at, i);
                    }
                    Command::Active(_) => {}
                    Command::Passive(how) => {
                        let shard = self.shards.get_mut(at);
                        if let Some(entry) = shard.and_then(|shard| shard.entry_mut(i)) {
                            entry.helper = how as u8;
                        }
                    }
                }
            }
        }
        if let Some(adjustment) = adjustment {
            let segment = segment_mut(packet, flow);
            adjustment.move_acknowledgements(header_mut(segment));
            checksum::fill_transport(&flow.src, &flow.dst, flow.protocol, segment);
        }
        Ok(())
    }

    /// What the packet is afterwards: it may have become longer or shorter.
    fn hear_server(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        i: u32,
    ) -> Result<Flow, DropReason> {
        let payload = payload(packet, flow)?;
        let mut flow = *flow;
        let Some(entry) = self.shard(hash).entry(i) else {
            return Ok(flow);
        };
        let (client, virtual_, dest) = (entry.client(), entry.virtual_(), entry.dest());
        let mut adjustment = entry.adjustment();
        let asked = Passive::from_number(entry.helper);
        let bytes = packet.frame().get(payload.clone()).unwrap_or(&[]);
        if entry.state == State::Established as u8
            && let Some(named) = asked.and_then(|asked| ftp::named(bytes, asked))
        {
            let announced = Announced {
                client: Endpoint::new(client.addr, 0),
                virtual_: Endpoint::new(virtual_.addr, named.port),
                dest: Endpoint::new(dest.addr, named.port),
            };
            let text = named.text.filter(|_| flow.is_v4);
            if let Some(text) = text {
                let words = ftp::words(&announced.virtual_);
                let at = payload.start + text.start..payload.start + text.end;
                let seq = sequence(segment_mut(packet, &flow));
                let by = replace(packet, &mut flow, at, &words)?;
                adjustment = Some(adjustment.unwrap_or_default().changed(seq, by));
            }
            self.expect(now, &announced, usize::from(hash.shard), i);
        }
        if let Some(adjustment) = adjustment.filter(|a| *a != Adjustment::default()) {
            let shard = &mut self.shards[hash.shard as usize % SHARDS];
            if let Some(entry) = shard.entry_mut(i)
                && entry.set_adjustment(&adjustment)
            {
                adjustment.move_sequence(header_mut(segment_mut(packet, &flow)));
            }
        }
        let segment = segment_mut(packet, &flow);
        checksum::fill_transport(&flow.src, &flow.dst, flow.protocol, segment);
        Ok(flow)
    }

    /// Adds the entry of a data connection to come, below its control connection, which is entry
    /// `i` of shard `control`. One that is there already waits anew.
    fn expect(&mut self, now: Instant, announced: &Announced, control: usize, i: u32) {
        let Some(entry) = self.shards.get(control).and_then(|shard| shard.entry(i)) else {
            return;
        };
        let Announced {
            client,
            virtual_,
            dest,
        } = *announced;
        let no_port = if client.port == 0 { flag::NO_CPORT } else { 0 };
        let (dest_id, fwmark) = (entry.dest_id(), entry.fwmark);
        let new = NewConnection {
            protocol: Protocol::Tcp,
            client,
            virtual_,
            dest,
            dest_id,
            method: ForwardingMethod::Masquerade,
            flags: flag::INACTIVE | no_port,
        };
        let hash = self.core.hash_of(&client, &virtual_);
        let at = usize::from(hash.shard);
        let deadline = now.ticks().plus(LISTEN_TIMEOUT);
        if let Some(known) = self.find_tcp(hash, &client, &virtual_) {
            let core = &mut self.core;
            let Some(shard) = self.shards.get_mut(at) else {
                return;
            };
            let Some(entry) = shard.entry_mut(known) else {
                return;
            };
            if entry.flags & flag::CONTROLLED == 0 {
                return;
            }
            if entry.dest() == dest {
                // The port is used once more.
                core.change_state(entry, State::Listen as u8);
                entry.timeout = LISTEN_TIMEOUT;
                entry.deadline = deadline.0;
                shard.rearm(known, false);
                return;
            }
            self.end(at, known);
        }
        let Some(added) = self.insert(at, |shard| shard.insert(&new)) else {
            return;
        };
        self.core.ports_unknown += u32::from(no_port != 0);
        let core = &self.core;
        dests::bind(&core.dests, &core.counters, &core.changes, dest_id, false);
        if let Some(shard) = self.shards.get_mut(at)
            && let Some(entry) = shard.entry_mut(added)
        {
            (entry.delta_l3, entry.delta_l4) = nat::deltas(&virtual_, &dest);
            entry.fwmark = fwmark;
            entry.state = State::Listen as u8;
            entry.timeout = LISTEN_TIMEOUT;
            entry.deadline = deadline.0;
            shard.rearm(added, false);
        }
        let controller = u8::try_from(control)
            .ok()
            .and_then(|shard| Controller::new(shard, i));
        if let Some(above) = controller.and_then(|c| self.controlling(c)) {
            above.add_controls(1);
            if let Some(entry) = self.shards.get_mut(at).and_then(|s| s.entry_mut(added)) {
                entry.set_controller(controller);
            }
        }
    }

    /// The first packet of a passive data connection tells the client's port. Where the entry is
    /// now (`ip_vs_conn_fill_cport`): one whose packet will be dropped, because its server is
    /// gone, is left to wait.
    #[cold]
    pub(super) fn fill_client_port(
        &mut self,
        flow: &Flow,
        hash: KeyHash,
    ) -> Option<(KeyHash, u32)> {
        let client = Endpoint::new(flow.src, 0);
        let virtual_ = Endpoint::new(flow.dst, flow.dst_port);
        let from = self.core.hash_of(&client, &virtual_);
        let i = self.find_tcp(from, &client, &virtual_)?;
        let old = self.shard(from).entry(i)?;
        if old.flags & flag::NO_CPORT == 0 {
            return None;
        }
        let opens = proto::is_opening(flow);
        if self.core.starts_anew(old, old.dest_id(), opens).is_err() {
            return Some((from, i));
        }
        let identity = old.identity()?;
        let kept = Kept::of(old);
        let new = NewConnection {
            client: Endpoint::new(flow.src, flow.src_port),
            flags: identity.flags & !flag::NO_CPORT,
            ..identity
        };
        let at = usize::from(hash.shard);
        let added = self.insert(at, |shard| shard.insert(&new))?;
        // Making room may have cost the old one.
        let shard = &mut self.shards[from.shard as usize % SHARDS];
        let lives = shard
            .entry(i)
            .is_some_and(|e| e.is_valid() && e.flags & flag::NO_CPORT != 0);
        if lives {
            shard.remove(i);
            self.core.ports_unknown = self.core.ports_unknown.saturating_sub(1);
            let connections = &self.core.counters.connections;
            connections.set(connections.get().saturating_sub(1));
        }
        let shard = self.shards.get_mut(at)?;
        kept.give(shard.entry_mut(added)?);
        shard.rearm(added, false);
        Some((hash, added))
    }

    fn find_tcp(&self, hash: KeyHash, client: &Endpoint, virtual_: &Endpoint) -> Option<u32> {
        let protocol = Protocol::Tcp.number();
        self.shard(hash)
            .lookup(hash, Side::Request, protocol, client, virtual_)
    }
}

impl Core {
    fn hash_of(&self, client: &Endpoint, virtual_: &Endpoint) -> KeyHash {
        let (c, v) = (client, virtual_);
        let protocol = Protocol::Tcp.number();
        self.place(self.key.hash(protocol, &c.addr, c.port, &v.addr, v.port))
    }
}

/// What an entry takes along when its client's port becomes known.
struct Kept {
    state: u8,
    timeout: u32,
    deadline: u32,
    deltas: (u16, u16),
    fwmark: u32,
    controller: Option<Controller>,
}

impl Kept {
    fn of(entry: &Entry) -> Kept {
        Kept {
            state: entry.state,
            timeout: entry.timeout,
            deadline: entry.deadline,
            deltas: (entry.delta_l3, entry.delta_l4),
            fwmark: entry.fwmark,
            controller: entry.controller(),
        }
    }

    fn give(self, entry: &mut Entry) {
        entry.state = self.state;
        entry.timeout = self.timeout;
        entry.deadline = self.deadline;
        (entry.delta_l3, entry.delta_l4) = self.deltas;
        entry.fwmark = self.fwmark;
        entry.set_controller(self.controller);
    }
}

/// Where the payload of a segment lies in the frame, once its checksum is found right.
fn payload(packet: &mut Packet<'_>, flow: &Flow) -> Result<Range<usize>, DropReason> {
    if !flow.has_l4_header() {
        return Err(DropReason::ShortTransport);
    }
    if flow.is_fragment {
        // What is said in pieces cannot be read, and its checksum not be moved.
        return Err(DropReason::Fragment);
    }
    let (l4, end) = (flow.l4 as usize, flow.l4 as usize + flow.l4_len as usize);
    let is_checked = packet.checked.transport;
    let segment = segment_mut(packet, flow);
    let pseudo = checksum::pseudo_header(&flow.src, &flow.dst, flow.protocol, flow.l4_len);
    if !is_checked && checksum::fold(checksum::add(pseudo, segment)) != 0xffff {
        return Err(DropReason::TransportChecksum);
    }
    // A header longer than the segment leaves no payload.
    Ok((l4 + header_len(segment)).min(end)..end)
}

/// The TCP segment of the packet.
fn segment_mut<'p>(packet: &'p mut Packet<'_>, flow: &Flow) -> &'p mut [u8] {
    let l4 = flow.l4 as usize;
    packet
        .frame_mut()
        .get_mut(l4..l4 + flow.l4_len as usize)
        .unwrap_or(&mut [])
}

/// Bytes of the TCP header with its options, as it says.
fn header_len(segment: &[u8]) -> usize {
    let words = segment.get(12).map_or(0, |b| usize::from(b >> 4));
    (words * 4).max(tcp::HEADER_LEN)
}

fn header_mut(segment: &mut [u8]) -> &mut [u8] {
    let len = header_len(segment).min(segment.len());
    segment.get_mut(..len).unwrap_or(&mut [])
}

fn sequence(segment: &[u8]) -> u32 {
    let field = segment.get(4..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Replaces bytes of an IPv4 packet by others, of another length perhaps, and keeps the lengths
/// and the header checksum right. By how many bytes the packet grew. Padding behind it is lost.
fn replace(
    packet: &mut Packet<'_>,
    flow: &mut Flow,
    at: Range<usize>,
    words: &[u8],
) -> Result<i32, DropReason> {
    let by = words.len() as i32 - at.len() as i32;
    let full = DropReason::NoHeadroom;
    let grown = |len: u16| u16::try_from(i32::from(len) + by).map_err(|_| full);
    let (l3_len, l4_len) = (grown(flow.l3_len)?, grown(flow.l4_len)?);
    let old_end = flow.l3 as usize + flow.l3_len as usize;
    let len = flow.l3.checked_add(l3_len).ok_or(full)?;
    if by > 0 && !packet.set_len(len.max(packet.len())) {
        return Err(full);
    }
    let frame = packet.frame_mut();
    if at.end > old_end || old_end > frame.len() || at.start + words.len() > frame.len() {
        return Err(full);
    }
    frame.copy_within(at.end..old_end, at.start + words.len());
    if let Some(place) = frame.get_mut(at.start..at.start + words.len()) {
        place.copy_from_slice(words);
    }
    if let Some(ip) = frame.get_mut(flow.l3 as usize..) {
        if let Some(total) = ip.get_mut(2..4) {
            total.copy_from_slice(&l3_len.to_be_bytes());
        }
        ipv4::fill_checksum(ip);
    }
    if !packet.set_len(len) {
        return Err(full);
    }
    packet.wire_len = u32::from(len);
    (flow.l3_len, flow.l4_len) = (l3_len, l4_len);
    Ok(by)
}
