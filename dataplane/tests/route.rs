//! The forwarding table against a plain list of routes.

use dataplane::addr::Addr;
use dataplane::route::{Change, Fib, LinkId, Lookup, NextHop, Prefix, Target, TargetId};
use proptest::prelude::*;

/// Prefixes that meet, nest and part again: few bits vary, at places where nodes end.
fn prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (0u32..8, 0u32..8, 0u32..4, 0u8..=32)
        .prop_map(|(a, b, c, len)| (Addr::v4((a << 29 | b << 12 | c).to_be_bytes()), len));
    let v6 = (0u128..4, 0u128..16, 0u128..4, 0u8..=128)
        .prop_map(|(a, b, c, len)| (Addr::v6((a << 126 | b << 60 | c).to_be_bytes()), len));
    prop_oneof![v4, v6].prop_map(|(addr, len)| Prefix::new(addr, len).unwrap())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (prefix(), 0u32..100).prop_map(|(p, t)| Change::Put(p, TargetId(t))),
        3 => prefix().prop_map(Change::Delete),
        1 => (0u32..100, any::<bool>()).prop_map(|(t, up)| Change::Target(TargetId(t), target(t, up))),
    ]
}

fn hop(number: u32) -> NextHop {
    NextHop {
        link: LinkId(number as u16),
        gateway: None,
        mtu: 1500,
        source: Addr::UNSPECIFIED,
    }
}

fn target(number: u32, up: bool) -> Target {
    if up {
        Target::Via(hop(number))
    } else {
        Target::Unusable
    }
}

/// A list of routes, searched from end to end.
#[derive(Clone)]
struct Plain {
    routes: Vec<(Prefix, u32)>,
    up: Vec<bool>,
}

impl Plain {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(p, t) => {
                self.routes.retain(|(q, _)| q != p);
                self.routes.push((*p, t.0));
            }
            Change::Delete(p) => self.routes.retain(|(q, _)| q != p),
            Change::Target(t, target) => self.up[t.0 as usize] = *target != Target::Unusable,
            other => unreachable!("{other:?}"),
        }
    }

    fn lookup(&self, dst: Addr) -> Option<u32> {
        let matching = self
            .routes
            .iter()
            .filter(|(p, t)| p.contains(dst) && self.up[*t as usize]);
        matching.max_by_key(|(p, _)| p.len()).map(|(_, t)| *t)
    }
}

fn assert_equal(fib: &Fib, plain: &Plain, probes: &[Prefix]) {
    assert_eq!(fib.len(), plain.routes.len());
    for probe in probes {
        let found = match fib.lookup(probe.addr(), 0) {
            Lookup::Via(hop) => Some(u32::from(hop.link.0)),
            Lookup::None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(found, plain.lookup(probe.addr()), "{probe}");
    }
}

proptest! {
    #[test]
    fn table_equals_a_plain_list(
        changes in prop::collection::vec(change(), 1..120),
        probes in prop::collection::vec(prefix(), 30),
    ) {
        let mut plain = Plain { routes: Vec::new(), up: vec![true; 100] };
        let mut fib = Fib::default().apply((0..100).map(|t| Change::Target(TargetId(t), target(t, true))));
        let mut snapshots = Vec::new();
        for (i, change) in changes.iter().enumerate() {
            if i % 10 == 0 {
                snapshots.push((fib.clone(), plain.clone()));
            }
            fib.change(change.clone());
            plain.apply(change);
        }
        snapshots.push((fib, plain));
        for (fib, plain) in &snapshots {
            assert_equal(fib, plain, &probes);
        }
    }

    #[test]
    fn a_table_that_lost_all_routes_takes_no_memory(
        prefixes in prop::collection::btree_set(prefix(), 1..60),
    ) {
        let mut fib = Fib::default();
        let empty = fib.memory();
        for p in &prefixes {
            fib.change(Change::Put(*p, TargetId(0)));
        }
        prop_assert_eq!(fib.len(), prefixes.len());
        for p in &prefixes {
            fib.change(Change::Delete(*p));
        }
        prop_assert_eq!((fib.len(), fib.memory()), (0, empty));
    }
}

/// The shape of a full table, small. `RVS_FULL_TABLE=1 cargo test --release -p dataplane --test
/// route full -- --nocapture` runs it with 1 M + 200 k routes: build time, memory, cost of one
/// change and of a lookup.
#[test]
fn a_full_table() {
    match std::env::var_os("RVS_FULL_TABLE") {
        Some(_) => full_table(1_000_000, 200_000),
        None => full_table(20_000, 4_000),
    }
}

fn full_table(v4: usize, v6: usize) {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut routes = std::collections::BTreeSet::new();
    while routes.len() < v4 {
        // Mostly /24, some shorter, as in the Internet's table.
        let len = [24, 24, 24, 24, 24, 24, 23, 22, 22, 21, 20, 19, 18, 16][next() as usize % 14];
        routes.insert(Prefix::new(Addr::v4((next() as u32).to_be_bytes()), len).unwrap());
    }
    while routes.len() < v4 + v6 {
        let len = [48, 48, 48, 48, 48, 44, 40, 36, 32, 29][next() as usize % 10];
        // 60,000 allocations of /32 in 2000::/3, and what they announce.
        let bits =
            0x2000 << 112 | u128::from(next() % 60_000 * 0x1_1001) << 96 | u128::from(next()) << 32;
        routes.insert(Prefix::new(Addr::v6(bits.to_be_bytes()), len).unwrap());
    }
    let mut routes: Vec<_> = routes.into_iter().collect();
    for i in (1..routes.len()).rev() {
        routes.swap(i, next() as usize % (i + 1));
    }

    let mut fib =
        Fib::default().apply((0..50).map(|t| Change::Target(TargetId(t), target(t, true))));
    let started = std::time::Instant::now();
    for (i, p) in routes.iter().enumerate() {
        fib.change(Change::Put(*p, TargetId(i as u32 % 50)));
    }
    let built = started.elapsed();
    assert_eq!(fib.len(), routes.len());

    let rounds = 10_000.min(routes.len());
    let started = std::time::Instant::now();
    for p in &routes[..rounds] {
        fib = fib.with(Change::Delete(*p));
    }
    for (i, p) in routes[..rounds].iter().enumerate() {
        fib = fib.with(Change::Put(*p, TargetId(i as u32 % 50)));
    }
    let change = started.elapsed() / (2 * rounds) as u32;

    let lookups: Vec<Addr> = (0..1_000_000)
        .map(|_| routes[next() as usize % routes.len()].addr())
        .collect();
    let started = std::time::Instant::now();
    let found = lookups
        .iter()
        .filter(|a| fib.lookup(**a, 0) != Lookup::None)
        .count();
    let lookup = started.elapsed() / lookups.len() as u32;
    assert_eq!(found, lookups.len());
    println!(
        "{} routes: built in {built:?}, {} MB, one change {change:?}, one lookup {lookup:?}",
        routes.len(),
        fib.memory() >> 20
    );
}
