//! The edge of the daemon: DPDK, ports, twins, workers, the pump. Built from a validated
//! configuration, taken down in reverse order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::steering::Steering;
use anyhow::{Context, Result, anyhow, bail};
use control::config::{self, Config};
use control::status::{PoolHandle, PortHandle};
use dataplane::addr::Mac;
use dataplane::command::{Command, ControlEnd, WorkerEnd, channel};
use dataplane::conn::{HashKey, Shard};
use dataplane::counters::PortCounters;
use dataplane::packet::{PortId, PuntClass};
use dataplane::probe::Exchange;
use dataplane::team::Team;
use dataplane::worker::{Limits, Share, Worker};
use dpdk::clock::Clock;
use dpdk::eal::{Eal, EalConfig, HugepageFiles, Iova, Memory};
use dpdk::host::{Capability, Host};
use dpdk::mbuf::HEADROOM;
use dpdk::members::{Member, Members};
use dpdk::mempool::{self, Demand, Mempool};
use dpdk::peers::{PEER_SLOTS, Peers};
use dpdk::poll::{Idle, Lane, Loop, Parking, Rings, Way};
use dpdk::port::{Port, PortConfig, PortInfo, RunningPort};
use dpdk::pump::{Bell, Pump, Twin};
use dpdk::ring;
use dpdk::tap::{self, Tap};
use tracing::{info, warn};

use crate::memif;
use crate::table::Table;

/// Slots of the punt queues, by class: adverts and ARP never wait behind transit. Those of the 510
/// virtual routers that a LAN can have come at once.
const PUNT_SLOTS: [u32; PuntClass::COUNT] = [512, 256, 1024, 1024];

/// Slots of the queue from a twin to the wire.
const WIRE_SLOTS: u32 = 1024;

/// Mbufs a thread keeps for itself.
const CACHE: u32 = 256;

/// Niceness of the pump, to that of other threads.
const PUMP_NICE: i32 = -10;

/// Buffers of a port whose frames are cut.
const LONG_BUFFERS: u32 = 511;

/// Name of the pool that feeds all ports.
const POOL: &str = "rvs";

/// Most time a worker or the pump may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that runs below control.
pub struct Edge {
    /// For control, one for each worker.
    pub workers: Vec<ControlEnd>,
    /// In the order of the configuration.
    pub ports: Vec<PortHandle>,
    /// What feeds the ports with buffers.
    pub pools: Vec<PoolHandle>,
    /// Version of DPDK.
    pub dpdk: String,
    /// Workers take packets once this is set.
    pub open: Arc<AtomicBool>,
    /// How packets come to the worker that has their connection, in words.
    pub steering: String,
    eal: Eal,
    stop: Arc<AtomicBool>,
    bell: Bell,
    loops: mpsc::Receiver<Loop>,
    running: usize,
    pump: JoinHandle<io::Result<Vec<RunningPort>>>,
    pool: Arc<Mempool>,
}

/// Where received frames are put.
struct Buffers {
    pool: Arc<Mempool>,
    /// A frame may take several.
    scatter: bool,
    /// All pools, for those who want to know how full they are.
    known: Vec<PoolHandle>,
}

impl Buffers {
    /// Names a pool of `size` buffers of which rings may hold so many.
    fn know(&mut self, name: &str, size: u32, rings: u32, pool: Mempool) {
        self.known.push(PoolHandle {
            name: name.to_owned(),
            size: u64::from(size),
            rings: u64::from(rings),
            free: Arc::new(move || u64::from(pool.available())),
        });
    }
}

/// EAL's arguments from the configuration.
pub fn eal_config(config: &Config) -> EalConfig {
    let from = &config.dpdk;
    let cores = |list: &[u32]| list.iter().map(|&core| core as usize).collect();
    EalConfig {
        memory: match from.memory {
            config::MemoryMode::Hugepages => Memory::Hugepages {
                mb: Some(from.memory_mb),
                files: HugepageFiles::None,
            },
            config::MemoryMode::NoHuge => Memory::NoHuge { mb: from.memory_mb },
        },
        file_prefix: from.file_prefix.clone(),
        main_cores: cores(&from.main_cores),
        worker_cores: cores(&from.worker_cores),
        vdevs: from.vdevs.clone(),
        pci: from.pci.clone(),
        iova: match from.iova {
            config::Iova::Auto => Iova::Auto,
            config::Iova::Pa => Iova::Pa,
            config::Iova::Va => Iova::Va,
        },
        log_level: from.log_level.join(" "),
        single_file_segments: from.single_file_segments,
        telemetry: from.telemetry,
        extra_args: from.extra_args.clone(),
    }
}

/// Starts DPDK, ports, twins, the pump and the workers. `prepare_twin` is called for each twin
/// once its device exists and before the port serves.
pub fn start(
    config: &Config,
    mut table: Table,
    probes: Option<Arc<Exchange>>,
    mut prepare_twin: impl FnMut(&config::Port) -> Result<()>,
) -> Result<Edge> {
    check_capabilities(config)?;
    memif::remove_dead_sockets(config)?;
    let eal = Eal::init(&eal_config(config))?;
    let opened = config
        .ports
        .iter()
        .map(|port| Ok(Port::open(&eal, &port.device_name)?))
        .collect::<Result<Vec<Port>>>()?;
    let scatter = scatters(config, &opened)?;
    let pool = Arc::new(make_pool(&eal, config, scatter)?);
    let mut buffers = Buffers {
        pool: Arc::clone(&pool),
        scatter,
        known: Vec::new(),
    };
    let size = pool.available();
    buffers.know(POOL, size, descriptors(config), Mempool::clone(&pool));
    let bell = Bell::new().context("no descriptor left for the pump's bell")?;
    let stop = Arc::new(AtomicBool::new(false));
    let open = Arc::new(AtomicBool::new(false));

    let team = config.dpdk.worker_cores.len();
    let mut steering = Steering::plan(config, &opened, &table.key)?;
    // For each worker, its view of all ports.
    let mut lanes: Vec<Vec<Lane>> = (0..team).map(|_| Vec::new()).collect();
    let mut twins = Vec::new();
    let mut ports = Vec::new();
    let mut macs = Vec::new();
    for (number, (wanted, port)) in config.ports.iter().zip(opened).enumerate() {
        let number = PortId(u16::try_from(number).context("too many ports")?);
        let (handle, mac, of_port, twin) = start_port(
            &eal,
            &mut buffers,
            config,
            number,
            port,
            &mut steering,
            &mut prepare_twin,
        )
        .with_context(|| format!("port {}", wanted.name))?;
        macs.push(mac);
        ports.push(handle);
        for (mine, lane) in lanes.iter_mut().zip(of_port) {
            mine.push(lane);
        }
        twins.push(twin);
    }

    if team > 1 {
        info!(event = "steering", "packets are steered {steering}");
    }
    let (done, loops) = mpsc::channel();
    let mut workers = Vec::new();
    table.deal(team, steering.keys().map(|keys| &**keys));
    let Table { shards, key, .. } = table;
    let peers = Peers::connect(&eal, team)?;
    let mut shards: Vec<Option<Shard>> = shards.into_iter().map(Some).collect();
    let mut seats = seats(team, config.workers.max_servers);
    for (number, (lanes, peers)) in lanes.into_iter().zip(peers).enumerate() {
        let share = Share::of(number, team);
        let mine = |(shard, place): (u8, &mut Option<Shard>)| match share.elsewhere(shard) {
            Some(_) => None,
            None => place.take(),
        };
        let shards = (0..).zip(&mut shards).filter_map(mine).collect();
        let (control, end) = channel(config.workers.max_servers as usize);
        let mut worker = make_worker(config, share, shards, key, &end, &macs);
        if let Some(seat) = seats.next() {
            worker.join(seat);
        }
        if let Some(keys) = steering.keys() {
            worker.steer_by_nics(Arc::clone(keys));
        }
        let mut polled = Loop {
            worker,
            end,
            lanes,
            pool: Arc::clone(&pool),
            idle: idle_of(config),
            rings: rings_of(config, &ports),
            stop: Arc::clone(&stop),
            bell: bell.clone(),
            clock: Clock::new(eal.tsc_hz()),
            parking: Parking::default(),
            peers,
        };
        workers.push(control);
        let (done, opened) = (done.clone(), Arc::clone(&open));
        eal.launch(
            number,
            Box::new(move || {
                polled.wait(&opened);
                // The receiver is only gone when the daemon gave up waiting.
                let _ = done.send(polled.run());
            }),
        )?;
    }
    let pump = Pump {
        twins,
        pool: Arc::clone(&pool),
        bell: bell.clone(),
        stop: Arc::clone(&stop),
        probes,
    };
    let pump = thread::Builder::new()
        .name("rvs-pump".to_owned())
        .spawn(move || {
            // Adverts, ARP and BGP go through it: it waits behind no listing and no check. Without
            // the right to that it runs as they do.
            let _ = rustix::process::nice(PUMP_NICE);
            let stop = Arc::clone(&pump.stop);
            let ended = dpdk::eal::register_thread()
                .map_err(io::Error::other)
                .and_then(|_registered| pump.run());
            if !stop.load(Ordering::Acquire) {
                // Without the pump there is no ARP, no BGP, no check: better no daemon at all.
                let why = ended
                    .as_ref()
                    .err()
                    .map_or_else(String::new, ToString::to_string);
                tracing::error!(event = "pump", "the pump thread ended ({why}); rvsd ends");
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::TERM,
                );
            }
            ended
        })
        .context("pump thread")?;
    Ok(Edge {
        running: workers.len(),
        workers,
        ports,
        pools: buffers.known,
        dpdk: eal.version(),
        open,
        steering: steering.to_string(),
        eal,
        stop,
        bell,
        loops,
        pump,
        pool,
    })
}

impl Edge {
    /// Stops workers and pump, then ports, then DPDK. Twins stay, without carrier.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        for _ in 0..self.running {
            // Dropping the loop gives its queues back to the ports.
            drop(
                self.loops
                    .recv_timeout(STOP_DEADLINE)
                    .context("a worker does not end")?,
            );
        }
        for worker in 0..self.running {
            self.eal.wait(worker)?;
        }
        self.bell.ring();
        let ports = match self.pump.join() {
            Ok(ports) => ports.context("pump")?,
            Err(_) => bail!("the pump thread panicked"),
        };
        for port in ports {
            if let Err(refused) = port.stop() {
                warn!("{}", refused.error);
            }
        }
        drop(self.pool);
        self.eal.cleanup()?;
        Ok(())
    }
}

/// Refuses to start without what the twins and ports need, before EAL says it in its own words.
fn check_capabilities(config: &Config) -> Result<()> {
    let host = Host::this();
    let packet_sockets = config
        .ports
        .iter()
        .any(|port| port.kernel_interfaces().next().is_some());
    let needs = [
        (Capability::NetAdmin, true, "to make the kernel twins"),
        (
            Capability::NetRaw,
            packet_sockets,
            "for ports on kernel interfaces",
        ),
        (
            Capability::IpcLock,
            !config.dpdk.pci.is_empty(),
            "to pin memory for NICs",
        ),
    ];
    for (capability, needed, why) in needs {
        if needed && !host.has_capability(capability) {
            bail!(
                "no permission: {} is missing, which rvsd needs {why}; start it as root, or as \
                 the unit in configs/rvsd.service does (AmbientCapabilities)",
                capability.name()
            );
        }
    }
    Ok(())
}

/// Whether long frames take several buffers of the usual size: every port whose frames are longer
/// has to spread them, and every port may be told to send them. Else all buffers are as long as
/// the longest frame.
fn scatters(config: &Config, opened: &[Port]) -> Result<bool> {
    let room = u32::from(mempool::DATA_ROOM - HEADROOM);
    let mut any_long = false;
    for (wanted, port) in config.ports.iter().zip(opened) {
        let (info, is_long) = (port.info()?, wanted.longest_frame() > room);
        if is_long && !info.has_scatter || !info.has_multi_segments {
            return Ok(false);
        }
        any_long |= is_long;
    }
    Ok(any_long)
}

/// Descriptors of all queues: at most one of each kind for every worker.
fn descriptors(config: &Config) -> u32 {
    let workers = config.dpdk.worker_cores.len() as u32;
    let of =
        |p: &config::Port| workers * (u32::from(p.rx_descriptors) + u32::from(p.tx_descriptors));
    config.ports.iter().map(of).sum()
}

fn make_pool(eal: &Eal, config: &Config, scatter: bool) -> Result<Mempool> {
    let ports = config.ports.len() as u32;
    let workers = config.dpdk.worker_cores.len() as u32;
    let count = mempool::size_for(Demand {
        descriptors: descriptors(config),
        ring_slots: ports * (workers * PUNT_SLOTS.iter().sum::<u32>() + WIRE_SLOTS)
            + workers * (workers - 1) * PEER_SLOTS,
        threads: workers + 2,
        cache: CACHE,
        bursts: workers * (4 * (ports + 1) + workers),
    });
    let longest = config.ports.iter().map(config::Port::longest_frame).max();
    let longest = u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX);
    let room = match scatter {
        true => mempool::DATA_ROOM,
        false => mempool::DATA_ROOM.max(longest.saturating_add(HEADROOM)),
    };
    Mempool::new(eal, POOL, count, CACHE, room, None).with_context(|| {
        format!(
            "{count} packet buffers of {room} bytes are needed for {ports} ports; raise memory_mb in \
             [dpdk], or lower the descriptors or the mtu of the ports"
        )
    })
}

/// Buffers for packets that are cut to segments when they come: each is back at once.
fn make_long_pool(eal: &Eal, port: &config::Port) -> Result<(String, Mempool)> {
    let name = format!("long-{}", port.name);
    let name: String = name.chars().take(25).collect();
    let pool = Mempool::new(eal, &name, LONG_BUFFERS, 64, u16::MAX, None)
        .context("rx_gso_fixup needs 64 MiB more; raise memory_mb in [dpdk]")?;
    Ok((name, pool))
}

fn make_worker(
    config: &Config,
    share: Share,
    shards: Vec<Shard>,
    key: HashKey,
    end: &WorkerEnd,
    macs: &[Mac],
) -> Worker {
    let limits = Limits {
        services: config.workers.max_services as usize,
        dests: config.workers.max_servers as usize,
        neighbours: config.workers.max_neighbours as usize,
        ports: macs.len(),
    };
    let counters = Arc::clone(&end.counters);
    let mut worker = Worker::with_share(share, shards, key, limits, counters, *config.settings());
    for (number, &mac) in macs.iter().enumerate() {
        let now = Clock::new(0).now();
        drop(worker.apply(
            now,
            Command::PutMacs(PortId(number as u16), Box::new([mac])),
        ));
    }
    worker
}

/// For each of several workers, its seat among them; one alone has nobody to talk to.
fn seats(workers: usize, servers: u32) -> impl Iterator<Item = Team> {
    let seats = if workers > 1 {
        Team::gather(workers, servers as usize)
    } else {
        Vec::new()
    };
    seats.into_iter()
}

fn idle_of(config: &Config) -> Idle {
    if !config.workers.may_sleep(&config.ports) {
        return Idle::Poll;
    }
    Idle::Adaptive {
        spins: config.workers.idle_spin_polls,
        nap: Duration::from_micros(20),
        longest: config.workers.idle_sleep,
    }
}

fn rings_of(config: &Config, ports: &[PortHandle]) -> Rings {
    let rings = config.ports.iter().zip(ports).map(|(port, handle)| {
        // The ring of an af_packet port is the kernel's, made by the vdev argument.
        let ring = port
            .packet_ring()
            .map_or(port.rx_descriptors, |ring| ring.frames);
        (ring, Arc::clone(&handle.counters))
    });
    Rings {
        rings: rings.collect(),
    }
}

fn start_port(
    eal: &Eal,
    buffers: &mut Buffers,
    config: &Config,
    number: PortId,
    port: Port,
    steering: &mut Steering,
    prepare_twin: &mut impl FnMut(&config::Port) -> Result<()>,
) -> Result<(PortHandle, Mac, Vec<Lane>, Twin)> {
    let wanted = &config.ports[usize::from(number.0)];
    let team = config.dpdk.worker_cores.len();
    let info = port.info()?;
    let workers = u16::try_from(team).context("too many workers")?;
    // Without RSS everything comes by the first queue, and what the others have is for nothing.
    let most = if info.has_rss { info.max_rx_queues } else { 1 };
    // The driver of af_packet ports names 1500 as its most, whatever its ring takes.
    let by_kernel = wanted.is_af_packet() && wanted.mtu > info.max_mtu;
    let setup = PortConfig {
        rx_queues: match wanted.rx_queues {
            0 => workers.min(most),
            asked => asked,
        },
        tx_queues: workers.min(info.max_tx_queues),
        rx_descriptors: wanted.rx_descriptors,
        tx_descriptors: wanted.tx_descriptors,
        mtu: (wanted.mtu != info.mtu && !by_kernel).then_some(wanted.mtu),
        scatter: buffers.scatter,
        rss_key: steering.key(wanted),
    };
    let long = match wanted.rx_gso_fixup {
        true => {
            let (name, pool) = make_long_pool(eal, wanted)?;
            let rings = u32::from(setup.rx_queues) * u32::from(setup.rx_descriptors);
            buffers.know(&name, LONG_BUFFERS, rings, pool.clone());
            Some(pool)
        }
        false => None,
    };
    let received = long.as_ref().unwrap_or(&buffers.pool);
    let mut port = port
        .start(&setup, received)
        .map_err(|refused| refused.error)?;
    // A bond has the address of a member, and only now.
    let info = PortInfo {
        mac: port.info()?.mac,
        ..info
    };
    // Now, as the start of a bond gives its members the driver's default.
    for interface in wanted.kernel_interfaces().filter(|_| by_kernel) {
        tap::set_interface_mtu(interface, wanted.mtu)
            .with_context(|| format!("{interface} does not take an MTU of {}", wanted.mtu))?;
    }
    if wanted.promiscuous
        && let Err(why) = port.set_promiscuous(true)
    {
        warn!("{why}; the port goes on without");
    }
    // Adverts and neighbour discovery come to groups; a port without filters sees them anyway.
    if let Err(why) = port.set_all_multicast(true) {
        tracing::debug!("{why}; taken to see all group frames anyway");
        // The bonding driver filters by itself, whatever its members see.
        if !wanted.members().is_empty()
            && let Err(why) = port.set_promiscuous(true)
        {
            warn!("{why}; frames for groups may be missed");
        }
    }
    let counters = Arc::new(PortCounters::default());
    if let Ok(link) = port.link() {
        counters.link.set(u32::from(link.up));
        counters.speed.set(link.mbps.unwrap_or(0));
    }
    let tap = Tap::open(&wanted.twin)?;
    tap.set_persistent(true)?;
    // Before the device is up: a later change of carrier reaches its routes up to a second late.
    let carrier = port.link().is_ok_and(|link| link.up);
    tap.set_carrier(carrier)?;
    tap.set_mac(info.mac)?;
    tap.set_mtu(wanted.mtu)?;
    prepare_twin(wanted)?;
    tap.set_up(true)?;

    let (to_wire, from_kernel) = ring::single_producer(eal, WIRE_SLOTS)?;
    let mut from_kernel = Some(from_kernel);
    let rx = Queues::new(setup.rx_queues, team, number);
    steering.set_up(&mut port, wanted, |worker| rx.of(worker));
    let tx = Queues::new(setup.tx_queues, team, number);
    let mut lanes = Vec::new();
    let mut punt = Vec::new();
    for worker in 0..team {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for slots in PUNT_SLOTS {
            let (sender, receiver) = ring::single_producer(eal, slots)?;
            senders.push(sender);
            receivers.push(receiver);
        }
        let four = "one ring for each class";
        punt.push(receivers.try_into().map_err(|_| anyhow!(four))?);
        let rx = match rx.of(worker) {
            Some(queue) => Some(port.rx_queue(queue).context("a receive queue is in use")?),
            None => None,
        };
        let tx = match tx.of(worker) {
            Some(queue) => Way::from(port.tx_queue(queue).context("a transmit queue is in use")?),
            None => Way::Worker(tx.stand_in(worker)),
        };
        let mut lane = Lane::new(
            number,
            rx,
            tx,
            senders.try_into().map_err(|_| anyhow!(four))?,
            from_kernel.take_if(|_| worker == usize::from(number.0) % team),
            wanted.rx_csum_fixup,
        );
        lane.cuts_to = wanted.rx_gso_fixup.then_some(wanted.mtu);
        lanes.push(lane);
    }

    let handle = PortHandle {
        name: wanted.name.clone(),
        device: wanted.device_name.clone(),
        driver: info.driver.clone(),
        twin: wanted.twin.clone(),
        mac: info.mac.to_string(),
        mtu: wanted.mtu,
        offloads: offloads(&port, &info, buffers.scatter, wanted),
        counters: Arc::clone(&counters),
    };
    info!(
        port = %handle.name,
        driver = %handle.driver,
        mac = %handle.mac,
        twin = %handle.twin,
        "port started"
    );
    let twin = Twin {
        port,
        tap,
        punt,
        to_wire,
        counters,
        carrier,
        members: members_of(wanted),
        lost: false,
    };
    Ok((handle, info.mac, lanes, twin))
}

/// What is below a port.
fn members_of(wanted: &config::Port) -> Members {
    let member = |device: &str, interface: &str| Member {
        device: device.to_owned(),
        interface: interface.to_owned(),
    };
    match &wanted.device {
        config::Device::AfPacket { interface } => {
            Members::single(Some(member(&wanted.device_name, interface)))
        }
        config::Device::Bond {
            mode,
            members,
            primary,
            ..
        } => {
            let kernel = members
                .iter()
                .filter_map(|m| Some(member(&m.device, m.interface.as_deref()?)));
            let one_sends = *mode == config::BondMode::ActiveBackup;
            Members::bond(kernel.collect(), primary.clone(), one_sends)
        }
        _ => Members::default(),
    }
}

/// What is in use, as `rvsadm status` names it.
fn offloads(
    port: &RunningPort,
    info: &PortInfo,
    scatter: bool,
    wanted: &config::Port,
) -> Vec<String> {
    let in_use = [
        ("rss", port.setup().rss),
        ("scatter", scatter && info.has_scatter),
        ("multi-seg", scatter && info.has_multi_segments),
        ("csum-fixup", wanted.rx_csum_fixup),
        ("gso-fixup", wanted.rx_gso_fixup),
    ];
    let names = in_use.iter().filter(|(_, used)| *used);
    names.map(|(name, _)| (*name).to_owned()).collect()
}

/// Which worker has which queue of a port. With fewer queues than workers, each port starts with
/// another worker, so that one-queue ports are spread over them.
struct Queues {
    queues: usize,
    team: usize,
    first: usize,
}

impl Queues {
    fn new(queues: u16, team: usize, port: PortId) -> Queues {
        let queues = usize::from(queues);
        let first = if queues < team {
            usize::from(port.0) % team
        } else {
            0
        };
        Queues {
            queues,
            team,
            first,
        }
    }

    /// The queue of a worker, if it has one.
    fn of(&self, worker: usize) -> Option<u16> {
        let queue = (worker + self.team - self.first) % self.team;
        (queue < self.queues).then_some(queue as u16)
    }

    /// The worker that sends for one that has no queue.
    fn stand_in(&self, worker: usize) -> usize {
        (worker % self.queues.max(1) + self.first) % self.team
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_one_worker_and_every_worker_a_way() {
        for team in 1..9 {
            for queues in 1..12 {
                for port in 0..5 {
                    let q = Queues::new(queues, team, PortId(port));
                    let mut owned: Vec<u16> = (0..team).filter_map(|w| q.of(w)).collect();
                    owned.sort_unstable();
                    let used = queues.min(team as u16);
                    assert_eq!(owned, (0..used).collect::<Vec<_>>());
                    for w in (0..team).filter(|&w| q.of(w).is_none()) {
                        assert!(q.of(q.stand_in(w)).is_some());
                    }
                }
            }
        }
    }
}
