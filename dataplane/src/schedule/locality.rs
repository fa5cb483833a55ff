//! What lblc and lblcr have in common: the choice when the cache is of no help, and whether a
//! cached destination is too busy.

use super::least::Least;
use super::positions::Positions;
use super::{Loads, Seat, wlc};
use crate::addr::Endpoint;
use crate::service::{Destination, Kept, VirtualService};

/// The loads of a service's destinations as lblc and lblcr look at them.
pub(super) struct Locality {
    least: Least,
    /// Destinations that do not reach half of their weight, by position.
    light: Box<[bool]>,
    lights: usize,
    positions: Positions<Endpoint>,
}

impl Locality {
    /// For the destinations of this service. Allocates.
    pub fn new(service: &VirtualService) -> Locality {
        Locality {
            // An address is to go to the same destination from everywhere.
            least: Least::new(service, wlc::rate, Seat::alone(0)),
            light: vec![false; service.destinations.len()].into_boxed_slice(),
            lights: 0,
            positions: Positions::new(service, |d| d.endpoint),
        }
    }

    /// Looks at all destinations.
    pub fn fill(&mut self, service: &VirtualService, loads: Loads<'_>) {
        self.least.fill(service, loads);
        for (at, dest) in service.destinations.iter().enumerate() {
            self.weigh(at, dest, loads);
        }
    }

    /// Takes over what is kept of the list before, and looks at the others.
    pub fn succeed(
        &mut self,
        old: &mut Locality,
        kept: Kept,
        service: &VirtualService,
        loads: Loads<'_>,
    ) {
        self.least.succeed(&mut old.least, kept, service, loads);
        let list = service.destinations.iter().enumerate();
        if kept.is_in_place() {
            core::mem::swap(&mut self.light, &mut old.light);
            self.lights = old.lights;
            let changed = kept.changed();
            for (at, dest) in list.take(changed.end).skip(changed.start) {
                self.weigh(at, dest, loads);
            }
            return;
        }
        for (at, dest) in list {
            match kept.was(at) {
                Some(was) => self.set_light(at, old.light.get(was).is_some_and(|light| *light)),
                None => self.weigh(at, dest, loads),
            }
        }
    }

    /// Looks at those that changed.
    pub fn catch_up(&mut self, service: &VirtualService, loads: Loads<'_>) {
        while let Some(at) = loads.next_changed() {
            if let Some(dest) = service.destinations.get(at) {
                self.least.update(at, dest, loads);
                self.weigh(at, dest, loads);
            }
        }
    }

    fn weigh(&mut self, at: usize, dest: &Destination, loads: Loads<'_>) {
        let is = 2 * u64::from(loads.active(dest)) < u64::from(dest.weight);
        self.set_light(at, is);
    }

    fn set_light(&mut self, at: usize, is: bool) {
        if let Some(was) = self.light.get_mut(at) {
            self.lights = self.lights + usize::from(is) - usize::from(*was);
            *was = is;
        }
    }

    /// The destination with the smallest overhead per weight.
    pub fn best(&self) -> Option<usize> {
        self.least.best()
    }

    /// Whether new connections had better go elsewhere: more active ones than its weight, while
    /// another has not half of its own (`is_overloaded`).
    pub fn is_busy(&self, dest: &Destination, loads: Loads<'_>) -> bool {
        loads.active(dest) > dest.weight && self.lights > 0
    }

    /// Position of a destination that is still, or again, part of the service.
    pub fn position(&self, endpoint: &Endpoint) -> Option<usize> {
        self.positions.of(endpoint)
    }
}
