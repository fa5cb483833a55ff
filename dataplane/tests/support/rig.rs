//! A worker in a small network, into which frames are put one at a time.
//!
//! Port 0 is the clients' side (192.168.40.1/24, fd40::1/64, everything else behind a gateway),
//! port 1 the servers' (192.168.50.1/24, fd50::1/64). The MAC of a neighbour follows from its
//! address: [`mac_of`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::addr::{Addr, Endpoint, Family, Mac};
use dataplane::command::{Command, ConnectionBatch, ConnectionView, Outcome};
use dataplane::conn::region::create;
use dataplane::conn::{HashKey, Layout, Shard};
use dataplane::counters::WorkerCounters;
use dataplane::marks::{MarkRule, Marks, Ports};
use dataplane::packet::{Assist, Attempt, DropReason, Packet, PortId, Verdict};
use dataplane::roles::{LIVE, REAL, RoleEntry, RoleTable, SET_BACK, VIRTUAL};
use dataplane::route::{
    FibBuilder, Link, LinkId, Neighbour, NeighbourId, NextHop, Prefix, Reject, Target,
};
use dataplane::schedule::{self, Seat};
use dataplane::service::{
    DestId, Destination, Destinations, Engine, ForwardingMethod, Persistence, Protocol,
    SchedulerFlags, ServiceId, ServiceKey, ServiceOptions, ServiceTimeouts, Tunnel, TunnelChecksum,
    TunnelKind, VirtualService, Withdrawal,
};
use dataplane::settings::Settings;
use dataplane::steering::{Member, Steering};
use dataplane::team::Team;
use dataplane::time::Instant;
use dataplane::worker::{Limits, Share, Worker};

/// MAC of each port.
pub const PORT_MACS: [Mac; 2] = [Mac([0x52, 0x54, 0, 0, 0, 1]), Mac([0x52, 0x54, 0, 0, 0, 2])];
/// Bytes before and behind a frame in its buffer.
const ROOM: usize = 128;

/// A worker, its configuration and its clock.
pub struct Rig {
    pub worker: Worker,
    pub counters: Arc<WorkerCounters>,
    pub now: Instant,
    /// Which of several workers it is.
    seat: Seat,
    settings: Settings,
    services: Vec<VirtualService>,
    /// Every destination there ever was; the index is its id.
    known: Vec<(ServiceId, Endpoint)>,
    /// Their last weights that were not 0.
    last_weights: HashMap<u32, u32>,
    roles: Vec<RoleEntry>,
    /// Packets of clients are the host's (`backup_only`).
    is_set_back: bool,
    marks: Vec<MarkRule>,
    local: Vec<Prefix>,
    mtu: [u16; 2],
    neighbours: u32,
    /// The link of each neighbour.
    links: Vec<(NeighbourId, u16)>,
    /// VLAN of the servers' side, 0 for none.
    vlan: u16,
    /// What shows each service in a packet, by its id.
    members: Vec<Member>,
    /// Of the last role table.
    steering: Steering,
    settled: bool,
    /// There are other workers.
    steered: bool,
}

/// `-p` and `-M`.
fn persistence(words: &[&str], family: Family) -> Option<Persistence> {
    let value = |option: &str| {
        let i = words.iter().position(|w| *w == option)?;
        words.get(i + 1).copied()
    };
    let timeout = words.contains(&"-p").then(|| value("-p"))?;
    let mask = match (value("-M"), family) {
        (None, Family::V4) => u32::MAX,
        (None, Family::V6) => 128,
        (Some(mask), Family::V4) => addr(mask).bits_v4(),
        (Some(len), Family::V6) => len.parse().unwrap(),
    };
    Some(Persistence {
        timeout: timeout.and_then(|n| n.parse().ok()).unwrap_or(360),
        mask,
        engine: value("--pe").and_then(Engine::find),
    })
}

/// `tcp=60,tcpfin=10,udp=5,sctp=30`, any of them.
fn timeouts(text: &str) -> ServiceTimeouts {
    let of = |name| {
        let value = |part: &str| {
            part.split_once('=')
                .filter(|(key, _)| *key == name)?
                .1
                .parse()
                .ok()
        };
        text.split(',').find_map(value).unwrap_or(0)
    };
    ServiceTimeouts {
        tcp: of("tcp"),
        tcp_fin: of("tcpfin"),
        udp: of("udp"),
        sctp: of("sctp"),
    }
}

/// The frame after the NIC has done what was left to it.
pub fn on_the_wire(packet: &Packet<'_>, verdict: Verdict) -> Vec<u8> {
    let mut frame = packet.frame().to_vec();
    if packet.owed_udp != 0 {
        let udp = 14 + usize::from(packet.owed_udp);
        let sum = match super::notation::checksum(&[&frame[udp..]]) {
            0 => 0xffff,
            sum => sum,
        };
        frame[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
    }
    let leaves = matches!(verdict, Verdict::Transmit(_) | Verdict::Fragment(..));
    if leaves && packet.vlan_tci != 0 {
        let [a, b] = packet.vlan_tci.to_be_bytes();
        frame.splice(12..12, [0x81, 0, a, b]);
    }
    frame
}

/// `02:04` and the four bytes of an IPv4 address, `02:10` and the last four of an IPv6 one.
pub fn mac_of(addr: &Addr) -> Mac {
    let [a, b, c, d] = addr.octets_v4();
    let kind = if addr.family() == Family::V4 { 4 } else { 0x10 };
    Mac([2, kind, a, b, c, d])
}

pub fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>()
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        .into()
}

pub fn endpoint(text: &str) -> Endpoint {
    let addr: SocketAddr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    Endpoint::new(addr.ip().into(), addr.port())
}

/// What `--tun-*` say.
fn tunnel_of<'a>(words: &[&str], value: impl Fn(&str) -> Option<&'a str>) -> Tunnel {
    Tunnel {
        kind: match value("--tun-type") {
            None | Some("ipip") => TunnelKind::IpIp,
            Some("gre") => TunnelKind::Gre,
            Some("gue") => TunnelKind::Gue,
            Some(other) => panic!("{other}: no tunnel"),
        },
        port: value("--tun-port").map_or(0, |n| n.parse().unwrap()),
        checksum: match () {
            () if words.contains(&"--tun-csum") => TunnelChecksum::Full,
            () if words.contains(&"--tun-remcsum") => TunnelChecksum::Remote,
            () => TunnelChecksum::None,
        },
    }
}

/// Of each rig's table.
pub const KEY: HashKey = HashKey([
    0x9e37_79b9_7f4a_7c15,
    0xd1b5_4a32_d192_ed03,
    0xaef1_7502_108e_f2d9,
    7919,
]);
/// The boot in which it was made.
pub const BOOT: [u8; 16] = [7; 16];
/// When a rig begins.
pub const START: Instant = Instant::from_secs(100);
/// Room in the connection table.
const CONNECTIONS: u32 = 1024;
/// Most destinations.
const DESTS: usize = 64;

/// Bytes that a rig's connection table needs, with room to align it.
pub fn memory_size() -> usize {
    Layout::for_connections(CONNECTIONS).bytes() + 64
}

impl Default for Rig {
    fn default() -> Rig {
        Rig::new()
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with_share(Share::ALL)
    }

    /// One of several workers.
    pub fn with_share(share: Share) -> Rig {
        Rig::made(share, vec![0u8; memory_size()].leak())
    }

    /// So many workers that know of each other's connections.
    pub fn team(workers: usize) -> Vec<Rig> {
        let rig = |(worker, seat)| {
            let mut rig = Rig::with_share(Share::of(worker, workers));
            rig.seat = Seat {
                worker,
                workers,
                seed: 7 + worker as u64,
            };
            rig.worker.join(seat);
            rig
        };
        let seats = Team::gather(workers, DESTS);
        seats.into_iter().enumerate().map(rig).collect()
    }

    /// With its connection table in `bytes`: zeros, [`memory_size`] of them.
    pub fn in_memory(bytes: &'static mut [u8]) -> Rig {
        Rig::made(Share::ALL, bytes)
    }

    fn made(share: Share, bytes: &'static mut [u8]) -> Rig {
        let layout = Layout::for_connections(CONNECTIONS);
        let skip = bytes.as_ptr().align_offset(64);
        let memory = &mut bytes[skip..skip + layout.bytes()];
        let shards = create(memory, layout, KEY, BOOT, START.ticks()).unwrap();
        let own = |(n, shard)| share.elsewhere(n).is_none().then_some(shard);
        let shards = (0..).zip(shards).filter_map(own).collect();
        Rig::with_shards(share, shards)
    }

    /// One of several workers with its part of a table.
    pub fn with_shards(share: Share, shards: Vec<Shard>) -> Rig {
        let (key, now) = (KEY, START);
        let counters = Arc::new(WorkerCounters::new(DESTS));
        let limits = Limits {
            services: 16,
            dests: DESTS,
            neighbours: 256,
            ports: 2,
        };
        let settings = Settings::default();
        let worker =
            Worker::with_share(share, shards, key, limits, Arc::clone(&counters), settings);
        let mut rig = Rig {
            worker,
            counters,
            now,
            seat: Seat::alone(7),
            settings,
            services: Vec::new(),
            known: Vec::new(),
            last_weights: HashMap::new(),
            roles: Vec::new(),
            is_set_back: false,
            marks: Vec::new(),
            local: Vec::new(),
            mtu: [1500; 2],
            neighbours: 0,
            links: Vec::new(),
            vlan: 0,
            members: Vec::new(),
            steering: Steering::default(),
            settled: false,
            steered: share.team() > 1,
        };
        for (port, mac) in (0..).map(PortId).zip(PORT_MACS) {
            rig.apply(Command::PutMacs(port, Box::new([mac])));
        }
        rig.put_network();
        // The gateway is one machine with one MAC.
        for gateway in ["192.168.40.254", "fd40::fe"] {
            rig.neighbour(0, gateway, mac_of(&addr("192.168.40.254")));
        }
        rig
    }

    pub fn apply(&mut self, command: Command) {
        if let Outcome::Refused(why, _) = self.worker.apply(self.now, command) {
            panic!("refused: {why}");
        }
    }

    fn put_network(&mut self) {
        for (port, mac) in (0..).zip(PORT_MACS) {
            let vlan = if port == 1 { self.vlan } else { 0 };
            let mtu = self.mtu[usize::from(port)];
            let link = Link {
                port: PortId(port),
                vlan,
                mac,
                mtu,
                up: true,
            };
            self.apply(Command::PutLink(LinkId(port), link));
        }
        let mut fib = FibBuilder::new();
        let own = ["192.168.40.1", "fd40::1", "192.168.50.1", "fd50::1"];
        let mut local: Vec<Addr> = own.into_iter().map(addr).collect();
        local.extend(
            self.services
                .iter()
                .filter_map(|s| s.key.endpoint().map(|e| e.addr)),
        );
        for a in local {
            let len = if a.family() == Family::V4 { 32 } else { 128 };
            fib.add(Prefix::new(a, len).unwrap(), Target::Local);
        }
        for prefix in &self.local {
            fib.add(*prefix, Target::Local);
        }
        let ways = [
            ("0.0.0.0/0", 0, Some("192.168.40.254"), "192.168.40.1"),
            ("::/0", 0, Some("fd40::fe"), "fd40::1"),
            ("192.168.40.0/24", 0, None, "192.168.40.1"),
            ("fd40::/64", 0, None, "fd40::1"),
            ("192.168.50.0/24", 1, None, "192.168.50.1"),
            ("fd50::/64", 1, None, "fd50::1"),
        ];
        for (prefix, link, gateway, source) in ways {
            let hop = NextHop {
                link: LinkId(link),
                gateway: gateway.map(addr),
                mtu: self.mtu[usize::from(link)],
                source: addr(source),
            };
            fib.add(prefix.parse().unwrap(), Target::Via(hop));
        }
        for (prefix, target) in [
            ("203.0.113.0/24", Target::Reject(Reject::Blackhole)),
            ("198.18.0.0/24", Target::Reject(Reject::Unreachable)),
            ("198.18.1.0/24", Target::Reject(Reject::Prohibit)),
            ("198.18.2.0/24", Target::Reject(Reject::Throw)),
            ("fdee:0::/64", Target::Reject(Reject::Unreachable)),
            ("fdee:1::/64", Target::Reject(Reject::Prohibit)),
            ("fdee:2::/64", Target::Reject(Reject::Throw)),
            ("198.51.100.0/24", Target::Foreign),
        ] {
            fib.add(prefix.parse().unwrap(), target);
        }
        self.apply(Command::PutFib(Arc::new(fib.build())));
    }

    /// `mtu PORT N`, `vlan ID`, `failed PORT ADDRESS`, `unknown PORT`, `set_back N`, or a setting and its value.
    pub fn set(&mut self, value: &str) {
        let words: Vec<&str> = value.split_whitespace().collect();
        let number = |i: usize| super::notation::number(words[i]);
        match words[0] {
            "mtu" => self.set_mtu(number(1) as usize, number(2) as u16),
            "failed" => {
                let at = (LinkId(number(1) as u16), addr(words[2]));
                self.apply(Command::FailNeighbour(at.0, at.1));
            }
            "set_back" => {
                self.is_set_back = number(1) != 0;
                self.put_roles();
            }
            "unknown" => self.forget_neighbours(number(1) as u16),
            "vlan" => self.set_vlan(number(1) as u16),
            "sloppy_tcp" => self.change_settings(|s| s.sloppy_tcp = number(1) != 0),
            "sloppy_sctp" => self.change_settings(|s| s.sloppy_sctp = number(1) != 0),
            "expire_nodest_conn" => {
                self.change_settings(|s| s.expire_nodest_conn = number(1) != 0);
            }
            "conn_reuse_mode" => self.change_settings(|s| s.conn_reuse_mode = number(1) as u32),
            "schedule_icmp" => self.change_settings(|s| s.schedule_icmp = number(1) != 0),
            "pmtu_disc" => self.change_settings(|s| s.pmtu_disc = number(1) != 0),
            "nat_icmp_send" => self.change_settings(|s| s.nat_icmp_send = number(1) != 0),
            other => panic!("set {other}: unknown"),
        }
    }

    /// Sets the MTU of a port.
    pub fn set_mtu(&mut self, port: usize, mtu: u16) {
        self.mtu[port] = mtu;
        self.put_network();
    }

    /// Puts the servers' side into a VLAN.
    pub fn set_vlan(&mut self, vlan: u16) {
        self.vlan = vlan;
        self.put_network();
    }

    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.apply(Command::PutSettings(self.settings));
    }

    /// Makes a neighbour known.
    pub fn neighbour(&mut self, link: u16, text: &str, mac: Mac) {
        let id = NeighbourId(self.neighbours);
        self.neighbours += 1;
        self.links.push((id, link));
        let neighbour = Neighbour {
            link: LinkId(link),
            addr: addr(text),
            mac,
        };
        self.apply(Command::PutNeighbour(id, neighbour));
    }

    /// Makes all neighbours on a link unknown.
    pub fn forget_neighbours(&mut self, link: u16) {
        let on_link = |&(_, at): &(NeighbourId, u16)| at == link;
        let gone: Vec<_> = self.links.iter().copied().filter(on_link).collect();
        for (id, _) in gone {
            self.apply(Command::DeleteNeighbour(id));
        }
    }

    /// The services and servers that a recording adds, in its lines that begin with `ipvsadm`.
    pub fn rules(&mut self, recording: &str) {
        let all = recording.lines().filter_map(|l| l.strip_prefix("ipvsadm "));
        for rule in all.filter(|l| l.starts_with("-A") || l.starts_with("-a")) {
            self.ipvsadm(rule);
        }
    }

    /// One `ipvsadm` call; real servers become known neighbours. With `--failed` or `--over` the
    /// server is out of service.
    pub fn ipvsadm(&mut self, args: &str) {
        let words: Vec<&str> = args.split_whitespace().collect();
        let value = |option: &str| {
            let i = words.iter().position(|w| *w == option)?;
            words.get(i + 1).copied()
        };
        let address = |option, protocol| Some((value(option)?, protocol));
        let at = address("-t", Protocol::Tcp)
            .or_else(|| address("-u", Protocol::Udp))
            .or_else(|| address("--sctp-service", Protocol::Sctp));
        let key = match (at, value("-f")) {
            (Some((vip, protocol)), _) => ServiceKey::new(protocol, endpoint(vip)),
            (_, Some(mark)) => ServiceKey::Mark {
                family: if words.contains(&"-6") {
                    Family::V6
                } else {
                    Family::V4
                },
                mark: mark.parse().unwrap(),
            },
            _ => panic!("{args}: no service"),
        };
        let at = self.services.iter().position(|s| s.key == key);
        let at = at.unwrap_or_else(|| {
            assert_eq!(words[0], "-A", "{args}: no such service");
            let id = ServiceId(self.services.len() as u32);
            self.services.push(VirtualService {
                id,
                key,
                scheduler: "",
                options: ServiceOptions::default(),
                destinations: Destinations::default(),
                withdrawn: Vec::new(),
            });
            if let (Some(protocol), Some(vip)) = (key.protocol(), key.endpoint()) {
                self.role(protocol, vip, VIRTUAL);
            }
            self.put_network();
            self.services.len() - 1
        });
        if let Some(name) = value("-s") {
            self.services[at].scheduler = schedule::find(name).unwrap();
        }
        if ["-A", "-E"].contains(&words[0]) {
            self.services[at].options = ServiceOptions {
                one_packet: words.contains(&"-o"),
                persistence: persistence(&words, key.family()),
                timeouts: timeouts(value("--conn-timeouts").unwrap_or_default()),
                flags: SchedulerFlags {
                    fallback: value("-b").is_some_and(|flags| flags.contains("fallback")),
                    port: value("-b").is_some_and(|flags| flags.contains("port")),
                },
            };
        }
        if let Some(real) = value("-r") {
            let real = real
                .parse::<std::net::IpAddr>()
                .map_or_else(|_| endpoint(real), |a| Endpoint::new(a.into(), key.port()));
            self.services[at]
                .withdrawn
                .retain(|(d, _)| d.endpoint != real);
            let dests = &mut self.services[at].destinations;
            match words[0] {
                "-d" => dests.edit(|dests| dests.retain(|d| d.endpoint != real)),
                "-a" | "-e" => {
                    let dest = self.destination(at, real, &words, value);
                    let how = match () {
                        () if words.contains(&"--failed") => Some(Withdrawal::Failed),
                        () if words.contains(&"--over") => Some(Withdrawal::Over),
                        () => None,
                    };
                    let service = &mut self.services[at];
                    let id = dest.id;
                    let place = service.destinations.iter().position(|d| d.id == id);
                    match how {
                        Some(how) => {
                            service
                                .destinations
                                .edit(|dests| dests.retain(|d| d.id != id));
                            service.withdrawn.push((dest, how));
                        }
                        None => service.destinations.edit(|dests| match place {
                            Some(i) => dests[i] = dest,
                            None => dests.insert(0, dest),
                        }),
                    }
                }
                other => panic!("{other}: not known here"),
            }
        }
        self.put_steering();
        let service = self.services[at].clone();
        let scheduler = schedule::new(&service, self.seat).unwrap();
        self.apply(Command::PutService {
            service: Arc::new(service),
            scheduler,
        });
    }

    fn destination<'a>(
        &mut self,
        service: usize,
        real: Endpoint,
        words: &[&str],
        value: impl Fn(&str) -> Option<&'a str> + Copy,
    ) -> Destination {
        let of = (self.services[service].id, real);
        let known = self.known.iter().position(|k| *k == of);
        let id = known.unwrap_or_else(|| {
            self.known.push(of);
            let text = real.addr.to_string();
            if text.starts_with("192.168.50.") || text.starts_with("fd50::") {
                self.neighbour(1, &text, mac_of(&real.addr));
            }
            self.known.len() - 1
        });
        let method = match () {
            () if words.contains(&"-m") => ForwardingMethod::Masquerade,
            () if words.contains(&"-i") => ForwardingMethod::Tunnel,
            () => ForwardingMethod::DirectRoute,
        };
        if method == ForwardingMethod::Masquerade {
            match self.services[service].key.protocol() {
                Some(protocol) => {
                    self.role(protocol, real, REAL | LIVE);
                    let port = self.services[service].key.port();
                    if port == 0 || protocol == Protocol::Tcp && port == 21 {
                        // Data connections come from any port.
                        self.role(protocol, Endpoint::new(real.addr, 0), REAL | LIVE);
                    }
                }
                None => [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                    .into_iter()
                    .flat_map(|p| [(p, real.port), (p, 0)])
                    .for_each(|(p, port)| {
                        self.role(p, Endpoint::new(real.addr, port), REAL | LIVE)
                    }),
            }
        }
        let number =
            |option: &str, otherwise| value(option).map_or(otherwise, |n| n.parse().unwrap());
        let last = self.last_weights.entry(id as u32).or_default();
        *last = Some(number("-w", 1)).filter(|&w| w != 0).unwrap_or(*last);
        let last_weight = *last;
        Destination {
            id: DestId(id as u32),
            endpoint: real,
            method,
            weight: number("-w", 1),
            last_weight,
            upper: number("-x", 0),
            lower: number("-y", 0),
            tunnel: tunnel_of(words, value),
        }
    }

    fn role(&mut self, protocol: Protocol, endpoint: Endpoint, roles: u8) {
        self.roles.push(RoleEntry {
            protocol: protocol.number(),
            endpoint,
            roles,
        });
        self.put_roles();
    }

    fn put_roles(&mut self) {
        let marked: Vec<Prefix> = self.marks.iter().map(|m| m.destination).collect();
        let steering = match self.steered {
            true => Steering::build(&self.members).after(&self.steering, self.settled),
            false => Steering::default(),
        };
        self.steering = steering.clone();
        let mut roles = self.roles.clone();
        if self.is_set_back {
            for e in roles.iter_mut().filter(|e| e.roles & VIRTUAL != 0) {
                e.roles ^= VIRTUAL | SET_BACK;
            }
        }
        let table = RoleTable::build_steered(&roles, &marked, steering);
        self.apply(Command::PutRoles(Arc::new(table)));
    }

    /// How packets are steered by the rules.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Every service as it is, and as it was: servers that left may have connections.
    fn put_steering(&mut self) {
        for service in &self.services {
            let servers = service.all().map(|(d, _)| d.endpoint);
            let of_mark = |m: &&MarkRule| m.mark == service.key.mark();
            let marked = self.marks.iter().filter(of_mark).map(|m| m.destination);
            let persistence = service.options.persistence.as_ref();
            let member = Member::of_service(&service.key, persistence, servers, marked.collect());
            let id = service.id.0 as usize;
            if self.members.len() <= id {
                self.members.resize(id + 1, Member::default());
            }
            let old = core::mem::replace(&mut self.members[id], member);
            let place = &mut self.members[id].endpoints;
            let gone: Vec<_> = old
                .endpoints
                .into_iter()
                .filter(|e| !place.contains(e))
                .collect();
            place.extend(gone);
        }
        self.put_roles();
    }

    /// Says that no connection is where an earlier role table had it.
    #[allow(dead_code)]
    pub fn settle(&mut self) {
        self.settled = true;
        self.put_roles();
        self.settled = false;
    }

    /// Adds rules that mark packets, as nftables writes them: `ip daddr 192.168.40.200 tcp dport
    /// { 443, 8081 } meta mark set 21`.
    pub fn nft(&mut self, rule: &str) {
        let mut words = rule.split_whitespace().peekable();
        let mut matched = MarkRule {
            source: "0.0.0.0/0".parse().unwrap(),
            destination: "0.0.0.0/0".parse().unwrap(),
            protocol: None,
            source_ports: Ports::ANY,
            destination_ports: Ports::ANY,
            vlan: None,
            input: None,
            mark: 0,
        };
        let mut ports = Vec::new();
        while let Some(word) = words.next() {
            match word {
                "ip" | "ip6" | "mark" | "set" => {}
                "saddr" => matched.source = words.next().unwrap().parse().unwrap(),
                "daddr" => matched.destination = words.next().unwrap().parse().unwrap(),
                "tcp" => matched.protocol = Some(6),
                "udp" => matched.protocol = Some(17),
                "dport" => loop {
                    match words.next().unwrap().trim_end_matches(',') {
                        "{" => continue,
                        "}" => break,
                        range => {
                            let (first, last) = range.split_once('-').unwrap_or((range, range));
                            let [first, last] = [first, last].map(|n| n.parse().unwrap());
                            ports.push(Ports { first, last });
                        }
                    }
                    if words.peek() == Some(&"meta") {
                        break;
                    }
                },
                "meta" => matched.mark = rule.rsplit(' ').next().unwrap().parse().unwrap(),
                number if number.parse() == Ok(matched.mark) => {}
                other => panic!("{rule}: {other}"),
            }
        }
        if ports.is_empty() {
            ports.push(Ports::ANY);
        }
        if matched.destination.addr().family() == Family::V6 {
            matched.source = "::/0".parse().unwrap();
        }
        self.marks
            .extend(ports.into_iter().map(|destination_ports| MarkRule {
                destination_ports,
                ..matched
            }));
        self.apply(Command::PutMarks(Arc::new(Marks::build(&self.marks))));
        self.put_steering();
    }

    /// Makes a network local.
    pub fn local(&mut self, prefix: &str) {
        self.local.push(prefix.parse().unwrap());
        self.put_network();
    }

    /// Puts a frame in; what becomes of it, and the frame as it then is.
    pub fn inject(&mut self, port: u16, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.inject_tagged(port, frame, 0)
    }

    /// A packet that another worker handed over.
    #[allow(dead_code)]
    pub fn inject_attempt(
        &mut self,
        port: u16,
        frame: &[u8],
        attempt: Attempt,
    ) -> (Verdict, Vec<u8>) {
        let mut room = vec![0xa5; ROOM + frame.len() + ROOM];
        room[ROOM..ROOM + frame.len()].copy_from_slice(frame);
        let mut packet = Packet::new(&mut room, ROOM as u16, frame.len() as u16, PortId(port));
        let verdict = self.worker.process_attempt(self.now, &mut packet, attempt);
        (verdict, packet.frame().to_vec())
    }

    /// As [`Rig::inject`], with a VLAN tag that the driver took out.
    pub fn inject_tagged(&mut self, port: u16, frame: &[u8], tci: u16) -> (Verdict, Vec<u8>) {
        let mut room = vec![0xa5; ROOM + frame.len() + ROOM];
        room[ROOM..ROOM + frame.len()].copy_from_slice(frame);
        let mut packet = Packet::new(&mut room, ROOM as u16, frame.len() as u16, PortId(port));
        packet.vlan_tci = tci;
        let mut out = [Verdict::Drop(DropReason::NotOurMac)];
        self.worker
            .process(self.now, std::slice::from_mut(&mut packet), &mut out);
        (out[0], on_the_wire(&packet, out[0]))
    }

    /// Leaves this to the NICs of both ports; the rig does it in their place.
    #[allow(dead_code)]
    pub fn assist(&mut self, assist: Assist) {
        for port in [PortId(0), PortId(1)] {
            self.worker.assist(port, assist);
        }
        self.put_network();
    }

    /// Lets time pass: what is due expires.
    pub fn sleep(&mut self, time: std::time::Duration) {
        let step = std::time::Duration::from_millis(50);
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + step).min(end);
            // Enough for every shard.
            for _ in 0..64 {
                self.worker.expire(self.now, 4096);
            }
        }
    }

    /// A frame that the kernel sends by the twin of a port; the frame as it then leaves.
    pub fn inject_from_kernel(&mut self, port: u16, frame: &[u8]) -> Vec<u8> {
        self.answer_from_kernel(port, frame, Attempt::START).1
    }

    /// A probe of a health check: what becomes of it, and the frame as it then is.
    #[allow(dead_code)]
    pub fn probe(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut room = vec![0xa5; ROOM + frame.len()];
        room[ROOM..].copy_from_slice(frame);
        let mut packet = Packet::new(&mut room, ROOM as u16, frame.len() as u16, PortId(0));
        let verdict = self.worker.process_probe(self.now, &mut packet);
        (verdict, packet.frame().to_vec())
    }

    /// The same with what becomes of it, from an attempt on.
    pub fn answer_from_kernel(
        &mut self,
        port: u16,
        frame: &[u8],
        attempt: Attempt,
    ) -> (Verdict, Vec<u8>) {
        let mut room = frame.to_vec();
        let mut packet = Packet::new(&mut room, 0, frame.len() as u16, PortId(port));
        let verdict = self
            .worker
            .process_from_kernel(self.now, &mut packet, attempt);
        (verdict, packet.frame().to_vec())
    }

    /// The services as they are now.
    pub fn services(&self) -> &[VirtualService] {
        &self.services
    }

    /// All connections.
    pub fn connections(&mut self) -> Vec<ConnectionView> {
        let mut batch = Box::new(ConnectionBatch {
            rows: Vec::with_capacity(1000),
            ..Default::default()
        });
        let mut all = Vec::new();
        while !batch.cursor.done {
            batch = match self.worker.apply(self.now, Command::DumpConnections(batch)) {
                Outcome::Connections(batch) => batch,
                _ => panic!("no connections in the answer"),
            };
            all.append(&mut batch.rows);
        }
        all
    }
}
