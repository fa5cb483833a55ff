//! wlc: weighted least connection (`ip_vs_wlc.c`): the smallest overhead per weight.

use super::{Loads, Scheduler};
use crate::flow::Flow;
use crate::service::VirtualService;

pub(super) const NAME: &str = "wlc";

pub(super) fn new() -> Box<dyn Scheduler> {
    Box::new(WeightedLeastConnection)
}

struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn refresh(&mut self, _: Option<&VirtualService>, _: &VirtualService) {}

    fn pick(&mut self, service: &VirtualService, loads: Loads<'_>, _: &Flow) -> Option<usize> {
        let mut best: Option<(usize, u64, u32)> = None;
        for (i, dest) in service.destinations.iter().enumerate() {
            if !loads.usable(dest) {
                continue;
            }
            let load = loads.overhead(dest);
            // load / weight < best_load / best_weight, without division; equals keep the first.
            let better = best.is_none_or(|(_, best_load, best_weight)| {
                u128::from(load) * u128::from(best_weight)
                    < u128::from(best_load) * u128::from(dest.weight)
            });
            if better {
                best = Some((i, load, dest.weight));
            }
        }
        best.map(|(i, ..)| i)
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn follows_the_weights() {
        let mut rig = Rig::new("wlc", &[(11, 1), (12, 2), (13, 3)]);
        assert_eq!(
            rig.picks(12),
            [13, 12, 11, 13, 12, 13, 13, 12, 11, 13, 12, 13]
        );
    }

    #[test]
    fn inactive_connections_count_too() {
        let mut rig = Rig::new("wlc", &[(11, 1), (12, 2)]);
        rig.load(12, 0, 4);
        rig.load(11, 0, 2);
        assert_eq!(rig.pick(), 12);
        rig.load(12, 0, 5);
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn unusable_destinations_are_passed_over() {
        let mut rig = Rig::new("wlc", &[(11, 1), (12, 0), (13, 1)]);
        rig.load(11, 5, 5);
        rig.overload(13, true);
        assert_eq!(rig.pick(), 11);
        rig.edit(11, 0);
        assert_eq!(rig.pick(), 0);
        rig.edit(12, u32::MAX);
        rig.load(12, u32::MAX, u32::MAX);
        assert_eq!(rig.pick(), 12);
    }
}
