//! How the thread keeps up: attempts made, and how late they began.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Steps of the distribution: below 1 µs, below 2 µs, below 4 µs and so on.
const STEPS: usize = 32;

/// Written by the thread, read by anybody.
#[derive(Debug, Default)]
pub struct Gauges {
    late: [AtomicU64; STEPS],
}

impl Gauges {
    /// Notes an attempt that began so long after it was due.
    pub(super) fn note(&self, late: Duration) {
        let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let step = (u64::BITS - micros.leading_zeros()) as usize;
        if let Some(count) = self.late.get(step.min(STEPS - 1)) {
            count.store(count.load(Relaxed) + 1, Relaxed);
        }
    }

    /// Attempts so far.
    pub fn attempts(&self) -> u64 {
        self.late.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// So many of a thousand attempts began at most this late; rounded up to a power of two of
    /// microseconds.
    pub fn lateness(&self, per_mille: u64) -> Duration {
        let wanted = self.attempts() * per_mille / 1000;
        let mut sum = 0;
        let step = self.late.iter().position(|count| {
            sum += count.load(Relaxed);
            sum >= wanted
        });
        Duration::from_micros(1 << step.unwrap_or(STEPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_a_distribution() {
        let gauges = Gauges::default();
        for _ in 0..99 {
            gauges.note(Duration::from_micros(3));
        }
        gauges.note(Duration::from_millis(5));
        gauges.note(Duration::ZERO);
        assert_eq!(gauges.attempts(), 101);
        assert_eq!(gauges.lateness(500), Duration::from_micros(4));
        assert_eq!(gauges.lateness(1000), Duration::from_micros(8192));
    }
}
