//! Virtual addresses, and the routes and rules that go with them.

use std::net::IpAddr;

use super::Mapper;
use super::vrrp::Instance;
use crate::import::document::{Table, Value};
use crate::import::tree::Node;

impl Mapper<'_> {
    pub(super) fn virtual_address(
        &mut self,
        node: &Node,
        path: &'static str,
        instance: &mut Instance,
    ) {
        let mut table = Table::leaf(path, node);
        let mut words = node.words.iter();
        let mut addr = None;
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned();
            match word.as_str() {
                "dev" => {
                    if let Some(dev) = value() {
                        self.interfaces.insert(dev.clone());
                        table.set("dev", Value::Text(dev), node);
                    }
                }
                "label" => drop(value().map(|label| table.set("label", Value::Text(label), node))),
                "scope" => drop(value().map(|scope| table.set("scope", Value::Text(scope), node))),
                "brd" | "broadcast" => {
                    value();
                    self.report
                        .changed(node, "without a broadcast address of its own");
                }
                "peer" => {
                    value();
                    self.report.lost(node, "peer addresses are not supported");
                }
                "preferred_lft" => {
                    value();
                    self.report.changed(node, "preferred_lft is left to RVS");
                }
                "track_group" => {
                    value();
                    self.report.lost(node, "track_group is not supported");
                }
                "home" | "-nodad" | "mngtmpaddr" | "noprefixroute" | "autojoin" | "no_track"
                | "use_vmac" => self.report.changed(node, format!("{word} is left to RVS")),
                other if addr.is_none() && parse_network(other) => addr = Some(other.to_owned()),
                other => {
                    let note = format!("\"{other}\" is not understood");
                    self.report.lost(node, note);
                }
            }
        }
        let Some(addr) = addr else {
            self.report.lost(node, "no address");
            return;
        };
        let is_v6 = addr.contains(':');
        for name in ["label", "scope"] {
            if is_v6 && table.has(name) {
                table.drop_key(name);
                let note = format!("an IPv6 address has no {name}; keepalived ignores it, too");
                self.report.changed(node, note);
            }
        }
        // The address first.
        let rest = std::mem::take(&mut table.keys);
        table.set("addr", Value::Text(addr), node);
        table.keys.extend(rest);
        self.report.taken(node, path);
        match path {
            "vrrp.instance.vip" => instance.vips.push(table),
            _ => instance.excluded.push(table),
        }
    }

    pub(super) fn route(&mut self, node: &Node, instance: &mut Instance) {
        let mut table = Table::leaf("vrrp.instance.route", node);
        let mut words = node.words.iter();
        let mut is_whole = true;
        while let Some(word) = words.next() {
            let mut value = |name, table: &mut Table| match words.next() {
                Some(value) => {
                    table.set(name, Value::text(&**value), node);
                    true
                }
                None => false,
            };
            is_whole &= match word.as_str() {
                "to" => value("to", &mut table),
                "via" | "gw" => value("via", &mut table),
                "src" => value("src", &mut table),
                "dev" => value("dev", &mut table),
                "metric" | "priority" | "preference" => {
                    let number = words.next().and_then(|n| n.parse::<u32>().ok());
                    let number = number.map(|n| Value::Integer(i64::from(n)));
                    number.map(|n| table.set("metric", n, node)).is_some()
                }
                "table" => {
                    let number = match words.next().map(String::as_str) {
                        Some("main") => Some(254),
                        Some("default") => Some(253),
                        Some(number) => number.parse::<u32>().ok(),
                        None => None,
                    };
                    let number = number.map(|n| Value::Integer(i64::from(n)));
                    number.map(|n| table.set("table", n, node)).is_some()
                }
                "scope" | "proto" | "protocol" => {
                    words.next();
                    self.report
                        .changed(node, format!("{word} is left to the kernel"));
                    true
                }
                "no_track" | "inet" | "inet6" | "add" | "append" | "prepend" => true,
                other if !table.has("to") && (other == "default" || parse_network(other)) => {
                    let to = match other {
                        "0.0.0.0/0" | "::/0" => "default",
                        other => other,
                    };
                    table.set("to", Value::text(to), node);
                    true
                }
                _ => false,
            };
            if !is_whole {
                let note = format!("\"{word}\" of a route is not supported");
                self.report.lost(node, note);
                return;
            }
        }
        if let Some(Value::Text(dev)) = table.get("dev") {
            self.interfaces.insert(dev.clone());
        }
        self.report.taken(node, "vrrp.instance.route");
        instance.inner.push(table);
    }

    pub(super) fn rule(&mut self, node: &Node, instance: &mut Instance) {
        let mut table = Table::leaf("vrrp.instance.rule", node);
        let mut words = node.words.iter();
        while let Some(word) = words.next() {
            let text = |key: &'static str| (key, false);
            let number = |key: &'static str| (key, true);
            let (key, is_number) = match word.as_str() {
                "from" => text("from"),
                "to" | "dst" => text("to"),
                "iif" | "dev" => text("iif"),
                "oif" => text("oif"),
                "table" | "lookup" => number("table"),
                "priority" | "preference" | "order" => number("priority"),
                "fwmark" => number("fwmark"),
                "inet" | "inet6" => {
                    let family = if word == "inet" { "ipv4" } else { "ipv6" };
                    table.set("family", Value::text(family), node);
                    continue;
                }
                "no_track" => continue,
                other => {
                    let note = format!(
                        "\"{other}\" of a rule is not supported; keep the rule with ip rule"
                    );
                    self.report.lost(node, note);
                    return;
                }
            };
            let Some(value) = words.next() else {
                self.report.lost(node, format!("{word} has no value"));
                return;
            };
            let (value, mask) = match (key, value.split_once('/')) {
                ("fwmark", Some((mark, mask))) => (mark, parse_number(mask)),
                _ => (value.as_str(), None),
            };
            let value = match (is_number, value) {
                (true, "main") => Some(Value::Integer(254)),
                (true, "default") => Some(Value::Integer(253)),
                (true, number) => parse_number(number).map(Value::Integer),
                // Everything, which is what no key says, too.
                (false, "all" | "any" | "default") => continue,
                (false, text) => Some(Value::text(text)),
            };
            let Some(value) = value else {
                self.report.lost(node, format!("{word} needs a number"));
                return;
            };
            table.set(key, value, node);
            if let Some(mask) = mask {
                table.set("fwmask", Value::Integer(mask), node);
            }
        }
        if !table.has("priority") {
            // keepalived leaves it to the kernel, which puts the rule before the main table's.
            let note = "keepalived asks for a preference; give the rule a priority";
            self.report.lost(node, note);
            return;
        }
        self.report.taken(node, "vrrp.instance.rule");
        instance.inner.push(table);
    }
}

/// Decimal, or hexadecimal with 0x.
fn parse_number(word: &str) -> Option<i64> {
    match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok().map(i64::from),
        None => word.parse::<u32>().ok().map(i64::from),
    }
}

fn parse_network(word: &str) -> bool {
    let (addr, len) = word.split_once('/').unwrap_or((word, "0"));
    addr.parse::<IpAddr>().is_ok() && len.parse::<u8>().is_ok()
}
