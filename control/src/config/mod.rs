//! The configuration file, in three shapes that are three types.
//!
//! - **as written**: [`file`] reads the TOML text against the table of known keys ([`keys`]), so
//!   that every unknown key and every value of the wrong type is found in one run, with its line;
//! - **validated**: [`Config`], made by [`validate`] alone. Cross checks are done, defaults are
//!   filled in, names are typed values. Nothing keeps the written form after that;
//! - **running**: [`Running`], which the model keeps and [`diff`] compares with what was loaded.
//!
//! [`plan`] says what a reload has to change, [`save`] writes the running rules into the file.
//! All of it is pure except [`load`], [`Host::probe`] and [`save::save`], which touch files.

use dataplane::toeplitz::Facing;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataplane::settings::Settings;

use crate::api::ServiceKey;
use crate::health::Checks;
use crate::sync;

mod diff;
pub mod file;
pub mod keys;
pub mod notify;
mod rules;
pub mod save;
mod validate;
pub mod vrrp;

pub(crate) use file::nearest;

pub use diff::{Action, Plan, needs_restart, plan, render_diff};
pub use rules::{
    OperatorState, Rules, Running, RunningMark, RunningServer, RunningService, SETTINGS, Server,
    Service, Setting, describe_server, describe_service, protocol_name,
};
pub use validate::Host;

/// The rings that an af_packet port shares with the kernel, one each way, of 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRing {
    /// Bytes of a slot: a frame and what the kernel writes before it.
    pub slot: u32,
    /// Bytes of the pieces that the kernel allocates; each holds whole slots.
    pub block: u32,
    /// Slots: how long a worker may nap follows from it.
    pub frames: u16,
}

impl PacketRing {
    /// What the kernel writes before a frame (`TPACKET2_HDRLEN` and alignment), Ethernet header
    /// and two tags.
    const OVERHEAD: u32 = 96;

    /// The ring of a port whose peers leave it to the hardware to cut TCP packets: whole ones come,
    /// in slots that just fit into a packet buffer of 64 KiB. The driver takes the slots of all
    /// blocks for one array, so a block is pages and slots without a rest: 511 pages, 32 slots.
    const LONG: PacketRing = PacketRing {
        slot: 65408,
        block: 32 * 65408,
        frames: 256,
    };

    const _FITS: () = assert!(
        PacketRing::LONG.block.is_multiple_of(PacketRing::LONG.slot)
            && PacketRing::LONG.block.is_multiple_of(4096)
    );

    /// The ring of a port with this MTU.
    fn of(mtu: u16) -> PacketRing {
        let need = u32::from(mtu) + PacketRing::OVERHEAD;
        if need <= 2048 {
            return PacketRing {
                slot: 2048,
                block: 65536,
                frames: 8192,
            };
        }
        // A block is a multiple of a page.
        let slot = need.next_multiple_of(4096);
        PacketRing {
            slot,
            block: slot,
            frames: (8192 * 2048 / slot) as u16,
        }
    }
}

/// A validated configuration. Only [`load`] and [`parse`] make one.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Its text as it was read; [`save::save`] refuses to overwrite another.
    pub text: Arc<str>,
    /// Arguments of DPDK's EAL, complete: devices of all ports and worker cores are in it.
    pub dpdk: DpdkConfig,
    /// Worker cores and capacities.
    pub workers: Workers,
    /// Data ports in the order of the file, which is the order of `PortId`.
    pub ports: Vec<Port>,
    /// What is mirrored from the kernel.
    pub kernel: Kernel,
    /// The admin socket.
    pub admin: Admin,
    /// What outlives the daemon.
    pub state: Lasting,
    /// Logging.
    pub log: Log,
    /// Services, servers and settings: the part that a reload changes.
    pub rules: Rules,
    /// Which synchronisation daemons run; a reload changes this, too.
    pub sync: sync::Plan,
    /// Addresses that checks of virtual addresses come from, at most one of each family.
    pub probes: Vec<IpAddr>,
    /// How servers are checked; a reload changes this, too.
    pub checks: BTreeMap<ServiceKey, Checks>,
    /// Virtual routers and what they depend on; a reload changes this, too.
    pub vrrp: vrrp::Vrrp,
    /// What holds for all scripts.
    pub scripts: notify::Scripts,
    /// What is told to whom.
    pub notify: notify::Notify,
    /// Every command of the file.
    pub commands: Vec<notify::Written>,
    /// Accepted but worth a word; same form as a mistake.
    pub warnings: Vec<Mistake>,
}

impl Config {
    /// Live settings at start: timeouts, sysctls, punt limits.
    pub fn settings(&self) -> &Settings {
        &self.rules.settings
    }
}

/// What `dpdk::eal` needs to build EAL's arguments; `rvsd` maps it field by field, because
/// `control` does not know the `dpdk` crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkConfig {
    /// Hugepages or ordinary pages.
    pub memory: MemoryMode,
    /// Packet memory, MiB.
    pub memory_mb: u32,
    /// EAL's file prefix: two processes on a host need two.
    pub file_prefix: String,
    /// Cores for everything that is no worker. Never empty.
    pub main_cores: Vec<u32>,
    /// One per worker. Never empty.
    pub worker_cores: Vec<u32>,
    /// Full vdev arguments (`net_af_packet0,iface=f0`): extra ones, then those of ports.
    pub vdevs: Vec<String>,
    /// PCI addresses that EAL may see, those of ports first; empty means `--no-pci`.
    pub pci: Vec<String>,
    /// IOVA mode.
    pub iova: Iova,
    /// Values of `--log-level`, e.g. `lib.eal:info`.
    pub log_level: Vec<String>,
    /// `--single-file-segments` (vhost-user on hugepages needs it).
    pub single_file_segments: bool,
    /// EAL's telemetry thread and socket.
    pub telemetry: bool,
    /// Passed on as written, last.
    pub extra_args: Vec<String>,
}

/// Where EAL takes packet memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMode {
    /// Hugepages, `--in-memory`.
    Hugepages,
    /// Ordinary pages, `--no-huge`: for tests and the demo.
    NoHuge,
}

/// Addresses that devices use for DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iova {
    /// VA when no PCI port is configured, else EAL's choice.
    Auto,
    /// Physical.
    Pa,
    /// Virtual.
    Va,
}

/// `[workers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker per core, at least one.
    pub cores: Vec<u32>,
    /// What a worker does when nothing arrives.
    pub idle: Idle,
    /// Empty polls before the first sleep.
    pub idle_spin_polls: u32,
    /// Longest sleep; the worker shortens it to what the receive ring can hold.
    pub idle_sleep: Duration,
    /// Capacity of the connection table.
    pub connections: u32,
    /// Capacity for virtual services.
    pub max_services: u32,
    /// Capacity for real servers, deleted ones with living connections included.
    pub max_servers: u32,
    /// Capacity for mirrored routes.
    pub max_routes: u32,
    /// Capacity for mirrored neighbours.
    pub max_neighbours: u32,
}

/// Idle strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Poll if any port is a PCI device, else adaptive.
    Auto,
    /// Poll some times, then sleep, wake to full polling at the first packet.
    Adaptive,
    /// Never sleep.
    Poll,
}

impl Workers {
    /// Whether workers may sleep, with [`Idle::Auto`] resolved for these ports.
    pub fn may_sleep(&self, ports: &[Port]) -> bool {
        match self.idle {
            Idle::Adaptive => true,
            Idle::Poll => false,
            Idle::Auto => !ports.iter().any(Port::is_pci),
        }
    }
}

/// One data port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in `rvsadm status` and `rvsadm capture`.
    pub name: String,
    /// What it is.
    pub device: Device,
    /// DPDK's name of the device: PCI address or vdev name (`net_af_packet0`).
    pub device_name: String,
    /// Name of the kernel twin, at most 15 characters.
    pub twin: String,
    /// Bytes of layer 3.
    pub mtu: u16,
    /// Receive queues.
    pub rx_queues: u16,
    /// Who is on it; `None`: clients and servers.
    pub faces: Option<Facing>,
    /// Descriptors per receive queue.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue.
    pub tx_descriptors: u16,
    /// Promiscuous mode.
    pub promiscuous: bool,
    /// Complete transport checksums that a veth peer left to "the hardware".
    pub rx_csum_fixup: bool,
    /// Cut TCP packets that such a peer left to "the hardware" to segments of the MTU.
    pub rx_gso_fixup: bool,
    /// What is left to the NIC.
    pub offloads: Offloads,
    /// Set the load-balancer values of arp_ignore, arp_announce, rp_filter, send_redirects on the
    /// twin.
    pub twin_sysctls: bool,
}

/// What is left to a NIC of what it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// What the NIC itself does.
    Auto,
    /// Also what its driver does for it.
    All,
    /// Nothing.
    None,
}

impl Port {
    /// Whether it is a PCI device (polled by default).
    pub fn is_pci(&self) -> bool {
        matches!(self.device, Device::Pci(_)) || self.members().iter().any(Member::is_pci)
    }

    /// The members of a bond; none of other devices.
    pub fn members(&self) -> &[Member] {
        match &self.device {
            Device::Bond { members, .. } => members,
            _ => &[],
        }
    }

    /// Whether it is on an AF_PACKET socket, or a bond with such a member.
    pub fn is_af_packet(&self) -> bool {
        matches!(self.device, Device::AfPacket { .. })
            || self.members().iter().any(|m| m.interface.is_some())
    }

    /// Bytes that a packet buffer needs for any frame of the port, without headroom; the driver
    /// of an af_packet port wants room for a slot of its ring.
    pub fn longest_frame(&self) -> u32 {
        match self.packet_ring() {
            // Cut packets are copied into buffers of the usual size.
            Some(ring) if !self.rx_gso_fixup => ring.slot,
            _ => u32::from(self.mtu) + 22,
        }
    }

    /// The rings that it shares with the kernel, if it is on AF_PACKET sockets.
    pub fn packet_ring(&self) -> Option<PacketRing> {
        self.is_af_packet().then(|| match self.rx_gso_fixup {
            true => PacketRing::LONG,
            false => PacketRing::of(self.mtu),
        })
    }

    /// Frames that the ring of a receive queue has room for.
    pub fn rx_ring(&self) -> u16 {
        // The ring of an af_packet port is the kernel's, made by the vdev argument.
        self.packet_ring()
            .map_or(self.rx_descriptors, |ring| ring.frames)
    }

    /// The kernel network devices beneath, for af_packet and af_xdp ports and members of a bond:
    /// the kernel's own stack must not answer as well (ingress drop, no IPv6).
    pub fn kernel_interfaces(&self) -> impl Iterator<Item = &str> {
        let own = match &self.device {
            Device::AfPacket { interface } | Device::AfXdp { interface } => Some(&**interface),
            _ => None,
        };
        let of_members = self.members().iter().filter_map(|m| m.interface.as_deref());
        own.into_iter().chain(of_members)
    }
}

/// What drives a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// PCI address in long form.
    Pci(String),
    /// AF_PACKET on a kernel interface.
    AfPacket {
        /// The interface.
        interface: String,
    },
    /// AF_XDP on a kernel interface.
    AfXdp {
        /// The interface.
        interface: String,
    },
    /// Shared-memory port between processes.
    Memif {
        /// Path of the control socket.
        socket: String,
        /// Interface id, the same on both sides.
        id: u32,
        /// True: makes the socket; false: connects to it.
        server: bool,
        /// Own MAC.
        mac: Option<String>,
    },
    /// virtio-user on the vhost-user socket of a backend.
    VhostUser {
        /// Path of the socket.
        path: String,
        /// Own MAC.
        mac: Option<String>,
    },
    /// Files or an interface by libpcap.
    Pcap {
        /// Read packets from this file.
        rx: Option<String>,
        /// Write packets to this file.
        tx: Option<String>,
        /// Or use this interface.
        interface: Option<String>,
        /// Read the file over and over.
        infinite: bool,
    },
    /// Receives `size`-byte packets as fast as asked, or none; drops what is sent.
    Null {
        /// Bytes of a received packet.
        size: u16,
        /// Receive anything at all.
        receive: bool,
    },
    /// Several devices as one, by DPDK's bonding driver.
    Bond {
        /// How the members share the work.
        mode: BondMode,
        /// At least one.
        members: Vec<Member>,
        /// The member that sends whenever it can (active-backup); by DPDK's name.
        primary: Option<String>,
        /// What decides about the member that a packet is sent by: `l2`, `l23` or `l34`.
        policy: String,
    },
    /// Any vdev, as DPDK wants it.
    Vdev(String),
}

/// How the members of a bond share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// One sends, the others wait for its link to go down.
    ActiveBackup,
    /// All send, by a hash; the switch has to know the group.
    Balance,
    /// As balance, agreed with the switch by LACP.
    Lacp,
}

impl BondMode {
    /// All, by the names in the configuration, with DPDK's numbers.
    pub const NAMES: [(&'static str, BondMode, u8); 3] = [
        ("active-backup", BondMode::ActiveBackup, 1),
        ("balance", BondMode::Balance, 2),
        ("802.3ad", BondMode::Lacp, 4),
    ];
}

/// One member of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// DPDK's name: PCI address or vdev name.
    pub device: String,
    /// The kernel interface, if it is reached by AF_PACKET.
    pub interface: Option<String>,
}

/// `[kernel]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Which routes are mirrored.
    pub table: KernelTable,
    /// How often neighbours of servers and gateways are probed.
    pub neighbour_refresh: Duration,
    /// Receive buffer of the netlink socket, KiB.
    pub netlink_buffer_kib: u32,
}

/// A routing table of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelTable {
    /// Table 254.
    Main,
    /// By number.
    Number(u32),
    /// The table of this VRF device.
    Vrf(String),
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its group; `None` leaves the daemon's.
    pub group: Option<String>,
}

/// `[state]`: what outlives the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lasting {
    /// Where the rules that run are kept; `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// File of the connection table; `None`: memory of the process.
    pub table: Option<PathBuf>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Form of a line.
    pub format: LogFormat,
    /// Filter in `tracing`'s syntax: `info`, `info,control::netlink=debug`.
    pub filter: String,
    /// Where lines go; `None` is stderr.
    pub file: Option<PathBuf>,
}

impl Member {
    /// Whether it is a PCI device.
    pub fn is_pci(&self) -> bool {
        self.device.contains(':')
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Something wrong in the file, or worth a warning. Displays as one line,
/// `file:line: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.text),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.text),
        }
    }
}

/// Reads and validates a file against this host.
///
/// # Errors
/// Every mistake in the file, in the order of its lines.
pub fn load(path: &Path) -> Result<Config, Vec<Mistake>> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => "give the path with --config",
            std::io::ErrorKind::PermissionDenied => "make it readable for the user of rvsd",
            std::io::ErrorKind::InvalidData => "the file must be UTF-8 text",
            _ => "check the path",
        };
        vec![Mistake {
            file: path.to_owned(),
            line: 0,
            text: format!("cannot be read: {e}; {hint}"),
        }]
    })?;
    let mut config = parse(path, &text, &Host::probe())?;
    config.warnings.extend(notify::look(&config));
    Ok(config)
}

/// [`load`] without touching anything: `path` is only named in messages.
///
/// # Errors
/// Every mistake in the text, in the order of its lines.
pub fn parse(path: &Path, text: &str, host: &Host) -> Result<Config, Vec<Mistake>> {
    let (file, mut mistakes) = file::read(path, text);
    if !file.well_formed {
        // What could be read of the rest has been looked at; how it fits together is unknown.
        mistakes.sort_by_key(|m| m.line);
        return Err(mistakes);
    }
    let config = validate::validate(path, text, &file, host, &mut mistakes);
    mistakes.sort_by_key(|m| m.line);
    // What several share is complained about once.
    mistakes.dedup();
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes)
    }
}
