//! The persistence engine `sip`: a client's template is kept by the Call-ID of its messages
//! (`ip_vs_pe_sip.c`). One that sends others has other templates, and so other servers.

use super::admit::{Chosen, Refusal};
use super::steer::{Meeting, Way};
use super::{Core, Worker};
use crate::addr::Endpoint;
use crate::conn::entry::flag;
use crate::conn::template::TemplateKey;
use crate::conn::{Controller, NewConnection, Side};
use crate::flow::Flow;
use crate::fragments::Fate;
use crate::helper::sip;
use crate::packet::{DropReason, Packet, Verdict};
use crate::proto;
use crate::route::Unresolved;
use crate::service::{DestId, Engine, ForwardingMethod, Persistence, Protocol, ServiceId};
use crate::time::Instant;
use crate::wire::udp;

/// The Call-ID of a UDP packet.
fn call_id<'f>(flow: &Flow, frame: &'f [u8]) -> Option<&'f [u8]> {
    if flow.protocol != Protocol::Udp.number() {
        return None;
    }
    let start = usize::from(flow.l4);
    let end = start + usize::from(flow.l4_len);
    let message = frame.get(start + udp::HEADER_LEN..end.min(frame.len()))?;
    sip::call_id(message)
}

/// Where a packet of a real server that has no connection belongs.
struct Outbound {
    service: ServiceId,
    dest: DestId,
    virtual_: Endpoint,
    one_packet: bool,
    key: TemplateKey,
}

impl Worker {
    /// A packet of a NAT server of a service with an engine, and of no connection: the server
    /// begins a dialog, or answers a one-packet client. It gets a connection as its client would
    /// have, and is a reply of that (`ip_vs_new_conn_out`). `None`: it is none of these.
    #[cold]
    pub(super) fn open_outbound(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Option<Verdict> {
        let call_id = call_id(flow, packet.frame())?;
        let out = self.core.outbound(flow, call_id)?;
        let client = Endpoint::new(flow.dst, flow.dst_port);
        let (c, v) = (&client, &out.virtual_);
        let protocol = Protocol::Udp.number();
        let Meeting { hash, .. } = self.core.meeting(&Way {
            side: Side::Request,
            protocol,
            client,
            other: out.virtual_,
        });
        // One-packet connections are not kept: without a next hop it comes here again.
        if out.one_packet
            && let Err(Unresolved::NoNeighbour { link, addr }) = self.core.hop_to(flow.dst)
        {
            return Some(self.core.wait_for(link, addr));
        }
        let once = if out.one_packet { flag::ONE_PACKET } else { 0 };
        let new = NewConnection {
            protocol: Protocol::Udp,
            client,
            virtual_: out.virtual_,
            dest: Endpoint::new(flow.src, flow.src_port),
            dest_id: out.dest,
            method: ForwardingMethod::Masquerade,
            flags: flag::INACTIVE | once,
        };
        let Some(template) = self.outbound_template(now, &out, &new, call_id) else {
            return Some(self.core.dropped(DropReason::TableFull));
        };
        let at = usize::from(hash.shard);
        // One to another server goes on with that server's packets; those of the client go by the
        // newer one, which comes first in the kernel's chains.
        if !out.one_packet
            && let Some(older) = (self.shard(hash)).lookup(hash, Side::Request, protocol, c, v)
            && let Some(shard) = self.shards.get_mut(at)
        {
            shard.leave_requests(older);
        }
        let Some(i) = self.insert(at, |shard| shard.insert(&new)) else {
            return Some(self.core.dropped(DropReason::TableFull));
        };
        self.put_under(now.ticks(), template, at, i);
        let virtual_ = new.virtual_.addr;
        self.count_in(at, i, &Chosen { new, fwmark: 0 });
        let shard = self.shards.get_mut(at)?;
        if let Some(entry) = shard.entry_mut(i) {
            entry.timeout = proto::INITIAL_TIMEOUT;
            entry.deadline = now.ticks().plus(entry.timeout).0;
        }
        shard.rearm(i, false);
        let verdict = self.core.reply(now, shard, i, packet, flow);
        if out.one_packet {
            let dest = out.dest;
            self.core.connected_once = Some(Fate::ToClient { dest, virtual_ });
            self.end(at, i);
        }
        self.assure();
        Some(verdict)
    }

    /// Whether a real server's packet of no connection begins one, and then whether the template
    /// that it goes by is here.
    pub(super) fn outbound(&mut self, packet: &Packet<'_>, flow: &Flow) -> Option<bool> {
        if !self.core.may_be_outbound(flow) {
            return None;
        }
        let call_id = call_id(flow, packet.frame())?;
        let out = self.core.outbound(flow, call_id)?;
        Some(self.find_template(&out.key, Some(call_id)).is_some())
    }

    /// The template of an outbound connection; one that leads elsewhere is given up.
    fn outbound_template(
        &mut self,
        now: Instant,
        out: &Outbound,
        new: &NewConnection,
        call_id: &[u8],
    ) -> Option<Controller> {
        match self.find_template(&out.key, Some(call_id)) {
            Some((template, dest)) if dest == out.dest => return Some(template),
            Some((template, _)) => {
                let shard = self.shards.get_mut(template.shard())?;
                shard.disable_template(template.entry());
            }
            None => {}
        }
        self.add_template(now.ticks(), out.service, &out.key, new, Some(call_id))
    }
}

impl Core {
    /// What a service's engine finds in a packet, if it has one.
    ///
    /// # Errors
    /// Nothing: the packet is dropped (`ip_vs_sched_persist`).
    pub(super) fn engine_data_of<'f>(
        &self,
        service: ServiceId,
        flow: &Flow,
        frame: &'f [u8],
    ) -> Result<Option<&'f [u8]>, Refusal> {
        match self.persistence(service).and_then(|p| p.engine) {
            None => Ok(None),
            Some(Engine::Sip) => match call_id(flow, frame) {
                Some(found) => Ok(Some(found)),
                None => Err(Refusal::Drop(DropReason::NoCallId)),
            },
        }
    }

    fn persistence(&self, service: ServiceId) -> Option<&Persistence> {
        let running = self.running.get(service.0 as usize)?.as_ref()?;
        running.service.options.persistence.as_ref()
    }

    /// Notes whether a service has an engine that looks at what servers send.
    pub(super) fn note_engine(&mut self, id: ServiceId) {
        let has = self.persistence(id).is_some_and(|p| p.engine.is_some());
        self.with_engine.retain(|other| *other != id);
        if has {
            // There is room for all services.
            self.with_engine.push(id);
        }
    }

    /// Whether an engine looks at what a server sent that belongs to no connection.
    pub(super) fn may_be_outbound(&self, flow: &Flow) -> bool {
        flow.protocol == Protocol::Udp.number() && !self.with_engine.is_empty()
    }

    /// The service with an engine that has the sender as its real server. Services of marks have
    /// no address that the packet could be given.
    fn outbound(&self, flow: &Flow, call_id: &[u8]) -> Option<Outbound> {
        let from = Endpoint::new(flow.src, flow.src_port);
        self.with_engine.iter().find_map(|&id| {
            let service = &self.running.get(id.0 as usize)?.as_ref()?.service;
            let virtual_ = service.key.endpoint().filter(|e| e.port != 0)?;
            if service.key.protocol() != Some(Protocol::Udp) || from.port == 0 {
                return None;
            }
            let dest = service
                .destinations
                .at(&from)
                .filter(|dest| dest.method == ForwardingMethod::Masquerade)?;
            let options = &service.options;
            let persistence = options.persistence.as_ref()?;
            let protocol = Protocol::Udp.number();
            let key = TemplateKey::of(&service.key, persistence, protocol, flow.dst, virtual_);
            Some(Outbound {
                service: id,
                dest: dest.id,
                virtual_,
                one_packet: options.one_packet,
                key: key.with_data(&self.key, call_id),
            })
        })
    }
}
