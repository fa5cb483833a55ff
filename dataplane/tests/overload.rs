//! Three times as many packets as a worker can take, by a clock of the test's own: a queue, and
//! what each kind of packet costs. Known connections go on, what is new is refused and counted,
//! adverts are not late.

use std::collections::VecDeque;
use std::time::Duration;

use dataplane::packet::{DropReason, Packet, PortId, PuntClass, Verdict};
use dataplane::time::Instant;
use dataplane::worker::{BURST, Backlog, PACKETS_EACH};

mod support;
use support::notation;
use support::rig::Rig;

/// Nanoseconds. In proportion as `make bench` has them, four times as long: fewer packets make
/// the same story.
const TURN: u64 = 200;
const HIT: u64 = 320;
const NEW: u64 = 4000;
const REFUSED: u64 = 400;
const PUNTED: u64 = 600;

/// Descriptors of the receive queue.
const QUEUE: usize = 1024;

/// Connections that are there before the flood.
const KNOWN: u16 = 200;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Known,
    New,
    Advert,
}

/// Packets of one kind at a steady rate, over and over.
struct Source {
    kind: Kind,
    frames: Vec<Vec<u8>>,
    every: Duration,
    sent: usize,
}

impl Source {
    fn new(kind: Kind, frames: Vec<Vec<u8>>, per_second: f64) -> Source {
        Source {
            kind,
            frames,
            every: Duration::from_secs_f64(1.0 / per_second),
            sent: 0,
        }
    }

    fn due(&self, start: Instant) -> Instant {
        start + self.every * self.sent as u32
    }
}

#[derive(Default, Debug)]
struct Told {
    known_sent: usize,
    known_passed: usize,
    /// New ones that were let in, and that were refused with the reason.
    new_passed: usize,
    new_refused: usize,
    adverts_sent: usize,
    adverts: usize,
    latest_advert: Duration,
    /// Frames that found the queue full.
    missed: usize,
    seen: usize,
}

struct Flood {
    rig: Rig,
    queue: VecDeque<(Kind, Instant, Vec<u8>)>,
    backlog: Backlog,
}

impl Flood {
    fn new() -> Flood {
        let mut rig = Rig::new();
        rig.ipvsadm("-A -t 192.168.40.200:443 -s rr");
        rig.ipvsadm("-a -t 192.168.40.200:443 -r 192.168.50.5:443 -m");
        for n in 0..KNOWN {
            rig.inject(0, &segment(n, 40_000, "syn"));
            rig.inject(0, &segment(n, 40_000, "ack"));
        }
        Flood {
            rig,
            queue: VecDeque::new(),
            backlog: Backlog::default(),
        }
    }

    /// Lets the sources send for so long while the worker works.
    fn run(&mut self, time: Duration, sources: &mut [Source]) -> Told {
        let start = self.rig.now;
        let end = start + time;
        let mut told = Told::default();
        while self.rig.now < end {
            self.receive(start, sources, &mut told);
            let cost = self.turn(&mut told);
            self.rig.now = self.rig.now + Duration::from_nanos(cost);
        }
        for source in sources {
            match source.kind {
                Kind::Known => told.known_sent += source.sent,
                Kind::Advert => told.adverts_sent += source.sent,
                Kind::New => {}
            }
            source.sent = 0;
        }
        told
    }

    /// What has come since the last turn, in order.
    fn receive(&mut self, start: Instant, sources: &mut [Source], told: &mut Told) {
        let next = |sources: &mut [Source]| {
            let due = sources.iter().map(|s| s.due(start)).enumerate();
            due.min_by_key(|&(_, due)| due)
        };
        while let Some((at, due)) = next(sources)
            && due <= self.rig.now
        {
            let source = &mut sources[at];
            let frame = &source.frames[source.sent % source.frames.len()];
            source.sent += 1;
            if self.queue.len() < QUEUE {
                self.queue.push_back((source.kind, due, frame.clone()));
            } else {
                told.missed += 1;
            }
        }
    }

    /// As the poll loop does it; what it cost.
    fn turn(&mut self, told: &mut Told) -> u64 {
        let mut burst: Vec<_> = (0..BURST).map_while(|_| self.queue.pop_front()).collect();
        let now = self.rig.now;
        let mut cost = TURN;
        if !burst.is_empty() {
            let kinds: Vec<_> = burst.iter().map(|(kind, at, _)| (*kind, *at)).collect();
            let mut packets: Vec<_> = burst
                .iter_mut()
                .map(|(_, _, frame)| {
                    let len = frame.len() as u16;
                    Packet::new(frame, 0, len, PortId(0))
                })
                .collect();
            let mut verdicts = [Verdict::Wait; BURST];
            let worker = &mut self.rig.worker;
            let is_deep = self.queue.len() >= QUEUE / 2;
            worker.took_burst(now, &mut self.backlog, packets.len() == BURST, || is_deep);
            worker.process(now, &mut packets, &mut verdicts);
            for ((kind, at), verdict) in kinds.into_iter().zip(verdicts) {
                told.seen += 1;
                cost += match (kind, verdict) {
                    (Kind::Known, Verdict::Transmit(_)) => {
                        told.known_passed += 1;
                        HIT
                    }
                    (Kind::New, Verdict::Transmit(_)) => {
                        told.new_passed += 1;
                        NEW
                    }
                    (Kind::New, Verdict::Drop(DropReason::Overload)) => {
                        told.new_refused += 1;
                        REFUSED
                    }
                    (Kind::Advert, Verdict::Kernel(PuntClass::Advert)) => {
                        told.adverts += 1;
                        told.latest_advert = told.latest_advert.max(now.since(at));
                        PUNTED
                    }
                    other => panic!("{other:?} {at:?} {told:?}"),
                };
            }
        }
        self.rig.worker.expire(now, 64);
        cost
    }
}

fn segment(n: u16, port: u16, flags: &str) -> Vec<u8> {
    notation::build(&format!(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.{}.{} > 192.168.40.200 \
         | tcp {port} > 443 {flags}",
        n >> 8,
        n & 0xff
    ))
}

/// Segments of the known connections, `load` times what the worker could do of them alone.
fn known(load: f64) -> Source {
    let frames = (0..KNOWN).map(|n| segment(n, 40_000, "ack")).collect();
    Source::new(Kind::Known, frames, load * 1e9 / HIT as f64)
}

/// Opening segments, `load` times what the worker could do of them alone, each from elsewhere.
fn new(load: f64) -> Source {
    let frames = (0..256)
        .flat_map(|n| (2000..2200).map(move |port| segment(0x1000 + n, port, "syn")))
        .collect();
    Source::new(Kind::New, frames, load * 1e9 / NEW as f64)
}

/// A hundred adverts a second.
fn adverts() -> Source {
    let text = "eth 00:00:5e:00:01:33 > 01:00:5e:00:00:12 | ip 192.168.40.2 > 224.0.0.18 \
                ttl 255 proto 112 | bytes 8";
    Source::new(Kind::Advert, vec![notation::build(text)], 100.0)
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

const TIME: Duration = Duration::from_millis(400);

#[test]
fn a_flood_of_new_connections_costs_the_known_ones_nothing() {
    let mut flood = Flood::new();
    let alone = flood.run(TIME, &mut [known(0.3), adverts()]);
    assert_eq!(alone.known_passed, alone.known_sent);
    assert_eq!((alone.new_refused, alone.missed), (0, 0));

    // 0.3 + 2.7: three times what the worker could do.
    let told = flood.run(TIME, &mut [known(0.3), new(2.7), adverts()]);
    let kept = share(told.known_passed, alone.known_passed);
    assert!(kept > 0.9, "known connections kept {kept:.3} of their rate");
    let (sent, heard) = (told.adverts_sent, told.adverts);
    assert!(heard + 1 >= sent, "{heard} of {sent} adverts");
    let late = told.latest_advert;
    assert!(
        late < Duration::from_millis(100),
        "an advert was {late:?} late"
    );
    // What time is left is used: 0.7 less the refusals is more than a third.
    let capacity = TIME.as_nanos() as f64 / NEW as f64;
    let used = told.new_passed as f64 / capacity;
    assert!(used > 0.25, "new connections got {used:.3} of the worker");
    // Each frame has one fate, and the refusals are counted.
    let refused = flood.rig.counters.drops[DropReason::Overload as usize].get();
    assert_eq!(refused, told.new_refused as u64);
    let fates = told.known_passed + told.new_passed + told.new_refused + told.adverts;
    assert_eq!(fates, told.seen);

    // Nothing of it stays: all may open connections again a moment later, and entries expire.
    flood.run(TIME / 2, &mut [known(0.3), new(0.01)]);
    let calm = flood.run(TIME / 2, &mut [known(0.3), new(0.01)]);
    assert_eq!((calm.new_refused, calm.missed), (0, 0));
    flood.rig.sleep(Duration::from_secs(1000));
    assert_eq!(flood.rig.connections().len(), 0);
    assert_eq!(flood.rig.counters.connections.get(), 0);
}

/// The test above is one: without the rule the same flood takes their rate from the known ones.
#[test]
fn without_hits_first_the_flood_wins() {
    let mut flood = Flood::new();
    flood.rig.change_settings(|s| s.hits_first = false);
    let told = flood.run(TIME, &mut [known(0.3), new(2.7)]);
    let kept = share(told.known_passed, told.known_sent);
    assert!(kept < 0.5, "{kept}");
    assert_eq!(told.new_refused, 0);
}

/// Known connections that fill the queue by themselves shut nobody out.
#[test]
fn new_ones_get_in_while_known_ones_fill_the_queue() {
    let mut flood = Flood::new();
    let told = flood.run(TIME, &mut [known(3.0), new(0.02)]);
    let offered = told.new_passed + told.new_refused;
    let room = told.seen / PACKETS_EACH as usize;
    assert!(
        told.missed > 0 && offered > 100 && offered < room,
        "{told:?}"
    );
    let let_in = share(told.new_passed, offered);
    assert!(let_in > 0.95, "{let_in:.3} of the new ones: {told:?}");
}

/// A worker that did not run for a while finds a full queue and empties it: no overload.
#[test]
fn a_pause_of_the_worker_is_no_overload() {
    let mut flood = Flood::new();
    // Some 300 packets wait, half of them new; after the first burst of them it stops for 20 ms.
    let (start, mut told) = (flood.rig.now, Told::default());
    let mut sources = [known(0.15), new(2.0)];
    flood.rig.now = flood.rig.now + Duration::from_micros(300);
    flood.receive(start, &mut sources, &mut told);
    assert!(flood.queue.len() > 250);
    flood.turn(&mut told);
    flood.rig.now = flood.rig.now + Duration::from_millis(20);
    let after = flood.run(Duration::from_millis(5), &mut [known(0.1), new(0.1)]);
    assert_eq!(
        (told.new_refused, after.new_refused, after.missed),
        (0, 0, 0)
    );
}

/// A peak shorter than the queue is no overload.
#[test]
fn a_short_peak_is_let_in() {
    let mut flood = Flood::new();
    let peak = flood.run(Duration::from_micros(250), &mut [known(0.3), new(3.0)]);
    assert_eq!(peak.new_refused, 0);
    let after = flood.run(TIME, &mut [known(0.3), new(0.01)]);
    assert_eq!(after.missed, 0);
}

/// Clients who wait for their answers keep the worker busy and the queue standing; it never
/// overflows, so nobody is refused.
#[test]
fn clients_who_wait_are_all_served() {
    for clients in [BURST, 64, 200, QUEUE / 2 - BURST] {
        let mut flood = Flood::new();
        let mut opening = new(1.0).frames.into_iter().cycle();
        let end = flood.rig.now + TIME;
        let mut told = Told::default();
        while flood.rig.now < end {
            while flood.queue.len() < clients {
                let frame = opening.next().expect("it goes on");
                flood.queue.push_back((Kind::New, flood.rig.now, frame));
            }
            let cost = flood.turn(&mut told);
            flood.rig.now = flood.rig.now + Duration::from_nanos(cost);
        }
        assert!(told.new_passed > 10_000, "{told:?}");
        assert_eq!(told.new_refused, 0, "{clients} clients: {told:?}");
    }
}
