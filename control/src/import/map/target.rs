//! What a `virtual_server` stands for: an address, a mark, or all members of a group.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Mapper;
use crate::import::tree::Node;

/// Most services that one group makes.
const MOST: usize = 4096;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By address and port; 0 is any port.
    Address(IpAddr, u16),
    /// By firewall mark, with the family if it is said.
    Mark(i64, Option<&'static str>),
}

impl Target {
    /// Its port; that of a mark is any.
    pub fn port(&self) -> u16 {
        match self {
            Target::Address(_, port) => *port,
            Target::Mark(..) => 0,
        }
    }
}

/// The family as keepalived writes it, as RVS does.
pub fn family(word: &str) -> Option<&'static str> {
    match word {
        "inet" => Some("ipv4"),
        "inet6" => Some("ipv6"),
        _ => None,
    }
}

impl Mapper<'_> {
    /// The services of a `virtual_server`. What is wrong is in the report.
    pub(super) fn targets(&mut self, node: &Node) -> Vec<Target> {
        match (node.arg(0), node.arg(1)) {
            (Some("fwmark"), _) => {
                let mark = self.number_at(node, 1, 1, i64::from(u32::MAX));
                mark.map(|mark| Target::Mark(mark, None))
                    .into_iter()
                    .collect()
            }
            (Some("group"), Some(name)) => self.members(node, name),
            (Some(addr), port) => {
                let Ok(addr) = addr.parse() else {
                    self.report
                        .lost(node, format!("\"{addr}\" is no IP address"));
                    return Vec::new();
                };
                let port = match port {
                    Some(_) => self.number_at(node, 1, 0, 65_535),
                    None => Some(0),
                };
                port.map(|port| Target::Address(addr, port as u16))
                    .into_iter()
                    .collect()
            }
            (None, _) => {
                self.report.lost(node, "it names no address");
                Vec::new()
            }
        }
    }

    fn members(&mut self, node: &Node, name: &str) -> Vec<Target> {
        let Some(group) = self.groups.get(name).copied() else {
            let note = format!("there is no virtual_server_group {name}");
            self.report.lost(node, note);
            return Vec::new();
        };
        let mut out: Vec<Target> = Vec::new();
        for member in &group.children {
            let targets = match member_of_group(member) {
                Ok(targets) => targets,
                Err(why) => {
                    self.report.lost(member, why);
                    continue;
                }
            };
            if out.len() + targets.len() > MOST {
                let note = format!("the group has more than {MOST} members; the rest is left out");
                self.report.lost(member, note);
                break;
            }
            self.report.taken(member, "service");
            out.extend(
                targets
                    .into_iter()
                    .filter(|t| !out.contains(t))
                    .collect::<Vec<_>>(),
            );
        }
        self.report.taken(group, "one service for each member");
        if out.len() > 1 {
            let note = format!(
                "{} services with the same servers, each of which checks them itself",
                out.len()
            );
            self.report.changed(node, note);
        }
        out
    }
}

/// The services of a line of a group.
fn member_of_group(node: &Node) -> Result<Vec<Target>, String> {
    if node.keyword() == "fwmark" {
        let mark = node.arg(0).and_then(|word| word.parse::<u32>().ok());
        let mark = mark
            .filter(|mark| *mark > 0)
            .ok_or("fwmark needs a number")?;
        let family = match node.arg(1) {
            Some(word) => Some(family(word).ok_or(format!("\"{word}\" is no family"))?),
            None => None,
        };
        return Ok(vec![Target::Mark(i64::from(mark), family)]);
    }
    let port = match node.arg(0) {
        Some(word) => word.parse().map_err(|_| format!("\"{word}\" is no port"))?,
        None => 0,
    };
    let range = range(node.keyword()).ok_or(format!(
        "\"{}\" is no address and no range of at most {MOST}",
        node.keyword()
    ))?;
    Ok(range.map(|addr| Target::Address(addr, port)).collect())
}

/// `A`, `A-N`, `A-B` or `A/LEN`.
fn range(word: &str) -> Option<Box<dyn Iterator<Item = IpAddr>>> {
    let (first, last) = if let Some((first, last)) = word.split_once('-') {
        let first: IpAddr = first.parse().ok()?;
        let last = match (last.parse(), first) {
            (Ok(last), _) => last,
            // The last part alone: decimal in IPv4, hexadecimal in IPv6.
            (Err(_), IpAddr::V4(first)) => {
                let part: u8 = last.parse().ok()?;
                let bits = u32::from(first) & !0xff | u32::from(part);
                IpAddr::V4(bits.into())
            }
            (Err(_), IpAddr::V6(first)) => {
                let part = u16::from_str_radix(last, 16).ok()?;
                let bits = u128::from(first) & !0xffff | u128::from(part);
                IpAddr::V6(bits.into())
            }
        };
        (first, last)
    } else if word.contains('/') {
        let net: ipnet::IpNet = word.parse().ok()?;
        (net.network(), net.broadcast())
    } else {
        let addr = word.parse().ok()?;
        (addr, addr)
    };
    let most = MOST as u128;
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            let count = u128::from(last.checked_sub(first)?) + 1;
            let addrs = (first..=last).map(|bits| IpAddr::V4(Ipv4Addr::from(bits)));
            (count <= most).then(|| Box::new(addrs) as _)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            let count = last.checked_sub(first)?.saturating_add(1);
            let addrs = (first..=last).map(|bits| IpAddr::V6(Ipv6Addr::from(bits)));
            (count <= most).then(|| Box::new(addrs) as _)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_three_forms() {
        for (word, first, last, count) in [
            ("192.168.200.1", "192.168.200.1", "192.168.200.1", 1),
            ("192.168.200.3-10", "192.168.200.3", "192.168.200.10", 8),
            (
                "192.168.200.250-192.168.201.10",
                "192.168.200.250",
                "192.168.201.10",
                17,
            ),
            ("192.168.202.8/29", "192.168.202.8", "192.168.202.15", 8),
            ("2001:db8::fe-102", "2001:db8::fe", "2001:db8::102", 5),
        ] {
            let all: Vec<IpAddr> = range(word).expect(word).collect();
            assert_eq!(all.len(), count, "{word}");
            assert_eq!(all[0].to_string(), first);
            assert_eq!(all[count - 1].to_string(), last);
        }
        for word in [
            "10.0.0.9-3",
            "10.0.0.0/8",
            "::/0",
            "10.0.0.1-::1",
            "x",
            "10.0.0.1-256",
            "0.0.0.0/0",
            "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(range(word).is_none(), "{word}");
        }
    }
}
