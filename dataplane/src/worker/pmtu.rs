//! Path MTUs that routers told us about our own tunnels.
//!
//! One per destination, made at start, so that a flood of messages costs no memory. They are
//! forgotten after ten minutes and the path is tried anew, as the kernel does with its routes.

use core::time::Duration;

use crate::service::DestId;
use crate::time::Instant;

/// How long a path MTU is believed (`net.ipv4.route.mtu_expires`).
const BELIEVED: Duration = Duration::from_secs(600);

/// The smallest that is believed (`net.ipv4.route.min_pmtu`): less is an attack or a mistake.
const LEAST: u16 = 552;

#[derive(Clone, Copy, Debug)]
struct Learned {
    mtu: u16,
    until: Instant,
}

const NOTHING: Learned = Learned {
    mtu: u16::MAX,
    until: Instant(0),
};

/// Path MTUs by destination. Allocates in `new` only.
#[derive(Debug)]
pub(super) struct PathMtus(Box<[Learned]>);

impl PathMtus {
    /// None learned, for up to `dests` destinations.
    pub(super) fn new(dests: usize) -> PathMtus {
        PathMtus(vec![NOTHING; dests].into_boxed_slice())
    }

    /// Takes note of a router's word and returns the MTU that packets to the destination have
    /// from now on, `current` being the one that they had: larger ones change nothing.
    pub(super) fn learn(&mut self, id: DestId, told: u16, current: u16, now: Instant) -> u16 {
        let mtu = told.max(LEAST);
        let Some(learned) = self.0.get_mut(id.0 as usize) else {
            return current;
        };
        if mtu > current {
            return current;
        }
        *learned = Learned {
            mtu,
            until: now + BELIEVED,
        };
        mtu
    }

    /// The MTU of the way to a destination whose next hop takes `mtu`.
    #[inline]
    pub(super) fn limit(&self, id: DestId, mtu: u16, now: Instant) -> u16 {
        match self.0.get(id.0 as usize) {
            Some(learned) if now < learned.until => mtu.min(learned.mtu),
            _ => mtu,
        }
    }

    /// The destination has another address now.
    pub(super) fn forget(&mut self, id: DestId) {
        if let Some(learned) = self.0.get_mut(id.0 as usize) {
            *learned = NOTHING;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_believed_for_ten_minutes() {
        let mut paths = PathMtus::new(2);
        let (id, now) = (DestId(1), Instant::from_secs(100));
        assert_eq!(paths.limit(id, 1500, now), 1500);
        assert_eq!(paths.learn(id, 900, 1500, now), 900);
        assert_eq!(paths.limit(id, 1500, now), 900);
        assert_eq!(paths.limit(id, 800, now), 800);
        assert_eq!(paths.limit(DestId(0), 1500, now), 1500);
        // Larger than what is known: no news.
        assert_eq!(paths.learn(id, 1400, 900, now), 900);
        assert_eq!(paths.limit(id, 1500, now), 900);
        let later = now + Duration::from_secs(599);
        assert_eq!(paths.limit(id, 1500, later), 900);
        assert_eq!(paths.limit(id, 1500, later + Duration::from_secs(1)), 1500);
        paths.learn(id, 900, 1500, later);
        paths.forget(id);
        assert_eq!(paths.limit(id, 1500, later), 1500);
    }

    #[test]
    fn tiny_ones_are_not_believed() {
        let mut paths = PathMtus::new(1);
        let now = Instant::from_secs(1);
        assert_eq!(paths.learn(DestId(0), 0, 1500, now), 552);
        assert_eq!(paths.learn(DestId(0), 68, 1500, now), 552);
        assert_eq!(
            paths.learn(DestId(7), 900, 1500, now),
            1500,
            "no such destination"
        );
    }
}
