//! The persistence engine `sip`: templates by Call-ID, and connections that servers begin.

use std::collections::HashMap;
use std::time::Duration;

use dataplane::command::{Command, ConnectionBatch, ConnectionView, Outcome};
use dataplane::conn::HashKey;
use dataplane::conn::engine_data::tag;
use dataplane::packet::{DropReason, PortId, PuntClass, Verdict};

mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

const VIP: &str = "192.168.40.200";

/// A SIP message in hex, as the notation of packets takes it.
fn message(call_id: &str) -> String {
    let text = format!("OPTIONS sip:x SIP/2.0\r\nCall-ID: {call_id}\r\n\r\n");
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

fn frame(from_server: bool, src: &str, dst: &str, rest: &str) -> Vec<u8> {
    let (port, neighbour) = match from_server {
        true => (1, mac_of(&addr(src))),
        false => (0, mac_of(&addr("192.168.40.254"))),
    };
    let to = PORT_MACS[port];
    notation::build(&format!(
        "eth {neighbour} > {to} | ip {src} > {dst} | {rest}"
    ))
}

/// Last byte of the server that a client's message is sent to.
fn send(rig: &mut Rig, client: &str, port: u16, call_id: &str) -> Option<u8> {
    let rest = format!("udp {port} > 5060 | data {}", message(call_id));
    let (verdict, after) = rig.inject(0, &frame(false, client, VIP, &rest));
    (verdict == Verdict::Transmit(PortId(1))).then(|| after[33])
}

fn rig(options: &str) -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -u {VIP}:5060 -s rr {options} --pe sip"));
    for n in [5, 6] {
        rig.ipvsadm(&format!("-a -u {VIP}:5060 -r 192.168.50.{n}:5060 -m"));
    }
    rig
}

/// Templates with their data.
fn templates(rig: &mut Rig) -> Vec<(ConnectionView, String)> {
    let batch = Box::new(ConnectionBatch {
        rows: Vec::with_capacity(1000),
        data: Vec::with_capacity(10_000),
        ..Default::default()
    });
    let Outcome::Connections(batch) = rig.worker.apply(rig.now, Command::DumpConnections(batch))
    else {
        panic!("no connections in the answer");
    };
    assert!(batch.cursor.done);
    let rows = batch.rows.iter().filter(|row| row.is_template);
    rows.map(|row| {
        let data = batch.data_of(row).unwrap_or_default();
        (*row, String::from_utf8(data.to_vec()).unwrap())
    })
    .collect()
}

fn drops(rig: &Rig, reason: DropReason) -> u64 {
    rig.counters.drops[reason as usize].get()
}

/// What the kernel was recorded to do (one-packet service, two ports of each client).
#[test]
fn the_recorded_choices() {
    let mut rig = rig("-p 60 -o");
    for (n, server) in [(0, 6), (1, 5), (2, 6)] {
        let client = format!("172.23.0.{}", n + 1);
        for port in [5060, 5061] {
            let chosen = send(&mut rig, &client, port, &format!("call-{n}@{client}"));
            assert_eq!(chosen, Some(server), "{client} {port}");
        }
    }
    let listed: Vec<String> = templates(&mut rig)
        .iter()
        .map(|(t, data)| {
            let (c, v, d) = (t.client, t.virtual_, t.dest);
            format!(
                "{} {} {} {} {} {data}",
                t.state, c.addr, c.port, v.port, d.addr
            )
        })
        .collect();
    for n in [1, 2, 3] {
        let (call, server) = (n - 1, if n == 2 { 5 } else { 6 });
        let want = format!("NONE 172.23.0.{n} 0 5060 192.168.50.{server} call-{call}@172.23.0.{n}");
        assert!(listed.contains(&want), "{want} in {listed:#?}");
    }
    assert_eq!(
        rig.connections().len(),
        3,
        "one-packet connections are not kept"
    );
}

#[test]
fn each_call_of_a_client_has_its_server() {
    let mut rig = rig("-p 60");
    let a = send(&mut rig, "172.16.0.1", 1000, "a");
    let b = send(&mut rig, "172.16.0.1", 1001, "b");
    assert!(a.is_some() && b.is_some() && a != b, "{a:?} {b:?}");
    for port in 2000..2010 {
        assert_eq!(send(&mut rig, "172.16.0.1", port, "a"), a);
        assert_eq!(send(&mut rig, "172.16.0.1", port + 100, "b"), b);
    }
    let data: Vec<String> = templates(&mut rig)
        .into_iter()
        .map(|(_, data)| data)
        .collect();
    assert_eq!(data.len(), 2, "{data:?}");
    // The same Call-ID from another client is another call.
    send(&mut rig, "172.16.0.2", 1000, "a");
    assert_eq!(templates(&mut rig).len(), 3);
}

#[test]
fn clients_of_one_network_share_their_calls() {
    let mut rig = rig("-p 60 -M 0.0.0.0");
    let first = send(&mut rig, "172.16.0.1", 1000, "a");
    for n in 2..20 {
        assert_eq!(send(&mut rig, &format!("172.16.0.{n}"), 1000, "a"), first);
    }
    let all = templates(&mut rig);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0.client.addr.to_string(), "0.0.0.0");
}

/// Two that only the whole of them tells apart: what stands in for them is the same.
#[test]
fn call_ids_are_compared_in_full() {
    // The key of the rig's table.
    let key = HashKey([
        0x9e37_79b9_7f4a_7c15,
        0xd1b5_4a32_d192_ed03,
        0xaef1_7502_108e_f2d9,
        7919,
    ]);
    let mut seen = HashMap::new();
    let (a, b) = (0..)
        .map(|n| format!("call-{n}"))
        .find_map(|id| {
            let before = seen.insert(tag(&key, id.as_bytes()), id.clone());
            before.map(|before| (before, id))
        })
        .expect("there are more numbers than tags");
    let mut rig = rig("-p 60 -o");
    let first = send(&mut rig, "172.16.0.1", 1000, &a);
    let second = send(&mut rig, "172.16.0.1", 1000, &b);
    assert!(
        first.is_some() && second.is_some() && first != second,
        "{a} {b}"
    );
    assert_eq!(send(&mut rig, "172.16.0.1", 1000, &a), first, "{a} {b}");
    assert_eq!(send(&mut rig, "172.16.0.1", 1000, &b), second, "{a} {b}");
    assert_eq!(templates(&mut rig).len(), 2);
}

#[test]
fn a_packet_without_a_call_id_is_dropped() {
    let mut rig = rig("-p 60");
    for rest in ["udp 1000 > 5060 | bytes 20", "udp 1000 > 5060"] {
        let (verdict, _) = rig.inject(0, &frame(false, "172.16.0.1", VIP, rest));
        assert_eq!(verdict, Verdict::Drop(DropReason::NoCallId), "{rest}");
    }
    // Bytes behind the datagram are none of it.
    let hex = message("a");
    let rest = format!("udp 1000 > 5060 len 20 | data {hex}");
    let mut short = frame(false, "172.16.0.1", VIP, &rest);
    let total = 20 + 8 + 12u16;
    short[16..18].copy_from_slice(&total.to_be_bytes());
    let sum = {
        short[24..26].fill(0);
        notation::checksum(&[&short[14..34]])
    };
    short[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(rig.inject(0, &short).0, Verdict::Drop(DropReason::NoCallId));
    assert_eq!(
        (rig.connections(), drops(&rig, DropReason::NoCallId)),
        (vec![], 3)
    );
    // Nor is anything but UDP of use to a marked service with the engine.
    rig.ipvsadm("-A -f 9 -s rr -p 60 --pe sip");
    rig.ipvsadm("-a -f 9 -r 192.168.50.5:0 -m");
    rig.nft("ip daddr 203.0.113.0/24 meta mark set 9");
    for rest in ["", " | data 0d0a693a610d0a"] {
        let rest = format!("tcp 1000 > 5060 syn{rest}");
        let syn = frame(false, "172.16.0.1", "203.0.113.9", &rest);
        assert_eq!(rig.inject(0, &syn).0, Verdict::Drop(DropReason::NoCallId));
    }
    let rest = format!("udp 1000 > 5060 | data {hex}");
    let (verdict, _) = rig.inject(0, &frame(false, "172.16.0.1", "203.0.113.9", &rest));
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    let (template, data) = templates(&mut rig).remove(0);
    assert_eq!((template.protocol, data.as_str()), (None, "a"));
}

/// As live comparisons with the kernel showed.
#[test]
fn drop_packet_counts_what_has_no_call_id() {
    let mut rig = rig("-p 60");
    rig.change_settings(|s| (s.drop_packet, s.am_droprate) = (3, 3));
    rig.sleep(Duration::from_secs(2));
    let none = frame(false, "172.16.0.1", VIP, "udp 1000 > 5060 | bytes 20");
    let dropped: Vec<_> = (0..4).map(|_| rig.inject(0, &none).0).collect();
    let (by_rate, by_engine) = (DropReason::DropPacket, DropReason::NoCallId);
    let want = [by_rate, by_engine, by_engine, by_rate].map(Verdict::Drop);
    assert_eq!(dropped, want);
}

#[test]
fn a_connection_goes_on_without_a_call_id() {
    let mut rig = rig("-p 60");
    let server = send(&mut rig, "172.16.0.1", 1000, "a");
    let keep_alive = frame(false, "172.16.0.1", VIP, "udp 1000 > 5060 | bytes 4");
    let (verdict, after) = rig.inject(0, &keep_alive);
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(Some(after[33]), server);
}

#[test]
fn an_answer_assures_the_template() {
    let mut rig = rig("-p 60");
    let server = send(&mut rig, "172.16.0.1", 1000, "a").unwrap();
    assert_eq!(templates(&mut rig)[0].0.state, "NONE");
    let from = format!("192.168.50.{server}");
    let answer = frame(true, &from, "172.16.0.1", "udp 5060 > 1000 | bytes 8");
    assert_eq!(rig.inject(1, &answer).0, Verdict::Transmit(PortId(0)));
    assert_eq!(templates(&mut rig)[0].0.state, "ASSURED");
}

/// Source address and port of what the client gets.
fn answered(
    rig: &mut Rig,
    server: u8,
    client: &str,
    port: u16,
    call_id: &str,
) -> (Verdict, String) {
    let src = format!("192.168.50.{server}");
    let rest = format!("udp 5060 > {port} | data {}", message(call_id));
    let (verdict, after) = rig.inject(1, &frame(true, &src, client, &rest));
    let from = format!("{}.{}.{}.{}", after[26], after[27], after[28], after[29]);
    let port = u16::from_be_bytes([after[34], after[35]]);
    (verdict, format!("{from}:{port}"))
}

const FROM_VIP: &str = "192.168.40.200:5060";

#[test]
fn a_server_begins_a_call_and_the_client_stays_with_it() {
    let mut rig = rig("-p 60");
    let (verdict, from) = answered(&mut rig, 5, "172.16.0.1", 1000, "out");
    assert_eq!(
        (verdict, from.as_str()),
        (Verdict::Transmit(PortId(0)), FROM_VIP)
    );
    let rows = rig.connections();
    assert_eq!(rows.len(), 2, "a connection and its template: {rows:?}");
    let (template, data) = templates(&mut rig).remove(0);
    assert_eq!(data, "out");
    assert_eq!(template.dest.addr.to_string(), "192.168.50.5");
    assert_eq!(
        template.state, "ASSURED",
        "what was sent out counts as an answer"
    );
    // The client's next messages go there, on this connection and on others.
    assert_eq!(send(&mut rig, "172.16.0.1", 1000, "out"), Some(5));
    for port in 2000..2004 {
        assert_eq!(send(&mut rig, "172.16.0.1", port, "out"), Some(5));
    }
    let conns: u64 = rig.counters.dests.iter().map(|d| d.conns.get()).sum();
    assert_eq!(conns, 5);
}

#[test]
fn a_template_that_leads_to_another_server_is_given_up() {
    let mut rig = rig("-p 60");
    let first = send(&mut rig, "172.16.0.1", 1000, "a").unwrap();
    let other = 11 - first;
    let (verdict, from) = answered(&mut rig, other, "172.16.0.1", 1000, "a");
    assert_eq!(
        (verdict, from.as_str()),
        (Verdict::Transmit(PortId(0)), FROM_VIP)
    );
    assert_eq!(send(&mut rig, "172.16.0.1", 3000, "a"), Some(other));
    // The newer connection has the client's packets, and the older one those of its server.
    assert_eq!(send(&mut rig, "172.16.0.1", 1000, "a"), Some(other));
    let conns: u64 = rig.counters.dests.iter().map(|d| d.conns.get()).sum();
    assert_eq!(conns, 3);
    for (server, call) in [(first, "a"), (other, "b"), (first, "c")] {
        let (verdict, from) = answered(&mut rig, server, "172.16.0.1", 1000, call);
        let sent = (verdict, from.as_str());
        assert_eq!(sent, (Verdict::Transmit(PortId(0)), FROM_VIP), "{server}");
        assert_eq!(send(&mut rig, "172.16.0.1", 1000, "a"), Some(other));
    }
    let again: u64 = rig.counters.dests.iter().map(|d| d.conns.get()).sum();
    assert_eq!(again, conns, "both have their connection");
    rig.sleep(Duration::from_secs(700));
    assert_eq!(rig.connections(), []);
    assert_eq!(
        send(&mut rig, "172.16.0.1", 1000, "a").map(|_| rig.connections().len()),
        Some(2)
    );
}

/// As live comparisons with the kernel showed.
#[test]
fn a_server_s_call_is_that_of_the_client_s_network() {
    let mut rig = rig("-p 60 -M 255.255.0.0");
    answered(&mut rig, 5, "172.16.0.1", 1000, "out");
    let (template, _) = templates(&mut rig).remove(0);
    assert_eq!(template.client.addr.to_string(), "172.16.0.0");
    for n in 2..6 {
        let client = format!("172.16.{n}.1");
        assert_eq!(send(&mut rig, &client, 1000, "out"), Some(5));
    }
}

#[test]
fn answers_to_one_packet_clients_come_from_the_service() {
    let mut rig = rig("-p 60 -o");
    let server = send(&mut rig, "172.16.0.1", 1000, "a").unwrap();
    let (verdict, from) = answered(&mut rig, server, "172.16.0.1", 1000, "a");
    assert_eq!(
        (verdict, from.as_str()),
        (Verdict::Transmit(PortId(0)), FROM_VIP)
    );
    assert_eq!(rig.connections().len(), 1, "only the template is kept");
    let out: u64 = rig.counters.dests.iter().map(|d| d.out_pkts.get()).sum();
    assert_eq!(out, 1);
}

#[test]
fn other_packets_of_servers_are_the_kernels() {
    let mut rig = rig("-p 60");
    let src = "192.168.50.5";
    let out = |rest: &str| frame(true, src, "172.16.0.1", rest);
    let with_id = message("a");
    for rest in [
        "udp 5060 > 1000 | bytes 20".to_string(),
        format!("udp 5061 > 1000 | data {with_id}"),
        "tcp 5060 > 1000 syn".to_string(),
    ] {
        let before = out(&rest);
        let (verdict, after) = rig.inject(1, &before);
        assert_eq!(verdict, Verdict::Kernel(PuntClass::Transit), "{rest}");
        assert_eq!(after, before);
    }
    // Without the engine nobody asks.
    rig.ipvsadm(&format!("-E -u {VIP}:5060 -s rr -p 60"));
    let (verdict, _) = answered(&mut rig, 5, "172.16.0.1", 1000, "a");
    assert_eq!(verdict, Verdict::Kernel(PuntClass::Transit));
    assert_eq!(rig.connections(), []);
}

/// Servers that are no masqueraded ones of a UDP service with a port.
#[test]
fn who_begins_no_call() {
    for (service, server) in [
        ("-u 192.168.40.200:5060", "192.168.50.5:5060 -g"),
        ("-t 192.168.40.200:5060", "192.168.50.5:5060 -m"),
        ("-u 192.168.40.200:0", "192.168.50.5:5060 -m"),
    ] {
        let mut rig = Rig::new();
        rig.ipvsadm(&format!("-A {service} -s rr -p 60 --pe sip"));
        rig.ipvsadm(&format!("-a {service} -r {server}"));
        // A masqueraded one all the same, of a service without the engine.
        rig.ipvsadm("-A -u 192.168.40.201:5060 -s rr");
        rig.ipvsadm("-a -u 192.168.40.201:5060 -r 192.168.50.5:5060 -m");
        let (verdict, _) = answered(&mut rig, 5, "172.16.0.1", 1000, "a");
        assert_eq!(verdict, Verdict::Kernel(PuntClass::Transit), "{service}");
        assert_eq!(rig.connections(), []);
    }
}

#[test]
fn a_one_packet_call_leaves_the_client_s_connection_alone() {
    let mut rig = rig("-p 60");
    let server = send(&mut rig, "172.16.0.1", 1000, "a").unwrap();
    rig.ipvsadm(&format!("-E -u {VIP}:5060 -s rr -p 60 -o --pe sip"));
    let (verdict, _) = answered(&mut rig, 11 - server, "172.16.0.1", 1000, "b");
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    let keep_alive = frame(false, "172.16.0.1", VIP, "udp 1000 > 5060 | bytes 4");
    assert_eq!(rig.inject(0, &keep_alive).1[33], server);
}

#[test]
fn a_one_packet_call_waits_for_its_next_hop_and_counts_once() {
    let mut rig = rig("-p 60 -o");
    rig.forget_neighbours(0);
    for _ in 0..2 {
        let (verdict, _) = answered(&mut rig, 5, "172.16.0.1", 1000, "a");
        assert_eq!(verdict, Verdict::Wait);
    }
    rig.neighbour(0, "192.168.40.254", mac_of(&addr("192.168.40.254")));
    let (verdict, from) = answered(&mut rig, 5, "172.16.0.1", 1000, "a");
    assert_eq!(
        (verdict, from.as_str()),
        (Verdict::Transmit(PortId(0)), FROM_VIP)
    );
    let conns: u64 = rig.counters.dests.iter().map(|d| d.conns.get()).sum();
    assert_eq!(conns, 1);
}

/// Its connection is over when the later pieces come.
#[test]
fn the_pieces_of_a_one_packet_call_leave_together() {
    let mut rig = rig("-p 60 -o");
    let text = format!("{}{}", message("a"), "00".repeat(64));
    let (first, len) = (&text[..96], 8 + text.len() / 2);
    for rest in [
        format!("id 7 mf | udp 5060 > 1000 len {len} csum none | data {first}"),
        format!("id 7 offset 56 proto 17 | bytes {}", len - 56),
    ] {
        let to = PORT_MACS[1];
        let server = mac_of(&addr("192.168.50.5"));
        let piece = notation::build(&format!(
            "eth {server} > {to} | ip 192.168.50.5 > 172.16.0.1 {rest}"
        ));
        let (verdict, after) = rig.inject(1, &piece);
        assert_eq!(verdict, Verdict::Transmit(PortId(0)), "{rest}");
        assert_eq!(after[26..30], [192, 168, 40, 200], "{rest}");
    }
}

/// It quotes no message.
#[test]
fn an_icmp_error_opens_no_call() {
    let mut rig = rig("-p 60");
    rig.change_settings(|s| s.schedule_icmp = true);
    let rest = format!("icmp 3 3 | ip {VIP} > 172.16.0.1 | udp 5060 > 1000 | bytes 8");
    let (verdict, _) = rig.inject(0, &frame(false, "172.16.0.1", VIP, &rest));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoCallId));
    assert_eq!(rig.connections(), []);
}

#[test]
fn calls_that_find_no_room_keep_none() {
    let mut rig = rig("-p 60 -o");
    rig.ipvsadm(&format!("-A -u {VIP}:53 -s rr"));
    rig.ipvsadm(&format!("-a -u {VIP}:53 -r 192.168.50.5:53 -m"));
    for port in 1000..5000 {
        let rest = format!("udp {port} > 53 | bytes 8");
        rig.inject(0, &frame(false, "172.16.0.1", VIP, &rest));
    }
    let taken = |rig: &mut Rig, n| send(rig, "172.16.0.1", 1000, &format!("{n}")).is_some();
    assert_eq!((0..66_000).find(|n| taken(&mut rig, *n)), None);
    rig.sleep(Duration::from_secs(301));
    assert!(taken(&mut rig, 66_000));
}

#[test]
fn room_for_call_ids_is_given_back() {
    let mut rig = rig("-p 1 -o");
    // More calls than there is room for at once, a few at a time.
    for round in 0..700 {
        for n in 0..100 {
            let chosen = send(&mut rig, "172.16.0.1", 1000, &format!("{round}-{n}"));
            assert!(chosen.is_some(), "{round} {n}");
        }
        rig.sleep(Duration::from_secs(2));
    }
    assert_eq!(rig.connections(), []);
}
