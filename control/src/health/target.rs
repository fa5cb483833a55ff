//! A server that is checked, and where its checks go.

use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::probe::Way;

use super::attempt::Peer;
use super::spec::{Port, Spec, Via};
use crate::api::{ServerKey, ServiceKey};
use crate::model::Pooled;

/// A server and how it is checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which server.
    pub server: ServerKey,
    /// Its address; a port of 0 means that each check names one.
    pub addr: SocketAddr,
    /// The virtual address and port, unless the service has a mark in their place.
    pub vip: Option<SocketAddr>,
    /// How clients' packets reach it, if they reach it with their destination unchanged.
    pub way: Option<Way>,
    /// Its weight as configured.
    pub weight: u32,
    /// Never empty.
    pub checks: Arc<[Spec]>,
}

impl Target {
    /// A server of a service.
    pub fn new(service: ServiceKey, server: &Pooled, checks: Arc<[Spec]>) -> Target {
        let vip = match service {
            ServiceKey::Endpoint { addr, port, .. } => Some(SocketAddr::new(addr, port)),
            ServiceKey::Mark { .. } => None,
        };
        Target {
            server: server.key,
            addr: SocketAddr::new(server.key.addr, server.key.port),
            vip,
            way: server.way,
            weight: server.weights.configured,
            checks,
        }
    }

    /// Whether the checks of both ask the same of the same.
    pub fn is_checked_as(&self, other: &Target) -> bool {
        let ask = |t: &Target| (t.addr, t.vip, t.way);
        ask(self) == ask(other) && self.checks == other.checks
    }

    /// Where a check goes. One that goes by the virtual address asks a NAT server as any other
    /// does: its packets have another destination when they arrive.
    pub fn peer(&self, spec: &Spec) -> Peer {
        let way = self.way.filter(|_| spec.via == Via::Vip);
        let addr = match way {
            Some(_) => self.vip.unwrap_or(self.addr),
            None => self.addr,
        };
        let port = match spec.port {
            Port::Server => addr.port(),
            Port::Is(port) => port,
        };
        Peer {
            addr: SocketAddr::new(spec.addr.unwrap_or(addr.ip()), port),
            way,
        }
    }
}
