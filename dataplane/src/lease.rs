//! Leases: until when virtual addresses of VRRP may be served.
//!
//! A router that is master renews the lease of its addresses with every advert; the lease ends
//! before its peers can take over. Each worker compares it with its own clock, so that a host
//! whose VRRP thread is stuck, stopped or late falls silent by itself. The [`Board`] is written by
//! that one thread and read by all workers; [`Leases`] says which addresses go by which place on
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::addr::Addr;
use crate::time::Instant;

/// The place of a lease on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// No lease at all: nothing is known about the addresses, they are like any other.
const FREE: u64 = 0;
/// A lease that has ended.
const ENDED: u64 = 1;

/// Longest time until a worker sees what was written, if it has nothing to look out for.
pub const LOOK: Duration = Duration::from_millis(1);

/// Ends of all leases, nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Debug)]
pub struct Board {
    ends: Box<[AtomicU64]>,
}

impl Board {
    /// A board with so many places, all free.
    pub fn new(places: u16) -> Board {
        Board {
            ends: (0..places).map(|_| AtomicU64::new(FREE)).collect(),
        }
    }

    /// Number of places.
    pub fn places(&self) -> u16 {
        self.ends.len() as u16
    }

    fn set(&self, slot: Slot, end: u64) {
        if let Some(place) = self.ends.get(usize::from(slot.0)) {
            place.store(end, Relaxed);
        }
    }

    /// The addresses may be served until then.
    pub fn renew(&self, slot: Slot, end: Instant) {
        self.set(slot, end.0.max(ENDED));
    }

    /// The addresses may not be served from now on.
    pub fn end(&self, slot: Slot) {
        self.set(slot, ENDED);
    }

    /// The addresses are nobody's business here: somebody else has them, and this host is one like
    /// any other to them.
    pub fn free(&self, slot: Slot) {
        self.set(slot, FREE);
    }

    fn get(&self, slot: Slot) -> u64 {
        let place = self.ends.get(usize::from(slot.0));
        place.map_or(FREE, |place| place.load(Relaxed))
    }

    /// Whether the addresses of a place must not be served now.
    pub fn has_ended(&self, slot: Slot, now: Instant) -> bool {
        let end = self.get(slot);
        end != FREE && end < now.0
    }
}

/// The addresses that are served under leases.
#[derive(Clone, Debug)]
pub struct Leases {
    board: Arc<Board>,
    /// Sorted by address.
    addresses: Box<[(Addr, Slot)]>,
    /// Each place once.
    slots: Box<[Slot]>,
    /// Sorted: addresses that are for services alone.
    closed: Box<[Addr]>,
}

impl Leases {
    /// These addresses go by these places of the board.
    pub fn new(board: Arc<Board>, addresses: impl IntoIterator<Item = (Addr, Slot)>) -> Leases {
        let mut addresses: Vec<(Addr, Slot)> = addresses.into_iter().collect();
        addresses.sort_unstable();
        addresses.dedup_by_key(|(addr, _)| *addr);
        let mut slots: Vec<Slot> = addresses.iter().map(|(_, slot)| *slot).collect();
        slots.sort_unstable();
        slots.dedup();
        Leases {
            board,
            addresses: addresses.into(),
            slots: slots.into(),
            closed: Box::default(),
        }
    }

    /// The same, and packets for these addresses that no service takes are not the kernel's
    /// (RFC 5798, 6.1: `Accept_Mode` false).
    pub fn closing(self, addresses: impl IntoIterator<Item = Addr>) -> Leases {
        let mut closed: Vec<Addr> = addresses.into_iter().collect();
        closed.sort_unstable();
        Leases {
            closed: closed.into(),
            ..self
        }
    }

    /// Whether an address is for services alone.
    pub fn is_closed(&self, addr: Addr) -> bool {
        !self.closed.is_empty() && self.closed.binary_search(&addr).is_ok()
    }

    /// No addresses.
    pub fn none() -> Leases {
        Leases::new(Arc::new(Board::new(0)), [])
    }

    /// Whether there is nothing to look out for.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether an address must not be served now.
    pub fn has_ended(&self, addr: Addr, now: Instant) -> bool {
        let place = self
            .addresses
            .binary_search_by_key(&addr, |(addr, _)| *addr);
        let slot = place.ok().and_then(|place| self.addresses.get(place));
        slot.is_some_and(|(_, slot)| self.board.has_ended(*slot, now))
    }

    /// When to look again; `now` or before if a lease has ended, so that every packet is looked at.
    pub fn next_look(&self, now: Instant) -> Instant {
        let mut next = now + LOOK;
        for slot in &self.slots {
            match self.board.get(*slot) {
                FREE => {}
                end => next = next.min(Instant(end)),
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_the_readers_clock() {
        let board = Arc::new(Board::new(2));
        let (a, b, c) = (
            Addr::v4([10, 0, 0, 1]),
            Addr::v4([10, 0, 0, 2]),
            Addr::v4([10, 0, 0, 3]),
        );
        let leases = Leases::new(Arc::clone(&board), [(b, Slot(1)), (a, Slot(0))]);
        let at = |ms: u64| Instant(ms * 1_000_000);
        assert!(!leases.has_ended(a, at(5)), "free");
        assert_eq!(leases.next_look(at(5)), at(6));
        board.renew(Slot(0), at(10));
        assert_eq!(leases.next_look(at(5)), at(6));
        assert_eq!(leases.next_look(at(9)), at(10));
        assert!(!leases.has_ended(a, at(10)) && leases.has_ended(a, at(11)));
        assert!(leases.next_look(at(11)) <= at(11), "watched while it lasts");
        assert!(!leases.has_ended(b, at(11)) && !leases.has_ended(c, at(11)));
        board.renew(Slot(0), at(20));
        assert!(!leases.has_ended(a, at(11)));
        board.end(Slot(0));
        assert!(leases.has_ended(a, at(11)));
        board.free(Slot(0));
        assert!(!leases.has_ended(a, at(11)));
        // A place beyond the board is free for ever.
        board.end(Slot(7));
        assert!(!Leases::new(board, [(c, Slot(7))]).has_ended(c, at(11)));
    }
}
