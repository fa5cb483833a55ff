//! Copies of frames for `rvsadm capture`: filter, records and the bounded queue to the writer.
//!
//! A worker holds a [`Capture`] only while one runs; otherwise a capture costs it nothing but the
//! question whether there is one. Received frames are copied before the walk changes them and
//! handed over with the walk's verdict; sent ones as the walk leaves them. A full queue drops the copy and
//! counts it, never the packet.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::addr::Addr;
use crate::packet::{Packet, PortId, Verdict};
use crate::time::Instant;
use crate::worker::BURST;

/// Most bytes kept of a frame.
pub const SNAP: usize = 2048;

/// Tests and operators that a filter may have.
pub const STEPS: usize = 64;

/// Which way a frame went, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the wire.
    In,
    /// To the wire.
    Out,
}

/// One captured frame.
#[derive(Clone, Debug)]
pub struct Record {
    /// When.
    pub time: Instant,
    /// The port it came in or goes out by.
    pub port: PortId,
    /// Which way.
    pub direction: Direction,
    /// What became of it; `None` for sent frames.
    pub verdict: Option<Verdict>,
    /// 802.1Q tag that the driver took out of the frame (TCI), 0 for none.
    pub vlan_tci: u16,
    /// Length on the wire.
    pub wire_len: u32,
    len: u16,
    data: [u8; SNAP],
}

impl Record {
    const EMPTY: Record = Record {
        time: Instant(0),
        port: PortId(0),
        direction: Direction::In,
        verdict: None,
        vlan_tci: 0,
        wire_len: 0,
        len: 0,
        data: [0; SNAP],
    };

    fn set(&mut self, now: Instant, direction: Direction, port: PortId, packet: &Packet<'_>) {
        let frame = packet.frame();
        let len = frame.len().min(SNAP);
        self.data[..len].copy_from_slice(&frame[..len]);
        self.len = len as u16;
        self.time = now;
        self.direction = direction;
        self.port = port;
        self.vlan_tci = packet.vlan_tci;
        self.wire_len = packet.wire_len.max(frame.len() as u32);
        self.verdict = None;
    }

    /// The bytes that were kept.
    pub fn frame(&self) -> &[u8] {
        &self.data[..usize::from(self.len).min(SNAP)]
    }
}

/// The queue between workers and the writer.
#[derive(Debug)]
pub struct CaptureRing {
    records: ArrayQueue<Record>,
    lost: AtomicU64,
}

impl CaptureRing {
    /// A queue for `records` frames of [`SNAP`] bytes.
    pub fn new(records: usize) -> CaptureRing {
        CaptureRing {
            records: ArrayQueue::new(records.max(1)),
            lost: AtomicU64::new(0),
        }
    }

    /// The oldest record.
    pub fn pop(&self) -> Option<Record> {
        self.records.pop()
    }

    /// Frames that found the queue full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn push(&self, record: Record) {
        if self.records.push(record).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// A running capture as one worker holds it.
#[derive(Debug)]
pub struct Capture {
    port: Option<PortId>,
    filter: Filter,
    ring: Arc<CaptureRing>,
    burst: Box<[Record]>,
    /// Bit per slot of `burst`: a frame waits for its verdict there.
    waiting: u32,
}

impl Capture {
    /// Frames of one port (`None`: of all) that pass the filter go to `ring`.
    pub fn new(port: Option<PortId>, filter: Filter, ring: Arc<CaptureRing>) -> Capture {
        Capture {
            port,
            filter,
            ring,
            burst: vec![Record::EMPTY; BURST].into(),
            waiting: 0,
        }
    }

    fn wants(&self, port: PortId, packet: &Packet<'_>) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
            && self.filter.matches(packet.frame(), packet.vlan_tci)
    }

    /// Copies the `slot`th frame of a burst before the walk touches it.
    pub fn received(&mut self, now: Instant, slot: usize, packet: &Packet<'_>) {
        if self.wants(packet.port, packet)
            && let Some(record) = self.burst.get_mut(slot)
        {
            record.set(now, Direction::In, packet.port, packet);
            self.waiting |= 1 << slot;
        }
    }

    /// Hands over what [`Capture::received`] copied, with what became of it.
    pub fn decided(&mut self, slot: usize, verdict: Verdict) {
        if slot < BURST && self.waiting & (1 << slot) != 0 {
            self.waiting &= !(1 << slot);
            if let Verdict::HandOver { .. } = verdict {
                // The other worker shows it.
                return;
            }
            self.burst[slot].verdict = Some(verdict);
            self.ring.push(self.burst[slot].clone());
        }
    }

    /// Forgets what [`Capture::received`] copied: the frame goes on waiting.
    pub fn undecided(&mut self, slot: usize) {
        if slot < BURST {
            self.waiting &= !(1 << slot);
        }
    }

    /// Copies a frame that is about to leave by `port`.
    pub fn sent(&mut self, now: Instant, port: PortId, packet: &Packet<'_>) {
        if self.wants(port, packet) {
            let mut record = Record::EMPTY;
            record.set(now, Direction::Out, port, packet);
            self.ring.push(record);
        }
    }
}

/// Which end of a packet a test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// Either.
    Any,
}

/// One test of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// An IP address (for ARP: sender or target).
    Host(End, Addr),
    /// A TCP, UDP or SCTP port.
    Port(End, u16),
    /// An IP protocol number.
    Protocol(u8),
    /// An Ethernet type, below VLAN tags.
    EtherType(u16),
    /// A VLAN id.
    Vlan(u16),
}

/// A test, or what is done with the results of the steps before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Adds a result.
    Test(Test),
    /// Turns the last result round.
    Not,
    /// Makes one of the last two results: whether both passed.
    And,
    /// Makes one of the last two results: whether any passed.
    Or,
}

/// Tests with their operators behind them (`tcp and port 80` is `tcp`, `port 80`, `And`); a
/// filter without any passes every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    steps: [Option<Step>; STEPS],
}

impl Default for Filter {
    fn default() -> Filter {
        Filter {
            steps: [None; STEPS],
        }
    }
}

impl Filter {
    /// A filter of these steps; `None` if there are more than [`STEPS`], or if an operator lacks
    /// a result or a result an operator.
    pub fn new(steps: &[Step]) -> Option<Filter> {
        let mut filter = Filter::default();
        let mut results = 0usize;
        for step in steps {
            results = match step {
                Step::Test(_) => results + 1,
                Step::Not => Some(results).filter(|r| *r >= 1)?,
                Step::And | Step::Or => Some(results).filter(|r| *r >= 2)? - 1,
            };
        }
        if steps.len() > STEPS || results > 1 {
            return None;
        }
        for (slot, step) in filter.steps.iter_mut().zip(steps) {
            *slot = Some(*step);
        }
        Some(filter)
    }

    /// Whether a frame passes. Never panics, whatever the bytes.
    pub fn matches(&self, frame: &[u8], vlan_tci: u16) -> bool {
        if self.steps[0].is_none() {
            return true;
        }
        let seen = Seen::of(frame, vlan_tci);
        // The last result is the lowest bit; there are never more results than steps.
        let mut results = 0u64;
        for step in self.steps.iter().map_while(Option::as_ref) {
            let last = results & 1;
            results = match step {
                Step::Test(test) => (results << 1) | u64::from(seen.passes(test)),
                Step::Not => results ^ 1,
                Step::And => (results >> 1) & (last | !1),
                Step::Or => (results >> 1) | last,
            };
        }
        results & 1 == 1
    }
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    ether_type: Option<u16>,
    vlan: Option<u16>,
    addrs: Option<(Addr, Addr)>,
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)
        .map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn v4(bytes: &[u8], at: usize) -> Option<Addr> {
    bytes.get(at..at + 4)?.try_into().ok().map(Addr::v4)
}

fn v6(bytes: &[u8], at: usize) -> Option<Addr> {
    bytes.get(at..at + 16)?.try_into().ok().map(Addr::v6)
}

impl Seen {
    fn of(frame: &[u8], vlan_tci: u16) -> Seen {
        let mut seen = Seen::default();
        if vlan_tci != 0 {
            seen.vlan = Some(vlan_tci & 0xfff);
        }
        let mut at = 12;
        // At most two tags, as on the wire.
        for _ in 0..2 {
            if let Some(0x8100 | 0x88a8) = be16(frame, at) {
                seen.vlan = be16(frame, at + 2).map(|tci| tci & 0xfff);
                at += 4;
            }
        }
        seen.ether_type = be16(frame, at);
        let packet = frame.get(at + 2..).unwrap_or_default();
        match seen.ether_type {
            Some(0x0800) => seen.ipv4(packet),
            Some(0x86dd) => seen.ipv6(packet),
            Some(0x0806) => seen.addrs = v4(packet, 14).zip(v4(packet, 24)),
            _ => {}
        }
        seen
    }

    fn ipv4(&mut self, packet: &[u8]) {
        self.addrs = v4(packet, 12).zip(v4(packet, 16));
        self.protocol = packet.get(9).copied();
        let is_first = be16(packet, 6).is_some_and(|f| f & 0x1fff == 0);
        if let Some(first) = packet.first()
            && is_first
        {
            self.transport(packet, usize::from(first & 0x0f) * 4);
        }
    }

    fn ipv6(&mut self, packet: &[u8]) {
        self.addrs = v6(packet, 8).zip(v6(packet, 24));
        let mut next = packet.get(6).copied();
        let mut at = 40;
        for _ in 0..6 {
            self.protocol = next;
            let Some(header) = packet.get(at..at + 8) else {
                return;
            };
            match next {
                // Hop-by-hop, routing, destination options.
                Some(0 | 43 | 60) => at += 8 + usize::from(header[1]) * 8,
                // Fragment: only the first has ports.
                Some(44) if be16(header, 2).is_some_and(|f| f & 0xfff8 != 0) => {
                    self.protocol = Some(header[0]);
                    return;
                }
                Some(44) => at += 8,
                _ => return self.transport(packet, at),
            }
            next = Some(header[0]);
        }
    }

    fn transport(&mut self, packet: &[u8], at: usize) {
        if let Some(6 | 17 | 132) = self.protocol {
            self.ports = be16(packet, at).zip(be16(packet, at + 2));
        }
    }

    fn passes(&self, test: &Test) -> bool {
        fn end<T: PartialEq>(end: End, pair: Option<(T, T)>, wanted: &T) -> bool {
            pair.is_some_and(|(source, destination)| {
                (end != End::Destination && source == *wanted)
                    || (end != End::Source && destination == *wanted)
            })
        }
        match test {
            Test::Host(which, addr) => end(*which, self.addrs, addr),
            Test::Port(which, port) => end(*which, self.ports, port),
            Test::Protocol(protocol) => self.protocol == Some(*protocol),
            Test::EtherType(kind) => self.ether_type == Some(*kind),
            Test::Vlan(id) => self.vlan == Some(*id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::DropReason;

    /// Ethernet, 802.1Q tag 7, IPv4 10.0.0.1 > 10.0.0.2, TCP 1000 > 80.
    fn tagged_tcp() -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 7, 8, 0];
        f.extend([
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        f.extend([
            0x03, 0xe8, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
        ]);
        f
    }

    /// IPv6 with hop-by-hop options, UDP 53 > 2000.
    fn udp6() -> Vec<u8> {
        let mut f = vec![0; 12];
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 0, 64]);
        f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        f.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        f.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        f.extend([0, 53, 0x07, 0xd0, 0, 8, 0, 0]);
        f
    }

    fn filter(tests: &[Test]) -> Filter {
        let mut steps: Vec<_> = tests.iter().copied().map(Step::Test).collect();
        steps.extend(tests.iter().skip(1).map(|_| Step::And));
        Filter::new(&steps).unwrap()
    }

    #[test]
    fn tests_look_at_the_right_bytes() {
        let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        let frame = tagged_tcp();
        for (test, passes) in [
            (Test::Host(End::Any, b), true),
            (Test::Host(End::Source, b), false),
            (Test::Host(End::Source, a), true),
            (Test::Host(End::Destination, b), true),
            (Test::Port(End::Any, 80), true),
            (Test::Port(End::Source, 80), false),
            (Test::Port(End::Source, 1000), true),
            (Test::Protocol(6), true),
            (Test::Protocol(17), false),
            (Test::EtherType(0x0800), true),
            (Test::Vlan(7), true),
            (Test::Vlan(8), false),
        ] {
            assert_eq!(filter(&[test]).matches(&frame, 0), passes, "{test:?}");
        }
        let frame = udp6();
        let two = Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        let all = [
            Test::Host(End::Destination, two),
            Test::Port(End::Source, 53),
            Test::Vlan(9),
        ];
        assert!(filter(&all).matches(&frame, 9));
        assert!(!filter(&all).matches(&frame, 0), "all have to pass");
        assert!(Filter::default().matches(&[], 0));
        let udp = Step::Test(Test::Protocol(17));
        let not = Filter::new(&[udp, Step::Not]).unwrap();
        assert!(!not.matches(&frame, 0) && not.matches(&tagged_tcp(), 0));
    }

    #[test]
    fn operators_take_the_results_before_them() {
        let frame = tagged_tcp();
        let (yes, no) = (Test::Protocol(6), Test::Protocol(17));
        let value = |bit: u32| Step::Test(if bit == 1 { yes } else { no });
        for bits in 0..8u32 {
            let [a, b, c] = [bits & 1, (bits >> 1) & 1, bits >> 2];
            for (steps, want) in [
                (vec![value(a), value(b), Step::And], a & b),
                (vec![value(a), value(b), Step::Or], a | b),
                (
                    vec![value(a), value(b), Step::Or, Step::Not, value(c), Step::And],
                    (1 - (a | b)) & c,
                ),
                (
                    vec![value(a), value(b), value(c), Step::And, Step::Or],
                    a | (b & c),
                ),
            ] {
                let filter = Filter::new(&steps).unwrap();
                assert_eq!(filter.matches(&frame, 0), want == 1, "{steps:?}");
            }
        }
        let deep = [value(1); 32];
        let ands = [Step::And; 31];
        let most = [&deep[..], &ands, &[Step::Not]].concat();
        assert_eq!(most.len(), STEPS);
        assert!(!Filter::new(&most).unwrap().matches(&frame, 0));
        assert!(Filter::new(&[&most[..], &[Step::Not]].concat()).is_none());
        for wrong in [
            &[Step::Not][..],
            &[value(1), Step::And],
            &[value(1), value(1)],
        ] {
            assert!(Filter::new(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn cut_frames_never_panic_and_have_no_ports() {
        let any = filter(&[Test::Port(End::Any, 80)]);
        for whole in [tagged_tcp(), udp6()] {
            for len in 0..whole.len() {
                any.matches(&whole[..len], 0);
            }
        }
        assert!(!any.matches(&tagged_tcp()[..40], 0));
        let mut later = tagged_tcp();
        later[18 + 7] = 9;
        assert!(!any.matches(&later, 0), "a later fragment has no ports");
    }

    #[test]
    fn received_frames_carry_their_verdict_and_a_full_queue_is_counted() {
        let ring = Arc::new(CaptureRing::new(2));
        let tcp = filter(&[Test::Protocol(6)]);
        let mut capture = Capture::new(Some(PortId(1)), tcp, Arc::clone(&ring));
        let mut bytes = tagged_tcp();
        let len = bytes.len() as u16;
        let mut other = bytes.clone();
        let now = Instant::from_secs(5);
        capture.received(now, 3, &Packet::new(&mut bytes, 0, len, PortId(1)));
        capture.received(now, 4, &Packet::new(&mut other, 0, len, PortId(0)));
        // The walk has changed the frame meanwhile.
        bytes[0] = 0xff;
        capture.decided(3, Verdict::Drop(DropReason::NoRoute));
        capture.decided(4, Verdict::Drop(DropReason::NoRoute));
        capture.decided(3, Verdict::Drop(DropReason::NoRoute));
        capture.sent(now, PortId(1), &Packet::new(&mut bytes, 0, len, PortId(0)));
        capture.sent(now, PortId(0), &Packet::new(&mut bytes, 0, len, PortId(1)));
        capture.sent(now, PortId(1), &Packet::new(&mut bytes, 0, len, PortId(1)));
        let first = ring.pop().unwrap();
        assert_eq!(first.verdict, Some(Verdict::Drop(DropReason::NoRoute)));
        assert_eq!(
            (first.direction, first.frame()),
            (Direction::In, &tagged_tcp()[..])
        );
        let second = ring.pop().unwrap();
        assert_eq!((second.direction, second.verdict), (Direction::Out, None));
        assert_eq!(second.frame()[0], 0xff);
        assert!(ring.pop().is_none());
        assert_eq!(ring.lost(), 1);
        capture.received(now, BURST, &Packet::new(&mut bytes, 0, len, PortId(1)));
        capture.decided(BURST, Verdict::Drop(DropReason::NoRoute));
        assert!(ring.pop().is_none());
    }
}
