//! What the board of leases says about each instance, and when.

use std::time::Duration;

use vrrp::config::Key;
use vrrp::instance::{Cause, Role};
use vrrp::output::Announced;
use vrrp::time::Instant;

use super::Driver;
use crate::vrrp::introduction;

/// How long packets for an address that was given up are dropped: by then the kernel and all workers
/// know that it is gone.
const GRACE: Duration = Duration::from_secs(2);

/// What the board says about an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// Its addresses are nobody's business here.
    Free,
    /// It is master, but the workers do not know that the host holds the addresses: nothing is served
    /// or announced before they do, or this time has come.
    Opening {
        until: Instant,
        open_at: Instant,
        rounds: u8,
    },
    /// Workers serve.
    Open,
    /// Ended; free again then.
    Ended { free_at: Instant },
}

impl Driver {
    /// Opens what waited long enough for control, and frees what ended long ago.
    pub(super) fn tend_leases(&mut self, now: Instant) {
        let mut open = Vec::new();
        for (key, slot) in &mut self.slots {
            match slot.lease {
                Lease::Opening { open_at, .. } if open_at <= now => open.push(*key),
                Lease::Ended { free_at } if free_at <= now => {
                    slot.lease = Lease::Free;
                    if let Some(place) = slot.place {
                        self.parts.board.free(place);
                    }
                }
                _ => {}
            }
        }
        for key in open {
            self.open(now, key);
        }
        self.clear_left(now);
    }

    /// Takes away what the process before left for an instance that does not go on as master.
    fn clear_left(&mut self, now: Instant) {
        let mut left = Vec::new();
        for (key, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.is_left) {
            let waits = match slot.role {
                Role::Backup => slot.cause == Cause::Resume.name() && now.since(slot.since) < GRACE,
                Role::Fault => false,
                _ => true,
            };
            slot.is_left = waits && !slot.holds;
            if !waits && !slot.holds {
                let addresses = slot.config.addresses.iter().map(|a| a.addr);
                left.push((*key, addresses.collect::<Vec<_>>()));
            }
        }
        for (key, addresses) in left {
            self.remove_addresses(key, &addresses);
        }
    }

    /// Lets the workers serve an instance's addresses and tells the LAN.
    pub(super) fn open(&mut self, now: Instant, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Lease::Opening { until, rounds, .. } = slot.lease else {
            return;
        };
        slot.lease = Lease::Open;
        if let Some(place) = slot.place {
            self.parts
                .board
                .renew(place, dataplane::time::Instant(until.0));
        }
        self.announce(now, key, Announced::VirtualAddresses, rounds);
    }

    /// Until when workers may serve an instance's addresses.
    pub(super) fn renew(&mut self, now: Instant, key: Key, end: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        self.parts.memory.note(&slot.who(), end);
        let Some(place) = slot.place else {
            return;
        };
        match &mut slot.lease {
            Lease::Open => self
                .parts
                .board
                .renew(place, dataplane::time::Instant(end.0)),
            Lease::Opening { until, .. } => *until = end,
            Lease::Free | Lease::Ended { .. } => {
                // Nothing is let through before the workers know the addresses.
                self.parts.board.end(place);
                slot.lease = Lease::Opening {
                    until: end,
                    open_at: now + introduction::LONGEST,
                    rounds: 0,
                };
            }
        }
    }

    /// Workers stop to serve an instance's addresses.
    pub(super) fn end_lease(&mut self, now: Instant, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        self.parts.memory.note(&slot.who(), Instant::default());
        if let Some(place) = slot.place
            && slot.lease != Lease::Free
        {
            self.parts.board.end(place);
            slot.lease = Lease::Ended {
                free_at: now + GRACE,
            };
        }
    }
}
