//! Heartbeats of the workers, and what the service manager is told.

use std::time::Duration;

use dataplane::time::Instant;
use sd_notify::NotifyState;

use crate::model::Counters;

/// A worker whose heartbeat stands still for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Beat {
    count: u64,
    moved: Instant,
    stuck: bool,
}

impl Beat {
    fn new(now: Instant, count: u64) -> Beat {
        Beat {
            count,
            moved: now,
            stuck: false,
        }
    }

    /// Whether it is stuck, if that is new.
    fn check(&mut self, now: Instant, count: u64) -> Option<bool> {
        if count != self.count {
            self.count = count;
            self.moved = now;
        }
        let stuck = now.since(self.moved) >= STUCK_AFTER;
        (std::mem::replace(&mut self.stuck, stuck) != stuck).then_some(stuck)
    }
}

/// Sign of life of the pump thread: the rounds it makes around the ports.
#[derive(Debug)]
pub struct PumpBeat {
    beat: Beat,
}

impl PumpBeat {
    /// It counts as alive until it was seen to move once.
    pub fn new(now: Instant) -> PumpBeat {
        PumpBeat {
            beat: Beat::new(now, 0),
        }
    }

    /// Looks at the rounds; whether it is stuck, if that is new.
    pub fn check(&mut self, now: Instant, rounds: u64) -> Option<bool> {
        if rounds == 0 {
            self.beat.moved = now;
        }
        self.beat.check(now, rounds)
    }

    /// Whether it makes progress.
    pub fn is_alive(&self) -> bool {
        !self.beat.stuck
    }

    /// Time since it was last seen to move.
    pub fn age(&self, now: Instant) -> Duration {
        now.since(self.beat.moved)
    }
}

/// A worker that began or ceased to be stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which worker.
    pub worker: usize,
    /// Whether it is stuck now.
    pub stuck: bool,
}

/// Last seen heartbeat of each worker.
#[derive(Debug)]
pub struct Heartbeats {
    beats: Vec<Beat>,
}

impl Heartbeats {
    /// Every worker counts as alive at first.
    pub fn new(now: Instant, counters: Counters<'_>) -> Heartbeats {
        Heartbeats {
            beats: counters
                .iter()
                .map(|c| Beat::new(now, c.heartbeat.get()))
                .collect(),
        }
    }

    /// Looks at the counters; says which workers turned.
    pub fn check(&mut self, now: Instant, counters: Counters<'_>) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (worker, (beat, c)) in self.beats.iter_mut().zip(counters).enumerate() {
            if let Some(stuck) = beat.check(now, c.heartbeat.get()) {
                turns.push(Turn { worker, stuck });
            }
        }
        turns
    }

    /// Whether every worker makes progress.
    pub fn all_alive(&self) -> bool {
        self.beats.iter().all(|beat| !beat.stuck)
    }

    /// Whether every worker has run at least once.
    pub fn all_started(&self) -> bool {
        self.beats.iter().all(|beat| beat.count > 0)
    }

    /// Time since a worker's heartbeat was last seen to move.
    pub fn age(&self, now: Instant, worker: usize) -> Duration {
        self.beats
            .get(worker)
            .map_or(Duration::ZERO, |beat| now.since(beat.moved))
    }
}

/// Sends states to the service manager.
type Notify = Box<dyn Fn(&[NotifyState<'_>])>;

/// The service manager (`sd_notify`). Does nothing when there is none.
pub struct ServiceManager {
    watchdog: bool,
    notify: Notify,
}

impl ServiceManager {
    /// As the environment says.
    pub fn from_environment() -> ServiceManager {
        ServiceManager::new(sd_notify::watchdog_enabled().is_some(), |states| {
            // Without a service manager this does nothing; one that does not listen cannot be
            // helped.
            let _ = sd_notify::notify(states);
        })
    }

    /// One that is told things by `notify`.
    pub fn new(watchdog: bool, notify: impl Fn(&[NotifyState<'_>]) + 'static) -> ServiceManager {
        ServiceManager {
            watchdog,
            notify: Box::new(notify),
        }
    }

    /// Serving.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// A reload begins; [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(at) => self.tell(&[NotifyState::Reloading, at]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// Another process is the daemon now.
    pub fn handed_over(&self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
    }

    /// Shutting down.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Control and all workers make progress.
    pub fn feed_watchdog(&self) {
        if self.watchdog {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        (self.notify)(states);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::counters::WorkerCounters;
    use std::sync::Arc;

    #[test]
    fn the_pump_is_watched_once_it_has_run() {
        let at = Instant::from_secs;
        let mut beat = PumpBeat::new(at(10));
        assert_eq!(beat.check(at(20), 0), None, "it has not begun");
        assert_eq!(beat.check(at(21), 5), None);
        assert_eq!(
            (beat.check(at(23), 5), beat.age(at(23))),
            (None, Duration::from_secs(2))
        );
        assert_eq!(beat.check(at(24), 5), Some(true));
        assert!(!beat.is_alive());
        assert_eq!(beat.check(at(25), 5), None, "told once");
        assert_eq!(beat.check(at(26), 6), Some(false));
        assert!(beat.is_alive());
    }

    #[test]
    fn a_worker_is_stuck_after_three_seconds_and_recovers() {
        let counters: Vec<_> = (0..2).map(|_| Arc::new(WorkerCounters::new(1))).collect();
        let mut beats = Heartbeats::new(Instant::from_secs(10), &counters);
        assert!(!beats.all_started());
        counters.iter().for_each(|c| c.heartbeat.add(1));
        assert!(beats.check(Instant::from_secs(11), &counters).is_empty());
        assert!(beats.all_started() && beats.all_alive());
        counters[0].heartbeat.add(1);
        let turns = beats.check(Instant::from_secs(14), &counters);
        assert_eq!(
            turns,
            [Turn {
                worker: 1,
                stuck: true
            }]
        );
        assert!(!beats.all_alive());
        assert_eq!(beats.age(Instant::from_secs(14), 1), Duration::from_secs(3));
        counters[1].heartbeat.add(1);
        let turns = beats.check(Instant::from_secs(15), &counters);
        assert_eq!(
            turns,
            [Turn {
                worker: 1,
                stuck: false
            }]
        );
        assert!(beats.all_alive());
    }
}
