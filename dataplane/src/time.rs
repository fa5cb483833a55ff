//! Time as the core sees it: an argument, never a clock.

use core::time::Duration;

/// Ticks a second. One tick is 1/128 s, so that a `u32` of ticks lasts 388 days and two stamps
/// are compared by wrapping subtraction (timeouts are at most 31 days).
pub const TICKS_PER_SECOND: u32 = 128;

/// Nanoseconds of `CLOCK_BOOTTIME`. The caller reads the clock once per burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant in ticks, as stored in connection entries.
    #[inline(always)]
    pub const fn ticks(self) -> Ticks {
        // 1e9 / 128 = 7_812_500 ns a tick.
        Ticks((self.0 / 7_812_500) as u32)
    }

    /// An instant `secs` seconds after boot, for tests.
    pub const fn from_secs(secs: u64) -> Instant {
        Instant(secs * 1_000_000_000)
    }

    /// Time since `earlier`, zero if it is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0 + d.as_nanos() as u64)
    }
}

/// A point in time in ticks since boot, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ticks(pub u32);

impl Ticks {
    /// `self` moved on by `n` ticks.
    #[inline(always)]
    pub const fn plus(self, n: u32) -> Ticks {
        Ticks(self.0.wrapping_add(n))
    }

    /// Signed distance `self - other` in ticks.
    #[inline(always)]
    pub const fn since(self, other: Ticks) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Whether `self` is at or after `other`.
    #[inline(always)]
    pub const fn reached(self, other: Ticks) -> bool {
        self.since(other) >= 0
    }
}

/// Seconds to ticks.
#[inline(always)]
pub const fn secs(n: u32) -> u32 {
    n.saturating_mul(TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_wrap() {
        let late = Ticks(u32::MAX - 5);
        assert!(late.plus(10).reached(late));
        assert_eq!(late.plus(10).since(late), 10);
        assert_eq!(Instant::from_secs(3).ticks(), Ticks(384));
    }
}
