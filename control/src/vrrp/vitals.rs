//! Whether the data plane and the control loop are alive, by what they count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dataplane::counters::{PortCounters, WorkerCounters};
use vrrp::time::Instant;

/// How long the control loop may be silent: it turns at least once a second.
const CONTROL_SILENCE: Duration = Duration::from_secs(5);
/// How long the pump may be: it goes round ten times a second.
const PUMP_SILENCE: Duration = Duration::from_secs(1);
/// How long a worker may be silent before the workers count as failed.
const WORKER_SILENCE: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Counters of the workers.
    pub workers: Vec<Arc<WorkerCounters>>,
    /// Counters of the ports.
    pub ports: Vec<Arc<PortCounters>>,
    /// Turns of the control loop.
    pub control: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Pulse {
    count: u64,
    moved: Instant,
}

impl Pulse {
    fn look(&mut self, now: Instant, count: u64) {
        if count != self.count {
            *self = Pulse { count, moved: now };
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Vitals {
    sources: Sources,
    workers: Vec<Pulse>,
    pump: Pulse,
    control: Pulse,
}

impl Vitals {
    /// Everything counts as alive at first.
    pub fn new(now: Instant, sources: Sources) -> Vitals {
        let pulse = Pulse {
            count: 0,
            moved: now,
        };
        Vitals {
            workers: vec![pulse; sources.workers.len()],
            pump: pulse,
            control: pulse,
            sources,
        }
    }

    /// Looks at all counters.
    pub fn look(&mut self, now: Instant) {
        for (pulse, counters) in self.workers.iter_mut().zip(&self.sources.workers) {
            pulse.look(now, counters.heartbeat.get());
        }
        let rounds = self
            .sources
            .ports
            .iter()
            .map(|port| port.rounds.get())
            .sum();
        self.pump.look(now, rounds);
        self.control.look(now, self.sources.control.load(Relaxed));
    }

    /// Whether every worker has moved at or after this time, and pump and control not long before:
    /// what comes in is seen, what goes out leaves.
    pub fn moved_since(&self, now: Instant, since: Instant) -> bool {
        let is_slow = |pulse: &Pulse, limit| now.since(pulse.moved) > limit;
        self.workers.iter().all(|pulse| pulse.moved >= since)
            && (self.sources.ports.is_empty() || !is_slow(&self.pump, PUMP_SILENCE))
            && !is_slow(&self.control, CONTROL_SILENCE)
    }

    /// Whether the data plane serves, for those who track the workers.
    pub fn is_well(&self, now: Instant) -> bool {
        let since = now - WORKER_SILENCE;
        self.moved_since(now, since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_noticed() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let sources = Sources {
            workers: (0..2).map(|_| Arc::new(WorkerCounters::new(1))).collect(),
            ..Sources::default()
        };
        let counters = sources.workers.clone();
        let control = Arc::clone(&sources.control);
        let mut vitals = Vitals::new(at(0), sources);
        counters[0].heartbeat.add(1);
        vitals.look(at(10));
        assert!(!vitals.moved_since(at(10), at(5)), "one of two moved");
        counters[1].heartbeat.add(1);
        vitals.look(at(20));
        assert!(vitals.moved_since(at(20), at(10)));
        assert!(!vitals.moved_since(at(20), at(15)));
        assert!(vitals.is_well(at(1010)) && !vitals.is_well(at(1011)));
        counters.iter().for_each(|c| c.heartbeat.add(1));
        vitals.look(at(5001));
        assert!(!vitals.is_well(at(5001)), "the control loop stands still");
        control.store(1, Relaxed);
        vitals.look(at(5001));
        assert!(vitals.is_well(at(5001)));
    }

    #[test]
    fn a_pump_that_stands_still_is_noticed() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let sources = Sources {
            ports: (0..2).map(|_| Arc::default()).collect(),
            ..Sources::default()
        };
        let ports = sources.ports.clone();
        let mut vitals = Vitals::new(at(0), sources);
        assert!(vitals.is_well(at(1000)) && !vitals.is_well(at(1001)));
        ports[1].rounds.add(1);
        vitals.look(at(1001));
        assert!(vitals.is_well(at(2001)) && !vitals.is_well(at(2002)));
        // Without ports there is no pump.
        assert!(Vitals::new(at(0), Sources::default()).is_well(at(2002)));
    }
}
