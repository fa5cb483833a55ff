//! The time a worker reads once per burst: `CLOCK_BOOTTIME`, interpolated by the TSC.
//!
//! A system clock costs about 19 ns a reading, the TSC 8.5 ns. The clock remembers one pair of
//! readings, the anchor, and the rate between the last two anchors; each second it takes a new one,
//! which also catches suspend and migration to another host. It never goes back.

use dataplane::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds between anchors.
const ANCHOR_INTERVAL: u64 = 1_000_000_000;

/// A clock of one thread.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    /// The last answer, so that none is earlier.
    last: u64,
}

#[derive(Clone, Debug)]
enum Source {
    /// Ask the kernel each time.
    Kernel,
    Tsc(Anchor),
}

impl Clock {
    /// A clock with a TSC of `tsc_hz` ticks a second as a first guess (see `Eal::tsc_hz`; an error
    /// of it is gone after a second). Without an invariant TSC it asks the kernel each time.
    pub fn new(tsc_hz: u64) -> Clock {
        let source = match (
            has_invariant_tsc(),
            Anchor::new(read_tsc(), boottime(), tsc_hz),
        ) {
            (true, Some(anchor)) => Source::Tsc(anchor),
            _ => Source::Kernel,
        };
        Clock { source, last: 0 }
    }

    /// The time now.
    #[inline]
    pub fn now(&mut self) -> Instant {
        let nanos = match &mut self.source {
            Source::Kernel => boottime(),
            Source::Tsc(anchor) => {
                let tsc = read_tsc();
                match anchor.at(tsc) {
                    Some(nanos) => nanos,
                    None => anchor.renew(tsc, boottime()),
                }
            }
        };
        self.last = self.last.max(nanos);
        Instant(self.last)
    }

    /// Whether it reads the TSC.
    pub fn uses_tsc(&self) -> bool {
        matches!(self.source, Source::Tsc(_))
    }
}

/// One pair of readings and the rate from there on.
#[derive(Clone, Debug)]
struct Anchor {
    tsc: u64,
    nanos: u64,
    /// Nanoseconds a tick, times 2^32.
    rate: u64,
    /// Ticks after which a new anchor is due.
    valid: u64,
}

impl Anchor {
    /// None for a rate nobody has (below 1 MHz or above 100 GHz).
    fn new(tsc: u64, nanos: u64, hz: u64) -> Option<Anchor> {
        (1_000_000..100_000_000_000).contains(&hz).then(|| Anchor {
            tsc,
            nanos,
            rate: ((1_000_000_000u128 << 32) / u128::from(hz)) as u64,
            valid: hz,
        })
    }

    /// The time at `tsc`; none if the anchor is too old, or the counter went back.
    #[inline(always)]
    fn at(&self, tsc: u64) -> Option<u64> {
        let ticks = tsc.wrapping_sub(self.tsc);
        if ticks > self.valid {
            return None;
        }
        Some(self.nanos + ((u128::from(ticks) * u128::from(self.rate)) >> 32) as u64)
    }

    /// Anchors at a fresh pair of readings and returns the time of it.
    #[cold]
    fn renew(&mut self, tsc: u64, nanos: u64) -> u64 {
        let (ticks, passed) = (tsc.wrapping_sub(self.tsc), nanos.saturating_sub(self.nanos));
        // Only an interval of usual length tells the rate: not one with a suspend in it, nor a step
        // of the counter.
        let usual = ANCHOR_INTERVAL / 2..ANCHOR_INTERVAL * 60;
        let rate = (u128::from(passed) << 32)
            .checked_div(u128::from(ticks))
            .unwrap_or(0) as u64;
        let near = self.rate - self.rate / 64..self.rate + self.rate / 64;
        if usual.contains(&passed) && near.contains(&rate) {
            self.rate = rate;
            self.valid = ((u128::from(ANCHOR_INTERVAL) << 32) / u128::from(rate)) as u64;
        }
        (self.tsc, self.nanos) = (tsc, nanos);
        nanos
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
fn boottime() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_tsc() -> u64 {
    // SAFETY: every x86-64 CPU has the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn read_tsc() -> u64 {
    0
}

/// CPUID 8000_0007h, EDX bit 8: one rate in all power states.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)]
fn has_invariant_tsc() -> bool {
    use core::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx >> 8 & 1 == 1 }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_invariant_tsc() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn interpolates_between_anchors() {
        let anchor = Anchor::new(500, 7 * SECOND, 2_600_000_000).unwrap();
        assert_eq!(anchor.at(500), Some(7 * SECOND));
        let half = anchor.at(500 + 1_300_000_000).unwrap();
        assert!(half.abs_diff(7 * SECOND + SECOND / 2) <= 1, "{half}");
        // Too old, and a counter that went back.
        assert_eq!(anchor.at(501 + 2_600_000_000), None);
        assert_eq!(anchor.at(499), None);
    }

    #[test]
    fn learns_the_rate() {
        // Told 2.6 GHz, in truth 2.61 GHz.
        let mut anchor = Anchor::new(0, 0, 2_600_000_000).unwrap();
        assert_eq!(anchor.renew(2_610_000_000, SECOND), SECOND);
        let next = anchor.at(2_610_000_000 + 1_305_000_000).unwrap();
        assert!(next.abs_diff(SECOND + SECOND / 2) <= 2, "{next}");
        // A suspend: boot time moves by an hour, the counter by a second. The rate stays.
        let before = anchor.rate;
        assert_eq!(
            anchor.renew(2 * 2_610_000_000, 3600 * SECOND),
            3600 * SECOND
        );
        assert_eq!(anchor.rate, before);
    }

    #[test]
    fn refuses_nonsense_rates() {
        assert!(Anchor::new(0, 0, 0).is_none());
        assert!(!Clock::new(0).uses_tsc());
    }

    #[test]
    fn agrees_with_the_kernel_and_never_goes_back() {
        let mut clock = Clock::new(2_600_000_000);
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        // The kernel's own reading, taken after; the guess of the rate may be wrong by a lot here.
        assert!(boottime().abs_diff(last.0) < SECOND);
    }
}
