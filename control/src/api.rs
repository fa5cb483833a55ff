//! The admin API: what `rvsadm` asks and `rvsd` answers. The only definition both binaries use.
//!
//! Wire: a Unix stream socket. Each message is a frame: payload length (u32, big-endian, at most
//! [`MAX_FRAME`]) and that many bytes of JSON. A request frame is a [`RequestFrame`]; each request
//! is answered by one or more [`Response`] frames, see [`Response::is_last`]. Requests on one
//! connection are answered in order. The version is raised on every incompatible change, so that a
//! mismatched pair is refused rather than misread.
//!
//! A frame that cannot be cut or read is answered with [`Response::Error`] (`Malformed`); after an
//! oversized one the daemon closes the connection, since the stream cannot be followed any more.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

mod drain;
mod frame;
mod health;
mod mark;
mod sync;
mod timeouts;
mod upgrade;
mod vrrp;

pub use drain::{DrainView, Drainees};
pub use frame::{
    FrameDecoder, FrameError, HEADER, ServiceFrames, decode_request, encode, encode_request,
    encode_services,
};
pub use health::{CheckView, HealthView, PoolView, SorryView, ViaView};
pub use mark::{MarkMatch, MarkView, Net, PortRange};
pub use sync::{DaemonSpec, DaemonView, HellosRefused, PeerView, SYNC_GROUP, SYNC_PORT, SyncRole};
pub use timeouts::{OneTimeout, ServiceTimeouts};
pub use upgrade::HandOver;
pub use vrrp::{VrrpAlarmView, VrrpInstanceView, VrrpPeerView, VrrpView};

/// Version of this API.
pub const API_VERSION: u32 = 1;

/// Largest frame, bytes of payload.
pub const MAX_FRAME: usize = 1 << 20;

/// Most [`Response::Connections`] rows in a frame: far below [`MAX_FRAME`], and little enough that
/// the first rows of a long listing appear at once.
pub const ROWS_PER_FRAME: usize = 1024;

/// Default path of the admin socket.
pub const DEFAULT_SOCKET: &str = "/run/rvs/rvsd.sock";

/// A request with the version of the client that speaks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFrame {
    /// [`API_VERSION`] of the client.
    pub version: u32,
    /// What it wants.
    pub request: Request,
}

/// Every admin action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// `-A`: refused with `Exists` if there is one.
    AddService {
        /// The new service.
        service: ServiceKey,
        /// Its attributes.
        spec: ServiceSpec,
    },
    /// `-E`: replaces all attributes.
    EditService {
        /// Which service.
        service: ServiceKey,
        /// Its new attributes.
        spec: ServiceSpec,
    },
    /// `-D`.
    DeleteService {
        /// Which service.
        service: ServiceKey,
    },
    /// `-C`: removes all services, whatever their origin.
    Clear,
    /// `-a`.
    AddServer {
        /// Of which service.
        service: ServiceKey,
        /// The new server.
        server: ServerKey,
        /// Its attributes.
        spec: ServerSpec,
    },
    /// `-e`.
    EditServer {
        /// Of which service.
        service: ServiceKey,
        /// Which server.
        server: ServerKey,
        /// Its new attributes.
        spec: ServerSpec,
    },
    /// `-d`.
    DeleteServer {
        /// Of which service.
        service: ServiceKey,
        /// Which server.
        server: ServerKey,
    },
    /// `-L`: one service or all.
    ListServices {
        /// Only this one (`NoService` if there is none), or all.
        service: Option<ServiceKey>,
    },
    /// `-Lc`: streamed in batches.
    ListConnections,
    /// `-L --timeout`.
    GetTimeouts,
    /// `--set`: seconds, 0 keeps the current value.
    SetTimeouts {
        /// Established TCP connections.
        tcp: u32,
        /// TCP after a FIN.
        tcp_fin: u32,
        /// UDP.
        udp: u32,
    },
    /// `--start-daemon`.
    StartDaemon {
        /// Which, and how.
        daemon: DaemonSpec,
    },
    /// `--stop-daemon`.
    StopDaemon {
        /// Which.
        role: SyncRole,
    },
    /// `-L --daemon`.
    ListDaemons,
    /// `-Z`: one service or all.
    Zero {
        /// Only this one (`NoService` if there is none), or all.
        service: Option<ServiceKey>,
    },
    /// `rvsadm mark add`: refused if there is such a rule.
    AddMark {
        /// Which packets.
        #[serde(rename = "match")]
        matches: MarkMatch,
        /// Get this mark.
        mark: u32,
    },
    /// `rvsadm mark delete`.
    DeleteMark {
        /// The rule's packets.
        #[serde(rename = "match")]
        matches: MarkMatch,
    },
    /// `rvsadm mark list`.
    ListMarks,
    /// `rvsadm health`.
    Health,
    /// `rvsadm vrrp`.
    Vrrp,
    /// `rvsadm drain`: the servers take nothing new; `NoServer` if there are none.
    Drain {
        /// Which servers.
        servers: Drainees,
        /// Seconds until what is left of their connections ends; without, it lives as it would.
        #[serde(default)]
        deadline: Option<u32>,
    },
    /// `rvsadm undrain`.
    Undrain {
        /// Which servers.
        servers: Drainees,
    },
    /// How far drained servers are. Answered with [`Response::Drains`].
    Drains {
        /// Only these; `NoServer` if none of them is drained.
        servers: Option<Drainees>,
    },
    /// `rvsadm status`.
    Status,
    /// `rvsadm stats`: totals and rates of everything, and the raw counters of each worker.
    Stats,
    /// `rvsadm sysctl`: sets values by name, all or none, then lists. Answered with
    /// [`Response::Sysctls`].
    Sysctl {
        /// Names and new values.
        set: Vec<(String, String)>,
        /// What to list; nothing and nothing to set: all.
        names: Vec<String>,
    },
    /// `rvsadm reload`; `discard_live` lets the file win over live changes.
    Reload {
        /// Undo what `rvsadm` added or changed since the file was loaded.
        discard_live: bool,
    },
    /// `rvsadm upgrade`: another program takes over from this one. Answered with
    /// [`Response::Text`] by the old one, when the new one forwards packets.
    Upgrade {
        /// The program; without, the one that lies where this one lay at its start.
        #[serde(default)]
        binary: Option<std::path::PathBuf>,
        /// Seconds it may take until nothing is in its way.
        #[serde(default)]
        deadline: Option<u32>,
        /// Whether another node is to be master meanwhile.
        #[serde(default)]
        hand_over: HandOver,
    },
    /// `rvsadm diff`: file against running.
    Diff,
    /// `rvsadm save`: running to the file.
    Save,
    /// `rvsadm capture PORT FILE [filter]`. The file is opened by the daemon's writer thread.
    ///
    /// Refused at once with `Error`, otherwise answered first with [`Response::Started`] and, when
    /// the capture ends, with its summary as `Text`. It ends at its limits, by `StopCapture` on
    /// any other connection, or when this connection closes.
    Capture {
        /// Port by its name in the configuration.
        port: String,
        /// Absolute path of the pcapng file.
        file: String,
        /// Filter expression, empty = every packet.
        filter: String,
        /// Ends after so many packets, 0 = the daemon's own bound.
        packets: u64,
        /// Ends after so many seconds, 0 = the daemon's own bound.
        seconds: u64,
    },
    /// Ends the running capture and answers with its summary as `Text`.
    StopCapture,
    /// Changes on this connection are answered before they are on the disk, until
    /// [`Request::EndBatch`]: a long restore.
    Batch,
    /// Answered when all changes of the batch are on the disk.
    EndBatch,
    /// Version of the daemon.
    Version,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Family of marked packets.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What identifies a virtual service: `{"protocol", "addr", "port"}` or `{"mark", "family"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ServiceKey {
    /// Packets to an address.
    Endpoint {
        /// Protocol.
        protocol: Protocol,
        /// Virtual address.
        addr: IpAddr,
        /// Virtual port, host order; 0 is every port that no other service has.
        port: u16,
    },
    /// Packets that a rule gave a firewall mark.
    Mark {
        /// The mark, never 0.
        mark: u32,
        /// Family of the packets.
        #[serde(default)]
        family: Family,
    },
}

impl ServiceKey {
    /// Key of a service with an address.
    pub const fn new(protocol: Protocol, addr: IpAddr, port: u16) -> ServiceKey {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        }
    }

    /// Its address; a mark has none.
    pub fn addr(&self) -> Option<IpAddr> {
        match self {
            ServiceKey::Endpoint { addr, .. } => Some(*addr),
            ServiceKey::Mark { .. } => None,
        }
    }

    /// Its port; 0 for a mark.
    pub fn port(&self) -> u16 {
        match self {
            ServiceKey::Endpoint { port, .. } => *port,
            ServiceKey::Mark { .. } => 0,
        }
    }

    /// Its protocol; a mark has none.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            ServiceKey::Endpoint { protocol, .. } => Some(*protocol),
            ServiceKey::Mark { .. } => None,
        }
    }

    /// Its mark, if that is what it is.
    pub fn mark(&self) -> Option<u32> {
        match self {
            ServiceKey::Endpoint { .. } => None,
            ServiceKey::Mark { mark, .. } => Some(*mark),
        }
    }

    /// Whether its packets are IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self {
            ServiceKey::Endpoint { addr, .. } => addr.is_ipv6(),
            ServiceKey::Mark { family, .. } => *family == Family::Ipv6,
        }
    }
}

/// Attributes of a virtual service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Scheduler name.
    pub scheduler: String,
    /// One-packet scheduling.
    #[serde(default)]
    pub one_packet: bool,
    /// Flags of the scheduler.
    #[serde(default)]
    pub flags: SchedFlags,
    /// Clients stay with their server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Name of the persistence engine; it does nothing without persistence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Timeouts of its connections.
    #[serde(default, skip_serializing_if = "ServiceTimeouts::are_common")]
    pub timeouts: ServiceTimeouts,
}

/// How clients stay with their server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// Seconds after the last new connection.
    pub timeout: u32,
    /// Clients of one network go together.
    pub netmask: Netmask,
}

/// Which part of a client's address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Netmask {
    /// IPv4: any mask.
    V4(Ipv4Addr),
    /// IPv6: a prefix length, 1 to 128.
    V6(u8),
}

impl Netmask {
    /// The whole address.
    pub const fn full(is_ipv6: bool) -> Netmask {
        if is_ipv6 {
            Netmask::V6(128)
        } else {
            Netmask::V4(Ipv4Addr::BROADCAST)
        }
    }

    /// Whether the whole address counts.
    pub fn is_full(&self) -> bool {
        *self == Netmask::full(self.is_ipv6())
    }

    /// Whether it is for IPv6.
    pub fn is_ipv6(&self) -> bool {
        matches!(self, Netmask::V6(_))
    }
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Netmask::V4(mask) => mask.fmt(f),
            Netmask::V6(len) => len.fmt(f),
        }
    }
}

/// Flags of a scheduler (`-b`): bit 0 is the first. What they mean is the scheduler's affair, and
/// so are their names; see [`crate::schedulers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchedFlags(pub u8);

/// What identifies a real server within a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerKey {
    /// Real address.
    pub addr: IpAddr,
    /// Real port.
    pub port: u16,
}

/// How a real server is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `-m`, NAT.
    Masq,
    /// `-g`, direct routing.
    #[default]
    Route,
    /// `-i`, a tunnel; [`ServerSpec::tunnel`] says which.
    Tunnel,
    /// The server is this host (never asked for: reported when the address is local).
    Local,
}

/// Kind of a tunnel (`--tun-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// IP in IP.
    #[default]
    Ipip,
    /// UDP with a header of four bytes.
    Gue,
    /// GRE.
    Gre,
}

impl TunnelKind {
    /// As ipvsadm and the configuration file write it.
    pub const fn name(self) -> &'static str {
        match self {
            TunnelKind::Ipip => "ipip",
            TunnelKind::Gue => "gue",
            TunnelKind::Gre => "gre",
        }
    }
}

/// Checksum of a tunnel's own header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// `--tun-nocsum`.
    #[default]
    None,
    /// `--tun-csum`.
    Full,
    /// `--tun-remcsum`, GUE only.
    Remote,
}

impl TunnelChecksum {
    /// As the configuration file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            TunnelChecksum::None => "none",
            TunnelChecksum::Full => "full",
            TunnelChecksum::Remote => "remote",
        }
    }
}

/// How packets to a server are wrapped. Means something with [`Method::Tunnel`] only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// Kind of tunnel.
    #[serde(default)]
    pub kind: TunnelKind,
    /// UDP port of GUE, 0 for the others.
    #[serde(default)]
    pub port: u16,
    /// Checksum of GUE and GRE.
    #[serde(default)]
    pub checksum: TunnelChecksum,
}

/// Attributes of a real server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Forwarding method.
    pub method: Method,
    /// Configured weight.
    pub weight: u32,
    /// Upper connection threshold, 0 = none.
    #[serde(default)]
    pub upper: u32,
    /// Lower connection threshold, 0 = none.
    #[serde(default)]
    pub lower: u32,
    /// How its packets are wrapped.
    #[serde(default)]
    pub tunnel: Tunnel,
}

/// Why a request was refused. `rvsadm` maps each to ipvsadm's message and exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// `-A`: "Service already exists".
    ServiceExists,
    /// "No such service" (-D, -E, -Z, -L).
    NoService,
    /// `-a -e -d` on a missing service: "Service not defined".
    ServiceNotDefined,
    /// "Destination already exists".
    ServerExists,
    /// "No such destination".
    NoServer,
    /// "Scheduler or persistence engine not found".
    NoScheduler,
    /// "Invalid operation.  Possibly wrong module version, address not unicast, ...".
    Invalid,
    /// "Numerical result out of range".
    Range,
    /// `--start-daemon`: "Daemon has already run".
    DaemonRunning,
    /// `--stop-daemon`: "No daemon is running".
    NoDaemon,
    /// "No such device".
    NoDevice,
    /// A capacity fixed at start is used up (`max_services`, `max_servers`).
    Capacity,
    /// The client speaks another [`API_VERSION`].
    Version,
    /// The request could not be read.
    Malformed,
    /// A reload or save failed; everything is as it was.
    Config,
    /// Workers did not take the change over in time.
    Busy,
    /// Anything else.
    Failed,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Response {
    /// Done on every worker. Warnings are lines for stderr.
    Ok {
        /// What the operator should know although it worked.
        warnings: Vec<String>,
    },
    /// A request that takes long (`Capture`) has begun; its result follows.
    Started {
        /// What the operator should know although it works.
        warnings: Vec<String>,
    },
    /// Refused; nothing changed. `message` is one line that says what to do.
    Error {
        /// Which kind, for the exit status.
        error: ErrorKind,
        /// For the operator.
        message: String,
    },
    /// Answer to `ListServices`, unsorted: kernel order (the client sorts). The last frame of the
    /// listing; see [`encode_services`].
    Services {
        /// `size=` of the header: slots of the connection table.
        table_size: u64,
        /// Newest first.
        services: Vec<ServiceView>,
    },
    /// Part of a listing that does not fit into one frame. A first service with the key of the
    /// previous part's last one continues its servers.
    ServicesPart {
        /// In the order of `Services`, before it.
        services: Vec<ServiceView>,
    },
    /// A batch of connections, at most [`ROWS_PER_FRAME`].
    Connections {
        /// In no order.
        rows: Vec<ConnectionRow>,
        /// Further frames follow.
        more: bool,
    },
    /// Answer to `GetTimeouts`, seconds.
    Timeouts {
        /// Established TCP connections.
        tcp: u32,
        /// TCP after a FIN.
        tcp_fin: u32,
        /// UDP.
        udp: u32,
    },
    /// Answer to `ListDaemons`, the master first.
    Daemons {
        /// Those that run.
        daemons: Vec<DaemonView>,
    },
    /// Answer to `ListMarks`, sorted.
    Marks {
        /// The rules.
        rules: Vec<MarkView>,
    },
    /// Answer to `Vrrp`.
    Vrrp {
        /// How all virtual routers stand.
        view: Box<VrrpView>,
    },
    /// Answer to `Health`, sorted by service and server.
    Health {
        /// Servers that are checked.
        servers: Vec<HealthView>,
        /// Services that the file has checks or a pool for.
        #[serde(default)]
        pools: Vec<PoolView>,
    },
    /// Answer to `Drains`, sorted by service.
    Drains {
        /// Drained servers.
        rows: Vec<DrainView>,
    },
    /// Answer to `Status`.
    Status(Box<StatusView>),
    /// Answer to `Stats`.
    Stats {
        /// Since the last `-Z` of everything, up to the last snapshot.
        total: Stats,
        /// A second.
        rates: Stats,
        /// By worker: what it has counted since its start, up to now.
        workers: Vec<Stats>,
    },
    /// Answer to `Sysctl`.
    Sysctls {
        /// Names and values.
        rows: Vec<(String, String)>,
    },
    /// Free text for stdout (diff, reload summary, capture summary).
    Text {
        /// Printed as it is, with a line end added if it lacks one.
        text: String,
    },
    /// Answer to `Version`.
    Version {
        /// Of the daemon.
        version: String,
        /// Commit it was built from.
        commit: String,
        /// Version of DPDK it runs on.
        dpdk: String,
    },
}

impl Response {
    /// Whether this frame ends the answer to a request.
    pub fn is_last(&self) -> bool {
        !matches!(
            self,
            Response::Connections { more: true, .. }
                | Response::ServicesPart { .. }
                | Response::Started { .. }
        )
    }
}

/// Counters of ipvsadm's `--stats`, or rates of `--rate` (per second).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections.
    pub conns: u64,
    /// Packets in.
    pub in_pkts: u64,
    /// Packets out.
    pub out_pkts: u64,
    /// Bytes in.
    pub in_bytes: u64,
    /// Bytes out.
    pub out_bytes: u64,
}

/// A service as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Identity.
    pub key: ServiceKey,
    /// Attributes.
    pub spec: ServiceSpec,
    /// Whether this host holds the address, so that packets are balanced.
    pub live: bool,
    /// Where it came from.
    pub origin: Origin,
    /// Totals.
    pub stats: Stats,
    /// Rates.
    pub rates: Stats,
    /// Newest first.
    pub servers: Vec<ServerView>,
}

/// Where an object came from, which decides what a reload may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The configuration file, unchanged since.
    File,
    /// From the file, then changed by `rvsadm`.
    FileChanged,
    /// Added by `rvsadm`.
    Live,
}

/// A real server as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Identity.
    pub key: ServerKey,
    /// Attributes; `weight` is the effective one.
    pub spec: ServerSpec,
    /// Weight as configured or set by the operator.
    pub configured_weight: u32,
    /// Where it came from.
    pub origin: Origin,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Totals.
    pub stats: Stats,
    /// Rates.
    pub rates: Stats,
}

/// A connection as listed by `-Lnc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Protocol; none for the persistence template of a mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Seconds to expiry.
    pub expires: u32,
    /// State as ipvsadm prints it.
    pub state: String,
    /// Client address and port.
    pub client: (IpAddr, u16),
    /// Virtual address and port.
    #[serde(rename = "virtual")]
    pub virtual_: (IpAddr, u16),
    /// Real address and port; unspecified, port 0, if it goes past all servers.
    pub dest: (IpAddr, u16),
    /// What a persistence engine made this template by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineData>,
}

/// Data of a persistence engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineData {
    /// Name of the engine.
    pub name: String,
    /// The data, a Call-ID.
    pub data: String,
}

/// Answer to `Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// Seconds since start.
    pub uptime: u64,
    /// Data ports.
    pub ports: Vec<PortView>,
    /// How packets come to the worker that has their connection.
    #[serde(default)]
    pub steering: String,
    /// Workers.
    pub workers: Vec<WorkerView>,
    /// Pools of packet buffers.
    #[serde(default)]
    pub buffers: Vec<BuffersView>,
    /// Drops by reason, zero ones left out: (name, count, help).
    pub drops: Vec<(String, u64, String)>,
    /// Packets to the kernel by class: (class, count).
    pub punted: Vec<(String, u64)>,
    /// Connections alive and their capacity.
    pub connections: (u64, u64),
    /// Routes mirrored from the kernel.
    pub routes: u64,
    /// Neighbours with a known MAC.
    pub neighbours: u64,
    /// Services.
    pub services: u64,
    /// Real servers.
    pub servers: u64,
    /// Milliseconds since the pump, the thread of the kernel twins, was last seen to move.
    #[serde(default)]
    pub pump_age_ms: u64,
    /// Longest turn of the control loop in the last minute, milliseconds.
    #[serde(default)]
    pub control_turn_ms: u64,
    /// Log lines dropped because the log queue was full.
    pub log_dropped: u64,
    /// Standing warnings, a line each (rules not mirrored, VIP held by no port, ...).
    pub warnings: Vec<String>,
}

/// A data port in `Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortView {
    /// Name in the configuration.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// DPDK driver.
    pub driver: String,
    /// Kernel twin.
    pub twin: String,
    /// Its MAC.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Link is up.
    pub link: bool,
    /// Mbit/s, 0 unknown.
    pub speed: u32,
    /// What the device does for the data plane (`rss`, `scatter`, `multi-seg`, `vlan-strip`), and what
    /// is done in software in its place (`csum-fixup`).
    #[serde(default)]
    pub offloads: Vec<String>,
    /// What the device offers besides, and is not asked for.
    #[serde(default)]
    pub offers: Vec<String>,
    /// NUMA node of its NIC.
    #[serde(default)]
    pub node: Option<u32>,
    /// Counters by name (rx, tx, missed, no-mbuf, errors, tx-full, twin-rx, twin-tx ...).
    pub counters: Vec<(String, u64)>,
}

/// A worker in `Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Index.
    pub id: u32,
    /// CPU it is pinned to.
    pub core: u32,
    /// NUMA node of that, if the kernel tells.
    #[serde(default)]
    pub node: Option<u32>,
    /// Share of its CPU used over the last interval, percent.
    pub load: f64,
    /// Packets received a second over the last interval.
    pub rx_pps: u64,
    /// Packets sent a second over the last interval.
    pub tx_pps: u64,
    /// Packets received.
    pub rx: u64,
    /// Packets sent.
    pub tx: u64,
    /// Connections it holds.
    pub connections: u64,
    /// Packets given to the worker that has their connection.
    #[serde(default)]
    pub handed_over: u64,
    /// Milliseconds since its heartbeat last moved.
    pub heartbeat_age_ms: u64,
    /// Longest time between two looks at the ports without a nap, microseconds.
    #[serde(default)]
    pub longest_gap_us: u64,
    /// Such times of a millisecond and more.
    #[serde(default)]
    pub long_gaps: u64,
    /// What its commands cost, by kind; those that never came are left out.
    #[serde(default)]
    pub commands: Vec<CommandView>,
}

/// What commands of one kind cost a worker, in `Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommandView {
    /// The kind, as `put-service`.
    pub name: String,
    /// How many were applied.
    pub count: u64,
    /// CPU time of all of them, microseconds.
    pub cpu_us: u64,
    /// CPU time of the longest since the worker takes packets, microseconds.
    pub longest_us: f64,
    /// Of those since then, how many took 100 microseconds and more.
    pub slow: u64,
}

/// A pool of packet buffers in `Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuffersView {
    /// Its name: `rvs` feeds all ports (`rvs-N` those of NUMA node N), `long-PORT` the frames of a
    /// port that are cut.
    pub name: String,
    /// NUMA node, if there are several pools.
    #[serde(default)]
    pub node: Option<u32>,
    /// Buffers it has.
    pub size: u64,
    /// Of them those that can be had now.
    pub free: u64,
    /// Most that NICs and drivers hold in rings, whether packets come or not.
    pub rings: u64,
}
