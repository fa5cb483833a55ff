//! The worker's loop: receive, process, send, and nothing that waits.
//!
//! One turn: each port's burst through [`Worker::process`], mbufs moved by verdict, frames of
//! the kernel taken along, queues flushed, a few commands applied, a bounded look for expired
//! connections. When nothing comes for a while the loop sleeps in short, bounded naps and is
//! back to full polling at the first packet.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use dataplane::command::{Envelope, Reply, WorkerEnd};
use dataplane::counters::WorkerCounters;
use dataplane::packet::{Attempt, DropReason, Packet, PortId, PuntClass, Verdict};
use dataplane::partial;
use dataplane::time::Instant;
use dataplane::worker::Worker;

use crate::clock::Clock;
use crate::lcore;
use crate::mbuf::{BURST, Burst, Mbuf};
use crate::mempool::Mempool;
use crate::peers::{Errand, Peers};
use crate::pump::{Bell, PROBE};
use crate::sched::Eager;

mod cut;
mod idle;
mod lane;
mod parking;

pub use idle::{Idle, Rings};
pub use lane::{Lane, Way};
pub use parking::Parking;
use parking::Waiting;

/// Commands applied in one turn, at most.
const COMMANDS: usize = 8;

/// CPU time after which the others wait for the next turn. A command is applied whole: a turn
/// lasts as much longer as its last one takes.
const COMMAND_TIME: Duration = Duration::from_micros(50);

/// Turns that took less are not worth a note.
const NOTABLE_GAP: Duration = Duration::from_micros(50);

/// List steps of the expiry of one turn.
const EXPIRY_BUDGET: u32 = 64;

/// Stands around the walk of each received burst in [`Loop::turn_with`].
///
/// The bench writes the headers of the frames that a null port brings, and looks at samples of
/// what leaves. A worker in service has `()`, which does nothing and compiles to nothing.
pub trait Probe {
    /// The frames as they were received, before the worker sees them.
    #[inline(always)]
    fn received(&mut self, _packets: &mut [Packet<'_>]) {}

    /// The same frames after the walk, with what becomes of each.
    #[inline(always)]
    fn decided(&mut self, _packets: &[Packet<'_>], _verdicts: &[Verdict]) {}
}

impl Probe for () {}

/// A worker with everything around it; [`Loop::run`] is its life.
pub struct Loop {
    /// The core.
    pub worker: Worker,
    /// Rings to control.
    pub end: WorkerEnd,
    /// Its ports.
    pub lanes: Vec<Lane>,
    /// For the pieces of packets that are cut.
    pub pool: Arc<Mempool>,
    /// What to do when idle.
    pub idle: Idle,
    /// What bounds its naps.
    pub rings: Rings,
    /// Set to end the loop.
    pub stop: Arc<AtomicBool>,
    /// Wakes the pump thread.
    pub bell: Bell,
    /// The time.
    pub clock: Clock,
    /// Packets whose next hop is being resolved.
    pub parking: Parking,
    /// The other workers.
    pub peers: Peers,
    /// Whether naps end at once when others want the core. One that never naps is an ordinary thread.
    pub eager: Eager,
}

impl Loop {
    /// Takes commands, and leaves ports alone, until `open` is set: a packet that came before the
    /// services are known would be taken for the kernel's, which resets connections it does not
    /// know.
    pub fn wait(&mut self, open: &AtomicBool) {
        while !open.load(Ordering::Acquire) && !self.stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            self.end.counters.heartbeat.add(1);
            if !self.apply_commands(now) {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        // No packet waited for what came so far.
        for cost in &self.end.counters.commands {
            cost.begin();
        }
    }

    /// Runs until `stop` is set, then returns the parts so that queues go back to their ports.
    pub fn run(mut self) -> Loop {
        // Naps end when they should, not up to 50 us later.
        let _ = lcore::set_timer_slack(Duration::from_nanos(1));
        let mut empty_turns = 0u32;
        let mut cpu_at = Instant(0);
        let mut longest_nap = self.rings.longest_nap();
        let mut before = self.clock.now();
        let mut napped = false;
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            let gap = now.since(before);
            before = now;
            if gap >= NOTABLE_GAP && !napped {
                self.end.counters.note_gap(gap);
            }
            napped = false;
            let busy = self.turn(now);
            self.end.counters.heartbeat.add(1);
            if now.since(cpu_at) > Duration::from_millis(100) {
                cpu_at = now;
                longest_nap = self.rings.longest_nap();
                self.end
                    .counters
                    .cpu_ns
                    .set(lcore::thread_cpu_time().as_nanos() as u64);
            }
            if busy {
                empty_turns = 0;
                self.end.counters.busy_loops.add(1);
                self.eager.work(now);
            } else {
                empty_turns = empty_turns.saturating_add(1);
                match self.idle.nap(empty_turns, longest_nap) {
                    Some(nap) => {
                        self.eager.rest(now);
                        std::thread::sleep(nap);
                        napped = true;
                    }
                    None => core::hint::spin_loop(),
                }
            }
        }
        self.flush_all();
        self
    }

    /// One turn; whether it found anything to do.
    #[inline]
    pub fn turn(&mut self, now: Instant) -> bool {
        self.turn_with(now, &mut ())
    }

    /// One turn with `probe` around the walk.
    #[inline(always)]
    pub fn turn_with(&mut self, now: Instant, probe: &mut impl Probe) -> bool {
        let mut busy = false;
        if self.lanes.iter().any(|lane| lane.urgent.is_some()) {
            busy |= self.receive_urgent(now, probe);
        }
        for at in 0..self.lanes.len() {
            busy |= self.receive(at, now, probe);
            busy |= self.receive_from_kernel(at, now);
        }
        busy |= self.receive_from_peers(now);
        if !self.parking.is_empty() {
            self.retry_parked(now);
        }
        self.flush_all();
        if self.worker.has_events() {
            for event in self.worker.take_events() {
                // Full: the next packet asks again.
                let _ = self.end.events.push(event);
            }
        }
        busy |= self.apply_commands(now);
        self.worker.expire(now, EXPIRY_BUDGET);
        busy
    }

    /// What must not wait behind a full queue.
    #[inline(never)]
    fn receive_urgent(&mut self, now: Instant, probe: &mut impl Probe) -> bool {
        let mut busy = false;
        for at in 0..self.lanes.len() {
            let lane = self.lanes.get_mut(at);
            let mut burst = Burst::new();
            let urgent = lane.and_then(|lane| lane.urgent.as_mut());
            if urgent.map_or(0, |queue| queue.receive(&mut burst)) > 0 {
                self.take_in(at, now, &mut burst, probe);
                busy = true;
            }
        }
        busy
    }

    #[inline]
    fn receive(&mut self, at: usize, now: Instant, probe: &mut impl Probe) -> bool {
        let Some(lane) = self.lanes.get_mut(at) else {
            return false;
        };
        let Some(rx) = lane.rx.as_mut() else {
            return false;
        };
        let mut burst = Burst::new();
        let n = lane.ahead.receive(rx, &mut burst);
        if n == 0 {
            return false;
        }
        let (ahead, ring) = (&mut lane.ahead, lane.ring);
        self.worker
            .took_burst(now, &mut lane.backlog, n == BURST, || {
                ahead.is_deep(rx, ring)
            });
        match lane.cuts_to {
            None => self.take_in(at, now, &mut burst, probe),
            Some(mtu) => self.take_in_cut(at, now, &mut burst, mtu, probe),
        }
        true
    }

    /// Takes a received burst through the walk; it is empty afterwards.
    #[inline(always)]
    fn take_in(&mut self, at: usize, now: Instant, burst: &mut Burst, probe: &mut impl Probe) {
        let Some(lane) = self.lanes.get_mut(at) else {
            return;
        };
        let n = burst.len();
        let mut verdicts = [Verdict::Drop(DropReason::NoMbuf); BURST];
        let (worker, completes) = (&mut self.worker, lane.completes_checksums);
        let bytes = burst.with_assisted_packets(lane.port, lane.assisted, |packets| {
            probe.received(packets);
            if lane.assisted {
                complete_partial(packets);
            }
            if completes {
                packets.iter_mut().for_each(|packet| {
                    partial::complete(packet);
                });
            }
            let bytes = packets.iter().map(|p| u64::from(p.wire_len)).sum();
            worker.process(now, packets, &mut verdicts);
            probe.decided(packets, &verdicts);
            bytes
        });
        let counters = &self.end.counters;
        counters.rx_packets.add(n as u64);
        counters.rx_bytes.add(bytes);
        // Most bursts go one way as a whole, and move there as one.
        if let Some(lane) = way_of_all(&mut self.lanes, &verdicts[..n.min(BURST)]) {
            core::mem::swap(&mut lane.out, burst);
            return;
        }
        self.settle_all(now, at, burst, &verdicts);
    }

    /// Carries out the verdicts of a burst from one lane.
    #[inline]
    fn settle_all(
        &mut self,
        now: Instant,
        at: usize,
        burst: &mut Burst,
        verdicts: &[Verdict; BURST],
    ) {
        let mut refused = Burst::new();
        let mut punted = false;
        for (mbuf, verdict) in burst.drain().zip(*verdicts) {
            match verdict {
                Verdict::Transmit(port) => self.ways().send(port, mbuf),
                Verdict::Drop(_) => drop(refused.push(mbuf)),
                other => punted |= self.settle(now, at, other, mbuf),
            }
        }
        refused.free();
        self.give_up(now);
        if punted {
            self.bell.ring();
        }
    }

    /// Carries out one verdict; whether the bell is to be rung. `since`: when the packet came.
    fn settle(&mut self, since: Instant, at: usize, verdict: Verdict, mbuf: Mbuf) -> bool {
        let counters = &self.end.counters;
        match verdict {
            Verdict::Transmit(port) => self.ways().send(port, mbuf),
            Verdict::Kernel(class) => {
                punt(&mut self.lanes, counters, at, class, mbuf);
                return true;
            }
            Verdict::Fragment(port, mtu) => {
                let pool = Arc::clone(&self.pool);
                self.ways().cut(&pool, port, mtu, &mbuf);
            }
            Verdict::HandOver { worker, attempt } => {
                let errand = Errand::Process(attempt);
                let port = PortId(at as u16);
                self.peers
                    .hand(counters, usize::from(worker), errand, port, mbuf);
            }
            Verdict::Wait => {
                let learned = self.worker.neighbours_learned();
                self.parking
                    .park(counters, learned, Waiting::new(mbuf, at, since));
            }
            Verdict::Hold => self.parking.hold(Waiting::new(mbuf, at, since)),
            Verdict::Drop(_) => {}
        }
        false
    }

    #[inline(always)]
    fn ways(&mut self) -> Ways<'_> {
        Ways {
            lanes: &mut self.lanes,
            peers: &mut self.peers,
            counters: &self.end.counters,
        }
    }

    /// Packets that other workers handed over.
    #[inline]
    fn receive_from_peers(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for ring in 0..self.peers.rings() {
            let mut burst = Burst::new();
            if let Some((backlog, waiting)) = self.peers.receive(ring, &mut burst) {
                let is_deep = || waiting.len() >= waiting.capacity() / 2;
                self.worker
                    .took_burst(now, backlog, burst.is_full(), is_deep);
                self.run_errands(now, &mut burst);
                busy = true;
            }
        }
        busy
    }

    /// Most packets are to be processed and come from one port: those go together.
    fn run_errands(&mut self, now: Instant, burst: &mut Burst) {
        let mut alike = Burst::new();
        let mut from = PortId(0);
        for mbuf in burst.drain() {
            let (errand, port) = Errand::of(&mbuf);
            let at = usize::from(port.0);
            if errand == Errand::Process(Attempt::START) {
                if port != from {
                    self.process_alike(now, from, &mut alike);
                    from = port;
                }
                // As many as a burst holds came at most.
                drop(alike.push(mbuf));
                continue;
            }
            // In order: what came before goes first.
            self.process_alike(now, from, &mut alike);
            let mut one = Burst::new();
            drop(one.push(mbuf));
            let assisted = self.is_assisted(at);
            let worker = &mut self.worker;
            let verdict = one.with_assisted_packets(port, assisted, |packets| match packets {
                [packet] => match errand {
                    Errand::Process(attempt) => worker.process_attempt(now, packet, attempt),
                    Errand::FromKernel(attempt) => worker.process_from_kernel(now, packet, attempt),
                    Errand::Transmit => Verdict::Transmit(port),
                },
                _ => Verdict::Drop(DropReason::NoMbuf),
            });
            let Some(mbuf) = one.pop() else { continue };
            match (errand, verdict) {
                (Errand::FromKernel(_), Verdict::HandOver { worker, attempt }) => {
                    let (counters, errand) = (&self.end.counters, Errand::FromKernel(attempt));
                    self.peers
                        .hand(counters, usize::from(worker), errand, port, mbuf);
                }
                _ if self.settle(now, at, verdict, mbuf) => self.bell.ring(),
                _ => {}
            }
        }
        self.process_alike(now, from, &mut alike);
        self.give_up(now);
    }

    fn process_alike(&mut self, now: Instant, port: PortId, burst: &mut Burst) {
        if burst.is_empty() {
            return;
        }
        let mut verdicts = [Verdict::Drop(DropReason::NoMbuf); BURST];
        let at = usize::from(port.0);
        let assisted = self.is_assisted(at);
        let worker = &mut self.worker;
        burst.with_assisted_packets(port, assisted, |packets| {
            worker.process(now, packets, &mut verdicts);
        });
        self.settle_all(now, at, burst, &verdicts);
    }

    #[inline]
    fn is_assisted(&self, at: usize) -> bool {
        self.lanes.get(at).is_some_and(|lane| lane.assisted)
    }

    fn receive_from_kernel(&mut self, at: usize, now: Instant) -> bool {
        let Some(lane) = self.lanes.get_mut(at) else {
            return false;
        };
        let mut burst = Burst::new();
        let n = lane
            .from_kernel
            .as_mut()
            .map_or(0, |ring| ring.receive(&mut burst));
        if n == 0 {
            return false;
        }
        let mut verdicts = [Verdict::Drop(DropReason::NoMbuf); BURST];
        let (port, assisted, worker) = (lane.port, lane.assisted, &mut self.worker);
        let mut probes = [false; BURST];
        for (is_probe, mark) in probes.iter_mut().zip(burst.marks()) {
            *is_probe = mark == PROBE;
        }
        burst.with_assisted_packets(port, assisted, |packets| {
            for ((packet, verdict), is_probe) in packets.iter_mut().zip(&mut verdicts).zip(probes) {
                *verdict = match is_probe {
                    false => worker.process_from_kernel(now, packet, Attempt::START),
                    true => worker.process_probe(now, packet),
                };
            }
        });
        for (mbuf, verdict) in burst.drain().zip(verdicts) {
            match verdict {
                Verdict::HandOver { worker, attempt } => {
                    let (counters, worker) = (&self.end.counters, usize::from(worker));
                    self.peers
                        .hand(counters, worker, Errand::FromKernel(attempt), port, mbuf);
                }
                Verdict::Transmit(port) => self.ways().send(port, mbuf),
                Verdict::Fragment(port, mtu) => {
                    let pool = Arc::clone(&self.pool);
                    self.ways().cut(&pool, port, mtu, &mbuf);
                }
                // In the name of an address that this host may not serve now.
                _ => drop(mbuf),
            }
        }
        true
    }

    #[inline]
    fn flush_all(&mut self) {
        for at in 0..self.lanes.len() {
            self.ways().flush(at);
        }
        self.peers.flush(&self.end.counters);
    }

    fn apply_commands(&mut self, now: Instant) -> bool {
        // A look costs less than a pop that finds nothing, which has a fence.
        if self.end.commands.is_empty() {
            return false;
        }
        let mut applied = false;
        let mut used = lcore::thread_cpu_time();
        let end = used + COMMAND_TIME;
        for _ in 0..COMMANDS {
            // Packets wait meanwhile.
            if used >= end {
                break;
            }
            // Without room for the reply the command waits: nothing old is ever freed here.
            if self.end.replies.is_full() {
                break;
            }
            let Some(Envelope {
                generation,
                command,
            }) = self.end.commands.pop()
            else {
                break;
            };
            let kind = command.kind();
            let outcome = self.worker.apply(now, command);
            let before = used;
            used = lcore::thread_cpu_time();
            let took = used.saturating_sub(before);
            if let Some(cost) = self.end.counters.commands.get(kind) {
                cost.note(took.as_nanos() as u64);
            }
            let sent = self.end.replies.push(Reply {
                generation,
                outcome,
            });
            debug_assert!(sent.is_ok(), "this loop is the only producer and saw room");
            self.end.counters.generation.set(generation);
            applied = true;
        }
        applied
    }
}

/// The lane that all packets are to be sent by, if nothing waits there already.
#[inline]
fn way_of_all<'a>(lanes: &'a mut [Lane], verdicts: &[Verdict]) -> Option<&'a mut Lane> {
    let Some(first @ &Verdict::Transmit(port)) = verdicts.first() else {
        return None;
    };
    let lane = lanes
        .get_mut(port.0 as usize)
        .filter(|lane| lane.out.is_empty())?;
    verdicts
        .iter()
        .all(|verdict| verdict == first)
        .then_some(lane)
}

/// What a packet needs on its way out.
struct Ways<'a> {
    lanes: &'a mut [Lane],
    peers: &'a mut Peers,
    counters: &'a WorkerCounters,
}

impl Ways<'_> {
    /// Queues an mbuf for a port; a full queue is flushed, and what the port then still does not
    /// take is dropped and counted.
    #[inline(always)]
    fn send(&mut self, port: PortId, mbuf: Mbuf) {
        let at = usize::from(port.0);
        if self.lanes.get(at).is_some_and(|lane| lane.out.is_full()) {
            self.flush(at);
        }
        match self.lanes.get_mut(at) {
            None => self.counters.count_drop(DropReason::PortDown),
            Some(lane) => {
                if lane.out.push(mbuf).is_err() {
                    self.counters.count_drop(DropReason::TxFull);
                }
            }
        }
    }

    #[inline]
    fn flush(&mut self, at: usize) {
        let Some(lane) = self.lanes.get_mut(at) else {
            return;
        };
        if lane.out.is_empty() {
            return;
        }
        let counters = self.counters;
        let queue = match &mut lane.tx {
            Way::Queue(queue) => queue,
            Way::Worker(worker) => {
                for mbuf in lane.out.drain() {
                    self.peers
                        .hand(counters, *worker, Errand::Transmit, lane.port, mbuf);
                }
                return;
            }
        };
        let sent = queue.send(&mut lane.out);
        counters.tx_packets.add(sent as u64);
        if !lane.out.is_empty() {
            // Once more, then what the port does not take is lost: a port without link must not
            // keep buffers from the others.
            let more = queue.send(&mut lane.out);
            counters.tx_packets.add(more as u64);
            for _ in 0..lane.out.len() {
                counters.count_drop(DropReason::TxFull);
            }
            lane.out.free();
        }
    }
}

/// Completes the checksums that their senders left to hardware, as NICs say.
#[cold]
fn complete_partial(packets: &mut [Packet<'_>]) {
    for packet in packets.iter_mut().filter(|packet| packet.checked.partial) {
        partial::complete(packet);
    }
}

/// Moves an mbuf to the pump's queue of its class.
fn punt(
    lanes: &mut [Lane],
    counters: &WorkerCounters,
    at: usize,
    class: PuntClass,
    mut mbuf: Mbuf,
) {
    // The kernel's devices for VLANs know their frames by the tag.
    if !mbuf.put_tag_back() {
        return counters.count_drop(DropReason::NoHeadroom);
    }
    let mut one = Burst::new();
    let (Some(lane), Ok(())) = (lanes.get_mut(at), one.push(mbuf)) else {
        return;
    };
    if lane.punt[class as usize].send(&mut one) == 0 {
        counters.count_drop(DropReason::PuntQueueFull);
    }
}
