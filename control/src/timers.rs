//! What the control loop does at fixed intervals.

use std::time::Duration;

use dataplane::time::Instant;

/// One periodic duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Events of the workers are taken from their queues.
    Events,
    /// Worker heartbeats are checked, the watchdog is fed, stalled clients end.
    Heartbeat,
    /// A statistics period ends.
    Estimate,
    /// Deleted destinations without connections are looked for.
    Trash,
}

impl Timer {
    /// All of them.
    pub const ALL: [Timer; 4] = [
        Timer::Events,
        Timer::Heartbeat,
        Timer::Estimate,
        Timer::Trash,
    ];

    /// How often.
    pub const fn period(self) -> Duration {
        match self {
            Timer::Events => Duration::from_millis(5),
            Timer::Heartbeat => Duration::from_secs(1),
            Timer::Estimate => crate::stats::PERIOD,
            Timer::Trash => crate::trash::SCAN_PERIOD,
        }
    }
}

/// When each duty is due.
#[derive(Clone, Debug)]
pub struct Timers {
    due: [Instant; Timer::ALL.len()],
}

impl Timers {
    /// First due one period from now.
    pub fn new(now: Instant) -> Timers {
        Timers {
            due: Timer::ALL.map(|timer| now + timer.period()),
        }
    }

    /// The earliest.
    pub fn next(&self) -> Instant {
        self.due.into_iter().min().unwrap_or_default()
    }

    /// Whether a duty is due; sets its next time. Times that were missed are left out, but the
    /// beat is kept.
    pub fn is_due(&mut self, now: Instant, timer: Timer) -> bool {
        let due = &mut self.due[timer as usize];
        if now < *due {
            return false;
        }
        *due = *due + timer.period();
        if *due <= now {
            *due = now + timer.period();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beat_is_kept_and_missed_times_are_left_out() {
        let mut timers = Timers::new(Instant::from_secs(10));
        assert!(!timers.is_due(Instant::from_secs(11), Timer::Estimate));
        let late = Instant::from_secs(12) + Duration::from_millis(300);
        assert!(timers.is_due(late, Timer::Estimate));
        assert!(!timers.is_due(Instant::from_secs(13), Timer::Estimate));
        assert!(timers.is_due(Instant::from_secs(14), Timer::Estimate));
        assert!(timers.is_due(Instant::from_secs(100), Timer::Estimate));
        assert!(!timers.is_due(Instant::from_secs(101), Timer::Estimate));
        for (i, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, i);
        }
    }
}
