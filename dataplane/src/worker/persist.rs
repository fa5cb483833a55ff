//! Persistence: clients of one network stay with one real server (`ip_vs_sched_persist`).
//!
//! The service's first connection of a client leaves a template; later ones go where it leads.
//! Packets of a connection do not touch the template, only new connections do.

use super::{Core, Worker};
use crate::addr::Endpoint;
use crate::conn::entry::flag;
use crate::conn::template::{ASSURED, TemplateKey};
use crate::conn::{Controller, Entry, NIL, NewConnection, NewTemplate};
use crate::dests;
use crate::flow::Flow;
use crate::service::{DestId, ServiceId};
use crate::time::{Ticks, secs};

impl Worker {
    /// The template of a client with its real server, if it still leads somewhere. One that does
    /// not is never found again; its connections go on (`ip_vs_check_template`).
    pub(super) fn find_template(
        &mut self,
        key: &TemplateKey,
        data: Option<&[u8]>,
    ) -> Option<(Controller, DestId)> {
        let hash = self.core.place(key.hash(&self.core.key));
        let shard = self.shards.get_mut(usize::from(hash.shard))?;
        let kept = &self.core.engine_data;
        let i = key.find(shard, hash, |entry| {
            entry.engine_data().map(|at| kept.get(at)) == data
        })?;
        let dest = shard.entry(i)?.dest_id();
        if !self.core.leads_on(dest) {
            shard.disable_template(i);
            return None;
        }
        Some((Controller::new(hash.shard, i)?, dest))
    }

    /// Leaves a template for the client of a new connection.
    pub(super) fn add_template(
        &mut self,
        now: Ticks,
        service: ServiceId,
        key: &TemplateKey,
        connection: &NewConnection,
        data: Option<&[u8]>,
    ) -> Option<Controller> {
        let running = self.core.running.get(service.0 as usize)?.as_ref()?;
        let timeout = secs(running.service.options.persistence?.timeout);
        let fwmark = running.service.key.mark();
        let state = self.core.dests.get(connection.dest_id.0 as usize)?;
        let port = if key.keeps_port { state.port } else { 0 };
        let new = NewTemplate {
            protocol: key.protocol,
            client: key.client,
            tag: key.tag,
            virtual_: key.virtual_,
            dest: Endpoint::new(state.addr, port),
            dest_id: connection.dest_id,
            method: connection.method,
            fwmark,
        };
        let hash = self.core.place(key.hash(&self.core.key));
        let at = usize::from(hash.shard);
        let kept = match data {
            Some(data) => self.core.engine_data.put(data)?,
            None => NIL,
        };
        let Some(i) = self.insert(at, |shard| shard.insert_template(&new)) else {
            self.core.engine_data.free(kept);
            return None;
        };
        if let Some(counters) = self.core.counters.dest(new.dest_id) {
            dests::bind_template(counters);
        }
        let shard = self.shards.get_mut(at)?;
        let entry = shard.entry_mut(i)?;
        entry.extension = kept;
        entry.timeout = timeout;
        entry.deadline = now.plus(timeout).0;
        shard.rearm(i, false);
        Controller::new(hash.shard, i)
    }

    /// Puts a new connection under its template, whose time starts anew. That is its own by now,
    /// not the service's.
    pub(super) fn put_under(&mut self, now: Ticks, template: Controller, shard: usize, i: u32) {
        if let Some(above) = self.template(template) {
            above.add_controls(1);
            above.deadline = now.plus(above.timeout).0;
            if let Some(entry) = self.shards.get_mut(shard).and_then(|s| s.entry_mut(i)) {
                entry.set_controller(Some(template));
            }
        }
    }

    /// A connection under this template, or FTP control connection, has ended.
    #[cold]
    pub(super) fn release(&mut self, controller: Controller) {
        if let Some(entry) = self.controlling(controller)
            && (entry.is_template() || entry.flags & flag::HELPER != 0)
        {
            entry.add_controls(-1);
        }
    }

    /// Notes it if the packet at hand has shown that a template's real server answers
    /// (`ip_vs_control_assure_ct`).
    #[inline(always)]
    pub(super) fn assure(&mut self) {
        if let Some(template) = self.core.assured.take()
            && let Some(entry) = self.template(template)
        {
            entry.state |= ASSURED;
        }
    }

    fn template(&mut self, at: Controller) -> Option<&mut Entry> {
        self.controlling(at).filter(|entry| entry.is_template())
    }

    pub(super) fn controlling(&mut self, at: Controller) -> Option<&mut Entry> {
        let entry = self.shards.get_mut(at.shard())?.entry_mut(at.entry())?;
        entry.is_valid().then_some(entry)
    }
}

impl Core {
    /// Under which key the client of this packet is kept, if the service is persistent. `data`:
    /// what its engine found.
    pub(super) fn template_key(
        &self,
        service: ServiceId,
        flow: &Flow,
        data: Option<&[u8]>,
    ) -> Option<TemplateKey> {
        let service = &self.running.get(service.0 as usize)?.as_ref()?.service;
        let persistence = service.options.persistence.as_ref()?;
        let virtual_ = Endpoint::new(flow.dst, flow.dst_port);
        let (key, protocol) = (&service.key, flow.protocol);
        let key = TemplateKey::of(key, persistence, protocol, flow.src, virtual_);
        Some(match data {
            Some(data) => key.with_data(&self.key, data),
            None => key,
        })
    }

    /// Whether a template's real server takes its clients. Weight 0 does not mind unless it was
    /// asked for, and thresholds never do; a server that is out of service takes nobody.
    fn leads_on(&self, dest: DestId) -> bool {
        self.dests.get(dest.0 as usize).is_some_and(|state| {
            let is_quiet = self.settings.expire_quiescent_template && state.weight == 0;
            state.steady && !is_quiet
        })
    }
}
