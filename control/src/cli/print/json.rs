//! `--json`: the same listings for programs. One document per command, UTF-8, ending in a newline.
//!
//! The shapes below are a promise: fields may be added, none is renamed or removed without a
//! change of the major version. Numbers are exact, addresses are numeric (never names), times are
//! seconds, `-n`, `--exact` and the column options change nothing. Sorting as in the text.
//!
//! - `-L`: `{"table_size", "services": [{"protocol", "address", "port", "scheduler", "flags",
//!   "one_packet", "live", "origin", "stats", "rates", "servers": [{"address", "port", "method", "weight",
//!   "configured_weight", "upper_threshold", "lower_threshold", "active", "inactive",
//!   "persistent", "origin", "stats", "rates", "tunnel"}]}]}`, where `stats` and `rates` are `{"conns",
//!   "in_pkts", "out_pkts", "in_bytes", "out_bytes"}`, `method` is `masq`, `route`, `tunnel` or
//!   `local`, `origin` is `file`, `file-changed` or `live`, and `tunnel`, which only servers of
//!   that method have, is `{"kind", "port", "checksum"}`. A service with a firewall mark has
//!   `fwmark` and `family` (`ipv4`, `ipv6`) instead of `protocol`, `address` and `port`.
//!   `persistence` is `{"timeout", "netmask"}` with a dotted mask or, for IPv6, a prefix length, and
//!   left out of services without. `timeouts` is `{"tcp", "tcp_fin", "udp", "sctp"}`, 0 for the
//!   common one, and left out where all are. `engine` is the name of the persistence engine, if
//!   there is one.
//! - `-Lc`: `{"connections": [{"protocol", "expires", "state", "client", "virtual", "server"}]}`
//!   with endpoints as `{"address", "port"}`; one connection per line, printed as they arrive. The
//!   persistence template of a mark has no `protocol`. A template of an engine has `engine`,
//!   `{"name", "data"}`.
//! - `-L --timeout`: `{"tcp", "tcp_fin", "udp"}`. `-L --daemon`: `{"daemons": [{"role",
//!   "interface", "syncid", "maxlen", "group", "port", "ttl", "messages", "entries", "lost", "refused",
//!   "authenticated", "unsigned", "forged", "stale", "replayed", "cuts",
//!   "hellos_refused": {"unsigned", "forged", "stale", "replayed", "garbled"},
//!   "peers": [{"addr", "node", "alive", "heard_ms", "connections", "complete", "gaps", "missed", "repairs",
//!   "transfers", "refreshes", "copied", "copied_ms"}]}]}`: `peers` are other nodes of RVS.
//! - `mark list`: `{"marks": [{"mark", "match", "origin"}]}`, where `match` has those of `source`,
//!   `destination` (networks), `protocol`, `source_port`, `destination_port` (`80` or `80-89`),
//!   `vlan` and `port` that the rule asks for, and `family`.
//! - `status`: see [`Status`].
//! - `stats`: `{"total", "rates", "workers": []}`, each as `stats` above; `workers` has what each
//!   one counted since its start.
//! - `sysctl`: an object of names and values, which are numbers, or texts where they are two.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;

use crate::api::{
    BuffersView, ConnectionRow, DaemonView, DrainView, EngineData, Family, HealthView, MarkView,
    Method, Origin, Persistence, PoolView, Protocol, ServerView, ServiceKey, ServiceTimeouts,
    ServiceView, Stats, StatusView, Tunnel, VrrpView, WorkerView,
};
use crate::schedulers::names_of;

#[derive(Serialize)]
struct Services<'a> {
    table_size: u64,
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fwmark: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<Family>,
    scheduler: &'a str,
    flags: Vec<&'static str>,
    one_packet: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistence: Option<Persistence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'a str>,
    #[serde(skip_serializing_if = "ServiceTimeouts::are_common")]
    timeouts: ServiceTimeouts,
    live: bool,
    origin: Origin,
    stats: Stats,
    rates: Stats,
    servers: Vec<Server>,
}

#[derive(Serialize)]
struct Server {
    address: IpAddr,
    port: u16,
    method: Method,
    weight: u32,
    configured_weight: u32,
    upper_threshold: u32,
    lower_threshold: u32,
    active: u32,
    inactive: u32,
    persistent: u32,
    origin: Origin,
    stats: Stats,
    rates: Stats,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<Tunnel>,
}

impl<'a> From<&'a ServiceView> for Service<'a> {
    fn from(view: &'a ServiceView) -> Self {
        Service {
            protocol: view.key.protocol(),
            address: view.key.addr(),
            port: view.key.addr().map(|_| view.key.port()),
            fwmark: view.key.mark(),
            family: match view.key {
                ServiceKey::Endpoint { .. } => None,
                ServiceKey::Mark { family, .. } => Some(family),
            },
            scheduler: &view.spec.scheduler,
            flags: names_of(&view.spec.scheduler, view.spec.flags),
            one_packet: view.spec.one_packet,
            persistence: view.spec.persistence,
            engine: view.spec.engine.as_deref(),
            timeouts: view.spec.timeouts,
            live: view.live,
            origin: view.origin,
            stats: view.stats,
            rates: view.rates,
            servers: view.servers.iter().map(Server::from).collect(),
        }
    }
}

impl From<&ServerView> for Server {
    fn from(view: &ServerView) -> Self {
        Server {
            address: view.key.addr,
            port: view.key.port,
            method: view.spec.method,
            weight: view.spec.weight,
            configured_weight: view.configured_weight,
            upper_threshold: view.spec.upper,
            lower_threshold: view.spec.lower,
            active: view.active,
            inactive: view.inactive,
            persistent: view.persistent,
            origin: view.origin,
            stats: view.stats,
            rates: view.rates,
            tunnel: (view.spec.method == Method::Tunnel).then_some(view.spec.tunnel),
        }
    }
}

/// Prints a listing of services.
pub fn services(out: &mut dyn Write, table_size: u64, views: &[ServiceView]) -> io::Result<()> {
    document(
        out,
        &Services {
            table_size,
            services: views.iter().map(Service::from).collect(),
        },
    )
}

#[derive(Serialize)]
struct Endpoint {
    address: IpAddr,
    port: u16,
}

impl From<(IpAddr, u16)> for Endpoint {
    fn from((address, port): (IpAddr, u16)) -> Self {
        Endpoint { address, port }
    }
}

#[derive(Serialize)]
struct Connection<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    expires: u32,
    state: &'a str,
    client: Endpoint,
    #[serde(rename = "virtual")]
    service: Endpoint,
    server: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'a EngineData>,
}

/// Prints a listing of connections in pieces.
#[derive(Debug, Default)]
pub struct Connections {
    rows: u64,
}

impl Connections {
    /// Prints what stands in front of the rows.
    pub fn begin(out: &mut dyn Write) -> io::Result<Self> {
        write!(out, "{{\"connections\": [")?;
        Ok(Connections::default())
    }

    /// Prints one connection.
    pub fn row(&mut self, out: &mut dyn Write, row: &ConnectionRow) -> io::Result<()> {
        let comma = if self.rows > 0 { "," } else { "" };
        writeln!(out, "{comma}")?;
        self.rows += 1;
        let connection = Connection {
            protocol: row.protocol,
            expires: row.expires,
            state: &row.state,
            client: row.client.into(),
            service: row.virtual_.into(),
            server: row.dest.into(),
            engine: row.engine.as_ref(),
        };
        serde_json::to_writer(out, &connection).map_err(io::Error::from)
    }

    /// Prints what stands behind the rows.
    pub fn end(self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\n]}}")
    }
}

/// Prints the time-outs in seconds.
pub fn timeouts(out: &mut dyn Write, tcp: u32, tcp_fin: u32, udp: u32) -> io::Result<()> {
    #[derive(Serialize)]
    struct Timeouts {
        tcp: u32,
        tcp_fin: u32,
        udp: u32,
    }
    document(out, &Timeouts { tcp, tcp_fin, udp })
}

/// Prints the synchronisation daemons.
pub fn daemons(out: &mut dyn Write, daemons: &[DaemonView]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Daemons<'a> {
        daemons: &'a [DaemonView],
    }
    document(out, &Daemons { daemons })
}

/// Prints how far drained servers are.
pub fn drains(out: &mut dyn Write, rows: &[DrainView]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Drains<'a> {
        servers: &'a [DrainView],
    }
    document(out, &Drains { servers: rows })
}

/// Prints the servers that are checked.
pub fn health(out: &mut dyn Write, servers: &[HealthView], pools: &[PoolView]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Health<'a> {
        servers: &'a [HealthView],
        pools: &'a [PoolView],
    }
    document(out, &Health { servers, pools })
}

/// Prints virtual routers.
pub fn vrrp(out: &mut dyn Write, view: &VrrpView) -> io::Result<()> {
    document(out, view)
}

/// Prints the rules of marks.
pub fn marks(out: &mut dyn Write, rules: &[MarkView]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Marks<'a> {
        marks: &'a [MarkView],
    }
    document(out, &Marks { marks: rules })
}

/// The document of `status`.
#[derive(Serialize)]
pub struct Status<'a> {
    /// Version of the daemon.
    version: &'a str,
    /// Seconds since its start.
    uptime: u64,
    /// Data ports.
    ports: Vec<Port<'a>>,
    /// Workers: `id`, `core`, `load` in percent, `rx_pps`, `tx_pps`, `rx`, `tx`, `connections`,
    /// `heartbeat_age_ms`, `longest_gap_us`, `long_gaps`, and `commands`: `name`, `count`, `cpu_us`,
    /// `longest_us`, `slow`.
    workers: &'a [WorkerView],
    /// Pools of packet buffers: `name`, `node`, `size`, `free`, and `rings`, the most that NICs hold.
    buffers: &'a [BuffersView],
    /// How packets come to the worker that has their connection.
    steering: &'a str,
    /// Connection table.
    connections: Used,
    /// Dropped packets by reason: `{"reason", "count", "help"}`.
    drops: Vec<Drop<'a>>,
    /// Packets to the kernel by class.
    punted: BTreeMap<&'a str, u64>,
    /// Routes mirrored.
    routes: u64,
    /// Neighbours with a known MAC.
    neighbours: u64,
    /// Services.
    services: u64,
    /// Real servers.
    servers: u64,
    /// Milliseconds since the thread of the kernel twins was last seen to move (looked at once
    /// a second).
    pump_age_ms: u64,
    /// Longest turn of the control loop in the last minute, milliseconds.
    control_turn_ms: u64,
    /// Log lines lost.
    log_dropped: u64,
    /// Standing warnings.
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Port<'a> {
    name: &'a str,
    device: &'a str,
    driver: &'a str,
    twin: &'a str,
    mac: &'a str,
    mtu: u16,
    link: bool,
    /// Mbit/s, 0 unknown.
    speed: u32,
    offloads: &'a [String],
    offers: &'a [String],
    /// NUMA node of its NIC, null without one.
    node: Option<u32>,
    counters: BTreeMap<&'a str, u64>,
}

#[derive(Serialize)]
struct Used {
    used: u64,
    capacity: u64,
}

#[derive(Serialize)]
struct Drop<'a> {
    reason: &'a str,
    count: u64,
    help: &'a str,
}

/// Prints the status.
pub fn status(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let ports = view.ports.iter().map(|port| Port {
        name: &port.name,
        device: &port.device,
        driver: &port.driver,
        twin: &port.twin,
        mac: &port.mac,
        mtu: port.mtu,
        link: port.link,
        speed: port.speed,
        offloads: &port.offloads,
        offers: &port.offers,
        node: port.node,
        counters: port
            .counters
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect(),
    });
    let drops = view.drops.iter().map(|(reason, count, help)| Drop {
        reason,
        count: *count,
        help,
    });
    let (used, capacity) = view.connections;
    document(
        out,
        &Status {
            version: &view.version,
            uptime: view.uptime,
            ports: ports.collect(),
            workers: &view.workers,
            buffers: &view.buffers,
            steering: &view.steering,
            connections: Used { used, capacity },
            drops: drops.collect(),
            punted: view
                .punted
                .iter()
                .map(|(class, count)| (class.as_str(), *count))
                .collect(),
            routes: view.routes,
            neighbours: view.neighbours,
            services: view.services,
            servers: view.servers,
            pump_age_ms: view.pump_age_ms,
            control_turn_ms: view.control_turn_ms,
            log_dropped: view.log_dropped,
            warnings: &view.warnings,
        },
    )
}

/// Prints totals, rates and the counters of workers.
pub fn totals(
    out: &mut dyn Write,
    total: Stats,
    rates: Stats,
    workers: &[Stats],
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Totals<'a> {
        total: Stats,
        rates: Stats,
        workers: &'a [Stats],
    }
    let totals = Totals {
        total,
        rates,
        workers,
    };
    document(out, &totals)
}

/// Prints sysctls.
pub fn sysctls(out: &mut dyn Write, rows: &[(String, String)]) -> io::Result<()> {
    let value = |text: &String| match text.parse::<i64>() {
        Ok(number) => serde_json::Value::from(number),
        Err(_) => serde_json::Value::from(text.as_str()),
    };
    let rows: BTreeMap<&str, serde_json::Value> = rows
        .iter()
        .map(|(name, text)| (name.as_str(), value(text)))
        .collect();
    document(out, &rows)
}

fn document(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}
