//! The mirror without a kernel: messages in, updates out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use control::config::KernelTable;
use control::netlink::message::{
    Address, Device, DeviceKind, Hop, Hops, IfIndex, Message, Neighbour, NextHopObject, Placement,
    Reachability, Route, RouteKind, Rule,
};
use control::netlink::{Action, Config, Dump, Holder, Input, Mirror, Twin};
use control::update::Update;
use dataplane::addr::{Addr, Family, Mac};
use dataplane::packet::PortId;
use dataplane::route::{LinkId, Lookup, Reject, Router, Unresolved};
use dataplane::time::Instant;

const LO: IfIndex = 1;
const MANAGEMENT: IfIndex = 2;
const WAN: IfIndex = 3;
const LAN: IfIndex = 4;
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

type Row = (fn(&Dump) -> bool, Message);

/// A mirror, the worker behind it, and a kernel that is a list of rows.
struct Host {
    mirror: Mirror,
    router: Router,
    now: Instant,
    /// Each with the dumps that contain it.
    rows: Vec<Row>,
    asked: Vec<(IfIndex, Addr)>,
    dumps: Vec<Dump>,
    warnings: BTreeSet<String>,
    local_changes: usize,
    tables: usize,
}

impl Host {
    /// Two twins, an address each, a management device with a default route.
    fn new(table: KernelTable) -> Host {
        let mut actions = Vec::new();
        let twin = |port, device: &str| Twin {
            port: PortId(port),
            device: device.into(),
        };
        let config = Config {
            twins: vec![twin(0, "wan"), twin(1, "lan")],
            table,
            max_neighbours: 100,
            refresh: Duration::from_secs(20),
        };
        let mirror = Mirror::new(config, &mut actions);
        let mut host = Host {
            mirror,
            router: Router::new(100),
            now: Instant::from_secs(1000),
            rows: Vec::new(),
            asked: Vec::new(),
            dumps: Vec::new(),
            warnings: BTreeSet::new(),
            local_changes: 0,
            tables: 0,
        };
        for d in [
            Device {
                kind: DeviceKind::Loopback,
                ..device(LO, "lo")
            },
            device(MANAGEMENT, "eth0"),
            device(WAN, "wan"),
            device(LAN, "lan"),
        ] {
            host.row(|d| *d == Dump::Links, Message::Link(d));
        }
        for (index, addr) in [(WAN, "192.0.2.2"), (LAN, "10.0.0.2"), (LAN, "fd00::2")] {
            host.row(
                |d| *d == Dump::Addresses,
                Message::Address(address(index, addr)),
            );
            let prefix = format!("{addr}/{}", if addr.contains(':') { 128 } else { 32 });
            let route = Route {
                kind: RouteKind::Local,
                ..via(LOCAL, &prefix, &[(index, None)])
            };
            host.route_row(route);
        }
        host.route_row(via(MAIN, "192.0.2.0/24", &[(WAN, None)]));
        host.route_row(via(MAIN, "10.0.0.0/24", &[(LAN, None)]));
        host.route_row(via(MAIN, "fd00::/64", &[(LAN, None)]));
        host.carry_out(actions);
        host
    }

    fn synced() -> Host {
        let mut host = Host::new(KernelTable::Main);
        host.settle();
        assert!(host.mirror.is_synced());
        host
    }

    fn row(&mut self, of: fn(&Dump) -> bool, message: Message) {
        self.rows.push((of, message));
    }

    /// Rows of routes are chosen by their own table and family when they are dumped.
    fn route_row(&mut self, route: Route) {
        self.row(
            |d| matches!(d, Dump::Routes(..)),
            Message::Route(route, Placement::Last),
        );
    }

    fn tell(&mut self, message: Message) {
        self.input(Input::Notice(message));
        self.settle();
    }

    fn add(&mut self, route: Route) {
        self.tell(Message::Route(route, Placement::First));
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.mirror.handle(self.now, input, &mut actions);
        self.carry_out(actions);
    }

    /// Lets time pass, as far as the mirror asks for it now.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut actions = Vec::new();
            self.mirror.settle(self.now, &mut actions);
            self.carry_out(actions);
            if self.mirror.next_timeout().is_none_or(|at| at > self.now) {
                self.now = self.now + Duration::from_millis(25);
                let mut actions = Vec::new();
                self.mirror.settle(self.now, &mut actions);
                self.carry_out(actions);
                return;
            }
        }
        panic!("the mirror does not come to rest");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.settle();
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Update(update) => self.apply(update),
                Action::LocalAddressesChanged => self.local_changes += 1,
                Action::Ask(index, addr) => self.asked.push((index, addr)),
                Action::Warning(line) => assert!(self.warnings.insert(line), "told twice"),
                Action::WarningGone(line) => assert!(self.warnings.remove(&line), "{line}"),
                Action::Dump(dump) => self.dump(dump),
            }
        }
    }

    fn dump(&mut self, dump: Dump) {
        self.dumps.push(dump);
        for (of, message) in self.rows.clone() {
            let in_table = match (&message, dump) {
                (Message::Route(r, _), Dump::Routes(family, table)) => {
                    r.table == table && r.prefix.addr().family() == family
                }
                _ => true,
            };
            if of(&dump) && in_table {
                self.input(Input::Row(message));
            }
        }
        self.input(Input::DumpEnd { complete: true });
    }

    fn apply(&mut self, update: Update) {
        match update {
            Update::PutFib(fib) => {
                drop(self.router.put_fib(fib));
                self.tables += 1;
            }
            Update::PutLink(id, link) => self.router.put_link(id, link).unwrap(),
            Update::PutNeighbour(id, n) => self.router.put_neighbour(id, n).unwrap(),
            Update::DeleteNeighbour(id) => self.router.delete_neighbour(id),
            Update::FailNeighbour(link, addr) => self.router.fail_neighbour(self.now, link, addr),
            Update::PutMacs(..) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Where a packet to `dst` goes: "link 1 via 10.0.0.1", "local", …
    fn way(&self, dst: &str) -> String {
        self.way_of(dst, 0)
    }

    fn way_of(&self, dst: &str, hash: u32) -> String {
        match self.router.lookup(addr(dst), hash) {
            Lookup::Via(hop) => match hop.gateway {
                Some(gateway) => format!("link {} via {gateway}", hop.link.0),
                None => format!("link {}", hop.link.0),
            },
            Lookup::Reject(reject) => format!("{reject:?}").to_lowercase(),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn device(index: IfIndex, name: &str) -> Device {
    Device {
        index,
        name: name.into(),
        mac: Mac([2, 0, 0, 0, 0, index as u8]),
        mtu: 1500,
        admin_up: true,
        carrier: true,
        master: 0,
        kind: DeviceKind::Other,
    }
}

fn address(index: IfIndex, text: &str) -> Address {
    Address {
        index,
        addr: addr(text),
        prefix_len: 24,
        scope: 0,
        preferred: true,
    }
}

fn via(table: u32, prefix: &str, hops: &[(IfIndex, Option<&str>)]) -> Route {
    let hop = |(index, gateway): &(IfIndex, Option<&str>)| Hop {
        index: *index,
        gateway: gateway.map(addr),
        weight: 1,
    };
    Route {
        table,
        prefix: prefix.parse().unwrap(),
        kind: RouteKind::Unicast,
        metric: 0,
        source: None,
        mtu: None,
        hops: Hops::List(hops.iter().map(hop).collect()),
    }
}

fn neighbour(index: IfIndex, text: &str, state: Reachability) -> Neighbour {
    Neighbour {
        index,
        addr: addr(text),
        state,
    }
}

fn usable(last: u8) -> Reachability {
    Reachability::Usable(Mac([2, 0, 0, 0, 1, last]))
}

#[test]
fn workers_hear_nothing_of_routes_before_all_are_read_and_then_one_table() {
    let mut host = Host::new(KernelTable::Main);
    assert!(host.mirror.is_synced(), "this kernel answers at once");
    assert_eq!(host.tables, 0);
    host.settle();
    assert_eq!(host.tables, 1);
    assert_eq!(host.way("192.0.2.9"), "link 0");
    assert_eq!(host.way("10.0.0.9"), "link 1");
    assert_eq!(host.way("fd00::9"), "link 1");
    assert_eq!(host.way("10.0.0.2"), "local");
    assert_eq!(host.way("8.8.8.8"), "none");
    let local: Vec<_> = host
        .mirror
        .local_addresses()
        .iter()
        .map(IpAddr::to_string)
        .collect();
    assert_eq!(local, ["10.0.0.2", "192.0.2.2", "fd00::2"]);
    assert_eq!(host.local_changes, 1);
    assert_eq!(
        host.mirror.holder(addr("10.0.0.2")),
        Some(Holder::Port(PortId(1)))
    );
    assert_eq!(host.mirror.holder(addr("10.0.0.3")), None);
    assert_eq!(
        host.router.link(LinkId(1)).unwrap().mac,
        Mac([2, 0, 0, 0, 0, LAN as u8])
    );
    assert_eq!(host.dumps[0], Dump::Links);
    assert_eq!(
        host.dumps
            .iter()
            .filter(|d| matches!(d, Dump::Routes(..)))
            .count(),
        4
    );
}

#[test]
fn the_best_metric_wins_and_the_next_takes_over() {
    let mut host = Host::synced();
    let slow = Route {
        metric: 20,
        ..via(MAIN, "0.0.0.0/0", &[(LAN, Some("10.0.0.1"))])
    };
    let fast = Route {
        metric: 10,
        ..via(MAIN, "0.0.0.0/0", &[(WAN, Some("192.0.2.1"))])
    };
    host.add(slow.clone());
    assert_eq!(host.way("8.8.8.8"), "link 1 via 10.0.0.1");
    host.add(fast.clone());
    assert_eq!(host.way("8.8.8.8"), "link 0 via 192.0.2.1");
    host.tell(Message::Link(Device {
        carrier: false,
        ..device(WAN, "wan")
    }));
    assert_eq!(
        host.way("8.8.8.8"),
        "link 1 via 10.0.0.1",
        "the better one's device is down"
    );
    host.tell(Message::Link(device(WAN, "wan")));
    assert_eq!(host.way("8.8.8.8"), "link 0 via 192.0.2.1");
    host.tell(Message::RouteGone(fast));
    assert_eq!(host.way("8.8.8.8"), "link 1 via 10.0.0.1");
    let other = Route {
        metric: 20,
        ..via(MAIN, "0.0.0.0/0", &[(LAN, Some("10.0.0.7"))])
    };
    host.tell(Message::Route(other, Placement::Replace));
    assert_eq!(host.way("8.8.8.8"), "link 1 via 10.0.0.7");
    host.tell(Message::RouteGone(slow));
    assert_eq!(
        host.way("8.8.8.8"),
        "none",
        "told with an old hop, the metric decides"
    );
}

#[test]
fn a_shorter_prefix_takes_over_when_a_device_goes_down() {
    let mut host = Host::synced();
    host.add(via(MAIN, "10.8.0.0/16", &[(LAN, Some("10.0.0.1"))]));
    host.add(via(MAIN, "10.0.0.0/8", &[(WAN, Some("192.0.2.1"))]));
    assert_eq!(host.way("10.8.0.1"), "link 1 via 10.0.0.1");
    host.tell(Message::Link(Device {
        carrier: false,
        ..device(LAN, "lan")
    }));
    assert_eq!(host.way("10.8.0.1"), "link 0 via 192.0.2.1");
    assert_eq!(host.way("10.0.0.2"), "local", "addresses stay");
}

#[test]
fn what_leads_nowhere_is_told_apart() {
    let mut host = Host::synced();
    host.add(via(MAIN, "0.0.0.0/0", &[(MANAGEMENT, Some("172.16.0.1"))]));
    host.add(Route {
        kind: RouteKind::Reject(Reject::Blackhole),
        ..via(MAIN, "10.66.0.0/16", &[(0, None)])
    });
    assert_eq!(host.way("8.8.8.8"), "foreign");
    assert_eq!(host.way("10.66.0.1"), "blackhole");
    for (reject, way) in [
        (Reject::Unreachable, "unreachable"),
        (Reject::Prohibit, "prohibit"),
        (Reject::Throw, "none"),
    ] {
        host.add(Route {
            kind: RouteKind::Reject(reject),
            ..via(MAIN, "10.67.0.0/16", &[(0, None)])
        });
        assert_eq!(host.way("10.67.0.1"), way);
    }
    host.tell(Message::Link(Device {
        admin_up: false,
        ..device(MANAGEMENT, "eth0")
    }));
    assert_eq!(host.way("8.8.8.8"), "none");
    host.add(via(77, "8.8.8.8", &[(WAN, None)]));
    assert_eq!(host.way("8.8.8.8"), "none", "another table is not mirrored");
    host.add(via(MAIN, "ff00::/8", &[(LAN, None)]));
    host.add(via(MAIN, "fe80::/64", &[(LAN, None)]));
    assert_eq!(
        (host.way("ff02::1").as_str(), host.way("fe80::1").as_str()),
        ("none", "none")
    );
}

#[test]
fn equal_ways_share_by_weight_and_lose_those_whose_device_is_down() {
    let mut host = Host::synced();
    let mut route = via(
        MAIN,
        "0.0.0.0/0",
        &[(WAN, Some("192.0.2.1")), (LAN, Some("10.0.0.1"))],
    );
    let Hops::List(hops) = &mut route.hops else {
        unreachable!()
    };
    hops[1].weight = 3;
    host.add(route);
    let share = |host: &Host| {
        (0..1000u32)
            .filter(|i| host.way_of("8.8.8.8", i * 4_294_967).contains("link 1"))
            .count()
    };
    assert!(share(&host).abs_diff(750) < 5, "{}", share(&host));
    host.tell(Message::Link(Device {
        carrier: false,
        ..device(LAN, "lan")
    }));
    assert_eq!(share(&host), 0);
}

#[test]
fn a_nexthop_object_changes_under_its_routes() {
    let mut host = Host::synced();
    let hop = |index, gateway: &str| {
        NextHopObject::Hop(Hop {
            index,
            gateway: Some(addr(gateway)),
            weight: 1,
        })
    };
    host.tell(Message::NextHop(1, hop(WAN, "192.0.2.1")));
    host.tell(Message::NextHop(2, hop(LAN, "10.0.0.1")));
    host.tell(Message::NextHop(
        9,
        NextHopObject::Group(vec![(1, 1), (2, 1)]),
    ));
    for i in 0..200 {
        let route = via(MAIN, &format!("100.64.{i}.0/24"), &[]);
        host.add(Route {
            hops: Hops::Object(9),
            ..route
        });
    }
    let ways = |host: &Host| -> BTreeSet<String> {
        [0, u32::MAX]
            .map(|hash| host.way_of("100.64.7.1", hash))
            .into()
    };
    assert_eq!(ways(&host).len(), 2);
    let before = host.tables;
    host.tell(Message::NextHop(9, NextHopObject::Group(vec![(2, 1)])));
    assert_eq!(ways(&host), BTreeSet::from(["link 1 via 10.0.0.1".into()]));
    host.tell(Message::NextHop(2, hop(LAN, "10.0.0.99")));
    assert_eq!(ways(&host), BTreeSet::from(["link 1 via 10.0.0.99".into()]));
    assert_eq!(host.tables, before + 2, "one table for all 200 routes");
    host.tell(Message::NextHop(9, NextHopObject::Blackhole));
    assert_eq!(host.way("100.64.7.1"), "blackhole");
    host.tell(Message::NextHopGone(9));
    assert_eq!(host.way("100.64.7.1"), "none");
    host.pass(Duration::from_millis(200));
    assert_eq!(
        host.mirror.counts().0,
        6,
        "the kernel removed the routes without a word"
    );
}

#[test]
fn mtu_and_source_come_from_route_link_and_address() {
    let mut host = Host::synced();
    let hop = |host: &Host, dst: &str| match host.router.lookup(addr(dst), 0) {
        Lookup::Via(hop) => (hop.mtu, hop.source.to_string()),
        other => panic!("{other:?}"),
    };
    host.add(Route {
        mtu: Some(1400),
        source: Some(addr("198.51.100.1")),
        ..via(MAIN, "0.0.0.0/0", &[(WAN, Some("192.0.2.1"))])
    });
    assert_eq!(hop(&host, "8.8.8.8"), (1400, "198.51.100.1".into()));
    assert_eq!(hop(&host, "10.0.0.7"), (1500, "10.0.0.2".into()));
    assert_eq!(hop(&host, "fd00::7"), (1500, "fd00::2".into()));
    host.tell(Message::Link(Device {
        mtu: 1300,
        ..device(WAN, "wan")
    }));
    host.tell(Message::Link(Device {
        mtu: 9000,
        ..device(LAN, "lan")
    }));
    assert_eq!(hop(&host, "8.8.8.8").0, 1300);
    assert_eq!(hop(&host, "10.0.0.7").0, 9000);
    host.tell(Message::AddressGone(address(LAN, "10.0.0.2")));
    assert_eq!(
        hop(&host, "10.0.0.7").1,
        "192.0.2.2",
        "borrowed from another twin"
    );
}

#[test]
fn a_vlan_on_a_twin_comes_and_goes() {
    let mut host = Host::synced();
    let vlan = Device {
        kind: DeviceKind::Vlan {
            parent: LAN,
            id: 100,
        },
        ..device(9, "lan.100")
    };
    host.add(via(MAIN, "10.100.0.0/24", &[(9, None)]));
    assert_eq!(host.way("10.100.0.1"), "none");
    host.tell(Message::Link(vlan));
    assert_eq!(host.way("10.100.0.1"), "link 2");
    let link = *host.router.link(LinkId(2)).unwrap();
    assert_eq!(
        (link.port, link.vlan, link.mac),
        (PortId(1), 100, Mac([2, 0, 0, 0, 0, 9]))
    );
    host.tell(Message::Neighbour(neighbour(9, "10.100.0.1", usable(1))));
    let id = host.router.resolve(addr("10.100.0.1"), 0).unwrap();
    assert_eq!(host.router.next_hop(id).unwrap().vlan, 100);
    host.tell(Message::LinkGone(9));
    assert_eq!(host.way("10.100.0.1"), "none");
    assert!(!host.router.link(LinkId(2)).unwrap().up);
    assert!(host.router.next_hop(id).is_none());
}

#[test]
fn another_table_may_be_the_one() {
    let mut host = Host::new(KernelTable::Number(77));
    host.route_row(via(77, "0.0.0.0/0", &[(WAN, Some("192.0.2.1"))]));
    host.settle();
    assert_eq!(host.way("10.0.0.2"), "local");
    assert_eq!(host.way("10.0.0.9"), "none");
    host.add(via(77, "0.0.0.0/0", &[(WAN, Some("192.0.2.1"))]));
    host.add(via(MAIN, "0.0.0.0/0", &[(LAN, Some("10.0.0.1"))]));
    assert_eq!(host.way("8.8.8.8"), "link 0 via 192.0.2.1");
}

#[test]
fn a_vrf_may_come_later_than_rvs() {
    let mut host = Host::new(KernelTable::Vrf("blue".into()));
    host.settle();
    assert_eq!(host.warnings.len(), 1, "{:?}", host.warnings);
    assert_eq!(
        host.way("10.0.0.2"),
        "none",
        "that address is in another VRF"
    );
    let vrf = Device {
        kind: DeviceKind::Vrf { table: 10 },
        ..device(8, "blue")
    };
    host.row(|d| *d == Dump::Links, Message::Link(vrf.clone()));
    host.route_row(Route {
        kind: RouteKind::Local,
        ..via(10, "10.0.0.2/32", &[(LAN, None)])
    });
    host.route_row(via(10, "10.0.0.0/24", &[(LAN, None)]));
    host.tell(Message::Link(vrf));
    host.pass(Duration::from_millis(200));
    assert_eq!(host.way("10.0.0.2"), "local");
    assert_eq!(host.way("10.0.0.9"), "link 1");
    assert_eq!(host.mirror.local_addresses().len(), 1);
    assert!(host.warnings.is_empty(), "{:?}", host.warnings);
}

#[test]
fn rules_beyond_the_plain_ones_are_reported() {
    let mut host = Host::synced();
    let rule = Rule {
        family: Family::V4,
        priority: 100,
        table: 5,
        unconditional: false,
        text: "from 10.0.0.0/8 lookup 5".into(),
    };
    host.tell(Message::Rule(rule.clone()));
    assert!(
        host.warnings
            .contains("ip rule 100: from 10.0.0.0/8 lookup 5 is not mirrored")
    );
    host.tell(Message::RuleGone(rule));
    assert!(host.warnings.is_empty());
}

#[test]
fn ipv6_multipath_loses_one_hop_and_devices_share_a_prefix() {
    let mut host = Host::synced();
    let hops = [(WAN, Some("fe80::1")), (LAN, Some("fe80::2"))];
    host.add(Route {
        metric: 1024,
        ..via(MAIN, "::/0", &hops)
    });
    let lost = Route {
        metric: 1024,
        ..via(MAIN, "::/0", &hops[..1])
    };
    host.tell(Message::RouteGone(lost.clone()));
    for hash in [0, u32::MAX] {
        assert_eq!(host.way_of("2001:db8::1", hash), "link 1 via fe80::2");
    }
    // The kernel tells of a multipath route as a whole whenever a hop is added.
    host.tell(Message::Route(
        Route {
            metric: 1024,
            ..via(MAIN, "::/0", &hops)
        },
        Placement::Last,
    ));
    host.tell(Message::RouteGone(Route {
        metric: 1024,
        ..via(MAIN, "::/0", &hops[1..])
    }));
    assert_eq!(host.way("2001:db8::1"), "link 0 via fe80::1");
    host.tell(Message::RouteGone(lost));
    assert_eq!(host.way("2001:db8::1"), "none");
    host.add(via(MAIN, "fd01::/64", &[(LAN, None)]));
    host.add(via(MAIN, "fd01::/64", &[(WAN, None)]));
    host.tell(Message::RouteGone(via(MAIN, "fd01::/64", &[(WAN, None)])));
    assert_eq!(host.way("fd01::1"), "link 1");
}

#[test]
fn after_an_overrun_what_was_missed_is_made_up_for() {
    let mut host = Host::synced();
    host.add(via(MAIN, "100.64.0.0/10", &[(WAN, Some("192.0.2.1"))]));
    host.tell(Message::Neighbour(neighbour(LAN, "10.0.0.50", usable(1))));
    let lost = host.rows.iter().position(
        |(_, m)| matches!(m, Message::Route(r, _) if r.prefix.to_string() == "10.0.0.0/24"),
    );
    host.rows.remove(lost.unwrap());
    host.route_row(via(MAIN, "172.20.0.0/16", &[(LAN, Some("10.0.0.1"))]));
    host.input(Input::Overrun);
    host.settle();
    assert_eq!(
        host.way("100.64.0.1"),
        "none",
        "deleted, and we did not hear of it"
    );
    assert_eq!(host.way("10.0.0.9"), "none");
    assert_eq!(host.way("172.20.0.1"), "link 1 via 10.0.0.1");
    assert_eq!(host.way("192.0.2.9"), "link 0");
    assert_eq!(host.mirror.counts().1, 0);
}

#[test]
fn a_row_written_before_a_deletion_does_not_bring_the_route_back() {
    let mut actions = Vec::new();
    let mut host = Host::synced();
    let route = via(MAIN, "100.64.0.0/10", &[(WAN, Some("192.0.2.1"))]);
    host.add(route.clone());
    // A new dump, answered by hand.
    host.mirror.handle(host.now, Input::Overrun, &mut actions);
    while let Some(Action::Dump(dump)) = actions.pop() {
        if dump == Dump::Routes(Family::V4, MAIN) {
            let gone = Input::Notice(Message::RouteGone(route.clone()));
            host.mirror.handle(host.now, gone, &mut actions);
            let late = Input::Row(Message::Route(route.clone(), Placement::Last));
            host.mirror.handle(host.now, late, &mut actions);
        }
        for (of, message) in host.rows.clone() {
            let of_table = match (&message, dump) {
                (Message::Route(r, _), Dump::Routes(f, t)) => {
                    r.table == t && r.prefix.addr().family() == f
                }
                _ => true,
            };
            if of(&dump) && of_table {
                host.mirror
                    .handle(host.now, Input::Row(message), &mut actions);
            }
        }
        host.mirror
            .handle(host.now, Input::DumpEnd { complete: true }, &mut actions);
    }
    host.settle();
    assert_eq!(host.way("100.64.0.1"), "none");
    assert_eq!(host.way("10.0.0.9"), "link 1");
}

#[test]
fn routes_are_read_again_after_what_the_kernel_does_without_a_word() {
    let mut host = Host::synced();
    let dumps = |host: &Host| {
        host.dumps
            .iter()
            .filter(|d| matches!(d, Dump::Routes(..)))
            .count()
    };
    let before = dumps(&host);
    host.tell(Message::Link(Device {
        admin_up: false,
        ..device(LAN, "lan")
    }));
    host.tell(Message::AddressGone(address(LAN, "10.0.0.2")));
    assert_eq!(dumps(&host), before, "a burst is waited for");
    host.pass(Duration::from_millis(200));
    assert_eq!(dumps(&host), before + 4);
    host.tell(Message::AddressGone(address(LAN, "10.0.0.3")));
    host.pass(Duration::from_millis(200));
    assert_eq!(dumps(&host), before + 4, "an address that was not there");
}

#[test]
fn servers_and_gateways_are_kept_known() {
    let mut host = Host::synced();
    host.add(via(MAIN, "0.0.0.0/0", &[(WAN, Some("192.0.2.1"))]));
    assert_eq!(
        host.asked,
        [(WAN, addr("192.0.2.1"))],
        "a gateway, before any traffic"
    );
    host.asked.clear();
    for server in ["10.0.0.10", "203.0.113.5", "10.0.0.2"] {
        host.mirror.change_server(host.now, addr(server), true);
    }
    host.settle();
    assert_eq!(
        host.asked,
        [(LAN, addr("10.0.0.10"))],
        "the others are behind it, or local"
    );
    host.tell(Message::Neighbour(neighbour(LAN, "10.0.0.10", usable(1))));
    let id = host.router.resolve(addr("10.0.0.10"), 0).unwrap();
    host.tell(Message::Neighbour(neighbour(LAN, "10.0.0.10", usable(2))));
    assert_eq!(host.router.next_hop(id).unwrap().dmac().0[5], 2);
    host.asked.clear();
    host.tell(Message::NeighbourGone(neighbour(
        LAN,
        "10.0.0.10",
        usable(2),
    )));
    assert_eq!(
        host.router.next_hop(id).unwrap().dmac().0[5],
        2,
        "the last MAC stays"
    );
    assert_eq!(host.asked, [(LAN, addr("10.0.0.10"))]);
    host.pass(Duration::from_secs(5));
    let hop = Unresolved::NoNeighbour {
        link: LinkId(1),
        addr: addr("10.0.0.10"),
    };
    assert_eq!(
        host.router.resolve(addr("10.0.0.10"), 0),
        Err(hop),
        "nobody answered"
    );
}

#[test]
fn a_workers_question_is_passed_on() {
    let mut host = Host::synced();
    host.mirror.resolve(host.now, LinkId(1), addr("10.0.0.77"));
    host.settle();
    assert_eq!(host.asked, [(LAN, addr("10.0.0.77"))]);
    host.tell(Message::Neighbour(neighbour(
        LAN,
        "10.0.0.77",
        Reachability::Incomplete,
    )));
    assert!(host.router.resolve(addr("10.0.0.77"), 0).is_err());
    host.tell(Message::Neighbour(neighbour(LAN, "10.0.0.77", usable(7))));
    assert!(host.router.resolve(addr("10.0.0.77"), 0).is_ok());
    host.tell(Message::Neighbour(neighbour(
        MANAGEMENT,
        "172.16.0.1",
        usable(9),
    )));
    assert_eq!(
        host.mirror.counts().1,
        1,
        "neighbours of other devices are not ours"
    );
}

#[test]
fn local_routes_make_addresses_live_up_to_a_width() {
    let mut host = Host::synced();
    let local = |prefix| Route {
        kind: RouteKind::Local,
        ..via(LOCAL, prefix, &[(LO, None)])
    };
    host.add(local("127.0.0.0/8"));
    host.add(local("198.51.100.0/30"));
    let added: Vec<_> = host
        .mirror
        .local_addresses()
        .into_iter()
        .map(|a| a.to_string())
        .collect();
    assert!(added.contains(&"198.51.100.3".into()), "{added:?}");
    assert_eq!(added.len(), 3 + 4);
    assert_eq!(host.mirror.holder(addr("198.51.100.1")), Some(Holder::Host));
    assert!(host.warnings.is_empty());
    host.add(local("203.0.112.0/20"));
    assert_eq!(host.warnings.len(), 1);
    assert_eq!(host.way("203.0.113.1"), "local", "for the kernel it is");
    host.tell(Message::RouteGone(local("203.0.112.0/20")));
    assert!(host.warnings.is_empty());
}

#[test]
fn a_large_loss_is_worked_off_in_pieces() {
    let mut host = Host::synced();
    for i in 0..20_000u32 {
        let prefix = format!("{}/32", Addr::v4((0x6440_0000 + i).to_be_bytes()));
        let route = via(MAIN, &prefix, &[(WAN, Some("192.0.2.1"))]);
        host.input(Input::Notice(Message::Route(route, Placement::First)));
    }
    host.settle();
    assert_eq!(host.mirror.counts().0, 20_006);
    host.input(Input::Overrun);
    let mut steps = 0;
    while host.mirror.next_timeout().is_some_and(|at| at <= host.now) {
        let mut actions = Vec::new();
        host.mirror.settle(host.now, &mut actions);
        host.carry_out(actions);
        steps += 1;
    }
    host.settle();
    assert!(steps >= 10, "{steps}");
    assert_eq!(host.mirror.counts().0, 6);
}
