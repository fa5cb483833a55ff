//! Time as the machines see it: an argument, never a clock.

use core::time::Duration;

/// Nanoseconds of `CLOCK_BOOTTIME`, which also counts the time a host was suspended: a router
/// that slept has to notice. The same convention as the data plane's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// An instant `micros` microseconds after boot.
    pub const fn from_micros(micros: u64) -> Instant {
        Instant(micros.saturating_mul(1_000))
    }

    /// Time since `earlier`, zero if it is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(d)))
    }
}

impl core::ops::Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, d: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(d)))
    }
}

/// Whole nanoseconds, at most 584 years.
fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stops_at_its_ends() {
        let t = Instant::from_micros(5);
        assert_eq!(t - Duration::from_secs(1), Instant(0));
        assert_eq!(t + Duration::MAX, Instant(u64::MAX));
        assert_eq!(
            (t + Duration::from_nanos(7)).since(t),
            Duration::from_nanos(7)
        );
        assert_eq!(t.since(t + Duration::from_secs(1)), Duration::ZERO);
    }
}
