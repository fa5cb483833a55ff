//! Which destinations changed since their service's scheduler last looked at their loads.
//!
//! Connections come, open, close and go without asking the scheduler; it catches up when it is
//! next asked for a choice. Each destination is noted once, however often it changed.

use core::cell::Cell;
use core::ops::Range;

use crate::service::{DestId, Kept, ServiceId, VirtualService};
use crate::team::{Counts, Team};

/// What a scheduler wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watch {
    /// Nothing: it looks when it needs to.
    #[default]
    Nothing,
    /// Overload flags.
    Usable,
    /// Overload flags and every change of connection counts.
    Counts,
}

/// End of a queue.
const END: u32 = u32::MAX;
/// Not in any queue.
const IDLE: u32 = u32::MAX - 1;
/// Of no service.
const NO_SERVICE: u32 = u32::MAX;

/// A destination's place: its service, where it stands in the service's list, and the next
/// destination in the queue that it is in.
///
/// Places are counted from the end of the list: new destinations come to its head, and leave those
/// of the others as they are.
#[derive(Clone)]
struct Place {
    service: Cell<u32>,
    from_end: Cell<u32>,
    next: Cell<u32>,
}

/// Destinations of one service that changed.
#[derive(Clone)]
struct Queue {
    first: Cell<u32>,
    watch: Cell<Watch>,
    /// Of the service's list.
    len: Cell<u32>,
}

/// One worker's notes. Cells, as the packet path holds other parts of the worker meanwhile.
pub struct Changes {
    /// By [`DestId`].
    places: Box<[Place]>,
    /// By [`ServiceId`].
    queues: Box<[Queue]>,
    /// Where other workers hear of it, if there are any.
    team: Option<Team>,
}

impl Changes {
    /// For so many services and destinations. Allocates.
    pub fn new(services: usize, dests: usize) -> Changes {
        let place = Place {
            service: Cell::new(NO_SERVICE),
            from_end: Cell::new(0),
            next: Cell::new(IDLE),
        };
        let queue = Queue {
            first: Cell::new(END),
            watch: Cell::new(Watch::Nothing),
            len: Cell::new(0),
        };
        Changes {
            places: vec![place; dests].into_boxed_slice(),
            queues: vec![queue; services].into_boxed_slice(),
            team: None,
        }
    }

    /// Tells other workers too from now on.
    pub fn join(&mut self, team: Team) {
        self.team = Some(team);
    }

    /// Who else is to know, if there is anybody.
    #[inline]
    pub fn team(&self) -> Option<&Team> {
        self.team.as_ref()
    }

    /// Connections that the other workers have to a destination.
    #[inline]
    pub fn others(&self, id: DestId) -> Counts {
        self.team
            .as_ref()
            .map_or(Counts::default(), |team| team.others(id))
    }

    /// Notes from now on what `watch` says of a new service's destinations.
    pub fn begin(&self, service: &VirtualService, watch: Watch) {
        self.watch(service, watch);
        self.place(service, 0..service.destinations.len());
    }

    /// The same after a change of the service. What was noted of destinations that are kept stays
    /// so, of the others it is forgotten.
    pub fn follow(&self, old: &VirtualService, kept: Kept, new: &VirtualService, watch: Watch) {
        self.leave(old, kept.gone());
        self.watch(new, watch);
        // Those before what changed stand elsewhere if the list became longer or shorter.
        let moved = match kept.is_in_place() {
            true => kept.changed(),
            false => 0..kept.changed().end,
        };
        self.place(new, moved);
    }

    /// Forgets a service and its destinations.
    pub fn end(&self, old: &VirtualService) {
        self.watch(old, Watch::Nothing);
        self.leave(old, 0..old.destinations.len());
    }

    /// Takes those that left the service out of its queue: elsewhere they are to be noted anew.
    fn unlink(&self, id: ServiceId) {
        let Some(queue) = self.queues.get(id.0 as usize) else {
            return;
        };
        let mut at = queue.first.replace(END);
        while let Some(place) = self.places.get(at as usize) {
            let next = place.next.replace(IDLE);
            self.tell_scheduler(DestId(at), Watch::Usable);
            at = next;
        }
    }

    fn watch(&self, service: &VirtualService, watch: Watch) {
        if let Some(queue) = self.queues.get(service.id.0 as usize) {
            queue.watch.set(watch);
            queue.len.set(service.destinations.len() as u32);
        }
    }

    fn leave(&self, old: &VirtualService, which: Range<usize>) {
        let mut is_noted = false;
        for dest in old.destinations.get(which).unwrap_or(&[]) {
            if let Some(place) = self.places.get(dest.id.0 as usize)
                && place.service.get() == old.id.0
            {
                place.service.set(NO_SERVICE);
                is_noted |= place.next.get() != IDLE;
            }
        }
        if is_noted {
            self.unlink(old.id);
        }
    }

    fn place(&self, service: &VirtualService, which: Range<usize>) {
        let behind = service.destinations.len().saturating_sub(which.end);
        let listed = service.destinations.get(which).unwrap_or(&[]);
        for (from_end, dest) in (behind as u32..).zip(listed.iter().rev()) {
            if let Some(place) = self.places.get(dest.id.0 as usize) {
                place.service.set(service.id.0);
                place.from_end.set(from_end);
            }
        }
    }

    /// Notes that a destination changed in the way `what`.
    #[inline]
    pub fn note(&self, id: DestId, what: Watch) {
        if let Some(team) = &self.team
            && what == Watch::Counts
        {
            team.note(id);
        }
        self.tell_scheduler(id, what);
    }

    /// As [`Changes::note`], of what another worker has told.
    #[inline]
    pub fn tell_scheduler(&self, id: DestId, what: Watch) {
        let Some(place) = self.places.get(id.0 as usize) else {
            return;
        };
        let Some(queue) = self.queues.get(place.service.get() as usize) else {
            return;
        };
        // A scheduler that wants the counts wants the flags too.
        let is_wanted = queue.watch.get() >= what.max(Watch::Usable);
        if is_wanted && place.next.get() == IDLE {
            place.next.set(queue.first.get());
            queue.first.set(id.0);
        }
    }

    /// Takes one of a service's destinations that changed: its position in the list.
    #[inline]
    pub fn next(&self, service: ServiceId) -> Option<usize> {
        let queue = self.queues.get(service.0 as usize)?;
        loop {
            let id = queue.first.get();
            let place = self.places.get(id as usize)?;
            queue.first.set(place.next.replace(IDLE));
            if place.service.get() == service.0 {
                let at = queue.len.get().checked_sub(place.from_end.get() + 1);
                return at.map(|at| at as usize);
            }
            // It is another service's by now, which has not heard of it.
            self.tell_scheduler(DestId(id), Watch::Usable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::fixture;

    fn service(id: u32, dests: &[u32]) -> VirtualService {
        let mut service =
            fixture::service("lc", &dests.iter().map(|&n| (n, 1)).collect::<Vec<_>>());
        service.id = ServiceId(id);
        service
    }

    fn follow(changes: &Changes, old: &VirtualService, new: &VirtualService, watch: Watch) {
        let kept = new.destinations.kept_of(&old.destinations);
        changes.follow(old, kept, new, watch);
    }

    fn taken(changes: &Changes, service: u32) -> Vec<usize> {
        let mut all: Vec<_> = core::iter::from_fn(|| changes.next(ServiceId(service))).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_is_noted_once_and_at_its_place() {
        let changes = Changes::new(2, 8);
        changes.begin(&service(1, &[3, 4, 5]), Watch::Counts);
        for id in [5, 3, 5, 5, 7] {
            changes.note(DestId(id), Watch::Counts);
        }
        assert_eq!(taken(&changes, 1), [0, 2]);
        assert_eq!(taken(&changes, 1), []);
        changes.note(DestId(5), Watch::Usable);
        assert_eq!(taken(&changes, 1), [0]);
    }

    #[test]
    fn only_what_is_watched() {
        let changes = Changes::new(2, 8);
        let s = service(0, &[1]);
        changes.begin(&s, Watch::Nothing);
        for (watch, counts, usable) in [
            (Watch::Nothing, 0, 0),
            (Watch::Usable, 0, 1),
            (Watch::Counts, 1, 1),
        ] {
            follow(&changes, &s, &s, watch);
            changes.note(DestId(1), Watch::Counts);
            assert_eq!(taken(&changes, 0).len(), counts, "{watch:?}");
            changes.note(DestId(1), Watch::Usable);
            assert_eq!(taken(&changes, 0).len(), usable, "{watch:?}");
        }
    }

    #[test]
    fn a_destination_that_left_is_not_reported() {
        let changes = Changes::new(2, 8);
        let (old, new) = (service(0, &[1, 2]), service(0, &[2]));
        changes.begin(&old, Watch::Counts);
        changes.note(DestId(1), Watch::Counts);
        follow(&changes, &old, &new, Watch::Counts);
        changes.note(DestId(1), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        assert_eq!(taken(&changes, 0), [0]);
    }

    #[test]
    fn a_destination_that_moved_while_noted_reaches_its_new_service() {
        let changes = Changes::new(2, 8);
        changes.begin(&service(0, &[1, 2]), Watch::Counts);
        changes.note(DestId(1), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        changes.begin(&service(1, &[2]), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        assert_eq!(taken(&changes, 0), [1]);
        assert_eq!(taken(&changes, 1), [0]);
    }

    /// Whatever a list becomes, what was noted of a destination that stays is told at its new
    /// place, and what comes later too.
    #[test]
    fn places_after_a_change() {
        let old = [9, 8, 7, 6, 5, 4];
        for new in [
            vec![9, 8, 7, 6, 5, 4],
            vec![3, 9, 8, 7, 6, 5, 4],
            vec![9, 8, 6, 5, 4],
            vec![9, 8, 7, 3, 2, 6, 5, 4],
            vec![2, 3],
            vec![4, 5, 6, 7, 8, 9],
            vec![],
        ] {
            let changes = Changes::new(2, 16);
            // The fixture adds one after the other at the head.
            let list = |ids: &[u32]| service(0, &ids.iter().rev().copied().collect::<Vec<_>>());
            let (first, second) = (list(&old), list(&new));
            changes.begin(&first, Watch::Counts);
            let told = |noted: [u32; 3]| {
                for id in noted {
                    changes.note(DestId(id), Watch::Counts);
                }
                let place = |id| new.iter().position(|&n| n == id);
                let mut places: Vec<_> = noted.into_iter().filter_map(place).collect();
                places.sort_unstable();
                places
            };
            let noted = told([9, 7, 4]);
            follow(&changes, &first, &second, Watch::Counts);
            // Those that changed are looked at by the new scheduler, and need not be told of.
            let kept = second.destinations.kept_of(&first.destinations);
            let kept: Vec<_> = noted
                .into_iter()
                .filter(|&at| kept.was(at).is_some())
                .collect();
            let taken_first = taken(&changes, 0);
            assert!(kept.iter().all(|at| taken_first.contains(at)), "{new:?}");
            for noted in [[9, 8, 7], [6, 5, 4], [4, 3, 2]] {
                let expected = told(noted);
                assert_eq!(taken(&changes, 0), expected, "{new:?}");
            }
            // Elsewhere they are noted at once.
            let other = service(1, &[9, 7, 4]);
            changes.begin(&other, Watch::Counts);
            told([9, 7, 4]);
            assert_eq!(taken(&changes, 1), [0, 1, 2]);
        }
    }

    #[test]
    fn one_that_left_while_noted_is_noted_elsewhere() {
        let changes = Changes::new(2, 8);
        let (old, new) = (service(0, &[1, 2]), service(0, &[2]));
        changes.begin(&old, Watch::Counts);
        changes.note(DestId(1), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        follow(&changes, &old, &new, Watch::Counts);
        changes.begin(&service(1, &[1]), Watch::Counts);
        changes.note(DestId(1), Watch::Counts);
        assert_eq!(taken(&changes, 1), [0]);
        assert_eq!(taken(&changes, 0), [0]);
        changes.note(DestId(2), Watch::Counts);
        changes.end(&new);
        changes.begin(&service(1, &[2]), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        assert_eq!(taken(&changes, 1), [0]);
        assert_eq!(taken(&changes, 0), []);
    }
}
