//! Virtual addresses and what goes with them: routes and rules.

use std::net::IpAddr;

use vrrp::addr::Family;
use vrrp::config::VirtualAddress;

use super::{Notes, interface_complaint, number};
use crate::config::file::Table;
use crate::config::vrrp::{Address, Route, Rule};

pub(super) fn addresses(
    table: &Table,
    key: &str,
    device: &str,
    notes: &mut Notes<'_>,
) -> Vec<Address> {
    let address = |written: &Table| {
        let addr = network(written, "addr", notes)?;
        let is_v4 = addr.addr.is_ipv4();
        let label = written.text("label").map(str::to_owned);
        if let Some(label) = &label {
            let line = written.line_of("label");
            if !is_v4 {
                notes.mistake(line, "an IPv6 address has no label; remove it");
            } else if label.is_empty() || label.len() > 15 {
                let text = format!("label \"{label}\" will not do; give 1 to 15 characters");
                notes.mistake(line, text);
            }
        }
        if !is_v4 && written.mentions("scope") {
            let text = "the kernel knows the scope of an IPv6 address; remove it";
            notes.mistake(written.line_of("scope"), text);
        }
        if addr.addr.is_multicast() || addr.addr.is_unspecified() {
            let text = format!("addr {} is no address of a host; give one", addr.addr);
            notes.mistake(written.line_of("addr"), text);
        }
        let device = match written.mentions("dev") {
            true => interface(written, "dev", notes)?,
            false => device.to_owned(),
        };
        // RT_SCOPE_* (linux/rtnetlink.h).
        let scope = match written.text("scope") {
            Some("site") => 200,
            Some("link") => 253,
            Some("host") => 254,
            _ => 0,
        };
        Some(Address {
            addr,
            device,
            scope,
            label,
        })
    };
    table.tables(key).iter().filter_map(address).collect()
}

pub(super) fn route(table: &Table, notes: &mut Notes<'_>) -> Option<Route> {
    let via = address(table, "via", notes);
    let source = address(table, "src", notes);
    let to = match table.text("to") {
        Some("default") => {
            let family = via.or(source).map_or(Family::V4, Family::of);
            let addr = match family {
                Family::V4 => IpAddr::from([0; 4]),
                Family::V6 => IpAddr::from([0; 16]),
            };
            VirtualAddress {
                addr,
                prefix_len: 0,
            }
        }
        _ => network(table, "to", notes)?,
    };
    let family = Family::of(to.addr);
    for (key, addr) in [("via", via), ("src", source)] {
        if let Some(addr) = addr.filter(|addr| Family::of(*addr) != family) {
            let text = format!("{key} {addr} is of another family than the route; give one of its");
            notes.mistake(table.line_of(key), text);
        }
    }
    let device = match table.mentions("dev") {
        true => Some(interface(table, "dev", notes)?),
        false => None,
    };
    if via.is_none() && device.is_none() && !table.mentions("via") {
        let text = "the route leads nowhere; add via, dev or both";
        notes.mistake(table.line, text);
    }
    Some(Route {
        to,
        via,
        device,
        source,
        metric: table.integer("metric").map(|n| n as u32),
        table: number(table, "table"),
    })
}

pub(super) fn interface(table: &Table, key: &str, notes: &mut Notes<'_>) -> Option<String> {
    let name = table.text(key)?;
    if let Some(complaint) = interface_complaint(name) {
        notes.mistake(table.line_of(key), format!("{key} \"{name}\" {complaint}"));
        return None;
    }
    Some(name.to_owned())
}

pub(super) fn address(table: &Table, key: &str, notes: &mut Notes<'_>) -> Option<IpAddr> {
    let text = table.text(key)?;
    let addr = text.parse().ok();
    if addr.is_none() {
        let text =
            format!("{key} \"{text}\" is no IP address; write it like 192.0.2.1 or 2001:db8::1");
        notes.mistake(table.line_of(key), text);
    }
    addr
}

/// An address with or without a prefix length.
fn network(table: &Table, key: &str, notes: &mut Notes<'_>) -> Option<VirtualAddress> {
    let text = table.text(key)?;
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (text, None),
    };
    let parsed = addr.parse::<IpAddr>().ok().and_then(|addr| {
        let most = Family::of(addr).bits();
        let prefix_len = match len {
            Some(len) => len.parse::<u8>().ok().filter(|len| *len <= most)?,
            None => most,
        };
        Some(VirtualAddress { addr, prefix_len })
    });
    if parsed.is_none() {
        let text =
            format!("{key} \"{text}\" is no address; write it like 192.0.2.1/24 or 2001:db8::1/64");
        notes.mistake(table.line_of(key), text);
    }
    parsed
}

pub(super) fn rule(table: &Table, of: Family, notes: &mut Notes<'_>) -> Option<Rule> {
    let side = |key: &str, notes: &mut Notes<'_>| match table.mentions(key) {
        true => network(table, key, notes).map(Some),
        false => Some(None),
    };
    let (from, to) = (side("from", notes)?, side("to", notes)?);
    let device = |key: &str, notes: &mut Notes<'_>| match table.mentions(key) {
        true => interface(table, key, notes).map(Some),
        false => Some(None),
    };
    let (iif, oif) = (device("iif", notes)?, device("oif", notes)?);
    let written = match table.text("family") {
        Some("ipv4") => Some(Family::V4),
        Some("ipv6") => Some(Family::V6),
        _ => None,
    };
    let named = [from, to].into_iter().flatten().next();
    let named = named.map(|network| Family::of(network.addr));
    let family = written.or(named).unwrap_or(of);
    for (key, network) in [("from", from), ("to", to)] {
        if let Some(other) = network.filter(|network| Family::of(network.addr) != family) {
            let text = format!(
                "{key} {} is of another family than the rule; give one of its",
                other.addr
            );
            notes.mistake(table.line_of(key), text);
        }
    }
    let mark = table.integer("fwmark").map(|mark| mark as u32);
    if mark.is_none() && table.mentions("fwmask") {
        let text = "fwmask means something with fwmark only; add fwmark or remove it";
        notes.mistake(table.line_of("fwmask"), text);
    }
    if from.is_none() && to.is_none() && iif.is_none() && oif.is_none() && mark.is_none() {
        let text = "the rule takes all packets; add from, to, iif, oif or fwmark";
        notes.mistake(table.line, text);
    }
    Some(Rule {
        family,
        priority: number(table, "priority"),
        from,
        to,
        iif,
        oif,
        mark: mark.map(|mark| (mark, number(table, "fwmask"))),
        table: number(table, "table"),
    })
}
