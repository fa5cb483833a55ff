//! Services, servers and settings: as the file has them ([`Rules`]) and as they run
//! ([`Running`]), so that the two can be compared.
//!
//! Servers are kept **in the order in which they are added**, as they stand in the file. The
//! kernel, and therefore our workers, link each new destination at the head of the list: the list
//! that schedulers walk is the reverse of this one.

use std::collections::BTreeMap;

use dataplane::settings::Settings;
use dataplane::sync::wire::Version;

use crate::api::{
    Family, MarkMatch, Method, Origin, Protocol, ServerKey, ServerSpec, ServiceKey, ServiceSpec,
    TunnelChecksum, TunnelKind,
};
use crate::schedulers::names_of;

/// The part of a configuration that a reload changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Timeouts, sysctls, punt limits.
    pub settings: Settings,
    /// Rules that mark packets, with their marks.
    pub marks: BTreeMap<MarkMatch, u32>,
    /// Virtual services.
    pub services: BTreeMap<ServiceKey, Service>,
}

/// A virtual service in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Attributes.
    pub spec: ServiceSpec,
    /// Real servers in the order of adding.
    pub servers: Vec<Server>,
}

/// A real server in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Identity.
    pub key: ServerKey,
    /// Attributes; `weight` is the configured one.
    pub spec: ServerSpec,
    /// What the operator wants of it.
    pub state: OperatorState,
}

/// What runs, each object with its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Live settings.
    pub settings: Settings,
    /// Rules that mark packets.
    pub marks: BTreeMap<MarkMatch, RunningMark>,
    /// Virtual services.
    pub services: BTreeMap<ServiceKey, RunningService>,
}

/// The mark of a rule that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningMark {
    /// The mark.
    pub mark: u32,
    /// Where the rule came from.
    pub origin: Origin,
}

/// A virtual service that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningService {
    /// Attributes.
    pub spec: ServiceSpec,
    /// Where the service (not its servers) came from.
    pub origin: Origin,
    /// Real servers in the order of adding.
    pub servers: Vec<RunningServer>,
}

/// A real server that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningServer {
    /// Identity.
    pub key: ServerKey,
    /// Attributes; `weight` is the configured one, not the effective one.
    pub spec: ServerSpec,
    /// What the operator wants of it.
    pub state: OperatorState,
    /// Where it came from.
    pub origin: Origin,
}

/// What the operator wants of a server, apart from its weight and its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatorState {
    /// In service.
    #[default]
    Up,
    /// No new connections; existing ones go on.
    Drain,
}

impl OperatorState {
    /// Name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            OperatorState::Up => "up",
            OperatorState::Drain => "drain",
        }
    }
}

impl Running {
    /// The rules that the file would have to hold for this to run after a start.
    pub fn to_rules(&self) -> Rules {
        let services = self.services.iter().map(|(key, service)| {
            let servers = service.servers.iter().map(|s| Server {
                key: s.key,
                spec: s.spec.clone(),
                state: s.state,
            });
            (
                *key,
                Service {
                    spec: service.spec.clone(),
                    servers: servers.collect(),
                },
            )
        });
        let marks = self.marks.iter().map(|(rule, m)| (rule.clone(), m.mark));
        Rules {
            settings: self.settings,
            marks: marks.collect(),
            services: services.collect(),
        }
    }
}

impl Rules {
    /// The rules as they run right after a start from the file.
    pub fn to_running(&self) -> Running {
        let services = self.services.iter().map(|(key, service)| {
            let servers = service.servers.iter().map(|s| RunningServer {
                key: s.key,
                spec: s.spec.clone(),
                state: s.state,
                origin: Origin::File,
            });
            let running = RunningService {
                spec: service.spec.clone(),
                origin: Origin::File,
                servers: servers.collect(),
            };
            (*key, running)
        });
        let marks = self.marks.iter().map(|(rule, &mark)| {
            let origin = Origin::File;
            (rule.clone(), RunningMark { mark, origin })
        });
        Running {
            settings: self.settings,
            marks: marks.collect(),
            services: services.collect(),
        }
    }
}

/// One value of [`Settings`] and the key it has in the file.
pub struct Setting {
    /// Section of the file.
    pub section: &'static str,
    /// Key in it.
    pub key: &'static str,
    /// Whether it is true or false; then 1 or 0 stands for it here.
    pub boolean: bool,
    /// Reads it.
    pub get: fn(&Settings) -> u32,
    /// Changes it.
    pub set: fn(&mut Settings, u32),
}

impl Setting {
    /// A value as the file writes it.
    pub fn show(&self, value: u32) -> String {
        if self.boolean {
            (value != 0).to_string()
        } else {
            value.to_string()
        }
    }

    /// `ipvs.tcp_timeout`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

macro_rules! setting {
    ($section:literal $key:literal bool $($field:tt)+) => {
        Setting {
            section: $section,
            key: $key,
            boolean: true,
            get: |s| u32::from(s.$($field)+),
            set: |s, value| s.$($field)+ = value != 0,
        }
    };
    ($section:literal $key:literal $($field:tt)+) => {
        Setting {
            section: $section,
            key: $key,
            boolean: false,
            get: |s| s.$($field)+,
            set: |s, value| s.$($field)+ = value,
        }
    };
}

/// Every live setting. Reading, comparing, showing and saving settings all walk this table.
pub static SETTINGS: [Setting; 39] = [
    setting!("ipvs" "tcp_timeout" timeouts.tcp),
    setting!("ipvs" "tcp_fin_timeout" timeouts.tcp_fin),
    setting!("ipvs" "udp_timeout" timeouts.udp),
    setting!("ipvs" "am_droprate" am_droprate),
    setting!("ipvs" "amemthresh" amemthresh),
    setting!("ipvs" "backup_only" bool backup_only),
    setting!("ipvs" "cache_bypass" bool cache_bypass),
    setting!("ipvs" "conn_reuse_mode" conn_reuse_mode),
    setting!("ipvs" "drop_entry" drop_entry),
    setting!("ipvs" "drop_packet" drop_packet),
    setting!("ipvs" "expire_nodest_conn" bool expire_nodest_conn),
    setting!("ipvs" "expire_quiescent_template" bool expire_quiescent_template),
    setting!("ipvs" "lblc_expiration" lblc_expiration),
    setting!("ipvs" "lblcr_expiration" lblcr_expiration),
    setting!("ipvs" "nat_icmp_send" bool nat_icmp_send),
    setting!("ipvs" "pmtu_disc" bool pmtu_disc),
    setting!("ipvs" "run_estimation" bool run_estimation),
    setting!("ipvs" "schedule_icmp" bool schedule_icmp),
    setting!("ipvs" "secure_tcp" secure_tcp),
    setting!("ipvs" "sloppy_sctp" bool sloppy_sctp),
    setting!("ipvs" "sloppy_tcp" bool sloppy_tcp),
    setting!("ipvs" "sync_threshold" sync.threshold),
    setting!("ipvs" "sync_period" sync.period),
    setting!("ipvs" "sync_refresh_period" sync.refresh_period),
    setting!("ipvs" "sync_retries" sync.retries),
    setting!("ipvs" "sync_persist_mode" bool sync.persist_mode),
    Setting {
        section: "ipvs",
        key: "sync_version",
        boolean: false,
        get: |s| u32::from(s.sync.version == Version::V1),
        set: |s, value| {
            s.sync.version = match value {
                0 => Version::V0,
                _ => Version::V1,
            }
        },
    },
    setting!("ipvs" "sync_ports" sync_ports),
    setting!("ipvs" "sync_qlen_max" sync_qlen_max),
    setting!("ipvs" "sync_sock_size" sync_sock_size),
    setting!("ipvs" "icmp_msgs_per_sec" icmp_msgs_per_sec),
    setting!("ipvs" "icmp_msgs_burst" icmp_msgs_burst),
    setting!("ipvs" "icmp_ratelimit" icmp_ratelimit),
    setting!("punt" "advert" punt_limits[0]),
    setting!("punt" "control" punt_limits[1]),
    setting!("punt" "routing" punt_limits[2]),
    setting!("punt" "host" punt_limits[3]),
    setting!("punt" "transit" punt_limits[4]),
    setting!("overload" "hits_first" bool hits_first),
];

/// Name of a protocol in the file.
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Name of a method in the file.
pub(super) const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Masq => "nat",
        Method::Route => "dr",
        Method::Tunnel => "tun",
        Method::Local => "local",
    }
}

/// `tcp 10.0.0.1:80`, IPv6 in brackets, or `mark 5`, `mark 5 ipv6`: how messages name a service.
pub fn describe_service(key: &ServiceKey) -> String {
    match *key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => {
            let at = std::net::SocketAddr::new(addr, port);
            format!("{} {at}", protocol_name(protocol))
        }
        ServiceKey::Mark { mark, family } => match family {
            Family::Ipv4 => format!("mark {mark}"),
            Family::Ipv6 => format!("mark {mark} ipv6"),
        },
    }
}

/// `192.168.1.10:8080`, IPv6 in brackets: how messages name a server.
pub fn describe_server(key: &ServerKey) -> String {
    std::net::SocketAddr::new(key.addr, key.port).to_string()
}

/// Attributes of a service in one line.
pub(super) fn describe_service_spec(spec: &ServiceSpec) -> String {
    let one_packet = if spec.one_packet { " one_packet" } else { "" };
    let flags = match names_of(&spec.scheduler, spec.flags).join(",") {
        names if names.is_empty() => names,
        names => format!(" scheduler_flags {names}"),
    };
    let persistent = spec.persistence.map_or(String::new(), |p| match p.netmask {
        mask if mask.is_full() => format!(" persistence_timeout {}", p.timeout),
        mask => format!(" persistence_timeout {} netmask {mask}", p.timeout),
    });
    let engine = match &spec.engine {
        Some(name) => format!(" persistence_engine {name}"),
        None => String::new(),
    };
    let timeouts: String = spec
        .timeouts
        .each()
        .iter()
        .filter(|one| one.seconds != 0)
        .map(|one| format!(" {} {}", one.key, one.seconds))
        .collect();
    format!(
        "scheduler {}{flags}{one_packet}{persistent}{engine}{timeouts}",
        spec.scheduler
    )
}

/// Attributes of a server in one line; what has its default is left out, but for method and weight.
pub(super) fn describe_server_spec(spec: &ServerSpec, state: OperatorState) -> String {
    let mut line = format!("method {} weight {}", method_name(spec.method), spec.weight);
    if spec.upper != 0 {
        line += &format!(" upper {}", spec.upper);
    }
    if spec.lower != 0 {
        line += &format!(" lower {}", spec.lower);
    }
    let tunnel = spec.tunnel;
    if tunnel.kind != TunnelKind::Ipip {
        line += &format!(" tun_type {}", tunnel.kind.name());
    }
    if tunnel.port != 0 {
        line += &format!(" tun_port {}", tunnel.port);
    }
    if tunnel.checksum != TunnelChecksum::None {
        line += &format!(" tun_checksum {}", tunnel.checksum.name());
    }
    if state != OperatorState::Up {
        line += &format!(" state {}", state.name());
    }
    line
}
