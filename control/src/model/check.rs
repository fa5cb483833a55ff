//! What a service and a server may be: the kernel's rules.

use std::net::IpAddr;

use dataplane::service::Engine;

use crate::api::{
    ErrorKind, Method, Netmask, Persistence, ServerKey, ServerSpec, ServiceKey, ServiceSpec,
    ServiceTimeouts,
};
use crate::config::{describe_server, describe_service};
use crate::{api, schedulers};

use super::{MAX_TIMEOUT, Refusal};

pub(super) fn check_service(key: ServiceKey, spec: &ServiceSpec) -> Result<&'static str, Refusal> {
    let name = describe_service(&key);
    if key.mark() == Some(0) {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name}: a mark is 1 or more"),
        ));
    }
    if key.mark().is_none() && key.port() == 0 && spec.persistence.is_none() {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name}: port 0 is for persistent services; give -p"),
        ));
    }
    if let Some(p) = spec.persistence {
        check_persistence(key, p)?;
    }
    if spec.one_packet && key.protocol() == Some(api::Protocol::Tcp) {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name}: one-packet scheduling is only for UDP"),
        ));
    }
    check_timeouts(key, spec.timeouts)?;
    check_engine(key, spec)?;
    dataplane::schedule::find(&spec.scheduler).ok_or_else(|| {
        Refusal::new(
            ErrorKind::NoScheduler,
            format!("service {name}: {}", schedulers::unknown(&spec.scheduler)),
        )
    })
}

/// Whether a scheduler takes so many servers.
pub(super) fn check_count(key: ServiceKey, scheduler: &str, servers: usize) -> Result<(), Refusal> {
    match dataplane::schedule::most_destinations(scheduler) {
        Some(most) if servers > most => Err(Refusal::new(
            ErrorKind::Invalid,
            format!(
                "service {}: {scheduler} takes at most {most} servers; choose another scheduler",
                describe_service(&key)
            ),
        )),
        _ => Ok(()),
    }
}

fn check_engine(key: ServiceKey, spec: &ServiceSpec) -> Result<(), Refusal> {
    let Some(name) = &spec.engine else {
        return Ok(());
    };
    if Engine::find(name).is_some() {
        return Ok(());
    }
    let known = Engine::ALL.map(Engine::name).join(", ");
    Err(Refusal::new(
        ErrorKind::NoScheduler,
        format!(
            "service {}: persistence engine \"{name}\" is unknown; known: {known}",
            describe_service(&key)
        ),
    ))
}

fn check_timeouts(key: ServiceKey, timeouts: ServiceTimeouts) -> Result<(), Refusal> {
    let name = describe_service(&key);
    if let Some(one) = timeouts.too_long() {
        let (what, seconds) = (one.name, one.seconds);
        return Err(Refusal::new(
            ErrorKind::Range,
            format!("service {name}: timeout {what} of {seconds} s; give at most {MAX_TIMEOUT}"),
        ));
    }
    if let Some(one) = timeouts.misfit(key) {
        let what = one.name;
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name} has no connections with a timeout {what}; remove it"),
        ));
    }
    Ok(())
}

pub(super) fn check_persistence(key: ServiceKey, persistence: Persistence) -> Result<(), Refusal> {
    let name = describe_service(&key);
    let Persistence { timeout, netmask } = persistence;
    if !(1..=MAX_TIMEOUT).contains(&timeout) {
        return Err(Refusal::new(
            ErrorKind::Range,
            format!("service {name}: persistence of {timeout} s; give 1 to {MAX_TIMEOUT}"),
        ));
    }
    let fits = match netmask {
        Netmask::V4(_) => !key.is_ipv6(),
        Netmask::V6(len) => key.is_ipv6() && (1..=128).contains(&len),
    };
    if fits {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorKind::Invalid,
        format!(
            "service {name}: netmask {netmask} does not fit; IPv4 takes a dotted mask, \
             IPv6 a length from 1 to 128"
        ),
    ))
}

/// What is wrong with a server whether it is new or edited.
pub(super) fn check_server(
    service: ServiceKey,
    key: ServerKey,
    spec: &ServerSpec,
) -> Result<(), Refusal> {
    let refuse = |kind, what: String| {
        let (server, service) = (describe_server(&key), describe_service(&service));
        Err(Refusal::new(
            kind,
            format!("server {server} of {service}: {what}"),
        ))
    };
    let most = i32::MAX as u32;
    if spec.weight > most {
        return refuse(
            ErrorKind::Range,
            format!("weight {} is above {most}", spec.weight),
        );
    }
    if spec.lower > spec.upper {
        return refuse(
            ErrorKind::Range,
            format!(
                "lower threshold {} is above the upper one, {}",
                spec.lower, spec.upper
            ),
        );
    }
    if spec.upper > most {
        return refuse(
            ErrorKind::Invalid,
            format!("threshold {} is above {most}", spec.upper),
        );
    }
    if spec.method == Method::Local {
        return refuse(
            ErrorKind::Invalid,
            "method \"local\" is found out, not asked for".into(),
        );
    }
    if service.is_ipv6() != key.addr.is_ipv6() && spec.method != Method::Tunnel {
        return refuse(
            ErrorKind::Invalid,
            "different address family is allowed only for tunnelling servers (-i)".into(),
        );
    }
    if let Some(what) = tunnel_complaint(spec) {
        return refuse(ErrorKind::Invalid, what.into());
    }
    if spec.method != Method::Masq && key.port != service.port() && service.mark().is_none() {
        return refuse(
            ErrorKind::Invalid,
            format!(
                "direct routing and tunnels keep the port: it must be {}",
                service.port()
            ),
        );
    }
    Ok(())
}

/// What does not fit in the description of a tunnel.
pub(super) fn tunnel_complaint(spec: &ServerSpec) -> Option<&'static str> {
    let api::Tunnel {
        kind,
        port,
        checksum,
    } = spec.tunnel;
    if spec.method != Method::Tunnel {
        let none = spec.tunnel == api::Tunnel::default();
        return (!none).then_some("tunnel options are for tunnels (-i)");
    }
    match (kind, checksum) {
        (api::TunnelKind::Gue, _) if port == 0 => Some("a gue tunnel needs a port (--tun-port)"),
        (api::TunnelKind::Gue, _) => None,
        (kind, _) if port != 0 => Some(match kind {
            api::TunnelKind::Gre => "a gre tunnel has no port",
            _ => "an ipip tunnel has no port",
        }),
        (_, api::TunnelChecksum::None) => None,
        (api::TunnelKind::Gre, api::TunnelChecksum::Full) => None,
        (api::TunnelKind::Gre, _) => Some("the remote checksum is for gue tunnels"),
        _ => Some("an ipip tunnel has no checksum"),
    }
}

/// A new server's address is unicast or this host's own.
pub(super) fn check_address(
    service: ServiceKey,
    key: ServerKey,
    is_local: bool,
) -> Result<(), Refusal> {
    let is_unicast = match key.addr {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_multicast() || a.is_broadcast()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_unicast_link_local()),
    };
    if is_unicast || is_local {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorKind::Invalid,
        format!(
            "server {} of {}: the address is not a unicast address",
            describe_server(&key),
            describe_service(&service)
        ),
    ))
}
