//! Listings of services.

use std::io::{self, Write};

use super::endpoint::Endpoints;
use crate::api::{
    Family, Method, Protocol, ServerSpec, ServerView, ServiceKey, ServiceView, Stats,
    TunnelChecksum, TunnelKind,
};
use crate::cli::parse::{Format, Listing};
use crate::schedulers::names_of;

/// Second line of every listing but the plain one.
const REMOTE: &str = "  -> RemoteAddress:Port";

/// Prints a listing, in the order the services come in.
pub fn print(
    out: &mut dyn Write,
    listing: Listing,
    table_size: u64,
    services: &[ServiceView],
    endpoints: &Endpoints<'_>,
) -> io::Result<()> {
    if listing.service.is_none() {
        writeln!(out, "IP Virtual Server version 1.2.1 (size={table_size})")?;
    }
    title(out, listing.format)?;
    for service in services {
        service_line(out, listing, service, endpoints)?;
        let protocol = service.key.protocol().unwrap_or(Protocol::Tcp);
        for server in &service.servers {
            server_line(out, listing, protocol, server, endpoints)?;
        }
    }
    Ok(())
}

fn title(out: &mut dyn Write, format: Format) -> io::Result<()> {
    let (columns, remote) = match format {
        Format::Plain => (
            "Prot LocalAddress:Port Scheduler Flags",
            "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
        ),
        Format::Stats => (
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
            REMOTE,
        ),
        Format::Rate => (
            "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
            REMOTE,
        ),
        Format::Thresholds => (
            "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ",
            REMOTE,
        ),
        Format::PersistentConn => (
            "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ",
            REMOTE,
        ),
        Format::TunInfo => (
            "Prot LocalAddress:Port Scheduler Flags",
            "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn",
        ),
    };
    writeln!(out, "{columns}\n{remote}")
}

fn service_line(
    out: &mut dyn Write,
    listing: Listing,
    service: &ServiceView,
    endpoints: &Endpoints<'_>,
) -> io::Result<()> {
    let name = match service.key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => {
            let name = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            format!("{name:4} {}", endpoints.column(addr, port, protocol))
        }
        ServiceKey::Mark { mark, family } => match family {
            Family::Ipv4 => format!("FWM  {mark}"),
            Family::Ipv6 => format!("FWM  {mark} IPv6"),
        },
    };
    match listing.format {
        Format::Stats => counters(out, &format!("{name:33}"), &service.stats, listing.exact),
        Format::Rate => rates(out, &format!("{name:33}"), &service.rates, listing.exact),
        Format::Plain | Format::Thresholds | Format::PersistentConn | Format::TunInfo => {
            let spec = &service.spec;
            let flags = match names_of(&spec.scheduler, spec.flags).join(",") {
                names if names.is_empty() => names,
                names => format!(" ({names})"),
            };
            let persistent = spec.persistence.map_or(String::new(), |p| match p.netmask {
                mask if mask.is_full() => format!(" persistent {}", p.timeout),
                mask => format!(" persistent {} mask {mask}", p.timeout),
            });
            // Only of use, and only shown, with persistence.
            let engine = match &spec.engine {
                Some(engine) if spec.persistence.is_some() => format!(" pe {engine}"),
                _ => String::new(),
            };
            let one_packet = if spec.one_packet { " ops" } else { "" };
            let timeouts = match spec.timeouts.to_string() {
                list if list.is_empty() => list,
                list => format!(" timeouts {list}"),
            };
            writeln!(
                out,
                "{name} {}{flags}{persistent}{engine}{one_packet}{timeouts}",
                spec.scheduler
            )
        }
    }
}

fn server_line(
    out: &mut dyn Write,
    listing: Listing,
    protocol: Protocol,
    server: &ServerView,
    endpoints: &Endpoints<'_>,
) -> io::Result<()> {
    let key = server.key;
    let name = format!("  -> {:28}", endpoints.column(key.addr, key.port, protocol));
    let (active, inactive) = (server.active, server.inactive);
    match listing.format {
        Format::Stats => counters(out, &name, &server.stats, listing.exact),
        Format::Rate => rates(out, &name, &server.rates, listing.exact),
        Format::Plain => {
            let (method, weight) = (method_name(server.spec.method), server.spec.weight);
            writeln!(
                out,
                "{name} {method:7} {weight:<6} {active:<10} {inactive:<10}"
            )
        }
        Format::TunInfo => {
            let (method, weight) = (method_name(server.spec.method), server.spec.weight);
            let tunnel = tunnel_info(&server.spec);
            writeln!(
                out,
                "{name} {method:7} {tunnel:13} {weight:<6} {active:<10} {inactive:<10}"
            )
        }
        Format::Thresholds => {
            let (upper, lower) = (server.spec.upper, server.spec.lower);
            writeln!(
                out,
                "{name} {upper:<10} {lower:<10} {active:<10} {inactive:<10}"
            )
        }
        Format::PersistentConn => {
            let (weight, persistent) = (server.spec.weight, server.persistent);
            writeln!(
                out,
                "{name} {weight:<9} {persistent:<11} {active:<10} {inactive:<10}"
            )
        }
    }
}

const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Masq => "Masq",
        Method::Local => "Local",
        Method::Tunnel => "Tunnel",
        Method::Route => "Route",
    }
}

/// Kind, port and checksum of a tunnel in one word.
fn tunnel_info(spec: &ServerSpec) -> String {
    let tunnel = spec.tunnel;
    let checksum = match tunnel.checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match tunnel.kind {
        _ if spec.method != Method::Tunnel => "n/a".into(),
        TunnelKind::Ipip => "ipip".into(),
        TunnelKind::Gre => format!("gre:{checksum}"),
        TunnelKind::Gue => format!("gue:{}:{checksum}", tunnel.port),
    }
}

fn counters(out: &mut dyn Write, name: &str, stats: &Stats, exact: bool) -> io::Result<()> {
    let Stats {
        conns,
        in_pkts,
        out_pkts,
        in_bytes,
        out_bytes,
    } = *stats;
    let columns = [conns, in_pkts, out_pkts, in_bytes, out_bytes].map(|n| large(n, exact));
    writeln!(out, "{name}{}", columns.concat())
}

fn rates(out: &mut dyn Write, name: &str, rates: &Stats, exact: bool) -> io::Result<()> {
    let Stats {
        conns,
        in_pkts,
        out_pkts,
        in_bytes,
        out_bytes,
    } = *rates;
    let (in_bytes, out_bytes) = (large(in_bytes, exact), large(out_bytes, exact));
    writeln!(
        out,
        "{name} {conns:8} {in_pkts:8} {out_pkts:8}{in_bytes}{out_bytes}"
    )
}

/// A number in nine columns: from 10^8 on in units, cut not rounded.
fn large(n: u64, exact: bool) -> String {
    const UNITS: [(u64, u64, char); 3] = [
        (1_000_000_000, 1_000, 'K'),
        (100_000_000_000, 1_000_000, 'M'),
        (100_000_000_000_000, 1_000_000_000, 'G'),
    ];
    if exact || n < 100_000_000 {
        return format!(" {n:8}");
    }
    let unit = UNITS.iter().find(|(below, ..)| n < *below);
    let (_, divisor, letter) = unit.copied().unwrap_or((0, 1_000_000_000_000, 'T'));
    format!("{:8}{letter}", n / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_cut_to_units() {
        for (n, want) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (99_999_999_999_999, "   99999G"),
            (100_000_000_000_000, "     100T"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(large(n, false), want, "{n}");
        }
    }

    #[test]
    fn exact_numbers_push_the_columns() {
        assert_eq!(large(7, true), "        7");
        assert_eq!(large(123_456_789, true), " 123456789");
        assert_eq!(large(u64::MAX, true), " 18446744073709551615");
    }
}
