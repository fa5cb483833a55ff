//! The edge of the daemon: DPDK, ports, twins, workers, the pump. Built from a validated
//! configuration, taken down in reverse order.

mod pools;
mod port;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::config::{self, Config};
use control::status::{PoolHandle, PortHandle};
use dataplane::addr::Mac;
use dataplane::command::{Command, ControlEnd, WorkerEnd, channel};
use dataplane::conn::{HashKey, Shard, image};
use dataplane::packet::{PortId, PuntClass};
use dataplane::probe::Exchange;
use dataplane::team::Team;
use dataplane::worker::{Limits, Share, Worker};
use dpdk::clock::Clock;
use dpdk::eal::{Eal, EalConfig, HugepageFiles, Iova, Memory};
use dpdk::host::{Capability, Host};
use dpdk::mbuf::HEADROOM;
use dpdk::mempool;
use dpdk::peers::Peers;
use dpdk::poll::{Idle, Lane, Loop, Parking, Rings};
use dpdk::port::{Offloads, Port};
use dpdk::pump::{Bell, Pump, Twin};
use dpdk::sched::Eager;
use dpdk::tap::Tap;
use tracing::{info, warn};

use self::pools::Pools;
use self::port::start_port;
use crate::memif;
use crate::numa::Nodes;
use crate::offloads;
use crate::steering::Steering;
use crate::table::Table;

/// Slots of the punt queues, by class: adverts wait behind nothing. Those of the 510 virtual routers
/// that a LAN can have come at once.
const PUNT_SLOTS: [u32; PuntClass::COUNT] = [512, 512, 256, 1024, 1024];

/// Slots of the queue from a twin to the wire.
const WIRE_SLOTS: u32 = 1024;

/// Niceness of the pump, to that of other threads.
const PUMP_NICE: i32 = -10;

/// Buffers of a port whose frames are cut.
const LONG_BUFFERS: u32 = 511;

/// Most time a worker or the pump may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that runs below control.
pub struct Edge {
    /// For control, one for each worker.
    pub workers: Vec<ControlEnd>,
    /// In the order of the configuration.
    pub ports: Vec<PortHandle>,
    /// What feeds the ports with buffers.
    pub buffers: Vec<PoolHandle>,
    /// Version of DPDK.
    pub dpdk: String,
    /// Workers take packets once this is set.
    pub open: Arc<AtomicBool>,
    /// How packets come to the worker that has their connection, in words.
    pub steering: String,
    /// Real-time priority of workers and pump while they rest; anybody may change it.
    pub urgency: Arc<AtomicU8>,
    eal: Eal,
    stop: Arc<AtomicBool>,
    bell: Bell,
    loops: mpsc::Receiver<Loop>,
    running: usize,
    pump: Option<JoinHandle<io::Result<Vec<Twin>>>>,
    pools: Pools,
    /// The NUMA nodes of the workers' cores.
    pub nodes: Vec<Option<u32>>,
    /// What a process beside this one has to know.
    pub mark: Mark,
    /// As they were attached.
    devices: Vec<String>,
}

/// Twins that are open, by name.
pub type Taps = BTreeMap<String, Tap>;

/// What a process beside this one has to know of its DPDK.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Keeps the runtime files of the two apart.
    pub prefix: String,
    /// Whether long frames take several buffers.
    pub scatter: bool,
}

/// What is left of an edge whose ports belong to another process.
pub struct HandedOver {
    /// The twins, to be passed on.
    pub taps: Vec<Tap>,
    loops: Vec<Loop>,
    _rest: (Pools, Eal),
}

impl HandedOver {
    /// All connections, one by one, for a process that keeps them in another way.
    pub fn records(&self) -> Vec<u8> {
        let all = self.loops.iter();
        image::encode(all.flat_map(|polled| (0..).zip(polled.worker.shards())))
    }
}

/// The prefix of the configuration, or another one while that is in use.
fn other_prefix(config: &Config, used: &str) -> String {
    let first = &config.dpdk.file_prefix;
    match first == used {
        true => format!("{first}-b"),
        false => first.clone(),
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
        attach_later: false,
        extra_args: from.extra_args.clone(),
    }
}

/// DPDK without its ports: environment, and packet buffers if nothing else could be in the way.
pub struct Ground {
    eal: Eal,
    prefix: String,
    /// Made before ports said whether long frames take several buffers.
    made: Option<Pools>,
    /// Devices to be attached.
    devices: Vec<String>,
}

impl Ground {
    /// Starts DPDK with the devices of the configuration.
    ///
    /// # Errors
    /// What this host lacks.
    pub fn with_devices(config: &Config) -> Result<Ground> {
        check_capabilities(config)?;
        memif::remove_dead_sockets(config)?;
        Ok(Ground {
            eal: Eal::init(&eal_config(config))?,
            prefix: config.dpdk.file_prefix.clone(),
            made: None,
            devices: Vec::new(),
        })
    }

    /// Starts DPDK while a process with this `mark` still has the devices, and does all that can be
    /// done without them.
    ///
    /// # Errors
    /// What this host lacks for two of them.
    pub fn beside(config: &Config, mark: &Mark) -> Result<Ground> {
        check_capabilities(config)?;
        let wanted = eal_config(config);
        let devices = [&wanted.vdevs[..], &wanted.pci[..]].concat();
        let prefix = other_prefix(config, &mark.prefix);
        let eal = Eal::init(&EalConfig {
            file_prefix: prefix.clone(),
            attach_later: true,
            ..wanted
        })
        .context("a second process beside the running one, which it needs memory for")?;
        let pools = Pools::new(&eal, config, mark.scatter, &Nodes::of(config))?;
        Ok(Ground {
            eal,
            prefix,
            made: Some(pools),
            devices,
        })
    }

    /// Starts ports, twins, the pump and the workers. `table` is asked for when the ports can be
    /// had; `taps` are the twins that are open already. `prepare_twin` is called for each twin once
    /// its device exists and before the port serves.
    ///
    /// # Errors
    /// What a port, a twin or a thread lacks.
    pub fn start(
        self,
        config: &Config,
        table: impl FnOnce() -> Result<Table>,
        mut taps: Taps,
        probes: Option<Arc<Exchange>>,
        mut prepare_twin: impl FnMut(&config::Port) -> Result<()>,
    ) -> Result<Edge> {
        let Ground {
            eal,
            prefix,
            made,
            devices,
        } = self;
        if !devices.is_empty() {
            memif::remove_dead_sockets(config)?;
        }
        for device in &devices {
            dpdk::port::attach(&eal, device)?;
        }
        let opened = config
            .ports
            .iter()
            .map(|port| Ok(Port::open(&eal, &port.device_name)?))
            .collect::<Result<Vec<Port>>>()?;
        let scatter = scatters(config, &opened)?;
        let nodes = Nodes::of(config);
        let mut pools = match made {
            Some(pools) if pools.scatter == scatter => pools,
            other => {
                drop(other);
                Pools::new(&eal, config, scatter, &nodes)?
            }
        };
        let of_nics = config.ports.iter().zip(&opened);
        let of_nics =
            of_nics.filter_map(|(wanted, port)| port::node_of(wanted, &port.info().ok()?));
        pools.extend(&eal, config, &nodes, of_nics);
        let bell = Bell::new().context("no descriptor left for the pump's bell")?;
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(AtomicBool::new(false));
        let mut table = table()?;

        let team = config.dpdk.worker_cores.len();
        let mut steering = Steering::plan(config, &opened, &table.key)?;
        // For each worker, its view of all ports.
        let mut lanes: Vec<Vec<Lane>> = (0..team).map(|_| Vec::new()).collect();
        let mut twins = Vec::new();
        let mut ports = Vec::new();
        let mut macs = Vec::new();
        let mut assists = Vec::new();
        let mut assisted = false;
        for (number, (wanted, port)) in config.ports.iter().zip(opened).enumerate() {
            let number = PortId(u16::try_from(number).context("too many ports")?);
            let (handle, mac, of_port, twin) = start_port(
                &eal,
                &mut pools,
                &nodes,
                config,
                number,
                port,
                &mut steering,
                taps.remove(&wanted.twin),
                &mut prepare_twin,
            )
            .with_context(|| format!("port {}", wanted.name))?;
            macs.push(mac);
            let setup = twin.port.setup();
            assists.push(offloads::assist(&setup));
            assisted |= setup.offloads != Offloads::NONE;
            ports.push(handle);
            for (mine, lane) in lanes.iter_mut().zip(of_port) {
                mine.push(lane);
            }
            twins.push(twin);
        }

        if team > 1 {
            info!(event = "steering", "packets are steered {steering}");
        }
        let urgency = Arc::<AtomicU8>::default();
        let (done, loops) = mpsc::channel();
        let mut workers = Vec::new();
        table.deal(team, steering.keys().map(|keys| &**keys));
        let Table { shards, key, .. } = table;
        let peers = Peers::connect(&eal, team)?;
        let mut shards: Vec<Option<Shard>> = shards.into_iter().map(Some).collect();
        let mut seats = seats(team, config.workers.max_servers);
        for (number, (mut lanes, peers)) in lanes.into_iter().zip(peers).enumerate() {
            let share = Share::of(number, team);
            let mine = |(shard, place): (u8, &mut Option<Shard>)| match share.elsewhere(shard) {
                Some(_) => None,
                None => place.take(),
            };
            let shards = (0..).zip(&mut shards).filter_map(mine).collect();
            for lane in &mut lanes {
                lane.assisted = assisted;
            }
            let (control, end, mut worker) = nodes.near(number, || {
                let (control, end) = channel(config.workers.max_servers as usize);
                let worker = make_worker(config, share, shards, key, &end, &macs);
                (control, end, worker)
            });
            for (port, &assist) in (0..).zip(&assists) {
                worker.assist(PortId(port), assist);
            }
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
                pool: Arc::clone(pools.of(nodes.worker(number))),
                idle: idle_of(config),
                rings: rings_of(config, &ports),
                stop: Arc::clone(&stop),
                bell: bell.clone(),
                clock: Clock::new(eal.tsc_hz()),
                parking: Parking::default(),
                peers,
                eager: Eager::new(Arc::clone(&urgency)),
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
            pool: Arc::clone(pools.of(nodes.worker(0))),
            bell: bell.clone(),
            stop: Arc::clone(&stop),
            probes,
            eager: Eager::new(Arc::clone(&urgency)),
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
            buffers: std::mem::take(&mut pools.known),
            nodes: nodes.all(),
            dpdk: eal.version(),
            open,
            steering: steering.to_string(),
            mark: Mark { prefix, scatter },
            devices: config
                .dpdk
                .vdevs
                .iter()
                .chain(&config.dpdk.pci)
                .cloned()
                .collect(),
            eal,
            stop,
            bell,
            loops,
            pump: Some(pump),
            pools,
            urgency,
        })
    }
}

impl Edge {
    /// Stops workers and pump, then ports, then DPDK. Twins stay, without carrier.
    pub fn stop(mut self) -> Result<()> {
        drop(self.end_workers()?);
        for twin in self.end_pump()? {
            if let Err(refused) = twin.retire().stop() {
                warn!("{}", refused.error);
            }
        }
        drop(self.pools);
        self.eal.cleanup()?;
        Ok(())
    }

    /// Stops workers, pump and ports and lets go of the devices, for a process that takes them over.
    /// The twins are open all the time, so that the kernel sees no change.
    ///
    /// # Errors
    /// A worker does not end, or a device cannot be given back.
    pub fn hand_over(mut self) -> Result<HandedOver> {
        // What is not in the way of the ports is freed when nobody waits any more.
        let loops = self.end_workers()?;
        let mut taps = Vec::new();
        for twin in self.end_pump()? {
            let (port, tap) = twin.part();
            if let Err(refused) = port.stop() {
                bail!(refused.error);
            }
            taps.push(tap);
        }
        // A bond before its members.
        for device in self.devices.iter().rev() {
            let name = device.split(',').next().unwrap_or(device);
            dpdk::port::detach(&self.eal, name)?;
        }
        Ok(HandedOver {
            taps,
            loops,
            _rest: (self.pools, self.eal),
        })
    }

    /// Ends the workers; their queues are the ports' again.
    fn end_workers(&mut self) -> Result<Vec<Loop>> {
        self.stop.store(true, Ordering::Release);
        let mut ended = Vec::new();
        for _ in 0..self.running {
            let mut polled = self
                .loops
                .recv_timeout(STOP_DEADLINE)
                .context("a worker does not end")?;
            polled.lanes.clear();
            ended.push(polled);
        }
        for worker in 0..self.running {
            self.eal.wait(worker)?;
        }
        Ok(ended)
    }

    fn end_pump(&mut self) -> Result<Vec<Twin>> {
        self.bell.ring();
        let pump = self.pump.take().context("the pump has ended")?;
        match pump.join() {
            Ok(twins) => twins.context("pump"),
            Err(_) => bail!("the pump thread panicked"),
        }
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
    let ports = config.ports.iter().zip(ports);
    let rings = ports.map(|(port, handle)| (port.rx_ring(), Arc::clone(&handle.counters)));
    Rings {
        rings: rings.collect(),
    }
}
