//! Connections that outlived a process are bound to the real servers that there are now.

use std::net::IpAddr;

use dataplane::addr::{Endpoint, Family as CoreFamily};
use dataplane::conn::Entry;
use dataplane::conn::entry::TEMPLATE_SPACE;
use dataplane::helper::ftp;
use dataplane::service::{DestId, ForwardingMethod, Protocol as CoreProtocol, ServiceId};
use dataplane::steering::Steering;
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

    /// How packets are steered by the rules that there are.
    pub fn steering(&self) -> Steering {
        self.build_steering()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dataplane::addr::Addr;
    use dataplane::conn::{HashKey, Layout, NewConnection, NewTemplate, Shard, region};
    use dataplane::counters::WorkerCounters;
    use dataplane::settings::Settings;
    use dataplane::time::Ticks;

    use super::*;
    use crate::api::{Method, Netmask, Persistence, ServerSpec, ServiceSpec};
    use crate::config::OperatorState;
    use crate::model::{Author, Change, Limits};

    const NOW: Instant = Instant::from_secs(1000);
    const CLIENT: Endpoint = Endpoint::new(Addr::v4([10, 9, 9, 9]), 1000);
    const VIP: Addr = Addr::v4([10, 0, 0, 1]);

    fn server(last: u8, port: u16) -> ServerKey {
        ServerKey {
            addr: [192, 168, 0, last].into(),
            port,
        }
    }

    fn tcp(port: u16) -> ServiceKey {
        ServiceKey::new(Protocol::Tcp, VIP.into(), port)
    }

    /// TCP services on ports 80, 21 and 0, and mark 5, with servers 1, 2, 3 and 4.
    fn model() -> Model {
        let limits = Limits {
            services: 8,
            servers: 6,
            workers: 1,
        };
        let mut model = Model::new(limits, Settings::default());
        model.set_local_addresses(BTreeSet::from([VIP.into()]));
        let (mark, family) = (5, Family::Ipv4);
        let services = [tcp(80), tcp(21), tcp(0), ServiceKey::Mark { mark, family }];
        for (service, last) in services.into_iter().zip(1..) {
            let spec = ServiceSpec {
                scheduler: "rr".into(),
                persistence: Some(Persistence {
                    timeout: 60,
                    netmask: Netmask::V4([255; 4].into()),
                }),
                ..ServiceSpec::default()
            };
            let port = if last == 1 { 8080 } else { service.port() };
            for change in [
                Change::AddService(service, spec),
                add(service, server(last, port)),
            ] {
                model.apply(NOW, Author::File, &change, &[]).unwrap();
            }
        }
        model
    }

    fn add(service: ServiceKey, key: ServerKey) -> Change {
        let spec = ServerSpec {
            method: Method::Masq,
            weight: 1,
            ..ServerSpec::default()
        };
        Change::AddServer(service, key, spec, OperatorState::Up)
    }

    /// A table of which one shard is used.
    fn shard() -> Shard {
        let layout = Layout::for_connections(1000);
        let memory = vec![0u8; layout.bytes() + 64].leak();
        let skip = memory.as_ptr().align_offset(64);
        let memory = &mut memory[skip..skip + layout.bytes()];
        let made = region::create(memory, layout, HashKey([1; 4]), [0; 16], Ticks(0));
        made.unwrap().remove(0)
    }

    /// The number that a connection gets.
    fn bound(model: &mut Model, vport: u16, (last, dport): (u8, u16), mark: u32) -> Option<u32> {
        let mut shard = shard();
        let new = NewConnection {
            protocol: CoreProtocol::Tcp,
            client: CLIENT,
            virtual_: Endpoint::new(VIP, vport),
            dest: Endpoint::new(Addr::v4([192, 168, 0, last]), dport),
            dest_id: DestId(77),
            method: ForwardingMethod::Masquerade,
            flags: 0,
        };
        let i = shard.insert(&new).unwrap();
        shard.entry_mut(i).unwrap().fwmark = mark;
        model.bind(NOW, shard.entry(i).unwrap()).map(|id| id.0)
    }

    #[test]
    fn connections_find_their_servers() {
        let mut model = model();
        assert_eq!(bound(&mut model, 80, (1, 8080), 0), Some(0));
        // FTP: control, and data on a port of its own.
        assert_eq!(bound(&mut model, 21, (2, 21), 0), Some(1));
        assert_eq!(bound(&mut model, 40_000, (2, 40_000), 0), Some(1));
        // Port 0 takes every port, marks do too.
        assert_eq!(bound(&mut model, 443, (3, 443), 0), Some(2));
        assert_eq!(bound(&mut model, 443, (4, 443), 5), Some(3));
        assert_eq!(model.trash.iter().count(), 0);
    }

    #[test]
    fn a_server_that_is_gone_is_kept_as_a_deleted_one() {
        let mut model = model();
        // The same address on another port is another server.
        let first = bound(&mut model, 80, (1, 9999), 0);
        assert_eq!(first, Some(4));
        assert_eq!(bound(&mut model, 80, (1, 9999), 0), first, "once");
        // Added again it has the connections that were waiting for it.
        let again = add(tcp(80), server(1, 9999));
        model.apply(NOW, Author::Operator, &again, &[]).unwrap();
        assert_eq!(bound(&mut model, 80, (1, 9999), 0), first);
        assert_eq!(model.trash.iter().count(), 0);
        // A service that is gone, too, as long as there are numbers.
        assert_eq!(bound(&mut model, 80, (9, 80), 5), Some(5));
        assert_eq!(bound(&mut model, 80, (10, 80), 5), None);
        // Without connections it is forgotten, and its number is free.
        let counters = [std::sync::Arc::new(WorkerCounters::new(8))];
        for minutes in 0..4 {
            let later = Instant::from_secs(1000 + 60 * minutes);
            model.scan_trash(later, &counters);
        }
        assert_eq!(bound(&mut model, 80, (10, 80), 5), Some(5));
    }

    #[test]
    fn templates_find_theirs_or_end() {
        let mut model = model();
        let mut shard = shard();
        let mut template = |virtual_port, last, dport| {
            let new = NewTemplate {
                protocol: 6,
                client: CLIENT.addr,
                tag: 0,
                virtual_: Endpoint::new(VIP, virtual_port),
                dest: Endpoint::new(Addr::v4([192, 168, 0, last]), dport),
                dest_id: DestId(77),
                method: ForwardingMethod::Masquerade,
                fwmark: 0,
            };
            let i = shard.insert_template(&new).unwrap();
            let id = model.bind(NOW, shard.entry(i).unwrap());
            shard.remove(i);
            id.map(|id| id.0)
        };
        assert_eq!(template(80, 1, 8080), Some(0));
        assert_eq!(template(0, 2, 0), Some(1));
        assert_eq!(template(0, 9, 0), None);
    }
}
