//! When a worker announces connections, and as what: the packets of the kernel's recordings are
//! played to it, and it says what the kernel said.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataplane::command::Command;
use dataplane::packet::{PortId, Verdict};
use dataplane::sync::wire::Version;
use dataplane::sync::{Outbox, SyncEntry, flag, outbox};

#[path = "support/recorded.rs"]
mod recorded;
mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

/// What one packet took when it was recorded, about.
const PACKET_TIME: Duration = Duration::from_millis(5);

const VIP: &str = "192.168.40.200";

/// A worker that announces.
struct Master {
    rig: Rig,
    outbox: Arc<Outbox>,
}

impl Master {
    fn new() -> Master {
        let mut rig = Rig::new();
        let outbox = Arc::new(Outbox::new());
        rig.apply(Command::StartMaster(Arc::clone(&outbox)));
        Master { rig, outbox }
    }

    /// What it announced since the last call.
    fn told(&mut self) -> Vec<SyncEntry> {
        let mut all = Vec::new();
        while self.outbox.take(|entry, _| all.push(*entry)) {}
        all
    }

    /// Engine data of what it announced, too.
    fn told_with_data(&mut self) -> Vec<(SyncEntry, Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        while self.outbox.take(|entry, engine| {
            all.push((*entry, engine.data.to_vec(), engine.name.to_vec()));
        }) {}
        all
    }

    fn packet(&mut self, from_server: bool, src: &str, dst: &str, transport: &str) -> Verdict {
        let neighbour = if from_server {
            mac_of(&addr(src))
        } else {
            mac_of(&addr("192.168.40.254"))
        };
        let port = u16::from(from_server);
        let ip = if src.contains(':') { "ip6" } else { "ip" };
        let to = PORT_MACS[usize::from(port)];
        let line = format!("eth {neighbour} > {to} | {ip} {src} > {dst} | {transport}");
        let (verdict, _) = self.rig.inject(port, &notation::build(&line));
        self.rig.sleep(PACKET_TIME);
        verdict
    }

    fn client(&mut self, src: &str, transport: &str) -> Verdict {
        self.packet(false, src, VIP, transport)
    }
}

/// The words of a recorded packet that the text does not tell: SIP messages and SCTP chunks.
struct Unsaid {
    chunks: Vec<&'static str>,
}

impl Unsaid {
    fn new() -> Unsaid {
        let opening = ["init", "init-ack", "cookie-echo", "cookie-ack"];
        let closing = ["shutdown", "shutdown-ack", "shutdown-complete"];
        let all = opening.iter().chain(&opening).chain(&closing);
        Unsaid {
            chunks: all.copied().collect(),
        }
    }

    fn transport(&mut self, proto: &str, src: &str, ports: [&str; 2], flags: &str) -> String {
        let [from, to] = ports;
        let words = flags.chars().map(|c| match c {
            'S' => "syn ",
            'A' => "ack ",
            'F' => "fin ",
            'R' => "rst ",
            _ => "psh ",
        });
        let words: String = words.collect();
        match proto {
            "sctp" => {
                let chunk = self.chunks.remove(0);
                format!(
                    "sctp {from} > {to} tag 1 | chunk {chunk} value 00000009000000000000000000000000"
                )
            }
            "udp" if to == "5060" => {
                let n: u8 = src.rsplit('.').next().unwrap().parse().unwrap();
                let call = format!(
                    "INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 172.23.0.1\r\nCall-ID: \
                     call-{}@172.23.0.{n}\r\nCSeq: 1 INVITE\r\n\r\n",
                    n - 1
                );
                let hex: String = call.bytes().map(|b| format!("{b:02x}")).collect();
                format!("udp {from} > {to} | data {hex}")
            }
            "udp" => format!("udp {from} > {to} | bytes 1"),
            _ => format!("{proto} {from} > {to} {words}"),
        }
    }
}

/// Plays the packets of a recording's text. What the worker announced.
fn play(text: &Path) -> Vec<SyncEntry> {
    let text = fs::read_to_string(text).unwrap();
    let mut master = Master::new();
    if text.contains("firewall-mark") {
        master.rig.local("192.168.40.200/32");
        master.rig.local("fd40::200/128");
        master
            .rig
            .nft("ip daddr 192.168.40.200 tcp dport { 80, 443 } meta mark set 77");
        master
            .rig
            .nft("ip6 daddr fd40::200 tcp dport { 80, 443 } meta mark set 78");
    }
    let mut unsaid = Unsaid::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["ipvsadm", "-A" | "-a", ..] => master.rig.ipvsadm(&line["ipvsadm ".len()..]),
            ["sysctl", ..] => sysctl(&mut master.rig, &line["sysctl net.ipv4.vs.".len()..]),
            [
                from @ ("client" | "server"),
                proto,
                src,
                sport,
                ">",
                dst,
                dport,
                ref rest @ ..,
            ] => {
                let flags = rest.first().filter(|flags| **flags != "->");
                let flags = flags.copied().unwrap_or_default();
                let transport = unsaid.transport(proto, src, [sport, dport], flags);
                let verdict = master.packet(from == "server", src, dst, &transport);
                assert!(
                    matches!(verdict, Verdict::Transmit(_)),
                    "{line}: {verdict:?}"
                );
            }
            _ => {}
        }
    }
    master.told()
}

fn sysctl(rig: &mut Rig, setting: &str) {
    let (name, value) = setting.split_once('=').unwrap();
    let numbers: Vec<u32> = value.split(' ').map(|n| n.parse().unwrap()).collect();
    rig.change_settings(|s| match (name, &numbers[..]) {
        ("sync_threshold", [threshold, period]) => {
            (s.sync.threshold, s.sync.period) = (*threshold, *period);
        }
        ("sync_refresh_period", [secs]) => s.sync.refresh_period = *secs,
        ("sync_retries", [n]) => s.sync.retries = *n,
        ("sync_persist_mode", [n]) => s.sync.persist_mode = *n != 0,
        ("sync_version", [0]) => s.sync.version = Version::V0,
        // The sending thread's.
        ("sync_ports", _) => {}
        _ => panic!("sysctl {setting}"),
    });
}

#[test]
fn recorded_packets_are_announced_as_the_kernel_did() {
    let mut entries = 0;
    for pcap in recorded::recordings() {
        let name = pcap.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = pcap.with_extension("txt");
        let mut want = recorded::told(&text);
        let mut got = play(&text);
        if name.starts_with("version0") {
            for entry in &mut got {
                entry.timeout = 0;
            }
        }
        if name == "two-ports" {
            // Each port had its own messages.
            let key = |e: &SyncEntry| (e.client, e.state);
            want.sort_by_key(key);
            got.sort_by_key(key);
        }
        assert_eq!(got, want, "{name}");
        entries += got.len();
    }
    assert!(entries > 400, "only {entries} entries were compared");
}

fn service(master: &mut Master, options: &str, method: &str) {
    let port = if method == "-m" { 8080 } else { 80 };
    master
        .rig
        .ipvsadm(&format!("-A -t {VIP}:80 -s rr {options}"));
    master
        .rig
        .ipvsadm(&format!("-a -t {VIP}:80 -r 192.168.50.5:{port} {method}"));
}

fn establish(master: &mut Master, client: &str, port: u16) {
    master.client(client, &format!("tcp {port} > 80 syn"));
    master.packet(
        true,
        "192.168.50.5",
        client,
        &format!("tcp 8080 > {port} syn ack"),
    );
    master.client(client, &format!("tcp {port} > 80 ack"));
}

/// The short way counts as the long one does.
#[test]
fn usual_packets_are_due_by_their_number() {
    for (method, client, vip) in [
        ("-m", "172.20.0.1", VIP),
        ("-g", "172.20.0.1", VIP),
        ("-i", "172.20.0.1", VIP),
        ("-m", "2001:db8::9", "fd40::200"),
    ] {
        let mut master = Master::new();
        let is_long = vip != VIP;
        let port = if method == "-m" { 8080 } else { 80 };
        let (at, real) = match is_long {
            false => (format!("{vip}:80"), format!("192.168.50.5:{port}")),
            true => (format!("[{vip}]:80"), format!("[fd50::5]:{port}")),
        };
        master.rig.ipvsadm(&format!("-A -t {at} -s rr"));
        master
            .rig
            .ipvsadm(&format!("-a -t {at} -r {real} {method}"));
        let mut due = Vec::new();
        for n in 1..=160 {
            let flags = if n == 1 { "syn" } else { "ack" };
            let verdict = master.packet(false, client, vip, &format!("tcp 1000 > 80 {flags}"));
            assert_eq!(verdict, Verdict::Transmit(PortId(1)));
            due.extend(master.told().iter().map(|_| n));
            if n == 1 && method == "-m" {
                let server = if is_long { "fd50::5" } else { "192.168.50.5" };
                master.packet(true, server, client, "tcp 8080 > 1000 syn ack");
            }
        }
        assert_eq!(due, [3, 53, 103, 153], "{method} {client}");
    }
}

#[test]
fn nobody_is_told_without_a_master() {
    let mut master = Master::new();
    service(&mut master, "", "-m");
    master.rig.apply(Command::StopMaster);
    establish(&mut master, "172.20.0.1", 1000);
    for _ in 0..100 {
        master.client("172.20.0.1", "tcp 1000 > 80 ack");
    }
    assert_eq!(master.told(), []);
    // Started again it goes on by the packets so far.
    let again = Arc::clone(&master.outbox);
    master.rig.apply(Command::StartMaster(again));
    for _ in 0..2 {
        master.client("172.20.0.1", "tcp 1000 > 80 ack");
    }
    assert_eq!(master.told().len(), 1, "its packet 103");
}

#[test]
fn an_end_is_told_at_once() {
    let mut master = Master::new();
    service(&mut master, "", "-m");
    establish(&mut master, "172.20.0.1", 1000);
    assert_eq!(master.told(), []);
    master.client("172.20.0.1", "tcp 1000 > 80 fin ack");
    let told = master.told();
    assert_eq!((told.len(), told[0].state, told[0].timeout), (1, 7, 60));
    assert_eq!(told[0].flags, flag::INACTIVE);
    // A reset of the server's waits for the client's next packet.
    establish(&mut master, "172.20.0.2", 1000);
    assert_eq!(master.told().len(), 0);
    master.packet(true, "192.168.50.5", "172.20.0.2", "tcp 8080 > 1000 rst");
    assert_eq!(master.told(), []);
    master.client("172.20.0.2", "tcp 1000 > 80 ack");
    assert_eq!(master.told()[0].state, 6);
}

/// A template whose time is up while it has connections is told of with its new minute.
#[test]
fn a_prolonged_template_is_told() {
    let mut master = Master::new();
    service(&mut master, "-p 5", "-m");
    establish(&mut master, "172.20.0.1", 1000);
    assert!(!master.told().is_empty());
    master.rig.sleep(Duration::from_secs(7));
    let told = master.told();
    assert_eq!(told.len(), 1);
    assert!(told[0].is_template());
    assert_eq!(told[0].timeout, 60);
}

/// The place of an entry that ended is another connection's, which has not been told.
#[test]
fn a_new_connection_in_an_old_place() {
    let mut master = Master::new();
    master
        .rig
        .change_settings(|s| (s.sync.period, s.sync.refresh_period) = (0, 600));
    master
        .rig
        .ipvsadm(&format!("-A -u {VIP}:53 -s rr --conn-timeouts udp=1"));
    master
        .rig
        .ipvsadm(&format!("-a -u {VIP}:53 -r 192.168.50.5:53 -m"));
    for n in 0..3 {
        master.client("172.20.0.1", "udp 1000 > 53 | bytes 1");
        assert_eq!(master.told().len(), 1, "round {n}");
        master.client("172.20.0.1", "udp 1000 > 53 | bytes 1");
        assert_eq!(master.told().len(), 0);
        master.rig.sleep(Duration::from_secs(3));
        assert_eq!(master.rig.connections(), []);
    }
}

/// What a full outbox forgot is told again once there is room.
#[test]
fn losses_are_repaired() {
    let mut master = Master::new();
    service(&mut master, "", "-m");
    establish(&mut master, "172.20.0.1", 1000);
    master.client("172.20.0.1", "tcp 1000 > 80 ack");
    establish(&mut master, "172.20.0.2", 1000);
    assert_eq!(master.told().len(), 1);
    let full = usize::try_from(master.outbox.announced.get()).unwrap() + outbox::CAPACITY;
    master
        .rig
        .change_settings(|s| (s.sync.threshold, s.sync.period) = (0, 1));
    master.client("172.20.0.1", "tcp 1000 > 80 ack");
    establish(&mut master, "172.20.0.4", 1000);
    let line = format!(
        "eth 02:00:00:00:09:09 > {} | ip 172.20.0.4 > {VIP} | tcp 1000 > 80 ack",
        PORT_MACS[0]
    );
    let frame = notation::build(&line);
    for _ in 0..full {
        master.rig.inject(0, &frame);
    }
    assert!(master.outbox.lost.get() > 0);
    assert!(
        master
            .told()
            .iter()
            .all(|e| e.client.addr != addr("172.20.0.1"))
    );
    master.rig.sleep(Duration::from_secs(1));
    let told = master.told();
    let of = |client: &str| {
        told.iter()
            .filter(|e| e.client.addr == addr(client))
            .count()
    };
    assert_eq!(of("172.20.0.1"), 1, "forgotten, told again");
    assert_eq!(of("172.20.0.2"), 0, "never told");
    master.rig.sleep(Duration::from_secs(1));
    assert_eq!(master.told().len(), 0);
}

#[test]
fn engine_data_go_with_their_template() {
    let mut master = Master::new();
    master
        .rig
        .ipvsadm(&format!("-A -u {VIP}:5060 -s rr -p 60 --pe sip"));
    master
        .rig
        .ipvsadm(&format!("-a -u {VIP}:5060 -r 192.168.50.5:5060 -m"));
    let transport = Unsaid::new().transport("udp", "172.23.0.3", ["5060", "5060"], "");
    master.client("172.23.0.3", &transport);
    let told = master.told_with_data();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1, b"call-2@172.23.0.3");
    assert_eq!(told[0].2, b"sip");
    assert_eq!(told[0].0.client.port, 0);
}
