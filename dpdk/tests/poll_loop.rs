//! The worker's loop between ports: the packet vectors of the core once more, this time in mbufs
//! that come out of one DPDK device and go into another, and everything that may befall an mbuf on
//! the way. The clock is the test's. Whatever happens, the pool is whole afterwards, and no turn
//! allocates.

#[path = "common/allocations.rs"]
mod allocations;
mod common;
#[path = "common/net.rs"]
mod net;
#[path = "common/pcap.rs"]
mod pcap;
#[path = "common/play.rs"]
mod play;
#[path = "../../dataplane/tests/support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use dataplane::capture::{Capture, CaptureRing, Filter};
use dataplane::command::{Command, Envelope, Event, Outcome};
use dataplane::packet::{DropReason, Packet, PortId, PuntClass, Verdict};
use dataplane::route::{LinkId, Neighbour, NeighbourId};
use dpdk::eal::Eal;
use dpdk::mbuf::{BURST, Burst};
use dpdk::mempool::Mempool;
use dpdk::poll::{Idle, Loop, Parking, Probe};
use net::{Net, RING, carried, open};
use play::expect_frame;
use support::notation::build;
use support::rig::{Rig, addr, mac_of};

/// What a net_ring device holds.
const DEVICE: usize = 1023;

const SYN: &str = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200
    | tcp 40000 > 443 syn";
const SYN_OUT: &str = "eth 52:54:..:02 > 02:04:c0:a8:32:05 | ip 172.16.1.7 > 192.168.50.5 ttl 63
    | tcp 40000 > 8443 syn";
/// What the client of [`SYN`] is told if the server does not answer ARP.
const UNREACHABLE: &str = "eth 52:54:..:01 > 02:04:c0:a8:28:fe
    | ip 192.168.40.200 > 172.16.1.7 tos 192 id * | icmp 3 1
    | ip 172.16.1.7 > 192.168.40.200 | tcp 40000 > 443 syn";
const ARP: &str =
    "eth 02:04:c0:a8:28:fe > ff:ff:ff:ff:ff:ff type 0x0806 | data 0001080006040001 | pad 60";
const NOT_OURS: &str =
    "eth 02:04:c0:a8:28:fe > 52:54:..:09 | ip 172.16.1.7 > 192.168.40.200 | tcp 40000 > 443 syn";
const HTTPS: &str = "tcp 192.168.40.200:443 rr masquerade -> 192.168.50.5:8443";

#[test]
fn the_loop() {
    let eal = common::start(&[]);
    let pool = Arc::new(common::pool(&eal));

    // Scenes that leave the loop whole share one.
    let mut net = Net::between_rings(&eal, &pool);
    let frames = play::all(&mut net);
    assert!(frames > 100, "{frames} frames of vectors");
    a_mixed_burst(&mut net);
    frames_in_several_buffers(&mut net);
    packets_that_hardware_was_to_cut(&mut net);
    longer_than_a_burst(&mut net);
    frames_of_the_kernel(&mut net);
    a_full_transmit_queue(&mut net);
    a_full_punt_queue(&mut net);
    a_standing_queue(&mut net);
    a_flood_of_arp_before_an_advert(&mut net);
    no_buffer_for_pieces(&mut net);
    partial_checksums(&mut net);
    commands_and_replies(&mut net);
    waiting_for_a_neighbour(&mut net);
    waiting_for_the_first_fragment(&mut net);
    net.end(&eal);

    a_port_that_is_not_there(&eal, Net::between_rings(&eal, &pool));
    stopped_with_frames_in_the_rings(&eal, Net::between_rings(&eal, &pool));
    a_panic_in_the_walk(&eal, Net::between_rings(&eal, &pool));
    on_its_own_core(&eal, Net::between_rings(&eal, &pool));
    captures(&eal, &pool);

    assert_eq!(pool.in_use(), 0);
    drop(pool);
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}

fn drops(rig: &Rig, reason: DropReason) -> u64 {
    rig.counters.drops[reason as usize].get()
}

fn rig_with(services: &[&str]) -> Rig {
    let mut rig = Rig::new();
    services
        .iter()
        .for_each(|s| support::vectors::service(&mut rig, s));
    rig
}

/// All verdicts in one burst, on both ports: each mbuf goes its own way, in order, and is counted.
fn a_mixed_burst(net: &mut Net) {
    let mut rig = rig_with(&[
        HTTPS,
        "udp 192.168.40.200:53 rr tunnel -> 192.168.50.6:53",
        "tcp 192.168.40.200:80 rr direct -> 192.168.50.5:80",
    ]);
    let tunnelled = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200 id 5
        | udp 40000 > 53 csum none | bytes 1472";
    let direct = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200
        | tcp 40000 > 80 syn";
    let ping = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200
        | icmp 8 0 | bytes 8";
    let put = [SYN, ARP, NOT_OURS, tunnelled, ping, direct, ARP];
    for text in put {
        net.put(0, &build(text));
    }
    net.put(
        1,
        &build(
            "eth 02:04:c0:a8:32:05 > 52:54:..:02 | ip 192.168.50.5 > 172.16.1.7
            | tcp 8443 > 40000 syn ack 2 seq 7",
        ),
    );
    assert!(net.turn(&mut rig));
    let servers = net.take(1);
    let want = [
        SYN_OUT,
        "eth 52:54:..:02 > 02:04:c0:a8:32:06 | ip 192.168.50.1 > 192.168.50.6 ttl 63 id * mf
            | ip 172.16.1.7 > 192.168.40.200 ttl 63 id 5 len 1500
            | udp 40000 > 53 len 1480 csum none | bytes 1452",
        "eth 52:54:..:02 > 02:04:c0:a8:32:06 | ip 192.168.50.1 > 192.168.50.6 ttl 63 id *
            offset 1480 proto 4 | bytes 20 from 1452",
        "eth 52:54:..:02 > 02:04:c0:a8:32:05 | ip 172.16.1.7 > 192.168.40.200 ttl 63
            | tcp 40000 > 80 syn",
    ];
    assert_eq!(servers.len(), want.len());
    for (got, want) in servers.iter().zip(want) {
        expect_frame(got, want, "to the servers");
    }
    let client = net.take(0);
    assert_eq!(client.len(), 1);
    expect_frame(
        &client[0],
        "eth 52:54:..:01 > 02:04:c0:a8:28:fe | ip 192.168.40.200 > 172.16.1.7 ttl 63
            | tcp 443 > 40000 syn ack 2 seq 7",
        "to the client",
    );
    assert_eq!(
        net.take_punted(0, PuntClass::Control),
        [build(ARP), build(ARP)]
    );
    assert_eq!(net.take_punted(0, PuntClass::Host), [build(ping)]);
    assert_eq!(drops(&rig, DropReason::NotOurMac), 1);
    let total: u64 = rig.counters.drops.iter().map(|c| c.get()).sum();
    assert_eq!(total, 1);

    let bytes: usize = put.iter().map(|text| build(text).len()).sum();
    let counters = &rig.counters;
    assert_eq!(
        (counters.rx_packets.get(), counters.tx_packets.get()),
        (8, 5)
    );
    assert_eq!(counters.rx_bytes.get() as usize, bytes + 54);
    let punted = counters.punted.each_ref().map(|c| c.get());
    assert_eq!(punted, [0, 2, 0, 1, 0]);
    assert_eq!(net.pool.in_use(), 0);
    assert!(!net.turn(&mut rig), "a turn without frames is idle");
}

/// Buffers behind the first one follow it: to the wire, into the pieces of a packet that is cut, to
/// the kernel. An answer in place of the packet is sent without them, and they are free then.
fn frames_in_several_buffers(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    let long = "tcp 40000 > 443 syn | bytes 8900";
    let syn = |ip: &str| {
        build(&format!(
            "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200 {ip} | {long}"
        ))
    };
    rig.set("mtu 1 9000");
    net.put_in_pieces(0, &syn("df"), 2000);
    assert!(net.turn(&mut rig));
    let left = net.take(1);
    assert_eq!(left.len(), 1);
    let out = "eth 52:54:..:02 > 02:04:c0:a8:32:05 | ip 172.16.1.7 > 192.168.50.5 ttl 63";
    let want = format!("{out} df | tcp 40000 > 8443 syn | bytes 8900");
    assert!(left[0] == build(&want), "all of it, checksums right");

    // Cut to pieces that come together to the same payload.
    rig.set("mtu 1 1500");
    net.put_in_pieces(0, &syn(""), 2000);
    assert!(net.turn(&mut rig));
    let pieces = net.take(1);
    assert_eq!(pieces.len(), 7);
    let together: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece[34..].to_vec())
        .collect();
    assert!(together == left[0][34..], "the payload of all pieces");

    // Too long and not to be cut.
    net.put_in_pieces(0, &syn("df"), 2000);
    assert!(net.turn(&mut rig));
    let told = net.take(0);
    assert_eq!((told.len(), told[0].len()), (1, 14 + 576));
    assert_eq!(told[0][34..36], [3, 4]);
    assert_eq!(net.pool.in_use(), 0, "no buffer is left behind");

    // To the kernel.
    let ping = build(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.1 | icmp 8 0 | bytes 5000",
    );
    net.put_in_pieces(0, &ping, 1000);
    assert!(net.turn(&mut rig));
    assert!(net.take_punted(0, PuntClass::Host) == [ping]);
    assert_eq!(net.pool.in_use(), 0);
}

/// A TCP packet of 64 KiB becomes more segments than a burst holds; everything else is as it was.
fn packets_that_hardware_was_to_cut(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    net.inner.lanes[0].cuts_to = Some(1500);
    let head = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200";
    net.put(0, &build(SYN));
    let long = format!("{head} df | tcp 40000 > 443 ack 2 seq 2 | bytes 60000");
    net.put_in_pieces(0, &build(&long), 1900);
    assert!(net.turn(&mut rig));
    let left = net.take(1);
    assert_eq!(left.len(), 1 + 42);
    expect_frame(&left[0], SYN_OUT, "the first");
    let payload: Vec<u8> = left[1..].iter().flat_map(|f| f[54..].to_vec()).collect();
    assert!(payload == build(&long)[54..], "in order and whole");
    assert!(left.iter().all(|frame| frame.len() <= 1514));
    assert_eq!(net.pool.in_use(), 0);
    net.inner.lanes[0].cuts_to = None;
}

/// A burst is 32; the rest waits for the next turn, and nothing overtakes.
fn longer_than_a_burst(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    let segment = |seq: usize| format!("{SYN} seq {seq}");
    for seq in 0..100 {
        net.put(0, &build(&segment(seq)));
    }
    let mut left = Vec::new();
    for want in [32, 32, 32, 4] {
        assert!(net.turn(&mut rig));
        let got = net.take(1);
        assert_eq!(got.len(), want);
        left.extend(got);
    }
    for (seq, got) in left.iter().enumerate() {
        expect_frame(got, &format!("{SYN_OUT} seq {seq}"), "in order");
    }
    assert_eq!(rig.worker.connections(), 1);
    assert_eq!(net.pool.in_use(), 0);
}

/// What the kernel sends by a twin leaves by its port, as it is; only the answers of a real server
/// on this host are given the virtual address.
fn frames_of_the_kernel(net: &mut Net) {
    let mut rig = rig_with(&["tcp 192.168.40.200:443 rr masquerade -> 192.168.40.1:8443"]);
    let send = |net: &mut Net, port: usize, text: &str| {
        let mut one = carried(&net.pool, &build(text));
        assert_eq!(net.kernel[port].send(&mut one), 1);
    };
    send(net, 0, ARP);
    send(net, 1, NOT_OURS);
    assert!(net.turn(&mut rig));
    assert_eq!(net.take(0), [build(ARP)]);
    assert_eq!(net.take(1), [build(NOT_OURS)]);

    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    let punted = net.take_punted(0, PuntClass::Host);
    assert_eq!(punted.len(), 1);
    expect_frame(
        &punted[0][14..],
        "ip 172.16.1.7 > 192.168.40.1 | tcp 40000 > 8443 syn",
        "to the host",
    );
    send(
        net,
        0,
        "eth 52:54:..:01 > 02:04:c0:a8:28:fe | ip 192.168.40.1 > 172.16.1.7
            | tcp 8443 > 40000 syn ack 2",
    );
    assert!(net.turn(&mut rig));
    let left = net.take(0);
    assert_eq!(left.len(), 1);
    expect_frame(
        &left[0],
        "eth 52:54:..:01 > 02:04:c0:a8:28:fe | ip 192.168.40.200 > 172.16.1.7
            | tcp 443 > 40000 syn ack 2",
        "from the host",
    );
    assert_eq!(rig.counters.tx_packets.get(), 3);

    // A whole ring of them takes several turns.
    for _ in 0..RING {
        send(net, 1, ARP);
    }
    assert!(net.turn(&mut rig));
    assert_eq!(net.take(1).len(), BURST);
    assert!(net.turn(&mut rig));
    assert_eq!(net.take(1).len(), RING as usize - BURST);
    assert_eq!(net.pool.in_use(), 0);
}

/// What a port does not take is freed and counted, and nothing else waits for it.
fn a_full_transmit_queue(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    let turns = DEVICE / BURST + 2;
    for _ in 0..turns {
        for _ in 0..BURST {
            net.put(0, &build(SYN));
        }
        assert!(net.turn(&mut rig));
    }
    let lost = turns * BURST - DEVICE;
    assert_eq!(drops(&rig, DropReason::TxFull) as usize, lost);
    assert_eq!(rig.counters.tx_packets.get() as usize, DEVICE);
    assert_eq!(net.pool.in_use() as usize, DEVICE, "only those in the wire");

    // Pieces and frames of the kernel meet the same full queue; the other port goes on.
    let mut one = carried(&net.pool, &build(ARP));
    assert_eq!(net.kernel[1].send(&mut one), 1);
    let mut one = carried(&net.pool, &build(ARP));
    assert_eq!(net.kernel[0].send(&mut one), 1);
    assert!(net.turn(&mut rig));
    assert_eq!(drops(&rig, DropReason::TxFull) as usize, lost + 1);
    assert_eq!(net.take(0).len(), 1);
    assert_eq!(net.take(1).len(), DEVICE);

    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    assert_eq!(net.take(1).len(), 1, "with room it goes on");
    assert_eq!(net.pool.in_use(), 0);
}

/// As many ARP requests as there is no room for take none from an advert.
fn a_flood_of_arp_before_an_advert(net: &mut Net) {
    let advert = "eth 02:04:c0:a8:28:fe > 01:00:5e:00:00:12 | ip 192.168.40.2 > 224.0.0.18 ttl 255 proto 112 | bytes 20";
    let mut rig = rig_with(&[]);
    for _ in 0..RING + 6 {
        net.put(0, &build(ARP));
    }
    net.put(0, &build(advert));
    while net.turn(&mut rig) {}
    assert_eq!(drops(&rig, DropReason::PuntQueueFull), 6);
    assert_eq!(net.take_punted(0, PuntClass::Advert), [build(advert)]);
    assert_eq!(net.take_punted(0, PuntClass::Control).len(), RING as usize);
}

/// Clients who wait for their answers keep the worker busy, and all are let in; more packets than
/// it has time for make the queue deep, and some are refused. The queue's order is kept.
fn a_standing_queue(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    let mut clients = (1024..).map(|n: u16| SYN.replace("40000", &n.to_string()));
    let (mut put, mut left) = (0, Vec::new());
    let mut serve = |net: &mut Net, rig: &mut Rig, waiting: usize, turns: usize| {
        for _ in 0..turns {
            let gone = left.len() + drops(rig, DropReason::Overload) as usize;
            while put - gone < waiting {
                net.put(0, &build(&clients.next().expect("enough")));
                put += 1;
            }
            assert!(net.turn(rig) || waiting == 0);
            rig.now = rig.now + Duration::from_micros(50);
            left.extend(net.take(1));
        }
        let port = |frame: &Vec<u8>| u16::from_be_bytes([frame[34], frame[35]]);
        assert!(left.is_sorted_by_key(port), "the queue's order");
        (put, left.len(), drops(rig, DropReason::Overload))
    };
    let (put, left, refused) = serve(net, &mut rig, 256, 200);
    assert_eq!((left, refused), (200 * BURST, 0), "{put} were put in");
    let (put, left, refused) = serve(net, &mut rig, 1000, 200);
    assert!(refused > 1000, "{put} were put in, {left} left");
    let (put, left, refused) = serve(net, &mut rig, 0, 100);
    assert_eq!(put, left + refused as usize);
    assert_eq!(net.pool.in_use(), 0);
}

/// A full punt queue loses frames of its class alone.
fn a_full_punt_queue(net: &mut Net) {
    let mut rig = rig_with(&[]);
    let transit = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 172.16.9.9 | udp 5 > 6";
    for _ in 0..RING + 6 {
        net.put(0, &build(transit));
    }
    net.put(0, &build(ARP));
    while net.turn(&mut rig) {}
    assert_eq!(drops(&rig, DropReason::PuntQueueFull), 6);
    assert_eq!(net.pool.in_use(), RING + 1);
    assert_eq!(net.take_punted(0, PuntClass::Control).len(), 1);
    assert_eq!(net.take_punted(0, PuntClass::Transit).len(), RING as usize);
    assert_eq!(net.pool.in_use(), 0);
}

/// Without buffers a packet cannot be cut: it is dropped and counted, once.
fn no_buffer_for_pieces(net: &mut Net) {
    let mut rig = rig_with(&["udp 192.168.40.200:53 rr masquerade -> 192.168.50.5:53"]);
    rig.set_mtu(1, 1000);
    let long = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200 id 5
        | udp 40000 > 53 | bytes 1200";
    for left in [0, 1, 2] {
        net.put(0, &build(long));
        let mut held: Vec<_> = std::iter::from_fn(|| net.pool.alloc()).collect();
        held.truncate(held.len() - left);
        let before = drops(&rig, DropReason::FragmentFailed);
        assert!(net.turn(&mut rig));
        let failed = drops(&rig, DropReason::FragmentFailed) - before;
        assert_eq!(failed, u64::from(left < 2), "{left} buffers left");
        assert_eq!(net.take(1).len(), left);
        drop(held);
        assert_eq!(net.pool.in_use(), 0);
    }
}

/// A peer on this host leaves the checksum to the hardware; the lane says whether that is so.
fn partial_checksums(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    // The sum of the pseudo header alone: 172.16.1.7, 192.168.40.200, protocol 6, 20 bytes.
    let words = [0xac10_u32, 0x0107, 0xc0a8, 0x28c8, 6, 20];
    let sum: u32 = words.iter().sum();
    let partial = (sum & 0xffff) + (sum >> 16);
    let text = format!("{SYN} csum {partial}");
    for completes in [true, false] {
        net.inner.lanes[0].completes_checksums = completes;
        net.put(0, &build(&text));
        assert!(net.turn(&mut rig));
        let left = net.take(1);
        assert_eq!(left[0] == build(SYN_OUT), completes);
    }
    assert_eq!(net.pool.in_use(), 0);
}

/// Commands are taken eight a turn, between bursts, and answered in order; while there is no room
/// for an answer none is taken.
fn commands_and_replies(net: &mut Net) {
    let mut rig = rig_with(&[HTTPS]);
    let control = net.control.clone();
    let push = |generation, command| {
        let envelope = Envelope {
            generation,
            command,
        };
        assert!(control.commands.push(envelope).is_ok());
    };
    for generation in 1..=20 {
        push(generation, Command::Nop);
    }
    for want in [8, 8, 4] {
        assert!(net.turn(&mut rig), "commands keep a worker awake");
        for _ in 0..want {
            let reply = control.replies.pop().unwrap();
            assert!(matches!(reply.outcome, Outcome::Done(_)));
        }
        assert!(control.replies.is_empty());
    }
    assert!(!net.turn(&mut rig));
    assert_eq!(rig.counters.generation.get(), 20);
    // Each is accounted for under its kind.
    let cost_of = |name| {
        let kind = Command::KINDS.iter().position(|kind| *kind == name);
        &rig.counters.commands[kind.unwrap()]
    };
    let nops = cost_of("nop");
    let (count, all, longest) = (nops.count.get(), nops.cpu_ns.get(), nops.longest_ns.get());
    assert!(count == 20 && longest > 0, "{count} {longest}");
    assert!((longest..=20 * longest).contains(&all), "{all} {longest}");
    assert_eq!(cost_of("put-neighbour").count.get(), 0);

    // A new MAC of a server takes effect with the next burst, not in the middle of one.
    let moved = Neighbour {
        link: LinkId(1),
        addr: addr("192.168.50.5"),
        mac: mac_of(&addr("192.168.50.99")),
    };
    // Two gateways come before the only server.
    push(21, Command::PutNeighbour(NeighbourId(2), moved));
    push(22, Command::PutNeighbour(NeighbourId(9999), moved));
    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    expect_frame(&net.take(1)[0], SYN_OUT, "before the command");
    let done = control.replies.pop().unwrap();
    assert!(done.generation == 21 && matches!(done.outcome, Outcome::Done(_)));
    let refused = control.replies.pop().unwrap();
    assert!(refused.generation == 22 && matches!(refused.outcome, Outcome::Refused(..)));
    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    let after = SYN_OUT.replace("c0:a8:32:05", "c0:a8:32:63");
    expect_frame(&net.take(1)[0], &after, "after the command");

    let room = control.replies.capacity();
    for generation in 0..room as u64 + 3 {
        while control.commands.is_full() {
            assert!(net.turn(&mut rig));
        }
        push(100 + generation, Command::Nop);
    }
    while net.turn(&mut rig) {}
    assert!(control.replies.is_full());
    assert_eq!(control.commands.len(), 3);
    assert_eq!(control.replies.pop().unwrap().generation, 100);
    assert!(net.turn(&mut rig));
    assert_eq!(control.commands.len(), 2, "one answer, one command");
    while control.replies.pop().is_some() {}
    assert!(net.turn(&mut rig));
    while control.replies.pop().is_some() {}
    assert!(control.commands.is_empty());
    assert_eq!(net.pool.in_use(), 0);
}

/// A packet whose next hop has no MAC yet waits while control is asked for it: it leaves once the
/// MAC is learned, changed only then. If the kernel gives the hop up, or after four seconds, its
/// sender is told; if too many wait, it is dropped.
fn waiting_for_a_neighbour(net: &mut Net) {
    let mut rig = rig_with(&["tcp 192.168.40.200:443 rr masquerade -> 192.168.40.77:8443"]);
    let out = "eth 52:54:..:01 > 02:04:c0:a8:28:4d | ip 172.16.1.7 > 192.168.40.77 ttl 63
        | tcp 40000 > 8443 syn";
    let lost = |rig: &Rig| drops(rig, DropReason::NoNeighbour);
    let captured = Arc::new(CaptureRing::new(64));
    let capture = |rig: &mut Rig| {
        let capture = Capture::new(None, Filter::default(), Arc::clone(&captured));
        let command = Command::StartCapture(Box::new(capture));
        drop(rig.worker.apply(rig.now, command));
    };
    let verdicts =
        || std::iter::from_fn(|| captured.pop().map(|record| record.verdict)).collect::<Vec<_>>();
    capture(&mut rig);
    for seq in [1, 2] {
        net.put(0, &build(&format!("{SYN} seq {seq}")));
        assert!(net.turn(&mut rig));
    }
    let want = Event::Resolve {
        link: LinkId(0),
        addr: addr("192.168.40.77"),
    };
    assert_eq!(net.control.events.pop(), Some(want));
    while net.control.events.pop().is_some() {}
    // The first chose a server; the other is of the same connection.
    assert_eq!((net.pool.in_use(), rig.worker.connections()), (2, 1));
    assert_eq!(verdicts(), [Some(Verdict::Wait); 2]);

    // What another neighbour's MAC sets free is looked at again and waits on.
    rig.neighbour(0, "192.168.40.78", mac_of(&addr("192.168.40.78")));
    rig.now = rig.now + Duration::from_millis(999);
    net.turn(&mut rig);
    assert_eq!((net.pool.in_use(), lost(&rig)), (2, 0));
    assert!(net.control.events.pop().is_some(), "it was looked at");
    assert_eq!(verdicts(), [], "it waits on");
    rig.neighbour(0, "192.168.40.77", mac_of(&addr("192.168.40.77")));
    net.turn(&mut rig);
    let left = net.take(0);
    assert_eq!(left.len(), 2);
    for (seq, got) in (1..).zip(&left) {
        expect_frame(got, &format!("{out} seq {seq}"), "after waiting");
    }
    assert_eq!((net.pool.in_use(), rig.worker.connections()), (0, 1));
    assert_eq!(rig.counters.dests[0].in_pkts.get(), 2, "counted once each");
    let sent = Some(Verdict::Transmit(PortId(0)));
    assert_eq!(verdicts(), [sent, None, sent, None]);

    // What was learned before a packet came is no reason to look at it again: each look picks
    // the next server.
    let mut rig = rig_with(&[
        "tcp 192.168.40.200:443 rr masquerade -> 192.168.40.77:8443, 192.168.40.78:8443",
    ]);
    rig.neighbour(0, "192.168.40.79", mac_of(&addr("192.168.40.79")));
    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    net.turn(&mut rig);
    assert!(net.control.events.pop().is_some());
    assert_eq!(net.control.events.pop(), None, "a second look");
    net.inner.parking = Parking::default();

    // Nobody answers: 256 wait for four seconds, the others are lost at once.
    let mut rig = rig_with(&["tcp 192.168.40.200:443 rr masquerade -> 192.168.40.77:8443"]);
    for _ in 0..260 {
        net.put(0, &build(SYN));
        net.turn(&mut rig);
    }
    capture(&mut rig);
    assert_eq!((net.pool.in_use(), lost(&rig)), (256, 4));
    rig.now = rig.now + Duration::from_millis(3999);
    net.turn(&mut rig);
    assert_eq!((net.pool.in_use(), lost(&rig)), (256, 4));
    rig.now = rig.now + Duration::from_millis(1);
    net.turn(&mut rig);
    assert_eq!(lost(&rig), 260);
    let told = net.take(0);
    assert_eq!(told.len(), 6, "as the limit for one peer allows");
    for got in &told {
        expect_frame(got, UNREACHABLE, "after four seconds");
    }
    assert_eq!(net.pool.in_use(), 0);
    let got = verdicts();
    let dropped = Some(Verdict::Drop(DropReason::NoNeighbour));
    assert_eq!((got[0], got[1], got.len()), (sent, None, 64));
    assert!(got[12..].iter().all(|verdict| *verdict == dropped));
    while net.control.events.pop().is_some() {}

    // The kernel gives the hop up: what waits is answered, and what comes then does not wait.
    let mut rig = rig_with(&["tcp 192.168.40.200:443 rr masquerade -> 192.168.40.77:8443"]);
    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    assert_eq!(net.pool.in_use(), 1);
    let fail = Command::FailNeighbour(LinkId(0), addr("192.168.40.77"));
    drop(rig.worker.apply(rig.now, fail));
    net.turn(&mut rig);
    net.put(0, &build(SYN));
    net.turn(&mut rig);
    let told = net.take(0);
    assert_eq!((told.len(), net.pool.in_use()), (2, 0));
    expect_frame(&told[0], UNREACHABLE, "that waited");
    expect_frame(&told[1], UNREACHABLE, "that came later");
    assert_eq!(lost(&rig), 2);
    while net.control.events.pop().is_some() {}
}

/// A piece of a packet that overtakes the first one waits for it, then goes the same way. After a
/// second, or as the oldest of too many, it is dropped, or the kernel's if it is for others.
fn waiting_for_the_first_fragment(net: &mut Net) {
    let mut rig = rig_with(&["udp 192.168.40.200:53 rr direct -> 192.168.50.6:53"]);
    let head = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200";
    let later = |id: u32, offset: u32| {
        build(&format!(
            "{head} id {id} mf offset {offset} proto 17 | bytes 16"
        ))
    };
    let lost = |rig: &Rig| drops(rig, DropReason::FragmentEarly);
    net.put(0, &later(7, 24));
    net.put(0, &later(7, 40));
    net.put(0, &later(8, 24));
    assert!(net.turn(&mut rig));
    assert_eq!((net.pool.in_use(), net.take(1).len()), (3, 0));
    net.put(
        0,
        &build(&format!(
            "{head} id 7 mf | udp 4000 > 53 csum none len 99 | bytes 16"
        )),
    );
    assert!(net.turn(&mut rig));
    let left = net.take(1);
    let offsets: Vec<u8> = left.iter().map(|frame| frame[21] * 8).collect();
    assert_eq!(offsets, [0, 24, 40]);
    assert!(
        left.iter()
            .all(|frame| frame[..6] == [2, 4, 192, 168, 50, 6])
    );
    assert_eq!(rig.counters.dests[0].in_pkts.get(), 1, "one packet");
    assert_eq!(rig.counters.dests[0].in_bytes.get(), 44 + 16 + 16);
    // The other packet's first piece never comes.
    rig.now = rig.now + Duration::from_millis(999);
    net.turn(&mut rig);
    assert_eq!((net.pool.in_use(), lost(&rig)), (1, 0));
    rig.now = rig.now + Duration::from_millis(1);
    net.turn(&mut rig);
    assert_eq!((net.pool.in_use(), lost(&rig)), (0, 1));

    // A flood: the oldest make room.
    for id in 100..170 {
        net.put(0, &later(id, 24));
    }
    while net.turn(&mut rig) {}
    assert_eq!((net.pool.in_use(), lost(&rig)), (64, 7));
    rig.now = rig.now + Duration::from_secs(1);
    net.turn(&mut rig);
    assert_eq!((net.pool.in_use(), lost(&rig)), (0, 71));

    // Not for this host: the first piece may have taken another way.
    let transit = build(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 172.16.2.2 id 5 offset 24 proto 17
        | bytes 16",
    );
    net.put(0, &transit);
    assert!(net.turn(&mut rig));
    assert_eq!(net.pool.in_use(), 1);
    rig.now = rig.now + Duration::from_secs(1);
    net.turn(&mut rig);
    assert_eq!(net.take_punted(0, PuntClass::Transit), [transit]);
    assert_eq!((net.pool.in_use(), lost(&rig)), (0, 71));
}

fn a_port_that_is_not_there(eal: &Eal, mut net: Net) {
    let mut rig = rig_with(&[HTTPS]);
    net.inner.lanes.truncate(1);
    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig));
    assert_eq!(drops(&rig, DropReason::PortDown), 1);
    assert_eq!(net.pool.in_use(), 0);
    net.end(eal);
}

/// A loop told to stop ends before its next turn; what waits in the rings to and from the kernel,
/// or for a next hop, is freed with the loop, and what waits in a device is still the device's.
fn stopped_with_frames_in_the_rings(eal: &Eal, mut net: Net) {
    let mut rig = rig_with(&["tcp 192.168.40.200:443 rr masquerade -> 192.168.40.77:8443"]);
    net.put(0, &build(SYN));
    assert!(net.turn(&mut rig), "it waits for its next hop");
    for _ in 0..BURST {
        net.put(0, &build(ARP));
    }
    assert!(net.turn(&mut rig));
    for port in 0..2 {
        let mut one = carried(&net.pool, &build(ARP));
        assert_eq!(net.kernel[port].send(&mut one), 1);
    }
    net.put(0, &build(SYN));
    assert_eq!(net.pool.in_use() as usize, BURST + 4);
    net.inner.stop.store(true, Ordering::Relaxed);
    net.inner = net.inner.run();
    assert_eq!(net.pool.in_use() as usize, BURST + 4, "no turn was made");
    assert_eq!(
        net.inner.lanes[0]
            .rx
            .as_mut()
            .unwrap()
            .receive(&mut Burst::new()),
        1
    );
    net.end(eal);
}

/// Ends the walk of the second port's burst.
struct Panics;

impl Probe for Panics {
    fn received(&mut self, packets: &mut [Packet<'_>]) {
        assert!(packets.iter().all(|p| p.port == PortId(0)), "on purpose");
    }
}

/// The burst in hand and the frames queued for the other port are freed.
fn a_panic_in_the_walk(eal: &Eal, mut net: Net) {
    let mut rig = rig_with(&[HTTPS]);
    net.put(0, &build(SYN));
    net.put(1, &build(ARP));
    net.put(1, &build(ARP));
    net.swap(&mut rig);
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let turn = AssertUnwindSafe(|| net.inner.turn_with(rig.now, &mut Panics));
    let result = catch_unwind(turn);
    std::panic::set_hook(quiet);
    assert!(result.is_err());
    assert_eq!(net.pool.in_use(), 1, "the request waits to be sent");
    net.end(eal);
}

/// The loop's own life on a worker's core, busy and idle in turns, until it is told to stop.
fn on_its_own_core(eal: &Eal, mut net: Net) {
    let adaptive = Idle::Adaptive {
        spins: 10,
        nap: Duration::from_micros(10),
        longest: Duration::from_micros(100),
    };
    for idle in [Idle::Poll, adaptive] {
        let mut rig = rig_with(&[HTTPS]);
        net.swap(&mut rig);
        let counters = Arc::clone(&net.inner.end.counters);
        let stop = Arc::new(AtomicBool::new(false));
        let inner = Loop {
            idle,
            stop: Arc::clone(&stop),
            ..net.inner
        };
        let (back, ended) = mpsc::channel();
        let run = move || back.send(inner.run()).expect("the test waits for it");
        eal.launch(0, Box::new(run)).unwrap();
        for _ in 0..3 {
            let beats = counters.heartbeat.get();
            common::until("idle turns", || counters.heartbeat.get() > beats + 1000);
            let mut one = carried(&net.pool, &build(SYN));
            let wires = &mut net.wires;
            assert_eq!(wires[0].0.as_mut().unwrap().send(&mut one), 1);
            let mut burst = Burst::new();
            common::until("the frame", || {
                wires[1].1.as_mut().unwrap().receive(&mut burst) > 0
            });
            let left = burst.pop().unwrap();
            expect_frame(left.frame(), SYN_OUT, "by the running loop");
        }
        let before = (counters.busy_loops.get(), counters.heartbeat.get());
        assert!(before.0 <= 3 && before.1 > 3000, "{before:?}");
        stop.store(true, Ordering::Relaxed);
        eal.wait(0).unwrap();
        net.inner = ended.recv().expect("the loop gives its parts back");
        assert_eq!(net.pool.in_use(), 0);
    }
    net.end(eal);
}

/// Services of the scene with capture files, and what their clients send and servers get.
const CONVERSATIONS: [(&str, &str, &str); 8] = [
    (HTTPS, SYN, SYN_OUT),
    (
        "tcp [fd40::200]:443 rr masquerade -> [fd50::5]:8443",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip6 2001:db8::7 > fd40::200 | tcp 40000 > 443 syn",
        "eth 52:54:..:02 > 02:10:..:05 | ip6 2001:db8::7 > fd50::5 ttl 63 | tcp 40000 > 8443 syn",
    ),
    (
        "udp 192.168.40.200:53 rr direct -> 192.168.50.6:53",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200
            | udp 40000 > 53 | bytes 30",
        "eth 52:54:..:02 > 02:04:c0:a8:32:06 | ip 172.16.1.7 > 192.168.40.200 ttl 63
            | udp 40000 > 53 | bytes 30",
    ),
    (
        "tcp [fd40::200]:80 rr direct -> [fd50::6]:80",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip6 2001:db8::7 > fd40::200 | tcp 40000 > 80 syn",
        "eth 52:54:..:02 > 02:10:..:06 | ip6 2001:db8::7 > fd40::200 ttl 63 | tcp 40000 > 80 syn",
    ),
    (
        "tcp 192.168.40.200:8080 rr tunnel -> 192.168.50.7:8080",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200 df
            | tcp 40000 > 8080 syn",
        "eth 52:54:..:02 > 02:04:c0:a8:32:07 | ip 192.168.50.1 > 192.168.50.7 ttl 63 df
            | ip 172.16.1.7 > 192.168.40.200 ttl 63 df | tcp 40000 > 8080 syn",
    ),
    (
        "udp [fd40::200]:53 rr tunnel -> [fd50::7]:53",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip6 2001:db8::7 > fd40::200
            | udp 40000 > 53 | bytes 9",
        "eth 52:54:..:02 > 02:10:..:07 | ip6 fd50::1 > fd50::7 ttl 63
            | ip6 2001:db8::7 > fd40::200 ttl 63 | udp 40000 > 53 | bytes 9",
    ),
    (
        "tcp [fd40::200]:8080 rr tunnel -> 192.168.50.7:8080",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip6 2001:db8::7 > fd40::200
            | tcp 40000 > 8080 syn",
        "eth 52:54:..:02 > 02:04:c0:a8:32:07 | ip 192.168.50.1 > 192.168.50.7 ttl 63 id *
            | ip6 2001:db8::7 > fd40::200 ttl 63 | tcp 40000 > 8080 syn",
    ),
    (
        "tcp 192.168.40.200:8081 rr tunnel -> [fd50::7]:8081",
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200 df
            | tcp 40000 > 8081 syn",
        "eth 52:54:..:02 > 02:10:..:07 | ip6 fd50::1 > fd50::7 ttl 63
            | ip 172.16.1.7 > 192.168.40.200 ttl 63 df | tcp 40000 > 8081 syn",
    ),
];

/// What the NAT servers send, and their clients get.
const REPLIES: [(&str, &str); 2] = [
    (
        "eth 02:04:c0:a8:32:05 > 52:54:..:02 | ip 192.168.50.5 > 172.16.1.7
            | tcp 8443 > 40000 syn ack 2",
        "eth 52:54:..:01 > 02:04:c0:a8:28:fe | ip 192.168.40.200 > 172.16.1.7 ttl 63
            | tcp 443 > 40000 syn ack 2",
    ),
    (
        "eth 02:10:..:05 > 52:54:..:02 | ip6 fd50::5 > 2001:db8::7
            | tcp 8443 > 40000 syn ack 2",
        "eth 52:54:..:01 > 02:04:c0:a8:28:fe | ip6 fd40::200 > 2001:db8::7 ttl 63
            | tcp 443 > 40000 syn ack 2",
    ),
];

/// From capture files into capture files: every method in both families, and a frame that is longer
/// than a buffer, which arrives in segments and goes to the kernel with all of them.
fn captures(eal: &Eal, pool: &Arc<Mempool>) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let mut requests: Vec<_> = CONVERSATIONS.iter().map(|c| build(c.1)).collect();
    let long = "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200
        | udp 40000 > 54 | bytes 4000";
    requests.extend([build(ARP), build(long)]);
    let replies: Vec<_> = REPLIES.iter().map(|r| build(r.0)).collect();
    std::fs::write(file("in0"), pcap::write(&requests)).unwrap();
    std::fs::write(file("in1"), pcap::write(&replies)).unwrap();
    let open = |number: u32, way: &str, name: &str| {
        let device = format!("net_pcap{number},{way}_pcap={}", file(name).display());
        open(eal, pool, &device)
    };
    let ports = [
        (open(0, "rx", "in0"), open(1, "tx", "out0")),
        (open(2, "rx", "in1"), open(3, "tx", "out1")),
    ];
    let mut net = Net::new(eal, pool, ports);
    let mut rig = rig_with(&CONVERSATIONS.map(|c| c.0));
    while net.turn(&mut rig) {}
    assert_eq!(drops(&rig, DropReason::Truncated), 0);
    assert_eq!(net.take_punted(0, PuntClass::Control), [build(ARP)]);
    assert!(net.take_punted(0, PuntClass::Host) == [build(long)]);
    assert_eq!(net.pool.in_use(), 0);
    net.end(eal);

    let sent = CONVERSATIONS.map(|c| c.2);
    let got = REPLIES.map(|r| r.1);
    for (name, want) in [("out1", &sent[..]), ("out0", &got)] {
        let left = pcap::read(&std::fs::read(file(name)).unwrap());
        assert_eq!(left.len(), want.len(), "{name}");
        for (frame, text) in left.iter().zip(want) {
            expect_frame(frame, text, name);
        }
    }
}
