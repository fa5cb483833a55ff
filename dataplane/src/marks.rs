//! Firewall marks: which packets belong to a service that is told by a mark (`-f`).
//!
//! In the kernel a netfilter rule marks packets; here a rule of ours does. A rule names a source
//! and a destination prefix, and if it likes a protocol, ranges of ports, a VLAN and the port that
//! packets come in by. Of the rules that match, the most specific one counts. That is, in this
//! order: the longer destination prefix, the longer source prefix, the narrower range of
//! destination ports, then of source ports, and a rule that names a protocol, a VLAN, an input
//! port before one that does not. Equals cannot match the same packet, but for ranges that
//! overlap; there the lower first port counts.
//!
//! Rules are looked up in a tuple space: those that look at the same bits of a packet share a
//! hash table, ranges of ports being cut into aligned blocks (at most 30 each). A look-up costs
//! one probe for each such combination, not for each rule, and ends as soon as no better rule is
//! left. Only packets without a connection are looked up, and only if there are rules.

use core::cmp::Reverse;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::addr::{Addr, Family};
use crate::packet::PortId;
use crate::route::Prefix;

/// Ports from the first to the last one, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// Lowest, host order.
    pub first: u16,
    /// Highest.
    pub last: u16,
}

impl Ports {
    /// Every port.
    pub const ANY: Ports = Ports {
        first: 0,
        last: u16::MAX,
    };

    fn width(self) -> u32 {
        u32::from(self.last) - u32::from(self.first)
    }

    /// The range as aligned blocks: first port and how many leading bits are fixed.
    fn blocks(self) -> impl Iterator<Item = (u16, u8)> {
        let end = u32::from(self.last) + 1;
        let mut at = u32::from(self.first);
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let aligned = at.trailing_zeros().min(16);
            let fitting = (end - at).ilog2();
            let bits = aligned.min(fitting);
            let block = (at as u16, 16 - bits as u8);
            at += 1 << bits;
            Some(block)
        })
    }
}

/// A rule: these packets have this mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// Where packets come from. Both prefixes are of one family.
    pub source: Prefix,
    /// Where they go.
    pub destination: Prefix,
    /// IP protocol number, any if `None`.
    pub protocol: Option<u8>,
    /// Ports they come from.
    pub source_ports: Ports,
    /// Ports they go to.
    pub destination_ports: Ports,
    /// VLAN, 0 for untagged packets, any if `None`.
    pub vlan: Option<u16>,
    /// Port they come in by, any if `None`.
    pub input: Option<PortId>,
    /// The mark, not 0.
    pub mark: u32,
}

/// What a packet is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Marked {
    /// Source address.
    pub src: Addr,
    /// Destination address, of the same family.
    pub dst: Addr,
    /// Source port, host order.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// VLAN, 0 for none.
    pub vlan: u16,
    /// Port it came in by.
    pub input: PortId,
}

/// Which bits of a packet the rules of a table look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    src: u8,
    dst: u8,
    src_port: u8,
    dst_port: u8,
    protocol: bool,
    vlan: bool,
    input: bool,
}

/// These bits of a packet, the others zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bits {
    src: u128,
    dst: u128,
    src_port: u16,
    dst_port: u16,
    protocol: u8,
    vlan: u16,
    input: u16,
}

/// The address with its first `len` bits.
fn cut(addr: Addr, len: u8) -> u128 {
    let bits = u128::from_be_bytes(addr.octets());
    let total = match addr.family() {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let host = total - u32::from(len).min(total);
    bits & u128::MAX.checked_shl(host).unwrap_or(0)
}

fn cut_port(port: u16, len: u8) -> u16 {
    port & u16::MAX
        .checked_shl(16 - u32::from(len.min(16)))
        .unwrap_or(0)
}

impl Shape {
    fn of(&self, p: &Marked) -> Bits {
        let if_asked = |asked, value| if asked { value } else { 0 };
        Bits {
            src: cut(p.src, self.src),
            dst: cut(p.dst, self.dst),
            src_port: cut_port(p.src_port, self.src_port),
            dst_port: cut_port(p.dst_port, self.dst_port),
            protocol: if self.protocol { p.protocol } else { 0 },
            vlan: if_asked(self.vlan, p.vlan),
            input: if_asked(self.input, p.input.0),
        }
    }
}

#[derive(Clone, Debug)]
struct Table {
    shape: Shape,
    /// Lowest rank in it.
    best: u32,
    rules: HashMap<Bits, (u32, u32)>,
}

/// All rules, immutable. Control builds it anew on every change.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// By family; in a family, tables with better rules first.
    tables: [Vec<Table>; 2],
}

/// Order of precedence, the best rule first.
fn precedence(r: &MarkRule) -> impl Ord + use<> {
    (
        (Reverse(r.destination.len()), Reverse(r.source.len())),
        (r.destination_ports.width(), r.source_ports.width()),
        (r.protocol.is_none(), r.vlan.is_none(), r.input.is_none()),
        (r.destination_ports.first, r.source_ports.first),
    )
}

fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

impl Marks {
    /// Builds the tables. Of rules that match the same packets the first one counts.
    pub fn build(rules: &[MarkRule]) -> Marks {
        let mut sorted: Vec<&MarkRule> = rules.iter().collect();
        sorted.sort_by_cached_key(|r| precedence(r));
        let mut found: [HashMap<Shape, Table>; 2] = Default::default();
        for (rank, rule) in (0..).zip(sorted) {
            let family = index(rule.destination.addr().family());
            for (src_port, src_len) in rule.source_ports.blocks() {
                for (dst_port, dst_len) in rule.destination_ports.blocks() {
                    let shape = Shape {
                        src: rule.source.len(),
                        dst: rule.destination.len(),
                        src_port: src_len,
                        dst_port: dst_len,
                        protocol: rule.protocol.is_some(),
                        vlan: rule.vlan.is_some(),
                        input: rule.input.is_some(),
                    };
                    let bits = shape.of(&Marked {
                        src: rule.source.addr(),
                        dst: rule.destination.addr(),
                        src_port,
                        dst_port,
                        protocol: rule.protocol.unwrap_or(0),
                        vlan: rule.vlan.unwrap_or(0),
                        input: rule.input.unwrap_or(PortId(0)),
                    });
                    let table = found[family].entry(shape).or_insert_with(|| Table {
                        shape,
                        best: rank,
                        rules: HashMap::new(),
                    });
                    // Ranks rise: what is there is better.
                    if let Entry::Vacant(place) = table.rules.entry(bits) {
                        place.insert((rank, rule.mark));
                    }
                }
            }
        }
        Marks {
            tables: found.map(|tables| {
                let mut tables: Vec<Table> = tables.into_values().collect();
                tables.sort_by_key(|t| t.best);
                tables
            }),
        }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(Vec::is_empty)
    }

    /// How many look-ups a packet of this family costs at most.
    pub fn probes(&self, family: Family) -> usize {
        self.tables[index(family)].len()
    }

    /// The mark of a packet, 0 for none.
    pub fn classify(&self, packet: &Marked) -> u32 {
        let mut best = (u32::MAX, 0);
        for table in &self.tables[index(packet.dst.family())] {
            if table.best >= best.0 {
                break;
            }
            if let Some(&found) = table.rules.get(&table.shape.of(packet)) {
                best = best.min(found);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(destination: &str, mark: u32) -> MarkRule {
        let destination: Prefix = destination.parse().unwrap();
        MarkRule {
            source: Prefix::new(destination.addr(), 0).unwrap(),
            destination,
            protocol: None,
            source_ports: Ports::ANY,
            destination_ports: Ports::ANY,
            vlan: None,
            input: None,
            mark,
        }
    }

    fn to(dst: &str, dst_port: u16) -> Marked {
        let dst: core::net::IpAddr = dst.parse().unwrap();
        let src: core::net::IpAddr = if dst.is_ipv4() {
            [172, 16, 0, 1].into()
        } else {
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()
        };
        Marked {
            src: src.into(),
            dst: dst.into(),
            src_port: 40000,
            dst_port,
            protocol: 6,
            vlan: 0,
            input: PortId(0),
        }
    }

    #[test]
    fn the_most_specific_rule_counts() {
        let web = MarkRule {
            destination_ports: Ports {
                first: 80,
                last: 89,
            },
            ..any("10.0.0.0/24", 2)
        };
        let narrow = MarkRule {
            destination_ports: Ports {
                first: 80,
                last: 80,
            },
            ..any("10.0.0.0/24", 3)
        };
        let udp = MarkRule {
            protocol: Some(17),
            ..any("10.0.0.0/24", 4)
        };
        let rules = [any("0.0.0.0/0", 1), web, narrow, udp, any("10.0.0.7/32", 5)];
        let marks = Marks::build(&rules);
        assert_eq!(marks.classify(&to("192.0.2.1", 80)), 1);
        assert_eq!(marks.classify(&to("10.0.0.1", 80)), 3);
        assert_eq!(marks.classify(&to("10.0.0.1", 85)), 2);
        assert_eq!(
            marks.classify(&to("10.0.0.1", 90)),
            1,
            "the /24 has no rule for it"
        );
        assert_eq!(marks.classify(&to("10.0.0.7", 80)), 5);
        let datagram = Marked {
            protocol: 17,
            ..to("10.0.0.1", 90)
        };
        assert_eq!(marks.classify(&datagram), 4);
        assert_eq!(marks.classify(&to("2001:db8::1", 80)), 0);
    }

    #[test]
    fn vlans_and_input_ports() {
        let tagged = MarkRule {
            vlan: Some(7),
            ..any("::/0", 1)
        };
        let second = MarkRule {
            input: Some(PortId(1)),
            ..any("::/0", 2)
        };
        let marks = Marks::build(&[tagged, second]);
        let p = to("2001:db8::1", 80);
        assert_eq!(marks.classify(&p), 0);
        assert_eq!(marks.classify(&Marked { vlan: 7, ..p }), 1);
        let by_second = Marked {
            input: PortId(1),
            ..p
        };
        assert_eq!(marks.classify(&by_second), 2);
        assert_eq!(
            marks.classify(&Marked {
                vlan: 7,
                ..by_second
            }),
            1
        );
    }

    #[test]
    fn thousands_of_rules_of_one_kind_cost_one_probe() {
        let rules: Vec<MarkRule> = (0..5000u32)
            .map(|n| MarkRule {
                destination: Prefix::host(Addr::v4((0x0a00_0000 + n).to_be_bytes())),
                ..any("10.0.0.0/8", n + 1)
            })
            .collect();
        let marks = Marks::build(&rules);
        assert_eq!(marks.probes(Family::V4), 1);
        assert_eq!(marks.classify(&to("10.0.19.135", 80)), 5000);
        assert_eq!(marks.classify(&to("10.0.19.136", 80)), 0);
    }

    #[test]
    fn ranges_become_few_blocks() {
        for (first, last, count) in [(0, 65535, 1), (80, 80, 1), (7000, 7003, 1), (1, 65534, 30)] {
            let ports = Ports { first, last };
            let blocks: Vec<_> = ports.blocks().collect();
            assert_eq!(blocks.len(), count, "{first}-{last}");
            let all: u32 = blocks.iter().map(|(_, len)| 1 << (16 - len)).sum();
            assert_eq!(all, ports.width() + 1);
        }
    }
}
