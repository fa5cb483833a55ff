//! rr: round robin (`ip_vs_rr.c`). Weights only tell whether a destination is used at all.

use super::positions::Positions;
use super::usable::Usable;
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
use crate::service::{DestId, VirtualService};

pub(super) const NAME: &str = "rr";

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    Box::new(RoundRobin {
        next: seat.start_of(service.destinations.len()),
        is_fresh: true,
        usable: Usable::new(service),
        positions: Positions::new(service, |d| d.id),
    })
}

struct RoundRobin {
    /// The cursor: index behind the destination chosen last, 0 at the head of the list.
    next: usize,
    /// Nothing was chosen yet: the cursor is where this worker begins.
    is_fresh: bool,
    usable: Usable<u32>,
    positions: Positions<DestId>,
}

impl Scheduler for RoundRobin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watch(&self) -> Watch {
        Watch::Usable
    }

    /// A deleted cursor falls back to its predecessor, so its successor is next; added
    /// destinations stand at the head and are reached when the cursor wraps.
    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    ) {
        let Some(before) = before.and_then(Predecessor::same::<RoundRobin>) else {
            self.usable.fill(service, loads);
            return;
        };
        let (list, old) = (before.service, before.scheduler);
        self.usable
            .succeed(&mut old.usable, before.kept, service, loads);
        if old.is_fresh {
            return;
        }
        self.is_fresh = false;
        let passed = list.destinations.get(..old.next).unwrap_or(&[]);
        self.next = passed
            .iter()
            .rev()
            .find_map(|d| self.positions.of(&d.id))
            .map_or(0, |at| at + 1);
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let weights = self.usable.catch_up(request.service, request.loads);
        let found = weights
            .first(self.next, |w| w > 0)
            .or_else(|| weights.first(0, |w| w > 0))?;
        self.next = found + 1;
        self.is_fresh = false;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn newest_first_and_around() {
        let mut rig = Rig::new("rr", &[(11, 1), (12, 5), (13, 1)]);
        assert_eq!(rig.picks(6), [13, 12, 11, 13, 12, 11]);
    }

    #[test]
    fn a_deleted_cursor_moves_to_its_predecessor() {
        let mut rig = Rig::new("rr", &[(11, 1), (12, 1), (13, 1)]);
        assert_eq!(rig.picks(2), [13, 12]);
        rig.delete(&[12]);
        assert_eq!(rig.picks(4), [11, 13, 11, 13]);
        rig.add(14, 1);
        assert_eq!(rig.picks(6), [11, 14, 13, 11, 14, 13]);
    }

    #[test]
    fn several_deletions_at_once_and_an_empty_list() {
        let mut rig = Rig::new("rr", &[(11, 1), (12, 1), (13, 1), (14, 1)]);
        assert_eq!(rig.picks(3), [14, 13, 12]);
        rig.delete(&[12, 13]);
        assert_eq!(rig.picks(2), [11, 14]);
        rig.delete(&[11, 14]);
        assert_eq!(rig.picks(1), [0]);
        rig.add(15, 1);
        assert_eq!(rig.picks(2), [15, 15]);
    }

    #[test]
    fn unusable_destinations_are_passed_over() {
        let mut rig = Rig::new("rr", &[(11, 1), (12, 0), (13, 1)]);
        assert_eq!(rig.picks(3), [13, 11, 13]);
        rig.overload(13, true);
        assert_eq!(rig.picks(2), [11, 11]);
        rig.edit(12, 1);
        rig.edit(11, 0);
        assert_eq!(rig.picks(2), [12, 12]);
        rig.overload(12, true);
        assert_eq!(rig.picks(1), [0]);
    }
}
