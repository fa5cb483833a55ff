//! New connections: which service, which real server (`ip_vs_schedule`).

use core::net::IpAddr;

use super::steer::{Meeting, Way};
use super::{Core, Running, TCP, Worker, ends, ftp};
use crate::addr::Endpoint;
use crate::conn::entry::flag;
use crate::conn::template::{FTP, TemplateKey};
use crate::conn::{Entry, KeyHash, NewConnection, Shard, Side};
use crate::dests;
use crate::flow::Flow;
use crate::forward::nat;
use crate::fragments::Fate;
use crate::marks::Marked;
use crate::packet::{DropReason, Packet, PortId, Verdict};
use crate::proto::{self, Opening, tcp};
use crate::roles::{VIRTUAL, is_ftp_data};
use crate::route::Lookup;
use crate::service::{DestId, ForwardingMethod, Protocol, ServiceId, ServiceKey, VirtualService};
use crate::sync::decide::Last;
use crate::time::Instant;
use crate::wire::icmp::Answer;

/// How many entries of a full shard are looked at for one that is over: two lines each, one behind
/// the other in memory.
const LOOK: u32 = 16;

/// Where a new connection goes.
pub(super) struct Chosen {
    pub(super) new: NewConnection,
    /// Firewall mark of the service, 0 for none.
    pub(super) fwmark: u32,
}

/// Why a packet opens no connection.
pub(super) enum Refusal {
    /// IPVS is not interested: the host answers.
    Accept,
    /// The service has no usable destination.
    NoDestination,
    /// Refused.
    Drop(DropReason),
}

/// Whether both ends of a connection have closed it. Its entry is there for packets that are late.
fn is_over(entry: &Entry) -> bool {
    let closed = [tcp::State::TimeWait, tcp::State::Close];
    !entry.is_template()
        && entry.protocol() == TCP
        && closed.contains(&tcp::State::from_number(entry.state))
}

impl Worker {
    /// A packet from a client without a connection, for an endpoint that is a live service's.
    #[inline(never)]
    pub(super) fn admit(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
    ) -> Verdict {
        match self.open(now, packet, flow, hash) {
            Ok(verdict) => verdict,
            Err(Refusal::Accept) => {
                let class = self.core.class_of(flow, packet.frame(), false);
                self.core.punt_unclaimed(now, packet, class)
            }
            Err(Refusal::NoDestination) => {
                self.core
                    .answer(now, packet, flow, Answer::PortUnreachable, flow.dst)
            }
            Err(Refusal::Drop(reason)) => self.core.dropped(reason),
        }
    }

    #[inline(always)]
    fn open(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
    ) -> Result<Verdict, Refusal> {
        let (protocol, service) = self.core.service_for(flow, packet.port)?;
        // Counts what the service's engine refuses, too.
        if self.core.defences.drops_packet() {
            return Err(Refusal::Drop(DropReason::DropPacket));
        }
        let data = self.core.engine_data_of(service, flow, packet.frame())?;
        match self.connect(now, (service, protocol), flow, hash, data, false) {
            Ok(Ok((at, i, chosen))) => Ok(self.first_packet(now, packet, flow, at, i, &chosen)),
            Ok(Err(wait)) => Ok(wait),
            Err(Refusal::NoDestination) if self.core.bypasses(service, flow) => {
                let chosen = self.core.past(service, protocol, flow)?;
                self.open_past(now, packet, flow, hash, &chosen)
            }
            Err(why) => Err(why),
        }
    }

    /// Makes the connection of a client's packet: shard, number, and what was chosen. `Err`
    /// inside: the packet has to wait first. `data`: what the service's engine found in it; `is_quoted`:
    /// no packet came, but an error about its answer.
    #[inline(always)]
    fn connect(
        &mut self,
        now: Instant,
        (service, protocol): (ServiceId, Protocol),
        flow: &Flow,
        hash: KeyHash,
        data: Option<&[u8]>,
        is_quoted: bool,
    ) -> Result<Result<(usize, u32, Chosen), Verdict>, Refusal> {
        let full = Refusal::Drop(DropReason::TableFull);
        let key = self.core.template_key(service, flow, data);
        let found = key.and_then(|key| self.find_template(&key, data));
        let chosen = match &found {
            Some((_, dest)) => self.core.follow(service, protocol, flow, *dest),
            None => self.core.schedule(now, service, protocol, flow, is_quoted),
        }?;
        let new = &chosen.new;
        let template = match (found, key) {
            (Some((template, _)), _) => Some(template),
            (None, Some(key)) => Some(
                self.add_template(now.ticks(), service, &key, new, data)
                    .ok_or(full)?,
            ),
            (None, None) => None,
        };
        // One-packet connections are not kept: a packet that has to wait is scheduled again,
        // unless a template has the choice by now.
        if new.flags & flag::ONE_PACKET != 0
            && let Some(wait) = self.core.awaits_hop(now, new.dest_id)
        {
            return Ok(Err(wait));
        }
        let shard = usize::from(hash.shard);
        let full = Refusal::Drop(DropReason::TableFull);
        let i = self.insert(shard, |shard| shard.insert(new)).ok_or(full)?;
        if let Some(template) = template {
            self.put_under(now.ticks(), template, shard, i);
        }
        Ok(Ok((shard, i, chosen)))
    }

    /// A connection for the packet that an ICMP error quotes (`schedule_icmp`): `flow` is the
    /// client's packet that the quoted one would have answered; what has a mark or not is the
    /// error. No state machine runs for it.
    /// `Ok(None)`: nobody's; `Err`: the error is dropped.
    pub(super) fn connect_quoted(
        &mut self,
        now: Instant,
        input: PortId,
        flow: &Flow,
        error: &Flow,
    ) -> Result<Option<(usize, u32)>, DropReason> {
        let core = &self.core;
        let (client, other) = ends(flow, Side::Request);
        let (side, protocol) = (Side::Request, flow.protocol);
        let Meeting { hash, owner, .. } = core.meeting(&Way {
            side,
            protocol,
            client,
            other,
        });
        let found = Protocol::from_number(flow.protocol)
            .filter(|_| !core.is_martian(flow) && owner == core.share.me())
            .and_then(|protocol| {
                Some((protocol, core.find_service(protocol, flow, error, input)?))
            });
        let Some((protocol, service)) = found else {
            return Ok(None);
        };
        if !self.core.has_time_for_new() {
            return Err(DropReason::Overload);
        }
        if self.core.defences.drops_packet() {
            return Err(DropReason::DropPacket);
        }
        // An engine reads messages, not quotes of them.
        if self.core.engine_data_of(service, flow, &[]).is_err() {
            return Err(DropReason::NoCallId);
        }
        let (at, i, chosen) = match self.connect(now, (service, protocol), flow, hash, None, true) {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => return Err(DropReason::NoNeighbour),
            Err(Refusal::Accept) => return Ok(None),
            Err(Refusal::NoDestination) => return Err(DropReason::NoDestination),
            Err(Refusal::Drop(reason)) => return Err(reason),
        };
        self.count_in(at, i, &chosen);
        if let Some(shard) = self.shards.get_mut(at) {
            if let Some(entry) = shard.entry_mut(i) {
                entry.timeout = proto::INITIAL_TIMEOUT;
                entry.deadline = now.ticks().plus(entry.timeout).0;
            }
            shard.rearm(i, false);
        }
        Ok(Some((at, i)))
    }

    /// Counts a new connection and completes its entry.
    #[inline(always)]
    pub(super) fn count_in(&mut self, at: usize, i: u32, Chosen { new, fwmark }: &Chosen) {
        let core = &self.core;
        dests::bind(
            &core.dests,
            &core.counters,
            &core.changes,
            new.dest_id,
            true,
        );
        let place = self.shards.get_mut(at);
        if let Some(entry) = place.and_then(|shard| shard.entry_mut(i)) {
            if new.method == ForwardingMethod::Masquerade {
                (entry.delta_l3, entry.delta_l4) = nat::deltas(&new.virtual_, &new.dest);
            }
            entry.fwmark = *fwmark;
        }
    }

    /// Adds an entry. When there is no room a connection that is over makes some, or the oldest
    /// half-open one: clients of those may still be waiting for an answer.
    pub(super) fn insert(
        &mut self,
        shard: usize,
        add: impl Fn(&mut Shard) -> Option<u32>,
    ) -> Option<u32> {
        let place = self.shards.get_mut(shard)?;
        let added = add(place);
        if let Some(i) = added {
            self.core.counters.connections.add(1);
            if self.core.is_master() {
                self.told.put(shard, i, Last::default());
            }
            return added;
        }
        let given_up = place
            .next_quiet(LOOK, is_over)
            .or_else(|| place.oldest_half_open())?;
        self.core.counters.reclaimed.add(1);
        self.end(shard, given_up);
        let added = add(self.shards.get_mut(shard)?);
        if let Some(i) = added {
            self.core.counters.connections.add(1);
            self.told.put(shard, i, Last::default());
        }
        added
    }

    /// Counts a new connection and sends its first packet.
    #[inline(always)]
    pub(super) fn first_packet(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        at: usize,
        i: u32,
        chosen: &Chosen,
    ) -> Verdict {
        self.count_in(at, i, chosen);
        let (core, new) = (&mut self.core, &chosen.new);
        let Some(shard) = self.shards.get_mut(at) else {
            return core.dropped(DropReason::TableFull);
        };
        let Some(entry) = shard.entry_mut(i) else {
            return core.dropped(DropReason::TableFull);
        };
        if new.flags & flag::ONE_PACKET == 0
            && let Some(wait) = core.awaits(now, new.dest_id, flow)
        {
            // The choice is made: the packet finds the connection when it is tried again.
            entry.timeout = proto::INITIAL_TIMEOUT;
            entry.deadline = now.ticks().plus(entry.timeout).0;
            shard.rearm(i, false);
            return wait;
        }
        if let Some(c) = core.counters.dest(new.dest_id) {
            c.in_pkts.add(1);
            c.in_bytes.add(u64::from(flow.l3_len));
        }
        entry.in_pkts = 1;
        let half_open = core
            .advance(entry, Side::Request, flow, now.ticks())
            // A fresh entry is in no list yet, whatever its deadline.
            .unwrap_or(flow.protocol == 6 && entry.state == tcp::State::SynRecv as u8);
        if new.flags & flag::HELPER != 0 {
            shard.rearm(i, half_open);
            let verdict = self.helped_first(now, packet, flow, at, i);
            self.assure();
            return verdict;
        }
        let verdict = core.forward_request(now, packet, flow, entry);
        if new.flags & flag::ONE_PACKET != 0 {
            // Its template is told of.
            self.offered(now.ticks(), at, i, verdict);
            let core = &mut self.core;
            core.connected_once = Some(match new.method {
                ForwardingMethod::Bypass => Fate::Onwards,
                method => Fate::ToServer {
                    dest: new.dest_id,
                    method,
                    real: new.dest.addr,
                },
            });
            self.end(at, i);
        } else {
            shard.rearm(i, half_open);
            self.offered(now.ticks(), at, i, verdict);
        }
        self.assure();
        verdict
    }
}

impl Core {
    /// Sources that the kernel's input routing refuses: loopback, groups, nobody, ourselves.
    fn is_martian(&self, flow: &Flow) -> bool {
        let src = IpAddr::from(flow.src);
        let broadcast = matches!(src, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
        src.is_loopback()
            || src.is_multicast()
            || src.is_unspecified()
            || broadcast
            || matches!(self.router.lookup(flow.src, 0), Lookup::Local)
    }

    /// The service of a packet that may open a connection.
    fn service_for(
        &mut self,
        flow: &Flow,
        input: PortId,
    ) -> Result<(Protocol, ServiceId), Refusal> {
        let protocol = Protocol::from_number(flow.protocol).ok_or(Refusal::Accept)?;
        match proto::may_open(protocol, flow, &self.settings) {
            Opening::Allowed => {}
            Opening::Refused => return Err(Refusal::Accept),
            Opening::Short => return Err(Refusal::Drop(DropReason::ShortTransport)),
        }
        // First of all: what is refused for want of time must take little of it.
        if !self.has_time_for_new() {
            return Err(Refusal::Drop(DropReason::Overload));
        }
        if self.is_martian(flow) {
            return Err(Refusal::Drop(DropReason::MartianSource));
        }
        self.find_service(protocol, flow, flow, input)
            .map(|service| (protocol, service))
            .ok_or(Refusal::Accept)
    }

    /// In the kernel's order: the mark, the exact endpoint, FTP for its data, port 0
    /// (`ip_vs_service_find`). `arrived` is the packet that may have a mark.
    fn find_service(
        &self,
        protocol: Protocol,
        flow: &Flow,
        arrived: &Flow,
        input: PortId,
    ) -> Option<ServiceId> {
        if !self.marks.is_empty()
            && let Some(service) = self.marked_service(arrived, input)
        {
            return Some(service);
        }
        // A rule of marks may bring packets here to an address that is not ours.
        let roles = self
            .roles
            .of(flow.is_v4, flow.protocol, &flow.dst, flow.dst_port);
        if roles & VIRTUAL == 0 {
            return None;
        }
        let with = |port| {
            let key = ServiceKey::new(protocol, Endpoint::new(flow.dst, port));
            self.services.get(&key).copied()
        };
        let is_data = protocol == Protocol::Tcp && is_ftp_data(flow.dst_port);
        with(flow.dst_port)
            .or_else(|| is_data.then(|| with(FTP)).flatten())
            .or_else(|| with(0))
    }

    /// Under which key a client is kept by whose service this packet is, if that is persistent,
    /// and what the service's engine finds in the packet.
    pub(super) fn template_of<'f>(
        &self,
        input: PortId,
        flow: &Flow,
        frame: &'f [u8],
    ) -> Option<(TemplateKey, Option<&'f [u8]>)> {
        let protocol = Protocol::from_number(flow.protocol)?;
        let service = self.find_service(protocol, flow, flow, input)?;
        let data = self.engine_data_of(service, flow, frame).ok()?;
        Some((self.template_key(service, flow, data)?, data))
    }

    fn marked_service(&self, flow: &Flow, input: PortId) -> Option<ServiceId> {
        let mark = self.marks.classify(&Marked {
            src: flow.src,
            dst: flow.dst,
            src_port: flow.src_port,
            dst_port: flow.dst_port,
            protocol: flow.protocol,
            vlan: flow.vlan,
            input,
        });
        let family = flow.dst.family();
        let key = ServiceKey::Mark { family, mark };
        (mark != 0)
            .then(|| self.services.get(&key).copied())
            .flatten()
    }

    /// Asks the scheduler (`ip_vs_schedule`).
    fn schedule(
        &mut self,
        now: Instant,
        service: ServiceId,
        protocol: Protocol,
        flow: &Flow,
        is_quoted: bool,
    ) -> Result<Chosen, Refusal> {
        let Some(Some(running)) = self.running.get(service.0 as usize) else {
            return Err(Refusal::Accept);
        };
        let (key, options) = (running.service.key, running.service.options);
        let has_own_port = key.mark() != 0 || key.port() == flow.dst_port;
        // Other ports than its own are for persistent services.
        let at = (has_own_port || options.persistence.is_some())
            .then(|| self.pick(now, service, flow, is_quoted))
            .flatten();
        let Some(Some(Running { service, .. })) = self.running.get(service.0 as usize) else {
            return Err(Refusal::Accept);
        };
        let Some(dest) = at.and_then(|i| service.destinations.get(i)) else {
            // Whatever asks for a data port may be no FTP at all.
            let is_ftp = key.port() == FTP && flow.dst_port != FTP;
            return Err(if is_ftp {
                Refusal::Accept
            } else {
                Refusal::NoDestination
            });
        };
        // A persistent client keeps all its ports but the service's own.
        let moves = options.persistence.is_none() || key.port() == flow.dst_port;
        let port = match dest.endpoint.port {
            port @ 1.. if moves => port,
            _ => flow.dst_port,
        };
        let to = Endpoint::new(dest.endpoint.addr, port);
        Ok(chosen(service, protocol, flow, (dest.id, dest.method, to)))
    }

    /// Goes where a template leads: neither the scheduler nor the weight nor a threshold is asked
    /// (`ip_vs_sched_persist`).
    fn follow(
        &self,
        service: ServiceId,
        protocol: Protocol,
        flow: &Flow,
        dest: DestId,
    ) -> Result<Chosen, Refusal> {
        let (Some(Some(running)), Some(state)) = (
            self.running.get(service.0 as usize),
            self.dests.get(dest.0 as usize),
        ) else {
            return Err(Refusal::Accept);
        };
        let port = match state.port {
            port @ 1.. if running.service.key.port() == flow.dst_port => port,
            _ => flow.dst_port,
        };
        let to = Endpoint::new(state.addr, port);
        Ok(chosen(
            &running.service,
            protocol,
            flow,
            (dest, state.method, to),
        ))
    }
}

fn chosen(
    service: &VirtualService,
    protocol: Protocol,
    flow: &Flow,
    (dest_id, method, dest): (DestId, ForwardingMethod, Endpoint),
) -> Chosen {
    let one_packet = service.options.one_packet && protocol == Protocol::Udp;
    let once = if one_packet { flag::ONE_PACKET } else { 0 };
    let no_output = match method {
        ForwardingMethod::Masquerade => 0,
        _ => flag::NOOUTPUT,
    };
    let virtual_ = Endpoint::new(flow.dst, flow.dst_port);
    let helper = ftp::flags(protocol, &virtual_, method);
    Chosen {
        new: NewConnection {
            protocol,
            client: Endpoint::new(flow.src, flow.src_port),
            virtual_,
            dest,
            dest_id,
            method,
            flags: flag::INACTIVE | no_output | once | helper,
        },
        fwmark: service.key.mark(),
    }
}
