//! wrr: weighted round robin (`ip_vs_wrr.c`). Passes over the list with a falling bar: a pass
//! takes the destinations whose weight reaches the bar.

use super::positions::Positions;
use super::tree::Tree;
use super::usable::Usable;
use super::{Before, Loads, Predecessor, Request, Scheduler, Seat, Watch, gcd};
use crate::service::{DestId, Destination, Kept, VirtualService};

pub(super) const NAME: &str = "wrr";

/// Most steps that a walk is taken on by when it is made.
const STEPS: usize = 1 << 14;

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    let mut ends = vec![Weights::default(); service.destinations.len() + 1].into_boxed_slice();
    let mut walk = Walk::default();
    // The destinations of a new service count as added one by one, the oldest first.
    for (at, dest) in service.destinations.iter().enumerate().rev() {
        ends[at] = ends[at + 1].and(dest.weight);
        walk.change(ends[at]);
    }
    let before = |all: &mut Weights, dest: &Destination| {
        let here = *all;
        *all = all.and(dest.weight);
        Some(here)
    };
    let begins = service.destinations.iter();
    let begins = begins.scan(Weights::default(), before);
    if seat.worker > 0 {
        walk.go_on(service, ends[0], seat);
    }
    Box::new(WeightedRoundRobin {
        walk,
        is_first: seat.worker == 0,
        begins: begins.chain([ends[0]]).collect(),
        ends,
        usable: Usable::new(service),
        positions: Positions::new(service, |d| d.id),
    })
}

/// What the kernel computes from a list of weights.
#[derive(Clone, Copy, Default)]
struct Weights {
    gcd: u32,
    largest: u32,
}

impl Weights {
    fn and(self, weight: u32) -> Weights {
        self.with(Weights {
            gcd: weight,
            largest: weight,
        })
    }

    fn with(self, other: Weights) -> Weights {
        Weights {
            gcd: gcd(self.gcd, other.gcd),
            largest: self.largest.max(other.largest),
        }
    }
}

/// How far the passes have come.
#[derive(Clone, Copy, Default)]
struct Walk {
    /// Index behind the destination chosen last (`cl`), 0 at the head of the list.
    next: usize,
    /// Weight that a destination needs in this pass (`cw`).
    bar: i64,
    /// The bar of the first pass (`mw`): the largest weight, less `fall - 1`.
    top: i64,
    /// What the bar falls by between passes (`di`): gcd of the weights.
    fall: i64,
}

impl Walk {
    /// Back to the head of the list, with `top` and `step` of these weights.
    fn measure(&mut self, weights: Weights) {
        self.fall = i64::from(weights.gcd.max(1));
        self.top = i64::from(weights.largest) - (self.fall - 1);
        self.next = 0;
    }

    /// What the kernel does after each single change: the bar stays where it is as far as the
    /// new weights allow (`ip_vs_wrr_dest_changed`).
    fn change(&mut self, weights: Weights) {
        self.measure(weights);
        if self.bar > self.top || self.bar == 0 {
            self.bar = self.top;
        } else if self.fall > 1 {
            self.bar = self.bar / self.fall * self.fall + 1;
        }
    }

    /// To the next destination.
    #[inline]
    fn step(&mut self, weights: &Tree<u32>) -> Option<usize> {
        let reach = i64::from(weights.root());
        if self.top <= 0 {
            return None;
        }
        if reach == 0 {
            // In vain, but the search moves the cursor: back to where it was, if that was in the
            // last pass, or to the start of the next round.
            if self.next == 0 || self.bar > self.fall {
                (self.next, self.bar) = (0, self.top);
            }
            return None;
        }
        loop {
            if let Some(at) = weights.first(self.next, |w| i64::from(w) >= self.bar) {
                self.next = at + 1;
                return Some(at);
            }
            self.next = 0;
            self.bar -= self.fall;
            // Passes that nobody usable reaches are skipped at once: a heavy server that is
            // overloaded must not cost a pass for each unit of its weight.
            if self.bar > reach {
                self.bar -= (self.bar - reach + self.fall - 1) / self.fall * self.fall;
            }
            if self.bar <= 0 {
                self.bar = self.top;
            }
        }
    }

    /// To where one of several workers begins. Allocates.
    fn go_on(&mut self, service: &VirtualService, all: Weights, seat: Seat) {
        let weights = || service.destinations.iter().map(|d| d.weight);
        let step = u64::from(all.gcd.max(1));
        let round = weights().map(u64::from).sum::<u64>() / step;
        let steps = seat.start_of(round as usize);
        if steps > STEPS {
            // Not to the step, but in another pass than the others.
            let passes = i64::from(all.largest) / self.fall;
            self.bar = self.top - seat.start_of(passes as usize) as i64 * self.fall;
            return;
        }
        let mut tree = Tree::new(service.destinations.len());
        tree.fill(weights());
        for _ in 0..steps {
            self.step(&tree);
        }
    }
}

struct WeightedRoundRobin {
    walk: Walk,
    /// The walk is the kernel's to the step, as it is on the first worker or the only one.
    is_first: bool,
    /// Weights from each position to the end of the list.
    ends: Box<[Weights]>,
    /// Weights from the beginning of the list to before each position.
    begins: Box<[Weights]>,
    usable: Usable<u32>,
    positions: Positions<DestId>,
}

impl WeightedRoundRobin {
    /// The kernel sees changes one at a time and the bar depends on their order: deletions and
    /// edits in list order, then additions, oldest first.
    fn replay(
        &mut self,
        old: &WeightedRoundRobin,
        list: &VirtualService,
        new: &VirtualService,
        kept: Kept,
    ) {
        self.walk = old.walk;
        let now = |d: &Destination| {
            let at = self.positions.of(&d.id)?;
            new.destinations.get(at)
        };
        // Up to the one that changes the list is as it will be, behind it as it was.
        let gone = kept.gone();
        let mut done = self.begins.get(gone.start).copied().unwrap_or_default();
        let before = list.destinations.iter().zip(old.ends.iter().skip(1));
        for (dest, rest) in before.take(gone.end).skip(gone.start) {
            let same = now(dest);
            done = same.map_or(done, |d| done.and(d.weight));
            if same != Some(dest) {
                self.walk.change(done.with(*rest));
            }
        }
        let is_added = |d: &&Destination| old.positions.of(&d.id).is_none();
        let added = new.destinations.iter().take_while(is_added).count();
        for weights in self.ends.iter().take(added).rev() {
            self.walk.change(*weights);
        }
    }
}

impl Scheduler for WeightedRoundRobin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watch(&self) -> Watch {
        Watch::Usable
    }

    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    ) {
        let is_new = before.is_none();
        let before = before.and_then(Predecessor::same::<WeightedRoundRobin>);
        let Some(Before {
            service: list,
            scheduler: old,
            kept,
        }) = before
        else {
            self.usable.fill(service, loads);
            // The service changed to wrr (`ip_vs_wrr_init_svc`): begin at the top.
            if self.is_first && !is_new {
                self.walk
                    .measure(self.ends.first().copied().unwrap_or_default());
                self.walk.bar = self.walk.top;
            }
            return;
        };
        // The others begin again where they are apart from each other.
        if self.is_first {
            self.replay(old, list, service, kept);
        }
        self.usable.succeed(&mut old.usable, kept, service, loads);
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let weights = self.usable.catch_up(request.service, request.loads);
        self.walk.step(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn the_first_cycle_depends_on_the_order_of_additions() {
        let mut rig = Rig::new("wrr", &[(11, 1), (12, 2), (13, 3)]);
        assert_eq!(rig.picks(9), [13, 12, 11, 13, 13, 12, 13, 12, 11]);
        let mut rig = Rig::new("wrr", &[(11, 4), (12, 2), (13, 6)]);
        assert_eq!(
            rig.picks(12),
            [13, 12, 11, 13, 13, 11, 13, 12, 11, 13, 13, 11]
        );
    }

    #[test]
    fn adding_one_by_one_is_the_same_as_all_at_once() {
        let mut all = Rig::new("wrr", &[(11, 4), (12, 0), (13, 6), (14, 3)]);
        let mut one = Rig::new("wrr", &[]);
        for (number, weight) in [(11, 4), (12, 0), (13, 6), (14, 3)] {
            one.add(number, weight);
        }
        assert_eq!(all.picks(30), one.picks(30));
    }

    #[test]
    fn an_edit_starts_again_at_the_head() {
        let mut rig = Rig::new("wrr", &[(11, 3), (12, 3), (13, 0)]);
        assert_eq!(rig.picks(4), [12, 11, 12, 11]);
        rig.edit(13, 2);
        assert_eq!(rig.picks(9), [13, 12, 11, 12, 11, 13, 12, 11, 13]);
    }

    #[test]
    fn several_changes_at_once_are_replayed_in_order() {
        let mut rig = Rig::new("wrr", &[(11, 4), (12, 2), (13, 6)]);
        rig.picks(2);
        rig.delete(&[12, 13]);
        assert_eq!(rig.picks(2), [11, 11]);
        rig.delete(&[11]);
        assert_eq!(rig.picks(1), [0]);
        rig.add(14, 2);
        assert_eq!(rig.picks(2), [14, 14]);
    }

    #[test]
    fn a_heavy_unusable_server_costs_no_passes() {
        let mut rig = Rig::new("wrr", &[(11, 7), (12, 3_000_000_000)]);
        rig.overload(12, true);
        assert_eq!(rig.picks(1000), [11; 1000]);
    }

    #[test]
    fn nothing_usable_is_found_out() {
        let mut rig = Rig::new("wrr", &[(11, 3), (12, 5)]);
        rig.picks(3);
        rig.overload(11, true);
        rig.overload(12, true);
        assert_eq!(rig.picks(2), [0, 0]);
        rig.overload(11, false);
        assert_eq!(rig.picks(2), [11, 11]);
        rig.edit(11, 0);
        rig.edit(12, 0);
        assert_eq!(rig.picks(1), [0]);
    }
}
