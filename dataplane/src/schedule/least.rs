//! Schedulers that take the destination with the smallest load per weight, the first in the list
//! of equals: they differ in what they call the load. Each of several workers begins at another
//! place of the list where ratios are equal.

use super::tree::{Node, Tree};
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
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
    /// The position in the list that comes first where ratios are equal: another one on each
    /// worker, as all of them see the same ratios.
    first: usize,
    /// Of the list.
    len: usize,
}

impl Least {
    /// For the destinations of this service. Allocates.
    pub fn new(service: &VirtualService, rate: Rate, seat: Seat) -> Least {
        let len = service.destinations.len();
        Least {
            rate,
            tree: Tree::new(len),
            first: seat.start_of(len),
            len,
        }
    }

    /// Rates all destinations.
    pub fn fill(&mut self, service: &VirtualService, loads: Loads<'_>) {
        let best = |(i, d)| Best::of(i, (self.rate)(loads, d));
        let list = service.destinations.iter().enumerate();
        let (behind, from) = (list.clone().take(self.first), list.skip(self.first));
        self.tree.fill(from.chain(behind).map(best));
    }

    /// Rates one whose load changed.
    #[inline]
    pub fn update(&mut self, at: usize, dest: &Destination, loads: Loads<'_>) {
        let leaf = match at.checked_sub(self.first) {
            Some(leaf) => leaf,
            None => at + self.len - self.first,
        };
        self.tree.set(leaf, Best::of(at, (self.rate)(loads, dest)));
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
pub(super) fn new(
    name: &'static str,
    service: &VirtualService,
    rate: Rate,
    seat: Seat,
) -> Box<dyn Scheduler> {
    Box::new(LeastRated {
        name,
        least: Least::new(service, rate, seat),
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
