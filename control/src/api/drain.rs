//! Draining servers: which, and how far they are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{ServerKey, ServiceKey};

/// The servers with an address, of all services or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drainees {
    /// Real address.
    pub addr: IpAddr,
    /// Real port; none is every port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Only of this service.
    #[serde(default)]
    pub service: Option<ServiceKey>,
}

impl Drainees {
    /// Whether this server is one of them.
    pub fn has(&self, service: ServiceKey, server: ServerKey) -> bool {
        self.addr == server.addr
            && self.port.is_none_or(|port| port == server.port)
            && self.service.is_none_or(|only| only == service)
    }
}

impl fmt::Display for Drainees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr, port).fmt(f),
            None => self.addr.fmt(f),
        }
    }
}

/// A server that takes nothing new because the operator wants it so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Of which service.
    pub service: ServiceKey,
    /// Which server.
    pub server: ServerKey,
    /// Active connections.
    pub active: u32,
    /// Other connections: they close, or are of UDP.
    pub inactive: u32,
    /// Persistence templates: clients that would come back.
    pub templates: u32,
    /// Seconds since the drain began; none if it was not by `drain`, or before the last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Seconds until what is left ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
}

impl DrainView {
    /// Whether nobody needs the server any more.
    pub fn is_done(&self) -> bool {
        self.active == 0 && self.inactive == 0 && self.templates == 0
    }
}
