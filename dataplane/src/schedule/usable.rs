//! The weights of those destinations that take new connections, kept up to date.

use super::Loads;
use super::tree::{Node, Tree};
use crate::service::{Destination, Kept, VirtualService};

/// Weights by list position, 0 for those passed over. `u32` finds the largest of a stretch,
/// `u64` sums it up.
pub(super) struct Usable<T>(Tree<T>);

fn weight<T: Node + From<u32>>(dest: &Destination, loads: Loads<'_>) -> T {
    T::from(if loads.usable(dest) { dest.weight } else { 0 })
}

impl<T: Node + From<u32>> Usable<T> {
    /// For the destinations of this service. Allocates.
    pub fn new(service: &VirtualService) -> Usable<T> {
        Usable(Tree::new(service.destinations.len()))
    }

    /// Looks at all destinations.
    pub fn fill(&mut self, service: &VirtualService, loads: Loads<'_>) {
        self.0
            .fill(service.destinations.iter().map(|d| weight(d, loads)));
    }

    /// Takes over what is kept of the list before, and looks at the others.
    pub fn succeed(
        &mut self,
        old: &mut Usable<T>,
        kept: Kept,
        service: &VirtualService,
        loads: Loads<'_>,
    ) {
        let list = &service.destinations;
        if kept.is_in_place() {
            core::mem::swap(&mut self.0, &mut old.0);
            let changed = list.iter().enumerate().take(kept.changed().end);
            for (at, dest) in changed.skip(kept.changed().start) {
                self.0.set(at, weight(dest, loads));
            }
            return;
        }
        let leaf = |(at, dest)| match kept.was(at) {
            Some(was) => old.0.leaf(was),
            None => weight(dest, loads),
        };
        self.0.fill(list.iter().enumerate().map(leaf));
    }

    /// Looks at those that changed.
    #[inline]
    pub fn catch_up(&mut self, service: &VirtualService, loads: Loads<'_>) -> &Tree<T> {
        while let Some(at) = loads.next_changed() {
            if let Some(dest) = service.destinations.get(at) {
                self.0.set(at, weight(dest, loads));
            }
        }
        &self.0
    }
}
