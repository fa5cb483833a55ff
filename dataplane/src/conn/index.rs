//! The hash index of one shard: buckets of one cache line, ten slots each.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::entry::NIL;
use super::hash::KeyHash;

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
    /// A slot with this tag, or [`NIL`].
    #[inline(always)]
    fn first(&self, tag: u16) -> u32 {
        let [low, high, ..] = self.lanes(tag);
        let found = low >> 15 | high >> 14;
        let at = match found.trailing_zeros() as usize {
            64 if self.tags[8] == tag => 8,
            64 if self.tags[9] == tag => 9,
            64 => return NIL,
            bit => (bit >> 4) | (bit & 1) << 2,
        };
        self.slots.get(at).copied().unwrap_or(NIL)
    }

    /// Bit i set where slot i has this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        // Bits 0, 16, 32 and 48 next to each other.
        let gather = |lanes: u64| (lanes >> 15).wrapping_mul(0x0001_0002_0004_0008) >> 48 & 15;
        let [low, high] = self.lanes(tag);
        (gather(low) | gather(high) << 4) as u32
            | u32::from(self.tags[8] == tag) << 8
            | u32::from(self.tags[9] == tag) << 9
    }

    /// The top bits of four 16-bit lanes, set where one of the first four slots has this tag, and
    /// those of the next four.
    #[inline(always)]
    fn lanes(&self, tag: u16) -> [u64; 2] {
        const LOW: u64 = 0x7fff_7fff_7fff_7fff;
        let wanted = (u64::from(tag) * 0x0001_0001_0001_0001).to_le();
        let [a, b, c, d, e, f, g, h, ..] = self.tags;
        let words: [u64; 2] = zerocopy::transmute!([a, b, c, d, e, f, g, h]);
        words.map(|word| {
            // Zero in the lanes that are equal; the addition does not carry into the next lane.
            let differs = (word ^ wanted).to_le();
            !(((differs & LOW) + LOW) | differs | LOW)
        })
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

    /// The home bucket, to be prefetched.
    #[inline(always)]
    pub fn bucket(&self, hash: KeyHash) -> Option<&Bucket> {
        self.at(self.home(hash))
    }

    /// A slot in the home bucket with the hash's tag, or [`NIL`]: what to prefetch.
    #[inline(always)]
    pub fn candidate(&self, home: usize, hash: KeyHash) -> u32 {
        self.at(home).map_or(NIL, |bucket| bucket.first(hash.tag()))
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
