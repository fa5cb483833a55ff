//! Rules that mark packets.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use super::Notes;
use crate::api::{Family, MarkMatch, Protocol};
use crate::config::Port;
use crate::config::file::{File, Table};

pub(super) fn marks(
    file: &File,
    ports: &[Port],
    notes: &mut Notes<'_>,
) -> BTreeMap<MarkMatch, u32> {
    let mut out = BTreeMap::new();
    let mut lines: HashMap<MarkMatch, usize> = HashMap::new();
    for table in file.root.tables("mark") {
        let rule = rule(table, ports, notes);
        let (Some(rule), Some(mark)) = (rule, table.integer("mark")) else {
            continue;
        };
        if let Some(first) = lines.insert(rule.clone(), table.line) {
            let text = format!("the packets of this rule are also in line {first}; keep one");
            notes.mistake(table.line, text);
        }
        out.insert(rule, mark as u32);
    }
    out
}

/// A text value of the file, read.
fn read<T: FromStr<Err = String>>(table: &Table, key: &str, notes: &mut Notes<'_>) -> Option<T> {
    match table.text(key)?.parse() {
        Ok(value) => Some(value),
        Err(what) => {
            notes.mistake(table.line_of(key), format!("{key} {what}"));
            None
        }
    }
}

fn rule(table: &Table, ports: &[Port], notes: &mut Notes<'_>) -> Option<MarkMatch> {
    let port = table.text("port").map(str::to_owned);
    if let Some(name) = &port
        && !ports.iter().any(|p| p.name == *name)
    {
        let text = format!("there is no [[port]] named \"{name}\"");
        notes.mistake(table.line_of("port"), text);
    }
    let family = match table.text("family") {
        Some("ipv4") => Some(Family::Ipv4),
        Some("ipv6") => Some(Family::Ipv6),
        _ => None,
    };
    let rule = MarkMatch {
        family: Family::Ipv4,
        source: read(table, "source", notes),
        destination: read(table, "destination", notes),
        protocol: match table.text("protocol") {
            Some("tcp") => Some(Protocol::Tcp),
            Some("udp") => Some(Protocol::Udp),
            Some("sctp") => Some(Protocol::Sctp),
            _ => None,
        },
        source_port: read(table, "source_port", notes),
        destination_port: read(table, "destination_port", notes),
        vlan: table.integer("vlan").map(|n| n as u16),
        port,
    };
    match rule.checked(family) {
        Ok(rule) => Some(rule),
        Err(what) => {
            notes.mistake(table.line, what);
            None
        }
    }
}
