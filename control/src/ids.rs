//! Stable numbers with a capacity fixed at start.

use std::collections::VecDeque;

/// Hands out numbers below a limit. A released number is the last to be used again, so that
/// anything that still carries it has the longest time to go away.
#[derive(Clone, Debug)]
pub struct IdPool {
    next: u32,
    limit: u32,
    free: VecDeque<u32>,
}

impl IdPool {
    /// Numbers `0..limit`.
    pub fn new(limit: u32) -> IdPool {
        IdPool {
            next: 0,
            limit,
            free: VecDeque::new(),
        }
    }

    /// A number nobody holds, or `None` when all are in use.
    pub fn take(&mut self) -> Option<u32> {
        if self.next < self.limit {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.free.pop_front()
    }

    /// Gives a number back.
    pub fn release(&mut self, id: u32) {
        self.free.push_back(id);
    }

    /// Every number that was ever in use is below this.
    pub fn used(&self) -> u32 {
        self.next
    }

    /// How many numbers there are.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_numbers_come_back_last() {
        let mut pool = IdPool::new(3);
        assert_eq!([pool.take(), pool.take()], [Some(0), Some(1)]);
        pool.release(0);
        assert_eq!(
            [pool.take(), pool.take(), pool.take()],
            [Some(2), Some(0), None]
        );
    }
}
