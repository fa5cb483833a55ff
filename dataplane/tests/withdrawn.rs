//! Servers that are out of service because they failed, or because their time is over: what can go
//! elsewhere does, other than with weight 0.

use std::sync::Arc;
use std::time::Duration;

use dataplane::command::{Command, Outcome};
use dataplane::packet::Verdict;
use dataplane::schedule::{self, Seat};
use dataplane::service::{DestId, Destination, VirtualService, Withdrawal};

mod support;
use support::notation;
use support::rig::{Rig, mac_of};

const VIP: &str = "192.168.40.200";

/// A service on port 443 with servers 192.168.50.5 and .6; rr takes .6 first.
fn rig(protocol: &str, scheduler: &str, options: &str) -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A {protocol} {VIP}:443 -s {scheduler} {options}"));
    for server in ["192.168.50.5", "192.168.50.6"] {
        let port = if options.contains("-p") { 443 } else { 8443 };
        rig.ipvsadm(&format!("-a {protocol} {VIP}:443 -r {server}:{port} -m"));
    }
    rig
}

/// Sends a packet of client `n`; the last byte of the server that it went to.
fn send(rig: &mut Rig, n: u8, rest: &str) -> Option<u8> {
    let frame = notation::build(&format!(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.0.{n} > {VIP} | {rest}"
    ));
    let (verdict, sent) = rig.inject(0, &frame);
    matches!(verdict, Verdict::Transmit(_)).then(|| {
        let mac = &sent[..6];
        (0..=255)
            .find(|n| mac_of(&support::rig::addr(&format!("192.168.50.{n}"))).0 == mac)
            .expect("it went to a server")
    })
}

fn withdraw(rig: &mut Rig, protocol: &str, server: u8, port: u16, how: &str) {
    rig.ipvsadm(&format!(
        "-e {protocol} {VIP}:443 -r 192.168.50.{server}:{port} -m -w 0 {how}"
    ));
}

const UDP: &str = "udp 1000 > 443 | bytes 8";

#[test]
fn a_udp_flow_leaves_a_failed_server_at_once() {
    let mut rig = rig("-u", "rr", "");
    let first = send(&mut rig, 1, UDP).unwrap();
    // Weight 0 alone moves nobody.
    withdraw(&mut rig, "-u", first, 8443, "");
    assert_eq!(send(&mut rig, 1, UDP), Some(first));
    withdraw(&mut rig, "-u", first, 8443, "--failed");
    let other = send(&mut rig, 1, UDP).unwrap();
    assert_ne!(other, first);
    assert_eq!(rig.connections().len(), 1, "the old flow is gone");
    // It stays there when the first one is back.
    rig.ipvsadm(&format!("-e -u {VIP}:443 -r 192.168.50.{first}:8443 -m"));
    assert_eq!(send(&mut rig, 1, UDP), Some(other));
}

#[test]
fn a_tcp_connection_goes_on_until_its_next_syn() {
    let mut rig = rig("-t", "rr", "");
    let first = send(&mut rig, 1, "tcp 1000 > 443 syn").unwrap();
    assert_eq!(send(&mut rig, 1, "tcp 1000 > 443 ack 1"), Some(first));
    withdraw(&mut rig, "-t", first, 8443, "--failed");
    assert_eq!(send(&mut rig, 1, "tcp 1000 > 443 ack 1"), Some(first));
    let other = send(&mut rig, 1, "tcp 1000 > 443 syn").unwrap();
    assert_ne!(other, first);
    assert_eq!(rig.connections().len(), 1);
}

#[test]
fn templates_do_not_lead_to_a_failed_server() {
    let mut rig = rig("-t", "rr", "-p 100");
    let first = send(&mut rig, 1, "tcp 1000 > 443 syn").unwrap();
    withdraw(&mut rig, "-t", first, 443, "");
    assert_eq!(send(&mut rig, 1, "tcp 1001 > 443 syn"), Some(first));
    withdraw(&mut rig, "-t", first, 443, "--failed");
    let other = send(&mut rig, 1, "tcp 1002 > 443 syn").unwrap();
    assert_ne!(other, first);
    assert_eq!(
        send(&mut rig, 1, "tcp 1000 > 443 ack 1"),
        Some(first),
        "what is established goes on"
    );
}

#[test]
fn a_hash_does_not_choose_a_failed_server() {
    for scheduler in ["sh", "dh", "mh"] {
        let mut rig = rig("-t", scheduler, "");
        withdraw(&mut rig, "-t", 5, 8443, "--failed");
        for client in 1..=60 {
            let to = send(&mut rig, client, "tcp 1000 > 443 syn");
            assert_eq!(to, Some(6), "{scheduler}, client {client}");
        }
    }
}

#[test]
fn without_another_server_the_client_hears_that_nobody_is_there() {
    let mut rig = rig("-u", "rr", "");
    send(&mut rig, 1, UDP).unwrap();
    withdraw(&mut rig, "-u", 5, 8443, "--failed");
    withdraw(&mut rig, "-u", 6, 8443, "--failed");
    let frame = notation::build(&format!(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.0.1 > {VIP} | {UDP}"
    ));
    let (_, answer) = rig.inject(0, &frame);
    // ICMP, destination unreachable, port.
    assert_eq!((answer[23], answer[34], answer[35]), (1, 3, 3));
    assert_eq!(rig.connections().len(), 0);
}

#[test]
fn what_is_left_when_the_time_is_over_ends() {
    let mut rig = rig("-t", "rr", "-p 100");
    let mut here = [0; 2];
    for client in 1..=100 {
        let to = send(&mut rig, client, "tcp 1000 > 443 syn").unwrap();
        send(&mut rig, client, "tcp 1000 > 443 ack 1");
        here[usize::from(to - 5)] += 1;
    }
    assert_eq!(rig.connections().len(), 200, "with their templates");
    withdraw(&mut rig, "-t", 5, 443, "--over");
    for _ in 0..100 {
        rig.now = rig.now + Duration::from_millis(1);
        rig.worker.expire(rig.now, 64);
    }
    assert_eq!(rig.connections().len(), 2 * here[1], "of the other server");
    let counters = &rig.counters.dests[0];
    let counts = (counters.total.get(), counters.persistent.get());
    assert_eq!(counts, (0, 0));
}

/// Whether it is in service or not: there is no state for it, and nothing else changes.
#[test]
fn a_server_beyond_the_limit_is_refused() {
    let mut rig = rig("-t", "rr", "");
    let mut refused = |edit: &dyn Fn(&mut VirtualService)| {
        let mut service = rig.services()[0].clone();
        edit(&mut service);
        let scheduler = schedule::new(&service, Seat::alone(1)).unwrap();
        let service = Arc::new(service);
        let command = Command::PutService { service, scheduler };
        matches!(rig.worker.apply(rig.now, command), Outcome::Refused(why, retired)
            if why.contains("max_servers") && retired.service.is_some())
    };
    let number = |id| move |d: &mut Destination| d.id = DestId(id);
    assert!(!refused(&|_| {}));
    assert!(!refused(&|s| s
        .destinations
        .edit(|list| number(63)(&mut list[0]))));
    assert!(refused(&|s| s
        .destinations
        .edit(|list| number(64)(&mut list[0]))));
    assert!(refused(&|s| {
        let mut one = s.destinations[0].clone();
        number(64)(&mut one);
        s.withdrawn.push((one, Withdrawal::Failed));
    }));
    assert!(send(&mut rig, 1, "tcp 1000 > 443 syn").is_some());
}
