//! Packets from worker to worker: each pair has a ring of its own in each direction, filled and
//! emptied in bursts.
//!
//! A packet carries its errand in a field of its mbuf that belongs to whoever has it.

use dataplane::counters::WorkerCounters;
use dataplane::packet::{Attempt, DropReason, PortId};
use dataplane::worker::Backlog;

use crate::eal::Eal;
use crate::mbuf::{Burst, Mbuf};
use crate::ring::{self, Receiver, RingError, Sender};

/// Mbufs in each ring.
pub const PEER_SLOTS: u32 = 512;

/// What the other worker is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Process it as if it had received it from that port, and go on from there.
    Process(Attempt),
    /// The same with a frame that the kernel sends by that port.
    FromKernel(Attempt),
    /// Send it by that port.
    Transmit,
}

/// Bits of the mark behind the port and the attempt.
const KIND: u32 = 28;

impl Errand {
    /// Writes the errand onto an mbuf.
    fn mark(self, port: PortId, mbuf: &mut Mbuf) {
        mbuf.set_mark(self.mark_of(port));
    }

    /// Reads it back.
    pub fn of(mbuf: &Mbuf) -> (Errand, PortId) {
        Errand::from_mark(mbuf.mark())
    }

    fn mark_of(self, port: PortId) -> u32 {
        let (kind, attempt) = match self {
            Errand::Process(attempt) => (0, attempt),
            Errand::FromKernel(attempt) => (1, attempt),
            Errand::Transmit => (2, Attempt::START),
        };
        u32::from(port.0) | (attempt.bits() & 0xfff) << 16 | kind << KIND
    }

    fn from_mark(mark: u32) -> (Errand, PortId) {
        let attempt = Attempt::from_bits(mark >> 16 & 0xfff);
        let errand = match mark >> KIND {
            0 => Errand::Process(attempt),
            1 => Errand::FromKernel(attempt),
            _ => Errand::Transmit,
        };
        (errand, PortId(mark as u16))
    }
}

struct Peer {
    ring: Sender,
    out: Burst,
}

/// A worker's ends of the rings between workers.
#[derive(Default)]
pub struct Peers {
    /// By number; none for the worker itself.
    to: Vec<Option<Peer>>,
    from: Vec<(Receiver, Backlog)>,
}

impl Peers {
    /// The ends of so many workers, in the order of their numbers.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn connect(eal: &Eal, workers: usize) -> Result<Vec<Peers>, RingError> {
        let mut all: Vec<Peers> = (0..workers).map(|_| Peers::default()).collect();
        for from in 0..workers {
            for to in 0..workers {
                let peer = if from == to {
                    None
                } else {
                    let (ring, receiver) = ring::single_producer(eal, PEER_SLOTS)?;
                    all[to].from.push((receiver, Backlog::default()));
                    Some(Peer {
                        ring,
                        out: Burst::new(),
                    })
                };
                all[from].to.push(peer);
            }
        }
        Ok(all)
    }

    /// Packets of other workers, one ring after another: of which ring, so that the caller asks
    /// again until there is none left.
    pub(crate) fn rings(&self) -> usize {
        self.from.len()
    }

    /// Takes a burst out of a ring; with it come whether the ring stays full, and what is left.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        ring: usize,
        burst: &mut Burst,
    ) -> Option<(&mut Backlog, &Receiver)> {
        let (ring, backlog) = self.from.get_mut(ring)?;
        (ring.receive(burst) != 0).then_some((backlog, ring))
    }

    /// Queues a packet for another worker.
    pub(crate) fn hand(
        &mut self,
        counters: &WorkerCounters,
        worker: usize,
        errand: Errand,
        port: PortId,
        mut mbuf: Mbuf,
    ) {
        let Some(Some(peer)) = self.to.get_mut(worker) else {
            counters.count_drop(DropReason::HandOverFull);
            return;
        };
        errand.mark(port, &mut mbuf);
        if peer.out.is_full() {
            peer.flush(counters);
        }
        if peer.out.push(mbuf).is_err() {
            counters.count_drop(DropReason::HandOverFull);
        }
    }

    /// Sends what is queued.
    #[inline]
    pub(crate) fn flush(&mut self, counters: &WorkerCounters) {
        for peer in self.to.iter_mut().flatten() {
            if !peer.out.is_empty() {
                peer.flush(counters);
            }
        }
    }
}

impl Peer {
    /// What finds no room is lost: the other worker has more than it can do.
    fn flush(&mut self, counters: &WorkerCounters) {
        self.ring.send(&mut self.out);
        for _ in 0..self.out.len() {
            counters.count_drop(DropReason::HandOverFull);
        }
        self.out.free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errand_survives_its_mark() {
        for (step, left) in [(0, 0), (1, 0), (2, 63), (4, 255)] {
            let attempt = Attempt { step, left };
            for errand in [
                Errand::Process(attempt),
                Errand::FromKernel(attempt),
                Errand::Transmit,
            ] {
                for port in [PortId(0), PortId(u16::MAX)] {
                    assert_eq!(Errand::from_mark(errand.mark_of(port)), (errand, port));
                }
            }
        }
    }
}
