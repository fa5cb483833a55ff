//! The hash index of one shard: buckets of one cache line, twelve slots each.

use wide::{CmpEq, i16x16};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, transmute_ref};

use super::hash::KeyHash;
use super::prefetch::Line;

/// Slots of a bucket.
pub const SLOTS: usize = 12;

/// In a slot: the entry is found here by its reply tuple.
pub const REPLY: u32 = 1 << 23;

/// How many entries a shard may have: their numbers are in a slot beside [`REPLY`].
pub const MOST: u32 = REPLY;

/// One cache line of the index: twelve entry numbers of 24 bits (low byte first) with the direction in the
/// top one, how many slots found this bucket full and went on to the next, and twelve 15-bit tags
/// (0 = empty).
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Bucket {
    slots: [[u8; 3]; SLOTS],
    overflow: u16,
    reserved: u16,
    tags: [u16; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// A slot with this tag.
    #[inline(always)]
    fn first(&self, tag: u16) -> Option<u32> {
        match self.matches(tag) {
            0 => None,
            found => self.slot(found.trailing_zeros() as usize),
        }
    }

    /// Bit i set where slot i has this tag. The second half of the line is compared at once.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        let [_, half]: &[[i16; 16]; 2] = transmute_ref!(self);
        let wanted = i16x16::splat(tag.cast_signed());
        let found = i16x16::new(*half).cmp_eq(wanted).move_mask();
        // What lies before the tags is none.
        found.cast_unsigned() >> (16 - SLOTS)
    }

    /// What slot `at` holds.
    #[inline(always)]
    fn slot(&self, at: usize) -> Option<u32> {
        // Four bytes at once, so that three are no three loads.
        let bytes: &[u8; 64] = transmute_ref!(self);
        let word = bytes.get(at % 16 * 3..)?.first_chunk()?;
        Some(u32::from_le_bytes(*word) & 0xff_ffff)
    }

    fn set(&mut self, at: usize, tag: u16, slot: u32) {
        let [low, middle, high, _] = slot.to_le_bytes();
        self.tags[at] = tag;
        self.slots[at] = [low, middle, high];
    }
}

/// The buckets of one shard.
#[derive(Debug)]
pub struct Index {
    buckets: &'static mut [Bucket],
}

impl Index {
    /// Takes over the buckets, which must be zero or hold a valid index. At least one.
    pub fn new(buckets: &'static mut [Bucket]) -> Index {
        assert!(!buckets.is_empty(), "an index needs at least one bucket");
        Index { buckets }
    }

    /// No bucket: nothing is found, nothing can be added.
    pub fn absent() -> Index {
        Index { buckets: &mut [] }
    }

    /// What the buckets occupy.
    pub fn bytes(&self) -> usize {
        size_of_val::<[Bucket]>(self.buckets)
    }

    /// Number of the bucket in which a hash belongs.
    #[inline(always)]
    pub fn home(&self, hash: KeyHash) -> usize {
        hash.bucket(self.buckets.len() as u32) as usize
    }

    /// A bucket by its number.
    #[inline(always)]
    pub fn at(&self, number: usize) -> Option<&Bucket> {
        self.buckets.get(number)
    }

    /// Where a bucket lies, to be prefetched.
    #[inline(always)]
    pub fn line(&self, number: usize) -> Line {
        Line::of_nth(self.buckets, number)
    }

    /// The home bucket, to be prefetched.
    #[inline(always)]
    pub fn bucket(&self, hash: KeyHash) -> Option<&Bucket> {
        self.at(self.home(hash))
    }

    /// A slot in the home bucket with the hash's tag: what to prefetch.
    #[inline(always)]
    pub fn candidate(&self, home: usize, hash: KeyHash) -> Option<u32> {
        self.at(home)?.first(hash.tag())
    }

    /// The same in the buckets after a full home bucket.
    #[inline(never)]
    pub fn displaced(&self, home: usize, hash: KeyHash) -> Option<u32> {
        let mut at = home;
        for _ in 0..self.buckets.len() {
            if self.at(at)?.overflow == 0 {
                return None;
            }
            at = self.after(at);
            let found = self.at(at)?.first(hash.tag());
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// First slot with this hash's tag that `accept` takes.
    #[inline]
    pub fn find(&self, hash: KeyHash, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut mask = bucket.matches(hash.tag());
            while mask != 0 {
                let slot = bucket.slot(mask.trailing_zeros() as usize)?;
                if accept(slot) {
                    return Some(slot);
                }
                mask &= mask - 1;
            }
            if bucket.overflow == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    #[inline(always)]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() {
            0
        } else {
            at + 1
        }
    }

    /// Adds a slot; false if every bucket is full.
    #[must_use]
    pub fn insert(&mut self, hash: KeyHash, slot: u32) -> bool {
        let mut at = self.home(hash);
        let home = at;
        for _ in 0..self.buckets.len() {
            let Some(bucket) = self.buckets.get_mut(at) else {
                return false;
            };
            let free = bucket.matches(0).trailing_zeros() as usize;
            if free < SLOTS {
                bucket.set(free, hash.tag(), slot);
                return true;
            }
            bucket.overflow += 1;
            at = self.after(at);
        }
        // Nothing was free anywhere: take the overflow marks back.
        let mut at = home;
        for _ in 0..self.buckets.len() {
            self.buckets[at].overflow -= 1;
            at = self.after(at);
        }
        false
    }

    /// Removes a slot; false if it was not there.
    pub fn remove(&mut self, hash: KeyHash, slot: u32) -> bool {
        let home = self.home(hash);
        let mut at = home;
        for distance in 0..self.buckets.len() {
            let after = self.after(at);
            let Some(bucket) = self.buckets.get_mut(at) else {
                return false;
            };
            let mut mask = bucket.matches(hash.tag());
            while mask != 0 {
                let i = mask.trailing_zeros() as usize;
                if bucket.slot(i) == Some(slot) {
                    bucket.set(i, 0, 0);
                    let mut passed = home;
                    for _ in 0..distance {
                        self.buckets[passed].overflow -= 1;
                        passed = self.after(passed);
                    }
                    return true;
                }
                mask &= mask - 1;
            }
            if bucket.overflow == 0 {
                return false;
            }
            at = after;
        }
        false
    }

    /// Empties the index.
    pub fn clear(&mut self) {
        self.buckets.fill(Bucket::new_zeroed());
    }

    /// All slots in use, sorted: for comparing two indexes.
    pub fn contents(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self
            .buckets
            .iter()
            .flat_map(|b| {
                let used = |&at: &usize| b.tags[at] != 0;
                (0..SLOTS).filter(used).filter_map(|at| b.slot(at))
            })
            .collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Tags as they are, odd or 0 for none, from so few that they meet.
        #[test]
        fn slots_are_found_by_their_tags(tags in proptest::array::uniform12(0u16..6), tag in 0u16..6) {
            let spread = |n: u16| n.checked_sub(1).map_or(0, |n| n << 13 | 1);
            let mut bucket = Bucket::new_zeroed();
            // What lies before the tags is none.
            (bucket.overflow, bucket.reserved) = (spread(1), spread(2));
            let slot = |i: usize| (MOST - 1 - 0x1_0203 * i as u32) | [0, REPLY][i % 2];
            for (i, tag) in tags.into_iter().enumerate() {
                bucket.set(i, spread(tag), slot(i));
            }
            let wanted = spread(tag);
            let found = (0..SLOTS).filter(|&i| bucket.tags[i] == wanted);
            let mask = found.clone().fold(0, |mask, i| mask | 1 << i);
            proptest::prop_assert_eq!(bucket.matches(wanted), mask);
            proptest::prop_assert_eq!(bucket.first(wanted), found.map(slot).next());
            proptest::prop_assert!((0..SLOTS).all(|i| bucket.slot(i) == Some(slot(i))));
            proptest::prop_assert_eq!((bucket.overflow, bucket.reserved), (spread(1), spread(2)));
        }
    }

    #[test]
    fn what_found_its_bucket_full_is_in_the_next() {
        let hash = |tag: u64| KeyHash {
            shard: 0,
            bits: u64::MAX << 32 | tag << 1 | 1,
        };
        let mut index = Index::new(vec![Bucket::new_zeroed(); 3].leak());
        let home = index.home(hash(0));
        assert_eq!(home, 2, "the last: what follows is the first");
        for n in 0..SLOTS as u32 {
            assert!(index.insert(hash(n.into()), n));
            assert_eq!(index.candidate(home, hash(n.into())), Some(n));
        }
        assert_eq!(index.displaced(home, hash(0)), None, "nothing is elsewhere");
        // More than two buckets hold.
        for n in SLOTS as u32..30 {
            assert!(index.insert(hash(n.into()), n | REPLY));
            assert_eq!(index.candidate(home, hash(n.into())), None);
            assert_eq!(index.displaced(home, hash(n.into())), Some(n | REPLY));
        }
        assert_eq!(index.displaced(home, hash(99)), None);
        for n in SLOTS as u32..30 {
            assert!(index.remove(hash(n.into()), n | REPLY));
        }
        assert_eq!(index.displaced(home, hash(12)), None);
    }

    /// As full as a table of NAT connections gets ([`crate::conn::region::Layout`]).
    #[test]
    fn few_slots_are_elsewhere() {
        let buckets = 5000;
        let mut index = Index::new(vec![Bucket::new_zeroed(); buckets].leak());
        let all = buckets as u32 * 21 / 5 * 2;
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            random ^ (random >> 29)
        };
        let hashes: Vec<KeyHash> = (0..all)
            .map(|_| KeyHash {
                shard: 0,
                bits: next(),
            })
            .collect();
        for (n, hash) in hashes.iter().enumerate() {
            assert!(index.insert(*hash, n as u32));
        }
        let elsewhere = hashes.iter().enumerate().filter(|(n, hash)| {
            let slot = Some(*n as u32);
            index
                .bucket(**hash)
                .is_none_or(|b| (0..SLOTS).all(|at| b.slot(at) != slot || b.tags[at] == 0))
        });
        let share = elsewhere.count() as f64 / f64::from(all);
        assert!((0.015..0.03).contains(&share), "{share}");
    }
}
