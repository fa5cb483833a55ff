//! From the file as written to [`Config`]: defaults, typed values, and every check that looks at
//! more than one value. Each mistake is noted with its line and the work goes on, so that one run
//! shows them all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::settings::Settings;

use super::file::{At, File, Table, nearest};
use super::rules::{SETTINGS, describe_server, describe_service, method_name};
use super::{
    AF_PACKET_FRAMES, Admin, Config, Device, DpdkConfig, Idle, Iova, Kernel, KernelTable, Log,
    LogFormat, MemoryMode, Mistake, OperatorState, Port, Rules, Server, Service, Workers,
    unicast_complaint,
};
use crate::api::{Method, Protocol, ServerKey, ServerSpec, ServiceKey, ServiceSpec};

/// Bytes that a connection takes at most, index and timers included.
const BYTES_PER_CONNECTION: u64 = 160;

/// What is known about the machine that the file is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Cores that are online; empty if unknown, and then cores are not checked.
    pub online: Vec<u32>,
    /// Cores kept free for pollers (`isolcpus`).
    pub isolated: Vec<u32>,
    /// Memory in MiB; `None` if unknown.
    pub memory_mb: Option<u64>,
}

impl Host {
    /// This machine.
    pub fn probe() -> Host {
        let cores = |name: &str| {
            std::fs::read_to_string(Path::new("/sys/devices/system/cpu").join(name))
                .map(|list| parse_cpu_list(&list))
                .unwrap_or_default()
        };
        let memory_mb = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| {
                let total = text
                    .lines()
                    .find_map(|line| line.strip_prefix("MemTotal:"))?;
                let kib: u64 = total.trim().trim_end_matches("kB").trim().parse().ok()?;
                Some(kib / 1024)
            });
        Host {
            online: cores("online"),
            isolated: cores("isolated"),
            memory_mb,
        }
    }
}

/// `0-3,6` as the kernel writes sets of cores; what cannot be read is left out.
fn parse_cpu_list(list: &str) -> Vec<u32> {
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cores.extend(first..=last.min(first.saturating_add(8191)));
        }
    }
    cores
}

/// Notes of one run.
struct Notes<'a> {
    file: &'a Path,
    mistakes: &'a mut Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl Notes<'_> {
    fn mistake(&mut self, line: usize, text: impl Into<String>) {
        self.mistakes.push(Mistake {
            file: self.file.to_owned(),
            line,
            text: text.into(),
        });
    }

    fn warning(&mut self, line: usize, text: impl Into<String>) {
        self.warnings.push(Mistake {
            file: self.file.to_owned(),
            line,
            text: text.into(),
        });
    }
}

/// Builds the configuration. It is only fit for use if no mistake was added.
pub(super) fn validate(
    path: &Path,
    text: &str,
    file: &File,
    host: &Host,
    mistakes: &mut Vec<Mistake>,
) -> Config {
    let mut notes = Notes {
        file: path,
        mistakes,
        warnings: Vec::new(),
    };
    let ports = ports(file, &mut notes);
    let memory = memory_mode(file);
    let workers = workers(file, memory, host, &mut notes);
    let dpdk = dpdk(file, memory, &workers, &ports, host, &mut notes);
    let kernel = kernel(file, &mut notes);
    let admin = admin(file, &mut notes);
    let log = log(file, &mut notes);
    let rules = Rules {
        settings: settings(file),
        services: services(file, &workers, &mut notes),
    };
    let mut warnings = notes.warnings;
    warnings.sort_by_key(|w| w.line);
    Config {
        path: path.to_owned(),
        text: text.into(),
        dpdk,
        workers,
        ports,
        kernel,
        admin,
        log,
        rules,
        warnings,
    }
}

/// An integer whose range in the table of keys fits the type; 0 stands for one that was refused.
fn number<T: TryFrom<i64> + Default>(table: &Table, name: &str) -> T {
    table
        .integer(name)
        .and_then(|n| T::try_from(n).ok())
        .unwrap_or_default()
}

fn values(written: &[At<String>]) -> Vec<String> {
    written.iter().map(|at| at.value.clone()).collect()
}

fn memory_mode(file: &File) -> MemoryMode {
    match file.section("dpdk").text("memory") {
        Some("no-huge") => MemoryMode::NoHuge,
        _ => MemoryMode::Hugepages,
    }
}

fn workers(file: &File, memory: MemoryMode, host: &Host, notes: &mut Notes<'_>) -> Workers {
    let table = file.section("workers");
    let line = table.line_of("cores");
    let cores = match table.integers("cores") {
        Some(written) => distinct_cores("workers.cores", written, host, notes),
        None => host
            .isolated
            .first()
            .or(host.online.last())
            .copied()
            .into_iter()
            .collect(),
    };
    match cores.len() {
        0 if table.integers("cores").is_some() => {
            notes.mistake(line, "cores is empty; name one core, such as cores = [1]");
        }
        0 if !table.mentions("cores") => {
            notes.mistake(
                line,
                "the cores of this host are unknown; name one: [workers] cores = [1]",
            );
        }
        0 | 1 => {}
        n => notes.mistake(
            line,
            format!(
                "cores names {n} workers; this version runs one: keep cores = [{}]",
                cores[0]
            ),
        ),
    }
    let default_connections = match memory {
        MemoryMode::Hugepages => 1_000_000,
        MemoryMode::NoHuge => 65_536,
    };
    let connections = table
        .integer("connections")
        .map_or(default_connections, |n| n as u32);
    if let Some(memory_mb) = host.memory_mb {
        let need_mb = u64::from(connections) * BYTES_PER_CONNECTION >> 20;
        let line = table.line_of("connections");
        let sum =
            format!("{connections} connections take {need_mb} MiB and the host has {memory_mb}");
        let fit = memory_mb / 2 * (1 << 20) / BYTES_PER_CONNECTION;
        if need_mb > memory_mb {
            notes.mistake(line, format!("{sum}; lower connections to {fit} or less"));
        } else if need_mb > memory_mb / 2 {
            notes.warning(
                line,
                format!("{sum}; consider lowering connections to {fit}"),
            );
        }
    }
    Workers {
        cores,
        idle: match table.text("idle") {
            Some("adaptive") => Idle::Adaptive,
            Some("poll") => Idle::Poll,
            _ => Idle::Auto,
        },
        idle_spin_polls: number(table, "idle_spin_polls"),
        idle_sleep: Duration::from_micros(number(table, "idle_sleep_us")),
        connections,
        max_services: number(table, "max_services"),
        max_servers: number(table, "max_servers"),
        max_routes: number(table, "max_routes"),
        max_neighbours: number(table, "max_neighbours"),
    }
}

/// Cores as written: each once, each online.
fn distinct_cores(what: &str, written: &[At<i64>], host: &Host, notes: &mut Notes<'_>) -> Vec<u32> {
    let mut cores = Vec::new();
    for At { value, line } in written {
        let core = *value as u32;
        if cores.contains(&core) {
            notes.mistake(
                *line,
                format!("{what} names core {core} twice; name it once"),
            );
            continue;
        }
        if !host.online.is_empty() && !host.online.contains(&core) {
            let online = join(&host.online);
            notes.mistake(
                *line,
                format!("{what} names core {core}, which is not online; online: {online}"),
            );
        }
        cores.push(core);
    }
    cores
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn dpdk(
    file: &File,
    memory: MemoryMode,
    workers: &Workers,
    ports: &[Port],
    host: &Host,
    notes: &mut Notes<'_>,
) -> DpdkConfig {
    let table = file.section("dpdk");
    let main_cores = main_cores(table, workers, host, notes);
    let file_prefix = table.text("file_prefix").unwrap_or_default().to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if table.mentions("file_prefix") && (file_prefix.is_empty() || !file_prefix.chars().all(plain))
    {
        notes.mistake(
            table.line_of("file_prefix"),
            format!("file_prefix \"{file_prefix}\" is no file name; use letters, digits, - and _"),
        );
    }
    let vhost = ports
        .iter()
        .any(|p| matches!(p.device, Device::VhostUser { .. }));
    let default_mb = match memory {
        MemoryMode::Hugepages => 512,
        MemoryMode::NoHuge => 256,
    };
    for At { value, line } in table.texts("extra_args") {
        if value.is_empty() || value.contains(char::is_whitespace) {
            notes.mistake(
                *line,
                format!("extra_args holds \"{value}\"; give one word per item, no blanks"),
            );
        }
    }
    DpdkConfig {
        memory,
        memory_mb: table.integer("memory_mb").map_or(default_mb, |n| n as u32),
        file_prefix,
        main_cores,
        worker_cores: workers.cores.clone(),
        vdevs: vdevs(table, ports, notes),
        pci: pci_devices(table, ports, notes),
        iova: match table.text("iova") {
            Some("va") => Iova::Va,
            Some("pa") => Iova::Pa,
            _ => Iova::Auto,
        },
        log_level: match table.mentions("log_level") {
            true => values(table.texts("log_level")),
            false => vec!["error".into()],
        },
        single_file_segments: match table.mentions("single_file_segments") {
            true => table.boolean("single_file_segments").unwrap_or_default(),
            false => vhost && memory == MemoryMode::Hugepages,
        },
        telemetry: table.boolean("telemetry").unwrap_or_default(),
        extra_args: values(table.texts("extra_args")),
    }
}

fn main_cores(table: &Table, workers: &Workers, host: &Host, notes: &mut Notes<'_>) -> Vec<u32> {
    let Some(written) = table.integers("main_cores") else {
        let is_free = |core: &&u32| !workers.cores.contains(core) && !host.isolated.contains(core);
        let free: Vec<u32> = host.online.iter().filter(is_free).copied().collect();
        // A host with a single core shares it.
        return if free.is_empty() {
            workers.cores.clone()
        } else {
            free
        };
    };
    let line = table.line_of("main_cores");
    let cores = distinct_cores("dpdk.main_cores", written, host, notes);
    if cores.is_empty() {
        notes.mistake(
            line,
            "main_cores is empty; name a core or leave the key out",
        );
    }
    for core in cores.iter().filter(|core| workers.cores.contains(core)) {
        notes.warning(
            line,
            format!("main_cores shares core {core} with a worker; the worker loses time to it"),
        );
    }
    cores
}

/// Extra devices first (a bond wants its members before it), then those of ports.
fn vdevs(table: &Table, ports: &[Port], notes: &mut Notes<'_>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for At { value, line } in table.texts("vdevs") {
        let name = vdev_name(value);
        if let Some(complaint) = vdev_complaint(value) {
            notes.mistake(*line, format!("vdevs holds \"{value}\", {complaint}"));
        } else if out.iter().any(|other| vdev_name(other) == name)
            || ports.iter().any(|port| port.device_name == name)
        {
            notes.mistake(
                *line,
                format!("vdevs makes {name} a second time; use another number"),
            );
        }
        out.push(value.clone());
    }
    out.extend(ports.iter().filter_map(vdev_argument));
    out
}

fn pci_devices(table: &Table, ports: &[Port], notes: &mut Notes<'_>) -> Vec<String> {
    let mut out: Vec<String> = ports
        .iter()
        .filter(|p| p.is_pci())
        .map(|p| p.device_name.clone())
        .collect();
    for At { value, line } in table.texts("pci") {
        match pci_address(value) {
            None => notes.mistake(*line, pci_complaint("pci", value)),
            Some(address) if out.contains(&address) => {
                notes.mistake(
                    *line,
                    format!("pci names {address} twice; ports are in it already"),
                );
            }
            Some(address) => out.push(address),
        }
    }
    out
}

/// `dddd:bb:dd.f`, from that or from the short form `bb:dd.f`; lower case.
fn pci_address(text: &str) -> Option<String> {
    let (rest, function) = text.split_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let hex = |text: &str, len: usize| {
        let digits = text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let device = hex(device, 2).filter(|d| *d < 32)?;
    let function = hex(function, 1).filter(|f| *f < 8)?;
    let (domain, bus) = (hex(domain, 4)?, hex(bus, 2)?);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

fn pci_complaint(key: &str, text: &str) -> String {
    format!("{key} \"{text}\" is no PCI address; write it as lspci -D does, like 0000:03:00.0")
}

fn vdev_name(argument: &str) -> &str {
    argument.split(',').next().unwrap_or_default()
}

fn vdev_complaint(argument: &str) -> Option<&'static str> {
    let name = vdev_name(argument);
    let known = ["net_", "eth_", "crypto_", "virtio_user"];
    if argument.contains(char::is_whitespace) {
        Some("which has a blank in it; DPDK wants none")
    } else if !known.iter().any(|prefix| name.starts_with(prefix)) {
        Some("whose name does not begin with a driver's; write it like net_tap0,iface=x0")
    } else if !name.ends_with(|c: char| c.is_ascii_digit()) {
        Some("whose name lacks its number; write it like net_tap0,iface=x0")
    } else {
        None
    }
}

/// The full vdev argument of a port, as tried with DPDK 22.11.
fn vdev_argument(port: &Port) -> Option<String> {
    let name = &port.device_name;
    let option = |key: &str, value: &Option<String>| {
        value
            .as_ref()
            .map(|v| format!(",{key}={v}"))
            .unwrap_or_default()
    };
    Some(match &port.device {
        Device::Pci(_) => return None,
        Device::Vdev(argument) => argument.clone(),
        // The ring is larger than the driver's default: fewer drops while the poller is away.
        Device::AfPacket { interface } => {
            format!(
                "{name},iface={interface},blocksz=65536,framesz=2048,framecnt={AF_PACKET_FRAMES}"
            )
        }
        Device::AfXdp { interface } => format!("{name},iface={interface}"),
        Device::Memif {
            socket,
            id,
            server,
            mac,
        } => {
            let role = if *server { "server" } else { "client" };
            let mac = option("mac", mac);
            format!("{name},id={id},role={role},socket={socket},socket-abstract=no{mac}")
        }
        Device::VhostUser { path, mac } => format!("{name},path={path}{}", option("mac", mac)),
        Device::Pcap {
            rx,
            tx,
            interface,
            infinite,
        } => {
            let infinite = if *infinite { ",infinite_rx=1" } else { "" };
            let (rx, tx) = (option("rx_pcap", rx), option("tx_pcap", tx));
            format!("{name}{}{rx}{tx}{infinite}", option("iface", interface))
        }
        Device::Null { size, receive } => {
            let none = if *receive { "" } else { ",no-rx=1" };
            format!("{name},size={size}{none}")
        }
    })
}

const DEVICE_KEYS: [&str; 8] = [
    "pci",
    "af_packet",
    "af_xdp",
    "memif",
    "vhost_user",
    "pcap",
    "null",
    "vdev",
];

fn ports(file: &File, notes: &mut Notes<'_>) -> Vec<Port> {
    let tables = file.root.tables("port");
    if tables.is_empty() && file.root.mentions("port") {
        notes.mistake(
            file.root.line_of("port"),
            "port is an empty list; add a [[port]]",
        );
    }
    let mut names = DeviceNames::default();
    // Names that are written out are taken before any is made up.
    names.taken.extend(
        tables
            .iter()
            .filter_map(|t| t.text("vdev"))
            .map(|v| vdev_name(v).to_owned()),
    );
    for At { value, .. } in file.section("dpdk").texts("vdevs") {
        names.taken.insert(vdev_name(value).to_owned());
    }
    let mut seen = Seen::default();
    let mut out = Vec::new();
    for table in tables {
        if let Some(port) = port(table, &mut names, notes) {
            seen.check(&port, table, notes);
            out.push(port);
        }
    }
    out
}

/// Unique vdev names: `net_af_packet0`, `net_af_packet1`, …
#[derive(Default)]
struct DeviceNames {
    taken: BTreeSet<String>,
}

impl DeviceNames {
    fn next(&mut self, driver: &str) -> String {
        let free = (0..)
            .map(|n| format!("{driver}{n}"))
            .find(|name| !self.taken.contains(name));
        let name = free.unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }
}

/// What must not occur twice among ports, with the line where it was first.
#[derive(Default)]
struct Seen {
    lines: HashMap<(&'static str, String), usize>,
}

impl Seen {
    fn check(&mut self, port: &Port, table: &Table, notes: &mut Notes<'_>) {
        let device = match &port.device {
            Device::Pci(address) => Some(format!("device {address}")),
            Device::Vdev(argument) => Some(format!("device {}", vdev_name(argument))),
            Device::AfPacket { interface } | Device::AfXdp { interface } => {
                Some(format!("interface {interface}"))
            }
            Device::VhostUser { path, .. } => Some(format!("socket {path}")),
            Device::Memif { socket, id, .. } => Some(format!("socket {socket} id {id}")),
            Device::Pcap { interface, .. } => interface.as_ref().map(|i| format!("interface {i}")),
            Device::Null { .. } => None,
        };
        let twin_line = table.line_of("twin");
        let device_line = DEVICE_KEYS
            .iter()
            .find(|k| table.mentions(k))
            .map(|k| table.line_of(k));
        let mut once = |kind: &'static str, value: &str, line: usize, advice: &str| {
            let first = *self.lines.entry((kind, value.to_owned())).or_insert(line);
            if first != line {
                notes.mistake(
                    line,
                    format!("{value} is also used in line {first}; {advice}"),
                );
            }
        };
        once(
            "name",
            &format!("name \"{}\"", port.name),
            table.line_of("name"),
            "choose another",
        );
        once(
            "twin",
            &format!("twin \"{}\"", port.twin),
            twin_line,
            "give the port its own twin",
        );
        if let (Some(device), Some(line)) = (device, device_line) {
            once("device", &device, line, "a device can be one port only");
        }
        if let Some(interface) = port.kernel_interface().filter(|i| *i == port.twin) {
            let text =
                format!("twin \"{interface}\" is the port's own interface; name it otherwise");
            notes.mistake(twin_line, text);
        }
    }
}

fn port(table: &Table, names: &mut DeviceNames, notes: &mut Notes<'_>) -> Option<Port> {
    let name = table.text("name").map(str::to_owned);
    if let Some(name) = &name {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            notes.mistake(
                table.line_of("name"),
                format!("name \"{name}\" will not do; use up to 32 letters, digits, - _ and ."),
            );
        }
    }
    let device = device(table, notes);
    let (name, device) = (name?, device?);
    let twin = table
        .text("twin")
        .map_or_else(|| format!("rvs-{name}"), str::to_owned);
    if let Some(complaint) = interface_complaint(&twin) {
        let or = if table.mentions("twin") {
            ""
        } else {
            " or give the port a twin = \"…\""
        };
        let text = format!("twin \"{twin}\" {complaint}{or}");
        notes.mistake(table.line_of("twin"), text);
    }
    let device_name = match &device {
        Device::Pci(address) => address.clone(),
        Device::Vdev(argument) => vdev_name(argument).to_owned(),
        Device::AfPacket { .. } => names.next("net_af_packet"),
        Device::AfXdp { .. } => names.next("net_af_xdp"),
        Device::Memif { .. } => names.next("net_memif"),
        Device::VhostUser { .. } => names.next("net_virtio_user"),
        Device::Pcap { .. } => names.next("net_pcap"),
        Device::Null { .. } => names.next("net_null"),
    };
    let mtu = number(table, "mtu");
    let limit = match device {
        Device::AfPacket { .. } => Some(("af_packet", 1500)),
        Device::AfXdp { .. } => Some(("af_xdp", 3542)),
        _ => None,
    };
    if let Some((driver, limit)) = limit.filter(|(_, limit)| mtu > *limit) {
        let text = format!("mtu {mtu} is more than {driver} carries; give at most {limit}");
        notes.mistake(table.line_of("mtu"), text);
    } else if mtu < 1280 && table.integer("mtu").is_some() {
        let text = format!("mtu {mtu} is too small for IPv6; give at least 1280");
        notes.warning(table.line_of("mtu"), text);
    }
    let rx_queues = number(table, "rx_queues");
    if rx_queues > 1 {
        notes.mistake(
            table.line_of("rx_queues"),
            format!("rx_queues {rx_queues} are more than the one worker polls; give 1"),
        );
    }
    let fixup = matches!(device, Device::AfPacket { .. } | Device::AfXdp { .. });
    Some(Port {
        name,
        device_name,
        twin,
        mtu,
        rx_queues,
        rx_descriptors: number(table, "rx_descriptors"),
        tx_descriptors: number(table, "tx_descriptors"),
        promiscuous: table.boolean("promiscuous").unwrap_or_default(),
        rx_csum_fixup: table.boolean("rx_csum_fixup").unwrap_or(fixup),
        twin_sysctls: table.boolean("twin_sysctls").unwrap_or_default(),
        device,
    })
}

fn interface_complaint(name: &str) -> Option<String> {
    let bad = |c: char| c.is_whitespace() || c == '/' || c == ':' || c == '%';
    match name.len() {
        0 => Some("is empty; name an interface".into()),
        n if n > 15 => Some(format!(
            "has {n} characters and the kernel allows 15; shorten it"
        )),
        _ if name.contains(bad) || name == "." || name == ".." => {
            Some("is no interface name; leave out blanks, / : and %".into())
        }
        _ => None,
    }
}

/// Text that becomes part of a vdev argument must not end that part early.
fn argument_complaint(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("is empty; give it a value")
    } else if text.contains(|c: char| c == ',' || c.is_whitespace()) {
        Some("has a comma or a blank in it, which DPDK cannot take; choose another")
    } else {
        None
    }
}

fn device(table: &Table, notes: &mut Notes<'_>) -> Option<Device> {
    let given: Vec<&str> = DEVICE_KEYS
        .into_iter()
        .filter(|key| table.mentions(key))
        .collect();
    let key = match given[..] {
        [key] => key,
        [] => {
            let what = table
                .text("name")
                .map_or_else(String::new, |n| format!(" \"{n}\""));
            let text = format!(
                "port{what} has no device; add one of {}",
                DEVICE_KEYS.join(", ")
            );
            notes.mistake(table.line, text);
            return None;
        }
        _ => {
            let text = format!(
                "a port has one device and this has {}; keep one",
                given.join(", ")
            );
            notes.mistake(table.line_of(given[1]), text);
            return None;
        }
    };
    let line = table.line_of(key);
    let mac = mac(table, key, notes);
    match key {
        "memif" => memif(table.table(key)?, mac, notes),
        "pcap" => pcap(table.table(key)?, line, notes),
        "null" => {
            let null = table.table(key)?;
            let receive = null.boolean("receive").unwrap_or_default();
            Some(Device::Null {
                size: number(null, "size"),
                receive,
            })
        }
        _ => {
            let text = table.text(key)?.to_owned();
            let complaint = match key {
                "pci" => match pci_address(&text) {
                    Some(address) => return Some(Device::Pci(address)),
                    None => {
                        notes.mistake(line, pci_complaint("pci", &text));
                        return None;
                    }
                },
                "vdev" => vdev_complaint(&text).map(|c| format!(", {c}")),
                "vhost_user" => argument_complaint(&text).map(|c| format!(" {c}")),
                _ => interface_complaint(&text).map(|c| format!(" {c}")),
            };
            if let Some(complaint) = complaint {
                notes.mistake(line, format!("{key} \"{text}\"{complaint}"));
            }
            Some(match key {
                "af_packet" => Device::AfPacket { interface: text },
                "af_xdp" => Device::AfXdp { interface: text },
                "vhost_user" => Device::VhostUser { path: text, mac },
                _ => Device::Vdev(text),
            })
        }
    }
}

fn mac(table: &Table, device: &str, notes: &mut Notes<'_>) -> Option<String> {
    let mac = table.text("mac")?;
    let line = table.line_of("mac");
    let octets: Vec<Option<u8>> = mac
        .split(':')
        .map(|part| {
            (part.len() == 2)
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
        })
        .collect();
    match octets[..] {
        [Some(first), Some(_), Some(_), Some(_), Some(_), Some(_)] if first & 1 == 0 => {}
        _ => notes.mistake(
            line,
            format!("mac \"{mac}\" is no address of a port; write one like 02:00:00:00:00:01"),
        ),
    }
    if !["memif", "vhost_user"].contains(&device) {
        notes.mistake(
            line,
            format!("mac is for memif and vhost_user, {device} has its own; remove it"),
        );
    }
    Some(mac.to_lowercase())
}

fn memif(table: &Table, mac: Option<String>, notes: &mut Notes<'_>) -> Option<Device> {
    let socket = table.text("socket")?.to_owned();
    if let Some(complaint) = argument_complaint(&socket) {
        notes.mistake(
            table.line_of("socket"),
            format!("socket \"{socket}\" {complaint}"),
        );
    }
    let server = table.text("role") == Some("server");
    Some(Device::Memif {
        socket,
        id: number(table, "id"),
        server,
        mac,
    })
}

fn pcap(table: &Table, line: usize, notes: &mut Notes<'_>) -> Option<Device> {
    let text = |key: &str| table.text(key).map(str::to_owned);
    let (rx, tx, interface) = (text("rx"), text("tx"), text("interface"));
    for key in ["rx", "tx", "interface"] {
        if let Some((value, complaint)) =
            text(key).and_then(|v| argument_complaint(&v).map(|c| (v, c)))
        {
            notes.mistake(table.line_of(key), format!("{key} \"{value}\" {complaint}"));
        }
    }
    let infinite = table.boolean("infinite").unwrap_or_default();
    match (rx.is_some() || tx.is_some(), interface.is_some()) {
        (true, true) => notes.mistake(
            line,
            "pcap has files and an interface; keep one or the other",
        ),
        (false, false) => notes.mistake(
            line,
            "pcap has neither file nor interface; give rx, tx or interface",
        ),
        _ if infinite && rx.is_none() => {
            notes.mistake(
                table.line_of("infinite"),
                "infinite needs a file to read; give rx",
            );
        }
        _ => {}
    }
    Some(Device::Pcap {
        rx,
        tx,
        interface,
        infinite,
    })
}

fn kernel(file: &File, notes: &mut Notes<'_>) -> Kernel {
    let table = file.section("kernel");
    let vrf = table.text("vrf").map(str::to_owned);
    if let Some(vrf) = &vrf {
        let line = table.line_of("vrf");
        if table.mentions("table") {
            notes.mistake(
                line,
                "both table and vrf say which routes to mirror; keep one",
            );
        }
        if let Some(complaint) = interface_complaint(vrf) {
            notes.mistake(line, format!("vrf \"{vrf}\" {complaint}"));
        }
    }
    let number_of_table = table.integer("table").map(|n| n as u32);
    Kernel {
        table: match (vrf, number_of_table) {
            (Some(vrf), _) => KernelTable::Vrf(vrf),
            (None, None | Some(254)) => KernelTable::Main,
            (None, Some(n)) => KernelTable::Number(n),
        },
        neighbour_refresh: Duration::from_secs(number(table, "neighbour_refresh_s")),
        netlink_buffer_kib: number(table, "netlink_buffer_kib"),
    }
}

fn admin(file: &File, notes: &mut Notes<'_>) -> Admin {
    let table = file.section("admin");
    let socket = table.text("socket").unwrap_or_default();
    // sun_path holds 108 bytes with the final zero.
    if !socket.starts_with('/') || socket.len() > 107 {
        let text =
            format!("socket \"{socket}\" will not do; give an absolute path of at most 107 bytes");
        notes.mistake(table.line_of("socket"), text);
    }
    let written = table.text("mode").unwrap_or_default();
    let mode = u32::from_str_radix(written, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    let line = table.line_of("mode");
    match mode {
        None if table.text("mode").is_some() => {
            let text =
                format!("mode \"{written}\" is no permission; write octal digits like \"0660\"");
            notes.mistake(line, text);
        }
        Some(mode) if mode & 0o002 != 0 => {
            let text = format!(
                "mode {written} lets every user of this host rule the load balancer; use 0660 and a group"
            );
            notes.warning(line, text);
        }
        _ => {}
    }
    let group = table.text("group").map(str::to_owned);
    if group.as_deref() == Some("") {
        notes.mistake(
            table.line_of("group"),
            "group is empty; name a group or leave the key out",
        );
    }
    Admin {
        socket: PathBuf::from(socket),
        mode: mode.unwrap_or(0o600),
        group,
    }
}

fn log(file: &File, notes: &mut Notes<'_>) -> Log {
    let table = file.section("log");
    let filter = table.text("filter").unwrap_or_default().to_owned();
    if let Some(complaint) = filter_complaint(&filter) {
        notes.mistake(
            table.line_of("filter"),
            format!("filter \"{filter}\": {complaint}"),
        );
    }
    let file = table.text("file").map(PathBuf::from);
    if let Some(path) = file.as_ref().filter(|path| !path.is_absolute()) {
        let path = path.display();
        notes.mistake(
            table.line_of("file"),
            format!("file \"{path}\" is no absolute path; give one, or leave it out for stderr"),
        );
    }
    let format = match table.text("format") {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Human,
    };
    Log {
        format,
        filter,
        file,
    }
}

/// `tracing` takes any word for the name of a module, so that a misspelt level would silence
/// the log: a word alone must be a level.
fn filter_complaint(filter: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in filter.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level.to_lowercase().as_str()) {
            let advice = match nearest(level, LEVELS.into_iter()) {
                Some(near) => format!("did you mean \"{near}\"? "),
                None => String::new(),
            };
            let known = LEVELS.join(", ");
            return Some(format!("\"{level}\" is no level; {advice}known: {known}"));
        }
    }
    let parsed = tracing_subscriber::filter::EnvFilter::builder().parse(filter);
    parsed
        .err()
        .map(|e| format!("{e}; write it like info,control::netlink=debug"))
}

fn settings(file: &File) -> Settings {
    let mut settings = Settings::default();
    for setting in &SETTINGS {
        let table = file.section(setting.section);
        let value = match setting.boolean {
            true => table.boolean(setting.key).map(u32::from),
            false => table
                .integer(setting.key)
                .and_then(|n| u32::try_from(n).ok()),
        };
        if let Some(value) = value {
            (setting.set)(&mut settings, value);
        }
    }
    settings
}

fn services(
    file: &File,
    workers: &Workers,
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
        let service = service(table, key, notes);
        let Some(key) = key else { continue };
        if let Some(first) = lines.get(&key) {
            let what = describe_service(&key);
            let text = format!("service {what} is also in line {first}; join the two");
            notes.mistake(table.line, text);
            continue;
        }
        lines.insert(key, table.line);
        out.insert(key, service);
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

fn service_key(table: &Table, notes: &mut Notes<'_>) -> Option<ServiceKey> {
    let protocol = match table.text("protocol") {
        Some("tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        _ => None,
    };
    let addr = address(table, notes);
    let port = table.integer("port").map(|n| n as u16);
    if port == Some(0) {
        notes.mistake(
            table.line_of("port"),
            "port 0 (any port) needs a persistent service, which this version has not; give 1 to 65535",
        );
    }
    Some(ServiceKey {
        protocol: protocol?,
        addr: addr?,
        port: port?,
    })
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

fn service(table: &Table, key: Option<ServiceKey>, notes: &mut Notes<'_>) -> Service {
    let one_packet = table.boolean("one_packet").unwrap_or_default();
    if one_packet && key.is_some_and(|k| k.protocol == Protocol::Tcp) {
        let text = "one_packet is for udp; remove it from this tcp service";
        notes.mistake(table.line_of("one_packet"), text);
    }
    let scheduler = table.text("scheduler").unwrap_or_default().to_owned();
    let mut servers: Vec<Server> = Vec::new();
    let mut lines: HashMap<ServerKey, usize> = HashMap::new();
    for table in table.tables("server") {
        let Some(server) = server(table, key, notes) else {
            continue;
        };
        if let Some(first) = lines.get(&server.key) {
            let what = describe_server(&server.key);
            let text = format!("server {what} is also in line {first} of this service; keep one");
            notes.mistake(table.line, text);
            continue;
        }
        lines.insert(server.key, table.line);
        servers.push(server);
    }
    Service {
        spec: ServiceSpec {
            scheduler,
            one_packet,
        },
        servers,
    }
}

fn server(table: &Table, service: Option<ServiceKey>, notes: &mut Notes<'_>) -> Option<Server> {
    let addr = address(table, notes);
    let method = match table.text("method") {
        Some("nat") => Method::Masq,
        Some("tun") => Method::Tunnel,
        _ => Method::Route,
    };
    if table.integer("port") == Some(0) {
        notes.mistake(
            table.line_of("port"),
            "port 0 is no port of a server; give 1 to 65535",
        );
    }
    let (upper, lower) = (number(table, "upper"), number(table, "lower"));
    if lower > upper {
        notes.mistake(
            table.line_of("lower"),
            format!("lower {lower} is above upper {upper}; give at most upper"),
        );
    }
    let (addr, service) = (addr?, service?);
    if addr.is_ipv4() != service.addr.is_ipv4() && method != Method::Tunnel {
        let (server, service) = (family(addr), family(service.addr));
        let name = method_name(method);
        let text = format!(
            "{server} server of an {service} service with method {name}; only tun crosses families"
        );
        notes.mistake(table.line_of("address"), text);
    }
    let mut port = table.integer("port").map_or(service.port, |n| n as u16);
    if method != Method::Masq && port != service.port {
        let name = method_name(method);
        notes.warning(
            table.line_of("port"),
            format!(
                "port {port} with method {name}: packets keep the service's port {}; remove the key or use nat",
                service.port
            ),
        );
        port = service.port;
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
    };
    Some(Server {
        key: ServerKey { addr, port },
        spec,
        state,
    })
}

fn family(addr: IpAddr) -> &'static str {
    if addr.is_ipv4() { "IPv4" } else { "IPv6" }
}
