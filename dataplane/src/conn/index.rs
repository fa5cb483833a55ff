//! The hash index of one shard: buckets of one cache line, ten slots each.

use wide::{CmpEq, i16x8};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::entry::NIL;
use super::hash::KeyHash;
use super::prefetch::Line;

/// Slots of a bucket.
pub const SLOTS: usize = 10;

/// In a slot: the entry is found here by its reply tuple.
pub const REPLY: u32 = 0x8000_0000;

/// One cache line of the index: ten 15-bit tags (0 = empty), ten entry numbers with the
/// direction in the top bit, and how many slots found this bucket full and went on to the next.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Bucket {
    tags: [u16; SLOTS],
    overflow: u16,
    reserved: u16,
    slots: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// A slot with this tag.
    #[inline(always)]
    fn first(&self, tag: u16) -> Option<u32> {
        let at = match self.matches_of_eight(tag) {
            0 if self.tags[8] == tag => 8,
            0 if self.tags[9] == tag => 9,
            0 => return None,
            found => found.trailing_zeros() as usize % 8,
        };
        Some(self.slots[at])
    }

    /// Bit i set where slot i has this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        self.matches_of_eight(tag)
            | u32::from(self.tags[8] == tag) << 8
            | u32::from(self.tags[9] == tag) << 9
    }

    /// The same of the first eight slots, which are compared at once.
    #[inline(always)]
    fn matches_of_eight(&self, tag: u16) -> u32 {
        let [a, b, c, d, e, f, g, h, ..] = self.tags.map(u16::cast_signed);
        let tags = i16x8::new([a, b, c, d, e, f, g, h]);
        let wanted = i16x8::splat(tag.cast_signed());
        tags.cmp_eq(wanted).move_mask().cast_unsigned()
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

    /// First slot with this hash's tag that `accept` takes.
    #[inline]
    pub fn find(&self, hash: KeyHash, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut mask = bucket.matches(hash.tag());
            while mask != 0 {
                let slot = *bucket.slots.get(mask.trailing_zeros() as usize)?;
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
                bucket.tags[free] = hash.tag();
                bucket.slots[free] = slot;
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
                if bucket.slots.get(i) == Some(&slot) {
                    bucket.tags[i] = 0;
                    bucket.slots[i] = NIL;
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
                b.tags
                    .iter()
                    .zip(&b.slots)
                    .filter(|(t, _)| **t != 0)
                    .map(|(_, s)| *s)
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
        fn slots_are_found_by_their_tags(tags in proptest::array::uniform10(0u16..6), tag in 0u16..6) {
            let spread = |n: u16| n.checked_sub(1).map_or(0, |n| n << 13 | 1);
            let mut bucket = Bucket::new_zeroed();
            bucket.tags = tags.map(spread);
            bucket.slots = core::array::from_fn(|i| 100 + i as u32);
            let wanted = spread(tag);
            let found = (0..SLOTS).filter(|&i| bucket.tags[i] == wanted);
            let mask = found.clone().fold(0, |mask, i| mask | 1 << i);
            proptest::prop_assert_eq!(bucket.matches(wanted), mask);
            let first = found.map(|i| bucket.slots[i]).next();
            proptest::prop_assert_eq!(bucket.first(wanted), first);
        }
    }
}
