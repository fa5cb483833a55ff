//! Several workers, packets arriving at any of them: after handing over, what becomes of each is
//! what one worker alone would have done.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataplane::addr::{Addr, Endpoint};
use dataplane::counters::DestCounters;
use dataplane::packet::{Attempt, PortId, Verdict};
use dataplane::team::AGE;
use dataplane::toeplitz::Toeplitz;
use dataplane::worker::Share;
use proptest::prelude::*;
use support::notation::build;
use support::rig::Rig;
use support::team;

mod support;

const WORKERS: usize = 3;

/// Pseudo-random numbers (splitmix64): a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}

struct Team {
    workers: Vec<Rig>,
    handed: usize,
}

impl Team {
    fn new(workers: usize) -> Team {
        let workers = (0..workers).map(|n| Rig::with_share(Share::of(n, workers)));
        Team {
            workers: workers.collect(),
            handed: 0,
        }
    }

    /// The same behind NICs that steer by these keys.
    fn behind_nics(workers: usize, keys: &Arc<Toeplitz>) -> Team {
        let mut team = Team::new(workers);
        for rig in &mut team.workers {
            rig.worker.steer_by_nics(Arc::clone(keys));
        }
        team
    }

    fn ipvsadm(&mut self, args: &str) {
        self.workers.iter_mut().for_each(|w| w.ipvsadm(args));
    }

    /// Puts a frame in at worker `at`.
    fn inject(&mut self, at: usize, port: u16, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.pass(at, frame, |w, attempt| {
            w.inject_attempt(port, frame, attempt)
        })
    }

    /// The same with a frame of the kernel.
    fn answer_from_kernel(&mut self, at: usize, port: u16, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.pass(at, frame, |w, attempt| {
            w.answer_from_kernel(port, frame, attempt)
        })
    }

    fn pass(
        &mut self,
        at: usize,
        frame: &[u8],
        process: impl Fn(&mut Rig, Attempt) -> (Verdict, Vec<u8>),
    ) -> (Verdict, Vec<u8>) {
        let (result, handed) = team::pass(&mut self.workers, at, frame, process);
        self.handed += handed;
        result
    }

    /// Everybody's connections.
    fn connections(&mut self) -> Vec<String> {
        let all = self.workers.iter_mut().flat_map(Rig::connections);
        let mut all: Vec<String> = all.map(|c| format!("{c:?}")).collect();
        all.sort();
        all
    }
}

const RULES: [&str; 8] = [
    "-A -t 203.0.113.1:80 -s rr",
    "-a -t 203.0.113.1:80 -r 192.168.50.11:8080 -m",
    "-A -t 203.0.113.2:80 -s rr",
    "-a -t 203.0.113.2:80 -r 192.168.50.12:80 -g",
    "-A -u 203.0.113.1:53 -s rr",
    "-a -u 203.0.113.1:53 -r 192.168.50.11:53 -m",
    "-A -t [fd60::1]:80 -s rr",
    "-a -t [fd60::1]:80 -r [fd50::11]:8080 -m",
];

/// Packets of a client with this number: the frame and the port that it comes in by.
fn packet(client: usize, kind: usize) -> (u16, String) {
    let (host, port) = (client % 40, 2000 + client / 40);
    let (c, c6) = (format!("10.1.2.{host}"), format!("fd70::{host:x}"));
    // Real servers are clients too: their packets may be either.
    let s = "192.168.50.11";
    let wire = |port| format!("eth 02:00:00:00:09:09 > 52:54:00:00:00:0{port} | ");
    let (port_in, text) = match kind {
        0 => (0, format!("ip {c} > 203.0.113.1 | tcp {port} > 80 syn")),
        1 => (1, format!("ip {s} > {c} | tcp 8080 > {port} syn ack ack 2")),
        2 => (
            0,
            format!("ip {c} > 203.0.113.1 | tcp {port} > 80 ack seq 2 ack 2 | bytes 20"),
        ),
        3 => (0, format!("ip {c} > 203.0.113.2 | tcp {port} > 80 syn")),
        4 => (
            0,
            format!("ip {c} > 203.0.113.1 | udp {port} > 53 | bytes 12"),
        ),
        5 => (1, format!("ip {s} > {c} | udp 53 > {port} | bytes 12")),
        6 => (0, format!("ip6 {c6} > fd60::1 | tcp {port} > 80 syn")),
        7 => (
            1,
            format!("ip6 fd50::11 > {c6} | tcp 8080 > {port} syn ack ack 2"),
        ),
        8 => (
            1,
            format!("ip {s} > {c} | icmp 3 3 | ip {c} > {s} | tcp {port} > 8080 syn"),
        ),
        9 => (
            0,
            format!("ip {c} > 203.0.113.1 | icmp 3 1 | ip 203.0.113.1 > {c} | tcp 80 > {port} ack"),
        ),
        // Pieces of a packet, and one that overtakes its first.
        11 => (
            0,
            format!(
                "ip {c} > 203.0.113.1 id {port} mf | udp {port} > 53 len 32 csum none | bytes 8"
            ),
        ),
        12 => (
            0,
            format!("ip {c} > 203.0.113.1 id {port} offset 16 proto 17 | bytes 16"),
        ),
        // From the server's own port to a service: reply or request.
        10 => (1, format!("ip {s} > 203.0.113.2 | tcp 8080 > 80 syn")),
        _ => (
            0,
            format!("ip {c} > 203.0.113.1 | tcp {port} > 80 fin ack seq 3 ack 2"),
        ),
    };
    (port_in, wire(port_in + 1) + &text)
}

#[test]
fn connections_of_others_count_and_so_do_their_thresholds() {
    let mut team = Team {
        workers: Rig::team(WORKERS),
        handed: 0,
    };
    team.ipvsadm("-A -u 203.0.113.1:53 -s wlc");
    team.ipvsadm("-a -u 203.0.113.1:53 -r 192.168.50.11:53 -m -w 3");
    team.ipvsadm("-a -u 203.0.113.1:53 -r 192.168.50.12:53 -m -w 1 -x 5");
    // All at the same worker, then all at the next.
    let mut sent = 0;
    for worker in 0..WORKERS {
        for client in 0..400 {
            let (_, text) = packet(client, 4);
            let frame = build(&text);
            let at_home = team.workers[worker].inject(0, &frame);
            if !matches!(at_home.0, Verdict::HandOver { .. }) {
                sent += 1;
            }
            team.workers.iter_mut().for_each(|w| w.sleep(AGE));
        }
    }
    assert_eq!(sent, 400);
    let total = |dest: usize| -> u32 {
        let of = |w: &Rig| w.counters.dests[dest].total.get();
        team.workers.iter().map(of).sum()
    };
    assert_eq!(
        (total(0), total(1)),
        (395, 5),
        "a quarter, but for the threshold"
    );
}

#[test]
fn a_failed_server_is_left_at_every_worker() {
    let mut team = Team {
        workers: Rig::team(WORKERS),
        handed: 0,
    };
    team.ipvsadm("-A -u 203.0.113.1:53 -s rr");
    team.ipvsadm("-a -u 203.0.113.1:53 -r 192.168.50.11:53 -m");
    team.ipvsadm("-a -u 203.0.113.1:53 -r 192.168.50.12:53 -m");
    let send = |team: &mut Team| {
        for client in 0..200 {
            let frame = build(&packet(client, 4).1);
            let (verdict, _) = team.inject(client % WORKERS, 0, &frame);
            assert!(matches!(verdict, Verdict::Transmit(_)), "{verdict:?}");
        }
    };
    let totals = |team: &Team| {
        let of = |w: &Rig, dest: usize| w.counters.dests[dest].total.get();
        [0, 1].map(|dest| team.workers.iter().map(|w| of(w, dest)).sum::<u32>())
    };
    send(&mut team);
    let [first, second] = totals(&team);
    assert!(first > 50 && second > 50, "{first} and {second}");
    team.ipvsadm("-e -u 203.0.113.1:53 -r 192.168.50.11:53 -m -w 0");
    send(&mut team);
    assert_eq!(totals(&team), [first, second], "weight 0 moves nobody");
    team.ipvsadm("-e -u 203.0.113.1:53 -r 192.168.50.11:53 -m -w 0 --failed");
    send(&mut team);
    assert_eq!(totals(&team), [0, 200]);
}

#[test]
fn a_team_does_what_one_worker_does() {
    like_one_worker(Team::new(WORKERS));
}

/// Behind NICs too, though here packets come to any worker.
#[test]
fn a_team_behind_nics_does_what_one_worker_does() {
    let keys = Arc::new(Toeplitz::new([77, 99]));
    like_one_worker(Team::behind_nics(WORKERS, &keys));
}

/// Where the NICs do what they are told, nothing is handed over.
#[test]
fn what_nics_steer_is_not_handed_over() {
    let keys = Arc::new(Toeplitz::new([0x1234_5678_9abc, 0xfeed_beef]));
    let mut team = Team::behind_nics(WORKERS, &keys);
    RULES.iter().for_each(|rule| team.ipvsadm(rule));
    for client in 0..200 {
        // SYN, SYN+ACK, data; then a datagram and its answer.
        for kind in [0, 1, 2, 4, 5, 13] {
            let (port, text) = packet(client, kind);
            let (host, number) = (client % 40, 2000 + client / 40);
            let end = Endpoint::new(Addr::v4([10, 1, 2, host as u8]), number as u16);
            let bucket = keys.bucket(&end).expect("IPv4");
            let owner = Share::of(0, WORKERS).owner(bucket);
            let (verdict, _) = team.inject(usize::from(owner), port, &build(&text));
            assert!(
                matches!(verdict, Verdict::Transmit(_)),
                "{text}: {verdict:?}"
            );
        }
    }
    assert_eq!(team.handed, 0);
    for worker in &mut team.workers {
        assert!(
            worker.connections().len() > 50,
            "every worker has its share"
        );
    }
}

fn like_one_worker(mut team: Team) {
    let mut one = Rig::new();
    for rule in RULES {
        one.ipvsadm(rule);
        team.ipvsadm(rule);
    }
    let mut random = Random(1);
    let mut verdicts = BTreeSet::new();
    for i in 0..20_000 {
        let (port, text) = packet(random.below(200), random.below(14));
        let frame = build(&text);
        let want = one.inject(port, &frame);
        let got = team.inject(random.below(WORKERS), port, &frame);
        assert_eq!(got.0, want.0, "packet {i}: {text}");
        // Identifications of our own packets are counted by each worker.
        let is_ours = matches!(want.0, Verdict::Transmit(_)) && want.1.len() > frame.len();
        assert!(is_ours || got.1 == want.1, "packet {i}: {text}");
        verdicts.insert(format!("{:?}", want.0));
    }
    assert!(team.handed > 10_000, "{} handed over", team.handed);
    assert!(verdicts.len() > 3, "{verdicts:?}");

    for worker in &mut team.workers {
        let mine = worker.connections();
        assert!(mine.len() > 50, "every worker has its share");
    }
    assert_eq!(team.connections(), all_of(&mut one));
}

fn all_of(rig: &mut Rig) -> Vec<String> {
    let mut all: Vec<String> = rig.connections().iter().map(|c| format!("{c:?}")).collect();
    all.sort();
    all
}

/// Services of every kind that steers by the masked client, and plain ones that share their servers.
const STEERED: [&str; 36] = [
    "-A -t 203.0.113.1:80 -s sh -p 600 -M 255.255.255.0",
    "-a -t 203.0.113.1:80 -r 192.168.50.11:8080 -m",
    "-a -t 203.0.113.1:80 -r 192.168.50.12:8080 -m",
    "-A -t 203.0.113.2:80 -s rr",
    "-a -t 203.0.113.2:80 -r 192.168.50.11:8080 -m",
    "-A -u 203.0.113.1:53 -s rr",
    "-a -u 203.0.113.1:53 -r 192.168.50.11:53 -m",
    "-A -u 203.0.113.2:53 -s sh -p 600",
    "-a -u 203.0.113.2:53 -r 192.168.50.13:53 -m",
    "-a -u 203.0.113.2:53 -r 192.168.50.14:53 -m",
    "-A -t 203.0.113.3:0 -s sh -p 600 -M 255.255.0.0",
    "-a -t 203.0.113.3:0 -r 192.168.50.13:0 -m",
    "-a -t 203.0.113.3:0 -r 192.168.50.14:0 -m",
    "-A -t 203.0.113.4:21 -s rr",
    "-a -t 203.0.113.4:21 -r 192.168.50.15:21 -m",
    "-A -f 1 -s sh",
    "-a -f 1 -r 192.168.50.16:0 -m",
    "-a -f 1 -r 192.168.50.17:0 -m",
    "-A -t 203.0.113.2:444 -s rr",
    "-a -t 203.0.113.2:444 -r 192.168.50.12:444 -i",
    "-A -t 203.0.113.5:80 -s rr",
    "-a -t 203.0.113.5:80 -r 192.168.40.1:8080 -m",
    "-A -t [fd60::1]:80 -s sh -p 600 -M 64",
    "-a -t [fd60::1]:80 -r [fd50::11]:8080 -m",
    "-a -t [fd60::1]:80 -r [fd50::12]:8080 -m",
    "-A -u [fd60::1]:53 -s rr",
    "-a -u [fd60::1]:53 -r [fd50::11]:53 -m",
    "-A -t [fd60::4]:21 -s rr",
    "-a -t [fd60::4]:21 -r [fd50::15]:21 -m",
    "-E -t 203.0.113.2:444 -s rr -p 600",
    "-A -u 203.0.113.7:5060 -s sh -p 600 -M 255.255.255.0 --pe sip",
    "-a -u 203.0.113.7:5060 -r 192.168.50.18:5060 -m",
    "-a -u 203.0.113.7:5060 -r 192.168.50.19:5060 -m",
    "-A -u 203.0.113.8:5060 -s sh -p 600 -o --pe sip",
    "-a -u 203.0.113.8:5060 -r 192.168.50.20:5060 -m",
    "-a -u 203.0.113.8:5060 -r 192.168.50.21:5060 -m",
];

const MARK: &str = "ip daddr 203.0.113.64/27 meta mark set 1";

/// Changes of rules while connections are open, most of which change how a class is steered.
const CHANGES: [&str; 20] = [
    "-e -t 203.0.113.1:80 -r 192.168.50.11:8080 -m -w 0",
    "-e -t 203.0.113.1:80 -r 192.168.50.11:8080 -m -w 1",
    "-E -t 203.0.113.2:80 -s rr -p 600 -M 255.255.0.0",
    "-E -t 203.0.113.2:80 -s rr",
    "-E -u 203.0.113.1:53 -s rr -p 600",
    "-E -u 203.0.113.1:53 -s rr",
    "-a -u 203.0.113.1:53 -r 192.168.50.13:53 -m -w 0",
    "-d -t 203.0.113.1:80 -r 192.168.50.12:8080",
    "-a -t 203.0.113.1:80 -r 192.168.50.12:8080 -m",
    "-A -t 203.0.113.6:80 -s rr -p 600 -M 255.0.0.0; \
     -a -t 203.0.113.6:80 -r 192.168.50.11:8080 -m",
    "-A -t 203.0.113.6:80 -s rr; -a -t 203.0.113.6:80 -r 192.168.50.11:8080 -m",
    "-a -t 203.0.113.4:21 -r 192.168.50.13:21 -m -w 0",
    "-E -t [fd60::1]:80 -s sh -p 600 -M 16",
    "-E -t [fd60::1]:80 -s sh -p 600 -M 64",
    "-E -u [fd60::1]:53 -s rr -p 600",
    "-E -u 203.0.113.7:5060 -s sh -p 600 --pe sip",
    "-E -u 203.0.113.7:5060 -s sh -p 600 -M 255.255.0.0 --pe sip",
    "-E -u 203.0.113.7:5060 -s sh",
    "-E -u 203.0.113.8:5060 -s sh -p 600 -M 255.255.0.0 -o --pe sip",
    "-E -u 203.0.113.8:5060 -s sh -p 600 -o --pe sip",
];

/// What happens in a story: what, to which client, at which of its ports, seen by which worker.
type Event = (u8, u8, u8, u8);

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Wire(u16),
    Kernel,
}

fn client(n: u8) -> (String, String) {
    let (net, subnet) = (n & 1, n >> 1 & 1);
    (
        format!("10.{net}.{subnet}.{}", 5 + n),
        format!("fd7{net}:0:0:{subnet}::{n:x}"),
    )
}

const CLIENT: From = From::Wire(0);
const SERVER: From = From::Wire(1);

/// Virtual and real end of each TCP service.
const TCP: [(&str, u16, &str, u16); 8] = [
    ("203.0.113.1", 80, "192.168.50.11", 8080),
    ("203.0.113.1", 80, "192.168.50.12", 8080),
    ("203.0.113.2", 80, "192.168.50.11", 8080),
    ("203.0.113.3", 443, "192.168.50.13", 443),
    ("203.0.113.3", 25, "192.168.50.14", 25),
    ("203.0.113.70", 99, "192.168.50.16", 99),
    ("203.0.113.71", 21, "192.168.50.17", 21),
    ("203.0.113.6", 80, "192.168.50.11", 8080),
];
const UDP: [(&str, &str); 3] = [
    ("203.0.113.1", "192.168.50.11"),
    ("203.0.113.2", "192.168.50.13"),
    ("203.0.113.2", "192.168.50.14"),
];

/// The frames of one event, without Ethernet.
fn frames(kind: u8, n: u8, k: u8) -> Vec<(From, String)> {
    let (c, c6) = client(n);
    let p = 3000 + u16::from(k % 3);
    let (vip, vport, real, rport) = TCP[usize::from(k) % TCP.len()];
    let (uvip, ureal) = UDP[usize::from(k) % UDP.len()];
    let id = 100 + u16::from(k % 5);
    let text = |line: &str| support::notation::to_hex(line.as_bytes());
    let one = |from, text: String| vec![(from, text)];
    match kind {
        0 => one(CLIENT, format!("ip {c} > {vip} | tcp {p} > {vport} syn")),
        1 => one(
            CLIENT,
            format!("ip {c} > {vip} | tcp {p} > {vport} ack | bytes 9"),
        ),
        2 => one(
            SERVER,
            format!("ip {real} > {c} | tcp {rport} > {p} syn ack 2"),
        ),
        3 => one(
            SERVER,
            format!("ip {real} > {c} | tcp {rport} > {p} ack 9 | bytes 7"),
        ),
        4 => one(
            CLIENT,
            format!("ip {c} > {vip} | tcp {p} > {vport} fin ack 3"),
        ),
        5 => one(CLIENT, format!("ip {c} > {uvip} | udp {p} > 53 | bytes 5")),
        6 => one(SERVER, format!("ip {ureal} > {c} | udp 53 > {p} | bytes 6")),
        7 => one(
            SERVER,
            format!("ip {real} > {c} | icmp 3 1 | ip {c} > {real} | tcp {p} > {rport} syn"),
        ),
        8 => one(
            CLIENT,
            format!("ip {c} > {vip} | icmp 3 1 | ip {vip} > {c} | tcp {vport} > {p} ack"),
        ),
        // Pieces, in and out of order.
        9 => one(
            CLIENT,
            format!("ip {c} > {uvip} id {id} mf | udp {p} > 53 len 32 csum none | bytes 8"),
        ),
        10 => one(
            CLIENT,
            format!("ip {c} > {uvip} id {id} offset 16 proto 17 | bytes 16"),
        ),
        11 => one(
            SERVER,
            format!("ip {ureal} > {c} id {id} mf | udp 53 > {p} len 32 csum none | bytes 8"),
        ),
        12 => one(
            SERVER,
            format!("ip {ureal} > {c} id {id} offset 16 proto 17 | bytes 16"),
        ),
        // A tunnel: its client and an error about it.
        13 => one(CLIENT, format!("ip {c} > 203.0.113.2 | tcp {p} > 444 syn")),
        14 => one(
            SERVER,
            format!(
                "ip 192.168.50.3 > 192.168.50.1 | icmp 3 1 | ip 192.168.50.1 > 192.168.50.12 | \
                 ip {c} > 203.0.113.2 | tcp {p} > 444 syn"
            ),
        ),
        // FTP.
        15 => vec![
            (
                CLIENT,
                format!("ip {c} > 203.0.113.4 | tcp {p} > 21 syn seq 9"),
            ),
            (
                SERVER,
                format!("ip 192.168.50.15 > {c} | tcp 21 > {p} syn ack 10 seq 9"),
            ),
            (
                CLIENT,
                format!("ip {c} > 203.0.113.4 | tcp {p} > 21 ack 10 seq 10"),
            ),
        ],
        16 => one(CLIENT, {
            let data = text(&format!("PORT {},20,{k}\r\n", c.replace('.', ",")));
            format!("ip {c} > 203.0.113.4 | tcp {p} > 21 psh ack 10 seq 10 | data {data}")
        }),
        17 => one(SERVER, {
            let to = 20 * 256 + u16::from(k);
            format!("ip 192.168.50.15 > {c} | tcp 20 > {to} syn seq 70")
        }),
        18 => one(CLIENT, {
            let to = 20 * 256 + u16::from(k);
            format!("ip {c} > 203.0.113.4 | tcp {to} > 20 syn ack 71 seq 70")
        }),
        19 => vec![
            (CLIENT, {
                let data = text("PASV\r\n");
                format!("ip {c} > 203.0.113.4 | tcp {p} > 21 psh ack 10 seq 10 | data {data}")
            }),
            (SERVER, {
                let data = text(&format!("227 Passive (192,168,50,15,30,{k})\r\n"));
                format!("ip 192.168.50.15 > {c} | tcp 21 > {p} psh ack 16 seq 10 | data {data}")
            }),
        ],
        20 => one(CLIENT, {
            let to = 30 * 256 + u16::from(k);
            format!("ip {c} > 203.0.113.4 | tcp {} > {to} syn seq 70", p + 50)
        }),
        21 => one(SERVER, {
            let from = 30 * 256 + u16::from(k);
            format!(
                "ip 192.168.50.15 > {c} | tcp {from} > {} syn ack 71",
                p + 50
            )
        }),
        // A server that is this host.
        22 => one(CLIENT, format!("ip {c} > 203.0.113.5 | tcp {p} > 80 syn")),
        23 => one(
            From::Kernel,
            format!("ip 192.168.40.1 > {c} | tcp 8080 > {p} syn ack 2"),
        ),
        24 => vec![
            (
                From::Kernel,
                format!("ip 192.168.40.1 > {c} id {id} mf | tcp 8080 > {p} ack 2 | bytes 20"),
            ),
            (
                From::Kernel,
                format!("ip 192.168.40.1 > {c} id {id} offset 40 proto 6 | bytes 16"),
            ),
        ],
        // IPv6.
        25 => one(CLIENT, format!("ip6 {c6} > fd60::1 | tcp {p} > 80 syn")),
        26 => one(
            SERVER,
            format!("ip6 fd50::1{} > {c6} | tcp 8080 > {p} syn ack 2", 1 + k % 2),
        ),
        27 => one(
            CLIENT,
            format!("ip6 {c6} > fd60::1 | udp {p} > 53 | bytes 5"),
        ),
        28 => one(
            CLIENT,
            format!("ip6 {c6} > fd60::1 | icmp6 1 3 | ip6 fd60::1 > {c6} | tcp 80 > {p} ack"),
        ),
        29 => one(
            CLIENT,
            format!(
                "ip6 {c6} > fd60::1 | fragment id {id} mf | udp {p} > 53 len 32 csum 0x1234 | \
                 bytes 8"
            ),
        ),
        30 => one(
            CLIENT,
            format!("ip6 {c6} > fd60::1 proto 44 | fragment id {id} offset 16 | bytes 16"),
        ),
        31 => vec![
            (
                CLIENT,
                format!("ip6 {c6} > fd60::4 | tcp {p} > 21 syn seq 9"),
            ),
            (
                SERVER,
                format!("ip6 fd50::15 > {c6} | tcp 21 > {p} syn ack 10 seq 9"),
            ),
            (
                CLIENT,
                format!("ip6 {c6} > fd60::4 | tcp {p} > 21 ack 10 seq 10"),
            ),
            (CLIENT, {
                let data = text("EPSV\r\n");
                format!("ip6 {c6} > fd60::4 | tcp {p} > 21 psh ack 10 seq 10 | data {data}")
            }),
            (SERVER, {
                let data = text(&format!("229 Passive (|||{}|)\r\n", 7680 + u16::from(k)));
                format!("ip6 fd50::15 > {c6} | tcp 21 > {p} psh ack 16 seq 10 | data {data}")
            }),
        ],
        32 => one(CLIENT, {
            let to = 7680 + u16::from(k);
            format!("ip6 {c6} > fd60::4 | tcp {} > {to} syn seq 70", p + 50)
        }),
        // Calls: what a client says, what a server says, and what is no message.
        33 => one(CLIENT, sip(&c, "203.0.113.7", p, 5060, k)),
        // Each server calls another port: a client's endpoint that two servers use at once may
        // have a connection at two workers while the class is unsettled.
        34 => one(
            SERVER,
            sip(
                &format!("192.168.50.{}", 18 + k % 2),
                &c,
                5060,
                p + 50 + 50 * u16::from(k % 2),
                k,
            ),
        ),
        35 => one(
            CLIENT,
            format!("ip {c} > 203.0.113.7 | udp {p} > 5060 | bytes 5"),
        ),
        36 => one(CLIENT, sip(&c, "203.0.113.8", p, 5060, k)),
        37 => one(
            SERVER,
            sip(&format!("192.168.50.{}", 20 + k % 2), &c, 5060, p, k),
        ),
        38 => one(
            SERVER,
            format!(
                "ip 192.168.50.{} > {c} | udp 5060 > {p} | bytes 6",
                18 + k % 2
            ),
        ),
        // A real server is somebody's client.
        _ => one(
            SERVER,
            format!("ip 192.168.50.11 > {vip} | tcp 8080 > {vport} syn"),
        ),
    }
}

const KINDS: u8 = 40;

/// A SIP message of one of four calls.
fn sip(src: &str, dst: &str, sport: u16, dport: u16, call: u8) -> String {
    let text = format!("OPTIONS sip:x SIP/2.0\r\nCall-ID: {}\r\n\r\n", call / 2 % 4);
    let data = support::notation::to_hex(text.as_bytes());
    format!("ip {src} > {dst} | udp {sport} > {dport} | data {data}")
}

/// A frame without what each worker counts for itself: the identification of our own packets.
fn without_id(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.get(12..14) == Some(&[8, 0]) && frame.len() >= 34 {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

/// Lets one worker and a team live through the same story.
fn live(workers: usize, nics: Option<u64>, story: &[Event], changes: bool) {
    let mut one = Rig::new();
    let mut team = match nics {
        None => Team::new(workers),
        Some(key) => Team::behind_nics(workers, &Arc::new(Toeplitz::new([key, !key]))),
    };
    for rule in STEERED {
        one.ipvsadm(rule);
        team.ipvsadm(rule);
    }
    one.nft(MARK);
    team.workers.iter_mut().for_each(|w| w.nft(MARK));
    team.settle();
    let mut told = Vec::new();
    for &(kind, n, k, at) in story {
        if kind >= KINDS {
            let change = CHANGES[usize::from(k) % CHANGES.len()];
            if changes && kind == KINDS {
                for rule in change.split(';') {
                    one.ipvsadm(rule);
                    team.ipvsadm(rule);
                }
                told.push(change.to_owned());
            } else if changes {
                let time = std::time::Duration::from_millis(500);
                one.sleep(time);
                team.workers.iter_mut().for_each(|w| w.sleep(time));
                if team.settle() {
                    told.push("settled".to_owned());
                }
            }
            continue;
        }
        for (i, (from, text)) in frames(kind, n % 8, k).into_iter().enumerate() {
            let at = (usize::from(at) + i * 5) % workers;
            let port = if from == SERVER { 1 } else { 0 };
            let frame = build(&format!(
                "eth 02:00:00:00:09:09 > 52:54:00:00:00:0{} | {text}",
                port + 1
            ));
            let (want, got) = match from {
                From::Wire(port) => (one.inject(port, &frame), team.inject(at, port, &frame)),
                From::Kernel => (
                    one.answer_from_kernel(port, &frame, Attempt::START),
                    team.answer_from_kernel(at, port, &frame),
                ),
            };
            told.push(format!("{text} at {at}: {:?}", want.0));
            assert_eq!(got.0, want.0, "{told:#?}");
            let is_ours = want.1.len() != frame.len();
            let same = got.1 == want.1 || is_ours && without_id(got.1) == without_id(want.1);
            assert!(same, "{told:#?}");
        }
    }
    assert_eq!(team.connections(), all_of(&mut one), "{told:#?}");
    for (id, sum) in (0..).zip(&one.counters.dests) {
        let all = |value: fn(&DestCounters) -> u64| {
            let of = |w: &Rig| value(&w.counters.dests[id]);
            team.workers.iter().map(of).sum::<u64>()
        };
        let values: [fn(&DestCounters) -> u64; 7] = [
            |c| c.conns.get(),
            |c| c.in_pkts.get(),
            |c| c.in_bytes.get(),
            |c| c.out_pkts.get(),
            |c| c.total.get().into(),
            |c| c.active.get().into(),
            |c| c.persistent.get().into(),
        ];
        for (what, value) in values.into_iter().enumerate() {
            assert_eq!(all(value), value(sum), "server {id}, {what}: {told:#?}");
        }
    }
}

impl Team {
    /// Settles the classes if no worker has a connection where an earlier table had it. Whether.
    fn settle(&mut self) -> bool {
        let settled = self.workers.iter().all(|w| w.counters.strays.get() == 0);
        if settled {
            self.workers.iter_mut().for_each(Rig::settle);
        }
        settled
    }
}

fn story(len: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = (0..KINDS + 2, any::<u8>(), 0u8..24, any::<u8>());
    proptest::collection::vec(event, 1..len)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn teams_do_what_one_worker_does(
        story in story(200),
        workers in prop::sample::select(vec![2usize, 3, 8]),
        nics: Option<u64>,
    ) {
        live(workers, nics, &story, false);
    }

    /// The rules change meanwhile, and with them where connections meet: none is lost.
    #[test]
    fn no_change_of_rules_loses_a_connection(
        story in story(200),
        workers in prop::sample::select(vec![2usize, 3, 8]),
        nics: Option<u64>,
    ) {
        live(workers, nics, &story, true);
    }
}

/// A service that comes to share a server widens the class; clients of templates that were left
/// before stay where they are.
#[test]
fn templates_outlive_a_wider_class() {
    let mut team = Team::new(3);
    for rule in [
        "-A -t 203.0.113.1:80 -s rr -p 600",
        "-a -t 203.0.113.1:80 -r 192.168.50.11:80 -m",
        "-a -t 203.0.113.1:80 -r 192.168.50.12:80 -m",
    ] {
        team.ipvsadm(rule);
    }
    let syn = |client: usize, port| {
        build(&format!(
            "eth 02:00:00:00:09:09 > 52:54:00:00:00:01 | ip 10.1.2.{client} > 203.0.113.1 | \
             tcp {port} > 80 syn"
        ))
    };
    let server = |frame: &[u8]| frame[33];
    let servers: Vec<u8> = (1..40)
        .map(|client| server(&team.inject(client % 3, 0, &syn(client, 4000)).1))
        .collect();
    assert!(servers.contains(&11) && servers.contains(&12));
    team.ipvsadm("-A -t 203.0.113.2:80 -s rr -p 600 -M 255.255.255.0");
    team.ipvsadm("-a -t 203.0.113.2:80 -r 192.168.50.12:80 -m");
    for (client, before) in (1..40).zip(servers) {
        let (verdict, frame) = team.inject(client % 3, 0, &syn(client, 5000));
        assert_eq!(verdict, Verdict::Transmit(PortId(1)), "client {client}");
        assert_eq!(server(&frame), before, "client {client}");
    }
    // Newcomers of the network are all at one worker.
    let before: Vec<usize> = team
        .workers
        .iter_mut()
        .map(|w| w.connections().len())
        .collect();
    for client in 100..140 {
        team.inject(client % 3, 0, &syn(client, 4000));
    }
    let after = team.workers.iter_mut().map(|w| w.connections().len());
    let grown = before.iter().zip(after).filter(|(b, a)| **b != *a).count();
    assert_eq!(grown, 1);
}

/// Servers begin calls while the class is unsettled: under the template that the call has,
/// wherever that is, or where the client's packets meet now.
#[test]
fn calls_of_servers_begin_where_they_belong() {
    const WIDER: [&str; 2] = [
        "-A -u 203.0.113.9:5060 -s rr -p 600 -M 255.255.255.0",
        "-a -u 203.0.113.9:5060 -r 192.168.50.18:5060 -m",
    ];
    let mut team = Team::new(3);
    let mut one = Rig::new();
    for rule in [
        "-A -u 203.0.113.7:5060 -s rr -p 600 --pe sip",
        "-a -u 203.0.113.7:5060 -r 192.168.50.18:5060 -m",
    ] {
        one.ipvsadm(rule);
        team.ipvsadm(rule);
    }
    let frame = |port: u16, text: String| {
        build(&format!(
            "eth 02:00:00:00:09:09 > 52:54:00:00:00:0{} | {text}",
            port + 1
        ))
    };
    let client = |n| format!("10.1.2.{n}");
    for n in 1..40 {
        let frame = frame(0, sip(&client(n), "203.0.113.7", 4000, 5060, 0));
        assert_eq!(team.inject(n % 3, 0, &frame), one.inject(0, &frame));
    }
    for rule in WIDER {
        one.ipvsadm(rule);
        team.ipvsadm(rule);
    }
    let mut calls = |team: &mut Team, clients: core::ops::Range<usize>| {
        for n in clients {
            let frame = frame(1, sip("192.168.50.18", &client(n), 5060, 4500, 0));
            let (got, want) = (team.inject(n % 3, 1, &frame), one.inject(1, &frame));
            assert_eq!(got, want, "call to {n}");
            assert_eq!(got.0, Verdict::Transmit(PortId(0)), "call to {n}");
        }
        // A template twice would show.
        assert_eq!(team.connections(), all_of(&mut one));
    };
    let counts = |team: &mut Team| -> Vec<usize> {
        let workers = team.workers.iter_mut();
        workers.map(|w| w.connections().len()).collect()
    };
    calls(&mut team, 1..40);
    let before = counts(&mut team);
    calls(&mut team, 100..140);
    let after = counts(&mut team);
    let grown = before.iter().zip(after).filter(|(b, a)| **b != *a).count();
    assert_eq!(grown, 1, "the network's clients meet at one worker");
}
