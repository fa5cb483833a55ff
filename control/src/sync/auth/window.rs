//! Which of the last numbers of a sender came (RFC 4303, section 3.4.3, and RFC 6479).

/// Numbers behind the highest one that may still come.
const BEHIND: u64 = 1024;

/// Words of the ring: one more than [`BEHIND`] needs, so that whole words are cleared ahead.
const WORDS: usize = (BEHIND / 64) as usize + 1;

/// The numbers that came, from [`BEHIND`] below the highest on.
#[derive(Clone, Debug)]
pub(super) struct Window {
    highest: u64,
    /// A bit for each number, by the number's remainder.
    seen: [u64; WORDS],
}

impl Window {
    /// With this number as the first that came.
    pub(super) fn beginning(number: u64) -> Window {
        let mut window = Window {
            highest: number,
            seen: [0; WORDS],
        };
        window.mark(number);
        window
    }

    /// Takes a number; false if it came before or is too old to tell.
    pub(super) fn take(&mut self, number: u64) -> bool {
        if number > self.highest {
            let (from, to) = (self.highest / 64, number / 64);
            // Words that come into use have bits of numbers that are too old.
            for word in (from + 1..=to).take(WORDS) {
                self.seen[(word % WORDS as u64) as usize] = 0;
            }
            self.highest = number;
        } else if self.highest - number >= BEHIND {
            return false;
        }
        self.mark(number)
    }

    /// True if it was not marked.
    fn mark(&mut self, number: u64) -> bool {
        let word = &mut self.seen[(number / 64 % WORDS as u64) as usize];
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_number_once_in_any_order_within_the_window() {
        let mut window = Window::beginning(5000);
        assert!(!window.take(5000));
        assert!(window.take(5000 - BEHIND + 1));
        assert!(!window.take(5000 - BEHIND), "too old to tell");
        assert!(window.take(5001));
        assert!(!window.take(5001 - BEHIND));
        assert!(window.take(u64::MAX));
        assert!(window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX) && !window.take(5002));
    }

    proptest! {
        /// As a set of all that came, for what is not too old.
        #[test]
        fn as_a_set_has_it(steps in proptest::collection::vec((any::<bool>(), 0u64..3000), 1..400)) {
            let mut window = Window::beginning(10_000);
            let (mut seen, mut highest) = (HashSet::from([10_000]), 10_000);
            for (is_ahead, by) in steps {
                let number = if is_ahead { highest + by / 10 } else { highest - by };
                let want = highest.saturating_sub(number) < BEHIND && seen.insert(number);
                prop_assert_eq!(window.take(number), want, "{} at {}", number, highest);
                highest = highest.max(number);
            }
        }
    }
}
