//! A worker as `rvsd` has it, between null ports: services, routes, neighbours, one table.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dataplane::addr::{Addr, Endpoint, Mac};
use dataplane::command::{self, Command, Outcome};
use dataplane::conn::{HashKey, Layout, Shard, region};
use dataplane::counters::WorkerCounters;
use dataplane::packet::PortId;
use dataplane::roles::{REAL, RoleEntry, RoleTable, VIRTUAL};
use dataplane::route::{
    Change, Fib, Link, LinkId, Neighbour, NeighbourId, NextHop, Prefix, Target, TargetId,
};
use dataplane::schedule::{self, Seat};
use dataplane::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};
use dataplane::settings::Settings;
use dataplane::time::{Instant, Ticks};
use dataplane::worker::{Limits, Share, Worker};
use dpdk::clock::Clock;
use dpdk::eal::{Eal, EalConfig, HugepageFiles, Memory};
use dpdk::lcore;
use dpdk::mbuf::Burst;
use dpdk::mempool::{DATA_ROOM, Mempool};
use dpdk::peers::Peers;
use dpdk::poll::{Idle, Loop, Parking, Probe, Rings, Way};
use dpdk::port::{Port, PortConfig, RunningPort, RxQueue};
use dpdk::pump::Bell;
use dpdk::region::{Backing, Pages, Region};
use dpdk::sched::Eager;

use crate::cores;
use crate::pair::{self, Pair};
use crate::traffic::{ACK, Client};

/// Real servers of each service.
pub const SERVERS: usize = 4;
/// Port of the services.
pub const VIRTUAL_PORT: u16 = 80;
/// Port of the real servers behind NAT.
pub const REAL_PORT: u16 = 8080;
/// Sizes of the rows; each has a worker with a table of its own.
pub const SIZES: [u32; 4] = [1_000, 100_000, 1_000_000, LARGEST];
/// The last of them is left out where there is no memory for it.
pub const LARGEST: u32 = 10_000_000;
/// MACs of the source and the sink.
pub const OUR_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
/// MAC of the router towards the clients.
pub const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 1, 0]);
/// MiB of hugepages for EAL.
pub const EAL_MB: u32 = 64;

/// Address family of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Forwarding method of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Masquerading.
    Nat,
    /// Direct routing.
    Direct,
    /// IP in IP.
    Tunnel,
}

/// Direction of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Client to server.
    Request,
    /// Server to client.
    Reply,
}

const SERVICES: [(Family, Method); 4] = [
    (Family::V4, Method::Nat),
    (Family::V4, Method::Direct),
    (Family::V4, Method::Tunnel),
    (Family::V6, Method::Nat),
];

/// Real servers of all services together.
pub const DESTS: usize = SERVICES.len() * SERVERS;

/// Most real servers of a service that [`reschedule`] makes; their ids follow the others'.
pub const MOST_DESTS: usize = 1000;

/// The service of [`Family::V4`] and [`Method::Nat`] with another scheduler and as many real
/// servers, which share the addresses of the few there are.
///
/// # Errors
/// There is no such scheduler.
pub fn reschedule(scheduler: &str, destinations: u32) -> Result<Command> {
    let dest = |n: u32| {
        // ovf takes no more active connections than the weight.
        let weight = if scheduler == "ovf" {
            65_535
        } else {
            1 + n % 3
        };
        Destination {
            id: DestId(DESTS as u32 + n),
            endpoint: Endpoint::new(Addr::v4(server4(n as usize % SERVERS)), REAL_PORT),
            method: ForwardingMethod::Masquerade,
            weight,
            last_weight: weight,
            upper: 0,
            lower: 0,
            tunnel: Tunnel::default(),
        }
    };
    let vip = addr(&Family::V4.vip(Method::Nat));
    let service = VirtualService {
        id: ServiceId(0),
        key: ServiceKey::new(Protocol::Tcp, Endpoint::new(vip, VIRTUAL_PORT)),
        scheduler: schedule::find(scheduler).context("no such scheduler")?,
        options: ServiceOptions::default(),
        destinations: (0..destinations).map(dest).collect(),
        withdrawn: Vec::new(),
    };
    let scheduler = schedule::new(&service, Seat::alone(7)).context("no such scheduler")?;
    Ok(Command::PutService {
        service: Arc::new(service),
        scheduler,
    })
}

/// So many services behind NAT more, each with the usual real servers: 203.0.0.0 and on. One is the
/// usual one, as it was at first.
///
/// # Errors
/// There is no scheduler rr.
pub fn spread(services: u32) -> Result<Vec<Command>> {
    let mut commands = Vec::new();
    let (usual, mut roles) = usual_services();
    if services <= 1 {
        let first = usual.into_iter().take(services as usize);
        return first.map(put).collect();
    }
    for n in 0..services {
        let vip = Addr::v4([203, 0, (n >> 8) as u8, n as u8]);
        let first = (DESTS + MOST_DESTS) as u32 + n * SERVERS as u32;
        let id = usual.len() as u32 + n;
        let (service, role) = service(id, vip, Family::V4, Method::Nat, first);
        roles.extend(role);
        commands.push(put(service)?);
    }
    commands.push(Command::PutRoles(Arc::new(RoleTable::build(&roles))));
    Ok(commands)
}

/// Address of a real server.
pub fn server4(s: usize) -> [u8; 4] {
    [192, 168, 1, 11 + s as u8]
}

/// Its MAC.
pub fn server_mac(s: usize) -> Mac {
    Mac([2, 0, 0, 0, 2, s as u8])
}

fn long(prefix: [u8; 6], last: [u8; 4]) -> [u8; 16] {
    let mut addr = [0; 16];
    addr[..6].copy_from_slice(&prefix);
    addr[12..].copy_from_slice(&last);
    addr
}

impl Family {
    /// A client's address as it stands in a packet.
    pub fn client(self, addr: u32) -> Vec<u8> {
        match self {
            Family::V4 => addr.to_be_bytes().to_vec(),
            Family::V6 => long([0x20, 1, 0xd, 0xb8, 0, 0xc], addr.to_be_bytes()).to_vec(),
        }
    }

    /// A real server's.
    pub fn server(self, s: usize) -> Vec<u8> {
        match self {
            Family::V4 => server4(s).to_vec(),
            Family::V6 => long([0xfd, 0, 0, 1, 0, 0], [0, 0, 0, 0x11 + s as u8]).to_vec(),
        }
    }

    /// A service's.
    pub fn vip(self, method: Method) -> Vec<u8> {
        match self {
            Family::V4 => vec![203, 0, 113, 1 + method as u8],
            Family::V6 => long([0x20, 1, 0xd, 0xb8, 0, 1], [0, 0, 0, 1 + method as u8]).to_vec(),
        }
    }

    fn gateway(self) -> Addr {
        match self {
            Family::V4 => Addr::v4([192, 168, 2, 1]),
            Family::V6 => Addr::v6(long([0xfd, 0, 0, 2, 0, 0], [0, 0, 0, 1])),
        }
    }

    /// Bytes of a packet, layer 3.
    pub fn bytes(self) -> u64 {
        match self {
            Family::V4 => 40,
            Family::V6 => 60,
        }
    }
}

fn addr(bytes: &[u8]) -> Addr {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => Addr::v4(v4),
        (_, Ok(v6)) => Addr::v6(v6),
        _ => Addr::UNSPECIFIED,
    }
}

/// The frame that a client of this service, or its real server `s`, sends. The client's low
/// address bits, its port and the checksums are left zero.
pub fn template<const LEN: usize>(
    family: Family,
    method: Method,
    side: Side,
    flags: u8,
    s: usize,
) -> [u8; LEN] {
    let client = (family.client(0), 0u16);
    let virtual_ = (family.vip(method), VIRTUAL_PORT);
    let real = (
        family.server(s),
        if method == Method::Nat {
            REAL_PORT
        } else {
            VIRTUAL_PORT
        },
    );
    let (src, dst) = match side {
        Side::Request => (client, virtual_),
        Side::Reply => (real, client),
    };
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend(OUR_MACS[0].0);
    bytes.extend([2, 0, 0, 0, 9, 9]);
    match family {
        Family::V4 => bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]),
        Family::V6 => bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]),
    }
    bytes.extend(src.0);
    bytes.extend(dst.0);
    bytes.extend(src.1.to_be_bytes());
    bytes.extend(dst.1.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, if flags & ACK != 0 { 1 } else { 0 }]);
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(LEN, 0);
    let mut frame = [0; LEN];
    frame.copy_from_slice(&bytes);
    frame
}

/// What a run cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// CPU time of the worker's thread, nanoseconds per packet.
    pub cpu: f64,
    /// Median time of a turn with a full burst, nanoseconds per packet.
    pub median: f64,
}

/// How long a run lasts, and which time it is in it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// CPU time.
    pub cpu: Duration,
    /// Packets at least.
    pub packets: u64,
    /// Time that passes with each burst; `None`: the time that passes in truth.
    pub step: Option<Duration>,
}

/// The worker with its ports.
pub struct Rig {
    /// The loop of the real worker.
    pub worker: Loop,
    /// Connections that the worker in the loop has a table for.
    size: u32,
    /// Workers for the other sizes. All share their counters.
    others: Vec<(u32, Worker)>,
    /// Queues of the IPv6 source, while the IPv4 source is in the loop.
    spare: (Option<RxQueue>, Way),
    /// Which source is in the loop.
    source: Family,
    /// The worker's time.
    pub time: Instant,
    /// Turns by how many nanoseconds they took.
    turns: Vec<u32>,
    /// Two workers that share a table, for one core.
    pub pair: Pair,
    /// Two workers for two cores, if there are as many.
    pub cores: Option<Pair>,
}

/// What stays with the main thread.
pub struct Ports {
    /// In the order null0 (IPv4 source), null1 (sink), null2 (IPv6 source).
    pub ports: Vec<RunningPort>,
}

/// EAL with workers on `cores`, and the null ports.
///
/// # Errors
/// EAL's.
pub fn start_eal(cores: &[usize], prefix: &str) -> Result<Eal> {
    let available = lcore::affinity().context("cores of this process")?;
    Ok(Eal::init(&EalConfig {
        memory: Memory::Hugepages {
            mb: Some(EAL_MB),
            files: HugepageFiles::None,
        },
        file_prefix: prefix.to_owned(),
        main_cores: lcore::main_cores(&available, cores),
        worker_cores: cores.to_vec(),
        vdevs: vec![
            "net_null0,size=60".to_owned(),
            "net_null1,size=60,no-rx=1".to_owned(),
            "net_null2,size=74".to_owned(),
            format!("{},size=60", pair::PORTS[0]),
            format!("{},size=60,no-rx=1", pair::PORTS[1]),
            format!("{},size=60", cores::PORTS[0]),
            format!("{},size=60,no-rx=1", cores::PORTS[1]),
        ],
        ..EalConfig::default()
    })?)
}

/// Room for a quarter more than `flows`, because clients do not fall evenly on the shards; of
/// few of them the unluckiest shard gets three times its share.
fn layout(flows: u32) -> Layout {
    Layout::for_connections(if flows < 10_000 {
        4 * flows
    } else {
        flows / 4 * 5
    })
}

/// The sizes up to this one.
pub fn sizes(largest: u32) -> impl Iterator<Item = u32> {
    SIZES.into_iter().filter(move |size| *size <= largest)
}

/// Bytes of the connection tables up to this size, each in its own hugepages.
pub fn table_bytes(largest: u32) -> usize {
    sizes(largest)
        .chain([pair::FLOWS; 2])
        .map(|flows| layout(flows).bytes().next_multiple_of(2 << 20))
        .sum()
}

impl Rig {
    /// Opens the ports and makes a worker.
    ///
    /// # Errors
    /// What is missing.
    pub fn new(eal: &Eal, eal_cores: usize, largest: u32) -> Result<(Rig, Ports)> {
        let pool = Mempool::new(eal, "bench", 8191, 256, DATA_ROOM, None)?;
        let mut ports = Vec::new();
        let mut queues = Vec::new();
        for name in ["net_null0", "net_null1", "net_null2"] {
            let port = Port::open(eal, name)?.start(&PortConfig::default(), &pool);
            let mut port = port.map_err(|refused| refused.error)?;
            let (rx, tx) = (port.rx_queue(0), port.tx_queue(0));
            queues.push((rx.context("rx queue")?, tx.context("tx queue")?));
            ports.push(port);
        }
        let (rx, tx) = queues.pop().context("third port")?;
        let spare = (Some(rx), Way::from(tx));
        let mut lanes = Vec::new();
        for (i, (rx, tx)) in queues.into_iter().enumerate() {
            lanes.push(pair::lane(eal, i, Some(rx), tx.into())?);
        }
        let mut clock = Clock::new(eal.tsc_hz());
        let time = clock.now();
        let limits = Limits::default();
        let (_control, end) = command::channel(limits.dests);
        let mut workers = Vec::new();
        for flows in sizes(largest) {
            let counters = Arc::clone(&end.counters);
            workers.push((flows, new_worker(flows, counters, time, true)?));
        }
        let (size, worker) = workers.pop().context("no sizes")?;
        let pool = Arc::new(pool);
        let pair = Pair::new(eal, pair::PORTS, 1, &pool, &clock)?;
        let cores = match eal_cores {
            2 => Some(Pair::new(eal, cores::PORTS, 2, &pool, &clock)?),
            _ => None,
        };
        let worker = Loop {
            worker,
            end,
            lanes,
            pool,
            idle: Idle::Poll,
            rings: Rings::default(),
            stop: Arc::new(AtomicBool::new(false)),
            bell: Bell::new()?,
            clock,
            parking: Parking::default(),
            peers: Peers::default(),
            eager: Eager::default(),
        };
        let rig = Rig {
            worker,
            size,
            others: workers,
            spare,
            source: Family::V4,
            time,
            turns: vec![0; 1 << 16],
            pair,
            cores,
        };
        Ok((rig, Ports { ports }))
    }

    /// Puts the worker with a table for `flows` connections into the loop.
    pub fn choose_size(&mut self, flows: u32) {
        if let Some((size, other)) = self.others.iter_mut().find(|(size, _)| *size == flows) {
            core::mem::swap(&mut self.worker.worker, other);
            core::mem::swap(&mut self.size, size);
            // Its timers stood still while others ran, for hours of this clock. Connections that
            // are made while they catch up would end late.
            for _ in 0..4096 {
                self.time = self.time + Duration::from_millis(1);
                self.worker.worker.expire(self.time, 1 << 16);
            }
        }
    }

    /// Receives from the source of this family.
    pub fn choose_source(&mut self, family: Family) {
        if self.source != family {
            let lane = &mut self.worker.lanes[0];
            core::mem::swap(&mut lane.rx, &mut self.spare.0);
            core::mem::swap(&mut lane.tx, &mut self.spare.1);
            self.source = family;
        }
    }

    /// Runs [`Loop::turn_with`], the turn of the real worker, until the plan is fulfilled.
    ///
    /// The length of a turn is the difference of two readings of the clock that a worker reads
    /// once a turn anyway, so nothing is added to its loop but the generator and one count.
    pub fn run(&mut self, plan: Plan, probe: &mut impl Probe) -> Cost {
        let counters = Arc::clone(&self.worker.end.counters);
        let first = counters.rx_packets.get();
        self.measure(plan, |rig| {
            rig.worker.turn_with(rig.time, probe);
            counters.heartbeat.add(1);
            counters.rx_packets.get() - first
        })
    }

    /// As [`Rig::run`], with the two workers of the pair in turns.
    pub fn run_pair(&mut self, plan: Plan, probe: &mut impl Probe) -> Cost {
        let first = self.pair.received();
        self.measure(plan, |rig| {
            rig.pair.turn(rig.time, probe);
            rig.pair.received() - first
        })
    }

    /// The ports alone: receive, write the headers, send. What the worker adds is the rest.
    pub fn run_ports(&mut self, plan: Plan, probe: &mut impl Probe) -> Cost {
        let mut packets = 0;
        self.measure(plan, |rig| {
            let mut burst = Burst::new();
            if let [source, sink] = &mut rig.worker.lanes[..]
                && let (Some(rx), Way::Queue(tx)) = (&mut source.rx, &mut sink.tx)
            {
                packets += rx.receive(&mut burst) as u64;
                burst.with_packets(PortId(0), |packets| probe.received(packets));
                tx.send(&mut burst);
            }
            packets
        })
    }

    /// Repeats `turn`, which returns how many packets there were so far.
    #[inline(always)]
    fn measure(&mut self, plan: Plan, mut turn: impl FnMut(&mut Rig) -> u64) -> Cost {
        self.turns.fill(0);
        let start = lcore::thread_cpu_time();
        let mut last = self.worker.clock.now();
        loop {
            let mut packets = 0;
            for _ in 0..256 {
                packets = turn(self);
                let now = self.worker.clock.now();
                let took = now.since(last);
                last = now;
                self.time = self.time + plan.step.unwrap_or(took);
                let slot = (took.as_nanos() as usize).min(self.turns.len() - 1);
                self.turns[slot] += 1;
            }
            let cpu = lcore::thread_cpu_time() - start;
            if cpu >= plan.cpu && packets >= plan.packets {
                let cpu = cpu.as_nanos() as f64 / packets as f64;
                return Cost {
                    cpu,
                    median: self.median() / 32.0,
                };
            }
        }
    }

    /// Median length of a turn, nanoseconds.
    fn median(&self) -> f64 {
        let half = self.turns.iter().map(|&n| u64::from(n)).sum::<u64>() / 2;
        let mut below = 0;
        let at = self.turns.iter().position(|&n| {
            below += u64::from(n);
            below > half
        });
        at.unwrap_or(0) as f64
    }
}

/// Secret of the table's hash: fixed, so that every run has the same collisions.
pub const KEY: HashKey = HashKey([
    0x9e37_79b9_7f4a_7c15,
    0xd1b5_4a32_d192_ed03,
    0xaef1_7502_108e_f2d9,
    0x2545_f491_4f6c_dd1d,
]);

/// A worker with a table for so many connections, and with all that it needs to know.
///
/// # Errors
/// What is missing.
pub fn new_worker(
    flows: u32,
    counters: Arc<WorkerCounters>,
    time: Instant,
    hugepages: bool,
) -> Result<Worker> {
    let shards = new_table(layout(flows), time.ticks(), hugepages)?;
    set_up_worker(Share::ALL, shards, counters, time)
}

/// A table in hugepages.
///
/// # Errors
/// There are too few of them.
pub fn table(flows: u32, time: Instant) -> Result<Vec<Shard>> {
    new_table(layout(flows), time.ticks(), true)
}

/// What a worker of the bench goes by.
pub fn settings() -> Settings {
    Settings {
        // A null port's queue is always full, and what new connections cost is to be measured.
        hits_first: false,
        ..Settings::default()
    }
}

/// A worker with these shards, and with all that it needs to know.
///
/// # Errors
/// It refuses that.
pub fn set_up_worker(
    share: Share,
    shards: Vec<Shard>,
    counters: Arc<WorkerCounters>,
    time: Instant,
) -> Result<Worker> {
    let limits = Limits::default();
    let mut worker = Worker::with_share(share, shards, KEY, limits, counters, settings());
    for command in set_up()? {
        if let Outcome::Refused(why, _) = worker.apply(time, command) {
            bail!("the worker refuses its configuration: {why}");
        }
    }
    Ok(worker)
}

fn new_table(layout: Layout, now: Ticks, hugepages: bool) -> Result<Vec<Shard>> {
    let region = Region::map(&Backing::Anonymous, layout.bytes(), hugepages)?;
    ensure!(
        !hugepages || matches!(region.pages(), Pages::Huge(_)),
        "a connection table ({} MiB) got no hugepages; are enough of them free?",
        layout.bytes() >> 20
    );
    Ok(region::create(
        region.into_bytes(),
        layout,
        KEY,
        [0; 16],
        now,
    )?)
}

/// Services, roles, links, neighbours and routes.
fn set_up() -> Result<Vec<Command>> {
    let mut commands = vec![
        Command::PutMacs(PortId(0), Box::new([OUR_MACS[0]])),
        Command::PutMacs(PortId(1), Box::new([OUR_MACS[1]])),
    ];
    for port in 0..2 {
        let mac = OUR_MACS[usize::from(port)];
        let link = Link {
            port: PortId(port),
            vlan: 0,
            mac,
            mtu: 1500,
            up: true,
        };
        commands.push(Command::PutLink(LinkId(port), link));
    }

    // Everything leaves by the sink.
    let link = LinkId(1);
    let mut stations = Vec::new();
    let mut changes = Vec::new();
    for (id, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        stations.push((family.gateway(), GATEWAY_MAC));
        stations.extend((0..SERVERS).map(|s| (addr(&family.server(s)), server_mac(s))));
        let (on_link, clients, source) = match family {
            Family::V4 => ("192.168.0.0/16", "10.0.0.0/8", addr(&[192, 168, 1, 1])),
            Family::V6 => (
                "fd00::/16",
                "2001:db8:c::/48",
                addr(&long([0xfd, 0, 0, 1, 0, 0], [0, 0, 0, 1])),
            ),
        };
        for (n, prefix, gateway) in [(0, on_link, None), (1, clients, Some(family.gateway()))] {
            let target = TargetId(2 * id as u32 + n);
            let prefix: Prefix = prefix.parse().map_err(anyhow::Error::msg)?;
            let hop = NextHop {
                link,
                gateway,
                mtu: 1500,
                source,
            };
            changes.extend([
                Change::Target(target, Target::Via(hop)),
                Change::Put(prefix, target),
            ]);
        }
    }
    commands.push(Command::PutFib(Arc::new(Fib::default().apply(changes))));
    for (id, (addr, mac)) in stations.into_iter().enumerate() {
        let neighbour = Neighbour { link, addr, mac };
        commands.push(Command::PutNeighbour(NeighbourId(id as u32), neighbour));
    }

    let (services, roles) = usual_services();
    for service in services {
        commands.push(put(service)?);
    }
    commands.push(Command::PutRoles(Arc::new(RoleTable::build(&roles))));
    Ok(commands)
}

fn put(service: VirtualService) -> Result<Command> {
    let scheduler = schedule::new(&service, Seat::alone(7)).context("the scheduler rr")?;
    Ok(Command::PutService {
        service: Arc::new(service),
        scheduler,
    })
}

/// The services of all rows, and the roles of their endpoints.
fn usual_services() -> (Vec<VirtualService>, Vec<RoleEntry>) {
    let mut services = Vec::new();
    let mut roles = Vec::new();
    for (id, (family, method)) in SERVICES.into_iter().enumerate() {
        let vip = addr(&family.vip(method));
        let (service, of_it) = service(id as u32, vip, family, method, (id * SERVERS) as u32);
        services.push(service);
        roles.extend(of_it);
    }
    (services, roles)
}

/// A service with the usual real servers, the first of which has the number `first`.
fn service(
    id: u32,
    vip: Addr,
    family: Family,
    method: Method,
    first: u32,
) -> (VirtualService, Vec<RoleEntry>) {
    let endpoint = Endpoint::new(vip, VIRTUAL_PORT);
    let mut roles = vec![RoleEntry {
        protocol: 6,
        endpoint,
        roles: VIRTUAL,
    }];
    let (method, port) = match method {
        Method::Nat => (ForwardingMethod::Masquerade, REAL_PORT),
        Method::Direct => (ForwardingMethod::DirectRoute, VIRTUAL_PORT),
        Method::Tunnel => (ForwardingMethod::Tunnel, VIRTUAL_PORT),
    };
    let dest = |s| Destination {
        id: DestId(first + s as u32),
        endpoint: Endpoint::new(addr(&family.server(s)), port),
        method,
        weight: 1,
        last_weight: 1,
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    };
    let destinations: Vec<Destination> = (0..SERVERS).map(dest).collect();
    if method == ForwardingMethod::Masquerade {
        roles.extend(destinations.iter().map(|d| RoleEntry {
            protocol: 6,
            endpoint: d.endpoint,
            roles: REAL,
        }));
    }
    let service = VirtualService {
        id: ServiceId(id),
        key: ServiceKey::new(Protocol::Tcp, endpoint),
        scheduler: "rr",
        options: ServiceOptions::default(),
        destinations: destinations.into(),
        withdrawn: Vec::new(),
    };
    (service, roles)
}

/// The clients of all live connections, with their servers, as far as they are in `state`.
pub fn clients_in(worker: &Worker, state: u8) -> Vec<Client> {
    let mut clients = Vec::new();
    worker.for_each_connection(|e| {
        if e.state == state {
            let (client, server) = (e.client(), e.dest_id().0 as usize % SERVERS);
            clients.push(Client {
                addr: client.addr.bits_v4(),
                port: client.port,
                server: server as u8,
            });
        }
    });
    clients
}
