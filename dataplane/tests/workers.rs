//! Several workers, packets arriving at any of them: after handing over, what becomes of each is
//! what one worker alone would have done.

use std::collections::BTreeSet;

use dataplane::packet::Verdict;
use dataplane::team::AGE;
use dataplane::worker::Share;
use support::notation::build;
use support::rig::Rig;

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
    fn new() -> Team {
        let workers = (0..WORKERS).map(|n| Rig::with_share(Share::of(n, WORKERS)));
        Team {
            workers: workers.collect(),
            handed: 0,
        }
    }

    fn ipvsadm(&mut self, args: &str) {
        self.workers.iter_mut().for_each(|w| w.ipvsadm(args));
    }

    /// Puts a frame in at worker `at`. Nobody hands over to himself or for ever.
    fn inject(&mut self, mut at: usize, port: u16, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut result = self.workers[at].inject(port, frame);
        for _ in 0..3 {
            let Verdict::HandOver { worker, as_request } = result.0 else {
                break;
            };
            assert_ne!(usize::from(worker), at);
            assert_eq!(result.1, frame, "a frame that is handed over is unchanged");
            self.handed += 1;
            at = usize::from(worker);
            result = if as_request {
                self.workers[at].inject_request(port, frame)
            } else {
                self.workers[at].inject(port, frame)
            };
        }
        assert!(!matches!(result.0, Verdict::HandOver { .. }));
        result
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
fn a_team_does_what_one_worker_does() {
    let (mut one, mut team) = (Rig::new(), Team::new());
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

    let mut all: Vec<String> = Vec::new();
    for worker in &mut team.workers {
        let mine = worker.connections();
        assert!(mine.len() > 50, "every worker has its share");
        all.extend(mine.iter().map(|c| format!("{c:?}")));
    }
    let mut want: Vec<String> = one.connections().iter().map(|c| format!("{c:?}")).collect();
    all.sort();
    want.sort();
    assert_eq!(all, want);
}
