//! Which destinations changed since their service's scheduler last looked at their loads.
//!
//! Connections come, open, close and go without asking the scheduler; it catches up when it is
//! next asked for a choice. Each destination is noted once, however often it changed.

use core::cell::Cell;

use crate::service::{DestId, ServiceId, VirtualService};
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
#[derive(Clone)]
struct Place {
    service: Cell<u32>,
    at: Cell<u32>,
    next: Cell<u32>,
}

/// Destinations of one service that changed.
#[derive(Clone)]
struct Queue {
    first: Cell<u32>,
    watch: Cell<Watch>,
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
            at: Cell::new(0),
            next: Cell::new(IDLE),
        };
        let queue = Queue {
            first: Cell::new(END),
            watch: Cell::new(Watch::Nothing),
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

    /// Notes from now on what `watch` says of a service's destinations. Those of `old`, the
    /// service as it was, are forgotten.
    pub fn follow(&self, old: Option<&VirtualService>, new: Option<(&VirtualService, Watch)>) {
        if let Some(old) = old {
            while self.next(old.id).is_some() {}
            for dest in &old.destinations {
                if let Some(place) = self.places.get(dest.id.0 as usize)
                    && place.service.get() == old.id.0
                {
                    place.service.set(NO_SERVICE);
                }
            }
            if let Some(queue) = self.queues.get(old.id.0 as usize) {
                queue.watch.set(Watch::Nothing);
            }
        }
        let Some((service, watch)) = new else { return };
        if let Some(queue) = self.queues.get(service.id.0 as usize) {
            queue.watch.set(watch);
        }
        for (at, dest) in (0..).zip(&service.destinations) {
            if let Some(place) = self.places.get(dest.id.0 as usize) {
                place.service.set(service.id.0);
                place.at.set(at);
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
                return Some(place.at.get() as usize);
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

    fn taken(changes: &Changes, service: u32) -> Vec<usize> {
        let mut all: Vec<_> = core::iter::from_fn(|| changes.next(ServiceId(service))).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_is_noted_once_and_at_its_place() {
        let changes = Changes::new(2, 8);
        changes.follow(None, Some((&service(1, &[3, 4, 5]), Watch::Counts)));
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
        for (watch, counts, usable) in [
            (Watch::Nothing, 0, 0),
            (Watch::Usable, 0, 1),
            (Watch::Counts, 1, 1),
        ] {
            changes.follow(Some(&s), Some((&s, watch)));
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
        changes.follow(None, Some((&old, Watch::Counts)));
        changes.note(DestId(1), Watch::Counts);
        changes.follow(Some(&old), Some((&new, Watch::Counts)));
        changes.note(DestId(1), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        assert_eq!(taken(&changes, 0), [0]);
    }

    #[test]
    fn a_destination_that_moved_while_noted_reaches_its_new_service() {
        let changes = Changes::new(2, 8);
        changes.follow(None, Some((&service(0, &[1, 2]), Watch::Counts)));
        changes.note(DestId(1), Watch::Counts);
        changes.note(DestId(2), Watch::Counts);
        changes.follow(None, Some((&service(1, &[2]), Watch::Counts)));
        changes.note(DestId(2), Watch::Counts);
        assert_eq!(taken(&changes, 0), [1]);
        assert_eq!(taken(&changes, 1), [0]);
    }
}
