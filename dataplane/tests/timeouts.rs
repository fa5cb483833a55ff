//! Timeouts of one service in place of the common ones.

use std::time::Duration;

use dataplane::packet::{PortId, Verdict};

mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

const VIP: &str = "192.168.40.200";

/// Of the client 172.16.0.1, port 1000, to the virtual address.
fn send(rig: &mut Rig, transport: &str) {
    let (gateway, to) = (mac_of(&addr("192.168.40.254")), PORT_MACS[0]);
    let frame = notation::build(&format!(
        "eth {gateway} > {to} | ip 172.16.0.1 > {VIP} | {transport}"
    ));
    let (verdict, _) = rig.inject(0, &frame);
    assert_eq!(verdict, Verdict::Transmit(PortId(1)), "{transport}");
}

/// A service with one server, reached by NAT, and timeouts of its own if any are given.
fn serve(rig: &mut Rig, service: &str, timeouts: &str) {
    let timeouts = match timeouts {
        "" => String::new(),
        list => format!(" --conn-timeouts {list}"),
    };
    rig.ipvsadm(&format!("-A {service} -s rr{timeouts}"));
    rig.ipvsadm(&format!("-a {service} -r 192.168.50.5 -m"));
}

/// Seconds that the only connection has left.
fn left(rig: &mut Rig) -> u32 {
    let rows = rig.connections();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0].expires
}

#[test]
fn each_state_that_has_one_takes_the_timeout_of_its_service() {
    let own = "tcp=70,tcpfin=12,udp=33,sctp=44";
    let tcp = format!("-t {VIP}:80");
    let udp = format!("-u {VIP}:53");
    let sctp = format!("--sctp-service {VIP}:9");
    // (service, packets, with its own timeouts, with the common ones)
    let syn_ack = ["tcp 1000 > 80 syn", "tcp 1000 > 80 ack 1"];
    let cases: [(&str, &[&str], u32, u32); 5] = [
        (&tcp, &syn_ack, 70, 900),
        (&tcp, &syn_ack[..1], 60, 60),
        (&udp, &["udp 1000 > 53 | bytes 8"], 33, 300),
        (&sctp, &["sctp 1000 > 9 | chunk init"], 4, 4),
        (&sctp, &["sctp 1000 > 9 | chunk data"], 44, 900),
    ];
    for (service, packets, with, without) in cases {
        for (timeouts, want) in [(own, with), ("", without)] {
            let mut rig = Rig::new();
            rig.change_settings(|s| s.sloppy_sctp = true);
            serve(&mut rig, service, timeouts);
            for packet in packets {
                send(&mut rig, packet);
            }
            assert_eq!(left(&mut rig), want, "{service} {packets:?} {timeouts:?}");
        }
    }
}

#[test]
fn fin_wait_has_its_own() {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -t {VIP}:80 -s rr --conn-timeouts tcpfin=12"));
    rig.ipvsadm(&format!("-a -t {VIP}:80 -r 192.168.50.5 -g"));
    for flags in ["syn", "ack 1"] {
        send(&mut rig, &format!("tcp 1000 > 80 {flags}"));
    }
    assert_eq!(left(&mut rig), 900, "the others are the common ones");
    send(&mut rig, "tcp 1000 > 80 fin ack 1");
    assert_eq!(left(&mut rig), 12);
}

#[test]
fn existing_connections_take_a_new_timeout_with_their_next_packet() {
    let mut rig = Rig::new();
    let service = format!("-t {VIP}:80");
    serve(&mut rig, &service, "");
    send(&mut rig, "tcp 1000 > 80 syn");
    send(&mut rig, "tcp 1000 > 80 ack 1");
    for (edit, want) in [
        ("--conn-timeouts tcp=50", 50),
        ("--conn-timeouts tcp=5000", 5000),
        ("", 900),
    ] {
        let before = left(&mut rig);
        rig.ipvsadm(&format!("-E {service} -s rr {edit}"));
        assert_eq!(left(&mut rig), before, "{edit:?}: not yet");
        send(&mut rig, "tcp 1000 > 80 ack 1");
        assert_eq!(left(&mut rig), want, "{edit:?}");
    }
    // The common ones change for services without only.
    rig.change_settings(|s| s.timeouts.tcp = 600);
    send(&mut rig, "tcp 1000 > 80 ack 1");
    assert_eq!(left(&mut rig), 600);
    rig.ipvsadm(&format!("-E {service} -s rr --conn-timeouts tcp=50"));
    rig.change_settings(|s| s.timeouts.tcp = 700);
    send(&mut rig, "tcp 1000 > 80 ack 1");
    assert_eq!(left(&mut rig), 50);
}

#[test]
fn a_connection_ends_by_the_timeout_of_its_service() {
    let mut rig = Rig::new();
    serve(&mut rig, &format!("-u {VIP}:53"), "udp=3");
    send(&mut rig, "udp 1000 > 53 | bytes 8");
    rig.sleep(Duration::from_secs(2));
    assert_eq!(rig.connections().len(), 1);
    rig.sleep(Duration::from_secs(2));
    assert_eq!(rig.connections(), []);
}

#[test]
fn the_same_server_has_those_of_each_of_its_services() {
    let mut rig = Rig::new();
    serve(&mut rig, &format!("-u {VIP}:53"), "udp=3");
    serve(&mut rig, &format!("-u {VIP}:54"), "udp=4");
    serve(&mut rig, &format!("-u {VIP}:55"), "");
    for (port, want) in [(53, 3), (54, 4), (55, 300)] {
        send(&mut rig, &format!("udp 1000 > {port} | bytes 8"));
        let rows = rig.connections();
        let row = rows.iter().find(|c| c.virtual_.port == port).unwrap();
        assert_eq!(row.expires, want, "{port}");
    }
}
