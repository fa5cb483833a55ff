//! The backup of connection synchronisation: connections and templates that a master told of
//! (`ip_vs_proc_conn`).
//!
//! Where they lead is looked up among the services here: a connection takes method and counting
//! from the real server of its own balancer. One whose service or server is unknown is kept all
//! the same and forwarded as it was told, until the server comes.

use super::announce::announcement;
use super::steer::Way;
use super::{Core, Worker, collect, ftp, timeouts};
use crate::addr::Endpoint;
use crate::conn::entry::flag;
use crate::conn::template::{FTP, TemplateKey};
use crate::conn::{Entry, KeyHash, NIL, NewConnection, NewTemplate, Side};
use crate::dests;
use crate::flow::Flow;
use crate::forward::nat;
use crate::packet::{DropReason, Packet, Verdict};
use crate::proto::tcp;
use crate::roles::is_ftp_data;
use crate::route::Unresolved;
use crate::service::{DestId, ForwardingMethod, Protocol, ServiceKey};
use crate::sync::decide::Last;
use crate::sync::{self, Age, Batch, SyncEntry};
use crate::time::{Instant, Ticks, secs};

/// Timeout of a template that was told without one, ticks.
const TEMPLATE_TIMEOUT: u32 = secs(180);

/// Longest timeout, seconds: what `ipvsadm` lets set.
const MAX_TIMEOUT: u32 = 2_678_400;

/// Ticks that an announcement is under way at most, about.
const DELAY: u32 = secs(3);

/// The real server of a connection, and its method; unknown: [`DestId::NONE`] and the method told.
#[derive(Clone, Copy)]
struct Server {
    id: DestId,
    method: ForwardingMethod,
}

impl Worker {
    /// Takes over what is this worker's of a batch.
    pub(super) fn take_synced(&mut self, now: Instant, batch: &Batch) {
        for row in batch.rows.iter().take(sync::BATCH) {
            let (entry, now) = (&row.entry, now.ticks());
            let idle = match row.age {
                Age::Announced => None,
                // It has ended meanwhile.
                Age::Copied(idle) if idle >= secs(entry.timeout.clamp(1, MAX_TIMEOUT)) => continue,
                Age::Copied(idle) => Some(idle),
            };
            if entry.is_template() {
                self.take_template(now, entry, batch.data_of(row), idle);
            } else {
                self.take_connection(now, entry, idle);
            }
        }
    }

    /// `idle`: of a copy, ticks since its last packet.
    fn take_connection(&mut self, now: Ticks, told: &SyncEntry, idle: Option<u32>) {
        let Some(protocol) = Protocol::from_number(told.protocol) else {
            return;
        };
        let Some(hash) = self
            .core
            .own_place(told.protocol, told.client, told.virtual_)
        else {
            return;
        };
        self.core.counters.synced.add(1);
        let at = usize::from(hash.shard);
        let (c, v) = (&told.client, &told.virtual_);
        let known = (self.shard(hash)).lookup(hash, Side::Request, told.protocol, c, v);
        let known = known.and_then(|i| Some((i, self.shard(hash).entry(i)?)));
        if let Some((i, entry)) = known {
            if is_newer(entry, now, told, idle) {
                return;
            }
            if entry.dest() == told.dest {
                let is_unbound = is_unbound(entry.dest_id(), entry.method());
                if !is_unbound || self.core.server_of(told).id == DestId::NONE {
                    return self.refresh(now, at, i, told, idle);
                }
            } else if told.flags & sync::flag::INACTIVE != 0 {
                // The end of a connection that another one has replaced.
                return;
            }
            self.end(at, i);
        }
        let server = self.core.server_of(told);
        self.add_synced(now, hash, protocol, (told, idle), server);
    }

    /// Makes the connection. `None`: there is no room.
    fn add_synced(
        &mut self,
        now: Ticks,
        hash: KeyHash,
        protocol: Protocol,
        (told, idle): (&SyncEntry, Option<u32>),
        server: Server,
    ) -> Option<u32> {
        let inactive = told.flags & sync::flag::INACTIVE != 0;
        let no_port = told.flags & sync::flag::NO_CPORT != 0;
        let no_output = match server.id {
            DestId::NONE => told.flags & sync::flag::NOOUTPUT != 0,
            _ => server.method != ForwardingMethod::Masquerade,
        };
        let mut flags = flag::SYNCED | ftp::flags(protocol, &told.virtual_, server.method);
        for (is_set, bit) in [
            (inactive, flag::INACTIVE),
            (no_port, flag::NO_CPORT),
            (no_output, flag::NOOUTPUT),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        let new = NewConnection {
            protocol,
            client: told.client,
            virtual_: told.virtual_,
            dest: told.dest,
            dest_id: server.id,
            method: server.method,
            flags,
        };
        let at = usize::from(hash.shard);
        let Some(i) = self.insert(at, |shard| shard.insert(&new)) else {
            self.core.counters.sync_refused.add(1);
            return None;
        };
        let core = &mut self.core;
        core.ports_unknown += u32::from(no_port);
        dests::bind(&core.dests, &core.counters, &core.changes, server.id, false);
        if !inactive {
            dests::turn(&core.counters, &core.changes, server.id, true);
        }
        let entry = self.shards.get_mut(at)?.entry_mut(i)?;
        if server.method == ForwardingMethod::Masquerade {
            (entry.delta_l3, entry.delta_l4) = nat::deltas(&told.virtual_, &told.dest);
        }
        entry.fwmark = told.fwmark;
        self.set_synced(now, at, i, told, idle);
        Some(i)
    }

    /// A connection that is known was told of again.
    fn refresh(&mut self, now: Ticks, at: usize, i: u32, told: &SyncEntry, idle: Option<u32>) {
        let core = &self.core;
        let Some(entry) = self.shards.get_mut(at).and_then(|shard| shard.entry_mut(i)) else {
            return;
        };
        let inactive = told.flags & sync::flag::INACTIVE != 0;
        if inactive != (entry.flags & flag::INACTIVE != 0) {
            entry.flags ^= flag::INACTIVE;
            dests::turn(&core.counters, &core.changes, entry.dest_id(), !inactive);
        }
        self.set_synced(now, at, i, told, idle);
    }

    /// State, timeout and sequence numbers as told; its time begins anew, or began with the last
    /// packet of a copy.
    fn set_synced(&mut self, now: Ticks, at: usize, i: u32, told: &SyncEntry, idle: Option<u32>) {
        let core = &self.core;
        let Some(shard) = self.shards.get_mut(at) else {
            return;
        };
        let Some(entry) = shard.entry_mut(i) else {
            return;
        };
        let state = told.state as u8;
        let protocol = Protocol::from_number(told.protocol);
        let timeout = match (told.timeout, protocol) {
            (1.., _) => secs(told.timeout.min(MAX_TIMEOUT)),
            (0, Some(protocol)) if !told.is_template() => {
                core.timeout(entry.dest_id(), timeouts::row_of(protocol), state)
            }
            _ => TEMPLATE_TIMEOUT,
        };
        if let Some(sequence) = &told.sequence
            && told.flags & sync::flag::OUT_SEQ != 0
        {
            // Nothing is rewritten in streams over IPv6.
            let _ = entry.set_adjustment(&sequence.server);
        }
        entry.in_pkts = core.settings.sync.threshold;
        entry.state = state;
        entry.timeout = timeout;
        entry.deadline = now.plus(timeout.saturating_sub(idle.unwrap_or(0))).0;
        let half_open = protocol == Some(Protocol::Tcp)
            && !told.is_template()
            && state == tcp::State::SynRecv as u8;
        shard.rearm(i, half_open);
        self.told.put(at, i, Last::received(state));
    }

    fn take_template(
        &mut self,
        now: Ticks,
        told: &SyncEntry,
        data: Option<&[u8]>,
        idle: Option<u32>,
    ) {
        // The mark in the place of its address is no endpoint; its servers are.
        let (protocol, other) = match told.protocol {
            0 => (Protocol::Tcp.number(), told.dest),
            protocol => (protocol, told.virtual_),
        };
        if self.core.own_place(protocol, told.client, other).is_none() {
            return;
        }
        self.core.counters.synced.add(1);
        let key = TemplateKey {
            protocol: told.protocol,
            client: told.client.addr,
            virtual_: told.virtual_,
            keeps_port: told.dest.port != 0,
            tag: 0,
        };
        let key = match data {
            Some(data) => key.with_data(&self.core.key, data),
            None => key,
        };
        let hash = self.core.place(key.hash(&self.core.key));
        let at = usize::from(hash.shard);
        let kept = &self.core.engine_data;
        let known = key.find(self.shard(hash), hash, |entry| {
            entry.engine_data().map(|at| kept.get(at)) == data
        });
        let bound = |i: u32| {
            let entry = self.shard(hash).entry(i);
            entry.is_some_and(|e| e.dest_id() != DestId::NONE)
        };
        let server = self.core.server_of(told);
        if let Some(i) = known {
            let entry = self.shard(hash).entry(i);
            if entry.is_some_and(|entry| is_newer(entry, now, told, idle)) {
                return;
            }
            if bound(i) || server.id == DestId::NONE {
                return self.set_synced(now, at, i, told, idle);
            }
            self.end(at, i);
        }
        if self
            .add_template_synced(now, hash, &key, (told, idle), server, data)
            .is_none()
        {
            self.core.counters.sync_refused.add(1);
        }
    }

    fn add_template_synced(
        &mut self,
        now: Ticks,
        hash: KeyHash,
        key: &TemplateKey,
        (told, idle): (&SyncEntry, Option<u32>),
        server: Server,
        data: Option<&[u8]>,
    ) -> Option<()> {
        let kept = match data {
            Some(data) => self.core.engine_data.put(data)?,
            None => NIL,
        };
        let new = NewTemplate {
            protocol: key.protocol,
            client: key.client,
            tag: key.tag,
            virtual_: key.virtual_,
            dest: told.dest,
            dest_id: server.id,
            method: server.method,
            fwmark: told.fwmark,
        };
        let at = usize::from(hash.shard);
        let Some(i) = self.insert(at, |shard| shard.insert_template(&new)) else {
            self.core.engine_data.free(kept);
            return None;
        };
        if let Some(counters) = self.core.counters.dest(server.id) {
            dests::bind_template(counters);
        }
        let entry = self.shards.get_mut(at)?.entry_mut(i)?;
        entry.extension = kept;
        entry.flags |= flag::SYNCED;
        self.set_synced(now, at, i, told, idle);
        Some(())
    }

    /// A client's packet of a connection whose server was unknown when it was told of. Now it may
    /// be known; otherwise the packet goes where it was told to go.
    #[cold]
    pub(super) fn unbound(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        i: u32,
    ) -> Verdict {
        if let Some(i) = self.bind_now(now.ticks(), hash, i) {
            return self.request(now, packet, flow, hash, i);
        }
        let Some(shard) = self.shards.get_mut(usize::from(hash.shard)) else {
            return self.core.dropped(DropReason::TableFull);
        };
        let core = &mut self.core;
        if let Some(entry) = shard.entry(i)
            && let Err(Unresolved::NoNeighbour { link, addr }) = core.hop_to(entry.dest().addr)
            && core.may_wait(now, link, addr)
        {
            return core.wait_for(link, addr);
        }
        let verdict = core.pass_request(now, shard, i, packet, flow);
        self.offered(now.ticks(), usize::from(hash.shard), i, verdict)
    }

    /// Makes a connection anew with its real server, if that is known by now.
    fn bind_now(&mut self, now: Ticks, hash: KeyHash, i: u32) -> Option<u32> {
        let at = usize::from(hash.shard);
        let entry = self.shards.get(at)?.entry(i)?;
        let (protocol, packets) = (Protocol::from_number(entry.protocol())?, entry.in_pkts);
        let told = announcement(entry)?;
        let server = self.core.server_of(&told);
        if server.id == DestId::NONE {
            return None;
        }
        self.end(at, i);
        let i = self.add_synced(now, hash, protocol, (&told, None), server)?;
        self.shards.get_mut(at)?.entry_mut(i)?.in_pkts = packets;
        Some(i)
    }
}

/// Whether an entry had a packet after the last one of a copy, or at the same time: one that came
/// meanwhile, or that was recovered from the table of the run before. An announcement is newer
/// than anything.
///
/// The time of an entry that was announced began when the announcement came, a moment after the
/// packet. Of two that are so close the end of a connection counts.
fn is_newer(entry: &Entry, now: Ticks, told: &SyncEntry, idle: Option<u32>) -> bool {
    let Some(copied) = idle else { return false };
    let known = collect::idle(entry, now);
    let is_end = told.flags & sync::flag::INACTIVE != 0 && entry.flags & flag::INACTIVE == 0;
    let is_close = entry.flags & flag::SYNCED != 0 && copied < known + DELAY;
    known <= copied && !(is_end && is_close && !told.is_template())
}

/// Whether a connection was told of and waits for its server.
pub(super) fn is_unbound(id: DestId, method: ForwardingMethod) -> bool {
    id == DestId::NONE && method != ForwardingMethod::Bypass
}

impl Core {
    /// Where the connection of a client lies, if this worker gets its packets.
    fn own_place(&self, protocol: u8, client: Endpoint, other: Endpoint) -> Option<KeyHash> {
        let meeting = self.meeting(&Way {
            side: Side::Request,
            protocol,
            client,
            other,
        });
        (meeting.owner == self.share.me()).then_some(meeting.hash)
    }

    /// The real server of what was told (`ip_vs_find_dest`).
    fn server_of(&self, told: &SyncEntry) -> Server {
        let method = ForwardingMethod::from_number((told.flags & sync::flag::METHOD) as u8);
        self.find_server(told, method).unwrap_or(Server {
            id: DestId::NONE,
            method,
        })
    }

    fn find_server(&self, told: &SyncEntry, method: ForwardingMethod) -> Option<Server> {
        let mark = ServiceKey::Mark {
            family: told.virtual_.addr.family(),
            mark: told.fwmark,
        };
        let marked = (told.fwmark != 0).then(|| self.services.get(&mark));
        let service = match marked.flatten() {
            Some(id) => *id,
            None => {
                let protocol = Protocol::from_number(told.protocol)?;
                let Endpoint { addr, port } = told.virtual_;
                let with = |port| {
                    let key = ServiceKey::new(protocol, Endpoint::new(addr, port));
                    self.services.get(&key).copied()
                };
                let is_data = protocol == Protocol::Tcp && is_ftp_data(port);
                with(port)
                    .or_else(|| is_data.then(|| with(FTP)).flatten())
                    .or_else(|| with(0))?
            }
        };
        let service = &self.running.get(service.0 as usize)?.as_ref()?.service;
        let port = match method {
            ForwardingMethod::Masquerade => told.dest.port,
            _ if told.fwmark != 0 => 0,
            _ => told.dest.port,
        };
        let with = |port| {
            let wanted = Endpoint::new(told.dest.addr, port);
            service.destinations.at(&wanted)
        };
        let dest = with(port).or_else(|| with(port ^ told.dest.port))?;
        Some(Server {
            id: dest.id,
            method: dest.method,
        })
    }
}
