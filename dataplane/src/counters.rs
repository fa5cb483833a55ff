//! Counters with one writer. The worker adds with a relaxed load and store (no locked
//! instruction); control reads them at any time and sums over the workers.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use std::time::Duration;

use crate::command::Command;
use crate::packet::{DropReason, PuntClass};
use crate::service::DestId;

/// From here on a time without a look at the ports counts as long: 1500 packets of 64 bytes at
/// 1 Gbit/s wait in the receive ring.
const LONG_GAP: Duration = Duration::from_millis(1);

/// No command is to take a worker longer than that, in CPU time.
pub const SLOW_COMMAND: Duration = Duration::from_micros(100);

/// A 64-bit counter written by one thread and read by any.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call it.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Overwrites the value (gauges, heartbeats).
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// A 32-bit gauge written by one thread and read by any.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// The value.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Overwrites the value.
    #[inline(always)]
    pub fn set(&self, n: u32) {
        self.0.store(n, Relaxed);
    }
}

/// Counters of one destination on one worker: one cache line, indexed by [`DestId`].
///
/// The names are those of `struct ip_vs_counters` and of ipvsadm's columns. Bytes are layer-3
/// lengths. `active` and `total` are the kernel's `activeconns` and the count of all connections
/// bound to the destination; `InActConn` is `total - active`.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct DestCounters {
    /// Connections scheduled to it.
    pub conns: Counter,
    /// Packets from clients.
    pub in_pkts: Counter,
    /// Bytes from clients.
    pub in_bytes: Counter,
    /// Packets to clients.
    pub out_pkts: Counter,
    /// Bytes to clients.
    pub out_bytes: Counter,
    /// Connections in an active state.
    pub active: Gauge,
    /// All bound connections.
    pub total: Gauge,
    /// 1 while the overload flag is set (thresholds, with hysteresis).
    pub overloaded: Gauge,
    /// Persistence templates bound to it.
    pub persistent: Gauge,
}

/// What commands of one kind cost a worker.
#[derive(Debug, Default)]
pub struct CommandCost {
    /// How many were applied.
    pub count: Counter,
    /// CPU time of all of them, nanoseconds.
    pub cpu_ns: Counter,
    /// CPU time of the longest while packets could wait for it, nanoseconds.
    pub longest_ns: Counter,
    /// Those of them that took [`SLOW_COMMAND`] and more.
    pub slow: Counter,
}

impl CommandCost {
    /// One was applied and took so long, nanoseconds of CPU time.
    pub fn note(&self, ns: u64) {
        self.count.add(1);
        self.cpu_ns.add(ns);
        self.longest_ns.set(self.longest_ns.get().max(ns));
        if ns >= SLOW_COMMAND.as_nanos() as u64 {
            self.slow.add(1);
        }
    }

    /// From now on packets wait.
    pub fn begin(&self) {
        self.longest_ns.set(0);
        self.slow.set(0);
    }
}

/// All counters of one worker, shared with control. On lines of their own, and on those that are
/// fetched with them: another worker's would otherwise go back and forth with them.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Frames received, after the driver.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames sent to ports.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames handed to the kernel twin, by class.
    pub punted: [Counter; PuntClass::COUNT],
    /// Drops by reason.
    pub drops: [Counter; DropReason::COUNT],
    /// Connections alive in this worker's shards.
    pub connections: Counter,
    /// Entries expired.
    pub expired: Counter,
    /// Entries given up because the table was full or by the `drop_entry` defence.
    pub reclaimed: Counter,
    /// 1 while fewer than `amemthresh` entries are free: the automatic defences are at work.
    pub short_of_entries: Gauge,
    /// Packets given to the worker that has their connection.
    pub handed_over: Counter,
    /// Connections that were where an earlier role table had them, at the end of the last look at
    /// all of them. Taken only while some are expected.
    pub strays: Gauge,
    /// Such looks that ended.
    pub stray_looks: Counter,
    /// Connections and templates that a master told of and that are this worker's.
    pub synced: Counter,
    /// Of them those for which there was no room.
    pub sync_refused: Counter,
    /// ICMP errors and resets of ours.
    pub icmp_sent: Counter,
    /// Raised once per loop: a worker whose heartbeat stands still is stuck.
    pub heartbeat: Counter,
    /// Loops that found at least one packet.
    pub busy_loops: Counter,
    /// CPU time the worker's thread has used, nanoseconds (refreshed now and then).
    pub cpu_ns: Counter,
    /// Generation of the last command applied.
    pub generation: Counter,
    /// What commands cost, by [`Command::kind`].
    pub commands: [CommandCost; Command::KINDS.len()],
    /// Longest time between two looks at the ports without a nap between them, nanoseconds of the
    /// wall clock: what the system gave to others is in it.
    pub longest_gap_ns: Counter,
    /// Such times of a millisecond and more.
    pub long_gaps: Counter,
    /// Per destination, indexed by [`DestId`].
    pub dests: Box<[DestCounters]>,
}

impl WorkerCounters {
    /// Counters for up to `max_dests` destinations.
    pub fn new(max_dests: usize) -> WorkerCounters {
        WorkerCounters {
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            punted: Default::default(),
            drops: core::array::from_fn(|_| Counter::default()),
            connections: Counter::default(),
            expired: Counter::default(),
            reclaimed: Counter::default(),
            short_of_entries: Gauge::default(),
            handed_over: Counter::default(),
            strays: Gauge::default(),
            stray_looks: Counter::default(),
            synced: Counter::default(),
            sync_refused: Counter::default(),
            icmp_sent: Counter::default(),
            heartbeat: Counter::default(),
            busy_loops: Counter::default(),
            cpu_ns: Counter::default(),
            generation: Counter::default(),
            commands: Default::default(),
            longest_gap_ns: Counter::default(),
            long_gaps: Counter::default(),
            dests: (0..max_dests).map(|_| DestCounters::default()).collect(),
        }
    }

    /// Counters of one destination; `None` for an id beyond the configured maximum.
    #[inline(always)]
    pub fn dest(&self, id: DestId) -> Option<&DestCounters> {
        self.dests.get(id.0 as usize)
    }

    /// The worker did not look at its ports for so long.
    #[cold]
    pub fn note_gap(&self, gap: Duration) {
        let longest = self.longest_gap_ns.get().max(gap.as_nanos() as u64);
        self.longest_gap_ns.set(longest);
        if gap >= LONG_GAP {
            self.long_gaps.add(1);
        }
    }

    /// Counts a drop.
    #[inline(always)]
    pub fn count_drop(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }
}

/// State and counters of one data port, written by the edge's housekeeping thread.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// 1 while the link is up.
    pub link: Gauge,
    /// Mbit/s, 0 unknown.
    pub speed: Gauge,
    /// 1 once the device failed or was taken away.
    pub failed: Gauge,
    /// Frames the driver received.
    pub rx_packets: Counter,
    /// Bytes received.
    pub rx_bytes: Counter,
    /// Frames lost because the receive ring was full.
    pub rx_missed: Counter,
    /// Frames received with errors.
    pub rx_errors: Counter,
    /// Frames lost because no buffer was left.
    pub rx_no_mbuf: Counter,
    /// Frames the driver sent.
    pub tx_packets: Counter,
    /// Bytes sent.
    pub tx_bytes: Counter,
    /// Frames the driver failed to send.
    pub tx_errors: Counter,
    /// Frames written to the kernel twin.
    pub twin_tx: Counter,
    /// Frames read from the kernel twin.
    pub twin_rx: Counter,
    /// Frames the twin refused.
    pub twin_failed: Counter,
    /// Frames from the twin that found no buffer or a full ring.
    pub twin_dropped: Counter,
    /// Rounds of the housekeeping, some ten a second: its thread is alive.
    pub rounds: Counter,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Cache lines, by number, that a value lies in.
    fn lines<T>(of: &T) -> std::ops::RangeInclusive<usize> {
        let at = core::ptr::from_ref(of).addr();
        at / 64..=(at + size_of::<T>() - 1) / 64
    }

    #[test]
    fn workers_share_no_line_that_they_count_in() {
        let workers: Vec<_> = (0..8).map(|_| Arc::new(WorkerCounters::new(3))).collect();
        let mut written = Vec::new();
        for worker in &workers {
            // The counts of the Arc are before the first line; nobody writes them while packets pass.
            written.push(lines(&**worker));
            for dest in &worker.dests {
                let dest = lines(dest);
                assert_eq!(dest.start(), dest.end());
                written.push(dest);
            }
        }
        let mut all: Vec<usize> = written.into_iter().flatten().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a line is in two places");
        assert_eq!(core::mem::align_of::<WorkerCounters>(), 128);
    }

    #[test]
    fn long_commands_count_from_when_packets_come() {
        let cost = CommandCost::default();
        cost.note(300_000);
        assert_eq!((cost.longest_ns.get(), cost.slow.get()), (300_000, 1));
        cost.begin();
        cost.note(99_999);
        cost.note(50_000);
        assert_eq!((cost.longest_ns.get(), cost.slow.get()), (99_999, 0));
        cost.note(100_000);
        assert_eq!((cost.count.get(), cost.slow.get()), (4, 1));
        assert_eq!(cost.cpu_ns.get(), 549_999);
    }
}
