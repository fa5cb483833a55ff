//! Whole FTP dialogues through a worker with NAT: control connections, the data connections that
//! they announce, and the numbers of both ends.

use std::time::Duration;

use dataplane::command::Command;
use dataplane::packet::{DropReason, Packet, PortId, PuntClass, Verdict};
use dataplane::route::NeighbourId;

mod support;
use proptest::collection::vec;
use proptest::prelude::*;
use support::notation::{self, to_hex};
use support::rig::{self, Rig};

const VIP: &str = "192.168.40.200";
const SERVER: &str = "192.168.50.5";
const CLIENT: &str = "172.16.1.7";

/// Row of an established control connection, up to its seconds.
const CONTROL: &str = "172.16.1.7:40000 192.168.40.200:21 -> 192.168.50.5:21 ESTABLISHED ";

/// A control connection, seen from both ends.
struct Dialogue {
    rig: Rig,
    /// `ip` or `ip6`, client, virtual address, real server.
    ip: [&'static str; 4],
    /// Next sequence numbers: what the client sends, what the server sends, and what the client
    /// has seen of the latter.
    client: u32,
    server: u32,
    seen: u32,
}

/// A number as frames are printed, which leave out the usual one.
fn word(name: &str, value: u32, usual: u32) -> String {
    match (value == usual, usual) {
        (false, _) => format!("{name} {value}"),
        (true, 0) => name.to_owned(),
        (true, _) => String::new(),
    }
}

/// Verdict and what left, without Ethernet.
fn sent(outcome: (Verdict, Vec<u8>)) -> String {
    let (verdict, frame) = outcome;
    assert!(matches!(verdict, Verdict::Transmit(_)), "{verdict:?}");
    let text = notation::print(&frame);
    let (_, rest) = text.split_once(" | ").unwrap();
    rest.to_owned()
}

impl Dialogue {
    fn new(ip: [&'static str; 4]) -> Dialogue {
        let mut rig = Rig::new();
        let at = |addr: &str, port| match addr.contains(':') {
            true => format!("[{addr}]:{port}"),
            false => format!("{addr}:{port}"),
        };
        let service = at(ip[2], 21);
        rig.ipvsadm(&format!("-A -t {service} -s rr"));
        rig.ipvsadm(&format!("-a -t {service} -r {} -m", at(ip[3], 21)));
        Dialogue {
            rig,
            ip,
            client: 1000,
            server: 5000,
            seen: 5000,
        }
    }

    fn v4() -> Dialogue {
        Dialogue::new(["ip", CLIENT, VIP, SERVER])
    }

    /// After the handshake.
    fn open(mut self) -> Dialogue {
        self.tcp(0, "40000 > 21 syn seq 999");
        self.tcp(1, "21 > 40000 syn ack 1000 seq 4999");
        self.tcp(0, "40000 > 21 ack 5000 seq 1000");
        self
    }

    /// A segment by port 0 from the client or by port 1 from the server; what left.
    fn tcp(&mut self, port: u16, tcp: &str) -> String {
        sent(self.inject(port, tcp))
    }

    fn inject(&mut self, port: u16, tcp: &str) -> (Verdict, Vec<u8>) {
        let [ip, client, vip, server] = self.ip;
        let (src, dst) = if port == 0 {
            (client, vip)
        } else {
            (server, client)
        };
        let frame = notation::build(&format!(
            "eth 02:..:77 > 52:54:..:0{} | {ip} {src} > {dst} | tcp {tcp}",
            port + 1
        ));
        self.rig.inject(port, &frame)
    }

    /// The client says something; it arrives as it is, with the server's own numbers.
    fn says(&mut self, line: &str) {
        let data = to_hex(line.as_bytes());
        let (seq, ack) = (self.client, self.seen);
        let out = self.tcp(
            0,
            &format!("40000 > 21 psh ack {ack} seq {seq} | data {data}"),
        );
        let [ip, client, _, server] = self.ip;
        let want = format!(
            "{ip} {client} > {server} ttl 63 | tcp 40000 > 21 psh {}{} | data {data}",
            word("ack", self.server, 0),
            word(" seq", seq, 1)
        );
        assert_eq!(out, want, "{line}");
        self.client += line.len() as u32;
    }

    /// The server answers; the client sees these words at the number that it expects.
    fn answers(&mut self, line: &str, seen: &str) {
        self.repeats(line, seen);
        self.server = self.server.wrapping_add(line.len() as u32);
        self.seen = self.seen.wrapping_add(seen.len() as u32);
    }

    /// As [`Dialogue::answers`], and it will be sent again.
    fn repeats(&mut self, line: &str, seen: &str) {
        let (seq, ack) = (self.server, self.client);
        let data = to_hex(line.as_bytes());
        let out = self.tcp(
            1,
            &format!("21 > 40000 psh ack {ack} seq {seq} | data {data}"),
        );
        let [ip, client, vip, _] = self.ip;
        let want = format!(
            "{ip} {vip} > {client} ttl 63 | tcp 21 > 40000 psh ack {ack}{} | data {}",
            word(" seq", self.seen, 1),
            to_hex(seen.as_bytes())
        );
        assert_eq!(out, want, "{line}");
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.rig.now = self.rig.now + Duration::from_secs(1);
            (0..32).for_each(|_| self.rig.worker.expire(self.rig.now, 1000));
        }
    }

    /// Connections, sorted.
    fn conns(&mut self) -> Vec<String> {
        let rows = self.rig.connections();
        let mut rows: Vec<_> = rows
            .iter()
            .map(|c| {
                format!(
                    "{} {} -> {} {} {}s",
                    c.client, c.virtual_, c.dest, c.state, c.expires
                )
            })
            .collect();
        rows.sort();
        rows
    }

    fn has(&mut self, row: &str) {
        let rows = self.conns();
        assert!(rows.iter().any(|r| r == row), "no {row} in {rows:#?}");
    }
}

const PASSIVE: &str = "227 Entering Passive Mode (192,168,50,5,195,80).\r\n";
const REWRITTEN: &str = "227 Entering Passive Mode (192,168,40,200,195,80).\r\n";

#[test]
fn passive() {
    let mut d = Dialogue::v4().open();
    d.answers("220 ready\r\n", "220 ready\r\n");
    d.says("USER anonymous\r\n");
    d.answers("331 password?\r\n", "331 password?\r\n");
    // Nobody has asked for it.
    d.answers(PASSIVE, PASSIVE);
    assert_eq!(d.conns().len(), 1);
    d.says("PASV\r\n");
    // Lost on the way to the client, and sent again.
    d.repeats(PASSIVE, REWRITTEN);
    d.repeats(PASSIVE, REWRITTEN);
    d.answers(PASSIVE, REWRITTEN);
    assert_eq!(d.conns().len(), 2);
    d.has("172.16.1.7:0 192.168.40.200:50000 -> 192.168.50.5:50000 LISTEN 120s");

    // The data connection, whose client's port is known now.
    let out = d.tcp(0, "40001 > 50000 syn seq 77");
    assert_eq!(
        out,
        "ip 172.16.1.7 > 192.168.50.5 ttl 63 | tcp 40001 > 50000 syn seq 77"
    );
    d.has("172.16.1.7:40001 192.168.40.200:50000 -> 192.168.50.5:50000 SYN_RECV 60s");
    assert_eq!(d.conns().len(), 2);
    let out = d.tcp(1, "50000 > 40001 syn ack 78 seq 9");
    assert_eq!(
        out,
        "ip 192.168.40.200 > 172.16.1.7 ttl 63 | tcp 50000 > 40001 syn ack 78 seq 9"
    );
    d.tcp(0, "40001 > 50000 ack 10 seq 78");
    d.has("172.16.1.7:40001 192.168.40.200:50000 -> 192.168.50.5:50000 ESTABLISHED 900s");
    // There is no second one by the same announcement.
    assert!(matches!(
        d.inject(0, "40009 > 50000 syn").0,
        Verdict::Kernel(_)
    ));

    // The dialogue goes on with moved numbers, and a second answer moves them further.
    d.says("RETR file\r\n");
    d.answers("150 here it comes\r\n", "150 here it comes\r\n");
    d.answers("226 done\r\n", "226 done\r\n");
    d.says("pasv\r\n");
    d.answers(
        "227 Passive (192,168,50,5,195,81)\r\n",
        "227 Passive (192,168,40,200,195,81)\r\n",
    );
    d.says("QUIT\r\n");
    d.answers("221 bye\r\n", "221 bye\r\n");
    assert_eq!(d.seen - d.server, 4);
}

#[test]
fn the_client_s_port_is_filled_in_by_whoever_comes_first() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    // Another port, another client: nobody's.
    assert!(matches!(
        d.inject(0, "40001 > 50001 syn").0,
        Verdict::Kernel(_)
    ));
    d.ip[1] = "172.16.1.8";
    assert!(matches!(
        d.inject(0, "40001 > 50000 syn").0,
        Verdict::Kernel(_)
    ));
    d.ip[1] = CLIENT;
    d.tcp(0, "65000 > 50000 syn");
    assert_eq!(d.conns().len(), 2);
    // Announced again with the same port while the first one is on: one more.
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    assert_eq!(d.conns().len(), 3);
    d.wait(121);
    // It was not used; the first one has a SYN timeout of a minute.
    assert_eq!(d.conns().len(), 1, "{:?}", d.conns());
    assert!(matches!(
        d.inject(0, "65001 > 50000 syn").0,
        Verdict::Kernel(_)
    ));
}

#[test]
fn an_announced_connection_waits_for_its_server_to_come_back() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    let service = format!("-t {VIP}:21");
    d.rig.ipvsadm(&format!("-d {service} -r {SERVER}:21"));
    let (verdict, _) = d.inject(0, "40001 > 50000 syn");
    assert_eq!(verdict, Verdict::Drop(DropReason::DestinationGone));
    // The client's port is not taken from a packet that goes nowhere.
    d.has("172.16.1.7:0 192.168.40.200:50000 -> 192.168.50.5:50000 LISTEN 120s");
    d.rig.ipvsadm(&format!("-a {service} -r {SERVER}:21 -m"));
    d.tcp(0, "40002 > 50000 syn");
    d.has("172.16.1.7:40002 192.168.40.200:50000 -> 192.168.50.5:50000 SYN_RECV 60s");
}

#[test]
fn active() {
    let mut d = Dialogue::v4().open();
    d.says("PORT 172,16,1,7,156,66\r\n");
    d.has("172.16.1.7:40002 192.168.40.200:20 -> 192.168.50.5:20 LISTEN 120s");
    d.answers("200 ok\r\n", "200 ok\r\n");
    // The server opens it.
    let out = d.tcp(1, "20 > 40002 syn seq 70");
    assert_eq!(
        out,
        "ip 192.168.40.200 > 172.16.1.7 ttl 63 | tcp 20 > 40002 syn seq 70"
    );
    let out = d.tcp(0, "40002 > 20 syn ack 71 seq 5");
    assert_eq!(
        out,
        "ip 172.16.1.7 > 192.168.50.5 ttl 63 | tcp 40002 > 20 syn ack 71 seq 5"
    );
    d.tcp(1, "20 > 40002 ack 6 seq 71");
    let rows = d.conns();
    assert!(rows[1].starts_with("172.16.1.7:40002 192.168.40.200:20 -> 192.168.50.5:20"));
    // The same port once more is waited for anew.
    d.says("EPRT |1|172.16.1.7|40002|\r\n");
    d.has("172.16.1.7:40002 192.168.40.200:20 -> 192.168.50.5:20 LISTEN 120s");
    // Somebody else's address is nobody's business.
    d.says("PORT 172,16,1,8,156,66\r\n");
    assert_eq!(d.conns().len(), 2);
}

#[test]
fn ipv6() {
    let mut d = Dialogue::new(["ip6", "2001:db8::7", "fd40::200", "fd50::5"]).open();
    d.says("EPSV\r\n");
    let line = "229 Entering Extended Passive Mode (|||50000|)\r\n";
    d.answers(line, line);
    d.has("[2001:db8::7]:0 [fd40::200]:50000 -> [fd50::5]:50000 LISTEN 120s");
    let out = d.tcp(0, "40001 > 50000 syn");
    assert_eq!(
        out,
        "ip6 2001:db8::7 > fd50::5 ttl 63 | tcp 40001 > 50000 syn"
    );
    let out = d.tcp(1, "50000 > 40001 syn ack 2");
    assert_eq!(
        out,
        "ip6 fd40::200 > 2001:db8::7 ttl 63 | tcp 50000 > 40001 syn ack 2"
    );
    d.says("EPRT |2|2001:db8::7|40002|\r\n");
    d.has("[2001:db8::7]:40002 [fd40::200]:20 -> [fd50::5]:20 LISTEN 120s");
    let out = d.tcp(1, "20 > 40002 syn");
    assert_eq!(
        out,
        "ip6 fd40::200 > 2001:db8::7 ttl 63 | tcp 20 > 40002 syn"
    );
}

#[test]
fn what_is_cut_or_damaged() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    // Half an answer in each segment: both pass as they are.
    d.answers(
        "227 Entering Passive Mode (192,168",
        "227 Entering Passive Mode (192,168",
    );
    d.answers(",50,5,195,80)\r\n", ",50,5,195,80)\r\n");
    d.says("PO");
    d.says("RT 172,16,1,7,156,66\r\n");
    assert_eq!(d.conns().len(), 1);
    // A wrong checksum is not made right.
    let data = to_hex(PASSIVE.as_bytes());
    let (verdict, _) = d.inject(1, &format!("21 > 40000 ack 1 seq 9 csum bad | data {data}"));
    assert_eq!(verdict, Verdict::Drop(DropReason::TransportChecksum));
    let (verdict, _) = d.inject(0, "40000 > 21 ack 1 seq 9 csum bad");
    assert_eq!(verdict, Verdict::Drop(DropReason::TransportChecksum));
    // Elsewhere than on port 21 nobody looks.
    d.rig.ipvsadm("-A -t 192.168.40.200:80 -s rr");
    d.rig
        .ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.5:80 -m");
    d.tcp(0, "40000 > 80 syn csum bad");
}

#[test]
fn what_comes_with_the_last_segment_of_the_handshake() {
    let mut d = Dialogue::v4();
    d.tcp(0, "40000 > 21 syn seq 999");
    d.tcp(1, "21 > 40000 syn ack 1000 seq 4999");
    let data = to_hex(b"PORT 172,16,1,7,156,66\r\n");
    d.tcp(
        0,
        &format!("40000 > 21 psh ack 5000 seq 1000 | data {data}"),
    );
    d.has("172.16.1.7:40002 192.168.40.200:20 -> 192.168.50.5:20 LISTEN 120s");
}

#[test]
fn what_comes_with_a_fin_is_not_read() {
    let mut d = Dialogue::v4().open();
    let data = to_hex(b"PORT 172,16,1,7,156,66\r\n");
    d.tcp(
        0,
        &format!("40000 > 21 fin ack 5000 seq 1000 | data {data}"),
    );
    assert_eq!(d.conns().len(), 1);
}

#[test]
fn a_control_connection_may_begin_in_the_middle() {
    let mut d = Dialogue::v4();
    d.rig.change_settings(|s| s.sloppy_tcp = true);
    d.says("EPRT |1|172.16.1.7|40002|\r\n");
    d.has("172.16.1.7:40002 192.168.40.200:20 -> 192.168.50.5:20 LISTEN 120s");
    d.has(&format!("{CONTROL}900s"));
}

/// The kernel reads it when it is whole; there is nothing to read in it.
#[test]
fn a_handshake_may_come_in_pieces() {
    let mut d = Dialogue::v4();
    let piece = notation::build(&format!(
        "eth 02:..:77 > 52:54:..:01 | ip {CLIENT} > {VIP} id 7 mf \
         | tcp 40000 > 21 syn | bytes 20"
    ));
    assert_eq!(
        d.rig.inject(0, &piece).0,
        Verdict::Transmit(dataplane::packet::PortId(1))
    );
}

#[test]
fn a_damaged_segment_goes_no_further_than_the_counters() {
    let mut d = Dialogue::v4();
    // Neither does the one that opens the connection.
    let (verdict, _) = d.inject(0, "40000 > 21 syn seq 999 csum bad");
    assert_eq!(verdict, Verdict::Drop(DropReason::TransportChecksum));
    d.has("172.16.1.7:40000 192.168.40.200:21 -> 192.168.50.5:21 SYN_RECV 60s");
    let mut d = Dialogue::v4().open();
    let (verdict, _) = d.inject(0, "40000 > 21 fin ack 5000 seq 1000 csum bad");
    assert_eq!(verdict, Verdict::Drop(DropReason::TransportChecksum));
    d.has("172.16.1.7:40000 192.168.40.200:21 -> 192.168.50.5:21 CLOSE_WAIT 60s");
}

#[test]
fn no_room_in_the_buffer() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    let data = to_hex(PASSIVE.as_bytes());
    let mut frame = notation::build(&format!(
        "eth 02:..:77 > 52:54:..:02 | ip {SERVER} > {CLIENT} | tcp 21 > 40000 ack {} seq 5000 \
         | data {data}",
        d.client
    ));
    let len = frame.len() as u16;
    let mut packet = Packet::new(&mut frame, 0, len, PortId(1));
    let mut out = [Verdict::Wait];
    let now = d.rig.now;
    d.rig
        .worker
        .process(now, std::slice::from_mut(&mut packet), &mut out);
    assert_eq!(out[0], Verdict::Drop(DropReason::NoHeadroom));
    assert_eq!(d.conns().len(), 1);
    // Sent again into a larger one.
    d.answers(PASSIVE, REWRITTEN);
}

#[test]
fn the_control_connection_outlives_its_data() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    d.tcp(0, "40001 > 50000 syn");
    d.tcp(1, "50000 > 40001 syn ack 2");
    d.tcp(0, "40001 > 50000 ack 2 seq 2");
    // A long download: nothing is said meanwhile.
    for _ in 0..4 {
        d.wait(250);
        d.tcp(1, "50000 > 40001 ack 2 seq 2");
    }
    // 900 seconds are over; it has a minute at a time now.
    for _ in 0..70 {
        d.wait(1);
        let rows = d.conns();
        let left = rows[0]
            .strip_prefix(CONTROL)
            .expect("the control connection");
        let seconds: u32 = left.trim_end_matches('s').parse().unwrap();
        assert!(seconds <= 60, "{rows:#?}");
    }
    d.answers("226 done\r\n", "226 done\r\n");
    d.has(&format!("{CONTROL}900s"));
    // Both end.
    d.tcp(0, "40001 > 50000 rst");
    d.wait(901);
    assert_eq!(d.conns(), Vec::<String>::new());
    let counters = &d.rig.counters;
    assert_eq!(counters.dests[0].total.get(), 0);
    assert_eq!(counters.dests[0].active.get(), 0);
    // Data connections were not scheduled.
    assert_eq!(counters.dests[0].conns.get(), 1);
    assert_eq!(counters.connections.get(), 0);
}

#[test]
fn selective_acknowledgements_move_too() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    let block = |from: u32| format!("{:08x}{:08x}", from, from + 10);
    let options = format!("0101050a{}", block(d.seen + 100));
    let out = d.tcp(
        0,
        &format!("40000 > 21 ack {} seq 2000 options {options}", d.seen),
    );
    let want = format!("0101050a{}", block(d.server + 100));
    assert!(out.contains(&format!("ack {} ", d.server)), "{out}");
    assert!(out.contains(&want), "{out}");
    assert!(!out.contains("csum"), "{out}");
}

/// A persistent service: the template controls the control connection, which controls the data.
#[test]
fn persistent() {
    let mut d = Dialogue::v4();
    d.rig.ipvsadm("-E -t 192.168.40.200:21 -s rr -p 300");
    let mut d = d.open();
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    d.tcp(0, "40001 > 50000 syn");
    assert_eq!(d.conns().len(), 3);
    d.has("172.16.1.7:0 192.168.40.200:0 -> 192.168.50.5:0 ASSURED 300s");
    d.wait(250);
    d.says("NOOP\r\n");
    assert_eq!(d.conns().len(), 2);
    d.wait(901);
    d.wait(61);
    assert_eq!(d.conns(), Vec::<String>::new());
}

/// A packet that waits for the MAC of the next hop comes again: it is changed once.
#[test]
fn waiting_for_the_next_hop() {
    let mut d = Dialogue::v4().open();
    d.says("PASV\r\n");
    d.answers(PASSIVE, REWRITTEN);
    // The gateway, which is the first neighbour of all.
    d.rig.apply(Command::DeleteNeighbour(NeighbourId(0)));
    let data = to_hex(PASSIVE.as_bytes());
    let (seq, ack) = (d.server, d.client);
    let line = format!("21 > 40000 psh ack {ack} seq {seq} | data {data}");
    let (verdict, left) = d.inject(1, &line);
    assert_eq!(verdict, Verdict::Wait);
    assert!(notation::print(&left).contains(&data), "not changed yet");
    d.rig.neighbour(
        0,
        "192.168.40.254",
        rig::mac_of(&rig::addr("192.168.40.254")),
    );
    d.answers(PASSIVE, REWRITTEN);
    d.answers("226 done\r\n", "226 done\r\n");
}

/// The server's other connections are its own, whatever its role on every port.
#[test]
fn other_connections_of_the_server() {
    let mut d = Dialogue::v4();
    d.rig.change_settings(|s| s.nat_icmp_send = true);
    let (verdict, _) = d.inject(1, "33000 > 80 syn");
    assert_eq!(verdict, Verdict::Kernel(PuntClass::Transit));
    let (verdict, answer) = d.inject(1, "21 > 40000 ack 1");
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert!(notation::print(&answer).contains("icmp 3 3"));
    assert_eq!(d.conns(), Vec::<String>::new());
}

/// What may be said.
#[derive(Clone, Debug)]
enum Line {
    Client(String),
    Pasv,
    Server(String),
    Named(u16),
    /// The last answer once more, before anything else is said.
    Twice,
}

fn line() -> impl Strategy<Value = Line> {
    let words = "[a-zA-Z ()|,0-9]{0,40}";
    prop_oneof![
        words.prop_map(|s| Line::Client(format!("X{s}\r\n"))),
        Just(Line::Pasv),
        words.prop_map(|s| Line::Server(format!("200 {s}\r\n"))),
        (1024u16..).prop_map(Line::Named),
        (1024u16..).prop_map(Line::Named),
        Just(Line::Twice),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Each end gets what the other one said, without a hole, however often words grow and
    /// shrink; nothing but the endpoint is changed.
    #[test]
    fn random_dialogues(lines in vec(line(), 1..40), octet in 2u8..255, start: u32) {
        let server = format!("192.168.50.{octet}");
        let mut d = Dialogue::new(["ip", CLIENT, VIP, Box::leak(server.clone().into_boxed_str())]);
        d.rig.neighbour(1, &server, rig::mac_of(&rig::addr(&server)));
        (d.server, d.seen) = (start, start);
        d.tcp(0, "40000 > 21 syn seq 999");
        d.tcp(1, &format!("21 > 40000 syn ack 1000 seq {}", start.wrapping_sub(1)));
        d.tcp(0, &format!("40000 > 21 ack {start} seq 1000"));
        let mut asked = false;
        let mut again = None;
        for line in lines {
            match line {
                Line::Client(text) => d.says(&text),
                Line::Pasv => {
                    d.says("PASV\r\n");
                    (asked, again) = (true, None);
                }
                Line::Server(text) => {
                    d.answers(&text, &text);
                    again = None;
                }
                Line::Named(port) => {
                    let [high, low] = port.to_be_bytes();
                    let words = |addr: &str| {
                        let addr = addr.replace('.', ",");
                        format!("227 Passive ({addr},{high},{low}) now\r\n")
                    };
                    let said = words(&server);
                    let seen = if asked { words(VIP) } else { said.clone() };
                    d.answers(&said, &seen);
                    again = Some((said, seen));
                }
                Line::Twice => {
                    if let Some((said, seen)) = &again {
                        let (server, at) = (d.server, d.seen);
                        d.server = server.wrapping_sub(said.len() as u32);
                        d.seen = at.wrapping_sub(seen.len() as u32);
                        d.repeats(said, seen);
                        (d.server, d.seen) = (server, at);
                    }
                }
            }
        }
    }
}
