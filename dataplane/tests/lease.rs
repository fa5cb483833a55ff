//! Leases of VRRP addresses: after the end of one, nothing passes for its address or in its name.

use std::sync::Arc;
use std::time::Duration;

use dataplane::command::Command;
use dataplane::lease::{Board, Leases, Slot};
use dataplane::packet::{Attempt, DropReason, PortId, PuntClass, Verdict};

mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

const CLIENT: &str = "172.16.0.1";
const VIP: &str = "192.168.40.200";
const OTHER: &str = "192.168.40.201";
const SERVER: &str = "192.168.50.5";
const WITHOUT: Verdict = Verdict::Drop(DropReason::NoLease);

fn from_client(dst: &str, rest: &str) -> Vec<u8> {
    let (gateway, to) = (mac_of(&addr("192.168.40.254")), PORT_MACS[0]);
    notation::build(&format!(
        "eth {gateway} > {to} | ip {CLIENT} > {dst} | {rest}"
    ))
}

fn from_server(rest: &str) -> Vec<u8> {
    let (server, to) = (mac_of(&addr(SERVER)), PORT_MACS[1]);
    notation::build(&format!(
        "eth {server} > {to} | ip {SERVER} > {CLIENT} | {rest}"
    ))
}

/// ARP of one host about itself or another.
fn arp(sender: &str, target: &str, op: u8) -> Vec<u8> {
    let mac = mac_of(&addr(sender));
    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
    frame.extend(mac.0);
    frame.extend(addr(sender).octets_v4());
    frame.extend([0; 6]);
    frame.extend(addr(target).octets_v4());
    frame
}

/// A neighbour solicitation or advertisement.
fn nd(kind: u8, src: &str, dst: &str, target: &str) -> Vec<u8> {
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac_of(&addr(src)).0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
    frame.extend(addr(src).octets());
    frame.extend(addr(dst).octets());
    frame.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(addr(target).octets());
    frame
}

/// Two services, one of which has its address under a lease, each with an established connection.
fn rig() -> (Rig, Arc<Board>) {
    let mut rig = Rig::new();
    for (vip, server) in [(VIP, "192.168.50.5:80"), (OTHER, "192.168.50.5:81")] {
        rig.ipvsadm(&format!("-A -t {vip}:80 -s rr"));
        rig.ipvsadm(&format!("-a -t {vip}:80 -r {server} -m"));
    }
    let board = Arc::new(Board::new(4));
    let addresses = [(addr(VIP), Slot(2)), (addr("fd40::200"), Slot(2))];
    rig.apply(Command::PutLeases(Arc::new(Leases::new(
        Arc::clone(&board),
        addresses,
    ))));
    board.renew(Slot(2), rig.now + Duration::from_secs(1));
    for vip in [VIP, OTHER] {
        let (verdict, _) = rig.inject(0, &from_client(vip, "tcp 1000 > 80 syn"));
        assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    }
    (rig, board)
}

#[test]
fn established_and_new_connections_stop_with_the_lease() {
    let (mut rig, board) = rig();
    let hit = from_client(VIP, "tcp 1000 > 80 ack 1");
    let reply = from_server("tcp 80 > 1000 ack 1");
    let sent = |rig: &mut Rig, port, frame: &[u8]| rig.inject(port, frame).0;
    assert_eq!(sent(&mut rig, 0, &hit), Verdict::Transmit(PortId(1)));
    assert_eq!(sent(&mut rig, 1, &reply), Verdict::Transmit(PortId(0)));
    rig.now = rig.now + Duration::from_nanos(1_000_000_001);
    assert_eq!(sent(&mut rig, 0, &hit), WITHOUT);
    assert_eq!(sent(&mut rig, 1, &reply), WITHOUT);
    assert_eq!(
        sent(&mut rig, 0, &from_client(VIP, "tcp 1001 > 80 syn")),
        WITHOUT
    );
    assert_eq!(
        sent(&mut rig, 0, &from_client(VIP, "icmp 8 0 | bytes 8")),
        WITHOUT
    );
    // The other address goes on.
    let other = from_client(OTHER, "tcp 1000 > 80 ack 1");
    assert_eq!(sent(&mut rig, 0, &other), Verdict::Transmit(PortId(1)));
    let reply = from_server("tcp 81 > 1000 ack 1");
    assert_eq!(sent(&mut rig, 1, &reply), Verdict::Transmit(PortId(0)));
    assert_eq!(rig.counters.drops[DropReason::NoLease as usize].get(), 4);
    // Renewed, the connection goes on where it was.
    board.renew(Slot(2), rig.now + Duration::from_secs(1));
    assert_eq!(sent(&mut rig, 0, &hit), Verdict::Transmit(PortId(1)));
    // Ended by hand it is over within a millisecond.
    board.end(Slot(2));
    rig.now = rig.now + Duration::from_millis(1);
    assert_eq!(sent(&mut rig, 0, &hit), WITHOUT);
    board.free(Slot(2));
    assert_eq!(sent(&mut rig, 0, &hit), Verdict::Transmit(PortId(1)));
}

#[test]
fn nobody_asks_the_twin_or_hears_it_without_a_lease() {
    let (mut rig, board) = rig();
    let control = Verdict::Kernel(PuntClass::Control);
    let asks = arp("192.168.40.254", VIP, 1);
    let solicits = nd(135, "fd40::fe", "ff02::1:ff00:200", "fd40::200");
    assert_eq!(rig.inject(0, &asks).0, control);
    assert_eq!(rig.inject(0, &solicits).0, control);
    board.end(Slot(2));
    rig.now = rig.now + Duration::from_millis(1);
    assert_eq!(rig.inject(0, &asks).0, WITHOUT);
    assert_eq!(rig.inject(0, &solicits).0, WITHOUT);
    assert_eq!(rig.inject(0, &arp("192.168.40.254", OTHER, 1)).0, control);
    // Gratuitous ones ask for it, too.
    assert_eq!(rig.inject(0, &arp(VIP, VIP, 2)).0, WITHOUT);
    for (frame, is_withheld) in [
        (arp(VIP, "192.168.40.254", 2), true),
        (arp("192.168.40.1", VIP, 1), false),
        (nd(136, "fd40::1", "ff02::1", "fd40::200"), true),
        (nd(136, "fd40::1", "ff02::1", "fd40::1"), false),
        (nd(128, "fd40::200", "fd40::fe", "fd40::fe"), true),
    ] {
        let verdict = rig.answer_from_kernel(0, &frame, Attempt::START).0;
        let expected = match is_withheld {
            true => WITHOUT,
            false => Verdict::Transmit(PortId(0)),
        };
        assert_eq!(verdict, expected, "{frame:x?}");
    }
}

/// A rig with a service at VIP, whose address and another one are for services alone.
fn closed() -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -t {VIP}:80 -s rr"));
    rig.ipvsadm(&format!("-a -t {VIP}:80 -r 192.168.50.5:80 -m"));
    let closed = [addr("fd40::200"), addr(VIP)];
    let leases = Leases::new(Arc::new(Board::new(4)), []).closing(closed);
    rig.apply(Command::PutLeases(Arc::new(leases)));
    rig
}

#[test]
fn an_address_that_is_not_accepted_is_for_its_services_alone() {
    let mut rig = closed();
    let refused = Verdict::Drop(DropReason::NotAccepted);
    for (rest, verdict) in [
        ("tcp 1000 > 80 syn", Verdict::Transmit(PortId(1))),
        ("tcp 1000 > 80 ack 1", Verdict::Transmit(PortId(1))),
        ("tcp 1000 > 22 syn", refused),
        ("udp 1000 > 53 | bytes 8", refused),
        ("icmp 8 0 | bytes 8", refused),
    ] {
        assert_eq!(rig.inject(0, &from_client(VIP, rest)).0, verdict, "{rest}");
    }
    assert_eq!(
        rig.counters.drops[DropReason::NotAccepted as usize].get(),
        3
    );
    // Hosts still find it, and other addresses of this host are the kernel's as ever.
    for frame in [
        arp(CLIENT, VIP, 1),
        nd(135, "fe80::5", "ff02::1:ff00:200", "fd40::200"),
        nd(135, "fe80::5", "fd40::200", "fd40::200"),
        nd(136, "fe80::5", "fd40::200", "fe80::5"),
        from_client("192.168.40.254", "icmp 8 0 | bytes 8"),
        from_client(OTHER, "tcp 1000 > 22 syn"),
    ] {
        let (verdict, _) = rig.inject(0, &frame);
        assert!(matches!(verdict, Verdict::Kernel(_)), "{verdict:?}");
    }
    // Open again.
    let open = Leases::new(Arc::new(Board::new(4)), []);
    rig.apply(Command::PutLeases(Arc::new(open)));
    let (verdict, _) = rig.inject(0, &from_client(VIP, "tcp 1000 > 22 syn"));
    assert_eq!(verdict, Verdict::Kernel(PuntClass::Host));
}

#[test]
fn other_messages_over_ipv6_are_refused_as_over_ipv4() {
    let mut rig = closed();
    let echo = nd(128, "fe80::5", "fd40::200", "fe80::5");
    let own = PORT_MACS[0].0;
    let mut frame = own.to_vec();
    frame.extend(&echo[6..]);
    let (verdict, _) = rig.inject(0, &frame);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotAccepted));
}
