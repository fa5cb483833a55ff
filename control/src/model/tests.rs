use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::{Endpoint, Family};
use dataplane::counters::WorkerCounters;
use dataplane::marks::Marked;
use dataplane::packet::PortId;
use dataplane::roles::{self, RoleTable};
use dataplane::service::{ForwardingMethod, ServiceKey as CoreKey, VirtualService};
use dataplane::settings::Settings;
use dataplane::time::Instant;

use crate::api::{
    ErrorKind, MarkMatch, Method, Netmask, Origin, Persistence, ServerKey, ServerSpec, ServiceKey,
    ServiceSpec, ServiceView,
};
use crate::config::OperatorState;
use crate::update::Update;
use crate::{api, trash};

use super::build::core_protocol;
use super::listing::bucket;
use super::{Author, Change, Limits, MAX_TIMEOUT, Model};

mod pools;

const START: Instant = Instant::from_secs(1000);

struct Bench {
    model: Model,
    counters: Vec<Arc<WorkerCounters>>,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Limits {
            services: 4,
            servers: 4,
            workers: 1,
        })
    }

    fn with(limits: Limits) -> Bench {
        let mut model = Model::new(limits, Settings::default());
        model.set_local_addresses(BTreeSet::from([ip("10.0.0.1"), ip("fd00::1")]));
        model.take_updates();
        let counters = (0..2).map(|_| Arc::new(WorkerCounters::new(8))).collect();
        Bench {
            model,
            counters,
            now: START,
        }
    }

    fn by(&mut self, author: Author, change: Change) -> Result<(), ErrorKind> {
        let before = format!("{:?}", self.model.running());
        let done = self.model.apply(self.now, author, &change, &self.counters);
        if done.is_err() {
            assert_eq!(
                before,
                format!("{:?}", self.model.running()),
                "a refusal left a mark"
            );
        }
        done.map_err(|refusal| refusal.kind)
    }

    fn live(&mut self, change: Change) -> Result<(), ErrorKind> {
        self.by(Author::Operator, change)
    }

    fn add(&mut self, server: &str) -> Result<(), ErrorKind> {
        self.live(Change::AddServer(
            http(),
            rs(server),
            nat(1),
            OperatorState::Up,
        ))
    }

    fn service(&mut self) -> Arc<VirtualService> {
        let updates = self.model.take_updates();
        let found = updates.into_iter().find_map(|u| match u {
            Update::PutService(service) => Some(service),
            _ => None,
        });
        found.expect("a service was changed")
    }

    fn list(&self) -> Vec<ServiceView> {
        let keys = self.model.list(None).unwrap();
        let view = |key| self.model.view(key, &self.counters).unwrap();
        keys.into_iter().map(view).collect()
    }

    fn roles(&self, endpoint: &str) -> u8 {
        let at: std::net::SocketAddr = endpoint.parse().unwrap();
        let endpoint = Endpoint::new(at.ip().into(), at.port());
        let of = self.model.role_entries().filter(|e| e.endpoint == endpoint);
        of.fold(0, |roles, e| roles | e.roles)
    }

    fn tick(&mut self) {
        self.model.estimate();
        while self.model.estimate_some(&self.counters) {}
    }
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn vs(protocol: api::Protocol, addr: &str, port: u16) -> ServiceKey {
    ServiceKey::new(protocol, ip(addr), port)
}

fn http() -> ServiceKey {
    vs(api::Protocol::Tcp, "10.0.0.1", 80)
}

fn rr() -> ServiceSpec {
    ServiceSpec {
        scheduler: "rr".into(),
        ..ServiceSpec::default()
    }
}

fn rs(s: &str) -> ServerKey {
    let at: std::net::SocketAddr = s.parse().unwrap();
    ServerKey {
        addr: at.ip(),
        port: at.port(),
    }
}

fn spec(method: Method, weight: u32) -> ServerSpec {
    ServerSpec {
        method,
        weight,
        upper: 0,
        lower: 0,
        tunnel: api::Tunnel::default(),
    }
}

fn nat(weight: u32) -> ServerSpec {
    spec(Method::Masq, weight)
}

fn with_http() -> Bench {
    let mut b = Bench::new();
    b.live(Change::AddService(http(), rr())).unwrap();
    b
}

#[test]
fn servers_are_prepended_and_an_edit_keeps_their_place() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    b.add("192.168.0.2:80").unwrap();
    b.add("192.168.0.3:80").unwrap();
    b.live(Change::EditServer(
        http(),
        rs("192.168.0.2:80"),
        nat(5),
        OperatorState::Up,
    ))
    .unwrap();
    let service = b.service();
    let last: Vec<_> = service
        .destinations
        .iter()
        .map(|d| (d.endpoint.addr.octets()[15], d.weight))
        .collect();
    assert_eq!(last, [(3, 1), (2, 5), (1, 1)]);
    assert!(
        b.model.take_updates().is_empty(),
        "one snapshot for four changes"
    );
}

/// A worker with a thousand of them need not compare.
#[test]
fn a_list_says_which_one_it_came_after() {
    let mut b = with_http();
    let lists = ["192.168.0.1:80", "192.168.0.2:80", "192.168.0.3:80"].map(|server| {
        b.add(server).unwrap();
        b.service().destinations.clone()
    });
    let [first, second, third] = &lists;
    assert!(second.came_after(first) && third.came_after(second));
    assert!(!third.came_after(first) && !first.came_after(&Default::default()));
}

#[test]
fn refusals_are_the_kernels() {
    use ErrorKind::*;
    let mut b = with_http();
    let other = vs(api::Protocol::Udp, "10.0.0.1", 80);
    let up = OperatorState::Up;
    let one = rs("192.168.0.1:80");
    let bad = ServiceSpec {
        scheduler: "wlcc".into(),
        ..ServiceSpec::default()
    };
    b.add("192.168.0.1:80").unwrap();
    for (change, kind) in [
        (Change::AddService(http(), bad.clone()), ServiceExists),
        (Change::AddService(other, bad.clone()), NoScheduler),
        (Change::EditService(http(), bad), NoScheduler),
        (Change::EditService(other, rr()), NoService),
        (Change::DeleteService(other), NoService),
        (Change::AddServer(other, one, nat(1), up), ServiceNotDefined),
        (
            Change::EditServer(other, one, nat(1), up),
            ServiceNotDefined,
        ),
        (Change::DeleteServer(other, one), ServiceNotDefined),
        (Change::AddServer(http(), one, nat(1), up), ServerExists),
        (
            Change::EditServer(http(), rs("192.168.0.1:81"), nat(1), up),
            NoServer,
        ),
        (Change::DeleteServer(http(), rs("192.168.0.9:80")), NoServer),
        (
            Change::AddServer(http(), rs("224.0.0.1:80"), nat(1), up),
            Invalid,
        ),
        (
            Change::AddServer(http(), rs("255.255.255.255:80"), nat(1), up),
            Invalid,
        ),
        (
            Change::AddServer(http(), rs("0.0.0.0:80"), nat(1), up),
            Invalid,
        ),
        (
            Change::AddServer(http(), rs("[fd00::9]:80"), nat(1), up),
            Invalid,
        ),
        (
            Change::AddServer(http(), rs("1.2.3.4:81"), spec(Method::Route, 1), up),
            Invalid,
        ),
        (
            Change::AddServer(http(), rs("1.2.3.4:80"), spec(Method::Local, 1), up),
            Invalid,
        ),
        (
            Change::AddServer(
                http(),
                rs("1.2.3.4:80"),
                ServerSpec { lower: 1, ..nat(1) },
                up,
            ),
            Range,
        ),
        (
            Change::EditServer(
                http(),
                one,
                ServerSpec {
                    upper: 2,
                    lower: 3,
                    ..nat(1)
                },
                up,
            ),
            Range,
        ),
        (
            Change::AddServer(http(), rs("1.2.3.4:80"), nat(1 << 31), up),
            Range,
        ),
        (
            Change::AddService(vs(api::Protocol::Tcp, "10.0.0.1", 0), rr()),
            Invalid,
        ),
        (
            Change::AddService(
                vs(api::Protocol::Tcp, "10.0.0.1", 1),
                ServiceSpec {
                    one_packet: true,
                    ..rr()
                },
            ),
            Invalid,
        ),
    ] {
        let shown = format!("{change:?}");
        assert_eq!(b.live(change), Err(kind), "{shown}");
    }
    let gue = |method, port| ServerSpec {
        tunnel: api::Tunnel {
            kind: api::TunnelKind::Gue,
            port,
            checksum: api::TunnelChecksum::Remote,
        },
        ..spec(method, 1)
    };
    for wrong in [
        gue(Method::Tunnel, 0),
        gue(Method::Masq, 6080),
        gue(Method::Route, 0),
    ] {
        let change = Change::AddServer(http(), rs("10.1.0.8:80"), wrong, up);
        assert_eq!(b.live(change), Err(Invalid));
    }
    let tunnel = Change::AddServer(http(), rs("[fd00::9]:80"), spec(Method::Tunnel, 1), up);
    assert_eq!(b.live(tunnel), Ok(()));
    assert_eq!(
        b.model
            .set_timeouts(MAX_TIMEOUT + 1, 0, 0)
            .unwrap_err()
            .kind,
        Range
    );
}

#[test]
fn capacities_are_refused_by_name() {
    let mut b = with_http();
    for port in 1..4 {
        b.live(Change::AddService(
            vs(api::Protocol::Udp, "10.0.0.1", port),
            rr(),
        ))
        .unwrap();
    }
    let fifth = Change::AddService(vs(api::Protocol::Udp, "10.0.0.1", 9), rr());
    assert_eq!(b.live(fifth.clone()), Err(ErrorKind::Capacity));
    for n in 1..=4 {
        b.add(&format!("192.168.0.{n}:80")).unwrap();
    }
    assert_eq!(b.add("192.168.0.5:80"), Err(ErrorKind::Capacity));
    b.live(Change::DeleteService(vs(api::Protocol::Udp, "10.0.0.1", 1)))
        .unwrap();
    assert_eq!(b.live(fifth), Ok(()));
}

#[test]
fn ids_of_unused_deleted_servers_are_taken_when_ids_are_short() {
    let mut b = with_http();
    for n in 1..=4 {
        b.add(&format!("192.168.0.{n}:80")).unwrap();
    }
    let id = b.service().destinations[3].id;
    b.counters[0].dests[id.0 as usize].total.set(1);
    b.live(Change::DeleteServer(http(), rs("192.168.0.1:80")))
        .unwrap();
    b.now = b.now + Duration::from_secs(10);
    assert_eq!(
        b.add("192.168.0.5:80"),
        Err(ErrorKind::Capacity),
        "it has a connection"
    );
    b.counters[0].dests[id.0 as usize].total.set(0);
    b.add("192.168.0.5:80").unwrap();
    assert_eq!(b.service().destinations[0].id, id);
    b.live(Change::DeleteServer(http(), rs("192.168.0.5:80")))
        .unwrap();
    assert_eq!(
        b.add("192.168.0.6:80"),
        Err(ErrorKind::Capacity),
        "it was deleted just now"
    );
}

#[test]
fn answers_of_servers_are_known_whatever_the_protocol() {
    for protocol in [api::Protocol::Tcp, api::Protocol::Udp, api::Protocol::Sctp] {
        let mut b = with_http();
        let service = ServiceKey::Endpoint {
            protocol,
            addr: ip("10.0.0.1"),
            port: 99,
        };
        let spec = ServiceSpec {
            scheduler: "rr".into(),
            ..ServiceSpec::default()
        };
        b.live(Change::AddService(service, spec)).unwrap();
        let server = rs("192.168.0.1:99");
        b.live(Change::AddServer(
            service,
            server,
            nat(1),
            OperatorState::Up,
        ))
        .unwrap();
        let of = |at: IpAddr| {
            let number = core_protocol(protocol).number();
            b.model.build_roles().of(true, number, &at.into(), 99)
        };
        assert_eq!(of(ip("10.0.0.1")), roles::VIRTUAL, "{protocol:?}");
        let live = roles::REAL | roles::LIVE;
        assert_eq!(of(ip("192.168.0.1")), live, "{protocol:?}");
    }
}

#[test]
fn a_server_of_a_service_on_port_0_answers_from_any_port() {
    let at = |port| {
        let mut b = with_http();
        let service = ServiceKey::Endpoint {
            protocol: api::Protocol::Tcp,
            addr: ip("10.0.0.1"),
            port,
        };
        let spec = ServiceSpec {
            scheduler: "rr".into(),
            persistence: Some(Persistence {
                timeout: 30,
                netmask: Netmask::V4(std::net::Ipv4Addr::BROADCAST),
            }),
            ..ServiceSpec::default()
        };
        b.live(Change::AddService(service, spec)).unwrap();
        let server = rs("192.168.0.1:9000");
        let add = Change::AddServer(service, server, nat(1), OperatorState::Up);
        b.live(add).unwrap();
        let addr = ip("192.168.0.1").into();
        b.model.build_roles().of(true, 6, &addr, 443)
    };
    assert_eq!((at(0), at(99)), (roles::REAL, 0));
}

#[test]
fn a_deleted_server_comes_back_with_its_id_and_its_counters() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    let id = b.service().destinations[0].id;
    let counter = &b.counters[0].dests[id.0 as usize];
    counter.in_pkts.add(10);
    counter.total.set(2);
    b.tick();
    b.live(Change::DeleteServer(http(), rs("192.168.0.1:80")))
        .unwrap();
    assert_eq!(
        b.roles("192.168.0.1:80"),
        roles::REAL,
        "its connections go on"
    );
    // Counted by a worker that had not seen the deletion yet: not shown afterwards.
    b.counters[1].dests[id.0 as usize].in_pkts.add(5);
    b.now = b.now + Duration::from_secs(3600);
    b.model.scan_trash(b.now, &b.counters);
    b.add("192.168.0.1:80").unwrap();
    assert_eq!(b.service().destinations[0].id, id);
    b.counters[1].dests[id.0 as usize].in_pkts.add(1);
    b.tick();
    let view = &b.list()[0];
    assert_eq!(view.servers[0].stats.in_pkts, 11);
    assert_eq!(view.servers[0].inactive, 2);
    assert_eq!(
        view.stats.in_pkts, 11,
        "10 before the deletion, 1 after the return"
    );
}

#[test]
fn a_new_service_object_starts_from_nothing_but_keeps_connections() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    let id = b.service().destinations[0].id;
    b.counters[0].dests[id.0 as usize].conns.add(96);
    b.counters[0].dests[id.0 as usize].total.set(96);
    b.tick();
    b.live(Change::Clear).unwrap();
    assert_eq!(
        b.roles("10.0.0.1:80"),
        roles::VIRTUAL,
        "packets of its connections are ours"
    );
    b.live(Change::AddService(http(), rr())).unwrap();
    b.add("192.168.0.1:80").unwrap();
    b.tick();
    let view = &b.list()[0];
    assert_eq!((view.servers[0].stats.conns, view.stats.conns), (0, 0));
    assert_eq!(view.servers[0].inactive, 96);
    assert_eq!(b.service().destinations[0].id, id);
}

#[test]
fn an_id_is_free_two_minutes_after_a_scan_found_no_connection() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    let id = b.service().destinations[0].id;
    b.counters[1].dests[id.0 as usize].total.set(1);
    b.live(Change::DeleteServer(http(), rs("192.168.0.1:80")))
        .unwrap();
    let scan = |b: &mut Bench, secs: u64| {
        b.now = START + Duration::from_secs(secs);
        b.model.scan_trash(b.now, &b.counters);
        b.model.trash.iter().count()
    };
    assert_eq!(scan(&mut b, 600), 1);
    b.counters[1].dests[id.0 as usize].total.set(0);
    assert_eq!(scan(&mut b, 660), 1);
    assert_eq!(scan(&mut b, 779), 1);
    // In use again (an entry taken over from elsewhere): the time starts anew.
    b.counters[0].dests[id.0 as usize].persistent.set(1);
    assert_eq!(scan(&mut b, 780), 1);
    b.counters[0].dests[id.0 as usize].persistent.set(0);
    assert_eq!(scan(&mut b, 840), 1);
    assert_eq!(scan(&mut b, 959), 1);
    assert_eq!(scan(&mut b, 840 + trash::GRACE.as_secs()), 0);
    assert_eq!(b.roles("192.168.0.1:80"), 0);
    let updates = b.model.take_updates();
    assert!(
        matches!(updates.last(), Some(Update::PutRole(gone)) if gone.roles == 0),
        "{updates:?}"
    );
}

#[test]
fn a_backup_may_leave_clients_packets_to_the_host() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    b.model.take_updates();
    assert!(!b.model.set_back(false));
    assert!(b.model.set_back(true));
    let updates = b.model.take_updates();
    assert!(matches!(updates[..], [Update::PutRoles(_)]), "{updates:?}");
    assert_eq!(b.roles("10.0.0.1:80"), roles::SET_BACK);
    assert_eq!(b.roles("192.168.0.1:80"), roles::REAL | roles::LIVE);
    // What is added meanwhile, too, told one by one.
    let other = vs(api::Protocol::Tcp, "10.0.0.1", 81);
    b.live(Change::AddService(other, rr())).unwrap();
    let updates = b.model.take_updates();
    let put = updates.iter().find_map(|u| match u {
        Update::PutRole(entry) => Some(entry.roles),
        _ => None,
    });
    assert_eq!(put, Some(roles::SET_BACK), "{updates:?}");
    assert!(b.model.set_back(false));
    assert_eq!(b.roles("10.0.0.1:81"), roles::VIRTUAL);
}

#[test]
fn services_are_live_while_the_host_holds_the_address() {
    let mut b = with_http();
    let away = vs(api::Protocol::Tcp, "10.0.0.99", 80);
    b.live(Change::AddService(away, rr())).unwrap();
    assert_eq!(
        (b.roles("10.0.0.1:80"), b.roles("10.0.0.99:80")),
        (roles::VIRTUAL, 0)
    );
    assert_eq!(b.model.dead_services().len(), 1);
    b.model.take_updates();
    b.model
        .set_local_addresses(BTreeSet::from([ip("10.0.0.99")]));
    assert_eq!(
        (b.roles("10.0.0.1:80"), b.roles("10.0.0.99:80")),
        (0, roles::VIRTUAL)
    );
    let updates = b.model.take_updates();
    assert!(matches!(updates[..], [Update::PutRoles(_)]), "{updates:?}");
    b.model
        .set_local_addresses(BTreeSet::from([ip("10.0.0.99")]));
    assert!(b.model.take_updates().is_empty(), "nothing changed");
}

#[test]
fn a_server_that_is_this_host_gets_packets_unchanged_unless_by_nat() {
    let mut b = with_http();
    let up = OperatorState::Up;
    b.live(Change::AddServer(
        http(),
        rs("10.0.0.7:80"),
        spec(Method::Route, 1),
        up,
    ))
    .unwrap();
    b.live(Change::AddServer(http(), rs("10.0.0.7:81"), nat(1), up))
        .unwrap();
    let methods =
        |s: &VirtualService| -> Vec<_> { s.destinations.iter().map(|d| d.method).collect() };
    use ForwardingMethod::{DirectRoute, Local, Masquerade};
    assert_eq!(methods(&b.service()), [Masquerade, DirectRoute]);
    b.model
        .set_local_addresses(BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.7")]));
    assert_eq!(methods(&b.service()), [Masquerade, Local]);
    assert_eq!(
        b.list()[0].servers[1].spec.method,
        Method::Route,
        "listed as configured"
    );
}

#[test]
fn origins_follow_who_touched_what() {
    let mut b = Bench::new();
    let up = OperatorState::Up;
    let (one, two) = (rs("192.168.0.1:80"), rs("192.168.0.2:80"));
    b.by(Author::File, Change::AddService(http(), rr()))
        .unwrap();
    b.by(
        Author::File,
        Change::AddServer(http(), one, nat(3), OperatorState::Drain),
    )
    .unwrap();
    b.live(Change::AddServer(http(), two, nat(1), up)).unwrap();
    let origins = |b: &Bench| {
        let view = &b.list()[0];
        (view.origin, view.servers[1].origin, view.servers[0].origin)
    };
    assert_eq!(origins(&b), (Origin::File, Origin::File, Origin::Live));
    let server = b.list()[0].servers[1].clone();
    assert_eq!((server.spec.weight, server.configured_weight), (0, 3));
    b.live(Change::EditServer(http(), one, nat(4), up)).unwrap();
    b.live(Change::EditServer(http(), two, nat(4), up)).unwrap();
    assert_eq!(
        origins(&b),
        (Origin::File, Origin::FileChanged, Origin::Live)
    );
    b.live(Change::EditService(http(), rr())).unwrap();
    assert_eq!(origins(&b).0, Origin::FileChanged);
    b.by(Author::File, Change::EditServer(http(), one, nat(3), up))
        .unwrap();
    assert_eq!(origins(&b).1, Origin::File);
}

#[test]
fn the_total_is_of_everything_and_freezes_without_estimation() {
    let mut b = with_http();
    b.add("10.0.1.1:80").unwrap();
    let id = b.service().destinations[0].id;
    let total = |b: &Bench| {
        let api::Response::Stats { total, rates, .. } = b.model.stats(&b.counters) else {
            panic!()
        };
        (total.in_pkts, rates.in_pkts)
    };
    b.counters[1].dests[id.0 as usize].in_pkts.add(400);
    b.tick();
    assert_eq!(total(&b), (400, 50));
    // What a deleted server counted stays part of it.
    b.live(Change::DeleteServer(http(), rs("10.0.1.1:80")))
        .unwrap();
    b.tick();
    assert_eq!(total(&b), (400, 37));
    b.model.set_settings(Settings {
        run_estimation: false,
        ..Settings::default()
    });
    b.counters[0].dests[id.0 as usize].in_pkts.add(1);
    b.tick();
    assert_eq!(total(&b), (400, 37));
    b.model.set_settings(Settings::default());
    // Of one service: the total is not touched.
    b.model.zero(Some(http())).unwrap();
    b.tick();
    assert_eq!(total(&b).0, 401);
    b.model.zero(None).unwrap();
    assert_eq!(total(&b), (0, 0));
}

#[test]
fn another_process_goes_on_with_statistics() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    b.add("192.168.0.2:80").unwrap();
    // The one that was added first, and one that is deleted again.
    b.counters[0].dests[0].in_bytes.add(100);
    b.counters[0].dests[1].in_bytes.add(30);
    b.tick();
    b.live(Change::DeleteServer(http(), rs("192.168.0.2:80")))
        .unwrap();
    // Since the last snapshot.
    b.counters[1].dests[0].in_bytes.add(5);
    let handed = b.model.hand_over_statistics(&b.counters);
    let sent = serde_json::to_string(&handed).unwrap();
    let mut next = with_http();
    next.add("192.168.0.3:80").unwrap();
    next.add("192.168.0.1:80").unwrap();
    next.model
        .inherit_statistics(&serde_json::from_str(&sent).unwrap());
    let of = |b: &Bench, addr: &str| {
        let servers = &b.list()[0].servers;
        let found = servers.iter().find(|s| s.key == rs(addr)).unwrap();
        found.stats.in_bytes
    };
    assert_eq!(of(&next, "192.168.0.1:80"), 105);
    assert_eq!(of(&next, "192.168.0.3:80"), 0);
    assert_eq!(next.list()[0].stats.in_bytes, 135);
    assert_eq!(next.list()[0].rates, b.list()[0].rates);
    next.counters[0].dests[1].in_bytes.add(7);
    next.tick();
    assert_eq!(of(&next, "192.168.0.1:80"), 112);
    assert_eq!(next.list()[0].stats.in_bytes, 142);
    let api::Response::Stats { total, .. } = next.model.stats(&next.counters) else {
        panic!("no statistics");
    };
    assert_eq!(total.in_bytes, 142);
}

#[test]
fn zero_moves_the_base_of_one_service_or_all() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    b.counters[0].dests[0].in_bytes.add(100);
    b.tick();
    assert_eq!(b.list()[0].stats.in_bytes, 100);
    assert!(b.list()[0].rates.in_bytes > 0);
    b.model.zero(Some(http())).unwrap();
    assert_eq!(b.list()[0].stats, api::Stats::default());
    assert_eq!(b.list()[0].servers[0].rates, api::Stats::default());
    let other = vs(api::Protocol::Tcp, "10.0.0.2", 80);
    assert_eq!(
        b.model.zero(Some(other)).unwrap_err().kind,
        ErrorKind::NoService
    );
}

#[test]
fn a_marked_service_needs_no_address_and_its_servers_no_port() {
    let mut b = Bench::new();
    let mark = |mark, family| ServiceKey::Mark { mark, family };
    let five = mark(5, api::Family::Ipv4);
    b.live(Change::AddService(five, rr())).unwrap();
    b.live(Change::AddService(mark(5, api::Family::Ipv6), rr()))
        .unwrap();
    assert_eq!(
        b.live(Change::AddService(mark(0, api::Family::Ipv4), rr())),
        Err(ErrorKind::Invalid)
    );
    let up = OperatorState::Up;
    b.live(Change::AddServer(five, rs("192.168.0.1:0"), nat(1), up))
        .unwrap();
    let direct = spec(Method::Route, 1);
    b.live(Change::AddServer(five, rs("192.168.0.2:8080"), direct, up))
        .unwrap();
    let core = CoreKey::Mark {
        family: Family::V4,
        mark: 5,
    };
    let updates = b.model.take_updates();
    let service = updates.iter().find_map(|u| match u {
        Update::PutService(service) if service.key == core => Some(service),
        _ => None,
    });
    assert_eq!(service.map(|s| s.destinations.len()), Some(2));
    assert_eq!(
        b.model.dead_services().len(),
        2,
        "no rule marks packets yet"
    );
    assert_eq!(b.list().len(), 2);
}

#[test]
fn rules_of_marks_are_built_and_make_their_services_live() {
    let mut b = Bench::new();
    b.model.set_ports(vec!["lan".into(), "wan".into()]);
    let rule = |text: &str| MarkMatch::from_words(text.split_whitespace()).unwrap();
    let web = rule("destination 203.0.113.0/24 protocol tcp port wan");
    let five = ServiceKey::Mark {
        mark: 5,
        family: api::Family::Ipv4,
    };
    b.live(Change::AddService(five, rr())).unwrap();
    b.model.take_updates();
    b.live(Change::PutMark(web.clone(), 5)).unwrap();
    assert!(b.model.is_live(five));
    let updates = b.model.take_updates();
    let [Update::PutMarks(marks), Update::PutRoles(table)] = &updates[..] else {
        panic!("{updates:?}");
    };
    let mut packet = Marked {
        src: ip("10.0.0.9").into(),
        dst: ip("203.0.113.7").into(),
        src_port: 1,
        dst_port: 80,
        protocol: 6,
        vlan: 0,
        input: PortId(1),
    };
    assert_eq!(marks.classify(&packet), 5);
    packet.input = PortId(0);
    assert_eq!(marks.classify(&packet), 0);
    assert_eq!(table.of(true, 6, &packet.dst, 80), roles::MARKED);
    // An operator does not overwrite a rule, the file does.
    let again = Change::PutMark(web.clone(), 6);
    assert_eq!(b.live(again.clone()), Err(ErrorKind::Invalid));
    b.by(Author::File, again).unwrap();
    assert_eq!(b.model.marks()[0].origin, Origin::File);
    assert!(!b.model.is_live(five));
    let lost = Change::PutMark(rule("port dmz"), 5);
    assert_eq!(b.live(lost), Err(ErrorKind::Invalid));
    b.live(Change::DeleteMark(web.clone())).unwrap();
    assert_eq!(b.live(Change::DeleteMark(web)), Err(ErrorKind::Invalid));
}

#[test]
fn timeouts_keep_what_is_zero() {
    let mut b = Bench::new();
    b.model.set_timeouts(0, 30, 0).unwrap();
    let t = b.model.settings().timeouts;
    assert_eq!((t.tcp, t.tcp_fin, t.udp), (900, 30, 300));
    assert!(matches!(
        b.model.take_updates()[..],
        [Update::PutSettings(_)]
    ));
}

#[test]
fn the_unsorted_listing_has_the_kernels_order() {
    let mut b = Bench::new();
    // Same bucket: the newer one first; otherwise by bucket.
    let keys = [("10.0.0.1", 80), ("10.0.1.1", 80), ("10.0.0.2", 80)]
        .map(|(a, p)| vs(api::Protocol::Udp, a, p));
    for key in keys {
        b.live(Change::AddService(key, rr())).unwrap();
    }
    let mut expected: Vec<_> = keys.iter().enumerate().collect();
    expected.sort_by_key(|(age, key)| (bucket(**key), std::cmp::Reverse(*age)));
    let listed: Vec<_> = b.list().into_iter().map(|s| s.key).collect();
    assert_eq!(
        listed,
        expected.into_iter().map(|(_, k)| *k).collect::<Vec<_>>()
    );
    assert_eq!(bucket(vs(api::Protocol::Tcp, "10.0.0.1", 80)), 6 ^ 1 ^ 80);
}

#[test]
fn deletions_are_sent_before_what_may_reuse_their_place() {
    let mut b = with_http();
    b.add("192.168.0.1:80").unwrap();
    b.model.take_updates();
    b.live(Change::DeleteService(http())).unwrap();
    b.live(Change::AddService(http(), rr())).unwrap();
    let updates = b.model.take_updates();
    assert!(
        matches!(
            updates[..],
            [
                Update::DeleteService(_),
                Update::PutService(_),
                Update::PutRole(_),
                Update::PutRole(_)
            ]
        ),
        "{updates:?}"
    );
}

/// Its connections are found by their addresses: the mark is only asked for when there is none.
#[test]
fn packets_of_a_deleted_rule_are_ours_while_its_service_has_connections() {
    let mut b = Bench::new();
    let rule = MarkMatch::from_words("destination 203.0.113.0/24".split(' ')).unwrap();
    let five = ServiceKey::Mark {
        mark: 5,
        family: api::Family::Ipv4,
    };
    b.live(Change::AddService(five, rr())).unwrap();
    let add = Change::AddServer(five, rs("192.168.0.1:0"), nat(1), OperatorState::Up);
    b.live(add).unwrap();
    b.live(Change::PutMark(rule.clone(), 5)).unwrap();
    b.counters[1].dests[0].total.set(1);
    b.live(Change::DeleteMark(rule.clone())).unwrap();
    let role = |b: &mut Bench| {
        let vip = ip("203.0.113.7").into();
        b.model.build_roles().of(true, 6, &vip, 80)
    };
    assert_eq!(role(&mut b), roles::MARKED);
    // A file that gives the packets another mark replaces the rule.
    b.live(Change::PutMark(rule.clone(), 5)).unwrap();
    b.by(Author::File, Change::PutMark(rule, 6)).unwrap();
    b.model.scan_trash(b.now, &b.counters);
    assert_eq!(role(&mut b), roles::MARKED);
    // Its server deleted, its service deleted: the connections are still there.
    b.live(Change::DeleteService(five)).unwrap();
    b.model.scan_trash(b.now, &b.counters);
    assert_eq!(role(&mut b), roles::MARKED);
    b.model.take_updates();
    b.counters[1].dests[0].total.set(0);
    b.model.scan_trash(b.now, &b.counters);
    assert_eq!(role(&mut b), 0);
    let updates = b.model.take_updates();
    assert!(matches!(updates[..], [Update::PutRoles(_)]), "{updates:?}");
}

#[test]
fn mh_takes_as_many_servers_as_its_table_has_slots() {
    let mut b = Bench::with(Limits {
        services: 4,
        servers: 5000,
        workers: 1,
    });
    let with = |scheduler: &str| ServiceSpec {
        scheduler: scheduler.into(),
        ..ServiceSpec::default()
    };
    b.live(Change::AddService(http(), with("mh"))).unwrap();
    let mut apply = |change: Change| {
        let done = b.model.apply(b.now, Author::Operator, &change, &b.counters);
        done.map_err(|refusal| refusal.kind)
    };
    let add = |n: u32| {
        let server = rs(&format!("192.168.{}.{}:80", n >> 8, n & 0xff));
        Change::AddServer(http(), server, nat(1), OperatorState::Up)
    };
    for n in 1..=4093 {
        apply(add(n)).unwrap();
    }
    assert_eq!(apply(add(4094)), Err(ErrorKind::Invalid));
    apply(Change::EditService(http(), with("rr"))).unwrap();
    apply(add(4094)).unwrap();
    let back = Change::EditService(http(), with("mh"));
    assert_eq!(apply(back), Err(ErrorKind::Invalid));
    assert_eq!(b.list()[0].spec.scheduler, "rr");
}

#[test]
fn a_service_takes_timeouts_of_its_own_protocol_only() {
    let mut b = Bench::new();
    let with = |timeouts| ServiceSpec {
        scheduler: "rr".into(),
        timeouts,
        ..ServiceSpec::default()
    };
    let tcp = api::ServiceTimeouts {
        tcp: 60,
        ..Default::default()
    };
    let udp = api::ServiceTimeouts {
        udp: 60,
        ..Default::default()
    };
    let long = api::ServiceTimeouts {
        tcp: MAX_TIMEOUT + 1,
        ..Default::default()
    };
    for (timeouts, want) in [
        (udp, Err(ErrorKind::Invalid)),
        (long, Err(ErrorKind::Range)),
        (tcp, Ok(())),
    ] {
        let add = Change::AddService(http(), with(timeouts));
        assert_eq!(b.live(add), want, "{timeouts:?}");
    }
    assert_eq!(b.service().options.timeouts.tcp, 60);
}

/// Sharing a server with a persistent service changes how a plain one is steered. The class is
/// settled once every worker has looked twice and found nothing out of place.
#[test]
fn a_class_that_changes_is_unsettled_until_workers_find_nothing_out_of_place() {
    let mut b = Bench::with(Limits {
        services: 4,
        servers: 4,
        workers: 2,
    });
    let sticky = vs(api::Protocol::Tcp, "10.0.0.1", 81);
    b.live(Change::AddService(http(), rr())).unwrap();
    b.add("192.168.0.1:80").unwrap();
    b.model.take_updates();
    b.live(Change::AddService(
        sticky,
        ServiceSpec {
            persistence: Some(Persistence {
                timeout: 60,
                netmask: Netmask::V4("255.255.255.0".parse().unwrap()),
            }),
            ..rr()
        },
    ))
    .unwrap();
    let to = rs("192.168.0.1:80");
    let add = Change::AddServer(sticky, to, nat(1), OperatorState::Up);
    b.live(add).unwrap();
    let class = |updates: Vec<Update>| {
        let roles = updates.into_iter().find_map(|update| match update {
            Update::PutRoles(roles) => Some(roles),
            _ => None,
        });
        roles.map(|roles| roles.steering().class(6, &ip("10.0.0.1").into(), 80))
    };
    let changed = class(b.model.take_updates()).unwrap();
    assert_eq!(changed.mask.map(|mask| mask as u32), Some(0xffff_ff00));
    assert!(changed.unsettled);

    let mut scan = |looks: [u64; 2], strays: u32| {
        for (counters, looks) in b.counters.iter().zip(looks) {
            counters.stray_looks.add(looks);
        }
        b.counters[1].strays.set(strays);
        b.model.scan_trash(b.now, &b.counters);
        class(b.model.take_updates())
    };
    assert_eq!(scan([5, 5], 0), None, "they may have been earlier ones");
    assert_eq!(scan([1, 9], 0), None, "one look may have begun too early");
    assert_eq!(scan([2, 2], 3), None, "three are elsewhere");
    assert_eq!(
        scan([9, 0], 0),
        Some(dataplane::steering::Class {
            unsettled: false,
            ..changed
        })
    );
    assert_eq!(scan([9, 9], 0), None, "it is settled");
}

/// What workers were told of roles, by whatever updates, is what there is.
#[test]
fn roles_are_told_as_far_as_they_change() {
    let mut b = Bench::with(Limits {
        services: 100,
        servers: 1000,
        workers: 1,
    });
    b.counters = vec![Arc::new(WorkerCounters::new(1000))];
    let mut table = RoleTable::default();
    let mut told = (0, 0);
    let services: Vec<ServiceKey> = (0..12)
        .map(|n| match n {
            10 => vs(api::Protocol::Tcp, "10.0.0.1", 21),
            11 => vs(api::Protocol::Tcp, "10.0.0.1", 8000),
            n if n % 3 == 0 => vs(api::Protocol::Udp, "10.0.0.99", 80 + n),
            n => vs(api::Protocol::Tcp, "10.0.0.1", 80 + n),
        })
        .collect();
    // Some servers have the address and port of a service.
    let server = |n: u64| match n {
        0 => rs("10.0.0.1:81"),
        n => rs(&format!("192.168.0.{}:{}", n % 7, 80 + n % 5)),
    };
    let mut random = 7u64;
    let mut below = |n: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % n
    };
    for step in 0..3000 {
        let service = services[below(12) as usize];
        let key = server(below(40));
        let change = match below(20) {
            0..5 => Change::AddService(service, rr()),
            5 => Change::DeleteService(service),
            6..16 => Change::AddServer(service, key, nat(1), OperatorState::Up),
            _ => Change::DeleteServer(service, key),
        };
        let _ = b.live(change);
        if below(10) == 0 {
            let used = below(2) as u32;
            b.counters[0].dests[below(40) as usize].total.set(used);
            b.now = b.now + Duration::from_secs(200);
            b.model.scan_trash(b.now, &b.counters);
        }
        if below(60) == 0 {
            let local = ["10.0.0.1", "10.0.0.99"]
                .into_iter()
                .skip(below(2) as usize);
            b.model.set_local_addresses(local.map(ip).collect());
        }
        for update in b.model.take_updates() {
            match update {
                Update::PutRoles(new) => {
                    table = (*new).clone();
                    told.0 += 1;
                }
                Update::PutRole(entry) => {
                    assert!(table.put(&entry), "step {step}: full");
                    told.1 += 1;
                }
                _ => {}
            }
        }
        let want = b.model.build_roles();
        let named = services.iter().map(|s| (s.addr().unwrap(), s.port()));
        let servers = (0..40).map(|n| (server(n).addr, server(n).port));
        for (addr, port) in named.chain(servers).chain([(ip("10.0.0.1"), 20_000)]) {
            for protocol in [6, 17] {
                let of = |t: &RoleTable| t.of(true, protocol, &addr.into(), port);
                assert_eq!(
                    of(&table),
                    of(&want),
                    "step {step}: {protocol} {addr}:{port}"
                );
            }
        }
    }
    assert!(told.0 < 1000 && told.1 > 500, "{told:?}");
}
