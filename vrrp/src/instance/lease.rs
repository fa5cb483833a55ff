//! The lease under which the data plane serves a virtual router's addresses.

use core::time::Duration;

use crate::time::Instant;

/// Ends before a peer that counts the silence since the last advert can take over.
///
/// Peers wait `adverts` intervals and their skew, at least that of priority 254, counted from when
/// the last advert reached them. The lease ends `adverts` intervals and the skew of priority 255
/// after the advert was handed out for sending, which is earlier. (Peers that lost that advert on
/// the way started to count before; no timer can know.) The data plane checks it by itself, so
/// that a master whose control thread is stuck or stopped falls silent in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When the addresses were taken over.
    since: Instant,
    /// When the last round of adverts was handed out.
    sent: Option<Instant>,
    /// The round before, in case the last one fails.
    before: Option<Instant>,
    /// How long one round carries.
    length: Duration,
}

impl Lease {
    pub(super) const fn new(since: Instant, length: Duration) -> Lease {
        Lease {
            since,
            sent: None,
            before: None,
            length,
        }
    }

    /// An advert was handed out. `length` holds from now on.
    pub(super) const fn renew(&mut self, now: Instant, length: Duration) {
        (self.before, self.sent, self.length) = (self.sent, Some(now), length);
    }

    /// The last round did not leave.
    pub(super) const fn take_back(&mut self) {
        self.sent = self.before;
    }

    /// The end; `None` if nothing was ever sent.
    pub fn until(&self) -> Option<Instant> {
        self.sent.map(|sent| sent + self.length)
    }

    /// Whether the data plane may serve now.
    pub fn is_valid(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now <= until)
    }

    /// When the instance has to give way: the end, or as long after a takeover that never got an
    /// advert out.
    pub(super) fn end(&self) -> Instant {
        self.sent.unwrap_or(self.since) + self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_left_counts() {
        let at = Instant::from_micros;
        let mut lease = Lease::new(at(10), Duration::from_micros(3));
        assert_eq!((lease.until(), lease.end()), (None, at(13)));
        lease.renew(at(10), Duration::from_micros(3));
        lease.renew(at(11), Duration::from_micros(4));
        assert_eq!((lease.until(), lease.end()), (Some(at(15)), at(15)));
        assert!(lease.is_valid(at(15)) && !lease.is_valid(at(16)));
        lease.take_back();
        assert_eq!(lease.until(), Some(at(14)));
        lease.take_back();
        assert_eq!(
            lease.until(),
            Some(at(14)),
            "a second failure knows no earlier one"
        );
    }
}
