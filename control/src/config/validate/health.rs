//! `[health]`, and checks that need it.

use std::net::IpAddr;

use super::super::file::{At, File};
use super::Notes;
use super::service::unicast_complaint;
use crate::api::{Method, ServiceKey};
use crate::config::{Server, describe_server, describe_service};
use crate::health::{Port, Spec, Via};

/// The addresses that probes come from.
pub(super) fn probes(file: &File, notes: &mut Notes<'_>) -> Vec<IpAddr> {
    let mut probes: Vec<IpAddr> = Vec::new();
    for At { value, line } in file.section("health").texts("probe_addresses") {
        let Ok(addr) = value.parse::<IpAddr>() else {
            let text = format!(
                "probe_addresses: \"{value}\" is no IP address; write it like 192.0.2.1 or 2001:db8::1"
            );
            notes.mistake(*line, text);
            continue;
        };
        if let Some(complaint) = unicast_complaint(addr) {
            let text = format!("probe_addresses: {addr} {complaint}; give a unicast address");
            notes.mistake(*line, text);
        } else if let Some(first) = probes.iter().find(|p| p.is_ipv4() == addr.is_ipv4()) {
            let text = format!(
                "probe_addresses: {first} and {addr} are of one family; one is enough, remove one"
            );
            notes.mistake(*line, text);
        } else {
            probes.push(addr);
        }
    }
    probes
}

/// Complains about checks of a server by the virtual address that cannot be made.
pub(super) fn need_way(
    checks: &[Spec],
    (service, server): (ServiceKey, &Server),
    probes: &[IpAddr],
    line: usize,
    notes: &mut Notes<'_>,
) {
    let Some(check) = checks.iter().find(|check| check.via == Via::Vip) else {
        return;
    };
    let (name, kind) = (describe_server(&server.key), check.kind.name());
    let mut complain = |why: &str| {
        let text = format!("server {name} and its {kind} check with via = \"vip\": {why}");
        notes.mistake(line, text);
    };
    if server.spec.method == Method::Masq {
        complain("its method is nat, which gives packets its own address; remove via");
    }
    let by_mark = service.mark().is_some();
    if by_mark && (check.addr.is_none() || check.port == Port::Server) {
        complain("a firewall mark has no address; give the check an address and a port");
    } else if service.port() == 0 && check.port == Port::Server {
        complain("the service has no port; give the check one");
    }
    let is_ipv6 = check.addr.map_or(service.is_ipv6(), |addr| addr.is_ipv6());
    let family = if is_ipv6 { "IPv6" } else { "IPv4" };
    if !probes.iter().any(|probe| probe.is_ipv6() == is_ipv6) {
        complain(&format!(
            "probes need an {family} address of their own; add one to probe_addresses in [health]"
        ));
    }
    if let ServiceKey::Endpoint { addr, .. } = service
        && probes.contains(&addr)
    {
        let what = describe_service(&service);
        complain(&format!(
            "{addr} is a probe address and that of service {what}; give probes another"
        ));
    }
}
