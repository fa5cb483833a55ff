//! Packets that wait: for the MAC of their next hop, or for the first piece of their packet.

use std::collections::VecDeque;
use std::time::Duration;

use dataplane::counters::WorkerCounters;
use dataplane::packet::{DropReason, Verdict};
use dataplane::time::Instant;

use super::Loop;
use crate::mbuf::{BURST, Burst, Mbuf};

/// Packets that may wait for their next hops.
const HOP_SLOTS: usize = 256;

/// How long they may. The kernel asks three times, a second apart, and is heard when it gives up:
/// this is for what it was not asked.
const HOP_TIME: Duration = Duration::from_secs(4);

/// Fragments that may wait for their first ones.
const PIECE_SLOTS: usize = 64;

/// How long they may. Pieces of a packet overtake each other by milliseconds; if the first one
/// was lost, the others are of no use.
const PIECE_TIME: Duration = Duration::from_secs(1);

/// Packets that wait: for the MAC of their next hop, or for the first piece of their packet.
#[derive(Debug)]
pub struct Parking {
    hops: VecDeque<Waiting>,
    neighbours_learned: u32,
    /// Later fragments.
    pieces: VecDeque<Waiting>,
    /// Those of them that too many others came after.
    given_up: VecDeque<Waiting>,
    first_fragments: u32,
}

#[derive(Debug)]
pub(super) struct Waiting {
    mbuf: Mbuf,
    lane: usize,
    since: Instant,
}

impl Waiting {
    pub(super) fn new(mbuf: Mbuf, lane: usize, since: Instant) -> Waiting {
        Waiting { mbuf, lane, since }
    }
}

impl Default for Parking {
    fn default() -> Parking {
        Parking {
            hops: VecDeque::with_capacity(HOP_SLOTS),
            neighbours_learned: 0,
            pieces: VecDeque::with_capacity(PIECE_SLOTS),
            given_up: VecDeque::with_capacity(BURST),
            first_fragments: 0,
        }
    }
}

impl Parking {
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.hops.is_empty() && self.pieces.is_empty()
    }

    /// `learned` is the worker's count of learned neighbours at the last look at the packet.
    #[cold]
    pub(super) fn park(&mut self, counters: &WorkerCounters, learned: u32, waiting: Waiting) {
        if self.hops.len() < HOP_SLOTS {
            // With others waiting, theirs is not newer: what they wait for may have come since.
            if self.hops.is_empty() {
                self.neighbours_learned = learned;
            }
            self.hops.push_back(waiting);
        } else {
            counters.count_drop(DropReason::NoNeighbour);
        }
    }

    /// Keeps a fragment; if too many wait, the one that has waited longest is given up. A flood
    /// of them thus shortens the time that others are kept, but not to nothing.
    #[cold]
    pub(super) fn hold(&mut self, waiting: Waiting) {
        if self.pieces.len() >= PIECE_SLOTS
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.given_up.push_back(oldest);
        }
        self.pieces.push_back(waiting);
    }
}

fn is_overdue(waiting: &VecDeque<Waiting>, now: Instant, longest: Duration) -> bool {
    let oldest = waiting.front().map(|waiting| waiting.since);
    oldest.is_some_and(|since| now.since(since) >= longest)
}

impl Loop {
    /// Lets the worker decide about what may wait no longer.
    #[inline]
    pub(super) fn give_up(&mut self, now: Instant) {
        while let Some(oldest) = self.parking.given_up.pop_front() {
            self.retry(now, oldest, true);
        }
    }

    /// Processes packets that wait for a next hop again once a neighbour was learned or given up,
    /// and those that waited too long for the last time: their senders are told. A server that
    /// has just been added loses no first packet. Fragments are tried again once a first one
    /// came.
    #[cold]
    pub(super) fn retry_parked(&mut self, now: Instant) {
        let learned = self.worker.neighbours_learned();
        if learned != self.parking.neighbours_learned
            || is_overdue(&self.parking.hops, now, HOP_TIME)
        {
            self.parking.neighbours_learned = learned;
            // Each once, in order; those that wait on go back to the end.
            for _ in 0..self.parking.hops.len() {
                let Some(waiting) = self.parking.hops.pop_front() else {
                    break;
                };
                let last = now.since(waiting.since) >= HOP_TIME;
                self.retry(now, waiting, last);
            }
        }
        let first_fragments = self.worker.first_fragments();
        if first_fragments != self.parking.first_fragments
            || is_overdue(&self.parking.pieces, now, PIECE_TIME)
        {
            self.parking.first_fragments = first_fragments;
            for _ in 0..self.parking.pieces.len() {
                let Some(waiting) = self.parking.pieces.pop_front() else {
                    break;
                };
                let last = now.since(waiting.since) >= PIECE_TIME;
                self.retry(now, waiting, last);
            }
        }
    }

    /// Processes one packet that waited; with `last` it may wait no longer.
    fn retry(&mut self, now: Instant, waiting: Waiting, last: bool) {
        let Waiting { mbuf, lane, since } = waiting;
        let Some(port) = self.lanes.get(lane).map(|lane| lane.port) else {
            return;
        };
        let assisted = self.is_assisted(lane);
        let worker = &mut self.worker;
        let mut one = Burst::new();
        drop(one.push(mbuf));
        let verdict = one.with_assisted_packets(port, assisted, |packets| match packets {
            [packet] => worker.process_again(now, packet, last),
            _ => Verdict::Drop(DropReason::NoMbuf),
        });
        let Some(mbuf) = one.pop() else { return };
        if self.settle(since, lane, verdict, mbuf) {
            self.bell.ring();
        }
    }
}
