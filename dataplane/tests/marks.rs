//! The tables of marks against a plain list of rules.

use dataplane::addr::Addr;
use dataplane::marks::{MarkRule, Marked, Marks, Ports};
use dataplane::packet::PortId;
use dataplane::route::Prefix;
use proptest::prelude::*;

/// Few addresses, ports and prefixes, so that rules meet.
fn address(v6: bool) -> impl Strategy<Value = Addr> {
    (0u32..4, 0u32..4).prop_map(move |(net, host)| {
        let bits = net << 30 | host;
        if v6 {
            Addr::v6((u128::from(bits) << 96 | u128::from(host)).to_be_bytes())
        } else {
            Addr::v4(bits.to_be_bytes())
        }
    })
}

fn prefix(v6: bool) -> impl Strategy<Value = Prefix> {
    let lens = if v6 {
        vec![0u8, 1, 2, 31, 64, 127, 128]
    } else {
        vec![0, 1, 2, 30, 31, 32]
    };
    (address(v6), proptest::sample::select(lens)).prop_map(|(a, len)| Prefix::new(a, len).unwrap())
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        2 => Just(Ports::ANY),
        3 => (0u16..40, 0u16..40).prop_map(|(a, b)| Ports { first: a.min(b), last: a.max(b) }),
        1 => (65500u16..=65535).prop_map(|a| Ports { first: a, last: u16::MAX }),
    ]
}

fn rule(v6: bool) -> impl Strategy<Value = MarkRule> {
    (
        (prefix(v6), prefix(v6), ports(), ports()),
        proptest::option::of(proptest::sample::select(vec![6u8, 17])),
        proptest::option::weighted(0.2, 0u16..3),
        proptest::option::weighted(0.2, (0u16..3).prop_map(PortId)),
    )
        .prop_map(
            |((source, destination, source_ports, destination_ports), protocol, vlan, input)| {
                MarkRule {
                    source,
                    destination,
                    protocol,
                    source_ports,
                    destination_ports,
                    vlan,
                    input,
                    mark: 0,
                }
            },
        )
}

fn packet(v6: bool) -> impl Strategy<Value = Marked> {
    let port = || prop_oneof![4 => 0u16..42, 1 => 65495u16..=65535];
    (
        (address(v6), address(v6), port(), port()),
        proptest::sample::select(vec![6u8, 17]),
        0u16..3,
        (0u16..3).prop_map(PortId),
    )
        .prop_map(
            |((src, dst, src_port, dst_port), protocol, vlan, input)| Marked {
                src,
                dst,
                src_port,
                dst_port,
                protocol,
                vlan,
                input,
            },
        )
}

fn matches(r: &MarkRule, p: &Marked) -> bool {
    let within = |range: Ports, port| (range.first..=range.last).contains(&port);
    r.source.contains(p.src)
        && r.destination.contains(p.dst)
        && r.protocol.is_none_or(|n| n == p.protocol)
        && within(r.source_ports, p.src_port)
        && within(r.destination_ports, p.dst_port)
        && r.vlan.is_none_or(|n| n == p.vlan)
        && r.input.is_none_or(|n| n == p.input)
}

/// How the documentation puts it, one criterion after the other; the higher one counts.
fn is_better(a: &MarkRule, b: &MarkRule) -> bool {
    let width = |p: Ports| i32::from(p.first) - i32::from(p.last);
    let merits = |r: &MarkRule| {
        [
            i32::from(r.destination.len()),
            i32::from(r.source.len()),
            width(r.destination_ports),
            width(r.source_ports),
            i32::from(r.protocol.is_some()),
            i32::from(r.vlan.is_some()),
            i32::from(r.input.is_some()),
            -i32::from(r.destination_ports.first),
            -i32::from(r.source_ports.first),
        ]
    };
    merits(a) > merits(b)
}

fn list(rules: &[MarkRule], p: &Marked) -> u32 {
    let mut best: Option<&MarkRule> = None;
    for r in rules.iter().filter(|r| matches(r, p)) {
        if best.is_none_or(|b| is_better(r, b)) {
            best = Some(r);
        }
    }
    best.map_or(0, |r| r.mark)
}

proptest! {
    #[test]
    fn agrees_with_a_list(
        v6 in any::<bool>(),
        (mut rules, packets) in any::<bool>().prop_flat_map(|v6| (
            proptest::collection::vec(rule(v6), 0..40),
            proptest::collection::vec(packet(v6), 1..60),
        )),
        mut others in proptest::collection::vec(rule(true), 0..4),
    ) {
        if v6 {
            rules.append(&mut others);
        }
        for (n, r) in (1..).zip(&mut rules) {
            r.mark = n;
        }
        let marks = Marks::build(&rules);
        for p in &packets {
            prop_assert_eq!(marks.classify(p), list(&rules, p), "{:?}", p);
        }
    }
}
