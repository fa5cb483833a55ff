//! Next hops that did not answer when the kernel asked for their MAC.

use core::time::Duration;

use super::LinkId;
use crate::addr::Addr;
use crate::time::Instant;

/// How long a failure is believed. The kernel asks for three seconds, and is made to ask again
/// while packets come: a hop that stays silent is reported anew before this is over, and the
/// first packet after a pause waits for a new answer, as it does in the kernel.
const BELIEVED: Duration = Duration::from_secs(5);

/// Places; two hops that share one forget each other.
const PLACES: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Failure {
    link: LinkId,
    addr: Addr,
    at: Instant,
}

/// See the module. Allocates in `default` only.
#[derive(Debug)]
pub(super) struct FailedHops {
    places: Box<[Option<Failure>]>,
}

impl Default for FailedHops {
    fn default() -> FailedHops {
        FailedHops {
            places: vec![None; PLACES].into_boxed_slice(),
        }
    }
}

impl FailedHops {
    /// Takes note of a hop that did not answer.
    pub(super) fn insert(&mut self, now: Instant, link: LinkId, addr: Addr) {
        if let Some(place) = self.places.get_mut(place(link, &addr)) {
            *place = Some(Failure {
                link,
                addr,
                at: now,
            });
        }
    }

    /// Whether it did not answer a moment ago.
    pub(super) fn contains(&self, now: Instant, link: LinkId, addr: Addr) -> bool {
        let failure = self.places.get(place(link, &addr)).copied().flatten();
        failure.is_some_and(|f| (f.link, f.addr) == (link, addr) && now.since(f.at) < BELIEVED)
    }

    /// It answers.
    pub(super) fn remove(&mut self, link: LinkId, addr: Addr) {
        if let Some(place) = self.places.get_mut(place(link, &addr))
            && place.is_some_and(|f| (f.link, f.addr) == (link, addr))
        {
            *place = None;
        }
    }
}

fn place(link: LinkId, addr: &Addr) -> usize {
    let mixed = (addr.fold() ^ u32::from(link.0)).wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Addr = Addr::v4([10, 0, 0, 1]);
    const LINK: LinkId = LinkId(3);

    #[test]
    fn a_failure_is_believed_for_a_while_and_until_the_hop_answers() {
        let mut failed = FailedHops::default();
        let now = Instant::from_secs(100);
        assert!(!failed.contains(now, LINK, A));
        failed.insert(now, LINK, A);
        assert!(failed.contains(now, LINK, A));
        assert!(!failed.contains(now, LinkId(4), A));
        assert!(failed.contains(now + Duration::from_millis(4900), LINK, A));
        assert!(!failed.contains(now + BELIEVED, LINK, A));
        failed.remove(LinkId(4), A);
        assert!(failed.contains(now, LINK, A));
        failed.remove(LINK, A);
        assert!(!failed.contains(now, LINK, A));
    }
}
