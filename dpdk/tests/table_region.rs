//! The connection table in a file that outlives its process: the next one finds every connection,
//! and refuses or drops what it cannot trust.
//!
//! A process of its own fills the table and is killed; this one makes the same table in plain
//! memory and compares.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dataplane::addr::{Addr, Endpoint};
use dataplane::conn::region::{Attached, RegionError, VERSION, attach, bind, create};
use dataplane::conn::{Entry, HashKey, Layout, NewConnection, SHARDS, Shard, Side};
use dataplane::forward::nat;
use dataplane::service::{DestId, ForwardingMethod, Protocol};
use dataplane::time::{TICKS_PER_SECOND, Ticks};
use dpdk::region::{Backing, Region};

const FILE: &str = "RVS_TEST_TABLE";
const KEY: HashKey = HashKey([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
]);
const BOOT: [u8; 16] = *b"one boot id only";
/// When the table is made.
const START: Ticks = Ticks(1_000_000);
/// When its successor takes over, ten seconds later.
const LATER: Ticks = Ticks(START.0 + 10 * TICKS_PER_SECOND);
/// Connections put in; one in five ends again.
const CONNECTIONS: u32 = 3000;
/// Bytes of the header; the shards follow.
const HEADER: usize = 4096;

fn layout() -> Layout {
    Layout::for_connections(6000)
}

/// Connection number `n`: TCP and UDP, both families, all methods.
fn connection(n: u32) -> NewConnection {
    let addr = |net: u8, host: u32| {
        if n.is_multiple_of(2) {
            return Addr::v4([10, net, (host >> 8) as u8, host as u8]);
        }
        let mut b = [0; 16];
        (b[0], b[1]) = (0xfd, net);
        b[12..].copy_from_slice(&host.to_be_bytes());
        Addr::v6(b)
    };
    let methods = [
        ForwardingMethod::Masquerade,
        ForwardingMethod::DirectRoute,
        ForwardingMethod::Tunnel,
    ];
    NewConnection {
        protocol: if n.is_multiple_of(5) {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        client: Endpoint::new(addr(1, n % 700), 1000 + (n / 700) as u16),
        virtual_: Endpoint::new(addr(0, n % 2), 80),
        dest: Endpoint::new(addr(2, n % 7), 8080),
        dest_id: DestId(n % 7),
        method: methods[n as usize / 2 % 3],
        flags: 0,
    }
}

/// Every sixth connection is half open.
fn is_half_open(n: u32) -> bool {
    n.is_multiple_of(6)
}

/// Seconds after `START` at which a connection is due.
fn due(n: u32) -> u32 {
    if is_half_open(n) {
        // All have the same timeout; here they come 20 a second.
        60 + n / 20
    } else {
        20 + n % 800
    }
}

/// Connections that are there in the end.
fn living() -> impl Iterator<Item = u32> {
    (0..CONNECTIONS).filter(|n| !n.is_multiple_of(5))
}

fn shard_of(c: &NewConnection) -> usize {
    let (a, b) = (c.client, c.virtual_);
    let hash = KEY.hash(c.protocol.number(), &a.addr, a.port, &b.addr, b.port);
    hash.shard as usize
}

/// Where a connection is found from one side.
fn find(shards: &[Shard], c: &NewConnection, side: Side) -> Option<u32> {
    let other = match (side, c.method) {
        (Side::Reply, ForwardingMethod::Masquerade) => c.dest,
        _ => c.virtual_,
    };
    let (client, protocol) = (c.client, c.protocol.number());
    let hash = KEY.hash(protocol, &client.addr, client.port, &other.addr, other.port);
    shards[hash.shard as usize].lookup(hash, side, protocol, &client, &other)
}

/// A table with its connections, in the order of their numbers.
fn fill(memory: &'static mut [u8]) -> Vec<Shard> {
    let mut shards = create(memory, layout(), KEY, BOOT, START).unwrap();
    let mut ended = Vec::new();
    for n in 0..CONNECTIONS {
        let c = connection(n);
        let at = shard_of(&c);
        let i = shards[at].insert(&c).expect("there is room");
        let entry = shards[at].entry_mut(i).unwrap();
        entry.deadline = START.plus(due(n) * TICKS_PER_SECOND).0;
        entry.timeout = due(n) * TICKS_PER_SECOND;
        (entry.route_generation, entry.reply_hop) = (7, 3);
        if c.method == ForwardingMethod::Masquerade {
            (entry.delta_l3, entry.delta_l4) = nat::deltas(&c.virtual_, &c.dest);
        }
        shards[at].rearm(i, is_half_open(n));
        if n.is_multiple_of(5) {
            ended.push((at, i));
        }
    }
    for (at, i) in ended {
        shards[at].remove(i);
    }
    shards
}

/// Run by the tests below in a process of its own: fills the table, and dies.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let region = Region::map(&Backing::File(path.into()), layout().bytes(), false).unwrap();
    assert!(region.is_new());
    fill(region.into_bytes());
    std::process::abort();
}

/// A folder in memory with what a killed process left.
struct Left(tempfile::TempDir);

impl Left {
    fn behind() -> Left {
        let left = Left(tempfile::tempdir_in("/dev/shm").unwrap());
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer"])
            .env(FILE, left.file())
            .output()
            .unwrap()
            .status;
        assert!(!status.success(), "it aborts");
        left
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("table")
    }

    /// Writes into the file what a crash or another version could have.
    fn tamper(&self, at: usize, bytes: &[u8]) {
        let file = std::fs::OpenOptions::new().write(true).open(self.file());
        file.unwrap().write_all_at(bytes, at as u64).unwrap();
    }

    /// The successor's table.
    fn attach(&self) -> Result<Attached, RegionError> {
        attach(map(&self.file()), BOOT, LATER)
    }
}

fn map(file: &Path) -> &'static mut [u8] {
    let region = Region::map(&Backing::File(file.to_owned()), layout().bytes(), false).unwrap();
    assert!(!region.is_new());
    region.into_bytes()
}

fn in_plain_memory() -> Vec<Shard> {
    let region = Region::map(&Backing::Anonymous, layout().bytes(), false).unwrap();
    fill(region.into_bytes())
}

/// Where an entry lies in the file: at the end of each shard.
fn offset_of(shard: usize, entry: u32) -> usize {
    let shard_bytes = (layout().bytes() - HEADER) / SHARDS;
    let from_end = (layout().entries_per_shard - entry) as usize * size_of::<Entry>();
    HEADER + (shard + 1) * shard_bytes - from_end
}

#[test]
fn every_connection_is_found_again() {
    let left = Left::behind();
    let mut before = in_plain_memory();
    let found = left.attach().unwrap();
    assert_eq!((found.layout, found.key, found.torn), (layout(), KEY, 0));
    let mut shards = found.shards;

    for (number, (old, new)) in before.iter().zip(&shards).enumerate() {
        assert_eq!(old.index_contents(), new.index_contents(), "shard {number}");
        assert_eq!(old.len(), new.len());
    }
    let total: u32 = shards.iter().map(Shard::len).sum();
    assert_eq!(total as usize, living().count());
    for n in 0..CONNECTIONS {
        let c = connection(n);
        for side in [Side::Request, Side::Reply] {
            let found = find(&shards, &c, side);
            assert_eq!(found.is_some(), !n.is_multiple_of(5), "{c:?} {side:?}");
            assert_eq!(found, find(&before, &c, side));
        }
    }
    for n in living() {
        let c = connection(n);
        let i = find(&shards, &c, Side::Request).unwrap();
        let entry = shards[shard_of(&c)].entry(i).unwrap();
        let identity = entry.identity().unwrap();
        assert_eq!((identity.client, identity.virtual_), (c.client, c.virtual_));
        assert_eq!((identity.dest, identity.dest_id), (c.dest, c.dest_id));
        assert_eq!(identity.method, c.method);
        // The next hop of replies was the old process's.
        assert_eq!(entry.route_generation, 0);
    }

    for (old, new) in before.iter().zip(&shards) {
        assert_eq!(old.oldest_half_open(), new.oldest_half_open());
    }

    // The free list is whole: as many more fit as did before.
    for (number, (old, new)) in before.iter_mut().zip(&mut shards).enumerate() {
        let mut extra = (CONNECTIONS..)
            .map(connection)
            .filter(|c| shard_of(c) == number);
        loop {
            let c = extra.next().unwrap();
            let (a, b) = (old.insert(&c), new.insert(&c));
            assert_eq!(a.is_some(), b.is_some(), "shard {number}");
            if a.is_none() {
                break;
            }
        }
        assert_eq!(new.len(), old.len());
    }
}

/// Timers are rebuilt, too: each connection expires within a second of its deadline.
#[test]
fn every_connection_expires_in_time() {
    let left = Left::behind();
    let mut shards = left.attach().unwrap().shards;
    let mut waiting: std::collections::BTreeMap<_, _> = living()
        .map(|n| {
            let c = connection(n);
            let at = shard_of(&c);
            ((at, find(&shards, &c, Side::Request).unwrap()), due(n))
        })
        .collect();
    let mut now = LATER;
    while !waiting.is_empty() {
        for (at, shard) in shards.iter_mut().enumerate() {
            let mut budget = u32::MAX;
            while let Some(i) = shard.next_due(now, &mut budget) {
                let due = waiting.remove(&(at, i)).expect("it lives");
                let late = now.since(START.plus(due * TICKS_PER_SECOND));
                assert!((0..=TICKS_PER_SECOND as i32).contains(&late), "{late}");
                shard.remove(i);
            }
        }
        now = now.plus(TICKS_PER_SECOND / 4);
        assert!(now.since(START) < 2000 * TICKS_PER_SECOND as i32);
    }
    assert!(shards.iter().all(Shard::is_empty));
}

/// What was just being made, ended or overwritten when the process died is dropped; the rest lives.
#[test]
fn torn_entries_are_dropped() {
    let left = Left::behind();
    let plain = in_plain_memory();
    let torn: Vec<u32> = living().step_by(40).collect();
    let mut dead = 0;
    for (k, &n) in torn.iter().enumerate() {
        let c = connection(n);
        let at = offset_of(shard_of(&c), find(&plain, &c, Side::Request).unwrap());
        match k % 10 {
            // The valid word is stored last and cleared first.
            0 => left.tamper(at, &[0; 4]),
            // Half of the word.
            1 => left.tamper(at, &[0; 2]),
            // A protocol that is none; byte 24, after the ports and the MTU of replies.
            2 => left.tamper(at + 24, &[99]),
            // A method that is none, and a state.
            3 => left.tamper(at + 25, &[77]),
            4 => left.tamper(at + 28, &[200]),
            // A bit of the client's address, the virtual one and the real one.
            5 => left.tamper(at + 7, &[0xaa]),
            6 => left.tamper(at + 11, &[0xaa]),
            7 => left.tamper(at + 15, &[0xaa]),
            // Published, but without a deadline yet.
            8 => left.tamper(at + 32, &[0; 12]),
            // A deadline in two years.
            _ => left.tamper(at + 32, &LATER.plus(1 << 30).0.to_ne_bytes()),
        }
        dead += u32::from(k % 10 < 2);
    }
    let found = left.attach().unwrap();
    assert_eq!(found.torn, torn.len() as u32 - dead);
    let shards = found.shards;
    for n in living() {
        let c = connection(n);
        for side in [Side::Request, Side::Reply] {
            let is_found = find(&shards, &c, side).is_some();
            assert_eq!(is_found, !torn.contains(&n), "{n} {side:?}");
        }
    }
    let total: u32 = shards.iter().map(Shard::len).sum();
    assert_eq!(total as usize, living().count() - torn.len());
}

/// Bytes changed anywhere, few or many: the file is refused, or what is left of it behaves as a table: each entry is found
/// or not, all expire, and there is room again.
#[test]
fn damage_at_random_does_no_harm() {
    let left = Left::behind();
    let whole = std::fs::read(left.file()).unwrap();
    // SplitMix64.
    let mut seed = 6_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    };
    let (mut refused, mut torn) = (0, 0);
    for round in 0..32 {
        // Every fourth time the header may be hit, too.
        let from = if round % 4 == 0 { 0 } else { HEADER };
        let places = [1, 100, 10_000, 1_000_000][round / 4 % 4];
        let mut bytes = whole.clone();
        for _ in 0..places {
            let at = from + random(bytes.len() - from);
            bytes[at] = random(256) as u8;
        }
        if from == 0 {
            bytes[random(100)] ^= 1 << random(8);
        }
        let region = Region::map(&Backing::Anonymous, bytes.len(), false).unwrap();
        // It is rounded up to whole pages.
        let memory = &mut region.into_bytes()[..bytes.len()];
        memory.copy_from_slice(&bytes);
        let Ok(found) = attach(memory, BOOT, LATER) else {
            assert_eq!(from, 0, "round {round}: damaged entries refuse no table");
            refused += 1;
            continue;
        };
        torn += found.torn;
        let mut shards = found.shards;
        let total: u32 = shards.iter().map(Shard::len).sum();
        assert!(total as usize <= living().count() + places, "round {round}");
        for n in 0..CONNECTIONS {
            let c = connection(n);
            for side in [Side::Request, Side::Reply] {
                find(&shards, &c, side);
            }
        }
        let mut now = LATER;
        while shards.iter().any(|shard| !shard.is_empty()) {
            for shard in &mut shards {
                let mut budget = u32::MAX;
                while let Some(i) = shard.next_due(now, &mut budget) {
                    shard.remove(i);
                }
            }
            now = now.plus(10_000 * TICKS_PER_SECOND);
            let late = now.since(LATER) / TICKS_PER_SECOND as i32;
            assert!(late < 100 * 86_400, "round {round}: one never ends");
        }
        for n in 0..CONNECTIONS {
            let c = connection(n);
            assert!(shards[shard_of(&c)].insert(&c).is_some(), "round {round}");
        }
    }
    assert!(refused > 0 && torn > 1000, "{refused} refused, {torn} torn");
}

/// A NAT connection's ports are in its deltas, too.
#[test]
fn a_changed_port_is_noticed_in_nat() {
    let left = Left::behind();
    let plain = in_plain_memory();
    let mut changed = 0;
    for n in living().step_by(7) {
        let c = connection(n);
        if c.method == ForwardingMethod::Masquerade {
            let at = offset_of(shard_of(&c), find(&plain, &c, Side::Request).unwrap());
            left.tamper(at + 20, &[1, 2]);
            changed += 1;
        }
    }
    assert_eq!(left.attach().unwrap().torn, changed);
    assert!(changed > 50);
}

/// Real servers get the numbers that they have now; connections of one that has none end.
#[test]
fn connections_are_bound_anew() {
    let left = Left::behind();
    let mut shards = left.attach().unwrap().shards;
    let dropped = bind(&mut shards, |entry| {
        let id = entry.dest_id().0;
        (id != 3).then_some(DestId(100 + id))
    });
    let of = |n: u32| n % 7;
    assert_eq!(dropped as usize, living().filter(|n| of(*n) == 3).count());
    for n in living() {
        let c = connection(n);
        let found = find(&shards, &c, Side::Request);
        let id = found.map(|i| shards[shard_of(&c)].entry(i).unwrap().dest_id());
        let want = (of(n) != 3).then_some(DestId(100 + of(n)));
        assert_eq!(id, want);
    }
}

/// How long a million connections take. `cargo test --release` shows a figure worth having.
#[test]
fn a_million_connections_are_taken_over_in_seconds() {
    let layout = Layout::for_connections(1_000_000);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let backing = Backing::File(dir.path().join("table"));
    let region = Region::map(&backing, layout.bytes(), true).unwrap();
    // The second mapping stands for the next process; nobody uses the first any more.
    let copy = dir.path().join("copy");
    let mut shards = create(region.into_bytes(), layout, KEY, BOOT, START).unwrap();
    for n in 0..1_000_000 {
        let client = Addr::v4([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
        let c = NewConnection {
            client: Endpoint::new(client, 1000),
            ..connection(0)
        };
        let at = shard_of(&c);
        let i = shards[at].insert(&c).expect("there is room");
        let entry = shards[at].entry_mut(i).unwrap();
        (entry.delta_l3, entry.delta_l4) = nat::deltas(&c.virtual_, &c.dest);
        entry.timeout = 900 * TICKS_PER_SECOND;
        entry.deadline = START.plus(entry.timeout).0;
        shards[at].rearm(i, false);
    }
    std::fs::copy(dir.path().join("table"), &copy).unwrap();
    let began = std::time::Instant::now();
    let memory = Region::map(&Backing::File(copy), layout.bytes(), true).unwrap();
    let mapped = began.elapsed();
    let found = attach(memory.into_bytes(), BOOT, LATER).unwrap();
    let took = began.elapsed();
    println!("mapped in {mapped:?}, taken over in {took:?}");
    let total: u32 = found.shards.iter().map(Shard::len).sum();
    assert_eq!((total, found.torn), (1_000_000, 0));
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
}

/// A region of another version, other sizes or another boot is refused and left as it is.
#[test]
fn strangers_are_refused() {
    let newer = (VERSION + 1).to_ne_bytes();
    let foreign = RegionError::Foreign;
    let cases: [(&str, usize, &[u8], RegionError); 10] = [
        ("magic", 0, b"rvstable", foreign),
        ("version", 8, &newer, foreign),
        ("size of an entry", 12, &[64, 0], foreign),
        ("size of a bucket", 16, &[32, 0], foreign),
        ("shards", 20, &[64, 0], foreign),
        ("no entries", 28, &[0; 4], foreign),
        ("layout of an entry", 36, &[0; 4], foreign),
        ("connections", 24, &[1], RegionError::Damaged),
        ("key", 45, &[1, 2], RegionError::Damaged),
        ("boot", 72, b"another boot idd", RegionError::OtherBoot),
    ];
    for (what, at, bytes, why) in cases {
        let left = Left::behind();
        left.tamper(at, bytes);
        let before = std::fs::read(left.file()).unwrap();
        let refused = left.attach().map(|_| ()).unwrap_err();
        assert_eq!(refused, why, "{what}");
        let after = std::fs::read(left.file()).unwrap();
        assert!(before == after, "{what}: the file was changed");
    }
    // The file is shorter than its header says.
    let left = Left::behind();
    let memory = map(&left.file());
    let (short, _) = memory.split_at_mut(layout().bytes() - 4096);
    let refused = attach(short, BOOT, LATER).map(|_| ()).unwrap_err();
    assert!(matches!(refused, RegionError::Size { .. }), "{refused}");
}
