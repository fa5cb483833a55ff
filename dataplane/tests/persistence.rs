//! Persistence rules that no recording shows: how long templates live, when they are assured, and
//! what they do not care about.

use std::time::Duration;

use dataplane::command::ConnectionView;
use dataplane::packet::{PortId, Verdict};

mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

const VIP: &str = "192.168.40.200";

fn frame(from_server: bool, src: &str, dst: &str, transport: &str) -> Vec<u8> {
    let (port, neighbour) = if from_server {
        (1, mac_of(&addr(src)))
    } else {
        (0, mac_of(&addr("192.168.40.254")))
    };
    let to = PORT_MACS[port];
    notation::build(&format!(
        "eth {neighbour} > {to} | ip {src} > {dst} | {transport}"
    ))
}

/// Last byte of the server that a client's packet is sent to.
fn send(rig: &mut Rig, client: &str, transport: &str) -> Option<u8> {
    let (verdict, after) = rig.inject(0, &frame(false, client, VIP, transport));
    (verdict == Verdict::Transmit(PortId(1))).then(|| after[33])
}

fn answer(rig: &mut Rig, server: &str, client: &str, transport: &str) {
    let (verdict, _) = rig.inject(1, &frame(true, server, client, transport));
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
}

/// A persistent TCP service on two servers.
fn rig(options: &str) -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -t {VIP}:443 -s rr {options}"));
    for n in [5, 6] {
        rig.ipvsadm(&format!("-a -t {VIP}:443 -r 192.168.50.{n}:443 -m"));
    }
    rig
}

fn templates(rig: &mut Rig) -> Vec<ConnectionView> {
    let rows = rig.connections().into_iter();
    rows.filter(|c| c.is_template).collect()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_template_with_connections_gets_a_minute_for_good() {
    let mut rig = rig("-p 4");
    let first = send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn");
    assert_eq!(templates(&mut rig)[0].expires, 4);
    rig.sleep(secs(5));
    let left = templates(&mut rig)[0].expires;
    assert!((58..=59).contains(&left), "{left} s");
    rig.sleep(secs(20));
    // A new connection restarts the minute, not the four seconds.
    let second = send(&mut rig, "172.16.0.1", "tcp 1001 > 443 syn");
    assert_eq!(first, second);
    assert_eq!(templates(&mut rig)[0].expires, 60);
    rig.sleep(secs(130));
    assert_eq!(rig.connections(), []);
    let persistent = rig.counters.dests.iter().map(|d| d.persistent.get());
    assert_eq!(persistent.sum::<u32>(), 0);
}

/// Template and connection are due together, whichever shards they are in.
#[test]
fn a_template_ends_with_its_connections() {
    let mut rig = rig("-p 900");
    for n in 1..50 {
        let client = format!("172.16.0.{n}");
        send(&mut rig, &client, "tcp 1000 > 443 syn");
        rig.sleep(Duration::from_millis(20));
        send(&mut rig, &client, "tcp 1000 > 443 ack");
    }
    // One that was used a good while after its template was made.
    let late = "172.16.0.200";
    send(&mut rig, late, "tcp 1000 > 443 syn");
    rig.sleep(secs(10));
    send(&mut rig, late, "tcp 1000 > 443 ack");
    assert_eq!(templates(&mut rig).len(), 50);
    rig.sleep(secs(900 - 11));
    assert_eq!(templates(&mut rig).len(), 50);
    rig.sleep(secs(10));
    let left: Vec<_> = templates(&mut rig).iter().map(|c| c.expires).collect();
    assert_eq!(left.len(), 1);
    assert!(left[0] >= 58, "{} s", left[0]);
}

#[test]
fn packets_of_a_connection_do_not_touch_the_template() {
    let mut rig = rig("-p 100");
    send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn");
    rig.sleep(secs(10));
    send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn");
    let left = templates(&mut rig)[0].expires;
    assert!(left <= 90, "{left} s");
    send(&mut rig, "172.16.0.1", "tcp 1001 > 443 syn");
    assert_eq!(templates(&mut rig)[0].expires, 100);
}

#[test]
fn an_answered_connection_assures_its_template() {
    let mut rig = rig("-p 100");
    let server = send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn").unwrap();
    assert_eq!(templates(&mut rig)[0].state, "NONE");
    let server = format!("192.168.50.{server}");
    answer(&mut rig, &server, "172.16.0.1", "tcp 443 > 1000 syn ack 1");
    assert_eq!(templates(&mut rig)[0].state, "NONE");
    send(&mut rig, "172.16.0.1", "tcp 1000 > 443 ack 1");
    assert_eq!(templates(&mut rig)[0].state, "ASSURED");

    rig.ipvsadm(&format!("-A -u {VIP}:53 -s rr -p 100"));
    rig.ipvsadm(&format!("-a -u {VIP}:53 -r 192.168.50.5:53 -m"));
    send(&mut rig, "172.16.0.2", "udp 1000 > 53 | bytes 8");
    let state = |rig: &mut Rig| {
        let all = templates(rig);
        all.iter().find(|t| t.virtual_.port == 53).unwrap().state
    };
    assert_eq!(state(&mut rig), "NONE");
    answer(
        &mut rig,
        "192.168.50.5",
        "172.16.0.2",
        "udp 53 > 1000 | bytes 8",
    );
    assert_eq!(state(&mut rig), "ASSURED");
}

#[test]
fn no_packet_takes_a_template_for_its_connection() {
    let mut rig = rig("-p 100");
    send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn");
    // The tuple of the template: its client, no port, the service.
    let again = send(&mut rig, "172.16.0.1", "tcp 0 > 443 ack 1");
    assert_eq!(again, None, "an ACK opens nothing");
    send(&mut rig, "172.16.0.1", "tcp 0 > 443 syn").unwrap();
    assert_eq!((rig.connections().len(), templates(&mut rig).len()), (3, 1));
}

#[test]
fn controlled_connections_are_not_scheduled_anew() {
    let mut rig = rig("-p 100");
    rig.change_settings(|s| s.expire_quiescent_template = true);
    let first = send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn").unwrap();
    let server = format!("192.168.50.{first}");
    answer(&mut rig, &server, "172.16.0.1", "tcp 443 > 1000 rst ack 1");
    rig.ipvsadm(&format!("-e -t {VIP}:443 -r {server}:443 -m -w 0"));
    // In CLOSE, which for a connection of its own would mean another server.
    assert_eq!(
        send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn"),
        Some(first)
    );
    let other = send(&mut rig, "172.16.0.1", "tcp 1001 > 443 syn").unwrap();
    assert_ne!(other, first, "a new connection leaves the quiet server");
    let mut ports: Vec<u16> = templates(&mut rig)
        .iter()
        .map(|t| t.virtual_.port)
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [443, 65535], "the old template is out of use");
}

#[test]
fn thresholds_do_not_keep_a_client_from_its_server() {
    let mut rig = rig("-p 100");
    for n in [5, 6] {
        rig.ipvsadm(&format!("-e -t {VIP}:443 -r 192.168.50.{n}:443 -m -x 1"));
    }
    let first = send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn");
    let second = send(&mut rig, "172.16.0.2", "tcp 1000 > 443 syn");
    assert_ne!(first, second);
    assert_eq!(send(&mut rig, "172.16.0.3", "tcp 1000 > 443 syn"), None);
    assert_eq!(send(&mut rig, "172.16.0.1", "tcp 1001 > 443 syn"), first);
}

#[test]
fn another_mask_orphans_the_templates() {
    let mut rig = rig("-p 100");
    send(&mut rig, "172.16.0.1", "tcp 1000 > 443 syn");
    rig.ipvsadm(&format!("-E -t {VIP}:443 -s rr -p 50 -M 255.255.255.0"));
    let first = send(&mut rig, "172.16.0.2", "tcp 1000 > 443 syn");
    assert_eq!(send(&mut rig, "172.16.0.1", "tcp 1001 > 443 syn"), first);
    let mut all = templates(&mut rig);
    all.sort_by_key(|t| t.expires);
    let networks: Vec<_> = all.iter().map(|t| t.client.addr.to_string()).collect();
    assert_eq!(networks, ["172.16.0.0", "172.16.0.1"]);
}

#[test]
fn a_service_on_port_0_is_behind_exact_ones_and_needs_persistence() {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -t {VIP}:0 -s rr"));
    rig.ipvsadm(&format!("-a -t {VIP}:0 -r 192.168.50.5:0 -m"));
    assert_eq!(send(&mut rig, "172.16.0.1", "tcp 1000 > 80 syn"), None);
    rig.ipvsadm(&format!("-E -t {VIP}:0 -s rr -p 60"));
    assert_eq!(send(&mut rig, "172.16.0.1", "tcp 1000 > 80 syn"), Some(5));
    rig.ipvsadm(&format!("-A -t {VIP}:443 -s rr"));
    rig.ipvsadm(&format!("-a -t {VIP}:443 -r 192.168.50.6:443 -m"));
    assert_eq!(send(&mut rig, "172.16.0.1", "tcp 1001 > 443 syn"), Some(6));
}

#[test]
fn marks_bring_packets_to_addresses_that_are_not_ours() {
    let mut rig = Rig::new();
    let away = |rig: &mut Rig, port: u16| {
        let transport = format!("tcp {port} > 80 syn");
        let (verdict, after) = rig.inject(0, &frame(false, "172.16.0.1", "10.9.9.9", &transport));
        (verdict == Verdict::Transmit(PortId(1))).then(|| after[33])
    };
    rig.ipvsadm("-A -f 7 -s rr");
    rig.ipvsadm("-a -f 7 -r 192.168.50.5 -m");
    assert_eq!(away(&mut rig, 1000), None);
    rig.nft("ip daddr 10.9.9.0/24 tcp dport 80 meta mark set 7");
    assert_eq!(away(&mut rig, 1000), Some(5));
    // The answer comes from there.
    let back = frame(
        true,
        "192.168.50.5",
        "172.16.0.1",
        "tcp 80 > 1000 syn ack 1",
    );
    let (verdict, after) = rig.inject(1, &back);
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    assert_eq!(after[26..30], [10, 9, 9, 9]);
    // So does an error about the answer go there.
    let error = |port: u16| {
        let quoted = format!("icmp 3 3 | ip 10.9.9.9 > 172.16.0.1 | tcp 80 > {port} syn ack 1");
        frame(false, "172.16.0.1", "10.9.9.9", &quoted)
    };
    let (verdict, after) = rig.inject(0, &error(1000));
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(after[30..34], [192, 168, 50, 5]);
    // One that is to open a connection needs a mark itself, and is no TCP.
    rig.change_settings(|s| s.schedule_icmp = true);
    let (verdict, _) = rig.inject(0, &error(1001));
    assert!(matches!(verdict, Verdict::Kernel(_)), "{verdict:?}");
    rig.nft("ip daddr 10.9.9.0/24 meta mark set 7");
    let (verdict, _) = rig.inject(0, &error(1001));
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
}

#[test]
fn a_one_packet_service_chooses_once_for_a_packet_that_waits() {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -u {VIP}:53 -s rr -o -p 100"));
    for n in [5, 6] {
        rig.ipvsadm(&format!("-a -u {VIP}:53 -r 192.168.50.{n} -g"));
    }
    rig.forget_neighbours(1);
    let request = "udp 1000 > 53 | bytes 8";
    let (verdict, _) = rig.inject(0, &frame(false, "172.16.0.1", VIP, request));
    assert_eq!(verdict, Verdict::Wait);
    let chosen = templates(&mut rig)[0].dest.addr;
    for n in [5, 6] {
        let server = format!("192.168.50.{n}");
        rig.neighbour(1, &server, mac_of(&addr(&server)));
    }
    let mac_to = |rig: &mut Rig, client: &str| {
        let (verdict, after) = rig.inject(0, &frame(false, client, VIP, request));
        assert_eq!(verdict, Verdict::Transmit(PortId(1)));
        after[..6].to_vec()
    };
    assert_eq!(mac_to(&mut rig, "172.16.0.1"), mac_of(&chosen).0);
    assert_eq!(templates(&mut rig).len(), 1);
    assert_ne!(mac_to(&mut rig, "172.16.0.2"), mac_of(&chosen).0, "rr");
}

/// Its answer is the host's to route, and so are all pieces of it.
#[test]
fn a_one_packet_connection_says_nothing_about_later_pieces() {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -u {VIP}:53 -s rr -o"));
    rig.ipvsadm(&format!("-a -u {VIP}:53 -r 192.168.50.5 -m"));
    let request = "udp 1000 > 53 | bytes 8";
    assert_eq!(send(&mut rig, "172.16.0.1", request), Some(5));
    let head = format!("eth {} > {}", mac_of(&addr("192.168.50.5")), PORT_MACS[1]);
    for rest in [
        "mf | udp 53 > 1000 len 80 | bytes 32",
        "offset 40 proto 17 | bytes 40",
    ] {
        let piece = format!("{head} | ip 192.168.50.5 > 172.16.0.1 id 4 {rest}");
        let (verdict, _) = rig.inject(1, &notation::build(&piece));
        assert!(matches!(verdict, Verdict::Kernel(_)), "{rest}: {verdict:?}");
    }
}
