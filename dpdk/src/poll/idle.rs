//! What a worker does when there is nothing to do: naps that no receive ring overflows in.

use std::sync::Arc;
use std::time::Duration;

use dataplane::counters::PortCounters;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: lowest latency, a whole core.
    Poll,
    /// After `spins` empty turns, naps that grow from `nap` to `longest`, or to what [`Rings`]
    /// allow.
    Adaptive {
        /// Empty turns before the first nap.
        spins: u32,
        /// First nap.
        nap: Duration,
        /// Longest nap.
        longest: Duration,
    },
}

/// Speed taken for a port that does not know its own, Mbit/s.
const UNKNOWN_MBPS: u32 = 10_000;

/// The receive rings of a worker: none may overflow while it naps.
#[derive(Clone, Debug, Default)]
pub struct Rings {
    /// Descriptors of a ring, and where its port's speed is kept up to date.
    pub rings: Vec<(u16, Arc<PortCounters>)>,
}

impl Rings {
    /// The longest nap at the speeds the ports have now.
    pub(super) fn longest_nap(&self) -> Duration {
        let of = |(descriptors, counters): &(u16, Arc<PortCounters>)| {
            let mbps = match counters.speed.get() {
                0 => UNKNOWN_MBPS,
                known => known,
            };
            Idle::longest_nap(*descriptors, mbps)
        };
        self.rings.iter().map(of).min().unwrap_or(Duration::MAX)
    }
}

impl Idle {
    /// The longest nap during which a receive ring cannot overflow: `descriptors` frames of 64
    /// bytes (84 with preamble and gap) at `mbps`, less a quarter to be safe.
    pub fn longest_nap(descriptors: u16, mbps: u32) -> Duration {
        let frames_per_us = f64::from(mbps.max(1)) / (84.0 * 8.0);
        Duration::from_nanos((f64::from(descriptors) / frames_per_us * 750.0) as u64)
    }

    /// The nap after so many turns without work, at most `bound`; `None` is to go on polling.
    pub(super) fn nap(self, empty_turns: u32, bound: Duration) -> Option<Duration> {
        let Idle::Adaptive {
            spins,
            nap,
            longest,
        } = self
        else {
            return None;
        };
        let longest = longest.min(bound);
        // A hundred short naps, some thousand of middle length, then long ones.
        Some(match empty_turns.checked_sub(spins)? {
            0..100 => nap.min(longest),
            100..5000 => longest / 2,
            _ => longest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_follow_the_speed_of_the_ports() {
        let (slow, fast) = (
            Arc::new(PortCounters::default()),
            Arc::new(PortCounters::default()),
        );
        slow.speed.set(1000);
        let rings = Rings {
            rings: vec![(512, Arc::clone(&slow)), (1024, Arc::clone(&fast))],
        };
        let unknown = rings.longest_nap();
        assert_eq!(unknown, Idle::longest_nap(1024, UNKNOWN_MBPS));
        fast.speed.set(100_000);
        let at_100g = rings.longest_nap();
        assert_eq!(at_100g, unknown / 10);
        fast.speed.set(10);
        assert_eq!(rings.longest_nap(), Idle::longest_nap(512, 1000));
        assert_eq!(Rings::default().longest_nap(), Duration::MAX);

        let ms = Duration::from_millis;
        let idle = Idle::Adaptive {
            spins: 10,
            nap: ms(1),
            longest: ms(100),
        };
        for (turns, bound, nap) in [
            (9, Duration::MAX, None),
            (10, Duration::MAX, Some(ms(1))),
            (110, Duration::MAX, Some(ms(50))),
            (6000, Duration::MAX, Some(ms(100))),
            (6000, ms(20), Some(ms(20))),
            (10, ms(20) / 40, Some(ms(20) / 40)),
        ] {
            assert_eq!(idle.nap(turns, bound), nap, "{turns} {bound:?}");
        }
        assert_eq!(Idle::Poll.nap(u32::MAX, Duration::MAX), None);
    }
}
