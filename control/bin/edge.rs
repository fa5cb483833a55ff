//! The edge of the daemon: DPDK, ports, twins, workers, the pump. Built from a validated
//! configuration, taken down in reverse order.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use control::config::{self, Config};
use control::status::PortHandle;
use dataplane::addr::Mac;
use dataplane::command::{Command, ControlEnd, WorkerEnd, channel};
use dataplane::conn::{HashKey, Layout, Shard, region};
use dataplane::counters::PortCounters;
use dataplane::packet::{PortId, PuntClass};
use dataplane::worker::{Limits, Worker};
use dpdk::clock::Clock;
use dpdk::eal::{Eal, EalConfig, HugepageFiles, Iova, Memory};
use dpdk::host::{Capability, Host};
use dpdk::mempool::{self, Demand, Mempool};
use dpdk::poll::{Idle, Lane, Loop, Parking, Rings};
use dpdk::port::{Port, PortConfig, RunningPort};
use dpdk::pump::{Bell, Pump, Twin};
use dpdk::region::{Backing, Region};
use dpdk::ring;
use dpdk::tap::Tap;
use tracing::{info, warn};

/// Slots of the punt queues, by class: adverts and ARP never wait behind transit.
const PUNT_SLOTS: [u32; PuntClass::COUNT] = [256, 256, 1024, 1024];

/// Slots of the queue from a twin to the wire.
const WIRE_SLOTS: u32 = 1024;

/// Mbufs a thread keeps for itself.
const CACHE: u32 = 256;

/// Most time a worker or the pump may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that runs below control.
pub struct Edge {
    /// For control, one for each worker.
    pub workers: Vec<ControlEnd>,
    /// In the order of the configuration.
    pub ports: Vec<PortHandle>,
    /// Version of DPDK.
    pub dpdk: String,
    eal: Eal,
    stop: Arc<AtomicBool>,
    bell: Bell,
    loops: mpsc::Receiver<Loop>,
    running: usize,
    pump: JoinHandle<io::Result<Vec<RunningPort>>>,
    pool: Arc<Mempool>,
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
    mut prepare_twin: impl FnMut(&config::Port) -> Result<()>,
) -> Result<Edge> {
    check_capabilities(config)?;
    let eal = Eal::init(&eal_config(config))?;
    let opened = config
        .ports
        .iter()
        .map(|port| Ok(Port::open(&eal, &port.device_name)?))
        .collect::<Result<Vec<Port>>>()?;
    let pool = Arc::new(make_pool(&eal, config)?);
    let bell = Bell::new().context("no descriptor left for the pump's bell")?;
    let stop = Arc::new(AtomicBool::new(false));

    let mut lanes = Vec::new();
    let mut twins = Vec::new();
    let mut ports = Vec::new();
    let mut macs = Vec::new();
    for (number, (wanted, port)) in config.ports.iter().zip(opened).enumerate() {
        let number = PortId(u16::try_from(number).context("too many ports")?);
        let (handle, mac, lane, twin) =
            start_port(&eal, &pool, wanted, number, port, &mut prepare_twin)
                .with_context(|| format!("port {}", wanted.name))?;
        macs.push(mac);
        ports.push(handle);
        lanes.push(lane);
        twins.push(twin);
    }

    let (control, end) = channel(config.workers.max_servers as usize);
    let worker = make_worker(config, &end, &macs)?;
    let polled = Loop {
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
    };
    let (done, loops) = mpsc::channel();
    eal.launch(
        0,
        Box::new(move || {
            // The receiver is only gone when the daemon gave up waiting.
            let _ = done.send(polled.run());
        }),
    )?;
    let pump = Pump {
        twins,
        pool: Arc::clone(&pool),
        bell: bell.clone(),
        stop: Arc::clone(&stop),
    };
    let pump = thread::Builder::new()
        .name("rvs-pump".to_owned())
        .spawn(move || {
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
        workers: vec![control],
        ports,
        dpdk: eal.version(),
        eal,
        stop,
        bell,
        loops,
        running: 1,
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
        self.eal.wait(0)?;
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
        .any(|port| port.kernel_interface().is_some());
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

fn make_pool(eal: &Eal, config: &Config) -> Result<Mempool> {
    let ports = config.ports.len() as u32;
    let descriptors = config
        .ports
        .iter()
        .map(|p| u32::from(p.rx_descriptors) + u32::from(p.tx_descriptors))
        .sum();
    let count = mempool::size_for(Demand {
        descriptors,
        ring_slots: ports * (PUNT_SLOTS.iter().sum::<u32>() + WIRE_SLOTS),
        threads: 3,
        cache: CACHE,
        bursts: 4 * (ports + 1),
    });
    let mtu = config.ports.iter().map(|p| p.mtu).max().unwrap_or(1500);
    let room = mempool::DATA_ROOM.max(mtu.saturating_add(256));
    Mempool::new(eal, "rvs", count, CACHE, room, None).with_context(|| {
        format!(
            "{count} packet buffers are needed for {ports} ports; raise memory_mb in [dpdk] or \
             lower the descriptors of the ports"
        )
    })
}

fn make_worker(config: &Config, end: &WorkerEnd, macs: &[Mac]) -> Result<Worker> {
    let (shards, key) = make_table(config.workers.connections)?;
    let limits = Limits {
        services: config.workers.max_services as usize,
        dests: config.workers.max_servers as usize,
        neighbours: config.workers.max_neighbours as usize,
        ports: macs.len(),
    };
    let counters = Arc::clone(&end.counters);
    let mut worker = Worker::new(shards, key, limits, counters, *config.settings());
    for (number, &mac) in macs.iter().enumerate() {
        let now = Clock::new(0).now();
        drop(worker.apply(
            now,
            Command::PutMacs(PortId(number as u16), Box::new([mac])),
        ));
    }
    Ok(worker)
}

fn make_table(connections: u32) -> Result<(Vec<Shard>, HashKey)> {
    let layout = Layout::for_connections(connections);
    let region = Region::map(&Backing::Anonymous, layout.bytes(), false)
        .context("connection table; lower connections in [workers]")?;
    info!(pages = ?region.pages(), connections = layout.connections, "connection table mapped");
    let mut random = [0u8; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut random))
        .context("/dev/urandom")?;
    let mut key = [0u64; 4];
    for (word, bytes) in key.iter_mut().zip(random.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    let key = HashKey(key);
    let now = Clock::new(0).now().ticks();
    let shards = region::create(region.into_bytes(), layout, key, boot_id()?, now)
        .map_err(|why| anyhow!(why))?;
    Ok((shards, key))
}

/// Which boot the times in a region belong to.
fn boot_id() -> Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).context(path)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).context(path)?;
    Ok(number.to_be_bytes())
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
        let ring = match port.device {
            config::Device::AfPacket { .. } => config::AF_PACKET_FRAMES,
            _ => port.rx_descriptors,
        };
        (ring, Arc::clone(&handle.counters))
    });
    Rings {
        rings: rings.collect(),
    }
}

fn start_port(
    eal: &Eal,
    pool: &Mempool,
    wanted: &config::Port,
    number: PortId,
    port: Port,
    prepare_twin: &mut impl FnMut(&config::Port) -> Result<()>,
) -> Result<(PortHandle, Mac, Lane, Twin)> {
    let info = port.info()?;
    let setup = PortConfig {
        rx_queues: wanted.rx_queues,
        tx_queues: 1,
        rx_descriptors: wanted.rx_descriptors,
        tx_descriptors: wanted.tx_descriptors,
        mtu: (wanted.mtu != info.mtu).then_some(wanted.mtu),
    };
    let mut port = port.start(&setup, pool).map_err(|refused| refused.error)?;
    if wanted.promiscuous
        && let Err(why) = port.set_promiscuous(true)
    {
        warn!("{why}; the port goes on without");
    }
    // Adverts and neighbour discovery come to groups; a port without filters sees them anyway.
    if let Err(why) = port.set_all_multicast(true) {
        tracing::debug!("{why}; taken to see all group frames anyway");
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

    let rx = port.rx_queue(0).context("its receive queue is in use")?;
    let tx = port.tx_queue(0).context("its transmit queue is in use")?;
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for slots in PUNT_SLOTS {
        let (sender, receiver) = ring::single_producer(eal, slots)?;
        senders.push(sender);
        receivers.push(receiver);
    }
    let (to_wire, from_kernel) = ring::single_producer(eal, WIRE_SLOTS)?;
    let four = "one ring for each class";
    let senders = senders.try_into().map_err(|_| anyhow!(four))?;
    let receivers = receivers.try_into().map_err(|_| anyhow!(four))?;

    let handle = PortHandle {
        name: wanted.name.clone(),
        device: wanted.device_name.clone(),
        driver: info.driver.clone(),
        twin: wanted.twin.clone(),
        mac: info.mac.to_string(),
        mtu: wanted.mtu,
        counters: Arc::clone(&counters),
    };
    info!(
        port = %handle.name,
        driver = %handle.driver,
        mac = %handle.mac,
        twin = %handle.twin,
        "port started"
    );
    let lane = Lane::new(number, rx, tx, senders, from_kernel, wanted.rx_csum_fixup);
    let twin = Twin {
        port,
        tap,
        punt: vec![receivers],
        to_wire,
        counters,
        carrier,
        lost: false,
    };
    Ok((handle, info.mac, lane, twin))
}
