//! Where in a service's list a destination stands.

use crate::service::{DestId, VirtualService};

/// Positions by id. Made on the control side, so that a worker need not search the list.
pub(super) struct Positions(Box<[(DestId, u32)]>);

impl Positions {
    /// Of this service's destinations. Allocates.
    pub fn new(service: &VirtualService) -> Positions {
        let mut sorted: Box<[_]> = (0..)
            .zip(&service.destinations)
            .map(|(at, d)| (d.id, at))
            .collect();
        sorted.sort_unstable();
        Positions(sorted)
    }

    /// Index into the list, `None` if the destination is not in it.
    pub fn of(&self, id: DestId) -> Option<usize> {
        let found = self.0.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        self.0.get(found).map(|&(_, at)| at as usize)
    }
}
