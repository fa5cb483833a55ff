//! The one place where the control side reads the clock.

use dataplane::time::Instant;

/// Now, as the data plane counts it (`CLOCK_BOOTTIME`). Read once per wake of the control loop.
pub fn now() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither part is ever negative for this clock.
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
