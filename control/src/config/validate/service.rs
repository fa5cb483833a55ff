//! Virtual services and their real servers.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use dataplane::schedule;

use super::{Notes, check, health, notify, number, pool};
use crate::api::{
    Family, Method, Netmask, Persistence, Protocol, SchedFlags, ServerKey, ServerSpec, ServiceKey,
    ServiceSpec, ServiceTimeouts, Tunnel, TunnelChecksum, TunnelKind,
};
use crate::config::file::{At, File, Table};
use crate::config::notify::UpDown;
use crate::config::rules::{describe_server, describe_service, method_name, protocol_name};
use crate::config::{OperatorState, Server, Service, Workers};
use crate::health::{Checks, Pool};
use crate::schedulers::{self, NoFlag};

pub(super) fn services(
    file: &File,
    workers: &Workers,
    probes: &[IpAddr],
    all_checks: &mut BTreeMap<ServiceKey, Checks>,
    told: &mut (BTreeMap<ServiceKey, UpDown>, notify::Servers),
    notes: &mut Notes<'_>,
) -> BTreeMap<ServiceKey, Service> {
    let mut out = BTreeMap::new();
    let mut lines: HashMap<ServiceKey, usize> = HashMap::new();
    let tables = file.root.tables("service");
    let mut servers = 0;
    for table in tables {
        servers += table.tables("server").len();
        // Servers are checked even if the service is wrong, as far as that goes.
        let key = service_key(table, notes);
        let mut checks = Checks {
            common: check::checks(table, alpha(table), notes),
            own: BTreeMap::new(),
            pool: Pool::default(),
        };
        let mut scripts = BTreeMap::new();
        let service = service(table, key, probes, &mut checks, &mut scripts, notes);
        let others = std::mem::take(&mut checks.pool.others);
        checks.pool = pool::pool(table, key, &service.servers, others, notes);
        let Some(key) = key else { continue };
        if let Some(first) = lines.get(&key) {
            let what = describe_service(&key);
            let text = format!("service {what} is also in line {first}; join the two");
            notes.mistake(table.line, text);
            continue;
        }
        lines.insert(key, table.line);
        out.insert(key, service);
        notify::service(table, key, &mut told.0, notes);
        let of = |(server, scripts)| ((key, server), scripts);
        told.1.extend(scripts.into_iter().map(of));
        if !checks.are_default() {
            all_checks.insert(key, checks);
        }
    }
    let table = file.section("workers");
    for (what, count, key, limit) in [
        (
            "services",
            tables.len(),
            "max_services",
            workers.max_services,
        ),
        ("servers", servers, "max_servers", workers.max_servers),
    ] {
        if limit != 0 && count > limit as usize {
            let text = format!("the file has {count} {what} and {key} is {limit}; raise it");
            notes.mistake(table.line_of(key), text);
        }
    }
    out
}

/// Whether the servers of a service are down until they were checked.
fn alpha(service: &Table) -> bool {
    service.boolean("alpha").unwrap_or_default()
}

fn service_key(table: &Table, notes: &mut Notes<'_>) -> Option<ServiceKey> {
    if table.mentions("fwmark") {
        return mark_key(table, notes);
    }
    if table.mentions("family") {
        notes.mistake(
            table.line_of("family"),
            "family belongs to fwmark; remove it, the address tells",
        );
    }
    let protocol = match table.text("protocol") {
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        Some("sctp") => Some(Protocol::Sctp),
        _ => None,
    };
    let addr = address(table, notes);
    let port = table.integer("port").map(|n| n as u16);
    if port == Some(0) && table.integer("persistence_timeout").unwrap_or(0) == 0 {
        notes.mistake(
            table.line_of("port"),
            "port 0 (any port) is for persistent services; add persistence_timeout or give 1 to 65535",
        );
    }
    Some(ServiceKey::new(protocol?, addr?, port?))
}

fn mark_key(table: &Table, notes: &mut Notes<'_>) -> Option<ServiceKey> {
    for other in ["protocol", "address", "port"] {
        if table.mentions(other) {
            notes.mistake(
                table.line_of(other),
                format!("a service has fwmark or {other}, not both; remove one"),
            );
        }
    }
    let family = match table.text("family") {
        Some("ipv6") => Family::Ipv6,
        _ => Family::Ipv4,
    };
    let mark = table.integer("fwmark")? as u32;
    Some(ServiceKey::Mark { mark, family })
}

fn address(table: &Table, notes: &mut Notes<'_>) -> Option<IpAddr> {
    let text = table.text("address")?;
    let line = table.line_of("address");
    let Ok(addr) = text.parse::<IpAddr>() else {
        let advice = if text.parse::<std::net::SocketAddr>().is_ok() {
            "the port has its own key"
        } else if text.contains('/') {
            "leave out the prefix length"
        } else {
            "write it like 192.0.2.1 or 2001:db8::1"
        };
        notes.mistake(
            line,
            format!("address \"{text}\" is no IP address; {advice}"),
        );
        return None;
    };
    if let Some(complaint) = unicast_complaint(addr) {
        notes.mistake(
            line,
            format!("address {addr} {complaint}; give a unicast address"),
        );
    } else if addr.is_loopback() {
        notes.warning(
            line,
            format!(
                "address {addr} is a loopback address, which no port carries; use one of a twin"
            ),
        );
    }
    Some(addr)
}

fn service(
    table: &Table,
    key: Option<ServiceKey>,
    probes: &[IpAddr],
    checks: &mut Checks,
    scripts: &mut BTreeMap<ServerKey, UpDown>,
    notes: &mut Notes<'_>,
) -> Service {
    let one_packet = table.boolean("one_packet").unwrap_or_default();
    let protocol = key.and_then(|k| k.protocol());
    if let Some(other) = protocol.filter(|p| one_packet && *p != Protocol::Udp) {
        let other = protocol_name(other);
        let text = format!("one_packet is for udp; remove it from this {other} service");
        notes.mistake(table.line_of("one_packet"), text);
    }
    let persistence = persistence(table, key, notes);
    let scheduler = table.text("scheduler").unwrap_or_default().to_owned();
    let flags = flags(table, &scheduler, notes);
    let mut servers: Vec<Server> = Vec::new();
    let mut lines: HashMap<ServerKey, usize> = HashMap::new();
    let alpha = alpha(table);
    let inhibit = table.boolean("inhibit_on_failure").unwrap_or_default();
    for table in table.tables("server") {
        let own = check::checks(table, alpha, notes);
        let Some(server) = server(table, key, notes) else {
            continue;
        };
        if let Some(own) = notify::server(table, notes) {
            scripts.insert(server.key, own);
        }
        if table.mentions("check") {
            checks.own.insert(server.key, own);
        }
        if table
            .boolean("inhibit_on_failure")
            .is_some_and(|i| i != inhibit)
        {
            checks.pool.others.insert(server.key);
        }
        let of = checks.of(server.key);
        check::need_ports(&of, server.key, table.line, notes);
        if let Some(key) = key {
            health::need_way(&of, (key, &server), probes, table.line, notes);
        }
        if let Some(first) = lines.get(&server.key) {
            let what = describe_server(&server.key);
            let text = format!("server {what} is also in line {first} of this service; keep one");
            notes.mistake(table.line, text);
            continue;
        }
        lines.insert(server.key, table.line);
        servers.push(server);
    }
    let (most, count) = (schedule::most_destinations(&scheduler), servers.len());
    if let Some(most) = most.filter(|most| count > *most) {
        let text = format!(
            "{scheduler} takes at most {most} servers and this service has {count}; choose another scheduler"
        );
        notes.mistake(table.line_of("scheduler"), text);
    }
    Service {
        spec: ServiceSpec {
            scheduler,
            one_packet,
            persistence,
            flags,
            timeouts: timeouts(table, key, notes),
            engine: engine(table, key, notes),
        },
        servers,
    }
}

fn persistence(
    table: &Table,
    key: Option<ServiceKey>,
    notes: &mut Notes<'_>,
) -> Option<Persistence> {
    let timeout: u32 = number(table, "persistence_timeout");
    let is_ipv6 = key?.is_ipv6();
    let mut netmask = Netmask::full(is_ipv6);
    if let Some(text) = table.text("netmask") {
        let line = table.line_of("netmask");
        let read = if is_ipv6 {
            let len = text.parse().ok().filter(|len| (1..=128).contains(len));
            len.map(Netmask::V6)
        } else {
            text.parse().ok().map(Netmask::V4)
        };
        match read {
            Some(mask) => netmask = mask,
            None => {
                let form = if is_ipv6 {
                    "a prefix length from 1 to 128 in quotes"
                } else {
                    "a mask like 255.255.255.0"
                };
                notes.mistake(line, format!("netmask \"{text}\" is none; give {form}"));
            }
        }
        if timeout == 0 {
            notes.warning(
                line,
                "netmask does nothing without persistence_timeout; add that or remove it",
            );
        }
    }
    (timeout != 0).then_some(Persistence { timeout, netmask })
}

fn engine(table: &Table, key: Option<ServiceKey>, notes: &mut Notes<'_>) -> Option<String> {
    let name = table
        .text("persistence_engine")
        .filter(|name| *name != "none")?;
    let line = table.line_of("persistence_engine");
    if table.integer("persistence_timeout").unwrap_or(0) == 0 {
        notes.warning(
            line,
            "persistence_engine does nothing without persistence_timeout; add that or remove it",
        );
    }
    let protocol = key.and_then(|k| k.protocol());
    if let Some(other) = protocol.filter(|p| *p != Protocol::Udp) {
        let other = protocol_name(other);
        let text =
            format!("persistence_engine {name} drops all packets of a {other} service; remove it");
        notes.warning(line, text);
    }
    Some(name.to_owned())
}

/// Timeouts of its own; each is for connections of one protocol.
fn timeouts(table: &Table, key: Option<ServiceKey>, notes: &mut Notes<'_>) -> ServiceTimeouts {
    let timeouts = ServiceTimeouts {
        tcp: number(table, "tcp_timeout"),
        tcp_fin: number(table, "tcp_fin_timeout"),
        udp: number(table, "udp_timeout"),
        sctp: number(table, "sctp_timeout"),
    };
    let misfit = key.and_then(|key| Some((key.protocol()?, timeouts.misfit(key)?)));
    if let Some((protocol, one)) = misfit {
        let (key, other) = (one.key, protocol_name(protocol));
        let text = format!("{key} does nothing in this {other} service; remove it");
        notes.mistake(table.line_of(key), text);
    }
    timeouts
}

fn flags(table: &Table, scheduler: &str, notes: &mut Notes<'_>) -> SchedFlags {
    let mut flags = SchedFlags::default();
    for At { value: name, line } in table.texts("scheduler_flags") {
        let complaint = match schedulers::flag(scheduler, name) {
            Ok(flag) => {
                flags = flags.with(flag);
                continue;
            }
            Err(NoFlag::Of(owner)) => format!(
                "\"{name}\" is a flag of {owner}, but the scheduler is {scheduler}; remove one of them"
            ),
            Err(NoFlag::Unknown) => format!(
                "\"{name}\" is no flag of a scheduler; {scheduler} has {}",
                schedulers::flags_of(scheduler).join(", ")
            ),
        };
        notes.mistake(*line, format!("scheduler_flags: {complaint}"));
    }
    flags
}

pub(super) fn server(
    table: &Table,
    service: Option<ServiceKey>,
    notes: &mut Notes<'_>,
) -> Option<Server> {
    let addr = address(table, notes);
    let method = match table.text("method") {
        Some("nat") => Method::Masq,
        Some("tun") => Method::Tunnel,
        _ => Method::Route,
    };
    let (upper, lower) = (number(table, "upper"), number(table, "lower"));
    if lower > upper {
        notes.mistake(
            table.line_of("lower"),
            format!("lower {lower} is above upper {upper}; give at most upper"),
        );
    }
    let (addr, service) = (addr?, service?);
    if addr.is_ipv6() != service.is_ipv6() && method != Method::Tunnel {
        let (server, service) = (family(addr.is_ipv6()), family(service.is_ipv6()));
        let name = method_name(method);
        let text = format!(
            "{server} server of an {service} service with method {name}; only tun crosses families"
        );
        notes.mistake(table.line_of("address"), text);
    }
    let mut port = table.integer("port").map_or(service.port(), |n| n as u16);
    if method != Method::Masq && port != service.port() && service.mark().is_none() {
        let name = method_name(method);
        notes.warning(
            table.line_of("port"),
            format!(
                "port {port} with method {name}: packets keep the service's port {}; remove the key or use nat",
                service.port()
            ),
        );
        port = service.port();
    }
    let state = match table.text("state") {
        Some("drain") => OperatorState::Drain,
        _ => OperatorState::Up,
    };
    let spec = ServerSpec {
        method,
        weight: number(table, "weight"),
        upper,
        lower,
        tunnel: tunnel(table, method, notes),
    };
    Some(Server {
        key: ServerKey { addr, port },
        spec,
        state,
    })
}

/// What `tun_*` say, which have to fit each other and the method.
fn tunnel(table: &Table, method: Method, notes: &mut Notes<'_>) -> Tunnel {
    let kind = match table.text("tun_type") {
        Some("gre") => TunnelKind::Gre,
        Some("gue") => TunnelKind::Gue,
        _ => TunnelKind::Ipip,
    };
    let checksum = match table.text("tun_checksum") {
        Some("full") => TunnelChecksum::Full,
        Some("remote") => TunnelChecksum::Remote,
        _ => TunnelChecksum::None,
    };
    let port = table.integer("tun_port").map_or(0, |n| n as u16);
    let mut wrong = |key, text: String| notes.mistake(table.line_of(key), text);
    if method != Method::Tunnel {
        for key in ["tun_type", "tun_port", "tun_checksum"] {
            if table.mentions(key) {
                let name = method_name(method);
                wrong(
                    key,
                    format!("{key} is for method tun, this is {name}; remove it"),
                );
            }
        }
        return Tunnel::default();
    }
    let name = kind.name();
    if kind == TunnelKind::Gue && port == 0 {
        wrong("tun_type", "gue needs a UDP port; add tun_port".into());
    }
    if kind != TunnelKind::Gue && port != 0 {
        wrong(
            "tun_port",
            format!("a tunnel of type {name} has no port; remove tun_port"),
        );
    }
    let fits = match checksum {
        TunnelChecksum::None => true,
        TunnelChecksum::Full => kind != TunnelKind::Ipip,
        TunnelChecksum::Remote => kind == TunnelKind::Gue,
    };
    if !fits {
        let checksum = checksum.name();
        let text =
            format!("tunnels of type {name} have no checksum {checksum:?}; remove tun_checksum");
        wrong("tun_checksum", text);
    }
    Tunnel {
        kind,
        port,
        checksum,
    }
}

fn family(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}

/// Whether a unicast address may be used for a service or a server, in the words of a mistake.
pub(super) fn unicast_complaint(addr: IpAddr) -> Option<&'static str> {
    match addr {
        _ if addr.is_unspecified() => Some("is the unspecified address"),
        _ if addr.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(a) if a.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V4(a) if a.octets()[0] >= 240 => Some("is a reserved address"),
        IpAddr::V4(a) if a.octets()[0] == 0 => {
            Some("is an address of \"this network\" (0.0.0.0/8)")
        }
        IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80 => {
            Some("is link-local and means nothing without an interface")
        }
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            Some("is an IPv4-mapped address; write it as an IPv4 address")
        }
        _ => None,
    }
}
