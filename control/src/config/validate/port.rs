//! Ports and their devices: from the keys of a `[[port]]` to the arguments that DPDK wants.

use dataplane::toeplitz::Facing;
use std::collections::{BTreeSet, HashMap};

use super::{Notes, number};
use crate::config::file::{At, File, Table};
use crate::config::{BondMode, Device, Member, Offloads, PacketRing, Port};

/// Extra devices first (a bond wants its members before it), then those of ports.
pub(super) fn vdevs(table: &Table, ports: &[Port], notes: &mut Notes<'_>) -> Vec<String> {
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
    out.extend(ports.iter().flat_map(member_arguments));
    out.extend(ports.iter().filter_map(vdev_argument));
    out
}

pub(super) fn pci_devices(table: &Table, ports: &[Port], notes: &mut Notes<'_>) -> Vec<String> {
    let own = |p: &Port| match &p.device {
        Device::Pci(address) => Some(address.clone()),
        _ => None,
    };
    let mut out: Vec<String> = ports.iter().filter_map(own).collect();
    let members = ports.iter().flat_map(Port::members);
    out.extend(members.filter(|m| m.is_pci()).map(|m| m.device.clone()));
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

/// An AF_PACKET socket on an interface. The ring is larger than the driver's default: fewer drops
/// while the poller is away.
fn af_packet_argument(port: &Port, name: &str, interface: &str) -> Option<String> {
    let PacketRing {
        slot,
        block,
        frames,
    } = port.packet_ring()?;
    Some(format!(
        "{name},iface={interface},blocksz={block},framesz={slot},framecnt={frames}"
    ))
}

/// The vdev arguments of a bond's members, which DPDK has to make before it.
fn member_arguments(port: &Port) -> impl Iterator<Item = String> {
    let on_interface = move |m: &Member| {
        let interface = m.interface.as_ref()?;
        af_packet_argument(port, &m.device, interface)
    };
    port.members().iter().filter_map(on_interface)
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
        Device::AfPacket { interface } => af_packet_argument(port, name, interface)?,
        Device::Bond {
            mode,
            members,
            primary,
            policy,
        } => {
            let number = BondMode::NAMES.iter().find(|(_, m, _)| m == mode)?.2;
            // DPDK's word for a member, until release 23.11.
            let members: String = members
                .iter()
                .map(|m| format!(",slave={}", m.device))
                .collect();
            let primary = option("primary", primary);
            // Members that tell of no link change are looked at every 10 ms.
            format!("{name},mode={number}{members}{primary},xmit_policy={policy}")
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

const DEVICE_KEYS: [&str; 9] = [
    "pci",
    "af_packet",
    "af_xdp",
    "memif",
    "vhost_user",
    "pcap",
    "null",
    "bond",
    "vdev",
];

pub(super) fn ports(file: &File, workers: usize, notes: &mut Notes<'_>) -> Vec<Port> {
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
        if let Some(port) = port(table, workers, &mut names, notes) {
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
            Device::Null { .. } | Device::Bond { .. } => None,
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
        let members = port.members().iter().map(|m| match &m.interface {
            Some(interface) => format!("interface {interface}"),
            None => format!("device {}", m.device),
        });
        if let Some(line) = device_line {
            for device in device.into_iter().chain(members) {
                once("device", &device, line, "a device can be one port only");
            }
        }
        if port.kernel_interfaces().any(|i| i == port.twin) {
            let twin = &port.twin;
            let text = format!("twin \"{twin}\" is the port's own interface; name it otherwise");
            notes.mistake(twin_line, text);
        }
    }
}

fn port(
    table: &Table,
    workers: usize,
    names: &mut DeviceNames,
    notes: &mut Notes<'_>,
) -> Option<Port> {
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
    let device = device(table, names, notes);
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
        Device::Bond { .. } => names.next("net_bonding"),
    };
    let mtu = number(table, "mtu");
    let limit = match device {
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
    let rx_queues: u16 = number(table, "rx_queues");
    if usize::from(rx_queues) > workers {
        notes.mistake(
            table.line_of("rx_queues"),
            format!(
                "rx_queues {rx_queues} are more than the workers that poll them; give {workers}, \
                 name more cores in [workers], or leave it out"
            ),
        );
    }
    let mut port = Port {
        name,
        device_name,
        twin,
        mtu,
        rx_queues,
        faces: match table.text("faces") {
            Some("clients") => Some(Facing::Clients),
            Some("servers") => Some(Facing::Servers),
            _ => None,
        },
        rx_descriptors: number(table, "rx_descriptors"),
        tx_descriptors: number(table, "tx_descriptors"),
        promiscuous: table.boolean("promiscuous").unwrap_or_default(),
        rx_csum_fixup: false,
        rx_gso_fixup: table.boolean("rx_gso_fixup").unwrap_or_default(),
        offloads: match table.text("offloads") {
            Some("all") => Offloads::All,
            Some("none") => Offloads::None,
            _ => Offloads::Auto,
        },
        twin_sysctls: table.boolean("twin_sysctls").unwrap_or_default(),
        device,
    };
    let is_virtual = port.kernel_interfaces().next().is_some();
    port.rx_csum_fixup = table.boolean("rx_csum_fixup").unwrap_or(is_virtual);
    if port.rx_gso_fixup && !port.is_af_packet() {
        let text = "rx_gso_fixup is for af_packet ports and members of a bond; remove it";
        notes.mistake(table.line_of("rx_gso_fixup"), text);
    }
    Some(port)
}

pub(super) fn interface_complaint(name: &str) -> Option<String> {
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

fn device(table: &Table, names: &mut DeviceNames, notes: &mut Notes<'_>) -> Option<Device> {
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
        "bond" => bond(table.table(key)?, line, names, notes),
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

fn bond(
    table: &Table,
    line: usize,
    names: &mut DeviceNames,
    notes: &mut Notes<'_>,
) -> Option<Device> {
    let mode = table.text("mode")?;
    let mode = BondMode::NAMES.iter().find(|(name, ..)| *name == mode)?.1;
    let mut members: Vec<Member> = Vec::new();
    // The name of each in the file, for `primary`.
    let mut written = Vec::new();
    for At { value, line } in table.texts("members") {
        let member = match pci_address(value) {
            Some(device) => Member {
                device,
                interface: None,
            },
            None if value.starts_with("net_") && names.taken.contains(value) => Member {
                device: value.clone(),
                interface: None,
            },
            None => {
                if let Some(complaint) = interface_complaint(value) {
                    notes.mistake(*line, format!("member \"{value}\" {complaint}"));
                }
                Member {
                    device: names.next("net_af_packet"),
                    interface: Some(value.clone()),
                }
            }
        };
        if written.contains(value) {
            notes.mistake(
                *line,
                format!("member \"{value}\" is named twice; keep one"),
            );
        }
        written.push(value.clone());
        members.push(member);
    }
    if members.is_empty() {
        notes.mistake(
            line,
            "a bond needs members; give PCI addresses or interfaces",
        );
    }
    let place = |wanted: &str| written.iter().position(|name| name == wanted);
    let primary = table.text("primary").and_then(|wanted| {
        let device = place(wanted).and_then(|i| members.get(i));
        if device.is_none() {
            let text = format!("primary \"{wanted}\" is no member; name one of members");
            notes.mistake(table.line_of("primary"), text);
        }
        device.map(|m| m.device.clone())
    });
    if primary.is_some() && mode != BondMode::ActiveBackup {
        let text = "primary is for active-backup, where one member sends; remove it";
        notes.mistake(table.line_of("primary"), text);
    }
    Some(Device::Bond {
        mode,
        members,
        primary,
        policy: table.text("xmit_policy").unwrap_or("l34").to_owned(),
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
