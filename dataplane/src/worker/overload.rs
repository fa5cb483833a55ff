//! Hits first: when packets come faster than the worker can take them, new connections give way.
//!
//! A new connection costs ten times what a packet of a known one does. A flood of opening packets
//! therefore fills the receive queues long before the known connections could, and what a full
//! queue loses is lost without regard. So a queue that stays deep lowers the share of opening
//! packets that are scheduled, before their service is looked for; a refused one costs little more
//! than its look-up. The share falls by halves and comes back in a tenth of a second, so that the
//! worker stays just below its capacity. It is not the kernel's `drop_packet`, which follows the
//! free entries of the table.
//!
//! A worker that is busy all the time is not overloaded yet: clients who wait for answers keep as
//! many packets in the queue as there are clients, and nothing is lost. What tells the two apart is
//! how much waits, which no driver says for all kinds of ports; so it is asked for only where one
//! full burst follows another, and the asked may take its time.
//!
//! Known connections may be what fills the queues. New ones are therefore never starved: one for
//! each [`PACKETS_EACH`] packets is let in however full the queues are.

use core::time::Duration;

use super::{Core, Worker};
use crate::time::Instant;

/// The whole share: nothing is refused.
const WHOLE: u32 = 1 << 16;

/// The smallest.
const LEAST: u32 = WHOLE / 256;

/// How long a queue may bring full bursts until it is asked whether it is deep. Shorter peaks are
/// what it is for.
const PATIENCE: Duration = Duration::from_millis(1);

/// The same once something is refused: the share has to follow before the queue overflows.
const PATIENCE_UNDER_PRESSURE: Duration = Duration::from_micros(100);

/// Time in which the share grows from nothing to the whole.
const RECOVERY: Duration = Duration::from_millis(100);

/// Packets received for each connection that is let in although its lot was to be refused.
pub const PACKETS_EACH: u32 = 128;

/// At most so many of those at once.
const SAVED: u32 = 32;

/// Longest time between two full bursts that counts as work. A worker that was not running meanwhile
/// finds full bursts, too, and soon empties the queue.
const STEP: Duration = Duration::from_micros(50);

/// For how long a receive queue has brought full bursts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backlog {
    last: Option<Instant>,
    stood: Duration,
}

/// How much of what is new is let in.
#[derive(Debug)]
pub(super) struct Overload {
    /// Of [`WHOLE`].
    share: u32,
    /// Adds up to [`WHOLE`] for each connection that is let in.
    lot: u32,
    /// Packets received and not yet used up by connections let in for them.
    saved: u32,
    /// When the share was last changed.
    changed: Instant,
}

impl Default for Overload {
    fn default() -> Overload {
        Overload {
            share: WHOLE,
            lot: 0,
            saved: 0,
            changed: Instant(0),
        }
    }
}

impl Overload {
    /// A queue has stayed deep for too long.
    fn press(&mut self, now: Instant) {
        self.share = (self.share / 2).max(LEAST);
        self.changed = now;
    }

    /// A queue was emptied, or holds little.
    #[cold]
    fn relax(&mut self, now: Instant) {
        let passed = now.since(self.changed).min(RECOVERY).as_nanos() as u64;
        let back = u64::from(WHOLE) * passed / RECOVERY.as_nanos() as u64;
        if back > 0 {
            self.share = self.share.saturating_add(back as u32).min(WHOLE);
            self.changed = now;
        }
        if self.share == WHOLE {
            self.lot = 0;
            self.saved = 0;
        }
    }

    #[cold]
    fn judge(&mut self, now: Instant, is_deep: bool) {
        if is_deep {
            self.press(now);
        } else if self.share != WHOLE {
            self.relax(now);
        }
    }

    /// Whether a new connection is let in.
    #[inline]
    fn admits(&mut self) -> bool {
        if self.share == WHOLE {
            return true;
        }
        self.lot += self.share;
        if self.lot >= WHOLE {
            self.lot -= WHOLE;
            return true;
        }
        let spare = self.saved.checked_sub(PACKETS_EACH);
        self.saved = spare.unwrap_or(self.saved);
        spare.is_some()
    }
}

impl Worker {
    /// To be called with each burst of a receive queue: whether it brought as many packets as
    /// were asked for, so that there may be more. `is_deep` is asked now and then, at most once
    /// for each tenth of a millisecond of work: whether so much waits that the queue may soon lose
    /// packets, half of what it can hold or several hundred.
    #[inline]
    pub fn took_burst(
        &mut self,
        now: Instant,
        backlog: &mut Backlog,
        is_full: bool,
        is_deep: impl FnOnce() -> bool,
    ) {
        if is_full {
            if self.has_worked_long(now, backlog) {
                self.core.overload.judge(now, is_deep());
            }
            return;
        }
        *backlog = Backlog::default();
        let overload = &mut self.core.overload;
        if overload.share != WHOLE {
            overload.relax(now);
        }
    }

    /// After a full burst: whether it is time to ask how deep the queue is.
    #[inline]
    fn has_worked_long(&mut self, now: Instant, backlog: &mut Backlog) -> bool {
        if let Some(last) = backlog.last {
            backlog.stood += now.since(last).min(STEP);
        }
        backlog.last = Some(now);
        let overload = &mut self.core.overload;
        let patience = if overload.share == WHOLE {
            PATIENCE
        } else {
            let saved = overload.saved + super::BURST as u32;
            overload.saved = saved.min(SAVED * PACKETS_EACH);
            PATIENCE_UNDER_PRESSURE
        };
        if backlog.stood < patience {
            return false;
        }
        backlog.stood = Duration::ZERO;
        if !self.core.settings.hits_first {
            *overload = Overload::default();
        }
        self.core.settings.hits_first
    }
}

impl Core {
    /// Whether a packet that would open a connection is to be scheduled.
    #[inline]
    pub(super) fn has_time_for_new(&mut self) -> bool {
        self.overload.admits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn admitted(overload: &mut Overload, of: usize) -> usize {
        (0..of).filter(|_| overload.admits()).count()
    }

    #[test]
    fn the_share_is_halved_and_comes_back() {
        let mut overload = Overload::default();
        let now = Instant::from_secs(1);
        assert_eq!(admitted(&mut overload, 1000), 1000);
        overload.press(now);
        assert_eq!(admitted(&mut overload, 1000), 500);
        overload.press(now);
        assert_eq!(admitted(&mut overload, 1000), 250);
        overload.relax(now + US * 10_000);
        assert!((349..=351).contains(&admitted(&mut overload, 1000)));
        // In small steps as in one.
        for i in 1..=1000 {
            overload.relax(now + US * (10_000 + 10 * i));
        }
        assert!((440..=451).contains(&admitted(&mut overload, 1000)));
        overload.relax(now + US * 200_000);
        assert_eq!(overload.share, WHOLE);
        (0..40).for_each(|_| overload.press(now));
        assert!((9..=11).contains(&admitted(&mut overload, 2560)));
    }

    #[test]
    fn some_are_always_let_in() {
        let mut overload = Overload::default();
        (0..40).for_each(|_| overload.press(Instant(0)));
        overload.saved = 3 * PACKETS_EACH + 1;
        assert_eq!(admitted(&mut overload, 100), 3);
        assert_eq!(overload.saved, 1);
    }
}
