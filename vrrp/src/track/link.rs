//! An interface's state, debounced (`interface_up_down_delays`).

use core::time::Duration;

use super::Verdict;
use crate::time::Instant;

/// How long a change has to last before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkDelays {
    /// Before an interface counts as up.
    pub up: Duration,
    /// Before it counts as down; less than a master-down interval, or peers notice first.
    pub down: Duration,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    delays: LinkDelays,
    /// `None` until first seen; then it counts at once.
    is_up: Option<bool>,
    /// When it counts as the other state, if it stays there.
    change_at: Option<Instant>,
}

impl Link {
    /// An interface not seen yet.
    pub const fn new(delays: LinkDelays) -> Link {
        Link {
            delays,
            is_up: None,
            change_at: None,
        }
    }

    /// It is up and running, or not.
    pub fn observe(&mut self, now: Instant, is_up: bool) {
        self.advance(now);
        let delay = if is_up {
            self.delays.up
        } else {
            self.delays.down
        };
        match self.is_up {
            Some(known) if known == is_up => self.change_at = None,
            Some(_) if !delay.is_zero() => {
                self.change_at.get_or_insert(now + delay);
            }
            _ => (self.is_up, self.change_at) = (Some(is_up), None),
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Instant) {
        if self.change_at.is_some_and(|at| at <= now) {
            self.is_up = self.is_up.map(|is_up| !is_up);
            self.change_at = None;
        }
    }

    /// When it changes by itself.
    pub const fn next_timeout(&self) -> Option<Instant> {
        self.change_at
    }

    pub(super) fn is_like(&self, other: &Link) -> bool {
        self.delays == other.delays
    }

    /// What it says now.
    pub const fn verdict(&self) -> Verdict {
        match self.is_up {
            None => Verdict::Unknown,
            Some(true) => Verdict::Up,
            Some(false) => Verdict::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_changes_do_not_count() {
        let ms = |n: u64| Instant::from_micros(n * 1000);
        let delays = LinkDelays {
            up: Duration::from_millis(50),
            down: Duration::from_millis(20),
        };
        let mut link = Link::new(delays);
        assert_eq!(link.verdict(), Verdict::Unknown);
        link.observe(ms(0), true);
        assert_eq!(link.verdict(), Verdict::Up, "the first counts at once");
        link.observe(ms(10), false);
        assert_eq!(
            (link.verdict(), link.next_timeout()),
            (Verdict::Up, Some(ms(30)))
        );
        link.observe(ms(29), true);
        assert_eq!((link.verdict(), link.next_timeout()), (Verdict::Up, None));
        link.observe(ms(40), false);
        link.observe(ms(50), false);
        link.advance(ms(60));
        assert_eq!(
            link.verdict(),
            Verdict::Down,
            "counted from the first time it was seen"
        );
        link.observe(ms(70), true);
        assert_eq!(link.next_timeout(), Some(ms(120)));
        link.observe(ms(130), false);
        assert_eq!(
            (link.verdict(), link.next_timeout()),
            (Verdict::Up, Some(ms(150)))
        );
    }

    #[test]
    fn without_delays_changes_count_at_once() {
        let mut link = Link::new(LinkDelays::default());
        for is_up in [true, false, true] {
            link.observe(Instant(0), is_up);
            assert_eq!(link.verdict() == Verdict::Up, is_up);
            assert_eq!(link.next_timeout(), None);
        }
    }
}
