//! rr: round robin (`ip_vs_rr.c`). Weights only tell whether a destination is used at all.

use super::{Loads, Scheduler};
use crate::flow::Flow;
use crate::service::{DestId, VirtualService};

pub(super) const NAME: &str = "rr";

pub(super) fn new() -> Box<dyn Scheduler> {
    Box::new(RoundRobin { next: 0 })
}

/// The cursor: index behind the destination chosen last, 0 at the head of the list.
struct RoundRobin {
    next: usize,
}

impl Scheduler for RoundRobin {
    fn name(&self) -> &'static str {
        NAME
    }

    /// A deleted cursor falls back to its predecessor, so its successor is next; added
    /// destinations stand at the head and are reached when the cursor wraps.
    fn refresh(&mut self, old: Option<&VirtualService>, new: &VirtualService) {
        let passed = old
            .and_then(|o| o.destinations.get(..self.next))
            .unwrap_or(&[]);
        let index = |id: DestId| new.destinations.iter().position(|d| d.id == id);
        self.next = passed
            .iter()
            .rev()
            .find_map(|d| index(d.id))
            .map_or(0, |i| i + 1);
    }

    fn pick(&mut self, service: &VirtualService, loads: Loads<'_>, _: &Flow) -> Option<usize> {
        let dests = &service.destinations;
        let start = self.next.min(dests.len());
        let found = (start..dests.len())
            .chain(0..start)
            .find(|&i| dests.get(i).is_some_and(|d| loads.usable(d)))?;
        self.next = found + 1;
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
