//! lc: least connection (`ip_vs_lc.c`): the smallest overhead, the first in the list of equals.

use super::{Loads, Scheduler};
use crate::flow::Flow;
use crate::service::VirtualService;

pub(super) const NAME: &str = "lc";

pub(super) fn new() -> Box<dyn Scheduler> {
    Box::new(LeastConnection)
}

struct LeastConnection;

impl Scheduler for LeastConnection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn refresh(&mut self, _: Option<&VirtualService>, _: &VirtualService) {}

    fn pick(&mut self, service: &VirtualService, loads: Loads<'_>, _: &Flow) -> Option<usize> {
        let usable = service
            .destinations
            .iter()
            .enumerate()
            .filter(|(_, d)| loads.usable(d));
        // `min_by_key` keeps the first of equals.
        usable
            .min_by_key(|(_, d)| loads.overhead(d))
            .map(|(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn evens_out_and_breaks_ties_by_list_order() {
        let mut rig = Rig::new("lc", &[(11, 1), (12, 9), (13, 1)]);
        assert_eq!(rig.picks(6), [13, 12, 11, 13, 12, 11]);
    }

    #[test]
    fn one_active_outweighs_256_inactive() {
        let mut rig = Rig::new("lc", &[(11, 1), (12, 1)]);
        rig.load(12, 1, 1);
        rig.load(11, 0, 256);
        assert_eq!(rig.pick(), 11);
        rig.load(11, 0, 257);
        assert_eq!(rig.pick(), 12);
        rig.load(11, 0, 258);
        assert_eq!(rig.pick(), 12);
    }

    #[test]
    fn unusable_destinations_are_passed_over() {
        let mut rig = Rig::new("lc", &[(11, 1), (12, 0)]);
        assert_eq!(rig.pick(), 11);
        rig.overload(11, true);
        assert_eq!(rig.pick(), 0);
    }
}
