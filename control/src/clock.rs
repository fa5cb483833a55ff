//! The one place where the control side reads the clock.

use dataplane::time::Instant;

/// Wall-clock time of boot: added to an instant it gives the time of day.
pub fn boot_time() -> std::time::Duration {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    wall.unwrap_or_default()
        .saturating_sub(now().since(Instant(0)))
}

/// Now, as the data plane counts it (`CLOCK_BOOTTIME`). Read once per wake of the control loop.
pub fn now() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither part is ever negative for this clock.
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
