//! Services, servers and settings: as the file has them ([`Rules`]) and as they run
//! ([`Running`]), so that the two can be compared.
//!
//! Servers are kept **in the order in which they are added**, as they stand in the file. The
//! kernel, and therefore our workers, link each new destination at the head of the list: the list
//! that schedulers walk is the reverse of this one.

use std::collections::BTreeMap;

use dataplane::settings::Settings;

use crate::api::{Origin, ServerKey, ServerSpec, ServiceKey, ServiceSpec};

/// The part of a configuration that a reload changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Timeouts, sysctls, punt limits.
    pub settings: Settings,
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
    /// Virtual services.
    pub services: BTreeMap<ServiceKey, RunningService>,
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
    /// The weight that schedulers see, from the three inputs that decide it.
    pub fn effective_weight(self, configured: u32, healthy: bool) -> u32 {
        match (self, healthy) {
            (OperatorState::Up, true) => configured,
            _ => 0,
        }
    }

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
        Rules {
            settings: self.settings,
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
        Running {
            settings: self.settings,
            services: services.collect(),
        }
    }
}
