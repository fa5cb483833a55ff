//! The mirror against a kernel: each test has two network namespaces of its own, one for the
//! balancer (where it runs itself again) and one for the host on the other end of the wire.
//!
//! Needs root and the programs `ip` and `nft`.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant as Clock};

use control::clock;
use control::config::KernelTable;
use control::host::Host;
use control::netlink::{Config, Driver, Holder, Twin};
use control::twin::{Guard, owned, sysctls};
use control::update::Update;
use dataplane::addr::Addr;
use dataplane::packet::PortId;
use dataplane::route::{LinkId, Lookup, Router};
use mio::{Events, Poll, Token};

/// Set in the copy of the test that runs inside the namespace: its name.
const INSIDE: &str = "RVS_NETLINK_TEST";
/// Name of the namespace on the other end.
const PEER: &str = "RVS_NETLINK_PEER";
/// How long a condition is waited for. A change takes effect in under a second; a loaded
/// machine may need longer.
const DEADLINE: Duration = Duration::from_secs(20);

struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Namespace {
        run("ip", &["netns", "add", &name]);
        Namespace(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} {args:?}: {e}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {words}");
}

/// `ip` with words separated by spaces.
fn ip(words: &str) {
    run("ip", &words.split(' ').collect::<Vec<_>>());
}

fn ip_works(words: &str) -> bool {
    Command::new("ip")
        .args(words.split(' '))
        .output()
        .is_ok_and(|o| o.status.success())
}

/// Runs the test called `name` again inside fresh namespaces, where `body` does the work.
fn in_namespaces(name: &str, body: fn()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return body();
    }
    if !rustix::process::geteuid().is_root() || !ip_works("-V") {
        return eprintln!("skipped: needs root and iproute2");
    }
    let id = format!("rvsnl-{}-{name}", std::process::id());
    let (host, peer) = (
        Namespace::new(id.clone()),
        Namespace::new(format!("{id}-peer")),
    );
    let test = std::env::current_exe().unwrap();
    let output = Command::new("ip")
        .args(["netns", "exec", &host.0])
        .arg(test)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env(PEER, &peer.0)
        .output()
        .unwrap();
    let (out, err) = (output.stdout, output.stderr);
    let words = format!(
        "{}{}",
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(&err)
    );
    assert!(output.status.success(), "{words}");
    print!("{words}");
}

/// A twin `wan` whose other end is in the peer's namespace, a device `mgmt` that is no twin, and
/// the mirror with a worker behind it.
struct Lab {
    driver: Driver,
    router: Router,
    poll: Poll,
    local: BTreeSet<IpAddr>,
    peer: String,
}

impl Lab {
    fn devices() -> String {
        let peer = std::env::var(PEER).unwrap();
        ip("link set lo up");
        ip(&format!(
            "link add wan type veth peer name far netns {peer}"
        ));
        ip(&format!(
            "link add mgmt type veth peer name mgmtfar netns {peer}"
        ));
        for device in ["wan", "mgmt"] {
            ip(&format!("link set {device} up"));
        }
        for device in ["far", "mgmtfar"] {
            ip(&format!("-n {peer} link set {device} up"));
        }
        ip("addr add 10.7.0.1/24 dev wan");
        ip("addr add fd07::1/64 dev wan nodad");
        ip("addr add 172.30.0.1/24 dev mgmt");
        ip(&format!("-n {peer} addr add 10.7.0.2/24 dev far"));
        ip(&format!("-n {peer} addr add fd07::2/64 dev far nodad"));
        peer
    }

    fn new(table: KernelTable, buffer_kib: u32) -> Lab {
        let peer = Lab::devices();
        let config = Config {
            twins: vec![Twin {
                port: PortId(0),
                device: "wan".into(),
            }],
            table,
            max_neighbours: 1000,
            refresh: Duration::from_secs(2),
        };
        let poll = Poll::new().unwrap();
        let mut driver = Driver::open(config, buffer_kib).unwrap();
        driver.register(poll.registry(), Token(0)).unwrap();
        let router = Router::new(1000);
        let mut lab = Lab {
            driver,
            router,
            poll,
            local: BTreeSet::new(),
            peer,
        };
        lab.wait("the first table", |lab| {
            lab.driver.mirror().is_synced() && lab.has("10.7.0.1")
        });
        lab
    }

    fn turn(&mut self) {
        let mut events = Events::with_capacity(8);
        let now = clock::now();
        let timeout = self.driver.next_timeout().map(|at| at.since(now));
        let longest = Duration::from_millis(50);
        let timeout = timeout.unwrap_or(longest).min(longest);
        self.poll.poll(&mut events, Some(timeout)).unwrap();
        while self.driver.on_readable(clock::now()) {}
        self.driver.on_timer(clock::now());
        for update in self.driver.take_updates() {
            match update {
                Update::PutFib(fib) => drop(self.router.put_fib(fib)),
                Update::PutLink(id, link) => self.router.put_link(id, link).unwrap(),
                Update::PutNeighbour(id, n) => self.router.put_neighbour(id, n).unwrap(),
                Update::DeleteNeighbour(id) => self.router.delete_neighbour(id),
                Update::FailNeighbour(link, addr) => {
                    self.router.fail_neighbour(clock::now(), link, addr);
                }
                Update::PutMacs(port, macs) => assert_eq!((port, macs.len()), (PortId(0), 1)),
                other => panic!("{other:?}"),
            }
        }
        if let Some(local) = self.driver.take_local_addresses() {
            self.local = local;
        }
    }

    fn wait(&mut self, what: &str, condition: impl Fn(&Lab) -> bool) {
        let started = Clock::now();
        while !condition(self) {
            assert!(started.elapsed() < DEADLINE, "waited in vain for: {what}");
            self.turn();
        }
        println!("{what}: {:?}", started.elapsed());
    }

    /// Runs `ip`, then waits until packets to `dst` go `way`.
    fn change(&mut self, command: &str, dst: &str, way: &str) {
        ip(command);
        self.wait(command, |lab| lab.way(dst) == way);
    }

    fn has(&self, addr: &str) -> bool {
        self.local.contains(&addr.parse::<IpAddr>().unwrap())
    }

    fn way(&self, dst: &str) -> String {
        self.way_of(dst, 0)
    }

    fn way_of(&self, dst: &str, hash: u32) -> String {
        match self.router.lookup(addr(dst), hash) {
            Lookup::Via(hop) => {
                let gateway = hop.gateway.map_or("on-link".into(), |g| g.to_string());
                format!("link {} {gateway} mtu {}", hop.link.0, hop.mtu)
            }
            Lookup::Reject(reject) => format!("{reject:?}").to_lowercase(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// The MAC that frames to `dst` get, if it is known.
    fn mac(&self, dst: &str) -> Option<String> {
        let id = self.router.resolve(addr(dst), 0).ok()?;
        Some(self.router.next_hop(id)?.dmac().to_string())
    }
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

#[test]
fn addresses() {
    in_namespaces("addresses", || {
        let mut lab = Lab::new(KernelTable::Main, 1024);
        assert!(lab.has("fd07::1") && !lab.has("10.7.0.255"));
        assert_eq!(lab.way("10.7.0.9"), "link 0 on-link mtu 1500");
        ip("addr add 10.7.0.100/32 dev wan");
        lab.wait("a virtual address", |lab| lab.has("10.7.0.100"));
        assert_eq!(lab.way("10.7.0.100"), "local");
        assert_eq!(
            lab.driver.holder(addr("10.7.0.100")),
            Some(Holder::Port(PortId(0)))
        );
        assert_eq!(
            lab.driver.holder(addr("172.30.0.1")),
            Some(Holder::Device("mgmt".into()))
        );
        ip("route add local 198.51.100.8/30 dev lo");
        lab.wait("a local route", |lab| lab.has("198.51.100.11"));
        ip("addr add fd07::100/128 dev wan nodad");
        lab.wait("an IPv6 address", |lab| lab.has("fd07::100"));
        ip("addr del 10.7.0.100/32 dev wan");
        lab.wait("its removal", |lab| !lab.has("10.7.0.100"));
        assert_eq!(lab.way("10.7.0.100"), "link 0 on-link mtu 1500");
    });
}

#[test]
fn routes() {
    in_namespaces("routes", || {
        let mut lab = Lab::new(KernelTable::Main, 1024);
        let net = "100.64.0.1";
        lab.change(
            "route add 100.64.0.0/16 via 10.7.0.2",
            net,
            "link 0 10.7.0.2 mtu 1500",
        );
        lab.change(
            "route change 100.64.0.0/16 via 10.7.0.3 mtu 1400",
            net,
            "link 0 10.7.0.3 mtu 1400",
        );
        lab.change(
            "route add 100.64.0.0/16 via 10.7.0.9 metric 50",
            "10.7.0.1",
            "local", // Worse, so nothing changes.
        );
        lab.change(
            "route del 100.64.0.0/16 via 10.7.0.3",
            net,
            "link 0 10.7.0.9 mtu 1500",
        );
        lab.change("route replace blackhole 100.64.0.0/16", net, "blackhole");
        lab.change("route replace 100.64.0.0/16 via 172.30.0.9", net, "foreign");
        lab.change(
            "route del 100.64.0.0/16 via 172.30.0.9",
            net,
            "link 0 10.7.0.9 mtu 1500",
        );
        lab.change("route del 100.64.0.0/16 metric 50", net, "none");
        lab.change(
            "route add default via 10.7.0.2",
            net,
            "link 0 10.7.0.2 mtu 1500",
        );
        lab.change("route add prohibit 100.64.0.0/16", net, "prohibit");
        lab.change(
            "route replace unreachable 100.64.0.0/16",
            net,
            "unreachable",
        );
        lab.change("route replace throw 100.64.0.0/16", net, "none");

        let six = "2001:db8::1";
        lab.change(
            "-6 route add default via fd07::2",
            six,
            "link 0 fd07::2 mtu 1500",
        );
        lab.change(
            "-6 route append default via fd07::3 dev wan",
            six,
            &lab.way(six),
        );
        lab.wait("two hops", |lab| {
            lab.way_of(six, 0) != lab.way_of(six, u32::MAX)
        });
        ip("-6 route del default via fd07::2 dev wan");
        lab.wait("one hop", |lab| {
            [0, u32::MAX]
                .iter()
                .all(|h| lab.way_of(six, *h) == "link 0 fd07::3 mtu 1500")
        });
        lab.change(
            "-6 route replace unreachable 2001:db8::/32",
            six,
            "unreachable",
        );
    });
}

#[test]
fn multipath_and_nexthop_objects() {
    in_namespaces("multipath_and_nexthop_objects", || {
        let mut lab = Lab::new(KernelTable::Main, 1024);
        let net = "100.64.0.1";
        ip("route add 100.64.0.0/16 nexthop via 10.7.0.2 weight 1 nexthop via 10.7.0.3 weight 3");
        let share = |lab: &Lab| {
            let ways = (0..1000u32).map(|i| lab.way_of(net, i * 4_294_967));
            ways.filter(|way| way.contains("10.7.0.3")).count()
        };
        lab.wait("weights", |lab| share(lab).abs_diff(750) < 5);
        ip("nexthop add id 1 via 10.7.0.2 dev wan");
        ip("nexthop add id 2 via 10.7.0.5 dev wan");
        ip("nexthop add id 9 group 1,3/2");
        ip("route replace 100.64.0.0/16 nhid 9");
        lab.wait("a group", |lab| {
            lab.way_of(net, u32::MAX).contains("10.7.0.5")
        });
        assert!(lab.way_of(net, 0).contains("10.7.0.2"));
        ip("nexthop replace id 2 via 10.7.0.6 dev wan");
        lab.wait("a changed object", |lab| {
            lab.way_of(net, u32::MAX).contains("10.7.0.6")
        });
        ip("nexthop del id 1");
        lab.wait("a smaller group", |lab| {
            lab.way_of(net, 0).contains("10.7.0.6")
        });
        ip("nexthop del id 2");
        lab.wait("no group, no route", |lab| lab.way(net) == "none");
    });
}

#[test]
fn neighbours() {
    in_namespaces("neighbours", || {
        let mut lab = Lab::new(KernelTable::Main, 1024);
        assert_eq!(lab.mac("10.7.0.2"), None);
        let servers = ["10.7.0.2", "fd07::2", "100.64.0.1"].map(|a| (a.parse().unwrap(), true));
        lab.driver.change_servers(clock::now(), &servers);
        lab.wait("servers are resolved without traffic", |lab| {
            lab.mac("10.7.0.2").is_some() && lab.mac("fd07::2").is_some()
        });
        ip("route add default via 10.7.0.2");
        lab.wait("the server behind a gateway", |lab| {
            lab.mac("100.64.0.1").is_some()
        });
        let id = lab.router.resolve(addr("10.7.0.2"), 0).unwrap();
        ip("neigh change 10.7.0.2 lladdr 02:00:00:00:00:99 dev wan nud reachable");
        lab.wait("a changed MAC", |lab| {
            lab.mac("10.7.0.2").as_deref() == Some("02:00:00:00:00:99")
        });
        assert_eq!(
            lab.router.resolve(addr("10.7.0.2"), 0),
            Ok(id),
            "the same entry"
        );
        // The kernel asks again, and the true MAC comes back; meanwhile the last one is used.
        ip("neigh flush dev wan");
        let generation = lab.router.generation();
        lab.wait("the true MAC after a flush", |lab| {
            assert!(lab.mac("10.7.0.2").is_some());
            lab.mac("10.7.0.2").as_deref() != Some("02:00:00:00:00:99")
        });
        assert_eq!(lab.router.generation(), generation);
        // Of no interest to us, so it is as the kernel says.
        ip("neigh add 10.7.0.50 lladdr 02:00:00:00:00:50 dev wan nud permanent");
        lab.wait("a permanent entry", |lab| lab.mac("10.7.0.50").is_some());
        ip("neigh del 10.7.0.50 dev wan");
        lab.wait("its end", |lab| lab.mac("10.7.0.50").is_none());
        lab.driver
            .resolve(clock::now(), LinkId(0), addr("10.7.0.50"));
        ip(&format!("-n {} addr add 10.7.0.50/24 dev far", lab.peer));
        lab.wait("an answer to a worker's question", |lab| {
            lab.mac("10.7.0.50").is_some()
        });
        // The other end changes its card and says nothing.
        ip(&format!(
            "-n {} link set far address 02:00:00:00:00:aa",
            lab.peer
        ));
        ip(&format!("-n {} neigh flush dev far", lab.peer));
        ip("neigh flush dev wan");
        lab.wait("a new card", |lab| {
            lab.mac("10.7.0.2").as_deref() == Some("02:00:00:00:00:aa")
        });
        // And goes away for good.
        ip(&format!("-n {} addr flush dev far", lab.peer));
        ip("neigh flush dev wan");
        lab.wait("a silent server is given up", |lab| {
            lab.mac("10.7.0.2").is_none()
        });
        lab.wait("its packets are to be answered", |lab| {
            lab.router
                .is_failed(clock::now(), LinkId(0), addr("10.7.0.2"))
        });
    });
}

#[test]
fn links() {
    in_namespaces("links", || {
        let mut lab = Lab::new(KernelTable::Main, 1024);
        lab.change(
            "route add 100.64.0.0/16 via 10.7.0.2",
            "100.64.0.1",
            "link 0 10.7.0.2 mtu 1500",
        );
        ip("link set wan mtu 1400");
        lab.wait("an MTU", |lab| lab.way("10.7.0.9").ends_with("mtu 1400"));
        assert_eq!(lab.router.link(LinkId(0)).unwrap().mtu, 1400);
        let peer = lab.peer.clone();
        ip(&format!("-n {peer} link set far down"));
        lab.wait("no carrier", |lab| lab.way("100.64.0.1") == "none");
        ip(&format!("-n {peer} link set far up"));
        lab.wait("a carrier", |lab| lab.way("100.64.0.1") != "none");
        ip("link set wan down");
        ip("link set wan up");
        lab.wait("routes that the kernel dropped without a word", |lab| {
            lab.way("100.64.0.1") == "none" && lab.way("10.7.0.9") != "none"
        });
        if ip_works("link add link wan name wan.7 type vlan id 7") {
            ip("link set wan.7 up");
            ip("addr add 10.77.0.1/24 dev wan.7");
            lab.wait("a VLAN", |lab| {
                lab.way("10.77.0.9").starts_with("link 1 on-link")
            });
            assert_eq!(lab.router.link(LinkId(1)).unwrap().vlan, 7);
            lab.change("link del wan.7", "10.77.0.9", "none");
        } else {
            println!("this kernel has no VLAN devices; the mirror's own tests have");
        }
    });
}

#[test]
fn another_table_and_rules() {
    in_namespaces("another_table_and_rules", || {
        let mut lab = Lab::new(KernelTable::Number(77), 1024);
        assert_eq!(lab.way("10.7.0.9"), "none", "main is not mirrored");
        ip("route add default via 172.30.0.9");
        lab.change(
            "route add default via 10.7.0.2 table 77",
            "8.8.8.8",
            "link 0 10.7.0.2 mtu 1500",
        );
        ip("rule add iif wan lookup 77");
        ip("rule add from 10.0.0.0/8 lookup 5 priority 100");
        let line = "ip rule 100: from 10.0.0.0/8 lookup 5 is not mirrored";
        lab.wait("a rule's warning", |lab| lab.driver.warnings() == [line]);
        ip("rule del priority 100");
        lab.wait("its end", |lab| lab.driver.warnings().is_empty());
    });
}

#[test]
fn a_flood_of_changes() {
    in_namespaces("a_flood_of_changes", || {
        // Far more than the receive buffer holds: notifications are lost, and made up for.
        let mut lab = Lab::new(KernelTable::Main, 64);
        let count: u32 = match std::env::var("RVS_FLOOD") {
            Ok(count) => count.parse().unwrap(),
            Err(_) => 20_000,
        };
        let net = |i: u32| Addr::v4((0x1400_0000 + (i << 8)).to_be_bytes());
        let batch = |verb: &str| {
            let line = |i| format!("route {verb} {}/24 via 10.7.0.{}\n", net(i), 2 + i % 7);
            let child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn();
            let mut child = child.unwrap();
            let lines: String = (0..count).map(line).collect();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(lines.as_bytes())
                .unwrap();
            assert!(child.wait().unwrap().success());
        };
        let found = |lab: &Lab| {
            let fib = lab.driver.mirror().fib();
            (0..count)
                .filter(|i| fib.lookup(net(*i), 0) != Lookup::None)
                .count() as u32
        };
        batch("add");
        let mut longest = Duration::ZERO;
        let started = Clock::now();
        while lab.driver.counts().0 < u64::from(count) || found(&lab) != count {
            assert!(
                started.elapsed() < 3 * DEADLINE,
                "{} routes",
                lab.driver.counts().0
            );
            let call = Clock::now();
            let more = lab.driver.on_readable(clock::now());
            longest = longest.max(call.elapsed());
            if !more {
                lab.turn();
            }
        }
        println!(
            "{count} routes read in {:?}, longest call {longest:?}",
            started.elapsed()
        );
        batch("del");
        lab.wait("their end", |lab| found(lab) == 0);
    });
}

#[test]
fn twin_settings() {
    in_namespaces("twin_settings", || {
        let peer = Lab::devices();
        assert!(sysctls::apply("wan").is_empty());
        for setting in sysctls::SETTINGS {
            let path = format!("/proc/sys/net/{}/conf/wan/{}", setting.family, setting.name);
            let value = std::fs::read_to_string(path).unwrap();
            assert_eq!(value.trim(), setting.value.to_string(), "{}", setting.name);
        }
        ip("addr add fd07::77/64 dev wan");
        // Without accept_dad = 0 it would be tentative for a second or two.
        let started = Clock::now();
        let list = || {
            Command::new("ip")
                .args(["-6", "addr", "show", "tentative", "dev", "wan"])
                .output()
        };
        while String::from_utf8(list().unwrap().stdout)
            .unwrap()
            .contains("fd07::77")
        {
            assert!(started.elapsed() < DEADLINE, "fd07::77 stays tentative");
        }
        assert_eq!(sysctls::apply("nothing").len(), 4);

        let pings = |peer: &str| {
            let args = ["netns", "exec", peer, "ping", "-c1", "-W1", "10.7.0.1"];
            Command::new("ip")
                .args(args)
                .output()
                .unwrap()
                .status
                .success()
        };
        let has_ping = Command::new("ping").arg("-V").output().is_ok();
        assert!(!has_ping || pings(&peer));
        let guard = Guard::install("wan port", "wan").unwrap();
        assert!(!has_ping || !pings(&peer), "the kernel must not answer");
        let ipv6 = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/wan/disable_ipv6").unwrap();
        assert_eq!(ipv6(), "1\n");
        // A process that died, and one that comes after it with another name for the port.
        std::mem::forget(guard);
        let guard = Guard::install("front", "wan").unwrap();
        std::mem::forget(guard);
        let leftover = Guard::install("wan port", "wan").unwrap();
        assert!(!has_ping || !pings(&peer), "the kernel must not answer");
        assert_eq!(ipv6(), "1\n");
        drop(leftover);
        assert_eq!(ipv6(), "0\n", "as it was before the first");
        let tables = Command::new("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        assert!(
            tables.stdout.is_empty(),
            "{}",
            String::from_utf8_lossy(&tables.stdout)
        );
        assert!(!has_ping || pings(&peer));
        let refused = Guard::install("x", "nothing").unwrap_err().to_string();
        assert!(
            refused.starts_with("device nothing does not exist"),
            "{refused}"
        );
    });
}

#[test]
fn owned_addresses() {
    in_namespaces("owned_addresses", || {
        Lab::devices();
        owned::add("wan", addr("10.7.0.200"), 32).unwrap();
        owned::add("wan", addr("fd07::200"), 128).unwrap();
        let removed = owned::remove_all("wan", &BTreeSet::new()).unwrap();
        assert_eq!(
            removed,
            ["10.7.0.200", "fd07::200"].map(|a| a.parse::<IpAddr>().unwrap())
        );
        assert!(
            owned::remove_all("wan", &BTreeSet::new())
                .unwrap()
                .is_empty()
        );
        let listing = Command::new("ip")
            .args(["addr", "show", "dev", "wan"])
            .output()
            .unwrap();
        let listing = String::from_utf8(listing.stdout).unwrap();
        assert!(
            listing.contains("10.7.0.1/24") && listing.contains("fd07::1/64"),
            "{listing}"
        );
        assert!(!listing.contains("200"), "{listing}");
        let error = owned::remove_all("nothing", &BTreeSet::new())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("listing addresses on nothing"), "{error}");
    });
}
