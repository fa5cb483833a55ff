//! Destination addresses and what lblc and lblcr remember of them, with the kernel's sizes and
//! its garbage collection (`ip_vs_lblc.c`, `ip_vs_lblcr.c`).
//!
//! Memory is set aside for the hard limit when the cache is made; nothing is allocated later.

use core::time::Duration;

use super::hash::hash_32;
use crate::addr::Addr;
use crate::time::Instant;

/// From so many entries on the collector shortens the cache before entries expire.
const SOFT_LIMIT: usize = 16_384;
/// At so many no more are added.
pub(super) const HARD_LIMIT: usize = 24_576;
/// Logarithm of the kernel's number of buckets, which the collector goes by.
const BITS: u32 = 10;
const BUCKETS: usize = 1 << BITS;
/// Each of them is so many of ours, which makes for short chains.
const PARTS: usize = 32;
/// Time between two runs of the collector.
const INTERVAL: Duration = Duration::from_secs(60);
/// Each so many runs all entries are looked at.
const FULL_EVERY: u32 = 30;
/// The other runs drop entries that were not used for this long.
const IDLE: Duration = Duration::from_secs(6 * 60);
/// Buckets looked at in one go: packets wait meanwhile.
const STEP: usize = 32;

/// One address.
struct Entry<T> {
    addr: Addr,
    used: Instant,
    /// Next in the chain or among the free ones, counted from 1; 0 is the end.
    next: u32,
    value: T,
}

/// A run of the collector that is under way.
#[derive(Clone, Copy)]
struct Sweep {
    /// Entries used before this go.
    before: Instant,
    /// Buckets still to be looked at.
    left: usize,
    /// Entries to be dropped at most, `None` for all that qualify.
    goal: Option<usize>,
}

/// The cache.
pub(super) struct Cache<T> {
    /// First entry of each chain, counted from 1; 0 is none. Zeros cost no memory until used.
    heads: Box<[u32]>,
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// The bucket looked at last.
    rover: usize,
    /// Runs since the last full one, this one included.
    run: u32,
    due: Option<Instant>,
    sweep: Option<Sweep>,
}

/// Our bucket of an address: the leading bits are the kernel's.
fn chain_of(addr: &Addr) -> usize {
    hash_32(addr.fold(), BITS + PARTS.ilog2()) as usize
}

impl<T: Copy> Cache<T> {
    /// An empty cache. Allocates.
    pub fn new() -> Cache<T> {
        Cache {
            heads: vec![0; BUCKETS * PARTS].into_boxed_slice(),
            entries: Vec::with_capacity(HARD_LIMIT),
            free: 0,
            len: 0,
            rover: 0,
            run: 1,
            due: None,
            sweep: None,
        }
    }

    /// Entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    fn at(&self, link: u32) -> Option<&Entry<T>> {
        self.entries.get((link as usize).checked_sub(1)?)
    }

    fn at_mut(&mut self, link: u32) -> Option<&mut Entry<T>> {
        self.entries.get_mut((link as usize).checked_sub(1)?)
    }

    /// What is remembered of an address, which counts as its use. `dropped` gets what a run of
    /// the collector that is under way drops on the way.
    pub fn find(
        &mut self,
        now: Instant,
        addr: &Addr,
        mut dropped: impl FnMut(T),
    ) -> Option<&mut T> {
        let chain = chain_of(addr);
        if let Some(Sweep {
            before, goal: None, ..
        }) = self.sweep
        {
            // The kernel's run takes no time: what it drops must not be found any more.
            self.drop_idle(chain, before, &mut dropped);
        }
        let mut link = self.heads.get(chain).copied()?;
        while self.at(link)?.addr != *addr {
            link = self.at(link)?.next;
        }
        let entry = self.at_mut(link)?;
        entry.used = now;
        Some(&mut entry.value)
    }

    /// Whether another address fits in.
    pub fn has_room(&self) -> bool {
        self.len < HARD_LIMIT
    }

    /// Remembers an address that is not in the cache, if there is room.
    pub fn insert(&mut self, now: Instant, addr: Addr, value: T) {
        let Some(head) = self.heads.get_mut(chain_of(&addr)) else {
            return;
        };
        if self.len >= HARD_LIMIT {
            return;
        }
        let entry = Entry {
            addr,
            used: now,
            next: *head,
            value,
        };
        let reused = (self.free as usize).checked_sub(1);
        if let Some(place) = reused.and_then(|i| self.entries.get_mut(i)) {
            *head = self.free;
            self.free = place.next;
            *place = entry;
        } else {
            // Within the capacity: there are fewer entries than that.
            self.entries.push(entry);
            *head = self.entries.len() as u32;
        }
        self.len += 1;
    }

    /// Drops a chain's entries that were last used before a time; how many.
    fn drop_idle(&mut self, chain: usize, before: Instant, dropped: &mut impl FnMut(T)) -> usize {
        let mut count = 0;
        let mut previous = 0;
        let mut link = self.heads.get(chain).copied().unwrap_or(0);
        while let Some(entry) = self.at(link) {
            let (next, value, keeps) = (entry.next, entry.value, entry.used > before);
            if keeps {
                previous = link;
                link = next;
                continue;
            }
            match self.at_mut(previous) {
                Some(entry) => entry.next = next,
                None => self.heads[chain] = next,
            }
            let free = self.free;
            if let Some(entry) = self.at_mut(link) {
                entry.next = free;
            }
            self.free = link;
            self.len -= 1;
            count += 1;
            dropped(value);
            link = next;
        }
        count
    }

    /// The collector: to be called now and then. Entries expire `expiration` seconds after their
    /// last use, to within the half hour that lies between two full runs.
    pub fn collect(&mut self, now: Instant, expiration: u32, mut dropped: impl FnMut(T)) {
        let due = *self.due.get_or_insert(now + INTERVAL);
        if self.sweep.is_none() && now >= due {
            self.due = Some(due + INTERVAL);
            self.begin(due, expiration);
        }
        let Some(mut sweep) = self.sweep else { return };
        for _ in 0..STEP {
            self.rover = (self.rover + 1) % BUCKETS;
            sweep.left -= 1;
            for chain in self.rover * PARTS..(self.rover + 1) * PARTS {
                let count = self.drop_idle(chain, sweep.before, &mut dropped);
                sweep.goal = sweep.goal.map(|goal| goal.saturating_sub(count));
            }
            if sweep.left == 0 || sweep.goal == Some(0) {
                self.sweep = None;
                return;
            }
        }
        self.sweep = Some(sweep);
    }

    /// Decides what a run at this time has to do.
    fn begin(&mut self, now: Instant, expiration: u32) {
        let ago = |age: Duration| now.0.checked_sub(age.as_nanos() as u64).map(Instant);
        let is_full = self.run.is_multiple_of(FULL_EVERY);
        let (age, goal) = if is_full {
            self.run = 1;
            (Duration::from_secs(u64::from(expiration)), None)
        } else if self.len <= SOFT_LIMIT {
            self.run += 1;
            return;
        } else {
            let goal = (self.len - SOFT_LIMIT) * 4 / 3;
            (IDLE, Some(goal.min(SOFT_LIMIT / 2)))
        };
        // Nothing can be older than the clock.
        self.sweep = ago(age).map(|before| Sweep {
            before,
            left: BUCKETS,
            goal,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 86_400;

    fn addr(n: usize) -> Addr {
        Addr::v4((0x0a00_0000 + n as u32).to_be_bytes())
    }

    /// Lets the collector work as a worker does, twice a second.
    fn pass(cache: &mut Cache<u32>, now: &mut Instant, seconds: u64, expiration: u32) {
        for _ in 0..2 * seconds {
            *now = *now + Duration::from_millis(500);
            cache.collect(*now, expiration, |_| ());
        }
    }

    fn filled(n: usize, now: Instant) -> Cache<u32> {
        let mut cache = Cache::new();
        for i in 0..n {
            cache.insert(now, addr(i), i as u32);
        }
        cache
    }

    fn finds(cache: &mut Cache<u32>, now: Instant, n: usize) -> Option<u32> {
        cache.find(now, &addr(n), |_| ()).copied()
    }

    #[test]
    fn what_is_put_in_is_found() {
        let now = Instant::from_secs(1000);
        let mut cache = filled(5000, now);
        for n in 0..5000 {
            assert_eq!(finds(&mut cache, now, n), Some(n as u32));
        }
        assert_eq!(finds(&mut cache, now, 5000), None);
    }

    #[test]
    fn there_is_a_hard_limit_and_no_growth() {
        let now = Instant::from_secs(1000);
        let mut cache = filled(HARD_LIMIT + 10, now);
        assert_eq!((cache.len(), cache.has_room()), (HARD_LIMIT, false));
        assert_eq!(finds(&mut cache, now, HARD_LIMIT), None);
        assert_eq!(cache.entries.capacity(), HARD_LIMIT);
    }

    #[test]
    fn entries_expire_at_a_full_run() {
        let mut now = Instant::from_secs(1000);
        let mut cache = filled(1000, now);
        cache.collect(now, 100, |_| ());
        // The 30th run is a full one.
        pass(&mut cache, &mut now, 29 * 60 + 30, 100);
        assert_eq!(cache.len(), 1000);
        assert!(finds(&mut cache, now, 7).is_some());
        pass(&mut cache, &mut now, 60, 100);
        assert_eq!(cache.len(), 1, "only the one that was used is left");
        // Freed entries are used again.
        for i in 0..2000 {
            if finds(&mut cache, now, i).is_none() {
                cache.insert(now, addr(i), i as u32);
            }
        }
        assert_eq!((cache.len(), cache.entries.len()), (2000, 2000));
    }

    #[test]
    fn an_entry_is_gone_as_soon_as_the_run_begins() {
        let mut now = Instant::from_secs(1000);
        let mut cache = filled(1000, now);
        cache.collect(now, 100, |_| ());
        pass(&mut cache, &mut now, 30 * 60 - 1, 100);
        for _ in 0..2 {
            now = now + Duration::from_millis(500);
            cache.collect(now, 100, |_| ());
        }
        assert!(cache.sweep.is_some(), "still under way");
        let mut dropped = 0;
        let found = (0..1000).filter(|&n| cache.find(now, &addr(n), |_| dropped += 1).is_some());
        assert_eq!(found.count(), 0);
        assert!(dropped > 0);
    }

    #[test]
    fn the_day_is_kept_to_within_half_an_hour() {
        let mut now = Instant::from_secs(1000);
        let mut cache = filled(10, now);
        pass(&mut cache, &mut now, u64::from(DAY) - 1, DAY);
        assert_eq!(cache.len(), 10);
        pass(&mut cache, &mut now, 31 * 60, DAY);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn above_the_soft_limit_idle_entries_go_first() {
        let mut now = Instant::from_secs(10_000);
        let mut cache = filled(SOFT_LIMIT + 600, now);
        pass(&mut cache, &mut now, 5 * 60, DAY);
        assert_eq!(
            cache.len(),
            SOFT_LIMIT + 600,
            "all were used within six minutes"
        );
        for n in 0..1000 {
            finds(&mut cache, now, n);
        }
        pass(&mut cache, &mut now, 2 * 60 + 10, DAY);
        // 600 * 4 / 3, and what else was in the last bucket looked at.
        let gone = SOFT_LIMIT + 600 - cache.len();
        assert!((800..850).contains(&gone), "{gone} gone");
        for n in 0..1000 {
            assert_eq!(finds(&mut cache, now, n), Some(n as u32), "it was in use");
        }
    }
}
