//! lc: least connection (`ip_vs_lc.c`): the smallest overhead, the first in the list of equals.

use super::least::{self, Ratio};
use super::{Loads, Scheduler, Seat};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "lc";

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    least::new(NAME, service, rate, seat)
}

fn rate(loads: Loads<'_>, dest: &Destination) -> Option<Ratio> {
    loads.usable(dest).then(|| Ratio {
        load: loads.overhead(dest),
        weight: 1,
    })
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
