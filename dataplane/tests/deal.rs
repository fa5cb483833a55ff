//! A table that was left by a team, taken over by another one: other workers, or NICs that steer.

use std::sync::Arc;

use dataplane::conn::{Entry, Layout, Shard, image, region};
use dataplane::packet::Verdict;
use dataplane::service::{DestId, ServiceKey, VirtualService};
use dataplane::time::Ticks;
use dataplane::toeplitz::Toeplitz;
use dataplane::worker::{Dealt, Places, Share, deal};
use support::notation::{build, to_hex};
use support::rig::{BOOT, KEY, Rig, START};
use support::team;

mod support;

const RULES: [&str; 17] = [
    "-A -t 203.0.113.1:80 -s rr",
    "-a -t 203.0.113.1:80 -r 192.168.50.11:8080 -m",
    "-a -t 203.0.113.1:80 -r 192.168.50.12:8080 -m",
    // One more way to the same server: replies belong to the newest.
    "-A -t 203.0.113.2:80 -s rr",
    "-a -t 203.0.113.2:80 -r 192.168.50.11:8080 -m",
    "-A -u 203.0.113.1:53 -s sh -p 600 -M 255.255.255.0",
    "-a -u 203.0.113.1:53 -r 192.168.50.13:53 -m",
    "-a -u 203.0.113.1:53 -r 192.168.50.14:53 -m",
    "-A -t 203.0.113.3:80 -s rr",
    "-a -t 203.0.113.3:80 -r 192.168.50.15:80 -g",
    "-A -t 203.0.113.4:21 -s rr",
    "-a -t 203.0.113.4:21 -r 192.168.50.16:21 -m",
    "-A -t [fd60::1]:80 -s rr -p 600 -M 64",
    "-a -t [fd60::1]:80 -r [fd50::11]:8080 -m",
    "-a -t [fd60::1]:80 -r [fd50::12]:8080 -m",
    "-A -f 1 -s rr",
    "-a -f 1 -r 192.168.50.17:0 -m",
];

const MARK: &str = "ip daddr 203.0.113.64/27 meta mark set 1";

/// Workers with the parts of one table.
struct Team {
    workers: Vec<Rig>,
}

/// How many workers, and the NICs' keys if they steer.
type How = (usize, Option<u64>);

impl Team {
    fn new((workers, nics): How, shards: Vec<Shard>) -> Team {
        let nics = nics.map(|key| Arc::new(Toeplitz::new([key, !key])));
        let mut shards: Vec<Option<Shard>> = shards.into_iter().map(Some).collect();
        let rig = |n| {
            let share = Share::of(n, workers);
            let is_own = |(shard, _): &(u8, _)| share.elsewhere(*shard).is_none();
            let own = (0..).zip(&mut shards).filter(is_own);
            let own = own.filter_map(|(_, shard)| shard.take()).collect();
            let mut rig = Rig::with_shards(share, own);
            if let Some(keys) = &nics {
                rig.worker.steer_by_nics(Arc::clone(keys));
            }
            RULES.iter().for_each(|rule| rig.ipvsadm(rule));
            rig.nft(MARK);
            // Nothing is where other rules had it: nobody is asked twice.
            rig.settle();
            rig
        };
        let workers = (0..workers).map(rig).collect();
        Team { workers }
    }

    /// What becomes of a frame that comes to worker `at`.
    fn inject(&mut self, at: usize, port: u16, text: &str) -> (Verdict, Vec<u8>) {
        let frame = build(&format!(
            "eth 02:00:00:00:09:09 > 52:54:00:00:00:0{} | {text}",
            port + 1
        ));
        let at = at % self.workers.len();
        let by_wire = |rig: &mut Rig, attempt| rig.inject_attempt(port, &frame, attempt);
        team::pass(&mut self.workers, at, &frame, by_wire).0
    }

    fn send(&mut self, n: usize, port: u16, text: &str) -> Vec<u8> {
        let (verdict, frame) = self.inject(n, port, text);
        assert!(
            matches!(verdict, Verdict::Transmit(_)),
            "{text}: {verdict:?}"
        );
        frame
    }

    /// Everybody's connections and templates, without their times.
    fn connections(&mut self) -> Vec<String> {
        let all = self.workers.iter_mut().flat_map(Rig::connections);
        let mut all: Vec<String> = all
            .map(|c| format!("{} {} {} {}", c.client, c.virtual_, c.dest, c.is_template))
            .collect();
        all.sort();
        all
    }

    fn controlled(&self) -> u32 {
        let mut sum = 0;
        for rig in &self.workers {
            rig.worker.for_each_connection(|e| sum += e.controls());
        }
        sum
    }
}

/// What clients and servers say once connections are open: by which port, and the packet.
fn talk() -> Vec<(u16, String)> {
    let mut said = Vec::new();
    for n in 0..12 {
        let c = format!("10.1.{}.{n}", n % 3);
        let p = 2000 + n;
        for text in [
            format!("ip {c} > 203.0.113.1 | tcp {p} > 80 ack ack 9 | bytes 3"),
            format!("ip {c} > 203.0.113.1 | udp {p} > 53 | bytes 3"),
            format!("ip {c} > 203.0.113.2 | tcp {p} > 80 ack ack 9 | bytes 3"),
            format!("ip {c} > 203.0.113.3 | tcp {p} > 80 ack ack 9"),
            format!("ip {c} > 203.0.113.4 | tcp {p} > 21 ack ack 9"),
            format!("ip {c} > 203.0.113.70 | tcp {p} > 99 ack ack 9"),
            format!("ip6 fd70::{n:x} > fd60::1 | tcp {p} > 80 ack ack 9"),
        ] {
            said.push((0, text));
        }
        said.push((
            1,
            format!("ip 192.168.50.11 > {c} | tcp 8080 > {p} ack ack 5 | bytes 4"),
        ));
        said.push((
            1,
            format!("ip 192.168.50.17 > {c} | tcp 99 > {p} ack ack 5 | bytes 4"),
        ));
    }
    said
}

/// Opens the connections of [`talk`], and waits for FTP data.
fn open(team: &mut Team) {
    for n in 0..12 {
        let c = format!("10.1.{}.{n}", n % 3);
        let p = 2000 + n;
        for text in [
            format!("ip {c} > 203.0.113.1 | tcp {p} > 80 syn"),
            format!("ip {c} > 203.0.113.1 | udp {p} > 53 | bytes 3"),
            format!("ip {c} > 203.0.113.2 | tcp {p} > 80 syn"),
            format!("ip {c} > 203.0.113.3 | tcp {p} > 80 syn"),
            format!("ip {c} > 203.0.113.4 | tcp {p} > 21 syn seq 9"),
            format!("ip {c} > 203.0.113.70 | tcp {p} > 99 syn"),
            format!("ip6 fd70::{n:x} > fd60::1 | tcp {p} > 80 syn"),
        ] {
            team.send(n, 0, &text);
        }
        let server = format!("ip 192.168.50.16 > {c} | tcp 21 > {p}");
        team.send(n, 1, &format!("{server} syn ack 10 seq 9"));
        let client = format!("ip {c} > 203.0.113.4 | tcp {p} > 21");
        team.send(n, 0, &format!("{client} ack 10 seq 10"));
        let data = to_hex(b"PASV\r\n");
        team.send(n, 0, &format!("{client} psh ack 10 seq 10 | data {data}"));
        let data = to_hex(format!("227 Passive (192,168,50,16,30,{n})\r\n").as_bytes());
        team.send(n, 1, &format!("{server} psh ack 16 seq 10 | data {data}"));
    }
}

/// How a table comes to the next team.
#[derive(Clone, Copy)]
enum Way {
    /// As it lies.
    Region,
    /// Entry by entry, to a table of other sizes.
    Records,
}

fn memory_for(layout: Layout) -> &'static mut [u8] {
    let bytes: &'static mut [u8] = vec![0u8; layout.bytes() + 64].leak();
    let skip = bytes.as_ptr().align_offset(64);
    &mut bytes[skip..skip + layout.bytes()]
}

/// The real server of an entry by these rules: of its mark's service, or of that at its virtual
/// address; by its address alone where a helper chose the port.
fn server_of(services: &[VirtualService], entry: &Entry) -> Option<DestId> {
    let (at, server) = (entry.virtual_().addr, entry.dest());
    let mut of_service = services
        .iter()
        .filter(|service| match service.key {
            ServiceKey::Mark { mark, .. } => mark == entry.fwmark,
            ServiceKey::Endpoint { endpoint, .. } => endpoint.addr == at && entry.fwmark == 0,
        })
        .flat_map(|service| &service.destinations);
    let by_address = of_service.clone().find(|d| d.endpoint.addr == server.addr);
    let by_endpoint = of_service.find(|d| d.endpoint == server);
    by_endpoint.or(by_address).map(|d| d.id)
}

/// Takes the table of one team over by another, whose workers find all that there was.
fn taken_over(before: How, after: How) -> Dealt {
    taken_over_by(Way::Region, before, after)
}

fn taken_over_by(way: Way, before: How, after: How) -> Dealt {
    let layout = Layout::for_connections(4096);
    let memory = memory_for(layout);
    let address = memory.as_mut_ptr();
    let shards = region::create(memory, layout, KEY, BOOT, START.ticks()).unwrap();
    let mut team = Team::new(before, shards);
    open(&mut team);
    let said = talk();
    let heard: Vec<Vec<u8>> = (0..)
        .zip(&said)
        .map(|(n, (port, text))| team.send(n, *port, text))
        .collect();
    let connections = team.connections();
    let controlled = team.controlled();
    let all = team.workers.iter();
    let records = image::encode(all.flat_map(|rig| (0..).zip(rig.worker.shards())));
    drop(team);

    let now = Ticks(START.ticks().0);
    let mut shards = match way {
        Way::Region => {
            // SAFETY: the bytes are leaked, and whoever had them is gone.
            let memory = unsafe { core::slice::from_raw_parts_mut(address, layout.bytes()) };
            let found = region::attach(memory, BOOT, now).unwrap();
            assert_eq!(found.torn, 0);
            found.shards
        }
        Way::Records => {
            let layout = Layout::for_connections(10_000);
            let mut shards = region::create(memory_for(layout), layout, KEY, BOOT, now).unwrap();
            let restored = image::decode(&records, &mut shards, &KEY, now);
            let all = connections.len() as u32;
            assert_eq!(
                (restored.entries, restored.torn, restored.lost),
                (all, 0, 0)
            );
            shards
        }
    };
    let (workers, nics) = after;
    // The rules of the new run, as control knows them.
    let rules = {
        let mut rig = Rig::with_share(Share::of(0, workers));
        RULES.iter().for_each(|rule| rig.ipvsadm(rule));
        rig.nft(MARK);
        rig.settle();
        rig
    };
    // As control does with any table that it takes over: records have no numbers of servers.
    let unbound = region::bind(&mut shards, |entry| server_of(rules.services(), entry));
    assert_eq!(unbound, 0);
    let keys = nics.map(|key| Toeplitz::new([key, !key]));
    let dealt = deal(
        &mut shards,
        &Places {
            key: KEY,
            steering: rules.steering(),
            nics: keys.as_ref(),
            shares: (0..workers).map(|n| Share::of(n, workers)).collect(),
        },
    );
    let mut team = Team::new(after, shards);
    assert_eq!(team.connections(), connections);
    assert_eq!(team.controlled(), controlled);
    for (n, ((port, text), frame)) in (0..).zip(said.iter().zip(heard)) {
        assert_eq!(team.send(n * 7, *port, text), frame, "{text}");
    }
    assert_eq!(team.connections(), connections, "no new ones");
    // Templates lead clients where they led them, and passive data find their entry.
    for n in 0..12 {
        let c = format!("10.1.{}.{n}", n % 3);
        let known = |at: &str| connections.iter().find(|row| row.contains(at)).cloned();
        let template = known(&format!("10.1.{}.0:0 203.0.113.1:53", n % 3)).unwrap();
        let new = team.send(
            n,
            0,
            &format!("ip {c} > 203.0.113.1 | udp {} > 53", 5000 + n),
        );
        assert!(
            template.contains(&format!("192.168.50.{}:53", new[33])),
            "{template}"
        );
        let port = 30 * 256 + n;
        let new = team.send(
            n,
            0,
            &format!("ip {c} > 203.0.113.4 | tcp 6000 > {port} syn"),
        );
        assert_eq!(new[33], 16);
    }
    assert_eq!(team.connections().len(), connections.len() + 12);
    dealt
}

#[test]
fn the_same_team_finds_everything_in_place() {
    for how in [(1, None), (3, None), (2, Some(77))] {
        assert_eq!(taken_over(how, how), Dealt::default(), "{how:?}");
    }
}

#[test]
fn another_number_of_workers() {
    for (before, after) in [(1, 2), (2, 1), (2, 3), (8, 3)] {
        let dealt = taken_over((before, None), (after, None));
        assert_eq!(dealt.lost, 0, "{before} to {after}");
        assert!(dealt.moved > 0, "{before} to {after}");
    }
}

#[test]
fn nics_that_steer_now_or_not_any_more() {
    for (before, after) in [
        ((2, None), (2, Some(77))),
        ((2, Some(77)), (2, None)),
        ((4, Some(77)), (3, Some(78))),
        ((4, Some(77)), (1, None)),
    ] {
        let dealt = taken_over(before, after);
        assert_eq!(dealt.lost, 0, "{before:?} to {after:?}");
        assert!(dealt.moved > 0, "{before:?} to {after:?}");
    }
}

/// A successor whose table has another layout or size gets the entries one by one.
#[test]
fn records_of_entries_are_as_good_as_the_table() {
    for (before, after) in [
        ((1, None), (1, None)),
        ((1, None), (3, None)),
        ((4, None), (2, Some(7))),
    ] {
        taken_over_by(Way::Records, before, after);
    }
}

#[test]
fn damaged_records_are_dropped_and_counted() {
    let layout = Layout::for_connections(64);
    let mut shards = region::create(memory_for(layout), layout, KEY, BOOT, START.ticks()).unwrap();
    let torn = |bytes: &[u8], shards: &mut [Shard]| {
        let restored = image::decode(bytes, shards, &KEY, START.ticks());
        (restored.entries, restored.torn)
    };
    for byte in [0, 0x5a, 0xff] {
        assert_eq!(torn(&[byte; 3 * image::RECORD], &mut shards), (0, 3));
    }
    assert_eq!(
        torn(&[0; image::RECORD - 1], &mut shards),
        (0, 1),
        "cut short"
    );
    assert_eq!(torn(&[], &mut shards), (0, 0));
}
