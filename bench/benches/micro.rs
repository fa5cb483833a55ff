//! `make bench-micro`: the pieces of the packet walk by themselves, with criterion.
//!
//! What a piece costs with its data at hand; `make bench` measures what they cost together. A
//! thousand connections fit into the caches, a million do not.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion};
use dataplane::addr::{Addr, Endpoint};
use dataplane::changes::Changes;
use dataplane::conn::region::create;
use dataplane::conn::{HashKey, Layout, NewConnection, Shard, Side};
use dataplane::counters::WorkerCounters;
use dataplane::dests;
use dataplane::flow::{Flow, Plain};
use dataplane::schedule::{self, Loads, Request, Seat};
use dataplane::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};
use dataplane::settings::Settings;
use dataplane::time::{Instant, Ticks};
use dataplane::wire::checksum;

const KEY: HashKey = HashKey([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
]);

/// An Ethernet frame with an IPv4 TCP segment of a client with this number, 60 bytes.
fn frame(client: u32) -> [u8; 60] {
    let mut f = [0; 60];
    f[12..14].copy_from_slice(&[8, 0]);
    f[14..18].copy_from_slice(&[0x45, 0, 0, 46]);
    f[22..24].copy_from_slice(&[64, 6]);
    f[26..30].copy_from_slice(&(0x0a00_0000 | client & 0xffff).to_be_bytes());
    f[30..34].copy_from_slice(&[203, 0, 113, 1]);
    f[34..36].copy_from_slice(&(1024 + (client >> 16) as u16).to_be_bytes());
    f[36..38].copy_from_slice(&80u16.to_be_bytes());
    f[46..48].copy_from_slice(&[0x50, 0x10]);
    let sum = checksum::of(&f[14..34]);
    f[24..26].copy_from_slice(&sum.to_be_bytes());
    f
}

/// A longer frame over IPv6.
fn frame_v6() -> [u8; 78] {
    let mut f = [0; 78];
    f[12..14].copy_from_slice(&[0x86, 0xdd]);
    f[14] = 0x60;
    f[18..22].copy_from_slice(&[0, 24, 6, 64]);
    f[22] = 0xfd;
    f[38] = 0xfd;
    f[39] = 1;
    f[54..58].copy_from_slice(&[4, 0, 0, 80]);
    f[66..68].copy_from_slice(&[0x50, 0x10]);
    f
}

fn parser(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let v4 = frame(7);
    group.bench_function("plain-ipv4", |b| {
        b.iter(|| Plain::read::<false>(black_box(v4.first_chunk().unwrap_or(&[0; _])), 60, 60));
    });
    group.bench_function("flow-ipv4", |b| {
        let mut flow = Flow::EMPTY;
        b.iter(|| flow.read(black_box(&v4), 0, 60));
    });
    let v6 = frame_v6();
    group.bench_function("flow-ipv6", |b| {
        let mut flow = Flow::EMPTY;
        b.iter(|| flow.read(black_box(&v6), 0, 78));
    });
    group.finish();
}

fn connection(n: u32) -> NewConnection {
    NewConnection {
        protocol: Protocol::Tcp,
        client: Endpoint::new(
            Addr::v4((0x0a00_0000 | n & 0xffff).to_be_bytes()),
            1024 + (n >> 16) as u16,
        ),
        virtual_: Endpoint::new(Addr::v4([203, 0, 113, 1]), 80),
        dest: Endpoint::new(Addr::v4([192, 168, 1, 1]), 8080),
        dest_id: DestId(0),
        method: ForwardingMethod::Masquerade,
        flags: 0,
    }
}

/// A table with so many connections in it, and room for a tenth more.
fn table(connections: u32) -> Vec<Shard> {
    let layout = Layout::for_connections(connections + connections / 10 + 1024);
    let bytes = vec![0u8; layout.bytes() + 64].leak();
    let skip = bytes.as_ptr().align_offset(64);
    let memory = &mut bytes[skip..skip + layout.bytes()];
    let mut shards = create(memory, layout, KEY, [1; 16], Ticks(0)).expect("the region is new");
    for n in 0..connections {
        let new = connection(n);
        let at = usize::from(hash(&new).shard);
        assert!(shards[at].insert(&new).is_some(), "room for {connections}");
    }
    shards
}

fn hash(c: &NewConnection) -> dataplane::conn::KeyHash {
    let (client, other) = (&c.client, &c.virtual_);
    KEY.hash(6, &client.addr, client.port, &other.addr, other.port)
}

/// Numbers in an order that no prefetcher guesses.
fn scattered(i: &mut u32, below: u32) -> u32 {
    *i = i.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    ((u64::from(*i) * u64::from(below)) >> 32) as u32
}

fn find(shards: &[Shard], c: &NewConnection) -> Option<u32> {
    let hash = hash(c);
    let shard = &shards[usize::from(hash.shard)];
    shard.lookup(hash, Side::Request, 6, &c.client, &c.virtual_)
}

fn connections(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    for n in [1_000, 100_000, 1_000_000] {
        let mut shards = table(n);
        let mut i = 1;
        group.bench_function(BenchmarkId::new("hit", n), |b| {
            b.iter(|| find(&shards, &connection(scattered(&mut i, n))));
        });
        group.bench_function(BenchmarkId::new("miss", n), |b| {
            b.iter(|| find(&shards, &connection(0x4000_0000 | scattered(&mut i, n))));
        });
        group.bench_function(BenchmarkId::new("insert-remove", n), |b| {
            b.iter(|| {
                let new = connection(0x4000_0000 | scattered(&mut i, n));
                let shard = &mut shards[usize::from(hash(&new).shard)];
                let at = shard.insert(&new).expect("there is room");
                shard.remove(at);
            });
        });
        // The life of a connection in the timing wheel: armed, due at once, ended.
        let mut now = Ticks(1);
        group.bench_function(BenchmarkId::new("insert-expire", n), |b| {
            b.iter(|| {
                let new = connection(0x4000_0000 | scattered(&mut i, n));
                let shard = &mut shards[usize::from(hash(&new).shard)];
                let at = shard.insert(&new).expect("there is room");
                shard.entry_mut(at).expect("it is there").deadline = now.0;
                shard.rearm(at, false);
                now = now.plus(1);
                let mut budget = 64;
                while let Some(due) = shard.next_due(now, &mut budget) {
                    shard.remove(due);
                }
            });
        });
    }
    group.finish();
}

fn service(scheduler: &'static str, servers: u32) -> VirtualService {
    // ovf takes no more active connections than the weight.
    let weight_of = |n: u32| {
        if scheduler == "ovf" {
            65_535
        } else {
            1 + n % 4
        }
    };
    let dest = |n: u32| Destination {
        id: DestId(n),
        endpoint: Endpoint::new(Addr::v4([192, 168, (n >> 8) as u8, n as u8]), 8080),
        method: ForwardingMethod::Masquerade,
        weight: weight_of(n),
        last_weight: weight_of(n),
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    };
    VirtualService {
        id: ServiceId(0),
        key: ServiceKey::new(Protocol::Tcp, Endpoint::new(Addr::v4([203, 0, 113, 1]), 80)),
        scheduler,
        options: ServiceOptions::default(),
        destinations: (0..servers).map(dest).collect(),
        withdrawn: Vec::new(),
    }
}

/// Connections that the schedulers' services have at a time.
const LIVE: usize = 1024;

/// A choice, the count of the connection that comes of it, and the end of an older one.
fn schedulers(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    let settings = Settings::default();
    for name in schedule::names().filter(|name| *name != "none") {
        for servers in [3, 100, 1000] {
            let service = service(name, servers);
            let counters = WorkerCounters::new(servers as usize);
            let changes = Changes::new(1, servers as usize);
            let loads = Loads::new(&counters, &changes, service.id);
            let mut scheduler =
                schedule::new(&service, Seat::alone(7)).expect("it is in the table");
            changes.begin(&service, scheduler.watch());
            scheduler.start(&service, loads, None);
            let mut flow = Flow::EMPTY;
            let mut i = 1;
            let mut live = VecDeque::with_capacity(LIVE);
            group.bench_function(BenchmarkId::new(name, servers), |b| {
                b.iter(|| {
                    flow.read(&frame(scattered(&mut i, 1 << 20)), 0, 60);
                    let request = Request {
                        service: &service,
                        loads,
                        flow: &flow,
                        is_quoted: false,
                        now: Instant::from_secs(1),
                        settings: &settings,
                    };
                    let picked = scheduler.pick(&request);
                    if let Some(dest) = picked.and_then(|at| service.destinations.get(at)) {
                        dests::bind(&[], &counters, &changes, dest.id, true);
                        live.push_back(dest.id);
                    }
                    if live.len() >= LIVE
                        && let Some(oldest) = live.pop_front()
                    {
                        dests::unbind(&[], &counters, &changes, oldest, false);
                    }
                    picked
                });
            });
        }
    }
    group.finish();
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    let bytes: Vec<u8> = (0..1500u32).map(|n| n as u8).collect();
    for len in [20, 64, 1500] {
        group.bench_with_input(BenchmarkId::new("full", len), &bytes[..len], |b, bytes| {
            b.iter(|| checksum::of(black_box(bytes)));
        });
    }
    let (old, new) = ([10, 0, 0, 1], [192, 168, 1, 1]);
    group.bench_function("delta", |b| {
        b.iter(|| checksum::delta(black_box(&old), black_box(&new)));
    });
    group.bench_function("ipv4-header", |b| {
        let header: [u8; 20] = std::array::from_fn(|i| i as u8);
        b.iter_batched(
            || header,
            |header| checksum::fold(checksum::sum_ipv4_header(black_box(&header))),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    for group in [parser, connections, schedulers, checksums] {
        group(&mut criterion);
    }
    criterion.final_summary();
}
