//! A worker neither allocates nor frees: not for a packet, not for a command, not to expire. What
//! commands bring comes from control, and what they replace goes back to it.
//!
//! Here and not in `dataplane`, because to watch the allocator takes `unsafe`.

#[path = "common/allocations.rs"]
mod allocations;
#[path = "common/play.rs"]
mod play;
#[path = "../../dataplane/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::{Addr, Endpoint};
use dataplane::capture::{Capture, CaptureRing, Filter};
use dataplane::command::{Command, ConnectionBatch, Outcome};
use dataplane::packet::{DropReason, Packet, PortId, Verdict};
use dataplane::roles::{RoleTable, VIRTUAL};
use dataplane::route::{FibBuilder, Link, LinkId, Neighbour, NeighbourId, Reject, Target};
use dataplane::schedule::{self, SCHEDULERS, Seat};
use dataplane::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};
use dataplane::settings::Settings;
use dataplane::sync::Collection;
use dataplane::wire::fragment::Fragments;
use play::{Became, Carrier};
use support::notation::build;
use support::rig::{PORT_MACS, Rig, addr, endpoint, mac_of};

/// Bytes before and behind a frame in its buffer.
const ROOM: usize = 128;

/// The counting counts.
#[test]
fn the_allocator_is_watched() {
    let (calls, boxed) = allocations::during(|| Box::new([1u8; 100]));
    assert_eq!((calls, boxed[99]), (1, 1));
    let (calls, ()) = allocations::during(|| drop(boxed));
    assert_eq!(calls, 1);
    let (calls, mut vec) = allocations::during(|| Vec::with_capacity(1));
    vec.push(1);
    let (more, ()) = allocations::during(|| vec.push(2));
    assert_eq!((calls, more), (1, 1));
    assert_eq!(allocations::during(|| vec[1]), (0, 2));
}

/// Calls the worker itself.
struct Plain;

fn process(rig: &mut Rig, port: u16, frame: &[u8], tci: u16) -> (Verdict, Vec<u8>) {
    let mut room = vec![0; ROOM + frame.len() + ROOM];
    room[ROOM..ROOM + frame.len()].copy_from_slice(frame);
    let mut packet = Packet::new(&mut room, ROOM as u16, frame.len() as u16, PortId(port));
    packet.vlan_tci = tci;
    let mut out = [Verdict::Drop(DropReason::NoMbuf)];
    let one = std::slice::from_mut(&mut packet);
    let (calls, ()) = allocations::during(|| rig.worker.process(rig.now, one, &mut out));
    let text = support::notation::print(frame);
    assert_eq!(calls, 0, "process: {text}: {:?}", out[0]);
    let (calls, _) = allocations::during(|| rig.worker.take_events());
    assert_eq!(calls, 0, "take_events");
    (out[0], packet.frame().to_vec())
}

fn expire(rig: &mut Rig) {
    for _ in 0..32 {
        let (calls, ()) = allocations::during(|| rig.worker.expire(rig.now, 1000));
        assert_eq!(calls, 0, "expire");
    }
}

impl Carrier for Plain {
    fn carry(&mut self, rig: &mut Rig, port: u16, frame: &[u8], tci: u16) -> Became {
        let (verdict, frame) = process(rig, port, frame, tci);
        match verdict {
            Verdict::Transmit(port) => Became::Left(port.0, vec![frame]),
            Verdict::Fragment(port, mtu) => Became::Left(port.0, cut(&frame, mtu)),
            Verdict::Kernel(class) => Became::Punted(class),
            Verdict::Drop(reason) => Became::Dropped(reason),
            Verdict::Wait | Verdict::Hold | Verdict::HandOver { .. } => Became::Kept,
        }
    }

    fn expire(&mut self, rig: &mut Rig) {
        expire(rig);
    }
}

fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2048];
    let mut frames = Vec::new();
    let l3 = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let mut pieces = Fragments::new(frame, l3, mtu).expect("a packet to cut");
    while pieces.next_len().is_some() {
        let (calls, len) = allocations::during(|| pieces.write(&mut buffer));
        assert_eq!(calls, 0, "fragments");
        frames.push(buffer[..len.expect("room for a piece")].to_vec());
    }
    frames
}

/// Whatever a packet is and whatever becomes of it.
#[test]
fn packets() {
    assert!(play::all(&mut Plain) > 100);
}

/// More clients than the table has room for: half-open connections are reclaimed, then new ones
/// refused, and all expire.
#[test]
fn a_full_table() {
    let mut rig = Rig::new();
    support::vectors::service(
        &mut rig,
        "tcp 192.168.40.200:443 wlc direct -> 192.168.50.5:443",
    );
    let segment = |n: u32, flag: &str| {
        let (a, b) = (n / 200, n % 200);
        build(&format!(
            "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.{a}.{b} > 192.168.40.200
            | tcp 40000 > 443 {flag}"
        ))
    };
    for flag in ["syn", "ack"] {
        for n in 0..3000 {
            process(&mut rig, 0, &segment(n, flag), 0);
        }
    }
    for n in 3000..6000 {
        process(&mut rig, 0, &segment(n, "syn"), 0);
    }
    assert!(rig.counters.reclaimed.get() > 100);
    assert!(rig.counters.drops[DropReason::TableFull as usize].get() > 100);
    // At least one shard is full of established ones.
    assert!(rig.worker.connections() >= 8);
    rig.now = rig.now + Duration::from_secs(1000);
    // A timer moves on by one slot of 250 ms a step.
    for _ in 0..2000 {
        rig.now = rig.now + Duration::from_millis(16);
        expire(&mut rig);
    }
    assert_eq!(rig.worker.connections(), 0);
}

/// Applies a command that was made before; whether it was done. Its parts are freed here, as
/// control does.
fn apply(rig: &mut Rig, what: &str, command: Command) -> bool {
    let (calls, outcome) = allocations::during(|| rig.worker.apply(rig.now, command));
    assert_eq!(calls, 0, "{what}");
    !matches!(outcome, Outcome::Refused(..))
}

fn service(id: u32, port: u16, scheduler: &'static str, dests: u32) -> Command {
    let dest = |n: u32| Destination {
        id: DestId(n),
        endpoint: Endpoint::new(Addr::v4([192, 168, 50, 5 + n as u8]), 443),
        method: ForwardingMethod::DirectRoute,
        weight: 1 + n % 3,
        last_weight: 1 + n % 3,
        upper: 10,
        lower: 0,
        tunnel: Tunnel::default(),
    };
    let service = VirtualService {
        id: ServiceId(id),
        key: ServiceKey::new(Protocol::Tcp, endpoint(&format!("192.168.40.200:{port}"))),
        scheduler,
        options: ServiceOptions::default(),
        destinations: (0..dests).rev().map(dest).collect(),
        withdrawn: Vec::new(),
    };
    let scheduler = schedule::new(&service, Seat::alone(7)).expect("a known scheduler");
    Command::PutService {
        service: Arc::new(service),
        scheduler,
    }
}

/// Services come, change in every way and go; there is no growth over time either.
#[test]
fn services() {
    let mut rig = Rig::new();
    for (name, _) in SCHEDULERS {
        for dests in [0, 1, 60, 3, 64] {
            assert!(apply(&mut rig, name, service(0, 443, name, dests)));
        }
        assert!(!apply(&mut rig, "server 64", service(0, 443, name, 65)));
    }
    assert!(!apply(&mut rig, "service 16", service(16, 443, "rr", 1)));
    for round in 0..200 {
        for id in 0..16 {
            let put = service(id, round * 16 + id as u16, "wlc", 2);
            assert!(apply(&mut rig, "put a service", put));
        }
        for id in 0..16 {
            let delete = Command::DeleteService(ServiceId(id));
            assert!(apply(&mut rig, "delete a service", delete));
        }
    }
}

#[test]
fn every_other_command() {
    let mut rig = Rig::new();
    support::vectors::service(
        &mut rig,
        "tcp 192.168.40.200:443 rr direct -> 192.168.50.5:443",
    );
    let syn = build(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200
        | tcp 40000 > 443 syn",
    );
    process(&mut rig, 0, &syn, 0);

    let link = |port| Link {
        port: PortId(port),
        vlan: 0,
        mac: PORT_MACS[usize::from(port)],
        mtu: 1500,
        up: true,
    };
    let neighbour = |n: u32| Neighbour {
        link: LinkId(1),
        addr: Addr::v4([10, 0, (n >> 8) as u8, n as u8]),
        mac: mac_of(&addr("192.168.50.5")),
    };
    for n in (0..1000).chain(0..1000) {
        let put = Command::PutNeighbour(NeighbourId(n % 256), neighbour(n));
        assert!(apply(&mut rig, "put a neighbour", put));
        let delete = Command::DeleteNeighbour(NeighbourId(n * 7 % 256));
        assert!(apply(&mut rig, "delete a neighbour", delete));
        let fail = Command::FailNeighbour(LinkId(1), neighbour(n).addr);
        assert!(apply(&mut rig, "give a neighbour up", fail));
    }
    let beyond = Command::PutNeighbour(NeighbourId(256), neighbour(0));
    assert!(!apply(&mut rig, "neighbour 256", beyond));
    for port in [0, 1] {
        let put = Command::PutLink(LinkId(port), link(port));
        assert!(apply(&mut rig, "put a link", put));
        let macs = Box::new(PORT_MACS);
        assert!(apply(
            &mut rig,
            "put MACs",
            Command::PutMacs(PortId(port), macs)
        ));
    }
    let macs = Command::PutMacs(PortId(2), Box::new(PORT_MACS));
    assert!(!apply(&mut rig, "MACs of port 2", macs));
    for _ in 0..3 {
        let mut fib = FibBuilder::new();
        fib.add(
            "0.0.0.0/0".parse().unwrap(),
            Target::Reject(Reject::Blackhole),
        );
        let put = Command::PutFib(Arc::new(fib.build()));
        assert!(apply(&mut rig, "put a forwarding table", put));
        let roles = [dataplane::roles::RoleEntry {
            protocol: 6,
            endpoint: endpoint("192.168.40.200:443"),
            roles: VIRTUAL,
        }];
        let put = Command::PutRoles(Arc::new(RoleTable::build(&roles)));
        assert!(apply(&mut rig, "put roles", put));
    }
    let settings = Command::PutSettings(Settings::default());
    assert!(apply(&mut rig, "put settings", settings));
    assert!(apply(&mut rig, "nothing", Command::Nop));
    let batch = Box::new(ConnectionBatch {
        rows: Vec::with_capacity(1),
        ..Default::default()
    });
    let dump = Command::DumpConnections(batch);
    assert!(apply(&mut rig, "dump connections", dump));
    let collect = Command::CollectConnections(Box::new(Collection::with_room(1)));
    assert!(apply(&mut rig, "collect connections", collect));

    let ring = Arc::new(CaptureRing::new(2));
    for _ in 0..2 {
        let capture = Capture::new(None, Filter::default(), Arc::clone(&ring));
        let start = Command::StartCapture(Box::new(capture));
        assert!(apply(&mut rig, "start a capture", start));
        // More than the ring holds.
        for _ in 0..4 {
            process(&mut rig, 0, &syn, 0);
        }
        assert!(ring.lost() > 0);
    }
    assert!(apply(&mut rig, "stop the capture", Command::StopCapture));
}
