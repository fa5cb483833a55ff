//! The desired state as listed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::{
    MarkMatch, Origin, ServerKey, ServerSpec, ServerView, ServiceKey, ServiceSpec, ServiceView,
};
use crate::config::{Running, RunningMark, RunningServer, RunningService, describe_service};

use super::build::core_protocol;
use super::change::no_service;
use super::{Counters, Model, Refusal, Server, Service};

impl Model {
    /// A real server of the other address family than its service, if there is one.
    pub fn mixed_server(&self) -> Option<(ServiceKey, ServerKey)> {
        self.services.values().find_map(|service| {
            let is_ipv6 = service.key.is_ipv6();
            let mut servers = service.servers.iter();
            let mixed = servers.find(|s| s.key.addr.is_ipv6() != is_ipv6)?;
            Some((service.key, mixed.key))
        })
    }

    /// Numbers of services and of their real servers.
    pub fn counts(&self) -> (u64, u64) {
        let servers: usize = self.services.values().map(|s| s.real().count()).sum();
        (self.services.len() as u64, servers as u64)
    }

    /// Addresses of real servers that there were none of at the last call (true), and of which
    /// there are none any more (false). Their neighbours are to be kept warm.
    pub fn take_address_changes(&mut self) -> Vec<(IpAddr, bool)> {
        let touched = std::mem::take(&mut self.addresses_touched);
        let is_there = |addr| (addr, self.addresses.contains_key(&addr));
        touched.into_iter().map(is_there).collect()
    }

    pub(super) fn enter_address(&mut self, addr: IpAddr) {
        let n = self.addresses.entry(addr).or_default();
        *n += 1;
        if *n == 1 {
            self.addresses_touched.insert(addr);
        }
    }

    pub(super) fn leave_address(&mut self, addr: IpAddr) {
        if let Some(n) = self.addresses.get_mut(&addr) {
            *n -= 1;
            if *n == 0 {
                self.addresses.remove(&addr);
                self.addresses_touched.insert(addr);
            }
        }
    }

    /// A line for each service whose address no port of this host holds.
    pub fn dead_services(&self) -> Vec<String> {
        let dead = self.services.keys().filter(|key| !self.is_live(**key));
        dead.map(|key| dead_service(*key)).collect()
    }

    /// What runs, for a comparison with the file.
    pub fn running(&self) -> Running {
        let services = self.services.values().map(|service| {
            let servers = service.real().rev().map(running_server);
            let running = RunningService {
                spec: service.spec.clone(),
                origin: service.origin,
                servers: servers.collect(),
            };
            (service.key, running)
        });
        Running {
            settings: self.settings,
            marks: self.marks.clone(),
            services: services.collect(),
        }
    }

    /// Of what runs, a service without its servers: attributes and origin.
    pub fn running_service(&self, key: ServiceKey) -> Option<(ServiceSpec, Origin)> {
        let service = self.services.get(&key)?;
        Some((service.spec.clone(), service.origin))
    }

    /// Of what runs, a server.
    pub fn running_server(&self, service: ServiceKey, key: ServerKey) -> Option<RunningServer> {
        let mut servers = self.services.get(&service)?.real();
        servers.find(|s| s.key == key).map(running_server)
    }

    /// Of what runs, the rules that mark packets.
    pub fn running_marks(&self) -> &BTreeMap<MarkMatch, RunningMark> {
        &self.marks
    }

    /// Which services are listed, in the kernel's order: by hash bucket, newest first inside one.
    ///
    /// # Errors
    /// `NoService` for a named one.
    pub fn list(&self, key: Option<ServiceKey>) -> Result<Vec<ServiceKey>, Refusal> {
        let mut found: Vec<&Service> = match key {
            Some(key) => vec![self.services.get(&key).ok_or_else(|| no_service(key))?],
            None => self.services.values().collect(),
        };
        found.sort_by_key(|s| (bucket(s.key), std::cmp::Reverse(s.age)));
        Ok(found.into_iter().map(|service| service.key).collect())
    }

    /// A service as listed, if there is one. Servers that its pool has removed are not there, and
    /// a sorry server is.
    pub fn view(&self, key: ServiceKey, counters: Counters<'_>) -> Option<ServiceView> {
        let service = self.services.get(&key)?;
        Some(ServiceView {
            key: service.key,
            spec: service.spec.clone(),
            live: self.is_live(service.key),
            origin: service.origin,
            stats: service.estimator.totals(),
            rates: service.estimator.rates(),
            servers: service
                .servers
                .iter()
                .filter(|s| s.weights.is_there())
                .map(|s| server_view(s, counters))
                .collect(),
        })
    }
}

/// Active connections, all connections, templates.
pub(super) fn load(server: &Server, counters: Counters<'_>) -> (u32, u32, u32) {
    let gauges = counters.iter().filter_map(|c| c.dest(server.id));
    gauges.fold((0u32, 0u32, 0u32), |(a, t, p), dest| {
        (
            a.saturating_add(dest.active.get()),
            t.saturating_add(dest.total.get()),
            p.saturating_add(dest.persistent.get()),
        )
    })
}

pub(super) fn server_view(server: &Server, counters: Counters<'_>) -> ServerView {
    let (active, total, persistent) = load(server, counters);
    ServerView {
        key: server.key,
        spec: ServerSpec {
            weight: server.weights.effective(),
            ..server.spec.clone()
        },
        configured_weight: server.weights.configured,
        origin: server.origin,
        active,
        inactive: total.saturating_sub(active),
        persistent,
        stats: server.estimator.totals(),
        rates: server.estimator.rates(),
    }
}

/// Says that a service gets no packets, and what to do.
pub fn dead_service(key: ServiceKey) -> String {
    let name = describe_service(&key);
    match key.addr() {
        Some(addr) => format!(
            "no port of this host holds {addr}: packets for {name} stay with the kernel until \
             `ip addr add {addr} dev TWIN`"
        ),
        None => format!("no rule gives packets {name}; add one with `rvsadm mark add`"),
    }
}

/// Bucket of the kernel's service tables, which decides the order of an unsorted listing:
/// addresses (`ip_vs_svc_hashkey`; the kernel also mixes in an address of its own), then marks
/// (`ip_vs_svc_fwm_hashkey`).
pub(super) fn bucket(key: ServiceKey) -> u16 {
    match key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => {
            let protocol = u32::from(core_protocol(protocol).number());
            let addr = dataplane::addr::Addr::from(addr).fold();
            let port = u32::from(port);
            ((protocol ^ addr ^ (port >> 8) ^ port) & 0xff) as u16
        }
        ServiceKey::Mark { mark, .. } => 0x100 | (mark & 0xff) as u16,
    }
}

fn running_server(server: &Server) -> RunningServer {
    RunningServer {
        key: server.key,
        spec: ServerSpec {
            weight: server.weights.configured,
            ..server.spec.clone()
        },
        state: server.weights.state,
        origin: server.origin,
    }
}
