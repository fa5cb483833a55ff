//! The desired state as workers have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::addr::{Endpoint, Family};
use dataplane::helper::ftp;
use dataplane::marks::{MarkRule, Marks};
use dataplane::roles;
use dataplane::roles::{RoleEntry, RoleTable};
use dataplane::service::{
    Destination, Destinations, Engine, ForwardingMethod, Persistence as CorePersistence, Protocol,
    ServiceKey as CoreKey, ServiceOptions, ServiceTimeouts, Tunnel, TunnelChecksum, TunnelKind,
    VirtualService,
};

use crate::api;
use crate::api::{Method, Netmask, Persistence, ServerKey, ServiceKey, ServiceSpec};
use crate::update::Update;

use super::{Model, Server, Service};

/// Of a list of destinations: no two have the same, whichever model they are of.
fn number() -> u64 {
    static LISTS: AtomicU64 = AtomicU64::new(1);
    LISTS.fetch_add(1, Ordering::Relaxed)
}

impl Model {
    /// What the workers have to be told since the last call: deletions, services, roles,
    /// settings, in an order in which each is harmless alone.
    pub fn take_updates(&mut self) -> Vec<Update> {
        let mut updates: Vec<Update> = self.deleted.drain(..).map(Update::DeleteService).collect();
        for key in std::mem::take(&mut self.changed) {
            if let Some(service) = self.services.get(&key) {
                let built = Arc::new(self.build(service));
                updates.push(Update::PutService(Arc::clone(&built)));
                if let Some(service) = self.services.get_mut(&key) {
                    service.built = Some(built);
                }
            }
        }
        if std::mem::take(&mut self.marks_changed) {
            let rules: Vec<MarkRule> = self.mark_rules().collect();
            updates.push(Update::PutMarks(Arc::new(Marks::build(&rules))));
        }
        updates.extend(self.role_updates());
        if std::mem::take(&mut self.settings_changed) {
            updates.push(Update::PutSettings(self.settings));
        }
        updates
    }

    pub(super) fn build(&self, service: &Service) -> VirtualService {
        let destination = |s: &Server| Destination {
            id: s.id,
            endpoint: Endpoint::new(s.key.addr.into(), s.key.port),
            method: self.method(s),
            weight: s.weights.effective(),
            last_weight: s.weights.last,
            upper: s.spec.upper,
            lower: s.spec.lower,
            tunnel: core_tunnel(s.spec.tunnel),
        };
        let (mut destinations, mut withdrawn) = (Vec::new(), Vec::new());
        for server in service.servers.iter().filter(|s| s.weights.is_there()) {
            match server.weights.withdrawal() {
                None => destinations.push(destination(server)),
                Some(how) => withdrawn.push((destination(server), how)),
            }
        }
        let before = service.built.as_ref().map(|built| &built.destinations);
        VirtualService {
            id: service.id,
            key: core_key(service.key),
            scheduler: service.scheduler,
            options: ServiceOptions {
                one_packet: service.spec.one_packet,
                flags: service.spec.flags.core(),
                persistence: persistence_of(&service.spec),
                timeouts: core_timeouts(service.spec.timeouts),
            },
            destinations: Destinations::from(destinations).numbered(number(), before),
            withdrawn,
        }
    }

    /// The method given to new connections. A server that is this host takes DR and TUN
    /// packets unchanged; NAT still rewrites them before the kernel gets them.
    pub(super) fn method(&self, server: &Server) -> ForwardingMethod {
        match server.spec.method {
            Method::Masq => ForwardingMethod::Masquerade,
            _ if self.local.contains(&server.key.addr) => ForwardingMethod::Local,
            Method::Route => ForwardingMethod::DirectRoute,
            Method::Tunnel => ForwardingMethod::Tunnel,
            Method::Local => ForwardingMethod::Local,
        }
    }

    pub(super) fn build_roles(&self) -> RoleTable {
        let entries: Vec<RoleEntry> = self.role_entries().collect();
        let marked = match self.is_set_back {
            false => self.marked_destinations(),
            true => Vec::new(),
        };
        RoleTable::build_steered(&entries, &marked, self.build_steering())
    }

    /// Which endpoints are ours and which are real servers, whatever their method is now: their
    /// connections keep the one they were made with. Deleted ones that may still have
    /// connections are included. A virtual endpoint counts only while this host holds its
    /// address. A pair may occur twice.
    pub(super) fn role_entries(&self) -> impl Iterator<Item = RoleEntry> + '_ {
        let services = self.services.values().flat_map(|service| {
            let reals = service.servers.iter().flat_map(|s| {
                let live = if s.weights.is_there() { roles::LIVE } else { 0 };
                real(service.key, s.key).map(move |e| RoleEntry {
                    roles: roles::REAL | live,
                    ..e
                })
            });
            self.vip(service.key).into_iter().chain(reals)
        });
        let trash = self.trash.iter().flat_map(|(service, server, _)| {
            self.vip(service).into_iter().chain(real(service, server))
        });
        services.chain(trash)
    }

    pub(super) fn vip(&self, key: ServiceKey) -> Option<RoleEntry> {
        match key {
            ServiceKey::Endpoint {
                protocol,
                addr,
                port,
            } if self.is_live(key) => Some(RoleEntry {
                protocol: core_protocol(protocol).number(),
                endpoint: Endpoint::new(addr.into(), port),
                roles: match self.is_set_back {
                    false => roles::VIRTUAL,
                    true => roles::SET_BACK,
                },
            }),
            _ => None,
        }
    }
}

/// A server of a marked service is one for each protocol. One of FTP is one on every port, since its
/// data connections come from anywhere, and so is one of a service on port 0: connections of a
/// persistent one go to the port that the client asked for.
pub(super) fn real(service: ServiceKey, server: ServerKey) -> impl Iterator<Item = RoleEntry> {
    let only = service.protocol().map(core_protocol);
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocols = protocols
        .into_iter()
        .filter(move |p| only.is_none_or(|only| only == *p));
    let is_ftp = only == Some(Protocol::Tcp) && service.port() == ftp::PORT;
    let on_every_port = is_ftp || service.port() == 0;
    let ports = [Some(server.port), on_every_port.then_some(0)];
    protocols.flat_map(move |protocol| {
        ports.into_iter().flatten().map(move |port| RoleEntry {
            protocol: protocol.number(),
            endpoint: Endpoint::new(server.addr.into(), port),
            roles: roles::REAL,
        })
    })
}

pub(super) fn core_protocol(protocol: api::Protocol) -> Protocol {
    match protocol {
        api::Protocol::Tcp => Protocol::Tcp,
        api::Protocol::Udp => Protocol::Udp,
        api::Protocol::Sctp => Protocol::Sctp,
    }
}

fn core_timeouts(timeouts: api::ServiceTimeouts) -> ServiceTimeouts {
    ServiceTimeouts {
        tcp: timeouts.tcp,
        tcp_fin: timeouts.tcp_fin,
        udp: timeouts.udp,
        sctp: timeouts.sctp,
    }
}

pub(super) fn core_persistence(persistence: Persistence) -> CorePersistence {
    CorePersistence {
        timeout: persistence.timeout,
        mask: match persistence.netmask {
            Netmask::V4(mask) => mask.to_bits(),
            Netmask::V6(len) => len.into(),
        },
        engine: None,
    }
}

/// Persistence of a service with its engine.
fn persistence_of(spec: &ServiceSpec) -> Option<CorePersistence> {
    Some(CorePersistence {
        engine: spec.engine.as_deref().and_then(Engine::find),
        ..core_persistence(spec.persistence?)
    })
}

pub(super) fn core_key(key: ServiceKey) -> CoreKey {
    match key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => CoreKey::new(core_protocol(protocol), Endpoint::new(addr.into(), port)),
        ServiceKey::Mark { mark, family } => CoreKey::Mark {
            family: match family {
                api::Family::Ipv4 => Family::V4,
                api::Family::Ipv6 => Family::V6,
            },
            mark,
        },
    }
}

pub(super) fn core_tunnel(tunnel: api::Tunnel) -> Tunnel {
    Tunnel {
        kind: match tunnel.kind {
            api::TunnelKind::Ipip => TunnelKind::IpIp,
            api::TunnelKind::Gue => TunnelKind::Gue,
            api::TunnelKind::Gre => TunnelKind::Gre,
        },
        port: tunnel.port,
        checksum: match tunnel.checksum {
            api::TunnelChecksum::None => TunnelChecksum::None,
            api::TunnelChecksum::Full => TunnelChecksum::Full,
            api::TunnelChecksum::Remote => TunnelChecksum::Remote,
        },
    }
}
