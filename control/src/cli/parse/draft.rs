//! A line of ipvsadm's while its options come in, and the checks once it is complete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Action, Format, Line, Listing};
use crate::api::{
    DaemonSpec, Family, Method, Netmask, Persistence, Protocol, Request, SYNC_GROUP, SYNC_PORT,
    SchedFlags, ServerKey, ServerSpec, ServiceKey, ServiceSpec, ServiceTimeouts, SyncRole, Tunnel,
    TunnelChecksum, TunnelKind,
};
use crate::cli::address::{host_port, ipv4, number};
use crate::cli::failure::Failure;
use crate::cli::names::Names;
use crate::cli::options::{Command, CommandSpec, OPTIONS, Opt, OptionSpec, Slot, Support};
use crate::schedulers::{self, NoFlag};

/// Scheduler when none is named.
const DEFAULT_SCHEDULER: &str = "wlc";

/// Interface of a synchronisation daemon when none is named.
const DEFAULT_INTERFACE: &str = "eth0";

/// Seconds of `-p` without a number.
const DEFAULT_PERSISTENCE: u32 = 360;

/// Longest time-out: 31 days, in seconds.
const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

/// Largest weight or threshold.
const MAX_INT: u32 = i32::MAX as u32;

/// Listings that exclude each other.
const EXCLUSIVE: [Slot; 4] = [Slot::Connection, Slot::Service, Slot::Timeout, Slot::Daemon];

/// Tunnels, and what `--tun-*` they take. The port of gue is a must.
const TUNNELS: &[(TunnelKind, &[Slot])] = &[
    (TunnelKind::Ipip, &[]),
    (
        TunnelKind::Gue,
        &[
            Slot::TunPort,
            Slot::TunNoCsum,
            Slot::TunCsum,
            Slot::TunRemCsum,
        ],
    ),
    (TunnelKind::Gre, &[Slot::TunNoCsum, Slot::TunCsum]),
];

/// A line in the making.
pub struct Draft {
    command: &'static CommandSpec,
    given: Vec<&'static OptionSpec>,
    /// What `-t`, `-u`, `--sctp-service` or `-f` named.
    target: Option<ServiceKey>,
    server: Option<ServerKey>,
    scheduler: Option<String>,
    sched_flags: Option<String>,
    method: Method,
    weight: u32,
    upper: u32,
    lower: u32,
    tunnel: usize,
    tunnel_port: u16,
    persistent: Option<u32>,
    netmask: Option<Netmask>,
    engine: Option<String>,
    timeouts: ServiceTimeouts,
    daemon: DaemonSpec,
    socket: Option<String>,
}

impl Draft {
    /// A line of `command` without options.
    pub fn new(command: &'static CommandSpec, value: Option<&str>) -> Result<Self, Failure> {
        if let Some(role) = value
            && !["master", "backup"].contains(&role)
        {
            // The second spelling is ipvsadm's.
            let what = match command.command {
                Command::StartDaemon => "start-daemon parameter",
                _ => "start_daemon",
            };
            return usage(format!("illegal {what} specified"));
        }
        Ok(Draft {
            command,
            given: Vec::new(),
            target: None,
            server: None,
            scheduler: None,
            sched_flags: None,
            method: Method::Route,
            weight: 1,
            upper: 0,
            lower: 0,
            tunnel: 0,
            tunnel_port: 0,
            persistent: None,
            netmask: None,
            engine: None,
            timeouts: ServiceTimeouts::default(),
            daemon: DaemonSpec {
                role: match value {
                    Some("backup") => SyncRole::Backup,
                    _ => SyncRole::Master,
                },
                interface: DEFAULT_INTERFACE.to_string(),
                syncid: 0,
                maxlen: None,
                group: SYNC_GROUP,
                port: SYNC_PORT,
                ttl: 1,
                peers: true,
            },
            socket: None,
        })
    }

    fn has(&self, slot: Slot) -> bool {
        self.given.iter().any(|o| o.slot == slot)
    }

    /// Takes an option in.
    pub fn set(
        &mut self,
        option: &'static OptionSpec,
        value: Option<&str>,
        names: &dyn Names,
    ) -> Result<(), Failure> {
        if option.slot != Slot::Free && self.has(option.slot) {
            return usage(format!(
                "multiple '{}' options specified",
                option.slot.name()
            ));
        }
        self.given.push(option);
        let text = value.unwrap_or_default();
        match option.id {
            Opt::TcpService => self.service(text, Protocol::Tcp, names)?,
            Opt::UdpService => self.service(text, Protocol::Udp, names)?,
            Opt::SctpService => self.service(text, Protocol::Sctp, names)?,
            Opt::MarkService => {
                let Some(mark) = number(text, 1, u32::MAX) else {
                    return usage(format!("invalid fwmark value `{text}' specified"));
                };
                let family = Family::Ipv4;
                self.target = Some(ServiceKey::Mark { mark, family });
            }
            Opt::Ipv6 => match &mut self.target {
                Some(ServiceKey::Mark { family, .. }) => *family = Family::Ipv6,
                _ => return usage("-6 used before -f\n".into()),
            },
            Opt::Scheduler => self.scheduler = Some(text.to_string()),
            Opt::SchedFlags => self.sched_flags = Some(text.to_string()),
            Opt::Persistent => {
                let timeout =
                    value.map_or(Some(DEFAULT_PERSISTENCE), |v| number(v, 1, MAX_TIMEOUT));
                if timeout.is_none() {
                    return usage(format!("invalid timeout value `{text}' specified"));
                }
                self.persistent = timeout;
            }
            Opt::Netmask => self.netmask = Some(self.netmask(text)?),
            Opt::Engine => self.engine = Some(text.to_string()),
            Opt::ConnTimeouts => self.timeouts = text.parse().map_err(Failure::Usage)?,
            Opt::Server => self.server(text, names)?,
            Opt::Route => self.method = Method::Route,
            Opt::Tunnel => self.method = Method::Tunnel,
            Opt::Masq => self.method = Method::Masq,
            Opt::Weight => self.weight = in_range(text, 0, MAX_INT, "weight")?,
            Opt::Upper => self.upper = in_range(text, 0, MAX_INT, "u_threshold")?,
            Opt::Lower => self.lower = in_range(text, 0, MAX_INT, "l_threshold")?,
            Opt::SyncId => self.daemon.syncid = in_range(text, 0, 255, "syncid")? as u8,
            Opt::McastPort => self.daemon.port = in_range(text, 1, 65535, "mcast-port")? as u16,
            Opt::McastTtl => self.daemon.ttl = in_range(text, 1, 255, "mcast-ttl")? as u8,
            Opt::SyncMaxLen => {
                self.daemon.maxlen = Some(in_range(text, 1, 65535, "sync-maxlen")? as u16);
            }
            Opt::McastGroup => self.daemon.group = multicast(text)?,
            Opt::McastInterface => self.daemon.interface = text.to_string(),
            Opt::TunPort => self.tunnel_port = in_range(text, 1, 65535, "tunnel port")? as u16,
            Opt::TunType => match TUNNELS.iter().position(|(kind, _)| kind.name() == text) {
                Some(tunnel) => self.tunnel = tunnel,
                None => return usage("illegal tunnel type specified".into()),
            },
            Opt::Socket => self.socket = Some(text.to_string()),
            Opt::Numeric
            | Opt::Connection
            | Opt::Timeout
            | Opt::Daemon
            | Opt::Stats
            | Opt::Rate
            | Opt::Thresholds
            | Opt::PersistentConn
            | Opt::NoSort
            | Opt::Sort
            | Opt::Exact
            | Opt::OnePacket
            | Opt::TunInfo
            | Opt::TunNoCsum
            | Opt::TunCsum
            | Opt::TunRemCsum
            | Opt::Json => {}
        }
        Ok(())
    }

    fn service(
        &mut self,
        text: &str,
        protocol: Protocol,
        names: &dyn Names,
    ) -> Result<(), Failure> {
        let Some((addr, port)) = host_port(text, protocol, names) else {
            return usage("illegal virtual server address[:port] specified".into());
        };
        self.target = Some(ServiceKey::new(protocol, addr, port.unwrap_or(0)));
        Ok(())
    }

    fn server(&mut self, text: &str, names: &dyn Names) -> Result<(), Failure> {
        let protocol = self.target.and_then(|key| key.protocol());
        let protocol = protocol.unwrap_or(Protocol::Tcp);
        let Some((addr, port)) = host_port(text, protocol, names) else {
            return usage("illegal real server address[:port] specified".into());
        };
        // Only the service in front of it can lend its port.
        let port = port.unwrap_or_else(|| self.target.map_or(0, |key| key.port()));
        self.server = Some(ServerKey { addr, port });
        Ok(())
    }

    fn netmask(&self, text: &str) -> Result<Netmask, Failure> {
        if self.target.is_some_and(|key| key.is_ipv6()) {
            return match number(text, 1, 128) {
                Some(len) => Ok(Netmask::V6(len as u8)),
                None => usage("illegal ipv6 netmask specified".into()),
            };
        }
        match ipv4(text) {
            Some(mask) => Ok(Netmask::V4(mask)),
            None => usage("illegal virtual server persistent mask specified".into()),
        }
    }

    /// Checks the complete line; `leftover` are the words that are no options.
    pub fn finish(self, leftover: &[&str]) -> Result<Line, Failure> {
        let (values, extra) = match self.command.command {
            Command::Set => leftover
                .split_at_checked(3)
                .ok_or_else(|| Failure::Usage("--set option requires 3 timeout values".into()))?,
            _ => leftover.split_at(0),
        };
        let mut timeouts = [0; 3];
        for (timeout, text) in timeouts.iter_mut().zip(values) {
            *timeout = number(text, 0, MAX_TIMEOUT).ok_or_else(|| {
                Failure::Usage(format!("invalid timeout value `{text}' specified"))
            })?;
        }
        if let Some(word) = extra.first() {
            return usage(format!("unexpected argument {word}"));
        }
        let flags = self.sched_flags()?;
        self.check_slots()?;
        self.check_listing()?;
        self.check_service()?;
        self.check_server()?;
        self.check_support()?;
        let action = self.action(timeouts, flags);
        Ok(Line {
            action,
            json: self.has(Slot::Json),
            socket: self.socket,
        })
    }

    /// The flags of `-b`, which go with the scheduler of the same line.
    fn sched_flags(&self) -> Result<SchedFlags, Failure> {
        let scheduler = self.scheduler.as_deref().unwrap_or(DEFAULT_SCHEDULER);
        let words = self.sched_flags.as_deref().unwrap_or_default();
        let mut flags = SchedFlags::default();
        for word in words.split(',').filter(|f| !f.is_empty()) {
            match schedulers::flag(scheduler, word) {
                Ok(flag) => flags = flags.with(flag),
                Err(NoFlag::Unknown) => return usage(format!("invalid scheduler flag `{word}'")),
                Err(NoFlag::Of(_)) => {
                    return usage(format!("incompatible scheduler flag `{word}'"));
                }
            }
        }
        Ok(flags)
    }

    /// What the command needs and what it does not take, in the order of the table.
    fn check_slots(&self) -> Result<(), Failure> {
        for option in OPTIONS.iter().filter(|o| o.slot != Slot::Free) {
            let slot = option.slot;
            let given = self.has(slot);
            if !given && self.command.requires.contains(&slot) {
                return usage(format!(
                    "You need to supply the '{}' option for the '{}' command",
                    slot.name(),
                    self.command.name
                ));
            }
            if given && !option.on.contains(&self.command.command) {
                return usage(format!(
                    "Illegal '{}' option with the '{}' command",
                    slot.name(),
                    self.command.name
                ));
            }
        }
        Ok(())
    }

    fn check_listing(&self) -> Result<(), Failure> {
        if self.command.command != Command::List {
            return Ok(());
        }
        let mut kinds = EXCLUSIVE.into_iter().filter(|s| self.has(*s));
        let kind = kinds.next();
        if let (Some(first), Some(second)) = (kind, kinds.next()) {
            return usage(format!(
                "The option '{}' conflicts with the '{}' option in the 'list' command",
                second.name(),
                first.name()
            ));
        }
        let columns = [Slot::Stats, Slot::Rate, Slot::Thresholds]
            .iter()
            .any(|s| self.has(*s));
        let conflict = match kind {
            Some(Slot::Connection) => columns,
            Some(Slot::Timeout | Slot::Daemon) => columns || self.has(Slot::PersistentConn),
            _ => false,
        };
        if conflict {
            return usage("options conflicts in the list command".into());
        }
        Ok(())
    }

    fn check_service(&self) -> Result<(), Failure> {
        let (Command::AddService | Command::EditService, Some(target)) =
            (self.command.command, self.target)
        else {
            return Ok(());
        };
        if target.addr().is_some() && target.port() == 0 && !self.has(Slot::Persistent) {
            return usage("Zero port specified for non-persistent service".into());
        }
        let udp = matches!(
            target,
            ServiceKey::Endpoint {
                protocol: Protocol::Udp,
                ..
            }
        );
        if let Some(one) = self.timeouts.misfit(target) {
            let what = one.name;
            return usage(format!(
                "timeout {what} is of no use to this service; remove it from --conn-timeouts"
            ));
        }
        if self.has(Slot::OnePacket) && !udp && target.addr().is_some() {
            return usage("One-Packet Scheduling is only for UDP virtual services".into());
        }
        Ok(())
    }

    fn check_server(&self) -> Result<(), Failure> {
        if !matches!(
            self.command.command,
            Command::AddServer | Command::EditServer
        ) {
            return Ok(());
        }
        let mixed = match (self.target, self.server) {
            (Some(service), Some(server)) => service.is_ipv6() != server.addr.is_ipv6(),
            _ => false,
        };
        let tunnel = self.method == Method::Tunnel;
        if mixed && !tunnel {
            return usage("Different address family is allowed only for tunneling servers".into());
        }
        const TUNNEL_OPTIONS: [Slot; 4] = [
            Slot::TunPort,
            Slot::TunNoCsum,
            Slot::TunCsum,
            Slot::TunRemCsum,
        ];
        let given: Vec<Slot> = TUNNEL_OPTIONS
            .into_iter()
            .filter(|s| self.has(*s))
            .collect();
        if !tunnel && (self.has(Slot::TunType) || !given.is_empty()) {
            return usage("Tunnel options conflict with forward method".into());
        }
        let (kind, takes) = TUNNELS[self.tunnel];
        let name = kind.name();
        if kind == TunnelKind::Gue && !given.contains(&Slot::TunPort) {
            return usage(
                "You need to supply the 'tun-port' option for the 'gue' tunnel type".into(),
            );
        }
        if let Some(slot) = given.iter().find(|s| !takes.contains(s)) {
            return usage(format!(
                "Illegal '{}' option with the '{name}' tunnel type",
                slot.name()
            ));
        }
        let checksums: Vec<&Slot> = given.iter().filter(|s| **s != Slot::TunPort).collect();
        if let [first, second, ..] = checksums[..] {
            return usage(format!(
                "The option '{}' conflicts with the '{}' option in the '{name}' tunnel type",
                second.name(),
                first.name()
            ));
        }
        Ok(())
    }

    /// Refuses, by name, what belongs to a later version.
    fn check_support(&self) -> Result<(), Failure> {
        let later =
            |what: &str| usage(format!("{what} is not supported by this version of rvsadm"));
        if self.command.support == Support::Later {
            return later(&format!("--{}", self.command.long));
        }
        if let Some(option) = self.given.iter().find(|o| o.support == Support::Later) {
            return later(&format!("{} ({})", option.typed(), option.help));
        }
        Ok(())
    }

    /// The action of a line that passed all checks.
    fn action(&self, timeouts: [u32; 3], flags: SchedFlags) -> Action {
        let numeric = self.has(Slot::Numeric);
        let request = match (self.command.command, self.target, self.server) {
            (Command::AddService, Some(service), _) => Request::AddService {
                service,
                spec: self.service_spec(flags),
            },
            (Command::EditService, Some(service), _) => Request::EditService {
                service,
                spec: self.service_spec(flags),
            },
            (Command::DeleteService, Some(service), _) => Request::DeleteService { service },
            (Command::AddServer, Some(service), Some(server)) => {
                let server = self.routed(service, server);
                Request::AddServer {
                    service,
                    server,
                    spec: self.server_spec(),
                }
            }
            (Command::EditServer, Some(service), Some(server)) => {
                let server = self.routed(service, server);
                Request::EditServer {
                    service,
                    server,
                    spec: self.server_spec(),
                }
            }
            (Command::DeleteServer, Some(service), Some(server)) => {
                Request::DeleteServer { service, server }
            }
            (Command::Clear, ..) => Request::Clear,
            (Command::StartDaemon, ..) => Request::StartDaemon {
                daemon: self.daemon.clone(),
            },
            (Command::StopDaemon, ..) => Request::StopDaemon {
                role: self.daemon.role,
            },
            (Command::Zero, ..) => Request::Zero {
                service: self.target,
            },
            (Command::Set, ..) => {
                let [tcp, tcp_fin, udp] = timeouts;
                Request::SetTimeouts { tcp, tcp_fin, udp }
            }
            (Command::List, ..) => return self.listing(self.target),
            (Command::Save, ..) => return Action::Save { numeric },
            (Command::Restore, ..) => return Action::Restore,
            (command, ..) => unreachable!("{command:?} passed the checks without what it needs"),
        };
        Action::Change(request)
    }

    fn listing(&self, service: Option<ServiceKey>) -> Action {
        let numeric = self.has(Slot::Numeric);
        if self.has(Slot::Connection) {
            return Action::Connections {
                numeric,
                engine: self.has(Slot::PersistentConn),
            };
        }
        if self.has(Slot::Timeout) {
            return Action::Timeouts;
        }
        if self.has(Slot::Daemon) {
            return Action::Daemons;
        }
        const FORMATS: [(Slot, Format); 5] = [
            (Slot::Stats, Format::Stats),
            (Slot::Rate, Format::Rate),
            (Slot::Thresholds, Format::Thresholds),
            (Slot::PersistentConn, Format::PersistentConn),
            (Slot::TunInfo, Format::TunInfo),
        ];
        let format = FORMATS.iter().find(|(slot, _)| self.has(*slot));
        Action::Services(Listing {
            service,
            format: format.map_or(Format::Plain, |(_, format)| *format),
            numeric,
            exact: self.has(Slot::Exact),
            sorted: !self.has(Slot::NoSort),
        })
    }

    fn service_spec(&self, flags: SchedFlags) -> ServiceSpec {
        let name = self.scheduler.as_deref().filter(|s| !s.is_empty());
        let is_ipv6 = self.target.is_some_and(|key| key.is_ipv6());
        ServiceSpec {
            scheduler: name.unwrap_or(DEFAULT_SCHEDULER).to_string(),
            one_packet: self.has(Slot::OnePacket),
            flags,
            persistence: self.persistent.map(|timeout| Persistence {
                timeout,
                netmask: self
                    .netmask
                    // One that came before the address or `-6` is forgotten with its family.
                    .filter(|mask| mask.is_ipv6() == is_ipv6)
                    .unwrap_or_else(|| Netmask::full(is_ipv6)),
            }),
            engine: self.engine.clone().filter(|name| !name.is_empty()),
            timeouts: self.timeouts,
        }
    }

    fn server_spec(&self) -> ServerSpec {
        ServerSpec {
            method: self.method,
            weight: self.weight,
            upper: self.upper,
            lower: self.lower,
            tunnel: Tunnel {
                kind: TUNNELS[self.tunnel].0,
                port: self.tunnel_port,
                checksum: match () {
                    () if self.has(Slot::TunCsum) => TunnelChecksum::Full,
                    () if self.has(Slot::TunRemCsum) => TunnelChecksum::Remote,
                    () => TunnelChecksum::None,
                },
            },
        }
    }

    /// Without translation the server sees the service's port, whatever was typed.
    fn routed(&self, service: ServiceKey, server: ServerKey) -> ServerKey {
        match self.method {
            Method::Masq => server,
            _ if service.mark().is_some() => server,
            _ => ServerKey {
                port: service.port(),
                ..server
            },
        }
    }
}

fn usage<T>(message: String) -> Result<T, Failure> {
    Err(Failure::Usage(message))
}

fn in_range(text: &str, least: u32, most: u32, what: &str) -> Result<u32, Failure> {
    number(text, least, most).ok_or_else(|| Failure::Usage(format!("illegal {what} specified")))
}

fn multicast(text: &str) -> Result<IpAddr, Failure> {
    let (family, addr) = match text.parse::<Ipv6Addr>() {
        Ok(addr) => ("IPv6", Some(IpAddr::V6(addr))),
        Err(_) => ("IPv4", text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)),
    };
    match addr.filter(IpAddr::is_multicast) {
        Some(addr) => Ok(addr),
        None => usage(format!("invalid {family} mcast-group `{text}'")),
    }
}
