//! Connections that outlived a process are bound to the real servers that there are now.

use std::net::IpAddr;

use dataplane::addr::{Endpoint, Family as CoreFamily};
use dataplane::conn::Entry;
use dataplane::conn::entry::TEMPLATE_SPACE;
use dataplane::helper::ftp;
use dataplane::service::{DestId, ForwardingMethod, Protocol as CoreProtocol, ServiceId};
use dataplane::time::Instant;

use crate::api::{Family, Protocol, ServerKey, ServiceKey};
use crate::stats::{Counts, Estimator};
use crate::trash::Trashed;

use super::{Model, Server, Service};

impl Model {
    /// The number of a connection's real server. One that there is not, or not any more, is kept
    /// as a deleted one: its connections go on when it is added again. `None`: the entry is
    /// nobody's, or there are more servers than numbers.
    pub fn bind(&mut self, now: Instant, entry: &Entry) -> Option<DestId> {
        if entry.method() == ForwardingMethod::Bypass || entry.dest_id() == DestId::NONE {
            return Some(DestId::NONE);
        }
        let dest = server_key(entry.dest());
        let number = entry.protocol() & !TEMPLATE_SPACE;
        let wanted = services_of(number, entry.virtual_(), entry.fwmark);
        let is_template = entry.is_template();
        let found = wanted.iter().find_map(|key| {
            let service = self.services.get(key)?;
            let exact = service.server(dest);
            exact
                .or_else(|| by_address(service, dest, is_template))
                .and_then(|at| service.servers.get(at))
        });
        if let Some(Server { id, .. }) = found {
            return Some(*id);
        }
        if is_template {
            // One for all ports of an address, which any service there may have made.
            let addr = IpAddr::from(entry.virtual_().addr);
            let here = self
                .services
                .values()
                .filter(|s| s.key.addr() == Some(addr));
            let mut servers = here.flat_map(|s| &s.servers);
            return servers.find(|s| s.key.addr == dest.addr).map(|s| s.id);
        }
        self.keep_deleted(now, *wanted.first()?, dest)
    }

    /// A real server that only connections remember.
    fn keep_deleted(
        &mut self,
        now: Instant,
        service: ServiceKey,
        key: ServerKey,
    ) -> Option<DestId> {
        let known = self
            .trash
            .iter()
            .find(|(s, k, _)| (*s, *k) == (service, key));
        if let Some((_, _, trashed)) = known {
            return Some(trashed.id);
        }
        let id = DestId(self.dest_ids.take()?);
        self.roles.add_server(service, key);
        self.roles.touch_service(service);
        self.trash.put(
            now,
            service,
            Trashed {
                id,
                service: ServiceId(u32::MAX),
                server: key,
                counted: Counts::default(),
                last_weight: 0,
                estimator: Estimator::default(),
            },
        );
        Some(id)
    }

    /// Connections are in the table that were made under other rules, perhaps: each worker looks
    /// for those that others would take packets of.
    pub fn expect_strays(&mut self) {
        self.steered.has_more = true;
        self.roles.start_anew();
    }
}

fn server_key(dest: Endpoint) -> ServerKey {
    ServerKey {
        addr: dest.addr.into(),
        port: dest.port,
    }
}

/// Services that may have made a connection, the likeliest first.
fn services_of(protocol: u8, virtual_: Endpoint, mark: u32) -> Vec<ServiceKey> {
    if mark != 0 {
        let family = match virtual_.addr.family() {
            CoreFamily::V4 => Family::Ipv4,
            CoreFamily::V6 => Family::Ipv6,
        };
        return vec![ServiceKey::Mark { mark, family }];
    }
    let protocol = match CoreProtocol::from_number(protocol) {
        Some(CoreProtocol::Tcp) => Protocol::Tcp,
        Some(CoreProtocol::Udp) => Protocol::Udp,
        Some(CoreProtocol::Sctp) => Protocol::Sctp,
        None => return Vec::new(),
    };
    let ports = match protocol {
        Protocol::Tcp => vec![virtual_.port, ftp::PORT, 0],
        _ => vec![virtual_.port, 0],
    };
    let key = |port| ServiceKey::new(protocol, virtual_.addr.into(), port);
    ports.into_iter().map(key).collect()
}

/// Where services take every port, or a connection has a port of its own (FTP data, templates),
/// the address decides.
fn by_address(service: &Service, dest: ServerKey, is_template: bool) -> Option<usize> {
    let is_wide = match service.key {
        ServiceKey::Endpoint { protocol, port, .. } => {
            port == 0 || (protocol == Protocol::Tcp && port == ftp::PORT)
        }
        ServiceKey::Mark { .. } => true,
    };
    let mut servers = service.servers.iter();
    match is_wide || is_template {
        true => servers.position(|s| s.key.addr == dest.addr),
        false => None,
    }
}
