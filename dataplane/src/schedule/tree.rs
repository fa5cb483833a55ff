//! A segment tree over a service's list of destinations: what a scheduler asks of all of them is
//! answered in the logarithm of their number, with the list's order deciding ties as a scan would.

/// What a node tells of the destinations below it.
pub(super) trait Node: Copy + PartialEq {
    /// No destination.
    const EMPTY: Self;
    /// Two neighbouring stretches of the list together; `first` comes first.
    fn join(first: Self, second: Self) -> Self;
}

/// The largest weight.
impl Node for u32 {
    const EMPTY: u32 = 0;
    #[inline]
    fn join(first: u32, second: u32) -> u32 {
        first.max(second)
    }
}

/// The sum of the weights.
impl Node for u64 {
    const EMPTY: u64 = 0;
    #[inline]
    fn join(first: u64, second: u64) -> u64 {
        first.saturating_add(second)
    }
}

/// The tree. Its size is fixed when it is made.
pub(super) struct Tree<T> {
    /// Node `i` joins nodes `2i` and `2i + 1`; 1 is the root, leaves begin at `width`.
    nodes: Box<[T]>,
    /// A power of two.
    width: usize,
}

impl<T: Node> Tree<T> {
    /// An empty tree for so many destinations. Allocates.
    pub fn new(leaves: usize) -> Tree<T> {
        let width = leaves.next_power_of_two();
        Tree {
            nodes: vec![T::EMPTY; 2 * width].into_boxed_slice(),
            width,
        }
    }

    fn node(&self, i: usize) -> T {
        self.nodes.get(i).copied().unwrap_or(T::EMPTY)
    }

    fn joined(&self, i: usize) -> T {
        T::join(self.node(2 * i), self.node(2 * i + 1))
    }

    /// Sets all leaves, from the head of the list on.
    pub fn fill(&mut self, leaves: impl Iterator<Item = T>) {
        let mut leaves = leaves.fuse();
        for place in self.nodes.iter_mut().skip(self.width) {
            *place = leaves.next().unwrap_or(T::EMPTY);
        }
        for i in (1..self.width).rev() {
            self.nodes[i] = self.joined(i);
        }
    }

    /// A leaf.
    pub fn leaf(&self, at: usize) -> T {
        self.node(self.width + at)
    }

    /// Sets one leaf.
    pub fn set(&mut self, at: usize, leaf: T) {
        let mut i = self.width + at;
        let mut value = leaf;
        while i > 0 {
            match self.nodes.get_mut(i) {
                // What is above does not change either.
                Some(node) if *node == value => return,
                Some(node) => *node = value,
                None => return,
            }
            i /= 2;
            value = self.joined(i);
        }
    }

    /// All destinations together.
    #[inline]
    pub fn root(&self) -> T {
        self.node(1)
    }

    /// The first leaf at or behind `from` that `fits`. A node must fit if and only if a leaf
    /// below it does.
    pub fn first(&self, from: usize, fits: impl Fn(T) -> bool) -> Option<usize> {
        if from >= self.width {
            return None;
        }
        let mut i = self.width + from;
        while !fits(self.node(i)) {
            // On to what is right of everything seen; a right child's parent has been seen too.
            while i & 1 == 1 {
                i /= 2;
            }
            if i == 0 {
                return None;
            }
            i += 1;
        }
        Some(self.descend(i, fits))
    }

    /// From the root down to a leaf: to the first half while `is_in` says so of it.
    pub fn find(&self, is_in: impl FnMut(T) -> bool) -> usize {
        self.descend(1, is_in)
    }

    fn descend(&self, mut i: usize, mut is_in: impl FnMut(T) -> bool) -> usize {
        while i < self.width {
            i *= 2;
            if !is_in(self.node(i)) {
                i += 1;
            }
        }
        i - self.width
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every answer is the one of a plain scan, after any changes.
        #[test]
        fn agrees_with_a_scan(
            weights in proptest::collection::vec(0u32..6, 0..40),
            changes in proptest::collection::vec((0usize..40, 0u32..6), 0..60),
            from in 0usize..42,
            least in 1u32..6,
        ) {
            let mut list = weights;
            let mut largest = Tree::new(list.len());
            let mut sums = Tree::new(list.len());
            largest.fill(list.iter().copied());
            sums.fill(list.iter().map(|&w| u64::from(w)));
            for (at, weight) in changes {
                if let Some(place) = list.get_mut(at) {
                    *place = weight;
                    largest.set(at, weight);
                    sums.set(at, u64::from(weight));
                }
            }
            prop_assert_eq!(largest.root(), list.iter().copied().max().unwrap_or(0));
            prop_assert_eq!(
                largest.first(from, |w| w >= least),
                (from..list.len()).find(|&i| list[i] >= least)
            );
            let total: u32 = list.iter().sum();
            prop_assert_eq!(sums.root(), u64::from(total));
            for r in 1..=total {
                let mut left = u64::from(r);
                let found = sums.find(|below| {
                    let is_in = left <= below;
                    left -= if is_in { 0 } else { below };
                    is_in
                });
                let mut seen = 0;
                let scan = list.iter().position(|w| {
                    seen += w;
                    seen >= r
                });
                prop_assert_eq!(Some(found), scan);
            }
        }
    }
}
