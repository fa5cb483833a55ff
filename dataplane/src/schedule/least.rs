//! Schedulers that take the destination with the smallest load per weight, the first in the list
//! of equals: they differ in what they call the load.

use super::tree::{Node, Tree};
use super::{Loads, Predecessor, Request, Scheduler, Watch};
use crate::service::{Destination, VirtualService};

/// A load and the weight it is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ratio {
    pub load: u64,
    /// Not 0.
    pub weight: u32,
}

impl Ratio {
    /// Load per weight, compared without division.
    #[inline]
    pub fn is_less(self, than: Ratio) -> bool {
        u128::from(self.load) * u128::from(than.weight)
            < u128::from(than.load) * u128::from(self.weight)
    }
}

/// What a scheduler calls the load of a destination; `None` when it takes no new connection.
pub(super) type Rate = fn(Loads<'_>, &Destination) -> Option<Ratio>;

/// The best of a stretch of the list. Weight 0 stands for none.
#[derive(Clone, Copy, PartialEq)]
struct Best {
    load: u64,
    weight: u32,
    at: u32,
}

impl Best {
    fn of(at: usize, ratio: Option<Ratio>) -> Best {
        ratio.map_or(Best::EMPTY, |Ratio { load, weight }| Best {
            load,
            weight,
            at: at as u32,
        })
    }

    fn ratio(self) -> Ratio {
        Ratio {
            load: self.load,
            weight: self.weight,
        }
    }
}

impl Node for Best {
    const EMPTY: Best = Best {
        load: 0,
        weight: 0,
        at: 0,
    };

    #[inline]
    fn join(first: Best, second: Best) -> Best {
        let better =
            second.weight != 0 && (first.weight == 0 || second.ratio().is_less(first.ratio()));
        if better { second } else { first }
    }
}

/// A tournament of all destinations of a service, kept up to date with their loads.
pub(super) struct Least {
    rate: Rate,
    tree: Tree<Best>,
}

impl Least {
    /// For the destinations of this service. Allocates.
    pub fn new(service: &VirtualService, rate: Rate) -> Least {
        Least {
            rate,
            tree: Tree::new(service.destinations.len()),
        }
    }

    /// Rates all destinations.
    pub fn fill(&mut self, service: &VirtualService, loads: Loads<'_>) {
        let best = |(i, d)| Best::of(i, (self.rate)(loads, d));
        self.tree
            .fill(service.destinations.iter().enumerate().map(best));
    }

    /// Rates one whose load changed.
    #[inline]
    pub fn update(&mut self, at: usize, dest: &Destination, loads: Loads<'_>) {
        self.tree.set(at, Best::of(at, (self.rate)(loads, dest)));
    }

    /// Rates all whose load changed.
    #[inline]
    pub fn catch_up(&mut self, service: &VirtualService, loads: Loads<'_>) {
        while let Some(at) = loads.next_changed() {
            if let Some(dest) = service.destinations.get(at) {
                self.update(at, dest, loads);
            }
        }
    }

    /// Index of the one with the smallest ratio.
    #[inline]
    pub fn best(&self) -> Option<usize> {
        let best = self.tree.root();
        (best.weight != 0).then_some(best.at as usize)
    }
}

/// A scheduler that is nothing but its rate.
pub(super) struct LeastRated {
    name: &'static str,
    least: Least,
}

/// A scheduler of this name and rate.
pub(super) fn new(name: &'static str, service: &VirtualService, rate: Rate) -> Box<dyn Scheduler> {
    Box::new(LeastRated {
        name,
        least: Least::new(service, rate),
    })
}

impl Scheduler for LeastRated {
    fn name(&self) -> &'static str {
        self.name
    }

    fn watch(&self) -> Watch {
        Watch::Counts
    }

    fn start(&mut self, service: &VirtualService, loads: Loads<'_>, _: Option<Predecessor<'_>>) {
        self.least.fill(service, loads);
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        self.least.catch_up(request.service, request.loads);
        self.least.best()
    }
}
