//! Services as the commands that make them: output of `-S`, input of `-R`.

use std::io::{self, Write};

use super::endpoint::Endpoints;
use crate::api::{
    Family, Method, Protocol, ServerView, ServiceKey, ServiceView, Tunnel, TunnelChecksum,
    TunnelKind,
};
use crate::schedulers::names_of;

/// Prints all services. Thresholds are not saved, as ipvsadm does not save them.
pub fn print(
    out: &mut dyn Write,
    services: &[ServiceView],
    endpoints: &Endpoints<'_>,
) -> io::Result<()> {
    for service in services {
        let name = match service.key {
            ServiceKey::Endpoint {
                protocol,
                addr,
                port,
            } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                format!("{option} {}", endpoints.full(addr, port, protocol))
            }
            ServiceKey::Mark { mark, family } => match family {
                Family::Ipv4 => format!("-f {mark}"),
                Family::Ipv6 => format!("-f {mark} -6"),
            },
        };
        let protocol = service.key.protocol().unwrap_or(Protocol::Tcp);
        let spec = &service.spec;
        let persistent = spec.persistence.map_or(String::new(), |p| match p.netmask {
            mask if mask.is_full() => format!(" -p {}", p.timeout),
            mask => format!(" -p {} -M {mask}", p.timeout),
        });
        let engine = match &spec.engine {
            Some(engine) => format!(" --pe {engine}"),
            None => String::new(),
        };
        let one_packet = if spec.one_packet { " -o" } else { "" };
        let flags = match names_of(&spec.scheduler, spec.flags).join(",") {
            names if names.is_empty() => names,
            names => format!(" -b {names}"),
        };
        // ipvsadm does not know the option: it is only there if it is used.
        let timeouts = match spec.timeouts.to_string() {
            list if list.is_empty() => list,
            list => format!(" --conn-timeouts {list}"),
        };
        writeln!(
            out,
            "-A {name} -s {}{persistent}{engine}{one_packet}{flags}{timeouts}",
            spec.scheduler
        )?;
        for server in &service.servers {
            server_line(out, &name, protocol, server, endpoints)?;
        }
    }
    Ok(())
}

fn server_line(
    out: &mut dyn Write,
    service: &str,
    protocol: Protocol,
    server: &ServerView,
    endpoints: &Endpoints<'_>,
) -> io::Result<()> {
    // Which server is local is found out anew when the line is read.
    let (method, tunnel) = match server.spec.method {
        Method::Masq => ("-m", String::new()),
        Method::Tunnel => ("-i", tunnel_options(server.spec.tunnel)),
        Method::Route | Method::Local => ("-g", String::new()),
    };
    let name = endpoints.full(server.key.addr, server.key.port, protocol);
    // The configured weight: a server that is down now need not be down when this is read.
    let weight = server.configured_weight;
    writeln!(out, "-a {service} -r {name} {method} -w {weight}{tunnel}")
}

fn tunnel_options(tunnel: Tunnel) -> String {
    let kind = format!(" --tun-type {}", tunnel.kind.name());
    let checksum = match tunnel.checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    };
    match tunnel.kind {
        TunnelKind::Ipip => kind,
        TunnelKind::Gre => format!("{kind} {checksum}"),
        TunnelKind::Gue => format!("{kind} --tun-port {} {checksum}", tunnel.port),
    }
}
