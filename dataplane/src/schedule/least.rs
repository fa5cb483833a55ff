//! Schedulers that take the destination with the smallest load per weight, the first in the list
//! of equals: they differ in what they call the load. Each of several workers begins at another
//! place of the list where ratios are equal.

use super::tree::{Node, Tree};
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
use crate::service::{Destination, Kept, VirtualService};

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

    /// The same at another place of the list.
    fn moved(self, at: usize) -> Best {
        match self.weight {
            0 => Best::EMPTY,
            _ => Best {
                at: at as u32,
                ..self
            },
        }
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

    /// Takes over what is kept of the list before, and rates the others.
    pub fn succeed(
        &mut self,
        old: &mut Least,
        kept: Kept,
        service: &VirtualService,
        loads: Loads<'_>,
    ) {
        let list = service.destinations.iter().enumerate();
        if kept.is_in_place() && self.first == old.first {
            core::mem::swap(&mut self.tree, &mut old.tree);
            let changed = kept.changed();
            for (at, dest) in list.take(changed.end).skip(changed.start) {
                self.update(at, dest, loads);
            }
            return;
        }
        let best = |(at, dest)| match kept.was(at) {
            Some(was) => old.tree.leaf(old.leaf(was)).moved(at),
            None => Best::of(at, (self.rate)(loads, dest)),
        };
        let (behind, from) = (list.clone().take(self.first), list.skip(self.first));
        self.tree.fill(from.chain(behind).map(best));
    }

    /// Where in the tree a destination has its leaf.
    #[inline]
    fn leaf(&self, at: usize) -> usize {
        match at.checked_sub(self.first) {
            Some(leaf) => leaf,
            None => at + self.len - self.first,
        }
    }

    /// Rates one whose load changed.
    #[inline]
    pub fn update(&mut self, at: usize, dest: &Destination, loads: Loads<'_>) {
        let leaf = self.leaf(at);
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

    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    ) {
        let old = before.and_then(Predecessor::same::<LeastRated>);
        match old.filter(|old| old.scheduler.name == self.name) {
            Some(old) => {
                let least = &mut old.scheduler.least;
                self.least.succeed(least, old.kept, service, loads);
            }
            None => self.least.fill(service, loads),
        }
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        self.least.catch_up(request.service, request.loads);
        self.least.best()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::changes::Changes;
    use crate::counters::WorkerCounters;
    use crate::schedule::{fixture, wlc};

    proptest! {
        /// On each of several workers, the tree taken over is the one that a look at all gives.
        #[test]
        fn taken_over_as_looked_at(
            old in proptest::collection::vec(0u32..3, 0..12),
            edits in proptest::collection::vec((0usize..13, 0u32..3, 0u8..3), 0..4),
            worker in 0usize..3,
        ) {
            let (counters, changes) = (WorkerCounters::new(64), Changes::new(1, 64));
            for id in 0..64 {
                counters.dests[id].total.set(id as u32 * 7 % 5);
            }
            let added: Vec<_> = (1..).zip(old).collect();
            let before = fixture::service("wlc", &added);
            let mut service = before.clone();
            service.destinations.edit(|list| {
                for (n, (at, weight, what)) in (20..).zip(edits) {
                    let at = at.min(list.len());
                    match what {
                        0 => list.insert(at, fixture::dest(n, weight)),
                        _ if at == list.len() => {}
                        1 => drop(list.remove(at)),
                        _ => list[at].weight = weight,
                    }
                }
            });
            let seat = Seat { worker, workers: 3, seed: 1 };
            let loads = Loads::new(&counters, &changes, service.id);
            let [mut first, mut taken_over, mut looked_at] =
                [&before, &service, &service].map(|s| Least::new(s, wlc::rate, seat));
            first.fill(&before, loads);
            let kept = service.destinations.kept_of(&before.destinations);
            taken_over.succeed(&mut first, kept, &service, loads);
            looked_at.fill(&service, loads);
            for at in 0..service.destinations.len() {
                let leaf = |least: &Least| {
                    let leaf = least.tree.leaf(least.leaf(at));
                    (leaf.load, leaf.weight, leaf.at)
                };
                let (mine, other) = (leaf(&taken_over), leaf(&looked_at));
                prop_assert!(mine == other || (mine.1, other.1) == (0, 0));
            }
            prop_assert_eq!(taken_over.best(), looked_at.best());
        }
    }
}
