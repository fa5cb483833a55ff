//! What the other workers' connections are: schedulers and thresholds go by the sum of all.
//!
//! Each worker has a board, on which it writes by how much the counts of a destination have changed
//! since it last wrote of it; the others read it and add that up. Nothing is lost: a full board
//! waits for its slowest reader, and changes of one destination join meanwhile. No line of memory
//! has two writers, and nobody waits for anybody.
//!
//! A worker writes and reads before it schedules, but at most every [`PAUSE`], and in any case with
//! the timers of its connections, every 125 us. So what it knows of the others is at most [`AGE`]
//! old, unless they sleep, or more than [`SHARE`] destinations change in a pause.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use crate::service::DestId;
use crate::time::Instant;

/// Least time between two exchanges of a worker. Each costs a cache miss for every other worker.
pub const PAUSE: Duration = Duration::from_micros(50);

/// How old the others' counts are at most: both wait for their turn, and for a burst to end.
pub const AGE: Duration = Duration::from_micros(500);

/// Most changes written, and most read, in one exchange: packets wait meanwhile.
pub const SHARE: u32 = 128;

/// Changes that a board has room for.
const SLOTS: usize = 4096;

/// End of the queue.
const END: u32 = u32::MAX;
/// Not in the queue.
const IDLE: u32 = u32::MAX - 1;

/// Connections of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In an active state.
    pub active: u32,
    /// All.
    pub total: u32,
}

impl Counts {
    fn plus(self, change: Change) -> Counts {
        Counts {
            active: self.active.wrapping_add_signed(change.active.into()),
            total: self.total.wrapping_add_signed(change.total.into()),
        }
    }

    /// What leads from `before` to this, or as much of it as a slot holds.
    fn since(self, before: Counts) -> Change {
        let step = |now: u32, before: u32| {
            let all = now.wrapping_sub(before) as i32;
            all.clamp(i16::MIN.into(), i16::MAX.into()) as i16
        };
        Change {
            active: step(self.active, before.active),
            total: step(self.total, before.total),
        }
    }
}

/// By how much counts have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    active: i16,
    total: i16,
}

impl Change {
    /// As a slot has it: the destination, active ones, all.
    fn pack(self, id: DestId) -> u64 {
        u64::from(id.0) << 32 | u64::from(self.active as u16) << 16 | u64::from(self.total as u16)
    }

    fn unpack(word: u64) -> (DestId, Change) {
        let change = Change {
            active: (word >> 16) as u16 as i16,
            total: word as u16 as i16,
        };
        (DestId((word >> 32) as u32), change)
    }
}

/// On lines of its own, and on those that are fetched with them.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Apart<T>(T);

/// What one worker tells the others.
#[derive(Debug)]
struct Board {
    slots: Box<[AtomicU64]>,
    /// Changes ever written, modulo 2^32. By its owner.
    written: Apart<AtomicU32>,
    /// Changes that each worker has read. By that one.
    read: Box<[Apart<AtomicU32>]>,
}

impl Board {
    fn new(workers: usize) -> Board {
        Board {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            written: Apart::default(),
            read: (0..workers).map(|_| Apart::default()).collect(),
        }
    }

    fn slot(&self, at: u32) -> Option<&AtomicU64> {
        self.slots.get(at as usize % SLOTS)
    }

    /// Slots that everybody but the owner has read.
    fn free(&self, owner: usize, written: u32) -> u32 {
        let others = self.read.iter().enumerate().filter(|(n, _)| *n != owner);
        // Acquire: they have read what is written over from here on.
        let unread = others.map(|(_, r)| written.wrapping_sub(r.0.load(Ordering::Acquire)));
        SLOTS as u32 - unread.max().unwrap_or(0).min(SLOTS as u32)
    }
}

/// One worker's seat among the others. Cells, as the packet path holds other parts of the worker
/// meanwhile.
#[derive(Debug)]
pub struct Team {
    me: usize,
    boards: Arc<[Board]>,
    /// Sum of the others' counts, by [`DestId`].
    others: Box<[Cell<Counts>]>,
    /// Own counts as the others know them.
    told: Box<[Cell<Counts>]>,
    /// Behind each destination that waits to be told of, the next one.
    next: Box<[Cell<u32>]>,
    first: Cell<u32>,
    last: Cell<u32>,
    /// Whose board is read first next time.
    turn: Cell<usize>,
    due: Cell<Instant>,
}

impl Team {
    /// Seats for so many workers, for destinations with ids below `dests`. Allocates.
    pub fn gather(workers: usize, dests: usize) -> Vec<Team> {
        let boards: Arc<[Board]> = (0..workers).map(|_| Board::new(workers)).collect();
        let none = Cell::new(Counts::default());
        let seat = |me| Team {
            me,
            boards: Arc::clone(&boards),
            others: vec![none.clone(); dests].into_boxed_slice(),
            told: vec![none.clone(); dests].into_boxed_slice(),
            next: vec![Cell::new(IDLE); dests].into_boxed_slice(),
            first: Cell::new(END),
            last: Cell::new(END),
            turn: Cell::new(0),
            due: Cell::new(Instant(0)),
        };
        (0..workers).map(seat).collect()
    }

    /// Connections that the other workers have to a destination.
    #[inline]
    pub fn others(&self, id: DestId) -> Counts {
        self.others
            .get(id.0 as usize)
            .map_or(Counts::default(), Cell::get)
    }

    /// Notes that own counts of a destination have changed.
    pub fn note(&self, id: DestId) {
        let Some(next) = self.next.get(id.0 as usize).filter(|n| n.get() == IDLE) else {
            return;
        };
        next.set(END);
        match self.next.get(self.last.get() as usize) {
            Some(before) => before.set(id.0),
            None => self.first.set(id.0),
        }
        self.last.set(id.0);
    }

    fn next_noted(&self) -> Option<DestId> {
        let id = self.first.get();
        let after = self.next.get(id as usize)?.replace(IDLE);
        self.first.set(after);
        if after == END {
            self.last.set(END);
        }
        Some(DestId(id))
    }

    /// Tells the others what has changed here and hears what has changed there, if it is time.
    /// `own` are this worker's counts; `heard` is called for each destination of which others told.
    #[inline]
    pub fn exchange(
        &self,
        now: Instant,
        own: impl Fn(DestId) -> Counts,
        heard: impl FnMut(DestId),
    ) {
        if now < self.due.get() {
            return;
        }
        self.due.set(now + PAUSE);
        self.tell(own);
        self.hear(heard);
    }

    fn tell(&self, own: impl Fn(DestId) -> Counts) {
        let Some(board) = self.boards.get(self.me).filter(|_| self.first.get() != END) else {
            return;
        };
        let mut written = board.written.0.load(Ordering::Relaxed);
        for _ in 0..board.free(self.me, written).min(SHARE) {
            let Some(id) = self.next_noted() else { break };
            let Some(told) = self.told.get(id.0 as usize) else {
                continue;
            };
            let now = own(id);
            let change = now.since(told.get());
            told.set(told.get().plus(change));
            if told.get() != now {
                self.note(id);
            }
            if change
                == (Change {
                    active: 0,
                    total: 0,
                })
            {
                continue;
            }
            if let Some(slot) = board.slot(written) {
                slot.store(change.pack(id), Ordering::Relaxed);
                written = written.wrapping_add(1);
            }
        }
        // Release: who sees the number sees the slots.
        board.written.0.store(written, Ordering::Release);
    }

    fn hear(&self, mut heard: impl FnMut(DestId)) {
        let mut left = SHARE;
        let turn = self.turn.get();
        // Everybody comes first once in a while, should there be too much to read.
        self.turn.set((turn + 1) % self.boards.len().max(1));
        let round = self.boards.iter().enumerate().cycle().skip(turn);
        for (owner, board) in round.take(self.boards.len()) {
            let Some(read) = board.read.get(self.me).filter(|_| owner != self.me) else {
                continue;
            };
            let from = read.0.load(Ordering::Relaxed);
            let unread = board.written.0.load(Ordering::Acquire).wrapping_sub(from);
            let some = unread.min(left);
            for at in 0..some {
                let slot = board.slot(from.wrapping_add(at));
                let word = slot.map_or(0, |slot| slot.load(Ordering::Relaxed));
                let (id, change) = Change::unpack(word);
                if let Some(sum) = self.others.get(id.0 as usize) {
                    sum.set(sum.get().plus(change));
                    heard(id);
                }
            }
            if some > 0 {
                // Release: the slots were read before they may be written again.
                read.0.store(from.wrapping_add(some), Ordering::Release);
            }
            left -= some;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Workers' own counts beside their seats.
    struct Bench {
        seats: Vec<Team>,
        own: Vec<Vec<Counts>>,
        now: Instant,
    }

    impl Bench {
        fn new(workers: usize, dests: usize) -> Bench {
            Bench {
                seats: Team::gather(workers, dests),
                own: vec![vec![Counts::default(); dests]; workers],
                now: Instant(0),
            }
        }

        fn set(&mut self, worker: usize, id: usize, active: u32, total: u32) {
            self.own[worker][id] = Counts { active, total };
            self.seats[worker].note(DestId(id as u32));
        }

        fn exchange(&mut self, worker: usize) -> Vec<u32> {
            let own = |id: DestId| self.own[worker][id.0 as usize];
            let mut heard = Vec::new();
            self.seats[worker].exchange(self.now, own, |id| heard.push(id.0));
            heard
        }

        fn round(&mut self) {
            self.now = self.now + PAUSE;
            for worker in 0..self.seats.len() {
                self.exchange(worker);
            }
        }

        /// Whether each knows exactly what the others have.
        fn agrees(&self) -> bool {
            (0..self.seats.len()).all(|me| {
                (0..self.own[0].len()).all(|id| {
                    let others = (0..self.seats.len()).filter(|n| *n != me);
                    let sum = others.fold((0, 0), |(a, t), n| {
                        (a + self.own[n][id].active, t + self.own[n][id].total)
                    });
                    let known = self.seats[me].others(DestId(id as u32));
                    (known.active, known.total) == sum
                })
            })
        }
    }

    #[test]
    fn what_one_has_the_others_know() {
        let mut bench = Bench::new(3, 4);
        bench.set(0, 2, 5, 9);
        bench.set(1, 2, 1, 1);
        bench.round();
        bench.round();
        assert_eq!(
            bench.seats[2].others(DestId(2)),
            Counts {
                active: 6,
                total: 10
            }
        );
        assert_eq!(
            bench.seats[0].others(DestId(2)),
            Counts {
                active: 1,
                total: 1
            }
        );
        bench.set(0, 2, 0, 0);
        bench.round();
        bench.round();
        assert!(bench.agrees());
    }

    #[test]
    fn it_is_told_once_and_not_before_its_time() {
        let mut bench = Bench::new(2, 4);
        for n in 1..=9 {
            bench.set(0, 3, n, n);
        }
        bench.exchange(0);
        assert_eq!(bench.exchange(1), [3], "nine changes in one");
        bench.set(0, 3, 10, 10);
        bench.exchange(0);
        bench.now = bench.now + PAUSE;
        assert_eq!(bench.exchange(1), [], "0 was too early");
        bench.exchange(0);
        bench.now = bench.now + PAUSE;
        assert_eq!(bench.exchange(1), [3]);
        assert!(bench.agrees());
    }

    #[test]
    fn more_than_a_slot_holds_takes_several() {
        let mut bench = Bench::new(2, 1);
        bench.set(0, 0, 3_000_000, 100_000);
        (0..100).for_each(|_| bench.round());
        assert!(bench.agrees());
        bench.set(0, 0, 0, 0);
        (0..100).for_each(|_| bench.round());
        assert!(bench.agrees());
    }

    #[test]
    fn a_full_board_waits_for_who_sleeps() {
        let dests = 3 * SLOTS;
        let mut bench = Bench::new(3, dests);
        for id in 0..dests {
            bench.set(0, id, 1, 2);
        }
        for _ in 0..100 {
            bench.now = bench.now + PAUSE;
            bench.exchange(0);
            bench.exchange(1);
        }
        let known = |bench: &Bench, me: usize| {
            let known =
                (0..dests).filter(|&id| bench.seats[me].others(DestId(id as u32)).total == 2);
            known.count()
        };
        assert_eq!((known(&bench, 1), known(&bench, 2)), (SLOTS, 0));
        (0..100).for_each(|_| bench.round());
        assert!(bench.agrees());
    }

    #[test]
    fn threads_lose_nothing() {
        const ROUNDS: u32 = 200_000;
        let seats = Team::gather(3, 64);
        let threads: Vec<_> = seats
            .into_iter()
            .map(|seat| {
                std::thread::spawn(move || {
                    let mut own = [Counts::default(); 64];
                    let mut now = Instant(0);
                    for n in 0..ROUNDS {
                        let id = n as usize * 7 % 64;
                        own[id].total += 1;
                        own[id].active = n & 15;
                        seat.note(DestId(id as u32));
                        now = now + PAUSE;
                        seat.exchange(now, |id| own[id.0 as usize], |_| ());
                    }
                    // Until the others have told everything, at most so often.
                    for _ in 0..100_000_000u64 {
                        let sum: u32 = (0..64).map(|id| seat.others(DestId(id)).total).sum();
                        if sum == 2 * ROUNDS && seat.first.get() == END {
                            break;
                        }
                        now = now + PAUSE;
                        seat.exchange(now, |id| own[id.0 as usize], |_| ());
                        std::thread::yield_now();
                    }
                    (0..64).map(|id| seat.others(DestId(id)).total).sum::<u32>()
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 2 * ROUNDS);
        }
    }

    proptest! {
        #[test]
        fn all_agree_in_the_end(
            events in proptest::collection::vec((0usize..4, 0usize..8, 0u32..5, 0u32..90_000), 1..200),
        ) {
            let mut bench = Bench::new(4, 8);
            for (worker, id, active, total) in events {
                bench.set(worker, id, active, total);
                if total % 3 == 0 {
                    bench.now = bench.now + PAUSE;
                    bench.exchange(worker);
                }
            }
            (0..20).for_each(|_| bench.round());
            prop_assert!(bench.agrees());
        }
    }
}
