//! `cache_bypass`: what a marked service without a usable server lets pass.

use std::time::Duration;

use dataplane::packet::{DropReason, PortId, PuntClass, Verdict};

mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

const CLIENT: &str = "172.16.0.1";
const ORIGIN: &str = "100.64.0.9";

fn frame(src: &str, dst: &str, rest: &str) -> Vec<u8> {
    let gateway = mac_of(&addr("192.168.40.254"));
    let to = PORT_MACS[0];
    notation::build(&format!("eth {gateway} > {to} | ip {src} > {dst} {rest}"))
}

/// From the client to the origin, by the only port that leads there.
fn send(rig: &mut Rig, rest: &str) -> (Verdict, Vec<u8>) {
    rig.inject(0, &frame(CLIENT, ORIGIN, rest))
}

/// A service for the mark of 100.64.0.0/24, without servers.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.change_settings(|s| s.cache_bypass = true);
    rig.ipvsadm("-A -f 9 -s rr");
    rig.nft("ip daddr 100.64.0.0/24 meta mark set 9");
    rig
}

/// State, seconds left and the server, as listed.
fn rows(rig: &mut Rig) -> Vec<(&'static str, u32, String)> {
    let rows = rig.connections().into_iter();
    rows.map(|c| {
        (
            c.state,
            c.expires,
            format!("{}:{}", c.dest.addr, c.dest.port),
        )
    })
    .collect()
}

/// The frame goes back out of the port it came by, to the gateway, one hop older.
fn passed(sent: &[u8], (verdict, after): (Verdict, Vec<u8>)) {
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    assert_eq!(after[..6], mac_of(&addr("192.168.40.254")).0);
    assert_eq!(after[6..12], PORT_MACS[0].0);
    assert_eq!((after[22], &after[26..]), (sent[22] - 1, &sent[26..]));
}

#[test]
fn a_packet_to_another_host_goes_there_with_a_connection() {
    let mut rig = rig();
    let syn = frame(CLIENT, ORIGIN, "| tcp 1000 > 80 syn");
    let outcome = rig.inject(0, &syn);
    passed(&syn, outcome);
    let nobody = "0.0.0.0:0".to_string();
    assert_eq!(rows(&mut rig), [("SYN_RECV", 60, nobody.clone())]);
    // An answer that passes by is followed, and is the kernel's to forward.
    let answer = frame(ORIGIN, CLIENT, "| tcp 80 > 1000 syn ack 1");
    let (verdict, after) = rig.inject(0, &answer);
    assert_eq!(verdict, Verdict::Kernel(PuntClass::Transit));
    assert_eq!(after, answer);
    let ack = frame(CLIENT, ORIGIN, "| tcp 1000 > 80 ack 1");
    let outcome = rig.inject(0, &ack);
    passed(&ack, outcome);
    assert_eq!(rows(&mut rig), [("ESTABLISHED", 900, nobody)]);
    // A server comes: connections stay with what they were made for, new ones go to it.
    rig.ipvsadm("-a -f 9 -r 192.168.50.5:0 -g");
    assert_eq!(
        send(&mut rig, "| tcp 1000 > 80 ack 1").0,
        Verdict::Transmit(PortId(0))
    );
    assert_eq!(
        send(&mut rig, "| tcp 1001 > 80 syn").0,
        Verdict::Transmit(PortId(1))
    );
    // Its client's FIN leads to CLOSE_WAIT: the two-way table, as the connection has no server
    // that would make it a one-way one.
    send(&mut rig, "| tcp 1000 > 80 fin ack 1");
    assert_eq!(rows(&mut rig)[0].0, "CLOSE_WAIT");
    let conns: u64 = rig.counters.dests.iter().map(|d| d.conns.get()).sum();
    assert_eq!(conns, 1, "no server is counted for what went past");
}

#[test]
fn only_for_marks_only_if_asked_and_only_to_other_hosts() {
    let unreachable = |rig: &mut Rig, dst: &str| {
        let (verdict, after) = rig.inject(0, &frame(CLIENT, dst, "| tcp 1000 > 80 syn"));
        assert_eq!(verdict, Verdict::Transmit(PortId(0)), "{dst}");
        let is_icmp = (after[23], after[34], after[35]) == (1, 3, 3);
        assert!(is_icmp, "{dst}: {after:02x?}");
        assert_eq!(rig.connections(), [], "{dst}");
    };
    let mut off = rig();
    off.change_settings(|s| s.cache_bypass = false);
    unreachable(&mut off, ORIGIN);
    let mut ours = rig();
    ours.local("100.64.0.9/32");
    unreachable(&mut ours, ORIGIN);
    let mut group = rig();
    group.nft("ip daddr 224.0.1.0/24 meta mark set 9");
    let syn = frame(CLIENT, "224.0.1.9", "| tcp 1000 > 80 syn");
    group.inject(0, &syn);
    assert_eq!(group.connections(), []);
    let mut unmarked = rig();
    unmarked.ipvsadm("-A -t 192.168.40.200:80 -s rr");
    unreachable(&mut unmarked, "192.168.40.200");
}

#[test]
fn no_server_for_a_client_of_its_own_is_no_server() {
    let mut rig = rig();
    rig.ipvsadm("-E -f 9 -s rr -p 100");
    rig.ipvsadm("-a -f 9 -r 192.168.50.5:0 -g -w 0");
    assert_eq!(
        send(&mut rig, "| tcp 1000 > 80 syn").0,
        Verdict::Transmit(PortId(0))
    );
    assert_eq!(rig.connections().len(), 1, "no template");
}

#[test]
fn it_is_forwarded_as_any_router_would() {
    let mut rig = rig();
    let (verdict, after) = send(&mut rig, "ttl 1 | udp 1000 > 53 | bytes 8");
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    assert_eq!((after[23], after[34]), (1, 11), "time exceeded");
    rig.set_mtu(0, 500);
    let (_, after) = send(&mut rig, "df | udp 1000 > 53 | bytes 600");
    assert_eq!((after[34], after[35]), (3, 4), "fragmentation needed");
    let (verdict, _) = send(&mut rig, "| udp 1000 > 53 | bytes 600");
    assert_eq!(verdict, Verdict::Fragment(PortId(0), 500));
    rig.set_mtu(0, 1500);
    let error = format!("| icmp 3 3 | ip {ORIGIN} > {CLIENT} | udp 53 > 1000 | bytes 8");
    let (verdict, after) = send(&mut rig, &error);
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    assert_eq!(
        after[30..34],
        [100, 64, 0, 9],
        "an error of the client's is passed on"
    );
    // The pieces of a packet go where its first goes.
    let (verdict, _) = send(&mut rig, "id 7 mf | udp 1000 > 53 len 108 | bytes 16");
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    let (verdict, _) = send(&mut rig, "id 7 offset 24 proto 17 | bytes 84");
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
}

#[test]
fn what_leaves_by_no_data_port_is_the_hosts_to_forward() {
    let mut rig = rig();
    rig.nft("ip daddr 198.51.100.0/24 meta mark set 9");
    let syn = frame(CLIENT, "198.51.100.9", "| tcp 1000 > 80 syn");
    let (verdict, after) = rig.inject(0, &syn);
    assert_eq!(verdict, Verdict::Kernel(PuntClass::Transit));
    assert_eq!(after, syn);
}

#[test]
fn it_waits_for_the_next_hop() {
    let mut rig = rig();
    rig.forget_neighbours(0);
    for _ in 0..2 {
        assert_eq!(send(&mut rig, "| tcp 1000 > 80 syn").0, Verdict::Wait);
    }
    assert_eq!(rig.connections().len(), 1);
    rig.neighbour(0, "192.168.40.254", mac_of(&addr("192.168.40.254")));
    assert_eq!(
        send(&mut rig, "| tcp 1000 > 80 syn").0,
        Verdict::Transmit(PortId(0))
    );
    assert_eq!(rows(&mut rig)[0].0, "SYN_RECV");
}

#[test]
fn one_packet_waits_too_and_leaves_nothing() {
    let mut rig = rig();
    rig.ipvsadm("-E -f 9 -s rr -o");
    rig.forget_neighbours(0);
    for _ in 0..2 {
        let (verdict, _) = send(&mut rig, "| udp 1000 > 53 | bytes 8");
        assert_eq!(verdict, Verdict::Wait);
    }
    rig.neighbour(0, "192.168.40.254", mac_of(&addr("192.168.40.254")));
    let (verdict, _) = send(&mut rig, "| udp 1000 > 53 | bytes 8");
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
}

#[test]
fn an_address_that_became_ours_is_not_delivered_to() {
    let mut rig = rig();
    send(&mut rig, "| tcp 1000 > 80 syn");
    rig.local("100.64.0.9/32");
    let (verdict, _) = send(&mut rig, "| tcp 1000 > 80 ack 1");
    assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
}

/// Its server is not gone: it has none.
#[test]
fn no_deletion_ends_it() {
    for expire in [false, true] {
        let mut rig = rig();
        rig.change_settings(|s| s.expire_nodest_conn = expire);
        send(&mut rig, "| tcp 1000 > 80 syn");
        rig.ipvsadm("-a -f 9 -r 192.168.50.5:0 -g");
        // Nor is it one without weight.
        let (verdict, _) = send(&mut rig, "| tcp 1000 > 80 syn");
        assert_eq!(verdict, Verdict::Transmit(PortId(0)), "{expire}");
        rig.ipvsadm("-d -f 9 -r 192.168.50.5:0");
        rig.sleep(Duration::from_secs(2));
        let (verdict, _) = send(&mut rig, "| tcp 1000 > 80 ack 1");
        assert_eq!(verdict, Verdict::Transmit(PortId(0)), "{expire}");
        rig.sleep(Duration::from_secs(901));
        assert_eq!(rig.connections(), []);
        assert_eq!(
            rig.counters.drops[DropReason::DestinationGone as usize].get(),
            0
        );
    }
}

#[test]
fn a_one_packet_service_keeps_none() {
    let mut rig = rig();
    rig.ipvsadm("-E -f 9 -s rr -o");
    let (verdict, _) = send(&mut rig, "| udp 1000 > 53 | bytes 8");
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    assert_eq!(rig.connections(), []);
}
