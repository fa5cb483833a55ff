//! Where in a service's list a destination stands.

use crate::service::{Destination, VirtualService};

/// Positions by id or by endpoint. Made on the control side, so that a worker need not search
/// the list.
pub(super) struct Positions<K>(Box<[(K, u32)]>);

impl<K: Ord + Copy> Positions<K> {
    /// Of this service's destinations. Allocates.
    pub fn new(service: &VirtualService, key: impl Fn(&Destination) -> K) -> Positions<K> {
        let mut sorted: Box<[_]> = (0..)
            .zip(&service.destinations)
            .map(|(at, d)| (key(d), at))
            .collect();
        sorted.sort_unstable();
        Positions(sorted)
    }

    /// Index into the list, `None` if the destination is not in it.
    pub fn of(&self, key: &K) -> Option<usize> {
        let found = self.0.binary_search_by_key(key, |&(k, _)| k).ok()?;
        self.0.get(found).map(|&(_, at)| at as usize)
    }
}
