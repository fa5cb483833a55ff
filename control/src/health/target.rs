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

    /// Lets its checks begin as they stood in the process before: one that was down is believed when
    /// it passes, one that was up until it fails. False if those were other checks.
    pub fn begin_as(&mut self, ups: &[bool]) -> bool {
        if ups.len() != self.checks.len() {
            return false;
        }
        let mut checks = self.checks.to_vec();
        for (check, up) in checks.iter_mut().zip(ups) {
            check.pace.alpha = !up;
        }
        self.checks = checks.into();
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Protocol;
    use crate::health::Kind;
    use crate::model::Weights;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn spec(via: Via) -> Spec {
        Spec {
            kind: Kind::Tcp,
            pace: healthcheck::monitor::Pace {
                delay_loop: std::time::Duration::ZERO,
                delay_before_retry: std::time::Duration::ZERO,
                retry: 0,
                rise: 1,
                warmup: std::time::Duration::ZERO,
                deadline: std::time::Duration::ZERO,
                alpha: false,
            },
            addr: None,
            port: Port::Server,
            via,
            source: None,
            interface: None,
            fwmark: 0,
        }
    }

    #[test]
    fn where_a_check_goes() {
        let key = ServerKey {
            addr: [10, 0, 0, 1].into(),
            port: 8080,
        };
        let way = Way {
            server: key.addr.into(),
            tunnel: None,
        };
        let target = |way| {
            let service = ServiceKey::new(Protocol::Tcp, [192, 0, 2, 1].into(), 80);
            let weights = Weights::default();
            Target::new(service, &Pooled { key, weights, way }, [].into())
        };
        let peer = |target: &Target, spec: &Spec| {
            let peer = target.peer(spec);
            (peer.addr, peer.way)
        };
        let (direct, nat) = (target(Some(way)), target(None));
        let own = (at("10.0.0.1:8080"), None);
        assert_eq!(peer(&direct, &spec(Via::Server)), own);
        assert_eq!(peer(&nat, &spec(Via::Server)), own);
        assert_eq!(peer(&nat, &spec(Via::Vip)), own);
        let vip = (at("192.0.2.1:80"), Some(way));
        assert_eq!(peer(&direct, &spec(Via::Vip)), vip);
        let other = Spec {
            addr: Some([192, 0, 2, 2].into()),
            port: Port::Is(81),
            ..spec(Via::Vip)
        };
        let other_vip = (at("192.0.2.2:81"), Some(way));
        assert_eq!(peer(&direct, &other), other_vip);
        // Another method is another way: the check begins anew.
        assert!(direct.is_checked_as(&direct) && !direct.is_checked_as(&nat));
    }
}
