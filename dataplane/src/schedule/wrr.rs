//! wrr: weighted round robin (`ip_vs_wrr.c`). Passes over the list with a falling bar: a pass
//! takes the destinations whose weight reaches the bar.

use super::{Loads, Scheduler};
use crate::flow::Flow;
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "wrr";

pub(super) fn new() -> Box<dyn Scheduler> {
    Box::new(WeightedRoundRobin {
        next: 0,
        bar: 0,
        top: 0,
        step: 1,
    })
}

struct WeightedRoundRobin {
    /// Index behind the destination chosen last (`cl`), 0 at the head of the list.
    next: usize,
    /// Weight that a destination needs in this pass (`cw`).
    bar: i64,
    /// The bar of the first pass (`mw`): the largest weight, less `step - 1`.
    top: i64,
    /// What the bar falls by between passes (`di`): gcd of the weights.
    step: i64,
}

impl WeightedRoundRobin {
    /// Back to the head of the list, with `top` and `step` of these weights.
    fn measure(&mut self, weights: impl Iterator<Item = u32> + Clone) {
        let gcd = weights.clone().fold(0, gcd);
        self.step = i64::from(gcd.max(1));
        self.top = i64::from(weights.max().unwrap_or(0)) - (self.step - 1);
        self.next = 0;
    }

    /// What the kernel does after each single change: the bar stays where it is as far as the
    /// new weights allow (`ip_vs_wrr_dest_changed`).
    fn change(&mut self, weights: impl Iterator<Item = u32> + Clone) {
        self.measure(weights);
        if self.bar > self.top || self.bar == 0 {
            self.bar = self.top;
        } else if self.step > 1 {
            self.bar = self.bar / self.step * self.step + 1;
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn find<'a>(service: &'a VirtualService, dest: &Destination) -> Option<&'a Destination> {
    service.destinations.iter().find(|d| d.id == dest.id)
}

impl Scheduler for WeightedRoundRobin {
    fn name(&self) -> &'static str {
        NAME
    }

    /// The kernel sees changes one at a time and the bar depends on their order, so a refresh
    /// with several changes replays them: deletions and edits in list order, then additions,
    /// oldest first. The replay costs the square of the list's length per refresh, which control
    /// does once for a new service; it allocates nothing.
    fn refresh(&mut self, old: Option<&VirtualService>, new: &VirtualService) {
        let added = match old {
            // The service changed to wrr (`ip_vs_wrr_init_svc`): begin at the top.
            Some(old) if old.scheduler != NAME => {
                self.measure(new.destinations.iter().map(|d| d.weight));
                self.bar = self.top;
                return;
            }
            Some(old) => {
                for (i, dest) in old.destinations.iter().enumerate() {
                    let now = find(new, dest);
                    if now == Some(dest) {
                        continue;
                    }
                    // Up to `i` the list is as it will be, behind it as it was.
                    let (done, todo) = old.destinations.split_at(i + 1);
                    let done = done.iter().filter_map(|d| find(new, d)).map(|d| d.weight);
                    self.change(done.chain(todo.iter().map(|d| d.weight)));
                }
                new.destinations
                    .iter()
                    .take_while(|d| find(old, d).is_none())
                    .count()
            }
            None => new.destinations.len(),
        };
        for first in (0..added).rev() {
            let list = new.destinations.get(first..).unwrap_or(&[]);
            self.change(list.iter().map(|d| d.weight));
        }
    }

    fn pick(&mut self, service: &VirtualService, loads: Loads<'_>, _: &Flow) -> Option<usize> {
        let dests = &service.destinations;
        if self.top <= 0 {
            return None;
        }
        let usable = || dests.iter().filter(|d| loads.usable(d));
        // A full round from the head down to the lowest bar sees every destination; what is
        // left of the round in progress comes before it.
        let mut full_round = self.next == 0 && self.bar == self.top;
        loop {
            let found = (self.next..dests.len()).find(|&i| {
                dests
                    .get(i)
                    .is_some_and(|d| loads.usable(d) && i64::from(d.weight) >= self.bar)
            });
            if let Some(i) = found {
                self.next = i + 1;
                return Some(i);
            }
            self.next = 0;
            self.bar -= self.step;
            // Passes that nobody usable reaches are skipped at once: a heavy server that is
            // overloaded must not cost a pass for each unit of its weight.
            let reach = usable().map(|d| i64::from(d.weight)).max().unwrap_or(0);
            if self.bar > reach {
                self.bar -= (self.bar - reach + self.step - 1) / self.step * self.step;
            }
            if self.bar <= 0 {
                self.bar = self.top;
                if full_round {
                    return None;
                }
                full_round = true;
            }
        }
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
