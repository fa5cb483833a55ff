//! Expiry of one shard: a lazy timing wheel and the list of half-open connections.
//!
//! A packet only stores a new deadline in its entry. When the slot of the old deadline fires,
//! the entry is looked at: due, it expires; otherwise it is linked anew. Only a deadline that
//! moves closer than the slot is re-linked at once. SYN_RECV entries all have the same timeout,
//! so a plain list in order of arrival is their timer, and its head is the oldest: the one to
//! give up when the table is full.
//!
//! Links are indices in the entries themselves; list heads lie in the region.

use super::entry::{Entry, NIL, flag};
use crate::time::Ticks;

/// Ticks per slot of the first level: 250 ms.
pub const SLOT_TICKS: u32 = 32;
const L0: u32 = 256;
const L1: u32 = 256;
const L2: u32 = 64;
/// First-level blocks of `L0` slots in which the ticks wrap.
const BLOCKS: u32 = (1 << 27) / L0;
/// Farthest slot that is linked; what is due later is looked at then and linked anew.
const REACH: u32 = L0 * L1 * (L2 - 2);
/// Empty slots that cost as much of the budget as one entry.
const SLOTS_PER_STEP: u32 = 16;
const HALF_OPEN: u32 = L0 + L1 + L2;

/// Number of list heads of a shard.
pub const HEADS: usize = (HALF_OPEN + 1) as usize;

/// In [`Entry::prev`]: the rest of the word is the number of a list head.
pub const HEAD: u32 = 0x8000_0000;

/// State of a shard's timers outside the region; rebuilt when the region is scanned.
#[derive(Debug)]
pub struct Wheel {
    heads: &'static mut [u32],
    /// Next first-level slot to fire, as the tick it begins at.
    position: Ticks,
    half_open_tail: u32,
}

impl Wheel {
    /// An empty wheel that starts at `now`. `heads` has [`HEADS`] words.
    pub fn new(heads: &'static mut [u32], now: Ticks) -> Wheel {
        heads.fill(NIL);
        Wheel {
            heads,
            position: Ticks(now.0 / SLOT_TICKS * SLOT_TICKS),
            half_open_tail: NIL,
        }
    }

    /// Ticks from the slot that fires next to the deadline of an entry, negative if that is past.
    pub fn left(&self, entry: &Entry) -> i32 {
        Ticks(entry.deadline).since(self.position)
    }

    /// Links an entry by its deadline.
    pub fn link(&mut self, entries: &mut [Entry], index: u32) {
        let Some(entry) = entries.get(index as usize) else {
            return;
        };
        let deadline = Ticks(entry.deadline);
        self.link_at(entries, index, deadline);
    }

    /// Links an entry so that it is looked at behind a time.
    pub fn link_at(&mut self, entries: &mut [Entry], index: u32, time: Ticks) {
        let Some(entry) = entries.get_mut(index as usize) else {
            return;
        };
        entry.flags &= !flag::HALF_OPEN;
        let ahead = time.since(self.position).max(0) as u32 / SLOT_TICKS;
        let ahead = ahead.min(REACH);
        let slot_at = self.position.plus(ahead * SLOT_TICKS);
        entry.armed = slot_at.0;
        let number = slot_at.0 / SLOT_TICKS;
        // By blocks, not by distance: a list must never be that of the block that is firing.
        let block = number / L0;
        let blocks_ahead = block.wrapping_sub(self.position.0 / SLOT_TICKS / L0) % BLOCKS;
        // The slot that lies a whole round ahead of one that fires shares its list: an entry that
        // is linked anew from there would come up again and again.
        let head = if ahead < L0 - 1 {
            number % L0
        } else if blocks_ahead < L1 {
            L0 + block % L1
        } else {
            L0 + L1 + number / (L0 * L1) % L2
        };
        self.push_front(entries, index, head);
    }

    /// Appends an entry to the half-open list.
    pub fn link_half_open(&mut self, entries: &mut [Entry], index: u32) {
        let tail = self.half_open_tail;
        if tail == NIL {
            self.push_front(entries, index, HALF_OPEN);
        } else {
            if let Some(last) = entries.get_mut(tail as usize) {
                last.next = index;
            }
            if let Some(entry) = entries.get_mut(index as usize) {
                entry.prev = tail;
                entry.next = NIL;
            }
        }
        self.half_open_tail = index;
        if let Some(entry) = entries.get_mut(index as usize) {
            entry.flags |= flag::HALF_OPEN;
            entry.armed = entry.deadline;
        }
    }

    fn push_front(&mut self, entries: &mut [Entry], index: u32, head: u32) {
        let Some(slot) = self.heads.get_mut(head as usize) else {
            return;
        };
        let first = core::mem::replace(slot, index);
        if let Some(entry) = entries.get_mut(index as usize) {
            entry.next = first;
            entry.prev = HEAD | head;
        }
        if let Some(second) = entries.get_mut(first as usize) {
            second.prev = index;
        }
    }

    /// Takes an entry out of whatever list it is in.
    pub fn unlink(&mut self, entries: &mut [Entry], index: u32) {
        let Some(entry) = entries.get_mut(index as usize) else {
            return;
        };
        let (next, prev) = (entry.next, entry.prev);
        if prev == NIL {
            return;
        }
        entry.next = NIL;
        entry.prev = NIL;
        let was_half_open = entry.flags & flag::HALF_OPEN != 0;
        entry.flags &= !flag::HALF_OPEN;
        if let Some(after) = entries.get_mut(next as usize) {
            after.prev = prev;
        }
        if prev & HEAD != 0 {
            if let Some(head) = self.heads.get_mut((prev & !HEAD) as usize) {
                *head = next;
            }
        } else if let Some(before) = entries.get_mut(prev as usize) {
            before.next = next;
        }
        if was_half_open && next == NIL {
            self.half_open_tail = if prev & HEAD != 0 { NIL } else { prev };
        }
    }

    /// The oldest half-open entry.
    pub fn oldest_half_open(&self) -> Option<u32> {
        self.heads
            .get(HALF_OPEN as usize)
            .copied()
            .filter(|&i| i != NIL)
    }

    /// The entry that is looked at next, as far as that is known without looking.
    pub fn first(&self) -> Option<u32> {
        let slot = self.position.0 / SLOT_TICKS % L0;
        let head = self.heads.get(slot as usize).copied().filter(|&i| i != NIL);
        self.oldest_half_open().or(head)
    }

    /// Next entry that is due at `now`, unlinked; `None` when there is none or the budget (list
    /// steps) is used up.
    pub fn next_due(&mut self, entries: &mut [Entry], now: Ticks, budget: &mut u32) -> Option<u32> {
        while *budget > 0 {
            let Some(index) = self.oldest_half_open() else {
                break;
            };
            let entry = entries.get(index as usize)?;
            if !now.reached(Ticks(entry.armed)) {
                break;
            }
            *budget -= 1;
            let due = now.reached(Ticks(entry.deadline));
            self.unlink(entries, index);
            if due {
                return Some(index);
            }
            self.link_half_open(entries, index);
        }
        while *budget > 0 && now.since(self.position) >= SLOT_TICKS as i32 {
            let number = self.position.0 / SLOT_TICKS;
            let mut lists = [number % L0; 3];
            let mut count = 1;
            if number.is_multiple_of(L0) {
                lists[1] = L0 + number / L0 % L1;
                count = 2;
            }
            if number.is_multiple_of(L0 * L1) {
                lists[2] = L0 + L1 + number / (L0 * L1) % L2;
                count = 3;
            }
            // Coarse lists first: what they hold may belong into the slot that fires now.
            for &head in lists[..count].iter().rev() {
                let mut first = self.heads.get(head as usize).copied()?;
                while first != NIL {
                    if *budget == 0 {
                        return None;
                    }
                    *budget -= 1;
                    self.unlink(entries, first);
                    let due = entries
                        .get(first as usize)
                        .is_some_and(|e| now.reached(Ticks(e.deadline)));
                    if due {
                        return Some(first);
                    }
                    self.relink_after(entries, first);
                    first = self.heads.get(head as usize).copied()?;
                }
            }
            self.position = self.position.plus(SLOT_TICKS);
            // After a long pause of the whole machine there are very many empty slots.
            if number.is_multiple_of(SLOTS_PER_STEP) {
                // The entries of the slot may have used it up.
                *budget = budget.saturating_sub(1);
            }
        }
        None
    }

    /// Forgets all lists, for a rebuild.
    pub fn clear(&mut self) {
        self.heads.fill(NIL);
        self.half_open_tail = NIL;
    }

    /// Links an entry that is not due while its slot fires: never into that slot again.
    fn relink_after(&mut self, entries: &mut [Entry], index: u32) {
        let here = self.position;
        self.position = here.plus(SLOT_TICKS);
        self.link(entries, index);
        self.position = here;
    }
}
