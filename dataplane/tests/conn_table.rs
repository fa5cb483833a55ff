//! The connection table against a plain map, and an index rebuilt by scan against the index.

use std::collections::HashMap;

use dataplane::addr::{Addr, Endpoint};
use dataplane::conn::region::{attach, create};
use dataplane::conn::template::{TemplateKey, forget_data};
use dataplane::conn::{HashKey, Layout, NewConnection, NewTemplate, Shard, Side};
use dataplane::service::{DestId, ForwardingMethod, Protocol};
use dataplane::time::Ticks;
use proptest::prelude::*;

const KEY: HashKey = HashKey([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
]);
const BOOT: [u8; 16] = *b"one boot id only";

/// Memory for a layout: leaked, as a region lives as long as its process.
fn memory(layout: Layout) -> &'static mut [u8] {
    let bytes = vec![0u8; layout.bytes() + 64].leak();
    let skip = bytes.as_ptr().align_offset(64);
    &mut bytes[skip..skip + layout.bytes()]
}

fn connection(n: u32, v6: bool, method: ForwardingMethod) -> NewConnection {
    let addr = |net: u8, host: u32| {
        if v6 {
            let mut b = [0; 16];
            b[0] = 0xfd;
            b[1] = net;
            b[12..].copy_from_slice(&host.to_be_bytes());
            Addr::v6(b)
        } else {
            Addr::v4([10, net, (host >> 8) as u8, host as u8])
        }
    };
    NewConnection {
        protocol: if n.is_multiple_of(3) {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        client: Endpoint::new(addr(1, n % 50), 1000 + (n / 50) as u16),
        virtual_: Endpoint::new(addr(0, n % 2), 80),
        dest: Endpoint::new(addr(2, n % 7), 8080),
        dest_id: DestId(n % 7),
        method,
        flags: 0,
    }
}

fn find(shards: &[Shard], c: &NewConnection, side: Side) -> Option<(usize, u32)> {
    let other = match (side, c.method) {
        (Side::Reply, ForwardingMethod::Masquerade) => c.dest,
        _ => c.virtual_,
    };
    let protocol = c.protocol.number();
    let hash = KEY.hash(
        protocol,
        &c.client.addr,
        c.client.port,
        &other.addr,
        other.port,
    );
    let shard = hash.shard as usize;
    Some((
        shard,
        shards[shard].lookup(hash, side, protocol, &c.client, &other)?,
    ))
}

fn shard_of(c: &NewConnection) -> usize {
    let (a, b) = (c.client, c.virtual_);
    KEY.hash(c.protocol.number(), &a.addr, a.port, &b.addr, b.port)
        .shard as usize
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, bool, bool),
    Remove(u32),
    Wait(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..3000u32, any::<bool>(), any::<bool>()).prop_map(|(n, v6, nat)| Op::Insert(n, v6, nat)),
        2 => (0..3000u32).prop_map(Op::Remove),
        1 => (1..4000u32).prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random insertions, removals and expiries leave the table and a map with the same
    /// connections, and a scan rebuilds the very same index.
    #[test]
    fn agrees_with_a_map(ops in ops()) {
        let layout = Layout::for_connections(1024);
        let region = memory(layout);
        let mut shards = create(region, layout, KEY, BOOT, Ticks(0)).unwrap();
        let mut model: HashMap<u32, (NewConnection, u32, usize)> = HashMap::new();
        let mut now = 0u32;
        for op in ops {
            match op {
                Op::Insert(n, v6, nat) => {
                    let method = if nat { ForwardingMethod::Masquerade } else { ForwardingMethod::DirectRoute };
                    let c = connection(n, v6, method);
                    if model.contains_key(&n) { continue; }
                    let at = shard_of(&c);
                    let full = shards[at].len() == shards[at].capacity();
                    match shards[at].insert(&c) {
                        Some(i) => {
                            // Half-open connections all have the same timeout.
                            let half_open = n % 4 == 0;
                            let deadline = now + if half_open { 480 } else { 1 + n % 9000 };
                            shards[at].entry_mut(i).unwrap().deadline = deadline;
                            shards[at].rearm(i, half_open);
                            model.insert(n, (c, deadline, at));
                        }
                        None => prop_assert!(full, "refused although there was room"),
                    }
                }
                Op::Remove(n) => {
                    if let Some((c, _, _)) = model.remove(&n) {
                        let (at, i) = find(&shards, &c, Side::Request).expect("present");
                        shards[at].remove(i);
                    }
                }
                Op::Wait(ticks) => {
                    now += ticks;
                    for shard in &mut shards {
                        let mut budget = u32::MAX;
                        while let Some(i) = shard.next_due(Ticks(now), &mut budget) {
                            prop_assert!(shard.entry(i).unwrap().deadline <= now, "expired early");
                            shard.remove(i);
                        }
                    }
                    // Slots are 250 ms (32 ticks) wide, so an entry may live that much longer.
                    model.retain(|_, (c, deadline, _)| {
                        *deadline > now || find(&shards, c, Side::Request).is_some_and(|_| *deadline + 32 > now)
                    });
                }
            }
        }
        let total: u32 = shards.iter().map(Shard::len).sum();
        prop_assert_eq!(total as usize, model.len());
        for (c, _, at) in model.values() {
            let request = find(&shards, c, Side::Request);
            prop_assert!(request.is_some_and(|(s, _)| s == *at));
            prop_assert_eq!(find(&shards, c, Side::Reply), request);
            let entry = shards[*at].entry(request.unwrap().1).unwrap();
            prop_assert_eq!(entry.client(), c.client);
            prop_assert_eq!(entry.virtual_(), c.virtual_);
            prop_assert_eq!(entry.dest(), c.dest);
        }
        let mut contents: Vec<Vec<u32>> = shards.iter().map(Shard::index_contents).collect();
        for (shard, before) in shards.iter_mut().zip(&mut contents) {
            shard.rebuild();
            prop_assert_eq!(&shard.index_contents(), before);
        }
        for (c, _, _) in model.values() {
            prop_assert!(find(&shards, c, Side::Request).is_some());
        }
    }
}

#[test]
fn a_full_shard_refuses_and_recovers() {
    let layout = Layout::for_connections(128 * 8);
    let mut shards = create(memory(layout), layout, KEY, BOOT, Ticks(0)).unwrap();
    let mut inserted = Vec::new();
    let mut n = 0;
    assert_eq!((layout.entries_per_shard, shards[0].share()), (16, 8));
    while inserted.len() < 16 {
        let c = connection(n, false, ForwardingMethod::Masquerade);
        if shard_of(&c) == 0 {
            inserted.push((c, shards[0].insert(&c).expect("room, spare included")));
        }
        n += 1;
    }
    let extra = (n..)
        .map(|n| connection(n, false, ForwardingMethod::Masquerade))
        .find(|c| shard_of(c) == 0)
        .unwrap();
    assert_eq!(shards[0].insert(&extra), None);
    for (c, i) in &inserted {
        assert_eq!(find(&shards, c, Side::Reply), Some((0, *i)));
    }
    shards[0].remove(inserted[3].1);
    assert!(shards[0].insert(&extra).is_some());
}

#[test]
fn a_region_is_only_taken_over_when_it_is_ours() {
    let layout = Layout::for_connections(1000);
    assert!(
        attach(memory(layout), BOOT, Ticks(0)).is_err(),
        "an empty region has no header"
    );
    let small = Layout::for_connections(128);
    let short = memory(small);
    assert!(create(short, layout, KEY, BOOT, Ticks(0)).is_err());
}

#[test]
fn sizes_are_within_their_limits() {
    let layout = Layout::for_connections(1_000_000);
    let each = layout.bytes() as f64 / f64::from(layout.capacity());
    assert!(each <= 144.0, "{each} bytes a connection");
    assert!(layout.capacity() >= 1_000_000);
    let each = layout.bytes() as f64 / 1e6;
    assert!(
        each <= 152.0,
        "{each} bytes a connection, spare entries included"
    );
}

/// As many connections as were asked for fit, although shards do not fill evenly.
#[test]
fn a_table_takes_what_it_is_for() {
    let layout = Layout::for_connections(20_000);
    let mut shards = create(memory(layout), layout, KEY, BOOT, Ticks(0)).unwrap();
    for n in 0..20_000 {
        let c = connection(n, false, ForwardingMethod::DirectRoute);
        let at = shard_of(&c);
        assert!(
            shards[at].insert(&c).is_some(),
            "connection {n} found no room"
        );
    }
    let fullest = shards.iter().map(Shard::len).max().unwrap();
    assert!(fullest > shards[0].share(), "spare entries were not needed");
}

/// Connections of one client endpoint to one real server by several virtual ones.
#[derive(Clone, Debug)]
enum Sibling {
    Insert(usize),
    Remove(usize),
    Rebuild,
}

proptest! {
    /// Replies belong to the youngest of the connections that share their tuple, whichever of
    /// them ends first and however often the index is rebuilt.
    #[test]
    fn replies_belong_to_the_youngest(ops in proptest::collection::vec(prop_oneof![
        4 => (0..3usize).prop_map(Sibling::Insert),
        3 => (0..3usize).prop_map(Sibling::Remove),
        1 => Just(Sibling::Rebuild),
    ], 1..60)) {
        let layout = Layout::for_connections(128);
        let mut shards = create(memory(layout), layout, KEY, BOOT, Ticks(0)).unwrap();
        let sibling = |n: usize| NewConnection {
            virtual_: Endpoint::new(Addr::v4([10, 0, 0, n as u8]), 80),
            ..connection(1, false, ForwardingMethod::Masquerade)
        };
        let at = shard_of(&sibling(0));
        // By age, the youngest last.
        let mut live: Vec<(usize, u32)> = Vec::new();
        for op in ops {
            match op {
                Sibling::Insert(n) if live.iter().all(|(m, _)| *m != n) => {
                    live.push((n, shards[at].insert(&sibling(n)).unwrap()));
                    shards[at].rearm(live.last().unwrap().1, false);
                }
                Sibling::Remove(n) => {
                    if let Some(k) = live.iter().position(|(m, _)| *m == n) {
                        shards[at].remove(live.remove(k).1);
                    }
                }
                Sibling::Rebuild => {
                    prop_assert_eq!(shards[at].rebuild() as usize, live.len());
                }
                Sibling::Insert(_) => {}
            }
            let found = find(&shards, &sibling(0), Side::Reply).map(|(_, i)| i);
            prop_assert_eq!(found, live.last().map(|(_, i)| *i));
            for (n, i) in &live {
                prop_assert_eq!(find(&shards, &sibling(*n), Side::Request), Some((at, *i)));
            }
        }
        for (_, i) in live {
            shards[at].remove(i);
        }
        prop_assert!(shards[at].index_contents().is_empty());
    }
}

/// Mostly up to a day, where the levels of the wheel meet; sometimes up to 31 days.
fn timeouts() -> impl Strategy<Value = u32> {
    prop_oneof![30 => 1u32..90_000, 1 => 90_000u32..2_678_400]
}

/// A connection whose slot fires a whole round of the first level before its deadline.
#[test]
fn a_deadline_one_round_away_does_not_stop_the_wheel() {
    let layout = Layout::for_connections(128);
    for slots in 250..260u32 {
        let mut shards = create(memory(layout), layout, KEY, BOOT, Ticks(0)).unwrap();
        let c = connection(1, false, ForwardingMethod::Masquerade);
        let shard = &mut shards[shard_of(&c)];
        let i = shard.insert(&c).unwrap();
        shard.entry_mut(i).unwrap().deadline = 320;
        shard.rearm(i, false);
        let deadline = Ticks(320 + slots * 32);
        shard.entry_mut(i).unwrap().deadline = deadline.0;
        let mut budget = 1000;
        assert_eq!(shard.next_due(Ticks(400), &mut budget), None);
        assert!(budget > 900, "{slots} slots: {budget} steps left");
        assert_eq!(shard.next_due(deadline.plus(65), &mut 1000), Some(i));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever the timeout (up to the 31 days of `--set`) and wherever the wheel stands, a
    /// connection expires within a slot of its deadline, and a bounded number of steps finds it.
    #[test]
    fn expires_on_time(start in any::<u32>(), timeout in timeouts(), late in 0u32..400) {
        let layout = Layout::for_connections(128);
        let mut shards = create(memory(layout), layout, KEY, BOOT, Ticks(start)).unwrap();
        let c = connection(1, false, ForwardingMethod::Masquerade);
        let shard = &mut shards[shard_of(&c)];
        let i = shard.insert(&c).unwrap();
        // The wheel may stand anywhere within a slot or some slots later.
        let now = Ticks(start).plus(late);
        prop_assert_eq!(shard.next_due(now, &mut 1000), None);
        let deadline = now.plus(timeout * 128);
        shard.entry_mut(i).unwrap().deadline = deadline.0;
        shard.rearm(i, false);
        let mut budget = 1_000_000;
        prop_assert_eq!(shard.next_due(deadline.plus(u32::MAX - 40), &mut budget), None);
        prop_assert!(budget > 0, "stuck in a list");
        let mut budget = 1_000_000;
        prop_assert_eq!(shard.next_due(deadline.plus(65), &mut budget), Some(i));
    }
}

/// They are kept outside the region: a table that is taken over has none.
#[test]
fn a_template_whose_engine_data_are_lost_is_never_found_again() {
    let layout = Layout::for_connections(1000);
    let mut shards = create(memory(layout), layout, KEY, BOOT, Ticks(0)).unwrap();
    let key = TemplateKey {
        protocol: Protocol::Udp.number(),
        client: Addr::v4([10, 0, 1, 2]),
        virtual_: Endpoint::new(Addr::v4([10, 0, 0, 100]), 5060),
        keeps_port: true,
        tag: 7,
    };
    let hash = key.hash(&KEY);
    let at = usize::from(hash.shard);
    let new = NewTemplate {
        protocol: key.protocol,
        client: key.client,
        tag: key.tag,
        virtual_: key.virtual_,
        dest: Endpoint::new(Addr::v4([10, 0, 2, 11]), 5060),
        dest_id: DestId(1),
        method: ForwardingMethod::Masquerade,
        fwmark: 0,
    };
    let i = shards[at].insert_template(&new).unwrap();
    shards[at].entry_mut(i).unwrap().extension = 3;
    let found = |shards: &[Shard]| key.find(&shards[at], hash, |_| true);
    assert_eq!(found(&shards), Some(i));
    forget_data(&mut shards);
    assert_eq!(found(&shards), None);
    let entry = shards[at].entry(i).unwrap();
    assert!(entry.is_valid() && entry.engine_data().is_none());
}
