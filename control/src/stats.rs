//! Statistics as the kernel shows them: a snapshot every two seconds, rates as its estimator
//! computes them, and the zero base that `-Z` moves.
//!
//! The raw counters belong to the workers and only ever grow. What is shown is the last
//! snapshot, so it lags by up to [`PERIOD`], as with `ipvsadm --stats`.

use std::ops::{Add, AddAssign, Range, Sub};
use std::time::Duration;

use crate::api;
use dataplane::counters::{DestCounters, WorkerCounters};
use dataplane::service::DestId;
use serde::{Deserialize, Serialize};

/// Time between two snapshots.
pub const PERIOD: Duration = Duration::from_secs(2);

/// Raw counts. All arithmetic wraps, as the counters themselves do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections.
    pub conns: u64,
    /// Packets from clients.
    pub in_pkts: u64,
    /// Packets to clients.
    pub out_pkts: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes to clients.
    pub out_bytes: u64,
}

impl Counts {
    fn zip(self, other: Counts, f: impl Fn(u64, u64) -> u64) -> Counts {
        Counts {
            conns: f(self.conns, other.conns),
            in_pkts: f(self.in_pkts, other.in_pkts),
            out_pkts: f(self.out_pkts, other.out_pkts),
            in_bytes: f(self.in_bytes, other.in_bytes),
            out_bytes: f(self.out_bytes, other.out_bytes),
        }
    }

    /// What the workers have counted for a destination id since they started.
    pub fn of_dest<'a>(
        workers: impl IntoIterator<Item = &'a WorkerCounters>,
        id: DestId,
    ) -> Counts {
        let dests = workers.into_iter().filter_map(|w| w.dest(id));
        dests.fold(Counts::default(), |sum, dest| sum + dest.into())
    }

    /// What a worker has counted since it started for all these destination ids, in use or not.
    pub fn of_worker(worker: &WorkerCounters, ids: Range<u32>) -> Counts {
        let dests = worker.dests.get(ids.start as usize..ids.end as usize);
        let dests = dests.unwrap_or(&[]).iter();
        dests.fold(Counts::default(), |sum, dest| sum + dest.into())
    }
}

impl From<&DestCounters> for Counts {
    fn from(dest: &DestCounters) -> Counts {
        Counts {
            conns: dest.conns.get(),
            in_pkts: dest.in_pkts.get(),
            out_pkts: dest.out_pkts.get(),
            in_bytes: dest.in_bytes.get(),
            out_bytes: dest.out_bytes.get(),
        }
    }
}

impl Add for Counts {
    type Output = Counts;
    fn add(self, other: Counts) -> Counts {
        self.zip(other, u64::wrapping_add)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        *self = *self + other;
    }
}

impl Sub for Counts {
    type Output = Counts;
    fn sub(self, other: Counts) -> Counts {
        self.zip(other, u64::wrapping_sub)
    }
}

impl From<Counts> for api::Stats {
    fn from(c: Counts) -> api::Stats {
        api::Stats {
            conns: c.conns,
            in_pkts: c.in_pkts,
            out_pkts: c.out_pkts,
            in_bytes: c.in_bytes,
            out_bytes: c.out_bytes,
        }
    }
}

/// Connections and packets are averaged in units of 2^-10 a second, bytes in units of 2^-5.
const PACKET_SHIFT: u32 = 10;
const BYTE_SHIFT: u32 = 5;

/// One averaged rate. Every period it moves a quarter of the way to the last period's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rate(u64);

impl Rate {
    /// `delta` is the growth over one period of two seconds, hence half the unit as its factor.
    fn tick(&mut self, delta: u64, shift: u32) {
        let sample = delta.wrapping_mul(1 << (shift - 1));
        let step = (sample.wrapping_sub(self.0) as i64) >> 2;
        self.0 = self.0.wrapping_add_signed(step);
    }

    fn shown(self, shift: u32) -> u64 {
        (self.0 + (1 << (shift - 1)) - 1) >> shift
    }
}

/// Snapshot, zero base and rates of one service or destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimator {
    snapshot: Counts,
    zero: Counts,
    conns: Rate,
    in_pkts: Rate,
    out_pkts: Rate,
    in_bytes: Rate,
    out_bytes: Rate,
}

impl Estimator {
    /// Takes the snapshot of a period that has ended.
    pub fn tick(&mut self, now: Counts) {
        let delta = now - self.snapshot;
        self.snapshot = now;
        self.conns.tick(delta.conns, PACKET_SHIFT);
        self.in_pkts.tick(delta.in_pkts, PACKET_SHIFT);
        self.out_pkts.tick(delta.out_pkts, PACKET_SHIFT);
        self.in_bytes.tick(delta.in_bytes, BYTE_SHIFT);
        self.out_bytes.tick(delta.out_bytes, BYTE_SHIFT);
    }

    /// `-Z`: the snapshot becomes the zero base, rates start again from nothing.
    pub fn zero(&mut self) {
        *self = Estimator {
            snapshot: self.snapshot,
            zero: self.snapshot,
            ..Estimator::default()
        };
    }

    /// The same for a process whose workers begin to count at nothing, when these have counted
    /// `now`: totals and rates go on.
    pub fn handed_over(self, now: Counts) -> Estimator {
        Estimator {
            snapshot: Counts::default(),
            zero: Counts::default() - (now - self.zero),
            ..self
        }
    }

    /// Totals since the last `-Z`.
    pub fn totals(&self) -> api::Stats {
        (self.snapshot - self.zero).into()
    }

    /// Rates a second.
    pub fn rates(&self) -> api::Stats {
        api::Stats {
            conns: self.conns.shown(PACKET_SHIFT),
            in_pkts: self.in_pkts.shown(PACKET_SHIFT),
            out_pkts: self.out_pkts.shown(PACKET_SHIFT),
            in_bytes: self.in_bytes.shown(BYTE_SHIFT),
            out_bytes: self.out_bytes.shown(BYTE_SHIFT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(n: u64, bytes: u64) -> Counts {
        Counts {
            in_pkts: n,
            in_bytes: n * bytes,
            ..Counts::default()
        }
    }

    #[test]
    fn another_process_counts_on() {
        let mut e = Estimator::default();
        e.tick(packets(100, 10));
        e.zero();
        e.tick(packets(130, 10));
        let rate = e.rates().in_pkts;
        // Two packets more since the snapshot.
        let mut next = e.handed_over(packets(132, 10));
        assert_eq!(next.totals().in_pkts, 32);
        assert_eq!(next.rates().in_pkts, rate);
        next.tick(packets(8, 10));
        assert_eq!((next.totals().in_pkts, next.totals().in_bytes), (40, 400));
        next.zero();
        assert_eq!(next.totals().in_pkts, 0);
    }

    #[test]
    fn a_burst_decays_as_measured_on_the_kernel() {
        let mut e = Estimator::default();
        let burst = packets(400, 100);
        let mut seen = Vec::new();
        for _ in 0..6 {
            e.tick(burst);
            seen.push((e.rates().in_pkts, e.rates().in_bytes));
        }
        assert_eq!(
            seen,
            [
                (50, 5000),
                (37, 3750),
                (28, 2812),
                (21, 2109),
                (16, 1582),
                (12, 1186)
            ]
        );
        assert_eq!(e.totals().in_pkts, 400);
        assert_eq!(e.totals().in_bytes, 40_000);
    }

    #[test]
    fn totals_lag_until_the_next_snapshot_and_zero_moves_the_base() {
        let mut e = Estimator::default();
        e.tick(packets(10, 60));
        e.zero();
        assert_eq!(e.totals(), api::Stats::default());
        assert_eq!(e.rates(), api::Stats::default());
        e.tick(packets(13, 60));
        assert_eq!(e.totals().in_pkts, 3);
    }

    #[test]
    fn a_steady_rate_is_reached_and_falls_to_zero() {
        let mut e = Estimator::default();
        for i in 1..=60 {
            e.tick(packets(2_000 * i, 1000));
        }
        assert_eq!(e.rates().in_pkts, 1000);
        assert_eq!(e.rates().in_bytes, 1_000_000);
        for _ in 0..200 {
            e.tick(packets(2_000 * 60, 1000));
        }
        assert_eq!(e.rates(), api::Stats::default());
    }

    #[test]
    fn workers_are_summed() {
        let a = WorkerCounters::new(4);
        let b = WorkerCounters::new(4);
        a.dests[2].conns.add(3);
        b.dests[2].conns.add(4);
        b.dests[2].out_bytes.add(9);
        let c = Counts::of_dest([&a, &b], DestId(2));
        assert_eq!((c.conns, c.out_bytes), (7, 9));
        assert_eq!(Counts::of_dest([&a, &b], DestId(9)), Counts::default());
    }
}
